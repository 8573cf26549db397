//! Two writers, and a thread that sleeps until it has both their writes. Loom reports a deadlock when it is not woken.

use super::loomed::bell::{Bell, Heard};
use crate::loomed::atomic::{AtomicU64, Ordering};
use crate::loomed::model;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread::{self, JoinHandle};

/// What the writers bring.
const URGENT: u64 = 1;
const OTHER: u64 = 16;

struct Sleeper {
    bell: Bell,
    queued: AtomicU64,
    /// As an eventfd: it stays signalled until it is cleared.
    event: (Mutex<bool>, Condvar),
}

impl Sleeper {
    fn new() -> Arc<Sleeper> {
        Arc::new(Sleeper { bell: Bell::new(), queued: AtomicU64::new(0), event: (Mutex::new(false), Condvar::new()) })
    }

    fn bring(own: &Arc<Self>, what: u64) -> JoinHandle<()> {
        let sleeper = Arc::clone(own);
        thread::spawn(move || {
            sleeper.queued.fetch_add(what, Ordering::Release);
            if sleeper.bell.ring(what == URGENT) == Heard::Wake {
                *sleeper.event.0.lock().unwrap() = true;
                sleeper.event.1.notify_one();
            }
        })
    }

    /// Sleeps until all of `what` was brought.
    fn wait_for(&self, what: u64, urgent_only: bool) {
        loop {
            let seen = self.queued.load(Ordering::Acquire);
            if seen & what == what {
                return;
            }
            self.bell.listen(urgent_only);
            if self.queued.load(Ordering::Acquire) == seen {
                let mut event = self.event.0.lock().unwrap();
                while !*event {
                    event = self.event.1.wait(event).unwrap();
                }
                *event = false;
            }
            self.bell.ignore();
        }
    }
}

#[test]
fn a_write_thread_that_sleeps_is_woken_for_every_write() {
    model(3, || {
        let sleeper = Sleeper::new();
        let writers = [URGENT, OTHER].map(|what| Sleeper::bring(&sleeper, what));
        sleeper.wait_for(URGENT | OTHER, false);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
}

#[test]
fn a_write_thread_that_the_device_wakes_soon_is_woken_for_what_is_urgent_and_takes_the_rest_then() {
    model(3, || {
        let sleeper = Sleeper::new();
        let writers = [URGENT, OTHER].map(|what| Sleeper::bring(&sleeper, what));
        // The device has enough to do; it wakes the thread when that is done.
        sleeper.wait_for(URGENT, true);
        sleeper.wait_for(URGENT | OTHER, false);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
}
