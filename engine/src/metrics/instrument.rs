//! The kinds of metrics, and how they become text.

use crate::hlc::Clock;
use histogram::AtomicHistogram;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets are 2^3 to a power of two: a quantile is at most an eighth too large.
const GROUPING_POWER: u8 = 3;
/// The largest latency told apart: 2^40 ns, 18 minutes.
const MAX_VALUE_POWER: u8 = 40;

/// A number that only rises.
#[derive(Clone, Debug, Default)]
pub struct Counter(prometheus_client::metrics::counter::Counter);

/// A number that is what it was last set to.
#[derive(Clone, Debug, Default)]
pub struct Gauge(prometheus_client::metrics::gauge::Gauge<u64, AtomicU64>);

/// How often something took how long.
#[derive(Clone, Debug)]
pub struct Latency(Arc<Buckets>);

#[derive(Debug)]
struct Buckets {
    histogram: AtomicHistogram,
    sum_ns: AtomicU64,
    max_ns: AtomicU64,
}

/// One metric at some moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The part of the engine.
    pub group: &'static str,
    /// The metric.
    pub name: &'static str,
    /// What it says.
    pub value: Value,
}

/// What a metric says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// A counter.
    Count(u64),
    /// A gauge.
    Level(u64),
    /// A latency, in nanoseconds. Quantiles are the upper ends of their buckets, at most an eighth too large.
    Latency {
        /// How many.
        count: u64,
        /// All together.
        sum_ns: u64,
        /// Median.
        p50_ns: u64,
        /// 99 of 100 took at most this.
        p99_ns: u64,
        /// 999 of 1000.
        p999_ns: u64,
        /// The longest, exactly.
        max_ns: u64,
    },
}

impl Value {
    /// Nothing was counted, set or timed.
    #[must_use]
    pub const fn is_zero(&self) -> bool {
        matches!(self, Self::Count(0) | Self::Level(0) | Self::Latency { count: 0, .. })
    }
}

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.0.inc();
    }
    /// Adds so many.
    pub fn add(&self, count: u64) {
        self.0.inc_by(count);
    }
    /// The sum.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.set(value);
    }
    /// The last value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

impl Default for Latency {
    fn default() -> Self {
        let histogram = AtomicHistogram::new(GROUPING_POWER, MAX_VALUE_POWER);
        #[expect(
            clippy::expect_used,
            reason = "constants that the crate's documentation allows, checked by every test"
        )]
        let histogram = histogram.expect("3 < 40 <= 64");
        Self(Arc::new(Buckets { histogram, sum_ns: AtomicU64::new(0), max_ns: AtomicU64::new(0) }))
    }
}

impl Latency {
    /// Something took so long.
    pub fn record_ns(&self, ns: u64) {
        let Buckets { histogram, sum_ns, max_ns } = &*self.0;
        // The only error is a value beyond the last bucket, which this is not.
        let _ = histogram.increment(ns.min((1 << MAX_VALUE_POWER) - 1));
        sum_ns.fetch_add(ns, Ordering::Relaxed);
        if ns > max_ns.load(Ordering::Relaxed) {
            max_ns.fetch_max(ns, Ordering::Relaxed);
        }
    }
    /// Something took so long.
    pub fn record(&self, time: Duration) {
        self.record_ns(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }
    /// How many were recorded. Reads all buckets: not for hot paths.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.histogram.load().iter().map(|bucket| bucket.count()).sum()
    }
}

/// Times until it is dropped.
#[must_use = "it times until it is dropped"]
pub struct Timing<'a> {
    clock: &'a dyn Clock,
    latency: Option<&'a Latency>,
    began_ns: u64,
}

impl<'a> Timing<'a> {
    pub(super) fn new(clock: &'a dyn Clock, latency: &'a Latency) -> Self {
        Self { clock, latency: Some(latency), began_ns: clock.monotonic_ns() }
    }
    /// Ends it here.
    pub fn stop(self) {}
    /// Ends it here and goes on with the next stage.
    pub fn next(&mut self, latency: &'a Latency) {
        self.record();
        *self = Self::new(self.clock, latency);
    }
    /// Records nothing.
    pub fn cancel(mut self) {
        self.latency = None;
    }
    fn record(&mut self) {
        if let Some(latency) = self.latency.take() {
            latency.record_ns(self.clock.monotonic_ns().saturating_sub(self.began_ns));
        }
    }
}

impl Drop for Timing<'_> {
    fn drop(&mut self) {
        self.record();
    }
}

/// All metrics of something: {group, name, help, instrument}.
pub(super) trait Instruments {
    fn each(&self, look: &mut dyn FnMut(&'static str, &'static str, &'static str, &dyn Instrument));
}

/// A kind of metric.
pub(super) trait Instrument {
    fn value(&self) -> Value;
    fn register(&self, name: &str, help: &str, into: &mut Registry);
}

impl Instrument for Counter {
    fn value(&self) -> Value {
        Value::Count(self.get())
    }
    fn register(&self, name: &str, help: &str, into: &mut Registry) {
        into.register(name, help.trim_end_matches('.'), self.0.clone());
    }
}

impl Instrument for Gauge {
    fn value(&self) -> Value {
        Value::Level(self.get())
    }
    fn register(&self, name: &str, help: &str, into: &mut Registry) {
        into.register(name, help.trim_end_matches('.'), self.0.clone());
    }
}

impl Instrument for Latency {
    fn value(&self) -> Value {
        let histogram = self.0.histogram.load();
        let quantile = |of: f64| histogram.quantile_bucket(of).ok().flatten().map_or(0, |bucket| bucket.end());
        let (sum_ns, max_ns) = (self.0.sum_ns.load(Ordering::Relaxed), self.0.max_ns.load(Ordering::Relaxed));
        Value::Latency {
            count: histogram.iter().map(|bucket| bucket.count()).sum(),
            sum_ns,
            p50_ns: quantile(0.5).min(max_ns),
            p99_ns: quantile(0.99).min(max_ns),
            p999_ns: quantile(0.999).min(max_ns),
            max_ns,
        }
    }
    fn register(&self, name: &str, help: &str, into: &mut Registry) {
        into.register_with_unit(name, help.trim_end_matches('.'), Unit::Seconds, self.clone());
    }
}

/// Nanoseconds as seconds, for the text.
#[expect(clippy::cast_precision_loss, reason = "53 bits of nanoseconds are 104 days")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

impl EncodeMetric for Latency {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), std::fmt::Error> {
        // One bucket a power of two, and only up to the largest that holds something: enough for a quantile's order, short enough to read.
        let mut buckets: Vec<(u64, u64)> = Vec::new();
        let mut count = 0_u64;
        for bucket in self.0.histogram.load().iter().filter(|bucket| bucket.count() > 0) {
            let end = bucket.end().checked_next_power_of_two().unwrap_or(u64::MAX);
            count = count.saturating_add(bucket.count());
            match buckets.last_mut() {
                Some((last, sum)) if *last == end => *sum = sum.saturating_add(bucket.count()),
                _ => buckets.push((end, bucket.count())),
            }
        }
        let sum = seconds(self.0.sum_ns.load(Ordering::Relaxed));
        let mut buckets: Vec<(f64, u64)> = buckets.into_iter().map(|(end, count)| (seconds(end), count)).collect();
        buckets.push((f64::INFINITY, 0));
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// OpenMetrics text.
pub(super) fn exposition(metrics: &dyn Instruments) -> String {
    let mut registry = Registry::with_prefix("envoyfs");
    metrics.each(&mut |group, name, help, instrument| {
        instrument.register(&format!("{group}_{name}"), help, &mut registry);
    });
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = encode(&mut text, &registry);
    text
}
