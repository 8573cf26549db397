//! What a record does to memory: one function a kind, used live and by replay.
//!
//! Caller holds the freeze lock and the states of all inodes concerned ([`Locked`]); the record is in the log. Nothing here can fail for a reason that was not checked before the
//! record was appended; an error here means that memory and log differ, and stops the namespace.

use crate::api::{Error, Result};
use crate::checkpoint::realm_entry;
use crate::directory::{Directory, name_of};
use crate::file::{Edit, Prepared};
use crate::inode::{EntryKey, Inode, Place, State, file_type};
use crate::namespace::{LINK_SHARD, Namespace, Stamp};
use crate::realm::inode_id;
use crate::table::{RealmItem, orphan_key};
use envoyfs_engine::store::FreedRange;
use envoyfs_layout::entry::{DirectoryEntry, Entry, LinkEntry};
use envoyfs_layout::inode::{Inode as StoredInode, Timestamp, mode};
use envoyfs_layout::key::LinkKey;
use envoyfs_layout::operation::Attributes;
use envoyfs_layout::{DirectoryAttributes, Encoding, Hlc, Oid, Reference, ReferenceKind, Totals};
use parking_lot::RwLockWriteGuard;
use std::sync::Arc;

/// States of several inodes, locked for change: directories before files, each by id, so that no two callers wait for each other.
pub(crate) struct Locked<'a> {
    guards: Vec<(&'a Arc<Inode>, RwLockWriteGuard<'a, State>)>,
}

impl<'a> Locked<'a> {
    /// Locks them; an inode that is named twice is locked once.
    pub fn new(inodes: impl IntoIterator<Item = &'a Arc<Inode>>) -> Self {
        let mut inodes: Vec<_> = inodes.into_iter().collect();
        inodes.sort_by_key(|inode| (inode.file_type != crate::api::FileType::Directory, inode.id));
        inodes.dedup_by_key(|inode| inode.id);
        Self { guards: inodes.into_iter().map(|inode| (inode, inode.write())).collect() }
    }

    /// The state of one of them.
    pub fn state(&mut self, inode: &Inode) -> Result<&mut State> {
        let found = self.guards.iter_mut().find(|(held, _)| held.id == inode.id);
        found.map(|(_, guard)| &mut **guard).ok_or(Error::Stale)
    }

    /// The directory that one of them is.
    pub fn directory(&mut self, inode: &Inode) -> Result<&mut Directory> {
        self.state(inode)?.directory_mut()
    }
}

/// Stands for the root of a directory that no builder has stored: never written, since the builder puts the real one in its place.
pub(crate) const UNBUILT: Reference = Reference {
    oid: Oid::NONE,
    birth: Hlc::ZERO,
    stored_bytes: 0,
    logical_bytes: 0,
    crc: 0,
    kind: ReferenceKind::Node,
    flags: 0,
    encoding: Encoding::Plain,
};

/// What becomes of an inode whose name goes.
pub(crate) enum Removed<'a> {
    /// Nothing, or one name less.
    Gone,
    /// To the orphan list.
    Orphan,
    /// This name takes the inode back from the link table.
    Survivor(&'a Arc<Inode>, EntryKey),
}

/// The entry of a live inode as it is now. What the builder has not stored of it comes with the next build, for which it has to be marked.
pub(crate) fn entry_of(inode: &Inode, state: &State) -> Result<Entry> {
    let with_share = |stored: &StoredInode| StoredInode { share: inode.share(), ..stored.clone() };
    match state {
        State::Directory(d) => Ok(directory_entry(
            inode,
            &DirectoryEntry {
                share: inode.share(),
                number: inode.number,
                generation: inode.generation,
                totals: d.entries.totals,
                snapshots: d.own.snapshots,
                root: d.entries.base.unwrap_or(UNBUILT),
            },
        )),
        State::File(f) => {
            let stored = StoredInode { body: f.content.base().clone(), ..with_share(&f.attributed.inode) };
            Ok(Entry::File(stored))
        }
        State::Other(p) => Entry::of_inode(with_share(&p.attributed.inode)).map_err(crate::tree::damaged),
        State::SnapshotList => Err(Error::NotSupported("the list of snapshots has no entry")),
    }
}

/// The entry of a directory, which may be the root of a realm. Caller holds its state; takes the link table's lock.
pub(crate) fn directory_entry(inode: &Inode, own: &DirectoryEntry) -> Entry {
    let realm = &inode.realm;
    if realm.root().is_none_or(|root| root.id != inode.id) || realm.id == crate::realm::VIEW {
        return Entry::Directory(*own);
    }
    Entry::Realm(realm_entry(inode, own))
}

/// The stored inode of a live file, as it goes to a table.
fn stored_of(inode: &Inode, state: &State) -> Result<StoredInode> {
    match entry_of(inode, state)? {
        Entry::File(stored) | Entry::Symlink(stored) | Entry::Special(stored) => Ok(stored),
        _ => Err(Error::IsDirectory),
    }
}

/// Key in a link table.
pub(crate) fn link_key(number: u64) -> Vec<u8> {
    LinkKey { shard: LINK_SHARD, inode: number }.encode()
}

impl Namespace {
    /// A change of a directory's entries: times and marks.
    pub(crate) fn changed_entries(
        &self,
        stamp: Stamp,
        locked: &mut Locked<'_>,
        inode: &Arc<Inode>,
        time: Timestamp,
    ) -> Result<()> {
        let directory = locked.directory(inode)?;
        directory.touch(stamp.epoch, stamp.birth());
        directory.own.attributes.mtime = time;
        directory.own.attributes.ctime = time;
        self.mark_dirty(inode);
        Ok(())
    }

    /// CREATE.
    #[expect(clippy::too_many_arguments, reason = "the fields of the record")]
    pub(crate) fn apply_create(
        &self,
        stamp: Stamp,
        locked: &mut Locked<'_>,
        parent: &Arc<Inode>,
        key: EntryKey,
        time: Timestamp,
        stored: &StoredInode,
        hash_key: [u8; 16],
    ) -> Result<Arc<Inode>> {
        let file_type = file_type(stored.mode).ok_or(Error::Invalid("unknown type"))?;
        let place = Place::Named { parent: parent.clone(), key: key.clone() };
        let id = parent.realm.inode_id(stored.number);
        let is_directory = stored.mode & mode::TYPE == mode::DIRECTORY;
        let inode = self.inodes.get_or_insert(id, || {
            if is_directory {
                let attributes = DirectoryAttributes {
                    mode: stored.mode,
                    uid: stored.uid,
                    gid: stored.gid,
                    atime: stored.atime,
                    mtime: stored.mtime,
                    ctime: stored.ctime,
                    btime: stored.btime,
                    hash_key,
                    parent_realm: parent.realm.id,
                    parent_inode: parent.number,
                    ..DirectoryAttributes::default()
                };
                let state = State::Directory(Box::new(Directory::new(attributes, stamp.birth(), stamp.epoch)));
                Inode::new(parent.realm.clone(), stored.number, stored.generation, file_type, Hlc::ZERO, place, state)
            } else {
                Self::new_inode(&parent.realm, stored, file_type, place, stamp.birth(), stamp.epoch)
            }
        });
        let entry = if is_directory {
            Entry::Directory(DirectoryEntry {
                share: Hlc::ZERO,
                number: stored.number,
                generation: stored.generation,
                totals: Totals::ZERO,
                snapshots: false,
                root: UNBUILT,
            })
        } else {
            Entry::of_inode(stored.clone()).map_err(crate::tree::damaged)?
        };
        locked.directory(parent)?.put(stamp.epoch, key, Some(entry), stamp.birth());
        if is_directory {
            self.mark_moved(&inode);
        }
        self.changed_entries(stamp, locked, parent, time)?;
        Ok(inode)
    }

    /// LINK: another name. The first one moves the inode to the realm's link table.
    pub(crate) fn apply_link(
        &self,
        stamp: Stamp,
        locked: &mut Locked<'_>,
        inode: &Arc<Inode>,
        parent: &Arc<Inode>,
        key: EntryKey,
        time: Timestamp,
    ) -> Result<()> {
        let place = inode.place();
        let state = locked.state(inode)?;
        let old_nlink = {
            let stored = state.inode_mut(stamp.epoch, stamp.birth()).ok_or(Error::IsDirectory)?;
            stored.ctime = time;
            stored.nlink += 1;
            stored.nlink - 1
        };
        let mode = state.inode().map_or(0, |stored| stored.mode);
        let link = Entry::Link(LinkEntry { shard: LINK_SHARD, inode: inode.number, mode });
        if let Place::Named { parent: first, key: first_key } = place {
            debug_assert_eq!(old_nlink, 1, "an embedded inode has one name");
            inode.raise_share(inode.path_share()); // a move: what the old path shared stays shared (INV-04)
            let root = inode.realm.root().ok_or(Error::Stale)?;
            let stored = stored_of(inode, locked.state(inode)?)?;
            inode.realm.links.write().put(stamp.epoch, link_key(inode.number), Some(stored), stamp.birth());
            locked.directory(&first)?.put(stamp.epoch, first_key.clone(), Some(link.clone()), stamp.birth());
            self.mark_dirty(&first);
            self.move_to(inode, Place::Linked(root));
            *inode.names.lock() = vec![(first, first_key)];
        } else {
            self.mark_dirty(inode);
        }
        inode.names.lock().push((parent.clone(), key.clone()));
        locked.directory(parent)?.put(stamp.epoch, key, Some(link), stamp.birth());
        self.changed_entries(stamp, locked, parent, time)
    }

    /// UNLINK of anything: the entry goes, and what it named with it or elsewhere.
    #[expect(clippy::too_many_arguments, reason = "the fields of the record")]
    pub(crate) fn apply_unlink(
        &self,
        stamp: Stamp,
        locked: &mut Locked<'_>,
        parent: &Arc<Inode>,
        key: EntryKey,
        inode: &Arc<Inode>,
        time: Timestamp,
        removed: Removed<'_>,
    ) -> Result<()> {
        self.lose_name(stamp, locked, parent, &key, inode, time, removed)?;
        locked.directory(parent)?.put(stamp.epoch, key, None, stamp.birth());
        self.changed_entries(stamp, locked, parent, time)
    }

    /// One name of an inode is about to go or to stand for something else.
    #[expect(clippy::too_many_arguments, reason = "the fields of the record")]
    fn lose_name(
        &self,
        stamp: Stamp,
        locked: &mut Locked<'_>,
        parent: &Arc<Inode>,
        key: &EntryKey,
        inode: &Arc<Inode>,
        time: Timestamp,
        removed: Removed<'_>,
    ) -> Result<()> {
        let place = inode.place();
        let Some(stored) = locked.state(inode)?.inode_mut(stamp.epoch, stamp.birth()) else {
            let share = inode.path_share();
            self.removed.lock().of(stamp.epoch).push((inode.clone(), share)); // an empty directory
            self.move_to(inode, Place::Gone);
            return Ok(());
        };
        stored.ctime = time;
        stored.nlink = stored.nlink.saturating_sub(1);
        let nlink = stored.nlink;
        let linked = matches!(place, Place::Linked(_));
        if linked {
            inode.names.lock().retain(|(p, k)| !(p.id == parent.id && k == key));
        }
        if nlink > 0 {
            if let Removed::Survivor(survivor, survivor_key) = removed {
                inode.raise_share(inode.path_share()); // the link table's share time, the path's and its own
                let entry = entry_of(inode, locked.state(inode)?)?;
                inode.realm.links.write().put(stamp.epoch, link_key(inode.number), None, stamp.birth());
                locked.directory(survivor)?.put(stamp.epoch, survivor_key.clone(), Some(entry), stamp.birth());
                self.mark_dirty(survivor);
                self.move_to(inode, Place::Named { parent: survivor.clone(), key: survivor_key });
                inode.names.lock().clear();
            } else {
                self.mark_dirty(inode);
            }
            return Ok(());
        }
        if matches!(removed, Removed::Orphan) {
            inode.raise_share(inode.path_share());
            let stored = stored_of(inode, locked.state(inode)?)?;
            let item = RealmItem::Orphan(Box::new(stored));
            self.realm_table.write().put(
                stamp.epoch,
                orphan_key(inode.realm.id, inode.number),
                Some(item),
                stamp.birth(),
            );
        }
        if let Place::Linked(root) = &place {
            inode.realm.links.write().put(stamp.epoch, link_key(inode.number), None, stamp.birth());
            self.mark_dirty(root);
            inode.names.lock().clear();
        }
        self.move_to(inode, if matches!(removed, Removed::Orphan) { Place::Orphan } else { Place::Gone });
        Ok(())
    }

    /// RENAME onto nothing, or over a file or an empty directory.
    #[expect(clippy::too_many_arguments, reason = "the fields of the record")]
    pub(crate) fn apply_rename(
        &self,
        stamp: Stamp,
        locked: &mut Locked<'_>,
        (parent, key): (&Arc<Inode>, EntryKey),
        inode: &Arc<Inode>,
        (new_parent, new_key): (&Arc<Inode>, EntryKey),
        replaced: Option<(&Arc<Inode>, bool)>,
        time: Timestamp,
    ) -> Result<()> {
        if let Some((target, orphan)) = replaced {
            let removed = if orphan { Removed::Orphan } else { Removed::Gone };
            self.lose_name(stamp, locked, new_parent, &new_key, target, time, removed)?;
        }
        locked.directory(parent)?.put(stamp.epoch, key.clone(), None, stamp.birth());
        self.place_entry(stamp, locked, inode, (parent, &key), (new_parent, new_key), time)?;
        self.changed_entries(stamp, locked, parent, time)?;
        self.changed_entries(stamp, locked, new_parent, time)
    }

    /// RENAME that swaps two entries.
    pub(crate) fn apply_exchange(
        &self,
        stamp: Stamp,
        locked: &mut Locked<'_>,
        (parent, key, inode): (&Arc<Inode>, EntryKey, &Arc<Inode>),
        (other_parent, other_key, other): (&Arc<Inode>, EntryKey, &Arc<Inode>),
        time: Timestamp,
    ) -> Result<()> {
        self.place_entry(stamp, locked, inode, (parent, &key), (other_parent, other_key.clone()), time)?;
        self.place_entry(stamp, locked, other, (other_parent, &other_key), (parent, key), time)?;
        // The second move took away the mark at the key that the first one got.
        self.mark_moved_if_named(inode);
        self.changed_entries(stamp, locked, parent, time)?;
        self.changed_entries(stamp, locked, other_parent, time)
    }

    fn mark_moved_if_named(&self, inode: &Arc<Inode>) {
        if matches!(inode.place(), Place::Named { .. }) {
            self.mark_moved(inode);
        }
    }

    /// Puts an inode's entry at a new key. Its share time becomes the largest on its old path first (DESIGN 7, "Moves").
    fn place_entry(
        &self,
        stamp: Stamp,
        locked: &mut Locked<'_>,
        inode: &Arc<Inode>,
        (parent, key): (&Arc<Inode>, &EntryKey),
        (new_parent, new_key): (&Arc<Inode>, EntryKey),
        time: Timestamp,
    ) -> Result<()> {
        let linked = matches!(inode.place(), Place::Linked(_));
        if !linked {
            inode.raise_share(inode.path_share());
        }
        let state = locked.state(inode)?;
        if let Some(stored) = state.inode_mut(stamp.epoch, stamp.birth()) {
            stored.ctime = time;
        }
        if let State::Directory(directory) = state {
            directory.touch(stamp.epoch, stamp.birth());
            directory.own.attributes.ctime = time;
        }
        let entry = if linked {
            let mode = state.inode().map_or(0, |stored| stored.mode);
            Entry::Link(LinkEntry { shard: LINK_SHARD, inode: inode.number, mode })
        } else {
            entry_of(inode, locked.state(inode)?)?
        };
        locked.directory(new_parent)?.put(stamp.epoch, new_key.clone(), Some(entry), stamp.birth());
        if linked {
            for name in inode.names.lock().iter_mut().filter(|(p, k)| p.id == parent.id && k == key) {
                *name = (new_parent.clone(), new_key.clone());
            }
            self.mark_dirty(inode);
        } else {
            self.move_to(inode, Place::Named { parent: new_parent.clone(), key: new_key });
        }
        Ok(())
    }

    /// WRITE, after [`crate::file::Content::prepare`].
    pub(crate) fn apply_write(
        &self,
        stamp: Stamp,
        locked: &mut Locked<'_>,
        inode: &Arc<Inode>,
        prepared: Prepared,
        size: u64,
        time: Timestamp,
    ) -> Result<()> {
        let share = inode.path_share();
        let file = locked.state(inode)?.file_mut()?;
        file.touch(stamp.epoch, stamp.birth());
        let mut freed = Vec::new();
        file.content.apply(prepared, share, stamp.birth(), &mut freed);
        file.attributed.inode.size = size;
        file.attributed.inode.mtime = time;
        file.attributed.inode.ctime = time;
        self.free(freed);
        self.mark_dirty(inode);
        Ok(())
    }

    /// Ranges that an operation of the current batch freed.
    pub(crate) fn free(&self, freed: Vec<FreedRange>) {
        if !freed.is_empty() {
            self.pending.lock().freed.extend(freed);
        }
    }

    /// Prepares a TRUNCATE. Rolls the contents into this epoch first, since nothing may come between the preparation and its use.
    pub(crate) fn prepare(
        &self,
        stamp_epoch: u64,
        locked: &mut Locked<'_>,
        inode: &Inode,
        edit: &Edit<'_>,
    ) -> Result<Prepared> {
        let file = locked.state(inode)?.file_mut()?;
        file.touch(stamp_epoch, Hlc::ZERO);
        file.content.prepare(&self.nodes, file.attributed.inode.size, edit)
    }

    /// SETATTR.
    pub(crate) fn apply_set_attributes(
        &self,
        stamp: Stamp,
        locked: &mut Locked<'_>,
        inode: &Arc<Inode>,
        new: &Attributes,
        time: Timestamp,
    ) -> Result<()> {
        let state = locked.state(inode)?;
        let permissions = |old: u32| new.mode.map_or(old, |m| old & mode::TYPE | m & 0o7777);
        if let State::Directory(directory) = state {
            directory.touch(stamp.epoch, stamp.birth());
            let a = &mut directory.own.attributes;
            (a.mode, a.uid, a.gid) = (permissions(a.mode), new.uid.unwrap_or(a.uid), new.gid.unwrap_or(a.gid));
            (a.atime, a.mtime, a.ctime) = (new.atime.unwrap_or(a.atime), new.mtime.unwrap_or(a.mtime), time);
        } else if let Some(i) = state.inode_mut(stamp.epoch, stamp.birth()) {
            (i.mode, i.uid, i.gid) = (permissions(i.mode), new.uid.unwrap_or(i.uid), new.gid.unwrap_or(i.gid));
            (i.atime, i.mtime, i.ctime) = (new.atime.unwrap_or(i.atime), new.mtime.unwrap_or(i.mtime), time);
        }
        self.mark_dirty(inode);
        Ok(())
    }

    /// SETXATTR and REMOVEXATTR.
    pub(crate) fn apply_xattr(
        &self,
        stamp: Stamp,
        locked: &mut Locked<'_>,
        inode: &Arc<Inode>,
        name: &[u8],
        value: Option<&[u8]>,
        time: Timestamp,
    ) -> Result<()> {
        let state = locked.state(inode)?;
        let (xattrs, ctime) = if let State::Directory(directory) = state {
            directory.touch(stamp.epoch, stamp.birth());
            let a = &mut directory.own.attributes;
            (&mut a.xattrs, &mut a.ctime)
        } else {
            let stored =
                state.inode_mut(stamp.epoch, stamp.birth()).ok_or(Error::NotSupported("attributes of this inode"))?;
            (&mut stored.xattrs, &mut stored.ctime)
        };
        *ctime = time;
        xattrs.retain(|(n, _)| n != name);
        if let Some(value) = value {
            let at = xattrs.partition_point(|(n, _)| n.as_slice() < name);
            xattrs.insert(at, (name.to_vec(), value.to_vec()));
        }
        self.mark_dirty(inode);
        Ok(())
    }

    /// ORPHAN_DROP: the last who had the file open is gone.
    pub(crate) fn apply_orphan_drop(&self, stamp: Stamp, realm: u64, number: u64) -> Result<()> {
        self.realm_table.write().put(stamp.epoch, orphan_key(realm, number), None, stamp.birth());
        if let Some(inode) = self.inodes.get(inode_id(self.realm_index(realm)?, number)) {
            self.move_to(&inode, Place::Gone); // with its mark, which would bring the orphan back
        }
        Ok(())
    }

    /// Name of an entry that a key stands for.
    pub(crate) fn name(key: &[u8]) -> Vec<u8> {
        name_of(key).to_vec()
    }
}
