//! Stores of other programs, and devices that something else has been put on: nothing of either is changed by who does not understand it.
use crate::fsck_bench::*;
use envoyfs_engine::device::{DeviceImage, SimulatedDevice};
use envoyfs_engine::hlc::ManualClock;
use envoyfs_engine::store::{Batch, Changes, DataObject, Draft, Need, Roots, Store, Tier};
use envoyfs_engine::{Engine, Options, StoreError};
use envoyfs_layout::node::{NodeBuilder, Owner, TreeKind};
use envoyfs_layout::superblock::Superblock;
use envoyfs_layout::{ClientTag, Reference, ReferenceKind};
use envoyfs_tools::fsck::disk::Disk;
use envoyfs_tools::fsck::findings;
use envoyfs_tools::fsck::rebuild::rebuild_disk;
use envoyfs_tools::fsck::repair::{Settings, repair_disk};
use std::sync::Arc;

const OTHER: ClientTag = ClientTag::new(b"keyvalue");
const DATA: [u8; 4096] = [0x5a; 4096];

pub fn open(device: &SimulatedDevice, client: ClientTag) -> Result<Engine, StoreError> {
    let clock = Arc::new(ManualClock::new(START_NS + 3_000_000_000));
    let options = Options { read_only: false, threads: false, accept_loss: false, clock, settings: Default::default() };
    Engine::open_for(client, Arc::new(device.clone()), options)
}

/// A store of another program: something that its roots lead to, unless all of it is in the log still, and records.
fn of_another(client: ClientTag, published: bool) -> (SimulatedDevice, DataObject) {
    let device = empty(16, 512);
    let engine = open(&device, client).unwrap();
    let (log_bytes, node_bytes) = (1 << 10, 16 << 10);
    let need = Need { log_bytes, node_bytes, payload_bytes: 0, data_bytes: 4096, tier: Tier::Writer };
    let mut permit = engine.reserve(need).unwrap();
    let object = engine.append_data(&mut permit, None, &DATA).unwrap();
    let data = std::slice::from_ref(&object);
    let draft = Draft { kind: 300, territory: 0, origin: None, data, body: b"not a file" };
    let appended = engine.append(&mut permit, draft).unwrap();
    engine.commit(appended.end).unwrap();
    if published {
        let frozen = engine.freeze().unwrap();
        let birth = appended.hlc.birth();
        let mut node = NodeBuilder::new(TreeKind::Extents, 0, birth, Owner::default());
        node.push(b"key", b"value", &[Reference::extent(object.oid, birth, object.stored_bytes)]).unwrap();
        let top = engine.append_node(Batch::Frozen, ReferenceKind::Node, 0, birth, &node.finish()).unwrap();
        let roots = Roots { references: vec![top], blob: b"not the bytes of a tree".to_vec() };
        engine.publish(frozen, roots, Changes::default()).unwrap();
    }
    drop(permit);
    engine.close().unwrap();
    (device, object)
}

fn still_holds(device: &SimulatedDevice, client: ClientTag, object: &DataObject, published: bool) {
    let engine = open(device, client).unwrap();
    let mut found = [0; 4096];
    engine.read_data(object.oid, 0, &object.crcs, &mut found).unwrap();
    assert_eq!(found, DATA);
    if published {
        let top = engine.recovered_roots().references[0];
        engine.read_node(&top).unwrap();
    } else {
        assert_eq!(engine.take_replay().iter().filter(|record| record.body == b"not a file").count(), 1);
    }
    engine.close().unwrap();
}

#[test]
fn a_store_of_another_program_is_not_mounted_as_a_tree_and_not_written() {
    for client in [OTHER, ClientTag::UNNAMED] {
        for published in [false, true] {
            let (device, object) = of_another(client, published);
            let before = device.image().to_bytes();
            let refused = try_mount(&device, false).err().expect("it holds no tree");
            assert!(refused.contains(&format!("belongs to {client}, not to \"envoyfs\"")), "{refused}");
            assert!(try_mount(&device, true).is_err(), "nor to be read");
            assert!(device.image().to_bytes() == before, "a mount that was refused wrote");
            still_holds(&device, client, &object, published);
        }
    }
}

#[test]
fn a_check_says_that_it_does_not_understand_a_store_of_another_program_and_no_repair_frees_anything() {
    for client in [OTHER, ClientTag::UNNAMED] {
        for published in [false, true] {
            let (device, object) = of_another(client, published);
            let before = device.image().to_bytes();
            let report = is_found(&device, findings::OTHER_CLIENT);
            assert!(report.is_clean() && report.to_string().contains(&client.to_string()), "{report}");
            for all in [false, true] {
                let report = repair(&device, all);
                assert!(report.is_clean() && report.repaired.is_empty(), "{report}");
            }
            let refused = rebuild_disk(&Disk::new(Arc::new(device.clone())), &settings(true)).unwrap_err();
            assert!(refused.to_string().contains("holds no file tree"), "{refused:#}");
            assert!(device.image().to_bytes() == before, "something was changed");
            still_holds(&device, client, &object, published);
        }
    }
}

#[test]
fn superblocks_of_a_store_of_another_program_are_mended_and_its_damaged_pages_left_to_it() {
    let (device, object) = of_another(OTHER, true);
    let mut surgeon = Surgeon::new(&device);
    surgeon.image.zero(0, 4096);
    let device = surgeon.device();
    assert_eq!(repair(&device, false).exit_code(), 1);
    assert!(check(&device).is_clean());
    still_holds(&device, OTHER, &object, true);

    // Its own books: they follow from the trees, which nobody here can walk.
    let mut surgeon = Surgeon::new(&device);
    let row = surgeon.directory.table.iter().find(|row| !row.metadata.is_none()).copied().unwrap();
    let at = surgeon.offset(row.metadata.container, row.metadata.units);
    surgeon.flip(at);
    let (before, device) = (surgeon.device(), surgeon.device());
    let report = repair(&device, true);
    assert!(numbers(&report).contains(&findings::SYSTEM_PAGE.number) && !report.is_clean(), "{report}");
    assert!(!report.to_string().contains("to repair"), "it names a repair that there is not:\n{report}");
    // But for the note that errors are left.
    let (found, before) = (device.image(), before.image());
    for at in (surgeon.superblock.segments_offset..surgeon.superblock.area_b).step_by(512) {
        let (mut a, mut b) = ([0; 512], [0; 512]);
        found.read(at, &mut a);
        before.read(at, &mut b);
        assert!(a == b, "something was changed at {at}");
    }
}

#[test]
fn a_rebuild_does_not_make_a_tree_of_the_segments_of_another_program() {
    let (device, _) = of_another(OTHER, true);
    let mut surgeon = Surgeon::new(&device);
    for at in Superblock::positions(surgeon.superblock.size) {
        surgeon.image.zero(at, 4096);
    }
    let device = surgeon.device();
    let before = device.image().to_bytes();
    let refused = rebuild_disk(&Disk::new(Arc::new(device.clone())), &settings(true)).unwrap_err();
    assert!(refused.to_string().contains("store of \"keyvalue\""), "{refused:#}");
    assert!(device.image().to_bytes() == before, "something was changed");
}

#[test]
fn a_store_that_nobody_has_used_belongs_to_who_opens_it_first() {
    let device = empty(16, 512);
    assert!(check(&device).is_clean());
    open(&device, OTHER).unwrap().close().unwrap();
    assert!(try_mount(&device, false).is_err());
    open(&device, OTHER).unwrap().close().unwrap();

    let device = empty(16, 512);
    mount(&device).close();
    assert!(matches!(open(&device, OTHER), Err(StoreError::OtherClient { .. })));
    mount(&device).close();
}

/// Signatures that a newer owner of the device puts over the first superblock: offset and bytes.
const SIGNATURES: [(&str, u64, &[u8]); 3] =
    [("LUKS", 0, b"LUKS\xba\xbe\0\x01"), ("swap", 4086, b"SWAPSPACE2"), ("ext", 0x438, b"\x53\xef")];

/// The store, with something newer at its start, of so many bytes.
fn taken(device: &SimulatedDevice, signature: (&str, u64, &[u8]), bytes: u64) -> SimulatedDevice {
    let mut image = device.image();
    image.zero(0, bytes);
    let mut block = vec![0; 4096];
    // What an ext superblock has besides, so that it is taken for one.
    block[0x400..0x404].copy_from_slice(&1000_u32.to_le_bytes());
    block[0x404..0x408].copy_from_slice(&1000_u32.to_le_bytes());
    block[0x418..0x41c].copy_from_slice(&2_u32.to_le_bytes());
    let at = usize::try_from(signature.1).unwrap();
    block[at..at + signature.2.len()].copy_from_slice(signature.2);
    image.write(0, &block);
    SimulatedDevice::from_image(image, 512, 1)
}

#[test]
fn what_stands_over_the_first_superblocks_is_not_overwritten_unless_told() {
    let device = populated(12);
    for signature in SIGNATURES {
        for bytes in [4096, 8192] {
            let device = taken(&device, signature, bytes);
            let before = device.image().to_bytes();
            let refused = try_mount(&device, false).err().expect("it is refused");
            assert!(refused.contains(signature.0) && refused.contains("--overwrite"), "{refused}");
            try_mount(&device, true).expect("it can be looked at");
            is_found(&device, findings::FOREIGN);
            for all in [false, true] {
                let report = repair(&device, all);
                assert!(report.repaired.is_empty() && report.exit_code() == 4, "{report}");
            }
            let refused = rebuild_disk(&Disk::new(Arc::new(device.clone())), &settings(true)).unwrap_err();
            assert!(refused.to_string().contains(signature.0), "{refused:#}");
            assert!(device.image().to_bytes() == before, "{}: something was changed", signature.0);

            let told = Settings { overwrite: true, ..settings(false) };
            let report = repair_disk(&Disk::new(Arc::new(device.clone())), &told).unwrap();
            assert!(report.is_clean() && report.exit_code() == 1, "{report}");
            mount(&device).close();
        }
    }
}

#[test]
fn a_rebuild_does_not_overwrite_what_has_taken_the_place_of_a_store_unless_told() {
    let device = populated(12);
    let tail = Surgeon::new(&device).superblock.size - 8192;
    for signature in SIGNATURES {
        let device = taken(&device, signature, 8192);
        let mut image: DeviceImage = device.image();
        image.zero(tail, 8192);
        let device = SimulatedDevice::from_image(image, 512, 1);
        let before = device.image().to_bytes();
        let refused = rebuild_disk(&Disk::new(Arc::new(device.clone())), &settings(true)).unwrap_err().to_string();
        assert!(refused.contains(signature.0) && refused.contains("--overwrite"), "{refused}");
        assert!(device.image().to_bytes() == before, "something was changed");
        let told = Settings { overwrite: true, ..settings(true) };
        let report = rebuild_disk(&Disk::new(Arc::new(device.clone())), &told).unwrap();
        assert!(report.is_clean(), "{report}");
    }
}

/// What is beyond the start is damaged too, so that recovery fails: whatever stands where copies of the superblock were stays.
#[test]
fn a_mount_that_fails_has_not_written_superblocks() {
    let device = populated(12);
    let mut surgeon = Surgeon::new(&device);
    surgeon.image.zero(0, 8192);
    let superblock = surgeon.superblock.clone();
    for (number, row) in (0_u32..).zip(surgeon.directory.table.clone()) {
        let roots = [surgeon.directory.entry.roots, surgeon.directory.entry.roots_twin];
        if roots.iter().flatten().any(|roots| roots.oid.segment() == row.segment) {
            surgeon.image.zero(surgeon.offset(number, 0), superblock.segment_bytes.into());
        }
    }
    let device = surgeon.device();
    let before = device.image().to_bytes();
    assert!(try_mount(&device, false).is_err());
    assert!(device.image().to_bytes() == before, "it wrote");
}
