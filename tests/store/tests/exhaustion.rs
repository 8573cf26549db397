//! What runs out: space in stores of every small size, buffers, caches. Each is told or made good; nothing acknowledged is lost, nothing hangs, and what comes later works.

use envoyfs_store_tests::StoreError;
use envoyfs_store_tests::bench::{Bench, recover};
use envoyfs_store_tests::device::{BufferClass, BufferPool, Device, SimulatedDevice};
use envoyfs_store_tests::history::formatted;
use envoyfs_store_tests::mini::{Mini, options};
use envoyfs_store_tests::scripted::ScriptedDevice;
use envoyfs_store_tests::store::{Result, Store as _};
use envoyfs_store_tests::{Options, Settings};
use std::sync::Arc;

/// With the checkpoints that a step waits for.
fn with_checkpoints<T>(mini: &Mini, mut step: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 0..200 {
        match step() {
            Err(StoreError::WouldWait { .. }) => mini.checkpoint()?,
            other => return other,
        }
    }
    panic!("200 checkpoints did not help");
}

/// Objects that fit.
fn fill(mini: &Mini, from: u64, bytes: u32) -> u64 {
    for key in from.. {
        match with_checkpoints(mini, || mini.put(key, bytes)) {
            Ok(_) => {}
            Err(StoreError::NoSpace { .. }) => return key - from,
            Err(error) => panic!("key {key}: {error}"),
        }
    }
    0
}

#[test]
fn a_full_store_of_any_size_deletes_writes_again_and_closes() {
    for mib in 8..=24 {
        for bytes in [4096, 40 << 10, 60 << 10] {
            let what = format!("{mib} MiB, objects of {bytes} bytes");
            let clock = envoyfs_store_tests::client::clock();
            let device = formatted(mib, 512, mib);
            let mini = Mini::open(Arc::new(device.clone()), &clock).unwrap();
            let count = fill(&mini, 0, bytes);
            mini.checkpoint().unwrap_or_else(|error| panic!("{what}: full, and no checkpoint: {error}"));
            mini.engine.close().unwrap_or_else(|error| panic!("{what}: full, and it does not close: {error}"));
            drop(mini);

            // Another mount of the full store.
            let mini = Mini::open(Arc::new(device.process_crash()), &clock).unwrap();
            assert_eq!(mini.keys().len() as u64, count, "{what}");
            mini.verify();
            fill(&mini, 1 << 32, bytes);
            for key in mini.keys() {
                with_checkpoints(&mini, || mini.delete(key)).unwrap_or_else(|error| panic!("{what}: delete: {error}"));
            }
            for _ in 0..4 {
                mini.checkpoint().unwrap();
            }
            let again = fill(&mini, 2 << 32, bytes);
            // Tails of containers that other objects left differ.
            assert!(again * 10 >= count * 9, "{what}: {count} objects fitted, now {again}");
            mini.verify();
            mini.checkpoint().unwrap();
            mini.engine.close().unwrap();
            assert_eq!(mini.engine.check_space(), Vec::<String>::new(), "{what}");
        }
    }
}

/// A history of writes, deletions, checkpoints, and a mount, in which everything is read again.
fn history(device: Arc<dyn Device>, settings: &Settings) {
    let clock = envoyfs_store_tests::client::clock();
    let open = |device| {
        let options = Options { settings: settings.clone(), ..options(&clock) };
        Mini::open_with(device, &clock, options).unwrap()
    };
    let mini = open(Arc::clone(&device));
    for round in 0..4_u64 {
        for key in 0..6 {
            with_checkpoints(&mini, || mini.put(round << 8 | key, 512 << (key * 3 / 2))).unwrap();
        }
        mini.commit().unwrap();
        with_checkpoints(&mini, || mini.delete(round << 8 | 2)).unwrap();
        mini.verify();
        if round % 2 == 1 {
            mini.checkpoint().unwrap();
        }
    }
    mini.engine.close().unwrap();
    let keys = mini.keys();
    drop(mini);
    let mini = open(device);
    assert_eq!(mini.keys(), keys);
    mini.verify();
}

#[test]
fn a_pool_of_any_size_may_be_empty_at_any_moment() {
    let mut pools = vec![BufferPool::heap().clone()];
    for small in 0..6 {
        for large in 0..3 {
            let class = |bytes, count| BufferClass { bytes, count };
            pools.push(BufferPool::new(&[class(4 << 10, small), class(64 << 10, large)]));
        }
    }
    for slow in [false, true] {
        for pool in &pools {
            let device = formatted(8, 512, 1).slow(slow);
            let device = ScriptedDevice::with_buffers(Arc::new(device), pool.clone(), u64::MAX);
            history(device, &Settings::default());
            assert_eq!(pool.in_use(), 0, "a buffer was not given back");
        }
    }
}

/// From the n-th on there are no buffers but the heap's, for every n.
#[test]
fn buffers_may_run_out_at_any_call() {
    for n in 0..1000 {
        let pool = BufferPool::new(&[BufferClass { bytes: 64 << 10, count: 8 }]);
        let device = ScriptedDevice::with_buffers(Arc::new(formatted(8, 512, 1)), pool.clone(), n);
        history(Arc::<ScriptedDevice>::clone(&device), &Settings::default());
        assert_eq!(pool.in_use(), 0, "a buffer was not given back");
        if device.buffers_left() > 0 {
            println!("{n} buffers are taken");
            assert!(n > 40, "only {n} buffers are taken");
            return;
        }
    }
    panic!("more than 1000 buffers");
}

/// Every bound at its least, alone and together.
#[test]
fn bounds_of_no_size_slow_down_and_change_nothing() {
    let least = Settings {
        segment_cache_bytes: 0,
        slot_map_bytes: 0,
        unpublished_objects: 0,
        dirty_bytes: 0,
        in_flight_bytes: 0,
        ..Settings::default()
    };
    let rest = Settings::default;
    let plans = [
        Settings { segment_cache_bytes: 0, slot_map_bytes: 0, ..rest() },
        Settings { unpublished_objects: 0, ..rest() },
        Settings { dirty_bytes: 0, ..rest() },
        Settings { in_flight_bytes: 0, ..rest() },
        least,
    ];
    for settings in plans {
        for slow in [false, true] {
            history(Arc::new(formatted(8, 512, 1).slow(slow)), &settings);
        }
    }
}

#[test]
fn who_writes_more_objects_than_may_be_unpublished_waits_for_a_checkpoint() {
    let clock = envoyfs_store_tests::client::clock();
    let settings = Settings { unpublished_objects: 10, ..Settings::default() };
    let open = |device: Arc<dyn Device>| {
        Mini::open_with(device, &clock, Options { settings: settings.clone(), ..options(&clock) }).unwrap()
    };
    let device = formatted(8, 512, 1);
    let mini = open(Arc::new(device.clone()));
    for key in 0..10 {
        assert_eq!(mini.engine.wait_checkpoint(0).is_some(), key > 5, "after {key} objects");
        mini.put(key, 512).unwrap();
    }
    let waits = |mini: &Mini| matches!(mini.put(99, 512), Err(StoreError::WouldWait { .. }));
    assert!(waits(&mini) && waits(&mini));
    // What brings no object goes on.
    mini.delete(3).unwrap();
    mini.commit().unwrap();
    // A mount counts what it replays.
    drop(mini);
    let mini = open(Arc::new(device.process_crash()));
    assert!(waits(&mini));
    mini.checkpoint().unwrap();
    for key in 10..20 {
        mini.put(key, 512).unwrap();
    }
    assert!(waits(&mini));
    mini.checkpoint().unwrap();
    mini.put(20, 512).unwrap();
    mini.verify();
}

/// A full store is cut at any moment of what it does then.
#[test]
fn a_full_store_loses_nothing_acknowledged_when_power_fails() {
    let base: SimulatedDevice = formatted(8, 512, 3);
    let bench = Bench::on(base.durable_image(), false);
    let mini = bench.mount();
    let count = fill(&mini, 0, 60 << 10);
    mini.commit().unwrap();
    let keys = mini.keys();
    assert_eq!(keys.len() as u64, count);
    assert_eq!(recover(&bench.cut()).keys(), keys, "full, acknowledged, cut");
    mini.checkpoint().unwrap();
    assert_eq!(recover(&bench.cut()).keys(), keys, "after a checkpoint");
    // More than a container holds, so that one becomes free.
    for key in 0..8 {
        with_checkpoints(&mini, || mini.delete(key)).unwrap();
    }
    mini.commit().unwrap();
    assert_eq!(recover(&bench.cut()).keys(), mini.keys(), "after deletions");
    let again = recover(&bench.cut());
    again.checkpoint().unwrap();
    again.checkpoint().unwrap();
    with_checkpoints(&again, || again.put(99, 4096)).unwrap();
    again.checkpoint().unwrap();
    again.engine.close().unwrap();
}
