//! The whole engine on a simulated device, driven by a small client that checks it.
#![expect(clippy::cast_possible_truncation, reason = "tests compute with small numbers")]

mod cleaning;
pub(crate) mod client;
mod crash;
mod faults;
mod sharing;
mod space;
mod threads;
