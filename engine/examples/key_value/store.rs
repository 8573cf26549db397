//! The client of the engine: changes, durability, checkpoints, recovery, forks.
//!
//! # How it works
//! A *tree* is a B+tree of nodes that are never changed: leaves hold keys and values, interior nodes the first key of each child. Values above 512 bytes are data objects of
//! their own. One node more, the *catalog*, holds the name, the share time and the root of every tree; it is the store's only root edge. What was changed since the last
//! checkpoint is an overlay in memory, and a record in the engine's log.
//!
//! | | |
//! |---|---|
//! | change | reserve (no lock); write large values; under the lock append the record and change the overlay: the order of the log is the order in memory |
//! | read | take a pin, look up under the lock, read without it: no checkpoint takes away what was looked up |
//! | sync | commit the end of the log |
//! | checkpoint | under the lock freeze and set the overlays aside; without it merge them into new nodes, publish; under the lock take the new roots over |
//! | recovery | read the catalog from the recovered roots, apply the replayed records to overlays: the same code as for a change |
//! | fork | a second entry in the catalog with the same root; the record's clock becomes the share time of both |
//!
//! A node that a checkpoint replaces is handed over as *gone* if nobody else can reach it: if it was born after its tree's share time. Everything else the engine counts.

use crate::tree::{Build, items};
use envoyfs_engine::device::{OpenMode, UringDevice};
use envoyfs_engine::store::{Batch, Changes, DataObject, Draft, Frozen, Need, Pin, Replayed, Roots, Store, Tier};
use envoyfs_engine::{Engine, Options, StoreError};
use envoyfs_layout::node::{NodeBuilder, Owner, TreeKind};
use envoyfs_layout::{ClientTag, Hlc, Lsn, Reference, ReferenceKind};
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Anything may go wrong.
pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Whose store it is: no mount takes it for a file system, and this program opens no other.
const CLIENT: ClientTag = ClientTag::new(b"keyvalue");
/// Kinds of records; a client's begin at 256.
const PUT: u16 = 256;
const DELETE: u16 = 257;
const FORK: u16 = 258;
const DROP: u16 = 259;

const KEY_BYTES_MAX: usize = 256;
/// Larger values are data objects.
const INLINE_BYTES_MAX: usize = 512;
/// What one change may cost a checkpoint at most: the leaf and the nodes above it, each split in two. Four levels of 4 KiB hold more than any store.
const CHANGE_BYTES: u64 = 2 * 4 * crate::tree::NODE_BYTES as u64;

/// What a key holds.
#[derive(Clone, Debug)]
pub enum Value {
    Inline(Vec<u8>),
    /// Its length, the extent, and a checksum for each 4 KiB.
    Extent(u32, Reference, Vec<u32>),
}

/// A change that no checkpoint contains yet: the value (none: deleted), and the birth that the change causes.
pub type Overlay = BTreeMap<Vec<u8>, (Option<Value>, Hlc)>;

#[derive(Clone, Default)]
pub struct Tree {
    /// Root of the stored tree.
    pub root: Option<Reference>,
    /// What was born later than this is reachable from here only.
    pub share: Hlc,
    /// Changes that the checkpoint under way is merging.
    pub frozen: Arc<Overlay>,
    /// Changes since.
    active: Overlay,
}

#[derive(Default)]
struct State {
    trees: BTreeMap<String, Tree>,
    catalog: Option<Reference>,
}

/// See the module.
pub struct KeyValue {
    pub engine: Engine,
    /// The freeze lock of this client: the order of records and of changes is the same under it. Nothing waits for space or log while holding it.
    state: Mutex<State>,
    /// Held for a whole checkpoint, and by forks and drops: a tree that is being merged is not copied.
    checkpoint: Mutex<()>,
    stop: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fields of variable length: a length of four bytes, then the bytes.
fn pack(fields: &[&[u8]]) -> Vec<u8> {
    fields.iter().flat_map(|field| [&(field.len() as u64).to_le_bytes()[..4], field].concat()).collect()
}

fn unpack(mut bytes: &[u8]) -> Result<Vec<&[u8]>> {
    let mut fields = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let (field, rest) =
            rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or("a field is cut short")?;
        fields.push(field);
        bytes = rest;
    }
    Ok(fields)
}

impl KeyValue {
    /// Mounts: what was published, and every record since.
    pub fn open(path: &str) -> Result<Arc<Self>> {
        let device = UringDevice::open(path, OpenMode::ReadWrite, true)?;
        let engine = Engine::open_for(CLIENT, Arc::new(device), Options::default())?;
        let mut state = State { catalog: engine.recovered_roots().references.first().copied(), ..State::default() };
        if let Some(catalog) = &state.catalog {
            for item in items(&engine.read_node(catalog)?)?.1 {
                let share = Hlc(item.value.first_chunk().map_or(0, |share| u64::from_le_bytes(*share)));
                let root = item.references.first().copied();
                state.trees.insert(String::from_utf8(item.key)?, Tree { root, share, ..Tree::default() });
            }
        }
        for Replayed { kind, body, data, hlc, .. } in engine.take_replay() {
            state.apply(kind, &unpack(&body)?, &data, hlc)?;
        }
        state.trees.entry("main".into()).or_default();
        let (state, checkpoint) = (Mutex::new(state), Mutex::default());
        Ok(Arc::new(Self { engine, state, checkpoint, stop: AtomicBool::new(false) }))
    }

    /// The one way to change anything: the engine promises the room first, then the record and the change in memory are made as one.
    fn change(&self, kind: u16, fields: &[&[u8]], large: Option<&[u8]>, tier: Tier) -> Result<Lsn> {
        let body = pack(fields);
        let need = Need {
            log_bytes: body.len() as u64,
            node_bytes: CHANGE_BYTES,
            payload_bytes: 0,
            data_bytes: large.map_or(0, |data| data.len() as u64),
            tier,
        };
        // May wait for a checkpoint, so no lock is held; fails when the store is full.
        let mut permit = self.engine.reserve(need)?;
        // Starts the write. It is durable with the record that names it, and lost without one.
        let data: Vec<DataObject> =
            large.map(|data| self.engine.append_data(&mut permit, None, data)).transpose()?.into_iter().collect();
        // A tree that a checkpoint is merging is neither copied nor dropped. After the reservation, which may wait for just that.
        let _no_checkpoint = matches!(kind, FORK | DROP).then(|| lock(&self.checkpoint));
        let mut state = lock(&self.state);
        if let Err(error) = state.check(kind, fields) {
            data.iter().for_each(|object| self.engine.abandon_data(object));
            return Err(error);
        }
        let draft = Draft { kind, territory: 1, origin: None, data: &data, body: &body };
        let appended = self.engine.append(&mut permit, draft).inspect_err(|_| {
            // What no record names would keep its place until the next mount.
            data.iter().for_each(|object| self.engine.abandon_data(object));
        })?;
        state.apply(kind, fields, &data, appended.hlc)?;
        Ok(appended.end)
    }

    pub fn put(&self, tree: &str, key: &[u8], value: &[u8]) -> Result<Lsn> {
        let limit = self.engine.limits().extent_bytes_max;
        if key.is_empty() || key.len() > KEY_BYTES_MAX || value.len() > limit as usize {
            return Err(format!("keys have 1 to {KEY_BYTES_MAX} bytes, values at most {limit}").into());
        }
        let large = value.len() > INLINE_BYTES_MAX;
        let (inline, length) = (if large { &[] } else { value }, (value.len() as u64).to_le_bytes());
        self.change(PUT, &[tree.as_bytes(), key, inline, &length], large.then_some(value), Tier::Writer)
    }

    pub fn delete(&self, tree: &str, key: &[u8]) -> Result<Lsn> {
        self.change(DELETE, &[tree.as_bytes(), key], None, Tier::Shrinking)
    }

    pub fn fork(&self, from: &str, to: &str) -> Result<Lsn> {
        self.change(FORK, &[from.as_bytes(), to.as_bytes()], None, Tier::Last)
    }

    pub fn drop_tree(&self, tree: &str) -> Result<Lsn> {
        self.change(DROP, &[tree.as_bytes()], None, Tier::Last)
    }

    /// Everything before this is durable when it returns.
    pub fn sync(&self) -> Result<()> {
        Ok(self.engine.commit(self.engine.end())?)
    }

    pub fn get(&self, tree: &str, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.range(tree, key, Some(key))?.pop().map(|(_, value)| value))
    }

    /// Pairs from a key on; `until`: the last. Newest first: active changes, frozen ones, the stored tree.
    ///
    /// Waits for nobody: what it reads is pinned, so that it stays although a checkpoint replaces it meanwhile.
    pub fn range(&self, tree: &str, from: &[u8], until: Option<&[u8]>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        loop {
            let pin = self.engine.pin();
            match self.range_under(&pin, tree, from, until) {
                // The store is full and took back what the pin held: what can be reached now is another version.
                Err(error) if matches!(error.downcast_ref(), Some(StoreError::PinBroken)) => {}
                result => return result,
            }
        }
    }

    fn range_under(&self, pin: &Pin, tree: &str, from: &[u8], until: Option<&[u8]>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        // What is looked up here, after the pin was taken, is what it holds. A copy of what is needed: no lock is held while the device is read.
        let (root, overlay) = {
            let state = lock(&self.state);
            let tree = state.trees.get(tree).ok_or("there is no such tree")?;
            let inside = |key: &[u8]| key >= from && until.is_none_or(|until| key <= until);
            let newest_last = tree.frozen.iter().chain(&tree.active).filter(|(key, _)| inside(key));
            (tree.root, newest_last.map(|(key, change)| (key.clone(), change.clone())).collect::<Overlay>())
        };
        let mut found = BTreeMap::new();
        if let Some(root) = root {
            self.collect(pin, &root, from, until, &mut found)?;
        }
        for (key, (value, _)) in overlay {
            match value {
                Some(value) => found.insert(key, value),
                None => found.remove(&key),
            };
        }
        found.into_iter().map(|(key, value)| Ok((key, self.load(pin, value)?))).collect()
    }

    fn collect(
        &self,
        pin: &Pin,
        node: &Reference,
        from: &[u8],
        until: Option<&[u8]>,
        found: &mut BTreeMap<Vec<u8>, Value>,
    ) -> Result<()> {
        let (level, items) = items(&self.engine.read_pinned_node(pin, node)?)?;
        let in_time = items.iter().take_while(|item| until.is_none_or(|until| item.key.as_slice() <= until));
        for (index, item) in in_time.enumerate() {
            // Keys below a child end where the next child begins.
            if level > 0 && items.get(index + 1).is_none_or(|next| next.key.as_slice() > from) {
                self.collect(pin, &item.child()?, from, until, found)?;
            } else if level == 0 && item.key.as_slice() >= from {
                found.insert(item.key.clone(), item.stored()?);
            }
        }
        Ok(())
    }

    fn load(&self, pin: &Pin, value: Value) -> Result<Vec<u8>> {
        match value {
            Value::Inline(bytes) => Ok(bytes),
            Value::Extent(length, extent, crcs) => {
                let mut bytes = vec![0; extent.stored_bytes as usize];
                self.engine.read_pinned_data(pin, extent.oid, 0, &crcs, &mut bytes)?;
                bytes.truncate(length as usize);
                Ok(bytes)
            }
        }
    }

    /// Makes everything so far part of the published tree, so that the log before it is not needed any more.
    pub fn make_checkpoint(&self) -> Result<()> {
        let _one_at_a_time = lock(&self.checkpoint);
        let (frozen, mut trees, old_catalog) = {
            let mut state = lock(&self.state);
            let frozen = self.engine.freeze()?;
            for tree in state.trees.values_mut() {
                tree.frozen = Arc::new(std::mem::take(&mut tree.active));
            }
            (frozen, state.trees.clone(), state.catalog)
        };
        let (catalog, changes) = match self.build(&frozen, &mut trees, old_catalog) {
            Ok(built) => built,
            Err(error) => {
                // Else the engine waits for this checkpoint for ever, and writers for the engine. What was set aside belongs to the next one.
                let mut state = lock(&self.state);
                self.engine.abandon(frozen)?;
                for tree in state.trees.values_mut() {
                    for (key, change) in tree.frozen.iter() {
                        tree.active.entry(key.clone()).or_insert_with(|| change.clone());
                    }
                    tree.frozen = Arc::default();
                }
                return Err(error);
            }
        };
        let roots = Roots { references: vec![catalog], blob: Vec::new() };
        // Taken over before the engine reuses anything of the old trees: who pins afterwards reads the new ones.
        self.engine.publish_and_show(frozen, roots, changes, &mut || {
            let mut state = lock(&self.state);
            state.catalog = Some(catalog);
            for (name, tree) in &mut state.trees {
                tree.root = trees.get(name).and_then(|built| built.root);
                tree.frozen = Arc::default();
            }
        })?;
        Ok(())
    }

    /// Writes the nodes of the trees as they were frozen, and a catalog of their roots.
    fn build(
        &self,
        frozen: &Frozen,
        trees: &mut BTreeMap<String, Tree>,
        old_catalog: Option<Reference>,
    ) -> Result<(Reference, Changes)> {
        let mut build = Build { engine: &self.engine, changes: Changes::default() };
        // The catalog is never shared: only the roots refer to it.
        build.gone(old_catalog.as_ref(), Hlc::ZERO)?;
        let mut node = NodeBuilder::new(TreeKind::RealmTable, 1, frozen.hlc, Owner::default());
        for (name, tree) in trees {
            tree.root = build.merge_tree(tree)?;
            node.push(name.as_bytes(), &tree.share.0.to_le_bytes(), tree.root.as_slice())?;
        }
        let catalog = self.engine.append_node(Batch::Frozen, ReferenceKind::Node, 0, frozen.hlc, &node.finish())?;
        Ok((catalog, build.changes))
    }

    /// The end of a mount. Not needed for safety, but the next one then has nothing to replay, and goes on with the numbers that were not handed out.
    pub fn close(&self) -> Result<()> {
        self.make_checkpoint()?;
        Ok(self.engine.close()?)
    }

    /// Names of the trees.
    pub fn names(&self) -> Vec<String> {
        lock(&self.state).trees.keys().cloned().collect()
    }

    /// Ends [`KeyValue::checkpointer`].
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// For a thread of its own: makes a checkpoint whenever the engine says that one is due.
    pub fn checkpointer(&self) {
        while !self.stop.load(Ordering::SeqCst) {
            if self.engine.wait_checkpoint(200).is_some()
                && let Err(error) = self.make_checkpoint()
            {
                eprintln!("checkpoint: {error}");
                return;
            }
        }
    }
}

impl State {
    /// What must hold before a record is written: a record in the log is never refused.
    fn check(&self, kind: u16, fields: &[&[u8]]) -> Result<()> {
        let name = |index: usize| String::from_utf8_lossy(fields.get(index).copied().unwrap_or_default()).into_owned();
        if !self.trees.contains_key(&name(0)) {
            return Err(format!("there is no tree {}", name(0)).into());
        }
        let is_new = !self.trees.contains_key(&name(1)) && (1..=64).contains(&name(1).len());
        if kind == FORK && !(is_new && self.trees.len() < 128) {
            return Err(format!("cannot make a tree {}", name(1)).into());
        }
        Ok(())
    }

    /// Changes memory as a record says: when it is written, and when it is replayed.
    fn apply(&mut self, kind: u16, fields: &[&[u8]], data: &[DataObject], hlc: Hlc) -> Result<()> {
        let field = |index: usize| fields.get(index).copied().unwrap_or_default();
        let name = String::from_utf8(field(0).to_vec())?;
        let tree = self.trees.entry(name.clone()).or_default();
        let birth = hlc.birth();
        match (kind, data.first()) {
            (PUT, None) => drop(tree.active.insert(field(1).to_vec(), (Some(Value::Inline(field(2).to_vec())), birth))),
            (PUT, Some(object)) => {
                let length = field(3).first_chunk().map_or(0, |length| u32::from_le_bytes(*length));
                let extent = Reference::extent(object.oid, birth, object.stored_bytes);
                tree.active
                    .insert(field(1).to_vec(), (Some(Value::Extent(length, extent, object.crcs.clone())), birth));
            }
            (DELETE, _) => drop(tree.active.insert(field(1).to_vec(), (None, birth))),
            (FORK, _) => {
                // Whatever was born so far is reachable from both: nothing of it is freed without being counted.
                tree.share = hlc;
                let copy = tree.clone();
                self.trees.insert(String::from_utf8(field(1).to_vec())?, copy);
            }
            // The edge from the catalog goes away; what only it held is freed behind the back of the client.
            (DROP, _) => drop(self.trees.remove(&name)),
            (other, _) => return Err(format!("a record of kind {other}").into()),
        }
        Ok(())
    }
}
