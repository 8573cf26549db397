//! Reading objects: from what is in flight, else from the place that the segment's home and slot map say. Verifies, and resolves anew once before it reports damage,
//! because the cleaner may have moved the object meanwhile.

use super::in_flight::{InFlight, bytes_of};
use super::kept::Kept;
use super::pins::Pins;
use super::readers::Readers;
use crate::StoreError;
use crate::device::{Device, DeviceError};
use crate::metrics::Metrics;
use crate::mutant::{self, Mutant};
use crate::sabotage::{self, Rule};
use crate::state::pager::segment_page;
use crate::state::{Fragment, SlotMap, locate, map_memory, slot_map};
use crate::store::Result;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, RwLock};
use envoyfs_layout::checksum::crc32c;
use envoyfs_layout::directory_page::Place;
use envoyfs_layout::roots::RootsObject;
use envoyfs_layout::{IdMap, LayoutError, Oid, Reference, UNIT};
use std::collections::HashMap;
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
struct Location {
    /// Container in which units lie at their own slot.
    home: Option<u32>,
    slots: Slots,
}

/// What is known of moved units.
#[derive(Clone, Debug, Default)]
enum Slots {
    /// There are none.
    #[default]
    None,
    /// As the segment's page says, which was not read yet, or was forgotten.
    OnPage(Place),
    /// As the segment's page says.
    Cached(Place, Arc<SlotMap>, u64),
    /// Newer than any page.
    Pinned(Arc<SlotMap>),
}

type Pieces = Vec<(Option<u32>, u32, u32)>;

enum Found {
    Pieces(Pieces),
    OnPage(Option<u32>, Place),
}

/// Slot maps in memory.
#[derive(Debug, Default)]
struct Held {
    bytes: u64,
    clock: u64,
}

/// With the Arc around it.
const fn memory(map: usize) -> u64 {
    48 + map_memory(map)
}

/// See the module.
pub struct Reader {
    device: Arc<dyn Device>,
    metrics: Arc<Metrics>,
    shape: Shape,
    locations: RwLock<IdMap<u32, Location>>,
    held: Mutex<Held>,
    slot_map_bytes: u64,
    /// Units that were written elsewhere, by segment and slot, and are in no slot map yet.
    relocated: RwLock<HashMap<u32, SlotMap>>,
    /// Segments in it: whoever sees none need not look.
    relocations: AtomicUsize,
    /// Nodes at the top of the trees, from the published roots object.
    root_copies: RwLock<HashMap<Oid, Arc<[u8]>>>,
    /// Bytes not on the device yet.
    pub in_flight: InFlight,
    /// Readers that are inside.
    pub readers: Readers,
    /// Pins of clients.
    pub pins: Arc<Pins>,
    /// Where units lie that died while a pin may be held.
    pub kept: Kept,
}

impl Reader {
    /// Nothing is known yet.
    pub fn new(device: Arc<dyn Device>, shape: Shape, metrics: Arc<Metrics>, slot_map_bytes: u64) -> Self {
        let pins = Arc::new(Pins::new(Arc::clone(&metrics)));
        Self {
            device,
            metrics,
            shape,
            locations: RwLock::default(),
            held: Mutex::default(),
            slot_map_bytes,
            relocated: RwLock::default(),
            relocations: AtomicUsize::new(0),
            root_copies: RwLock::default(),
            in_flight: InFlight::default(),
            readers: Readers::default(),
            pins,
            kept: Kept::default(),
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

    /// The container in which units of a segment lie at their own slot.
    #[must_use]
    pub fn home(&self, segment: u32) -> Option<u32> {
        self.locations.read().get(&segment).and_then(|location| location.home)
    }

    /// Says in which container units of a segment lie at their own slot.
    pub fn set_home(&self, segment: u32, home: Option<u32>) {
        self.locations.write().entry(segment).or_default().home = home;
    }

    /// As [`Reader::set_home`], for all (segment, container) of a segment table.
    pub fn set_homes(&self, homes: impl Iterator<Item = (u32, u32)> + Clone) {
        let mut locations = self.locations.write();
        locations.reserve(homes.clone().count());
        for (segment, container) in homes {
            locations.entry(segment).or_default().home = Some(container);
        }
    }

    /// Says what moved out of a segment, before a page says so: stays in memory until [`Reader::set_page`].
    pub fn set_moved(&self, segment: u32, moved: SlotMap) {
        let mut locations = self.locations.write();
        let slots = &mut locations.entry(segment).or_default().slots;
        if let Slots::Cached(_, map, _) = std::mem::replace(slots, Slots::Pinned(Arc::new(moved))) {
            let mut held = self.held.lock();
            held.bytes = held.bytes.saturating_sub(memory(map.len()));
        }
    }

    /// Says that a segment's page is here now, and whether units moved out of the segment. A slot map that is known stays: the page has the same, less what died.
    pub fn set_page(&self, segment: u32, page: Place, has_moved: bool) {
        let mut locations = self.locations.write();
        let mut held = self.held.lock();
        held.clock += 1;
        let slots = &mut locations.entry(segment).or_default().slots;
        if let Slots::Cached(_, map, _) = slots {
            held.bytes = held.bytes.saturating_sub(memory(map.len()));
        }
        *slots = match std::mem::take(slots) {
            _ if !has_moved => Slots::None,
            Slots::Cached(_, map, _) | Slots::Pinned(map) => {
                held.bytes += memory(map.len());
                Slots::Cached(page, map, held.clock)
            }
            Slots::None | Slots::OnPage(_) => Slots::OnPage(page),
        };
        self.forget_oldest(&mut locations, &mut held);
    }

    /// Segments whose slot map stays in memory: no page says it yet.
    #[cfg(test)]
    pub(crate) fn pinned_maps(&self) -> usize {
        self.locations.read().values().filter(|location| matches!(location.slots, Slots::Pinned(_))).count()
    }

    /// Segments of which some units lie where no slot map says.
    #[cfg(test)]
    pub(crate) fn relocated_segments(&self) -> usize {
        self.relocated.read().len()
    }

    /// Units of a segment were written elsewhere, which its slot map does not say yet.
    pub fn relocate(&self, segment: u32, slot: u32, to: Fragment) {
        let mut relocated = self.relocated.write();
        relocated.entry(segment).or_default().insert(slot, to);
        self.relocations.store(relocated.len(), Ordering::Release);
    }

    /// Where units were written that no slot map knows yet.
    #[must_use]
    pub fn relocated(&self, segment: u32, slot: u32) -> Option<Fragment> {
        self.relocated.read().get(&segment)?.get(&slot).copied()
    }

    /// The slot map says so now: see [`Reader::set_moved`].
    pub fn installed(&self, segment: u32, slot: u32) {
        let mut relocated = self.relocated.write();
        let Some(slots) = relocated.get_mut(&segment) else { return };
        slots.remove(&slot);
        if slots.is_empty() {
            relocated.remove(&segment);
        }
        self.relocations.store(relocated.len(), Ordering::Release);
    }

    /// Whether the slot map says that a unit lies elsewhere than at home. Not if it cannot be read.
    #[must_use]
    pub fn is_moved(&self, segment: u32, slot: u32) -> bool {
        let pieces = self.locate_mapped(segment, &(slot..slot.saturating_add(1))).unwrap_or_default();
        pieces.first().is_some_and(|(container, unit, _)| *container != self.home(segment) || *unit != slot)
    }

    /// Where a range of units of a segment lies; reads the segment's page if units moved out and it is not in memory.
    fn locate(&self, segment: u32, range: &Range<u32>) -> Result<Pieces> {
        let mut kept = self.kept.of(segment);
        loop {
            let pieces = beside(kept.as_ref(), range, |range| self.locate_living(segment, range));
            // What died meanwhile is kept since before any page left it out: a page that does is seen with it, or this is looked up again.
            let now = self.kept.of(segment);
            if now == kept || mutant::on(Mutant::KeptAskedFirst) {
                return pieces;
            }
            kept = now;
        }
    }

    /// As if nothing dead were kept.
    fn locate_living(&self, segment: u32, range: &Range<u32>) -> Result<Pieces> {
        if self.relocations.load(Ordering::Acquire) == 0 {
            return self.locate_mapped(segment, range);
        }
        let fragments = self.relocated.read().get(&segment).cloned();
        beside(fragments.as_ref(), range, |range| self.locate_mapped(segment, range))
    }

    fn locate_mapped(&self, segment: u32, range: &Range<u32>) -> Result<Pieces> {
        let oid = Oid::new(self.shape.volume, segment, 0);
        let unknown = || StoreError::BadReference { oid, what: "its segment is not known" };
        let look = || {
            let locations = self.locations.read();
            let location = locations.get(&segment).ok_or_else(unknown)?;
            Ok::<_, StoreError>(match &location.slots {
                Slots::None => Found::Pieces(locate(location.home, &SlotMap::new(), range)),
                Slots::Cached(_, map, _) | Slots::Pinned(map) => {
                    self.metrics.reads.page_cache_hits.increment();
                    Found::Pieces(locate(location.home, map, range))
                }
                Slots::OnPage(page) => Found::OnPage(location.home, *page),
            })
        };
        let first = match look()? {
            Found::Pieces(pieces) => return Ok(pieces),
            on_page @ Found::OnPage(..) => on_page,
        };
        // The page's place holds for those who entered before they looked it up.
        let _reading = self.readers.enter();
        let (home, page) = match if mutant::on(Mutant::PageLookedUpOnce) { first } else { look()? } {
            Found::Pieces(pieces) => return Ok(pieces),
            Found::OnPage(home, page) => (home, page),
        };
        self.metrics.reads.page_cache_misses.increment();
        let map = Arc::new(slot_map(&segment_page(self, segment, &page)?));
        let pieces = locate(home, &map, range);
        self.hold(segment, page, map);
        Ok(pieces)
    }

    /// Keeps a slot map.
    fn hold(&self, segment: u32, page: Place, map: Arc<SlotMap>) {
        let mut locations = self.locations.write();
        let mut held = self.held.lock();
        held.clock += 1;
        match locations.get_mut(&segment).map(|location| &mut location.slots) {
            Some(slots)
                if matches!(&*slots, Slots::OnPage(place) if *place == page) || mutant::on(Mutant::OldSlotMapHeld) =>
            {
                held.bytes += memory(map.len());
                *slots = Slots::Cached(page, map, held.clock);
            }
            _ => return,
        }
        self.forget_oldest(&mut locations, &mut held);
    }

    /// Forgets the slot maps that were read longest ago, if there are too many.
    fn forget_oldest(&self, locations: &mut IdMap<u32, Location>, held: &mut Held) {
        let caches = &self.metrics.reads;
        caches.cache_bytes.set(held.bytes);
        if held.bytes <= self.slot_map_bytes || sabotage::on(Rule::SlotMapsKept) {
            return;
        }
        let mut cached: Vec<(u64, u32)> = locations
            .iter()
            .filter_map(|(segment, location)| match &location.slots {
                Slots::Cached(_, _, read) => Some((*read, *segment)),
                _ => None,
            })
            .collect();
        cached.sort_unstable();
        for (_, segment) in cached {
            if held.bytes <= self.slot_map_bytes / 4 * 3 {
                break;
            }
            let Some(location) = locations.get_mut(&segment) else { continue };
            if let Slots::Cached(page, map, _) = &location.slots {
                held.bytes = held.bytes.saturating_sub(memory(map.len()));
                location.slots = Slots::OnPage(*page);
                caches.cache_evictions.increment();
            }
        }
        caches.cache_bytes.set(held.bytes);
    }

    /// Bytes of slot maps in memory that could be read again, about.
    #[must_use]
    pub fn slot_map_bytes(&self) -> u64 {
        self.held.lock().bytes
    }

    /// Forgets a segment.
    pub fn forget(&self, segment: u32) {
        let location = self.locations.write().remove(&segment);
        if let Some(Location { slots: Slots::Cached(_, map, _), .. }) = location {
            let mut held = self.held.lock();
            held.bytes = held.bytes.saturating_sub(memory(map.len()));
        }
    }

    /// The container that the first unit of an object lies in, if that is known without reading a page.
    pub fn container_of(&self, oid: Oid) -> Option<u32> {
        let locations = self.locations.read();
        let location = locations.get(&oid.segment())?;
        let slot = u32::from(oid.slot());
        let pieces = match &location.slots {
            Slots::None => return location.home,
            Slots::Cached(_, map, _) | Slots::Pinned(map) => locate(location.home, map, &(slot..slot + 1)),
            Slots::OnPage(_) => return None,
        };
        pieces.first().and_then(|(container, ..)| *container)
    }

    /// Segments that are known.
    pub fn known(&self) -> usize {
        self.locations.read().len()
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
            self.read_run(run.offset, target).map_err(|error| match error {
                StoreError::Device(source @ DeviceError::Io { .. }) => StoreError::Unreadable { oid, source },
                other => other,
            })?;
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
        let is_plain = self.relocations.load(Ordering::Acquire) == 0 && self.kept.is_empty();
        if is_plain && !self.in_flight.may_hold(segment) {
            let locations = self.locations.read();
            let location = locations.get(&segment).ok_or_else(unknown)?;
            // Again: what is moved and dead is kept since before this said that nothing is moved.
            if matches!(location.slots, Slots::None) && (self.kept.is_empty() || mutant::on(Mutant::KeptAskedFirst)) {
                return add(range.start, location.home, range.start, range.end - range.start);
            }
        }
        for part in self.in_flight.copy(segment, range, into) {
            let pieces = self.locate(segment, &part)?;
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
        // Before so much memory is taken.
        if slot + reference.units() > self.shape.units() {
            return Err(StoreError::BadReference { oid, what: "it would end behind its segment" });
        }
        let _timing = self.metrics.time(&self.metrics.reads.node);
        self.metrics.reads.node_bytes.add(reference.stored_bytes.into());
        let mut bytes = vec![0; reference.stored_bytes as usize];
        let read = self.read(oid, &(slot..slot + reference.units()), &mut bytes, |bytes| {
            check("object", reference.crc, crc32c(bytes))
        });
        match read {
            Ok(()) => Ok(bytes.into()),
            Err(error) => {
                let copy = self.root_copies.read().get(&oid).cloned();
                let copy = copy.filter(|copy| crc32c(copy) == reference.crc).ok_or(error.clone())?;
                tracing::warn!(%error, "a node at the top is damaged; its copy in the roots object is good");
                Ok(copy)
            }
        }
    }

    /// Nodes at the top that cannot be read are read from this roots object from now on.
    pub fn set_root_copies(&self, roots: &RootsObject) {
        let copies = roots.copies.iter().map(|(reference, bytes)| (reference.oid, Arc::from(bytes.as_slice())));
        *self.root_copies.write() = copies.collect();
    }

    /// A node for the next roots object: the copy that is held, or as it stands.
    pub fn top_node(&self, reference: &Reference) -> Option<Vec<u8>> {
        let held = self.root_copies.read().get(&reference.oid).cloned();
        let held = held.filter(|copy| crc32c(copy) == reference.crc);
        held.or_else(|| self.object(reference).ok()).map(|bytes| bytes.to_vec())
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

/// Where units lie by fragments that come first, and otherwise as `rest` says.
fn beside(
    fragments: Option<&SlotMap>,
    range: &Range<u32>,
    rest: impl Fn(&Range<u32>) -> Result<Pieces>,
) -> Result<Pieces> {
    let Some(fragments) = fragments else { return rest(range) };
    let mut pieces = Pieces::new();
    let mut at = range.start;
    for (container, unit, units) in locate(None, fragments, range) {
        match container {
            Some(container) => pieces.push((Some(container), unit, units)),
            None => pieces.extend(rest(&(at..at.saturating_add(units)))?),
        }
        at = at.saturating_add(units);
    }
    Ok(pieces)
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
