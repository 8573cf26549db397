//! What a check found, collected and printed.

use super::findings::{self, By, Finding, Kind, Severity};
use crate::mkfs::size::Size;
use crate::output::count;
use envoyfs_layout::superblock::Superblock;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Findings of one kind beyond this are only counted: a store with a dead disk in it would fill memory.
const LISTED_PER_KIND_MAX: u64 = 1000;

/// Clean, or nothing worse than notes.
pub const EXIT_CLEAN: u8 = 0;
/// Errors were corrected.
pub const EXIT_CORRECTED: u8 = 1;
/// Errors were left as they are.
pub const EXIT_ERRORS: u8 = 4;
/// The check could not be made.
pub const EXIT_OPERATIONAL: u8 = 8;
/// Wrong options.
pub const EXIT_USAGE: u8 = 16;
/// The user stopped it.
pub const EXIT_CANCELED: u8 = 32;

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
#[derive(Clone, Debug, Default, Serialize)]
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
    /// What was found, and is still so.
    pub findings: Vec<Finding>,
    /// What was found and put right.
    pub repaired: Vec<Finding>,
    /// What a repair gave up besides what findings name.
    pub given_up: Vec<String>,
    /// Findings that were counted but not listed, by number.
    pub not_listed: BTreeMap<u16, u64>,
    /// The same of those put right.
    pub repaired_not_listed: BTreeMap<u16, u64>,
    /// The user stopped it: the check is not complete.
    pub interrupted: bool,
    /// The store was unmounted; nothing but that was looked at.
    pub skipped: bool,
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
    /// Says which store it is.
    pub fn name(&mut self, superblock: &Superblock) {
        self.uuid = uuid::Uuid::from_bytes(superblock.identity).to_string();
        self.label = superblock.label();
    }
    /// Adds what another check of the same store found; its statistics are taken for sums.
    pub fn absorb(&mut self, other: Self) {
        self.statistics.shared_objects += other.statistics.shared_objects;
        self.statistics.extents += other.statistics.extents;
        self.statistics.reclaimable_bytes += other.statistics.reclaimable_bytes;
        for finding in other.findings {
            self.add(finding.kind, finding.place, finding.detail);
        }
        for (number, more) in other.not_listed {
            *self.not_listed.entry(number).or_default() += more;
            *self.counts.entry(number).or_default() += more;
        }
    }
    /// Adds what a later check of the same store found besides, worse than notes.
    pub fn remember(&mut self, later: &Self) {
        let known: BTreeSet<(u16, String)> =
            self.findings.iter().map(|finding| (finding.kind.number, finding.place.clone())).collect();
        let new = |finding: &&Finding| !known.contains(&(finding.kind.number, finding.place.clone()));
        let worth = |finding: &&Finding| finding.kind.severity > Severity::Note;
        self.findings.extend(later.findings.iter().filter(worth).filter(new).cloned());
    }
    /// Forgets findings of other kinds.
    pub fn retain(&mut self, keep: impl Fn(&Kind) -> bool) {
        self.findings.retain(|finding| keep(finding.kind));
        let numbers: Vec<u16> = super::findings::ALL.iter().filter(|kind| keep(kind)).map(|kind| kind.number).collect();
        self.not_listed.retain(|number, _| numbers.contains(number));
        self.counts.retain(|number, _| numbers.contains(number));
        self.worst = self.findings.iter().map(|finding| finding.kind.severity).max();
        (self.clean, self.exit_status) = (self.is_clean(), self.exit_code());
    }
    /// Is there something worse than notes that this kind of repair puts right?
    #[must_use]
    pub fn repairable(&self, all: bool) -> bool {
        // What needs a walk of the trees is not touched where nobody knows what a tree is.
        let apart = [findings::SUPERBLOCK_COPY, findings::CONTAINER_HEADER, findings::CONTAINER_FOOTER];
        let can = |kind: &Kind| self.count(findings::OTHER_CLIENT) == 0 || apart.contains(&kind);
        let by = |kind: &Kind| can(kind) && (kind.by == By::Preen || (all && kind.by == By::Yes));
        self.findings.iter().any(|finding| finding.kind.severity > Severity::Note && by(finding.kind))
    }
    /// This is what was left after a repair; `before` is what was found first, `lost` what the repair itself had to give up.
    pub fn after(&mut self, before: Self, lost: Vec<Finding>) {
        let left = |finding: &Finding| self.findings.iter().any(|f| f.kind == finding.kind && f.place == finding.place);
        let worth = |finding: &Finding| finding.kind.severity > Severity::Note;
        let mut repaired: Vec<Finding> =
            before.findings.into_iter().filter(|finding| worth(finding) && !left(finding)).collect();
        let new = |finding: &Finding| !repaired.iter().any(|f| f.kind == finding.kind && f.place == finding.place);
        let lost: Vec<Finding> = lost.into_iter().filter(|finding| new(finding)).collect();
        repaired.extend(lost);
        self.repaired = repaired;
        self.repaired_not_listed = before.not_listed;
        self.repaired_not_listed.retain(|number, _| !self.counts.contains_key(number));
        (self.clean, self.exit_status) = (self.is_clean(), self.exit_code());
    }
    /// There were so many retained checkpoints before the repair, and so many are left.
    pub fn history(&mut self, before: u64, left: u64) {
        if left < before {
            self.given_up.push(format!("{} (history)", count(before - left, "retained checkpoint")));
        }
    }
    /// A rebuild was made: of what was wrong with the indexes, `before`.
    pub fn rebuilt(&mut self, before: Self, done: Finding) {
        let worth = |finding: &Finding| finding.kind.severity > Severity::Note;
        let left = |finding: &Finding| self.findings.iter().any(|f| f.kind == finding.kind && f.place == finding.place);
        let indexes = before.findings.into_iter().filter(|finding| worth(finding) && !left(finding));
        let mut repaired: Vec<Finding> = indexes.chain([done]).collect();
        repaired.append(&mut self.repaired);
        self.repaired = repaired;
        self.exit_status = self.exit_code();
    }
    /// The user stopped the check: whatever was found, it is not all.
    pub fn interrupt(&mut self) {
        self.interrupted = true;
        (self.clean, self.exit_status) = (self.is_clean(), self.exit_code());
    }
    /// How often a kind was found.
    #[must_use]
    pub fn count(&self, kind: &Kind) -> u64 {
        self.counts.get(&kind.number).copied().unwrap_or(0)
    }
    /// So bad that the check could not go on.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        self.worst == Some(Severity::Fatal)
    }
    /// Nothing worse than notes.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.worst <= Some(Severity::Note) && !self.interrupted
    }
    /// As fsck(8) has them.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let corrected = if self.repaired.is_empty() { EXIT_CLEAN } else { EXIT_CORRECTED };
        let corrected = corrected | if self.interrupted { EXIT_CANCELED } else { EXIT_CLEAN };
        match self.worst {
            None | Some(Severity::Note) => corrected,
            Some(Severity::Warning | Severity::Error) => corrected | EXIT_ERRORS,
            Some(Severity::Fatal) => corrected | EXIT_OPERATIONAL,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.repaired {
            writeln!(f, "repaired {finding}")?;
        }
        for (number, count) in &self.repaired_not_listed {
            writeln!(f, "repaired F{number:03}: and {count} more")?;
        }
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
        if self.skipped {
            return write!(
                f,
                "{}: clean, unmounted at checkpoint {checkpoint}; to check it all the same: fsck.envoyfs -f",
                self.path
            );
        }
        if self.worst == Some(Severity::Fatal) {
            let rebuild = self.findings.iter().any(|finding| finding.kind.by == By::Rebuild);
            let next =
                if rebuild { "; to make the indexes again from the segments: fsck.envoyfs --rebuild" } else { "" };
            return write!(f, "{}: the check could not be completed{next}", self.path);
        }
        writeln!(
            f,
            "{}: checkpoint {checkpoint}: {}, {} ({}), {}, {}, {} of data verified, {live} live, {} shared",
            self.path,
            count(names, "name"),
            count(realms, "tree"),
            count(snapshots, "snapshot"),
            count(nodes, "node"),
            count(extents, "extent"),
            Size(data_bytes),
            count(shared_objects, "object")
        )?;
        if !self.repaired.is_empty() {
            let repaired = self.repaired.len() as u64 + self.repaired_not_listed.values().sum::<u64>();
            writeln!(f, "{}: {} repaired", self.path, count(repaired, "finding"))?;
        }
        for what in &self.given_up {
            writeln!(f, "{}: given up: {what}", self.path)?;
        }
        if self.interrupted {
            return write!(f, "{}: stopped by the user; the check is not complete", self.path);
        }
        match self.worst {
            None | Some(Severity::Note) => write!(f, "{}: clean", self.path),
            Some(_) => {
                let errors: u64 = self.counts.values().sum();
                let next = if self.count(findings::FOREIGN) > 0 {
                    "; nothing is repaired without --overwrite"
                } else if self.repairable(false) && self.findings.iter().any(|finding| finding.kind.by == By::Yes) {
                    "; to repair what is safe: fsck.envoyfs -fp; all, giving up what cannot be read: fsck.envoyfs -fy"
                } else if self.repairable(false) {
                    "; to repair what is safe: fsck.envoyfs -fp"
                } else if self.repairable(true) {
                    "; to repair: fsck.envoyfs -fy"
                } else {
                    ""
                };
                write!(f, "{}: {errors} findings{next}", self.path)
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
        let mut left = Report::default();
        left.after(report.clone(), Vec::new());
        assert!(left.to_string().contains("1005 findings repaired"), "{left}");
        left.add(findings::TOTALS, "/other", "");
        left.after(report, Vec::new());
        assert!(left.to_string().contains("1000 findings repaired"), "of the others nobody knows which: {left}");
    }
}
