//! How much data is on its way to the device, and who waits because it is too much.
//!
//! Data is submitted when it is written and nobody waits for it, so somebody has to say when it is enough (DESIGN 6): a sync must not face a backlog. What completes makes room, in whatever
//! order it completes: one slow write holds up nobody as long as others get done. If power fails here: nothing is kept.

use crate::device::Ticket;
use crate::sync::{Condvar, Mutex};
use std::collections::VecDeque;
use std::time::Duration;

/// How often a waiter looks whether what it waits for needs somebody to drive it: a write that failed is made again elsewhere.
const LOOK: Duration = Duration::from_millis(10);

/// See the module.
pub(super) struct UnderWay {
    /// Beyond it writers wait.
    bytes_max: u64,
    /// They wait until so much is left, so that they come back with several writes at a time and are not woken for each.
    bytes_low: u64,
    state: Mutex<State>,
    /// Less is under way.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    bytes: u64,
    waiting: u32,
    /// In order of submission; what is done is at its front or will be.
    tickets: VecDeque<Ticket>,
}

impl UnderWay {
    /// For so many bytes, and always for one write.
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, bytes_low: bytes_max / 3 * 2, state: Mutex::default(), changed: Condvar::new() }
    }

    /// A write of so many bytes was started. The caller sees to it that [`UnderWay::done`] is called when it is done. Returns what is under way now.
    pub(super) fn started(&self, ticket: &Ticket, bytes: u64) -> u64 {
        let mut state = self.state.lock();
        state.bytes += bytes;
        while state.tickets.front().is_some_and(Ticket::is_done) {
            state.tickets.pop_front();
        }
        state.tickets.push_back(ticket.clone());
        state.bytes
    }

    /// It is done, or has failed.
    pub(super) fn done(&self, bytes: u64) {
        let mut state = self.state.lock();
        state.bytes = state.bytes.saturating_sub(bytes);
        if state.waiting > 0 && state.bytes <= self.bytes_low {
            self.changed.notify_all();
        }
    }

    /// Whether so much more may be started now.
    pub(super) fn has_room(&self, more: u64) -> bool {
        let state = self.state.lock();
        state.bytes == 0 || state.bytes + more <= self.bytes_max
    }

    /// Waits until there is room again.
    pub(super) fn wait(&self) {
        loop {
            let oldest = {
                let mut state = self.state.lock();
                while state.tickets.front().is_some_and(Ticket::is_done) {
                    state.tickets.pop_front();
                }
                if state.bytes <= self.bytes_low {
                    return;
                }
                state.tickets.front().cloned()
            };
            // A device without a thread of its own, and writes that it holds back, need somebody.
            if oldest.is_some_and(|ticket| ticket.drive()) {
                continue;
            }
            let mut state = self.state.lock();
            if state.bytes > self.bytes_low {
                state.waiting += 1;
                self.changed.wait_for(&mut state, LOOK);
                state.waiting -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const MIB: u64 = 1 << 20;

    #[test]
    fn one_slow_write_holds_up_nobody_while_others_get_done() {
        let under_way = Arc::new(UnderWay::new(12 * MIB));
        let mut writes: Vec<_> = (0..12)
            .map(|_| {
                let (ticket, completion) = Ticket::pair();
                under_way.started(&ticket, MIB);
                let own = Arc::clone(&under_way);
                ticket.on_done(Box::new(move |_| own.done(MIB)));
                completion
            })
            .collect();
        assert!(!under_way.has_room(MIB) && under_way.has_room(0));
        let slow = writes.remove(0);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| under_way.wait());
            writes.drain(..3).for_each(|write| write.complete(Ok(())));
            assert!(under_way.has_room(MIB), "room for one, but the waiter comes back for several");
            assert!(!waiter.is_finished());
            writes.drain(..1).for_each(|write| write.complete(Ok(())));
            waiter.join().unwrap();
        });
        writes.drain(..).for_each(|write| write.complete(Ok(())));
        assert!(under_way.has_room(11 * MIB) && !under_way.has_room(12 * MIB), "the slow one still counts");
        slow.complete(Ok(()));
        assert!(under_way.has_room(100 * MIB), "one write may always be started");
    }
}
