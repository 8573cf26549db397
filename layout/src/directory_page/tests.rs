use super::*;
use crate::{Encoding, Oid, ReferenceKind};
use crate::{Hlc, Lsn, Reference};
use proptest::prelude::*;

fn sample() -> DirectoryPage {
    let roots = Reference {
        oid: Oid::new(7, 3, 8),
        birth: Hlc(0x501),
        stored_bytes: 1024,
        logical_bytes: 700,
        crc: 0xcafe,
        kind: ReferenceKind::Roots,
        flags: 0,
        encoding: Encoding::Plain,
    };
    let cut = |generation, lsn, sequence| Cut { generation, epoch: 1, lsn: Lsn(lsn), sequence, offset: 88 };
    let row = ContainerRow {
        state: ContainerState::Open,
        stream: 1,
        flags: 0,
        volume: 7,
        segment: 3,
        used_units: 900,
        live_units: 800,
        last_part: 890,
        birth_low: Hlc(3),
        birth_high: Hlc(0x501),
        metadata: Place { container: 2, units: 16, stored_bytes: 4096, crc: 99 },
    };
    DirectoryPage {
        sequence: 9,
        entry: VolumeEntry {
            volume: 7,
            role: Role::Writer,
            uuid: [5; 16],
            promised_epoch: 1,
            writer_epoch: 1,
            config_version: 0,
            ring: [(65536, 8 << 20), (0, 0), (0, 0), (0, 0)],
            ring_generation: 4,
            checkpoint: PublishedCheckpoint {
                record: Lsn(8000),
                epoch: 1,
                freeze: Lsn(7200),
                stream_hash: 0,
                number: 3,
            },
            start: StartPosition { generation: 2, sequence: 70, offset: 160, ring_block: 70 },
            cuts: vec![cut(3, 7600, 71), cut(4, 8200, 75)],
            client: crate::ClientTag::FILES,
            roots: Some(roots),
            roots_twin: None,
            drop_queue: Place { container: 2, units: 24, stored_bytes: 512, crc: 1 },
            orphaned_segments: Place::NONE,
            history: Place { container: 3, units: 8, stored_bytes: 512, crc: 2 },
            unreadable: Place::NONE,
            bounds: Bounds { segment: 64, inode: 65536, realm: 2, territory: 2, pin: 1 },
            merged_through: 3,
            checkpoint_hlc: Hlc(0x600),
            totals: Totals {
                live_units: 800,
                live_objects: 12,
                shared_objects: 1,
                drop_queue_objects: 2,
                nodes: 5,
                segments: 1,
                deferred_units: 40,
            },
        },
        containers: 5,
        base: table().base,
        changed: vec![(1, row), (4, ContainerRow::FREE)],
    }
}

/// Containers 0, 2 and 3 are sealed.
fn rows() -> Vec<ContainerRow> {
    let sealed = |segment| ContainerRow { state: ContainerState::Sealed, segment, used_units: 9, ..ContainerRow::FREE };
    vec![sealed(7), ContainerRow::FREE, sealed(8), sealed(9), ContainerRow::FREE]
}

fn table() -> SegmentTable {
    SegmentTable::encode(&rows(), &SEED, 1, 6)
}

const SEED: [u8; 16] = [9; 16];

#[test]
fn golden_directory() {
    let (bytes, crc) = sample().encode(&SEED);
    assert_eq!(bytes.len(), 64 + 2048 + 2 * 64);
    assert_eq!((crc, checksum::hash64(&bytes)), (1_003_755_803, 2_419_396_956_866_417_428), "the format changed");
    let SegmentTable { base, bytes } = table();
    assert_eq!((base.slot, base.sequence, base.rows, bytes.len()), (1, 6, 4, 4 * 64));
    assert_eq!((base.crc, checksum::hash64(&bytes)), (163_302_008, 10_257_152_339_246_156_222), "the format changed");
}

#[test]
fn a_page_reads_back_from_a_longer_slot() {
    let (mut bytes, crc) = sample().encode(&SEED);
    bytes.resize(8192, 0xaa);
    assert_eq!(DirectoryPage::decode(&bytes, &SEED, crc), Ok(sample()));
    assert!(DirectoryPage::decode(&bytes, &[8; 16], crc).is_err(), "another store's");
    assert!(DirectoryPage::decode(&bytes, &SEED, crc ^ 1).is_err(), "not the one that the superblock names");
}

#[test]
fn changed_rows_stand_over_those_of_the_whole_table_and_the_rest_is_free() {
    let mut bytes = table().bytes;
    bytes.resize(4096, 0xaa);
    let directory = sample().over(&bytes, &SEED, 5).unwrap();
    assert_eq!((directory.sequence, &directory.entry), (9, &sample().entry));
    let [(_, changed), _] = sample().changed[..] else { panic!("two") };
    let [first, _, third, fourth, fifth] = rows()[..] else { panic!("five") };
    assert_eq!(directory.table, [first, changed, third, fourth, fifth]);
}

#[test]
fn a_table_is_taken_only_for_the_one_that_the_page_names() {
    let (page, bytes) = (sample(), table().bytes);
    assert!(page.clone().over(&bytes, &SEED, 6).is_err(), "a store of another size");
    assert!(page.clone().over(&bytes, &[8; 16], 5).is_err(), "another store's");
    assert!(page.clone().over(&bytes[..255], &SEED, 5).is_err(), "cut short");
    for (slot, sequence) in [(0, 6), (1, 5)] {
        let other = SegmentTable::encode(&rows(), &SEED, slot, sequence);
        let named = DirectoryPage { base: TableBase { crc: page.base.crc, ..other.base }, ..page.clone() };
        assert!(named.over(&bytes, &SEED, 5).is_err(), "slot {slot}, sequence {sequence}");
    }
    let mut exchanged = rows();
    exchanged.swap(2, 3);
    let SegmentTable { mut bytes, .. } = SegmentTable::encode(&exchanged, &SEED, 1, 6);
    bytes.swap(2 * 64 + 56, 3 * 64 + 56);
    let position = [1_u64.to_le_bytes(), 6_u64.to_le_bytes()].concat();
    let crc = checksum::crc32c_pieces(&[&SEED, &position, &bytes]);
    let named = DirectoryPage { base: TableBase { crc, ..page.base }, ..page };
    let expected = LayoutError::Field { structure: "segment table", field: "container", found: 3 };
    assert_eq!(named.over(&bytes, &SEED, 5), Err(expected), "rows say whose they are");
}

#[test]
fn a_free_store_has_no_rows() {
    let SegmentTable { base, bytes } = SegmentTable::encode(&[ContainerRow::FREE; 3], &SEED, 0, 1);
    assert!(bytes.is_empty() && base.rows == 0);
    assert_eq!(SegmentTable::decode(&[], &SEED, &base), Ok(Vec::new()));
}

#[test]
fn a_slot_has_room_for_the_largest_page_and_every_row() {
    for containers in [0, 1, 31, 247, 248, 640, 8191, 8192, 65_536, u32::MAX] {
        let changed = u64::from(DirectoryPage::changed_max(containers));
        let (page, slot) = (DirectoryPage::bytes_max(containers), DirectoryPage::slot_bytes(containers));
        assert!(2112 + 64 * changed <= page && page % 4096 == 0 && page <= 68 << 10);
        assert_eq!(slot - page, 64 * u64::from(containers));
    }
}

#[test]
fn changed_rows_out_of_order_or_outside_are_refused() {
    let row = ContainerRow::FREE;
    for changed in [vec![(4, row), (1, row)], vec![(1, row), (1, row)], vec![(5, row)]] {
        let (bytes, crc) = DirectoryPage { changed, ..sample() }.encode(&SEED);
        assert!(matches!(DirectoryPage::decode(&bytes, &SEED, crc), Err(LayoutError::Field { .. })));
    }
}

#[test]
fn a_block_has_exactly_the_generation_of_the_last_cut_before_it() {
    let entry = sample().entry;
    let at: Vec<u32> = (69..78).map(|sequence| entry.generation_at(sequence)).collect();
    assert_eq!(at, [2, 2, 2, 3, 3, 3, 3, 4, 4]);
}

#[test]
fn cuts_out_of_order_are_refused() {
    let mut directory = sample();
    directory.entry.cuts.reverse();
    let (bytes, crc) = directory.encode(&SEED);
    assert!(matches!(DirectoryPage::decode(&bytes, &SEED, crc), Err(LayoutError::Field { .. })));
}

proptest! {
    #[test]
    fn mutated_directories_are_refused(at in 0_usize..2240, value in 1_u8..) {
        let (mut bytes, crc) = sample().encode(&SEED);
        bytes[at] ^= value;
        prop_assert!(DirectoryPage::decode(&bytes, &SEED, crc).is_err());
    }
    /// As a writer with a fault would: the checksum is right, the fields are not.
    #[test]
    fn hostile_directories_with_a_good_checksum_never_panic(changes in proptest::collection::vec((12_usize..2240, any::<u8>()), 1..20)) {
        let (mut bytes, _) = sample().encode(&SEED);
        for (at, value) in changes {
            bytes[at] = value;
        }
        bytes[8..12].fill(0);
        let sequence = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
        let crc = checksum::seeded(&SEED, sequence % 2, &bytes);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        let _ = DirectoryPage::decode(&bytes, &SEED, crc);
    }
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..6000)) {
        prop_assert!(DirectoryPage::decode(&bytes, &SEED, 0).is_err());
        let _ = ContainerRow::decode(&bytes);
        let _ = SegmentTable::decode(&bytes, &SEED, &TableBase { rows: 9, ..table().base });
    }
}
