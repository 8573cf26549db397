//! What a node stores to point at an object.

use crate::fields::{Structure, structure};
use crate::{Hlc, LayoutError, Oid};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Flag bits of a reference to a directory's tree, the OR over what is below it (DESIGN 7, INV-50).
pub mod flags {
    /// Names of files with several names are below, in this realm.
    pub const LINKS: u8 = 1;
    /// A realm's entry is below.
    pub const REALMS: u8 = 2;
    /// A directory with snapshots is (or was) below.
    pub const SNAPSHOTS: u8 = 4;
    /// A child territory is below. Reserved: one host has none.
    pub const EXITS: u8 = 8;
    /// An object of another volume is below. Reserved.
    pub const FOREIGN: u8 = 16;
    /// What this version knows.
    pub const KNOWN: u8 = LINKS | REALMS | SNAPSHOTS;
}

/// What an object is to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ReferenceKind {
    /// Metadata with a generic reference table.
    Node = 1,
    /// File data.
    Extent = 2,
    /// Part of a checkpoint's batch.
    Batch = 3,
    /// The client's roots.
    Roots = 4,
}

/// How stored bytes become logical bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Encoding {
    /// As they are.
    Plain = 0,
}

/// A reference: which object, how long, when born, and how it is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// The object.
    pub oid: Oid,
    /// HLC of the newest change in it or in anything it references (INV-02).
    pub birth: Hlc,
    /// Bytes in the segment, a multiple of 512.
    pub stored_bytes: u32,
    /// Bytes after decoding.
    pub logical_bytes: u32,
    /// CRC32C of the stored bytes; 0 for extents, whose slices carry one per 4 KiB.
    pub crc: u32,
    /// What it is.
    pub kind: ReferenceKind,
    /// See [`flags`].
    pub flags: u8,
    /// How it is encoded.
    pub encoding: Encoding,
}

impl std::hash::Hash for Reference {
    /// The id says nearly all.
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.oid.hash(state);
    }
}

/// A [`Reference`] as it lies on disk.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RawReference {
    oid: U64,
    birth: U64,
    stored_bytes: U32,
    logical_bytes: U32,
    crc: U32,
    kind: u8,
    flags: u8,
    encoding: u8,
    reserved: u8,
}

const _: () = assert!(size_of::<RawReference>() == Reference::BYTES);
const _: () = assert!(std::mem::offset_of!(RawReference, crc) == 24);
const _: () = assert!(std::mem::offset_of!(RawReference, kind) == 28);

impl Reference {
    /// Bytes on disk.
    pub const BYTES: usize = 32;

    /// Of file data stored as it is, `stored_bytes` long; its checksums stand beside the reference, one for each 4 KiB.
    #[must_use]
    pub const fn extent(oid: Oid, birth: Hlc, stored_bytes: u32) -> Self {
        Self {
            oid,
            birth,
            stored_bytes,
            logical_bytes: stored_bytes,
            crc: 0,
            kind: ReferenceKind::Extent,
            flags: 0,
            encoding: Encoding::Plain,
        }
    }

    /// Bytes on disk.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let raw = RawReference {
            oid: self.oid.0.into(),
            birth: self.birth.0.into(),
            stored_bytes: self.stored_bytes.into(),
            logical_bytes: self.logical_bytes.into(),
            crc: self.crc.into(),
            kind: self.kind as u8,
            flags: self.flags,
            encoding: self.encoding as u8,
            reserved: 0,
        };
        zerocopy::transmute!(raw)
    }

    /// From bytes on disk. Refuses what this version does not know.
    pub fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let structure = "reference";
        let (raw, _) = RawReference::read_from_prefix(bytes).map_err(|_| LayoutError::Short {
            structure,
            expected: Self::BYTES,
            found: bytes.len(),
        })?;
        let unknown = |what, found: u8| LayoutError::Unknown { structure, what, found: found.into() };
        let kind = match raw.kind {
            1 => ReferenceKind::Node,
            2 => ReferenceKind::Extent,
            3 => ReferenceKind::Batch,
            4 => ReferenceKind::Roots,
            other => return Err(unknown("kind", other)),
        };
        if raw.encoding != 0 {
            return Err(unknown("encoding", raw.encoding));
        }
        if raw.flags & !flags::KNOWN != 0 {
            return Err(unknown("flags", raw.flags));
        }
        let stored_bytes = raw.stored_bytes.get();
        let field = |field, found| LayoutError::Field { structure, field, found };
        if raw.reserved != 0 {
            return Err(field("reserved", raw.reserved.into()));
        }
        if raw.oid.get() == 0 {
            return Err(field("oid", 0));
        }
        if stored_bytes == 0 || stored_bytes % crate::UNIT != 0 {
            return Err(field("stored bytes", stored_bytes.into()));
        }
        if raw.logical_bytes.get() > stored_bytes {
            return Err(field("logical bytes", raw.logical_bytes.get().into()));
        }
        Ok(Self {
            oid: Oid(raw.oid.get()),
            birth: Hlc(raw.birth.get()),
            stored_bytes,
            logical_bytes: raw.logical_bytes.get(),
            crc: raw.crc.get(),
            kind,
            flags: raw.flags,
            encoding: Encoding::Plain,
        })
    }

    /// 512-byte units that the object takes.
    #[must_use]
    pub const fn units(&self) -> u32 {
        self.stored_bytes / crate::UNIT
    }
}

/// For the documentation; see [`crate::fields`].
pub(crate) const LAYOUTS: &[Structure] = &[structure!(
    "reference",
    RawReference { oid, birth, stored_bytes, logical_bytes, crc, kind, flags, encoding, reserved }
)];

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Reference {
        Reference {
            oid: Oid::new(7, 9, 11),
            birth: Hlc(0x1234_5679),
            stored_bytes: 1024,
            logical_bytes: 1000,
            crc: 0xdead_beef,
            kind: ReferenceKind::Node,
            flags: flags::LINKS | flags::SNAPSHOTS,
            encoding: Encoding::Plain,
        }
    }

    #[test]
    fn golden_reference() {
        let bytes = sample().encode();
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "0b000900000007007956341200000000 00040000e8030000efbeadde01050000".replace(' ', ""));
        assert_eq!(Reference::decode(&bytes), Ok(sample()));
    }

    #[test]
    fn unknown_and_reserved_values_are_refused() {
        for (at, value) in [(28, 9), (29, 0x80), (30, 1), (31, 1), (16, 1)] {
            let mut bytes = sample().encode();
            bytes[at] = value;
            assert!(Reference::decode(&bytes).is_err(), "byte {at}");
        }
        assert!(Reference::decode(&[0; 31]).is_err());
    }
}
