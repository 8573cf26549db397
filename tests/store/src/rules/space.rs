//! Containers: who keeps them, and counts.

use crate::StoreError;
use crate::bench::{Bench, Region};
use crate::client::{Client, Op};
use crate::device::Device;
use crate::mini::Mini;
use crate::scripted::Call;
use crate::store::{Result, Store as _};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

/// Writes until there is no space any more, so that everything that is free is overwritten.
fn fill(mini: &Mini, from: u64) -> u64 {
    (from..).find(|key| with_checkpoints(mini, || mini.put(*key, 60 << 10)).is_err()).unwrap_or(from) - from
}

/// Makes the checkpoints that an operation has to wait for.
fn with_checkpoints<T>(mini: &Mini, operation: impl Fn() -> Result<T>) -> Result<T> {
    loop {
        match operation() {
            Err(StoreError::WouldWait { .. }) => mini.checkpoint()?,
            other => return other,
        }
    }
}

/// INV-13: data of records after the freeze is in no checkpoint, and nothing in its container lives yet.
pub fn data_that_no_checkpoint_contains_keeps_its_container() {
    let bench = Bench::new();
    let mini = bench.mount();
    mini.put(0, 4096).unwrap();
    let open = mini.freeze().unwrap();
    // More than a container, so that one is sealed; half of it named only after the checkpoint.
    let later: Vec<_> = (10..16).map(|key| (key, mini.write(key, 60 << 10).unwrap())).collect();
    for key in 1..7 {
        mini.put(key, 60 << 10).unwrap();
    }
    mini.publish(open).unwrap();
    assert!(fill(&mini, 100) > 3);
    for (key, written) in later {
        mini.name(key, written).unwrap();
    }
    mini.verify();
}

/// INV-13: between the look-up of a place and the read there.
pub fn a_reader_keeps_what_it_has_looked_up() {
    let bench = Bench::new();
    let mini = bench.mount();
    for key in 0..6 {
        mini.put(key, 60 << 10).unwrap();
    }
    mini.checkpoint().unwrap();
    let file = mini.file(1);
    let (reached, at_the_device) = channel();
    let (go_on, wait) = channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let (reached, name) = (std::sync::Mutex::new(reached), "held reader");
    bench.device.look(move |call| {
        if matches!(call, Call::Read(..)) && std::thread::current().name() == Some(name) {
            reached.lock().unwrap().send(()).unwrap();
            let _ = wait.lock().unwrap().recv();
        }
    });
    std::thread::scope(|scope| {
        let held = std::thread::Builder::new().name(name.into());
        let reader = held.spawn_scoped(scope, || mini.read(1, &file)).unwrap();
        at_the_device.recv().unwrap();
        let (done, finished) = channel();
        scope.spawn({
            let mini = &mini;
            move || {
                for key in 0..6 {
                    mini.delete(key).unwrap();
                }
                mini.checkpoint().unwrap();
                fill(mini, 100);
                let _ = done.send(());
            }
        });
        // The engine must not get there; a broken one has the time to.
        let _ = finished.recv_timeout(Duration::from_secs(2));
        drop(go_on);
        reader.join().unwrap().unwrap();
    });
}

/// INV-13: what could be reached when a pin was taken, whatever is published and written meanwhile; also what no checkpoint has contained.
pub fn what_is_pinned_stays_readable() {
    let bench = Bench::new();
    let mini = bench.mount();
    for key in 0..6 {
        mini.put(key, 60 << 10).unwrap();
    }
    mini.checkpoint().unwrap();
    for key in 6..12 {
        mini.put(key, 60 << 10).unwrap();
    }
    let seen: Vec<_> = (0..12).map(|key| (key, mini.file(key))).collect();
    let pin = mini.engine.pin();
    for key in 0..12 {
        mini.delete(key).unwrap();
    }
    for round in 1..4 {
        mini.checkpoint().unwrap();
        for key in 0..8 {
            mini.put(100 * round + key, 60 << 10).unwrap();
        }
        for (key, file) in &seen {
            mini.read(*key, file).unwrap();
        }
    }
    assert!(!pin.is_broken());
    drop(pin);
    mini.checkpoint().unwrap();
    assert!(fill(&mini, 1000) > 3);
    mini.verify();
}

/// INV-14: a container that was filled and closed in the batch that is published, with little left in it that lives, is just what a store that is short of space cleans. What lives there may
/// still be on its way to the device.
pub fn what_is_under_way_is_not_cleaned() {
    let bench = Bench::of(16, false);
    let mini = bench.mount();
    // Full containers, and room for five more before writers wait: nothing else is worth cleaning.
    for key in 0_u64.. {
        if mini.engine.occupancy().free <= 14 * (256 << 10) {
            break;
        }
        with_checkpoints(&mini, || mini.put(key, 60 << 10)).unwrap();
    }
    mini.checkpoint().unwrap();
    mini.checkpoint().unwrap();
    // All of it is one batch: of every four objects one lives.
    bench.device.hold_writes({
        let regions = Bench::on(bench.simulated.image(), false);
        move |offset| regions.region(offset) == Region::Segments
    });
    for key in 1000_u64.. {
        if mini.put(key, 60 << 10).is_err() {
            break;
        }
        if key % 4 != 0 && mini.delete(key).is_err() {
            break;
        }
    }
    assert!(mini.keys().iter().filter(|key| **key >= 1000).count() > 1, "hardly anything was written");
    std::thread::scope(|scope| {
        let checkpoint = scope.spawn(|| mini.checkpoint());
        // It must not get anywhere; a broken one has the time to.
        let (_never, timer) = channel::<()>();
        let _ = timer.recv_timeout(Duration::from_secs(2));
        bench.device.release();
        checkpoint.join().unwrap().unwrap();
    });
    assert_eq!(mini.engine.metrics().cleaner.damaged.get(), 0, "it was looked at before it had arrived");
    mini.verify();
    mini.checkpoint().unwrap();
    mini.verify();
    assert!(mini.engine.metrics().cleaner.moved.get() > 0, "nothing was moved");
}

/// INV-07: with hardly any memory for pages, a publication reads a segment's page, changes it, writes it elsewhere and forgets it, all while another thread reads the old one.
pub fn a_page_that_is_replaced_while_it_is_read_is_read_again() {
    let bench = Bench::new();
    let settings = envoyfs_engine::Settings { segment_cache_bytes: 0, ..envoyfs_engine::Settings::default() };
    let options = envoyfs_engine::Options { settings, ..crate::mini::options(&bench.clock) };
    let device: Arc<dyn Device> = Arc::clone(&bench.device) as Arc<dyn Device>;
    let mini = Mini::open_with(device, &bench.clock, options).unwrap();
    for key in 0..4 {
        mini.put(key, 20 << 10).unwrap();
    }
    // The second forgets what the first wrote.
    mini.checkpoint().unwrap();
    mini.put(100, 60 << 10).unwrap();
    mini.checkpoint().unwrap();
    let segments = [mini.file(1).reference.oid.segment()].into();
    let (reached, at_the_device) = channel();
    let (go_on, wait) = channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let (reached, name) = (std::sync::Mutex::new(reached), "loader");
    // The first read of the page is done when the publication begins, and taken when it is over.
    bench.device.look(move |call| {
        if matches!(call, Call::Read(..)) && std::thread::current().name() == Some(name) {
            let _ = reached.lock().unwrap().send(());
            let _ = wait.lock().unwrap().recv();
        }
    });
    std::thread::scope(|scope| {
        let loader = std::thread::Builder::new().name(name.into());
        let loader = loader.spawn_scoped(scope, || mini.engine.load_segments(&segments)).unwrap();
        at_the_device.recv().unwrap();
        mini.delete(1).unwrap();
        mini.checkpoint().unwrap();
        drop(go_on);
        loader.join().unwrap().unwrap();
    });
    bench.device.look_away();
    mini.delete(2).unwrap();
    mini.checkpoint().unwrap();
    assert_eq!(mini.engine.check_space(), Vec::<String>::new());
    mini.verify();
}

/// INV-39: what lives in a segment has the same digest before and after the cleaner moved it.
pub fn a_digest_does_not_tell_where_a_segment_lies() {
    let bench = Bench::of(16, false);
    let mini = bench.mount();
    let count = fill(&mini, 0);
    for key in (0..count).filter(|key| key % 4 != 0) {
        mini.delete(key).unwrap();
    }
    mini.checkpoint().unwrap();
    let digests = || {
        let segments: BTreeSet<u32> = (0..count).step_by(4).map(|key| mini.file(key).reference.oid.segment()).collect();
        let digest =
            |segment| (segment, (mini.engine.live_objects(segment).unwrap(), mini.engine.digest(segment).unwrap()));
        segments.into_iter().map(digest).collect::<BTreeMap<_, _>>()
    };
    let before = digests();
    fill(&mini, 1000);
    mini.checkpoint().unwrap();
    assert!(mini.engine.metrics().cleaner.moved.get() > 0, "nothing was moved");
    let mut compared = 0;
    for (segment, (live, digest)) in digests() {
        // Not that which was being filled.
        if live == before[&segment].0 {
            assert_eq!(digest, before[&segment].1, "segment {segment}");
            compared += 1;
        }
    }
    assert!(compared + 1 >= before.len(), "{compared} of {}", before.len());
}

/// INV-14: the copies are found only when they are on the device.
pub fn what_the_cleaner_moves_can_be_read_all_the_time() {
    let bench = Bench::of(16, false);
    let mini = bench.mount();
    let count = fill(&mini, 0);
    mini.checkpoint().unwrap();
    for key in (0..count).filter(|key| key % 4 != 0) {
        mini.delete(key).unwrap();
    }
    // Full again, and fragmented: the next checkpoint cleans.
    mini.checkpoint().unwrap();
    (1000..).find(|key| mini.put(*key, 60 << 10).is_err());
    let before = mini.engine.metrics().cleaner.moved.get();
    let victims = mini.engine.metrics().cleaner.victims.get();
    std::thread::scope(|scope| {
        // From the first copy on: what was written before has to arrive before the cleaner looks at it.
        bench.device.hold_writes({
            let regions = Bench::on(bench.simulated.image(), false);
            let engine = Arc::clone(&mini.engine);
            move |offset| regions.region(offset) == Region::Segments && engine.metrics().cleaner.victims.get() > victims
        });
        let checkpoint = scope.spawn(|| {
            mini.checkpoint().unwrap();
        });
        // Until the copies are under way, and nothing more is written before something is waited for.
        let moved = || mini.engine.metrics().cleaner.moved.get() - before;
        let mut held = 0;
        for _ in 0..100 {
            let (_never, timer) = channel::<()>();
            let _ = timer.recv_timeout(Duration::from_millis(150));
            let now = bench.device.held_writes();
            if moved() > 0 && now == held {
                break;
            }
            held = now;
        }
        let moved = moved();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| mini.verify()));
        bench.device.release();
        checkpoint.join().unwrap();
        assert!(result.is_ok(), "while the copies were on their way");
        assert!(moved > 0, "nothing was moved");
    });
    mini.verify();
}

/// INV-07.
pub fn a_fork_counts_what_it_shares() {
    let bench = Bench::new();
    let device: Arc<dyn Device> = Arc::clone(&bench.device) as Arc<dyn Device>;
    let engine = crate::history::mount(device, &bench.clock).unwrap();
    let mut client = Client::start(engine, bench.clock.clone());
    for key in 0..12 {
        client.run(&Op::Write { tree: 0, key, seed: u64::from(key), len: 5000 }).unwrap();
    }
    client.checkpoint().unwrap();
    client.run(&Op::Fork { from: 0, to: 1 }).unwrap();
    client.checkpoint().unwrap();
    client.run(&Op::Write { tree: 1, key: 1, seed: 77, len: 5000 }).unwrap();
    client.quiesce_and_check();
    client.run(&Op::Drop { tree: 0 }).unwrap();
    client.quiesce_and_check();
    client.verify();
}
