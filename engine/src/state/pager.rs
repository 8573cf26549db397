//! Reads the pages that a step needs before it runs, outside the state's lock.
//!
//! Only the holder of the checkpoint (or recovery) changes and trims the state, so what it loaded stays until it uses it. Others (cleaner, mark, checks) may find that what they loaded is
//! gone again. A page that was read while a publication wrote a newer one is not taken: the place it was read from is not the segment's any more.

use super::{Row, Stack, State};
use crate::StoreError;
use crate::sabotage::{self, Rule};
use crate::space::Reader;
use crate::store::Result;
use crate::sync::Mutex;
use envoyfs_layout::directory_page::{Place, VolumeEntry};
use envoyfs_layout::system_page::{HistoryRow, ListPage, SegmentPage};
use envoyfs_layout::{LayoutError, Reference};
use std::collections::BTreeSet;

/// See the module.
#[derive(Clone, Copy)]
pub struct Pager<'a> {
    /// The state.
    pub state: &'a Mutex<State>,
    /// Where pages are read.
    pub reader: &'a Reader,
}

impl Pager<'_> {
    /// Brings the pages of these segments into memory; segments that nobody knows are passed over.
    ///
    /// # Errors
    /// A page cannot be read or is not what it should be: names the segment and the place.
    pub fn load(&self, wanted: &BTreeSet<u32>) -> Result<()> {
        let mut missing = self.state.lock().missing(wanted);
        missing.reverse();
        while let Some((number, place)) = missing.pop() {
            let page = if place.is_none() {
                Ok(SegmentPage { segment: number, ..SegmentPage::default() })
            } else {
                segment_page(self.reader, number, &place)
            };
            let mut state = self.state.lock();
            match (state.place_wanted(number), page) {
                // Read, changed, or written elsewhere meanwhile: what was read is not the segment's page any more, and need not even be one.
                (Some(now), _) if now != place && !sabotage::on(Rule::StalePageTaken) => missing.push((number, now)),
                (Some(_), page) => state.load(&page?),
                (None, _) => {}
            }
        }
        Ok(())
    }

    /// Reads the lists that a directory names: segments without a home, retained checkpoints, unreadable nodes.
    pub fn lists(&self, entry: &VolumeEntry) -> Result<()> {
        let mut index = Vec::new();
        for (place, page) in self.chain(entry.orphaned_segments)? {
            index.push(place);
            let ListPage::OrphanIndex(parts) = page else { return Err(self.wrong(&place)) };
            for part in parts {
                let (page, _) = list(self.reader, &part.page)?;
                let ListPage::OrphanedSegments(rows) = page else { return Err(self.wrong(&part.page)) };
                self.state.lock().load_orphans(part.segment, part.page, &rows);
            }
        }
        index.reverse();
        let mut history: (Vec<HistoryRow>, Vec<Place>) = Default::default();
        for (place, page) in self.chain(entry.history)? {
            let ListPage::History(rows) = page else { return Err(self.wrong(&place)) };
            history.0.extend(rows);
            history.1.push(place);
        }
        history.1.reverse();
        let mut unreadable: Vec<(Vec<Reference>, Place)> = Vec::new();
        for (place, page) in self.chain(entry.unreadable)? {
            let ListPage::Unreadable(rows) = page else { return Err(self.wrong(&place)) };
            unreadable.push((rows, place));
        }
        let mut state = self.state.lock();
        state.orphans.set_index(index);
        state.load_history(&history.0, history.1);
        unreadable.iter().rev().for_each(|(rows, place)| state.load_unreadable(rows, *place));
        Ok(())
    }

    fn chain(&self, first: Place) -> Result<Vec<(Place, ListPage)>> {
        let (mut pages, mut seen) = (Vec::new(), BTreeSet::new());
        let mut place = first;
        while !place.is_none() {
            let (page, next) = list_once(self.reader, &place, &mut seen)?;
            pages.push((place, page));
            place = next;
        }
        Ok(pages)
    }

    fn wrong(&self, place: &Place) -> StoreError {
        let offset = self.reader.shape().offset(place.container, place.units);
        let source = LayoutError::Field { structure: "list page", field: "list", found: 0 };
        StoreError::Structure { structure: "list page", offset, source }
    }

    /// Brings the top of a stack into memory.
    pub fn load_top<T: Row>(&self, stack: impl Fn(&mut State) -> Option<&mut Stack<T>>) -> Result<()> {
        let missing = stack(&mut self.state.lock()).and_then(|stack| stack.missing());
        let Some(place) = missing else { return Ok(()) };
        let (page, next) = list(self.reader, &place)?;
        let rows = T::of_page(page).ok_or_else(|| self.wrong(&place))?;
        if let Some(stack) = stack(&mut self.state.lock()) {
            stack.loaded(place, rows, next);
        }
        Ok(())
    }

    /// Brings the top of the drop queue into memory.
    pub fn load_queue(&self) -> Result<()> {
        self.load_top(|state| Some(state.queue_mut()))
    }

    /// Brings the newest deferred units of a retained checkpoint, and the segment of the very last, into memory.
    pub fn load_release(&self, checkpoint: u64) -> Result<()> {
        self.load_top(|state| state.history_of(checkpoint).map(|retained| &mut retained.deferred))?;
        let row = self.state.lock().next_release(checkpoint);
        row.map_or(Ok(()), |row| self.load(&BTreeSet::from([row.segment])))
    }
}

/// A segment's page, verified.
pub fn segment_page(reader: &Reader, segment: u32, place: &Place) -> Result<SegmentPage> {
    let offset = reader.shape().offset(place.container, place.units);
    let wrong = |source| StoreError::Structure { structure: "segment page", offset, source };
    let read = reader.page(place, "segment page").and_then(|bytes| SegmentPage::decode(&bytes).map_err(wrong));
    let read = read.and_then(|page| {
        let found = u64::from(page.segment);
        let other = LayoutError::Field { structure: "segment page", field: "segment", found };
        if page.segment == segment { Ok(page) } else { Err(wrong(other)) }
    });
    read.map_err(|error| StoreError::SegmentPage {
        segment,
        container: place.container,
        unit: place.units,
        source: Box::new(error),
    })
}

/// As [`list`], of a chain of pages whose places are collected in `seen`.
///
/// # Errors
/// Those of [`list`]; the chain comes back to a page that it has.
pub fn list_once(reader: &Reader, place: &Place, seen: &mut BTreeSet<(u32, u32)>) -> Result<(ListPage, Place)> {
    if !seen.insert((place.container, place.units)) {
        let offset = reader.shape().offset(place.container, place.units);
        let source = LayoutError::Field { structure: "list page", field: "next page", found: offset };
        return Err(StoreError::Structure { structure: "list page", offset, source });
    }
    list(reader, place)
}

/// A page of a list, and the next one's place.
pub fn list(reader: &Reader, place: &Place) -> Result<(ListPage, Place)> {
    let bytes = reader.page(place, "list page")?;
    let offset = reader.shape().offset(place.container, place.units);
    ListPage::decode(&bytes).map_err(|source| StoreError::Structure { structure: "list page", offset, source })
}
