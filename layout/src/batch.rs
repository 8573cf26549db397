//! Batches: what one checkpoint adds to and takes from counts and liveness, as rows. Split into parts, each an object of its own.
//!
//! ```text
//! part: | header 64 | new 16 ... | freed 16 ... | freed ranges 16 ... | deltas 40 ... | drops 16 ... | history steps 32 ... | repairs 48 ... | edges of the drops 32 ... |
//!       | zeros to 512 |
//! ```
//!
//! The whole batch is the concatenation of each kind of row over all parts, and is applied in the order of the diagram (INV-07: only whole). Parts carry no checksum:
//! the CHECKPOINT record's references to them do.

use crate::fields::{Structure, structure};
use crate::segment::kind_of;
use crate::{LayoutError, Oid, Reference, ReferenceKind, SLOTS, UNIT};
use zerocopy::little_endian::{I32, I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const STRUCTURE: &str = "batch";
/// "EVBT".
pub const MAGIC: u32 = u32::from_le_bytes(*b"EVBT");
/// Largest part.
pub const PART_BYTES_MAX: usize = 1 << 20;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: U32,
    format: U32,
    checkpoint: U64,
    part: U32,
    parts: U32,
    /// New, freed, ranges, deltas, drops, history steps, repairs, edges.
    counts: [U32; 8],
    reserved: U64,
}
const _: () = assert!(size_of::<RawHeader>() == 64);

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawObject {
    oid: U64,
    stored_bytes: U32,
    kind: u8,
    reserved: [u8; 3],
}
const _: () = assert!(size_of::<RawObject>() == 16);

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRange {
    oid: U64,
    first: U32,
    units: U32,
}
const _: () = assert!(size_of::<RawRange>() == 16);

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawDelta {
    reference: [u8; 32],
    delta: I32,
    reserved: U32,
}
const _: () = assert!(size_of::<RawDelta>() == 40);

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHistoryStep {
    checkpoint: U64,
    value: U64,
    wall_ns: I64,
    action: u8,
    reserved: [u8; 7],
}
const _: () = assert!(size_of::<RawHistoryStep>() == 32);

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRepair {
    reference: [u8; 32],
    first: U32,
    units: U32,
    delta: I32,
    action: u8,
    reserved: [u8; 3],
}
const _: () = assert!(size_of::<RawRepair>() == 48);

/// In the place of the number of edges: the node could not be read.
const UNREADABLE: u32 = u32::MAX;

/// An object and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchObject {
    /// The object.
    pub oid: Oid,
    /// Bytes in the segment, growth included.
    pub stored_bytes: u32,
    /// What it is.
    pub kind: ReferenceKind,
}

impl BatchObject {
    /// Units that it takes.
    #[must_use]
    pub const fn units(&self) -> u32 {
        self.stored_bytes.div_ceil(UNIT)
    }
}

impl From<&Reference> for BatchObject {
    fn from(reference: &Reference) -> Self {
        Self { oid: reference.oid, stored_bytes: reference.stored_bytes, kind: reference.kind }
    }
}

/// Units of an extent that an operation freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchRange {
    /// The extent.
    pub oid: Oid,
    /// First unit, from the extent's start.
    pub first: u32,
    /// Units.
    pub units: u32,
}

/// A change of an object's count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delta {
    /// The object; enough to free it and to read its edges when the count reaches zero.
    pub reference: Reference,
    /// Edges gained less edges lost; never 0.
    pub delta: i32,
}

/// One entry of the drop queue that was worked off: the object was freed, and every edge lost one. Or it could not be read: then it stays allocated, in a list of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drop {
    /// The object that stood last in the queue.
    pub object: Oid,
    /// Its length.
    pub stored_bytes: u32,
    /// Its distinct edges; none if it could not be read.
    pub edges: Vec<Reference>,
    /// It could not be read: nothing is freed, its edges go on counting.
    pub unreadable: bool,
}

/// A decision about retained checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryStep {
    /// This checkpoint is retained from now on.
    Retain {
        /// The checkpoint of this batch.
        checkpoint: u64,
        /// Segments from this number on were opened after its freeze.
        segment_bound: u32,
        /// Wall clock at its freeze.
        wall_ns: i64,
    },
    /// It is retained no longer; what died under it will be freed.
    Drop {
        /// The oldest one retained.
        checkpoint: u64,
    },
    /// So many rows of its deferred units, from the newest back, are freed.
    Release {
        /// A dropped one.
        checkpoint: u64,
        /// Rows.
        rows: u64,
    },
}

/// What a mark found wrong, and what sets it right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RepairAction {
    /// The count changes by `delta`, if the object is live.
    Count = 1,
    /// The units are dead.
    Dead = 2,
    /// The units are live.
    Live = 3,
    /// The object has no count of its own any more: it is not one.
    Forget = 4,
    /// The node leaves the list of unreadable ones.
    Readable = 5,
}

/// One correction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repair {
    /// What to do.
    pub action: RepairAction,
    /// The object; of one that nothing refers to only the id is known.
    pub reference: Reference,
    /// First unit, from its start.
    pub first: u32,
    /// Units.
    pub units: u32,
    /// Change of its count.
    pub delta: i32,
}

/// What one checkpoint does to counts and liveness.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Number of the checkpoint.
    pub checkpoint: u64,
    /// Objects that this checkpoint contains first.
    pub new: Vec<BatchObject>,
    /// Objects freed at once: exclusive nodes that left their tree.
    pub freed: Vec<BatchObject>,
    /// Ranges freed by operations.
    pub ranges: Vec<BatchRange>,
    /// Changes of counts, in order of OID.
    pub deltas: Vec<Delta>,
    /// Drop queue entries worked off, in order.
    pub drops: Vec<Drop>,
    /// Decisions about retained checkpoints, in order. Drops come before everything else in the batch, the others after it.
    pub history: Vec<HistoryStep>,
    /// Corrections of a mark; after everything else.
    pub repairs: Vec<Repair>,
}

impl Batch {
    /// Parts of at most [`PART_BYTES_MAX`]; at least one.
    #[must_use]
    pub fn encode(&self, part_bytes_max: usize) -> Vec<Vec<u8>> {
        let mut parts = vec![Part::default()];
        let object = |o: &BatchObject| RawObject {
            oid: o.oid.0.into(),
            stored_bytes: o.stored_bytes.into(),
            kind: o.kind as u8,
            reserved: [0; 3],
        };
        for row in &self.new {
            Part::push(&mut parts, part_bytes_max, 0, &[object(row).as_bytes()]);
        }
        for row in &self.freed {
            Part::push(&mut parts, part_bytes_max, 1, &[object(row).as_bytes()]);
        }
        for row in &self.ranges {
            let raw = RawRange { oid: row.oid.0.into(), first: row.first.into(), units: row.units.into() };
            Part::push(&mut parts, part_bytes_max, 2, &[raw.as_bytes()]);
        }
        for row in &self.deltas {
            let raw = RawDelta { reference: row.reference.encode(), delta: row.delta.into(), reserved: 0.into() };
            Part::push(&mut parts, part_bytes_max, 3, &[raw.as_bytes()]);
        }
        for row in &self.drops {
            let edges: Vec<u8> = row.edges.iter().flat_map(Reference::encode).collect();
            let raw = RawRange {
                oid: row.object.0.into(),
                first: row.stored_bytes.into(),
                units: if row.unreadable { UNREADABLE } else { u32::try_from(row.edges.len()).unwrap_or(0) }.into(),
            };
            Part::push(&mut parts, part_bytes_max, 4, &[raw.as_bytes(), &edges]);
        }
        for row in &self.history {
            Part::push(&mut parts, part_bytes_max, 5, &[row.raw().as_bytes()]);
        }
        for row in &self.repairs {
            Part::push(&mut parts, part_bytes_max, 6, &[row.raw().as_bytes()]);
        }
        let count = parts.len();
        parts.iter().enumerate().map(|(index, part)| part.encode(self.checkpoint, index, count)).collect()
    }

    /// From all parts in order.
    pub fn decode<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, LayoutError> {
        let mut batch = Self::default();
        let (mut index, mut total) = (0_u32, 0_u32);
        for bytes in parts {
            let (raw, rest) = RawHeader::read_from_prefix(bytes).map_err(|_| LayoutError::Short {
                structure: STRUCTURE,
                expected: size_of::<RawHeader>(),
                found: bytes.len(),
            })?;
            if raw.magic.get() != MAGIC {
                return Err(LayoutError::Magic {
                    structure: STRUCTURE,
                    expected: MAGIC.into(),
                    found: raw.magic.get().into(),
                });
            }
            if raw.format.get() != 1 {
                return Err(LayoutError::Unknown {
                    structure: STRUCTURE,
                    what: "format",
                    found: raw.format.get().into(),
                });
            }
            if raw.part.get() != index
                || (index > 0 && (raw.parts.get() != total || raw.checkpoint.get() != batch.checkpoint))
            {
                return Err(field("part", raw.part.get().into()));
            }
            if raw.reserved.get() != 0 {
                return Err(field("reserved", raw.reserved.get()));
            }
            total = raw.parts.get();
            batch.checkpoint = raw.checkpoint.get();
            index += 1;
            batch.add_rows(&raw, rest)?;
        }
        if index != total || index == 0 {
            return Err(field("parts", total.into()));
        }
        Ok(batch)
    }

    fn add_rows(&mut self, raw: &RawHeader, mut rest: &[u8]) -> Result<(), LayoutError> {
        let rows_bytes = rest.len();
        let mut section = |rows: U32, bytes: usize| {
            let need = rows.get() as usize * bytes;
            let (head, tail) = rest.split_at_checked(need).ok_or(LayoutError::Short {
                structure: STRUCTURE,
                expected: need,
                found: rest.len(),
            })?;
            rest = tail;
            Ok::<&[u8], LayoutError>(head)
        };
        let [new, freed, ranges, deltas, drops, history, repairs, edges] = raw.counts;
        for row in section(new, 16)?.chunks_exact(16) {
            self.new.push(decode_object(row)?);
        }
        for row in section(freed, 16)?.chunks_exact(16) {
            self.freed.push(decode_object(row)?);
        }
        for row in section(ranges, 16)?.chunks_exact(16) {
            let raw = decode_range(row)?;
            inside(Oid(raw.oid.get()), raw.first.get(), raw.units.get())?;
            self.ranges.push(BatchRange { oid: Oid(raw.oid.get()), first: raw.first.get(), units: raw.units.get() });
        }
        for row in section(deltas, 40)?.chunks_exact(40) {
            let (raw, _) = RawDelta::read_from_prefix(row).map_err(|_| field("delta", 0))?;
            if raw.delta.get() == 0 || raw.reserved.get() != 0 {
                return Err(field("delta", u64::from(raw.reserved.get())));
            }
            self.deltas.push(Delta { reference: Reference::decode(&raw.reference)?, delta: raw.delta.get() });
        }
        let drops = section(drops, 16)?;
        for row in section(history, size_of::<RawHistoryStep>())?.chunks_exact(size_of::<RawHistoryStep>()) {
            self.history.push(HistoryStep::decode(row)?);
        }
        for row in section(repairs, size_of::<RawRepair>())?.chunks_exact(size_of::<RawRepair>()) {
            self.repairs.push(Repair::decode(row)?);
        }
        let mut edges = section(edges, Reference::BYTES)?;
        for row in drops.chunks_exact(16) {
            let raw = decode_range(row)?;
            let unreadable = raw.units.get() == UNREADABLE;
            let need = if unreadable { 0 } else { raw.units.get() as usize * Reference::BYTES };
            let (head, tail) =
                edges.split_at_checked(need).ok_or_else(|| field("drop edges", raw.units.get().into()))?;
            edges = tail;
            let edges = head.chunks_exact(Reference::BYTES).map(Reference::decode).collect::<Result<_, _>>()?;
            self.drops.push(Drop { object: Oid(raw.oid.get()), stored_bytes: raw.first.get(), edges, unreadable });
        }
        if !edges.is_empty() {
            return Err(field("drop edges", edges.len() as u64));
        }
        let whole = (size_of::<RawHeader>() + rows_bytes).is_multiple_of(UNIT as usize);
        if !whole || rest.len() >= UNIT as usize || rest.iter().any(|b| *b != 0) {
            return Err(field("padding", rest.len() as u64));
        }
        Ok(())
    }
}

#[derive(Default)]
struct Part {
    sections: [Vec<u8>; 7],
    edges: Vec<u8>,
    counts: [u32; 7],
    bytes: usize,
}

impl Part {
    fn push(parts: &mut Vec<Self>, max: usize, section: usize, row: &[&[u8]]) {
        let len: usize = row.iter().map(|piece| piece.len()).sum();
        if parts.last().is_none_or(|part| part.bytes > 0 && size_of::<RawHeader>() + part.bytes + len > max) {
            parts.push(Self::default());
        }
        let (Some(part), [head, tail @ ..]) = (parts.last_mut(), row) else { return };
        if let Some(bytes) = part.sections.get_mut(section) {
            bytes.extend_from_slice(head);
        }
        if let Some(count) = part.counts.get_mut(section) {
            *count += 1;
        }
        for piece in tail {
            part.edges.extend_from_slice(piece);
        }
        part.bytes += len;
    }

    fn encode(&self, checkpoint: u64, index: usize, parts: usize) -> Vec<u8> {
        let [new, freed, ranges, deltas, drops, history, repairs] = self.counts;
        let small = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let edges = small(self.edges.len() / Reference::BYTES);
        let raw = RawHeader {
            magic: MAGIC.into(),
            format: 1.into(),
            checkpoint: checkpoint.into(),
            part: small(index).into(),
            parts: small(parts).into(),
            counts: [new, freed, ranges, deltas, drops, history, repairs, edges].map(U32::new),
            reserved: 0.into(),
        };
        let mut out = raw.as_bytes().to_vec();
        for section in &self.sections {
            out.extend_from_slice(section);
        }
        out.extend_from_slice(&self.edges);
        out.resize(out.len().next_multiple_of(UNIT as usize), 0);
        out
    }
}

impl HistoryStep {
    fn raw(&self) -> RawHistoryStep {
        let (action, checkpoint, value, wall_ns) = match *self {
            Self::Retain { checkpoint, segment_bound, wall_ns } => (1, checkpoint, segment_bound.into(), wall_ns),
            Self::Drop { checkpoint } => (2, checkpoint, 0, 0),
            Self::Release { checkpoint, rows } => (3, checkpoint, rows, 0),
        };
        let (checkpoint, value, wall_ns) = (checkpoint.into(), value.into(), wall_ns.into());
        RawHistoryStep { checkpoint, value, wall_ns, action, reserved: [0; 7] }
    }

    fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let (raw, _) = RawHistoryStep::read_from_prefix(bytes).map_err(|_| field("history step", 0))?;
        if raw.reserved != [0; 7] {
            return Err(field("reserved", 1));
        }
        let (checkpoint, value) = (raw.checkpoint.get(), raw.value.get());
        if raw.action != 1 && raw.wall_ns.get() != 0 || raw.action == 2 && value != 0 {
            return Err(field("history step", value));
        }
        match raw.action {
            1 => {
                let segment_bound = u32::try_from(value).map_err(|_| field("segment bound", value))?;
                Ok(Self::Retain { checkpoint, segment_bound, wall_ns: raw.wall_ns.get() })
            }
            2 => Ok(Self::Drop { checkpoint }),
            3 => Ok(Self::Release { checkpoint, rows: value }),
            other => Err(LayoutError::Unknown { structure: STRUCTURE, what: "history step", found: other.into() }),
        }
    }
}

impl Repair {
    fn raw(&self) -> RawRepair {
        RawRepair {
            reference: self.reference.encode(),
            first: self.first.into(),
            units: self.units.into(),
            delta: self.delta.into(),
            action: self.action as u8,
            reserved: [0; 3],
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let (raw, _) = RawRepair::read_from_prefix(bytes).map_err(|_| field("repair", 0))?;
        if raw.reserved != [0; 3] {
            return Err(field("reserved", 1));
        }
        let action = match raw.action {
            1 => RepairAction::Count,
            2 => RepairAction::Dead,
            3 => RepairAction::Live,
            4 => RepairAction::Forget,
            5 => RepairAction::Readable,
            other => {
                return Err(LayoutError::Unknown { structure: STRUCTURE, what: "repair", found: other.into() });
            }
        };
        let reference = Reference::decode(&raw.reference)?;
        inside(reference.oid, raw.first.get(), raw.units.get())?;
        Ok(Self { action, reference, first: raw.first.get(), units: raw.units.get(), delta: raw.delta.get() })
    }
}

fn decode_object(bytes: &[u8]) -> Result<BatchObject, LayoutError> {
    let (raw, _) = RawObject::read_from_prefix(bytes).map_err(|_| field("object", 0))?;
    if raw.reserved != [0; 3] {
        return Err(field("reserved", raw.reserved.map(u64::from).iter().sum()));
    }
    inside(Oid(raw.oid.get()), 0, raw.stored_bytes.get().div_ceil(UNIT))?;
    Ok(BatchObject {
        oid: Oid(raw.oid.get()),
        stored_bytes: raw.stored_bytes.get(),
        kind: kind_of(STRUCTURE, raw.kind)?,
    })
}

fn decode_range(bytes: &[u8]) -> Result<RawRange, LayoutError> {
    RawRange::read_from_prefix(bytes).map(|(raw, _)| raw).map_err(|_| field("range", 0))
}

/// Units of an object, from one of its own on, must have slots of its segment.
fn inside(oid: Oid, first: u32, units: u32) -> Result<(), LayoutError> {
    let end = u64::from(oid.slot()) + u64::from(first) + u64::from(units);
    if end > SLOTS.into() { Err(field("end", end)) } else { Ok(()) }
}

fn field(field: &'static str, found: u64) -> LayoutError {
    LayoutError::Field { structure: STRUCTURE, field, found }
}

/// For the documentation; see [`crate::fields`].
pub(crate) const LAYOUTS: &[Structure] = &[
    structure!("batch part header", RawHeader { magic, format, checkpoint, part, parts, counts, reserved }),
    structure!("batch object row", RawObject { oid, stored_bytes, kind, reserved }),
    structure!("batch range row", RawRange { oid, first, units }),
    structure!("batch delta row", RawDelta { reference, delta, reserved }),
    structure!("batch history step", RawHistoryStep { checkpoint, value, wall_ns, action, reserved }),
    structure!("batch repair row", RawRepair { reference, first, units, delta, action, reserved }),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Encoding, Hlc};
    use proptest::prelude::*;

    fn reference(slot: u16) -> Reference {
        Reference {
            oid: Oid::new(1, 1, slot),
            birth: Hlc(1),
            stored_bytes: 512,
            logical_bytes: 512,
            crc: 0,
            kind: ReferenceKind::Node,
            flags: 0,
            encoding: Encoding::Plain,
        }
    }

    fn sample(rows: u16) -> Batch {
        let objects: Vec<BatchObject> = (1..=rows).map(|n| BatchObject::from(&reference(n))).collect();
        Batch {
            checkpoint: 12,
            new: objects.clone(),
            freed: objects,
            ranges: (1..=rows).map(|n| BatchRange { oid: reference(n).oid, first: 8, units: 16 }).collect(),
            deltas: (1..=rows)
                .map(|n| Delta { reference: reference(n), delta: if n % 2 == 0 { -1 } else { 3 } })
                .collect(),
            drops: (1..=rows)
                .map(|n| Drop {
                    object: reference(n).oid,
                    stored_bytes: 512,
                    edges: (1..n % 5).map(reference).collect(),
                    unreadable: n % 5 == 0,
                })
                .collect(),
            history: (1..=u64::from(rows))
                .map(|n| match n % 3 {
                    0 => HistoryStep::Retain { checkpoint: n, segment_bound: 7, wall_ns: -9 },
                    1 => HistoryStep::Drop { checkpoint: n },
                    _ => HistoryStep::Release { checkpoint: n, rows: 1 << 40 },
                })
                .collect(),
            repairs: (1..=rows)
                .map(|n| Repair {
                    action: match n % 5 {
                        0 => RepairAction::Count,
                        1 => RepairAction::Dead,
                        2 => RepairAction::Live,
                        3 => RepairAction::Forget,
                        _ => RepairAction::Readable,
                    },
                    reference: reference(n),
                    first: 3,
                    units: 4,
                    delta: -2,
                })
                .collect(),
        }
    }

    #[test]
    fn a_batch_survives_any_split_into_parts() {
        for rows in [0, 1, if cfg!(miri) { 6 } else { 40 }] {
            for max in [0, 512, 1500, PART_BYTES_MAX] {
                let parts = sample(rows).encode(max);
                assert_eq!(
                    Batch::decode(parts.iter().map(Vec::as_slice)),
                    Ok(sample(rows)),
                    "{rows} rows, {max} bytes a part"
                );
            }
        }
    }

    #[test]
    fn a_missing_or_swapped_part_is_refused() {
        let parts = sample(40).encode(1500);
        assert!(Batch::decode(parts[1..].iter().map(Vec::as_slice)).is_err());
        assert!(Batch::decode(parts[..parts.len() - 1].iter().map(Vec::as_slice)).is_err());
        assert!(Batch::decode(parts.iter().rev().map(Vec::as_slice)).is_err());
        assert!(Batch::decode(std::iter::empty()).is_err());
    }

    proptest! {
        #[test]
        fn decoding_never_panics(damage in proptest::collection::vec((0usize..2000, any::<u8>()), 1..8)) {
            let mut part = sample(20).encode(PART_BYTES_MAX).remove(0);
            for (at, value) in damage { let len = part.len(); part[at % len] = value; }
            let _ = Batch::decode([part.as_slice()]);
        }
    }

    #[test]
    fn what_lies_beyond_the_slots_of_a_segment_is_refused() {
        let decode = |batch: &Batch| Batch::decode(batch.encode(4096).iter().map(|part| &**part));
        let (oid, slots) = (reference(8).oid, SLOTS);
        let repair = |units| Repair { action: RepairAction::Dead, reference: reference(8), first: 0, units, delta: 0 };
        for (units, fits) in [(slots - 8, true), (slots - 7, false), (u32::MAX, false)] {
            let range = BatchRange { oid, first: 0, units };
            assert_eq!(decode(&Batch { ranges: vec![range], ..Batch::default() }).is_ok(), fits);
            assert_eq!(decode(&Batch { repairs: vec![repair(units)], ..Batch::default() }).is_ok(), fits);
        }
        let object = |stored_bytes| BatchObject { oid, stored_bytes, kind: ReferenceKind::Node };
        assert!(decode(&Batch { new: vec![object(u32::MAX)], ..Batch::default() }).is_err());
    }
}
