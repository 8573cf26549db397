//! Mounts: what a recovery publishes, when, and what it takes an end of the log for.

use crate::bench::{Bench, Region, recover};
use crate::device::{DeviceImage, SectorFate};
use crate::scripted::{Answer, Call};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a crash leaves: a checkpoint, records behind it, and a container of data that was being filled.
fn crashed() -> DeviceImage {
    let bench = Bench::new();
    let mini = bench.mount();
    for key in 0..6 {
        mini.put(key, 60 << 10).unwrap();
    }
    mini.checkpoint().unwrap();
    mini.delete(5).unwrap();
    mini.put(6, 8192).unwrap();
    mini.commit().unwrap();
    bench.cut()
}

const KEYS: [u64; 6] = [0, 1, 2, 3, 4, 6];

/// INV-17, INV-20: cut at every place of the mount, with all that was written of the superblock and nothing else that no flush covered.
pub fn a_mounts_superblock_is_durable_only_after_what_it_names() {
    let bench = Bench::on(crashed(), false);
    assert_eq!(bench.mount().keys(), KEYS);
    for position in 0..=bench.now() {
        let image = bench.cut_at(position, |region| match region {
            Region::Superblock => SectorFate::Kept,
            _ => SectorFate::Gone,
        });
        assert_eq!(recover(&image).keys(), KEYS, "cut at {position}");
    }
}

/// INV-17: writes complete late, and a flush covers only what has arrived.
pub fn a_mount_calls_no_container_closed_whose_end_has_not_arrived() {
    let bench = Bench::on(crashed(), true);
    let (submitted, arrived) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (region, ours, theirs) = (bench.regions(), Arc::clone(&submitted), Arc::clone(&arrived));
    bench.device.look(move |call| match call {
        Call::Write(offset, _) if region(offset) == Region::Segments => drop(ours.fetch_add(1, Ordering::SeqCst)),
        Call::Flush => {
            let (ours, theirs) = (ours.load(Ordering::SeqCst), theirs.load(Ordering::SeqCst));
            assert_eq!(ours, theirs, "writes to segments, and those that have arrived");
        }
        _ => {}
    });
    let region = bench.regions();
    bench.device.arrived(move |offset| {
        if region(offset) == Region::Segments {
            arrived.fetch_add(1, Ordering::SeqCst);
        }
    });
    assert_eq!(bench.mount().keys(), KEYS);
    bench.device.look_away();
    assert!(submitted.load(Ordering::SeqCst) > 0, "no container was closed");
}

/// INV-20: between its record and its superblock; the mount that adopts it dies before its own first checkpoint.
pub fn an_adopted_checkpoint_is_published_before_anything_is_served() {
    let bench = Bench::new();
    let mini = bench.mount();
    mini.put(1, 4096).unwrap();
    let position = super::publish::amid(&bench, &mini, Region::Superblock, |_| ());
    let image = bench.cut_at(position, |_| SectorFate::Kept);
    let number = Bench::ruling(&image).1.entry.checkpoint.number;
    let next = Bench::on(image, false);
    let mini = next.mount();
    assert_eq!(mini.engine.metrics().recovery.adopted.get(), 1);
    assert_eq!(Bench::ruling(&next.cut()).1.entry.checkpoint.number, number + 1);
    mini.put(2, 4096).unwrap();
    mini.commit().unwrap();
    let last = recover(&next.cut());
    assert_eq!((last.keys(), last.engine.metrics().recovery.adopted.get()), (vec![1, 2], 0));
    assert_eq!(last.engine.check_space(), Vec::<String>::new());
}

/// INV-16.
pub fn a_segment_number_is_never_handed_out_twice() {
    let bench = Bench::new();
    let segment = |mini: &crate::mini::Mini, key| {
        mini.put(key, 4096).unwrap();
        mini.file(key).reference.oid.segment()
    };
    let first = segment(&bench.mount(), 1);
    let second = segment(&recover(&bench.cut()), 1);
    assert!(second > first, "{second} after {first}");
}

/// INV-19 (decision 0018): no power cut leaves a sector that cannot be read. Read again, all is there.
pub fn an_end_of_the_log_that_cannot_be_read_is_told() {
    let bench = Bench::new();
    let mini = bench.mount();
    mini.put(1, 4096).unwrap();
    mini.commit().unwrap();
    let before = bench.now();
    mini.put(2, 8192).unwrap();
    mini.commit().unwrap();
    let written: Vec<u64> = (before..bench.now()).flat_map(|position| bench.at_risk(position)).collect();
    // The block of the last record, and its data.
    for wanted in [Region::Ring, Region::Segments] {
        let bad = *written.iter().rfind(|at| bench.region(**at) == wanted).expect("it was written");
        let next = Bench::on(bench.cut(), false);
        next.device.script(move |call, _| match call {
            Call::Read(at, bytes) if (at..at + bytes).contains(&bad) => Answer::Fail(5),
            _ => Answer::Do,
        });
        let mini = next.mount();
        assert!(mini.engine.read_only().contains("accept_loss"), "{wanted:?}: {:?}", mini.engine.read_only());
        assert_eq!(mini.keys(), [1], "{wanted:?}");
        next.device.script(|_, _| Answer::Do);
        let mini = next.mount();
        assert_eq!((mini.engine.read_only(), mini.keys()), ("", vec![1, 2]), "{wanted:?}");
    }
}

/// INV-23: one copy that another time left there, and one that is damaged.
pub fn a_copy_of_the_superblock_that_no_other_attests_does_not_rule() {
    let bench = Bench::new();
    let mini = bench.mount();
    mini.put(1, 4096).unwrap();
    mini.checkpoint().unwrap();
    let mut image = bench.cut();
    for key in 2..6 {
        mini.put(key, 4096).unwrap();
        mini.checkpoint().unwrap();
    }
    let [first, second, ..] = bench.copies();
    let mut later = vec![0; 4096];
    bench.cut().read(first, &mut later);
    image.write(first, &later);
    image.zero(second, 4096);
    assert_eq!(recover(&image).keys(), [1]);
}
