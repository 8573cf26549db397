//! A stack of rows in system pages: pushed and popped at its top only, so that a checkpoint writes what changed there and nothing below.
//!
//! ```text
//! top: rows in memory  ->  head: page that holds just these, if they did not change  ->  below: chain of whole pages
//! ```
//! Memory: at most two pages of rows after a checkpoint, whatever the length. Pages are written to fresh places; the old ones count as used until the next publication.

use envoyfs_layout::Reference;
use envoyfs_layout::directory_page::Place;
use envoyfs_layout::system_page::{DeferredRange, ListPage};

/// What can be stacked.
pub trait Row: Copy {
    /// Rows of a page.
    const PAGE_ROWS: usize;
    /// The page.
    fn page(rows: Vec<Self>) -> ListPage;
    /// Its rows, if it is of this list.
    fn of_page(page: ListPage) -> Option<Vec<Self>>;
}

impl Row for Reference {
    const PAGE_ROWS: usize = 1024;
    fn page(rows: Vec<Self>) -> ListPage {
        ListPage::DropQueue(rows)
    }
    fn of_page(page: ListPage) -> Option<Vec<Self>> {
        if let ListPage::DropQueue(rows) = page { Some(rows) } else { None }
    }
}

impl Row for DeferredRange {
    const PAGE_ROWS: usize = 4096;
    fn page(rows: Vec<Self>) -> ListPage {
        ListPage::Deferred(rows)
    }
    fn of_page(page: ListPage) -> Option<Vec<Self>> {
        if let ListPage::Deferred(rows) = page { Some(rows) } else { None }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Stack<T> {
    rows: Vec<T>,
    head: Place,
    below: Place,
    len: u64,
}

impl<T> Default for Stack<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), head: Place::NONE, below: Place::NONE, len: 0 }
    }
}

impl<T: Row> Stack<T> {
    /// As a directory names it: `len` rows, the newest page at `head`. Nothing is read.
    #[must_use]
    pub const fn at(head: Place, len: u64) -> Self {
        Self { rows: Vec::new(), head: Place::NONE, below: head, len }
    }

    /// Rows in it.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Is nothing in it?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its newest page, once [`Stack::write`] has run.
    #[must_use]
    pub const fn place(&self) -> Place {
        if self.head.is_none() { self.below } else { self.head }
    }

    /// The page that has to be read before the top can be seen.
    #[must_use]
    pub fn missing(&self) -> Option<Place> {
        (self.rows.is_empty() && !self.below.is_none()).then_some(self.below)
    }

    /// That page was read. It stays the head until the rows change.
    pub fn loaded(&mut self, place: Place, rows: Vec<T>, next: Place) {
        if self.missing() == Some(place) {
            self.rows = rows;
            self.head = place;
            self.below = next;
        }
    }

    /// Rows in memory, the top last.
    #[must_use]
    pub fn top(&self) -> &[T] {
        &self.rows
    }

    /// Pushes a row. Returns the page that is of no use any more.
    pub fn push(&mut self, row: T) -> Option<Place> {
        self.rows.push(row);
        self.len += 1;
        self.changed()
    }

    /// Pops a row; only what is in memory. Returns it, and the page that is of no use any more.
    pub fn pop(&mut self) -> Option<(T, Option<Place>)> {
        let row = self.rows.pop()?;
        self.len = self.len.saturating_sub(1);
        Some((row, self.changed()))
    }

    fn changed(&mut self) -> Option<Place> {
        let head = std::mem::replace(&mut self.head, Place::NONE);
        (!head.is_none()).then_some(head)
    }

    /// Writes what is not in a page. `keep`: the newest rows stay in memory.
    pub fn write<E>(&mut self, keep: bool, mut write: impl FnMut(Vec<u8>) -> Result<Place, E>) -> Result<(), E> {
        if self.head.is_none() && !self.rows.is_empty() {
            let mut from = 0;
            while self.rows.len() - from > 2 * T::PAGE_ROWS {
                let rows = self.rows.get(from..from + T::PAGE_ROWS).unwrap_or_default().to_vec();
                self.below = write(T::page(rows).encode(self.below))?;
                from += T::PAGE_ROWS;
            }
            self.rows.drain(..from);
            self.head = write(T::page(self.rows.clone()).encode(self.below))?;
        }
        if !keep && !self.head.is_none() {
            self.below = std::mem::replace(&mut self.head, Place::NONE);
            self.rows = Vec::new();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    fn row(n: u32) -> DeferredRange {
        DeferredRange { segment: n, slot: 0, units: 1 }
    }

    #[test]
    fn a_paged_stack_is_a_stack_and_writes_only_its_top() {
        let mut disk: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        let mut stack = Stack::<DeferredRange>::default();
        let mut oracle = Vec::new();
        let (mut seed, mut used, mut number) = (7_u64, 0_i64, 0);
        for round in 0..400 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let count = (seed >> 40) % 3000;
            for _ in 0..count {
                if seed >> 63 == 0 {
                    number += 1;
                    used -= i64::from(stack.push(row(number)).is_some());
                    oracle.push(number);
                } else {
                    while let Some(place) = stack.missing() {
                        let (page, next) = ListPage::decode(&disk[&place.units]).unwrap();
                        stack.loaded(place, DeferredRange::of_page(page).unwrap(), next);
                    }
                    let popped = stack.pop();
                    used -= i64::from(popped.is_some_and(|(_, freed)| freed.is_some()));
                    assert_eq!(popped.map(|(row, _)| row.segment), oracle.pop());
                }
            }
            assert_eq!(stack.len(), oracle.len() as u64);
            let mut written = 0;
            stack
                .write(round % 3 > 0, |bytes| {
                    written += bytes.len();
                    used += 1;
                    let units = u32::try_from(disk.len()).unwrap() + 1;
                    let stored_bytes = u32::try_from(bytes.len()).unwrap();
                    disk.insert(units, bytes);
                    Ok::<_, Infallible>(Place { container: 1, units, stored_bytes, crc: 0 })
                })
                .unwrap();
            assert!(written <= 8 * (usize::try_from(count).unwrap() + 3 * DeferredRange::PAGE_ROWS));
            assert!(stack.top().len() <= 2 * DeferredRange::PAGE_ROWS);
            if round % 7 == 0 {
                stack = Stack::at(stack.place(), stack.len());
            }
            let (mut chain, mut place) = (0, stack.place());
            while !place.is_none() {
                chain += 1;
                place = ListPage::decode(&disk[&place.units]).unwrap().1;
            }
            assert_eq!(used, chain, "pages counted as used");
        }
    }
}
