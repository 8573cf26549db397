//! Reads under way on the simulated device: done while the caller waits, in an order drawn from the seed. Each sees
//! what the device holds when it is done, not when it was submitted.

use super::super::reads::{DeviceReads, ReadDone};
use super::super::{AlignedBuf, Device as _};
use super::SimulatedDevice;

pub(super) struct Reads {
    device: SimulatedDevice,
    queued: Vec<(u64, u64, AlignedBuf)>,
}

impl Reads {
    pub(super) fn new(device: SimulatedDevice) -> Reads {
        Reads { device, queued: Vec::new() }
    }
}

impl DeviceReads for Reads {
    fn submit(&mut self, tag: u64, offset: u64, into: AlignedBuf) {
        self.queued.push((tag, offset, into));
    }

    fn wait(&mut self, min: usize, done: &mut Vec<ReadDone>) {
        for _ in 0..min {
            if self.queued.is_empty() {
                return;
            }
            let chosen = self.device.draw(self.queued.len());
            let (tag, offset, mut buffer) = self.queued.swap_remove(chosen);
            let outcome = self.device.read(offset, &mut buffer);
            done.push(ReadDone { tag, buffer, outcome });
        }
    }

    fn under_way(&self) -> usize {
        self.queued.len()
    }
}
