//! Scrub: a paced pass over everything that lives, container by container, through their own tables. Verifies headers, footers, table parts, the checksum of every row that lives
//! at least in part, the reference tables of nodes, pages of segments, and, where a pass begins with container 0, what a mount starts from (`system`). Reads only; works on a read-only store; can be stopped and taken up again at a position.
//!
//! What is reused while it is being looked at is no finding, nor is what is still on its way to the device:
//!
//! ```text
//! look --verifies--> on
//!   \--does not--> no publication under way, writes of streams done, what lives asked anew --> look --does not--> told
//! ```
//! Between two publications everything that the state calls living is on the device at its place, so the second look is final. If power fails here, nothing was changed.
//!
//! Memory: the rows of one container, a few pages of segments beside those that the state has in memory anyway, and at most [`FINDINGS_MAX`] findings.

mod system;

use crate::StoreError;
use crate::engine::Engine;
use crate::pace::Pace;
use crate::sabotage::{self, Rule};
use crate::space::{Container, check};
use crate::state::pager::segment_page;
use crate::state::{Segment, locate};
use crate::store::Result;
use envoyfs_layout::checksum::crc32c;
use envoyfs_layout::directory_page::ContainerState;
use envoyfs_layout::directory_page::Place;
use envoyfs_layout::node::edges;
use envoyfs_layout::segment::{SegmentFooter, SegmentHeader, TablePart, TableRow};
use envoyfs_layout::{LayoutError, Oid, ReferenceKind, UNIT};
use std::collections::HashMap;
use std::ops::ControlFlow;

/// Findings that a report holds.
pub const FINDINGS_MAX: usize = 10_000;
/// Pages of segments that a pass keeps for itself.
const PAGES_MAX: usize = 64;

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
    /// Container; none for superblocks, volume directory and segment table.
    pub container: Option<u32>,
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
    /// Rows and pages of segments verified.
    pub objects: u64,
    /// Bytes verified.
    pub bytes: u64,
    /// Live units that no table names yet: written since the last checkpoint, or their table part cannot be read.
    pub unnamed_units: u64,
    /// Everything found, the first [`FINDINGS_MAX`] of it.
    pub findings: Vec<ScrubFinding>,
    /// Findings beyond those.
    pub more_findings: u64,
}

/// A pass under way.
struct Scrubbing<'a> {
    report: ScrubReport,
    pace: Pace,
    progress: &'a mut dyn FnMut(&ScrubReport) -> ControlFlow<()>,
    /// Pages that are not in the state's memory. They are not put there: nobody would take them out again.
    pages: HashMap<u32, (Place, Segment)>,
    /// Containers of segments' pages, and the segments, in order, as they were when the first such container came: what is written elsewhere later was written since.
    places: Vec<(u32, u32)>,
}

impl Scrubbing<'_> {
    fn tell(&mut self, found: impl IntoIterator<Item = ScrubFinding>) {
        for finding in found {
            if self.report.findings.len() < FINDINGS_MAX {
                self.report.findings.push(finding);
            } else {
                self.report.more_findings += 1;
            }
        }
    }

    fn verified(&mut self, bytes: u32) -> ControlFlow<()> {
        let Self { report, pace, progress, .. } = self;
        report.objects += 1;
        report.bytes += u64::from(bytes);
        pace.after(bytes.into(), || progress(report))
    }
}

impl Engine {
    /// Goes over the store from `options.from`; `progress` is called after every container and in pauses, and may end the pass: `position` says where to go on.
    ///
    /// # Errors
    /// What makes going on pointless: the store is poisoned and something does not verify, which may be what failed then. Damage is a finding, not an error.
    pub fn scrub(
        &self,
        options: ScrubOptions,
        mut progress: impl FnMut(&ScrubReport) -> ControlFlow<()>,
    ) -> Result<ScrubReport> {
        let report =
            ScrubReport { position: options.from, containers: self.shape.containers, ..ScrubReport::default() };
        let pace = Pace::new(options.bytes_per_second);
        let began_ns = self.metrics.now_ns();
        let mut pass = Scrubbing { report, pace, progress: &mut progress, pages: HashMap::new(), places: Vec::new() };
        if options.from == 0 {
            pass.tell(self.scrub_roots()?);
        }
        while pass.report.position < pass.report.containers {
            let container = pass.report.position;
            let row = self.row_of(container);
            if let Some(row) = row.filter(|row| row.state != ContainerState::Free) {
                let flow = match row.state {
                    ContainerState::System => self.scrub_pages(container, &mut pass)?,
                    _ => self.scrub_container(container, &row, &mut pass)?,
                };
                if flow.is_break() {
                    return Ok(pass.report);
                }
                self.metrics.scrub.containers.increment();
            }
            pass.report.position += 1;
            if (pass.progress)(&pass.report).is_break() {
                return Ok(pass.report);
            }
        }
        self.metrics.scrub.passes.increment();
        self.metrics.scrub.pass.record_ns(self.metrics.now_ns().saturating_sub(began_ns));
        Ok(pass.report)
    }

    fn row_of(&self, container: u32) -> Option<Container> {
        match &self.writer {
            Some(writer) => writer.space.with_containers(|containers| containers.get(container).copied()),
            None => self.mounted.get(container as usize).copied(),
        }
    }

    /// Looks once more, with no publication under way and everything that streams have begun to write on the device: footers and tables of containers closed since the last
    /// checkpoint, and what a publication makes living before its writes are done. Whoever publishes waits meanwhile.
    fn look_again<T>(&self, look: impl FnOnce() -> T) -> Result<T> {
        let Some(writer) = &self.writer else { return Ok(look()) };
        let _published = writer.published.lock();
        writer.space.wait_writes()?;
        // What it began and did not end would be told as damage.
        if let Some(why) = writer.wal.poisoned() {
            return Err(StoreError::Poisoned { why });
        }
        Ok(look())
    }

    /// Verifies what a container consists of beside objects; returns the rows of its table, by offset.
    fn structure(&self, container: u32, row: &Container) -> (Vec<(u32, String)>, Vec<TableRow>) {
        let mut wrong = Vec::new();
        let last = self.shape.units() - 1;
        if let Err(what) =
            self.unit(container, 0, |unit, at| SegmentHeader::decode(unit, &self.shape.seed, at).map(drop))
        {
            wrong.push((0, format!("the header: {what}")));
        }
        if row.state == ContainerState::Sealed
            && let Err(what) =
                self.unit(container, last, |unit, at| SegmentFooter::decode(unit, &self.shape.seed, at).map(drop))
        {
            wrong.push((last, format!("the footer: {what}")));
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
                    wrong.push((part, format!("a part of the table: {what}")));
                    part = 0;
                }
            }
        }
        rows.sort_unstable_by_key(|row| row.offset_units);
        (wrong, rows)
    }

    fn scrub_container(&self, container: u32, row: &Container, pass: &mut Scrubbing<'_>) -> Result<ControlFlow<()>> {
        if self.state.lock().live_in(container) == 0 {
            return Ok(ControlFlow::Continue(()));
        }
        let (mut wrong, mut rows) = self.structure(container, row);
        if !wrong.is_empty() {
            let again = self.look_again(|| {
                let row = self.row_of(container).filter(is_scrubbed)?;
                (self.state.lock().live_in(container) > 0).then(|| self.structure(container, &row))
            })?;
            // Without any, it was given back meanwhile.
            (wrong, rows) = again.unwrap_or_default();
        }
        let container_of = Some(container);
        let no_object = |(unit, what)| ScrubFinding { container: container_of, unit, object: None, owner: 0, what };
        let mut found: Vec<ScrubFinding> = wrong.into_iter().map(no_object).collect();
        let (mut named, mut flow) = (0, ControlFlow::Continue(()));
        for row in &rows {
            let units = self.living_units(container, row, pass);
            if units == 0 {
                continue;
            }
            named += units;
            self.metrics.scrub.objects.increment();
            self.metrics.scrub.bytes.add(row.stored_bytes.into());
            if self.verify_row(container, row).is_err() && !sabotage::on(Rule::ScrubIgnoresRow) {
                // It may have been moved, or died, and the container been used again.
                let again = self.look_again(|| match self.living_units(container, row, pass) {
                    0 => Ok(()),
                    _ => self.verify_row(container, row),
                })?;
                if let Err(what) = again {
                    self.metrics.scrub.damaged.increment();
                    let (unit, object) = (row.offset_units, Some(row.oid));
                    found.push(ScrubFinding { container: container_of, unit, object, owner: row.owner, what });
                }
            }
            flow = pass.verified(row.stored_bytes);
            if flow.is_break() {
                break;
            }
        }
        if flow.is_continue() {
            // Without a checkpoint since, what was appended is in no table.
            pass.report.unnamed_units += u64::from(self.state.lock().live_in(container).saturating_sub(named));
        }
        pass.tell(found);
        Ok(flow)
    }

    /// What a pass finds in a container that it believes to be as `row` says.
    #[cfg(test)]
    pub(crate) fn scrub_as(&self, container: u32, row: &Container) -> Result<ScrubReport> {
        let mut progress = |_: &ScrubReport| ControlFlow::Continue(());
        let (report, pace) = (ScrubReport::default(), Pace::new(0));
        let mut pass = Scrubbing { report, pace, progress: &mut progress, pages: HashMap::new(), places: Vec::new() };
        let _ended = self.scrub_container(container, row, &mut pass)?;
        Ok(pass.report)
    }

    /// Live units of a row that still lie in this container.
    fn living_units(&self, container: u32, row: &TableRow, pass: &mut Scrubbing<'_>) -> u32 {
        let number = row.oid.segment();
        // The page that is looked up is not reused before it was read.
        let _reading = self.reader.readers.enter();
        let (home, place) = {
            let state = self.state.lock();
            let Some(at) = state.table().get(&number) else { return 0 };
            if let Some(segment) = state.segment(number) {
                return here(container, row, at.home, segment);
            }
            (at.home, at.page)
        };
        if place.is_none() {
            // Opened since the last checkpoint: what is in it is in no table either.
            return 0;
        }
        if pass.pages.get(&number).is_none_or(|(of, _)| *of != place) {
            let Ok(page) = segment_page(&self.reader, number, &place) else {
                // Everything counts as living, so that damage is told.
                return row.units();
            };
            if pass.pages.len() >= PAGES_MAX {
                pass.pages.clear();
            }
            pass.pages.insert(number, (place, Segment::of_page(&page)));
        }
        pass.pages.get(&number).map_or(0, |(_, segment)| here(container, row, home, segment))
    }

    fn verify_row(&self, container: u32, row: &TableRow) -> std::result::Result<(), String> {
        let _timing = self.metrics.time(&self.metrics.scrub.verify);
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

/// Whether there are objects in it that a pass looks at.
fn is_scrubbed(row: &Container) -> bool {
    !matches!(row.state, ContainerState::Free | ContainerState::System)
}

/// Live units of a row that lie in the container, at its place in it.
fn here(container: u32, row: &TableRow, home: Option<u32>, segment: &Segment) -> u32 {
    let slot = u32::from(row.oid.slot());
    let mut units = 0;
    for live in segment.live.inside(&(slot..slot + row.units())) {
        let mut at = live.start;
        for (place, unit, count) in locate(home, &segment.moved, &live) {
            if place == Some(container) && unit == row.offset_units + (at - slot) {
                units += count;
            }
            at += count;
        }
    }
    units
}
