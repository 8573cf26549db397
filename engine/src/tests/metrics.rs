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
    "checkpoint.due_for_log",
    "checkpoint.due_for_space",
    "checkpoint.failed",
    "checkpoint.unrecorded",
    "cleaner.damaged",
    "cleaner.debt",
    "cleaner.heat_spread",
    "device.discarded_bytes",
    "device.flush_errors",
    "device.write_errors",
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
    "pins.taken",
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
    "streams.relocated",
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
    let listed: BTreeSet<String> = UNTOUCHED.iter().map(|name| (*name).to_owned()).collect();
    let dead: Vec<&String> = never.difference(&listed).collect();
    let alive: Vec<&String> = listed.difference(&never).collect();
    assert!(dead.is_empty(), "declared, and never moved: {dead:?}");
    assert!(alive.is_empty(), "listed as untouched, and moved: {alive:?}");
}
