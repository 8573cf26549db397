//! Checkpoints beside the published one: those retained as history (INV-31), and one that the log holds and no superblock names yet, which a mount would start from.
//!
//! Neither counts edges. Of a retained one everything must be readable and its units must not be reused; of an unpublished one nodes and data must be readable, else a
//! repair has to go on from the published one, from which the records in the log lead to the same state. Nodes that the published checkpoint shares were looked at before.

use super::blame::{Blame, BrokenNodes};
use super::data::BadBlocks;
use super::disk::Disk;
use super::findings::{self, Finding, Severity};
use super::regions;
use super::report::Report;
use super::roots::{self, Roots};
use super::space::Space;
use super::walk::{At, Purpose, Visit, Walk};
use envoyfs_engine::wal::recovery::Found;
use envoyfs_layout::directory_page::VolumeDirectory;
use envoyfs_layout::system_page::{DeferredRange, HistoryRow, HistoryState, ListPage};
use envoyfs_layout::{Oid, Reference, UNIT, checksum};
use std::collections::BTreeMap;
use std::rc::Rc;

/// A retained checkpoint.
pub struct Retained {
    row: HistoryRow,
    /// None if they cannot be read, or if it is being dropped.
    roots: Option<Roots>,
}

impl Retained {
    /// It is not being dropped.
    pub fn is_kept(&self) -> bool {
        self.row.state == HistoryState::Retained
    }
}

/// Reads the list of retained checkpoints and what each keeps from reuse. The findings about pages are added; a checkpoint whose roots are lost is one too.
pub fn retained(disk: &Disk, directory: &VolumeDirectory, space: &Space, report: &mut Report) -> Vec<Retained> {
    let rows_of = |page| if let ListPage::History(rows) = page { Some(rows) } else { None };
    let first = directory.entry.history;
    let (rows, whole) = regions::list(disk, space, directory, first, report, "list of retained checkpoints", rows_of);
    let mut kept = 0;
    let mut known = whole;
    let mut out = Vec::new();
    for row in rows {
        let what = format!("what checkpoint {} keeps", row.checkpoint);
        let rows_of = |page| if let ListPage::Deferred(rows) = page { Some(rows) } else { None };
        let (ranges, whole) = regions::list(disk, space, directory, row.deferred, report, &what, rows_of);
        let units: u64 = ranges.iter().map(|range: &DeferredRange| u64::from(range.units)).sum();
        if whole && (units, ranges.len() as u64) != (row.units, row.rows) {
            let detail = format!("{units} units in {} ranges, expected {} in {}", ranges.len(), row.units, row.rows);
            report.add(findings::DEFERRED, &what, detail);
        }
        kept += units;
        known &= whole;
        let mut roots = None;
        if row.state == HistoryState::Retained {
            match roots::read_pair(disk, space, &[row.roots, row.roots_twin]).and_then(|found| roots::of(&found)) {
                Ok(found) => roots = Some(found),
                Err(why) => report.add(findings::HISTORY, format_args!("(checkpoint {})", row.checkpoint), why),
            }
        }
        out.push(Retained { row, roots });
    }
    let pages = space.deferred_units();
    if known && pages.is_some_and(|pages| pages != kept) {
        let detail = format!("{kept} units in the lists, {} in the pages of segments", pages.unwrap_or(0));
        report.add(findings::DEFERRED, "retained checkpoints", detail);
    }
    out
}

/// Walks the retained checkpoints, newest first, after the published one: marks what they need, and returns what of them cannot be read.
pub fn walk_retained(walk: &mut Walk<'_>, all: &[Retained]) -> Vec<Finding> {
    let mut out = Vec::new();
    for Retained { row, roots } in all.iter().rev() {
        let Some(roots) = roots else { continue };
        for copy in [&row.roots, &row.roots_twin] {
            walk.space.mark_kept(copy.oid, 0..copy.units());
        }
        out.extend(walk_beside(walk, Purpose::Retained, format!("(checkpoint {})", row.checkpoint), roots));
    }
    out
}

/// What is wrong with the checkpoint that the log holds.
#[derive(Default)]
pub struct Unpublished {
    /// Its batch, roots and nodes.
    pub findings: Vec<Finding>,
    /// None if they cannot be read.
    roots: Option<Roots>,
    /// Blocks of file data that its own nodes name.
    bad: BadBlocks,
    /// Bytes verified.
    pub bytes: u64,
}

impl Unpublished {
    /// Bad blocks that neither the published checkpoint nor a record names: these have findings of their own, and no other checkpoint to start from helps against them.
    /// Leaves `space` with the copies of this checkpoint's roots.
    pub fn bad_data(&self, disk: &Disk, space: &mut Space, log: &Found, published: &BadBlocks) -> Vec<Finding> {
        let (Some(adopted), Some(roots)) = (&log.adopted, &self.roots) else { return Vec::new() };
        let objects = log.records.iter().flat_map(|record| &record.data);
        let recorded: BTreeMap<Oid, u32> = objects.map(|object| (object.oid, object.stored_bytes / UNIT)).collect();
        let is_recorded = |oid: Oid| {
            recorded.range(..=oid).next_back().is_some_and(|(object, units)| {
                let end = u32::from(object.slot()).saturating_add(*units);
                object.segment() == oid.segment() && u32::from(oid.slot()) < end
            })
        };
        let own = self.bad.only(|key| published.get(key).is_none() && !is_recorded(key.0));
        if own.is_empty() {
            return Vec::new();
        }
        let from_log = space.with_log(&log.placed, &log.relocated);
        space.set_copies(&roots.copies);
        let nodes = BrokenNodes::new();
        let mut named = Report::new(String::new());
        let mut blame = Blame::new(disk, space, &nodes, &own);
        let starts: Vec<(Reference, Rc<At>)> =
            roots.trees.iter().map(|(root, _, name)| (*root, Rc::new(At::Root((*name).into())))).collect();
        blame.name(&starts, &mut named);
        for key in blame.rest(&mut named) {
            let Some(bad) = own.get(&key) else { continue };
            let why = match &bad.found {
                Ok(found) => format!("{found:#010x}, expected {:#010x}, at device offset {}", key.1, bad.offset),
                Err(why) => why.clone(),
            };
            named.add(findings::DATA_CHECKSUM, format_args!(" object {}", key.0), why);
        }
        space.without_log(from_log);
        let here = |finding: Finding| Finding {
            kind: findings::LOG_CHECKPOINT,
            place: format!("(checkpoint {}){}", adopted.body.number, finding.place),
            detail: format!("F{:03}: {}; {}", finding.kind.number, finding.kind.what, finding.detail),
        };
        named.findings.into_iter().map(here).collect()
    }
}

/// Looks at the checkpoint that the log holds and that a mount would start from: its batch, roots and nodes, and what the walk's data gathers.
pub fn walk_unpublished(walk: &mut Walk<'_>, log: &Found, volume: u16) -> Unpublished {
    let Some(adopted) = &log.adopted else { return Unpublished::default() };
    let from_log = walk.space.with_log(&log.placed, &log.relocated);
    let body = &adopted.body;
    let name = format!("(checkpoint {})", body.number);
    let lost = |what: &str, why: String| Finding {
        kind: findings::LOG_CHECKPOINT,
        place: name.clone(),
        detail: format!("{what}: {why}"),
    };
    let mut out = Vec::new();
    for part in &body.batch {
        let mut bytes = vec![0; part.stored_bytes as usize];
        let read = walk.space.read(walk.disk, part.oid, 0, &mut bytes).map_err(|error| error.to_string());
        let read = read.and_then(|_| {
            let found = checksum::crc32c(&bytes);
            if found == part.crc { Ok(()) } else { Err(format!("{found:#010x}, expected {:#010x}", part.crc)) }
        });
        out.extend(read.err().map(|why| lost("batch", why)));
    }
    let read = roots::read_pair(walk.disk, walk.space, &[body.roots, body.roots_twin]);
    let roots = read.and_then(|found| roots::of(&found)).map_err(|why| out.push(lost("roots", why))).ok();
    if let Some(roots) = &roots {
        walk.space.set_copies(&roots.copies);
        let found = walk_beside(walk, Purpose::Unpublished, name.clone(), roots);
        out.extend(found.into_iter().map(|finding| Finding { kind: findings::LOG_CHECKPOINT, ..finding }));
    }
    let progress = walk.progress.clone();
    let verified = walk.data.take().map(|mut data| data.verify(volume, walk.space, walk.disk, &progress));
    walk.space.without_log(from_log);
    let (bad, bytes) = verified.unwrap_or_default();
    Unpublished { findings: out, roots, bad, bytes }
}

fn walk_beside(walk: &mut Walk<'_>, purpose: Purpose, name: String, roots: &Roots) -> Vec<Finding> {
    let base = Rc::new(At::Root(name.into()));
    let visits = roots.trees.iter().map(|(reference, tree, name)| {
        let at = At::below(&base, *name);
        Visit::root(*reference, *tree, None, None, &at)
    });
    let visits: Vec<Visit> = visits.collect();
    let side = walk.beside(purpose, Rc::clone(&base), visits);
    let worth = side.findings.into_iter().filter(|finding| finding.kind.severity > Severity::Note);
    let worth = worth.map(|finding| {
        let detail = format!("F{:03}: {}; {}", finding.kind.number, finding.kind.what, finding.detail);
        Finding { kind: findings::HISTORY, place: finding.place, detail }
    });
    worth.collect()
}
