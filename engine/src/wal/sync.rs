//! What [`super::line`] needs of threads, in a form that a model checker's can take too: its tests compile `line.rs` a second time with loom's.

pub(super) use crate::sync::atomic::{AtomicU32, Ordering};
pub(super) use crate::sync::thread::{Thread, current, park};
pub(super) use std::sync::Arc;
