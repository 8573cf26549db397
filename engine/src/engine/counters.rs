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
    pub(crate) const CHUNK: [u64; 3] = [1 << 22, 1 << 20, 1 << 16];
    /// No number from here on: an inode's has 40 bits.
    pub(crate) const END: [u64; 3] = [1 << 40, u64::MAX, u64::MAX];

    pub(crate) fn start(bounds: &Bounds) -> Self {
        let first = [bounds.inode, bounds.realm, bounds.territory].map(|bound| bound.max(1));
        Self { next: first.map(AtomicU64::new), bound: first.map(AtomicU64::new) }
    }
    /// Bounds for the next publication; `segment` as given.
    pub(crate) fn reserve(&self, segment: u64) -> Bounds {
        let mut ahead = self.next.iter().zip(Self::CHUNK).zip(Self::END).map(|((next, chunk), end)| {
            let chunk = if sabotage::on(Rule::BoundNotRaised) { 0 } else { chunk };
            next.load(Ordering::SeqCst).saturating_add(chunk).min(end)
        });
        let mut take = || ahead.next().unwrap_or(0);
        Bounds { segment, inode: take(), realm: take(), territory: take(), pin: 1 }
    }
    /// The first that were not handed out; `segment` as given.
    pub(crate) fn next(&self, segment: u64) -> Bounds {
        let [inode, realm, territory] =
            [0, 1, 2].map(|index: usize| self.next.get(index).map_or(u64::MAX, |next| next.load(Ordering::SeqCst)));
        Bounds { segment, inode, realm, territory, pin: 1 }
    }
    /// All of them were handed out, ever.
    pub(super) fn is_used_up(&self, counter: Counter) -> bool {
        let end = Self::END.get(counter.index()).copied().unwrap_or(u64::MAX);
        self.next.get(counter.index()).is_none_or(|next| next.load(Ordering::SeqCst) >= end)
    }
    /// They are durable.
    pub(crate) fn raise(&self, bounds: &Bounds) {
        for (bound, value) in self.bound.iter().zip([bounds.inode, bounds.realm, bounds.territory]) {
            bound.fetch_max(value, Ordering::SeqCst);
        }
    }
    /// The next number; none beyond the durable bound.
    pub(super) fn draw(&self, counter: Counter) -> Option<u64> {
        let (next, bound) = (self.next.get(counter.index())?, self.bound.get(counter.index())?);
        let bound = bound.load(Ordering::SeqCst);
        next.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |next| {
            (next < bound || sabotage::on(Rule::BoundNotRaised)).then_some(next + 1)
        })
        .ok()
    }
}

impl Counter {
    const fn index(self) -> usize {
        match self {
            Counter::Inode => 0,
            Counter::Realm => 1,
            Counter::Territory => 2,
        }
    }
}
