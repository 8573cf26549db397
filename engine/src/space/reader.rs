//! Reading objects: from what is in flight, else from the place that the segment's home and slot map say. Verifies, and resolves anew once before it reports damage,
//! because the cleaner may have moved the object meanwhile.

use super::in_flight::{InFlight, bytes_of};
use super::readers::Readers;
use crate::StoreError;
use crate::device::Device;
use crate::metrics::Metrics;
use crate::state::{Fragment, locate};
use crate::store::Result;
use envoyfs_layout::checksum::crc32c;
use envoyfs_layout::directory_page::Place;
use envoyfs_layout::{LayoutError, Oid, Reference, UNIT};
use parking_lot::RwLock;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// What never changes while the store is mounted.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Seed of checksums of what is true of this store only.
    pub seed: [u8; 16],
    /// Volume id.
    pub volume: u16,
    /// Bytes of a container.
    pub segment_bytes: u32,
    /// Containers.
    pub containers: u32,
    /// Byte offset of container 0.
    pub segments_offset: u64,
    /// Bytes of a logical block.
    pub block_bytes: u32,
}

impl Shape {
    /// Units of a container.
    #[must_use]
    pub const fn units(&self) -> u32 {
        self.segment_bytes / UNIT
    }
    /// Units of a logical block.
    #[must_use]
    pub const fn block_units(&self) -> u32 {
        self.block_bytes.div_ceil(UNIT)
    }
    /// Byte offset of a unit.
    #[must_use]
    pub fn offset(&self, container: u32, unit: u32) -> u64 {
        self.segments_offset + u64::from(container) * u64::from(self.segment_bytes) + u64::from(unit) * u64::from(UNIT)
    }
    /// The logical blocks around `bytes` from `offset`: where they start, the bytes before `offset` in them, their length.
    #[must_use]
    pub fn around(&self, offset: u64, bytes: usize) -> (u64, usize, usize) {
        let skip = offset % u64::from(self.block_bytes);
        let within = usize::try_from(skip).unwrap_or(usize::MAX);
        (offset - skip, within, (within + bytes).next_multiple_of(self.block_bytes as usize))
    }
}

/// Bytes of a read that lie together on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Bytes from the device's start, a multiple of a unit.
    pub offset: u64,
    /// Where they belong in what is read.
    pub at: usize,
    /// How many.
    pub bytes: usize,
}

/// Where the units of a segment lie.
#[derive(Clone, Debug, Default)]
pub struct Location {
    /// Container in which units lie at their own slot.
    pub home: Option<u32>,
    /// Units elsewhere.
    pub moved: BTreeMap<u32, Fragment>,
}

/// See the module.
pub struct Reader {
    device: Arc<dyn Device>,
    metrics: Arc<Metrics>,
    shape: Shape,
    locations: RwLock<HashMap<u32, Location>>,
    /// Bytes not on the device yet.
    pub in_flight: InFlight,
    /// Pins.
    pub readers: Readers,
}

impl Reader {
    /// Nothing is known yet.
    pub fn new(device: Arc<dyn Device>, shape: Shape, metrics: Arc<Metrics>) -> Self {
        Self {
            device,
            metrics,
            shape,
            locations: RwLock::default(),
            in_flight: InFlight::default(),
            readers: Readers::default(),
        }
    }

    /// The store's shape.
    pub const fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Where to count.
    pub const fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Says where a segment lies.
    pub fn set_location(&self, segment: u32, location: Location) {
        self.locations.write().insert(segment, location);
    }

    /// Forgets a segment.
    pub fn forget(&self, segment: u32) {
        self.locations.write().remove(&segment);
    }

    /// Whether the segment is known (INV-22).
    pub fn knows(&self, segment: u32) -> bool {
        self.locations.read().contains_key(&segment)
    }

    /// Fills `into` from a range of units of the segment that `oid` was born in, and verifies it. `into` is as long as the range.
    pub fn read(
        &self,
        oid: Oid,
        range: &Range<u32>,
        into: &mut [u8],
        verify: impl Fn(&[u8]) -> std::result::Result<(), LayoutError>,
    ) -> Result<()> {
        let _reading = self.readers.enter();
        let mut tries = 0;
        loop {
            let offset = self.read_once(oid, range, into)?;
            match verify(into) {
                Ok(()) => return Ok(()),
                Err(_) if tries == 0 => {
                    self.metrics.reads.retried.increment();
                    tries += 1;
                }
                Err(what) => {
                    self.metrics.reads.damaged.increment();
                    return Err(StoreError::Damaged { oid, offset, what });
                }
            }
        }
    }

    fn read_once(&self, oid: Oid, range: &Range<u32>, into: &mut [u8]) -> Result<u64> {
        let mut runs = Vec::new();
        self.plan(oid, range, into, &mut runs)?;
        for run in &runs {
            let target = into.get_mut(run.at..run.at + run.bytes);
            let target = target.ok_or(StoreError::BadReference { oid, what: "its length is wrong" })?;
            self.read_run(run.offset, target)?;
        }
        Ok(runs.first().map_or(0, |run| run.offset))
    }

    /// What a read of these units consists of: copies what is in flight into `into`, which is as long as the range, and
    /// adds the rest to `runs`, in order. The places hold for a reader who has entered, or whose epoch was taken before.
    pub fn plan(&self, oid: Oid, range: &Range<u32>, into: &mut [u8], runs: &mut Vec<Run>) -> Result<()> {
        let bad = |what| StoreError::BadReference { oid, what };
        let segment = oid.segment();
        if into.len() != bytes_of(0..range.end.saturating_sub(range.start)).end {
            return Err(bad("its length is wrong"));
        }
        let unknown = || bad("its segment is not known");
        let mut add = |start: u32, container: Option<u32>, unit: u32, units: u32| {
            let container = container.ok_or_else(|| bad("it has no place any more"))?;
            if container >= self.shape.containers || unit + units > self.shape.units() {
                return Err(bad("it lies outside its segment"));
            }
            let (at, bytes) = (bytes_of(range.start..start).len(), bytes_of(0..units).end);
            runs.push(Run { offset: self.shape.offset(container, unit), at, bytes });
            Ok(())
        };
        // Nothing in flight, nothing moved: the common case costs no allocation.
        if !self.in_flight.may_hold(segment) {
            let locations = self.locations.read();
            let location = locations.get(&segment).ok_or_else(unknown)?;
            if location.moved.is_empty() {
                return add(range.start, location.home, range.start, range.end - range.start);
            }
        }
        for part in self.in_flight.copy(segment, range, into) {
            let pieces = {
                let locations = self.locations.read();
                let location = locations.get(&segment).ok_or_else(unknown)?;
                locate(location.home, &location.moved, &part)
            };
            let mut start = part.start;
            for (container, unit, units) in pieces {
                add(start, container, unit, units)?;
                start += units;
            }
        }
        Ok(())
    }

    /// Fills `into` from a container; returns the device offset.
    pub fn read_device(&self, container: u32, unit: u32, into: &mut [u8]) -> Result<u64> {
        let offset = self.shape.offset(container, unit);
        self.read_run(offset, into)?;
        Ok(offset)
    }

    fn read_run(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let (start, skip, length) = self.shape.around(offset, into.len());
        let mut buffer = self.device.buffers().take(length);
        self.device.read(start, &mut buffer)?;
        if let Some(bytes) = buffer.as_slice().get(skip..skip + into.len()) {
            into.copy_from_slice(bytes);
        }
        Ok(())
    }

    /// A whole node, batch part or roots object, verified against its reference (INV-14).
    pub fn object(&self, reference: &Reference) -> Result<Arc<[u8]>> {
        let oid = reference.oid;
        let slot = u32::from(oid.slot());
        if let Some(bytes) = self.in_flight.whole(oid.segment(), slot, reference.units()) {
            self.metrics.reads.node_in_memory.increment();
            return Ok(bytes);
        }
        let _timing = self.metrics.time(&self.metrics.reads.node);
        self.metrics.reads.node_bytes.add(reference.stored_bytes.into());
        let mut bytes = vec![0; reference.stored_bytes as usize];
        self.read(oid, &(slot..slot + reference.units()), &mut bytes, |bytes| {
            check("object", reference.crc, crc32c(bytes))
        })?;
        Ok(bytes.into())
    }

    /// A system page, verified.
    pub fn page(&self, place: &Place, structure: &'static str) -> Result<Vec<u8>> {
        let offset = self.shape.offset(place.container, place.units);
        let wrong = |source| StoreError::Structure { structure, offset, source };
        let bytes = u64::from(place.units) * u64::from(UNIT) + u64::from(place.stored_bytes);
        if place.container >= self.shape.containers || bytes > u64::from(self.shape.segment_bytes) {
            return Err(wrong(LayoutError::Field { structure, field: "place", found: place.container.into() }));
        }
        let mut into = vec![0; place.stored_bytes as usize];
        self.read_device(place.container, place.units, &mut into)?;
        check(structure, place.crc, crc32c(&into)).map_err(wrong)?;
        Ok(into)
    }
}

/// Compares a checksum.
pub fn check(structure: &'static str, expected: u32, found: u32) -> std::result::Result<(), LayoutError> {
    if expected == found { Ok(()) } else { Err(LayoutError::Checksum { structure, expected, found }) }
}

/// Verifies stored bytes of an extent against one checksum per 4 KiB.
pub fn check_blocks(crcs: &[u32], bytes: &[u8]) -> std::result::Result<(), LayoutError> {
    let blocks = bytes.len().div_ceil(envoyfs_layout::BLOCK as usize);
    if blocks != crcs.len() {
        return Err(LayoutError::Short { structure: "checksums of an extent", expected: blocks, found: crcs.len() });
    }
    bytes
        .chunks(envoyfs_layout::BLOCK as usize)
        .zip(crcs)
        .try_for_each(|(block, crc)| check("block", *crc, crc32c(block)))
}
