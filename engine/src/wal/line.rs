//! Who leads a group, and who waits for one: the whole hand-over between committing threads, without the log.
//!
//! ```text
//! commit: durable already? -- yes --> done
//!           | no
//!         nobody leads? -- yes --> lead a group; at its end: release those it covered, and call one of the others to lead the next
//!           | no
//!         take a seat, sleep --> released: done; called: look again
//! ```
//! A [`Line`] lives under the lock of the log; a [`Seat`] outlives the lock, and is where a thread sleeps. Each seat is called once, alone: nobody is woken to find that it was for
//! somebody else, and nobody needs the lock to learn that he is done.
//!
//! No sleeper is forgotten: whoever sleeps sat down while somebody led, and the leader's end calls the first of those who remain; from then on somebody leads, or one who was called
//! is on his way, and he looks again with the lock held.

use super::sync::{Arc, AtomicU32, Ordering, Thread, current, park};
use crate::mutant::{self, Mutant};
use envoyfs_layout::Lsn;

const WAITING: u32 = 0;
const RELEASED: u32 = 1;
const CALLED: u32 = 2;

/// What a sleeper is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// What he waits for is durable.
    Released,
    /// Things have changed: look again, and lead if nobody does.
    Look,
}

/// Where one thread sleeps, once.
pub(crate) struct Seat {
    call: AtomicU32,
    thread: Thread,
}

impl Seat {
    /// Sleeps until called. Only the thread that took the seat.
    pub(crate) fn wait(&self) -> Call {
        loop {
            match self.call.load(Ordering::Acquire) {
                WAITING => park(),
                RELEASED => return Call::Released,
                _ => return Call::Look,
            }
        }
    }

    /// Wakes whoever sleeps here. Without the lock.
    pub(crate) fn call(&self, call: Call) {
        let word = match call {
            Call::Released => RELEASED,
            Call::Look => CALLED,
        };
        self.call.store(word, Ordering::Release);
        self.thread.unpark();
    }
}

/// Those to be called when the lock is given up.
pub(crate) type Calls = Vec<(Arc<Seat>, Call)>;

/// See the module.
pub(crate) struct Line {
    /// Somebody leads a group.
    led: bool,
    waiting: Vec<(Lsn, Arc<Seat>)>,
    /// Committers that the last group released, and those it left waiting: so many may be about to come again.
    recent: usize,
}

impl Line {
    pub(crate) const fn new() -> Self {
        Self { led: false, waiting: Vec::new(), recent: 0 }
    }
    /// Whether somebody leads.
    pub(crate) const fn is_led(&self) -> bool {
        self.led
    }
    /// The caller leads from now on. Nobody does.
    pub(crate) fn lead(&mut self) {
        assert!(!self.led, "one group at a time");
        self.led = true;
    }
    /// A seat until everything before `until` is durable; [`Self::NEXT_GROUP`]: until the group that runs has ended. Somebody leads.
    pub(crate) fn sit(&mut self, until: Lsn) -> Arc<Seat> {
        assert!(self.led, "only a leader's end calls");
        let seat = Arc::new(Seat { call: AtomicU32::new(WAITING), thread: current() });
        self.waiting.push((until, Arc::clone(&seat)));
        seat
    }
    /// Waits for the end of a group, not for an LSN.
    pub(crate) const NEXT_GROUP: Lsn = Lsn(u64::MAX);

    /// How many wait in seats.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }
    /// How many committers a group may expect.
    pub(crate) const fn expected(&self) -> usize {
        self.recent
    }

    /// The group has ended, and everything before `durable` is. `others` were released elsewhere, or wait elsewhere.
    pub(crate) fn end(&mut self, durable: Lsn, others: usize) -> Calls {
        self.led = false;
        self.recent = self.waiting.len() + others;
        let mut calls = Calls::new();
        let mut next = None;
        self.waiting.retain(|(until, seat)| {
            if *until == Self::NEXT_GROUP && !mutant::on(Mutant::NextGroupForgotten) {
                calls.push((Arc::clone(seat), Call::Look));
            } else if *until <= durable || mutant::on(Mutant::AllReleased) {
                calls.push((Arc::clone(seat), Call::Released));
            } else if next.is_none() && !mutant::on(Mutant::NextNotCalled) {
                next = Some(Arc::clone(seat));
            } else {
                return true;
            }
            false
        });
        // First: the others' groups wait for this one.
        calls.splice(0..0, next.map(|seat| (seat, Call::Look)));
        calls
    }

    /// Nothing will be durable any more: everybody looks. A leader stays one until his end.
    pub(crate) fn call_all(&mut self) -> Calls {
        self.waiting.drain(..).map(|(_, seat)| (seat, Call::Look)).collect()
    }
}

/// Wakes them. Without the lock.
pub(crate) fn call(calls: Calls) {
    calls.into_iter().for_each(|(seat, call)| seat.call(call));
}
