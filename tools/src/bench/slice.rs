//! A stretch of a device as a device: the store has one half of the scratch device, the floor the other.

use envoyfs_engine::device::{
    AlignedBuf, BufferPool, Device, DeviceError, DeviceReads, Geometry, Operation, ReadDone, Stretch, Ticket, Write,
    WriteCache, open_reads,
};
use std::sync::Arc;

/// See the module.
pub struct Slice {
    inner: Arc<dyn Device>,
    start: u64,
    bytes: u64,
}

impl Slice {
    /// From `start`, which is a multiple of the logical block, so many bytes.
    pub fn new(inner: Arc<dyn Device>, start: u64, bytes: u64) -> Self {
        Self { inner, start, bytes }
    }
}

fn check(bytes: u64, operation: Operation, offset: u64, length: u64) -> Result<(), DeviceError> {
    match offset.checked_add(length) {
        Some(end) if end <= bytes => Ok(()),
        _ => Err(DeviceError::ShortDevice { operation, offset, length, size: bytes }),
    }
}

impl Device for Slice {
    fn geometry(&self) -> Geometry {
        Geometry { size_bytes: self.bytes, ..self.inner.geometry() }
    }

    fn read(&self, offset: u64, into: &mut AlignedBuf) -> Result<(), DeviceError> {
        check(self.bytes, Operation::Read, offset, into.len() as u64)?;
        self.inner.read(self.start + offset, into)
    }

    fn submit(&self, write: Write) -> Ticket {
        let length = write.range.end.saturating_sub(write.range.start) as u64;
        match check(self.bytes, Operation::Write, write.offset, length) {
            Ok(()) => self.inner.submit(Write { offset: self.start + write.offset, ..write }),
            Err(error) => Ticket::done(Err(error)),
        }
    }

    fn flush(&self) -> Result<(), DeviceError> {
        self.inner.flush()
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        check(self.bytes, Operation::Discard, offset, len)?;
        self.inner.discard(self.start + offset, len)
    }

    fn label(&self) -> String {
        self.inner.label()
    }

    fn write_cache(&self) -> Option<WriteCache> {
        self.inner.write_cache()
    }

    fn durable_writes_report_apart(&self) -> bool {
        self.inner.durable_writes_report_apart()
    }

    fn own_reads(&self, depth: u32) -> Result<Option<Box<dyn DeviceReads>>, DeviceError> {
        let inner = open_reads(&self.inner, depth)?;
        Ok(Some(Box::new(SliceReads { inner, start: self.start, bytes: self.bytes, refused: Vec::new() })))
    }

    fn buffers(&self) -> &BufferPool {
        self.inner.buffers()
    }
}

struct SliceReads {
    inner: Box<dyn DeviceReads>,
    start: u64,
    bytes: u64,
    refused: Vec<ReadDone>,
}

impl DeviceReads for SliceReads {
    fn submit(&mut self, tag: u64, offset: u64, into: AlignedBuf) {
        match check(self.bytes, Operation::Read, offset, into.len() as u64) {
            Ok(()) => self.inner.submit(tag, self.start + offset, into),
            Err(error) => self.refused.push(ReadDone { tag, buffer: into, outcome: Err(error) }),
        }
    }

    fn submit_stretches(&mut self, tag: u64, stretches: &[Stretch], into: AlignedBuf) {
        let inside = |stretch: &Stretch| check(self.bytes, Operation::Read, stretch.offset, stretch.bytes as u64);
        match stretches.iter().try_for_each(inside) {
            Ok(()) => {
                let moved = |stretch: &Stretch| Stretch { offset: self.start + stretch.offset, ..*stretch };
                self.inner.submit_stretches(tag, &stretches.iter().map(moved).collect::<Vec<_>>(), into);
            }
            Err(error) => self.refused.push(ReadDone { tag, buffer: into, outcome: Err(error) }),
        }
    }

    fn wait(&mut self, min: usize, done: &mut Vec<ReadDone>) {
        let refused = self.refused.len();
        done.append(&mut self.refused);
        self.inner.wait(min.saturating_sub(refused), done);
    }

    fn under_way(&self) -> usize {
        self.inner.under_way() + self.refused.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use envoyfs_engine::device::SimulatedDevice;

    #[test]
    fn a_slice_reaches_its_own_stretch_and_nothing_else() {
        let whole: Arc<dyn Device> = Arc::new(SimulatedDevice::new(1 << 20, 512, 1));
        let slice: Arc<dyn Device> = Arc::new(Slice::new(Arc::clone(&whole), 8192, 16384));
        assert_eq!(slice.geometry().size_bytes, 16384);
        let mut block = AlignedBuf::zeroed(4096);
        block.as_mut_slice().fill(9);
        slice.submit(Write::whole(4096, block)).wait().unwrap();
        let mut read = AlignedBuf::zeroed(4096);
        whole.read(12288, &mut read).unwrap();
        assert!(read.as_slice().iter().all(|byte| *byte == 9));
        let mut reads = open_reads(&slice, 4).unwrap();
        reads.submit(1, 4096, AlignedBuf::zeroed(4096));
        reads.submit(2, 16384, AlignedBuf::zeroed(512));
        let stretch = |offset, at| Stretch { offset, at, bytes: 4096 };
        reads.submit_stretches(3, &[stretch(0, 4096), stretch(4096, 0)], AlignedBuf::zeroed(8192));
        reads.submit_stretches(4, &[stretch(0, 0), stretch(16384, 4096)], AlignedBuf::zeroed(8192));
        let mut done = Vec::new();
        while reads.under_way() > 0 {
            reads.wait(1, &mut done);
        }
        done.sort_by_key(|done| done.tag);
        assert!(done[0].outcome.is_ok() && done[0].buffer.as_slice()[0] == 9);
        assert!(matches!(done[1].outcome, Err(DeviceError::ShortDevice { .. })));
        assert!(done[2].outcome.is_ok() && done[2].buffer.as_slice()[0] == 9 && done[2].buffer.as_slice()[4096] == 0);
        assert!(matches!(done[3].outcome, Err(DeviceError::ShortDevice { .. })));
        assert!(slice.submit(Write::whole(16384, AlignedBuf::zeroed(512))).wait().is_err());
        assert!(slice.read(12288, &mut AlignedBuf::zeroed(8192)).is_err());
    }
}
