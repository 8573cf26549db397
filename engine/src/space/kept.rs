//! Where units lie that died while a pin may be held: their segment's page does not say it any more (decision 0016).
//!
//! Filled by the publication in which they died, before anybody can see that page; emptied at its end, unless a pin is held that is older. If power fails, nothing here matters.

use super::sync::RwLock;
use super::sync::atomic::{AtomicUsize, Ordering};
use crate::state::{Fragment, SlotMap};
use std::collections::{BTreeMap, HashMap};

/// Bytes of memory that a fragment takes here, at most: its place in a tree that may be half empty, and its segment's.
pub const FRAGMENT_BYTES: u64 = 160;

/// Fragments of a segment by slot, and the version in which they were dead first.
type Places = BTreeMap<u32, (Fragment, u64)>;

/// Fragments by segment and slot.
#[derive(Default)]
pub struct Kept {
    fragments: RwLock<HashMap<u32, Places>>,
    count: AtomicUsize,
}

impl Kept {
    /// Whether there are none, so that nobody need look.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Adds (segment, slot, fragment), dead in a version; false if they would be more than `max`.
    pub fn add(&self, buried: &[(u32, u32, Fragment)], version: u64, max: usize) -> bool {
        let mut fragments = self.fragments.write();
        if self.count.load(Ordering::Acquire) + buried.len() > max {
            return false;
        }
        for (segment, slot, fragment) in buried {
            if fragments.entry(*segment).or_default().insert(*slot, (*fragment, version)).is_none() {
                self.count.fetch_add(1, Ordering::AcqRel);
            }
        }
        true
    }

    /// Forgets what nobody can see: pins of `oldest` and later are held. None: all.
    pub fn prune(&self, oldest: Option<u64>) {
        if self.is_empty() {
            return;
        }
        let mut fragments = self.fragments.write();
        for slots in fragments.values_mut() {
            slots.retain(|_, (_, version)| oldest.is_some_and(|oldest| oldest < *version));
        }
        fragments.retain(|_, slots| !slots.is_empty());
        if fragments.is_empty() {
            *fragments = HashMap::new();
        }
        self.count.store(fragments.values().map(BTreeMap::len).sum(), Ordering::Release);
    }

    /// Those of a segment.
    #[must_use]
    pub fn of(&self, segment: u32) -> Option<SlotMap> {
        if self.is_empty() {
            return None;
        }
        let fragments = self.fragments.read();
        let slots = fragments.get(&segment)?;
        Some(slots.iter().map(|(slot, (fragment, _))| (*slot, *fragment)).collect())
    }
}
