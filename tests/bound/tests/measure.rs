//! Measurements, not tests: `cargo nextest run -p envoyfs-bound-tests --run-ignored only measure --no-capture`. On images in /dev/shm, so that the engine's and the namespace's own work
//! counts. What is asserted is what the design asks for.

#![expect(clippy::disallowed_methods, reason = "wall clock is what is measured")]

use envoyfs_engine::device::{Device, OpenMode, UringDevice};
use envoyfs_engine::format::{FormatOptions, format};
use envoyfs_engine::hlc::SystemClock;
use envoyfs_engine::store::Store;
use envoyfs_engine::{Engine, Options, Settings};
use envoyfs_namespace::Namespace;
use envoyfs_namespace::api::{Context, InodeId, Make, SetAttributes};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const CX: Context = Context::local(0, 0);
const GIB: u64 = 1 << 30;

fn image(bytes: u64) -> Arc<dyn Device> {
    let file = tempfile::Builder::new().prefix("envoyfs-measure-").tempfile_in("/dev/shm").expect("a file");
    file.as_file().set_len(bytes).expect("room for an image");
    let device: Arc<dyn Device> =
        Arc::new(UringDevice::open(file.path(), OpenMode::ReadWrite, true).expect("an image"));
    let options = FormatOptions {
        label: "measure".into(),
        uuid: [7; 16],
        seed: [9; 16],
        now_ns: 1_767_225_600_000_000_000,
        wal_bytes: None,
        segment_bytes: None,
        force: false,
        small: false,
    };
    format(&*device, &options).expect("a store");
    device
}

fn engine(device: &Arc<dyn Device>) -> Arc<Engine> {
    let clock = Arc::new(SystemClock::new());
    let settings = Settings::default();
    let options = Options { read_only: false, threads: true, accept_loss: false, clock, settings };
    Arc::new(Engine::open(Arc::clone(device), options).expect("it mounts"))
}

fn namespace(engine: &Arc<Engine>, threads: bool) -> Arc<Namespace> {
    let options = envoyfs_namespace::Options { node_cache_bytes: 128 << 20, threads, read_only: false, seed: [7; 16] };
    Namespace::open(Arc::clone(engine) as Arc<dyn Store>, options).expect("it opens")
}

fn file(ns: &Namespace, parent: InodeId, name: &str, bytes: &[u8]) -> InodeId {
    let made = ns.make(&CX, parent, name.as_bytes(), &Make::File, 0o644).expect("a file");
    ns.write(&CX, made.id, 0, bytes).expect("written");
    made.id
}

fn quantiles(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |part: usize| times[(times.len() - 1) * part / 10_000];
    format!(
        "{} times: median {:.1?}, p99 {:.1?}, p99.9 {:.1?}, p99.99 {:.1?}, worst {:.1?}",
        times.len(),
        at(5000),
        at(9900),
        at(9990),
        at(9999),
        at(10_000)
    )
}

#[test]
#[ignore = "a measurement"]
fn measure_forks_among_many() {
    let engine = engine(&image(2 * GIB));
    let ns = namespace(&engine, true);
    let source = ns.make(&CX, InodeId::ROOT, b"source", &Make::Directory, 0o755).expect("made").id;
    (0..10).for_each(|number| ns.forget(file(&ns, source, &format!("f{number}"), &[1; 4096]), 1));
    let all = ns.make(&CX, InodeId::ROOT, b"forks", &Make::Directory, 0o755).expect("made").id;
    let mut alive = 0;
    for existing in [10, 1000, 100_000] {
        let mut times = Vec::new();
        while alive < existing + 2000 {
            let name = format!("fork-{alive}");
            let start = Instant::now();
            let made = ns.fork(&CX, source, all, name.as_bytes()).expect("a fork");
            let took = start.elapsed();
            ns.forget(made.id, 1);
            alive += 1;
            if alive > existing {
                times.push(took);
            }
            if alive == existing {
                ns.checkpoint().expect("a checkpoint");
            }
        }
        println!("fork with {existing} alive: {}", quantiles(&mut times));
        assert!(times[times.len() / 2] <= Duration::from_micros(50));
    }
}

/// Changes until a checkpoint is due, then a mount as after a power cut.
#[test]
#[ignore = "a measurement"]
fn measure_recoveries_of_the_namespace() {
    for (size, what) in [(10 * GIB, "attributes"), (10 * GIB, "writes"), (100 * GIB, "writes"), (10 * GIB, "names")] {
        let device = image(size);
        let (log_bytes, made);
        {
            let engine = engine(&device);
            let ns = namespace(&engine, false);
            let mut ids = Vec::new();
            for number in 0..1000 {
                ids.push(file(&ns, InodeId::ROOT, &format!("f{number}"), &[2; 200]));
            }
            ns.checkpoint().expect("a checkpoint");
            let mut count = 0_u64;
            while !count.is_multiple_of(16) || engine.wait_checkpoint(0).is_none() {
                let id = ids[(count % 1000) as usize];
                match what {
                    "attributes" => {
                        let set = SetAttributes { permissions: Some((count % 512) as u16), ..SetAttributes::default() };
                        ns.setattr(&CX, id, &set).expect("set");
                    }
                    "writes" => drop(ns.write(&CX, id, (count / 1000) * 4096, &[3; 3500]).expect("written")),
                    _ => ns.forget(
                        ns.make(&CX, InodeId::ROOT, format!("n{count}").as_bytes(), &Make::File, 0o644)
                            .expect("made")
                            .id,
                        1,
                    ),
                }
                count += 1;
            }
            ns.sync().expect("a sync");
            (log_bytes, made) = (engine.usage().log_bytes, count);
        }
        let start = Instant::now();
        let again = engine(&device);
        let opened = start.elapsed();
        let ns = namespace(&again, false);
        let replayed = start.elapsed();
        println!(
            "{} GiB, {what}: {made} records, {} MiB of log: engine {opened:.2?}, with the replay {replayed:.2?}",
            size / GIB,
            log_bytes >> 20
        );
        assert!(ns.lookup(&CX, InodeId::ROOT, b"f999").is_ok());
        assert!(replayed <= Duration::from_secs(3));
    }
}

fn stages(engine: &Engine) -> String {
    let parts = engine.metrics().snapshot();
    let parts = parts.iter().filter(|sample| sample.group == "recovery" && !sample.value.is_zero());
    parts.map(|sample| format!("{} {:?} ", sample.name, sample.value)).collect()
}

#[test]
#[ignore = "a measurement"]
fn measure_mounts_by_size_and_by_objects() {
    for (size, files) in [(GIB, 1000), (64 * GIB, 1000), (1024 * GIB, 1000), (16 * GIB, 10_000), (16 * GIB, 100_000)] {
        let device = image(size);
        {
            let engine = engine(&device);
            let ns = namespace(&engine, true);
            let mut directory = InodeId::ROOT;
            for number in 0..files {
                if number % 1000 == 0 {
                    let name = format!("d{number}");
                    directory = ns.make(&CX, InodeId::ROOT, name.as_bytes(), &Make::Directory, 0o755).expect("made").id;
                }
                ns.forget(file(&ns, directory, &format!("f{number}"), &[4; 4096]), 1);
            }
            ns.close().expect("closed");
            engine.close().expect("closed");
        }
        let mut times = Vec::new();
        for round in 0..7 {
            let start = Instant::now();
            let engine = engine(&device);
            times.push(start.elapsed());
            if round == 6 {
                println!("   {}", stages(&engine));
            }
            engine.close().expect("closed");
        }
        println!("{:>5} GiB {files:>7} files: {}", size / GIB, quantiles(&mut times));
    }
}

/// Records appended while checkpoints of many changed files are built and published.
#[test]
#[ignore = "a measurement"]
fn measure_operations_during_checkpoints() {
    let engine = engine(&image(8 * GIB));
    let ns = namespace(&engine, true);
    let mut ids = Vec::new();
    for number in 0..5_000 {
        ids.push(file(&ns, InodeId::ROOT, &format!("f{number}"), &[2; 100]));
    }
    ns.checkpoint().expect("a checkpoint");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let (mut during, mut count) = (Vec::new(), 0_usize);
            while !done.load(Ordering::SeqCst) {
                let set = SetAttributes { permissions: Some((count % 512) as u16), ..SetAttributes::default() };
                let start = Instant::now();
                ns.setattr(&CX, ids[count % 10], &set).expect("set");
                during.push(start.elapsed());
                count += 1;
                std::thread::sleep(Duration::from_micros(20));
            }
            during
        });
        for round in 0..5_u16 {
            for id in &ids {
                let set = SetAttributes { permissions: Some(round), ..SetAttributes::default() };
                ns.setattr(&CX, *id, &set).expect("set");
            }
            let start = Instant::now();
            ns.checkpoint().expect("a checkpoint");
            println!("a checkpoint of 5000 changed files took {:.1?}", start.elapsed());
        }
        done.store(true, Ordering::SeqCst);
        let mut times = writer.join().expect("no panic");
        println!("operations meanwhile: {}", quantiles(&mut times));
    });
    let held = engine.metrics().snapshot();
    let held = held.iter().find(|sample| sample.group == "checkpoint" && sample.name == "freeze_hold");
    println!("a freeze holds appends: {:?}", held.map(|sample| sample.value));
}
