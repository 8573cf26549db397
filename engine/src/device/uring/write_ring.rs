//! Writes: one thread, one ring, many writes under way.
//!
//! ```text
//! submit() --> queue --+--> backlog --> jobs (in the kernel) --> ticket
//!                      |  neighbours        | short transfer: again with the rest
//!                      |  joined            | several failed together: one by one
//!                 eventfd, only when the thread sleeps
//! ```
//!
//! Sleeping: the thread listens for the bell, looks at the queue once more, and waits in the kernel for a completion or
//! for the eventfd. A submitter queues first and rings the bell afterwards ([`super::bell`]); one that has more to come
//! does not, and whoever waits for such a write does.
//!
//! Large writes: while the device has enough to do with those that it has, the thread is not woken for another one, and comes back for two completions at a time. While it is awake, who submits
//! one gives up his processor for it: a thread that was just woken by it often runs in its place, and the device would wait for what it has to hand on.

use super::super::ticket::Drive;
use super::super::{BufferPool, Completion, DeviceError, Operation, Ticket, Write, widen};
use super::bell::{Bell, Heard};
use super::joined::{Answer, Run};
use super::open::{Opened, errno_of, last_errno};
use super::ring::Ring;
use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded, unbounded};
use io_uring::{opcode, squeue, types};
use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Entries of the ring, and the most writes in the kernel at a time. One entry is for the eventfd.
const WRITE_RING_ENTRIES: u32 = 256;
const WRITES_UNDER_WAY_MAX: usize = 255;
/// So many of the newest requests that wait are looked at for a neighbour.
const JOIN_LOOK: usize = 4;
/// A write of so many bytes takes a device so long that nobody notices whether it is told of the next one a little later.
pub(super) const LARGE_BYTES_MIN: usize = 256 << 10;
/// While so many of these are in the kernel, the thread is not woken for another one: it comes back for one of them, and the device has enough to do until then.
const BUSY_LARGE: usize = 4;
/// Then it waits until so many writes are done.
const BUSY_COMPLETIONS: usize = 2;
/// Or so long for the first of them to be followed by others.
const WAIT_MAX: types::Timespec = types::Timespec::new().nsec(300_000);
/// Marks the completion of the eventfd's poll.
const WAKE: u64 = u64::MAX;

/// The write side of a device. Dropping it waits for everything that was submitted.
pub(super) struct WriteRing {
    /// `None` only while dropping.
    queue: Option<Sender<Job>>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

struct Waker {
    event: OwnedFd,
    bell: Bell,
    /// The device is being dropped: when nothing is left, the thread ends.
    closing: AtomicBool,
}

/// A write that was submitted and has not completed.
pub(super) struct Job {
    pub(super) write: Write,
    pub(super) completion: Completion,
}

impl Job {
    pub(super) fn new(write: Write, completion: Completion) -> Job {
        Job { write, completion }
    }
}

/// Another way to the thread. Does not keep it running.
pub(super) struct Gate {
    queue: Sender<Job>,
    waker: Arc<Waker>,
}

impl Gate {
    /// Starts writes whose ranges were checked; gives back what the thread does not take any more, because it is gone.
    #[must_use]
    pub(super) fn submit(&self, jobs: impl IntoIterator<Item = Job>) -> Vec<Job> {
        let refused = jobs.into_iter().filter_map(|job| self.queue.send(job).err()).map(|refused| refused.0).collect();
        self.waker.wake(true);
        refused
    }
}

impl WriteRing {
    /// The thread keeps `claim` until the last write is done.
    pub(super) fn start(
        opened: Arc<Opened>,
        claim: Option<Arc<File>>,
        pool: BufferPool,
        flush_failed: Arc<AtomicBool>,
    ) -> Result<WriteRing, DeviceError> {
        let no_thread = |errno| DeviceError::UringUnavailable { errno, hint: "the write thread cannot be started" };
        // SAFETY: makes a new descriptor; no memory is passed.
        let event = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if event < 0 {
            return Err(no_thread(last_errno()));
        }
        // SAFETY: the descriptor was just made and nobody else owns it.
        let event = unsafe { OwnedFd::from_raw_fd(event) };
        let waker = Arc::new(Waker { event, bell: Bell::new(), closing: AtomicBool::new(false) });
        let (queue, submitted) = unbounded();
        let (ready, is_ready) = bounded(1);
        let thread_waker = Arc::clone(&waker);
        let thread = std::thread::Builder::new()
            .name("envoyfs-write".to_owned())
            .spawn(move || {
                let _claim = claim;
                // A SINGLE_ISSUER ring belongs to the thread that makes it.
                match Ring::new(WRITE_RING_ENTRIES, &opened, &pool) {
                    Ok(ring) => {
                        let _ = ready.send(Ok(()));
                        let is_block_device = opened.geometry.is_block_device;
                        WriteThread::new(ring, submitted, thread_waker, flush_failed, is_block_device).run();
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                    }
                }
            })
            .map_err(|error| no_thread(errno_of(&error)))?;
        if let Err(error) = is_ready.recv().unwrap_or(Err(DeviceError::Closed)) {
            // It has a reference to the claim, which ends before the error is told.
            let _ = thread.join();
            return Err(error);
        }
        Ok(WriteRing { queue: Some(queue), waker, thread: Some(thread) })
    }

    /// Starts a write whose ranges were checked.
    pub(super) fn submit(&self, write: Write) -> Ticket {
        let (more, urgent) = (write.more, write.range.len() < LARGE_BYTES_MIN);
        let driver = more.then(|| Arc::clone(&self.waker) as Arc<dyn Drive>);
        let (ticket, completion) = Ticket::pair_driven_by(driver);
        if let Some(queue) = &self.queue {
            // If the thread is gone the completion is dropped, which settles the ticket as closed.
            let _ = queue.send(Job::new(write, completion));
            if !more {
                self.waker.wake(urgent);
            }
        }
        ticket
    }

    /// Another way in.
    pub(super) fn gate(&self) -> Option<Gate> {
        let queue = self.queue.clone()?;
        Some(Gate { queue, waker: Arc::clone(&self.waker) })
    }
}

impl Drop for WriteRing {
    fn drop(&mut self) {
        self.queue = None;
        self.waker.closing.store(true, Ordering::Release);
        // Whether it listens or not: the thread looks for queued writes before it sleeps, not for this.
        self.waker.signal();
        if let Some(thread) = self.thread.take()
            // The last reference may go away in a function that a ticket calls, on the thread itself: it then ends alone.
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

impl Drive for Waker {
    /// Who waits for a write that was to have company.
    fn drive(&self) -> bool {
        self.wake(true);
        false
    }
}

impl Waker {
    fn wake(&self, urgent: bool) {
        match self.bell.ring(urgent) {
            Heard::Wake => self.signal(),
            // It may wait for this processor, and the device for it, while this thread goes on to its next large write.
            Heard::Awake if !urgent => std::thread::yield_now(),
            Heard::Awake | Heard::Later => {}
        }
    }

    fn signal(&self) {
        let one = 1_u64;
        // SAFETY: eight bytes are read from `one`, which lives through the call.
        unsafe { libc::write(self.event.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    /// Takes back what `wake` wrote.
    fn clear(&self) {
        let mut count = 0_u64;
        // SAFETY: at most eight bytes are written to `count`, which lives through the call.
        unsafe { libc::read(self.event.as_raw_fd(), (&raw mut count).cast(), 8) };
    }
}

struct WriteThread {
    ring: Ring,
    submitted: Receiver<Job>,
    waker: Arc<Waker>,
    /// Taken from the queue, not yet in the kernel.
    backlog: VecDeque<Run>,
    /// In the kernel, by user data.
    jobs: Vec<Option<Run>>,
    free: Vec<usize>,
    /// Large ones of those in the kernel.
    large: usize,
    wake_is_polled: bool,
    closing: bool,
    /// Set when nothing may be promised any more.
    flush_failed: Arc<AtomicBool>,
    is_block_device: bool,
}

impl WriteThread {
    fn new(
        ring: Ring,
        submitted: Receiver<Job>,
        waker: Arc<Waker>,
        flush_failed: Arc<AtomicBool>,
        is_block_device: bool,
    ) -> WriteThread {
        WriteThread {
            ring,
            submitted,
            waker,
            backlog: VecDeque::new(),
            jobs: (0..WRITES_UNDER_WAY_MAX).map(|_| None).collect(),
            free: (0..WRITES_UNDER_WAY_MAX).rev().collect(),
            large: 0,
            wake_is_polled: false,
            closing: false,
            flush_failed,
            is_block_device,
        }
    }

    fn run(mut self) {
        loop {
            self.gather();
            self.fill();
            let under_way = WRITES_UNDER_WAY_MAX - self.free.len();
            if self.closing && under_way == 0 && self.backlog.is_empty() {
                return;
            }
            if let Err(errno) = self.enter() {
                self.give_up(errno);
                return;
            }
            self.reap();
        }
    }

    fn gather(&mut self) {
        // Before the queue: what was submitted before the drop is in it then.
        let closing = self.waker.closing.load(Ordering::Acquire);
        loop {
            match self.submitted.try_recv() {
                Ok(job) => self.queue(job),
                Err(TryRecvError::Empty) => {
                    self.closing |= closing;
                    return;
                }
                Err(TryRecvError::Disconnected) => {
                    self.closing = true;
                    return;
                }
            }
        }
    }

    /// To the backlog, with a neighbour where there is one.
    fn queue(&mut self, job: Job) {
        let mut job = job;
        for run in self.backlog.iter_mut().rev().take(JOIN_LOOK) {
            match run.join(job) {
                None => return,
                Some(other) => job = other,
            }
        }
        self.backlog.push_back(Run::new(job));
    }

    /// Moves the backlog into the ring, and polls the eventfd. The ring has room for both: it never holds more than
    /// the writes under way and one poll.
    fn fill(&mut self) {
        if !self.wake_is_polled && !self.closing {
            let events = u32::from(libc::POLLIN.unsigned_abs());
            let poll = opcode::PollAdd::new(types::Fd(self.waker.event.as_raw_fd()), events);
            // SAFETY: a poll names no memory; the descriptor is kept by `waker`.
            self.wake_is_polled = unsafe { self.push(&poll.build().user_data(WAKE)) };
        }
        while !self.backlog.is_empty() {
            let Some(index) = self.free.pop() else { return };
            let Some(run) = self.backlog.pop_front() else { return };
            self.start(index, run);
        }
    }

    /// Hands `run` to the kernel under `index`, which is taken from the free list.
    fn start(&mut self, index: usize, run: Run) {
        let Some(slot) = self.jobs.get_mut(index) else { return };
        let run = slot.insert(run);
        self.large += usize::from(run.is_large());
        let entry = run.entry(&self.ring).user_data(widen(index));
        // SAFETY: the memory belongs to the buffers of the run's writes, which stay in `jobs` until the completion is
        // reaped, or are leaked in `give_up`; nobody can change it, since it is behind an Arc. So does the list of pieces.
        let pushed = unsafe { self.push(&entry) };
        // The ring has room for all (see `fill`); were it not so, waiting in line would be right.
        if !pushed && let Some(run) = self.take(index) {
            self.free.push(index);
            self.backlog.push_front(run);
        }
    }

    /// It is not in the kernel any more.
    fn take(&mut self, index: usize) -> Option<Run> {
        let run = self.jobs.get_mut(index)?.take()?;
        self.large -= usize::from(run.is_large());
        Some(run)
    }

    /// # Safety
    /// The memory that the entry names is valid until its completion is reaped.
    unsafe fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: passed on to the caller.
        unsafe { self.ring.uring.submission().push(entry) }.is_ok()
    }

    /// Submits what is in the ring and waits for something to happen.
    fn enter(&mut self) -> Result<(), i32> {
        // Before `listen`: what is in the kernel then wakes the thread, whoever does not.
        let is_busy = self.large >= BUSY_LARGE && self.ring.uring.params().is_feature_ext_arg();
        let mut want = if is_busy { BUSY_COMPLETIONS } else { 1 };
        if !self.closing {
            self.waker.bell.listen(is_busy);
            let can_take_more = !self.free.is_empty();
            if can_take_more && !self.submitted.is_empty() {
                want = 0;
            }
        }
        let outcome = if want > 1 {
            let arguments = types::SubmitArgs::new().timespec(&WAIT_MAX);
            match self.ring.uring.submitter().submit_with_args(want, &arguments) {
                Err(error) if errno_of(&error) == libc::ETIME => self.ring.uring.submit_and_wait(1),
                other => other,
            }
        } else {
            self.ring.uring.submit_and_wait(want)
        };
        self.waker.bell.ignore();
        match outcome.map_err(|error| errno_of(&error)) {
            Ok(_) | Err(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ETIME) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn reap(&mut self) {
        // Collected first: a ticket's function may take its time, and the kernel wants the entries back.
        let completions: Vec<(u64, i32)> =
            self.ring.uring.completion().map(|entry| (entry.user_data(), entry.result())).collect();
        for (user_data, result) in completions {
            if user_data == WAKE {
                self.wake_is_polled = false;
                self.waker.clear();
                continue;
            }
            let Ok(index) = usize::try_from(user_data) else { continue };
            if let Some(run) = self.take(index) {
                self.finish(index, run, result);
            }
        }
    }

    fn finish(&mut self, index: usize, run: Run, result: i32) {
        let (run, outcome) = match run.answered(result) {
            Answer::Again(run) => return self.start(index, run),
            Answer::OneByOne(runs) => {
                self.free.push(index);
                return self.backlog.extend(runs);
            }
            Answer::Done(run, outcome) => (run, outcome),
        };
        self.free.push(index);
        if run.is_durable() && !self.is_block_device && outcome.as_ref().is_err_and(|error| !error.is_refusal()) {
            // The file system's one report of a lost write back may have gone to this write: see the flush.
            self.flush_failed.store(true, Ordering::Release);
        }
        for Job { write, completion } in run.into_jobs() {
            // Before the ticket: whoever it wakes may take a buffer at once.
            drop(write);
            completion.complete(outcome.clone());
        }
    }

    /// The ring cannot be entered any more. What is in the kernel stays there for an unknown time, so its memory is
    /// leaked; everybody who waits learns of it.
    fn give_up(&mut self, errno: i32) {
        tracing::error!(errno, "the write ring cannot be entered: writes end here");
        // What the kernel has may arrive at any time.
        self.ring.gave_up();
        self.flush_failed.store(true, Ordering::Release);
        let in_kernel = self.jobs.iter_mut().filter_map(Option::take).map(|run| (run, true));
        let waiting = self.backlog.drain(..).map(|run| (run, false));
        for (mut run, is_in_kernel) in in_kernel.chain(waiting).collect::<Vec<_>>() {
            let (offset, length) = run.place();
            if is_in_kernel {
                run.leak_pieces();
            }
            for Job { write, completion } in run.into_jobs() {
                if is_in_kernel {
                    std::mem::forget(write);
                }
                completion.complete(Err(DeviceError::Io { operation: Operation::Write, offset, length, errno }));
            }
        }
    }
}

impl Drop for WriteThread {
    /// Nothing is left after `run`, unless a ticket's function panicked.
    fn drop(&mut self) {
        if self.jobs.iter().any(Option::is_some) || !self.backlog.is_empty() {
            self.give_up(libc::ECANCELED);
        }
    }
}
