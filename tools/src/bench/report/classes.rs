//! fio's classes of latencies: percent of IOs up to a bound and above the one before.

use crate::bench::statistics::{Latencies, Statistics, float};

/// Upper bounds in the unit of the table, and the factor to nanoseconds.
pub struct Table {
    /// Nanoseconds in a unit.
    pub unit_ns: u64,
    /// Bounds.
    pub bounds: &'static [u64],
}

/// Nanoseconds.
pub const NANO: Table = Table { unit_ns: 1, bounds: &[2, 4, 10, 20, 50, 100, 250, 500, 750, 1000] };
/// Microseconds.
pub const MICRO: Table = Table { unit_ns: 1000, bounds: &[2, 4, 10, 20, 50, 100, 250, 500, 750, 1000] };
/// Milliseconds; more is the class `>=2000`.
pub const MILLI: Table = Table { unit_ns: 1_000_000, bounds: &[2, 4, 10, 20, 50, 100, 250, 500, 750, 1000, 2000] };

/// Percent of a whole; 0 of nothing.
pub fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * float(part) / float(whole) }
}

/// Rows of a table: bound and percent of all IOs.
pub fn rows(statistics: &Statistics, table: &Table) -> Vec<(String, f64)> {
    let all = statistics.read.total.count + statistics.write.total.count;
    let up_to = |ns| statistics.read.total.up_to(ns) + statistics.write.total.up_to(ns);
    let mut before = if table.unit_ns == 1 { 0 } else { up_to(table.unit_ns - 1) };
    let mut out = Vec::new();
    for bound in table.bounds {
        let so_far = up_to(bound * table.unit_ns - 1);
        out.push((bound.to_string(), percent(so_far.saturating_sub(before), all)));
        before = so_far.max(before);
    }
    if table.unit_ns == MILLI.unit_ns {
        out.push((">=2000".into(), percent(all.saturating_sub(before), all)));
    }
    out
}

/// fio's percentiles.
pub const PERCENTILES: [f64; 17] =
    [1.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99];

/// Them, in nanoseconds; empty if nothing was counted.
pub fn percentiles(of: &Latencies) -> Vec<(f64, u64)> {
    PERCENTILES.iter().filter_map(|percentile| Some((*percentile, of.at(*percentile)?))).collect()
}

/// fio tells 64 values apart in each power of two, in 29 groups.
const BIN_BITS: u32 = 6;
const BINS: u64 = 29 << BIN_BITS;

/// fio's bins (`plat_val_to_idx` and `plat_idx_to_val` in its stat.c): the nanoseconds that stand for each that is not empty, and how many fell into it. The last takes all that is longer.
pub fn bins(of: &Latencies) -> Vec<(u64, u64)> {
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (ns, count) in of.counts() {
        let bin = bin_ns(bin_of(ns));
        match out.last_mut() {
            Some((last, so_far)) if *last == bin => *so_far += count,
            _ => out.push((bin, count)),
        }
    }
    out
}

fn bin_of(ns: u64) -> u64 {
    let highest = ns.checked_ilog2().unwrap_or(0);
    if highest <= BIN_BITS {
        return ns;
    }
    let dropped = highest - BIN_BITS;
    let within = (ns >> dropped) & ((1 << BIN_BITS) - 1);
    ((u64::from(dropped + 1) << BIN_BITS) + within).min(BINS - 1)
}

/// The middle of a bin.
fn bin_ns(bin: u64) -> u64 {
    if bin < 2 << BIN_BITS {
        return bin;
    }
    let dropped = (bin >> BIN_BITS) - 1;
    let within = bin & ((1 << BIN_BITS) - 1);
    (1 << (dropped + u64::from(BIN_BITS))) + (within << dropped) + ((1 << dropped) >> 1)
}

/// Labels of the classes of depth.
pub const DEPTHS: [&str; 7] = ["1", "2", "4", "8", "16", "32", ">=64"];
/// Labels of the classes of submit and complete.
pub const BATCHES: [&str; 7] = ["0", "4", "8", "16", "32", "64", ">=64"];

/// Classes with their share.
pub fn shares<'a>(labels: &'a [&'a str; 7], counts: &[u64; 7]) -> Vec<(&'a str, f64)> {
    let all = counts.iter().sum();
    labels.iter().zip(counts).map(|(label, count)| (*label, percent(*count, all))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::job::Direction;
    use std::time::Duration;

    #[test]
    fn every_io_is_in_exactly_one_class() {
        let mut statistics = Statistics::default();
        let times = [1, 999, 1_000, 1_500, 49_000, 999_000, 1_000_000, 3_000_000, 1_999_000_000, 2_500_000_000];
        for ns in times {
            statistics.record(Direction::Read, Duration::ZERO, 4096, Duration::ZERO, Duration::from_nanos(ns));
        }
        let all: Vec<(String, f64)> = [NANO, MICRO, MILLI].iter().flat_map(|table| rows(&statistics, table)).collect();
        let sum: f64 = all.iter().map(|(_, share)| share).sum();
        assert!((sum - 100.0).abs() < 1e-9, "{sum} {all:?}");
        let of = |table: &Table, bound: &str| rows(&statistics, table).into_iter().find(|(b, _)| b == bound).unwrap().1;
        assert_eq!((of(&NANO, "2"), of(&NANO, "1000"), of(&MICRO, "2"), of(&MICRO, "50")), (10.0, 10.0, 20.0, 10.0));
        assert_eq!((of(&MILLI, ">=2000"), of(&MILLI, "4")), (10.0, 10.0));
    }

    #[test]
    fn bins_are_those_of_fio() {
        // As fio 3.33 printed them; its last one stands in fio_jsonplus_clat2csv.
        for bin in [12, 127, 168_960, 177_152, 183_296, 189_440, 214_016, 246_784, 329_728, 1_003_520, 1_089_536] {
            assert_eq!(bin_ns(bin_of(bin)), bin);
        }
        assert_eq!(bin_ns(bin_of(u64::MAX)), 17_112_760_320);
        assert!((1..3000).map(bin_of).is_sorted());
        let mut latencies = Latencies::with_histogram();
        let times = [12, 12, 13, 168_000, 169_000, 30_000_000_000];
        times.iter().for_each(|ns| latencies.record(Duration::from_nanos(*ns)));
        assert_eq!(bins(&latencies), [(12, 2), (13, 1), (168_960, 2), (17_112_760_320, 1)]);
        assert!(bins(&Latencies::with_histogram()).is_empty() && bins(&Latencies::moments()).is_empty());
    }
}
