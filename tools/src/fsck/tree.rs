//! Items of nodes, and new nodes from items. What [`super::rewrite`] writes with.

use super::items;
use anyhow::{Result, anyhow};
use envoyfs_engine::repair::OfflineWriter;
use envoyfs_layout::node::{NODE_BYTES_MAX, NodeBuilder, NodeHeader, NodeItem, NodeView, Owner, TreeKind};
use envoyfs_layout::{Hlc, Reference, ReferenceKind, Totals};

/// Largest node of an extents tree.
const EXTENTS_NODE_BYTES_MAX: usize = 4096;

/// An item, with what it adds to the sums above.
#[derive(Clone, Debug)]
pub struct Item {
    /// Key.
    pub key: Vec<u8>,
    /// Value.
    pub value: Vec<u8>,
    /// References.
    pub references: Vec<Reference>,
    totals: Totals,
    items: u64,
    flags: u8,
}

impl Item {
    /// As it stands in a node.
    pub fn of(view: &NodeView<'_>, item: &NodeItem<'_>) -> Self {
        Self {
            key: item.key.to_vec(),
            value: item.value.to_vec(),
            references: item.reference_indexes().filter_map(|index| view.reference(index)).collect(),
            totals: Totals::ZERO,
            items: 0,
            flags: 0,
        }
    }
    /// An item of a leaf.
    pub fn leaf(tree: TreeKind, key: Vec<u8>, value: Vec<u8>, references: Vec<Reference>) -> Result<Self> {
        let (totals, flags) = items::summary(tree, &value, &references)?;
        Ok(Self { key, value, references, totals, items: 1, flags })
    }
    /// An item of an interior node.
    pub fn interior(key: Vec<u8>, child: &Built) -> Self {
        let mut value = child.totals.encode().to_vec();
        value.extend_from_slice(&child.items.to_le_bytes());
        let Built { reference, totals, items, .. } = *child;
        Self { key, value, references: vec![reference], totals, items, flags: reference.flags }
    }
    /// Does it take the same bytes?
    pub fn same(&self, other: &Self) -> bool {
        self.key == other.key && self.value == other.value && self.references == other.references
    }
}

/// A node as its parent must describe it.
#[derive(Clone, Copy, Debug)]
pub struct Built {
    /// The node.
    pub reference: Reference,
    /// Totals below.
    pub totals: Totals,
    /// Items in the leaves below.
    pub items: u64,
}

impl Built {
    /// A node that stays, under a reference with the flags that it should have.
    pub fn unchanged(reference: &Reference, items: &[Item]) -> Self {
        let (totals, count, flags) = sums(items);
        Self { reference: Reference { flags, ..*reference }, totals, items: count }
    }
}

fn sums(items: &[Item]) -> (Totals, u64, u8) {
    items.iter().fold((Totals::ZERO, 0, 0), |(totals, count, flags), item| {
        (totals.add(item.totals), count + item.items, flags | item.flags)
    })
}

/// Writes nodes.
pub struct Packer<'a> {
    /// Where they go.
    pub writer: OfflineWriter<'a>,
}

struct Shape<'s> {
    tree: TreeKind,
    level: u8,
    owner: Owner,
    birth: Hlc,
    flags: u8,
    blob: &'s [u8],
}

impl<'a> Packer<'a> {
    /// Over a writer.
    pub const fn new(writer: OfflineWriter<'a>) -> Self {
        Self { writer }
    }

    /// A node in place of another; none if the items do not fit.
    pub fn node(&mut self, header: &NodeHeader, blob: &[u8], items: &[Item]) -> Result<Option<Built>> {
        let NodeHeader { tree, level, owner, birth, flags, .. } = *header;
        self.write(&Shape { tree, level, owner, birth, flags, blob }, items, NODE_BYTES_MAX)
    }

    /// A tree without items.
    pub fn empty(&mut self, tree: TreeKind, owner: Owner, birth: Hlc, blob: &[u8]) -> Result<Built> {
        let shape = Shape { tree, level: 0, owner, birth, flags: 0, blob };
        self.write(&shape, &[], NODE_BYTES_MAX)?.ok_or_else(|| anyhow!("a root does not fit into a node"))
    }

    fn write(&mut self, shape: &Shape<'_>, items: &[Item], bytes_max: usize) -> Result<Option<Built>> {
        let mut builder = NodeBuilder::new(shape.tree, shape.level, shape.birth, shape.owner);
        builder.set_flags(shape.flags);
        if !shape.blob.is_empty() {
            builder.set_root_blob(shape.blob)?;
        }
        for item in items {
            if builder.push(&item.key, &item.value, &item.references).is_err() {
                return Ok(None);
            }
            item.references.iter().for_each(|reference| builder.raise_birth(reference.birth));
        }
        if builder.encoded_len() > bytes_max {
            return Ok(None);
        }
        let birth = items.iter().flat_map(|item| &item.references).map(|r| r.birth).fold(shape.birth, Hlc::max);
        let (totals, count, flags) = sums(items);
        let bytes = builder.finish();
        let reference = self.writer.append(ReferenceKind::Node, flags, birth, shape.owner.inode, &bytes)?;
        Ok(Some(Built { reference, totals, items: count }))
    }

    /// A tree of sorted items.
    pub fn tree(&mut self, tree: TreeKind, owner: Owner, birth: Hlc, blob: &[u8], items: Vec<Item>) -> Result<Built> {
        let bytes_max = if tree == TreeKind::Extents { EXTENTS_NODE_BYTES_MAX } else { NODE_BYTES_MAX };
        let mut items = items;
        let mut level = 0;
        loop {
            let root = Shape { tree, level, owner, birth, flags: 0, blob };
            if let Some(built) = self.write(&root, &items, bytes_max)? {
                return Ok(built);
            }
            let shape = Shape { blob: &[], ..root };
            let mut above = Vec::new();
            let mut rest = items.as_slice();
            while let Some(first) = rest.first() {
                let mut take = count_that_fits(rest, bytes_max);
                let built = loop {
                    let (head, _) = rest.split_at(take.min(rest.len()));
                    if let Some(built) = self.write(&shape, head, NODE_BYTES_MAX)? {
                        break built;
                    }
                    take =
                        take.checked_sub(1).filter(|take| *take > 0).ok_or_else(|| anyhow!("an item is too large"))?;
                };
                above.push(Item::interior(first.key.clone(), &built));
                rest = rest.get(take..).unwrap_or_default();
            }
            items = above;
            level = level.checked_add(1).ok_or_else(|| anyhow!("a tree has too many levels"))?;
        }
    }
}

/// Items that fit into a node for certain; at least one.
fn count_that_fits(items: &[Item], bytes_max: usize) -> usize {
    let mut bytes = NodeHeader::BYTES;
    let mut count = 0;
    for item in items {
        bytes += NodeBuilder::item_len(&item.key, &item.value, &item.references);
        if bytes > bytes_max {
            break;
        }
        count += 1;
    }
    count.max(1)
}
