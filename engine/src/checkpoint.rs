//! Checkpoints: freeze, and publish in an order that leaves the previous one or the new one, wherever power fails.
//!
//! ```text
//! log durable to the freeze -> law -> roots twice, drops, batch -> data and writes so far done -> cleaner -> table parts -> all writes done -> system pages -> FLUSH
//!   -> CHECKPOINT record -> directory, segment table (slot N mod 2 in A and B) -> FLUSH, record committed
//!   -> superblocks 0,1 -> FLUSH -> superblocks 2,3 -> FLUSH
//!   -> the client shows the new version -> readers of before have left -> dead containers that no pin holds back, and ring space, are reused     (INV-13, INV-37)
//! ```
//! Before the record is durable: the previous checkpoint, and the log replays. Between the record and the superblock: recovery adopts the record, applies its batch to the
//! previous state and publishes that; what the cleaner moved is forgotten then, its sources are intact. Any error here poisons the store (INV-33).

mod pages;
mod reuse;

use crate::StoreError;
use crate::cleaner::Progress;
use crate::engine::{Engine, Objects, Published, Writer};
use crate::hlc::next_bound;
use crate::mutant::{self, Mutant};
use crate::sabotage::{self, Rule};
use crate::space::{RowOf, Space, StreamKind};
use crate::state::{State, law};
use crate::store::{Changes, Frozen, Reason, Result, Roots};
use crate::superblock;
use crate::sync::atomic::Ordering;
use crate::wal::{NewRecord, Position, Wal, advance_start};
use envoyfs_layout::batch::{Batch, BatchObject, PART_BYTES_MAX};
use envoyfs_layout::checksum::crc32c;
use envoyfs_layout::directory_page::{
    Bounds, ContainerRow, ContainerState, Place, PublishedCheckpoint, Totals, VolumeDirectory, VolumeEntry,
};
use envoyfs_layout::roots::{BLOB_BYTES_MAX, RootsObject};
use envoyfs_layout::wal::{CheckpointBody, kind};
use envoyfs_layout::{BLOCK, Encoding, Hlc, Oid, Reference, ReferenceKind, UNIT};
pub(crate) use reuse::HeldBack;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Engine {
    pub(crate) fn freeze_batch(&self) -> Result<Frozen> {
        let writer = self.writer()?;
        if let Some(why) = writer.wal.poisoned().filter(|_| !sabotage::on(Rule::PublishesPoisoned)) {
            return Err(StoreError::Poisoned { why });
        }
        if writer.in_flight.swap(true, Ordering::SeqCst) {
            return Err(StoreError::Misuse("a checkpoint is in flight already".into()));
        }
        let held = self.metrics.time(&self.metrics.checkpoint.freeze_hold);
        let mut batches = writer.batches.lock();
        let point = writer.wal.freeze();
        if sabotage::on(Rule::FreezeWaits) {
            writer.wal.wait_data(point.lsn)?;
        }
        let number = batches.current.number;
        let next = Objects { number: number + 1, ..Objects::default() };
        batches.frozen = Some(std::mem::replace(&mut batches.current, next));
        drop(batches);
        held.stop();
        let mut ledger = writer.admission.ledger.lock();
        ledger.freeze();
        ledger.pressure.frozen(self.options.clock.monotonic_ns());
        #[cfg(test)]
        {
            let free = u64::from(writer.space.free_containers()) * writer.admission.budget.container_bytes;
            let admitted = ledger.frozen + ledger.data;
            assert!(free >= admitted, "INV-25: {free} bytes free for {admitted} admitted");
        }
        Ok(Frozen { number, freeze: point.lsn, hlc: point.hlc })
    }

    /// The frozen batch becomes part of the current one, which takes its number over: numbers of checkpoints have no gap, and no record names this one yet. Nodes built
    /// for it die with the next checkpoint, unless its roots reach them.
    pub(crate) fn abandon_batch(&self, frozen: &Frozen) -> Result<()> {
        let writer = self.writer()?;
        let misuse = || StoreError::Misuse(format!("checkpoint {} is not the frozen one", frozen.number));
        let mut batches = writer.batches.lock();
        let mut before = batches.frozen.take_if(|objects| objects.number == frozen.number).ok_or_else(misuse)?;
        // Nodes that were built for it may have them with the length that they have now.
        before.unstored.values_mut().for_each(|object| object.referred |= !sabotage::on(Rule::GrowsAfterAbandon));
        let mut objects = std::mem::replace(&mut batches.current, before);
        for object in objects.unstored.values_mut() {
            object.batch = frozen.number;
        }
        batches.current.unstored.extend(objects.unstored);
        batches.current.grown.extend(objects.grown);
        let mut ledger = writer.admission.ledger.lock();
        ledger.abandon();
        ledger.pressure.abandoned();
        drop(ledger);
        drop(batches);
        writer.wal.abandon_freeze();
        writer.in_flight.store(false, Ordering::SeqCst);
        writer.admission.changed.notify_all();
        Ok(())
    }

    pub(crate) fn publish_checkpoint(
        &self,
        frozen: Frozen,
        roots: Roots,
        changes: Changes,
        show: &mut dyn FnMut(),
    ) -> Result<()> {
        let writer = self.writer()?;
        let timing = self.metrics.time(&self.metrics.checkpoint.total);
        let result = {
            let mut published = writer.published.lock();
            self.try_publish(writer, &mut published, &frozen, &roots, &changes, show)
        };
        timing.stop();
        if let Err(error) = &result {
            self.metrics.checkpoint.failed.increment();
            writer.wal.poison(&format!("checkpoint {} failed: {error}", frozen.number));
        }
        writer.in_flight.store(false, Ordering::SeqCst);
        if !mutant::on(Mutant::PublishedSilently) {
            writer.admission.changed.notify_all();
        }
        result
    }

    fn try_publish(
        &self,
        writer: &Writer,
        published: &mut Published,
        frozen: &Frozen,
        roots: &Roots,
        changes: &Changes,
        show: &mut dyn FnMut(),
    ) -> Result<()> {
        let space = &writer.space;
        let misuse =
            |error: &dyn std::fmt::Display| StoreError::Misuse(format!("checkpoint {}: {error}", frozen.number));
        if roots.blob.len() > BLOB_BYTES_MAX {
            return Err(StoreError::TooLarge {
                what: "the roots' client bytes",
                bytes: roots.blob.len() as u64,
                limit: BLOB_BYTES_MAX as u64,
            });
        }
        // From here on no other thread copies, or loads pages that this changes.
        let mut cleaning = writer.cleaning.hold();
        let objects = writer.batches.lock().frozen.take().filter(|objects| objects.number == frozen.number);
        let objects = objects.ok_or_else(|| misuse(&"it is not the frozen one"))?;
        let data = objects.unstored.values().filter(|object| object.reference.kind == ReferenceKind::Extent);
        let named: u64 = data.map(|object| u64::from(object.pieces)).sum();
        let stages = &self.metrics.checkpoint;
        let mut stage = self.metrics.time(&stages.law);
        // A roots object tells a rebuild that the log was durable up to its freeze: what is missing of that now was written over, after the publication.
        // It waits for the data of its records, too.
        if !sabotage::on(Rule::RootsBeforeTheirLog) && !sabotage::on(Rule::CleanedBeforeArrival) {
            writer.wal.commit(frozen.freeze)?;
        }
        let outcome = law::compute(frozen.number, &objects.unstored, &published.roots, &roots.references, changes)
            .map_err(|error| misuse(&error))?;

        let roots_object = RootsObject {
            checkpoint: frozen.number,
            freeze: frozen.freeze,
            hlc: frozen.hlc,
            client: published.entry.client,
            references: roots.references.clone(),
            blob: roots.blob.clone(),
            copies: Vec::new(),
        };
        let roots_object = roots_object.with_copies(|node| self.reader.top_node(node));
        let bytes: Arc<[u8]> = roots_object.encode().into();
        let copies = [
            self.append_own(writer, ReferenceKind::Roots, frozen.hlc, &bytes, 1)?,
            // In blocks of its own: one that cannot be read takes whatever lies in it along.
            self.append_own(writer, ReferenceKind::Roots, frozen.hlc, &bytes, BLOCK / UNIT)?,
        ];
        let mut batch = Batch {
            checkpoint: frozen.number,
            new: outcome.new,
            freed: outcome.freed,
            ranges: outcome.ranges,
            deltas: outcome.deltas,
            ..Batch::default()
        };
        batch.new.extend(copies.iter().map(BatchObject::from));
        let old = [published.entry.roots, published.entry.roots_twin];
        batch.freed.extend(old.iter().flatten().map(BatchObject::from));
        batch.new.sort_unstable();
        batch.freed.sort_unstable();
        let retains = self.drop_history(writer, &mut batch, &roots.references)?;
        self.apply_law(Some(space), &batch)?;
        stages.objects.add(batch.new.len() as u64);
        stages.deltas.add(batch.deltas.len() as u64);
        stages.freed.add(batch.freed.len() as u64);
        stage.next(&stages.drops);
        let hurry = self.is_short(writer);
        self.work_off(writer, &mut batch, hurry)?;
        self.release_deferred(writer, &mut batch, hurry)?;
        self.retain_this(writer, &mut batch, frozen.hlc, &copies, retains);
        self.apply_repairs(writer, &mut batch)?;
        if sabotage::on(Rule::DropsNotInBatch) {
            batch.drops.clear();
        }
        let part_max = PART_BYTES_MAX.min(self.shape.segment_bytes as usize / 4);
        let mut parts = Vec::new();
        for part in batch.encode(part_max) {
            parts.push(self.append_own(writer, ReferenceKind::Batch, frozen.hlc, &part.into(), 1)?);
        }

        stage.next(&stages.settle);
        // Nothing of the batch is under way any more when the cleaner may look at it.
        if !sabotage::on(Rule::CleanedBeforeArrival) {
            space.settle(|| writer.wal.wait_data(frozen.freeze))?;
        }
        // What is resolved now no longer pins; what is written from here on lies in containers that are open, or pinned.
        for object in objects.unstored.values() {
            if !sabotage::on(Rule::ContainerPinKept) {
                space.unpin(object.reference.oid.segment(), object.pieces);
            }
        }
        stage.next(&stages.clean);
        let mut candidates = self.candidates(space);
        // What this publication gives back by itself needs no copying.
        let dead = {
            // What pins hold back is not given back for certain. Containers that survivors have filled count although they are not given back: less is cleaned for waiting
            // writers and more between checkpoints, of which there are fewer so (0009).
            let (dead, held) = (self.dead(&candidates), writer.held.lock());
            dead.into_iter().filter(|container| !held.holds(*container)).collect()
        };
        if self.is_behind(writer, &cleaning, &dead) {
            self.clean_now(writer, &mut cleaning, &dead)?;
        }
        let free_then = space.free_containers();
        let mut moves = cleaning.take_moves();
        space.each_stream(|stream| stream.checkpoint(space))?;
        stage.next(&stages.data);
        if sabotage::on(Rule::MovesInstalledEarly) {
            self.install(space, std::mem::take(&mut moves))?;
        }
        writer.wal.wait_data(frozen.freeze)?;
        space.wait_writes()?;
        stage.next(&stages.pages);

        self.keep_buried();
        self.install(space, moves)?;
        #[cfg(test)]
        if let Some(look) = &*self.after_install.lock() {
            look(self);
        }
        crate::space::install_relocations(&self.pager(), &space.relocations())?;
        let mut releasable = self.dead(&candidates);
        self.leave_homes(space, &releasable)?;
        if sabotage::on(Rule::MarkBeforePublication) {
            self.pin_version(frozen.number, &roots.references, copies);
        }
        self.write_pages(space)?;
        let mut entry = published.entry.clone();
        // Before the table: those that are in it.
        let unlogged = space.unlogged();
        let table = {
            let state = self.state.lock();
            let marking = self.is_marking();
            candidates.retain(|(container, kind)| {
                *kind == ContainerState::System && !marking && state.pages.of(*container) == 0
            });
            releasable.extend(candidates.iter().map(|(container, _)| *container));
            describe(&mut entry, &state, frozen.number);
            table(space, &state, &releasable)
        };
        // What the table calls closed has its last parts on the device: a mount takes its word for it.
        if !sabotage::on(Rule::ClosedBeforeItsEnd) && !sabotage::on(Rule::NamedBeforeArrival) {
            space.wait_writes()?;
        }
        stage.next(&stages.flush);
        if !sabotage::on(Rule::NoFlushBeforeCheckpointRecord) {
            self.device.flush()?;
        }

        stage.next(&stages.record);
        let bounds = writer.counters.reserve(self.segment_bound(space));
        let (history_floor, drop_position) = {
            let state = self.state.lock();
            (state.history().first().map_or(0, |retained| retained.row.checkpoint), state.queue().len())
        };
        let body = CheckpointBody {
            number: frozen.number,
            freeze: frozen.freeze,
            stream_hash: 0,
            merged_through: frozen.number,
            bounds,
            history_floor,
            drop_position,
            hlc: frozen.hlc,
            roots: copies[0],
            roots_twin: copies[1],
            batch: parts,
        };
        let record = self.log_checkpoint(writer, &body, unlogged.is_empty())?;
        writer.wal.frame()?;
        let record_start = record.map_or(frozen.freeze, |record| record.start);
        let freeze = if sabotage::on(Rule::StartAtCheckpointRecord) { record_start } else { frozen.freeze };
        let start = match record {
            Some(_) => writer.wal.start_of(freeze),
            None => writer.wal.start_or_end_of(freeze),
        };
        let start =
            start.ok_or_else(|| StoreError::Refused(format!("the log does not know where {freeze:?} stands")))?;
        entry.checkpoint = PublishedCheckpoint {
            record: record_start,
            epoch: entry.writer_epoch,
            freeze,
            stream_hash: 0,
            number: frozen.number,
        };
        advance_start(&mut entry, start);
        entry.roots = Some(copies[0]);
        entry.roots_twin = Some(copies[1]);
        entry.bounds = bounds;
        entry.checkpoint_hlc = frozen.hlc;
        // Something was given back, or will be by the next checkpoint.
        let dropped = !batch.drops.is_empty() || self.has_history_to_free() && !self.stalled.load(Ordering::SeqCst);
        let mut next = published.superblock.next();
        let stamp = record.map_or_else(|| writer.wal.last_hlc(), |record| record.hlc);
        next.hlc_bound = next_bound(writer.wal.believed_wall_ns(), stamp).max(published.superblock.hlc_bound);
        let mut directory = VolumeDirectory { sequence: 0, entry, table };
        if sabotage::on(Rule::ContainersReusedEarly) {
            releasable.iter().for_each(|container| space.release(*container));
        }
        if sabotage::on(Rule::RingReusedEarly) {
            writer.wal.published(&start);
        }
        superblock::write_directory(&*self.device, &mut next, &mut directory, &mut published.table)?;
        // Not `commit`: the record may be durable through somebody else's group, whose flush began before the directory was written.
        if sabotage::on(Rule::CommitInsteadOfBarrier) {
            writer.wal.commit(record.map_or(freeze, |record| record.end))?;
        } else if record.is_some() || !sabotage::on(Rule::NoBarrierWithoutRecord) {
            writer.wal.barrier()?;
        }
        stage.next(&stages.superblock);
        superblock::publish(&*self.device, &next)?;

        stage.next(&stages.readers);
        writer.wal.raise_hlc_bound(next.hlc_bound);
        writer.wal.published(&start);
        let is_told = record.is_some() || sabotage::on(Rule::ReusedUntold) || log_published(&writer.wal, &body)?;
        // A row that says nothing of what lies in it may yet be taken for an older one: what the log says of it is still missed. Those without a row are given back.
        let untold = directory.table.iter().filter(|row| row.used_units == 0).map(|row| row.segment).collect();
        space.tabled(&unlogged.difference(&untold).copied().collect());
        published.superblock = next;
        published.entry = directory.entry;
        published.roots.clone_from(&roots.references);
        self.reader.set_root_copies(&roots_object);
        writer.counters.raise(&bounds);
        space.numbers.segment_bound.fetch_max(bounds.segment, Ordering::SeqCst);
        self.pin_version(frozen.number, &roots.references, copies);
        writer.freeze.store(frozen.freeze.0, Ordering::SeqCst);
        writer.number.store(frozen.number, Ordering::SeqCst);
        writer.overdue.store(false, Ordering::SeqCst);
        writer.unserved.store(false, Ordering::SeqCst);
        {
            let mut state = self.state.lock();
            state.trim(self.options.settings.segment_cache_bytes);
            let metrics = &self.metrics.state;
            metrics.loaded_bytes.set(state.loaded_bytes());
            metrics.loaded_peak.set(state.loaded_peak());
            metrics.drop_queue.set(state.queue().len());
            metrics.retained.set(state.history().len() as u64);
            writer.was_shared.fetch_or(state.shared_objects() > 0, Ordering::Relaxed);
            metrics.deferred_bytes.set(state.deferred_units() * u64::from(UNIT));
        }
        if space.has_relocations() {
            for object in objects.unstored.values() {
                let slot = u32::from(object.reference.oid.slot());
                space.settle_relocations(object.reference.oid.segment(), &(slot..slot + object.reference.units()));
            }
        }
        drop(objects);
        writer.unpublished.fetch_sub(named, Ordering::Relaxed);
        cleaning.took(free_then.saturating_sub(space.free_containers()));
        // What is not told of is not reused: the next publication finds it dead again.
        let nothing = BTreeSet::new();
        let released = self.reuse(writer, if is_told { &releasable } else { &nothing }, dropped, show);
        cleaning.published(&writer.cleaning, &released);
        drop(cleaning);
        stage.stop();
        stages.published.increment();
        stages.number.set(frozen.number);
        space.set_urgent(false);
        let pages = self.state.lock().pages.units() * u64::from(UNIT);
        let mut ledger = writer.admission.ledger.lock();
        ledger.pages = pages;
        ledger.published(space.free_containers(), dropped);
        ledger.pressure.published(self.options.clock.monotonic_ns());
        Ok(())
    }

    /// The CHECKPOINT record, if the log tells of every segment that it may lead to, and has room for it: a mount that finds it adopts the checkpoint. Without one the checkpoint
    /// takes effect with the superblock alone, and a crash before that leaves the previous one and the log, whole. So no ring is too full for the publication that empties it.
    fn log_checkpoint(&self, writer: &Writer, body: &CheckpointBody, is_told: bool) -> Result<Option<Position>> {
        let bytes = body.encode();
        let record = NewRecord::engine(kind::CHECKPOINT, &bytes);
        let appended = if is_told || sabotage::on(Rule::UnloggedAdopted) {
            match writer.wal.append_spare(record) {
                // More parts than a record can name.
                Err(StoreError::TooLarge { .. }) => None,
                appended => appended?,
            }
        } else {
            None
        };
        if appended.is_none() {
            tracing::debug!(checkpoint = body.number, "the log has no room for its record: published without one");
            self.metrics.checkpoint.unrecorded.increment();
            writer.wal.skip_record();
        }
        Ok(appended)
    }

    /// An object of the engine's own: nothing references it but the record.
    fn append_own(
        &self,
        writer: &Writer,
        kind: ReferenceKind,
        birth: Hlc,
        bytes: &Arc<[u8]>,
        align: u32,
    ) -> Result<Reference> {
        let crc = crc32c(bytes);
        let stored_bytes = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let row = RowOf { kind, birth, crc, owner: 0 };
        let (segment, slot) = self.append_buffered(writer, StreamKind::Nodes, Arc::clone(bytes), align, row)?;
        self.metrics.streams.own_bytes.add(stored_bytes.into());
        // Its container stays: it is open, or sealed after the candidates of this checkpoint were chosen or holds it as live.
        writer.space.unpin(segment, 1);
        let oid = Oid::new(self.shape.volume, segment, slot);
        Ok(Reference {
            oid,
            birth,
            stored_bytes,
            logical_bytes: stored_bytes,
            crc,
            kind,
            flags: 0,
            encoding: Encoding::Plain,
        })
    }

    /// Whether writers are being held back, or soon will be, for lack of free containers.
    pub(crate) fn is_short(&self, writer: &Writer) -> bool {
        let wanted = writer.admission.ledger.lock().wanted == Some(Reason::Reclaim);
        wanted || writer.space.free_containers() < self.clean_target(writer)
    }

    /// Whether copying between checkpoints did not keep up.
    fn is_behind(&self, writer: &Writer, cleaning: &Progress, dead: &BTreeSet<u32>) -> bool {
        let wanted = writer.admission.ledger.lock().wanted == Some(Reason::Reclaim);
        let free = writer.free();
        let dead = u32::try_from(dead.len()).unwrap_or(u32::MAX);
        let target = self.clean_target(writer).saturating_add(cleaning.takes());
        wanted || free.now.saturating_add(free.coming).saturating_add(dead) < target
    }

    /// Those of the candidates in which no object lives.
    fn dead(&self, candidates: &[(u32, ContainerState)]) -> BTreeSet<u32> {
        let state = self.state.lock();
        let objects = candidates.iter().filter(|(c, s)| *s != ContainerState::System && state.live_in(*c) == 0);
        objects.map(|(container, _)| *container).collect()
    }

    /// Free containers that the cleaner works towards.
    pub(crate) fn clean_target(&self, writer: &Writer) -> u32 {
        let target = writer.admission.ledger.lock().clean_target(&writer.admission.budget);
        target.min(self.shape.containers)
    }

    /// Containers that are closed, have all their bytes on the device, and hold nothing unpublished: they may be cleaned, and released once nothing in them lives.
    pub(crate) fn candidates(&self, space: &Space) -> Vec<(u32, ContainerState)> {
        let open = space.open_containers();
        let pinned = space.pinned();
        space.with_containers(|containers| {
            let closed = containers.used().filter(|(number, row)| {
                let closed = row.is_closed() && (row.settled || sabotage::on(Rule::CleanedBeforeArrival));
                let pinned = pinned.contains(&row.segment) && !sabotage::on(Rule::PinsIgnored);
                closed && !open.contains(number) && !pinned
            });
            closed.map(|(number, row)| (number, row.state)).collect()
        })
    }

    /// Segments whose home is about to be reused lose it.
    fn leave_homes(&self, space: &Space, releasable: &BTreeSet<u32>) -> Result<()> {
        let homes: Vec<(u32, u32)> = space.with_containers(|containers| {
            let segment = |container: &u32| containers.get(*container).map_or(0, |row| row.segment);
            releasable.iter().map(|container| (*container, segment(container))).collect()
        });
        self.load_segments(&homes.iter().map(|(_, segment)| *segment).collect())?;
        self.forget_segments(homes);
        Ok(())
    }

    /// Segment numbers reserved from the next publication on.
    pub(crate) fn segment_bound(&self, space: &Space) -> u64 {
        space.numbers.reserve()
    }
}

/// A checkpoint that was published without a record gets one now that the ring has room, without its batch if that does not fit. A mount passes it over, being published; a rebuild learns by it that
/// this checkpoint took place, and does not start from the one before, of which space is reused from here on. False: there is no room.
pub(crate) fn log_published(wal: &Wal, body: &CheckpointBody) -> Result<bool> {
    let append = |body: &CheckpointBody| match wal.append_spare(NewRecord::engine(kind::CHECKPOINT, &body.encode())) {
        Err(StoreError::TooLarge { .. }) => Ok(None),
        appended => appended,
    };
    let without = CheckpointBody { batch: Vec::new(), ..body.clone() };
    if append(body)?.is_none() && append(&without)?.is_none() {
        return Ok(false);
    }
    if !sabotage::on(Rule::UntoldNotDurable) {
        wal.barrier()?;
    }
    Ok(true)
}

/// The segment table: what is released is free in it already.
pub(crate) fn table(space: &Space, state: &State, releasable: &BTreeSet<u32>) -> Vec<ContainerRow> {
    let mut table = space.table(state);
    for (number, row) in (0_u32..).zip(&mut table) {
        if releasable.contains(&number) {
            *row = ContainerRow::FREE;
        } else if row.state == ContainerState::System {
            row.live_units = state.pages.of(number);
            row.used_units = row.used_units.max(row.live_units);
        }
    }
    table
}

/// The parts of a directory entry that follow from the state.
pub(crate) fn describe(entry: &mut VolumeEntry, state: &State, number: u64) {
    entry.drop_queue = state.queue().place();
    entry.orphaned_segments = state.orphans.index().last().copied().unwrap_or(Place::NONE);
    entry.history = state.history_page();
    entry.unreadable = state.unreadable_page();
    entry.merged_through = number;
    entry.totals = Totals {
        live_units: state.live_units(),
        live_objects: 0,
        shared_objects: state.shared_objects(),
        drop_queue_objects: state.queue().len(),
        nodes: 0,
        segments: state.table().len() as u64,
        deferred_units: state.deferred_units(),
    };
}

/// Larger of two, field by field.
pub(crate) fn max_bounds(a: Bounds, b: Bounds) -> Bounds {
    Bounds {
        segment: a.segment.max(b.segment),
        inode: a.inode.max(b.inode),
        realm: a.realm.max(b.realm),
        territory: a.territory.max(b.territory),
        pin: a.pin.max(b.pin),
    }
}
