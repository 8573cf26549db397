//! Writes by the thread that waits for them, with a ring of its own.

use super::super::super::{BufferPool, DeviceError, Operation, Write, widen};
use super::super::open::{Opened, errno_of};
use super::super::ring::Ring;
use super::super::thread_rings::ThreadRings;
use super::super::write_ring::{Gate, Job};
use super::{Done, Hands};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Requests of one thread in the kernel at a time.
const RING_ENTRIES: u32 = 64;
/// Most pieces of memory in one request.
const PIECES_MAX: usize = 64;
/// Attempts to enter a ring that refuses to be entered.
const ATTEMPTS: u32 = 100;

/// See the module.
pub struct OwnRing {
    rings: ThreadRings,
    /// To the write thread.
    gate: Option<Gate>,
    flush_failed: Arc<AtomicBool>,
    is_block_device: bool,
}

impl OwnRing {
    pub fn new(opened: Arc<Opened>, gate: Option<Gate>, flush_failed: Arc<AtomicBool>) -> OwnRing {
        let is_block_device = opened.geometry.is_block_device;
        let rings = ThreadRings::new(RING_ENTRIES, opened, BufferPool::heap().clone());
        OwnRing { rings, gate, flush_failed, is_block_device }
    }

    /// Joins neighbours. On a file, a durable write stands alone, so that what it meets is its own.
    fn runs(&self, jobs: &[Job]) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (index, job) in jobs.iter().enumerate() {
            let Write { offset, durable, .. } = job.write;
            let bytes = job.write.range.len();
            if let Some(run) = runs.last_mut()
                && run.offset + widen(run.bytes) == offset
                && run.durable == durable
                && (self.is_block_device || !durable)
                && run.jobs.len() < PIECES_MAX
            {
                run.jobs.end = index + 1;
                run.bytes += bytes;
                continue;
            }
            let jobs = index..index + 1;
            runs.push(Run::new(jobs, offset, bytes, durable));
        }
        runs
    }
}

impl Hands for OwnRing {
    fn write(&self, jobs: Vec<Job>) -> Result<Vec<Done>, Vec<Job>> {
        let ring = match self.rings.own() {
            Ok(ring) => ring,
            Err(error) => {
                tracing::debug!(%error, "no ring for this thread: the write thread writes");
                return Err(jobs);
            }
        };
        let mut jobs = jobs;
        jobs.sort_by_key(|job| job.write.offset);
        let mut runs = self.runs(&jobs);
        {
            // In use further up on this thread's stack: a function of a ticket waits, which it must not. Or it could not be entered before.
            let Some(mut own) = ring.try_lock() else { return Err(jobs) };
            let Some(ring) = own.as_mut() else { return Err(jobs) };
            if !write_runs(ring, &jobs, &mut runs) {
                // With what was not handed to the kernel, and with completions that would be taken for those of other writes.
                ring.gave_up();
                *own = None;
                // What was handed to it may arrive at any time, so nothing may be written there again, nor called durable.
                self.flush_failed.store(true, Ordering::Release);
            }
        }
        let outcomes = runs.into_iter().flat_map(|run| {
            let outcome = run.outcome.unwrap_or(Err(DeviceError::Closed));
            run.jobs.map(move |_| outcome.clone())
        });
        let done = jobs.into_iter().zip(outcomes).map(|(job, outcome)| {
            if job.write.durable && !self.is_block_device && outcome.as_ref().is_err_and(|error| !error.is_refusal()) {
                // The file system's one report of a lost write back may have gone to this write: see the flush.
                self.flush_failed.store(true, Ordering::Release);
            }
            // The buffer goes back before anybody is woken: whoever it is may take one at once.
            (job.completion, outcome)
        });
        Ok(done.collect())
    }

    fn pass_on(&self, jobs: Vec<Job>) -> Vec<Job> {
        match &self.gate {
            Some(gate) => gate.submit(jobs),
            None => jobs,
        }
    }
}

/// Jobs that are one request.
struct Run {
    jobs: Range<usize>,
    offset: u64,
    bytes: usize,
    done: usize,
    durable: bool,
    /// Read by the kernel when the request is submitted; kept until it has completed all the same.
    pieces: Vec<libc::iovec>,
    outcome: Option<Result<(), DeviceError>>,
}

impl Run {
    fn new(jobs: Range<usize>, offset: u64, bytes: usize, durable: bool) -> Run {
        Run { jobs, offset, bytes, done: 0, durable, pieces: Vec::new(), outcome: None }
    }

    /// The rest of it, as a request.
    fn entry(&mut self, ring: &Ring, all: &[Job]) -> io_uring::squeue::Entry {
        let mut skip = self.done;
        self.pieces.clear();
        for job in all.get(self.jobs.clone()).unwrap_or_default() {
            let bytes = job.write.bytes().unwrap_or_default();
            let rest = bytes.get(skip.min(bytes.len())..).unwrap_or_default();
            skip = skip.saturating_sub(bytes.len());
            if !rest.is_empty() {
                self.pieces.push(libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() });
            }
        }
        let offset = self.offset + widen(self.done);
        match self.pieces.as_slice() {
            [one] => ring.write((false, one.iov_base.cast_const().cast()), one.iov_len, offset, self.durable),
            pieces => ring.write_pieces(pieces, false, offset, self.durable),
        }
    }

    /// What the kernel answered. True: once more, with the rest.
    fn answered(&mut self, result: i32) -> bool {
        let (operation, offset, length) = (Operation::Write, self.offset, widen(self.bytes));
        self.outcome = match usize::try_from(result) {
            Ok(0) => Some(Err(DeviceError::ShortDevice { operation, offset, length, size: offset + widen(self.done) })),
            Ok(count) => {
                self.done += count;
                (self.done >= self.bytes).then_some(Ok(()))
            }
            Err(_) if matches!(-result, libc::EINTR | libc::EAGAIN) => None,
            Err(_) => Some(Err(DeviceError::Io { operation, offset, length, errno: -result })),
        };
        self.outcome.is_none()
    }
}

/// Writes them all; each has an outcome afterwards. False: the ring cannot be entered, and must not be used any more.
fn write_runs(ring: &mut Ring, jobs: &[Job], runs: &mut [Run]) -> bool {
    let mut todo: Vec<usize> = (0..runs.len()).rev().collect();
    let (mut under_way, mut failures) = (0_usize, 0);
    loop {
        while under_way < RING_ENTRIES as usize
            && let Some(index) = todo.pop()
        {
            let Some(run) = runs.get_mut(index) else { continue };
            let entry = run.entry(ring, jobs).user_data(widen(index));
            // SAFETY: the memory belongs to the buffers of `jobs`, which outlive this call, or are leaked below; nobody can change it, since it is behind
            // an Arc. The list of pieces stays in the run until its completion.
            if unsafe { ring.uring.submission().push(&entry) }.is_err() {
                todo.push(index);
                break;
            }
            under_way += 1;
        }
        if under_way == 0 {
            return true;
        }
        let entered = enter(ring, under_way);
        while let Some(completion) = ring.uring.completion().next() {
            under_way -= 1;
            let Ok(index) = usize::try_from(completion.user_data()) else { continue };
            if runs.get_mut(index).is_some_and(|run| run.answered(completion.result())) {
                todo.push(index);
            }
        }
        if let Err(error) = entered
            && !matches!(errno_of(&error), libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ETIME)
        {
            failures += 1;
            if failures > ATTEMPTS {
                give_up(jobs, runs, errno_of(&error));
                return false;
            }
        }
    }
}

fn enter(ring: &mut Ring, want: usize) -> std::io::Result<()> {
    #[cfg(test)]
    tests::broken(ring)?;
    ring.enter(want)
}

/// The ring cannot be entered any more. What is in the kernel stays there for an unknown time, so its memory is leaked.
fn give_up(jobs: &[Job], runs: &mut [Run], errno: i32) {
    tracing::error!(errno, "a ring with writes under way cannot be entered");
    for run in runs.iter_mut().filter(|run| run.outcome.is_none()) {
        std::mem::forget(std::mem::take(&mut run.pieces));
        for job in jobs.get(run.jobs.clone()).unwrap_or_default() {
            std::mem::forget(Arc::clone(&job.write.buf));
        }
        let (offset, length) = (run.offset, widen(run.bytes));
        run.outcome = Some(Err(DeviceError::Io { operation: Operation::Write, offset, length, errno }));
    }
}

#[cfg(test)]
mod tests;
