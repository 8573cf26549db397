//! Group commit without a timer: whoever needs durability leads a group, or waits for the one that is running.
//!
//! ```text
//! lead: frame all that waits -> submit -> wait for the blocks and for the data named before `wanted` -> FLUSH -> durable, watermark, waiters
//! ```
//! While a group runs, others append; the next group takes them all. What a flush covers is fixed *before* it begins: the blocks that had completed, up to the
//! first record whose data had not. A watermark in a block is never more than that, so recovery may take it for a promise.
//!
//! With durable writes ([`super::Config::durable_writes`]) a completed block is durable, and so is data written durably: the flush is left out unless a record covered by the
//! group names other data, or somebody wants a barrier. Where it is known beforehand that a flush follows, blocks are written without that, and then it does follow.
//!
//! Data that was written elsewhere ([`crate::space`]) completes after its RELOCATED record was appended; that record must not be less durable than what rests on it. So what is
//! covered is fixed first, then the local records that wait are framed and written, also those that others framed meanwhile, and then comes the flush.

use super::line::{self, Call, Line};
use super::ring::RingGeometry;
use super::room::Payer;
use super::staging::{Body, Staging};
use super::{BARRIER_DATA_BYTES, BARRIER_MS, ChainBlock, Inner, QUIET_MS, UNFLUSHED_BYTES_MAX, Wal};
use crate::StoreError;
use crate::device::{Ticket, Write};
use crate::mutant::{self, Mutant};
use crate::sabotage::{self, Rule};
use crate::store::{OnDurable, Result};
use crate::sync::MutexGuard;
use crate::sync::atomic::Ordering;
use envoyfs_layout::Lsn;
use envoyfs_layout::directory_page::Bounds;
use envoyfs_layout::wal::{BLOCK_HEADER_BYTES, BlockHeader, Closed, kind};

/// Longest single write of blocks.
const RUN_BYTES_MAX: usize = 1 << 20;
/// Blocks up to so many bytes may wait for the leader, who writes them himself.
const LAZY_BYTES_MAX: usize = 64 << 10;
/// Longest that a leader waits for others to come in.
const GATHER_NS_MAX: u64 = 100_000;
/// How often he looks, for clocks that stand still.
const GATHER_LOOKS_MAX: u32 = 500;

/// Why the committer should act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// A group, at once.
    Group,
    /// A watermark block.
    Watermark,
    /// Nothing while a group runs.
    AfterGroup,
    /// Nothing before this many milliseconds from now; `None`: until something is appended.
    Later(Option<u64>),
}

/// Who frames: one at a time.
#[derive(Debug)]
pub(super) struct Submitter {
    /// Records are known to be whole up to here.
    published: Lsn,
    /// Start of the first record that has no byte in a block yet, or whose first byte is the next one.
    next_start: Lsn,
    /// Writes not yet waited for.
    writes: Vec<Ticket>,
    /// Records that started in a block since they were last counted.
    started: u64,
    /// Of the writes since they were last waited for, one is durable only by a flush that begins when it has completed.
    needs_flush: bool,
}

impl Submitter {
    pub(super) const fn new(next: Lsn) -> Self {
        Self { published: next, next_start: next, writes: Vec::new(), started: 0, needs_flush: false }
    }

    /// LSN of the first record that starts in `from..end`. Moves on to the first that starts at `end` or later.
    fn first_start(&mut self, staging: &Staging, from: Lsn, end: Lsn) -> Option<Lsn> {
        let first = self.next_start;
        while self.next_start < end {
            self.started = self.started.saturating_add(1);
            self.next_start = Lsn(self.next_start.0.saturating_add(staging.record_at(self.next_start).max(8)));
        }
        (first >= from && first < end).then_some(first)
    }
}

/// A block that has its sequence, but no bytes yet.
struct Planned {
    header: BlockHeader,
    body: Body,
}

/// What waits, cut into blocks.
enum Plan {
    Blocks(Vec<Planned>),
    /// A record that was drawn is still being copied, and the ring has no block to spare for framing without it, or a local record stands behind it.
    Tight,
}

impl Inner {
    /// Committers that wait.
    fn joined(&self) -> usize {
        self.line.waiting().saturating_add(self.callbacks.len())
    }
}

impl Wal {
    /// Waits until everything before `lsn` is durable.
    ///
    /// # Errors
    /// Poisoned, before or while waiting.
    pub fn commit(&self, lsn: Lsn) -> Result<()> {
        let _timing = self.metrics.time(&self.metrics.log.commit);
        let lsn = lsn.min(self.staging.end());
        loop {
            self.check()?;
            if self.durable() >= lsn {
                return Ok(());
            }
            self.check_open()?;
            let mut inner = self.inner.lock();
            inner.wanted = inner.wanted.max(lsn);
            if self.check_open().is_err() || inner.durable >= lsn {
                continue;
            }
            if !inner.line.is_led() {
                self.lead(inner, false);
                continue;
            }
            let seat = inner.line.sit(lsn);
            self.levels.joined.store(inner.joined(), Ordering::Relaxed);
            drop(inner);
            if seat.wait() == Call::Released {
                return Ok(());
            }
        }
    }

    /// Calls `done` when everything before `lsn` is durable, or the log is poisoned; at once if it is. The committer, or [`Wal::pump`], does the work.
    pub fn on_durable(&self, lsn: Lsn, done: OnDurable) {
        let lsn = lsn.min(self.staging.end());
        let mut inner = self.inner.lock();
        let now = match self.check() {
            Err(error) => Err(error),
            Ok(()) if inner.durable >= lsn => Ok(()),
            Ok(()) if self.check_open().is_err() => self.check_open(),
            Ok(()) => {
                inner.wanted = inner.wanted.max(lsn);
                inner.callbacks.push((lsn, done));
                self.levels.joined.store(inner.joined(), Ordering::Relaxed);
                drop(inner);
                if !mutant::on(Mutant::CallbackSilently) {
                    self.wake.notify_one();
                }
                return;
            }
        };
        drop(inner);
        done(now);
    }

    /// A flush that begins after this call: every device write that has completed is durable when it returns, and every record appended before the call.
    ///
    /// # Errors
    /// Poisoned.
    pub fn barrier(&self) -> Result<()> {
        self.metrics.log.barriers.increment();
        let _timing = self.metrics.time(&self.metrics.log.barrier);
        let mut inner = self.inner.lock();
        let target = self.staging.end();
        inner.wanted = inner.wanted.max(target);
        inner.flush_wanted = true;
        let group = inner.groups_started.saturating_add(1);
        loop {
            self.check_open()?;
            if inner.groups_done >= group && inner.durable >= target {
                return Ok(());
            }
            self.lead_or_wait(inner);
            inner = self.inner.lock();
        }
    }

    /// Gives everything that waits its block and submits it, without a flush: afterwards [`Wal::start_of`] knows every LSN appended before the call.
    ///
    /// # Errors
    /// Poisoned.
    pub fn frame(&self) -> Result<()> {
        let target = self.staging.end();
        loop {
            self.submit_waiting(false, target, true)?;
            let inner = self.inner.lock();
            self.check()?;
            if self.staging.framed() >= target {
                return Ok(());
            }
            // Too much since the last flush: a group makes room for more.
            self.lead_or_wait(inner);
        }
    }

    /// Makes room in the memory for records: writes blocks, and if too much is un-flushed for that, runs a group or waits for one.
    pub(super) fn relieve(&self) -> Result<()> {
        let before = self.staging.consumed();
        self.submit_waiting(false, Lsn(0), true)?;
        if self.staging.consumed() == before {
            self.lead_or_wait(self.inner.lock());
        }
        self.check()
    }

    /// Waits until the data named by records before `before` has completed. A failure poisons.
    ///
    /// # Errors
    /// Poisoned, also by this.
    pub fn wait_data(&self, before: Lsn) -> Result<()> {
        for write in self.writes_before(before) {
            if let Err(error) = write.wait() {
                let why = format!("a data write named by the log failed: {error}");
                self.poison(&why);
                return Err(StoreError::Poisoned { why });
            }
        }
        self.check()
    }

    /// Does everything that is due, also by the clock, until nothing is. For stores without a committer thread.
    ///
    /// # Errors
    /// Poisoned.
    pub fn pump(&self) -> Result<()> {
        loop {
            let inner = self.inner.lock();
            self.check()?;
            if self.check_open().is_err() {
                return Ok(());
            }
            match self.due(&inner) {
                Due::Later(_) | Due::AfterGroup => return Ok(()),
                due => self.lead(inner, due == Due::Watermark),
            }
        }
    }

    /// Says that nothing is appended any more, and writes and flushes a watermark block at once, unless the ring is so full that it would take from the reserve. For the end of a mount: from
    /// here on nothing is appended or acknowledged; whoever still waits for what is not durable is told so. `numbers`, asked after that: the ruling superblock's sequence, and the numbers that were
    /// not handed out.
    ///
    /// # Errors
    /// Poisoned, or closed before.
    pub fn close(&self, numbers: impl FnOnce() -> (u64, Bounds)) -> Result<()> {
        self.check_open()?;
        self.levels.closed.store(true, Ordering::SeqCst);
        let result = self.write_end(numbers);
        self.tell_the_rest();
        result
    }

    fn write_end(&self, numbers: impl FnOnce() -> (u64, Bounds)) -> Result<()> {
        let (superblock, next) = numbers();
        let inner = self.unled();
        self.check()?;
        // An append that began before may still come: then there is more to read than CLOSED would say, and nobody is told that it is durable.
        if self.is_all_durable(&inner) && self.room().free_blocks() > 1 {
            drop(inner);
            let closed = Closed { hlc: self.last_hlc(), superblock, next };
            self.put_local(Payer::Reserve, kind::CLOSED, &closed.encode())?;
            let mut inner = self.unled();
            inner.flush_wanted = true;
            self.lead(inner, true);
        } else if inner.watermark < inner.durable && self.room().free_blocks() > 0 {
            self.lead(inner, true);
        }
        self.check()
    }

    /// There will be no more groups. Who comes later sees with the lock held that the log is closed; who came before is answered here, or wakes and sees it.
    fn tell_the_rest(&self) {
        if mutant::on(Mutant::ClosedSilently) {
            return;
        }
        let (calls, waiting, durable) = {
            let mut inner = self.inner.lock();
            (inner.line.call_all(), std::mem::take(&mut inner.callbacks), inner.durable)
        };
        line::call(calls);
        let told = |lsn: Lsn| if lsn <= durable { Ok(()) } else { self.check_open() };
        super::answer(waiting.into_iter().map(|(lsn, done)| (done, told(lsn))).collect());
    }

    /// The lock, while nobody leads.
    fn unled(&self) -> MutexGuard<'_, Inner> {
        loop {
            let mut inner = self.inner.lock();
            if !inner.line.is_led() {
                return inner;
            }
            let seat = inner.line.sit(Line::NEXT_GROUP);
            drop(inner);
            seat.wait();
        }
    }

    /// Runs a group here, or waits for the end of the running one.
    fn lead_or_wait(&self, mut inner: MutexGuard<'_, Inner>) {
        if inner.line.is_led() {
            let seat = inner.line.sit(Line::NEXT_GROUP);
            drop(inner);
            seat.wait();
        } else {
            self.lead(inner, false);
        }
    }

    /// Runs one group; nobody leads.
    pub(super) fn lead(&self, mut inner: MutexGuard<'_, Inner>, watermark: bool) {
        inner.line.lead();
        let expected = inner.line.expected();
        drop(inner);
        if !watermark {
            let gathering = self.metrics.time(&self.metrics.log.group_gather);
            self.gather(expected);
            gathering.stop();
        }
        let mut inner = self.inner.lock();
        inner.groups_started = inner.groups_started.saturating_add(1);
        let wanted = inner.wanted;
        let flush = std::mem::take(&mut inner.flush_wanted);
        let began_ms = self.clock.monotonic_ms();
        drop(inner);
        self.metrics.log.groups.increment();
        let timing = self.metrics.time(&self.metrics.log.group);
        let began_ns = self.metrics.now_ns();
        let result = self.group(wanted, watermark, flush);
        timing.stop();
        self.levels.group_ns.store(self.metrics.now_ns().saturating_sub(began_ns), Ordering::Relaxed);
        let mut inner = self.inner.lock();
        inner.groups_done = inner.groups_started;
        let callbacks = match result {
            Ok(durable) => self.advance(&mut inner, durable, began_ms),
            Err(why) => self.take_poisoned(&mut inner, &why),
        };
        // This thread is one more, if it leads for itself.
        let others = callbacks.len().saturating_add(inner.callbacks.len()).saturating_add(1);
        let durable = inner.durable;
        let mut calls = inner.line.end(durable, others);
        if self.poison.get().is_some() {
            calls.append(&mut inner.line.call_all());
        }
        self.levels.joined.store(inner.joined(), Ordering::Relaxed);
        let is_due = !inner.callbacks.is_empty() || self.is_barrier_by_size(&inner);
        drop(inner);
        line::call(calls);
        if is_due && !mutant::on(Mutant::GroupEndsSilently) {
            self.wake.notify_one();
        }
        super::answer(callbacks);
    }

    /// Lets those who were in the last groups come in, if they are quick: a group costs the same for all of them as for one. Not longer than a quarter of what it costs.
    fn gather(&self, expected: usize) {
        let limit_ns = (self.levels.group_ns.load(Ordering::Relaxed) / 4).min(GATHER_NS_MAX);
        let began_ns = self.metrics.now_ns();
        for _ in 0..GATHER_LOOKS_MAX {
            // The leader is one of them.
            if self.levels.joined.load(Ordering::Relaxed).saturating_add(1) >= expected
                || self.metrics.now_ns().saturating_sub(began_ns) >= limit_ns
            {
                return;
            }
            crate::sync::thread::yield_now();
        }
    }

    /// The IO of one group; returns what is durable now.
    fn group(&self, wanted: Lsn, watermark: bool, flush: bool) -> std::result::Result<Lsn, String> {
        let will_flush = flush || self.names_bulk();
        let framed = self.submit_waiting(watermark, wanted, will_flush).map_err(|error| error.to_string())?;
        let mut flush = flush | self.wait_blocks()?;
        let waiting = self.metrics.time(&self.metrics.log.group_data);
        for write in self.writes_before(wanted).into_iter().filter(|_| !sabotage::on(Rule::AckBeforeData)) {
            write.wait().map_err(|error| format!("a data write named by the log failed: {error}"))?;
        }
        waiting.stop();
        let covered = {
            let mut inner = self.inner.lock();
            let (incomplete, bulk) = self.first_incomplete()?;
            let incomplete = incomplete.filter(|_| !sabotage::on(Rule::AckBeforeData));
            // What others submit from here on is not covered: at most twice the limit is ever un-flushed.
            inner.unflushed_blocks = 0;
            self.levels.named_bytes.store(0, Ordering::Relaxed);
            inner.bulk_unflushed |= bulk;
            let bulk = std::mem::take(&mut inner.bulk_unflushed);
            flush |= bulk || !self.config.durable_writes;
            incomplete.map_or(framed, |first| first.min(framed))
        };
        if self.levels.local_bytes.load(Ordering::Acquire) > 0 && !sabotage::on(Rule::MovedNotFramed) {
            self.submit_waiting(false, self.staging.end(), flush).map_err(|error| error.to_string())?;
        }
        // Also if there are none: others may have framed them since, and a lazy write is nobody's but the leader's.
        flush |= self.wait_blocks()?;
        if flush && !sabotage::on(Rule::AckWithoutFlush) {
            let flushing = self.metrics.time(&self.metrics.log.group_flush);
            self.device.flush().map_err(|error| format!("a flush failed: {error}"))?;
            flushing.stop();
        }
        if sabotage::on(Rule::AckOfLaterRecords) {
            return Ok(self.end());
        }
        Ok(covered)
    }

    /// Waits for the blocks submitted so far. True: a flush has to follow, of whoever asked.
    fn wait_blocks(&self) -> std::result::Result<bool, String> {
        let (blocks, needs_flush) = {
            let mut submitter = self.submitter.lock();
            (std::mem::take(&mut submitter.writes), std::mem::take(&mut submitter.needs_flush))
        };
        blocks
            .into_iter()
            .try_for_each(|block| block.wait().map_err(|error| format!("a write to the log failed: {error}")))?;
        Ok(needs_flush && !sabotage::on(Rule::PlainBlocksForgotten))
    }

    /// Whether a record names data that is durable only by a flush. What is named later than this looks may be missed: then blocks are written durably for nothing.
    fn names_bulk(&self) -> bool {
        self.named.lock().values().flatten().any(|write| !write.is_durable())
    }

    /// Frames what is whole (at most [`UNFLUSHED_BYTES_MAX`] since the last flush) and submits it; with `watermark`, a block even if nothing waits. Waits until the
    /// records before `target` are whole: their appenders are copying them, and wait for nothing. `flushed`: a flush follows in any case, so that the blocks need not be durable by themselves;
    /// the next group sees to it. Returns the LSN up to which everything is submitted.
    fn submit_waiting(&self, watermark: bool, target: Lsn, flushed: bool) -> Result<Lsn> {
        let mut submitter = self.submitter.lock();
        let planned = loop {
            self.check()?;
            submitter.published = self.staging.published(submitter.published);
            if submitter.published < target {
                crate::sync::thread::yield_now();
                continue;
            }
            let plan = self.plan(&mut self.inner.lock(), submitter.published, watermark);
            match plan {
                Ok(Plan::Blocks(planned)) => break planned,
                Ok(Plan::Tight) => crate::sync::thread::yield_now(),
                Err(why) => {
                    drop(submitter);
                    self.poison(&why);
                    return Err(StoreError::Poisoned { why });
                }
            }
        };
        let framed = self.staging.framed();
        let log = &self.metrics.log;
        log.staged_bytes.set(self.staging.end().0.saturating_sub(self.staging.consumed().0));
        log.record_bytes.add(framed.0.saturating_sub(self.staging.consumed().0));
        let ring = &self.config.ring;
        let run_blocks = (RUN_BYTES_MAX / ring.block_len().max(1)).max(1);
        let mut rest = planned.as_slice();
        while let Some(first) = rest.first() {
            // Blocks that lie one behind the other go in one write.
            let start = ring.position(first.header.sequence);
            let to_end = ring.blocks.saturating_sub(ring.ring_block(first.header.sequence));
            let count = rest.len().min(run_blocks).min(usize::try_from(to_end).unwrap_or(usize::MAX)).max(1);
            let (run, later) = rest.split_at(count);
            let length = count.saturating_mul(ring.block_len());
            let mut buf = self.device.buffers().take(length);
            for (planned, block) in run.iter().zip(buf.as_mut_slice().chunks_exact_mut(ring.block_len())) {
                self.fill(&mut submitter, planned, block, ring);
            }
            let write = Write::part(start, buf, 0..length);
            let durable = self.config.durable_writes && !flushed;
            submitter.needs_flush |= !durable;
            let write = if durable { write.durable() } else { write };
            let write = if length <= LAZY_BYTES_MAX { write.lazy() } else { write };
            submitter.writes.push(self.device.submit(write));
            rest = later;
        }
        log.records.add(std::mem::take(&mut submitter.started));
        Ok(framed)
    }

    /// Cuts what is whole into blocks and gives them sequences. Appends go on; admission does not, so that nothing is promised from a count that is changing.
    fn plan(&self, inner: &mut Inner, published: Lsn, watermark: bool) -> std::result::Result<Plan, String> {
        let ring = &self.config.ring;
        let limit = UNFLUSHED_BYTES_MAX / u64::from(ring.block_bytes.max(1));
        let _admission = self.admission.lock();
        if published < self.staging.end() && self.room().free_blocks() == 0 {
            return Ok(Plan::Tight);
        }
        let mut locals = self.locals.lock();
        if locals.last().is_some_and(|at| at > published) {
            // It stands behind a record that somebody is still copying, who waits for nothing.
            return Ok(Plan::Tight);
        }
        let mut blocks = Vec::new();
        let mut wanted = watermark;
        let mut at = self.staging.framed();
        while (wanted || at < published || !locals.is_empty()) && inner.unflushed_blocks < limit {
            wanted = false;
            if inner.used_blocks() >= ring.blocks {
                return Err("the log ring is full: room was promised that it does not have".to_string());
            }
            let body = locals.next_body(at, published, ring.capacity());
            let local_bytes = u32::try_from(body.local.len()).unwrap_or(u32::MAX);
            let shared_offset = HEADER_BYTES.saturating_add(local_bytes);
            let behind = Lsn(body.first_lsn.0.saturating_add(body.shared_bytes.into()));
            let durable = if sabotage::on(Rule::WatermarkAheadOfFlush) { behind } else { inner.durable };
            let header = BlockHeader {
                used_bytes: shared_offset.saturating_add(body.shared_bytes),
                local_bytes,
                volume: ring.volume,
                sequence: inner.next_sequence,
                first_lsn: body.first_lsn,
                writer_epoch: self.config.writer_epoch,
                generation: inner.generation,
                durable,
                committed: durable,
                stream_hash: 0,
                first_record: 0,
            };
            inner.watermark = inner.durable;
            if body.shared_bytes == 0 && body.local.is_empty() {
                self.metrics.log.watermark_blocks.increment();
            }
            inner.chain.push_back(ChainBlock {
                sequence: header.sequence,
                generation: header.generation,
                first_lsn: header.first_lsn,
                shared_offset,
            });
            inner.next_sequence = inner.next_sequence.saturating_add(1);
            inner.unflushed_blocks = inner.unflushed_blocks.saturating_add(1);
            at = Lsn(at.0.saturating_add(body.shared_bytes.into()));
            blocks.push(Planned { header, body });
        }
        let log = &self.metrics.log;
        log.blocks.add(blocks.len() as u64);
        log.block_bytes.add(ring.bytes(blocks.len() as u64));
        log.used_blocks.set(inner.used_blocks());
        // In this order: whoever counts without the lock counts twice rather than not at all.
        self.levels.used_blocks.store(inner.used_blocks(), Ordering::Release);
        self.staging.frame(at);
        self.levels.local_bytes.store(locals.bytes(), Ordering::Release);
        Ok(Plan::Blocks(blocks))
    }

    /// Makes the block: local records, shared bytes out of the ring, zeros, header, checksum.
    fn fill(&self, submitter: &mut Submitter, planned: &Planned, block: &mut [u8], ring: &RingGeometry) {
        let body = &planned.body;
        let end = Lsn(body.first_lsn.0.saturating_add(body.shared_bytes.into()));
        let shared_offset = HEADER_BYTES.saturating_add(planned.header.local_bytes);
        let first = submitter.first_start(&self.staging, body.first_lsn, end);
        let within = first.map(|first| u32::try_from(first.0.saturating_sub(body.first_lsn.0)).unwrap_or(0));
        let header = BlockHeader {
            first_record: within.map_or(0, |within| shared_offset.saturating_add(within)),
            ..planned.header
        };
        let (_, room) = block.split_at_mut(BLOCK_HEADER_BYTES.min(block.len()));
        let (local, room) = room.split_at_mut(body.local.len().min(room.len()));
        local.copy_from_slice(body.local.get(..local.len()).unwrap_or_default());
        let shared_bytes = usize::try_from(body.shared_bytes).unwrap_or(usize::MAX);
        let (shared, rest) = room.split_at_mut(shared_bytes.min(room.len()));
        self.staging.take(body.first_lsn, shared);
        rest.fill(0);
        header.seal(block, &ring.seed, ring.position(header.sequence));
    }

    /// The writes that records before an LSN name.
    fn writes_before(&self, before: Lsn) -> Vec<Ticket> {
        self.named.lock().range(..before).flat_map(|(_, writes)| writes.iter().cloned()).collect()
    }

    /// The first record whose data has not completed; forgets those before it, and says whether data of any of them was not written durably. A failed write is an error.
    fn first_incomplete(&self) -> std::result::Result<(Option<Lsn>, bool), String> {
        let mut named = self.named.lock();
        let mut bulk = false;
        while let Some(entry) = named.first_entry() {
            for write in entry.get() {
                match write.outcome() {
                    None => return Ok((Some(*entry.key()), bulk)),
                    Some(Err(error)) => return Err(format!("a data write named by the log failed: {error}")),
                    Some(Ok(())) => {}
                }
            }
            bulk |= entry.remove().iter().any(|write| !write.is_durable());
        }
        Ok((None, bulk))
    }

    /// A flush completed that covered everything before `durable`.
    fn advance(&self, inner: &mut Inner, durable: Lsn, began_ms: u64) -> Vec<(OnDurable, Result<()>)> {
        if self.poison.get().is_some() && !sabotage::on(Rule::PoisonForgotten) {
            return self.take_poisoned(inner, "");
        }
        inner.durable = inner.durable.max(durable);
        self.levels.durable.store(inner.durable.0, Ordering::Release);
        let since = if self.is_all_durable(inner) { 0 } else { began_ms.saturating_add(1) };
        self.levels.waiting_since.store(since, Ordering::Relaxed);
        let reached = inner.durable;
        let (done, waiting) = std::mem::take(&mut inner.callbacks).into_iter().partition(|(lsn, _)| *lsn <= reached);
        inner.callbacks = waiting;
        done.into_iter().map(|(_, done): (Lsn, OnDurable)| (done, Ok(()))).collect()
    }

    fn is_all_durable(&self, inner: &Inner) -> bool {
        inner.durable >= self.staging.end() && self.levels.local_bytes.load(Ordering::Acquire) == 0
    }

    /// What a committer with nothing else to do should do now.
    pub(super) fn due(&self, inner: &Inner) -> Due {
        if self.poison.get().is_some() {
            return Due::Later(None);
        }
        if inner.line.is_led() {
            return Due::AfterGroup;
        }
        if inner.wanted > inner.durable || self.is_barrier_by_size(inner) {
            return Due::Group;
        }
        let now = self.clock.monotonic_ms();
        let after = |since: u64, wait: u64| since.saturating_add(wait).saturating_sub(now);
        // An append that ran beside the end of a group may have left the hint empty.
        let hint = self.levels.waiting_since.load(Ordering::Relaxed);
        if hint == 0 && !self.is_all_durable(inner) {
            self.levels.waiting_since.store(now.saturating_add(1), Ordering::Relaxed);
        }
        let barrier = match self.levels.waiting_since.load(Ordering::Relaxed) {
            0 => None,
            since => Some(after(since.saturating_sub(1), BARRIER_MS)),
        };
        if barrier == Some(0) {
            return Due::Group;
        }
        // Never from the reserve: a watermark may be missing, a checkpoint may not.
        let waits = inner.durable > inner.watermark && self.staging.framed() >= self.staging.end();
        let watermark = (waits && self.room().free_blocks() > 0)
            .then(|| after(self.levels.last_append_ms.load(Ordering::Relaxed), QUIET_MS));
        if watermark == Some(0) {
            return Due::Watermark;
        }
        Due::Later([barrier, watermark].into_iter().flatten().min())
    }

    fn is_barrier_by_size(&self, inner: &Inner) -> bool {
        let ring = &self.config.ring;
        let staged = self.staging.end().0.saturating_sub(self.staging.framed().0);
        let unflushed = ring.bytes(inner.unflushed_blocks.saturating_add(ring.blocks_for(staged)));
        unflushed >= UNFLUSHED_BYTES_MAX / 2
            || staged >= self.staging.capacity() / 2
            || self.levels.named_bytes.load(Ordering::Relaxed) >= BARRIER_DATA_BYTES
    }
}

/// As the header says.
const HEADER_BYTES: u32 = 80;
const _: () = assert!(HEADER_BYTES as usize == BLOCK_HEADER_BYTES);
