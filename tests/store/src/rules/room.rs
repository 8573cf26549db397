//! Space and memory: what was promised is there, and nobody waits under the freeze lock.

use crate::bench::Bench;
use crate::client::{Client, Op};
use crate::device::Device;
use crate::mini::Mini;
use crate::scripted::Call;
use crate::store::{Batch, Draft, Need, Store as _, Tier};
use crate::{Options, Settings, StoreError};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Far longer than anything takes that does not wait for the device.
const LONG: Duration = Duration::from_secs(15);

/// Reads, appends and looks.
fn go_on(mini: &Mini, key: u64) {
    mini.put(key, 8192).unwrap();
    mini.delete(key - 1).unwrap();
    mini.note(100).unwrap();
    mini.verify();
}

/// INV-24: nothing of what is written reaches the device meanwhile.
pub fn nobody_waits_for_the_device_at_a_freeze_or_beside_a_publication() {
    let bench = Bench::of(16, false);
    let mini = bench.mount();
    for key in 0..10 {
        mini.put(key, 8192).unwrap();
    }
    mini.checkpoint().unwrap();
    bench.device.hold_writes(|_| true);
    let (waiting, begun) = channel::<()>();
    let waiting = Mutex::new(waiting);
    let publisher = "publisher";
    bench.device.look(move |call| {
        if matches!(call, Call::Write(..)) && std::thread::current().name() == Some(publisher) {
            let _ = waiting.lock().unwrap().send(());
        }
    });
    std::thread::scope(|scope| {
        let (done, finished): (Sender<()>, _) = channel();
        let mini = &mini;
        let writer = scope.spawn(move || {
            go_on(mini, 11);
            let open = mini.freeze().unwrap();
            go_on(mini, 13);
            let publication =
                std::thread::Builder::new().name(publisher.into()).spawn_scoped(scope, || mini.publish(open)).unwrap();
            // It has written something, and waits for that.
            let _ = begun.recv();
            go_on(mini, 15);
            let _ = done.send(());
            publication
        });
        let returned = finished.recv_timeout(LONG);
        let held = bench.device.held_writes();
        bench.device.look_away();
        bench.device.release();
        writer.join().unwrap().join().unwrap().unwrap();
        assert!(returned.is_ok(), "a freeze, an append or a read waited for the device");
        assert!(held >= 3, "{held} writes were held: the data of three objects");
    });
    mini.verify();
}

/// INV-32: what a stream has filled is closed, so that publications look at it.
pub fn every_container_is_free_or_filled_or_closed() {
    let bench = Bench::new();
    let mini = bench.mount();
    for round in 0..3 {
        for key in 0..10 {
            mini.put(key, 60 << 10).unwrap();
        }
        assert_eq!(mini.engine.check_space(), Vec::<String>::new(), "round {round}");
        mini.checkpoint().unwrap();
        assert_eq!(mini.engine.check_space(), Vec::<String>::new(), "round {round}, published");
    }
    assert!(mini.engine.metrics().streams.containers_sealed.get() > 6);
}

/// Writes until a writer is refused, however little he wants.
fn full(bench: &Bench) -> Client {
    let device: Arc<dyn Device> = Arc::clone(&bench.device) as Arc<dyn Device>;
    let mut client = Client::start(crate::history::mount(device, &bench.clock).unwrap(), bench.clock.clone());
    for len in [48 << 10, 512] {
        let write = |key| Op::Write { tree: 0, key, seed: u64::from(key), len };
        let refused = (len..).find_map(|key| client.run(&write(key)).err());
        assert!(matches!(refused, Some(StoreError::NoSpace { .. })), "{refused:?}");
    }
    client
}

/// INV-26.
pub fn a_fork_and_its_deletion_work_when_writers_are_refused() {
    let bench = Bench::of(16, false);
    let mut client = full(&bench);
    for round in 0..4 {
        client.run(&Op::Fork { from: 0, to: 1 }).unwrap();
        client.run(&Op::Drop { tree: 1 }).unwrap();
        let refused = client.run(&Op::Write { tree: 2, key: 0, seed: 1, len: 48 << 10 });
        assert!(matches!(refused, Err(StoreError::NoSpace { .. })), "round {round}: {refused:?}");
    }
    client.verify();
}

/// INV-25: the largest operation of the last tier that a full store admits, and then its nodes, all of them.
pub fn nodes_that_were_admitted_have_room_when_they_are_written() {
    let bench = Bench::of(16, false);
    let client = full(&bench);
    let free = client.engine.usage().free;
    let admitted = (0..80).rev().find_map(|part| {
        let node_bytes = free * part / 40;
        let need = Need { log_bytes: 64, node_bytes, payload_bytes: 0, data_bytes: 0, tier: Tier::Last };
        Some((node_bytes, client.engine.reserve(need).ok()?))
    });
    let (bytes, mut permit) = admitted.expect("none is admitted");
    assert!(bytes > 512 << 10, "{bytes} bytes");
    let draft = Draft { kind: crate::mini::NOTE, territory: 1, origin: None, data: &[], body: &[1; 8] };
    client.engine.append(&mut permit, draft).unwrap();
    let frozen = client.engine.freeze().unwrap();
    for written in 0..bytes >> 13 {
        let node = crate::mini::idle_node(&client.engine, Batch::Frozen, 8);
        assert!(node.is_ok(), "{} KiB of {}: {node:?}", 8 * written, bytes >> 10);
    }
    client.engine.abandon(frozen).unwrap();
}

/// INV-35.
pub fn pages_that_the_setting_has_no_room_for_are_forgotten() {
    let bench = Bench::of(32, false);
    let settings = Settings { segment_cache_bytes: 0, ..Settings::default() };
    let options = Options { settings, ..crate::mini::options(&bench.clock) };
    let device: Arc<dyn Device> = Arc::clone(&bench.device) as Arc<dyn Device>;
    let mini = Mini::open_with(device, &bench.clock, options).unwrap();
    for key in 0..200 {
        mini.put(key, 60 << 10).unwrap();
        if key % 20 == 19 {
            mini.checkpoint().unwrap();
            let held = mini.engine.metrics().state.loaded_bytes.get();
            assert_eq!(held, 0, "after {key} objects");
        }
    }
}

/// Objects of which every other one lives: what remains was moved, so that segments have slot maps.
fn cleaned(mini: &Mini) {
    let put = |key, bytes| loop {
        match mini.put(key, bytes) {
            Ok(_) => return true,
            Err(StoreError::WouldWait { .. }) => mini.checkpoint().unwrap(),
            Err(StoreError::NoSpace { .. }) => return false,
            Err(error) => panic!("{error}"),
        }
    };
    let last = (0..).find(|key| !put(*key, 24 << 10)).expect("it gets full");
    for round in 0..7 {
        for key in (0..last).filter(|key| key % 7 == round) {
            mini.delete(key).unwrap();
        }
        mini.checkpoint().unwrap();
        for key in (0..last).filter(|key| key % 7 == round) {
            put(key, 20 << 10);
        }
        mini.checkpoint().unwrap();
    }
    assert!(mini.engine.metrics().cleaner.moved.get() > 20, "{:?}", mini.engine.metrics());
}

/// INV-35.
pub fn slot_maps_that_the_setting_has_no_room_for_are_forgotten() {
    let bench = Bench::of(16, false);
    let mini = bench.mount();
    cleaned(&mini);
    mini.checkpoint().unwrap();
    drop(mini);
    let settings = Settings { slot_map_bytes: 0, ..Settings::default() };
    let options = Options { settings, ..crate::mini::options(&bench.clock) };
    let mini = Mini::open_with(Arc::new(bench.simulated.process_crash()), &bench.clock, options).unwrap();
    mini.verify();
    let reads = &mini.engine.metrics().reads;
    assert!(reads.page_cache_misses.get() > 0, "no slot map was read");
    assert_eq!(reads.cache_bytes.get(), 0);
}

/// INV-13: whoever forgets one is told of, too.
pub fn a_pin_that_is_dropped_is_given_back() {
    let bench = Bench::new();
    let mini = bench.mount();
    let pins = &mini.engine.metrics().pins;
    let pin = mini.engine.pin();
    mini.put(1, 8192).unwrap();
    mini.checkpoint().unwrap();
    assert_eq!(pins.held.get(), 1);
    assert_eq!(mini.engine.check_idle(), ["1 pins of readers are held, the oldest for 0 ms"]);
    drop(pin);
    mini.checkpoint().unwrap();
    assert_eq!(pins.held.get(), 0);
    assert_eq!(mini.engine.check_idle(), Vec::<String>::new());
}

/// INV-32: what a checkpoint contains, was given up, or is moved, pins nothing.
pub fn a_container_is_kept_only_for_what_no_checkpoint_contains() {
    let bench = Bench::new();
    let mini = bench.mount();
    for round in 0..3 {
        for key in 0..6 {
            mini.put(key, 20 << 10).unwrap();
        }
        let (_permit, object) = mini.write(9, 8192).unwrap();
        assert_eq!(mini.engine.check_idle(), Vec::<String>::new(), "round {round}, written");
        mini.engine.abandon_data(&object);
        let frozen = mini.engine.freeze().unwrap();
        mini.engine.abandon(frozen).unwrap();
        assert_eq!(mini.engine.check_idle(), Vec::<String>::new(), "round {round}, given up");
        mini.checkpoint().unwrap();
        assert_eq!(mini.engine.check_idle(), Vec::<String>::new(), "round {round}, published");
    }
}
