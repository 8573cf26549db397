//! Every declared metric tells something: a long life of a store moves it, or the list says which failure or wait does.

use super::client::*;
use crate::device::Fault;
use crate::metrics::Value;
use crate::store::*;
use crate::{HistoryPolicy, ScrubOptions};
use envoyfs_layout::node::edges;
use envoyfs_layout::{Oid, Reference};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Duration;

/// Not moved here: by a full store or log, and its waits; by readers with pins (`tests/pins.rs`); by a failing, lying or damaged device (`tests/faults.rs`); by a mark (`tests/mark.rs`); by
/// a device that lets data wait, or is told to discard; by a store so large that heat has classes (`tests/cleaning`); by a crash between a CHECKPOINT record and its publication.
const UNTOUCHED: &[&str] = &[
    "admission.marks_wanted",
    "admission.no_space",
    "admission.slowed",
    "admission.too_large",
    "admission.wait_log",
    "admission.wait_numbers",
    "admission.wait_space",
    "checkpoint.due_for_space",
    "checkpoint.failed",
    "checkpoint.unrecorded",
    "cleaner.damaged",
    "cleaner.heat_spread",
    "device.discarded_bytes",
    "device.flush_errors",
    "mark.leaked_bytes",
    "mark.nodes",
    "mark.passes",
    "mark.total",
    "mark.wrong_counts",
    "pins.broken",
    "pins.containers",
    "pins.held",
    "pins.oldest_ms",
    "pins.places",
    "poison.poisoned",
    "poison.refused",
    "reads.damaged",
    "reads.retried",
    "recovery.adopted",
    "recovery.lost",
    "recovery.moved",
    "recovery.placed_behind",
    "scrub.damaged",
    "state.drop_queue",
    "state.marks",
    "state.marks_given_up",
    "state.repairs",
    "streams.data_waits",
];

fn zero(client: &Client) -> BTreeSet<String> {
    let samples = client.engine.metrics().snapshot();
    let zero = samples.iter().filter(|sample| match sample.value {
        // Virtual time stands still: that it was recorded is what counts.
        Value::Latency { count, .. } => count == 0,
        _ => sample.value.is_zero(),
    });
    zero.map(|sample| format!("{}.{}", sample.group, sample.name)).collect()
}

/// The cleaner, and then the drop queue, meet sectors that cannot be read.
fn on_a_device_that_does_not_give_everything() -> Client {
    let (device, mut client) = fresh(16, 512, 3);
    client.engine.retain(HistoryPolicy::NONE);
    super::cleaning::fragment(&mut client);
    let offset = |client: &Client, oid: Oid| {
        let container = client.engine.reader.container_of(oid).unwrap();
        client.engine.shape.offset(container, oid.slot().into())
    };
    let unreadable = offset(&client, client.extent_of(0, 8).0);
    device.inject(Fault::ReadError { offset: unreadable });
    while client.engine.clean_anyway().unwrap() {}
    client.checkpoint().unwrap();
    assert!(client.engine.metrics().cleaner.unreadable.get() > 0);
    device.inject(Fault::Readable { offset: unreadable });
    // A leaf: of what is above it the roots object has copies.
    let below = |node: &Reference| edges(&client.engine.read_node(node).unwrap()).unwrap()[0];
    let leaf = below(&below(&client.engine.client_roots()[0]));
    device.inject(Fault::ReadError { offset: offset(&client, leaf.oid) });
    client.run(&Op::Drop { tree: 0 }).unwrap();
    client.quiesce();
    assert_eq!(client.engine.metrics().state.drops_unreadable.get(), 1);
    client
}

fn sum_ms(client: &Client, group: &str, name: &str) -> (u64, u64) {
    let samples = client.engine.metrics().snapshot();
    let found = samples.iter().find(|sample| (sample.group, sample.name) == (group, name)).unwrap();
    let Value::Latency { count, sum_ns, .. } = found.value else { panic!("{group}.{name} is no latency") };
    (count, sum_ns / 1_000_000)
}

#[test]
fn pins_and_passes_of_the_scrub_are_timed_by_the_stores_clock() {
    let (_, mut client) = fresh(16, 512, 7);
    let wait = |ms| client.clock.advance(Duration::from_millis(ms));
    let (short, long) = (client.engine.pin(), client.engine.pin());
    wait(3);
    drop(short);
    wait(20);
    assert_eq!(sum_ms(&client, "pins", "hold"), (1, 3));
    drop(long);
    assert_eq!(sum_ms(&client, "pins", "hold"), (2, 26));
    assert_eq!(client.engine.metrics().pins.taken.get(), 2);
    for key in 0..40 {
        client.run(&Op::Write { tree: 0, key, seed: u64::from(key), len: 20_000 }).unwrap();
    }
    client.checkpoint().unwrap();
    let mut left = 7;
    let clock = client.clock.clone();
    let slowly = |_: &crate::ScrubReport| {
        clock.advance(Duration::from_millis(u64::from(left > 0)));
        left -= i32::from(left > 0);
        ControlFlow::Continue(())
    };
    client.engine.scrub(ScrubOptions::default(), slowly).unwrap();
    assert_eq!(sum_ms(&client, "scrub", "pass"), (1, 7));
    // One that is ended early is no pass, but what it verified was timed.
    let report = client.engine.scrub(ScrubOptions::default(), |_| ControlFlow::Break(())).unwrap();
    assert!(report.position < report.containers);
    let objects = client.engine.metrics().scrub.objects.get();
    assert!(objects >= 40);
    assert_eq!(sum_ms(&client, "scrub", "verify").0, objects);
    assert_eq!(sum_ms(&client, "scrub", "pass").0, 1);
}

/// A write fails, and its data is written elsewhere.
fn on_a_device_that_does_not_take_everything() -> Client {
    let (device, mut client) = fresh(16, 512, 3);
    client.run(&Op::Write { tree: 0, key: 0, seed: 1, len: 8192 }).unwrap();
    let (oid, _) = client.extent_of(0, 0);
    let container = client.engine.reader.container_of(oid).unwrap();
    let next = client.engine.shape.offset(container, u32::from(oid.slot()) + 16);
    device.inject(Fault::WriteError { offset: next });
    client.run(&Op::Write { tree: 0, key: 1, seed: 2, len: 8192 }).unwrap();
    client.commit().unwrap();
    let streams = &client.engine.metrics().streams;
    assert_eq!((streams.relocated.get(), streams.relocation.count()), (1, 1));
    client.verify();
    client
}

/// Objects are overwritten all over, and between checkpoints the cleaner copies what lives among the dead.
fn cleaned_ahead() -> Client {
    let (_, mut client) = fresh(16, 512, 3);
    client.engine.retain(HistoryPolicy::NONE);
    let mut rng = Rng(5);
    for step in 0..4000 {
        let key = rng.below(400) as u32;
        client.run(&Op::Write { tree: 0, key, seed: step, len: 20_000 }).unwrap();
        if client.engine.wait_checkpoint(0).is_some() {
            client.checkpoint().unwrap();
        }
        if client.engine.metrics().cleaner.ahead.count() > 2 {
            break;
        }
    }
    let cleaner = &client.engine.metrics().cleaner;
    assert!(cleaner.ahead.count() > 2 && cleaner.moved.get() > 0, "nothing was copied between checkpoints");
    // What finds nothing to do is not timed.
    while client.engine.clean_ahead().unwrap() {}
    let worked = cleaner.ahead.count();
    assert!(!client.engine.clean_ahead().unwrap() && cleaner.ahead.count() == worked);
    client.verify();
    client
}

#[test]
fn every_declared_metric_is_moved_by_the_life_of_a_store_or_listed_with_what_moves_it() {
    let (mut device, mut client) = fresh(24, 512, 5);
    let mut rng = Rng(11);
    let mut never = zero(&client);
    let mut look = |client: &Client| {
        let now = zero(client);
        never.retain(|name| now.contains(name));
    };
    for round in 0..3 {
        client.engine.retain(HistoryPolicy { checkpoints_max: 3, interval_ms: 5, ..HistoryPolicy::default() });
        for _ in 0..300 {
            tick(&client.clock);
            let op = client.random_op(&mut rng, 4, 30);
            client.run(&op).unwrap();
            client.commit().unwrap();
            look(&client);
        }
        client.checkpoint().unwrap();
        while client.engine.clean_anyway().unwrap() {}
        client.checkpoint().unwrap();
        client.verify();
        client.engine.scrub(ScrubOptions::default(), |_| ControlFlow::Continue(())).unwrap();
        look(&client);
        drop(client.engine.pin());
        client.engine.retain(HistoryPolicy::NONE);
        client.run(&Op::Fork { from: 0, to: 9 }).unwrap();
        client.checkpoint().unwrap();
        for tree in [0, 9] {
            client.run(&Op::Drop { tree }).unwrap();
        }
        client.checkpoint().unwrap();
        look(&client);
        client.engine.wait_checkpoint(0);
        client.quiesce_and_check();
        client.run(&Op::Small { tree: 0, key: 1, seed: 4, len: 100 }).unwrap();
        client.commit().unwrap();
        // Long enough for a watermark, and for a checkpoint because nothing happens.
        for _ in 0..3 {
            client.engine.wait_checkpoint(0);
            client.clock.advance(Duration::from_secs(6));
            client.engine.pump().unwrap();
        }
        client.engine.wait_checkpoint(0);
        client.checkpoint().unwrap();
        look(&client);
        if round == 1 {
            // Records that no checkpoint contains are replayed.
            client.run(&Op::Small { tree: 0, key: 1, seed: 4, len: 100 }).unwrap();
            client.commit().unwrap();
        }
        device = device.process_crash();
        let engine = open(&device, &client.clock).unwrap();
        client = Client::start(engine, client.clock.clone());
        look(&client);
    }
    look(&on_a_device_that_does_not_give_everything());
    look(&cleaned_ahead());
    look(&on_a_device_that_does_not_take_everything());
    let listed: BTreeSet<String> = UNTOUCHED.iter().map(|name| (*name).to_owned()).collect();
    let dead: Vec<&String> = never.difference(&listed).collect();
    let alive: Vec<&String> = listed.difference(&never).collect();
    assert!(dead.is_empty(), "declared, and never moved: {dead:?}");
    assert!(alive.is_empty(), "listed as untouched, and moved: {alive:?}");
}
