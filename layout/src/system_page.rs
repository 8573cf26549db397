//! System pages: what the engine knows of segments and of work to do. Written anew at a fresh place whenever they change, referenced by place (which carries their
//! checksum), never moved through slot maps.
//!
//! ```text
//! segment page: | header 32 | live runs ... | counts 8 ... | moved fragments ... | deferred runs ... | zeros to 512 |
//! list page:    | header 32 | next page 16 | rows ... | zeros to 512 |
//! ```
//! Lists: the drop queue and the nodes in it that could not be read (references, 32), segments without a home and the index of such pages (20), retained checkpoints (128),
//! and per retained checkpoint the units that died since it (8).

use crate::directory_page::{Place, RawPlace};
use crate::fields::{Structure, structure};
use crate::varint;
use crate::{Hlc, LayoutError, Reference, SLOTS, UNIT};
use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// "EVSP".
pub const SEGMENT_MAGIC: u32 = u32::from_le_bytes(*b"EVSP");
/// "EVLP".
pub const LIST_MAGIC: u32 = u32::from_le_bytes(*b"EVLP");

const HEADER_BYTES: usize = 32;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: U32,
    /// Segment number, or what a list holds.
    key: U32,
    /// Live runs, counts, moved fragments, deferred runs; or rows, 0, 0, 0.
    counts: [U32; 4],
    reserved: [u8; 8],
}
const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHistory {
    checkpoint: U64,
    hlc: U64,
    wall_ns: I64,
    segment_bound: U32,
    state: u8,
    reserved: [u8; 3],
    roots: [u8; Reference::BYTES],
    roots_twin: [u8; Reference::BYTES],
    deferred: RawPlace,
    rows: U64,
    units: U64,
}
const _: () = assert!(size_of::<RawHistory>() == 128);
const _: () = assert!(std::mem::offset_of!(RawHistory, roots) == 32);

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawDeferred {
    segment: U32,
    slot: U16,
    units: U16,
}
const _: () = assert!(size_of::<RawDeferred>() == 8);

/// Units that the cleaner moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// First unit in the segment.
    pub slot: u16,
    /// Units.
    pub units: u16,
    /// Container that they lie in now.
    pub container: u32,
    /// Units from that container's start.
    pub offset_units: u32,
}

/// All that is known of one segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentPage {
    /// Segment number.
    pub segment: u32,
    /// Live units as (first slot, units), ascending, not touching.
    pub live: Vec<(u16, u16)>,
    /// References less one, of objects that have more or less than one, by slot, ascending.
    pub extra: Vec<(u16, i32)>,
    /// Where moved units lie, ascending by slot, not overlapping.
    pub moved: Vec<Moved>,
    /// Live units that nothing of the newest checkpoint needs, but a retained one: (first slot, units), ascending, not touching.
    pub deferred: Vec<(u16, u16)>,
}

impl SegmentPage {
    /// The page, padded with zeros to a unit.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let counts = [self.live.len(), self.extra.len(), self.moved.len(), self.deferred.len()];
        let mut out = header(SEGMENT_MAGIC, self.segment, counts);
        put_runs(&mut out, &self.live);
        for (slot, extra) in &self.extra {
            out.extend_from_slice(&slot.to_le_bytes());
            out.extend_from_slice(&[0; 2]);
            out.extend_from_slice(&extra.to_le_bytes());
        }
        let (mut end, mut container) = (0, 0);
        for row in &self.moved {
            put_run(&mut out, &mut end, row.slot, row.units);
            varint::put(&mut out, varint::fold(i64::from(row.container) - i64::from(container)));
            varint::put(&mut out, fold_offset(row.offset_units));
            container = row.container;
        }
        put_runs(&mut out, &self.deferred);
        pad(out)
    }

    /// From a page; checks order and overlap.
    pub fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let structure = "segment page";
        let bad = |field, found: u32| LayoutError::Field { structure, field, found: found.into() };
        let (raw, rest) = read_header(structure, SEGMENT_MAGIC, bytes)?;
        let [live, extra, moved, deferred] = raw.counts;
        let mut page = Self { segment: raw.key.get(), ..Self::default() };
        let mut rest = rest;
        page.live = take_runs(&mut rest, live.get()).map_err(|slot| bad("live run", slot))?;
        let (extra, mut rest) = rows(structure, rest, extra, 8)?;
        for row in extra.chunks_exact(8) {
            let (slot, value) = match row {
                [a, b, 0, 0, c, d, e, f] => (u16::from_le_bytes([*a, *b]), i32::from_le_bytes([*c, *d, *e, *f])),
                _ => (0, 0),
            };
            if value == 0 || page.extra.last().is_some_and(|(before, _)| *before >= slot) {
                return Err(bad("count", slot.into()));
            }
            page.extra.push((slot, value));
        }
        let (mut end, mut container) = (0, 0);
        for _ in 0..moved.get() {
            let (slot, units) = take_run(&mut rest, &mut end).map_err(|slot| bad("moved fragment", slot))?;
            let by = varint::take(&mut rest).map(varint::unfold);
            let next = by.and_then(|by| i64::from(container).checked_add(by)).and_then(|next| u32::try_from(next).ok());
            container = next.ok_or_else(|| bad("container", container))?;
            let offset = varint::take(&mut rest).and_then(unfold_offset);
            let offset_units = offset.ok_or_else(|| bad("offset", slot.into()))?;
            page.moved.push(Moved { slot, units, container, offset_units });
        }
        page.deferred = take_runs(&mut rest, deferred.get()).map_err(|slot| bad("deferred run", slot))?;
        check_padding(structure, bytes, rest)?;
        Ok(page)
    }
}

/// Rows of the list of segments whose home container was reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrphanedSegment {
    /// Segment number.
    pub segment: u32,
    /// Its segment page.
    pub page: Place,
}

/// What a retained checkpoint is about to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum HistoryState {
    /// Its roots are readable.
    Retained = 1,
    /// Dropped: what died since it is being freed.
    Releasing = 2,
}

/// A checkpoint kept without counts: it defers the reuse of what died since (INV-31).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryRow {
    /// Its number.
    pub checkpoint: u64,
    /// Every birth in it is at most this.
    pub hlc: Hlc,
    /// Wall clock at its freeze, nanoseconds since 1970.
    pub wall_ns: i64,
    /// Segments from this number on were opened after it: nothing in them belongs to it.
    pub segment_bound: u32,
    /// Retained, or being dropped.
    pub state: HistoryState,
    /// Its roots object.
    pub roots: Reference,
    /// The second copy.
    pub roots_twin: Reference,
    /// Newest page of the list of units that died while it was the newest retained one.
    pub deferred: Place,
    /// Rows of that list.
    pub rows: u64,
    /// Units in them.
    pub units: u64,
}

/// Units that died under a retained checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeferredRange {
    /// Segment.
    pub segment: u32,
    /// First unit.
    pub slot: u16,
    /// Units.
    pub units: u16,
}

/// A list that no table row has room for; continued in another page if `next` is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListPage {
    /// Nodes whose count is zero and whose edges still count; the last row goes first, then the next page.
    DropQueue(Vec<Reference>),
    /// Segments without a home, ascending; one page of the index below.
    OrphanedSegments(Vec<OrphanedSegment>),
    /// The pages of segments without a home: lowest number that belongs in the page, and the page.
    OrphanIndex(Vec<OrphanedSegment>),
    /// Retained checkpoints, ascending.
    History(Vec<HistoryRow>),
    /// What died under a retained checkpoint.
    Deferred(Vec<DeferredRange>),
    /// Nodes of the drop queue that could not be read: still allocated, their edges still count. The mark and fsck take them up.
    Unreadable(Vec<Reference>),
}

impl ListPage {
    const fn key(&self) -> u32 {
        match self {
            Self::DropQueue(_) => 1,
            Self::OrphanedSegments(_) => 2,
            Self::OrphanIndex(_) => 3,
            Self::History(_) => 4,
            Self::Deferred(_) => 5,
            Self::Unreadable(_) => 6,
        }
    }

    /// Rows in it.
    #[must_use]
    pub const fn rows(&self) -> usize {
        match self {
            Self::DropQueue(rows) | Self::Unreadable(rows) => rows.len(),
            Self::OrphanedSegments(rows) | Self::OrphanIndex(rows) => rows.len(),
            Self::History(rows) => rows.len(),
            Self::Deferred(rows) => rows.len(),
        }
    }

    /// The page, padded with zeros to a unit. `next` is [`Place::NONE`] in the last one.
    #[must_use]
    pub fn encode(&self, next: Place) -> Vec<u8> {
        let mut out = header(LIST_MAGIC, self.key(), [self.rows(), 0, 0, 0]);
        out.extend_from_slice(next.raw().as_bytes());
        match self {
            Self::DropQueue(rows) | Self::Unreadable(rows) => {
                rows.iter().for_each(|row| out.extend_from_slice(&row.encode()));
            }
            Self::OrphanedSegments(rows) | Self::OrphanIndex(rows) => {
                for row in rows {
                    out.extend_from_slice(&row.segment.to_le_bytes());
                    out.extend_from_slice(row.page.raw().as_bytes());
                }
            }
            Self::History(rows) => rows.iter().for_each(|row| out.extend_from_slice(row.raw().as_bytes())),
            Self::Deferred(rows) => {
                for row in rows {
                    let raw =
                        RawDeferred { segment: row.segment.into(), slot: row.slot.into(), units: row.units.into() };
                    out.extend_from_slice(raw.as_bytes());
                }
            }
        }
        pad(out)
    }

    /// From a page: its rows, and where the list goes on.
    pub fn decode(bytes: &[u8]) -> Result<(Self, Place), LayoutError> {
        let structure = "list page";
        let (raw, rest) = read_header(structure, LIST_MAGIC, bytes)?;
        let (next, rest) = rows(structure, rest, U32::new(1), Place::BYTES)?;
        let next = decode_place(next)?;
        let [count, unused @ ..] = raw.counts;
        if let Some(used) = unused.iter().find(|used| used.get() != 0) {
            return Err(LayoutError::Field { structure, field: "counts", found: used.get().into() });
        }
        let (page, rest) = match raw.key.get() {
            key @ (1 | 6) => {
                let (body, rest) = rows(structure, rest, count, Reference::BYTES)?;
                let rows = body.chunks_exact(Reference::BYTES).map(Reference::decode).collect::<Result<_, _>>()?;
                (if key == 1 { Self::DropQueue(rows) } else { Self::Unreadable(rows) }, rest)
            }
            key @ (2 | 3) => {
                let (body, rest) = rows(structure, rest, count, 20)?;
                let rows: Vec<OrphanedSegment> = body.chunks_exact(20).map(orphan).collect::<Result<_, _>>()?;
                if rows.windows(2).any(|pair| matches!(pair, [a, b] if a.segment >= b.segment)) {
                    return Err(LayoutError::Field { structure, field: "order of segments", found: key.into() });
                }
                (if key == 2 { Self::OrphanedSegments(rows) } else { Self::OrphanIndex(rows) }, rest)
            }
            4 => {
                let (body, rest) = rows(structure, rest, count, size_of::<RawHistory>())?;
                let rows: Vec<HistoryRow> =
                    body.chunks_exact(size_of::<RawHistory>()).map(HistoryRow::decode).collect::<Result<_, _>>()?;
                if rows.windows(2).any(|pair| matches!(pair, [a, b] if a.checkpoint >= b.checkpoint)) {
                    return Err(LayoutError::Field { structure, field: "order of checkpoints", found: 4 });
                }
                (Self::History(rows), rest)
            }
            5 => {
                let (body, rest) = rows(structure, rest, count, size_of::<RawDeferred>())?;
                (
                    Self::Deferred(
                        body.chunks_exact(size_of::<RawDeferred>()).map(deferred).collect::<Result<_, _>>()?,
                    ),
                    rest,
                )
            }
            found => return Err(LayoutError::Unknown { structure, what: "list", found: found.into() }),
        };
        check_padding(structure, bytes, rest)?;
        Ok((page, next))
    }
}

impl HistoryRow {
    fn raw(&self) -> RawHistory {
        RawHistory {
            checkpoint: self.checkpoint.into(),
            hlc: self.hlc.0.into(),
            wall_ns: self.wall_ns.into(),
            segment_bound: self.segment_bound.into(),
            state: self.state as u8,
            reserved: [0; 3],
            roots: self.roots.encode(),
            roots_twin: self.roots_twin.encode(),
            deferred: self.deferred.raw(),
            rows: self.rows.into(),
            units: self.units.into(),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let structure = "history row";
        let short = LayoutError::Short { structure, expected: size_of::<RawHistory>(), found: bytes.len() };
        let (raw, _) = RawHistory::read_from_prefix(bytes).map_err(|_| short)?;
        let state = match raw.state {
            1 => HistoryState::Retained,
            2 => HistoryState::Releasing,
            other => return Err(LayoutError::Unknown { structure, what: "state", found: other.into() }),
        };
        if raw.reserved != [0; 3] {
            return Err(LayoutError::Field { structure, field: "reserved", found: 1 });
        }
        Ok(Self {
            checkpoint: raw.checkpoint.get(),
            hlc: Hlc(raw.hlc.get()),
            wall_ns: raw.wall_ns.get(),
            segment_bound: raw.segment_bound.get(),
            state,
            roots: Reference::decode(&raw.roots)?,
            roots_twin: Reference::decode(&raw.roots_twin)?,
            deferred: raw.deferred.into(),
            rows: raw.rows.get(),
            units: raw.units.get(),
        })
    }
}

fn orphan(row: &[u8]) -> Result<OrphanedSegment, LayoutError> {
    let short = LayoutError::Short { structure: "list page", expected: 20, found: row.len() };
    let (segment, place) = row.split_first_chunk::<4>().ok_or(short)?;
    Ok(OrphanedSegment { segment: u32::from_le_bytes(*segment), page: decode_place(place)? })
}

fn deferred(row: &[u8]) -> Result<DeferredRange, LayoutError> {
    let bad = |field, found: u32| LayoutError::Field { structure: "list page", field, found: found.into() };
    let (raw, _) = RawDeferred::read_from_prefix(row).map_err(|_| bad("deferred units", 0))?;
    let row = DeferredRange { segment: raw.segment.get(), slot: raw.slot.get(), units: raw.units.get() };
    if row.units == 0 || u32::from(row.slot) + u32::from(row.units) > 1 << 16 {
        return Err(bad("deferred units", row.units.into()));
    }
    Ok(row)
}

fn put_runs(out: &mut Vec<u8>, runs: &[(u16, u16)]) {
    let mut end = 0;
    runs.iter().for_each(|(slot, units)| put_run(out, &mut end, *slot, *units));
}

/// A run: units since the end of the one before it, and its own.
fn put_run(out: &mut Vec<u8>, end: &mut u32, slot: u16, units: u16) {
    // A run that does not ascend becomes one beyond the last slot, which decoding refuses.
    varint::put(out, u32::from(slot).wrapping_sub(*end).into());
    varint::put(out, units.into());
    *end = u32::from(slot) + u32::from(units);
}

/// So many runs, ascending; else where the one that is wrong was expected.
fn take_runs(bytes: &mut &[u8], count: u32) -> Result<Vec<(u16, u16)>, u32> {
    let mut end = 0;
    (0..count).map(|_| take_run(bytes, &mut end)).collect()
}

fn take_run(bytes: &mut &[u8], end: &mut u32) -> Result<(u16, u16), u32> {
    let before = *end;
    let mut take = || varint::take(bytes).and_then(|found| u32::try_from(found).ok());
    let slot = take().and_then(|gap| before.checked_add(gap)).and_then(|slot| u16::try_from(slot).ok());
    let units = take().and_then(|units| u16::try_from(units).ok()).filter(|units| *units > 0);
    let (slot, units) = slot.zip(units).ok_or(before)?;
    *end = u32::from(slot) + u32::from(units);
    if *end <= SLOTS { Ok((slot, units)) } else { Err(before) }
}

/// Data lies at blocks, eight units each: half as many bytes.
const fn fold_offset(units: u32) -> u64 {
    let units = units as u64;
    if units.is_multiple_of(8) { units / 8 * 2 } else { units * 2 + 1 }
}

fn unfold_offset(value: u64) -> Option<u32> {
    let units = if value.is_multiple_of(2) { (value / 2).checked_mul(8)? } else { value / 2 };
    u32::try_from(units).ok().filter(|units| fold_offset(*units) == value)
}

fn decode_place(bytes: &[u8]) -> Result<Place, LayoutError> {
    let (raw, _) = RawPlace::read_from_prefix(bytes).map_err(|_| LayoutError::Short {
        structure: "place",
        expected: Place::BYTES,
        found: bytes.len(),
    })?;
    Ok(raw.into())
}

fn header(magic: u32, key: u32, counts: [usize; 4]) -> Vec<u8> {
    let raw = RawHeader {
        magic: magic.into(),
        key: key.into(),
        counts: counts.map(|count| U32::new(u32::try_from(count).unwrap_or(u32::MAX))),
        reserved: [0; 8],
    };
    raw.as_bytes().to_vec()
}

fn read_header<'a>(structure: &'static str, magic: u32, bytes: &'a [u8]) -> Result<(RawHeader, &'a [u8]), LayoutError> {
    let (raw, rest) = RawHeader::read_from_prefix(bytes).map_err(|_| LayoutError::Short {
        structure,
        expected: HEADER_BYTES,
        found: bytes.len(),
    })?;
    if raw.magic.get() != magic {
        return Err(LayoutError::Magic { structure, expected: magic.into(), found: raw.magic.get().into() });
    }
    if raw.reserved != [0; 8] {
        return Err(LayoutError::Field {
            structure,
            field: "reserved",
            found: raw.reserved.iter().map(|b| u64::from(*b)).sum(),
        });
    }
    Ok((raw, rest))
}

fn rows<'a>(
    structure: &'static str,
    bytes: &'a [u8],
    count: U32,
    row_bytes: usize,
) -> Result<(&'a [u8], &'a [u8]), LayoutError> {
    let need = count.get() as usize * row_bytes;
    bytes.split_at_checked(need).ok_or(LayoutError::Short { structure, expected: need, found: bytes.len() })
}

/// Whole units, of which only the last has padding.
fn check_padding(structure: &'static str, bytes: &[u8], rest: &[u8]) -> Result<(), LayoutError> {
    if !bytes.len().is_multiple_of(UNIT as usize) || rest.len() >= UNIT as usize || rest.iter().any(|b| *b != 0) {
        return Err(LayoutError::Field { structure, field: "padding", found: rest.len() as u64 });
    }
    Ok(())
}

fn pad(mut out: Vec<u8>) -> Vec<u8> {
    out.resize(out.len().next_multiple_of(UNIT as usize), 0);
    out
}

/// For the documentation; see [`crate::fields`].
pub(crate) const LAYOUTS: &[Structure] = &[
    structure!("system page header", RawHeader { magic, key, counts, reserved }),
    structure!(
        "history row",
        RawHistory {
            checkpoint,
            hlc,
            wall_ns,
            segment_bound,
            state,
            reserved,
            roots,
            roots_twin,
            deferred,
            rows,
            units
        }
    ),
    structure!("deferred range", RawDeferred { segment, slot, units }),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Encoding, Hlc, Oid, ReferenceKind};
    use proptest::prelude::*;

    fn page() -> SegmentPage {
        SegmentPage {
            segment: 9,
            live: vec![(8, 16), (32, 1), (40, 65_000)],
            extra: vec![(8, 3), (32, -1)],
            moved: vec![
                Moved { slot: 8, units: 8, container: 7, offset_units: 24 },
                Moved { slot: 16, units: 8, container: 8, offset_units: 99 },
            ],
            deferred: vec![(10, 4), (41, 1)],
        }
    }

    fn place(n: u32) -> Place {
        Place { container: n, units: 8, stored_bytes: 512, crc: 77 }
    }

    fn reference() -> Reference {
        Reference {
            oid: Oid::new(1, 1, 8),
            birth: Hlc(1),
            stored_bytes: 512,
            logical_bytes: 512,
            crc: 0,
            kind: ReferenceKind::Node,
            flags: 0,
            encoding: Encoding::Plain,
        }
    }

    fn history(checkpoint: u64) -> HistoryRow {
        HistoryRow {
            checkpoint,
            hlc: Hlc(7),
            wall_ns: -5,
            segment_bound: 12,
            state: HistoryState::Retained,
            roots: reference(),
            roots_twin: reference(),
            deferred: place(2),
            rows: 9,
            units: 90,
        }
    }

    #[test]
    fn pages_round_trip() {
        assert_eq!(SegmentPage::decode(&page().encode()), Ok(page()));
        let reference = reference();
        let orphans: Vec<_> = (0..40).map(|n| OrphanedSegment { segment: n, page: place(n) }).collect();
        for list in [
            ListPage::DropQueue(vec![reference; 33]),
            ListPage::OrphanIndex(Vec::clone(&orphans)),
            ListPage::OrphanedSegments(orphans),
            ListPage::DropQueue(Vec::new()),
            ListPage::Unreadable(vec![reference; 2]),
            ListPage::History(vec![history(3), HistoryRow { state: HistoryState::Releasing, ..history(5) }]),
            ListPage::Deferred(vec![DeferredRange { segment: 4, slot: 65_535, units: 1 }; 100]),
        ] {
            assert_eq!(ListPage::decode(&list.encode(place(3))), Ok((list, place(3))));
        }
    }

    #[test]
    fn overlapping_or_unordered_rows_are_refused() {
        for live in [vec![(8, 16), (20, 4)], vec![(8, 0)], vec![(16, 1), (8, 1)]] {
            assert!(SegmentPage::decode(&SegmentPage { live, ..page() }.encode()).is_err());
        }
        assert!(SegmentPage::decode(&SegmentPage { extra: vec![(9, 1), (9, 2)], ..page() }.encode()).is_err());
        assert!(SegmentPage::decode(&SegmentPage { extra: vec![(9, 0)], ..page() }.encode()).is_err());
        assert!(SegmentPage::decode(&SegmentPage { deferred: vec![(9, 2), (10, 2)], ..page() }.encode()).is_err());
        assert!(ListPage::decode(&ListPage::History(vec![history(3); 2]).encode(Place::NONE)).is_err());
        let twice = vec![OrphanedSegment { segment: 4, page: place(1) }; 2];
        assert!(ListPage::decode(&ListPage::OrphanIndex(twice).encode(Place::NONE)).is_err());
        let outside = DeferredRange { segment: 4, slot: 65_535, units: 2 };
        assert!(ListPage::decode(&ListPage::Deferred(vec![outside]).encode(Place::NONE)).is_err());
    }

    proptest! {
        #[test]
        fn decoding_never_panics(damage in proptest::collection::vec((0usize..200, any::<u8>()), 1..8), cut in 0usize..600) {
            let mut bytes = page().encode();
            for (at, value) in damage { bytes[at] = value; }
            bytes.truncate(cut);
            let _ = SegmentPage::decode(&bytes);
            let _ = ListPage::decode(&bytes);
        }
    }
}
