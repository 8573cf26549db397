//! The B+trees: nodes are never changed, so a checkpoint writes new ones along the path of every change.

use crate::store::{Result, Tree, Value};
use envoyfs_engine::Engine;
use envoyfs_engine::store::{Batch, Changes, Gone, Store as _};
use envoyfs_layout::node::{NODE_BYTES_MAX, NodeBuilder, NodeView, Owner, TreeKind, edges};
use envoyfs_layout::{Hlc, Reference, ReferenceKind};
use std::collections::HashSet;

/// Nodes are split at this size. Small nodes cost less per change, large ones make lower trees.
pub const NODE_BYTES: usize = 4096;

/// A change, as an overlay has it.
type Change<'a> = (&'a Vec<u8>, &'a (Option<Value>, Hlc));

/// An item of a node.
pub struct Item {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub references: Vec<Reference>,
    /// In an interior node.
    pub child: Option<Reference>,
}

impl Item {
    /// What a leaf's item holds: a value in place, or length and checksums of an extent.
    pub fn stored(&self) -> Result<Value> {
        let Some(extent) = self.references.first() else { return Ok(Value::Inline(self.value.clone())) };
        let (length, crcs) = self.value.split_first_chunk().ok_or("an item is cut short")?;
        let crcs = crcs.as_chunks().0.iter().map(|crc| u32::from_le_bytes(*crc)).collect();
        Ok(Value::Extent(u32::from_le_bytes(*length), *extent, crcs))
    }

    fn leaf(key: &[u8], value: &Value) -> Self {
        let (value, references) = match value {
            Value::Inline(bytes) => (bytes.clone(), Vec::new()),
            Value::Extent(length, extent, crcs) => {
                let numbers = std::iter::once(length).chain(crcs).flat_map(|number| number.to_le_bytes());
                (numbers.collect(), vec![*extent])
            }
        };
        Self { key: key.to_vec(), value, references, child: None }
    }
}

/// Items of a node, in order.
pub fn items(engine: &Engine, node: &Reference) -> Result<Vec<Item>> {
    let bytes = engine.read_node(node)?;
    let view = NodeView::parse(&bytes)?;
    let interior = view.header().level > 0;
    let item = |item: envoyfs_layout::node::NodeItem<'_>| {
        let references: Vec<Reference> = item.reference_indexes().filter_map(|index| view.reference(index)).collect();
        let child = references.first().copied().filter(|_| interior);
        Item { key: item.key.to_vec(), value: item.value.to_vec(), references, child }
    };
    Ok(view.items().map(item).collect())
}

/// Merges overlays into new nodes.
pub struct Build<'a> {
    engine: &'a Engine,
    pub changes: Changes,
}

impl<'a> Build<'a> {
    /// Nothing built yet.
    pub fn new(engine: &'a Engine) -> Self {
        Self { engine, changes: Changes::default() }
    }

    /// Hands over a node that is replaced, if it was this tree's alone; else whoever shares it keeps it, and the engine counts.
    pub fn gone(&mut self, node: Option<&Reference>, share: Hlc) -> Result<()> {
        if let Some(node) = node.filter(|node| node.birth.exclusive(share)) {
            let edges = edges(&self.engine.read_node(node)?)?;
            self.changes.gone.push(Gone { node: *node, edges });
        }
        Ok(())
    }

    pub fn merge_tree(&mut self, tree: &Tree) -> Result<Option<Reference>> {
        let changes: Vec<Change<'_>> = tree.frozen.iter().collect();
        if changes.is_empty() {
            return Ok(tree.root);
        }
        let mut level = 1;
        let mut nodes = match &tree.root {
            Some(root) => {
                level += self.level(root)?;
                self.merge(root, &changes, tree.share)?
            }
            None => self.write(0, &changes_only(&changes), newest(&changes))?,
        };
        // The root was split: a new one above, until there is one.
        while nodes.len() > 1 {
            let birth =
                nodes.iter().flat_map(|node| &node.references).map(|child| child.birth).max().unwrap_or(Hlc::ZERO);
            nodes = self.write(level, &nodes, birth)?;
            level += 1;
        }
        Ok(nodes.first().and_then(|root| root.child))
    }

    fn level(&self, node: &Reference) -> Result<u8> {
        Ok(NodeView::parse(&self.engine.read_node(node)?)?.header().level)
    }

    /// Replaces a node by what it becomes with the changes: none, one or several of the same level.
    fn merge(&mut self, node: &Reference, changes: &[Change<'_>], share: Hlc) -> Result<Vec<Item>> {
        let level = self.level(node)?;
        let old = items(self.engine, node)?;
        self.gone(Some(node), share)?;
        let mut new: Vec<Item> = Vec::new();
        // Births never fall from a node to its children: at least what was there, and the newest change.
        let birth = node.birth.max(newest(changes));
        if level == 0 {
            let changed: HashSet<&Vec<u8>> = changes.iter().map(|(key, _)| *key).collect();
            new.extend(old.into_iter().filter(|item| !changed.contains(&item.key)));
            new.extend(changes_only(changes));
            new.sort_by(|a, b| a.key.cmp(&b.key));
            return self.write(0, &new, birth);
        }
        let mut rest = changes;
        for (index, item) in old.iter().enumerate() {
            let next = old.get(index + 1);
            let count = next.map_or(rest.len(), |next| rest.partition_point(|(key, _)| **key < next.key));
            let (here, after) = rest.split_at(count);
            rest = after;
            match &item.child {
                Some(child) if !here.is_empty() => new.extend(self.merge(child, here, share)?),
                child => new.push(Item {
                    key: item.key.clone(),
                    value: Vec::new(),
                    references: item.references.clone(),
                    child: *child,
                }),
            }
        }
        self.write(level, &new, birth)
    }

    /// Writes items as nodes of about [`NODE_BYTES`], and returns an item for each: its first key and the reference to it.
    fn write(&mut self, level: u8, items: &[Item], birth: Hlc) -> Result<Vec<Item>> {
        let mut out = Vec::new();
        let mut rest = items;
        while let Some(first) = rest.first() {
            let mut node = NodeBuilder::new(TreeKind::Directory, level, birth, Owner::default());
            let mut count = 0;
            for item in rest {
                let most = if count == 0 { NODE_BYTES_MAX } else { NODE_BYTES };
                if node.encoded_len() + NodeBuilder::item_len(&item.key, &item.value, &item.references) > most {
                    break;
                }
                node.push(&item.key, &item.value, &item.references)?;
                count += 1;
            }
            rest = rest.get(count.max(1)..).unwrap_or_default();
            let reference = self.engine.append_node(Batch::Frozen, ReferenceKind::Node, 0, birth, &node.finish())?;
            out.push(Item {
                key: first.key.clone(),
                value: Vec::new(),
                references: vec![reference],
                child: Some(reference),
            });
        }
        Ok(out)
    }
}

fn changes_only(changes: &[Change<'_>]) -> Vec<Item> {
    changes.iter().filter_map(|(key, (value, _))| value.as_ref().map(|value| Item::leaf(key, value))).collect()
}

fn newest(changes: &[Change<'_>]) -> Hlc {
    changes.iter().map(|(_, (_, birth))| *birth).max().unwrap_or(Hlc::ZERO)
}
