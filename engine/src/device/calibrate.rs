//! Which barrier a device makes best: what the system says about its write cache, and a short measurement.
//!
//! Every mode is correct on every device: the kernel makes up for forced unit access that a device does not have, and a flush is asked for
//! also where the system says that it is not needed. So a wrong choice costs time, never data, and nothing here is repeated at mount; there a
//! device that has changed is only told about.

use super::{AlignedBuf, Device, DeviceError, Ticket, Write, widen};
use crate::hlc::Clock;
use envoyfs_layout::superblock::{Barrier, device_cache};
use std::ops::Range;
use std::sync::Arc;

/// What the system says about a device's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteCache {
    /// Completed writes may be lost until a flush.
    pub volatile: bool,
    /// Forced unit access is one request.
    pub forced_unit_access: bool,
}

impl WriteCache {
    /// As the superblock keeps it.
    #[must_use]
    pub fn bits(cache: Option<WriteCache>) -> u8 {
        let Some(cache) = cache else { return 0 };
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        device_cache::KNOWN
            | bit(cache.volatile, device_cache::VOLATILE)
            | bit(cache.forced_unit_access, device_cache::FORCED_UNIT_ACCESS)
    }
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calibration {
    /// What to use.
    pub barrier: Barrier,
    /// What the system says.
    pub cache: Option<WriteCache>,
    /// Two blocks written and flushed, in nanoseconds: a quarter of the rounds took less.
    pub flush_ns: u64,
    /// Two blocks written durably, likewise.
    pub durable_ns: u64,
    /// Pairs measured.
    pub rounds: u32,
}

const ROUNDS_MAX: u32 = 48;
/// After so long no further pair is measured, once there are three.
const PATIENCE_NS: u64 = 500_000_000;

/// Measures, by writing zeros to `scratch`, and chooses. Takes half a second at most, unless three pairs take longer.
///
/// # Errors
/// What the device reports; a device that refuses durable writes is none: it flushes.
pub fn calibrate(device: &dyn Device, clock: &dyn Clock, scratch: Range<u64>) -> Result<Calibration, DeviceError> {
    let block = u64::from(device.geometry().logical_block_bytes);
    let places = ((scratch.end.saturating_sub(scratch.start)) / block).max(1);
    let zeros = Arc::new(AlignedBuf::zeroed(usize::try_from(block).unwrap_or(4096)));
    // A group as it mostly is: something of the log, and of data that lies elsewhere, written by whoever waits for it.
    let group = |round: u32, durable: bool| {
        let ends = [u64::from(round) % places, places - 1 - u64::from(round) % places];
        let writes = ends.map(|at| Write::whole(scratch.start + at * block, Arc::clone(&zeros)).lazy());
        let tickets = writes.map(|write| device.submit(if durable { write.durable() } else { write }));
        tickets.iter().try_for_each(Ticket::wait)
    };
    let cache = device.write_cache();
    let (mut flushes, mut durables) = (Vec::new(), Vec::new());
    let began = clock.monotonic_ns();
    // The first pair warms up: files allocate, devices wake.
    for round in 0..=ROUNDS_MAX {
        let start = clock.monotonic_ns();
        group(round, false)?;
        device.flush()?;
        let middle = clock.monotonic_ns();
        if let Err(error) = group(round, true) {
            if !error.is_refusal() {
                return Err(error);
            }
            durables.clear();
            break;
        }
        let end = clock.monotonic_ns();
        if round > 0 {
            flushes.push(middle.saturating_sub(start));
            durables.push(end.saturating_sub(middle));
        }
        if round >= 3 && end.saturating_sub(began) > PATIENCE_NS {
            break;
        }
    }
    let rounds = u32::try_from(durables.len()).unwrap_or(0);
    let (flush_ns, durable_ns) = (lower_quartile(flushes), lower_quartile(durables));
    Ok(Calibration { barrier: choose(cache, flush_ns, durable_ns, rounds), cache, flush_ns, durable_ns, rounds })
}

/// Durable writes have to be clearly better: a group of many blocks pays for each of them, and a flush covers all. They may be also where the kernel makes up for forced unit access: it flushes
/// once for all of them that are under way, without going back to who waits.
fn choose(cache: Option<WriteCache>, flush_ns: u64, durable_ns: u64, rounds: u32) -> Barrier {
    match cache {
        Some(WriteCache { volatile: false, .. }) => Barrier::WriteThrough,
        _ if rounds > 0 && durable_ns < flush_ns - flush_ns / 5 => Barrier::ForcedUnitAccess,
        _ => Barrier::Flush,
    }
}

/// Nearer to what the device can do than the median is where others keep the processors busy.
fn lower_quartile(mut times: Vec<u64>) -> u64 {
    times.sort_unstable();
    times.get(times.len() / 4).copied().unwrap_or(0)
}

/// Says so when a store's device is no longer what it was at format.
pub fn warn_if_changed(device: &dyn Device, formatted: u8) {
    let now = WriteCache::bits(device.write_cache());
    if (now & formatted) & device_cache::KNOWN != 0 && now != formatted {
        let text = |bits: u8| {
            let volatile = if bits & device_cache::VOLATILE == 0 { "no volatile cache" } else { "a volatile cache" };
            let forced = if bits & device_cache::FORCED_UNIT_ACCESS == 0 { "without" } else { "with" };
            format!("{volatile}, {forced} forced unit access")
        };
        tracing::warn!(
            device = device.label(),
            formatted = text(formatted),
            now = text(now),
            "the device's write cache is not what it was at mkfs: the store is as safe, commits may be slower than they could be"
        );
    }
}

/// Bytes of a whole number of blocks, for callers that choose the scratch range.
#[must_use]
pub fn scratch_bytes(device: &dyn Device) -> u64 {
    u64::from(2 * (ROUNDS_MAX + 1)) * widen(device.geometry().logical_block_bytes as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Fault, SimulatedDevice};
    use crate::hlc::SystemClock;

    #[test]
    fn the_choice_follows_what_the_system_says_and_then_the_measurement() {
        let cache = |volatile, forced_unit_access| Some(WriteCache { volatile, forced_unit_access });
        let table = [
            (None, 100, 70, 8, Barrier::ForcedUnitAccess),
            (None, 100, 85, 8, Barrier::Flush),
            (None, 100, 0, 0, Barrier::Flush),
            (None, 0, 0, 8, Barrier::Flush),
            (cache(false, true), 100, 10, 8, Barrier::WriteThrough),
            (cache(false, false), 100, 10, 8, Barrier::WriteThrough),
            (cache(true, false), 100, 70, 8, Barrier::ForcedUnitAccess),
            (cache(true, false), 100, 85, 8, Barrier::Flush),
            (cache(true, true), 100, 70, 8, Barrier::ForcedUnitAccess),
            (cache(true, true), 100, 90, 8, Barrier::Flush),
        ];
        for (cache, flush_ns, durable_ns, rounds, expected) in table {
            assert_eq!(choose(cache, flush_ns, durable_ns, rounds), expected, "{cache:?} {flush_ns} {durable_ns}");
        }
    }

    #[test]
    fn a_calibration_stays_in_its_scratch_range_and_tells_errors() {
        let device = SimulatedDevice::new(1 << 20, 512, 1);
        let scratch = 4096..4096 + scratch_bytes(&device);
        let mut marked = AlignedBuf::zeroed(1 << 20);
        marked.as_mut_slice().fill(7);
        device.submit(Write::whole(0, marked)).wait().unwrap();
        let found = calibrate(&device, &SystemClock::new(), scratch.clone()).unwrap();
        assert!(found.rounds >= 3 && found.cache.is_none(), "{found:?}");
        let bytes = device.image().to_bytes();
        let changed: Vec<u64> = (0..).zip(&bytes).filter(|(_, byte)| **byte != 7).map(|(at, _)| at).collect();
        assert_eq!((changed.first(), changed.last()), (Some(&scratch.start), Some(&(scratch.end - 1))));
        device.inject(Fault::WriteError { offset: scratch.start });
        assert!(calibrate(&device, &SystemClock::new(), scratch).is_err());
    }
}
