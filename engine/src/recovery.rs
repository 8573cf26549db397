//! Mounting: from what the device shows to a store that serves.
//!
//! ```text
//! FLUSH -> superblock -> directory -> log scan (cut, last CHECKPOINT)
//!   -> adopt: apply the batch of an unpublished CHECKPOINT -> repair superblocks -> seal segments that were open -> system pages -> FLUSH
//!   -> publish checkpoint, generation and cut: directory, FLUSH, superblock       (INV-20: before anything is served)
//!   -> its record, if it has none in the log (INV-13: before anything is reused)
//!   -> records after the freeze go to the client
//! ```
//! A crash anywhere here leaves what was published; running it again finds the same (INV-21). A read-only mount writes nothing. The time it takes depends on the log and,
//! little, on the number of segments (64 bytes each are read), not on files or snapshots.

mod adopt;
mod seal;

use crate::StoreError;
use crate::checkpoint::{describe, log_published, max_bounds, table};
use crate::device::{Device, DeviceError, MeteredDevice, Operation, warn_if_changed};
use crate::engine::{Batches, Counters, Engine, Objects, Options, Published, Writer};
use crate::hlc::{HlcSource, next_bound, wall_hlc};
use crate::metrics::Metrics;
use crate::sabotage::{self, Rule};
use crate::space::admission::Budget;
use crate::space::heat::Scale;
use crate::space::{Container, Containers, Numbers, Reader, Shape, Space, check_blocks};
use crate::state::{Fragment, Pager, State};
use crate::store::{DataObject, Replayed, Result, Roots};
use crate::superblock::{self, OpenError, PublishedTable};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::wal::recovery::{Adopted, Found, FoundRecord, Judge, Verdict, scan};
use crate::wal::{Config, RingGeometry, Wal, publish_cut};
use envoyfs_layout::batch::{Batch, PART_BYTES_MAX};
use envoyfs_layout::directory_page::{Bounds, ContainerRow, ContainerState, VolumeDirectory, VolumeEntry};
use envoyfs_layout::roots::RootsObject;
use envoyfs_layout::superblock::{Barrier, Superblock};
use envoyfs_layout::wal::{CheckpointBody, Closed, Relocated, SegmentOpened, SegmentPlaced, kind};
use envoyfs_layout::{ClientTag, Hlc, Reference, UNIT};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Opened, placed and sealed.
const RECORDS_OF_A_SEGMENT: u64 = 3;
/// Segments that a checkpoint may begin beside those that it fills: of nodes, of payloads, and the ones that data is written to meanwhile.
const SEGMENTS_BEGUN: u64 = 4;
/// What is kept for a checkpoint is at most this part of the ring; from a freeze until its record it is twice as much.
const RING_PARTS: u64 = 8;

/// Nodes that the next checkpoint writes for a replayed record, beside its body: nobody knows what its operation was admitted with.
const REPLAYED_BYTES: u64 = 8 << 10;

/// A stamp from here on leaves no room for the bound ahead of it, nor for those after it.
const MILLISECONDS_END: u64 = 1 << 47;
/// How [`Engine::read_only`] begins if the device did not take the writes of a recovery.
pub const CANNOT_BE_WRITTEN: &str = "it cannot be written";

/// The checkpoint that the mount starts from.
struct Start {
    adopted: Option<Adopted>,
    batch: Batch,
    roots: RootsObject,
}

/// A writable mount before it has published anything.
struct Begun {
    entry: VolumeEntry,
    table: PublishedTable,
    budget: Budget,
    wal: Arc<Wal>,
    space: Arc<Space>,
    next: Superblock,
    /// Units used in each container that is being filled, as the published table has it.
    published_rows: BTreeMap<u32, u32>,
    unserved: bool,
    hlc_bound: Hlc,
    /// The first numbers that were not handed out.
    first: Bounds,
}

struct Placements<'a> {
    reader: &'a Reader,
}

impl Judge for Placements<'_> {
    fn placed(&mut self, placed: SegmentPlaced) {
        if !self.reader.knows(placed.number) {
            self.reader.set_home(placed.number, Some(placed.container));
        }
    }
    fn relocated(&mut self, relocated: Relocated) {
        // What the published slot map says is newer: the cleaner may have moved it on.
        let Relocated { number, slot, units, container, offset_units } = relocated;
        if !self.reader.is_moved(number, slot) {
            self.reader.relocate(number, slot, Fragment { units, container, offset_units });
        }
    }
    fn record(&mut self, _record: &FoundRecord) {}
    fn verify(&mut self, object: &DataObject) -> Verdict {
        let start = u32::from(object.oid.slot());
        let units = object.stored_bytes / UNIT;
        if start + units > self.reader.shape().units() {
            return Verdict::Wrong;
        }
        let mut bytes = vec![0; object.stored_bytes as usize];
        let check = |bytes: &[u8]| check_blocks(&object.crcs, bytes);
        match self.reader.read(object.oid, &(start..start + units), &mut bytes, check) {
            Ok(()) => Verdict::Right,
            // Also one that has become shorter, or does not answer at all.
            Err(StoreError::Unreadable { .. } | StoreError::Device(_)) => Verdict::Unreadable,
            Err(_) => Verdict::Wrong,
        }
    }
}

/// Whose store it is (0001): nobody's before the first writable mount.
fn of_client(entry: &mut VolumeEntry, client: ClientTag) -> Result<()> {
    let unused = entry.ring_generation == 0 && !entry.client.is_named();
    if unused {
        entry.client = client;
    }
    if entry.client == client { Ok(()) } else { Err(StoreError::OtherClient { found: entry.client, asked: client }) }
}

fn refused(error: OpenError) -> StoreError {
    match error {
        OpenError::Device(error) => StoreError::Device(error),
        other => StoreError::Refused(other.to_string()),
    }
}

impl Engine {
    /// Mounts a store for a client that gives no name: see [`Engine::open_for`].
    ///
    /// # Errors
    /// As [`Engine::open_for`].
    pub fn open(device: Arc<dyn Device>, options: Options) -> Result<Self> {
        Self::open_for(ClientTag::UNNAMED, device, options)
    }

    /// Mounts a store for a client, which it then belongs to: a store that nobody has mounted for writing yet becomes its own, that of another client is refused before
    /// anything is written. So nobody takes for his roots what means something else, or an empty root for an empty store.
    ///
    /// # Errors
    /// [`StoreError::OtherClient`], [`StoreError::Refused`] with what to do, or what the device reports.
    pub fn open_for(client: ClientTag, device: Arc<dyn Device>, options: Options) -> Result<Self> {
        Self::open_from(client, device, options, true)
    }

    /// Mounts a store from its *published* checkpoint, also if the log holds a newer one that was not published yet. For repair, when the newer one is damaged: the
    /// records since the published one are all in the log, so that nothing is lost by it.
    ///
    /// # Errors
    /// As [`Engine::open_for`].
    pub fn open_published(client: ClientTag, device: Arc<dyn Device>, options: Options) -> Result<Self> {
        Self::open_from(client, device, options, false)
    }

    /// A device that does not take the writes of a recovery, at a single place perhaps, can still be read: nothing that was published is lost by them.
    fn open_from(client: ClientTag, device: Arc<dyn Device>, options: Options, adopts: bool) -> Result<Self> {
        let reads = Options { read_only: true, ..options.clone() };
        let writes = !options.read_only;
        match Self::open_as(client, Arc::clone(&device), options, adopts, "it was mounted read-only") {
            // What the mount writes to the log fails as a poisoned log; nothing was acknowledged by it.
            Err(
                error @ (StoreError::Device(DeviceError::Io { operation: Operation::Write | Operation::Flush, .. })
                | StoreError::Poisoned { .. }),
            ) if writes => {
                tracing::warn!(%error, "it cannot be written");
                Self::open_as(client, device, reads, adopts, &format!("{CANNOT_BE_WRITTEN}: {error}"))
            }
            opened => opened,
        }
    }

    fn open_as(
        client: ClientTag,
        device: Arc<dyn Device>,
        options: Options,
        adopts: bool,
        asked: &str,
    ) -> Result<Self> {
        let metrics = Metrics::new(Arc::clone(&options.clock));
        let again = (Arc::clone(&device), options.clone());
        let device: Arc<dyn Device> = Arc::new(MeteredDevice::new(device, Arc::clone(&metrics)));
        let whole = metrics.time(&metrics.recovery.total);
        let mut stage = metrics.time(&metrics.recovery.tables);
        if !sabotage::on(Rule::NoFlushAtOpen)
            && let Err(error) = device.flush()
            && !options.read_only
        {
            return Err(error.into());
        }
        let opened = superblock::open(&*device).map_err(refused)?;
        let superblock = opened.superblock.clone();
        warn_if_changed(&*device, superblock.device_cache);
        let mut why = opened.read_only.clone().unwrap_or_default();
        if options.read_only {
            why = asked.into();
        }
        if why.is_empty() {
            opened.refuse_foreign(&*device).map_err(refused)?;
        }
        let (mut entry, table) = superblock::read_published(&*device, &superblock).map_err(refused)?;
        of_client(&mut entry, client)?;
        let shape = Shape {
            seed: superblock.seed,
            volume: entry.volume,
            segment_bytes: superblock.segment_bytes,
            containers: superblock.containers,
            segments_offset: superblock.segments_offset,
            block_bytes: superblock.logical_block,
        };
        let slot_map_bytes = options.settings.slot_map_bytes;
        let reader = Arc::new(Reader::new(Arc::clone(&device), shape.clone(), Arc::clone(&metrics), slot_map_bytes));
        let state = Mutex::new(State::of_table(&entry, table.rows(), superblock.containers));
        let pager = Pager { state: &state, reader: &reader };
        if let Err(error) = pager.lists(&entry) {
            note(&mut why, format!("{error}; unmount the store and run fsck.envoyfs -fp"));
        }
        show_locations(&reader, table.rows(), &state.lock());
        let ring = RingGeometry::of(&superblock, &entry);
        stage.next(&metrics.recovery.scan);
        let mut found = scan(&*device, &ring, &entry, &mut Placements { reader: &reader })?;
        found.adopted = found.adopted.filter(|_| adopts);
        metrics.recovery.records.add(found.records.len() as u64);
        stage.next(&metrics.recovery.adopt);
        if let Some(corruption) = &found.corrupt {
            metrics.recovery.lost.increment();
            if options.accept_loss {
                tracing::warn!(%corruption, "operations that were acknowledged are given up, as told");
            } else if why.is_empty() || options.read_only {
                // Also to who asked for a read-only mount: what he sees is not all.
                let before = if why.is_empty() { String::new() } else { format!("{why}; ") };
                why = format!("{before}{corruption}; mount it with -o accept_loss to go on without them");
            }
        }
        let stamp = found.max_hlc.max(entry.checkpoint_hlc).max(superblock.hlc_bound);
        if stamp.milliseconds() >= MILLISECONDS_END {
            note(
                &mut why,
                format!("its clock stands at {} ms since 1970, where time stamps end", stamp.milliseconds()),
            );
        }
        let first = first_numbers(&entry.bounds, &found, superblock.sequence);
        if Numbers::chunks_left(first.segment, shape.containers) == 0 {
            note(&mut why, StoreError::UsedUp { what: "segment numbers" }.to_string());
        }
        let mut containers = Containers::new(table.rows().iter().map(Container::from).collect(), superblock.containers);
        place_found(&reader, &state.lock(), &mut containers, &found)?;
        let start = adopt::start(&reader, &entry, &found)?;
        let recovered = Roots { references: start.roots.references.clone(), blob: start.roots.blob.clone() };
        let replay = replay(&mut found, &entry, start.adopted.as_ref());
        metrics.recovery.replayed.add(replay.len() as u64);
        metrics.recovery.adopted.add(u64::from(start.adopted.is_some()));
        let end = found.cut.lsn;
        let history_policy = options.settings.history;
        let mut engine = Self {
            device: Arc::clone(&device),
            metrics: Arc::clone(&metrics),
            options,
            shape,
            reader,
            state,
            writer: None,
            read_only: why,
            recovered,
            replay: Mutex::new(replay),
            history_policy: Mutex::new(history_policy),
            mark: Mutex::default(),
            stalled: AtomicBool::new(false),
            unsaved: crate::unsaved::Unsaved::default(),
            end,
            checkpoint: start.adopted.as_ref().map_or(entry.checkpoint.number, |adopted| adopted.body.number),
            mounted: Vec::new(),
            #[cfg(test)]
            after_install: Mutex::default(),
        };
        let rows = |containers: &Containers| containers.used().map(|(_, row)| *row).collect();
        if !engine.read_only.is_empty() {
            engine.mounted = rows(&containers);
        }
        let mut begun = match engine.read_only.as_str() {
            "" => Some(engine.begin((superblock, entry, table), containers, &ring, &found, &start)?),
            _ => None,
        };
        if let Err(error) = engine.adopt(&start, begun.as_ref().map(|begun| &*begun.space)) {
            match error {
                // Nothing was published, and what was written lies in containers that are free in what is: all records since are in the log.
                StoreError::Refused(why) => {
                    tracing::warn!("{why}; starting from the published one");
                    let (device, options) = again;
                    return Self::open_as(client, device, options, false, asked);
                }
                error => note(&mut engine.read_only, error.to_string()),
            }
            if let Some(begun) = begun.take() {
                engine.mounted = begun.space.with_containers(rows);
            }
        }
        let relocated = {
            let segment_in = |container: u32| match &begun {
                Some(begun) => begun.space.with_containers(|rows| rows.get(container).map_or(0, |row| row.segment)),
                None => engine.mounted.get(container as usize).map_or(0, |row| row.segment),
            };
            engine.adopt_relocations(&segment_in, &found, &start)
        };
        let relocated = relocated.unwrap_or_else(|error| {
            // Reads find what was written elsewhere all the same; where it lies cannot be published.
            note(&mut engine.read_only, error.to_string());
            if let Some(begun) = begun.take() {
                engine.mounted = begun.space.with_containers(rows);
            }
            Vec::new()
        });
        if begun.is_some() {
            // Not before it is known that the store can be mounted: what stands in their place may be something newer.
            superblock::repair(&*device, &opened)?;
        }
        metrics.recovery.moved.add(relocated.len() as u64);
        metrics.recovery.placed_behind.add(found.placed_behind);
        stage.next(&metrics.recovery.take_over);
        if let Some(begun) = begun {
            engine.writer = Some(engine.take_over(begun, &found, &start, &relocated)?);
        }
        stage.stop();
        whole.stop();
        Ok(engine)
    }

    /// What is needed to write: log, space, and what the next publication will say. Nothing is written.
    fn begin(
        &self,
        (superblock, mut entry, table): (Superblock, VolumeEntry, PublishedTable),
        containers: Containers,
        ring: &RingGeometry,
        found: &Found,
        start: &Start,
    ) -> Result<Begun> {
        let clock = Arc::clone(&self.options.clock);
        let seen = found.max_hlc.max(entry.checkpoint_hlc);
        let closed = found.closed.is_some();
        let (hlc, behind) = HlcSource::after_recovery(clock.wall_ns(), seen, superblock.hlc_bound, closed);
        if behind {
            let newest = seen.max(superblock.hlc_bound).milliseconds();
            tracing::warn!(
                behind_s = newest.saturating_sub(wall_hlc(clock.wall_ns()).milliseconds()) / 1000,
                "the clock is behind what the store has seen: it is wrong now, or was when the store was written; stamps go on from there, and follow the clock when it has caught up"
            );
        }
        let open = containers.used().filter(|(_, row)| row.state == ContainerState::Open);
        let published_rows = open.map(|(number, row)| (number, row.used_units)).collect();
        let adopted = start.adopted.as_ref().filter(|_| !sabotage::on(Rule::AdoptedNotPublished));
        let next_mount = publish_cut(&mut entry, found, adopted)?;
        if let Some(adopted) = adopted {
            entry.roots = Some(adopted.body.roots);
            entry.roots_twin = Some(adopted.body.roots_twin);
            entry.bounds = max_bounds(entry.bounds, adopted.body.bounds);
            entry.checkpoint_hlc = adopted.body.hlc;
        }
        let streams = u32::try_from(Scale::new(self.shape.containers).all().count()).unwrap_or(u32::MAX);
        let budget = Budget::new(superblock.size, superblock.segment_bytes).with_streams(streams);
        let durably = superblock.barrier == Barrier::ForcedUnitAccess && self.device.durable_writes_report_apart();
        let wal = Wal::new(
            Arc::clone(&self.device),
            clock,
            config(*ring, &entry, &budget, durably),
            found.resume(&entry, hlc),
            Arc::clone(&self.metrics),
        );
        let mut first = first_numbers(&entry.bounds, found, superblock.sequence);
        if sabotage::on(Rule::SegmentBoundIgnored) && !closed {
            first.segment = first.segment.saturating_sub(Numbers::chunk(self.shape.containers));
        }
        let next = superblock.next();
        let numbers = Numbers::new(first.segment, next.sequence << 20, self.shape.containers);
        let in_flight = self.options.settings.in_flight_bytes;
        let (device, reader) = (Arc::clone(&self.device), Arc::clone(&self.reader));
        let space = Space::new(device, reader, Arc::clone(&wal), containers, numbers, in_flight);
        let unserved = next_mount.checkpoint_before_serving && !sabotage::on(Rule::ServesWithFullCuts);
        let hlc_bound = superblock.hlc_bound;
        Ok(Begun {
            entry,
            table,
            budget,
            wal,
            space: Arc::new(space),
            next,
            published_rows,
            unserved,
            hlc_bound,
            first,
        })
    }

    /// System containers in which no page lies any more: the publication of a mount releases them too.
    fn pageless(&self, space: &Space) -> BTreeSet<u32> {
        let open = space.open_containers();
        let state = self.state.lock();
        space.with_containers(|containers| {
            let system = containers.used().filter(|(_, row)| row.state == ContainerState::System);
            let closed = system.map(|(number, _)| number).filter(|number| !open.contains(number));
            closed.filter(|number| state.pages.of(*number) == 0).collect()
        })
    }

    /// Publishes what recovery found and makes the store writable.
    fn take_over(
        &self,
        begun: Begun,
        found: &Found,
        start: &Start,
        relocated: &[adopt::MovedObject],
    ) -> Result<Writer> {
        let Begun {
            mut entry,
            table: mut published_table,
            mut budget,
            wal,
            space,
            mut next,
            published_rows,
            unserved,
            hlc_bound,
            first,
        } = begun;
        // The log's reserve stays that of the store's size: what is replayed was admitted under other settings, perhaps.
        budget.dirty_max = budget.dirty_max.min(self.options.settings.dirty_bytes);
        for moved in relocated.iter().filter(|moved| moved.is_unstored) {
            space.adopt_relocation(moved.relocation);
        }
        // A checkpoint that is in the log and was not adopted may yet be, by the mount after this one: what it leads to stays.
        let keeps_all = start.adopted.is_none() && found.tells_of(entry.checkpoint.number + 1)?;
        self.seal_open(&space, &published_rows, found, start, relocated, keeps_all)?;
        if !sabotage::on(Rule::MountNamesBeforeArrival) {
            space.wait_writes()?;
        }

        self.write_pages_leaving(&space, &BTreeSet::new())?;
        let releasable = self.pageless(&space);
        self.device.flush()?;
        let counters = Counters::start(&first);
        entry.bounds = counters.reserve(self.segment_bound(&space));
        let number = entry.checkpoint.number;
        next.hlc_bound = next_bound(self.options.clock.wall_ns(), wal.last_hlc()).max(hlc_bound);
        let rows = {
            let mut state = self.state.lock();
            describe(&mut entry, &state, number);
            state.trim(self.options.settings.segment_cache_bytes);
            table(&space, &state, &releasable)
        };
        let mut directory = VolumeDirectory { sequence: 0, entry, table: rows };
        superblock::write_directory(&*self.device, &mut next, &mut directory, &mut published_table)?;
        if !sabotage::on(Rule::NoFlushInRecovery) {
            self.device.flush()?;
        }
        superblock::publish(&*self.device, &next)?;

        wal.raise_hlc_bound(next.hlc_bound);
        tell(&wal, &directory.entry, found)?;
        releasable.iter().for_each(|container| space.release(*container));
        counters.raise(&directory.entry.bounds);
        space.numbers.segment_bound.store(directory.entry.bounds.segment, Ordering::SeqCst);
        let (entry, roots) = (directory.entry, self.recovered.references.clone());
        let published = Published { superblock: next, entry, table: published_table, roots };
        let batches = Batches { current: Objects { number: number + 1, ..Objects::default() }, ..Batches::default() };
        self.state.lock().remember_buried(self.options.settings.pinned_places());
        let writer = Writer::new(wal, space, batches, published, counters, budget, self.options.threads)?;
        // After a long replay too: the next crash need not replay it again.
        writer.unserved.store(unserved, Ordering::SeqCst);
        writer.overdue.store(unserved || writer.wal.room().is_replay_long(), Ordering::SeqCst);
        let mut batches = writer.batches.lock();
        let (mut records, mut bytes) = (0, 0);
        for record in self.replay.lock().iter() {
            records += 1;
            bytes += REPLAYED_BYTES + record.body.len() as u64;
            for object in &record.data {
                writer.space.pin(object.oid.segment());
                batches.name(object, record.hlc.birth());
            }
            writer.unpublished.fetch_add(record.data.len() as u64, Ordering::Relaxed);
        }
        drop(batches);
        let pages = self.state.lock().pages.units() * u64::from(UNIT);
        let free = writer.free();
        let mut ledger = writer.admission.ledger.lock();
        ledger.pages = pages;
        ledger.replayed(&writer.admission.budget, free, records, bytes);
        drop(ledger);
        Ok(writer)
    }
}

/// What the last publication freed is about to be reused. If it had no record, and its mount died before it could tell of it in the log, this one does ([`log_published`]).
fn tell(wal: &Wal, entry: &VolumeEntry, found: &Found) -> Result<()> {
    let (Some(roots), Some(roots_twin)) = (entry.roots, entry.roots_twin) else { return Ok(()) };
    if found.tells_of(entry.checkpoint.number)? || sabotage::on(Rule::MountUntold) {
        return Ok(());
    }
    let body = CheckpointBody {
        number: entry.checkpoint.number,
        freeze: entry.checkpoint.freeze,
        stream_hash: entry.checkpoint.stream_hash,
        merged_through: entry.merged_through,
        bounds: entry.bounds,
        history_floor: 0,
        drop_position: entry.totals.drop_queue_objects,
        hlc: entry.checkpoint_hlc,
        roots,
        roots_twin,
        batch: Vec::new(),
    };
    if !log_published(wal, &body)? {
        tracing::warn!(
            checkpoint = body.number,
            "the log has no room to tell of the checkpoint: until the next one a rebuild may go back behind it"
        );
    }
    Ok(())
}

fn config(ring: RingGeometry, entry: &VolumeEntry, budget: &Budget, durable_writes: bool) -> Config {
    let segment_bytes = budget.container_bytes.max(1);
    Config {
        ring,
        writer_epoch: entry.writer_epoch,
        checkpoint_blocks: checkpoint_blocks(&ring, budget.dirty_max, segment_bytes),
        // A mount seals without records.
        seal_blocks: 0,
        durable_writes,
    }
}

/// Blocks of the log that one checkpoint mostly takes at most: records of the segments that nodes and batch go to, each in a block of its own, and the CHECKPOINT record.
///
/// A batch takes a quarter of D + P for what the law says, and half of it for drops in a hurry. No figure is large enough for every batch, and a short ring has no room for this one
/// either: no more than an eighth of it is kept, and a checkpoint that meets a full ring is published without records (decision 0008).
fn checkpoint_blocks(ring: &RingGeometry, dirty_max: u64, segment_bytes: u64) -> u64 {
    let batch = dirty_max / 4 + dirty_max / 2;
    // The end of a segment may be too short for the next part: a quarter of it.
    let segments = (dirty_max + batch).div_ceil((segment_bytes / 4 * 3).max(1)) + SEGMENTS_BEGUN;
    let part = (PART_BYTES_MAX as u64).min(segment_bytes / 4).max(1);
    let parts = usize::try_from(batch / part + 1).unwrap_or(usize::MAX);
    let body = ring.blocks_for(CheckpointBody::bytes(parts) as u64) + 2;
    (RECORDS_OF_A_SEGMENT * segments + body).min(ring.blocks / RING_PARTS)
}

/// The first numbers that were not handed out: what the last mount said when it ended in order, unless somebody published since; else the durable bounds (INV-16).
fn first_numbers(bounds: &Bounds, found: &Found, superblock: u64) -> Bounds {
    let believed = |closed: &&Closed| closed.superblock == superblock || sabotage::on(Rule::ClosedNumbersBelieved);
    found.closed.as_ref().filter(believed).map_or(*bounds, |closed| min_bounds(*bounds, closed.next))
}

fn min_bounds(a: Bounds, b: Bounds) -> Bounds {
    Bounds {
        segment: a.segment.min(b.segment),
        inode: a.inode.min(b.inode),
        realm: a.realm.min(b.realm),
        territory: a.territory.min(b.territory),
        pin: a.pin.min(b.pin),
    }
}

/// The store can be read, but not written: the first reason counts.
fn note(why: &mut String, reason: String) {
    if why.is_empty() {
        *why = reason;
    }
}

/// Tells readers where segments lie. Pages are read when somebody needs them.
fn show_locations(reader: &Reader, rows: &[ContainerRow], state: &State) {
    reader
        .set_homes((0_u32..).zip(rows).filter(|(_, row)| row.segment != 0).map(|(number, row)| (row.segment, number)));
    for (number, row) in state.table().iter().filter(|(_, row)| row.slot_map) {
        reader.set_page(*number, row.page, true);
    }
}

/// Containers that the log says were opened since the table was written.
fn place_found(reader: &Reader, state: &State, containers: &mut Containers, found: &Found) -> Result<()> {
    let mut streams: BTreeMap<u32, u8> = BTreeMap::new();
    for record in found.records.iter().filter(|record| record.kind == kind::SEGMENT_OPENED) {
        let source = |source| StoreError::Structure { structure: "SEGMENT_OPENED", offset: record.start.0, source };
        let body = SegmentOpened::decode(&record.body).map_err(source)?;
        streams.insert(body.number, body.stream);
    }
    for placed in &found.placed {
        if state.table().contains_key(&placed.number) {
            // Older than the checkpoint, in the first block: all that lives in the segment may have been moved since, and its container be free.
            continue;
        }
        // What the table says is newer, if it says anything: only free containers are given to segments.
        let free = containers.get(placed.container).is_some_and(|row| row.state == ContainerState::Free);
        let by_log = containers.get(placed.container).filter(|row| row.used_units == 0).map(|row| row.segment);
        if free || by_log.is_some() {
            // A mount found nothing in it, and gave it to another.
            by_log.filter(|before| *before != placed.number).into_iter().for_each(|before| reader.forget(before));
            let stream = streams.get(&placed.number).copied().unwrap_or(0);
            let row = Container { state: ContainerState::Open, stream, segment: placed.number, ..Container::FREE };
            containers.set(placed.container, row);
            reader.set_home(placed.number, Some(placed.container));
        }
    }
    Ok(())
}

pub(crate) fn read_roots(reader: &Reader, copies: [Option<Reference>; 2]) -> Result<RootsObject> {
    let mut last = StoreError::Refused("the checkpoint names no roots object".into());
    for reference in copies.into_iter().flatten() {
        let read = reader.object(&reference).and_then(|bytes| {
            RootsObject::decode(&bytes).map_err(|what| StoreError::Damaged { oid: reference.oid, offset: 0, what })
        });
        match read {
            Ok(roots) => return Ok(roots),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// What the client applies. The bodies are its own from here on: memory holds the log once.
fn replay(found: &mut Found, entry: &VolumeEntry, adopted: Option<&Adopted>) -> Vec<Replayed> {
    let freeze = adopted.map_or(entry.checkpoint.freeze, |adopted| adopted.body.freeze);
    let is_due = |record: &FoundRecord| record.start >= freeze && record.kind >= kind::CLIENT_FIRST;
    let mut replay = Vec::with_capacity(found.records.iter().filter(|record| is_due(record)).count());
    replay.extend(found.records.iter_mut().filter(|record| is_due(record)).map(|record| Replayed {
        end: record.end,
        hlc: record.hlc,
        kind: record.kind,
        territory: record.territory,
        origin: record.origin,
        data: record.data.clone(),
        body: std::mem::take(&mut record.body),
    }));
    replay
}
