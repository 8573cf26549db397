//! Checking, repairing and rebuilding stores that are not mounted, on the simulated device. [`fsck_bench`] has what these share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]

mod beside;
#[path = "../../../namespace/tests/common/mod.rs"]
mod common;
mod deep;
mod findings;
mod foreign;
#[path = "../fsck_bench/mod.rs"]
mod fsck_bench;
mod history;
mod hostile;
mod kept;
mod lost;
mod mark;
mod numbers;
mod planted;
mod rebuild;
mod repair;
mod unknown;
mod unrecorded;
