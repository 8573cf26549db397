//! A file system that is full, on small stores: what deletes works, then writing works, and it can be unmounted (INV-26).

use envoyfs_engine::device::SimulatedDevice;
use envoyfs_engine::format::{FormatOptions, format};
use envoyfs_engine::hlc::ManualClock;
use envoyfs_engine::store::Store as _;
use envoyfs_engine::{Engine, MarkOptions, Options, Settings, StoreError};
use envoyfs_namespace::Namespace;
use envoyfs_namespace::api::{Context, Error, InodeId, Make, Result};
use std::ops::ControlFlow;
use std::sync::Arc;

const CX: Context = Context::local(0, 0);
const START_NS: i64 = 1_767_225_600_000_000_000;

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

/// With the checkpoints that it waits for.
fn with_checkpoints<T>(ns: &Namespace, mut step: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 0..100 {
        match step() {
            Err(Error::Store(StoreError::WouldWait { .. })) => {
                ns.checkpoint().unwrap_or_else(|error| panic!("full, and no checkpoint: {error}"));
            }
            other => return other,
        }
    }
    panic!("100 checkpoints did not help");
}

/// What one pass over the names cost, however long it took.
fn tell(what: &str, pass: &str, names: usize, engine: &Engine, before: (u64, u64)) {
    let (checkpoints, node_bytes) = work(engine);
    let (checkpoints, node_bytes) = (checkpoints - before.0, node_bytes - before.1);
    let each = node_bytes / (names.max(1) as u64);
    println!("{what}: {pass}: {names} names, {checkpoints} checkpoints, {each} bytes of nodes a name");
}

/// Checkpoints, and bytes of nodes that they wrote.
fn work(engine: &Engine) -> (u64, u64) {
    let metrics = engine.metrics();
    (metrics.checkpoint.published.get(), metrics.streams.node_bytes.get())
}

/// Files that fit. The last one may be there in part.
fn fill(ns: &Namespace, round: u64, bytes: usize) -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    for number in 0_u64.. {
        let name = format!("{round}-{number}").into_bytes();
        let made = with_checkpoints(ns, || ns.make(&CX, InodeId::ROOT, &name, &Make::File, 0o600));
        match made {
            Err(Error::NoSpace) => return names,
            made => {
                let id = made.expect("make").id;
                let written = with_checkpoints(ns, || ns.write(&CX, id, 0, &vec![7; bytes]));
                ns.forget(id, 1);
                names.push(name);
                match written {
                    Ok(_) => {}
                    Err(Error::NoSpace) => return names,
                    Err(error) => panic!("write: {error}"),
                }
            }
        }
    }
    names
}

fn close(engine: &Engine, ns: &Namespace, what: &str) {
    ns.close().unwrap_or_else(|error| panic!("{what}: the file system does not close: {error}"));
    engine.close().unwrap_or_else(|error| panic!("{what}: the store does not close: {error}"));
}

/// How names are taken away.
#[derive(Clone, Copy, Debug)]
enum Order {
    First,
    Last,
    /// Every seventh, over and over: every node and container loses a little at a time.
    Scattered,
}

fn ordered(mut names: Vec<Vec<u8>>, order: Order) -> Vec<Vec<u8>> {
    match order {
        Order::First => names,
        Order::Last => {
            names.reverse();
            names
        }
        Order::Scattered => (0..7).flat_map(|at| names.iter().skip(at).step_by(7).cloned()).collect(),
    }
}

fn full(mib: u64, bytes: usize, order: Order) {
    let what = format!("{mib} MiB, files of {bytes} bytes, {order:?}");
    let device = SimulatedDevice::new(mib << 20, 4096, mib);
    let options = FormatOptions {
        label: "full".into(),
        uuid: [7; 16],
        seed: [9; 16],
        now_ns: START_NS,
        // Each checkpoint writes every leaf that the names since the last one fall into: with a log that does not grow with the store, filling it would take the square of its size.
        wal_bytes: Some((mib << 15).max(1 << 20)),
        segment_bytes: Some(256 << 10),
        force: false,
        small: true,
    };
    format(&device, &options).expect("a device that is large enough");
    let (engine, ns) = mount(&device);
    let before = work(&engine);
    let mut names = fill(&ns, 0, bytes);
    tell(&what, "filled", names.len(), &engine, before);
    assert!(names.len() > 2, "{what}: only {} files fit", names.len());
    close(&engine, &ns, &what);
    drop((ns, engine));

    let (engine, ns) = mount(&device);
    names.extend(fill(&ns, 1, bytes));
    let before = work(&engine);
    for name in ordered(names.clone(), order) {
        with_checkpoints(&ns, || ns.unlink(&CX, InodeId::ROOT, &name))
            .unwrap_or_else(|error| panic!("{what}: full, and nothing can be deleted: {error}"));
    }
    tell(&what, "emptied", names.len(), &engine, before);
    for _ in 0..4 {
        ns.checkpoint().unwrap_or_else(|error| panic!("{what}: checkpoint: {error}"));
    }
    let before = work(&engine);
    let again = fill(&ns, 2, bytes);
    tell(&what, "filled again", again.len(), &engine, before);
    assert!(again.len() + 3 >= names.len() / 2, "{what}: {} files, then {}", names.len(), again.len());
    close(&engine, &ns, &what);
}

/// `FULL_MIB=8,200` chooses other sizes.
#[test]
fn a_full_file_system_unmounts_deletes_and_writes_again() {
    let sizes = std::env::var("FULL_MIB").unwrap_or_else(|_| "8,12,16".into());
    for mib in sizes.split(',').map(|size| size.parse().expect("FULL_MIB: sizes in MiB")) {
        for bytes in [100_usize, 2000, 20 << 10, 300 << 10] {
            // Nothing but nodes, thousands of files: long, so only on the smallest, unless sizes are asked for.
            if bytes == 100 && mib > 8 && std::env::var_os("FULL_MIB").is_none() {
                continue;
            }
            for order in [Order::First, Order::Last, Order::Scattered] {
                full(mib, bytes, order);
            }
        }
    }
}

/// Ranges that were overwritten while a clone shared them are dead when the clone is gone, and only a mark sees it: the file system makes one before it says that it is full.
#[test]
fn a_write_is_refused_only_when_no_dead_range_of_a_former_clone_is_left() {
    const FILES: u64 = 20;
    const BYTES: usize = 256 << 10;
    let device = SimulatedDevice::new(24 << 20, 4096, 5);
    let options = FormatOptions {
        wal_bytes: Some(1 << 20),
        segment_bytes: Some(256 << 10),
        small: true,
        ..FormatOptions::new("full", [7; 16], [9; 16], START_NS)
    };
    format(&device, &options).expect("a device that is large enough");
    let engine = Arc::new(Engine::open(Arc::new(device), Options::default()).expect("a store"));
    let options =
        envoyfs_namespace::Options { node_cache_bytes: 1 << 20, threads: true, read_only: false, seed: [7; 16] };
    let ns = Namespace::open(Arc::<Engine>::clone(&engine), options).expect("a file system");
    let directory = ns.make(&CX, InodeId::ROOT, b"d", &Make::Directory, 0o700).expect("make").id;
    let overwrite = |bytes: usize| {
        for number in 0..FILES {
            let name = format!("{number}").into_bytes();
            let found = match ns.lookup(&CX, directory, &name) {
                Err(Error::NotFound) => ns.make(&CX, directory, &name, &Make::File, 0o600),
                found => found,
            };
            let id = found.expect("a file").id;
            ns.write(&CX, id, 0, &vec![3; bytes]).expect("write");
            ns.forget(id, 1);
        }
        ns.checkpoint().expect("checkpoint");
    };
    overwrite(BYTES);
    let clone = ns.fork(&CX, directory, InodeId::ROOT, b"clone").expect("clone").id;
    ns.forget(clone, 1);
    // Less than half, so that no checkpoint rewrites the rest.
    overwrite(BYTES / 16 * 7);
    ns.delete_tree(&CX, InodeId::ROOT, b"clone").expect("delete");
    while engine.usage().drop_queue > 0 {
        ns.checkpoint().expect("checkpoint");
    }
    let before = engine.usage().live;
    let names = fill(&ns, 1, 64 << 10);
    let written = engine.usage().live - before;
    assert!(names.len() > 20, "only {} files fit", names.len());
    assert!(engine.metrics().admission.marks_wanted.get() > 0);
    let found = ns.mark(MarkOptions::default(), &mut |_| ControlFlow::Continue(())).expect("mark");
    println!("{} files, {written} bytes more live; a mark then: {found:?}", names.len());
    assert_eq!((found.unused_bytes, found.leaked_bytes, found.counts), (0, 0, 0), "{found:?}");
    assert!(engine.metrics().state.repairs.get() > 0, "it was a mark that freed it");
    close(&engine, &ns, "after marks");
}
