//! The volume directory with the segment table: all of the store's own state that is not in the log, in one area slot.
//!
//! Version N lies in slot N mod 2 of system areas A and B, byte for byte the same; the superblock N names slot, length and checksum. The slot that the open
//! superblock names is never written (INV-20), so a power cut leaves the version before whole.
//!
//! ```text
//! | header 64 | entry 2048 | zeros to 4096 | one row of 128 bytes a container |
//! ```

mod entry;
mod place;
mod row;
#[cfg(test)]
mod tests;

pub use entry::{Bounds, Cut, PublishedCheckpoint, Role, StartPosition, Totals, VolumeEntry};
pub use place::{Place, RawPlace};
pub use row::{ContainerRow, ContainerState};

use crate::fields::{Structure, structure};
use crate::{LayoutError, checksum};
use entry::{ENTRY_BYTES, RawEntry};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What a directory starts with.
pub const MAGIC: u64 = u64::from_le_bytes(*b"EVFSVDIR");
/// Bytes before the segment table.
pub const PAGE_BYTES: usize = 4096;
/// Bytes of a row of the segment table.
pub const ROW_BYTES: usize = 128;
/// Most cuts that an entry lists.
pub const CUTS_MAX: usize = 8;

const NAME: &str = "volume directory";

/// What a superblock names: header, entries and table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeDirectory {
    /// That of its superblock.
    pub sequence: u64,
    /// The volume; more than one needs the feature MULTI_VOLUME.
    pub entry: VolumeEntry,
    /// One row a container.
    pub table: Vec<ContainerRow>,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    /// [`MAGIC`].
    magic: U64,
    /// Of page and table with this field zero, seeded with the slot as position.
    crc: U32,
    /// Entries: 1.
    entries: U32,
    /// Sequence of the superblock.
    sequence: U64,
    /// Bytes of the table.
    table_bytes: U32,
    /// Rows.
    containers: U32,
    reserved: [u8; 32],
}

const HEADER_BYTES: usize = 64;

const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);

fn field<T>(structure: &'static str, field: &'static str, found: u64) -> Result<T, LayoutError> {
    Err(LayoutError::Field { structure, field, found })
}

fn zeros(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

impl VolumeDirectory {
    /// Bytes of a directory for so many containers, before rounding up to blocks.
    #[must_use]
    pub const fn bytes(containers: u32) -> u64 {
        PAGE_BYTES as u64 + ROW_BYTES as u64 * containers as u64
    }

    /// The slot it belongs in.
    #[must_use]
    pub const fn slot(&self) -> u8 {
        (self.sequence % 2) as u8
    }

    /// Bytes on disk (a multiple of 128, not of a block) and the checksum for the superblock. More than [`CUTS_MAX`] cuts are a fault of the caller: the
    /// surplus would be lost, so it is asserted.
    #[must_use]
    pub fn encode(&self, seed: &[u8; 16]) -> (Vec<u8>, u32) {
        assert!(self.entry.cuts.len() <= CUTS_MAX, "INV-20: every cut since the start is listed");
        let table_bytes = self.table.len().saturating_mul(ROW_BYTES);
        let mut header = RawHeader {
            magic: MAGIC.into(),
            crc: 0.into(),
            entries: 1.into(),
            sequence: self.sequence.into(),
            table_bytes: u32::try_from(table_bytes).unwrap_or(u32::MAX).into(),
            containers: u32::try_from(self.table.len()).unwrap_or(u32::MAX).into(),
            reserved: [0; 32],
        };
        let mut body = Vec::with_capacity(PAGE_BYTES.saturating_add(table_bytes));
        body.extend_from_slice(self.entry.raw().as_bytes());
        body.resize(PAGE_BYTES - HEADER_BYTES, 0);
        for row in &self.table {
            body.extend_from_slice(&row.encode());
        }
        let position = u64::from(self.slot()).to_le_bytes();
        let crc = checksum::crc32c_pieces(&[seed, &position, header.as_bytes(), &body]);
        header.crc = crc.into();
        body.splice(..0, header.as_bytes().iter().copied());
        (body, crc)
    }

    /// From the bytes of an area slot, which may be longer. `crc` is what the superblock names.
    ///
    /// # Errors
    /// Not the directory that the superblock names, damaged, or from a newer version.
    pub fn decode(bytes: &[u8], seed: &[u8; 16], crc: u32) -> Result<Self, LayoutError> {
        let short = |expected| LayoutError::Short { structure: NAME, expected, found: bytes.len() };
        let (header, rest) = RawHeader::read_from_prefix(bytes).map_err(|_| short(PAGE_BYTES))?;
        if header.magic.get() != MAGIC {
            return Err(LayoutError::Magic { structure: NAME, expected: MAGIC, found: header.magic.get() });
        }
        let table_bytes = usize::try_from(header.table_bytes.get()).unwrap_or(usize::MAX);
        let whole = PAGE_BYTES.saturating_add(table_bytes);
        let Some(body) = rest.get(..whole.saturating_sub(HEADER_BYTES)) else { return Err(short(whole)) };
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
        if u64::from(header.containers.get()) * ROW_BYTES as u64 != u64::from(header.table_bytes.get()) {
            return field(NAME, "table bytes", header.table_bytes.get().into());
        }
        let (entry, rest) = RawEntry::read_from_prefix(body).map_err(|_| short(PAGE_BYTES))?;
        let (padding, table) =
            rest.split_at_checked(PAGE_BYTES - HEADER_BYTES - ENTRY_BYTES).ok_or_else(|| short(PAGE_BYTES))?;
        if !zeros(&header.reserved) || !zeros(padding) {
            return field(NAME, "reserved", 1);
        }
        let table = table.chunks_exact(ROW_BYTES).map(ContainerRow::decode).collect::<Result<_, _>>()?;
        Ok(Self { sequence: header.sequence.get(), entry: VolumeEntry::from_raw(&entry)?, table })
    }
}

/// For the documentation; see [`crate::fields`].
pub(crate) const LAYOUTS: &[Structure] = {
    let [cut, entry] = entry::LAYOUTS;
    &[
        place::LAYOUT,
        structure!(
            "volume directory header",
            RawHeader { magic, crc, entries, sequence, table_bytes, containers, reserved }
        ),
        cut,
        entry,
        row::LAYOUT,
    ]
};
