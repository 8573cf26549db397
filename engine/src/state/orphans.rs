//! The index of segments without a home: which pages of their list have to be written again. The rows themselves are in the state's table.

use envoyfs_layout::directory_page::Place;
use std::collections::BTreeMap;
use std::ops::Range;

/// Rows of one page of the list: what changes with one segment.
pub const PAGE_ROWS: usize = 256;

#[derive(Clone, Copy, Debug)]
struct Chunk {
    page: Place,
    dirty: bool,
}

/// Pages of the list by the lowest number that belongs in them, and the pages of the index.
#[derive(Clone, Debug, Default)]
pub struct Orphans {
    chunks: BTreeMap<u32, Chunk>,
    index: Vec<Place>,
    index_dirty: bool,
}

impl Orphans {
    pub(super) fn load(&mut self, first: u32, page: Place) {
        self.chunks.insert(first, Chunk { page, dirty: false });
    }

    /// Pages of the index, first page last.
    pub fn set_index(&mut self, pages: Vec<Place>) {
        self.index = pages;
        self.index_dirty = false;
    }

    pub(super) fn touch(&mut self, segment: u32) {
        self.index_dirty = true;
        match self.chunks.range_mut(..=segment).next_back() {
            Some((_, chunk)) => chunk.dirty = true,
            None => {
                self.chunks.insert(0, Chunk { page: Place::NONE, dirty: true });
            }
        }
    }

    /// What lies in these containers is written again.
    pub fn touch_containers(&mut self, wanted: impl Fn(u32) -> bool) {
        for chunk in self.chunks.values_mut().filter(|chunk| wanted(chunk.page.container)) {
            chunk.dirty = true;
            self.index_dirty = true;
        }
        self.index_dirty |= self.index.iter().any(|place| wanted(place.container));
    }

    /// Ranges of segment numbers whose page has to be written, and that page.
    #[must_use]
    pub fn due(&self) -> Vec<(Range<u32>, Place)> {
        let ends = self.chunks.keys().skip(1).copied().chain([u32::MAX]);
        let all = self.chunks.iter().zip(ends);
        all.filter(|((_, chunk), _)| chunk.dirty).map(|((first, chunk), end)| (*first..end, chunk.page)).collect()
    }

    /// A range is in these pages now.
    pub fn replace(&mut self, range: &Range<u32>, pages: Vec<(u32, Place)>) {
        self.chunks.remove(&range.start);
        self.chunks.extend(pages.into_iter().map(|(first, page)| (first, Chunk { page, dirty: false })));
    }

    /// Pages by lowest number.
    pub fn pages(&self) -> impl Iterator<Item = (u32, Place)> + '_ {
        self.chunks.iter().map(|(first, chunk)| (*first, chunk.page))
    }

    /// Whether the index has to be written.
    #[must_use]
    pub const fn is_index_dirty(&self) -> bool {
        self.index_dirty
    }

    /// Pages of the index, first page last.
    #[must_use]
    pub fn index(&self) -> &[Place] {
        &self.index
    }
}
