//! What lives in a victim: found through its own table, read in large reads or many at once, verified row by row. A piece is copied only if every row that it is part of
//! verifies: a checksum made of what was merely read would make good what is rotten.

use crate::device::open_reads;
use crate::engine::Engine;
use crate::space::{BACKGROUND_DEPTH, BACKGROUND_REQUEST_BYTES, Container, Space, check};
use crate::state::State;
use envoyfs_layout::UNIT;
use envoyfs_layout::checksum::{crc32c, crc32c_pieces};
use envoyfs_layout::directory_page::ContainerState;
use envoyfs_layout::segment::{TablePart, TableRow};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Largest piece: what is copied at a time.
const PIECE_UNITS: u32 = BACKGROUND_REQUEST_BYTES / UNIT;
/// Largest read while somebody waits.
const URGENT_RUN_UNITS: u32 = 1024 * 1024 / UNIT;
/// Dead units that are read along, rather than start another read.
const GAP_UNITS: u32 = 32 * 1024 / UNIT;
/// Reads on the device at a time while somebody waits.
const URGENT_DEPTH: u32 = 8;

/// Rows of a container by unit.
pub(super) type Table = BTreeMap<u32, TableRow>;

/// Live units of one segment, side by side in a victim.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) segment: u32,
    pub(crate) slot: u32,
    pub(crate) units: u32,
    pub(crate) container: u32,
    pub(crate) unit: u32,
}

/// A piece with its bytes and the rows that it takes along: `offset_units` counts from the piece.
pub(crate) struct Copied {
    pub(crate) piece: Piece,
    pub(crate) bytes: std::sync::Arc<[u8]>,
    pub(crate) rows: Vec<TableRow>,
}

impl Engine {
    /// Table and pieces of a victim, the last unit first, and whether these are all that lives in it; nothing if the table cannot be read (then `fsck` is due).
    pub(crate) fn pieces_of(&self, container: u32, row: &Container) -> Option<(Table, Vec<Piece>, bool)> {
        let table = self.table_of(container, row.last_part);
        let homes = row.state != ContainerState::Survivors;
        if !homes && table.is_empty() {
            tracing::error!(container, "the cleaner cannot read the table of a container of survivors");
            return None;
        }
        // A container with a home may hold data of other segments besides, whose writes failed elsewhere.
        let mut segments: BTreeSet<u32> = table.values().map(|row| row.oid.segment()).collect();
        segments.extend(homes.then_some(row.segment));
        let mut pieces = Vec::new();
        let segments: Vec<u32> = segments.into_iter().collect();
        let mut rest = segments.as_slice();
        while !rest.is_empty() {
            let part;
            (part, rest) = self.part_of(rest);
            if let Err(error) = self.load_segments(&part.iter().copied().collect()) {
                tracing::error!(container, %error, "the cleaner cannot tell what lives in a container");
                return None;
            }
            let mut state = self.state.lock();
            if part.iter().any(|number| state.place_wanted(*number).is_some()) {
                tracing::error!(container, "pages of segments went while the cleaner looked at them");
                return None;
            }
            part.iter().for_each(|number| pieces_in(&state, *number, container, &mut pieces));
            // A victim of survivors has pieces of thousands of segments, and no checkpoint need come soon.
            state.trim(self.options.settings.segment_cache_bytes);
        }
        let all = pieces.iter().map(|piece| piece.units).sum::<u32>() == self.state.lock().live_in(container);
        if !all {
            tracing::error!(container, "something lives in a container that its table does not name");
        }
        pieces.sort_unstable_by_key(|piece| std::cmp::Reverse(piece.unit));
        Some((table, pieces, all))
    }

    /// Rows of a container's table; parts that cannot be read are left out, and their objects stay where they are.
    fn table_of(&self, container: u32, last_part: u32) -> Table {
        let mut rows = BTreeMap::new();
        let mut part = last_part;
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

    /// Reads pieces of a victim, and the rows that they are part of to their ends: leaves out what cannot be read, and what no row shows to be what was written, and says so.
    pub(super) fn read_pieces(&self, space: &Space, container: u32, table: &Table, pieces: &[Piece]) -> Vec<Copied> {
        // Reads and writes of the background do not add up before the device.
        space.make_way(0);
        let _reading = self.reader.readers.enter();
        let urgent = space.is_urgent();
        let wanted = pieces.iter().map(|piece| whole_rows(table, piece));
        let runs = runs(wanted, if urgent { URGENT_RUN_UNITS } else { PIECE_UNITS });
        let read = match self.read_runs(container, &runs, if urgent { URGENT_DEPTH } else { BACKGROUND_DEPTH }) {
            Ok(bytes) => Read { runs, bytes },
            Err(error) => {
                tracing::error!(container, %error, "the cleaner cannot read");
                self.metrics.cleaner.unreadable.increment();
                return Vec::new();
            }
        };
        let mut copies = Vec::with_capacity(pieces.len());
        let mut verified: BTreeMap<u32, bool> = BTreeMap::new();
        for piece in pieces {
            let rows = rows_over(table, piece);
            let (Some(found), false) = (read.of(piece.unit..piece.unit + piece.units), is_any_unreadable(&read, &rows))
            else {
                self.metrics.cleaner.unreadable.increment();
                tracing::error!(container, unit = piece.unit, "the cleaner leaves what it cannot read");
                continue;
            };
            if covered(&rows, piece) < piece.units {
                self.metrics.cleaner.damaged.increment();
                tracing::error!(
                    container,
                    unit = piece.unit,
                    "the cleaner leaves what the container's table does not name"
                );
                continue;
            }
            // Once for each row, however many pieces it has.
            let mut check =
                |row: &&&TableRow| *verified.entry(row.offset_units).or_insert_with(|| verify(row, &read).is_ok());
            if let Some(error) = rows.iter().find(|row| !check(row)).and_then(|row| verify(row, &read).err()) {
                self.metrics.cleaner.damaged.increment();
                tracing::error!(container, unit = piece.unit, %error, "the cleaner leaves what does not verify");
                continue;
            }
            let bytes: std::sync::Arc<[u8]> = found.concat().into();
            let rows = rows_to_keep(&rows, piece, &bytes, self.shape.volume);
            copies.push(Copied { piece: *piece, bytes, rows });
        }
        copies
    }

    /// One buffer a run, none for what the device does not give.
    fn read_runs(
        &self,
        container: u32,
        runs: &[Range<u32>],
        depth: u32,
    ) -> Result<Vec<Option<Vec<u8>>>, crate::device::DeviceError> {
        let mut reads = open_reads(&self.device, depth)?;
        let mut out: Vec<Option<Vec<u8>>> = vec![None; runs.len()];
        for (tag, run) in (0_u64..).zip(runs) {
            let bytes = (run.end - run.start) as usize * UNIT as usize;
            let (start, _, length) = self.shape.around(self.shape.offset(container, run.start), bytes);
            reads.submit(tag, start, self.device.buffers().take(length));
        }
        let mut done = Vec::new();
        while reads.under_way() > 0 {
            reads.wait(1, &mut done);
        }
        for read in done {
            let Some((slot, run)) =
                usize::try_from(read.tag).ok().and_then(|at| Some((out.get_mut(at)?, runs.get(at)?)))
            else {
                continue;
            };
            let bytes = (run.end - run.start) as usize * UNIT as usize;
            let (_, skip, _) = self.shape.around(self.shape.offset(container, run.start), bytes);
            self.metrics.cleaner.read_bytes.add(bytes as u64);
            if read.outcome.is_ok() {
                *slot = read.buffer.as_slice().get(skip..skip + bytes).map(<[u8]>::to_vec);
            }
        }
        Ok(out)
    }
}

fn pieces_in(state: &State, number: u32, victim: u32, pieces: &mut Vec<Piece>) {
    let Some(segment) = state.segment(number) else { return };
    for range in segment.live.iter() {
        let mut slot = range.start;
        for (container, unit, units) in state.locate(number, &range) {
            if container == Some(victim) {
                let mut done = 0;
                while done < units {
                    let part = (units - done).min(PIECE_UNITS);
                    pieces.push(Piece {
                        segment: number,
                        slot: slot + done,
                        units: part,
                        container: victim,
                        unit: unit + done,
                    });
                    done += part;
                }
            }
            slot += units;
        }
    }
}

/// Reads that cover these ranges, in order, none longer than `units_max`; small gaps are read along.
fn runs(ranges: impl Iterator<Item = Range<u32>>, units_max: u32) -> Vec<Range<u32>> {
    let mut ranges: Vec<Range<u32>> = ranges.collect();
    ranges.sort_unstable_by_key(|range| range.start);
    let mut runs: Vec<Range<u32>> = Vec::new();
    for mut range in ranges {
        // What the run before covers already.
        let before = runs.last().map_or(0, |run| run.end);
        range.start = range.start.max(before);
        while range.start < range.end {
            match runs.last_mut() {
                Some(run) if range.start <= run.end + GAP_UNITS && range.start - run.start < units_max => {
                    run.end = range.end.min(run.start + units_max);
                    range.start = run.end;
                }
                _ => {
                    runs.push(range.start..range.end.min(range.start + units_max));
                    range.start = range.start.saturating_add(units_max);
                }
            }
        }
    }
    runs
}

/// What was read: runs in order, and the bytes of each that could be read.
struct Read {
    runs: Vec<Range<u32>>,
    bytes: Vec<Option<Vec<u8>>>,
}

impl Read {
    /// The bytes of these units, in parts that lie side by side; nothing if one of them could not be read.
    fn of(&self, units: Range<u32>) -> Option<Vec<&[u8]>> {
        let (mut parts, mut at) = (Vec::new(), units.start);
        let first = self.runs.partition_point(|run| run.end <= units.start);
        for (run, bytes) in self.runs.iter().zip(&self.bytes).skip(first) {
            if at >= units.end {
                break;
            }
            let start = at.checked_sub(run.start)? as usize * UNIT as usize;
            let end = (run.end.min(units.end) - run.start) as usize * UNIT as usize;
            parts.push(bytes.as_ref()?.get(start..end)?);
            at = run.end;
        }
        (at >= units.end).then_some(parts)
    }
}

/// Rows that a piece is part of, or that are parts of it.
fn rows_over<'a>(table: &'a Table, piece: &Piece) -> Vec<&'a TableRow> {
    let before = table.range(..piece.unit).next_back().map(|(_, row)| row);
    let before = before.filter(|row| row.offset_units + row.units() > piece.unit);
    before.into_iter().chain(table.range(piece.unit..piece.unit + piece.units).map(|(_, row)| row)).collect()
}

/// The piece with the rest of the rows that it is part of: only a whole row verifies.
fn whole_rows(table: &Table, piece: &Piece) -> Range<u32> {
    let rows = rows_over(table, piece);
    let start = rows.first().map_or(piece.unit, |row| row.offset_units.min(piece.unit));
    let end = piece.unit + piece.units;
    start..rows.last().map_or(end, |row| (row.offset_units + row.units()).max(end))
}

/// Whether two pieces, the second behind the first, are parts of one row: read together, it is read once.
pub(super) fn share_a_row(table: &Table, first: &Piece, second: &Piece) -> bool {
    whole_rows(table, first).end > second.unit
}

fn is_any_unreadable(read: &Read, rows: &[&TableRow]) -> bool {
    rows.iter().any(|row| read.of(row.offset_units..row.offset_units + row.units()).is_none())
}

/// How many of the piece's units the rows are about.
fn covered(rows: &[&TableRow], piece: &Piece) -> u32 {
    let end = piece.unit + piece.units;
    let of =
        |row: &TableRow| (row.offset_units + row.units()).min(end).saturating_sub(row.offset_units.max(piece.unit));
    rows.iter().map(|row| of(row)).sum()
}

fn verify(row: &TableRow, read: &Read) -> Result<(), envoyfs_layout::LayoutError> {
    let parts = read.of(row.offset_units..row.offset_units + row.units()).unwrap_or_default();
    let mut left = row.stored_bytes as usize;
    let stored: Vec<&[u8]> = parts
        .into_iter()
        .map(|part| {
            let taken = part.get(..left.min(part.len())).unwrap_or_default();
            left -= taken.len();
            taken
        })
        .collect();
    check("object named by a segment's table", row.crc, crc32c_pieces(&stored))
}

/// Rows of the copy: those of the source where it is made of whole ones; else one for the piece, whose bytes were verified with the rows that they are part of.
fn rows_to_keep(rows: &[&TableRow], piece: &Piece, bytes: &[u8], volume: u16) -> Vec<TableRow> {
    let end = piece.unit + piece.units;
    if rows.iter().all(|row| row.offset_units >= piece.unit && row.offset_units + row.units() <= end) {
        return rows.iter().map(|row| TableRow { offset_units: row.offset_units - piece.unit, ..**row }).collect();
    }
    let first = rows.first();
    let slot = u16::try_from(piece.slot).unwrap_or(u16::MAX);
    vec![TableRow {
        oid: envoyfs_layout::Oid::new(volume, piece.segment, slot),
        birth: rows.iter().map(|row| row.birth).max().unwrap_or(envoyfs_layout::Hlc::ZERO),
        stored_bytes: piece.units * UNIT,
        crc: crc32c(bytes),
        offset_units: 0,
        kind: first.map_or(envoyfs_layout::ReferenceKind::Extent, |row| row.kind),
        owner: first.map_or(0, |row| row.owner),
    }]
}
