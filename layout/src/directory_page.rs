//! The volume directory with the segment table: all of the store's own state that is not in the log, in one area slot.
//!
//! Version N lies in slot N mod 2 of system areas A and B, byte for byte the same; the superblock N names slot, length and checksum. The slot that the open
//! superblock names is never written (INV-20), so a power cut leaves the version before whole.
//!
//! ```text
//! | header 64 | entry 2048 | zeros to 4096 | one row of 128 bytes a container |
//! ```

use crate::fields::{Structure, structure};
use crate::{Hlc, LayoutError, Lsn, Reference, checksum};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What a directory starts with.
pub const MAGIC: u64 = u64::from_le_bytes(*b"EVFSVDIR");
/// Bytes before the segment table.
pub const PAGE_BYTES: usize = 4096;
/// Bytes of a row of the segment table.
pub const ROW_BYTES: usize = 128;
/// Most cuts that an entry lists.
pub const CUTS_MAX: usize = 8;

const NAME: &str = "volume directory";
const ROW: &str = "segment table row";

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

/// Where in the ring the first record stands that recovery needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct StartPosition {
    /// Ring generation of that block.
    pub generation: u32,
    /// Its sequence.
    pub sequence: u64,
    /// Byte in the block at which the freeze LSN stands.
    pub offset: u32,
    /// Block of the ring.
    pub ring_block: u64,
}

/// The end of a ring generation: blocks after `sequence` carry `generation`, and the first of them starts at `lsn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Cut {
    /// Generation that begins here.
    pub generation: u32,
    /// Writer epoch of that mount.
    pub epoch: u32,
    /// First LSN of the generation; what older blocks hold from here on does not count.
    pub lsn: Lsn,
    /// Last block of the generation before.
    pub sequence: u64,
    /// Byte in that block at which `lsn` stands; 0 if it is its end or there is no such block.
    pub offset: u32,
}

/// The checkpoint that recovery starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PublishedCheckpoint {
    /// Where its CHECKPOINT record starts.
    pub record: Lsn,
    /// Writer epoch of that record.
    pub epoch: u32,
    /// First LSN that it does not contain.
    pub freeze: Lsn,
    /// Stream hash at `freeze`; 0 while the volume has one replica.
    pub stream_hash: u64,
    /// Number of the checkpoint, from 1; 0 = a fresh store.
    pub number: u64,
}

/// Numbers below these may have been handed out (INV-16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Bounds {
    /// Segments.
    pub segment: u64,
    /// Inodes.
    pub inode: u64,
    /// Realms.
    pub realm: u64,
    /// Territories.
    pub territory: u64,
    /// Pins.
    pub pin: u64,
}

/// Sums over the volume at its published checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Totals {
    /// Units in live objects.
    pub live_units: u64,
    /// Live objects.
    pub live_objects: u64,
    /// Objects with a count above one.
    pub shared_objects: u64,
    /// Objects in the drop queue.
    pub drop_queue_objects: u64,
    /// Nodes among the live objects.
    pub nodes: u64,
    /// Segments that hold something.
    pub segments: u64,
    /// Units of [`Totals::live_units`] that only retained checkpoints need.
    pub deferred_units: u64,
}

/// What the store does for a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// Writes it.
    Writer = 1,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeEntry {
    /// Its id in the cluster.
    pub volume: u16,
    /// Role of this store.
    pub role: Role,
    /// Its uuid.
    pub uuid: [u8; 16],
    /// No writer epoch below this is acknowledged (INV-36).
    pub promised_epoch: u32,
    /// Epoch that this store writes with.
    pub writer_epoch: u32,
    /// Version of the replica configuration.
    pub config_version: u64,
    /// Extents of the ring: byte offset and bytes; unused ones zero. This version uses one.
    pub ring: [(u64, u64); 4],
    /// Generation of this mount's blocks; rises at every writable mount.
    pub ring_generation: u32,
    /// The checkpoint.
    pub checkpoint: PublishedCheckpoint,
    /// Where its freeze LSN stands in the ring.
    pub start: StartPosition,
    /// Every recovery cut since then, ascending; the last is this mount's.
    pub cuts: Vec<Cut>,
    /// The client's roots object; none in a fresh store.
    pub roots: Option<Reference>,
    /// Its second copy.
    pub roots_twin: Option<Reference>,
    /// Drop queue.
    pub drop_queue: Place,
    /// Logical segments whose home container was reused: an index of pages.
    pub orphaned_segments: Place,
    /// Retained checkpoints.
    pub history: Place,
    /// Nodes of the drop queue that could not be read.
    pub unreadable: Place,
    /// Numbers handed out.
    pub bounds: Bounds,
    /// Checkpoint up to which batches are merged into the segments' metadata.
    pub merged_through: u64,
    /// Every birth in the checkpoint is at most this.
    pub checkpoint_hlc: Hlc,
    /// Sums.
    pub totals: Totals,
}

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
    /// [`ContainerRow::SLOT_MAP`]; the others are reserved and kept as they are.
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

/// What a superblock names: header, entries and table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeDirectory {
    /// That of its superblock.
    pub sequence: u64,
    /// The volume; more than one needs the feature MULTI_VOLUME.
    pub entry: VolumeEntry,
    /// One row a container.
    pub table: Vec<ContainerRow>,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    /// [`MAGIC`].
    magic: U64,
    /// Of page and table with this field zero, seeded with the slot as position.
    crc: U32,
    /// Entries: 1.
    entries: U32,
    /// Sequence of the superblock.
    sequence: U64,
    /// Bytes of the table.
    table_bytes: U32,
    /// Rows.
    containers: U32,
    reserved: [u8; 32],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawCut {
    generation: U32,
    epoch: U32,
    lsn: U64,
    sequence: U64,
    offset: U32,
    reserved: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEntry {
    /// Volume id.
    volume: U16,
    /// [`Role`].
    role: u8,
    reserved_0: u8,
    promised_epoch: U32,
    writer_epoch: U32,
    ring_generation: U32,
    uuid: [u8; 16],
    config_version: U64,
    /// Four times offset, bytes.
    ring: [[U64; 2]; 4],
    /// CHECKPOINT record, freeze LSN, stream hash, number.
    checkpoint: [U64; 4],
    checkpoint_epoch: U32,
    /// Generation of the start block.
    start_generation: U32,
    start_sequence: U64,
    start_ring_block: U64,
    start_offset: U32,
    /// Cuts in use.
    cut_count: U32,
    cuts: [RawCut; CUTS_MAX],
    /// A reference; all zero = none.
    roots: [u8; Reference::BYTES],
    roots_twin: [u8; Reference::BYTES],
    drop_queue: RawPlace,
    orphaned_segments: RawPlace,
    /// Segment, inode, realm, territory, pin.
    bounds: [U64; 5],
    merged_through: U64,
    checkpoint_hlc: U64,
    /// Live units, live objects, shared objects, drop queue, nodes, segments, deferred units.
    totals: [U64; 7],
    history: RawPlace,
    unreadable: RawPlace,
    reserved: [u8; ENTRY_BYTES - ENTRY_END],
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
    reserved: [u8; 72],
}

const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 2048;
const ENTRY_END: usize = 664;

const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);
const _: () = assert!(size_of::<RawCut>() == 32);
const _: () = assert!(size_of::<RawEntry>() == ENTRY_BYTES);
const _: () = assert!(std::mem::offset_of!(RawEntry, checkpoint) == 104);
const _: () = assert!(std::mem::offset_of!(RawEntry, cuts) == 168);
const _: () = assert!(std::mem::offset_of!(RawEntry, roots) == 424);
const _: () = assert!(std::mem::offset_of!(RawEntry, bounds) == 520);
const _: () = assert!(std::mem::offset_of!(RawEntry, reserved) == ENTRY_END);
const _: () = assert!(size_of::<RawRow>() == ROW_BYTES);
const _: () = assert!(std::mem::offset_of!(RawRow, metadata) == 40);

fn field<T>(structure: &'static str, field: &'static str, found: u64) -> Result<T, LayoutError> {
    Err(LayoutError::Field { structure, field, found })
}

fn optional_reference(bytes: &[u8; Reference::BYTES]) -> Result<Option<Reference>, LayoutError> {
    if bytes.iter().all(|byte| *byte == 0) { Ok(None) } else { Reference::decode(bytes).map(Some) }
}

fn zeros(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

impl VolumeEntry {
    /// The generation that the block with this sequence must have: the exact one, not a range of them (DESIGN 6).
    #[must_use]
    pub fn generation_at(&self, sequence: u64) -> u32 {
        self.cuts.iter().rev().find(|cut| cut.sequence < sequence).map_or(self.start.generation, |cut| cut.generation)
    }

    fn raw(&self) -> RawEntry {
        let mut cuts = [RawCut {
            generation: 0.into(),
            epoch: 0.into(),
            lsn: 0.into(),
            sequence: 0.into(),
            offset: 0.into(),
            reserved: 0.into(),
        }; CUTS_MAX];
        let listed = self.cuts.len().min(CUTS_MAX);
        for (to, from) in cuts.iter_mut().zip(&self.cuts) {
            to.generation = from.generation.into();
            to.epoch = from.epoch.into();
            to.lsn = from.lsn.0.into();
            to.sequence = from.sequence.into();
            to.offset = from.offset.into();
        }
        let (c, b, t) = (&self.checkpoint, &self.bounds, &self.totals);
        let reference = |r: &Option<Reference>| r.as_ref().map_or([0; Reference::BYTES], Reference::encode);
        RawEntry {
            volume: self.volume.into(),
            role: self.role as u8,
            reserved_0: 0,
            promised_epoch: self.promised_epoch.into(),
            writer_epoch: self.writer_epoch.into(),
            ring_generation: self.ring_generation.into(),
            uuid: self.uuid,
            config_version: self.config_version.into(),
            ring: self.ring.map(|(offset, bytes)| [offset.into(), bytes.into()]),
            checkpoint: [c.record.0, c.freeze.0, c.stream_hash, c.number].map(U64::from),
            checkpoint_epoch: c.epoch.into(),
            start_generation: self.start.generation.into(),
            start_sequence: self.start.sequence.into(),
            start_ring_block: self.start.ring_block.into(),
            start_offset: self.start.offset.into(),
            cut_count: u32::try_from(listed).unwrap_or(0).into(),
            cuts,
            roots: reference(&self.roots),
            roots_twin: reference(&self.roots_twin),
            drop_queue: self.drop_queue.raw(),
            orphaned_segments: self.orphaned_segments.raw(),
            bounds: [b.segment, b.inode, b.realm, b.territory, b.pin].map(U64::from),
            merged_through: self.merged_through.into(),
            checkpoint_hlc: self.checkpoint_hlc.0.into(),
            totals: [
                t.live_units,
                t.live_objects,
                t.shared_objects,
                t.drop_queue_objects,
                t.nodes,
                t.segments,
                t.deferred_units,
            ]
            .map(U64::from),
            history: self.history.raw(),
            unreadable: self.unreadable.raw(),
            reserved: [0; ENTRY_BYTES - ENTRY_END],
        }
    }

    fn from_raw(raw: &RawEntry) -> Result<Self, LayoutError> {
        if raw.role != 1 {
            return Err(LayoutError::Unknown { structure: NAME, what: "role", found: raw.role.into() });
        }
        if raw.reserved_0 != 0 || !zeros(&raw.reserved) {
            return field(NAME, "reserved", 1);
        }
        let listed = usize::try_from(raw.cut_count.get()).unwrap_or(usize::MAX);
        let Some((cuts, unused)) = raw.cuts.split_at_checked(listed) else {
            return field(NAME, "cuts", raw.cut_count.get().into());
        };
        if !zeros(unused.as_bytes()) || cuts.iter().any(|cut| cut.reserved.get() != 0) {
            return field(NAME, "reserved", 1);
        }
        let cuts: Vec<Cut> = cuts
            .iter()
            .map(|cut| Cut {
                generation: cut.generation.get(),
                epoch: cut.epoch.get(),
                lsn: Lsn(cut.lsn.get()),
                sequence: cut.sequence.get(),
                offset: cut.offset.get(),
            })
            .collect();
        let ascending = cuts.windows(2).all(|pair| match pair {
            [a, b] => a.sequence < b.sequence && a.generation < b.generation && a.lsn <= b.lsn,
            _ => true,
        });
        if !ascending {
            return field(NAME, "order of cuts", cuts.len() as u64);
        }
        let [record, freeze, stream_hash, number] = raw.checkpoint.map(|value| value.get());
        let [segment, inode, realm, territory, pin] = raw.bounds.map(|value| value.get());
        let [live_units, live_objects, shared_objects, drop_queue_objects, nodes, segments, deferred_units] =
            raw.totals.map(|value| value.get());
        Ok(Self {
            volume: raw.volume.get(),
            role: Role::Writer,
            uuid: raw.uuid,
            promised_epoch: raw.promised_epoch.get(),
            writer_epoch: raw.writer_epoch.get(),
            config_version: raw.config_version.get(),
            ring: raw.ring.map(|[offset, bytes]| (offset.get(), bytes.get())),
            ring_generation: raw.ring_generation.get(),
            checkpoint: PublishedCheckpoint {
                record: Lsn(record),
                epoch: raw.checkpoint_epoch.get(),
                freeze: Lsn(freeze),
                stream_hash,
                number,
            },
            start: StartPosition {
                generation: raw.start_generation.get(),
                sequence: raw.start_sequence.get(),
                offset: raw.start_offset.get(),
                ring_block: raw.start_ring_block.get(),
            },
            cuts,
            roots: optional_reference(&raw.roots)?,
            roots_twin: optional_reference(&raw.roots_twin)?,
            drop_queue: raw.drop_queue.into(),
            orphaned_segments: raw.orphaned_segments.into(),
            history: raw.history.into(),
            unreadable: raw.unreadable.into(),
            bounds: Bounds { segment, inode, realm, territory, pin },
            merged_through: raw.merged_through.get(),
            checkpoint_hlc: Hlc(raw.checkpoint_hlc.get()),
            totals: Totals {
                live_units,
                live_objects,
                shared_objects,
                drop_queue_objects,
                nodes,
                segments,
                deferred_units,
            },
        })
    }
}

impl ContainerRow {
    /// Units of the segment lie elsewhere: its page has moved fragments, which a reader needs.
    pub const SLOT_MAP: u16 = 1;

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

    /// Bytes on disk.
    #[must_use]
    pub fn encode(&self) -> [u8; ROW_BYTES] {
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
            reserved: [0; 72],
        };
        zerocopy::transmute!(raw)
    }

    /// From bytes on disk.
    ///
    /// # Errors
    /// Too few bytes, an unknown state, or reserved bytes in use.
    pub fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
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
        if raw.reserved_0.get() != 0 || !zeros(&raw.reserved) {
            return field(ROW, "reserved", 1);
        }
        if raw.live_units.get() > raw.used_units.get() {
            return field(ROW, "live units", raw.live_units.get().into());
        }
        Ok(Self {
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
        })
    }
}

impl VolumeDirectory {
    /// Bytes of a directory for so many containers, before rounding up to blocks.
    #[must_use]
    pub const fn bytes(containers: u32) -> u64 {
        PAGE_BYTES as u64 + ROW_BYTES as u64 * containers as u64
    }

    /// The slot it belongs in.
    #[must_use]
    pub const fn slot(&self) -> u8 {
        (self.sequence % 2) as u8
    }

    /// Bytes on disk (a multiple of 128, not of a block) and the checksum for the superblock. More than [`CUTS_MAX`] cuts are a fault of the caller: the
    /// surplus would be lost, so it is asserted.
    #[must_use]
    pub fn encode(&self, seed: &[u8; 16]) -> (Vec<u8>, u32) {
        assert!(self.entry.cuts.len() <= CUTS_MAX, "INV-20: every cut since the start is listed");
        let table_bytes = self.table.len().saturating_mul(ROW_BYTES);
        let mut header = RawHeader {
            magic: MAGIC.into(),
            crc: 0.into(),
            entries: 1.into(),
            sequence: self.sequence.into(),
            table_bytes: u32::try_from(table_bytes).unwrap_or(u32::MAX).into(),
            containers: u32::try_from(self.table.len()).unwrap_or(u32::MAX).into(),
            reserved: [0; 32],
        };
        let mut body = Vec::with_capacity(PAGE_BYTES.saturating_add(table_bytes));
        body.extend_from_slice(self.entry.raw().as_bytes());
        body.resize(PAGE_BYTES - HEADER_BYTES, 0);
        for row in &self.table {
            body.extend_from_slice(&row.encode());
        }
        let position = u64::from(self.slot()).to_le_bytes();
        let crc = checksum::crc32c_pieces(&[seed, &position, header.as_bytes(), &body]);
        header.crc = crc.into();
        body.splice(..0, header.as_bytes().iter().copied());
        (body, crc)
    }

    /// From the bytes of an area slot, which may be longer. `crc` is what the superblock names.
    ///
    /// # Errors
    /// Not the directory that the superblock names, damaged, or from a newer version.
    pub fn decode(bytes: &[u8], seed: &[u8; 16], crc: u32) -> Result<Self, LayoutError> {
        let short = |expected| LayoutError::Short { structure: NAME, expected, found: bytes.len() };
        let (header, rest) = RawHeader::read_from_prefix(bytes).map_err(|_| short(PAGE_BYTES))?;
        if header.magic.get() != MAGIC {
            return Err(LayoutError::Magic { structure: NAME, expected: MAGIC, found: header.magic.get() });
        }
        let table_bytes = usize::try_from(header.table_bytes.get()).unwrap_or(usize::MAX);
        let whole = PAGE_BYTES.saturating_add(table_bytes);
        let Some(body) = rest.get(..whole.saturating_sub(HEADER_BYTES)) else { return Err(short(whole)) };
        let position = (header.sequence.get() % 2).to_le_bytes();
        let mut zeroed = header;
        zeroed.crc = 0.into();
        let found = checksum::crc32c_pieces(&[seed, &position, zeroed.as_bytes(), body]);
        if found != crc || header.crc.get() != crc {
            return Err(LayoutError::Checksum { structure: NAME, expected: crc, found });
        }
        if header.entries.get() != 1 {
            return Err(LayoutError::Unknown {
                structure: NAME,
                what: "number of volumes",
                found: header.entries.get().into(),
            });
        }
        if u64::from(header.containers.get()) * ROW_BYTES as u64 != u64::from(header.table_bytes.get()) {
            return field(NAME, "table bytes", header.table_bytes.get().into());
        }
        let (entry, rest) = RawEntry::read_from_prefix(body).map_err(|_| short(PAGE_BYTES))?;
        let (padding, table) =
            rest.split_at_checked(PAGE_BYTES - HEADER_BYTES - ENTRY_BYTES).ok_or_else(|| short(PAGE_BYTES))?;
        if !zeros(&header.reserved) || !zeros(padding) {
            return field(NAME, "reserved", 1);
        }
        let table = table.chunks_exact(ROW_BYTES).map(ContainerRow::decode).collect::<Result<_, _>>()?;
        Ok(Self { sequence: header.sequence.get(), entry: VolumeEntry::from_raw(&entry)?, table })
    }
}

/// For the documentation; see [`crate::fields`].
pub(crate) const LAYOUTS: &[Structure] = &[
    structure!("place", RawPlace { container, units, stored_bytes, crc }),
    structure!(
        "volume directory header",
        RawHeader { magic, crc, entries, sequence, table_bytes, containers, reserved }
    ),
    structure!("recovery cut", RawCut { generation, epoch, lsn, sequence, offset, reserved }),
    structure!(
        "volume entry",
        RawEntry {
            volume,
            role,
            reserved_0,
            promised_epoch,
            writer_epoch,
            ring_generation,
            uuid,
            config_version,
            ring,
            checkpoint,
            checkpoint_epoch,
            start_generation,
            start_sequence,
            start_ring_block,
            start_offset,
            cut_count,
            cuts,
            roots,
            roots_twin,
            drop_queue,
            orphaned_segments,
            bounds,
            merged_through,
            checkpoint_hlc,
            totals,
            history,
            unreadable,
            reserved
        }
    ),
    structure!(
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
            reserved
        }
    ),
];

#[cfg(test)]
mod tests;
