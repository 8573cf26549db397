//! A block device or image file through `io_uring`, with direct IO.
//!
//! - *Reads*: every reading thread has a ring of its own on the device, made at its first read. A read is one
//!   `io_uring_enter`, without a hand-over to another thread.
//! - *Reads, many at a time*: a queue with a ring of its own for the thread that asked for it.
//! - *Writes*: one thread owns the write ring. `submit` puts the write into its queue and wakes it when it sleeps; it
//!   submits whatever has gathered in one call, small neighbours joined, and settles tickets in the order of completion.
//! - *Lazy writes* are held until somebody waits for one of them, who writes all of them with a ring of his own.
//! - *Flush*: `fdatasync(2)` by the caller. (`IORING_OP_FSYNC` would do the same on a kernel worker thread: a hand-over
//!   more.) It covers every write whose completion the write thread has seen.
//! - *Durable writes*: `RWF_DSYNC`: forced unit access where the device has it and the write is one request on a block
//!   device, else the kernel flushes after it, on a worker thread.
//! - *Claim*: the exclusive lock (`O_EXCL` on block devices, `flock` on files) is on a descriptor of its own and ends with
//!   the drop or the process. A second lock, on the IO descriptor, lasts as long as the kernel has writes: see `in_flight`.
//!
//! If power fails here: nothing is kept in this layer; see the module above for what a device may lose.
//!
//! After a failed flush (or durable write, on a file) this device refuses writes and flushes for good: Linux reports a lost write back once, and a
//! second `fdatasync` would succeed without it.

mod bell;
#[cfg(test)]
mod bell_tests;
mod held;
mod in_flight;
#[cfg(test)]
mod in_flight_tests;
mod joined;
mod near;
mod open;
mod patience;
mod read_queue;
mod read_ring;
mod ring;
mod thread_rings;
mod write_ring;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod tests;

pub use in_flight::wait_for_writes_in_flight;
pub use open::{OpenMode, geometry};

use super::{AlignedBuf, BufferPool, Device, DeviceError, DeviceReads, Geometry, Operation, Ticket, Write, WriteCache};
use super::{check_range, check_write, widen};
use crate::sync;
use held::{Held, OwnRing};
use in_flight::InFlightLock;
use open::Opened;
use parking_lot::Mutex;
use read_queue::ReadQueue;
use read_ring::ReadRings;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use write_ring::WriteRing;

/// A block device or image file. Dropping it waits for the writes under way.
pub struct UringDevice {
    path: PathBuf,
    geometry: Geometry,
    mode: OpenMode,
    memory_alignment: usize,
    pool: BufferPool,
    reads: ReadRings,
    /// `None` when read-only.
    writes: Option<WriteRing>,
    /// As `writes`.
    held: Option<Arc<Held>>,
    flush_failed: Arc<AtomicBool>,
    /// Held by a flush of a file from before its error report is taken until `flush_failed` says so.
    reports: Mutex<()>,
    opened: Arc<Opened>,
    /// After everything above, so that no write is under way; `None` when read-only.
    _in_flight: Option<InFlightLock>,
    /// Last; the write thread has the other reference.
    _claim: Option<Arc<File>>,
}

impl UringDevice {
    /// Opens a block device or a regular file, with a buffer pool of its own (32 MiB, taken as used). With `exclusive`,
    /// a second exclusive open fails.
    ///
    /// # Errors
    /// [`DeviceError::InUse`], [`DeviceError::StillWriting`] after a minute, [`DeviceError::UringUnavailable`], [`DeviceError::Open`].
    pub fn open(path: impl AsRef<Path>, mode: OpenMode, exclusive: bool) -> Result<UringDevice, DeviceError> {
        Self::open_with_pool(path, mode, exclusive, BufferPool::default())
    }

    /// As [`UringDevice::open`], with the caller's pool. Only buffers of this pool use registered memory.
    ///
    /// # Errors
    /// As [`UringDevice::open`].
    pub fn open_with_pool(
        path: impl AsRef<Path>,
        mode: OpenMode,
        exclusive: bool,
        pool: BufferPool,
    ) -> Result<UringDevice, DeviceError> {
        let path = path.as_ref();
        let (opened, claim) = open::open(path, mode, exclusive)?;
        let (opened, claim) = (Arc::new(opened), claim.map(Arc::new));
        let in_flight = match mode {
            OpenMode::ReadWrite => Some(InFlightLock::take(path, &opened)?),
            OpenMode::ReadOnly if exclusive => wait_for_writes_in_flight(path, &opened.io).map(|()| None)?,
            OpenMode::ReadOnly => None,
        };
        let reads = ReadRings::new(Arc::clone(&opened), pool.clone());
        // Made now, so that a forbidden io_uring is told at open and not at the first read.
        reads.prepare()?;
        let flush_failed = Arc::new(AtomicBool::new(false));
        let start = || WriteRing::start(Arc::clone(&opened), claim.clone(), pool.clone(), Arc::clone(&flush_failed));
        let writes = match mode {
            OpenMode::ReadOnly => None,
            OpenMode::ReadWrite => Some(start()?),
        };
        let gate = writes.as_ref().and_then(WriteRing::gate);
        let held =
            writes.is_some().then(|| Held::new(OwnRing::new(Arc::clone(&opened), gate, Arc::clone(&flush_failed))));
        Ok(UringDevice {
            path: path.to_path_buf(),
            geometry: opened.geometry,
            mode,
            memory_alignment: opened.memory_alignment,
            pool,
            reads,
            writes,
            held,
            flush_failed,
            reports: Mutex::new(()),
            opened,
            _in_flight: in_flight,
            _claim: claim,
        })
    }

    /// How it was opened.
    #[must_use]
    pub fn mode(&self) -> OpenMode {
        self.mode
    }

    /// Whether the page cache is bypassed. False only on file systems that refuse `O_DIRECT`.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.opened.direct
    }

    fn writable(&self, operation: Operation) -> Result<&WriteRing, DeviceError> {
        let Some(writes) = &self.writes else { return Err(DeviceError::ReadOnly { operation }) };
        if self.flush_failed.load(Ordering::Acquire) {
            return Err(DeviceError::Poisoned { operation });
        }
        Ok(writes)
    }

    fn try_submit(&self, write: Write) -> Result<Ticket, DeviceError> {
        let writes = self.writable(Operation::Write)?;
        let bytes = check_write(&self.geometry, &write)?;
        if !bytes.as_ptr().addr().is_multiple_of(self.memory_alignment) {
            return Err(DeviceError::Unaligned {
                operation: Operation::Write,
                offset: widen(write.range.start),
                length: widen(bytes.len()),
                alignment: widen(self.memory_alignment),
            });
        }
        Ok(match &self.held {
            Some(held) if write.lazy => held.submit(write),
            _ => writes.submit(write),
        })
    }
}

impl Drop for UringDevice {
    fn drop(&mut self) {
        // Before the write thread is told to end: it gets what is held.
        if let Some(held) = &self.held {
            held.end();
        }
    }
}

impl Device for UringDevice {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, offset: u64, into: &mut AlignedBuf) -> Result<(), DeviceError> {
        check_range(&self.geometry, Operation::Read, offset, widen(into.len()))?;
        self.reads.read(offset, into)
    }

    fn submit(&self, write: Write) -> Ticket {
        self.try_submit(write).unwrap_or_else(|error| Ticket::done(Err(error)))
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.writable(Operation::Flush)?;
        // A flush that takes a file's one error report has said so before another one returns. On a block device nothing was buffered in the kernel, and the report of a flush is its own.
        let _report = (!self.geometry.is_block_device).then(|| self.reports.lock());
        loop {
            match open::sync(&self.opened) {
                Ok(()) => return self.writable(Operation::Flush).map(|_| ()),
                // It comes before the outcome is known, so the error report is still to come.
                Err(libc::EINTR) => {}
                Err(errno) => {
                    self.flush_failed.store(true, Ordering::Release);
                    return Err(DeviceError::Io { operation: Operation::Flush, offset: 0, length: 0, errno });
                }
            }
        }
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        self.writable(Operation::Discard)?;
        check_range(&self.geometry, Operation::Discard, offset, len)?;
        open::discard(&self.opened, offset, len)
    }

    fn label(&self) -> String {
        self.path.display().to_string()
    }

    fn write_cache(&self) -> Option<WriteCache> {
        open::write_cache(&self.opened)
    }

    fn durable_writes_report_apart(&self) -> bool {
        self.opened.direct
    }

    fn own_reads(&self, depth: u32) -> Result<Option<Box<dyn DeviceReads>>, DeviceError> {
        Ok(Some(Box::new(ReadQueue::new(depth, &self.opened, &self.pool)?)))
    }

    fn buffers(&self) -> &BufferPool {
        &self.pool
    }
}

impl std::fmt::Debug for UringDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UringDevice").field("path", &self.path).field("geometry", &self.geometry).finish()
    }
}
