//! A small client of the engine: trees of leaves of extents, forks that share, punched ranges, growth. It keeps the rules of decision 0002 and checks the engine against what
//! it knows itself: contents, edges, reachable units.

#[path = "client/fixtures.rs"]
mod fixtures;
#[path = "client/ops.rs"]
mod ops;

use crate::hlc::ManualClock;
use crate::store::*;
use crate::{Engine, StoreError};
use envoyfs_layout::node::{NodeBuilder, NodeView, Owner, TreeKind, edges};
use envoyfs_layout::{Hlc, Lsn, Oid, Reference, ReferenceKind};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use fixtures::*;
pub use ops::{Logical, Op, Rng, Value, content};

pub const KEYS_A_LEAF: u32 = 8;

#[derive(Clone, Debug)]
enum Body {
    /// In the log and in memory until a checkpoint.
    Payload {
        birth: Hlc,
    },
    Extent {
        reference: Reference,
        crcs: Vec<u32>,
    },
}

#[derive(Clone, Debug)]
struct Slot {
    value: Value,
    body: Body,
}

#[derive(Clone, Debug, Default)]
struct Leaf {
    slots: BTreeMap<u32, Slot>,
    stored: Option<Reference>,
    dirty: Option<Hlc>,
}

#[derive(Clone, Debug, Default)]
struct Tree {
    share: Hlc,
    leaves: BTreeMap<u32, Leaf>,
    stored: Option<Reference>,
    dirty: Option<Hlc>,
}

pub struct Client {
    pub engine: Arc<Engine>,
    pub clock: Arc<ManualClock>,
    trees: BTreeMap<u32, Tree>,
    top: Option<Reference>,
    top_dirty: bool,
    changes: Changes,
    /// Logical content after each record.
    pub history: Vec<(Lsn, Logical)>,
    pub acknowledged: Lsn,
    /// A checkpoint is in flight: operations that would have to wait for another are left out.
    building: bool,
}

/// What could be reached at a moment, pinned.
pub struct Seen {
    pub pin: Pin,
    trees: BTreeMap<u32, Tree>,
    top: Option<Reference>,
}

impl Seen {
    /// Under another pin.
    pub fn of(pin: Pin, trees: Trees, top: Option<Reference>) -> Self {
        Self { pin, trees: trees.0, top }
    }

    /// Reads every byte of it, and every node.
    pub fn look(&self, engine: &Engine) -> Result<()> {
        let pin = &self.pin;
        let leaves = || self.trees.values().flat_map(|tree| tree.leaves.values());
        let nodes = leaves().filter_map(|leaf| leaf.stored).chain(self.trees.values().filter_map(|tree| tree.stored));
        for node in nodes.chain(self.top) {
            engine.read_pinned_node(pin, &node)?;
        }
        for (key, slot) in leaves().flat_map(|leaf| &leaf.slots) {
            let Body::Extent { reference, crcs } = &slot.body else { continue };
            let skip = if slot.value.punched == 0 { 0 } else { half(reference.stored_bytes) };
            let mut got = vec![0; (reference.stored_bytes - skip) as usize];
            engine.read_pinned_data(pin, reference.oid, skip, &crcs[skip as usize / 4096..], &mut got)?;
            let mut want = Vec::new();
            for (seed, len) in &slot.value.pieces {
                want.extend(content(*seed, 0, *len));
                want.resize(want.len().next_multiple_of(512), 0);
            }
            assert_eq!(got, want[skip as usize..], "key {key}");
        }
        Ok(())
    }
}

/// A client's memory.
#[derive(Clone)]
pub struct Trees(BTreeMap<u32, Tree>);

pub struct Building {
    frozen: Frozen,
    roots: Roots,
    changes: Changes,
}

impl Client {
    /// Loads what the engine recovered, verifies every byte of it, and replays.
    pub fn start(engine: impl Into<Arc<Engine>>, clock: Arc<ManualClock>) -> Client {
        let mut client = Client {
            engine: engine.into(),
            clock,
            trees: BTreeMap::new(),
            top: None,
            top_dirty: false,
            changes: Changes::default(),
            history: Vec::new(),
            acknowledged: Lsn(0),
            building: false,
        };
        let roots = client.engine.recovered_roots();
        if let Some(top) = roots.references.first() {
            client.top = Some(*top);
            client.trees = load(&client.engine, *top);
        }
        // Retained checkpoints are readable, every byte, whatever happened since.
        for root in client.engine.history().unwrap() {
            client.verify_trees(&load(&client.engine, root.roots.references[0]));
        }
        for record in client.engine.take_replay() {
            client.apply(&ops::decode(&record.body), record.hlc, record.data.first()).unwrap();
        }
        client.verify();
        client.history.push((client.engine.recovered_end(), client.logical()));
        client
    }

    /// The extent of a key and its checksums.
    pub fn extent_of(&self, tree: u32, key: u32) -> (Oid, Vec<u32>) {
        match &self.slot(tree, key).unwrap().body {
            Body::Extent { reference, crcs } => (reference.oid, crcs.clone()),
            Body::Payload { .. } => panic!("a payload"),
        }
    }

    /// Segments that a tree's extents lie in.
    pub fn segments_of(&self, tree: u32) -> BTreeSet<u32> {
        let slots = self
            .trees
            .get(&tree)
            .into_iter()
            .flat_map(|tree| tree.leaves.values().flat_map(|leaf| leaf.slots.values()));
        let extents = slots.filter_map(|slot| match &slot.body {
            Body::Extent { reference, .. } => Some(reference.oid.segment()),
            Body::Payload { .. } => None,
        });
        extents.collect()
    }

    pub fn logical(&self) -> Logical {
        logical(&self.trees)
    }

    /// Reads every byte of every key.
    pub fn verify(&self) {
        self.verify_trees(&self.trees);
    }

    /// Reads every byte under an old root, and says what it holds.
    pub fn read_root(&self, top: Reference) -> Logical {
        let trees = load(&self.engine, top);
        self.verify_trees(&trees);
        logical(&trees)
    }

    fn verify_trees(&self, trees: &BTreeMap<u32, Tree>) {
        for (id, tree) in trees {
            for (key, slot) in tree.leaves.values().flat_map(|leaf| &leaf.slots) {
                let Body::Extent { reference, crcs } = &slot.body else { continue };
                let want: Vec<u8> = slot
                    .value
                    .pieces
                    .iter()
                    .flat_map(|(seed, len)| {
                        let mut piece = content(*seed, 0, *len);
                        piece.resize(piece.len().next_multiple_of(512), 0);
                        piece
                    })
                    .collect();
                let mut got = vec![0; reference.stored_bytes as usize];
                let skip = if slot.value.punched == 0 { 0 } else { half(reference.stored_bytes) as usize };
                let blocks = &crcs[skip / 4096..];
                self.engine
                    .read_data(reference.oid, skip as u32, blocks, &mut got[skip..])
                    .unwrap_or_else(|e| panic!("tree {id} key {key} {reference:?}: {e}"));
                assert_eq!(got[skip..], want[skip..], "tree {id} key {key}");
            }
        }
    }

    /// Takes a pin, and remembers what can be reached: also what no checkpoint contains yet.
    pub fn see(&self) -> Seen {
        Seen { pin: self.engine.pin(), trees: self.trees.clone(), top: self.top }
    }

    /// What can be reached now, for whoever holds a pin that was taken before.
    pub fn parts(&self) -> (Trees, Option<Reference>) {
        (Trees(self.trees.clone()), self.top)
    }

    /// Reads every byte of it, and every node.
    pub fn look(&self, seen: &Seen) -> Result<()> {
        seen.look(&self.engine)
    }

    fn need(op: &Op) -> Need {
        let (data, payload) = match op {
            Op::Write { len, .. } | Op::Grow { len, .. } => (*len, 0),
            Op::Small { len, .. } => (0, *len),
            _ => (0, 0),
        };
        let tier = match op {
            Op::Write { .. } | Op::Small { .. } | Op::Grow { .. } => Tier::Writer,
            Op::Punch { .. } | Op::Delete { .. } | Op::Cut { .. } => Tier::Shrinking,
            Op::Fork { .. } | Op::Drop { .. } => Tier::Last,
        };
        let node_bytes = if matches!(op, Op::Fork { .. }) { 16 << 10 } else { 6 << 10 };
        Need {
            log_bytes: 64 + u64::from(payload),
            node_bytes,
            payload_bytes: payload.into(),
            data_bytes: data.into(),
            tier,
        }
    }

    /// Runs an operation; makes a checkpoint when it has to wait for one. Space errors leave everything as it was.
    pub fn run(&mut self, op: &Op) -> Result<()> {
        loop {
            match self.try_run(op) {
                Err(StoreError::WouldWait { .. }) if self.building => return Ok(()),
                Err(StoreError::WouldWait { .. }) => self.checkpoint()?,
                other => return other,
            }
        }
    }

    /// Runs an operation, unless it has to wait.
    pub fn try_run(&mut self, op: &Op) -> Result<()> {
        if !self.possible(op) {
            return Ok(());
        }
        let mut permit = self.engine.reserve(Self::need(op))?;
        let data = match op {
            Op::Write { seed, len, .. } | Op::Grow { seed, len, .. } => {
                // Where a container ends, less of a value may be taken: then the value is that.
                let hint = DataHint::default();
                let mut object = self.engine.append_part(&mut permit, &hint, &content(*seed, 0, *len))?;
                if let Op::Grow { tree, key, .. } = op {
                    let slot = &self.trees[tree].leaves[&(key / KEYS_A_LEAF)].slots[key];
                    let Body::Extent { reference, .. } = &slot.body else { unreachable!() };
                    let adjacent = object.oid.0 == reference.oid.0 + u64::from(reference.stored_bytes / 512);
                    if !adjacent || object.oid.segment() != reference.oid.segment() {
                        self.engine.abandon_data(&object);
                        return Ok(());
                    }
                    object.extends = Some(reference.oid);
                }
                vec![object]
            }
            _ => Vec::new(),
        };
        let op = &match (op.clone(), data.first()) {
            (Op::Write { tree, key, seed, len }, Some(object)) => {
                Op::Write { tree, key, seed, len: len.min(object.stored_bytes) }
            }
            (Op::Grow { tree, key, seed, len }, Some(object)) => {
                Op::Grow { tree, key, seed, len: len.min(object.stored_bytes) }
            }
            (other, _) => other,
        };
        let body = ops::encode(op);
        let appended = match self
            .engine
            .append(&mut permit, Draft { kind: 300, territory: 1, origin: None, data: &data, body: &body })
        {
            Err(StoreError::BadReference { .. }) if matches!(op, Op::Grow { .. }) => {
                // Not in this batch any more.
                self.engine.abandon_data(&data[0]);
                return Ok(());
            }
            other => other?,
        };
        // The record stands in the log, whatever comes of the rest.
        let applied = self.apply(op, appended.hlc, data.first());
        self.history.push((appended.end, self.logical()));
        applied
    }

    fn slot(&self, tree: u32, key: u32) -> Option<&Slot> {
        self.trees.get(&tree)?.leaves.get(&(key / KEYS_A_LEAF))?.slots.get(&key)
    }

    fn possible(&self, op: &Op) -> bool {
        match op {
            Op::Write { .. } | Op::Small { .. } => true,
            Op::Delete { tree, key } | Op::Cut { tree, key } => self.slot(*tree, *key).is_some(),
            Op::Punch { tree, key } => self.slot(*tree, *key).is_some_and(|slot| {
                slot.value.punched == 0 && matches!(&slot.body, Body::Extent { reference, .. } if half(reference.stored_bytes) > 0)
            }),
            Op::Grow { tree, key, len, .. } => self.slot(*tree, *key).is_some_and(|slot| {
                slot.value.punched == 0
                    && slot.value.pieces.len() < 3
                    && matches!(&slot.body, Body::Extent { reference, .. } if reference.stored_bytes % 4096 == 0 && reference.stored_bytes + len <= 64 << 10)
            }),
            Op::Fork { from, to } => self.trees.contains_key(from) && !self.trees.contains_key(to),
            Op::Drop { tree } => self.trees.contains_key(tree),
        }
    }

    fn apply(&mut self, op: &Op, hlc: Hlc, data: Option<&DataObject>) -> Result<()> {
        let birth = hlc.birth();
        match *op {
            Op::Write { tree, key, seed, len } => {
                let object = data.unwrap();
                let body = Body::Extent {
                    reference: Reference::extent(object.oid, birth, object.stored_bytes),
                    crcs: object.crcs.clone(),
                };
                self.put(tree, key, birth, Some(Slot { value: Value { pieces: vec![(seed, len)], punched: 0 }, body }));
            }
            Op::Small { tree, key, seed, len } => {
                let value = Value { pieces: vec![(seed, len)], punched: 0 };
                self.put(tree, key, birth, Some(Slot { value, body: Body::Payload { birth } }));
            }
            Op::Grow { tree, key, seed, len } => {
                let object = data.unwrap();
                let mut slot = self.slot(tree, key).unwrap().clone();
                slot.value.pieces.push((seed, len));
                if let Body::Extent { reference, crcs } = &mut slot.body {
                    reference.stored_bytes += object.stored_bytes;
                    reference.logical_bytes = reference.stored_bytes;
                    reference.birth = birth;
                    crcs.extend(&object.crcs);
                }
                self.put(tree, key, birth, Some(slot));
            }
            Op::Punch { tree, key } => {
                let share = self.trees[&tree].share;
                let mut slot = self.slot(tree, key).unwrap().clone();
                if let Body::Extent { reference, .. } = &slot.body {
                    slot.value.punched = 2;
                    if reference.birth.exclusive(share) {
                        slot.value.punched = 1;
                        let units = 0..half(reference.stored_bytes) / 512;
                        self.changes.freed.push(FreedRange { oid: reference.oid, units });
                    }
                }
                self.put(tree, key, birth, Some(slot));
            }
            Op::Delete { tree, key } => self.put(tree, key, birth, None),
            Op::Cut { tree, key } => {
                let share = self.trees[&tree].share;
                let whole = self.slot(tree, key).and_then(|slot| match &slot.body {
                    // Of a punched value the first half was freed before: an operation frees what is in use, once.
                    Body::Extent { reference, .. } if reference.birth.exclusive(share) => {
                        let first = if slot.value.punched == 1 { half(reference.stored_bytes) / 512 } else { 0 };
                        Some(FreedRange { oid: reference.oid, units: first..reference.units() })
                    }
                    _ => None,
                });
                self.changes.freed.extend(whole);
                self.put(tree, key, birth, None);
            }
            Op::Fork { from, to } => {
                let persisted = self.persist(from, Batch::Current);
                let tree = self.trees.get_mut(&from).unwrap();
                tree.share = hlc;
                let copy = tree.clone();
                self.trees.insert(to, copy);
                self.top_dirty = true;
                persisted?;
            }
            Op::Drop { tree } => {
                // Only the reference goes: the engine's drop queue takes what hangs below. What is not stored dies by itself.
                self.trees.remove(&tree);
                self.top_dirty = true;
            }
        }
        Ok(())
    }

    fn put(&mut self, tree: u32, key: u32, birth: Hlc, slot: Option<Slot>) {
        let tree = self.trees.entry(tree).or_default();
        let leaf = tree.leaves.entry(key / KEYS_A_LEAF).or_default();
        match slot {
            Some(slot) => {
                leaf.slots.insert(key, slot);
            }
            None => {
                leaf.slots.remove(&key);
            }
        }
        leaf.dirty = Some(birth);
        tree.dirty = Some(birth);
        self.top_dirty = true;
    }

    fn gone(engine: &Engine, changes: &mut Changes, stored: Option<Reference>, share: Hlc) -> Result<()> {
        if let Some(node) = stored.filter(|node| node.birth.exclusive(share)) {
            let bytes = engine.read_node(&node)?;
            changes.gone.push(Gone { node, edges: edges(&bytes).unwrap() });
        }
        Ok(())
    }

    /// Writes the dirty leaves and the root of a tree.
    fn persist(&mut self, id: u32, batch: Batch) -> Result<()> {
        let (engine, changes) = (&self.engine, &mut self.changes);
        let tree = self.trees.get_mut(&id).unwrap();
        let Some(birth) = tree.dirty.take() else { return Ok(()) };
        let share = tree.share;
        for leaf in tree.leaves.values_mut() {
            let Some(birth) = leaf.dirty.take() else { continue };
            let mut builder = NodeBuilder::new(TreeKind::Extents, 0, birth, Owner::default());
            for (key, slot) in &mut leaf.slots {
                if let Body::Payload { birth } = &slot.body {
                    let (seed, len) = slot.value.pieces[0];
                    let object = engine.append_payload(batch, *birth, &content(seed, 0, len))?;
                    let reference = Reference::extent(object.oid, *birth, object.stored_bytes);
                    slot.body = Body::Extent { reference, crcs: object.crcs };
                }
                let Body::Extent { reference, crcs } = &slot.body else { unreachable!() };
                let mut value = vec![slot.value.punched, slot.value.pieces.len() as u8];
                for (seed, len) in &slot.value.pieces {
                    value.extend(seed.to_le_bytes());
                    value.extend(len.to_le_bytes());
                }
                crcs.iter().for_each(|crc| value.extend(crc.to_le_bytes()));
                builder.push(&key.to_le_bytes(), &value, &[*reference]).unwrap();
            }
            Self::gone(engine, changes, leaf.stored, share)?;
            leaf.stored = Some(engine.append_node(batch, ReferenceKind::Node, 0, birth, &builder.finish())?);
        }
        let empty: Vec<u32> = tree.leaves.iter().filter(|(_, leaf)| leaf.slots.is_empty()).map(|(k, _)| *k).collect();
        let mut builder = NodeBuilder::new(TreeKind::Extents, 1, birth, Owner::default());
        for (key, leaf) in tree.leaves.iter().filter(|(_, leaf)| !leaf.slots.is_empty()) {
            builder.push(&key.to_le_bytes(), b"", &[leaf.stored.unwrap()]).unwrap();
        }
        // Leaves that became empty were written for nothing: unreachable, dead at once.
        empty.iter().for_each(|key| drop(tree.leaves.remove(key)));
        Self::gone(engine, changes, tree.stored, share)?;
        tree.stored = Some(engine.append_node(batch, ReferenceKind::Node, 0, birth, &builder.finish())?);
        Ok(())
    }

    /// Freezes and builds.
    pub fn build(&mut self) -> Result<Building> {
        let frozen = self.engine.freeze()?;
        self.building = true;
        let ids: Vec<u32> = self.trees.keys().copied().collect();
        for id in ids {
            self.persist(id, Batch::Frozen)?;
        }
        if std::mem::take(&mut self.top_dirty) || self.top.is_none() {
            let birth =
                self.trees.values().filter_map(|t| t.stored).map(|r| r.birth).max().unwrap_or(Hlc(1)).max(frozen.hlc);
            let mut builder = NodeBuilder::new(TreeKind::RealmTable, 1, birth, Owner::default());
            for (id, tree) in &self.trees {
                builder.push(&id.to_le_bytes(), &tree.share.0.to_le_bytes(), &[tree.stored.unwrap()]).unwrap();
            }
            Self::gone(&self.engine, &mut self.changes, self.top, Hlc::ZERO)?;
            self.top =
                Some(self.engine.append_node(Batch::Frozen, ReferenceKind::Node, 0, birth, &builder.finish())?);
        }
        let roots = Roots { references: self.top.into_iter().collect(), blob: frozen.number.to_le_bytes().to_vec() };
        Ok(Building { frozen, roots, changes: std::mem::take(&mut self.changes) })
    }

    pub fn finish(&mut self, building: Building) -> Result<()> {
        self.building = false;
        self.engine.publish(building.frozen, building.roots, building.changes)
    }

    /// As [`Client::finish`]; `show` is called when the new roots are shown.
    pub fn finish_and_show(&mut self, building: Building, show: &mut dyn FnMut()) -> Result<()> {
        self.building = false;
        self.engine.publish_and_show(building.frozen, building.roots, building.changes, show)
    }

    /// Gives the freeze up; what was built and collected is left to the next checkpoint.
    pub fn abandon(&mut self, building: Building) -> Result<()> {
        self.building = false;
        let later = std::mem::replace(&mut self.changes, building.changes);
        self.changes.gone.extend(later.gone);
        self.changes.freed.extend(later.freed);
        self.engine.abandon(building.frozen)
    }

    pub fn checkpoint(&mut self) -> Result<()> {
        let building = self.build()?;
        self.finish(building)
    }

    pub fn commit(&mut self) -> Result<()> {
        let end = self.engine.end();
        self.engine.commit(end)?;
        self.acknowledged = end;
        Ok(())
    }

    /// Checkpoints until the drop queue is empty.
    pub fn quiesce(&mut self) {
        self.checkpoint().unwrap();
        let mut rounds = 0;
        while self.engine.usage().drop_queue > 0 {
            self.checkpoint().unwrap();
            rounds += 1;
            assert!(rounds < 10_000, "the drop queue does not get empty");
        }
    }

    /// Checkpoints until the drop queue is empty, then counts and liveness must be exactly what is reachable (INV-06, INV-12).
    pub fn quiesce_and_check(&mut self) {
        self.check_idle_state(false);
    }

    /// The same after a mark, which has freed what no slot uses: halves, too, that were punched while others used them.
    pub fn quiesce_and_check_after_a_mark(&mut self) {
        self.check_idle_state(true);
    }

    fn check_idle_state(&mut self, is_marked: bool) {
        self.quiesce();
        let kept: Vec<String> = self.engine.check_idle().into_iter().filter(|what| what.contains("segment")).collect();
        assert_eq!(kept, Vec::<String>::new());
        let mut counts: BTreeMap<Oid, i64> = BTreeMap::new();
        let mut live: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        let mut add = |reference: &Reference, skip: u32| {
            let start = u32::from(reference.oid.slot());
            live.entry(reference.oid.segment()).or_default().extend(start + skip..start + reference.units());
        };
        self.engine.roots_objects().iter().for_each(|reference| add(reference, 0));
        // Of each value the first half: whether it was freed when it was punched, and whether anybody still uses it.
        let mut halves: BTreeMap<Oid, (u32, bool, bool)> = BTreeMap::new();
        for slot in self.trees.values().flat_map(|tree| tree.leaves.values().flat_map(|leaf| leaf.slots.values())) {
            if let Body::Extent { reference, .. } = &slot.body {
                let (_, is_freed, is_used) =
                    halves.entry(reference.oid).or_insert((half(reference.stored_bytes) / 512, false, false));
                *is_freed |= slot.value.punched == 1;
                *is_used |= slot.value.punched == 0;
            }
        }
        let is_dead = |is_freed: bool, is_used: bool| is_freed || is_marked && !is_used;
        let freed: BTreeMap<Oid, u32> = halves
            .into_iter()
            .filter_map(|(oid, (units, is_freed, is_used))| is_dead(is_freed, is_used).then_some((oid, units)))
            .collect();
        let mut seen: BTreeSet<Oid> = BTreeSet::new();
        let mut stack: Vec<Reference> = self.top.into_iter().collect();
        self.top.iter().for_each(|top| *counts.entry(top.oid).or_default() += 1);
        while let Some(reference) = stack.pop() {
            if !seen.insert(reference.oid) {
                continue;
            }
            add(&reference, freed.get(&reference.oid).copied().unwrap_or(0));
            if reference.kind == ReferenceKind::Node {
                for edge in edges(&self.engine.read_node(&reference).unwrap()).unwrap() {
                    *counts.entry(edge.oid).or_default() += 1;
                    stack.push(edge);
                }
            }
        }
        for (oid, count) in &counts {
            assert_eq!(self.engine.count(*oid), *count, "references to {oid}");
        }
        let found: BTreeMap<u32, BTreeSet<u32>> = self
            .engine
            .liveness()
            .into_iter()
            .map(|(number, runs)| (number, runs.into_iter().flatten().collect()))
            .collect();
        for number in live.keys().chain(found.keys()) {
            let (want, got) =
                (live.get(number).cloned().unwrap_or_default(), found.get(number).cloned().unwrap_or_default());
            let lost: Vec<_> = want.difference(&got).collect();
            let leaked: Vec<_> = got.difference(&want).collect();
            assert!(lost.is_empty() && leaked.is_empty(), "segment {number}: lost {lost:?} leaked {leaked:?}");
        }
        assert_eq!(self.engine.check_space(), Vec::<String>::new());
    }

    pub fn random_op(&self, rng: &mut Rng, trees: u64, keys: u64) -> Op {
        let tree = rng.below(trees) as u32;
        let key = rng.below(keys) as u32;
        let seed = rng.next();
        match rng.below(20) {
            0..=5 => Op::Write { tree, key, seed, len: 512 + rng.below(40_000) as u32 },
            6..=8 => Op::Small { tree, key, seed, len: 1 + rng.below(3000) as u32 },
            9..=10 => Op::Write { tree, key, seed, len: 4096 * (1 + rng.below(4) as u32) },
            11..=12 => Op::Grow { tree, key, seed, len: 4096 },
            13..=14 => Op::Punch { tree, key },
            15 => Op::Delete { tree, key },
            16..=17 => Op::Cut { tree, key },
            18 => Op::Fork { from: tree, to: rng.below(trees) as u32 },
            _ => Op::Drop { tree },
        }
    }
}

fn load(engine: &Engine, top: Reference) -> BTreeMap<u32, Tree> {
    let mut trees = BTreeMap::new();
    let bytes = engine.read_node(&top).unwrap();
    let view = NodeView::parse(&bytes).unwrap();
    for item in view.items() {
        let id = u32::from_le_bytes(item.key.try_into().unwrap());
        let share = Hlc(u64::from_le_bytes(item.value.try_into().unwrap()));
        let root = view.reference(item.reference_indexes().next().unwrap()).unwrap();
        let mut tree = Tree { share, stored: Some(root), ..Tree::default() };
        let bytes = engine.read_node(&root).unwrap();
        let view = NodeView::parse(&bytes).unwrap();
        for item in view.items() {
            let leaf = view.reference(item.reference_indexes().next().unwrap()).unwrap();
            tree.leaves.insert(u32::from_le_bytes(item.key.try_into().unwrap()), load_leaf(engine, leaf));
        }
        trees.insert(id, tree);
    }
    trees
}

fn load_leaf(engine: &Engine, reference: Reference) -> Leaf {
    let bytes = engine.read_node(&reference).unwrap();
    let view = NodeView::parse(&bytes).unwrap();
    let mut leaf = Leaf { stored: Some(reference), ..Leaf::default() };
    for item in view.items() {
        let extent = view.reference(item.reference_indexes().next().unwrap()).unwrap();
        let (head, rest) = item.value.split_at(2);
        let (pieces, crcs) = rest.split_at(head[1] as usize * 12);
        let pieces = pieces
            .chunks(12)
            .map(|p| (u64::from_le_bytes(p[..8].try_into().unwrap()), u32::from_le_bytes(p[8..].try_into().unwrap())))
            .collect();
        let crcs = crcs.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect();
        let slot = Slot { value: Value { pieces, punched: head[0] }, body: Body::Extent { reference: extent, crcs } };
        leaf.slots.insert(u32::from_le_bytes(item.key.try_into().unwrap()), slot);
    }
    leaf
}

fn logical(trees: &BTreeMap<u32, Tree>) -> Logical {
    let of = |tree: &Tree| tree.leaves.values().flat_map(|l| &l.slots).map(|(k, s)| (*k, s.value.clone())).collect();
    trees.iter().map(|(id, tree)| (*id, of(tree))).collect()
}

pub fn half(stored_bytes: u32) -> u32 {
    stored_bytes / 2 / 4096 * 4096
}
