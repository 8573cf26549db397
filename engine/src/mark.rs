//! The mark: an online check that visits every node once from a pinned checkpoint's roots, and sets right what counts and liveness say differently (INV-06, INV-12).
//!
//! ```text
//! ask --> the next checkpoint V is retained, its table remembered --> run: walk V, compare with V's pages --> repairs stand in a later batch --> V may be dropped
//! ```
//! Operations and checkpoints go on meanwhile: V's objects stay because V is retained, V's pages because no system container is released while the mark runs. What is found
//! is a difference *at V*; counts are sums, so adding the difference later is right, and what nothing used at V nothing uses later. When space is short the mark is given up, unless a
//! writer waits for it (`engine/last_mark.rs`).
//!
//! Memory: one bit a unit of every segment with nodes (1/4096 of the bytes in nodes), and four bits a unit of the segments of one pass; there are as many passes as
//! [`MarkOptions::memory_bytes`] asks for. With more than one pass, nodes are visited once a pass. If power fails: nothing is left of a mark but batches with repairs.
//!
//! Share times are the namespace's: the mark does not lower them (decision 0010 says why).

mod walk;

use crate::StoreError;
use crate::engine::{Engine, Writer};
use crate::pace::Pace;
use crate::sabotage::{self, Rule};
use crate::state::pager::segment_page;
use crate::store::{Reason, Result};
use envoyfs_layout::batch::{Batch, Repair, RepairAction};
use envoyfs_layout::directory_page::Place;
use envoyfs_layout::system_page::SegmentPage;
use envoyfs_layout::{Hlc, LayoutError, Oid, Reference, UNIT};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use walk::{Bits, Found, Watch};

/// Nodes between two reports of progress.
const REPORT_NODES: u64 = 256;
/// Most repairs of one batch.
pub(crate) const REPAIRS_A_BATCH: usize = 1 << 14;

/// How much a mark may take.
#[derive(Clone, Copy, Debug)]
pub struct MarkOptions {
    /// Bytes of memory for one pass.
    pub memory_bytes: u64,
    /// Bytes of nodes read a second; 0: no limit.
    pub bytes_per_second: u64,
}

impl Default for MarkOptions {
    fn default() -> Self {
        Self { memory_bytes: 64 << 20, bytes_per_second: 0 }
    }
}

/// How far a mark is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MarkProgress {
    /// Passes ended.
    pub passes: u64,
    /// Passes that there will be; one more if counts differ.
    pub passes_expected: u64,
    /// Nodes visited, in all passes.
    pub nodes: u64,
    /// Nodes that one pass visits; 0 in the first, where it is not known.
    pub nodes_a_pass: u64,
}

/// What a mark found at its checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MarkReport {
    /// The checkpoint.
    pub checkpoint: u64,
    /// Passes over the nodes.
    pub passes: u64,
    /// Nodes visited in one pass.
    pub nodes: u64,
    /// Objects that something refers to.
    pub objects: u64,
    /// Objects with a wrong count.
    pub counts: u64,
    /// Live bytes that nothing refers to.
    pub leaked_bytes: u64,
    /// Live bytes of referenced extents that no node uses.
    pub unused_bytes: u64,
    /// Bytes in use that were not live.
    pub lost_bytes: u64,
    /// Bytes in use that count as needed by retained checkpoints only, so that they would die with those.
    pub deferred_bytes: u64,
    /// Nodes that cannot be read. If any is reachable, nothing is reclaimed.
    pub unreadable: Vec<Oid>,
    /// Corrections that the next checkpoints apply.
    pub repairs: u64,
}

/// Tells which units of which extents a node uses; called with its reference and its bytes.
pub type Uses<'a> =
    dyn Fn(&Reference, &[u8], &mut dyn FnMut(Oid, Range<u32>)) -> std::result::Result<(), LayoutError> + 'a;

/// The checkpoint that a mark looks at.
#[derive(Debug)]
pub(crate) struct Version {
    checkpoint: u64,
    roots: Vec<Reference>,
    own: Vec<Reference>,
    table: Vec<(u32, Place)>,
    queue: Place,
    unreadable: Vec<Reference>,
}

/// A mark under way.
#[derive(Debug, Default)]
pub(crate) struct Mark {
    asked: bool,
    /// Somebody runs it, or waits for the checkpoint that it looks at.
    runs: bool,
    version: Option<Arc<Version>>,
    given_up: bool,
    repairs: Vec<Repair>,
}

impl Engine {
    /// Asks for a mark: it looks at the next checkpoint. In a store with threads, [`Engine::mark`] does it.
    ///
    /// # Errors
    /// The store is read-only, or a mark is under way.
    pub fn ask_mark(&self) -> Result<()> {
        let writer = self.writer()?;
        let mut mark = self.mark.lock();
        if mark.asked || mark.version.is_some() {
            return Err(StoreError::Misuse("a mark is under way already".into()));
        }
        *mark = Mark { asked: true, runs: mark.runs, repairs: std::mem::take(&mut mark.repairs), ..Mark::default() };
        drop(mark);
        writer.admission.ledger.lock().wanted.get_or_insert(Reason::Log);
        writer.admission.changed.notify_all();
        Ok(())
    }

    /// Marks; see the module. `uses` tells which units of its extents a node uses; without it, every referenced extent counts as used whole. Blocks for the whole walk; with
    /// threads also until somebody made the checkpoint.
    ///
    /// # Errors
    /// [`StoreError::WouldWait`] without threads, before the checkpoint after [`Engine::ask_mark`]; [`StoreError::Refused`] if somebody else runs one, or it was given up because
    /// space was short; a page of the store cannot be read.
    pub fn mark(&self, options: MarkOptions, uses: Option<&Uses<'_>>) -> Result<MarkReport> {
        self.mark_with(options, uses, &mut |_| ControlFlow::Continue(()))
    }

    /// The same; `progress` is called now and then, and may end it.
    ///
    /// # Errors
    /// As [`Engine::mark`]; [`StoreError::Refused`] if `progress` ended it.
    pub fn mark_with(
        &self,
        options: MarkOptions,
        uses: Option<&Uses<'_>>,
        progress: &mut dyn FnMut(&MarkProgress) -> ControlFlow<()>,
    ) -> Result<MarkReport> {
        {
            let mut mark = self.mark.lock();
            // What it corrects are differences: two that look at one checkpoint would correct it twice.
            if mark.runs {
                return Err(StoreError::Refused("another mark is under way; try again when it has ended".into()));
            }
            mark.runs = true;
        }
        let result = self.mark_alone(options, uses, progress);
        self.mark.lock().runs = false;
        result
    }

    fn mark_alone(
        &self,
        options: MarkOptions,
        uses: Option<&Uses<'_>>,
        progress: &mut dyn FnMut(&MarkProgress) -> ControlFlow<()>,
    ) -> Result<MarkReport> {
        if !self.is_mark_under_way() {
            self.ask_mark()?;
        }
        let writer = self.writer()?;
        self.last_mark_runs(writer);
        let pace = Pace::new(options.bytes_per_second);
        let is_waited_for = || writer.admission.ledger.lock().mark.is_pending();
        let mut watch =
            Watch { progress: MarkProgress::default(), pace, tell: progress, is_waited_for: &is_waited_for };
        let version = match self.wait_version(&mut watch) {
            // It goes on waiting in a store without threads; else nobody is left who would run it.
            Err(error) if !matches!(error, StoreError::WouldWait { .. }) => {
                {
                    let mut mark = self.mark.lock();
                    mark.asked = false;
                    // A publication may have pinned it meanwhile: nobody would walk it, nor let it go.
                    mark.version = None;
                }
                self.last_mark_ended(writer, false);
                return Err(error);
            }
            other => other?,
        };
        let timing = self.metrics.time(&self.metrics.mark.total);
        let result = self.run_mark(&version, options, uses, &mut watch);
        timing.stop();
        let mut mark = self.mark.lock();
        mark.version = None;
        let metrics = &self.metrics.state;
        metrics.marks.add(u64::from(result.is_ok()));
        metrics.marks_given_up.add(u64::from(mark.given_up));
        let result = match result {
            _ if mark.given_up => Err(StoreError::Refused("the mark was given up: the store is short of space".into())),
            Ok((mut report, repairs)) => {
                report.repairs = repairs.len() as u64;
                mark.repairs.extend(repairs);
                Ok(report)
            }
            Err(error) => Err(error),
        };
        drop(mark);
        self.last_mark_ended(writer, result.is_ok());
        result
    }

    fn wait_version(&self, watch: &mut Watch<'_>) -> Result<Arc<Version>> {
        let writer = self.writer()?;
        loop {
            let version = self.mark.lock().version.clone();
            if let Some(version) = version {
                return Ok(version);
            }
            if let Some(why) = writer.wal.poisoned() {
                return Err(StoreError::Poisoned { why });
            }
            if !self.options.threads {
                return Err(StoreError::WouldWait { what: "a mark" });
            }
            if (watch.tell)(&watch.progress).is_break() {
                return Err(stopped());
            }
            let mut ledger = writer.admission.ledger.lock();
            ledger.wanted.get_or_insert(Reason::Log);
            writer.admission.changed.wait_for(&mut ledger, std::time::Duration::from_millis(50));
        }
    }

    /// Whether a checkpoint is retained for a mark: not while corrections of the one before would be left behind it.
    pub(crate) fn mark_wants(&self) -> bool {
        let mark = self.mark.lock();
        mark.asked && mark.repairs.len() <= REPAIRS_A_BATCH
    }

    /// As if a mark had found these.
    #[cfg(test)]
    pub(crate) fn queue_repairs(&self, repairs: impl Iterator<Item = Repair>) {
        self.mark.lock().repairs.extend(repairs);
    }

    /// Whether pages of a mark's checkpoint must stay.
    pub(crate) fn is_marking(&self) -> bool {
        let mark = self.mark.lock();
        mark.version.is_some() && !mark.given_up
    }

    /// The checkpoint that a mark keeps.
    pub(crate) fn marked_checkpoint(&self) -> Option<u64> {
        let mark = self.mark.lock();
        mark.version.as_ref().filter(|_| !mark.given_up).map(|version| version.checkpoint)
    }

    /// Whether somebody runs one: it walks, or waits for its checkpoint.
    pub(crate) fn is_mark_run(&self) -> bool {
        self.mark.lock().runs
    }

    /// Whether one is asked for or walks.
    pub(crate) fn is_mark_under_way(&self) -> bool {
        let mark = self.mark.lock();
        mark.asked || mark.version.is_some()
    }

    /// Whether a retained checkpoint must stay for a mark; with `gives_up`, the mark is given up instead.
    pub(crate) fn pinned_history(&self, checkpoint: u64, gives_up: bool) -> bool {
        let mut mark = self.mark.lock();
        let pinned = mark.version.as_ref().is_some_and(|version| version.checkpoint == checkpoint);
        mark.given_up |= pinned && gives_up;
        pinned && !mark.given_up && !sabotage::on(Rule::MarkRootsDropped)
    }

    /// This checkpoint is published: a mark that was asked for looks at it, if it is retained and has all corrections of the mark before. Counts are corrected by differences: one that is
    /// still to be applied would be found, and applied, twice.
    pub(crate) fn pin_version(&self, checkpoint: u64, roots: &[Reference], own: [Reference; 2]) {
        let mut mark = self.mark.lock();
        if !mark.asked || !mark.repairs.is_empty() {
            return;
        }
        let state = self.state.lock();
        if state.newest_retained().is_none_or(|retained| retained.row.checkpoint != checkpoint) {
            return;
        }
        mark.asked = false;
        mark.version = Some(Arc::new(Version {
            checkpoint,
            roots: roots.to_vec(),
            own: own.to_vec(),
            table: state.table().iter().map(|(number, row)| (*number, row.page)).collect(),
            queue: state.queue().place(),
            unreadable: state.unreadable().to_vec(),
        }));
    }

    /// Puts corrections into a batch and applies them.
    pub(crate) fn apply_repairs(&self, writer: &Writer, batch: &mut Batch) -> Result<()> {
        let due: Vec<Repair> = {
            let mut mark = self.mark.lock();
            let count = mark.repairs.len().min(REPAIRS_A_BATCH);
            mark.repairs.drain(..count).collect()
        };
        for part in due.chunks(256) {
            self.load_segments(&part.iter().map(|repair| repair.reference.oid.segment()).collect())?;
            let mut state = self.state.lock();
            for repair in part {
                state.repair(repair).map_err(|error| StoreError::Misuse(error.to_string()))?;
            }
            drop(state);
            self.spill(&writer.space)?;
        }
        self.metrics.state.repairs.add(due.len() as u64);
        if !sabotage::on(Rule::RepairsNotInBatch) {
            batch.repairs = due;
        }
        Ok(())
    }

    fn run_mark(
        &self,
        version: &Version,
        options: MarkOptions,
        uses: Option<&Uses<'_>>,
        watch: &mut Watch<'_>,
    ) -> Result<(MarkReport, Vec<Repair>)> {
        let mut report = MarkReport { checkpoint: version.checkpoint, ..MarkReport::default() };
        let mut repairs = Vec::new();
        let mut wrong: BTreeMap<Oid, i32> = BTreeMap::new();
        // Four bits a unit.
        let segment_bytes = u64::from(self.shape.units()) / 2 + 512;
        let width = usize::try_from((options.memory_bytes / segment_bytes).max(1)).unwrap_or(usize::MAX);
        let mut unreadable: BTreeSet<Oid> = BTreeSet::new();
        let mut complete = true;
        watch.progress.passes_expected = version.table.len().div_ceil(width) as u64;
        for part in version.table.chunks(width) {
            let (Some((first, _)), Some((last, _))) = (part.first(), part.last()) else { continue };
            let pass = self.walk(version, *first..=*last, BTreeMap::new(), uses, watch)?;
            report.passes += 1;
            watch.progress.passes = report.passes;
            watch.progress.nodes_a_pass = pass.nodes;
            report.nodes = pass.nodes;
            report.objects += pass.objects;
            complete &= pass.unreadable.is_empty();
            unreadable.extend(&pass.unreadable);
            for (number, place) in part {
                let page = if place.is_none() {
                    SegmentPage { segment: *number, ..SegmentPage::default() }
                } else {
                    segment_page(&self.reader, *number, place)?
                };
                let nothing = Found::default();
                let found = pass.found.get(number).unwrap_or(&nothing);
                self.compare(&page, found, &mut report, &mut repairs, &mut wrong);
            }
        }
        report.counts = wrong.len() as u64;
        self.metrics.mark.passes.increment();
        self.metrics.mark.wrong_counts.add(report.counts);
        self.metrics.mark.leaked_bytes.add(report.leaked_bytes);
        report.unreadable = unreadable.into_iter().collect();
        if !complete && !sabotage::on(Rule::MarkReclaimsBelowDamage) {
            // What hangs below a node that cannot be read only seems to be unused.
            return Ok((report, Vec::new()));
        }
        if !wrong.is_empty() {
            let wanted = wrong.keys().map(|oid| (*oid, None)).collect();
            // No segment: only references are looked for.
            let (low, high) = (u32::MAX, 0);
            let pass = self.walk(version, low..=high, wanted, uses, watch)?;
            for (oid, reference) in pass.wanted {
                let (Some(reference), Some(delta)) = (reference, wrong.get(&oid)) else { continue };
                let units = reference.units();
                repairs.push(Repair { action: RepairAction::Count, reference, first: 0, units, delta: *delta });
            }
        }
        for reference in &version.unreadable {
            repairs.push(Repair { action: RepairAction::Readable, ..unit_repair(reference.oid, 1) });
        }
        Ok((report, repairs))
    }

    fn compare(
        &self,
        page: &SegmentPage,
        found: &Found,
        report: &mut MarkReport,
        repairs: &mut Vec<Repair>,
        wrong: &mut BTreeMap<Oid, i32>,
    ) {
        let oid = |slot: u32| Oid::new(self.shape.volume, page.segment, u16::try_from(slot).unwrap_or(u16::MAX));
        let (mut live, mut deferred) = (Bits::default(), Bits::default());
        let units = |(slot, units): &(u16, u16)| u32::from(*slot)..u32::from(*slot) + u32::from(*units);
        page.live.iter().for_each(|run| live.extend(units(run)));
        page.deferred.iter().for_each(|run| deferred.extend(units(run)));
        let mut run: Option<(RepairAction, Range<u32>)> = None;
        for unit in 0..=live.end().max(found.used.end()) {
            let what = match (live.contains(unit), found.used.contains(unit), deferred.contains(unit)) {
                (true, false, false) if found.queue_used.contains(unit) => None,
                (true, false, false) if found.covered.contains(unit) => {
                    report.unused_bytes += u64::from(UNIT);
                    Some(RepairAction::Dead)
                }
                (true, false, false) => {
                    report.leaked_bytes += u64::from(UNIT);
                    Some(RepairAction::Dead)
                }
                (false, true, _) => {
                    report.lost_bytes += u64::from(UNIT);
                    Some(RepairAction::Live)
                }
                (true, true, true) => {
                    report.deferred_bytes += u64::from(UNIT);
                    Some(RepairAction::Live)
                }
                _ => None,
            };
            match (&mut run, what) {
                (Some((action, range)), Some(what)) if *action == what => range.end = unit + 1,
                _ => {
                    if let Some((action, range)) = run.take() {
                        repairs.push(Repair { action, ..unit_repair(oid(range.start), range.end - range.start) });
                    }
                    run = what.map(|what| (what, unit..unit + 1));
                }
            }
        }
        let stored: BTreeMap<u16, i32> = page.extra.iter().copied().collect();
        for slot in stored.keys().chain(found.extra.keys()).collect::<BTreeSet<_>>() {
            let (says, is) = (stored.get(slot).copied().unwrap_or(0), found.extra.get(slot).copied().unwrap_or(0));
            let seen = found.seen.contains(u32::from(*slot));
            if seen && says != is {
                wrong.insert(oid((*slot).into()), is - says);
            } else if !(seen || says == -1 && found.queued.contains(slot)) {
                repairs.push(Repair { action: RepairAction::Forget, ..unit_repair(oid((*slot).into()), 1) });
            }
        }
    }
}

fn stopped() -> StoreError {
    StoreError::Refused("the mark was stopped".into())
}

/// Of an object of which only the id is known.
const fn unit_repair(oid: Oid, units: u32) -> Repair {
    let reference = Reference::extent(oid, Hlc::ZERO, UNIT);
    Repair { action: RepairAction::Dead, reference, first: 0, units, delta: 0 }
}
