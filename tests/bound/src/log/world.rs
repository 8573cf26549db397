//! The engine's world beside the model's: device, client, what really happened, and the fault if there is one.

use crate::Random;
use crate::log::client::{Appended, Building, Client, Logical, bytes_of};
use envoyfs_engine::device::{AlignedBuf, Device, Fault, SimulatedDevice};
use envoyfs_engine::format::{FormatOptions, format};
use envoyfs_engine::hlc::{Clock, ManualClock};
use envoyfs_engine::store::Store;
use envoyfs_engine::superblock;
use envoyfs_engine::{Engine, Options, Settings, StoreError};
use envoyfs_layout::directory_page::VolumeEntry;
use envoyfs_layout::wal::{Block, BlockHeader};
use envoyfs_layout::{Lsn, Oid};
use envoyfs_wal_model::config::Config;
use envoyfs_wal_model::engine::Phase;
use envoyfs_wal_model::world::{Act, Mode, World};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const DEVICE_BYTES: u64 = 8 << 20;
const RING_OFFSET: u64 = 64 << 10;
const START_NS: i64 = 1_767_225_600_000_000_000;
/// A fault is one sector.
const SECTOR: u64 = 512;
/// Faults of a history, one after the other: the next not before the one before has been told, or has cost what no watermark covered.
const FAULTS_MAX: u64 = 4;

/// What histories met.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub records: u64,
    pub checkpoints: u64,
    /// Of them without a record.
    pub unrecorded: u64,
    pub mounts: u64,
    pub interrupted: u64,
    pub lost: u64,
    pub poisoned: u64,
    pub faults: u64,
    /// Corruption reported.
    pub read_only: u64,
    /// Not mountable: a node of the checkpoint was the bad sector.
    pub damaged: u64,
    /// Acknowledged records cut above every watermark, because of the fault.
    pub exceptions: u64,
    /// Reads of data that was the bad sector.
    pub data_reported: u64,
}

type Check<T> = Result<T, String>;

struct Bound<'a> {
    config: &'a Config,
    random: Random,
    device: SimulatedDevice,
    slow: bool,
    clock: Arc<ManualClock>,
    ring_bytes: u64,
    /// None between a crash and the end of the recovery, and when it cannot be mounted any more.
    client: Option<Client>,
    building: Option<Building>,
    history: Vec<(Lsn, Logical)>,
    acknowledged: Lsn,
    objects: BTreeMap<Oid, u64>,
    next_record: u64,
    next_content: u64,
    /// Checkpoints of this mount without a record.
    unrecorded: u64,
    /// The bad sector, until its damage has been told, or has cost what no watermark covered: that happens once.
    fault: Option<u64>,
    /// Faults so far.
    faults: u64,
    /// State that the recovery of what is durable now must give, however often it is interrupted.
    expect: Option<Logical>,
    over: bool,
    counters: &'a mut Counters,
}

/// Runs the history of one seed; what is wrong, if something is. Bad sectors only if the configuration has faults.
pub fn history(config: &Config, seed: u64, counters: &mut Counters) -> Check<()> {
    let config = Config { ops: 160, checkpoints: 60, crashes: 14, quiet: 20, ..*config };
    let mut random = Random::new(seed);
    let mut model = World::format(&config);
    let mut bound = Bound::new(&config, seed, counters)?;
    let calm = 1 + random.index(6);
    let mut step = 0;
    loop {
        let acts = model.acts(&config);
        if acts.is_empty() || bound.over {
            break;
        }
        let mut act = acts[random.index(acts.len())];
        for _ in 0..calm {
            if matches!(act, Act::PowerLoss | Act::ProcessCrash | Act::FlushFails) {
                act = acts[random.index(acts.len())];
            }
        }
        let before = phase(&model);
        let mut choose = |n: usize| random.index(n);
        model
            .step(&config, act, &mut choose, &mut envoyfs_wal_model::world::Counters::default())
            .map_err(|why| format!("step {step}: {act:?}: the model itself: {why}"))?;
        bound.step(act, before, phase(&model)).map_err(|why| format!("step {step}: {act:?}: {why}"))?;
        if matches!(model.mode, Mode::Serving(_)) && bound.client.is_none() && !bound.over {
            bound.serve().map_err(|why| format!("step {step}: {act:?}: {why}"))?;
        }
        step += 1;
    }
    bound.end().map_err(|why| format!("at the end, after {step} steps: {why}"))
}

fn phase(model: &World) -> Option<Phase> {
    match &model.mode {
        Mode::Serving(engine) => Some(engine.phase),
        _ => None,
    }
}

impl<'a> Bound<'a> {
    fn new(config: &'a Config, seed: u64, counters: &'a mut Counters) -> Check<Bound<'a>> {
        let mut random = Random::new(seed ^ 0x10C);
        let block = if random.percent(50) { 512 } else { 4096 };
        let slow = random.percent(60);
        let ring_bytes = if config.ring < 9 { 192 << 10 } else { 512 << 10 };
        let device = SimulatedDevice::new(DEVICE_BYTES, block, seed).slow(slow);
        let options = FormatOptions {
            label: "bound".into(),
            uuid: [7; 16],
            seed: [9; 16],
            now_ns: START_NS,
            wal_bytes: Some(ring_bytes),
            segment_bytes: Some(256 << 10),
            force: false,
            small: true,
        };
        format(&device, &options).map_err(|error| error.to_string())?;
        let mut bound = Bound {
            config,
            random,
            device,
            slow,
            clock: Arc::new(ManualClock::new(START_NS)),
            ring_bytes,
            client: None,
            building: None,
            history: vec![(Lsn(0), (vec![None; usize::from(config.slots)], 0))],
            acknowledged: Lsn(0),
            objects: BTreeMap::new(),
            next_record: 1,
            next_content: 1,
            unrecorded: 0,
            fault: None,
            faults: 0,
            expect: None,
            over: false,
            counters,
        };
        bound.serve()?;
        Ok(bound)
    }

    fn mount(&self, read_only: bool, accept_loss: bool) -> Result<Engine, StoreError> {
        let clock: Arc<dyn Clock> = self.clock.clone();
        Engine::open(
            Arc::new(self.device.clone()),
            Options { read_only, threads: false, accept_loss, clock, settings: Settings::default() },
        )
    }

    fn client(&mut self) -> Check<&mut Client> {
        self.client.as_mut().ok_or_else(|| "nothing is mounted".to_string())
    }

    fn step(&mut self, act: Act, before: Option<Phase>, after: Option<Phase>) -> Check<()> {
        self.clock.advance(Duration::from_millis(3));
        match act {
            Act::PowerLoss | Act::ProcessCrash => return self.crash(act == Act::ProcessCrash),
            Act::Recover | Act::AcceptLoss => return Ok(()),
            _ => {}
        }
        if self.client.is_none() || self.client()?.engine.poisoned().is_some() {
            return Ok(());
        }
        match act {
            Act::Put(slot, _) => self.append(Some(usize::from(slot)), 0)?,
            Act::Meta(units) => self.append(None, usize::from(units))?,
            Act::Submit | Act::FlushBegin => {}
            Act::Complete(_) => {
                self.device.poll(1);
            }
            Act::Flush | Act::FlushEnd => self.commit()?,
            Act::FlushFails => self.fail_flush()?,
            Act::Quiet => {
                self.clock.advance(Duration::from_millis(1500));
                let pumped = self.client()?.engine.pump();
                self.alive("a watermark", pumped)?;
            }
            Act::Checkpoint => {
                if before == Some(Phase::Idle) && self.building.is_none() {
                    self.build()?;
                } else if after == Some(Phase::Idle) {
                    self.publish()?;
                }
            }
            Act::Unrecorded => self.crowd_ring()?,
            Act::Recover | Act::AcceptLoss | Act::PowerLoss | Act::ProcessCrash => {}
        }
        self.note();
        if self.may_go_bad() && self.random.percent(1) {
            self.lose_a_write();
        }
        Ok(())
    }

    /// What is durable is acknowledged.
    fn note(&mut self) {
        if let Some(client) = &self.client {
            self.acknowledged = self.acknowledged.max(client.engine.usage().durable);
        }
    }

    /// Nothing but a stopped device may make these calls fail.
    fn alive<T>(&mut self, what: &str, result: Result<T, StoreError>) -> Check<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(_) if self.device.is_crashed() => Ok(None),
            Err(error) => Err(format!("(e) {what}: {error}")),
        }
    }

    fn append(&mut self, put: Option<usize>, units: usize) -> Check<()> {
        let id = self.next_record;
        self.next_record += 1;
        let put = put.map(|slot| {
            self.next_content += 1;
            (slot, self.next_content)
        });
        for _ in 0..20 {
            match self.client()?.append(id, put, units) {
                Ok(Appended::At(end, oid)) => {
                    self.counters.records += 1;
                    if let (Some(oid), Some((_, content))) = (oid, put)
                        && self.objects.insert(oid, content).is_some()
                    {
                        return Err(format!("(f) {oid} is used again for another object"));
                    }
                    let logical = self.client()?.logical();
                    self.history.push((end, logical));
                    return Ok(());
                }
                Ok(Appended::Refused(_)) | Err(_) if self.device.is_crashed() => return Ok(()),
                Ok(Appended::Refused(error)) => return Err(format!("(e) an admitted record was refused: {error}")),
                Err(StoreError::WouldWait { .. }) => {
                    if self.building.is_none() {
                        self.build()?;
                    }
                    self.publish()?;
                }
                Err(error) => return Err(format!("append: {error}")),
            }
        }
        Err("(e) checkpoints give no room".into())
    }

    fn commit(&mut self) -> Check<()> {
        let end = self.client()?.engine.end();
        // Sometimes only what was appended some time ago.
        let some = self.history[self.random.index(self.history.len())].0;
        let wanted = if self.random.percent(30) { some } else { end };
        let committed = self.client()?.engine.commit(wanted);
        if self.alive("commit", committed)?.is_some() {
            self.acknowledged = self.acknowledged.max(wanted);
        }
        Ok(())
    }

    /// INV-33: after a failed flush nothing is acknowledged and nothing published.
    fn fail_flush(&mut self) -> Check<()> {
        self.append(None, 1)?;
        self.device.inject(Fault::FailFlush);
        self.counters.poisoned += 1;
        let building = self.building.take();
        let client = self.client()?;
        let end = client.engine.end();
        if client.engine.commit(end).is_ok() || client.engine.commit(end).is_ok() {
            return Err("INV-33: acknowledged after a failed flush".into());
        }
        if building.is_some_and(|building| client.publish(building).is_ok()) {
            return Err("INV-33: published after a failed flush".into());
        }
        if !matches!(client.append(0, None, 1), Err(StoreError::Poisoned { .. })) {
            return Err("INV-33: a record was admitted after a failed flush".into());
        }
        Ok(())
    }

    fn build(&mut self) -> Check<()> {
        let built = self.client()?.build();
        self.building = self.alive("a checkpoint's build", built)?;
        Ok(())
    }

    fn publish(&mut self) -> Check<()> {
        let Some(building) = self.building.take() else { return Ok(()) };
        let published = self.client()?.publish(building);
        if self.alive("a checkpoint", published)?.is_some() {
            self.counters.checkpoints += 1;
        }
        let unrecorded = self.client()?.engine.metrics().checkpoint.unrecorded.get();
        self.counters.unrecorded += unrecorded - std::mem::replace(&mut self.unrecorded, unrecorded);
        Ok(())
    }

    /// Fills the ring to its last block, if it has few: records, then openings of the segments of idle nodes. A checkpoint that is published then has no record.
    fn crowd_ring(&mut self) -> Check<()> {
        const BLOCKS_MAX: u64 = 64;
        const FREE_MIN: u64 = 10;
        let metrics = Arc::clone(self.client()?.engine.metrics());
        let is_full = || metrics.log.used_blocks.get() >= metrics.log.ring_blocks.get();
        if metrics.log.ring_blocks.get() > BLOCKS_MAX || self.building.is_none() {
            return Ok(());
        }
        for _ in 0..2 * BLOCKS_MAX {
            let id = self.next_record;
            self.next_record += 1;
            match self.client()?.append(id, None, 1) {
                Ok(Appended::At(end, _)) => {
                    let logical = self.client()?.logical();
                    self.history.push((end, logical));
                }
                _ if self.device.is_crashed() => return Ok(()),
                Ok(Appended::Refused(error)) => return Err(format!("(e) an admitted record was refused: {error}")),
                Err(StoreError::WouldWait { .. }) => break,
                Err(error) => return Err(format!("append: {error}")),
            }
        }
        for _ in 0..200 {
            let client = self.client()?;
            let end = client.engine.end();
            let done = client.engine.commit(end).and_then(|()| client.idle_node());
            match done {
                Err(StoreError::NoSpace { .. }) => return Ok(()),
                done => drop(self.alive("an idle node", done)?),
            }
            // Nobody admitted these nodes: what a checkpoint needs stays.
            if is_full() || self.device.is_crashed() || metrics.streams.containers_free.get() < FREE_MIN {
                break;
            }
        }
        Ok(())
    }

    // ---- crashes -----------------------------------------------------------------------------------------------------------

    fn crash(&mut self, process: bool) -> Check<()> {
        if self.client.is_some() {
            if self.random.percent(50) && self.client()?.engine.poisoned().is_none() {
                self.crash_in_a_call()?;
            }
            self.note();
            self.client = None;
            self.building = None;
        } else if !self.over {
            // The recovery is interrupted.
            self.counters.interrupted += 1;
            self.device.crash_after(self.random.index(40) as u64);
            let _interrupted = self.mount(false, self.fault.is_some());
        }
        // A process may be killed amid its writes; the device's cache lives on.
        self.device = match process {
            true => self.device.process_crash().slow(self.slow),
            false => self.device.crash(self.random.number()).slow(self.slow),
        };
        // A lost write is lost for good, or did not happen.
        if !process && self.may_go_bad() && self.random.percent(25) {
            self.go_bad();
        }
        if process || self.fault.is_some() {
            self.expect = None;
            return Ok(());
        }
        let found = self.peek()?;
        if let Some(expect) = self.expect.replace(found.clone())
            && expect != found
        {
            return Err(format!("(d) an interrupted recovery gave {found:?}, not {expect:?}"));
        }
        Ok(())
    }

    /// The power fails within a group commit or a checkpoint.
    fn crash_in_a_call(&mut self) -> Check<()> {
        self.device.crash_after(self.random.index(30) as u64);
        if self.random.percent(50) {
            self.commit()?;
        }
        if self.building.is_none() && self.random.percent(50) {
            self.build()?;
        }
        self.publish()?;
        if !self.device.is_crashed() {
            self.commit()?;
        }
        Ok(())
    }

    /// What a mount would find, without writing anything.
    fn peek(&self) -> Check<Logical> {
        let engine = self.mount(true, false).map_err(|error| format!("unmountable: {error}"))?;
        let client =
            Client::start(engine, usize::from(self.config.slots)).map_err(|error| format!("state: {error}"))?;
        Ok(client.logical())
    }

    fn may_go_bad(&self) -> bool {
        self.config.faults > 0 && self.fault.is_none() && self.faults < FAULTS_MAX
    }

    /// The damage was told, or it cost what no watermark covered, and was cut: from here on all is well, also if the old bytes can be read again.
    fn settle(&mut self) {
        if let Some(offset) = self.fault.take() {
            self.device.inject(Fault::Readable { offset });
        }
    }

    /// The next write of a sector near the head of the log, or of any, will be lost.
    fn lose_a_write(&mut self) {
        let offset = self.some_sector(true);
        self.device.inject(Fault::LoseWrite { offset });
        self.bad_at(offset);
    }

    /// A sector goes bad.
    fn go_bad(&mut self) {
        let offset = self.some_sector(false);
        self.bad_at(offset);
        self.device.inject(match self.random.percent(50) {
            true => Fault::ReadError { offset },
            false => {
                let mask = 1 << self.random.index(8);
                Fault::FlipBits { offset: offset + self.random.index(SECTOR as usize) as u64, mask }
            }
        });
    }

    fn bad_at(&mut self, offset: u64) {
        self.fault = Some(offset);
        self.faults += 1;
        self.counters.faults += 1;
    }

    /// Most faults are in the ring, where the rules are: at what the log needs, or just before its head.
    fn some_sector(&mut self, ahead: bool) -> u64 {
        let (from, bytes) = match self.random.index(20) {
            0 | 1 => (0, RING_OFFSET),
            2 => (DEVICE_BYTES - 2 * 4096, 2 * 4096),
            3 | 4 => (RING_OFFSET + self.ring_bytes, 2 << 20),
            5 | 6 => (RING_OFFSET, self.ring_bytes),
            _ => {
                let block = u64::from(self.device.geometry().logical_block_bytes);
                let blocks = self.ring_blocks().unwrap_or_default();
                let head = blocks.iter().max_by_key(|(_, header)| header.sequence).map_or(RING_OFFSET, |(at, _)| *at);
                let needed = self.needed_blocks().unwrap_or_default();
                let from = match ahead {
                    _ if !ahead && !needed.is_empty() && self.random.percent(70) => {
                        // The first two are where the rules differ.
                        let among = if self.random.percent(40) { needed.len().min(2) } else { needed.len() };
                        needed[self.random.index(among)]
                    }
                    true => head + (1 + self.random.index(6) as u64) * block,
                    false => (head + self.ring_bytes).saturating_sub(self.random.index(40) as u64 * block),
                };
                (RING_OFFSET + (from - RING_OFFSET) % self.ring_bytes, block)
            }
        };
        from + self.random.index((bytes / SECTOR) as usize) as u64 * SECTOR
    }

    /// Headers of the blocks of the ring that verify, but for the bad one.
    fn ring_blocks(&self) -> Check<Vec<(u64, BlockHeader)>> {
        let opened = superblock::open(&self.device).map_err(|error| format!("unmountable: {error}"))?;
        let block = u64::from(opened.superblock.logical_block);
        let mut bytes = AlignedBuf::zeroed(block as usize);
        let mut out = vec![];
        for at in (RING_OFFSET..RING_OFFSET + self.ring_bytes).step_by(block as usize) {
            let bad = self.fault.is_some_and(|fault| fault >= at && fault < at + block);
            if bad || self.device.read(at, &mut bytes).is_err() {
                continue;
            }
            if let Ok(found) = Block::decode(bytes.as_slice(), &opened.superblock.seed, at) {
                out.push((at, found.header));
            }
        }
        Ok(out)
    }

    /// Blocks that a mount would read for records, in order.
    fn needed_blocks(&self) -> Check<Vec<u64>> {
        let start = self.entry()?.start.sequence;
        let mut blocks: Vec<_> =
            self.ring_blocks()?.into_iter().filter(|(_, header)| header.sequence >= start).collect();
        blocks.sort_unstable_by_key(|(_, header)| header.sequence);
        Ok(blocks.into_iter().map(|(at, _)| at).collect())
    }

    fn fault_in_ring(&self) -> bool {
        self.fault.is_some_and(|at| at >= RING_OFFSET && at < RING_OFFSET + self.ring_bytes)
    }

    // ---- mounts ------------------------------------------------------------------------------------------------------------

    fn entry(&self) -> Check<VolumeEntry> {
        let opened = superblock::open(&self.device).map_err(|error| format!("unmountable: {error}"))?;
        let directory = superblock::read_directory(&self.device, &opened.superblock);
        Ok(directory.map_err(|error| format!("unmountable: {error}"))?.entry)
    }

    /// Everything up to here is known to be durable from sectors other than the bad one.
    fn covered(&self) -> Check<Lsn> {
        let entry = self.entry()?;
        let mut covered = entry.checkpoint.freeze;
        covered = entry.cuts.iter().map(|cut| cut.lsn).fold(covered, Ord::max);
        let of_this = self.ring_blocks()?.into_iter().filter(|(_, header)| header.generation == entry.ring_generation);
        covered = of_this.map(|(_, header)| header.durable).fold(covered, Ord::max);
        Ok(covered)
    }

    /// The recovery ends: what it found is checked, and serving starts.
    fn serve(&mut self) -> Check<()> {
        self.counters.mounts += 1;
        let covered = if self.fault.is_some() { self.covered()? } else { Lsn(0) };
        let mounted = self.mount(false, false);
        let fault_in_segments = self.fault.is_some() && !self.fault_in_ring();
        let mut engine = match mounted {
            Ok(engine) => engine,
            Err(_) if fault_in_segments => {
                self.counters.damaged += 1;
                self.over = true;
                return Ok(());
            }
            Err(error) => return Err(format!("unmountable: {error}")),
        };
        let mut corrupt = false;
        if !engine.read_only().is_empty() {
            corrupt = true;
            let why = engine.read_only().to_owned();
            // Data of the last group that the device does not give is told, not cut (decision 0018).
            let unreadable_data = why.contains("object ") && why.contains("cannot be read");
            if !(self.fault_in_ring() || fault_in_segments && unreadable_data) {
                return Err(format!("(c) false corruption report: {why}"));
            }
            let block = u64::from(self.device.geometry().logical_block_bytes);
            let bad = self.fault.map_or(0, |at| at - at % block);
            if self.fault_in_ring() && !why.contains(&format!("device offset {bad} ")) {
                return Err(format!("(c) the bad block is at {bad}, but the report says: {why}"));
            }
            self.counters.read_only += 1;
            drop(engine);
            engine = self.mount(false, true).map_err(|error| format!("mount with accept_loss: {error}"))?;
            if !engine.read_only().is_empty() {
                return Err(format!("(c) accept_loss does not help: {}", engine.read_only()));
            }
        }
        let end = engine.recovered_end();
        let client = match Client::start(engine, usize::from(self.config.slots)) {
            Ok(client) => client,
            Err(_) if fault_in_segments => {
                self.counters.damaged += 1;
                self.over = true;
                return Ok(());
            }
            Err(error) => return Err(format!("(b) the state cannot be read: {error}")),
        };
        if self.check_found(&client, end, corrupt, covered)? || corrupt {
            self.settle();
        }
        self.counters.lost += self.history.iter().filter(|(lsn, _)| *lsn > end).count() as u64;
        self.history.retain(|(lsn, _)| *lsn <= end);
        let logical = client.logical();
        self.history.push((end, logical));
        self.acknowledged = end;
        self.expect = None;
        self.unrecorded = 0;
        self.client = Some(client);
        Ok(())
    }

    /// Says whether something acknowledged was cut silently, above every watermark.
    fn check_found(&mut self, client: &Client, end: Lsn, corrupt: bool, covered: Lsn) -> Check<bool> {
        let found = client.logical();
        // A mount that was interrupted after the loss was accepted may have told of the checkpoint whose record was lost: that record has LSNs of what is gone.
        let is_it = |(lsn, state): &(Lsn, Logical)| *lsn <= end && (self.fault.is_none() || *state == found);
        let at = self.history.iter().rposition(is_it);
        let Some((lsn, want)) = at.and_then(|at| self.history.get(at)) else {
            return Err(format!("(a) {end:?} recovered is before the last known state {:?}", self.history[0].0));
        };
        if *want != found {
            return Err(format!("(a) recovered {end:?}: {found:?}, should be that at {lsn:?}: {want:?}"));
        }
        if let Some(expect) = &self.expect
            && *expect != found
        {
            return Err(format!("(d) mounted twice: {found:?}, then {expect:?}"));
        }
        let cut = end < self.acknowledged && !corrupt;
        if cut {
            if self.fault.is_none() {
                return Err(format!("(a) acknowledged {:?}, recovered {end:?}", self.acknowledged));
            }
            if end < covered {
                return Err(format!("(c) silent cut at {end:?}, below the watermark {covered:?}"));
            }
            self.counters.exceptions += 1;
        }
        for slot in client.slots.iter().flatten() {
            match client.read(slot) {
                Ok(bytes) if bytes == bytes_of(slot.content) => {}
                Ok(_) => return Err(format!("(b) {} shows other bytes", slot.reference.oid)),
                Err(_) if self.fault.is_some() && !self.fault_in_ring() => self.counters.data_reported += 1,
                Err(error) => return Err(format!("(b) {error}")),
            }
        }
        Ok(cut)
    }

    /// Deletes nothing, but waits for everything: then what lives is what is referenced.
    fn end(&mut self) -> Check<()> {
        if self.over {
            return Ok(());
        }
        if self.client.is_none() || self.client()?.engine.poisoned().is_some() {
            self.client = None;
            self.building = None;
            self.device = self.device.crash(self.random.number()).slow(self.slow);
            self.serve()?;
        }
        if self.over || self.fault.is_some() {
            return Ok(());
        }
        self.publish()?;
        for _ in 0..2 {
            self.build()?;
            self.publish()?;
        }
        self.client()?.check_space()
    }
}
