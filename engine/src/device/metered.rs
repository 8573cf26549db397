//! Counts and times what a device is asked to do. Changes nothing else.

use super::{AlignedBuf, BufferPool, Device, DeviceError, DeviceReads, Geometry, Ticket, Write, WriteCache};
use crate::metrics::Metrics;
use std::sync::Arc;

/// A device with its metrics.
pub struct MeteredDevice {
    device: Arc<dyn Device>,
    metrics: Arc<Metrics>,
}

impl MeteredDevice {
    /// Counts into `metrics`.
    #[must_use]
    pub fn new(device: Arc<dyn Device>, metrics: Arc<Metrics>) -> Self {
        Self { device, metrics }
    }
}

impl Device for MeteredDevice {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn read(&self, offset: u64, into: &mut AlignedBuf) -> Result<(), DeviceError> {
        let device = &self.metrics.device;
        device.read_bytes.add(super::widen(into.len()));
        let _timing = self.metrics.time(&device.read);
        self.device.read(offset, into).inspect_err(|_| device.read_errors.increment())
    }

    fn submit(&self, write: Write) -> Ticket {
        self.metrics.device.write_bytes.add(super::widen(write.range.len()));
        let began_ns = self.metrics.now_ns();
        let ticket = self.device.submit(write);
        let metrics = Arc::clone(&self.metrics);
        ticket.on_done(Box::new(move |result| {
            metrics.device.write.record_ns(metrics.now_ns().saturating_sub(began_ns));
            if result.is_err() {
                metrics.device.write_errors.increment();
            }
        }));
        ticket
    }

    fn flush(&self) -> Result<(), DeviceError> {
        let device = &self.metrics.device;
        let _timing = self.metrics.time(&device.flush);
        self.device.flush().inspect_err(|_| device.flush_errors.increment())
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        self.metrics.device.discarded_bytes.add(len);
        self.device.discard(offset, len)
    }

    fn label(&self) -> String {
        self.device.label()
    }

    /// Not counted here: the engine's queue knows when its reads began.
    fn own_reads(&self, depth: u32) -> Result<Option<Box<dyn DeviceReads>>, DeviceError> {
        self.device.own_reads(depth)
    }

    fn write_cache(&self) -> Option<WriteCache> {
        self.device.write_cache()
    }

    fn durable_writes_report_apart(&self) -> bool {
        self.device.durable_writes_report_apart()
    }

    fn buffers(&self) -> &BufferPool {
        self.device.buffers()
    }
}
