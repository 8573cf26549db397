//! The mark (online fsck): reclaims dead ranges, and lowers share times so that a former fork becomes exclusive again.
//!
//! A share time falls to the largest birth of a *multiply referenced* object below its entry. That needs
//! birth(parent) >= birth(child) (INV-02), exact counts and nothing pending.

use crate::bugs::Bug;
use crate::collections::{Map, Set};
use crate::model::Model;
use crate::objects::{Body, Content, Entry, ObjectId, Slice, Stamp, mask};
use crate::operation::{Name, ORPHAN_BASE, Path, SNAPSHOT_BASE};

/// New share times. Each is a bound: an entry below it keeps its own.
#[derive(Default)]
struct Lowered {
    /// Of entries in the tree, and of their link tables.
    entries: Vec<(Path, Stamp, Stamp)>,
    /// Of link files, by the path of their realm.
    links: Vec<(Path, u32, Stamp)>,
    orphans: Vec<(u32, Stamp)>,
}

/// How often each reachable object is referenced, and the bounds that follow from it.
struct References<'a> {
    model: &'a Model,
    count: Map<ObjectId, u32>,
    bounds: Map<ObjectId, Stamp>,
}

impl References<'_> {
    fn shared(&self, id: ObjectId) -> bool {
        self.count[&id] > 1
    }

    /// The largest birth of a multiply referenced object at or below `id`.
    fn bound(&mut self, id: ObjectId) -> Stamp {
        if self.shared(id) {
            return self.model.birth(id);
        }
        if let Some(known) = self.bounds.get(&id) {
            return *known;
        }
        let bound = match self.model.objects[id as usize].content {
            Content::Node(_) => self.model.edges(id).into_iter().map(|c| self.bound(c)).max().unwrap_or(0),
            Content::Extent(_) => 0,
        };
        self.bounds.insert(id, bound);
        bound
    }

    fn entry_bound(&mut self, e: &Entry) -> Stamp {
        let mut edges = vec![];
        Model::entry_edges(e, &mut edges);
        edges.into_iter().map(|x| self.bound(x)).max().unwrap_or(0)
    }

    fn link_table_bound(&mut self, e: &Entry) -> Stamp {
        match e {
            Entry::Realm { links, .. } if *links != 0 => self.bound(*links),
            _ => 0,
        }
    }

    /// Entries of a tree whose nodes are referenced once, down to the first that is not.
    fn entries(&self, node: ObjectId, out: &mut Vec<(Name, Entry)>) {
        if self.shared(node) {
            return;
        }
        let n = self.model.node(node);
        if n.level == 0 {
            return out.extend(n.items.iter().cloned());
        }
        for item in &n.items {
            if let Entry::Child(c) = item.1 {
                self.entries(c, out);
            }
        }
    }

    fn walk(&mut self, e: &Entry, path: &mut Path, out: &mut Lowered) {
        if let Entry::Realm { links, .. } = e {
            let mut table = vec![];
            if *links != 0 {
                self.entries(*links, &mut table);
            }
            for (number, file) in table {
                out.links.push((path.clone(), number, self.entry_bound(&file)));
            }
        }
        let mut inside = vec![];
        self.entries(Model::root_of(e), &mut inside);
        for (name, e) in inside {
            if matches!(e, Entry::Realm { read_only: true, .. } | Entry::Link(_)) {
                continue;
            }
            path.push(name);
            out.entries.push((path.clone(), self.entry_bound(&e), self.link_table_bound(&e)));
            if matches!(e, Entry::Directory { .. } | Entry::Realm { .. }) {
                self.walk(&e, path, out);
            }
            path.pop();
        }
    }
}

impl Model {
    /// Over the durable checkpoint; reclaims dead ranges only.
    pub(crate) fn mark(&mut self) {
        let (_, ranges) = self.reachable(&self.durable.roots);
        for (extent, used) in ranges {
            let dead = self.dead_range(extent, used);
            if dead != 0 && !self.current.freed.contains(&extent) {
                *self.pending.freed_ranges.entry(extent).or_insert(0) |= dead;
                self.stats.marked += u64::from(dead.count_ones());
            }
        }
    }

    /// Blocks of an extent that nothing uses and nothing has freed.
    pub(crate) fn dead_range(&self, extent: ObjectId, used: u64) -> u64 {
        let blocks = self.extent(extent).tokens.len() as u32;
        mask(0, blocks) & !used & !self.current.freed_ranges.get(&extent).copied().unwrap_or(0)
    }

    /// The whole mark, when nothing is pending: reclaims dead ranges and lowers share times in one step.
    pub(crate) fn lower(&mut self) {
        let (nodes, ranges) = self.reachable(&self.roots());
        for (extent, used) in ranges {
            let dead = self.dead_range(extent, used);
            if dead != 0 {
                *self.pending.freed_ranges.entry(extent).or_insert(0) |= dead;
            }
        }
        let mut references = References { model: self, count: self.reference_counts(&nodes), bounds: Map::default() };
        let mut lowered = Lowered::default();
        let top = (references.entry_bound(&self.top), references.link_table_bound(&self.top));
        references.walk(&self.top, &mut vec![], &mut lowered);
        for (number, e) in self.table_entries(self.table).into_iter().filter(|x| x.0 < SNAPSHOT_BASE) {
            lowered.orphans.push((number, references.entry_bound(&e)));
        }
        self.now += 1;
        self.lower_top(top.0, top.1);
        self.lower_entries(lowered);
        self.freeze(true);
        self.publish();
        self.check();
    }

    /// Of nodes: the *references* (two entries of one leaf may name one node). Of extents: 2 when one of its blocks has two
    /// slices or two files use it, else 1. Blocks below a shared node count once: the node itself is the boundary.
    fn reference_counts(&self, nodes: &Set<ObjectId>) -> Map<ObjectId, u32> {
        let mut count: Map<ObjectId, u32> = Map::default();
        let mut slices_of: Map<(ObjectId, u32), u32> = Map::default();
        for n in nodes {
            let mut edges = vec![];
            for item in &self.node(*n).items {
                Self::entry_edges(&item.1, &mut edges);
                for s in inline_slices(&item.1) {
                    for block in s.offset..s.offset + s.len {
                        *slices_of.entry((s.extent, block)).or_insert(0) += 1;
                    }
                }
            }
            if self.bug(Bug::LowerBySetCount) {
                edges.sort();
                edges.dedup();
            }
            for x in edges {
                let c = count.entry(x).or_insert(0);
                *c = if matches!(self.objects[x as usize].content, Content::Node(_)) { *c + 1 } else { 1 };
            }
        }
        for x in self.root_edges(&self.roots()) {
            *count.entry(x).or_insert(0) += 1;
        }
        for ((extent, _), slices) in slices_of {
            if slices > 1 {
                count.insert(extent, 2);
            }
        }
        if !self.bug(Bug::MarkBlockOnly) {
            self.count_files(nodes, &mut count);
        }
        count
    }

    /// An extent used by two files is exclusive in neither: its dead ranges would be freed in one and kept in the other.
    fn count_files(&self, nodes: &Set<ObjectId>, count: &mut Map<ObjectId, u32>) {
        let mut owner: Map<ObjectId, (ObjectId, u32)> = Map::default();
        for n in nodes {
            for (key, e) in &self.node(*n).items {
                let (Entry::File { body, .. } | Entry::TableFile { body, .. }) = e else { continue };
                for s in self.slices(body) {
                    if *owner.entry(s.extent).or_insert((*n, *key)) != (*n, *key) {
                        count.insert(s.extent, 2);
                    }
                }
            }
        }
    }

    fn lower_top(&mut self, new_share: Stamp, new_link_share: Stamp) {
        let Entry::Realm { share, link_share, .. } = &mut self.top else { panic!("the top is a realm") };
        if new_share < *share {
            *share = new_share;
            self.stats.lowered += 1;
        }
        *link_share = new_link_share.min(*link_share);
    }

    fn lower_entries(&mut self, lowered: Lowered) {
        for (path, new_share, new_link_share) in lowered.entries {
            let e = self.at(&path);
            if new_share >= Self::share_of(&e) && new_link_share >= Self::link_share_of(&e) {
                continue;
            }
            self.stats.lowered += 1;
            self.edit(&path, &mut |_, mut e, _| {
                if let Entry::Directory { share, .. } | Entry::Realm { share, .. } | Entry::File { share, .. } = &mut e
                {
                    *share = new_share.min(*share);
                }
                if let Entry::Realm { link_share, .. } = &mut e {
                    *link_share = new_link_share.min(*link_share);
                }
                e
            });
        }
        for (realm, number, share) in lowered.links {
            if share < Self::share_of(&self.link_entry(&realm, number)) {
                self.stats.lowered_links += 1;
                self.links_edit(&realm, &mut |m, table, path_share| match m.get(table, number) {
                    Some(Entry::TableFile { nlink, body, .. }) => {
                        m.insert(table, path_share, number, Entry::TableFile { share, nlink, body })
                    }
                    _ => panic!("link entry"),
                });
            }
        }
        for (number, bound) in lowered.orphans {
            let Entry::TableFile { share, nlink, body } = self.at(&[ORPHAN_BASE + number]) else { continue };
            if bound < share {
                self.stats.lowered_links += 1;
                self.table_put(number, Entry::TableFile { share: bound, nlink, body });
            }
        }
    }
}

/// Slices that a node itself holds.
fn inline_slices(e: &Entry) -> &[Slice] {
    match e {
        Entry::Slice(s) => std::slice::from_ref(s),
        Entry::File { body: Body::Inline(v), .. } | Entry::TableFile { body: Body::Inline(v), .. } => v,
        _ => &[],
    }
}
