//! Objects that no published checkpoint contains: written and not named, named by a record, referenced by nodes of the next checkpoint.

use crate::StoreError;
use crate::device::Ticket;
use crate::state::Unstored;
use crate::store::{Batch, DataObject, Result};
use envoyfs_layout::{Hlc, IdMap, Oid, Reference, UNIT};
use std::collections::BTreeMap;

/// A batch's objects and what belongs to it.
#[derive(Default)]
pub(crate) struct Objects {
    pub(crate) number: u64,
    pub(crate) unstored: IdMap<Oid, Unstored>,
    /// Piece appended to an object -> that object.
    pub(crate) grown: IdMap<Oid, Oid>,
}

/// Objects that no published checkpoint contains.
#[derive(Default)]
pub(crate) struct Batches {
    pub(crate) current: Objects,
    pub(crate) frozen: Option<Objects>,
    /// Written, not named yet.
    pub(crate) written: IdMap<Oid, Ticket>,
}

impl Batches {
    /// Objects of the batch that a checkpoint is made of, or of the one that grows.
    pub(super) fn of(&mut self, batch: Batch) -> Result<&mut Objects> {
        match batch {
            Batch::Current => Ok(&mut self.current),
            Batch::Frozen => self.frozen.as_mut().ok_or_else(|| StoreError::Misuse("nothing is frozen".into())),
        }
    }

    /// Data that a record names becomes part of the current batch.
    pub(crate) fn name(&mut self, object: &DataObject, birth: Hlc) {
        let objects = &mut self.current;
        if let Some(before) = object.extends {
            let root = objects.grown.get(&before).copied().unwrap_or(before);
            if let Some(grown) = objects.unstored.get_mut(&root) {
                grown.reference.stored_bytes += object.stored_bytes;
                grown.reference.logical_bytes = grown.reference.stored_bytes;
                grown.reference.birth = grown.reference.birth.max(birth);
                grown.pieces += 1;
                objects.grown.insert(object.oid, root);
                return;
            }
        }
        let reference = Reference::extent(object.oid, birth, object.stored_bytes);
        let batch = objects.number;
        objects
            .unstored
            .insert(object.oid, Unstored { reference, edges: Vec::new(), batch, referred: false, pieces: 1 });
    }

    /// Whether a record may name these objects.
    pub(super) fn check_names(&self, data: &[DataObject]) -> Result<()> {
        let mut ends: BTreeMap<Oid, u64> = BTreeMap::new();
        let mut roots: BTreeMap<Oid, Oid> = BTreeMap::new();
        for object in data {
            let bad = |what| StoreError::BadReference { oid: object.oid, what };
            if !self.written.contains_key(&object.oid) {
                return Err(bad("it was not written, or a record names it already"));
            }
            let Some(before) = object.extends else {
                ends.insert(object.oid, end_of(object.oid, object.stored_bytes));
                continue;
            };
            let objects = &self.current;
            let root = roots.get(&before).or_else(|| objects.grown.get(&before)).copied().unwrap_or(before);
            roots.insert(object.oid, root);
            let known = objects.unstored.get(&root);
            if known.is_some_and(|known| known.referred) {
                return Err(bad("what it extends is referenced by a stored node already"));
            }
            let end =
                ends.get(&root).copied().or_else(|| known.map(|known| end_of(root, known.reference.stored_bytes)));
            let end = end.ok_or_else(|| bad("what it extends was not named in this batch"))?;
            if end != end_of(object.oid, 0) {
                return Err(bad("it does not start where the object that it extends ends"));
            }
            ends.insert(root, end + u64::from(object.stored_bytes / UNIT));
        }
        Ok(())
    }
}

/// Unit behind an object, as a number that is comparable between objects.
const fn end_of(oid: Oid, stored_bytes: u32) -> u64 {
    oid.0 + (stored_bytes / UNIT) as u64
}
