//! Power cuts and dead processes under the whole stack: namespace over engine over a device, judged by what was acknowledged and by the checker.
//!
//! ```text
//! history on a device -> cut at an IO: each write that no flush covers is kept, dropped, torn, reordered -> Engine::open, Namespace::open
//!   -> the tree is what it was after some operation, none that was acknowledged is missing -> close -> fsck finds nothing
//! ```
//! Shows: INV-17 to INV-22, INV-37, INV-38 end to end, and INV-13 (space is not reused too early) by data that still verifies. `script`: one written history, cut at every IO.
//! `histories`: random ones, many cuts each. `recorded`: real threads and io_uring, cut anywhere in the log of the device. What is compared is everything that a front end
//! can see: names, contents, times, link counts, attributes, identities.
//!
//! A longer run: `cargo xtask crash --seeds N`. A seed is replayed with `CRASH_SEED=n CRASH_SEEDS=1 cargo test -p envoyfs-tools --test crash`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may panic, and computes with small numbers"
)]

#[path = "../../../namespace/tests/common/mod.rs"]
mod common;
mod histories;
mod operations;
mod recorded;
mod script;
mod stack;

/// First seed and how many: of a longer run, one in `share`.
fn seeds(default: u64, share: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let first = number("CRASH_SEED").unwrap_or(0);
    let count = number("CRASH_SEEDS").map_or(default, |count| count.div_ceil(share));
    first..first + count
}
