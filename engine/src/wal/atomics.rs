//! The atomics that the staging ring is made of, as a parameter: the machine's in a store, a model checker's in its tests.
//!
//! Orderings are fixed here, so that a model checks those that run: a load acquires, a store or change releases, and `relaxed` is for words that
//! another word publishes.

#[cfg(feature = "models")]
use crate::sync::AtomicU128;
use crate::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(feature = "models"))]
use portable_atomic::AtomicU128;

/// 64 bits.
pub(super) trait Word: Send + Sync {
    fn new(value: u64) -> Self;
    fn load(&self) -> u64;
    fn store(&self, value: u64);
    fn load_relaxed(&self) -> u64;
    fn store_relaxed(&self, value: u64);
    /// Returns what it was.
    fn add(&self, by: u64) -> u64;
    /// Returns what it was.
    fn sub(&self, by: u64) -> u64;
    /// Returns what it was.
    fn set_bits(&self, bits: u64) -> u64;
    /// Returns what it was.
    fn clear_bits(&self, bits: u64) -> u64;
}

/// 128 bits that change together.
pub(super) trait Wide: Send + Sync {
    fn new(value: u128) -> Self;
    fn load(&self) -> u128;
    /// Replaces `current` by `new`, or says what it is; may fail without reason.
    fn replace(&self, current: u128, new: u128) -> Result<(), u128>;
}

/// Whose atomics.
pub(super) trait Atomics: 'static {
    type Word: Word;
    type Wide: Wide;
}

/// The machine's.
#[derive(Debug)]
pub(super) struct Machine;

impl Atomics for Machine {
    type Word = AtomicU64;
    type Wide = AtomicU128;
}

impl Word for AtomicU64 {
    fn new(value: u64) -> Self {
        Self::new(value)
    }
    fn load(&self) -> u64 {
        self.load(Ordering::Acquire)
    }
    fn store(&self, value: u64) {
        self.store(value, Ordering::Release);
    }
    fn load_relaxed(&self) -> u64 {
        self.load(Ordering::Relaxed)
    }
    fn store_relaxed(&self, value: u64) {
        self.store(value, Ordering::Relaxed);
    }
    fn add(&self, by: u64) -> u64 {
        self.fetch_add(by, Ordering::AcqRel)
    }
    fn sub(&self, by: u64) -> u64 {
        self.fetch_sub(by, Ordering::AcqRel)
    }
    fn set_bits(&self, bits: u64) -> u64 {
        self.fetch_or(bits, Ordering::AcqRel)
    }
    fn clear_bits(&self, bits: u64) -> u64 {
        self.fetch_and(!bits, Ordering::AcqRel)
    }
}

impl Wide for AtomicU128 {
    fn new(value: u128) -> Self {
        Self::new(value)
    }
    fn load(&self) -> u128 {
        self.load(Ordering::Acquire)
    }
    fn replace(&self, current: u128, new: u128) -> Result<(), u128> {
        self.compare_exchange_weak(current, new, Ordering::AcqRel, Ordering::Acquire).map(|_| ())
    }
}
