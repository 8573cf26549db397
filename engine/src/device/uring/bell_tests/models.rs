//! Two writers, and a thread that sleeps until it has both their writes. Loom reports a deadlock when it is not woken.

use super::loomed::bell::Bell;
use crate::loomed::atomic::{AtomicU64, Ordering};
use crate::loomed::model;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

struct Sleeper {
    bell: Bell,
    queued: AtomicU64,
    /// As an eventfd: it stays signalled until it is cleared.
    event: (Mutex<bool>, Condvar),
}

#[test]
fn a_write_thread_that_sleeps_is_woken_for_every_write() {
    model(3, || {
        let sleeper = Arc::new(Sleeper {
            bell: Bell::new(),
            queued: AtomicU64::new(0),
            event: (Mutex::new(false), Condvar::new()),
        });
        let writers = [0, 1].map(|_| {
            let sleeper = Arc::clone(&sleeper);
            thread::spawn(move || {
                sleeper.queued.fetch_add(1, Ordering::Release);
                if sleeper.bell.is_heard() {
                    *sleeper.event.0.lock().unwrap() = true;
                    sleeper.event.1.notify_one();
                }
            })
        });
        loop {
            let seen = sleeper.queued.load(Ordering::Acquire);
            if seen == 2 {
                break;
            }
            sleeper.bell.listen();
            if sleeper.queued.load(Ordering::Acquire) == seen {
                let mut event = sleeper.event.0.lock().unwrap();
                while !*event {
                    event = sleeper.event.1.wait(event).unwrap();
                }
                *event = false;
            }
            sleeper.bell.ignore();
        }
        for writer in writers {
            writer.join().unwrap();
        }
    });
}
