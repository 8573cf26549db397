//! The B+trees: nodes are never changed, so a checkpoint writes new ones along the path of every change.

use crate::store::{Result, Tree, Value};
use envoyfs_engine::Engine;
use envoyfs_engine::store::{Batch, Changes, Gone, Store as _};
use envoyfs_layout::node::{NODE_BYTES_MAX, NodeBuilder, NodeView, Owner, TreeKind, edges};
use envoyfs_layout::{Hlc, Reference, ReferenceKind};

/// Nodes are split at this size. Small nodes cost less per change, large ones make lower trees.
pub const NODE_BYTES: usize = 4096;

/// A change, as an overlay has it.
type Change<'a> = (&'a Vec<u8>, &'a (Option<Value>, Hlc));

/// An item of a node.
pub struct Item {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    /// In an interior node the child, in a leaf the extent of a large value.
    pub references: Vec<Reference>,
}

impl Item {
    pub fn child(&self) -> Result<Reference> {
        self.references.first().copied().ok_or_else(|| "an item names no child".into())
    }

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
                (std::iter::once(length).chain(crcs).flat_map(|number| number.to_le_bytes()).collect(), vec![*extent])
            }
        };
        Self { key: key.to_vec(), value, references }
    }
}

/// Level and items of a node, in order.
pub fn items(node: &[u8]) -> Result<(u8, Vec<Item>)> {
    let view = NodeView::parse(node)?;
    let items = view.items().map(|item| Item {
        key: item.key.to_vec(),
        value: item.value.to_vec(),
        references: item.reference_indexes().filter_map(|index| view.reference(index)).collect(),
    });
    Ok((view.header().level, items.collect()))
}

/// Merges overlays into new nodes.
pub struct Build<'a> {
    pub engine: &'a Engine,
    pub changes: Changes,
}

impl Build<'_> {
    /// Hands over a node that is replaced, if it was this tree's alone; else whoever shares it keeps it, and the engine counts.
    pub fn gone(&mut self, node: Option<&Reference>, share: Hlc) -> Result<()> {
        if let Some(node) = node.filter(|node| node.birth.exclusive(share)) {
            let edges = edges(&self.engine.read_node(node)?)?;
            self.changes.gone.push(Gone { node: *node, edges });
        }
        Ok(())
    }

    /// The root of a tree with its frozen changes.
    pub fn merge_tree(&mut self, tree: &Tree) -> Result<Option<Reference>> {
        let changes: Vec<Change<'_>> = tree.frozen.iter().collect();
        if changes.is_empty() {
            return Ok(tree.root);
        }
        let (mut level, mut nodes) = match &tree.root {
            Some(root) => self.merge(root, &changes, tree.share)?,
            None => (0, self.write(0, &leaves(&changes), newest(&changes))?),
        };
        // The root was split: a new one above, until there is one.
        while nodes.len() > 1 {
            level += 1;
            let birth = nodes.iter().flat_map(|node| &node.references).map(|child| child.birth).max();
            nodes = self.write(level, &nodes, birth.unwrap_or(Hlc::ZERO))?;
        }
        nodes.first().map(Item::child).transpose()
    }

    /// Replaces a node by what it becomes with the changes: none, one or several of the same level.
    fn merge(&mut self, node: &Reference, changes: &[Change<'_>], share: Hlc) -> Result<(u8, Vec<Item>)> {
        let (level, old) = items(&self.engine.read_node(node)?)?;
        self.gone(Some(node), share)?;
        let mut new: Vec<Item> = Vec::new();
        if level == 0 {
            let is_changed = |item: &Item| changes.binary_search_by(|(key, _)| (*key).cmp(&item.key)).is_ok();
            new.extend(old.into_iter().filter(|item| !is_changed(item)).chain(leaves(changes)));
            new.sort_by(|a, b| a.key.cmp(&b.key));
        } else {
            let (mut rest, mut old) = (changes, old.into_iter().peekable());
            while let Some(item) = old.next() {
                let here = old.peek().map_or(rest.len(), |next| rest.partition_point(|(key, _)| **key < next.key));
                let (here, after) = rest.split_at(here);
                rest = after;
                match here {
                    [] => new.push(item),
                    here => new.extend(self.merge(&item.child()?, here, share)?.1),
                }
            }
        }
        // Births never fall from a node to its children: at least what was there, and the newest change.
        Ok((level, self.write(level, &new, node.birth.max(newest(changes)))?))
    }

    /// Writes items as nodes of about [`NODE_BYTES`], and returns an item for each: its first key and the reference to it.
    fn write(&mut self, level: u8, mut items: &[Item], birth: Hlc) -> Result<Vec<Item>> {
        let mut out = Vec::new();
        while let [first, ..] = items {
            let mut node = NodeBuilder::new(TreeKind::Directory, level, birth, Owner::default());
            let mut count = 0;
            for item in items {
                let most = if count == 0 { NODE_BYTES_MAX } else { NODE_BYTES };
                if node.encoded_len() + NodeBuilder::item_len(&item.key, &item.value, &item.references) > most {
                    break;
                }
                node.push(&item.key, &item.value, &item.references)?;
                count += 1;
            }
            items = items.get(count.max(1)..).unwrap_or_default();
            let reference = self.engine.append_node(Batch::Frozen, ReferenceKind::Node, 0, birth, &node.finish())?;
            out.push(Item { key: first.key.clone(), value: Vec::new(), references: vec![reference] });
        }
        Ok(out)
    }
}

fn leaves(changes: &[Change<'_>]) -> Vec<Item> {
    changes.iter().filter_map(|(key, (value, _))| value.as_ref().map(|value| Item::leaf(key, value))).collect()
}

fn newest(changes: &[Change<'_>]) -> Hlc {
    changes.iter().map(|(_, (_, birth))| *birth).max().unwrap_or(Hlc::ZERO)
}
