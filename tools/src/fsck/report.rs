//! What a check found, collected and printed.

use super::findings::{Finding, Kind, Severity};
use crate::mkfs::size::Size;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// Findings of one kind beyond this are only counted: a store with a dead disk in it would fill memory.
const LISTED_PER_KIND_MAX: u64 = 1000;

/// Clean, or nothing worse than notes.
pub const EXIT_CLEAN: u8 = 0;
/// Errors were left as they are.
pub const EXIT_ERRORS: u8 = 4;
/// The check could not be made.
pub const EXIT_OPERATIONAL: u8 = 8;
/// Wrong options.
pub const EXIT_USAGE: u8 = 16;

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// Number of the published checkpoint that was checked.
    pub checkpoint: u64,
    /// Nodes read.
    pub nodes: u64,
    /// Extents referenced.
    pub extents: u64,
    /// Bytes of file data read and verified.
    pub data_bytes: u64,
    /// Names in directories (those in shared nodes once).
    pub names: u64,
    /// Realms: the view, clones, snapshots.
    pub realms: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Objects that more than one node refers to.
    pub shared_objects: u64,
    /// Bytes in live objects.
    pub live_bytes: u64,
    /// Live bytes in ranges of shared extents that no file uses.
    pub reclaimable_bytes: u64,
}

/// Everything that is known after a check.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Device or image.
    pub path: String,
    /// Identity.
    pub uuid: String,
    /// Label.
    pub label: String,
    /// Nothing worse than notes was found, and the check is complete.
    pub clean: bool,
    /// Exit status of `fsck.envoyfs`.
    pub exit_status: u8,
    /// What was found.
    pub findings: Vec<Finding>,
    /// Findings that were counted but not listed, by number.
    pub not_listed: BTreeMap<u16, u64>,
    /// What was looked at.
    pub statistics: Statistics,
    #[serde(skip)]
    counts: BTreeMap<u16, u64>,
    #[serde(skip)]
    worst: Option<Severity>,
}

impl Report {
    /// Nothing found yet.
    #[must_use]
    pub fn new(path: String) -> Self {
        Self { path, clean: true, ..Self::default() }
    }
    /// Adds a finding.
    pub fn add(&mut self, kind: &'static Kind, place: impl fmt::Display, detail: impl fmt::Display) {
        self.worst = self.worst.max(Some(kind.severity));
        (self.clean, self.exit_status) = (self.is_clean(), self.exit_code());
        let count = self.counts.entry(kind.number).or_default();
        *count += 1;
        if *count > LISTED_PER_KIND_MAX {
            *self.not_listed.entry(kind.number).or_default() += 1;
        } else {
            self.findings.push(Finding { kind, place: place.to_string(), detail: detail.to_string() });
        }
    }
    /// How often a kind was found.
    #[must_use]
    pub fn count(&self, kind: &Kind) -> u64 {
        self.counts.get(&kind.number).copied().unwrap_or(0)
    }
    /// Nothing worse than notes.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.worst <= Some(Severity::Note)
    }
    /// As fsck(8) has them.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.worst {
            None | Some(Severity::Note) => EXIT_CLEAN,
            Some(Severity::Warning | Severity::Error) => EXIT_ERRORS,
            Some(Severity::Fatal) => EXIT_OPERATIONAL,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        for (number, count) in &self.not_listed {
            writeln!(f, "      F{number:03}: and {count} more")?;
        }
        let Statistics {
            checkpoint,
            nodes,
            extents,
            data_bytes,
            names,
            realms,
            snapshots,
            shared_objects,
            live_bytes,
            ..
        } = self.statistics;
        let live = Size(live_bytes);
        if self.worst == Some(Severity::Fatal) {
            return write!(f, "{}: the check could not be completed; nothing was changed", self.path);
        }
        writeln!(
            f,
            "{}: checkpoint {checkpoint}: {names} names, {realms} trees ({snapshots} snapshots), {nodes} nodes, {extents} extents, {} of data verified, {live} live, {shared_objects} objects shared",
            self.path,
            Size(data_bytes)
        )?;
        match self.worst {
            None | Some(Severity::Note) => write!(f, "{}: clean", self.path),
            Some(_) => {
                let errors: u64 = self.counts.values().sum();
                write!(
                    f,
                    "{}: {errors} findings; nothing was changed, repair is not offered by this version",
                    self.path
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::findings;
    use super::*;

    #[test]
    fn the_worst_finding_decides_the_exit_code() {
        let mut report = Report::default();
        assert_eq!(report.exit_code(), EXIT_CLEAN);
        report.add(findings::LOG_DIRTY, "log", "");
        assert!(report.is_clean());
        report.add(findings::TOTALS, "/", "");
        assert_eq!(report.exit_code(), EXIT_ERRORS);
        report.add(findings::NO_ROOTS, "roots", "");
        assert_eq!(report.exit_code(), EXIT_OPERATIONAL);
    }

    #[test]
    fn a_flood_of_one_kind_is_counted() {
        let mut report = Report::default();
        for _ in 0..LISTED_PER_KIND_MAX + 5 {
            report.add(findings::TOTALS, "/", "");
        }
        assert_eq!((report.findings.len() as u64, report.not_listed[&700]), (LISTED_PER_KIND_MAX, 5));
    }
}
