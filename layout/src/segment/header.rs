//! What a container starts with while it holds a segment or survivors.

use super::unit::{UNIT_BYTES, check_reserved, check_unit, seal_unit, short};
use crate::fields::{Structure, structure};
use crate::{Hlc, LayoutError};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// "EVSEGHDR".
pub const HEADER_MAGIC: u64 = u64::from_le_bytes(*b"EVSEGHDR");
/// Flags of a header: survivors of cleaning, system pages.
const FLAGS_KNOWN: u8 = 3;

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

/// For the documentation; see [`crate::fields`].
pub(super) const LAYOUT: Structure = structure!(
    "segment header",
    RawHeader { magic, crc, format, seed, segment, container, volume, stream, flags, reserved, birth_low, opening }
);
