//! A long random history under the counting allocator.

use crate::client::{Client, Op};
use crate::counted::{aside, engine as count, forget_peak, live, peak};
use crate::device::Uncounted;
use envoyfs_engine::device::{Device, SimulatedDevice};
use envoyfs_engine::format::{FormatOptions, format};
use envoyfs_engine::hlc::{Clock, ManualClock};
use envoyfs_engine::metrics::Metrics;
use envoyfs_engine::{Engine, MemoryBound, Options, Settings, StoreError};
use envoyfs_random::Random;
use std::sync::Arc;
use std::time::Duration;

/// What is done on what.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Size of the store.
    pub mib: u64,
    /// Its log.
    pub wal_bytes: u64,
    /// Its segments.
    pub segment_bytes: u32,
    /// Bounds.
    pub settings: Settings,
    /// Operations.
    pub steps: u64,
    /// Trees that there may be.
    pub trees: u64,
    /// Keys that each may have.
    pub keys: u64,
    /// Largest value, in blocks.
    pub blocks_max: u64,
    /// Of a thousand operations, so many are records that change nothing.
    pub notes: u64,
    /// Operations between two mounts.
    pub mount_every: u64,
    /// Draws everything.
    pub seed: u64,
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Most memory while serving, and the bound then.
    pub serving: (u64, u64),
    /// The same while mounting.
    pub mounting: (u64, u64),
    /// The same while mounting read-only.
    pub looking: (u64, u64),
    /// The bound's parts when it was largest.
    pub parts: MemoryBound,
    /// What lived right after the first mount.
    pub empty: u64,
    /// Objects written.
    pub objects: u64,
    /// Most memory after a checkpoint, and the bound then.
    pub resting: (u64, u64),
    /// Bytes of pages at most, and their bound.
    pub pages: (u64, u64),
    /// Bytes of slot maps after a checkpoint at most.
    pub slot_maps: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// Containers that the cleaner emptied.
    pub emptied: u64,
    /// Page writes ahead of their time.
    pub spills: u64,
    /// Mounts, half of them after a power cut.
    pub mounts: u64,
    /// Records replayed.
    pub replayed: u64,
    /// Times that space ran out.
    pub full: u64,
}

fn small(random: &mut Random, bound: u64) -> u32 {
    u32::try_from(random.below(bound)).unwrap_or(u32::MAX)
}

/// The part of the peak that is nobody's: metrics, and what the runtime keeps for threads.
pub const FIXED_BYTES: u64 = 512 << 10;

fn note(what: &str, most: &mut (u64, u64), peak: u64, bound: u64) {
    assert!(peak <= bound, "{what}: {peak} bytes live, the bound is {bound}");
    // The nearest to its bound.
    if u128::from(peak) * u128::from(most.1.max(1)) >= u128::from(most.0) * u128::from(bound) {
        *most = (peak, bound);
    }
}

/// A store on a device whose memory is not counted.
#[must_use]
pub fn formatted(plan: &Plan) -> SimulatedDevice {
    let device = SimulatedDevice::new(plan.mib << 20, 512, plan.seed);
    let options = FormatOptions {
        label: "memory".into(),
        uuid: [7; 16],
        seed: [9; 16],
        now_ns: 1_700_000_000_000_000_000,
        wal_bytes: Some(plan.wal_bytes),
        segment_bytes: Some(plan.segment_bytes),
        force: false,
        small: true,
    };
    format(&device, &options).expect("a store");
    device
}

fn metrics(engine: &Engine) -> &Metrics {
    engine.metrics()
}

/// Mounts it to look at it only, which replays the same and writes nothing.
fn look(device: &SimulatedDevice, clock: &Arc<ManualClock>, plan: &Plan, seen: &mut Seen) {
    assert!(live() <= FIXED_BYTES / 2, "{} bytes are left of the mount before", live());
    forget_peak();
    let device: Arc<dyn Device> = Arc::new(Uncounted(device.clone()));
    let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(clock);
    let options =
        Options { read_only: true, threads: false, accept_loss: false, clock, settings: plan.settings.clone() };
    let engine = count(|| Engine::open(device, options)).expect("it can be looked at");
    note("mounting to look", &mut seen.looking, peak(), engine.memory_bound().mounting() + FIXED_BYTES);
    count(|| drop(engine));
}

fn mount(device: &SimulatedDevice, clock: &Arc<ManualClock>, plan: &Plan, seen: &mut Seen) -> Client {
    assert!(live() <= FIXED_BYTES / 2, "{} bytes are left of the mount before", live());
    forget_peak();
    let device: Arc<dyn Device> = Arc::new(Uncounted(device.clone()));
    let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(clock);
    let options =
        Options { read_only: false, threads: false, accept_loss: false, clock, settings: plan.settings.clone() };
    let client = Client::start(count(|| Engine::open(device, options)).expect("it mounts"));
    let bound = client.engine.memory_bound();
    seen.mounts += 1;
    seen.replayed += metrics(&client.engine).recovery.replayed.get();
    note("mounting", &mut seen.mounting, peak(), bound.mounting() + FIXED_BYTES);
    client
}

/// Runs it.
///
/// # Panics
/// When the memory passes the bound, or bytes are wrong.
#[must_use]
pub fn run(plan: &Plan) -> Seen {
    aside(|| {
        let mut seen = Seen::default();
        let mut random = Random::new(plan.seed);
        let clock = Arc::new(ManualClock::new(1_700_000_000_000_000_000));
        let mut device = formatted(plan);
        let mut client = mount(&device, &clock, plan, &mut seen);
        seen.empty = live();
        for step in 1..=plan.steps {
            clock.advance(Duration::from_millis(3));
            forget_peak();
            let checkpoints = client.checkpoints;
            let (tree, key) = (small(&mut random, plan.trees), small(&mut random, plan.keys));
            let is_note = random.below(1000) < plan.notes;
            let op = match random.below(1000) {
                _ if is_note => Op::Note,
                0..800 => {
                    let bytes = if random.below(4) == 0 { 512 } else { 4096 };
                    Op::Put {
                        tree,
                        key,
                        seed: random.number(),
                        bytes: bytes * (1 + small(&mut random, plan.blocks_max)),
                    }
                }
                800..990 => Op::Delete { tree, key },
                990..996 => Op::Fork { from: tree, to: small(&mut random, plan.trees) },
                _ => Op::Drop { tree },
            };
            seen.objects += u64::from(matches!(op, Op::Put { .. }));
            match client.run(&op) {
                Ok(()) => {}
                Err(StoreError::NoSpace { .. }) => {
                    seen.full += 1;
                    client.run(&Op::Drop { tree }).expect("there is always room to drop");
                    client.checkpoint().expect("and for a checkpoint");
                }
                Err(error) => panic!("step {step}: {op:?}: {error}"),
            }
            while client.is_due().is_some() {
                client.checkpoint().expect("a checkpoint");
            }
            let bound = client.engine.memory_bound();
            if bound.total() > seen.parts.total() {
                seen.parts = bound;
            }
            let gauges = metrics(&client.engine);
            note("pages", &mut seen.pages, gauges.state.loaded_peak.get(), bound.pages);
            if client.checkpoints > checkpoints {
                seen.slot_maps = seen.slot_maps.max(gauges.reads.cache_bytes.get());
                assert!(gauges.reads.cache_bytes.get() <= plan.settings.slot_map_bytes, "slot maps");
                note("after a checkpoint", &mut seen.resting, live(), bound.resting() + FIXED_BYTES);
            }
            note(&format!("step {step}, {op:?}"), &mut seen.serving, peak(), bound.serving() + FIXED_BYTES);
            if step % 16 == 0 {
                client.verify(tree, key);
            }
            if step % plan.mount_every == 0 {
                let metrics = metrics(&client.engine);
                seen.checkpoints += client.checkpoints;
                seen.emptied += metrics.cleaner.emptied.get();
                seen.spills += metrics.state.spills.get();
                let cut = (step / plan.mount_every).is_multiple_of(2);
                if !cut {
                    client.commit();
                }
                count(|| drop(client));
                device = if cut {
                    SimulatedDevice::from_image(device.durable_image(), 512, plan.seed)
                } else {
                    device.process_crash()
                };
                look(&device, &clock, plan, &mut seen);
                client = mount(&device, &clock, plan, &mut seen);
            }
        }
        count(|| drop(client));
        seen
    })
}
