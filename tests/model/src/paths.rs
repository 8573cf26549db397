//! Paths: from a list of names to an entry, its path share time and its realm; and the rewrite of a path after an edit.
//!
//! Owns the *path share time*: the largest share time from the volume root down to an entry, that entry's own included.

use crate::bugs::Bug;
use crate::model::Model;
use crate::objects::{Entry, ObjectId, Roots, Stamp};
use crate::operation::{ORPHAN_BASE, Path, SNAPSHOT_BASE};

impl Model {
    /// Where a path starts: the top, or a snapshot or orphan in the realm table (share time of that path: 0)
    pub(crate) fn start(&self, p: &[u32]) -> (Entry, usize) {
        if !p.is_empty() && p[0] >= SNAPSHOT_BASE {
            let k = if p[0] >= ORPHAN_BASE { p[0] - ORPHAN_BASE } else { p[0] };
            (self.get(self.table, k).unwrap_or_else(|| fail!(self, "realm table: {} missing", p[0])), 1)
        } else {
            (self.top.clone(), 0)
        }
    }

    pub(crate) fn at(&self, p: &[u32]) -> Entry {
        let (mut e, i) = self.start(p);
        for k in &p[i..] {
            let r = Self::root_of(&e);
            e = self.get(r, *k).unwrap_or_else(|| fail!(self, "path {:?} missing", p));
        }
        e
    }

    pub(crate) fn root_of(e: &Entry) -> ObjectId {
        match e {
            Entry::Directory { root, .. } | Entry::Realm { root, .. } => *root,
            _ => panic!("not a dir"),
        }
    }

    pub(crate) fn share_of(e: &Entry) -> Stamp {
        match e {
            Entry::Directory { share, .. }
            | Entry::Realm { share, .. }
            | Entry::File { share, .. }
            | Entry::TableFile { share, .. } => *share,
            _ => 0,
        }
    }

    pub(crate) fn down(&self, path_share: Stamp, e: &Entry) -> Stamp {
        if self.bug(Bug::RealmLocalShare) && matches!(e, Entry::Realm { .. }) {
            return Self::share_of(e);
        }
        path_share.max(Self::share_of(e))
    }

    /// Largest share time on the path from the root, p's own included
    pub(crate) fn path_share_of(&self, p: &[u32]) -> Stamp {
        let (mut e, i) = self.start(p);
        let mut path_share = Self::share_of(&e);
        for k in &p[i..] {
            e = self.get(Self::root_of(&e), *k).unwrap();
            path_share = self.down(path_share, &e)
        }
        path_share
    }

    pub(crate) fn is_read_only(&self, p: &[u32]) -> bool {
        let (mut e, i) = self.start(p);
        let read_only = |e: &Entry| matches!(e, Entry::Realm { read_only: true, .. });
        if read_only(&e) {
            return true;
        }
        for k in &p[i..] {
            e = self.get(Self::root_of(&e), *k).unwrap();
            if read_only(&e) {
                return true;
            }
        }
        false
    }

    /// The longest prefix of `p` that is a realm.
    pub(crate) fn realm_path(&self, p: &[u32]) -> Path {
        let (mut e, taken) = self.start(p);
        let mut longest = taken;
        for (i, name) in p.iter().enumerate().skip(taken) {
            e = self.get(Self::root_of(&e), *name).expect("path");
            if let Entry::Realm { .. } = e {
                longest = i + 1;
            }
        }
        p[..longest].to_vec()
    }

    pub(crate) fn set_root(e: &mut Entry, r: ObjectId) {
        match e {
            Entry::Directory { root, .. } | Entry::Realm { root, .. } => *root = r,
            _ => panic!(),
        }
    }

    pub(crate) fn set_share(e: &mut Entry, t: Stamp) {
        match e {
            Entry::Directory { share, .. }
            | Entry::Realm { share, .. }
            | Entry::File { share, .. }
            | Entry::TableFile { share, .. } => *share = t.max(*share),
            _ => {}
        }
    }

    pub(crate) fn edit_rec(
        &mut self,
        mut e: Entry,
        path_share: Stamp,
        p: &[u32],
        f: &mut dyn FnMut(&mut Model, Entry, Stamp) -> Entry,
    ) -> Entry {
        if p.is_empty() {
            return f(self, e, path_share);
        }
        let es2 = self.down(path_share, &e);
        let root = Self::root_of(&e);
        let c = self.get(root, p[0]).unwrap();
        let c2 = self.edit_rec(c, es2, &p[1..], f);
        let r2 = self.insert(root, es2, p[0], c2);
        Self::set_root(&mut e, r2);
        e
    }

    /// Edit the entry at p; f gets the entry and path_share of its *parents*
    pub(crate) fn edit(&mut self, p: &[u32], f: &mut dyn FnMut(&mut Model, Entry, Stamp) -> Entry) {
        let e = self.top.clone();
        self.top = self.edit_rec(e, 0, p, f);
    }

    pub(crate) fn dir_insert(&mut self, d: &[u32], key: u32, it: Entry) {
        self.edit(d, &mut |m, mut e, path_share| {
            let es2 = m.down(path_share, &e);
            let r = m.insert(Self::root_of(&e), es2, key, it.clone());
            Self::set_root(&mut e, r);
            e
        })
    }

    pub(crate) fn dir_remove(&mut self, d: &[u32], key: u32) {
        self.edit(d, &mut |m, mut e, path_share| {
            let es2 = m.down(path_share, &e);
            let r = m.remove(Self::root_of(&e), es2, key);
            Self::set_root(&mut e, r);
            e
        })
    }

    pub(crate) fn roots(&self) -> Roots {
        (self.top.clone(), self.table)
    }
}
