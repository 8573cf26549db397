//! In every interleaving each committer comes back, and only when what he waits for is durable.

use super::loomed::line::{Call, Line, call};
use crate::loomed::model;
use envoyfs_layout::Lsn;
use loom::sync::{Arc, Mutex};
use loom::thread;

/// What stands for the log: records are numbers, and a group makes durable what was appended when it began.
struct Log {
    line: Line,
    appended: u64,
    durable: u64,
}

impl Log {
    fn new() -> Arc<Mutex<Log>> {
        Arc::new(Mutex::new(Log { line: Line::new(), appended: 0, durable: 0 }))
    }
}

fn append(log: &Mutex<Log>) -> u64 {
    let mut log = log.lock().unwrap();
    log.appended += 1;
    log.appended
}

/// As `Wal::commit`.
fn commit(log: &Mutex<Log>, lsn: u64) {
    loop {
        let mut held = log.lock().unwrap();
        if held.durable >= lsn {
            return;
        }
        if held.line.is_led() {
            let seat = held.line.sit(Lsn(lsn));
            drop(held);
            if seat.wait() == Call::Released {
                break;
            }
            continue;
        }
        held.line.lead();
        let covered = held.appended;
        drop(held);
        let mut held = log.lock().unwrap();
        held.durable = held.durable.max(covered);
        let durable = Lsn(held.durable);
        let calls = held.line.end(durable, 1);
        drop(held);
        call(calls);
    }
    assert!(log.lock().unwrap().durable >= lsn);
}

#[test]
fn whoever_commits_comes_back_and_what_he_waited_for_is_durable() {
    model(2, || {
        let log = Log::new();
        let committers = [0, 1].map(|_| {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                let lsn = append(&log);
                commit(&log, lsn);
            })
        });
        let lsn = append(&log);
        commit(&log, lsn);
        for committer in committers {
            committer.join().unwrap();
        }
        let log = log.lock().unwrap();
        assert_eq!((log.durable, log.line.waiting(), log.line.is_led()), (3, 0, false));
    });
}

#[test]
fn whoever_waits_for_the_end_of_a_group_is_called_at_it() {
    model(3, || {
        // Also if another one waits in front of him, who has to lead the next.
        let mut line = Line::new();
        line.lead();
        let (_first, last) = (line.sit(Lsn(8)), line.sit(Line::NEXT_GROUP));
        let calls = line.end(Lsn(0), 0);
        assert!(calls.iter().any(|(seat, call)| Arc::ptr_eq(seat, &last) && *call == Call::Look));
        let log = Log::new();
        let other = {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                let lsn = append(&log);
                commit(&log, lsn);
            })
        };
        let mut held = log.lock().unwrap();
        while held.line.is_led() {
            let seat = held.line.sit(Line::NEXT_GROUP);
            drop(held);
            assert_eq!(seat.wait(), Call::Look);
            held = log.lock().unwrap();
        }
        drop(held);
        other.join().unwrap();
    });
}
