//! The namespace: what all operations share.
//!
//! Owns live inodes, the freeze lock and the epoch, dirty marks, binding of handles in the log, and reservations. Operations are in `operation/`, what records do in
//! `apply/`, the builder in `checkpoint/`, forks and snapshots in `realm/`. If power fails, [`Namespace::open`] makes the same state again from roots and log.

use crate::api::{Context, Error, FileType, InodeId, Result};
use crate::by_epoch::ByEpoch;
use crate::charge::Charge;
use crate::directory::Directory;
use crate::file::Content;
use crate::inode::{Attributed, File, Inode, Place, Plain, State, file_type};
use crate::inode_table::InodeTable;
use crate::layered::Layered;
use crate::observer::Observer;
use crate::realm::Realm;
use crate::table::{RealmItem, Table, Trees};
use crate::tree::Nodes;
use crossbeam::sync::ShardedLock;
use envoyfs_engine::store::{Appended, Changes, DataObject, Draft, Permit, Store};
use envoyfs_layout::entry::Entry;
use envoyfs_layout::inode::{Inode as StoredInode, Timestamp};
use envoyfs_layout::key::LinkKey;
use envoyfs_layout::operation::{BindTarget, Operation};
use envoyfs_layout::realm::RealmEntry;
use envoyfs_layout::territory::TERRITORY_ROOT;
use envoyfs_layout::{DirectoryAttributes, Hlc, Reference, Totals};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Shard of the link table of a territory that was never split.
pub(crate) const LINK_SHARD: u64 = TERRITORY_ROOT;
/// Realm ids below this are their own index; the upper half of the index space is handed out.
const OWN_INDEX_LIMIT: u64 = 1 << 23;

/// How to open a namespace.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of nodes kept in memory.
    pub node_cache_bytes: u64,
    /// Run checkpoints from an own thread. Off: [`Namespace::checkpoint`] is the caller's job.
    pub threads: bool,
    /// Refuse every change.
    pub read_only: bool,
    /// Key of directory hashes and of nothing else; random for a real store.
    pub seed: [u8; 16],
}

/// State that only the freeze and the builder touch.
pub(crate) struct StoredRoots {
    /// The territory table as the last build left it.
    pub territories: Option<Reference>,
}

/// A directory that was removed, and the largest share time on its path then.
type RemovedDirectory = (Arc<Inode>, Hlc);

/// A tree of files on a store. Cheap to share.
pub struct Namespace {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) nodes: Nodes,
    pub(crate) trees: Trees,
    pub(crate) options: Options,
    /// Shared: a change of memory with its record. Exclusive: freeze, fork, moves and deletes of directories.
    pub(crate) freeze: ShardedLock<()>,
    /// Counts freezes; changes only under the exclusive freeze lock.
    epoch: AtomicU64,
    /// One builder at a time, and no fork while one builds.
    pub(crate) builder: Mutex<()>,
    /// One checkpoint at a time.
    pub(crate) checkpointing: Mutex<()>,
    pub(crate) inodes: InodeTable,
    /// Changes to counts and space that the current batch will hand over.
    pub(crate) pending: Mutex<Changes>,
    pub(crate) realm_table: RwLock<Layered<RealmItem>>,
    /// Reserved for the realm table in this epoch.
    pub(crate) realm_table_charge: Mutex<Charge>,
    pub(crate) dirty_orphans: Mutex<ByEpoch<BTreeMap<Vec<u8>, Arc<Inode>>>>,
    /// Directories that were removed, with the largest share time on the path they had; the builder of the epoch discards their trees.
    pub(crate) removed: Mutex<ByEpoch<Vec<RemovedDirectory>>>,
    pub(crate) stored: Mutex<StoredRoots>,
    root: OnceLock<Arc<Inode>>,
    indices: Mutex<HashMap<u64, u64>>,
    observer: RwLock<Option<Arc<dyn Observer>>>,
    failed: Mutex<Option<String>>,
    pub(crate) closing: AtomicBool,
    pub(crate) checkpointer: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// Runs a mark that the store wants before it refuses a write.
    pub(crate) marker: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// What a record's changes are stamped with.
#[derive(Clone, Copy)]
pub(crate) struct Stamp {
    /// Epoch that they belong to.
    pub epoch: u64,
    /// HLC of the record.
    pub hlc: Hlc,
}

impl Stamp {
    /// Birth of what the record changes.
    pub fn birth(self) -> Hlc {
        self.hlc.birth()
    }
}

impl Namespace {
    /// Everything empty; `open` fills it.
    pub(crate) fn bare(store: Arc<dyn Store>, options: Options) -> Self {
        let nodes = Nodes::new(store.clone(), options.node_cache_bytes);
        Self {
            trees: Trees::default(),
            nodes,
            store,
            options,
            freeze: ShardedLock::new(()),
            epoch: AtomicU64::new(1),
            builder: Mutex::new(()),
            checkpointing: Mutex::new(()),
            inodes: InodeTable::default(),
            pending: Mutex::new(Changes::default()),
            realm_table: RwLock::new(Layered::new(None, Totals::ZERO)),
            realm_table_charge: Mutex::default(),
            dirty_orphans: Mutex::default(),
            removed: Mutex::default(),
            stored: Mutex::new(StoredRoots { territories: None }),
            root: OnceLock::new(),
            indices: Mutex::new(HashMap::new()),
            observer: RwLock::new(None),
            failed: Mutex::new(None),
            closing: AtomicBool::new(false),
            checkpointer: Mutex::new(None),
            marker: Mutex::new(None),
        }
    }

    /// Who is told what caches must forget.
    pub fn set_observer(&self, observer: Arc<dyn Observer>) {
        *self.observer.write() = Some(observer);
    }

    /// Tells the observer. Caller holds no lock of the namespace.
    pub(crate) fn notify(&self, tell: impl Fn(&dyn Observer)) {
        let observer = self.observer.read().clone();
        if let Some(observer) = observer {
            tell(&*observer);
        }
    }

    /// The epoch; stable while the caller holds the freeze lock.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Closes the epoch and returns it. Caller holds the freeze lock exclusively.
    pub(crate) fn advance_epoch(&self) -> u64 {
        self.epoch.fetch_add(1, Ordering::AcqRel)
    }

    /// The root directory of the view.
    pub(crate) fn root(&self) -> Result<Arc<Inode>> {
        self.root.get().cloned().ok_or(Error::Stale)
    }

    /// Says, once, which inode the root is.
    pub(crate) fn set_root(&self, root: Arc<Inode>) {
        root.lookups.store(1, Ordering::Release);
        let _first = self.root.set(root);
    }

    /// Takes no more changes: the build of a checkpoint failed, so that what is in memory cannot reach the store any more.
    pub(crate) fn fail(&self, why: String) {
        tracing::error!(%why, "the namespace takes no more changes");
        self.failed.lock().get_or_insert(why);
    }

    /// Why it takes no more changes, if so.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failed.lock().clone().or_else(|| self.store.poisoned())
    }

    /// Before every change: is the caller in the right territory, and does the store take changes?
    pub(crate) fn check(&self, cx: &Context) -> Result<()> {
        if cx.territory != TERRITORY_ROOT {
            return Err(Error::Invalid("no such territory on this host"));
        }
        if cx.origin.is_some() {
            return Err(Error::NotSupported("requests of other hosts"));
        }
        if self.options.read_only {
            return Err(Error::ReadOnly("mounted read-only".into()));
        }
        match &*self.failed.lock() {
            Some(why) => Err(Error::ReadOnly(why.clone())),
            None => Ok(()),
        }
    }

    /// Time for attributes.
    pub(crate) fn timestamp(&self) -> Timestamp {
        Timestamp::from_nanoseconds(self.store.wall_ns())
    }

    /// A live inode that a front end knows.
    pub(crate) fn live(&self, id: InodeId) -> Result<Arc<Inode>> {
        self.inodes.get(id).ok_or(Error::Stale)
    }

    // ---- loading -------------------------------------------------------------------------------------------------------------

    /// The live inode of an entry of this directory. Caller holds the directory's state, so that the entry is the newest (an inode that is not live is clean).
    pub(crate) fn load(&self, parent: &Arc<Inode>, key: &[u8], entry: &Entry) -> Result<Arc<Inode>> {
        let place = || Place::Named { parent: parent.clone(), key: key.to_vec() };
        match entry {
            Entry::File(inode) | Entry::Symlink(inode) | Entry::Special(inode) => {
                self.load_inode(&parent.realm, inode, place)
            }
            Entry::Link(link) => {
                if let Some(inode) = self.inodes.get(parent.realm.inode_id(link.inode)) {
                    return Ok(inode);
                }
                let links = parent.realm.links.read();
                let key = LinkKey { shard: link.shard, inode: link.inode }.encode();
                match links.get(&self.nodes, &self.trees.links, &key)? {
                    Some(inode) => {
                        let root = parent.realm.root().ok_or(Error::Stale)?;
                        self.load_inode(&parent.realm, &inode, || Place::Linked(root))
                    }
                    None => Err(self.inconsistent("a name refers to a link table entry that is not there")),
                }
            }
            Entry::Directory(e) => {
                if let Some(inode) = self.inodes.get(parent.realm.inode_id(e.number)) {
                    return Ok(inode);
                }
                let directory = self.stored_directory(&e.root, e.totals, e.snapshots)?;
                Ok(self.inodes.get_or_insert(parent.realm.inode_id(e.number), || {
                    let state = State::Directory(Box::new(directory));
                    Inode::new(
                        parent.realm.clone(),
                        e.number,
                        e.generation,
                        FileType::Directory,
                        e.share,
                        place(),
                        state,
                    )
                }))
            }
            Entry::Realm(e) => self.load_realm(e, place()),
        }
    }

    fn load_inode(&self, realm: &Arc<Realm>, inode: &StoredInode, place: impl FnOnce() -> Place) -> Result<Arc<Inode>> {
        let file_type = file_type(inode.mode).ok_or_else(|| self.inconsistent("an inode has an unknown type"))?;
        Ok(self.inodes.get_or_insert(realm.inode_id(inode.number), || {
            Self::new_inode(realm, inode, file_type, place(), Hlc::ZERO, 0)
        }))
    }

    /// A live inode of what is no directory.
    pub(crate) fn new_inode(
        realm: &Arc<Realm>,
        inode: &StoredInode,
        file_type: FileType,
        place: Place,
        changed: Hlc,
        epoch: u64,
    ) -> Inode {
        let attributed = Attributed::new(inode.clone(), changed, epoch);
        let state = if file_type == FileType::Regular {
            State::File(Box::new(File { attributed, content: Content::from_body(&inode.body) }))
        } else {
            State::Other(Box::new(Plain { attributed }))
        };
        Inode::new(realm.clone(), inode.number, inode.generation, file_type, inode.share, place, state)
    }

    /// A stored directory: its attributes are in the root node of its tree.
    pub(crate) fn stored_directory(&self, root: &Reference, totals: Totals, snapshots: bool) -> Result<Directory> {
        let blob = self.trees.directory.root_blob(&self.nodes, root)?;
        let attributes = DirectoryAttributes::decode(&blob).map_err(crate::tree::damaged)?;
        Ok(Directory::stored(*root, attributes, totals, snapshots))
    }

    /// The live root of a realm.
    pub(crate) fn load_realm(&self, entry: &RealmEntry, place: Place) -> Result<Arc<Inode>> {
        let index = self.realm_index(entry.realm_id)?;
        let links = Table::new(entry.links, entry.links_totals);
        let realm = Arc::new(Realm::new(entry.realm_id, index, entry.home, entry.read_only, links, entry.links_share));
        let id = realm.inode_id(entry.number);
        if let Some(inode) = self.inodes.get(id) {
            return Ok(inode);
        }
        let directory = self.stored_directory(&entry.root, entry.totals, entry.snapshots)?;
        Ok(self.inodes.get_or_insert_arc(id, || {
            let state = State::Directory(Box::new(directory));
            let root = Arc::new(Inode::new(
                realm.clone(),
                entry.number,
                entry.generation,
                FileType::Directory,
                entry.share,
                place,
                state,
            ));
            realm.set_root(&root);
            root
        }))
    }

    /// Upper bits of the inode ids of a realm: the same at every mount for the first 2^23 realms, unique in this mount for the others (INV-30).
    pub(crate) fn realm_index(&self, realm: u64) -> Result<u64> {
        if realm < OWN_INDEX_LIMIT {
            return Ok(realm);
        }
        let mut indices = self.indices.lock();
        let next = OWN_INDEX_LIMIT + u64::try_from(indices.len()).unwrap_or(u64::MAX);
        if next >= 2 * OWN_INDEX_LIMIT && !indices.contains_key(&realm) {
            return Err(Error::NotSupported("more than 2^23 forks with large ids in one mount"));
        }
        Ok(*indices.entry(realm).or_insert(next))
    }

    /// An error for what no writer of this format leaves behind.
    pub(crate) fn inconsistent(&self, what: &'static str) -> Error {
        tracing::error!(what, "inconsistent store");
        crate::tree::damaged(envoyfs_layout::LayoutError::Field { structure: "namespace", field: what, found: 0 })
    }

    // ---- records -------------------------------------------------------------------------------------------------------------

    /// Appends a record. Caller holds the freeze lock.
    pub(crate) fn append(&self, permit: &mut Permit, operation: &Operation, data: &[DataObject]) -> Result<Appended> {
        let (kind, body) = operation.encode().map_err(crate::tree::damaged)?;
        Ok(self.store.append(permit, Draft { kind, territory: TERRITORY_ROOT, origin: None, data, body: &body })?)
    }

    /// Makes the inode's handle known to the log in this epoch, and those of everything above that is not known yet (INV-22). Caller holds the freeze lock, and the state of
    /// the inode itself if it is no directory.
    pub(crate) fn bind(&self, permit: &mut Permit, inode: &Arc<Inode>) -> Result<u64> {
        let epoch = self.epoch();
        let mut unbound = Vec::new();
        let mut next = Some(inode.clone());
        while let Some(inode) = next {
            if inode.bound_epoch.load(Ordering::Acquire) == epoch {
                break;
            }
            let (target, above) = match inode.place() {
                Place::View => (BindTarget::View, None),
                Place::Named { parent, key } => {
                    let name = crate::directory::name_of(&key).to_vec();
                    (BindTarget::Named { parent: parent.id.0, name }, Some(parent))
                }
                Place::Linked(root) => {
                    (BindTarget::Link { realm_root: root.id.0, shard: LINK_SHARD, inode: inode.number }, Some(root))
                }
                Place::Orphan => (BindTarget::Orphan { realm: inode.realm.id, inode: inode.number }, None),
                Place::Snapshot(directory) => {
                    (BindTarget::Snapshot { directory: directory.id.0, realm: inode.realm.id }, Some(directory))
                }
                Place::Gone => return Err(Error::Stale),
            };
            unbound.push((inode, target));
            next = above;
        }
        for (inode, target) in unbound.into_iter().rev() {
            self.append(permit, &Operation::Bind { handle: inode.id.0, target }, &[])?;
            inode.bound_epoch.store(epoch, Ordering::Release);
        }
        Ok(inode.id.0)
    }

    // ---- dirty marks ---------------------------------------------------------------------------------------------------------

    /// The next checkpoint has to store this inode's entry again, and those of all above it. Caller holds the freeze lock, and the inode's state unless it is a directory.
    pub(crate) fn mark_dirty(&self, inode: &Arc<Inode>) {
        let epoch = self.epoch();
        let mut next = Some(inode.clone());
        while let Some(inode) = next {
            if inode.dirty_epoch.swap(epoch, Ordering::AcqRel) == epoch {
                return;
            }
            next = self.enter_dirty(&inode, epoch);
        }
    }

    /// The same for an inode that has just got this place: it may be marked already, at the old one.
    pub(crate) fn mark_moved(&self, inode: &Arc<Inode>) {
        let epoch = self.epoch();
        inode.dirty_epoch.store(epoch, Ordering::Release);
        if let Some(above) = self.enter_dirty(inode, epoch) {
            self.mark_dirty(&above);
        }
    }

    fn enter_dirty(&self, inode: &Arc<Inode>, epoch: u64) -> Option<Arc<Inode>> {
        match inode.place() {
            Place::Named { parent, key } => {
                parent.dirty.lock().of(epoch).insert(key, inode.clone());
                Some(parent)
            }
            Place::Linked(root) => {
                inode.realm.dirty_links.lock().of(epoch).insert(inode.number, inode.clone());
                Some(root)
            }
            Place::Orphan => {
                let key = crate::table::orphan_key(inode.realm.id, inode.number);
                self.dirty_orphans.lock().of(epoch).insert(key, inode.clone());
                None
            }
            Place::View | Place::Snapshot(_) | Place::Gone => None,
        }
    }

    /// Takes an inode's mark of this epoch away from its place, before the place changes. What the frozen epoch holds stays.
    pub(crate) fn unmark(&self, inode: &Arc<Inode>) {
        let epoch = self.epoch();
        match inode.place() {
            Place::Named { parent, key } => {
                parent.dirty.lock().of(epoch).remove(&key);
            }
            Place::Linked(_) => {
                inode.realm.dirty_links.lock().of(epoch).remove(&inode.number);
            }
            Place::Orphan => {
                let key = crate::table::orphan_key(inode.realm.id, inode.number);
                self.dirty_orphans.lock().of(epoch).remove(&key);
            }
            Place::View | Place::Snapshot(_) | Place::Gone => {}
        }
    }

    /// Gives an inode another place; its mark moves along. Caller holds the freeze lock (exclusively for a directory) and the states concerned.
    pub(crate) fn move_to(&self, inode: &Arc<Inode>, place: Place) {
        self.unmark(inode);
        let gone = matches!(place, Place::Gone);
        *inode.place.lock() = place;
        if !gone {
            self.mark_moved(inode);
        }
    }
}
