//! What [`super::line`] needs of threads, in a form that a model checker's can take too: its tests compile `line.rs` a second time with loom's.

pub(super) use std::sync::Arc;
pub(super) use std::sync::atomic::{AtomicU32, Ordering};
pub(super) use std::thread::{Thread, current, park};
