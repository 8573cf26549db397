//! `--rebuild`: every index is gone, or what they name; what is left are segments, which describe themselves, and perhaps the log.
//!
//! ```text
//! segment headers every 64 KiB -> seed, where containers lie -> headers, footers, table parts -> homes and slot maps (the newest opening wins)
//!   -> the newest roots object whose tables can be read, unless the log shows that its checkpoint was cut short -> log from its freeze LSN on, if its blocks are there -> walk: counts, liveness, bounds
//!   -> pages, directory, superblocks (written to free space, published last) -> an ordinary repair
//! ```
//! Lost are: the label and the identity when no superblock is left, retained checkpoints, and whatever was acknowledged after the newest roots object if the log's blocks
//! are not there. Where several stores have left segments, only the one that is named is made again.
//! Memory: as a repair, and 48 bytes for every piece of what the cleaner moved. Nothing that a segment names is overwritten, so a rebuild that power cuts short is begun again; a store
//! that still opens does so until then.

use super::account::{NewState, free_containers, publish};
use super::disk::Disk;
use super::examine::{Examined, start};
use super::findings::{self, Finding};
use super::fragments::Fragments;
use super::numbers::{Used, told_by_log};
use super::repair::{Settings, SomeRepaired, repair_disk};
use super::report::Report;
use super::ring::Ring;
use super::roots::{self, Roots};
use super::scan::{FoundHeader, Scanned, container, headers};
use super::source::Source;
use super::space::Space;
use super::walk::Walk;
use super::{data, interrupt, log, regions};
use crate::inspect::tree::clock;
use crate::output::count;
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use envoyfs_engine::format::{FormatOptions, blank};
use envoyfs_engine::hlc::next_bound;
use envoyfs_engine::repair::OfflineWriter;
use envoyfs_engine::signature;
use envoyfs_engine::superblock::{self, OpenError};
use envoyfs_engine::wal::recovery::Found;
use envoyfs_layout::directory_page::{Bounds, ContainerRow, ContainerState, VolumeDirectory, VolumeEntry};
use envoyfs_layout::roots::RootsObject;
use envoyfs_layout::superblock::Superblock;
use envoyfs_layout::system_page::SegmentPage;
use envoyfs_layout::wal::Block;
use envoyfs_layout::{ClientRoots, ClientTag, Hlc, LayoutError, Lsn, ReferenceKind, checksum};
use indicatif::ProgressBar;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use uuid::Uuid;

/// Makes the indexes of the store at a path again, then repairs it.
///
/// # Errors
/// No segments are found, none of them holds roots, or the device fails.
pub fn rebuild(path: &Path, settings: &Settings) -> Result<Report> {
    rebuild_disk(&Disk::of(Source::open(path, true)?), settings)
}

/// As [`rebuild`], on a device that is open.
///
/// # Errors
/// As [`rebuild`].
pub fn rebuild_disk(disk: &Disk, settings: &Settings) -> Result<Report> {
    disk.device().flush()?;
    let before = indexes(disk);
    let Shape { superblock, mut directory, pages } = shape(disk, settings)?;
    // Without a superblock there was nothing to claim.
    disk.claim(superblock.identity)?;
    let scanned: BTreeMap<u32, Scanned> = (0..superblock.containers)
        .take_while(|_| !interrupt::requested())
        .filter_map(|n| container(disk, &superblock, n).map(|scanned| (n, scanned)))
        .collect();
    ensure!(!interrupt::requested(), "stopped by the user; nothing was changed");
    let space = places(&superblock, &mut directory, &scanned);
    let volume = directory.entry.volume;
    let openings = scanned.values().map(|scanned| scanned.opening).max().unwrap_or(0);
    let mut superblock = superblock;
    // Raised by an even number: slots follow from the sequence, and what the version that rules has in its slot is not written over (INV-20).
    let known = superblock.sequence;
    let raised = |least: u64| known.max(least + ((least ^ known) & 1));
    superblock.sequence = raised((openings >> 20) + 2);
    let ring = Ring::read(disk, &superblock, volume);
    ensure!(!interrupt::requested(), "stopped by the user; nothing was changed");
    let (others, candidates) = roots_objects(disk, &space, &scanned)?;
    let mut newer = None;
    let log_from = |roots: &RootsObject| {
        log_behind(disk, &superblock, directory.clone(), &space, &ring, roots).unwrap_or_else(|finding| {
            newer = Some(finding);
            (directory.entry.clone(), None)
        })
    };
    let newest = newest_checkpoint(candidates, log_from);
    if let Some(finding) = newer {
        bail!("{}: {finding}; nothing was changed", disk.device().label());
    }
    let Some((found, entry, log)) = newest else {
        if let Some(client) = others {
            bail!(not_files(&disk.device().label(), client));
        }
        bail!("no segment of {} holds roots that can be read; there is nothing to rebuild from", disk.device().label());
    };
    directory.entry = entry;
    let keep_log = log.is_some();
    // The numbers that CLOSED names count only while the superblock of that mount rules: the rebuilt tree has drawn others.
    if let Some(closed) = log.as_ref().and_then(|log| log.closed.as_ref()) {
        superblock.sequence = superblock.sequence.max(raised(closed.superblock));
    }
    if !keep_log {
        let entry = &mut directory.entry;
        entry.ring_generation = ring.generation;
        entry.start.sequence = ring.last().max(1);
        entry.checkpoint.record = Lsn(ring.end.0.max(found.freeze.0));
    }
    let hlc = log.as_ref().map_or(Hlc::ZERO, |log| log.max_hlc).max(directory.entry.checkpoint_hlc);
    superblock.hlc_bound = superblock.hlc_bound.max(next_bound(settings.clock.wall_ns(), hlc));

    let roots = roots::of(&found).map_err(|why| anyhow!("the roots object: {why}"))?;
    let mut space = space;
    space.set_copies(&roots.copies);
    let mut examined = Examined {
        superblock: superblock.clone(),
        directory,
        space,
        log,
        roots: None,
        queue: Vec::new(),
        unreadable: Vec::new(),
        orphans: Vec::new(),
        complete: false,
        walked: false,
        deferred_agrees: false,
        retained: 0,
        bad: data::BadBlocks::default(),
        links: HashMap::new(),
        twice: HashSet::new(),
        used: Used::default(),
        realm_items: BTreeMap::new(),
    };
    let bounds = bounds(disk, &mut examined, &roots, &scanned);
    let free = room(free_containers(&examined), &pages);
    let next_segment = u32::try_from(bounds.segment).unwrap_or(u32::MAX);
    let bounds = Bounds { segment: bounds.segment + 1, ..bounds };
    let writer = OfflineWriter::new(disk.device(), &superblock, volume, free, next_segment);
    let blob = roots.blob.clone();
    let state = NewState { roots: Some(roots), blob, bounds, keep_log, queue: Vec::new(), unreadable: Vec::new() };
    let mut given_up = vec!["retained checkpoints"];
    if !keep_log {
        given_up.push("what was written since, if anything, which only the log had");
    }
    if before.count(findings::NO_SUPERBLOCK) > 0 {
        given_up.push("label and identity");
    }
    let detail = format!("from checkpoint {}; given up: {}", found.checkpoint, given_up.join("; "));
    publish(disk, &mut examined, writer, state, settings.options)?;
    let repaired = repair_disk(disk, settings);
    let mut report =
        repaired.map_err(|error| if error.is::<SomeRepaired>() { error } else { error.context(SomeRepaired) })?;
    let done = Finding { kind: findings::REBUILT, place: "store".into(), detail };
    report.rebuilt(before, done);
    Ok(report)
}

/// What is wrong with what a rebuild makes again.
fn indexes(disk: &Disk) -> Report {
    let mut report = Report::new(disk.device().label());
    match regions::open(disk, &mut report) {
        Ok(Some(opened)) => drop(regions::directory(disk, &opened.superblock, &mut report)),
        Ok(None) => {}
        Err(error) => report.add(findings::NO_SUPERBLOCK, "superblock", error),
    }
    report
}

/// What the store's shape is.
struct Shape {
    superblock: Superblock,
    directory: VolumeDirectory,
    /// Containers with system pages that the version that rules still names.
    pages: BTreeSet<u32>,
}

/// Where the rebuild may write: not over pages in use while there is room for as many and what is begun, so that a store that opens does so until the rebuild is published. They
/// cost a full store nothing: its reserve holds several times its pages.
fn room(free: BTreeSet<u32>, pages: &BTreeSet<u32>) -> BTreeSet<u32> {
    const BEGUN: usize = 2;
    let others: BTreeSet<u32> = free.difference(pages).copied().collect();
    if others.len() >= pages.len() + BEGUN { others } else { free }
}

/// From a superblock if one is left, else from the segments and the size.
fn shape(disk: &Disk, settings: &Settings) -> Result<Shape> {
    let options = FormatOptions {
        label: String::new(),
        uuid: settings.seed,
        seed: settings.seed,
        now_ns: settings.clock.wall_ns(),
        wal_bytes: None,
        segment_bytes: None,
        force: true,
        small: true,
    };
    let name = disk.device().label();
    let opened = match superblock::open(disk.device()) {
        Ok(opened) => Some(opened),
        // Not one copy is left: what else is there may be something newer than the segments.
        Err(OpenError::NotAStore { .. } | OpenError::AllDamaged { .. }) => {
            let mut found = signature::probe_device(disk.device())
                .with_context(|| format!("{name} cannot be read; copy it to a whole device first"))?;
            found.retain(|found| found.name != signature::ENVOYFS);
            if !found.is_empty() && !settings.overwrite {
                let found = signature::names(&found);
                bail!(
                    "{name} holds: {found}; segments of a store may be left of what it was before; if that is what you want back, and nothing of the other: fsck.envoyfs --rebuild --overwrite {name}"
                );
            }
            None
        }
        // A copy is whole, and says that the indexes are not what is missing.
        Err(error) => bail!("{error}"),
    };
    if let Some(opened) = opened {
        if let Some(why) = &opened.read_only {
            bail!("{name}: {why}; change it with a newer envoyfs");
        }
        if !settings.overwrite {
            opened.refuse_foreign(disk.device())?;
        }
        let known = opened.superblock;
        let shown = |seed: [u8; 16]| Uuid::from_bytes(seed);
        if let Some(wanted) = settings.store.filter(|wanted| *wanted != known.seed) {
            bail!(
                "the superblock of {name} is that of a store with the seed {}, not {}",
                shown(known.seed),
                shown(wanted)
            );
        }
        let options = FormatOptions {
            uuid: known.store,
            seed: known.seed,
            wal_bytes: Some(known.ring_bytes),
            segment_bytes: Some(known.segment_bytes),
            ..options
        };
        let (_, mut directory) = blank(known.size, known.logical_block, &options)?;
        directory.table = vec![ContainerRow::FREE; known.containers as usize];
        let mut pages = BTreeSet::new();
        if let Ok(old) = superblock::read_directory(disk.device(), &known) {
            if !roots::is_of_files(&old.entry) {
                bail!(not_files(&name, old.entry.client));
            }
            directory.entry.volume = old.entry.volume;
            directory.entry.uuid = old.entry.uuid;
            directory.entry.bounds = old.entry.bounds;
            let rows = (0_u32..).zip(&old.table);
            pages.extend(rows.filter(|(_, row)| row.state == ContainerState::System).map(|(number, _)| number));
        }
        return Ok(Shape { superblock: known, directory, pages });
    }
    let all = headers(disk);
    ensure!(!interrupt::requested(), "stopped by the user; nothing was changed");
    let mut seeds: BTreeMap<[u8; 16], usize> = BTreeMap::new();
    all.iter().for_each(|found| *seeds.entry(found.header.seed).or_default() += 1);
    let seed = match (settings.store, seeds.keys().next()) {
        (Some(seed), _) => seed,
        (None, Some(seed)) if seeds.len() == 1 => *seed,
        (None, None) => bail!("{name} holds no segments of envoyfs; there is nothing to rebuild from"),
        (None, Some(_)) => {
            let stores = several(disk, &all, &seeds, &options);
            ensure!(!interrupt::requested(), "stopped by the user; nothing was changed");
            bail!(stores)
        }
    };
    ensure!(seeds.contains_key(&seed), "{name} holds no segments of a store with the seed {}", Uuid::from_bytes(seed));
    shape_of_segments(disk, &all, seed, &options).with_context(|| {
        format!("the segments of {name} do not lie as in any store of this size; is it the whole device?")
    })
}

/// A store was made over an older one, whose segments stay until they are written over. Which of them is wanted only the user knows: clocks are set back, and a new store may hold less.
fn several(disk: &Disk, all: &[FoundHeader], seeds: &BTreeMap<[u8; 16], usize>, options: &FormatOptions) -> String {
    let name = disk.device().label();
    let mut out =
        format!("{name} holds segments of several stores; choose one with --seed, what the others hold is lost:");
    for (seed, headers) in seeds {
        let last = match shape_of_segments(disk, all, *seed, options) {
            Some(shape) => last_birth(disk, &shape.superblock)
                .map_or_else(|| "no table is whole".into(), |hlc| format!("last written {}", clock(hlc))),
            None => "they lie as in no store of this size".into(),
        };
        out += &format!("\n  {}: {}, {last}", Uuid::from_bytes(*seed), count(*headers as u64, "segment"));
    }
    out
}

/// When the last of what the tables of containers list was born.
fn last_birth(disk: &Disk, superblock: &Superblock) -> Option<Hlc> {
    let containers = (0..superblock.containers).take_while(|_| !interrupt::requested());
    containers.filter_map(|number| Some(container(disk, superblock, number)?.births?.1)).max()
}

/// The shape of the store with this seed, as its segments lie.
fn shape_of_segments(disk: &Disk, all: &[FoundHeader], seed: [u8; 16], options: &FormatOptions) -> Option<Shape> {
    let geometry = disk.device().geometry();
    let own: Vec<&FoundHeader> = all.iter().filter(|found| found.header.seed == seed).collect();
    let distances = own.windows(2).filter_map(|pair| match pair {
        [a, b] => (b.offset - a.offset).checked_div(u64::from(b.header.container.checked_sub(a.header.container)?)),
        _ => None,
    });
    let segment_bytes = distances.min().and_then(|bytes| u32::try_from(bytes).ok());
    let options = FormatOptions { uuid: seed, seed, segment_bytes, ..options.clone() };
    let fits = |superblock: &Superblock| {
        own.iter().all(|found| {
            let inside = u64::from(found.header.container) * u64::from(superblock.segment_bytes);
            superblock.segments_offset + inside == found.offset && found.header.container < superblock.containers
        })
    };
    // The ring as mkfs makes it; else the largest that leaves the segments where they are.
    let begin = own.iter().filter_map(|found| {
        found.offset.checked_sub(u64::from(found.header.container) * u64::from(segment_bytes.unwrap_or(0)))
    });
    let begin = begin.min().unwrap_or(0);
    let rings = (0..4096_u64).map(|pages| begin.saturating_sub((64 << 10) + 8192 + pages * 4096));
    let mut best: Option<(usize, Superblock, VolumeDirectory)> = None;
    for wal_bytes in std::iter::once(None).chain(rings.map(Some)) {
        let options = FormatOptions { wal_bytes, ..options.clone() };
        if let Ok((mut superblock, mut directory)) = blank(geometry.size_bytes, disk.block_bytes(), &options)
            && fits(&superblock)
        {
            directory.entry.volume = own.first().map_or(directory.entry.volume, |found| found.header.volume);
            superblock.logical_block = log_block(disk, &superblock).unwrap_or(superblock.logical_block);
            let blocks = superblock.ring_bytes / u64::from(superblock.logical_block.max(1));
            directory.entry.start.ring_block = directory.entry.start.sequence.checked_rem(blocks).unwrap_or(0);
            // Segments are aligned, so that rings of several lengths leave them there: the blocks of the log tell which it is.
            let agreeing = Ring::agreeing(disk, &superblock);
            if best.as_ref().is_none_or(|(most, ..)| agreeing > *most) {
                best = Some((agreeing, superblock, directory));
            }
        }
    }
    best.map(|(_, superblock, directory)| Shape { superblock, directory, pages: BTreeSet::new() })
}

/// Bytes of a block of the log, as its newest lap was written; none if there are no blocks.
fn log_block(disk: &Disk, superblock: &Superblock) -> Option<u32> {
    let mut buffer = vec![0; 4096];
    let mut position = superblock.ring_offset;
    while position < superblock.ring_offset + superblock.ring_bytes {
        if disk.read_at(position, &mut buffer).is_ok() {
            // One of 512 bytes at its start is none of 4096: the checksum covers the whole of either.
            let is_whole = |bytes: &u32| {
                let block = buffer.get(..*bytes as usize);
                block.is_some_and(|block| Block::decode(block, &superblock.seed, position).is_ok())
            };
            if let Some(found) = [4096, 512].iter().find(|bytes| is_whole(bytes)) {
                return Some(*found);
            }
        }
        position += 4096;
    }
    None
}

fn not_files(name: &str, client: ClientTag) -> String {
    format!(
        "{name} is a store of {client}: it holds no file tree, and only its own program knows what its objects mean; nothing was changed"
    )
}

/// Homes, slot maps and the table, from what containers say. The newest opening wins.
fn places(superblock: &Superblock, directory: &mut VolumeDirectory, scanned: &BTreeMap<u32, Scanned>) -> Space {
    let volume = directory.entry.volume;
    let mut homes: BTreeMap<u32, (u64, u32)> = BTreeMap::new();
    let mut fragments = Fragments::default();
    for (number, found) in scanned {
        if found.segment != 0 {
            let home = homes.entry(found.segment).or_insert((found.opening, *number));
            *home = (*home).max((found.opening, *number));
        }
        if found.flags & 2 == 0 {
            fragments.add(*number, found);
        }
        if let Some(row) = directory.table.get_mut(*number as usize).filter(|_| found.flags & 2 == 0) {
            let (birth_low, birth_high) = found.births.unwrap_or_default();
            *row = ContainerRow {
                state: match (found.segment, found.sealed) {
                    (0, _) => ContainerState::Survivors,
                    (_, true) => ContainerState::Sealed,
                    (_, false) => ContainerState::Open,
                },
                stream: found.stream,
                volume,
                segment: found.segment,
                used_units: found.used_units,
                last_part: found.last_part,
                birth_low,
                birth_high,
                ..ContainerRow::FREE
            };
        }
    }
    // A segment that two containers claim: the older one is not a home any more.
    for (number, row) in (0_u32..).zip(&mut directory.table) {
        if row.segment != 0 && homes.get(&row.segment).is_none_or(|(_, home)| *home != number) {
            *row = ContainerRow::FREE;
        }
    }
    let mut space = Space::new(superblock);
    for (segment, (_, home)) in &homes {
        let moved = fragments.slot_map(*segment, true);
        space.add(SegmentPage { segment: *segment, moved, ..SegmentPage::default() }, Some(*home), true);
    }
    for segment in fragments.segments() {
        // What has a home is there already.
        let moved = fragments.slot_map(segment, false);
        space.add(SegmentPage { segment, moved, ..SegmentPage::default() }, None, true);
    }
    space
}

/// The roots objects whose table of territories can be read, the newest first; before them, whose those are that are not of files.
///
/// # Errors
/// Some are whole, and of a newer version: what is older than these is not what the store is.
fn roots_objects(
    disk: &Disk,
    space: &Space,
    scanned: &BTreeMap<u32, Scanned>,
) -> Result<(Option<ClientTag>, impl Iterator<Item = RootsObject>)> {
    let mut all: Vec<(u64, RootsObject)> = Vec::new();
    let mut others = Vec::new();
    for found in scanned.values() {
        // Where files' bytes are written, nothing else is.
        let of_data = found.stream != 0 && found.flags & 1 == 0;
        for row in found.rows.iter().filter(|row| row.kind == ReferenceKind::Roots && !of_data) {
            let Ok(bytes) = space.read_whole(disk, row.oid, row.stored_bytes) else { continue };
            if checksum::crc32c(&bytes) != row.crc {
                continue;
            }
            match RootsObject::decode(&bytes).and_then(|roots| leads_to_view(disk, space, &roots).map(|()| roots)) {
                Ok(roots) if roots.client != ClientTag::FILES => others.push((found.opening, roots)),
                Ok(roots) => all.push((found.opening, roots)),
                Err(error @ LayoutError::Unknown { .. }) => {
                    bail!("{}: {error}; nothing was changed", disk.device().label())
                }
                Err(_) => {}
            }
        }
    }
    // The number of a checkpoint that was cut short is given again, by a later mount, which opens its own containers.
    let age = |(opening, roots): &(u64, RootsObject)| (roots.checkpoint, *opening);
    all.sort_by_key(|found| std::cmp::Reverse(age(found)));
    let other = others.iter().max_by_key(|found| age(found)).map(|(_, roots)| roots.client);
    Ok((other, all.into_iter().map(|(_, roots)| roots)))
}

/// Can the tree below these roots be entered? Of another client's nobody knows.
fn leads_to_view(disk: &Disk, space: &Space, roots: &RootsObject) -> Result<(), LayoutError> {
    if roots.client != ClientTag::FILES {
        return Ok(());
    }
    let table = ClientRoots::decode(&roots.blob, &roots.references)?.territory_table;
    let copy = roots.copies.iter().find(|(node, _)| node.oid == table.oid).map(|(_, bytes)| bytes.clone());
    let read = space.read_whole(disk, table.oid, table.stored_bytes).ok();
    let mut bytes = [copy, read].into_iter().flatten().filter(|bytes| checksum::crc32c(bytes) == table.crc);
    let lost = LayoutError::Field { structure: "roots object", field: "table of territories", found: table.oid.0 };
    roots::leads_to_view(&bytes.next().ok_or(lost)?)
}

/// The newest checkpoint that took place, with the log behind it: that of a checkpoint which power cut short has no record in the log, but the log behind the one before has
/// everything that was acknowledged, and perhaps not all that the other one holds. If the log does not reach back that far, the newest was published.
fn newest_checkpoint(
    mut newest_first: impl Iterator<Item = RootsObject>,
    mut log_from: impl FnMut(&RootsObject) -> (VolumeEntry, Option<Found>),
) -> Option<(RootsObject, VolumeEntry, Option<Found>)> {
    let mut newest = newest_first.next()?;
    let (mut entry, mut log) = log_from(&newest);
    for older in newest_first {
        if older.checkpoint >= newest.checkpoint {
            continue;
        }
        let (older_entry, older_log) = log_from(&older);
        // The log was durable up to the newer one's freeze before that wrote its roots: what ends before is what was not written over yet of a log that it ended.
        let is_whole = |log: &Found| log.corrupt.is_none() && log.cut.lsn >= newest.freeze;
        let Some(whole) = older_log.filter(is_whole) else { break };
        if whole.adopted.as_ref().is_some_and(|adopted| adopted.body.number >= newest.checkpoint) {
            break;
        }
        (newest, entry, log) = (older, older_entry, Some(whole));
    }
    Some((newest, entry, log))
}

/// The directory's entry for a store that starts from these roots, and what the ring holds behind them, if it can be read from there on.
///
/// # Errors
/// It was written by a newer version.
fn log_behind(
    disk: &Disk,
    superblock: &Superblock,
    mut directory: VolumeDirectory,
    space: &Space,
    ring: &Ring,
    roots: &RootsObject,
) -> std::result::Result<(VolumeEntry, Option<Found>), Finding> {
    let entry = &mut directory.entry;
    entry.client = roots.client;
    entry.checkpoint.number = roots.checkpoint;
    entry.checkpoint.freeze = roots.freeze;
    entry.checkpoint.record = roots.freeze;
    entry.checkpoint_hlc = entry.checkpoint_hlc.max(roots.hlc);
    entry.merged_through = roots.checkpoint;
    let blocks = superblock.ring_bytes / u64::from(superblock.logical_block.max(1));
    let mut log = None;
    if ring.describe(entry, roots.freeze, blocks) {
        let mut scratch = Report::new(String::new());
        log = log::check(disk, superblock, &directory, space, &mut scratch);
        if let Some(finding) = scratch.findings.into_iter().find(|finding| finding.kind == findings::FEATURES) {
            return Err(finding);
        }
    }
    Ok((directory.entry, log))
}

/// Numbers that may have been handed out: beyond all that are met in trees and log, and what a mount reserves at once.
fn bounds(disk: &Disk, examined: &mut Examined, roots: &Roots, scanned: &BTreeMap<u32, Scanned>) -> Bounds {
    let mut scratch = Report::new(String::new());
    examined.space.begin_pass(0..0);
    let mut walk = Walk::new(disk, &mut examined.space, &mut scratch, ProgressBar::hidden());
    start(&mut walk, &examined.directory, Some(roots), &[]);
    walk.run();
    let mut used = walk.used;
    let largest = scanned.values().map(|found| found.segment_max).max().unwrap_or(0);
    let placed = examined.log.iter().flat_map(|log| &log.placed).map(|placed| placed.number).max().unwrap_or(0);
    let reserved = 2 * u64::from(examined.superblock.containers) + 16;
    let old = examined.directory.entry.bounds;
    let mut bounds = Bounds {
        segment: old.segment.max(u64::from(largest.max(placed)) + reserved),
        territory: old.territory.max(2),
        pin: old.pin.max(1),
        ..old
    };
    if let Some(log) = &examined.log {
        used.by_records(log);
        bounds = told_by_log(log, bounds);
    }
    used.far_below(bounds)
}
