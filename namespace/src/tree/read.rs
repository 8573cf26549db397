//! Look-ups in a stored tree.

use super::nodes::Node;
use super::{Item, Nodes, Tree, damaged_in};
use crate::api::Result;
use envoyfs_layout::{LayoutError, Reference, Totals};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

impl Tree {
    /// The item of a key. Reads one node a level.
    pub fn get(&self, nodes: &Nodes, root: &Reference, key: &[u8]) -> Result<Option<Item>> {
        let mut reference = *root;
        let mut node = nodes.read(root, self.kind)?;
        while node.header().level > 0 {
            (reference, node) = self.descend(nodes, &reference, &node, node.child_index(key))?;
        }
        Ok(node.find(key).ok().map(|index| item_of(&node, index)))
    }
    /// Visits items in key order from a bound on, until the visitor breaks. Reads nodes as it goes.
    pub fn range(
        &self,
        nodes: &Nodes,
        root: &Reference,
        from: Bound<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &Item) -> ControlFlow<()>,
    ) -> Result<()> {
        let node = nodes.read(root, self.kind)?;
        self.range_in(nodes, root, &node, from, visit).map(|_| ())
    }
    /// The blob in a root: a directory's attributes.
    pub fn root_blob(&self, nodes: &Nodes, root: &Reference) -> Result<Vec<u8>> {
        Ok(nodes.read(root, self.kind)?.blob().to_vec())
    }
    /// Totals and number of items below a root. Reads the root only.
    pub fn sum(&self, nodes: &Nodes, root: &Reference) -> Result<(Totals, u64)> {
        self.sum_of(root, &nodes.read(root, self.kind)?)
    }

    pub(super) fn sum_of(&self, reference: &Reference, node: &Arc<Node>) -> Result<(Totals, u64)> {
        let damaged = damaged_in(reference.oid);
        let mut totals = Totals::ZERO;
        if node.header().level > 0 {
            let mut items = 0_u64;
            for index in 0..node.len() {
                let (_, child) = node.child(index).map_err(&damaged)?;
                totals = totals.add(child.totals);
                items = items.wrapping_add(child.items);
            }
            return Ok((totals, items));
        }
        let mut references = Vec::new();
        for index in 0..node.len() {
            references.clear();
            references.extend(node.item_references(index));
            totals = totals.add((self.summarize)(node.value(index), &references).map_err(&damaged)?.0);
        }
        Ok((totals, node.len() as u64))
    }
    fn range_in(
        &self,
        nodes: &Nodes,
        reference: &Reference,
        node: &Arc<Node>,
        from: Bound<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &Item) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let is_leaf = node.header().level == 0;
        let first = match from {
            Bound::Unbounded => 0,
            Bound::Included(key) | Bound::Excluded(key) if !is_leaf => node.child_index(key),
            Bound::Included(key) => node.find(key).unwrap_or_else(|index| index),
            Bound::Excluded(key) => node.find(key).map_or_else(|index| index, |index| index + 1),
        };
        for index in first..node.len() {
            let flow = if is_leaf {
                visit(node.key(index), &item_of(node, index))
            } else {
                let (child, below) = self.descend(nodes, reference, node, index)?;
                let from = if index == first { from } else { Bound::Unbounded };
                self.range_in(nodes, &child, &below, from, visit)?
            };
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }
    /// Reads a child and checks that it is one level lower, so that no walk is endless.
    pub(super) fn descend(
        &self,
        nodes: &Nodes,
        parent: &Reference,
        node: &Arc<Node>,
        index: usize,
    ) -> Result<(Reference, Arc<Node>)> {
        let (child, _) = node.child(index).map_err(damaged_in(parent.oid))?;
        let below = nodes.read(&child, self.kind)?;
        let found = below.header().level;
        if u16::from(found) + 1 != u16::from(node.header().level) {
            return Err(damaged_in(child.oid)(LayoutError::Field {
                structure: "node",
                field: "level",
                found: found.into(),
            }));
        }
        Ok((child, below))
    }
}

fn item_of(node: &Node, index: usize) -> Item {
    Item { value: node.value(index).to_vec(), references: node.item_references(index).collect() }
}
