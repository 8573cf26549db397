//! A client with trees of leaves of extents, forks that share, and deletions, by the rules of decision 0002. Its own memory does not count: whoever uses it is [`aside`](crate::counted::aside), and
//! it counts only while it is in the engine.

use crate::counted::engine as count;
use envoyfs_engine::store::{
    Appended, Batch, Changes, DataHint, DataObject, Draft, Gone, Need, Permit, Reason, Result, Roots, Store as _, Tier,
};
use envoyfs_engine::{Engine, StoreError};
use envoyfs_layout::node::{NodeBuilder, NodeView, Owner, TreeKind, edges};
use envoyfs_layout::{Hlc, Reference, ReferenceKind};
use std::collections::BTreeMap;

/// Keys of a leaf.
pub const KEYS_A_LEAF: u32 = 16;
/// What an operation may make a checkpoint write, the leaf; that the roots fit besides is the business of whoever chooses sizes.
const NODE_BYTES: u64 = 2 << 10;

/// What a key holds.
#[derive(Clone)]
struct Cell {
    reference: Reference,
    crcs: Vec<u32>,
    seed: u64,
}

#[derive(Clone, Default)]
struct Leaf {
    cells: BTreeMap<u32, Cell>,
    stored: Option<Reference>,
    dirty: Option<Hlc>,
}

#[derive(Clone, Default)]
struct Tree {
    share: Hlc,
    leaves: BTreeMap<u32, Leaf>,
    stored: Option<Reference>,
    dirty: Option<Hlc>,
}

/// What happens.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// Writes a key.
    Put { tree: u32, key: u32, seed: u64, bytes: u32 },
    /// Deletes one.
    Delete { tree: u32, key: u32 },
    /// Forks a tree.
    Fork { from: u32, to: u32 },
    /// Drops one.
    Drop { tree: u32 },
    /// A record, as small as can be, that changes nothing.
    Note,
}

impl Op {
    fn encode(&self) -> Vec<u8> {
        let (code, a, b, seed, bytes) = match *self {
            Self::Put { tree, key, seed, bytes } => (0, tree, key, seed, bytes),
            Self::Delete { tree, key } => (1, tree, key, 0, 0),
            Self::Fork { from, to } => (2, from, to, 0, 0),
            Self::Drop { tree } => (3, tree, 0, 0, 0),
            Self::Note => return Vec::new(),
        };
        let mut out = vec![code];
        out.extend(a.to_le_bytes());
        out.extend(b.to_le_bytes());
        out.extend(seed.to_le_bytes());
        out.extend(bytes.to_le_bytes());
        out
    }

    fn decode(body: &[u8]) -> Self {
        if body.is_empty() {
            return Self::Note;
        }
        let word = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().unwrap());
        let (a, b, seed, bytes) = (word(1), word(5), u64::from_le_bytes(body[9..17].try_into().unwrap()), word(17));
        match body[0] {
            0 => Self::Put { tree: a, key: b, seed, bytes },
            1 => Self::Delete { tree: a, key: b },
            2 => Self::Fork { from: a, to: b },
            _ => Self::Drop { tree: a },
        }
    }
}

/// Bytes of a value: every 8 differ.
fn content(seed: u64, bytes: u32) -> Vec<u8> {
    (0..u64::from(bytes) / 8).flat_map(|at| (seed ^ at).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()).collect()
}

/// See the module.
pub struct Client {
    /// The engine.
    pub engine: Engine,
    trees: BTreeMap<u32, Tree>,
    top: Option<Reference>,
    changes: Changes,
    /// Checkpoints made.
    pub checkpoints: u64,
}

impl Client {
    /// Loads what was recovered and replays.
    pub fn start(engine: Engine) -> Self {
        let roots = count(|| engine.recovered_roots());
        let mut client = Self {
            engine,
            trees: BTreeMap::new(),
            top: roots.references.first().copied(),
            changes: Changes::default(),
            checkpoints: 0,
        };
        if let Some(top) = client.top {
            client.trees = client.load(top);
        }
        for record in count(|| client.engine.take_replay()) {
            client.apply(&Op::decode(&record.body), record.hlc, record.data.first()).unwrap();
        }
        client
    }

    fn load(&self, top: Reference) -> BTreeMap<u32, Tree> {
        let children = |node: Reference| {
            let bytes = count(|| self.engine.read_node(&node)).unwrap();
            let view = NodeView::parse(&bytes).unwrap();
            let items = view.items().map(|item| {
                let child = view.reference(item.reference_indexes().next().unwrap()).unwrap();
                (u32::from_le_bytes(item.key.try_into().unwrap()), item.value.to_vec(), child)
            });
            items.collect::<Vec<_>>()
        };
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes[..8].try_into().unwrap());
        let leaf = |stored: Reference| {
            let cells = children(stored).into_iter().map(|(key, value, reference)| {
                let crcs = value[8..].chunks(4).map(|crc| u32::from_le_bytes(crc.try_into().unwrap())).collect();
                (key, Cell { reference, crcs, seed: word(&value) })
            });
            Leaf { cells: cells.collect(), stored: Some(stored), dirty: None }
        };
        let tree = |share: Hlc, stored: Reference| {
            let leaves = children(stored).into_iter().map(|(number, _, child)| (number, leaf(child))).collect();
            Tree { share, leaves, stored: Some(stored), dirty: None }
        };
        children(top).into_iter().map(|(id, value, root)| (id, tree(Hlc(word(&value)), root))).collect()
    }

    /// Keys that hold something.
    pub fn keys(&self) -> usize {
        self.trees.values().flat_map(|tree| tree.leaves.values()).map(|leaf| leaf.cells.len()).sum()
    }

    /// Trees that there are.
    pub fn trees(&self) -> usize {
        self.trees.len()
    }

    /// Reads a key and compares it, if it holds something.
    pub fn verify(&self, tree: u32, key: u32) {
        let cell = self.trees.get(&tree).and_then(|tree| tree.leaves.get(&(key / KEYS_A_LEAF))?.cells.get(&key));
        let Some(Cell { reference, crcs, seed }) = cell else { return };
        let mut found = vec![0; reference.stored_bytes as usize];
        count(|| self.engine.read_data(reference.oid, 0, crcs, &mut found)).unwrap();
        assert!(found == content(*seed, reference.stored_bytes), "tree {tree} key {key} holds other bytes");
    }

    /// Everything appended becomes durable.
    pub fn commit(&self) {
        count(|| self.engine.commit(self.engine.end())).unwrap();
    }

    fn reserve(&mut self, need: Need) -> Result<Permit> {
        loop {
            match count(|| self.engine.reserve(need)) {
                Err(StoreError::WouldWait { .. }) => self.checkpoint()?,
                other => return other,
            }
        }
    }

    /// Does it, with the checkpoints that are due. Nothing happens when there is no space, or nothing to do it to.
    pub fn run(&mut self, op: &Op) -> Result<()> {
        let has_tree = |tree| self.trees.contains_key(tree);
        let possible = match op {
            Op::Put { .. } | Op::Note => true,
            Op::Delete { tree, key } => {
                self.trees.get(tree).and_then(|tree| tree.leaves.get(&(key / KEYS_A_LEAF))?.cells.get(key)).is_some()
            }
            Op::Fork { from, to } => has_tree(from) && !has_tree(to),
            Op::Drop { tree } => has_tree(tree),
        };
        if !possible {
            return Ok(());
        }
        let (data_bytes, tier) = match op {
            Op::Put { bytes, .. } => (*bytes, Tier::Writer),
            Op::Delete { .. } => (0, Tier::Shrinking),
            Op::Fork { .. } | Op::Drop { .. } | Op::Note => (0, Tier::Last),
        };
        let node_bytes = if matches!(op, Op::Note) { 0 } else { NODE_BYTES };
        let need = Need { log_bytes: 64, node_bytes, payload_bytes: 0, data_bytes: data_bytes.into(), tier };
        let mut permit = self.reserve(need)?;
        let (mut op, mut data) = (*op, Vec::new());
        if let Op::Put { seed, bytes, .. } = &mut op {
            let value = content(*seed, *bytes);
            let object = count(|| self.engine.append_part(&mut permit, &DataHint::default(), &value))?;
            *bytes = object.stored_bytes;
            data.push(object);
        }
        let body = op.encode();
        let draft = Draft { kind: 300, territory: 1, origin: None, data: &data, body: &body };
        let Appended { hlc, .. } = count(|| self.engine.append(&mut permit, draft))?;
        count(|| drop(permit));
        self.apply(&op, hlc, data.first())
    }

    /// Whether the engine wants a checkpoint.
    pub fn is_due(&self) -> Option<Reason> {
        count(|| self.engine.wait_checkpoint(0))
    }

    fn apply(&mut self, op: &Op, hlc: Hlc, data: Option<&DataObject>) -> Result<()> {
        let birth = hlc.birth();
        match *op {
            Op::Put { tree, key, seed, .. } => {
                let object = data.unwrap();
                let reference = Reference::extent(object.oid, birth, object.stored_bytes);
                let leaf = self.touch(tree, key, birth);
                leaf.cells.insert(key, Cell { reference, crcs: object.crcs.clone(), seed });
            }
            Op::Delete { tree, key } => {
                self.touch(tree, key, birth).cells.remove(&key);
            }
            Op::Fork { from, to } => {
                self.persist(from, Batch::Current)?;
                let tree = self.trees.get_mut(&from).unwrap();
                tree.share = hlc;
                let copy = tree.clone();
                self.trees.insert(to, copy);
            }
            Op::Drop { tree } => drop(self.trees.remove(&tree)),
            Op::Note => {}
        }
        Ok(())
    }

    fn touch(&mut self, tree: u32, key: u32, birth: Hlc) -> &mut Leaf {
        let tree = self.trees.entry(tree).or_default();
        tree.dirty = Some(birth);
        let leaf = tree.leaves.entry(key / KEYS_A_LEAF).or_default();
        leaf.dirty = Some(birth);
        leaf
    }

    fn write(&self, batch: Batch, birth: Hlc, builder: NodeBuilder) -> Result<Reference> {
        let bytes = builder.finish();
        count(|| self.engine.append_node(batch, ReferenceKind::Node, 0, birth, &bytes))
    }

    fn gone(&mut self, stored: Option<Reference>, share: Hlc) -> Result<()> {
        if let Some(node) = stored.filter(|node| node.birth.exclusive(share)) {
            let bytes = count(|| self.engine.read_node(&node))?;
            self.changes.gone.push(Gone { node, edges: edges(&bytes).unwrap() });
        }
        Ok(())
    }

    /// Writes the dirty leaves and the root of a tree.
    fn persist(&mut self, id: u32, batch: Batch) -> Result<()> {
        let Some(mut tree) = self.trees.remove(&id) else { return Ok(()) };
        if let Some(birth) = tree.dirty.take() {
            tree.leaves.retain(|_, leaf| {
                // Nothing is left in it: it goes as it was stored.
                leaf.dirty.is_none() || !leaf.cells.is_empty() || leaf.stored.is_some()
            });
            for leaf in tree.leaves.values_mut() {
                let Some(birth) = leaf.dirty.take() else { continue };
                self.gone(leaf.stored.take(), tree.share)?;
                if leaf.cells.is_empty() {
                    continue;
                }
                let mut builder = NodeBuilder::new(TreeKind::Extents, 0, birth, Owner::default());
                for (key, cell) in &leaf.cells {
                    let mut value = cell.seed.to_le_bytes().to_vec();
                    cell.crcs.iter().for_each(|crc| value.extend(crc.to_le_bytes()));
                    builder.push(&key.to_le_bytes(), &value, &[cell.reference]).unwrap();
                }
                leaf.stored = Some(self.write(batch, birth, builder)?);
            }
            tree.leaves.retain(|_, leaf| !leaf.cells.is_empty());
            let mut builder = NodeBuilder::new(TreeKind::Extents, 1, birth, Owner::default());
            for (number, leaf) in &tree.leaves {
                builder.push(&number.to_le_bytes(), b"", &[leaf.stored.unwrap()]).unwrap();
            }
            self.gone(tree.stored.take(), tree.share)?;
            tree.stored = Some(self.write(batch, birth, builder)?);
        }
        self.trees.insert(id, tree);
        Ok(())
    }

    /// A checkpoint, whole.
    pub fn checkpoint(&mut self) -> Result<()> {
        let frozen = count(|| self.engine.freeze())?;
        for id in self.trees.keys().copied().collect::<Vec<_>>() {
            self.persist(id, Batch::Frozen)?;
        }
        let births = self.trees.values().filter_map(|tree| tree.stored).map(|root| root.birth);
        let birth = births.max().unwrap_or(frozen.hlc).max(frozen.hlc);
        let mut builder = NodeBuilder::new(TreeKind::RealmTable, 1, birth, Owner::default());
        for (id, tree) in &self.trees {
            builder.push(&id.to_le_bytes(), &tree.share.0.to_le_bytes(), &[tree.stored.unwrap()]).unwrap();
        }
        let top = self.write(Batch::Frozen, birth, builder)?;
        self.gone(self.top, Hlc::ZERO)?;
        self.top = Some(top);
        let roots = Roots { references: vec![top], blob: Vec::new() };
        let changes = std::mem::take(&mut self.changes);
        self.checkpoints += 1;
        count(|| self.engine.publish(frozen, roots, changes))
    }
}
