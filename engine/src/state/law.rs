//! The batch law (INV-06..12): what a checkpoint does to counts, computed from what is not stored yet, what left its tree, and the old and new roots.
//!
//! NEW = unstored objects reachable from the new roots through unstored objects. delta(x) = edges into x from NEW and the new roots, less edges from GONE and the old
//! roots, less 1 if x is new. What is unstored and not NEW is dead at once: it was never live. Pure: no IO, no clock; every replica computes the same (INV-39).

use crate::sabotage::{self, Rule};
use crate::store::Changes;
use envoyfs_layout::batch::{BatchObject, BatchRange, Delta};
use envoyfs_layout::{IdMap, Oid, Reference};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// An object that no published checkpoint contains.
#[derive(Clone, Debug)]
pub struct Unstored {
    /// Reference to it; its length includes growth.
    pub reference: Reference,
    /// Its distinct edges, in order of OID; none for an extent.
    pub edges: Vec<Reference>,
    /// Number of the checkpoint that it belongs to.
    pub batch: u64,
    /// A node appended refers to it: it must not grow any more.
    pub referred: bool,
    /// Pieces that were appended to it, as ids of their own; each pins its segment.
    pub pieces: u32,
}

/// What the law says.
#[derive(Debug, Default)]
pub struct Outcome {
    /// NEW, in order of OID.
    pub new: Vec<BatchObject>,
    /// GONE, in order of OID.
    pub freed: Vec<BatchObject>,
    /// Freed ranges of objects that are stored or NEW, sorted.
    pub ranges: Vec<BatchRange>,
    /// Deltas that are not 0, in order of OID.
    pub deltas: Vec<Delta>,
    /// Objects dead at once.
    pub dead: Vec<Oid>,
}

/// The client broke a rule: what and about which object. Publishing would lose data, so it is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LawError {
    /// A node given as gone is still referenced, or was not referenced once (INV-08).
    #[error("node {oid} left its tree, but its edges change by {delta} instead of -1")]
    GoneButReferenced {
        /// The node.
        oid: Oid,
        /// Change of its edges.
        delta: i64,
    },
    /// The same node twice.
    #[error("node {oid} left its tree twice")]
    GoneTwice {
        /// The node.
        oid: Oid,
    },
    /// More edges than a count can hold.
    #[error("object {oid}: change of {delta} references in one checkpoint")]
    TooManyEdges {
        /// The object.
        oid: Oid,
        /// Change.
        delta: i64,
    },
    /// Something reachable belongs to a later checkpoint.
    #[error("object {oid} of checkpoint {batch} is reachable from checkpoint {frozen}")]
    FromTheFuture {
        /// The object.
        oid: Oid,
        /// Its checkpoint.
        batch: u64,
        /// The one being made.
        frozen: u64,
    },
}

#[derive(Default)]
struct Deltas(BTreeMap<Oid, (Reference, i64)>);

impl Deltas {
    fn add(&mut self, reference: &Reference, by: i64) {
        let entry = self.0.entry(reference.oid).or_insert((*reference, 0));
        entry.1 += by;
        if reference.stored_bytes > entry.0.stored_bytes {
            entry.0 = *reference;
        }
    }
}

/// Nodes that left their tree, found by some of their edges: who shares one with a new node is probably what it replaces. Which pairs are found changes the work, never the
/// result.
struct Pairs<'a> {
    gone: Vec<Option<Vec<&'a Reference>>>,
    by_edge: IdMap<Oid, usize>,
}

impl<'a> Pairs<'a> {
    /// Edges of a node by which it is found, and that are tried.
    const SAMPLES: usize = 4;

    fn of(changes: &'a Changes, is_unstored: impl Fn(&Oid) -> bool) -> Self {
        let mut pairs = Self { gone: Vec::new(), by_edge: IdMap::default() };
        for node in changes.gone.iter().filter(|node| !is_unstored(&node.node.oid)) {
            let mut edges: Vec<&Reference> = node.edges.iter().collect();
            edges.sort_by_key(|edge| edge.oid);
            edges.dedup_by_key(|edge| edge.oid);
            for edge in edges.iter().step_by((edges.len() / Self::SAMPLES).max(1)) {
                pairs.by_edge.insert(edge.oid, pairs.gone.len());
            }
            pairs.gone.push(Some(edges));
        }
        pairs
    }

    /// Edges (in order) of the node that one with these edges seems to replace; each node is given once.
    fn take(&mut self, edges: &[Reference]) -> Vec<&'a Reference> {
        // A sample of the old one may be what was replaced, so the tries are all edges; the first nearly always hits.
        let at = edges.iter().find_map(|edge| self.by_edge.get(&edge.oid).copied());
        at.and_then(|at| self.gone.get_mut(at)?.take()).unwrap_or_default()
    }
}

/// What differs between two lists of edges in order of OID: (edge, change).
fn difference<'a>(before: &[&'a Reference], after: &'a [Reference], mut tell: impl FnMut(&'a Reference, i64)) {
    let (mut before, mut after) = (before.iter().copied().peekable(), after.iter().peekable());
    loop {
        match (before.peek(), after.peek()) {
            (Some(old), Some(new)) if old == new => {
                before.next();
                after.next();
            }
            (Some(old), Some(new)) if old.oid <= new.oid => {
                tell(old, -1);
                before.next();
            }
            (_, Some(new)) => {
                tell(new, 1);
                after.next();
            }
            (Some(old), None) => {
                tell(old, -1);
                before.next();
            }
            (None, None) => return,
        }
    }
}

/// Computes the batch of checkpoint `frozen`.
pub fn compute<S: std::hash::BuildHasher>(
    frozen: u64,
    unstored: &HashMap<Oid, Unstored, S>,
    old_roots: &[Reference],
    new_roots: &[Reference],
    changes: &Changes,
) -> Result<Outcome, LawError> {
    let mut new: BTreeSet<Oid> = BTreeSet::new();
    let mut stack: Vec<Oid> = new_roots.iter().map(|root| root.oid).collect();
    let mut deltas = Deltas::default();
    let is_unstored = |oid: &Oid| unstored.get(oid).is_some_and(|object| object.batch <= frozen);
    // A node that a fork of this very batch wrote was never counted: it is new or dead, not gone.
    let mut pairs = Pairs::of(changes, is_unstored);
    let oldest = unstored.keys().min().copied();
    while let Some(oid) = stack.pop() {
        let Some(object) = unstored.get(&oid) else { continue };
        if object.batch > frozen {
            return Err(LawError::FromTheFuture { oid, batch: object.batch, frozen });
        }
        if new.insert(oid) {
            deltas.add(&object.reference, -1);
            difference(&pairs.take(&object.edges), &object.edges, |edge, by| {
                let rule = if by > 0 { Rule::PlusOneDropped } else { Rule::MinusOneDropped };
                let is_dropped = sabotage::on(rule) && !unstored.contains_key(&edge.oid);
                deltas.add(edge, if is_dropped { 0 } else { by });
            });
            stack.extend(object.edges.iter().map(|edge| edge.oid).filter(|oid| Some(*oid) >= oldest));
        }
    }
    new_roots.iter().for_each(|root| deltas.add(root, 1));
    old_roots.iter().for_each(|root| deltas.add(root, -1));

    let mut gone: BTreeMap<Oid, BatchObject> = BTreeMap::new();
    for node in &changes.gone {
        let oid = node.node.oid;
        if is_unstored(&oid) {
            continue;
        }
        if gone.insert(oid, BatchObject::from(&node.node)).is_some() {
            return Err(LawError::GoneTwice { oid });
        }
    }
    for edge in pairs.gone.iter().flatten().flatten() {
        deltas.add(edge, -1);
    }
    for oid in gone.keys() {
        let delta = deltas.0.remove(oid).map_or(0, |(_, delta)| delta);
        if delta != -1 && !sabotage::on(Rule::GoneUnchecked) {
            return Err(LawError::GoneButReferenced { oid: *oid, delta });
        }
    }

    let mut dead: Vec<Oid> =
        unstored.iter().filter(|(oid, o)| o.batch <= frozen && !new.contains(oid)).map(|(oid, _)| *oid).collect();
    dead.sort_unstable();
    let mut ranges: Vec<BatchRange> = changes
        .freed
        .iter()
        .filter(|_| !sabotage::on(Rule::RangesForgotten))
        .filter(|range| range.units.start < range.units.end && (new.contains(&range.oid) || !is_unstored(&range.oid)))
        .map(|range| BatchRange {
            oid: range.oid,
            first: range.units.start,
            units: range.units.end - range.units.start,
        })
        .collect();
    ranges.sort_unstable();
    ranges.dedup();
    let deltas = deltas.0.into_iter().filter(|(_, (_, delta))| *delta != 0);
    Ok(Outcome {
        new: new.iter().filter_map(|oid| unstored.get(oid)).map(|o| BatchObject::from(&o.reference)).collect(),
        freed: gone.into_values().collect(),
        ranges,
        deltas: deltas
            .map(|(oid, (reference, delta))| {
                let delta = i32::try_from(delta).map_err(|_| LawError::TooManyEdges { oid, delta })?;
                Ok(Delta { reference, delta })
            })
            .collect::<Result<_, _>>()?,
        dead,
    })
}
