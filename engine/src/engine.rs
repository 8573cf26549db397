//! The engine: [`Store`] over a device. Owns the table of objects that no checkpoint contains yet, and the order in which the parts are called.
//!
//! ```text
//! reserve -> append_data -> append -> commit          an operation        (space, wal)
//! freeze -> append_node* -> publish                   a checkpoint        (checkpoint.rs)
//! open                                                a mount             (recovery.rs)
//! ```
//!
//! Lock order: published, batch, state, stream, containers, ledger, wal. None is held while waiting, but `published` by the checkpoint. If power fails, nothing in
//! memory matters.

use crate::StoreError;
use crate::cleaner::Cleaning;
use crate::device::{AlignedBuf, Device, Ticket};
use crate::history::HistoryPolicy;
use crate::hlc::Clock;
use crate::metrics::Metrics;
use crate::sabotage::{self, Rule};
use crate::settings::Settings;
use crate::space::admission::{Budget, Free, Ledger, Short, data_charge};
use crate::space::{Reader, RowOf, Shape, Space, StreamKind, Wish, WrittenData, check_blocks};
use crate::state::{Segment, State, Unstored};
use crate::store::{
    Appended, Batch, Changes, Counter, DataHint, DataObject, Draft, Frozen, Limits, Need, OnDurable, Permit,
    PermitInner, Reason, Replayed, Result, Roots, Store, Tier, Usage,
};
use crate::unsaved::Unsaved;
use crate::wal::{Committer, LogRoom, NewRecord, Wal};
use envoyfs_layout::checksum;
use envoyfs_layout::directory_page::{Bounds, VolumeEntry};
use envoyfs_layout::node::{NODE_BYTES_MAX, edges};
use envoyfs_layout::superblock::Superblock;
use envoyfs_layout::{BLOCK, Encoding, Hlc, Lsn, Oid, Reference, ReferenceKind, UNIT};
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Largest body and data table of one record.
const RECORD_BYTES_MAX: u32 = 512 << 10;
/// A log that has not grown for so long is checkpointed.
const IDLE_MS: u64 = 5000;
/// How often a waiter looks whether the store was poisoned.
const LOOK: Duration = Duration::from_millis(50);

/// How a store is opened.
#[derive(Clone)]
pub struct Options {
    /// Write nothing.
    pub read_only: bool,
    /// Start the committer thread. Without it, nothing ever waits for another thread: calls that would answer `WouldWait`.
    pub threads: bool,
    /// Go on writing although records that were promised durable are damaged (`--accept-loss`).
    pub accept_loss: bool,
    /// Clock.
    pub clock: Arc<dyn Clock>,
    /// Bounds of memory and work.
    pub settings: Settings,
}

/// A batch's objects and what belongs to it.
#[derive(Default)]
pub(crate) struct Objects {
    pub(crate) number: u64,
    pub(crate) unstored: HashMap<Oid, Unstored>,
    /// Piece appended to an object -> that object.
    pub(crate) grown: HashMap<Oid, Oid>,
}

/// Objects that no published checkpoint contains.
#[derive(Default)]
pub(crate) struct Batches {
    pub(crate) current: Objects,
    pub(crate) frozen: Option<Objects>,
    /// Written, not named yet.
    pub(crate) written: HashMap<Oid, Ticket>,
}

/// What the superblock that rules names.
pub(crate) struct Published {
    pub(crate) superblock: Superblock,
    pub(crate) entry: VolumeEntry,
    /// The client's counted references in it.
    pub(crate) roots: Vec<Reference>,
}

/// Accounting, and those who wait for a checkpoint.
pub(crate) struct Admission {
    pub(crate) budget: Budget,
    pub(crate) ledger: Mutex<Ledger>,
    pub(crate) changed: Condvar,
}

/// Numbers that clients draw.
#[derive(Default)]
pub(crate) struct Counters {
    next: [AtomicU64; 3],
    bound: [AtomicU64; 3],
}

impl Counters {
    /// How far a publication reserves ahead: inodes, realms, territories.
    const CHUNK: [u64; 3] = [1 << 22, 1 << 20, 1 << 16];

    pub(crate) fn start(bounds: &Bounds) -> Self {
        let first = [bounds.inode, bounds.realm, bounds.territory].map(|bound| bound.max(1));
        Self { next: first.map(AtomicU64::new), bound: first.map(AtomicU64::new) }
    }
    /// Bounds for the next publication; `segment` as given.
    pub(crate) fn reserve(&self, segment: u64) -> Bounds {
        let mut ahead = self.next.iter().zip(Self::CHUNK).map(|(next, chunk)| {
            let chunk = if sabotage::on(Rule::BoundNotRaised) { 0 } else { chunk };
            next.load(Ordering::SeqCst).saturating_add(chunk)
        });
        let mut take = || ahead.next().unwrap_or(0);
        Bounds { segment, inode: take(), realm: take(), territory: take(), pin: 1 }
    }
    /// They are durable.
    pub(crate) fn raise(&self, bounds: &Bounds) {
        for (bound, value) in self.bound.iter().zip([bounds.inode, bounds.realm, bounds.territory]) {
            bound.fetch_max(value, Ordering::SeqCst);
        }
    }
    fn draw(&self, counter: Counter) -> Option<u64> {
        let index = match counter {
            Counter::Inode => 0,
            Counter::Realm => 1,
            Counter::Territory => 2,
        };
        let (next, bound) = (self.next.get(index)?, self.bound.get(index)?);
        let bound = bound.load(Ordering::SeqCst);
        next.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |next| {
            (next < bound || sabotage::on(Rule::BoundNotRaised)).then_some(next + 1)
        })
        .ok()
    }
}

/// What only a writable mount has.
pub(crate) struct Writer {
    pub(crate) wal: Arc<Wal>,
    pub(crate) space: Arc<Space>,
    pub(crate) batches: Mutex<Batches>,
    pub(crate) published: Mutex<Published>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) counters: Counters,
    pub(crate) cleaning: Cleaning,
    /// The published checkpoint's freeze LSN and number, to be looked at without waiting for a checkpoint under way.
    pub(crate) freeze: AtomicU64,
    pub(crate) number: AtomicU64,
    /// From a freeze to the end of its publication.
    pub(crate) in_flight: std::sync::atomic::AtomicBool,
    /// The mount's own entry in the list of cuts was the last that fits: checkpoint before serving.
    pub(crate) overdue: std::sync::atomic::AtomicBool,
    idle: Mutex<(Lsn, u64)>,
    committer: Mutex<Option<Committer>>,
}

/// See the module.
pub struct Engine {
    pub(crate) device: Arc<dyn Device>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) options: Options,
    pub(crate) shape: Shape,
    pub(crate) reader: Arc<Reader>,
    pub(crate) state: Mutex<State>,
    pub(crate) history_policy: Mutex<HistoryPolicy>,
    pub(crate) mark: Mutex<crate::mark::Mark>,
    /// A page of the drop queue or of deferred units cannot be read: no checkpoint is made just to work on them.
    pub(crate) stalled: std::sync::atomic::AtomicBool,
    pub(crate) writer: Option<Writer>,
    pub(crate) read_only: String,
    pub(crate) recovered: Roots,
    pub(crate) replay: Mutex<Vec<Replayed>>,
    /// What the client appends in a read-only mount.
    pub(crate) unsaved: Unsaved,
    /// End of the log, of a read-only mount.
    pub(crate) end: Lsn,
    /// Of a read-only mount.
    pub(crate) checkpoint: u64,
    /// Containers, of a read-only mount.
    pub(crate) mounted: Vec<crate::space::Container>,
    /// Called when a checkpoint has installed the cleaner's copies, before it does anything else.
    #[cfg(test)]
    pub(crate) after_install: AfterInstall,
}

/// See [`Engine::after_install`].
#[cfg(test)]
pub(crate) type AfterInstall = Mutex<Option<Box<dyn Fn(&Engine) + Send>>>;

struct EnginePermit {
    admission: Arc<Admission>,
    room: LogRoom,
    tier: Tier,
    data: u64,
    dirty: u64,
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

fn permit_of(permit: &mut Permit) -> Result<&mut EnginePermit> {
    permit
        .inner_mut()
        .as_any_mut()
        .downcast_mut()
        .ok_or_else(|| StoreError::Misuse("the permit is of another store".into()))
}

impl Writer {
    pub(crate) fn new(
        wal: Arc<Wal>,
        space: Arc<Space>,
        batches: Batches,
        published: Published,
        counters: Counters,
        budget: Budget,
        threads: bool,
    ) -> Result<Self> {
        let committer = if threads {
            let failed =
                |error: std::io::Error| StoreError::Refused(format!("cannot start the committer thread: {error}"));
            Some(Committer::start(&wal).map_err(failed)?)
        } else {
            None
        };
        let admission = Admission { budget, ledger: Mutex::default(), changed: Condvar::new() };
        Ok(Self {
            freeze: AtomicU64::new(published.entry.checkpoint.freeze.0),
            number: AtomicU64::new(published.entry.checkpoint.number),
            in_flight: std::sync::atomic::AtomicBool::new(false),
            overdue: std::sync::atomic::AtomicBool::new(false),
            idle: Mutex::new((wal.end(), 0)),
            wal,
            space,
            batches: Mutex::new(batches),
            published: Mutex::new(published),
            admission: Arc::new(admission),
            counters,
            cleaning: Cleaning::default(),
            committer: Mutex::new(committer),
        })
    }

    /// Containers that are free, and that the cleaner has emptied.
    pub(crate) fn free(&self) -> Free {
        Free { now: self.space.free_containers(), coming: self.cleaning.coming() }
    }

    /// Data that a record names becomes part of the current batch.
    pub(crate) fn name(&self, batches: &mut Batches, object: &DataObject, birth: Hlc) {
        let objects = &mut batches.current;
        if let Some(before) = object.extends {
            let root = objects.grown.get(&before).copied().unwrap_or(before);
            if let Some(grown) = objects.unstored.get_mut(&root) {
                grown.reference.stored_bytes += object.stored_bytes;
                grown.reference.logical_bytes = grown.reference.stored_bytes;
                grown.reference.birth = grown.reference.birth.max(birth);
                grown.pieces += 1;
                objects.grown.insert(object.oid, root);
                return;
            }
        }
        let reference = extent(object.oid, birth, object.stored_bytes);
        let batch = objects.number;
        objects
            .unstored
            .insert(object.oid, Unstored { reference, edges: Vec::new(), batch, referred: false, pieces: 1 });
    }

    /// Whether a record may name these objects.
    fn check_names(batches: &Batches, data: &[DataObject]) -> Result<()> {
        let mut ends: BTreeMap<Oid, u64> = BTreeMap::new();
        let mut roots: BTreeMap<Oid, Oid> = BTreeMap::new();
        for object in data {
            let bad = |what| StoreError::BadReference { oid: object.oid, what };
            if !batches.written.contains_key(&object.oid) {
                return Err(bad("it was not written, or a record names it already"));
            }
            let Some(before) = object.extends else {
                ends.insert(object.oid, end_of(object.oid, object.stored_bytes));
                continue;
            };
            let objects = &batches.current;
            let root = roots.get(&before).or_else(|| objects.grown.get(&before)).copied().unwrap_or(before);
            roots.insert(object.oid, root);
            let known = objects.unstored.get(&root);
            if known.is_some_and(|known| known.referred) {
                return Err(bad("what it extends is referenced by a stored node already"));
            }
            let end =
                ends.get(&root).copied().or_else(|| known.map(|known| end_of(root, known.reference.stored_bytes)));
            let end = end.ok_or_else(|| bad("what it extends was not named in this batch"))?;
            if end != end_of(object.oid, 0) {
                return Err(bad("it does not start where the object that it extends ends"));
            }
            ends.insert(root, end + u64::from(object.stored_bytes / UNIT));
        }
        Ok(())
    }
}

/// Unit behind an object, as a number that is comparable between objects.
const fn end_of(oid: Oid, stored_bytes: u32) -> u64 {
    oid.0 + (stored_bytes / UNIT) as u64
}

pub(crate) const fn extent(oid: Oid, birth: Hlc, stored_bytes: u32) -> Reference {
    Reference {
        oid,
        birth,
        stored_bytes,
        logical_bytes: stored_bytes,
        crc: 0,
        kind: ReferenceKind::Extent,
        flags: 0,
        encoding: Encoding::Plain,
    }
}

/// Bytes, padded to a unit.
fn padded(bytes: &[u8]) -> Arc<[u8]> {
    let mut out = Vec::with_capacity(bytes.len().next_multiple_of(UNIT as usize));
    out.extend_from_slice(bytes);
    out.resize(bytes.len().next_multiple_of(UNIT as usize), 0);
    out.into()
}

fn length(what: &'static str, bytes: usize, limit: u32) -> Result<u32> {
    let too_large = StoreError::TooLarge { what, bytes: bytes as u64, limit: limit.into() };
    u32::try_from(bytes).ok().filter(|length| *length <= limit).ok_or(too_large)
}

impl Engine {
    pub(crate) fn writer(&self) -> Result<&Writer> {
        self.writer.as_ref().ok_or_else(|| StoreError::ReadOnly { why: self.read_only.clone() })
    }

    /// Keeps an object of a read-only mount.
    fn keep(&self, bytes: Arc<[u8]>) -> Result<Oid> {
        self.unsaved
            .keep(self.shape.volume, bytes)
            .ok_or_else(|| StoreError::ReadOnly { why: "the log makes more objects than memory can hold".into() })
    }

    /// Does what is due in a store without threads: group commits, the barrier of every second, watermarks.
    pub fn pump(&self) -> Result<()> {
        self.writer()?.wal.pump()
    }

    /// What this mount has counted and timed so far.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Why the store is read-only; empty if it is not.
    #[must_use]
    pub fn read_only(&self) -> &str {
        &self.read_only
    }

    /// Ends the mount: everything appended is durable and a watermark says so. The client makes its last checkpoint before.
    pub fn close(&self) -> Result<()> {
        let Some(writer) = &self.writer else { return Ok(()) };
        let closed = writer.wal.commit(writer.wal.end());
        drop(writer.committer.lock().take());
        closed?;
        writer.wal.close()
    }

    /// Contradictions in the accounting of space (INV-32), in words. For tests and `fsck`; waits for a checkpoint under way.
    #[must_use]
    pub fn check_space(&self) -> Vec<String> {
        let published = self.writer.as_ref().map(|writer| writer.published.lock());
        let state = match self.load_all() {
            Ok(state) => state,
            Err(error) => return vec![error.to_string()],
        };
        let mut found = state.check();
        if let Some(writer) = &self.writer {
            writer.space.with_containers(|containers| {
                for (number, container) in containers.iter() {
                    let live = state.live_in(number);
                    if live > 0 && container.state == envoyfs_layout::directory_page::ContainerState::Free {
                        found.push(format!("container {number} is free and holds {live} live units"));
                    }
                    if live > self.shape.units() {
                        found.push(format!("container {number} holds {live} live units"));
                    }
                }
            });
        }
        drop(state);
        drop(published);
        let usage = self.usage();
        if usage.live + usage.dead + usage.deferred + usage.free != usage.capacity {
            found.push(format!(
                "live {} + dead {} + deferred {} + free {} is not {}",
                usage.live, usage.dead, usage.deferred, usage.free, usage.capacity
            ));
        }
        found
    }

    /// Live units of the last checkpoint made, by segment, without those that only retained checkpoints need. For tests and `fsck`.
    #[must_use]
    pub fn liveness(&self) -> BTreeMap<u32, Vec<Range<u32>>> {
        let _published = self.writer.as_ref().map(|writer| writer.published.lock());
        let Ok(state) = self.load_all() else { return BTreeMap::new() };
        let segments = state.table().keys().filter_map(|number| Some((*number, state.segment(*number)?)));
        let live = |segment: &Segment| segment.live.iter().flat_map(|run| segment.deferred.outside(&run)).collect();
        segments
            .map(|(number, segment)| (number, live(segment)))
            .filter(|(_, live): &(_, Vec<_>)| !live.is_empty())
            .collect()
    }

    /// Every page in memory: for tests and checks only. The caller holds the publication, so that nothing is trimmed.
    fn load_all(&self) -> Result<parking_lot::MutexGuard<'_, State>> {
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

    fn wait_for_checkpoint(&self, writer: &Writer, reason: Reason, what: &'static str) -> Result<()> {
        let mut ledger = writer.admission.ledger.lock();
        ledger.wanted = Some(match ledger.wanted {
            Some(Reason::Reclaim) => Reason::Reclaim,
            _ => reason,
        });
        writer.admission.changed.notify_all();
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

    fn due(&self, writer: &Writer) -> Option<Reason> {
        if writer.overdue.load(Ordering::SeqCst) {
            return Some(Reason::Log);
        }
        let room = writer.wal.room();
        if room.is_checkpoint_due() {
            return Some(Reason::Log);
        }
        {
            let ledger = writer.admission.ledger.lock();
            if ledger.wanted.is_some() {
                return ledger.wanted;
            }
            if ledger.current + ledger.pending > writer.admission.budget.dirty_max / 2 {
                return Some(Reason::Log);
            }
        }
        if self.is_release_due(writer) {
            return Some(Reason::Reclaim);
        }
        if let Some(state) = self.state.try_lock()
            && (!state.queue().is_empty() || state.is_releasing())
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
            self.metrics.admission.wait_numbers.increment();
            writer.admission.ledger.lock().wanted.get_or_insert(Reason::Log);
            writer.admission.changed.notify_all();
            StoreError::WouldWait { what: "a number beyond the durable bound" }
        })
    }

    fn reserve(&self, need: Need) -> Result<Permit> {
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
        loop {
            if let Some(why) = writer.wal.poisoned() {
                self.metrics.poison.refused.increment();
                return Err(StoreError::Poisoned { why });
            }
            let Some(room) = writer.wal.try_reserve(records, log_bytes) else {
                let _timing = self.metrics.time(&self.metrics.admission.wait_log);
                self.wait_for_checkpoint(writer, Reason::Log, "log space")?;
                continue;
            };
            let free = writer.free();
            let short = {
                let mut ledger = admission.ledger.lock();
                match ledger.admit(&admission.budget, free, need.tier, data, dirty) {
                    Ok(()) => {
                        self.metrics.admission.permits.increment();
                        writer.cleaning.admitted(data + dirty);
                        let permit =
                            EnginePermit { admission: Arc::clone(admission), room, tier: need.tier, data, dirty };
                        return Ok(Permit::new(Box::new(permit)));
                    }
                    Err(Short::Space(available)) if ledger.hopeless() => {
                        self.metrics.admission.no_space.increment();
                        return Err(StoreError::NoSpace { available, needed: data });
                    }
                    Err(short) => short,
                }
            };
            drop(room);
            match short {
                Short::Dirty => {
                    let _timing = self.metrics.time(&self.metrics.admission.wait_dirty);
                    self.wait_for_checkpoint(writer, Reason::Log, "room for dirty nodes")?;
                }
                Short::Space(_) => {
                    let _timing = self.metrics.time(&self.metrics.admission.wait_space);
                    self.wait_for_checkpoint(writer, Reason::Reclaim, "free space")?;
                }
            }
        }
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
        if writer.batches.lock().written.remove(&object.oid).is_some() {
            writer.space.unpin(object.oid.segment(), 1);
            let slot = u32::from(object.oid.slot());
            writer.space.settle_relocations(object.oid.segment(), &(slot..slot + object.stored_bytes / UNIT));
        }
    }

    fn append(&self, permit: &mut Permit, draft: Draft<'_>) -> Result<Appended> {
        let writer = self.writer()?;
        let permit = permit_of(permit)?;
        let mut batches = writer.batches.lock();
        Writer::check_names(&batches, draft.data)?;
        let writes: Vec<Ticket> =
            draft.data.iter().filter_map(|object| batches.written.get(&object.oid).cloned()).collect();
        let record = NewRecord {
            kind: draft.kind,
            territory: draft.territory,
            ignorable: false,
            origin: draft.origin,
            data: draft.data,
            writes: &writes,
            body: draft.body,
        };
        let position = writer.wal.append(&mut permit.room, record)?;
        for object in draft.data {
            batches.written.remove(&object.oid);
            writer.name(&mut batches, object, position.hlc.birth());
            writer.space.name_row(object.oid, position.hlc.birth());
        }
        drop(batches);
        let mut ledger = writer.admission.ledger.lock();
        ledger.pending = ledger.pending.saturating_sub(permit.dirty);
        ledger.current += std::mem::take(&mut permit.dirty);
        ledger.records += 1;
        Ok(Appended { end: position.end, hlc: position.hlc })
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
        if kind != ReferenceKind::Node {
            return Err(StoreError::Misuse(format!("append_node of a {kind:?}")));
        }
        let logical_bytes = length("node", bytes.len(), self.limits().node_bytes_max)?;
        let edges = edges(bytes).map_err(|what| StoreError::Misuse(format!("append_node: {what}")))?;
        let bytes = padded(bytes);
        let crc = checksum::crc32c(&bytes);
        let row = RowOf { kind, birth, crc, owner: 0 };
        let stored_bytes = logical_bytes.next_multiple_of(UNIT);
        let Some(writer) = &self.writer else {
            let oid = self.keep(bytes)?;
            return Ok(Reference {
                oid,
                birth,
                stored_bytes,
                logical_bytes,
                crc,
                kind,
                flags,
                encoding: Encoding::Plain,
            });
        };
        let (segment, slot) = self.append_buffered(writer, StreamKind::Nodes, bytes, 1, row)?;
        self.metrics.streams.nodes.increment();
        self.metrics.streams.node_bytes.add(stored_bytes.into());
        let oid = Oid::new(self.shape.volume, segment, slot);
        let reference =
            Reference { oid, birth, stored_bytes, logical_bytes, crc, kind, flags, encoding: Encoding::Plain };
        let mut batches = writer.batches.lock();
        for edge in edges.iter().filter(|edge| edge.kind == ReferenceKind::Extent) {
            if let Some(object) = batches.current.unstored.get_mut(&edge.oid) {
                object.referred = true;
            }
        }
        let objects = batches.of(batch)?;
        let number = objects.number;
        objects.unstored.insert(oid, Unstored { reference, edges, batch: number, referred: true, pieces: 1 });
        Ok(reference)
    }

    fn append_payload(&self, batch: Batch, birth: Hlc, data: &[u8]) -> Result<DataObject> {
        let bytes = length("data object", data.len(), self.limits().extent_bytes_max)?;
        if bytes == 0 {
            return Err(StoreError::Misuse("an empty data object".into()));
        }
        let stored_bytes = bytes.next_multiple_of(UNIT);
        let stored = padded(data);
        let crcs = checksum::blocks(&stored);
        let Some(writer) = &self.writer else {
            return Ok(DataObject { oid: self.keep(stored)?, extends: None, stored_bytes, crcs });
        };
        let align = if stored_bytes >= BLOCK { BLOCK / UNIT } else { 1 };
        let row =
            RowOf { kind: ReferenceKind::Extent, birth, crc: checksum::join(&crcs, stored_bytes as usize), owner: 0 };
        let (segment, slot) = self.append_buffered(writer, StreamKind::Payload, stored, align, row)?;
        self.metrics.streams.payloads.increment();
        self.metrics.streams.payload_bytes.add(stored_bytes.into());
        let oid = Oid::new(self.shape.volume, segment, slot);
        let mut batches = writer.batches.lock();
        let objects = batches.of(batch)?;
        let number = objects.number;
        let reference = extent(oid, birth, stored_bytes);
        objects
            .unstored
            .insert(oid, Unstored { reference, edges: Vec::new(), batch: number, referred: true, pieces: 1 });
        Ok(DataObject { oid, extends: None, stored_bytes, crcs })
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
            let mut ledger = writer.admission.ledger.lock();
            if ledger.wanted.is_none() {
                writer.admission.changed.wait_for(&mut ledger, step);
            }
            left -= step;
        }
    }

    fn freeze(&self) -> Result<Frozen> {
        self.freeze_batch()
    }

    fn publish(&self, frozen: Frozen, roots: Roots, changes: Changes) -> Result<()> {
        self.publish_checkpoint(frozen, roots, changes)
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
        let available = writer.admission.ledger.lock().available(&writer.admission.budget, writer.free(), Tier::Writer);
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

    fn metrics(&self) -> Option<&Metrics> {
        Some(&self.metrics)
    }

    fn poisoned(&self) -> Option<String> {
        self.writer.as_ref().and_then(|writer| writer.wal.poisoned())
    }
}

impl Engine {
    /// A buffer for an object of `bytes`: with room for what the device writes around it, from registered memory while there is any. Its contents are old.
    #[must_use]
    pub fn buffer(&self, bytes: u32) -> AlignedBuf {
        let length = (bytes as usize).next_multiple_of(self.shape.block_bytes as usize);
        let mut buffer = self.device.buffers().take(length);
        buffer.set_len((bytes as usize).next_multiple_of(UNIT as usize));
        buffer
    }

    fn filled(&self, data: &[u8]) -> Result<(AlignedBuf, u32)> {
        let bytes = length("data object", data.len(), self.limits().extent_bytes_max)?;
        let mut buffer = self.buffer(bytes);
        if let Some(head) = buffer.as_mut_slice().get_mut(..data.len()) {
            head.copy_from_slice(data);
        }
        Ok((buffer, bytes))
    }

    /// As [`Store::append_data`], of the first `bytes` of a buffer from [`Engine::buffer`], without a copy: the device writes from it.
    ///
    /// # Errors
    /// As [`Store::append_data`]; [`StoreError::Misuse`] if the buffer has no room for whole logical blocks.
    pub fn append_buffer(&self, permit: &mut Permit, buffer: AlignedBuf, bytes: u32) -> Result<DataObject> {
        self.write_object(permit, buffer, bytes, &DataHint::default(), false)
    }

    fn write_object(
        &self,
        permit: &mut Permit,
        mut buffer: AlignedBuf,
        bytes: u32,
        hint: &DataHint,
        may_split: bool,
    ) -> Result<DataObject> {
        let writer = self.writer()?;
        let permit = permit_of(permit)?;
        length("data object", bytes as usize, self.limits().extent_bytes_max)?;
        if bytes == 0 {
            return Err(StoreError::Misuse("an empty data object".into()));
        }
        if let Some(why) = writer.wal.poisoned() {
            return Err(StoreError::Poisoned { why });
        }
        let stored_bytes = bytes.next_multiple_of(UNIT);
        let written = (stored_bytes as usize).next_multiple_of(self.shape.block_bytes as usize);
        buffer.set_len(written);
        if buffer.len() != written {
            return Err(StoreError::Misuse(format!(
                "a buffer of {} bytes for an object of {bytes}",
                buffer.capacity()
            )));
        }
        if let Some(tail) = buffer.as_mut_slice().get_mut(bytes as usize..) {
            tail.fill(0);
        }
        let mut crcs = checksum::blocks(buffer.as_slice().get(..stored_bytes as usize).unwrap_or_default());
        let row = |stored_bytes| RowOf {
            kind: ReferenceKind::Extent,
            birth: Hlc::ZERO,
            crc: checksum::join(&crcs, stored_bytes as usize),
            owner: hint.owner,
        };
        let floor = match permit.tier {
            Tier::Writer => writer.admission.budget.floor_containers(Tier::Shrinking).saturating_sub(1),
            _ => 2,
        };
        let wish = Wish { after: hint.after, replaces: hint.replaces, may_split };
        let written = writer.space.write_data(buffer, stored_bytes, row, &wish, floor)?;
        let WrittenData { segment, slot, stored_bytes, ticket } = written;
        crcs.truncate(stored_bytes.div_ceil(BLOCK) as usize);
        let oid = Oid::new(self.shape.volume, segment, u16::try_from(slot).unwrap_or(u16::MAX));
        writer.batches.lock().written.insert(oid, ticket);
        let used = data_charge(stored_bytes.into()).min(permit.data);
        permit.data -= used;
        let mut ledger = writer.admission.ledger.lock();
        ledger.data = ledger.data.saturating_sub(used);
        Ok(DataObject { oid, extends: None, stored_bytes, crcs })
    }

    /// Fills `into` from an object that only a read-only mount's memory holds; false if there is none.
    pub(crate) fn read_unsaved(&self, oid: Oid, first: u32, into: &mut [u8]) -> bool {
        self.writer.is_none() && self.unsaved.read(oid, first, into)
    }
}

impl Batches {
    fn of(&mut self, batch: Batch) -> Result<&mut Objects> {
        match batch {
            Batch::Current => Ok(&mut self.current),
            Batch::Frozen => self.frozen.as_mut().ok_or_else(|| StoreError::Misuse("nothing is frozen".into())),
        }
    }
}

impl Engine {
    /// Buffers an object; it is pinned and readable at once.
    pub(crate) fn append_buffered(
        &self,
        writer: &Writer,
        kind: StreamKind,
        bytes: Arc<[u8]>,
        align: u32,
        row: RowOf,
    ) -> Result<(u32, u16)> {
        if let Some(why) = writer.wal.poisoned() {
            return Err(StoreError::Poisoned { why });
        }
        let mut stream = writer.space.stream(kind);
        let (segment, _, slot) = stream.append(&writer.space, bytes, align, row, 0)?;
        writer.space.pin(segment);
        Ok((segment, u16::try_from(slot).unwrap_or(u16::MAX)))
    }
}
