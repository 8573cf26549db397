use super::row::bits;
use super::*;
use crate::{Hlc, Oid, ReferenceKind, UNIT};
use proptest::prelude::*;

fn header() -> SegmentHeader {
    SegmentHeader {
        seed: [9; 16],
        volume: 1,
        segment: 77,
        container: 5,
        stream: 2,
        flags: 0,
        birth_low: Hlc(3),
        opening: 11,
    }
}

fn part() -> TablePart {
    let row = |n: u16| TableRow {
        oid: Oid::new(1, 77, n),
        birth: Hlc(5),
        stored_bytes: 512,
        crc: 1,
        offset_units: n.into(),
        kind: ReferenceKind::Extent,
        owner: 8,
    };
    TablePart { segment: 77, previous: 3, opening: 11, rows: (8..30).map(row).collect() }
}

#[test]
fn header_and_footer_hold_at_their_position_in_their_store_only() {
    let unit = header().encode(4096);
    assert_eq!(SegmentHeader::decode(&unit, &[9; 16], 4096), Ok(header()));
    assert!(SegmentHeader::decode(&unit, &[9; 16], 8192).is_err());
    assert!(SegmentHeader::decode(&unit, &[8; 16], 4096).is_err());
    let footer = SegmentFooter {
        segment: 77,
        last_part: 9,
        objects: 4,
        used_units: 40,
        digest: 6,
        birth_low: Hlc(1),
        birth_high: Hlc(2),
        opening: 11,
    };
    let unit = footer.encode(&[9; 16], 512);
    assert_eq!(SegmentFooter::decode(&unit, &[9; 16], 512), Ok(footer));
    assert!(SegmentFooter::decode(&unit, &[9; 16], 1024).is_err());
}

#[test]
fn table_parts_round_trip_and_tell_their_length() {
    let bytes = part().encode();
    assert_eq!(TablePart::units_of(&bytes[..512]), Ok(bytes.len() / 512));
    assert_eq!(TablePart::decode(&bytes), Ok(part()));
    // Written down: the first row says all, those like it their checksum and nothing else.
    let first = [2 | bits::GAP | bits::UNITS | bits::VOLUME | bits::OWNER, 8, 1, 1, 0, 16, 10, 1, 0, 0, 0];
    assert_eq!(bytes[32..43], first);
    assert_eq!(bytes[43..49], [2, 0, 1, 0, 0, 0]);
    assert_eq!(bytes[20], 11 + 21 * 6);
}

#[test]
fn rows_of_data_are_short() {
    let mut rows = PartRows::new(0);
    for n in 0..1000_u32 {
        // Survivors: blocks of all segments, births over a day, a file each.
        let oid = Oid::new(1, n * 7919 % 14_000, u16::try_from(n * 131 % 8192).unwrap());
        let birth = Hlc((1_700_000_000_000 + u64::from(n) * 7_919_993 % 86_400_000) << 16);
        let (kind, owner) = (ReferenceKind::Extent, u64::from(n * 31 % 20_000));
        rows.push(&TableRow { oid, birth, stored_bytes: 4096, crc: n, offset_units: 8 + n * 8, kind, owner });
    }
    let bytes = rows.finish(3, 3).len();
    assert!(bytes < 1000 * 21, "{bytes}");
}

#[test]
fn a_row_moved_by_the_cleaner_keeps_its_digest() {
    let row = part().rows[0];
    assert_eq!(row.digest(), TableRow { offset_units: 99, ..row }.digest());
    assert_ne!(row.digest(), TableRow { crc: 99, ..row }.digest());
}

proptest! {
    #[test]
    fn any_rows_round_trip(
        segment in 0u32..3,
        rows in proptest::collection::vec((0u32..3, 0u32..3, 1u32..4, any::<(u64, u64, u32)>(), 0u16..3, any::<bool>()), 0..40)
    ) {
        let mut at = 0;
        let mut row = |(gap, home, units, (birth, owner, crc), volume, node): (u32, u32, u32, (u64, u64, u32), u16, bool)| {
            let offset_units = at + gap * 1000;
            at = offset_units + units;
            let kind = if node { ReferenceKind::Node } else { ReferenceKind::Extent };
            let slot = u16::try_from(if home == segment { offset_units } else { crc % 65_536 }).unwrap_or(3);
            let oid = Oid::new(volume, home, slot);
            TableRow { oid, birth: Hlc(birth), stored_bytes: units * UNIT, crc, offset_units, kind, owner }
        };
        let rows: Vec<TableRow> = rows.into_iter().map(&mut row).collect();
        let part = TablePart { segment, previous: 7, opening: 3, rows };
        let bytes = part.encode();
        prop_assert!(bytes.len() / UNIT_BYTES <= TablePart::units_max(part.rows.len()));
        prop_assert_eq!(TablePart::decode(&bytes), Ok(part));
    }

    #[test]
    fn damage_in_a_table_part_is_seen(at in 0usize..900, flip in 1u8..) {
        let mut bytes = part().encode();
        let used = TablePart::HEADER_BYTES + usize::from(bytes[20]);
        bytes[at % used] ^= flip;
        prop_assert!(TablePart::decode(&bytes).is_err());
    }

    #[test]
    fn decoders_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1200)) {
        let _ = TablePart::decode(&bytes);
        let _ = TablePart::units_of(&bytes);
        let _ = SegmentHeader::decode(&bytes, &[0; 16], 0);
        let _ = SegmentFooter::decode(&bytes, &[0; 16], 0);
    }
}
