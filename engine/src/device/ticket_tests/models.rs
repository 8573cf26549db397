//! The real `ticket.rs`, in every interleaving of a waiter, a completion, a function, and a device that is driven.

use super::loomed::ticket::{Completion, Drive, Ticket};
use crate::device::DeviceError;
use loom::sync::{Arc, Mutex};

#[test]
fn in_every_interleaving_a_waiter_wakes_and_each_function_runs_once_with_the_outcome() {
    use loom::sync::atomic::{AtomicU32, Ordering};
    loom::model(|| {
        let (ticket, completion) = Ticket::pair();
        let calls = Arc::new(AtomicU32::new(0));
        let count = |by: u32| {
            let calls = Arc::clone(&calls);
            Box::new(move |outcome: Result<(), DeviceError>| {
                assert_eq!(outcome, Err(DeviceError::Closed));
                calls.fetch_add(by, Ordering::SeqCst);
            })
        };
        ticket.on_done(count(1));
        let settles = loom::thread::spawn(move || drop(completion));
        let other = ticket.clone();
        let waits = loom::thread::spawn(move || assert_eq!(other.wait(), Err(DeviceError::Closed)));
        ticket.on_done(count(10));
        settles.join().unwrap();
        waits.join().unwrap();
        assert!(ticket.is_done());
        assert_eq!(calls.load(Ordering::SeqCst), 11);
    });
}

/// Completes a ticket when it is driven.
struct Later(std::sync::Arc<Mutex<Option<Completion>>>);

impl Drive for Later {
    fn drive(&self) -> bool {
        let completion = self.0.lock().unwrap().take();
        completion.map(|completion| completion.complete(Ok(()))).is_some()
    }
}

#[test]
fn in_every_interleaving_a_waiter_drives_what_its_ticket_came_to_depend_on() {
    loom::model(|| {
        let (ticket, outer) = Ticket::pair();
        let moves = loom::thread::spawn(move || {
            let slot = std::sync::Arc::new(Mutex::new(None));
            let device: std::sync::Arc<dyn Drive> = std::sync::Arc::new(Later(std::sync::Arc::clone(&slot)));
            let (second, completion) = Ticket::pair_driven_by(Some(Arc::from_std(device)));
            *slot.lock().unwrap() = Some(completion);
            outer.follow(&second);
            second.on_done(Box::new(move |result| outer.complete(result)));
        });
        assert_eq!(ticket.wait(), Ok(()));
        moves.join().unwrap();
    });
}
