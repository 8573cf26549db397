//! The write-ahead log of one volume: append, group commit, ring room, and what recovery reads back (DESIGN 6).
//!
//! ```text
//! append -> staging --frame--> blocks submitted --write done, data done--> flush --> durable -> waiters
//!           (lock-free)        (never rewritten)                           (group)
//! ```
//! Promises:
//! - INV-18: `durable` passes a record only after a flush that began when its block *and* all data it names had completed; with durable writes, a flush is left out
//!   when block and data were all written durably, and have completed.
//! - A block is written once a generation; its watermark is what a *completed* flush covered when it was framed (INV-19).
//! - INV-24: `append` never waits, neither for the device nor for ring room: the room was reserved before.
//! - INV-33: after the first failed write or flush nothing is acknowledged; every waiter gets the reason.
//! - Ring room for a checkpoint and for the seals of a recovery is always left over, twice from a freeze until its CHECKPOINT record is appended.
//!
//! If power fails, [`recovery::scan`] finds the longest prefix that can be trusted; what is cut is cut for ever, since [`publish_cut`] raises the generation.
//! `wal-model` is the executable specification; its seeded bugs are the mistakes that must not be made here.

mod append;
mod atomics;
mod committer;
mod entry;
mod group;
#[cfg_attr(test, expect(clippy::duplicate_mod, reason = "compiled once more over the threads of loom"))]
mod line;
pub mod recovery;
mod ring;
mod room;
mod staging;
mod sync;
#[cfg(test)]
mod tests;

pub use append::{NewRecord, Position};
pub use committer::Committer;
pub use entry::{Next, advance_start, publish_cut};
pub use ring::RingGeometry;
pub use room::{LogRoom, Room};

use crate::StoreError;
use crate::device::{Device, Ticket};
use crate::hlc::{self, Belief, Clock, HlcSource, Jump};
use crate::metrics::Metrics;
use crate::sabotage::{self, Rule};
use crate::store::{OnDurable, Result};
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex};
use envoyfs_layout::directory_page::StartPosition;
use envoyfs_layout::{Hlc, Lsn};
use group::Submitter;
use line::Line;
use staging::{Locals, Staging};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};

/// A record is on the device at the latest this long after it was appended.
const BARRIER_MS: u64 = 1000;
/// A barrier is due when records named so many bytes of data since the last.
const BARRIER_DATA_BYTES: u64 = 256 << 20;
/// A watermark block is due after so much quiet.
const QUIET_MS: u64 = 100;
/// Blocks between two flushes. Recovery searches four times as far for blocks behind a bad one.
const UNFLUSHED_BYTES_MAX: u64 = 16 << 20;
/// Memory for records that have no block yet, if the ring is not smaller.
const STAGING_BYTES_MAX: u64 = 8 << 20;
/// Part of it that admission leaves to the engine's own records, when the ring is larger than the memory: a CHECKPOINT record and the openings of ten thousand segments.
const STAGING_RESERVE_BYTES: u64 = 2 << 20;
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
    /// Blocks are written durably (forced unit access), and a group is flushed only if one of its records names data that was not.
    pub durable_writes: bool,
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
    /// Client records in them.
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
///
/// Locks, in the order in which they are taken: `submitter`, `inner`, `admission`, then `locals` or `named`. An append of client records takes none of them, but `named` for
/// an instant when the record names data.
pub struct Wal {
    device: Arc<dyn Device>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    config: Config,
    staging: Staging,
    /// Held while room is compared with a wish, and while what waits turns into blocks.
    admission: Mutex<()>,
    /// With `admission`: promises of memory were given back, and somebody waits for them.
    given_back: Condvar,
    /// Which clock is believed. No other lock is taken with it.
    belief: Mutex<Belief>,
    levels: Levels,
    locals: Mutex<Locals>,
    /// Data of records, still being written or not yet known to be done. A record's entry is made before the record is published.
    named: Mutex<BTreeMap<Lsn, Vec<Ticket>>>,
    /// Held while blocks are framed and submitted, so that sequence and submission go together.
    submitter: Mutex<Submitter>,
    inner: Mutex<Inner>,
    /// The committer's turn: something is due sooner than it thinks.
    wake: Condvar,
    /// Why nothing is acknowledged any more.
    poison: OnceLock<String>,
}

/// What appenders and admission read and change without a lock.
struct Levels {
    /// Blocks from the published start to the next one; changed with `inner` and `admission`.
    used_blocks: AtomicU64,
    /// Bytes of local records that wait.
    local_bytes: AtomicU64,
    /// Between a freeze and the append of its CHECKPOINT record.
    checkpoint_pending: AtomicBool,
    /// Client records since the published freeze.
    records: AtomicU64,
    /// Bytes of data named since the last barrier.
    named_bytes: AtomicU64,
    /// When the oldest record that is not durable was appended, in ms and one more; 0 = there is none. A hint: [`Wal::due`] looks itself.
    waiting_since: AtomicU64,
    last_append_ms: AtomicU64,
    hlc_bound: AtomicU64,
    /// By how much the wall clock is ahead of what is believed.
    clock_ahead_ns: AtomicU64,
    /// As in `inner`, raised with it held: whoever finds it high enough needs no lock.
    durable: AtomicU64,
    /// Committers that wait for the next group, in seats or with functions; changed with `inner` held.
    joined: AtomicUsize,
    /// Who waits in [`Wal::try_reserve`] for promises that others have.
    promise_waiters: AtomicUsize,
    /// Nanoseconds that the last group took.
    group_ns: AtomicU64,
    /// The mount has ended: nothing is appended, nor acknowledged, any more.
    closed: AtomicBool,
}

struct Inner {
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
    /// Who leads a group, one at a time, and who waits for one.
    line: Line,
    groups_started: u64,
    groups_done: u64,
    /// Blocks framed since the last group's flush began.
    unflushed_blocks: u64,
    records_at_freeze: u64,
    /// The next group flushes whatever it holds: somebody wants every completed write durable.
    flush_wanted: bool,
    /// Data that had completed when a group covered it was not written durably: no flush since.
    bulk_unflushed: bool,
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
        let (now, wall_ns) = (clock.monotonic_ms(), clock.wall_ns());
        let used_blocks = resume.next_sequence.saturating_sub(resume.start_sequence);
        let staging_bytes = config.ring.bytes(config.ring.blocks).clamp(4096, STAGING_BYTES_MAX).next_power_of_two();
        let inner = Inner {
            generation: resume.generation,
            next_sequence: resume.next_sequence,
            start_sequence: resume.start_sequence,
            chain: resume.chain.into(),
            durable: resume.next_lsn,
            watermark: resume.next_lsn,
            wanted: Lsn(0),
            callbacks: Vec::new(),
            line: Line::new(),
            groups_started: 0,
            groups_done: 0,
            unflushed_blocks: 0,
            records_at_freeze: 0,
            flush_wanted: false,
            bulk_unflushed: false,
            stop: false,
        };
        Arc::new(Self {
            device,
            clock,
            metrics,
            config,
            staging: Staging::new(resume.next_lsn, resume.hlc.last, usize::try_from(staging_bytes).unwrap_or(4096)),
            admission: Mutex::new(()),
            given_back: Condvar::new(),
            belief: Mutex::new(Belief::new(wall_ns, now, hlc::is_behind(wall_ns, resume.hlc.last))),
            levels: Levels {
                used_blocks: AtomicU64::new(used_blocks),
                local_bytes: AtomicU64::new(0),
                checkpoint_pending: AtomicBool::new(false),
                records: AtomicU64::new(resume.records),
                named_bytes: AtomicU64::new(0),
                waiting_since: AtomicU64::new(0),
                last_append_ms: AtomicU64::new(now),
                hlc_bound: AtomicU64::new(resume.hlc.bound.0),
                clock_ahead_ns: AtomicU64::new(0),
                durable: AtomicU64::new(resume.next_lsn.0),
                promise_waiters: AtomicUsize::new(0),
                joined: AtomicUsize::new(0),
                group_ns: AtomicU64::new(0),
                closed: AtomicBool::new(false),
            },
            locals: Mutex::default(),
            named: Mutex::default(),
            submitter: Mutex::new(Submitter::new(resume.next_lsn)),
            inner: Mutex::new(inner),
            wake: Condvar::new(),
            poison: OnceLock::new(),
        })
    }

    /// Whether blocks are written durably; small data should be then, too.
    #[must_use]
    pub const fn writes_durably(&self) -> bool {
        self.config.durable_writes
    }

    /// LSN behind the last record.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.staging.end()
    }
    /// Everything before this is durable.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        Lsn(self.levels.durable.load(Ordering::Acquire))
    }
    /// The largest HLC drawn.
    #[must_use]
    pub fn last_hlc(&self) -> Hlc {
        self.staging.head().1
    }
    /// A superblock with this bound is durable.
    pub fn raise_hlc_bound(&self, bound: Hlc) {
        self.levels.hlc_bound.fetch_max(bound.0, Ordering::AcqRel);
    }
    /// The wall clock comes near the bound: a publication should raise it.
    #[must_use]
    pub fn is_hlc_bound_near(&self) -> bool {
        hlc::is_bound_near(self.believed_wall_ns(), Hlc(self.levels.hlc_bound.load(Ordering::Acquire)))
    }

    /// The wall clock as far as it is believed ([`hlc::Belief`]); tells of jumps.
    pub fn believed_wall_ns(&self) -> i64 {
        let mut belief = self.belief.lock();
        let wall = self.clock.wall_ns();
        match belief.look(wall, self.clock.monotonic_ms(), self.last_hlc()) {
            None => {}
            Some((Jump::Doubted, ahead)) => tracing::warn!(
                ahead_s = ahead.as_secs(),
                "the clock has jumped ahead; it is believed when it has stood for a minute"
            ),
            Some((Jump::Believed, ahead)) => {
                tracing::warn!(ahead_s = ahead.as_secs(), "the clock has jumped ahead, and is believed now");
            }
            Some((Jump::Refused, ahead)) => tracing::error!(
                ahead_s = ahead.as_secs(),
                "the clock has jumped ahead by more than a year and is not believed: stamps go on from what it was before; if it is right now, mount the store again"
            ),
        }
        self.levels.clock_ahead_ns.store(belief.ahead_ns().unsigned_abs(), Ordering::Release);
        wall.saturating_sub(belief.ahead_ns())
    }

    /// Takes notice of a stamp from outside: every record from now on has a later one (INV-01, INV-40).
    ///
    /// # Errors
    /// [`StoreError::ClockAhead`]: it is more than [`hlc::AHEAD_MAX`] ahead of this host's clock. [`StoreError::WouldWait`]: it is beyond the durable bound; a publication raises that.
    pub fn observe(&self, stamp: Hlc) -> Result<()> {
        if stamp <= self.last_hlc() {
            return Ok(());
        }
        let limit_ms = u64::try_from(hlc::AHEAD_MAX.as_millis()).unwrap_or(u64::MAX);
        let ahead_ms = stamp.milliseconds().saturating_sub(hlc::wall_hlc(self.believed_wall_ns()).milliseconds());
        if ahead_ms > limit_ms {
            return Err(StoreError::ClockAhead { ahead_ms, limit_ms });
        }
        // Records after it count on from there, and must not come to the bound before the next publication raises it.
        let bound = Hlc(self.levels.hlc_bound.load(Ordering::Acquire));
        let room_ms = u64::try_from(hlc::COUNTING_ROOM.as_millis()).unwrap_or(u64::MAX);
        if stamp.milliseconds().saturating_add(room_ms) > bound.milliseconds() {
            return Err(StoreError::WouldWait { what: "a stamp beyond the durable bound" });
        }
        self.staging.raise(stamp);
        Ok(())
    }

    /// Closes a version: the caller holds the freeze lock, so no client record is between its draw and its effect; LSN and HLC are read together. From here until the
    /// CHECKPOINT record is appended, admission leaves room for two checkpoints.
    #[must_use]
    pub fn freeze(&self) -> FreezePoint {
        let mut inner = self.inner.lock();
        self.levels.checkpoint_pending.store(true, Ordering::Release);
        inner.records_at_freeze = self.levels.records.load(Ordering::Relaxed);
        let (lsn, hlc) = self.staging.head();
        FreezePoint { lsn, hlc: hlc.birth(), stream_hash: 0 }
    }

    /// The checkpoint is published without a record: its reserve is given back.
    pub fn skip_record(&self) {
        self.levels.checkpoint_pending.store(false, Ordering::Release);
    }

    /// A freeze without a checkpoint: its reserve is given back.
    pub fn abandon_freeze(&self) {
        self.levels.checkpoint_pending.store(false, Ordering::Release);
        self.inner.lock().records_at_freeze = 0;
    }

    /// Where in the ring an LSN stands: in the last block that starts before it (or at it, if it is the first that is known). `None` while it is in no block yet (see [`Wal::frame`]) or no longer needed.
    #[must_use]
    pub fn start_of(&self, lsn: Lsn) -> Option<StartPosition> {
        let inner = self.inner.lock();
        if lsn >= self.staging.framed() {
            return None;
        }
        start_in(&self.config.ring, inner.chain.iter(), lsn)
    }

    /// As [`Wal::start_of`], also of the end of the last block, which is where an LSN stands that nothing was framed behind.
    #[must_use]
    pub fn start_or_end_of(&self, lsn: Lsn) -> Option<StartPosition> {
        let inner = self.inner.lock();
        if lsn > self.staging.framed() {
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
        self.levels.used_blocks.store(inner.used_blocks(), Ordering::Release);
        self.metrics.log.used_blocks.set(inner.used_blocks());
        self.levels.records.fetch_sub(std::mem::take(&mut inner.records_at_freeze), Ordering::Relaxed);
    }

    /// Stops acknowledging for ever; the first reason stays. Everybody who waits gets it.
    pub fn poison(&self, why: &str) {
        let (callbacks, calls) = {
            let mut inner = self.inner.lock();
            (self.take_poisoned(&mut inner, why), inner.line.call_all())
        };
        line::call(calls);
        self.wake.notify_all();
        answer(callbacks);
    }

    /// Why nothing is acknowledged any more.
    #[must_use]
    pub fn poisoned(&self) -> Option<String> {
        self.poison.get().cloned()
    }

    fn check(&self) -> Result<()> {
        match self.poison.get() {
            Some(why) if !sabotage::on(Rule::PoisonForgotten) => Err(StoreError::Poisoned { why: why.clone() }),
            _ => Ok(()),
        }
    }

    /// Neither poisoned nor closed.
    fn check_open(&self) -> Result<()> {
        if self.levels.closed.load(Ordering::Acquire) && !sabotage::on(Rule::AcknowledgesAfterClose) {
            return Err(StoreError::ReadOnly { why: "it has been closed".into() });
        }
        self.check()
    }

    fn take_poisoned(&self, inner: &mut Inner, why: &str) -> Vec<(OnDurable, Result<()>)> {
        let why = self.poison.get_or_init(|| why.to_string()).clone();
        self.metrics.poison.poisoned.set(1);
        let error = StoreError::Poisoned { why };
        inner.callbacks.drain(..).map(|(_, done)| (done, Err(error.clone()))).collect()
    }
}

/// The position of an LSN in a chain of blocks that holds it. Where a block begins there, it is the end of the one before: that may hold local records that were appended at this LSN, as may blocks of
/// nothing else, which end where they begin. Those of earlier mounts tell of what this one knew when it froze, and would keep their cuts.
fn start_in<'a>(
    ring: &RingGeometry,
    chain: impl DoubleEndedIterator<Item = &'a ChainBlock>,
    lsn: Lsn,
) -> Option<StartPosition> {
    let mut before = chain.rev().skip_while(|block| block.first_lsn > lsn);
    let mut block = before.next()?;
    while block.first_lsn == lsn {
        let Some(earlier) = before.next().filter(|earlier| earlier.generation == block.generation) else { break };
        block = earlier;
    }
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
