//! Retained checkpoints: what a repair gives up of them it says, what needs no such repair costs none, and what only they led to does not come back as something lost.
use crate::common::{CX, Random};
use crate::fsck_bench::*;
use envoyfs_engine::HistoryPolicy;
use envoyfs_engine::device::{Fault, SimulatedDevice};
use envoyfs_layout::node::TreeKind;
use envoyfs_layout::{Entry, Reference};
use envoyfs_namespace::api::*;
use envoyfs_tools::fsck::findings;
use std::collections::BTreeSet;

/// With `/a/b` and directories below it, and retained checkpoints that had `/deleted` too.
fn with_history() -> SimulatedDevice {
    let device = empty(24, 512);
    let mounted = mount(&device);
    mounted.engine.retain(HistoryPolicy::default());
    let mut random = Random(17);
    let b = mounted.directory(mounted.directory(InodeId::ROOT, "a"), "b");
    for number in 0..3 {
        let sub = mounted.directory(b, &format!("sub {number}"));
        mounted.file(sub, "kept", &random.bytes(9000));
    }
    let deleted = mounted.directory(InodeId::ROOT, "deleted");
    let below = mounted.directory(deleted, "below");
    for number in 0..5 {
        mounted.file(deleted, &format!("secret {number}"), &random.bytes(5000));
        mounted.file(below, &format!("deep secret {number}"), &random.bytes(5000));
    }
    mounted.ns.checkpoint().unwrap();
    mounted.act(|| mounted.ns.delete_tree(&CX, InodeId::ROOT, b"deleted"));
    for number in 0..2 {
        mounted.ns.checkpoint().unwrap();
        mounted.file(InodeId::ROOT, &format!("since {number}"), &random.bytes(3000));
    }
    mounted.close();
    let report = check(&device);
    assert!(report.is_clean() && !Surgeon::new(&device).directory.entry.history.is_none(), "{report}");
    device
}

/// The root of `/a/b`.
fn root_of_b(device: &SimulatedDevice) -> Reference {
    let mut root = None;
    Surgeon::new(device).nodes(&mut |header, items| {
        for item in items.iter().filter(|item| header.tree == TreeKind::Directory && item.key.ends_with(b"b")) {
            if let Ok(Entry::Directory(directory)) = Entry::decode(&item.value, &item.references) {
                root = Some(directory.root);
            }
        }
    });
    root.unwrap()
}

fn names(device: &SimulatedDevice) -> BTreeSet<String> {
    let mounted = mount(device);
    let tree = mounted.tree();
    mounted.close();
    tree.keys().filter_map(|path| path.rsplit('/').next().map(String::from)).collect()
}

/// With something wrong in the books and a node of the published tree lost.
fn damaged() -> SimulatedDevice {
    let device = with_history();
    let root = root_of_b(&device);
    let mut surgeon = Surgeon::new(&device);
    surgeon.without_copies();
    let row = surgeon.directory.table.iter_mut().find(|row| row.segment != 0 && row.live_units > 0).unwrap();
    row.live_units += 1;
    surgeon.publish();
    surgeon.flip(surgeon.position(root.oid) + 70);
    surgeon.device()
}

#[test]
fn what_only_retained_checkpoints_led_to_is_not_put_into_lost_and_found() {
    for first in [None, Some(false)] {
        let device = damaged();
        is_found(&device, findings::TABLE_LIVE);
        is_found(&device, findings::NODE_CHECKSUM);
        if let Some(all) = first {
            assert_eq!(repair(&device, all).exit_code(), 5);
        }
        let report = repair(&device, true);
        assert_eq!(report.exit_code(), 1, "{report}");
        let names = names(&device);
        assert!(names.contains("kept") && names.contains("since 1"), "{names:?}");
        let back: Vec<&String> = names.iter().filter(|name| name.contains("secret") || *name == "deleted").collect();
        assert!(back.is_empty(), "-p first: {}: {back:?}", first.is_some());
        assert!(check(&device).is_clean());
    }
}

#[test]
fn a_repair_that_gives_retained_checkpoints_up_says_how_many() {
    let device = damaged();
    let report = repair(&device, false);
    let said = report.to_string();
    assert!(report.given_up.len() == 1 && report.given_up[0].ends_with("retained checkpoints (history)"), "{said}");
    assert!(said.contains(&format!("given up: {}", report.given_up[0])), "{said}");
    let json: serde_json::Value = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
    assert_eq!(json["given_up"][0], report.given_up[0].as_str());
    let again = repair(&device, true);
    assert!(again.given_up.is_empty(), "{again}");
}

#[test]
fn a_damaged_copy_of_the_directory_costs_no_retained_checkpoint() {
    let device = with_history();
    let surgeon = Surgeon::new(&device);
    let tables = surgeon.superblock.table_positions(surgeon.base.slot);
    let expected = names(&SimulatedDevice::from_image(device.image(), 512, 1));
    for offset in surgeon.superblock.slot_positions().into_iter().chain(tables) {
        let damaged = surgeon.device();
        damaged.inject(Fault::FlipBits { offset: offset + 80, mask: 1 });
        is_found(&damaged, findings::DIRECTORY_COPY);
        let report = repair(&damaged, false);
        assert!(report.exit_code() == 1 && report.given_up.is_empty(), "{report}");
        let report = check(&damaged);
        assert!(report.is_clean() && report.count(findings::DIRECTORY_COPY) == 0, "{report}");
        let after = Surgeon::new(&damaged).directory.entry;
        assert_eq!(after.history, surgeon.directory.entry.history);
        assert_eq!(names(&damaged), expected);
    }
}
