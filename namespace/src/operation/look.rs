//! Looking: names, attributes, listings, symbolic links, space.

use crate::api::{Attributes, Context, DirectoryEntry, Error, FileType, InodeId, Result, Space, Totals};
use crate::directory::{Found, SNAPSHOTS_NAME};
use crate::inode::{Inode, Place, State, attributes, file_type};
use crate::namespace::Namespace;
use crate::realm::SNAPSHOT_LIST_BIT;
use envoyfs_layout::entry::Entry;
use envoyfs_layout::inode::Body;
use envoyfs_layout::key::DirectoryKey;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Names of a file with several that are kept in memory.
const NAMES_MAX: usize = 4;
/// Cookie of "." and "..".
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;
/// Entries read of a directory at a time, so that its lock is not held while a front end takes them.
const LIST_AT_ONCE: usize = 1024;

impl Namespace {
    /// The inode of a name, with its lookup count raised. `.snap` and the names in it are found here too.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`, `Stale`, or a failed read.
    pub fn lookup(&self, _cx: &Context, parent: InodeId, name: &[u8]) -> Result<Attributes> {
        let inode = self.find(&self.live(parent)?, name)?;
        Ok(self.known(&inode))
    }

    /// Raises the lookup count and gives the attributes.
    pub(crate) fn known(&self, inode: &Arc<Inode>) -> Attributes {
        inode.lookups.fetch_add(1, Ordering::AcqRel);
        attributes(inode, &inode.read())
    }

    /// The live inode of a name.
    pub(crate) fn find(&self, parent: &Arc<Inode>, name: &[u8]) -> Result<Arc<Inode>> {
        match name {
            b"." => return Ok(parent.clone()),
            b".." => return self.above(parent),
            SNAPSHOTS_NAME if parent.file_type == FileType::Directory => return self.snapshot_list(parent),
            _ => {}
        }
        let state = parent.read();
        if let State::SnapshotList = *state {
            drop(state);
            return self.find_snapshot(parent, name);
        }
        let directory = state.directory()?;
        match directory.find(&self.nodes, &self.trees.directory, name)? {
            Found::Present(key, entry) => {
                let inode = self.load(parent, &key, &entry)?;
                drop(state);
                if let Entry::Link(_) = entry {
                    let mut names = inode.names.lock();
                    // Of use only while there are two: a file with thousands of names does not keep them all in memory.
                    if names.len() < NAMES_MAX && !names.iter().any(|(p, k)| p.id == parent.id && *k == key) {
                        names.push((parent.clone(), key));
                    }
                }
                Ok(inode)
            }
            Found::Absent(_) => Err(Error::NotFound),
        }
    }

    /// The directory that a directory is in; the root is in itself.
    pub(crate) fn above(&self, inode: &Arc<Inode>) -> Result<Arc<Inode>> {
        Ok(match inode.place() {
            Place::Named { parent, .. } | Place::Snapshot(parent) => parent,
            _ => inode.clone(),
        })
    }

    /// Lowers a lookup count. Never blocks on IO.
    pub fn forget(&self, id: InodeId, count: u64) {
        if let Some(inode) = self.inodes.get(id) {
            let lower = |known: u64| Some(known.saturating_sub(count));
            let before = inode.lookups.fetch_update(Ordering::AcqRel, Ordering::Acquire, lower).unwrap_or(0);
            if before <= count && id != InodeId::ROOT {
                inode.names.lock().clear();
                self.inodes.evict(inode);
            }
        }
    }

    /// Attributes of an inode.
    ///
    /// # Errors
    /// `Stale`.
    pub fn getattr(&self, _cx: &Context, id: InodeId) -> Result<Attributes> {
        let inode = self.live(id)?;
        let state = inode.read();
        Ok(attributes(&inode, &state))
    }

    /// Target of a symbolic link.
    ///
    /// # Errors
    /// `Invalid` for anything else.
    pub fn readlink(&self, _cx: &Context, id: InodeId) -> Result<Vec<u8>> {
        let inode = self.live(id)?;
        match inode.read().inode() {
            Some(stored) if inode.file_type == FileType::Symlink => match &stored.body {
                Body::Inline { bytes, .. } => Ok(bytes.clone()),
                _ => Err(self.inconsistent("a symbolic link has no target")),
            },
            _ => Err(Error::Invalid("not a symbolic link")),
        }
    }

    /// Lists a directory from after a cookie (0: from the start) until `emit` says stop. Names that are made or removed meanwhile may or may not be seen; all others are, once.
    ///
    /// # Errors
    /// `NotDirectory`, `Stale`, or a failed read.
    pub fn readdir(
        &self,
        _cx: &Context,
        id: InodeId,
        cookie: u64,
        emit: &mut dyn FnMut(DirectoryEntry) -> bool,
    ) -> Result<()> {
        let inode = self.live(id)?;
        if inode.file_type != FileType::Directory {
            return Err(Error::NotDirectory);
        }
        if cookie < DOT && !emit(dot(b".", inode.id, DOT)) {
            return Ok(());
        }
        if cookie < DOT_DOT && !emit(dot(b"..", self.above(&inode)?.id, DOT_DOT)) {
            return Ok(());
        }
        let mut after = cookie;
        loop {
            let page = self.page(&inode, after, LIST_AT_ONCE)?;
            let full = page.len() == LIST_AT_ONCE;
            for entry in page {
                after = entry.cookie;
                if !emit(entry) {
                    return Ok(());
                }
            }
            if !full {
                return Ok(());
            }
        }
    }

    fn page(&self, inode: &Arc<Inode>, after: u64, count: usize) -> Result<Vec<DirectoryEntry>> {
        let state = inode.read();
        if let State::SnapshotList = *state {
            drop(state);
            return self.list_snapshots(inode, after, count);
        }
        let directory = state.directory()?;
        let next = after.saturating_add(1).max(0x100);
        let (hash, collision) = (next & !0xff, next & 0xff);
        let from = [&hash.to_be_bytes()[..], &u16::try_from(collision).unwrap_or(0).to_be_bytes()].concat();
        let mut page = Vec::new();
        let mut failed = None;
        directory.entries.scan(&self.nodes, &self.trees.directory, Bound::Included(&from), &mut |key, entry| {
            match self.listed(inode, key, entry) {
                Ok(listed) => page.push(listed),
                Err(error) => failed = Some(error),
            }
            if failed.is_some() || page.len() >= count { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        failed.map_or(Ok(page), Err)
    }

    fn listed(&self, parent: &Inode, key: &[u8], entry: &Entry) -> Result<DirectoryEntry> {
        let parts = DirectoryKey::decode(key).map_err(crate::tree::damaged)?;
        let of = |number| parent.realm.inode_id(number);
        let typed = |mode| file_type(mode).ok_or_else(|| self.inconsistent("an inode has an unknown type"));
        let (id, file_type) = match entry {
            Entry::File(i) | Entry::Symlink(i) | Entry::Special(i) => (of(i.number), typed(i.mode)?),
            Entry::Link(link) => (of(link.inode), typed(link.mode)?),
            Entry::Directory(d) => (of(d.number), FileType::Directory),
            Entry::Realm(r) => {
                let index = self.realm_index(r.realm_id)?;
                (crate::realm::inode_id(index, r.number), FileType::Directory)
            }
        };
        Ok(DirectoryEntry { name: parts.name, id, file_type, cookie: parts.hash | u64::from(parts.collision) })
    }

    /// Totals of a subtree as of the last checkpoint that stored it, in O(1): allocated bytes, files, directories, names of files with several names.
    ///
    /// # Errors
    /// `NotDirectory`, `Stale`.
    pub fn totals(&self, _cx: &Context, id: InodeId) -> Result<Totals> {
        let inode = self.live(id)?;
        let t = inode.read().directory()?.entries.totals;
        Ok(Totals { bytes: t.bytes, files: t.files, directories: t.directories, links: t.links })
    }

    /// Space of the whole store.
    pub fn space(&self) -> Space {
        let usage = self.store.usage();
        let files = self.root().ok().and_then(|root| {
            let state = root.read();
            state.directory().ok().map(|d| d.entries.totals.files + d.entries.totals.directories + d.entries.changes())
        });
        let free = usage.capacity.saturating_sub(usage.live);
        Space { capacity: usage.capacity, free, available: usage.available, files: files.unwrap_or(0) }
    }

    /// The virtual directory that lists the snapshots of a directory. Snapshots have none.
    fn snapshot_list(&self, directory: &Arc<Inode>) -> Result<Arc<Inode>> {
        if directory.realm.read_only || matches!(*directory.read(), State::SnapshotList) {
            return Err(Error::NotFound);
        }
        let number = directory.number | SNAPSHOT_LIST_BIT;
        Ok(self.inodes.get_or_insert(directory.realm.inode_id(number), || {
            let place = Place::Snapshot(directory.clone());
            Inode::new(
                directory.realm.clone(),
                number,
                0,
                FileType::Directory,
                envoyfs_layout::Hlc::ZERO,
                place,
                State::SnapshotList,
            )
        }))
    }
}

fn dot(name: &[u8], id: InodeId, cookie: u64) -> DirectoryEntry {
    DirectoryEntry { name: name.to_vec(), id, file_type: FileType::Directory, cookie }
}
