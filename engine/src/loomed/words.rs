//! Words whose accesses are all interleaved, and sequentially consistent when they say so.

use loom::sync::atomic::{Ordering, fence};

/// Loom takes a sequentially consistent access for one that acquires and releases; fences it knows.
fn ordered<T>(ordering: Ordering, access: impl FnOnce() -> T) -> T {
    if ordering != Ordering::SeqCst {
        return access();
    }
    fence(Ordering::SeqCst);
    let value = access();
    fence(Ordering::SeqCst);
    value
}

macro_rules! word {
    ($name:ident, $of:ident, $value:ty) => {
        pub(crate) struct $name {
            word: loom::sync::atomic::$of,
            turn: loom::sync::atomic::AtomicU64,
        }

        impl $name {
            pub(crate) fn new(value: $value) -> Self {
                Self { word: loom::sync::atomic::$of::new(value), turn: loom::sync::atomic::AtomicU64::new(0) }
            }
            fn turn(&self) -> &loom::sync::atomic::$of {
                self.turn.fetch_add(1, Ordering::Relaxed);
                &self.word
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new(<$value>::default())
            }
        }
    };
}

word!(AtomicU64, AtomicU64, u64);

impl AtomicU64 {
    pub(crate) fn store(&self, value: u64, ordering: Ordering) {
        ordered(ordering, || self.turn().store(value, ordering));
    }
    pub(crate) fn load(&self, ordering: Ordering) -> u64 {
        ordered(ordering, || self.turn().load(ordering))
    }
    pub(crate) fn fetch_add(&self, by: u64, ordering: Ordering) -> u64 {
        ordered(ordering, || self.turn().fetch_add(by, ordering))
    }
    pub(crate) fn fetch_sub(&self, by: u64, ordering: Ordering) -> u64 {
        ordered(ordering, || self.turn().fetch_sub(by, ordering))
    }
    pub(crate) fn fetch_or(&self, bits: u64, ordering: Ordering) -> u64 {
        ordered(ordering, || self.turn().fetch_or(bits, ordering))
    }
    pub(crate) fn fetch_and(&self, bits: u64, ordering: Ordering) -> u64 {
        ordered(ordering, || self.turn().fetch_and(bits, ordering))
    }
    pub(crate) fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        ordered(success, || self.turn().compare_exchange(current, new, success, failure))
    }
}
