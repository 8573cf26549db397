//! Checkpoint: freeze a version, form its batch of deltas, merge, pace the drop queue, publish; and the reuse of space.

use crate::bugs::Bug;
use crate::collections::{Map, Set};
use crate::model::{DeadBlock, HistoryRoot, InFlight, Model, Pending};
use crate::objects::{Body, Content, Entry, ObjectId, Roots, Totals};

/// Objects that a checkpoint first writes, children before parents.
#[derive(Default)]
struct NewObjects {
    nodes: Vec<ObjectId>,
    extents: Vec<ObjectId>,
}

impl NewObjects {
    fn all(&self) -> impl Iterator<Item = ObjectId> {
        self.nodes.iter().chain(&self.extents).copied()
    }
}

impl Model {
    /// Edges of a node: the *set* of distinct objects it references
    pub(crate) fn edges(&self, n: ObjectId) -> Vec<ObjectId> {
        let mut v = vec![];
        if let Content::Node(nd) = &self.objects[n as usize].content {
            for it in &nd.items {
                Self::entry_edges(&it.1, &mut v)
            }
        }
        v.sort();
        v.dedup();
        v
    }

    pub(crate) fn root_edges(&self, t: &Roots) -> Vec<ObjectId> {
        let mut v = vec![t.1];
        Self::entry_edges(&t.0, &mut v);
        v.retain(|x| *x != 0);
        v.sort();
        v.dedup();
        v
    }

    pub(crate) fn entry_edges(e: &Entry, out: &mut Vec<ObjectId>) {
        match e {
            Entry::File { body, .. } | Entry::TableFile { body, .. } => match body {
                Body::Inline(v) => {
                    for s in v {
                        out.push(s.extent)
                    }
                }
                Body::Tree(r) => out.push(*r),
            },
            Entry::Directory { root, .. } => out.push(*root),
            Entry::Realm { root, links, .. } => {
                out.push(*root);
                if *links != 0 {
                    out.push(*links)
                }
            }
            Entry::Slice(s) => out.push(s.extent),
            Entry::Child(c) => out.push(*c),
            Entry::Link(_) => {}
        }
    }

    pub(crate) fn place(&mut self, id: ObjectId, b: u32) -> u32 {
        if !self.available.is_empty() && self.generator.rng.percent(90) {
            let i = self.generator.rng.below(self.available.len() as u32) as usize;
            let p = self.available.swap_remove(i);
            self.device[p as usize] = (id, b);
            p
        } else {
            self.device.push((id, b));
            (self.device.len() - 1) as u32
        }
    }

    /// Freezes a version of the tree and forms its batch. `all`: merge and drop everything that is queued.
    pub(crate) fn freeze(&mut self, all: bool) {
        if self.in_flight.is_some() {
            self.publish();
        }
        self.now += 1;
        self.stats.freezes += 1;
        let batch = self.last_batch + 1;
        self.last_batch = batch;
        let new = self.new_objects();
        self.stamp_new_objects(&new);
        let gone: Vec<ObjectId> = {
            let mut v: Vec<ObjectId> = self.pending.freed.iter().copied().collect();
            v.sort();
            v
        };
        let deltas = self.deltas(&new, &gone);
        self.commit_objects(&new, batch);
        let mut release = std::mem::take(&mut self.pending.release);
        self.free_objects(&gone, batch);
        self.free_ranges(batch);
        self.place_payloads(&new);
        self.pending = Pending::default();
        self.merge_and_drop(deltas, all, batch);
        self.current.batch = batch;
        self.current.roots = self.roots();
        self.current.oracle = self.oracle.clone();
        self.retain_history(batch);
        self.release_dead(&mut release);
        if self.bug(Bug::ReuseEarly) {
            self.available.append(&mut release);
        }
        let log_end = self.log_base + self.log.len();
        self.in_flight = Some(InFlight { state: self.current.clone(), release, log_end });
    }

    /// Objects that this checkpoint first writes: reachable and in no batch yet.
    fn new_objects(&self) -> NewObjects {
        fn visit(m: &Model, id: ObjectId, seen: &mut Set<ObjectId>, out: &mut NewObjects) {
            let object = &m.objects[id as usize];
            if object.batch != 0 || !seen.insert(id) {
                return;
            }
            match object.content {
                Content::Node(_) => {
                    for edge in m.edges(id) {
                        visit(m, edge, seen, out);
                    }
                    out.nodes.push(id);
                }
                Content::Extent(_) => out.extents.push(id),
            }
        }
        let mut out = NewObjects::default();
        let mut seen = Set::default();
        for root in self.root_edges(&self.roots()) {
            visit(self, root, &mut seen, &mut out);
        }
        out
    }

    /// Totals bottom-up; births only under the bugs that stamp them here instead of at the change.
    fn stamp_new_objects(&mut self, new: &NewObjects) {
        let birth = 2 * self.now + 1;
        for &n in &new.nodes {
            if !self.node(n).file {
                let mut totals = Totals::default();
                for item in &self.node(n).items {
                    totals.add(self.entry_totals(&item.1));
                }
                self.node_mut(n).totals = totals;
            }
            if self.bug(Bug::BirthAtPersistNode) {
                self.node_mut(n).birth = birth;
            }
        }
        if self.bug(Bug::BirthAtPersistExt) {
            for &e in &new.extents {
                match &mut self.objects[e as usize].content {
                    Content::Extent(x) if !x.direct => x.birth = birth,
                    _ => {}
                }
            }
        }
    }

    /// Edges of new nodes and roots minus edges of gone nodes and the old roots, minus one for a new object, which starts
    /// at an implicit one (DESIGN 8).
    fn deltas(&mut self, new: &NewObjects, gone: &[ObjectId]) -> Map<ObjectId, i64> {
        let mut deltas: Map<ObjectId, i64> = Map::default();
        for &n in &new.nodes {
            for x in self.edges(n) {
                *deltas.entry(x).or_insert(0) += 1;
            }
        }
        for x in self.root_edges(&self.roots()) {
            *deltas.entry(x).or_insert(0) += 1;
        }
        for x in self.root_edges(&self.current.roots) {
            *deltas.entry(x).or_insert(0) -= 1;
        }
        for x in new.all() {
            *deltas.entry(x).or_insert(0) -= 1;
        }
        let mut handed: Set<ObjectId> = Set::default();
        for &n in gone {
            for x in self.edges(n) {
                *deltas.entry(x).or_insert(0) -= 1;
                handed.insert(x);
            }
        }
        if self.bug(Bug::SplitNoDelta) {
            for x in &handed {
                if let (Content::Extent(_), Some(v)) = (&self.objects[*x as usize].content, deltas.get_mut(x)) {
                    *v = (*v).min(0);
                }
            }
        }
        // INV-08: an object freed by the fast path is not counted any more; its one edge must have gone in this very batch
        for &n in gone {
            let v = deltas.remove(&n).unwrap_or(0);
            if v != -1 && self.config.restamp && self.bug(Bug::None) {
                fail!(self, "freed node {} has delta {}", n, v)
            }
        }
        if self.bug(Bug::LiteralMinus) {
            for n in std::mem::take(&mut self.pending.replaced_shared) {
                *deltas.entry(n).or_insert(0) -= 1;
            }
        }
        deltas
    }

    fn commit_objects(&mut self, new: &NewObjects, batch: u32) {
        for n in new.all() {
            self.objects[n as usize].batch = batch;
        }
        for &n in &new.nodes {
            let p = self.place(n, 0);
            self.current.places.insert((n, 0), p);
        }
    }

    /// Fast frees: exclusive nodes that left their tree, and direct extents that no tree ever stored.
    fn free_objects(&mut self, gone: &[ObjectId], batch: u32) {
        for &n in gone {
            self.free_object(n, batch);
        }
        for e in std::mem::take(&mut self.pending.left_leaf) {
            if !self.current.freed.contains(&e) && self.objects[e as usize].batch != 0 {
                self.free_object(e, batch);
            }
        }
        if self.bug(Bug::NodeDiffFree) {
            for (old, successor, path_share) in std::mem::take(&mut self.pending.replaced) {
                let kept = self.edges(successor);
                for x in self.edges(old) {
                    let extent = matches!(self.objects[x as usize].content, Content::Extent(_));
                    let exclusive = self.is_exclusive(self.birth(x), path_share);
                    if extent && !kept.contains(&x) && exclusive && !self.current.freed.contains(&x) {
                        self.free_object(x, batch);
                    }
                }
            }
        }
        for e in std::mem::take(&mut self.pending.direct) {
            if self.objects[e as usize].batch == 0 && !self.current.freed.contains(&e) {
                self.free_object(e, batch);
            }
        }
    }

    /// Ranges of exclusive extents that operations freed. A payload that was never persisted has no place to free.
    fn free_ranges(&mut self, batch: u32) {
        for (e, blocks) in std::mem::take(&mut self.pending.freed_ranges) {
            if self.objects[e as usize].batch == 0 {
                continue;
            }
            *self.current.freed_ranges.entry(e).or_insert(0) |= blocks;
            for b in 0..self.extent(e).tokens.len() as u32 {
                if blocks >> b & 1 == 1 {
                    self.free_block(e, b, batch);
                }
            }
        }
    }

    /// WAL payloads move into a segment.
    fn place_payloads(&mut self, new: &NewObjects) {
        for &e in &new.extents {
            if self.extent(e).direct {
                continue;
            }
            let freed = self.current.freed_ranges.get(&e).copied().unwrap_or(0);
            for b in 0..self.extent(e).tokens.len() as u32 {
                if freed >> b & 1 == 0 {
                    let p = self.place(e, b);
                    self.current.places.insert((e, b), p);
                }
            }
        }
    }

    /// Lazy merge, at batch boundaries only; then some steps of the drop queue.
    fn merge_and_drop(&mut self, deltas: Map<ObjectId, i64>, all: bool, batch: u32) {
        let mut b: Vec<(ObjectId, i64)> = deltas.into_iter().filter(|x| x.1 != 0).collect();
        b.sort_by_key(|x| (x.0, x.1));
        self.stats.deltas += b.len() as u64;
        self.current.queue.push_back(b);
        let queued = self.current.queue.len();
        let merges = if all { queued } else { self.generator.rng.index(queued + 1) };
        for _ in 0..merges {
            let mut b = self.current.queue.pop_front().expect("a queued batch");
            if self.bug(Bug::MergeMidBatch) && b.len() > 2 && self.generator.rng.percent(30) {
                let half = b.len() / 2;
                b.sort_by_key(|x| x.1);
                let rest = b.split_off(half);
                self.merge_batch(b);
                self.current.queue.push_front(rest);
                self.run_drop_queue(1000, batch);
                break;
            }
            self.merge_batch(b);
        }
        let steps = if all { usize::MAX } else { self.generator.rng.index(12) };
        self.run_drop_queue(steps, batch);
    }

    fn retain_history(&mut self, batch: u32) {
        if !self.config.history {
            return;
        }
        if self.generator.rng.percent(15) && self.current.history.len() < 4 {
            let stamp = 2 * self.now + 1;
            let root = HistoryRoot { roots: self.roots(), stamp, batch, oracle: self.oracle.clone() };
            self.current.history.push(root);
            self.stats.hist_roots += 1;
        }
        if self.generator.rng.percent(12) && !self.current.history.is_empty() {
            let i = self.generator.rng.index(self.current.history.len());
            self.current.history.remove(i);
        }
    }

    /// INV-13: a dead block may be reused unless a retained root lies in [birth, death).
    fn release_dead(&mut self, release: &mut Vec<u32>) {
        let ignored = self.bug(Bug::HistIgnored);
        let roots = &self.current.history;
        let needed = |x: &DeadBlock| !ignored && roots.iter().any(|h| x.birth <= h.stamp && h.batch < x.batch);
        let (keep, free): (Vec<DeadBlock>, Vec<DeadBlock>) =
            std::mem::take(&mut self.current.dead).into_iter().partition(needed);
        release.extend(free.iter().map(|x| x.place));
        self.current.dead = keep;
    }

    /// The superblock names the frozen checkpoint: space is reusable, the log before it is gone.
    pub(crate) fn publish(&mut self) {
        let Some(c) = self.in_flight.take() else { return };
        self.durable = c.state;
        self.available.extend(c.release);
        self.log.drain(..c.log_end - self.log_base);
        self.log_base = c.log_end;
        self.log_durable = self.log_durable.max(c.log_end);
    }

    /// The cleaner moves three random blocks.
    pub(crate) fn clean(&mut self) {
        let mut ks: Vec<(ObjectId, u32)> = self.current.places.keys().copied().collect();
        ks.sort();
        if ks.is_empty() {
            return;
        }
        for _ in 0..3 {
            let i = self.generator.rng.below(ks.len() as u32) as usize;
            let (id, b) = ks[i];
            let old = self.current.places[&(id, b)];
            let p = self.place(id, b);
            self.current.places.insert((id, b), p);
            self.stats.cleaned += 1;
            if self.bug(Bug::CleanerEarly) { self.available.push(old) } else { self.pending.release.push(old) }
        }
    }
}
