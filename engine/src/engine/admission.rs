//! Admission: the permit that an operation holds, who waits for space or log, and when a checkpoint is due.

use super::pressure::WAIT_NS_MIN;
use super::{Engine, Writer};
use crate::StoreError;
use crate::mutant::{self, Mutant};
use crate::space::Numbers;
use crate::space::admission::{Budget, Ledger, Short, data_charge};
use crate::store::{Need, Permit, PermitInner, Reason, Result, Tier};
use crate::sync::atomic::Ordering;
use crate::sync::{self, Condvar, Mutex};
use crate::wal::LogRoom;
use envoyfs_layout::BLOCK;
use std::sync::Arc;
use std::time::Duration;

/// What a store is told to have used up.
const SEGMENT_NUMBERS: &str = "segment numbers";
/// A log that has not grown for so long is checkpointed.
const IDLE_MS: u64 = 5000;
/// Data of an operation that tells the checkpointer if it takes the room below its half.
const WAKING_BYTES: u64 = 256 << 10;
/// How often a waiter looks whether the store was poisoned.
const LOOK: Duration = Duration::from_millis(50);

/// Accounting, and those who wait for a checkpoint.
pub(crate) struct Admission {
    pub(crate) budget: Budget,
    pub(crate) ledger: Mutex<Ledger>,
    pub(crate) changed: Condvar,
}

impl Admission {
    /// Containers that everything but the last tier leaves alone ([`Ledger::needed`]), and what data is promised.
    pub(crate) fn needed_containers(&self) -> u32 {
        let ledger = self.ledger.lock();
        let bytes = ledger.needed(&self.budget, 0) + ledger.data;
        drop(ledger);
        u32::try_from(bytes.div_ceil(self.budget.container_bytes.max(1))).unwrap_or(u32::MAX)
    }

    /// Bytes of data that permits may still use.
    pub(crate) fn promised_bytes(&self) -> u64 {
        self.ledger.lock().data
    }
}

/// What an operation may still use; given back when dropped.
pub(super) struct EnginePermit {
    admission: Arc<Admission>,
    pub(super) room: LogRoom,
    pub(super) tier: Tier,
    pub(super) data: u64,
    pub(super) dirty: u64,
}

impl PermitInner for EnginePermit {
    fn as_any_mut(&mut self) -> &mut dyn std::any::Any {
        self
    }
}

impl Drop for EnginePermit {
    fn drop(&mut self) {
        let mut ledger = self.admission.ledger.lock();
        ledger.data = ledger.data.saturating_sub(self.data);
        ledger.pending = ledger.pending.saturating_sub(self.dirty);
    }
}

/// The engine's part of a permit.
pub(super) fn permit_of(permit: &mut Permit) -> Result<&mut EnginePermit> {
    permit
        .inner_mut()
        .as_any_mut()
        .downcast_mut()
        .ok_or_else(|| StoreError::Misuse("the permit is of another store".into()))
}

impl Engine {
    /// See [`Store::reserve`](crate::store::Store::reserve).
    pub(super) fn admit(&self, need: Need) -> Result<Permit> {
        let writer = self.writer()?;
        let admission = &writer.admission;
        let data = data_charge(need.data_bytes);
        let dirty = need.node_bytes + need.payload_bytes;
        // Its own record, those that may have to stand before it, and those of the segments that its data opens.
        let opens = if data > 0 { 3 + 3 * (data / u64::from(self.shape.segment_bytes)) } else { 0 };
        let records = 2 + opens;
        let log_bytes = need.log_bytes + 28 * data.div_ceil(u64::from(BLOCK));
        if writer.wal.worst_case_blocks(records, log_bytes) > writer.wal.promisable_blocks() {
            self.metrics.admission.too_large.increment();
            return Err(StoreError::TooLarge {
                what: "an operation's log",
                bytes: log_bytes,
                limit: writer.wal.promisable_blocks() * u64::from(self.shape.block_bytes),
            });
        }
        // Checkpoints, and what frees a full store, wait for nothing but room.
        let mut slowed = need.tier == Tier::Last;
        let mut waits = 0;
        loop {
            if let Some(why) = writer.wal.poisoned() {
                self.metrics.poison.refused.increment();
                return Err(StoreError::Poisoned { why });
            }
            // Data needs segments, and so do the checkpoints that deletions need.
            let chunks = Numbers::chunks_left(
                writer.space.numbers.segment.load(Ordering::Relaxed).into(),
                self.shape.containers,
            );
            if chunks < if need.tier == Tier::Writer { 3 } else { 2 } {
                return Err(StoreError::UsedUp { what: SEGMENT_NUMBERS });
            }
            if writer.unserved.load(Ordering::SeqCst) {
                let _timing = self.metrics.time(&self.metrics.admission.wait_log);
                self.wait_for_checkpoint(writer, Reason::Log, "the first checkpoint after many crashes")?;
                continue;
            }
            let unpublished = writer.unpublished.load(Ordering::Relaxed);
            if data > 0 && unpublished > 0 && unpublished >= self.options.settings.unpublished_objects {
                let _timing = self.metrics.time(&self.metrics.admission.wait_dirty);
                self.wait_for_checkpoint(writer, Reason::Log, "room for data objects")?;
                continue;
            }
            if data > 0 && writer.space.numbers.is_short() {
                let _timing = self.metrics.time(&self.metrics.admission.wait_log);
                self.wait_for_checkpoint(writer, Reason::Log, "segment numbers beyond the durable bound")?;
                continue;
            }
            if !slowed {
                slowed = true;
                self.slow_down(writer, need.tier, log_bytes);
                continue;
            }
            let Some(room) = writer.wal.try_reserve(records, log_bytes) else {
                let _timing = self.metrics.time(&self.metrics.admission.wait_log);
                self.wait_for_checkpoint(writer, Reason::Log, "log space")?;
                continue;
            };
            let mut hopeless = None;
            let short = {
                let mut ledger = admission.ledger.lock();
                // Under the lock: a container taken for what is promised is missing here before the promise is lower, never neither.
                let free = writer.free();
                match ledger.admit(&admission.budget, free, need.tier, data, dirty) {
                    Ok(()) => {
                        self.metrics.admission.permits.increment();
                        writer.cleaning.admitted(data + dirty);
                        if data >= WAKING_BYTES && ledger.is_half_used(&admission.budget, free) {
                            // Who writes so much has used the rest before the checkpointer looks by itself.
                            admission.changed.notify_all();
                        }
                        let permit =
                            EnginePermit { admission: Arc::clone(admission), room, tier: need.tier, data, dirty };
                        return Ok(Permit::new(Box::new(permit)));
                    }
                    Err(short) => {
                        if let Short::Space(available) = short
                            && ledger.is_refusal(free, waits)
                        {
                            hopeless = Some(available);
                        }
                        short
                    }
                }
            };
            drop(room);
            if let Some(available) = hopeless {
                if self.wait_for_last_mark(writer)? {
                    continue;
                }
                self.metrics.admission.no_space.increment();
                return Err(StoreError::NoSpace { available, needed: data });
            }
            match short {
                Short::Dirty => {
                    let _timing = self.metrics.time(&self.metrics.admission.wait_dirty);
                    self.wait_for_checkpoint(writer, Reason::Log, "room for dirty nodes")?;
                }
                Short::Space(_) => {
                    waits += 1;
                    let _timing = self.metrics.time(&self.metrics.admission.wait_space);
                    self.wait_for_checkpoint(writer, Reason::Reclaim, "free space")?;
                }
            }
        }
    }

    /// Delays an operation while the log is more than half full, so that the ring is not met full before the checkpoint under way gives some of it back. A publication ends it.
    fn slow_down(&self, writer: &Writer, tier: Tier, bytes: u64) {
        let room = writer.wal.room();
        if !room.is_under_pressure() || !self.options.threads {
            return;
        }
        let mut ledger = writer.admission.ledger.lock();
        if tier != Tier::Writer && ledger.wanted == Some(Reason::Reclaim) {
            return;
        }
        let (before, start) = (ledger.publications, self.options.clock.monotonic_ns());
        let slot = ledger.pressure.take(&room, bytes, start);
        let mut left = slot.saturating_sub(start);
        if left < WAIT_NS_MIN {
            return;
        }
        let _timing = self.metrics.time(&self.metrics.admission.slowed);
        while left > 0 && ledger.publications == before && writer.wal.poisoned().is_none() {
            let step = Duration::from_nanos(left).min(LOOK);
            writer.admission.changed.wait_for(&mut ledger, step);
            let now = self.options.clock.monotonic_ns();
            left = if now > start {
                slot.saturating_sub(now)
            } else {
                // A clock that only tests move does not tell how long this waited.
                left.saturating_sub(u64::try_from(step.as_nanos()).unwrap_or(u64::MAX))
            };
        }
    }

    fn wait_for_checkpoint(&self, writer: &Writer, reason: Reason, what: &'static str) -> Result<()> {
        let mut ledger = writer.admission.ledger.lock();
        ledger.wanted = Some(match ledger.wanted {
            Some(Reason::Reclaim) => Reason::Reclaim,
            _ => reason,
        });
        writer.space.set_urgent(true);
        if !mutant::on(Mutant::WantedSilently) {
            writer.admission.changed.notify_all();
        }
        if !self.options.threads {
            return Err(StoreError::WouldWait { what });
        }
        let before = ledger.publications;
        ledger.waiting += 1;
        writer.admission.changed.wait_for(&mut ledger, LOOK);
        while ledger.publications == before && writer.wal.poisoned().is_none() && ledger.wanted.is_some() {
            writer.admission.changed.wait_for(&mut ledger, LOOK);
        }
        ledger.waiting -= 1;
        Ok(())
    }

    /// See [`Store::wait_checkpoint`](crate::store::Store::wait_checkpoint).
    pub(super) fn wait_until_due(&self, timeout_ms: u64) -> Option<Reason> {
        let writer = self.writer.as_ref()?;
        let mut left = Duration::from_millis(timeout_ms);
        loop {
            if writer.wal.poisoned().is_some() {
                return None;
            }
            if let Some(reason) = self.due(writer) {
                match reason {
                    Reason::Log => self.metrics.checkpoint.due_for_log.increment(),
                    Reason::Reclaim => self.metrics.checkpoint.due_for_space.increment(),
                    Reason::Idle => self.metrics.checkpoint.due_idle.increment(),
                }
                return Some(reason);
            }
            if self.clean_ahead().unwrap_or(false) {
                continue;
            }
            if left.is_zero() || !self.options.threads {
                return None;
            }
            let step = left.min(LOOK);
            if mutant::on(Mutant::CheckpointerSleepsAnyway) {
                sync::thread::yield_now();
            }
            let mut ledger = writer.admission.ledger.lock();
            if ledger.wanted.is_none() || mutant::on(Mutant::CheckpointerSleepsAnyway) {
                writer.admission.changed.wait_for(&mut ledger, step);
            }
            left -= step;
        }
    }

    fn due(&self, writer: &Writer) -> Option<Reason> {
        if writer.overdue.load(Ordering::SeqCst) {
            return Some(Reason::Log);
        }
        let room = writer.wal.room();
        let unpublished = writer.unpublished.load(Ordering::Relaxed);
        let numbers_end = writer.space.numbers.is_raise_due();
        if room.is_checkpoint_due() || numbers_end || unpublished > self.options.settings.unpublished_objects / 2 {
            return Some(Reason::Log);
        }
        let free = writer.free();
        {
            let ledger = writer.admission.ledger.lock();
            if ledger.wanted.is_some() {
                return ledger.wanted;
            }
            if ledger.is_batch_full(&writer.admission.budget) {
                return Some(Reason::Log);
            }
            if ledger.is_half_used(&writer.admission.budget, free) {
                return Some(Reason::Reclaim);
            }
        }
        if self.is_release_due(writer) {
            return Some(Reason::Reclaim);
        }
        if let Some(state) = self.state.try_lock()
            && (!state.queue().is_empty() && self.may_drop(writer) || state.is_releasing())
            && !self.stalled.load(Ordering::SeqCst)
        {
            return Some(Reason::Reclaim);
        }
        let (end, now) = (writer.wal.end(), self.options.clock.monotonic_ms());
        let mut idle = writer.idle.lock();
        if idle.0 != end {
            *idle = (end, now);
        }
        let has_records = end.0 > writer.freeze.load(Ordering::SeqCst) && room.records > 0;
        // Records whose HLC could not follow the wall clock much longer: a publication raises the bound.
        let bound_is_near = has_records && writer.wal.is_hlc_bound_near();
        (bound_is_near || has_records && now.saturating_sub(idle.1) >= IDLE_MS).then_some(Reason::Idle)
    }
}
