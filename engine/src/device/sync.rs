//! The locks of tickets, in a form that a model checker's locks can take too: `ticket_tests.rs` compiles `ticket.rs` a second time with loom's.

use crate::sync::MutexGuard;

pub(super) use crate::sync::Mutex;
pub(super) use std::sync::Arc;

/// A condition whose wait takes the guard and gives it back.
pub(super) struct Condvar(crate::sync::Condvar);

impl Condvar {
    pub(super) fn new() -> Condvar {
        Condvar(crate::sync::Condvar::new())
    }

    pub(super) fn wait<'a, T>(&self, mut guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.0.wait(&mut guard);
        guard
    }

    pub(super) fn notify_all(&self) {
        self.0.notify_all();
    }
}
