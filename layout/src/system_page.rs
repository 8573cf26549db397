//! System pages: what the engine knows of segments and of work to do. Written anew at a fresh place whenever they change, referenced by place (which carries their
//! checksum), never moved through slot maps.
//!
//! ```text
//! segment page: | header 32 | live runs 4 ... | counts 8 ... | moved fragments 12 ... | zeros to 512 |
//! list page:    | header 32 | rows ... | zeros to 512 |      drop queue: rows of 32 (references); orphaned segments: rows of 20 (segment, place)
//! ```

use crate::directory_page::Place;
use crate::fields::{Structure, structure};
use crate::{LayoutError, Reference, UNIT};
use zerocopy::little_endian::{U16, U32};
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
    /// Live runs, counts, moved fragments; or rows, 0, 0.
    counts: [U32; 3],
    reserved: [u8; 12],
}
const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawMoved {
    slot: U16,
    units: U16,
    container: U32,
    offset: U32,
}
const _: () = assert!(size_of::<RawMoved>() == 12);

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawPlace {
    container: U32,
    units: U32,
    stored_bytes: U32,
    crc: U32,
}
const _: () = assert!(size_of::<RawPlace>() == 16);

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
}

impl SegmentPage {
    /// The page, padded with zeros to a unit.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = header(SEGMENT_MAGIC, self.segment, [self.live.len(), self.extra.len(), self.moved.len()]);
        for (slot, units) in &self.live {
            out.extend_from_slice(&slot.to_le_bytes());
            out.extend_from_slice(&units.to_le_bytes());
        }
        for (slot, extra) in &self.extra {
            out.extend_from_slice(&slot.to_le_bytes());
            out.extend_from_slice(&[0; 2]);
            out.extend_from_slice(&extra.to_le_bytes());
        }
        for row in &self.moved {
            let raw = RawMoved {
                slot: row.slot.into(),
                units: row.units.into(),
                container: row.container.into(),
                offset: row.offset_units.into(),
            };
            out.extend_from_slice(raw.as_bytes());
        }
        pad(out)
    }

    /// From a page; checks order and overlap.
    pub fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let structure = "segment page";
        let bad = |field, found: u32| LayoutError::Field { structure, field, found: found.into() };
        let (raw, rest) = read_header(structure, SEGMENT_MAGIC, bytes)?;
        let [live, extra, moved] = raw.counts;
        let (live, rest) = rows(structure, rest, live, 4)?;
        let (extra, rest) = rows(structure, rest, extra, 8)?;
        let (moved, rest) = rows(structure, rest, moved, 12)?;
        check_padding(structure, rest)?;
        let mut page = Self { segment: raw.key.get(), ..Self::default() };
        let mut end = 0_u32;
        for row in live.chunks_exact(4) {
            let (slot, units) = match row {
                [a, b, c, d] => (u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d])),
                _ => (0, 0),
            };
            if units == 0 || u32::from(slot) < end {
                return Err(bad("live run", slot.into()));
            }
            end = u32::from(slot) + u32::from(units);
            page.live.push((slot, units));
        }
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
        let mut end = 0_u32;
        for row in moved.chunks_exact(12) {
            let (raw, _) = RawMoved::read_from_prefix(row).map_err(|_| bad("moved", 0))?;
            let (slot, units) = (raw.slot.get(), raw.units.get());
            if units == 0 || u32::from(slot) < end {
                return Err(bad("moved fragment", slot.into()));
            }
            end = u32::from(slot) + u32::from(units);
            page.moved.push(Moved { slot, units, container: raw.container.get(), offset_units: raw.offset.get() });
        }
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

/// A list that no table row has room for; continued in another page if `next` is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListPage {
    /// Objects whose count is zero and whose edges still count.
    DropQueue(Vec<Reference>),
    /// Segments without a home.
    OrphanedSegments(Vec<OrphanedSegment>),
}

impl ListPage {
    /// The page, padded with zeros to a unit. `next` is [`Place::NONE`] in the last one.
    #[must_use]
    pub fn encode(&self, next: Place) -> Vec<u8> {
        let (key, count) = match self {
            Self::DropQueue(rows) => (1, rows.len()),
            Self::OrphanedSegments(rows) => (2, rows.len()),
        };
        let mut out = header(LIST_MAGIC, key, [count, 0, 0]);
        out.extend_from_slice(encode_place(next).as_bytes());
        match self {
            Self::DropQueue(rows) => rows.iter().for_each(|row| out.extend_from_slice(&row.encode())),
            Self::OrphanedSegments(rows) => {
                for row in rows {
                    out.extend_from_slice(&row.segment.to_le_bytes());
                    out.extend_from_slice(encode_place(row.page).as_bytes());
                }
            }
        }
        pad(out)
    }

    /// From a page: its rows, and where the list goes on.
    pub fn decode(bytes: &[u8]) -> Result<(Self, Place), LayoutError> {
        let structure = "list page";
        let (raw, rest) = read_header(structure, LIST_MAGIC, bytes)?;
        let (next, rest) = rows(structure, rest, U32::new(1), 16)?;
        let next = decode_place(next)?;
        let [count, ..] = raw.counts;
        let (page, rest) = match raw.key.get() {
            1 => {
                let (body, rest) = rows(structure, rest, count, Reference::BYTES)?;
                (
                    Self::DropQueue(
                        body.chunks_exact(Reference::BYTES).map(Reference::decode).collect::<Result<_, _>>()?,
                    ),
                    rest,
                )
            }
            2 => {
                let (body, rest) = rows(structure, rest, count, 20)?;
                let row = |row: &[u8]| {
                    let (segment, place) = row.split_first_chunk::<4>().ok_or(LayoutError::Short {
                        structure,
                        expected: 20,
                        found: row.len(),
                    })?;
                    Ok::<_, LayoutError>(OrphanedSegment {
                        segment: u32::from_le_bytes(*segment),
                        page: decode_place(place)?,
                    })
                };
                (Self::OrphanedSegments(body.chunks_exact(20).map(row).collect::<Result<_, _>>()?), rest)
            }
            found => return Err(LayoutError::Unknown { structure, what: "list", found: found.into() }),
        };
        check_padding(structure, rest)?;
        Ok((page, next))
    }
}

fn encode_place(place: Place) -> RawPlace {
    RawPlace {
        container: place.container.into(),
        units: place.units.into(),
        stored_bytes: place.stored_bytes.into(),
        crc: place.crc.into(),
    }
}

fn decode_place(bytes: &[u8]) -> Result<Place, LayoutError> {
    let (raw, _) = RawPlace::read_from_prefix(bytes).map_err(|_| LayoutError::Short {
        structure: "place",
        expected: 16,
        found: bytes.len(),
    })?;
    Ok(Place {
        container: raw.container.get(),
        units: raw.units.get(),
        stored_bytes: raw.stored_bytes.get(),
        crc: raw.crc.get(),
    })
}

fn header(magic: u32, key: u32, counts: [usize; 3]) -> Vec<u8> {
    let raw = RawHeader {
        magic: magic.into(),
        key: key.into(),
        counts: counts.map(|count| U32::new(u32::try_from(count).unwrap_or(u32::MAX))),
        reserved: [0; 12],
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
    if raw.reserved != [0; 12] {
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

fn check_padding(structure: &'static str, rest: &[u8]) -> Result<(), LayoutError> {
    if rest.len() >= UNIT as usize || rest.iter().any(|b| *b != 0) {
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
    structure!("moved fragment", RawMoved { slot, units, container, offset }),
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
        }
    }

    fn place(n: u32) -> Place {
        Place { container: n, units: 8, stored_bytes: 512, crc: 77 }
    }

    #[test]
    fn pages_round_trip() {
        assert_eq!(SegmentPage::decode(&page().encode()), Ok(page()));
        let reference = Reference {
            oid: Oid::new(1, 1, 8),
            birth: Hlc(1),
            stored_bytes: 512,
            logical_bytes: 512,
            crc: 0,
            kind: ReferenceKind::Node,
            flags: 0,
            encoding: Encoding::Plain,
        };
        let orphans = (0..40).map(|n| OrphanedSegment { segment: n, page: place(n) }).collect();
        for list in [
            ListPage::DropQueue(vec![reference; 33]),
            ListPage::OrphanedSegments(orphans),
            ListPage::DropQueue(Vec::new()),
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
