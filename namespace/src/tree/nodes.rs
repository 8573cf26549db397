//! Nodes in memory: parsed once, indexed for binary search, cached by bytes.

use super::damaged_in;
use crate::api::{Error, Result};
use envoyfs_engine::store::{Batch, Store};
use envoyfs_layout::node::{self, NodeBuilder, NodeHeader, NodeView, TreeKind};
use envoyfs_layout::{LayoutError, Oid, Reference, ReferenceKind, Totals};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::ops::Range;
use std::sync::Arc;

/// A node whose bounds, order and kinds have been checked.
#[derive(Debug)]
pub struct Node {
    header: NodeHeader,
    bytes: Arc<[u8]>,
    items: Vec<ItemPlace>,
    references: Vec<Reference>,
}

/// Where an item lies in a node's bytes: indexes, then key, then value.
#[derive(Clone, Copy, Debug)]
struct ItemPlace {
    key_at: u32,
    key_bytes: u16,
    value_bytes: u16,
    index_count: u8,
}

/// What an item of an interior node says of its child: totals 32, items 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChildSummary {
    pub totals: Totals,
    pub items: u64,
}

impl ChildSummary {
    pub const BYTES: usize = Totals::BYTES + 8;

    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        let (totals, items) = out.split_at_mut(Totals::BYTES);
        totals.copy_from_slice(&self.totals.encode());
        items.copy_from_slice(&self.items.to_le_bytes());
        out
    }
    pub fn decode(bytes: &[u8]) -> std::result::Result<Self, LayoutError> {
        let short = LayoutError::Short { structure: "interior item", expected: Self::BYTES, found: bytes.len() };
        let (totals, items) = bytes.split_at_checked(Totals::BYTES).ok_or(short.clone())?;
        Ok(Self { totals: Totals::decode(totals)?, items: u64::from_le_bytes(items.try_into().map_err(|_| short)?) })
    }
}

impl Node {
    pub(super) fn parse(bytes: Arc<[u8]>, kind: TreeKind) -> std::result::Result<Self, LayoutError> {
        let view = NodeView::parse(&bytes)?;
        let header = *view.header();
        let field = |field, found| LayoutError::Field { structure: "node", field, found };
        if header.tree != kind {
            return Err(field("tree kind", header.tree as u64));
        }
        let mut items = Vec::with_capacity(header.item_count.into());
        let mut at = header.body_offset;
        let mut last: Option<&[u8]> = None;
        for (number, item) in view.items().enumerate() {
            if last.is_some_and(|last| last >= item.key) {
                return Err(field("order of item", number as u64));
            }
            last = Some(item.key);
            let indexes = item.reference_indexes();
            if header.level > 0 {
                ChildSummary::decode(item.value)?;
                if indexes.len() != 1 {
                    return Err(field("references of an interior item", indexes.len() as u64));
                }
            }
            let too_long = |_| field("item length", number as u64);
            let place = ItemPlace {
                key_at: at + u32::try_from(node::ITEM_HEADER_BYTES + 2 * indexes.len()).map_err(too_long)?,
                key_bytes: u16::try_from(item.key.len()).map_err(too_long)?,
                value_bytes: u16::try_from(item.value.len()).map_err(too_long)?,
                index_count: u8::try_from(indexes.len()).map_err(too_long)?,
            };
            at = place.key_at + u32::from(place.key_bytes) + u32::from(place.value_bytes);
            items.push(place);
        }
        if header.level > 0 && items.is_empty() {
            return Err(field("items of an interior node", 0));
        }
        let references = view.references().collect();
        Ok(Self { header, items, references, bytes })
    }
    /// Its header.
    #[must_use]
    pub const fn header(&self) -> &NodeHeader {
        &self.header
    }
    /// Number of its items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }
    /// Has it no items?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
    /// Bytes that only a root has.
    #[must_use]
    pub fn blob(&self) -> &[u8] {
        let from = NodeHeader::BYTES;
        self.bytes.get(from..from + self.header.blob_bytes as usize).unwrap_or_default()
    }
    /// Key of item `index`; empty beyond the last.
    #[must_use]
    pub fn key(&self, index: usize) -> &[u8] {
        self.items.get(index).map_or(&[], |place| self.slice(place.key()))
    }
    /// Value of item `index`; empty beyond the last.
    #[must_use]
    pub fn value(&self, index: usize) -> &[u8] {
        self.items.get(index).map_or(&[], |place| self.slice(place.value()))
    }
    /// References of item `index`, in its order.
    pub fn item_references(&self, index: usize) -> impl Iterator<Item = Reference> {
        let indexes = self.items.get(index).map_or(&[][..], |place| self.slice(place.indexes()));
        indexes.chunks_exact(2).filter_map(|pair| {
            let row = u16::from_le_bytes(pair.try_into().ok()?);
            self.references.get(usize::from(row)).copied()
        })
    }
    /// How many references item `index` has.
    #[must_use]
    pub fn reference_count(&self, index: usize) -> usize {
        self.items.get(index).map_or(0, |place| place.index_count.into())
    }
    /// Its edges: distinct objects (INV-07).
    #[must_use]
    pub fn edges(&self) -> Vec<Reference> {
        let mut out = self.references.clone();
        out.sort_by_key(|reference| reference.oid);
        out.dedup_by_key(|reference| reference.oid);
        out
    }
    /// Item with this key, or where it would stand.
    pub(super) fn find(&self, key: &[u8]) -> std::result::Result<usize, usize> {
        self.items.binary_search_by(|place| self.slice(place.key()).cmp(key))
    }
    /// Child whose range holds this key; keys before the first belong to the first.
    pub(super) fn child_index(&self, key: &[u8]) -> usize {
        self.items.partition_point(|place| self.slice(place.key()) <= key).saturating_sub(1)
    }
    /// Child `index` of an interior node.
    pub(super) fn child(&self, index: usize) -> std::result::Result<(Reference, ChildSummary), LayoutError> {
        let missing = LayoutError::Field { structure: "node", field: "child", found: index as u64 };
        let reference = self.item_references(index).next().ok_or(missing)?;
        Ok((reference, ChildSummary::decode(self.value(index))?))
    }
    fn slice(&self, range: Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }
    fn weight(&self) -> u64 {
        (self.bytes.len()
            + self.items.len() * size_of::<ItemPlace>()
            + self.references.len() * size_of::<Reference>()
            + size_of::<Self>()) as u64
    }
}

impl ItemPlace {
    fn key(self) -> Range<usize> {
        let at = self.key_at as usize;
        at..at + usize::from(self.key_bytes)
    }
    fn value(self) -> Range<usize> {
        let at = self.key().end;
        at..at + usize::from(self.value_bytes)
    }
    fn indexes(self) -> Range<usize> {
        let end = self.key_at as usize;
        end - 2 * usize::from(self.index_count)..end
    }
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Oid, Arc<Node>> for ByBytes {
    fn weight(&self, _: &Oid, node: &Arc<Node>) -> u64 {
        node.weight()
    }
}

/// The store's nodes, through a cache bounded by bytes (INV-35). OIDs are never reused, so nothing is ever invalidated.
pub struct Nodes {
    store: Arc<dyn Store>,
    cache: Cache<Oid, Arc<Node>, ByBytes>,
}

impl Nodes {
    /// Over a store, with a cache of so many bytes.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, cache_bytes: u64) -> Self {
        let estimated_items = usize::try_from(cache_bytes / 4096).unwrap_or(usize::MAX).max(16);
        Self { store, cache: Cache::with_weighter(estimated_items, cache_bytes, ByBytes) }
    }
    /// The store below.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }
    /// Reads a node of a kind of tree: from the cache, or verified from the store.
    pub fn read(&self, reference: &Reference, kind: TreeKind) -> Result<Arc<Node>> {
        if let Some(node) = self.cache.get(&reference.oid) {
            if node.header.tree == kind {
                return Ok(node);
            }
            let found = node.header.tree as u64;
            return Err(damaged_in(reference.oid)(LayoutError::Field { structure: "node", field: "tree kind", found }));
        }
        let bytes = self.store.read_node(reference)?;
        let node = Arc::new(Node::parse(bytes, kind).map_err(damaged_in(reference.oid))?);
        self.cache.insert(reference.oid, node.clone());
        Ok(node)
    }
    /// Appends a node to a batch and keeps it in the cache.
    pub fn append(&self, batch: Batch, kind: TreeKind, flags: u8, builder: NodeBuilder) -> Result<Reference> {
        let bytes: Arc<[u8]> = builder.finish().into();
        let node = Node::parse(bytes.clone(), kind).map_err(super::damaged)?;
        let birth = node.header.birth;
        let reference =
            self.store.append_node(batch, ReferenceKind::Node, flags, birth, &bytes).map_err(Error::from)?;
        self.cache.insert(reference.oid, Arc::new(node));
        Ok(reference)
    }
    /// Bytes in the cache.
    #[must_use]
    pub fn cached_bytes(&self) -> u64 {
        self.cache.weight()
    }
    /// Bytes that may be in it.
    #[must_use]
    pub fn cache_bytes_max(&self) -> u64 {
        self.cache.capacity()
    }
}

impl std::fmt::Debug for Nodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nodes").field("cached_bytes", &self.cached_bytes()).finish_non_exhaustive()
    }
}
