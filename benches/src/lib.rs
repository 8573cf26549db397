//! What the micro-benchmarks and the probes of `cargo xtask bench-store` share: scratch stores, a tree on one, and the clock.

pub mod probe;
pub mod scratch;
pub mod tree;

use std::time::Instant;

/// The moment.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
pub fn now() -> Instant {
    Instant::now()
}
