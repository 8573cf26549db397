//! What is printed: fio's JSON for programs, fio's summary for people.

mod classes;
pub mod json;
pub mod text;

use super::statistics::Entry;

/// Counters of a block device under the benchmark, while it ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// As in /sys/block.
    pub name: String,
    /// Reads, merged reads, sectors read, ms reading; writes likewise; in flight, ms busy, ms weighted.
    pub counters: [u64; 11],
}

/// All that a report is made of.
pub struct Report<'a> {
    /// In order.
    pub entries: &'a [Entry],
    /// Options of `[global]`.
    pub global: &'a [(String, String)],
    /// Block devices below.
    pub disks: &'a [DiskUse],
    /// Nanoseconds since 1970.
    pub wall_ns: i64,
    /// How long all took.
    pub elapsed_s: u64,
}
