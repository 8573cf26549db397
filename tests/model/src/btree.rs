//! Copy-on-write B+trees: directories, extent trees, link tables and the realm table are all of them.
//!
//! Owns who may change a node in place. A node is changed in place only while no checkpoint holds it *and* it is exclusive;
//! otherwise a copy takes its place, and a stored exclusive original is freed by the fast path (DESIGN 8).

use crate::bugs::Bug;
use crate::model::Model;
use crate::objects::{Content, DIRECTORY_FANOUT, Entry, FILE_FANOUT, ObjectId, Stamp};

impl Model {
    pub(crate) fn writable(&mut self, n: ObjectId, path_share: Stamp) -> ObjectId {
        let b = self.birth(n);
        let ex = self.is_exclusive(b, path_share);
        let ck = self.objects[n as usize].batch;
        let mem = ck == 0 || (self.bug(Bug::InPlaceFrozen) && ck > self.durable.batch);
        if mem && ex {
            if self.config.restamp {
                let bn = self.birth_now();
                self.node_mut(n).birth = bn
            }
            return n;
        }
        if mem {
            self.stats.mem_shared_copy += 1
        }
        let mut c = self.node(n).clone();
        c.birth = self.birth_now();
        let m = self.add(Content::Node(c));
        self.stats.newnodes += 1;
        if ck != 0 {
            if ex {
                self.pending.freed.insert(n);
                self.pending.replaced.push((n, m, path_share));
                self.stats.fastfree += 1
            } else {
                self.stats.cow_shared += 1;
                self.pending.replaced_shared.push(n)
            }
        }
        m
    }

    pub(crate) fn discard(&mut self, n: ObjectId, path_share: Stamp) {
        // node leaves the tree without successor
        if n != 0 && self.objects[n as usize].batch != 0 && self.is_exclusive(self.birth(n), path_share) {
            self.pending.freed.insert(n);
        }
    }

    pub(crate) fn child_index(items: &[(u32, Entry)], key: u32) -> usize {
        let mut i = 0;
        for (j, it) in items.iter().enumerate() {
            if it.0 <= key {
                i = j
            }
        }
        i
    }

    pub(crate) fn get(&self, root: ObjectId, key: u32) -> Option<Entry> {
        let mut n = root;
        loop {
            let nd = self.node(n);
            if nd.level == 0 {
                return nd.items.iter().find(|x| x.0 == key).map(|x| x.1.clone());
            }
            if nd.items.is_empty() {
                return None;
            }
            n = match nd.items[Self::child_index(&nd.items, key)].1 {
                Entry::Child(c) => c,
                _ => panic!(),
            };
        }
    }

    pub(crate) fn insert_below(
        &mut self,
        n: ObjectId,
        path_share: Stamp,
        key: u32,
        it: Entry,
    ) -> (ObjectId, Option<(u32, ObjectId)>) {
        let m = self.writable(n, path_share);
        let (level, file) = {
            let nd = self.node(m);
            (nd.level, nd.file)
        };
        if level == 0 {
            let nd = self.node_mut(m);
            match nd.items.binary_search_by_key(&key, |x| x.0) {
                Ok(i) => nd.items[i].1 = it,
                Err(i) => nd.items.insert(i, (key, it)),
            }
        } else {
            let (i, c) = {
                let nd = self.node(m);
                let i = Self::child_index(&nd.items, key);
                (
                    i,
                    match nd.items[i].1 {
                        Entry::Child(c) => c,
                        _ => panic!(),
                    },
                )
            };
            let (c2, sp) = self.insert_below(c, path_share, key, it);
            let nd = self.node_mut(m);
            nd.items[i].1 = Entry::Child(c2);
            if key < nd.items[i].0 {
                nd.items[i].0 = key
            }
            if let Some((k2, s)) = sp {
                nd.items.insert(i + 1, (k2, Entry::Child(s)))
            }
        }
        let mx = if file { FILE_FANOUT } else { DIRECTORY_FANOUT };
        if self.node(m).items.len() > mx {
            self.stats.splits += 1;
            let h = self.node(m).items.len() / 2;
            let right = self.node_mut(m).items.split_off(h);
            let k2 = right[0].0;
            let s = self.new_node(level, file, right);
            self.update_flags(m);
            return (m, Some((k2, s)));
        }
        self.update_flags(m);
        (m, None)
    }

    pub(crate) fn insert(&mut self, root: ObjectId, path_share: Stamp, key: u32, it: Entry) -> ObjectId {
        let (m, sp) = self.insert_below(root, path_share, key, it);
        if let Some((k2, s)) = sp {
            let (lv, f, k1) = {
                let nd = self.node(m);
                (nd.level, nd.file, nd.items[0].0)
            };
            return self.new_node(lv + 1, f, vec![(k1, Entry::Child(m)), (k2, Entry::Child(s))]);
        }
        m
    }

    pub(crate) fn remove_below(&mut self, n: ObjectId, path_share: Stamp, key: u32) -> ObjectId {
        let m = self.remove_below_unflagged(n, path_share, key);
        self.update_flags(m);
        m
    }

    pub(crate) fn remove_below_unflagged(&mut self, n: ObjectId, path_share: Stamp, key: u32) -> ObjectId {
        let m = self.writable(n, path_share);
        let (level, file) = {
            let nd = self.node(m);
            (nd.level, nd.file)
        };
        if level == 0 {
            let nd = self.node_mut(m);
            if let Ok(i) = nd.items.binary_search_by_key(&key, |x| x.0) {
                nd.items.remove(i);
            } else {
                fail!(self, "remove: absent key")
            }
            return m;
        }
        let (i, c) = {
            let nd = self.node(m);
            let i = Self::child_index(&nd.items, key);
            (
                i,
                match nd.items[i].1 {
                    Entry::Child(c) => c,
                    _ => panic!(),
                },
            )
        };
        let c2 = self.remove_below(c, path_share, key);
        self.node_mut(m).items[i].1 = Entry::Child(c2);
        let clen = self.node(c2).items.len();
        let mx = if file { FILE_FANOUT } else { DIRECTORY_FANOUT };
        if clen == 0 {
            self.node_mut(m).items.remove(i);
            self.discard(c2, path_share);
        } else if clen <= mx / 2 {
            let cnt = self.node(m).items.len();
            let (l, r) = if i + 1 < cnt {
                (i, i + 1)
            } else if i > 0 {
                (i - 1, i)
            } else {
                return m;
            };
            let (li, ri) = {
                let nd = self.node(m);
                (
                    match nd.items[l].1 {
                        Entry::Child(c) => c,
                        _ => panic!(),
                    },
                    match nd.items[r].1 {
                        Entry::Child(c) => c,
                        _ => panic!(),
                    },
                )
            };
            if self.node(li).items.len() + self.node(ri).items.len() <= mx {
                self.stats.merges += 1;
                let lo = self.writable(li, path_share);
                let its = self.node(ri).items.clone();
                self.discard(ri, path_share);
                self.node_mut(lo).items.extend(its);
                self.update_flags(lo);
                let nd = self.node_mut(m);
                nd.items[l].1 = Entry::Child(lo);
                nd.items.remove(r);
            }
        }
        m
    }

    pub(crate) fn remove(&mut self, root: ObjectId, path_share: Stamp, key: u32) -> ObjectId {
        let mut m = self.remove_below(root, path_share, key);
        loop {
            let nd = self.node(m);
            if nd.level > 0 && nd.items.len() == 1 {
                let c = match nd.items[0].1 {
                    Entry::Child(c) => c,
                    _ => panic!(),
                };
                self.discard(m, path_share);
                m = c
            } else if nd.level > 0 && nd.items.is_empty() {
                let f = nd.file;
                self.discard(m, path_share);
                m = self.new_node(0, f, vec![])
            } else {
                return m;
            }
        }
    }

    pub(crate) fn list(&self, root: ObjectId, out: &mut Vec<(u32, Entry)>) {
        let nd = self.node(root);
        if nd.level == 0 {
            out.extend(nd.items.iter().cloned())
        } else {
            for it in &nd.items {
                if let Entry::Child(c) = it.1 {
                    self.list(c, out)
                }
            }
        }
    }
}
