//! The check when nothing is pending: allocated = reachable, counts = edges, exclusive extents exact to the block, no
//! physical block lost (INV-06, INV-11, INV-12, INV-32).

use crate::collections::{Map, Set};
use crate::model::Model;
use crate::objects::{Entry, ObjectId, Stamp};

impl Model {
    /// Checkpoints until nothing is queued, then checks everything.
    pub(crate) fn quiesce(&mut self) {
        self.stats.quiesce += 1;
        loop {
            self.freeze(true);
            self.check_totals();
            self.publish();
            let state = &self.current;
            if state.queue.is_empty() && state.drop_queue.is_empty() && self.pending.freed.is_empty() {
                break;
            }
        }
        self.check();
        self.check_ids();
        let (nodes, ranges) = self.reachable(&self.roots());
        let edges = self.edge_counts(&nodes);
        self.check_allocation(&nodes, &ranges, &edges);
        self.check_exclusive_extents(&ranges, &edges);
        self.check_space();
    }

    /// Edges into each object, from reachable nodes and the roots.
    fn edge_counts(&self, nodes: &Set<ObjectId>) -> Map<ObjectId, i64> {
        let mut edges: Map<ObjectId, i64> = Map::default();
        for n in nodes {
            for x in self.edges(*n) {
                *edges.entry(x).or_insert(0) += 1;
            }
        }
        for x in self.root_edges(&self.roots()) {
            *edges.entry(x).or_insert(0) += 1;
        }
        edges
    }

    fn check_allocation(&self, nodes: &Set<ObjectId>, ranges: &Map<ObjectId, u64>, edges: &Map<ObjectId, i64>) {
        let reachable = |id: &ObjectId| nodes.contains(id) || ranges.contains_key(id);
        for (i, object) in self.objects.iter().enumerate().skip(1) {
            let id = i as ObjectId;
            let live = reachable(&id);
            let allocated = object.batch != 0 && !self.current.freed.contains(&id);
            if allocated && !live {
                fail!(self, "leak of object {} {:?}", id, object)
            }
            if live && !allocated {
                fail!(self, "live object {} not allocated", id)
            }
            let count = 1 + self.current.counts.get(&id).copied().unwrap_or(0);
            if live && count != edges[&id] {
                fail!(self, "count of {} is {} want {}", id, count, edges[&id])
            }
        }
        if let Some(id) = self.current.counts.keys().find(|id| !reachable(id)) {
            fail!(self, "stale count record {}", id)
        }
    }

    /// Liveness of exclusive extents is exact, to the block; what shared ones keep too long is counted.
    fn check_exclusive_extents(&mut self, ranges: &Map<ObjectId, u64>, edges: &Map<ObjectId, i64>) {
        let exclusive = self.exclusive_extents();
        for (extent, used) in ranges {
            let dead = self.dead_range(*extent, *used);
            if dead != 0 && exclusive.contains(extent) {
                fail!(self, "exclusive extent {}: dead range not freed", extent)
            }
            self.stats.leakblk += u64::from(dead.count_ones());
            self.stats.multi_leaf_ext += u64::from(edges[extent] > 1 && exclusive.contains(extent));
        }
    }

    fn exclusive_extents(&self) -> Set<ObjectId> {
        let mut walk = Exclusive { model: self, seen: Set::default(), extents: Set::default() };
        let Entry::Realm { root, links, share, link_share, .. } = &self.top else { panic!("the top is a realm") };
        walk.tree(*root, *share);
        if *links != 0 {
            walk.tree(*links, *share.max(link_share));
        }
        walk.tree(self.table, 0);
        walk.extents
    }

    /// INV-32: used + free + deferred = device.
    fn check_space(&self) {
        let used = self.current.places.len() + self.current.dead.len();
        let mut free = self.available.clone();
        free.sort();
        free.dedup();
        if free.len() != self.available.len() {
            fail!(self, "slot twice on the free list")
        }
        if used + free.len() != self.device.len() {
            fail!(self, "space accounting: {} used + {} free != {}", used, free.len(), self.device.len())
        }
    }
}

/// A walk over every path, with its share time, that finds the exclusive extents.
struct Exclusive<'a> {
    model: &'a Model,
    seen: Set<(ObjectId, Stamp)>,
    extents: Set<ObjectId>,
}

impl Exclusive<'_> {
    fn tree(&mut self, root: ObjectId, path_share: Stamp) {
        if !self.seen.insert((root, path_share)) {
            return;
        }
        let mut entries = vec![];
        self.model.list(root, &mut entries);
        for (_, e) in entries {
            let share = self.model.down(path_share, &e);
            match e {
                Entry::File { body, .. } | Entry::TableFile { body, .. } => {
                    let slices = self.model.slices(&body).into_iter();
                    let exclusive = |x: &ObjectId| self.model.is_exclusive(self.model.birth(*x), share);
                    self.extents.extend(slices.map(|s| s.extent).filter(exclusive));
                }
                Entry::Directory { root, .. } => self.tree(root, share),
                Entry::Realm { root, links, link_share, .. } => {
                    self.tree(root, share);
                    if links != 0 {
                        self.tree(links, share.max(link_share));
                    }
                }
                _ => {}
            }
        }
    }
}
