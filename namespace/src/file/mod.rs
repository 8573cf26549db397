//! The contents of one regular file in memory: an overlay of changes over an immutable body.
//!
//! Owns what a file reads as, which blocks its changes free, and how changes become a new body. Attributes, size and locks are the inode's. Three layers, looked at from the
//! top: *active* changes of this epoch, *frozen* changes of the last one while a checkpoint is built from them, and the *base*: the body that the last checkpoint stored.
//! If power fails, the base is read from the checkpoint and [`Content::prepare`] and [`Content::apply`] of the same records, in the same order, give the same bytes again.
//!
//! Promises:
//! - Bytes beyond the size are zeros in every mapped block, and no block wholly beyond it is mapped; so that growing a file never shows what was there before.
//! - A block of an exclusive extent is freed exactly once, when the last layer that shows it is covered (INV-11); a block of any other extent never. What a lower layer
//!   still names under a cover was freed when the cover was put on, with one exception: payloads of the frozen layer have no extent until they are built, so that what the
//!   active layer covered of them is freed at [`Content::install`].
//! - An edit either fails in [`Content::prepare`], before its record is appended, or not at all.
//!
//! ```text
//! prepare (reads; may fail) -> append the record -> apply (memory only)
//! roll -> build (writes; may fail and be repeated) -> install
//! ```

mod build;
mod changes;
mod edit;
mod extents;
mod read;
mod split;
mod view;

#[cfg(test)]
mod tests;

pub use build::Built;
pub use edit::{Edit, Prepared};
pub use split::{Split, split};

use crate::api::Result;
use crate::tree::Nodes;
use changes::Changes;
use envoyfs_engine::store::{DataObject, FreedRange};
use envoyfs_layout::inode::Body;
use envoyfs_layout::{BLOCK, Hlc, Oid};
use std::ops::ControlFlow;

/// Bytes of a block.
pub const BLOCK_BYTES: u64 = BLOCK as u64;
/// Largest size of a file: the last block must end below 2^63.
pub const FILE_BYTES_MAX: u64 = (1 << 63) - 1 - BLOCK_BYTES;

/// A block in memory.
type Block = [u8; BLOCK as usize];

/// The contents of one regular file. Guarded by its inode's lock.
#[derive(Debug, Default)]
pub struct Content {
    /// What the last build stored.
    base: Body,
    /// Changes up to the last freeze, until they are installed as the base.
    frozen: Option<Changes>,
    /// Changes since.
    active: Changes,
    /// Bytes that the frozen changes add to what the base allocates.
    frozen_bytes: i64,
    /// Bytes that the active changes add to that.
    active_bytes: i64,
}

impl Content {
    /// An empty file.
    pub fn empty() -> Self {
        Self::default()
    }

    /// As it was stored.
    pub fn from_body(body: &Body) -> Self {
        Self { base: body.clone(), ..Self::default() }
    }

    /// The stored body under all changes: what the entry names while [`is_clean`](Self::is_clean).
    pub fn base(&self) -> &Body {
        &self.base
    }

    /// Are there no changes at all, active or frozen?
    pub fn is_clean(&self) -> bool {
        self.frozen.is_none() && self.active.is_empty()
    }

    /// Closes the active changes: they become the frozen ones. Called before the first change after a freeze, and by the builder before [`build`](Self::build), whichever
    /// comes first; without active changes it does nothing. The frozen changes of an earlier epoch must have been installed.
    pub fn roll(&mut self) {
        if self.active.is_empty() {
            return;
        }
        assert!(self.frozen.is_none(), "one builder at a time: frozen changes are installed before the next freeze");
        self.frozen = Some(std::mem::take(&mut self.active));
        self.frozen_bytes = std::mem::take(&mut self.active_bytes);
    }

    /// Allocated bytes: stored bytes of slices, 4096 for a block in memory, 0 for bytes in the inode. Memory only.
    pub fn allocated(&self) -> u64 {
        self.base.allocated().saturating_add_signed(self.frozen_bytes).saturating_add_signed(self.active_bytes)
    }

    /// Reads at most `into.len()` bytes at `offset` and says how many, fewer only at the end. Verified by checksums; holes are zeros. Give a buffer that is a multiple of
    /// 4096 for the fastest way; what it has beyond the bytes read is unspecified.
    pub fn read(&self, nodes: &Nodes, size: u64, offset: u64, into: &mut [u8]) -> Result<usize> {
        read::read(self, nodes, size, offset, into)
    }

    /// The first offset from `offset` on that is data (or, with `data` false, a hole; the end of the file is one). `None`: there is none, or `offset` is not before the end.
    pub fn seek(&self, nodes: &Nodes, size: u64, offset: u64, data: bool) -> Result<Option<u64>> {
        read::seek(self, nodes, size, offset, data)
    }

    /// The extent of the active changes that ends, in the file and in itself, right before `file_block`, and its stored bytes: the hint for `append_data(after)`.
    pub fn last_object(&self, file_block: u64) -> Option<(Oid, u32)> {
        self.active.last_object(file_block).map(|extent| (extent.oid, extent.stored_bytes))
    }

    /// The id under which a block is stored now: the hint for what overwrites it. `None` also if that cannot be read.
    pub fn stored_at(&self, nodes: &Nodes, file_block: u64) -> Option<Oid> {
        let mut found = None;
        let visited = view::walk(self, nodes, file_block..file_block.saturating_add(1), &mut |part| {
            if let view::Kind::Slice(stored) = part.kind {
                let extent = stored.extent.oid;
                let slot = u32::from(extent.slot()).saturating_add(stored.units().start);
                found = u16::try_from(slot).ok().map(|slot| Oid::new(extent.volume(), extent.segment(), slot));
            }
            Ok(ControlFlow::Break(()))
        });
        visited.ok().and(found)
    }

    /// Is this block in memory since the last freeze? Then a change of part of it needs no more room there.
    pub fn is_payload(&self, file_block: u64) -> bool {
        self.active.is_payload(file_block)
    }

    /// What the record should say in `extends` for an object written at `file_block`: the extent that it continues, if one of the same epoch ends there in the file, in the
    /// next slot, and both together are at most `extent_bytes_max`. Asked under the lock under which the record is appended.
    /// An extent that is not exclusive any more (`es` was raised by a move) does not grow: its new birth would make blocks exclusive that were covered without being freed.
    pub fn extends(&self, es: Hlc, file_block: u64, object: &DataObject, extent_bytes_max: u32) -> Option<Oid> {
        let extent = self.active.last_object(file_block)?;
        let fits = extent.stored_bytes.checked_add(object.stored_bytes).is_some_and(|sum| sum <= extent_bytes_max);
        (fits && extent.birth.exclusive(es) && changes::continues(&extent, object)).then_some(extent.oid)
    }

    /// Everything of an edit that can fail: checks it, loads the blocks it changes in part, and finds what it covers. Reads nodes and data. The content must not change
    /// until [`apply`](Self::apply).
    pub fn prepare(&self, nodes: &Nodes, old_size: u64, edit: &Edit<'_>) -> Result<Prepared> {
        edit::prepare(self, nodes, old_size, edit)
    }

    /// The edit of a record, live and in replay. Memory only; cannot fail. `es` is the largest share time on the path, `birth` that of the record. What it covers of exclusive
    /// extents is pushed to `freed`, also of extents that no checkpoint has seen.
    pub fn apply(&mut self, prepared: Prepared, es: Hlc, birth: Hlc, freed: &mut Vec<FreedRange>) {
        edit::apply(self, prepared, es, birth, freed);
    }
}
