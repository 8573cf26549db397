//! The tree against a `BTreeMap`, and its sharing against [`MemoryStore`], which counts every edge again at each publish.

use super::*;
use crate::api::Error;
use envoyfs_engine::StoreError;
use envoyfs_engine::memory::MemoryStore;
use envoyfs_engine::store::{Batch, Changes, Draft, Gone, Need, Roots, Store, Tier};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

type Map = BTreeMap<Vec<u8>, Item>;

/// The first byte counts as bytes, the second as flags; an item is a file.
fn sum(value: &[u8], _: &[Reference]) -> std::result::Result<(Totals, u8), LayoutError> {
    let byte = |at: usize| value.get(at).copied().unwrap_or(0);
    Ok((Totals { bytes: byte(0).into(), files: 1, ..Totals::ZERO }, byte(1) & 7))
}

fn small_tree(kind: TreeKind, node_bytes_max: usize) -> Tree {
    Tree { kind, owner: Owner { realm: 1, inode: 2 }, summarize: sum, node_bytes_max }
}

struct World {
    store: Arc<MemoryStore>,
    nodes: Nodes,
    tree: Tree,
    sides: Vec<Side>,
    gone: Vec<Gone>,
}

/// A tree that is a root, and what it should hold.
#[derive(Clone)]
struct Side {
    root: Reference,
    share: Hlc,
    blob: Vec<u8>,
    expected: Map,
}

impl World {
    fn new(tree: Tree) -> Self {
        let store = Arc::new(MemoryStore::default());
        let nodes = Nodes::new(store.clone(), 64 << 10);
        let mut world = Self { store, nodes, tree, sides: Vec::new(), gone: Vec::new() };
        let birth = world.record().birth();
        let applied = world
            .tree
            .apply(&world.nodes, Batch::Current, Hlc::ZERO, None, b"blob", birth, &[], &mut world.gone)
            .unwrap();
        assert_eq!((applied.totals, applied.items), (Totals::ZERO, 0));
        world.sides.push(Side { root: applied.root, share: Hlc::ZERO, blob: b"blob".to_vec(), expected: Map::new() });
        world
    }
    /// HLC of a record.
    fn record(&mut self) -> Hlc {
        let need = Need { log_bytes: 0, node_bytes: 0, payload_bytes: 0, data_bytes: 0, tier: Tier::Writer };
        let mut permit = self.store.reserve(need).unwrap();
        let draft = Draft { kind: 256, territory: 1, origin: None, data: &[], body: &[] };
        self.store.append(&mut permit, draft).unwrap().hlc
    }
    fn extent(&mut self, birth: Hlc) -> Reference {
        let object = self.store.append_payload(Batch::Current, birth, &[1]).unwrap();
        Reference::extent(object.oid, birth, object.stored_bytes)
    }
    fn apply(&mut self, side: usize, blob: Option<Vec<u8>>, changes: Vec<Change>) {
        let birth = self.record().birth();
        let mut at = self.sides[side].clone();
        if let Some(blob) = blob {
            at.blob = blob;
        }
        let before = self.tree_nodes(&at.root);
        let mut gone = Vec::new();
        let applied = self
            .tree
            .apply(&self.nodes, Batch::Current, at.share, Some(&at.root), &at.blob, birth, &changes, &mut gone)
            .unwrap();
        self.check_sharing(&before, &applied.root, at.share, &gone);
        self.gone.append(&mut gone);
        for change in changes {
            match change.item {
                Some(item) => at.expected.insert(change.key, item),
                None => at.expected.remove(&change.key),
            };
        }
        at.root = applied.root;
        let (totals, flags) = at.expected.values().fold((Totals::ZERO, 0), |(totals, flags), item| {
            let (more, flag) = sum(&item.value, &[]).unwrap();
            (totals.add(more), flags | flag)
        });
        assert_eq!((applied.totals, applied.items), (totals, at.expected.len() as u64));
        assert_eq!(self.tree.sum(&self.nodes, &at.root).unwrap(), (totals, at.expected.len() as u64));
        assert_eq!(at.root.flags, flags);
        self.sides[side] = at;
    }
    fn tree_nodes(&self, root: &Reference) -> BTreeMap<Oid, Hlc> {
        let node = self.nodes.read(root, self.tree.kind).unwrap();
        let mut out = BTreeMap::from([(root.oid, root.birth)]);
        if node.header().level > 0 {
            out.extend((0..node.len()).flat_map(|index| self.tree_nodes(&node.child(index).unwrap().0)));
        }
        out
    }
    /// `gone` is exactly what left the tree and is exclusive; what is new is exclusive (all changes came after the share time).
    fn check_sharing(&self, before: &BTreeMap<Oid, Hlc>, root: &Reference, share: Hlc, gone: &[Gone]) {
        let after = self.tree_nodes(root);
        let left = before.iter().filter(|(oid, birth)| !after.contains_key(oid) && birth.exclusive(share));
        let mut found: Vec<Oid> = gone.iter().map(|gone| gone.node.oid).collect();
        found.sort_unstable();
        assert_eq!(found, left.map(|(oid, _)| *oid).collect::<Vec<_>>(), "INV-07");
        for (oid, birth) in &after {
            assert!(
                before.contains_key(oid) || birth.exclusive(share),
                "new node {oid} born {birth:?}, share {share:?}"
            );
        }
    }
    /// Changes of keys (by number) with values made from a seed; every third item refers to an extent.
    fn changes(&mut self, changes: &[(u16, Option<(u8, u16)>)]) -> Vec<Change> {
        let mut out = BTreeMap::new();
        for (key, value) in changes {
            let birth = self.record().birth();
            let item = value.map(|(seed, len)| Item {
                value: vec![seed; len.into()],
                references: if seed % 3 == 0 { vec![self.extent(birth)] } else { Vec::new() },
            });
            let key = key.to_be_bytes().to_vec();
            out.insert(key.clone(), Change { key, item, birth });
        }
        out.into_values().collect()
    }
    fn fork(&mut self, side: usize) {
        let share = self.record();
        self.sides[side].share = share;
        let copy = self.sides[side].clone();
        self.sides.push(copy);
    }
    fn publish(&mut self) {
        let frozen = self.store.freeze().unwrap();
        let references = self.sides.iter().map(|side| side.root).collect();
        let changes = Changes { gone: std::mem::take(&mut self.gone), freed: Vec::new() };
        self.store.publish(frozen, Roots { references, blob: Vec::new() }, changes).unwrap();
    }
    fn check(&self) {
        for side in &self.sides {
            let mut found = Map::new();
            let mut collect = |key: &[u8], item: &Item| {
                found.insert(key.to_vec(), item.clone());
                ControlFlow::Continue(())
            };
            self.tree.range(&self.nodes, &side.root, Bound::Unbounded, &mut collect).unwrap();
            assert_eq!(found, side.expected);
            assert_eq!(self.tree.root_blob(&self.nodes, &side.root).unwrap(), side.blob);
            self.check_nodes(&side.root, true);
        }
    }
    /// Sizes, births, levels, and that only the root has a blob. Number of leaves and their bytes.
    fn check_nodes(&self, reference: &Reference, root: bool) -> (usize, usize) {
        let node = self.nodes.read(reference, self.tree.kind).unwrap();
        assert!(reference.stored_bytes as usize <= self.tree.node_bytes_max, "{} bytes", reference.stored_bytes);
        assert!(root || (node.blob().is_empty() && !node.is_empty()));
        assert_eq!(node.header().birth, reference.birth);
        for edge in node.edges() {
            assert!(edge.birth <= reference.birth, "INV-02");
        }
        if node.header().level == 0 {
            return (1, node.header().total_bytes as usize);
        }
        (0..node.len()).fold((0, 0), |(leaves, bytes), index| {
            let (child, below) = self.tree.descend(&self.nodes, reference, &node, index).unwrap();
            assert!(index == 0 || node.key(index) <= below.key(0));
            let (more, more_bytes) = self.check_nodes(&child, false);
            (leaves + more, bytes + more_bytes)
        })
    }
    fn height(&self, side: usize) -> u8 {
        self.nodes.read(&self.sides[side].root, self.tree.kind).unwrap().header().level + 1
    }
}

#[derive(Clone, Debug)]
enum Step {
    Apply(prop::sample::Index, Option<Vec<u8>>, Vec<(u16, Option<(u8, u16)>)>),
    Fork(prop::sample::Index),
    Delete(prop::sample::Index),
    Publish,
}

fn any_changes() -> impl Strategy<Value = Vec<(u16, Option<(u8, u16)>)>> {
    let value = || proptest::option::weighted(0.6, (any::<u8>(), 2_u16..250));
    prop_oneof![
        6 => vec((0_u16..400, value()), 0..12),
        2 => vec((0_u16..400, value()), 50..300),
        1 => vec((0_u16..400, Just(None)), 100..400),
        1 => (0_u16..300, vec((any::<u8>(), 2_u16..250), 1..80)).prop_map(|(first, values)| {
            values.into_iter().zip(first..).map(|(value, key)| (key, Some(value))).collect()
        }),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let blob = proptest::option::weighted(0.1, vec(any::<u8>(), 0..300));
    prop_oneof![
        6 => (any::<prop::sample::Index>(), blob, any_changes()).prop_map(|(side, blob, changes)| Step::Apply(side, blob, changes)),
        1 => any::<prop::sample::Index>().prop_map(Step::Fork),
        1 => any::<prop::sample::Index>().prop_map(Step::Delete),
        3 => Just(Step::Publish),
    ]
}

fn run(steps: Vec<Step>, kind: TreeKind, every: bool) {
    let mut world = World::new(small_tree(kind, 1024));
    for step in steps {
        match step {
            Step::Apply(side, blob, changes) => {
                let side = side.index(world.sides.len());
                let changes = world.changes(&changes);
                world.apply(side, blob, changes);
            }
            Step::Fork(side) if world.sides.len() < 5 => {
                let side = side.index(world.sides.len());
                world.fork(side);
            }
            Step::Delete(side) if world.sides.len() > 1 => {
                let side = side.index(world.sides.len());
                world.sides.swap_remove(side);
            }
            Step::Publish => world.publish(),
            Step::Fork(_) | Step::Delete(_) => {}
        }
        if every {
            world.publish();
        }
        world.check();
    }
    world.publish();
    world.store.assert_quiescent();
    while !world.sides.is_empty() {
        world.sides.remove(world.sides.len() / 2);
        world.publish();
        world.store.assert_quiescent();
        world.check();
    }
    assert_eq!(world.store.stored_objects(), (0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn a_tree_and_its_forks_hold_what_they_should_and_leak_nothing(steps in vec(any_step(), 1..40), every: bool) {
        run(steps, TreeKind::Directory, every);
    }
    #[test]
    fn a_growing_tree_and_its_forks_leak_nothing(steps in vec(any_step(), 1..40), every: bool) {
        run(steps, TreeKind::Extents, every);
    }
    #[test]
    fn look_ups_and_ranges_agree_with_a_map(changes in any_changes(), more in any_changes(), probe in 0_u16..410) {
        let mut world = World::new(small_tree(TreeKind::Directory, 1024));
        for changes in [changes, more] {
            let changes = world.changes(&changes);
            world.apply(0, None, changes);
        }
        let Side { root, expected, .. } = &world.sides[0];
        let key = probe.to_be_bytes().to_vec();
        let found = world.tree.get(&world.nodes, root, &key).unwrap();
        prop_assert_eq!(found.as_ref(), expected.get(&key));
        for from in [Bound::Included(key.as_slice()), Bound::Excluded(key.as_slice())] {
            let mut found = Vec::new();
            world.tree.range(&world.nodes, root, from, &mut |key, _| {
                found.push(key.to_vec());
                if found.len() == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }).unwrap();
            let wanted: Vec<_> = expected.range::<[u8], _>((from, Bound::Unbounded)).map(|(key, _)| key.clone()).take(5).collect();
            prop_assert_eq!(found, wanted);
        }
    }
}

fn keys(range: std::ops::Range<u16>) -> Vec<(u16, Option<(u8, u16)>)> {
    range.map(|key| (key, Some((1, 40)))).collect()
}

#[test]
fn a_change_of_one_key_writes_one_node_a_level() {
    let mut world = World::new(small_tree(TreeKind::Directory, 1024));
    let changes = world.changes(&keys(0..3000));
    world.apply(0, None, changes);
    world.publish();
    assert!(world.height(0) >= 4);
    let (before, _) = world.store.stored_objects();
    world.fork(0);
    let changes = world.changes(&[(1500, Some((2, 40)))]);
    world.apply(1, None, changes);
    world.publish();
    let (after, _) = world.store.stored_objects();
    assert_eq!(after - before, usize::from(world.height(0)));
}

#[test]
fn changes_that_change_nothing_write_nothing() {
    let mut world = World::new(small_tree(TreeKind::Directory, 1024));
    let changes = world.changes(&keys(0..500));
    world.apply(0, None, changes.clone());
    let before = world.sides[0].root;
    let absent = world.changes(&[(700, None), (701, None)]);
    world.apply(0, None, absent);
    world.apply(0, None, changes);
    assert_eq!(world.sides[0].root, before);
}

#[test]
fn appended_keys_fill_their_nodes() {
    let mut world = World::new(small_tree(TreeKind::Extents, 1024));
    for first in 0..300 {
        let changes = world.changes(&keys(first * 10..first * 10 + 10));
        world.apply(0, None, changes);
    }
    let (leaves, bytes) = world.check_nodes(&world.sides[0].root.clone(), true);
    assert!(bytes > leaves * 900, "{bytes} bytes in {leaves} leaves");
}

#[test]
fn nodes_are_merged_when_keys_are_removed() {
    let mut world = World::new(small_tree(TreeKind::Directory, 1024));
    let changes = world.changes(&keys(0..3000));
    world.apply(0, None, changes);
    for residue in 0..10 {
        let removed: Vec<_> = (0..3000).filter(|key| key % 11 == residue).map(|key| (key, None)).collect();
        let changes = world.changes(&removed);
        world.apply(0, None, changes);
        world.publish();
    }
    let (leaves, bytes) = world.check_nodes(&world.sides[0].root.clone(), true);
    assert!(bytes > leaves * 350, "{bytes} bytes in {leaves} leaves");
    let all: Vec<_> = (0..3000).map(|key| (key, None)).collect();
    let changes = world.changes(&all);
    world.apply(0, None, changes);
    assert_eq!(world.height(0), 1);
    world.publish();
    world.store.assert_quiescent();
    assert_eq!(world.store.stored_objects(), (1, 0));
    world.check();
}

#[test]
fn the_other_half_of_a_split_after_a_fork_belongs_to_this_side() {
    // A leaf shared with a fork splits because of one key. The half without the key is new as well: when it is replaced, it must be freed, or it leaks what it refers to.
    let mut world = World::new(small_tree(TreeKind::Directory, 1024));
    let changes = world.changes(&(0..20).map(|key| (key, Some((3, 10)))).collect::<Vec<_>>());
    world.apply(0, None, changes);
    world.publish();
    world.fork(0);
    let changes = world.changes(&[(100, Some((1, 240))), (101, Some((1, 240)))]);
    world.apply(0, None, changes);
    world.publish();
    let changes = world.changes(&[(0, None)]);
    world.apply(0, None, changes);
    world.publish();
    world.store.assert_quiescent();
    world.check();
}

#[test]
fn large_items_fit_and_larger_ones_are_refused() {
    let mut world = World::new(small_tree(TreeKind::Directory, NODE_BYTES_MAX));
    let changes = world.changes(&(0..20).map(|key| (key, Some((1, 6000)))).collect::<Vec<_>>());
    world.apply(0, Some(vec![7; 1500]), changes);
    world.check();
    let changes = world.changes(&[(5, Some((1, 17_000)))]);
    let root = world.sides[0].root;
    let refused = world.tree.apply(
        &world.nodes,
        Batch::Current,
        Hlc::ZERO,
        Some(&root),
        b"",
        Hlc::ZERO,
        &changes,
        &mut world.gone,
    );
    assert!(matches!(refused, Err(Error::Store(StoreError::TooLarge { .. }))));
    world.publish();
    world.check();
}

#[test]
fn a_node_of_another_tree_is_refused() {
    let world = World::new(small_tree(TreeKind::Directory, 1024));
    let root = world.sides[0].root;
    assert!(small_tree(TreeKind::Links, 1024).get(&world.nodes, &root, b"a").is_err());
    let fresh = Nodes::new(world.store.clone(), 1024);
    assert!(small_tree(TreeKind::Links, 1024).get(&fresh, &root, b"a").is_err());
}

#[test]
fn the_cache_stays_below_its_limit() {
    let mut world = World::new(small_tree(TreeKind::Directory, 1024));
    let changes = world.changes(&keys(0..5000));
    world.apply(0, None, changes);
    world.check();
    assert!(world.nodes.cached_bytes() <= 64 << 10, "INV-35: {}", world.nodes.cached_bytes());
}
