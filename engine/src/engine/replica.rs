//! What replicas of a volume compare and tell each other (decision 0017): what lives in a logical segment, its digest, free space, stamps from outside.
//!
//! What lives, and how often it is referenced, follows from the shared records and batches alone (INV-39): not from where it lies, what was cleaned, or when. All of it is of
//! the last checkpoint made; what has a record only is not in it yet.

use super::Engine;
use crate::StoreError;
use crate::sabotage::{self, Rule};
use crate::state::Segment;
use crate::store::{Reason, Result, Tier};
use envoyfs_layout::{Hlc, Oid, UNIT, checksum};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Units read at a time for a digest.
const READ_UNITS: u32 = (1 << 20) / UNIT;

/// What lives in a logical segment, in units from its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveObjects {
    /// Live units, those that only retained checkpoints need included; as long as can be, in order. Objects are not told apart: where one ends is known to who refers to it.
    pub live: Vec<Range<u32>>,
    /// Those that only retained checkpoints need.
    pub deferred: Vec<Range<u32>>,
    /// References to the object at a slot, where they are not one. Zero: a node in the drop queue.
    pub counts: BTreeMap<u16, i64>,
}

impl LiveObjects {
    fn of(segment: &Segment) -> Self {
        Self {
            live: segment.live.iter().collect(),
            deferred: segment.deferred.iter().collect(),
            counts: segment.extra.iter().map(|(slot, extra)| (*slot, i64::from(*extra) + 1)).collect(),
        }
    }
}

/// What an owner has to know of a replica to admit operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeAndReserve {
    /// Bytes in free containers.
    pub free: u64,
    /// Bytes of them that writers leave to checkpoints, deletions and the cleaner.
    pub reserve: u64,
    /// Bytes that a writer may still use.
    pub available: u64,
}

impl Engine {
    /// Logical segments in which something lives, in order.
    #[must_use]
    pub fn segments(&self) -> Vec<u32> {
        let _published = self.writer.as_ref().map(|writer| writer.published.lock());
        self.state.lock().table().keys().copied().collect()
    }

    /// What lives in a logical segment; nothing in one that nobody knows. Waits for a checkpoint under way; reads the segment's page if it is not in memory.
    ///
    /// # Errors
    /// [`StoreError::SegmentPage`]: the page cannot be read.
    pub fn live_objects(&self, segment: u32) -> Result<LiveObjects> {
        let _still = self.still();
        self.load_segments(&BTreeSet::from([segment]))?;
        Ok(self.state.lock().segment(segment).map(LiveObjects::of).unwrap_or_default())
    }

    /// The digest of what lives in a logical segment: the sum over its live units of XXH3-64 of {slot, bytes}. Equal on all replicas of a volume, whatever each has cleaned and
    /// wherever it lies; different if a bit has rotted. Reads all that lives, at most the size of a segment; waits for a checkpoint under way before it, and for none while it reads.
    ///
    /// # Errors
    /// What cannot be read; [`StoreError::PinBroken`] if the store was so full meanwhile that it reused what was being read.
    pub fn digest(&self, segment: u32) -> Result<u64> {
        let (pin, live) = {
            let _still = self.still();
            let pin = self.reader.pins.pin();
            self.load_segments(&BTreeSet::from([segment]))?;
            (pin, self.state.lock().segment(segment).map(LiveObjects::of).unwrap_or_default().live)
        };
        let place = self.reader.home(segment).filter(|_| sabotage::on(Rule::DigestByPlace));
        let mut digest = place.map_or(0, |home| u64::from(home) + 1);
        for run in live {
            let mut at = run.start;
            while at < run.end {
                let part = at..run.end.min(at + READ_UNITS);
                let bytes = self.live_bytes(segment, &part).map_err(|error| pin.explain(error))?;
                for (slot, unit) in part.clone().zip(bytes.chunks(UNIT as usize)) {
                    digest = digest.wrapping_add(checksum::hash64(&[&slot.to_le_bytes(), unit].concat()));
                }
                at = part.end;
            }
        }
        if pin.is_broken() { Err(StoreError::PinBroken) } else { Ok(digest) }
    }

    /// Bytes as they are read, unverified: rot is what a digest is to show.
    fn live_bytes(&self, segment: u32, units: &Range<u32>) -> Result<Vec<u8>> {
        let slot = u16::try_from(units.start).unwrap_or(u16::MAX);
        let mut bytes = vec![0; (units.end - units.start) as usize * UNIT as usize];
        self.reader.read(Oid::new(self.shape.volume, segment, slot), units, &mut bytes, |_| Ok(()))?;
        Ok(bytes)
    }

    /// Free space, and what writers leave alone of it. Nothing is free in a read-only mount.
    #[must_use]
    pub fn free_and_reserve(&self) -> FreeAndReserve {
        let Some(writer) = &self.writer else { return FreeAndReserve { free: 0, reserve: 0, available: 0 } };
        let budget = &writer.admission.budget;
        let free = u64::from(writer.space.free_containers()) * u64::from(self.shape.segment_bytes);
        let containers = writer.free();
        let ledger = writer.admission.ledger.lock();
        let available = ledger.available(budget, containers, Tier::Writer);
        FreeAndReserve { free, reserve: ledger.reserve(budget), available }
    }

    /// Takes notice of a stamp from outside: every record from now on has a later one (INV-01).
    ///
    /// # Errors
    /// [`StoreError::ClockAhead`]: it is more than ten seconds ahead of this host's clock. [`StoreError::WouldWait`], with threads too: it is beyond the durable bound; a checkpoint is
    /// due then, and raises it. [`StoreError::ReadOnly`].
    pub fn observe(&self, stamp: Hlc) -> Result<()> {
        let writer = self.writer()?;
        let observed = writer.wal.observe(stamp);
        if matches!(observed, Err(StoreError::WouldWait { .. })) {
            writer.admission.ledger.lock().wanted.get_or_insert(Reason::Log);
            writer.admission.changed.notify_all();
        }
        observed
    }
}
