//! Retained checkpoints, the drop queue, marks and scrubs.

use crate::StoreError;
use crate::bench::Bench;
use crate::client::{Client, Op, half, tight};
use crate::device::{CrashImages, Device, Fault, RecordingDevice, SectorFate, SimulatedDevice};
use crate::store::{Store as _, Usage};
use crate::{Engine, HistoryPolicy, Options, Settings};
use envoyfs_engine::{MarkOptions, MarkReport, ScrubOptions};
use envoyfs_layout::node::{NodeView, edges};
use envoyfs_layout::{LayoutError, Oid, Reference, ReferenceKind};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

fn keep(checkpoints_max: u32, part_max: u64) -> HistoryPolicy {
    HistoryPolicy { checkpoints_max, interval_ms: 0, part_max, ..HistoryPolicy::default() }
}

fn client(bench: &Bench) -> Client {
    let device: Arc<dyn Device> = Arc::clone(&bench.device) as Arc<dyn Device>;
    Client::start(crate::history::mount(device, &bench.clock).unwrap(), bench.clock.clone())
}

fn write(client: &mut Client, tree: u32, keys: Range<u32>, seed: u64, len: u32) {
    for key in keys {
        client.run(&Op::Write { tree, key, seed: seed + u64::from(key), len }).unwrap();
    }
}

/// Units of extents that a leaf of the client uses: punched values do not use their first half.
fn uses(_: &Reference, bytes: &[u8], add: &mut dyn FnMut(Oid, Range<u32>)) -> Result<(), LayoutError> {
    let view = NodeView::parse(bytes)?;
    for item in view.items() {
        for index in item.reference_indexes() {
            let reference = view.reference(index).expect("an index that was checked");
            if reference.kind == ReferenceKind::Extent {
                let skip = if item.value[0] == 0 { 0 } else { half(reference.stored_bytes) / 512 };
                add(reference.oid, skip..reference.units());
            }
        }
    }
    Ok(())
}

fn mark(engine: &Engine) -> MarkReport {
    engine.mark(MarkOptions::default(), Some(&uses)).unwrap()
}

fn assert_right(report: &MarkReport) {
    let wrong = (report.counts, report.leaked_bytes, report.lost_bytes, report.deferred_bytes);
    assert_eq!((wrong, report.unreadable.len()), ((0, 0, 0, 0), 0), "{report:?}");
}

/// INV-31: whatever is overwritten, deleted and written over it.
pub fn what_a_retained_checkpoint_holds_stays_readable() {
    let bench = Bench::of(16, false);
    let mut client = client(&bench);
    client.engine.retain(keep(50, 1));
    write(&mut client, 0, 0..60, 1, 20_000);
    client.checkpoint().unwrap();
    let then = client.logical();
    let root = client.engine.history().unwrap().pop().expect("it is retained");
    for round in 0..3 {
        write(&mut client, 0, 0..60, 1000 * (round + 1), 20_000);
        client.checkpoint().unwrap();
    }
    assert!(client.engine.history().unwrap().iter().any(|other| other.checkpoint == root.checkpoint), "still retained");
    assert_eq!(client.read_root(root.roots.references[0]), then);
}

/// INV-31.
pub fn a_mount_knows_every_retained_checkpoint() {
    let bench = Bench::new();
    let mut client = client(&bench);
    client.engine.retain(keep(5, 2));
    for round in 0..3 {
        write(&mut client, 0, 0..4, round, 3000);
        client.checkpoint().unwrap();
    }
    let before = client.engine.history().unwrap();
    assert!(before.len() >= 3);
    let after = crate::history::mount(Arc::new(bench.simulated.process_crash()), &bench.clock).unwrap();
    assert_eq!(after.history().unwrap(), before);
}

/// Space that counts, of a store.
fn space(usage: Usage) -> [u64; 4] {
    [usage.live, usage.deferred, usage.drop_queue, usage.shared_objects]
}

/// Cuts the checkpoint that `last` makes at every place: where its record survives and its superblock does not, the mount must come to the same state from the batch.
fn adopted_is_as_published(prepare: impl Fn(&mut Client), last: impl Fn(&mut Client)) {
    let base = crate::history::formatted(8, 512, 1).durable_image();
    let device = RecordingDevice::new(SimulatedDevice::from_image(base.clone(), 512, 1));
    let recording = device.recording();
    let clock = crate::client::clock();
    let mut client = Client::start(crate::history::mount(Arc::new(device), &clock).unwrap(), clock.clone());
    prepare(&mut client);
    client.commit().unwrap();
    let begin = recording.len();
    last(&mut client);
    let (number, want) = (client.engine.usage().checkpoint, space(client.engine.usage()));
    let mut images = CrashImages::new(base, &recording).unwrap();
    let mut adopted = 0;
    for position in begin..=recording.len() {
        let image = images.at_with(position, |_| SectorFate::Kept);
        let device = Arc::new(SimulatedDevice::from_image(image, 512, 2));
        let engine = crate::history::mount(device, &clock).unwrap();
        if engine.metrics().recovery.adopted.get() == 1 && engine.usage().checkpoint == number {
            adopted += 1;
            assert_eq!(space(engine.usage()), want, "cut at {position}: live, deferred, queued, shared");
        }
    }
    assert!(adopted > 0, "no cut between record and superblock");
}

/// INV-17, INV-39: what a dropped checkpoint gives back follows from the batch alone.
pub fn an_adopted_checkpoint_gives_back_what_the_dropped_ones_kept() {
    adopted_is_as_published(
        |client| {
            client.engine.retain(keep(5, 2));
            write(client, 0, 0..20, 1, 5000);
            client.checkpoint().unwrap();
            write(client, 0, 0..20, 100, 5000);
            client.checkpoint().unwrap();
            assert!(client.engine.usage().deferred > 20 * 4096);
            client.engine.retain(HistoryPolicy::NONE);
        },
        |client| client.checkpoint().unwrap(),
    );
}

/// INV-17, INV-39: a mark's corrections too.
pub fn an_adopted_checkpoint_holds_the_corrections_of_a_mark() {
    adopted_is_as_published(
        |client| {
            client.engine.retain(HistoryPolicy::NONE);
            write(client, 0, 0..8, 1, 32_768);
            client.checkpoint().unwrap();
            client.run(&Op::Fork { from: 0, to: 1 }).unwrap();
            (0..8).for_each(|key| client.run(&Op::Punch { tree: 0, key }).unwrap());
            client.run(&Op::Drop { tree: 1 }).unwrap();
            for _ in 0..6 {
                client.checkpoint().unwrap();
            }
            client.engine.ask_mark().unwrap();
            client.checkpoint().unwrap();
            let report = mark(&client.engine);
            assert!(report.unused_bytes >= 4 * 16_384 && report.repairs > 0, "{report:?}");
        },
        |client| client.checkpoint().unwrap(),
    );
}

/// INV-17, INV-39: what the drop queue gave back too.
pub fn an_adopted_checkpoint_has_worked_off_what_the_published_one_had() {
    adopted_is_as_published(
        |client| {
            client.engine.retain(HistoryPolicy::NONE);
            write(client, 0, 0..20, 1, 5000);
            write(client, 1, 0..4, 1, 5000);
            client.checkpoint().unwrap();
            client.run(&Op::Drop { tree: 0 }).unwrap();
        },
        |client| {
            client.checkpoint().unwrap();
            assert!(client.engine.metrics().state.drops.get() > 0, "nothing was worked off");
        },
    );
}

/// INV-26: history is never the reason for a full store.
pub fn history_goes_before_a_write_is_refused() {
    let bench = Bench::of(16, false);
    let mini = bench.mount();
    mini.engine.retain(keep(200, 1));
    for round in 0..8 {
        // A fifth of the store, over and over.
        for key in 0..80 {
            let written = (0..12).any(|_| match mini.put(key, 24 << 10) {
                Ok(_) => true,
                Err(StoreError::WouldWait { .. }) => {
                    mini.checkpoint().unwrap();
                    false
                }
                Err(error) => panic!("round {round} key {key}: {error}"),
            });
            assert!(written, "round {round} key {key}: a dozen checkpoints made no room");
        }
        mini.checkpoint().unwrap();
    }
    assert!(mini.engine.metrics().state.dropped.get() > 0);
    mini.verify();
}

/// Where a node lies on the device.
fn place_of(device: &SimulatedDevice, bytes: &[u8]) -> u64 {
    let image = device.image();
    let mut held = vec![0; bytes.len()];
    let found = (0..image.size_bytes()).step_by(512).find(|at| {
        image.read(*at, &mut held);
        held == bytes
    });
    found.expect("the node is on the device")
}

/// The first leaf of the first tree: of what is above it the roots object has copies.
fn first_leaf(engine: &Engine) -> (Reference, Arc<[u8]>) {
    let mut node = engine.client_roots()[0];
    for _ in 0..2 {
        node = edges(&engine.read_node(&node).unwrap()).unwrap()[0];
    }
    assert_eq!(node.kind, ReferenceKind::Node);
    (node, engine.read_node(&node).unwrap())
}

/// INV-12: it stays allocated, and known, until a mark or fsck takes it up.
pub fn a_dropped_node_that_cannot_be_read_is_not_forgotten() {
    let bench = Bench::new();
    let mut client = client(&bench);
    client.engine.retain(HistoryPolicy::NONE);
    write(&mut client, 0, 0..20, 3, 9000);
    write(&mut client, 2, 0..1, 5, 9000);
    client.checkpoint().unwrap();
    let (leaf, node) = first_leaf(&client.engine);
    bench.simulated.inject(Fault::FlipBits { offset: place_of(&bench.simulated, &node) + 100, mask: 4 });
    client.run(&Op::Drop { tree: 0 }).unwrap();
    (0..4).for_each(|_| client.checkpoint().unwrap());
    assert_eq!(client.engine.usage().drop_queue, 0);
    let again = crate::history::mount(Arc::new(bench.simulated.process_crash()), &bench.clock).unwrap();
    assert_eq!(again.unreadable().iter().map(|node| node.oid).collect::<Vec<_>>(), [leaf.oid]);
}

/// INV-06: what waits to be dropped still refers to what is below it.
pub fn a_mark_of_a_store_that_drops_trees_finds_nothing_wrong() {
    let bench = Bench::of(16, false);
    let mut client = client(&bench);
    for tree in 0..4 {
        for key in 0..1200 {
            client.run(&Op::Small { tree, key, seed: u64::from(key), len: 400 }).unwrap();
        }
        client.checkpoint().unwrap();
    }
    for tree in 0..4 {
        client.run(&Op::Drop { tree }).unwrap();
    }
    client.engine.ask_mark().unwrap();
    client.checkpoint().unwrap();
    assert!(client.engine.usage().drop_queue > 0, "the queue is not empty where the mark looks");
    assert_right(&mark(&client.engine));
}

/// INV-10: what hangs below a node that cannot be read only seems to be unused.
pub fn a_mark_reclaims_nothing_while_a_node_cannot_be_read() {
    let bench = Bench::new();
    let mut client = client(&bench);
    client.engine.retain(HistoryPolicy::NONE);
    write(&mut client, 0, 0..20, 3, 9000);
    client.checkpoint().unwrap();
    let (_, node) = first_leaf(&client.engine);
    let flip = Fault::FlipBits { offset: place_of(&bench.simulated, &node) + 100, mask: 4 };
    client.engine.ask_mark().unwrap();
    client.checkpoint().unwrap();
    bench.simulated.inject(flip);
    let report = mark(&client.engine);
    assert_eq!(report.unreadable.len(), 1, "{report:?}");
    bench.simulated.inject(flip);
    client.quiesce_and_check();
    client.verify();
}

/// Operations and checkpoints, enough for containers to be used again.
fn go_on(client: &mut Client) {
    let mut rng = crate::client::Rng(5);
    for _ in 0..80 {
        for _ in 0..8 {
            crate::client::tick(&client.clock);
            let (tree, key, seed) = (rng.below(4) as u32, rng.below(30) as u32, rng.next());
            match rng.below(12) {
                0 => client.run(&Op::Drop { tree }).unwrap(),
                1 => client.run(&Op::Fork { from: tree, to: (tree + 1) % 4 }).unwrap(),
                _ => client.run(&Op::Small { tree, key, seed, len: 600 }).unwrap(),
            }
        }
        client.checkpoint().unwrap();
    }
}

/// INV-31: its nodes.
pub fn a_mark_reads_the_nodes_of_its_checkpoint_whatever_the_policy_says() {
    let bench = Bench::of(16, false);
    let mut client = client(&bench);
    client.engine.retain(HistoryPolicy::NONE);
    write(&mut client, 0, 0..30, 3, 9000);
    client.engine.ask_mark().unwrap();
    client.checkpoint().unwrap();
    go_on(&mut client);
    assert_right(&mark(&client.engine));
}

/// INV-06: counts and trees of one checkpoint.
pub fn a_mark_compares_counts_and_trees_of_one_checkpoint() {
    let bench = Bench::of(16, false);
    // Room for all pages: those that change are written by the publication, not before.
    let settings = Settings { segment_cache_bytes: 64 << 20, ..tight() };
    let options = Options { threads: false, clock: bench.clock.clone(), settings, ..Options::default() };
    let device: Arc<dyn Device> = Arc::clone(&bench.device) as Arc<dyn Device>;
    let mut client = Client::start(Engine::open(device, options).unwrap(), bench.clock.clone());
    write(&mut client, 0, 0..30, 3, 9000);
    client.checkpoint().unwrap();
    client.run(&Op::Fork { from: 0, to: 1 }).unwrap();
    write(&mut client, 1, 0..10, 70, 9000);
    client.engine.ask_mark().unwrap();
    client.checkpoint().unwrap();
    assert_right(&mark(&client.engine));
}

/// INV-14.
pub fn a_scrub_tells_what_does_not_verify() {
    let bench = Bench::new();
    let mut client = client(&bench);
    write(&mut client, 0, 0..20, 3, 9000);
    client.checkpoint().unwrap();
    let (oid, _) = client.extent_of(0, 7);
    let data = place_of(&bench.simulated, &crate::client::content(3 + 7, 0, 512));
    bench.simulated.inject(Fault::FlipBits { offset: data + 9, mask: 1 });
    let report = client.engine.scrub(ScrubOptions::default(), |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(report.findings.iter().filter_map(|finding| finding.object).collect::<Vec<_>>(), [oid]);
}

pub fn a_scrub_tells_of_pages() {
    let bench = Bench::new();
    let mut client = client(&bench);
    write(&mut client, 0, 0..20, 3, 9000);
    client.checkpoint().unwrap();
    let scrub = || client.engine.scrub(ScrubOptions::default(), |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(scrub().findings, []);
    let pages = Bench::pages_of_segments(&bench.simulated.image());
    assert!(!pages.is_empty());
    for (segment, offset) in pages {
        let flip = Fault::FlipBits { offset: offset + 9, mask: 1 };
        bench.simulated.inject(flip);
        let findings = scrub().findings;
        bench.simulated.inject(flip);
        assert!(
            findings.iter().any(|finding| finding.what.contains(&format!("the page of segment {segment} "))),
            "{findings:?}"
        );
    }
}
