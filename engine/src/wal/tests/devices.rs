//! Devices that do what the simulated one leaves out.

use crate::device::{AlignedBuf, Completion, Device, DeviceError, Drive, Geometry, SimulatedDevice, Ticket, Write};
use parking_lot::Mutex;
use std::sync::Arc;

/// A write that stays with whoever submitted it until somebody waits for it.
struct Held(SimulatedDevice, Mutex<Option<(Write, Completion)>>);

impl Drive for Held {
    fn drive(&self) -> bool {
        let Some((write, completion)) = self.1.lock().take() else { return false };
        completion.complete(self.0.submit(Write { lazy: false, ..write }).wait());
        true
    }
}

/// Writes that may wait for whoever waits for them do so.
pub struct HoldsLazyWrites(pub SimulatedDevice);

impl Device for HoldsLazyWrites {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }
    fn read(&self, offset: u64, into: &mut AlignedBuf) -> std::result::Result<(), DeviceError> {
        self.0.read(offset, into)
    }
    fn submit(&self, write: Write) -> Ticket {
        if !write.lazy {
            return self.0.submit(write);
        }
        let held = Arc::new(Held(self.0.clone(), Mutex::default()));
        let (ticket, completion) = Ticket::pair_driven_by(Some(Arc::<Held>::clone(&held)));
        *held.1.lock() = Some((write, completion));
        ticket
    }
    fn flush(&self) -> std::result::Result<(), DeviceError> {
        self.0.flush()
    }
    fn discard(&self, offset: u64, len: u64) -> std::result::Result<(), DeviceError> {
        self.0.discard(offset, len)
    }
    fn label(&self) -> String {
        self.0.label()
    }
}
