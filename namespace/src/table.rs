//! Link tables and the realm table in memory: what they hold, and the trees they are stored in.

use crate::api::Result;
use crate::layered::{Layered, Value};
use crate::tree::{Item, Tree, damaged};
use envoyfs_layout::LayoutError;
use envoyfs_layout::inode::Inode as StoredInode;
use envoyfs_layout::key::{RealmItemKind, RealmKey};
use envoyfs_layout::node::Owner;
use envoyfs_layout::realm::SnapshotItem;

/// Files with several names, by link key.
pub(crate) type Table = Layered<StoredInode>;

/// What the realm table holds.
#[derive(Clone)]
pub(crate) enum RealmItem {
    /// A snapshot of a directory.
    Snapshot(Box<SnapshotItem>),
    /// An open file without a name.
    Orphan(Box<StoredInode>),
}

impl Value for StoredInode {
    fn decode(_: &[u8], item: &Item) -> Result<Self> {
        Self::decode(&item.value, &item.references).map_err(damaged)
    }
    fn encode(&self) -> Result<Item> {
        let (value, references) = Self::encode(self).map_err(damaged)?;
        Ok(Item { value, references })
    }
}

impl Value for RealmItem {
    fn decode(key: &[u8], item: &Item) -> Result<Self> {
        match RealmKey::decode(key).map_err(damaged)?.kind {
            RealmItemKind::Snapshot => {
                let snapshot = SnapshotItem::decode(&item.value, &item.references).map_err(damaged)?;
                Ok(Self::Snapshot(Box::new(snapshot)))
            }
            RealmItemKind::Orphan => {
                let inode = StoredInode::decode(&item.value, &item.references).map_err(damaged)?;
                Ok(Self::Orphan(Box::new(inode)))
            }
            RealmItemKind::Record => {
                Err(damaged(LayoutError::Unknown { structure: "realm table", what: "item kind", found: 1 }))
            }
        }
    }
    fn encode(&self) -> Result<Item> {
        let (value, references) = match self {
            Self::Snapshot(item) => item.encode().map_err(damaged)?,
            Self::Orphan(inode) => inode.encode().map_err(damaged)?,
        };
        Ok(Item { value, references })
    }
}

/// Key of an orphan.
pub(crate) fn orphan_key(realm: u64, inode: u64) -> Vec<u8> {
    RealmKey { realm, kind: RealmItemKind::Orphan, directory: 0, id: inode }.encode()
}

/// Key of a snapshot.
pub(crate) fn snapshot_key(realm: u64, directory: u64, id: u64) -> Vec<u8> {
    RealmKey { realm, kind: RealmItemKind::Snapshot, directory, id }.encode()
}

/// The trees of the namespace, by kind, for reading: whose nodes they are matters only to a builder.
pub(crate) struct Trees {
    /// Directories.
    pub directory: Tree,
    /// Link tables.
    pub links: Tree,
    /// The realm table.
    pub realms: Tree,
    /// The territory table.
    pub territories: Tree,
}

impl Default for Trees {
    fn default() -> Self {
        let owner = Owner { realm: 0, inode: 0 };
        Self {
            directory: Tree::directory(owner),
            links: Tree::links(owner),
            realms: Tree::realm_table(),
            territories: Tree::territory_table(),
        }
    }
}
