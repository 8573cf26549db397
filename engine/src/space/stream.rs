//! A stream: the container that objects of one kind are appended to. Allocation, buffering, table parts, sealing.
//!
//! ```text
//! (none) --open--> filling --allocate*, write_part*, flush*--> filling --seal--> (none)
//! ```
//!
//! A block is submitted once: what is buffered is padded to a logical block when it is flushed, and the stream goes on behind it. If power fails, what was appended since
//! the last published checkpoint is found through the log (data) or not needed (nodes).

use super::heat::Heat;
use super::in_flight::{Bytes, bytes_of};
use super::{BACKGROUND_REQUEST_BYTES, Space, StreamKind};
use crate::StoreError;
use crate::device::{AlignedBuf, Write};
use crate::store::Result;
use envoyfs_layout::directory_page::ContainerState;
use envoyfs_layout::segment::{PartRows, SegmentFooter, SegmentHeader, TableRow};
use envoyfs_layout::{Hlc, Oid, ReferenceKind, UNIT};
use std::collections::VecDeque;
use std::sync::Arc;

/// Units at the start of a container that hold its header.
pub const HEADER_UNITS: u32 = 8;
/// Units at its end that are kept for the footer.
pub const FOOTER_UNITS: u32 = 8;
/// Buffered bytes that are worth a write.
const CHUNK_UNITS: u32 = BACKGROUND_REQUEST_BYTES / UNIT;

/// Rows that may wait for a birth; an object that no record named by then was abandoned, or its birth stays unknown here (a hint).
const UNNAMED_MAX: usize = 64;

/// Smallest head of an object that is split off.
const HEAD_UNITS_MIN: u32 = 16 * 1024 / UNIT;

/// A container being filled.
pub struct Open {
    /// Segment number; 0 for survivors and system pages.
    pub segment: u32,
    /// Container.
    pub container: u32,
    /// First unit not used.
    pub next: u32,
    /// Unit of the last table part; 0 = none.
    pub last_part: u32,
    /// Smallest birth.
    pub birth_low: Hlc,
    /// Largest birth.
    pub birth_high: Hlc,
    opening: u64,
    part: PartRows,
    /// Rows behind those of `part`, from the first one on whose birth may still come.
    rows: VecDeque<TableRow>,
    objects: u32,
    digest: u64,
    pending: Vec<(u32, Bytes, bool)>,
}

/// What an object's table row says beside its place.
#[derive(Clone, Copy, Debug)]
pub struct RowOf {
    /// What it is.
    pub kind: ReferenceKind,
    /// HLC of the newest change; zero if not known yet.
    pub birth: Hlc,
    /// CRC32C of its stored bytes.
    pub crc: u32,
    /// Hint for repair.
    pub owner: u64,
}

/// Where an object goes.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Segment.
    pub segment: u32,
    /// Container.
    pub container: u32,
    /// First unit in it.
    pub unit: u32,
    /// Bytes that fit there.
    pub stored_bytes: u32,
    /// Its table row.
    pub row: RowOf,
}

/// See the module.
pub struct Stream {
    kind: StreamKind,
    heat: Heat,
    open: Option<Open>,
}

impl Open {
    /// A container found at mount that was being filled, so that it can be sealed. `written`: rows in parts that are there, `rows`: those of the last part to come.
    pub fn recovered(
        segment: u32,
        container: u32,
        opening: u64,
        next: u32,
        last_part: u32,
        written: &[TableRow],
        rows: Vec<TableRow>,
    ) -> Self {
        let mut open = Self::new(segment, container, opening);
        open.next = next.max(HEADER_UNITS);
        open.last_part = last_part;
        written.iter().for_each(|row| open.count_row(row));
        rows.into_iter().for_each(|row| open.add_row(row));
        open
    }

    fn new(segment: u32, container: u32, opening: u64) -> Self {
        Self {
            segment,
            container,
            next: HEADER_UNITS,
            last_part: 0,
            birth_low: Hlc(u64::MAX),
            birth_high: Hlc::ZERO,
            opening,
            part: PartRows::new(segment),
            rows: VecDeque::new(),
            objects: 0,
            digest: 0,
            pending: Vec::new(),
        }
    }

    fn add_row(&mut self, row: TableRow) {
        self.count_row(&row);
        self.rows.push_back(row);
        self.settle(UNNAMED_MAX);
    }

    /// What the footer says.
    fn count_row(&mut self, row: &TableRow) {
        if row.birth != Hlc::ZERO {
            self.birth_low = self.birth_low.min(row.birth);
            self.birth_high = self.birth_high.max(row.birth);
        }
        self.objects += 1;
        self.digest = self.digest.wrapping_add(row.digest());
    }

    /// Puts rows into the part, up to the first without a birth, or until so many are left.
    fn settle(&mut self, left_max: usize) {
        while self.rows.front().is_some_and(|row| row.birth != Hlc::ZERO || self.rows.len() > left_max) {
            let Some(row) = self.rows.pop_front() else { return };
            self.part.push(&row);
        }
    }

    /// Units of a part with the rows so far and so many more.
    fn part_units(&self, more: usize) -> Option<u32> {
        u32::try_from(self.part.units_with(self.rows.len() + more)).ok()
    }

    /// Where `units` fit, if the table part and the footer still fit behind them.
    fn fits(&self, units: u32, align: u32, rows: usize, space: &Space) -> Option<u32> {
        let block = space.shape().block_units();
        let start = self.next.next_multiple_of(align);
        let end = self.end_with_part(start.checked_add(units)?, rows, block)?;
        (end + FOOTER_UNITS <= space.shape().units()).then_some(start)
    }

    /// Whole blocks of an object of `wanted` units that fit although the object does not, if they are worth it.
    fn head_that_fits(&self, wanted: u32, space: &Space) -> Option<u32> {
        let block = space.shape().block_units();
        let start = self.next.next_multiple_of(HEADER_UNITS);
        let part = self.part_units(1)?.next_multiple_of(block);
        let end = space.shape().units().checked_sub(FOOTER_UNITS + part)?;
        let room = end.saturating_sub(start) / HEADER_UNITS * HEADER_UNITS;
        (room < wanted && room >= HEAD_UNITS_MIN).then_some(room)
    }

    fn end_with_part(&self, end: u32, more: usize, block: u32) -> Option<u32> {
        let part = self.part_units(more)?;
        Some(end.next_multiple_of(block).checked_add(part)?.next_multiple_of(block))
    }

    /// Puts the rows since the last part into a part of their own.
    fn write_part(&mut self, space: &Space) -> Result<()> {
        self.settle(0);
        if self.part.count() == 0 {
            return Ok(());
        }
        let block = space.shape().block_units();
        if self.pending.is_empty() {
            self.next = self.next.next_multiple_of(block);
        }
        let part = std::mem::replace(&mut self.part, PartRows::new(self.segment));
        let units = u32::try_from(part.units_with(0)).unwrap_or(u32::MAX);
        let end = self.next.next_multiple_of(block).saturating_add(units).next_multiple_of(block);
        if end.saturating_add(FOOTER_UNITS) > space.shape().units() {
            // Only a segment found at mount can be so full: its objects are read without it.
            return Ok(());
        }
        let bytes = part.finish(self.last_part, self.opening);
        self.last_part = self.next;
        self.pending.push((self.next, Bytes::Shared(bytes.into()), false));
        self.next += units;
        Ok(())
    }

    /// Submits what is buffered.
    fn flush(&mut self, space: &Space) {
        let Some((from, ..)) = self.pending.first() else { return };
        let from = *from;
        self.next = self.next.next_multiple_of(space.shape().block_units());
        let units = self.next - from;
        let mut buffer = space.device().buffers().take_zeroed(units as usize * UNIT as usize);
        let arrived = self.take_pending(from, &mut buffer);
        let length = units as usize * UNIT as usize;
        space.submit(space.shape().offset(self.container, from), Arc::new(buffer), length, arrived);
    }
}

impl Open {
    /// Copies what is buffered to where it belongs in a buffer that begins at unit `from`; returns what of it was readable here meanwhile.
    fn take_pending(&mut self, from: u32, buffer: &mut AlignedBuf) -> Vec<(u32, u32)> {
        let mut arrived = Vec::new();
        for (unit, bytes, in_flight) in self.pending.drain(..) {
            let source = bytes.as_slice();
            let start = bytes_of(0..unit.saturating_sub(from)).end;
            if let Some(target) = buffer.as_mut_slice().get_mut(start..start + source.len()) {
                target.copy_from_slice(source);
            }
            if in_flight {
                arrived.push((self.segment, unit));
            }
        }
        arrived
    }
}

impl Stream {
    /// An empty stream.
    pub const fn new(kind: StreamKind, heat: Heat) -> Self {
        Self { kind, heat, open: None }
    }

    /// The container being filled.
    pub const fn open_container(&self) -> Option<&Open> {
        self.open.as_ref()
    }

    fn allocate(&mut self, space: &Space, units: u32, align: u32, rows: usize, floor: u32) -> Result<(&mut Open, u32)> {
        let fits = self.open.as_ref().is_some_and(|open| open.fits(units, align, rows, space).is_some());
        if !fits {
            // The new one first: without room for it, what still fits into the old one goes there.
            let next = self.start(space, floor)?;
            self.seal(space)?;
            self.open = Some(next);
        }
        let limit = u64::from(space.shape().segment_bytes);
        let too_large = StoreError::TooLarge { what: "object", bytes: u64::from(units) * u64::from(UNIT), limit };
        let open = self.open.as_mut().ok_or(too_large.clone())?;
        let unit = open.fits(units, align, rows, space).ok_or(too_large)?;
        open.next = unit + units;
        Ok((open, unit))
    }

    fn start(&self, space: &Space, floor: u32) -> Result<Open> {
        let before = self.open.as_ref().map(|open| open.container);
        let (segment, container, opening) = space.take_container(self.kind, self.heat, before, floor)?;
        write_header(space, self.kind, segment, container, opening);
        Ok(Open::new(segment, container, opening))
    }

    /// A place for an object that the caller submits itself, at once, block-aligned. If it may be split, what fits into the container that is
    /// open, so that its end is not wasted.
    pub fn place(
        &mut self,
        space: &Space,
        stored_bytes: u32,
        row: impl Fn(u32) -> RowOf,
        may_split: bool,
        floor: u32,
    ) -> Result<Place> {
        let volume = space.shape().volume;
        let wanted = stored_bytes / UNIT;
        let head = self.open.as_ref().filter(|_| may_split).and_then(|open| open.head_that_fits(wanted, space));
        let units = head.unwrap_or(wanted);
        let (open, unit) = self.allocate(space, units, HEADER_UNITS, 1, floor)?;
        let row = row(units * UNIT);
        open.add_row(row_at(volume, open.segment, unit, units * UNIT, row));
        Ok(Place { segment: open.segment, container: open.container, unit, stored_bytes: units * UNIT, row })
    }

    /// Puts the birth into the row of an object that was placed here, if the row is not in a table part yet.
    pub fn name_row(&mut self, oid: Oid, birth: Hlc) {
        let Some(open) = self.open.as_mut().filter(|open| open.segment == oid.segment()) else { return };
        // In order of their offset.
        let Ok(at) = open.rows.binary_search_by_key(&u32::from(oid.slot()), |row| row.offset_units) else { return };
        if let Some(row) = open.rows.get_mut(at) {
            row.birth = birth;
            open.birth_low = open.birth_low.min(birth);
            open.birth_high = open.birth_high.max(birth);
            open.settle(UNNAMED_MAX);
        }
    }

    /// A place for an object of another segment whose write there failed: its id stays. Returns {segment whose home the container is, container, unit}.
    pub fn place_moved(
        &mut self,
        space: &Space,
        stored_bytes: u32,
        oid: Oid,
        row: RowOf,
        floor: u32,
    ) -> Result<(u32, u32, u32)> {
        let (open, unit) = self.allocate(space, stored_bytes / UNIT, HEADER_UNITS, 1, floor)?;
        let RowOf { kind, birth, crc, owner } = row;
        open.add_row(TableRow { oid, birth, stored_bytes, crc, offset_units: unit, kind, owner });
        Ok((open.segment, open.container, unit))
    }

    /// Buffers an object; readable at once. Returns {segment, container, unit}.
    pub fn append(
        &mut self,
        space: &Space,
        bytes: Arc<[u8]>,
        align: u32,
        row: RowOf,
        floor: u32,
    ) -> Result<(u32, u32, u32)> {
        let stored_bytes = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let volume = space.shape().volume;
        let kind = self.kind;
        let (open, unit) = self.allocate(space, stored_bytes / UNIT, align, 1, floor)?;
        let in_log = kind.has_segments();
        if in_log {
            space.reader().in_flight.insert(open.segment, unit, stored_bytes / UNIT, Bytes::Shared(Arc::clone(&bytes)));
        }
        if kind == StreamKind::System {
            space.metrics().streams.page_bytes.add(stored_bytes.into());
        } else {
            open.add_row(row_at(volume, open.segment, unit, stored_bytes, row));
        }
        let at = (open.segment, open.container, unit);
        open.pending.push((unit, Bytes::Shared(bytes), in_log));
        if open.pending.first().is_some_and(|(from, ..)| open.next - from >= CHUNK_UNITS) {
            open.flush(space);
        }
        Ok(at)
    }

    /// Buffers a fragment that the cleaner moves; `rows` (at least one) count their units from its start. Returns {container, unit}.
    pub fn append_fragment(
        &mut self,
        space: &Space,
        bytes: Arc<[u8]>,
        align: u32,
        rows: &[TableRow],
        floor: u32,
    ) -> Result<(u32, u32)> {
        let units = u32::try_from(bytes.len()).unwrap_or(u32::MAX) / UNIT;
        let (open, unit) = self.allocate(space, units, align, rows.len(), floor)?;
        for row in rows {
            open.add_row(TableRow { offset_units: unit + row.offset_units, ..*row });
        }
        let at = (open.container, unit);
        open.pending.push((unit, Bytes::Shared(bytes), false));
        if open.pending.first().is_some_and(|(from, ..)| open.next - from >= CHUNK_UNITS) {
            open.flush(space);
        }
        Ok(at)
    }

    /// Whether this fits without another container.
    pub fn has_room(&self, space: &Space, units: u32, align: u32, rows: usize) -> bool {
        self.open.as_ref().is_some_and(|open| open.fits(units, align, rows, space).is_some())
    }

    /// Submits what is buffered.
    pub fn flush(&mut self, space: &Space) {
        if let Some(open) = &mut self.open {
            open.flush(space);
        }
    }

    /// A table part for what came since the last one, and everything submitted: a checkpoint names it.
    pub fn checkpoint(&mut self, space: &Space) -> Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        open.write_part(space)?;
        open.flush(space);
        space.note(open, None);
        Ok(())
    }

    /// Ends the container: last table part, footer, SEGMENT_SEALED.
    pub fn seal(&mut self, space: &Space) -> Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let kind = self.kind;
        let (segment, length, digest) = seal(space, kind, open)?;
        if kind.has_segments() { space.log_sealed(segment, length, digest) } else { Ok(()) }
    }
}

/// What a container begins with: nothing is found by it but in a rebuild.
pub fn write_header(space: &Space, kind: StreamKind, segment: u32, container: u32, opening: u64) {
    let shape = space.shape();
    let header = SegmentHeader {
        seed: shape.seed,
        volume: shape.volume,
        segment,
        container,
        stream: kind.code(),
        flags: match kind {
            StreamKind::Survivors => 1,
            StreamKind::System => 2,
            _ => 0,
        },
        birth_low: Hlc::ZERO,
        opening,
    };
    let offset = shape.offset(container, 0);
    let mut buffer = space.device().buffers().take_zeroed(bytes_of(0..HEADER_UNITS).end);
    let unit = header.encode(offset);
    if let Some(target) = buffer.as_mut_slice().get_mut(..unit.len()) {
        target.copy_from_slice(&unit);
    }
    // What it was opened for follows.
    space.start_for(kind, Write::whole(offset, buffer).more(), Vec::new());
}

/// Ends a container: last table part and footer. Returns what SEGMENT_SEALED says: segment, used units, digest.
pub fn seal(space: &Space, kind: StreamKind, mut open: Open) -> Result<(u32, u32, u64)> {
    open.write_part(space)?;
    let shape = space.shape();
    let footer_unit = shape.units() - shape.block_units();
    // Near the end, one request takes what is buffered, the footer, and the zeros between them.
    let start = open.pending.first().map(|(from, ..)| *from);
    let start = start.filter(|from| footer_unit.saturating_sub(*from) <= CHUNK_UNITS);
    if start.is_none() {
        open.flush(space);
    }
    let from = start.unwrap_or(footer_unit);
    if start.is_some() {
        open.next = open.next.next_multiple_of(shape.block_units());
    }
    let footer = SegmentFooter {
        segment: open.segment,
        last_part: open.last_part,
        objects: open.objects,
        used_units: open.next,
        digest: open.digest,
        birth_low: if open.birth_high == Hlc::ZERO { Hlc::ZERO } else { open.birth_low },
        birth_high: open.birth_high,
        opening: open.opening,
    };
    let length = bytes_of(0..shape.units() - from).end;
    let mut buffer = space.device().buffers().take_zeroed(length);
    let arrived = open.take_pending(from, &mut buffer);
    let unit = footer.encode(&shape.seed, shape.offset(open.container, shape.units() - 1));
    if let Some(target) = buffer.as_mut_slice().last_chunk_mut() {
        *target = unit;
    }
    let write = Write::whole(shape.offset(open.container, from), buffer);
    // Data is what the next container was opened for: it follows.
    space.start_for(kind, if kind == StreamKind::Data { write.more() } else { write }, arrived);
    space.metrics().streams.containers_sealed.increment();
    let state = match kind {
        StreamKind::System => ContainerState::System,
        StreamKind::Survivors => ContainerState::Survivors,
        _ => ContainerState::Sealed,
    };
    space.note(&open, Some(state));
    Ok((open.segment, open.next, open.digest))
}

fn row_at(volume: u16, segment: u32, unit: u32, stored_bytes: u32, row: RowOf) -> TableRow {
    let RowOf { kind, birth, crc, owner } = row;
    let slot = u16::try_from(unit).unwrap_or(u16::MAX);
    TableRow { oid: Oid::new(volume, segment, slot), birth, stored_bytes, crc, offset_units: unit, kind, owner }
}
