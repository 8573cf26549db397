//! One whole check of the published checkpoint: everything that repair must know comes out of it.

use super::beside::{self, Retained, Unpublished};
use super::blame::{Blame, BrokenNodes};
use super::data::{BadBlocks, Expectations};
use super::disk::Disk;
use super::links::{self, Disagreement, RealmRoots};
use super::numbers::{self, Used};
use super::report::Report;
use super::roots::{self, Roots};
use super::space::Space;
use super::walk::{At, Claim, Visit, Walk};
use super::{Options, containers, findings, interrupt, log, progress, regions};
use crate::mkfs::size::Size;
use envoyfs_engine::wal::recovery::Found;
use envoyfs_layout::directory_page::VolumeDirectory;
use envoyfs_layout::superblock::Superblock;
use envoyfs_layout::system_page::OrphanedSegment;
use envoyfs_layout::{Oid, Reference};
use indicatif::ProgressBar;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

/// What is known of a store after a check.
pub struct Examined {
    /// The superblock that rules.
    pub superblock: Superblock,
    /// What it names.
    pub directory: VolumeDirectory,
    /// Places; the marks are those of the last pass.
    pub space: Space,
    /// The log; none if it cannot be read at all.
    pub log: Option<Found>,
    /// The client's roots.
    pub roots: Option<Roots>,
    /// What waits to be freed.
    pub queue: Vec<Reference>,
    /// Nodes of the queue that could not be read.
    pub unreadable: Vec<Reference>,
    /// Segments without a home.
    pub orphans: Vec<OrphanedSegment>,
    /// Every node and page was read, so that what was not met is unreachable.
    pub complete: bool,
    /// Every node of the published trees was read.
    pub walked: bool,
    /// The lists of what retained checkpoints keep agree with the pages of segments.
    pub deferred_agrees: bool,
    /// Retained checkpoints; at least one where their list cannot be read.
    pub retained: u64,
    /// Blocks of file data that do not verify.
    pub bad: BadBlocks,
    /// Realms whose names and link table disagree.
    pub links: HashMap<RealmRoots, Disagreement>,
    /// Items whose inode number is taken.
    pub twice: HashSet<(Oid, Vec<u8>)>,
    /// Largest numbers in use.
    pub used: Used,
    /// Realms whose record has other numbers of snapshots and orphans than these.
    pub realm_items: BTreeMap<u64, (u64, u64)>,
}

/// Checks everything behind a superblock. `None`: a fatal finding was added.
pub fn examine(disk: &Disk, superblock: &Superblock, options: Options, report: &mut Report) -> Option<Examined> {
    let directory = regions::directory(disk, superblock, report)?;
    report.statistics.checkpoint = directory.entry.checkpoint.number;
    let mut space = Space::new(superblock);
    let (orphans, pages_complete) = regions::segments(disk, superblock, &directory, &mut space, report);
    report.statistics.live_bytes = space.live_bytes();
    let (queue, queue_complete) = regions::drop_queue(disk, &directory, &space, report);
    let (unreadable, unreadable_complete) = regions::unreadable(disk, &directory, &space, report);
    containers::check(disk, superblock, &directory, report);
    let log = log::check(disk, superblock, &directory, &space, report);

    if let Some(found) = log.as_ref().filter(|_| options.data) {
        log::verify_data(disk, &space, found, report);
    }

    let volume = directory.entry.volume;
    let roots = roots::read(disk, &directory.entry, &mut space, report);
    space.set_copies(roots.as_ref().map_or(&[][..], |roots| &roots.copies));
    let retained = beside::retained(disk, &directory, &space, report);
    let dropped: HashSet<Oid> = queue.iter().chain(&unreadable).map(|reference| reference.oid).collect();
    if !queue.is_empty() {
        report.add(findings::DROP_QUEUE, "store", format_args!("{} nodes", queue.len()));
    }
    if !unreadable.is_empty() {
        report.add(findings::UNREADABLE, "store", format_args!("{} nodes", unreadable.len()));
    }
    let progress = progress::bar(options.progress, space.live_bytes());
    let mut out = Examined {
        superblock: superblock.clone(),
        log,
        roots,
        complete: pages_complete && queue_complete && unreadable_complete,
        walked: true,
        deferred_agrees: false,
        retained: kept(&directory, &retained),
        bad: BadBlocks::default(),
        links: HashMap::new(),
        twice: HashSet::new(),
        used: Used::default(),
        realm_items: BTreeMap::new(),
        queue,
        unreadable,
        orphans,
        space,
        directory,
    };
    out.complete &= out.roots.is_some();
    if !roots::is_of_files(&out.directory.entry) {
        // What its nodes mean, and which of them live, is known to another program only.
        report.add(findings::OTHER_CLIENT, "store", out.directory.entry.client);
        out.complete = false;
        progress::end(options.progress, &progress);
        return Some(out);
    }
    let has_trees = out.roots.as_ref().is_some_and(|roots| !roots.trees.is_empty());
    let mut broken = BrokenNodes::new();
    let (mut index, mut from) = (0, 0);
    while from < u32::MAX {
        // Findings of the walk are the same in every pass; those of counts, liveness and data belong to one.
        let mut scratch = Report::new(String::new());
        let mut sums = Report::new(String::new());
        out.space.begin_pass(from..u32::MAX);
        let bad = {
            let first = index == 0;
            let walk_report = if first { &mut *report } else { &mut scratch };
            let waiting = out.waiting();
            let shown = if first { progress.clone() } else { ProgressBar::hidden() };
            let mut walk = Walk::new(disk, &mut out.space, walk_report, shown);
            walk.memory_bytes = options.memory_bytes;
            walk.data = options.data.then(Expectations::default);
            start(&mut walk, &out.directory, out.roots.as_ref(), &waiting);
            walk.run();
            out.walked &= walk.is_complete();
            out.complete &= walk.is_complete();
            // Of a store that has trees: nothing below is unreachable because nobody knows the way.
            if first
                && !walk.view_met
                && has_trees
                && walk.report.count(findings::NO_TOP) == 0
                && !interrupt::requested()
            {
                walk.report.add(findings::NO_TOP, "territory table", "there is no root territory with a view");
                out.complete = false;
            }
            if first && out.complete {
                out.links = links::check(&mut walk);
                out.twice = std::mem::take(&mut walk.twice);
                out.realm_items = walk.realm_records();
            }
            let mut others = beside::walk_retained(&mut walk, &retained);
            let mut expectations = walk.data.take();
            let mut unpublished = Unpublished::default();
            if let Some(log) = out.log.as_ref().filter(|log| first || log.adopted.is_some()) {
                walk.data = options.data.then(Expectations::default);
                let held = expectations.as_ref().map_or(0, Expectations::bytes);
                walk.memory_bytes = options.memory_bytes.saturating_sub(held);
                unpublished = beside::walk_unpublished(&mut walk, log, volume);
                // It may have made the pass shorter.
                let end = walk.space.pass().end;
                expectations.iter_mut().for_each(|data| data.forget_from(end));
                others.append(&mut unpublished.findings);
                walk.space.set_copies(out.roots.as_ref().map_or(&[][..], |roots| &roots.copies));
            }
            if first {
                out.used = walk.used;
                broken = std::mem::take(&mut walk.broken);
                others.into_iter().for_each(|finding| walk.report.add(finding.kind, finding.place, finding.detail));
            }
            drop(walk);
            let verified = expectations.map(|mut all| all.verify(volume, &out.space, disk, &progress));
            if let (Some((bad, _)), Some(log)) = (&verified, &out.log) {
                let found = unpublished.bad_data(disk, &mut out.space, log, bad);
                out.space.set_copies(out.roots.as_ref().map_or(&[][..], |roots| &roots.copies));
                found.into_iter().for_each(|finding| report.add(finding.kind, finding.place, finding.detail));
                report.statistics.data_bytes += unpublished.bytes;
            }
            verified
        };
        out.space.compare(volume, out.complete, &|oid| dropped.contains(&oid), &mut sums);
        report.absorb(sums);
        (index, from) = (index + 1, out.space.pass().end);
        let Some((bad, bytes)) = bad else { continue };
        report.statistics.data_bytes += bytes;
        out.bad.merge(bad);
        if interrupt::requested() {
            break;
        }
    }
    progress::end(options.progress, &progress);
    if let Some(log) = &out.log {
        out.used.by_records(log);
    }
    numbers::check(&out, report);
    out.deferred_agrees = report.count(findings::DEFERRED) == 0 && report.count(findings::NOT_LIVE) == 0;
    if report.statistics.reclaimable_bytes > 0 {
        report.add(findings::RECLAIMABLE, "store", Size(report.statistics.reclaimable_bytes));
    }
    if out.bad.more() > 0 {
        report.add(findings::DATA_CHECKSUM, "more files", format_args!("{} more blocks", out.bad.more()));
    }
    if !(out.bad.is_empty() && broken.is_empty()) {
        out.blame(disk, &broken, &retained, report);
    }
    Some(out)
}

fn kept(directory: &VolumeDirectory, retained: &[Retained]) -> u64 {
    let kept = retained.iter().filter(|retained| retained.is_kept()).count() as u64;
    kept.max(u64::from(retained.is_empty() && !directory.entry.history.is_none()))
}

impl Examined {
    /// What nothing refers to and whose edges still count.
    pub fn waiting(&self) -> Vec<Reference> {
        self.queue.iter().chain(&self.unreadable).copied().collect()
    }

    /// Tells everything that what is damaged belongs to.
    fn blame(&mut self, disk: &Disk, broken: &BrokenNodes, retained: &[Retained], report: &mut Report) {
        self.space.begin_pass(0..0);
        let mut blame = Blame::new(disk, &self.space, broken, &self.bad);
        let trees = self.roots.iter().flat_map(|roots| &roots.trees);
        let mut starts: Vec<(Reference, Rc<At>)> =
            trees.map(|(reference, _, name)| (*reference, Rc::new(At::Root((*name).into())))).collect();
        let deleted = Rc::new(At::Root("(deleted)".into()));
        starts.extend(self.queue.iter().chain(&self.unreadable).map(|reference| (*reference, Rc::clone(&deleted))));
        blame.name(&starts, report);
        for key in blame.rest(report) {
            let Some(bad) = self.bad.get(&key) else { continue };
            let detail = match &bad.found {
                Ok(found) => format!("{found:#010x}, expected {:#010x}, device offset {}", key.1, bad.offset),
                Err(why) => why.clone(),
            };
            let kind = if retained.is_empty() { findings::DATA_CHECKSUM } else { findings::HISTORY };
            report.add(kind, format_args!("object {}", key.0), detail);
        }
    }
}

/// Root edges, the trees below, and what waits to be freed: no reference leads there, but its edges still count.
pub fn start(walk: &mut Walk<'_>, directory: &VolumeDirectory, roots: Option<&Roots>, queue: &[Reference]) {
    for copy in [directory.entry.roots, directory.entry.roots_twin].iter().flatten() {
        walk.space.hold(copy);
        walk.space.mark_reached(copy.oid, 0..copy.units());
    }
    if let Some(roots) = roots {
        for reference in &roots.references {
            walk.edge(reference);
        }
        for (reference, tree, name) in &roots.trees {
            walk.stack.push(Visit::root(*reference, *tree, None, None, &Rc::new(At::Root((*name).into()))));
        }
    }
    let at = Rc::new(At::Root("(deleted)".into()));
    for reference in queue {
        walk.space.hold(reference);
        let (claim, keys) = (Claim::default(), (None, None));
        let at = Rc::clone(&at);
        walk.waiting.push(Visit { reference: *reference, tree: None, claim, keys, hash_key: None, at });
    }
}
