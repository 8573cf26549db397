//! Link tables (files with several names) and the realm table (orphans by number, snapshots by number).
//!
//! Owns the moves of an inode between a directory entry, the link table and the orphan table. Every one of them raises the
//! moved entry's own share time to the largest on its old path; leaving that out frees live data.

use crate::bugs::Bug;
use crate::model::Model;
use crate::objects::{Entry, LINKS, ObjectId, Stamp};
use crate::operation::Path;
use std::collections::BTreeMap;

impl Model {
    /// Edit link table of realm at rp; f gets (links root, path_share)
    pub(crate) fn links_edit(&mut self, rp: &[u32], f: &mut dyn FnMut(&mut Model, ObjectId, Stamp) -> ObjectId) {
        self.edit(rp, &mut |m, mut e, path_share| {
            let es2 = m.down(path_share, &e);
            if let Entry::Realm { link_share, links, .. } = &mut e {
                let esl = es2.max(*link_share);
                let l = if *links == 0 { m.new_node(0, false, vec![]) } else { *links };
                *links = f(m, l, esl)
            } else {
                panic!()
            }
            e
        })
    }

    pub(crate) fn link_entry(&self, rp: &[u32], l: u32) -> Entry {
        if let Entry::Realm { links, .. } = self.at(rp) {
            self.get(links, l).unwrap_or_else(|| fail!(self, "link missing"))
        } else {
            panic!()
        }
    }

    pub(crate) fn link_share_of(e: &Entry) -> Stamp {
        if let Entry::Realm { link_share, .. } = e { *link_share } else { 0 }
    }

    /// One name less; `back`: the last name, in memory, takes the inode back
    pub(crate) fn drop_link_name(&mut self, rp: &[u32], l: u32, back: &Option<Path>) {
        if let Some(q) = back {
            let path_share = if self.bug(Bug::BackNoPush) {
                0
            } else {
                self.path_share_of(rp).max(Self::link_share_of(&self.at(rp)))
            };
            self.stats.converted_back += 1;
            if let Entry::TableFile { share, nlink: 1 | 2, body } = self.link_entry(rp, l) {
                let sh = if self.bug(Bug::BackDropsShare) { path_share } else { share.max(path_share) };
                self.links_edit(rp, &mut |m, lr, path_share| m.remove(lr, path_share, l));
                self.dir_insert(&q[..q.len() - 1], q[q.len() - 1], Entry::File { share: sh, body })
            } else {
                fail!(self, "conversion back")
            }
            return;
        }
        self.links_edit(rp, &mut |m, lr, path_share| match m.get(lr, l) {
            Some(Entry::TableFile { share, nlink, body }) => {
                if nlink <= 1 {
                    m.remove(lr, path_share, l)
                } else {
                    m.insert(lr, path_share, l, Entry::TableFile { share, nlink: nlink - 1, body })
                }
            }
            _ => fail!(m, "drop_link_name"),
        })
    }

    /// The last name of an open file goes: its inode moves to the orphan table
    pub(crate) fn move_to_orphans(&mut self, d: &[u32], k: u32, lid: u32) {
        let rp = self.realm_path(d);
        self.stats.orphans += 1;
        let (path_share, share, body) = match self.get(Self::root_of(&self.at(d)), k) {
            Some(Entry::File { share, body }) => (self.path_share_of(d), share, body),
            Some(Entry::Link(l)) => {
                let path_share = self.path_share_of(&rp).max(Self::link_share_of(&self.at(&rp)));
                match self.link_entry(&rp, l) {
                    Entry::TableFile { share, nlink: 1, body } => {
                        self.links_edit(&rp, &mut |m, lr, path_share| m.remove(lr, path_share, l));
                        (path_share, share, body)
                    }
                    _ => fail!(self, "orphan: nlink"),
                }
            }
            _ => panic!(),
        };
        let sh = if self.bug(Bug::OrphanNoPush) { share } else { share.max(path_share) };
        self.dir_remove(d, k);
        self.table_put(lid, Entry::TableFile { share: sh, nlink: 0, body })
    }

    /// Names of link files below a directory's root, inside its realm, found along LINKS flags
    pub(crate) fn link_names_below(&self, n: ObjectId, out: &mut BTreeMap<u32, u32>) {
        if self.node(n).flags & LINKS == 0 {
            return;
        }
        for it in self.node(n).items.clone() {
            match it.1 {
                Entry::Link(l) => *out.entry(l).or_insert(0) += 1,
                Entry::Child(c) => self.link_names_below(c, out),
                Entry::Directory { root, .. } => self.link_names_below(root, out),
                _ => {}
            }
        }
    }

    pub(crate) fn table_entries(&self, top: ObjectId) -> Vec<(u32, Entry)> {
        let mut v = vec![];
        if top != 0 {
            self.list(top, &mut v)
        }
        v
    }

    pub(crate) fn table_put(&mut self, k: u32, e: Entry) {
        self.table = self.insert(self.table, 0, k, e)
    }

    pub(crate) fn table_remove(&mut self, k: u32) {
        self.table = self.remove(self.table, 0, k)
    }
}
