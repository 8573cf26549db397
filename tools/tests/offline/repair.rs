//! Every kind of inconsistency, made through the layout's own encoders: found by its number, repaired, and gone in a second run (INV-34). What was not damaged is as before.
//!
//! Shows also: a repair that a power cut interrupts at any write leaves a store that a second repair brings to the same.
use crate::common::CX;
use crate::fsck_bench::*;
use envoyfs_engine::device::SimulatedDevice;
use envoyfs_layout::directory_page::Place;
use envoyfs_layout::inode::Inode;
use envoyfs_layout::key::DirectoryKey;
use envoyfs_layout::node::TreeKind;
use envoyfs_layout::system_page::ListPage;
use envoyfs_layout::{Body, Entry, Hlc, Totals, flags};
use envoyfs_namespace::api::*;
use envoyfs_tools::fsck::findings::{self, Kind, Severity};

/// The damaged store has this finding; `-p` (or `-y`) repairs it; then it is clean, mounts, and has this tree.
fn is_repaired(device: &SimulatedDevice, kind: &Kind, all: bool) -> Tree {
    let report = check(device);
    assert!(numbers(&report).contains(&kind.number), "F{} expected:\n{report}", kind.number);
    let before = device.image().to_bytes();
    if all {
        let report = repair(device, false);
        assert!(numbers(&report).contains(&kind.number), "-p must leave what -y is for:\n{report}");
        assert_eq!(report.exit_code() & 4, 4);
    }
    let report = repair(device, all);
    assert!(report.is_clean(), "F{}:\n{report}", kind.number);
    assert_eq!(report.exit_code(), 1);
    assert!(device.image().to_bytes() != before);
    let report = check(device);
    let worst = report.findings.iter().map(|finding| finding.kind.severity).max();
    assert!(worst <= Some(Severity::Note), "second run:\n{report}");
    assert_eq!(repair(device, true).exit_code(), 0, "a second run finds nothing");
    tree_of(device)
}

fn tree_of(device: &SimulatedDevice) -> Tree {
    let mounted = mount(device);
    let tree = mounted.tree();
    mounted.close();
    let report = check(device);
    assert!(report.is_clean(), "after a mount:\n{report}");
    tree
}

/// The tree of a good copy.
fn good(device: &SimulatedDevice) -> Tree {
    tree_of(&SimulatedDevice::from_image(device.image(), 512, 1))
}

fn assert_same(found: &Tree, expected: &Tree) {
    for (path, seen) in expected {
        assert_eq!(found.get(path), Some(seen), "{path}");
    }
    assert_eq!(found.len(), expected.len());
}

#[test]
fn a_good_store_is_left_as_it_is() {
    let device = populated(12);
    let before = device.image().to_bytes();
    let report = repair(&device, true);
    assert_eq!((report.exit_code(), report.findings.len()), (0, 0), "{report}");
    assert!(device.image().to_bytes() == before, "a good store was written to");
    assert!(report.statistics.shared_objects > 0 && report.statistics.snapshots == 1, "{report}");
}

#[test]
fn wrong_counts_are_set_to_what_was_found() {
    let device = populated(12);
    let expected = good(&device);
    let shared = |page: &envoyfs_layout::system_page::SegmentPage| !page.extra.is_empty();
    let mut surgeon = Surgeon::new(&device);
    let segment = segment_with(&surgeon, shared);
    surgeon.page(segment, |page| page.extra[0].1 += 1);
    assert_same(&is_repaired(&surgeon.device(), findings::COUNT, false), &expected);
    let mut surgeon = Surgeon::new(&device);
    surgeon.page(segment, |page| page.extra.clear());
    assert_same(&is_repaired(&surgeon.device(), findings::COUNT, false), &expected);
}

fn segment_with(surgeon: &Surgeon, of: impl Fn(&envoyfs_layout::system_page::SegmentPage) -> bool) -> u32 {
    let rows = surgeon.directory.table.iter().filter(|row| row.segment != 0 && !row.metadata.is_none());
    rows.map(|row| {
        let mut bytes = vec![0; row.metadata.stored_bytes as usize];
        surgeon.image.read(surgeon.offset(row.metadata.container, row.metadata.units), &mut bytes);
        envoyfs_layout::system_page::SegmentPage::decode(&bytes).unwrap()
    })
    .find(of)
    .unwrap()
    .segment
}

#[test]
fn space_that_is_wrongly_free_or_wrongly_live_is_put_right() {
    let device = populated(12);
    let expected = good(&device);
    let mut surgeon = Surgeon::new(&device);
    let segment = segment_with(&surgeon, |page| page.live.len() > 1);
    surgeon.page(segment, |page| {
        page.live.remove(0);
    });
    assert_same(&is_repaired(&surgeon.device(), findings::NOT_LIVE, false), &expected);

    let mut surgeon = Surgeon::new(&device);
    surgeon.page(segment, |page| page.live.push((490, 8)));
    assert_same(&is_repaired(&surgeon.device(), findings::LEAKED, false), &expected);

    let mut surgeon = Surgeon::new(&device);
    surgeon.page(segment, |page| page.extra.push((500, 3)));
    assert_same(&is_repaired(&surgeon.device(), findings::COUNT_ORPHAN, false), &expected);

    let mut surgeon = Surgeon::new(&device);
    let row = surgeon.directory.table.iter_mut().find(|row| row.segment == segment).unwrap();
    row.live_units += 1;
    surgeon.publish();
    assert_same(&is_repaired(&surgeon.device(), findings::TABLE_LIVE, false), &expected);
}

#[test]
fn a_damaged_segment_page_is_made_again() {
    let device = populated(12);
    let expected = good(&device);
    let surgeon = Surgeon::new(&device);
    let rows = surgeon.directory.table.iter().filter(|row| row.segment != 0 && !row.metadata.is_none());
    for row in rows {
        let damaged = Surgeon::new(&device).device();
        let at = surgeon.offset(row.metadata.container, row.metadata.units) + 40;
        damaged.inject(envoyfs_engine::device::Fault::FlipBits { offset: at, mask: 4 });
        assert_same(&is_repaired(&damaged, findings::SYSTEM_PAGE, false), &expected);
    }
}

/// Changes the first name that `change` says it changed.
fn change_name(device: &SimulatedDevice, mut change: impl FnMut(&DirectoryKey, &mut Entry) -> bool) -> SimulatedDevice {
    let mut surgeon = Surgeon::new(device);
    let mut done = false;
    surgeon.nodes(&mut |header, items| {
        if header.tree != TreeKind::Directory || header.level > 0 {
            return;
        }
        for item in items.iter_mut() {
            let key = DirectoryKey::decode(&item.key).unwrap();
            let mut entry = Entry::decode(&item.value, &item.references).unwrap();
            if !done && change(&key, &mut entry) {
                done = true;
                (item.value, item.references) = entry.encode().unwrap();
            }
        }
    });
    assert!(done, "nothing to change");
    surgeon.device()
}

#[test]
fn wrong_totals_flags_and_births_are_computed_again() {
    let device = populated(12);
    let expected = good(&device);
    let damaged = change_name(&device, |key, entry| match entry {
        Entry::Directory(directory) if key.name == b"inner" => {
            directory.totals = Totals { bytes: 1, files: 77, ..directory.totals };
            true
        }
        _ => false,
    });
    assert_same(&is_repaired(&damaged, findings::TOTALS, false), &expected);
    let damaged = change_name(&device, |key, entry| match entry {
        Entry::Directory(directory) if key.name == b"inner" => {
            directory.root.flags ^= flags::LINKS;
            true
        }
        _ => false,
    });
    assert_same(&is_repaired(&damaged, findings::FLAGS, false), &expected);
    let mut surgeon = Surgeon::new(&device);
    surgeon.nodes(&mut |header, items| {
        if header.tree == TreeKind::Directory && items.iter().any(|item| item.key.ends_with(b"symbolic")) {
            header.birth = Hlc(header.birth.0 + 2_000_000);
        }
    });
    assert_same(&is_repaired(&surgeon.device(), findings::BIRTH_ORDER, false), &expected);
}

#[test]
fn link_counts_and_names_without_a_file_are_put_right() {
    let device = populated(12);
    let expected = good(&device);
    let mut surgeon = Surgeon::new(&device);
    surgeon.nodes(&mut |header, items| {
        if header.tree == TreeKind::Links && header.level == 0 {
            let mut inode = Inode::decode(&items[0].value, &items[0].references).unwrap();
            inode.nlink += 5;
            (items[0].value, items[0].references) = inode.encode().unwrap();
        }
    });
    assert_same(&is_repaired(&surgeon.device(), findings::LINK_COUNT, false), &expected);
    let mut surgeon = Surgeon::new(&device);
    surgeon.nodes(&mut |header, items| {
        if header.tree == TreeKind::Links && header.level == 0 {
            items.clear();
        }
    });
    let left = is_repaired(&surgeon.device(), findings::DANGLING_LINK, true);
    assert!(left.contains_key("/top/file 1") && !left.contains_key("/three"), "{:?}", left.keys());
}

#[test]
fn names_under_a_wrong_hash_and_numbers_used_twice_are_put_right() {
    let device = populated(12);
    let expected = good(&device);
    let mut surgeon = Surgeon::new(&device);
    surgeon.nodes(&mut |header, items| {
        if header.tree == TreeKind::Directory && header.level == 0 && items.len() > 10 {
            let last = items.last_mut().unwrap();
            let mut key = DirectoryKey::decode(&last.key).unwrap();
            key.hash += 256;
            last.key = key.encode();
        }
    });
    assert_same(&is_repaired(&surgeon.device(), findings::NAME_HASH, false), &expected);
    let mut taken = None;
    let damaged = change_name(&device, |key, entry| match entry {
        Entry::File(inode) if key.name.len() == 1 => {
            let other = *taken.get_or_insert(inode.number);
            std::mem::replace(&mut inode.number, other) != other
        }
        _ => false,
    });
    let found = is_repaired(&damaged, findings::NUMBER_TWICE, false);
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    let contents = |tree: &Tree| tree.values().map(|seen| seen.contents.clone()).collect::<Vec<_>>();
    assert_eq!(contents(&found), contents(&expected));
}

#[test]
fn what_does_not_decode_is_removed_and_keys_out_of_order_are_sorted() {
    let device = populated(12);
    let expected = good(&device);
    let mut surgeon = Surgeon::new(&device);
    surgeon.nodes(&mut |header, items| {
        if header.tree == TreeKind::Directory && header.level == 0 {
            for item in items.iter_mut().filter(|item| item.key.ends_with(b"file 1")) {
                item.value[0] = 9;
            }
        }
    });
    let left = is_repaired(&surgeon.device(), findings::ITEM, true);
    assert!(!left.contains_key("/top/file 1") && left.get("/top/file 2") == expected.get("/top/file 2"));
    let mut surgeon = Surgeon::new(&device);
    surgeon.nodes(&mut |header, items| {
        if header.tree == TreeKind::Directory && header.level == 0 && items.len() > 10 {
            items.swap(2, 5);
        }
    });
    assert_same(&is_repaired(&surgeon.device(), findings::TREE_ORDER, true), &expected);
}

#[test]
fn a_file_with_damaged_blocks_keeps_the_others() {
    let device = populated(12);
    let expected = good(&device);
    let mut surgeon = Surgeon::new(&device);
    let mut blocks = Vec::new();
    surgeon.nodes(&mut |header, items| {
        for item in items.iter().filter(|item| header.tree == TreeKind::Directory && item.key.ends_with(b"file 4")) {
            if let Ok(Entry::File(Inode { body: Body::Slices(slices), .. })) =
                Entry::decode(&item.value, &item.references)
            {
                blocks.extend(slices);
            }
        }
    });
    let (slice, extent) = &blocks[0];
    assert!(slice.blocks >= 4, "{slice:?}");
    let at = surgeon.position(extent.oid) + 4096 + 100;
    let damaged = surgeon.device();
    damaged.inject(envoyfs_engine::device::Fault::FlipBits { offset: at, mask: 1 });
    let report = check(&damaged);
    assert!(report.to_string().contains("F500: /top/file 4 at byte 4096"), "{report}");
    let left = is_repaired(&damaged, findings::DATA_CHECKSUM, true);
    let (was, is) = (&expected["/top/file 4"].contents, &left["/top/file 4"].contents);
    assert_eq!((&is[..4096], &is[8192..]), (&was[..4096], &was[8192..]));
    assert!(is[4096..8192].iter().all(|byte| *byte == 0));
    let others = |tree: &Tree| {
        tree.iter()
            .filter(|(path, _)| !path.ends_with("file 4"))
            .map(|(p, s)| (p.clone(), s.contents.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(others(&left), others(&expected));
}

#[test]
fn a_directory_whose_node_is_lost_becomes_empty_and_the_rest_stays() {
    let device = populated(12);
    let expected = good(&device);
    let surgeon = Surgeon::new(&device);
    let mut root = None;
    let mut probe = Surgeon::new(&device);
    probe.nodes(&mut |header, items| {
        for item in items.iter().filter(|item| header.tree == TreeKind::Directory && item.key.ends_with(b"other")) {
            if let Ok(Entry::Directory(directory)) = Entry::decode(&item.value, &item.references) {
                root = Some(directory.root);
            }
        }
    });
    let damaged = surgeon.device();
    let offset = surgeon.position(root.unwrap().oid) + 70;
    damaged.inject(envoyfs_engine::device::Fault::FlipBits { offset, mask: 1 });
    let left = is_repaired(&damaged, findings::NODE_CHECKSUM, true);
    assert!(left.contains_key("/other") && !left.contains_key("/other/1"), "{:?}", left.keys());
    assert_eq!(left.get("/top/file 4"), expected.get("/top/file 4"));
    assert_eq!(left.get("/fork/inner/sparse"), expected.get("/fork/inner/sparse"));
}

#[test]
fn records_in_the_log_survive_a_repair_of_the_checkpoint() {
    let device = populated(12);
    let mounted = mount(&device);
    mounted.file(InodeId::ROOT, "in the log", &[5; 10_000]);
    mounted.ns.sync().unwrap();
    let expected = mounted.tree();
    drop(mounted.ns);
    mounted.engine.close().unwrap();
    let mut surgeon = Surgeon::new(&device);
    let segment = segment_with(&surgeon, |page| !page.extra.is_empty());
    surgeon.page(segment, |page| page.extra.clear());
    assert!(numbers(&check(&surgeon.device())).contains(&200));
    assert_same(&is_repaired(&surgeon.device(), findings::COUNT, false), &expected);
    // The same with a wrong node: the log is replayed first.
    let damaged = change_name(&device, |key, entry| match entry {
        Entry::Directory(directory) if key.name == b"inner" => {
            directory.totals.files += 3;
            true
        }
        _ => false,
    });
    assert_same(&is_repaired(&damaged, findings::TOTALS, false), &expected);
}

#[test]
fn a_repair_cut_at_any_write_can_be_finished() {
    let device = populated(12);
    let mut surgeon = Surgeon::new(&device);
    let segment = segment_with(&surgeon, |page| !page.extra.is_empty());
    surgeon.page(segment, |page| page.extra.clear());
    let damaged = change_name(&surgeon.device(), |key, entry| match entry {
        Entry::Directory(directory) if key.name == b"inner" => {
            directory.totals.files += 3;
            true
        }
        _ => false,
    });
    damaged.inject(envoyfs_engine::device::Fault::FlipBits { offset: 200, mask: 1 });
    let image = damaged.image();
    let whole = SimulatedDevice::from_image(image.clone(), 512, 1);
    assert!(repair(&whole, true).is_clean());
    let expected = tree_of(&SimulatedDevice::from_image(whole.image(), 512, 1));
    let ios = writes(&whole);
    assert!(ios > 20, "{ios}");
    for cut in 0..ios {
        let device = SimulatedDevice::from_image(image.clone(), 512, cut);
        device.crash_after(cut);
        let disk = envoyfs_tools::fsck::disk::Disk::new(std::sync::Arc::new(device.clone()));
        let _cut = envoyfs_tools::fsck::repair::repair_disk(&disk, &settings(true));
        let device = device.crash(cut);
        let report = repair(&device, true);
        assert!(report.is_clean(), "cut {cut} of {ios}:\n{report}");
        assert_same(&tree_of(&device), &expected);
    }
}

#[test]
fn a_file_whose_names_were_all_below_a_lost_directory_gets_one_in_the_top_directory() {
    let device = empty(12, 512);
    let mounted = mount(&device);
    let deep = mounted.directory(mounted.directory(InodeId::ROOT, "a"), "deep");
    let file = mounted.file(deep, "one", &[9; 9000]);
    mounted.act(|| mounted.ns.link(&crate::common::CX, file, deep, b"two"));
    mounted.file(deep, "single", &[7; 5000]);
    mounted.file(InodeId::ROOT, "stays", &[5; 5000]);
    mounted.close();
    let mut root = None;
    Surgeon::new(&device).nodes(&mut |header, items| {
        for item in items.iter().filter(|item| header.tree == TreeKind::Directory && item.key.ends_with(b"deep")) {
            if let Ok(Entry::Directory(directory)) = Entry::decode(&item.value, &item.references) {
                root = Some(directory.root);
            }
        }
    });
    let mut surgeon = Surgeon::new(&device);
    surgeon.without_copies();
    surgeon.flip(surgeon.position(root.unwrap().oid) + 70);
    let damaged = surgeon.device();
    let report = check(&damaged);
    assert!(report.to_string().contains("below it: 1 files and 2 names"), "{report}");
    let left = is_repaired(&damaged, findings::NODE_CHECKSUM, true);
    let found: Vec<&String> = left.keys().filter(|path| path.starts_with("/lost+found #")).collect();
    assert_eq!(found.len(), 1, "{:?}", left.keys());
    let seen = &left[found[0]];
    assert_eq!((seen.contents.as_slice(), seen.nlink), (&[9; 9000][..], 1));
    assert!(left.contains_key("/stays") && !left.contains_key("/a/deep/single"), "{:?}", left.keys());
}

/// Rows of a list page, and the page after it.
fn list(surgeon: &Surgeon, place: &Place) -> ListPage {
    let mut bytes = vec![0; place.stored_bytes as usize];
    surgeon.image.read(surgeon.offset(place.container, place.units), &mut bytes);
    ListPage::decode(&bytes).unwrap().0
}

#[test]
fn what_was_moved_is_found_when_the_page_that_says_where_is_damaged() {
    let device = cleaned();
    let expected = good(&device);
    let surgeon = Surgeon::new(&device);
    let index = surgeon.directory.entry.orphaned_segments;
    let ListPage::OrphanIndex(parts) = list(&surgeon, &index) else { panic!("an index") };
    let ListPage::OrphanedSegments(rows) = list(&surgeon, &parts[0].page) else { panic!("a list") };
    let pages: Vec<Place> = rows.iter().map(|row| row.page).filter(|page| !page.is_none()).collect();
    assert!(pages.len() > 3, "{rows:?}");
    let step = pages.len().div_ceil(6);
    for page in pages.iter().step_by(step).chain([&parts[0].page, &index]) {
        let mut surgeon = Surgeon::new(&device);
        surgeon.flip(surgeon.offset(page.container, page.units) + 20);
        assert_same(&is_repaired(&surgeon.device(), findings::SYSTEM_PAGE, false), &expected);
    }
}

/// A repair that writes shared nodes anew writes each once: the forks share afterwards what they shared before. (Else one bad block below a thousand forks would take a thousand times the room.)
#[test]
fn what_forks_share_is_written_anew_once() {
    let device = empty(16, 512);
    let mounted = mount(&device);
    let top = mounted.directory(InodeId::ROOT, "top");
    // Leaves of its own, so that trees and nodes inside them are met again.
    for number in 0..300 {
        mounted.file(top, &format!("a file with a longer name {number}"), &[1; 10]);
    }
    let inner = mounted.directory(top, "inner");
    mounted.file(inner, "bad", &[0xA7; 8192]);
    mounted.ns.checkpoint().unwrap();
    for number in 0..6 {
        mounted.act(|| mounted.ns.fork(&CX, top, InodeId::ROOT, format!("fork {number}").as_bytes()));
    }
    mounted.close();
    // What the names `top` and `fork n` lead to, and how much lives.
    let shared = |device: &SimulatedDevice| {
        let mut roots = Vec::new();
        let mut surgeon = Surgeon::new(device);
        let live = surgeon.directory.entry.totals.live_units;
        surgeon.nodes(&mut |header, items| {
            for item in items.iter().filter(|_| header.tree == TreeKind::Directory && header.level == 0) {
                let root = match Entry::decode(&item.value, &item.references) {
                    Ok(Entry::Directory(directory)) => directory.root,
                    Ok(Entry::Realm(realm)) => realm.root,
                    _ => continue,
                };
                if item.key.ends_with(b"top") || item.key[..item.key.len() - 1].ends_with(b"fork ") {
                    roots.push(root.oid);
                }
            }
        });
        (roots, live)
    };
    let (before, live_before) = shared(&device);
    assert!(before.len() == 7 && before.iter().all(|oid| *oid == before[0]), "{before:?}");
    let image = device.image();
    let mut held = vec![0; 4096];
    let at = (0..image.size_bytes()).step_by(4096).find(|at| {
        image.read(*at, &mut held);
        held.iter().all(|byte| *byte == 0xA7)
    });
    device.inject(envoyfs_engine::device::Fault::FlipBits { offset: at.unwrap() + 9, mask: 4 });
    is_repaired(&device, findings::DATA_CHECKSUM, true);
    let (after, live_after) = shared(&device);
    assert!(after.len() == 7 && after.iter().all(|oid| *oid == after[0]), "{after:?}");
    assert_ne!(after[0], before[0], "it had to be written anew");
    assert!(live_after <= live_before + 8, "{live_before} units lived, {live_after} live");
}

/// Where the data of an acknowledged record lies may have been told before the log's start; and nothing of it lives before the next checkpoint.
#[test]
fn a_repair_of_the_books_keeps_what_only_records_of_the_log_name() {
    let device = empty(12, 512);
    let mounted = mount(&device);
    mounted.file(InodeId::ROOT, "dies", &[1; 9000]);
    mounted.file(InodeId::ROOT, "stays", &[2; 300]);
    mounted.ns.checkpoint().unwrap();
    mounted.ns.unlink(&crate::common::CX, InodeId::ROOT, b"dies").unwrap();
    mounted.ns.checkpoint().unwrap();
    // Into the segment that was begun, and in which nothing lives any more.
    mounted.file(InodeId::ROOT, "logged", &[3; 9000]);
    mounted.ns.sync().unwrap();
    drop(mounted.ns);
    mounted.engine.close().unwrap();
    // A recovery ends that segment, and publishes no checkpoint of its own.
    let mounted = mount(&device);
    let expected = mounted.tree();
    drop(mounted);
    let mut surgeon = Surgeon::new(&device);
    let row = surgeon.directory.table.iter_mut().find(|row| row.segment != 0 && row.live_units > 0).unwrap();
    row.live_units += 1;
    surgeon.publish();
    let device = surgeon.device();
    let report = repair(&device, false);
    assert_eq!(report.exit_code(), 1, "{report}");
    let report = check(&device);
    assert!(report.is_clean(), "{report}");
    let mounted = mount(&device);
    // What is written now does not come to lie on it.
    for number in 0..20 {
        mounted.file(InodeId::ROOT, &format!("{number}"), &[4; 60_000]);
    }
    mounted.ns.checkpoint().unwrap();
    mounted.close();
    let found = tree_of(&device);
    for (path, seen) in &expected {
        assert_eq!(found.get(path), Some(seen), "{path}");
    }
}

#[test]
fn a_store_in_which_errors_were_left_is_checked_again_until_there_are_none() {
    let device = populated(12);
    let mounted = mount(&device);
    mounted.file(InodeId::ROOT, "all ones", &[0x11; 8192]);
    mounted.close();
    let mut surgeon = Surgeon::new(&device);
    let blocks = surgeon.find(&[0x11; 4096]);
    surgeon.flip(blocks[0] + 4100);
    let device = surgeon.device();
    let is_marked = |device: &SimulatedDevice| Surgeon::new(device).superblock.errors;
    assert!(!is_marked(&device));
    let report = repair(&device, false);
    assert!(report.exit_code() & 4 != 0 && is_marked(&device), "{report}");
    is_found(&device, findings::ERRORS_LEFT);
    // A mount does not forget it.
    mount(&device).close();
    assert!(is_marked(&device));
    let report = repair(&device, true);
    assert!(report.is_clean() && report.exit_code() == 1 && !is_marked(&device), "{report}");
    assert!(!numbers(&check(&device)).contains(&findings::ERRORS_LEFT.number));
}
