//! [`MemoryStore`]: the engine's interface over a hash map, as an exact oracle of sharing.
//!
//! It keeps reference counts by the batch law as the engine does, and at every `publish` also recounts every edge from scratch; it panics with the number of the invariant when
//! they differ. So a client that runs on it without a panic frees nothing that is referenced, and leaks nothing once it is quiescent. It understands the slices in leaves, to
//! check freed ranges too. Time and numbers are deterministic. Deliberately plain: one lock, no limits on speed, everything in memory.
//!
//! "Power failure" is [`MemoryStore::crash`]: a new store with the roots last published and the records up to a chosen LSN.

mod oracle;
#[cfg(test)]
mod tests;

use crate::StoreError;
use crate::space::pins::Pins;
use crate::store::{
    Appended, Batch, Changes, Counter, DataObject, Draft, Frozen, Limits, Need, OnDurable, Permit, PermitInner, Pin,
    Reason, Replayed, Result, Roots, Store, Tier, Usage,
};
use envoyfs_layout::{BLOCK, Encoding, Hlc, LayoutError, Lsn, Oid, Reference, ReferenceKind, UNIT, checksum, node};
use oracle::{Object, Objects};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::Duration;

/// Behaviour of a [`MemoryStore`].
#[derive(Clone, Copy, Debug)]
pub struct MemoryOptions {
    /// Limits that it reports and enforces.
    pub limits: Limits,
    /// Bytes that objects may take; `None` for any number.
    pub capacity: Option<u64>,
    /// Objects taken from the drop queue by each `publish`.
    pub drops_per_checkpoint: usize,
    /// Records after which `wait_checkpoint` says that one is due.
    pub checkpoint_records: usize,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        let limits = Limits { extent_bytes_max: 1 << 20, node_bytes_max: 16 << 10, record_bytes_max: 2 << 20 };
        Self { limits, capacity: None, drops_per_checkpoint: usize::MAX, checkpoint_records: 100_000 }
    }
}

/// A store in memory that checks its client. See the module.
pub struct MemoryStore {
    options: MemoryOptions,
    state: Mutex<State>,
    appended: Condvar,
    pins: Arc<Pins>,
}

/// A record and the bytes of the data objects that it names.
#[derive(Clone)]
struct Logged {
    record: Replayed,
    data: Vec<Arc<[u8]>>,
}

struct State {
    objects: Objects,
    records: Vec<Logged>,
    end: Lsn,
    durable: Lsn,
    hlc: Hlc,
    wall_ns: i64,
    numbers: [u64; 3],
    next_segment: u32,
    next_slot: u32,
    recovered: Roots,
    replay: Vec<Replayed>,
    /// Batch that operations go to.
    current: u64,
    /// Batch closed by `freeze`.
    frozen: Option<u64>,
    /// First LSN not in the published checkpoint.
    published_freeze: Lsn,
    poisoned: Option<String>,
}

/// 2026-01-01.
const START_NS: i64 = 1_767_225_600_000_000_000;
/// Bytes of a record beside its body: header and data table.
const RECORD_HEADER: u64 = 32;
/// Slots of a segment, in units: one 16 MiB segment.
const SEGMENT_UNITS: u32 = 32 << 10;

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(MemoryOptions::default())
    }
}

impl MemoryStore {
    /// An empty store. Numbers start at 2: 1 is what formatting makes.
    #[must_use]
    pub fn new(options: MemoryOptions) -> Self {
        let state = State {
            objects: Objects::default(),
            records: Vec::new(),
            end: Lsn(0),
            durable: Lsn(0),
            hlc: Hlc::from_milliseconds(START_NS.unsigned_abs() / 1_000_000),
            wall_ns: START_NS,
            numbers: [1; 3],
            next_segment: 1,
            next_slot: 1,
            recovered: Roots::default(),
            replay: Vec::new(),
            current: 1,
            frozen: None,
            published_freeze: Lsn(0),
            poisoned: None,
        };
        Self { options, state: Mutex::new(state), appended: Condvar::new(), pins: Arc::default() }
    }

    /// What a mount finds after a power failure: the roots last published and the records up to `keep`, which must be a record's end and at least the durable LSN. This
    /// store goes on unharmed.
    #[must_use]
    pub fn crash(&self, keep: Lsn) -> Self {
        let state = self.state.lock();
        assert!(keep >= state.durable, "INV-18: {keep:?} would lose what is durable ({:?})", state.durable);
        let mut objects = state.objects.published();
        let current = objects.published_number() + 1;
        let records: Vec<Logged> = state.records.iter().filter(|logged| logged.record.end <= keep).cloned().collect();
        let mut replay = Vec::new();
        for logged in &records {
            if logged.record.end <= state.published_freeze {
                continue;
            }
            for (object, bytes) in logged.record.data.iter().zip(&logged.data) {
                objects.insert(object.oid, Object::data(bytes.clone()));
                objects.name(object, logged.record.hlc.birth(), current);
            }
            replay.push(logged.record.clone());
        }
        let end = records.last().map_or(Lsn(0), |logged| logged.record.end).max(state.published_freeze);
        let recovered = objects.roots().clone();
        let after = State {
            objects,
            records,
            end,
            durable: end,
            hlc: state.hlc,
            wall_ns: state.wall_ns,
            numbers: state.numbers.map(|number| number + 1000),
            next_segment: state.next_segment + 1,
            next_slot: 1,
            recovered,
            replay,
            current,
            frozen: None,
            published_freeze: state.published_freeze,
            poisoned: None,
        };
        Self { options: self.options, state: Mutex::new(after), appended: Condvar::new(), pins: Arc::default() }
    }

    /// LSN up to which everything survives any crash.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        self.state.lock().durable
    }
    /// Ends of all records after the published checkpoint that a crash may keep, oldest first.
    #[must_use]
    pub fn record_ends(&self) -> Vec<Lsn> {
        let state = self.state.lock();
        let ends = state.records.iter().map(|logged| logged.record.end);
        ends.filter(|end| *end >= state.durable && *end > state.published_freeze).collect()
    }
    /// Lets time pass.
    pub fn advance_clock(&self, ns: i64) {
        self.state.lock().wall_ns += ns;
    }
    /// Lets every further write fail, as after a failed flush (INV-33).
    pub fn poison(&self, why: &str) {
        self.state.lock().poisoned = Some(why.to_owned());
    }
    /// Objects in the published state, and those waiting in the drop queue.
    #[must_use]
    pub fn stored_objects(&self) -> (usize, usize) {
        let state = self.state.lock();
        state.objects.stored()
    }
    /// Runs the drop queue dry, then checks that what is stored is what is reachable (INV-12). To be called when a checkpoint contains everything.
    pub fn assert_quiescent(&self) {
        self.state.lock().objects.assert_quiescent();
    }
    /// Checks that every unit of every stored extent is referenced by a slice or freed (INV-11). True as long as nothing was ever shared.
    pub fn assert_ranges_exact(&self) {
        self.state.lock().objects.assert_ranges_exact();
    }
}

impl State {
    fn check(&self) -> Result<()> {
        match &self.poisoned {
            Some(why) => Err(StoreError::Poisoned { why: why.clone() }),
            None => Ok(()),
        }
    }
    fn tick(&mut self) -> i64 {
        self.wall_ns += 1000;
        self.wall_ns
    }
    fn next_hlc(&mut self) -> Hlc {
        let wall = Hlc::from_milliseconds(self.tick().unsigned_abs() / 1_000_000);
        self.hlc = self.hlc.next_record().max(wall);
        self.hlc
    }
    /// Ids are never reused, and neighbours have adjacent slots, as in the engine.
    fn new_oid(&mut self, bytes: u32, after: Option<(Oid, u32)>) -> Oid {
        let units = bytes.div_ceil(UNIT).max(1);
        let adjacent = after.is_some_and(|(oid, bytes)| {
            oid.segment() == self.next_segment && u32::from(oid.slot()) + bytes.div_ceil(UNIT) == self.next_slot
        });
        if !adjacent && !self.next_slot.is_multiple_of(8) && bytes >= BLOCK {
            self.next_slot = self.next_slot.next_multiple_of(8);
        }
        if self.next_slot + units > SEGMENT_UNITS {
            self.next_segment += 1;
            self.next_slot = 8;
        }
        let oid = Oid::new(1, self.next_segment, u16::try_from(self.next_slot).unwrap_or(u16::MAX));
        self.next_slot += units;
        oid
    }
    fn number_of(&self, batch: Batch) -> u64 {
        match (batch, self.frozen) {
            (Batch::Current, _) => self.current,
            (Batch::Frozen, Some(frozen)) => frozen,
            (Batch::Frozen, None) => panic!("appended to the frozen batch, but none is frozen"),
        }
    }
    fn append_object(&mut self, data: &[u8], limit: u32, what: &'static str) -> Result<(Oid, Arc<[u8]>)> {
        self.check()?;
        let bytes = padded(data, limit, what)?;
        let oid = self.new_oid(len32(&bytes), None);
        Ok((oid, bytes))
    }
}

fn len32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

fn padded(data: &[u8], limit: u32, what: &'static str) -> Result<Arc<[u8]>> {
    if data.is_empty() || data.len() > limit as usize {
        return Err(StoreError::TooLarge { what, bytes: data.len() as u64, limit: limit.into() });
    }
    let mut bytes = data.to_vec();
    bytes.resize(data.len().next_multiple_of(UNIT as usize), 0);
    Ok(bytes.into())
}

fn data_object(oid: Oid, bytes: &[u8]) -> DataObject {
    DataObject { oid, extends: None, stored_bytes: len32(bytes), crcs: checksum::blocks(bytes) }
}

struct NoPermit;

impl PermitInner for NoPermit {
    fn as_any_mut(&mut self) -> &mut dyn std::any::Any {
        self
    }
}

impl Store for MemoryStore {
    fn limits(&self) -> Limits {
        self.options.limits
    }

    fn wall_ns(&self) -> i64 {
        self.state.lock().tick()
    }

    fn number(&self, counter: Counter) -> Result<u64> {
        let mut state = self.state.lock();
        let [inode, realm, territory] = &mut state.numbers;
        let number = match counter {
            Counter::Inode => inode,
            Counter::Realm => realm,
            Counter::Territory => territory,
        };
        *number += 1;
        Ok(*number)
    }

    fn reserve(&self, need: Need) -> Result<Permit> {
        let state = self.state.lock();
        state.check()?;
        if let Some(capacity) = self.options.capacity {
            let needed = need.node_bytes + need.payload_bytes + need.data_bytes;
            let available = match need.tier {
                Tier::Writer => (capacity - capacity / 8).saturating_sub(state.objects.live_bytes()),
                Tier::Shrinking => capacity.saturating_sub(state.objects.live_bytes()),
                Tier::Last => u64::MAX,
            };
            if needed > available {
                return Err(StoreError::NoSpace { available, needed });
            }
        }
        Ok(Permit::new(Box::new(NoPermit)))
    }

    fn append_data(&self, _: &mut Permit, after: Option<(Oid, u32)>, data: &[u8]) -> Result<DataObject> {
        let bytes = padded(data, self.options.limits.extent_bytes_max, "data object")?;
        let mut state = self.state.lock();
        state.check()?;
        let oid = state.new_oid(len32(&bytes), after);
        state.objects.insert(oid, Object::data(bytes.clone()));
        Ok(data_object(oid, &bytes))
    }

    fn abandon_data(&self, object: &DataObject) {
        self.state.lock().objects.abandon(object.oid);
    }

    fn append(&self, _: &mut Permit, draft: Draft<'_>) -> Result<Appended> {
        let mut state = self.state.lock();
        state.check()?;
        let bytes = draft.body.len() as u64 + draft.data.iter().map(|d| 24 + 4 * d.crcs.len() as u64).sum::<u64>();
        let limit = self.options.limits.record_bytes_max.into();
        if bytes > limit {
            return Err(StoreError::TooLarge { what: "record", bytes, limit });
        }
        let hlc = state.next_hlc();
        let current = state.current;
        let mut data = Vec::with_capacity(draft.data.len());
        for object in draft.data {
            data.push(state.objects.unnamed(object.oid));
            state.objects.name(object, hlc.birth(), current);
        }
        state.end = Lsn((state.end.0 + RECORD_HEADER + bytes).next_multiple_of(8));
        let record = Replayed {
            end: state.end,
            hlc,
            kind: draft.kind,
            territory: draft.territory,
            origin: draft.origin,
            data: draft.data.to_vec(),
            body: draft.body.to_vec(),
        };
        let appended = Appended { end: state.end, hlc };
        state.records.push(Logged { record, data });
        self.appended.notify_all();
        Ok(appended)
    }

    fn commit(&self, lsn: Lsn) -> Result<()> {
        let mut state = self.state.lock();
        if lsn > state.durable {
            state.check()?;
            assert!(lsn <= state.end, "commit of {lsn:?}, beyond the end {:?}", state.end);
            state.durable = lsn;
        }
        Ok(())
    }

    /// Durable at once; `done` is called before this returns.
    fn on_durable(&self, lsn: Lsn, done: OnDurable) {
        done(self.commit(lsn));
    }

    fn end(&self) -> Lsn {
        self.state.lock().end
    }

    fn append_node(&self, batch: Batch, kind: ReferenceKind, flags: u8, birth: Hlc, bytes: &[u8]) -> Result<Reference> {
        let mut state = self.state.lock();
        let (oid, stored) = state.append_object(bytes, self.options.limits.node_bytes_max, "node")?;
        let bad = |what| StoreError::Damaged { oid, offset: 0, what };
        let edges = node::edges(&stored).map_err(bad)?;
        for edge in &edges {
            assert!(
                edge.birth <= birth,
                "INV-02: node {oid} born {birth:?} refers to {} born {:?}",
                edge.oid,
                edge.birth
            );
            state.objects.assert_alive(edge.oid, oid);
        }
        let number = state.number_of(batch);
        let reference = Reference {
            oid,
            birth,
            stored_bytes: len32(&stored),
            logical_bytes: len32(bytes),
            crc: checksum::crc32c(&stored),
            kind,
            flags,
            encoding: Encoding::Plain,
        };
        let edges = edges.iter().map(|edge| edge.oid).collect();
        state.objects.insert(oid, Object::node(stored, birth, edges, number));
        Ok(reference)
    }

    fn append_payload(&self, batch: Batch, birth: Hlc, data: &[u8]) -> Result<DataObject> {
        let mut state = self.state.lock();
        let (oid, bytes) = state.append_object(data, self.options.limits.extent_bytes_max, "data object")?;
        let number = state.number_of(batch);
        let object = data_object(oid, &bytes);
        state.objects.insert(oid, Object::data(bytes));
        state.objects.name(&object, birth, number);
        Ok(object)
    }

    fn read_node(&self, reference: &Reference) -> Result<Arc<[u8]>> {
        let oid = reference.oid;
        let state = self.state.lock();
        let bytes = state.objects.read(oid).ok_or(StoreError::BadReference { oid, what: "no such object" })?;
        let found = checksum::crc32c(&bytes);
        if bytes.len() != reference.stored_bytes as usize || found != reference.crc {
            let what = LayoutError::Checksum { structure: "node", expected: reference.crc, found };
            return Err(StoreError::Damaged { oid, offset: 0, what });
        }
        Ok(bytes)
    }

    fn read_data(&self, oid: Oid, first: u32, crcs: &[u32], into: &mut [u8]) -> Result<()> {
        let bad = |what| StoreError::BadReference { oid, what };
        if !first.is_multiple_of(BLOCK) || !into.len().is_multiple_of(UNIT as usize) {
            return Err(bad("range is not aligned"));
        }
        let bytes = self.state.lock().objects.read(oid).ok_or(bad("no such object"))?;
        let rest = bytes.get(first as usize..).ok_or(bad("range is outside"))?;
        let from = rest.get(..into.len()).ok_or(bad("range is outside"))?;
        if crcs.len() != into.len().div_ceil(BLOCK as usize) {
            return Err(bad("not one checksum a block"));
        }
        for (block, expected) in rest.chunks(BLOCK as usize).zip(crcs) {
            let found = checksum::crc32c(block);
            if found != *expected {
                let what = LayoutError::Checksum { structure: "extent block", expected: *expected, found };
                return Err(StoreError::Damaged { oid, offset: 0, what });
            }
        }
        into.copy_from_slice(from);
        Ok(())
    }

    fn pin(&self) -> Pin {
        self.pins.pin()
    }

    fn wait_checkpoint(&self, timeout_ms: u64) -> Option<Reason> {
        let mut state = self.state.lock();
        let due = |state: &State| {
            let since = state.records.iter().rev().take_while(|logged| logged.record.end > state.published_freeze);
            since.count() >= self.options.checkpoint_records
        };
        if !due(&state) {
            self.appended.wait_for(&mut state, Duration::from_millis(timeout_ms));
        }
        due(&state).then_some(Reason::Log)
    }

    fn freeze(&self) -> Result<Frozen> {
        let mut state = self.state.lock();
        state.check()?;
        assert!(state.frozen.is_none(), "one checkpoint in flight at a time");
        let number = state.current;
        state.frozen = Some(number);
        state.current += 1;
        Ok(Frozen { number, freeze: state.end, hlc: state.hlc })
    }

    fn publish(&self, frozen: Frozen, roots: Roots, changes: Changes) -> Result<()> {
        let mut state = self.state.lock();
        state.check()?;
        assert_eq!(state.frozen, Some(frozen.number), "the published checkpoint is the frozen one");
        // What was freed by the one before can be read until this one; by a reader that has a pin, until it is dropped.
        if self.pins.count() == 0 {
            state.objects.forget_freed();
        }
        state.objects.publish(&frozen, roots, changes, self.options.drops_per_checkpoint);
        state.frozen = None;
        state.published_freeze = frozen.freeze;
        state.durable = state.durable.max(frozen.freeze);
        Ok(())
    }

    fn abandon(&self, frozen: Frozen) -> Result<()> {
        let mut state = self.state.lock();
        state.check()?;
        assert_eq!(state.frozen.take(), Some(frozen.number), "the abandoned checkpoint is the frozen one");
        Ok(())
    }

    fn recovered_roots(&self) -> Roots {
        self.state.lock().recovered.clone()
    }

    fn take_replay(&self) -> Vec<Replayed> {
        std::mem::take(&mut self.state.lock().replay)
    }

    fn usage(&self) -> Usage {
        let state = self.state.lock();
        let live = state.objects.live_bytes();
        let capacity = self.options.capacity.unwrap_or(1 << 40);
        let (_, queue) = state.objects.stored();
        Usage {
            capacity,
            live,
            deferred: 0,
            dead: 0,
            free: capacity.saturating_sub(live),
            available: (capacity - capacity / 8).saturating_sub(live),
            drop_queue: queue as u64,
            shared_objects: state.objects.shared(),
            log_bytes: state.end.0 - state.published_freeze.0,
            ring_bytes: 1 << 30,
            checkpoint: state.objects.published_number(),
            appended: state.end,
            durable: state.durable,
        }
    }

    fn poisoned(&self) -> Option<String> {
        self.state.lock().poisoned.clone()
    }
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let usage = self.usage();
        f.debug_struct("MemoryStore").field("usage", &usage).finish_non_exhaustive()
    }
}
