//! Reads: a ring for each reading thread and device.
//!
//! The thread owns its rings through a thread-local list and they end with it; the device knows them weakly and
//! ends them when it is dropped, so that a long-lived thread does not keep a closed device open.

use super::super::{AlignedBuf, BufferPool, DeviceError, Operation, widen};
use super::open::{Opened, errno_of};
use super::ring::Ring;
use parking_lot::Mutex;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// A thread reads one thing at a time; the ring needs no more.
const READ_RING_ENTRIES: u32 = 2;

/// The ring of one thread on one device; `None` once the device is gone. Only its own thread submits, so that the lock
/// is never contended.
type ThreadRing = Mutex<Option<Ring>>;

thread_local! {
    static RINGS: RefCell<Vec<(u64, Arc<ThreadRing>)>> = const { RefCell::new(Vec::new()) };
}

pub(super) struct ReadRings {
    /// Never reused, unlike an address.
    device: u64,
    opened: Arc<Opened>,
    pool: BufferPool,
    all: Mutex<Vec<Weak<ThreadRing>>>,
}

impl ReadRings {
    pub(super) fn new(opened: Arc<Opened>, pool: BufferPool) -> ReadRings {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let device = NEXT.fetch_add(1, Ordering::Relaxed);
        ReadRings { device, opened, pool, all: Mutex::new(Vec::new()) }
    }

    /// Makes the ring of this thread.
    pub(super) fn prepare(&self) -> Result<(), DeviceError> {
        self.ring().map(|_| ())
    }

    /// Fills `into`; alignment and bounds are checked by the caller.
    pub(super) fn read(&self, offset: u64, into: &mut AlignedBuf) -> Result<(), DeviceError> {
        let ring = self.ring()?;
        let mut ring = ring.lock();
        let Some(ring) = ring.as_mut() else { return Err(DeviceError::Closed) };
        let (length, registered) = (into.len(), ring.has_registered(into));
        let mut done = 0;
        while done < length {
            let at = offset + widen(done);
            let rest = length - done;
            // SAFETY: `done < length`, so the sum stays inside the buffer.
            let start = unsafe { into.as_mut_ptr().add(done) };
            let entry = ring.read(registered, start, rest, at);
            let failed = |errno| DeviceError::Io { operation: Operation::Read, offset: at, length: widen(rest), errno };
            // SAFETY: `into` is borrowed mutably until this function returns, and `complete_one` does not return
            // while the kernel may still write to it.
            match unsafe { complete_one(ring, &entry) }.map_err(failed)? {
                0 => {
                    let (operation, size) = (Operation::Read, at);
                    return Err(DeviceError::ShortDevice { operation, offset, length: widen(length), size });
                }
                count if count > 0 => done += usize::try_from(count).unwrap_or(0),
                error if matches!(-error, libc::EINTR | libc::EAGAIN) => {}
                error => return Err(failed(-error)),
            }
        }
        Ok(())
    }

    /// Rings that exist.
    #[cfg(test)]
    pub(super) fn live(&self) -> usize {
        self.all.lock().iter().filter(|ring| ring.strong_count() > 0).count()
    }

    fn ring(&self) -> Result<Arc<ThreadRing>, DeviceError> {
        let known = RINGS.try_with(|rings| {
            let rings = rings.borrow();
            rings.iter().find(|(device, _)| *device == self.device).map(|(_, ring)| Arc::clone(ring))
        });
        if let Ok(Some(ring)) = known {
            return Ok(ring);
        }
        let ring = Arc::new(Mutex::new(Some(Ring::new(READ_RING_ENTRIES, &self.opened, &self.pool)?)));
        // A thread that is ending has no list any more: the ring then serves this one read.
        let kept = RINGS.try_with(|rings| {
            let mut rings = rings.borrow_mut();
            rings.retain(|(_, ring)| ring.lock().is_some());
            rings.push((self.device, Arc::clone(&ring)));
        });
        if kept.is_ok() {
            let mut all = self.all.lock();
            all.retain(|ring| ring.strong_count() > 0);
            all.push(Arc::downgrade(&ring));
        }
        Ok(ring)
    }
}

impl Drop for ReadRings {
    fn drop(&mut self) {
        for ring in self.all.lock().drain(..) {
            if let Some(ring) = ring.upgrade() {
                // No read is under way: it would hold a reference to the device.
                drop(ring.lock().take());
            }
        }
    }
}

/// Submits one entry to an idle ring and waits for it; the result is the kernel's (negative: error number).
/// `Err` only if the entry never reached the kernel.
///
/// # Safety
/// The memory that the entry names is valid until this returns.
unsafe fn complete_one(ring: &mut Ring, entry: &io_uring::squeue::Entry) -> Result<i32, i32> {
    // SAFETY: the memory is valid until the completion is seen below (caller).
    if unsafe { ring.uring.submission().push(entry) }.is_err() {
        return Err(libc::EBUSY);
    }
    let mut failures = 0_u32;
    loop {
        let outcome = ring.uring.submit_and_wait(1);
        if let Some(completion) = ring.uring.completion().next() {
            return Ok(completion.result());
        }
        if let Err(error) = outcome
            && !matches!(errno_of(&error), libc::EINTR | libc::EAGAIN | libc::EBUSY)
        {
            failures += 1;
            if failures > 100 {
                // The kernel may still write to the buffer and does not say when it is done: there is no return from
                // here that keeps memory safe. A crash is recoverable, wrong bytes are not.
                tracing::error!(%error, "a ring with a read under way cannot be entered");
                std::process::abort();
            }
        }
    }
}
