//! Where objects lie, what is live according to the store, and what the walk of the trees reached.
//!
//! Owns the published segment pages as they were read, and two marks a unit: *used* (some node refers to the object) and *reached* (a node, or a block that a file's
//! slice uses). [`Space::compare`] says where these differ from what the store believes (INV-10..12).
//! Memory: 8 KiB a segment that something lies in.

use super::findings;
use super::report::Report;
use super::source::Source;
use crate::mkfs::size::Size;
use envoyfs_engine::device::DeviceError;
use envoyfs_layout::superblock::Superblock;
use envoyfs_layout::system_page::SegmentPage;
use envoyfs_layout::{Oid, Reference, UNIT};
use std::collections::BTreeMap;
use std::ops::Range;

/// Slots are 16 bits.
const UNITS_MAX: u32 = 1 << 16;

/// A set of units of one segment.
#[derive(Clone, Debug, Default)]
struct Units(Vec<u64>);

impl Units {
    fn insert(&mut self, range: Range<u32>) {
        for unit in range.start..range.end.min(UNITS_MAX) {
            let word = (unit / 64) as usize;
            if self.0.len() <= word {
                self.0.resize(word + 1, 0);
            }
            if let Some(word) = self.0.get_mut(word) {
                *word |= 1 << (unit % 64);
            }
        }
    }
    fn contains(&self, unit: u32) -> bool {
        self.0.get((unit / 64) as usize).is_some_and(|word| word >> (unit % 64) & 1 == 1)
    }
    fn end(&self) -> u32 {
        u32::try_from(self.0.len() * 64).unwrap_or(UNITS_MAX)
    }
}

#[derive(Debug)]
struct Segment {
    home: Option<u32>,
    page: SegmentPage,
    used: Units,
    reached: Units,
}

/// Why an object cannot be read.
#[derive(Debug)]
pub enum ReadError {
    /// No place.
    Unresolved(String),
    /// The device failed.
    Device(DeviceError),
}

/// See the module.
#[derive(Debug)]
pub struct Space {
    segments_offset: u64,
    segment_bytes: u64,
    containers: u32,
    segments: BTreeMap<u32, Segment>,
}

impl Space {
    /// Nothing yet.
    #[must_use]
    pub fn new(superblock: &Superblock) -> Self {
        Self {
            segments_offset: superblock.segments_offset,
            segment_bytes: superblock.segment_bytes.into(),
            containers: superblock.containers,
            segments: BTreeMap::new(),
        }
    }

    /// A segment as its page says; false if there is one of that number already.
    pub fn add(&mut self, page: SegmentPage, home: Option<u32>) -> bool {
        let segment = Segment { home, used: Units::default(), reached: Units::default(), page };
        self.segments.insert(segment.page.segment, segment).is_none()
    }

    /// Device offset of a unit of a container.
    #[must_use]
    pub fn position(&self, container: u32, unit: u32) -> Option<u64> {
        let inside = u64::from(unit) * u64::from(UNIT);
        (container < self.containers && inside < self.segment_bytes)
            .then(|| self.segments_offset + u64::from(container) * self.segment_bytes + inside)
    }

    /// Where units of a segment lie: device offset and units, in order.
    fn locate(&self, number: u32, range: Range<u32>) -> Result<Vec<(u64, u32)>, ReadError> {
        let unresolved = |why: String| ReadError::Unresolved(why);
        let segment = self.segments.get(&number).ok_or_else(|| unresolved(format!("segment {number} is unknown")))?;
        let mut out = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let moved = segment.page.moved.iter().find(|m| {
                let start = u32::from(m.slot);
                start < range.end && start + u32::from(m.units) > at
            });
            let (container, unit, units) = match moved {
                Some(moved) if u32::from(moved.slot) <= at => {
                    let inside = at - u32::from(moved.slot);
                    (Some(moved.container), moved.offset_units + inside, u32::from(moved.units) - inside)
                }
                Some(moved) => (segment.home, at, u32::from(moved.slot) - at),
                None => (segment.home, at, range.end - at),
            };
            let units = units.min(range.end - at);
            let position = container.and_then(|container| self.position(container, unit));
            let position = position.ok_or_else(|| unresolved(format!("unit {at} of segment {number} has no place")))?;
            out.push((position, units));
            at += units;
        }
        Ok(out)
    }

    /// Reads bytes of an object; `first` and the length are multiples of a unit.
    ///
    /// # Errors
    /// It has no place, or the device failed.
    pub fn read(&self, source: &Source, oid: Oid, first: u32, into: &mut [u8]) -> Result<u64, ReadError> {
        let start = u32::from(oid.slot()) + first / UNIT;
        let units = u32::try_from(into.len()).unwrap_or(u32::MAX) / UNIT;
        let mut rest = into;
        let mut begins = None;
        for (position, units) in self.locate(oid.segment(), start..start.saturating_add(units))? {
            let (piece, after) = rest.split_at_mut(((units * UNIT) as usize).min(rest.len()));
            source.read_at(position, piece).map_err(ReadError::Device)?;
            begins.get_or_insert(position);
            rest = after;
        }
        Ok(begins.unwrap_or(0))
    }

    /// The whole object is referenced.
    pub fn mark_used(&mut self, reference: &Reference) {
        let start = u32::from(reference.oid.slot());
        if let Some(segment) = self.segments.get_mut(&reference.oid.segment()) {
            segment.used.insert(start..start.saturating_add(reference.units()));
        }
    }

    /// Units from the object's start are in use.
    pub fn mark_reached(&mut self, oid: Oid, units: Range<u32>) {
        let start = u32::from(oid.slot());
        if let Some(segment) = self.segments.get_mut(&oid.segment()) {
            segment.reached.insert(start.saturating_add(units.start)..start.saturating_add(units.end));
        }
    }

    /// References to an object according to the store.
    #[must_use]
    pub fn count(&self, oid: Oid) -> Option<i64> {
        let page = &self.segments.get(&oid.segment())?.page;
        let row =
            page.extra.binary_search_by_key(&oid.slot(), |(slot, _)| *slot).ok().and_then(|at| page.extra.get(at));
        Some(1 + row.map_or(0, |(_, extra)| i64::from(*extra)))
    }

    /// Objects whose count is not 1, with it.
    pub fn counted(&self, volume: u16) -> impl Iterator<Item = (Oid, i64)> + '_ {
        self.segments.iter().flat_map(move |(number, segment)| {
            let number = *number;
            segment.page.extra.iter().map(move |(slot, extra)| (Oid::new(volume, number, *slot), 1 + i64::from(*extra)))
        })
    }

    /// Live bytes according to the store.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        let units = self.segments.values().flat_map(|s| &s.page.live).map(|(_, units)| u64::from(*units)).sum::<u64>();
        units * u64::from(UNIT)
    }

    /// Live units in every container, as the pages have it.
    #[must_use]
    pub fn live_by_container(&self) -> BTreeMap<u32, u32> {
        let mut out: BTreeMap<u32, u32> = BTreeMap::new();
        for (number, segment) in &self.segments {
            for (slot, units) in &segment.page.live {
                let range = u32::from(*slot)..u32::from(*slot) + u32::from(*units);
                for (position, units) in self.locate(*number, range).unwrap_or_default() {
                    let container = (position - self.segments_offset) / self.segment_bytes;
                    *out.entry(u32::try_from(container).unwrap_or(u32::MAX)).or_default() += units;
                }
            }
        }
        out
    }

    /// Compares what is live with what was reached. `complete`: every node was read, so that what was not reached is unreachable.
    pub fn compare(&self, volume: u16, complete: bool, report: &mut Report) {
        for (number, segment) in &self.segments {
            let mut live = Units::default();
            for (slot, units) in &segment.page.live {
                live.insert(u32::from(*slot)..u32::from(*slot) + u32::from(*units));
            }
            let end = live.end().max(segment.used.end());
            let mut runs = Runs::default();
            for unit in 0..end {
                let (live, used, reached) =
                    (live.contains(unit), segment.used.contains(unit), segment.reached.contains(unit));
                runs.push(
                    unit,
                    match (live, used, reached) {
                        (false, _, true) => Some(Difference::NotLive),
                        (true, false, _) if complete => Some(Difference::Leaked),
                        (true, true, false) if complete => Some(Difference::Reclaimable),
                        _ => None,
                    },
                );
            }
            runs.push(end, None);
            for (range, difference) in runs.done {
                let bytes = u64::from(range.end - range.start) * u64::from(UNIT);
                let place = Oid::new(volume, *number, u16::try_from(range.start).unwrap_or(u16::MAX));
                let kind = match difference {
                    Difference::NotLive => findings::NOT_LIVE,
                    Difference::Leaked => findings::LEAKED,
                    Difference::Reclaimable => {
                        report.statistics.reclaimable_bytes += bytes;
                        continue;
                    }
                };
                report.add(kind, format_args!("object {place}"), Size(bytes));
            }
        }
        let reclaimable = report.statistics.reclaimable_bytes;
        if reclaimable > 0 {
            report.add(findings::RECLAIMABLE, "store", Size(reclaimable));
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Difference {
    NotLive,
    Leaked,
    Reclaimable,
}

/// Gathers equal neighbours.
#[derive(Default)]
struct Runs {
    open: Option<(u32, Difference)>,
    done: Vec<(Range<u32>, Difference)>,
}

impl Runs {
    fn push(&mut self, unit: u32, what: Option<Difference>) {
        if self.open.map(|(_, difference)| difference) == what {
            return;
        }
        if let Some((start, difference)) = self.open.take() {
            self.done.push((start..unit, difference));
        }
        self.open = what.map(|what| (unit, what));
    }
}
