//! Segments: a header, objects packed in units of 512 bytes, table parts that say what they are, a footer. A scan of them rebuilds every index.
//!
//! ```text
//! | header (one unit, then zeros to 4096) | objects and table parts ... | footer (last unit) |
//! table part: | header 32 | row 40 ... | zeros to 512 |
//! ```
//!
//! Header and footer are true of one container of one store, so their checksums are seeded with its seed uuid and their position. Table parts are shipped with the
//! objects and are not; the sequence of opening in them tells a part of this life of the container from one of an earlier life.

use crate::checksum::{crc32c_pieces, seeded};
use crate::fields::{Structure, structure};
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

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRow {
    oid: U64,
    birth: U64,
    stored_bytes: U32,
    crc: U32,
    offset: U32,
    kind: u8,
    reserved: [u8; 3],
    owner: U64,
}

const _: () = assert!(size_of::<RawRow>() == TableRow::BYTES);
const _: () = assert!(std::mem::offset_of!(RawRow, owner) == 32);

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
    /// Bytes on disk.
    pub const BYTES: usize = 40;

    /// Units that it takes.
    #[must_use]
    pub const fn units(&self) -> u32 {
        self.stored_bytes / UNIT
    }
    /// Its share in a segment's digest: independent of where it lies, and of what is a hint (birth, owner) and may be known too late for the row (INV-39).
    #[must_use]
    pub fn digest(&self) -> u64 {
        let raw = RawRow { offset: 0.into(), birth: 0.into(), owner: 0.into(), ..self.raw() };
        crate::checksum::hash64(raw.as_bytes())
    }
    fn raw(&self) -> RawRow {
        RawRow {
            oid: self.oid.0.into(),
            birth: self.birth.0.into(),
            stored_bytes: self.stored_bytes.into(),
            crc: self.crc.into(),
            offset: self.offset_units.into(),
            kind: self.kind as u8,
            reserved: [0; 3],
            owner: self.owner.into(),
        }
    }
    fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let structure = "table row";
        let (raw, _) = RawRow::read_from_prefix(bytes).map_err(|_| short(structure, Self::BYTES, bytes.len()))?;
        if raw.reserved != [0; 3] {
            return Err(LayoutError::Field {
                structure,
                field: "reserved",
                found: raw.reserved.map(u64::from).iter().sum(),
            });
        }
        let stored_bytes = raw.stored_bytes.get();
        if stored_bytes == 0 || !stored_bytes.is_multiple_of(UNIT) {
            return Err(LayoutError::Field { structure, field: "stored bytes", found: stored_bytes.into() });
        }
        Ok(Self {
            oid: Oid(raw.oid.get()),
            birth: Hlc(raw.birth.get()),
            stored_bytes,
            crc: raw.crc.get(),
            offset_units: raw.offset.get(),
            kind: kind_of(structure, raw.kind)?,
            owner: raw.owner.get(),
        })
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
    reserved: U32,
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

    /// Units that a part with this many rows takes.
    #[must_use]
    pub const fn units(rows: usize) -> usize {
        (Self::HEADER_BYTES + rows * TableRow::BYTES).div_ceil(UNIT_BYTES)
    }

    /// The part, padded with zeros to a unit.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let raw = RawPart {
            magic: PART_MAGIC.into(),
            crc: 0.into(),
            segment: self.segment.into(),
            previous: self.previous.into(),
            count: u32::try_from(self.rows.len()).unwrap_or(u32::MAX).into(),
            reserved: 0.into(),
            opening: self.opening.into(),
        };
        let mut out = raw.as_bytes().to_vec();
        for row in &self.rows {
            out.extend_from_slice(row.raw().as_bytes());
        }
        let crc = crc32c_pieces(&[&out]);
        if let Some(field) = out.get_mut(4..8) {
            field.copy_from_slice(&crc.to_le_bytes());
        }
        out.resize(Self::units(self.rows.len()) * UNIT_BYTES, 0);
        out
    }

    /// Units of the part that starts with `bytes` (at least one unit), from its header alone. The rest may still not verify.
    pub fn units_of(bytes: &[u8]) -> Result<usize, LayoutError> {
        let raw = Self::header(bytes)?;
        Ok(Self::units(raw.count.get() as usize))
    }

    fn header(bytes: &[u8]) -> Result<RawPart, LayoutError> {
        let structure = "table part";
        let (raw, _) =
            RawPart::read_from_prefix(bytes).map_err(|_| short(structure, Self::HEADER_BYTES, bytes.len()))?;
        if raw.magic.get() != PART_MAGIC {
            return Err(LayoutError::Magic { structure, expected: PART_MAGIC.into(), found: raw.magic.get().into() });
        }
        if raw.reserved.get() != 0 {
            return Err(LayoutError::Field { structure, field: "reserved", found: raw.reserved.get().into() });
        }
        if raw.count.get() > 1 << 20 {
            return Err(LayoutError::Field { structure, field: "count", found: raw.count.get().into() });
        }
        Ok(raw)
    }

    /// From bytes that start with the part and may go on behind it.
    pub fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let structure = "table part";
        let raw = Self::header(bytes)?;
        let len = Self::HEADER_BYTES + raw.count.get() as usize * TableRow::BYTES;
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
        Ok(Self {
            segment: raw.segment.get(),
            previous: raw.previous.get(),
            opening: raw.opening.get(),
            rows: rows.chunks_exact(TableRow::BYTES).map(TableRow::decode).collect::<Result<_, _>>()?,
        })
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
    structure!("table row", RawRow { oid, birth, stored_bytes, crc, offset, kind, reserved, owner }),
    structure!("table part header", RawPart { magic, crc, segment, previous, count, reserved, opening }),
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
        assert_eq!(bytes.len(), TablePart::units(22) * 512);
        assert_eq!(TablePart::units_of(&bytes[..512]), Ok(TablePart::units(22)));
        assert_eq!(TablePart::decode(&bytes), Ok(part()));
    }

    #[test]
    fn a_row_moved_by_the_cleaner_keeps_its_digest() {
        let row = part().rows[0];
        assert_eq!(row.digest(), TableRow { offset_units: 99, ..row }.digest());
        assert_ne!(row.digest(), TableRow { crc: 99, ..row }.digest());
    }

    proptest! {
        #[test]
        fn damage_in_a_table_part_is_seen(at in 0usize..900, flip in 1u8..) {
            let mut bytes = part().encode();
            let used = TablePart::HEADER_BYTES + 22 * TableRow::BYTES;
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
