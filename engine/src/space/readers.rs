//! Pins of readers: two counters. A container is reused only when every reader that may have looked its place up before has left (INV-13).
//! A reader that may take its time looks at the epoch before and after instead, and reads again if it has changed.

use super::sync::atomic::{AtomicU64, Ordering};
use super::sync::{Condvar, Mutex};
use crate::mutant::{self, Mutant};
use crate::sabotage::{self, Rule};
use std::time::Duration;

/// Readers of the present epoch and of the one before.
#[derive(Default)]
pub struct Readers {
    pub(super) epoch: AtomicU64,
    even: AtomicU64,
    odd: AtomicU64,
    lock: Mutex<()>,
    left: Condvar,
}

/// A reader; leaves when dropped.
pub struct Reading<'a> {
    readers: &'a Readers,
    epoch: u64,
}

impl Readers {
    const fn counter(&self, epoch: u64) -> &AtomicU64 {
        if epoch.is_multiple_of(2) { &self.even } else { &self.odd }
    }

    /// Enters: places looked up from now on stay what they are until the guard is dropped.
    #[must_use]
    pub fn enter(&self) -> Reading<'_> {
        loop {
            let epoch = self.epoch.load(Ordering::SeqCst);
            self.counter(epoch).fetch_add(1, Ordering::SeqCst);
            if self.epoch.load(Ordering::SeqCst) == epoch || mutant::on(Mutant::ReaderLooksOnce) {
                return Reading { readers: self, epoch };
            }
            self.leave(epoch);
        }
    }

    /// For a read that holds nothing up: a place looked up after this call was not reused as long as the epoch is the
    /// same when the bytes have arrived.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    fn leave(&self, epoch: u64) {
        if self.counter(epoch).fetch_sub(1, Ordering::SeqCst) == 1 && self.epoch.load(Ordering::SeqCst) != epoch {
            if !mutant::on(Mutant::ReaderLeavesWithoutLock) {
                drop(self.lock.lock());
            }
            self.left.notify_all();
        }
    }

    /// Waits until all that entered before this call have left. One caller at a time, and no reader.
    pub fn wait_for_earlier(&self) {
        if sabotage::on(Rule::ReaderPinsIgnored) {
            return;
        }
        let late = mutant::on(Mutant::EpochRaisedLate);
        let epoch = if late { self.epoch.load(Ordering::SeqCst) } else { self.epoch.fetch_add(1, Ordering::SeqCst) };
        let mut lock = self.lock.lock();
        while self.counter(epoch).load(Ordering::SeqCst) != 0 && !mutant::on(Mutant::ReadersNotWaitedFor) {
            self.left.wait_for(&mut lock, Duration::from_millis(20));
        }
        if late {
            self.epoch.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.readers.leave(self.epoch);
    }
}
