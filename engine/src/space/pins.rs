//! Pins of clients: what was reachable when one was taken stays readable until it is dropped, across publications (INV-13, decision 0016).
//!
//! ```text
//! version 3: pins a, b          advance() = 4: the client shows what was published     version 4: pin c
//!            \-- nothing that became dead in publication 4 or later is reused while a or b holds; c never saw it
//! ```
//! A pin costs a lock that nobody holds for longer than a few instructions. It holds nothing up but the reuse of containers: who needs them may *break* pins, and their
//! owners are told. If power fails, pins are gone with those who held them.

use super::sync::atomic::{AtomicU64, Ordering};
use super::sync::{Condvar, Mutex};
use crate::StoreError;
use crate::metrics::Metrics;
use crate::mutant::{self, Mutant};
use crate::sabotage::{self, Rule};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How often, and how long each time, a publication waits for pins that were taken during it: most are dropped before.
const PATIENCE: (u32, Duration) = (4, Duration::from_millis(5));

/// Pins by the version that their owners saw last.
#[derive(Default)]
pub struct Pins {
    held: Mutex<Held>,
    left: Condvar,
    /// Those of earlier versions are broken.
    broken: AtomicU64,
    /// Where how long they were held is counted.
    metrics: Option<Arc<Metrics>>,
}

#[derive(Default)]
struct Held {
    version: u64,
    /// Pins of a version: how many, and when the first was taken.
    by_version: BTreeMap<u64, (u64, u64)>,
}

/// The pins of one version, the oldest that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oldest {
    /// Version.
    pub version: u64,
    /// When the first of them was taken, by the store's monotonic clock.
    pub since_ms: u64,
}

/// Keeps readable what was reachable when it was taken, until it is dropped: see [`Store::pin`](crate::store::Store::pin).
pub struct Pin {
    pins: Arc<Pins>,
    version: u64,
    since_ns: u64,
}

impl Pins {
    /// None is held; how long one was is counted there.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics: Some(metrics), ..Self::default() }
    }

    /// Takes one. Look up what you want to read after this call.
    #[must_use]
    pub fn pin(self: &Arc<Self>) -> Pin {
        let since_ns = self.now_ns();
        if let Some(metrics) = &self.metrics {
            metrics.pins.taken.increment();
        }
        let now_ms = since_ns / 1_000_000;
        let mut held = self.held.lock();
        let version = held.version;
        held.by_version.entry(version).or_insert((0, now_ms)).0 += 1;
        drop(held);
        Pin { pins: Arc::clone(self), version, since_ns }
    }

    /// The store's monotonic clock.
    fn now_ns(&self) -> u64 {
        self.metrics.as_ref().map_or(0, |metrics| metrics.now_ns())
    }

    /// The client shows what was published: pins from now on cannot see what is dead in it. Returns the version that they are of.
    pub fn advance(&self) -> u64 {
        let mut held = self.held.lock();
        held.version += 1;
        held.version
    }

    /// The version of pins taken now.
    pub fn version(&self) -> u64 {
        self.held.lock().version
    }

    /// The oldest that is held and not broken.
    pub fn oldest(&self) -> Option<Oldest> {
        self.oldest_in(&self.held.lock())
    }

    fn oldest_in(&self, held: &Held) -> Option<Oldest> {
        let from = self.broken.load(Ordering::SeqCst);
        held.by_version
            .range(from..)
            .next()
            .map(|(version, (_, since_ms))| Oldest { version: *version, since_ms: *since_ms })
    }

    /// The oldest that is held, broken or not.
    pub fn oldest_of_all(&self) -> Option<Oldest> {
        let held = self.held.lock();
        let first = held.by_version.first_key_value();
        first.map(|(version, (_, since_ms))| Oldest { version: *version, since_ms: *since_ms })
    }

    /// How many are held, broken ones included.
    pub fn count(&self) -> u64 {
        self.held.lock().by_version.values().map(|(count, _)| count).sum()
    }

    /// Waits a little for those of the version before this one, unless there are older ones, which are not about to be dropped.
    pub fn wait_for_brief(&self, version: u64) {
        let mut held = self.held.lock();
        for _ in 0..PATIENCE.0 {
            match self.oldest_in(&held) {
                Some(oldest) if oldest.version + 1 == version => self.left.wait_for(&mut held, PATIENCE.1),
                _ => return,
            };
        }
    }

    /// Those of versions before this one hold nothing any more. Returns how many they are.
    pub fn break_before(&self, version: u64) -> u64 {
        let held = self.held.lock();
        let from = self.broken.load(Ordering::SeqCst);
        self.broken.store(version.max(from), Ordering::SeqCst);
        held.by_version.range(from..version.max(from)).map(|(_, (count, _))| count).sum()
    }

    fn leave(&self, version: u64) {
        let mut held = self.held.lock();
        if let Some((count, _)) = held.by_version.get_mut(&version) {
            *count -= 1;
            if *count == 0 || mutant::on(Mutant::PinTakesOthers) {
                held.by_version.remove(&version);
            }
        }
        drop(held);
        self.left.notify_all();
    }
}

impl Pin {
    /// Whether space was so short that what it held may be gone: reads of it may fail from now on.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.version < self.pins.broken.load(Ordering::SeqCst)
    }
}

impl Pin {
    /// For a store that never reuses anything.
    #[must_use]
    pub fn of_nothing() -> Self {
        Arc::<Pins>::default().pin()
    }
    /// What a failed read of something pinned means.
    #[must_use]
    pub fn explain(&self, error: StoreError) -> StoreError {
        if self.is_broken() { StoreError::PinBroken } else { error }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(metrics) = &self.pins.metrics {
            metrics.pins.hold.record_ns(self.pins.now_ns().saturating_sub(self.since_ns));
        }
        if !sabotage::on(Rule::PinKept) {
            self.pins.leave(self.version);
        }
    }
}

impl std::fmt::Debug for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pin").field("version", &self.version).field("broken", &self.is_broken()).finish()
    }
}
