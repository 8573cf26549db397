//! What it costs to count and to time. The bar: less than 20 ns an event. `cargo bench -p envoyfs-benches --bench metrics`.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use envoyfs_benches::now;
use envoyfs_engine::hlc::{Clock, SystemClock};
use envoyfs_engine::metrics::{Counter, Gauge, Latency, Metrics};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

/// Values of a latency that differ, so that no bucket stays the only one in the cache.
fn values() -> Vec<u64> {
    (0..1024_u64).map(|at| 200 + at.wrapping_mul(0x9E37_79B9_7F4A_7C15) % 100_000).collect()
}

fn one_thread(c: &mut Criterion) {
    let mut group = c.benchmark_group("metrics");
    group.throughput(Throughput::Elements(1)).measurement_time(Duration::from_secs(2));
    let (counter, gauge, latency) = (Counter::default(), Gauge::default(), Latency::default());
    group.bench_function("counter, one more", |b| b.iter(|| black_box(&counter).increment()));
    group.bench_function("counter, bytes", |b| b.iter(|| black_box(&counter).add(black_box(4096))));
    group.bench_function("gauge, set", |b| b.iter(|| black_box(&gauge).set(black_box(4096))));
    let mut values = values().into_iter().cycle();
    group.bench_function("latency, recorded", |b| {
        b.iter(|| black_box(&latency).record_ns(values.next().unwrap_or_default()));
    });
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let metrics = Metrics::new(Arc::clone(&clock));
    group.bench_function("clock, two looks", |b| {
        b.iter(|| black_box(clock.monotonic_ns()).wrapping_add(black_box(clock.monotonic_ns())));
    });
    group.bench_function("latency, timed from begin to end (two looks at the clock)", |b| {
        b.iter(|| drop(black_box(metrics.time(&metrics.reads.data))));
    });
    group.finish();
}

/// Events of several threads on one metric: the cost of the cache line that they share.
fn shared(c: &mut Criterion) {
    let mut group = c.benchmark_group("metrics shared by threads");
    group.throughput(Throughput::Elements(1)).measurement_time(Duration::from_secs(2)).sample_size(20);
    for threads in [2_u64, 4] {
        let (counter, latency) = (Counter::default(), Latency::default());
        let run = |count: u64, event: &(dyn Fn(u64) + Sync)| {
            let start = now();
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| (0..count.div_ceil(threads)).for_each(event));
                }
            });
            start.elapsed()
        };
        group.bench_function(format!("counter, {threads} threads"), |b| {
            b.iter_custom(|count| run(count, &|_| counter.increment()));
        });
        group.bench_function(format!("latency, {threads} threads"), |b| {
            b.iter_custom(|count| run(count, &|at| latency.record_ns(200 + at % 4096)));
        });
    }
    group.finish();
}

criterion_group!(benches, one_thread, shared);
criterion_main!(benches);
