//! Numbers that clients draw, never twice: the bound up to which they may is durable before they do.

use crate::sabotage::{self, Rule};
use crate::store::Counter;
use crate::sync::atomic::{AtomicU64, Ordering};
use envoyfs_layout::directory_page::Bounds;

/// Numbers that clients draw.
#[derive(Default)]
pub(crate) struct Counters {
    next: [AtomicU64; 3],
    bound: [AtomicU64; 3],
}

impl Counters {
    /// How far a publication reserves ahead: inodes, realms, territories.
    const CHUNK: [u64; 3] = [1 << 22, 1 << 20, 1 << 16];

    pub(crate) fn start(bounds: &Bounds) -> Self {
        let first = [bounds.inode, bounds.realm, bounds.territory].map(|bound| bound.max(1));
        Self { next: first.map(AtomicU64::new), bound: first.map(AtomicU64::new) }
    }
    /// Bounds for the next publication; `segment` as given.
    pub(crate) fn reserve(&self, segment: u64) -> Bounds {
        let mut ahead = self.next.iter().zip(Self::CHUNK).map(|(next, chunk)| {
            let chunk = if sabotage::on(Rule::BoundNotRaised) { 0 } else { chunk };
            next.load(Ordering::SeqCst).saturating_add(chunk)
        });
        let mut take = || ahead.next().unwrap_or(0);
        Bounds { segment, inode: take(), realm: take(), territory: take(), pin: 1 }
    }
    /// They are durable.
    pub(crate) fn raise(&self, bounds: &Bounds) {
        for (bound, value) in self.bound.iter().zip([bounds.inode, bounds.realm, bounds.territory]) {
            bound.fetch_max(value, Ordering::SeqCst);
        }
    }
    /// The next number; none beyond the durable bound.
    pub(super) fn draw(&self, counter: Counter) -> Option<u64> {
        let index = match counter {
            Counter::Inode => 0,
            Counter::Realm => 1,
            Counter::Territory => 2,
        };
        let (next, bound) = (self.next.get(index)?, self.bound.get(index)?);
        let bound = bound.load(Ordering::SeqCst);
        next.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |next| {
            (next < bound || sabotage::on(Rule::BoundNotRaised)).then_some(next + 1)
        })
        .ok()
    }
}
