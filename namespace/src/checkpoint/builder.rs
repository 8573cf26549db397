//! Turns the state at the end of an epoch into nodes: children first, each directory in one bulk pass over its tree.
//!
//! Owns the walk along dirty sets and the share times on the way down, which decide what is exclusive (INV-05, INV-07). Locks one inode at a time, and only to take its frozen
//! state and to install the result. One builder at a time.

use crate::api::{Error, FileType, Result};
use crate::apply::{UNBUILT, directory_entry, link_key};
use crate::inode::{EntryKey, FrozenInode, Inode, State};
use crate::layered::{Changed, Overlay, Value};
use crate::namespace::Namespace;
use crate::realm::VIEW;
use crate::table::RealmItem;
use crate::tree::{Change, Item, Tree};
use envoyfs_engine::store::{Batch, Gone, Roots};
use envoyfs_layout::entry::{DirectoryEntry, Entry};
use envoyfs_layout::inode::Inode as StoredInode;
use envoyfs_layout::node::Owner;
use envoyfs_layout::territory::TERRITORY_ROOT;
use envoyfs_layout::{ClientRoots, Hlc, RealmEntry, TerritoryRecord, key};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// One builder: a checkpoint's, or a fork's for its source.
pub(crate) struct Builder<'a> {
    namespace: &'a Namespace,
    batch: Batch,
    /// The state at the end of this epoch is built.
    epoch: u64,
    /// Stored exclusive nodes that left their tree.
    pub gone: Vec<Gone>,
    /// What was built: clean now, and perhaps of no more use in memory.
    pub built: Vec<Arc<Inode>>,
}

/// A directory on the way.
struct Work {
    inode: Arc<Inode>,
    /// Largest share time on its path, its own included.
    share: Hlc,
    /// Where its entry goes: position of the parent's work, and the key there.
    parent: Option<(usize, EntryKey)>,
    /// Entries of children that were built.
    entries: Overlay<Entry>,
}

impl<'a> Builder<'a> {
    /// A builder for the state at the end of `epoch`.
    pub fn new(namespace: &'a Namespace, batch: Batch, epoch: u64) -> Self {
        Self { namespace, batch, epoch, gone: Vec::new(), built: Vec::new() }
    }

    /// The whole namespace: the view, the realm table, the territory table.
    pub fn everything(&mut self) -> Result<Roots> {
        let namespace = self.namespace;
        let root = namespace.root()?;
        let (own, _) = self.directory_tree(&root, Hlc::ZERO)?;
        self.removed_directories()?;
        let view = realm_entry(&root, &own);
        let realms = self.realm_table()?;
        let mut stored = namespace.stored.lock();
        let record = TerritoryRecord {
            territory: TERRITORY_ROOT,
            root_inode: root.number,
            realm: VIEW,
            view: Some(view),
            ..TerritoryRecord::default()
        };
        let (value, references) = record.encode().map_err(crate::tree::damaged)?;
        let change = Change {
            key: key::territory(TERRITORY_ROOT),
            item: Some(Item { value, references }),
            birth: view.root.birth.max(view.links.map_or(Hlc::ZERO, |l| l.birth)).max(view.share.birth()),
        };
        let applied = namespace.trees.territories.apply(
            &namespace.nodes,
            self.batch,
            Hlc::ZERO,
            stored.territories.as_ref(),
            &[],
            Hlc::ZERO,
            &[change],
            &mut self.gone,
        )?;
        stored.territories = Some(applied.root);
        let roots = ClientRoots { territory_table: applied.root, realm_table: realms };
        let (blob, references) = roots.encode();
        Ok(Roots { references, blob })
    }

    /// Directories that were removed in the epoch. Their entries went with the leaves that held them.
    fn removed_directories(&mut self) -> Result<()> {
        let namespace = self.namespace;
        let removed = std::mem::take(namespace.removed.lock().of(self.epoch));
        for (inode, share) in removed {
            let (base, links) = {
                let state = inode.read();
                let is_realm_root = inode.realm.root().is_some_and(|root| root.id == inode.id);
                let links = if is_realm_root { inode.realm.links.read().base } else { None };
                (state.directory()?.entries.base, links)
            };
            if let Some(base) = base {
                namespace.trees.directory.discard(&namespace.nodes, share, &base, &mut self.gone)?;
            }
            if let Some(links) = links {
                let share = share.max(inode.realm.links_share());
                namespace.trees.links.discard(&namespace.nodes, share, &links, &mut self.gone)?;
            }
            self.built.push(inode);
        }
        Ok(())
    }

    /// A directory with all that changed below it. `above` is the largest share time on the path to it. Its entry as it is stored now, and the birth of that.
    pub fn directory_tree(&mut self, top: &Arc<Inode>, above: Hlc) -> Result<(DirectoryEntry, Hlc)> {
        let mut works =
            vec![Work { inode: top.clone(), share: above.max(top.share()), parent: None, entries: Overlay::new() }];
        let mut next = 0;
        while let Some(work) = works.get(next) {
            let (inode, share) = (work.inode.clone(), work.share);
            let changed = std::mem::take(inode.dirty.lock().of(self.epoch));
            for (key, child) in changed {
                self.unmarked(&child);
                if child.file_type == FileType::Directory {
                    let share = share.max(child.share());
                    works.push(Work { inode: child, share, parent: Some((next, key)), entries: Overlay::new() });
                } else {
                    let (entry, birth) = self.leaf(&child, share.max(child.share()))?;
                    if let Some(work) = works.get_mut(next) {
                        work.entries.insert(key, Changed { value: Some(entry), birth });
                    }
                }
            }
            next += 1;
        }
        // Children stand behind their parents: backwards, every directory finds the entries of its children.
        while let Some(work) = works.pop() {
            let (own, birth) = self.directory(&work)?;
            self.built.push(work.inode.clone());
            let Some((parent, key)) = work.parent else { return Ok((own, birth)) };
            let entry = directory_entry(&work.inode, &own);
            if let Some(parent) = works.get_mut(parent) {
                parent.entries.insert(key, Changed { value: Some(entry), birth });
            }
        }
        Err(Error::Stale)
    }

    /// A mark was taken from its set; in the current epoch it may be set again.
    fn unmarked(&self, child: &Inode) {
        if self.batch == Batch::Current {
            child.dirty_epoch.store(0, Ordering::Release);
        }
    }

    /// A file, symbolic link or special file: its entry with a built body, and the entry's birth.
    fn leaf(&mut self, inode: &Arc<Inode>, share: Hlc) -> Result<(Entry, Hlc)> {
        let (stored, birth) = self.stored_inode(inode, share)?;
        Ok((Entry::of_inode(stored).map_err(crate::tree::damaged)?, birth))
    }

    fn stored_inode(&mut self, inode: &Arc<Inode>, share: Hlc) -> Result<(StoredInode, Hlc)> {
        let namespace = self.namespace;
        let frozen: FrozenInode = match &mut *inode.write() {
            State::File(file) => {
                if file.attributed.epoch <= self.epoch {
                    file.content.roll(); // nobody has changed it since
                }
                file.attributed.at_end_of(self.epoch)
            }
            State::Other(plain) => plain.attributed.at_end_of(self.epoch),
            State::Directory(_) | State::SnapshotList => return Err(namespace.inconsistent("a directory among files")),
        };
        let mut stored = StoredInode { share: inode.share(), ..frozen.inode };
        let mut birth = frozen.changed;
        let owner = Owner { realm: inode.realm.id, inode: inode.number };
        // Nobody but this builder changes what is frozen: build under the shared lock, install under the exclusive one.
        let built = match &*inode.read() {
            State::File(file) => {
                Some(file.content.build(&namespace.nodes, owner, self.batch, share, stored.size, &mut self.gone)?)
            }
            _ => None,
        };
        if let Some(built) = built {
            stored.body = built.body.clone();
            birth = birth.max(built.birth);
            let mut freed = Vec::new();
            if let State::File(file) = &mut *inode.write() {
                file.content.install(built, share, &mut freed);
            }
            namespace.free(freed);
        }
        self.built.push(inode.clone());
        Ok((stored, birth))
    }

    /// One directory, its children being built.
    fn directory(&mut self, work: &Work) -> Result<(DirectoryEntry, Hlc)> {
        let namespace = self.namespace;
        let inode = &work.inode;
        if inode.realm.root().is_some_and(|root| root.id == inode.id) {
            self.link_table(inode, work.share)?;
        }
        let (own, overlay, base) = {
            let mut state = inode.write();
            let directory = state.directory_mut()?;
            (directory.own_at_end_of(self.epoch), directory.entries.at_end_of(self.epoch), directory.entries.base)
        };
        let mut changes: BTreeMap<&EntryKey, &Changed<Entry>> = overlay.iter().collect();
        changes.extend(work.entries.iter());
        let changes = changes.into_iter().map(|(key, changed)| encoded(key, changed)).collect::<Result<Vec<_>>>()?;
        let tree = Tree::directory(Owner { realm: inode.realm.id, inode: inode.number });
        let blob = own.attributes.encode().map_err(crate::tree::damaged)?;
        let applied = tree.apply(
            &namespace.nodes,
            self.batch,
            work.share,
            base.as_ref(),
            &blob,
            own.changed,
            &changes,
            &mut self.gone,
        )?;
        inode.write().directory_mut()?.entries.install(applied.root, applied.totals, applied.items);
        let entry = DirectoryEntry {
            share: inode.share(),
            number: inode.number,
            generation: inode.generation,
            totals: applied.totals,
            snapshots: own.snapshots,
            root: applied.root,
        };
        let links = inode.realm.links.read().base.map_or(Hlc::ZERO, |links| links.birth);
        Ok((entry, applied.root.birth.max(own.changed).max(links)))
    }

    /// The link table of the realm whose root this is.
    pub fn link_table(&mut self, root: &Arc<Inode>, share: Hlc) -> Result<()> {
        let namespace = self.namespace;
        let realm = &root.realm;
        let share = share.max(realm.links_share());
        let changed = std::mem::take(realm.dirty_links.lock().of(self.epoch));
        let mut entries = Overlay::new();
        for (number, inode) in changed {
            self.unmarked(&inode);
            let (stored, birth) = self.stored_inode(&inode, share.max(inode.share()))?;
            entries.insert(link_key(number), Changed { value: Some(stored), birth });
        }
        let (overlay, base) = {
            let mut links = realm.links.write();
            (links.at_end_of(self.epoch), links.base)
        };
        if overlay.is_empty() && entries.is_empty() {
            return Ok(());
        }
        let mut changes: BTreeMap<_, _> = overlay.iter().collect();
        changes.extend(entries.iter());
        let changes = changes.into_iter().map(|(key, changed)| encoded(key, changed)).collect::<Result<Vec<_>>>()?;
        let tree = Tree::links(Owner { realm: realm.id, inode: root.number });
        let applied =
            tree.apply(&namespace.nodes, self.batch, share, base.as_ref(), &[], Hlc::ZERO, &changes, &mut self.gone)?;
        realm.links.write().install(applied.root, applied.totals, applied.items);
        Ok(())
    }

    /// The realm table: snapshots and orphans.
    fn realm_table(&mut self) -> Result<envoyfs_layout::Reference> {
        let namespace = self.namespace;
        let changed = std::mem::take(namespace.dirty_orphans.lock().of(self.epoch));
        let mut entries = Overlay::new();
        for (key, inode) in changed {
            self.unmarked(&inode);
            let (stored, birth) = self.stored_inode(&inode, inode.share())?;
            entries.insert(key, Changed { value: Some(RealmItem::Orphan(Box::new(stored))), birth });
        }
        let (overlay, base) = {
            let mut table = namespace.realm_table.write();
            (table.at_end_of(self.epoch), table.base)
        };
        if let (Some(base), true, true) = (base, overlay.is_empty(), entries.is_empty()) {
            return Ok(base);
        }
        let mut changes: BTreeMap<_, _> = overlay.iter().collect();
        changes.extend(entries.iter());
        let changes = changes.into_iter().map(|(key, changed)| encoded(key, changed)).collect::<Result<Vec<_>>>()?;
        let tree = &namespace.trees.realms;
        let applied = tree.apply(
            &namespace.nodes,
            self.batch,
            Hlc::ZERO,
            base.as_ref(),
            &[],
            Hlc::ZERO,
            &changes,
            &mut self.gone,
        )?;
        namespace.realm_table.write().install(applied.root, applied.totals, applied.items);
        Ok(applied.root)
    }
}

/// A change as a leaf takes it.
fn encoded<V: Value + Checked>(key: &[u8], changed: &Changed<V>) -> Result<Change> {
    if let Some(value) = &changed.value {
        value.check_built()?;
    }
    let item = changed.value.as_ref().map(V::encode).transpose()?;
    Ok(Change { key: key.to_vec(), item, birth: changed.birth })
}

/// A value that must not be stored before the builder has completed it.
trait Checked {
    fn check_built(&self) -> Result<()> {
        Ok(())
    }
}

impl Checked for Entry {
    fn check_built(&self) -> Result<()> {
        match self {
            Self::Directory(DirectoryEntry { root, .. }) | Self::Realm(RealmEntry { root, .. }) if *root == UNBUILT => {
                Err(Error::Invalid("an entry of a directory that was not built"))
            }
            _ => Ok(()),
        }
    }
}
impl Checked for StoredInode {}
impl Checked for RealmItem {}

/// The entry of a realm's root, which for the view is in the territory record.
pub(crate) fn realm_entry(root: &Inode, own: &DirectoryEntry) -> RealmEntry {
    let realm = &root.realm;
    let links = realm.links.read();
    RealmEntry {
        share: own.share,
        number: own.number,
        generation: own.generation,
        totals: own.totals,
        snapshots: own.snapshots,
        root: own.root,
        realm_id: realm.id,
        home: realm.home,
        read_only: realm.read_only,
        links: links.base,
        links_share: realm.links_share(),
        links_totals: links.totals,
    }
}
