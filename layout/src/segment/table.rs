//! A table part: the rows appended to a container since the part before it.

use super::row::{Expected, TableRow};
use super::unit::{UNIT_BYTES, short};
use crate::LayoutError;
use crate::checksum::crc32c_pieces;
use crate::fields::{Structure, structure};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// "EVTP".
pub const PART_MAGIC: u32 = u32::from_le_bytes(*b"EVTP");

/// Rows of a part as they are added: tells how long the part will be.
#[derive(Clone, Debug)]
pub struct PartRows {
    expected: Expected,
    bytes: Vec<u8>,
    count: u32,
}

impl PartRows {
    /// None yet, of a container that is home of this segment (0: of none).
    #[must_use]
    pub const fn new(segment: u32) -> Self {
        Self { expected: Expected::first(segment), bytes: Vec::new(), count: 0 }
    }
    /// Adds a row behind the others.
    pub fn push(&mut self, row: &TableRow) {
        self.expected.put(row, &mut self.bytes);
        self.count += 1;
    }
    /// Rows.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }
    /// Units of the part with these rows and so many more at most.
    #[must_use]
    pub const fn units_with(&self, more: usize) -> usize {
        (TablePart::HEADER_BYTES + self.bytes.len() + more * TableRow::BYTES_MAX).div_ceil(UNIT_BYTES)
    }
    /// The part, padded with zeros to a unit.
    #[must_use]
    pub fn finish(self, previous: u32, opening: u64) -> Vec<u8> {
        let raw = RawPart {
            magic: PART_MAGIC.into(),
            crc: 0.into(),
            segment: self.expected.home.into(),
            previous: previous.into(),
            count: self.count.into(),
            bytes: u32::try_from(self.bytes.len()).unwrap_or(u32::MAX).into(),
            opening: opening.into(),
        };
        let mut out = raw.as_bytes().to_vec();
        out.extend_from_slice(&self.bytes);
        let crc = crc32c_pieces(&[&out]);
        if let Some(field) = out.get_mut(4..8) {
            field.copy_from_slice(&crc.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(UNIT_BYTES), 0);
        out
    }
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawPart {
    magic: U32,
    crc: U32,
    segment: U32,
    previous: U32,
    count: U32,
    bytes: U32,
    opening: U64,
}

const _: () = assert!(size_of::<RawPart>() == TablePart::HEADER_BYTES);

/// Rows appended to a container since the previous part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablePart {
    /// Segment number; 0 for survivors.
    pub segment: u32,
    /// Unit of the previous part; 0 if this is the first.
    pub previous: u32,
    /// As in the container's header.
    pub opening: u64,
    /// Rows in order of their offset.
    pub rows: Vec<TableRow>,
}

impl TablePart {
    /// Bytes in front of the rows.
    pub const HEADER_BYTES: usize = 32;

    /// Units that a part with this many rows takes at most.
    #[must_use]
    pub const fn units_max(rows: usize) -> usize {
        (Self::HEADER_BYTES + rows * TableRow::BYTES_MAX).div_ceil(UNIT_BYTES)
    }

    /// The part, padded with zeros to a unit.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut rows = PartRows::new(self.segment);
        self.rows.iter().for_each(|row| rows.push(row));
        rows.finish(self.previous, self.opening)
    }

    /// Units of the part that starts with `bytes` (at least one unit), from its header alone. The rest may still not verify.
    pub fn units_of(bytes: &[u8]) -> Result<usize, LayoutError> {
        let raw = Self::header(bytes)?;
        Ok((Self::HEADER_BYTES + raw.bytes.get() as usize).div_ceil(UNIT_BYTES))
    }

    fn header(bytes: &[u8]) -> Result<RawPart, LayoutError> {
        let structure = "table part";
        let (raw, _) =
            RawPart::read_from_prefix(bytes).map_err(|_| short(structure, Self::HEADER_BYTES, bytes.len()))?;
        if raw.magic.get() != PART_MAGIC {
            return Err(LayoutError::Magic { structure, expected: PART_MAGIC.into(), found: raw.magic.get().into() });
        }
        if raw.count.get() > 1 << 20 {
            return Err(LayoutError::Field { structure, field: "count", found: raw.count.get().into() });
        }
        if raw.bytes.get() as usize > raw.count.get() as usize * TableRow::BYTES_MAX {
            return Err(LayoutError::Field { structure, field: "bytes", found: raw.bytes.get().into() });
        }
        Ok(raw)
    }

    /// From bytes that start with the part and may go on behind it.
    pub fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let structure = "table part";
        let raw = Self::header(bytes)?;
        let len = Self::HEADER_BYTES + raw.bytes.get() as usize;
        let all = bytes.get(..len).ok_or_else(|| short(structure, len, bytes.len()))?;
        let (head, rows) =
            all.split_at_checked(Self::HEADER_BYTES).ok_or_else(|| short(structure, len, bytes.len()))?;
        let (Some(first), Some(rest)) = (head.get(..4), head.get(8..)) else {
            return Err(short(structure, len, bytes.len()));
        };
        let found = crc32c_pieces(&[first, &[0; 4], rest, rows]);
        if found != raw.crc.get() {
            return Err(LayoutError::Checksum { structure, expected: raw.crc.get(), found });
        }
        let (mut expected, mut rest) = (Expected::first(raw.segment.get()), rows);
        let rows = (0..raw.count.get()).map(|_| expected.take(&mut rest)).collect::<Result<_, _>>()?;
        if !rest.is_empty() {
            return Err(LayoutError::Field { structure, field: "bytes", found: raw.bytes.get().into() });
        }
        Ok(Self { segment: raw.segment.get(), previous: raw.previous.get(), opening: raw.opening.get(), rows })
    }
}

/// For the documentation; see [`crate::fields`].
pub(super) const LAYOUT: Structure =
    structure!("table part header", RawPart { magic, crc, segment, previous, count, bytes, opening });
