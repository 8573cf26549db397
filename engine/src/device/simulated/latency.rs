//! How long a simulated device takes: virtual time, and a model of parallel channels.
//!
//! A request is cut into chunks; each occupies one channel, the one on which it is done soonest, from the first gap that holds it. Requests need not
//! come in the order of time: what one thread does [aside](VirtualClock::aside) (a cleaner, a checkpoint) is put in first, and what others ask for at
//! an earlier time finds the gaps.

use crate::hlc::Clock;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

thread_local! {
    /// The time of a thread that is aside: (which clock, now).
    static ASIDE: Cell<Option<(usize, u64)>> = const { Cell::new(None) };
}

/// A clock that only requests and tests move, in nanoseconds.
#[derive(Debug)]
pub struct VirtualClock {
    now_ns: AtomicU64,
    wall_start_ns: i64,
}

impl VirtualClock {
    /// At zero, which is `wall_start_ns` after 1970.
    #[must_use]
    pub fn new(wall_start_ns: i64) -> Arc<VirtualClock> {
        Arc::new(VirtualClock { now_ns: AtomicU64::new(0), wall_start_ns })
    }

    /// Now: of this thread, if it is aside.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        match ASIDE.get() {
            Some((clock, now)) if clock == self.identity() => now,
            _ => self.now_ns.load(Ordering::SeqCst),
        }
    }

    /// Lets time pass up to then; never goes back.
    pub fn advance_to(&self, then_ns: u64) {
        match ASIDE.get() {
            Some((clock, now)) if clock == self.identity() => ASIDE.set(Some((clock, now.max(then_ns)))),
            _ => {
                self.now_ns.fetch_max(then_ns, Ordering::SeqCst);
            }
        }
    }

    /// Runs `work` beside the others: it begins now, and its waits do not move their time. Returns when it ended, too. Not to be nested.
    pub fn aside<T>(&self, work: impl FnOnce() -> T) -> (T, u64) {
        let outer = ASIDE.replace(Some((self.identity(), self.now_ns())));
        let result = work();
        let end = self.now_ns();
        ASIDE.set(outer);
        (result, end)
    }

    /// The time of those who are not aside.
    pub(super) fn shared_ns(&self) -> u64 {
        self.now_ns.load(Ordering::SeqCst)
    }

    fn identity(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

impl Clock for VirtualClock {
    fn wall_ns(&self) -> i64 {
        self.wall_start_ns.saturating_add_unsigned(self.now_ns())
    }
    fn monotonic_ms(&self) -> u64 {
        self.now_ns() / 1_000_000
    }
    fn monotonic_ns(&self) -> u64 {
        self.now_ns()
    }
}

/// What requests cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatencyModel {
    /// Chunks that are served at the same time.
    pub channels: u32,
    /// Requests are cut into chunks of this size.
    pub chunk_bytes: u32,
    /// Of each chunk that is read, in nanoseconds.
    pub read_ns: u64,
    /// Of each chunk that is written.
    pub write_ns: u64,
    /// Of all channels together; what a chunk takes beside the above.
    pub bytes_per_s: u64,
    /// Of each flush.
    pub flush_ns: u64,
    /// Beside it, for what the cache holds; 0 = nothing.
    pub flush_bytes_per_s: u64,
    /// Of each discard.
    pub discard_ns: u64,
}

impl LatencyModel {
    /// About a data-centre NVMe SSD: 90 us a read, 400 000 random reads a second, 3 GB/s.
    pub const NVME: LatencyModel = LatencyModel {
        channels: 36,
        chunk_bytes: 64 << 10,
        read_ns: 41_000,
        write_ns: 2_000,
        bytes_per_s: 3_000_000_000,
        flush_ns: 20_000,
        flush_bytes_per_s: 3_000_000_000,
        discard_ns: 20_000,
    };
    /// About a disk with one head: 8 ms a request, 200 MB/s.
    pub const DISK: LatencyModel = LatencyModel {
        channels: 1,
        chunk_bytes: 1 << 20,
        read_ns: 8_000_000,
        write_ns: 4_000_000,
        bytes_per_s: 200_000_000,
        flush_ns: 8_000_000,
        flush_bytes_per_s: 0,
        discard_ns: 100_000,
    };
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A flush.
    Flush,
    /// A discard.
    Discard,
}

/// One request and when it was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// What.
    pub kind: RequestKind,
    /// Where, in bytes.
    pub offset: u64,
    /// How much, in bytes.
    pub length: u64,
    /// When it was asked for.
    pub submitted_ns: u64,
    /// When it was done.
    pub completed_ns: u64,
}

/// The channels of a device, and when they are busy.
pub(super) struct Schedule {
    pub(super) clock: Arc<VirtualClock>,
    model: LatencyModel,
    /// By channel: start -> end.
    busy: Vec<BTreeMap<u64, u64>>,
    /// What was served, if anybody wants to know.
    pub(super) served: Option<Vec<Served>>,
}

impl Schedule {
    pub(super) fn new(model: LatencyModel, clock: Arc<VirtualClock>) -> Schedule {
        let channels = model.channels.clamp(1, 1024);
        Schedule { clock, model, busy: (0..channels).map(|_| BTreeMap::new()).collect(), served: None }
    }

    /// Puts a request of this thread in; when it is done.
    pub(super) fn serve(&mut self, kind: RequestKind, offset: u64, length: u64, cached: u64) -> u64 {
        let submitted_ns = self.clock.now_ns();
        let per = |bytes: u64, bytes_per_s: u64| {
            let ns = u128::from(bytes) * 1_000_000_000;
            u64::try_from(ns.checked_div(bytes_per_s.into()).unwrap_or(0)).unwrap_or(u64::MAX)
        };
        let completed_ns = match kind {
            RequestKind::Read | RequestKind::Write => {
                let fixed = if kind == RequestKind::Read { self.model.read_ns } else { self.model.write_ns };
                let mut left = length;
                let mut end = submitted_ns;
                while left > 0 {
                    let chunk = left.min(self.model.chunk_bytes.max(512).into());
                    let transfer = per(chunk * u64::from(self.model.channels.max(1)), self.model.bytes_per_s);
                    end = end.max(self.occupy(submitted_ns, fixed + transfer));
                    left -= chunk;
                }
                end
            }
            RequestKind::Flush => submitted_ns + self.model.flush_ns + per(cached, self.model.flush_bytes_per_s),
            RequestKind::Discard => submitted_ns + self.model.discard_ns,
        };
        if let Some(served) = &mut self.served {
            served.push(Served { kind, offset, length, submitted_ns, completed_ns });
        }
        completed_ns
    }

    /// Occupies the channel on which `length` from `from` on is done soonest; when that is.
    fn occupy(&mut self, from: u64, length: u64) -> u64 {
        // Nobody comes before the shared time any more.
        let floor = self.clock.shared_ns().min(from);
        let mut best: Option<(u64, usize)> = None;
        for (index, busy) in self.busy.iter_mut().enumerate() {
            while busy.first_key_value().is_some_and(|(_, end)| *end <= floor) {
                busy.pop_first();
            }
            let start = first_gap(busy, from, length);
            if best.is_none_or(|(soonest, _)| start < soonest) {
                best = Some((start, index));
            }
            if start == from {
                break;
            }
        }
        let (start, channel) = best.unwrap_or((from, 0));
        let end = start + length;
        if let Some(busy) = self.busy.get_mut(channel) {
            // Joined with what ends or starts there, so that a busy channel is one entry.
            let joined = busy.remove(&end).unwrap_or(end);
            match busy.range_mut(..start).next_back() {
                Some((_, before)) if *before == start => *before = joined,
                _ => {
                    busy.insert(start, joined);
                }
            }
        }
        end
    }
}

fn first_gap(busy: &BTreeMap<u64, u64>, from: u64, length: u64) -> u64 {
    let mut start = from;
    if let Some((_, end)) = busy.range(..=from).next_back() {
        start = start.max(*end);
    }
    for (next, end) in busy.range(from..) {
        if *next >= start + length {
            break;
        }
        start = start.max(*end);
    }
    start
}
