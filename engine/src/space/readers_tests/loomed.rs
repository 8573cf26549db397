//! The real `readers.rs` and `pins.rs` over loom's atomics and locks.

pub(crate) use crate::loomed as sync;
#[allow(clippy::duplicate_mod, reason = "once with the machine's atomics, once with loom's")]
#[allow(dead_code, reason = "the model needs a part of it")]
#[path = "../pins.rs"]
pub mod pins;
#[allow(clippy::duplicate_mod, reason = "once with the machine's atomics, once with loom's")]
#[path = "../readers.rs"]
pub mod readers;
