use super::*;
use crate::bench::job::Direction;
use crate::bench::pattern::Io;
use crate::bench::queue::{Done, Queue as _};
use crate::bench::verify;
use envoyfs_engine::device::SimulatedDevice;
use std::collections::BTreeMap;

const MIB: u64 = 1 << 20;

fn device(seed: u64) -> Arc<dyn Device> {
    Arc::new(SimulatedDevice::new(256 * MIB, 4096, seed))
}

fn write(queue: &mut DiskQueue, block: u64, blocks: u64, sequence: u32) {
    let io = Io { direction: Direction::Write, offset: block * 4096, bytes: u32::try_from(blocks).unwrap() * 4096 };
    queue.write(0, &io, Some(sequence)).unwrap();
    let mut done = Vec::new();
    queue.wait(&mut done).unwrap();
    assert!(done.iter().all(|done| done.error.is_none()));
}

fn read(queue: &mut DiskQueue, block: u64, blocks: u64) -> AlignedBuf {
    let io = Io { direction: Direction::Read, offset: block * 4096, bytes: u32::try_from(blocks).unwrap() * 4096 };
    let buffer = queue.buffer(io.bytes as usize);
    queue.read(0, &io, buffer).unwrap();
    let mut done: Vec<Done> = Vec::new();
    while done.is_empty() {
        queue.wait(&mut done).unwrap();
    }
    let done = done.pop().unwrap();
    assert_eq!(done.error, None);
    done.buffer.unwrap()
}

/// A plain disk in memory.
#[derive(Default)]
struct Model(BTreeMap<u64, Vec<u8>>);

impl Model {
    fn write(&mut self, block: u64, blocks: u64, sequence: u32) {
        let mut bytes = vec![0; usize::try_from(blocks).unwrap() * 4096];
        crate::bench::queue::fill_with_noise(&mut bytes);
        verify::seal(&mut bytes, block * 4096, sequence);
        for (at, chunk) in (block..).zip(bytes.chunks(4096)) {
            self.0.insert(at, chunk.to_vec());
        }
    }
    fn compare(&self, queue: &mut DiskQueue, block: u64, blocks: u64) {
        let found = read(queue, block, blocks);
        for (at, found) in (block..).zip(found.as_slice().chunks(4096)) {
            let zeros = vec![0; 4096];
            assert!(found == self.0.get(&at).unwrap_or(&zeros), "block {at}");
        }
    }
}

struct Random(u64);
impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[test]
fn overlapping_writes_of_every_length_are_read_back_over_checkpoints_and_a_new_mount() {
    let device = device(1);
    let disk = Disk::format(&device, 32 * MIB, 64).unwrap();
    let blocks = disk.bytes() / 4096;
    let mut model = Model::default();
    let mut random = Random(7);
    {
        let mut queue = disk.queue(4).unwrap();
        for sequence in 0..600 {
            let count = [1, 1, 2, 5, 16, 64, 100][usize::try_from(random.below(7)).unwrap()];
            // A narrow range, so that extents are cut in pieces.
            let block = random.below(400);
            write(&mut queue, block, count, sequence);
            model.write(block, count, sequence);
            if sequence % 50 == 49 {
                disk.shared.checkpoint().unwrap();
                assert_eq!(disk.engine().check_space(), Vec::<String>::new());
            }
            if sequence % 10 == 9 {
                model.compare(&mut queue, random.below(400), 1 + random.below(100));
            }
        }
        model.compare(&mut queue, 0, 1000);
        model.compare(&mut queue, blocks - 3, 3);
    }
    // What was overwritten is free again, and nothing else: live is what is reachable.
    disk.shared.checkpoint().unwrap();
    disk.shared.checkpoint().unwrap();
    assert_eq!(live_data(&disk), reachable(&disk));
    disk.close().unwrap();
    drop(disk);

    let disk = Disk::open(&device, 64).unwrap();
    assert_eq!(disk.bytes() / 4096, blocks);
    let mut queue = disk.queue(1).unwrap();
    model.compare(&mut queue, 0, 1000);
    assert!(Disk::open(&device, 256).is_err(), "leaves of another size are refused, and the store is in use");
}

#[test]
fn a_leaf_that_changes_while_it_is_written_is_not_written_as_it_was_the_next_time() {
    let device = device(5);
    let disk = Disk::format(&device, 8 * MIB, 64).unwrap();
    let mut model = Model::default();
    let mut queue = disk.queue(1).unwrap();
    write(&mut queue, 3, 8, 1);
    let queue = std::cell::RefCell::new(queue);
    disk.shared.checkpoint_amid(|| (), || write(&mut queue.borrow_mut(), 3, 8, 2)).unwrap();
    model.write(3, 8, 2);
    disk.shared.checkpoint().unwrap();
    assert_eq!(live_data(&disk), reachable(&disk));
    drop(queue);
    disk.close().unwrap();
    drop(disk);
    let disk = Disk::open(&device, 64).unwrap();
    model.compare(&mut disk.queue(1).unwrap(), 0, 64);
}

#[test]
fn an_extent_that_a_container_had_no_room_for_is_in_two_objects_and_comes_back_also_from_the_log() {
    let simulated = SimulatedDevice::new(256 * MIB, 4096, 6);
    let device: Arc<dyn Device> = Arc::new(simulated.clone());
    // Leaves of 256 blocks: extents of 256 KiB in segments of 1 MiB.
    let disk = Disk::format(&device, 16 * MIB, 256).unwrap();
    let mut model = Model::default();
    {
        let mut queue = disk.queue(1).unwrap();
        for (sequence, block) in (0..).zip((0..4096).step_by(64)) {
            write(&mut queue, block, 64, sequence);
            model.write(block, 64, sequence);
        }
        model.compare(&mut queue, 0, 4096);
        queue.sync().unwrap();
    }
    let split = disk.shared.leaves.iter().flat_map(|leaf| leaf::extents(&leaf.lock().entries)).count();
    assert!(split > 64, "{split} extents: none was split");
    let after: Arc<dyn Device> = Arc::new(simulated.crash(6));
    drop(disk);
    let disk = Disk::open(&after, 256).unwrap();
    model.compare(&mut disk.queue(1).unwrap(), 0, 4096);
}

/// Units that are live and not nodes or roots.
fn live_data(disk: &Disk) -> u64 {
    let live: u64 = disk.engine().liveness().values().flatten().map(|run| u64::from(run.end - run.start)).sum();
    let roots: u64 = disk.engine().roots_objects().iter().map(|root| u64::from(root.units())).sum();
    let levels = disk.shared.levels.lock();
    let interior: u64 =
        levels.iter().flatten().filter_map(|node| node.stored).map(|node| u64::from(node.units())).sum();
    let leaves = disk
        .shared
        .leaves
        .iter()
        .filter_map(|leaf| leaf.lock().stored.as_ref().map(|(node, _)| u64::from(node.units())));
    live - roots - interior - leaves.sum::<u64>()
}

/// Units that the map shows.
fn reachable(disk: &Disk) -> u64 {
    let blocks = |leaf: &Mutex<Leaf>| leaf.lock().entries.iter().filter(|entry| entry.blocks > 0).count() as u64;
    disk.shared.leaves.iter().map(blocks).sum::<u64>() * 8
}

#[test]
fn what_was_synced_before_a_power_cut_is_there_after_it() {
    for seed in 0..8 {
        let simulated = SimulatedDevice::new(256 * MIB, 4096, seed);
        let device: Arc<dyn Device> = Arc::new(simulated.clone());
        let disk = Disk::format(&device, 16 * MIB, 64).unwrap();
        let mut model = Model::default();
        let mut random = Random(seed);
        {
            let mut queue = disk.queue(1).unwrap();
            for sequence in 0..80 {
                let (block, count) = (random.below(300), 1 + random.below(9));
                write(&mut queue, block, count, sequence);
                model.write(block, count, sequence);
                if sequence == 40 {
                    disk.shared.checkpoint().unwrap();
                }
            }
            queue.sync().unwrap();
            // Not synced: there or not, and nothing checks them.
            for sequence in 80..90 {
                write(&mut queue, 2000 + u64::from(sequence), 1, sequence);
            }
        }
        let after: Arc<dyn Device> = Arc::new(simulated.crash(seed));
        drop(disk);
        let disk = Disk::open(&after, 64).unwrap();
        model.compare(&mut disk.queue(1).unwrap(), 0, 310);
        disk.close().unwrap();
    }
}

#[test]
fn what_is_written_while_a_checkpoint_is_built_is_not_in_it_and_is_not_lost() {
    for seed in 0..4 {
        let simulated = SimulatedDevice::new(256 * MIB, 4096, seed);
        let device: Arc<dyn Device> = Arc::new(simulated.clone());
        let disk = Disk::format(&device, 16 * MIB, 64).unwrap();
        let mut model = Model::default();
        let mut queue = disk.queue(1).unwrap();
        let mut sequence = 0;
        let mut rewrite = |queue: &mut DiskQueue, model: &mut Model| {
            for block in [0, 3, 64, 70, 500] {
                write(queue, block, 5, sequence);
                model.write(block, 5, sequence);
                sequence += 1;
            }
        };
        for _ in 0..3 {
            rewrite(&mut queue, &mut model);
            // Twice: of the second change the frozen version must not be taken again.
            let amid = || (0..2).for_each(|_| rewrite(&mut queue, &mut model));
            disk.shared.checkpoint_amid(amid, || ()).unwrap();
            model.compare(&mut queue, 0, 600);
        }
        queue.sync().unwrap();
        drop(queue);
        let after: Arc<dyn Device> = Arc::new(simulated.crash(seed));
        drop(disk);
        let disk = Disk::open(&after, 64).unwrap();
        model.compare(&mut disk.queue(1).unwrap(), 0, 600);
        disk.shared.checkpoint().unwrap();
        disk.shared.checkpoint().unwrap();
        assert_eq!(live_data(&disk), reachable(&disk));
        disk.close().unwrap();
    }
}

#[test]
fn threads_that_write_while_checkpoints_are_made_lose_nothing() {
    let device = device(3);
    let disk = Disk::format(&device, 32 * MIB, 64).unwrap();
    let region = disk.bytes() / 4096 / 4;
    let models: Vec<Model> = std::thread::scope(|scope| {
        let worker = |thread: u64| {
            let disk = &disk;
            move || {
                let mut queue = disk.queue(1).unwrap();
                let (mut model, mut random) = (Model::default(), Random(thread));
                for sequence in 0..300 {
                    let (block, count) = (thread * region + random.below(region - 8), 1 + random.below(8));
                    write(&mut queue, block, count, sequence);
                    model.write(block, count, sequence);
                }
                model
            }
        };
        let workers: Vec<_> = (0..4).map(|thread| scope.spawn(worker(thread))).collect();
        for _ in 0..10 {
            disk.shared.checkpoint().unwrap();
        }
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let mut queue = disk.queue(1).unwrap();
    for (thread, model) in (0..).zip(&models) {
        model.compare(&mut queue, thread * region, region);
    }
}
