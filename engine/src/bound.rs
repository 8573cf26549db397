//! How much memory a mounted store takes at most: a function of its settings and its size (INV-35, decision 0015).
//!
//! Counted is what lives as long as something depends on it: caches, tables, what is between a call and the device, what is between two publications. Not counted: what one call
//! takes while it runs beyond what is named here (a read's own bytes), what the caller keeps, metrics and code. `tests/memory` holds a long history against it, call by call.

use crate::engine::Engine;
use crate::settings::Settings;
use crate::space::admission::Budget;
use crate::space::{BACKGROUND_REQUEST_BYTES, Container, Shape, URGENT_DEPTH};
use crate::state::{Fragment, TableRow, Unstored, map_memory};
use envoyfs_layout::batch::{BatchObject, Delta};
use envoyfs_layout::directory_page::{ContainerRow, ROW_BYTES};
use envoyfs_layout::{BLOCK, Oid, Reference, UNIT};

/// Bytes by what they are for. See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryBound {
    /// A row a container in memory, and the segment table twice while it is published: about half a KiB each.
    pub containers: u64,
    /// Where each segment that holds something lies, and its page: about 200 bytes each. A segment loses its home when it is cleaned and is known as long as something of it
    /// lives, so there are up to ten times as many as containers after long random overwriting.
    pub segments: u64,
    /// [`Settings::segment_cache_bytes`], and as much again (at least 128 KiB) while a batch is applied. A read-only mount that adopts one keeps the pages of all segments that it changes:
    /// a whole page for each segment.
    pub pages: u64,
    /// [`Settings::slot_map_bytes`], [`Settings::pinned_bytes`], and what the cleaner moved that no page says yet.
    pub slot_maps: u64,
    /// Records without a block, and the place of each block in the ring.
    pub log: u64,
    /// [`Settings::in_flight_bytes`], a buffer that is split, blocks of the log with a write under way, what each stream gathers, and what the background has before the device.
    pub in_flight: u64,
    /// [`Settings::unpublished_objects`], and twice the nodes of one checkpoint.
    pub unpublished: u64,
    /// What one checkpoint works out: [`Settings::dirty_bytes`], as edges, deltas and their encoding.
    pub checkpoint: u64,
    /// Copies of the cleaner that no publication has installed.
    pub cleaning: u64,
    /// Retained checkpoints and the drop queue.
    pub history: u64,
    /// The device's arena of buffers, registered with the kernel.
    pub buffers: u64,
    /// What recovery takes beside `containers`, `segments`, `pages`, `slot_maps`, `log` and `unpublished` until the client has applied the records: the log since the
    /// last checkpoint, decoded.
    pub recovery: u64,
}

impl MemoryBound {
    /// The parts by name, as the fields are called.
    #[must_use]
    pub const fn parts(&self) -> [(&'static str, u64); 12] {
        let Self {
            containers,
            segments,
            pages,
            slot_maps,
            log,
            in_flight,
            unpublished,
            checkpoint,
            cleaning,
            history,
            buffers,
            recovery,
        } = *self;
        [
            ("containers", containers),
            ("segments", segments),
            ("pages", pages),
            ("slot_maps", slot_maps),
            ("log", log),
            ("in_flight", in_flight),
            ("unpublished", unpublished),
            ("checkpoint", checkpoint),
            ("cleaning", cleaning),
            ("history", history),
            ("buffers", buffers),
            ("recovery", recovery),
        ]
    }

    /// When a checkpoint was published and nothing happened since: what the tables and caches take.
    #[must_use]
    pub const fn resting(&self) -> u64 {
        self.containers + self.segments + self.pages + self.slot_maps + self.log + self.history + self.buffers
    }

    /// While it serves.
    #[must_use]
    pub const fn serving(&self) -> u64 {
        self.resting() + self.unpublished + self.in_flight + self.checkpoint + self.cleaning
    }

    /// While it is mounted, until the records found have been applied.
    #[must_use]
    pub const fn mounting(&self) -> u64 {
        // One batch may have to be adopted.
        self.resting() + self.unpublished + self.checkpoint + self.recovery
    }

    /// The larger of the two.
    #[must_use]
    pub const fn total(&self) -> u64 {
        let (serving, mounting) = (self.serving(), self.mounting());
        if serving > mounting { serving } else { mounting }
    }
}

/// What the bound depends on beside the settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) segments: u64,
    pub(crate) streams: u64,
    pub(crate) dirty_max: u64,
    pub(crate) ring_blocks: u64,
    pub(crate) ring_bytes: u64,
    pub(crate) staging_bytes: u64,
    pub(crate) unflushed_bytes: u64,
    pub(crate) buffers: u64,
    /// Pages that an adopted batch changed cannot be written before their time.
    pub(crate) read_only: bool,
}

/// Bytes of a hash table while it grows: the places of both sizes, an eighth of them empty, and a byte each.
const fn hash_memory(entries: u64, entry_bytes: usize) -> u64 {
    let places = (entries * 8 / 7 + 4).next_power_of_two();
    (places + places / 2) * (entry_bytes as u64 + 1)
}

/// Bytes of a vector that doubles, while it does.
const fn vector_memory(entries: u64, entry_bytes: usize) -> u64 {
    3 * entries * entry_bytes as u64
}

/// Bytes of an ordered map: nodes have 11 places of which at least 5 are used, and some point to others.
const fn tree_memory(entries: u64, entry_bytes: usize) -> u64 {
    entries * (11 * entry_bytes as u64 + 24 + 40) / 5
}

/// A place of a dead unit on its way there, in a list that grows.
const PLACE_BYTES: u64 = size_of::<(u32, u32, Fragment)>() as u64;

pub(crate) fn memory_bound(settings: &Settings, shape: &Shape, sizes: &Sizes) -> MemoryBound {
    let containers = u64::from(shape.containers);
    let extent = u64::from(shape.segment_bytes / 4).min(1 << 20);
    let chunk = u64::from(BACKGROUND_REQUEST_BYTES.min(shape.segment_bytes));
    // Row, live units, the sets of free and of releasable containers; the table that is published and the next one, as rows and as bytes, of which a copy is made to be written.
    let row = size_of::<Container>() + 4 + 2 * size_of::<ContainerRow>() + 2 * ROW_BYTES;
    let page = settings.page_part_bytes();
    // A page that does not fit is taken alone.
    let page_max = map_memory(shape.units() as usize);
    let dirty = sizes.dirty_max.min(settings.dirty_bytes);
    // Nodes are at least one unit, references in it take 40 bytes there and 32 or more here.
    let (nodes, edges) = (2 * dirty / u64::from(UNIT), 2 * dirty / Reference::BYTES as u64);
    let deltas = dirty / Reference::BYTES as u64;
    let object = size_of::<(Oid, Unstored)>();
    let unpublished = settings.unpublished_objects + settings.in_flight_bytes / u64::from(BLOCK);
    let history = u64::from(settings.history.checkpoints_max).min(256);
    MemoryBound {
        containers: containers * row as u64 + 3 * tree_memory(containers, 4),
        segments: tree_memory(sizes.segments, size_of::<(u32, TableRow)>()) + hash_memory(sizes.segments, 64),
        // What is applied to a part may make its pages larger.
        pages: settings.segment_cache_bytes
            + 2 * page
            + page_max * if sizes.read_only { sizes.segments + 1 } else { 1 },
        slot_maps: settings.slot_map_bytes
            + page
            + page_max
            + if sizes.read_only {
                0
            } else {
                settings.pinned_bytes + 2 * settings.pinned_places() as u64 * PLACE_BYTES
            },
        log: sizes.staging_bytes + vector_memory(sizes.ring_blocks, 24),
        // A buffer whose data was split over two containers lives until both halves are written, and only what is not yet is counted as in flight: one a stream, as long as a write does
        // not take longer than all those that fill the next container.
        in_flight: settings.in_flight_bytes
            + sizes.streams * extent
            + sizes.unflushed_bytes
            + 2 * (sizes.streams + u64::from(URGENT_DEPTH)) * (chunk + extent),
        unpublished: hash_memory(unpublished, object)
            + vector_memory(unpublished, size_of::<BatchObject>())
            + hash_memory(nodes, object)
            + edges * size_of::<Reference>() as u64,
        checkpoint: tree_memory(deltas, size_of::<(Reference, u64)>())
            + vector_memory(deltas, size_of::<Delta>())
            + vector_memory(nodes, size_of::<BatchObject>())
            + 2 * dirty,
        cleaning: vector_memory(settings.moves_max(shape.units()), 56) + 4 * u64::from(shape.segment_bytes),
        history: history * 1024 + vector_memory(2 * 4096, 8) + vector_memory(2 * 1024, size_of::<Reference>()),
        buffers: sizes.buffers,
        // A record of 40 bytes takes ten times that while the list of them grows.
        recovery: 10 * sizes.ring_bytes,
    }
}

impl Engine {
    /// How much memory this store takes at most with its settings, as it is now: `segments` grows and falls with what lives. Of a read-only mount: what its client appends is not
    /// bounded, since it is kept; and the log is as long as it can be in front of the segments.
    #[must_use]
    pub fn memory_bound(&self) -> MemoryBound {
        let block_bytes = u64::from(self.shape.block_bytes.max(1));
        let (ring, staging_bytes, unflushed_bytes) = match &self.writer {
            Some(writer) => writer.wal.memory(),
            None => (self.shape.segments_offset / block_bytes, 0, 0),
        };
        let dirty_max = match &self.writer {
            Some(writer) => writer.admission.budget.dirty_max,
            None => Budget::new(self.device.geometry().size_bytes, self.shape.segment_bytes).dirty_max,
        };
        let sizes = Sizes {
            segments: self.reader.known() as u64,
            streams: self.writer.as_ref().map_or(0, |writer| writer.space.streams()),
            dirty_max,
            ring_blocks: ring,
            ring_bytes: ring * block_bytes,
            staging_bytes,
            unflushed_bytes,
            buffers: self.device.buffers().arena_bytes() as u64,
            read_only: self.writer.is_none(),
        };
        memory_bound(&self.options.settings, &self.shape, &sizes)
    }
}
