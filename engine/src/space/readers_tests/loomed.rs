//! The real `readers.rs` over loom's atomics and locks.

pub(crate) use crate::loomed as sync;
#[allow(clippy::duplicate_mod, reason = "once with the machine's atomics, once with loom's")]
#[path = "../readers.rs"]
pub mod readers;
