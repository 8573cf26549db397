//! Writes that may wait until somebody waits for them: whoever does so takes all of them, and writes them himself.
//!
//! ```text
//! submit() --> held --+-- Ticket::wait: all of them in one io_uring_enter of the waiting thread, neighbours joined to one request
//!                     +-- too many, or the device is dropped: to the write thread
//! ```
//! A small write followed by a wait costs no hand-over to the write thread and back, and what several threads hold back goes to the device with one call. Nothing is
//! promised of a write before its ticket has completed, so holding it back changes nothing if power fails.

use super::super::ticket::Drive;
use super::super::{BufferPool, Completion, DeviceError, Operation, Ticket, Write, widen};
use super::open::{Opened, errno_of};
use super::ring::Ring;
use super::thread_rings::ThreadRings;
use super::write_ring::{Gate, Job};
use parking_lot::{Mutex, RwLock};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// Requests of one thread in the kernel at a time.
const RING_ENTRIES: u32 = 64;
/// So many writes are held at most.
const HELD_MAX: usize = 128;
/// Most pieces of memory in one request.
const PIECES_MAX: usize = 64;
/// Attempts to enter a ring that refuses to be entered.
const ATTEMPTS: u32 = 100;

/// See the module.
pub(super) struct Held {
    rings: ThreadRings,
    jobs: Mutex<Vec<Job>>,
    /// Shared while writes are under way here; alone by the drop of the device.
    driving: RwLock<()>,
    /// To the write thread.
    gate: Option<Gate>,
    flush_failed: Arc<AtomicBool>,
    is_block_device: bool,
    driver: Arc<dyn Drive>,
}

/// What tickets know of it: they may outlive the device.
struct Driver(Weak<Held>);

impl Drive for Driver {
    fn drive(&self) -> bool {
        self.0.upgrade().is_some_and(|held| held.write_all())
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

impl Held {
    pub(super) fn new(opened: Arc<Opened>, gate: Option<Gate>, flush_failed: Arc<AtomicBool>) -> Arc<Held> {
        Arc::new_cyclic(|own| Held {
            is_block_device: opened.geometry.is_block_device,
            rings: ThreadRings::new(RING_ENTRIES, opened, BufferPool::heap().clone()),
            jobs: Mutex::default(),
            driving: RwLock::new(()),
            gate,
            flush_failed,
            driver: Arc::new(Driver(Weak::clone(own))),
        })
    }

    /// Takes a write whose ranges were checked.
    pub(super) fn submit(&self, write: Write) -> Ticket {
        let (ticket, completion) = Ticket::pair_driven_by(Some(Arc::clone(&self.driver)));
        let too_many = {
            let mut jobs = self.jobs.lock();
            jobs.push(Job::new(write, completion));
            if jobs.len() >= HELD_MAX { std::mem::take(&mut *jobs) } else { Vec::new() }
        };
        self.pass_on(too_many);
        ticket
    }

    /// For the drop of the device: the write thread gets what is held, and nothing is under way here any more.
    pub(super) fn end(&self) {
        let jobs = std::mem::take(&mut *self.jobs.lock());
        self.pass_on(jobs);
        drop(self.driving.write());
    }

    /// To the write thread.
    fn pass_on(&self, jobs: Vec<Job>) {
        if let (Some(gate), false) = (&self.gate, jobs.is_empty()) {
            gate.submit(jobs);
        }
    }

    /// Writes what is held, and returns when all of it has completed; false if there is nothing.
    fn write_all(&self) -> bool {
        let guard = self.driving.read();
        let mut jobs = std::mem::take(&mut *self.jobs.lock());
        if jobs.is_empty() {
            return false;
        }
        let ring = match self.rings.own() {
            Ok(ring) => ring,
            Err(error) => {
                tracing::debug!(%error, "no ring for this thread: the write thread writes");
                self.pass_on(jobs);
                return true;
            }
        };
        jobs.sort_by_key(|job| job.write.offset);
        let mut runs = self.runs(&jobs);
        match ring.try_lock().as_deref_mut() {
            Some(Some(ring)) => write_runs(ring, &jobs, &mut runs),
            // In use further up on this thread's stack: a function of a ticket waits, which it must not.
            _ => {
                self.pass_on(jobs);
                return true;
            }
        }
        // The tickets' functions may drop the device.
        drop(guard);
        let outcomes = runs.into_iter().flat_map(|run| {
            let outcome = run.outcome.unwrap_or(Err(DeviceError::Closed));
            run.jobs.map(move |_| outcome.clone())
        });
        let done: Vec<(Completion, Result<(), DeviceError>)> = jobs
            .into_iter()
            .zip(outcomes.collect::<Vec<_>>())
            .map(|(job, outcome)| {
                if job.write.durable && outcome.is_err() && !self.is_block_device {
                    // The file system's one report of a lost write back may have gone to this write: see the flush.
                    self.flush_failed.store(true, Ordering::Release);
                }
                // The buffer goes back before anybody is woken: whoever it is may take one at once.
                (job.completion, outcome)
            })
            .collect();
        done.into_iter().for_each(|(completion, outcome)| completion.complete(outcome));
        true
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
            runs.push(Run { jobs, offset, bytes, done: 0, durable, pieces: Vec::new(), outcome: None });
        }
        runs
    }
}

impl Run {
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

/// Writes them all; each has an outcome afterwards.
fn write_runs(ring: &mut Ring, jobs: &[Job], runs: &mut [Run]) {
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
            return;
        }
        let entered = ring.enter(under_way);
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
                return;
            }
        }
    }
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
