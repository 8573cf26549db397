//! Realms: which are own, their snapshot lists, and the entry of a new clone or snapshot (DESIGN 7).

use crate::bugs::Bug;
use crate::model::Model;
use crate::objects::{Entry, SNAPSHOTS, TOP_REALM};
use crate::operation::{Path, SNAPSHOT_BASE};
use std::collections::BTreeMap;

impl Model {
    /// Innermost realm of p, and whether it is own (its entry and those of all realms around it name the realm around as home): only then its record is the one of its id
    pub(crate) fn innermost_realm(&self, p: &[u32]) -> (bool, u32) {
        let (mut e, i) = self.start(p);
        let mut own = true;
        let mut cur = if let Entry::Realm { realm, .. } = e { realm } else { panic!() };
        for k in &p[i..] {
            e = self.get(Self::root_of(&e), *k).unwrap();
            if let Entry::Realm { realm, home, .. } = e {
                own = self.is_own(own, home, cur);
                cur = realm
            }
        }
        (own, cur)
    }

    pub(crate) fn is_own(&self, around: bool, home: u32, cur: u32) -> bool {
        self.bug(Bug::AdoptSkipped) || home == cur && (around || self.bug(Bug::AdoptLocalTest))
    }

    /// `ls p/.has_snapshots`
    pub(crate) fn snapshots_at(&self, p: &[u32]) -> Vec<u32> {
        let (own, realm) = self.innermost_realm(p);
        if !own {
            return vec![];
        }
        let n = match self.at(p) {
            Entry::Directory { inode, .. } => inode,
            _ => 0,
        };
        self.table_entries(self.table)
            .into_iter()
            .filter(|x| matches!(x.1, Entry::Realm { home, inode, .. } if home == realm && inode == n))
            .map(|x| x.0 - SNAPSHOT_BASE)
            .collect()
    }

    /// Own snapshot lists at and below entry e of realm (around, cur), found along SNAPSHOTS flags
    pub(crate) fn own_snapshots_below(
        &self,
        e: &Entry,
        around: bool,
        cur: u32,
        t: &[(u32, Entry)],
        out: &mut Vec<u32>,
    ) {
        if self.entry_flags(e) & SNAPSHOTS == 0 {
            return;
        }
        let (own, cur, n, has_snapshots) = match e {
            Entry::Directory { inode, has_snapshots, .. } => (around, cur, *inode, *has_snapshots),
            Entry::Realm { realm, home, has_snapshots, .. } => {
                (self.is_own(around, *home, cur) || self.bug(Bug::DropForeign), *realm, 0, *has_snapshots)
            }
            _ => return,
        };
        if !own {
            return;
        } // nothing below is own
        if has_snapshots {
            for x in t {
                if matches!(x.1, Entry::Realm { home, inode, .. } if home == cur && inode == n) {
                    out.push(x.0)
                }
            }
        }
        let mut v = vec![];
        self.list(Self::root_of(e), &mut v);
        for x in v {
            self.own_snapshots_below(&x.1, own, cur, t, out)
        }
    }

    /// Outermost realm on p that is not own: it needs an ADOPT before anything below it changes
    pub(crate) fn foreign(&self, p: &[u32]) -> Option<Path> {
        if p.is_empty() || p[0] >= SNAPSHOT_BASE {
            return None;
        }
        let mut own = true;
        let mut cur = TOP_REALM;
        let mut e = self.top.clone();
        for (i, k) in p.iter().enumerate() {
            e = self.get(Self::root_of(&e), *k).unwrap();
            match e {
                Entry::Realm { realm, home, .. } => {
                    own = self.is_own(own, home, cur);
                    if !own {
                        return Some(p[..=i].to_vec());
                    }
                    cur = realm
                }
                Entry::Directory { .. } => {}
                _ => break,
            }
        }
        None
    }

    pub(crate) fn set_snapshot_flag(&mut self, d: &[u32], v: bool) {
        self.edit(d, &mut |_, mut e, _| {
            if let Entry::Directory { has_snapshots, .. } | Entry::Realm { has_snapshots, .. } = &mut e {
                *has_snapshots = v
            }
            e
        })
    }

    /// The entry of a clone or snapshot of src; raises both sides
    pub(crate) fn fork(&mut self, src: &[u32], read_only: bool, realm: u32, home: u32, inode: u32) -> Entry {
        let t = self.share_now();
        let e = self.at(src);
        let sro = self.is_read_only(src);
        let root = Self::root_of(&e);
        let rp = self.realm_path(src);
        let nt = if sro && self.bug(Bug::SnapCloneRaiseNone) { 0 } else { t };
        let raise = !sro && !self.bug(Bug::CloneNoSrcShare);
        if raise {
            self.edit(src, &mut |_, mut e, _| {
                Self::set_share(&mut e, t);
                e
            })
        }
        let mut links = if let Entry::Realm { links, .. } = self.at(&rp) { links } else { panic!() };
        if matches!(e, Entry::Directory { .. }) && !self.bug(Bug::InnerShareLinks) {
            // copy the link entries found inside
            let mut v = BTreeMap::new();
            self.link_names_below(root, &mut v);
            let old = links;
            links = 0;
            if !v.is_empty() {
                self.stats.inner_link_clones += 1;
                links = self.new_node(0, false, vec![])
            }
            let whole = self.seed & 8 != 0; // two ways to raise the source: the table's share time, or each entry's
            if raise && whole && !v.is_empty() && !self.bug(Bug::LinkShareNotRaised) {
                self.edit(&rp, &mut |_, mut e, _| {
                    if let Entry::Realm { link_share, .. } = &mut e {
                        *link_share = t
                    }
                    e
                })
            }
            for (l, n) in v {
                self.stats.links_copied += 1;
                let (share, nlink, body) = match self.get(old, l) {
                    Some(Entry::TableFile { share, nlink, body }) => (share, nlink, body),
                    _ => fail!(self, "link copy: {} missing", l),
                };
                if raise && !whole && !self.bug(Bug::LinkShareNotRaised) {
                    let b = body.clone();
                    self.links_edit(&rp, &mut |m, lr, path_share| {
                        m.insert(lr, path_share, l, Entry::TableFile { share: t.max(share), nlink, body: b.clone() })
                    })
                }
                let n = if self.bug(Bug::LinkCopyNlink) { nlink } else { n };
                links = self.insert(links, 0, l, Entry::TableFile { share: nt, nlink: n, body })
            }
        }
        Entry::Realm { share: nt, link_share: 0, read_only, root, links, realm, home, inode, has_snapshots: false }
    }
}
