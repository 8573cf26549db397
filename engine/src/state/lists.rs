//! Writing the lists: tops of the stacks, retained checkpoints, unreadable nodes.

use super::State;
use crate::sabotage::{self, Rule};
use envoyfs_layout::directory_page::Place;
use envoyfs_layout::system_page::{HistoryRow, HistoryState, ListPage};
use std::collections::BTreeSet;

/// Rows of one page of retained checkpoints.
const HISTORY_ROWS: usize = 256;

impl State {
    /// Writes what changed, or lies in a container to be emptied (pages of stacks stay: they are consumed before long). Dropped checkpoints that defer nothing any more are
    /// forgotten. `write` puts a page somewhere.
    pub fn write_lists<E>(
        &mut self,
        sparse: &BTreeSet<u32>,
        mut write: impl FnMut(Vec<u8>) -> Result<Place, E>,
    ) -> Result<(), E> {
        let pages = &mut self.pages;
        let mut write = |bytes: Vec<u8>| {
            let place = write(bytes)?;
            pages.add(place);
            Ok(place)
        };
        self.queue.write(true, &mut write)?;
        self.history.retain(|retained| retained.row.state == HistoryState::Retained || !retained.deferred.is_empty());
        for retained in &mut self.history {
            retained.deferred.write(false, &mut write)?;
            retained.row.deferred = retained.deferred.place();
            retained.row.rows = retained.deferred.len();
            retained.row.units = retained.units;
        }
        let mut rows: Vec<HistoryRow> = self.history.iter().map(|retained| retained.row).collect();
        if sabotage::on(Rule::RetainedLeftOut) {
            rows.pop();
        }
        let mut old = Vec::new();
        if rows != self.history_rows || self.history_pages.iter().any(|place| sparse.contains(&place.container)) {
            old = std::mem::take(&mut self.history_pages);
            let mut next = Place::NONE;
            for part in rows.rchunks(HISTORY_ROWS) {
                next = write(ListPage::History(part.to_vec()).encode(next))?;
                self.history_pages.push(next);
            }
            self.history_rows = rows;
        }
        let (unreadable, place) = &mut self.unreadable;
        if !unreadable.is_empty() && (place.is_none() || sparse.contains(&place.container)) {
            old.push(*place);
            *place = write(ListPage::Unreadable(unreadable.clone()).encode(Place::NONE))?;
        }
        old.into_iter().for_each(|place| self.pages.sub(place));
        Ok(())
    }
}
