//! Space: containers, the streams that fill them, writes under way, pins.
//!
//! A container is free, open (a stream appends to it), sealed, or holds system pages or survivors of cleaning. It becomes free again only in [`Space::release`], which the
//! checkpoint calls after publication (INV-13). If power fails, containers are what the published segment table says, and what SEGMENT_PLACED says after it.

pub mod admission;
mod by_heat;
mod containers;
pub mod heat;
mod in_flight;
pub mod kept;
pub mod pins;
mod reader;
mod readers;
#[cfg(test)]
mod readers_tests;
mod relocation;
mod stream;
mod under_way;

pub use containers::{Container, Containers};
#[cfg(test)]
pub(crate) use in_flight::Bytes;
pub use in_flight::bytes_of;
pub use reader::{Reader, Run, Shape, check, check_blocks};
pub(crate) use relocation::{Relocation, install_relocations};
pub use stream::{HEADER_UNITS, Open, Place, RowOf, Stream, seal, write_header};

use crate::StoreError;
use crate::device::{AlignedBuf, Device, Ticket, Write};
use crate::metrics::Metrics;
use crate::sabotage::{self, Rule};
use crate::state::State;
use crate::store::Result;
use crate::sync;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::wal::{NewRecord, Wal};
use envoyfs_layout::directory_page::{ContainerRow, ContainerState};
use envoyfs_layout::wal::{SegmentOpened, SegmentPlaced, SegmentSealed, kind};
use envoyfs_layout::{Hlc, Oid};
use heat::Heat;
use relocation::Placed;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use under_way::UnderWay;

/// Largest request of checkpoints and cleaning while nobody waits for them: who comes meanwhile stands behind [`BACKGROUND_DEPTH`] of these.
pub const BACKGROUND_REQUEST_BYTES: u32 = 96 << 10;
/// Requests of checkpoints and cleaning before the device, while nobody waits for them.
pub const BACKGROUND_DEPTH: u32 = 2;
/// The same while somebody does.
pub const URGENT_DEPTH: u32 = 16;

/// Largest data that is written durably where the log is.
const DURABLE_BYTES_MAX: usize = 16 << 10;
/// Data up to so many bytes may wait for whoever waits for it.
const LAZY_BYTES_MAX: usize = 16 << 10;

/// What a container is filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// Nodes, batches, roots.
    Nodes,
    /// Data, submitted as it is written.
    Data,
    /// Small data that a checkpoint writes: kept apart from nodes, which die sooner.
    Payload,
    /// Fragments that the cleaner moved.
    Survivors,
    /// System pages.
    System,
}

impl StreamKind {
    /// Code in headers, the segment table and SEGMENT_OPENED.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Nodes | Self::System => 0,
            Self::Data => 1,
            Self::Payload | Self::Survivors => 2,
        }
    }
    /// Whether its containers are homes of logical segments, which the log knows.
    #[must_use]
    pub const fn has_segments(self) -> bool {
        matches!(self, Self::Nodes | Self::Data | Self::Payload)
    }
    /// The stream with this code that has segments.
    #[must_use]
    pub const fn of_code(code: u8) -> Self {
        match code {
            0 => Self::Nodes,
            1 => Self::Data,
            _ => Self::Payload,
        }
    }
}

/// No segment number from here on: it has 32 bits in an object's id.
const SEGMENT_NUMBER_END: u64 = u32::MAX as u64;
/// Most numbers that a publication reserves: what a mount after a crash skips. 2^32 / 2^14 are 262 144 crashes, whatever the size of the store; 16 384 segments of 16 MiB are 256 GiB
/// between two publications, more than a log holds records of.
const CHUNK_MAX: u64 = 1 << 14;

/// Segment numbers and openings to hand out.
#[derive(Debug)]
pub struct Numbers {
    /// Next segment number.
    pub segment: AtomicU32,
    /// Numbers from here on are not reserved durably yet (INV-16).
    pub segment_bound: AtomicU64,
    /// Next sequence of opening.
    pub opening: AtomicU64,
    /// How many a publication reserves.
    pub chunk: AtomicU64,
}

impl Numbers {
    /// From `first` on, of a store with so many containers. None may be drawn yet.
    #[must_use]
    pub fn new(first: u64, opening: u64, containers: u32) -> Self {
        Self {
            segment: AtomicU32::new(u32::try_from(first.max(1)).unwrap_or(u32::MAX)),
            segment_bound: AtomicU64::new(0),
            opening: AtomicU64::new(opening),
            chunk: AtomicU64::new(Self::chunk(containers)),
        }
    }
    /// The next segment number; none beyond the durable bound.
    fn draw(&self) -> Option<u32> {
        let bound = self.segment_bound.load(Ordering::SeqCst).min(SEGMENT_NUMBER_END);
        let next = |next: u32| (u64::from(next) < bound).then(|| next.saturating_add(1));
        self.segment.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next).ok()
    }
    /// How many a publication reserves on a store with so many containers: of few, more than can be opened before the one after it.
    #[must_use]
    pub fn chunk(containers: u32) -> u64 {
        (2 * u64::from(containers) + 16).min(CHUNK_MAX)
    }
    /// The bound for the next publication.
    #[must_use]
    pub fn reserve(&self) -> u64 {
        (u64::from(self.segment.load(Ordering::SeqCst)) + self.chunk.load(Ordering::Relaxed)).min(SEGMENT_NUMBER_END)
    }
    /// Whether a publication should raise the bound soon: five eighths of what one reserves are left, so that nobody need wait. Where that is twice the containers, three quarters of
    /// them were opened since the last.
    #[must_use]
    pub fn is_raise_due(&self) -> bool {
        self.left() < self.chunk.load(Ordering::Relaxed) / 8 * 5 && !self.is_end_reserved()
    }
    /// Whether writers of data wait for that: half is for the checkpoint, and for operations under way.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.left() < self.chunk.load(Ordering::Relaxed) / 2 && !self.is_end_reserved()
    }
    fn left(&self) -> u64 {
        self.segment_bound.load(Ordering::SeqCst).saturating_sub(self.segment.load(Ordering::SeqCst).into())
    }
    /// There is nothing to raise it to.
    fn is_end_reserved(&self) -> bool {
        self.segment_bound.load(Ordering::SeqCst) >= SEGMENT_NUMBER_END
    }
    /// How many chunks are left from a number on. With none, nothing can be written, with one only checkpoints; data is refused before deletions are.
    #[must_use]
    pub fn chunks_left(next: u64, containers: u32) -> u64 {
        SEGMENT_NUMBER_END.saturating_sub(next) / Self::chunk(containers)
    }
}

/// What a writer of data wishes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    /// Right behind the end of this object: id and stored bytes.
    pub after: Option<(Oid, u32)>,
    /// An object that this one overwrites.
    pub replaces: Option<Oid>,
    /// If the container's end is near: what fits of it there, in whole blocks.
    pub may_split: bool,
}

/// A data object on its way to the device.
pub struct WrittenData {
    /// Segment.
    pub segment: u32,
    /// First unit.
    pub slot: u32,
    /// Bytes taken.
    pub stored_bytes: u32,
    /// Its write.
    pub ticket: Ticket,
}

/// See the module.
pub struct Space {
    device: Arc<dyn Device>,
    reader: Arc<Reader>,
    wal: Arc<Wal>,
    containers: Mutex<Containers>,
    /// Nodes, payloads, system pages.
    streams: [Mutex<Stream>; 3],
    /// Data and survivors, by heat.
    data: Vec<Mutex<Stream>>,
    survivors: Vec<Mutex<Stream>>,
    heats: heat::Scale,
    /// Everything is as likely to be overwritten, as far as one can see: classes of heat would separate by chance.
    alike: AtomicBool,
    pins: Mutex<HashMap<u32, u32>>,
    /// What was written elsewhere and is in no published checkpoint.
    moved: Mutex<Vec<Relocation>>,
    /// See [`Space::unlogged`].
    unlogged: Mutex<BTreeSet<u32>>,
    under_way: Mutex<VecDeque<Ticket>>,
    data_under_way: UnderWay,
    /// [`Space::openings`] when this mount began.
    first_opening: u64,
    /// Writes of streams: nodes, survivors, pages, table parts. What opens and ends the containers of a writer's data belongs to his writes.
    background: Mutex<VecDeque<Ticket>>,
    urgent: AtomicBool,
    /// Numbers.
    pub numbers: Numbers,
    /// So many containers more are given; then one is refused, once.
    #[cfg(test)]
    pub(crate) refuse_in: AtomicU64,
}

impl Drop for Space {
    /// A write that announced another one is not made before somebody asks, and what is told when it is done holds the device.
    fn drop(&mut self) {
        let tickets: Vec<Ticket> = self.under_way.lock().drain(..).collect();
        for ticket in tickets {
            ticket.drive();
        }
    }
}

impl Space {
    /// Over what recovery found.
    pub fn new(
        device: Arc<dyn Device>,
        reader: Arc<Reader>,
        wal: Arc<Wal>,
        mut containers: Containers,
        numbers: Numbers,
        in_flight_bytes: u64,
    ) -> Self {
        use StreamKind::{Data, Nodes, Payload, Survivors, System};
        let first_opening = numbers.opening.load(Ordering::Relaxed);
        containers.order_before(first_opening);
        let heats = heat::Scale::new(reader.shape().containers);
        let stream = |kind| move |heat| Mutex::new(Stream::new(kind, heat));
        Self {
            data: heats.all().map(stream(Data)).collect(),
            survivors: by_heat::kinds_of_survivors(&heats).map(stream(Survivors)).collect(),
            heats,
            alike: AtomicBool::new(false),
            device,
            reader,
            wal,
            containers: Mutex::new(containers),
            streams: [Nodes, Payload, System].map(|kind| Mutex::new(Stream::new(kind, Heat::UNKNOWN))),
            pins: Mutex::default(),
            unlogged: Mutex::default(),
            moved: Mutex::default(),
            under_way: Mutex::default(),
            data_under_way: UnderWay::new(in_flight_bytes),
            first_opening,
            background: Mutex::default(),
            urgent: AtomicBool::new(false),
            numbers,
            #[cfg(test)]
            refuse_in: AtomicU64::new(u64::MAX),
        }
    }

    /// The store's shape.
    pub fn shape(&self) -> &Shape {
        self.reader.shape()
    }
    /// The device.
    pub fn device(&self) -> &dyn Device {
        &*self.device
    }
    /// Where objects are found.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }
    /// Where to count.
    pub fn metrics(&self) -> &Metrics {
        self.reader.metrics()
    }
    /// The stream of nodes, payloads or system pages, locked; of data or survivors, the one for what nothing is known of.
    pub fn stream(&self, kind: StreamKind) -> MutexGuard<'_, Stream> {
        let [nodes, payload, system] = &self.streams;
        match kind {
            StreamKind::Nodes => nodes.lock(),
            StreamKind::Payload => payload.lock(),
            StreamKind::System => system.lock(),
            StreamKind::Data => self.data(Heat::UNKNOWN),
            StreamKind::Survivors => self.survivors(Heat::UNKNOWN),
        }
    }
    /// Every stream but that of system pages, one after the other.
    pub fn each_stream(&self, mut act: impl FnMut(&mut Stream) -> Result<()>) -> Result<()> {
        let [nodes, payload, _] = &self.streams;
        [nodes, payload]
            .into_iter()
            .chain(&self.data)
            .chain(&self.survivors)
            .try_for_each(|stream| act(&mut stream.lock()))
    }
    /// How many streams there are.
    pub const fn streams(&self) -> u64 {
        (self.streams.len() + self.data.len() + self.survivors.len()) as u64
    }
    /// Containers that are free.
    pub fn free_containers(&self) -> u32 {
        self.containers.lock().free()
    }
    /// Looks at the containers.
    pub fn with_containers<T>(&self, look: impl FnOnce(&Containers) -> T) -> T {
        look(&self.containers.lock())
    }

    /// Starts a write. When it is done, `arrived` (segment, slot) are no longer in flight; when it fails, the store is poisoned (INV-33) and they stay readable.
    pub fn submit(&self, offset: u64, buf: Arc<AlignedBuf>, length: usize, arrived: Vec<(u32, u32)>) -> Ticket {
        self.start_for(StreamKind::Nodes, Write::part(offset, buf, 0..length), arrived)
    }

    /// As [`Space::submit`], of what begins and ends a container. That of a writer's data stands among his own writes: whoever makes way has nothing to wait for.
    fn start_for(&self, kind: StreamKind, write: Write, arrived: Vec<(u32, u32)>) -> Ticket {
        let ticket = self.start(write, arrived);
        if kind != StreamKind::Data {
            self.background.lock().push_back(ticket.clone());
        }
        ticket
    }

    fn start(&self, write: Write, arrived: Vec<(u32, u32)>) -> Ticket {
        let ticket = self.device.submit(write);
        let (reader, wal) = (Arc::clone(&self.reader), Arc::clone(&self.wal));
        ticket.on_done(Box::new(move |result| match result {
            Ok(()) => arrived.iter().for_each(|(segment, slot)| reader.in_flight.remove(*segment, *slot)),
            Err(error) => wal.poison(&format!("a write to a segment failed: {error}")),
        }));
        self.note_write(&ticket);
        ticket
    }

    /// Somebody waits for a publication, or nobody does any more.
    pub fn set_urgent(&self, urgent: bool) {
        self.urgent.store(urgent, Ordering::Relaxed);
    }

    /// Whether somebody waits for a publication.
    pub fn is_urgent(&self) -> bool {
        self.urgent.load(Ordering::Relaxed)
    }

    /// Called by checkpoints and the cleaner between their writes, without a lock: waits until at most so many are before the device (none before reads), so that
    /// nobody else stands behind more. While somebody waits for what they do, they may have more.
    pub fn make_way(&self, depth: u32) {
        loop {
            let limit = if self.is_urgent() { depth.max(URGENT_DEPTH) } else { depth };
            let oldest = {
                let mut background = self.background.lock();
                while background.front().is_some_and(Ticket::is_done) {
                    background.pop_front();
                }
                if background.len() <= limit as usize {
                    return;
                }
                background.front().cloned()
            };
            if let Some(ticket) = oldest {
                // A failure poisons the store and is told there.
                let _ = ticket.wait();
            }
        }
    }

    fn note_write(&self, ticket: &Ticket) {
        let mut under_way = self.under_way.lock();
        forget_arrived(&mut under_way);
        under_way.push_back(ticket.clone());
    }

    /// Waits for every write started so far. Several may wait at once, each for all of them: nothing is taken off the list before it has arrived, and what failed never is, so that no
    /// later publication names what is not there (INV-17).
    ///
    /// # Errors
    /// A write failed, now or before.
    pub fn wait_writes(&self) -> Result<()> {
        let tickets: Vec<Ticket> = self.under_way.lock().iter().cloned().collect();
        for ticket in tickets {
            ticket.wait()?;
        }
        forget_arrived(&mut self.under_way.lock());
        Ok(())
    }

    /// Waits until everything that was written to containers closed by now has arrived: data by `wait_data`, the rest here. Only these are cleaned or released: of any other the device may not
    /// hold yet what counts as written, and a late write could still come to it.
    pub fn settle(&self, wait_data: impl FnOnce() -> Result<()>) -> Result<()> {
        let closed = |row: &Container| row.is_closed() && !row.settled;
        let closed: Vec<(u32, u32)> = self.with_containers(|all| {
            all.iter().filter(|(_, row)| closed(row)).map(|(number, row)| (number, row.segment)).collect()
        });
        wait_data()?;
        self.wait_writes()?;
        let mut containers = self.containers.lock();
        for (number, segment) in closed {
            let row = containers.get(number).copied();
            if let Some(row) = row.filter(|row| row.is_closed() && row.segment == segment) {
                containers.set(number, Container { settled: true, ..row });
            }
        }
        Ok(())
    }

    /// Writes a data object at once; readable at once. `buffer` holds the bytes padded to a block, from `start` on; `row` makes the table row's contents for so many bytes of it, fewer than all only if `wish` allows.
    pub fn write_data(
        self: &Arc<Self>,
        (buffer, start): (&Arc<AlignedBuf>, usize),
        wanted: u32,
        row: impl Fn(u32) -> RowOf,
        wish: &Wish,
        floor: u32,
    ) -> Result<WrittenData> {
        let streams = &self.metrics().streams;
        if !self.data_under_way.has_room(wanted.into()) {
            let _timing = self.metrics().time(&streams.data_waits);
            self.data_under_way.wait();
        }
        let placed = {
            let mut stream = self.stream_behind(wish.after).unwrap_or_else(|| self.data(self.heat_for(wish)));
            let placed = stream.place(self, wanted, &row, wish.may_split, floor)?;
            self.pin(placed.segment);
            placed
        };
        let Place { segment, container, unit: slot, stored_bytes, row } = placed;
        // What the writer has in hand: the small end of something large goes with the rest of it.
        let whole = start.saturating_add(wanted as usize);
        // A group with nothing but durable writes needs no flush; large data is cheaper with one.
        let durable = self.wal.writes_durably() && whole <= DURABLE_BYTES_MAX;
        // Somebody waits for small data soon, and then for all of it together.
        let lazy = whole <= LAZY_BYTES_MAX;
        let more = stored_bytes < wanted;
        let at = Placed { segment, container, slot, stored_bytes, row, durable, start, lazy, more };
        let ticket = self.submit_data(at, Arc::clone(buffer));
        streams.data_in_flight.set(self.data_under_way.started(&ticket, stored_bytes.into()));
        let space = Arc::clone(self);
        ticket.on_done(Box::new(move |_| space.data_under_way.done(stored_bytes.into())));
        streams.data_objects.increment();
        streams.data_bytes.add(stored_bytes.into());
        Ok(WrittenData { segment, slot, stored_bytes, ticket })
    }

    /// Something in the segment is not in a published checkpoint yet: its container is not reused.
    pub fn pin(&self, segment: u32) {
        *self.pins.lock().entry(segment).or_default() += 1;
    }

    /// Takes pins back.
    pub fn unpin(&self, segment: u32, count: u32) {
        let mut pins = self.pins.lock();
        if let Some(left) = pins.get_mut(&segment) {
            *left = left.saturating_sub(count);
            if *left == 0 {
                pins.remove(&segment);
            }
        }
    }

    /// How many pins each segment has.
    pub fn pins(&self) -> HashMap<u32, u32> {
        self.pins.lock().clone()
    }

    /// Segments with pins.
    pub fn pinned(&self) -> BTreeSet<u32> {
        self.pins.lock().keys().copied().collect()
    }

    /// A free container for a stream, as long as more than `floor` are free: the one behind `before`, which it has filled, if it can be had. Logs the opening of a segment before anything can name data in it (INV-22).
    fn take_container(&self, kind: StreamKind, heat: Heat, before: Option<u32>, floor: u32) -> Result<(u32, u32, u64)> {
        let mut containers = self.containers.lock();
        let free = containers.free();
        let no_space = || StoreError::NoSpace {
            available: u64::from(free.saturating_sub(floor)) * u64::from(self.shape().segment_bytes),
            needed: u64::from(self.shape().segment_bytes),
        };
        #[cfg(test)]
        if self.refuse_in.fetch_sub(1, Ordering::SeqCst) == 0 {
            return Err(no_space());
        }
        if free <= floor {
            return Err(no_space());
        }
        let container = containers.next_free(before).ok_or_else(no_space)?;
        let opening = self.numbers.opening.fetch_add(1, Ordering::SeqCst);
        let segment = if kind.has_segments() {
            let number = self.numbers.draw().ok_or_else(no_space)?;
            self.log_opened(kind, number, container)?;
            number
        } else {
            0
        };
        let state = match kind {
            StreamKind::System => ContainerState::System,
            StreamKind::Survivors => ContainerState::Survivors,
            _ => ContainerState::Open,
        };
        containers.set(container, Container { state, stream: kind.code(), segment, heat, ..Container::FREE });
        self.metrics().streams.containers_opened.increment();
        self.metrics().streams.containers_free.set(containers.free().into());
        if segment != 0 {
            self.reader.set_home(segment, Some(container));
        }
        Ok((segment, container, opening))
    }

    /// Data is named by records, so where it lies stands before them; the room for that was promised to the operation. Nodes and payloads are named by a checkpoint alone: where
    /// the ring has no room for their segments, it is published without a record ([`Space::unlogged`]).
    fn log_opened(&self, stream: StreamKind, number: u32, container: u32) -> Result<()> {
        let opened = SegmentOpened { number, stream: stream.code() }.encode();
        let placed = SegmentPlaced { number, container }.encode();
        let opened = NewRecord::engine(kind::SEGMENT_OPENED, &opened);
        if stream == StreamKind::Data {
            self.wal.append_internal(opened)?;
            if sabotage::on(Rule::PlacementNotLogged) {
                return Ok(());
            }
            return self.wal.append_local(kind::SEGMENT_PLACED, &placed);
        }
        let logged =
            self.wal.append_spare(opened)?.is_some() && self.wal.append_local_spare(kind::SEGMENT_PLACED, &placed)?;
        if !logged {
            self.unlogged.lock().insert(number);
        }
        Ok(())
    }

    fn log_sealed(&self, number: u32, length: u32, digest: u64) -> Result<()> {
        let sealed = SegmentSealed { number, length, digest }.encode();
        // A mount seals without a record, too.
        self.wal.append_spare(NewRecord::engine(kind::SEGMENT_SEALED, &sealed)).map(drop)
    }

    /// Segments of nodes and payloads that neither the log nor a published table tells of, because the ring had no room when they were opened: a checkpoint that may name what
    /// lies in them cannot be adopted from the log.
    pub(crate) fn unlogged(&self) -> BTreeSet<u32> {
        self.unlogged.lock().clone()
    }

    /// As if the ring had been full when this was opened.
    #[cfg(test)]
    pub(crate) fn forget_logged(&self, segment: u32) {
        self.unlogged.lock().insert(segment);
    }

    /// A published table tells of these.
    pub(crate) fn tabled(&self, segments: &BTreeSet<u32>) {
        self.unlogged.lock().retain(|segment| !segments.contains(segment));
    }

    /// What a stream did to its container.
    fn note(&self, open: &Open, state: Option<ContainerState>) {
        let mut containers = self.containers.lock();
        let Some(row) = containers.get(open.container).copied() else { return };
        let births = open.birth_high != Hlc::ZERO;
        let state = state.filter(|_| !sabotage::on(Rule::EndedNotClosed));
        let row = Container {
            state: state.unwrap_or(row.state),
            used_units: open.next,
            last_part: open.last_part,
            birth_low: if births { open.birth_low } else { Hlc::ZERO },
            birth_high: open.birth_high,
            closed_at: if state.is_some() { self.openings() } else { 0 },
            settled: false,
            ..row
        };
        containers.set(open.container, row);
    }

    /// The sequence for a container whose header is written anew.
    pub fn next_opening(&self) -> u64 {
        self.numbers.opening.fetch_add(1, Ordering::SeqCst)
    }

    /// Containers opened so far: the cleaner's clock.
    pub fn openings(&self) -> u64 {
        self.numbers.opening.load(Ordering::SeqCst)
    }

    /// The same when this mount began.
    pub const fn first_opening(&self) -> u64 {
        self.first_opening
    }

    /// Containers that streams are filling.
    pub fn open_containers(&self) -> BTreeSet<u32> {
        let [nodes, payload, system] = &self.streams;
        let all = [nodes, payload, system].into_iter().chain(&self.data).chain(&self.survivors);
        all.filter_map(|stream| stream.lock().open_container().map(|open| open.container)).collect()
    }

    /// A container holds nothing any more. Only the checkpoint calls this, after publication and after [`Reader::readers`] of before have left (INV-13).
    pub fn release(&self, container: u32) {
        let mut containers = self.containers.lock();
        containers.set(container, Container::FREE);
        self.metrics().streams.containers_released.increment();
        self.metrics().streams.containers_free.set(containers.free().into());
    }

    /// A test's own: the container is in use, by nobody.
    #[cfg(test)]
    pub(crate) fn occupy(&self, container: u32) {
        self.containers.lock().set(container, Container { state: ContainerState::Open, ..Container::FREE });
    }

    /// The segment table as a checkpoint publishes it; containers behind its last row are free.
    pub fn table(&self, state: &State) -> Vec<ContainerRow> {
        let containers = self.containers.lock();
        let mut table: Vec<ContainerRow> =
            containers.used().map(|(number, row)| self.row(row, state.live_in(number))).collect();
        for (number, segment) in state.table() {
            let home = segment.home.and_then(|home| table.get_mut(usize::try_from(home).ok()?));
            if let Some(row) = home.filter(|row| row.segment == *number) {
                row.metadata = segment.page;
                row.flags |= if segment.slot_map { ContainerRow::SLOT_MAP } else { 0 };
            }
        }
        table
    }

    /// A row without what is known of the segment.
    fn row(&self, row: &Container, live_units: u32) -> ContainerRow {
        if row.state == ContainerState::Free && live_units == 0 {
            return ContainerRow::FREE;
        }
        ContainerRow {
            state: row.state,
            stream: row.stream,
            flags: row.heat.code() << ContainerRow::HEAT_SHIFT,
            volume: self.shape().volume,
            segment: row.segment,
            used_units: row.used_units.max(live_units),
            live_units,
            last_part: row.last_part,
            birth_low: row.birth_low,
            birth_high: row.birth_high,
            metadata: envoyfs_layout::directory_page::Place::NONE,
        }
    }
}

/// Writes that arrived need not be waited for any more.
fn forget_arrived(under_way: &mut VecDeque<Ticket>) {
    while under_way.front().and_then(Ticket::outcome).is_some_and(|outcome| outcome.is_ok()) {
        under_way.pop_front();
    }
}
