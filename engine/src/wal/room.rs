//! Ring room: who may use how much, so that a checkpoint and a recovery never wait for the ring they free (INV-24).
//!
//! ```text
//! ring = used (published start .. next block) + waiting (worst case of what is staged) + reserved (operations under way) + reserve + free
//! ```
//! A record of b bytes is charged `blocks_for(b)`: alone in its blocks. Framed with others it takes less, and what is waiting is charged together.

use super::{Config, Inner, TRIGGER_BYTES_MAX, TRIGGER_RECORDS, Wal};
use crate::StoreError;
use crate::store::Result;
use std::sync::Arc;
use std::time::Duration;

/// Header, origin, result and the head of a data table, padded: what a record takes beside its body and objects.
const RECORD_OVERHEAD_BYTES: u64 = 32 + 24 + 24 + 8 + 8;

/// Ring blocks promised to an operation. What is left is given back when it is dropped.
pub struct LogRoom {
    wal: Arc<Wal>,
    blocks: u64,
}

impl LogRoom {
    /// Blocks left.
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }
}

impl Drop for LogRoom {
    fn drop(&mut self) {
        if self.blocks > 0 {
            let mut inner = self.wal.inner.lock();
            inner.reserved_blocks = inner.reserved_blocks.saturating_sub(self.blocks);
            drop(inner);
            self.wal.changed.notify_all();
        }
    }
}

impl std::fmt::Debug for LogRoom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogRoom").field("blocks", &self.blocks).finish_non_exhaustive()
    }
}

/// How full the ring is, in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// All of it.
    pub ring_blocks: u64,
    /// From the published start to the next block.
    pub used_blocks: u64,
    /// What is staged.
    pub waiting_blocks: u64,
    /// What operations under way were promised.
    pub reserved_blocks: u64,
    /// What admission leaves alone.
    pub reserve_blocks: u64,
    /// Bytes of a block.
    pub block_bytes: u32,
    /// Records since the published freeze.
    pub records: u64,
}

impl Room {
    /// Blocks that an operation may still be promised.
    #[must_use]
    pub const fn free_blocks(&self) -> u64 {
        self.ring_blocks
            .saturating_sub(self.used_blocks)
            .saturating_sub(self.waiting_blocks)
            .saturating_sub(self.reserved_blocks)
            .saturating_sub(self.reserve_blocks)
    }
    /// Bytes of the log since the published start.
    #[must_use]
    pub const fn log_bytes(&self) -> u64 {
        self.used_blocks.saturating_add(self.waiting_blocks).saturating_mul(self.block_bytes as u64)
    }
    /// Half full: writers slow down.
    #[must_use]
    pub const fn is_under_pressure(&self) -> bool {
        self.used_blocks.saturating_add(self.waiting_blocks).saturating_mul(2) > self.ring_blocks
    }
    /// A checkpoint is due: min(ring / 4, 192 MiB), or two million records.
    #[must_use]
    pub const fn is_checkpoint_due(&self) -> bool {
        let ring_bytes = self.ring_blocks.saturating_mul(self.block_bytes as u64);
        let quarter = ring_bytes / 4;
        let trigger = if quarter < TRIGGER_BYTES_MAX { quarter } else { TRIGGER_BYTES_MAX };
        self.log_bytes() >= trigger || self.records >= TRIGGER_RECORDS
    }
}

impl Inner {
    pub(super) fn used_blocks(&self) -> u64 {
        self.next_sequence.saturating_sub(self.start_sequence)
    }

    /// One checkpoint and the seals of a recovery, always; a second checkpoint from a freeze until its record is appended: that record uses up the first
    /// reserve before the publication that frees the ring, and a crash in between must find both again.
    pub(super) fn reserve_blocks(&self, config: &Config) -> u64 {
        let checkpoints = if self.checkpoint_pending { 2 } else { 1 };
        config.seal_blocks.saturating_add(config.checkpoint_blocks.saturating_mul(checkpoints))
    }

    pub(super) fn room(&self, config: &Config) -> Room {
        Room {
            ring_blocks: config.ring.blocks,
            used_blocks: self.used_blocks(),
            waiting_blocks: self.staging.blocks(&config.ring),
            reserved_blocks: self.reserved_blocks,
            reserve_blocks: self.reserve_blocks(config),
            block_bytes: config.ring.block_bytes,
            records: self.records,
        }
    }
}

impl Wal {
    /// How full the ring is.
    #[must_use]
    pub fn room(&self) -> Room {
        self.inner.lock().room(&self.config)
    }

    /// Promises room for so many records with so many bytes of bodies and data objects (24 bytes and 4 per 4 KiB each) in all; `None` when the ring is too full
    /// now. Never waits.
    #[must_use]
    pub fn try_reserve(self: &Arc<Self>, records: u64, bytes: u64) -> Option<LogRoom> {
        let blocks = self.worst_case_blocks(records, bytes);
        let mut inner = self.inner.lock();
        if inner.room(&self.config).free_blocks() < blocks {
            return None;
        }
        inner.reserved_blocks = inner.reserved_blocks.saturating_add(blocks);
        drop(inner);
        Some(LogRoom { wal: Arc::clone(self), blocks })
    }

    /// Blocks that [`Wal::try_reserve`] asks for.
    #[must_use]
    pub fn worst_case_blocks(&self, records: u64, bytes: u64) -> u64 {
        let bytes = bytes.saturating_add(records.saturating_mul(RECORD_OVERHEAD_BYTES));
        records.saturating_add(bytes / u64::from(self.config.ring.capacity().max(1)))
    }

    /// The largest number of blocks that can ever be promised at once: an operation that needs more can never run.
    #[must_use]
    pub fn promisable_blocks(&self) -> u64 {
        let reserve = self.config.seal_blocks.saturating_add(self.config.checkpoint_blocks.saturating_mul(2));
        self.config.ring.blocks.saturating_sub(reserve)
    }

    /// Waits until something that may give room has changed, at most so long.
    pub fn wait_room(&self, timeout: Duration) {
        let mut inner = self.inner.lock();
        if inner.poison.is_none() {
            self.changed.wait_for(&mut inner, timeout);
        }
    }

    /// Charges a record that is about to be staged.
    pub(super) fn pay(&self, inner: &mut Inner, room: Option<&mut LogRoom>, bytes: u64) -> Result<()> {
        let ring = &self.config.ring;
        let cost = ring.blocks_for(bytes);
        let full = |available: u64| StoreError::NoSpace { available: ring.bytes(available), needed: ring.bytes(cost) };
        let Some(room) = room else {
            // From the reserve: no admission, but the ring must hold it.
            let state = inner.room(&self.config);
            let taken = state.used_blocks.saturating_add(ring.blocks_for(inner.staging.bytes().saturating_add(bytes)));
            return if taken > ring.blocks { Err(full(ring.blocks.saturating_sub(state.used_blocks))) } else { Ok(()) };
        };
        let paid = room.blocks.min(cost);
        let missing = cost - paid;
        let free = inner.room(&self.config).free_blocks();
        if missing > free {
            return Err(full(room.blocks.saturating_add(free)));
        }
        room.blocks -= paid;
        inner.reserved_blocks = inner.reserved_blocks.saturating_sub(paid);
        Ok(())
    }
}
