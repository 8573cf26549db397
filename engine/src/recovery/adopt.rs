//! Adopting a checkpoint whose record is in the log but that was not published: its batch is applied to the published state.
//!
//! As while serving, it is applied in parts, and pages that changed are written before their time when they no longer fit: to containers that are free in the
//! published table, so a crash here leaves what was published. A read-only mount keeps them all in memory: it writes nothing.

use super::{Start, read_roots};
use crate::StoreError;
use crate::engine::Engine;
use crate::history::history_row;
use crate::sabotage::{self, Rule};
use crate::space::{Reader, Relocation, Space, install_relocations};
use crate::state::{Fragment, StateError};
use crate::store::Result;
use crate::wal::recovery::{Adopted, Found};
use envoyfs_layout::batch::{Batch, BatchObject, HistoryStep};
use envoyfs_layout::checksum;
use envoyfs_layout::directory_page::VolumeEntry;
use envoyfs_layout::roots::RootsObject;
use envoyfs_layout::segment::TableRow;
use envoyfs_layout::system_page::HistoryRow;
use envoyfs_layout::wal::Relocated;
use envoyfs_layout::{LayoutError, Lsn, ReferenceKind};
use std::collections::BTreeSet;

/// Drops, released rows and repairs between two looks at the memory that changed pages take.
const LOOK_STEPS: usize = 16;

/// An object that was written elsewhere, and that a record names.
pub(super) struct MovedObject {
    pub(super) relocation: Relocation,
    /// In the table of the container that took it.
    pub(super) row: TableRow,
    /// The checkpoint that the mount starts from does not contain it.
    pub(super) is_unstored: bool,
}

/// The checkpoint to start from: the last whose record is in the log, if its batch and its roots can be read; else the published one.
pub(super) fn start(reader: &Reader, entry: &VolumeEntry, found: &Found) -> Result<Start> {
    if let Some(adopted) = &found.adopted {
        let tried = read_batch(reader, entry, adopted).and_then(|batch| {
            let roots = read_roots(reader, [Some(adopted.body.roots), Some(adopted.body.roots_twin)])?;
            reader.set_root_copies(&roots);
            // With a bad node at its top nothing of it could be read; the records in the log lead to the same state from the checkpoint before.
            roots.references.iter().try_for_each(|root| reader.object(root).map(|_| ()))?;
            Ok((batch, roots))
        });
        match tried {
            Ok((batch, roots)) => return Ok(Start { adopted: Some(adopted.clone()), batch, roots }),
            Err(error) => {
                tracing::warn!(%error, "checkpoint {} was not published and cannot be read; starting from {}", adopted.body.number, entry.checkpoint.number)
            }
        }
    }
    let roots = match (entry.roots, entry.roots_twin) {
        (None, None) => RootsObject::default(),
        both => read_roots(reader, [both.0, both.1])?,
    };
    reader.set_root_copies(&roots);
    Ok(Start { adopted: None, batch: Batch::default(), roots })
}

/// How an adopted checkpoint is retained, if its batch says so.
fn retained(batch: &Batch, adopted: &Adopted) -> Option<HistoryRow> {
    let body = &adopted.body;
    batch.history.iter().find_map(|step| history_row(step, body.hlc, body.roots, body.roots_twin))
}

impl Engine {
    /// Brings the state to the checkpoint that the mount starts from. `space`: where pages may be written.
    ///
    /// # Errors
    /// [`StoreError::Refused`]: the batch does not fit the state (a repair wrote the store's books anew, perhaps), and the mount has to start from the published one. Anything else: counts and liveness could not follow it, and the store can only be read.
    pub(super) fn adopt(&self, start: &Start, space: Option<&Space>) -> Result<()> {
        let Some(adopted) = &start.adopted else { return Ok(()) };
        let applied = self.apply_adopted(&start.batch, retained(&start.batch, adopted), space);
        self.forget_segments(Vec::new());
        applied
    }

    fn apply_adopted(&self, batch: &Batch, retained: Option<HistoryRow>, space: Option<&Space>) -> Result<()> {
        let number = batch.checkpoint;
        let misfit = |error: &dyn std::fmt::Display| {
            StoreError::Refused(format!("checkpoint {number} does not fit the one before: {error}"))
        };
        let refused = |error: StateError| misfit(&error);
        let part_bytes = self.options.settings.page_part_bytes();
        let spill = |step: usize| match space {
            Some(space) => self.spill_beyond(space, if step.is_multiple_of(LOOK_STEPS) { 0 } else { part_bytes }),
            None => Ok(0),
        };
        self.state.lock().drop_history(&batch.history).map_err(refused)?;
        let law = |batch: &Batch| {
            self.apply_law(space, batch).map_err(|error| match error {
                StoreError::Misuse(why) => misfit(&why),
                other => other,
            })
        };
        law(batch)?;
        if sabotage::on(Rule::BatchAppliedTwice) {
            law(&Batch { deltas: batch.deltas.clone(), ..Batch::default() })?;
        }
        let pager = self.pager();
        for (step, drop) in batch.drops.iter().enumerate() {
            spill(step)?;
            pager.load_queue()?;
            self.drop_node(space, drop, refused)?;
        }
        for step in &batch.history {
            let HistoryStep::Release { checkpoint, rows } = *step else { continue };
            for row in 0..rows {
                spill(usize::try_from(row).unwrap_or(0))?;
                pager.load_release(checkpoint)?;
                self.state.lock().release_row(checkpoint).map_err(refused)?;
            }
        }
        if let Some(row) = retained {
            self.state.lock().retain(row);
        }
        for (step, repair) in batch.repairs.iter().enumerate() {
            spill(step)?;
            pager.load(&BTreeSet::from([repair.reference.oid.segment()]))?;
            self.state.lock().repair(repair).map_err(refused)?;
        }
        Ok(())
    }

    /// Puts what the log says was written elsewhere into the slot maps, as far as it is of use. Returns those that records name.
    ///
    /// # Errors
    /// A page of a segment cannot be read.
    pub(super) fn adopt_relocations(
        &self,
        segment_in: &dyn Fn(u32) -> u32,
        found: &Found,
        start: &Start,
    ) -> Result<Vec<MovedObject>> {
        let (mut named, pager) = (Vec::new(), self.pager());
        let freeze = start.adopted.as_ref().map_or(Lsn(0), |adopted| adopted.body.freeze);
        for moved in &found.relocated {
            let Relocated { number: segment, slot, units, container, offset_units } = *moved;
            let naming = found.naming(moved);
            let is_unstored = naming.is_some_and(|(record, _)| record.start >= freeze);
            let row = naming.map(|(record, object)| TableRow {
                oid: object.oid,
                birth: record.hlc.birth(),
                stored_bytes: object.stored_bytes,
                crc: checksum::join(&object.crcs, object.stored_bytes as usize),
                offset_units,
                kind: ReferenceKind::Extent,
                owner: 0,
            });
            let to = Fragment { units, container, offset_units };
            let pinned = segment_in(container);
            let relocation = Relocation { segment, slot, to, pinned };
            pager.load(&BTreeSet::from([segment]))?;
            let range = slot..slot.saturating_add(units);
            let live =
                pager.state.lock().segment(segment).is_some_and(|segment| !segment.live.inside(&range).is_empty());
            if live || row.is_some() {
                install_relocations(&pager, &[relocation])?;
            }
            named.extend(row.map(|row| MovedObject { relocation, row, is_unstored }));
        }
        Ok(named)
    }
}

fn read_batch(reader: &Reader, entry: &VolumeEntry, adopted: &Adopted) -> Result<Batch> {
    let parts = adopted.body.batch.iter().map(|part| reader.object(part)).collect::<Result<Vec<_>>>()?;
    let source = |source| StoreError::Structure { structure: "batch", offset: 0, source };
    let batch = Batch::decode(parts.iter().map(|part| &**part)).map_err(source)?;
    let follows = batch.checkpoint == adopted.body.number && batch.checkpoint == entry.checkpoint.number + 1;
    if !follows {
        return Err(source(LayoutError::Field { structure: "batch", field: "checkpoint", found: batch.checkpoint }));
    }
    let twins =
        [adopted.body.roots, adopted.body.roots_twin].map(|roots| batch.new.contains(&BatchObject::from(&roots)));
    if twins != [true; 2] {
        return Err(source(LayoutError::Field { structure: "batch", field: "roots objects", found: 0 }));
    }
    Ok(batch)
}
