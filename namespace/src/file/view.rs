//! What a range of a file looks like through the layers: active over frozen over base.

use super::changes::{Changes, Entry, reference};
use super::{BLOCK_BYTES, Block, Content, extents};
use crate::api::{Error, Result};
use crate::tree::Nodes;
use envoyfs_engine::StoreError;
use envoyfs_layout::slice::SLICE_BLOCKS_MAX;
use envoyfs_layout::{BLOCK, Body, Hlc, Oid, Reference, Slice, UNIT};
use std::ops::{ControlFlow, Range};

/// Consecutive blocks that have one thing under them.
#[derive(Clone, Debug)]
pub(super) struct Part<'a> {
    /// Blocks of the file; not empty.
    pub blocks: Range<u64>,
    /// What is there.
    pub kind: Kind<'a>,
}

/// What is under a part.
#[derive(Clone, Debug)]
pub(super) enum Kind<'a> {
    /// Nothing: zeros.
    Hole,
    /// One block in memory.
    Payload(&'a Block),
    /// Bytes in the inode, in block 0.
    Inline(&'a [u8]),
    /// Blocks of an extent.
    Slice(Stored<'a>),
}

/// Blocks of an extent.
#[derive(Clone, Debug)]
pub(super) struct Stored<'a> {
    /// The extent.
    pub extent: Reference,
    /// First block in it.
    pub extent_block: u32,
    /// Stored bytes of the part's last block.
    pub last_block_bytes: u32,
    /// One a block.
    pub crcs: &'a [u32],
}

impl<'a> Stored<'a> {
    /// So many blocks from block `skip` of the part on; all of them must be in it.
    pub fn cut(&self, skip: u64, blocks: u64) -> Option<Self> {
        let (skip, count) = (usize::try_from(skip).ok()?, usize::try_from(blocks).ok()?);
        let end = skip.checked_add(count)?;
        let crcs = self.crcs.get(skip..end)?;
        let last_block_bytes = if end == self.crcs.len() { self.last_block_bytes } else { BLOCK };
        let extent_block = self.extent_block.checked_add(u32::try_from(skip).ok()?)?;
        Some(Self { extent: self.extent, extent_block, last_block_bytes, crcs })
    }

    /// Bytes in the extent.
    pub fn bytes(&self) -> u64 {
        (self.crcs.len() as u64).saturating_sub(1) * BLOCK_BYTES + u64::from(self.last_block_bytes)
    }

    /// Units of the extent.
    pub fn units(&self) -> Range<u32> {
        let first = self.extent_block.saturating_mul(BLOCK / UNIT);
        let units = u32::try_from(self.bytes() / u64::from(UNIT)).unwrap_or(u32::MAX);
        first..first.saturating_add(units)
    }
}

impl Part<'_> {
    /// Allocated bytes.
    pub fn bytes(&self) -> u64 {
        match &self.kind {
            Kind::Hole | Kind::Inline(_) => 0,
            Kind::Payload(_) => BLOCK_BYTES,
            Kind::Slice(stored) => stored.bytes(),
        }
    }
}

/// Visits the parts that make up a range of blocks, ascending, without gaps, until the visitor breaks.
pub(super) fn walk(
    content: &Content,
    nodes: &Nodes,
    range: Range<u64>,
    visit: &mut dyn FnMut(Part<'_>) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let below = |gap: Range<u64>, visit: &mut Visitor<'_>| {
        let base = |gap: Range<u64>, visit: &mut Visitor<'_>| walk_base(&content.base, nodes, gap, visit);
        match &content.frozen {
            Some(frozen) => walk_layer(frozen, gap, &base, visit),
            None => base(gap, visit),
        }
    };
    walk_layer(&content.active, range, &below, visit).map(|_| ())
}

/// The same without the active changes.
pub(super) fn walk_frozen(
    content: &Content,
    nodes: &Nodes,
    range: Range<u64>,
    visit: &mut dyn FnMut(Part<'_>) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let base = |gap: Range<u64>, visit: &mut Visitor<'_>| walk_base(&content.base, nodes, gap, visit);
    match &content.frozen {
        Some(frozen) => walk_layer(frozen, range, &base, visit),
        None => base(range, visit),
    }
    .map(|_| ())
}

type Visitor<'v> = dyn FnMut(Part<'_>) -> Result<ControlFlow<()>> + 'v;
type Below<'b> = dyn Fn(Range<u64>, &mut Visitor<'_>) -> Result<ControlFlow<()>> + 'b;

/// One layer, and what is below where it says nothing.
fn walk_layer(
    layer: &Changes,
    range: Range<u64>,
    below: &Below<'_>,
    visit: &mut Visitor<'_>,
) -> Result<ControlFlow<()>> {
    let mut at = range.start;
    for (block, entry) in layer.overlapping(range.clone()) {
        if block > at && below(at..block, visit)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let blocks = block.max(range.start)..(block + entry.blocks()).min(range.end);
        let kind = match entry {
            Entry::Hole(_) => Kind::Hole,
            Entry::Payload(bytes, _) => Kind::Payload(bytes),
            Entry::Slice { oid, extent_block, crcs } => {
                let extent = layer.extent(*oid).unwrap_or_else(|| reference(*oid, 0, 0, Hlc::ZERO));
                let whole = Stored { extent, extent_block: *extent_block, last_block_bytes: BLOCK, crcs };
                Kind::Slice(whole.cut(blocks.start - block, blocks.end - blocks.start).unwrap_or(whole))
            }
        };
        at = blocks.end;
        if visit(Part { blocks, kind })?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    if at < range.end { below(at..range.end, visit) } else { Ok(ControlFlow::Continue(())) }
}

/// The stored body.
fn walk_base(base: &Body, nodes: &Nodes, range: Range<u64>, visit: &mut Visitor<'_>) -> Result<ControlFlow<()>> {
    let mut walk = BaseWalk { at: range.start, end: range.end, stopped: false };
    if range.is_empty() {
        return Ok(ControlFlow::Continue(()));
    }
    match base {
        Body::None => {}
        Body::Inline { bytes, .. } => {
            if range.start == 0 && !bytes.is_empty() {
                walk.emit(Part { blocks: 0..1, kind: Kind::Inline(bytes) }, visit)?;
            }
        }
        Body::Slices(slices) => {
            for (slice, extent) in slices {
                if walk.slice(slice, extent, visit)?.is_break() {
                    break;
                }
            }
        }
        Body::Tree { root, .. } => {
            let first = range.start.saturating_sub(u64::from(SLICE_BLOCKS_MAX) - 1);
            extents::visit(nodes, root, first, &mut |slice, extent| walk.slice(slice, extent, visit))?;
        }
    }
    walk.hole_until(range.end, visit)?;
    Ok(if walk.stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
}

/// How far a walk through a body has come.
struct BaseWalk {
    at: u64,
    end: u64,
    stopped: bool,
}

impl BaseWalk {
    fn emit(&mut self, part: Part<'_>, visit: &mut Visitor<'_>) -> Result<()> {
        self.at = part.blocks.end;
        self.stopped = visit(part)?.is_break();
        Ok(())
    }

    fn hole_until(&mut self, block: u64, visit: &mut Visitor<'_>) -> Result<()> {
        if block > self.at && !self.stopped {
            self.emit(Part { blocks: self.at..block, kind: Kind::Hole }, visit)?;
        }
        Ok(())
    }

    /// The next slice of the body; breaks when nothing more is wanted.
    fn slice(&mut self, slice: &Slice, extent: &Reference, visit: &mut Visitor<'_>) -> Result<ControlFlow<()>> {
        let blocks = slice.file_block.max(self.at)..slice.end_block().min(self.end);
        if !blocks.is_empty() {
            let whole = Stored {
                extent: *extent,
                extent_block: slice.extent_block,
                last_block_bytes: slice.last_block_bytes,
                crcs: &slice.crcs,
            };
            let end = whole.units().end;
            if end > extent.units() || (whole.last_block_bytes < BLOCK && end < extent.units()) {
                return Err(bad_extent(extent.oid, "a slice does not end where its extent allows"));
            }
            let stored = whole
                .cut(blocks.start - slice.file_block, blocks.end - blocks.start)
                .ok_or_else(|| bad_extent(extent.oid, "a slice has fewer checksums than blocks"))?;
            self.hole_until(blocks.start, visit)?;
            if !self.stopped {
                self.emit(Part { blocks, kind: Kind::Slice(stored) }, visit)?;
            }
        }
        let done = self.stopped || slice.end_block() >= self.end;
        Ok(if done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }
}

/// A body that names an extent wrongly.
pub(super) fn bad_extent(oid: Oid, what: &'static str) -> Error {
    Error::Store(StoreError::BadReference { oid, what })
}
