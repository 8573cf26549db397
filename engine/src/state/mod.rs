//! What is live and how often it is referenced: a function of the committed batches alone (INV-39), changed by whole batches only, live and in recovery.
//!
//! ```text
//! table    every segment that holds something: home, place of its page                          in memory, 24 bytes a segment
//! loaded   pages in memory: live units, counts that are not 1, moved and deferred units          bounded; dirty ones stay until a checkpoint wrote them
//! queue    nodes whose count is zero and whose edges still count                                 paged stack
//! history  retained checkpoints, each with the units that died while it was the newest one       paged stacks
//! ```
//! Extents have no edges, so they are freed when their count reaches zero, without queueing. The queue is a stack, so that deleting a tree of any size keeps it as short as
//! the tree is high and wide at one node. A unit that dies while a retained checkpoint may hold it stays live, as *deferred* (INV-31).
//!
//! No IO here: [`pager`] reads pages before they are needed. If power fails nothing here matters: the next mount reads the published table and applies at most one batch.

mod apply;
mod check;
pub mod law;
mod lists;
pub mod orphans;
pub mod pager;
mod runs;
mod segment;
mod stack;

pub use apply::segments_of;
pub use law::{LawError, Outcome, Unstored};
pub use pager::Pager;
pub use runs::Runs;
pub use segment::{Fragment, Segment, SlotMap, locate, map_memory, slot_map};
pub use stack::{Row, Stack};

use crate::sabotage::{self, Rule};
use envoyfs_layout::directory_page::{ContainerRow, ContainerState, Place, VolumeEntry};
use envoyfs_layout::system_page::{DeferredRange, HistoryRow, HistoryState, OrphanedSegment, SegmentPage};
use envoyfs_layout::{IdMap, Oid, Reference, UNIT};
use orphans::Orphans;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A batch that does not fit the state: a fault of a client or of this engine, or damage. Nothing is published after it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The object's segment is not known (INV-22).
    #[error("object {oid} lies in an unknown segment")]
    UnknownSegment {
        /// The object.
        oid: Oid,
    },
    /// A count fell below zero.
    #[error("object {oid}: count falls to {count}")]
    Negative {
        /// The object.
        oid: Oid,
        /// Count.
        count: i64,
    },
    /// A delta names an object that is dead or waits in the drop queue (INV-08).
    #[error("object {oid} changes by {delta} references after it was freed")]
    Dead {
        /// The object.
        oid: Oid,
        /// Change.
        delta: i32,
    },
    /// The batch works off something else than what stands in the queue.
    #[error("the drop queue ends with {found:?}, the batch works off {expected}")]
    Queue {
        /// What the batch says.
        expected: Oid,
        /// What the queue says.
        found: Option<Oid>,
    },
    /// The segment's page was not read before: a fault of this engine.
    #[error("the page of segment {segment} is needed and not in memory")]
    NotLoaded {
        /// The segment.
        segment: u32,
    },
    /// A step of the batch names another retained checkpoint than the state has.
    #[error("the batch speaks of retained checkpoint {checkpoint}, the oldest known is {oldest:?}")]
    History {
        /// What the batch says.
        checkpoint: u64,
        /// What the state has.
        oldest: Option<u64>,
    },
    /// A new object overlaps a live one (INV-16).
    #[error("new object {oid} overlaps {units} live units")]
    Overlap {
        /// The object.
        oid: Oid,
        /// Units that are live already.
        units: u32,
    },
}

/// A segment as the segment table or the list of those without a home has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableRow {
    /// Container in which units lie at their own slot; none once it was reused.
    pub home: Option<u32>,
    /// Its page; none before the first checkpoint that holds it.
    pub page: Place,
    /// The page has moved units.
    pub slot_map: bool,
}

#[derive(Clone, Debug)]
struct Loaded {
    segment: Segment,
    bytes: u64,
    used: u64,
}

/// A retained checkpoint.
#[derive(Clone, Debug)]
pub struct Retained {
    /// What is known of it; `deferred`, `rows` and `units` as of the last checkpoint written.
    pub row: HistoryRow,
    /// Units that died while it was the newest.
    pub deferred: Stack<DeferredRange>,
    /// Units in it.
    pub units: u64,
}

/// Nodes of the queue that could not be read.
#[derive(Clone, Debug, Default)]
struct Unreadable {
    rows: Vec<Reference>,
    /// Pages of the first of them, each with its number of rows; the last one is the first of the chain.
    pages: Vec<(Place, usize)>,
}

/// Units of system pages in use, by container.
#[derive(Clone, Debug, Default)]
pub struct PageUse(BTreeMap<u32, u32>);

impl PageUse {
    /// A page was written.
    pub fn add(&mut self, place: Place) {
        if !place.is_none() {
            *self.0.entry(place.container).or_default() += place.stored_bytes.div_ceil(UNIT);
        }
    }
    /// A page is of no use any more, once the next checkpoint is published.
    pub fn sub(&mut self, place: Place) {
        if let Some(units) = self.0.get_mut(&place.container).filter(|_| !place.is_none()) {
            *units = units.saturating_sub(place.stored_bytes.div_ceil(UNIT));
            if *units == 0 {
                self.0.remove(&place.container);
            }
        }
    }
    /// Units in use in a container.
    #[must_use]
    pub fn of(&self, container: u32) -> u32 {
        self.0.get(&container).copied().unwrap_or(0)
    }
    /// Units in use.
    #[must_use]
    pub fn units(&self) -> u64 {
        self.0.values().map(|units| u64::from(*units)).sum()
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct State {
    table: BTreeMap<u32, TableRow>,
    loaded: IdMap<u32, Loaded>,
    dirty: BTreeSet<u32>,
    containers: Vec<u32>,
    /// System pages.
    pub pages: PageUse,
    /// Index of segments without a home.
    pub orphans: Orphans,
    maybe_empty: BTreeSet<u32>,
    queue: Stack<Reference>,
    unreadable: Unreadable,
    history: Vec<Retained>,
    /// Pages of the list of [`State::history`], first page last.
    history_pages: Vec<Place>,
    history_rows: Vec<HistoryRow>,
    live_units: u64,
    deferred_units: u64,
    shared_objects: u64,
    loaded_bytes: u64,
    loaded_peak: u64,
    clock: u64,
    buried: Buried,
}

/// Places of moved units that died, until [`State::take_buried`]: a reader that pinned them looks for them there.
#[derive(Clone, Debug, Default)]
struct Buried {
    /// Segment, slot, place.
    fragments: Vec<(u32, u32, Fragment)>,
    /// Most that are remembered between two calls of [`State::take_buried`]; nothing at all, unless somebody takes them.
    max: Option<usize>,
    /// Some were left out.
    is_short: bool,
}

impl Buried {
    fn add(&mut self, segment: u32, slot: u32, fragment: Fragment) {
        let Some(max) = self.max else { return };
        if self.fragments.len() < max {
            self.fragments.push((segment, slot, fragment));
        } else {
            self.is_short = true;
        }
    }
}

impl State {
    /// Nothing lives in so many containers.
    #[must_use]
    pub fn new(containers: u32) -> Self {
        Self { containers: vec![0; containers as usize], ..Self::default() }
    }

    /// As a directory says of so many containers; those behind the last row are free. Lists are loaded by [`Pager::lists`].
    #[must_use]
    pub fn of_table(entry: &VolumeEntry, rows: &[ContainerRow], containers: u32) -> Self {
        let totals = &entry.totals;
        let system = |row: &ContainerRow| row.state == ContainerState::System;
        let pages = (0_u32..).zip(rows).filter(|(_, row)| system(row) && row.live_units > 0);
        // Made from sorted rows at once, which costs a tenth of adding them one by one.
        let mut segments: Vec<(u32, TableRow)> = (0_u32..)
            .zip(rows)
            .filter(|(_, row)| !row.metadata.is_none())
            .map(|(number, row)| {
                let slot_map = row.flags & ContainerRow::SLOT_MAP != 0;
                (row.segment, TableRow { home: Some(number), page: row.metadata, slot_map })
            })
            .collect();
        let mut live: Vec<u32> = rows.iter().map(|row| if system(row) { 0 } else { row.live_units }).collect();
        live.resize(containers as usize, 0);
        segments.sort_unstable_by_key(|(segment, row)| (*segment, row.home));
        Self {
            queue: Stack::at(entry.drop_queue, totals.drop_queue_objects),
            live_units: totals.live_units,
            deferred_units: totals.deferred_units,
            shared_objects: totals.shared_objects,
            table: segments.into_iter().collect(),
            containers: live,
            pages: PageUse(pages.map(|(number, row)| (number, row.live_units)).collect()),
            ..Self::default()
        }
    }

    /// Segments without a home, of one page of their list.
    pub fn load_orphans(&mut self, first: u32, page: Place, rows: &[OrphanedSegment]) {
        self.orphans.load(first, page);
        for row in rows {
            self.table.insert(row.segment, TableRow { home: None, page: row.page, slot_map: true });
        }
    }

    /// Retained checkpoints, ascending, and the pages of their list.
    pub fn load_history(&mut self, rows: &[HistoryRow], pages: Vec<Place>) {
        let retained =
            |row: &HistoryRow| Retained { row: *row, deferred: Stack::at(row.deferred, row.rows), units: row.units };
        self.history = rows.iter().map(retained).collect();
        self.history_pages = pages;
        self.history_rows = rows.to_vec();
    }

    /// One more page of nodes that could not be read, the oldest first.
    pub fn load_unreadable(&mut self, rows: &[Reference], page: Place) {
        self.unreadable.rows.extend(rows);
        self.unreadable.pages.push((page, rows.len()));
    }

    /// A segment was opened in a container.
    pub fn open_segment(&mut self, number: u32, container: u32) {
        self.table.entry(number).or_default().home = Some(container);
        if self.table.get(&number).is_some_and(|row| row.page.is_none()) && !self.loaded.contains_key(&number) {
            self.insert_loaded(number, Segment::default());
        }
        self.dirty.insert(number);
    }

    /// Where the page of a segment is to be read; nothing if it is in memory, or nobody knows the segment.
    #[must_use]
    pub fn place_wanted(&self, number: u32) -> Option<Place> {
        self.table.get(&number).filter(|_| !self.loaded.contains_key(&number)).map(|row| row.page)
    }

    /// A page was read.
    pub fn load(&mut self, page: &SegmentPage) {
        if self.table.contains_key(&page.segment) && !self.loaded.contains_key(&page.segment) {
            self.insert_loaded(page.segment, Segment::of_page(page));
        }
    }

    fn insert_loaded(&mut self, number: u32, segment: Segment) {
        self.clock += 1;
        let bytes = segment.memory();
        self.loaded_bytes += bytes;
        self.loaded_peak = self.loaded_peak.max(self.loaded_bytes);
        self.loaded.insert(number, Loaded { segment, bytes, used: self.clock });
    }

    /// Pages that have to be read before these segments can be looked at.
    #[must_use]
    pub fn missing(&mut self, wanted: &BTreeSet<u32>) -> Vec<(u32, Place)> {
        self.clock += 1;
        let mut missing = Vec::new();
        for number in wanted {
            if let Some(loaded) = self.loaded.get_mut(number) {
                loaded.used = self.clock;
            } else if let Some(row) = self.table.get(number) {
                missing.push((*number, row.page));
            }
        }
        missing
    }

    /// Bytes of memory in pages, about.
    #[must_use]
    pub const fn loaded_bytes(&self) -> u64 {
        self.loaded_bytes
    }

    /// These segments were changed: they may take more than when they were read.
    pub fn measure(&mut self, numbers: impl IntoIterator<Item = u32>) {
        for number in numbers {
            if let Some(loaded) = self.loaded.get_mut(&number) {
                let bytes = loaded.segment.memory();
                self.loaded_bytes = self.loaded_bytes + bytes - loaded.bytes;
                loaded.bytes = bytes;
            }
        }
        self.loaded_peak = self.loaded_peak.max(self.loaded_bytes);
    }

    /// How many of these segments, at least one, come with so many bytes more of pages.
    #[must_use]
    pub fn part_within(&self, numbers: &[u32], bytes_max: u64) -> usize {
        let mut bytes = 0;
        let fits = numbers.iter().take_while(|number| {
            let page = self.table.get(number).filter(|_| !self.loaded.contains_key(number));
            bytes += page.map_or(0, |row| segment::memory_of_page(row.page.stored_bytes.into()));
            bytes <= bytes_max
        });
        fits.count().clamp(1, numbers.len().max(1))
    }

    /// The most that [`State::loaded_bytes`] has been.
    #[must_use]
    pub const fn loaded_peak(&self) -> u64 {
        self.loaded_peak
    }

    /// Forgets the pages used longest ago until at most so many bytes are held; those that are not written yet stay.
    pub fn trim(&mut self, bytes_max: u64) {
        if self.loaded_bytes <= bytes_max || sabotage::on(Rule::PagesKept) {
            return;
        }
        let mut clean: Vec<(u64, u32)> = self
            .loaded
            .iter()
            .filter(|(number, _)| !self.dirty.contains(number))
            .map(|(number, loaded)| (loaded.used, *number))
            .collect();
        clean.sort_unstable();
        for (_, number) in clean {
            if self.loaded_bytes <= bytes_max / 4 * 3 {
                break;
            }
            if let Some(loaded) = self.loaded.remove(&number) {
                self.loaded_bytes -= loaded.bytes;
            }
        }
    }

    /// Bytes that the pages of changed segments take at most, when they are written.
    #[must_use]
    pub fn dirty_page_bytes(&self) -> u64 {
        let loaded = self.dirty.iter().filter_map(|number| self.loaded.get(number));
        loaded.map(|loaded| loaded.segment.page_bytes_max()).sum()
    }

    /// Segments that changed since their page was written.
    #[must_use]
    pub const fn dirty(&self) -> &BTreeSet<u32> {
        &self.dirty
    }

    /// The page of a segment as it is now; only of a loaded one.
    #[must_use]
    pub fn page(&self, number: u32) -> Option<SegmentPage> {
        Some(self.segment(number)?.page(number))
    }

    /// The page of a segment was written.
    pub fn written(&mut self, number: u32, place: Place) {
        let slot_map = self.segment(number).map(|segment| !segment.moved.is_empty());
        let Some(row) = self.table.get_mut(&number) else { return };
        self.pages.sub(row.page);
        self.pages.add(place);
        row.page = place;
        row.slot_map = slot_map.unwrap_or(row.slot_map);
        if row.home.is_none() {
            self.orphans.touch(number);
        }
        self.dirty.remove(&number);
        self.measure([number]);
    }

    /// The container is used for something else from now on. It must not hold a live unit. `segment`: the one that had its home here; its page is loaded.
    pub fn release(&mut self, container: u32, segment: u32) {
        assert_eq!(self.live_in(container), 0, "INV-13: container {container} still holds live units");
        let row = self.table.get_mut(&segment).filter(|row| row.home == Some(container));
        if let Some(row) = row {
            row.home = None;
            self.orphans.touch(segment);
            self.maybe_empty.insert(segment);
        }
    }

    /// Forgets segments that have neither a home nor a live unit; returns their numbers. To be called before their pages are trimmed.
    pub fn forget_empty(&mut self) -> Vec<u32> {
        let mut gone = Vec::new();
        for number in std::mem::take(&mut self.maybe_empty) {
            debug_assert!(self.loaded.contains_key(&number) || !self.table.contains_key(&number), "{number}: trimmed");
            let homeless = self.table.get(&number).is_some_and(|row| row.home.is_none());
            let empty = self.loaded.get(&number).is_some_and(|loaded| loaded.segment.live.is_empty());
            if !(homeless && empty) {
                continue;
            }
            if let Some(row) = self.table.remove(&number) {
                self.pages.sub(row.page);
            }
            if let Some(loaded) = self.loaded.remove(&number) {
                self.loaded_bytes -= loaded.bytes;
                self.shared_objects -= loaded.segment.shared();
                loaded.segment.moved.iter().for_each(|(slot, fragment)| self.buried.add(number, *slot, *fragment));
            }
            self.dirty.remove(&number);
            self.orphans.touch(number);
            gone.push(number);
        }
        gone
    }

    /// From now on places of moved units that died are remembered, so many at most.
    pub fn remember_buried(&mut self, max: usize) {
        self.buried = Buried { max: Some(max), ..Buried::default() };
    }

    /// Places of moved units that died since the last call: segment, slot, place. And whether these are all.
    pub fn take_buried(&mut self) -> (Vec<(u32, u32, Fragment)>, bool) {
        (std::mem::take(&mut self.buried.fragments), !std::mem::take(&mut self.buried.is_short))
    }

    /// Every segment that holds something.
    #[must_use]
    pub const fn table(&self) -> &BTreeMap<u32, TableRow> {
        &self.table
    }

    /// A segment whose page is in memory.
    #[must_use]
    pub fn segment(&self, number: u32) -> Option<&Segment> {
        self.loaded.get(&number).map(|loaded| &loaded.segment)
    }

    /// Where a range of units of a segment lies; see [`locate`]. Nothing if its page is not in memory.
    #[must_use]
    pub fn locate(&self, number: u32, range: &Range<u32>) -> Vec<(Option<u32>, u32, u32)> {
        let home = self.table.get(&number).and_then(|row| row.home);
        self.segment(number).map(|segment| locate(home, &segment.moved, range)).unwrap_or_default()
    }

    /// Live units that lie in a container, deferred ones included.
    #[must_use]
    pub fn live_in(&self, container: u32) -> u32 {
        self.containers.get(container as usize).copied().unwrap_or(0)
    }

    /// Live units, deferred ones included.
    #[must_use]
    pub const fn live_units(&self) -> u64 {
        self.live_units
    }

    /// Units that only retained checkpoints need.
    #[must_use]
    pub const fn deferred_units(&self) -> u64 {
        self.deferred_units
    }

    /// The drop queue.
    #[must_use]
    pub const fn queue(&self) -> &Stack<Reference> {
        &self.queue
    }

    /// The drop queue, to load and write it.
    pub const fn queue_mut(&mut self) -> &mut Stack<Reference> {
        &mut self.queue
    }

    /// Nodes of the drop queue that could not be read.
    #[must_use]
    pub fn unreadable(&self) -> &[Reference] {
        &self.unreadable.rows
    }

    /// Retained checkpoints and those being dropped, ascending.
    #[must_use]
    pub fn history(&self) -> &[Retained] {
        &self.history
    }

    /// First page of the list of retained checkpoints.
    #[must_use]
    pub fn history_page(&self) -> Place {
        self.history_pages.last().copied().unwrap_or(Place::NONE)
    }

    /// First page of the list of unreadable nodes.
    #[must_use]
    pub fn unreadable_page(&self) -> Place {
        self.unreadable.pages.last().map_or(Place::NONE, |(place, _)| *place)
    }

    /// A retained checkpoint, to load its units.
    pub fn history_of(&mut self, checkpoint: u64) -> Option<&mut Retained> {
        self.history.iter_mut().find(|retained| retained.row.checkpoint == checkpoint)
    }

    /// Whether a dropped checkpoint waits to be freed.
    #[must_use]
    pub fn is_releasing(&self) -> bool {
        self.history.first().is_some_and(|retained| retained.row.state == HistoryState::Releasing)
    }

    /// The newest checkpoint that defers what dies now.
    #[must_use]
    pub fn newest_retained(&self) -> Option<&Retained> {
        self.history.last().filter(|retained| retained.row.state == HistoryState::Retained)
    }

    /// Objects that have more than one reference.
    #[must_use]
    pub const fn shared_objects(&self) -> u64 {
        self.shared_objects
    }

    /// References to an object that is stored and live; its segment must be loaded. For tests and checks.
    #[must_use]
    pub fn references(&self, oid: Oid) -> i64 {
        self.segment(oid.segment())
            .map_or(0, |segment| 1 + i64::from(segment.extra.get(&oid.slot()).copied().unwrap_or(0)))
    }
}

/// The slots that an object takes in its birth segment.
#[must_use]
pub fn units_of(oid: Oid, units: u32) -> Range<u32> {
    let start = u32::from(oid.slot());
    start..start + units
}

#[cfg(test)]
mod tests;
