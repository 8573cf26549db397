//! The one way from the engine to storage: aligned reads, writes that are under way, a barrier, a hint.
//!
//! Owns: buffers fit for direct IO, the [`Device`] trait, and its peers. Knows nothing of what is stored.
//!
//! ```text
//! UringDevice      a block device or image file through io_uring, O_DIRECT
//! SimulatedDevice  in memory, from a seed: volatile cache, power loss, faults
//! RecordingDevice  around any of them: a log from which every possible power cut can be built
//! MeteredDevice    around any of them: what it was asked to do, and how long that took
//! ```
//!
//! What every device promises, and all that callers may rest on:
//! - A completed write is seen by every later read. It is *durable* only when a [`Device::flush`] that was called
//!   after the completion has returned `Ok`, or if it was a [`Write::durable`] one: that makes no other write durable.
//! - Writes under way have no order among each other. Two that overlap must not be under way together.
//! - If power fails, each write that no successful flush covers is there, absent, or torn at 512 bytes, on its own.
//! - After a failed flush nothing that it covered can be made durable any more: do not try again (INV-33).

mod buffer;
mod calibrate;
mod error;
mod image;
mod mapped;
mod metered;
mod pages;
mod random;
mod reads;
mod recording;
mod simulated;
mod sync;
#[cfg_attr(test, expect(clippy::duplicate_mod, reason = "compiled once more over the locks of loom"))]
mod ticket;
#[cfg(test)]
mod ticket_tests;
mod uring;

pub use buffer::{AlignedBuf, BUFFER_ALIGNMENT, BUFFER_GRANULE, BufferClass, BufferPool};
pub use calibrate::{Calibration, WriteCache, calibrate, scratch_bytes, warn_if_changed};
pub use error::{DeviceError, Operation};
pub use image::{DeviceImage, SECTOR_BYTES};
pub use mapped::MappedFile;
pub use metered::MeteredDevice;
pub use reads::{DeviceReads, ReadDone, Stretch, open_reads};
pub use recording::{CrashImages, Recording, RecordingDevice, SectorFate};
pub use simulated::{
    Counters, Effect, Fault, Fired, LatencyModel, On, RequestKind, Rule, Served, SimulatedDevice, VirtualClock, When,
};
#[cfg(test)]
pub(crate) use ticket::Drive;
pub use ticket::{Completion, Ticket};
pub use uring::{OpenMode, UringDevice, geometry, wait_for_writes_in_flight};

use std::ops::Range;
use std::sync::Arc;

/// Size and granularity of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes, a multiple of the logical block.
    pub size_bytes: u64,
    /// 512 or 4096: what offsets and lengths must be multiples of.
    pub logical_block_bytes: u32,
    /// Whether it is a block device rather than an image file.
    pub is_block_device: bool,
}

/// One write: `range` of `buf` goes to `offset`. The buffer stays as it is until the write is done.
#[derive(Clone, Debug)]
pub struct Write {
    /// Where on the device, in bytes.
    pub offset: u64,
    /// The memory.
    pub buf: Arc<AlignedBuf>,
    /// Which part of it, in bytes.
    pub range: Range<usize>,
    /// Durable once it has completed. Says nothing about any other write.
    pub durable: bool,
    /// May be held back until somebody waits for its ticket: for small writes that somebody waits for soon.
    pub lazy: bool,
    /// Another write follows at once: the device may wait for it, or for somebody who waits for this one, and make one request of neighbours.
    pub more: bool,
}

impl Write {
    /// A write of a whole buffer.
    #[must_use]
    pub fn whole(offset: u64, buf: impl Into<Arc<AlignedBuf>>) -> Write {
        let buf = buf.into();
        let range = 0..buf.len();
        Self::part(offset, buf, range)
    }

    /// A write of part of a buffer.
    #[must_use]
    pub fn part(offset: u64, buf: impl Into<Arc<AlignedBuf>>, range: Range<usize>) -> Write {
        Write { offset, buf: buf.into(), range, durable: false, lazy: false, more: false }
    }

    /// The same, durable once it has completed (forced unit access, or what the system does in its place).
    #[must_use]
    pub fn durable(self) -> Write {
        Write { durable: true, ..self }
    }

    /// The same, held back until somebody waits for it, if the device likes. Functions of its ticket alone do not start it.
    #[must_use]
    pub fn lazy(self) -> Write {
        Write { lazy: true, ..self }
    }

    /// The same, with another write to follow at once. Functions of its ticket alone do not start it.
    #[must_use]
    pub fn more(self) -> Write {
        Write { more: true, ..self }
    }

    /// The bytes to be written; `None` if the range is not inside the buffer.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        self.buf.as_slice().get(self.range.clone())
    }
}

/// Storage. See the module for what is promised.
pub trait Device: Send + Sync + 'static {
    /// Size and granularity; constant while open.
    fn geometry(&self) -> Geometry;

    /// Fills the whole buffer from `offset`; blocks. Offset and length are multiples of the logical block.
    ///
    /// # Errors
    /// Unaligned or past the end, or what the device reports. The buffer's contents are then undefined.
    fn read(&self, offset: u64, into: &mut AlignedBuf) -> Result<(), DeviceError>;

    /// Starts a write and returns at once; every error comes through the ticket. The device does not limit how much
    /// is under way: the caller does.
    fn submit(&self, write: Write) -> Ticket;

    /// Barrier: every write that had completed before the call is durable when this returns `Ok`. Blocks.
    ///
    /// # Errors
    /// What the device reports; from then on `submit` and `flush` may answer [`DeviceError::Poisoned`].
    fn flush(&self) -> Result<(), DeviceError>;

    /// Hint that the contents of a range are of no use any more; they are undefined until written. Blocks.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] may be ignored.
    fn discard(&self, offset: u64, len: u64) -> Result<(), DeviceError>;

    /// What it is called in messages: its path.
    fn label(&self) -> String;

    /// What the system says about the cache below; `None` where it says nothing, as about image files.
    fn write_cache(&self) -> Option<WriteCache> {
        None
    }

    /// Whether a lost write is reported to the durable write that it was. An image in the page cache has one report for all of them: another one may complete
    /// in order although its data is lost. There blocks are written plainly and flushed.
    fn durable_writes_report_apart(&self) -> bool {
        true
    }

    /// A queue of reads for the calling thread, with room for `depth` under way; `None` if the device has none of its
    /// own. Callers use [`open_reads`], which makes up for that.
    ///
    /// # Errors
    /// What making it meets.
    fn own_reads(&self, depth: u32) -> Result<Option<Box<dyn DeviceReads>>, DeviceError> {
        let _ = depth;
        Ok(None)
    }

    /// Where buffers for this device are best taken from.
    fn buffers(&self) -> &BufferPool {
        BufferPool::heap()
    }
}

/// A shared device is a device: the engine owns one handle, a test or an admin command another.
impl<D: Device + ?Sized> Device for Arc<D> {
    fn geometry(&self) -> Geometry {
        (**self).geometry()
    }
    fn read(&self, offset: u64, into: &mut AlignedBuf) -> Result<(), DeviceError> {
        (**self).read(offset, into)
    }
    fn submit(&self, write: Write) -> Ticket {
        (**self).submit(write)
    }
    fn flush(&self) -> Result<(), DeviceError> {
        (**self).flush()
    }
    fn discard(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        (**self).discard(offset, len)
    }
    fn label(&self) -> String {
        (**self).label()
    }
    fn write_cache(&self) -> Option<WriteCache> {
        (**self).write_cache()
    }
    fn durable_writes_report_apart(&self) -> bool {
        (**self).durable_writes_report_apart()
    }
    fn own_reads(&self, depth: u32) -> Result<Option<Box<dyn DeviceReads>>, DeviceError> {
        (**self).own_reads(depth)
    }
    fn buffers(&self) -> &BufferPool {
        (**self).buffers()
    }
}

/// The check that every device makes first: alignment, then bounds. Empty ranges are refused as unaligned.
fn check_range(geometry: &Geometry, operation: Operation, offset: u64, length: u64) -> Result<(), DeviceError> {
    let alignment = u64::from(geometry.logical_block_bytes);
    if length == 0 || !offset.is_multiple_of(alignment) || !length.is_multiple_of(alignment) {
        return Err(DeviceError::Unaligned { operation, offset, length, alignment });
    }
    match offset.checked_add(length) {
        Some(end) if end <= geometry.size_bytes => Ok(()),
        _ => Err(DeviceError::ShortDevice { operation, offset, length, size: geometry.size_bytes }),
    }
}

/// As [`check_range`], for a write: also the range in the buffer. Returns the bytes.
fn check_write<'a>(geometry: &Geometry, write: &'a Write) -> Result<&'a [u8], DeviceError> {
    let operation = Operation::Write;
    let (start, end) = (widen(write.range.start), widen(write.range.end));
    let Some(bytes) = write.bytes() else {
        let length = widen(write.buf.len());
        return Err(DeviceError::OutsideBuffer { operation, offset: write.offset, start, end, length });
    };
    check_range(geometry, operation, write.offset, widen(bytes.len()))?;
    if !write.range.start.is_multiple_of(BUFFER_GRANULE) {
        let alignment = widen(BUFFER_GRANULE);
        return Err(DeviceError::Unaligned { operation, offset: start, length: end - start, alignment });
    }
    Ok(bytes)
}

/// `usize` has at most 64 bits on every platform that has `io_uring`.
const fn widen(bytes: usize) -> u64 {
    bytes as u64
}
