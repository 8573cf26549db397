//! Building: the frozen changes become a new body, at a checkpoint or a fork.
//!
//! Payload blocks become extents; tiny files become bytes in the inode; few slices stay in the inode, more make an extents tree. Nothing is freed here: what the changes
//! cover was freed when they were made. If power fails or an append does, the appended objects are dead space, and the content is as before.

use super::changes::{Changes, Entry, reference};
use super::edit::free;
use super::read::usize_of;
use super::view::{Kind, walk_frozen};
use super::{BLOCK_BYTES, Content, extents};
use crate::api::Result;
use crate::tree::{Change, Nodes, Tree};
use envoyfs_engine::store::{Batch, FreedRange, Gone};
use envoyfs_layout::inode::{INLINE_BYTES_MAX, INLINE_SLICES_MAX};
use envoyfs_layout::node::Owner;
use envoyfs_layout::slice::SLICE_BLOCKS_MAX;
use envoyfs_layout::{BLOCK, Body, Hlc, Reference, Slice, UNIT};
use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};

/// Most blocks of the slices of an inode together: 1 KiB of checksums, so that a leaf of a directory still holds a dozen of such files.
const INLINE_BLOCKS_MAX: u64 = 256;

/// A slice and its extent.
type Placed = (Slice, Reference);

/// A body built from the frozen changes, to be installed.
#[derive(Debug)]
pub struct Built {
    /// For the entry.
    pub body: Body,
    /// Birth of the newest change in it and of what it references; zero if it has neither.
    pub birth: Hlc,
    /// Allocated bytes.
    pub allocated: u64,
    /// Where blocks that were in memory went.
    made: Vec<Made>,
}

/// Blocks that were in memory, or bytes in the inode, and where they are now.
#[derive(Debug)]
struct Made {
    blocks: Range<u64>,
    /// Bytes that each of them counted as allocated.
    counted: u64,
    /// The extent that they are; none if they are in the inode.
    extent: Option<Reference>,
}

impl Made {
    /// Units of some of the blocks in the extent.
    fn units(&self, blocks: &Range<u64>) -> Range<u32> {
        let unit = |block: u64| {
            let units = block.saturating_sub(self.blocks.start).saturating_mul(u64::from(BLOCK / UNIT));
            u32::try_from(units).unwrap_or(u32::MAX).min(self.extent.map_or(0, |extent| extent.units()))
        };
        unit(blocks.start)..unit(blocks.end)
    }
}

/// Where a build writes to.
struct Builder<'a> {
    nodes: &'a Nodes,
    tree: Tree,
    batch: Batch,
    es: Hlc,
    /// Newest change of the layer.
    birth: Hlc,
    made: Vec<Made>,
    gone: Vec<Gone>,
}

impl Content {
    /// Builds a new body from the frozen changes, or gives the base if there are none. Writes payloads and nodes to `batch`; `owner` is a hint in the nodes. Nodes of the old
    /// extents tree that are exclusive on a path with share time `es` go to `gone` when they are replaced. `size` is that of the frozen attributes. Changes nothing here, so
    /// that it may be repeated after an error; readers and the active layer may go on until [`install`](Self::install).
    pub fn build(
        &self,
        nodes: &Nodes,
        owner: Owner,
        batch: Batch,
        es: Hlc,
        size: u64,
        gone: &mut Vec<Gone>,
    ) -> Result<Built> {
        let Some(frozen) = &self.frozen else {
            let body = self.base.clone();
            return Ok(Built { birth: birth_of(&body), allocated: body.allocated(), body, made: Vec::new() });
        };
        let mut builder = Builder {
            nodes,
            tree: Tree::extents(owner),
            batch,
            es,
            birth: frozen.birth(),
            made: Vec::new(),
            gone: Vec::new(),
        };
        let body = match self.inline_bytes(nodes, size)? {
            Some((bytes, counted)) => {
                builder.made.push(Made { blocks: 0..1, counted, extent: None });
                if let Body::Tree { root, .. } = &self.base {
                    extents::retire(nodes, root, es, &mut builder.gone)?;
                }
                Body::inline(bytes)
            }
            None => builder.body(&self.base, frozen)?,
        };
        gone.append(&mut builder.gone);
        Ok(Built { birth: frozen.birth().max(birth_of(&body)), allocated: body.allocated(), body, made: builder.made })
    }

    /// The checkpoint names the new body: it becomes the base, and the frozen changes are dropped. What the active changes cover of blocks that had no extent until now is
    /// freed here, for an `es` and a list of the current batch.
    pub fn install(&mut self, built: Built, es: Hlc, freed: &mut Vec<FreedRange>) {
        for made in &built.made {
            for (block, entry) in self.active.overlapping(made.blocks.clone()) {
                let covered = block.max(made.blocks.start)..(block + entry.blocks()).min(made.blocks.end);
                let units = made.units(&covered);
                let counted = made.counted * (covered.end - covered.start);
                let stored = u64::from(units.end - units.start) * u64::from(UNIT);
                self.active_bytes = self.active_bytes.saturating_add_unsigned(counted).saturating_sub_unsigned(stored);
                if let Some(extent) = &made.extent {
                    free(extent, units, es, freed);
                }
            }
        }
        self.base = built.body;
        self.frozen = None;
        self.frozen_bytes = 0;
    }

    /// The whole file, if it is small enough for the inode and not in an extent already, and what it counted as allocated.
    fn inline_bytes(&self, nodes: &Nodes, size: u64) -> Result<Option<(Vec<u8>, u64)>> {
        if size == 0 || size > INLINE_BYTES_MAX as u64 {
            return Ok(None);
        }
        let mut found = None;
        walk_frozen(self, nodes, 0..1, &mut |part| {
            found = match part.kind {
                Kind::Payload(bytes) => Some((bytes.to_vec(), BLOCK_BYTES)),
                Kind::Inline(bytes) => Some((bytes.to_vec(), 0)),
                Kind::Hole | Kind::Slice(_) => None,
            };
            Ok(ControlFlow::Break(()))
        })?;
        if let Some((bytes, _)) = &mut found {
            bytes.resize(usize_of(size), 0);
        }
        Ok(found)
    }
}

impl Builder<'_> {
    /// The body that the changes make of the base.
    fn body(&mut self, base: &Body, frozen: &Changes) -> Result<Body> {
        let cleared = cleared(frozen);
        let mut new = self.payloads(base, frozen, &cleared)?;
        new.extend(frozen.entries().filter_map(|(block, entry)| direct(frozen, block, entry)));
        new.sort_by_key(|(slice, _)| slice.file_block);
        let Body::Tree { root, .. } = base else {
            let mut all = Vec::new();
            if let Body::Slices(slices) = base {
                slices.iter().for_each(|(slice, extent)| subtract(slice, extent, &cleared, &mut all));
            }
            all.append(&mut new);
            all.sort_by_key(|(slice, _)| slice.file_block);
            return self.store(None, all, &[]);
        };
        let mut removed = Vec::new();
        let mut kept = Vec::new();
        let mut seen = None;
        for range in &cleared {
            let first = range.start.saturating_sub(u64::from(SLICE_BLOCKS_MAX) - 1);
            extents::visit(self.nodes, root, first, &mut |slice, extent| {
                if slice.file_block >= range.end {
                    return Ok(ControlFlow::Break(()));
                }
                if slice.end_block() > range.start && seen < Some(slice.file_block) {
                    seen = Some(slice.file_block);
                    removed.push(slice.file_block);
                    subtract(slice, extent, &cleared, &mut kept);
                }
                Ok(ControlFlow::Continue(()))
            })?;
        }
        new.append(&mut kept);
        new.sort_by_key(|(slice, _)| slice.file_block);
        self.store(Some(root), new, &removed)
    }

    /// Puts slices into the inode, or into the tree. `removed` are keys that the tree has and the body has not any more (unless put again).
    fn store(&mut self, root: Option<&Reference>, mut put: Vec<Placed>, removed: &[u64]) -> Result<Body> {
        let before = match root {
            Some(root) => self.tree.sum(self.nodes, root)?.1,
            None => 0,
        };
        let count = before.saturating_sub(removed.len() as u64) + put.len() as u64;
        if count <= INLINE_SLICES_MAX as u64 {
            if let Some(root) = root {
                extents::visit(self.nodes, root, 0, &mut |slice, extent| {
                    if removed.binary_search(&slice.file_block).is_err() {
                        put.push((slice.clone(), *extent));
                    }
                    Ok(ControlFlow::Continue(()))
                })?;
                put.sort_by_key(|(slice, _)| slice.file_block);
            }
            if put.len() <= INLINE_SLICES_MAX
                && put.iter().map(|(slice, _)| u64::from(slice.blocks)).sum::<u64>() <= INLINE_BLOCKS_MAX
            {
                if let Some(root) = root {
                    extents::retire(self.nodes, root, self.es, &mut self.gone)?;
                }
                return Ok(if put.is_empty() { Body::None } else { Body::Slices(put) });
            }
        }
        let mut changes: BTreeMap<u64, Change> =
            removed.iter().map(|block| (*block, extents::remove(*block, self.birth))).collect();
        for (slice, extent) in &put {
            changes.insert(slice.file_block, extents::put(slice, extent, self.birth)?);
        }
        let changes: Vec<Change> = changes.into_values().collect();
        let applied =
            self.tree.apply(self.nodes, self.batch, self.es, root, &[], Hlc::ZERO, &changes, &mut self.gone)?;
        Ok(Body::Tree { root: applied.root, bytes: applied.totals.bytes })
    }

    /// Blocks in memory, and bytes in the inode that are not covered, as extents: adjacent blocks together.
    fn payloads(&mut self, base: &Body, frozen: &Changes, cleared: &[Range<u64>]) -> Result<Vec<Placed>> {
        let blocks_max = (self.nodes.store().limits().extent_bytes_max / BLOCK).clamp(1, SLICE_BLOCKS_MAX);
        let mut placed = Vec::new();
        if let Body::Inline { bytes, .. } = base
            && !bytes.is_empty()
            && cleared.first().is_none_or(|first| first.start > 0)
        {
            // Nothing tells the birth of bytes in the inode; that of the newest change is late enough (INV-02), and the extent is new.
            placed.push(self.extent(0, bytes, self.birth, 0)?);
        }
        let run_bytes_max = usize_of(blocks_max.into()) * usize_of(BLOCK_BYTES);
        let mut run: Vec<u8> = Vec::new();
        let mut first = 0;
        let mut birth = Hlc::ZERO;
        for (block, entry) in frozen.entries() {
            let Entry::Payload(bytes, changed) = entry else { continue };
            let joins = first + run.len() as u64 / BLOCK_BYTES == block && run.len() < run_bytes_max;
            if !joins && !run.is_empty() {
                placed.push(self.extent(first, &run, birth, BLOCK_BYTES)?);
                run.clear();
            }
            if run.is_empty() {
                (first, birth) = (block, Hlc::ZERO);
            }
            run.extend_from_slice(&**bytes);
            birth = birth.max(*changed);
        }
        if !run.is_empty() {
            placed.push(self.extent(first, &run, birth, BLOCK_BYTES)?);
        }
        Ok(placed)
    }

    /// Writes blocks from `first` on as one extent. Zeros at the end of the last block are not stored; what is missing reads as zeros.
    fn extent(&mut self, first: u64, bytes: &[u8], birth: Hlc, counted: u64) -> Result<Placed> {
        let blocks = bytes.len().div_ceil(usize_of(BLOCK_BYTES)) as u64;
        let before_last = usize_of(blocks.saturating_sub(1) * BLOCK_BYTES);
        let last = bytes.get(before_last..).unwrap_or(&[]);
        let data = last.iter().rposition(|byte| *byte != 0).map_or(1, |at| at + 1);
        let bytes = bytes.get(..before_last + data).unwrap_or(bytes);
        let object = self.nodes.store().append_payload(self.batch, birth, bytes)?;
        let logical = u32::try_from(bytes.len()).unwrap_or(object.stored_bytes).min(object.stored_bytes);
        let extent = reference(object.oid, object.stored_bytes, logical, birth);
        let slice = Slice {
            file_block: first,
            blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
            extent_block: 0,
            last_block_bytes: object.stored_bytes.saturating_sub(u32::try_from(before_last).unwrap_or(u32::MAX)),
            crcs: object.crcs,
        };
        self.made.push(Made { blocks: first..first + blocks, counted, extent: Some(extent) });
        Ok((slice, extent))
    }
}

/// The ranges that a layer covers, adjacent ones as one.
fn cleared(frozen: &Changes) -> Vec<Range<u64>> {
    let mut cleared: Vec<Range<u64>> = Vec::new();
    for (block, entry) in frozen.entries() {
        let end = block + entry.blocks();
        match cleared.last_mut() {
            Some(last) if last.end == block => last.end = end,
            _ => cleared.push(block..end),
        }
    }
    cleared
}

/// The slice of an object that a record of this layer named.
fn direct(frozen: &Changes, block: u64, entry: &Entry) -> Option<Placed> {
    let Entry::Slice { oid, extent_block, crcs } = entry else { return None };
    let slice = Slice {
        file_block: block,
        blocks: u32::try_from(crcs.len()).ok()?,
        extent_block: *extent_block,
        last_block_bytes: BLOCK,
        crcs: crcs.clone(),
    };
    Some((slice, frozen.extent(*oid)?))
}

/// What is left of a slice when ranges (ascending, disjoint) are taken from it.
fn subtract(slice: &Slice, extent: &Reference, ranges: &[Range<u64>], out: &mut Vec<Placed>) {
    let end = slice.end_block();
    let mut keep = |blocks: Range<u64>| {
        if !blocks.is_empty() {
            out.extend(part_of(slice, &blocks).map(|part| (part, *extent)));
        }
    };
    let mut at = slice.file_block;
    let from = ranges.partition_point(|range| range.end <= at);
    for range in ranges.iter().skip(from).take_while(|range| range.start < end) {
        keep(at..range.start);
        at = range.end.max(at);
    }
    keep(at..end);
}

/// Some of the blocks of a slice.
fn part_of(slice: &Slice, blocks: &Range<u64>) -> Option<Slice> {
    let skip = u32::try_from(blocks.start.checked_sub(slice.file_block)?).ok()?;
    let count = u32::try_from(blocks.end - blocks.start).ok()?;
    let crcs = slice.crcs.get(usize_of(skip.into())..usize_of((skip + count).into()))?.to_vec();
    Some(Slice {
        file_block: blocks.start,
        blocks: count,
        extent_block: slice.extent_block + skip,
        last_block_bytes: if blocks.end == slice.end_block() { slice.last_block_bytes } else { BLOCK },
        crcs,
    })
}

/// Newest birth of what a body references.
fn birth_of(body: &Body) -> Hlc {
    match body {
        Body::None | Body::Inline { .. } => Hlc::ZERO,
        Body::Slices(slices) => slices.iter().map(|(_, extent)| extent.birth).max().unwrap_or(Hlc::ZERO),
        Body::Tree { root, .. } => root.birth,
    }
}
