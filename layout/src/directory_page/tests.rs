use super::*;
use crate::{Encoding, Oid, ReferenceKind};
use crate::{Hlc, Lsn, Reference};
use proptest::prelude::*;

fn sample() -> VolumeDirectory {
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
    VolumeDirectory {
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
        table: vec![ContainerRow::FREE, row],
    }
}

const SEED: [u8; 16] = [9; 16];

#[test]
fn golden_directory() {
    let (bytes, crc) = sample().encode(&SEED);
    assert_eq!(bytes.len(), 4096 + 2 * 128);
    assert_eq!((crc, checksum::hash64(&bytes)), (1_616_480_463, 16_332_767_798_137_954_742), "the format changed");
}

#[test]
fn a_directory_reads_back_from_a_longer_slot() {
    let (mut bytes, crc) = sample().encode(&SEED);
    bytes.resize(8192, 0xaa);
    assert_eq!(VolumeDirectory::decode(&bytes, &SEED, crc), Ok(sample()));
    assert!(VolumeDirectory::decode(&bytes, &[8; 16], crc).is_err(), "another store's");
    assert!(VolumeDirectory::decode(&bytes, &SEED, crc ^ 1).is_err(), "not the one that the superblock names");
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
    assert!(matches!(VolumeDirectory::decode(&bytes, &SEED, crc), Err(LayoutError::Field { .. })));
}

proptest! {
    #[test]
    fn mutated_directories_are_refused(at in 0_usize..4352, value in 1_u8..) {
        let (mut bytes, crc) = sample().encode(&SEED);
        bytes[at] ^= value;
        prop_assert!(VolumeDirectory::decode(&bytes, &SEED, crc).is_err());
    }
    /// As a writer with a fault would: the checksum is right, the fields are not.
    #[test]
    fn hostile_directories_with_a_good_checksum_never_panic(changes in proptest::collection::vec((12_usize..4352, any::<u8>()), 1..20)) {
        let (mut bytes, _) = sample().encode(&SEED);
        for (at, value) in changes {
            bytes[at] = value;
        }
        bytes[8..12].fill(0);
        let sequence = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
        let crc = checksum::seeded(&SEED, sequence % 2, &bytes);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        let _ = VolumeDirectory::decode(&bytes, &SEED, crc);
    }
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..6000)) {
        prop_assert!(VolumeDirectory::decode(&bytes, &SEED, 0).is_err());
        let _ = ContainerRow::decode(&bytes);
    }
}
