//! Reservations: the most that the next checkpoint may have to write because of an operation (INV-24, INV-26).
//!
//! A change of a tree rewrites at most one leaf with all above it, and adds what it adds; all changes of an epoch together rewrite at most the whole tree. So every tree
//! knows what was reserved for it in the epoch, and an operation reserves the smaller of the two. A change of something also changes its entry, and those of all directories
//! above, once an epoch. Estimates err upwards; a test compares them with what is written.

use crate::api::{FileType, Result};
use crate::inode::{Inode, Place, State};
use crate::namespace::Namespace;
use crate::realm::Realm;
use crate::tree::{EXTENTS_NODE_BYTES_MAX, NODE_BYTES_MAX};
use envoyfs_engine::store::{Need, Permit, Tier};
use envoyfs_layout::inode::{Body, xattr_bytes};
use envoyfs_layout::node::TreeKind;
use envoyfs_layout::{BLOCK, Reference};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Worst case of a BIND record: header, handles and a name.
const BIND_BYTES: u64 = 360;
/// An embedded inode without its name, extended attributes and body; more than a directory's or realm's entry, too.
const INODE_BYTES: u64 = 256;
/// Largest body in an inode: bytes, or slices with a KiB of checksums.
const BODY_BYTES_MAX: u64 = 1400;
/// The first node of a directory: header and attributes.
pub(crate) const NEW_TREE_BYTES: u64 = 1024;
/// A slice in an extents tree, without its checksums.
const SLICE_BYTES: u64 = 128;
/// Slices that a write adds beside its own: what is left of the one that it splits.
const SLICES_SPLIT: u64 = 2;
/// An item of an interior node is no smaller.
const INTERIOR_ITEM_BYTES: u64 = 90;
/// Largest file in a link table.
const LINK_BYTES_MAX: u64 = 2560;

/// What was reserved for a tree in an epoch.
#[derive(Default)]
pub(crate) struct Charge {
    epoch: u64,
    reserved: u64,
    /// Bytes added in the epoch.
    grown: u64,
    /// Size of the stored tree, and of what the builder may not have put there yet.
    stored: u64,
    /// A leaf and what is above it.
    path: u64,
}

/// Upper bounds of a stored tree's bytes.
#[derive(Clone, Copy)]
struct Size {
    /// All nodes.
    bytes: u64,
    /// A leaf and what is above it.
    path: u64,
}

impl Charge {
    /// Reserves for one more change that adds `grown` bytes. `measure` is asked once an epoch. `again`: of an item that was changed in this epoch before.
    fn change(&mut self, epoch: u64, grown: u64, again: bool, measure: impl FnOnce() -> Size) -> u64 {
        self.enter(epoch, measure);
        self.grown = self.grown.saturating_add(grown);
        let path = if again { 0 } else { self.path.saturating_add(1024) };
        let whole = with_overhead(self.stored.saturating_add(self.grown));
        let more = path.saturating_add(with_overhead(grown)).min(whole.saturating_sub(self.reserved));
        self.reserved = self.reserved.saturating_add(more);
        more
    }

    /// The whole tree at the end of the epoch, as far as is known.
    fn whole(&mut self, epoch: u64, measure: impl FnOnce() -> Size) -> u64 {
        self.enter(epoch, measure);
        with_overhead(self.stored.saturating_add(self.grown))
    }

    fn enter(&mut self, epoch: u64, measure: impl FnOnce() -> Size) {
        if self.epoch != epoch {
            let unbuilt = if self.epoch.saturating_add(1) == epoch { self.grown } else { 0 };
            let size = measure();
            let stored = size.bytes.saturating_add(unbuilt);
            *self = Self { epoch, reserved: 0, grown: 0, stored, path: size.path };
        }
    }

    /// All of it was stored before the end of the epoch: what comes after is written once more.
    pub fn built(&mut self) {
        *self = Self::default();
    }
}

/// Items with padding, headers of nodes, and nodes above: leaves are at least half full when they are written.
const fn with_overhead(bytes: u64) -> u64 {
    bytes.saturating_add(bytes / 3).saturating_add(1024)
}

impl Namespace {
    /// Reserves what an operation on these inodes may need at worst. Never called under the freeze lock (INV-24).
    pub(crate) fn reserve(
        &self,
        inodes: &[&Arc<Inode>],
        log_bytes: usize,
        payload_bytes: u64,
        data_bytes: u64,
        tier: Tier,
    ) -> Result<Permit> {
        self.reserve_more(0, inodes, log_bytes, payload_bytes, data_bytes, tier)
    }

    /// The same, with nodes that the inodes alone do not tell of.
    pub(crate) fn reserve_more(
        &self,
        more: u64,
        inodes: &[&Arc<Inode>],
        log_bytes: usize,
        payload_bytes: u64,
        data_bytes: u64,
        tier: Tier,
    ) -> Result<Permit> {
        let log_bytes = u64::try_from(log_bytes).unwrap_or(u64::MAX);
        let content = payload_bytes.saturating_add(data_bytes);
        // What a record says may end in an item, but for contents; a moved inode is an item that grew from nothing.
        let grown = if content > 0 {
            (content / u64::from(BLOCK / 4)).min(BODY_BYTES_MAX) + INODE_BYTES
        } else {
            inodes.iter().map(|inode| entry_bytes(inode)).max().unwrap_or(0).saturating_add(log_bytes)
        };
        let (mut node_bytes, mut binds) = (more, 0);
        for inode in inodes {
            // A file and its directory: the change of the directory is that of the file's entry.
            let listed =
                |place| matches!(place, Place::Named { parent, .. } if inodes.iter().any(|i| i.id == parent.id));
            if inode.file_type != FileType::Directory && listed(inode.place()) {
                if inode.opens.load(Ordering::Acquire) > 0 {
                    node_bytes = node_bytes.saturating_add(self.charge_realm_table(grown)); // it may become an orphan
                }
                binds += 1;
                continue;
            }
            let (bytes, depth) = self.charge(inode, grown, content);
            node_bytes = node_bytes.saturating_add(bytes);
            binds += depth;
        }
        let log_bytes = log_bytes.saturating_add(binds * BIND_BYTES);
        Ok(self.store.reserve(Need { log_bytes, node_bytes, payload_bytes, data_bytes, tier })?)
    }

    /// What else an operation on the realm table may need.
    pub(crate) fn charge_realm_table(&self, grown: u64) -> u64 {
        let base = self.realm_table.read().base;
        let measure = || self.size(base.as_ref(), TreeKind::RealmTable);
        self.realm_table_charge.lock().change(self.epoch(), INODE_BYTES + grown, false, measure)
    }

    /// What else an operation on a file of this link table may need.
    pub(crate) fn charge_links(&self, realm: &Realm, grown: u64) -> u64 {
        let base = realm.links.read().base;
        let measure = || self.size(base.as_ref(), TreeKind::Links);
        realm.links_charge.lock().change(self.epoch(), INODE_BYTES + grown, false, measure)
    }

    /// What a fork, snapshot or deletion of a directory may need for the files in it that have several names: their entries are raised or taken away, and copied.
    pub(crate) fn charge_links_below(&self, directory: &Inode) -> u64 {
        let realm = &directory.realm;
        let stored = match &*directory.read() {
            State::Directory(d) => d.entries.totals.links,
            _ => 0,
        };
        let (changed, base) = {
            let links = realm.links.read();
            (links.changes(), links.base)
        };
        let epoch = self.epoch();
        let dirty = {
            let mut dirty = realm.dirty_links.lock();
            dirty.of(epoch).len() + dirty.of(epoch.wrapping_add(1)).len()
        };
        let names = stored.saturating_add(changed).saturating_add(u64::try_from(dirty).unwrap_or(u64::MAX));
        if names == 0 || realm.root().is_some_and(|root| root.id == directory.id) {
            return 0;
        }
        let size = self.size(base.as_ref(), TreeKind::Links);
        let whole = realm.links_charge.lock().whole(epoch, || size);
        let raised = names.saturating_mul(size.path).min(whole);
        raised.saturating_add(with_overhead(names.saturating_mul(LINK_BYTES_MAX)).min(whole))
    }

    /// Nodes that the next checkpoint writes because of one more change at this inode, and how many handles have to be bound.
    fn charge(&self, inode: &Arc<Inode>, grown: u64, content: u64) -> (u64, u64) {
        let epoch = self.epoch();
        let (mut bytes, mut unbound) = (0_u64, 0);
        let is_dirty = |inode: &Inode| inode.dirty_epoch.load(Ordering::Acquire) == epoch;
        // Whose entry was changed in this epoch already, its leaf is written anyway. Changes in a directory are of other entries each.
        let mut again = inode.file_type != FileType::Directory && is_dirty(inode);
        let mut grown = grown;
        let mut next = Some(inode.clone());
        if inode.file_type != FileType::Directory {
            bytes += self.charge_contents(inode, content);
            if content == 0 && inode.opens.load(Ordering::Acquire) > 0 {
                bytes += self.charge_realm_table(grown); // it may become an orphan
            }
        }
        while let Some(inode) = next.take() {
            let bound = inode.bound_epoch.load(Ordering::Acquire) == epoch;
            unbound += u64::from(!bound);
            if inode.file_type == FileType::Directory {
                bytes = bytes.saturating_add(self.charge_directory(&inode, grown, again));
                grown = 0;
                again = is_dirty(&inode);
                if again && bound {
                    break;
                }
            }
            match inode.place() {
                Place::Named { parent, .. } => next = Some(parent),
                Place::Linked(root) => {
                    let base = inode.realm.links.read().base;
                    let measure = || self.size(base.as_ref(), TreeKind::Links);
                    bytes = bytes.saturating_add(inode.realm.links_charge.lock().change(epoch, grown, again, measure));
                    (grown, again) = (0, false);
                    next = Some(root);
                }
                Place::Orphan => bytes = bytes.saturating_add(self.charge_realm_table(grown)),
                Place::View | Place::Snapshot(_) | Place::Gone => {}
            }
        }
        (bytes, unbound)
    }

    fn charge_directory(&self, directory: &Inode, grown: u64, again: bool) -> u64 {
        let measure = || {
            let base = match &*directory.read() {
                State::Directory(d) => d.entries.base,
                _ => None,
            };
            let size = self.size(base.as_ref(), TreeKind::Directory);
            // The attributes are in the root, and may be new.
            Size { bytes: size.bytes.saturating_add(2 * INODE_BYTES), path: size.path }
        };
        directory.charge.lock().change(self.epoch(), grown, again, measure)
    }

    /// The extents tree of a file, when contents change.
    fn charge_contents(&self, inode: &Inode, content: u64) -> u64 {
        if content == 0 {
            return 0;
        }
        let objects = content / u64::from(self.store.limits().extent_bytes_max) + 1;
        let grown = (objects + SLICES_SPLIT) * SLICE_BYTES + content / u64::from(BLOCK / 4);
        let measure = || {
            let root = match &*inode.read() {
                State::File(file) => match file.content.base() {
                    Body::Tree { root, .. } => Some(*root),
                    _ => None,
                },
                _ => None,
            };
            let size = self.size(root.as_ref(), TreeKind::Extents);
            Size { bytes: size.bytes.saturating_add(BODY_BYTES_MAX), path: size.path }
        };
        inode.charge.lock().change(self.epoch(), grown, false, measure)
    }

    /// Bounds of a stored tree's size. Reads its root; without that there is no bound.
    fn size(&self, root: Option<&Reference>, kind: TreeKind) -> Size {
        let node_bytes = if kind == TreeKind::Extents { EXTENTS_NODE_BYTES_MAX } else { NODE_BYTES_MAX };
        let node_bytes = u64::try_from(node_bytes).unwrap_or(u64::MAX);
        let Some(root) = root else { return Size { bytes: 0, path: node_bytes } };
        let Ok(node) = self.nodes.read(root, kind) else { return Size { bytes: u64::MAX, path: 4 * node_bytes } };
        let level = node.header().level;
        let root_bytes = u64::from(root.stored_bytes);
        if level == 0 {
            return Size { bytes: root_bytes, path: root_bytes };
        }
        let below: u64 = (0..node.len())
            .flat_map(|index| node.item_references(index))
            .map(|child| u64::from(child.stored_bytes))
            .fold(root_bytes, u64::saturating_add);
        // From the third level on, each node below is as large, and has as many children, as can be.
        let leaves = (2..=level).fold(below, |bytes, _| (bytes / INTERIOR_ITEM_BYTES).saturating_mul(node_bytes));
        Size { bytes: leaves.max(below), path: root_bytes.saturating_add(u64::from(level).saturating_mul(node_bytes)) }
    }
}

/// What of an inode goes with it to another place: more than its fixed fields.
pub(crate) fn entry_bytes(inode: &Inode) -> u64 {
    let state = inode.read();
    let Some(stored) = state.inode() else { return 0 };
    let body = match &*state {
        State::File(file) if file.content.is_clean() => body_bytes(file.content.base()),
        State::File(_) if stored.size == 0 => 0,
        State::File(_) => BODY_BYTES_MAX,
        _ => body_bytes(&stored.body),
    };
    body.saturating_add(u64::try_from(xattr_bytes(&stored.xattrs)).unwrap_or(u64::MAX))
}

fn body_bytes(body: &Body) -> u64 {
    match body {
        Body::None => 0,
        Body::Inline { bytes, .. } => u64::try_from(bytes.len()).unwrap_or(u64::MAX).saturating_add(16),
        Body::Slices(_) => BODY_BYTES_MAX,
        Body::Tree { .. } => SLICE_BYTES,
    }
}
