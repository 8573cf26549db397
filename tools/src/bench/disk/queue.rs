//! The disk as a worker drives it: reads verified and many under way, writes taken at once, syncs that wait for the log.

use super::leaf::{Entry, runs};
use super::{Part, Shared};
use crate::bench::pattern::Io;
use crate::bench::queue::{Done, Queue, fill_with_noise, now};
use crate::bench::verify;
use anyhow::{Context as _, Result};
use envoyfs_engine::device::AlignedBuf;
use envoyfs_engine::store::Store as _;
use envoyfs_engine::{Portion, ReadQueue, StoreError};
use envoyfs_layout::{BLOCK, Lsn};
use std::sync::Arc;

/// Bytes of buffers that are given contents at the start, so that writes need not.
const PREPARED_BYTES: usize = 32 << 20;

/// See the module.
pub struct DiskQueue {
    shared: Arc<Shared>,
    reads: ReadQueue,
    /// Reads in pieces, or from several extents: by tag of the worker.
    gathers: Vec<Option<Gather>>,
    /// Pieces under way: where they belong. The tag of the read queue is the index.
    pieces: Vec<Piece>,
    free_pieces: Vec<usize>,
    portions: Vec<Portion>,
    crcs: Vec<u32>,
    finished: Vec<Done>,
    /// Behind the last record of this thread.
    end: Lsn,
    prepared: bool,
}

struct Gather {
    into: AlignedBuf,
    left: usize,
    error: Option<String>,
}

#[derive(Clone, Copy)]
struct Piece {
    tag: usize,
    /// Byte of the disk, for a second try.
    offset: u64,
    /// `None`: the buffer is the worker's own.
    at: Option<usize>,
}

impl DiskQueue {
    pub(super) fn new(shared: &Arc<Shared>, depth: u32) -> Result<Self> {
        Ok(Self {
            reads: shared.engine.read_queue(depth).context("a queue of reads")?,
            shared: Arc::clone(shared),
            gathers: (0..depth).map(|_| None).collect(),
            pieces: Vec::new(),
            free_pieces: Vec::new(),
            portions: Vec::new(),
            crcs: Vec::new(),
            finished: Vec::new(),
            end: Lsn(0),
            prepared: false,
        })
    }

    fn piece(&mut self, piece: Piece) -> usize {
        match self.free_pieces.pop() {
            Some(index) => {
                if let Some(slot) = self.pieces.get_mut(index) {
                    *slot = piece;
                }
                index
            }
            None => {
                self.pieces.push(piece);
                self.pieces.len() - 1
            }
        }
    }

    /// Queues a part of a leaf, all of whose blocks were written, into the worker's own buffer; gives that back if some were not.
    fn read_whole(&mut self, tag: usize, part: &Part, offset: u64, into: AlignedBuf) -> Result<Option<AlignedBuf>> {
        let shared = Arc::clone(&self.shared);
        // Held as in `read_part`.
        let leaf = shared.leaf(part.leaf)?.lock();
        let entries = leaf.entries.get(part.blocks.clone()).context("a read behind the end of the disk")?;
        self.portions.clear();
        for run in runs(entries) {
            let Some(first) = entries.get(run.start).filter(|first| first.blocks > 0) else { return Ok(Some(into)) };
            let bytes = u32::try_from(run.len())? * BLOCK;
            self.portions.push(Portion { oid: first.oid, first: u32::from(first.first) * BLOCK, bytes });
        }
        self.crcs.clear();
        self.crcs.extend(entries.iter().map(|entry: &Entry| entry.crc));
        let index = self.piece(Piece { tag, offset, at: None });
        self.reads.submit_portions(index as u64, &self.portions, &self.crcs, into)?;
        Ok(None)
    }

    /// Queues the runs of a leaf's part, each into a buffer of its own; `at` is where it lies in the whole.
    fn read_part(&mut self, tag: usize, part: Part, offset: u64, at: usize, whole: &mut AlignedBuf) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        // Held while the read is queued: what the map says is not freed before the queue has noted its epoch.
        let leaf = shared.leaf(part.leaf)?.lock();
        let entries = leaf.entries.get(part.blocks).context("a read behind the end of the disk")?;
        for run in runs(entries) {
            let (start, bytes) = (run.start * BLOCK as usize, run.len() * BLOCK as usize);
            let Some(first) = entries.get(run.start) else { continue };
            let blocks = entries.get(run.clone()).unwrap_or_default();
            if first.blocks == 0 {
                if let Some(into) = whole.as_mut_slice().get_mut(at + start..at + start + bytes) {
                    into.fill(0);
                }
                continue;
            }
            self.crcs.clear();
            self.crcs.extend(blocks.iter().map(|entry: &Entry| entry.crc));
            let buffer = self.shared.engine.buffer(u32::try_from(bytes)?);
            let index = self.piece(Piece { tag, offset: offset + start as u64, at: Some(at + start) });
            self.reads.submit(index as u64, first.oid, u32::from(first.first) * BLOCK, &self.crcs, buffer)?;
            if let Some(Some(gather)) = self.gathers.get_mut(tag) {
                gather.left += 1;
            }
        }
        Ok(())
    }

    fn arrived(&mut self, index: usize, mut buffer: AlignedBuf, outcome: Result<(), StoreError>) {
        let Some(piece) = self.pieces.get(index).copied() else { return };
        self.free_pieces.push(index);
        // The block was written anew, and its old place used again, while the read was under way.
        let outcome = match outcome {
            Err(StoreError::BadReference { .. } | StoreError::Damaged { .. }) => {
                self.shared.read_now(piece.offset, buffer.as_mut_slice())
            }
            other => other.map_err(Into::into),
        };
        let error = outcome.err().map(|error: anyhow::Error| format!("{error:#}"));
        let Some(at) = piece.at else {
            self.finished.push(Done { tag: piece.tag, at: now(), buffer: Some(buffer), error });
            return;
        };
        let Some(slot) = self.gathers.get_mut(piece.tag) else { return };
        let Some(gather) = slot else { return };
        if let Some(into) = gather.into.as_mut_slice().get_mut(at..at + buffer.len()) {
            into.copy_from_slice(buffer.as_slice());
        }
        gather.error = gather.error.take().or(error);
        gather.left -= 1;
        if gather.left == 0
            && let Some(Gather { into, error, .. }) = slot.take()
        {
            self.finished.push(Done { tag: piece.tag, at: now(), buffer: Some(into), error });
        }
    }
}

impl Queue for DiskQueue {
    fn prepare(&mut self, bytes: usize) {
        if std::mem::replace(&mut self.prepared, true) {
            return;
        }
        // Those of the pool, which writes then take.
        let engine = &self.shared.engine;
        let count = (PREPARED_BYTES / bytes.max(1)).clamp(1, 1024);
        let mut all: Vec<AlignedBuf> =
            (0..count).map(|_| engine.buffer(u32::try_from(bytes).unwrap_or(BLOCK))).collect();
        all.iter_mut().for_each(|buffer| fill_with_noise(buffer.as_mut_slice()));
    }

    fn buffer(&self, bytes: usize) -> AlignedBuf {
        self.shared.engine.buffer(u32::try_from(bytes).unwrap_or(BLOCK))
    }

    fn read(&mut self, tag: usize, io: &Io, into: AlignedBuf) -> Result<()> {
        let (block, length) = (u64::from(BLOCK), into.len());
        let mut parts = self.shared.parts(io.offset / block..(io.offset + u64::from(io.bytes)) / block);
        let first = parts.next().context("an empty read")?;
        let mut into = into;
        if first.blocks.len() * BLOCK as usize == length {
            match self.read_whole(tag, &first, io.offset, into)? {
                None => return Ok(()),
                Some(back) => into = back,
            }
        }
        // One piece more than there are, until all are queued.
        let gather = Gather { into: AlignedBuf::zeroed(512), left: 1, error: None };
        *self.gathers.get_mut(tag).context("a tag beyond the depth")? = Some(gather);
        let mut at = 0;
        for part in std::iter::once(first).chain(parts) {
            let bytes = part.blocks.len() * BLOCK as usize;
            self.read_part(tag, part, io.offset + at as u64, at, &mut into)?;
            at += bytes;
        }
        let slot = self.gathers.get_mut(tag).context("a tag beyond the depth")?;
        if let Some(gather) = slot.as_mut() {
            gather.into = into;
            gather.left -= 1;
        }
        if slot.as_ref().is_some_and(|gather| gather.left == 0)
            && let Some(Gather { into, error, .. }) = slot.take()
        {
            self.finished.push(Done { tag, at: now(), buffer: Some(into), error });
        }
        Ok(())
    }

    fn write(&mut self, tag: usize, io: &Io, sequence: Option<u32>) -> Result<()> {
        let block = u64::from(BLOCK);
        let mut buffer = self.buffer(io.bytes as usize);
        if let Some(sequence) = sequence {
            fill_with_noise(buffer.as_mut_slice());
            verify::seal(buffer.as_mut_slice(), io.offset, sequence);
        }
        let parts = self.shared.parts(io.offset / block..(io.offset + u64::from(io.bytes)) / block);
        let mut whole = Some(buffer);
        let mut at = 0;
        let mut error = None;
        for part in parts {
            let bytes = part.blocks.len() * BLOCK as usize;
            let own = match whole.take() {
                Some(whole) if whole.len() == bytes => whole,
                kept => {
                    let mut piece = self.buffer(bytes);
                    if let Some(from) = kept.as_ref().and_then(|whole| whole.as_slice().get(at..at + bytes)) {
                        piece.as_mut_slice().copy_from_slice(from);
                    }
                    whole = kept;
                    piece
                }
            };
            at += bytes;
            match self.shared.write_part(part.leaf, part.blocks, own) {
                Ok(end) => self.end = self.end.max(end),
                Err(failed) => error = Some(format!("{failed:#}")),
            }
        }
        self.finished.push(Done { tag, at: now(), buffer: None, error });
        Ok(())
    }

    fn verifies(&self) -> bool {
        true
    }

    fn arrive(&mut self) -> u64 {
        if self.finished.is_empty() {
            self.reads.arrive();
        }
        self.reads.bytes_at_device()
    }

    fn wait(&mut self, done: &mut Vec<Done>) -> Result<()> {
        if self.reads.under_way() > 0 {
            let min = usize::from(self.finished.is_empty());
            let mut arrived = Vec::new();
            self.reads.wait(min, |tag, buffer, outcome| arrived.push((tag, buffer, outcome)))?;
            for (tag, buffer, outcome) in arrived {
                self.arrived(usize::try_from(tag).unwrap_or(usize::MAX), buffer, outcome);
            }
        }
        done.append(&mut self.finished);
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        Ok(self.shared.engine.commit(self.end)?)
    }
}

impl Shared {
    /// Reads with the map held, so that nothing is freed meanwhile.
    fn read_now(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let first = offset / u64::from(BLOCK);
        let blocks = into.len() as u64 / u64::from(BLOCK);
        let mut at = 0;
        for part in self.parts(first..first + blocks) {
            let leaf = self.leaf(part.leaf)?.lock();
            let entries = leaf.entries.get(part.blocks).context("a read behind the end of the disk")?;
            for run in runs(entries) {
                let bytes = run.len() * BLOCK as usize;
                let target = into.get_mut(at..at + bytes).context("a read of another length")?;
                let blocks = entries.get(run).unwrap_or_default();
                let crcs: Vec<u32> = blocks.iter().map(|entry| entry.crc).collect();
                match blocks.first() {
                    Some(first) if first.blocks > 0 => {
                        self.engine.read_data(first.oid, u32::from(first.first) * BLOCK, &crcs, target)?;
                    }
                    _ => target.fill(0),
                }
                at += bytes;
            }
        }
        Ok(())
    }
}
