//! A mount must not wait for a checkpoint that nobody makes yet.

use envoyfs_engine::device::SimulatedDevice;
use envoyfs_engine::format::{FormatOptions, format};
use envoyfs_engine::hlc::ManualClock;
use envoyfs_engine::{Engine, Options, Settings, StoreError};
use envoyfs_namespace::Namespace;
use envoyfs_namespace::api::{Context, Error, InodeId, Make, SetAttributes};
use std::sync::Arc;

const CX: Context = Context::local(0, 0);
const START_NS: i64 = 1_767_225_600_000_000_000;

fn mount(device: &SimulatedDevice) -> (Arc<Engine>, Result<Arc<Namespace>, Error>) {
    let clock = Arc::new(ManualClock::new(START_NS));
    let options =
        Options { read_only: false, threads: false, accept_loss: false, clock, settings: Settings::default() };
    let engine = Arc::new(Engine::open(Arc::new(device.clone()), options).expect("a store"));
    let options =
        envoyfs_namespace::Options { node_cache_bytes: 1 << 20, threads: false, read_only: false, seed: [7; 16] };
    (engine.clone(), Namespace::open(engine, options))
}

#[test]
fn a_store_whose_log_was_full_at_the_crash_mounts_and_drops_open_files_without_a_name() {
    let device = SimulatedDevice::new(64 << 20, 4096, 1);
    let options = FormatOptions {
        label: "full".into(),
        uuid: [7; 16],
        seed: [9; 16],
        now_ns: START_NS,
        wal_bytes: Some(256 << 10),
        segment_bytes: Some(256 << 10),
        force: false,
        small: true,
    };
    format(&device, &options).expect("a device that is large enough");
    let (engine, ns) = mount(&device);
    let ns = ns.expect("a new store");
    for number in 0..50 {
        let name = format!("open{number}");
        let id = ns.make(&CX, InodeId::ROOT, name.as_bytes(), &Make::File, 0o600).expect("make").id;
        ns.open_file(&CX, id, true).expect("open");
        ns.unlink(&CX, InodeId::ROOT, name.as_bytes()).expect("unlink");
    }
    let id = ns.make(&CX, InodeId::ROOT, b"kept", &Make::File, 0o600).expect("make").id;
    let set = SetAttributes { permissions: Some(0o640), ..SetAttributes::default() };
    let full = (0..1_000_000).find_map(|_| ns.setattr(&CX, id, &set).err());
    assert!(
        matches!(full, Some(Error::Store(StoreError::WouldWait { what: "log space" }))),
        "the log is what is full: {full:?}"
    );
    ns.sync().expect("sync");
    drop((ns, engine));
    let device = device.crash(2);
    let (_engine, ns) = mount(&device);
    let ns = ns.unwrap_or_else(|error| panic!("mount: {error}"));
    assert_eq!(ns.lookup(&CX, InodeId::ROOT, b"kept").expect("kept").permissions, 0o640);
    ns.checkpoint().expect("checkpoint");
}
