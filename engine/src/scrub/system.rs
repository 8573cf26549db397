//! What a pass verifies beside objects: superblocks, both copies of the volume directory and its table, lists, and the pages of segments. Most of them exist once; one that does not
//! verify fails the next checkpoint that needs it, so it is told before.

use super::{ScrubFinding, Scrubbing};
use crate::StoreError;
use crate::engine::Engine;
use crate::sabotage::{self, Rule};
use crate::state::pager::{list_once, segment_page};
use crate::store::Result;
use crate::superblock::damaged_copies;
use envoyfs_layout::directory_page::{Place, VolumeEntry};
use envoyfs_layout::system_page::ListPage;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// Found anywhere but in a container.
fn nowhere(what: String) -> ScrubFinding {
    ScrubFinding { container: None, unit: 0, object: None, owner: 0, what }
}

fn at(place: &Place, error: &StoreError) -> ScrubFinding {
    ScrubFinding {
        container: Some(place.container),
        unit: place.units,
        object: None,
        owner: 0,
        what: error.to_string(),
    }
}

impl Engine {
    /// What a mount starts from, as the last publication left it; the next one waits meanwhile. Nothing of a poisoned store, which may have ended in the middle of one.
    pub(super) fn scrub_roots(&self) -> Result<Vec<ScrubFinding>> {
        if self.writer.as_ref().is_some_and(|writer| writer.wal.poisoned().is_some()) {
            return Ok(Vec::new());
        }
        let (damaged, entry) = self.look_again(|| damaged_copies(&*self.device))?;
        let mut found: Vec<ScrubFinding> = damaged.into_iter().map(nowhere).collect();
        if entry.is_some_and(|entry| self.scrub_lists(&entry).is_some()) {
            // A publication may have written them elsewhere meanwhile.
            let again = self.look_again(|| self.scrub_lists(&damaged_copies(&*self.device).1?))?;
            found.extend(again);
        }
        self.metrics.scrub.damaged.add(found.len() as u64);
        Ok(found)
    }

    /// The first page of the lists that does not verify: what it leads to cannot be found either.
    fn scrub_lists(&self, entry: &VolumeEntry) -> Option<ScrubFinding> {
        let _reading = self.reader.readers.enter();
        let mut places = vec![entry.drop_queue, entry.orphaned_segments, entry.history, entry.unreadable];
        let mut seen = BTreeSet::new();
        while let Some(place) = places.pop() {
            if place.is_none() {
                continue;
            }
            match list_once(&self.reader, &place, &mut seen) {
                Ok((page, next)) => {
                    places.push(next);
                    match page {
                        ListPage::OrphanIndex(parts) => places.extend(parts.iter().map(|part| part.page)),
                        ListPage::History(rows) => places.extend(rows.iter().map(|row| row.deferred)),
                        _ => {}
                    }
                }
                Err(error) => return Some(at(&place, &error)),
            }
        }
        None
    }

    /// The pages of segments that lie in a container.
    pub(super) fn scrub_pages(&self, container: u32, pass: &mut Scrubbing<'_>) -> Result<ControlFlow<()>> {
        if pass.places.is_empty() {
            let state = self.state.lock();
            pass.places = state.table().iter().map(|(number, row)| (row.page.container, *number)).collect();
            pass.places.sort_unstable();
        }
        let first = pass.places.partition_point(|(of, _)| *of < container);
        let here = pass.places.get(first..).unwrap_or_default().iter().take_while(|(of, _)| *of == container);
        let numbers: Vec<u32> = here.map(|(_, number)| *number).collect();
        for number in numbers {
            let Some((place, result)) = self.scrub_page(number) else { continue };
            if result.is_err() && !sabotage::on(Rule::ScrubIgnoresPage) {
                // It may have been written elsewhere, and its place used again.
                if let Some((place, Err(error))) = self.look_again(|| self.scrub_page(number))? {
                    self.metrics.scrub.damaged.increment();
                    pass.tell([at(&place, &error)]);
                }
            }
            if pass.verified(place.stored_bytes).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn scrub_page(&self, number: u32) -> Option<(Place, Result<()>)> {
        // The page that is looked up is not reused before it was read.
        let _reading = self.reader.readers.enter();
        let place = self.state.lock().table().get(&number)?.page;
        (!place.is_none()).then(|| (place, segment_page(&self.reader, number, &place).map(drop)))
    }
}
