//! The mark: exact on stores that are right, whatever goes on meanwhile; what is wrong is found and set right.

use super::client::*;
use crate::device::{Fault, SimulatedDevice};
use crate::hlc::SystemClock;
use crate::store::*;
use crate::{Engine, HistoryPolicy, MarkOptions, Options, StoreError};
use envoyfs_layout::batch::{Repair, RepairAction};
use envoyfs_layout::{Oid, Reference};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const ONE_PASS: MarkOptions = MarkOptions { memory_bytes: 64 << 20, bytes_per_second: 0 };
const MANY_PASSES: MarkOptions = MarkOptions { memory_bytes: 4096, bytes_per_second: 0 };

fn settle(client: &mut Client) {
    for _ in 0..4 {
        client.checkpoint().unwrap();
    }
}

#[test]
fn a_mark_of_a_right_store_finds_only_what_no_slice_uses() {
    for seed in seeds(0..6, "mark::a_mark_of_a_right_store") {
        let (_, mut client) = fresh(16, if seed % 2 == 0 { 512 } else { 4096 }, seed);
        let mut rng = Rng(seed);
        for round in 0..12 {
            for _ in 0..60 {
                tick(&client.clock);
                let op = client.random_op(&mut rng, 6, 40);
                client.run(&op).unwrap();
            }
            client.engine.ask_mark().unwrap();
            client.checkpoint().unwrap();
            // What happens after the checkpoint that the mark looks at does not disturb it.
            for _ in 0..rng.below(60) {
                let op = client.random_op(&mut rng, 6, 40);
                client.run(&op).unwrap();
                if rng.below(8) == 0 {
                    client.checkpoint().unwrap();
                }
            }
            let options = if round % 2 == 0 { ONE_PASS } else { MANY_PASSES };
            let report = client.engine.mark(options, Some(&uses)).unwrap();
            assert_eq!((report.counts, report.leaked_bytes, report.lost_bytes), (0, 0, 0), "{report:?}");
            assert!(report.nodes > 0 && report.unreadable.is_empty());
            assert_eq!(report.passes > 1, round % 2 == 1, "{report:?}");
            settle(&mut client);
            client.verify();
        }
        // What it reclaimed is not reclaimed twice, and everything that is used still reads.
        client.engine.ask_mark().unwrap();
        client.checkpoint().unwrap();
        let first = client.engine.mark(ONE_PASS, Some(&uses)).unwrap();
        settle(&mut client);
        client.engine.ask_mark().unwrap();
        client.checkpoint().unwrap();
        let second = client.engine.mark(ONE_PASS, Some(&uses)).unwrap();
        assert_eq!((second.unused_bytes, second.repairs), (0, 0), "{first:?} {second:?}");
        let metrics = client.engine.metrics();
        assert!(metrics.mark.nodes.get() > 0 && metrics.mark.passes.get() >= 2 && metrics.state.marks.get() >= 2);
        assert_eq!(client.engine.check_space(), Vec::<String>::new());
    }
}

/// Breaks the state of the store on purpose, in the way a lost or doubled batch would.
fn break_state(client: &Client, action: RepairAction, reference: Reference, first: u32, units: u32, delta: i32) {
    client.engine.load_segments(&[reference.oid.segment()].into()).unwrap();
    client.engine.state.lock().repair(&Repair { action, reference, first, units, delta }).unwrap();
}

#[test]
fn wrong_counts_and_wrong_liveness_are_found_and_set_right() {
    let (_, mut client) = fresh(16, 512, 9);
    client.engine.retain(crate::HistoryPolicy::NONE);
    for key in 0..30 {
        client.run(&Op::Write { tree: 0, key, seed: 7 + u64::from(key), len: 12_000 }).unwrap();
    }
    client.run(&Op::Fork { from: 0, to: 1 }).unwrap();
    // From here on the trees have roots of their own, and share all leaves but one.
    client.run(&Op::Small { tree: 1, key: 0, seed: 1, len: 100 }).unwrap();
    client.quiesce_and_check();
    let before = client.engine.usage().live;
    let top = client.engine.client_roots()[0];
    let edges = |node: &Reference| envoyfs_layout::node::edges(&client.engine.read_node(node).unwrap()).unwrap();
    let root = edges(&top)[0];
    let leaves = edges(&root);
    let shared = *leaves.iter().find(|leaf| client.engine.count(leaf.oid) == 2).unwrap();
    let (leaf, extents) = (leaves[0], edges(&leaves[0]));
    let last = *edges(leaves.last().unwrap()).last().unwrap();
    break_state(&client, RepairAction::Count, leaf, 0, 1, 1);
    break_state(&client, RepairAction::Count, extents[0], 0, 1, 3);
    break_state(&client, RepairAction::Forget, shared, 0, 1, 0);
    break_state(&client, RepairAction::Dead, extents[1], 2, 3, 0);
    let volume = client.engine.shape.volume;
    // Leaked: 20 units that nothing refers to, far behind everything in that segment.
    let far = Reference { oid: Oid::new(volume, last.oid.segment(), 470), ..last };
    break_state(&client, RepairAction::Live, far, 0, 20, 0);
    assert!(client.engine.usage().live > before);
    client.engine.ask_mark().unwrap();
    client.checkpoint().unwrap();
    let report = client.engine.mark(ONE_PASS, Some(&uses)).unwrap();
    assert_eq!((report.counts, report.leaked_bytes, report.lost_bytes), (3, 20 * 512, 3 * 512), "{report:?}");
    settle(&mut client);
    client.quiesce_and_check();
    assert_eq!(client.engine.usage().live, before);
    client.engine.ask_mark().unwrap();
    client.checkpoint().unwrap();
    assert_eq!(client.engine.mark(ONE_PASS, Some(&uses)).unwrap().repairs, 0);
}

#[test]
fn a_dropped_node_that_cannot_be_read_is_listed_and_the_mark_frees_what_hung_below() {
    let damaged: fn(u64) -> Fault = |offset| Fault::FlipBits { offset: offset + 100, mask: 4 };
    for fault in [damaged, |offset| Fault::ReadError { offset }] {
        a_dropped_node_with(fault, false);
    }
    // When the mark comes, it can be read again.
    a_dropped_node_with(|offset| Fault::ReadError { offset }, true);
}

fn a_dropped_node_with(fault: fn(u64) -> Fault, heals: bool) {
    let (device, mut client) = fresh(16, 512, 4);
    client.engine.retain(crate::HistoryPolicy::NONE);
    for key in 0..20 {
        client.run(&Op::Write { tree: 0, key, seed: 3 + u64::from(key), len: 30_000 }).unwrap();
    }
    client.run(&Op::Write { tree: 2, key: 1, seed: 5, len: 9000 }).unwrap();
    client.checkpoint().unwrap();
    let kept = client.engine.usage().live;
    client.run(&Op::Fork { from: 0, to: 1 }).unwrap();
    client.quiesce_and_check();
    let top = client.engine.client_roots()[0];
    let first_below = |node| envoyfs_layout::node::edges(&client.engine.read_node(node).unwrap()).unwrap()[0];
    // A leaf: of what is above it the roots object has copies.
    let leaf = first_below(&first_below(&top));
    let node = client.engine.read_node(&leaf).unwrap();
    let image = device.image();
    let mut stored = vec![0; node.len()];
    let position = (0..image.size_bytes()).step_by(512).find(|at| {
        image.read(*at, &mut stored);
        stored == *node
    });
    let position = position.unwrap();
    client.run(&Op::Drop { tree: 0 }).unwrap();
    client.run(&Op::Drop { tree: 1 }).unwrap();
    device.inject(fault(position));
    client.checkpoint().unwrap();
    settle(&mut client);
    assert_eq!(client.engine.usage().drop_queue, 0);
    assert_eq!(client.engine.metrics().state.drops_unreadable.get(), 1);
    assert!(client.engine.usage().live > 100 << 10, "a leak, but a known one");
    let device = device.process_crash();
    let again = open(&device, &client.clock).unwrap();
    assert_eq!(again.unreadable().iter().map(|r| r.oid).collect::<Vec<_>>(), vec![leaf.oid], "the list is persistent");
    client = Client::start(again, client.clock.clone());
    client.engine.retain(crate::HistoryPolicy::NONE);
    if heals {
        device.inject(Fault::Readable { offset: position });
    }
    client.engine.ask_mark().unwrap();
    client.checkpoint().unwrap();
    let report = client.engine.mark(ONE_PASS, Some(&uses)).unwrap();
    assert!(report.leaked_bytes > 100 << 10, "{report:?}");
    settle(&mut client);
    assert_eq!(client.engine.unreadable(), Vec::new());
    client.quiesce_and_check();
    assert!(client.engine.usage().live < kept);
}

#[test]
fn of_two_marks_the_second_is_refused_and_takes_nothing_from_the_first() {
    let (_, mut client) = fresh(16, 512, 3);
    for key in 0..40 {
        client.run(&Op::Write { tree: 0, key, seed: key.into(), len: 9000 }).unwrap();
    }
    client.run(&Op::Fork { from: 0, to: 1 }).unwrap();
    client.checkpoint().unwrap();
    let (oid, _) = client.extent_of(0, 7);
    // One reference too many: a difference, which must be taken off once.
    break_state(&client, RepairAction::Count, Reference::extent(oid, envoyfs_layout::Hlc::ZERO, 9216), 0, 18, 1);
    client.engine.ask_mark().unwrap();
    let second = |engine: &crate::Engine| {
        let refused = engine.mark(ONE_PASS, Some(&uses));
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
        assert!(engine.is_mark_under_way(), "the first one's checkpoint is still its own");
    };
    client.checkpoint().unwrap();
    let asked = std::cell::Cell::new(0);
    let report = client.engine.mark(
        ONE_PASS,
        Some(&|node, bytes, add| {
            asked.set(asked.get() + 1);
            second(&client.engine);
            uses(node, bytes, add)
        }),
    );
    let report = report.unwrap();
    assert!(asked.get() > 0);
    assert_eq!(report.counts, 1, "{report:?}");
    settle(&mut client);
    client.engine.ask_mark().unwrap();
    client.checkpoint().unwrap();
    assert_eq!(client.engine.mark(ONE_PASS, Some(&uses)).unwrap().counts, 0);
    client.quiesce_and_check_after_a_mark();
}

/// A store in which one extent, named with its key, has a reference too many.
fn with_a_count_too_high() -> (Client, Oid) {
    let (_, mut client) = fresh(16, 512, 3);
    for key in 0..40 {
        client.run(&Op::Write { tree: 0, key, seed: key.into(), len: 9000 }).unwrap();
    }
    client.checkpoint().unwrap();
    let (oid, _) = client.extent_of(0, 7);
    break_state(&client, RepairAction::Count, Reference::extent(oid, envoyfs_layout::Hlc::ZERO, 9216), 0, 18, 1);
    (client, oid)
}

/// The second of two marks: whenever it looks, it finds nothing that the first has found.
fn a_second_mark_finds_nothing(mut client: Client, oid: Oid) {
    while let Err(error) = client.engine.mark(ONE_PASS, Some(&uses)).map(|report| assert_eq!(report.counts, 0)) {
        assert!(matches!(error, StoreError::WouldWait { .. }), "{error}");
        client.checkpoint().unwrap();
    }
    settle(&mut client);
    assert_eq!(client.engine.count(oid), 1);
    client.quiesce_and_check();
    client.verify();
}

#[test]
fn a_mark_that_is_asked_for_while_a_publication_ends_does_not_repeat_what_the_one_before_corrects() {
    let (mut client, oid) = with_a_count_too_high();
    client.engine.ask_mark().unwrap();
    client.checkpoint().unwrap();
    // So that the policy retains the next one, whoever asks.
    (0..20).for_each(|_| tick(&client.clock));
    client.run(&Op::Small { tree: 0, key: 50, seed: 1, len: 100 }).unwrap();
    *client.engine.after_install.lock() = Some(Box::new(|engine| {
        assert_eq!(engine.mark(ONE_PASS, Some(&uses)).unwrap().counts, 1);
        engine.ask_mark().unwrap();
    }));
    client.checkpoint().unwrap();
    *client.engine.after_install.lock() = None;
    a_second_mark_finds_nothing(client, oid);
}

#[test]
fn a_mark_that_is_asked_for_while_many_corrections_wait_does_not_repeat_them() {
    let (mut client, oid) = with_a_count_too_high();
    // Before the count, of units that nothing knows: a batch takes all of these, and no more.
    let reference = Reference::extent(Oid::new(client.engine.shape.volume, 1 << 20, 0), envoyfs_layout::Hlc::ZERO, 512);
    let nothing = Repair { action: RepairAction::Dead, reference, first: 0, units: 1, delta: 0 };
    client.engine.ask_mark().unwrap();
    client.checkpoint().unwrap();
    client.engine.queue_repairs(std::iter::repeat_n(nothing, crate::mark::REPAIRS_A_BATCH));
    assert_eq!(client.engine.mark(ONE_PASS, Some(&uses)).unwrap().counts, 1);
    client.engine.ask_mark().unwrap();
    let retained = client.engine.history().unwrap().len();
    client.checkpoint().unwrap();
    assert_eq!(client.engine.history().unwrap().len(), retained, "one that it cannot look at is not retained for it");
    a_second_mark_finds_nothing(client, oid);
}

#[test]
fn publications_beside_a_mark_retain_no_more_than_the_policy_says() {
    let (_, mut client) = fresh(16, 512, 3);
    client.run(&Op::Write { tree: 0, key: 0, seed: 1, len: 9000 }).unwrap();
    client.engine.ask_mark().unwrap();
    client.checkpoint().unwrap();
    for key in 0..12 {
        (0..20).for_each(|_| tick(&client.clock));
        client.run(&Op::Small { tree: 0, key, seed: 1, len: 100 }).unwrap();
        client.checkpoint().unwrap();
        assert!(client.engine.history().unwrap().len() <= 3, "after {key}");
    }
    let pinned = client.engine.history().unwrap()[0].checkpoint;
    assert_eq!(client.engine.mark(ONE_PASS, Some(&uses)).unwrap().checkpoint, pinned);
    // It is over: the newest are retained again.
    client.run(&Op::Small { tree: 0, key: 20, seed: 1, len: 100 }).unwrap();
    client.checkpoint().unwrap();
    let newest = client.engine.history().unwrap().last().map(|root| root.checkpoint);
    assert_eq!(newest, Some(client.engine.usage().checkpoint));
    client.quiesce_and_check();
}

#[test]
fn counts_are_exact_after_a_churn_of_clones() {
    let clones: u32 = std::env::var("CLONES").map_or(1500, |clones| clones.parse().unwrap());
    let (_, mut client) = fresh(32, 4096, 11);
    let mut rng = Rng(11);
    for key in 0..24 {
        client.run(&Op::Write { tree: 0, key, seed: u64::from(key), len: 5000 }).unwrap();
    }
    for clone in 0..clones {
        let (from, to) = (rng.below(40) as u32, rng.below(40) as u32);
        client.run(&Op::Fork { from, to }).unwrap();
        match rng.below(4) {
            0 => client.run(&Op::Drop { tree: 1 + rng.below(39) as u32 }).unwrap(),
            1 => {
                let (tree, key) = (rng.below(40) as u32, rng.below(24) as u32);
                client.run(&Op::Small { tree, key, seed: u64::from(clone), len: 900 }).unwrap();
            }
            _ => {}
        }
        if clone % 50 == 49 {
            client.checkpoint().unwrap();
        }
    }
    client.engine.ask_mark().unwrap();
    client.checkpoint().unwrap();
    let report = client.engine.mark(ONE_PASS, Some(&uses)).unwrap();
    println!("{clones} clones: {report:?}");
    assert_eq!((report.counts, report.leaked_bytes, report.lost_bytes), (0, 0, 0));
    client.quiesce_and_check();
}

/// Writes until there is no space; makes the checkpoints and marks that the store waits for. Returns how many values were written, and the marks.
fn fill(client: &mut Client, tree: u32) -> (u32, Vec<crate::MarkReport>) {
    let mut marks = Vec::new();
    for key in 0.. {
        let op = Op::Write { tree, key, seed: u64::from(key) + 1, len: 48 << 10 };
        loop {
            match client.try_run(&op) {
                Ok(()) => break,
                Err(StoreError::WouldWait { what: "a mark" }) => {
                    assert!(client.engine.is_mark_wanted());
                    client.engine.ask_mark().unwrap();
                    client.checkpoint().unwrap();
                    marks.push(client.engine.mark(ONE_PASS, Some(&uses)).unwrap());
                }
                Err(StoreError::WouldWait { .. }) => client.checkpoint().unwrap(),
                Err(StoreError::NoSpace { .. }) => return (key, marks),
                Err(error) => panic!("{error}"),
            }
        }
    }
    (0, marks)
}

/// A store full of ranges that nobody uses: overwritten while their extents were shared, so that only a mark knows that they are dead. Says how many bytes they are.
fn full_of_dead_ranges() -> (Client, u32) {
    let (_, client, dead) = full_of_dead_ranges_on();
    (client, dead)
}

/// The same, and its device.
fn full_of_dead_ranges_on() -> (SimulatedDevice, Client, u32) {
    let (device, mut client) = fresh(16, 512, 3);
    let keys = 100;
    for key in 0..keys {
        client.run(&Op::Write { tree: 0, key, seed: u64::from(key) + 1, len: 48 << 10 }).unwrap();
    }
    client.run(&Op::Fork { from: 0, to: 1 }).unwrap();
    client.checkpoint().unwrap();
    for key in 0..keys {
        client.run(&Op::Punch { tree: 0, key }).unwrap();
    }
    client.run(&Op::Drop { tree: 1 }).unwrap();
    client.quiesce_and_check();
    (device, client, keys * (24 << 10))
}

#[test]
fn a_writer_is_refused_only_after_a_mark_has_freed_the_dead_ranges_of_shared_extents() {
    // Nobody who would run a mark: the writer is refused, and the space stays where it is.
    let (mut client, dead) = full_of_dead_ranges();
    let (without, marks) = fill(&mut client, 2);
    assert_eq!(marks.len(), 0);

    let (mut client, _) = full_of_dead_ranges();
    assert!(!client.engine.is_mark_wanted());
    let (with, marks) = fill(&mut client, 2);
    println!("{without} values without a mark, {with} with {} marks, {dead} bytes dead", marks.len());
    assert_eq!(marks[0].unused_bytes, u64::from(dead), "{:?}", marks[0]);
    // Nearly all of it can be written.
    assert!((with - without) * (48 << 10) > dead / 10 * 8, "{with} and {without} values");
    // One that finds nothing is not followed by another before something was written.
    assert!(marks.len() <= 3 && marks[1..].iter().all(|mark| mark.unused_bytes == 0), "{marks:?}");
    for key in 0..20 {
        let refused = client.run(&Op::Write { tree: 3, key, seed: 1, len: 48 << 10 });
        assert!(matches!(refused, Err(StoreError::NoSpace { .. })), "{key}: {refused:?}");
    }
    assert!(!client.engine.is_mark_wanted());
    client.verify();
    assert_eq!(client.engine.check_space(), Vec::<String>::new());
    // What is full can be emptied.
    client.run(&Op::Drop { tree: 2 }).unwrap();
    client.quiesce();
    assert!(fill(&mut client, 4).0 + 2 >= with);
}

/// Its checkpoint keeps space from being reused: deletions and forks go on all the same, and the mark gives up before they have no space.
#[test]
fn a_mark_before_a_refusal_gives_up_when_the_reserve_is_used() {
    let (mut client, _) = full_of_dead_ranges();
    assert!(!client.engine.is_mark_wanted());
    let mut keys = 0;
    let waited = loop {
        match client.try_run(&Op::Write { tree: 2, key: keys, seed: 1, len: 48 << 10 }) {
            Ok(()) => keys += 1,
            Err(StoreError::WouldWait { what: "a mark" }) => break client.engine.ask_mark(),
            Err(StoreError::WouldWait { .. }) => client.checkpoint().unwrap(),
            Err(error) => panic!("{error}"),
        }
    };
    waited.unwrap();
    client.checkpoint().unwrap();
    for round in 0..60 {
        client.run(&Op::Fork { from: 2, to: 9 }).unwrap();
        for key in 0..20 {
            client.run(&Op::Delete { tree: 9, key: (round * 7 + key) % keys }).unwrap();
        }
        client.run(&Op::Delete { tree: 2, key: round % keys }).unwrap();
        client.checkpoint().unwrap();
        client.run(&Op::Drop { tree: 9 }).unwrap();
        client.checkpoint().unwrap();
        assert_eq!(client.engine.check_space(), Vec::<String>::new(), "round {round}");
    }
    let ended = client.engine.mark(ONE_PASS, Some(&uses));
    println!("{ended:?}");
    let metrics = &client.engine.metrics().state;
    assert_eq!(metrics.marks_given_up.get(), u64::from(ended.is_err()));
    client.quiesce();
    client.verify();
    fill(&mut client, 3);
    assert_eq!(client.engine.check_space(), Vec::<String>::new());
}

/// Makes the checkpoints that are due until `ended`; how many.
fn serve(client: &mut Client, ended: impl Fn() -> bool) -> u32 {
    let mut publications = 0;
    while !ended() {
        if client.engine.wait_checkpoint(10).is_some() {
            client.checkpoint().unwrap();
            publications += 1;
        }
    }
    publications
}

#[test]
fn writers_of_a_full_store_wait_for_the_mark_that_somebody_runs_and_make_no_publications_meanwhile() {
    let (device, mut client, _) = full_of_dead_ranges_on();
    fill(&mut client, 2);
    client.commit().unwrap();
    let settings = crate::Settings { history: HistoryPolicy::NONE, ..tight() };
    let options = Options { settings, clock: Arc::new(SystemClock::new()), ..Options::default() };
    let engine = Arc::new(Engine::open(Arc::new(device.process_crash()), options).unwrap());
    engine.writer().unwrap().was_shared.store(true, Ordering::Relaxed);
    client = Client::start(Arc::clone(&engine), client.clock.clone());
    let need = Need { log_bytes: 64, node_bytes: 6 << 10, payload_bytes: 0, data_bytes: 48 << 10, tier: Tier::Writer };
    let (walks, goes_on) = (AtomicBool::new(false), AtomicBool::new(false));
    let write = || engine.reserve(need).map(drop);
    let (publications, outcomes, report) = std::thread::scope(|scope| {
        let refused = scope.spawn(write);
        serve(&mut client, || refused.is_finished());
        assert!(matches!(refused.join().unwrap(), Err(StoreError::NoSpace { .. })), "nobody would run a mark");
        let mark = scope.spawn(|| {
            let stalls = |node: &Reference, bytes: &[u8], add: &mut dyn FnMut(Oid, std::ops::Range<u32>)| {
                walks.store(true, Ordering::SeqCst);
                while !goes_on.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
                uses(node, bytes, add)
            };
            // For an hour, if nobody waited for it.
            engine.mark(MarkOptions { bytes_per_second: 1, ..ONE_PASS }, Some(&stalls))
        });
        serve(&mut client, || walks.load(Ordering::SeqCst));
        let writers = [scope.spawn(write), scope.spawn(write)];
        let (mut publications, mut quiet) = (0, 0);
        while quiet < 5 && publications < 20 && writers.iter().all(|writer| !writer.is_finished()) {
            match client.engine.wait_checkpoint(60) {
                Some(_) => {
                    client.checkpoint().unwrap();
                    publications += 1;
                }
                None => quiet += 1,
            }
        }
        goes_on.store(true, Ordering::SeqCst);
        serve(&mut client, || mark.is_finished() && writers.iter().all(|writer| writer.is_finished()));
        (publications, writers.map(|writer| writer.join().unwrap()), mark.join().unwrap())
    });
    assert!(report.as_ref().is_ok_and(|report| report.unused_bytes > 0), "{report:?}");
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert!(publications < 5, "{publications} publications while the mark walked");
    engine.close().unwrap();
}
