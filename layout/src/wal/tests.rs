use super::*;
use crate::directory_page::Bounds;
use crate::{Encoding, Hlc, Oid, Reference, ReferenceKind};
use proptest::prelude::*;

const SEED: [u8; 16] = [3; 16];

fn record(body: &[u8]) -> Vec<u8> {
    let crcs = [1_u32, 2, 3];
    let data = [
        NamedObject { oid: Oid::new(1, 2, 8), extends: None, stored_bytes: 4096 * 2 + 512, crcs: &crcs[..] },
        NamedObject { oid: Oid::new(1, 2, 25), extends: Some(Oid::new(1, 2, 8)), stored_bytes: 4096, crcs: &crcs[..1] },
    ];
    let parts = RecordParts {
        kind: 300,
        local: false,
        ignorable: true,
        hlc: Hlc(0x1_0000),
        territory: 1,
        origin: Some(Origin { client: 1, sequence: 2, floor: 2 }),
        result: Some(OperationResult { status: 0, flags: 1, inode: 77, version: 3 }),
        data: &data,
        body,
    };
    let mut bytes = Vec::new();
    parts.encode(&mut bytes).unwrap();
    assert_eq!(bytes.len(), padded(parts.length()));
    bytes
}

fn header() -> BlockHeader {
    BlockHeader {
        used_bytes: 80 + 40 + 64,
        local_bytes: 40,
        volume: 7,
        sequence: 12,
        first_lsn: Lsn(4096),
        writer_epoch: 1,
        generation: 3,
        durable: Lsn(4000),
        committed: Lsn(4000),
        stream_hash: 0,
        first_record: 120,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn golden_record() {
    let bytes = record(b"body!");
    assert_eq!(
        hex(&bytes),
        concat!(
            "a50000002c01000f0000010000000000d7da707400000000010000000000000001000000000000000200000000000000",
            "020000000000000000000000010000004d00000000000000030000000000000002000000000000000800020000000100",
            "000000000000000000220000030000000100000002000000030000000000000019000200000001000800020000000100",
            "00100000010000000100000000000000626f647921000000",
        )
    );
}

#[test]
fn golden_block() {
    let mut block = vec![0; 512];
    block[80..184].fill(0x5a);
    header().seal(&mut block, &SEED, 65536);
    assert_eq!(
        hex(&block[..80]),
        concat!(
            "45565742048e4d5eb8000000070000000c0000000000000000100000000000000100000003000000a00f000000000000",
            "a00f000000000000000000000000000078000000280000000000000000000000",
        )
    );
}

#[test]
fn records_round_trip_with_all_their_parts() {
    for length in 0..20 {
        let bytes = record(&vec![9; length]);
        let (decoded, taken) = Record::decode(&bytes).unwrap();
        assert_eq!(taken, bytes.len());
        assert_eq!(decoded.body, vec![9; length]);
        assert_eq!(decoded.data[0].crcs, [1, 2, 3]);
        assert_eq!(decoded.data[1].extends, Some(Oid::new(1, 2, 8)));
        assert_eq!(decoded.origin.unwrap().sequence, 2);
        assert_eq!(decoded.result.unwrap().inode, 77);
        assert!(matches!(Record::decode(&bytes[..taken - 8]), Err(LayoutError::Short { .. })));
    }
}

#[test]
fn a_record_longer_than_the_limit_is_refused_and_leaves_nothing() {
    let body = vec![0; RECORD_BYTES_MAX];
    let parts = RecordParts {
        kind: 256,
        local: false,
        ignorable: false,
        hlc: Hlc::ZERO,
        territory: 0,
        origin: None,
        result: None,
        data: &[],
        body: &body,
    };
    let mut out = Vec::new();
    assert!(parts.encode(&mut out).is_err());
    assert!(out.is_empty());
}

#[test]
fn a_block_reads_back_only_in_its_store_and_place() {
    let mut block = vec![0; 4096];
    block[80..184].fill(0x5a);
    header().seal(&mut block, &SEED, 65536);
    let decoded = Block::decode(&block, &SEED, 65536).unwrap();
    assert_eq!(decoded.header, header());
    assert_eq!((decoded.local.len(), decoded.shared.len(), decoded.end_lsn()), (40, 64, Lsn(4160)));
    assert!(Block::decode(&block, &SEED, 65536 + 4096).is_err());
    assert!(Block::decode(&block, &[4; 16], 65536).is_err());
}

#[test]
fn engine_bodies_round_trip() {
    let reference = |kind| Reference {
        oid: Oid::new(1, 5, 16),
        birth: Hlc(0x301),
        stored_bytes: 512,
        logical_bytes: 100,
        crc: 6,
        kind,
        flags: 0,
        encoding: Encoding::Plain,
    };
    let body = CheckpointBody {
        number: 4,
        freeze: Lsn(800),
        stream_hash: 0,
        merged_through: 3,
        bounds: Bounds { segment: 1, inode: 2, realm: 3, territory: 4, pin: 5 },
        history_floor: 1,
        drop_position: 9,
        hlc: Hlc(0x300),
        roots: reference(ReferenceKind::Roots),
        roots_twin: reference(ReferenceKind::Roots),
        batch: vec![reference(ReferenceKind::Batch); 3],
    };
    let bytes = body.encode();
    assert_eq!(bytes.len(), CheckpointBody::bytes(3));
    assert_eq!(CheckpointBody::decode(&bytes), Ok(body));
    assert!(CheckpointBody::decode(&bytes[..bytes.len() - 1]).is_err());
    let opened = SegmentOpened { number: 8, stream: 2 };
    assert_eq!(hex(&opened.encode()), "0800000002000000");
    assert_eq!(SegmentOpened::decode(&opened.encode()), Ok(opened));
    let placed = SegmentPlaced { number: 8, container: 0x1234 };
    assert_eq!(hex(&placed.encode()), "0800000034120000");
    assert_eq!(SegmentPlaced::decode(&placed.encode()), Ok(placed));
    let relocated = Relocated { number: 8, slot: 9, units: 10, container: 11, offset_units: 12 };
    assert_eq!(hex(&relocated.encode()), "08000000090000000a0000000b0000000c00000000000000");
    assert_eq!(Relocated::decode(&relocated.encode()), Ok(relocated));
    assert!(Relocated::decode(&Relocated { units: 0, ..relocated }.encode()).is_err());
    assert!(Relocated::decode(&Relocated { units: u32::MAX, ..relocated }.encode()).is_err());
    assert!(Relocated::decode(&Relocated { offset_units: u32::MAX, ..relocated }.encode()).is_err());
    let next = Bounds { segment: 1, inode: 2, realm: 3, territory: 4, pin: 5 };
    let closed = Closed { hlc: Hlc(0x1234), superblock: 9, next };
    let numbers = "01000000000000000200000000000000030000000000000004000000000000000500000000000000";
    assert_eq!(hex(&closed.encode()), format!("34120000000000000900000000000000{numbers}"));
    assert_eq!(Closed::decode(&closed.encode()), Ok(closed));
    let sealed = SegmentSealed { number: 8, length: 4096, digest: 7 };
    assert_eq!(SegmentSealed::decode(&sealed.encode()), Ok(sealed));
}

fn with_good_crc(mut bytes: Vec<u8>) -> Vec<u8> {
    let length = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
    bytes[16..20].fill(0);
    if let Some(record) = bytes.get(..length) {
        let crc = checksum::crc32c(record);
        bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    }
    bytes
}

proptest! {
    #[test]
    fn mutated_records_are_refused(at in 0_usize..160, value in 1_u8..) {
        let mut bytes = record(b"0123456789");
        prop_assume!(at < bytes.len());
        bytes[at] ^= value;
        prop_assert!(Record::decode(&bytes).is_err());
    }
    #[test]
    fn hostile_records_with_a_good_checksum_never_panic(changes in proptest::collection::vec((0_usize..168, any::<u8>()), 1..12)) {
        let mut bytes = record(b"0123456789");
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) { *byte = value; }
        }
        let _ = Record::decode(&with_good_crc(bytes));
    }
    #[test]
    fn hostile_blocks_with_a_good_checksum_never_panic(changes in proptest::collection::vec((8_usize..80, any::<u8>()), 1..12)) {
        let mut block = vec![0; 512];
        header().seal(&mut block, &SEED, 0);
        for (at, value) in changes { block[at] = value; }
        block[4..8].fill(0);
        let crc = checksum::seeded(&SEED, 0, &block);
        block[4..8].copy_from_slice(&crc.to_le_bytes());
        let _ = Block::decode(&block, &SEED, 0);
    }
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = Record::decode(&bytes);
        let _ = Block::decode(&bytes, &SEED, 0);
        let _ = CheckpointBody::decode(&bytes);
        let _ = SegmentOpened::decode(&bytes);
        let _ = SegmentPlaced::decode(&bytes);
        let _ = Relocated::decode(&bytes);
        let _ = Closed::decode(&bytes);
        let _ = SegmentSealed::decode(&bytes);
    }
}
