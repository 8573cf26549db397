//! A device that writes down what is done to another, so that every power cut can be tried afterwards.
//!
//! The order in the log is what makes it sound: a completion is logged before anybody can learn of it; the begin of a
//! flush is logged before the flush is issued, its end after it returned. So a write that the log shows completed
//! before a flush began really was, and is durable once the flush's end is in the log. A durable write is so once its
//! completion is.
//!
//! ```text
//! log      W1 W2 C1 FB C2 FE ... cut
//! durable  W1 (completed before FB, and FE is there)      at risk: W2
//! ```

mod crash_images;
#[cfg(test)]
mod tests;

pub use crash_images::{CrashImages, SectorFate};

use super::image::Payload;
use super::{AlignedBuf, BufferPool, Device, DeviceError, DeviceReads, Geometry, Ticket, Write, WriteCache, widen};
use crate::sync::Mutex;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

/// One line of the log.
#[derive(Debug)]
enum Event {
    /// A write or discard was issued; its number is its place among these events.
    Issued { offset: u64, contents: Contents, durable: bool },
    /// A write or discard was answered.
    Completed { write: usize, succeeded: bool },
    /// A flush is about to be issued; its number is its place among these events.
    FlushBegin,
    /// A flush was answered.
    FlushEnd { flush: usize, succeeded: bool },
}

/// The bytes of a write.
#[derive(Debug)]
enum Contents {
    Memory(Payload),
    /// In the spill file.
    Spilled {
        at: u64,
        length: usize,
    },
    /// Too large for memory and the spill file refused it.
    Lost,
}

#[derive(Debug, Default)]
struct Log {
    events: Vec<Event>,
    writes: usize,
    flushes: usize,
    bytes: u64,
}

#[derive(Debug)]
struct Recorder {
    log: Mutex<Log>,
    spill: Option<File>,
}

/// Wraps a device and logs every write, discard and flush.
pub struct RecordingDevice<D: Device> {
    device: D,
    recorder: Arc<Recorder>,
}

/// The log of a [`RecordingDevice`]: grows while the device lives. Clones refer to the same log.
#[derive(Clone, Debug)]
pub struct Recording {
    recorder: Arc<Recorder>,
}

impl<D: Device> RecordingDevice<D> {
    /// Logs to memory.
    #[must_use]
    pub fn new(device: D) -> RecordingDevice<D> {
        RecordingDevice { device, recorder: Arc::new(Recorder { log: Mutex::default(), spill: None }) }
    }

    /// Logs the bytes of writes to a file, which is made or replaced; the rest to memory.
    ///
    /// # Errors
    /// What creating the file meets.
    pub fn with_spill_file(device: D, path: &Path) -> std::io::Result<RecordingDevice<D>> {
        let spill = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(RecordingDevice { device, recorder: Arc::new(Recorder { log: Mutex::default(), spill: Some(spill) }) })
    }

    /// The log.
    #[must_use]
    pub fn recording(&self) -> Recording {
        Recording { recorder: Arc::clone(&self.recorder) }
    }

    /// The device within.
    pub fn inner(&self) -> &D {
        &self.device
    }
}

impl Recording {
    /// Events so far; a power cut may be put before any of them, or after the last.
    #[must_use]
    pub fn len(&self) -> usize {
        self.recorder.log.lock().events.len()
    }

    /// Whether nothing was logged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes written so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.recorder.log.lock().bytes
    }
}

impl Recorder {
    fn issue(&self, offset: u64, contents: Payload, durable: bool) -> usize {
        let mut log = self.log.lock();
        let start = log.bytes;
        log.bytes += if let Payload::Bytes(bytes) = &contents { widen(bytes.len()) } else { 0 };
        let contents = match (&self.spill, contents) {
            // Under the lock, so that the log never names bytes that are not there yet.
            (Some(spill), Payload::Bytes(bytes)) => match spill.write_all_at(&bytes, start) {
                Ok(()) => Contents::Spilled { at: start, length: bytes.len() },
                Err(error) => {
                    tracing::error!(%error, "the recording cannot be spilled: it ends here");
                    Contents::Lost
                }
            },
            (_, contents) => Contents::Memory(contents),
        };
        log.events.push(Event::Issued { offset, contents, durable });
        log.writes += 1;
        log.writes - 1
    }

    fn complete(&self, write: usize, result: &Result<(), DeviceError>) {
        self.log.lock().events.push(Event::Completed { write, succeeded: result.is_ok() });
    }

    fn begin_flush(&self) -> usize {
        let mut log = self.log.lock();
        log.events.push(Event::FlushBegin);
        log.flushes += 1;
        log.flushes - 1
    }

    fn end_flush(&self, flush: usize, result: &Result<(), DeviceError>) {
        self.log.lock().events.push(Event::FlushEnd { flush, succeeded: result.is_ok() });
    }

    /// The bytes of a write again.
    fn payload(&self, contents: &Contents) -> std::io::Result<Payload> {
        match (contents, &self.spill) {
            (Contents::Memory(payload), _) => Ok(payload.clone()),
            (Contents::Spilled { at, length }, Some(spill)) => {
                let mut bytes = vec![0; *length];
                spill.read_exact_at(&mut bytes, *at)?;
                Ok(Payload::Bytes(bytes.into()))
            }
            _ => Err(std::io::Error::other("the recording lost a write: its spill file was full")),
        }
    }
}

impl<D: Device> Device for RecordingDevice<D> {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn read(&self, offset: u64, into: &mut AlignedBuf) -> Result<(), DeviceError> {
        self.device.read(offset, into)
    }

    fn submit(&self, write: Write) -> Ticket {
        // A malformed write changes nothing and is not logged; the device says what is wrong with it.
        let Ok(bytes) = super::check_write(&self.device.geometry(), &write) else { return self.device.submit(write) };
        let number = self.recorder.issue(write.offset, Payload::Bytes(Arc::from(bytes)), write.durable);
        let inner = self.device.submit(write);
        let (ticket, completion) = inner.outer_pair();
        let recorder = Arc::clone(&self.recorder);
        inner.on_done(Box::new(move |result| {
            recorder.complete(number, &result);
            completion.complete(result);
        }));
        ticket
    }

    fn flush(&self) -> Result<(), DeviceError> {
        let number = self.recorder.begin_flush();
        let result = self.device.flush();
        self.recorder.end_flush(number, &result);
        result
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        super::check_range(&self.device.geometry(), super::Operation::Discard, offset, len)?;
        let number = self.recorder.issue(offset, Payload::Zeros(len), false);
        let result = self.device.discard(offset, len);
        self.recorder.complete(number, &result);
        result
    }

    fn label(&self) -> String {
        format!("{} (recorded)", self.device.label())
    }

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
