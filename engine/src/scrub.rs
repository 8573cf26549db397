//! Scrub: a paced pass over everything that lives, container by container, through their own tables. Verifies headers, footers, table parts, the checksum of every row that lives
//! at least in part, and the reference tables of nodes. Reads only; works on a read-only store; can be stopped and taken up again at a position.
//!
//! What is reused while it is being looked at is no finding: what does not verify is resolved anew before it is told. If power fails here, nothing was changed.

use crate::engine::Engine;
use crate::space::{Container, check};
use crate::store::Result;
use envoyfs_layout::checksum::crc32c;
use envoyfs_layout::directory_page::ContainerState;
use envoyfs_layout::node::edges;
use envoyfs_layout::segment::{SegmentFooter, SegmentHeader, TablePart, TableRow};
use envoyfs_layout::{LayoutError, Oid, ReferenceKind, UNIT};
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Duration;

/// Bytes between two pauses.
const STEP_BYTES: u64 = 1 << 20;

/// How to scrub.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScrubOptions {
    /// Container to begin with: 0, or where an earlier pass stopped.
    pub from: u32,
    /// Bytes a second; 0: no limit.
    pub bytes_per_second: u64,
}

/// What is wrong with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubFinding {
    /// Container.
    pub container: u32,
    /// Unit in it.
    pub unit: u32,
    /// The object, or the first of a fragment that the cleaner moved; nothing where the container's own structure is meant. Its segment is in it.
    pub object: Option<Oid>,
    /// The client's hint whose it is; 0: none.
    pub owner: u64,
    /// In words.
    pub what: String,
}

/// How far a pass is, and what it met.
#[derive(Clone, Debug, Default)]
pub struct ScrubReport {
    /// The next container; all of them: the pass is over.
    pub position: u32,
    /// Containers of the store.
    pub containers: u32,
    /// Rows verified.
    pub objects: u64,
    /// Bytes verified.
    pub bytes: u64,
    /// Live units that no table names yet: written since the last checkpoint, or their table part cannot be read.
    pub unnamed_units: u64,
    /// Everything found.
    pub findings: Vec<ScrubFinding>,
}

impl Engine {
    /// Goes over the store from `options.from`; `progress` is called after every container, and may end the pass.
    ///
    /// # Errors
    /// What makes going on pointless; damage is a finding, not an error.
    pub fn scrub(
        &self,
        options: ScrubOptions,
        mut progress: impl FnMut(&ScrubReport) -> ControlFlow<()>,
    ) -> Result<ScrubReport> {
        let mut report =
            ScrubReport { position: options.from, containers: self.shape.containers, ..ScrubReport::default() };
        let mut pause = Pause { bytes_per_second: options.bytes_per_second, owed: 0, seen: 0 };
        while report.position < report.containers {
            let container = report.position;
            let row = match &self.writer {
                Some(writer) => writer.space.with_containers(|containers| containers.get(container).copied()),
                None => self.mounted.get(container as usize).copied(),
            };
            if let Some(row) = row.filter(|row| !matches!(row.state, ContainerState::Free | ContainerState::System)) {
                self.scrub_container(container, &row, &mut report, &mut pause);
                self.metrics.scrub.containers.increment();
            }
            report.position += 1;
            if progress(&report).is_break() {
                return Ok(report);
            }
        }
        self.metrics.scrub.passes.increment();
        Ok(report)
    }

    fn scrub_container(&self, container: u32, row: &Container, report: &mut ScrubReport, pause: &mut Pause) {
        let live = self.state.lock().live_in(container);
        if live == 0 {
            return;
        }
        let mut found = Vec::new();
        let mut tell = |unit: u32, row: Option<&TableRow>, what: String| {
            let (object, owner) = (row.map(|row| row.oid), row.map_or(0, |row| row.owner));
            found.push(ScrubFinding { container, unit, object, owner, what });
        };
        let last = self.shape.units() - 1;
        if let Err(what) =
            self.unit(container, 0, |unit, at| SegmentHeader::decode(unit, &self.shape.seed, at).map(drop))
        {
            tell(0, None, format!("the header: {what}"));
        }
        if row.state == ContainerState::Sealed
            && let Err(what) =
                self.unit(container, last, |unit, at| SegmentFooter::decode(unit, &self.shape.seed, at).map(drop))
        {
            tell(last, None, format!("the footer: {what}"));
        }
        let mut rows: Vec<TableRow> = Vec::new();
        let mut part = row.last_part;
        while part != 0 {
            match self.part_at(container, part) {
                Ok(found) => {
                    part = if found.previous < part { found.previous } else { 0 };
                    rows.extend(found.rows);
                }
                Err(what) => {
                    tell(part, None, format!("a part of the table: {what}"));
                    part = 0;
                }
            }
        }
        rows.sort_unstable_by_key(|row| row.offset_units);
        let mut named = 0;
        for row in &rows {
            pause.after(report.bytes);
            let units = self.living_units(container, row);
            if units == 0 {
                continue;
            }
            named += units;
            report.objects += 1;
            report.bytes += u64::from(row.stored_bytes);
            self.metrics.scrub.objects.increment();
            self.metrics.scrub.bytes.add(row.stored_bytes.into());
            if let Err(what) = self.verify_row(container, row) {
                // It may have been moved, or died, and the container been used again.
                if self.living_units(container, row) > 0
                    && let Err(what) = self.verify_row(container, row).map_err(|_| what)
                {
                    self.metrics.scrub.damaged.increment();
                    tell(row.offset_units, Some(row), what);
                }
            }
        }
        // Without a checkpoint since, what was appended is in no table.
        report.unnamed_units += u64::from(self.state.lock().live_in(container).saturating_sub(named));
        report.findings.append(&mut found);
    }

    /// Live units of a row that still lie in this container.
    fn living_units(&self, container: u32, row: &TableRow) -> u32 {
        let number = row.oid.segment();
        if self.load_segments(&BTreeSet::from([number])).is_err() {
            // Its page is damaged: everything counts as living, so that damage is told.
            return row.units();
        }
        let state = self.state.lock();
        let Some(segment) = state.segment(number) else { return 0 };
        let slot = u32::from(row.oid.slot());
        let mut units = 0;
        for live in segment.live.inside(&(slot..slot + row.units())) {
            let mut at = live.start;
            for (place, unit, count) in state.locate(number, &live) {
                if place == Some(container) && unit == row.offset_units + (at - slot) {
                    units += count;
                }
                at += count;
            }
        }
        units
    }

    fn verify_row(&self, container: u32, row: &TableRow) -> std::result::Result<(), String> {
        let _reading = self.reader.readers.enter();
        let end = row.offset_units.checked_add(row.units()).filter(|end| *end <= self.shape.units());
        if end.is_none() {
            return Err("its row lies outside its container".into());
        }
        let mut bytes = vec![0; row.stored_bytes as usize];
        self.reader.read_device(container, row.offset_units, &mut bytes).map_err(|error| error.to_string())?;
        check("object", row.crc, crc32c(&bytes)).map_err(|error| error.to_string())?;
        if row.kind == ReferenceKind::Node {
            edges(&bytes).map_err(|error| format!("its references: {error}"))?;
        }
        Ok(())
    }

    fn unit(
        &self,
        container: u32,
        unit: u32,
        decode: impl Fn(&[u8], u64) -> std::result::Result<(), LayoutError>,
    ) -> std::result::Result<(), String> {
        let _reading = self.reader.readers.enter();
        let mut bytes = vec![0; UNIT as usize];
        let at = self.reader.read_device(container, unit, &mut bytes).map_err(|error| error.to_string())?;
        decode(&bytes, at).map_err(|error| error.to_string())
    }

    fn part_at(&self, container: u32, unit: u32) -> std::result::Result<TablePart, String> {
        let _reading = self.reader.readers.enter();
        let mut head = vec![0; UNIT as usize];
        self.reader.read_device(container, unit, &mut head).map_err(|error| error.to_string())?;
        let units = TablePart::units_of(&head).map_err(|error| error.to_string())?;
        if units > self.shape.units().saturating_sub(unit) as usize {
            return Err("it is longer than its container".into());
        }
        let mut bytes = vec![0; units * UNIT as usize];
        self.reader.read_device(container, unit, &mut bytes).map_err(|error| error.to_string())?;
        TablePart::decode(&bytes).map_err(|error| error.to_string())
    }
}

/// Keeps a pass to its rate.
struct Pause {
    bytes_per_second: u64,
    owed: u64,
    seen: u64,
}

impl Pause {
    fn after(&mut self, bytes: u64) {
        self.owed += bytes - self.seen;
        self.seen = bytes;
        if self.bytes_per_second > 0 && self.owed >= STEP_BYTES {
            let nanos = u128::from(self.owed) * 1_000_000_000 / u128::from(self.bytes_per_second);
            self.owed = 0;
            let wait = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            // Nobody notifies: a pause.
            Condvar::new().wait_for(&mut Mutex::new(()).lock(), wait);
        }
    }
}
