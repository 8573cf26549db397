//! The real `line.rs` over loom's threads.

pub mod sync {
    pub use loom::sync::Arc;
    pub use loom::sync::atomic::{AtomicU32, Ordering};
    pub use loom::thread::{Thread, current, park};
}
#[path = "../../line.rs"]
#[expect(dead_code, reason = "the model uses part of it")]
pub mod line;
