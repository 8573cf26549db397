//! The smallest client that a store can have: blocks of 4 KiB, leaves of 100, two levels of nodes above. Nothing is shared but what `clones` adds.

use envoyfs_engine::store::{Batch, Changes, DataHint, Draft, Gone, Need, Roots, Store, Tier};
use envoyfs_engine::{Engine, StoreError};
use envoyfs_layout::node::{NodeBuilder, Owner, TreeKind, edges};
use envoyfs_layout::{Encoding, Hlc, Oid, Reference, ReferenceKind};

/// Blocks of a leaf: about 4 KiB of node.
pub const LEAF: usize = 100;
const INNER: usize = 200;

#[derive(Clone, Copy)]
struct Block {
    oid: Oid,
    birth: Hlc,
    crc: u32,
}

#[derive(Clone, Default)]
struct Node {
    stored: Option<Reference>,
    /// Of what is stored.
    edges: Vec<Reference>,
    dirty: bool,
}

/// See the module.
pub struct Client {
    pub engine: Engine,
    blocks: Vec<Option<Block>>,
    versions: Vec<u32>,
    leaves: Vec<Node>,
    inner: Vec<Node>,
    root: Node,
    clones: Vec<Reference>,
    dirty_leaves: u64,
    pub checkpoints: u64,
}

/// What a block holds in a version: one word, so that the device keeps it in eight bytes.
fn word(block: usize, version: u32) -> u64 {
    (block as u64) << 32 | u64::from(version) | 1 << 63
}

fn filled(block: usize, version: u32) -> Vec<u8> {
    word(block, version).to_le_bytes().repeat(512)
}

impl Client {
    pub fn new(engine: Engine, blocks: usize) -> Self {
        let leaves = blocks.div_ceil(LEAF);
        Self {
            engine,
            blocks: vec![None; blocks],
            versions: vec![0; blocks],
            leaves: vec![Node::default(); leaves],
            inner: vec![Node::default(); leaves.div_ceil(INNER)],
            root: Node::default(),
            clones: Vec::new(),
            dirty_leaves: 0,
            checkpoints: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.blocks.len()
    }
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Overwrites a block. `Ok(None)`: a checkpoint is needed first.
    pub fn write(&mut self, block: usize) -> Result<Option<envoyfs_layout::Lsn>, StoreError> {
        let leaf = block / LEAF;
        let above =
            if self.leaves[leaf].dirty { 0 } else { 4096 + if self.inner[leaf / INNER].dirty { 0 } else { 16 << 10 } };
        let need = Need { log_bytes: 16, node_bytes: above, payload_bytes: 0, data_bytes: 4096, tier: Tier::Writer };
        let mut permit = match self.engine.reserve(need) {
            Ok(permit) => permit,
            Err(StoreError::WouldWait { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let version = self.versions[block] + 1;
        let hint = DataHint { after: None, owner: leaf as u64 + 1, replaces: self.blocks[block].map(|old| old.oid) };
        let object = self.engine.append_part(&mut permit, &hint, &filled(block, version))?;
        let draft = Draft {
            kind: 300,
            territory: 1,
            origin: None,
            data: std::slice::from_ref(&object),
            body: &(block as u64).to_le_bytes(),
        };
        let appended = self.engine.append(&mut permit, draft)?;
        self.blocks[block] = Some(Block { oid: object.oid, birth: appended.hlc.birth(), crc: object.crcs[0] });
        self.versions[block] = version;
        if !self.leaves[leaf].dirty {
            self.leaves[leaf].dirty = true;
            self.dirty_leaves += 1;
        }
        self.inner[leaf / INNER].dirty = true;
        self.root.dirty = true;
        Ok(Some(appended.end))
    }

    pub fn read(&self, block: usize) -> Result<(), StoreError> {
        let Some(Block { oid, crc, .. }) = self.blocks[block] else { return Ok(()) };
        let mut into = vec![0; 4096];
        self.engine.read_data(oid, 0, &[crc], &mut into)?;
        assert!(into == filled(block, self.versions[block]), "block {block} reads as something else");
        Ok(())
    }

    /// Makes `count` clones of a small tree of its own, and keeps them all alive: each a node that references the one shared.
    pub fn make_clones(&mut self, count: usize) -> Result<(), StoreError> {
        for start in (0..count).step_by(5000) {
            let frozen = self.engine.freeze()?;
            let mut changes = Changes::default();
            let shared = match self.clones.first() {
                Some(table) => edges(&self.engine.read_node(table)?).unwrap()[0],
                None => {
                    let leaf = NodeBuilder::new(TreeKind::Extents, 0, frozen.hlc, Owner::default());
                    self.engine.append_node(Batch::Frozen, ReferenceKind::Node, 0, frozen.hlc, &leaf.finish())?
                }
            };
            let mut table = NodeBuilder::new(TreeKind::RealmTable, 1, frozen.hlc, Owner::default());
            table.push(b"shared", b"", &[shared]).unwrap();
            for clone in start..(start + 5000).min(count) {
                let mut root = NodeBuilder::new(TreeKind::Extents, 1, frozen.hlc, Owner::default());
                root.push(&(clone as u64).to_be_bytes(), b"", &[shared]).unwrap();
                let root =
                    self.engine.append_node(Batch::Frozen, ReferenceKind::Node, 0, frozen.hlc, &root.finish())?;
                if table.push(&(clone as u64).to_be_bytes(), b"", &[root]).is_err() {
                    let full = std::mem::replace(
                        &mut table,
                        NodeBuilder::new(TreeKind::RealmTable, 1, frozen.hlc, Owner::default()),
                    );
                    self.clones.push(self.engine.append_node(
                        Batch::Frozen,
                        ReferenceKind::Node,
                        0,
                        frozen.hlc,
                        &full.finish(),
                    )?);
                    table.push(b"shared", b"", &[shared]).unwrap();
                    table.push(&(clone as u64).to_be_bytes(), b"", &[root]).unwrap();
                }
            }
            self.clones.push(self.engine.append_node(
                Batch::Frozen,
                ReferenceKind::Node,
                0,
                frozen.hlc,
                &table.finish(),
            )?);
            self.persist(&mut changes, frozen.hlc)?;
            self.engine.publish(frozen, self.roots(), changes)?;
        }
        Ok(())
    }

    fn roots(&self) -> Roots {
        Roots {
            references: self.root.stored.into_iter().chain(self.clones.iter().copied()).collect(),
            blob: Vec::new(),
        }
    }

    pub fn checkpoint(&mut self) -> Result<(), StoreError> {
        let frozen = self.engine.freeze()?;
        let mut changes = Changes::default();
        self.persist(&mut changes, frozen.hlc)?;
        self.engine.publish(frozen, self.roots(), changes)?;
        self.checkpoints += 1;
        Ok(())
    }

    fn persist(&mut self, changes: &mut Changes, birth: Hlc) -> Result<(), StoreError> {
        let engine = &self.engine;
        let mut put = |node: &mut Node, level: u8, key: usize, value: &[u8], refs: &[Reference]| {
            if let Some(old) = node.stored {
                let mut edges = refs.to_vec();
                edges.sort_unstable_by_key(|edge| edge.oid);
                changes.gone.push(Gone { node: old, edges: std::mem::replace(&mut node.edges, edges) });
            } else {
                node.edges = refs.to_vec();
            }
            let mut builder = NodeBuilder::new(TreeKind::Extents, level, birth, Owner::default());
            builder.push(&(key as u64).to_be_bytes(), value, refs).unwrap();
            node.stored = Some(engine.append_node(Batch::Frozen, ReferenceKind::Node, 0, birth, &builder.finish())?);
            node.dirty = false;
            Ok::<(), StoreError>(())
        };
        for (at, node) in self.leaves.iter_mut().enumerate().filter(|(_, node)| node.dirty) {
            let blocks: Vec<Block> = self.blocks[at * LEAF..].iter().take(LEAF).flatten().copied().collect();
            let value: Vec<u8> = blocks.iter().flat_map(|block| block.crc.to_le_bytes()).collect();
            let refs: Vec<Reference> = blocks.iter().map(|block| extent(block.oid, block.birth)).collect();
            put(node, 0, at * LEAF, &value, &refs)?;
        }
        for (at, node) in self.inner.iter_mut().enumerate().filter(|(_, node)| node.dirty) {
            let refs: Vec<Reference> =
                self.leaves[at * INNER..].iter().take(INNER).filter_map(|leaf| leaf.stored).collect();
            put(node, 1, at, b"", &refs)?;
        }
        if self.root.dirty {
            let refs: Vec<Reference> = self.inner.iter().filter_map(|node| node.stored).collect();
            put(&mut self.root, 2, 0, b"", &refs)?;
        }
        self.dirty_leaves = 0;
        Ok(())
    }
}

fn extent(oid: Oid, birth: Hlc) -> Reference {
    Reference {
        oid,
        birth,
        stored_bytes: 4096,
        logical_bytes: 4096,
        crc: 0,
        kind: ReferenceKind::Extent,
        flags: 0,
        encoding: Encoding::Plain,
    }
}
