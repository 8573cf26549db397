//! A store opened only to look into it: never written, not claimed, so that a mounted one can be looked at too.
//!
//! Owns: reading superblocks, volume directory and segment pages as far as they can be read, and where objects lie. Whatever is damaged becomes a *problem*: it is told, and
//! the rest is shown. On a mounted store the directory that a superblock names may be written over while it is read: then both are read again.

use super::log::LogReader;
use anyhow::{Context as _, Result, bail};
use envoyfs_engine::signature;
use envoyfs_engine::superblock::{Copies, choose};
use envoyfs_layout::directory_page::{ContainerRow, DirectoryPage, Place, VolumeDirectory};
use envoyfs_layout::superblock::{BYTES, COPIES, Superblock};
use envoyfs_layout::system_page::{ListPage, SegmentPage};
use envoyfs_layout::wal::kind;
use envoyfs_layout::{LayoutError, Oid, UNIT, checksum};
use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _};
use std::path::Path;

/// How often superblocks and directory are read again when a mount publishes meanwhile.
const ATTEMPTS: u32 = 8;
/// A list of pages that never ends would be a circle.
const LIST_PAGES_MAX: u32 = 1 << 20;

/// A device or image, for reading.
#[derive(Debug)]
pub struct Source {
    file: File,
    size_bytes: u64,
}

impl Source {
    fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        let metadata = std::fs::metadata(path).with_context(|| format!("cannot look at {shown}"))?;
        if !metadata.file_type().is_block_device() && !metadata.is_file() {
            bail!("{shown} is neither a block device nor a regular file");
        }
        let file = OpenOptions::new().read(true).open(path).with_context(|| format!("cannot open {shown}"))?;
        let size_bytes = crate::mkfs::size_of(&file).with_context(|| format!("cannot tell the size of {shown}"))?;
        Ok(Self { file, size_bytes })
    }

    /// Bytes of the device.
    #[must_use]
    pub const fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Bytes from an offset.
    ///
    /// # Errors
    /// They pass the end, or the system's error, as text.
    pub fn read(&self, offset: u64, bytes: u64) -> Result<Vec<u8>, String> {
        let inside = offset.checked_add(bytes).is_some_and(|end| end <= self.size_bytes);
        if !inside {
            return Err(format!("{bytes} bytes at {offset} pass the end of the device ({})", self.size_bytes));
        }
        let mut out = vec![0; usize::try_from(bytes).unwrap_or(0)];
        match self.file.read_exact_at(&mut out, offset) {
            Ok(()) => Ok(out),
            Err(error) => Err(format!("{bytes} bytes at {offset}: {error}")),
        }
    }
}

/// What one of the four positions holds.
#[derive(Debug)]
pub struct Copy {
    /// Byte offset.
    pub position: u64,
    /// The superblock, or what is wrong.
    pub found: Result<Superblock, String>,
}

/// A segment as the published tables have it.
#[derive(Debug, Default)]
pub struct Segment {
    /// Container that it has its home in.
    pub home: Option<u32>,
    /// Its page; none if it cannot be read.
    pub page: Option<SegmentPage>,
}

/// Where a copy lies, and what is wrong with it.
pub type Found = (u64, Result<(), String>);

/// What the first whole copy says, and how each of them is.
fn copies<T>(
    source: &Source,
    at: [u64; 2],
    length: u64,
    decode: impl Fn(&[u8]) -> Result<T, LayoutError>,
) -> (Option<T>, Vec<Found>) {
    let mut good = None;
    let found = at.map(|position| {
        let read = source.read(position, length);
        let decoded = read.and_then(|bytes| decode(&bytes).map_err(|error| error.to_string()));
        (position, decoded.map(|decoded| good = good.take().or(Some(decoded))))
    });
    (good, found.to_vec())
}

/// See the module.
#[derive(Debug)]
pub struct Store {
    /// The device.
    pub source: Source,
    /// All four copies.
    pub copies: Vec<Copy>,
    /// The one that rules; none if no copy is whole.
    pub superblock: Option<Superblock>,
    /// What each copy of the volume directory held: its place, and what is wrong.
    pub directories: Vec<Found>,
    /// Where whole segment tables lie, and whether they verify.
    pub tables: Vec<Found>,
    directory: Option<VolumeDirectory>,
    segments: OnceCell<BTreeMap<u32, Segment>>,
    placed: OnceCell<BTreeMap<u32, u32>>,
    problems: RefCell<Vec<String>>,
}

impl Store {
    /// Opens and reads what every view needs.
    ///
    /// # Errors
    /// It cannot be read at all, or nothing of a store is there.
    pub fn open(path: &Path) -> Result<Self> {
        let source = Source::open(path)?;
        let mut store = Self {
            source,
            copies: Vec::new(),
            superblock: None,
            directories: Vec::new(),
            tables: Vec::new(),
            directory: None,
            segments: OnceCell::new(),
            placed: OnceCell::new(),
            problems: RefCell::default(),
        };
        store.reload();
        if store.source.size_bytes < 2 * BYTES as u64 {
            bail!("{} is not an envoyfs store (it has {} bytes)", path.display(), store.source.size_bytes);
        }
        let magic = |copy: &Copy| copy.found.as_ref().is_err_and(|error| !error.contains("not one (magic"));
        if store.superblock.is_none() && !store.copies.iter().any(magic) {
            let found = signature::probe(&store.source.file, store.source.size_bytes).unwrap_or_default();
            let holds =
                if found.is_empty() { String::new() } else { format!(" (it holds: {})", signature::names(&found)) };
            bail!("{} is not an envoyfs store{holds}", path.display());
        }
        for copy in &store.copies {
            if let Err(error) = &copy.found {
                store.problem(format!("superblock at {}: {error}", copy.position));
            }
        }
        for (what, found) in [("volume directory", &store.directories), ("segment table", &store.tables)] {
            for (position, error) in found.iter().filter_map(|(at, found)| Some((at, found.as_ref().err()?))) {
                store.problem(format!("{what} at {position}: {error}"));
            }
        }
        Ok(store)
    }

    /// Reads superblocks and volume directory (again).
    pub fn reload(&mut self) {
        for _ in 0..ATTEMPTS {
            self.copies = read_copies(&self.source);
            self.superblock = choose(&self.table()).cloned();
            self.directories.clear();
            self.tables.clear();
            self.directory = None;
            let Some(superblock) = &self.superblock else { return };
            let (seed, containers) = (superblock.seed, superblock.containers);
            let (pages, crc) = (superblock.slot_positions(), superblock.directory_crc);
            let decode = |bytes: &[u8]| DirectoryPage::decode(bytes, &seed, crc);
            let (page, found) = copies(&self.source, pages, superblock.directory_bytes.into(), decode);
            self.directories = found;
            if let Some(page) = page {
                let decode = |bytes: &[u8]| page.clone().over(bytes, &seed, containers);
                let tables = superblock.table_positions(page.base.slot);
                (self.directory, self.tables) = copies(&self.source, tables, page.base.bytes(), decode);
            }
            // A publication in between, not damage, if the superblock is another one by now.
            let again = choose(&table_of(&read_copies(&self.source))).cloned();
            if self.directory.is_some() || again == self.superblock {
                return;
            }
        }
    }

    /// The copies as the rule of opening takes them.
    #[must_use]
    pub fn table(&self) -> Copies {
        table_of(&self.copies)
    }

    /// Something is damaged; the view goes on.
    pub fn problem(&self, what: impl Into<String>) {
        self.problems.borrow_mut().push(what.into());
    }

    /// What was damaged so far.
    pub fn take_problems(&self) -> Vec<String> {
        std::mem::take(&mut self.problems.borrow_mut())
    }

    /// The superblock that rules.
    ///
    /// # Errors
    /// No copy is whole: nothing but `superblock` can be shown.
    pub fn superblock(&self) -> Result<&Superblock> {
        self.superblock.as_ref().context("no superblock copy is whole: only 'inspect IMAGE superblock' shows something")
    }

    /// The volume directory.
    ///
    /// # Errors
    /// No copy is whole.
    pub fn directory(&self) -> Result<&VolumeDirectory> {
        self.superblock()?;
        self.directory
            .as_ref()
            .context("no copy of the volume directory is whole; fsck.envoyfs --rebuild makes it anew")
    }

    /// Row of a container.
    #[must_use]
    pub fn row(&self, container: u32) -> Option<&ContainerRow> {
        self.directory.as_ref()?.table.get(usize::try_from(container).ok()?)
    }

    /// Device offset of a unit of a container.
    #[must_use]
    pub fn position(&self, container: u32, unit: u32) -> Option<u64> {
        let superblock = self.superblock.as_ref()?;
        let inside = u64::from(unit) * u64::from(UNIT);
        (container < superblock.containers && inside < superblock.segment_bytes.into())
            .then(|| superblock.segments_offset + u64::from(container) * u64::from(superblock.segment_bytes) + inside)
    }

    /// A system page, verified.
    ///
    /// # Errors
    /// What is wrong.
    pub fn page(&self, place: &Place) -> Result<Vec<u8>, String> {
        let position = self.position(place.container, place.units).ok_or("outside the store")?;
        let bytes = self.source.read(position, place.stored_bytes.into())?;
        let found = checksum::crc32c(&bytes);
        if found != place.crc {
            return Err(format!("checksum {found:#010x} at {position}, expected {:#010x}", place.crc));
        }
        Ok(bytes)
    }

    /// All segments of the published tables.
    pub fn segments(&self) -> &BTreeMap<u32, Segment> {
        self.segments.get_or_init(|| self.read_segments())
    }

    fn read_segments(&self) -> BTreeMap<u32, Segment> {
        let mut out = BTreeMap::new();
        let Some(directory) = &self.directory else { return out };
        let mut add = |number: u32, place: &Place, home: Option<u32>| {
            let page = if place.is_none() {
                Ok(SegmentPage { segment: number, ..SegmentPage::default() })
            } else {
                self.page(place).and_then(|bytes| SegmentPage::decode(&bytes).map_err(|error| error.to_string()))
            };
            let page = page.map_err(|error| self.problem(format!("page of segment {number}: {error}"))).ok();
            if out.insert(number, Segment { home, page }).is_some() {
                self.problem(format!("segment {number} is listed twice"));
            }
        };
        for (container, row) in (0_u32..).zip(&directory.table) {
            if row.segment != 0 {
                add(row.segment, &row.metadata, Some(container));
            }
        }
        for page in self.list(directory.entry.orphaned_segments, "list of segments without a home") {
            if let ListPage::OrphanedSegments(rows) = page {
                rows.iter().for_each(|row| add(row.segment, &row.page, None));
            }
        }
        out
    }

    /// Pages of a list, as far as they can be read.
    pub fn list(&self, first: Place, what: &str) -> Vec<ListPage> {
        let mut out = Vec::new();
        let mut next = first;
        for _ in 0..LIST_PAGES_MAX {
            if next.is_none() {
                break;
            }
            let page = self.page(&next).and_then(|bytes| ListPage::decode(&bytes).map_err(|error| error.to_string()));
            match page {
                Ok((page, after)) => {
                    out.push(page);
                    next = after;
                }
                Err(error) => {
                    self.problem(format!("{what}: {error}"));
                    break;
                }
            }
        }
        out
    }

    /// Where the log says that segments were put since the checkpoint.
    fn placed(&self) -> &BTreeMap<u32, u32> {
        self.placed.get_or_init(|| {
            let mut placed = BTreeMap::new();
            let Ok(mut reader) = LogReader::new(self) else { return placed };
            while let Some(event) = reader.next_block(self) {
                for record in event.local.iter().filter(|record| record.kind == kind::SEGMENT_PLACED) {
                    if let Ok(body) = envoyfs_layout::wal::SegmentPlaced::decode(&record.body) {
                        placed.insert(body.number, body.container);
                    }
                }
            }
            placed
        })
    }

    /// Where units of a segment lie: container, unit in it, units; in order.
    ///
    /// # Errors
    /// They have no place.
    pub fn locate(&self, number: u32, range: Range<u32>) -> Result<Vec<(u32, u32, u32)>, String> {
        let segment = self.segments().get(&number);
        let home = segment.and_then(|segment| segment.home).or_else(|| self.placed().get(&number).copied());
        if segment.is_none() && home.is_none() {
            return Err(format!("segment {number} is unknown"));
        }
        let moved = segment.and_then(|segment| segment.page.as_ref()).map_or(&[][..], |page| &page.moved);
        let mut out = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let next =
                moved.iter().find(|m| u32::from(m.slot) < range.end && u32::from(m.slot) + u32::from(m.units) > at);
            let (container, unit, units) = match next {
                Some(moved) if u32::from(moved.slot) <= at => {
                    let inside = at - u32::from(moved.slot);
                    (Some(moved.container), moved.offset_units.saturating_add(inside), u32::from(moved.units) - inside)
                }
                Some(moved) => (home, at, u32::from(moved.slot) - at),
                None => (home, at, range.end - at),
            };
            let units = units.min(range.end - at);
            let container = container.ok_or_else(|| format!("unit {at} of segment {number} has no place"))?;
            out.push((container, unit, units));
            at += units;
        }
        Ok(out)
    }

    /// Bytes of an object; the length is a multiple of a unit.
    ///
    /// # Errors
    /// It has no place, or the device failed.
    pub fn object(&self, oid: Oid, stored_bytes: u32) -> Result<Vec<u8>, String> {
        let start = u32::from(oid.slot());
        let mut out = Vec::new();
        for (container, unit, units) in self.locate(oid.segment(), start..start.saturating_add(stored_bytes / UNIT))? {
            let position = self
                .position(container, unit)
                .ok_or_else(|| format!("container {container}, unit {unit} is outside the store"))?;
            out.extend(self.source.read(position, u64::from(units) * u64::from(UNIT))?);
        }
        Ok(out)
    }

    /// References to an object according to the store; none if the page of its segment cannot be read, or it is not live.
    #[must_use]
    pub fn count(&self, oid: Oid) -> Option<i64> {
        let page = self.segments().get(&oid.segment())?.page.as_ref()?;
        let start = u32::from(oid.slot());
        let live = page
            .live
            .iter()
            .any(|(slot, units)| (u32::from(*slot)..u32::from(*slot) + u32::from(*units)).contains(&start));
        let row = page.extra.iter().find(|(slot, _)| *slot == oid.slot());
        live.then_some(1 + row.map_or(0, |(_, extra)| i64::from(*extra)))
    }

    /// Containers whose segments have units in this one.
    #[must_use]
    pub fn guests(&self, container: u32) -> HashSet<u32> {
        let of = |segment: &Segment| {
            segment.page.iter().flat_map(|page| &page.moved).any(|moved| moved.container == container)
        };
        self.segments().iter().filter(|(_, segment)| of(segment)).map(|(number, _)| *number).collect()
    }
}

fn table_of(copies: &[Copy]) -> Copies {
    let mut table = [const { None }; COPIES];
    for (to, copy) in table.iter_mut().zip(copies) {
        *to = copy.found.as_ref().ok().cloned();
    }
    table
}

/// Copies 0 and 1 lie at fixed places; where 2 and 3 are follows from the size in one of these, or from the device's own.
fn read_copies(source: &Source) -> Vec<Copy> {
    let read = |position: u64| {
        let found = source
            .read(position, BYTES as u64)
            .and_then(|bytes| Superblock::decode(&bytes, position).map_err(|error| error.to_string()));
        Copy { position, found }
    };
    let mut copies: Vec<Copy> = [0, 4096].map(read).into();
    let size = choose(&table_of(&copies)).map_or(source.size_bytes & !4095, |superblock| superblock.size);
    let [.., third, fourth] = Superblock::positions(size);
    copies.extend([third, fourth].map(read));
    copies
}
