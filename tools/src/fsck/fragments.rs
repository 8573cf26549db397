//! Slot maps from tables: where the pieces of a segment lie that are not at their slot in its home, as the containers say that hold them.
//!
//! The pages of the store say the same and are what is used; this is for when such a page cannot be read, and for `--rebuild`. Bytes never change, so any copy that the
//! table of a container in use names is right; of several the newest opening is taken.

use super::disk::Disk;
use super::scan::{Scanned, container};
use envoyfs_layout::directory_page::{ContainerState, VolumeDirectory};
use envoyfs_layout::segment::TableRow;
use envoyfs_layout::superblock::Superblock;
use envoyfs_layout::system_page::Moved;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// A row, the opening of the container that holds it, and which that is.
type Piece = (u64, u32, TableRow);

/// Pieces by the segment that they were born in.
#[derive(Debug, Default)]
pub struct Fragments {
    /// Moved by the cleaner.
    survivors: BTreeMap<u32, Vec<Piece>>,
    /// Written into another segment's container, since the write to their own failed.
    relocated: BTreeMap<u32, Vec<Piece>>,
}

impl Fragments {
    /// Those in the containers that a table of containers has in use.
    #[must_use]
    pub fn read(disk: &Disk, superblock: &Superblock, directory: &VolumeDirectory) -> Self {
        let mut out = Self::default();
        let used = |state| matches!(state, ContainerState::Survivors | ContainerState::Sealed | ContainerState::Open);
        for (number, row) in (0_u32..).zip(&directory.table).filter(|(_, row)| used(row.state)) {
            if let Some(found) = container(disk, superblock, number).filter(|found| found.segment == row.segment) {
                out.add(number, &found);
            }
        }
        out
    }

    /// Adds those of a container.
    pub fn add(&mut self, number: u32, found: &Scanned) {
        let of = if found.segment == 0 { &mut self.survivors } else { &mut self.relocated };
        for row in found.rows.iter().filter(|row| row.oid.segment() != found.segment) {
            of.entry(row.oid.segment()).or_default().push((found.opening, number, *row));
        }
    }

    /// Segments that pieces are of.
    #[must_use]
    pub fn segments(&self) -> Vec<u32> {
        self.survivors.keys().chain(self.relocated.keys()).copied().collect()
    }

    /// The slot map of a segment. What was written into its home lies there, whatever the cleaner did later.
    #[must_use]
    pub fn slot_map(&self, segment: u32, has_home: bool) -> Vec<Moved> {
        let survivors = self.survivors.get(&segment).filter(|_| !has_home);
        let mut rows: Vec<Piece> =
            self.relocated.get(&segment).into_iter().chain(survivors).flatten().copied().collect();
        rows.sort_by_key(|(opening, _, row)| (row.oid.slot(), Reverse(*opening)));
        let mut moved: Vec<Moved> = Vec::new();
        let mut end = 0;
        for (_, container, row) in rows {
            let (slot, after) = (u32::from(row.oid.slot()), u32::from(row.oid.slot()) + row.units());
            let from = slot.max(end);
            if from >= after {
                continue;
            }
            moved.push(Moved {
                slot: u16::try_from(from).unwrap_or(u16::MAX),
                units: u16::try_from(after - from).unwrap_or(u16::MAX),
                container,
                offset_units: row.offset_units + (from - slot),
            });
            end = after;
        }
        moved
    }
}
