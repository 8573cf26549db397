//! A row of the segment table: one container.

use super::place::RawPlace;
use super::{Place, ROW_BYTES, field};
use crate::fields::{Structure, structure};
use crate::{Hlc, LayoutError};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const ROW: &str = "segment table row";

/// State of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ContainerState {
    /// Nothing in it.
    Free = 0,
    /// Being filled.
    Open = 1,
    /// Full or closed, with a footer.
    Sealed = 2,
    /// System pages.
    System = 3,
    /// Survivors of cleaning, of several segments.
    Survivors = 4,
}

/// A row of the segment table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContainerRow {
    /// State.
    pub state: ContainerState,
    /// Stream: 0 nodes, 1 hot data, 2 cold data.
    pub stream: u8,
    /// [`ContainerRow::SLOT_MAP`], four bits of heat from [`ContainerRow::HEAT_SHIFT`] on (a hint); the others are reserved and kept as they are.
    pub flags: u16,
    /// Volume of the segment.
    pub volume: u16,
    /// Number of the logical segment that has its home here; 0 = none.
    pub segment: u32,
    /// Units written.
    pub used_units: u32,
    /// Units of live objects.
    pub live_units: u32,
    /// Unit at which the last table part starts; 0 = none.
    pub last_part: u32,
    /// Lowest birth of an object in it.
    pub birth_low: Hlc,
    /// Highest birth.
    pub birth_high: Hlc,
    /// Metadata page of the segment.
    pub metadata: Place,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRow {
    /// [`ContainerState`].
    state: u8,
    /// Stream.
    stream: u8,
    flags: U16,
    volume: U16,
    reserved_0: U16,
    segment: U32,
    used_units: U32,
    live_units: U32,
    last_part: U32,
    birth_low: U64,
    birth_high: U64,
    metadata: RawPlace,
    /// Number of the container.
    container: U32,
    reserved: U32,
}

const _: () = assert!(size_of::<RawRow>() == ROW_BYTES);
const _: () = assert!(std::mem::offset_of!(RawRow, metadata) == 40);
const _: () = assert!(std::mem::offset_of!(RawRow, container) == 56);

impl ContainerRow {
    /// Units of the segment lie elsewhere: its page has moved fragments, which a reader needs.
    pub const SLOT_MAP: u16 = 1;
    /// Where four bits begin that say how soon what lies in the container is expected to die: 0 unknown, 1 soonest. A hint for the cleaner.
    pub const HEAT_SHIFT: u16 = 8;

    /// A free container.
    pub const FREE: Self = Self {
        state: ContainerState::Free,
        stream: 0,
        flags: 0,
        volume: 0,
        segment: 0,
        used_units: 0,
        live_units: 0,
        last_part: 0,
        birth_low: Hlc::ZERO,
        birth_high: Hlc::ZERO,
        metadata: Place::NONE,
    };

    /// Bytes on disk, as the row of this container.
    #[must_use]
    pub fn encode(&self, container: u32) -> [u8; ROW_BYTES] {
        let raw = RawRow {
            state: self.state as u8,
            stream: self.stream,
            flags: self.flags.into(),
            volume: self.volume.into(),
            reserved_0: 0.into(),
            segment: self.segment.into(),
            used_units: self.used_units.into(),
            live_units: self.live_units.into(),
            last_part: self.last_part.into(),
            birth_low: self.birth_low.0.into(),
            birth_high: self.birth_high.0.into(),
            metadata: self.metadata.raw(),
            container: container.into(),
            reserved: 0.into(),
        };
        zerocopy::transmute!(raw)
    }

    /// From bytes on disk: the container's number and its row.
    ///
    /// # Errors
    /// Too few bytes, an unknown state, or reserved bytes in use.
    pub fn decode(bytes: &[u8]) -> Result<(u32, Self), LayoutError> {
        let short = LayoutError::Short { structure: ROW, expected: ROW_BYTES, found: bytes.len() };
        let (raw, _) = RawRow::read_from_prefix(bytes).map_err(|_| short)?;
        let state = match raw.state {
            0 => ContainerState::Free,
            1 => ContainerState::Open,
            2 => ContainerState::Sealed,
            3 => ContainerState::System,
            4 => ContainerState::Survivors,
            other => return Err(LayoutError::Unknown { structure: ROW, what: "state", found: other.into() }),
        };
        if raw.reserved_0.get() != 0 || raw.reserved.get() != 0 {
            return field(ROW, "reserved", 1);
        }
        if raw.live_units.get() > raw.used_units.get() {
            return field(ROW, "live units", raw.live_units.get().into());
        }
        let row = Self {
            state,
            stream: raw.stream,
            flags: raw.flags.get(),
            volume: raw.volume.get(),
            segment: raw.segment.get(),
            used_units: raw.used_units.get(),
            live_units: raw.live_units.get(),
            last_part: raw.last_part.get(),
            birth_low: Hlc(raw.birth_low.get()),
            birth_high: Hlc(raw.birth_high.get()),
            metadata: raw.metadata.into(),
        };
        Ok((raw.container.get(), row))
    }
}

/// For the documentation; see [`crate::fields`].
pub(super) const LAYOUT: Structure = structure!(
    "segment table row",
    RawRow {
        state,
        stream,
        flags,
        volume,
        reserved_0,
        segment,
        used_units,
        live_units,
        last_part,
        birth_low,
        birth_high,
        metadata,
        container,
        reserved
    }
);
