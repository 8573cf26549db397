//! Checkpoints that are published without a record, since the ring has no room (decision 0008).

use crate::bench::{Bench, Region, recover};
use crate::device::{DeviceImage, SectorFate, SimulatedDevice};
use crate::mini::Mini;
use crate::rules::publish::amid;
use crate::store::DataObject;
use envoyfs_engine::wal::RingGeometry;
use envoyfs_engine::wal::recovery::{Found, FoundRecord, Judge, Verdict, scan};
use envoyfs_layout::Lsn;
use envoyfs_layout::directory_page::ContainerState;
use envoyfs_layout::wal::{Relocated, SegmentPlaced};
use std::ops::Range;
use std::sync::Arc;

/// Everything that was named is there.
struct Whole;

impl Judge for Whole {
    fn placed(&mut self, _: SegmentPlaced) {}
    fn relocated(&mut self, _: Relocated) {}
    fn record(&mut self, _: &FoundRecord) {}
    fn verify(&mut self, _: &DataObject) -> Verdict {
        Verdict::Right
    }
}

/// What the log holds behind the checkpoint that rules.
fn log_of(image: &DeviceImage) -> Found {
    let (superblock, directory) = Bench::ruling(image);
    let device = SimulatedDevice::from_image(image.clone(), 512, 3);
    scan(&device, &RingGeometry::of(&superblock, &directory.entry), &directory.entry, &mut Whole).unwrap()
}

/// Keys in a checkpoint, most of them deleted since, and a full ring. Returns also what the device holds.
fn before() -> (Bench, Arc<Mini>, DeviceImage) {
    let bench = Bench::of_short_ring();
    let mini = bench.mount();
    for key in 0..24 {
        mini.put(key, 60 << 10).unwrap();
    }
    mini.checkpoint().unwrap();
    for key in 1..24 {
        mini.delete(key).unwrap();
    }
    mini.fill_ring().unwrap();
    let image = bench.cut();
    (bench, mini, image)
}

/// INV-17: also without a record the directory is there before the superblock.
pub fn without_a_record_a_superblock_is_durable_only_after_its_directory() {
    let (bench, mini, _) = before();
    let begin = bench.now();
    mini.checkpoint().unwrap();
    assert_eq!(mini.unrecorded(), 1);
    for position in begin..=bench.now() {
        let image = bench.cut_at(position, |region| match region {
            Region::Superblock => SectorFate::Kept,
            _ => SectorFate::Gone,
        });
        assert_eq!(recover(&image).keys(), [0], "cut at {position}");
    }
}

/// Containers in use before, and free in what rules now.
fn freed(before: &DeviceImage, now: &DeviceImage) -> Vec<Range<u64>> {
    let ((superblock, old), (_, new)) = (Bench::ruling(before), Bench::ruling(now));
    let bytes = u64::from(superblock.segment_bytes);
    let row = |number: usize| new.table.get(number).map_or(ContainerState::Free, |row| row.state);
    let rows = old.table.iter().enumerate();
    let freed = rows.filter(|(number, was)| was.state != ContainerState::Free && row(*number) == ContainerState::Free);
    let place = |number: usize| superblock.segments_offset + number as u64 * bytes;
    freed.map(|(number, _)| place(number)..place(number + 1)).collect()
}

fn is_overwritten(before: &DeviceImage, now: &DeviceImage, containers: &[Range<u64>]) -> bool {
    containers.iter().any(|container| {
        let read = |image: &DeviceImage| {
            let mut bytes = vec![0; (container.end - container.start) as usize];
            image.read(container.start, &mut bytes);
            bytes
        };
        read(before) != read(now)
    })
}

/// At every cut from here on: where something of these containers is overwritten, the log tells of the checkpoint that freed them.
fn is_told_before_reuse(bench: &Bench, positions: Range<usize>, before: &DeviceImage, containers: &[Range<u64>]) {
    let mut overwritten = 0;
    for position in positions {
        let image = bench.cut_at(position, |region| match region {
            Region::Segments => SectorFate::Kept,
            _ => SectorFate::Gone,
        });
        if is_overwritten(before, &image, containers) {
            overwritten += 1;
            // From then on it does.
            if overwritten > 3 {
                return;
            }
            let number = Bench::ruling(&image).1.entry.checkpoint.number;
            assert!(
                log_of(&image).tells_of(number).unwrap(),
                "cut at {position}: nothing tells of checkpoint {number}"
            );
        }
    }
    assert!(overwritten > 0, "nothing was reused");
}

/// INV-13: without indexes, only the log says that a checkpoint took place, and that the one before is not whole any more.
pub fn what_a_publication_without_a_record_freed_is_reused_only_when_the_log_tells_of_it() {
    let (bench, mini, before) = before();
    mini.checkpoint().unwrap();
    assert_eq!(mini.unrecorded(), 1);
    let (published, containers) = (bench.now(), freed(&before, &bench.cut()));
    assert!(containers.len() > 3, "{containers:?}");
    for key in 100..140 {
        mini.put(key, 60 << 10).unwrap();
    }
    is_told_before_reuse(&bench, published..bench.now() + 1, &before, &containers);
}

/// INV-13: power failed when the superblock was written and nothing told of it yet.
pub fn a_mount_tells_of_a_publication_without_a_record_before_it_reuses_what_that_freed() {
    let (bench, mini, before) = before();
    let begin = bench.now();
    mini.checkpoint().unwrap();
    assert_eq!(mini.unrecorded(), 1);
    let number = Bench::ruling(&before).1.entry.checkpoint.number;
    let untold = (begin..=bench.now()).map(|position| bench.cut_at(position, |_| SectorFate::Gone)).find(|image| {
        Bench::ruling(image).1.entry.checkpoint.number > number && !log_of(image).tells_of(number + 1).unwrap()
    });
    let untold = untold.expect("a cut between superblock and record");
    let containers = freed(&before, &untold);
    let bench = Bench::on(untold, false);
    let mini = bench.mount();
    for key in 100..140 {
        mini.put(key, 60 << 10).unwrap();
    }
    is_told_before_reuse(&bench, 0..bench.now() + 1, &before, &containers);
}

/// INV-21: so a log that ends before a checkpoint's freeze was written over, after that checkpoint had been published.
pub fn the_log_is_durable_to_its_freeze_before_a_checkpoint_writes_its_roots() {
    let bench = Bench::new();
    let mini = bench.mount();
    for key in 0..3 {
        mini.put(key, 8192).unwrap();
    }
    let begin = bench.now();
    mini.checkpoint().unwrap();
    let end = bench.cut();
    let (superblock, directory) = Bench::ruling(&end);
    let roots = directory.entry.roots.unwrap();
    let home = directory.table.iter().position(|row| row.segment == roots.oid.segment()).unwrap() as u64;
    let at =
        superblock.segments_offset + home * u64::from(superblock.segment_bytes) + u64::from(roots.oid.slot()) * 512;
    let read = |image: &DeviceImage| {
        let mut bytes = vec![0; roots.stored_bytes as usize];
        image.read(at, &mut bytes);
        bytes
    };
    let mut first = true;
    for position in begin..=bench.now() {
        let image = bench.cut_at(position, |region| match region {
            Region::Segments => SectorFate::Kept,
            _ => SectorFate::Gone,
        });
        if read(&image) == read(&end) {
            let cut = log_of(&image).cut.lsn;
            assert!(cut >= directory.entry.checkpoint.freeze, "cut at {position}: the log ends at {cut:?}");
            assert!(!first || Bench::ruling(&image).1.entry.checkpoint.number == 0);
            first = false;
        }
    }
    assert!(!first && directory.entry.checkpoint.freeze > Lsn(0));
}

/// INV-22: the tree lies in a segment that was opened amid the publication before, when the ring was full still, and is in no table; roots and batch lie in one that the log tells of.
pub fn a_checkpoint_whose_segments_the_log_does_not_tell_of_is_not_adopted() {
    let (bench, mini, _) = before();
    let idle_segment = |mini: &Mini| (0..17).for_each(|_| mini.idle_node().unwrap());
    amid(&bench, &mini, Region::Directory, idle_segment);
    mini.put(2, 8192).unwrap();
    mini.commit().unwrap();
    let open = mini.freeze().unwrap();
    let begin = bench.now();
    mini.publish_after(open, || idle_segment(&mini)).unwrap();
    for position in begin..=bench.now() {
        let image = bench.cut_at(position, |region| match region {
            Region::Superblock => SectorFate::Gone,
            _ => SectorFate::Kept,
        });
        assert_eq!(recover(&image).keys(), [0, 2], "cut at {position}");
    }
    assert_eq!(mini.unrecorded(), 2, "it had a record");
}
