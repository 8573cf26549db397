//! Every index wiped: the store is made again from its segments, and everything is there, byte for byte; what the log held too, as long as its blocks are there.
use crate::common::{CX, Random};
use crate::fsck_bench::*;
use envoyfs_engine::device::{DeviceImage, SimulatedDevice};
use envoyfs_engine::format::{FormatOptions, format};
use envoyfs_layout::directory_page::ContainerState;
use envoyfs_layout::node::TreeKind;
use envoyfs_layout::superblock::Superblock;
use envoyfs_layout::{Entry, UNIT};
use envoyfs_namespace::api::*;
use envoyfs_tools::fsck::disk::Disk;
use envoyfs_tools::fsck::findings;
use envoyfs_tools::fsck::rebuild::rebuild_disk;
use envoyfs_tools::fsck::repair::Settings;
use envoyfs_tools::fsck::report::Report;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Zeroes all superblocks, both system areas and every system container; with `log` also the ring.
pub fn wiped(device: &SimulatedDevice, log: bool) -> SimulatedDevice {
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

/// A store whose superblock is so many publications ahead of its mount's: containers are numbered from the publication of their mount on.
fn published(checkpoints: usize) -> SimulatedDevice {
    let device = empty(12, 512);
    let mounted = mount(&device);
    for number in 0..checkpoints {
        mounted.file(InodeId::ROOT, &format!("file {number}"), &[number as u8; 6000]);
        mounted.ns.checkpoint().unwrap();
    }
    mounted.file(InodeId::ROOT, "logged", &[7; 6000]);
    mounted.ns.sync().unwrap();
    drop(mounted.ns);
    mounted.engine.close().unwrap();
    device
}

/// INV-20: the page and the table that the open superblock names, and all below, until the superblock of the rebuilt store is written.
#[test]
fn a_store_that_opens_stays_whole_until_its_rebuild_is_published() {
    for checkpoints in 0..5 {
        let image = published(checkpoints).image();
        let start = |seed| SimulatedDevice::from_image(image.clone(), 512, seed);
        let (expected, before) = (tree_of(&start(1)), Surgeon::new(&start(1)).superblock);
        let copies = |image: &DeviceImage| {
            Superblock::positions(before.size).map(|at| {
                let mut copy = vec![0; 4096];
                image.read(at, &mut copy);
                copy
            })
        };
        let mut cut = 0;
        loop {
            let device = start(cut);
            device.crash_after(cut);
            let cut_short = rebuild_disk(&Disk::new(Arc::new(device.clone())), &settings(true));
            // All that it wrote.
            let left = device.image();
            if copies(&left) != copies(&image) {
                break;
            }
            assert!(cut_short.is_err(), "{checkpoints} checkpoints: nothing was published");
            let left = SimulatedDevice::from_image(left, 512, cut);
            assert_same(&tree_of(&left), &expected);
            cut += 1;
        }
        assert!(cut > 4, "{checkpoints} checkpoints: published by write {cut}");
    }
}

/// INV-16: a log says at its end which numbers follow; a rebuilt tree has drawn others since.
#[test]
fn numbers_that_a_closed_log_names_are_not_handed_out_again_after_a_rebuild() {
    for checkpoints in 0..8 {
        let device = wiped(&published(checkpoints), false);
        assert!(rebuild(&device).is_clean());
        let segments = |device: &SimulatedDevice| {
            let table = Surgeon::new(device).directory.table;
            table.iter().map(|row| row.segment).filter(|segment| *segment != 0).collect::<BTreeSet<_>>()
        };
        let before = segments(&device);
        let mounted = mount(&device);
        assert!(mounted.tree().contains_key("/logged"), "{checkpoints} checkpoints: the log was given up");
        mounted.file(InodeId::ROOT, "after", &[1; 9000]);
        mounted.close();
        let after = segments(&device);
        let new: Vec<u32> = after.difference(&before).copied().collect();
        assert!(
            !new.is_empty() && new.iter().all(|new| Some(new) > before.last()),
            "{checkpoints} checkpoints: {new:?}, {before:?}"
        );
    }
}

/// Decision 0011: without the store's own books nobody knows which of the nodes that nothing leads to are lost and which are of directories that were deleted, or of versions before. So a
/// rebuild names what it lost, keeps everything else, and finds no directories below it.
#[test]
fn a_rebuild_names_a_lost_directory_and_finds_nothing_below_it() {
    let device = populated(12);
    {
        let mounted = mount(&device);
        let other = mounted.ns.lookup(&CX, InodeId::ROOT, b"other").unwrap().id;
        let below = mounted.directory(other, "below");
        mounted.file(below, "whole", &[4; 9000]);
        mounted.close();
    }
    let expected = tree_of(&SimulatedDevice::from_image(device.image(), 512, 1));
    let inner = {
        let mut root = None;
        Surgeon::new(&device).nodes(&mut |header, items| {
            for item in items.iter().filter(|_| header.tree == TreeKind::Directory && header.level == 0) {
                if let Ok(Entry::Directory(directory)) = Entry::decode(&item.value, &item.references)
                    && item.key.ends_with(b"other")
                {
                    root = Some(directory.root);
                }
            }
        });
        root.unwrap()
    };
    // Too deep for a copy in the roots object.
    let mut surgeon = Surgeon::new(&device);
    surgeon.flip(surgeon.position(inner.oid) + 70);
    let wiped = wiped(&surgeon.device(), true);
    let report = rebuild(&wiped);
    assert!(report.is_clean(), "{report}");
    let lost = report.repaired.iter().find(|finding| finding.kind == findings::NODE_CHECKSUM);
    assert!(lost.is_some_and(|finding| finding.place.contains("/other")), "{report}");
    let found = tree_of(&wiped);
    assert!(!found.keys().any(|path| path.starts_with("/lost+found")), "{:?}", found.keys());
    let (gone, kept): (Vec<_>, Vec<_>) = expected.iter().partition(|(path, _)| path.starts_with("/other/"));
    assert!(gone.len() > 40 && expected.contains_key("/other/below/whole"));
    assert_eq!(found.keys().collect::<Vec<_>>(), kept.iter().map(|(path, _)| *path).collect::<Vec<_>>());
    assert!(kept.iter().all(|(path, seen)| found[*path].contents == seen.contents));
}

/// Such a checkpoint leaves a roots object, and its number is given again.
#[test]
fn a_checkpoint_that_power_cut_short_is_not_what_is_rebuilt() {
    let start = || {
        let device = published(2);
        let mounted = mount(&device);
        mounted.file(InodeId::ROOT, "before", &[5; 6000]);
        (device, mounted)
    };
    let (device, mounted) = start();
    let before = writes(&device);
    mounted.ns.checkpoint().unwrap();
    let ios = writes(&device) - before;
    drop(mounted);
    for (cut, checkpoint) in (0..ios).flat_map(|cut| [(cut, true), (cut, false)]) {
        let (device, mounted) = start();
        device.crash_after(cut);
        let _cut = mounted.ns.checkpoint();
        let device = device.crash(cut);
        drop(mounted);
        let mounted = mount(&device);
        mounted.file(InodeId::ROOT, "since", &[6; 6000]);
        mounted.ns.sync().unwrap();
        if checkpoint {
            mounted.ns.checkpoint().unwrap();
        }
        let expected = mounted.tree();
        drop(mounted);
        let device = wiped(&device, false);
        let report = rebuild(&device);
        let what = format!("cut {cut} of {ios}, then {}", if checkpoint { "a checkpoint" } else { "a sync" });
        assert!(report.is_clean(), "{what}:\n{report}");
        let found = tree_of(&device);
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
        assert_same(&found, &expected);
    }
}

/// What `mkfs` leaves on a device that discards nothing: the segments of the older store, where the new one has not written yet.
#[test]
fn of_two_stores_on_a_device_only_the_one_that_is_named_is_rebuilt() {
    let device = populated(12);
    let mounted = mount(&device);
    mounted.file(InodeId::ROOT, "much", &Random(2).bytes(2 << 20));
    mounted.close();
    let older = Surgeon::new(&device).directory.table.iter().filter(|row| row.segment != 0).count();
    let options = FormatOptions {
        label: "second".into(),
        uuid: [8; 16],
        seed: [5; 16],
        now_ns: START_NS + 10_000_000_000,
        wal_bytes: Some(512 << 10),
        segment_bytes: Some(256 << 10),
        force: true,
        small: true,
    };
    format(&device, &options).unwrap();
    let mounted = mount(&device);
    mounted.file(InodeId::ROOT, "new", &[8; 9000]);
    mounted.ns.checkpoint().unwrap();
    mounted.close();
    let newer = Surgeon::new(&device).directory.table.iter().filter(|row| row.segment != 0).count();
    assert!(newer < older, "{newer} segments over {older}");
    let whole = device.image().to_bytes();
    let of_older = Settings { store: Some([9; 16]), ..settings(true) };
    let why = rebuild_disk(&Disk::new(Arc::new(device.clone())), &of_older).unwrap_err().to_string();
    assert!(why.contains("is that of a store with the seed 05050505"), "{why}");
    assert!(device.image().to_bytes() == whole, "something was written");
    let device = wiped(&device, false);
    let before = device.image().to_bytes();
    let disk = || Disk::new(Arc::new(device.clone()));
    let why = rebuild_disk(&disk(), &settings(true)).unwrap_err().to_string();
    for told in ["05050505-0505-0505-0505-050505050505: ", "09090909-0909-0909-0909-090909090909: ", "last written 2"] {
        assert!(why.contains(told), "{why}");
    }
    let neither = Settings { store: Some([6; 16]), ..settings(true) };
    assert!(rebuild_disk(&disk(), &neither).is_err());
    assert!(device.image().to_bytes() == before, "something was written");
    let named = Settings { store: Some([5; 16]), ..settings(true) };
    let report = rebuild_disk(&disk(), &named).unwrap();
    assert!(report.is_clean(), "{report}");
    let tree = tree_of(&device);
    assert!(tree.contains_key("/new") && !tree.contains_key("/top"), "{:?}", tree.keys());
}
