//! One clone of a job on one thread: keeps its depth full, paces, syncs, verifies, counts.

use super::job::{Direction, Job};
use super::log::Recorder;
use super::pattern::{Io, Sequence};
use super::queue::{Done, Queue, now};
use super::statistics::Statistics;
use super::verify::{self, Wrong};
use crate::output;
use anyhow::Result;
use envoyfs_engine::device::AlignedBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Wrong blocks of a clone that are told one by one.
const WRONG_LISTED_MAX: u64 = 100;

/// What stays between the rounds of one clone of a job.
pub struct JobThread {
    /// Where its IOs go.
    pub sequence: Sequence,
    /// Writes to each block of its region so far, with `verify`.
    written: Vec<u32>,
    region_start: u64,
    block: u64,
    /// Logs.
    pub recorder: Recorder,
}

impl JobThread {
    /// For a region of the disk.
    pub fn new(job: &Job, start: u64, region: u64, seed: u64) -> Self {
        let block = u64::from(job.block_least());
        let blocks = if job.verify { region / block } else { 0 };
        Self {
            sequence: Sequence::new(job, start, region, seed),
            written: vec![0; usize::try_from(blocks).unwrap_or(0)],
            region_start: start,
            block,
            recorder: Recorder::new(&job.logs),
        }
    }

    fn writes(&mut self, offset: u64) -> Option<&mut u32> {
        let block = (offset - self.region_start) / self.block;
        self.written.get_mut(usize::try_from(block).ok()?)
    }
}

/// An IO under way.
struct Slot {
    io: Io,
    called: Instant,
    started: Instant,
    /// Which write to its place it is or must be, with `verify`.
    sequence: Option<u32>,
}

/// A round of a clone.
pub struct Worker<'a> {
    /// What to do.
    pub job: &'a Job,
    /// How long; `None`: until the size is done.
    pub time: Option<Duration>,
    /// Not counted at the beginning.
    pub ramp: Duration,
    /// Somebody wants all to end.
    pub stop: &'a AtomicBool,
    /// Time of earlier rounds, for the logs.
    pub elapsed: Duration,
}

struct Run<'a, 'b> {
    worker: &'a Worker<'a>,
    thread: &'a mut JobThread,
    queue: &'b mut dyn Queue,
    statistics: Statistics,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    /// What the device may have to read at a time, if reads that have arrived do not count.
    device_bytes_max: Option<u64>,
    /// What it has to read.
    device_bytes: u64,
    read_buffers: Vec<AlignedBuf>,
    /// Counting since; later than the start by the ramp time.
    start: Instant,
    counting: bool,
    unsynced: u32,
    next_allowed: [Instant; 2],
    waiting: Option<(Io, Option<u32>)>,
    done: Vec<Done>,
}

impl Worker<'_> {
    /// Does the round; errors of IOs are in the statistics.
    ///
    /// # Errors
    /// What makes all further IO pointless.
    pub fn run(&self, thread: &mut JobThread, queue: &mut dyn Queue) -> Result<Statistics> {
        let unverified_max = if queue.verifies() { self.job.unverified_max() } else { 0 };
        let depth = (self.job.iodepth + unverified_max) as usize;
        let device_bytes_max = u64::from(self.job.iodepth) * u64::from(self.job.block_most());
        if self.job.rw.writes {
            queue.prepare(self.job.block_most() as usize);
        }
        let start = now();
        let mut run = Run {
            worker: self,
            thread,
            queue,
            statistics: Statistics::default(),
            slots: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            device_bytes_max: (unverified_max > 0).then_some(device_bytes_max),
            device_bytes: 0,
            read_buffers: Vec::new(),
            start,
            counting: self.ramp.is_zero(),
            unsynced: 0,
            next_allowed: [start; 2],
            waiting: None,
            done: Vec::new(),
        };
        run.go()?;
        run.statistics.runtime = run.start.elapsed();
        run.statistics.end_round();
        if self.job.verify && self.job.rw.writes && run.statistics.error.is_none() && !self.stop.load(Ordering::Relaxed)
        {
            run.read_back()?;
        }
        Ok(run.statistics)
    }
}

impl Run<'_, '_> {
    fn go(&mut self) -> Result<()> {
        let mut ended = false;
        loop {
            let time = now();
            if !self.counting && time - self.start >= self.worker.ramp {
                self.counting = true;
                self.statistics.end_ramp();
                self.start = time;
            }
            let over = self.counting && self.worker.time.is_some_and(|limit| time - self.start >= limit);
            ended |= over || self.worker.stop.load(Ordering::Relaxed) || self.statistics.error.is_some();
            if !ended && self.sync_is_due() {
                if self.under_way() == 0 {
                    self.sync()?;
                } else {
                    self.reap()?;
                }
                continue;
            }
            let (submitted, wait) = if ended { (0, None) } else { self.fill(time, &mut ended)? };
            if submitted > 0 {
                self.statistics.submitted(submitted, self.under_way());
            }
            if self.under_way() > 0 {
                if self.device_bytes_max.is_some() && !ended {
                    self.refill(&mut ended)?;
                }
                self.reap()?;
            } else if ended {
                break;
            } else if let Some(until) = wait {
                std::thread::park_timeout(until.saturating_duration_since(now()).min(Duration::from_millis(50)));
            }
        }
        // What is not durable has not been written: the last sync belongs to the job.
        if self.worker.job.rw.writes && self.unsynced > 0 && self.statistics.error.is_none() {
            self.queue.sync()?;
        }
        Ok(())
    }

    fn under_way(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn sync_is_due(&self) -> bool {
        self.worker.job.fsync > 0 && self.unsynced >= self.worker.job.fsync
    }

    /// Starts what may start; how many, and until when the next has to wait.
    fn fill(&mut self, time: Instant, ended: &mut bool) -> Result<(usize, Option<Instant>)> {
        let mut submitted = 0;
        while !self.sync_is_due() {
            let Some(tag) = self.free.last().copied() else { break };
            let next_bytes = u64::from(self.worker.job.block_most());
            if self.device_bytes_max.is_some_and(|most| self.device_bytes + next_bytes > most) {
                break;
            }
            let Some((io, sequence)) = self.waiting.take().or_else(|| self.next()) else {
                *ended = true;
                break;
            };
            if let Some(until) = self.not_before(io.direction).filter(|until| *until > time) {
                self.waiting = Some((io, sequence));
                return Ok((submitted, Some(until)));
            }
            // Which of two writes to a place is the last one would not be known.
            let meets = |slot: &Slot| {
                slot.io.offset < io.offset + u64::from(io.bytes)
                    && io.offset < slot.io.offset + u64::from(slot.io.bytes)
            };
            if self.worker.job.verify && self.slots.iter().flatten().any(meets) {
                self.waiting = Some((io, sequence));
                break;
            }
            self.free.pop();
            self.start_io(tag, io, sequence)?;
            self.device_bytes += u64::from(io.bytes);
            submitted += 1;
        }
        Ok((submitted, None))
    }

    /// What has arrived is verified later: first the device gets the next reads.
    fn refill(&mut self, ended: &mut bool) -> Result<()> {
        self.device_bytes = self.queue.arrive();
        let (submitted, _) = self.fill(now(), ended)?;
        if submitted > 0 {
            self.statistics.submitted(submitted, self.under_way());
        }
        Ok(())
    }

    fn next(&mut self) -> Option<(Io, Option<u32>)> {
        Some((self.thread.sequence.next()?, None))
    }

    fn not_before(&self, direction: Direction) -> Option<Instant> {
        let index = usize::from(direction == Direction::Write);
        let limited = self.worker.job.rate_iops.get(index).copied().flatten().is_some();
        (limited || !self.worker.job.thinktime.is_zero()).then(|| self.next_allowed.get(index).copied()).flatten()
    }

    /// Says when the next IO may start.
    fn pace(&mut self, direction: Direction, called: Instant) {
        let index = usize::from(direction == Direction::Write);
        if let (Some(rate), Some(next)) =
            (self.worker.job.rate_iops.get(index).copied().flatten(), self.next_allowed.get_mut(index))
        {
            // Late IOs are made up for, but not for more than a tenth of a second.
            let floor = called.checked_sub(Duration::from_millis(100)).unwrap_or(called);
            *next = (*next).max(floor) + Duration::from_secs(1) / rate;
        }
    }

    fn start_io(&mut self, tag: usize, io: Io, mut sequence: Option<u32>) -> Result<()> {
        let length = io.bytes as usize;
        let called = match io.direction {
            Direction::Read => {
                if self.worker.job.verify && self.worker.job.rw.writes && sequence.is_none() {
                    sequence = self.thread.writes(io.offset).map(|writes| *writes);
                }
                let mut buffer = match self.read_buffers.pop() {
                    Some(buffer) if buffer.capacity() >= length => buffer,
                    _ => self.queue.buffer(self.worker.job.block_most() as usize),
                };
                buffer.set_len(length);
                let called = now();
                self.queue.read(tag, &io, buffer)?;
                called
            }
            Direction::Write => {
                if self.worker.job.verify {
                    sequence = self.thread.writes(io.offset).map(|writes| {
                        *writes += 1;
                        *writes
                    });
                }
                let called = now();
                self.queue.write(tag, &io, sequence)?;
                called
            }
        };
        self.pace(io.direction, called);
        if let Some(slot) = self.slots.get_mut(tag) {
            *slot = Some(Slot { io, called, started: now(), sequence });
        }
        Ok(())
    }

    fn reap(&mut self) -> Result<()> {
        let mut done = std::mem::take(&mut self.done);
        self.queue.wait(&mut done)?;
        self.statistics.completed(done.len());
        for done in done.drain(..) {
            self.finish(done);
        }
        self.done = done;
        Ok(())
    }

    fn finish(&mut self, mut done: Done) {
        let Some(slot) = self.slots.get_mut(done.tag).and_then(Option::take) else { return };
        self.free.push(done.tag);
        let io = slot.io;
        if let Some(error) = done.error {
            self.fail(&io, &error);
            return;
        }
        if let (true, Some(buffer)) = (self.worker.job.verify, &mut done.buffer) {
            self.check(&io, slot.sequence, buffer);
        }
        self.read_buffers.extend(done.buffer);
        if io.direction == Direction::Write {
            self.unsynced += 1;
        }
        let thinktime = self.worker.job.thinktime;
        if !thinktime.is_zero() {
            self.next_allowed = [done.at + thinktime; 2];
        }
        // Over within the call: the call was the IO, as with fio's synchronous engines.
        let (submission, completion) = if done.at <= slot.started {
            (Duration::ZERO, done.at.saturating_duration_since(slot.called))
        } else {
            (slot.started - slot.called, done.at - slot.started)
        };
        let at = done.at.saturating_duration_since(self.start);
        if self.counting {
            self.statistics.record(io.direction, at, io.bytes, submission, completion);
            self.thread.recorder.record(self.worker.elapsed + at, &io, submission, completion);
        }
    }

    fn fail(&mut self, io: &Io, error: &str) {
        let verb = if io.direction == Direction::Read { "read" } else { "write" };
        self.statistics.error.get_or_insert_with(|| format!("{verb} of {} bytes at {}: {error}", io.bytes, io.offset));
    }

    fn check(&mut self, io: &Io, sequence: Option<u32>, buffer: &mut AlignedBuf) {
        // What this job has not written carries no header of its own.
        if sequence == Some(0) {
            return;
        }
        let Some(block) = buffer.as_mut_slice().get_mut(..io.bytes as usize) else { return };
        if let Err(wrong) = verify::check(block, io.offset, sequence) {
            self.statistics.wrong += 1;
            self.statistics.headerless += u64::from(wrong == Wrong::NoHeader);
            let name = &self.worker.job.name;
            match self.statistics.wrong {
                ..WRONG_LISTED_MAX => {
                    output::error(format_args!("envoyfs bench: {name}: verify: block at {}: {wrong}", io.offset))
                }
                WRONG_LISTED_MAX => output::error(format_args!(
                    "envoyfs bench: {name}: verify: more blocks are wrong; they are counted"
                )),
                _ => {}
            }
            if self.worker.job.verify_fatal {
                self.fail(io, &format!("verify: {wrong}"));
            }
        }
    }

    fn sync(&mut self) -> Result<()> {
        let called = now();
        self.queue.sync()?;
        if self.counting {
            self.statistics.sync.record(called.elapsed());
        }
        self.unsynced = 0;
        Ok(())
    }

    /// The second half of a job that verifies: reads all that was written. Neither its reads nor its time are those of the job.
    fn read_back(&mut self) -> Result<()> {
        self.counting = false;
        let (block, start) = (self.thread.block, self.thread.region_start);
        let bytes = u32::try_from(block).unwrap_or(0);
        let written: Vec<(u64, u32)> = (0..)
            .zip(&self.thread.written)
            .filter(|(_, writes)| **writes > 0)
            .map(|(index, writes)| (start + index * block, *writes))
            .collect();
        let mut todo = written.into_iter().take_while(|_| !self.worker.stop.load(Ordering::Relaxed));
        loop {
            while let Some(tag) = self.free.last().copied() {
                let Some((offset, sequence)) = todo.next() else { break };
                self.free.pop();
                self.start_io(tag, Io { direction: Direction::Read, offset, bytes }, Some(sequence))?;
            }
            if self.under_way() == 0 || self.statistics.error.is_some() {
                break;
            }
            self.reap()?;
        }
        while self.under_way() > 0 {
            self.reap()?;
        }
        Ok(())
    }
}
