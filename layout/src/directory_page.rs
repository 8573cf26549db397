//! The volume directory with the segment table: all of the store's own state that is not in the log, in the two slots of each system area.
//!
//! ```text
//! slot:  | page: header 64 | entry 2048 | changed rows, 64 each |  ..  | table: one row of 64 bytes a container, without free ones at the end |
//! ```
//! The page of version N lies in slot N mod 2 of areas A and B, byte for byte the same; the superblock N names slot, length and checksum. The page names a whole table
//! (slot, sequence, length, checksum) that the same or an earlier version wrote, and has the rows that differ from it. So a publication writes what changed, and a whole table
//! only now and then, to the slot that the page in use does not name. What the open superblock leads to, page or table, is never written (INV-20), so a power cut leaves the
//! version before whole. Decision 0010 has the arithmetic.

mod entry;
mod place;
mod row;
mod table;
#[cfg(test)]
mod tests;

pub use entry::{Bounds, Cut, PublishedCheckpoint, Role, StartPosition, Totals, VolumeEntry};
pub use place::{Place, RawPlace};
pub use row::{ContainerRow, ContainerState};
pub use table::{SegmentTable, TableBase};

use crate::fields::{Structure, structure};
use crate::{LayoutError, checksum};
use entry::{ENTRY_BYTES, RawEntry};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What a directory starts with.
pub const MAGIC: u64 = u64::from_le_bytes(*b"EVFSVDIR");
/// Bytes of a row of the segment table.
pub const ROW_BYTES: usize = 64;
/// Most cuts that an entry lists.
pub const CUTS_MAX: usize = 8;

const NAME: &str = "volume directory";

/// What a superblock names: entry and table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeDirectory {
    /// That of its superblock.
    pub sequence: u64,
    /// The volume; more than one needs the feature MULTI_VOLUME.
    pub entry: VolumeEntry,
    /// One row a container; those behind the last row, if there are fewer, are free.
    pub table: Vec<ContainerRow>,
}

/// The page of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryPage {
    /// That of its superblock.
    pub sequence: u64,
    /// The volume.
    pub entry: VolumeEntry,
    /// How many containers there are.
    pub containers: u32,
    /// The whole table that it amends.
    pub base: TableBase,
    /// Rows that are not as in that table, by container, ascending.
    pub changed: Vec<(u32, ContainerRow)>,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    /// [`MAGIC`].
    magic: U64,
    /// Of the page with this field zero, seeded with the slot as position.
    crc: U32,
    /// Entries: 1.
    entries: U32,
    /// Sequence of the superblock.
    sequence: U64,
    /// Containers.
    containers: U32,
    /// Changed rows behind the entry.
    changed: U32,
    /// Sequence of the superblock that the whole table was written for.
    table_sequence: U64,
    /// Rows in it; the containers behind are free.
    table_rows: U32,
    /// Its checksum, seeded with slot and sequence.
    table_crc: U32,
    /// Slot that it lies in.
    table_slot: U32,
    reserved: [u8; 12],
}

const HEADER_BYTES: usize = 64;

const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);

fn field<T>(structure: &'static str, field: &'static str, found: u64) -> Result<T, LayoutError> {
    Err(LayoutError::Field { structure, field, found })
}

fn zeros(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Bytes before the changed rows.
const ROWS_AT: usize = HEADER_BYTES + ENTRY_BYTES;

impl DirectoryPage {
    /// Most rows that a page lists as changed.
    #[must_use]
    pub const fn changed_max(containers: u32) -> u32 {
        match containers / 8 {
            // What a page of 4096 bytes has room for.
            0..31 => 31,
            many @ 31..1024 => many,
            _ => 1024,
        }
    }

    /// Bytes that a slot keeps for the page; the whole table lies behind them.
    #[must_use]
    pub const fn bytes_max(containers: u32) -> u64 {
        (ROWS_AT as u64 + ROW_BYTES as u64 * Self::changed_max(containers) as u64).next_multiple_of(4096)
    }

    /// Bytes of a slot, before rounding up to blocks.
    #[must_use]
    pub const fn slot_bytes(containers: u32) -> u64 {
        Self::bytes_max(containers) + ROW_BYTES as u64 * containers as u64
    }

    /// The slot it belongs in.
    #[must_use]
    pub const fn slot(&self) -> u8 {
        (self.sequence % 2) as u8
    }

    /// Bytes on disk and the checksum for the superblock. More than [`CUTS_MAX`] cuts, or more changed rows than there is room for, are a fault of the caller: the surplus would
    /// be lost, so it is asserted.
    #[must_use]
    pub fn encode(&self, seed: &[u8; 16]) -> (Vec<u8>, u32) {
        assert!(self.entry.cuts.len() <= CUTS_MAX, "INV-20: every cut since the start is listed");
        let changed = u32::try_from(self.changed.len()).unwrap_or(u32::MAX);
        assert!(changed <= Self::changed_max(self.containers), "INV-20: the table behind the page is not written");
        let mut header = RawHeader {
            magic: MAGIC.into(),
            crc: 0.into(),
            entries: 1.into(),
            sequence: self.sequence.into(),
            containers: self.containers.into(),
            changed: changed.into(),
            table_sequence: self.base.sequence.into(),
            table_rows: self.base.rows.into(),
            table_crc: self.base.crc.into(),
            table_slot: u32::from(self.base.slot).into(),
            reserved: [0; 12],
        };
        let mut bytes = Vec::with_capacity(ROWS_AT.saturating_add(self.changed.len().saturating_mul(ROW_BYTES)));
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(self.entry.raw().as_bytes());
        self.changed.iter().for_each(|(container, row)| bytes.extend_from_slice(&row.encode(*container)));
        let crc = checksum::seeded(seed, self.slot().into(), &bytes);
        header.crc = crc.into();
        bytes.splice(..HEADER_BYTES, header.as_bytes().iter().copied());
        (bytes, crc)
    }

    /// From the bytes of an area slot, which may be longer. `crc` is what the superblock names.
    ///
    /// # Errors
    /// Not the directory that the superblock names, damaged, or from a newer version.
    pub fn decode(bytes: &[u8], seed: &[u8; 16], crc: u32) -> Result<Self, LayoutError> {
        let short = |expected| LayoutError::Short { structure: NAME, expected, found: bytes.len() };
        let (header, rest) = RawHeader::read_from_prefix(bytes).map_err(|_| short(ROWS_AT))?;
        if header.magic.get() != MAGIC {
            return Err(LayoutError::Magic { structure: NAME, expected: MAGIC, found: header.magic.get() });
        }
        let (changed, containers) = (header.changed.get(), header.containers.get());
        let rows_bytes = usize::try_from(changed).unwrap_or(usize::MAX).saturating_mul(ROW_BYTES);
        let Some(body) = rest.get(..ENTRY_BYTES.saturating_add(rows_bytes)) else {
            return Err(short(ROWS_AT.saturating_add(rows_bytes)));
        };
        let position = (header.sequence.get() % 2).to_le_bytes();
        let mut zeroed = header;
        zeroed.crc = 0.into();
        let found = checksum::crc32c_pieces(&[seed, &position, zeroed.as_bytes(), body]);
        if found != crc || header.crc.get() != crc {
            return Err(LayoutError::Checksum { structure: NAME, expected: crc, found });
        }
        if header.entries.get() != 1 {
            return Err(LayoutError::Unknown {
                structure: NAME,
                what: "number of volumes",
                found: header.entries.get().into(),
            });
        }
        if !zeros(&header.reserved) {
            return field(NAME, "reserved", 1);
        }
        if changed > Self::changed_max(containers) {
            return field(NAME, "changed rows", changed.into());
        }
        let slot = match header.table_slot.get() {
            0 => 0,
            1 => 1,
            other => return field(NAME, "slot of the table", other.into()),
        };
        let base = TableBase {
            slot,
            sequence: header.table_sequence.get(),
            rows: header.table_rows.get(),
            crc: header.table_crc.get(),
        };
        if base.rows > containers {
            return field(NAME, "rows of the table", base.rows.into());
        }
        if base.sequence > header.sequence.get() {
            return field(NAME, "sequence of the table", base.sequence);
        }
        let (entry, rows) = RawEntry::read_from_prefix(body).map_err(|_| short(ROWS_AT))?;
        let changed: Vec<(u32, ContainerRow)> =
            rows.chunks_exact(ROW_BYTES).map(ContainerRow::decode).collect::<Result<_, _>>()?;
        let ascending = changed.windows(2).all(|pair| matches!(pair, [(a, _), (b, _)] if a < b));
        match changed.last() {
            Some((last, _)) if !ascending || *last >= containers => field(NAME, "order of rows", u64::from(*last)),
            _ => {
                let entry = VolumeEntry::from_raw(&entry)?;
                Ok(Self { sequence: header.sequence.get(), entry, containers, base, changed })
            }
        }
    }

    /// Rows of a store with so many containers: those of this page over the bytes of the table that it names. Containers behind the last row are free.
    ///
    /// # Errors
    /// It is not that table, damaged, or of another number of containers.
    pub fn rows(&self, table: &[u8], seed: &[u8; 16], containers: u32) -> Result<Vec<ContainerRow>, LayoutError> {
        if self.containers != containers {
            return field(NAME, "containers", self.containers.into());
        }
        let mut rows = SegmentTable::decode(table, seed, &self.base)?;
        for (container, row) in &self.changed {
            let index = usize::try_from(*container).unwrap_or(usize::MAX);
            if index >= rows.len() {
                rows.resize(index.saturating_add(1), ContainerRow::FREE);
            }
            rows.get_mut(index).into_iter().for_each(|place| *place = *row);
        }
        Ok(rows)
    }

    /// The directory, with a row for every container: as [`DirectoryPage::rows`].
    ///
    /// # Errors
    /// As there.
    pub fn over(self, table: &[u8], seed: &[u8; 16], containers: u32) -> Result<VolumeDirectory, LayoutError> {
        let mut table = self.rows(table, seed, containers)?;
        table.resize(usize::try_from(containers).unwrap_or(0), ContainerRow::FREE);
        Ok(VolumeDirectory { sequence: self.sequence, entry: self.entry, table })
    }
}

/// For the documentation; see [`crate::fields`].
pub(crate) const LAYOUTS: &[Structure] = {
    let [cut, entry] = entry::LAYOUTS;
    &[
        place::LAYOUT,
        structure!(
            "volume directory header",
            RawHeader {
                magic,
                crc,
                entries,
                sequence,
                containers,
                changed,
                table_sequence,
                table_rows,
                table_crc,
                table_slot,
                reserved
            }
        ),
        cut,
        entry,
        row::LAYOUT,
    ]
};
