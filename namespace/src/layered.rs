//! A stored tree with the changes since as layers above it: directories, link tables and the realm table in memory.
//!
//! Owns the merge of `active` over `frozen` over the stored tree. It promises that a look-up sees the newest change, that readers need no more than a shared lock, and that
//! the state at the end of an epoch stays as it was until the builder has stored it. If power fails the layers are rebuilt from the log.

use crate::api::Result;
use crate::tree::{Item, Nodes, Tree};
use envoyfs_layout::totals::Totals;
use envoyfs_layout::{Hlc, Reference};
use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::iter::Peekable;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

/// What a tree of one kind holds.
pub(crate) trait Value: Clone {
    /// From a leaf: key and item.
    fn decode(key: &[u8], item: &Item) -> Result<Self>;
    /// For a leaf.
    fn encode(&self) -> Result<Item>;
}

/// A changed item.
#[derive(Clone)]
pub(crate) struct Changed<V> {
    /// What it is now; none if it was removed.
    pub value: Option<V>,
    /// Birth of the change.
    pub birth: Hlc,
}

/// Changed items by key.
pub(crate) type Overlay<V> = BTreeMap<Vec<u8>, Changed<V>>;

/// The layers as they were at the end of an epoch.
pub(crate) struct FrozenLayer<V> {
    epoch: u64,
    overlay: Arc<Overlay<V>>,
}

/// See the module.
pub(crate) struct Layered<V> {
    /// The stored tree; none if no builder has made one.
    pub base: Option<Reference>,
    /// Totals of the stored tree.
    pub totals: Totals,
    /// Items in the stored tree, for estimates.
    pub items: u64,
    active: Overlay<V>,
    epoch: u64,
    frozen: Option<FrozenLayer<V>>,
}

impl<V: Value> Layered<V> {
    /// Over a stored tree, or over nothing.
    pub fn new(base: Option<Reference>, totals: Totals) -> Self {
        Self { base, totals, items: 0, active: Overlay::new(), epoch: 0, frozen: None }
    }

    /// Before a change in this epoch: keeps what the builder of the last one still needs.
    pub fn touch(&mut self, epoch: u64) {
        if self.epoch < epoch {
            if !self.active.is_empty() {
                self.freeze_as(epoch.saturating_sub(1));
            }
            self.epoch = epoch;
        }
    }

    fn freeze_as(&mut self, epoch: u64) -> Arc<Overlay<V>> {
        assert!(self.frozen.is_none(), "the builder has finished before the next freeze");
        let overlay = Arc::new(std::mem::take(&mut self.active));
        self.frozen = Some(FrozenLayer { epoch, overlay: overlay.clone() });
        overlay
    }

    /// For the builder: the changes at the end of `epoch`. They stay visible to readers until [`Self::install`].
    pub fn at_end_of(&mut self, epoch: u64) -> Arc<Overlay<V>> {
        match &self.frozen {
            Some(frozen) if frozen.epoch == epoch => frozen.overlay.clone(),
            None if self.epoch <= epoch && !self.active.is_empty() => self.freeze_as(epoch),
            _ => Arc::new(Overlay::new()),
        }
    }

    /// The builder has stored the frozen layer.
    pub fn install(&mut self, base: Reference, totals: Totals, items: u64) {
        self.base = Some(base);
        self.totals = totals;
        self.items = items;
        self.frozen = None;
    }

    /// Changes an item in this epoch; the birth of a change never falls.
    pub fn put(&mut self, epoch: u64, key: Vec<u8>, value: Option<V>, birth: Hlc) {
        self.touch(epoch);
        let birth = self.active.get(&key).map_or(birth, |old| birth.max(old.birth));
        self.active.insert(key, Changed { value, birth });
    }

    /// Changes that no builder has seen.
    pub fn changes(&self) -> u64 {
        u64::try_from(self.active.len()).unwrap_or(u64::MAX)
    }

    /// Looks a key up.
    pub fn get(&self, nodes: &Nodes, tree: &Tree, key: &[u8]) -> Result<Option<V>> {
        let frozen = self.frozen.as_ref().map(|f| &f.overlay);
        if let Some(change) = self.active.get(key).or_else(|| frozen.and_then(|f| f.get(key))) {
            return Ok(change.value.clone());
        }
        let Some(base) = &self.base else { return Ok(None) };
        tree.get(nodes, base, key)?.map(|item| V::decode(key, &item)).transpose()
    }

    /// Visits the items from a key on, in key order, until the visitor breaks.
    pub fn scan(
        &self,
        nodes: &Nodes,
        tree: &Tree,
        from: Bound<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &V) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut changes = Merged::new(&self.active, self.frozen.as_ref().map(|f| &*f.overlay), from);
        let mut failed = None;
        let mut stopped = false;
        if let Some(base) = &self.base {
            tree.range(nodes, base, from, &mut |key, item| {
                while changes.peek().is_some_and(|next| next < key) {
                    if let Some((k, Some(value))) = changes.next()
                        && visit(k, value).is_break()
                    {
                        stopped = true;
                        return ControlFlow::Break(());
                    }
                }
                let flow = if changes.peek() == Some(key) {
                    match changes.next() {
                        Some((k, Some(value))) => visit(k, value),
                        _ => ControlFlow::Continue(()),
                    }
                } else {
                    match V::decode(key, item) {
                        Ok(value) => visit(key, &value),
                        Err(error) => {
                            failed = Some(error);
                            ControlFlow::Break(())
                        }
                    }
                };
                stopped |= flow.is_break();
                flow
            })?;
        }
        if let Some(error) = failed {
            return Err(error);
        }
        while !stopped && let Some((key, value)) = changes.next() {
            stopped = value.is_some_and(|v| visit(key, v).is_break());
        }
        Ok(())
    }

    /// Has it no items?
    pub fn is_empty(&self, nodes: &Nodes, tree: &Tree) -> Result<bool> {
        let mut empty = true;
        self.scan(nodes, tree, Bound::Unbounded, &mut |_, _| {
            empty = false;
            ControlFlow::Break(())
        })?;
        Ok(empty)
    }
}

/// Two overlays as one; the newer shadows the older.
struct Merged<'a, V> {
    newer: Peekable<Range<'a, Vec<u8>, Changed<V>>>,
    older: Option<Peekable<Range<'a, Vec<u8>, Changed<V>>>>,
}

impl<'a, V> Merged<'a, V> {
    fn new(newer: &'a Overlay<V>, older: Option<&'a Overlay<V>>, from: Bound<&[u8]>) -> Self {
        let range = |overlay: &'a Overlay<V>| overlay.range::<[u8], _>((from, Bound::Unbounded)).peekable();
        Self { newer: range(newer), older: older.map(range) }
    }

    fn peek(&mut self) -> Option<&'a [u8]> {
        let newer = self.newer.peek().map(|(k, _)| k.as_slice());
        let older = self.older.as_mut().and_then(|o| o.peek().map(|(k, _)| k.as_slice()));
        match (newer, older) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    fn next(&mut self) -> Option<(&'a [u8], Option<&'a V>)> {
        let key = self.peek()?;
        let newer = self.newer.next_if(|(k, _)| k.as_slice() == key);
        let older = self.older.as_mut().and_then(|o| o.next_if(|(k, _)| k.as_slice() == key));
        newer.or(older).map(|(k, change)| (k.as_slice(), change.value.as_ref()))
    }
}
