//! What is live and how often it is referenced: a function of the committed batches alone (INV-39), changed by [`State::apply`] only, live and in recovery.
//!
//! Per logical segment: live units, counts that are not 1, and where moved units lie. Per container: live units. And the drop queue: nodes whose count is zero and whose
//! edges still count. Extents have no edges, so they are freed when their count reaches zero, without queueing. The queue is a stack, so that deleting a tree of any
//! size keeps it as short as the tree is high and wide at one node.
//!
//! If power fails nothing here matters: the next mount reads the published pages and applies at most one batch.

pub mod law;
mod runs;

pub use law::{LawError, Outcome, Unstored};
pub use runs::Runs;

use crate::sabotage::{self, Rule};
use envoyfs_layout::batch::{Batch, Drop};
use envoyfs_layout::directory_page::Place;
use envoyfs_layout::system_page::{Moved, SegmentPage};
use envoyfs_layout::{Oid, Reference, ReferenceKind};
use std::collections::{BTreeMap, BTreeSet};
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

/// A logical segment.
#[derive(Clone, Debug, Default)]
pub struct Segment {
    /// Container in which units lie at their own slot; none once it was reused.
    pub home: Option<u32>,
    /// Live units by slot.
    pub live: Runs,
    /// References less one, by slot, of objects that do not have exactly one.
    pub extra: BTreeMap<u16, i32>,
    /// Moved units by first slot.
    pub moved: BTreeMap<u32, Fragment>,
    /// Changed since its page was written.
    pub dirty: bool,
    /// Its page in the last directory built.
    pub page: Place,
}

impl Segment {
    /// Where a range of units lies; see [`locate`].
    #[must_use]
    pub fn locate(&self, range: &Range<u32>) -> Vec<(Option<u32>, u32, u32)> {
        locate(self.home, &self.moved, range)
    }

    /// What readers need to know.
    #[must_use]
    pub fn location(&self) -> crate::space::Location {
        crate::space::Location { home: self.home, moved: self.moved.clone() }
    }
}

/// Where a range of units of a segment lies: pieces {container, unit in it, units}, in order; no container for what has no place.
#[must_use]
pub fn locate(home: Option<u32>, moved: &BTreeMap<u32, Fragment>, range: &Range<u32>) -> Vec<(Option<u32>, u32, u32)> {
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

/// A batch that does not fit the state: a fault of a client or of this engine, or damage. Nothing is published after it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The object's segment is not known (INV-22).
    #[error("object {oid} lies in an unknown segment")]
    UnknownSegment {
        /// The object.
        oid: Oid,
    },
    /// A count fell below zero.
    #[error("object {oid}: count falls to {count}")]
    Negative {
        /// The object.
        oid: Oid,
        /// Count.
        count: i64,
    },
    /// A delta names an object that is dead or waits in the drop queue (INV-08).
    #[error("object {oid} changes by {delta} references after it was freed")]
    Dead {
        /// The object.
        oid: Oid,
        /// Change.
        delta: i32,
    },
    /// The batch works off something else than what stands in the queue.
    #[error("the drop queue ends with {found:?}, the batch works off {expected}")]
    Queue {
        /// What the batch says.
        expected: Oid,
        /// What the queue says.
        found: Option<Oid>,
    },
    /// A new object overlaps a live one (INV-16).
    #[error("new object {oid} overlaps {units} live units")]
    Overlap {
        /// The object.
        oid: Oid,
        /// Units that are live already.
        units: u32,
    },
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct State {
    segments: BTreeMap<u32, Segment>,
    containers: Vec<u32>,
    queue: Vec<Reference>,
    queued: BTreeSet<Oid>,
    live_units: u64,
    extra_objects: u64,
}

impl State {
    /// Nothing lives in so many containers.
    #[must_use]
    pub fn new(containers: u32) -> Self {
        Self { containers: vec![0; containers as usize], ..Self::default() }
    }

    /// A segment was opened in a container.
    pub fn open_segment(&mut self, number: u32, container: u32) {
        let segment = self.segments.entry(number).or_default();
        segment.home = Some(container);
        segment.dirty = true;
    }

    /// A segment as its page says, at mount. `home` is the container whose row names the page.
    pub fn load(&mut self, page: &SegmentPage, home: Option<u32>, place: Place) {
        let mut segment = Segment { home, page: place, ..Segment::default() };
        for (slot, units) in &page.live {
            segment.live.insert(u32::from(*slot)..u32::from(*slot) + u32::from(*units));
        }
        segment.extra = page.extra.iter().copied().collect();
        for row in &page.moved {
            let fragment =
                Fragment { units: row.units.into(), container: row.container, offset_units: row.offset_units };
            segment.moved.insert(row.slot.into(), fragment);
        }
        for range in segment.live.iter().collect::<Vec<_>>() {
            self.account(&segment, &range, true);
        }
        self.extra_objects += segment.extra.len() as u64;
        self.segments.insert(page.segment, segment);
    }

    /// The drop queue, at mount.
    pub fn load_queue(&mut self, queue: Vec<Reference>) {
        self.queued = queue.iter().map(|reference| reference.oid).collect();
        self.queue = queue;
    }

    /// The page of a segment as it is now.
    #[must_use]
    pub fn page(&self, number: u32) -> Option<SegmentPage> {
        let segment = self.segments.get(&number)?;
        let small = |units: u32| u16::try_from(units).unwrap_or(u16::MAX);
        let mut live = Vec::new();
        for range in segment.live.iter() {
            let mut at = range.start;
            while at < range.end {
                let units = (range.end - at).min(u32::from(u16::MAX));
                live.push((small(at), small(units)));
                at += units;
            }
        }
        Some(SegmentPage {
            segment: number,
            live,
            extra: segment.extra.iter().map(|(slot, extra)| (*slot, *extra)).collect(),
            moved: segment
                .moved
                .iter()
                .map(|(slot, f)| Moved {
                    slot: small(*slot),
                    units: small(f.units),
                    container: f.container,
                    offset_units: f.offset_units,
                })
                .collect(),
        })
    }

    /// Applies a whole batch (INV-07). On an error the state is of no use any more.
    pub fn apply(&mut self, batch: &Batch) -> Result<(), StateError> {
        self.apply_law(batch)?;
        if sabotage::on(Rule::BatchAppliedTwice) {
            batch.deltas.iter().try_for_each(|row| self.count(&row.reference, row.delta))?;
        }
        batch.drops.iter().try_for_each(|drop| self.apply_drop(drop))
    }

    /// The first part of [`State::apply`]: everything but the drops.
    pub fn apply_law(&mut self, batch: &Batch) -> Result<(), StateError> {
        for object in &batch.new {
            let range = units_of(object.oid, object.units());
            let number = object.oid.segment();
            let Some(segment) = self.segments.get_mut(&number) else {
                return Err(StateError::UnknownSegment { oid: object.oid });
            };
            let added = segment.live.insert(range.clone());
            if added != object.units() {
                return Err(StateError::Overlap { oid: object.oid, units: object.units() - added });
            }
            segment.dirty = true;
            self.account_at(number, &range, true);
        }
        for object in &batch.freed {
            self.free(object.oid, object.units());
        }
        for range in &batch.ranges {
            let start = u32::from(range.oid.slot()) + range.first;
            self.kill(range.oid.segment(), &(start..start + range.units));
        }
        for row in &batch.deltas {
            self.count(&row.reference, row.delta)?;
        }
        Ok(())
    }

    /// Works off the last entry of the drop queue.
    pub fn apply_drop(&mut self, drop: &Drop) -> Result<(), StateError> {
        let found = self.queue.pop();
        let Some(reference) = found.filter(|reference| reference.oid == drop.object) else {
            return Err(StateError::Queue { expected: drop.object, found: found.map(|reference| reference.oid) });
        };
        self.queued.remove(&reference.oid);
        self.free(reference.oid, reference.units());
        drop.edges.iter().try_for_each(|edge| self.count(edge, -1))
    }

    /// What [`State::apply_drop`] would work off next.
    #[must_use]
    pub fn next_drop(&self) -> Option<Reference> {
        self.queue.last().copied()
    }

    fn count(&mut self, reference: &Reference, delta: i32) -> Result<(), StateError> {
        let oid = reference.oid;
        let dead = || StateError::Dead { oid, delta };
        if self.queued.contains(&oid) {
            return Err(dead());
        }
        let Some(segment) = self.segments.get_mut(&oid.segment()) else {
            return Err(dead());
        };
        if reference.kind == ReferenceKind::Node && segment.live.inside(&units_of(oid, 1)).is_empty() {
            return Err(dead());
        }
        let extra = i64::from(segment.extra.get(&oid.slot()).copied().unwrap_or(0)) + i64::from(delta);
        segment.dirty = true;
        let before = segment.extra.remove(&oid.slot()).is_some();
        self.extra_objects -= u64::from(before);
        match extra {
            0 => {}
            -1 if reference.kind == ReferenceKind::Node => {
                self.queue.push(*reference);
                self.queued.insert(oid);
            }
            -1 => self.free(oid, reference.units()),
            _ => {
                let value = i32::try_from(extra)
                    .ok()
                    .filter(|extra| *extra > 0)
                    .ok_or(StateError::Negative { oid, count: extra + 1 })?;
                segment.extra.insert(oid.slot(), value);
                self.extra_objects += 1;
            }
        }
        Ok(())
    }

    fn free(&mut self, oid: Oid, units: u32) {
        if let Some(segment) = self.segments.get_mut(&oid.segment())
            && segment.extra.remove(&oid.slot()).is_some()
        {
            self.extra_objects -= 1;
        }
        self.kill(oid.segment(), &units_of(oid, units));
    }

    /// Units become dead; those that are already stay so.
    fn kill(&mut self, number: u32, range: &Range<u32>) {
        let Some(segment) = self.segments.get_mut(&number) else { return };
        let parts = segment.live.remove(range);
        if parts.is_empty() {
            return;
        }
        segment.dirty = true;
        for part in &parts {
            self.account_at(number, part, false);
        }
        let Some(segment) = self.segments.get_mut(&number) else { return };
        let from = segment.moved.range(..=range.start).next_back().map_or(range.start, |(slot, _)| *slot);
        let empty: Vec<u32> = segment
            .moved
            .range(from..range.end)
            .filter(|(slot, fragment)| segment.live.inside(&(**slot..**slot + fragment.units)).is_empty())
            .map(|(slot, _)| *slot)
            .collect();
        for slot in empty {
            segment.moved.remove(&slot);
        }
    }

    fn account_at(&mut self, number: u32, range: &Range<u32>, live: bool) {
        let pieces = self.segments.get(&number).map(|segment| segment.locate(range)).unwrap_or_default();
        self.account_pieces(&pieces, live);
    }

    fn account(&mut self, segment: &Segment, range: &Range<u32>, live: bool) {
        self.account_pieces(&segment.locate(range), live);
    }

    fn account_pieces(&mut self, pieces: &[(Option<u32>, u32, u32)], live: bool) {
        for (container, _, units) in pieces {
            let count = container.and_then(|container| self.containers.get_mut(container as usize));
            if live {
                self.live_units += u64::from(*units);
            } else {
                self.live_units -= u64::from(*units);
            }
            if let Some(count) = count {
                if live {
                    *count += units;
                } else {
                    *count -= units;
                }
            }
        }
    }

    /// The cleaner copied live units `slot..slot + units` of a segment to another place. Afterwards they are found there.
    pub fn move_units(&mut self, number: u32, slot: u32, to: Fragment) {
        let range = slot..slot + to.units;
        let live = self.segments.get(&number).map(|segment| segment.live.inside(&range)).unwrap_or_default();
        for part in &live {
            self.account_at(number, part, false);
        }
        if let Some(segment) = self.segments.get_mut(&number) {
            cut_out(&mut segment.moved, &range);
            segment.moved.insert(slot, to);
            segment.dirty = true;
        }
        for part in &live {
            self.account_at(number, part, true);
        }
    }

    /// The container is used for something else from now on. It must not hold a live unit.
    pub fn release(&mut self, container: u32) {
        assert_eq!(self.live_in(container), 0, "INV-13: container {container} still holds live units");
        let homes: Vec<u32> =
            self.segments.iter().filter(|(_, s)| s.home == Some(container)).map(|(number, _)| *number).collect();
        for number in homes {
            let Some(segment) = self.segments.get_mut(&number) else { continue };
            segment.home = None;
            segment.dirty = true;
        }
    }

    /// Forgets segments that have neither a home nor a live unit; returns their numbers.
    pub fn forget_empty(&mut self) -> Vec<u32> {
        let gone: Vec<u32> = self
            .segments
            .iter()
            .filter(|(_, segment)| segment.home.is_none() && segment.live.is_empty())
            .map(|(number, _)| *number)
            .collect();
        for number in &gone {
            if let Some(segment) = self.segments.remove(number) {
                self.extra_objects -= segment.extra.len() as u64;
            }
        }
        gone
    }

    /// Segments by number.
    #[must_use]
    pub const fn segments(&self) -> &BTreeMap<u32, Segment> {
        &self.segments
    }

    /// A segment, to be marked as written or dirty.
    pub fn segment_mut(&mut self, number: u32) -> Option<&mut Segment> {
        self.segments.get_mut(&number)
    }

    /// Live units that lie in a container.
    #[must_use]
    pub fn live_in(&self, container: u32) -> u32 {
        self.containers.get(container as usize).copied().unwrap_or(0)
    }

    /// Live units.
    #[must_use]
    pub const fn live_units(&self) -> u64 {
        self.live_units
    }

    /// The drop queue, last entry first to go.
    #[must_use]
    pub fn queue(&self) -> &[Reference] {
        &self.queue
    }

    /// Objects whose count is not 1.
    #[must_use]
    pub const fn shared_objects(&self) -> u64 {
        self.extra_objects
    }

    /// References to an object that is stored and live; for tests and checks.
    #[must_use]
    pub fn references(&self, oid: Oid) -> i64 {
        if self.queued.contains(&oid) {
            return 0;
        }
        self.segments
            .get(&oid.segment())
            .map_or(0, |segment| 1 + i64::from(segment.extra.get(&oid.slot()).copied().unwrap_or(0)))
    }

    /// Contradictions in the accounting (INV-32), in words.
    #[must_use]
    pub fn check(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut containers = vec![0_u32; self.containers.len()];
        let mut physical: BTreeMap<u32, Runs> = BTreeMap::new();
        let (mut live, mut extra) = (0_u64, 0_u64);
        for (number, segment) in &self.segments {
            extra += segment.extra.len() as u64;
            for range in segment.live.iter() {
                live += u64::from(range.end - range.start);
                for (container, at, units) in segment.locate(&range) {
                    let Some(container) = container else {
                        found.push(format!("segment {number}: live units {range:?} have no place"));
                        continue;
                    };
                    if let Some(count) = containers.get_mut(container as usize) {
                        *count += units;
                    }
                    if physical.entry(container).or_default().insert(at..at + units) != units {
                        found.push(format!(
                            "segment {number}: live units {range:?} share container {container} at {at} with others"
                        ));
                    }
                }
            }
        }
        for (container, (count, want)) in self.containers.iter().zip(&containers).enumerate() {
            if count != want {
                found.push(format!("container {container}: {count} live units counted, {want} found"));
            }
        }
        if live != self.live_units || extra != self.extra_objects {
            found.push(format!(
                "{} live units counted, {live} found; {} shared, {extra}",
                self.live_units, self.extra_objects
            ));
        }
        found
    }
}

/// Takes a range out of a slot map, splitting fragments at its ends.
fn cut_out(moved: &mut BTreeMap<u32, Fragment>, range: &Range<u32>) {
    let from = moved.range(..=range.start).next_back().map_or(range.start, |(slot, _)| *slot);
    let hit: Vec<(u32, Fragment)> = moved
        .range(from..range.end)
        .filter(|(slot, fragment)| *slot + fragment.units > range.start)
        .map(|(slot, fragment)| (*slot, *fragment))
        .collect();
    for (slot, fragment) in hit {
        moved.remove(&slot);
        if slot < range.start {
            moved.insert(slot, Fragment { units: range.start - slot, ..fragment });
        }
        let end = slot + fragment.units;
        if end > range.end {
            let offset_units = fragment.offset_units + (range.end - slot);
            moved.insert(range.end, Fragment { units: end - range.end, offset_units, ..fragment });
        }
    }
}

/// The slots that an object takes in its birth segment.
#[must_use]
pub fn units_of(oid: Oid, units: u32) -> Range<u32> {
    let start = u32::from(oid.slot());
    start..start + units
}

#[cfg(test)]
mod tests;
