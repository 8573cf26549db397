//! Where objects lie, what is live according to the store, and what the walk of the trees reached.
//!
//! Owns the published segment pages as they were read, and for every unit three marks: *used* (some node refers to the object), *reached* (a node, or a block that a file's
//! slice uses) and *begun* (an object that something refers to begins here); besides, the edges beyond the first of objects with several. What only trees refer to that wait to
//! be freed is *waiting* instead of used and reached: it may live or not. [`Space::compare`] says where these
//! differ from what the store believes (INV-06, INV-10..12), [`Space::exact`] what a page must say.
//! Memory: three bits a unit (a fourth, *kept*, for what retained checkpoints need, a fifth for what is waiting) and 24 bytes an object with several references, in the range of segments that this pass
//! looks at ([`Space::marked_bytes`]); the pages.

use super::disk::Disk;
use super::findings;
use super::report::Report;
use super::units::{Difference, Units, differences};
use crate::mkfs::size::Size;
use envoyfs_engine::device::DeviceError;
use envoyfs_layout::superblock::Superblock;
use envoyfs_layout::system_page::{Moved, SegmentPage};
use envoyfs_layout::wal::{Relocated, SegmentPlaced};
use envoyfs_layout::{Oid, Reference, ReferenceKind, UNIT, checksum};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;

/// A segment: what its page says, and what was found.
#[derive(Debug, Default)]
pub struct Segment {
    /// Container in which units lie at their own slot.
    pub home: Option<u32>,
    /// Its page.
    pub page: SegmentPage,
    /// Its page could not be read: what it says is empty, not known.
    pub unknown: bool,
    used: Units,
    reached: Units,
    begun: Units,
    kept: Units,
    waiting: Units,
    more: BTreeMap<u16, u32>,
    extents: u32,
}

/// What [`Space::with_log`] changed.
#[derive(Debug, Default)]
pub struct FromLog {
    added: Vec<u32>,
    moved: BTreeMap<u32, Vec<Moved>>,
}

/// How much of what the trees refer to is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Every node was read.
    All,
    /// Not every one.
    Part {
        /// What pages say of retained checkpoints agrees with the lists of these.
        deferred: bool,
    },
}

/// Why an object cannot be read.
#[derive(Debug)]
pub enum ReadError {
    /// No place.
    Unresolved(String),
    /// The device failed.
    Device(DeviceError),
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unresolved(why) => f.write_str(why),
            Self::Device(error) => error.fmt(f),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Space {
    segments_offset: u64,
    segment_bytes: u64,
    containers: u32,
    segments: BTreeMap<u32, Segment>,
    range: Range<u32>,
    marked_bytes: u64,
    copies: BTreeMap<Oid, Vec<u8>>,
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
            range: 0..u32::MAX,
            marked_bytes: 0,
            copies: BTreeMap::new(),
        }
    }

    /// Copies of nodes at the top, from a roots object: what a node that cannot be read is read from. Each has the checksum of the reference to it.
    pub fn set_copies(&mut self, copies: &[(Oid, Vec<u8>)]) {
        self.copies = copies.iter().cloned().collect();
    }

    /// The copy of a root node.
    #[must_use]
    pub fn copy(&self, oid: Oid) -> Option<&[u8]> {
        self.copies.get(&oid).map(Vec::as_slice)
    }

    /// A segment as its page says; false if there is one of that number already.
    pub fn add(&mut self, page: SegmentPage, home: Option<u32>, unknown: bool) -> bool {
        if self.segments.contains_key(&page.segment) {
            return false;
        }
        self.segments.insert(page.segment, Segment { home, page, unknown, ..Segment::default() });
        true
    }

    /// Gives a segment whose page could not be read its slot map.
    pub fn set_slot_map(&mut self, number: u32, moved: Vec<Moved>) {
        if let Some(segment) = self.segments.get_mut(&number).filter(|segment| segment.unknown) {
            segment.page.moved = moved;
        }
    }

    /// Is there such a segment?
    #[must_use]
    pub fn knows(&self, number: u32) -> bool {
        self.segments.contains_key(&number)
    }

    /// Segments by number.
    #[must_use]
    pub const fn segments(&self) -> &BTreeMap<u32, Segment> {
        &self.segments
    }

    /// A root node's stored bytes, or its copy.
    #[must_use]
    pub fn root(&self, disk: &Disk, reference: &Reference) -> Option<Vec<u8>> {
        let read = self.read_whole(disk, reference.oid, reference.stored_bytes);
        let good = read.ok().filter(|bytes| checksum::crc32c(bytes) == reference.crc);
        good.or_else(|| self.copy(reference.oid).map(<[u8]>::to_vec))
    }

    /// Forgets what was marked, and marks from now on only in these segments.
    pub fn begin_pass(&mut self, range: Range<u32>) {
        self.range = range;
        self.marked_bytes = 0;
        self.segments.values_mut().for_each(Segment::forget);
    }

    /// The last segment of the pass is looked at in the next one. False if it is the only one.
    pub fn shorten_pass(&mut self) -> bool {
        let mut last_two = self.segments.range(self.range.clone()).rev().map(|(number, _)| *number);
        let (Some(last), Some(_)) = (last_two.next(), last_two.next()) else { return false };
        self.range.end = last;
        if let Some(segment) = self.segments.get_mut(&last) {
            self.marked_bytes -= segment.marked_bytes().min(self.marked_bytes);
            segment.forget();
        }
        true
    }

    /// Segments of this pass.
    #[must_use]
    pub fn pass(&self) -> Range<u32> {
        self.range.clone()
    }

    /// Memory that the marks of this pass take.
    #[must_use]
    pub const fn marked_bytes(&self) -> u64 {
        self.marked_bytes
    }

    /// Changes marks, and minds what they take.
    fn mark(&mut self, number: u32, change: impl FnOnce(&mut Segment)) {
        if let Some(segment) = self.segments.get_mut(&number).filter(|_| self.range.contains(&number)) {
            let before = segment.marked_bytes();
            change(segment);
            self.marked_bytes += segment.marked_bytes().saturating_sub(before);
        }
    }

    /// Is the segment looked at in this pass?
    #[must_use]
    pub fn in_pass(&self, segment: u32) -> bool {
        self.range.contains(&segment)
    }

    /// Device offset of a unit of a container.
    #[must_use]
    pub fn position(&self, container: u32, unit: u32) -> Option<u64> {
        let inside = u64::from(unit) * u64::from(UNIT);
        (container < self.containers && inside < self.segment_bytes)
            .then(|| self.segments_offset + u64::from(container) * self.segment_bytes + inside)
    }

    /// Could an object of so many bytes lie there at all? To be asked before memory is taken for it.
    #[must_use]
    pub fn has_room(&self, oid: Oid, stored_bytes: u32) -> bool {
        u64::from(oid.slot()) * u64::from(UNIT) + u64::from(stored_bytes) <= self.segment_bytes
    }

    /// Container of a device offset.
    #[must_use]
    pub fn container_at(&self, position: u64) -> u32 {
        let container = position.saturating_sub(self.segments_offset) / self.segment_bytes.max(1);
        u32::try_from(container).unwrap_or(u32::MAX)
    }

    /// Where units of a segment lie: device offset and units, in order.
    ///
    /// # Errors
    /// Some of them have no place.
    pub fn locate(&self, number: u32, range: Range<u32>) -> Result<Vec<(u64, u32)>, ReadError> {
        let unresolved = |why: String| ReadError::Unresolved(why);
        let segment = self.segments.get(&number).ok_or_else(|| unresolved(format!("segment {number} is unknown")))?;
        let mut out = Vec::new();
        let mut at = range.start;
        let moved = &segment.page.moved;
        // Ascending by slot, not overlapping.
        let mut next = moved.partition_point(|m| u32::from(m.slot) + u32::from(m.units) <= at);
        while at < range.end {
            let fragment = moved.get(next).filter(|m| u32::from(m.slot) < range.end);
            let (container, unit, units) = match fragment {
                Some(moved) if u32::from(moved.slot) <= at => {
                    let inside = at - u32::from(moved.slot);
                    next += 1;
                    (Some(moved.container), moved.offset_units + inside, u32::from(moved.units) - inside)
                }
                Some(moved) => (segment.home, at, u32::from(moved.slot) - at),
                None => (segment.home, at, range.end - at),
            };
            let units = units.min(range.end - at);
            let position = container.and_then(|container| self.position(container, unit));
            let position = position.ok_or_else(|| unresolved(format!("unit {at} of segment {number} has no place")))?;
            out.push((position, units));
            at += units.max(1);
        }
        Ok(out)
    }

    /// Tells the system that an object is wanted soon.
    pub fn expect(&self, disk: &Disk, reference: &Reference) {
        if disk.expects() {
            let start = u32::from(reference.oid.slot());
            let places = self.locate(reference.oid.segment(), start..start.saturating_add(reference.units()));
            for (position, units) in places.unwrap_or_default() {
                disk.expect(position, u64::from(units) * u64::from(UNIT));
            }
        }
    }

    /// Reads bytes of an object; `first` and the length are multiples of a unit. Returns where they begin.
    ///
    /// # Errors
    /// It has no place, or the device failed.
    pub fn read(&self, disk: &Disk, oid: Oid, first: u32, into: &mut [u8]) -> Result<u64, ReadError> {
        let start = u32::from(oid.slot()) + first / UNIT;
        let units = u32::try_from(into.len()).unwrap_or(u32::MAX) / UNIT;
        let mut rest = into;
        let mut begins = None;
        for (position, units) in self.locate(oid.segment(), start..start.saturating_add(units))? {
            let (piece, after) = rest.split_at_mut(((units * UNIT) as usize).min(rest.len()));
            disk.read_at(position, piece).map_err(ReadError::Device)?;
            begins.get_or_insert(position);
            rest = after;
        }
        Ok(begins.unwrap_or(0))
    }

    /// All stored bytes of an object, not verified.
    ///
    /// # Errors
    /// It has no place, or the device failed.
    pub fn read_whole(&self, disk: &Disk, oid: Oid, stored_bytes: u32) -> Result<Vec<u8>, ReadError> {
        if !self.has_room(oid, stored_bytes) {
            return Err(ReadError::Unresolved(format!("{stored_bytes} bytes pass the end of its segment")));
        }
        let mut bytes = vec![0; stored_bytes as usize];
        self.read(disk, oid, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// Bytes of a container.
    pub const fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// An edge to an object.
    pub fn edge(&mut self, reference: &Reference) {
        self.edge_in(reference, |segment| &mut segment.used);
    }

    /// An edge from a tree that waits to be freed.
    pub fn waiting_edge(&mut self, reference: &Reference) {
        self.edge_in(reference, |segment| &mut segment.waiting);
    }

    fn edge_in(&mut self, reference: &Reference, set: impl FnOnce(&mut Segment) -> &mut Units) {
        let slot = reference.oid.slot();
        let start = u32::from(slot);
        self.mark(reference.oid.segment(), |segment| {
            set(segment).insert(start..start.saturating_add(reference.units()));
            if segment.begun.insert_one(start) {
                segment.extents += u32::from(reference.kind == ReferenceKind::Extent);
            } else {
                let more = segment.more.entry(slot).or_default();
                *more = more.saturating_add(1);
            }
        });
    }

    /// The object is held otherwise than by an edge: the roots object, what waits to be freed.
    pub fn hold(&mut self, reference: &Reference) {
        let start = u32::from(reference.oid.slot());
        let units = start..start.saturating_add(reference.units());
        self.mark(reference.oid.segment(), |segment| segment.used.insert(units));
    }

    /// Units from the object's start are in use.
    pub fn mark_reached(&mut self, oid: Oid, units: Range<u32>) {
        let start = u32::from(oid.slot());
        let units = start.saturating_add(units.start)..start.saturating_add(units.end);
        self.mark(oid.segment(), |segment| segment.reached.insert(units));
    }

    /// Units from the object's start must stay readable for a retained checkpoint.
    pub fn mark_kept(&mut self, oid: Oid, units: Range<u32>) {
        let start = u32::from(oid.slot());
        let units = start.saturating_add(units.start)..start.saturating_add(units.end);
        self.mark(oid.segment(), |segment| segment.kept.insert(units));
    }

    /// Adds what the log says of places, and returns what [`Space::without_log`] takes back: records name segments that no published table knows.
    pub fn with_log(&mut self, placed: &[SegmentPlaced], relocated: &[Relocated]) -> FromLog {
        let mut out = FromLog::default();
        for placed in placed {
            if let Entry::Vacant(vacant) = self.segments.entry(placed.number) {
                let page = SegmentPage { segment: placed.number, ..SegmentPage::default() };
                vacant.insert(Segment { home: Some(placed.container), page, unknown: true, ..Segment::default() });
                out.added.push(placed.number);
            }
        }
        for moved in relocated {
            let small = |units: u32| u16::try_from(units).ok();
            let (Some(segment), Some(slot), Some(units)) =
                (self.segments.get_mut(&moved.number), small(moved.slot), small(moved.units))
            else {
                continue;
            };
            let range = moved.slot..moved.slot.saturating_add(moved.units);
            let rows = &mut segment.page.moved;
            // What the published slot map says is newer: the cleaner may have moved it on.
            let hit = |m: &Moved| u32::from(m.slot) < range.end && range.start < u32::from(m.slot) + u32::from(m.units);
            if rows.iter().any(hit) {
                continue;
            }
            out.moved.entry(moved.number).or_insert_with(|| rows.clone());
            let at = rows.partition_point(|m| m.slot < slot);
            let Relocated { container, offset_units, .. } = *moved;
            rows.insert(at, Moved { slot, units, container, offset_units });
        }
        out
    }

    /// Takes back what [`Space::with_log`] added.
    pub fn without_log(&mut self, from: FromLog) {
        for (number, moved) in from.moved {
            if let Some(segment) = self.segments.get_mut(&number) {
                segment.page.moved = moved;
            }
        }
        for number in from.added {
            self.segments.remove(&number);
        }
    }

    /// Live bytes according to the store.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        let units = self.segments.values().flat_map(|s| &s.page.live).map(|(_, units)| u64::from(*units)).sum::<u64>();
        units * u64::from(UNIT)
    }

    /// Units that retained checkpoints keep, according to the pages; none if a page is missing.
    #[must_use]
    pub fn deferred_units(&self) -> Option<u64> {
        let mut sum = 0;
        for segment in self.segments.values() {
            if segment.unknown {
                return None;
            }
            sum += segment.page.deferred.iter().map(|(_, units)| u64::from(*units)).sum::<u64>();
        }
        Some(sum)
    }

    /// Live units in every container, as pages have it.
    #[must_use]
    pub fn live_by_container<'p>(&self, pages: impl Iterator<Item = &'p SegmentPage>) -> BTreeMap<u32, u32> {
        let mut out: BTreeMap<u32, u32> = BTreeMap::new();
        for page in pages {
            for (slot, units) in &page.live {
                let range = u32::from(*slot)..u32::from(*slot) + u32::from(*units);
                for (position, units) in self.locate(page.segment, range).unwrap_or_default() {
                    *out.entry(self.container_at(position)).or_default() += units;
                }
            }
        }
        out
    }

    /// What a page must say, as far as this pass knows. `Known::Part`: nothing is freed and no count is lowered, but for what only retained checkpoints need.
    /// Objects that wait to be freed (`waiting`, in this segment) have a count of their own. Retained checkpoints are given up. `logged`: units that records of the log name;
    /// where they lie must be known although nothing of it lives yet.
    #[must_use]
    pub fn exact(&self, number: u32, known: Known, waiting: &[u16], logged: &[Range<u32>]) -> Option<SegmentPage> {
        let segment = self.segments.get(&number)?;
        let mut live = segment.reached.clone();
        live.union(&segment.waiting_of(&segment.page.live));
        let mut extra: BTreeMap<u16, i32> =
            segment.more.iter().map(|(slot, more)| (*slot, i32::try_from(*more).unwrap_or(i32::MAX))).collect();
        if let Known::Part { deferred } = known {
            let mut kept = Units::of(&segment.page.live);
            if deferred {
                // Or a later look for what lost its name would take all of history for it.
                kept.subtract(&Units::of(&segment.page.deferred));
            }
            live.union(&segment.used);
            live.union(&kept);
            for (slot, stored) in &segment.page.extra {
                let found = extra.entry(*slot).or_default();
                *found = (*found).max(*stored);
            }
            extra.retain(|_, extra| *extra != 0);
        }
        for slot in waiting.iter().filter(|slot| !segment.begun.contains((**slot).into())) {
            extra.insert(*slot, -1);
        }
        let runs = live.runs();
        let moved = segment.page.moved.iter().filter(|m| {
            let range = u32::from(m.slot)..u32::from(m.slot) + u32::from(m.units);
            runs.iter().chain(logged).any(|run| run.start < range.end && range.start < run.end)
        });
        let small = |units: u32| u16::try_from(units).unwrap_or(u16::MAX);
        let mut rows = Vec::new();
        for run in &runs {
            let mut at = run.start;
            while at < run.end {
                let units = (run.end - at).min(u32::from(u16::MAX));
                rows.push((small(at), small(units)));
                at += units;
            }
        }
        Some(SegmentPage {
            segment: number,
            live: rows,
            extra: extra.into_iter().collect(),
            moved: moved.copied().collect(),
            deferred: Vec::new(),
        })
    }

    /// Units of this pass that the store has as live and that nothing leads to, by segment. Of segments whose page could not be read nothing is known.
    pub fn unreached(&self) -> impl Iterator<Item = (u32, Vec<Range<u32>>)> {
        let known = self.segments.range(self.range.clone()).filter(|(_, segment)| !segment.unknown);
        known.filter_map(|(number, segment)| {
            let mut live = Units::of(&segment.page.live);
            for other in [&Units::of(&segment.page.deferred), &segment.used, &segment.reached, &segment.waiting] {
                live.subtract(other);
            }
            Some((*number, live.runs())).filter(|(_, runs)| !runs.is_empty())
        })
    }

    /// Compares counts and liveness with what was found. `complete`: every node was read, so that what was not reached is unreachable.
    /// `dropped` objects have no reference any more, and their edges still count.
    pub fn compare(&self, volume: u16, complete: bool, dropped: &dyn Fn(Oid) -> bool, report: &mut Report) {
        let mut reclaimable = 0;
        for (number, segment) in self.segments.range(self.range.clone()) {
            report.statistics.shared_objects += segment.more.len() as u64;
            report.statistics.extents += u64::from(segment.extents);
            if segment.unknown {
                continue;
            }
            if complete {
                segment.compare_counts(volume, *number, dropped, report);
            }
            let mut live = Units::of(&segment.page.live);
            let mut unkept = segment.kept.clone();
            unkept.subtract(&live);
            for range in unkept.runs() {
                let place = Oid::new(volume, *number, u16::try_from(range.start).unwrap_or(u16::MAX));
                let bytes = u64::from(range.end - range.start) * u64::from(UNIT);
                report.add(findings::NOT_KEPT, format_args!("object {place}"), Size(bytes));
            }
            // What only retained checkpoints need is not reached from the roots, and is not lost either.
            live.subtract(&Units::of(&segment.page.deferred));
            // Nor what only deleted trees need.
            let mut waiting = segment.waiting.clone();
            waiting.subtract(&segment.reached);
            live.subtract(&waiting);
            for (range, difference) in differences(&live, &segment.used, &segment.reached, complete) {
                let bytes = u64::from(range.end - range.start) * u64::from(UNIT);
                let place = Oid::new(volume, *number, u16::try_from(range.start).unwrap_or(u16::MAX));
                let kind = match difference {
                    Difference::NotLive => findings::NOT_LIVE,
                    Difference::Leaked => findings::LEAKED,
                    Difference::Reclaimable => {
                        reclaimable += bytes;
                        continue;
                    }
                };
                report.add(kind, format_args!("object {place}"), Size(bytes));
            }
        }
        report.statistics.reclaimable_bytes += reclaimable;
    }
}

impl Segment {
    fn forget(&mut self) {
        self.used = Units::default();
        self.reached = Units::default();
        self.begun = Units::default();
        self.kept = Units::default();
        self.waiting = Units::default();
        self.more = BTreeMap::new();
        self.extents = 0;
    }

    /// A row of `more` takes 24 bytes with what the map adds.
    fn marked_bytes(&self) -> u64 {
        let Self { used, reached, begun, kept, waiting, more, .. } = self;
        [used, reached, begun, kept, waiting].map(Units::bytes).iter().sum::<u64>() + 24 * more.len() as u64
    }

    /// What is waiting, of these runs.
    fn waiting_of(&self, runs: &[(u16, u16)]) -> Units {
        let (mut both, mut others) = (self.waiting.clone(), self.waiting.clone());
        others.subtract(&Units::of(runs));
        both.subtract(&others);
        both
    }

    /// INV-06: a count is 1 unless the page has a row.
    fn compare_counts(&self, volume: u16, number: u32, dropped: &dyn Fn(Oid) -> bool, report: &mut Report) {
        let mut stored: BTreeMap<u16, i32> = self.page.extra.iter().copied().collect();
        let count = |report: &mut Report, slot: u16, stored: i64, found: i64| {
            let place = format!("object {}", Oid::new(volume, number, slot));
            let detail = format!("count {stored}, {found} references found");
            report.add(findings::COUNT, place, detail);
        };
        for (slot, more) in &self.more {
            let before = i64::from(stored.remove(slot).unwrap_or(0));
            if before != i64::from(*more) {
                count(report, *slot, before + 1, i64::from(*more) + 1);
            }
        }
        for (slot, extra) in stored {
            let oid = Oid::new(volume, number, slot);
            let extra = i64::from(extra);
            if self.begun.contains(slot.into()) {
                count(report, slot, extra + 1, 1);
            } else if !dropped(oid) {
                report.add(findings::COUNT_ORPHAN, format_args!("object {oid}"), format_args!("count {}", extra + 1));
            }
        }
    }
}
