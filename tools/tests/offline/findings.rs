//! Every finding of the register is provoked, put right by what the register says, and gone in a second run (INV-34); what the other test files do not provoke is here. A finding without
//! such a test fails [`every_finding_is_provoked_by_a_test`], so no number can be added without one.
use crate::common::{CX, Random};
use crate::fsck_bench::*;
use envoyfs_engine::MarkOptions;
use envoyfs_engine::device::{DeviceImage, Fault, SimulatedDevice};
use envoyfs_engine::store::Store as _;
use envoyfs_layout::directory_page::{ContainerState, DirectoryPage, TableBase};
use envoyfs_layout::inode::Inode;
use envoyfs_layout::key::{DirectoryKey, RealmItemKind, RealmKey};
use envoyfs_layout::node::TreeKind;
use envoyfs_layout::superblock::Superblock;
use envoyfs_layout::{Body, Entry, Oid, RealmRecord, Reference, Slice};
use envoyfs_namespace::api::*;
use envoyfs_tools::fsck::findings::{self, By, Kind};
use std::ops::ControlFlow;

/// Damage that nothing mends, and what cannot be provoked by a test of one store. Each has its reason.
const WITHOUT: &[(u16, &str)] = &[
    (
        8,
        "a simulated device has one size of blocks; `tools/tests/fsck.rs` has an image whose file system asks for larger ones",
    ),
    (10, "it is no damage: `rebuild.rs` looks at what a rebuild says"),
];

/// Where tests provoke findings: a call with `findings::NAME` in it.
const SOURCES: &[&str] = &[
    include_str!("findings.rs"),
    include_str!("repair.rs"),
    include_str!("beside.rs"),
    include_str!("foreign.rs"),
    include_str!("numbers.rs"),
    include_str!("unknown.rs"),
];

#[test]
fn every_finding_is_provoked_by_a_test() {
    let register = include_str!("../../src/fsck/findings.rs");
    let mut missing = Vec::new();
    for kind in findings::ALL {
        // `NAME = 105 Warning ...` in the register.
        let mark = format!(" = {} {:?} {:?} ", kind.number, kind.severity, kind.by);
        let line = register.lines().find(|line| line.contains(&mark)).unwrap();
        let name = line.split_whitespace().next().unwrap();
        let provokes = |source: &&str| {
            let calls =
                ["is_mended(", "is_repaired(", "is_found(", "is_given_up(", "is_put_right(", "repaired_without_loss("];
            let parts = source.split(calls[0]).skip(1);
            let parts = parts.chain(calls[1..].iter().flat_map(|call| source.split(call).skip(1)));
            parts.into_iter().any(|after| {
                let call = after.split(';').next().unwrap_or_default();
                call.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name)
            })
        };
        let excused = WITHOUT.iter().any(|(number, reason)| *number == kind.number && !reason.is_empty());
        if !SOURCES.iter().any(provokes) && !excused {
            missing.push(format!("F{:03} {name}", kind.number));
        }
    }
    assert!(missing.is_empty(), "no test provokes {missing:?}");
}

/// The same device, shorter or longer.
fn resized(device: &SimulatedDevice, by: i64) -> SimulatedDevice {
    let mut bytes = device.image().to_bytes();
    bytes.resize(bytes.len().checked_add_signed(by as isize).unwrap(), 0);
    SimulatedDevice::from_image(DeviceImage::from_bytes(&bytes), 512, 1)
}

#[test]
fn superblocks() {
    let device = populated(12);
    let expected = tree(&device);
    let positions = Superblock::positions(size(&device));
    let mut surgeon = Surgeon::new(&device);
    surgeon.flip(positions[1] + 100);
    assert_eq!(is_mended(&surgeon.device(), findings::SUPERBLOCK_COPY), expected);
    positions.into_iter().for_each(|at| surgeon.flip(at + 200));
    assert_eq!(is_mended(&surgeon.device(), findings::NO_SUPERBLOCK), expected);

    // As after a power cut between the two pairs of a publication.
    let mounted = mount(&device);
    let before = device.image();
    mounted.file(InodeId::ROOT, "newer", &[1; 5000]);
    mounted.ns.checkpoint().unwrap();
    let mut surgeon = Surgeon::new(&device);
    let expected = tree(&surgeon.device());
    for at in &positions[2..] {
        let mut bytes = vec![0; 4096];
        before.read(*at, &mut bytes);
        surgeon.image.write(*at, &bytes);
    }
    assert_eq!(is_mended(&surgeon.device(), findings::SUPERBLOCK_STALE), expected);
}

#[test]
fn devices_that_are_not_what_they_were() {
    let device = populated(12);
    for (by, kind) in [(-65_536, findings::TRUNCATED), (65_536, findings::LARGER_DEVICE)] {
        let other = resized(&device, by);
        let report =
            if by < 0 { is_found(&other, findings::TRUNCATED) } else { is_found(&other, findings::LARGER_DEVICE) };
        assert_eq!(report.is_clean(), by > 0, "{report}");
        assert_eq!(kind.by, By::Nothing);
        let before = other.image().to_bytes();
        repair(&other, true);
        assert!(other.image().to_bytes() == before, "F{:03}: nothing is to be changed", kind.number);
    }
    let mut surgeon = Surgeon::new(&device);
    surgeon.superblock.incompatible |= 1 << 40;
    surgeon.publish();
    let other = surgeon.device();
    is_found(&other, findings::FEATURES);
    let before = other.image().to_bytes();
    assert_eq!(repair(&other, true).exit_code(), 8);
    assert!(other.image().to_bytes() == before, "what is not known must not be changed");
}

#[test]
fn volume_directory_and_segment_table() {
    let device = populated(12);
    let expected = tree(&device);
    let mut surgeon = Surgeon::new(&device);
    let [a, b] = surgeon.superblock.slot_positions();
    surgeon.flip(a + 300);
    assert_eq!(is_mended(&surgeon.device(), findings::DIRECTORY_COPY), expected);
    surgeon.flip(b + 300);
    assert_eq!(is_mended(&surgeon.device(), findings::NO_DIRECTORY), expected);
    // Either copy: a mount looks at the second one only if the first is damaged.
    for copy in [0, 1] {
        let mut surgeon = Surgeon::new(&device);
        let at = surgeon.superblock.table_positions(surgeon.base.slot);
        surgeon.flip(at[copy] + 20);
        assert_eq!(is_mended(&surgeon.device(), findings::DIRECTORY_COPY), expected);
        surgeon.flip(at[1 - copy] + 70);
        assert_eq!(is_mended(&surgeon.device(), findings::NO_DIRECTORY), expected);
    }

    let mut surgeon = Surgeon::new(&device);
    let free =
        |surgeon: &Surgeon| surgeon.directory.table.iter().position(|row| row.state == ContainerState::Free).unwrap();
    let row = free(&surgeon);
    (surgeon.directory.table[row].live_units, surgeon.directory.table[row].used_units) = (9, 9);
    surgeon.publish();
    assert_eq!(is_mended(&surgeon.device(), findings::TABLE_ROW), expected);

    let mut surgeon = Surgeon::new(&device);
    let row = free(&surgeon);
    let taken = surgeon.directory.table.iter().rposition(|row| row.segment != 0).unwrap();
    surgeon.directory.table[row] = surgeon.directory.table[taken];
    surgeon.publish();
    assert_eq!(is_mended(&surgeon.device(), findings::SEGMENT_TWICE), expected);

    let mut surgeon = Surgeon::new(&device);
    let system = surgeon.directory.table.iter().position(|row| row.state == ContainerState::System).unwrap();
    surgeon.directory.table[system].state = ContainerState::Survivors;
    surgeon.publish();
    assert_eq!(is_mended(&surgeon.device(), findings::SYSTEM_PLACE), expected);
}

/// The page vouches for the table: what it says is only compared with the superblock afterwards.
#[test]
fn a_directory_with_more_rows_than_the_store_has_containers_is_damaged_and_takes_no_memory() {
    let mut surgeon = Surgeon::new(&populated(12));
    let page = DirectoryPage {
        sequence: surgeon.directory.sequence,
        entry: surgeon.directory.entry.clone(),
        containers: u32::MAX,
        base: TableBase { rows: u32::MAX, ..surgeon.base },
        changed: Vec::new(),
    };
    let (bytes, crc) = page.encode(&surgeon.superblock.seed);
    (surgeon.superblock.directory_crc, surgeon.superblock.directory_bytes) = (crc, bytes.len() as u32);
    for at in surgeon.superblock.slot_positions() {
        surgeon.image.write(at, &bytes);
    }
    for at in Superblock::positions(surgeon.superblock.size) {
        surgeon.image.write(at, &surgeon.superblock.encode(at));
    }
    is_found(&surgeon.device(), findings::NO_DIRECTORY);
}

/// A checkpoint saw it between the two, and power failed before its header was durable.
#[test]
fn a_container_that_was_taken_and_holds_nothing_yet_needs_no_header() {
    let device = populated(12);
    for state in [ContainerState::Open, ContainerState::Survivors] {
        let mut surgeon = Surgeon::new(&device);
        let number = u32::try_from(surgeon.directory.entry.bounds.segment).unwrap() - 1;
        let row = surgeon.directory.table.iter_mut().rfind(|row| row.state == ContainerState::Free).unwrap();
        (row.state, row.volume) = (state, surgeon.directory.entry.volume);
        row.segment = if state == ContainerState::Open { number } else { 0 };
        surgeon.directory.entry.totals.segments += u64::from(row.segment != 0);
        surgeon.publish();
        let begun = surgeon.device();
        let report = check(&begun);
        assert!(report.is_clean() && report.count(findings::CONTAINER_HEADER) == 0, "{state:?}:\n{report}");
        let mounted = mount(&begun);
        mounted.file(InodeId::ROOT, "since", &[7; 20_000]);
        mounted.close();
        let report = check(&begun);
        assert!(report.is_clean(), "{state:?}, after a mount:\n{report}");
    }
}

#[test]
fn what_containers_say_of_themselves() {
    let device = populated(12);
    // A mount seals what the one before left open.
    logged(&device, 2);
    mount(&device).close();
    let expected = tree(&device);
    let surgeon = Surgeon::new(&device);
    let units = surgeon.superblock.segment_bytes / 512;
    let sealed: Vec<(u32, u32)> = (0..)
        .zip(&surgeon.directory.table)
        .filter(|(_, row)| row.state == ContainerState::Sealed)
        .map(|(number, row)| (number, row.last_part))
        .collect();
    assert!(sealed.len() > 2, "{sealed:?}");
    for (container, part) in sealed {
        let mut surgeon = Surgeon::new(&device);
        surgeon.flip(surgeon.offset(container, 0) + 40);
        assert_eq!(is_mended(&surgeon.device(), findings::CONTAINER_HEADER), expected);
        let mut surgeon = Surgeon::new(&device);
        surgeon.flip(surgeon.offset(container, units - 1) + 40);
        assert_eq!(is_mended(&surgeon.device(), findings::CONTAINER_FOOTER), expected);
        if part != 0 {
            let mut surgeon = Surgeon::new(&device);
            surgeon.flip(surgeon.offset(container, part) + 12);
            let damaged = surgeon.device();
            // It is told, and no more: nothing is found by it.
            assert!(is_found(&damaged, findings::TABLE_PART).is_clean());
            assert_eq!(repair(&damaged, true).exit_code(), 0);
            assert_eq!(tree(&damaged), expected);
        }
    }
}

/// What is seen of a copy.
fn tree(device: &SimulatedDevice) -> Tree {
    let mounted = mount(&SimulatedDevice::from_image(device.image(), 512, 1));
    let tree = mounted.tree();
    mounted.close();
    tree
}

/// Synced and not checkpointed: `count` files of 5000 bytes in the root.
fn logged(device: &SimulatedDevice, count: u8) {
    let mounted = mount(device);
    for number in 0..count {
        mounted.file(InodeId::ROOT, &format!("logged {number}"), &[number + 100; 5000]);
        mounted.ns.sync().unwrap();
    }
    drop(mounted.ns);
    mounted.engine.close().unwrap();
}

#[test]
fn the_log() {
    let device = populated(12);
    logged(&device, 6);
    is_mended(&SimulatedDevice::from_image(device.image(), 512, 1), findings::LOG_DIRTY);

    // The block that holds the second file's record.
    let mut surgeon = Surgeon::new(&device);
    let ring = surgeon.superblock.ring_offset..surgeon.superblock.ring_offset + surgeon.superblock.ring_bytes;
    let mut block = vec![0; 512];
    let holds = ring.step_by(512).find(|at| {
        surgeon.image.read(*at, &mut block);
        block.windows(8).any(|window| window == b"logged 1")
    });
    surgeon.flip(holds.unwrap() + 200);
    let left = is_mended(&surgeon.device(), findings::LOG_CORRUPT);
    assert!(left.contains_key("/logged 0") && !left.contains_key("/logged 1"), "{:?}", left.keys());

    let mut surgeon = Surgeon::new(&device);
    let at = surgeon.find(&[101; 4096]);
    assert_eq!(at.len(), 1);
    surgeon.flip(at[0] + 9);
    let left = is_mended(&surgeon.device(), findings::LOG_DATA);
    assert_eq!(left["/logged 1"].contents.len(), 5000);
    assert!(left["/logged 1"].contents[..4096].iter().all(|byte| *byte == 0));
    assert!(left["/logged 3"].contents.iter().all(|byte| *byte == 103));
}

#[test]
fn a_log_that_does_not_fit_what_is_left() {
    let device = populated(12);
    let mounted = mount(&device);
    let top = mounted.ns.lookup(&CX, InodeId::ROOT, b"top").unwrap().id;
    let inner = mounted.ns.lookup(&CX, top, b"inner").unwrap().id;
    mounted.file(inner, "logged", &[7; 5000]);
    mounted.ns.sync().unwrap();
    drop(mounted.ns);
    mounted.engine.close().unwrap();
    let root = directory(&device, b"top");
    let mut surgeon = Surgeon::new(&device);
    surgeon.without_copies();
    surgeon.flip(surgeon.position(root.oid) + 80);
    let damaged = surgeon.device();
    is_found(&damaged, findings::NODE_CHECKSUM);
    is_given_up(&damaged, findings::LOG_DROPPED);
    let left = tree(&damaged);
    assert!(left.contains_key("/other/1"), "{:?}", left.keys());
}

/// Only the repair meets it.
fn is_given_up(device: &SimulatedDevice, kind: &Kind) {
    let report = repair(device, true);
    assert!(report.repaired.iter().any(|finding| finding.kind == kind), "{report}");
    assert!(report.is_clean(), "{report}");
    assert_eq!(repair(device, true).exit_code(), 0);
    is_gone(device, kind.number);
}

fn is_gone(device: &SimulatedDevice, number: u16) {
    let report = check(device);
    assert!(!numbers(&report).contains(&number), "{report}");
}

/// The root of the first directory of this name.
fn directory(device: &SimulatedDevice, name: &[u8]) -> Reference {
    let mut found = None;
    Surgeon::new(device).nodes(&mut |header, items| {
        for item in items.iter().filter(|_| header.tree == TreeKind::Directory && header.level == 0) {
            if DirectoryKey::decode(&item.key).unwrap().name == name
                && let Ok(Entry::Directory(directory)) = Entry::decode(&item.value, &item.references)
            {
                found = found.or(Some(directory.root));
            }
        }
    });
    found.unwrap()
}

/// Changes the first entry of this name.
fn change(device: &SimulatedDevice, name: &[u8], mut change: impl FnMut(&mut Entry)) -> SimulatedDevice {
    let mut surgeon = Surgeon::new(device);
    let mut done = false;
    surgeon.nodes(&mut |header, items| {
        for item in items.iter_mut().filter(|_| header.tree == TreeKind::Directory && header.level == 0) {
            if !done && DirectoryKey::decode(&item.key).unwrap().name == name {
                let mut entry = Entry::decode(&item.value, &item.references).unwrap();
                change(&mut entry);
                (item.value, item.references) = entry.encode().unwrap();
                done = true;
            }
        }
    });
    assert!(done, "no {}", String::from_utf8_lossy(name));
    surgeon.device()
}

fn nowhere(oid: Oid) -> Oid {
    Oid::new(oid.volume(), 60_000, oid.slot())
}

#[test]
fn objects_without_a_place_and_nodes_of_another_kind() {
    let device = populated(12);
    let expected = tree(&device);
    let damaged = change(&device, b"inner", |entry| {
        let Entry::Directory(directory) = entry else { panic!("a directory") };
        directory.root.oid = nowhere(directory.root.oid);
    });
    let left = is_mended(&damaged, findings::UNRESOLVED);
    assert!(left.contains_key("/top/file 4") && !left.contains_key("/top/inner/one"), "{:?}", left.keys());

    let mut tree_root = None;
    change(&device, b"sparse", |entry| {
        let Entry::File(Inode { body: Body::Tree { root, .. }, .. }) = entry else { panic!("an extents tree") };
        tree_root = Some(*root);
    });
    let damaged = change(&device, b"other", |entry| {
        let Entry::Directory(directory) = entry else { panic!("a directory") };
        directory.root = tree_root.unwrap();
    });
    let left = is_mended(&damaged, findings::NODE_FORMAT);
    assert!(left.contains_key("/other") && !left.contains_key("/other/1"), "{:?}", left.keys());
    assert_eq!(left.get("/top/inner/sparse"), expected.get("/top/inner/sparse"));
}

#[test]
fn roots_objects_and_the_table_at_the_top() {
    let device = populated(12);
    let expected = tree(&device);
    let mut surgeon = Surgeon::new(&device);
    let entry = surgeon.directory.entry.clone();
    let [first, twin] = [entry.roots, entry.roots_twin].map(|copy| surgeon.position(copy.unwrap().oid) + 60);
    surgeon.flip(first);
    assert_eq!(is_mended(&surgeon.device(), findings::ROOTS), expected);
    surgeon.flip(twin);
    let left = is_mended(&surgeon.device(), findings::NO_ROOTS);
    assert_eq!(left.get("/top/file 4"), expected.get("/top/file 4"));

    let mut surgeon = Surgeon::new(&device);
    let roots = envoyfs_layout::roots::RootsObject::decode(&surgeon.read(&entry.roots.unwrap())).unwrap();
    surgeon.without_copies();
    surgeon.flip(surgeon.position(roots.references[0].oid) + 80);
    let left = is_mended(&surgeon.device(), findings::NO_TOP);
    assert_eq!(left.get("/top/file 4"), expected.get("/top/file 4"));
}

#[test]
fn file_data() {
    let device = populated(12);
    let expected = tree(&device);
    let damaged = change(&device, b"file 3", |entry| {
        let Entry::File(Inode { body: Body::Slices(slices), .. }) = entry else { panic!("slices") };
        slices[0].1.oid = nowhere(slices[0].1.oid);
    });
    let left = is_mended(&damaged, findings::DATA_UNREADABLE);
    assert_eq!(left.get("/top/file 4"), expected.get("/top/file 4"));
    assert_eq!(left["/top/file 3"].size, expected["/top/file 3"].size);
    assert!(left["/top/file 3"].contents[..4096].iter().all(|byte| *byte == 0));

    let surgeon = Surgeon::new(&device);
    let damaged = surgeon.device();
    let at = surgeon.find(&expected["/top/file 4"].contents[..4096]);
    damaged.inject(Fault::ReadError { offset: at[0] });
    let left = is_mended(&damaged, findings::DATA_UNREADABLE);
    assert_eq!(left["/top/file 4"].contents[4096..], expected["/top/file 4"].contents[4096..]);

    let mut surgeon = Surgeon::new(&device);
    surgeon.nodes(&mut |header, items| {
        if header.tree == TreeKind::Extents && header.level == 0 && items.len() > 3 {
            let mut slice = Slice::decode(&items[2].value).unwrap();
            slice.extent_block += 1;
            items[2].value = slice.encode().unwrap();
        }
    });
    let left = is_mended(&surgeon.device(), findings::SLICES);
    let (was, is) = (&expected["/top/inner/sparse"].contents, &left["/top/inner/sparse"].contents);
    assert_eq!((&is[..40_960 * 2], &is[40_960 * 3..]), (&was[..40_960 * 2], &was[40_960 * 3..]));

    let mut surgeon = Surgeon::new(&device);
    let inline = expected["/top/file 0"].contents.clone();
    surgeon.nodes(&mut |header, items| {
        for item in items.iter_mut().filter(|_| header.tree == TreeKind::Directory) {
            if let Some(at) = item.value.windows(inline.len()).position(|window| window == inline) {
                item.value[at] ^= 1;
            }
        }
    });
    let left = is_mended(&surgeon.device(), findings::INLINE_CHECKSUM);
    assert!(!left.contains_key("/top/file 0") && left.get("/top/file 4") == expected.get("/top/file 4"));
}

/// What an operation freed is dead at once, although nodes that wait to be freed still refer to it.
#[test]
fn files_that_were_cut_and_deleted_in_one_batch_are_no_damage_while_they_wait() {
    let device = empty(64, 512);
    let mounted = mount(&device);
    populate(&mounted);
    // Files with trees of extents. Before and behind more than one checkpoint works off, so that one of them waits whatever the order.
    let mut all = Vec::new();
    let mut make = |name: String, extents: u64, bytes: usize| {
        let id = mounted.ns.make(&CX, InodeId::ROOT, name.as_bytes(), &Make::File, 0o644).unwrap().id;
        for extent in 0..extents {
            let offset = extent * ((bytes + (64 << 10)) as u64).next_multiple_of(4096);
            mounted.ns.write(&CX, id, offset, &vec![extent as u8 + 1; bytes]).unwrap();
        }
        mounted.ns.checkpoint().unwrap();
        all.push((name, id));
        id
    };
    let first = make("older".into(), 40, 40 << 10);
    (0..34).for_each(|number| assert_ne!(make(format!("many {number}"), 250, 4096), first));
    for file in [first, make("newer".into(), 40, 40 << 10)] {
        let nothing = SetAttributes { size: Some(0), ..SetAttributes::default() };
        mounted.ns.setattr(&CX, file, &nothing).unwrap();
    }
    for (name, id) in &all {
        mounted.ns.unlink(&CX, InodeId::ROOT, name.as_bytes()).unwrap();
        mounted.ns.forget(*id, 1);
    }
    mounted.ns.checkpoint().unwrap();
    assert!(mounted.engine.usage().drop_queue > 0);
    while mounted.engine.usage().drop_queue > 0 {
        let waiting = SimulatedDevice::from_image(device.image(), 512, 1);
        assert!(is_found(&waiting, findings::DROP_QUEUE).is_clean(), "{}", check(&waiting));
        // Books that are written anew have them neither as live nor as lost.
        let mut surgeon = Surgeon::new(&waiting);
        let segments: Vec<u32> = surgeon.directory.table.iter().map(|row| row.segment).collect();
        let mut wrong = 0;
        for segment in segments.into_iter().filter(|segment| *segment != 0) {
            let row = surgeon.directory.table.iter().find(|row| row.segment == segment).unwrap();
            if !row.metadata.is_none() {
                surgeon.page(segment, |page| {
                    let shared = page.extra.iter_mut().find(|(_, extra)| *extra > 0);
                    wrong += u32::from(shared.map(|(_, extra)| *extra += 1).is_some());
                });
            }
        }
        assert!(wrong > 0);
        let waiting = surgeon.device();
        is_mended(&waiting, findings::COUNT);
        let other = mount(&waiting);
        while other.engine.usage().drop_queue > 0 {
            other.ns.checkpoint().unwrap();
        }
        other.close();
        let report = check(&waiting);
        let left = [findings::RECLAIMABLE, findings::DROP_QUEUE].map(|kind| report.count(kind));
        assert!(report.is_clean() && left == [0, 0], "{report}");
        mounted.ns.checkpoint().unwrap();
    }
}

#[test]
fn what_waits_to_be_freed() {
    let device = empty(64, 512);
    let mounted = mount(&device);
    populate(&mounted);
    let forked = mounted.directory(InodeId::ROOT, "forked");
    mounted.file(forked, "large", &Random(6).bytes(400_000));
    // More than one checkpoint works off.
    for number in 0..15_000 {
        mounted.directory(forked, &format!("{number}"));
    }
    mounted.ns.checkpoint().unwrap();
    mounted.act(|| mounted.ns.fork(&CX, forked, InodeId::ROOT, b"again"));
    mounted.ns.checkpoint().unwrap();
    // Both write the same part of what they share, so nobody uses it.
    for name in [&b"forked"[..], b"again"] {
        let directory = mounted.ns.lookup(&CX, InodeId::ROOT, name).unwrap().id;
        let file = mounted.ns.lookup(&CX, directory, b"large").unwrap().id;
        mounted.write(file, 40_960, &[3; 8192]);
    }
    mounted.ns.checkpoint().unwrap();
    let shared = SimulatedDevice::from_image(device.image(), 512, 1);
    is_found(&shared, findings::RECLAIMABLE);
    let other = mount(&shared);
    other.engine.ask_mark().unwrap();
    other.ns.checkpoint().unwrap();
    let mark = other.ns.mark(MarkOptions::default(), &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(mark.unused_bytes >= 8192, "{mark:?}");
    other.ns.checkpoint().unwrap();
    other.close();
    is_gone(&shared, findings::RECLAIMABLE.number);

    // The last reference to what both share goes: its nodes wait their turn.
    for name in [&b"forked"[..], b"again", b"top", b"fork"] {
        mounted.act(|| mounted.ns.delete_tree(&CX, InodeId::ROOT, name));
    }
    let waits = |_| {
        mounted.ns.checkpoint().unwrap();
        numbers(&check(&device)).contains(&findings::DROP_QUEUE.number)
    };
    assert!((0..4).any(waits));
    let queued = SimulatedDevice::from_image(device.image(), 512, 1);
    is_mended(&queued, findings::DROP_QUEUE);
    drop(mounted.ns);
    mounted.engine.close().unwrap();

    // A node that waits cannot be read when its turn comes.
    let mut surgeon = Surgeon::new(&device);
    let place = surgeon.directory.entry.drop_queue;
    let mut bytes = vec![0; place.stored_bytes as usize];
    surgeon.image.read(surgeon.offset(place.container, place.units), &mut bytes);
    let (page, _) = envoyfs_layout::system_page::ListPage::decode(&bytes).unwrap();
    let envoyfs_layout::system_page::ListPage::DropQueue(rows) = page else { panic!("the drop queue") };
    let home = |row: &&Reference| surgeon.directory.table.iter().any(|held| held.segment == row.oid.segment());
    let rows: Vec<Reference> = rows.iter().filter(home).copied().collect();
    assert!(!rows.is_empty());
    for row in rows {
        surgeon.flip(surgeon.position(row.oid) + 80);
    }
    let damaged = surgeon.device();
    let mounted = mount(&damaged);
    for _ in 0..3 {
        mounted.ns.checkpoint().unwrap();
    }
    mounted.close();
    is_mended(&damaged, findings::UNREADABLE);

    // Unlinked while it is open.
    let device = populated(12);
    let mounted = mount(&device);
    let open = mounted.file(InodeId::ROOT, "open", &[5; 9000]);
    mounted.ns.open_file(&CX, open, true).unwrap();
    mounted.ns.unlink(&CX, InodeId::ROOT, b"open").unwrap();
    mounted.ns.checkpoint().unwrap();
    let image = device.image();
    let device = SimulatedDevice::from_image(image, 512, 1);
    is_mended(&device, findings::ORPHAN);
}

#[test]
fn records_of_realms() {
    let device = populated(12);
    let mut surgeon = Surgeon::new(&device);
    // The view has a snapshot, and this record says two.
    let mut added = false;
    surgeon.nodes(&mut |header, items| {
        if header.tree == TreeKind::RealmTable && header.level == 0 && !items.is_empty() {
            let realm = RealmKey::decode(&items[0].key).unwrap().realm;
            let key = RealmKey { realm, kind: RealmItemKind::Record, directory: 0, id: 0 }.encode();
            let value = RealmRecord { snapshots: 2, orphans: 1, ..RealmRecord::default() }.encode().unwrap();
            items.insert(0, Item { key, value, references: Vec::new() });
            added = true;
        }
    });
    assert!(added, "no snapshot");
    let damaged = surgeon.device();
    // No version of the namespace writes such records yet, and it refuses what it does not know.
    is_put_right(&damaged, findings::REALM_RECORD);
    let mut records = 0;
    Surgeon::new(&damaged).nodes(&mut |header, items| {
        for item in items.iter().filter(|_| header.tree == TreeKind::RealmTable && header.level == 0) {
            if RealmKey::decode(&item.key).unwrap().kind == RealmItemKind::Record {
                let record = RealmRecord::decode(&item.value).unwrap();
                assert_eq!((record.snapshots, record.orphans), (1, 0));
                records += 1;
            }
        }
    });
    assert_eq!(records, 1);
}
