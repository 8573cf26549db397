//! A device whose own memory does not count.

use crate::counted::aside;
use envoyfs_engine::device::{AlignedBuf, BufferPool, Device, DeviceError, Geometry, Ticket, Write};

/// See the module. Buffers come from the engine's side and count.
pub struct Uncounted<D>(pub D);

impl<D: Device> Device for Uncounted<D> {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }
    fn read(&self, offset: u64, into: &mut AlignedBuf) -> Result<(), DeviceError> {
        aside(|| self.0.read(offset, into))
    }
    fn submit(&self, write: Write) -> Ticket {
        aside(|| self.0.submit(write))
    }
    fn flush(&self) -> Result<(), DeviceError> {
        aside(|| self.0.flush())
    }
    fn discard(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        aside(|| self.0.discard(offset, len))
    }
    fn label(&self) -> String {
        self.0.label()
    }
    fn buffers(&self) -> &BufferPool {
        self.0.buffers()
    }
}
