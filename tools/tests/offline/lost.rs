//! What hangs below a node that is lost: directories, and names whose directory lost its root, are found in `lost+found` of the view's top directory with everything below.

use crate::common::{CX, Random};
use crate::fsck_bench::*;
use envoyfs_engine::MarkOptions;
use envoyfs_engine::device::SimulatedDevice;
use envoyfs_layout::node::TreeKind;
use envoyfs_layout::{Entry, Oid, Reference};
use envoyfs_namespace::api::*;
use envoyfs_tools::fsck::findings;
use std::ops::ControlFlow;

/// `/keep`, and `/a/b` with trees of their own: subdirectories with files, in one of them a hard link to a file outside and a fork.
fn grown(names_in_b: usize) -> SimulatedDevice {
    let device = empty(16, 512);
    let mounted = mount(&device);
    let mut random = Random(11);
    let keep = mounted.directory(InodeId::ROOT, "keep");
    let linked = mounted.file(keep, "linked", &random.bytes(7000));
    let b = mounted.directory(mounted.directory(InodeId::ROOT, "a"), "b");
    for number in 0..3 {
        let sub = mounted.directory(b, &format!("sub {number}"));
        let deep = mounted.directory(sub, "deep");
        for file in 0..20_usize {
            mounted.file(sub, &format!("f{file}"), &random.bytes(file * 900));
            mounted.file(deep, &format!("d{file}"), &random.bytes(5000));
        }
        if number == 1 {
            mounted.act(|| mounted.ns.link(&CX, linked, deep, b"link"));
            mounted.ns.checkpoint().unwrap();
            mounted.act(|| mounted.ns.fork(&CX, keep, sub, b"fork of keep"));
        }
    }
    for number in 0..names_in_b {
        mounted.file(b, &format!("name {number}"), &random.bytes(200));
    }
    mounted.ns.checkpoint().unwrap();
    // Shared with a fork: its nodes have two references, whoever loses one.
    let sub = mounted.ns.lookup(&CX, b, b"sub 2").unwrap().id;
    mounted.act(|| mounted.ns.fork(&CX, sub, InodeId::ROOT, b"fork of sub 2"));
    mounted.close();
    device
}

/// The root of `/a/b`, and of the directories in it.
fn roots(device: &SimulatedDevice) -> (Reference, Vec<Oid>) {
    let (mut root, mut below) = (None, Vec::new());
    Surgeon::new(device).nodes(&mut |header, items| {
        for item in items.iter().filter(|_| header.tree == TreeKind::Directory && header.level == 0) {
            if let Ok(Entry::Directory(directory)) = Entry::decode(&item.value, &item.references) {
                match item.key.ends_with(b"b") {
                    true => root = Some(directory.root),
                    false if item.key.ends_with(b"sub 0") => below.push(directory.root.oid),
                    false => {}
                }
            }
        }
    });
    (root.unwrap(), below)
}

/// A tree without what is the same for no two stores: numbers and times of directories.
fn below<'t>(tree: &'t Tree, top: &str) -> Vec<(String, &'t [u8])> {
    let inside = tree.iter().filter_map(|(path, seen)| Some((path.strip_prefix(top)?.to_string(), seen)));
    inside.map(|(path, seen)| (path, seen.contents.as_slice())).collect()
}

fn mended(device: &SimulatedDevice) -> Tree {
    is_found(device, findings::NODE_CHECKSUM);
    let report = repair(device, true);
    assert_eq!(report.exit_code(), 1, "{report}");
    assert!(check(device).is_clean() && repair(device, true).exit_code() == 0, "second run:\n{}", check(device));
    let mounted = mount(device);
    let tree = mounted.tree();
    mounted.close();
    tree
}

fn damaged(device: &SimulatedDevice, reference: &Reference) -> SimulatedDevice {
    let mut surgeon = Surgeon::new(device);
    surgeon.without_copies();
    surgeon.flip(surgeon.position(reference.oid) + 70);
    surgeon.device()
}

#[test]
fn directories_below_a_lost_one_are_found_with_everything_in_them() {
    let device = grown(3);
    let before = {
        let copy = SimulatedDevice::from_image(device.image(), 512, 1);
        let mounted = mount(&copy);
        let tree = mounted.tree();
        mounted.close();
        tree
    };
    let (root, _) = roots(&device);
    let device = damaged(&device, &root);
    let after = mended(&device);
    let tops: Vec<&String> =
        after.keys().filter(|path| path.strip_prefix("/lost+found/").is_some_and(|rest| !rest.contains('/'))).collect();
    // The third is shared with a fork, whose name leads to it: nothing of it is lost.
    assert!(tops.len() >= 2 && tops.iter().all(|top| top.starts_with("/lost+found/#")), "{tops:?}");
    for number in [0, 1] {
        let lost = below(&before, &format!("/a/b/sub {number}/"));
        // The link's other name is elsewhere; which realm's file it named is not known.
        let lost: Vec<_> = lost.into_iter().filter(|(path, _)| path != "deep/link").collect();
        let is_it = |top: &&&String| below(&after, &format!("{top}/")) == lost;
        assert!(tops.iter().find(is_it).is_some(), "sub {number}: {:?}", after.keys());
    }
    assert_eq!(below(&after, "/fork of sub 2/"), below(&before, "/fork of sub 2/"));
    assert_eq!(below(&after, "/keep/"), below(&before, "/keep/"));
    assert_eq!(after["/keep/linked"].nlink, 1);
}

/// What was found may be shared with anybody: it is freed by its counts, exactly.
#[test]
fn what_was_found_can_be_changed_and_deleted_and_nothing_leaks_or_is_freed_twice() {
    let device = grown(3);
    let (root, _) = roots(&device);
    let device = damaged(&device, &root);
    let after = mended(&device);
    let mounted = mount(&device);
    let found = mounted.ns.lookup(&CX, InodeId::ROOT, b"lost+found").unwrap().id;
    let first = after.keys().find_map(|path| path.strip_prefix("/lost+found/")).unwrap().to_string();
    let top = mounted.ns.lookup(&CX, found, first.as_bytes()).unwrap().id;
    mounted.act(|| mounted.ns.fork(&CX, top, InodeId::ROOT, b"copy"));
    mounted.file(top, "new", &[1; 5000]);
    let copy = mounted.ns.lookup(&CX, InodeId::ROOT, b"copy").unwrap().id;
    mounted.act(|| mounted.ns.unlink(&CX, copy, b"f3"));
    mounted.ns.checkpoint().unwrap();
    mounted.act(|| mounted.ns.delete_tree(&CX, InodeId::ROOT, b"lost+found"));
    let expected = below(&after, &format!("/lost+found/{first}/"));
    let left = mounted.tree();
    let left = below(&left, "/copy/");
    assert_eq!(left.len() + 1, expected.len());
    assert!(left.iter().all(|item| expected.contains(item)));
    for _ in 0..4 {
        mounted.ns.checkpoint().unwrap();
    }
    mounted.engine.ask_mark().unwrap();
    mounted.ns.checkpoint().unwrap();
    let mark = mounted.ns.mark(MarkOptions::default(), &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((mark.counts, mark.leaked_bytes, mark.lost_bytes), (0, 0, 0), "{mark:?}");
    mounted.close();
    assert!(check(&device).is_clean(), "{}", check(&device));
}

/// The root of a directory so large that it has leaves of its own: its names are found, those of files too.
#[test]
fn names_of_a_directory_that_lost_its_root_are_found_in_one_of_its_number() {
    let device = grown(400);
    let (root, _) = roots(&device);
    let device = damaged(&device, &root);
    let after = mended(&device);
    let names =
        |wanted: &str| after.keys().filter(|path| path.starts_with("/lost+found/#") && path.contains(wanted)).count();
    assert_eq!(names("/name "), 400, "{:?}", after.keys().take(20).collect::<Vec<_>>());
    assert_eq!((names("/sub 0/f"), names("/sub 1/deep/d"), names("/sub 2/deep/d")), (20, 20, 20));
}

/// A repair that a power cut ends at any write can be finished, and finds the same.
#[test]
fn a_search_cut_at_any_write_finds_the_same_the_next_time() {
    let device = grown(3);
    let (root, subs) = roots(&device);
    assert_eq!(subs.len(), 1);
    let image = damaged(&device, &root).image();
    let whole = SimulatedDevice::from_image(image.clone(), 512, 1);
    let expected = mended(&whole);
    for cut in (0..writes(&whole)).step_by(3) {
        let device = SimulatedDevice::from_image(image.clone(), 512, cut);
        device.crash_after(cut);
        let disk = envoyfs_tools::fsck::disk::Disk::new(std::sync::Arc::new(device.clone()));
        let _cut = envoyfs_tools::fsck::repair::repair_disk(&disk, &settings(true));
        let device = device.crash(cut);
        let report = repair(&device, true);
        assert!(report.is_clean(), "cut {cut}:\n{report}");
        let mounted = mount(&device);
        assert_eq!(below(&mounted.tree(), "/"), below(&expected, "/"), "cut {cut}");
        mounted.close();
    }
}
