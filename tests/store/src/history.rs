//! Random histories of the client on a recorded device: what was done, what was acknowledged when, and all that the device was told.

use crate::client::{Client, Logical, Op, Rng, clock, tick};
use crate::device::{CrashImages, Device, DeviceImage, Recording, RecordingDevice, SimulatedDevice};
use crate::format::{FormatOptions, format};
use crate::hlc::{Clock as _, ManualClock};
use crate::store::{Result, Store as _};
use crate::{Engine, HistoryPolicy, Options, client};
use envoyfs_layout::Lsn;
use envoyfs_layout::superblock::{Barrier, Superblock};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What a history is made of. Everything follows from it.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Logical block of the device.
    pub block: u32,
    /// Writes complete late and in any order.
    pub slow: bool,
    /// Client operations, commits, checkpoints and pauses.
    pub steps: u64,
    /// Trees, and keys in each.
    pub trees: u64,
    /// See `trees`.
    pub keys: u64,
    /// Two checkpoints are retained, each goes as the next comes; and there are many.
    pub retains: bool,
}

impl Shape {
    /// Varied by the seed.
    #[must_use]
    pub fn of(seed: u64, steps: u64) -> Self {
        let block = if seed % 3 == 2 { 4096 } else { 512 };
        Self { block, slow: seed % 2 == 1, steps, trees: 3, keys: 12, retains: false }
    }

    /// The same with retained checkpoints.
    #[must_use]
    pub fn retaining(seed: u64, steps: u64) -> Self {
        Self { retains: true, ..Self::of(seed, steps) }
    }

    fn policy(&self) -> HistoryPolicy {
        match self.retains {
            true => HistoryPolicy { checkpoints_max: 2, interval_ms: 0, part_max: 2, ..HistoryPolicy::default() },
            false => client::tight().history,
        }
    }
}

/// A history that was run.
pub struct Recorded {
    /// What the device held, durably, before.
    pub base: DeviceImage,
    /// What it was told.
    pub recording: Recording,
    /// Contents after each record, from the mount on.
    pub history: Vec<(Lsn, Logical)>,
    /// (events so far, acknowledged from then on).
    pub marks: Vec<(usize, Lsn)>,
    /// Shape.
    pub shape: Shape,
    /// The time at the end.
    pub now_ns: i64,
    /// Which checkpoints were retained when this one was the last.
    pub lists: BTreeMap<u64, Vec<u64>>,
    /// Contents of each retained checkpoint.
    pub retained: BTreeMap<u64, Logical>,
    /// One in so many recovered stores must also serve.
    pub serves: u64,
}

impl Recorded {
    /// What a cut before event `position` must preserve.
    #[must_use]
    pub fn acknowledged(&self, position: usize) -> Lsn {
        self.marks.iter().rev().find(|(events, _)| *events <= position).map_or(Lsn(0), |(_, lsn)| *lsn)
    }

    /// Contents at an LSN; `None` before the first.
    #[must_use]
    pub fn at(&self, lsn: Lsn) -> Option<&Logical> {
        self.history.iter().rev().find(|(end, _)| *end <= lsn).map(|(_, logical)| logical)
    }

    /// The images of its cuts.
    #[must_use]
    pub fn images(&self) -> CrashImages {
        CrashImages::new(self.base.clone(), &self.recording).expect("a recording in memory")
    }
}

/// A formatted device with a ring of so many bytes.
#[must_use]
pub fn with_ring(mib: u64, wal_bytes: u64) -> SimulatedDevice {
    let device = SimulatedDevice::new(mib << 20, 512, 1);
    let options = FormatOptions {
        wal_bytes: Some(wal_bytes),
        segment_bytes: Some(256 << 10),
        small: true,
        ..FormatOptions::new("proof", [7; 16], [9; 16], 1_700_000_000_000_000_000)
    };
    format(&device, &options).expect("a store with a short ring");
    device
}

/// The smallest store there can be.
pub fn tiny_format(device: &dyn Device) {
    let options = FormatOptions {
        label: "proof".into(),
        uuid: [7; 16],
        seed: [9; 16],
        now_ns: 1_700_000_000_000_000_000,
        wal_bytes: Some(512 << 10),
        segment_bytes: Some(256 << 10),
        force: false,
        small: true,
    };
    format(device, &options).expect("8 MiB are enough");
}

/// A formatted device, durable.
#[must_use]
pub fn formatted(mib: u64, block: u32, seed: u64) -> SimulatedDevice {
    let device = SimulatedDevice::new(mib << 20, block, seed);
    tiny_format(&device);
    device.flush().expect("no faults yet");
    device
}

/// From now on the log and small data are written durably where the store's blocks are.
pub fn with_durable_writes(device: SimulatedDevice) -> SimulatedDevice {
    let superblock = envoyfs_engine::superblock::open(&device).expect("a store").superblock;
    let superblock = Superblock { barrier: Barrier::ForcedUnitAccess, ..superblock };
    envoyfs_engine::superblock::format(&device, &superblock).expect("no faults yet");
    device
}

/// Mounts, without threads.
pub fn mount(device: Arc<dyn Device>, clock: &Arc<ManualClock>) -> Result<Engine> {
    let clock: Arc<dyn crate::hlc::Clock> = Arc::<ManualClock>::clone(clock);
    Engine::open(
        device,
        Options { read_only: false, threads: false, accept_loss: false, clock, settings: client::tight() },
    )
}

/// One random step; `Ok(true)` when everything before is acknowledged by it.
pub fn step(client: &mut Client, rng: &mut Rng, shape: &Shape) -> Result<bool> {
    tick(&client.clock);
    let op = client.random_op(rng, shape.trees, shape.keys);
    client.run(&small(op))?;
    match rng.below(if shape.retains { 5 } else { 14 }) {
        0 => client.checkpoint()?,
        1..=3 => {
            client.commit()?;
            return Ok(true);
        }
        4 => {
            let building = client.build()?;
            for _ in 0..rng.below(3) {
                let op = client.random_op(rng, shape.trees, shape.keys);
                client.run(&small(op))?;
            }
            if rng.below(2) == 0 {
                client.commit()?;
            }
            client.finish(building)?;
        }
        5 => {
            // A background barrier, then a watermark.
            client.clock.advance(Duration::from_millis(1100));
            client.engine.pump()?;
            client.clock.advance(Duration::from_millis(200));
            client.engine.pump()?;
        }
        _ => {}
    }
    Ok(false)
}

/// Large objects only make a search slow.
fn small(op: Op) -> Op {
    match op {
        Op::Write { tree, key, seed, len } => Op::Write { tree, key, seed, len: 512 + len % 12_000 },
        other => other,
    }
}

/// Runs a history to its end. The device does not fail.
#[must_use]
pub fn record(seed: u64, shape: Shape) -> Recorded {
    let clock = clock();
    let base = aged(seed, &shape, &clock);
    let device = RecordingDevice::new(SimulatedDevice::from_image(base.clone(), shape.block, seed).slow(shape.slow));
    let recording = device.recording();
    let engine = mount(Arc::new(device), &clock).expect("no faults");
    let mut client = Client::start(engine, clock.clone());
    client.engine.retain(shape.policy());
    let mut marks = vec![(0, client.history[0].0)];
    let (mut lists, mut retained) = (BTreeMap::new(), BTreeMap::new());
    let mut rng = Rng(seed);
    look(&client, &mut lists, &mut retained);
    for _ in 0..shape.steps {
        let before = client.acknowledged;
        step(&mut client, &mut rng, &shape).expect("no faults");
        if client.acknowledged > before {
            marks.push((recording.len(), client.acknowledged));
        }
        look(&client, &mut lists, &mut retained);
    }
    let history = std::mem::take(&mut client.history);
    Recorded { base, recording, history, marks, shape, now_ns: clock.wall_ns(), lists, retained, serves: 32 }
}

/// A store of 8 MiB that was used a little; durable.
pub(crate) fn aged(seed: u64, shape: &Shape, clock: &Arc<ManualClock>) -> DeviceImage {
    let device = formatted(8, shape.block, seed);
    let device = if seed.is_multiple_of(2) { with_durable_writes(device) } else { device };
    // A few mounts and checkpoints of age, so that slots, cuts and twins are in use.
    {
        let mut client = Client::start(mount(Arc::new(device.clone()), clock).expect("fresh"), clock.clone());
        client.engine.retain(shape.policy());
        let mut rng = Rng(seed ^ 0xA5A5);
        for _ in 0..rng.below(20) {
            step(&mut client, &mut rng, shape).expect("no faults");
        }
        client.commit().expect("no faults");
    }
    let base = device.process_crash();
    base.flush().expect("no faults");
    base.durable_image()
}

/// Notes which checkpoints are retained now, and what is in them.
fn look(client: &Client, lists: &mut BTreeMap<u64, Vec<u64>>, retained: &mut BTreeMap<u64, Logical>) {
    let roots = client.engine.history().expect("no faults");
    let last = client.engine.usage().checkpoint;
    lists.entry(last).or_insert_with(|| roots.iter().map(|root| root.checkpoint).collect());
    for root in roots {
        let top = root.roots.references.first().copied();
        retained.entry(root.checkpoint).or_insert_with(|| top.map(|top| client.read_root(top)).unwrap_or_default());
    }
}
