//! Whoever caches names or attributes outside: told what to forget after a change that did not come from it.

use crate::api::InodeId;

/// Receives what caches must forget. Called without locks of the namespace held; must not call back into it, and must not block.
pub trait Observer: Send + Sync + 'static {
    /// A name appeared, disappeared or changed what it stands for.
    fn entry(&self, parent: InodeId, name: &[u8]);
    /// Data or attributes of an inode changed.
    fn inode(&self, id: InodeId);
    /// A tree was deleted: this child of it is gone.
    fn deleted(&self, parent: InodeId, child: InodeId, name: &[u8]);
}
