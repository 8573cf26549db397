//! On a store that is nearly full and in the middle of everything (`worn`), the n-th read, write or flush fails, once; and in the recovery of one whose power failed amid a publication.
//!
//! After it: what was told names a place or an object; what was acknowledged is there, for a new process and after a power cut; counts and liveness are exact. By default every so
//! many calls; all of them: `cargo xtask long failures`. `WORN_SEED=s WORN_CALL=n` repeats one.

use envoyfs_store_tests::StoreError;
use envoyfs_store_tests::client::Client;
use envoyfs_store_tests::device::{Device, DeviceImage, SimulatedDevice};
use envoyfs_store_tests::history::mount;
use envoyfs_store_tests::hlc::ManualClock;
use envoyfs_store_tests::scripted::{Answer, Call, ScriptedDevice};
use envoyfs_store_tests::store::Store as _;
use envoyfs_store_tests::worn::{Recovered, Told, Worn, history};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const EIO: i32 = 5;
const ROUNDS: u64 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Flush,
}

fn kind_of(call: Call) -> Kind {
    match call {
        Call::Read(..) => Kind::Read,
        Call::Write(..) => Kind::Write,
        Call::Flush => Kind::Flush,
    }
}

/// An error that one can do something with.
fn explains(error: &str) -> bool {
    let names = ["object ", "page of segment ", " at device offset ", "read at ", "write at ", "flush at "];
    names.iter().any(|name| error.contains(name))
}

/// From now on the n-th call of a kind fails. What it returns says whether it came to that.
fn fail(device: &ScriptedDevice, kind: Kind, n: u64) -> Arc<AtomicBool> {
    let reached = Arc::new(AtomicBool::new(false));
    let (seen, mut count) = (Arc::clone(&reached), 0);
    device.script(move |call, _| {
        let is_one = kind_of(call) == kind;
        let fails = is_one && count == n;
        count += u64::from(is_one);
        seen.fetch_or(fails, Ordering::SeqCst);
        if fails { Answer::Fail(EIO) } else { Answer::Do }
    });
    reached
}

/// What was met, over all calls.
#[derive(Clone, Copy, Debug, Default)]
struct Met {
    calls: u64,
    errors: u64,
    relocated: u64,
    /// The cleaner.
    uncopied: u64,
    /// The drop queue.
    undropped: u64,
    read_only: u64,
}

/// Recoveries of an image that was seen before are not repeated.
#[derive(Default)]
struct Known(HashMap<u64, Recovered>);

impl Known {
    fn recovers(&mut self, worn: &Worn, image: DeviceImage) -> Recovered {
        let known = self.0.entry(image.fingerprint());
        known.or_insert_with(|| worn.recovers(image)).clone()
    }
}

/// Every `step`-th call, until there is none; or the one that is asked for.
fn every_call(test: &str, step: u64, mut fails_at: impl FnMut(u64, &mut Met) -> bool) -> Met {
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().expect("a number"));
    let (mut met, step) = (Met::default(), number("WORN_STEP").unwrap_or(step).max(1));
    let mut tried = |n: u64, met: &mut Met| {
        println!("WORN_SEED={} WORN_CALL={n} cargo test -p envoyfs-store-tests --test worn {test}", seed());
        met.calls += 1;
        fails_at(n, met)
    };
    match number("WORN_CALL") {
        Some(n) => drop(tried(n, &mut met)),
        None => {
            // Not the same ones of each round.
            let mut n = 0;
            while tried(n, &mut met) {
                n += if step == 1 { 1 } else { step + n % 3 };
            }
        }
    }
    println!("{met:?}");
    met
}

fn seed() -> u64 {
    std::env::var("WORN_SEED").map_or(3, |seed| seed.parse().expect("a number"))
}

fn is_whole() -> bool {
    std::env::var_os("WORN_CALL").is_none()
}

/// The history with its n-th call of a kind failing; false if there is no such call.
fn use_fails_at(worn: &Worn, kind: Kind, n: u64, met: &mut Met) -> bool {
    let simulated = SimulatedDevice::from_image(worn.image.clone(), 512, 1);
    let device = ScriptedDevice::new(Arc::new(simulated.clone()));
    let mut client = worn.client(Arc::<ScriptedDevice>::clone(&device));
    let reached = fail(&device, kind, n);
    let mut result = history(&mut client, seed(), ROUNDS);
    if result.is_ok() {
        result = client.engine.close();
        client.acknowledged = if result.is_ok() { client.engine.end() } else { client.acknowledged };
    }
    let metrics = client.engine.metrics();
    let relocated = metrics.streams.relocated.get();
    met.relocated += relocated;
    met.uncopied += metrics.cleaner.unreadable.get();
    met.undropped += metrics.state.drops_unreadable.get();
    if !reached.load(Ordering::SeqCst) {
        result.expect("nothing failed");
        let state = &metrics.state;
        let exercised = [&metrics.cleaner.moved, &state.spills, &state.drops, &state.dropped, &state.released];
        let exercised = exercised.map(|counter| counter.get());
        assert!(exercised.iter().all(|count| *count > 2), "{exercised:?} moved, spilled, worked off, released");
        return false;
    }
    if kind != Kind::Read {
        let told = result.is_err() && client.engine.poisoned().is_some();
        assert!(told || relocated > 0, "{result:?}: a failure that nobody was told of (INV-33)");
        assert!(relocated > 0 || client.commit().is_err(), "acknowledged after a failure");
    }
    device.script(|_, _| Answer::Do);
    if let Err(error) = &result {
        met.errors += 1;
        assert!(explains(&error.to_string()), "{error}");
    }
    let seen = client.look(&client.see());
    assert!(!matches!(seen, Err(StoreError::Damaged { .. })), "reads go on: {seen:?}");
    let told = Told { history: std::mem::take(&mut client.history), acknowledged: client.acknowledged };
    drop(client);
    let mut known = Known::default();
    for (how, image) in [("a power cut", simulated.durable_image()), ("the death of the process", simulated.image())] {
        let found = known.recovers(worn, image);
        let want = told.history.iter().rev().find(|(end, _)| *end <= found.end).map(|(_, logical)| logical);
        assert!(found.end >= told.acknowledged, "after {how}: {:?}, acknowledged {:?}", found.end, told.acknowledged);
        assert_eq!(Some(&found.logical), want, "after {how}");
    }
    true
}

/// The recovery with its n-th call of a kind failing.
fn recovery_fails_at(worn: &Worn, want: &Recovered, known: &mut Known, kind: Kind, n: u64, met: &mut Met) -> bool {
    let simulated = SimulatedDevice::from_image(worn.image.clone(), 512, 1);
    let device = ScriptedDevice::new(Arc::new(simulated.clone()));
    let reached = fail(&device, kind, n);
    let clock = Arc::new(ManualClock::new(worn.now_ns));
    let result = mount(Arc::<ScriptedDevice>::clone(&device) as Arc<dyn Device>, &clock);
    device.script(|_, _| Answer::Do);
    if !reached.load(Ordering::SeqCst) {
        let engine = result.expect("nothing failed");
        let (metrics, queued) = (engine.metrics(), engine.usage().drop_queue);
        let (adopted, replayed) = (metrics.recovery.adopted.get(), metrics.recovery.replayed.get());
        let sealed = metrics.streams.containers_sealed.get();
        assert!(adopted == 1 && replayed > 3 && sealed > 1 && queued > 0, "{adopted} {replayed} {sealed} {queued}");
        return false;
    }
    let images = [simulated.durable_image(), simulated.image()];
    for image in images {
        let found = known.recovers(worn, image);
        assert_eq!(found.logical, want.logical, "after it");
        assert!(found.end >= want.end, "{:?} {:?}", found.end, want.end);
    }
    match result {
        Err(error) => {
            met.errors += 1;
            assert!(explains(&error.to_string()), "{error}");
        }
        Ok(engine) if !engine.read_only().is_empty() => {
            met.read_only += 1;
            assert!(explains(engine.read_only()), "{}", engine.read_only());
        }
        Ok(engine) => {
            assert_eq!(engine.poisoned(), None, "a write failed, and the mount published all the same");
            let mut client = Client::start(engine, clock);
            assert_eq!((client.engine.recovered_end(), &client.logical()), (want.end, &want.logical));
            assert!(kind != Kind::Flush, "a flush failed, and the store serves");
            client.quiesce_and_check();
        }
    }
    true
}

fn any_call_of_its_use(test: &str, step: u64, kind: Kind) -> Met {
    let worn = Worn::of(seed());
    every_call(test, step, |n, met| use_fails_at(&worn, kind, n, met))
}

fn any_call_of_its_recovery(test: &str, step: u64, kind: Kind) -> Met {
    let worn = Worn::of(seed()).interrupted(seed());
    let (want, mut known) = (worn.recovers(worn.image.clone()), Known::default());
    every_call(test, step, |n, met| recovery_fails_at(&worn, &want, &mut known, kind, n, met))
}

#[test]
fn any_read_of_a_worn_store_may_fail() {
    let met = any_call_of_its_use("any_read_of_a_worn", 13, Kind::Read);
    assert!(!is_whole() || met.calls > 20 && met.errors > 0 && met.uncopied > 0, "{met:?}");
}

#[test]
fn any_write_of_a_worn_store_may_fail() {
    let met = any_call_of_its_use("any_write_of_a_worn", 9, Kind::Write);
    assert!(!is_whole() || met.calls > 20 && met.errors > 0 && met.relocated > 0, "{met:?}");
}

#[test]
fn any_flush_of_a_worn_store_may_fail() {
    let met = any_call_of_its_use("any_flush_of_a_worn", 4, Kind::Flush);
    assert!(!is_whole() || met.calls > 10 && met.errors + 1 == met.calls, "{met:?}");
}

#[test]
fn any_read_of_a_recovery_may_fail() {
    let met = any_call_of_its_recovery("any_read_of_a_recovery", 1, Kind::Read);
    assert!(!is_whole() || met.calls > 12 && met.errors + met.read_only > 5, "{met:?}");
}

#[test]
fn any_write_of_a_recovery_may_fail() {
    let met = any_call_of_its_recovery("any_write_of_a_recovery", 1, Kind::Write);
    assert!(!is_whole() || met.calls > 20 && met.errors + met.read_only > 20, "{met:?}");
}

#[test]
fn any_flush_of_a_recovery_may_fail() {
    let met = any_call_of_its_recovery("any_flush_of_a_recovery", 1, Kind::Flush);
    assert!(!is_whole() || met.calls > 4 && met.errors + met.read_only + 1 == met.calls, "{met:?}");
}
