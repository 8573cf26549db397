//! Taking away what a device held: no tool, and no later `fsck --rebuild`, may find an older file system or store on it.
//!
//! Both ends of the device, whole; every signature that was found, wherever it stands (copies of Btrfs lie at 64 MiB and 256 GiB); and of an older store the superblocks
//! where *its* size puts them, which is not the end of the device when that has grown, and headers and footers of its segments, where the device discards nothing.
//! (A store of which no superblock was left is not known here: a rebuild that finds segments of several stores asks which one is meant.)

use super::discard::STEP_BYTES;
use envoyfs_engine::signature::{ENVOYFS, Found};
use envoyfs_layout::superblock::{BYTES, Superblock};
use indicatif::ProgressBar;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// What both ends of a device are cleared of.
const ENDS_BYTES: u64 = 1 << 20;
const BLOCK: u64 = 4096;

/// The older stores that these signatures belong to.
pub fn stores(file: &File, found: &[Found]) -> Vec<Superblock> {
    let mut out: Vec<Superblock> = Vec::new();
    for found in found.iter().filter(|found| found.name == ENVOYFS) {
        let mut bytes = vec![0; BYTES];
        let read = file.read_exact_at(&mut bytes, found.offset).is_ok();
        let old = read.then(|| Superblock::decode(&bytes, found.offset).ok()).flatten();
        out.extend(old.filter(|old| out.iter().all(|known| (known.seed, known.size) != (old.seed, old.size))));
    }
    out
}

/// Clears all but segments; the caller flushes.
pub fn clear_old(file: &File, size_bytes: u64, found: &[Found], old: &[Superblock]) -> io::Result<()> {
    let mut blocks: BTreeSet<u64> = BTreeSet::new();
    for found in found {
        blocks.insert(found.offset / BLOCK * BLOCK);
        blocks.insert((found.offset + found.magic_bytes.saturating_sub(1)) / BLOCK * BLOCK);
    }
    blocks.extend(old.iter().flat_map(|old| Superblock::positions(old.size)));
    for block in blocks {
        zeros(file, block, BLOCK.min(size_bytes.saturating_sub(block)))?;
    }
    zeros(file, 0, ENDS_BYTES.min(size_bytes))?;
    let last = size_bytes.saturating_sub(ENDS_BYTES);
    zeros(file, last, size_bytes - last)
}

/// Clears headers and footers of an older store's segments between two offsets: without them no scan finds the store. Flushes now and then; the caller does at the end.
/// Costs a write of 8 KiB for each container, ascending: a footer lies just before the next header.
pub fn clear_segments(file: &File, old: &Superblock, from: u64, to: u64, bar: &ProgressBar) -> io::Result<()> {
    let mut flushed = from;
    for number in 0..=u64::from(old.containers) {
        let border = old.segments_offset.saturating_add(number.saturating_mul(old.segment_bytes.into()));
        let (start, end) = (border.saturating_sub(BLOCK).max(from), border.saturating_add(BLOCK).min(to));
        if border >= to {
            break;
        }
        if start < end {
            zeros(file, start, end - start)?;
        }
        if border.saturating_sub(flushed) >= STEP_BYTES {
            file.sync_data()?;
            flushed = border;
        }
        bar.set_position(border);
    }
    bar.finish_and_clear();
    Ok(())
}

/// Writes zeros.
pub fn zeros(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; (1 << 16).min(usize::try_from(bytes).unwrap_or(usize::MAX))];
    let mut at = offset;
    while at < offset + bytes {
        let length = usize::try_from(offset + bytes - at).unwrap_or(usize::MAX).min(zeros.len());
        file.write_all_at(zeros.get(..length).unwrap_or_default(), at)?;
        at += length as u64;
    }
    Ok(())
}
