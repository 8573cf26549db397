//! Reads under way: many at a time on one thread, completed in any order.
//!
//! A queue belongs to the thread that opened it (it is not `Send`): its ring, where there is one, has a single issuer.

use super::{AlignedBuf, Device, DeviceError, Operation, widen};
use std::collections::VecDeque;
use std::sync::Arc;

/// A read that is done, or failed: then the buffer's contents are undefined.
#[derive(Debug)]
pub struct ReadDone {
    /// What the caller gave it.
    pub tag: u64,
    /// The memory, back again.
    pub buffer: AlignedBuf,
    /// How it went.
    pub outcome: Result<(), DeviceError>,
}

/// Bytes of the device, and their place in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Where on the device, in bytes.
    pub offset: u64,
    /// From which byte of the buffer on; a multiple of 4096 suits every device.
    pub at: usize,
    /// How many.
    pub bytes: usize,
}

/// Reads of one thread. Dropping it waits for those under way.
pub trait DeviceReads {
    /// Queues a read that fills the whole buffer from `offset`. It starts with the next [`wait`](Self::wait) at the
    /// latest; errors, also of alignment and bounds, come from there.
    fn submit(&mut self, tag: u64, offset: u64, into: AlignedBuf);

    /// As [`submit`](Self::submit), of several stretches into one buffer, which is given back when all of them are done, with the error of one that failed. Bytes of the buffer that no stretch names stay what they are. Stretches must
    /// not overlap in the buffer; what lies close together on the device is best named in its order, since one request may then read it, with what is between.
    fn submit_stretches(&mut self, tag: u64, stretches: &[Stretch], into: AlignedBuf);

    /// Starts what is queued and blocks until at least `min` reads (or all, if fewer are under way) are done; puts
    /// these, and any others that are done, at the end of `done`.
    fn wait(&mut self, min: usize, done: &mut Vec<ReadDone>);

    /// Reads submitted and not returned yet.
    fn under_way(&self) -> usize;
}

/// A queue of reads on any device, for the calling thread. Where the device has none, reads are done one by one, in
/// the order of submission, while the caller waits.
///
/// # Errors
/// What the device meets when it makes its queue.
pub fn open_reads(device: &Arc<dyn Device>, depth: u32) -> Result<Box<dyn DeviceReads>, DeviceError> {
    match device.own_reads(depth)? {
        Some(reads) => Ok(reads),
        None => Ok(Box::new(OneByOne { device: Arc::clone(device), queued: VecDeque::new() })),
    }
}

struct OneByOne {
    device: Arc<dyn Device>,
    queued: VecDeque<(u64, Vec<Stretch>, AlignedBuf)>,
}

impl DeviceReads for OneByOne {
    fn submit(&mut self, tag: u64, offset: u64, into: AlignedBuf) {
        self.submit_stretches(tag, &[Stretch { offset, at: 0, bytes: into.len() }], into);
    }

    fn submit_stretches(&mut self, tag: u64, stretches: &[Stretch], into: AlignedBuf) {
        self.queued.push_back((tag, stretches.to_vec(), into));
    }

    fn wait(&mut self, min: usize, done: &mut Vec<ReadDone>) {
        for _ in 0..min {
            let Some((tag, stretches, mut buffer)) = self.queued.pop_front() else { return };
            let outcome = read_stretches(&stretches, &mut buffer, |offset, into| self.device.read(offset, into));
            done.push(ReadDone { tag, buffer, outcome });
        }
    }

    fn under_way(&self) -> usize {
        self.queued.len()
    }
}

/// Reads stretches one after the other, up to the first that fails.
pub(super) fn read_stretches(
    stretches: &[Stretch],
    into: &mut AlignedBuf,
    read: impl Fn(u64, &mut AlignedBuf) -> Result<(), DeviceError>,
) -> Result<(), DeviceError> {
    for Stretch { offset, at, bytes } in stretches.iter().copied() {
        if (at, bytes) == (0, into.len()) {
            return read(offset, into);
        }
        let mut part = AlignedBuf::zeroed(bytes);
        let length = into.len();
        let target = at.checked_add(bytes).and_then(|end| into.as_mut_slice().get_mut(at..end));
        let Some(target) = target.filter(|target| target.len() == part.len()) else {
            return Err(outside(offset, at, bytes, length));
        };
        read(offset, &mut part)?;
        target.copy_from_slice(part.as_slice());
    }
    Ok(())
}

/// A stretch that does not lie in its buffer.
pub(super) fn outside(offset: u64, at: usize, bytes: usize, length: usize) -> DeviceError {
    let (start, end, length) = (widen(at), widen(at.saturating_add(bytes)), widen(length));
    DeviceError::OutsideBuffer { operation: Operation::Read, offset, start, end, length }
}
