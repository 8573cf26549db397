//! A ring for each thread and device.
//!
//! The thread owns its rings through a thread-local list and they end with it; the device knows them weakly and ends them when it is dropped, so that a long-lived thread does not keep a
//! closed device open. A ring has one issuer, so nothing here is contended.

use super::super::{BufferPool, DeviceError};
use super::open::Opened;
use super::ring::Ring;
use parking_lot::Mutex;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// The ring of one thread on one device; `None` once the device is gone. Only its own thread submits.
pub(super) type ThreadRing = Mutex<Option<Ring>>;

thread_local! {
    static RINGS: RefCell<Vec<(u64, Arc<ThreadRing>)>> = const { RefCell::new(Vec::new()) };
}

/// The rings of one kind on one device.
pub(super) struct ThreadRings {
    /// Never reused, unlike an address.
    number: u64,
    entries: u32,
    opened: Arc<Opened>,
    pool: BufferPool,
    all: Mutex<Vec<Weak<ThreadRing>>>,
}

impl ThreadRings {
    /// Rings with so many entries; those of a pool with an arena have it registered.
    pub(super) fn new(entries: u32, opened: Arc<Opened>, pool: BufferPool) -> ThreadRings {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        ThreadRings { number, entries, opened, pool, all: Mutex::new(Vec::new()) }
    }

    /// The ring of the calling thread, made now if it has none yet.
    pub(super) fn own(&self) -> Result<Arc<ThreadRing>, DeviceError> {
        let known = RINGS.try_with(|rings| {
            let rings = rings.borrow();
            rings.iter().find(|(number, _)| *number == self.number).map(|(_, ring)| Arc::clone(ring))
        });
        if let Ok(Some(ring)) = known {
            return Ok(ring);
        }
        let ring = Arc::new(Mutex::new(Some(Ring::new(self.entries, &self.opened, &self.pool)?)));
        // A thread that is ending has no list any more: the ring then serves this one time.
        let kept = RINGS.try_with(|rings| {
            let mut rings = rings.borrow_mut();
            // A ring that is locked is in use further up on this thread's stack.
            rings.retain(|(_, ring)| ring.try_lock().is_none_or(|ring| ring.is_some()));
            rings.push((self.number, Arc::clone(&ring)));
        });
        if kept.is_ok() {
            let mut all = self.all.lock();
            all.retain(|ring| ring.strong_count() > 0);
            all.push(Arc::downgrade(&ring));
        }
        Ok(ring)
    }

    /// Rings that exist.
    #[cfg(test)]
    pub(super) fn live(&self) -> usize {
        self.all.lock().iter().filter(|ring| ring.strong_count() > 0).count()
    }
}

impl Drop for ThreadRings {
    fn drop(&mut self) {
        for ring in self.all.lock().drain(..) {
            if let Some(ring) = ring.upgrade() {
                // Nothing is under way: that would hold a reference to the device.
                drop(ring.lock().take());
            }
        }
    }
}
