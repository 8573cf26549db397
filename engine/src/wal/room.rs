//! Ring room: who may use how much, so that a checkpoint and a recovery never wait for the ring they free (INV-24).
//!
//! ```text
//! ring = used (published start .. next block) + waiting (worst case of what is staged) + reserved (operations under way) + reserve + free
//! ```
//! A record of b bytes is charged `blocks_for(b)`: alone in its blocks. Framed with others it takes less, and what is waiting is charged together. An operation's record moves
//! from reserved to waiting without a lock: it is drawn first and taken off the promise then, and [`Wal::room`] reads in the opposite order, so that it is counted twice for
//! an instant, but never missed. Promises are made, and blocks framed, under the lock `admission`.
//!
//! What waits has to fit into memory too: `staged + reserved * block <= staging - its reserve`. A ring that is not larger than the memory bounds that by itself.

use super::{
    Inner, STAGING_BYTES_MAX, STAGING_RESERVE_BYTES, TRIGGER_BYTES_MAX, TRIGGER_RECORDS, UNFLUSHED_BYTES_MAX, Wal,
};
use crate::StoreError;
use crate::store::Result;
use crate::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at promises that others have: who gives one back wakes one who waits, for whom it may be too little.
const PROMISES_LOOK: Duration = Duration::from_millis(10);

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
        self.wal.staging.withdraw(self.blocks);
        if self.wal.levels.promise_waiters.load(Ordering::SeqCst) > 0 {
            self.wal.given_back.notify_one();
        }
    }
}

/// Who pays for a record.
pub(super) enum Payer<'a> {
    /// An operation, of what it was promised.
    Room(&'a mut LogRoom),
    /// The reserve: what a data segment's opening takes was promised to the operation that opens it.
    Reserve,
    /// The reserve too, but for nothing that was promised to others.
    Spare,
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
        self.over_half_blocks() > 0
    }
    /// What is in use beyond the half.
    #[must_use]
    pub const fn over_half_blocks(&self) -> u64 {
        self.used_blocks.saturating_add(self.waiting_blocks).saturating_sub(self.ring_blocks / 2)
    }
    /// What is left to writers; what is promised to operations under way is not taken off, since most of it is given back.
    #[must_use]
    pub const fn left_blocks(&self) -> u64 {
        let used = self.used_blocks.saturating_add(self.waiting_blocks).saturating_add(self.reserve_blocks);
        self.ring_blocks.saturating_sub(used)
    }
    /// A checkpoint is due: min(ring / 4, 192 MiB), or two million records.
    #[must_use]
    pub const fn is_checkpoint_due(&self) -> bool {
        self.log_bytes() >= self.trigger_bytes() || self.records >= TRIGGER_RECORDS
    }
    /// What a mount found is a quarter of that or more: a checkpoint soon after it saves the next one from reading it again.
    #[must_use]
    pub const fn is_replay_long(&self) -> bool {
        self.log_bytes() >= self.trigger_bytes() / 4 || self.records >= TRIGGER_RECORDS / 4
    }
    const fn trigger_bytes(&self) -> u64 {
        let quarter = self.ring_blocks.saturating_mul(self.block_bytes as u64) / 4;
        if quarter < TRIGGER_BYTES_MAX { quarter } else { TRIGGER_BYTES_MAX }
    }
}

impl Inner {
    pub(super) const fn used_blocks(&self) -> u64 {
        self.next_sequence.saturating_sub(self.start_sequence)
    }
}

impl Wal {
    /// What its memory depends on: blocks of the ring, bytes for records without a block, bytes of blocks with a write under way at most.
    #[must_use]
    pub fn memory(&self) -> (u64, u64, u64) {
        let ring = self.config.ring.bytes(self.config.ring.blocks);
        (self.config.ring.blocks, self.staging.capacity(), ring.min(UNFLUSHED_BYTES_MAX))
    }

    /// One checkpoint and the seals of a recovery, always; a second checkpoint from a freeze until its record is appended: that record uses up the first
    /// reserve before the publication that frees the ring, and a crash in between must find both again.
    fn reserve_blocks(&self) -> u64 {
        let checkpoints = if self.levels.checkpoint_pending.load(Ordering::Acquire) { 2 } else { 1 };
        self.config.seal_blocks.saturating_add(self.config.checkpoint_blocks.saturating_mul(checkpoints))
    }

    /// How full the ring is. Exact while nobody appends; else what is on its way from one count to the next may be in both, but is in one of them.
    #[must_use]
    pub fn room(&self) -> Room {
        let reserve_blocks = self.reserve_blocks();
        let (reserved_blocks, framed, (local, used_blocks), end) = self.staging.counts(|| {
            (self.levels.local_bytes.load(Ordering::Acquire), self.levels.used_blocks.load(Ordering::Acquire))
        });
        let shared = end.0.saturating_sub(framed.0);
        Room {
            ring_blocks: self.config.ring.blocks,
            used_blocks,
            waiting_blocks: self.config.ring.blocks_for(shared.saturating_add(local.saturating_mul(2))),
            reserved_blocks,
            reserve_blocks,
            block_bytes: self.config.ring.block_bytes,
            records: self.levels.records.load(Ordering::Relaxed),
        }
    }

    /// Promises room for so many records with so many bytes of bodies and data objects (24 bytes and 4 per 4 KiB each) in all; `None` when the ring is too full
    /// now. While the memory for records is full it writes blocks itself; if others have been promised all of it, it waits for one of them to end.
    #[must_use]
    pub fn try_reserve(self: &Arc<Self>, records: u64, bytes: u64) -> Option<LogRoom> {
        let blocks = self.worst_case_blocks(records, bytes);
        loop {
            {
                let mut admission = self.admission.lock();
                if self.room().free_blocks() < blocks {
                    return None;
                }
                if self.fits_staging(blocks, self.staging_reserve()) {
                    self.staging.promise(blocks);
                    return Some(LogRoom { wal: Arc::clone(self), blocks });
                }
                if blocks > self.promisable_blocks() || self.check().is_err() {
                    return None;
                }
                if self.staging.end() == self.staging.consumed() {
                    // Nothing to write: hundreds of clients would run empty groups, and hold up those who have what they wait for.
                    self.levels.promise_waiters.fetch_add(1, Ordering::SeqCst);
                    self.given_back.wait_for(&mut admission, PROMISES_LOOK);
                    self.levels.promise_waiters.fetch_sub(1, Ordering::SeqCst);
                    continue;
                }
            }
            if self.relieve().is_err() {
                return None;
            }
        }
    }

    /// Whether records of so many blocks more have room in memory.
    fn fits_staging(&self, blocks: u64, reserve: u64) -> bool {
        self.staging.fits(blocks, self.config.ring.capacity().into(), reserve)
    }

    /// Bytes of memory that admission leaves to the engine's own records. None when the ring is not larger: what it holds, memory holds.
    fn staging_reserve(&self) -> u64 {
        let ring = self.config.ring.bytes(self.config.ring.blocks);
        if ring > STAGING_BYTES_MAX { STAGING_RESERVE_BYTES } else { 0 }
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
        let memory = self.staging.capacity().saturating_sub(self.staging_reserve());
        let in_memory = memory / u64::from(self.config.ring.capacity().max(1));
        self.config.ring.blocks.saturating_sub(reserve).min(in_memory)
    }

    /// Charges a record that is about to be drawn; returns what [`super::staging::Staging::settle`] takes off the promise when it is.
    pub(super) fn pay(&self, payer: Payer<'_>, bytes: u64) -> Result<u64> {
        let ring = &self.config.ring;
        let cost = ring.blocks_for(bytes);
        let full = |available: u64| StoreError::NoSpace { available: ring.bytes(available), needed: ring.bytes(cost) };
        let is_spare = matches!(payer, Payer::Spare);
        let Payer::Room(room) = payer else {
            // From the reserve: no admission, but the ring must hold it, and memory.
            let _admission = self.admission.lock();
            let state = self.room();
            let promised = if is_spare { state.reserved_blocks } else { 0 };
            let staged = self.staging.end().0.saturating_sub(self.staging.framed().0);
            let local = self.levels.local_bytes.load(Ordering::Acquire);
            let waiting = ring.blocks_for(staged.saturating_add(local.saturating_mul(2)).saturating_add(bytes));
            let then = state.used_blocks.saturating_add(waiting).saturating_add(promised);
            if then > ring.blocks || !self.fits_staging(cost, 0) {
                return Err(full(ring.blocks.saturating_sub(state.used_blocks)));
            }
            self.staging.promise(cost);
            return Ok(cost);
        };
        let missing = cost.saturating_sub(room.blocks);
        if missing > 0 {
            let _admission = self.admission.lock();
            let free = self.room().free_blocks();
            if missing > free || !self.fits_staging(missing, self.staging_reserve()) {
                return Err(full(room.blocks.saturating_add(free)));
            }
            self.staging.promise(missing);
            room.blocks = room.blocks.saturating_add(missing);
        }
        room.blocks = room.blocks.saturating_sub(cost);
        Ok(cost)
    }
}
