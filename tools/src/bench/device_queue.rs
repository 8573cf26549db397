//! The floor: the bare device, through the same device layer as the store.

use super::pattern::Io;
use super::queue::{Done, Queue, fill_with_noise, now};
use super::verify;
use anyhow::{Context as _, Result};
use crossbeam::channel::{Receiver, Sender, unbounded};
use envoyfs_engine::device::{AlignedBuf, Device, DeviceReads, ReadDone, Write, open_reads};
use std::sync::Arc;

/// See the module.
pub struct DeviceQueue {
    device: Arc<dyn Device>,
    reads: Box<dyn DeviceReads>,
    read_done: Vec<ReadDone>,
    writes: usize,
    write_buffers: Vec<Option<Arc<AlignedBuf>>>,
    written: (Sender<Done>, Receiver<Done>),
}

impl DeviceQueue {
    /// For the calling thread.
    ///
    /// # Errors
    /// What making the queue of reads meets.
    pub fn new(device: &Arc<dyn Device>, depth: u32) -> Result<Self> {
        let reads = open_reads(device, depth).with_context(|| format!("reading {}", device.label()))?;
        let write_buffers = vec![None; depth as usize];
        Ok(Self {
            device: Arc::clone(device),
            reads,
            read_done: Vec::new(),
            writes: 0,
            write_buffers,
            written: unbounded(),
        })
    }

    /// The tag's own buffer; another one if it is too short, or if it must be changed and the device still holds it.
    fn contents(&mut self, tag: usize, io: &Io, sequence: Option<u32>) -> Result<Arc<AlignedBuf>> {
        let slot = self.write_buffers.get_mut(tag).context("a tag beyond the depth")?;
        let length = io.bytes as usize;
        let usable =
            |buffer: &Arc<AlignedBuf>| buffer.len() >= length && (sequence.is_none() || Arc::strong_count(buffer) == 1);
        let mut buffer = match slot.take().filter(usable) {
            Some(buffer) => buffer,
            None => noise(&self.device, length),
        };
        if let (Some(sequence), Some(own)) = (sequence, Arc::get_mut(&mut buffer))
            && let Some(block) = own.as_mut_slice().get_mut(..length)
        {
            verify::seal(block, io.offset, sequence);
        }
        *slot = Some(Arc::clone(&buffer));
        Ok(buffer)
    }

    fn take_written(&mut self, done: &mut Vec<Done>) {
        let before = done.len();
        done.extend(self.written.1.try_iter());
        self.writes -= done.len() - before;
    }
}

fn noise(device: &Arc<dyn Device>, length: usize) -> Arc<AlignedBuf> {
    let mut fresh = device.buffers().take(length);
    fill_with_noise(fresh.as_mut_slice());
    Arc::new(fresh)
}

impl Queue for DeviceQueue {
    fn prepare(&mut self, bytes: usize) {
        let device = &self.device;
        self.write_buffers.iter_mut().for_each(|slot| *slot = Some(noise(device, bytes)));
    }

    fn buffer(&self, bytes: usize) -> AlignedBuf {
        self.device.buffers().take(bytes)
    }

    fn read(&mut self, tag: usize, io: &Io, into: AlignedBuf) -> Result<()> {
        self.reads.submit(tag as u64, io.offset, into);
        Ok(())
    }

    fn write(&mut self, tag: usize, io: &Io, sequence: Option<u32>) -> Result<()> {
        let buf = self.contents(tag, io, sequence)?;
        let ticket = self.device.submit(Write::part(io.offset, buf, 0..io.bytes as usize));
        self.writes += 1;
        let done = self.written.0.clone();
        ticket.on_done(Box::new(move |outcome| {
            let error = outcome.err().map(|error| error.to_string());
            // The worker may have given up.
            let _ = done.send(Done { tag, at: now(), buffer: None, error });
        }));
        Ok(())
    }

    fn wait(&mut self, done: &mut Vec<Done>) -> Result<()> {
        self.take_written(done);
        // Nothing to wait for but writes: their channel wakes this thread. Else the reads do, and writes are seen when one is over.
        if done.is_empty() && self.reads.under_way() == 0 && self.writes > 0 {
            done.push(self.written.1.recv().context("the device is gone")?);
            self.writes -= 1;
        }
        if self.reads.under_way() > 0 {
            self.reads.wait(usize::from(done.is_empty()), &mut self.read_done);
            let at = now();
            done.extend(self.read_done.drain(..).map(|read| Done {
                tag: usize::try_from(read.tag).unwrap_or(usize::MAX),
                at,
                buffer: Some(read.buffer),
                error: read.outcome.err().map(|error| error.to_string()),
            }));
        }
        self.take_written(done);
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.device.flush().with_context(|| format!("flushing {}", self.device.label()))
    }
}
