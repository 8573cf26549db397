//! Checkpoints: freeze, and publish in an order that leaves the previous one or the new one, wherever power fails.
//!
//! ```text
//! law -> roots twice, drops, batch -> cleaner -> table parts -> all writes done -> system pages -> FLUSH
//!   -> CHECKPOINT record -> directory, segment table (slot N mod 2 in A and B) -> FLUSH, record committed
//!   -> superblocks 0,1 -> FLUSH -> superblocks 2,3 -> FLUSH
//!   -> readers of before have left -> dead containers and ring space are reused          (INV-13, INV-37)
//! ```
//! Before the record is durable: the previous checkpoint, and the log replays. Between the record and the superblock: recovery adopts the record, applies its batch to the
//! previous state and publishes that; what the cleaner moved is forgotten then, its sources are intact. Any error here poisons the store (INV-33).

use crate::StoreError;
use crate::engine::{Engine, Objects, Published, Writer};
use crate::hlc::next_bound;
use crate::sabotage::{self, Rule};
use crate::space::{RowOf, Space, StreamKind};
use crate::state::{State, law};
use crate::store::{Changes, Frozen, Reason, Result, Roots};
use crate::superblock;
use crate::wal::{NewRecord, advance_start};
use envoyfs_layout::batch::{Batch, BatchObject, Drop, PART_BYTES_MAX};
use envoyfs_layout::checksum::crc32c;
use envoyfs_layout::directory_page::{
    Bounds, ContainerRow, ContainerState, Place, PublishedCheckpoint, Totals, VolumeDirectory, VolumeEntry,
};
use envoyfs_layout::node::edges;
use envoyfs_layout::roots::{BLOB_BYTES_MAX, RootsObject};
use envoyfs_layout::system_page::{ListPage, OrphanedSegment};
use envoyfs_layout::wal::{CheckpointBody, kind};
use envoyfs_layout::{Encoding, Hlc, Oid, Reference, ReferenceKind};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Rows of one page of a list.
const LIST_ROWS: usize = 2048;

/// System pages of a checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    pub(crate) drop_queue: Place,
    pub(crate) orphaned: Place,
    pub(crate) orphans: (Vec<OrphanedSegment>, Vec<Place>),
    /// Units of pages in use, by system container.
    pub(crate) live: BTreeMap<u32, u32>,
}

impl Engine {
    pub(crate) fn freeze_batch(&self) -> Result<Frozen> {
        let writer = self.writer()?;
        if let Some(why) = writer.wal.poisoned() {
            return Err(StoreError::Poisoned { why });
        }
        if writer.in_flight.swap(true, Ordering::SeqCst) {
            return Err(StoreError::Misuse("a checkpoint is in flight already".into()));
        }
        let mut batches = writer.batches.lock();
        let point = writer.wal.freeze();
        let number = batches.current.number;
        let next = Objects { number: number + 1, ..Objects::default() };
        batches.frozen = Some(std::mem::replace(&mut batches.current, next));
        drop(batches);
        let mut ledger = writer.admission.ledger.lock();
        ledger.frozen = std::mem::take(&mut ledger.current);
        Ok(Frozen { number, freeze: point.lsn, hlc: point.hlc })
    }

    pub(crate) fn publish_checkpoint(&self, frozen: Frozen, roots: Roots, changes: Changes) -> Result<()> {
        let writer = self.writer()?;
        let timing = self.metrics.time(&self.metrics.checkpoint.total);
        let result = {
            let mut published = writer.published.lock();
            self.try_publish(writer, &mut published, &frozen, &roots, &changes)
        };
        timing.stop();
        if let Err(error) = &result {
            self.metrics.checkpoint.failed.increment();
            writer.wal.poison(&format!("checkpoint {} failed: {error}", frozen.number));
        }
        writer.in_flight.store(false, Ordering::SeqCst);
        writer.admission.changed.notify_all();
        result
    }

    fn try_publish(
        &self,
        writer: &Writer,
        published: &mut Published,
        frozen: &Frozen,
        roots: &Roots,
        changes: &Changes,
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
        let objects = writer.batches.lock().frozen.take().filter(|objects| objects.number == frozen.number);
        let objects = objects.ok_or_else(|| misuse(&"it is not the frozen one"))?;
        let stages = &self.metrics.checkpoint;
        let mut stage = self.metrics.time(&stages.law);
        let outcome = law::compute(frozen.number, &objects.unstored, &published.roots, &roots.references, changes)
            .map_err(|error| misuse(&error))?;

        let roots_object = RootsObject {
            checkpoint: frozen.number,
            freeze: frozen.freeze,
            hlc: frozen.hlc,
            references: roots.references.clone(),
            blob: roots.blob.clone(),
        };
        let bytes: Arc<[u8]> = roots_object.encode().into();
        let copies = [
            self.append_own(writer, ReferenceKind::Roots, frozen.hlc, &bytes)?,
            self.append_own(writer, ReferenceKind::Roots, frozen.hlc, &bytes)?,
        ];
        let mut batch = Batch {
            checkpoint: frozen.number,
            new: outcome.new,
            freed: outcome.freed,
            ranges: outcome.ranges,
            deltas: outcome.deltas,
            drops: Vec::new(),
        };
        batch.new.extend(copies.iter().map(BatchObject::from));
        let old = [published.entry.roots, published.entry.roots_twin];
        batch.freed.extend(old.iter().flatten().map(BatchObject::from));
        {
            let mut state = self.state.lock();
            open_segments(&mut state, space, &batch);
            state.apply_law(&batch).map_err(|error| misuse(&error))?;
        }
        stages.objects.add(batch.new.len() as u64);
        stages.deltas.add(batch.deltas.len() as u64);
        stages.freed.add(batch.freed.len() as u64);
        stage.next(&stages.drops);
        let hurry = self.is_short(writer);
        self.work_off(writer, &mut batch, hurry)?;
        let part_max = PART_BYTES_MAX.min(self.shape.segment_bytes as usize / 4);
        let mut parts = Vec::new();
        for part in batch.encode(part_max) {
            parts.push(self.append_own(writer, ReferenceKind::Batch, frozen.hlc, &part.into())?);
        }

        // What is resolved now no longer pins; what is written from here on lies in containers that are open, or pinned.
        for object in objects.unstored.values() {
            space.unpin(object.reference.oid.segment(), object.pieces);
        }
        drop(objects);
        stage.next(&stages.clean);
        let mut candidates = self.candidates(space);
        let mut moves = self.clean(writer, &candidates, hurry)?;
        for kind in [StreamKind::Nodes, StreamKind::Data, StreamKind::Payload, StreamKind::Survivors] {
            space.stream(kind).checkpoint(space)?;
        }
        stage.next(&stages.data);
        if sabotage::on(Rule::MovesInstalledEarly) {
            self.install(&mut self.state.lock(), std::mem::take(&mut moves));
        }
        writer.wal.wait_data(frozen.freeze)?;
        space.wait_writes()?;
        stage.next(&stages.pages);

        let mut state = self.state.lock();
        self.install(&mut state, moves);
        let mut releasable: BTreeSet<u32> = candidates
            .iter()
            .filter(|(c, s)| **s != ContainerState::System && state.live_in(**c) == 0)
            .map(|(c, _)| *c)
            .collect();
        self.leave_homes(&mut state, &releasable);
        let pages = self.write_pages(space, &mut state, &mut published.orphans)?;
        candidates.retain(|container, state| *state == ContainerState::System && !pages.live.contains_key(container));
        releasable.extend(candidates.keys());
        let table = table(space, &state, &pages, &releasable);
        let mut entry = published.entry.clone();
        describe(&mut entry, &state, &pages, frozen.number);
        drop(state);
        space.wait_writes()?;
        stage.next(&stages.flush);
        if !sabotage::on(Rule::NoFlushBeforeCheckpointRecord) {
            self.device.flush()?;
        }

        stage.next(&stages.record);
        let bounds = writer.counters.reserve(self.segment_bound(space));
        let body = CheckpointBody {
            number: frozen.number,
            freeze: frozen.freeze,
            stream_hash: 0,
            merged_through: frozen.number,
            bounds,
            history_floor: 0,
            drop_position: 0,
            hlc: frozen.hlc,
            roots: copies[0],
            roots_twin: copies[1],
            batch: parts,
        };
        let record = writer.wal.append_internal(NewRecord::engine(kind::CHECKPOINT, &body.encode()))?;
        writer.wal.frame()?;
        let freeze = if sabotage::on(Rule::StartAtCheckpointRecord) { record.start } else { frozen.freeze };
        let start = writer.wal.start_of(freeze);
        let start = start
            .ok_or_else(|| StoreError::Refused(format!("the log does not know where {:?} stands", frozen.freeze)))?;
        entry.checkpoint = PublishedCheckpoint {
            record: record.start,
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
        let dropped = !batch.drops.is_empty();
        let mut next = published.superblock.next();
        next.hlc_bound = next_bound(self.options.clock.wall_ns(), record.hlc).max(published.superblock.hlc_bound);
        let mut directory = VolumeDirectory { sequence: 0, entry, table };
        if sabotage::on(Rule::ContainersReusedEarly) {
            releasable.iter().for_each(|container| space.release(*container));
        }
        if sabotage::on(Rule::RingReusedEarly) {
            writer.wal.published(&start);
        }
        superblock::write_directory(&*self.device, &mut next, &mut directory)?;
        // Not `commit`: the record may be durable through somebody else's group, whose flush began before the directory was written.
        if sabotage::on(Rule::CommitInsteadOfBarrier) {
            writer.wal.commit(record.end)?;
        } else {
            writer.wal.barrier()?;
        }
        stage.next(&stages.superblock);
        superblock::publish(&*self.device, &next)?;

        stage.next(&stages.readers);
        writer.wal.raise_hlc_bound(next.hlc_bound);
        writer.wal.published(&start);
        published.superblock = next;
        published.entry = directory.entry;
        published.roots.clone_from(&roots.references);
        published.orphans = pages.orphans;
        writer.counters.raise(&bounds);
        space.numbers.segment_bound.fetch_max(bounds.segment, Ordering::SeqCst);
        writer.freeze.store(frozen.freeze.0, Ordering::SeqCst);
        writer.number.store(frozen.number, Ordering::SeqCst);
        writer.overdue.store(false, Ordering::SeqCst);
        self.reader.readers.wait_for_earlier();
        releasable.iter().for_each(|container| space.release(*container));
        stage.stop();
        stages.published.increment();
        stages.number.set(frozen.number);
        writer.admission.ledger.lock().published(space.free_containers(), dropped);
        Ok(())
    }

    /// An object of the engine's own: nothing references it but the record.
    fn append_own(&self, writer: &Writer, kind: ReferenceKind, birth: Hlc, bytes: &Arc<[u8]>) -> Result<Reference> {
        let crc = crc32c(bytes);
        let stored_bytes = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let row = RowOf { kind, birth, crc, owner: 0 };
        let (segment, slot) = self.append_buffered(writer, StreamKind::Nodes, Arc::clone(bytes), 1, row)?;
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

    /// Free containers that the cleaner works towards.
    pub(crate) fn clean_target(&self, writer: &Writer) -> u32 {
        let floor = writer.admission.budget.floor_containers(crate::store::Tier::Writer);
        (floor + floor / 4 + 2).min(self.shape.containers)
    }

    /// The drop queue: pops nodes, frees them, and takes their edges back. Paced by the bytes that it adds to the batch.
    fn work_off(&self, writer: &Writer, batch: &mut Batch, hurry: bool) -> Result<()> {
        let dirty_max = writer.admission.budget.dirty_max;
        let mut left = (if hurry { dirty_max / 2 } else { dirty_max / 8 }).max(64 << 10);
        loop {
            let Some(next) = self.state.lock().next_drop() else { return Ok(()) };
            let found = self
                .reader
                .object(&next)
                .and_then(|bytes| edges(&bytes).map_err(|what| StoreError::Damaged { oid: next.oid, offset: 0, what }));
            let found = found.unwrap_or_else(|error| {
                // What hangs below it stays allocated: a leak that fsck finds, instead of a store that cannot go on.
                self.metrics.drops.unreadable.increment();
                tracing::error!(%error, "a node to be deleted cannot be read; what it references stays allocated");
                Vec::new()
            });
            let drop = Drop { object: next.oid, stored_bytes: next.stored_bytes, edges: found };
            let bytes = 16 + drop.edges.len() as u64 * Reference::BYTES as u64;
            self.state.lock().apply_drop(&drop).map_err(|error| StoreError::Misuse(error.to_string()))?;
            self.metrics.drops.nodes.increment();
            self.metrics.drops.edges.add(drop.edges.len() as u64);
            batch.drops.push(drop);
            left = left.saturating_sub(bytes);
            if left == 0 {
                return Ok(());
            }
        }
    }

    /// Containers that nothing writes to any more and nothing unpublished lies in: they may be cleaned, and released once nothing in them lives.
    fn candidates(&self, space: &Space) -> BTreeMap<u32, ContainerState> {
        let open = space.open_containers();
        let pinned = space.pinned();
        space.with_containers(|containers| {
            let closed = containers.iter().filter(|(number, row)| {
                let state = !matches!(row.state, ContainerState::Free | ContainerState::Open);
                let pinned = pinned.contains(&row.segment) && !sabotage::on(Rule::PinsIgnored);
                state && !open.contains(number) && !pinned
            });
            closed.map(|(number, row)| (number, row.state)).collect()
        })
    }

    /// Segments whose home is about to be reused lose it.
    fn leave_homes(&self, state: &mut State, releasable: &BTreeSet<u32>) {
        let homeless: Vec<u32> = state
            .segments()
            .iter()
            .filter(|(_, segment)| segment.home.is_some_and(|home| releasable.contains(&home)))
            .map(|(number, _)| *number)
            .collect();
        releasable.iter().for_each(|container| state.release(*container));
        let forgotten = state.forget_empty();
        forgotten.iter().for_each(|number| self.reader.forget(*number));
        for number in homeless {
            if let Some(segment) = state.segments().get(&number) {
                self.reader.set_location(number, segment.location());
            }
        }
    }

    /// Segment numbers reserved from the next publication on: more than can be opened before the one after it.
    pub(crate) fn segment_bound(&self, space: &Space) -> u64 {
        let next = space.numbers.segment.load(Ordering::SeqCst);
        u64::from(next) + 2 * u64::from(self.shape.containers) + 16
    }

    /// Writes the pages of segments that changed, the drop queue, and the list of segments without a home; empties sparse system containers.
    pub(crate) fn write_pages(
        &self,
        space: &Space,
        state: &mut State,
        before: &mut (Vec<OrphanedSegment>, Vec<Place>),
    ) -> Result<Pages> {
        let mut pages = Pages::default();
        let sparse = self.sparse_system_containers(space, state);
        let due: Vec<u32> = state
            .segments()
            .iter()
            .filter(|(_, segment)| segment.dirty || sparse.contains(&segment.page.container) && !segment.page.is_none())
            .map(|(number, _)| *number)
            .collect();
        for number in due {
            let Some(page) = state.page(number) else { continue };
            let place = self.write_page(space, page.encode())?;
            if let Some(segment) = state.segment_mut(number) {
                segment.page = place;
                segment.dirty = false;
            }
        }
        let queue = state.queue().to_vec();
        self.metrics.drops.queue.set(queue.len() as u64);
        let (place, chain) = self.write_list(space, &queue, |rows| ListPage::DropQueue(rows.to_vec()))?;
        pages.drop_queue = place;
        let orphans: Vec<OrphanedSegment> = state
            .segments()
            .iter()
            .filter(|(_, segment)| segment.home.is_none())
            .map(|(number, segment)| OrphanedSegment { segment: *number, page: segment.page })
            .collect();
        let keep = orphans == before.0 && before.1.iter().all(|place| !sparse.contains(&place.container));
        if keep {
            pages.orphans = std::mem::take(before);
        } else {
            let (_, chain) = self.write_list(space, &orphans, |rows| ListPage::OrphanedSegments(rows.to_vec()))?;
            pages.orphans = (orphans, chain);
        }
        pages.orphaned = pages.orphans.1.last().copied().unwrap_or(Place::NONE);
        space.stream(StreamKind::System).flush(space);

        let places =
            state.segments().values().map(|segment| segment.page).chain(chain).chain(pages.orphans.1.iter().copied());
        let mut live: BTreeMap<u32, u32> = BTreeMap::new();
        for place in places.filter(|place| !place.is_none()) {
            *live.entry(place.container).or_default() += place.stored_bytes.div_ceil(envoyfs_layout::UNIT);
        }
        pages.live = live;
        Ok(pages)
    }

    /// A list from its end to its start, since each page names the next. Returns the first page and all of them, the first last.
    fn write_list<T>(&self, space: &Space, rows: &[T], page: impl Fn(&[T]) -> ListPage) -> Result<(Place, Vec<Place>)> {
        let mut next = Place::NONE;
        let mut chain = Vec::new();
        for rows in rows.rchunks(LIST_ROWS) {
            next = self.write_page(space, page(rows).encode(next))?;
            chain.push(next);
        }
        Ok((next, chain))
    }

    fn write_page(&self, space: &Space, bytes: Vec<u8>) -> Result<Place> {
        let crc = crc32c(&bytes);
        let stored_bytes = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let row = RowOf { kind: ReferenceKind::Node, birth: Hlc::ZERO, crc, owner: 0 };
        self.metrics.streams.page_bytes.add(stored_bytes.into());
        let (_, container, units) = space.stream(StreamKind::System).append(space, bytes.into(), 1, row, 0)?;
        Ok(Place { container, units, stored_bytes, crc })
    }

    /// System containers worth emptying: when there are many more than the pages need, those with less than half in use.
    fn sparse_system_containers(&self, space: &Space, state: &State) -> BTreeSet<u32> {
        let mut live: BTreeMap<u32, u32> = BTreeMap::new();
        for segment in state.segments().values() {
            if !segment.page.is_none() {
                *live.entry(segment.page.container).or_default() +=
                    segment.page.stored_bytes.div_ceil(envoyfs_layout::UNIT);
            }
        }
        let open = space.open_containers();
        let units = self.shape.units();
        let all: Vec<u32> = space.with_containers(|containers| {
            containers
                .iter()
                .filter(|(n, row)| row.state == ContainerState::System && !open.contains(n))
                .map(|(n, _)| n)
                .collect()
        });
        let needed = live.values().sum::<u32>().div_ceil(units) as usize;
        if all.len() <= 2 * needed {
            return BTreeSet::new();
        }
        all.into_iter().filter(|container| live.get(container).copied().unwrap_or(0) < units / 2).collect()
    }
}

/// Segments that the batch puts its first live objects into.
pub(crate) fn open_segments(state: &mut State, space: &Space, batch: &Batch) {
    let unknown: BTreeSet<u32> = batch
        .new
        .iter()
        .map(|object| object.oid.segment())
        .filter(|number| !state.segments().contains_key(number))
        .collect();
    if unknown.is_empty() {
        return;
    }
    space.with_containers(|containers| {
        for (container, row) in containers.iter().filter(|(_, row)| unknown.contains(&row.segment)) {
            state.open_segment(row.segment, container);
        }
    });
}

/// The segment table: what is released is free in it already.
pub(crate) fn table(space: &Space, state: &State, pages: &Pages, releasable: &BTreeSet<u32>) -> Vec<ContainerRow> {
    let mut table = space.table(state);
    for (number, row) in (0_u32..).zip(&mut table) {
        if releasable.contains(&number) {
            *row = ContainerRow::FREE;
        } else if row.state == ContainerState::System {
            row.live_units = pages.live.get(&number).copied().unwrap_or(0);
            row.used_units = row.used_units.max(row.live_units);
        }
    }
    table
}

/// The parts of a directory entry that follow from the state.
pub(crate) fn describe(entry: &mut VolumeEntry, state: &State, pages: &Pages, number: u64) {
    entry.drop_queue = pages.drop_queue;
    entry.orphaned_segments = pages.orphaned;
    entry.merged_through = number;
    entry.totals = Totals {
        live_units: state.live_units(),
        live_objects: 0,
        shared_objects: state.shared_objects(),
        drop_queue_objects: state.queue().len() as u64,
        nodes: 0,
        segments: state.segments().len() as u64,
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
