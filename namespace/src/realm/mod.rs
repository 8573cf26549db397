//! A realm in memory: the view, a fork or a snapshot - a tree of its own with its own inode numbers and link table.

mod delete;
mod fork;
mod snapshot;

use crate::api::InodeId;
use crate::by_epoch::ByEpoch;
use crate::charge::Charge;
use crate::inode::Inode;
use crate::table::Table;
use envoyfs_layout::Hlc;
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// Bits of an inode number; the realm's index is above them.
const NUMBER_BITS: u32 = 40;
/// Numbers with this bit are the `.snap` directories.
pub(crate) const SNAPSHOT_LIST_BIT: u64 = 1 << 39;

/// Realm id of the view.
pub(crate) const VIEW: u64 = 0;

/// A realm.
pub(crate) struct Realm {
    /// Never reused.
    pub id: u64,
    /// Upper bits of its inode ids.
    pub index: u64,
    /// The realm it was made in.
    pub home: u64,
    /// A snapshot?
    pub read_only: bool,
    /// Files with several names.
    pub links: RwLock<Table>,
    /// Changed files among them, by number.
    pub dirty_links: Mutex<ByEpoch<BTreeMap<u64, Arc<Inode>>>>,
    /// Reserved in this epoch for the link table.
    pub links_charge: Mutex<Charge>,
    links_share: AtomicU64,
    root: RwLock<Weak<Inode>>,
}

impl Realm {
    /// A realm whose root inode follows with [`Self::set_root`].
    pub fn new(id: u64, index: u64, home: u64, read_only: bool, links: Table, links_share: Hlc) -> Self {
        Self {
            id,
            index,
            home,
            read_only,
            links: RwLock::new(links),
            dirty_links: Mutex::default(),
            links_charge: Mutex::default(),
            links_share: AtomicU64::new(links_share.0),
            root: RwLock::new(Weak::new()),
        }
    }

    /// Identity of one of its inodes. The view's root is 1.
    pub fn inode_id(&self, number: u64) -> InodeId {
        inode_id(self.index, number)
    }

    /// Share time of the link table.
    pub fn links_share(&self) -> Hlc {
        Hlc(self.links_share.load(Ordering::Acquire))
    }

    /// Its root directory, if that is in memory. It is whenever one of its inodes is.
    pub fn root(&self) -> Option<Arc<Inode>> {
        self.root.read().upgrade()
    }

    /// Says which inode its root is.
    pub fn set_root(&self, root: &Arc<Inode>) {
        *self.root.write() = Arc::downgrade(root);
    }
}

/// Identity of an inode in the realm with this index.
pub(crate) fn inode_id(index: u64, number: u64) -> InodeId {
    InodeId(index << NUMBER_BITS | number)
}
