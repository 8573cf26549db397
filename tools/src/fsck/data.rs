//! File data: what its checksums should be, gathered by the walk; and the scan that reads it in the order in which it lies on the device.
//!
//! The walk meets slices in the order of names; read so, a large store would be read a block at a time. So it only notes what each block must be (8 bytes), and
//! afterwards every container is read once, a few MiB at a time, by as many threads as there are cores. What does not match is looked for in a second walk, which
//! knows paths. Memory: 8 to 12 bytes a block of data in the segments of this pass ([`Expectations::bytes`]), and a window a thread.

use super::disk::{Disk, Window};
use super::source::DIRECT;
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
/// Bad blocks that are remembered, 200 bytes each.
const BAD_MAX: usize = 1 << 16;
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
    /// Memory that they take.
    bytes: u64,
}

#[derive(Debug, Default)]
struct List {
    rows: Vec<Expected>,
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
pub struct BadBlocks {
    blocks: BTreeMap<(Oid, u32), Bad>,
    /// So many besides: a repair cuts those that are known and looks again.
    more: u64,
}

impl BadBlocks {
    /// None.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
    /// How many there are that are not remembered.
    #[must_use]
    pub const fn more(&self) -> u64 {
        self.more
    }
    /// Adds others.
    pub fn merge(&mut self, other: Self) {
        self.more += other.more;
        other.blocks.into_iter().for_each(|(key, bad)| self.add(key, bad));
    }
    fn add(&mut self, key: (Oid, u32), bad: Bad) {
        if self.blocks.len() < BAD_MAX {
            self.blocks.insert(key, bad);
        } else {
            self.more += 1;
        }
    }
    /// What is wrong with block `index` of a slice.
    #[must_use]
    pub fn of(&self, slice: &Slice, extent: &Reference, index: usize) -> Option<&Bad> {
        self.find(slice, extent, index).map(|(_, bad)| bad)
    }
    /// The same, and under which id and checksum it is filed.
    #[must_use]
    pub fn find(&self, slice: &Slice, extent: &Reference, index: usize) -> Option<((Oid, u32), &Bad)> {
        if self.blocks.is_empty() {
            return None;
        }
        let slot = block_slot(slice, extent, index)?;
        let key = (Oid::new(extent.oid.volume(), extent.oid.segment(), slot), *slice.crcs.get(index)?);
        self.blocks.get(&key).map(|bad| (key, bad))
    }
    /// Those of these keys.
    #[must_use]
    pub fn only(&self, wanted: impl Fn(&(Oid, u32)) -> bool) -> Self {
        let blocks = self.blocks.iter().filter(|(key, _)| wanted(key)).map(|(key, bad)| (*key, bad.clone()));
        Self { blocks: blocks.collect(), more: 0 }
    }
    /// Is any block of an extent bad, whoever uses it?
    #[must_use]
    pub fn any_in(&self, extent: &Reference) -> bool {
        let (oid, first) = (extent.oid, u32::from(extent.oid.slot()));
        let last = u16::try_from(first.saturating_add(extent.units()).saturating_sub(1)).unwrap_or(u16::MAX);
        let last = Oid::new(oid.volume(), oid.segment(), last);
        extent.kind == envoyfs_layout::ReferenceKind::Extent
            && self.blocks.range((oid, 0)..=(last, u32::MAX)).next().is_some()
    }
    /// Each by its first unit and the checksum that it should have.
    pub fn keys(&self) -> impl Iterator<Item = (Oid, u32)> + '_ {
        self.blocks.keys().copied()
    }
    /// What is wrong with it.
    #[must_use]
    pub fn get(&self, key: &(Oid, u32)) -> Option<&Bad> {
        self.blocks.get(key)
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
        let before = list.bytes();
        for (index, crc) in slice.crcs.iter().enumerate() {
            let last = index + 1 == slice.crcs.len();
            let bytes = if last { slice.last_block_bytes } else { BLOCK };
            let Some(slot) = block_slot(slice, extent, index) else { continue };
            let units = u16::try_from(bytes / UNIT).unwrap_or(u16::MAX);
            list.push(Expected { slot, units, crc: *crc });
        }
        self.bytes += list.bytes() - before;
    }

    /// Memory that they take.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Forgets what is noted of segments from this number on.
    pub fn forget_from(&mut self, number: u32) {
        for list in self.segments.split_off(&number).into_values() {
            self.bytes -= list.bytes().min(self.bytes);
        }
    }

    /// Reads everything that was noted and forgets it. Returns what is wrong, and the bytes verified.
    pub fn verify(&mut self, volume: u16, space: &Space, disk: &Disk, progress: &ProgressBar) -> (BadBlocks, u64) {
        self.segments.values_mut().for_each(List::tidy);
        let jobs = self.jobs(space);
        let next = AtomicUsize::new(0);
        let (bytes, bad) = (AtomicU64::new(0), Mutex::new(BadBlocks::default()));
        // Twice as many as cores: some wait for the device while others compute.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (2 * cores).clamp(2, THREADS_MAX);
        let scan = Scan { volume, space, disk, progress, bad: &bad, bytes: &bytes };
        let this = &*self;
        // What is looked at begins and ends anywhere in a block of the device.
        let windows = Window::pool(threads, usize::try_from(WINDOW + 2 * DIRECT).unwrap_or_default());
        std::thread::scope(|scope| {
            let work = || {
                let mut window = Window::new(&windows);
                while let Some((container, parts)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    scan.container(this, *container, parts, &mut window);
                }
            };
            for _ in 1..threads.min(jobs.len()) {
                // If no more threads can be made, this one does all of it.
                let _started = std::thread::Builder::new().name("fsck-data".into()).spawn_scoped(scope, work);
            }
            work();
        });
        self.segments.clear();
        self.bytes = 0;
        (bad.into_inner(), bytes.into_inner())
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
    /// Grows by half when it is full of different rows: leaves that forks copied name the same blocks again.
    fn push(&mut self, row: Expected) {
        if self.rows.len() == self.rows.capacity() {
            self.tidy();
            if self.rows.len() >= self.rows.capacity() / 4 * 3 {
                self.rows.reserve_exact((self.rows.len() / 2).max(32));
            }
        }
        self.rows.push(row);
    }
    fn bytes(&self) -> u64 {
        (self.rows.capacity() * size_of::<Expected>()) as u64
    }
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
    bad: &'a Mutex<BadBlocks>,
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
    fn container(&self, all: &Expectations, container: u32, parts: &[Part], held: &mut Window) {
        let blocks = self.blocks(all, container, parts);
        let mut rest = blocks.as_slice();
        while let Some(first) = rest.first() {
            if super::interrupt::requested() {
                return;
            }
            let (start, mut end, mut count, mut bytes) = (first.offset, first.offset, 0, 0);
            for block in rest {
                let after = block.offset + block.length();
                if after - start > WINDOW || block.offset > end + GAP {
                    break;
                }
                (end, count, bytes) = (end.max(after), count + 1, bytes + block.length());
            }
            let (window, after) = rest.split_at(count.max(1).min(rest.len()));
            rest = after;
            // The next one is on its way while this one is looked at.
            if let Some(next) = rest.first() {
                self.disk.expect_window(next.offset, WINDOW);
            }
            let length = usize::try_from(end - start).unwrap_or(0);
            let judged = self.disk.look(start, length, held, |bytes| {
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
            self.progress.inc(bytes);
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// The blocks that lie in a container, as they lie. What lies in pieces, or nowhere, is verified at once.
    fn blocks(&self, all: &Expectations, container: u32, parts: &[Part]) -> Vec<Placed> {
        let mut blocks = Vec::new();
        // Nearly every container is the home of one segment, and nothing of it was moved: then everything lies at its slot, in order.
        if let [(number, from, to)] = parts
            && let Some(segment) = self.space.segments().get(number)
            && segment.home == Some(container)
            && segment.page.moved.is_empty()
            && let Some(begin) = self.space.position(container, 0)
        {
            let rows = all.rows(*number, *from, *to);
            let at = |row: &Expected| begin + u64::from(row.slot) * u64::from(UNIT);
            blocks.extend(rows.iter().map(|row| Placed { offset: at(row), segment: *number, row: *row }));
            return blocks;
        }
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
                    _ if *to == u32::MAX => {
                        self.single(*segment, row, 0);
                        let bytes = u64::from(row.units) * u64::from(UNIT);
                        self.progress.inc(bytes);
                        self.bytes.fetch_add(bytes, Ordering::Relaxed);
                    }
                    _ => {}
                }
            }
        }
        blocks.sort_unstable_by_key(|block| block.offset);
        blocks
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
        if found != Ok(row.crc) {
            let oid = Oid::new(self.volume, segment, row.slot);
            self.bad.lock().add((oid, row.crc), Bad { offset, found });
        }
    }
}
