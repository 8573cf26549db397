//! A device in memory that is frugal (a block of one repeated word takes 8 bytes) and lives in virtual time.
//!
//! Model: one server, first come first served; a request takes `REQUEST_NS` and its bytes at `BYTES_PER_US`, a read is answered `READ_NS` later, a flush `FLUSH_NS` after what was submitted
//! before it by the same party. Two parties: the foreground, one request after the other at the present time; and the background (cleaner, checkpoints), which the caller
//! runs at once but whose requests are served in virtual time, as many before the device at a time as the engine keeps there ([`BACKGROUND_DEPTH`]). Foreground requests wait
//! behind those. Nothing is random.

use envoyfs_engine::device::{AlignedBuf, Device, DeviceError, Geometry, Ticket, Write};
use envoyfs_engine::space::BACKGROUND_DEPTH;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

const BLOCK: u64 = 4096;
const REQUEST_NS: u64 = 5_000;
const BYTES_PER_US: u64 = 2_000;
const READ_NS: u64 = 70_000;
const FLUSH_NS: u64 = 50_000;
const DEPTH: usize = BACKGROUND_DEPTH as usize;

#[derive(Default)]
struct State {
    words: Vec<u64>,
    blocks: HashMap<u64, Box<[u8]>>,
    now: u64,
    /// When the server is done with all it has been given.
    busy_until: u64,
    background: bool,
    /// Service times of background requests not yet before the device.
    queued: VecDeque<u64>,
    /// When those before the device end.
    before_device: VecDeque<u64>,
    written: u64,
    read: u64,
}

/// See the module.
#[derive(Clone)]
pub struct TimedDevice {
    size: u64,
    state: Arc<Mutex<State>>,
}

impl State {
    /// Lets the background go on until `now`.
    fn advance(&mut self) {
        loop {
            while self.before_device.front().is_some_and(|end| *end <= self.now) {
                self.before_device.pop_front();
            }
            // The next one was let in when the oldest of a full window ended.
            if self.queued.is_empty() || self.before_device.len() >= DEPTH {
                return;
            }
            let Some(service) = self.queued.pop_front() else { return };
            self.enqueue(service);
        }
    }

    fn enqueue(&mut self, service: u64) {
        self.busy_until = self.busy_until.max(self.now) + service;
        self.before_device.push_back(self.busy_until);
    }

    /// Time passes up to `then`, in steps at which the background submits.
    fn pass(&mut self, then: u64) {
        while self.now < then {
            self.advance();
            let next = self.before_device.front().copied().filter(|_| !self.queued.is_empty()).unwrap_or(then);
            self.now = next.clamp(self.now + 1, then);
        }
        self.advance();
    }

    fn request(&mut self, bytes: u64, extra: u64, waits: bool) {
        let service = REQUEST_NS + bytes * 1000 / BYTES_PER_US;
        if self.background {
            self.queued.push_back(service);
            return;
        }
        self.advance();
        self.busy_until = self.busy_until.max(self.now) + service;
        if waits {
            let end = self.busy_until + extra;
            self.pass(end);
        }
    }
}

impl TimedDevice {
    pub fn new(size: u64) -> Self {
        let state = State { words: vec![0; (size / BLOCK) as usize], ..State::default() };
        Self { size, state: Arc::new(Mutex::new(state)) }
    }
    /// Whose requests come now.
    pub fn set_background(&self, background: bool) {
        self.state.lock().background = background;
    }
    /// Virtual nanoseconds.
    pub fn now(&self) -> u64 {
        self.state.lock().now
    }
    /// Lets time pass.
    pub fn pass(&self, ns: u64) {
        let mut state = self.state.lock();
        let then = state.now + ns;
        state.pass(then);
    }
    /// Whether background requests are still under way.
    pub fn background_is_busy(&self) -> bool {
        let mut state = self.state.lock();
        state.advance();
        !state.queued.is_empty() || !state.before_device.is_empty()
    }
    /// Bytes written, bytes read.
    pub fn counters(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.written, state.read)
    }
}

impl Device for TimedDevice {
    fn geometry(&self) -> Geometry {
        Geometry { size_bytes: self.size, logical_block_bytes: 4096, is_block_device: false }
    }
    fn read(&self, offset: u64, into: &mut AlignedBuf) -> Result<(), DeviceError> {
        let mut state = self.state.lock();
        for (at, chunk) in (offset / BLOCK..).zip(into.as_mut_slice().chunks_mut(BLOCK as usize)) {
            match state.blocks.get(&at) {
                Some(bytes) => chunk.copy_from_slice(&bytes[..chunk.len()]),
                None => {
                    let word = state.words[at as usize].to_le_bytes();
                    chunk.chunks_mut(8).for_each(|part| part.copy_from_slice(&word));
                }
            }
        }
        state.read += into.len() as u64;
        state.request(into.len() as u64, READ_NS, true);
        Ok(())
    }
    fn submit(&self, write: Write) -> Ticket {
        let bytes = write.bytes().unwrap();
        assert!(
            write.offset.is_multiple_of(BLOCK)
                && (bytes.len() as u64).is_multiple_of(BLOCK)
                && write.offset + bytes.len() as u64 <= self.size
        );
        let mut state = self.state.lock();
        for (at, chunk) in (write.offset / BLOCK..).zip(bytes.chunks(BLOCK as usize)) {
            let word = u64::from_le_bytes(chunk[..8].try_into().unwrap());
            if chunk.chunks(8).all(|part| part == &chunk[..8]) {
                state.blocks.remove(&at);
                state.words[at as usize] = word;
            } else {
                state.blocks.insert(at, chunk.into());
            }
        }
        state.written += bytes.len() as u64;
        // Whoever waits for a write waits in the flush behind it.
        state.request(bytes.len() as u64, 0, false);
        Ticket::done(Ok(()))
    }
    fn flush(&self) -> Result<(), DeviceError> {
        self.state.lock().request(0, FLUSH_NS, true);
        Ok(())
    }
    fn discard(&self, _: u64, _: u64) -> Result<(), DeviceError> {
        Ok(())
    }
    fn label(&self) -> String {
        "device in virtual time".into()
    }
}
