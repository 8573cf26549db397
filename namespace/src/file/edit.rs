//! Edits: what a WRITE, TRUNCATE or punch record does to the active changes.
//!
//! Two steps, so that nothing can fail once a record is in the log: [`prepare`] reads, [`apply`] changes memory.

use super::changes::{self, blocks_of, continues};
use super::read::{read_block, usize_of};
use super::view::{Kind, Part, bad_extent, walk};
use super::{BLOCK_BYTES, Block, Content, FILE_BYTES_MAX};
use crate::api::{Error, Result};
use crate::tree::Nodes;
use envoyfs_engine::store::{DataObject, FreedRange};
use envoyfs_layout::slice::SLICE_BLOCKS_MAX;
use envoyfs_layout::{BLOCK, Hlc, Oid, Reference};
use std::collections::{BTreeMap, HashMap};
use std::ops::{ControlFlow, Range};

/// A change of contents as its record describes it.
#[derive(Clone, Copy, Debug)]
pub enum Edit<'a> {
    /// Bytes at offsets, and objects of whole blocks at file blocks; no block in both, none twice in objects.
    Write {
        /// Bytes that go into blocks in memory: (offset in the file, bytes).
        pieces: &'a [(u64, &'a [u8])],
        /// Objects that are written already: (file block, object).
        direct: &'a [(u64, &'a DataObject)],
    },
    /// A new size: what is beyond becomes a hole, and the rest of the last block zeros.
    Truncate {
        /// Bytes.
        new_size: u64,
    },
    /// Zeros in a range: whole blocks become a hole. The size stays.
    Punch {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
}

/// An edit that cannot fail any more.
#[derive(Debug, Default)]
pub struct Prepared {
    /// New contents of blocks, by file block.
    payloads: BTreeMap<u64, Box<Block>>,
    /// Objects, by file block.
    direct: Vec<(u64, DataObject)>,
    /// Blocks that become holes.
    holes: Vec<Range<u64>>,
    /// What was visible of extents in all these blocks: extent and units.
    covered: Vec<(Reference, Range<u32>)>,
    /// Bytes that were allocated in all these blocks.
    bytes_before: u64,
}

impl Prepared {
    /// Does it change nothing?
    pub fn is_empty(&self) -> bool {
        self.payloads.is_empty() && self.direct.is_empty() && self.holes.is_empty()
    }

    /// Bytes of blocks that it will hold in memory until the next checkpoint writes them.
    pub fn payload_bytes(&self) -> u64 {
        self.payloads.len() as u64 * BLOCK_BYTES
    }

    /// Notes a part that will not be visible any more.
    fn cover(&mut self, part: &Part<'_>) {
        self.bytes_before = self.bytes_before.saturating_add(part.bytes());
        if let Kind::Slice(stored) = &part.kind {
            self.covered.push((stored.extent, stored.units()));
        }
    }
}

/// Bytes for a part of one block: where they start in it.
struct Patch<'a> {
    at: usize,
    bytes: &'a [u8],
}

/// What an edit wants of which blocks. Everything but `zeros` covers what was there.
#[derive(Default)]
struct Plan<'a> {
    /// Blocks that get bytes.
    patches: BTreeMap<u64, Vec<Patch<'a>>>,
    /// Blocks that objects replace, ascending and disjoint.
    objects: Vec<Range<u64>>,
    /// Blocks that become a hole; may be empty.
    hole: Range<u64>,
    /// Blocks in which a range becomes zeros, if they have anything else there.
    zeros: Vec<(u64, Range<usize>)>,
}

/// See [`Content::prepare`].
pub(super) fn prepare(content: &Content, nodes: &Nodes, old_size: u64, edit: &Edit<'_>) -> Result<Prepared> {
    let mut prepared = Prepared::default();
    let plan = match edit {
        Edit::Write { pieces, direct } => {
            check_objects(content, direct)?;
            prepared.direct = direct.iter().map(|(block, object)| (*block, (*object).clone())).collect();
            plan_write(pieces, direct)?
        }
        Edit::Truncate { new_size } => plan_zeros(*new_size..old_size, old_size)?,
        Edit::Punch { offset, len } => plan_zeros(*offset..offset.saturating_add(*len).min(old_size), old_size)?,
    };
    if let Edit::Truncate { new_size } = edit
        && *new_size > FILE_BYTES_MAX
    {
        return Err(Error::FileTooLarge);
    }
    for range in plan.covered() {
        walk(content, nodes, range, &mut |part| {
            prepared.cover(&part);
            for (block, patches) in plan.patches.range(part.blocks.clone()) {
                prepared.payloads.insert(*block, patched(nodes, old_size, &part, *block, patches)?);
            }
            Ok(ControlFlow::Continue(()))
        })?;
    }
    if !plan.hole.is_empty() {
        let mut mapped: Option<Range<u64>> = None;
        walk(content, nodes, plan.hole.clone(), &mut |part| {
            if !matches!(part.kind, Kind::Hole) {
                prepared.cover(&part);
                mapped = Some(mapped.take().map_or(part.blocks.start, |m| m.start)..part.blocks.end);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        prepared.holes.extend(mapped);
    }
    for (block, range) in &plan.zeros {
        walk(content, nodes, *block..block + 1, &mut |part| {
            if let Some(bytes) = zeroed(nodes, old_size, &part, range)? {
                prepared.cover(&part);
                prepared.payloads.insert(*block, bytes);
            }
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(prepared)
}

impl Plan<'_> {
    /// The blocks that a write covers, as few ranges as possible.
    fn covered(&self) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> =
            self.patches.keys().map(|block| *block..block + 1).chain(self.objects.iter().cloned()).collect();
        ranges.sort_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => merged.push(range),
            }
        }
        merged
    }
}

/// Bytes by block, and the blocks of objects; refuses what no writer of records makes.
fn plan_write<'a>(pieces: &[(u64, &'a [u8])], direct: &[(u64, &DataObject)]) -> Result<Plan<'a>> {
    let mut plan = Plan::default();
    let fits = |start: u64, bytes: u64| {
        start.checked_add(bytes).filter(|end| *end <= FILE_BYTES_MAX).ok_or(Error::FileTooLarge)
    };
    for (offset, bytes) in pieces {
        fits(*offset, bytes.len() as u64)?;
        let (mut offset, mut rest) = (*offset, *bytes);
        while !rest.is_empty() {
            let at = usize_of(offset % BLOCK_BYTES);
            let (bytes, more) = rest.split_at(rest.len().min(usize_of(BLOCK_BYTES) - at));
            plan.patches.entry(offset / BLOCK_BYTES).or_default().push(Patch { at, bytes });
            offset += bytes.len() as u64;
            rest = more;
        }
    }
    for (block, object) in direct {
        fits(block.checked_mul(BLOCK_BYTES).ok_or(Error::FileTooLarge)?, object.stored_bytes.into())?;
        let range = *block..block + object.crcs.len() as u64;
        if plan.patches.range(range.clone()).next().is_some()
            || plan.objects.iter().any(|other| other.start < range.end && range.start < other.end)
        {
            return Err(bad_extent(object.oid, "a record writes a block twice"));
        }
        plan.objects.push(range);
    }
    Ok(plan)
}

/// Zeros in a range of bytes: whole blocks (the last one counts as whole if the file ends in it) become a hole.
fn plan_zeros<'a>(range: Range<u64>, size: u64) -> Result<Plan<'a>> {
    let mut plan = Plan::default();
    if size > FILE_BYTES_MAX + BLOCK_BYTES {
        return Err(Error::FileTooLarge);
    }
    if range.is_empty() {
        return Ok(plan);
    }
    let end = if range.end == size { blocks_of(size) * BLOCK_BYTES } else { range.end };
    let (first, last) = (blocks_of(range.start), end / BLOCK_BYTES);
    let in_block = |offset: u64| usize_of(offset % BLOCK_BYTES);
    if first > last {
        plan.zeros.push((last, in_block(range.start)..in_block(end)));
        return Ok(plan);
    }
    if !range.start.is_multiple_of(BLOCK_BYTES) {
        plan.zeros.push((first - 1, in_block(range.start)..usize_of(BLOCK_BYTES)));
    }
    if !end.is_multiple_of(BLOCK_BYTES) {
        plan.zeros.push((last, 0..in_block(end)));
    }
    plan.hole = first..last;
    Ok(plan)
}

/// Refuses objects that no writer of records makes: not whole blocks, or the growth of something that does not end there.
fn check_objects(content: &Content, direct: &[(u64, &DataObject)]) -> Result<()> {
    let mut extents: HashMap<Oid, Reference> = HashMap::new();
    for (_, object) in direct {
        let oid = object.oid;
        let blocks = u64::from(object.stored_bytes / BLOCK);
        if !object.stored_bytes.is_multiple_of(BLOCK)
            || blocks == 0
            || blocks != object.crcs.len() as u64
            || blocks > u64::from(SLICE_BLOCKS_MAX)
        {
            return Err(bad_extent(oid, "a record names an object that is not whole blocks with a checksum each"));
        }
        let known = |oid: Oid| extents.get(&oid).copied().or_else(|| content.active.extent(oid));
        if known(oid).is_some() {
            return Err(bad_extent(oid, "a record names an object that another one named"));
        }
        let mut extent = changes::reference(oid, 0, 0, Hlc::ZERO);
        if let Some(head) = object.extends {
            extent = known(head)
                .filter(|extent| continues(extent, object))
                .ok_or_else(|| bad_extent(oid, "a record extends an object that does not end there"))?;
        }
        extent.stored_bytes += object.stored_bytes;
        if extent.stored_bytes > SLICE_BLOCKS_MAX * BLOCK {
            return Err(bad_extent(oid, "a record extends an object beyond the largest extent"));
        }
        extents.insert(extent.oid, extent);
    }
    Ok(())
}

/// What a block of a part holds now. Beyond the size it is zeros, whatever is stored there.
fn load(nodes: &Nodes, size: u64, part: &Part<'_>, block: u64) -> Result<Box<Block>> {
    let mut bytes = match &part.kind {
        Kind::Hole => return Ok(zeros()),
        Kind::Payload(bytes) => Box::new(**bytes),
        Kind::Inline(inline) => {
            let mut bytes = zeros();
            bytes.iter_mut().zip(*inline).for_each(|(to, from)| *to = *from);
            bytes
        }
        Kind::Slice(stored) => match stored.cut(block.saturating_sub(part.blocks.start), 1) {
            Some(one) => read_block(nodes, &one)?,
            None => return Err(bad_extent(stored.extent.oid, "a slice has fewer blocks than it should")),
        },
    };
    let valid = usize_of(size.saturating_sub(block.saturating_mul(BLOCK_BYTES)));
    if let Some(beyond) = bytes.get_mut(valid..) {
        beyond.fill(0);
    }
    Ok(bytes)
}

/// A block of a part with bytes over it. Not read if it is replaced whole.
fn patched(nodes: &Nodes, size: u64, part: &Part<'_>, block: u64, patches: &[Patch<'_>]) -> Result<Box<Block>> {
    let whole = patches.iter().any(|patch| patch.bytes.len() as u64 == BLOCK_BYTES);
    let mut bytes = if whole { zeros() } else { load(nodes, size, part, block)? };
    for patch in patches {
        if let Some(place) = bytes.get_mut(patch.at..patch.at + patch.bytes.len()) {
            place.copy_from_slice(patch.bytes);
        }
    }
    Ok(bytes)
}

/// A part of one block with zeros in a range; `None` if it reads as zeros there already, wherever it is stored, so that a replay over what has been built since decides alike.
fn zeroed(nodes: &Nodes, size: u64, part: &Part<'_>, range: &Range<usize>) -> Result<Option<Box<Block>>> {
    let stored = match &part.kind {
        Kind::Hole => 0,
        Kind::Payload(_) => usize_of(BLOCK_BYTES),
        Kind::Inline(bytes) => bytes.len(),
        Kind::Slice(stored) => usize_of(stored.last_block_bytes.into()),
    };
    if stored <= range.start {
        return Ok(None);
    }
    let mut bytes = load(nodes, size, part, part.blocks.start)?;
    match bytes.get_mut(range.clone()) {
        Some(place) if place.iter().any(|byte| *byte != 0) => place.fill(0),
        _ => return Ok(None),
    }
    Ok(Some(bytes))
}

fn zeros() -> Box<Block> {
    Box::new([0; BLOCK as usize])
}

/// See [`Content::apply`].
pub(super) fn apply(content: &mut Content, prepared: Prepared, es: Hlc, birth: Hlc, freed: &mut Vec<FreedRange>) {
    if prepared.is_empty() {
        return;
    }
    let direct_bytes: u64 = prepared.direct.iter().map(|(_, object)| u64::from(object.stored_bytes)).sum();
    let bytes_after = prepared.payload_bytes() + direct_bytes;
    content.active_bytes =
        content.active_bytes.saturating_add_unsigned(bytes_after).saturating_sub_unsigned(prepared.bytes_before);
    for (extent, units) in prepared.covered {
        free(&extent, units, es, freed);
    }
    content.active.raise_birth(birth);
    for hole in prepared.holes {
        content.active.put_hole(hole);
    }
    for (block, bytes) in prepared.payloads {
        content.active.put_payload(block, bytes, birth);
    }
    for (block, object) in prepared.direct {
        content.active.put_object(block, object, birth);
    }
}

/// Blocks of an extent that are not visible any more: freed if the extent is exclusive, else left to its count (INV-11).
pub(super) fn free(extent: &Reference, units: Range<u32>, es: Hlc, freed: &mut Vec<FreedRange>) {
    if !extent.birth.exclusive(es) || units.is_empty() {
        return;
    }
    match freed.last_mut() {
        Some(last) if last.oid == extent.oid && last.units.end == units.start => last.units.end = units.end,
        _ => freed.push(FreedRange { oid: extent.oid, units }),
    }
}
