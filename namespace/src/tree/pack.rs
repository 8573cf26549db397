//! Items on their way into new nodes, and where a list of them is cut.

use super::nodes::{ChildSummary, Node};
use super::{Change, Item};
use envoyfs_layout::node::NodeBuilder;
use envoyfs_layout::{Hlc, Reference};
use std::ops::Range;
use std::sync::Arc;

/// An item of a node to be written: where its bytes are now.
#[derive(Clone, Debug)]
pub(super) enum Source<'a> {
    /// Item of a node that is replaced.
    Stored(Arc<Node>, usize),
    /// New item of a leaf.
    Changed(&'a Change, &'a Item),
    /// New child of an interior node.
    Child(Box<NewChild>),
}

/// A node written by this pass.
#[derive(Clone, Debug)]
pub(super) struct NewChild {
    pub first_key: Vec<u8>,
    pub reference: Reference,
    pub summary: ChildSummary,
    pub encoded_summary: [u8; ChildSummary::BYTES],
}

impl Source<'_> {
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Stored(node, index) => node.key(*index),
            Self::Changed(change, _) => &change.key,
            Self::Child(child) => &child.first_key,
        }
    }
    pub fn value(&self) -> &[u8] {
        match self {
            Self::Stored(node, index) => node.value(*index),
            Self::Changed(_, item) => &item.value,
            Self::Child(child) => &child.encoded_summary,
        }
    }
    /// Replaces the contents of `out`.
    pub fn references(&self, out: &mut Vec<Reference>) {
        out.clear();
        match self {
            Self::Stored(node, index) => out.extend(node.item_references(*index)),
            Self::Changed(_, item) => out.extend_from_slice(&item.references),
            Self::Child(child) => out.push(child.reference),
        }
    }
    /// Bytes in a node at most: less if its references are there already.
    pub fn bytes(&self) -> usize {
        let references = match self {
            Self::Stored(node, index) => node.reference_count(*index),
            Self::Changed(_, item) => item.references.len(),
            Self::Child(_) => 1,
        };
        NodeBuilder::item_len(self.key(), self.value(), &[]) + references * (2 + Reference::BYTES)
    }
}

/// Items of one level that belong together, not yet cut into nodes.
#[derive(Debug)]
pub(super) struct Run<'a> {
    /// Level of the nodes that will hold them.
    pub level: u8,
    pub items: Vec<Source<'a>>,
    /// Sum of [`Source::bytes`].
    pub bytes: usize,
    /// Birth of every node made of them.
    pub birth: Hlc,
    /// Grows at its end only: its nodes are filled up.
    pub sequential: bool,
}

impl<'a> Run<'a> {
    pub fn new(level: u8, items: Vec<Source<'a>>, birth: Hlc, sequential: bool) -> Self {
        let bytes = items.iter().map(Source::bytes).sum();
        Self { level, items, bytes, birth, sequential }
    }
    /// All items of a node that is replaced.
    pub fn of_node(node: &Arc<Node>) -> Self {
        let items = (0..node.len()).map(|index| Source::Stored(node.clone(), index)).collect();
        Self::new(node.header().level, items, node.header().birth, false)
    }
    /// Appends a run that follows this one.
    pub fn join(&mut self, mut next: Self) {
        self.items.append(&mut next.items);
        self.bytes += next.bytes;
        self.birth = self.birth.max(next.birth);
        self.sequential = next.sequential;
    }
    /// Ranges of items, one a node: none above `capacity`, at least `pieces_min` of them (if there are so many items). Even pieces about two thirds full, or full ones if the run
    /// is sequential. No item may be larger than the capacity.
    pub fn cuts(&self, capacity: usize, pieces_min: usize) -> Vec<Range<usize>> {
        let mut cuts = Vec::new();
        let pieces = if self.bytes <= capacity { 1 } else { self.bytes.div_ceil(capacity * 2 / 3) }.max(pieces_min);
        let target = if self.sequential && pieces_min < 2 { capacity } else { self.bytes.div_ceil(pieces) };
        let (mut start, mut bytes) = (0, 0);
        for (index, item) in self.items.iter().enumerate() {
            let item = item.bytes();
            if index > start && (bytes >= target || bytes + item > capacity) {
                cuts.push(start..index);
                (start, bytes) = (index, 0);
            }
            bytes += item;
        }
        if start < self.items.len() {
            cuts.push(start..self.items.len());
        }
        cuts
    }
}
