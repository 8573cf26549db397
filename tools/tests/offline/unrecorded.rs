//! Checkpoints that were published without a record in the log (decision 0008), since the ring had no room: a mount and a rebuild find the same tree, wherever power failed in such a publication or since.
//!
//! A rebuild knows of a publication by its record alone. So it is told of before space is reused: by the publication itself, or by the next mount if that was cut short.
use crate::common::{CX, Random};
use crate::fsck_bench::*;
use envoyfs_engine::device::SimulatedDevice;
use envoyfs_engine::store::{Batch, Store as _};
use envoyfs_layout::node::{NodeBuilder, Owner, TreeKind};
use envoyfs_layout::superblock::Superblock;
use envoyfs_layout::{Entry, Hlc, ReferenceKind};
use envoyfs_namespace::api::*;

/// Superblocks and both system areas zeroed; pages of the store's own, which a rebuild does not look at, stay.
fn without_indexes(device: &SimulatedDevice, seed: u64) -> SimulatedDevice {
    let superblock = envoyfs_engine::superblock::open(device).unwrap().superblock;
    let mut image = device.image();
    for at in Superblock::positions(superblock.size) {
        image.zero(at, 4096);
    }
    for area in [superblock.area_a, superblock.area_b] {
        image.zero(area, 2 * superblock.area_slot_bytes);
    }
    SimulatedDevice::from_image(image, 512, seed)
}

/// Small changes, each in a block of its own; then nodes that nothing leads to, whose segments take what is left of the ring.
fn crowd_ring(mounted: &Mounted) {
    let log = &mounted.engine.metrics().log;
    let note = mounted.file(InodeId::ROOT, "note", &[1; 10]);
    while log.used_blocks.get() < log.ring_blocks.get() / 4 * 3 {
        mounted.write(note, 0, &log.used_blocks.get().to_le_bytes());
        mounted.ns.sync().unwrap();
    }
    mounted.ns.unlink(&CX, InodeId::ROOT, b"note").unwrap();
    let mut builder = NodeBuilder::new(TreeKind::Extents, 0, Hlc(8), Owner::default());
    for item in 0..15_u32 {
        builder.push(&item.to_le_bytes(), &[7; 1000], &[]).unwrap();
    }
    let node = builder.finish();
    for _ in 0..4000 {
        let end = mounted.engine.end();
        mounted.engine.append_node(Batch::Current, ReferenceKind::Node, 0, Hlc(8), &node).unwrap();
        // What opened a segment stands in a block of its own.
        mounted.engine.commit(mounted.engine.end()).unwrap();
        let metrics = mounted.engine.metrics();
        if end == mounted.engine.end() && metrics.log.used_blocks.get() >= metrics.log.ring_blocks.get() {
            return;
        }
    }
    panic!("the ring does not get full");
}

fn unrecorded(mounted: &Mounted) -> u64 {
    mounted.engine.metrics().checkpoint.unrecorded.get()
}

/// A tree of which much is about to die, with a full ring: the next checkpoint has no record.
fn start() -> (SimulatedDevice, Mounted) {
    let device = empty(32, 128);
    let mounted = mount(&device);
    let mut random = Random(11);
    for number in 0..8 {
        mounted.file(InodeId::ROOT, &format!("old {number}"), &random.bytes(60_000));
    }
    mounted.ns.checkpoint().unwrap();
    for number in 0..7 {
        mounted.act(|| mounted.ns.unlink(&CX, InodeId::ROOT, format!("old {number}").as_bytes()));
    }
    mounted.file(InodeId::ROOT, "new", &random.bytes(20_000));
    mounted.ns.sync().unwrap();
    crowd_ring(&mounted);
    (device, mounted)
}

/// Fills what is free, so that whatever may be reused is.
fn overwrite(mounted: &Mounted, name: &str) {
    let mut random = Random(name.len() as u64);
    for number in 0..40 {
        mounted.file(InodeId::ROOT, &format!("{name} {number}"), &random.bytes(200_000));
    }
    mounted.ns.sync().unwrap();
}

fn assert_rebuilt(device: &SimulatedDevice, expected: &Tree, what: &str) {
    let device = without_indexes(device, 1);
    let report = rebuild(&device);
    assert!(report.is_clean(), "{what}:\n{report}");
    let mounted = mount(&device);
    let found = mounted.tree();
    let other = |a: &Tree, b: &Tree| {
        a.iter().filter(|(path, seen)| b.get(*path) != Some(*seen)).map(|(path, _)| path.clone()).collect::<Vec<_>>()
    };
    let (lost, more) = (other(expected, &found), other(&found, expected));
    assert!(lost.is_empty() && more.is_empty(), "{what}: lost {lost:?}, not expected {more:?}\n{report}");
    mounted.close();
    let report = check(&device);
    assert!(report.is_clean(), "{what}, after a mount:\n{report}");
}

fn ios_of_a_publication() -> u64 {
    let (device, mounted) = start();
    let before = writes(&device);
    mounted.ns.checkpoint().unwrap();
    assert_eq!(unrecorded(&mounted), 1, "it had a record");
    writes(&device) - before
}

fn step() -> usize {
    std::env::var("UNRECORDED_STEP").ok().and_then(|step| step.parse().ok()).unwrap_or(1)
}

#[test]
fn a_publication_without_a_record_that_power_cut_short_is_rebuilt_and_mounted_alike() {
    let ios = ios_of_a_publication();
    for cut in (0..=ios).step_by(step()) {
        let (device, mounted) = start();
        let expected = mounted.tree();
        device.crash_after(cut);
        let _cut = mounted.ns.checkpoint();
        drop(mounted);
        let device = device.crash(cut);
        assert_rebuilt(&device, &expected, &format!("cut {cut} of {ios}"));
        let mounted = mount(&device);
        assert!(mounted.tree() == expected, "cut {cut} of {ios}: mounted");
        // What the mount has published is not over what a rebuild would start from.
        drop(mounted);
        let device = device.crash(cut);
        assert_rebuilt(&device, &expected, &format!("cut {cut} of {ios}, then a mount that died"));
    }
}

/// The publication is durable, and was told of in the log or not: the mount after it reuses what it freed.
#[test]
fn what_reuses_the_space_that_a_publication_without_a_record_freed_is_rebuilt() {
    let ios = ios_of_a_publication();
    for cut in (0..=ios).rev().step_by(step()) {
        let (device, mounted) = start();
        device.crash_after(cut);
        let _cut = mounted.ns.checkpoint();
        drop(mounted);
        let device = device.crash(cut);
        let mounted = mount(&device);
        overwrite(&mounted, "since");
        let expected = mounted.tree();
        drop(mounted);
        let device = device.crash(cut ^ 1);
        assert_rebuilt(&device, &expected, &format!("cut {cut} of {ios}, then files"));
    }
}

/// Several in a row, and one store that goes on serving.
#[test]
fn after_publications_without_a_record_a_rebuild_finds_what_was_synced() {
    let (device, mounted) = start();
    for round in 0..3 {
        mounted.ns.checkpoint().unwrap();
        assert_eq!(unrecorded(&mounted), round + 1);
        assert_rebuilt(&device, &mounted.tree(), &format!("round {round}"));
        mounted.act(|| {
            let name = if round == 0 { "old 7".to_string() } else { format!("round {}", round - 1) };
            mounted.ns.unlink(&CX, InodeId::ROOT, name.as_bytes())
        });
        mounted.file(InodeId::ROOT, &format!("round {round}"), &[round as u8; 90_000]);
        mounted.ns.sync().unwrap();
        assert_rebuilt(&device, &mounted.tree(), &format!("round {round}, with a log"));
        crowd_ring(&mounted);
    }
    mounted.ns.checkpoint().unwrap();
    overwrite(&mounted, "last");
    assert_rebuilt(&device, &mounted.tree(), "at the end");
}

/// A repair that writes the trees anew publishes without a record, too.
#[test]
fn after_a_repair_of_the_trees_a_rebuild_does_not_go_back_behind_it() {
    let device = populated(12);
    // A node that only `/other` leads to.
    let mut other = None;
    let mut surgeon = Surgeon::new(&device);
    surgeon.every_node(&mut |header, items| {
        for item in items.iter().filter(|_| header.tree == TreeKind::Directory && header.level == 0) {
            if let Ok(Entry::Directory(directory)) = Entry::decode(&item.value, &item.references)
                && item.key.ends_with(b"other")
            {
                other = Some(directory.root);
            }
        }
    });
    surgeon.flip(surgeon.position(other.unwrap().oid) + 70);
    let device = surgeon.device();
    let report = repair(&device, true);
    assert!(report.is_clean() && !report.repaired.is_empty(), "{report}");
    let mounted = mount(&device);
    for round in 0..3 {
        mounted.file(InodeId::ROOT, &format!("since {round}"), &[round; 150_000]);
        mounted.ns.sync().unwrap();
        assert_rebuilt(&device, &mounted.tree(), &format!("round {round}"));
    }
}
