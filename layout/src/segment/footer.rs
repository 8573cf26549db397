//! Last unit of a sealed container.

use super::unit::{UNIT_BYTES, check_reserved, check_unit, seal_unit, short};
use crate::fields::{Structure, structure};
use crate::{Hlc, LayoutError};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// "EVSEGEND".
pub const FOOTER_MAGIC: u64 = u64::from_le_bytes(*b"EVSEGEND");

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

/// For the documentation; see [`crate::fields`].
pub(super) const LAYOUT: Structure = structure!(
    "segment footer",
    RawFooter { magic, crc, segment, last_part, objects, used_units, reserved, digest, birth_low, birth_high, opening }
);
