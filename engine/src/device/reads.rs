//! Reads under way: many at a time on one thread, completed in any order.
//!
//! A queue belongs to the thread that opened it (it is not `Send`): its ring, where there is one, has a single issuer.

use super::{AlignedBuf, Device, DeviceError};
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

/// Reads of one thread. Dropping it waits for those under way.
pub trait DeviceReads {
    /// Queues a read that fills the whole buffer from `offset`. It starts with the next [`wait`](Self::wait) at the
    /// latest; errors, also of alignment and bounds, come from there.
    fn submit(&mut self, tag: u64, offset: u64, into: AlignedBuf);

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
    queued: VecDeque<(u64, u64, AlignedBuf)>,
}

impl DeviceReads for OneByOne {
    fn submit(&mut self, tag: u64, offset: u64, into: AlignedBuf) {
        self.queued.push_back((tag, offset, into));
    }

    fn wait(&mut self, min: usize, done: &mut Vec<ReadDone>) {
        for _ in 0..min {
            let Some((tag, offset, mut buffer)) = self.queued.pop_front() else { return };
            let outcome = self.device.read(offset, &mut buffer);
            done.push(ReadDone { tag, buffer, outcome });
        }
    }

    fn under_way(&self) -> usize {
        self.queued.len()
    }
}
