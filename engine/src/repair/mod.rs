//! Offline writing: what a tool that repairs an unmounted store appends and publishes. Used by `fsck.envoyfs`; the mounted engine has its own ways.
//!
//! Owns the order of writes. Everything goes to containers that were free and that the log does not name, then:
//!
//! ```text
//! objects, system pages, table parts, footers -> FLUSH -> directory N + 1, whole table (other slots of A and B) -> FLUSH -> superblocks 0, 1 -> FLUSH -> 2, 3 -> FLUSH
//! ```
//! If power fails before the superblocks, the store is what it was; afterwards, what was published. Nothing that the version before names is overwritten, so any number of
//! interrupted repairs leaves the same evidence for the next.

mod writer;

pub use writer::{Filled, OfflineWriter};

use crate::StoreError;
use crate::device::Device;
use crate::engine::Counters;
use crate::superblock::{publish, read_published, write_directory};
use envoyfs_layout::Lsn;
use envoyfs_layout::directory_page::{ContainerRow, PublishedCheckpoint, StartPosition, VolumeDirectory, VolumeEntry};
use envoyfs_layout::superblock::Superblock;

/// How far a publication reserves numbers ahead: inodes, realms, territories. So many beyond those in use may have been handed out.
pub const NUMBERS_AHEAD: [u64; 3] = Counters::CHUNK;
/// No number from here on, of the same.
pub const NUMBERS_END: [u64; 3] = Counters::END;

/// Publishes `entry` and `table` as the version after `superblock`; everything they name has been written. Returns the superblock that rules now.
///
/// # Errors
/// Whatever the device says: then either version rules.
pub fn publish_directory(
    device: &dyn Device,
    superblock: &Superblock,
    entry: VolumeEntry,
    table: Vec<ContainerRow>,
) -> Result<Superblock, StoreError> {
    let mut next = superblock.next();
    let mut directory = VolumeDirectory { sequence: 0, entry, table };
    // Whole, so that both copies are new. What cannot be read is no evidence: then any slot will do.
    let mut before = read_published(device, superblock).map(|(_, table)| table).unwrap_or_default();
    before.renew();
    device.flush()?;
    write_directory(device, &mut next, &mut directory, &mut before)?;
    device.flush()?;
    publish(device, &next)?;
    Ok(next)
}

/// Begins an empty log behind `sequence`, the largest block sequence that the ring may hold, at `lsn`, which no record has passed. Nothing of the old log counts any
/// more: its blocks belong to older generations. The caller has decided that nothing in it is needed.
pub fn begin_log(entry: &mut VolumeEntry, superblock: &Superblock, sequence: u64, lsn: Lsn) {
    let blocks = superblock.ring_bytes / u64::from(superblock.logical_block.max(1));
    let sequence = sequence.saturating_add(1).max(1);
    entry.ring_generation = entry.ring_generation.saturating_add(1);
    entry.cuts.clear();
    entry.start = StartPosition {
        generation: entry.ring_generation,
        sequence,
        offset: 0,
        ring_block: sequence.checked_rem(blocks).unwrap_or(0),
    };
    entry.checkpoint = PublishedCheckpoint {
        record: lsn,
        epoch: entry.writer_epoch,
        freeze: lsn,
        stream_hash: 0,
        number: entry.checkpoint.number.saturating_add(1),
    };
    entry.merged_through = entry.checkpoint.number;
}
