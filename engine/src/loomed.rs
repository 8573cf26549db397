//! Loom's atomics and locks in the form in which the engine's own code takes them, for models of that very code.
//!
//! Loom 0.7 explores too little when a thread loads and then changes the same atomic (its issues 166 and 392: it remembers one access of a word, and loads hide each other): a
//! framer that loads the head, and appenders that load it and then compare and swap, were never interleaved, so that every model passed whatever was broken. Hence each access
//! here is preceded by a relaxed change of a word beside it, the *turn*: any two accesses then depend on each other, the last one is the one to look at, and nothing is
//! synchronised by it.

use atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// As `std::sync::atomic`.
pub(crate) mod atomic {
    pub(crate) use super::words::AtomicU64;
    pub(crate) use loom::sync::atomic::Ordering;
}

/// As parking_lot's. Its own order of locking is loom's.
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);
pub(crate) struct MutexGuard<'a, T>(Option<loom::sync::MutexGuard<'a, T>>);
pub(crate) struct Condvar(loom::sync::Condvar);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().unwrap()))
    }
}

impl<T> std::ops::Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.0.as_ref().unwrap()
    }
}

impl<T> std::ops::DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().unwrap()
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl Condvar {
    /// Without the timeout: whoever waits must be told.
    pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _: Duration) {
        guard.0 = guard.0.take().map(|held| self.0.wait(held).unwrap());
    }
    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

impl Default for Condvar {
    fn default() -> Self {
        Self(loom::sync::Condvar::new())
    }
}

mod words;

/// Runs every execution with so many preemptions at most.
pub(crate) fn model(preemptions: usize, check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(check);
}

/// What the models rest on: that loom shows what is allowed, and nothing else.
mod tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    /// What main saw in two words that a thread wrote one after the other.
    fn seen(publish: Ordering, acquire: Ordering) -> BTreeSet<(u64, u64)> {
        let outcomes = std::sync::Arc::new(Mutex::new(BTreeSet::new()));
        let collected = std::sync::Arc::clone(&outcomes);
        model(3, move || {
            let words = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
            let writer = {
                let words = Arc::clone(&words);
                thread::spawn(move || {
                    // Loads before changes are what hides the other thread from loom.
                    let _ = (words.0.load(Ordering::Relaxed), words.1.load(Ordering::Relaxed));
                    words.0.fetch_add(1, Ordering::Relaxed);
                    words.1.store(1, publish);
                })
            };
            let flag = words.1.load(acquire);
            let seen = (words.0.load(Ordering::Relaxed), flag);
            collected.lock().unwrap().insert(seen);
            writer.join().unwrap();
        });
        let outcomes = outcomes.lock().unwrap();
        outcomes.clone()
    }

    #[test]
    fn a_model_shows_every_outcome_that_the_orderings_allow_and_no_other() {
        let ordered = BTreeSet::from([(0, 0), (1, 0), (1, 1)]);
        assert_eq!(seen(Ordering::Release, Ordering::Acquire), ordered);
        let mut all = ordered;
        all.insert((0, 1));
        assert_eq!(seen(Ordering::Release, Ordering::Relaxed), all);
        assert_eq!(seen(Ordering::Relaxed, Ordering::Acquire), all);
    }
}
