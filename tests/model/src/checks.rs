//! What must hold after every step: contents, no premature free, every block on the device, flags, link counts, snapshot lists.

use crate::collections::{Map, Set};
use crate::model::{EngineState, Model};
use crate::objects::{Body, Entry, ObjectId, Roots, SNAPSHOTS, Slice, mask};
use crate::operation::SNAPSHOT_BASE;
use crate::oracle::{OracleDirectory, OracleEntry, OracleRealm};
use std::collections::BTreeMap;
use std::rc::Rc;

impl Model {
    pub(crate) fn reachable(&self, top: &Roots) -> (Set<ObjectId>, Map<ObjectId, u64>) {
        let mut ns: Set<ObjectId> = Set::default();
        let mut ex: Map<ObjectId, u64> = Map::default();
        let mut st = self.root_edges(top);
        fn sl(s: &Slice, ex: &mut Map<ObjectId, u64>) {
            *ex.entry(s.extent).or_insert(0) |= mask(s.offset, s.len)
        }
        while let Some(n) = st.pop() {
            if !ns.insert(n) {
                continue;
            }
            for it in &self.node(n).items {
                match &it.1 {
                    Entry::Slice(s) => sl(s, &mut ex),
                    Entry::File { body: Body::Inline(v), .. } | Entry::TableFile { body: Body::Inline(v), .. } => {
                        for s in v {
                            sl(s, &mut ex)
                        }
                    }
                    Entry::File { body: Body::Tree(r), .. } | Entry::TableFile { body: Body::Tree(r), .. } => {
                        st.push(*r)
                    }
                    Entry::Directory { root, .. } => st.push(*root),
                    Entry::Realm { root, links, .. } => {
                        st.push(*root);
                        if *links != 0 {
                            st.push(*links)
                        }
                    }
                    Entry::Child(c) => st.push(*c),
                    Entry::Link(_) => {}
                }
            }
        }
        (ns, ex)
    }

    /// Snapshot lists by the rule (own chain, realm id, inode) against the oracle's paths; SNAPSHOTS never missing on a path to one
    pub(crate) fn check_snapshots(&mut self) {
        for (sid, (p, _)) in self.oracle.snapshots.clone() {
            if !self.snapshots_at(&p).contains(&sid) {
                fail!(self, "snapshot {} not listed at {:?}", sid, p)
            }
            for i in 1..=p.len() {
                if self.entry_flags(&self.at(&p[..i])) & SNAPSHOTS == 0 && self.flag_asserts() {
                    fail!(self, "SNAPSHOTS missing at {:?} of {:?}", &p[..i], p)
                }
            }
        }
        if self.oracle.snapshots.is_empty() {
            return;
        }
        for _ in 0..6 {
            let p = self.generator.directory(&self.oracle, false);
            let got = self.snapshots_at(&p);
            let want: Vec<u32> = self.oracle.snapshots.iter().filter(|x| *x.1.0 == p).map(|x| *x.0).collect();
            self.stats.snap_probes += 1;
            if got != want {
                fail!(self, "snapshots listed at {:?}: {:?} want {:?}", p, got, want)
            }
            if !p.is_empty()
                && p[0] < SNAPSHOT_BASE
                && self.entry_flags(&self.at(&p)) & SNAPSHOTS != 0
                && !self.oracle.snapshots.values().any(|x| x.0.starts_with(&p))
            {
                self.stats.snap_flag_stale += 1
            }
        }
    }

    /// In the own part of the tree every realm id and every (realm id, directory inode) occurs once
    pub(crate) fn check_ids(&self) {
        fn go(m: &Model, e: &Entry, cur: u32, seen: &mut Set<u64>) {
            let (cur, n) = match e {
                Entry::Realm { realm, home, .. } => {
                    if *home != cur {
                        return;
                    }
                    (*realm, 0)
                }
                Entry::Directory { inode, .. } => (cur, *inode),
                _ => return,
            };
            if !seen.insert((cur as u64) << 32 | n as u64) {
                fail!(m, "realm {} inode {} twice", cur, n)
            }
            let mut v = vec![];
            m.list(Model::root_of(e), &mut v);
            for x in v {
                go(m, &x.1, cur, seen)
            }
        }
        go(self, &self.top, 0, &mut Set::default())
    }

    /// Nlink of every link file = its names inside its realm (oracle), no entry without a name
    pub(crate) fn check_nlink(&self, r: &OracleRealm, memo: &mut Set<usize>) {
        let mut n: BTreeMap<u32, u32> = BTreeMap::new();
        fn go(m: &Model, d: &Rc<OracleDirectory>, n: &mut BTreeMap<u32, u32>, memo: &mut Set<usize>) {
            for e in d.values() {
                match e {
                    OracleEntry::Link(l) => *n.entry(*l).or_insert(0) += 1,
                    OracleEntry::Directory(d) => go(m, d, n, memo),
                    OracleEntry::Realm(r) if memo.insert(Rc::as_ptr(r) as usize) => m.check_nlink(r, memo),
                    _ => {}
                }
            }
        }
        go(self, &r.root, &mut n, memo);
        if n.len() != r.links.len() || r.links.iter().any(|x| n.get(x.0) != Some(&x.1.0)) {
            fail!(
                self,
                "link table and names differ: {:?} names {:?}",
                r.links.iter().map(|x| (*x.0, x.1.0)).collect::<Vec<_>>(),
                n
            )
        }
    }

    pub(crate) fn check(&mut self) {
        self.stats.checks += 1;
        self.compare_roots(&self.roots(), &self.oracle, "memory");
        self.check_snapshots();
        self.check_nlink(&self.oracle.top, &mut Set::default());
        for (_, r) in self.oracle.snapshots.values() {
            self.check_nlink(r, &mut Set::default())
        }
        let (ns, ex) = self.reachable(&self.roots());
        for n in &ns {
            if !self.node(*n).file {
                self.stats.flag_nodes += 1;
                if self.flag_asserts() && self.node(*n).flags != self.flags_of(*n) {
                    fail!(self, "flags of node {} are {} want {}", n, self.node(*n).flags, self.flags_of(*n))
                }
            }
            if self.current.freed.contains(n) || self.pending.freed.contains(n) {
                fail!(self, "premature free of node {}", n)
            }
            if self.objects[*n as usize].batch != 0 {
                match self.current.places.get(&(*n, 0)) {
                    Some(p) if self.device[*p as usize] == (*n, 0) => {}
                    x => fail!(self, "node {} lost: {:?}", n, x),
                }
            }
            if self.config.restamp {
                let b = self.birth(*n);
                for c in self.edges(*n) {
                    if self.birth(c) > b {
                        fail!(self, "birth order {} {}", n, c)
                    }
                }
            }
        }
        for (e, mk) in &ex {
            if self.current.freed.contains(e) {
                fail!(self, "premature free of extent {}", e)
            }
            let rf = self.current.freed_ranges.get(e).copied().unwrap_or(0)
                | self.pending.freed_ranges.get(e).copied().unwrap_or(0);
            if rf & mk != 0 {
                fail!(self, "referenced range of extent {} was freed", e)
            }
            if self.objects[*e as usize].batch != 0 || self.extent(*e).direct {
                for b in 0..64 {
                    if mk >> b & 1 == 1 {
                        match self.current.places.get(&(*e, b)) {
                            Some(p) if self.device[*p as usize] == (*e, b) => {}
                            x => fail!(self, "extent {} block {} lost {:?}", e, b, x),
                        }
                    }
                }
            }
        }
        self.check_durable();
    }

    pub(crate) fn check_tree_on_disk(&self, top: &Roots, eng: &EngineState, dead_ok: bool, what: &str) {
        let (ns, ex) = self.reachable(top);
        let dead: Map<(ObjectId, u32), u32> =
            if dead_ok { eng.dead.iter().map(|x| ((x.object, x.block), x.place)).collect() } else { Map::default() };
        let ok = |id: ObjectId, b: u32| {
            let p = eng.places.get(&(id, b)).or_else(|| dead.get(&(id, b)));
            if p.map(|p| self.device[*p as usize]) != Some((id, b)) {
                fail!(self, "{}: object {} block {} not on device", what, id, b)
            }
        };
        for n in ns {
            if !dead_ok && eng.freed.contains(&n) {
                fail!(self, "{}: node {} freed", what, n)
            }
            ok(n, 0)
        }
        for (e, mk) in ex {
            for b in 0..64 {
                if mk >> b & 1 == 1 {
                    ok(e, b)
                }
            }
        }
    }

    pub(crate) fn check_durable(&self) {
        self.compare_roots(&self.durable.roots, &self.durable.oracle, "durable");
        self.check_tree_on_disk(&self.durable.roots, &self.durable, false, "durable");
        for h in &self.durable.history {
            self.compare_roots(&h.roots, &h.oracle, "history");
            self.check_tree_on_disk(&h.roots, &self.durable, true, "history")
        }
    }
}
