//! What a worker drives: IOs started with a tag, completed in any order, on one thread.

use super::pattern::Io;
use anyhow::Result;
use envoyfs_engine::device::AlignedBuf;
use std::time::Instant;

/// An IO that is over.
pub struct Done {
    /// As given at its start.
    pub tag: usize,
    /// When.
    pub at: Instant,
    /// Of a read: the memory, back again.
    pub buffer: Option<AlignedBuf>,
    /// What went wrong.
    pub error: Option<String>,
}

/// One thread's IOs.
pub trait Queue {
    /// Before the clock starts, as fio does it: gives the buffers of writes of so many bytes contents, so that writes need not.
    fn prepare(&mut self, bytes: usize);
    /// Memory for an IO. Its contents are old.
    fn buffer(&self, bytes: usize) -> AlignedBuf;
    /// Starts a read that fills the buffer.
    ///
    /// # Errors
    /// What makes all further IO pointless; an error of the read itself comes with its completion.
    fn read(&mut self, tag: usize, io: &Io, into: AlignedBuf) -> Result<()>;
    /// Starts a write of bytes that no compression shortens; with a sequence, sealed for verification.
    ///
    /// # Errors
    /// As of reads.
    fn write(&mut self, tag: usize, io: &Io, sequence: Option<u32>) -> Result<()>;
    /// Whether reads are verified when they have arrived.
    fn verifies(&self) -> bool {
        false
    }
    /// Where they are: waits until the device below is done with one, if any is under way, and verifies nothing yet. The bytes that the device has still to read.
    fn arrive(&mut self) -> u64 {
        0
    }
    /// Waits until at least one IO is over, if any is under way, and puts all that are over into `done`.
    ///
    /// # Errors
    /// As of reads.
    fn wait(&mut self, done: &mut Vec<Done>) -> Result<()>;
    /// Makes every write that is over durable. Called with nothing under way.
    ///
    /// # Errors
    /// It could not be made durable.
    fn sync(&mut self) -> Result<()>;
}

/// The moment.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// Bytes that no compression shortens, always the same.
pub fn fill_with_noise(bytes: &mut [u8]) {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for chunk in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.iter_mut().zip(state.to_le_bytes()).for_each(|(to, from)| *to = from);
    }
}
