//! Real threads, the checkpointer and `io_uring`, with a log of what the device was told; then power cuts anywhere in that log.
//!
//! Each worker changes a directory of its own and keeps what that held after each change. An acknowledgement is noted with its place in the device's log: a cut at or behind it
//! must keep what it covers, of every worker.

use crate::common::{CX, Random};
use crate::operations::{Below, random_change};
use crate::stack::{Tree, at, difference, make, open, tree};
use envoyfs_engine::device::{
    CrashImages, Device as _, DeviceImage, OpenMode, Recording, RecordingDevice, SimulatedDevice, UringDevice,
};
use envoyfs_engine::hlc::SystemClock;
use envoyfs_namespace::Namespace;
use envoyfs_namespace::api::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const WORKERS: usize = 3;

/// What one worker did.
struct Worked {
    /// Length of the device's log before each change.
    started: Vec<usize>,
    /// What the directory held before the first change and after each.
    trees: Vec<Tree>,
}

/// From here in the device's log on, so many changes of each worker must be there.
struct Acknowledged {
    position: usize,
    done: [usize; WORKERS],
}

/// What the workers share.
struct Shared {
    ns: Arc<Namespace>,
    recording: Recording,
    /// Changes that each worker has finished.
    done: [AtomicUsize; WORKERS],
    acknowledged: Arc<Mutex<Vec<Acknowledged>>>,
}

impl Shared {
    /// Waits for durability, or leaves it to a callback as fsync of a front end does.
    fn sync(&self, wait: bool) {
        let done = std::array::from_fn(|worker| self.done[worker].load(Ordering::SeqCst));
        let (recording, acknowledged) = (self.recording.clone(), self.acknowledged.clone());
        let note = move || {
            let position = recording.len();
            acknowledged.lock().unwrap().push(Acknowledged { position, done });
        };
        if wait {
            self.ns.sync().unwrap();
            note();
        } else {
            let noted = Box::new(move |result: std::result::Result<(), _>| {
                result.unwrap();
                note();
            });
            self.ns.on_durable(self.ns.sync_point(), noted);
        }
    }

    fn work(&self, worker: usize, seed: u64, changes: usize) -> Worked {
        let mut random = Random(seed ^ (worker as u64) << 40);
        let root = self.ns.lookup(&CX, InodeId::ROOT, format!("w{worker}").as_bytes()).unwrap().id;
        let below = Below { ns: &self.ns, root };
        let mut worked = Worked { started: Vec::new(), trees: vec![tree(&self.ns, root)] };
        for number in 1..=changes {
            let now = &worked.trees[number - 1];
            worked.started.push(self.recording.len());
            if random.below(12) == 0 && now.get("/large").is_some_and(|large| large.file_type == FileType::Regular) {
                below.write("/large", 4096 * random.below(40) as u64, &random.bytes(300_000)).unwrap();
            } else {
                random_change(below, &mut random, now).unwrap();
            }
            worked.trees.push(tree(&self.ns, root));
            self.done[worker].store(number, Ordering::SeqCst);
            match random.below(16) {
                0 | 1 => self.sync(true),
                2..=4 => self.sync(false),
                5 if random.below(3) == 0 => self.ns.checkpoint().unwrap(),
                _ => {}
            }
        }
        worked
    }
}

fn record(seed: u64, changes: usize, cuts: usize) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("store.img");
    std::fs::File::create(&path).unwrap().set_len(64 << 20).unwrap();
    let uring = UringDevice::open(&path, OpenMode::ReadWrite, true).unwrap();
    make(&uring, 2 << 20, 256 << 10);
    let block_bytes = uring.geometry().logical_block_bytes;
    let base = DeviceImage::from_file(&path).unwrap();

    let device = RecordingDevice::new(uring);
    let recording = device.recording();
    let stack = open(Arc::new(device), Arc::new(SystemClock::new()), true).unwrap();
    for worker in 0..WORKERS {
        let below = Below { ns: &stack.ns, root: InodeId::ROOT };
        below.make(&format!("w{worker}"), &Make::Directory).unwrap();
        below.make(&format!("w{worker}/large"), &Make::File).unwrap();
    }
    stack.ns.sync().unwrap();
    let begun = recording.len();
    let shared = Shared {
        ns: stack.ns.clone(),
        recording: recording.clone(),
        done: Default::default(),
        acknowledged: Arc::default(),
    };
    let worked: Vec<Worked> = std::thread::scope(|scope| {
        let shared = &shared;
        let threads: Vec<_> =
            (0..WORKERS).map(|worker| scope.spawn(move || shared.work(worker, seed, changes))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let acknowledged = Arc::clone(&shared.acknowledged);
    drop(shared);
    drop(stack);

    let mut images = CrashImages::new(base, &recording).unwrap();
    let acknowledged = acknowledged.lock().unwrap();
    let mut random = Random(seed);
    // Half of the cuts right where something was acknowledged: there nothing is certain beyond what must be.
    let mut positions: Vec<usize> = (0..cuts)
        .map(|cut| match cut % 2 {
            0 => acknowledged[random.below(acknowledged.len())].position,
            _ => random.below(images.positions() + 1),
        })
        .collect();
    positions.sort_unstable();
    println!(
        "CRASH_SEED={seed}: {} events, {} MiB written, {} acknowledgements",
        images.positions(),
        recording.bytes() >> 20,
        acknowledged.len()
    );
    let mut checked = 0;
    for position in positions {
        let cut = random.next();
        let what = format!("CRASH_SEED={seed}: cut at {position}, seed {cut}");
        let device = SimulatedDevice::from_image(images.at(position, cut), block_bytes, cut);
        let stack = open(Arc::new(device.clone()), Arc::new(SystemClock::new()), false)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        for (worker, worked) in worked.iter().enumerate().filter(|_| position >= begun) {
            let covered = acknowledged.iter().filter(|ack| ack.position <= position).map(|ack| ack.done[worker]);
            let least = covered.max().unwrap_or(0);
            // A change that did nothing may be acknowledged without any IO.
            let most = worked.started.partition_point(|started| *started < position).max(least);
            let found = at(&stack.ns, InodeId::ROOT, &format!("w{worker}"), |id| Ok(tree(&stack.ns, id)))
                .unwrap_or_else(|error| panic!("{what}: the directory of worker {worker}: {error}"));
            let is_one_of_them = worked.trees[least..=most].contains(&found);
            let nearest = difference(&found, &worked.trees[least]);
            assert!(is_one_of_them, "{what}: worker {worker}: not what it was after {least} to {most}:\n{nearest}");
            checked += least;
        }
        stack.close_and_check(&device, &what);
    }
    assert!(checked > 0, "no cut had anything acknowledged before it");
}

#[test]
fn a_power_cut_under_real_threads_and_io_keeps_everything_acknowledged() {
    for seed in crate::seeds(2, 10) {
        record(seed, 150, 40);
    }
}
