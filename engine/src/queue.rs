//! Verified reads, many under way on one thread: as [`Store::read_data`](crate::store::Store::read_data), without a copy where what is read lies at logical blocks,
//! in however many places. What is one to the caller may be several objects: one that was written over the end of a container is two.
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
use crate::device::{AlignedBuf, BUFFER_ALIGNMENT, DeviceError, DeviceReads, ReadDone, Stretch, open_reads};
use crate::engine::Engine;
use crate::mutant::{self, Mutant};
use crate::space::{Run, check_blocks};
use crate::store::Result;
use envoyfs_layout::{BLOCK, Oid, UNIT};
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
    stretches: Vec<Stretch>,
    /// Arrived and not looked at yet.
    done: VecDeque<ReadDone>,
    arrived: Vec<ReadDone>,
    /// Bytes that the device is to read.
    bytes_at_device: u64,
}

/// Bytes of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portion {
    /// The object.
    pub oid: Oid,
    /// From this one of its stored bytes on, a multiple of 4 KiB.
    pub first: u32,
    /// How many, a multiple of 512.
    pub bytes: u32,
}

/// A portion of a request.
struct Share {
    oid: Oid,
    units: Range<u32>,
    /// Where its bytes are in the buffer; its checksums are one for each 4 KiB from there.
    at: Range<usize>,
    /// Of its first run, for messages.
    offset: u64,
}

/// One call of `submit`; slots are used again.
struct Request {
    tag: u64,
    shares: Vec<Share>,
    crcs: Vec<u32>,
    /// `None` while the device reads into it.
    into: Option<AlignedBuf>,
    /// Before the places were looked up.
    epoch: u64,
    /// When it was submitted.
    began_ns: u64,
    parts_left: usize,
    failed: Option<DeviceError>,
    repeated: bool,
}

/// One read on the device; slots are used again.
#[derive(Clone, Copy)]
struct Part {
    request: usize,
    began_ns: u64,
    /// Where the bytes go; `None`: to where they belong, since the buffer is the request's own.
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
            stretches: Vec::new(),
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
    /// As [`submit_portions`](Self::submit_portions).
    pub fn submit(&mut self, tag: u64, oid: Oid, first: u32, crcs: &[u32], into: AlignedBuf) -> Result<()> {
        let bytes = u32::try_from(into.len()).map_err(|_| misaligned(oid))?;
        self.submit_portions(tag, &[Portion { oid, first, bytes }], crcs, into)
    }

    /// As [`submit`](Self::submit), of portions of several objects, which fill the buffer in this order: what [`Engine::append_buffer`] has made several objects of, say. One request of the device reads
    /// those that lie close together. `crcs` are the checksums of all blocks touched; each portion but the last one is a multiple of 4 KiB. An error names the object that it is of; the buffer is undefined then.
    ///
    /// # Errors
    /// [`StoreError::BadReference`] if a portion is not aligned, the buffer is not as long as all together, or the number of checksums is wrong: nothing is queued. All other errors come from `wait`.
    pub fn submit_portions(&mut self, tag: u64, portions: &[Portion], crcs: &[u32], into: AlignedBuf) -> Result<()> {
        check_portions(portions, crcs.len(), into.len())?;
        let mut into = into;
        let request = self.free_requests.pop().unwrap_or_else(|| {
            self.requests.push(Request::EMPTY);
            self.requests.len() - 1
        });
        let Some(slot) = self.requests.get_mut(request) else { return Ok(()) };
        slot.shares.clear();
        let mut at = 0;
        for Portion { oid, first, bytes } in portions.iter().copied() {
            let place = at..at + bytes as usize;
            at = place.end;
            let unsaved = into.as_mut_slice().get_mut(place.clone());
            if unsaved.is_some_and(|into| self.engine.read_unsaved(oid, first, into)) {
                continue;
            }
            let start = u32::from(oid.slot()).saturating_add(first / UNIT);
            let units = start..start.saturating_add(bytes / UNIT);
            slot.shares.push(Share { oid, units, at: place, offset: 0 });
        }
        self.under_way += 1;
        if slot.shares.is_empty() {
            self.free_requests.push(request);
            self.finished.push_back((tag, into, Ok(())));
            return Ok(());
        }
        (slot.tag, slot.into) = (tag, Some(into));
        slot.crcs.clear();
        slot.crcs.extend_from_slice(crcs);
        (slot.failed, slot.repeated, slot.began_ns) = (None, false, self.engine.metrics.now_ns());
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
        let mut planned = Ok(());
        for share in &mut slot.shares {
            let before = self.runs.len();
            let bytes = into.as_mut_slice().get_mut(share.at.clone()).unwrap_or_default();
            planned = planned.and_then(|()| reader.plan(share.oid, &share.units, bytes, &mut self.runs));
            let runs = self.runs.get_mut(before..).unwrap_or_default();
            runs.iter_mut().for_each(|run| run.at += share.at.start);
            share.offset = runs.first().map_or(0, |run| run.offset);
        }
        if mutant::on(Mutant::QueueEpochNotedLate) {
            slot.epoch = reader.readers.epoch();
        }
        slot.parts_left = 0;
        if let Err(error) = planned {
            return self.finish(request, into, Err(error));
        }
        if self.runs.is_empty() {
            return self.arrived(request, into, began_ns);
        }
        let shape = reader.shape();
        // The device reads to where the bytes belong.
        let suits = |run: &Run| {
            run.at.is_multiple_of(BUFFER_ALIGNMENT) && shape.around(run.offset, run.bytes) == (run.offset, 0, run.bytes)
        };
        if self.runs.iter().all(suits) {
            slot.parts_left = 1;
            let part = place(&mut self.parts, &mut self.free_parts, Part { request, began_ns, copy: None });
            self.bytes_at_device += into.len() as u64;
            self.stretches.clear();
            self.stretches.extend(self.runs.iter().map(|run| Stretch {
                offset: run.offset,
                at: run.at,
                bytes: run.bytes,
            }));
            return self.reads.submit_stretches(part, &self.stretches, into);
        }
        slot.parts_left = self.runs.len();
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
            || mutant::on(Mutant::QueueTrustsWhatVerifies) && slot.verify(into.as_slice()).is_ok()
            || mutant::on(Mutant::QueueNotPinnedAtLast) && slot.repeated;
        let outcome = if as_planned {
            let verified = match &failed {
                Some(_) => Ok(()),
                None => slot.verify(into.as_slice()),
            };
            match (failed, verified) {
                (Some(error), _) => Some(Err(error.into())),
                (None, Ok(())) => Some(Ok(())),
                (None, Err(damaged)) if slot.repeated => {
                    metrics.damaged.increment();
                    Some(Err(damaged))
                }
                (None, Err(_)) => None,
            }
        } else if slot.repeated {
            let read = |share: &Share| {
                let bytes = into.as_mut_slice().get_mut(share.at.clone()).unwrap_or_default();
                reader.read(share.oid, &share.units, bytes, |bytes| check_blocks(slot.crcs_of(share), bytes))
            };
            Some(slot.shares.iter().try_for_each(read))
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
        shares: Vec::new(),
        crcs: Vec::new(),
        into: None,
        epoch: 0,
        began_ns: 0,
        parts_left: 0,
        failed: None,
        repeated: false,
    };

    fn crcs_of(&self, share: &Share) -> &[u32] {
        let block = BLOCK as usize;
        self.crcs.get(share.at.start / block..share.at.end.div_ceil(block)).unwrap_or_default()
    }

    /// Each share against its checksums.
    fn verify(&self, bytes: &[u8]) -> Result<()> {
        self.shares.iter().try_for_each(|share| {
            let bytes = bytes.get(share.at.clone()).unwrap_or_default();
            let damaged = |what| StoreError::Damaged { oid: share.oid, offset: share.offset, what };
            check_blocks(self.crcs_of(share), bytes).map_err(damaged)
        })
    }
}

fn misaligned(oid: Oid) -> StoreError {
    StoreError::BadReference { oid, what: "a read of it is not aligned" }
}

/// Whether portions fill so many bytes, each from a block on, and there is a checksum for each block.
fn check_portions(portions: &[Portion], crcs: usize, bytes: usize) -> Result<()> {
    let mut left = bytes;
    for Portion { oid, first, bytes } in portions.iter().copied() {
        let taken = bytes as usize;
        let whole_blocks = bytes.is_multiple_of(BLOCK) || taken == left;
        let aligned = bytes > 0 && bytes.is_multiple_of(UNIT) && first.is_multiple_of(BLOCK) && whole_blocks;
        left = left.checked_sub(taken).filter(|_| aligned).ok_or_else(|| misaligned(oid))?;
    }
    let oid = portions.last().map_or(Oid(0), |portion| portion.oid);
    match left {
        0 if crcs == bytes.div_ceil(BLOCK as usize) => Ok(()),
        0 => Err(StoreError::BadReference { oid, what: "there is not one checksum for each of its blocks" }),
        _ => Err(misaligned(oid)),
    }
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
