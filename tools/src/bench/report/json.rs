//! fio's JSON: the same keys in the same places, so that what reads fio's output reads this. Additions: `envoyfs version`, and in each job `engine`, `verify_errors` and
//! `error_text`.

use super::classes::{self, BATCHES, DEPTHS, MICRO, MILLI, NANO, percent};
use super::{DiskUse, Report};
use crate::bench::job::Direction;
use crate::bench::statistics::{Entry, Flow, Latencies, Window, float};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Whose layout this is.
const LAYOUT: &str = "fio-3.33";

/// The report as one value; keys in fio's order. `bins`: with fio's bins of latencies, as its `json+` has them.
#[must_use]
pub fn value(report: &Report<'_>, bins: bool) -> Value {
    let ms = report.wall_ns.div_euclid(1_000_000);
    json!({
        "fio version": LAYOUT,
        "envoyfs version": env!("CARGO_PKG_VERSION"),
        "timestamp": ms.div_euclid(1000),
        "timestamp_ms": ms,
        "time": date(ms.div_euclid(1000)),
        "global options": options(report.global),
        "jobs": report.entries.iter().map(|entry| job(entry, report.elapsed_s, bins)).collect::<Vec<_>>(),
        "disk_util": report.disks.iter().map(|used| disk(used, report.elapsed_s)).collect::<Vec<_>>(),
    })
}

fn options(given: &[(String, String)]) -> Value {
    given.iter().map(|(option, value)| (option.clone(), Value::from(value.as_str()))).collect::<Map<_, _>>().into()
}

fn job(entry: &Entry, elapsed_s: u64, bins: bool) -> Value {
    let of = &entry.statistics;
    let cpu =
        |time: Duration| 100.0 * time.as_secs_f64() / of.runtime.as_secs_f64().max(1e-9) / float(entry.clones.into());
    json!({
        "jobname": entry.job.name,
        "engine": entry.engine,
        "groupid": entry.group,
        // EIO, as fio reports what a device refused; what exactly is beside it.
        "error": if of.error.is_some() { 5 } else if of.wrong > 0 { 84 } else { 0 },
        "error_text": of.failure().unwrap_or_default(),
        "verify_errors": of.wrong,
        "eta": 0,
        "elapsed": elapsed_s,
        "job options": options(&entry.job.given),
        "read": flow(&of.read, entry, Direction::Read, bins),
        "write": flow(&of.write, entry, Direction::Write, bins),
        "trim": flow(&crate::bench::statistics::Statistics::default().read, entry, Direction::Read, bins),
        "sync": { "total_ios": of.sync.count, "lat_ns": latencies(&of.sync, bins) },
        "job_runtime": milliseconds(of.runtime),
        "usr_cpu": cpu(of.user),
        "sys_cpu": cpu(of.system),
        "ctx": of.switches,
        "majf": of.major_faults,
        "minf": of.minor_faults,
        "iodepth_level": shares(&DEPTHS, &of.depths),
        "iodepth_submit": shares(&BATCHES, &of.submits),
        "iodepth_complete": shares(&BATCHES, &of.completes),
        "latency_ns": table(entry, &NANO),
        "latency_us": table(entry, &MICRO),
        "latency_ms": table(entry, &MILLI),
        "latency_depth": entry.job.iodepth,
        "latency_target": 0,
        "latency_percentile": 100.0,
        "latency_window": 0,
    })
}

fn shares(labels: &[&str; 7], counts: &[u64; 7]) -> Value {
    classes::shares(labels, counts)
        .into_iter()
        .map(|(label, share)| (label.to_owned(), Value::from(share)))
        .collect::<Map<_, _>>()
        .into()
}

fn table(entry: &Entry, table: &classes::Table) -> Value {
    classes::rows(&entry.statistics, table)
        .into_iter()
        .map(|(bound, share)| (bound, Value::from(share)))
        .collect::<Map<_, _>>()
        .into()
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn whole(value: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative; a float saturates")]
    let value = value as u64;
    value
}

fn flow(flow: &Flow, entry: &Entry, direction: Direction, bins: bool) -> Value {
    let used = flow.ios > 0;
    let rate = |per_second: f64| if used { per_second } else { 0.0 };
    let (bandwidth, iops) = (rate(entry.bandwidth(direction)), rate(entry.iops(direction)));
    let kib = samples(&flow.windows, |window| float(window.bytes) / 1024.0 / window.seconds());
    let ios = samples(&flow.windows, |window| float(window.ios) / window.seconds());
    json!({
        "io_bytes": flow.bytes,
        "io_kbytes": flow.bytes / 1024,
        "bw_bytes": whole(bandwidth),
        "bw": whole(bandwidth / 1024.0),
        "iops": iops,
        "runtime": if used { milliseconds(entry.statistics.runtime) } else { 0 },
        "total_ios": flow.ios,
        "short_ios": 0,
        "drop_ios": 0,
        "slat_ns": latencies(&flow.submission, bins),
        "clat_ns": latencies(&flow.completion, bins),
        "lat_ns": with_bins(moments(&flow.total), &flow.total, bins),
        "bw_min": whole(kib.least),
        "bw_max": whole(kib.most),
        "bw_agg": percent(whole(kib.mean), whole(bandwidth / 1024.0)).min(100.0),
        "bw_mean": kib.mean,
        "bw_dev": kib.deviation,
        "bw_samples": kib.count,
        "iops_min": whole(ios.least),
        "iops_max": whole(ios.most),
        "iops_mean": ios.mean,
        "iops_stddev": ios.deviation,
        "iops_samples": ios.count,
    })
}

fn moments(of: &Latencies) -> Value {
    json!({ "min": of.least(), "max": of.most(), "mean": of.mean(), "stddev": of.deviation(), "N": of.count })
}

/// Nothing of no latencies: fio's scripts do not expect an empty list.
fn with_bins(mut value: Value, of: &Latencies, bins: bool) -> Value {
    let counts = if bins { classes::bins(of) } else { Vec::new() };
    if let (Some(object), false) = (value.as_object_mut(), counts.is_empty()) {
        let counts: Map<_, _> = counts.into_iter().map(|(ns, count)| (ns.to_string(), Value::from(count))).collect();
        object.insert("bins".into(), counts.into());
    }
    value
}

fn latencies(of: &Latencies, bins: bool) -> Value {
    let mut value = with_bins(moments(of), of, bins);
    let percentiles: Map<String, Value> = classes::percentiles(of)
        .into_iter()
        .map(|(percentile, ns)| (format!("{percentile:.6}"), Value::from(ns)))
        .collect();
    if let (Some(object), false) = (value.as_object_mut(), percentiles.is_empty()) {
        object.insert("percentile".into(), percentiles.into());
    }
    value
}

/// Of the samples of a rate.
pub struct Samples {
    /// Smallest.
    pub least: f64,
    /// Largest.
    pub most: f64,
    /// Average.
    pub mean: f64,
    /// Of a sample.
    pub deviation: f64,
    /// How many.
    pub count: usize,
}

/// Sums up windows.
pub fn samples(windows: &[Window], of: impl Fn(&Window) -> f64) -> Samples {
    let values: Vec<f64> = windows.iter().map(of).collect();
    if values.is_empty() {
        return Samples { least: 0.0, most: 0.0, mean: 0.0, deviation: 0.0, count: 0 };
    }
    let n = float(values.len() as u64);
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Samples {
        least: values.iter().copied().fold(f64::INFINITY, f64::min),
        most: values.iter().copied().fold(0.0, f64::max),
        mean,
        deviation: if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 },
        count: values.len(),
    }
}

fn disk(disk: &DiskUse, elapsed_s: u64) -> Value {
    let [reads, read_merges, read_sectors, read_ms, writes, write_merges, write_sectors, write_ms, _, busy, weighted] =
        disk.counters;
    json!({
        "name": disk.name,
        "read_ios": reads,
        "write_ios": writes,
        "read_sectors": read_sectors,
        "write_sectors": write_sectors,
        "read_merges": read_merges,
        "write_merges": write_merges,
        "read_ticks": read_ms,
        "write_ticks": write_ms,
        "in_queue": weighted,
        "util": (100.0 * float(busy) / float(elapsed_s.max(1) * 1000)).min(100.0),
    })
}

/// `Sun Nov 22 20:42:52 2026`, in UTC (fio: local time).
pub fn date(seconds: i64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (days, second) = (seconds.div_euclid(86400), seconds.rem_euclid(86400));
    // Civil from days, with years that begin in March.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = (march_month + 2) % 12;
    let year = year_of_era + era * 400 + i64::from(month < 2);
    let name = |names: &[&'static str], index: i64| {
        usize::try_from(index).ok().and_then(|i| names.get(i).copied()).unwrap_or("?")
    };
    format!(
        "{} {} {day:2} {:02}:{:02}:{:02} {year}",
        name(&DAYS, days.rem_euclid(7)),
        name(&MONTHS, month),
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "Thu Jan  1 00:00:00 1970"),
            (951_782_400, "Tue Feb 29 00:00:00 2000"),
            (1_795_380_172, "Sun Nov 22 20:42:52 2026"),
            (4_107_542_399, "Sun Feb 28 23:59:59 2100"),
        ] {
            assert_eq!(date(seconds), expected);
        }
    }
}
