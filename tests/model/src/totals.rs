//! Totals of a subtree: carried in nodes, computed bottom-up at a checkpoint, compared with a walk of the oracle (INV-27).

use crate::collections::{Map, Set};
use crate::model::Model;
use crate::objects::{Entry, LINKS, ObjectId, REALMS, Totals};
use crate::oracle::{OracleDirectory, OracleEntry, has_links, has_realms};
use std::rc::Rc;

impl Model {
    pub(crate) fn entry_totals(&self, e: &Entry) -> Totals {
        match e {
            Entry::File { body, .. } | Entry::TableFile { body, .. } => {
                Totals { files: 1, bytes: self.slices(body).iter().map(|s| s.len as u64).sum(), ..Totals::default() }
            }
            Entry::Link(_) => Totals { links: 1, ..Totals::default() },
            Entry::Directory { root, .. } => {
                let mut s = self.node(*root).totals;
                s.directories = s.directories.wrapping_add(1);
                s
            }
            Entry::Realm { root, links, .. } => {
                let mut s = self.node(*root).totals;
                if *links != 0 {
                    s.add(self.node(*links).totals)
                }
                s.links = 0;
                s.directories = s.directories.wrapping_add(1);
                s
            }
            Entry::Child(c) => self.node(*c).totals,
            Entry::Slice(_) => Totals::default(),
        }
    }

    pub(crate) fn oracle_totals(d: &Rc<OracleDirectory>, memo: &mut Map<usize, Totals>) -> Totals {
        if let Some(s) = memo.get(&(Rc::as_ptr(d) as usize)) {
            return *s;
        }
        let mut s = Totals::default();
        for e in d.values() {
            match e {
                OracleEntry::File(f) => s.add(Totals { files: 1, bytes: f.len() as u64, ..Totals::default() }),
                OracleEntry::Link(_) => s.links += 1,
                OracleEntry::Directory(d) => {
                    let mut x = Self::oracle_totals(d, memo);
                    x.directories = x.directories.wrapping_add(1);
                    s.add(x)
                }
                OracleEntry::Realm(r) => {
                    let mut x = Self::oracle_totals(&r.root, memo);
                    for (_, f) in r.links.values() {
                        x.add(Totals { files: 1, bytes: f.len() as u64, ..Totals::default() })
                    }
                    x.links = 0;
                    x.directories = x.directories.wrapping_add(1);
                    s.add(x)
                }
            }
        }
        memo.insert(Rc::as_ptr(d) as usize, s);
        s
    }

    pub(crate) fn check_totals(&mut self) {
        // after freeze: every dir's stored totals equal the oracle's
        let mut memo = Map::default();
        let mut seen: Set<(ObjectId, usize)> = Set::default();
        fn go(
            m: &Model,
            root: ObjectId,
            o: &Rc<OracleDirectory>,
            memo: &mut Map<usize, Totals>,
            seen: &mut Set<(ObjectId, usize)>,
            n: &mut u64,
        ) {
            if !seen.insert((root, Rc::as_ptr(o) as usize)) {
                return;
            }
            *n += 1;
            if m.flag_asserts()
                && ((m.node(root).flags & LINKS != 0) != has_links(o)
                    || (m.node(root).flags & REALMS != 0) != has_realms(o))
            {
                fail!(m, "LINKS or REALMS not exact: {}", m.node(root).flags)
            }
            let s = Model::oracle_totals(o, memo);
            if m.node(root).totals != s {
                fail!(m, "totals {:?} want {:?}", m.node(root).totals, s)
            }
            let mut v = vec![];
            m.list(root, &mut v);
            for ((_, e), (_, oe)) in v.iter().zip(o.iter()) {
                match (e, oe) {
                    (Entry::Directory { root, .. }, OracleEntry::Directory(d)) => go(m, *root, d, memo, seen, n),
                    (Entry::Realm { root, .. }, OracleEntry::Realm(r)) => go(m, *root, &r.root, memo, seen, n),
                    _ => {}
                }
            }
        }
        let mut n = 0;
        let (r, o) = (Self::root_of(&self.top), self.oracle.top.root.clone());
        go(self, r, &o, &mut memo, &mut seen, &mut n);
        self.stats.totals_checked += n;
    }
}
