//! A device around another that fails, lies or waits at the n-th call, or tells the test before it does anything.
//!
//! Calls of each kind are counted from 0. What a script does to a call happens *instead of* the device's own doing; everything else goes through.

use crate::device::{AlignedBuf, BufferPool, Completion, Device, DeviceError, Geometry, Operation, Ticket, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// A call, before it is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A read of so many bytes at an offset.
    Read(u64, u64),
    /// A write.
    Write(u64, u64),
    /// A flush.
    Flush,
}

impl Call {
    fn kind(self) -> usize {
        match self {
            Call::Read(..) => 0,
            Call::Write(..) => 1,
            Call::Flush => 2,
        }
    }
    fn operation(self) -> (Operation, u64, u64) {
        match self {
            Call::Read(offset, length) => (Operation::Read, offset, length),
            Call::Write(offset, length) => (Operation::Write, offset, length),
            Call::Flush => (Operation::Flush, 0, 0),
        }
    }
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// As the device does it.
    Do,
    /// An error number; nothing is done.
    Fail(i32),
    /// It is said to be done, and is not. (A read is done.)
    Pretend,
    /// The process is dead: nothing is done, and everything is refused.
    Dead,
}

type Script = Box<dyn FnMut(Call, u64) -> Answer + Send>;
type Hold = Box<dyn Fn(u64) -> bool + Send>;
type Look = Arc<dyn Fn(Call) + Send + Sync>;
type Arrived = Arc<dyn Fn(u64) + Send + Sync>;

/// Writes that wait, and which do.
struct Held {
    hold: Hold,
    writes: Vec<(Write, Completion)>,
}

/// See the module.
pub struct ScriptedDevice {
    device: Arc<dyn Device>,
    counts: [AtomicU64; 3],
    script: Mutex<Script>,
    look: Mutex<Option<Look>>,
    arrived: Mutex<Option<Arrived>>,
    held: Mutex<Option<Held>>,
    /// Instead of the device's, and how many are taken of it before there are none but the heap's.
    buffers: Option<(BufferPool, AtomicU64)>,
}

impl ScriptedDevice {
    /// Does as `device` does, until told otherwise.
    #[must_use]
    pub fn new(device: Arc<dyn Device>) -> Arc<Self> {
        Arc::new(Self::around(device, None))
    }

    /// The same, with buffers from this pool, the first `count` of them; then from the heap, as when all are in use.
    #[must_use]
    pub fn with_buffers(device: Arc<dyn Device>, buffers: BufferPool, count: u64) -> Arc<Self> {
        Arc::new(Self::around(device, Some((buffers, AtomicU64::new(count)))))
    }

    /// How many of the pool's buffers may still be taken.
    #[must_use]
    pub fn buffers_left(&self) -> u64 {
        self.buffers.as_ref().map_or(0, |(_, left)| left.load(Ordering::SeqCst))
    }

    fn around(device: Arc<dyn Device>, buffers: Option<(BufferPool, AtomicU64)>) -> Self {
        Self {
            device,
            counts: Default::default(),
            script: Mutex::new(Box::new(|_, _| Answer::Do)),
            look: Mutex::new(None),
            arrived: Mutex::new(None),
            held: Mutex::new(None),
            buffers,
        }
    }

    /// From now on calls are answered so: (call, how many of its kind came before since this).
    pub fn script(&self, script: impl FnMut(Call, u64) -> Answer + Send + 'static) {
        self.counts.iter().for_each(|count| count.store(0, Ordering::SeqCst));
        *self.script.lock().unwrap() = Box::new(script);
    }

    /// Called before every call from now on, on the caller's thread, with nothing locked here.
    pub fn look(&self, look: impl Fn(Call) + Send + Sync + 'static) {
        *self.look.lock().unwrap() = Some(Arc::new(look));
    }

    /// Called with the offset of every write from now on when it has completed, before whoever waits for it is told; with writes that complete late on the thread that waits.
    pub fn arrived(&self, arrived: impl Fn(u64) + Send + Sync + 'static) {
        *self.arrived.lock().unwrap() = Some(Arc::new(arrived));
    }

    /// No more of these.
    pub fn look_away(&self) {
        *self.look.lock().unwrap() = None;
        *self.arrived.lock().unwrap() = None;
    }

    /// Calls of each kind since the script began: reads, writes, flushes.
    #[must_use]
    pub fn calls(&self) -> [u64; 3] {
        [0, 1, 2].map(|kind: usize| self.counts[kind].load(Ordering::SeqCst))
    }

    /// Writes to these offsets are under way until [`Self::release`].
    pub fn hold_writes(&self, hold: impl Fn(u64) -> bool + Send + 'static) {
        *self.held.lock().unwrap() = Some(Held { hold: Box::new(hold), writes: Vec::new() });
    }

    /// How many are.
    #[must_use]
    pub fn held_writes(&self) -> usize {
        self.held.lock().unwrap().as_ref().map_or(0, |held| held.writes.len())
    }

    /// They are carried out, and no more are held.
    pub fn release(&self) {
        let held = self.held.lock().unwrap().take();
        for (write, completion) in held.map(|held| held.writes).unwrap_or_default() {
            completion.complete(self.device.submit(write).wait());
        }
    }

    /// The first `count` of them are done: those that `fails` chooses by number and offset fail, and leave garbage. The others stay, and no more are held.
    pub fn release_first(&self, count: usize, errno: i32, fails: impl Fn(usize, u64) -> bool) {
        let first: Vec<(Write, Completion)> = {
            let mut held = self.held.lock().unwrap();
            let Some(held) = held.as_mut() else { return };
            held.hold = Box::new(|_| false);
            held.writes.drain(..count.min(held.writes.len())).collect()
        };
        for (number, (write, completion)) in first.into_iter().enumerate() {
            let (offset, length) = (write.offset, write.range.len());
            if !fails(number, offset) {
                completion.complete(self.device.submit(write).wait());
                continue;
            }
            let mut garbage = AlignedBuf::zeroed(length);
            garbage.as_mut_slice().fill(0xEE);
            let _ = self.device.submit(Write::whole(offset, garbage)).wait();
            completion.complete(Err(DeviceError::Io {
                operation: Operation::Write,
                offset,
                length: length as u64,
                errno,
            }));
        }
    }

    /// They fail, with nothing written, and no more are held.
    pub fn release_failed(&self, errno: i32) {
        let held = self.held.lock().unwrap().take();
        for (write, completion) in held.map(|held| held.writes).unwrap_or_default() {
            let (operation, offset, length) = (Operation::Write, write.offset, write.range.len() as u64);
            completion.complete(Err(DeviceError::Io { operation, offset, length, errno }));
        }
    }

    fn answer(&self, call: Call) -> Answer {
        let look = self.look.lock().unwrap().clone();
        if let Some(look) = look {
            look(call);
        }
        let number = self.counts[call.kind()].fetch_add(1, Ordering::SeqCst);
        (self.script.lock().unwrap())(call, number)
    }

    fn error(call: Call, answer: Answer) -> Option<DeviceError> {
        let (operation, offset, length) = call.operation();
        match answer {
            Answer::Fail(errno) => Some(DeviceError::Io { operation, offset, length, errno }),
            Answer::Dead => Some(DeviceError::Crashed),
            Answer::Do | Answer::Pretend => None,
        }
    }
}

impl Device for ScriptedDevice {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn read(&self, offset: u64, into: &mut AlignedBuf) -> Result<(), DeviceError> {
        let call = Call::Read(offset, into.len() as u64);
        match Self::error(call, self.answer(call)) {
            Some(error) => Err(error),
            None => self.device.read(offset, into),
        }
    }

    fn submit(&self, write: Write) -> Ticket {
        let call = Call::Write(write.offset, write.range.len() as u64);
        let answer = self.answer(call);
        match Self::error(call, answer) {
            Some(error) => Ticket::done(Err(error)),
            None if answer == Answer::Pretend => Ticket::done(Ok(())),
            None => {
                if let Some(held) = self.held.lock().unwrap().as_mut().filter(|held| (held.hold)(write.offset)) {
                    let (ticket, completion) = Ticket::pair();
                    held.writes.push((write, completion));
                    return ticket;
                }
                let (arrived, offset) = (self.arrived.lock().unwrap().clone(), write.offset);
                let ticket = self.device.submit(write);
                if let Some(arrived) = arrived {
                    ticket.on_done(Box::new(move |_| arrived(offset)));
                }
                ticket
            }
        }
    }

    fn flush(&self) -> Result<(), DeviceError> {
        let answer = self.answer(Call::Flush);
        match Self::error(Call::Flush, answer) {
            Some(error) => Err(error),
            None if answer == Answer::Pretend => Ok(()),
            None => self.device.flush(),
        }
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        self.device.discard(offset, len)
    }

    fn label(&self) -> String {
        self.device.label()
    }

    fn buffers(&self) -> &BufferPool {
        let Some((buffers, left)) = &self.buffers else { return self.device.buffers() };
        match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => buffers,
            Err(_) => BufferPool::heap(),
        }
    }
}
