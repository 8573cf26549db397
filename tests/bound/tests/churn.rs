//! Many clones made, changed and deleted in the real namespace on the real engine: then the mark must find every count exactly as it is kept, and when everything is deleted
//! not a byte may be left. `CLONES=100000` for the long one, `CHURN_SEED=n` for another; it prints time and memory.

use envoyfs_bound_tests::Random;
use envoyfs_engine::device::{Device, OpenMode, SimulatedDevice, UringDevice};
use envoyfs_engine::format::{FormatOptions, format};
use envoyfs_engine::hlc::ManualClock;
use envoyfs_engine::store::Store;
use envoyfs_engine::{Engine, MarkOptions, MarkReport, Options, Settings, StoreError};
use envoyfs_namespace::api::{Context, Error, InodeId, Make, SetAttributes};
use envoyfs_namespace::{Namespace, extent_uses};
use std::sync::Arc;
use std::time::{Duration, Instant};

const CX: Context = Context::local(0, 0);
const START_NS: i64 = 1_767_225_600_000_000_000;
/// Files of the directory that is cloned.
const FILES: usize = 6;

struct Churn {
    clock: Arc<ManualClock>,
    engine: Arc<Engine>,
    ns: Arc<Namespace>,
    random: Random,
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[expect(clippy::disallowed_methods, reason = "the time it takes is told, and nothing depends on it")]
fn now() -> Instant {
    Instant::now()
}

/// Most memory this process has had, in MiB.
fn peak_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) >> 10
}

impl Churn {
    fn new(seed: u64, clones: u64) -> Churn {
        // Small stores have small segments, so that there are many of them.
        let small = clones < 10_000;
        let device: Arc<dyn Device> = if small {
            Arc::new(SimulatedDevice::new(128 << 20, 4096, seed))
        } else {
            // So that what is told of the memory does not have the device in it.
            let file = tempfile::Builder::new().prefix("envoyfs-churn-").tempfile_in("/dev/shm").expect("a file");
            file.as_file().set_len(4 << 30).expect("room for an image");
            Arc::new(UringDevice::open(file.path(), OpenMode::ReadWrite, true).expect("an image"))
        };
        let options = FormatOptions {
            label: "churn".into(),
            uuid: [7; 16],
            seed: [9; 16],
            now_ns: START_NS,
            wal_bytes: small.then_some(8 << 20),
            segment_bytes: Some(if small { 256 << 10 } else { 1 << 20 }),
            force: false,
            small: true,
        };
        format(&*device, &options).expect("a device that is large enough");
        let clock = Arc::new(ManualClock::new(START_NS));
        let settings = Settings { segment_cache_bytes: 256 << 10, ..Settings::default() };
        let options =
            Options { read_only: false, threads: false, accept_loss: false, clock: Arc::clone(&clock) as _, settings };
        let engine = Arc::new(Engine::open(device, options).expect("a store"));
        let options =
            envoyfs_namespace::Options { node_cache_bytes: 4 << 20, threads: false, read_only: false, seed: [7; 16] };
        let ns = Namespace::open(Arc::clone(&engine) as Arc<dyn Store>, options).expect("a new store");
        Churn { clock, engine, ns, random: Random::new(seed) }
    }

    /// Does something, with the checkpoints that it has to wait for.
    fn done<T>(&self, what: impl Fn(&Namespace) -> Result<T, Error>) -> T {
        for _ in 0..20 {
            match what(&self.ns) {
                Err(Error::NoSpace | Error::Store(StoreError::WouldWait { .. })) => self.ns.checkpoint().unwrap(),
                other => return other.unwrap(),
            }
        }
        panic!("it waits for ever");
    }

    fn directory(&self, parent: InodeId, name: &str) -> InodeId {
        self.done(|ns| ns.make(&CX, parent, name.as_bytes(), &Make::Directory, 0o755)).id
    }

    fn write(&self, parent: InodeId, name: &str, at: u64, bytes: usize, with: u8) {
        let found = self.done(|ns| match ns.lookup(&CX, parent, name.as_bytes()) {
            Err(Error::NotFound) => ns.make(&CX, parent, name.as_bytes(), &Make::File, 0o644),
            other => other,
        });
        self.done(|ns| ns.write(&CX, found.id, at, &vec![with; bytes]));
        self.ns.forget(found.id, 1);
    }

    /// One of the things that people do to a clone.
    fn change(&mut self, clone: InodeId) {
        let file = format!("f{}", self.random.index(FILES));
        let with = self.random.index(251) as u8;
        match self.random.index(6) {
            // Half of the first extent, all of it, its end.
            0 => self.write(clone, &file, 4096, 4096, with),
            1 => self.write(clone, &file, 0, 16 << 10, with),
            2 => self.write(clone, &file, 20_000, 700, with),
            3 => {
                let found = self.done(|ns| ns.lookup(&CX, clone, file.as_bytes()));
                let set = SetAttributes { size: Some(4096), ..SetAttributes::default() };
                self.done(|ns| ns.setattr(&CX, found.id, &set));
                self.ns.forget(found.id, 1);
            }
            4 => self.write(clone, "new", 0, 5000, with),
            _ => match self.ns.unlink(&CX, clone, b"new") {
                Ok(()) | Err(Error::NotFound) => {}
                Err(Error::NoSpace | Error::Store(StoreError::WouldWait { .. })) => self.ns.checkpoint().unwrap(),
                Err(error) => panic!("{error}"),
            },
        }
    }

    fn quiesce(&self) {
        for _ in 0..100_000 {
            self.ns.checkpoint().unwrap();
            if self.engine.usage().drop_queue == 0 {
                return;
            }
        }
        panic!("the drop queue does not get empty");
    }

    /// A mark, with changes while it runs; counts and liveness must be exact.
    fn mark(&mut self, options: MarkOptions) -> MarkReport {
        // Or one that was asked for before.
        if self.engine.ask_mark().is_ok() {
            self.ns.checkpoint().unwrap();
        }
        let report = self.engine.mark(options, Some(&extent_uses)).unwrap();
        assert_eq!((report.counts, report.leaked_bytes, report.lost_bytes), (0, 0, 0), "{report:?}");
        assert_eq!(report.unreadable, []);
        report
    }
}

#[test]
fn after_a_churn_of_clones_counts_are_exact_and_when_all_are_deleted_no_byte_is_left() {
    let (clones, seed) = (number("CLONES", 2500), number("CHURN_SEED", 1));
    println!("CLONES={clones} CHURN_SEED={seed} cargo test -p envoyfs-bound-tests --test churn");
    let mut churn = Churn::new(seed, clones);
    churn.quiesce();
    let (empty, start) = (churn.engine.usage(), now());
    let source = churn.directory(InodeId::ROOT, "source");
    for file in 0..FILES {
        churn.write(source, &format!("f{file}"), 0, 24 << 10, file as u8);
    }
    let all = churn.directory(InodeId::ROOT, "clones");
    let mut alive: Vec<u64> = Vec::new();
    let mut most = 0;
    for clone in 0..clones {
        churn.clock.advance(Duration::from_millis(1));
        // Mostly of the source; else of another clone, so that sharing is deep.
        let of = match alive.len() {
            0 => source,
            many if churn.random.percent(30) => {
                let name = format!("c{}", alive[churn.random.index(many)]);
                churn.done(|ns| ns.lookup(&CX, all, name.as_bytes())).id
            }
            _ => source,
        };
        let made = churn.done(|ns| ns.fork(&CX, of, all, format!("c{clone}").as_bytes())).id;
        alive.push(clone);
        if churn.random.percent(40) {
            churn.change(made);
        }
        churn.ns.forget(made, 1);
        if of != source {
            churn.ns.forget(of, 1);
        }
        if churn.random.percent(2) {
            churn.change(source);
        }
        // One in five is deleted, any of them.
        if churn.random.percent(20) {
            let gone = alive.swap_remove(churn.random.index(alive.len()));
            churn.done(|ns| ns.delete_tree(&CX, all, format!("c{gone}").as_bytes()));
        }
        most = most.max(alive.len());
        if clone % 500 == 499 || churn.engine.wait_checkpoint(0).is_some() {
            churn.ns.checkpoint().unwrap();
        }
    }
    let churned = start.elapsed();
    let usage = churn.engine.usage();
    println!(
        "{clones} clones in {churned:.1?}, {most} alive: {} MiB live, {} objects shared, {} MiB of memory",
        usage.live >> 20,
        usage.shared_objects,
        peak_mib()
    );
    for memory_bytes in [64 << 20, if clones < 10_000 { 4 << 10 } else { 64 << 10 }] {
        let start = now();
        let report = churn.mark(MarkOptions { memory_bytes, ..MarkOptions::default() });
        println!(
            "mark in {:.1?}, {} passes, {} nodes, {} objects, {} KiB no slice uses, {} repairs, {} MiB of memory",
            start.elapsed(),
            report.passes,
            report.nodes,
            report.objects,
            report.unused_bytes >> 10,
            report.repairs,
            peak_mib()
        );
        assert!(report.nodes > alive.len() as u64 / 4, "{report:?}");
        // At most 2^14 repairs a checkpoint.
        let before = churn.engine.usage().live;
        (0..=report.repairs >> 14).for_each(|_| churn.ns.checkpoint().unwrap());
        churn.quiesce();
        assert!(report.unused_bytes == 0 || churn.engine.usage().live < before, "it reclaims what no slice uses");
    }
    let report = churn.mark(MarkOptions::default());
    assert_eq!((report.unused_bytes, report.repairs), (0, 0), "a mark leaves nothing to the next one: {report:?}");
    assert_eq!(churn.engine.check_space(), Vec::<String>::new());

    let start = now();
    // Files of their own, of which a part is freed in the batch that deletes them: what then waits to be dropped still refers to it.
    for change in 0..2 {
        for clone in alive.iter().take(1000) {
            let id = churn.done(|ns| ns.lookup(&CX, all, format!("c{clone}").as_bytes())).id;
            match change {
                0 => churn.write(id, "own", 0, 8 << 10, 7),
                _ => churn.write(id, "own", 4 << 10, 4 << 10, 8),
            }
            churn.ns.forget(id, 1);
        }
        if change == 0 {
            churn.ns.checkpoint().unwrap();
        }
    }
    // Some of them one by one, the rest at once with their directory.
    for gone in alive.iter().step_by(2) {
        churn.done(|ns| ns.delete_tree(&CX, all, format!("c{gone}").as_bytes()));
    }
    churn.ns.forget(all, 1);
    churn.done(|ns| ns.delete_tree(&CX, InodeId::ROOT, b"clones"));
    churn.ns.forget(source, 1);
    churn.done(|ns| ns.delete_tree(&CX, InodeId::ROOT, b"source"));
    churn.engine.ask_mark().unwrap();
    churn.ns.checkpoint().unwrap();
    // With many, the mark looks at a checkpoint that still has a queue.
    assert!(clones < 8000 || churn.engine.usage().drop_queue > 0);
    churn.mark(MarkOptions::default());
    churn.quiesce();
    println!("deleted in {:.1?}; {} MiB of memory", start.elapsed(), peak_mib());
    let report = churn.mark(MarkOptions::default());
    assert_eq!((report.unused_bytes, report.repairs), (0, 0), "{report:?}");
    let usage = churn.engine.usage();
    let left = (usage.live, usage.shared_objects, usage.deferred, usage.drop_queue);
    assert_eq!(left, (empty.live, 0, 0, 0), "bytes that live, as in the empty store before");
    assert_eq!(churn.engine.check_space(), Vec::<String>::new());
}
