//! Reading a file, and finding its holes.

use super::changes::blocks_of;
use super::view::{Kind, Stored, walk};
use super::{BLOCK_BYTES, Block, Content};
use crate::api::Result;
use crate::tree::Nodes;
use envoyfs_layout::{BLOCK, Oid};
use std::ops::{ControlFlow, Range};

/// Bytes of an extent that a read needs: whole blocks, one after the other.
struct Run {
    /// First block of the file.
    block: u64,
    oid: Oid,
    extent_block: u32,
    last_block_bytes: u32,
    crcs: Vec<u32>,
}

impl Run {
    fn stored_bytes(&self) -> usize {
        (self.crcs.len().saturating_sub(1))
            .saturating_mul(usize_of(BLOCK_BYTES))
            .saturating_add(usize_of(self.last_block_bytes.into()))
    }

    /// Does that part continue this run, in the file and in the extent?
    fn continued_by(&self, block: u64, stored: &Stored<'_>) -> bool {
        let blocks = self.crcs.len() as u64;
        self.oid == stored.extent.oid
            && self.last_block_bytes == BLOCK
            && self.block + blocks == block
            && u64::from(self.extent_block) + blocks == u64::from(stored.extent_block)
    }
}

/// See [`Content::read`].
pub(super) fn read(content: &Content, nodes: &Nodes, size: u64, offset: u64, into: &mut [u8]) -> Result<usize> {
    let len = usize_of(size.saturating_sub(offset)).min(into.len());
    if len == 0 {
        return Ok(0);
    }
    let wanted = offset..offset.saturating_add(len as u64);
    let mut runs: Vec<Run> = Vec::new();
    walk(content, nodes, wanted.start / BLOCK_BYTES..blocks_of(wanted.end), &mut |part| {
        let at = part.blocks.start * BLOCK_BYTES;
        match part.kind {
            Kind::Hole => put(into, &wanted, at, part.blocks.end * BLOCK_BYTES, &[]),
            Kind::Payload(bytes) => put(into, &wanted, at, at + BLOCK_BYTES, bytes),
            Kind::Inline(bytes) => put(into, &wanted, at, at + BLOCK_BYTES, bytes),
            Kind::Slice(stored) => match runs.last_mut() {
                Some(run) if run.continued_by(part.blocks.start, &stored) => {
                    run.crcs.extend_from_slice(stored.crcs);
                    run.last_block_bytes = stored.last_block_bytes;
                }
                _ => runs.push(Run {
                    block: part.blocks.start,
                    oid: stored.extent.oid,
                    extent_block: stored.extent_block,
                    last_block_bytes: stored.last_block_bytes,
                    crcs: stored.crcs.to_vec(),
                }),
            },
        }
        Ok(ControlFlow::Continue(()))
    })?;
    for run in &runs {
        read_run(nodes, run, &wanted, into)?;
    }
    Ok(len)
}

/// Reads a run to where it belongs: in place if its blocks fit there whole, else by way of a buffer.
fn read_run(nodes: &Nodes, run: &Run, wanted: &Range<u64>, into: &mut [u8]) -> Result<()> {
    let start = run.block * BLOCK_BYTES;
    let end = start + run.crcs.len() as u64 * BLOCK_BYTES;
    let stored = run.stored_bytes();
    let first = run.extent_block.saturating_mul(BLOCK);
    if start >= wanted.start {
        let at = usize_of(start - wanted.start);
        if let Some(place) = at.checked_add(stored).and_then(|to| into.get_mut(at..to)) {
            nodes.store().read_data(run.oid, first, &run.crcs, place)?;
            put(into, wanted, start + stored as u64, end, &[]);
            return Ok(());
        }
    }
    let mut buffer = vec![0; stored];
    nodes.store().read_data(run.oid, first, &run.crcs, &mut buffer)?;
    put(into, wanted, start, end, &buffer);
    Ok(())
}

/// Copies what is wanted of the bytes of the file in `start..end`: `from`, then zeros.
fn put(into: &mut [u8], wanted: &Range<u64>, start: u64, end: u64, from: &[u8]) {
    let (start_wanted, end_wanted) = (start.max(wanted.start), end.min(wanted.end));
    if start_wanted >= end_wanted {
        return;
    }
    let place = usize_of(start_wanted - wanted.start)..usize_of(end_wanted - wanted.start);
    let Some(place) = into.get_mut(place) else { return };
    let from = from.get(usize_of(start_wanted - start)..).unwrap_or(&[]);
    let count = from.len().min(place.len());
    let (data, zeros) = place.split_at_mut(count);
    data.copy_from_slice(from.get(..count).unwrap_or(&[]));
    zeros.fill(0);
}

/// One block of an extent, zeros where it stores less.
pub(super) fn read_block(nodes: &Nodes, stored: &Stored<'_>) -> Result<Box<Block>> {
    let mut block = Box::new([0; BLOCK as usize]);
    let bytes = usize_of(stored.last_block_bytes.into());
    if let Some(place) = block.get_mut(..bytes) {
        nodes.store().read_data(stored.extent.oid, stored.extent_block.saturating_mul(BLOCK), stored.crcs, place)?;
    }
    Ok(block)
}

/// See [`Content::seek`].
pub(super) fn seek(content: &Content, nodes: &Nodes, size: u64, offset: u64, data: bool) -> Result<Option<u64>> {
    if offset >= size {
        return Ok(None);
    }
    let mut found = None;
    walk(content, nodes, offset / BLOCK_BYTES..blocks_of(size), &mut |part| {
        if matches!(part.kind, Kind::Hole) == data {
            return Ok(ControlFlow::Continue(()));
        }
        found = Some(offset.max(part.blocks.start * BLOCK_BYTES));
        Ok(ControlFlow::Break(()))
    })?;
    Ok(if data { found } else { Some(found.unwrap_or(size)) })
}

/// A number of bytes that is in memory, or bounded by one that is.
pub(super) fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
