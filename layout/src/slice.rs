//! A slice: consecutive blocks of a file that lie one after the other in one extent, with a checksum per block.
//!
//! ```text
//! | file block 8 | blocks 4 | first block in the extent 4 | bytes of the last block 2 | kind 1 | reserved 1 | CRC32C 4 x blocks |
//! ```
//! The extent itself is a [`Reference`](crate::Reference) beside it. A slice is the value of an item in an extents tree, or one of at most four in an inode.

use crate::codec::{Reader, Writer};
use crate::{BLOCK, LayoutError, UNIT};

const STRUCTURE: &str = "slice";
const KIND_DATA: u8 = 1;

/// Most blocks of one slice: an extent is at most 1 MiB.
pub const SLICE_BLOCKS_MAX: u32 = 256;

/// Consecutive blocks of a file in one extent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Slice {
    /// First block of the file, in 4 KiB.
    pub file_block: u64,
    /// Blocks, at least 1.
    pub blocks: u32,
    /// First block within the extent, in 4 KiB.
    pub extent_block: u32,
    /// Stored bytes of the slice's last block: 512..=4096, a multiple of 512. Less than 4096 only in an extent's last block; what is missing reads as zeros.
    pub last_block_bytes: u32,
    /// CRC32C of the stored bytes of each block.
    pub crcs: Vec<u32>,
}

impl Slice {
    /// Bytes without the checksums.
    pub const HEADER_BYTES: usize = 20;

    /// Block of the file after the last.
    #[must_use]
    pub const fn end_block(&self) -> u64 {
        self.file_block.saturating_add(self.blocks as u64)
    }
    /// Bytes it occupies in its extent.
    #[must_use]
    pub const fn stored_bytes(&self) -> u64 {
        (self.blocks.saturating_sub(1) as u64) * (BLOCK as u64) + self.last_block_bytes as u64
    }
    /// Units of 512 bytes it occupies, from the extent's start.
    #[must_use]
    pub const fn units(&self) -> std::ops::Range<u32> {
        let first = self.extent_block.saturating_mul(BLOCK / UNIT);
        let count = self.blocks.saturating_sub(1).saturating_mul(BLOCK / UNIT) + self.last_block_bytes / UNIT;
        first..first.saturating_add(count)
    }
    /// Bytes of the encoding.
    #[must_use]
    pub const fn encoded_len(&self) -> usize {
        Self::HEADER_BYTES + 4 * self.crcs.len()
    }
    /// Value of an item in an extents tree; the key is [`crate::key::extent`] of `file_block`, the reference the extent.
    pub fn encode(&self) -> Result<Vec<u8>, LayoutError> {
        let mut out = Writer::new(STRUCTURE);
        self.write(&mut out);
        out.finish()
    }
    /// From the value of an item.
    pub fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let mut from = Reader::new(STRUCTURE, bytes);
        let slice = Self::read(&mut from)?;
        from.end()?;
        Ok(slice)
    }
    /// Allocated bytes of an encoded slice, without building it.
    pub fn stored_bytes_of(bytes: &[u8]) -> Result<u64, LayoutError> {
        let mut from = Reader::new(STRUCTURE, bytes);
        Ok(Self::read_header(&mut from)?.stored_bytes())
    }
    pub(crate) fn write(&self, out: &mut Writer) {
        if self.check().is_err() || self.crcs.len() != self.blocks as usize {
            out.fail::<()>("slice", self.crcs.len());
        }
        out.u64(self.file_block);
        out.u32(self.blocks);
        out.u32(self.extent_block);
        out.u16(u16::try_from(self.last_block_bytes).unwrap_or(0));
        out.u8(KIND_DATA);
        out.u8(0);
        for crc in &self.crcs {
            out.u32(*crc);
        }
    }
    pub(crate) fn read(from: &mut Reader<'_>) -> Result<Self, LayoutError> {
        let mut slice = Self::read_header(from)?;
        slice.crcs = (0..slice.blocks).map(|_| from.u32()).collect::<Result<_, _>>()?;
        Ok(slice)
    }
    fn read_header(from: &mut Reader<'_>) -> Result<Self, LayoutError> {
        let (file_block, blocks, extent_block) = (from.u64()?, from.u32()?, from.u32()?);
        let last_block_bytes = from.u16()?.into();
        let kind = from.u8()?;
        if kind != KIND_DATA {
            return Err(from.unknown("slice kind", kind.into()));
        }
        from.zeros(1)?;
        let slice = Self { file_block, blocks, extent_block, last_block_bytes, crcs: Vec::new() };
        slice.check()?;
        Ok(slice)
    }
    fn check(&self) -> Result<(), LayoutError> {
        let field = |field, found: u64| Err(LayoutError::Field { structure: STRUCTURE, field, found });
        if self.blocks == 0 || self.blocks > SLICE_BLOCKS_MAX {
            return field("blocks", self.blocks.into());
        }
        if self.last_block_bytes == 0 || self.last_block_bytes > BLOCK || !self.last_block_bytes.is_multiple_of(UNIT) {
            return field("bytes of the last block", self.last_block_bytes.into());
        }
        if self.extent_block >= SLICE_BLOCKS_MAX || self.extent_block + self.blocks > SLICE_BLOCKS_MAX {
            return field("first block in the extent", self.extent_block.into());
        }
        if self.file_block.checked_add(self.blocks.into()).is_none_or(|end| end > u64::MAX / u64::from(BLOCK)) {
            return field("file block", self.file_block);
        }
        Ok(())
    }
}
