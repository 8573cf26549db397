//! What does not depend on the trees: superblocks, volume directory, segment table, system pages, roots, the log.
//!
//! Reads with the layout's decoders; only the rule by which a superblock opens and the scan of the log are the engine's own, since a second version of those would be
//! checked by nobody.

use super::disk::Disk;
use super::findings;
use super::fragments::Fragments;
use super::report::Report;
use super::scan;
use super::space::Space;
use crate::mkfs::size::Size;
use anyhow::{Result, bail};
use envoyfs_engine::superblock::{self, OpenError, Opened};
use envoyfs_layout::directory_page::{ContainerRow, ContainerState, DirectoryPage, Place, VolumeDirectory};
use envoyfs_layout::superblock::{BYTES, Superblock};
use envoyfs_layout::system_page::{ListPage, OrphanedSegment, SegmentPage};
use envoyfs_layout::{LayoutError, Reference, UNIT, checksum};
use std::collections::{BTreeMap, BTreeSet};

/// Pages of which the system is told ahead.
const AHEAD: usize = 64;

/// The superblock that rules, with findings about the others. `None`: a fatal finding was added.
///
/// # Errors
/// The device does not hold a store at all, or cannot be read.
pub fn superblocks(disk: &Disk, report: &mut Report) -> Result<Option<Superblock>> {
    Ok(open(disk, report)?.map(|opened| opened.superblock))
}

/// As [`superblocks`], with what the copies hold.
///
/// # Errors
/// The device does not hold a store at all, or cannot be read.
pub fn open(disk: &Disk, report: &mut Report) -> Result<Option<Opened>> {
    let opened = match superblock::open(disk.device()) {
        Ok(opened) => opened,
        Err(OpenError::NotAStore { device, foreign }) => {
            let holds = if foreign.is_empty() { String::new() } else { format!(" (it holds: {foreign})") };
            if scan::any_header(disk) {
                let detail = format_args!("there are segments of one{holds}");
                report.add(findings::NO_SUPERBLOCK, "superblock", detail);
                return Ok(None);
            }
            let where_looked = if disk.size_bytes() > scan::LOOK_BYTES {
                format!(" in its first {} (--rebuild looks at all of it)", Size(scan::LOOK_BYTES))
            } else {
                String::new()
            };
            bail!("{device} is not an envoyfs store, and holds no segments of one{where_looked}{holds}; check the path")
        }
        Err(error @ OpenError::Device(_)) => bail!("{error}"),
        Err(error) => {
            if let Some(superblock) = first_copy(disk) {
                report.name(&superblock);
            }
            let kind = match error {
                OpenError::Truncated { .. } => findings::TRUNCATED,
                OpenError::Features { .. } | OpenError::Version { .. } => findings::FEATURES,
                _ => findings::NO_SUPERBLOCK,
            };
            match error {
                OpenError::AllDamaged { first, .. } => {
                    report.add(kind, "superblock", format_args!("the first: {first}"))
                }
                error => report.add(kind, "superblock", error),
            }
            return Ok(None);
        }
    };
    let Opened { superblock, copies, unused_bytes, .. } = &opened;
    for (index, (copy, position)) in copies.iter().zip(Superblock::positions(superblock.size)).enumerate() {
        let place = format!("superblock {index} at {position}");
        match copy {
            None => report.add(findings::SUPERBLOCK_COPY, place, ""),
            Some(copy) if copy.sequence != superblock.sequence => {
                let detail = format!("sequence {}, the newest is {}", copy.sequence, superblock.sequence);
                report.add(findings::SUPERBLOCK_STALE, place, detail);
            }
            Some(_) => {}
        }
    }
    if let Some(why) = &opened.read_only {
        report.add(findings::ONLY_READ, "superblock", why);
    }
    if superblock.errors {
        report.add(findings::ERRORS_LEFT, "store", "");
    }
    let block = disk.block_bytes();
    if superblock.logical_block < block {
        report.add(findings::LARGER_BLOCKS, "device", format_args!("{} and {block} bytes", superblock.logical_block));
    }
    if !opened.foreign.is_empty() {
        report.add(findings::FOREIGN, "device", &opened.foreign);
    }
    if *unused_bytes >= 4096 {
        report.add(findings::LARGER_DEVICE, "device", format_args!("by {unused_bytes} bytes"));
    }
    Ok(Some(opened))
}

/// A copy at the start that is whole: says whose a store is that does not open.
fn first_copy(disk: &Disk) -> Option<Superblock> {
    let mut bytes = vec![0; BYTES];
    [0, 4096].into_iter().find_map(|position| {
        disk.read_at(position, &mut bytes).ok()?;
        Superblock::decode(&bytes, position).ok()
    })
}

/// The volume directory, with findings about its copies. `None`: a fatal finding was added.
pub fn directory(disk: &Disk, superblock: &Superblock, report: &mut Report) -> Option<VolumeDirectory> {
    let (seed, containers) = (&superblock.seed, superblock.containers);
    let pages = superblock.slot_positions();
    let page = copies(disk, pages, superblock.directory_bytes.into(), "volume directory", report, |bytes| {
        let page = DirectoryPage::decode(bytes, seed, superblock.directory_crc)?;
        // Before as much memory is taken.
        match page.base.rows {
            rows if rows <= containers => Ok(page),
            rows => Err(LayoutError::Field { structure: "volume directory", field: "rows", found: rows.into() }),
        }
    })?;
    let tables = superblock.table_positions(page.base.slot);
    copies(disk, tables, page.base.bytes(), "segment table", report, |bytes| page.clone().over(bytes, seed, containers))
}

/// What the copies of a part of the directory say, with findings about those that are damaged.
fn copies<T>(
    disk: &Disk,
    at: [u64; 2],
    length: u64,
    what: &str,
    report: &mut Report,
    decode: impl Fn(&[u8]) -> Result<T, LayoutError>,
) -> Option<T> {
    let mut good = None;
    for position in at {
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        let decoded = match disk.read_at(position, &mut bytes) {
            Ok(()) => decode(&bytes).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match decoded {
            Ok(decoded) => good = good.or(Some(decoded)),
            Err(error) => report.add(findings::DIRECTORY_COPY, format_args!("{what} at {position}"), error),
        }
    }
    if good.is_none() {
        let [a, b] = at;
        report.add(findings::NO_DIRECTORY, what, format_args!("at {a} and {b}"));
    }
    good
}

/// A system page's bytes.
fn page(
    disk: &Disk,
    space: &Space,
    directory: &VolumeDirectory,
    place: &Place,
    report: &mut Report,
    what: &str,
) -> Option<Vec<u8>> {
    let shown = format!("{what} (container {}, unit {})", place.container, place.units);
    let row = directory.table.get(place.container as usize);
    if row.is_none_or(|row| row.state != ContainerState::System) {
        report.add(findings::SYSTEM_PLACE, &shown, "");
    }
    let Some(position) = space.position(place.container, place.units) else {
        report.add(findings::SYSTEM_PAGE, shown, "outside the store");
        return None;
    };
    // No page passes the end of its container.
    let within = u64::from(place.units) * u64::from(UNIT);
    let bytes_max = space.segment_bytes().saturating_sub(within);
    if u64::from(place.stored_bytes) > bytes_max.min(disk.size_bytes().saturating_sub(position)) {
        let detail = format_args!("{} bytes pass the end of its container", place.stored_bytes);
        report.add(findings::SYSTEM_PAGE, shown, detail);
        return None;
    }
    let mut bytes = vec![0; place.stored_bytes as usize];
    if let Err(error) = disk.read_at(position, &mut bytes) {
        report.add(findings::SYSTEM_PAGE, shown, error);
        return None;
    }
    let (expected, found) = (place.crc, checksum::crc32c(&bytes));
    if expected != found {
        let error = LayoutError::Checksum { structure: "system page", expected, found };
        report.add(findings::SYSTEM_PAGE, shown, format_args!("{error}, at device offset {position}"));
        return None;
    }
    Some(bytes)
}

/// What the segment table and its pages say. `false`: something is missing, so counts and liveness cannot be compared.
pub fn segments(
    disk: &Disk,
    superblock: &Superblock,
    directory: &VolumeDirectory,
    space: &mut Space,
    report: &mut Report,
) -> (Vec<OrphanedSegment>, bool) {
    let mut complete = true;
    let mut add = |space: &mut Space, report: &mut Report, number: u32, place: &Place, home: Option<u32>| {
        let what = format!("page of segment {number}");
        let decoded = if place.is_none() {
            Some(SegmentPage { segment: number, ..SegmentPage::default() })
        } else {
            page(disk, space, directory, place, report, &what).and_then(|bytes| match SegmentPage::decode(&bytes) {
                Ok(page) if page.segment == number => Some(page),
                Ok(page) => {
                    report.add(findings::SYSTEM_PAGE, &what, format_args!("it is that of segment {}", page.segment));
                    None
                }
                Err(error) => {
                    report.add(findings::SYSTEM_PAGE, &what, error);
                    None
                }
            })
        };
        complete &= decoded.is_some();
        // Without its page a segment still has its home, so that nodes in it can be read.
        let unknown = decoded.is_none();
        let page = decoded.unwrap_or(SegmentPage { segment: number, ..SegmentPage::default() });
        if !space.add(page, home, unknown) {
            report.add(findings::SEGMENT_TWICE, format_args!("segment {number}"), "");
        }
    };
    let expect = |row: &ContainerRow, space: &Space| {
        let place = row.metadata;
        if let Some(position) = space.position(place.container, place.units).filter(|_| !place.is_none()) {
            disk.expect(position, place.stored_bytes.into());
        }
    };
    let mut ahead = directory.table.iter();
    ahead.by_ref().take(AHEAD).for_each(|row| expect(row, space));
    for (container, row) in (0_u32..).zip(&directory.table) {
        ahead.next().into_iter().for_each(|row| expect(row, space));
        if row.segment != 0 {
            add(space, report, row.segment, &row.metadata, Some(container));
        }
        if row.state == ContainerState::Free && row.live_units != 0 {
            report.add(findings::TABLE_ROW, format_args!("container {container}"), "free, but with live units");
        }
    }
    let first = directory.entry.orphaned_segments;
    let (index, mut whole) = list(disk, space, directory, first, report, "index of orphaned segments", orphan_index);
    let mut rows = Vec::new();
    for part in index {
        let (part, read) = list(disk, space, directory, part.page, report, "list of orphaned segments", orphans);
        whole &= read;
        rows.extend(part);
    }
    for orphan in &rows {
        add(space, report, orphan.segment, &orphan.page, None);
    }
    complete &= whole;
    if complete {
        compare_table(directory, space, report);
    } else {
        // Where pieces were moved to, the containers that hold them say too.
        let fragments = Fragments::read(disk, superblock, directory);
        for segment in fragments.segments() {
            let home = space.segments().get(&segment).map(|held| held.home.is_some());
            let moved = fragments.slot_map(segment, home == Some(true));
            if home.is_some() {
                space.set_slot_map(segment, moved);
            } else if !whole && space.add(SegmentPage { segment, moved, ..SegmentPage::default() }, None, true) {
                rows.push(OrphanedSegment { segment, page: Place::NONE });
            }
        }
    }
    (rows, complete)
}

fn compare_table(directory: &VolumeDirectory, space: &Space, report: &mut Report) {
    let live: BTreeMap<u32, u32> = space.live_by_container(space.segments().values().map(|segment| &segment.page));
    for (container, row) in (0_u32..).zip(&directory.table) {
        let found = live.get(&container).copied().unwrap_or(0);
        if found != row.live_units && row.state != ContainerState::System {
            let detail = format!("{} in the table, {found} in the pages", row.live_units);
            report.add(findings::TABLE_LIVE, format_args!("container {container}"), detail);
        }
    }
}

fn orphan_index(page: ListPage) -> Option<Vec<OrphanedSegment>> {
    if let ListPage::OrphanIndex(rows) = page { Some(rows) } else { None }
}

fn orphans(page: ListPage) -> Option<Vec<OrphanedSegment>> {
    if let ListPage::OrphanedSegments(rows) = page { Some(rows) } else { None }
}

fn dropped(page: ListPage) -> Option<Vec<Reference>> {
    if let ListPage::DropQueue(rows) = page { Some(rows) } else { None }
}

/// The objects that wait to be freed, the next one last. `false`: there may be more.
pub fn drop_queue(
    disk: &Disk,
    directory: &VolumeDirectory,
    space: &Space,
    report: &mut Report,
) -> (Vec<Reference>, bool) {
    let (pages, whole) = list(disk, space, directory, directory.entry.drop_queue, report, "drop queue", |page| {
        dropped(page).map(|rows| vec![rows])
    });
    (pages.into_iter().rev().flatten().collect(), whole)
}

/// Nodes of the drop queue that could not be read when their turn came; their edges go on counting. `false`: there may be more.
pub fn unreadable(
    disk: &Disk,
    directory: &VolumeDirectory,
    space: &Space,
    report: &mut Report,
) -> (Vec<Reference>, bool) {
    let rows_of = |page| if let ListPage::Unreadable(rows) = page { Some(rows) } else { None };
    list(disk, space, directory, directory.entry.unreadable, report, "list of unreadable nodes", rows_of)
}

/// Rows of a chain of list pages; `false`: there may be more.
pub fn list<T>(
    disk: &Disk,
    space: &Space,
    directory: &VolumeDirectory,
    first: Place,
    report: &mut Report,
    what: &str,
    rows_of: fn(ListPage) -> Option<Vec<T>>,
) -> (Vec<T>, bool) {
    let mut rows = Vec::new();
    let mut next = first;
    let mut seen = BTreeSet::new();
    loop {
        if next.is_none() {
            return (rows, true);
        }
        if !seen.insert((next.container, next.units)) {
            report.add(findings::SYSTEM_PAGE, what, "it is a circle");
            break;
        }
        let Some(bytes) = page(disk, space, directory, &next, report, what) else { break };
        match ListPage::decode(&bytes) {
            Ok((page, after)) => {
                let Some(part) = rows_of(page) else {
                    report.add(findings::SYSTEM_PAGE, what, "a page of another list");
                    break;
                };
                rows.extend(part);
                next = after;
            }
            Err(error) => {
                report.add(findings::SYSTEM_PAGE, what, error);
                break;
            }
        }
    }
    (rows, false)
}
