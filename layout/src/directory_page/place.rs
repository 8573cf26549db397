//! Where a system page or object lies.

use crate::fields::{Structure, structure};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Where a system page or object lies: not an object id, since it is true of one store only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Place {
    /// Container.
    pub container: u32,
    /// Start in the container, in units of 512 bytes.
    pub units: u32,
    /// Bytes; 0 = nothing is there.
    pub stored_bytes: u32,
    /// CRC32C of these bytes.
    pub crc: u32,
}

/// A [`Place`] as it lies on disk, for use in other structures.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RawPlace {
    /// Container.
    container: U32,
    /// Units from its start.
    units: U32,
    /// Bytes.
    stored_bytes: U32,
    /// CRC32C.
    crc: U32,
}

const _: () = assert!(size_of::<RawPlace>() == Place::BYTES);

impl Place {
    /// Bytes on disk.
    pub const BYTES: usize = 16;
    /// Nothing.
    pub const NONE: Self = Self { container: 0, units: 0, stored_bytes: 0, crc: 0 };

    /// Is there nothing?
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.stored_bytes == 0
    }
    /// As it lies on disk.
    #[must_use]
    pub fn raw(&self) -> RawPlace {
        RawPlace {
            container: self.container.into(),
            units: self.units.into(),
            stored_bytes: self.stored_bytes.into(),
            crc: self.crc.into(),
        }
    }
}

impl From<RawPlace> for Place {
    fn from(raw: RawPlace) -> Self {
        Self {
            container: raw.container.get(),
            units: raw.units.get(),
            stored_bytes: raw.stored_bytes.get(),
            crc: raw.crc.get(),
        }
    }
}

/// For the documentation; see [`crate::fields`].
pub(super) const LAYOUT: Structure = structure!("place", RawPlace { container, units, stored_bytes, crc });
