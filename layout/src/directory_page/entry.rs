//! The entry of a volume: log, checkpoint, roots, and where the lists of the store begin.

use super::place::RawPlace;
use super::{CUTS_MAX, NAME, Place, field, zeros};
use crate::fields::{Structure, structure};
use crate::{CLIENT_TAG_BYTES, ClientTag, Hlc, LayoutError, Lsn, Reference};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

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
    /// Whose roots these are, from the first writable mount on; before that nobody's.
    pub client: ClientTag,
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
pub(super) struct RawEntry {
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
    /// A name in ASCII; all zero = none.
    client: [u8; CLIENT_TAG_BYTES],
    reserved: [u8; ENTRY_BYTES - ENTRY_END],
}

/// Bytes of an entry on disk.
pub(super) const ENTRY_BYTES: usize = 2048;
const ENTRY_END: usize = 672;

const _: () = assert!(size_of::<RawCut>() == 32);
const _: () = assert!(size_of::<RawEntry>() == ENTRY_BYTES);
const _: () = assert!(std::mem::offset_of!(RawEntry, checkpoint) == 104);
const _: () = assert!(std::mem::offset_of!(RawEntry, cuts) == 168);
const _: () = assert!(std::mem::offset_of!(RawEntry, roots) == 424);
const _: () = assert!(std::mem::offset_of!(RawEntry, bounds) == 520);
const _: () = assert!(std::mem::offset_of!(RawEntry, reserved) == ENTRY_END);

fn optional_reference(bytes: &[u8; Reference::BYTES]) -> Result<Option<Reference>, LayoutError> {
    if bytes.iter().all(|byte| *byte == 0) { Ok(None) } else { Reference::decode(bytes).map(Some) }
}

impl VolumeEntry {
    /// The generation that the block with this sequence must have: the exact one, not a range of them (DESIGN 6).
    #[must_use]
    pub fn generation_at(&self, sequence: u64) -> u32 {
        self.cuts.iter().rev().find(|cut| cut.sequence < sequence).map_or(self.start.generation, |cut| cut.generation)
    }

    /// As it lies on disk.
    pub(super) fn raw(&self) -> RawEntry {
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
            client: self.client.encode(),
            reserved: [0; ENTRY_BYTES - ENTRY_END],
        }
    }

    /// From what lies on disk.
    pub(super) fn from_raw(raw: &RawEntry) -> Result<Self, LayoutError> {
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
            client: ClientTag::decode(NAME, raw.client)?,
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

/// For the documentation; see [`crate::fields`].
pub(super) const LAYOUTS: [Structure; 2] = [
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
            client,
            reserved
        }
    ),
];
