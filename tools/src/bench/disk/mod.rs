//! A flat disk in a store: the least client that the engine needs, and an example of one.
//!
//! ```text
//! root node -> interior nodes (256 children) -> leaves (64 or 256 blocks of 4 KiB) -> extents
//! write: reserve -> append_buffer -> | gate shared, leaf locked: append the record, change the leaf |
//! checkpoint: | gate alone: freeze, next epoch | -> nodes of what the frozen epoch changed -> publish
//! sync: commit what this thread has written
//! ```
//!
//! Promises what the engine does: after a power cut the disk holds a prefix of the writes that contains everything synced; a read gives bytes that were written, or an error. A write
//! of several leaves is one record a leaf, so it may survive in part. The map is in memory, 24 bytes a block.
//!
//! It lives in a store that this program formats for it: a store has one client, whose roots these are; a disk beside somebody's files would need a second one. The label and the
//! roots' bytes say what the store is.

mod checkpoint;
mod leaf;
mod load;
mod queue;
#[cfg(test)]
mod tests;

use anyhow::{Context as _, Result, bail, ensure};
use checkpoint::Checkpointer;
use envoyfs_engine::device::{AlignedBuf, Device, OpenMode, UringDevice};
use envoyfs_engine::format::{FormatOptions, format_calibrated};
use envoyfs_engine::hlc::{Clock as _, SystemClock};
use envoyfs_engine::store::{DataObject, Draft, FreedRange, Need, Store as _, Tier};
use envoyfs_engine::{Engine, Options, superblock};
use envoyfs_layout::{BLOCK, ClientTag, Hlc, Lsn, Reference, UNIT};
use leaf::Entry;
use parking_lot::{Mutex, RwLock};
pub use queue::DiskQueue;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Of stores that are nobody's loss.
pub const LABEL: &str = "envoyfs bench";
/// Whose store it is.
pub const CLIENT: ClientTag = ClientTag::new(b"evbench ");
/// Record: a write. Body: first block.
const WRITE: u16 = 3000;
/// Children of an interior node.
const FANOUT: usize = 256;
/// Largest node above the leaves.
const INTERIOR_BYTES_MAX: u64 = 64 + 256 * 44 + 512;

/// Which version of the map is being changed; the frozen one is the one before.
struct Gate {
    epoch: u64,
}

/// One leaf in memory.
struct Leaf {
    entries: Arc<[Entry]>,
    /// In the store.
    stored: Option<(Reference, Arc<[Entry]>)>,
    /// Epoch of the newest change; 0: none since it was stored.
    dirty: u64,
    /// Of the newest change.
    birth: Hlc,
    /// As of the end of the frozen epoch, if it has changed since and the checkpoint has not taken it yet.
    frozen: Option<(Arc<[Entry]>, Hlc)>,
}

/// What the next checkpoint has to look at.
#[derive(Default)]
struct Dirty {
    leaves: Vec<usize>,
    freed: Vec<FreedRange>,
}

/// See the module.
pub struct Disk {
    shared: Arc<Shared>,
    checkpointer: Mutex<Option<Checkpointer>>,
}

struct Shared {
    engine: Arc<Engine>,
    blocks: u64,
    /// Blocks of a leaf.
    span: usize,
    /// Blocks of the largest extent.
    extent_blocks: usize,
    gate: RwLock<Gate>,
    leaves: Vec<Mutex<Leaf>>,
    dirty: Mutex<Dirty>,
    /// Nodes above the leaves, lowest level first; one checkpoint at a time has them.
    levels: Mutex<Vec<Vec<checkpoint::Interior>>>,
    /// Epoch in which an interior node was last charged for, by level.
    charged: Vec<Vec<std::sync::atomic::AtomicU64>>,
}

/// Opens the disk that a store holds, if it is large enough; else makes a new one.
///
/// # Errors
/// The device is too small, or fails.
pub fn open_or_format(device: Arc<dyn Device>, bytes: u64, block_most: u32) -> Result<Disk> {
    let span = if block_most > 64 << 10 { 256 } else { 64 };
    let geometry = device.geometry();
    let known = superblock::open(&*device).is_ok_and(|opened| {
        opened.superblock.label() == LABEL && opened.superblock.size == geometry.size_bytes & !4095
    });
    if known && let Ok(disk) = Disk::open(&device, span) {
        if disk.bytes() >= bytes.max(1) {
            return Ok(disk);
        }
        disk.close()?;
    }
    Disk::format(&device, bytes, span)
}

/// Whether a device or image holds a store of this program's.
pub fn is_scratch(path: &Path) -> bool {
    let Ok(device) = UringDevice::open(path, OpenMode::ReadOnly, false) else { return false };
    superblock::open(&device).is_ok_and(|opened| opened.superblock.label() == LABEL)
}

fn open_engine(device: &Arc<dyn Device>) -> Result<Arc<Engine>> {
    let clock = Arc::new(SystemClock::new());
    let options = Options {
        read_only: false,
        threads: true,
        accept_loss: false,
        clock,
        settings: envoyfs_engine::Settings::default(),
    };
    Ok(Arc::new(Engine::open_for(CLIENT, Arc::clone(device), options).context("opening the store")?))
}

impl Disk {
    /// Formats the device, and makes a disk of so many bytes in it; 0: as large as fits with room for the cleaner.
    ///
    /// # Errors
    /// The device is too small, or fails.
    pub fn format(device: &Arc<dyn Device>, bytes: u64, span: usize) -> Result<Self> {
        let options = FormatOptions {
            label: LABEL.into(),
            uuid: uuid::Uuid::new_v4().into_bytes(),
            seed: uuid::Uuid::new_v4().into_bytes(),
            now_ns: SystemClock::new().wall_ns(),
            wal_bytes: None,
            segment_bytes: None,
            force: true,
            small: false,
        };
        format_calibrated(&**device, &options, Some(&SystemClock::new()), &mut |_, _| ())
            .context("formatting the store")?;
        let engine = open_engine(device)?;
        let available = engine.usage().available;
        let leaf = span as u64 * u64::from(BLOCK);
        let fits = available / 10 * 8;
        let bytes = if bytes == 0 { available / 10 * 6 / leaf * leaf } else { bytes.next_multiple_of(leaf) };
        if bytes > fits || bytes == 0 {
            let mib = |bytes: u64| bytes >> 20;
            engine.close()?;
            bail!(
                "{}: the jobs need {} MiB, and a store on it has room for {} MiB of a disk",
                device.label(),
                mib(bytes),
                mib(fits)
            );
        }
        let disk = Self::start(load::empty(engine, bytes / u64::from(BLOCK), span)?)?;
        disk.shared.checkpoint()?;
        Ok(disk)
    }

    /// Opens the disk that the store holds.
    ///
    /// # Errors
    /// It holds none, or one with leaves of another size, or fails.
    pub fn open(device: &Arc<dyn Device>, span: usize) -> Result<Self> {
        Self::start(load::load(open_engine(device)?, span)?)
    }

    fn start(shared: Shared) -> Result<Self> {
        let shared = Arc::new(shared);
        let checkpointer = Checkpointer::start(&shared)?;
        Ok(Self { shared, checkpointer: Mutex::new(Some(checkpointer)) })
    }

    /// Size.
    pub fn bytes(&self) -> u64 {
        self.shared.blocks * u64::from(BLOCK)
    }

    /// The engine below.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.shared.engine
    }

    /// For the calling thread.
    ///
    /// # Errors
    /// What making the queue of reads meets.
    pub fn queue(&self, depth: u32) -> Result<DiskQueue> {
        DiskQueue::new(&self.shared, depth)
    }

    /// Writes what was never written of a range, as large as extents get.
    ///
    /// # Errors
    /// As of writes.
    pub fn fill(&self, start: u64, bytes: u64) -> Result<()> {
        self.fill_with(start, bytes, self.shared.extent_blocks)
    }

    /// The same with extents of at most so many blocks.
    ///
    /// # Errors
    /// As of writes.
    pub fn fill_with(&self, start: u64, bytes: u64, extent_blocks: usize) -> Result<()> {
        let block = u64::from(BLOCK);
        let (first, last) = (start / block, (start + bytes).div_ceil(block));
        let mut end = Lsn(0);
        for part in self.shared.parts(first..last) {
            let Part { leaf, blocks } = part;
            let empty: Vec<Range<usize>> = {
                let leaf = self.shared.leaf(leaf)?.lock();
                let entries = leaf.entries.get(blocks.clone()).unwrap_or_default();
                leaf::runs(entries)
                    .filter(|run| entries.get(run.start).is_some_and(|entry| entry.blocks == 0))
                    .collect()
            };
            let pieces = empty.into_iter().flat_map(|run| {
                let end = run.end;
                run.step_by(extent_blocks.max(1)).map(move |at| at..end.min(at + extent_blocks.max(1)))
            });
            for run in pieces {
                let run = blocks.start + run.start..blocks.start + run.end;
                let length = run.len() * BLOCK as usize;
                let mut buffer = self.shared.engine.buffer(u32::try_from(length)?);
                super::queue::fill_with_noise(buffer.as_mut_slice());
                end = self.shared.write_part(leaf, run, buffer)?;
            }
        }
        if end > Lsn(0) {
            self.shared.engine.commit(end)?;
            self.shared.checkpoint()?;
        }
        Ok(())
    }

    /// Makes a last checkpoint and ends the mount.
    ///
    /// # Errors
    /// What the checkpoint meets.
    pub fn close(&self) -> Result<()> {
        let Some(checkpointer) = self.checkpointer.lock().take() else { return Ok(()) };
        checkpointer.stop()?;
        self.shared.checkpoint()?;
        Ok(self.shared.engine.close()?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // After a failure nobody has closed it; the thread must not outlive the disk.
        if let Some(checkpointer) = self.checkpointer.lock().take() {
            let _ = checkpointer.stop();
        }
    }
}

/// Blocks of one leaf that are one object at most.
struct Part {
    leaf: usize,
    blocks: Range<usize>,
}

impl Shared {
    fn leaf(&self, index: usize) -> Result<&Mutex<Leaf>> {
        self.leaves.get(index).context("a block behind the end of the disk")
    }

    fn parts(&self, blocks: Range<u64>) -> impl Iterator<Item = Part> + use<> {
        let (span, most) = (self.span as u64, self.extent_blocks as u64);
        let mut at = blocks.start;
        std::iter::from_fn(move || {
            if at >= blocks.end {
                return None;
            }
            let leaf = at / span;
            let end = blocks.end.min((leaf + 1) * span).min(at + most);
            let within = |block: u64| usize::try_from(block - leaf * span).unwrap_or(usize::MAX);
            let part = Part { leaf: usize::try_from(leaf).unwrap_or(usize::MAX), blocks: within(at)..within(end) };
            at = end;
            Some(part)
        })
    }

    /// What the next checkpoint writes at most because of a change of a leaf in `epoch`.
    fn charge(&self, index: usize, leaf: &Leaf, epoch: u64) -> u64 {
        if leaf.dirty == epoch {
            return 0;
        }
        let mut bytes = leaf::node_bytes_max(self.span);
        let mut node = index;
        for level in &self.charged {
            node /= FANOUT;
            let charged = level.get(node).map_or(0, |epoch| epoch.load(std::sync::atomic::Ordering::Relaxed));
            if charged != epoch {
                bytes += INTERIOR_BYTES_MAX;
            }
        }
        bytes
    }

    fn write_part(&self, index: usize, blocks: Range<usize>, buffer: AlignedBuf) -> Result<Lsn> {
        let bytes = u32::try_from(blocks.len())? * BLOCK;
        let leaf = self.leaf(index)?;
        let look = || {
            let epoch = self.gate.read().epoch;
            self.charge(index, &leaf.lock(), epoch)
        };
        let mut charge = look();
        let need = |node_bytes, data_bytes| Need {
            log_bytes: 8,
            node_bytes,
            payload_bytes: 0,
            data_bytes,
            tier: Tier::Writer,
        };
        let mut permit = self.engine.reserve(need(charge, bytes.into()))?;
        let data = self.engine.append_buffer(&mut permit, buffer, bytes)?;
        loop {
            let gate = self.gate.read();
            let mut held = leaf.lock();
            let needed = self.charge(index, &held, gate.epoch);
            if needed > charge {
                // A checkpoint froze meanwhile: the leaf is clean again. Nothing may be waited for in here (INV-24).
                // Nor with a promise in hand: when there are many, everybody would wait for what another has.
                drop((held, gate));
                drop(permit);
                charge = needed;
                permit = self.engine.reserve(need(charge, 0))?;
                continue;
            }
            let first = index as u64 * self.span as u64 + blocks.start as u64;
            let body = first.to_le_bytes();
            let draft = Draft { kind: WRITE, territory: 1, origin: None, data: &data, body: &body };
            let appended = self.engine.append(&mut permit, draft)?;
            self.apply(index, &mut held, gate.epoch, blocks.start, &data, appended.hlc.birth());
            return Ok(appended.end);
        }
    }

    /// Changes the map: of a write, or of its replay; its objects lie one behind the other.
    fn apply(&self, index: usize, leaf: &mut Leaf, epoch: u64, first: usize, data: &[DataObject], birth: Hlc) {
        let mut dirty = None;
        if leaf.dirty != epoch {
            if leaf.dirty != 0 && leaf.dirty + 1 == epoch && leaf.frozen.is_none() {
                leaf.frozen = Some((Arc::clone(&leaf.entries), leaf.birth));
            }
            leaf.dirty = epoch;
            self.mark_charged(index, epoch);
            dirty.get_or_insert_with(|| self.dirty.lock()).leaves.push(index);
        }
        let entries = Arc::make_mut(&mut leaf.entries);
        let range = first..first + data.iter().map(|object| object.crcs.len()).sum::<usize>();
        let old = entries.get(range.clone()).unwrap_or_default();
        for run in leaf::runs(old) {
            let Some(start) = old.get(run.start).filter(|entry| entry.blocks > 0) else { continue };
            // All of an extent that goes is freed by its count; a part of it, here (INV-11).
            if run.len() < usize::from(start.blocks) {
                let units = |block: usize| u32::try_from(block).unwrap_or(0) * (BLOCK / UNIT);
                let from = usize::from(start.first);
                let freed = FreedRange { oid: start.oid, units: units(from)..units(from + run.len()) };
                dirty.get_or_insert_with(|| self.dirty.lock()).freed.push(freed);
            }
        }
        let mut entries = entries.iter_mut().skip(range.start);
        for object in data {
            let blocks = u16::try_from(object.crcs.len()).unwrap_or(u16::MAX);
            // The entries last: what ends first takes none too many.
            for ((crc, first), entry) in object.crcs.iter().zip(0..).zip(entries.by_ref()) {
                *entry = Entry { oid: object.oid, birth, crc: *crc, first, blocks };
            }
        }
        leaf.birth = leaf.birth.max(birth);
    }

    fn mark_charged(&self, index: usize, epoch: u64) {
        let mut node = index;
        for level in &self.charged {
            node /= FANOUT;
            if let Some(charged) = level.get(node) {
                charged.store(epoch, std::sync::atomic::Ordering::Relaxed);
            }
        }
    }
}

fn check_span(span: usize, blocks: u64) -> Result<()> {
    ensure!(span > 0 && blocks.is_multiple_of(span as u64), "a disk of {blocks} blocks with leaves of {span}");
    Ok(())
}
