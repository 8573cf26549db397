//! File data: what its checksums should be, gathered by the walk; and the scan that reads it in the order in which it lies on the device.
//!
//! The walk meets slices in the order of names; read so, a large store would be read a block at a time. So it only notes what each block must be (8 bytes), and
//! afterwards every container is read once, a few MiB at a time, by as many threads as there are cores. What does not match is looked for in a second walk, which
//! knows paths. Memory: 8 bytes a block of data in the segments of this pass, and a buffer a thread.

use super::disk::Disk;
use super::space::Space;
use envoyfs_layout::{BLOCK, Oid, Reference, Slice, UNIT, checksum};
use indicatif::ProgressBar;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Bytes of one read.
const WINDOW: u64 = 2 << 20;
/// Dead space that is read over rather than skipped.
const GAP: u64 = 128 << 10;
/// Most threads that scan.
const THREADS_MAX: usize = 8;

/// Units of a segment and their checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Expected {
    slot: u16,
    units: u16,
    crc: u32,
}

/// A segment and a range of its slots.
type Part = (u32, u32, u32);

/// What blocks must be.
#[derive(Debug, Default)]
pub struct Expectations {
    segments: BTreeMap<u32, List>,
}

#[derive(Debug, Default)]
struct List {
    rows: Vec<Expected>,
    /// Rows after which it is worth looking for equal ones.
    full: usize,
}

/// A block that is not what it must be.
#[derive(Clone, Debug)]
pub struct Bad {
    /// Where it lies.
    pub offset: u64,
    /// The checksum found, or why it cannot be read.
    pub found: Result<u32, String>,
}

/// Blocks that are not what they must be, by their first unit and the checksum that they should have.
#[derive(Debug, Default)]
pub struct BadBlocks(BTreeMap<(Oid, u32), Bad>);

impl BadBlocks {
    /// None.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Adds others.
    pub fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }
    /// What is wrong with block `index` of a slice.
    #[must_use]
    pub fn of(&self, slice: &Slice, extent: &Reference, index: usize) -> Option<&Bad> {
        self.find(slice, extent, index).map(|(_, bad)| bad)
    }
    /// The same, and under which id and checksum it is filed.
    #[must_use]
    pub fn find(&self, slice: &Slice, extent: &Reference, index: usize) -> Option<((Oid, u32), &Bad)> {
        if self.0.is_empty() {
            return None;
        }
        let slot = block_slot(slice, extent, index)?;
        let key = (Oid::new(extent.oid.volume(), extent.oid.segment(), slot), *slice.crcs.get(index)?);
        self.0.get(&key).map(|bad| (key, bad))
    }
    /// Is any block of an extent bad, whoever uses it?
    #[must_use]
    pub fn any_in(&self, extent: &Reference) -> bool {
        let (oid, first) = (extent.oid, u32::from(extent.oid.slot()));
        let last = u16::try_from(first.saturating_add(extent.units()).saturating_sub(1)).unwrap_or(u16::MAX);
        let last = Oid::new(oid.volume(), oid.segment(), last);
        extent.kind == envoyfs_layout::ReferenceKind::Extent
            && self.0.range((oid, 0)..=(last, u32::MAX)).next().is_some()
    }
    /// Each by its first unit and the checksum that it should have.
    pub fn keys(&self) -> impl Iterator<Item = (Oid, u32)> + '_ {
        self.0.keys().copied()
    }
    /// What is wrong with it.
    #[must_use]
    pub fn get(&self, key: &(Oid, u32)) -> Option<&Bad> {
        self.0.get(key)
    }
}

fn block_slot(slice: &Slice, extent: &Reference, index: usize) -> Option<u16> {
    let index = u32::try_from(index).ok()?;
    let unit = u32::from(extent.oid.slot()).checked_add((slice.extent_block + index) * (BLOCK / UNIT))?;
    u16::try_from(unit).ok()
}

impl Expectations {
    /// Notes the blocks of a slice.
    pub fn add(&mut self, slice: &Slice, extent: &Reference) {
        let list = self.segments.entry(extent.oid.segment()).or_default();
        for (index, crc) in slice.crcs.iter().enumerate() {
            let last = index + 1 == slice.crcs.len();
            let bytes = if last { slice.last_block_bytes } else { BLOCK };
            let Some(slot) = block_slot(slice, extent, index) else { continue };
            let units = u16::try_from(bytes / UNIT).unwrap_or(u16::MAX);
            list.rows.push(Expected { slot, units, crc: *crc });
        }
        // Leaves that forks copied name the same blocks again.
        if list.rows.len() > list.full.max(4096) {
            list.tidy();
            list.full = list.rows.len() * 2;
        }
    }

    /// Reads everything that was noted and forgets it. Returns what is wrong, and the bytes verified.
    pub fn verify(&mut self, volume: u16, space: &Space, disk: &Disk, progress: &ProgressBar) -> (BadBlocks, u64) {
        self.segments.values_mut().for_each(List::tidy);
        let jobs = self.jobs(space);
        let next = AtomicUsize::new(0);
        let (bytes, bad) = (AtomicU64::new(0), Mutex::new(BTreeMap::new()));
        // Twice as many as cores: some wait for the device while others compute.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (2 * cores).clamp(2, THREADS_MAX);
        let scan = Scan { volume, space, disk, progress, bad: &bad, bytes: &bytes };
        let this = &*self;
        std::thread::scope(|scope| {
            let work = || {
                while let Some((container, parts)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    scan.container(this, *container, parts);
                }
            };
            for _ in 1..threads.min(jobs.len()) {
                // If no more threads can be made, this one does all of it.
                let _started = std::thread::Builder::new().name("fsck-data".into()).spawn_scoped(scope, work);
            }
            work();
        });
        self.segments.clear();
        (BadBlocks(bad.into_inner()), bytes.into_inner())
    }

    /// Containers in order, each with what may lie there.
    fn jobs(&self, space: &Space) -> Vec<(u32, Vec<Part>)> {
        let mut jobs: BTreeMap<u32, Vec<Part>> = BTreeMap::new();
        for number in self.segments.keys() {
            let Some(segment) = space.segments().get(number) else {
                // Without a place: one job of its own, which says so.
                jobs.entry(u32::MAX).or_default().push((*number, 0, u32::MAX));
                continue;
            };
            for moved in &segment.page.moved {
                let slot = u32::from(moved.slot);
                jobs.entry(moved.container).or_default().push((*number, slot, slot + u32::from(moved.units)));
            }
            jobs.entry(segment.home.unwrap_or(u32::MAX)).or_default().push((*number, 0, u32::MAX));
        }
        jobs.into_iter().collect()
    }

    fn rows(&self, segment: u32, from: u32, to: u32) -> &[Expected] {
        let rows = self.segments.get(&segment).map_or(&[][..], |list| &list.rows);
        let start = rows.partition_point(|row| u32::from(row.slot) < from);
        let end = rows.partition_point(|row| u32::from(row.slot) < to);
        rows.get(start..end).unwrap_or_default()
    }
}

impl List {
    fn tidy(&mut self) {
        self.rows.sort_unstable();
        self.rows.dedup();
    }
}

struct Scan<'a> {
    volume: u16,
    space: &'a Space,
    disk: &'a Disk,
    progress: &'a ProgressBar,
    bad: &'a Mutex<BTreeMap<(Oid, u32), Bad>>,
    bytes: &'a AtomicU64,
}

/// A block in a container.
struct Placed {
    offset: u64,
    segment: u32,
    row: Expected,
}

impl Placed {
    fn length(&self) -> u64 {
        u64::from(self.row.units) * u64::from(UNIT)
    }
}

impl Scan<'_> {
    fn container(&self, all: &Expectations, container: u32, parts: &[Part]) {
        let mut blocks = Vec::new();
        let mut seen = BTreeSet::new();
        for (segment, from, to) in parts {
            for row in all.rows(*segment, *from, *to) {
                let slot = u32::from(row.slot);
                match self.space.locate(*segment, slot..slot + u32::from(row.units)).as_deref() {
                    Ok([(offset, _)]) => {
                        let here = self.space.container_at(*offset) == container;
                        if here && seen.insert((*segment, *row)) {
                            blocks.push(Placed { offset: *offset, segment: *segment, row: *row });
                        }
                    }
                    // In pieces, or nowhere: by itself, with the first part that meets it.
                    _ if *to == u32::MAX => self.single(*segment, row, 0),
                    _ => {}
                }
            }
        }
        blocks.sort_unstable_by_key(|block| block.offset);
        let mut rest = blocks.as_slice();
        let mut buffer = Vec::new();
        while let Some(first) = rest.first() {
            let (start, mut end, mut count) = (first.offset, first.offset, 0);
            for block in rest {
                let after = block.offset + block.length();
                if after - start > WINDOW || block.offset > end + GAP {
                    break;
                }
                (end, count) = (end.max(after), count + 1);
            }
            let (window, after) = rest.split_at(count.max(1).min(rest.len()));
            rest = after;
            // The next one is on its way while this one is looked at.
            if let Some(next) = rest.first() {
                self.disk.expect(next.offset, WINDOW);
            }
            let length = usize::try_from(end - start).unwrap_or(0);
            let judged = self.disk.look(start, length, &mut buffer, |bytes| {
                for block in window {
                    let from = usize::try_from(block.offset - start).unwrap_or(usize::MAX);
                    let length = usize::try_from(block.length()).unwrap_or(usize::MAX);
                    match bytes.get(from..from.saturating_add(length)) {
                        Some(bytes) => self.judge(block.segment, &block.row, block.offset, Ok(checksum::crc32c(bytes))),
                        None => self.single(block.segment, &block.row, block.offset),
                    }
                }
            });
            if judged.is_err() {
                window.iter().for_each(|block| self.single(block.segment, &block.row, block.offset));
            }
        }
    }

    fn single(&self, segment: u32, row: &Expected, offset: u64) {
        let mut bytes = vec![0; usize::from(row.units) * UNIT as usize];
        let oid = Oid::new(self.volume, segment, row.slot);
        match self.space.read(self.disk, oid, 0, &mut bytes) {
            Ok(offset) => self.judge(segment, row, offset, Ok(checksum::crc32c(&bytes))),
            Err(super::space::ReadError::Unresolved(why)) => self.judge(segment, row, offset, Err(why)),
            Err(super::space::ReadError::Device(error)) => self.judge(segment, row, offset, Err(error.to_string())),
        }
    }

    fn judge(&self, segment: u32, row: &Expected, offset: u64, found: Result<u32, String>) {
        let bytes = u64::from(row.units) * u64::from(UNIT);
        self.progress.inc(bytes);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if found != Ok(row.crc) {
            let oid = Oid::new(self.volume, segment, row.slot);
            self.bad.lock().insert((oid, row.crc), Bad { offset, found });
        }
    }
}
