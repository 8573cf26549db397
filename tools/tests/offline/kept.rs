//! What a repair must not give up: records that were acknowledged and that another cause than their own damage keeps from replay; and the memory that errors were left.
use crate::common::CX;
use crate::fsck_bench::*;
use envoyfs_engine::device::{Fault, SimulatedDevice};
use envoyfs_layout::node::TreeKind;
use envoyfs_layout::{Body, Entry, UNIT};
use envoyfs_namespace::api::*;
use envoyfs_tools::fsck::disk::Disk;
use envoyfs_tools::fsck::findings;
use envoyfs_tools::fsck::repair::{Settings, SomeRepaired, repair_disk};
use envoyfs_tools::fsck::{Options, report::Report};
use std::sync::Arc;

/// Synced and not checkpointed: files of so many bytes in the root.
fn logged(device: &SimulatedDevice, count: u8, bytes: usize) {
    let mounted = mount(device);
    for number in 0..count {
        mounted.file(InodeId::ROOT, &format!("logged {number}"), &vec![number + 100; bytes]);
        mounted.ns.sync().unwrap();
    }
    drop(mounted);
}

fn contents(device: &SimulatedDevice, name: &str) -> Vec<u8> {
    let mounted = mount(device);
    let file = mounted.ns.lookup(&CX, InodeId::ROOT, name.as_bytes()).unwrap();
    let mut bytes = vec![0; usize::try_from(file.size).unwrap()];
    let read = mounted.ns.read(&CX, file.id, 0, &mut bytes).unwrap();
    assert_eq!(read, bytes.len());
    bytes
}

#[test]
fn a_log_that_a_device_does_not_let_be_replayed_is_not_given_up() {
    let device = populated(12);
    logged(&device, 6, 5000);
    let mut surgeon = Surgeon::new(&device);
    let at = surgeon.find(&[101; 4096]);
    surgeon.flip(at[0] + 9);
    let damaged = surgeon.device();
    is_found(&damaged, findings::LOG_DATA);
    // Where the mount that replays publishes first.
    damaged.inject(Fault::WriteError { offset: surgeon.superblock.next().slot_positions()[0] });
    let refused = repair_disk(&Disk::new(Arc::new(damaged.clone())), &settings(true));
    let why = refused.map(|report| report.to_string()).unwrap_err().to_string();
    assert!(why.contains("nothing of it was given up"), "{why}");
    assert!(Surgeon::new(&damaged).superblock.errors, "the next check must look again");
    let report = repair(&damaged, true);
    assert_eq!(report.exit_code(), 1, "{report}");
    assert!(!numbers(&report).contains(&203) && report.repaired.iter().all(|f| f.kind != findings::LOG_DROPPED));
    for number in [0, 2, 3, 4, 5_u8] {
        assert_eq!(contents(&damaged, &format!("logged {number}")), [number + 100; 5000]);
    }
    assert!(!Surgeon::new(&damaged).superblock.errors);
}

#[test]
fn what_stands_behind_an_unreadable_block_of_the_log_is_not_written_over_unless_it_is_given_up() {
    let device = populated(16);
    logged(&device, 6, 150_000);
    let mut surgeon = Surgeon::new(&device);
    let row = surgeon.directory.table.iter_mut().find(|row| row.segment != 0 && row.live_units > 0).unwrap();
    row.live_units += 1;
    surgeon.publish();
    let ring = surgeon.superblock.ring_offset..surgeon.superblock.ring_offset + surgeon.superblock.ring_bytes;
    let mut block = vec![0; 512];
    let first = ring.step_by(512).find(|at| {
        surgeon.image.read(*at, &mut block);
        block.windows(8).any(|window| window == b"logged 0")
    });
    let offset = first.unwrap();
    let device = surgeon.device();
    device.inject(Fault::ReadError { offset });
    is_found(&device, findings::LOG_CORRUPT);
    is_found(&device, findings::TABLE_LIVE);
    assert_eq!(repair(&device, false).exit_code() & 4, 4);
    // The cable is put right.
    device.inject(Fault::Readable { offset });
    for number in 0..6_u8 {
        assert!(contents(&device, &format!("logged {number}")) == vec![number + 100; 150_000], "file {number}");
    }
    drop(mount(&device));
    assert_eq!(repair(&device, false).exit_code(), 1);
    for number in 0..6_u8 {
        assert!(contents(&device, &format!("logged {number}")) == vec![number + 100; 150_000], "file {number}");
    }
}

fn repair_without_data(device: &SimulatedDevice) -> Report {
    let settings = Settings { options: Options { data: false, ..Options::default() }, ..settings(false) };
    repair_disk(&Disk::new(Arc::new(device.clone())), &settings).unwrap()
}

#[test]
fn a_look_without_file_data_does_not_forget_errors_that_were_left() {
    let device = populated(12);
    let mut surgeon = Surgeon::new(&device);
    let mounted = mount(&device);
    let expected = mounted.tree()["/top/file 4"].contents.clone();
    mounted.close();
    surgeon.flip(surgeon.find(&expected[..4096])[0] + 9);
    let damaged = surgeon.device();
    assert_eq!(repair(&damaged, false).exit_code(), 4);
    assert!(Surgeon::new(&damaged).superblock.errors);
    let report = repair_without_data(&damaged);
    assert_eq!(report.exit_code(), 0, "{report}");
    assert!(report.count(findings::ERRORS_LEFT) == 1 && Surgeon::new(&damaged).superblock.errors, "{report}");
    assert_eq!(repair(&damaged, true).exit_code(), 1);
    assert!(!Surgeon::new(&damaged).superblock.errors);
}

/// A row of the table that says a unit too many lives.
fn with_wrong_row(mut surgeon: Surgeon) -> SimulatedDevice {
    let row = surgeon.directory.table.iter_mut().find(|row| row.segment != 0 && row.live_units > 0).unwrap();
    row.live_units += 1;
    surgeon.publish();
    surgeon.device()
}

/// The root of `/top`.
fn root_of_top(surgeon: &mut Surgeon) -> u64 {
    let mut root = None;
    surgeon.nodes(&mut |header, items| {
        for item in items.iter().filter(|item| header.tree == TreeKind::Directory && item.key.ends_with(b"top")) {
            if let Ok(Entry::Directory(directory)) = Entry::decode(&item.value, &item.references) {
                root = Some(directory.root.oid);
            }
        }
    });
    surgeon.position(root.unwrap())
}

/// Both may be read again: by another computer, or when the cable is put right.
#[test]
fn what_hangs_below_a_lost_node_is_not_freed_by_p_if_its_page_is_lost_too() {
    let device = populated(16);
    let mut surgeon = Surgeon::new(&device);
    surgeon.without_copies();
    let node = root_of_top(&mut surgeon);
    let pages = surgeon.directory.table.iter().filter(|row| row.segment != 0 && !row.metadata.is_none());
    let pages = pages.map(|row| surgeon.offset(row.metadata.container, row.metadata.units) + 20);
    let damaged: Vec<u64> = pages.chain([node + 70]).collect();
    let device = surgeon.device();
    let flip = |device: &SimulatedDevice| {
        damaged.iter().for_each(|offset| device.inject(Fault::FlipBits { offset: *offset, mask: 2 }));
    };
    flip(&device);
    is_found(&device, findings::SYSTEM_PAGE);
    is_found(&device, findings::NODE_CHECKSUM);
    let report = repair(&device, false);
    assert_eq!(report.exit_code() & 4, 4, "{report}");
    flip(&device);
    let report = check(&device);
    assert_eq!(report.count(findings::NOT_LIVE), 0, "{report}");
    assert!(report.is_clean(), "{report}");
}

#[test]
fn what_a_slice_names_that_only_y_may_cut_is_not_freed_by_the_books() {
    let device = populated(16);
    let mut surgeon = Surgeon::new(&device);
    let expected = surgeon.directory.entry.totals.live_units;
    let mut cut = 0;
    surgeon.nodes(&mut |header, items| {
        for item in items.iter_mut().filter(|item| header.tree == TreeKind::Directory && item.key.ends_with(b"file 3"))
        {
            let Ok(Entry::File(mut inode)) = Entry::decode(&item.value, &item.references) else { continue };
            let Body::Slices(slices) = &mut inode.body else { panic!("slices") };
            // It seems to begin further on in its extent than there is of it.
            slices[0].0.extent_block += slices[0].1.stored_bytes / (8 * UNIT);
            (item.value, item.references) = Entry::File(inode).encode().unwrap();
            cut += 1;
        }
    });
    assert!(cut > 0);
    let device = with_wrong_row(surgeon);
    is_found(&device, findings::SLICES);
    let report = repair(&device, false);
    assert!(report.repaired.iter().any(|finding| finding.kind == findings::TABLE_LIVE), "{report}");
    assert_eq!((report.exit_code(), report.count(findings::SLICES) > 0), (5, true), "{report}");
    assert_eq!(Surgeon::new(&device).directory.entry.totals.live_units, expected);
}

#[test]
fn a_repair_that_fails_says_so_if_it_had_put_something_right() {
    let device = populated(16);
    let mut surgeon = Surgeon::new(&device);
    surgeon.nodes(&mut |header, items| {
        for item in items.iter_mut().filter(|item| header.tree == TreeKind::Directory && item.key.ends_with(b"other")) {
            let Ok(Entry::Directory(mut directory)) = Entry::decode(&item.value, &item.references) else { continue };
            directory.totals.files += 1;
            (item.value, item.references) = Entry::Directory(directory).encode().unwrap();
        }
    });
    let device = with_wrong_row(surgeon);
    is_found(&device, findings::TOTALS);
    let superblock = Surgeon::new(&device).superblock;
    let fails = |slot: u64| {
        let device = SimulatedDevice::from_image(device.image(), 512, 1);
        device.inject(Fault::WriteError { offset: slot });
        let error = repair_disk(&Disk::new(Arc::new(device.clone())), &settings(false)).unwrap_err();
        let wrong = check(&device).count(findings::TABLE_LIVE);
        (error.is::<SomeRepaired>(), wrong)
    };
    // The first step publishes in the other slot, the second in this one.
    assert_eq!(fails(superblock.next().slot_positions()[0]), (false, 1));
    assert_eq!(fails(superblock.slot_positions()[0]), (true, 0));
}
