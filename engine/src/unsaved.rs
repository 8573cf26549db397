//! Objects of a read-only mount: what the client makes while it replays the log stays in memory, since such a mount writes nothing.
//!
//! Their ids have segment numbers from the top downwards, which no store ever reaches; they end with the mount.

use crate::sync::RwLock;
use envoyfs_layout::{BLOCK, Oid, UNIT};
use std::collections::HashMap;
use std::sync::Arc;

/// Objects by id.
#[derive(Debug, Default)]
pub(crate) struct Unsaved {
    objects: RwLock<HashMap<Oid, Arc<[u8]>>>,
}

impl Unsaved {
    /// Keeps padded bytes and names them. `None` when 2^31 are kept already.
    pub(crate) fn keep(&self, volume: u16, bytes: Arc<[u8]>) -> Option<Oid> {
        let mut objects = self.objects.write();
        let count = u32::try_from(objects.len()).ok().filter(|count| *count < u32::MAX / 2)?;
        let oid = Oid::new(volume, u32::MAX - count, 0);
        objects.insert(oid, bytes);
        Some(oid)
    }

    /// A whole object.
    pub(crate) fn get(&self, oid: Oid) -> Option<Arc<[u8]>> {
        self.objects.read().get(&oid).cloned()
    }

    /// Copies a range of an object, which starts at a block and may end in a unit. False if there is no such object or range.
    pub(crate) fn read(&self, oid: Oid, first: u32, into: &mut [u8]) -> bool {
        debug_assert!(first.is_multiple_of(BLOCK) && into.len().is_multiple_of(UNIT as usize), "checked by the caller");
        let first = first as usize;
        let Some(object) = self.get(oid) else { return false };
        let Some(bytes) = object.get(first..first.saturating_add(into.len())) else { return false };
        into.copy_from_slice(bytes);
        true
    }
}
