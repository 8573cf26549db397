//! Every index wiped: the store is made again from its segments, and everything is there, byte for byte; what the log held too, as long as its blocks are there.
use crate::common::Random;
use crate::fsck_bench::*;
use envoyfs_engine::device::SimulatedDevice;
use envoyfs_layout::UNIT;
use envoyfs_layout::directory_page::ContainerState;
use envoyfs_layout::superblock::Superblock;
use envoyfs_namespace::api::*;
use envoyfs_tools::fsck::disk::Disk;
use envoyfs_tools::fsck::rebuild::rebuild_disk;
use envoyfs_tools::fsck::report::Report;
use std::sync::Arc;

/// Zeroes all superblocks, both system areas and every system container; with `log` also the ring.
fn wiped(device: &SimulatedDevice, log: bool) -> SimulatedDevice {
    let mut surgeon = Surgeon::new(device);
    let superblock = surgeon.superblock.clone();
    for at in Superblock::positions(superblock.size) {
        surgeon.image.zero(at, 4096);
    }
    for area in [superblock.area_a, superblock.area_b] {
        surgeon.image.zero(area, 2 * superblock.area_slot_bytes);
    }
    for (number, row) in (0_u32..).zip(surgeon.directory.table.clone()) {
        if row.state == ContainerState::System {
            surgeon.image.zero(surgeon.offset(number, 0), superblock.segment_bytes.into());
        }
    }
    if log {
        surgeon.image.zero(superblock.ring_offset, superblock.ring_bytes);
    }
    surgeon.device()
}

fn rebuild(device: &SimulatedDevice) -> Report {
    rebuild_disk(&Disk::new(Arc::new(device.clone())), &settings(true)).unwrap()
}

fn tree_of(device: &SimulatedDevice) -> Tree {
    let mounted = mount(device);
    let tree = mounted.tree();
    mounted.close();
    tree
}

fn assert_same(found: &Tree, expected: &Tree) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (path, seen) in expected {
        assert_eq!(found.get(path), Some(seen), "{path}");
    }
}

#[test]
fn a_store_without_any_index_is_made_again_byte_for_byte() {
    let device = populated(12);
    let expected = tree_of(&SimulatedDevice::from_image(device.image(), 512, 1));
    for log in [false, true] {
        let device = wiped(&device, log);
        assert!(try_mount(&device, true).is_err(), "there must be nothing to mount");
        let report = rebuild(&device);
        assert!(report.is_clean(), "{report}");
        assert!(check(&device).is_clean());
        assert_same(&tree_of(&device), &expected);
        // It is a store like any other.
        let mounted = mount(&device);
        mounted.file(InodeId::ROOT, "after", &[1; 9000]);
        mounted.close();
        let report = check(&device);
        assert!(report.is_clean(), "{report}");
    }
}

#[test]
fn what_only_the_log_holds_is_replayed_after_a_rebuild() {
    let device = populated(12);
    for round in 0..3_u8 {
        let mounted = mount(&device);
        mounted.file(InodeId::ROOT, &format!("logged {round}"), &[round; 10_000]);
        mounted.ns.sync().unwrap();
        drop(mounted.ns);
        mounted.engine.close().unwrap();
    }
    let expected = tree_of(&SimulatedDevice::from_image(device.image(), 512, 1));
    assert!(expected.contains_key("/logged 2"));
    let wiped = wiped(&device, false);
    let report = rebuild(&wiped);
    assert!(report.is_clean(), "{report}");
    assert_same(&tree_of(&wiped), &expected);
    assert!(check(&wiped).is_clean());
}

#[test]
fn survivors_of_cleaning_are_found_by_their_table() {
    let device = cleaned();
    let table = Surgeon::new(&device).directory.table;
    let survivors = table.iter().filter(|row| row.state == ContainerState::Survivors).count();
    assert!(survivors > 0, "the cleaner moved nothing");
    let report = check(&device);
    assert!(report.is_clean(), "{report}");
    let expected = tree_of(&SimulatedDevice::from_image(device.image(), 512, 1));
    let wiped = wiped(&device, true);
    let report = rebuild(&wiped);
    assert!(report.is_clean(), "{report}");
    assert_same(&tree_of(&wiped), &expected);
}

#[test]
fn a_rebuild_with_damage_besides_keeps_what_is_not_damaged() {
    let device = populated(12);
    let expected = tree_of(&SimulatedDevice::from_image(device.image(), 512, 1));
    let surgeon = Surgeon::new(&device);
    let from = surgeon.superblock.segments_offset;
    let used = surgeon.directory.table.iter().filter(|row| row.segment != 0).count() as u64;
    for seed in 0..12 {
        let wiped = wiped(&device, true);
        let mut random = Random(seed);
        let sector = random.below((used * u64::from(surgeon.superblock.segment_bytes / UNIT)) as usize) as u64;
        wiped.inject(envoyfs_engine::device::Fault::FlipBits { offset: from + sector * 512 + 77, mask: 8 });
        let Ok(report) = rebuild_disk(&Disk::new(Arc::new(wiped.clone())), &settings(true)) else {
            panic!("seed {seed}: sector {sector}");
        };
        assert!(report.is_clean(), "seed {seed}:\n{report}");
        let found = tree_of(&wiped);
        let same = expected.iter().filter(|(path, seen)| found.get(*path).is_some_and(|f| f.contents == seen.contents));
        let same = same.count();
        println!("seed {seed}: sector {sector}: {same} of {} as before", expected.len());
        assert!(same * 3 >= expected.len() || !report.repaired.is_empty(), "seed {seed}:\n{report}");
    }
}

#[test]
fn a_rebuild_cut_at_any_write_is_begun_again() {
    let device = populated(12);
    let expected = tree_of(&SimulatedDevice::from_image(device.image(), 512, 1));
    let image = wiped(&device, true).image();
    let whole = SimulatedDevice::from_image(image.clone(), 512, 1);
    rebuild(&whole);
    let ios = writes(&whole);
    for cut in 0..ios {
        let device = SimulatedDevice::from_image(image.clone(), 512, cut);
        device.crash_after(cut);
        let _cut = rebuild_disk(&Disk::new(Arc::new(device.clone())), &settings(true));
        let device = device.crash(cut);
        let report = rebuild(&device);
        assert!(report.is_clean(), "cut {cut} of {ios}:\n{report}");
        assert_same(&tree_of(&device), &expected);
    }
}
