//! Pins of readers: with the machine's threads, and, with loom, in every interleaving.

use super::readers::Readers;
use std::sync::atomic::{AtomicBool, Ordering};

mod loomed;
mod models;

#[test]
fn waits_for_those_that_entered_before_and_for_no_others() {
    let readers = Readers::default();
    let released = AtomicBool::new(false);
    let first = readers.enter();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            readers.wait_for_earlier();
            released.store(true, Ordering::SeqCst);
        });
        while readers.epoch.load(Ordering::SeqCst) == 0 {
            crate::sync::thread::yield_now();
        }
        let _later = readers.enter();
        assert!(!released.load(Ordering::SeqCst));
        drop(first);
        while !released.load(Ordering::SeqCst) {
            crate::sync::thread::yield_now();
        }
    });
}
