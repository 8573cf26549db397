//! What the store's own books must say: pages, table and totals that follow from a walk of the trees; and their publication.
//!
//! Runs on the published roots, or on roots that a repair has just written. Nothing is overwritten: pages that are right stay where they are, others are written to free
//! containers, and a new version of the volume directory is published (see [`envoyfs_engine::repair`]). If power fails before that, the store is as it was.

use super::disk::Disk;
use super::examine::{Examined, start};
use super::report::Report;
use super::roots::Roots;
use super::space::Known;
use super::walk::Walk;
use super::{Options, interrupt};
use anyhow::{Result, bail};
use envoyfs_engine::repair::{OfflineWriter, begin_log, publish_directory};
use envoyfs_layout::directory_page::{Bounds, ContainerRow, ContainerState, Place, Totals, VolumeEntry};
use envoyfs_layout::roots::RootsObject;
use envoyfs_layout::system_page::{ListPage, OrphanedSegment, SegmentPage};
use envoyfs_layout::{Hlc, Lsn, Reference, ReferenceKind, UNIT};
use indicatif::ProgressBar;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Rows of one page of a list.
const LIST_ROWS: usize = 2048;
/// Rows of a page of the list of segments without a home.
const ORPHAN_ROWS: usize = 256;

/// What is to be published.
pub struct NewState {
    /// The client's roots; none if they stay.
    pub roots: Option<Roots>,
    /// Client bytes of the roots.
    pub blob: Vec<u8>,
    /// Numbers that were handed out.
    pub bounds: Bounds,
    /// The log stays and is replayed by the next mount. Else it begins anew, empty.
    pub keep_log: bool,
    /// What waits to be freed stays in the queue, the next one last. Else it is freed now.
    pub queue: Vec<Reference>,
    /// The same of what cannot be read.
    pub unreadable: Vec<Reference>,
}

/// Containers that records of the log put something into, or that what they name lies in: it need not live yet, nor its place be told by the log, which may begin behind that.
fn placed_by_log(examined: &Examined) -> BTreeSet<u32> {
    let mut placed: BTreeSet<u32> =
        examined.log.iter().flat_map(|log| &log.placed).map(|placed| placed.container).collect();
    placed.extend(examined.log.iter().flat_map(|log| &log.relocated).map(|relocated| relocated.container));
    for (segment, units) in named_by_log(examined) {
        let places = units.into_iter().flat_map(|units| examined.space.locate(segment, units).unwrap_or_default());
        placed.extend(places.map(|(position, _)| examined.space.container_at(position)));
    }
    placed
}

/// Units of data that records of the log name, by segment.
fn named_by_log(examined: &Examined) -> BTreeMap<u32, Vec<Range<u32>>> {
    let mut named: BTreeMap<u32, Vec<Range<u32>>> = BTreeMap::new();
    let records = examined.log.iter().flat_map(|log| &log.records);
    for object in records.flat_map(|record| &record.data).filter(|o| examined.space.has_room(o.oid, o.stored_bytes)) {
        let start = u32::from(object.oid.slot());
        named.entry(object.oid.segment()).or_default().push(start..start + object.stored_bytes.div_ceil(UNIT));
    }
    named
}

/// Containers that nothing may need: neither the table nor the log.
#[must_use]
pub fn free_containers(examined: &Examined) -> BTreeSet<u32> {
    let placed = placed_by_log(examined);
    let rows = (0_u32..).zip(&examined.directory.table);
    let free = rows.filter(|(number, row)| row.state == ContainerState::Free && !placed.contains(number));
    free.filter(|(_, row)| row.live_units == 0).map(|(number, _)| number).collect()
}

struct Books {
    /// Pages by segment; none where nothing lives.
    places: BTreeMap<u32, Place>,
    live: BTreeMap<u32, u32>,
    /// Segments with something that lives.
    alive: BTreeSet<u32>,
    live_units: u64,
    shared: u64,
    segments: u64,
    orphans: Vec<OrphanedSegment>,
    /// Segments with moved fragments.
    slot_maps: BTreeSet<u32>,
}

/// Walks `state.roots` (or the published ones), writes what differs, publishes. The trees below the roots must be readable; where they are not, nothing is freed.
///
/// # Errors
/// There is no room, the device failed, or the user stopped it. Unless the device failed amid the superblocks, the store is as it was.
pub fn publish(
    disk: &Disk,
    examined: &mut Examined,
    mut writer: OfflineWriter<'_>,
    state: NewState,
    options: Options,
) -> Result<()> {
    let mut entry = examined.directory.entry.clone();
    entry.bounds = state.bounds;
    if !state.keep_log {
        let (sequence, lsn, hlc) = end_of_log(examined);
        begin_log(&mut entry, &examined.superblock, sequence, lsn);
        entry.checkpoint_hlc = entry.checkpoint_hlc.max(hlc);
    }
    if let Some(roots) = &state.roots {
        let object = RootsObject {
            checkpoint: entry.checkpoint.number,
            freeze: entry.checkpoint.freeze,
            hlc: entry.checkpoint_hlc,
            client: entry.client,
            references: roots.references.clone(),
            blob: state.blob.clone(),
            copies: Vec::new(),
        };
        // What was written until now is read back for it.
        writer.settle()?;
        add_homes(examined, &writer);
        let bytes = object.with_copies(|root| examined.space.root(disk, root)).encode();
        let hlc = entry.checkpoint_hlc;
        let mut copy = || writer.append(ReferenceKind::Roots, 0, hlc, 0, &bytes);
        (entry.roots, entry.roots_twin) = (Some(copy()?), Some(copy()?));
    }
    writer.settle()?;
    add_homes(examined, &writer);
    examined.directory.entry.roots = entry.roots;
    examined.directory.entry.roots_twin = entry.roots_twin;
    let roots = state.roots.or_else(|| examined.roots.take());
    let waiting: Vec<Reference> = state.queue.iter().chain(&state.unreadable).copied().collect();
    let logged = if state.keep_log { named_by_log(examined) } else { BTreeMap::new() };
    let books = account(disk, examined, roots.as_ref(), (&waiting, &logged), &mut writer, options)?;
    if interrupt::requested() {
        bail!("stopped before anything was changed");
    }
    // Nothing replays a log that is over.
    let placed = if state.keep_log { placed_by_log(examined) } else { BTreeSet::new() };
    let (table, entry) = finish(examined, entry, books, (&state.queue, &state.unreadable, &placed), writer)?;
    publish_directory(disk.device(), &examined.superblock, entry, table)?;
    Ok(())
}

/// Segments begun by the writer can be read from now on.
fn add_homes(examined: &mut Examined, writer: &OfflineWriter<'_>) {
    for (segment, container) in writer.homes() {
        examined.space.add(SegmentPage { segment: *segment, ..SegmentPage::default() }, Some(*container), false);
    }
}

/// Where an empty log may begin: behind every block and record that there can be.
fn end_of_log(examined: &Examined) -> (u64, Lsn, Hlc) {
    let entry = &examined.directory.entry;
    let ring = examined.superblock.ring_bytes / u64::from(examined.superblock.logical_block.max(1));
    let known = entry.cuts.iter().map(|cut| (cut.sequence, cut.lsn));
    let (mut sequence, mut lsn) = (entry.start.sequence, entry.checkpoint.freeze.max(entry.checkpoint.record));
    for (a, b) in known {
        (sequence, lsn) = (sequence.max(a), lsn.max(b));
    }
    match &examined.log {
        Some(log) => (sequence.max(log.cut.sequence), lsn.max(log.cut.lsn).max(log.threshold), log.max_hlc),
        // It could not be read: further than it can reach.
        None => (sequence + ring, Lsn(lsn.0 + examined.superblock.ring_bytes), Hlc::ZERO),
    }
}

fn account(
    disk: &Disk,
    examined: &mut Examined,
    roots: Option<&Roots>,
    (queue, logged): (&[Reference], &BTreeMap<u32, Vec<Range<u32>>>),
    writer: &mut OfflineWriter<'_>,
    options: Options,
) -> Result<Books> {
    let mut books = Books {
        places: BTreeMap::new(),
        live: BTreeMap::new(),
        alive: BTreeSet::new(),
        live_units: 0,
        shared: 0,
        segments: 0,
        orphans: Vec::new(),
        slot_maps: BTreeSet::new(),
    };
    let mut published: BTreeMap<u32, Place> =
        examined.directory.table.iter().map(|row| (row.segment, row.metadata)).collect();
    published.extend(examined.orphans.iter().map(|row| (row.segment, row.page)));
    let mut waiting: BTreeMap<u32, Vec<u16>> = BTreeMap::new();
    queue.iter().for_each(|r| waiting.entry(r.oid.segment()).or_default().push(r.oid.slot()));
    let logged_in = |number: u32| logged.get(&number).map_or(&[][..], Vec::as_slice);
    let mut from = 0;
    while from < u32::MAX {
        examined.space.begin_pass(from..u32::MAX);
        let mut scratch = Report::new(String::new());
        let mut walk = Walk::new(disk, &mut examined.space, &mut scratch, ProgressBar::hidden());
        walk.memory_bytes = options.memory_bytes;
        start(&mut walk, &examined.directory, roots, queue);
        walk.run();
        let complete = walk.is_complete() && roots.is_some_and(|roots| roots.trees.len() == roots.references.len());
        let known = if complete { Known::All } else { Known::Part { deferred: examined.deferred_agrees } };
        let range = examined.space.pass();
        from = range.end;
        let numbers: Vec<u32> = examined.space.segments().range(range).map(|(number, _)| *number).collect();
        for number in numbers {
            let waiting = waiting.get(&number).map_or(&[][..], Vec::as_slice);
            let Some(page) = examined.space.exact(number, known, waiting, logged_in(number)) else { continue };
            let Some(segment) = examined.space.segments().get(&number) else { continue };
            let place = published.get(&number).copied().unwrap_or_default();
            let row = examined.directory.table.get(place.container as usize);
            let system = row.is_some_and(|row| row.state == ContainerState::System);
            let empty = page.live.is_empty() && page.extra.is_empty() && page.moved.is_empty();
            let same = segment.page == page && !segment.unknown && (system || place.is_none());
            let place = if same && (empty || !place.is_none()) { place } else { writer.page(&page.encode())? };
            let live = page.live.iter().map(|(_, units)| u64::from(*units)).sum::<u64>();
            books.live_units += live;
            books.shared += page.extra.len() as u64;
            for (container, units) in examined.space.live_by_container(std::iter::once(&page)) {
                *books.live.entry(container).or_default() += units;
            }
            if segment.home.is_none() {
                if live == 0 {
                    continue;
                }
                books.orphans.push(OrphanedSegment { segment: number, page: place });
            }
            books.segments += 1;
            if live > 0 || !page.moved.is_empty() {
                books.alive.insert(number);
            }
            if !page.moved.is_empty() {
                books.slot_maps.insert(number);
            }
            books.places.insert(number, place);
        }
    }
    Ok(books)
}

/// Lists, table and totals.
fn finish(
    examined: &Examined,
    mut entry: VolumeEntry,
    mut books: Books,
    (queue, unreadable, placed): (&[Reference], &[Reference], &BTreeSet<u32>),
    mut writer: OfflineWriter<'_>,
) -> Result<(Vec<ContainerRow>, VolumeEntry)> {
    let mut table = examined.directory.table.clone();
    // What only a scan took for used (it was free, with an old header), or nothing needs any more: a mount would have to make a checkpoint to get it back, and that may want
    // more room than is left.
    for (number, row) in (0_u32..).zip(&mut table) {
        let closed = matches!(row.state, ContainerState::Sealed | ContainerState::Survivors);
        let lives = books.live.get(&number).is_some_and(|units| *units > 0) || books.alive.contains(&row.segment);
        if closed && !lives && !placed.contains(&number) {
            if books.places.remove(&row.segment).is_some() {
                books.segments -= 1;
            }
            *row = ContainerRow::FREE;
        }
    }
    let mut lists = Vec::new();
    // A stack: its top is the end of the first page.
    entry.drop_queue = list(&mut writer, queue.chunks(LIST_ROWS), |r| ListPage::DropQueue(r.to_vec()), &mut lists)?;
    entry.unreadable =
        list(&mut writer, unreadable.rchunks(LIST_ROWS), |rows| ListPage::Unreadable(rows.to_vec()), &mut lists)?;
    let mut index = Vec::new();
    for rows in books.orphans.chunks(ORPHAN_ROWS) {
        let page = writer.page(&ListPage::OrphanedSegments(rows.to_vec()).encode(Place::NONE))?;
        lists.push(page);
        index.extend(rows.first().map(|row| OrphanedSegment { segment: row.segment, page }));
    }
    entry.orphaned_segments =
        list(&mut writer, index.rchunks(LIST_ROWS), |rows| ListPage::OrphanIndex(rows.to_vec()), &mut lists)?;
    entry.history = Place::NONE;
    entry.totals = Totals {
        live_units: books.live_units,
        live_objects: 0,
        shared_objects: books.shared,
        drop_queue_objects: queue.len() as u64,
        nodes: 0,
        segments: books.segments,
        deferred_units: 0,
    };
    let mut pages: BTreeMap<u32, u32> = BTreeMap::new();
    for place in books.places.values().chain(&lists).filter(|place| !place.is_none()) {
        *pages.entry(place.container).or_default() += place.stored_bytes.div_ceil(UNIT);
    }
    for filled in writer.finish()? {
        if let Some(row) = table.get_mut(filled.container as usize) {
            *row = filled.row;
        }
    }
    for (number, row) in (0_u32..).zip(&mut table) {
        if row.state == ContainerState::System {
            row.live_units = pages.get(&number).copied().unwrap_or(0);
        } else {
            row.live_units = books.live.get(&number).copied().unwrap_or(0);
            row.metadata = books.places.get(&row.segment).copied().unwrap_or_default();
            row.flags &= !ContainerRow::SLOT_MAP;
            if books.slot_maps.contains(&row.segment) {
                row.flags |= ContainerRow::SLOT_MAP;
            }
        }
        row.used_units = row.used_units.max(row.live_units);
    }
    Ok((table, entry))
}

/// A list from its end to its start, since each page names the next. Returns the first page.
fn list<'r, T: 'r>(
    writer: &mut OfflineWriter<'_>,
    pages: impl Iterator<Item = &'r [T]>,
    page: impl Fn(&[T]) -> ListPage,
    written: &mut Vec<Place>,
) -> Result<Place> {
    let mut next = Place::NONE;
    for rows in pages {
        next = writer.page(&page(rows).encode(next))?;
        written.push(next);
    }
    Ok(next)
}
