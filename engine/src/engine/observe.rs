//! What a store tells of itself: usage, and for tests and `fsck` liveness, counts, roots, contradictions.

use super::Engine;
use crate::metrics::Metrics;
use crate::space::{Container, Space};
use crate::state::{Segment, State};
use crate::store::{Result, Tier, Usage};
use crate::sync::atomic::Ordering;
use envoyfs_layout::directory_page::ContainerState;
use envoyfs_layout::{Lsn, Oid, Reference, UNIT};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

impl Engine {
    /// What this mount has counted and timed so far.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Contradictions in the accounting of space (INV-32), in words; also containers that nobody would ever give back. For tests and `fsck`; waits for a checkpoint under way.
    #[must_use]
    pub fn check_space(&self) -> Vec<String> {
        let still = self.still();
        let state = match self.load_all() {
            Ok(state) => state,
            Err(error) => return vec![error.to_string()],
        };
        let mut found = state.check();
        if let Some(writer) = &self.writer {
            found.extend(self.check_containers(&writer.space, &state));
        }
        drop(state);
        drop(still);
        found
    }

    /// Each container is free and empty, filled by a stream, or closed: then publications look at it. One that is neither would never be given back.
    fn check_containers(&self, space: &Space, state: &State) -> Vec<String> {
        let is_open = |row: &Container| row.state == ContainerState::Open;
        let open_before: BTreeMap<u32, u32> = space.with_containers(|all| {
            all.used().filter(|(_, row)| is_open(row)).map(|(number, row)| (number, row.segment)).collect()
        });
        // A stream that takes a container is locked until it fills it.
        let filled = space.open_containers();
        let units = self.shape.units();
        space.with_containers(|containers| {
            let mut found = Vec::new();
            let (mut live, mut dead) = (0_u64, 0_u64);
            for (number, row) in containers.iter() {
                let (lives, pages) = (state.live_in(number), state.pages.of(number));
                if lives > units {
                    found.push(format!("container {number} holds {lives} live units"));
                }
                if pages > 0 && row.state != ContainerState::System {
                    found.push(format!("container {number} is {:?} and holds {pages} units of pages", row.state));
                }
                live += u64::from(lives);
                match row.state {
                    ContainerState::Free if lives > 0 => {
                        found.push(format!("container {number} is free and holds {lives} live units"));
                    }
                    ContainerState::Free => continue,
                    ContainerState::Open
                        if !filled.contains(&number) && open_before.get(&number) == Some(&row.segment) =>
                    {
                        found.push(format!("container {number} is open, and nothing fills it"));
                    }
                    _ => {}
                }
                dead += u64::from(units.saturating_sub(lives));
            }
            let (free, capacity) = (u64::from(containers.free()), u64::from(self.shape.containers));
            if live != state.live_units() || live + dead + free * u64::from(units) != capacity * u64::from(units) {
                let counted = state.live_units();
                found.push(format!(
                    "{live} live units of {counted}, {dead} dead ones and {free} free containers are not {capacity} containers of {units}"
                ));
            }
            found
        })
    }

    /// What was taken and not given back, in words: pins of readers, and containers that are kept for objects which nobody holds. Right only between operations, while nobody
    /// reads or writes; the end of a mount logs it. Waits for a checkpoint under way; costs a look at every object that no checkpoint contains.
    #[must_use]
    pub fn check_idle(&self) -> Vec<String> {
        let mut found = Vec::new();
        if let Some(oldest) = self.reader.pins.oldest_of_all() {
            let (held, age) =
                (self.reader.pins.count(), self.options.clock.monotonic_ms().saturating_sub(oldest.since_ms));
            found.push(format!("{held} pins of readers are held, the oldest for {age} ms"));
        }
        if let Some(writer) = &self.writer {
            let _published = writer.published.lock();
            let batches = writer.batches.lock();
            let mut wanted: BTreeMap<u32, u32> = BTreeMap::new();
            let objects = batches.frozen.iter().chain([&batches.current]).flat_map(|objects| objects.unstored.values());
            let kept = objects.map(|object| (object.reference.oid.segment(), object.pieces));
            let written = batches.written.keys().map(|oid| (oid.segment(), 1));
            let relocated = writer.space.relocations().into_iter().map(|relocation| (relocation.pinned, 1));
            for (segment, pieces) in kept.chain(written).chain(relocated) {
                *wanted.entry(segment).or_default() += pieces;
            }
            let pins = writer.space.pins();
            let segments: BTreeSet<u32> = wanted.keys().chain(pins.keys()).copied().collect();
            for segment in segments {
                let [is, wanted] = [pins.get(&segment), wanted.get(&segment)].map(|count| count.copied().unwrap_or(0));
                if is != wanted {
                    found.push(format!("segment {segment} is pinned {is} times for {wanted} objects"));
                }
            }
        }
        found
    }

    /// Live units of the last checkpoint made, by segment, without those that only retained checkpoints need. For tests and `fsck`.
    #[must_use]
    pub fn liveness(&self) -> BTreeMap<u32, Vec<Range<u32>>> {
        let _still = self.still();
        let Ok(state) = self.load_all() else { return BTreeMap::new() };
        let segments = state.table().keys().filter_map(|number| Some((*number, state.segment(*number)?)));
        let live = |segment: &Segment| segment.live.iter().flat_map(|run| segment.deferred.outside(&run)).collect();
        segments
            .map(|(number, segment)| (number, live(segment)))
            .filter(|(_, live): &(_, Vec<_>)| !live.is_empty())
            .collect()
    }

    /// What a reader of the whole store sees is a published checkpoint: neither a publication nor the cleaner is at work while this is held, and only they change pages or forget them.
    pub(super) fn still(&self) -> Option<impl Sized> {
        self.writer.as_ref().map(|writer| (writer.published.lock(), writer.cleaning.hold()))
    }

    /// Every page in memory: for tests and checks only. The caller holds [`Engine::still`], so that nothing is trimmed.
    fn load_all(&self) -> Result<crate::sync::MutexGuard<'_, State>> {
        let all: BTreeSet<u32> = self.state.lock().table().keys().copied().collect();
        self.load_segments(&all)?;
        Ok(self.state.lock())
    }

    /// Nodes of the drop queue that could not be read: allocated until a mark or fsck frees what is left of them.
    #[must_use]
    pub fn unreadable(&self) -> Vec<Reference> {
        self.state.lock().unreadable().to_vec()
    }

    /// References to a stored object, as the last checkpoint counts them. For tests and `fsck`.
    #[must_use]
    pub fn count(&self, oid: Oid) -> i64 {
        let _still = self.still();
        match self.load_segments(&BTreeSet::from([oid.segment()])) {
            Ok(()) => self.state.lock().references(oid),
            Err(_) => 0,
        }
    }

    /// The roots objects of the published checkpoint: live, but referenced by no client node.
    #[must_use]
    pub fn roots_objects(&self) -> Vec<Reference> {
        let Some(writer) = &self.writer else { return Vec::new() };
        let published = writer.published.lock();
        [published.entry.roots, published.entry.roots_twin].into_iter().flatten().collect()
    }

    /// The client's counted references in the published checkpoint. For tests and `fsck`; waits for a checkpoint under way.
    #[must_use]
    pub fn client_roots(&self) -> Vec<Reference> {
        match &self.writer {
            Some(writer) => writer.published.lock().roots.clone(),
            None => self.recovered.references.clone(),
        }
    }

    /// Where the log ended that this mount found. What it appended itself, and all since, is behind.
    #[must_use]
    pub const fn recovered_end(&self) -> Lsn {
        self.end
    }

    /// See [`Store::usage`](crate::store::Store::usage).
    pub(super) fn space_usage(&self) -> Usage {
        let segment = u64::from(self.shape.segment_bytes);
        let capacity = u64::from(self.shape.containers) * segment;
        let (live, deferred, drop_queue, shared_objects) = {
            let state = self.state.lock();
            let deferred = state.deferred_units() * u64::from(UNIT);
            let live = state.live_units() * u64::from(UNIT) - deferred;
            (live, deferred, state.queue().len(), state.shared_objects())
        };
        let Some(writer) = &self.writer else {
            return Usage {
                capacity,
                live,
                deferred,
                dead: capacity.saturating_sub(live).saturating_sub(deferred),
                drop_queue,
                shared_objects,
                checkpoint: self.checkpoint,
                appended: self.end,
                durable: self.end,
                ..Usage::default()
            };
        };
        let containers = writer.space.free_containers();
        let free = u64::from(containers) * segment;
        let now = writer.free();
        let available = writer.admission.ledger.lock().available(&writer.admission.budget, now, Tier::Writer);
        let room = writer.wal.room();
        Usage {
            capacity,
            live,
            deferred,
            dead: capacity.saturating_sub(live).saturating_sub(deferred).saturating_sub(free),
            free,
            available,
            drop_queue,
            shared_objects,
            log_bytes: room.log_bytes(),
            ring_bytes: room.ring_blocks * u64::from(room.block_bytes),
            checkpoint: writer.number.load(Ordering::SeqCst),
            appended: writer.wal.end(),
            durable: writer.wal.durable(),
        }
    }
}
