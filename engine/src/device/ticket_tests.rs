//! Tickets: functions run once, nobody waits for ever; and, with loom, in every interleaving of a waiter, a completion and a function.

use super::{DeviceError, Ticket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

#[test]
fn functions_run_once_each_before_or_after_completion() {
    let calls = Arc::new(AtomicU32::new(0));
    let (ticket, completion) = Ticket::pair();
    let count = |by: u32| {
        let calls = Arc::clone(&calls);
        Box::new(move |_: Result<(), DeviceError>| {
            calls.fetch_add(by, Ordering::SeqCst);
        })
    };
    ticket.on_done(count(1));
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    completion.complete(Ok(()));
    ticket.on_done(count(10));
    assert_eq!(calls.load(Ordering::SeqCst), 11);
    assert_eq!(ticket.wait(), Ok(()));
}

#[test]
fn a_dropped_completion_is_an_error_not_a_hang() {
    let (ticket, completion) = Ticket::pair();
    drop(completion);
    assert_eq!(ticket.wait(), Err(DeviceError::Closed));
}

/// Completes another ticket when it is driven.
struct Later(std::sync::Mutex<Option<super::Completion>>);

impl super::ticket::Drive for Later {
    fn drive(&self) -> bool {
        let completion = self.0.lock().unwrap().take();
        completion.map(|completion| completion.complete(Ok(()))).is_some()
    }
}

#[test]
fn a_ticket_whose_work_goes_on_elsewhere_drives_that() {
    let later = Arc::new(Later(std::sync::Mutex::new(None)));
    let (second, completion) = Ticket::pair_driven_by(Some(Arc::clone(&later) as Arc<dyn super::ticket::Drive>));
    *later.0.lock().unwrap() = Some(completion);
    // As a write that failed at once, on a device of which nobody drives anything yet.
    let (ticket, outer) = Ticket::done(Err(DeviceError::Closed)).outer_pair();
    outer.follow(&second);
    second.on_done(Box::new(move |result| outer.complete(result)));
    assert_eq!(ticket.wait(), Ok(()));
}

mod loomed;
mod models;
