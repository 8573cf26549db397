use super::*;
use crate::hlc::ManualClock;
use std::time::Duration;

#[test]
fn quantiles_of_a_latency_are_at_most_an_eighth_too_large_and_the_maximum_is_exact() {
    let latency = Latency::default();
    for us in 1..=1000_u64 {
        latency.record_ns(us * 1000);
    }
    latency.record(Duration::from_secs(3600));
    let Value::Latency { count, sum_ns, p50_ns, p99_ns, p999_ns, max_ns } = latency.value() else { panic!() };
    assert_eq!((count, max_ns), (1001, 3_600_000_000_000));
    assert_eq!(sum_ns, 500_500_000 + 3_600_000_000_000);
    for (found, exact) in [(p50_ns, 500_000), (p99_ns, 990_000), (p999_ns, 1_000_000)] {
        assert!(found >= exact && found <= exact + exact / 8, "{found} for {exact}");
    }
}

#[test]
fn stages_are_timed_one_after_the_other_on_the_stores_clock() {
    let clock = Arc::new(ManualClock::new(0));
    let metrics = Metrics::new(clock.clone());
    let mut stage = metrics.time(&metrics.checkpoint.law);
    clock.advance(Duration::from_millis(3));
    stage.next(&metrics.checkpoint.drops);
    clock.advance(Duration::from_millis(5));
    stage.stop();
    metrics.time(&metrics.checkpoint.clean).cancel();
    let max = |latency: &Latency| match latency.value() {
        Value::Latency { max_ns, .. } => max_ns,
        _ => 0,
    };
    assert_eq!((max(&metrics.checkpoint.law), max(&metrics.checkpoint.drops)), (3_000_000, 5_000_000));
    assert_eq!(metrics.checkpoint.clean.count(), 0);
}

#[test]
fn the_text_names_every_metric_with_its_unit_and_ends_as_the_format_asks() {
    let metrics = Metrics::new(Arc::new(ManualClock::new(0)));
    metrics.log.records.add(7);
    metrics.log.commit.record_ns(1_500);
    metrics.log.commit.record_ns(1_600);
    metrics.log.commit.record_ns(40_000);
    metrics.poison.poisoned.set(1);
    let text = metrics.exposition();
    for line in [
        "# TYPE envoyfs_log_records counter",
        "envoyfs_log_records_total 7",
        "# UNIT envoyfs_log_commit_seconds seconds",
        "envoyfs_log_commit_seconds_count 3",
        "envoyfs_log_commit_seconds_bucket{le=\"+Inf\"} 3",
        "envoyfs_log_commit_seconds_bucket{le=\"0.000002048\"} 2",
        "envoyfs_poison_poisoned 1",
        "envoyfs_scrub_objects_total 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    let samples = metrics.snapshot();
    assert_eq!(samples.iter().filter(|sample| !sample.value.is_zero()).count(), 3);
    assert!(samples.len() > 100, "{}", samples.len());
}

/// `cargo test --release -p envoyfs-engine cost_of_recording -- --ignored --nocapture`
#[test]
#[ignore = "prints a measurement"]
fn cost_of_recording() {
    let clock = Arc::new(crate::hlc::SystemClock::new());
    let metrics = Metrics::new(clock);
    let rounds = 10_000_000;
    let per = |what: &str, run: &dyn Fn(u64)| {
        let began = metrics.now_ns();
        (0..rounds).for_each(run);
        println!("{what}: {:.1} ns", (metrics.now_ns() - began) as f64 / rounds as f64);
    };
    per("counter", &|_| metrics.log.records.increment());
    per("gauge", &|round| metrics.log.used_blocks.set(round));
    per("latency", &|round| metrics.log.group.record_ns(round));
    per("reading the clock", &|_| {
        std::hint::black_box(metrics.now_ns());
    });
    per("timing", &|_| metrics.time(&metrics.log.commit).stop());
}
