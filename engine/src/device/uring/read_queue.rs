//! Reads of one thread, many under way: one `io_uring_enter` starts all that were queued and waits for those wanted.
//!
//! ```text
//! submit() --> backlog --wait--> jobs (in the kernel) --> done
//!                                  | short transfer: again with the rest
//! ```
//!
//! A buffer is in exactly one of {caller, backlog, job}; the kernel writes only to those in a job, and a job ends with
//! its completion. Dropping the queue waits for the kernel: it has no other way to get memory back.

use super::super::reads::{DeviceReads, ReadDone};
use super::super::{AlignedBuf, BufferPool, DeviceError, Operation, check_range, widen};
use super::open::{Opened, errno_of};
use super::ring::Ring;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;

/// More under way than this keeps no device busier.
const DEPTH_MAX: u32 = 4096;

pub(super) struct ReadQueue {
    ring: Ring,
    opened: Arc<Opened>,
    backlog: VecDeque<Job>,
    /// In the kernel, by user data.
    jobs: Vec<Option<Job>>,
    free: Vec<usize>,
    /// Refused before they reached the kernel.
    refused: Vec<ReadDone>,
    /// A SINGLE_ISSUER ring belongs to the thread that made it.
    _one_thread: PhantomData<*const ()>,
}

struct Job {
    tag: u64,
    offset: u64,
    buffer: AlignedBuf,
    /// Bytes that have arrived.
    done: usize,
}

impl ReadQueue {
    pub(super) fn new(depth: u32, opened: &Arc<Opened>, pool: &BufferPool) -> Result<ReadQueue, DeviceError> {
        let depth = depth.clamp(1, DEPTH_MAX);
        let ring = Ring::new(depth, opened, pool)?;
        let slots = usize::try_from(depth).unwrap_or(1);
        Ok(ReadQueue {
            ring,
            opened: Arc::clone(opened),
            backlog: VecDeque::new(),
            jobs: (0..slots).map(|_| None).collect(),
            free: (0..slots).rev().collect(),
            refused: Vec::new(),
            _one_thread: PhantomData,
        })
    }

    fn in_kernel(&self) -> usize {
        self.jobs.len() - self.free.len()
    }

    /// Moves the backlog into the ring, which has an entry for every slot.
    fn fill(&mut self) {
        while !self.backlog.is_empty() {
            let Some(slot) = self.free.pop() else { return };
            let Some(job) = self.backlog.pop_front() else { return };
            if !self.start(slot, job) {
                return;
            }
        }
    }

    /// Hands `job` to the kernel under `slot`, which is taken from the free list. False if the ring has no room.
    fn start(&mut self, slot: usize, mut job: Job) -> bool {
        let registered = self.ring.has_registered(&job.buffer);
        let rest = job.buffer.len().saturating_sub(job.done);
        // SAFETY: `done <= len`, so the sum stays inside the buffer.
        let start = unsafe { job.buffer.as_mut_ptr().add(job.done) };
        let entry = self.ring.read(registered, start, rest, job.offset + widen(job.done)).user_data(widen(slot));
        let Some(place) = self.jobs.get_mut(slot) else { return false };
        *place = Some(job);
        // SAFETY: the memory belongs to the job's buffer, which stays in `jobs` until the completion is reaped; the drop
        // waits for that. Nobody else can reach it: the buffer is owned, and moving it does not move its memory.
        if unsafe { self.ring.uring.submission().push(&entry) }.is_ok() {
            return true;
        }
        if let Some(job) = self.jobs.get_mut(slot).and_then(Option::take) {
            self.free.push(slot);
            self.backlog.push_front(job);
        }
        false
    }

    /// Submits what is in the ring and waits for `want` completions of those in the kernel.
    fn enter(&mut self, want: usize) {
        let mut failures = 0_u32;
        while let Err(error) = self.ring.enter(want.min(self.in_kernel())) {
            if matches!(errno_of(&error), libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ETIME) {
                // Whatever has completed makes room.
                return;
            }
            failures += 1;
            if failures > 100 {
                // The kernel may still write to the buffers and does not say when it is done: there is no return from
                // here that keeps memory safe. A crash is recoverable, wrong bytes are not.
                tracing::error!(%error, "a ring with reads under way cannot be entered");
                std::process::abort();
            }
        }
    }

    fn reap(&mut self, done: &mut Vec<ReadDone>) {
        loop {
            let Some(completion) = self.ring.uring.completion().next() else { return };
            let Ok(slot) = usize::try_from(completion.user_data()) else { continue };
            if let Some(job) = self.jobs.get_mut(slot).and_then(Option::take) {
                self.finish(slot, job, completion.result(), done);
            }
        }
    }

    fn finish(&mut self, slot: usize, mut job: Job, result: i32, done: &mut Vec<ReadDone>) {
        let (operation, length) = (Operation::Read, widen(job.buffer.len()));
        let offset = job.offset + widen(job.done);
        let outcome = match usize::try_from(result) {
            Ok(0) => Err(DeviceError::ShortDevice { operation, offset: job.offset, length, size: offset }),
            Ok(count) => {
                job.done += count;
                if job.done < job.buffer.len() {
                    self.start(slot, job);
                    return;
                }
                Ok(())
            }
            Err(_) if matches!(-result, libc::EINTR | libc::EAGAIN) => {
                self.start(slot, job);
                return;
            }
            Err(_) => Err(DeviceError::Io { operation, offset, length: length - widen(job.done), errno: -result }),
        };
        self.free.push(slot);
        done.push(ReadDone { tag: job.tag, buffer: job.buffer, outcome });
    }
}

impl DeviceReads for ReadQueue {
    fn submit(&mut self, tag: u64, offset: u64, into: AlignedBuf) {
        match check_range(&self.opened.geometry, Operation::Read, offset, widen(into.len())) {
            Ok(()) => self.backlog.push_back(Job { tag, offset, buffer: into, done: 0 }),
            Err(error) => self.refused.push(ReadDone { tag, buffer: into, outcome: Err(error) }),
        }
    }

    fn wait(&mut self, min: usize, done: &mut Vec<ReadDone>) {
        let target = done.len() + min.min(self.under_way());
        done.append(&mut self.refused);
        loop {
            self.fill();
            self.enter(target.saturating_sub(done.len()));
            self.reap(done);
            if done.len() >= target {
                return;
            }
        }
    }

    fn under_way(&self) -> usize {
        self.backlog.len() + self.in_kernel() + self.refused.len()
    }
}

impl Drop for ReadQueue {
    fn drop(&mut self) {
        self.backlog.clear();
        let mut done = Vec::new();
        while self.in_kernel() > 0 {
            self.enter(1);
            self.reap(&mut done);
            // A short transfer that could not go on.
            self.backlog.clear();
        }
    }
}
