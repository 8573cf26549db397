//! The cleaner: copies what lives in sparse containers to a container of survivors, so that they can be released. Part of a checkpoint; takes no shared record (INV-39).
//!
//! Victims are closed containers without anything unpublished in them, least live first, and only as many as give at least one container more than their survivors take. Their
//! slot maps change with this checkpoint; until it is published readers may use either copy, and if power fails the sources are what counts.

use crate::StoreError;
use crate::engine::{Engine, Writer};
use crate::space::{RowOf, StreamKind, check};
use crate::state::{Fragment, State};
use crate::store::Result;
use envoyfs_layout::checksum::crc32c;
use envoyfs_layout::directory_page::ContainerState;
use envoyfs_layout::segment::{TablePart, TableRow};
use envoyfs_layout::{Hlc, Oid, ReferenceKind, UNIT};
use std::collections::{BTreeMap, BTreeSet};

/// Largest fragment: what is copied at a time.
const PIECE_UNITS: u32 = 512 * 1024 / UNIT;
/// Most bytes copied by one checkpoint that nobody waits for.
const PACE_BYTES: u64 = 64 << 20;

/// Units copied from one place to another.
pub(crate) struct Moved {
    segment: u32,
    slot: u32,
    to: Fragment,
}

struct Piece {
    segment: u32,
    slot: u32,
    units: u32,
    container: u32,
    unit: u32,
}

impl Engine {
    /// Chooses victims and copies what lives in them.
    pub(crate) fn clean(
        &self,
        writer: &Writer,
        candidates: &BTreeMap<u32, ContainerState>,
        hurry: bool,
    ) -> Result<Vec<Moved>> {
        let victims = self.victims(writer, candidates, hurry);
        if victims.is_empty() {
            return Ok(Vec::new());
        }
        let counts = &self.metrics.cleaner;
        counts.runs.increment();
        counts.victims.add(victims.len() as u64);
        let mut tables: BTreeMap<u32, BTreeMap<u32, TableRow>> =
            victims.iter().map(|container| (*container, self.table_of(writer, *container))).collect();
        // What lives in a container: the segment that has its home there, and those of fragments that its table names.
        let mut segments: BTreeSet<u32> = writer.space.with_containers(|containers| {
            victims.iter().filter_map(|container| containers.get(*container)).map(|row| row.segment).collect()
        });
        segments.extend(tables.values().flat_map(BTreeMap::values).map(|row| row.oid.segment()));
        self.load_segments(&segments)?;
        let pieces = pieces_in(&self.state.lock(), &segments, &victims);
        let mut moved = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let table = tables.entry(piece.container).or_insert_with(|| self.table_of(writer, piece.container));
            let mut bytes = vec![0; piece.units as usize * UNIT as usize];
            if let Err(error) = self.reader.read_device(piece.container, piece.unit, &mut bytes) {
                counts.unreadable.increment();
                tracing::error!(container = piece.container, %error, "the cleaner leaves what it cannot read");
                continue;
            }
            counts.read_bytes.add(bytes.len() as u64);
            let rows = rows_inside(table, &piece);
            if let Some(error) = rows.iter().find_map(|row| verify(row, &piece, &bytes).err()) {
                counts.damaged.increment();
                tracing::error!(container = piece.container, unit = piece.unit, %error, "the cleaner leaves what does not verify");
                continue;
            }
            let slot = u16::try_from(piece.slot).unwrap_or(u16::MAX);
            let whole = rows.first().filter(|row| row.units() == piece.units);
            let row = RowOf {
                kind: rows.first().map_or(ReferenceKind::Extent, |row| row.kind),
                birth: rows.iter().map(|row| row.birth).max().unwrap_or(Hlc::ZERO),
                crc: whole.map_or_else(|| crc32c(&bytes), |row| row.crc),
                owner: rows.first().map_or(0, |row| row.owner),
            };
            let align = if piece.units >= 8 { 8 } else { 1 };
            let oid = Oid::new(self.shape.volume, piece.segment, slot);
            let mut stream = writer.space.stream(StreamKind::Survivors);
            let (container, offset_units) = stream.append_fragment(&writer.space, bytes.into(), align, oid, row)?;
            drop(stream);
            counts.moved.increment();
            counts.moved_bytes.add(u64::from(piece.units) * u64::from(UNIT));
            moved.push(Moved {
                segment: piece.segment,
                slot: piece.slot,
                to: Fragment { units: piece.units, container, offset_units },
            });
        }
        Ok(moved)
    }

    /// The copies are on the device: from now on they are found there.
    pub(crate) fn install(&self, moves: Vec<Moved>) -> Result<()> {
        let touched: BTreeSet<u32> = moves.iter().map(|moved| moved.segment).collect();
        self.load_segments(&touched)?;
        let mut state = self.state.lock();
        for moved in moves {
            state
                .move_units(moved.segment, moved.slot, moved.to)
                .map_err(|error| StoreError::Misuse(error.to_string()))?;
        }
        for number in touched {
            if let Some(segment) = state.segment(number) {
                self.reader.set_moved(number, segment.moved.clone());
            }
        }
        Ok(())
    }

    fn victims(&self, writer: &Writer, candidates: &BTreeMap<u32, ContainerState>, hurry: bool) -> Vec<u32> {
        let (free, target) = (writer.space.free_containers(), self.clean_target(writer));
        let state = self.state.lock();
        let objects = candidates.iter().filter(|(_, kind)| **kind != ContainerState::System);
        let mut sparse: Vec<(u32, u32)> =
            objects.map(|(container, _)| (state.live_in(*container), *container)).collect();
        drop(state);
        self.metrics.cleaner.debt.set(target.saturating_sub(free).into());
        let empty = u32::try_from(sparse.iter().filter(|(live, _)| *live == 0).count()).unwrap_or(u32::MAX);
        if !hurry || free + empty >= target {
            return Vec::new();
        }
        sparse.retain(|(live, _)| *live > 0);
        sparse.sort_unstable();
        let budget = &writer.admission.budget;
        let container_units = u64::from(self.shape.units()) * 31 / 32 - 32;
        // The rest of this checkpoint and the next one's nodes come first.
        let keep = u32::try_from(budget.dirty_max / budget.container_bytes).unwrap_or(u32::MAX).saturating_add(2);
        let room = u64::from(free.saturating_sub(keep).max(u32::from(free > 2)));
        let pace = (PACE_BYTES / u64::from(UNIT)).max(2 * container_units);
        let wanted = u64::from(target - free - empty);
        let (mut best, mut best_gain, mut units) = (0, 0, 0_u64);
        for (count, (live, _)) in (1_u64..).zip(&sparse) {
            units += u64::from(*live) + 8;
            let takes = units.div_ceil(container_units);
            if takes > room || units > pace {
                break;
            }
            let gain = count.saturating_sub(takes);
            if gain > best_gain {
                (best, best_gain) = (usize::try_from(count).unwrap_or(0), gain);
            }
            if gain >= wanted {
                break;
            }
        }
        sparse.truncate(best);
        sparse.into_iter().map(|(_, container)| container).collect()
    }

    /// Rows of a container's table by unit; what cannot be read is left out, the objects are then copied unverified (their references still verify them).
    fn table_of(&self, writer: &Writer, container: u32) -> BTreeMap<u32, TableRow> {
        let mut rows = BTreeMap::new();
        let mut part =
            writer.space.with_containers(|containers| containers.get(container).map_or(0, |row| row.last_part));
        while part != 0 {
            let Some(found) = self.table_part(container, part) else { break };
            rows.extend(found.rows.iter().map(|row| (row.offset_units, *row)));
            // Parts chain backwards; anything else would not end.
            part = if found.previous < part { found.previous } else { 0 };
        }
        rows
    }

    pub(crate) fn table_part(&self, container: u32, unit: u32) -> Option<TablePart> {
        let mut head = vec![0; UNIT as usize];
        self.reader.read_device(container, unit, &mut head).ok()?;
        let units = TablePart::units_of(&head).ok()?;
        if units > (self.shape.units().checked_sub(unit)?) as usize {
            return None;
        }
        let mut bytes = vec![0; units * UNIT as usize];
        self.reader.read_device(container, unit, &mut bytes).ok()?;
        TablePart::decode(&bytes).ok()
    }
}

fn pieces_in(state: &State, segments: &BTreeSet<u32>, victims: &[u32]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (number, segment) in segments.iter().filter_map(|number| Some((number, state.segment(*number)?))) {
        for range in segment.live.iter() {
            let mut slot = range.start;
            for (container, unit, units) in state.locate(*number, &range) {
                if let Some(container) = container.filter(|container| victims.contains(container)) {
                    let mut done = 0;
                    while done < units {
                        let part = (units - done).min(PIECE_UNITS);
                        pieces.push(Piece {
                            segment: *number,
                            slot: slot + done,
                            units: part,
                            container,
                            unit: unit + done,
                        });
                        done += part;
                    }
                }
                slot += units;
            }
        }
    }
    pieces
}

fn rows_inside<'a>(table: &'a BTreeMap<u32, TableRow>, piece: &Piece) -> Vec<&'a TableRow> {
    let end = piece.unit + piece.units;
    table.range(piece.unit..end).map(|(_, row)| row).filter(|row| row.offset_units + row.units() <= end).collect()
}

fn verify(row: &TableRow, piece: &Piece, bytes: &[u8]) -> std::result::Result<(), envoyfs_layout::LayoutError> {
    let start = (row.offset_units - piece.unit) as usize * UNIT as usize;
    let stored = bytes.get(start..start + row.stored_bytes as usize).unwrap_or_default();
    check("object named by a segment's table", row.crc, crc32c(stored))
}
