//! Group commit without a timer: whoever needs durability leads a group, or waits for the one that is running.
//!
//! ```text
//! lead: frame all that waits -> submit -> wait for the blocks and for the data named before `wanted` -> FLUSH -> durable, watermark, waiters
//! ```
//! While a group runs, others append; the next group takes them all. What a flush covers is fixed *before* it begins: the blocks that had completed, up to the
//! first record whose data had not. A watermark in a block is never more than that, so recovery may take it for a promise.

use super::staging::Body;
use super::{BARRIER_MS, ChainBlock, Inner, QUIET_MS, UNFLUSHED_BYTES_MAX, Wal};
use crate::StoreError;
use crate::device::{Ticket, Write};
use crate::store::{OnDurable, Result};
use envoyfs_layout::Lsn;
use envoyfs_layout::wal::BlockHeader;
use parking_lot::MutexGuard;
use std::sync::Arc;

/// Longest single write of blocks.
const RUN_BYTES_MAX: usize = 1 << 20;

/// Why the committer should act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// A group, at once.
    Group,
    /// A watermark block.
    Watermark,
    /// Nothing before this many milliseconds from now; `None`: until something is appended.
    Later(Option<u64>),
}

struct Framed {
    header: BlockHeader,
    body: Body,
}

impl Wal {
    /// Waits until everything before `lsn` is durable.
    ///
    /// # Errors
    /// Poisoned, before or while waiting.
    pub fn commit(&self, lsn: Lsn) -> Result<()> {
        let _timing = self.metrics.time(&self.metrics.log.commit);
        let mut inner = self.inner.lock();
        let lsn = lsn.min(inner.staging.end());
        inner.wanted = inner.wanted.max(lsn);
        loop {
            inner.check()?;
            if inner.durable >= lsn {
                return Ok(());
            }
            inner = self.lead_or_wait(inner);
        }
    }

    /// Calls `done` when everything before `lsn` is durable, or the log is poisoned; at once if it is. The committer, or [`Wal::pump`], does the work.
    pub fn on_durable(&self, lsn: Lsn, done: OnDurable) {
        let mut inner = self.inner.lock();
        let lsn = lsn.min(inner.staging.end());
        let now = match inner.check() {
            Err(error) => Err(error),
            Ok(()) if inner.durable >= lsn => Ok(()),
            Ok(()) => {
                inner.wanted = inner.wanted.max(lsn);
                inner.callbacks.push((lsn, done));
                drop(inner);
                self.wake.notify_one();
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
        let target = inner.staging.end();
        inner.wanted = inner.wanted.max(target);
        let group = inner.groups_started.saturating_add(1);
        loop {
            inner.check()?;
            if inner.groups_done >= group && inner.durable >= target {
                return Ok(());
            }
            inner = self.lead_or_wait(inner);
        }
    }

    /// Gives everything that waits its block and submits it, without a flush: afterwards [`Wal::start_of`] knows every LSN appended before the call.
    ///
    /// # Errors
    /// Poisoned.
    pub fn frame(&self) -> Result<()> {
        let target = self.inner.lock().staging.end();
        loop {
            self.submit_waiting(false)?;
            let mut inner = self.inner.lock();
            inner.check()?;
            if inner.staging.framed() >= target {
                return Ok(());
            }
            // Too much since the last flush: a group makes room for more.
            inner = self.lead_or_wait(inner);
            drop(inner);
        }
    }

    /// Waits until the data named by records before `before` has completed. A failure poisons.
    ///
    /// # Errors
    /// Poisoned, also by this.
    pub fn wait_data(&self, before: Lsn) -> Result<()> {
        let writes = self.inner.lock().writes_before(before);
        for write in writes {
            if let Err(error) = write.wait() {
                let why = format!("a data write named by the log failed: {error}");
                self.poison(&why);
                return Err(StoreError::Poisoned { why });
            }
        }
        self.inner.lock().check()
    }

    /// Does everything that is due, also by the clock, until nothing is. For stores without a committer thread.
    ///
    /// # Errors
    /// Poisoned.
    pub fn pump(&self) -> Result<()> {
        loop {
            let inner = self.inner.lock();
            inner.check()?;
            match inner.due(self) {
                Due::Later(_) => return Ok(()),
                due => drop(self.lead(inner, due == Due::Watermark)),
            }
        }
    }

    /// Writes and flushes a watermark block at once, unless the ring is so full that it would take from the reserve. For the end of a mount.
    ///
    /// # Errors
    /// Poisoned.
    pub fn write_watermark(&self) -> Result<()> {
        let mut inner = self.inner.lock();
        while inner.running {
            self.changed.wait(&mut inner);
        }
        inner.check()?;
        if inner.watermark < inner.durable && inner.room(&self.config).free_blocks() > 0 {
            inner = self.lead(inner, true);
        }
        inner.check()
    }

    /// Runs a group here, or waits for what the running one changes.
    fn lead_or_wait<'a>(&'a self, mut inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        if inner.running {
            self.changed.wait(&mut inner);
            inner
        } else {
            self.lead(inner, false)
        }
    }

    /// Runs one group; `inner.running` is false.
    pub(super) fn lead<'a>(&'a self, mut inner: MutexGuard<'a, Inner>, watermark: bool) -> MutexGuard<'a, Inner> {
        inner.running = true;
        inner.groups_started = inner.groups_started.saturating_add(1);
        let wanted = inner.wanted;
        let began_ms = self.clock.monotonic_ms();
        drop(inner);
        self.metrics.log.groups.increment();
        let timing = self.metrics.time(&self.metrics.log.group);
        let result = self.group(wanted, watermark);
        timing.stop();
        let mut inner = self.inner.lock();
        inner.running = false;
        inner.groups_done = inner.groups_started;
        let callbacks = match result {
            Ok(durable) => inner.advance(durable, began_ms),
            Err(why) => {
                self.metrics.poison.poisoned.set(1);
                inner.poison(&why)
            }
        };
        self.changed.notify_all();
        if inner.committer_idle || !inner.callbacks.is_empty() {
            self.wake.notify_one();
        }
        if callbacks.is_empty() {
            return inner;
        }
        drop(inner);
        super::answer(callbacks);
        self.inner.lock()
    }

    /// The IO of one group; returns what is durable now.
    fn group(&self, wanted: Lsn, watermark: bool) -> std::result::Result<Lsn, String> {
        let framed = self.submit_waiting(watermark).map_err(|error| error.to_string())?;
        let blocks = std::mem::take(&mut *self.submitter.lock());
        for block in blocks {
            block.wait().map_err(|error| format!("a write to the log failed: {error}"))?;
        }
        let data = self.inner.lock().writes_before(wanted);
        let waiting = self.metrics.time(&self.metrics.log.group_data);
        for write in data {
            write.wait().map_err(|error| format!("a data write named by the log failed: {error}"))?;
        }
        waiting.stop();
        let covered = {
            let mut inner = self.inner.lock();
            let covered = inner.first_incomplete()?.map_or(framed, |first| first.min(framed));
            // What others submit from here on is not covered: at most twice the limit is ever un-flushed.
            inner.unflushed_blocks = 0;
            inner.named_bytes = 0;
            covered
        };
        let flushing = self.metrics.time(&self.metrics.log.group_flush);
        self.device.flush().map_err(|error| format!("a flush failed: {error}"))?;
        flushing.stop();
        Ok(covered)
    }

    /// Frames what waits (at most [`UNFLUSHED_BYTES_MAX`] since the last flush) and submits it; with `watermark`, a block even if nothing waits. Returns the LSN
    /// up to which everything is submitted.
    fn submit_waiting(&self, watermark: bool) -> Result<Lsn> {
        let mut submitted = self.submitter.lock();
        let (blocks, framed) = {
            let mut inner = self.inner.lock();
            inner.check()?;
            let blocks = self.take_blocks(&mut inner, watermark);
            (blocks, inner.staging.framed())
        };
        let blocks = match blocks {
            Ok(blocks) => blocks,
            Err(why) => {
                self.poison(&why);
                return Err(StoreError::Poisoned { why });
            }
        };
        let ring = &self.config.ring;
        let run_blocks = (RUN_BYTES_MAX / ring.block_len().max(1)).max(1);
        let mut rest = blocks.as_slice();
        while let Some(first) = rest.first() {
            // Blocks that lie one behind the other go in one write.
            let start = ring.position(first.header.sequence);
            let to_end = ring.blocks.saturating_sub(ring.ring_block(first.header.sequence));
            let count = rest.len().min(run_blocks).min(usize::try_from(to_end).unwrap_or(usize::MAX)).max(1);
            let (run, later) = rest.split_at(count);
            let mut buf = self.device.buffers().take_zeroed(count.saturating_mul(ring.block_len()));
            let (filled, _) = buf.as_mut_slice().split_at_mut(count.saturating_mul(ring.block_len()));
            for (framed, block) in run.iter().zip(filled.chunks_exact_mut(ring.block_len())) {
                fill(framed, block);
                framed.header.seal(block, &ring.seed, ring.position(framed.header.sequence));
            }
            submitted.push(self.device.submit(Write::whole(start, Arc::new(buf))));
            rest = later;
        }
        Ok(framed)
    }

    /// Cuts what waits into blocks and gives them sequences.
    fn take_blocks(&self, inner: &mut Inner, watermark: bool) -> std::result::Result<Vec<Framed>, String> {
        let ring = &self.config.ring;
        let limit = UNFLUSHED_BYTES_MAX / u64::from(ring.block_bytes.max(1));
        let mut blocks = Vec::new();
        let mut wanted = watermark;
        while (wanted || !inner.staging.is_empty()) && inner.unflushed_blocks < limit {
            wanted = false;
            if inner.used_blocks() >= ring.blocks {
                return Err("the log ring is full: room was promised that it does not have".to_string());
            }
            let body = inner.staging.take(ring.capacity());
            let header = BlockHeader {
                used_bytes: body.used_bytes(),
                local_bytes: u32::try_from(body.local.len()).unwrap_or(u32::MAX),
                volume: ring.volume,
                sequence: inner.next_sequence,
                first_lsn: body.first_lsn,
                writer_epoch: self.config.writer_epoch,
                generation: inner.generation,
                durable: inner.durable,
                committed: inner.durable,
                stream_hash: 0,
                first_record: body.first_record,
            };
            inner.watermark = inner.durable;
            if body.shared.is_empty() && body.local.is_empty() {
                self.metrics.log.watermark_blocks.increment();
            }
            inner.chain.push_back(ChainBlock {
                sequence: header.sequence,
                generation: header.generation,
                first_lsn: header.first_lsn,
                shared_offset: body.shared_offset(),
            });
            inner.next_sequence = inner.next_sequence.saturating_add(1);
            inner.unflushed_blocks = inner.unflushed_blocks.saturating_add(1);
            blocks.push(Framed { header, body });
        }
        let log = &self.metrics.log;
        log.blocks.add(blocks.len() as u64);
        log.block_bytes.add(ring.bytes(blocks.len() as u64));
        log.used_blocks.set(inner.used_blocks());
        Ok(blocks)
    }
}

/// Puts a body behind the room for the header.
fn fill(framed: &Framed, block: &mut [u8]) {
    let bytes = framed.body.local.iter().chain(&framed.body.shared);
    let body = block.iter_mut().skip(envoyfs_layout::wal::BLOCK_HEADER_BYTES);
    for (to, from) in body.zip(bytes) {
        *to = *from;
    }
}

impl Inner {
    /// The writes that records before an LSN name.
    fn writes_before(&self, before: Lsn) -> Vec<Ticket> {
        let named = self.named.iter().take_while(|named| named.start < before);
        named.flat_map(|named| named.writes.iter().cloned()).collect()
    }

    /// The first record whose data has not completed; forgets those before it. A failed write is an error.
    fn first_incomplete(&mut self) -> std::result::Result<Option<Lsn>, String> {
        while let Some(named) = self.named.front() {
            for write in &named.writes {
                match write.outcome() {
                    None => return Ok(Some(named.start)),
                    Some(Err(error)) => return Err(format!("a data write named by the log failed: {error}")),
                    Some(Ok(())) => {}
                }
            }
            self.named.pop_front();
        }
        Ok(None)
    }

    /// A flush completed that covered everything before `durable`.
    fn advance(&mut self, durable: Lsn, began_ms: u64) -> Vec<(OnDurable, Result<()>)> {
        if self.poison.is_some() {
            return self.poison("");
        }
        self.durable = self.durable.max(durable);
        let all = self.durable >= self.staging.end() && self.staging.is_empty();
        self.waiting_since_ms = if all { None } else { Some(began_ms) };
        let reached = self.durable;
        let (done, waiting) = std::mem::take(&mut self.callbacks).into_iter().partition(|(lsn, _)| *lsn <= reached);
        self.callbacks = waiting;
        done.into_iter().map(|(_, done): (Lsn, OnDurable)| (done, Ok(()))).collect()
    }

    /// What a committer with nothing else to do should do now.
    pub(super) fn due(&self, wal: &Wal) -> Due {
        if self.running || self.poison.is_some() {
            return Due::Later(None);
        }
        if self.wanted > self.durable || self.is_barrier_by_size(&wal.config) {
            return Due::Group;
        }
        let now = wal.clock.monotonic_ms();
        let after = |since: u64, wait: u64| since.saturating_add(wait).saturating_sub(now);
        let barrier = self.waiting_since_ms.map(|since| after(since, BARRIER_MS));
        if barrier == Some(0) {
            return Due::Group;
        }
        // Never from the reserve: a watermark may be missing, a checkpoint may not.
        let room = self.room(&wal.config);
        let watermark = (self.durable > self.watermark && self.staging.is_empty() && room.free_blocks() > 0)
            .then(|| after(self.last_append_ms, QUIET_MS));
        if watermark == Some(0) {
            return Due::Watermark;
        }
        Due::Later([barrier, watermark].into_iter().flatten().min())
    }
}
