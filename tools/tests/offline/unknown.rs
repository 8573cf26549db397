//! What a newer version may have written: nobody who does not understand it may free it, cut it, or go back behind it.
use crate::foreign::open;
use crate::fsck_bench::*;
use envoyfs_engine::device::SimulatedDevice;
use envoyfs_engine::store::{Draft, Need, Store as _, Tier};
use envoyfs_layout::checksum::{crc32c, seeded};
use envoyfs_layout::node::TreeKind;
use envoyfs_layout::roots::RootsObject;
use envoyfs_layout::segment::TablePart;
use envoyfs_layout::superblock::Superblock;
use envoyfs_layout::{ClientTag, Reference};
use envoyfs_tools::fsck::disk::Disk;
use envoyfs_tools::fsck::findings::{self, Kind};
use envoyfs_tools::fsck::rebuild::rebuild_disk;
use std::sync::Arc;

fn disk(device: &SimulatedDevice) -> Disk {
    Disk::new(Arc::new(device.clone()))
}

/// It is told as fatal, and neither a repair nor a rebuild writes a byte.
fn is_left_alone(device: &SimulatedDevice, kind: &Kind) {
    let report = is_found(device, kind);
    assert_eq!(report.exit_code() & 8, 8, "{report}");
    let before = device.image().to_bytes();
    for all in [false, true] {
        let report = repair(device, all);
        assert!(!report.is_clean(), "{report}");
        assert!(device.image().to_bytes() == before, "a repair wrote to what it does not know:\n{report}");
    }
    let rebuilt = rebuild_disk(&disk(device), &settings(true));
    let why = rebuilt.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(why.contains("newer envoyfs"), "{why}");
    assert!(device.image().to_bytes() == before, "a rebuild wrote to what it does not know");
}

/// What the table of its container says of an object.
fn set_row(surgeon: &mut Surgeon, object: &Reference) {
    let container = surgeon.directory.table.iter().position(|row| row.segment == object.oid.segment()).unwrap() as u32;
    for unit in 8..surgeon.superblock.segment_bytes / 512 {
        let at = surgeon.offset(container, unit);
        let mut bytes = vec![0; 512];
        surgeon.image.read(at, &mut bytes);
        let Ok(units) = TablePart::units_of(&bytes) else { continue };
        bytes.resize(512 * units, 0);
        surgeon.image.read(at, &mut bytes);
        let Ok(mut part) = TablePart::decode(&bytes) else { continue };
        for row in part.rows.iter_mut().filter(|row| row.oid == object.oid) {
            (row.crc, row.stored_bytes) = (object.crc, object.stored_bytes);
        }
        surgeon.image.write(at, &part.encode());
    }
}

/// Both copies of the roots object are what tables of containers say too.
fn set_rows_of_roots(surgeon: &mut Surgeon) {
    for copy in [surgeon.directory.entry.roots, surgeon.directory.entry.roots_twin].into_iter().flatten() {
        set_row(surgeon, &copy);
    }
}

/// The store with other roots, and everything that vouches for them.
fn with_roots(device: &SimulatedDevice, change: impl Fn(&mut Vec<u8>)) -> SimulatedDevice {
    let mut surgeon = Surgeon::new(device);
    let mut bytes = surgeon.read(&surgeon.directory.entry.roots.unwrap());
    change(&mut bytes);
    for copy in [surgeon.directory.entry.roots, surgeon.directory.entry.roots_twin].into_iter().flatten() {
        surgeon.image.write(surgeon.position(copy.oid), &bytes);
    }
    let entry = &mut surgeon.directory.entry;
    [&mut entry.roots, &mut entry.roots_twin].into_iter().flatten().for_each(|copy| copy.crc = crc32c(&bytes));
    surgeon.publish();
    set_rows_of_roots(&mut surgeon);
    surgeon.device()
}

#[test]
fn roots_of_a_newer_version_are_left_to_it() {
    let device = populated(12);
    let blob = with_roots(&device, |bytes| {
        let mut roots = RootsObject::decode(bytes).unwrap();
        let length = bytes.len();
        roots.blob[4] = 2;
        *bytes = roots.encode();
        assert_eq!(bytes.len(), length);
    });
    is_left_alone(&blob, findings::FEATURES);
    // The version of the object itself stands behind its magic number.
    let object = with_roots(&device, |bytes| bytes[4] += 1);
    is_left_alone(&object, findings::FEATURES);
}

#[test]
fn roots_that_make_no_sense_free_nothing() {
    let expected = Surgeon::new(&populated(12)).directory.entry.totals;
    let device = with_roots(&populated(12), |bytes| {
        let mut roots = RootsObject::decode(bytes).unwrap();
        roots.blob[0] ^= 1;
        *bytes = roots.encode();
    });
    is_found(&device, findings::NO_ROOTS);
    for all in [false, true] {
        assert_eq!(repair(&device, all).exit_code(), 8);
    }
    assert_eq!(Surgeon::new(&device).directory.entry.totals, expected);
}

/// The record of the root territory, changed.
fn with_record(device: &SimulatedDevice, change: impl Fn(&mut Vec<Item>)) -> SimulatedDevice {
    let mut surgeon = Surgeon::new(device);
    surgeon.nodes(&mut |header, items| {
        if header.tree == TreeKind::TerritoryTable && header.level == 0 {
            change(items);
        }
    });
    set_rows_of_roots(&mut surgeon);
    surgeon.device()
}

#[test]
fn a_record_of_the_root_territory_with_a_bit_of_a_newer_version_is_left_to_it() {
    // Its flags stand behind its numbers, the hint and the kind.
    is_left_alone(&with_record(&populated(12), |items| items[0].value[19] |= 0x80), findings::FEATURES);
}

#[test]
fn a_store_without_its_root_territory_is_not_called_clean_and_nothing_of_it_is_freed() {
    let device = populated(12);
    let expected = Surgeon::new(&device).directory.entry.totals;
    for damage in [|items: &mut Vec<Item>| items.clear(), |items: &mut Vec<Item>| items[0].value[28] = 1] {
        let damaged = with_record(&device, damage);
        is_found(&damaged, findings::NO_TOP);
        for all in [false, true] {
            let report = repair(&damaged, all);
            assert_eq!(report.exit_code() & 8, 8, "{report}");
        }
        assert_eq!(Surgeon::new(&damaged).directory.entry.totals, expected);
        let left = is_mended(&damaged, findings::NO_TOP);
        assert!(left.contains_key("/top/file 4"), "an older checkpoint has it: {:?}", left.keys());
    }
}

#[test]
fn a_log_with_operations_of_a_newer_version_is_left_to_it() {
    let device = populated(12);
    let engine = open(&device, ClientTag::FILES).unwrap();
    let need = Need { log_bytes: 1 << 10, node_bytes: 0, payload_bytes: 0, data_bytes: 0, tier: Tier::Writer };
    let mut permit = engine.reserve(need).unwrap();
    let draft = Draft { kind: 300, territory: 0, origin: None, data: &[], body: b"what will be invented" };
    let appended = engine.append(&mut permit, draft).unwrap();
    engine.commit(appended.end).unwrap();
    drop(permit);
    engine.close().unwrap();
    is_left_alone(&device, findings::FEATURES);
    // A rebuild may not lose it either when nothing else is left.
    let device = crate::rebuild::wiped(&device, false);
    let before = device.image().to_bytes();
    let refused = rebuild_disk(&disk(&device), &settings(true)).err().map(|error| error.to_string());
    assert!(refused.is_some_and(|why| why.contains("newer envoyfs")) && device.image().to_bytes() == before);
}

#[test]
fn a_store_with_features_that_allow_to_read_is_not_written() {
    let mut surgeon = Surgeon::new(&populated(12));
    surgeon.superblock.read_only_compatible = 1 << 40;
    surgeon.directory.table.iter_mut().find(|row| row.segment != 0).unwrap().live_units += 1;
    surgeon.publish();
    let second = Superblock::positions(surgeon.superblock.size)[1];
    surgeon.flip(second + 100);
    let device = surgeon.device();
    is_found(&device, findings::TABLE_LIVE);
    is_found(&device, findings::ONLY_READ);
    let before = device.image().to_bytes();
    for all in [false, true] {
        assert_eq!(repair(&device, all).exit_code(), 4);
    }
    assert!(rebuild_disk(&disk(&device), &settings(true)).is_err());
    assert!(device.image().to_bytes() == before, "something was written");
}

/// As a power cut leaves the publication of a newer version: the first copy torn, and what is whole is newer.
#[test]
fn superblocks_of_a_newer_format_are_left_to_it_if_one_is_torn() {
    let mut surgeon = Surgeon::new(&populated(12));
    for at in Superblock::positions(surgeon.superblock.size) {
        let mut bytes = surgeon.superblock.encode(at);
        bytes[8..16].copy_from_slice(&[0, 0, 0, 0, 2, 0, 0, 0]);
        let crc = seeded(&surgeon.superblock.seed, at, &bytes);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        surgeon.image.write(at, &bytes);
    }
    surgeon.flip(100);
    let device = surgeon.device();
    is_found(&device, findings::FEATURES);
    let before = device.image().to_bytes();
    for all in [false, true] {
        assert_eq!(repair(&device, all).exit_code(), 8);
    }
    assert!(rebuild_disk(&disk(&device), &settings(true)).is_err());
    assert!(device.image().to_bytes() == before, "something was written");
}

#[test]
fn a_table_of_territories_that_is_no_node_is_fatal() {
    let mut surgeon = Surgeon::new(&populated(12));
    let expected = surgeon.directory.entry.totals;
    let [first, second] = [surgeon.directory.entry.roots.unwrap(), surgeon.directory.entry.roots_twin.unwrap()];
    let mut roots = RootsObject::decode(&surgeon.read(&first)).unwrap();
    let table = roots.references[0];
    let nothing = vec![0x5a; table.stored_bytes as usize];
    surgeon.image.write(surgeon.position(table.oid), &nothing);
    roots.references[0].crc = crc32c(&nothing);
    roots.copies.clear();
    let bytes = roots.encode();
    for copy in [first, second] {
        surgeon.image.write(surgeon.position(copy.oid), &bytes);
    }
    let entry = &mut surgeon.directory.entry;
    for copy in [&mut entry.roots, &mut entry.roots_twin].into_iter().flatten() {
        (copy.crc, copy.stored_bytes) = (crc32c(&bytes), u32::try_from(bytes.len()).unwrap());
        copy.logical_bytes = copy.stored_bytes;
    }
    surgeon.publish();
    let device = surgeon.device();
    is_found(&device, findings::NO_TOP);
    for all in [false, true] {
        let report = repair(&device, all);
        assert!(report.exit_code() & 8 == 8 && report.to_string().contains("--rebuild"), "{report}");
    }
    assert_eq!(Surgeon::new(&device).directory.entry.totals, expected);
}
