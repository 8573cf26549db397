//! The log without the directory that says where it starts: its blocks name seed, place, sequence and generation themselves.

use super::disk::Disk;
use super::interrupt;
use envoyfs_layout::directory_page::{CUTS_MAX, Cut, StartPosition, VolumeEntry};
use envoyfs_layout::superblock::Superblock;
use envoyfs_layout::wal::Block;
use envoyfs_layout::{Lsn, UNIT};
use std::collections::BTreeMap;

/// What a block's header says.
#[derive(Clone, Copy, Debug)]
struct Found {
    generation: u32,
    epoch: u32,
    first_lsn: Lsn,
    end_lsn: Lsn,
    shared_offset: u32,
    /// What was durable when it was framed.
    durable: Lsn,
}

/// Blocks of a ring.
#[derive(Debug, Default)]
pub struct Ring {
    blocks: BTreeMap<u64, Found>,
    /// Largest generation.
    pub generation: u32,
    /// Largest end.
    pub end: Lsn,
}

impl Ring {
    /// Reads every block of the ring that the superblock describes, unless the user stops it.
    pub fn read(disk: &Disk, superblock: &Superblock, volume: u16) -> Self {
        let mut out = Self::default();
        let block = superblock.logical_block.max(UNIT) as usize;
        let count = superblock.ring_bytes / block as u64;
        let mut bytes = vec![0; block];
        for index in (0..count).take_while(|_| !interrupt::requested()) {
            let position = superblock.ring_offset + index * block as u64;
            if disk.read_at(position, &mut bytes).is_err() {
                continue;
            }
            let Ok(found) = Block::decode(&bytes, &superblock.seed, position) else { continue };
            let header = found.header;
            if header.volume != volume || header.sequence.checked_rem(count) != Some(index) {
                continue;
            }
            let shared = u32::try_from(found.shared.len()).unwrap_or(u32::MAX);
            let row = Found {
                generation: header.generation,
                epoch: header.writer_epoch,
                first_lsn: header.first_lsn,
                end_lsn: found.end_lsn(),
                shared_offset: header.used_bytes.saturating_sub(shared),
                durable: header.durable,
            };
            out.generation = out.generation.max(row.generation);
            out.end = out.end.max(row.end_lsn);
            out.blocks.insert(header.sequence, row);
        }
        out
    }

    /// How many of the first blocks that there are stand where a ring of this length has them.
    #[must_use]
    pub fn agreeing(disk: &Disk, superblock: &Superblock) -> usize {
        const LOOK_BLOCKS: u64 = 256;
        let block = superblock.logical_block.max(UNIT) as usize;
        let count = superblock.ring_bytes / block as u64;
        let mut bytes = vec![0; block];
        let agrees = |index: &u64| {
            let position = superblock.ring_offset + index * block as u64;
            let read = disk.read_at(position, &mut bytes).is_ok();
            let found = Block::decode(&bytes, &superblock.seed, position).ok().filter(|_| read);
            found.is_some_and(|found| found.header.sequence.checked_rem(count) == Some(*index))
        };
        (0..count.min(LOOK_BLOCKS)).filter(agrees).count()
    }

    /// Largest sequence.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.blocks.keys().next_back().copied().unwrap_or(0)
    }

    /// Describes in `entry` the log from `freeze` on, as far as its blocks follow each other: start, cuts, generation. False if it cannot be told.
    #[must_use]
    pub fn describe(&self, entry: &mut VolumeEntry, freeze: Lsn, blocks: u64) -> bool {
        let holds = |found: &Found| (found.first_lsn..=found.end_lsn).contains(&freeze);
        // At a border the later block has the freeze LSN too, at its start, and blocks without records have it in between; the earliest of those that follow each other begins the chain.
        let candidates: BTreeMap<u64, &Found> =
            self.blocks.iter().filter(|(_, found)| holds(found)).map(|(sequence, found)| (*sequence, found)).collect();
        let Some((generation, last)) = candidates.iter().map(|(sequence, found)| (found.generation, *sequence)).max()
        else {
            return false;
        };
        let is_one = |sequence: u64| candidates.get(&sequence).is_some_and(|found| found.generation == generation);
        let Some(first) = (0..=last).rev().take_while(|sequence| is_one(*sequence)).last() else { return false };
        let Some(begin) = candidates.get(&first).copied() else { return false };
        let within = |found: &Found, lsn: Lsn| {
            found.shared_offset + u32::try_from(lsn.0.saturating_sub(found.first_lsn.0)).unwrap_or(0)
        };
        let mut cuts = Vec::new();
        let (mut sequence, mut before) = (first, *begin);
        while let Some(next) = self.blocks.get(&(sequence + 1)) {
            let follows = next.generation >= before.generation && next.first_lsn <= before.end_lsn;
            let gap = next.generation == before.generation && next.first_lsn != before.end_lsn;
            // A mount begins with what is durable. Where its first blocks were lost, a later one may seem to follow what the mount before left behind the cut.
            let is_first = next.generation == before.generation || next.first_lsn == next.durable;
            if !follows || gap || !is_first {
                break;
            }
            if next.generation != before.generation {
                let offset = if next.first_lsn == before.end_lsn { 0 } else { within(&before, next.first_lsn) };
                let (generation, epoch, lsn) = (next.generation, next.epoch, next.first_lsn);
                cuts.push(Cut { generation, epoch, lsn, sequence, offset });
            }
            sequence += 1;
            before = *next;
        }
        if cuts.len() >= CUTS_MAX {
            return false;
        }
        entry.start = StartPosition {
            generation: begin.generation,
            sequence: first,
            offset: within(begin, freeze),
            ring_block: first.checked_rem(blocks).unwrap_or(0),
        };
        entry.ring_generation = before.generation;
        entry.writer_epoch = entry.writer_epoch.max(before.epoch);
        entry.promised_epoch = entry.promised_epoch.max(before.epoch);
        entry.cuts = cuts;
        true
    }
}
