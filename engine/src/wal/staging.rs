//! Records that are appended but in no block yet: a ring of memory that appenders fill side by side and one framer empties in order.
//!
//! ```text
//!            consumed        framed              published           end
//!   zeros ......|---- in a ----|---- whole -------|-- being copied --|...... zeros       (LSNs; the place is LSN mod size)
//!                   block being    records              (gaps)
//!                   copied
//! draw      (HLC, LSN) in one 128-bit compare-and-swap: who gets the LSN, gets the later HLC (INV-40)
//! put       the record's words, the first one last: that one is never zero, and says that the rest is there
//! published the framer walks from record to record until it meets a zero
//! take      the framer copies words out, zeroes them, and then moves `consumed`
//! ```
//! Nobody waits here. That a record fits is promised before it is drawn ([`super::room`]): what is between `consumed` and `end`, and what is promised, is never more than
//! the ring. Words are atomics, so none of this is unsafe; `tests/models.rs` checks the orderings with loom.
//!
//! A local record stands at the front of a block, before every shared byte appended after it; it may move ahead of shared bytes appended before it, which is
//! harmless (what it says becomes true earlier). When it does not fit, the block is closed at its place, which wastes less than its own length: so all that
//! waits needs at most `blocks_for(shared + 2 * local)` blocks.

use super::atomics::{Atomics, Machine, Wide, Word};
use crate::mutant::{self, Mutant};
use envoyfs_layout::wal::{padded, record_bytes};
use envoyfs_layout::{Hlc, Lsn};
use std::collections::VecDeque;

/// Bytes of a word: LSNs are multiples of it.
const WORD: usize = 8;
/// In `promised`: the committer sleeps until somebody appends.
const IDLE: u64 = 1 << 63;

/// On cache lines of its own.
#[repr(align(128))]
struct Alone<T>(T);

/// See the module.
pub(super) struct Staging<A: Atomics = Machine> {
    /// HLC and LSN of the last record drawn: 64 bits each.
    head: Alone<A::Wide>,
    /// Ring blocks promised and not yet used by an append, and [`IDLE`].
    promised: Alone<A::Word>,
    /// Everything before this LSN has a block.
    framed: Alone<A::Word>,
    /// The words before this LSN are zero and may be used again.
    consumed: A::Word,
    words: Box<[A::Word]>,
}

/// What a record was drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Drawn {
    pub start: Lsn,
    pub hlc: Hlc,
}

const fn pair(hlc: Hlc, lsn: Lsn) -> u128 {
    ((hlc.0 as u128) << 64) | lsn.0 as u128
}

fn split(head: u128) -> (Hlc, Lsn) {
    let low = u64::try_from(head & u128::from(u64::MAX)).unwrap_or(u64::MAX);
    (Hlc(u64::try_from(head >> 64).unwrap_or(u64::MAX)), Lsn(low))
}

impl<A: Atomics> Staging<A> {
    /// Nothing waits; the next record gets `next`. `bytes` is a power of two.
    pub(super) fn new(next: Lsn, last: Hlc, bytes: usize) -> Self {
        assert!(bytes.is_power_of_two() && bytes >= WORD, "the size of a staging ring");
        Self {
            head: Alone(A::Wide::new(pair(last, next))),
            promised: Alone(A::Word::new(0)),
            framed: Alone(A::Word::new(next.0)),
            consumed: A::Word::new(next.0),
            words: (0..bytes / WORD).map(|_| A::Word::new(0)).collect(),
        }
    }

    /// Bytes of the ring.
    pub(super) fn capacity(&self) -> u64 {
        (self.words.len() * WORD) as u64
    }
    /// LSN of the next record, and the largest HLC drawn.
    pub(super) fn head(&self) -> (Lsn, Hlc) {
        let (hlc, lsn) = split(self.head.0.load());
        (lsn, hlc)
    }
    /// LSN of the next record.
    pub(super) fn end(&self) -> Lsn {
        self.head().0
    }
    /// Every byte before this is in a block.
    pub(super) fn framed(&self) -> Lsn {
        Lsn(self.framed.0.load())
    }
    /// Every byte before this is out of the ring.
    pub(super) fn consumed(&self) -> Lsn {
        if mutant::on(Mutant::FitsNotAcquired) {
            return Lsn(self.consumed.load_relaxed());
        }
        Lsn(self.consumed.load())
    }

    // ---- promises: the ring blocks of operations under way -------------------------------------------------------------------------

    /// Blocks promised.
    pub(super) fn promised(&self) -> u64 {
        self.promised.0.load() & !IDLE
    }
    /// Promised blocks, and the LSNs between which records wait. An append raises the end before it settles its promise, so this reads the promise first: what moves
    /// meanwhile is counted twice, never missed. `between` reads what the framer raises before it says that something is framed.
    pub(super) fn counts<T>(&self, between: impl FnOnce() -> T) -> (u64, Lsn, T, Lsn) {
        let early = mutant::on(Mutant::EndCountedFirst).then(|| self.end());
        let promised = self.promised();
        let framed = self.framed();
        let between = between();
        (promised, framed, between, early.unwrap_or_else(|| self.end()))
    }
    /// Whether records of so many blocks more have room in memory, beside all that is promised, and `reserve` bytes are left.
    pub(super) fn fits(&self, blocks: u64, block_bytes: u64, reserve: u64) -> bool {
        let promised = if mutant::on(Mutant::FitsIgnoresPromises) { 0 } else { self.promised() };
        let promised = promised.saturating_add(blocks);
        let consumed = self.consumed();
        let staged = self.end().0.saturating_sub(consumed.0);
        let wanted = staged.saturating_add(promised.saturating_mul(block_bytes)).saturating_add(reserve);
        wanted <= self.capacity()
    }
    /// Promises more. Only with the lock of admission: what was compared with the room must still hold.
    pub(super) fn promise(&self, blocks: u64) {
        self.promised.0.add(blocks);
    }
    /// Nobody will use a promise.
    pub(super) fn withdraw(&self, blocks: u64) {
        if blocks > 0 {
            self.promised.0.sub(blocks);
        }
    }
    /// An append has used a promise: its record is drawn. True: the committer sleeps, and the caller has to wake it.
    ///
    /// Changes of this one word have one order, so either the committer that goes to sleep sees what was drawn before this, or this sees it asleep.
    pub(super) fn settle(&self, blocks: u64) -> bool {
        self.promised.0.sub(blocks) & IDLE != 0 && !mutant::on(Mutant::SleeperNotSeen) && self.leave_idle()
    }
    /// The committer is about to sleep; it looks once more at what is due before it does.
    pub(super) fn enter_idle(&self) {
        self.promised.0.set_bits(IDLE);
    }
    /// The committer is awake, or somebody wakes it. True: it was asleep.
    pub(super) fn leave_idle(&self) -> bool {
        self.promised.0.clear_bits(IDLE) & IDLE != 0
    }

    // ---- appenders -----------------------------------------------------------------------------------------------------------------

    /// LSN and HLC for a record of so many bytes, a multiple of 8. `next` gives the HLC that follows one.
    pub(super) fn draw(&self, bytes: u64, next: impl Fn(Hlc) -> Hlc) -> Drawn {
        let mut head = self.head.0.load();
        loop {
            let (last, start) = split(head);
            let hlc = next(last);
            match self.head.0.replace(head, pair(hlc, Lsn(start.0.saturating_add(bytes)))) {
                Ok(()) => return Drawn { start, hlc },
                Err(now) => head = now,
            }
        }
    }

    /// The next record gets a later HLC than this.
    pub(super) fn raise(&self, stamp: Hlc) {
        let mut head = self.head.0.load();
        loop {
            let (last, next) = split(head);
            if last >= stamp {
                return;
            }
            match self.head.0.replace(head, pair(stamp, next)) {
                Ok(()) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Copies a whole record, padded to 8, to where it was drawn, and publishes it. Once.
    pub(super) fn put(&self, start: Lsn, record: &[u8]) {
        let (words, _) = record.as_chunks::<WORD>();
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        let Some(first) = words.next() else { return };
        let at = self.index(start) + 1;
        let (head, tail) = self.words.split_at(at.min(self.words.len()));
        let Some(word) = self.words.get(at - 1) else { return };
        if mutant::on(Mutant::PutFirstWordFirst) {
            word.store(first);
        }
        for (to, from) in tail.iter().chain(head).zip(words) {
            to.store_relaxed(from);
        }
        if mutant::on(Mutant::PutNotReleased) {
            word.store_relaxed(first);
        } else if !mutant::on(Mutant::PutFirstWordFirst) {
            word.store(first);
        }
    }

    // ---- the framer, one at a time -------------------------------------------------------------------------------------------------

    /// Where the whole records end that go on at `from`, which is the start of one, or the end.
    pub(super) fn published(&self, from: Lsn) -> Lsn {
        let end = self.end();
        let mut at = from;
        while at < end {
            let bytes = self.record_at(at);
            if bytes == 0 {
                break;
            }
            at = Lsn(at.0.saturating_add(bytes));
        }
        at
    }

    /// Padded bytes of the record that starts there; 0 while it is not published.
    pub(super) fn record_at(&self, start: Lsn) -> u64 {
        let load = if mutant::on(Mutant::FramerNotAcquired) { Word::load_relaxed } else { Word::load };
        let word = self.words.get(self.index(start)).map_or(0, load);
        padded(record_bytes(word)) as u64
    }

    /// Everything before this has a block from now on.
    pub(super) fn frame(&self, end: Lsn) {
        self.framed.0.store(end.0);
    }

    /// Copies published bytes out, in order, zeroes them in the ring, and lets appenders use their words again.
    pub(super) fn take(&self, from: Lsn, into: &mut [u8]) {
        let end = Lsn(from.0.saturating_add(into.len() as u64));
        if mutant::on(Mutant::ConsumedBeforeTaken) {
            self.consume(end);
        }
        let (head, tail) = self.words.split_at(self.index(from).min(self.words.len()));
        for (to, word) in into.as_chunks_mut::<WORD>().0.iter_mut().zip(tail.iter().chain(head)) {
            *to = word.load_relaxed().to_le_bytes();
            if !mutant::on(Mutant::TakenWordsStay) {
                word.store_relaxed(0);
            }
        }
        if !mutant::on(Mutant::ConsumedBeforeTaken) {
            self.consume(end);
        }
    }

    fn consume(&self, end: Lsn) {
        if mutant::on(Mutant::ConsumeNotReleased) {
            return self.consumed.store_relaxed(end.0);
        }
        self.consumed.store(end.0);
    }

    fn index(&self, lsn: Lsn) -> usize {
        usize::try_from(lsn.0 / WORD as u64).unwrap_or(0) & (self.words.len() - 1)
    }
}

/// Local records that wait, each with the LSN at which it was appended.
#[derive(Debug, Default)]
pub(super) struct Locals {
    waiting: VecDeque<(Lsn, Vec<u8>)>,
}

/// What goes into one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Body {
    pub first_lsn: Lsn,
    pub local: Vec<u8>,
    pub shared_bytes: u32,
}

impl Locals {
    /// A whole local record, padded to 8.
    pub(super) fn push(&mut self, at: Lsn, record: Vec<u8>) {
        self.waiting.push_back((at, record));
    }
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
    /// Where the last one stands: before what is appended from there on.
    pub(super) fn last(&self) -> Option<Lsn> {
        self.waiting.back().map(|(at, _)| *at)
    }
    pub(super) fn bytes(&self) -> u64 {
        self.waiting.iter().map(|(_, record)| record.len() as u64).sum()
    }

    /// What fills the next block, of shared bytes from `first_lsn` to `end`; empty if nothing waits.
    pub(super) fn next_body(&mut self, first_lsn: Lsn, end: Lsn, capacity: u32) -> Body {
        let mut room = u64::from(capacity);
        let mut local = Vec::new();
        let mut limit = u64::MAX;
        while let Some((at, record)) = self.waiting.front() {
            let behind = at.0.saturating_sub(first_lsn.0);
            let left = room.checked_sub(record.len() as u64);
            if left.is_none_or(|left| behind > left) {
                limit = behind;
                break;
            }
            room = left.unwrap_or(0);
            local.extend_from_slice(record);
            self.waiting.pop_front();
        }
        let shared = room.min(end.0.saturating_sub(first_lsn.0)).min(limit);
        Body { first_lsn, local, shared_bytes: u32::try_from(shared).unwrap_or(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ring::RingGeometry;
    use super::*;

    const RING: RingGeometry = RingGeometry { offset: 65536, blocks: 16, block_bytes: 512, seed: [0; 16], volume: 1 };

    fn take_all(locals: &mut Locals, end: u64) -> Vec<Body> {
        let (mut bodies, mut at) = (Vec::new(), Lsn(0));
        while at.0 < end || !locals.is_empty() {
            let body = locals.next_body(at, Lsn(end), RING.capacity());
            assert!(body.shared_bytes > 0 || !body.local.is_empty(), "progress");
            assert!(body.local.len() + body.shared_bytes as usize <= RING.capacity() as usize);
            at.0 += u64::from(body.shared_bytes);
            bodies.push(body);
        }
        bodies
    }

    #[test]
    fn a_local_record_stands_before_all_shared_bytes_appended_after_it() {
        for before in (0..1000).step_by(8) {
            let mut locals = Locals::default();
            locals.push(Lsn(before), vec![9; 40]);
            let needed = RING.blocks_for(before + 8 + 2 * locals.bytes());
            let bodies = take_all(&mut locals, before + 8);
            assert!(bodies.len() as u64 <= needed, "{before}: {} blocks, promised {needed}", bodies.len());
            let local = bodies.iter().position(|body| !body.local.is_empty()).unwrap();
            let shared = bodies.iter().position(|body| body.first_lsn.0 + u64::from(body.shared_bytes) > before);
            assert!(local <= shared.unwrap(), "{before}");
        }
    }

    fn record(bytes: usize, fill: u8) -> Vec<u8> {
        let mut record = vec![fill; bytes];
        record[..4].copy_from_slice(&u32::try_from(bytes).unwrap().to_le_bytes());
        record
    }

    #[test]
    fn records_published_out_of_order_are_taken_in_order_and_the_ring_wraps() {
        let staging: Staging = Staging::new(Lsn(800), Hlc(4), 256);
        let mut taken = Lsn(800);
        for round in 0..40_u8 {
            let draws = [40, 48, 64].map(|bytes| (bytes, staging.draw(bytes, |last| Hlc(last.0 + 2))));
            assert!(draws.windows(2).all(|pair| pair[0].1.start < pair[1].1.start && pair[0].1.hlc < pair[1].1.hlc));
            for (index, published) in [(2, taken), (0, taken), (1, draws[1].1.start)] {
                let (bytes, drawn) = draws[index];
                assert_eq!(staging.published(taken), published);
                staging.put(drawn.start, &record(usize::try_from(bytes).unwrap(), round));
            }
            let end = staging.published(taken);
            assert_eq!(end, staging.end());
            let mut bytes = vec![0; 152];
            staging.take(taken, &mut bytes);
            assert_eq!(staging.consumed(), end);
            assert_eq!(bytes, [record(40, round), record(48, round), record(64, round)].concat());
            taken = end;
        }
    }
}
