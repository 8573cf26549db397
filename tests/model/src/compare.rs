//! The stored tree against the oracle's value of it, entry by entry.

use crate::collections::Set;
use crate::model::Model;
use crate::objects::{Body, Entry, ObjectId, Roots};
use crate::operation::SNAPSHOT_BASE;
use crate::oracle::{OracleDirectory, OracleEntry, OracleFile, OracleRealm, OracleVolume};
use std::rc::Rc;

impl Model {
    pub(crate) fn compare_file(&self, b: &Body, o: &OracleFile, what: &str) {
        let mut got = OracleFile::new();
        for s in self.slices(b) {
            for i in 0..s.len {
                if got.insert(s.start + i, self.extent(s.extent).tokens[(s.offset + i) as usize]).is_some() {
                    fail!(self, "overlap {}", what)
                }
            }
        }
        if &got != o {
            fail!(self, "{}: file contents differ\n got {:?}\nwant {:?}", what, got, o)
        }
    }

    pub(crate) fn compare_directory(
        &self,
        root: ObjectId,
        o: &Rc<OracleDirectory>,
        memo: &mut Set<(u32, usize)>,
        what: &str,
    ) {
        if !memo.insert((root, Rc::as_ptr(o) as usize)) {
            return;
        }
        let mut v = vec![];
        self.list(root, &mut v);
        if v.len() != o.len() {
            fail!(self, "{}: dir has {} entries, want {}", what, v.len(), o.len())
        }
        for ((k, e), (ok, oe)) in v.iter().zip(o.iter()) {
            if k != ok {
                fail!(self, "{}: key", what)
            }
            match (e, oe) {
                (Entry::File { body, .. }, OracleEntry::File(f)) => self.compare_file(body, f, what),
                (Entry::Directory { root, .. }, OracleEntry::Directory(d)) => {
                    self.compare_directory(*root, d, memo, what)
                }
                (Entry::Realm { root, links, .. }, OracleEntry::Realm(r)) => {
                    self.compare_realm(*root, *links, r, memo, what)
                }
                (Entry::Link(a), OracleEntry::Link(b)) if a == b => {}
                _ => fail!(self, "{}: entry kind differs {:?}", what, e),
            }
        }
    }

    pub(crate) fn compare_realm(
        &self,
        root: ObjectId,
        links: ObjectId,
        r: &OracleRealm,
        memo: &mut Set<(u32, usize)>,
        what: &str,
    ) {
        self.compare_directory(root, &r.root, memo, what);
        let mut v = vec![];
        if links != 0 {
            self.list(links, &mut v)
        }
        if v.len() != r.links.len() {
            fail!(self, "{}: link table size", what)
        }
        for ((k, e), (ok, (n, f))) in v.iter().zip(r.links.iter()) {
            match e {
                Entry::TableFile { nlink, body, .. } if k == ok && nlink == n => self.compare_file(body, f, what),
                _ => fail!(self, "{}: link entry", what),
            }
        }
    }

    pub(crate) fn compare_roots(&self, t: &Roots, o: &OracleVolume, what: &str) {
        let mut memo = Set::default();
        if let Entry::Realm { root, links, .. } = &t.0 {
            self.compare_realm(*root, *links, &o.top, &mut memo, what)
        }
        let (mut ns, mut no) = (0, 0);
        for (k, e) in self.table_entries(t.1) {
            match e {
                Entry::TableFile { nlink: 0, body, .. } => match o.orphans.get(&k) {
                    Some(f) => {
                        no += 1;
                        self.compare_file(&body, f, what)
                    }
                    None => fail!(self, "{}: orphan {} should be gone", what, k),
                },
                Entry::Realm { root, links, read_only: true, realm, .. } if realm == k => {
                    match o.snapshots.get(&(k - SNAPSHOT_BASE)) {
                        Some(r) => {
                            ns += 1;
                            self.compare_realm(root, links, &r.1, &mut memo, "snapshot")
                        }
                        None => fail!(self, "{}: snapshot {} should be gone", what, k - SNAPSHOT_BASE),
                    }
                }
                _ => fail!(self, "realm table: kind"),
            }
        }
        if ns != o.snapshots.len() || no != o.orphans.len() {
            fail!(
                self,
                "{}: realm table has {} snapshots, {} orphans, want {}, {}",
                what,
                ns,
                no,
                o.snapshots.len(),
                o.orphans.len()
            )
        }
    }
}
