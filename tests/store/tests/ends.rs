//! Where numbers and stamps end, and devices that do not take writes: told, never wrapped.

use envoyfs_engine::superblock;
use envoyfs_layout::directory_page::VolumeEntry;
use envoyfs_layout::superblock::Superblock;
use envoyfs_layout::{Hlc, Reference};
use envoyfs_store_tests::StoreError;
use envoyfs_store_tests::bench::{Bench, recover};
use envoyfs_store_tests::device::{Device, SimulatedDevice};
use envoyfs_store_tests::scripted::{Answer, Call};
use envoyfs_store_tests::store::{Counter, Store as _};

const NUMBERS: u64 = u32::MAX as u64;

/// A store with key 1, left without a good-bye, whose superblock and directory are then changed.
fn changed(change: impl FnOnce(&mut Superblock, &mut VolumeEntry)) -> Bench {
    let bench = Bench::new();
    let mini = bench.mount();
    mini.put(1, 4096).unwrap();
    mini.put(2, 4096).unwrap();
    mini.checkpoint().unwrap();
    let device = SimulatedDevice::from_image(bench.cut(), 512, 2);
    let ruling = superblock::open(&device).unwrap().superblock;
    let mut directory = superblock::read_directory(&device, &ruling).unwrap();
    let (_, mut table) = superblock::read_published(&device, &ruling).unwrap();
    let mut next = ruling.next();
    change(&mut next, &mut directory.entry);
    superblock::write_directory(&device, &mut next, &mut directory, &mut table).unwrap();
    device.flush().unwrap();
    superblock::publish(&device, &next).unwrap();
    Bench::on(device.durable_image(), false)
}

/// What a publication reserves.
fn chunk(superblock: &Superblock) -> u64 {
    2 * u64::from(superblock.containers) + 16
}

#[test]
fn near_the_end_of_segment_numbers_data_is_refused_and_deletions_are_not() {
    let bench = changed(|superblock, entry| entry.bounds.segment = NUMBERS - 3 * chunk(superblock) + 1);
    let mini = bench.mount();
    assert_eq!(mini.engine.read_only(), "");
    let refused = mini.put(3, 4096).unwrap_err();
    assert!(matches!(refused, StoreError::UsedUp { what: "segment numbers" }), "{refused}");
    mini.delete(1).unwrap();
    mini.checkpoint().unwrap();
    mini.engine.close().unwrap();
    let again = recover(&bench.cut());
    assert_eq!(again.keys(), [2]);
    assert!(again.put(3, 4096).is_err());
    again.delete(2).unwrap();
    again.checkpoint().unwrap();
}

#[test]
fn a_store_whose_segment_numbers_cannot_last_a_checkpoint_can_be_read() {
    for left in [0, 1, 15] {
        let bench = changed(|_, entry| entry.bounds.segment = NUMBERS - left);
        let mini = bench.mount();
        assert!(mini.engine.read_only().contains("segment numbers"), "{left} left: {:?}", mini.engine.read_only());
        assert_eq!(mini.keys(), [1, 2]);
        mini.verify();
    }
}

#[test]
fn numbers_of_inodes_end_before_the_bits_above_them() {
    let end = 1 << 40;
    let bench = changed(|_, entry| entry.bounds.inode = end - 5);
    let mini = bench.mount();
    let drawn: Vec<u64> = (0..5).map(|_| mini.engine.number(Counter::Inode).unwrap()).collect();
    assert_eq!(drawn, (end - 5..end).collect::<Vec<_>>());
    let none = |result: Result<u64, StoreError>| matches!(result, Err(StoreError::UsedUp { what: "inode numbers" }));
    assert!(none(mini.engine.number(Counter::Inode)));
    mini.put(3, 4096).unwrap();
    mini.checkpoint().unwrap();
    assert!(none(mini.engine.number(Counter::Inode)));
    assert!(none(recover(&bench.cut()).engine.number(Counter::Inode)));
    mini.engine.number(Counter::Realm).unwrap();
}

#[test]
fn a_stamp_at_the_end_of_time_is_not_counted_on_from() {
    for bound in [u64::MAX, 1 << 63] {
        let bench = changed(|superblock, _| superblock.hlc_bound = Hlc(bound));
        let mini = bench.mount();
        assert!(mini.engine.read_only().contains("time stamps end"), "{:?}", mini.engine.read_only());
        mini.verify();
    }
}

/// A recovery publishes to all four copies: one that takes no write is enough.
#[test]
fn a_store_with_a_copy_of_the_superblock_that_cannot_be_written_can_be_read() {
    for copy in 0..4 {
        let bench = changed(|_, _| ());
        let bad = bench.copies()[copy];
        bench.device.script(move |call, _| match call {
            Call::Write(offset, _) if offset == bad => Answer::Fail(5),
            _ => Answer::Do,
        });
        let mini = bench.mount();
        assert!(mini.engine.read_only().contains("cannot be written"), "{:?}", mini.engine.read_only());
        assert_eq!(mini.keys(), [1, 2]);
        mini.verify();
        assert_eq!(recover(&bench.cut()).keys(), [1, 2]);
    }
}

#[test]
fn a_reference_that_ends_behind_its_segment_takes_no_memory() {
    let mini = Bench::new().mount();
    mini.put(1, 4096).unwrap();
    let extent = mini.file(1).reference;
    let hostile = Reference { stored_bytes: !511, logical_bytes: !511, ..extent };
    let refused = mini.engine.read_node(&hostile).unwrap_err();
    assert!(refused.to_string().contains("behind its segment"), "{refused}");
}
