//! The write-ahead log of one volume: append, group commit, ring room, and what recovery reads back (DESIGN 6).
//!
//! ```text
//! append -> staging --frame--> blocks submitted --write done, data done--> flush --> durable -> waiters
//!           (memory)           (never rewritten)                           (group)
//! ```
//! Promises:
//! - INV-18: `durable` passes a record only after a flush that began when its block *and* all data it names had completed.
//! - A block is written once a generation; its watermark is what a *completed* flush covered when it was framed (INV-19).
//! - INV-24: `append` never waits, neither for the device nor for ring room: the room was reserved before.
//! - INV-33: after the first failed write or flush nothing is acknowledged; every waiter gets the reason.
//! - Ring room for a checkpoint and for the seals of a recovery is always left over, twice from a freeze until its CHECKPOINT record is appended.
//!
//! If power fails, [`recovery::scan`] finds the longest prefix that can be trusted; what is cut is cut for ever, since [`publish_cut`] raises the generation.
//! `wal-model` is the executable specification; its seeded bugs are the mistakes that must not be made here.

mod committer;
mod entry;
mod group;
pub mod recovery;
mod ring;
mod room;
mod staging;
#[cfg(test)]
mod tests;

pub use committer::Committer;
pub use entry::{Next, advance_start, publish_cut};
pub use ring::RingGeometry;
pub use room::{LogRoom, Room};

use crate::StoreError;
use crate::device::{Device, Ticket};
use crate::hlc::{Clock, HlcSource};
use crate::metrics::Metrics;
use crate::store::{DataObject, OnDurable, Origin, Result};
use envoyfs_layout::directory_page::StartPosition;
use envoyfs_layout::wal::{self as format, RECORD_BYTES_MAX, RecordParts, kind};
use envoyfs_layout::{Hlc, Lsn};
use parking_lot::{Condvar, Mutex};
use staging::Staging;
use std::collections::VecDeque;
use std::sync::Arc;

/// A record is on the device at the latest this long after it was appended.
const BARRIER_MS: u64 = 1000;
/// A barrier is due when records named so many bytes of data since the last.
const BARRIER_DATA_BYTES: u64 = 256 << 20;
/// A watermark block is due after so much quiet.
const QUIET_MS: u64 = 100;
/// Blocks between two flushes. Recovery searches four times as far for blocks behind a bad one.
const UNFLUSHED_BYTES_MAX: u64 = 16 << 20;
/// Most of the log that triggers a checkpoint.
const TRIGGER_BYTES_MAX: u64 = 192 << 20;
/// Records that trigger one.
const TRIGGER_RECORDS: u64 = 2_000_000;

/// What does not change while the log is open.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Where the ring is.
    pub ring: RingGeometry,
    /// Writer epoch of this store.
    pub writer_epoch: u32,
    /// Worst case of one CHECKPOINT record with the "opened" and "placed" records of its segments, each in a block of its own.
    pub checkpoint_blocks: u64,
    /// Worst case of the seals that a mount appends before its first checkpoint.
    pub seal_blocks: u64,
}

/// What a mount starts from; made by [`recovery::Found::resume`].
#[derive(Debug)]
pub struct Resume {
    /// Generation of this mount, published already.
    pub generation: u32,
    /// LSN of the first record: the published cut.
    pub next_lsn: Lsn,
    /// Sequence of the first block.
    pub next_sequence: u64,
    /// Sequence of the published start.
    pub start_sequence: u64,
    /// Kept blocks from there on.
    pub chain: Vec<ChainBlock>,
    /// Records in them.
    pub records: u64,
    /// The clock.
    pub hlc: HlcSource,
}

/// A block between the published start and the end of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainBlock {
    /// Sequence.
    pub sequence: u64,
    /// Generation.
    pub generation: u32,
    /// LSN of its first shared byte.
    pub first_lsn: Lsn,
    /// Byte in the block at which that stands.
    pub shared_offset: u32,
}

/// A record to append.
#[derive(Clone, Copy, Debug)]
pub struct NewRecord<'a> {
    /// Kind.
    pub kind: u16,
    /// Territory that it changes.
    pub territory: u64,
    /// A reader that does not know the kind may skip it.
    pub ignorable: bool,
    /// Identity of a forwarded request.
    pub origin: Option<Origin>,
    /// Data objects that it names.
    pub data: &'a [DataObject],
    /// The writes of that data, all submitted.
    pub writes: &'a [Ticket],
    /// Body.
    pub body: &'a [u8],
}

impl<'a> NewRecord<'a> {
    /// One of the engine's own records: kind and body.
    #[must_use]
    pub const fn engine(kind: u16, body: &'a [u8]) -> Self {
        Self { kind, territory: 0, ignorable: false, origin: None, data: &[], writes: &[], body }
    }
}

/// Where a record was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// LSN of its first byte.
    pub start: Lsn,
    /// LSN behind it: `commit(end)` makes it durable.
    pub end: Lsn,
    /// Its HLC.
    pub hlc: Hlc,
}

/// Where a version was frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreezePoint {
    /// First LSN that it does not contain.
    pub lsn: Lsn,
    /// Every birth in it is at most this, every later one is larger.
    pub hlc: Hlc,
    /// 0 while the volume has one replica.
    pub stream_hash: u64,
}

/// The log. Share it as `Arc`; a [`Committer`] adds the thread.
pub struct Wal {
    device: Arc<dyn Device>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    config: Config,
    /// Held while blocks are framed and submitted, so that sequence and submission go together. Taken before `inner`. Holds the writes not yet waited for.
    submitter: Mutex<Vec<Ticket>>,
    inner: Mutex<Inner>,
    /// Durable, poisoned, ring room, stop: something that somebody waits for changed.
    changed: Condvar,
    /// The committer's turn: something is due sooner than it thinks.
    wake: Condvar,
}

/// Data of a record, still being written or not yet known to be done.
struct Named {
    start: Lsn,
    writes: Vec<Ticket>,
}

struct Inner {
    hlc: HlcSource,
    staging: Staging,
    scratch: Vec<u8>,
    named: VecDeque<Named>,
    generation: u32,
    next_sequence: u64,
    start_sequence: u64,
    chain: VecDeque<ChainBlock>,
    /// Records before this, and their data, are covered by a completed flush.
    durable: Lsn,
    /// The largest `durable` that a submitted block carries.
    watermark: Lsn,
    /// Largest LSN that somebody waits for.
    wanted: Lsn,
    callbacks: Vec<(Lsn, OnDurable)>,
    /// A group is being written; one at a time.
    running: bool,
    groups_started: u64,
    groups_done: u64,
    /// Blocks framed since the last group's flush began.
    unflushed_blocks: u64,
    named_bytes: u64,
    /// When the oldest record that is not durable was appended.
    waiting_since_ms: Option<u64>,
    last_append_ms: u64,
    /// Blocks promised to operations under way.
    reserved_blocks: u64,
    /// Between a freeze and the append of its CHECKPOINT record.
    checkpoint_pending: bool,
    records: u64,
    records_at_freeze: u64,
    poison: Option<String>,
    /// The committer sleeps without a timer: whoever makes something due wakes it.
    committer_idle: bool,
    stop: bool,
}

impl Wal {
    /// Opens the log for appending, after recovery has published generation and cut.
    #[must_use]
    pub fn new(
        device: Arc<dyn Device>,
        clock: Arc<dyn Clock>,
        config: Config,
        resume: Resume,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        metrics.log.ring_blocks.set(config.ring.blocks);
        let now = clock.monotonic_ms();
        let inner = Inner {
            hlc: resume.hlc,
            staging: Staging::new(resume.next_lsn),
            scratch: Vec::new(),
            named: VecDeque::new(),
            generation: resume.generation,
            next_sequence: resume.next_sequence,
            start_sequence: resume.start_sequence,
            chain: resume.chain.into(),
            durable: resume.next_lsn,
            watermark: resume.next_lsn,
            wanted: Lsn(0),
            callbacks: Vec::new(),
            running: false,
            groups_started: 0,
            groups_done: 0,
            unflushed_blocks: 0,
            named_bytes: 0,
            waiting_since_ms: None,
            last_append_ms: now,
            reserved_blocks: 0,
            checkpoint_pending: false,
            records: resume.records,
            records_at_freeze: 0,
            poison: None,
            committer_idle: false,
            stop: false,
        };
        Arc::new(Self {
            device,
            clock,
            metrics,
            config,
            submitter: Mutex::new(Vec::new()),
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            wake: Condvar::new(),
        })
    }

    /// Appends a record that `room` pays for. Never waits.
    ///
    /// # Errors
    /// Poisoned, longer than a record may be, or larger than what was reserved while the ring has no room to spare.
    pub fn append(&self, room: &mut LogRoom, record: NewRecord<'_>) -> Result<Position> {
        self.put(Some(room), record)
    }

    /// Appends a record of the engine from the reserve: CHECKPOINT, and what its checkpoint or a mount opens and seals. Never waits.
    ///
    /// # Errors
    /// Poisoned, or the ring is full, which the reserve excludes.
    pub fn append_internal(&self, record: NewRecord<'_>) -> Result<Position> {
        self.put(None, record)
    }

    fn put(&self, room: Option<&mut LogRoom>, record: NewRecord<'_>) -> Result<Position> {
        let data: Vec<format::NamedObject<&[u32]>> = record
            .data
            .iter()
            .map(|object| format::NamedObject {
                oid: object.oid,
                extends: object.extends,
                stored_bytes: object.stored_bytes,
                crcs: object.crcs.as_slice(),
            })
            .collect();
        let mut parts = RecordParts {
            kind: record.kind,
            local: false,
            ignorable: record.ignorable,
            hlc: Hlc::ZERO,
            territory: record.territory,
            origin: record.origin.map(|o| format::Origin { client: o.client, sequence: o.sequence, floor: o.floor }),
            result: None,
            data: &data,
            body: record.body,
        };
        let bytes = format::padded(parts.length());
        if bytes > RECORD_BYTES_MAX {
            let (bytes, limit) = (bytes as u64, RECORD_BYTES_MAX as u64);
            return Err(StoreError::TooLarge { what: "a record", bytes, limit });
        }
        let (wall_ns, now_ms) = (self.clock.wall_ns(), self.clock.monotonic_ms());
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        inner.check()?;
        self.pay(inner, room, bytes as u64)?;
        let start = inner.staging.end();
        parts.hlc = inner.hlc.draw(wall_ns);
        inner.scratch.clear();
        if let Err(source) = parts.encode(&mut inner.scratch) {
            return Err(StoreError::Structure { structure: "WAL record", offset: start.0, source });
        }
        inner.staging.push_shared(&inner.scratch);
        if !record.writes.is_empty() {
            inner.named.push_back(Named { start, writes: record.writes.to_vec() });
        }
        let named: u64 = record.data.iter().map(|object| u64::from(object.stored_bytes)).sum();
        inner.named_bytes = inner.named_bytes.saturating_add(named);
        inner.records = inner.records.saturating_add(1);
        if record.kind == kind::CHECKPOINT {
            inner.checkpoint_pending = false;
        }
        let position = Position { start, end: inner.staging.end(), hlc: parts.hlc };
        let wake = inner.committer_idle || inner.is_barrier_by_size(&self.config);
        inner.waiting_since_ms.get_or_insert(now_ms);
        inner.last_append_ms = now_ms;
        drop(guard);
        self.metrics.log.records.increment();
        self.metrics.log.record_bytes.add(bytes as u64);
        if wake {
            self.wake.notify_one();
        }
        Ok(position)
    }

    /// Appends a local record from the reserve. It has no LSN; it stands before everything appended after it. Never waits.
    ///
    /// # Errors
    /// Poisoned, too long for a block, or the ring is full, which the reserve excludes.
    pub fn append_local(&self, kind: u16, body: &[u8]) -> Result<()> {
        let parts = RecordParts {
            kind,
            local: true,
            ignorable: false,
            hlc: Hlc::ZERO,
            territory: 0,
            origin: None,
            result: None,
            data: &[],
            body,
        };
        let bytes = format::padded(parts.length()) as u64;
        let limit = u64::from(self.config.ring.capacity());
        if bytes > limit {
            return Err(StoreError::TooLarge { what: "a local record", bytes, limit });
        }
        let mut record = Vec::new();
        parts.encode(&mut record).map_err(|source| StoreError::Structure {
            structure: "local WAL record",
            offset: 0,
            source,
        })?;
        let now_ms = self.clock.monotonic_ms();
        let mut inner = self.inner.lock();
        inner.check()?;
        self.pay(&mut inner, None, bytes.saturating_mul(2))?;
        inner.staging.push_local(record);
        inner.waiting_since_ms.get_or_insert(now_ms);
        self.metrics.log.local_records.increment();
        Ok(())
    }

    /// LSN behind the last record.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.inner.lock().staging.end()
    }
    /// Everything before this is durable.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        self.inner.lock().durable
    }
    /// The largest HLC drawn.
    #[must_use]
    pub fn last_hlc(&self) -> Hlc {
        self.inner.lock().hlc.last()
    }
    /// A superblock with this bound is durable.
    pub fn raise_hlc_bound(&self, bound: Hlc) {
        self.inner.lock().hlc.raise_bound(bound);
    }

    /// Closes a version: the caller holds the freeze lock, so nothing is between a record and its effect. From here until the CHECKPOINT record is appended,
    /// admission leaves room for two checkpoints.
    #[must_use]
    pub fn freeze(&self) -> FreezePoint {
        let mut inner = self.inner.lock();
        inner.checkpoint_pending = true;
        inner.records_at_freeze = inner.records;
        FreezePoint { lsn: inner.staging.end(), hlc: inner.hlc.last().birth(), stream_hash: 0 }
    }

    /// A freeze without a checkpoint: its reserve is given back.
    pub fn abandon_freeze(&self) {
        self.inner.lock().checkpoint_pending = false;
        self.changed.notify_all();
    }

    /// Where in the ring an LSN stands: the last block that starts at or before it. `None` while it is in no block yet (see [`Wal::frame`]) or no longer needed.
    #[must_use]
    pub fn start_of(&self, lsn: Lsn) -> Option<StartPosition> {
        let inner = self.inner.lock();
        if lsn >= inner.staging.framed() {
            return None;
        }
        start_in(&self.config.ring, inner.chain.iter(), lsn)
    }

    /// The superblock that names `start` is durable (both pairs): ring space before it is free.
    pub fn published(&self, start: &StartPosition) {
        let mut inner = self.inner.lock();
        inner.start_sequence = inner.start_sequence.max(start.sequence);
        let first = inner.start_sequence;
        while inner.chain.front().is_some_and(|block| block.sequence < first) {
            inner.chain.pop_front();
        }
        inner.records = inner.records.saturating_sub(inner.records_at_freeze);
        inner.records_at_freeze = 0;
        self.metrics.log.used_blocks.set(inner.used_blocks());
        drop(inner);
        self.changed.notify_all();
    }

    /// Stops acknowledging for ever; the first reason stays. Everybody who waits gets it.
    pub fn poison(&self, why: &str) {
        self.metrics.poison.poisoned.set(1);
        let callbacks = self.inner.lock().poison(why);
        self.changed.notify_all();
        self.wake.notify_all();
        answer(callbacks);
    }

    /// Why nothing is acknowledged any more.
    #[must_use]
    pub fn poisoned(&self) -> Option<String> {
        self.inner.lock().poison.clone()
    }
}

/// The position of an LSN in a chain of blocks that holds it.
fn start_in<'a>(
    ring: &RingGeometry,
    chain: impl DoubleEndedIterator<Item = &'a ChainBlock>,
    lsn: Lsn,
) -> Option<StartPosition> {
    let block = chain.rev().find(|block| block.first_lsn <= lsn)?;
    let within = u32::try_from(lsn.0.saturating_sub(block.first_lsn.0)).ok()?;
    Some(StartPosition {
        generation: block.generation,
        sequence: block.sequence,
        offset: block.shared_offset.saturating_add(within),
        ring_block: ring.ring_block(block.sequence),
    })
}

/// Calls what was taken from a poisoned log.
fn answer(callbacks: Vec<(OnDurable, Result<()>)>) {
    for (done, result) in callbacks {
        done(result);
    }
}

impl Inner {
    fn check(&self) -> Result<()> {
        match &self.poison {
            Some(why) => Err(StoreError::Poisoned { why: why.clone() }),
            None => Ok(()),
        }
    }

    fn poison(&mut self, why: &str) -> Vec<(OnDurable, Result<()>)> {
        let why = self.poison.get_or_insert_with(|| why.to_string()).clone();
        let error = StoreError::Poisoned { why };
        self.callbacks.drain(..).map(|(_, done)| (done, Err(error.clone()))).collect()
    }

    fn is_barrier_by_size(&self, config: &Config) -> bool {
        let blocks = self.unflushed_blocks.saturating_add(self.staging.blocks(&config.ring));
        config.ring.bytes(blocks) >= UNFLUSHED_BYTES_MAX / 2 || self.named_bytes >= BARRIER_DATA_BYTES
    }
}
