//! Counts of shared objects: batches of deltas merged in bulk, and the paced queue that drops what reaches zero (DESIGN 8).
//!
//! An object starts at an implicit one; only the excess is stored. A batch merges whole or not at all (INV-07).

use crate::bugs::Bug;
use crate::model::{DeadBlock, Model};
use crate::objects::{Content, ObjectId};

impl Model {
    pub(crate) fn free_block(&mut self, e: ObjectId, b: u32, k: u32) {
        if let Some(p) = self.current.places.remove(&(e, b)) {
            let bi = self.birth(e);
            self.current.dead.push(DeadBlock { object: e, block: b, place: p, birth: bi, batch: k })
        }
    }

    pub(crate) fn free_object(&mut self, n: ObjectId, k: u32) {
        if !self.current.freed.insert(n) {
            fail!(self, "double free of {}", n)
        }
        self.current.counts.remove(&n);
        let nb = match &self.objects[n as usize].content {
            Content::Node(_) => 1,
            Content::Extent(e) => e.tokens.len() as u32,
        };
        for b in 0..nb {
            self.free_block(n, b, k)
        }
    }

    pub(crate) fn apply_delta(&mut self, x: ObjectId, v: i64) {
        if self.current.freed.contains(&x) {
            self.stats.dec_on_freed += 1;
            if self.config.restamp || self.bug(Bug::DoubleDec) {
                fail!(self, "delta {} on object {} freed by the fast path", v, x)
            }
            return;
        }
        let c = self.current.counts.entry(x).or_insert(0);
        *c += v;
        if *c > 0 && *c as u64 > self.stats.maxcount {
            self.stats.maxcount = *c as u64
        }
        if *c == 0 {
            self.current.counts.remove(&x);
        } else if *c == -1 {
            self.current.counts.remove(&x);
            self.current.drop_queue.push(x)
        } else if *c < -1 {
            fail!(self, "negative count of {}", x)
        }
    }

    pub(crate) fn merge_batch(&mut self, b: Vec<(ObjectId, i64)>) {
        for (x, v) in b {
            if self.current.drop_queue.contains(&x) {
                if self.bug(Bug::MergeMidBatch) {
                    fail!(self, "delta on dropped object")
                }
                fail!(self, "delta {} on dropped object {}", v, x)
            }
            self.apply_delta(x, v)
        }
    }

    pub(crate) fn run_drop_queue(&mut self, steps: usize, k: u32) {
        let mut i = 0;
        while i < steps {
            let n = self.current.drop_queue.len();
            if n == 0 {
                break;
            }
            let j = self.generator.rng.below(n as u32) as usize;
            let x = self.current.drop_queue.swap_remove(j);
            if self.current.freed.contains(&x) {
                i += 1;
                continue;
            }
            let path_share = self.edges(x);
            self.free_object(x, k);
            for c in path_share {
                self.apply_delta(c, -1)
            }
            i += 1
        }
    }
}
