//! One row of a table part: what an object, or a piece of one, is. A row of 4 KiB of data takes 10 to 20 bytes: each says only what the row before it does not let expect.

use super::unit::short;
use crate::varint;
use crate::{Hlc, LayoutError, Oid, ReferenceKind, UNIT};

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
pub(super) mod bits {
    /// [`super::ReferenceKind`].
    pub(in crate::segment) const KIND: u8 = 7;
    /// The row starts later than where the one before it ends: by how many units.
    pub(in crate::segment) const GAP: u8 = 8;
    /// Other units than the row before: how many.
    pub(in crate::segment) const UNITS: u8 = 16;
    /// Not of the segment whose home this is, at the slot where it lies: segment (difference), slot.
    pub(in crate::segment) const MOVED: u8 = 32;
    /// Another volume than the row before: which.
    pub(in crate::segment) const VOLUME: u8 = 64;
    /// Another owner than the row before: the difference.
    pub(in crate::segment) const OWNER: u8 = 128;
}

/// What the next row of a part is expected to say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    pub(super) home: u32,
    volume: u16,
    segment: u32,
    end: u32,
    units: u32,
    owner: u64,
    birth: u64,
}

impl Expected {
    pub(super) const fn first(home: u32) -> Self {
        Self { home, volume: 0, segment: home, end: 0, units: 0, owner: 0, birth: 0 }
    }

    pub(super) fn put(&mut self, row: &TableRow, out: &mut Vec<u8>) {
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

    pub(super) fn take(&mut self, bytes: &mut &[u8]) -> Result<TableRow, LayoutError> {
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

pub(crate) fn kind_of(structure: &'static str, value: u8) -> Result<ReferenceKind, LayoutError> {
    Ok(match value {
        1 => ReferenceKind::Node,
        2 => ReferenceKind::Extent,
        3 => ReferenceKind::Batch,
        4 => ReferenceKind::Roots,
        found => return Err(LayoutError::Unknown { structure, what: "kind", found: found.into() }),
    })
}
