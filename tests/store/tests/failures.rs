//! The n-th write, read or flush of a history fails, for every n; and the store runs full.

use envoyfs_store_tests::bench::{Bench, recover};
use envoyfs_store_tests::device::{Device, SimulatedDevice};
use envoyfs_store_tests::history::formatted;
use envoyfs_store_tests::hlc::SystemClock;
use envoyfs_store_tests::mini::{Mini, options};
use envoyfs_store_tests::scripted::{Answer, Call, ScriptedDevice};
use envoyfs_store_tests::store::{Result, Store as _};
use envoyfs_store_tests::{Options, StoreError};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// What was in the store after each step, and how many steps are acknowledged.
#[derive(Default)]
struct Told {
    states: Vec<BTreeSet<u64>>,
    acknowledged: usize,
}

impl Told {
    fn is_state(&self, keys: &[u64]) -> bool {
        let found: BTreeSet<u64> = keys.iter().copied().collect();
        self.states[self.acknowledged..].contains(&found)
    }
}

fn history(mini: &Mini, told: &Mutex<Told>) -> Result<()> {
    let step = |result: Result<_>| result.map(|_| told.lock().unwrap().states.push(mini.keys().into_iter().collect()));
    let acknowledged = |result: Result<()>| {
        result.map(|()| {
            let mut told = told.lock().unwrap();
            told.acknowledged = told.states.len() - 1;
        })
    };
    for key in 0..4 {
        step(mini.put(key, 9216))?;
    }
    acknowledged(mini.commit())?;
    mini.checkpoint()?;
    step(mini.delete(1))?;
    let open = mini.freeze()?;
    step(mini.put(4, 61_440))?;
    acknowledged(mini.commit())?;
    mini.publish(open)?;
    step(mini.delete(0))?;
    mini.clock.advance(Duration::from_millis(1200));
    acknowledged(mini.engine.pump())?;
    mini.clock.advance(Duration::from_millis(200));
    mini.engine.pump()?;
    step(mini.put(5, 5120))?;
    mini.checkpoint()?;
    for key in mini.keys() {
        if let Err(why) = mini.read(key, &mini.file(key)) {
            assert!(!why.contains("other bytes"), "{why}");
        }
    }
    acknowledged(mini.engine.close())
}

/// Runs the history with the n-th call of a kind failing; false when there is no n-th call.
fn fails_at(base: &SimulatedDevice, slow: bool, kind: fn(Call) -> bool, n: u64, errno: i32, for_good: bool) -> bool {
    let what = format!("call {n}, error {errno}, for good: {for_good}");
    let bench = Bench::on(base.durable_image(), slow);
    let reached = Arc::new(AtomicBool::new(false));
    let (seen, mut count) = (Arc::clone(&reached), 0);
    bench.device.script(move |call, _| {
        if !kind(call) {
            return Answer::Do;
        }
        count += 1;
        if count - 1 == n || (for_good && count > n) {
            seen.store(true, Ordering::SeqCst);
            return Answer::Fail(errno);
        }
        Answer::Do
    });
    let told = Mutex::new(Told { states: vec![BTreeSet::new()], acknowledged: 0 });
    let device: Arc<dyn Device> = Arc::clone(&bench.device) as Arc<dyn Device>;
    match Mini::open(device, &bench.clock) {
        Ok(mini) if mini.engine.read_only().is_empty() => {
            let result = history(&mini, &told);
            let failed = reached.load(Ordering::SeqCst) && !kind(Call::Read(0, 0));
            let metrics = mini.engine.metrics();
            let elsewhere = metrics.streams.relocated.get() > 0;
            // One failed write may be made good elsewhere; anything else is told, and ends writing.
            if failed && (result.is_err() || for_good || !elsewhere) {
                let told = result.map_err(|error| error.to_string());
                assert!(told.is_err(), "{what}: told to nobody");
                assert!(mini.engine.poisoned().is_some(), "{what}: {told:?} and not poisoned (INV-33)");
                assert!(mini.put(9, 4096).and_then(|_| mini.commit()).is_err(), "{what}: acknowledged after a failure");
            }
            bench.device.script(|_, _| Answer::Do);
            mini.verify();
        }
        Ok(_) => {}
        Err(_) => assert!(reached.load(Ordering::SeqCst), "{what}"),
    }
    let told = told.into_inner().unwrap();
    // Power is cut, or the process starts again on what the device shows.
    let keys = recover(&bench.cut()).keys();
    assert!(
        told.is_state(&keys),
        "{what}: {keys:?} after a power cut, acknowledged {:?}",
        told.states[told.acknowledged]
    );
    bench.device.script(|_, _| Answer::Do);
    let mini = bench.mount();
    assert_eq!(mini.engine.read_only(), "", "{what}");
    mini.verify();
    assert!(told.is_state(&mini.keys()), "{what}: {:?}", mini.keys());
    mini.put(77, 4096).unwrap();
    mini.checkpoint().unwrap();
    reached.load(Ordering::SeqCst)
}

fn every_call(slow: bool, kind: fn(Call) -> bool, errno: i32, for_good: bool, least: u64) {
    let base = formatted(8, 512, 1);
    let calls = (0..).find(|n| !fails_at(&base, slow, kind, *n, errno, for_good)).unwrap();
    println!("{calls} calls failed, one after the other");
    assert!(calls >= least, "only {calls}");
}

#[test]
fn any_write_may_fail() {
    every_call(false, |call| matches!(call, Call::Write(..)), EIO, false, 40);
}

/// Late, and in any order: somebody has to wait for every write, and for the one that takes a failed one's place.
#[test]
fn any_write_may_fail_while_others_are_under_way() {
    every_call(true, |call| matches!(call, Call::Write(..)), EIO, false, 40);
}

#[test]
fn any_flush_may_fail_while_writes_are_under_way() {
    every_call(true, |call| call == Call::Flush, EIO, false, 10);
}

#[test]
fn the_host_of_an_image_may_be_full_while_writes_are_under_way() {
    every_call(true, |call| matches!(call, Call::Write(..)), ENOSPC, true, 40);
}

#[test]
fn any_flush_may_fail() {
    every_call(false, |call| call == Call::Flush, EIO, false, 10);
}

#[test]
fn any_read_may_fail() {
    every_call(false, |call| matches!(call, Call::Read(..)), EIO, false, 5);
}

#[test]
fn the_host_of_an_image_may_be_full_from_any_write_on() {
    every_call(false, |call| matches!(call, Call::Write(..)), ENOSPC, true, 40);
}

/// Several writers, one checkpointer: each is told, nobody hangs, deleting works, then writing works.
#[test]
fn threads_that_fill_the_store_are_told_and_can_go_on_after_deleting() {
    let device = ScriptedDevice::new(Arc::new(formatted(16, 512, 5)));
    let clock = envoyfs_store_tests::client::clock();
    let threaded = Options { threads: true, clock: Arc::new(SystemClock::new()), ..options(&clock) };
    let mini = Mini::open_with(device, &clock, threaded).unwrap();
    let (stop, told) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let checkpoints = scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                if mini.engine.wait_checkpoint(20).is_some() {
                    mini.checkpoint().unwrap();
                }
            }
        });
        for round in 0..3_u64 {
            let written: Vec<u64> = std::thread::scope(|scope| {
                let writers: Vec<_> = (0..4_u64)
                    .map(|writer| {
                        let (mini, told) = (&mini, &told);
                        scope.spawn(move || {
                            for step in 0_u64.. {
                                match mini.put(round << 32 | step << 8 | writer, 40 << 10) {
                                    Ok(_) => {}
                                    Err(StoreError::NoSpace { .. }) => {
                                        told.fetch_add(1, Ordering::SeqCst);
                                        return step;
                                    }
                                    Err(error) => panic!("{error}"),
                                }
                            }
                            0
                        })
                    })
                    .collect();
                writers.into_iter().map(|writer| writer.join().unwrap()).collect()
            });
            let all: u64 = written.iter().sum();
            println!("round {round}: {written:?} objects");
            assert!(all > 100, "round {round}: only {written:?} fit");
            mini.verify();
            for key in mini.keys() {
                mini.delete(key).unwrap();
            }
        }
        stop.store(true, Ordering::SeqCst);
        checkpoints.join().unwrap();
    });
    assert_eq!(told.load(Ordering::SeqCst), 12);
    mini.checkpoint().unwrap();
    mini.engine.close().unwrap();
    assert_eq!(mini.engine.check_space(), Vec::<String>::new());
}
