//! Forks: a directory or file gets a second place in the tree, by one reference.
//!
//! Rules (DESIGN 7, INV-03, INV-05): what changed below the source is built first, with frees judged by the share times before; then the record's HLC becomes the share time
//! of both sides, so that nothing that either can reach is exclusive any more. From a snapshot only the fork's side is raised. The cost does not depend on the size of
//! the source; it is O(what changed since the last checkpoint) and, for an inner directory, O(names in it of files with several names).

use crate::api::{Attributes, Context, Error, FileType, InodeId, Result};
use crate::apply::{Locked, link_key};
use crate::checkpoint::Builder;
use crate::directory::{Found, check_name};
use crate::inode::{EntryKey, Inode, State};
use crate::namespace::{Namespace, Stamp};
use crate::operation::RECORD_BYTES;
use crate::tree::{Change, Item, Tree};
use envoyfs_engine::store::{Batch, Changes, Counter, Tier};
use envoyfs_layout::entry::Entry;
use envoyfs_layout::inode::{Inode as StoredInode, Timestamp};
use envoyfs_layout::node::{Owner, TreeKind};
use envoyfs_layout::operation::Operation;
use envoyfs_layout::{Hlc, RealmEntry, Reference, Totals, flags};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Namespace {
    /// Forks a directory or a file and raises the fork's lookup count. Constant time.
    ///
    /// # Errors
    /// `CrossRealm` if the source contains forks, `Exists`, `NoSpace`, `ReadOnly`, `Invalid`, `Stale`, or a failed read.
    pub fn fork(&self, cx: &Context, source: InodeId, parent: InodeId, name: &[u8]) -> Result<Attributes> {
        self.check(cx)?;
        check_name(name)?;
        let (source, parent) = (self.live(source)?, self.live(parent)?);
        match source.file_type {
            FileType::Directory => self.fork_directory(&source, &parent, name),
            FileType::Regular => self.fork_file(&source, &parent, name),
            _ => Err(Error::Invalid("only directories and regular files can be forked")),
        }
    }

    fn fork_directory(&self, source: &Arc<Inode>, parent: &Arc<Inode>, name: &[u8]) -> Result<Attributes> {
        if matches!(*source.read(), State::SnapshotList) {
            return Err(Error::Invalid("fork one of the snapshots in .snap, not the list"));
        }
        let realm = self.store.number(Counter::Realm)?;
        let time = self.timestamp();
        let more = self.charge_links_below(source);
        let mut permit = self.reserve_more(more, &[source, parent], RECORD_BYTES + name.len(), 0, 0, Tier::Writer)?;
        let _building = self.builder.lock();
        let _alone = self.alone();
        source.is_alive().then_some(()).ok_or(Error::Stale)?;
        parent.check_writable()?;
        let Found::Absent(key) = parent.read().directory()?.find(&self.nodes, &self.trees.directory, name)? else {
            return Err(Error::Exists);
        };
        self.prepare_source(source)?;
        let operation = Operation::ForkDirectory {
            source: self.bind(&mut permit, source)?,
            parent: self.bind(&mut permit, parent)?,
            time,
            name: name.to_vec(),
            realm,
        };
        let stamp = self.stamp(self.append(&mut permit, &operation, &[])?);
        self.applied(self.apply_fork_directory(stamp, source, parent, key.clone(), realm, time))?;
        let state = parent.read();
        let entry = state.directory()?.entries.get(&self.nodes, &self.trees.directory, &key)?.ok_or(Error::Stale)?;
        let fork = self.load(parent, &key, &entry)?;
        drop(state);
        Ok(self.known(&fork))
    }

    /// Builds what changed below the source of a fork or snapshot, and refuses what cannot be forked. Caller holds the builder lock and the freeze lock exclusively.
    pub(crate) fn prepare_source(&self, source: &Arc<Inode>) -> Result<()> {
        let root = self.build_now(source)?;
        if root.flags & flags::REALMS != 0 {
            return Err(Error::CrossRealm("it contains forks; fork those one by one"));
        }
        Ok(())
    }

    /// Stores what changed at and below a directory in the current batch, so that its reference says everything. Link files of its realm too, if names of them are below.
    /// Caller holds the builder lock and the freeze lock exclusively.
    pub(crate) fn build_now(&self, directory: &Arc<Inode>) -> Result<Reference> {
        let above = match directory.place() {
            crate::inode::Place::Named { parent, .. } => parent.path_share(),
            _ => Hlc::ZERO,
        };
        let epoch = self.epoch();
        let changed = directory.dirty_epoch.load(Ordering::Acquire) == epoch
            || directory.read().directory()?.entries.base.is_none();
        let mut builder = Builder::new(self, Batch::Current, epoch);
        let built = if changed { builder.directory_tree(directory, above).map(|_| ()) } else { Ok(()) };
        let base = directory.read().directory()?.entries.base;
        // Link files are not below the directory: they may have changed when nothing in it did.
        let built = match (built, base, directory.realm.root()) {
            (Ok(()), Some(base), Some(root)) if base.flags & flags::LINKS != 0 => {
                builder.link_table(&root, root.path_share())
            }
            (built, ..) => built,
        };
        let Builder { gone, built: inodes, .. } = builder;
        // A failed build has taken marks away: what they stood for could be missed by every later checkpoint.
        self.applied(built)?;
        self.add_changes(Changes { gone, freed: Vec::new() });
        for inode in inodes {
            inode.charge.lock().built();
            self.inodes.evict(inode);
        }
        directory.realm.links_charge.lock().built();
        base.ok_or_else(|| self.inconsistent("a directory has no tree after it was built"))
    }

    /// FORK_DIRECTORY, after [`Self::prepare_source`].
    pub(crate) fn apply_fork_directory(
        &self,
        stamp: Stamp,
        source: &Arc<Inode>,
        parent: &Arc<Inode>,
        key: EntryKey,
        realm: u64,
        time: Timestamp,
    ) -> Result<()> {
        let entry = self.share(stamp, source, realm, parent.realm.id, false)?;
        let mut locked = Locked::new([parent]);
        locked.directory(parent)?.put(stamp.epoch, key, Some(Entry::Realm(entry)), stamp.birth());
        self.changed_entries(stamp, &mut locked, parent, time)
    }

    /// The entry of a fork or snapshot of a built directory; raises the share times on both sides.
    pub(crate) fn share(
        &self,
        stamp: Stamp,
        source: &Arc<Inode>,
        realm: u64,
        home: u64,
        read_only: bool,
    ) -> Result<RealmEntry> {
        let (root, totals) = {
            let mut state = source.write();
            let directory = state.directory_mut()?;
            let root = directory.entries.base.ok_or(Error::Stale)?;
            if !source.realm.read_only {
                directory.touch(stamp.epoch, stamp.birth());
            }
            (root, directory.entries.totals)
        };
        if !source.realm.read_only {
            source.raise_share(stamp.hlc);
            self.mark_dirty(source);
        }
        let is_realm_root = source.realm.root().is_some_and(|root| root.id == source.id);
        let (links, links_totals) = if is_realm_root {
            let links = source.realm.links.read();
            (links.base, links.totals)
        } else if root.flags & flags::LINKS != 0 {
            self.copy_links(stamp, source, &root, realm)?
        } else {
            (None, Totals::ZERO)
        };
        Ok(RealmEntry {
            share: stamp.hlc,
            number: source.number,
            generation: source.generation,
            totals,
            snapshots: false,
            root,
            realm_id: realm,
            home,
            read_only,
            links,
            links_share: Hlc::ZERO,
            links_totals,
        })
    }

    /// The link table of a fork of an inner directory: the entries of the names found in it, with as many names as are inside. Each is raised on both sides.
    fn copy_links(
        &self,
        stamp: Stamp,
        source: &Arc<Inode>,
        root: &Reference,
        realm: u64,
    ) -> Result<(Option<Reference>, Totals)> {
        let mut names = BTreeMap::new();
        self.links_below(root, &mut names)?;
        let mut changes = Vec::new();
        for (number, count) in names {
            let key = link_key(number);
            let found = source.realm.links.read().get(&self.nodes, &self.trees.links, &key)?;
            let stored =
                found.ok_or_else(|| self.inconsistent("a name refers to a link table entry that is not there"))?;
            if !source.realm.read_only {
                self.raise_link(stamp, source, number, &key, &stored)?;
            }
            let copy = StoredInode { share: stamp.hlc, nlink: count, ..stored };
            let (value, references) = copy.encode().map_err(crate::tree::damaged)?;
            changes.push(Change { key, item: Some(Item { value, references }), birth: stamp.birth() });
        }
        if changes.is_empty() {
            return Ok((None, Totals::ZERO));
        }
        let tree = Tree::links(Owner { realm, inode: source.number });
        let mut gone = Vec::new();
        let applied = tree.apply(&self.nodes, Batch::Current, Hlc::ZERO, None, &[], Hlc::ZERO, &changes, &mut gone)?;
        self.add_changes(Changes { gone, freed: Vec::new() });
        Ok((Some(applied.root), applied.totals))
    }

    /// Raises the share time of one entry of the source's link table.
    fn raise_link(
        &self,
        stamp: Stamp,
        source: &Arc<Inode>,
        number: u64,
        key: &[u8],
        stored: &StoredInode,
    ) -> Result<()> {
        if let Some(inode) = self.inodes.get(source.realm.inode_id(number)) {
            let mut locked = Locked::new([&inode]);
            let state = locked.state(&inode)?;
            state.inode_mut(stamp.epoch, stamp.birth()).ok_or(Error::IsDirectory)?;
            inode.raise_share(stamp.hlc);
            self.mark_dirty(&inode);
            return Ok(());
        }
        let raised = StoredInode { share: stored.share.max(stamp.hlc), ..stored.clone() };
        source.realm.links.write().put(stamp.epoch, key.to_vec(), Some(raised), stamp.birth());
        if let Some(root) = source.realm.root() {
            self.mark_dirty(&root);
        }
        Ok(())
    }

    /// How many names of each link file a directory's tree holds, inside its realm; found along LINKS flags.
    pub(crate) fn links_below(&self, root: &Reference, names: &mut BTreeMap<u64, u32>) -> Result<()> {
        let mut next = vec![*root];
        while let Some(reference) = next.pop() {
            if reference.flags & flags::LINKS == 0 {
                continue;
            }
            let node = self.nodes.read(&reference, TreeKind::Directory)?;
            for index in 0..node.len() {
                let references: Vec<_> = node.item_references(index).collect();
                if node.header().level > 0 {
                    next.extend(references);
                    continue;
                }
                match Entry::decode(node.value(index), &references).map_err(crate::tree::damaged)? {
                    Entry::Link(link) => *names.entry(link.inode).or_insert(0) += 1,
                    Entry::Directory(directory) => next.push(directory.root),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn fork_file(&self, source: &Arc<Inode>, parent: &Arc<Inode>, name: &[u8]) -> Result<Attributes> {
        let number = self.store.number(Counter::Inode)?;
        let time = self.timestamp();
        let mut permit = self.reserve(&[source, parent], RECORD_BYTES + name.len(), 0, 0, Tier::Writer)?;
        let _building = self.builder.lock();
        let _alone = self.alone();
        source.is_alive().then_some(()).ok_or(Error::Stale)?;
        parent.check_writable()?;
        let Found::Absent(key) = parent.read().directory()?.find(&self.nodes, &self.trees.directory, name)? else {
            return Err(Error::Exists);
        };
        self.build_contents_now(source)?;
        let handle = parent.realm.inode_id(number).0;
        let operation = Operation::ForkFile {
            source: self.bind(&mut permit, source)?,
            parent: self.bind(&mut permit, parent)?,
            time,
            name: name.to_vec(),
            handle,
            number,
        };
        let stamp = self.stamp(self.append(&mut permit, &operation, &[])?);
        let fork = self.applied(self.apply_fork_file(stamp, source, parent, key, number, time))?;
        fork.bound_epoch.store(stamp.epoch, Ordering::Release);
        Ok(self.known(&fork))
    }

    /// Stores the changed contents of a file in the current batch. Caller holds the builder lock and the freeze lock exclusively.
    pub(crate) fn build_contents_now(&self, inode: &Arc<Inode>) -> Result<()> {
        let share = inode.path_share();
        let owner = Owner { realm: inode.realm.id, inode: inode.number };
        let mut state = inode.write();
        let file = state.file_mut()?;
        if file.content.is_clean() {
            return Ok(());
        }
        file.content.roll();
        let (mut gone, mut freed) = (Vec::new(), Vec::new());
        let built =
            file.content.build(&self.nodes, owner, Batch::Current, share, file.attributed.inode.size, &mut gone)?;
        file.content.install(built, share, &mut freed);
        drop(state);
        inode.charge.lock().built();
        self.add_changes(Changes { gone, freed });
        Ok(())
    }

    /// FORK_FILE, after [`Self::build_contents_now`].
    pub(crate) fn apply_fork_file(
        &self,
        stamp: Stamp,
        source: &Arc<Inode>,
        parent: &Arc<Inode>,
        key: EntryKey,
        number: u64,
        time: Timestamp,
    ) -> Result<Arc<Inode>> {
        let mut locked = Locked::new([source, parent]);
        let state = locked.state(source)?;
        let body = state.file()?.content.base().clone();
        let stored = state.inode().cloned().ok_or(Error::IsDirectory)?;
        if !source.realm.read_only {
            state.file_mut()?.touch(stamp.epoch, stamp.birth());
            source.raise_share(stamp.hlc);
            self.mark_dirty(source);
        }
        let copy = StoredInode { number, nlink: 1, share: stamp.hlc, ctime: time, btime: time, body, ..stored };
        let place = crate::inode::Place::Named { parent: parent.clone(), key: key.clone() };
        let fork = self.inodes.get_or_insert(parent.realm.inode_id(number), || {
            Self::new_inode(&parent.realm, &copy, FileType::Regular, place, stamp.birth(), stamp.epoch)
        });
        locked.directory(parent)?.put(stamp.epoch, key, Some(Entry::File(copy)), stamp.birth());
        self.changed_entries(stamp, &mut locked, parent, time)?;
        Ok(fork)
    }
}
