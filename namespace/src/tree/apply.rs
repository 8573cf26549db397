//! One bulk pass that turns a stored tree and a batch of changes into a new tree.
//!
//! ```text
//! rebuild(node): leaf      -> its items merged with the changes
//!                interior  -> children without changes kept; the others rebuilt, small ones merged with a neighbour, cut into nodes, written
//! finish(root):  a lone child is absorbed; too many items become a new level; the root gets the blob
//! ```
//! A node is written once, children first. What it replaces is judged once (`retire`).

use super::nodes::{ChildSummary, Node};
use super::pack::{NewChild, Run, Source};
use super::{Change, Nodes, Tree, damaged, damaged_in};
use crate::api::{Error, Result};
use envoyfs_engine::StoreError;
use envoyfs_engine::store::{Batch, Gone};
use envoyfs_layout::node::{NodeBuilder, NodeHeader, TreeKind};
use envoyfs_layout::{Hlc, LayoutError, Reference, Totals};
use std::cmp::Ordering;
use std::sync::Arc;

/// A tree after a batch of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its root, the old one if nothing changed.
    pub root: Reference,
    /// Sums over all items.
    pub totals: Totals,
    /// How many items there are.
    pub items: u64,
}

impl Tree {
    /// Applies `changes` (ascending, each key once) to a tree, or makes one. New nodes go to `batch`; what they replace goes to `gone` if it is exclusive on a path with share
    /// time `share`. `blob_birth` counts only if `root_blob` is not the one stored.
    ///
    /// Reads and writes the touched leaves and what is above them, at most one neighbour for each leaf that got small. On an error nothing refers to what was written, and
    /// `gone` is as it was.
    #[expect(clippy::too_many_arguments, reason = "each is one fact that only the caller knows")]
    pub fn apply(
        &self,
        nodes: &Nodes,
        batch: Batch,
        share: Hlc,
        root: Option<&Reference>,
        root_blob: &[u8],
        blob_birth: Hlc,
        changes: &[Change],
        gone: &mut Vec<Gone>,
    ) -> Result<Applied> {
        assert!(
            changes.iter().zip(changes.iter().skip(1)).all(|(a, b)| a.key < b.key),
            "changes are sorted by key, each key once"
        );
        let mut pass = Pass { tree: self, nodes, batch, share, gone: Vec::new() };
        if root_blob.len() > pass.capacity() / 2 {
            return Err(too_large("root blob", root_blob.len(), pass.capacity() / 2));
        }
        for change in changes {
            if let Some(item) = &change.item {
                let bytes = Source::Changed(change, item).bytes();
                if bytes > pass.capacity() {
                    return Err(too_large("tree item", bytes, pass.capacity()));
                }
            }
        }
        let run = match root {
            None => {
                let (items, birth) = new_items(changes);
                Run::new(0, items, birth.max(blob_birth), self.kind != TreeKind::Directory)
            }
            Some(root) => {
                let node = nodes.read(root, self.kind)?;
                let blob_changed = node.blob() != root_blob;
                let mut run = match pass.rebuild(root, &node, changes, Position { root: true, rightmost: true })? {
                    Some(run) => run,
                    None if blob_changed => {
                        pass.retire(root, &node);
                        Run::of_node(&node)
                    }
                    None => {
                        let (totals, items) = self.sum_of(root, &node)?;
                        return Ok(Applied { root: *root, totals, items });
                    }
                };
                if blob_changed {
                    run.birth = run.birth.max(blob_birth);
                }
                run
            }
        };
        let root = pass.finish(run, root_blob)?;
        gone.append(&mut pass.gone);
        Ok(Applied { root: root.reference, totals: root.summary.totals, items: root.summary.items })
    }
}

/// Where a node stands in its tree.
#[derive(Clone, Copy)]
struct Position {
    root: bool,
    rightmost: bool,
}

/// A child of a node that is rebuilt.
enum Part<'a> {
    /// As it was: its index in the old node.
    Kept(usize),
    /// Its items changed.
    Rebuilt(Run<'a>),
}

struct Pass<'p> {
    tree: &'p Tree,
    nodes: &'p Nodes,
    batch: Batch,
    share: Hlc,
    gone: Vec<Gone>,
}

impl Pass<'_> {
    /// Bytes of items and references in a node without blob.
    const fn capacity(&self) -> usize {
        self.tree.node_bytes_max.saturating_sub(NodeHeader::BYTES)
    }

    /// A stored node leaves the tree (INV-07). Non-exclusive ones get nothing.
    fn retire(&mut self, reference: &Reference, node: &Node) {
        if reference.birth.exclusive(self.share) {
            self.gone.push(Gone { node: *reference, edges: node.edges() });
        }
    }

    /// The items of a node after the changes; none if they change nothing. Levels below are written.
    fn rebuild<'a>(
        &mut self,
        reference: &Reference,
        node: &Arc<Node>,
        changes: &'a [Change],
        at: Position,
    ) -> Result<Option<Run<'a>>> {
        if node.header().level == 0 {
            let Some(run) = self.merge_leaf(node, changes, at) else { return Ok(None) };
            self.retire(reference, node);
            return Ok(Some(run));
        }
        let mut parts = Vec::with_capacity(node.len());
        let mut changed: Option<Hlc> = None;
        let mut rest = changes;
        for index in 0..node.len() {
            let last = index + 1 == node.len();
            let count =
                if last { rest.len() } else { rest.partition_point(|c| c.key.as_slice() < node.key(index + 1)) };
            let (mine, after) = rest.split_at(count);
            rest = after;
            let below = Position { root: false, rightmost: at.rightmost && last };
            let rebuilt = if mine.is_empty() {
                None
            } else {
                let (child, child_node) = self.tree.descend(self.nodes, reference, node, index)?;
                self.rebuild(&child, &child_node, mine, below)?
            };
            match rebuilt {
                None => parts.push(Part::Kept(index)),
                Some(run) => {
                    changed = changed.max(Some(run.birth));
                    if !run.items.is_empty() {
                        parts.push(Part::Rebuilt(run));
                    }
                }
            }
        }
        let Some(birth) = changed else { return Ok(None) };
        let birth = birth.max(node.header().birth);
        self.retire(reference, node);
        self.merge_small(reference, node, &mut parts)?;
        if at.root
            && parts.len() == 1
            && let Some(Part::Rebuilt(run)) = parts.pop_if(|part| self.is_one_node(part))
        {
            return Ok(Some(Run { birth, ..run }));
        }
        let only_last = parts.iter().rev().skip(1).all(|part| matches!(part, Part::Kept(_)));
        let sequential = self.tree.kind != TreeKind::Directory && at.rightmost && only_last;
        let mut items = Vec::with_capacity(parts.len() + 1);
        for part in parts {
            match part {
                Part::Kept(index) => items.push(Source::Stored(node.clone(), index)),
                Part::Rebuilt(run) => self.write_run(&run, 1, &mut items)?,
            }
        }
        let level = if items.is_empty() { 0 } else { node.header().level };
        Ok(Some(Run::new(level, items, birth, sequential)))
    }

    fn is_one_node(&self, part: &Part<'_>) -> bool {
        matches!(part, Part::Rebuilt(run) if run.bytes <= self.capacity())
    }

    /// A leaf's items merged with changes; none if that changes nothing.
    fn merge_leaf<'a>(&self, node: &Arc<Node>, changes: &'a [Change], at: Position) -> Option<Run<'a>> {
        let mut items = Vec::with_capacity(node.len() + changes.len());
        let mut birth = None;
        let mut index = 0;
        let mut references = Vec::new();
        let appends =
            changes.first().is_none_or(|change| node.is_empty() || change.key.as_slice() > node.key(node.len() - 1));
        for change in changes {
            while index < node.len() && node.key(index) < change.key.as_slice() {
                items.push(Source::Stored(node.clone(), index));
                index += 1;
            }
            let stored = index < node.len() && node.key(index).cmp(&change.key) == Ordering::Equal;
            match &change.item {
                None if !stored => continue,
                None => birth = birth.max(Some(change.birth)),
                Some(item) => {
                    let old = Source::Stored(node.clone(), index);
                    old.references(&mut references);
                    if stored && old.value() == item.value && references == item.references {
                        items.push(old);
                    } else {
                        items.push(Source::Changed(change, item));
                        birth = birth.max(Some(birth_of(change, item)));
                    }
                }
            }
            index += usize::from(stored);
        }
        items.extend((index..node.len()).map(|index| Source::Stored(node.clone(), index)));
        let sequential = self.tree.kind != TreeKind::Directory && at.rightmost && appends;
        Some(Run::new(0, items, birth?.max(node.header().birth), sequential))
    }

    /// Joins every rebuilt child that got small with a neighbour, if both fit in one node with room to spare.
    fn merge_small(&mut self, reference: &Reference, node: &Arc<Node>, parts: &mut Vec<Part<'_>>) -> Result<()> {
        let (small, joined_max) = (self.capacity() / 3, self.capacity() / 8 * 7);
        let mut at = 0;
        while let Some(part) = parts.get(at) {
            let Part::Rebuilt(run) = part else {
                at += 1;
                continue;
            };
            let room = joined_max.saturating_sub(run.bytes);
            let neighbours = [at.checked_sub(1), Some(at + 1)].into_iter().flatten();
            let best = neighbours
                .filter(|_| run.bytes < small)
                .filter_map(|neighbour| Some((self.part_bytes(node, parts.get(neighbour)?)?, neighbour)))
                .filter(|((_, bytes), _)| *bytes <= room)
                .min();
            let Some((_, neighbour)) = best else {
                at += 1;
                continue;
            };
            let (left, right) = (at.min(neighbour), at.max(neighbour));
            let next = parts.remove(right);
            let next = self.open(reference, node, next)?;
            let first = std::mem::replace(parts.get_mut(left).ok_or_else(lost_part)?, Part::Kept(0));
            let mut first = self.open(reference, node, first)?;
            first.join(next);
            *parts.get_mut(left).ok_or_else(lost_part)? = Part::Rebuilt(first);
            at = left;
        }
        Ok(())
    }

    /// (Would have to be read, bytes of its items): rebuilt neighbours cost nothing more to join.
    fn part_bytes(&self, node: &Node, part: &Part<'_>) -> Option<(bool, usize)> {
        match part {
            Part::Rebuilt(run) => Some((false, run.bytes)),
            Part::Kept(index) => {
                let (child, _) = node.child(*index).ok()?;
                Some((true, (child.logical_bytes as usize).saturating_sub(NodeHeader::BYTES)))
            }
        }
    }

    /// The items of a part; a kept child is replaced by that.
    fn open<'a>(&mut self, reference: &Reference, node: &Arc<Node>, part: Part<'a>) -> Result<Run<'a>> {
        match part {
            Part::Rebuilt(run) => Ok(run),
            Part::Kept(index) => {
                let (child, child_node) = self.tree.descend(self.nodes, reference, node, index)?;
                self.retire(&child, &child_node);
                Ok(Run::of_node(&child_node))
            }
        }
    }

    /// Cuts a run into nodes, writes them, and appends their items for the level above.
    fn write_run<'a>(&self, run: &Run<'_>, pieces_min: usize, out: &mut Vec<Source<'a>>) -> Result<()> {
        for range in run.cuts(self.capacity(), pieces_min) {
            let items = run.items.get(range).unwrap_or_default();
            out.push(Source::Child(Box::new(self.write(run.level, items, run.birth, &[])?)));
        }
        Ok(())
    }

    /// Writes one node. Its birth is raised to that of anything it refers to (INV-02).
    fn write(&self, level: u8, items: &[Source<'_>], birth: Hlc, blob: &[u8]) -> Result<NewChild> {
        let mut builder = NodeBuilder::new(self.tree.kind, level, birth, self.tree.owner);
        builder.set_root_blob(blob).map_err(damaged)?;
        let mut summary = ChildSummary { totals: Totals::ZERO, items: 0 };
        let mut flags = 0;
        let mut references = Vec::new();
        for item in items {
            item.references(&mut references);
            builder.push(item.key(), item.value(), &references).map_err(damaged)?;
            for reference in &references {
                builder.raise_birth(reference.birth);
            }
            if level == 0 {
                let (totals, item_flags) = (self.tree.summarize)(item.value(), &references).map_err(damaged)?;
                summary.totals = summary.totals.add(totals);
                summary.items = summary.items.wrapping_add(1);
                flags |= item_flags;
            } else {
                let child = ChildSummary::decode(item.value()).map_err(damaged)?;
                summary.totals = summary.totals.add(child.totals);
                summary.items = summary.items.wrapping_add(child.items);
                flags |= references.iter().fold(0, |flags, reference| flags | reference.flags);
            }
        }
        let reference = self.nodes.append(self.batch, self.tree.kind, flags, builder)?;
        let first_key = items.first().map(|item| item.key().to_vec()).unwrap_or_default();
        Ok(NewChild { first_key, reference, summary, encoded_summary: summary.encode() })
    }

    /// Writes the root, after taking levels away or adding them.
    fn finish(&mut self, mut run: Run<'_>, blob: &[u8]) -> Result<NewChild> {
        let capacity = self.capacity() - blob.len();
        while run.level > 0 {
            let Some(below) = self.lone_child(&run, capacity)? else { break };
            run = Run { birth: run.birth.max(below.birth), ..below };
        }
        while run.bytes > capacity {
            let mut items = Vec::new();
            self.write_run(&run, 2, &mut items)?;
            let level = run.level.checked_add(1).ok_or_else(|| damaged(level_error(run.level)))?;
            run = Run::new(level, items, run.birth, run.sequential);
        }
        self.write(run.level, &run.items, run.birth, blob)
    }

    /// The items of a root's only child, if they fit in the root.
    fn lone_child<'a>(&mut self, run: &Run<'_>, capacity: usize) -> Result<Option<Run<'a>>> {
        let [only] = run.items.as_slice() else { return Ok(None) };
        let mut references = Vec::new();
        only.references(&mut references);
        let Some(child) = references.first() else { return Ok(None) };
        let node = self.nodes.read(child, self.tree.kind)?;
        if node.header().level + 1 != run.level {
            return Err(damaged_in(child.oid)(level_error(node.header().level)));
        }
        let below = Run::of_node(&node);
        if below.bytes > capacity {
            return Ok(None);
        }
        if let Source::Stored(..) = only {
            self.retire(child, &node); // one written by this pass is dead space, known to no batch
        }
        Ok(Some(below))
    }
}

/// Items of a new tree, and their largest birth.
fn new_items(changes: &[Change]) -> (Vec<Source<'_>>, Hlc) {
    let mut birth = Hlc::ZERO;
    let mut items = Vec::with_capacity(changes.len());
    for change in changes {
        if let Some(item) = &change.item {
            birth = birth.max(birth_of(change, item));
            items.push(Source::Changed(change, item));
        }
    }
    (items, birth)
}

/// Birth of what a change leads to: its own, and never less than that of what it refers to.
fn birth_of(change: &Change, item: &super::Item) -> Hlc {
    item.references.iter().fold(change.birth, |birth, reference| birth.max(reference.birth))
}

fn too_large(what: &'static str, bytes: usize, limit: usize) -> Error {
    Error::Store(StoreError::TooLarge { what, bytes: bytes as u64, limit: limit as u64 })
}

fn level_error(level: u8) -> LayoutError {
    LayoutError::Field { structure: "node", field: "level", found: level.into() }
}

fn lost_part() -> Error {
    damaged(LayoutError::Field { structure: "node", field: "part", found: 0 })
}
