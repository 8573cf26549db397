//! Measurements, not tests: `cargo nextest run -p envoyfs-engine --run-ignored only measure --no-capture`. On a simulated device, so that only the engine's own work counts.

#![expect(clippy::disallowed_methods, reason = "wall clock is what is measured")]

use super::client::Rng;
use crate::device::SimulatedDevice;
use crate::format::{FormatOptions, format};
use crate::hlc::SystemClock;
use crate::store::*;
use crate::{Engine, HistoryPolicy, Options, Settings};
use envoyfs_layout::node::{NodeBuilder, Owner, TreeKind};
use envoyfs_layout::{Hlc, Reference, ReferenceKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn store(mib: u64, threads: bool) -> (SimulatedDevice, Engine) {
    let device = SimulatedDevice::new(mib << 20, 4096, 1);
    let made = FormatOptions {
        label: "measure".into(),
        uuid: [7; 16],
        seed: [9; 16],
        now_ns: 0,
        wal_bytes: None,
        segment_bytes: None,
        force: false,
        small: false,
    };
    format(&device, &made).unwrap();
    let engine = mount(&device, threads);
    (device, engine)
}

fn mount(device: &SimulatedDevice, threads: bool) -> Engine {
    let settings = Settings { history: HistoryPolicy::NONE, ..Settings::default() };
    let clock = Arc::new(SystemClock::new());
    Engine::open(Arc::new(device.clone()), Options { read_only: false, threads, accept_loss: false, clock, settings })
        .unwrap()
}

fn node(engine: &Engine, level: u8, birth: Hlc, refs: &[Reference]) -> Reference {
    let mut builder = NodeBuilder::new(TreeKind::Extents, level, birth, Owner::default());
    for (key, reference) in refs.iter().enumerate() {
        builder.push(&key.to_be_bytes(), b"", &[*reference]).unwrap();
    }
    engine.append_node(Batch::Frozen, ReferenceKind::Node, 0, birth, &builder.finish()).unwrap()
}

fn publish(engine: &Engine, frozen: Frozen, references: Vec<Reference>) -> Duration {
    let start = Instant::now();
    engine.publish(frozen, Roots { references, blob: Vec::new() }, Changes::default()).unwrap();
    start.elapsed()
}

/// Nodes under tops of at most 200 references, and those under one.
fn forest(engine: &Engine, birth: Hlc, mut level: Vec<Reference>) -> Vec<Reference> {
    let mut height = 1;
    while level.len() > 200 {
        level = level.chunks(200).map(|refs| node(engine, height, birth, refs)).collect();
        height += 1;
    }
    level
}

#[test]
#[ignore = "a measurement"]
fn measure_drops_of_small_trees() {
    let (_, engine) = store(1024, false);
    let trees = 50_000_u64;
    let frozen = engine.freeze().unwrap();
    let birth = frozen.hlc;
    let mut roots = Vec::new();
    for _ in 0..trees {
        let payload = engine.append_payload(Batch::Frozen, birth, &[3; 512]).unwrap();
        let extent = Reference::extent(payload.oid, birth, payload.stored_bytes);
        let leaf = node(&engine, 0, birth, &[extent]);
        roots.push(node(&engine, 1, birth, &[leaf]));
    }
    let top = forest(&engine, birth, roots);
    println!("{trees} trees of two nodes and an extent published in {:?}", publish(&engine, frozen, top));
    let (start, mut checkpoints) = (Instant::now(), 0);
    loop {
        let frozen = engine.freeze().unwrap();
        publish(&engine, frozen, Vec::new());
        checkpoints += 1;
        if engine.usage().drop_queue == 0 {
            break;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("dropped in {seconds:.2} s with {checkpoints} checkpoints: {:.0} trees a second", trees as f64 / seconds);
}

#[test]
#[ignore = "a measurement"]
fn measure_appends_during_a_publication() {
    let (_, engine) = store(4096, true);
    let done = AtomicBool::new(false);
    let mut times = Vec::new();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let (mut during, mut rng) = (Vec::new(), Rng(1));
            while !done.load(Ordering::SeqCst) {
                let need = Need { log_bytes: 100, node_bytes: 0, payload_bytes: 0, data_bytes: 0, tier: Tier::Last };
                let mut permit = engine.reserve(need).unwrap();
                let start = Instant::now();
                let body = [0; 100];
                let draft = Draft { kind: 300, territory: 1, origin: None, data: &[], body: &body };
                engine.append(&mut permit, draft).unwrap();
                during.push(start.elapsed());
                if rng.below(16) == 0 {
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
            during
        });
        for _ in 0..3 {
            let frozen = engine.freeze().unwrap();
            let birth = frozen.hlc;
            let leaves = (0..100_000).map(|_| node(&engine, 0, birth, &[])).collect();
            let top = forest(&engine, birth, leaves);
            println!("100000 nodes published in {:?}", publish(&engine, frozen, top));
        }
        done.store(true, Ordering::SeqCst);
        times = writer.join().unwrap();
    });
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    println!(
        "{} appends: median {:?}, p99.9 {:?}, p99.99 {:?}, worst {:?}",
        times.len(),
        at(0.5),
        at(0.999),
        at(0.9999),
        at(1.0)
    );
}

#[test]
#[ignore = "a measurement"]
fn measure_mounts() {
    println!("{:>8} {:>9} {:>10} {:>9} {:>7}", "store", "objects", "mount", "reads", "pages");
    for (mib, objects) in
        [(1024, 1000), (1024, 10_000), (1024, 100_000), (4096, 100_000), (16_384, 100_000), (65_536, 100_000)]
    {
        let (device, engine) = store(mib, false);
        let mut all = Vec::new();
        for _ in 0..objects / 1000 {
            let frozen = engine.freeze().unwrap();
            let birth = frozen.hlc;
            let leaves: Vec<Reference> = (0..1000).map(|_| node(&engine, 0, birth, &[])).collect();
            all.extend(forest(&engine, birth, leaves));
            publish(&engine, frozen, all.clone());
        }
        engine.close().unwrap();
        drop(engine);
        let device = device.process_crash();
        let before = device.counters();
        let start = Instant::now();
        let engine = mount(&device, false);
        let took = start.elapsed();
        let reads = device.counters().reads - before.reads;
        println!(
            "{:>5} GiB {objects:>8} {took:>10.1?} {reads:>9} {:>7}",
            mib / 1024,
            engine.state.lock().loaded_bytes()
        );
    }
}
