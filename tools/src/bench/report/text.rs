//! The summary for people, in fio's words, and what fio has not: the store beside the bare device.

use super::classes::{self, BATCHES, DEPTHS, MICRO, MILLI, NANO};
use super::json::{date, samples};
use super::{DiskUse, Report};
use crate::bench::job::Direction;
use crate::bench::statistics::{Entry, Flow, Latencies, float};
use std::fmt::{self, Write as _};

/// The whole summary.
#[must_use]
pub fn text(report: &Report<'_>) -> String {
    let mut out = String::new();
    // A string does not refuse.
    let _ = write_report(&mut out, report);
    out
}

fn write_report(out: &mut String, report: &Report<'_>) -> fmt::Result {
    for entry in report.entries {
        job(out, entry, report.wall_ns)?;
    }
    floor(out, report.entries)?;
    if !report.disks.is_empty() {
        writeln!(out, "\nDisk stats (read/write):")?;
        report.disks.iter().try_for_each(|used| disk(out, used))?;
    }
    Ok(())
}

fn job(out: &mut String, entry: &Entry, wall_ns: i64) -> fmt::Result {
    let of = &entry.statistics;
    writeln!(
        out,
        "\n{}: (groupid={}, jobs={}): engine={}, err={}: {}",
        entry.job.name,
        entry.group,
        entry.clones,
        entry.engine,
        of.failure().as_deref().unwrap_or(" 0"),
        date(wall_ns.div_euclid(1_000_000_000))
    )?;
    for (name, direction) in [("read", Direction::Read), ("write", Direction::Write)] {
        flow(out, name, entry, direction)?;
    }
    for table in [NANO, MICRO, MILLI] {
        let unit = match table.unit_ns {
            1 => "nsec",
            1000 => "usec",
            _ => "msec",
        };
        let shown: Vec<String> = classes::rows(of, &table)
            .into_iter()
            .filter(|(_, share)| *share > 0.0)
            .map(|(bound, share)| format!("{bound}={:.2}%", share.max(0.01)))
            .collect();
        if !shown.is_empty() {
            writeln!(out, "  lat ({unit})   : {}", shown.join(", "))?;
        }
    }
    if of.sync.count > 0 {
        writeln!(out, "  sync:")?;
        latency(out, "sync", &of.sync)?;
        percentiles(out, "sync", &of.sync)?;
    }
    let share = |time: std::time::Duration| {
        100.0 * time.as_secs_f64() / of.runtime.as_secs_f64().max(1e-9) / f64::from(entry.clones)
    };
    writeln!(
        out,
        "  cpu          : usr={:.2}%, sys={:.2}%, ctx={}, majf={}, minf={}",
        share(of.user),
        share(of.system),
        of.switches,
        of.major_faults,
        of.minor_faults
    )?;
    for (name, labels, counts) in [
        ("  IO depths    ", &DEPTHS, &of.depths),
        ("     submit    ", &BATCHES, &of.submits),
        ("     complete  ", &BATCHES, &of.completes),
    ] {
        let shown: Vec<String> =
            classes::shares(labels, counts).into_iter().map(|(label, share)| format!("{label}={share:.1}%")).collect();
        writeln!(out, "{name}: {}", shown.join(", "))?;
    }
    write!(out, "     issued    : total={},{},{}", of.read.ios, of.write.ios, of.sync.count)?;
    if entry.job.verify {
        write!(out, ", wrong blocks={}", of.wrong)?;
    }
    writeln!(out)
}

fn flow(out: &mut String, name: &str, entry: &Entry, direction: Direction) -> fmt::Result {
    let of: &Flow = entry.statistics.flow(direction);
    if of.ios == 0 {
        return Ok(());
    }
    let bandwidth = entry.bandwidth(direction);
    writeln!(
        out,
        "  {name}: IOPS={}, BW={}/s ({}/s)({}/{}msec)",
        thousands(entry.iops(direction)),
        binary(bandwidth),
        decimal(bandwidth),
        binary(float(of.bytes)),
        entry.statistics.runtime.as_millis()
    )?;
    latency(out, "slat", &of.submission)?;
    latency(out, "clat", &of.completion)?;
    latency(out, " lat", &of.total)?;
    percentiles(out, "clat", &of.completion)?;
    let kib = samples(&of.windows, |window| float(window.bytes) / 1024.0 / window.seconds());
    let ios = samples(&of.windows, |window| float(window.ios) / window.seconds());
    for (label, of) in [("bw (  KiB/s)", kib), ("iops        ", ios)] {
        writeln!(
            out,
            "   {label}: min={:.0}, max={:.0}, avg={:.2}, stdev={:.2}, samples={}",
            of.least, of.most, of.mean, of.deviation, of.count
        )?;
    }
    Ok(())
}

fn unit(of: &Latencies) -> (&'static str, f64) {
    match of.mean() {
        mean if mean >= 10_000_000.0 => ("msec", 1e6),
        mean if mean >= 10_000.0 => ("usec", 1e3),
        _ => ("nsec", 1.0),
    }
}

fn latency(out: &mut String, name: &str, of: &Latencies) -> fmt::Result {
    let (unit, scale) = unit(of);
    writeln!(
        out,
        "    {name} ({unit}): min={:.0}, max={:.0}, avg={:.2}, stdev={:.2}",
        float(of.least()) / scale,
        float(of.most()) / scale,
        of.mean() / scale,
        of.deviation() / scale
    )
}

fn percentiles(out: &mut String, name: &str, of: &Latencies) -> fmt::Result {
    let (unit, scale) = unit(of);
    writeln!(out, "    {name} percentiles ({unit}):")?;
    let all = classes::percentiles(of);
    for chunk in all.chunks(4) {
        let shown: Vec<String> =
            chunk.iter().map(|(percentile, ns)| format!("{percentile:5.2}th=[{:5.0}]", float(*ns) / scale)).collect();
        let end = if chunk.last() == all.last() { "" } else { "," };
        writeln!(out, "     | {}{end}", shown.join(", "))?;
    }
    Ok(())
}

/// Jobs that ran both ways, as ratios.
fn floor(out: &mut String, entries: &[Entry]) -> fmt::Result {
    let mut pairs = Vec::new();
    for (store, device) in entries.iter().zip(entries.iter().skip(1)) {
        if store.engine == "envoyfs" && device.engine == "device" && store.job.name == device.job.name {
            pairs.push((store, device));
        }
    }
    if pairs.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nThe store beside the bare device (in turns, in this process):")?;
    for (store, device) in pairs {
        for (name, direction) in [("read", Direction::Read), ("write", Direction::Write)] {
            let (own, floor) = (store.iops(direction), device.iops(direction));
            if own > 0.0 && floor > 0.0 {
                let p99 = |entry: &Entry| entry.statistics.flow(direction).total.at(99.0).map_or(0.0, float);
                let times = p99(store) / p99(device).max(1.0);
                // Appends may be a thousand times as fast as a device.
                let digits = if times < 0.1 { 4 } else { 2 };
                writeln!(
                    out,
                    "  {}: {name}: {:.1} % of the device's IOPS ({} of {}), {times:.digits$} times its p99",
                    store.job.name,
                    100.0 * own / floor,
                    thousands(own),
                    thousands(floor),
                )?;
            }
        }
    }
    Ok(())
}

fn disk(out: &mut String, disk: &DiskUse) -> fmt::Result {
    let [reads, read_merges, read_sectors, read_ms, writes, write_merges, write_sectors, write_ms, ..] = disk.counters;
    writeln!(
        out,
        "  {}: ios={reads}/{writes}, sectors={read_sectors}/{write_sectors}, merge={read_merges}/{write_merges}, ticks={read_ms}/{write_ms}",
        disk.name
    )
}

fn thousands(value: f64) -> String {
    match value {
        v if v >= 10_000_000.0 => format!("{:.1}M", v / 1e6),
        v if v >= 10_000.0 => format!("{:.1}k", v / 1e3),
        v => format!("{v:.0}"),
    }
}

fn scaled(value: f64, base: f64, units: [&str; 5]) -> String {
    let (mut value, mut name) = (value, units.first().copied().unwrap_or(""));
    for unit in units.into_iter().skip(1) {
        if value < base {
            break;
        }
        value /= base;
        name = unit;
    }
    if value >= 100.0 || name == "B" { format!("{value:.0}{name}") } else { format!("{value:.1}{name}") }
}

fn binary(bytes: f64) -> String {
    scaled(bytes, 1024.0, ["B", "KiB", "MiB", "GiB", "TiB"])
}

fn decimal(bytes: f64) -> String {
    scaled(bytes, 1000.0, ["B", "kB", "MB", "GB", "TB"])
}
