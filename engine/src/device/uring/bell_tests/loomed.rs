//! The real `bell.rs` over loom's atomics.

pub(crate) use crate::loomed as sync;
#[allow(clippy::duplicate_mod, reason = "once with the machine's atomics, once with loom's")]
#[path = "../bell.rs"]
pub mod bell;
