//! Taking away what a device held: no tool, and no later `fsck --rebuild`, may find an older file system or store on it.
//!
//! Both ends of the device, whole; every signature that was found, wherever it stands (copies of Btrfs lie at 64 MiB and 256 GiB); and the superblocks of an older
//! store where *its* size puts them, which is not the end of the device when that has grown.

use envoyfs_engine::signature::{ENVOYFS, Found};
use envoyfs_layout::superblock::{BYTES, Superblock};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// What both ends of a device are cleared of.
const ENDS_BYTES: u64 = 1 << 20;
const BLOCK: u64 = 4096;

/// Clears; the caller flushes.
pub fn clear_old(file: &File, size_bytes: u64, found: &[Found]) -> io::Result<()> {
    let mut blocks: BTreeSet<u64> = BTreeSet::new();
    for found in found {
        blocks.insert(found.offset / BLOCK * BLOCK);
        blocks.insert((found.offset + found.magic_bytes.saturating_sub(1)) / BLOCK * BLOCK);
        if found.name == ENVOYFS {
            blocks.extend(superblocks_of(file, found.offset));
        }
    }
    for block in blocks {
        zeros(file, block, BLOCK.min(size_bytes.saturating_sub(block)))?;
    }
    zeros(file, 0, ENDS_BYTES.min(size_bytes))?;
    let last = size_bytes.saturating_sub(ENDS_BYTES);
    zeros(file, last, size_bytes - last)
}

/// Where an old store has its superblocks, by what one of them says.
fn superblocks_of(file: &File, position: u64) -> Vec<u64> {
    let mut bytes = vec![0; BYTES];
    let read = file.read_exact_at(&mut bytes, position).is_ok();
    let old = read.then(|| Superblock::decode(&bytes, position).ok()).flatten();
    old.map(|old| Superblock::positions(old.size).to_vec()).unwrap_or_default()
}

/// Writes zeros.
pub fn zeros(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; 1 << 16];
    let mut at = offset;
    while at < offset + bytes {
        let length = usize::try_from(offset + bytes - at).unwrap_or(usize::MAX).min(zeros.len());
        file.write_all_at(zeros.get(..length).unwrap_or_default(), at)?;
        at += length as u64;
    }
    Ok(())
}
