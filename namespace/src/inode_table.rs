//! The live inodes of a mount, by id.
//!
//! An inode is live while a front end knows it, it is open, dirty, the parent of a live one, or in use by an operation. What is not live is clean, so that its stored entry
//! says everything.

use crate::api::InodeId;
use crate::inode::{Inode, Place};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const SHARDS: usize = 64;

type Shard = Mutex<HashMap<InodeId, Arc<Inode>>>;

/// See the module.
pub(crate) struct InodeTable {
    shards: Vec<Shard>,
}

impl Default for InodeTable {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Shard::default()).collect() }
    }
}

impl InodeTable {
    fn shard(&self, id: InodeId) -> Option<&Shard> {
        let mixed = id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58;
        self.shards.get(usize::try_from(mixed).unwrap_or(0))
    }

    /// The live inode with this id.
    pub fn get(&self, id: InodeId) -> Option<Arc<Inode>> {
        self.shard(id)?.lock().get(&id).cloned()
    }

    /// The live inode with this id, or a new one. Two that race get the same.
    pub fn get_or_insert(&self, id: InodeId, make: impl FnOnce() -> Inode) -> Arc<Inode> {
        self.get_or_insert_arc(id, || Arc::new(make()))
    }

    /// The same for an inode that has to be known by its address before it is found here.
    pub fn get_or_insert_arc(&self, id: InodeId, make: impl FnOnce() -> Arc<Inode>) -> Arc<Inode> {
        match self.shard(id) {
            Some(shard) => shard.lock().entry(id).or_insert_with(make).clone(),
            None => make(),
        }
    }

    /// Forgets an inode that nobody but this table knows, and then, if that was the last thing that kept them, those above it.
    pub fn evict(&self, inode: Arc<Inode>) {
        let mut next = Some(inode);
        while let Some(inode) = next.take() {
            let id = inode.id;
            let Some(shard) = self.shard(id) else { return };
            let mut shard = shard.lock();
            // Two counts: the table's and ours. Nobody can get another one without the shard's lock.
            let unused = Arc::strong_count(&inode) == 2
                && inode.lookups.load(Ordering::Acquire) == 0
                && inode.opens.load(Ordering::Acquire) == 0
                && shard.get(&id).is_some_and(|known| Arc::ptr_eq(known, &inode));
            if !unused {
                return;
            }
            let removed = shard.remove(&id);
            drop(shard);
            drop(removed);
            next = match inode.place() {
                Place::Named { parent, .. } | Place::Snapshot(parent) | Place::Linked(parent) => Some(parent),
                _ => None,
            };
            drop(inode);
        }
    }

    /// Forgets all that nobody but this table knows: also what somebody held just when it could have been evicted. Looks at every live inode.
    pub fn sweep(&self) {
        for shard in &self.shards {
            let idle = |inode: &&Arc<Inode>| {
                Arc::strong_count(inode) == 1
                    && inode.lookups.load(Ordering::Acquire) == 0
                    && inode.opens.load(Ordering::Acquire) == 0
            };
            let unused: Vec<_> = shard.lock().values().filter(idle).cloned().collect();
            unused.into_iter().for_each(|inode| self.evict(inode));
        }
    }

    /// Takes an inode that was removed from the tree out of the table, whoever still holds it.
    pub fn remove(&self, inode: &Arc<Inode>) {
        if let Some(shard) = self.shard(inode.id) {
            let mut shard = shard.lock();
            if shard.get(&inode.id).is_some_and(|known| Arc::ptr_eq(known, inode)) {
                shard.remove(&inode.id);
            }
        }
    }

    /// All live inodes.
    pub fn all(&self) -> Vec<Arc<Inode>> {
        self.shards.iter().flat_map(|shard| shard.lock().values().cloned().collect::<Vec<_>>()).collect()
    }
}
