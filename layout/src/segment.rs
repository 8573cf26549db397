//! Segments: a header, objects packed in units of 512 bytes, table parts that say what they are, a footer. A scan of them rebuilds every index.
//!
//! ```text
//! | header (one unit, then zeros to 4096) | objects and table parts ... | footer (last unit) |
//! table part: | header 32 | row 8 to 50 ... | zeros to 512 |
//! ```
//!
//! A row of 4 KiB of data takes 10 to 20 bytes: each says only what the row before it does not let expect.
//!
//! Header and footer are true of one container of one store, so their checksums are seeded with its seed uuid and their position. Table parts are shipped with the
//! objects and are not; the sequence of opening in them tells a part of this life of the container from one of an earlier life.

use crate::checksum::{crc32c_pieces, seeded};
use crate::fields::{Structure, structure};
use crate::varint;
use crate::{Hlc, LayoutError, Oid, ReferenceKind, UNIT};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// "EVSEGHDR".
pub const HEADER_MAGIC: u64 = u64::from_le_bytes(*b"EVSEGHDR");
/// "EVSEGEND".
pub const FOOTER_MAGIC: u64 = u64::from_le_bytes(*b"EVSEGEND");
/// "EVTP".
pub const PART_MAGIC: u32 = u32::from_le_bytes(*b"EVTP");

/// Fields of a header or footer, in front of zeros.
const FIELDS_BYTES: usize = 64;
/// Flags of a header: survivors of cleaning, system pages.
const FLAGS_KNOWN: u8 = 3;
/// Bytes of header and footer.
pub const UNIT_BYTES: usize = UNIT as usize;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: U64,
    crc: U32,
    format: U32,
    seed: [u8; 16],
    segment: U32,
    container: U32,
    volume: U16,
    stream: u8,
    flags: u8,
    reserved: U32,
    birth_low: U64,
    opening: U64,
}

const _: () = assert!(size_of::<RawHeader>() == 64);
const _: () = assert!(std::mem::offset_of!(RawHeader, crc) == 8);

/// What a container starts with while it holds a segment or survivors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Seed uuid of the store.
    pub seed: [u8; 16],
    /// Volume.
    pub volume: u16,
    /// Segment number; 0 for survivors and system containers.
    pub segment: u32,
    /// Container it lies in.
    pub container: u32,
    /// Stream, as in the segment table.
    pub stream: u8,
    /// 1: survivors of cleaning. 2: system pages.
    pub flags: u8,
    /// No birth in it is smaller.
    pub birth_low: Hlc,
    /// Rises with every container opened on this store.
    pub opening: u64,
}

impl SegmentHeader {
    /// One unit. `position` is its byte offset on the device.
    #[must_use]
    pub fn encode(&self, position: u64) -> [u8; UNIT_BYTES] {
        let raw = RawHeader {
            magic: HEADER_MAGIC.into(),
            crc: 0.into(),
            format: 1.into(),
            seed: self.seed,
            segment: self.segment.into(),
            container: self.container.into(),
            volume: self.volume.into(),
            stream: self.stream,
            flags: self.flags,
            reserved: 0.into(),
            birth_low: self.birth_low.0.into(),
            opening: self.opening.into(),
        };
        seal_unit(raw.as_bytes(), 8, &self.seed, position)
    }

    /// From one unit at byte offset `position`.
    pub fn decode(bytes: &[u8], seed: &[u8; 16], position: u64) -> Result<Self, LayoutError> {
        let structure = "segment header";
        check_unit(bytes, structure, HEADER_MAGIC, 8, seed, position)?;
        let (raw, _) = RawHeader::read_from_prefix(bytes).map_err(|_| short(structure, 64, bytes.len()))?;
        if raw.format.get() != 1 {
            return Err(LayoutError::Unknown { structure, what: "format", found: raw.format.get().into() });
        }
        if raw.flags & !FLAGS_KNOWN != 0 {
            return Err(LayoutError::Unknown { structure, what: "flags", found: raw.flags.into() });
        }
        check_reserved(structure, raw.reserved, bytes)?;
        if raw.seed != *seed {
            return Err(LayoutError::Field {
                structure,
                field: "seed of the store",
                found: raw.seed.map(u64::from).iter().sum(),
            });
        }
        Ok(Self {
            seed: raw.seed,
            volume: raw.volume.get(),
            segment: raw.segment.get(),
            container: raw.container.get(),
            stream: raw.stream,
            flags: raw.flags,
            birth_low: Hlc(raw.birth_low.get()),
            opening: raw.opening.get(),
        })
    }
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawFooter {
    magic: U64,
    crc: U32,
    segment: U32,
    last_part: U32,
    objects: U32,
    used_units: U32,
    reserved: U32,
    digest: U64,
    birth_low: U64,
    birth_high: U64,
    opening: U64,
}

const _: () = assert!(size_of::<RawFooter>() == 64);
const _: () = assert!(std::mem::offset_of!(RawFooter, crc) == 8);

/// Last unit of a sealed container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFooter {
    /// Segment number; 0 for survivors.
    pub segment: u32,
    /// Unit of the last table part; 0 if there is none.
    pub last_part: u32,
    /// Rows in all table parts.
    pub objects: u32,
    /// First unit that nothing uses.
    pub used_units: u32,
    /// Sum (wrapping) of the rows' digests.
    pub digest: u64,
    /// Smallest birth.
    pub birth_low: Hlc,
    /// Largest birth.
    pub birth_high: Hlc,
    /// As in the header.
    pub opening: u64,
}

impl SegmentFooter {
    /// One unit. `position` is its byte offset on the device.
    #[must_use]
    pub fn encode(&self, seed: &[u8; 16], position: u64) -> [u8; UNIT_BYTES] {
        let raw = RawFooter {
            magic: FOOTER_MAGIC.into(),
            crc: 0.into(),
            segment: self.segment.into(),
            last_part: self.last_part.into(),
            objects: self.objects.into(),
            used_units: self.used_units.into(),
            reserved: 0.into(),
            digest: self.digest.into(),
            birth_low: self.birth_low.0.into(),
            birth_high: self.birth_high.0.into(),
            opening: self.opening.into(),
        };
        seal_unit(raw.as_bytes(), 8, seed, position)
    }

    /// From one unit at byte offset `position`.
    pub fn decode(bytes: &[u8], seed: &[u8; 16], position: u64) -> Result<Self, LayoutError> {
        let structure = "segment footer";
        check_unit(bytes, structure, FOOTER_MAGIC, 8, seed, position)?;
        let (raw, _) = RawFooter::read_from_prefix(bytes).map_err(|_| short(structure, 64, bytes.len()))?;
        check_reserved(structure, raw.reserved, bytes)?;
        Ok(Self {
            segment: raw.segment.get(),
            last_part: raw.last_part.get(),
            objects: raw.objects.get(),
            used_units: raw.used_units.get(),
            digest: raw.digest.get(),
            birth_low: Hlc(raw.birth_low.get()),
            birth_high: Hlc(raw.birth_high.get()),
            opening: raw.opening.get(),
        })
    }
}

/// What one table row says: an object, a piece that was appended to one, or (among survivors) a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableRow {
    /// Id that the first unit had at birth.
    pub oid: Oid,
    /// HLC of the newest change in it.
    pub birth: Hlc,
    /// Bytes.
    pub stored_bytes: u32,
    /// CRC32C of those bytes.
    pub crc: u32,
    /// Units from the container's start.
    pub offset_units: u32,
    /// What it is.
    pub kind: ReferenceKind,
    /// Inode or the like; for repair and locality.
    pub owner: u64,
}

impl TableRow {
    /// Most bytes that a row takes: its first byte, and every field that may follow.
    pub const BYTES_MAX: usize = 1 + 5 + 2 + 6 + 3 + 5 + 4 + 2 * varint::BYTES_MAX;

    /// Units that it takes.
    #[must_use]
    pub const fn units(&self) -> u32 {
        self.stored_bytes / UNIT
    }
    /// Its share in a segment's digest: independent of where it lies, and of what is a hint (birth, owner) and may be known too late for the row (INV-39).
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut bytes = [0; 17];
        let fields = self.oid.0.to_le_bytes().into_iter().chain(self.stored_bytes.to_le_bytes());
        let fields = fields.chain(self.crc.to_le_bytes()).chain([self.kind as u8]);
        bytes.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        crate::checksum::hash64(&bytes)
    }
}

/// What a row's first byte says: its kind, and which fields follow because they are not what was expected.
mod bits {
    /// [`super::ReferenceKind`].
    pub(super) const KIND: u8 = 7;
    /// The row starts later than where the one before it ends: by how many units.
    pub(super) const GAP: u8 = 8;
    /// Other units than the row before: how many.
    pub(super) const UNITS: u8 = 16;
    /// Not of the segment whose home this is, at the slot where it lies: segment (difference), slot.
    pub(super) const MOVED: u8 = 32;
    /// Another volume than the row before: which.
    pub(super) const VOLUME: u8 = 64;
    /// Another owner than the row before: the difference.
    pub(super) const OWNER: u8 = 128;
}

/// What the next row of a part is expected to say.
#[derive(Clone, Copy, Debug)]
struct Expected {
    home: u32,
    volume: u16,
    segment: u32,
    end: u32,
    units: u32,
    owner: u64,
    birth: u64,
}

impl Expected {
    const fn first(home: u32) -> Self {
        Self { home, volume: 0, segment: home, end: 0, units: 0, owner: 0, birth: 0 }
    }

    fn put(&mut self, row: &TableRow, out: &mut Vec<u8>) {
        let (slot, volume) = (u32::from(row.oid.slot()), row.oid.volume());
        let flag = |bit, set: bool| if set { bit } else { 0 };
        let moved = row.oid.segment() != self.home || slot != row.offset_units;
        let first = row.kind as u8
            | flag(bits::GAP, row.offset_units != self.end)
            | flag(bits::UNITS, row.units() != self.units)
            | flag(bits::MOVED, moved)
            | flag(bits::VOLUME, volume != self.volume)
            | flag(bits::OWNER, row.owner != self.owner);
        out.push(first);
        if row.offset_units != self.end {
            // Rows ascend; what does not is not found again, and decoding refuses it.
            varint::put(out, row.offset_units.wrapping_sub(self.end).into());
        }
        if row.units() != self.units {
            varint::put(out, row.units().into());
        }
        if moved {
            varint::put(out, varint::fold(i64::from(row.oid.segment()) - i64::from(self.segment)));
            varint::put(out, slot.into());
        }
        if volume != self.volume {
            out.extend_from_slice(&volume.to_le_bytes());
        }
        if row.owner != self.owner {
            varint::put(out, varint::fold(row.owner.wrapping_sub(self.owner).cast_signed()));
        }
        varint::put(out, varint::fold(row.birth.0.wrapping_sub(self.birth).cast_signed()));
        out.extend_from_slice(&row.crc.to_le_bytes());
        self.after(row);
    }

    fn after(&mut self, row: &TableRow) {
        self.volume = row.oid.volume();
        self.segment = row.oid.segment();
        self.end = row.offset_units.wrapping_add(row.units());
        self.units = row.units();
        self.owner = row.owner;
        self.birth = row.birth.0;
    }

    fn take(&mut self, bytes: &mut &[u8]) -> Result<TableRow, LayoutError> {
        let structure = "table row";
        let bad = |field, found: u64| LayoutError::Field { structure, field, found };
        let first = *bytes.split_off_first().ok_or_else(|| short(structure, 1, 0))?;
        let has = |bit| first & bit != 0;
        let mut number = |field, bit, expected: u64| match has(bit) {
            true => varint::take(bytes).filter(|found| *found != expected).ok_or_else(|| bad(field, 0)),
            false => Ok(expected),
        };
        let gap = number("offset", bits::GAP, 0)?;
        let units = number("units", bits::UNITS, self.units.into())?;
        let small = |field, found: u64| u32::try_from(found).map_err(|_| bad(field, found));
        let offset_units = small("offset", u64::from(self.end).saturating_add(gap))?;
        let stored_bytes = small("units", units.saturating_mul(u64::from(UNIT)))?;
        if stored_bytes == 0 || offset_units.checked_add(stored_bytes / UNIT).is_none() {
            return Err(bad("units", units));
        }
        let (segment, slot) = if has(bits::MOVED) {
            let by = varint::unfold(varint::take(bytes).ok_or_else(|| bad("segment", 0))?);
            let segment = i64::from(self.segment).checked_add(by).and_then(|number| u32::try_from(number).ok());
            let segment = segment.ok_or_else(|| bad("segment", by.cast_unsigned()))?;
            let slot = varint::take(bytes).ok_or_else(|| bad("slot", 0))?;
            if segment == self.home && slot == u64::from(offset_units) {
                return Err(bad("slot", slot));
            }
            (segment, slot)
        } else {
            (self.home, offset_units.into())
        };
        let slot = u16::try_from(slot).map_err(|_| bad("slot", slot))?;
        let mut volume = self.volume;
        if has(bits::VOLUME) {
            let (found, rest) = bytes.split_first_chunk().ok_or_else(|| short(structure, 2, bytes.len()))?;
            (volume, *bytes) = (u16::from_le_bytes(*found), rest);
            if volume == self.volume {
                return Err(bad("volume", volume.into()));
            }
        }
        let mut by = |field, present, may_be_zero| match present {
            true => varint::take(bytes)
                .filter(|by| may_be_zero || *by != 0)
                .map(varint::unfold)
                .ok_or_else(|| bad(field, 0)),
            false => Ok(0),
        };
        let owner = self.owner.wrapping_add(by("owner", has(bits::OWNER), false)?.cast_unsigned());
        let birth = Hlc(self.birth.wrapping_add(by("birth", true, true)?.cast_unsigned()));
        let (crc, rest) = bytes.split_first_chunk().ok_or_else(|| short(structure, 4, bytes.len()))?;
        *bytes = rest;
        let row = TableRow {
            oid: Oid::new(volume, segment, slot),
            birth,
            stored_bytes,
            crc: u32::from_le_bytes(*crc),
            offset_units,
            kind: kind_of(structure, first & bits::KIND)?,
            owner,
        };
        self.after(&row);
        Ok(row)
    }
}

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

pub(crate) fn kind_of(structure: &'static str, value: u8) -> Result<ReferenceKind, LayoutError> {
    Ok(match value {
        1 => ReferenceKind::Node,
        2 => ReferenceKind::Extent,
        3 => ReferenceKind::Batch,
        4 => ReferenceKind::Roots,
        found => return Err(LayoutError::Unknown { structure, what: "kind", found: found.into() }),
    })
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

fn short(structure: &'static str, expected: usize, found: usize) -> LayoutError {
    LayoutError::Short { structure, expected, found }
}

/// The reserved field, and all of the unit behind the fields.
fn check_reserved(structure: &'static str, reserved: U32, unit: &[u8]) -> Result<(), LayoutError> {
    let behind = unit.get(FIELDS_BYTES..UNIT_BYTES).unwrap_or_default();
    if reserved.get() != 0 || behind.iter().any(|byte| *byte != 0) {
        return Err(LayoutError::Field { structure, field: "reserved", found: 1 });
    }
    Ok(())
}

/// Puts `fields` into a unit and its seeded checksum at `crc_at`.
fn seal_unit(fields: &[u8], crc_at: usize, seed: &[u8; 16], position: u64) -> [u8; UNIT_BYTES] {
    let mut out = [0; UNIT_BYTES];
    for (to, from) in out.iter_mut().zip(fields) {
        *to = *from;
    }
    let crc = seeded(seed, position, &out);
    if let Some(field) = out.get_mut(crc_at..crc_at + 4) {
        field.copy_from_slice(&crc.to_le_bytes());
    }
    out
}

fn check_unit(
    bytes: &[u8],
    structure: &'static str,
    magic: u64,
    crc_at: usize,
    seed: &[u8; 16],
    position: u64,
) -> Result<(), LayoutError> {
    let mut unit = [0; UNIT_BYTES];
    unit.copy_from_slice(bytes.get(..UNIT_BYTES).ok_or_else(|| short(structure, UNIT_BYTES, bytes.len()))?);
    let found = unit.first_chunk().map_or(0, |first| u64::from_le_bytes(*first));
    if found != magic {
        return Err(LayoutError::Magic { structure, expected: magic, found });
    }
    let mut expected = [0; 4];
    if let Some(field) = unit.get_mut(crc_at..crc_at + 4) {
        expected.copy_from_slice(field);
        field.fill(0);
    }
    let (expected, found) = (u32::from_le_bytes(expected), seeded(seed, position, &unit));
    if expected != found {
        return Err(LayoutError::Checksum { structure, expected, found });
    }
    Ok(())
}

/// For the documentation; see [`crate::fields`].
pub(crate) const LAYOUTS: &[Structure] = &[
    structure!(
        "segment header",
        RawHeader { magic, crc, format, seed, segment, container, volume, stream, flags, reserved, birth_low, opening }
    ),
    structure!(
        "segment footer",
        RawFooter {
            magic,
            crc,
            segment,
            last_part,
            objects,
            used_units,
            reserved,
            digest,
            birth_low,
            birth_high,
            opening
        }
    ),
    structure!("table part header", RawPart { magic, crc, segment, previous, count, bytes, opening }),
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            seed: [9; 16],
            volume: 1,
            segment: 77,
            container: 5,
            stream: 2,
            flags: 0,
            birth_low: Hlc(3),
            opening: 11,
        }
    }

    fn part() -> TablePart {
        let row = |n: u16| TableRow {
            oid: Oid::new(1, 77, n),
            birth: Hlc(5),
            stored_bytes: 512,
            crc: 1,
            offset_units: n.into(),
            kind: ReferenceKind::Extent,
            owner: 8,
        };
        TablePart { segment: 77, previous: 3, opening: 11, rows: (8..30).map(row).collect() }
    }

    #[test]
    fn header_and_footer_hold_at_their_position_in_their_store_only() {
        let unit = header().encode(4096);
        assert_eq!(SegmentHeader::decode(&unit, &[9; 16], 4096), Ok(header()));
        assert!(SegmentHeader::decode(&unit, &[9; 16], 8192).is_err());
        assert!(SegmentHeader::decode(&unit, &[8; 16], 4096).is_err());
        let footer = SegmentFooter {
            segment: 77,
            last_part: 9,
            objects: 4,
            used_units: 40,
            digest: 6,
            birth_low: Hlc(1),
            birth_high: Hlc(2),
            opening: 11,
        };
        let unit = footer.encode(&[9; 16], 512);
        assert_eq!(SegmentFooter::decode(&unit, &[9; 16], 512), Ok(footer));
        assert!(SegmentFooter::decode(&unit, &[9; 16], 1024).is_err());
    }

    #[test]
    fn table_parts_round_trip_and_tell_their_length() {
        let bytes = part().encode();
        assert_eq!(TablePart::units_of(&bytes[..512]), Ok(bytes.len() / 512));
        assert_eq!(TablePart::decode(&bytes), Ok(part()));
        // Written down: the first row says all, those like it their checksum and nothing else.
        let first = [2 | bits::GAP | bits::UNITS | bits::VOLUME | bits::OWNER, 8, 1, 1, 0, 16, 10, 1, 0, 0, 0];
        assert_eq!(bytes[32..43], first);
        assert_eq!(bytes[43..49], [2, 0, 1, 0, 0, 0]);
        assert_eq!(bytes[20], 11 + 21 * 6);
    }

    #[test]
    fn rows_of_data_are_short() {
        let mut rows = PartRows::new(0);
        for n in 0..1000_u32 {
            // Survivors: blocks of all segments, births over a day, a file each.
            let oid = Oid::new(1, n * 7919 % 14_000, u16::try_from(n * 131 % 8192).unwrap());
            let birth = Hlc((1_700_000_000_000 + u64::from(n) * 7_919_993 % 86_400_000) << 16);
            let (kind, owner) = (ReferenceKind::Extent, u64::from(n * 31 % 20_000));
            rows.push(&TableRow { oid, birth, stored_bytes: 4096, crc: n, offset_units: 8 + n * 8, kind, owner });
        }
        assert!(rows.bytes.len() < 1000 * 21, "{}", rows.bytes.len());
    }

    #[test]
    fn a_row_moved_by_the_cleaner_keeps_its_digest() {
        let row = part().rows[0];
        assert_eq!(row.digest(), TableRow { offset_units: 99, ..row }.digest());
        assert_ne!(row.digest(), TableRow { crc: 99, ..row }.digest());
    }

    proptest! {
        #[test]
        fn any_rows_round_trip(
            segment in 0u32..3,
            rows in proptest::collection::vec((0u32..3, 0u32..3, 1u32..4, any::<(u64, u64, u32)>(), 0u16..3, any::<bool>()), 0..40)
        ) {
            let mut at = 0;
            let mut row = |(gap, home, units, (birth, owner, crc), volume, node): (u32, u32, u32, (u64, u64, u32), u16, bool)| {
                let offset_units = at + gap * 1000;
                at = offset_units + units;
                let kind = if node { ReferenceKind::Node } else { ReferenceKind::Extent };
                let slot = u16::try_from(if home == segment { offset_units } else { crc % 65_536 }).unwrap_or(3);
                let oid = Oid::new(volume, home, slot);
                TableRow { oid, birth: Hlc(birth), stored_bytes: units * UNIT, crc, offset_units, kind, owner }
            };
            let rows: Vec<TableRow> = rows.into_iter().map(&mut row).collect();
            let part = TablePart { segment, previous: 7, opening: 3, rows };
            let bytes = part.encode();
            prop_assert!(bytes.len() / UNIT_BYTES <= TablePart::units_max(part.rows.len()));
            prop_assert_eq!(TablePart::decode(&bytes), Ok(part));
        }

        #[test]
        fn damage_in_a_table_part_is_seen(at in 0usize..900, flip in 1u8..) {
            let mut bytes = part().encode();
            let used = TablePart::HEADER_BYTES + usize::from(bytes[20]);
            bytes[at % used] ^= flip;
            prop_assert!(TablePart::decode(&bytes).is_err());
        }

        #[test]
        fn decoders_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1200)) {
            let _ = TablePart::decode(&bytes);
            let _ = TablePart::units_of(&bytes);
            let _ = SegmentHeader::decode(&bytes, &[0; 16], 0);
            let _ = SegmentFooter::decode(&bytes, &[0; 16], 0);
        }
    }
}
