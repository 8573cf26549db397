//! Objects, their counts by the batch law, and the recount from scratch that must agree.

use crate::store::{Changes, DataObject, FreedRange, Frozen, Gone, Roots};
use envoyfs_layout::key::{RealmItemKind, RealmKey};
use envoyfs_layout::node::{NodeItem, NodeView, TreeKind};
use envoyfs_layout::{Body, Entry, Hlc, Inode, Oid, Slice, UNIT};
use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

/// Where an object is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// Data that no record names yet.
    Unnamed,
    /// In a batch that is not published.
    Unstored(u64),
    /// In a published batch.
    Stored,
    /// Freed by the checkpoint last published: readers that were on their way may still finish.
    Freed,
}

/// An object.
#[derive(Clone, Debug)]
pub(super) struct Object {
    bytes: Arc<[u8]>,
    birth: Hlc,
    /// Distinct objects that a node refers to; none for data.
    edges: Option<Vec<Oid>>,
    life: Life,
    /// Units freed by operations.
    freed: HashSet<u32>,
}

impl Object {
    pub fn data(bytes: Arc<[u8]>) -> Self {
        Self { bytes, birth: Hlc::ZERO, edges: None, life: Life::Unnamed, freed: HashSet::new() }
    }
    pub fn node(bytes: Arc<[u8]>, birth: Hlc, edges: Vec<Oid>, batch: u64) -> Self {
        Self { bytes, birth, edges: Some(edges), life: Life::Unstored(batch), freed: HashSet::new() }
    }
    fn units(&self) -> u32 {
        u32::try_from(self.bytes.len() / UNIT as usize).unwrap_or(u32::MAX)
    }
}

/// All objects and what the published checkpoint says of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Objects {
    all: HashMap<Oid, Object>,
    /// References to each stored object.
    counts: HashMap<Oid, i64>,
    /// Objects whose count fell to zero.
    drops: VecDeque<Oid>,
    roots: Roots,
    number: u64,
}

impl Objects {
    pub fn insert(&mut self, oid: Oid, object: Object) {
        assert!(self.all.insert(oid, object).is_none(), "INV-16: object id {oid} is used twice");
    }
    /// Bytes of an object that is about to be named.
    pub fn unnamed(&self, oid: Oid) -> Arc<[u8]> {
        match self.all.get(&oid) {
            Some(object) if object.life == Life::Unnamed => object.bytes.clone(),
            other => panic!("a record names {oid}, which is {:?}", other.map(|object| object.life)),
        }
    }
    /// A record names a data object: it is in a batch from now on, as an object of its own or as the growth of another.
    pub fn name(&mut self, data: &DataObject, birth: Hlc, batch: u64) {
        let Some(base_oid) = data.extends else {
            let Some(object) = self.all.get_mut(&data.oid) else { panic!("a record names {}, which is not", data.oid) };
            object.birth = birth;
            object.life = Life::Unstored(batch);
            return;
        };
        let Some(growth) = self.all.remove(&data.oid) else { panic!("a record names {}, which is not", data.oid) };
        let Some(base) = self.all.get_mut(&base_oid) else { panic!("{} extends {base_oid}, which is not", data.oid) };
        assert_eq!(base.life, Life::Unstored(batch), "{} extends {base_oid} of another batch", data.oid);
        let end = u64::from(base_oid.slot()) + u64::from(base.units());
        assert_eq!(
            (base_oid.segment(), end),
            (data.oid.segment(), data.oid.slot().into()),
            "{} extends {base_oid}, which does not end there",
            data.oid
        );
        base.bytes = [&base.bytes[..], &growth.bytes[..]].concat().into();
        base.birth = base.birth.max(birth);
    }
    pub fn abandon(&mut self, oid: Oid) {
        let life = self.all.remove(&oid).map(|object| object.life);
        assert_eq!(life, Some(Life::Unnamed), "only data that no record names is given up ({oid})");
    }
    pub fn read(&self, oid: Oid) -> Option<Arc<[u8]>> {
        self.all.get(&oid).map(|object| object.bytes.clone())
    }
    /// A new node may only refer to what lives.
    pub fn assert_alive(&self, oid: Oid, from: Oid) {
        let life = self.all.get(&oid).map(|object| object.life);
        assert!(
            matches!(life, Some(Life::Stored | Life::Unstored(_))),
            "INV-09: node {from} refers to {oid}, which is {life:?}"
        );
        assert!(!self.drops.contains(&oid), "INV-09: node {from} refers to {oid}, whose count is zero");
    }
    pub fn live_bytes(&self) -> u64 {
        let live = self.all.values().filter(|object| object.life != Life::Freed);
        live.map(|object| object.bytes.len() as u64 - object.freed.len() as u64 * u64::from(UNIT)).sum()
    }
    /// Stored objects, and how many of them wait to be dropped.
    pub fn stored(&self) -> (usize, usize) {
        (self.counts.len(), self.drops.len())
    }
    /// Objects with several references.
    pub fn shared(&self) -> u64 {
        self.counts.values().filter(|count| **count > 1).count() as u64
    }
    pub const fn published_number(&self) -> u64 {
        self.number
    }
    pub const fn roots(&self) -> &Roots {
        &self.roots
    }
    /// What a mount finds: the published state alone.
    pub fn published(&self) -> Self {
        let mut out = self.clone();
        out.all.retain(|_, object| object.life == Life::Stored);
        out
    }

    /// Nobody reads what was freed any more.
    pub fn forget_freed(&mut self) {
        self.all.retain(|_, object| object.life != Life::Freed);
    }

    /// The batch law (INV-06 to INV-12), then the recount.
    pub fn publish(&mut self, frozen: &Frozen, roots: Roots, changes: Changes, drops: usize) {
        let new = self.new_objects(frozen, &roots);
        let mut deltas: HashMap<Oid, i64> = HashMap::new();
        for reference in &roots.references {
            *deltas.entry(reference.oid).or_default() += 1;
        }
        for reference in &self.roots.references {
            *deltas.entry(reference.oid).or_default() -= 1;
        }
        for oid in &new {
            *deltas.entry(*oid).or_default() -= 1;
            for edge in self.edges(*oid) {
                *deltas.entry(edge).or_default() += 1;
            }
        }
        let gone = self.gone(&changes.gone, &new, &mut deltas);
        self.store_new(frozen, &new);
        for oid in gone {
            let delta = deltas.remove(&oid).unwrap_or(0);
            let count = self.counts.get(&oid).copied();
            assert_eq!((count, delta), (Some(1), -1), "INV-08: {oid} was freed at once: (count before, delta)");
            self.free(oid);
        }
        for (oid, delta) in deltas {
            self.count(oid, delta);
        }
        for range in changes.freed {
            self.free_range(&range);
        }
        self.roots = roots;
        self.number = frozen.number;
        self.drop_some(drops);
        self.recount();
    }

    /// Unstored objects that the new roots reach, through unstored objects.
    fn new_objects(&self, frozen: &Frozen, roots: &Roots) -> HashSet<Oid> {
        let mut new = HashSet::new();
        let mut rest: Vec<(Oid, Hlc)> = roots.references.iter().map(|root| (root.oid, Hlc(u64::MAX))).collect();
        while let Some((oid, parent_birth)) = rest.pop() {
            let Some(object) = self.all.get(&oid) else { panic!("INV-09: the new tree refers to {oid}, which is not") };
            assert!(object.birth <= parent_birth, "INV-02: {oid} is younger than what refers to it");
            match object.life {
                Life::Stored => continue,
                Life::Unstored(batch) => {
                    assert!(batch <= frozen.number, "INV-17: the frozen tree refers to {oid} of the current batch");
                }
                Life::Unnamed | Life::Freed => panic!("INV-09: the new tree refers to {oid}, {:?}", object.life),
            }
            assert!(object.birth <= frozen.hlc.birth(), "INV-03: {oid} was born after the freeze");
            if new.insert(oid) {
                rest.extend(self.edges(oid).into_iter().map(|edge| (edge, object.birth)));
            }
        }
        new
    }

    fn gone(&self, gone: &[Gone], new: &HashSet<Oid>, deltas: &mut HashMap<Oid, i64>) -> Vec<Oid> {
        let mut out = Vec::new();
        let mut seen = HashSet::new();
        for one in gone {
            let oid = one.node.oid;
            assert!(seen.insert(oid), "INV-08: {oid} is gone twice");
            assert!(!new.contains(&oid), "INV-08: {oid} is gone and in the new tree");
            let Some(object) = self.all.get(&oid) else { continue };
            if object.life != Life::Stored {
                continue;
            }
            let mut edges: Vec<Oid> = one.edges.iter().map(|edge| edge.oid).collect();
            edges.sort_unstable();
            assert_eq!(edges, self.edges(oid), "INV-07: edges of {oid}");
            for edge in edges {
                *deltas.entry(edge).or_default() -= 1;
            }
            out.push(oid);
        }
        out
    }

    /// Objects of the batches become stored, with the one reference that every delta is relative to; what is not reached is dead at once.
    fn store_new(&mut self, frozen: &Frozen, new: &HashSet<Oid>) {
        let counts = &mut self.counts;
        self.all.retain(|oid, object| match object.life {
            Life::Unstored(batch) if batch <= frozen.number => {
                if new.contains(oid) {
                    object.life = Life::Stored;
                    counts.insert(*oid, 1);
                } else {
                    object.life = Life::Freed;
                }
                true
            }
            _ => true,
        });
    }

    fn count(&mut self, oid: Oid, delta: i64) {
        if delta == 0 {
            return;
        }
        let Some(count) = self.counts.get_mut(&oid) else { panic!("INV-08: {delta} for {oid}, which is freed") };
        *count += delta;
        assert!(*count >= 0, "INV-06: count of {oid} is {count}");
        if *count == 0 {
            self.drops.push_back(oid);
        }
    }

    fn free(&mut self, oid: Oid) {
        self.counts.remove(&oid);
        if let Some(object) = self.all.get_mut(&oid) {
            object.life = Life::Freed;
        }
    }

    fn drop_some(&mut self, limit: usize) {
        for _ in 0..limit {
            let Some(oid) = self.drops.pop_front() else { return };
            assert_eq!(self.counts.get(&oid), Some(&0), "INV-09: {oid} is in the drop queue");
            let edges = self.edges(oid);
            self.free(oid);
            for edge in edges {
                self.count(edge, -1);
            }
        }
    }

    fn free_range(&mut self, range: &FreedRange) {
        let Some(object) = self.all.get_mut(&range.oid) else { return };
        if object.life == Life::Freed {
            return;
        }
        assert_eq!(object.life, Life::Stored, "INV-10: a range of {} is freed before it is stored", range.oid);
        assert!(object.edges.is_none(), "INV-10: a range of the node {}", range.oid);
        assert!(range.units.end <= object.units(), "INV-10: {range:?} is outside the extent");
        for unit in range.units.clone() {
            assert!(object.freed.insert(unit), "INV-10: unit {unit} of {} is freed twice", range.oid);
        }
    }

    /// Every edge of every stored object and root, counted again (INV-06); what is reachable lives (INV-09); freed ranges are unreferenced (INV-10).
    fn recount(&self) {
        let mut counts: HashMap<Oid, i64> = HashMap::new();
        for root in &self.roots.references {
            *counts.entry(root.oid).or_default() += 1;
        }
        for (oid, object) in &self.all {
            if object.life == Life::Stored {
                counts.entry(*oid).or_default();
                for edge in self.edges(*oid) {
                    *counts.entry(edge).or_default() += 1;
                }
            }
        }
        for (oid, count) in &counts {
            assert_eq!(self.counts.get(oid), Some(count), "INV-06: {oid}: (kept count, edges counted again)");
        }
        assert_eq!(self.counts.len(), counts.len(), "INV-06: objects");
        for oid in self.reachable() {
            let life = self.all.get(&oid).map(|object| object.life);
            assert_eq!(life, Some(Life::Stored), "INV-09: {oid} is reachable");
        }
        for (oid, units) in self.slices() {
            let Some(object) = self.all.get(&oid) else { panic!("INV-09: a slice refers to {oid}, which is not") };
            assert!(
                units.end <= object.units(),
                "a slice refers to units {units:?} of {oid}, which has {}",
                object.units()
            );
            if let Some(unit) = units.clone().find(|unit| object.freed.contains(unit)) {
                panic!("INV-10: unit {unit} of {oid} is freed, and referenced by a slice of units {units:?}");
            }
        }
    }

    fn reachable(&self) -> HashSet<Oid> {
        let mut seen = HashSet::new();
        let mut rest: Vec<Oid> = self.roots.references.iter().map(|root| root.oid).collect();
        while let Some(oid) = rest.pop() {
            if seen.insert(oid) {
                rest.extend(self.edges(oid));
            }
        }
        seen
    }

    /// Units that slices in reachable leaves refer to.
    fn slices(&self) -> Vec<(Oid, Range<u32>)> {
        let mut out = Vec::new();
        for oid in self.reachable() {
            let Some(object) = self.all.get(&oid).filter(|object| object.edges.is_some()) else { continue };
            let Ok(view) = NodeView::parse(&object.bytes) else { continue };
            if view.header().level > 0 {
                continue;
            }
            for item in view.items() {
                slices_of(&view, &item, &mut out);
            }
        }
        out
    }

    fn edges(&self, oid: Oid) -> Vec<Oid> {
        self.all.get(&oid).and_then(|object| object.edges.clone()).unwrap_or_default()
    }

    /// As if a client had kept a reference that no root leads to.
    #[cfg(test)]
    pub fn leak_for_test(&mut self, oid: Oid) {
        let looped = self.edges(oid);
        if let Some(object) = self.all.get_mut(&oid) {
            object.edges = Some([looped, vec![oid]].concat());
        }
        self.count(oid, 1);
    }

    pub fn assert_quiescent(&mut self) {
        self.drop_some(usize::MAX);
        self.recount();
        let reachable = self.reachable();
        let leaked: Vec<&Oid> = self.counts.keys().filter(|oid| !reachable.contains(oid)).collect();
        assert!(leaked.is_empty(), "INV-12: {} objects are stored and unreachable: {leaked:?}", leaked.len());
        assert_eq!(reachable.len(), self.counts.len(), "INV-12: reachable and stored objects");
    }

    pub fn assert_ranges_exact(&self) {
        let mut referenced: HashSet<(Oid, u32)> = HashSet::new();
        for (oid, units) in self.slices() {
            referenced.extend(units.map(|unit| (oid, unit)));
        }
        for (oid, object) in &self.all {
            if object.life != Life::Stored || object.edges.is_some() {
                continue;
            }
            let lost =
                (0..object.units()).find(|unit| !object.freed.contains(unit) && !referenced.contains(&(*oid, *unit)));
            assert_eq!(lost, None, "INV-11: unit of {oid} that is neither referenced nor freed");
        }
    }
}

/// Slices in an item of a leaf, as far as its value can be understood here.
fn slices_of(view: &NodeView<'_>, item: &NodeItem<'_>, out: &mut Vec<(Oid, Range<u32>)>) {
    let references: Vec<_> = item.reference_indexes().filter_map(|index| view.reference(index)).collect();
    let inode = match view.header().tree {
        TreeKind::Extents => {
            if let (Ok(slice), [extent]) = (Slice::decode(item.value), references.as_slice()) {
                out.push((extent.oid, slice.units()));
            }
            return;
        }
        TreeKind::Directory => match Entry::decode(item.value, &references) {
            Ok(Entry::File(inode)) => Some(inode),
            _ => None,
        },
        TreeKind::Links => Inode::decode(item.value, &references).ok(),
        TreeKind::RealmTable => match RealmKey::decode(item.key) {
            Ok(RealmKey { kind: RealmItemKind::Orphan, .. }) => Inode::decode(item.value, &references).ok(),
            _ => None,
        },
        TreeKind::TerritoryTable => None,
    };
    if let Some(Body::Slices(slices)) = inode.map(|inode| inode.body) {
        out.extend(slices.iter().map(|(slice, extent)| (extent.oid, slice.units())));
    }
}
