//! Publication: superblock, directory, CHECKPOINT record, and what may be reused when.

use crate::bench::{Bench, Region, recover};
use crate::device::{Device, DeviceImage, RecordingDevice, SectorFate, SimulatedDevice};
use crate::mini::{Mini, options};
use crate::scripted::{Answer, Call};
use envoyfs_layout::directory_page::ContainerState;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A store with a checkpoint, and the events of the next one.
fn checkpointed() -> (Bench, Arc<Mini>, Range<usize>) {
    let bench = Bench::new();
    let mini = bench.mount();
    for key in 0..3 {
        mini.put(key, 8192).unwrap();
    }
    mini.checkpoint().unwrap();
    for key in 2..6 {
        mini.put(key, 8192).unwrap();
    }
    mini.commit().unwrap();
    let begin = bench.now();
    mini.checkpoint().unwrap();
    let range = begin..bench.now() + 1;
    (bench, mini, range)
}

const KEYS: [u64; 6] = [0, 1, 2, 3, 4, 5];

/// The process died when the first pair of superblocks was written and not flushed.
fn dead_amid_superblocks() -> (Bench, usize) {
    let bench = Bench::new();
    let mini = bench.mount();
    mini.put(1, 4096).unwrap();
    mini.commit().unwrap();
    let (copies, mut written, mut dead) = (bench.copies(), false, false);
    bench.device.script(move |call, _| {
        match call {
            Call::Write(offset, _) if copies.contains(&offset) => written = true,
            Call::Flush if written => dead = true,
            _ => {}
        }
        if dead { Answer::Dead } else { Answer::Do }
    });
    assert!(mini.checkpoint().is_err());
    bench.device.script(|_, _| Answer::Do);
    let position = bench.now();
    (bench, position)
}

/// INV-20: the copies that the dead process left in the device's cache.
pub fn a_mount_after_a_killed_process_flushes_before_it_repairs() {
    let (bench, position) = dead_amid_superblocks();
    assert_eq!(bench.mount().keys(), [1]);
    for position in position..=bench.now() {
        let image = bench.cut_at(position, |region| match region {
            Region::Superblock => SectorFate::Destroyed,
            _ => SectorFate::Gone,
        });
        assert_eq!(recover(&image).keys(), [1], "cut at {position}");
    }
}

/// INV-23: one copy bad for ever, and a power cut in the repair.
pub fn a_repair_leaves_good_copies_alone() {
    let (bench, position) = dead_amid_superblocks();
    let [first, second, ..] = bench.copies();
    let image = bench.images().at_with(position, |at| match at {
        at if (first..first + 4096).contains(&at) => SectorFate::Destroyed,
        at if (second..second + 4096).contains(&at) => SectorFate::Kept,
        _ => SectorFate::Gone,
    });
    let repair = Bench::on(image, false);
    assert_eq!(repair.mount().keys(), [1]);
    for position in 0..=repair.now() {
        let mut image = repair.cut_at(position, |region| match region {
            Region::Superblock => SectorFate::Destroyed,
            _ => SectorFate::Gone,
        });
        image.zero(second, 4096);
        assert_eq!(recover(&image).keys(), [1], "cut at {position}");
    }
}

/// INV-23.
pub fn a_publication_never_has_all_copies_at_risk() {
    let (bench, _mini, cuts) = checkpointed();
    for position in cuts {
        let image = bench.cut_at(position, |region| match region {
            Region::Superblock => SectorFate::Destroyed,
            _ => SectorFate::Gone,
        });
        assert_eq!(recover(&image).keys(), KEYS, "cut at {position}");
    }
}

/// INV-20.
pub fn a_publication_leaves_the_directory_in_use_alone() {
    let (bench, _mini, cuts) = checkpointed();
    for position in cuts {
        for others in [SectorFate::Kept, SectorFate::Gone] {
            let image = bench.cut_at(position, |region| match region {
                Region::Superblock => SectorFate::Gone,
                Region::Directory => SectorFate::Kept,
                _ => others,
            });
            assert_eq!(recover(&image).keys(), KEYS, "cut at {position}");
        }
    }
}

/// INV-20: most rows of so small a store change, so that a whole table is written.
pub fn a_publication_leaves_the_segment_table_in_use_alone() {
    let (bench, _mini, cuts) = checkpointed();
    let mut tables = 0;
    for position in cuts {
        tables += bench.at_risk(position).into_iter().filter(|at| bench.is_table(*at)).count();
        let image = bench.cut_at(position, |region| match region {
            Region::Superblock => SectorFate::Gone,
            Region::Directory => SectorFate::Kept,
            _ => SectorFate::Gone,
        });
        assert_eq!(recover(&image).keys(), KEYS, "cut at {position}");
    }
    assert!(tables > 0, "no whole table was written");
}

/// INV-17: however much of the checkpoint's own objects survives, from its end on.
pub fn a_checkpoint_record_is_durable_only_after_what_it_names() {
    let (bench, _mini, cuts) = checkpointed();
    let mut images = bench.images();
    for position in cuts {
        let segments: Vec<u64> =
            bench.at_risk(position).into_iter().filter(|at| bench.region(*at) == Region::Segments).collect();
        // The directory is written after the record, before the next flush. (That recovery passes over a record whose roots are lost is a second net.)
        let directory = bench.at_risk(position).into_iter().any(|at| bench.region(at) == Region::Directory);
        assert!(
            !directory || segments.is_empty(),
            "cut at {position}: the record was written, and what it names is at risk"
        );
        let mut limits: Vec<u64> = segments.iter().copied().chain([u64::MAX]).collect();
        limits.dedup();
        for limit in limits {
            let image = images.at_with(position, |at| match bench.region(at) {
                Region::Ring => SectorFate::Kept,
                Region::Segments if at >= limit => SectorFate::Kept,
                _ => SectorFate::Gone,
            });
            assert_eq!(recover(&image).keys(), KEYS, "cut at {position}, segments from {limit} on");
        }
    }
}

/// Runs a checkpoint; before its first write to a region, `other` is done.
pub(super) fn amid(
    bench: &Bench,
    mini: &Arc<Mini>,
    region: Region,
    other: impl Fn(&Mini) + Send + Sync + 'static,
) -> usize {
    let (recording, position) = (bench.recording(), Arc::new(AtomicUsize::new(0)));
    let offsets: Vec<u64> = match region {
        Region::Superblock => bench.copies().to_vec(),
        _ => Vec::new(),
    };
    let regions = Bench::on(bench.cut(), false);
    let (weak, once, seen) = (Arc::downgrade(mini), AtomicBool::new(false), Arc::clone(&position));
    bench.device.look(move |call| {
        let Call::Write(offset, _) = call else { return };
        let here = offsets.contains(&offset) || regions.region(offset) == region;
        if here && !once.swap(true, Ordering::SeqCst) {
            other(&weak.upgrade().unwrap());
            seen.store(recording.len(), Ordering::SeqCst);
        }
    });
    mini.checkpoint().unwrap();
    bench.device.look_away();
    position.load(Ordering::SeqCst)
}

/// INV-17: the record may be durable through somebody else's group, whose flush began before the directory was written.
pub fn a_superblock_is_durable_only_after_its_directory() {
    let bench = Bench::new();
    let mini = bench.mount();
    mini.put(1, 4096).unwrap();
    mini.commit().unwrap();
    let begin = amid(&bench, &mini, Region::Directory, |mini| mini.commit().unwrap());
    assert!(begin > 0, "a directory was written");
    for position in begin..=bench.now() {
        let image = bench.cut_at(position, |region| match region {
            Region::Superblock => SectorFate::Kept,
            _ => SectorFate::Gone,
        });
        assert_eq!(recover(&image).keys(), [1], "cut at {position}");
    }
}

/// INV-21.
pub fn records_between_freeze_and_publication_are_replayed() {
    let bench = Bench::new();
    let mini = bench.mount();
    mini.put(1, 4096).unwrap();
    let open = mini.freeze().unwrap();
    mini.put(2, 4096).unwrap();
    mini.publish(open).unwrap();
    mini.commit().unwrap();
    assert_eq!(recover(&bench.cut()).keys(), [1, 2]);
}

/// INV-37: whoever appends while a checkpoint is published finds no more room than before.
pub fn ring_space_is_not_reused_before_the_superblock_that_frees_it() {
    let bench = Bench::new();
    let mini = bench.mount();
    mini.put(0, 4096).unwrap();
    mini.checkpoint().unwrap();
    for key in 1..6 {
        mini.put(key, 4096).unwrap();
    }
    mini.commit().unwrap();
    while mini.note(4000).is_ok() {
        mini.commit().unwrap();
    }
    let begin = amid(&bench, &mini, Region::Directory, |mini| {
        for _ in 0..120 {
            if mini.note(4000).is_err() || mini.commit().is_err() {
                break;
            }
        }
    });
    let image = bench.cut_at(begin, |_| SectorFate::Gone);
    assert_eq!(recover(&image).keys(), KEYS);
}

/// INV-13: what the published checkpoint holds is whole until the next one is.
pub fn a_container_is_not_reused_before_the_superblock_that_frees_it() {
    let bench = Bench::new();
    let mini = bench.mount();
    for key in 0..12 {
        mini.put(key, 60 << 10).unwrap();
    }
    mini.checkpoint().unwrap();
    for key in 0..12 {
        mini.delete(key).unwrap();
    }
    let begin = amid(&bench, &mini, Region::Directory, |mini| {
        for key in 100..200 {
            if mini.put(key, 60 << 10).is_err() {
                break;
            }
        }
    });
    // The one before rules; and the deletions, which the log has, are lost with it.
    let mut image = bench.cut_at(begin, |region| match region {
        Region::Segments => SectorFate::Kept,
        _ => SectorFate::Gone,
    });
    let (superblock, _) = Bench::ruling(&image);
    image.zero(superblock.ring_offset, superblock.ring_bytes);
    let accepting = envoyfs_engine::Options { accept_loss: true, ..options(&bench.clock) };
    let device: Arc<dyn Device> = Arc::new(SimulatedDevice::from_image(image, 512, 2));
    let mini = Mini::open_with(device, &bench.clock, accepting).unwrap();
    assert_eq!(mini.keys(), (0..12).collect::<Vec<_>>());
    mini.verify();
}

/// INV-07: between the CHECKPOINT record and the superblock, recovery applies the batch.
pub fn an_adopted_checkpoint_counts_once() {
    use crate::client::{Client, Op};
    let base = crate::history::formatted(8, 512, 1).durable_image();
    let device = RecordingDevice::new(SimulatedDevice::from_image(base.clone(), 512, 1));
    let recording = device.recording();
    let clock = crate::client::clock();
    let mut client = Client::start(crate::history::mount(Arc::new(device), &clock).unwrap(), clock.clone());
    for key in 0..12 {
        client.run(&Op::Write { tree: 0, key, seed: u64::from(key), len: 5000 }).unwrap();
    }
    client.checkpoint().unwrap();
    client.run(&Op::Fork { from: 0, to: 1 }).unwrap();
    client.run(&Op::Write { tree: 1, key: 1, seed: 77, len: 5000 }).unwrap();
    client.commit().unwrap();
    let begin = recording.len();
    client.checkpoint().unwrap();
    let mut images = crate::device::CrashImages::new(base, &recording).unwrap();
    let mut adopted = 0;
    for position in begin..=recording.len() {
        let image: DeviceImage = images.at_with(position, |_| SectorFate::Kept);
        let device: Arc<dyn Device> = Arc::new(SimulatedDevice::from_image(image, 512, 2));
        let mut client = Client::start(crate::history::mount(device, &clock).unwrap(), clock.clone());
        adopted += client.engine.metrics().recovery.adopted.get();
        client.quiesce_and_check();
    }
    assert!(adopted > 0, "no cut between record and superblock");
}

/// Containers of system pages in the version that rules.
fn system_containers(bench: &Bench) -> (Vec<Range<u64>>, u64) {
    let superblock = envoyfs_engine::superblock::open(&bench.simulated).unwrap().superblock;
    let table = envoyfs_engine::superblock::read_directory(&bench.simulated, &superblock).unwrap().table;
    let bytes = u64::from(superblock.segment_bytes);
    let place =
        |number: u64| superblock.segments_offset + number * bytes..superblock.segments_offset + (number + 1) * bytes;
    let rows = (0_u64..).zip(&table).filter(|(_, row)| row.state == ContainerState::System);
    (rows.map(|(number, _)| place(number)).collect(), bytes)
}

/// Publishes on another thread, while writes are held back, and says whether a superblock was written before they had arrived.
fn is_published_early(bench: &Bench, mini: &Arc<Mini>) -> bool {
    let copies = bench.copies();
    let (reached, superblock) = channel();
    let reached = Mutex::new(reached);
    bench.device.look(move |call| {
        if matches!(call, Call::Write(offset, _) if copies.contains(&offset)) {
            let _ = reached.lock().unwrap().send(());
        }
    });
    std::thread::scope(|scope| {
        let checkpoint = scope.spawn(|| mini.checkpoint());
        let mut early = false;
        while bench.device.held_writes() == 0 && !early {
            assert!(!checkpoint.is_finished(), "nothing was held back");
            early = superblock.recv_timeout(Duration::from_millis(10)).is_ok();
        }
        // It must not get there; a broken one has the time to.
        early = early || superblock.recv_timeout(Duration::from_secs(2)).is_ok();
        bench.device.release();
        checkpoint.join().unwrap().unwrap();
        bench.device.look_away();
        early
    })
}

/// INV-17: pages of segments are named by the segment table.
pub fn a_publication_names_no_page_that_has_not_arrived() {
    let (bench, mini, _) = checkpointed();
    mini.put(0, 8192).unwrap();
    let (pages, _) = system_containers(&bench);
    assert!(!pages.is_empty(), "a checkpoint wrote no pages");
    bench.device.hold_writes(move |offset| pages.iter().any(|container| container.contains(&offset)));
    assert!(!is_published_early(&bench, &mini), "the superblock names pages that are on their way");
    assert_eq!(recover(&bench.cut()).keys(), KEYS);
}

/// INV-17: while a publication waits for its pages, somebody else fills a container; the table that it then makes calls it closed, and a mount looks no more for what ends it.
pub fn a_publication_calls_no_container_closed_whose_end_has_not_arrived() {
    let bench = Bench::of(16, true);
    let mini = bench.mount();
    mini.put(1, 8192).unwrap();
    mini.checkpoint().unwrap();
    mini.put(2, 8192).unwrap();
    let (pages, bytes) = system_containers(&bench);
    let (filling, written) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    bench.device.arrived({
        let (pages, filling, kept, weak) =
            (pages.clone(), Arc::clone(&filling), Arc::clone(&written), Arc::downgrade(&mini));
        move |offset| {
            let page = pages.iter().any(|container| container.contains(&offset));
            if page && !filling.swap(true, Ordering::SeqCst) {
                // On the thread of the publication, which waits for this page.
                let mini = weak.upgrade().unwrap();
                // Named by nobody: the log does not wait for it.
                let keys = 10..12 + bytes / (60 << 10);
                kept.lock().unwrap().extend(keys.map(|key| (key, mini.write(key, 60 << 10).unwrap())));
            }
        }
    });
    let regions = Bench::on(bench.simulated.image(), false);
    bench
        .device
        .hold_writes(move |offset| filling.load(Ordering::SeqCst) && regions.region(offset) == Region::Segments);
    assert!(!is_published_early(&bench, &mini), "the table calls closed what is on its way");
    assert!(mini.engine.metrics().streams.containers_sealed.get() > 0, "no container was filled");
    for (key, written) in written.lock().unwrap().drain(..) {
        mini.name(key, written).unwrap();
    }
    mini.commit().unwrap();
    assert_eq!(recover(&bench.cut()).keys(), mini.keys());
}
