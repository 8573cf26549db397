//! Checkpoints beside the published one: damage that only a retained checkpoint, or one that the log holds unpublished, would meet is found, told and mended; nothing of what
//! is published is lost by it. And a root node that cannot be read is read from its copy.
use crate::common::Random;
use crate::fsck_bench::*;
use envoyfs_engine::HistoryPolicy;
use envoyfs_engine::device::{Fault, SimulatedDevice};
use envoyfs_layout::directory_page::Place;
use envoyfs_layout::node::NodeView;
use envoyfs_layout::roots::RootsObject;
use envoyfs_layout::superblock::Superblock;
use envoyfs_layout::system_page::{HistoryRow, ListPage};
use envoyfs_layout::{Oid, Reference, ReferenceKind, checksum::crc32c};
use envoyfs_namespace::api::*;
use envoyfs_tools::fsck::findings::{self, Severity};
use std::collections::BTreeMap;

/// Everything below (and at) the roots in a roots object.
fn reachable(surgeon: &Surgeon, roots: &Reference) -> BTreeMap<Oid, Reference> {
    let roots = RootsObject::decode(&surgeon.read(roots)).unwrap();
    let mut out = BTreeMap::new();
    let mut stack = roots.references;
    while let Some(reference) = stack.pop() {
        if out.insert(reference.oid, reference).is_none() && reference.kind == ReferenceKind::Node {
            let bytes = surgeon.read(&reference);
            stack.extend(NodeView::parse(&bytes).unwrap().references());
        }
    }
    out
}

fn flipped(surgeon: &Surgeon, reference: &Reference) -> SimulatedDevice {
    let device = surgeon.device();
    device.inject(Fault::FlipBits { offset: surgeon.position(reference.oid) + 80, mask: 1 });
    device
}

fn tree_of(device: &SimulatedDevice) -> Tree {
    let mounted = mount(device);
    let tree = mounted.tree();
    mounted.close();
    let report = check(device);
    assert!(
        report.findings.iter().all(|found| found.kind == findings::ROOT_NODE || found.kind.severity == Severity::Note),
        "{report}"
    );
    tree
}

/// `-n` finds it and changes nothing; `-p` repairs it without a loss; the second run is clean.
fn repaired_without_loss(device: &SimulatedDevice, number: u16, expected: &Tree, what: &str) {
    let before = device.image().to_bytes();
    let report = check(device);
    assert!(numbers(&report).contains(&number), "{what}: F{number} expected:\n{report}");
    assert!(device.image().to_bytes() == before);
    let report = repair(device, false);
    assert_eq!(report.exit_code(), 1, "{what}:\n{report}");
    assert!(report.repaired.iter().any(|finding| finding.kind.number == number), "{what}:\n{report}");
    let again = repair(device, true);
    assert_eq!((again.exit_code(), again.is_clean()), (0, true), "{what}: second run:\n{again}");
    assert_eq!(&tree_of(device), expected, "{what}");
}

/// A store whose last checkpoint stands in the log but in no superblock: as after a power cut between the two. With what it would be like when mounted.
fn unpublished() -> (Surgeon, Surgeon, Tree) {
    let device = populated(48);
    let mounted = mount(&device);
    let before = device.image();
    let mut random = Random(9);
    let made = mounted.directory(InodeId::ROOT, "made");
    for number in 0..6 {
        mounted.file(made, &format!("{number}"), &random.bytes(1500));
    }
    mounted.ns.checkpoint().unwrap();
    mounted.file(made, "after", &random.bytes(3000));
    mounted.ns.sync().unwrap();
    let expected = mounted.tree();
    drop(mounted.ns);
    mounted.engine.close().unwrap();
    let whole = Surgeon::new(&device);
    assert_eq!(
        whole.superblock.sequence,
        Surgeon::new(&SimulatedDevice::from_image(before.clone(), 512, 1)).superblock.sequence + 1
    );
    let mut cut = Surgeon::new(&device);
    for at in Superblock::positions(cut.superblock.size) {
        let mut bytes = vec![0; 4096];
        before.read(at, &mut bytes);
        cut.image.write(at, &bytes);
    }
    (cut, whole, expected)
}

#[test]
fn a_damaged_checkpoint_that_a_mount_would_adopt_is_passed_over_and_nothing_is_lost() {
    let (cut, whole, expected) = unpublished();
    is_mended(&cut.device(), findings::LOG_UNPUBLISHED);
    assert_eq!(tree_of(&cut.device()), expected);
    let entry = &whole.directory.entry;
    let published = Surgeon::new(&cut.device()).directory.entry;
    let old = reachable(&whole, &published.roots.unwrap());
    let new = reachable(&whole, &entry.roots.unwrap());
    let nodes: Vec<&Reference> =
        new.values().filter(|new| new.kind == ReferenceKind::Node && !old.contains_key(&new.oid)).collect();
    assert!(nodes.len() >= 3, "{nodes:?}");
    let mut met = 0;
    for node in nodes {
        let damaged = cut.device();
        damaged.inject(Fault::FlipBits { offset: whole.position(node.oid) + 80, mask: 1 });
        if numbers(&check(&damaged)).contains(&findings::ROOT_NODE.number) {
            continue; // Its copy serves: see below.
        }
        met += 1;
        repaired_without_loss(&damaged, findings::LOG_CHECKPOINT.number, &expected, "a node");
    }
    assert!(met > 0);
    let damaged = cut.device();
    for copy in [entry.roots, entry.roots_twin].iter().flatten() {
        damaged.inject(Fault::FlipBits { offset: whole.position(copy.oid) + 60, mask: 1 });
    }
    repaired_without_loss(&damaged, findings::LOG_CHECKPOINT.number, &expected, "both copies of the roots");
}

/// A store that retains two checkpoints and whose last one stands in the log only: it gives the oldest up and retains itself. With what it holds.
fn unpublished_with_history() -> (Surgeon, Tree) {
    let device = empty(48, 512);
    let mounted = mount(&device);
    mounted.engine.retain(HistoryPolicy { checkpoints_max: 2, ..HistoryPolicy::default() });
    let mut random = Random(11);
    for round in 0..5 {
        mounted.file(InodeId::ROOT, &format!("dies {round}"), &random.bytes(20_000));
        mounted.file(InodeId::ROOT, &format!("stays {round}"), &random.bytes(9_000));
        mounted.ns.checkpoint().unwrap();
        mounted.ns.unlink(&crate::common::CX, InodeId::ROOT, format!("dies {round}").as_bytes()).unwrap();
    }
    let before = device.image();
    mounted.ns.checkpoint().unwrap();
    mounted.file(InodeId::ROOT, "after", &random.bytes(3000));
    mounted.ns.sync().unwrap();
    let expected = mounted.tree();
    drop(mounted.ns);
    mounted.engine.close().unwrap();
    let mut cut = Surgeon::new(&device);
    for at in Superblock::positions(cut.superblock.size) {
        let mut bytes = vec![0; 4096];
        before.read(at, &mut bytes);
        cut.image.write(at, &bytes);
    }
    let cut = Surgeon::new(&cut.device());
    assert!(history(&cut).len() >= 2, "there is no history to give up");
    assert!(numbers(&check(&cut.device())).contains(&findings::LOG_UNPUBLISHED.number));
    (cut, expected)
}

/// A repair of the books gives history up, and the checkpoint in the log has steps for it.
#[test]
fn a_repair_of_the_books_leaves_a_store_that_mounts_whatever_checkpoint_the_log_holds() {
    let (cut, expected) = unpublished_with_history();
    assert_eq!(tree_of(&cut.device()), expected);
    let damaged = cut.device();
    damaged.inject(Fault::FlipBits { offset: cut.superblock.slot_positions()[1] + 80, mask: 1 });
    repaired_without_loss(&damaged, findings::DIRECTORY_COPY.number, &expected, "a copy of the directory");

    let row = cut.directory.table.iter().find(|row| row.segment != 0 && !row.metadata.is_none()).unwrap();
    let damaged = cut.device();
    let offset = cut.offset(row.metadata.container, row.metadata.units) + 40;
    damaged.inject(Fault::FlipBits { offset, mask: 4 });
    repaired_without_loss(&damaged, findings::SYSTEM_PAGE.number, &expected, "a page");
}

#[test]
fn a_checkpoint_of_the_log_that_does_not_fit_the_published_one_is_passed_over_by_a_mount() {
    let (mut cut, expected) = unpublished_with_history();
    cut.directory.entry.history = Place::NONE;
    cut.publish();
    let mounted = try_mount(&cut.device(), true).unwrap_or_else(|why| panic!("to read: {why}"));
    assert_eq!(mounted.tree(), expected);
    let device = cut.device();
    for _ in 0..2 {
        // The second time after a crash: nothing but the recovery itself has published.
        let mounted = try_mount(&device, false).unwrap_or_else(|why| panic!("to write: {why}"));
        assert_eq!(mounted.tree(), expected);
        drop(mounted);
    }
    let mounted = mount(&device);
    mounted.file(InodeId::ROOT, "later", &[1; 5000]);
    mounted.close();
    let tree = mount(&device).tree();
    assert_eq!(tree.len(), expected.len() + 1);
}

#[test]
fn a_damaged_root_node_is_read_from_its_copy_and_written_anew() {
    let device = populated(48);
    let expected = tree_of(&SimulatedDevice::from_image(device.image(), 512, 1));
    let surgeon = Surgeon::new(&device);
    let roots = RootsObject::decode(&surgeon.read(&surgeon.directory.entry.roots.unwrap())).unwrap();
    let copied: Vec<Oid> = roots.copies.iter().map(|(node, _)| node.oid).collect();
    assert!(roots.references.iter().all(|root| copied.contains(&root.oid)) && copied.len() >= 3, "{copied:?}");
    for (root, _) in &roots.copies {
        assert_eq!(tree_of(&flipped(&surgeon, root)), expected, "it mounts, and reads everything");
        repaired_without_loss(&flipped(&surgeon, root), findings::ROOT_NODE.number, &expected, "a root node");
    }
}

/// With retained checkpoints.
fn with_history() -> SimulatedDevice {
    let device = empty(48, 512);
    let mounted = mount(&device);
    mounted.engine.retain(HistoryPolicy::default());
    populate(&mounted);
    mounted.file(InodeId::ROOT, "dying", &Random(3).bytes(20_000));
    mounted.ns.checkpoint().unwrap();
    mounted.ns.unlink(&crate::common::CX, InodeId::ROOT, b"dying").unwrap();
    mounted.close();
    let report = check(&device);
    assert!(report.is_clean(), "{report}");
    device
}

fn history(surgeon: &Surgeon) -> Vec<HistoryRow> {
    let ListPage::History(rows) = list_page(surgeon, &surgeon.directory.entry.history) else { panic!("no history") };
    rows
}

fn list_page(surgeon: &Surgeon, place: &Place) -> ListPage {
    let mut bytes = vec![0; place.stored_bytes as usize];
    surgeon.image.read(surgeon.offset(place.container, place.units), &mut bytes);
    let (page, next) = ListPage::decode(&bytes).unwrap();
    assert!(next.is_none());
    page
}

/// What only retained checkpoints lead to.
fn only_retained(surgeon: &Surgeon) -> Vec<Reference> {
    let current = reachable(surgeon, &surgeon.directory.entry.roots.unwrap());
    let mut only = BTreeMap::new();
    for row in history(surgeon) {
        only.extend(reachable(surgeon, &row.roots).into_iter().filter(|(oid, _)| !current.contains_key(oid)));
    }
    only.into_values().collect()
}

#[test]
fn damage_under_a_retained_checkpoint_is_found_and_costs_only_that() {
    let device = with_history();
    let expected = tree_of(&SimulatedDevice::from_image(device.image(), 512, 1));
    let surgeon = Surgeon::new(&device);
    let only = only_retained(&surgeon);
    let of_kind = |kind| only.iter().find(|reference| reference.kind == kind).unwrap();
    for kind in [ReferenceKind::Node, ReferenceKind::Extent] {
        let what = format!("{kind:?}");
        repaired_without_loss(&flipped(&surgeon, of_kind(kind)), findings::HISTORY.number, &expected, &what);
    }
    let damaged = surgeon.device();
    let row = history(&surgeon)[0];
    for copy in [row.roots, row.roots_twin] {
        damaged.inject(Fault::FlipBits { offset: surgeon.position(copy.oid) + 60, mask: 1 });
    }
    repaired_without_loss(&damaged, findings::HISTORY.number, &expected, "both copies of its roots");
}

#[test]
fn what_a_retained_checkpoint_needs_must_be_kept_and_be_in_its_list() {
    let device = with_history();
    let expected = tree_of(&SimulatedDevice::from_image(device.image(), 512, 1));
    let mut surgeon = Surgeon::new(&device);
    let only = only_retained(&surgeon);
    let pages = |surgeon: &Surgeon, oid: Oid| surgeon.directory.table.iter().any(|row| row.segment == oid.segment());
    let lost = only.iter().find(|reference| pages(&surgeon, reference.oid)).unwrap();
    let hit = |rows: &mut Vec<(u16, u16)>| {
        rows.retain(|(slot, units)| {
            !(u32::from(*slot)..u32::from(*slot) + u32::from(*units)).contains(&u32::from(lost.oid.slot()))
        })
    };
    surgeon.page(lost.oid.segment(), |page| {
        hit(&mut page.live);
        hit(&mut page.deferred);
    });
    let damaged = surgeon.device();
    assert!(numbers(&check(&damaged)).contains(&findings::DEFERRED.number));
    repaired_without_loss(&damaged, findings::NOT_KEPT.number, &expected, "units that are not live");

    let mut surgeon = Surgeon::new(&device);
    let mut rows = history(&surgeon);
    let place = surgeon.directory.entry.history;
    rows.last_mut().unwrap().units += 8;
    let bytes = ListPage::History(rows).encode(Place::NONE);
    surgeon.image.write(surgeon.offset(place.container, place.units), &bytes);
    surgeon.directory.entry.history.crc = crc32c(&bytes);
    surgeon.publish();
    repaired_without_loss(&surgeon.device(), findings::DEFERRED.number, &expected, "a wrong sum");
}

/// A write of 6000 bytes is a block that the record names, and an end that the log carries inside the record: what only the checkpoint names.
#[test]
fn file_data_that_only_a_checkpoint_of_the_log_names_is_looked_at_and_named_by_its_path() {
    let device = populated(48);
    let mounted = mount(&device);
    let before = device.image();
    let made = mounted.directory(InodeId::ROOT, "made");
    for number in 0..6 {
        mounted.file(made, &format!("{number}"), &Random(number).bytes(6000));
    }
    mounted.ns.checkpoint().unwrap();
    let expected = mounted.tree();
    drop(mounted.ns);
    mounted.engine.close().unwrap();
    let whole = Surgeon::new(&device);
    let mut cut = Surgeon::new(&device);
    for at in Superblock::positions(cut.superblock.size) {
        let mut bytes = vec![0; 4096];
        before.read(at, &mut bytes);
        cut.image.write(at, &bytes);
    }
    let mut named = 0;
    for (path, seen) in expected.iter().filter(|(path, _)| path.starts_with("/made/")) {
        let end = whole.find(&seen.contents[4096..]);
        let Some(at) = end.first() else { continue };
        let damaged = cut.device();
        damaged.inject(Fault::FlipBits { offset: at + 9, mask: 1 });
        let report = check(&damaged);
        if report.count(findings::LOG_DATA) > 0 {
            continue;
        }
        named += 1;
        let finding = report.findings.iter().find(|finding| finding.kind == findings::LOG_CHECKPOINT);
        let finding = finding.unwrap_or_else(|| panic!("{path}:\n{report}"));
        assert!(finding.place.ends_with(&format!("){path} at byte 4096")), "{finding}");
        assert!(finding.detail.contains("F500"), "{finding}");
        repaired_without_loss(&damaged, findings::LOG_CHECKPOINT.number, &expected, path);
    }
    assert!(named > 0);
}
