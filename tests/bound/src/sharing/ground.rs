//! What a namespace stands on: the engine on a simulated device, or the exact oracle of counts.

use crate::Random;
use crate::sharing::recount::{Recount, recount};
use envoyfs_engine::device::SimulatedDevice;
use envoyfs_engine::format::{FormatOptions, format};
use envoyfs_engine::hlc::{Clock, ManualClock};
use envoyfs_engine::memory::{MemoryOptions, MemoryStore};
use envoyfs_engine::store::Store;
use envoyfs_engine::{Engine, MarkOptions, Options, Settings, StoreError};
use envoyfs_layout::{Lsn, Oid};
use envoyfs_namespace::extent_uses;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A store that can lose power.
pub trait Ground {
    /// The store that is open.
    fn store(&self) -> Arc<dyn Store>;
    /// Lets time pass between two operations.
    fn tick(&mut self, random: &mut Random);
    /// Lets the power fail soon, amid an operation; if it can.
    fn arm(&mut self, random: &mut Random);
    /// Has the power failed?
    fn is_dead(&self) -> bool;
    /// Power failure, perhaps also in the recovery, and a new mount. Returns the end of the log that was found.
    fn crash(&mut self, random: &mut Random) -> Result<Lsn, String>;
    /// Sharing and space, checked from the bytes on the device, right after a checkpoint. `quiescent`: nothing waits to be dropped.
    fn check(&self, quiescent: bool) -> Result<Option<Recount>, String>;
    /// Objects in the published checkpoint, the engine's own included.
    fn objects(&self) -> Result<usize, String>;
    /// Asks for a mark at the next checkpoint.
    fn ask_mark(&mut self) {}
    /// The mark that was asked for, if its checkpoint was made: it must find every count and every unit as they are kept, but for units that no slice uses.
    fn mark(&mut self, _random: &mut Random) -> Result<(), String> {
        Ok(())
    }
    /// With nothing waiting to be dropped, and after a mark and the checkpoint behind it: what lives is what slices and nodes use, to the unit (INV-12).
    fn check_exactly(&self) -> Result<(), String> {
        Ok(())
    }
}

/// The oracle of counts.
pub struct Memory(Arc<MemoryStore>);

impl Memory {
    /// An empty one.
    pub fn new() -> Memory {
        Memory(Arc::new(MemoryStore::new(MemoryOptions { drops_per_checkpoint: 7, ..MemoryOptions::default() })))
    }
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::new()
    }
}

impl Ground for Memory {
    fn store(&self) -> Arc<dyn Store> {
        self.0.clone()
    }
    fn tick(&mut self, random: &mut Random) {
        self.0.advance_clock(random.index(3_000_000) as i64);
    }
    fn arm(&mut self, _: &mut Random) {}
    fn is_dead(&self) -> bool {
        false
    }
    fn crash(&mut self, random: &mut Random) -> Result<Lsn, String> {
        let mut ends = self.0.record_ends();
        ends.push(self.0.durable());
        let keep = ends[random.index(ends.len())];
        self.0 = Arc::new(self.0.crash(keep));
        Ok(keep)
    }
    fn check(&self, quiescent: bool) -> Result<Option<Recount>, String> {
        if quiescent {
            self.0.assert_quiescent();
        }
        Ok(None)
    }
    fn objects(&self) -> Result<usize, String> {
        Ok(self.0.stored_objects().0)
    }
}

/// The engine on a simulated device.
pub struct Simulated {
    device: SimulatedDevice,
    clock: Arc<ManualClock>,
    engine: Arc<Engine>,
}

const START_NS: i64 = 1_767_225_600_000_000_000;

impl Simulated {
    /// A new store.
    pub fn new(seed: u64) -> Simulated {
        let block = if seed.is_multiple_of(2) { 512 } else { 4096 };
        let device = SimulatedDevice::new(64 << 20, block, seed);
        let options = FormatOptions {
            label: "bound".into(),
            uuid: [7; 16],
            seed: [9; 16],
            now_ns: START_NS,
            wal_bytes: Some(3 << 20),
            segment_bytes: Some(256 << 10),
            force: false,
            small: true,
        };
        format(&device, &options).expect("a device that is large enough");
        let clock = Arc::new(ManualClock::new(START_NS));
        let engine = Arc::new(mount(&device, &clock).expect("a new store"));
        Simulated { device, clock, engine }
    }
}

fn mount(device: &SimulatedDevice, clock: &Arc<ManualClock>) -> Result<Engine, String> {
    let clock: Arc<dyn Clock> = clock.clone();
    let options =
        Options { read_only: false, threads: false, accept_loss: false, clock, settings: Settings::default() };
    let engine = Engine::open(Arc::new(device.clone()), options).map_err(|error| format!("mount: {error}"))?;
    match engine.read_only() {
        "" => Ok(engine),
        why => Err(format!("mounted read-only: {why}")),
    }
}

impl Ground for Simulated {
    fn store(&self) -> Arc<dyn Store> {
        self.engine.clone()
    }
    fn tick(&mut self, random: &mut Random) {
        self.clock.advance(Duration::from_millis(random.index(10) as u64));
        if random.percent(2) {
            self.clock.advance(Duration::from_millis(1500));
            // A dead device is noticed by the next operation.
            let _quiet = self.engine.pump();
        }
    }
    fn arm(&mut self, random: &mut Random) {
        self.device.crash_after(random.index(80) as u64);
    }
    fn is_dead(&self) -> bool {
        self.device.is_crashed()
    }
    fn crash(&mut self, random: &mut Random) -> Result<Lsn, String> {
        self.device = self.device.crash(random.number());
        while random.percent(30) {
            self.device.crash_after(random.index(30) as u64);
            let _interrupted = mount(&self.device, &self.clock);
            self.device = self.device.crash(random.number());
        }
        self.engine = Arc::new(mount(&self.device, &self.clock)?);
        Ok(self.engine.recovered_end())
    }

    fn check(&self, quiescent: bool) -> Result<Option<Recount>, String> {
        let engine = &self.engine;
        let found = engine.check_space();
        if !found.is_empty() {
            return Err(format!("INV-32: {found:?}"));
        }
        let count = recount(&**engine, &engine.client_roots())?;
        let live: BTreeMap<u32, BTreeSet<u32>> = engine
            .liveness()
            .into_iter()
            .map(|(number, runs)| (number, runs.into_iter().flatten().collect()))
            .collect();
        let is_live = |oid: Oid, unit: u32| {
            live.get(&oid.segment()).is_some_and(|units| units.contains(&(u32::from(oid.slot()) + unit)))
        };
        // INV-09, INV-10: what is referenced lives.
        for (oid, units) in &count.referenced {
            if let Some(unit) = units.clone().find(|unit| !is_live(*oid, *unit)) {
                return Err(format!("INV-10: unit {unit} of {oid} is free and referenced"));
            }
        }
        for (reference, units) in count.exclusive.values() {
            let oid = reference.oid;
            if let Some(unit) = (0..reference.units()).find(|unit| is_live(oid, *unit) != units.contains(unit)) {
                return Err(format!("INV-11: unit {unit} of the exclusive {oid} lives, and no slice refers to it"));
            }
        }
        if !quiescent {
            return Ok(Some(count));
        }
        // INV-06: with nothing waiting to be dropped, every stored node is reachable.
        for (oid, edges) in &count.edges {
            let kept = engine.count(*oid);
            if kept != *edges {
                return Err(format!("INV-06: {oid}: {kept} references kept, {edges} edges counted again"));
            }
        }
        let shared = count.edges.values().filter(|edges| **edges > 1).count() as u64;
        if engine.usage().shared_objects != shared {
            let kept = engine.usage().shared_objects;
            return Err(format!("INV-06: {kept} objects counted with several references, {shared} have them"));
        }
        // INV-12: nothing lives but what is reachable.
        let own = engine.roots_objects();
        let mut reachable: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for reference in count.objects.values().chain(&own) {
            let start = u32::from(reference.oid.slot());
            reachable.entry(reference.oid.segment()).or_default().extend(start..start + reference.units());
        }
        for (segment, units) in &live {
            let of = reachable.remove(segment).unwrap_or_default();
            if let Some(unit) = units.difference(&of).next() {
                return Err(format!("INV-12: unit {unit} of segment {segment} lives and nothing refers to it"));
            }
        }
        Ok(Some(count))
    }

    fn ask_mark(&mut self) {
        // One may be under way already.
        let _asked = self.engine.ask_mark();
    }

    fn mark(&mut self, random: &mut Random) -> Result<(), String> {
        // One pass, or one for each few segments.
        let memory_bytes = if random.percent(50) { 64 << 20 } else { 4096 };
        match self.engine.mark(MarkOptions { memory_bytes, ..MarkOptions::default() }, Some(&extent_uses)) {
            Ok(report) => {
                let wrong = (report.counts, report.leaked_bytes, report.lost_bytes, report.unreadable.len());
                let right = wrong == (0, 0, 0, 0);
                right.then_some(()).ok_or_else(|| format!("INV-06, INV-12: the mark differs: {report:?}"))
            }
            // Its checkpoint is not made yet, or there is too little space for it to stay.
            Err(StoreError::WouldWait { .. } | StoreError::Refused(_)) => Ok(()),
            Err(error) => Err(format!("the mark: {error}")),
        }
    }

    fn check_exactly(&self) -> Result<(), String> {
        let count = recount(&*self.engine, &self.engine.client_roots())?;
        let mut used: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        let own = self.engine.roots_objects();
        let own = own.iter().map(|reference| (reference.oid, 0..reference.units()));
        for (oid, units) in count.referenced.iter().cloned().chain(own) {
            let start = u32::from(oid.slot());
            used.entry(oid.segment()).or_default().extend(start + units.start..start + units.end);
        }
        let live: BTreeMap<u32, BTreeSet<u32>> = self
            .engine
            .liveness()
            .into_iter()
            .map(|(number, runs)| (number, runs.into_iter().flatten().collect()))
            .collect();
        if used == live {
            return Ok(());
        }
        let differs = used.keys().chain(live.keys()).find(|number| used.get(number) != live.get(number));
        let number = differs.copied().unwrap_or(0);
        Err(format!("INV-12: segment {number}: {:?} used, {:?} lives", used.get(&number), live.get(&number)))
    }

    fn objects(&self) -> Result<usize, String> {
        Ok(recount(&*self.engine, &self.engine.client_roots())?.objects.len())
    }
}
