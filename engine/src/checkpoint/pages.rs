//! Pages of the state: brought into memory when a batch needs them, written when they changed, to fresh places.
//!
//! Cost of a checkpoint: the pages of segments that it changed, the top of each stack, one page a 256 segments without a home that changed, and the segment table. Memory:
//! `segment_cache_bytes`, and what one part of a batch touches, which is half of that. If power fails: pages that no published directory names are garbage.

use crate::StoreError;
use crate::engine::Engine;
use crate::sabotage::{self, Rule};
use crate::space::{BACKGROUND_DEPTH, RowOf, Space, StreamKind};
use crate::state::{Pager, StateError, orphans, segments_of};
use crate::store::Result;
use envoyfs_layout::batch::{Batch, Drop};
use envoyfs_layout::checksum::crc32c;
use envoyfs_layout::directory_page::{ContainerState, Place};
use envoyfs_layout::system_page::{ListPage, OrphanedSegment};
use envoyfs_layout::{Hlc, Oid, ReferenceKind, UNIT};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// Rows of one page of the index of segments without a home.
const INDEX_ROWS: usize = 2048;

impl Engine {
    pub(crate) fn pager(&self) -> Pager<'_> {
        Pager { state: &self.state, reader: &self.reader }
    }

    /// Brings the pages of these segments into memory, where they stay until the end of the checkpoint under way, or are trimmed by the next one. Segments that nobody
    /// knows are passed over.
    ///
    /// # Errors
    /// [`StoreError::SegmentPage`]: a page cannot be read.
    pub fn load_segments(&self, wanted: &BTreeSet<u32>) -> Result<()> {
        self.pager().load(wanted)
    }

    /// The first of these segments whose pages are worked on at once: as many as fit into half of the memory for pages.
    pub(crate) fn part_of<'a>(&self, numbers: &'a [u32]) -> (&'a [u32], &'a [u32]) {
        let fits = self.state.lock().part_within(numbers, self.options.settings.page_part_bytes());
        numbers.split_at(fits.min(numbers.len()))
    }

    /// Everything of a batch but its drops, in parts of segments; pages that changed are written when there are too many to keep.
    /// Without `space` (a read-only mount) all of them are kept.
    pub(crate) fn apply_law(&self, space: Option<&Space>, batch: &Batch) -> Result<()> {
        self.open_segments(batch)?;
        let misuse = |error| StoreError::Misuse(format!("checkpoint {}: {error}", batch.checkpoint));
        let numbers: Vec<u32> = segments_of(batch).into_iter().collect();
        let mut rest = numbers.as_slice();
        while !rest.is_empty() {
            let part;
            (part, rest) = self.part_of(rest);
            let (Some(first), Some(last)) = (part.first(), part.last()) else { continue };
            self.load_segments(&part.iter().copied().collect())?;
            let one = part.len() == numbers.len();
            let rows = if one { None } else { Some(part_of(batch, &(*first..=*last))) };
            {
                let mut state = self.state.lock();
                state.apply_law(rows.as_ref().unwrap_or(batch)).map_err(misuse)?;
                state.measure(part.iter().copied());
            }
            space.map_or(Ok(0), |space| self.spill(space))?;
        }
        Ok(())
    }

    /// Works off one node of the drop queue, whose page is in memory. Its edges may name any number of segments: they are taken back in parts. Returns the bytes of pages that
    /// were written meanwhile.
    pub(crate) fn drop_node(
        &self,
        space: Option<&Space>,
        drop: &Drop,
        wrong: impl Fn(StateError) -> StoreError,
    ) -> Result<u64> {
        let mut written = 0;
        self.load_segments(&BTreeSet::from([drop.object.segment()]))?;
        self.state.lock().begin_drop(drop).map_err(&wrong)?;
        let mut rest = drop.edges.as_slice();
        while !rest.is_empty() {
            let part;
            (part, rest) = {
                let numbers: Vec<u32> = rest.iter().map(|edge| edge.oid.segment()).collect();
                rest.split_at(self.part_of(&numbers).0.len())
            };
            self.load_segments(&part.iter().map(|edge| edge.oid.segment()).collect())?;
            {
                let mut state = self.state.lock();
                state.drop_edges(part).map_err(&wrong)?;
                state.measure(part.iter().map(|edge| edge.oid.segment()));
            }
            if !rest.is_empty() {
                written += space.map_or(Ok(0), |space| self.spill(space))?;
            }
        }
        Ok(written)
    }

    /// Writes pages that changed before their time, if too many are held. Returns their bytes.
    pub(crate) fn spill(&self, space: &Space) -> Result<u64> {
        self.spill_beyond(space, 0)
    }

    /// The same, if so many bytes more are held.
    pub(crate) fn spill_beyond(&self, space: &Space, more: u64) -> Result<u64> {
        self.keep_buried();
        let bytes_max = self.options.settings.segment_cache_bytes;
        if self.state.lock().loaded_bytes() <= bytes_max.saturating_add(more) {
            return Ok(0);
        }
        self.metrics.state.spills.increment();
        // Before their pages are written and forgotten: later nobody would look at them again.
        self.forget_segments(Vec::new());
        let (written, bytes) = self.write_segments(space)?;
        self.pages_arrived(space, &written)?;
        self.state.lock().trim(bytes_max);
        Ok(bytes)
    }

    /// Segments that the batch puts its first live objects into.
    fn open_segments(&self, batch: &Batch) -> Result<()> {
        let mut state = self.state.lock();
        let mut last = 0;
        for number in batch.new.iter().map(|object| object.oid.segment()) {
            if number == last || state.table().contains_key(&number) {
                continue;
            }
            last = number;
            let oid = Oid::new(self.shape.volume, number, 0);
            let home =
                self.reader.home(number).ok_or(StoreError::BadReference { oid, what: "its segment has no place" })?;
            state.open_segment(number, home);
        }
        Ok(())
    }

    /// The pages are on the device: readers may read them.
    fn pages_arrived(&self, space: &Space, written: &[u32]) -> Result<()> {
        space.stream(StreamKind::System).flush(space);
        if !sabotage::on(Rule::NamedBeforeArrival) && !sabotage::on(Rule::MountNamesBeforeArrival) {
            space.wait_writes()?;
        }
        self.keep_buried();
        let state = self.state.lock();
        for number in written {
            if let Some(row) = state.table().get(number) {
                self.reader.set_page(*number, row.page, row.slot_map);
            }
        }
        Ok(())
    }

    /// Writes the pages of segments that changed. Returns which, and their bytes.
    fn write_segments(&self, space: &Space) -> Result<(Vec<u32>, u64)> {
        let due: Vec<u32> = self.state.lock().dirty().iter().copied().collect();
        let mut bytes = 0;
        for number in &due {
            let Some(page) = self.state.lock().page(*number) else { continue };
            let place = write_page(space, page.encode())?;
            self.state.lock().written(*number, place);
            bytes += u64::from(place.stored_bytes.next_multiple_of(UNIT));
            space.make_way(BACKGROUND_DEPTH);
        }
        Ok((due, bytes))
    }

    /// Writes everything that changed, and what lies in system containers worth emptying; when it returns, all of it has arrived.
    pub(crate) fn write_pages(&self, space: &Space) -> Result<()> {
        self.write_pages_leaving(space, &self.sparse_system_containers(space))
    }

    /// The same, with these containers emptied. A mount empties none: each that is killed before its first checkpoint would move the same pages again.
    pub(crate) fn write_pages_leaving(&self, space: &Space, sparse: &BTreeSet<u32>) -> Result<()> {
        let (mut written, _) = self.write_segments(space)?;
        written.extend(self.leave_containers(space, sparse)?);
        self.pages_arrived(space, &written)
    }

    /// Writes the lists that changed, and whatever lies in containers that are to be emptied but stacks, which are consumed before long. Returns the segments whose page moved.
    pub(crate) fn leave_containers(&self, space: &Space, sparse: &BTreeSet<u32>) -> Result<Vec<u32>> {
        let moved = if sparse.is_empty() { Vec::new() } else { self.move_pages(space, sparse)? };
        {
            let mut state = self.state.lock();
            state.write_lists(sparse, |bytes| write_page(space, bytes))?;
            state.orphans.touch_containers(|container| sparse.contains(&container));
        }
        self.write_orphans(space)?;
        Ok(moved)
    }

    /// Copies segment pages out of containers that are to be emptied.
    fn move_pages(&self, space: &Space, sparse: &BTreeSet<u32>) -> Result<Vec<u32>> {
        let all: Vec<(u32, Place)> = {
            let state = self.state.lock();
            let table = state.table().iter().map(|(number, row)| (*number, row.page));
            table.filter(|(_, page)| !page.is_none() && sparse.contains(&page.container)).collect()
        };
        let mut moved = Vec::with_capacity(all.len());
        for (number, page) in all {
            match self.reader.page(&page, "segment page") {
                Ok(bytes) => {
                    let place = write_page(space, bytes)?;
                    self.state.lock().written(number, place);
                    space.make_way(BACKGROUND_DEPTH);
                    moved.push(number);
                }
                Err(error) => {
                    tracing::error!(segment = number, %error, "a segment page cannot be read, and stays where it is")
                }
            }
        }
        Ok(moved)
    }

    fn write_orphans(&self, space: &Space) -> Result<()> {
        let due = self.state.lock().orphans.due();
        for (range, old) in due {
            let rows: Vec<OrphanedSegment> = {
                let state = self.state.lock();
                let homeless = state.table().range(range.clone()).filter(|(_, row)| row.home.is_none());
                homeless.map(|(number, row)| OrphanedSegment { segment: *number, page: row.page }).collect()
            };
            let mut pages = Vec::new();
            for part in rows.chunks(orphans::PAGE_ROWS) {
                let first = if pages.is_empty() { range.start } else { part.first().map_or(0, |row| row.segment) };
                let place = write_page(space, ListPage::OrphanedSegments(part.to_vec()).encode(Place::NONE))?;
                pages.push((first, place));
            }
            let mut state = self.state.lock();
            state.pages.sub(old);
            pages.iter().for_each(|(_, place)| state.pages.add(*place));
            state.orphans.replace(&range, pages);
        }
        let mut state = self.state.lock();
        if !state.orphans.is_index_dirty() {
            return Ok(());
        }
        let rows: Vec<OrphanedSegment> =
            state.orphans.pages().map(|(segment, page)| OrphanedSegment { segment, page }).collect();
        let (mut next, mut chain) = (Place::NONE, Vec::new());
        for part in rows.rchunks(INDEX_ROWS) {
            next = write_page(space, ListPage::OrphanIndex(part.to_vec()).encode(next))?;
            chain.push(next);
        }
        let old = state.orphans.index().to_vec();
        old.into_iter().for_each(|place| state.pages.sub(place));
        chain.iter().for_each(|place| state.pages.add(*place));
        state.orphans.set_index(chain);
        Ok(())
    }

    /// System containers worth emptying: when there are many more than the pages need, those with less than half in use.
    fn sparse_system_containers(&self, space: &Space) -> BTreeSet<u32> {
        let open = space.open_containers();
        let units = self.shape.units();
        let all: Vec<u32> = space.with_containers(|containers| {
            let system = containers.used().filter(|(n, row)| row.state == ContainerState::System && !open.contains(n));
            system.map(|(number, _)| number).collect()
        });
        let state = self.state.lock();
        if all.len() as u64 <= 2 * state.pages.units().div_ceil(units.into()) {
            return BTreeSet::new();
        }
        all.into_iter().filter(|container| (1..units / 2).contains(&state.pages.of(*container))).collect()
    }
}

fn write_page(space: &Space, bytes: Vec<u8>) -> Result<Place> {
    let crc = crc32c(&bytes);
    let stored_bytes = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let row = RowOf { kind: ReferenceKind::Node, birth: Hlc::ZERO, crc, owner: 0 };
    let (_, container, units) = space.stream(StreamKind::System).append(space, bytes.into(), 1, row, 0)?;
    Ok(Place { container, units, stored_bytes, crc })
}

/// The rows of a batch that touch these segments; its rows are in order of OID.
fn part_of(batch: &Batch, segments: &RangeInclusive<u32>) -> Batch {
    fn rows<T: Clone>(all: &[T], segments: &RangeInclusive<u32>, oid: impl Fn(&T) -> Oid) -> Vec<T> {
        let from = all.partition_point(|row| oid(row).segment() < *segments.start());
        let to = all.partition_point(|row| oid(row).segment() <= *segments.end());
        all.get(from..to).unwrap_or_default().to_vec()
    }
    Batch {
        checkpoint: batch.checkpoint,
        new: rows(&batch.new, segments, |row| row.oid),
        freed: rows(&batch.freed, segments, |row| row.oid),
        ranges: rows(&batch.ranges, segments, |row| row.oid),
        deltas: rows(&batch.deltas, segments, |row| row.reference.oid),
        ..Batch::default()
    }
}
