//! The drop queue: nodes whose count is zero, worked off in checkpoints, paced by what they add to them.
//!
//! An edge takes 32 bytes of the batch, and up to a page of its segment: where extents of a block are scattered over a large store, each edge dirties another page, and with more
//! of them than memory holds nearly every one is written at once, at 20 to 100 times what it takes of the batch. So pages written count like the batch, and both together
//! take no more than half of what is free beside the containers that other streams may need: on a store that is short of space a publication does less, down to one node.
//!
//! A node that cannot be read is not forgotten: the batch says so, and it stands in a list of its own until a mark or fsck takes it up. If power fails: the batch says what
//! was worked off, and recovery applies that without reading a node.

use crate::StoreError;
use crate::engine::{Engine, Writer};
use crate::store::Result;
use envoyfs_layout::Reference;
use envoyfs_layout::batch::{Batch, Drop};
use envoyfs_layout::node::edges;

/// Containers that the rest of a publication may have to open: batch and roots, pages, survivors.
const OTHERS: u32 = 3;
/// Drops between two looks at the memory that changed pages take; it may pass its bound by one part meanwhile.
const LOOK_DROPS: usize = 16;

impl Engine {
    /// Whether more may be changed in this publication, by choice: the pages that have changed so far, and so many bytes more, have room, and a container is left beside each of two
    /// streams (INV-25). What writers were promised is theirs.
    pub(crate) fn has_room_for_pages(&self, writer: &Writer, more: u64) -> bool {
        let promised = writer.admission.promised_bytes();
        let room =
            u64::from(writer.space.free_containers().saturating_sub(2)) * writer.admission.budget.container_bytes;
        self.state.lock().dirty_page_bytes().saturating_add(more).saturating_add(promised) < room
    }

    /// Whether a publication works off at least one node: a container is free for the pages that it changes.
    pub(crate) fn may_drop(&self, writer: &Writer) -> bool {
        writer.space.free_containers() > 0
    }

    /// Bytes that deleting may add to a publication, batch and pages together.
    pub(crate) fn pace_of_drops(&self, writer: &Writer, hurry: bool) -> u64 {
        let budget = &writer.admission.budget;
        let pace = (if hurry { budget.dirty_max / 2 } else { budget.dirty_max / 8 }).max(64 << 10);
        let promised = writer.admission.promised_bytes();
        let free = writer.space.free_containers().saturating_sub(OTHERS);
        pace.min((u64::from(free) * budget.container_bytes).saturating_sub(promised) / 2)
    }

    /// Pops nodes, frees them, and takes their edges back.
    pub(crate) fn work_off(&self, writer: &Writer, batch: &mut Batch, hurry: bool) -> Result<()> {
        let mut left = self.pace_of_drops(writer, hurry);
        let part_bytes = self.options.settings.page_part_bytes();
        while left > 0 || batch.drops.is_empty() {
            // The first one goes as long as there is a container for its pages: what it frees is all that a full store may have left to gain.
            let goes_on = match batch.drops.len() {
                0 => self.may_drop(writer),
                done => !done.is_multiple_of(LOOK_DROPS) || self.has_room_for_pages(writer, 0),
            };
            if !goes_on {
                return Ok(());
            }
            if let Err(error) = self.pager().load_queue() {
                tracing::error!(%error, "a page of the drop queue cannot be read; nothing is dropped until fsck.envoyfs -y repairs it");
                self.stalled.store(true, crate::sync::atomic::Ordering::SeqCst);
                return Ok(());
            }
            let Some(next) = self.state.lock().next_drop() else { return Ok(()) };
            let found = self
                .reader
                .object(&next)
                .and_then(|bytes| edges(&bytes).map_err(|what| StoreError::Damaged { oid: next.oid, offset: 0, what }));
            self.metrics.state.drops.increment();
            self.metrics.state.drops_unreadable.add(u64::from(found.is_err()));
            let (edges, unreadable) = match found {
                Ok(edges) => (edges, false),
                Err(error) => {
                    tracing::error!(%error, "a node to be deleted cannot be read; it and what it references stay allocated until a mark");
                    (Vec::new(), true)
                }
            };
            let drop = Drop { object: next.oid, stored_bytes: next.stored_bytes, edges, unreadable };
            let mut written =
                self.drop_node(Some(&writer.space), &drop, |error| StoreError::Misuse(error.to_string()))?;
            let more = if batch.drops.len().is_multiple_of(LOOK_DROPS) { 0 } else { part_bytes };
            written += self.spill_beyond(&writer.space, more)?;
            left = left.saturating_sub(written + 16 + drop.edges.len() as u64 * Reference::BYTES as u64);
            batch.drops.push(drop);
        }
        Ok(())
    }
}
