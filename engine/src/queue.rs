//! Verified reads, many under way on one thread: as [`Store::read_data`](crate::store::Store::read_data), without a copy where the range lies in one
//! place and at logical blocks.
//!
//! ```text
//! submit --> planned --wait--> on the device --> verified --> each()
//!              ^                    | the space was reused meanwhile, or a block does not verify: once more
//!              +--------------------+ (the second time blocking, with a reader's pin)
//! ```
//!
//! *No pin is held*, so that a client who submits and then does something else holds nobody up: the reader epoch is noted before the place is looked up, and a
//! container is reused only after the epoch has risen (`space/readers.rs`). Bytes that arrive under the same epoch are from that place as it was (INV-13); else
//! the read is repeated.
//!
//! If power fails here: nothing is written by this layer.

use crate::StoreError;
use crate::device::{AlignedBuf, DeviceError, DeviceReads, ReadDone, open_reads};
use crate::engine::Engine;
use crate::mutant::{self, Mutant};
use crate::space::{Run, check_blocks};
use crate::store::Result;
use envoyfs_layout::{BLOCK, LayoutError, Oid, UNIT};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

#[cfg(all(test, feature = "models"))]
mod models;
#[cfg(test)]
mod tests;

/// So many bytes are verified, some 10 us, before reads that are done are given back although others have arrived.
const VERIFIED_BYTES: usize = 256 << 10;

/// Reads of one thread; see the module. Dropping it waits for those under way and forgets their outcome.
pub struct ReadQueue {
    engine: Arc<Engine>,
    reads: Box<dyn DeviceReads>,
    requests: Vec<Request>,
    free_requests: Vec<usize>,
    parts: Vec<Part>,
    free_parts: Vec<usize>,
    /// Answered without the device.
    finished: VecDeque<(u64, AlignedBuf, Result<()>)>,
    under_way: usize,
    // Kept for their memory.
    runs: Vec<Run>,
    /// Arrived and not looked at yet.
    done: VecDeque<ReadDone>,
    arrived: Vec<ReadDone>,
    /// Bytes that the device is to read.
    bytes_at_device: u64,
}

/// One call of `submit`; slots are used again.
struct Request {
    tag: u64,
    oid: Oid,
    range: Range<u32>,
    crcs: Vec<u32>,
    /// `None` while the device reads into it.
    into: Option<AlignedBuf>,
    /// Before the places were looked up.
    epoch: u64,
    /// When it was submitted.
    began_ns: u64,
    /// Of its first run, for messages.
    offset: u64,
    parts_left: usize,
    failed: Option<DeviceError>,
    repeated: bool,
}

/// One read on the device; slots are used again.
#[derive(Clone, Copy)]
struct Part {
    request: usize,
    began_ns: u64,
    /// Where the bytes go; `None`: the buffer is the request's own.
    copy: Option<Copy>,
}

#[derive(Clone, Copy)]
struct Copy {
    skip: usize,
    at: usize,
    bytes: usize,
}

impl Engine {
    /// A queue of reads for the calling thread, with up to `depth` under way on the device (more wait their turn).
    ///
    /// # Errors
    /// [`StoreError::Device`] if the ring cannot be made.
    pub fn read_queue(self: &Arc<Self>, depth: u32) -> Result<ReadQueue> {
        Ok(ReadQueue {
            reads: open_reads(&self.device, depth)?,
            engine: Arc::clone(self),
            requests: Vec::new(),
            free_requests: Vec::new(),
            parts: Vec::new(),
            free_parts: Vec::new(),
            finished: VecDeque::new(),
            under_way: 0,
            runs: Vec::new(),
            done: VecDeque::new(),
            arrived: Vec::new(),
            bytes_at_device: 0,
        })
    }
}

impl ReadQueue {
    /// Queues a read of `into.len()` bytes of an extent's stored bytes from `first`; `crcs` are the checksums of the blocks touched. It starts with the next
    /// [`wait`](Self::wait) at the latest, which gives the buffer back under `tag`. Take buffers from [`Engine::buffer`]: others work, more slowly.
    ///
    /// # Errors
    /// [`StoreError::BadReference`] if length or `first` is not aligned: nothing is queued. All other errors come from `wait`.
    pub fn submit(&mut self, tag: u64, oid: Oid, first: u32, crcs: &[u32], mut into: AlignedBuf) -> Result<()> {
        let misaligned = StoreError::BadReference { oid, what: "a read of it is not aligned" };
        let bytes = u32::try_from(into.len()).ok().filter(|bytes| bytes.is_multiple_of(UNIT) && *bytes > 0);
        let (Some(bytes), true) = (bytes, first.is_multiple_of(BLOCK)) else { return Err(misaligned) };
        self.under_way += 1;
        if self.engine.read_unsaved(oid, first, into.as_mut_slice()) {
            self.finished.push_back((tag, into, Ok(())));
            return Ok(());
        }
        let start = u32::from(oid.slot()) + first / UNIT;
        let range = start..start.saturating_add(bytes / UNIT);
        let request = self.free_requests.pop().unwrap_or_else(|| {
            self.requests.push(Request::EMPTY);
            self.requests.len() - 1
        });
        if let Some(slot) = self.requests.get_mut(request) {
            (slot.tag, slot.oid, slot.range, slot.into) = (tag, oid, range, Some(into));
            slot.crcs.clear();
            slot.crcs.extend_from_slice(crcs);
            (slot.failed, slot.repeated, slot.began_ns) = (None, false, self.engine.metrics.now_ns());
        }
        self.start(request);
        Ok(())
    }

    /// Starts what is queued, and blocks until the device is done with one of those under way, if any is. Verifies nothing: a caller who knows what it reads next may queue that first, so
    /// that the device has it before this thread is busy with [`wait`](Self::wait), which does not block then.
    pub fn arrive(&mut self) {
        let min = usize::from(self.done.is_empty() && self.finished.is_empty());
        self.gather(min);
    }

    /// Bytes that the device is to read: submitted, and not arrived yet.
    #[must_use]
    pub fn bytes_at_device(&self) -> u64 {
        self.bytes_at_device
    }

    /// Takes what arrives; at least so many parts.
    fn gather(&mut self, min: usize) {
        self.reads.wait(min, &mut self.arrived);
        let arrived: usize = self.arrived.iter().map(|read| read.buffer.len()).sum();
        self.bytes_at_device -= arrived as u64;
        self.done.extend(self.arrived.drain(..));
    }

    /// Starts what is queued and blocks until at least `min` reads (or all, if fewer are under way) are done; calls `each` with the tag, the buffer and the outcome
    /// of these and of others that are done. Returns how many. Where verifying takes its time, others that have arrived wait for the next call, so that the caller can queue
    /// more reads first: the device is not to run dry meanwhile.
    ///
    /// # Errors
    /// None at present; the outcome of a read goes to `each`: [`StoreError::Damaged`], [`StoreError::BadReference`], [`StoreError::Device`].
    pub fn wait(&mut self, min: usize, mut each: impl FnMut(u64, AlignedBuf, Result<()>)) -> Result<usize> {
        let mut delivered = 0;
        loop {
            let missing = min.saturating_sub(delivered + self.finished.len());
            self.gather(missing.saturating_sub(self.done.len()));
            if !self.done.is_empty() {
                let now_ns = self.engine.metrics.now_ns();
                let mut bytes = 0;
                while let Some(read) = self.done.pop_front() {
                    bytes += read.buffer.len();
                    self.part_is_done(read, now_ns);
                    if bytes >= VERIFIED_BYTES && delivered + self.finished.len() >= min {
                        break;
                    }
                }
            }
            while let Some((tag, buffer, outcome)) = self.finished.pop_front() {
                delivered += 1;
                self.under_way -= 1;
                each(tag, buffer, outcome);
            }
            if delivered >= min || self.under_way == 0 {
                return Ok(delivered);
            }
        }
    }

    /// Reads submitted and not given back yet.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// The engine it reads from.
    #[must_use]
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Looks the places up and queues a read for each.
    fn start(&mut self, request: usize) {
        let Some(slot) = self.requests.get_mut(request) else { return };
        let Some(mut into) = slot.into.take() else { return };
        let reader = &self.engine.reader;
        let began_ns = if slot.repeated { self.engine.metrics.now_ns() } else { slot.began_ns };
        slot.epoch = reader.readers.epoch();
        self.runs.clear();
        let planned = reader.plan(slot.oid, &slot.range, into.as_mut_slice(), &mut self.runs);
        if mutant::on(Mutant::QueueEpochNotedLate) {
            slot.epoch = reader.readers.epoch();
        }
        slot.offset = self.runs.first().map_or(0, |run| run.offset);
        slot.parts_left = self.runs.len();
        if let Err(error) = planned {
            slot.parts_left = 0;
            return self.finish(request, into, Err(error));
        }
        let shape = reader.shape();
        let whole = match self.runs.as_slice() {
            [] => return self.arrived(request, into, began_ns),
            [run] => Some(run).filter(|run| shape.around(run.offset, run.bytes) == (run.offset, 0, into.len())),
            _ => None,
        };
        if let Some(run) = whole {
            let part = place(&mut self.parts, &mut self.free_parts, Part { request, began_ns, copy: None });
            self.bytes_at_device += into.len() as u64;
            return self.reads.submit(part, run.offset, into);
        }
        slot.into = Some(into);
        for run in &self.runs {
            let (start, skip, length) = shape.around(run.offset, run.bytes);
            let copy = Some(Copy { skip, at: run.at, bytes: run.bytes });
            let part = place(&mut self.parts, &mut self.free_parts, Part { request, began_ns, copy });
            self.bytes_at_device += length as u64;
            self.reads.submit(part, start, self.engine.device.buffers().take(length));
        }
    }

    fn part_is_done(&mut self, read: ReadDone, now_ns: u64) {
        let ReadDone { tag, buffer, outcome } = read;
        let Ok(index) = usize::try_from(tag) else { return };
        let Some(part) = self.parts.get(index).copied() else { return };
        self.free_parts.push(index);
        let device = &self.engine.metrics.device;
        device.read_bytes.add(buffer.len() as u64);
        device.read.record_ns(now_ns.saturating_sub(part.began_ns));
        let Some(slot) = self.requests.get_mut(part.request) else { return };
        match part.copy {
            None => slot.into = Some(buffer),
            Some(Copy { skip, at, bytes }) => {
                let into = slot.into.as_mut().and_then(|into| into.as_mut_slice().get_mut(at..at + bytes));
                if let (Some(into), Some(bytes)) = (into, buffer.as_slice().get(skip..skip + bytes)) {
                    into.copy_from_slice(bytes);
                }
            }
        }
        if let Err(error) = outcome {
            device.read_errors.increment();
            slot.failed.get_or_insert(error);
        }
        slot.parts_left -= 1;
        if slot.parts_left == 0
            && let Some(into) = slot.into.take()
        {
            self.arrived(part.request, into, now_ns);
        }
    }

    /// All bytes are here: verify, or read once more.
    fn arrived(&mut self, request: usize, mut into: AlignedBuf, now_ns: u64) {
        let Some(slot) = self.requests.get_mut(request) else { return };
        let (reader, metrics) = (&self.engine.reader, &self.engine.metrics.reads);
        let failed = slot.failed.take();
        let as_planned = reader.readers.epoch() == slot.epoch
            || mutant::on(Mutant::QueueTrustsWhatVerifies) && check_blocks(&slot.crcs, into.as_slice()).is_ok()
            || mutant::on(Mutant::QueueNotPinnedAtLast) && slot.repeated;
        let outcome = if as_planned {
            let verified = match &failed {
                Some(_) => Ok(()),
                None => check_blocks(&slot.crcs, into.as_slice()),
            };
            match (failed, verified) {
                (Some(error), _) => Some(Err(error.into())),
                (None, Ok(())) => Some(Ok(())),
                (None, Err(what)) if slot.repeated => {
                    metrics.damaged.increment();
                    Some(Err(damaged(slot, what)))
                }
                (None, Err(_)) => None,
            }
        } else if slot.repeated {
            let verify = |bytes: &[u8]| check_blocks(&slot.crcs, bytes);
            Some(reader.read(slot.oid, &slot.range, into.as_mut_slice(), verify))
        } else {
            None
        };
        match outcome {
            Some(outcome) => {
                metrics.data_bytes.add(into.len() as u64);
                metrics.data.record_ns(now_ns.saturating_sub(slot.began_ns));
                self.finish(request, into, outcome);
            }
            None => {
                metrics.retried.increment();
                slot.repeated = true;
                slot.into = Some(into);
                self.start(request);
            }
        }
    }

    fn finish(&mut self, request: usize, into: AlignedBuf, outcome: Result<()>) {
        let Some(slot) = self.requests.get(request) else { return };
        self.finished.push_back((slot.tag, into, outcome));
        self.free_requests.push(request);
    }
}

impl Request {
    const EMPTY: Request = Request {
        tag: 0,
        oid: Oid(0),
        range: 0..0,
        crcs: Vec::new(),
        into: None,
        epoch: 0,
        began_ns: 0,
        offset: 0,
        parts_left: 0,
        failed: None,
        repeated: false,
    };
}

fn damaged(request: &Request, what: LayoutError) -> StoreError {
    StoreError::Damaged { oid: request.oid, offset: request.offset, what }
}

/// Puts a part into a free slot; its tag.
fn place(parts: &mut Vec<Part>, free: &mut Vec<usize>, part: Part) -> u64 {
    match free.pop() {
        Some(index) => {
            if let Some(slot) = parts.get_mut(index) {
                *slot = part;
            }
            index as u64
        }
        None => {
            parts.push(part);
            parts.len() as u64 - 1
        }
    }
}

impl std::fmt::Debug for ReadQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadQueue").field("under_way", &self.under_way).finish_non_exhaustive()
    }
}
