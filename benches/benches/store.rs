//! Paths of a mounted store in /dev/shm: log appends from 1 to 8 threads, look-ups of places, forks with many alive. `cargo bench -p envoyfs-benches --bench store`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark may panic; criterion's macros make undocumented items"
)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use envoyfs_benches::tree::Tree;
use envoyfs_benches::{now, scratch};
use envoyfs_engine::Engine;
use envoyfs_engine::hlc::SystemClock;
use envoyfs_engine::metrics::Metrics;
use envoyfs_engine::space::{Reader, Shape};
use envoyfs_engine::store::{Changes, Draft, Need, Roots, Store as _, Tier};
use envoyfs_layout::Oid;
use envoyfs_namespace::api::InodeId;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn append(engine: &Engine, count: u64) {
    let need = Need { log_bytes: 100, node_bytes: 0, payload_bytes: 0, data_bytes: 0, tier: Tier::Writer };
    for _ in 0..count {
        let mut permit = engine.reserve(need).unwrap();
        let draft = Draft { kind: 3001, territory: 1, origin: None, data: &[], body: &[1; 100] };
        black_box(engine.append(&mut permit, draft).unwrap());
    }
}

/// Records without a sync; checkpoints are made when the log wants them, by a thread of their own.
fn log(c: &mut Criterion) {
    let device = scratch::in_memory(2 << 30).expect("2 GiB in /dev/shm");
    let engine = scratch::engine(&device).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (flag, store) = (Arc::clone(&stop), Arc::clone(&engine));
    let checkpoints = move || {
        while !flag.load(Ordering::Relaxed) {
            if store.wait_checkpoint(20).is_some() {
                let frozen = store.freeze().unwrap();
                store.publish(frozen, Roots::default(), Changes::default()).unwrap();
            }
        }
    };
    let checkpointer = std::thread::Builder::new().spawn(checkpoints).unwrap();
    let mut group = c.benchmark_group("log");
    group.throughput(Throughput::Elements(1)).measurement_time(Duration::from_secs(3)).sample_size(20);
    for threads in [1, 2, 4, 8] {
        group.bench_function(format!("append a record of 100 bytes, {threads} threads"), |b| {
            b.iter_custom(|count| {
                let start = now();
                std::thread::scope(|scope| {
                    for _ in 0..threads {
                        scope.spawn(|| append(&engine, count.div_ceil(threads)));
                    }
                });
                start.elapsed()
            });
        });
    }
    group.finish();
    stop.store(true, Ordering::Relaxed);
    checkpointer.join().unwrap();
    engine.close().unwrap();
}

/// From an OID to a place on the device, among 65 536 segments (1 TiB).
fn lookup(c: &mut Criterion) {
    let device = scratch::in_memory(256 << 20).expect("a store in /dev/shm");
    let shape = Shape {
        seed: [0; 16],
        volume: 1,
        segment_bytes: 16 << 20,
        containers: 65_536,
        segments_offset: 1 << 20,
        block_bytes: 4096,
    };
    let reader = Reader::new(device, shape, Metrics::new(Arc::new(SystemClock::new())), 16 << 20);
    for segment in 0..65_536 {
        reader.set_home(segment, Some(segment));
    }
    let mut group = c.benchmark_group("look-up");
    group.bench_function("place of 4 KiB", |b| {
        let (mut into, mut runs, mut next) = (vec![0; 4096], Vec::new(), 1_u32);
        b.iter(|| {
            next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let slot = u16::try_from(next >> 20).unwrap() * 8;
            runs.clear();
            let oid = Oid::new(1, next % 65_536, slot);
            reader.plan(oid, &(u32::from(slot)..u32::from(slot) + 8), &mut into, &mut runs).unwrap();
            black_box(runs.len())
        });
    });
    group.finish();
}

/// Forks of a directory of ten files, in memory and log only, with the checkpointer running.
fn forks(c: &mut Criterion) {
    let mut group = c.benchmark_group("fork");
    group.measurement_time(Duration::from_secs(2)).sample_size(10);
    for existing in [10, 1_000, 100_000] {
        let device = scratch::in_memory(2 << 30).expect("2 GiB in /dev/shm");
        let tree = Tree::open(&device, true).unwrap();
        let source = tree.source().unwrap();
        let forks = tree.directory(InodeId::ROOT, "forks").unwrap();
        let mut made = 0_u64;
        let mut fork = || {
            tree.fork(source, forks, &format!("fork-{made}")).unwrap();
            made += 1;
        };
        (0..existing).for_each(|_| fork());
        group.bench_function(format!("{existing} alive at the start"), |b| b.iter(&mut fork));
        tree.namespace.close().unwrap();
        tree.engine.close().unwrap();
    }
    group.finish();
}

criterion_group!(benches, log, lookup, forks);
criterion_main!(benches);
