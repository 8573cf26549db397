//! Neighbours that the write thread makes one request of: a container's header and the data behind it, the last data in it with table and footer. A request of a few KiB costs a device about
//! a tenth of what one of 1 MiB costs, so three of them beside every four of those are felt.
//!
//! Nothing is promised of the order of writes, so joining changes nothing if power fails. What fails together is written again one by one, so that each error is that of its own write.

use super::super::{BUFFER_ALIGNMENT, DeviceError, Operation, Write, widen};
use super::ring::Ring;
use super::write_ring::{Job, LARGE_BYTES_MIN};
use io_uring::squeue;

/// A write of at most so many bytes is joined to its neighbour; two large ones gain nothing.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// Longest request of several writes: what block devices commonly take in one piece (`max_sectors_kb`).
pub(super) const JOINED_BYTES_MAX: usize = 1280 << 10;
/// Most writes in one request.
const PIECES_MAX: usize = 16;

/// One request: a write, or several neighbours.
pub(super) struct Run {
    first: Job,
    others: Vec<Job>,
    bytes: usize,
    /// Bytes that are written.
    done: usize,
    /// Not to be joined to others again.
    alone: bool,
    /// Read by the kernel when the request is submitted; kept until it has completed all the same.
    pieces: Vec<libc::iovec>,
}

/// What the kernel's answer means.
pub(super) enum Answer {
    /// Once more, with the rest.
    Again(Run),
    /// Each of them once more, by itself.
    OneByOne(Vec<Run>),
    /// Over, for one write or for all of them.
    Done(Run, Result<(), DeviceError>),
}

impl Run {
    pub(super) fn new(first: Job) -> Run {
        let bytes = first.write.range.len();
        Run { first, others: Vec::new(), bytes, done: 0, alone: false, pieces: Vec::new() }
    }

    /// Adds a write that goes right behind these, if that is worth it; else gives it back.
    pub(super) fn join(&mut self, job: Job) -> Option<Job> {
        let Write { offset, durable, .. } = job.write;
        let bytes = job.write.range.len();
        let fits = !self.alone
            && !durable
            && !self.first.write.durable
            && self.first.write.offset + widen(self.bytes) == offset
            && self.bytes.min(bytes) <= SMALL_BYTES_MAX
            && self.bytes + bytes <= JOINED_BYTES_MAX
            && self.others.len() + 1 < PIECES_MAX;
        if !fits {
            return Some(job);
        }
        self.others.push(job);
        self.bytes += bytes;
        None
    }

    fn jobs(&self) -> impl Iterator<Item = &Job> {
        std::iter::once(&self.first).chain(&self.others)
    }

    pub(super) fn into_jobs(self) -> impl Iterator<Item = Job> {
        std::iter::once(self.first).chain(self.others)
    }

    /// Where it goes, and how long it is.
    pub(super) fn place(&self) -> (u64, u64) {
        (self.first.write.offset, widen(self.bytes))
    }

    /// Whether a device takes so long for it that it has enough to do with a few.
    pub(super) fn is_large(&self) -> bool {
        self.bytes >= LARGE_BYTES_MIN
    }

    /// Whether it is durable when it completes.
    pub(super) fn is_durable(&self) -> bool {
        self.first.write.durable
    }

    /// The rest of it, as a request. The memory stays valid as long as this run is kept.
    pub(super) fn entry(&mut self, ring: &Ring) -> squeue::Entry {
        let registered = self.jobs().all(|job| ring.has_registered(&job.write.buf));
        let offset = self.first.write.offset + widen(self.done);
        if self.others.is_empty() {
            let rest = self.first.write.bytes().and_then(|bytes| bytes.get(self.done..)).unwrap_or_default();
            return ring.write((registered, rest.as_ptr()), rest.len(), offset, self.first.write.durable);
        }
        let (mut pieces, mut skip) = (std::mem::take(&mut self.pieces), self.done);
        pieces.clear();
        for job in self.jobs() {
            let bytes = job.write.bytes().unwrap_or_default();
            let rest = bytes.get(skip.min(bytes.len())..).unwrap_or_default();
            skip = skip.saturating_sub(bytes.len());
            if !rest.is_empty() {
                pieces.push(libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() });
            }
        }
        self.pieces = pieces;
        ring.write_pieces(&self.pieces, registered, offset, false)
    }

    /// The kernel may still read the list, for an unknown time.
    pub(super) fn leak_pieces(&mut self) {
        std::mem::forget(std::mem::take(&mut self.pieces));
    }

    /// Takes the kernel's answer.
    pub(super) fn answered(mut self, result: i32) -> Answer {
        let (operation, offset, length) = (Operation::Write, self.first.write.offset, widen(self.bytes));
        let outcome = match usize::try_from(result) {
            Ok(0) => Err(DeviceError::ShortDevice { operation, offset, length, size: offset + widen(self.done) }),
            Ok(count) => {
                self.done += count;
                if self.done < self.bytes {
                    return Answer::Again(self);
                }
                Ok(())
            }
            Err(_) if matches!(-result, libc::EINTR | libc::EAGAIN) => return Answer::Again(self),
            Err(_) => Err(DeviceError::Io { operation, offset: offset + widen(self.done), length, errno: -result }),
        };
        if outcome.is_err() && !self.others.is_empty() {
            let alone = |job| Run { alone: true, ..Run::new(job) };
            return Answer::OneByOne(self.into_jobs().map(alone).collect());
        }
        Answer::Done(self, outcome)
    }
}

// A rest begins where the device stopped, at a logical block, which is a multiple of what memory has to be aligned to.
const _: () = assert!(BUFFER_ALIGNMENT.is_multiple_of(512));

#[cfg(test)]
mod tests {
    use super::super::super::{AlignedBuf, Device as _, OpenMode, Ticket, UringDevice};
    use super::*;
    use std::sync::Arc;

    fn job(offset: u64, bytes: usize) -> (Job, Ticket) {
        let (ticket, completion) = Ticket::pair();
        let write = Write::part(offset, Arc::new(AlignedBuf::zeroed(bytes)), 0..bytes);
        (Job::new(write, completion), ticket)
    }

    #[test]
    fn only_small_neighbours_that_are_not_durable_are_joined() {
        const MIB: usize = 1 << 20;
        let mut run = Run::new(job(4096, 4096).0);
        assert!(run.join(job(0, 4096).0).is_some(), "in front of it");
        assert!(run.join(job(12_288, 4096).0).is_some(), "behind a gap");
        let (durable, _ticket) = job(8192, 4096);
        let durable = Job { write: durable.write.durable(), ..durable };
        assert!(run.join(durable).is_some(), "durable");
        assert!(run.join(job(8192, MIB).0).is_none());
        assert_eq!(run.place(), (4096, 4096 + widen(MIB)));
        let behind = 8192 + widen(MIB);
        assert!(run.join(job(behind, MIB).0).is_some(), "two large ones");
        assert!(run.join(job(behind, 4096).0).is_none());
        let mut run = Run::new(job(0, 4096).0);
        let joined = (1..40).take_while(|at| run.join(job(at * 4096, 4096).0).is_none()).count();
        assert_eq!(joined, PIECES_MAX - 1);
    }

    #[test]
    fn writes_that_announce_more_are_made_when_the_next_one_comes_or_somebody_waits_or_the_device_goes() {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(8 << 20).unwrap();
        let open = || UringDevice::open(image.path(), OpenMode::ReadWrite, false).unwrap();
        let device = open();
        let write = |device: &UringDevice, offset, bytes, mark| {
            let mut buffer = device.buffers().take(bytes);
            buffer.as_mut_slice().fill(mark);
            Write::whole(offset, buffer)
        };
        let check = |device: &UringDevice, offset, bytes, mark| {
            let mut read = device.buffers().take(bytes);
            device.read(offset, &mut read).unwrap();
            assert!(read.as_slice().iter().all(|byte| *byte == mark), "{mark}");
        };
        let head = device.submit(write(&device, 4096, 4096, 1).more());
        let data = device.submit(write(&device, 8192, 1 << 20, 2));
        data.wait().unwrap();
        head.wait().unwrap();
        // From the heap, so of memory that is not registered.
        let mut tail = AlignedBuf::zeroed(8192);
        tail.as_mut_slice().fill(3);
        let tickets = [
            device.submit(write(&device, 2 << 20, 4096, 4).more()),
            device.submit(Write::whole((2 << 20) + 4096, tail).more()),
        ];
        tickets.iter().for_each(|ticket| ticket.wait().unwrap());
        let last = device.submit(write(&device, 4 << 20, 4096, 5).more());
        drop(device);
        last.wait().unwrap();
        let device = open();
        let places =
            [(4096, 4096, 1), (8192, 1 << 20, 2), (2 << 20, 4096, 4), ((2 << 20) + 4096, 8192, 3), (4 << 20, 4096, 5)];
        places.into_iter().for_each(|(offset, bytes, mark)| check(&device, offset, bytes, mark));
    }

    #[test]
    fn what_fails_together_is_tried_one_by_one_and_what_fails_alone_has_failed() {
        let (first, ticket) = job(0, 4096);
        let mut run = Run::new(first);
        assert!(run.join(job(4096, 4096).0).is_none());
        let Answer::Again(run) = run.answered(512) else { panic!("a short transfer goes on") };
        let Answer::OneByOne(mut runs) = run.answered(-libc::EIO) else { panic!("joined writes fail one by one") };
        assert_eq!(runs.len(), 2);
        let mut alone = runs.remove(0);
        assert!(alone.join(job(4096, 4096).0).is_some(), "it would only fail together again");
        assert_eq!((alone.place(), alone.done), ((0, 4096), 0), "all of it is written again");
        let Answer::Done(alone, Err(error)) = alone.answered(-libc::EIO) else { panic!("alone it has failed") };
        assert!(matches!(error, DeviceError::Io { offset: 0, length: 4096, .. }));
        drop(alone);
        assert!(ticket.is_done());
    }
}
