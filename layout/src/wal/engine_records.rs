//! Bodies of the engine's own records.

use crate::directory_page::Bounds;
use crate::fields::{Structure, structure};
use crate::{Hlc, LayoutError, Lsn, Reference, SLOTS};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Body of SEGMENT_OPENED: objects may be born in this segment from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentOpened {
    /// Segment number.
    pub number: u32,
    /// Stream: 0 nodes, 1 hot data, 2 cold data.
    pub stream: u8,
}

/// Body of SEGMENT_SEALED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSealed {
    /// Segment number.
    pub number: u32,
    /// Bytes used.
    pub length: u32,
    /// Digest over its objects.
    pub digest: u64,
}

/// Body of the local SEGMENT_PLACED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentPlaced {
    /// Segment number.
    pub number: u32,
    /// Container.
    pub container: u32,
}

/// Body of the local RELOCATED: units of a segment whose write failed lie elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relocated {
    /// Segment number.
    pub number: u32,
    /// First unit in the segment.
    pub slot: u32,
    /// Units.
    pub units: u32,
    /// Container in which they lie.
    pub container: u32,
    /// First unit in that container.
    pub offset_units: u32,
}

/// Body of the local CLOSED: the mount that wrote it appends nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The largest HLC that it drew.
    pub hlc: Hlc,
    /// Sequence of the superblock that ruled then. The numbers count only while it does: whoever published since may have handed out others.
    pub superblock: u64,
    /// The first numbers that it did not hand out.
    pub next: Bounds,
}

/// Body of CHECKPOINT. It names no position in the ring: a shared record depends on no framing (INV-39); recovery finds the block of the freeze LSN itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointBody {
    /// Number, from 1.
    pub number: u64,
    /// First LSN that it does not contain.
    pub freeze: Lsn,
    /// Stream hash there; 0 while the volume has one replica.
    pub stream_hash: u64,
    /// Checkpoint up to which batches were merged when it was written.
    pub merged_through: u64,
    /// Numbers handed out.
    pub bounds: Bounds,
    /// Oldest checkpoint whose roots are retained; 0 = none.
    pub history_floor: u64,
    /// Position in the drop queue.
    pub drop_position: u64,
    /// Every birth in it is at most this.
    pub hlc: Hlc,
    /// The client's roots object.
    pub roots: Reference,
    /// Its second copy.
    pub roots_twin: Reference,
    /// Parts of the batch.
    pub batch: Vec<Reference>,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawOpened {
    number: U32,
    stream: u8,
    reserved: [u8; 3],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawSealed {
    number: U32,
    length: U32,
    digest: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawPlaced {
    number: U32,
    container: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRelocated {
    number: U32,
    slot: U32,
    units: U32,
    container: U32,
    offset_units: U32,
    reserved: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawClosed {
    hlc: U64,
    superblock: U64,
    /// Segment, inode, realm, territory, pin.
    next: [U64; 5],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawCheckpoint {
    number: U64,
    freeze: U64,
    stream_hash: U64,
    merged_through: U64,
    /// Segment, inode, realm, territory, pin.
    bounds: [U64; 5],
    history_floor: U64,
    drop_position: U64,
    hlc: U64,
    roots: [u8; Reference::BYTES],
    roots_twin: [u8; Reference::BYTES],
    /// References that follow.
    batch_parts: U32,
    reserved: U32,
}

const _: () = assert!(size_of::<RawOpened>() == 8 && size_of::<RawPlaced>() == 8 && size_of::<RawSealed>() == 16);
const _: () = assert!(size_of::<RawRelocated>() == 24 && size_of::<RawClosed>() == 56);
const _: () = assert!(size_of::<RawCheckpoint>() == 168);
const _: () = assert!(std::mem::offset_of!(RawCheckpoint, roots) == 96);

/// Exactly the bytes of a body of fixed size.
fn exactly<T: FromBytes>(structure: &'static str, bytes: &[u8]) -> Result<T, LayoutError> {
    T::read_from_bytes(bytes).map_err(|_| LayoutError::Short {
        structure,
        expected: size_of::<T>(),
        found: bytes.len(),
    })
}

impl SegmentOpened {
    /// Bytes of the body.
    #[must_use]
    pub fn encode(&self) -> [u8; 8] {
        zerocopy::transmute!(RawOpened { number: self.number.into(), stream: self.stream, reserved: [0; 3] })
    }
    /// From the body.
    ///
    /// # Errors
    /// Wrong length, or reserved bytes in use.
    pub fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let structure = "SEGMENT_OPENED";
        let raw: RawOpened = exactly(structure, bytes)?;
        if raw.reserved != [0; 3] {
            return Err(LayoutError::Field { structure, field: "reserved", found: 1 });
        }
        Ok(Self { number: raw.number.get(), stream: raw.stream })
    }
}

impl SegmentSealed {
    /// Bytes of the body.
    #[must_use]
    pub fn encode(&self) -> [u8; 16] {
        let raw = RawSealed { number: self.number.into(), length: self.length.into(), digest: self.digest.into() };
        zerocopy::transmute!(raw)
    }
    /// From the body.
    ///
    /// # Errors
    /// Wrong length.
    pub fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let raw: RawSealed = exactly("SEGMENT_SEALED", bytes)?;
        Ok(Self { number: raw.number.get(), length: raw.length.get(), digest: raw.digest.get() })
    }
}

impl SegmentPlaced {
    /// Bytes of the body.
    #[must_use]
    pub fn encode(&self) -> [u8; 8] {
        zerocopy::transmute!(RawPlaced { number: self.number.into(), container: self.container.into() })
    }
    /// From the body.
    ///
    /// # Errors
    /// Wrong length.
    pub fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let raw: RawPlaced = exactly("SEGMENT_PLACED", bytes)?;
        Ok(Self { number: raw.number.get(), container: raw.container.get() })
    }
}

impl Relocated {
    /// Bytes of the body.
    #[must_use]
    pub fn encode(&self) -> [u8; 24] {
        zerocopy::transmute!(RawRelocated {
            number: self.number.into(),
            slot: self.slot.into(),
            units: self.units.into(),
            container: self.container.into(),
            offset_units: self.offset_units.into(),
            reserved: 0.into(),
        })
    }
    /// From the body.
    ///
    /// # Errors
    /// Wrong length, no units, units beyond the last slot of a segment, or reserved bytes in use.
    pub fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let structure = "RELOCATED";
        let raw: RawRelocated = exactly(structure, bytes)?;
        if raw.units.get() == 0 {
            return Err(LayoutError::Field { structure, field: "units", found: 0 });
        }
        for first in [raw.slot, raw.offset_units] {
            let end = u64::from(first.get()) + u64::from(raw.units.get());
            if end > SLOTS.into() {
                return Err(LayoutError::Field { structure, field: "end", found: end });
            }
        }
        if raw.reserved.get() != 0 {
            return Err(LayoutError::Field { structure, field: "reserved", found: raw.reserved.get().into() });
        }
        Ok(Self {
            number: raw.number.get(),
            slot: raw.slot.get(),
            units: raw.units.get(),
            container: raw.container.get(),
            offset_units: raw.offset_units.get(),
        })
    }
}

impl Closed {
    /// Bytes of the body.
    #[must_use]
    pub fn encode(&self) -> [u8; 56] {
        let n = &self.next;
        zerocopy::transmute!(RawClosed {
            hlc: self.hlc.0.into(),
            superblock: self.superblock.into(),
            next: [n.segment, n.inode, n.realm, n.territory, n.pin].map(U64::new),
        })
    }
    /// From the body.
    ///
    /// # Errors
    /// Wrong length.
    pub fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let raw: RawClosed = exactly("CLOSED", bytes)?;
        let [segment, inode, realm, territory, pin] = raw.next.map(U64::get);
        let next = Bounds { segment, inode, realm, territory, pin };
        Ok(Self { hlc: Hlc(raw.hlc.get()), superblock: raw.superblock.get(), next })
    }
}

impl CheckpointBody {
    /// Bytes of a body with so many batch parts.
    #[must_use]
    pub const fn bytes(batch_parts: usize) -> usize {
        168_usize.saturating_add(batch_parts.saturating_mul(Reference::BYTES))
    }

    /// Bytes of the body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let b = &self.bounds;
        let raw = RawCheckpoint {
            number: self.number.into(),
            freeze: self.freeze.0.into(),
            stream_hash: self.stream_hash.into(),
            merged_through: self.merged_through.into(),
            bounds: [b.segment, b.inode, b.realm, b.territory, b.pin].map(U64::from),
            history_floor: self.history_floor.into(),
            drop_position: self.drop_position.into(),
            hlc: self.hlc.0.into(),
            roots: self.roots.encode(),
            roots_twin: self.roots_twin.encode(),
            batch_parts: u32::try_from(self.batch.len()).unwrap_or(u32::MAX).into(),
            reserved: 0.into(),
        };
        let mut bytes = Vec::with_capacity(Self::bytes(self.batch.len()));
        bytes.extend_from_slice(raw.as_bytes());
        for part in &self.batch {
            bytes.extend_from_slice(&part.encode());
        }
        bytes
    }

    /// From the body.
    ///
    /// # Errors
    /// Wrong length, a bad reference, or a field that no writer produces.
    pub fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let structure = "CHECKPOINT";
        let short = |expected| LayoutError::Short { structure, expected, found: bytes.len() };
        let field = |field, found| LayoutError::Field { structure, field, found };
        let (raw, rest) = RawCheckpoint::read_from_prefix(bytes).map_err(|_| short(168))?;
        let parts = usize::try_from(raw.batch_parts.get()).unwrap_or(usize::MAX);
        if rest.len() != parts.saturating_mul(Reference::BYTES) {
            return Err(short(Self::bytes(parts)));
        }
        if raw.reserved.get() != 0 {
            return Err(field("reserved", raw.reserved.get().into()));
        }
        if raw.number.get() == 0 {
            return Err(field("number", 0));
        }
        let batch = rest.chunks_exact(Reference::BYTES).map(Reference::decode).collect::<Result<_, _>>()?;
        let [segment, inode, realm, territory, pin] = raw.bounds.map(|value| value.get());
        Ok(Self {
            number: raw.number.get(),
            freeze: Lsn(raw.freeze.get()),
            stream_hash: raw.stream_hash.get(),
            merged_through: raw.merged_through.get(),
            bounds: Bounds { segment, inode, realm, territory, pin },
            history_floor: raw.history_floor.get(),
            drop_position: raw.drop_position.get(),
            hlc: Hlc(raw.hlc.get()),
            roots: Reference::decode(&raw.roots)?,
            roots_twin: Reference::decode(&raw.roots_twin)?,
            batch,
        })
    }
}

/// For the documentation; see [`crate::fields`].
pub(crate) const ENGINE_RECORD_LAYOUTS: &[Structure] = &[
    structure!("SEGMENT_OPENED body", RawOpened { number, stream, reserved }),
    structure!("SEGMENT_SEALED body", RawSealed { number, length, digest }),
    structure!("SEGMENT_PLACED body", RawPlaced { number, container }),
    structure!("RELOCATED body", RawRelocated { number, slot, units, container, offset_units, reserved }),
    structure!("CLOSED body", RawClosed { hlc, superblock, next }),
    structure!(
        "CHECKPOINT body",
        RawCheckpoint {
            number,
            freeze,
            stream_hash,
            merged_through,
            bounds,
            history_floor,
            drop_position,
            hlc,
            roots,
            roots_twin,
            batch_parts,
            reserved
        }
    ),
];
