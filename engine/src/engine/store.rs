//! [`Store`] for [`Engine`]: one call a method.

use super::Engine;
use super::append::length;
use crate::StoreError;
use crate::bound::MemoryBound;
use crate::history::{HistoryPolicy, HistoryRoot};
use crate::mark::{MarkOptions, MarkProgress, MarkReport, Uses};
use crate::metrics::Metrics;
use crate::scrub::{ScrubOptions, ScrubReport};
use crate::space::check_blocks;
use crate::store::{
    Appended, Batch, Changes, Counter, DataHint, DataObject, Draft, Frozen, Limits, Need, OnDurable, Permit, Pin,
    Reason, Replayed, Result, Roots, Store, Usage,
};
use envoyfs_layout::node::NODE_BYTES_MAX;
use envoyfs_layout::{BLOCK, Hlc, Lsn, Oid, Reference, ReferenceKind, UNIT};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Largest body and data table of one record.
const RECORD_BYTES_MAX: u32 = 512 << 10;

impl Store for Engine {
    fn limits(&self) -> Limits {
        let extent = (self.shape.segment_bytes / 4).min(1 << 20);
        Limits {
            extent_bytes_max: extent,
            node_bytes_max: NODE_BYTES_MAX.try_into().unwrap_or(u32::MAX),
            record_bytes_max: RECORD_BYTES_MAX,
        }
    }

    fn wall_ns(&self) -> i64 {
        self.options.clock.wall_ns()
    }

    fn number(&self, counter: Counter) -> Result<u64> {
        let writer = self.writer()?;
        writer.counters.draw(counter).ok_or_else(|| {
            if writer.counters.is_used_up(counter) {
                return StoreError::UsedUp {
                    what: match counter {
                        Counter::Inode => "inode numbers",
                        Counter::Realm => "realm ids",
                        Counter::Territory => "territory numbers",
                    },
                };
            }
            self.metrics.admission.wait_numbers.increment();
            writer.admission.ledger.lock().wanted.get_or_insert(Reason::Log);
            writer.admission.changed.notify_all();
            StoreError::WouldWait { what: "a number beyond the durable bound" }
        })
    }

    fn reserve(&self, need: Need) -> Result<Permit> {
        self.admit(need)
    }

    fn append_data(&self, permit: &mut Permit, after: Option<(Oid, u32)>, data: &[u8]) -> Result<DataObject> {
        let hint = DataHint { after, ..DataHint::default() };
        let (buffer, bytes) = self.filled(data)?;
        self.write_object(permit, buffer, bytes, &hint, false)
    }

    fn append_part(&self, permit: &mut Permit, hint: &DataHint, data: &[u8]) -> Result<DataObject> {
        let (buffer, bytes) = self.filled(data)?;
        self.write_object(permit, buffer, bytes, hint, true)
    }

    fn abandon_data(&self, object: &DataObject) {
        let Some(writer) = &self.writer else { return };
        let Some(ticket) = writer.batches.lock().written.remove(&object.oid) else { return };
        let (segment, slot) = (object.oid.segment(), u32::from(object.oid.slot()));
        let units = slot..slot + object.stored_bytes / UNIT;
        writer.space.unpin(segment, 1);
        // Its write may still fail, and be made elsewhere: nobody will name that either.
        let space = Arc::downgrade(&writer.space);
        ticket.on_done(Box::new(move |_| {
            if let Some(space) = space.upgrade() {
                space.settle_relocations(segment, &units);
            }
        }));
    }

    fn append(&self, permit: &mut Permit, draft: Draft<'_>) -> Result<Appended> {
        self.append_record(permit, draft)
    }

    fn commit(&self, lsn: Lsn) -> Result<()> {
        match &self.writer {
            Some(writer) => writer.wal.commit(lsn),
            None => Ok(()),
        }
    }

    fn on_durable(&self, lsn: Lsn, done: OnDurable) {
        match &self.writer {
            Some(writer) => writer.wal.on_durable(lsn, done),
            None => done(Ok(())),
        }
    }

    fn end(&self) -> Lsn {
        self.writer.as_ref().map_or(self.end, |writer| writer.wal.end())
    }

    fn append_node(&self, batch: Batch, kind: ReferenceKind, flags: u8, birth: Hlc, bytes: &[u8]) -> Result<Reference> {
        self.append_tree_node(batch, kind, flags, birth, bytes)
    }

    fn append_payload(&self, batch: Batch, birth: Hlc, data: &[u8]) -> Result<DataObject> {
        self.append_frozen_payload(batch, birth, data)
    }

    fn read_node(&self, reference: &Reference) -> Result<Arc<[u8]>> {
        match self.writer {
            None => self.unsaved.get(reference.oid).map_or_else(|| self.reader.object(reference), Ok),
            Some(_) => self.reader.object(reference),
        }
    }

    fn read_data(&self, oid: Oid, first: u32, crcs: &[u32], into: &mut [u8]) -> Result<()> {
        let bytes = length("a read", into.len(), u32::MAX - first)?;
        if !bytes.is_multiple_of(UNIT) || !first.is_multiple_of(BLOCK) || bytes == 0 {
            return Err(StoreError::BadReference { oid, what: "a read of it is not aligned" });
        }
        if self.read_unsaved(oid, first, into) {
            return Ok(());
        }
        let _timing = self.metrics.time(&self.metrics.reads.data);
        self.metrics.reads.data_bytes.add(bytes.into());
        let start = u32::from(oid.slot()) + first / UNIT;
        self.reader.read(oid, &(start..start + bytes / UNIT), into, |bytes| check_blocks(crcs, bytes))
    }

    fn wait_checkpoint(&self, timeout_ms: u64) -> Option<Reason> {
        self.wait_until_due(timeout_ms)
    }

    fn freeze(&self) -> Result<Frozen> {
        self.freeze_batch()
    }

    fn publish(&self, frozen: Frozen, roots: Roots, changes: Changes) -> Result<()> {
        self.publish_checkpoint(frozen, roots, changes, &mut || ())
    }

    fn publish_and_show(&self, frozen: Frozen, roots: Roots, changes: Changes, show: &mut dyn FnMut()) -> Result<()> {
        self.publish_checkpoint(frozen, roots, changes, show)
    }

    fn pin(&self) -> Pin {
        self.reader.pins.pin()
    }

    fn abandon(&self, frozen: Frozen) -> Result<()> {
        self.abandon_batch(&frozen)
    }

    fn recovered_roots(&self) -> Roots {
        self.recovered.clone()
    }

    fn take_replay(&self) -> Vec<Replayed> {
        std::mem::take(&mut *self.replay.lock())
    }

    fn usage(&self) -> Usage {
        self.space_usage()
    }

    fn metrics(&self) -> Option<&Metrics> {
        Some(&self.metrics)
    }

    fn memory_bound(&self) -> Option<MemoryBound> {
        Some(Engine::memory_bound(self))
    }

    fn poisoned(&self) -> Option<String> {
        self.writer.as_ref().and_then(|writer| writer.wal.poisoned())
    }

    fn retain(&self, policy: HistoryPolicy) {
        Engine::retain(self, policy);
    }

    fn history(&self) -> Result<Vec<HistoryRoot>> {
        Engine::history(self)
    }

    fn scrub(
        &self,
        options: ScrubOptions,
        progress: &mut dyn FnMut(&ScrubReport) -> ControlFlow<()>,
    ) -> Result<ScrubReport> {
        Engine::scrub(self, options, progress)
    }

    fn is_mark_wanted(&self) -> bool {
        self.is_last_mark_wanted()
    }

    fn mark(
        &self,
        options: MarkOptions,
        uses: &Uses<'_>,
        progress: &mut dyn FnMut(&MarkProgress) -> ControlFlow<()>,
    ) -> Result<MarkReport> {
        self.mark_with(options, Some(uses), progress)
    }
}
