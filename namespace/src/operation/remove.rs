//! Removing names of files and empty directories.

use crate::api::{Context, Error, FileType, InodeId, Result};
use crate::apply::{Locked, Removed};
use crate::directory::{Found, SNAPSHOTS_NAME, check_name};
use crate::inode::{EntryKey, Inode, Place, State};
use crate::namespace::Namespace;
use crate::operation::RECORD_BYTES;
use envoyfs_engine::store::Tier;
use envoyfs_layout::entry::Entry;
use envoyfs_layout::operation::{Fate, Operation};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Namespace {
    /// Removes a name of a file. The file lives on while it has other names or is open.
    ///
    /// # Errors
    /// `NotFound`, `IsDirectory`, `ReadOnly`, `NoSpace`, `Stale`, or a failed read.
    pub fn unlink(&self, cx: &Context, parent: InodeId, name: &[u8]) -> Result<()> {
        self.check(cx)?;
        let parent = self.live(parent)?;
        if matches!(*parent.read(), State::SnapshotList) || name == SNAPSHOTS_NAME {
            return Err(Error::IsDirectory);
        }
        check_name(name)?;
        while !self.try_unlink(&parent, name)? {}
        Ok(())
    }

    /// [`Self::unlink`]; false if the name came to stand for something else meanwhile.
    fn try_unlink(&self, parent: &Arc<Inode>, name: &[u8]) -> Result<bool> {
        let inode = self.find(parent, name)?;
        if inode.file_type == FileType::Directory {
            return Err(Error::IsDirectory);
        }
        let time = self.timestamp();
        let other_name = survivor(parent, name, &inode);
        let mut reserved = vec![parent, &inode];
        reserved.extend(other_name.iter().map(|(directory, _)| directory));
        let mut permit = self.reserve(&reserved, RECORD_BYTES + 2 * name.len() + 256, 0, 0, Tier::Shrinking)?;
        let _change = self.change();
        let mut to_lock = vec![parent, &inode];
        if let Some((directory, _)) = &other_name {
            to_lock.push(directory);
        }
        let mut locked = Locked::new(to_lock);
        parent.check_writable()?;
        let key = match self.still(&mut locked, parent, name, &inode) {
            Err(Error::NotFound) => return Ok(false),
            key => key?,
        };
        let nlink = locked.state(&inode)?.inode().map_or(1, |stored| stored.nlink);
        let survivor = match &other_name {
            Some((directory, key)) if nlink == 2 && self.names(&mut locked, directory, key, &inode)? => {
                Some((directory, key))
            }
            _ => None,
        };
        let orphan = nlink <= 1 && inode.opens.load(Ordering::Acquire) > 0;
        let fate = match survivor {
            Some((directory, key)) => {
                Fate::Survivor { parent: self.bind(&mut permit, directory)?, name: Self::name(key) }
            }
            None if orphan => Fate::Orphan,
            None => Fate::Gone,
        };
        let parent_handle = self.bind(&mut permit, parent)?;
        let operation = Operation::Unlink { parent: parent_handle, time, name: name.to_vec(), fate };
        let stamp = self.stamp(self.append(&mut permit, &operation, &[])?);
        let removed = match survivor {
            Some((directory, key)) => Removed::Survivor(directory, key.clone()),
            None if orphan => Removed::Orphan,
            None => Removed::Gone,
        };
        self.applied(self.apply_unlink(stamp, &mut locked, parent, key, &inode, time, removed))?;
        drop(locked);
        self.inodes.evict(inode);
        Ok(true)
    }

    /// Removes an empty directory; in `.snap`, a snapshot with all that is in it.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`, `NotEmpty` (entries, or snapshots), `ReadOnly`, `NoSpace`, `Stale`, or a failed read.
    pub fn rmdir(&self, cx: &Context, parent: InodeId, name: &[u8]) -> Result<()> {
        self.check(cx)?;
        let parent = self.live(parent)?;
        if matches!(*parent.read(), State::SnapshotList) {
            return self.delete_snapshot(cx, self.above(&parent)?.id, name);
        }
        if name == SNAPSHOTS_NAME {
            return Err(Error::NotPermitted("remove the snapshots in it: rmdir .snap/NAME"));
        }
        check_name(name)?;
        while !self.try_rmdir(&parent, name)? {}
        Ok(())
    }

    /// [`Self::rmdir`]; false if the name came to stand for something else meanwhile.
    fn try_rmdir(&self, parent: &Arc<Inode>, name: &[u8]) -> Result<bool> {
        let inode = self.find(parent, name)?;
        if inode.file_type != FileType::Directory {
            return Err(Error::NotDirectory);
        }
        let time = self.timestamp();
        let mut permit = self.reserve(&[parent], RECORD_BYTES + name.len(), 0, 0, Tier::Shrinking)?;
        let _change = self.change();
        let mut locked = Locked::new([parent, &inode]);
        parent.check_writable()?;
        let key = match self.still(&mut locked, parent, name, &inode) {
            Err(Error::NotFound) => return Ok(false),
            key => key?,
        };
        self.check_empty(&mut locked, &inode)?;
        let operation =
            Operation::Unlink { parent: self.bind(&mut permit, parent)?, time, name: name.to_vec(), fate: Fate::Gone };
        let stamp = self.stamp(self.append(&mut permit, &operation, &[])?);
        self.applied(self.apply_unlink(stamp, &mut locked, parent, key, &inode, time, Removed::Gone))?;
        drop(locked);
        self.inodes.evict(inode);
        Ok(true)
    }

    /// Refuses a directory that has entries or snapshots. Caller holds its state.
    pub(crate) fn check_empty(&self, locked: &mut Locked<'_>, inode: &Arc<Inode>) -> Result<()> {
        let directory = locked.directory(inode)?;
        if !directory.entries.is_empty(&self.nodes, &self.trees.directory)? {
            return Err(Error::NotEmpty("it has entries"));
        }
        if directory.own.snapshots && self.has_snapshots(inode)? {
            return Err(Error::NotEmpty("it has snapshots; remove them with rmdir .snap/NAME"));
        }
        Ok(())
    }

    /// Does the name still stand for this inode? Its key, if so. Caller holds the directory's state.
    pub(crate) fn still(
        &self,
        locked: &mut Locked<'_>,
        parent: &Arc<Inode>,
        name: &[u8],
        inode: &Arc<Inode>,
    ) -> Result<EntryKey> {
        match locked.directory(parent)?.find(&self.nodes, &self.trees.directory, name)? {
            Found::Present(key, entry) if self.stands_for(parent, &entry, inode)? => Ok(key),
            _ => Err(Error::NotFound),
        }
    }

    /// Is an entry of this directory this inode's?
    pub(crate) fn stands_for(&self, parent: &Inode, entry: &Entry, inode: &Inode) -> Result<bool> {
        let of = |number| parent.realm.inode_id(number) == inode.id;
        Ok(match entry {
            Entry::File(i) | Entry::Symlink(i) | Entry::Special(i) => of(i.number),
            Entry::Link(link) => of(link.inode),
            Entry::Directory(d) => of(d.number),
            Entry::Realm(r) => crate::realm::inode_id(self.realm_index(r.realm_id)?, r.number) == inode.id,
        })
    }

    /// Is this key a name of this linked file? Caller holds the directory's state.
    fn names(&self, locked: &mut Locked<'_>, directory: &Arc<Inode>, key: &[u8], inode: &Arc<Inode>) -> Result<bool> {
        let found = locked.directory(directory)?.entries.get(&self.nodes, &self.trees.directory, key)?;
        let is_name = matches!(found, Some(Entry::Link(link)) if directory.realm.inode_id(link.inode) == inode.id);
        // On a path with a larger share time the inode stays in the table: to move it there it would have to be settled first.
        Ok(is_name && directory.is_alive() && directory.path_share() <= inode.path_share())
    }
}

/// The other name of a linked file with two, if it is known in memory. A guess that is checked under the locks.
fn survivor(parent: &Arc<Inode>, name: &[u8], inode: &Arc<Inode>) -> Option<(Arc<Inode>, EntryKey)> {
    if !matches!(inode.place(), Place::Linked(_)) || inode.read().inode().is_none_or(|stored| stored.nlink != 2) {
        return None;
    }
    let names = inode.names.lock();
    names.iter().find(|(p, key)| p.id != parent.id || crate::directory::name_of(key) != name).cloned()
}
