//! Snapshots: read-only forks that are listed in the realm table under their directory, outside every frozen tree (INV-29).

use crate::api::{Attributes, Context, DirectoryEntry, Error, FileType, InodeId, Result};
use crate::apply::Locked;
use crate::directory::check_name;
use crate::inode::{Inode, Place, State};
use crate::namespace::{Namespace, Stamp};
use crate::operation::RECORD_BYTES;
use crate::table::{RealmItem, snapshot_key};
use envoyfs_engine::store::{Counter, Tier};
use envoyfs_layout::inode::Timestamp;
use envoyfs_layout::key::{RealmItemKind, RealmKey};
use envoyfs_layout::operation::Operation;
use envoyfs_layout::realm::SnapshotItem;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

/// Cookies of snapshots: above those of "." and "..", in the order of their ids.
const FIRST_COOKIE: u64 = 0x100;

impl Namespace {
    /// Takes a snapshot of a directory, to be found as `.snap/NAME` in it, and raises its lookup count. Constant time.
    ///
    /// # Errors
    /// `Exists`, `CrossRealm` if the directory contains forks, `ReadOnly`, `NoSpace`, `Invalid`, `Stale`, or a failed read.
    pub fn snapshot(&self, cx: &Context, directory: InodeId, name: &[u8]) -> Result<Attributes> {
        self.check(cx)?;
        check_name(name)?;
        let directory = self.live(directory)?;
        if directory.file_type != FileType::Directory || matches!(*directory.read(), State::SnapshotList) {
            return Err(Error::NotDirectory);
        }
        let realm = self.store.number(Counter::Realm)?;
        let time = self.timestamp();
        let more = self.charge_links_below(&directory) + self.charge_realm_table(name.len() as u64);
        let mut permit = self.reserve_more(more, &[&directory], RECORD_BYTES + name.len(), 0, 0, Tier::Writer)?;
        let (item, place) = {
            let _building = self.builder.lock();
            let _alone = self.alone();
            directory.check_writable()?;
            if self.snapshot_named(&directory, name)?.is_some() {
                return Err(Error::Exists);
            }
            self.prepare_source(&directory)?;
            let handle = self.bind(&mut permit, &directory)?;
            let operation = Operation::Snapshot { directory: handle, time, name: name.to_vec(), realm };
            let stamp = self.stamp(self.append(&mut permit, &operation, &[])?);
            let item = self.applied(self.apply_snapshot(stamp, &directory, name, realm))?;
            (item, Place::Snapshot(directory.clone()))
        };
        let root = self.load_realm(&item.realm, place)?;
        Ok(self.known(&root))
    }

    /// SNAPSHOT, after [`Self::prepare_source`].
    pub(crate) fn apply_snapshot(
        &self,
        stamp: Stamp,
        directory: &Arc<Inode>,
        name: &[u8],
        realm: u64,
    ) -> Result<SnapshotItem> {
        let entry = self.share(stamp, directory, realm, directory.realm.id, true)?;
        directory.write().directory_mut()?.own.snapshots = true;
        let item = SnapshotItem { name: name.to_vec(), realm: entry };
        let key = snapshot_key(directory.realm.id, directory.number, realm);
        let value = RealmItem::Snapshot(Box::new(item.clone()));
        self.realm_table.write().put(stamp.epoch, key, Some(value), stamp.birth());
        Ok(item)
    }

    /// Removes a snapshot; its space comes back in the background.
    ///
    /// # Errors
    /// `NotFound`, `ReadOnly`, `NoSpace`, `Stale`, or a failed read.
    pub fn delete_snapshot(&self, cx: &Context, directory: InodeId, name: &[u8]) -> Result<()> {
        self.check(cx)?;
        let directory = self.live(directory)?;
        let time = self.timestamp();
        let more = self.charge_realm_table(0);
        let mut permit = self.reserve_more(more, &[&directory], RECORD_BYTES, 0, 0, Tier::Last)?;
        let _building = self.builder.lock();
        let _alone = self.alone();
        directory.check_writable()?;
        let (_, item) = self.snapshot_named(&directory, name)?.ok_or(Error::NotFound)?;
        let realm = item.realm.realm_id;
        let operation = Operation::DeleteSnapshot { directory: self.bind(&mut permit, &directory)?, time, realm };
        let stamp = self.stamp(self.append(&mut permit, &operation, &[])?);
        self.applied(self.apply_delete_snapshot(stamp, &directory, realm, time))
    }

    /// DELETE_SNAPSHOT.
    pub(crate) fn apply_delete_snapshot(
        &self,
        stamp: Stamp,
        directory: &Arc<Inode>,
        realm: u64,
        _time: Timestamp,
    ) -> Result<()> {
        let key = snapshot_key(directory.realm.id, directory.number, realm);
        self.realm_table.write().put(stamp.epoch, key, None, stamp.birth());
        self.detach(|inode| inode.realm.id == realm);
        if !self.has_snapshots(directory)? {
            let mut locked = Locked::new([directory]);
            let state = locked.directory(directory)?;
            state.touch(stamp.epoch, stamp.birth());
            state.own.snapshots = false;
            self.mark_dirty(directory);
        }
        Ok(())
    }

    /// Has the directory any snapshot now?
    pub(crate) fn has_snapshots(&self, directory: &Inode) -> Result<bool> {
        let mut any = false;
        self.each_snapshot(directory.realm.id, directory.number, 0, &mut |_, _| {
            any = true;
            ControlFlow::Break(())
        })?;
        Ok(any)
    }

    /// The snapshot of a directory with this name, and its key in the realm table.
    fn snapshot_named(&self, directory: &Inode, name: &[u8]) -> Result<Option<(RealmKey, SnapshotItem)>> {
        let mut found = None;
        self.each_snapshot(directory.realm.id, directory.number, 0, &mut |key, item| {
            if item.name == name {
                found = Some((key, item.clone()));
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// The snapshots of one directory, from an id on, oldest first.
    fn each_snapshot(
        &self,
        realm: u64,
        directory: u64,
        from_id: u64,
        visit: &mut dyn FnMut(RealmKey, &SnapshotItem) -> ControlFlow<()>,
    ) -> Result<()> {
        let from = snapshot_key(realm, directory, from_id);
        let table = self.realm_table.read();
        table.scan(&self.nodes, &self.trees.realms, Bound::Included(&from), &mut |key, item| match (
            RealmKey::decode(key),
            item,
        ) {
            (Ok(key), RealmItem::Snapshot(item)) if key.realm == realm && key.directory == directory => {
                visit(key, item)
            }
            _ => ControlFlow::Break(()),
        })
    }

    /// Keys of all snapshots of a realm, or of one directory in it.
    pub(crate) fn snapshot_keys(&self, realm: u64, directory: Option<u64>) -> Result<Vec<RealmKey>> {
        let from = snapshot_key(realm, directory.unwrap_or(0), 0);
        let mut keys = Vec::new();
        self.realm_table.read().scan(&self.nodes, &self.trees.realms, Bound::Included(&from), &mut |key, _| {
            match RealmKey::decode(key) {
                Ok(key)
                    if key.realm == realm
                        && key.kind == RealmItemKind::Snapshot
                        && directory.is_none_or(|number| key.directory == number) =>
                {
                    keys.push(key);
                    ControlFlow::Continue(())
                }
                _ => ControlFlow::Break(()),
            }
        })?;
        Ok(keys)
    }

    /// `.snap/NAME`: the root of a snapshot.
    pub(crate) fn find_snapshot(&self, list: &Arc<Inode>, name: &[u8]) -> Result<Arc<Inode>> {
        let directory = self.above(list)?;
        let (_, item) = self.snapshot_named(&directory, name)?.ok_or(Error::NotFound)?;
        self.load_realm(&item.realm, Place::Snapshot(directory))
    }

    /// The root of the snapshot with this realm id.
    pub(crate) fn load_snapshot(&self, directory: &Arc<Inode>, realm: u64) -> Result<Arc<Inode>> {
        let key = snapshot_key(directory.realm.id, directory.number, realm);
        let item = self.realm_table.read().get(&self.nodes, &self.trees.realms, &key)?;
        match item {
            Some(RealmItem::Snapshot(item)) => self.load_realm(&item.realm, Place::Snapshot(directory.clone())),
            _ => Err(Error::NotFound),
        }
    }

    /// A page of the list in `.snap`.
    pub(crate) fn list_snapshots(&self, list: &Arc<Inode>, after: u64, count: usize) -> Result<Vec<DirectoryEntry>> {
        let directory = self.above(list)?;
        let from_id = after.checked_sub(FIRST_COOKIE).map_or(0, |id| id.saturating_add(1));
        let mut page = Vec::new();
        let mut failed = None;
        self.each_snapshot(directory.realm.id, directory.number, from_id, &mut |key, item| {
            match self.realm_index(item.realm.realm_id) {
                Ok(index) => page.push(DirectoryEntry {
                    name: item.name.clone(),
                    id: super::inode_id(index, item.realm.number),
                    file_type: FileType::Directory,
                    cookie: FIRST_COOKIE.saturating_add(key.id),
                }),
                Err(error) => failed = Some(error),
            }
            if failed.is_some() || page.len() >= count { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        failed.map_or(Ok(page), Err)
    }
}
