//! What a simulated device holds: the medium, the volatile cache over it, writes under way; and what power loss leaves.

use super::super::image::{DeviceImage, Mercy, Payload, SECTOR_BYTES, lose_power};
use super::super::random::Random;
use super::super::{Completion, DeviceError, Operation, widen};
use super::Counters;
use super::faults::{Effect, Fault, On, Rules};
use super::latency::Schedule;
use super::sector_of;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

pub(super) struct State {
    pub(super) seed: u64,
    pub(super) random: Random,
    /// What survives power loss for certain.
    pub(super) medium: DeviceImage,
    /// What reads return.
    pub(super) visible: DeviceImage,
    /// Completed, not flushed.
    pub(super) cache: Vec<Cached>,
    /// Sectors of failed writes and of writes whose flush failed: visible, but no later flush makes them durable.
    pub(super) abandoned: BTreeMap<u64, [u8; SECTOR_BYTES]>,
    pub(super) under_way: Vec<UnderWay>,
    pub(super) slow: bool,
    pub(super) crashed: bool,
    /// Writes, flushes and discards until the machine stops.
    pub(super) ios_left: Option<u64>,
    pub(super) counters: Counters,
    pub(super) faults: Vec<Fault>,
    pub(super) unreadable: BTreeSet<u64>,
    pub(super) stale: BTreeMap<u64, [u8; SECTOR_BYTES]>,
    pub(super) rules: Rules,
    /// Where the device ends before its geometry says so.
    pub(super) end: Option<u64>,
    pub(super) schedule: Option<Schedule>,
}

pub(super) struct Cached {
    pub(super) offset: u64,
    pub(super) payload: Payload,
}

pub(super) struct UnderWay {
    pub(super) offset: u64,
    pub(super) payload: Payload,
    pub(super) durable: bool,
    pub(super) completion: Completion,
    /// In virtual time, if there is any.
    pub(super) due_ns: u64,
}

impl State {
    /// Counts one write, flush or discard against `crash_after`.
    pub(super) fn begin_io(&mut self) -> Result<(), DeviceError> {
        if let Some(left) = &mut self.ios_left {
            match left.checked_sub(1) {
                Some(rest) => *left = rest,
                None => self.crashed = true,
            }
        }
        if self.crashed { Err(DeviceError::Crashed) } else { Ok(()) }
    }

    /// A write or discard reaches the cache, or the medium.
    pub(super) fn put(&mut self, offset: u64, payload: Payload, durable: bool) {
        payload.apply(offset, &mut self.visible);
        let end = offset.saturating_add(payload.len());
        if !self.unreadable.is_empty() {
            self.unreadable.retain(|sector| *sector < offset || *sector >= end);
        }
        if !durable {
            self.cache.push(Cached { offset, payload });
            return;
        }
        payload.apply(offset, &mut self.medium);
        if !self.abandoned.is_empty() {
            self.abandoned.retain(|at, _| *at < offset || *at >= end);
        }
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
            pieces.iter().for_each(|(at, piece)| self.abandon(target + at, piece));
        } else {
            pieces.into_iter().for_each(|(at, piece)| self.put(target + at, piece, durable));
        }
        fails
    }

    /// A write fails: any of its sectors may have changed, and none becomes durable.
    fn abandon(&mut self, offset: u64, payload: &Payload) {
        let State { visible, random, abandoned, .. } = self;
        payload.for_each_sector(offset, |at, sector| {
            if random.chance(128) {
                visible.write(at, sector);
                abandoned.insert(at, *sector);
            }
        });
    }

    /// What the rules do to an operation.
    pub(super) fn strike(&mut self, on: On, touched: &Range<u64>) -> Option<Effect> {
        self.rules.strike(on, touched, &mut self.random)
    }

    /// The write reaches the cache or the medium; its outcome.
    pub(super) fn complete(&mut self, offset: u64, bytes: &Arc<[u8]>, durable: bool) -> Result<(), DeviceError> {
        let (operation, length) = (Operation::Write, widen(bytes.len()));
        let failed = |errno| Err(DeviceError::Io { operation, offset, length, errno });
        let sectors = bytes.len() / SECTOR_BYTES;
        let (mut at, mut durable) = (offset, durable);
        let mut stored = Arc::clone(bytes);
        match self.strike(On::Write, &(offset..offset + length)) {
            None | Some(Effect::Stale) => {}
            Some(Effect::Fail(errno)) => {
                self.abandon(offset, &Payload::Bytes(stored));
                return failed(errno);
            }
            Some(Effect::Lie) => return Ok(()),
            Some(Effect::Volatile) => durable = false,
            Some(Effect::Misdirect) => {
                let places = usize::try_from(self.visible.size_bytes().saturating_sub(length)).unwrap_or(usize::MAX);
                at = sector_of(widen(self.random.below(places + 1)));
            }
            Some(Effect::Tear) => {
                let kept = self.random.below(sectors) * SECTOR_BYTES;
                stored = bytes.get(..kept).unwrap_or_default().into();
            }
            Some(Effect::Flip) => {
                let (byte, bit) = (self.random.below(bytes.len()), self.random.below(8));
                if let Some(byte) = Arc::make_mut(&mut stored).get_mut(byte) {
                    *byte ^= 1 << bit;
                }
            }
        }
        if !stored.is_empty() && self.put_with_faults(at, &stored, durable) { failed(libc::EIO) } else { Ok(()) }
    }

    /// A flush fails: what it covered stays visible and is never durable.
    pub(super) fn fail_flush(&mut self) {
        let State { cache, abandoned, .. } = self;
        for Cached { offset, payload } in cache.drain(..) {
            payload.for_each_sector(offset, |at, sector| {
                abandoned.insert(at, *sector);
            });
        }
    }

    /// What has completed becomes durable.
    pub(super) fn flush(&mut self) {
        let State { cache, abandoned, medium, .. } = self;
        for Cached { offset, payload } in cache.drain(..) {
            payload.apply(offset, medium);
            if !abandoned.is_empty() {
                abandoned.retain(|at, _| *at < offset || *at >= offset.saturating_add(payload.len()));
            }
        }
    }

    /// One bit flips in what is stored, wherever that is.
    pub(super) fn flip(&mut self, offset: u64, mask: u8) {
        let in_cache = self.cache.iter_mut().filter_map(|write| write.payload.byte_mut(write.offset, offset));
        in_cache.for_each(|byte| *byte ^= mask);
        for image in [&mut self.medium, &mut self.visible] {
            let mut byte = [0];
            image.read(offset, &mut byte);
            image.write(offset, &byte.map(|byte| byte ^ mask));
        }
    }

    pub(super) fn after_power_loss(&self, seed: u64) -> DeviceImage {
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
