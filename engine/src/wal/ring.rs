//! Where a block of the log lies on the device.

use envoyfs_layout::directory_page::VolumeEntry;
use envoyfs_layout::superblock::Superblock;
use envoyfs_layout::wal::BlockHeader;

/// The ring of one volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingGeometry {
    /// Byte offset of block 0 on the device.
    pub offset: u64,
    /// Blocks.
    pub blocks: u64,
    /// Bytes of a block: the logical block of the store.
    pub block_bytes: u32,
    /// Seeds the checksums.
    pub seed: [u8; 16],
    /// Volume whose log it is.
    pub volume: u16,
}

impl RingGeometry {
    /// The ring that a superblock describes.
    #[must_use]
    pub fn of(superblock: &Superblock, entry: &VolumeEntry) -> Self {
        Self {
            offset: superblock.ring_offset,
            blocks: superblock.ring_bytes / u64::from(superblock.logical_block.max(512)),
            block_bytes: superblock.logical_block,
            seed: superblock.seed,
            volume: entry.volume,
        }
    }
    /// Block of the ring in which the block with this sequence lies.
    #[must_use]
    pub const fn ring_block(&self, sequence: u64) -> u64 {
        match sequence.checked_rem(self.blocks) {
            Some(block) => block,
            None => 0,
        }
    }
    /// Its byte offset on the device.
    #[must_use]
    pub const fn position(&self, sequence: u64) -> u64 {
        self.offset.saturating_add(self.ring_block(sequence).saturating_mul(self.block_bytes as u64))
    }
    /// Bytes for records in a block.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        BlockHeader::capacity(self.block_bytes)
    }
    /// Blocks that so many bytes of records take when they are framed together.
    #[must_use]
    pub const fn blocks_for(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.capacity() as u64)
    }
    /// Bytes of a block as an index type.
    pub(super) fn block_len(&self) -> usize {
        usize::try_from(self.block_bytes).unwrap_or(usize::MAX)
    }
    /// Bytes of so many blocks.
    #[must_use]
    pub const fn bytes(&self, blocks: u64) -> u64 {
        blocks.saturating_mul(self.block_bytes as u64)
    }
}
