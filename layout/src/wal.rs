//! The write-ahead log: blocks of the ring, and the records whose bytes they carry.
//!
//! A block is one logical block of the device, written once a generation. Its body holds *local* records first (true of this store only, outside the LSN), then
//! bytes of the stream of *shared* records, which run over blocks without a gap. LSN = byte offset in that stream.
//!
//! ```text
//! | header 80 | local records, whole | shared bytes first_lsn .. first_lsn + n | zeros |
//! record: | header 32 | origin 24 | result 24 | data table | body | zeros to 8 |      (the middle three when flagged)
//! ```

mod engine_records;
mod record;

pub(crate) use engine_records::ENGINE_RECORD_LAYOUTS;
pub use engine_records::{CheckpointBody, Closed, Relocated, SegmentOpened, SegmentPlaced, SegmentSealed};
pub(crate) use record::RECORD_LAYOUTS;
pub use record::{NamedObject, OperationResult, Origin, Record, RecordParts, padded, record_bytes, stamp};

use crate::fields::{Structure, structure};
use crate::{LayoutError, Lsn, checksum};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What a block starts with.
pub const BLOCK_MAGIC: u32 = u32::from_le_bytes(*b"EVWB");
/// Bytes of a block's header.
pub const BLOCK_HEADER_BYTES: usize = 80;
/// Bytes of a record's header.
pub const RECORD_HEADER_BYTES: usize = 32;
/// Longest record, header included.
pub const RECORD_BYTES_MAX: usize = 1 << 20;

const NAME: &str = "WAL block";

/// Kinds of records that the engine writes or reserves. Numbers are never reused.
pub mod kind {
    /// Shared: a segment number is in use from here on.
    pub const SEGMENT_OPENED: u16 = 1;
    /// Shared: nothing more goes into a segment.
    pub const SEGMENT_SEALED: u16 = 2;
    /// Shared: a checkpoint that recovery may start from.
    pub const CHECKPOINT: u16 = 3;
    /// Shared, reserved: a writer epoch begins.
    pub const EPOCH_BEGIN: u16 = 4;
    /// Local: in which container a segment lies.
    pub const SEGMENT_PLACED: u16 = 64;
    /// Local, reserved: watermarks are in block headers.
    pub const WATERMARK: u16 = 65;
    /// Local: units whose write failed were written elsewhere.
    pub const RELOCATED: u16 = 66;
    /// Local, reserved: promised epoch.
    pub const PROMISE: u16 = 67;
    /// Local, reserved.
    pub const TAIL_CUT: u16 = 68;
    /// Local, reserved.
    pub const CLEANED: u16 = 69;
    /// Local, reserved.
    pub const MOUNT: u16 = 70;
    /// Local: the mount appends nothing any more.
    pub const CLOSED: u16 = 71;
    /// First kind of the client.
    pub const CLIENT_FIRST: u16 = 256;

    /// Does this version know an engine kind? Client kinds are the client's to judge.
    #[must_use]
    pub const fn is_known(kind: u16) -> bool {
        matches!(kind, SEGMENT_OPENED | SEGMENT_SEALED | CHECKPOINT | SEGMENT_PLACED | WATERMARK | RELOCATED | CLOSED)
            || kind >= CLIENT_FIRST
    }
}

/// What a block says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    /// Bytes in use, header included.
    pub used_bytes: u32,
    /// Bytes of local records behind the header.
    pub local_bytes: u32,
    /// Volume of the log.
    pub volume: u16,
    /// Rises by one a block, over mounts too.
    pub sequence: u64,
    /// LSN of the first shared byte here; if there is none, of the next one.
    pub first_lsn: Lsn,
    /// Writer epoch.
    pub writer_epoch: u32,
    /// Generation of the mount that wrote it.
    pub generation: u32,
    /// Every record before this, and the data it names, was durable here when the block was framed.
    pub durable: Lsn,
    /// The same on a quorum; equal on one host.
    pub committed: Lsn,
    /// Chained hash of the record checksums; 0 while the volume has one replica.
    pub stream_hash: u64,
    /// Byte in the block of the first record that starts here; 0 = none.
    pub first_record: u32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawBlock {
    /// [`BLOCK_MAGIC`].
    magic: U32,
    /// Of the whole block with this field zero, seeded with the seed uuid and the block's byte offset on the device.
    crc: U32,
    used_bytes: U32,
    volume: U16,
    /// Zero.
    flags: U16,
    sequence: U64,
    first_lsn: U64,
    writer_epoch: U32,
    generation: U32,
    durable: U64,
    committed: U64,
    stream_hash: U64,
    first_record: U32,
    local_bytes: U32,
    reserved: [u8; 8],
}

const _: () = assert!(size_of::<RawBlock>() == BLOCK_HEADER_BYTES);
const _: () = assert!(std::mem::offset_of!(RawBlock, sequence) == 16);
const _: () = assert!(std::mem::offset_of!(RawBlock, durable) == 40);
const _: () = assert!(std::mem::offset_of!(RawBlock, first_record) == 64);

/// A block taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block<'a> {
    /// Header.
    pub header: BlockHeader,
    /// Local records.
    pub local: &'a [u8],
    /// Bytes of the stream.
    pub shared: &'a [u8],
}

impl BlockHeader {
    /// Bytes that a block has for records.
    #[must_use]
    pub const fn capacity(block_bytes: u32) -> u32 {
        block_bytes.saturating_sub(80)
    }

    /// Writes header and checksum into a whole block whose body is in place (and zero behind it). Nothing happens if the block is shorter than a header.
    pub fn seal(&self, block: &mut [u8], seed: &[u8; 16], position: u64) {
        let mut raw = RawBlock {
            magic: BLOCK_MAGIC.into(),
            crc: 0.into(),
            used_bytes: self.used_bytes.into(),
            volume: self.volume.into(),
            flags: 0.into(),
            sequence: self.sequence.into(),
            first_lsn: self.first_lsn.0.into(),
            writer_epoch: self.writer_epoch.into(),
            generation: self.generation.into(),
            durable: self.durable.0.into(),
            committed: self.committed.0.into(),
            stream_hash: self.stream_hash.into(),
            first_record: self.first_record.into(),
            local_bytes: self.local_bytes.into(),
            reserved: [0; 8],
        };
        let Some((head, body)) = block.split_at_mut_checked(BLOCK_HEADER_BYTES) else { return };
        raw.crc = checksum::crc32c_pieces(&[seed, &position.to_le_bytes(), raw.as_bytes(), body]).into();
        head.copy_from_slice(raw.as_bytes());
    }
}

impl<'a> Block<'a> {
    /// Takes apart what lies at byte offset `position`; `bytes` is exactly one block.
    ///
    /// # Errors
    /// Not a block of this store and position, damaged, or a field that no writer produces.
    pub fn decode(bytes: &'a [u8], seed: &[u8; 16], position: u64) -> Result<Self, LayoutError> {
        let short = LayoutError::Short { structure: NAME, expected: BLOCK_HEADER_BYTES, found: bytes.len() };
        let (raw, body) = RawBlock::read_from_prefix(bytes).map_err(|_| short)?;
        if raw.magic.get() != BLOCK_MAGIC {
            let (expected, found) = (BLOCK_MAGIC.into(), raw.magic.get().into());
            return Err(LayoutError::Magic { structure: NAME, expected, found });
        }
        let mut zeroed = raw;
        zeroed.crc = 0.into();
        let found = checksum::crc32c_pieces(&[seed, &position.to_le_bytes(), zeroed.as_bytes(), body]);
        if found != raw.crc.get() {
            return Err(LayoutError::Checksum { structure: NAME, expected: raw.crc.get(), found });
        }
        let field = |field, found| LayoutError::Field { structure: NAME, field, found };
        if raw.flags.get() != 0 {
            return Err(LayoutError::Unknown { structure: NAME, what: "flags", found: raw.flags.get().into() });
        }
        if raw.reserved != [0; 8] {
            return Err(field("reserved", 1));
        }
        let header = BlockHeader {
            used_bytes: raw.used_bytes.get(),
            local_bytes: raw.local_bytes.get(),
            volume: raw.volume.get(),
            sequence: raw.sequence.get(),
            first_lsn: Lsn(raw.first_lsn.get()),
            writer_epoch: raw.writer_epoch.get(),
            generation: raw.generation.get(),
            durable: Lsn(raw.durable.get()),
            committed: Lsn(raw.committed.get()),
            stream_hash: raw.stream_hash.get(),
            first_record: raw.first_record.get(),
        };
        let used = usize::try_from(header.used_bytes).unwrap_or(usize::MAX);
        let filled = used.checked_sub(BLOCK_HEADER_BYTES).and_then(|filled| body.get(..filled));
        let Some(filled) = filled else { return Err(field("used bytes", header.used_bytes.into())) };
        let local = usize::try_from(header.local_bytes).unwrap_or(usize::MAX);
        let Some((local, shared)) = filled.split_at_checked(local) else {
            return Err(field("local bytes", header.local_bytes.into()));
        };
        if shared.len() % 8 != 0 || local.len() % 8 != 0 {
            return Err(field("used bytes", header.used_bytes.into()));
        }
        if !header.first_lsn.0.is_multiple_of(8) || header.first_lsn.0.checked_add(shared.len() as u64).is_none() {
            return Err(field("first LSN", header.first_lsn.0));
        }
        Ok(Self { header, local, shared })
    }

    /// LSN after the last shared byte.
    #[must_use]
    pub fn end_lsn(&self) -> Lsn {
        Lsn(self.header.first_lsn.0.saturating_add(self.shared.len() as u64))
    }
}

/// For the documentation; see [`crate::fields`].
pub(crate) const LAYOUTS: &[Structure] = &[structure!(
    "log block header",
    RawBlock {
        magic,
        crc,
        used_bytes,
        volume,
        flags,
        sequence,
        first_lsn,
        writer_epoch,
        generation,
        durable,
        committed,
        stream_hash,
        first_record,
        local_bytes,
        reserved
    }
)];

#[cfg(test)]
mod tests;
