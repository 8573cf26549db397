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
//! With a [`LatencyModel`], requests take virtual time: writes complete when their time has come, a read, a flush or a wait moves the clock to its end.
//!
//! A durable write goes to the medium when it completes, and nothing else does.
//! A flush makes durable what had *completed* before it, and no write that was still under way. Writes covered by a
//! failed flush stay visible but are never made durable by a later one, as Linux behaves.

mod faults;
mod latency;
mod reads;
mod state;
#[cfg(test)]
mod tests;

pub use faults::{Effect, Fault, Fired, On, Rule, When};
pub use latency::{LatencyModel, RequestKind, Served, VirtualClock};

use super::image::{DeviceImage, Payload, SECTOR_BYTES};
use super::random::Random;
use super::ticket::Drive;
use super::{AlignedBuf, Device, DeviceError, DeviceReads, Geometry, Operation, Ticket, Write};
use super::{check_range, check_write, widen};
use crate::sync::Mutex;
use faults::Rules;
use latency::Schedule;
use state::{State, UnderWay};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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
            rules: Rules::default(),
            end: None,
            schedule: None,
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
        self.inner.complete(count, u64::MAX).0
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
                rules: std::mem::take(&mut state.rules),
                end: state.end,
                schedule: state.schedule.take(),
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
            Fault::Readable { offset } => {
                state.unreadable.remove(&sector_of(offset));
            }
            Fault::FlipBits { offset, mask } => state.flip(offset, mask),
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

    /// From now on operations are looked at by this rule too. The first that strikes decides.
    pub fn rule(&self, rule: Rule) {
        self.inner.state.lock().rules.add(rule);
    }

    /// Takes all rules back.
    pub fn clear_rules(&self) {
        self.inner.state.lock().rules.clear();
    }

    /// What rules have done, in order.
    #[must_use]
    pub fn fired(&self) -> Vec<Fired> {
        self.inner.state.lock().rules.fired.clone()
    }

    /// Bit rot: flips `bits` bits of what is stored in a range, at places drawn from `seed`; returns the bytes hit.
    pub fn rot(&self, range: std::ops::Range<u64>, bits: usize, seed: u64) -> Vec<u64> {
        let mut random = Random::new(seed);
        let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        let mut state = self.inner.state.lock();
        (0..bits)
            .map(|_| {
                let at = range.start + widen(random.below(length));
                state.flip(at, 1 << random.below(8));
                at
            })
            .collect()
    }

    /// The device ends here although it says otherwise: requests that pass it answer [`DeviceError::ShortDevice`].
    pub fn end_at(&self, bytes: u64) {
        self.inner.state.lock().end = Some(bytes);
    }

    /// From now on requests take the time that `model` says, on `clock`. In place of [`slow`](Self::slow): writes complete in the order of their times.
    #[must_use]
    pub fn timed(self, model: LatencyModel, clock: &Arc<VirtualClock>) -> SimulatedDevice {
        self.inner.state.lock().schedule = Some(Schedule::new(model, Arc::clone(clock)));
        self
    }

    /// Starts to note each request that is served in time.
    pub fn note_served(&self) {
        if let Some(schedule) = &mut self.inner.state.lock().schedule {
            schedule.served.get_or_insert_default();
        }
    }

    /// The requests served in time since the last call, in the order in which they were asked for; none unless noted.
    #[must_use]
    pub fn take_served(&self) -> Vec<Served> {
        let mut state = self.inner.state.lock();
        state.schedule.as_mut().and_then(|schedule| schedule.served.as_mut()).map(std::mem::take).unwrap_or_default()
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

    /// When a read that is asked for now will be done; `None` without virtual time.
    fn serve_read(&self, offset: u64, length: u64) -> Option<(Arc<VirtualClock>, u64)> {
        Inner::serve(&mut self.inner.state.lock(), RequestKind::Read, offset, length)
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

impl Inner {
    /// Completes writes that are under way: those due by `until_ns` in virtual time, else any; at most `count`. Returns how many, and when the last was due.
    fn complete(&self, count: usize, until_ns: u64) -> (usize, u64) {
        let (mut completed, mut last_ns) = (0, 0);
        while completed < count {
            let (completion, outcome) = {
                let mut state = self.state.lock();
                let length = state.under_way.len();
                if length == 0 {
                    break;
                }
                let chosen = if state.schedule.is_some() {
                    let first = state.under_way.iter().enumerate().min_by_key(|(_, write)| write.due_ns);
                    match first {
                        Some((chosen, write)) if write.due_ns <= until_ns => chosen,
                        _ => break,
                    }
                } else {
                    state.random.below(length)
                };
                let write = state.under_way.swap_remove(chosen);
                last_ns = write.due_ns;
                (write.completion, complete_in(&mut state, write.offset, &write.payload, write.durable))
            };
            completion.complete(outcome);
            completed += 1;
        }
        (completed, last_ns)
    }

    /// In virtual time: what is due has completed.
    fn settle(&self) {
        let now = self.state.lock().schedule.as_ref().map(|schedule| schedule.clock.now_ns());
        if let Some(now) = now {
            self.complete(usize::MAX, now);
        }
    }

    /// Puts a request into the schedule, if there is one: the clock, and when it is done.
    fn serve(state: &mut State, kind: RequestKind, offset: u64, length: u64) -> Option<(Arc<VirtualClock>, u64)> {
        let cached = match kind {
            RequestKind::Flush => state.cache.iter().map(|cached| cached.payload.len()).sum(),
            _ => 0,
        };
        let schedule = state.schedule.as_mut()?;
        let done_ns = schedule.serve(kind, offset, length, cached);
        Some((Arc::clone(&schedule.clock), done_ns))
    }

    fn check_end(state: &State, operation: Operation, offset: u64, length: u64) -> Result<(), DeviceError> {
        match state.end {
            Some(size) if offset + length > size => Err(DeviceError::ShortDevice { operation, offset, length, size }),
            _ => Ok(()),
        }
    }

    fn try_submit(self: &Arc<Self>, write: &Write) -> Result<Ticket, DeviceError> {
        let bytes = check_write(&self.geometry, write)?;
        self.settle();
        let mut state = self.state.lock();
        state.begin_io()?;
        let length = widen(bytes.len());
        Self::check_end(&state, Operation::Write, write.offset, length)?;
        state.counters.writes += 1;
        state.counters.bytes_written += length;
        state.counters.durable_writes += u64::from(write.durable);
        let payload = Payload::Bytes(Arc::from(bytes));
        let served = Self::serve(&mut state, RequestKind::Write, write.offset, length);
        if state.slow || served.is_some() {
            let (ticket, completion) = Ticket::pair_driven_by(Some(Arc::clone(self) as Arc<dyn Drive>));
            let due_ns = served.map_or(0, |(_, done_ns)| done_ns);
            let (offset, durable) = (write.offset, write.durable);
            state.under_way.push(UnderWay { offset, payload, durable, completion, due_ns });
            return Ok(ticket);
        }
        let outcome = complete_in(&mut state, write.offset, &payload, write.durable);
        Ok(Ticket::done(outcome))
    }

    /// The bytes of a read; in virtual time, it does not take any.
    fn read(&self, offset: u64, into: &mut AlignedBuf) -> Result<(), DeviceError> {
        let (operation, length) = (Operation::Read, widen(into.len()));
        check_range(&self.geometry, operation, offset, length)?;
        let mut state = self.state.lock();
        if state.crashed {
            return Err(DeviceError::Crashed);
        }
        Self::check_end(&state, operation, offset, length)?;
        state.counters.reads += 1;
        state.counters.bytes_read += length;
        let effect = state.strike(On::Read, &(offset..offset + length));
        match effect {
            Some(Effect::Fail(errno)) => return Err(DeviceError::Io { operation, offset, length, errno }),
            Some(Effect::Lie) => return Ok(()),
            _ => {}
        }
        if state.unreadable.range(offset..offset + length).next().is_some() {
            return Err(DeviceError::Io { operation, offset, length, errno: libc::EIO });
        }
        let image = if effect == Some(Effect::Stale) { &state.medium } else { &state.visible };
        image.read(offset, into.as_mut_slice());
        for (sector, held) in state.stale.range(offset..offset + length) {
            let start = usize::try_from(sector - offset).unwrap_or(0);
            if let Some(part) = into.as_mut_slice().get_mut(start..start + SECTOR_BYTES) {
                part.copy_from_slice(held);
            }
        }
        if effect == Some(Effect::Flip) {
            let (byte, bit) = (state.random.below(into.len()), state.random.below(8));
            if let Some(byte) = into.as_mut_slice().get_mut(byte) {
                *byte ^= 1 << bit;
            }
        }
        Ok(())
    }
}

fn complete_in(state: &mut State, offset: u64, payload: &Payload, durable: bool) -> Result<(), DeviceError> {
    match payload {
        Payload::Bytes(bytes) => state.complete(offset, bytes, durable),
        Payload::Zeros(_) => {
            state.put(offset, payload.clone(), durable);
            Ok(())
        }
    }
}

impl Drive for Inner {
    fn drive(&self) -> bool {
        let (completed, due_ns) = self.complete(1, u64::MAX);
        if let Some(schedule) = &self.state.lock().schedule
            && completed > 0
        {
            schedule.clock.advance_to(due_ns);
        }
        completed > 0
    }
}

impl Device for SimulatedDevice {
    fn geometry(&self) -> Geometry {
        self.inner.geometry
    }

    fn read(&self, offset: u64, into: &mut AlignedBuf) -> Result<(), DeviceError> {
        check_range(&self.inner.geometry, Operation::Read, offset, widen(into.len()))?;
        self.inner.settle();
        let served = self.serve_read(offset, widen(into.len()));
        if let Some((clock, done_ns)) = served {
            clock.advance_to(done_ns);
            self.inner.settle();
        }
        self.inner.read(offset, into)
    }

    fn submit(&self, write: Write) -> Ticket {
        self.inner.try_submit(&write).unwrap_or_else(|error| Ticket::done(Err(error)))
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.inner.settle();
        let (under_way, served) = {
            let mut state = self.inner.state.lock();
            state.begin_io()?;
            state.counters.flushes += 1;
            let served = Inner::serve(&mut state, RequestKind::Flush, 0, 0);
            let once = state.faults.iter().position(|fault| *fault == Fault::FailFlush);
            let failed = once.map(|fault| {
                state.faults.remove(fault);
                Effect::Fail(libc::EIO)
            });
            match failed.or_else(|| state.strike(On::Flush, &(0..u64::MAX))) {
                Some(Effect::Fail(errno)) => {
                    state.fail_flush();
                    return Err(DeviceError::Io { operation: Operation::Flush, offset: 0, length: 0, errno });
                }
                Some(Effect::Lie) => {}
                _ => state.flush(),
            }
            (state.under_way.len(), served)
        };
        match served {
            Some((clock, done_ns)) => {
                clock.advance_to(done_ns);
                self.inner.settle();
            }
            // Not covered: they complete into the cache.
            None => {
                self.inner.complete(under_way, u64::MAX);
            }
        }
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        let operation = Operation::Discard;
        check_range(&self.inner.geometry, operation, offset, len)?;
        self.inner.settle();
        let served = {
            let mut state = self.inner.state.lock();
            state.begin_io()?;
            Inner::check_end(&state, operation, offset, len)?;
            state.counters.discards += 1;
            match state.strike(On::Discard, &(offset..offset + len)) {
                Some(Effect::Fail(errno)) => return Err(DeviceError::Io { operation, offset, length: len, errno }),
                Some(Effect::Lie) => {}
                _ => state.put(offset, Payload::Zeros(len), false),
            }
            Inner::serve(&mut state, RequestKind::Discard, offset, len)
        };
        if let Some((clock, done_ns)) = served {
            clock.advance_to(done_ns);
        }
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
