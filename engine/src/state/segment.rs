//! One logical segment as its page says: live units, counts, moved units, and units that only retained checkpoints need.

use super::Runs;
use envoyfs_layout::UNIT;
use envoyfs_layout::system_page::{Moved, SegmentPage};
use std::collections::BTreeMap;
use std::ops::Range;

/// Units that the cleaner moved out of their segment's home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Units.
    pub units: u32,
    /// Container.
    pub container: u32,
    /// First unit in that container.
    pub offset_units: u32,
}

/// Moved units by first slot.
pub type SlotMap = BTreeMap<u32, Fragment>;

/// Bytes of memory that a slot map with so many entries takes at most.
#[must_use]
pub const fn map_memory(entries: usize) -> u64 {
    tree_memory(entries, 16)
}

/// Bytes that a `BTreeMap` takes at most: nodes have 11 places of which at least 5 are used (a map's first node aside), and every sixth entry stands in a node with 12 pointers besides.
const fn tree_memory(entries: usize, entry_bytes: u64) -> u64 {
    let node = 11 * entry_bytes + 24;
    let (leaves, inner) = (entries.div_ceil(5) as u64, if entries > 11 { entries as u64 / 30 + 1 } else { 0 });
    leaves * node + inner * (node + 96)
}

/// Bytes of memory that a page of so many stored bytes becomes at most.
#[must_use]
pub const fn memory_of_page(stored_bytes: u64) -> u64 {
    // A run is stored in 4 bytes, a count in 6, a moved fragment in 12.
    640 + 6 * stored_bytes
}

/// A logical segment. Where its home is, the segment table says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Live units by slot, deferred ones included.
    pub live: Runs,
    /// References less one, by slot, of objects that do not have exactly one; -1 for a node in the drop queue.
    pub extra: BTreeMap<u16, i32>,
    /// Moved units.
    pub moved: SlotMap,
    /// Live units that nothing of the newest checkpoint needs, but a retained one.
    pub deferred: Runs,
}

impl Segment {
    /// As its page says.
    #[must_use]
    pub fn of_page(page: &SegmentPage) -> Self {
        let mut segment =
            Self { extra: page.extra.iter().copied().collect(), moved: slot_map(page), ..Self::default() };
        for (slot, units) in &page.live {
            segment.live.insert(u32::from(*slot)..u32::from(*slot) + u32::from(*units));
        }
        for (slot, units) in &page.deferred {
            segment.deferred.insert(u32::from(*slot)..u32::from(*slot) + u32::from(*units));
        }
        segment
    }

    /// Its page.
    #[must_use]
    pub fn page(&self, number: u32) -> SegmentPage {
        let moved = |(slot, f): (&u32, &Fragment)| Moved {
            slot: small(*slot),
            units: small(f.units),
            container: f.container,
            offset_units: f.offset_units,
        };
        SegmentPage {
            segment: number,
            live: rows(&self.live),
            extra: self.extra.iter().map(|(slot, extra)| (*slot, *extra)).collect(),
            moved: self.moved.iter().map(moved).collect(),
            deferred: rows(&self.deferred),
        }
    }

    /// Bytes of memory that it takes at most, its place in a table of segments included.
    #[must_use]
    pub fn memory(&self) -> u64 {
        let runs = tree_memory(self.live.count(), 8) + tree_memory(self.deferred.count(), 8);
        320 + runs + tree_memory(self.extra.len(), 6) + map_memory(self.moved.len())
    }

    /// Bytes that its page takes on the device at most.
    #[must_use]
    pub fn page_bytes_max(&self) -> u64 {
        let runs = 4 * (self.live.count() + self.deferred.count());
        let rows = runs + 6 * self.extra.len() + 12 * self.moved.len();
        (64 + rows as u64).next_multiple_of(u64::from(UNIT))
    }

    /// Objects that have more than one reference.
    #[must_use]
    pub fn shared(&self) -> u64 {
        self.extra.values().filter(|extra| **extra > 0).count() as u64
    }
}

/// The slot map in a page.
#[must_use]
pub fn slot_map(page: &SegmentPage) -> SlotMap {
    let fragment = |row: &Moved| {
        let fragment = Fragment { units: row.units.into(), container: row.container, offset_units: row.offset_units };
        (row.slot.into(), fragment)
    };
    page.moved.iter().map(fragment).collect()
}

fn small(units: u32) -> u16 {
    u16::try_from(units).unwrap_or(u16::MAX)
}

/// Runs as rows of at most 65535 units.
fn rows(runs: &Runs) -> Vec<(u16, u16)> {
    let mut out = Vec::with_capacity(runs.count());
    for range in runs.iter() {
        let mut at = range.start;
        while at < range.end {
            let units = (range.end - at).min(u32::from(u16::MAX));
            out.push((small(at), small(units)));
            at += units;
        }
    }
    out
}

/// Where a range of units of a segment lies: pieces {container, unit in it, units}, in order; no container for what has no place.
#[must_use]
pub fn locate(home: Option<u32>, moved: &SlotMap, range: &Range<u32>) -> Vec<(Option<u32>, u32, u32)> {
    let mut out = Vec::new();
    let mut at = range.start;
    let from = moved.range(..=range.start).next_back().map_or(range.start, |(slot, _)| *slot);
    for (slot, fragment) in moved.range(from..range.end) {
        let (start, end) = ((*slot).max(range.start), (slot + fragment.units).min(range.end));
        if start >= end {
            continue;
        }
        if at < start {
            out.push((home, at, start - at));
        }
        out.push((Some(fragment.container), fragment.offset_units + (start - slot), end - start));
        at = end;
    }
    if at < range.end {
        out.push((home, at, range.end - at));
    }
    out
}

/// Takes a range out of a slot map, splitting fragments at its ends. Returns what is left of those before and after it.
pub(super) fn cut_out(moved: &mut SlotMap, range: &Range<u32>) -> [Option<Range<u32>>; 2] {
    let from = moved.range(..=range.start).next_back().map_or(range.start, |(slot, _)| *slot);
    let hit: Vec<(u32, Fragment)> = moved
        .range(from..range.end)
        .filter(|(slot, fragment)| *slot + fragment.units > range.start)
        .map(|(slot, fragment)| (*slot, *fragment))
        .collect();
    let mut left = [None, None];
    for (slot, fragment) in hit {
        moved.remove(&slot);
        let [before, after] = &mut left;
        if slot < range.start {
            moved.insert(slot, Fragment { units: range.start - slot, ..fragment });
            *before = Some(slot..range.start);
        }
        let end = slot + fragment.units;
        if end > range.end {
            let offset_units = fragment.offset_units + (range.end - slot);
            moved.insert(range.end, Fragment { units: end - range.end, offset_units, ..fragment });
            *after = Some(range.end..end);
        }
    }
    left
}
