//! A leaf of the disk's map: which extent holds each of its blocks, with the block's checksum. In memory an array, in the store a node.

use anyhow::{Context as _, Result, ensure};
use envoyfs_layout::node::{ITEM_HEADER_BYTES, NodeBuilder, NodeHeader, NodeView, Owner, TreeKind};
use envoyfs_layout::{BLOCK, Hlc, Oid, Reference};
use std::ops::Range;

/// One block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The extent; meaningless while `blocks` is 0.
    pub oid: Oid,
    /// Its birth.
    pub birth: Hlc,
    /// Checksum of this block.
    pub crc: u32,
    /// Which block of the extent it is.
    pub first: u16,
    /// Blocks of the extent; 0: never written.
    pub blocks: u16,
}

impl Entry {
    /// Never written.
    pub const EMPTY: Self = Self { oid: Oid(0), birth: Hlc::ZERO, crc: 0, first: 0, blocks: 0 };

    /// The extent.
    pub const fn reference(&self) -> Reference {
        let stored_bytes = self.blocks as u32 * BLOCK;
        Reference::extent(self.oid, self.birth, stored_bytes)
    }

    /// Whether `next` is the block behind this one in the same extent.
    fn continues_in(&self, next: &Self) -> bool {
        next.blocks > 0 && next.oid == self.oid && next.first == self.first + 1
    }
}

/// Blocks that follow each other on the disk and in their extent, or that were all never written.
pub fn runs(entries: &[Entry]) -> impl Iterator<Item = Range<usize>> + use<'_> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let first = entries.get(start)?;
        let mut end = start + 1;
        let mut last = first;
        while let Some(next) = entries.get(end) {
            let joined = if first.blocks == 0 { next.blocks == 0 } else { last.continues_in(next) };
            if !joined {
                break;
            }
            (last, end) = (next, end + 1);
        }
        Some(std::mem::replace(&mut start, end)..end)
    })
}

/// Extents that the entries refer to, each once.
pub fn extents(entries: &[Entry]) -> Vec<Reference> {
    let mut all: Vec<Reference> =
        runs(entries).filter_map(|run| entries.get(run.start)).filter(|e| e.blocks > 0).map(Entry::reference).collect();
    all.sort_by_key(|reference| reference.oid);
    all.dedup_by_key(|reference| reference.oid);
    all
}

/// Largest node of so many blocks.
pub const fn node_bytes_max(blocks: usize) -> u64 {
    (NodeHeader::BYTES + blocks * (ITEM_HEADER_BYTES + 2 + 2 + 2 + 4 + Reference::BYTES)).next_multiple_of(512) as u64
}

/// As a node.
///
/// # Errors
/// It does not fit, which [`node_bytes_max`] excludes.
pub fn encode(entries: &[Entry], birth: Hlc) -> Result<Vec<u8>> {
    let mut builder = NodeBuilder::new(TreeKind::Extents, 0, birth, Owner::default());
    for run in runs(entries) {
        let blocks = entries.get(run.clone()).context("a run of the leaf")?;
        let Some(first) = blocks.first().filter(|first| first.blocks > 0) else { continue };
        let key = u16::try_from(run.start)?.to_be_bytes();
        let mut value = first.first.to_le_bytes().to_vec();
        blocks.iter().for_each(|block| value.extend(block.crc.to_le_bytes()));
        builder.push(&key, &value, &[first.reference()])?;
    }
    Ok(builder.finish())
}

/// From a node, with so many blocks.
///
/// # Errors
/// The node is not one of [`encode`].
pub fn decode(bytes: &[u8], blocks: usize) -> Result<Vec<Entry>> {
    let view = NodeView::parse(bytes)?;
    let mut entries = vec![Entry::EMPTY; blocks];
    for item in view.items() {
        let reference = item.reference_indexes().next().and_then(|index| view.reference(index));
        let reference = reference.context("an item of a leaf without a reference")?;
        let start = usize::from(u16::from_be_bytes(item.key.try_into().context("the key of an item of a leaf")?));
        let (first, crcs) = item.value.split_first_chunk::<2>().context("the value of an item of a leaf")?;
        let extent_blocks = u16::try_from(reference.stored_bytes / BLOCK)?;
        for ((at, first), crc) in (start..).zip(u16::from_le_bytes(*first)..).zip(crcs.chunks(4)) {
            let entry = entries.get_mut(at).context("an item behind the end of its leaf")?;
            ensure!(first < extent_blocks, "an item behind the end of its extent");
            let crc = u32::from_le_bytes(crc.try_into().context("a checksum of a leaf")?);
            *entry = Entry { oid: reference.oid, birth: reference.birth, crc, first, blocks: extent_blocks };
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(oid: u64, first: u16, blocks: u16) -> Entry {
        Entry { oid: Oid(oid), birth: Hlc(oid + 1), crc: u32::from(first) + 7, first, blocks }
    }

    #[test]
    fn a_leaf_with_holes_and_an_extent_in_two_pieces_comes_back_as_it_was() {
        let mut entries = vec![Entry::EMPTY; 64];
        for (at, first) in [(3, 0), (4, 1), (6, 3), (7, 4)] {
            entries[at] = entry(40, first, 5);
        }
        entries[5] = entry(9, 0, 1);
        entries[63] = entry(10, 1, 2);
        let bytes = encode(&entries, Hlc(50)).unwrap();
        assert_eq!(decode(&bytes, 64).unwrap(), entries);
        assert_eq!(extents(&entries).iter().map(|extent| extent.oid.0).collect::<Vec<_>>(), [9, 10, 40]);
        assert_eq!(envoyfs_layout::node::edges(&bytes).unwrap(), extents(&entries));
        assert!(decode(&bytes, 63).is_err());
    }

    #[test]
    fn the_worst_leaf_is_no_larger_than_was_promised() {
        for blocks in [64, 256] {
            let entries: Vec<Entry> = (0..blocks).map(|index| entry(index, 1, 3)).collect();
            let bytes = encode(&entries, Hlc(1000)).unwrap();
            assert!(bytes.len().next_multiple_of(512) as u64 <= node_bytes_max(entries.len()));
            assert!(node_bytes_max(entries.len()) <= 16384);
        }
    }
}
