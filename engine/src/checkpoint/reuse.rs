//! The end of a publication: which of the dead containers are reused now, and which a pin holds back (INV-13, decision 0016).
//!
//! ```text
//! dead --published as free, and no pin is older--> released
//!  \-- a pin is older --> held back --its pins dropped, or broken--> released by the next publication
//! ```
//! A container that is held back is free in the published table, and stays as it is in memory: the next publication finds it dead again. What readers know of it, they go on
//! knowing until then. If power fails it is free, and nobody is left who pinned it.

use crate::engine::{Engine, Writer};
use crate::mutant::{self, Mutant};
use crate::sabotage::{self, Rule};
use crate::store::Reason;
use envoyfs_layout::directory_page::{ContainerState, Place};
use std::collections::{BTreeMap, BTreeSet};

/// Dead containers that are not reused yet, and what readers have to forget when they are.
#[derive(Default)]
pub(crate) struct HeldBack {
    /// Containers, by the version in which they were dead first.
    since: BTreeMap<u32, u64>,
    /// Segments that have no home any more, but for readers of before: container, segment.
    homes: BTreeMap<u32, u32>,
    /// Segments that hold nothing any more, and the version in which they did not.
    gone: BTreeMap<u32, Option<u64>>,
}

impl HeldBack {
    /// These containers, each home of a segment, are about to be reused; these segments are gone.
    pub(crate) fn leave(&mut self, homes: Vec<(u32, u32)>, gone: Vec<u32>) {
        self.homes.extend(homes);
        self.gone.extend(gone.into_iter().map(|segment| (segment, None)));
    }

    /// Whether a container is dead and held back.
    pub(crate) fn holds(&self, container: u32) -> bool {
        self.since.contains_key(&container)
    }

    /// Whether pins hold something back for longer than from one publication to the next.
    pub(crate) fn is_stuck(&self, version: u64) -> bool {
        self.since.values().any(|since| *since < version)
    }

    /// How many are.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.since.len()).unwrap_or(u32::MAX)
    }

    /// What is dead now; what was not before is dead since `version`.
    fn note(&mut self, dead: impl Iterator<Item = u32>, version: u64) {
        let before = std::mem::take(&mut self.since);
        self.since = dead.map(|container| (container, before.get(&container).copied().unwrap_or(version))).collect();
        self.gone.values_mut().for_each(|since| *since = Some(since.unwrap_or(version)));
    }

    /// What a pin of this version, and none that is older, lets be reused.
    fn free_for(&self, oldest: Option<u64>) -> BTreeSet<u32> {
        let free = |since: u64| oldest.is_none_or(|oldest| oldest >= since);
        self.since.iter().filter(|(_, since)| free(**since)).map(|(container, _)| *container).collect()
    }
}

impl Engine {
    /// Places of moved units that died are kept for those who pinned them. Called before anybody is told of newer pages.
    pub(crate) fn keep_buried(&self) {
        if !mutant::on(Mutant::KeptAfterPages) {
            self.keep_buried_now();
        }
    }

    fn keep_buried_now(&self) {
        let (buried, all) = self.state.lock().take_buried();
        if buried.is_empty() && all {
            return;
        }
        let pins = &self.reader.pins;
        let version = pins.version() + 1;
        let max = self.options.settings.pinned_places();
        if !(self.reader.kept.add(&buried, version, max) && all || mutant::on(Mutant::PinsBrokenLate)) {
            // What is not remembered cannot be read: also by those who take a pin before this is shown.
            self.break_pins(version);
        }
    }

    /// These segments, each at home in a container, lose that home; and segments that have none and hold nothing any more are forgotten.
    pub(crate) fn forget_segments(&self, homes: Vec<(u32, u32)>) {
        let gone = {
            let mut state = self.state.lock();
            homes.iter().for_each(|(container, segment)| state.release(*container, *segment));
            state.forget_empty()
        };
        // Before anybody is sent to a page that is given up with them.
        self.keep_buried();
        gone.iter().for_each(|number| self.reader.set_page(*number, Place::NONE, false));
        match &self.writer {
            // Readers go on finding what they have seen: until the containers are reused.
            Some(writer) => writer.held.lock().leave(homes, gone),
            None => gone.iter().for_each(|number| self.reader.forget(*number)),
        }
    }

    fn break_pins(&self, before: u64) {
        let broken = self.reader.pins.break_before(before);
        if broken > 0 {
            self.metrics.pins.broken.add(broken);
            tracing::warn!(pins = broken, "pins of readers were broken: what they held back is needed");
        }
    }

    /// What was published is shown, and the dead containers that nobody can see any more are released. Returns which.
    pub(crate) fn reuse(
        &self,
        writer: &Writer,
        releasable: &BTreeSet<u32>,
        dropped: bool,
        show: &mut dyn FnMut(),
    ) -> BTreeSet<u32> {
        let (space, pins) = (&writer.space, &self.reader.pins);
        let early = mutant::on(Mutant::PinsAskedEarly).then(|| pins.oldest());
        let risen = mutant::on(Mutant::VersionRisesEarly).then(|| pins.advance());
        if mutant::on(Mutant::KeptAfterPages) {
            self.keep_buried_now();
        }
        show();
        let version = risen.unwrap_or_else(|| pins.advance());
        // Pages are looked up anew by each read, so no pin needs an old one.
        let is_page = |container: &u32| {
            space.with_containers(|all| all.get(*container).is_some_and(|row| row.state == ContainerState::System))
        };
        let (mut released, objects): (BTreeSet<u32>, BTreeSet<u32>) = releasable.iter().partition(|c| is_page(c));
        let mut held = writer.held.lock();
        held.note(objects.into_iter(), version);
        if self.options.threads && !held.since.is_empty() {
            pins.wait_for_brief(version);
        }
        let mut oldest = early.unwrap_or_else(|| pins.oldest()).map(|oldest| oldest.version);
        let mut free = held.free_for(oldest);
        if free.len() < held.since.len() && self.needs_more(writer, released.len() + free.len(), dropped) {
            self.break_pins(version);
            oldest = pins.oldest().map(|oldest| oldest.version);
            free = held.free_for(oldest);
        }
        if sabotage::on(Rule::PinnedReused) {
            free = held.free_for(None);
        }
        self.reader.kept.prune(if mutant::on(Mutant::KeptForgotten) { None } else { oldest });
        self.forget(&mut held, &free, oldest);
        released.extend(free);
        self.reader.readers.wait_for_earlier();
        released.iter().for_each(|container| space.release(*container));
        if mutant::on(Mutant::PinsBrokenLate) {
            self.break_pins(version);
        }
        let metrics = &self.metrics.pins;
        metrics.containers.set(held.count().into());
        metrics.places.set(self.reader.kept.count() as u64);
        self.note_pins();
        released
    }

    /// Gauges of pins as they are now.
    pub(crate) fn note_pins(&self) {
        let now = self.options.clock.monotonic_ms();
        let oldest = self.reader.pins.oldest().map_or(0, |oldest| now.saturating_sub(oldest.since_ms));
        self.metrics.pins.held.set(self.reader.pins.count());
        self.metrics.pins.oldest_ms.set(oldest);
    }

    /// Whether somebody would be refused for lack of what pins hold back, with so many containers released: the next publication, deletions, or a writer.
    fn needs_more(&self, writer: &Writer, released: usize, dropped: bool) -> bool {
        let free = writer.space.free_containers().saturating_add(u32::try_from(released).unwrap_or(u32::MAX));
        let ledger = writer.admission.ledger.lock();
        let is_last = ledger.wanted == Some(Reason::Reclaim) && ledger.is_last_chance(free, dropped);
        let budget = &writer.admission.budget;
        is_last || u64::from(free) * budget.container_bytes < ledger.needed(budget, 0)
    }

    /// Readers forget what was in these containers, and segments that nobody can see.
    fn forget(&self, held: &mut HeldBack, free: &BTreeSet<u32>, oldest: Option<u64>) {
        let state = self.state.lock();
        for container in free {
            held.since.remove(container);
            let Some(segment) = held.homes.remove(container) else { continue };
            if state.table().contains_key(&segment) || held.gone.contains_key(&segment) {
                if self.reader.home(segment) == Some(*container) {
                    self.reader.set_home(segment, None);
                }
            } else {
                self.reader.forget(segment);
            }
        }
        held.gone.retain(|segment, since| {
            let is_seen = oldest.is_some_and(|oldest| since.is_none_or(|since| oldest < since));
            if !is_seen {
                self.reader.forget(*segment);
            }
            is_seen
        });
    }
}
