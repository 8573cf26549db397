//! Applying a batch, step by step. Every segment that a step touches must be loaded; [`super::Pager`] sees to that.
//!
//! Order (INV-07, INV-39): retained checkpoints dropped, new objects, freed ones, freed ranges, deltas, drops, deferred units released, this checkpoint retained, repairs.

use super::segment::cut_out;
use super::{Fragment, Retained, Segment, Stack, State, StateError, units_of};
use crate::sabotage::{self, Rule};
use envoyfs_layout::batch::{Batch, Drop, HistoryStep, Repair, RepairAction};
use envoyfs_layout::directory_page::Place;
use envoyfs_layout::system_page::{DeferredRange, HistoryRow, HistoryState};
use envoyfs_layout::{Oid, Reference, ReferenceKind};
use std::collections::BTreeSet;
use std::ops::Range;

/// Segments that the steps before the drops touch.
#[must_use]
pub fn segments_of(batch: &Batch) -> BTreeSet<u32> {
    let objects = batch.new.iter().chain(&batch.freed).map(|object| object.oid);
    let ranges = batch.ranges.iter().map(|range| range.oid);
    let deltas = batch.deltas.iter().map(|delta| delta.reference.oid);
    objects.chain(ranges).chain(deltas).map(Oid::segment).collect()
}

impl State {
    /// Applies a whole batch (INV-07) to what is in memory. On an error the state is of no use any more. `retained`: how this checkpoint is retained, if it is.
    pub fn apply(&mut self, batch: &Batch, retained: Option<HistoryRow>) -> Result<(), StateError> {
        self.drop_history(&batch.history)?;
        self.apply_law(batch)?;
        batch.drops.iter().try_for_each(|drop| self.apply_drop(drop))?;
        for step in &batch.history {
            if let HistoryStep::Release { checkpoint, rows } = *step {
                for _ in 0..rows {
                    self.release_row(checkpoint)?;
                }
            }
        }
        if let Some(row) = retained {
            self.retain(row);
        }
        batch.repairs.iter().try_for_each(|repair| self.repair(repair))
    }

    /// The first part: retained checkpoints that are dropped defer nothing in this batch.
    pub fn drop_history(&mut self, steps: &[HistoryStep]) -> Result<(), StateError> {
        for step in steps {
            let HistoryStep::Drop { checkpoint } = *step else { continue };
            let oldest = self.history.iter_mut().find(|retained| retained.row.state == HistoryState::Retained);
            let known = oldest.as_ref().map(|retained| retained.row.checkpoint);
            let Some(oldest) = oldest.filter(|retained| retained.row.checkpoint == checkpoint) else {
                return Err(StateError::History { checkpoint, oldest: known });
            };
            oldest.row.state = HistoryState::Releasing;
        }
        Ok(())
    }

    /// New objects, freed ones, freed ranges, deltas.
    pub fn apply_law(&mut self, batch: &Batch) -> Result<(), StateError> {
        for object in &batch.new {
            let range = units_of(object.oid, object.units());
            let number = object.oid.segment();
            let Some(segment) = self.segment_mut(number)? else {
                return Err(StateError::UnknownSegment { oid: object.oid });
            };
            let added = segment.live.insert(range.clone());
            if added != object.units() {
                return Err(StateError::Overlap { oid: object.oid, units: object.units() - added });
            }
            self.account_at(number, &range, true);
        }
        for object in &batch.freed {
            self.free(object.oid, object.units())?;
        }
        for range in &batch.ranges {
            let start = u32::from(range.oid.slot()) + range.first;
            let more = if sabotage::on(Rule::FreedTooFar) { 8 } else { 0 };
            self.kill(range.oid.segment(), &(start..start + range.units + more))?;
        }
        batch.deltas.iter().try_for_each(|row| self.count(&row.reference, row.delta))
    }

    /// Works off the last entry of the drop queue, whose page is in memory.
    pub fn apply_drop(&mut self, drop: &Drop) -> Result<(), StateError> {
        self.begin_drop(drop)?;
        self.drop_edges(&drop.edges)
    }

    /// The same without the entry's edges; only the segment of the node itself needs to be loaded.
    pub fn begin_drop(&mut self, drop: &Drop) -> Result<(), StateError> {
        let popped = self.queue.pop();
        let found = popped.map(|(reference, _)| reference);
        let Some((reference, old)) = popped.filter(|(reference, _)| reference.oid == drop.object) else {
            return Err(StateError::Queue { expected: drop.object, found: found.map(|reference| reference.oid) });
        };
        old.into_iter().for_each(|page| self.pages.sub(page));
        if drop.unreadable {
            if !sabotage::on(Rule::UnreadableForgotten) {
                self.unreadable.rows.push(reference);
            }
            return Ok(());
        }
        self.free(reference.oid, reference.units())
    }

    /// Takes edges of a dropped node back, in their order; their segments are loaded.
    pub fn drop_edges(&mut self, edges: &[Reference]) -> Result<(), StateError> {
        edges.iter().try_for_each(|edge| self.count(edge, -1))
    }

    /// What [`State::apply_drop`] would work off next; `None` if the queue is empty or its page is not in memory.
    #[must_use]
    pub fn next_drop(&self) -> Option<Reference> {
        self.queue.top().last().copied()
    }

    /// A loaded segment, dirty from now on; `None` for one that nobody knows.
    fn segment_mut(&mut self, number: u32) -> Result<Option<&mut Segment>, StateError> {
        if !self.table.contains_key(&number) {
            return Ok(None);
        }
        let loaded = self.loaded.get_mut(&number).ok_or(StateError::NotLoaded { segment: number })?;
        self.dirty.insert(number);
        Ok(Some(&mut loaded.segment))
    }

    fn count(&mut self, reference: &Reference, delta: i32) -> Result<(), StateError> {
        let oid = reference.oid;
        let dead = || StateError::Dead { oid, delta };
        let Some(segment) = self.segment_mut(oid.segment())? else {
            // Whether an extent lives is not asked, here or below: an operation may have freed all of it in a file whose nodes still wait in the drop queue, and then its segment is
            // forgotten once it has no home.
            return if reference.kind == ReferenceKind::Extent && delta < 0 { Ok(()) } else { Err(dead()) };
        };
        let before = segment.extra.get(&oid.slot()).copied().unwrap_or(0);
        if before < 0 || reference.kind == ReferenceKind::Node && segment.live.inside(&units_of(oid, 1)).is_empty() {
            return Err(dead());
        }
        let extra = i64::from(before) + i64::from(delta);
        if extra < -1 {
            return Err(StateError::Negative { oid, count: extra + 1 });
        }
        self.set_count(reference, extra)
    }

    /// Sets references less one; at -1 a node is queued and an extent freed.
    fn set_count(&mut self, reference: &Reference, extra: i64) -> Result<(), StateError> {
        let oid = reference.oid;
        let value = i32::try_from(extra).map_err(|_| StateError::Negative { oid, count: extra + 1 })?;
        let Some(segment) = self.segment_mut(oid.segment())? else { return Ok(()) };
        let before = match value {
            0 => segment.extra.remove(&oid.slot()),
            _ => segment.extra.insert(oid.slot(), value),
        };
        self.shared_objects += u64::from(value > 0);
        self.shared_objects -= u64::from(before.is_some_and(|before| before > 0));
        if value > 0 || value == 0 && !sabotage::on(Rule::FreedAtOne) {
            return Ok(());
        }
        if reference.kind == ReferenceKind::Node {
            let old = self.queue.push(*reference);
            old.into_iter().for_each(|page| self.pages.sub(page));
            Ok(())
        } else {
            self.free(oid, reference.units())
        }
    }

    fn free(&mut self, oid: Oid, units: u32) -> Result<(), StateError> {
        if let Some(segment) = self.segment_mut(oid.segment())?
            && segment.extra.remove(&oid.slot()).is_some_and(|before| before > 0)
        {
            self.shared_objects -= 1;
        }
        self.kill(oid.segment(), &units_of(oid, units))
    }

    /// Units become dead, or deferred if a retained checkpoint may hold them (INV-31); those that are already stay so.
    fn kill(&mut self, number: u32, range: &Range<u32>) -> Result<(), StateError> {
        let defers = self.newest_retained().is_some_and(|retained| number < retained.row.segment_bound);
        let defers = defers && !sabotage::on(Rule::DeathsNotDeferred);
        let Some(segment) = self.segment_mut(number)? else { return Ok(()) };
        let live = segment.live.inside(range);
        let parts: Vec<Range<u32>> = live.iter().flat_map(|part| segment.deferred.outside(part)).collect();
        if !defers {
            self.bury(number, &parts);
            return Ok(());
        }
        let mut units = 0;
        for part in &parts {
            units += segment.deferred.insert(part.clone());
        }
        self.deferred_units += u64::from(units);
        let Some(retained) = self.history.last_mut() else { return Ok(()) };
        retained.units += u64::from(units);
        for part in parts {
            let mut at = part.start;
            while at < part.end {
                let units = u16::try_from(part.end - at).unwrap_or(u16::MAX);
                let row = DeferredRange { segment: number, slot: u16::try_from(at).unwrap_or(u16::MAX), units };
                let old = retained.deferred.push(row);
                old.into_iter().for_each(|page| self.pages.sub(page));
                at += u32::from(units);
            }
        }
        Ok(())
    }

    /// Live units become dead for good. The segment is loaded.
    fn bury(&mut self, number: u32, parts: &[Range<u32>]) {
        for part in parts {
            self.account_at(number, part, false);
        }
        let Some(loaded) = self.loaded.get_mut(&number) else { return };
        let segment = &mut loaded.segment;
        for part in parts {
            segment.live.remove(part);
            let from = segment.moved.range(..=part.start).next_back().map_or(part.start, |(slot, _)| *slot);
            let empty: Vec<u32> = segment
                .moved
                .range(from..part.end)
                // Not its neighbour: what was written elsewhere may be there before it is live.
                .filter(|(slot, fragment)| **slot + fragment.units > part.start)
                .filter(|(slot, fragment)| segment.live.inside(&(**slot..**slot + fragment.units)).is_empty())
                .map(|(slot, _)| *slot)
                .collect();
            for slot in empty {
                if let Some(fragment) = segment.moved.remove(&slot) {
                    self.buried.add(number, slot, fragment);
                }
            }
        }
        if segment.live.is_empty() {
            self.maybe_empty.insert(number);
        }
    }

    /// What the next [`State::release_row`] would free: a row of the oldest dropped checkpoint.
    #[must_use]
    pub fn next_release(&self, checkpoint: u64) -> Option<DeferredRange> {
        let retained = self.history.iter().find(|retained| retained.row.checkpoint == checkpoint)?;
        retained.deferred.top().last().copied()
    }

    /// Frees one row of the units that a dropped checkpoint deferred; its page and its segment are in memory. Once it has none, it is forgotten.
    pub fn release_row(&mut self, checkpoint: u64) -> Result<(), StateError> {
        let known = self.history.first().map(|retained| retained.row.checkpoint);
        let wrong = StateError::History { checkpoint, oldest: known };
        let retained = self
            .history
            .iter_mut()
            .find(|retained| retained.row.checkpoint == checkpoint && retained.row.state == HistoryState::Releasing);
        let Some((retained, (row, old))) = retained.and_then(|retained| {
            let popped = retained.deferred.pop()?;
            Some((retained, popped))
        }) else {
            return Err(wrong);
        };
        old.into_iter().for_each(|page| self.pages.sub(page));
        retained.units = retained.units.saturating_sub(row.units.into());
        let range = u32::from(row.slot)..u32::from(row.slot) + u32::from(row.units);
        let Some(segment) = self.segment_mut(row.segment)? else { return Ok(()) };
        let parts = segment.deferred.remove(&range);
        self.deferred_units -= parts.iter().map(|part| u64::from(part.end - part.start)).sum::<u64>();
        self.bury(row.segment, &parts);
        Ok(())
    }

    /// This checkpoint is retained from now on.
    pub fn retain(&mut self, row: HistoryRow) {
        self.history.push(Retained { row, deferred: Stack::default(), units: 0 });
    }

    /// A correction that a mark found. Never an error for what changed meanwhile: the object may be gone.
    pub fn repair(&mut self, repair: &Repair) -> Result<(), StateError> {
        let oid = repair.reference.oid;
        let start = u32::from(oid.slot()) + repair.first;
        let range = start..start + repair.units;
        match repair.action {
            RepairAction::Count => {
                let units = units_of(oid, repair.reference.units());
                let Some(segment) = self.segment_mut(oid.segment())? else { return Ok(()) };
                let before = segment.extra.get(&oid.slot()).copied().unwrap_or(0);
                // What only a retained checkpoint holds is gone: its edges have been taken back.
                let lives = segment.live.inside(&units).iter().any(|part| !segment.deferred.outside(part).is_empty());
                if before >= 0 && lives {
                    self.set_count(&repair.reference, (i64::from(before) + i64::from(repair.delta)).max(-1))?;
                }
                Ok(())
            }
            RepairAction::Dead => self.kill(oid.segment(), &range),
            RepairAction::Live => self.revive(oid.segment(), &range),
            RepairAction::Forget => {
                let Some(segment) = self.segment_mut(oid.segment())? else { return Ok(()) };
                let before = segment.extra.remove(&oid.slot());
                self.shared_objects -= u64::from(before.is_some_and(|before| before > 0));
                Ok(())
            }
            RepairAction::Readable => {
                let at = self.unreadable.rows.iter().position(|reference| reference.oid == oid);
                if let Some(at) = at {
                    self.unreadable.rows.remove(at);
                    let mut end = 0;
                    let holds = |(_, rows): &(Place, usize)| {
                        end += rows;
                        end > at
                    };
                    let page = self.unreadable.pages.iter().position(holds);
                    self.forget_unreadable(page.unwrap_or(usize::MAX));
                }
                Ok(())
            }
        }
    }

    /// Units of a loaded segment that are in use live again, and do not die with a retained checkpoint: its row in that one's list finds nothing then. (Should they die under
    /// a newer one before that row is released, they go with the older: its readers get an error.) What has no place any more stays dead.
    fn revive(&mut self, number: u32, range: &Range<u32>) -> Result<(), StateError> {
        let Some(segment) = self.segment_mut(number)? else { return Ok(()) };
        let deferred = segment.deferred.remove(range);
        let dead = segment.live.outside(range);
        self.deferred_units -= deferred.iter().map(|part| u64::from(part.end - part.start)).sum::<u64>();
        let parts: Vec<Range<u32>> = dead
            .into_iter()
            .filter(|part| self.locate(number, part).iter().all(|(container, ..)| container.is_some()))
            .collect();
        if let Some(segment) = self.segment_mut(number)? {
            for part in &parts {
                segment.live.insert(part.clone());
            }
        }
        parts.iter().for_each(|part| self.account_at(number, part, true));
        Ok(())
    }

    pub(super) fn account_at(&mut self, number: u32, range: &Range<u32>, live: bool) {
        let units = u64::from(range.end - range.start);
        if !live && sabotage::on(Rule::DeathNotCounted) {
            return;
        }
        if live {
            self.live_units += units;
        } else {
            self.live_units -= units;
        }
        for (container, _, units) in self.locate(number, range) {
            let count = container.and_then(|container| self.containers.get_mut(container as usize));
            let Some(count) = count else { continue };
            if live {
                *count += units;
            } else {
                *count -= units;
            }
        }
    }

    /// The cleaner copied live units `slot..slot + units` of a loaded segment to another place. Afterwards they are found there. What is left of the fragments that held them goes
    /// if nothing of it lives: no later death would find it, and its page would name it for as long as anything of the segment lives.
    pub fn move_units(&mut self, number: u32, slot: u32, to: Fragment) -> Result<(), StateError> {
        let range = slot..slot + to.units;
        let Some(segment) = self.segment_mut(number)? else { return Ok(()) };
        let live = segment.live.inside(&range);
        live.iter().for_each(|part| self.account_at(number, part, false));
        if let Some(loaded) = self.loaded.get_mut(&number) {
            let segment = &mut loaded.segment;
            let left = cut_out(&mut segment.moved, &range);
            segment.moved.insert(slot, to);
            // What was written elsewhere is there before it lives: then nothing of the range does.
            let is_dead = |range: &Range<u32>| !live.is_empty() && segment.live.inside(range).is_empty();
            for part in left.into_iter().flatten().filter(is_dead) {
                if let Some(fragment) = segment.moved.remove(&part.start) {
                    self.buried.add(number, part.start, fragment);
                }
            }
        }
        live.iter().for_each(|part| self.account_at(number, part, true));
        Ok(())
    }
}
