//! Stores for tests: made, opened, with settings so tight that everything is spilled all the time.

use super::{Client, half};
use crate::device::{Device, SimulatedDevice};
use crate::format::{FormatOptions, format};
use crate::hlc::ManualClock;
use crate::store::Result;
use crate::{Engine, HistoryPolicy, Options, Settings};
use envoyfs_layout::node::NodeView;
use envoyfs_layout::{LayoutError, Oid, Reference, ReferenceKind};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

pub fn small_format(device: &dyn Device) {
    format_with_segments(device, 256 << 10);
}

pub fn format_with_segments(device: &dyn Device, segment_bytes: u32) {
    let options = FormatOptions {
        label: "test".into(),
        uuid: [7; 16],
        seed: [9; 16],
        now_ns: 1_700_000_000_000_000_000,
        wal_bytes: Some(1 << 20),
        segment_bytes: Some(segment_bytes),
        force: false,
        small: true,
    };
    format(device, &options).unwrap();
}

pub fn open(device: &SimulatedDevice, clock: &Arc<ManualClock>) -> Result<Engine> {
    let clock: Arc<dyn crate::hlc::Clock> = Arc::<ManualClock>::clone(clock);
    Engine::open(
        Arc::new(device.clone()),
        Options { read_only: false, threads: false, accept_loss: false, clock, settings: tight() },
    )
}

pub fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(1_700_000_000_000_000_000))
}

/// A formatted device and a client on it.
pub fn fresh(mib: u64, block: u32, seed: u64) -> (SimulatedDevice, Client) {
    fresh_with_segments(mib, block, seed, 256 << 10)
}

/// With segments of another size, and so extents of up to a quarter of it.
pub fn fresh_with_segments(mib: u64, block: u32, seed: u64, segment_bytes: u32) -> (SimulatedDevice, Client) {
    let device = SimulatedDevice::new(mib << 20, block, seed);
    format_with_segments(&device, segment_bytes);
    let clock = clock();
    let engine = open(&device, &clock).unwrap();
    assert!(device.geometry().size_bytes > 0);
    (device, Client::start(engine, clock))
}

pub fn tick(clock: &ManualClock) {
    clock.advance(Duration::from_millis(7));
}

/// Caches so small that pages are read, spilled and forgotten all the time.
pub fn tight() -> Settings {
    let history = HistoryPolicy { checkpoints_max: 3, interval_ms: 50, ..HistoryPolicy::default() };
    Settings { segment_cache_bytes: 2048, slot_map_bytes: 512, history, ..Settings::default() }
}

/// The seeds of a test, or the one that `ENGINE_SEED` names; each is told with the command that repeats it.
pub fn seeds(all: Range<u64>, test: &str) -> impl Iterator<Item = u64> {
    let one: Option<u64> = std::env::var("ENGINE_SEED").ok().map(|seed| seed.parse().unwrap());
    let all = one.map_or(all, |seed| seed..seed + 1);
    all.inspect(move |seed| println!("ENGINE_SEED={seed} cargo test -p envoyfs-engine --lib {test}"))
}

/// Whether all seeds of a test run: what must have happened in some of them is asked for then.
pub fn runs_all_seeds() -> bool {
    std::env::var_os("ENGINE_SEED").is_none()
}

/// Units of extents that a leaf of the test client uses: punched values do not use their first half.
pub fn uses(_: &Reference, bytes: &[u8], add: &mut dyn FnMut(Oid, Range<u32>)) -> std::result::Result<(), LayoutError> {
    let view = NodeView::parse(bytes)?;
    for item in view.items() {
        for index in item.reference_indexes() {
            let reference = view.reference(index).unwrap();
            if reference.kind == ReferenceKind::Extent {
                let skip = if item.value[0] == 0 { 0 } else { half(reference.stored_bytes) / 512 };
                add(reference.oid, skip..reference.units());
            }
        }
    }
    Ok(())
}
