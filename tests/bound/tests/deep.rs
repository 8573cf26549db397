//! Directories in each other, on a small store: what is written stays within a small multiple of what is made. By counters, not by time.

use envoyfs_engine::device::SimulatedDevice;
use envoyfs_engine::format::{FormatOptions, format};
use envoyfs_engine::hlc::ManualClock;
use envoyfs_engine::store::Store as _;
use envoyfs_engine::{Engine, Options, Settings, StoreError};
use envoyfs_namespace::Namespace;
use envoyfs_namespace::api::{Context, Error, InodeId, Make, Result};
use std::sync::Arc;

const CX: Context = Context::local(0, 0);
const START_NS: i64 = 1_767_225_600_000_000_000;
const LEVELS: u64 = 5000;

fn mount(device: &SimulatedDevice) -> (Arc<Engine>, Arc<Namespace>) {
    let clock = Arc::new(ManualClock::new(START_NS));
    let options =
        Options { read_only: false, threads: false, accept_loss: false, clock, settings: Settings::default() };
    let engine = Arc::new(Engine::open(Arc::new(device.clone()), options).expect("a store"));
    let options =
        envoyfs_namespace::Options { node_cache_bytes: 1 << 20, threads: false, read_only: false, seed: [7; 16] };
    let ns = Namespace::open(Arc::<Engine>::clone(&engine), options).expect("a file system");
    (engine, ns)
}

/// As the checkpointer does it: whenever one is due, and when somebody waits for one.
fn with_checkpointer<T>(engine: &Engine, ns: &Namespace, mut step: impl FnMut() -> Result<T>) -> T {
    for _ in 0..100 {
        let done = step();
        if engine.wait_checkpoint(0).is_some() || matches!(done, Err(Error::Store(StoreError::WouldWait { .. }))) {
            ns.checkpoint().expect("a checkpoint");
        }
        match done {
            Err(Error::Store(StoreError::WouldWait { .. })) => {}
            other => return other.expect("an operation"),
        }
    }
    panic!("100 checkpoints did not help");
}

#[test]
fn what_five_thousand_directories_in_each_other_write_grows_with_their_number() {
    let device = SimulatedDevice::new(128 << 20, 4096, 1);
    format(&device, &FormatOptions::new("deep", [7; 16], [9; 16], START_NS)).expect("a store");
    let (engine, ns) = mount(&device);
    let mut at = InodeId::ROOT;
    let mut bytes = Vec::new();
    for level in 0..LEVELS {
        let make = || ns.make(&CX, at, b"d", &Make::Directory, 0o755);
        let made = with_checkpointer(&engine, &ns, make).id;
        if at != InodeId::ROOT {
            ns.forget(at, 1);
        }
        at = made;
        if (level + 1) % 1000 == 0 {
            bytes.push(engine.metrics().streams.node_bytes.get() >> 10);
        }
    }
    ns.checkpoint().expect("a checkpoint");
    let metrics = engine.metrics();
    let (checkpoints, nodes) = (metrics.checkpoint.published.get(), metrics.streams.nodes.get());
    println!("{checkpoints} checkpoints, {nodes} nodes; KiB of nodes after each thousand: {bytes:?}");
    assert!(checkpoints < 100, "{checkpoints} checkpoints");
    assert!(nodes < 20 * LEVELS, "{nodes} nodes written for {LEVELS} directories");
    // Work at the bottom goes on.
    for number in 0..500 {
        let name = format!("file{number}");
        let make = || ns.make(&CX, at, name.as_bytes(), &Make::File, 0o644);
        let id = with_checkpointer(&engine, &ns, make).id;
        ns.forget(id, 1);
    }
    ns.checkpoint().expect("a checkpoint");
    let more = metrics.checkpoint.published.get() - checkpoints;
    assert!(more < 10, "{more} checkpoints for 500 files");
    ns.sync().expect("sync");
    drop((ns, engine));
    let (engine, ns) = mount(&device.process_crash());
    let mut at = InodeId::ROOT;
    for _ in 0..LEVELS {
        at = ns.lookup(&CX, at, b"d").expect("a level").id;
    }
    ns.lookup(&CX, at, b"file499").expect("the last file");
    with_checkpointer(&engine, &ns, || ns.delete_tree(&CX, InodeId::ROOT, b"d"));
    assert!(ns.lookup(&CX, InodeId::ROOT, b"d").is_err());
}
