//! A device in memory that loses power, and lies, on demand and from a seed.
//!
//! ```text
//! submit -> under way --(at once, or `slow`: poll, wait, flush)--> cache --flush--> medium
//!                 \________________ power loss: each kept, dropped or torn ________/
//! ```
//!
//! Handles are clones of one device: the code under test owns one, the test keeps another to inject faults, count and
//! crash. Everything is deterministic as long as one thread at a time calls.
//!
//! A durable write goes to the medium when it completes, and nothing else does.
//! A flush makes durable what had *completed* before it, and no write that was still under way. Writes covered by a
//! failed flush stay visible but are never made durable by a later one, as Linux behaves.

use super::image::{DeviceImage, Mercy, Payload, SECTOR_BYTES, lose_power};
use super::random::Random;
use super::ticket::Drive;
use super::{AlignedBuf, Completion, Device, DeviceError, DeviceReads, Geometry, Operation, Ticket, Write};
use super::{check_range, check_write, widen};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

mod reads;
#[cfg(test)]
mod tests;

/// A fault to inject. Offsets are bytes on the device; they mean the 512-byte sector there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Reads of the sector fail with EIO until it is written again.
    ReadError {
        /// The sector.
        offset: u64,
    },
    /// The next write that touches the sector fails with EIO; what it changed is left to chance.
    WriteError {
        /// The sector.
        offset: u64,
    },
    /// Bits flip in what is stored now.
    FlipBits {
        /// The byte.
        offset: u64,
        /// The bits.
        mask: u8,
    },
    /// The next write that touches the sector is acknowledged but leaves the sector as it is.
    LoseWrite {
        /// The sector.
        offset: u64,
    },
    /// From now on reads of the sector return what it holds now, whatever is written. Power loss ends it.
    Stale {
        /// The sector.
        offset: u64,
    },
    /// The next write that starts at the sector lands at another one.
    Misdirect {
        /// Where the write is meant to go.
        offset: u64,
        /// Where it goes.
        to: u64,
    },
    /// The next flush fails with EIO.
    FailFlush,
}

/// What a device was asked to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Reads.
    pub reads: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Flushes.
    pub flushes: u64,
    /// Discards.
    pub discards: u64,
    /// Writes that were to be durable at their completion, counted above too.
    pub durable_writes: u64,
}

/// The simulated device; a clone is another handle on the same one.
#[derive(Clone)]
pub struct SimulatedDevice {
    inner: Arc<Inner>,
}

struct Inner {
    geometry: Geometry,
    state: Mutex<State>,
}

struct State {
    seed: u64,
    random: Random,
    /// What survives power loss for certain.
    medium: DeviceImage,
    /// What reads return.
    visible: DeviceImage,
    /// Completed, not flushed.
    cache: Vec<Cached>,
    /// Sectors of failed writes and of writes whose flush failed: visible, but no later flush makes them durable.
    abandoned: BTreeMap<u64, [u8; SECTOR_BYTES]>,
    under_way: Vec<UnderWay>,
    slow: bool,
    crashed: bool,
    /// Writes, flushes and discards until the machine stops.
    ios_left: Option<u64>,
    counters: Counters,
    faults: Vec<Fault>,
    unreadable: BTreeSet<u64>,
    stale: BTreeMap<u64, [u8; SECTOR_BYTES]>,
}

struct Cached {
    offset: u64,
    payload: Payload,
}

struct UnderWay {
    offset: u64,
    payload: Payload,
    durable: bool,
    completion: Completion,
}

impl SimulatedDevice {
    /// A device of zeros. `size_bytes` is rounded down to the logical block.
    #[must_use]
    pub fn new(size_bytes: u64, logical_block_bytes: u32, seed: u64) -> SimulatedDevice {
        Self::from_image(DeviceImage::new(size_bytes), logical_block_bytes, seed)
    }

    /// A device with these durable contents.
    #[must_use]
    pub fn from_image(image: DeviceImage, logical_block_bytes: u32, seed: u64) -> SimulatedDevice {
        let size = image.size_bytes();
        let size_bytes = size - size.checked_rem(u64::from(logical_block_bytes)).unwrap_or(0);
        let geometry = Geometry { size_bytes, logical_block_bytes, is_block_device: false };
        let state = State {
            seed,
            random: Random::new(seed),
            visible: image.clone(),
            medium: image,
            cache: Vec::new(),
            abandoned: BTreeMap::new(),
            under_way: Vec::new(),
            slow: false,
            crashed: false,
            ios_left: None,
            counters: Counters::default(),
            faults: Vec::new(),
            unreadable: BTreeSet::new(),
            stale: BTreeMap::new(),
        };
        SimulatedDevice { inner: Arc::new(Inner { geometry, state: Mutex::new(state) }) }
    }

    /// With `slow`, writes complete only in [`poll`](Self::poll), in `flush`, or while somebody waits for a ticket, in
    /// an order drawn from the seed.
    #[must_use]
    pub fn slow(self, slow: bool) -> SimulatedDevice {
        self.inner.state.lock().slow = slow;
        self
    }

    /// Completes up to `count` writes under way; returns how many.
    pub fn poll(&self, count: usize) -> usize {
        self.inner.poll(count)
    }

    /// Writes under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.inner.state.lock().under_way.len()
    }

    /// Lets `ios` more writes, flushes and discards through; afterwards every call, reads too, answers
    /// [`DeviceError::Crashed`]. (Reads change nothing, so a cut at one equals the cut before it.)
    pub fn crash_after(&self, ios: u64) {
        self.inner.state.lock().ios_left = Some(ios);
    }

    /// Whether the machine has stopped.
    #[must_use]
    pub fn is_crashed(&self) -> bool {
        self.inner.state.lock().crashed
    }

    /// Power loss: this handle's device stops; the returned one holds what was durable, and each other write kept,
    /// dropped or torn by `seed`, in any order. Faults end, except unreadable sectors.
    #[must_use]
    pub fn crash(&self, seed: u64) -> SimulatedDevice {
        let (image, unreadable) = {
            let state = self.inner.state.lock();
            (state.after_power_loss(seed), state.unreadable.clone())
        };
        self.stop();
        let device = Self::from_image(image, self.inner.geometry.logical_block_bytes, seed);
        device.inner.state.lock().unreadable = unreadable;
        device
    }

    /// The process dies, the machine stays up: this handle's device stops; in the returned one the writes that were
    /// under way have completed, and everything un-flushed is still only in the cache.
    #[must_use]
    pub fn process_crash(&self) -> SimulatedDevice {
        let next = {
            let mut state = self.inner.state.lock();
            let random = state.random.clone();
            let mut next = State {
                seed: state.seed,
                random,
                medium: state.medium.clone(),
                visible: state.visible.clone(),
                cache: std::mem::take(&mut state.cache),
                abandoned: std::mem::take(&mut state.abandoned),
                under_way: Vec::new(),
                slow: state.slow,
                crashed: false,
                ios_left: None,
                counters: Counters::default(),
                faults: std::mem::take(&mut state.faults),
                unreadable: state.unreadable.clone(),
                stale: state.stale.clone(),
            };
            for write in &state.under_way {
                next.put(write.offset, write.payload.clone(), write.durable);
            }
            next
        };
        self.stop();
        SimulatedDevice { inner: Arc::new(Inner { geometry: self.inner.geometry, state: Mutex::new(next) }) }
    }

    /// Injects a fault.
    pub fn inject(&self, fault: Fault) {
        let mut state = self.inner.state.lock();
        match fault {
            Fault::ReadError { offset } => {
                state.unreadable.insert(sector_of(offset));
            }
            Fault::FlipBits { offset, mask } => {
                let state = &mut *state;
                let in_cache = state.cache.iter_mut().filter_map(|write| write.payload.byte_mut(write.offset, offset));
                in_cache.for_each(|byte| *byte ^= mask);
                for image in [&mut state.medium, &mut state.visible] {
                    let mut byte = [0];
                    image.read(offset, &mut byte);
                    image.write(offset, &byte.map(|byte| byte ^ mask));
                }
            }
            Fault::Stale { offset } => {
                let mut held = [0; SECTOR_BYTES];
                state.visible.read(sector_of(offset), &mut held);
                state.stale.insert(sector_of(offset), held);
            }
            Fault::WriteError { .. } | Fault::LoseWrite { .. } | Fault::Misdirect { .. } | Fault::FailFlush => {
                state.faults.push(fault);
            }
        }
    }

    /// What reads would return, without injected read faults.
    #[must_use]
    pub fn image(&self) -> DeviceImage {
        self.inner.state.lock().visible.clone()
    }

    /// What would survive if every un-flushed write were dropped.
    #[must_use]
    pub fn durable_image(&self) -> DeviceImage {
        self.inner.state.lock().medium.clone()
    }

    /// What it was asked to do since it was made.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.inner.state.lock().counters
    }

    /// A number below `bound`, from the seed.
    fn draw(&self, bound: usize) -> usize {
        self.inner.state.lock().random.below(bound)
    }

    fn stop(&self) {
        let under_way = {
            let mut state = self.inner.state.lock();
            state.crashed = true;
            std::mem::take(&mut state.under_way)
        };
        for write in under_way {
            write.completion.complete(Err(DeviceError::Crashed));
        }
    }
}

impl State {
    /// Counts one write, flush or discard against `crash_after`.
    fn begin_io(&mut self) -> Result<(), DeviceError> {
        if let Some(left) = &mut self.ios_left {
            match left.checked_sub(1) {
                Some(rest) => *left = rest,
                None => self.crashed = true,
            }
        }
        if self.crashed { Err(DeviceError::Crashed) } else { Ok(()) }
    }

    /// A write or discard reaches the cache, or the medium.
    fn put(&mut self, offset: u64, payload: Payload, durable: bool) {
        payload.apply(offset, &mut self.visible);
        let end = offset.saturating_add(payload.len());
        self.unreadable.retain(|sector| *sector < offset || *sector >= end);
        if !durable {
            self.cache.push(Cached { offset, payload });
            return;
        }
        payload.apply(offset, &mut self.medium);
        self.abandoned.retain(|at, _| *at < offset || *at >= end);
        // What is older in the cache must not come after it.
        for cached in std::mem::take(&mut self.cache) {
            let left = cached.payload.outside(cached.offset, &(offset..end));
            self.cache.extend(left.into_iter().map(|(offset, payload)| Cached { offset, payload }));
        }
    }

    /// As `put`, with the faults that wait for this range. Returns whether the write fails.
    fn put_with_faults(&mut self, offset: u64, bytes: &Arc<[u8]>, durable: bool) -> bool {
        let touches = |sector: u64| sector_of(sector) >= offset && sector_of(sector) < offset + widen(bytes.len());
        let mut target = offset;
        let mut fails = false;
        let mut lost = Vec::new();
        let faults = std::mem::take(&mut self.faults);
        for fault in faults {
            match fault {
                Fault::WriteError { offset: sector } if touches(sector) => fails = true,
                Fault::LoseWrite { offset: sector } if touches(sector) => lost.push(sector_of(sector) - offset),
                Fault::Misdirect { offset: from, to } if from == offset => target = to,
                other => self.faults.push(other),
            }
        }
        let mut pieces = vec![(0, Payload::Bytes(Arc::clone(bytes)))];
        for sector in lost {
            let without = sector..sector + widen(SECTOR_BYTES);
            pieces = pieces.iter().flat_map(|(at, piece)| piece.outside(*at, &without)).collect();
        }
        if fails {
            let State { visible, random, abandoned, .. } = self;
            for (at, piece) in pieces {
                piece.for_each_sector(target + at, |at, sector| {
                    if random.chance(128) {
                        visible.write(at, sector);
                        abandoned.insert(at, *sector);
                    }
                });
            }
        } else {
            pieces.into_iter().for_each(|(at, piece)| self.put(target + at, piece, durable));
        }
        fails
    }

    fn after_power_loss(&self, seed: u64) -> DeviceImage {
        let mut random = Random::new(seed ^ self.seed.rotate_left(32));
        let mercy = Mercy::draw(&mut random);
        let mut at_risk: Vec<(u64, &Payload)> = self.cache.iter().map(|write| (write.offset, &write.payload)).collect();
        at_risk.extend(self.under_way.iter().map(|write| (write.offset, &write.payload)));
        mercy.order(&mut at_risk, &mut random);
        let mut image = self.medium.clone();
        for (at, sector) in &self.abandoned {
            if mercy.keeps(&mut random) {
                image.write(*at, sector);
            }
        }
        for (offset, payload) in at_risk {
            lose_power(payload, offset, &mut image, &mercy, &mut random);
        }
        image
    }
}

impl Inner {
    fn poll(&self, count: usize) -> usize {
        let mut polled = 0;
        while polled < count {
            let (completion, outcome) = {
                let mut state = self.state.lock();
                let length = state.under_way.len();
                if length == 0 {
                    return polled;
                }
                let chosen = state.random.below(length);
                let write = state.under_way.swap_remove(chosen);
                (write.completion, complete_in(&mut state, write.offset, &write.payload, write.durable))
            };
            completion.complete(outcome);
            polled += 1;
        }
        polled
    }

    fn try_submit(self: &Arc<Self>, write: &Write) -> Result<Ticket, DeviceError> {
        let bytes = check_write(&self.geometry, write)?;
        let mut state = self.state.lock();
        state.begin_io()?;
        state.counters.writes += 1;
        state.counters.bytes_written += widen(bytes.len());
        state.counters.durable_writes += u64::from(write.durable);
        let payload = Payload::Bytes(Arc::from(bytes));
        if state.slow {
            let (ticket, completion) = Ticket::pair_driven_by(Some(Arc::clone(self) as Arc<dyn Drive>));
            state.under_way.push(UnderWay { offset: write.offset, payload, durable: write.durable, completion });
            return Ok(ticket);
        }
        let outcome = complete_in(&mut state, write.offset, &payload, write.durable);
        Ok(Ticket::done(outcome))
    }
}

/// The write reaches the cache or the medium; its outcome.
fn complete_in(state: &mut State, offset: u64, payload: &Payload, durable: bool) -> Result<(), DeviceError> {
    let Payload::Bytes(bytes) = payload else {
        state.put(offset, payload.clone(), durable);
        return Ok(());
    };
    if state.put_with_faults(offset, bytes, durable) {
        let (operation, length) = (Operation::Write, payload.len());
        return Err(DeviceError::Io { operation, offset, length, errno: libc::EIO });
    }
    Ok(())
}

impl Drive for Inner {
    fn drive(&self) -> bool {
        self.poll(1) > 0
    }
}

impl Device for SimulatedDevice {
    fn geometry(&self) -> Geometry {
        self.inner.geometry
    }

    fn read(&self, offset: u64, into: &mut AlignedBuf) -> Result<(), DeviceError> {
        let (operation, length) = (Operation::Read, widen(into.len()));
        check_range(&self.inner.geometry, operation, offset, length)?;
        let mut state = self.inner.state.lock();
        if state.crashed {
            return Err(DeviceError::Crashed);
        }
        state.counters.reads += 1;
        state.counters.bytes_read += length;
        if state.unreadable.range(offset..offset + length).next().is_some() {
            return Err(DeviceError::Io { operation, offset, length, errno: libc::EIO });
        }
        state.visible.read(offset, into.as_mut_slice());
        for (sector, held) in state.stale.range(offset..offset + length) {
            let start = usize::try_from(sector - offset).unwrap_or(0);
            if let Some(part) = into.as_mut_slice().get_mut(start..start + SECTOR_BYTES) {
                part.copy_from_slice(held);
            }
        }
        Ok(())
    }

    fn submit(&self, write: Write) -> Ticket {
        self.inner.try_submit(&write).unwrap_or_else(|error| Ticket::done(Err(error)))
    }

    fn flush(&self) -> Result<(), DeviceError> {
        let under_way = {
            let mut state = self.inner.state.lock();
            state.begin_io()?;
            state.counters.flushes += 1;
            if let Some(fault) = state.faults.iter().position(|fault| *fault == Fault::FailFlush) {
                state.faults.remove(fault);
                let State { cache, abandoned, .. } = &mut *state;
                for Cached { offset, payload } in cache.drain(..) {
                    payload.for_each_sector(offset, |at, sector| {
                        abandoned.insert(at, *sector);
                    });
                }
                return Err(DeviceError::Io { operation: Operation::Flush, offset: 0, length: 0, errno: libc::EIO });
            }
            let State { cache, abandoned, medium, .. } = &mut *state;
            for Cached { offset, payload } in cache.drain(..) {
                payload.apply(offset, medium);
                abandoned.retain(|at, _| *at < offset || *at >= offset.saturating_add(payload.len()));
            }
            state.under_way.len()
        };
        // Not covered: they complete into the cache.
        self.poll(under_way);
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        check_range(&self.inner.geometry, Operation::Discard, offset, len)?;
        let mut state = self.inner.state.lock();
        state.begin_io()?;
        state.counters.discards += 1;
        state.put(offset, Payload::Zeros(len), false);
        Ok(())
    }

    fn own_reads(&self, _depth: u32) -> Result<Option<Box<dyn DeviceReads>>, DeviceError> {
        Ok(Some(Box::new(reads::Reads::new(self.clone()))))
    }

    fn label(&self) -> String {
        format!("simulated device, seed {}", self.inner.state.lock().seed)
    }
}

impl std::fmt::Debug for SimulatedDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimulatedDevice").field("geometry", &self.inner.geometry).finish_non_exhaustive()
    }
}

fn sector_of(offset: u64) -> u64 {
    offset - offset % widen(SECTOR_BYTES)
}
