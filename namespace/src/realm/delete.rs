//! Deleting a tree at once: a fork, or any directory with all that is in it.
//!
//! The entry goes; counts do the rest in the background. The lists of snapshots that belong to realms and directories in the tree go in the same record (DESIGN 7).

use crate::api::{Context, Error, FileType, InodeId, Result};
use crate::apply::{Locked, link_key};
use crate::inode::{EntryKey, Inode, Place, State};
use crate::namespace::{Namespace, Stamp};
use crate::operation::RECORD_BYTES;
use envoyfs_engine::store::Tier;
use envoyfs_layout::entry::Entry;
use envoyfs_layout::inode::Timestamp;
use envoyfs_layout::key::RealmKey;
use envoyfs_layout::node::TreeKind;
use envoyfs_layout::operation::Operation;
use envoyfs_layout::{Reference, flags};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Realm table items that one record can drop.
const DROPPED_MAX: usize = 2000;

impl Namespace {
    /// Removes a directory with all that is in it. Files in it that are open become stale.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`, `NotEmpty` if more than 2000 snapshots belong to it, `ReadOnly`, `Stale`, or a failed read.
    pub fn delete_tree(&self, cx: &Context, parent: InodeId, name: &[u8]) -> Result<()> {
        self.delete_tree_if(cx, parent, name, |_| true)
    }

    /// The same, if the name still stands for this inode: what was checked is what is deleted.
    ///
    /// # Errors
    /// As [`Self::delete_tree`]; `NotFound` if the name stands for another inode by now.
    pub fn delete_tree_of(&self, cx: &Context, parent: InodeId, name: &[u8], id: InodeId) -> Result<()> {
        self.delete_tree_if(cx, parent, name, |found| found == id)
    }

    fn delete_tree_if(
        &self,
        cx: &Context,
        parent: InodeId,
        name: &[u8],
        wanted: impl Fn(InodeId) -> bool,
    ) -> Result<()> {
        self.check(cx)?;
        let parent = self.live(parent)?;
        if matches!(*parent.read(), State::SnapshotList) {
            return self.delete_snapshot(cx, self.above(&parent)?.id, name);
        }
        let inode = self.find(&parent, name)?;
        if !wanted(inode.id) {
            return Err(Error::NotFound);
        }
        if inode.file_type != FileType::Directory || matches!(*inode.read(), State::SnapshotList) {
            return Err(Error::NotDirectory);
        }
        let time = self.timestamp();
        let bytes = RECORD_BYTES + name.len() + DROPPED_MAX * RealmKey::BYTES;
        let more = self.charge_links_below(&inode) + self.charge_realm_table(0);
        let mut permit = self.reserve_more(more, &[&parent, &inode], bytes, 0, 0, Tier::Last)?;
        let gone = {
            let _building = self.builder.lock();
            let _alone = self.alone();
            parent.check_writable()?;
            let key = self.still(&mut Locked::new([&parent]), &parent, name, &inode)?;
            let dropped = self.lists_below(&inode)?;
            if dropped.len() > DROPPED_MAX {
                return Err(Error::NotEmpty("it has too many snapshots; remove some first"));
            }
            let operation = Operation::DeleteTree {
                parent: self.bind(&mut permit, &parent)?,
                time,
                name: name.to_vec(),
                dropped: dropped.clone(),
            };
            let stamp = self.stamp(self.append(&mut permit, &operation, &[])?);
            self.applied(self.apply_delete_tree(stamp, &parent, key, &inode, &dropped, time))?
        };
        for (above, id, name) in gone {
            self.notify(|observer| observer.deleted(above, id, &name));
        }
        Ok(())
    }

    /// DELETE_TREE. Says which live inodes went, leaves first: directory, inode, name.
    pub(crate) fn apply_delete_tree(
        &self,
        stamp: Stamp,
        parent: &Arc<Inode>,
        key: EntryKey,
        inode: &Arc<Inode>,
        dropped: &[RealmKey],
        time: Timestamp,
    ) -> Result<Vec<(InodeId, InodeId, Vec<u8>)>> {
        let mut locked = Locked::new([parent]);
        locked.directory(parent)?.put(stamp.epoch, key, None, stamp.birth());
        self.changed_entries(stamp, &mut locked, parent, time)?;
        for key in dropped {
            self.realm_table.write().put(stamp.epoch, key.encode(), None, stamp.birth());
        }
        if inode.realm.root().is_none_or(|root| root.id != inode.id) {
            self.drop_links(stamp, inode, time)?;
        }
        let top = inode.clone();
        Ok(self.detach(move |inode| is_below(inode, &top)))
    }

    /// Names of link files that go with a plain directory are taken off their files, which live in the realm's table (INV-49).
    fn drop_links(&self, stamp: Stamp, directory: &Arc<Inode>, time: Timestamp) -> Result<()> {
        let root = directory.read().directory()?.entries.base.ok_or(Error::Stale)?;
        let mut names = BTreeMap::new();
        self.links_below(&root, &mut names)?;
        let realm = &directory.realm;
        for (number, count) in names {
            let key = link_key(number);
            let live = self.inodes.get(realm.inode_id(number));
            let stored = realm.links.read().get(&self.nodes, &self.trees.links, &key)?;
            let mut stored =
                stored.ok_or_else(|| self.inconsistent("a name refers to a link table entry that is not there"))?;
            if let Some(inode) = &live {
                let mut locked = Locked::new([inode]);
                let known = locked.state(inode)?.inode_mut(stamp.epoch, stamp.birth()).ok_or(Error::IsDirectory)?;
                (known.nlink, known.ctime) = (known.nlink.saturating_sub(count), time);
                inode.names.lock().clear();
                if known.nlink > 0 {
                    self.mark_dirty(inode);
                    continue;
                }
                self.move_to(inode, Place::Gone);
                stored.nlink = count;
            }
            stored.nlink = stored.nlink.saturating_sub(count);
            stored.ctime = time;
            let left = (stored.nlink > 0).then_some(stored);
            realm.links.write().put(stamp.epoch, key, left, stamp.birth());
            if let Some(root) = realm.root() {
                self.mark_dirty(&root);
            }
        }
        Ok(())
    }

    /// Cuts live inodes off: they are stale from now on. Caller holds the builder lock and the freeze lock exclusively.
    pub(crate) fn detach(&self, belongs: impl Fn(&Arc<Inode>) -> bool) -> Vec<(InodeId, InodeId, Vec<u8>)> {
        let mut inodes: Vec<_> = self.inodes.all().into_iter().filter(|inode| belongs(inode)).collect();
        inodes.sort_by_cached_key(|inode| std::cmp::Reverse(depth(inode)));
        let mut gone = Vec::new();
        for inode in &inodes {
            if let Place::Named { parent, key } = inode.place() {
                gone.push((parent.id, inode.id, Self::name(&key)));
            }
            self.unmark(inode);
        }
        for inode in inodes {
            *inode.place.lock() = Place::Gone;
            *inode.dirty.lock() = Default::default();
            if inode.realm.root().is_some_and(|root| root.id == inode.id) {
                *inode.realm.dirty_links.lock() = Default::default();
            }
            inode.names.lock().clear();
            self.inodes.remove(&inode);
        }
        gone
    }

    /// Keys of the snapshot lists of own realms and directories at and below a directory, found along flags.
    fn lists_below(&self, top: &Arc<Inode>) -> Result<Vec<RealmKey>> {
        let root = self.build_now(top)?;
        let mut keys = Vec::new();
        let realm = &top.realm;
        let is_realm_root = realm.root().is_some_and(|root| root.id == top.id);
        if is_realm_root {
            keys.extend(self.snapshot_keys(realm.id, None)?);
        } else if top.read().directory()?.own.snapshots {
            keys.extend(self.snapshot_keys(realm.id, Some(top.number))?);
        }
        // (node, realm that it belongs to, whether the lists of that whole realm are taken already)
        let mut next: Vec<(Reference, u64, bool)> = vec![(root, realm.id, is_realm_root)];
        while let Some((reference, realm, taken)) = next.pop() {
            let wanted = if taken { flags::REALMS } else { flags::REALMS | flags::SNAPSHOTS };
            if reference.flags & wanted == 0 {
                continue;
            }
            let node = self.nodes.read(&reference, TreeKind::Directory)?;
            for index in 0..node.len() {
                let references: Vec<_> = node.item_references(index).collect();
                if node.header().level > 0 {
                    next.extend(references.into_iter().map(|child| (child, realm, taken)));
                    continue;
                }
                match Entry::decode(node.value(index), &references).map_err(crate::tree::damaged)? {
                    Entry::Directory(directory) => {
                        if directory.snapshots && !taken {
                            keys.extend(self.snapshot_keys(realm, Some(directory.number))?);
                        }
                        next.push((directory.root, realm, taken));
                    }
                    Entry::Realm(inner) => {
                        keys.extend(self.snapshot_keys(inner.realm_id, None)?);
                        next.push((inner.root, inner.realm_id, true));
                    }
                    _ => {}
                }
            }
        }
        Ok(keys)
    }
}

/// Is it the directory or below it, in whatever way?
fn is_below(inode: &Arc<Inode>, top: &Inode) -> bool {
    let mut next = Some(inode.clone());
    while let Some(inode) = next {
        if inode.id == top.id {
            return true;
        }
        next = up(&inode);
    }
    false
}

fn depth(inode: &Arc<Inode>) -> usize {
    let (mut depth, mut next) = (0, up(inode));
    while let Some(inode) = next {
        depth += 1;
        next = up(&inode);
    }
    depth
}

fn up(inode: &Inode) -> Option<Arc<Inode>> {
    match inode.place() {
        Place::Named { parent, .. } | Place::Snapshot(parent) | Place::Linked(parent) => Some(parent),
        Place::View | Place::Orphan | Place::Gone => None,
    }
}
