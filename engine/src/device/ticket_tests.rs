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

mod loomed;

#[test]
fn in_every_interleaving_a_waiter_wakes_and_each_function_runs_once_with_the_outcome() {
    use loom::sync::atomic::{AtomicU32, Ordering};
    loom::model(|| {
        let (ticket, completion) = loomed::ticket::Ticket::pair();
        let calls = loom::sync::Arc::new(AtomicU32::new(0));
        let count = |by: u32| {
            let calls = loom::sync::Arc::clone(&calls);
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
