//! File bodies: a few slices inline, then a B+tree of slices.
//!
//! Owns which block ranges of an extent an operation frees: an exclusive extent's overwritten range at once, by the
//! operation itself (INV-11); a shared one's never.

use crate::bugs::Bug;
use crate::model::Model;
use crate::objects::{Body, Entry, INLINE_SLICES, ObjectId, Slice, Stamp, mask};
use crate::operation::ORPHAN_BASE;

impl Model {
    pub(crate) fn slices(&self, b: &Body) -> Vec<Slice> {
        match b {
            Body::Inline(v) => v.clone(),
            Body::Tree(r) => {
                let mut v = vec![];
                self.list(*r, &mut v);
                v.into_iter()
                    .map(|x| match x.1 {
                        Entry::Slice(s) => s,
                        _ => panic!(),
                    })
                    .collect()
            }
        }
    }

    pub(crate) fn body_insert(&mut self, b: Body, path_share: Stamp, s: Slice) -> Body {
        match b {
            Body::Inline(mut v) => {
                v.push(s);
                v.sort_by_key(|x| x.start);
                if v.len() > INLINE_SLICES {
                    let its = v.into_iter().map(|s| (s.start, Entry::Slice(s))).collect();
                    Body::Tree(self.new_node(0, true, its))
                } else {
                    Body::Inline(v)
                }
            }
            Body::Tree(r) => Body::Tree(self.insert(r, path_share, s.start, Entry::Slice(s))),
        }
    }

    pub(crate) fn body_remove(&mut self, b: Body, path_share: Stamp, start: u32) -> Body {
        match b {
            Body::Inline(mut v) => {
                v.retain(|x| x.start != start);
                Body::Inline(v)
            }
            Body::Tree(r) => {
                let r = self.remove(r, path_share, start);
                Body::Tree(r)
            }
        }
    }

    pub(crate) fn body_shrink(&mut self, b: Body, path_share: Stamp) -> Body {
        if let Body::Tree(r) = b {
            let nd = self.node(r);
            if nd.level == 0 && nd.items.len() <= 1 {
                let v = nd
                    .items
                    .iter()
                    .map(|x| match &x.1 {
                        Entry::Slice(s) => s.clone(),
                        _ => panic!(),
                    })
                    .collect();
                self.discard(r, path_share);
                return Body::Inline(v);
            }
        }
        b
    }

    pub(crate) fn free_range(&mut self, e: ObjectId, mk: u64) {
        *self.pending.freed_ranges.entry(e).or_insert(0) |= mk;
        self.stats.rfreeblk += mk.count_ones() as u64;
        if self.bug(Bug::ReuseUnckpt) && self.objects[e as usize].batch == 0 && self.extent(e).direct {
            let n = self.extent(e).tokens.len() as u32;
            if self.pending.freed_ranges[&e] == mask(0, n) {
                for b in 0..n {
                    if let Some(p) = self.current.places.remove(&(e, b)) {
                        self.available.push(p)
                    }
                }
            }
        }
    }

    pub(crate) fn body_punch(&mut self, mut b: Body, path_share: Stamp, a: u32, z: u32) -> Body {
        for s in self.slices(&b) {
            let (lo, hi) = (s.start.max(a), (s.start + s.len).min(z));
            if lo >= hi {
                continue;
            }
            let ex = self.is_exclusive(self.birth(s.extent), path_share);
            if ex {
                self.free_range(s.extent, mask(s.offset + lo - s.start, hi - lo))
            }
            b = self.body_remove(b, path_share, s.start);
            if s.start < lo {
                b = self.body_insert(
                    b,
                    path_share,
                    Slice { start: s.start, len: lo - s.start, extent: s.extent, offset: s.offset },
                )
            }
            if hi < s.start + s.len {
                b = self.body_insert(
                    b,
                    path_share,
                    Slice { start: hi, len: s.start + s.len - hi, extent: s.extent, offset: s.offset + hi - s.start },
                )
            }
            if ex
                && self.bug(Bug::LeafLocalFree)
                && let Body::Tree(r) = &b
            {
                // look only at the leaf that covers the punched position
                let mut n = *r;
                while self.node(n).level > 0 {
                    let nd = self.node(n);
                    n = match nd.items[Self::child_index(&nd.items, lo)].1 {
                        Entry::Child(c) => c,
                        _ => panic!(),
                    }
                }
                if !self.node(n).items.iter().any(|x| matches!(&x.1, Entry::Slice(q) if q.extent == s.extent)) {
                    self.pending.left_leaf.push(s.extent)
                }
            }
        }
        self.body_shrink(b, path_share)
    }

    /// Edit a file's body wherever it lives. f: (body, path_share) -> body ; `raise` = new share time
    pub(crate) fn file_edit(
        &mut self,
        p: &[u32],
        raise: Option<Stamp>,
        f: &mut dyn FnMut(&mut Model, Body, Stamp) -> Body,
    ) {
        match self.at(p) {
            Entry::File { .. } => self.edit(p, &mut |m, e, path_share| {
                if let Entry::File { share, body } = e {
                    let sh = share.max(raise.unwrap_or(0));
                    let b = f(m, body, path_share.max(sh));
                    Entry::File { share: sh, body: b }
                } else {
                    panic!()
                }
            }),
            Entry::Link(l) => {
                let rp = self.realm_path(&p[..p.len() - 1]);
                self.links_edit(&rp, &mut |m, lr, path_share| {
                    let e = m.get(lr, l).unwrap();
                    if let Entry::TableFile { share, nlink, body } = e {
                        let sh = share.max(raise.unwrap_or(0));
                        let b = f(m, body, path_share.max(sh));
                        m.insert(lr, path_share, l, Entry::TableFile { share: sh, nlink, body: b })
                    } else {
                        panic!()
                    }
                })
            }
            Entry::TableFile { share, nlink, body } if p[0] >= ORPHAN_BASE => {
                let sh = share.max(raise.unwrap_or(0));
                let b = f(self, body, sh);
                self.table_put(p[0] - ORPHAN_BASE, Entry::TableFile { share: sh, nlink, body: b })
            }
            _ => panic!("not a file"),
        }
    }

    pub(crate) fn file_body(&self, p: &[u32]) -> Body {
        match self.at(p) {
            Entry::File { body, .. } | Entry::TableFile { body, .. } => body,
            Entry::Link(l) => {
                let rp = self.realm_path(&p[..p.len() - 1]);
                if let Entry::Realm { links, .. } = self.at(&rp) {
                    match self.get(links, l) {
                        Some(Entry::TableFile { body, .. }) => body,
                        _ => fail!(self, "link missing"),
                    }
                } else {
                    panic!()
                }
            }
            _ => panic!(),
        }
    }
}
