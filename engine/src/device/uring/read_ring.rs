//! Reads that block: each is one `io_uring_enter` on the calling thread's own ring, without a hand-over to another thread.

use super::super::{AlignedBuf, BufferPool, DeviceError, Operation, widen};
use super::open::{Opened, errno_of};
use super::ring::Ring;
use super::thread_rings::ThreadRings;
use std::sync::Arc;

/// A thread reads one thing at a time; the ring needs no more.
const READ_RING_ENTRIES: u32 = 2;

pub(super) struct ReadRings {
    rings: ThreadRings,
}

impl ReadRings {
    pub(super) fn new(opened: Arc<Opened>, pool: BufferPool) -> ReadRings {
        ReadRings { rings: ThreadRings::new(READ_RING_ENTRIES, opened, pool) }
    }

    /// Makes the ring of this thread.
    pub(super) fn prepare(&self) -> Result<(), DeviceError> {
        self.rings.own().map(|_| ())
    }

    /// Fills `into`; alignment and bounds are checked by the caller.
    pub(super) fn read(&self, offset: u64, into: &mut AlignedBuf) -> Result<(), DeviceError> {
        let ring = self.rings.own()?;
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
        self.rings.live()
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
        let outcome = ring.enter(1);
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
