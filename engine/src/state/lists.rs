//! Writing the lists: tops of the stacks, retained checkpoints, unreadable nodes.

use super::State;
use crate::sabotage::{self, Rule};
use envoyfs_layout::directory_page::Place;
use envoyfs_layout::system_page::{HistoryRow, HistoryState, ListPage};
use std::collections::BTreeSet;

/// Rows of one page of retained checkpoints.
const HISTORY_ROWS: usize = 256;
/// Rows of one page of unreadable nodes.
pub(super) const UNREADABLE_ROWS: usize = 1024;

impl State {
    /// Writes what changed, or lies in a container to be emptied (pages of stacks stay: they are consumed before long). Dropped checkpoints that defer nothing any more are
    /// forgotten. `write_page` puts a page somewhere.
    pub fn write_lists<E>(
        &mut self,
        sparse: &BTreeSet<u32>,
        mut write_page: impl FnMut(Vec<u8>) -> Result<Place, E>,
    ) -> Result<(), E> {
        let pages = &mut self.pages;
        let mut write = |bytes: Vec<u8>| {
            let place = write_page(bytes)?;
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
        old.into_iter().for_each(|place| self.pages.sub(place));
        self.write_unreadable(sparse, write_page)
    }

    /// Pages of unreadable nodes are written anew from this one on.
    pub(super) fn forget_unreadable(&mut self, page: usize) {
        let kept = page.min(self.unreadable.pages.len());
        self.unreadable.pages.drain(kept..).for_each(|(place, _)| self.pages.sub(place));
    }

    /// Pages that are full stay as they are.
    fn write_unreadable<E>(
        &mut self,
        sparse: &BTreeSet<u32>,
        mut write: impl FnMut(Vec<u8>) -> Result<Place, E>,
    ) -> Result<(), E> {
        if let Some(at) = self.unreadable.pages.iter().position(|(place, _)| sparse.contains(&place.container)) {
            self.forget_unreadable(at);
        }
        let mut done: usize = self.unreadable.pages.iter().map(|(_, rows)| rows).sum();
        if done < self.unreadable.rows.len()
            && let Some((place, rows)) = self.unreadable.pages.pop_if(|(_, rows)| *rows < UNREADABLE_ROWS)
        {
            self.pages.sub(place);
            done -= rows;
        }
        let new = self.unreadable.rows.get(done..).unwrap_or_default();
        for part in new.chunks(UNREADABLE_ROWS) {
            let next = self.unreadable.pages.last().map_or(Place::NONE, |(place, _)| *place);
            let place = write(ListPage::Unreadable(part.to_vec()).encode(next))?;
            self.pages.add(place);
            self.unreadable.pages.push((place, part.len()));
        }
        Ok(())
    }
}
