//! Reads of one thread, many under way: one `io_uring_enter` starts all that were queued and waits for those wanted.
//!
//! ```text
//! submit() --> jobs: one a buffer
//!          \-> backlog --wait--> requests (in the kernel) --the last of a job--> done
//!                                  | short transfer: again with the rest
//!                                  | several stretches failed together: one by one
//! ```
//!
//! A buffer is the caller's or a job's; the kernel writes only to those of jobs that have a request in the kernel, and a
//! request ends with its completion. Dropping the queue waits for the kernel: it has no other way to get memory back.

use super::super::reads::{DeviceReads, ReadDone, Stretch, outside};
use super::super::{AlignedBuf, BufferPool, DeviceError, Operation, check_range, widen};
use super::near::{GAP_BYTES_MAX, Gather};
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
    pool: BufferPool,
    /// By number; slots are used again.
    jobs: Vec<Option<Job>>,
    free_jobs: Vec<usize>,
    backlog: VecDeque<Request>,
    /// In the kernel, by user data.
    requests: Vec<Option<Request>>,
    free: Vec<usize>,
    /// Takes what lies between stretches; nobody looks at it.
    between: Option<AlignedBuf>,
    /// Over before they reached the kernel: refused, or of nothing.
    refused: Vec<ReadDone>,
    /// A SINGLE_ISSUER ring belongs to the thread that made it.
    _one_thread: PhantomData<*const ()>,
}

/// A caller's read.
struct Job {
    tag: u64,
    buffer: AlignedBuf,
    /// Requests that have not ended.
    left: usize,
    failed: Option<DeviceError>,
}

/// One stretch of the device for a job.
struct Request {
    job: usize,
    offset: u64,
    bytes: usize,
    /// Bytes that have arrived.
    done: usize,
    memory: Memory,
}

/// Where in the job's buffer a request puts its bytes.
enum Memory {
    /// From this byte on.
    At(usize),
    /// In several places, and what lies between them elsewhere.
    Gather(Box<Gather>),
}

impl ReadQueue {
    pub(super) fn new(depth: u32, opened: &Arc<Opened>, pool: &BufferPool) -> Result<ReadQueue, DeviceError> {
        let depth = depth.clamp(1, DEPTH_MAX);
        let ring = Ring::new(depth, opened, pool)?;
        let slots = usize::try_from(depth).unwrap_or(1);
        Ok(ReadQueue {
            ring,
            opened: Arc::clone(opened),
            pool: pool.clone(),
            jobs: Vec::new(),
            free_jobs: Vec::new(),
            backlog: VecDeque::new(),
            requests: (0..slots).map(|_| None).collect(),
            free: (0..slots).rev().collect(),
            between: None,
            refused: Vec::new(),
            _one_thread: PhantomData,
        })
    }

    fn in_kernel(&self) -> usize {
        self.requests.len() - self.free.len()
    }

    fn add_job(&mut self, job: Job) -> usize {
        match self.free_jobs.pop() {
            Some(index) => {
                if let Some(slot) = self.jobs.get_mut(index) {
                    *slot = Some(job);
                }
                index
            }
            None => {
                self.jobs.push(Some(job));
                self.jobs.len() - 1
            }
        }
    }

    /// Whether each stretch lies on the device and in the buffer, so that the memory of every request is the buffer's.
    fn check(&self, stretches: &[Stretch], length: usize) -> Result<(), DeviceError> {
        for Stretch { offset, at, bytes } in stretches.iter().copied() {
            check_range(&self.opened.geometry, Operation::Read, offset, widen(bytes))?;
            if at.checked_add(bytes).is_none_or(|end| end > length) {
                return Err(outside(offset, at, bytes, length));
            }
            let alignment = self.opened.memory_alignment;
            if !at.is_multiple_of(alignment) {
                let (operation, length, alignment) = (Operation::Read, widen(bytes), widen(alignment));
                return Err(DeviceError::Unaligned { operation, offset: widen(at), length, alignment });
            }
        }
        Ok(())
    }

    /// Moves the backlog into the ring, which has an entry for every slot.
    fn fill(&mut self) {
        while !self.backlog.is_empty() {
            let Some(slot) = self.free.pop() else { return };
            let Some(request) = self.backlog.pop_front() else { return };
            if !self.start(slot, request) {
                return;
            }
        }
    }

    /// Hands `request` to the kernel under `slot`, which is taken from the free list. False if the ring has no room.
    fn start(&mut self, slot: usize, mut request: Request) -> bool {
        let Some(job) = self.jobs.get_mut(request.job).and_then(Option::as_mut) else { return false };
        let registered = self.ring.has_registered(&job.buffer);
        let offset = request.offset + widen(request.done);
        let entry = match &mut request.memory {
            Memory::Gather(gather) => {
                let between = self.between.get_or_insert_with(|| self.pool.take(GAP_BYTES_MAX));
                let registered = registered && self.ring.has_registered(between);
                // SAFETY: `check` has found every stretch inside the buffer; `between` was made as long as the longest gap.
                let vectors = unsafe { gather.vectors(request.done, job.buffer.as_mut_ptr(), between.as_mut_ptr()) };
                self.ring.read_pieces(vectors, registered, offset)
            }
            Memory::At(at) => {
                // SAFETY: `done <= bytes`, and `at + bytes` is inside the buffer (`check`), so the sum stays inside it.
                let start = unsafe { job.buffer.as_mut_ptr().add(*at + request.done) };
                self.ring.read(registered, start, request.bytes - request.done, offset)
            }
        };
        let entry = entry.user_data(widen(slot));
        let Some(place) = self.requests.get_mut(slot) else { return false };
        *place = Some(request);
        // SAFETY: the memory belongs to the job's buffer, which stays in `jobs` until all its requests are reaped, and to
        // `between`, which stays as long as the queue; the drop waits for that. The list of pieces stays in `requests`.
        // Nobody else can reach them: the buffers are owned, and moving one does not move its memory.
        if unsafe { self.ring.uring.submission().push(&entry) }.is_ok() {
            return true;
        }
        if let Some(request) = self.requests.get_mut(slot).and_then(Option::take) {
            self.free.push(slot);
            self.backlog.push_front(request);
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
            if let Some(request) = self.requests.get_mut(slot).and_then(Option::take) {
                self.finish(slot, request, completion.result(), done);
            }
        }
    }

    fn finish(&mut self, slot: usize, mut request: Request, result: i32, done: &mut Vec<ReadDone>) {
        let (operation, length) = (Operation::Read, widen(request.bytes));
        let offset = request.offset + widen(request.done);
        let outcome = match usize::try_from(result) {
            Ok(0) => Err(DeviceError::ShortDevice { operation, offset: request.offset, length, size: offset }),
            Ok(count) => {
                request.done += count;
                if request.done < request.bytes {
                    self.start(slot, request);
                    return;
                }
                Ok(())
            }
            Err(_) if matches!(-result, libc::EINTR | libc::EAGAIN) => {
                self.start(slot, request);
                return;
            }
            Err(_) => Err(DeviceError::Io { operation, offset, length: length - widen(request.done), errno: -result }),
        };
        self.free.push(slot);
        let Some(job) = self.jobs.get_mut(request.job).and_then(Option::as_mut) else { return };
        job.left -= 1;
        match (outcome, request.memory) {
            (Ok(()), _) => {}
            (Err(_), Memory::Gather(gather)) => {
                // What is between them may be what cannot be read.
                let alone = gather.apart(request.offset);
                job.left += alone.len();
                self.backlog.extend(alone.into_iter().map(|stretch| Request::new(request.job, stretch)));
            }
            (Err(error), Memory::At(_)) => {
                job.failed.get_or_insert(error);
            }
        }
        if job.left == 0
            && let Some(Job { tag, buffer, failed, .. }) = self.jobs.get_mut(request.job).and_then(Option::take)
        {
            self.free_jobs.push(request.job);
            done.push(ReadDone { tag, buffer, outcome: failed.map_or(Ok(()), Err) });
        }
    }

    /// Puts requests for stretches into the backlog, one for those that lie close together; how many.
    fn queue(&mut self, job: usize, stretches: &[Stretch]) -> usize {
        let before = self.backlog.len();
        let mut left = stretches;
        while let Some(first) = left.first() {
            let (request, taken) = match Gather::of(left) {
                None => (Request::new(job, *first), 1),
                Some(gather) => {
                    let (taken, bytes) = (gather.stretches(), gather.bytes());
                    let memory = Memory::Gather(Box::new(gather));
                    (Request { job, offset: first.offset, bytes, done: 0, memory }, taken)
                }
            };
            self.backlog.push_back(request);
            left = left.get(taken..).unwrap_or_default();
        }
        self.backlog.len() - before
    }
}

impl Request {
    fn new(job: usize, Stretch { offset, at, bytes }: Stretch) -> Request {
        Request { job, offset, bytes, done: 0, memory: Memory::At(at) }
    }
}

impl DeviceReads for ReadQueue {
    fn submit(&mut self, tag: u64, offset: u64, into: AlignedBuf) {
        self.submit_stretches(tag, &[Stretch { offset, at: 0, bytes: into.len() }], into);
    }

    fn submit_stretches(&mut self, tag: u64, stretches: &[Stretch], into: AlignedBuf) {
        if let Err(error) = self.check(stretches, into.len()) {
            self.refused.push(ReadDone { tag, buffer: into, outcome: Err(error) });
            return;
        }
        if stretches.is_empty() {
            self.refused.push(ReadDone { tag, buffer: into, outcome: Ok(()) });
            return;
        }
        let job = self.add_job(Job { tag, buffer: into, left: 0, failed: None });
        let left = self.queue(job, stretches);
        if let Some(job) = self.jobs.get_mut(job).and_then(Option::as_mut) {
            job.left = left;
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
        self.jobs.len() - self.free_jobs.len() + self.refused.len()
    }
}

impl Drop for ReadQueue {
    fn drop(&mut self) {
        self.backlog.clear();
        let mut done = Vec::new();
        while self.in_kernel() > 0 {
            self.enter(1);
            self.reap(&mut done);
            // A short transfer that could not go on, and what failed together.
            self.backlog.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Device as _, OpenMode, UringDevice, Write};
    use super::*;

    const KIB: usize = 1024;

    fn byte_at(offset: usize) -> u8 {
        u8::try_from(offset / KIB % 251).unwrap()
    }

    /// A file with a mark in each KiB.
    fn device(kib: usize) -> (tempfile::NamedTempFile, UringDevice) {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(widen(kib * KIB)).unwrap();
        let device = UringDevice::open(image.path(), OpenMode::ReadWrite, false).unwrap();
        let mut all = device.buffers().take(kib * KIB);
        all.as_mut_slice().iter_mut().enumerate().for_each(|(offset, byte)| *byte = byte_at(offset));
        device.submit(Write::whole(0, all)).wait().unwrap();
        (image, device)
    }

    fn queue(device: &UringDevice) -> ReadQueue {
        ReadQueue::new(4, &device.opened, &device.pool).unwrap()
    }

    fn stretch(offset_kib: usize, at_kib: usize, kib: usize) -> Stretch {
        Stretch { offset: widen(offset_kib * KIB), at: at_kib * KIB, bytes: kib * KIB }
    }

    fn all(queue: &mut ReadQueue) -> Vec<ReadDone> {
        let mut done = Vec::new();
        while queue.under_way() > 0 {
            queue.wait(1, &mut done);
        }
        done.sort_by_key(|read| read.tag);
        done
    }

    /// The bytes of stretches where they belong, and 0xEE elsewhere.
    fn check(buffer: &AlignedBuf, stretches: &[Stretch]) {
        for (at, byte) in buffer.as_slice().iter().enumerate() {
            let of = stretches.iter().find(|stretch| (stretch.at..stretch.at + stretch.bytes).contains(&at));
            let offset = of.map(|of| usize::try_from(of.offset).unwrap() + at - of.at);
            assert_eq!(*byte, offset.map_or(0xEE, byte_at), "at {at}");
        }
    }

    #[test]
    fn stretches_near_and_far_fill_their_places_and_leave_the_rest_of_the_buffer_alone() {
        let (_image, device) = device(1024);
        let mut queue = queue(&device);
        let reads: [&[Stretch]; 5] = [
            &[stretch(8, 0, 64)],
            &[stretch(8, 0, 64), stretch(84, 64, 36)],
            &[stretch(300, 4, 8), stretch(8, 32, 16), stretch(24, 12, 16)],
            &[stretch(0, 96, 4), stretch(512, 0, 64)],
            &[],
        ];
        let requests = [1, 1, 2, 2, 0];
        for from_pool in [true, false] {
            for (tag, (stretches, requests)) in reads.iter().zip(requests).enumerate() {
                let (length, before) = (100 * KIB, queue.backlog.len());
                let mut into = if from_pool { device.buffers().take(length) } else { AlignedBuf::zeroed(length) };
                into.as_mut_slice().fill(0xEE);
                queue.submit_stretches(widen(tag), stretches, into);
                assert_eq!(queue.backlog.len() - before, requests, "read {tag}");
            }
            assert_eq!(queue.under_way(), reads.len());
            let done = all(&mut queue);
            assert_eq!(done.len(), reads.len());
            for (read, stretches) in done.iter().zip(reads) {
                read.outcome.as_ref().unwrap();
                check(&read.buffer, stretches);
            }
        }
    }

    #[test]
    fn what_fails_together_is_read_one_by_one_and_fails_only_where_it_fails_alone() {
        let (image, device) = device(1024);
        let mut queue = queue(&device);
        let stretches = [stretch(900, 0, 64), stretch(976, 64, 36)];
        let submit = |queue: &mut ReadQueue| {
            let mut into = device.buffers().take(100 * KIB);
            into.as_mut_slice().fill(0xEE);
            queue.submit_stretches(5, &stretches, into);
        };
        // The kernel says that it cannot read what is between them.
        submit(&mut queue);
        let (slot, request) = (queue.free.pop().unwrap(), queue.backlog.pop_front().unwrap());
        let mut done = Vec::new();
        queue.finish(slot, request, -libc::EIO, &mut done);
        assert_eq!((done.len(), queue.backlog.len(), queue.in_kernel(), queue.under_way()), (0, 2, 0, 1));
        let done = all(&mut queue);
        done[0].outcome.as_ref().unwrap();
        check(&done[0].buffer, &stretches);
        // The device ends amid the second.
        image.as_file().set_len(widen(980 * KIB)).unwrap();
        submit(&mut queue);
        let done = all(&mut queue);
        let Err(DeviceError::ShortDevice { offset, length, .. }) = done[0].outcome else {
            panic!("{:?}", done[0].outcome)
        };
        assert_eq!((offset, length), (widen(976 * KIB), widen(36 * KIB)));
        // It is given back once, and its place is used again.
        assert_eq!((queue.jobs.len(), queue.free_jobs.len(), queue.in_kernel()), (1, 1, 0));
        submit(&mut queue);
        drop(queue);
    }

    #[test]
    fn stretches_outside_of_the_device_or_of_the_buffer_are_refused() {
        let (_image, device) = device(64);
        let mut queue = queue(&device);
        let refused: [&[Stretch]; 4] = [
            &[stretch(0, 0, 4), stretch(64, 4, 4)],
            &[stretch(0, 0, 4), stretch(4, 5, 4)],
            &[stretch(0, 0, 4), Stretch { offset: 4096, at: usize::MAX & !4095, bytes: 4096 }],
            &[Stretch { offset: 0, at: 1, bytes: 512 }],
        ];
        for stretches in refused {
            queue.submit_stretches(1, stretches, device.buffers().take(8 * KIB));
        }
        assert_eq!(queue.in_kernel(), 0);
        let done = all(&mut queue);
        let outcomes: Vec<&DeviceError> = done.iter().filter_map(|read| read.outcome.as_ref().err()).collect();
        let [
            DeviceError::ShortDevice { .. },
            DeviceError::OutsideBuffer { .. },
            DeviceError::OutsideBuffer { .. },
            DeviceError::Unaligned { .. },
        ] = outcomes.as_slice()
        else {
            panic!("{outcomes:?}")
        };
    }
}
