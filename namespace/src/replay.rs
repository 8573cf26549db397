//! Replay: the records after the checkpoint, applied in order to the state that its roots describe (INV-21, INV-22).
//!
//! Uses the same functions as live operations. One thread, no front end yet. A record that does not fit is damage: the open fails and changes nothing.

use crate::api::{Error, Result};
use crate::apply::{Locked, Removed};
use crate::directory::Found;
use crate::file::Edit;
use crate::inode::{EntryKey, Inode, Place};
use crate::namespace::{LINK_SHARD, Namespace, Stamp};
use crate::realm::Realm;
use crate::table::{RealmItem, Table, orphan_key};
use crate::tree::damaged;
use envoyfs_engine::store::Replayed;
use envoyfs_layout::entry::{Entry, LinkEntry};
use envoyfs_layout::operation::{BindTarget, Fate, Operation};
use envoyfs_layout::{Hlc, Totals};
use std::collections::HashMap;
use std::sync::Arc;

/// What handles stand for.
type Handles = HashMap<u64, Arc<Inode>>;

impl Namespace {
    /// Applies what the engine found in the log. The index of the record that cannot be applied comes with the error: the namespace is of no use then.
    pub(crate) fn replay(&self, records: &[Replayed]) -> std::result::Result<(), (usize, Error)> {
        let count = records.len();
        let mut handles = Handles::new();
        for (index, record) in records.iter().enumerate() {
            let end = record.end;
            self.replay_one(&mut handles, record).map_err(|error| {
                tracing::error!(%error, ?end, kind = record.kind, "a record of the log cannot be replayed");
                (index, error)
            })?;
        }
        if count > 0 {
            tracing::info!(records = count, "replayed the log");
        }
        Ok(())
    }

    fn handle(&self, handles: &Handles, handle: u64) -> Result<Arc<Inode>> {
        handles.get(&handle).cloned().ok_or_else(|| self.inconsistent("a record names a handle that was not bound"))
    }

    /// Key for a name that must not be there yet.
    fn free_key(&self, locked: &mut Locked<'_>, parent: &Arc<Inode>, name: &[u8]) -> Result<EntryKey> {
        match locked.directory(parent)?.find(&self.nodes, &self.trees.directory, name)? {
            Found::Absent(key) => Ok(key),
            Found::Present(..) => Err(self.inconsistent("a record makes a name that is there already")),
        }
    }

    fn replay_one(&self, handles: &mut Handles, record: &Replayed) -> Result<()> {
        let operation = Operation::decode(record.kind, &record.body).map_err(damaged)?;
        let stamp = Stamp { epoch: self.epoch(), hlc: record.hlc };
        match operation {
            Operation::Bind { handle, target } => {
                let inode = self.bound(handles, &target)?;
                handles.insert(handle, inode);
            }
            Operation::Create { handle, parent, time, name, hash_key, inode } => {
                let parent = self.handle(handles, parent)?;
                let mut locked = Locked::new([&parent]);
                let key = self.free_key(&mut locked, &parent, &name)?;
                let made = self.apply_create(stamp, &mut locked, &parent, key, time, &inode, hash_key)?;
                handles.insert(handle, made);
            }
            Operation::Link { handle, parent, time, name } => {
                let (inode, parent) = (self.handle(handles, handle)?, self.handle(handles, parent)?);
                let place = inode.place();
                let mut to_lock = vec![&inode, &parent];
                if let Place::Named { parent: first, .. } = &place {
                    to_lock.push(first);
                }
                let mut locked = Locked::new(to_lock);
                let key = self.free_key(&mut locked, &parent, &name)?;
                self.apply_link(stamp, &mut locked, &inode, &parent, key, time)?;
            }
            Operation::Unlink { parent, time, name, fate } => {
                self.replay_unlink(handles, stamp, parent, &name, &fate, time)?
            }
            Operation::Rename { .. } => self.replay_rename(handles, stamp, &operation)?,
            Operation::Write { handle, size, time, pieces, direct } => {
                let inode = self.handle(handles, handle)?;
                if direct.len() != record.data.len() {
                    return Err(self.inconsistent("a write names another number of objects than it places"));
                }
                let pieces: Vec<(u64, &[u8])> =
                    pieces.iter().map(|(offset, bytes)| (*offset, bytes.as_slice())).collect();
                let direct: Vec<_> = direct.into_iter().zip(&record.data).collect();
                let mut locked = Locked::new([&inode]);
                let edit = Edit::Write { pieces: &pieces, direct: &direct };
                let prepared = self.prepare(stamp.epoch, &mut locked, &inode, &edit)?;
                self.apply_write(stamp, &mut locked, &inode, prepared, size, time)?;
            }
            Operation::Truncate { handle, size, time } => {
                let inode = self.handle(handles, handle)?;
                let mut locked = Locked::new([&inode]);
                let prepared = self.prepare(stamp.epoch, &mut locked, &inode, &Edit::Truncate { new_size: size })?;
                self.apply_write(stamp, &mut locked, &inode, prepared, size, time)?;
            }
            Operation::SetAttributes { handle, attributes, time } => {
                let inode = self.handle(handles, handle)?;
                self.apply_set_attributes(stamp, &mut Locked::new([&inode]), &inode, &attributes, time)?;
            }
            Operation::SetXattr { handle, time, name, value } => {
                let inode = self.handle(handles, handle)?;
                self.apply_xattr(stamp, &mut Locked::new([&inode]), &inode, &name, Some(&value), time)?;
            }
            Operation::RemoveXattr { handle, time, name } => {
                let inode = self.handle(handles, handle)?;
                self.apply_xattr(stamp, &mut Locked::new([&inode]), &inode, &name, None, time)?;
            }
            Operation::ForkDirectory { source, parent, time, name, realm } => {
                let (source, parent) = (self.handle(handles, source)?, self.handle(handles, parent)?);
                let key = self.free_key(&mut Locked::new([&parent]), &parent, &name)?;
                self.prepare_source(&source)?;
                self.apply_fork_directory(stamp, &source, &parent, key, realm, time)?;
            }
            Operation::ForkFile { source, parent, time, name, handle, number } => {
                let (source, parent) = (self.handle(handles, source)?, self.handle(handles, parent)?);
                let key = self.free_key(&mut Locked::new([&parent]), &parent, &name)?;
                self.build_contents_now(&source)?;
                let fork = self.apply_fork_file(stamp, &source, &parent, key, number, time)?;
                handles.insert(handle, fork);
            }
            Operation::Snapshot { directory, name, realm, .. } => {
                let directory = self.handle(handles, directory)?;
                self.prepare_source(&directory)?;
                self.apply_snapshot(stamp, &directory, &name, realm)?;
            }
            Operation::DeleteTree { parent, time, name, dropped } => {
                let parent = self.handle(handles, parent)?;
                let inode = self.find(&parent, &name)?;
                let key = self.still(&mut Locked::new([&parent]), &parent, &name, &inode)?;
                self.build_now(&inode)?;
                self.apply_delete_tree(stamp, &parent, key, &inode, &dropped, time)?;
            }
            Operation::DeleteSnapshot { directory, time, realm } => {
                let directory = self.handle(handles, directory)?;
                self.apply_delete_snapshot(stamp, &directory, realm, time)?;
            }
            Operation::OrphanDrop { realm, inode } => self.apply_orphan_drop(stamp, realm, inode)?,
        }
        Ok(())
    }

    fn replay_unlink(
        &self,
        handles: &Handles,
        stamp: Stamp,
        parent: u64,
        name: &[u8],
        fate: &Fate,
        time: envoyfs_layout::Timestamp,
    ) -> Result<()> {
        let parent = self.handle(handles, parent)?;
        let inode = self.find(&parent, name)?;
        let survivor = match fate {
            Fate::Survivor { parent, .. } => Some(self.handle(handles, *parent)?),
            _ => None,
        };
        let mut to_lock = vec![&parent, &inode];
        to_lock.extend(&survivor);
        let mut locked = Locked::new(to_lock);
        let key = self.still(&mut locked, &parent, name, &inode)?;
        let removed = match (fate, &survivor) {
            (Fate::Survivor { name, .. }, Some(directory)) => {
                Removed::Survivor(directory, self.still(&mut locked, directory, name, &inode)?)
            }
            (Fate::Orphan, _) => Removed::Orphan,
            _ => Removed::Gone,
        };
        self.apply_unlink(stamp, &mut locked, &parent, key, &inode, time, removed)
    }

    fn replay_rename(&self, handles: &Handles, stamp: Stamp, operation: &Operation) -> Result<()> {
        let Operation::Rename { parent, name, new_parent, new_name, time, exchange, orphan } = operation else {
            return Ok(());
        };
        let (parent, new_parent) = (self.handle(handles, *parent)?, self.handle(handles, *new_parent)?);
        let inode = self.find(&parent, name)?;
        let target = match self.find(&new_parent, new_name) {
            Ok(target) => Some(target),
            Err(Error::NotFound) => None,
            Err(error) => return Err(error),
        };
        self.settle(&inode, &new_parent)?;
        if let (Some(target), true) = (&target, exchange) {
            self.settle(target, &parent)?;
        }
        let mut to_lock = vec![&parent, &new_parent, &inode];
        to_lock.extend(&target);
        let mut locked = Locked::new(to_lock);
        let key = self.still(&mut locked, &parent, name, &inode)?;
        let new_key = match &target {
            Some(target) => self.still(&mut locked, &new_parent, new_name, target)?,
            None => self.free_key(&mut locked, &new_parent, new_name)?,
        };
        match (&target, exchange) {
            (Some(target), true) => {
                self.apply_exchange(stamp, &mut locked, (&parent, key, &inode), (&new_parent, new_key, target), *time)
            }
            (None, true) => Err(self.inconsistent("an exchange with a name that is not there")),
            _ => {
                let replaced = target.as_ref().map(|target| (target, *orphan));
                self.apply_rename(stamp, &mut locked, (&parent, key), &inode, (&new_parent, new_key), replaced, *time)
            }
        }
    }

    fn bound(&self, handles: &Handles, target: &BindTarget) -> Result<Arc<Inode>> {
        match target {
            BindTarget::View => self.root(),
            BindTarget::Named { parent, name } => self.find(&self.handle(handles, *parent)?, name),
            BindTarget::Link { realm_root, shard, inode } => {
                if *shard != LINK_SHARD {
                    return Err(Error::NotSupported("link tables of other territories"));
                }
                let root = self.handle(handles, *realm_root)?;
                let _state = root.read();
                self.load(&root, &[], &Entry::Link(LinkEntry { shard: *shard, inode: *inode, mode: 0 }))
            }
            BindTarget::Orphan { realm, inode } => self.load_orphan(*realm, *inode),
            BindTarget::Snapshot { directory, realm } => self.load_snapshot(&self.handle(handles, *directory)?, *realm),
        }
    }

    /// An open file without a name. Its realm may be gone: what is left of that is its identity.
    fn load_orphan(&self, realm: u64, number: u64) -> Result<Arc<Inode>> {
        let index = self.realm_index(realm)?;
        if let Some(inode) = self.inodes.get(crate::realm::inode_id(index, number)) {
            return Ok(inode);
        }
        let item = self.realm_table.read().get(&self.nodes, &self.trees.realms, &orphan_key(realm, number))?;
        let Some(RealmItem::Orphan(stored)) = item else {
            return Err(self.inconsistent("a record names an orphan that is not there"));
        };
        let realm = Arc::new(Realm::new(realm, index, realm, false, Table::new(None, Totals::ZERO), Hlc::ZERO));
        let file_type =
            crate::inode::file_type(stored.mode).ok_or_else(|| self.inconsistent("an inode has an unknown type"))?;
        Ok(self.inodes.get_or_insert(realm.inode_id(number), || {
            Self::new_inode(&realm, &stored, file_type, Place::Orphan, Hlc::ZERO, 0)
        }))
    }
}
