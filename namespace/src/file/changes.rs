//! One layer of changes: an interval map over the blocks of a file.

use super::{BLOCK_BYTES, Block};
use envoyfs_engine::store::DataObject;
use envoyfs_layout::{BLOCK, Encoding, Hlc, Oid, Reference, ReferenceKind, UNIT};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// What a layer says of consecutive blocks.
#[derive(Debug)]
pub(super) enum Entry {
    /// Blocks of an extent, all of them whole: checksums, one a block.
    Slice {
        /// The extent, in [`Changes::extent`].
        oid: Oid,
        /// First block in it.
        extent_block: u32,
        /// One a block.
        crcs: Vec<u32>,
    },
    /// One block in memory, and the newest change in it.
    Payload(Box<Block>, Hlc),
    /// Nothing, in so many blocks.
    Hole(u64),
}

impl Entry {
    /// Blocks.
    pub fn blocks(&self) -> u64 {
        match self {
            Self::Slice { crcs, .. } => crcs.len() as u64,
            Self::Payload(..) => 1,
            Self::Hole(blocks) => *blocks,
        }
    }

    /// Cuts the entry off before its block `at` and returns the rest.
    fn split_off(&mut self, at: u64) -> Option<Self> {
        if at >= self.blocks() {
            return None;
        }
        match self {
            Self::Slice { oid, extent_block, crcs } => {
                let at = usize::try_from(at).ok()?;
                let rest = crcs.split_off(at);
                Some(Self::Slice { oid: *oid, extent_block: *extent_block + u32::try_from(at).ok()?, crcs: rest })
            }
            Self::Payload(..) => None,
            Self::Hole(blocks) => {
                let rest = *blocks - at;
                *blocks = at;
                Some(Self::Hole(rest))
            }
        }
    }
}

/// One layer of changes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// By first block; disjoint, none empty.
    entries: BTreeMap<u64, Entry>,
    /// Every extent that a record of this layer named, as far as it has grown.
    extents: HashMap<Oid, Reference>,
    /// Newest change.
    birth: Hlc,
}

/// Would the object be the growth of this extent: does it start in the slot where that ends, at a block's border?
pub(super) fn continues(extent: &Reference, object: &DataObject) -> bool {
    let (a, b) = (extent.oid, object.oid);
    extent.stored_bytes.is_multiple_of(BLOCK)
        && (a.volume(), a.segment()) == (b.volume(), b.segment())
        && u32::from(a.slot()) + extent.stored_bytes / UNIT == u32::from(b.slot())
}

impl Changes {
    /// Nothing changed?
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.birth == Hlc::ZERO
    }

    /// Newest change.
    pub const fn birth(&self) -> Hlc {
        self.birth
    }

    /// Notes a change.
    pub fn raise_birth(&mut self, birth: Hlc) {
        self.birth = self.birth.max(birth);
    }

    /// The extent of a slice of this layer, as far as it has grown.
    pub fn extent(&self, oid: Oid) -> Option<Reference> {
        self.extents.get(&oid).copied()
    }

    /// All entries with their first blocks, ascending.
    pub fn entries(&self) -> impl Iterator<Item = (u64, &Entry)> {
        self.entries.iter().map(|(block, entry)| (*block, entry))
    }

    /// The entries that overlap a range, ascending.
    pub fn overlapping(&self, range: Range<u64>) -> impl Iterator<Item = (u64, &Entry)> {
        let before = self.entries.range(..range.start).next_back();
        let reaching = before.filter(|(block, entry)| **block + entry.blocks() > range.start);
        let inside = if range.is_empty() { None } else { Some(self.entries.range(range)) };
        reaching.into_iter().chain(inside.into_iter().flatten()).map(|(block, entry)| (*block, entry))
    }

    /// The extent whose last block is the one before `file_block`.
    pub fn last_object(&self, file_block: u64) -> Option<Reference> {
        let (block, entry) = self.entries.range(..file_block).next_back()?;
        let Entry::Slice { oid, extent_block, crcs } = entry else { return None };
        let extent = self.extent(*oid)?;
        let ends_here = block + entry.blocks() == file_block;
        (ends_here && u64::from(*extent_block) + crcs.len() as u64 == u64::from(extent.stored_bytes / BLOCK))
            .then_some(extent)
    }

    /// Removes what is in a range; entries that reach over its ends are cut.
    fn clear(&mut self, range: &Range<u64>) {
        if range.is_empty() {
            return;
        }
        if let Some((block, entry)) = self.entries.range_mut(..range.start).next_back()
            && let Some(mut rest) = entry.split_off(range.start - *block)
        {
            if let Some(after) = rest.split_off(range.end - range.start) {
                self.entries.insert(range.end, after);
            }
            return self.clear_inside(range);
        }
        self.clear_inside(range);
    }

    /// Removes the entries that start in a range; the last may reach over its end and is cut.
    fn clear_inside(&mut self, range: &Range<u64>) {
        while let Some((block, _)) = self.entries.range(range.clone()).next() {
            let block = *block;
            if let Some(mut entry) = self.entries.remove(&block)
                && let Some(after) = entry.split_off(range.end - block)
            {
                self.entries.insert(range.end, after);
            }
        }
    }

    /// A block in memory.
    pub fn put_payload(&mut self, block: u64, bytes: Box<Block>, birth: Hlc) {
        self.clear(&(block..block + 1));
        self.entries.insert(block, Entry::Payload(bytes, birth));
    }

    /// Is this block in memory in this layer?
    pub fn is_payload(&self, block: u64) -> bool {
        matches!(self.entries.get(&block), Some(Entry::Payload(..)))
    }

    /// A hole.
    pub fn put_hole(&mut self, range: Range<u64>) {
        self.clear(&range);
        if !range.is_empty() {
            self.entries.insert(range.start, Entry::Hole(range.end - range.start));
        }
    }

    /// An object of whole blocks at a file block: an extent of its own, or the growth of one of this layer that it [`continues`].
    pub fn put_object(&mut self, block: u64, object: DataObject, birth: Hlc) {
        let end = block + object.crcs.len() as u64;
        self.clear(&(block..end));
        let grown = object.extends.and_then(|oid| self.extents.get_mut(&oid));
        let Some(extent) = grown else {
            self.extents.insert(object.oid, reference(object.oid, object.stored_bytes, object.stored_bytes, birth));
            self.entries.insert(block, Entry::Slice { oid: object.oid, extent_block: 0, crcs: object.crcs });
            return;
        };
        let extent_block = extent.stored_bytes / BLOCK;
        extent.stored_bytes += object.stored_bytes;
        extent.logical_bytes += object.stored_bytes;
        extent.birth = extent.birth.max(birth);
        let extent = extent.oid;
        if let Some((before, Entry::Slice { oid, extent_block: first, crcs })) =
            self.entries.range_mut(..block).next_back()
            && *oid == extent
            && *before + crcs.len() as u64 == block
            && u64::from(*first) + crcs.len() as u64 == u64::from(extent_block)
        {
            crcs.extend_from_slice(&object.crcs);
            return;
        }
        self.entries.insert(block, Entry::Slice { oid: extent, extent_block, crcs: object.crcs });
    }
}

/// A reference to an extent.
pub(super) fn reference(oid: Oid, stored_bytes: u32, logical_bytes: u32, birth: Hlc) -> Reference {
    Reference {
        oid,
        birth,
        stored_bytes,
        logical_bytes,
        crc: 0,
        kind: ReferenceKind::Extent,
        flags: 0,
        encoding: Encoding::Plain,
    }
}

/// Blocks that a number of bytes reaches into.
pub(super) const fn blocks_of(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES)
}
