//! Reads under way on the simulated device: done while the caller waits, in an order drawn from the seed, or in the order of virtual time. Each sees
//! what the device holds when it is done, not when it was submitted.

use super::super::reads::{DeviceReads, ReadDone, Stretch, read_stretches};
use super::super::{AlignedBuf, widen};
use super::{SimulatedDevice, VirtualClock};
use std::sync::Arc;

pub(super) struct Reads {
    device: SimulatedDevice,
    queued: Vec<Queued>,
}

struct Queued {
    tag: u64,
    stretches: Vec<Stretch>,
    buffer: AlignedBuf,
    /// In virtual time, if there is any.
    due: Option<(Arc<VirtualClock>, u64)>,
}

impl Reads {
    pub(super) fn new(device: SimulatedDevice) -> Reads {
        Reads { device, queued: Vec::new() }
    }

    /// Which is done next; without need, only what is done by now.
    fn next(&self, needed: bool) -> Option<usize> {
        let due = |read: &Queued| read.due.as_ref().map(|(clock, done_ns)| (*done_ns, clock.now_ns()));
        let timed = self.queued.iter().enumerate().filter_map(|(index, read)| Some((due(read)?, index)));
        match timed.min() {
            Some(((done_ns, now_ns), index)) => (needed || done_ns <= now_ns).then_some(index),
            None if needed && !self.queued.is_empty() => Some(self.device.draw(self.queued.len())),
            None => None,
        }
    }
}

impl DeviceReads for Reads {
    fn submit(&mut self, tag: u64, offset: u64, into: AlignedBuf) {
        self.submit_stretches(tag, &[Stretch { offset, at: 0, bytes: into.len() }], into);
    }

    fn submit_stretches(&mut self, tag: u64, stretches: &[Stretch], into: AlignedBuf) {
        let serve = |stretch: &Stretch| self.device.serve_read(stretch.offset, widen(stretch.bytes));
        let due = stretches.iter().filter_map(serve).max_by_key(|(_, done_ns)| *done_ns);
        self.queued.push(Queued { tag, stretches: stretches.to_vec(), buffer: into, due });
    }

    fn wait(&mut self, min: usize, done: &mut Vec<ReadDone>) {
        let mut count = 0;
        while let Some(chosen) = self.next(count < min) {
            let Queued { tag, stretches, mut buffer, due } = self.queued.swap_remove(chosen);
            if let Some((clock, done_ns)) = due {
                clock.advance_to(done_ns);
            }
            self.device.inner.settle();
            let read = |offset, into: &mut AlignedBuf| self.device.inner.read(offset, into);
            let outcome = read_stretches(&stretches, &mut buffer, read);
            done.push(ReadDone { tag, buffer, outcome });
            count += 1;
        }
    }

    fn under_way(&self) -> usize {
        self.queued.len()
    }
}
