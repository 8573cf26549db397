//! The batch law: what counts, what is freed, and what a client may not do.

use crate::StoreError;
use crate::bench::Bench;
use crate::client::{Client, Op};
use crate::device::Device;
use crate::store::{Batch, Changes, Gone, Roots, Store as _};
use envoyfs_layout::node::{NodeBuilder, Owner, TreeKind, edges};
use envoyfs_layout::{Hlc, ReferenceKind};
use std::sync::Arc;

fn client(bench: &Bench) -> Client {
    let device: Arc<dyn Device> = Arc::clone(&bench.device) as Arc<dyn Device>;
    Client::start(crate::history::mount(device, &bench.clock).unwrap(), bench.clock.clone())
}

/// INV-02.
pub fn a_node_is_not_older_than_what_it_refers_to() {
    let bench = Bench::new();
    let mini = bench.mount();
    mini.put(1, 4096).unwrap();
    let extent = mini.file(1).reference;
    let append = |birth: Hlc| {
        let mut builder = NodeBuilder::new(TreeKind::Extents, 0, birth, Owner::default());
        builder.push(b"key", b"", &[extent]).unwrap();
        mini.engine.append_node(Batch::Current, ReferenceKind::Node, 0, birth, &builder.finish())
    };
    let older = append(Hlc(extent.birth.0 - 1));
    assert!(matches!(older, Err(StoreError::Misuse(_))), "{older:?}");
    append(extent.birth).unwrap();
    mini.checkpoint().unwrap();
    mini.verify();
}

/// INV-08.
pub fn a_node_that_is_still_referred_to_is_not_gone() {
    let bench = Bench::new();
    let mini = bench.mount();
    mini.put(1, 4096).unwrap();
    mini.checkpoint().unwrap();
    let node = mini.engine.client_roots()[0];
    let edges = edges(&mini.engine.read_node(&node).unwrap()).unwrap();
    let frozen = mini.engine.freeze().unwrap();
    let changes = Changes { gone: vec![Gone { node, edges }], ..Changes::default() };
    let published = mini.engine.publish(frozen, Roots { references: vec![node], blob: Vec::new() }, changes);
    assert!(matches!(published, Err(StoreError::Misuse(_))), "{published:?}");
}

/// INV-10, INV-11: the first half of each extent is given back, and no unit more or less.
pub fn what_is_freed_of_an_extent_is_what_the_client_says() {
    let bench = Bench::new();
    let mut client = client(&bench);
    for key in 0..8 {
        client.run(&Op::Write { tree: 0, key, seed: 40 + u64::from(key), len: 16_384 }).unwrap();
    }
    client.checkpoint().unwrap();
    for key in 0..8 {
        client.run(&Op::Punch { tree: 0, key }).unwrap();
    }
    client.quiesce_and_check();
    client.verify();
}

/// INV-14.
pub fn what_a_stored_node_refers_to_does_not_grow() {
    let bench = Bench::new();
    let mut client = client(&bench);
    let pieces = |client: &Client| client.logical()[&0][&0].pieces.len();
    client.run(&Op::Write { tree: 0, key: 0, seed: 1, len: 4096 }).unwrap();
    client.run(&Op::Grow { tree: 0, key: 0, seed: 2, len: 4096 }).unwrap();
    assert_eq!(pieces(&client), 2, "before, it does");
    // The fork writes the tree's nodes.
    client.run(&Op::Fork { from: 0, to: 1 }).unwrap();
    client.run(&Op::Grow { tree: 0, key: 0, seed: 3, len: 4096 }).unwrap();
    assert_eq!(pieces(&client), 2);
    client.quiesce_and_check();
}

/// INV-14: the node has the object with the length that it had then.
pub fn what_a_node_of_a_freeze_given_up_refers_to_does_not_grow() {
    let bench = Bench::new();
    let mut client = client(&bench);
    client.run(&Op::Write { tree: 0, key: 0, seed: 1, len: 8192 }).unwrap();
    let building = client.build().unwrap();
    client.abandon(building).unwrap();
    // The fork keeps that node, and the other side goes on.
    client.run(&Op::Fork { from: 0, to: 1 }).unwrap();
    client.run(&Op::Grow { tree: 0, key: 0, seed: 2, len: 4096 }).unwrap();
    assert_eq!(client.logical()[&0][&0].pieces.len(), 1);
    client.quiesce_and_check();
}
