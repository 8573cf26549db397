//! The properties.

use crate::seal;
use envoyfs_layout::batch::{Batch, PART_BYTES_MAX};
use envoyfs_layout::directory_page::{ContainerRow, DirectoryPage, ROW_BYTES, SegmentTable, TableBase};
use envoyfs_layout::key::{self, DirectoryKey, LinkKey, RealmKey};
use envoyfs_layout::node::{NodeBuilder, NodeView, edges};
use envoyfs_layout::operation::Operation;
use envoyfs_layout::roots::RootsObject;
use envoyfs_layout::segment::{SegmentFooter, SegmentHeader, TablePart, UNIT_BYTES};
use envoyfs_layout::superblock::Superblock;
use envoyfs_layout::system_page::{ListPage, SegmentPage};
use envoyfs_layout::wal::{
    Block, CheckpointBody, Closed, NamedObject, Record, RecordParts, Relocated, SegmentOpened, SegmentPlaced,
    SegmentSealed,
};
use envoyfs_layout::{
    ClientRoots, DirectoryAttributes, Entry, Inode, RealmRecord, Reference, Slice, SnapshotItem, TerritoryRecord,
    Totals,
};

/// Seed uuid and position that seeded structures are tried with.
pub const SEED: [u8; 16] = [9; 16];
/// A device offset.
pub const POSITION: u64 = 1 << 20;

/// Equal bytes; else a panic that says where they differ, and not all of them.
#[track_caller]
fn same(again: &[u8], bytes: &[u8]) {
    let differ = again.iter().zip(bytes).position(|(a, b)| a != b);
    let at = differ.or_else(|| (again.len() != bytes.len()).then_some(again.len().min(bytes.len())));
    if let Some(at) = at {
        panic!(
            "encoded again it differs at byte {at}: {:?} was {:?} ({} and {} bytes)",
            again.get(at),
            bytes.get(at),
            again.len(),
            bytes.len()
        );
    }
}

/// The same for items: value and references.
#[track_caller]
fn same_item(again: (Vec<u8>, Vec<Reference>), value: &[u8], references: &[Reference]) {
    same(&again.0, value);
    assert!(again.1 == references, "encoded again it has other references");
}

/// The input as it is, and with its checksum made right.
fn both(bytes: &[u8], sealed: Vec<u8>, check: impl Fn(&[u8])) {
    check(bytes);
    check(&sealed);
}

pub fn superblock(bytes: &[u8]) {
    both(bytes, seal::superblock(bytes, POSITION), |bytes| {
        let Ok(found) = Superblock::decode(bytes, POSITION) else { return };
        same(&found.encode(POSITION), &bytes[..4096]);
        assert_eq!(Superblock::decode(&found.encode(0), 0).as_ref(), Ok(&found));
        let next = found.next();
        assert_eq!(next.predecessor, found.hash());
        let _ = (found.label(), found.slot_positions());
    });
}

pub fn volume_directory(bytes: &[u8]) {
    let (sealed, crc) = seal::volume_directory(bytes, &SEED);
    let _ = DirectoryPage::decode(bytes, &SEED, 0);
    segment_table(bytes);
    let Ok(found) = DirectoryPage::decode(&sealed, &SEED, crc) else { return };
    let (again, again_crc) = found.encode(&SEED);
    same(&again, &sealed[..again.len()]);
    assert_eq!(again_crc, crc);
    assert!(DirectoryPage::decode(&again, &SEED, crc).as_ref() == Ok(&found));
    for sequence in [0, 1, found.entry.start.sequence, u64::MAX] {
        let _ = found.entry.generation_at(sequence);
    }
    over_a_table(found, bytes);
}

/// The page over a table of the whole rows that there are.
fn over_a_table(mut page: DirectoryPage, bytes: &[u8]) {
    let rows = u32::try_from(bytes.len() / ROW_BYTES).unwrap_or(0);
    let (table, _) = bytes.split_at(rows as usize * ROW_BYTES);
    (page.base.rows, page.containers) = (rows, rows + 8);
    page.changed.retain(|(container, _)| *container < rows + 8);
    page.base.crc = seal::segment_table(table, &SEED, page.base.slot.into(), page.base.sequence);
    let Ok(found) = page.over(table, &SEED, rows + 8) else { return };
    assert_eq!(found.table.len(), rows as usize + 8);
}

/// The whole rows that there are, as a table.
fn segment_table(bytes: &[u8]) {
    let rows = u32::try_from(bytes.len() / ROW_BYTES).unwrap_or(0);
    let (bytes, _) = bytes.split_at(rows as usize * ROW_BYTES);
    let mut base = TableBase { slot: 1, sequence: 7, rows, crc: 0 };
    let _ = SegmentTable::decode(bytes, &SEED, &base);
    base.crc = seal::segment_table(bytes, &SEED, 1, 7);
    let Ok(table) = SegmentTable::decode(bytes, &SEED, &base) else { return };
    let again = SegmentTable::encode(&table, &SEED, 1, 7);
    // Free rows at the end are not written.
    same(&again.bytes, &bytes[..again.bytes.len()]);
    assert!(table.iter().skip(again.base.rows as usize).all(|row| *row == ContainerRow::FREE));
    let read = SegmentTable::decode(&again.bytes, &SEED, &again.base);
    assert_eq!(read.as_deref(), Ok(&table[..again.base.rows as usize]));
}

pub fn log_block(bytes: &[u8]) {
    both(bytes, seal::seeded_at(bytes, 4, &SEED, POSITION), |bytes| {
        let Ok(block) = Block::decode(bytes, &SEED, POSITION) else { return };
        let mut again = bytes.to_vec();
        block.header.seal(&mut again, &SEED, POSITION);
        same(&again, bytes);
        assert!(block.end_lsn() >= block.header.first_lsn);
        for part in [block.local, block.shared] {
            let mut rest = part;
            while let Ok((_, length)) = Record::decode(rest) {
                rest = &rest[length..];
            }
        }
    });
}

pub fn record(bytes: &[u8]) {
    both(bytes, seal::record(bytes), |bytes| {
        let Ok((found, length)) = Record::decode(bytes) else { return };
        let data: Vec<NamedObject<&[u32]>> = found
            .data
            .iter()
            .map(|object| NamedObject {
                oid: object.oid,
                extends: object.extends,
                stored_bytes: object.stored_bytes,
                crcs: object.crcs.as_slice(),
            })
            .collect();
        let parts = RecordParts {
            kind: found.kind,
            local: found.local,
            ignorable: found.ignorable,
            hlc: found.hlc,
            territory: found.territory,
            origin: found.origin,
            result: found.result,
            data: &data,
            body: &found.body,
        };
        let mut again = Vec::new();
        parts.encode(&mut again).expect("what was decoded is not too long");
        same(&again, &bytes[..length]);
    });
}

/// The first byte says which body.
pub fn engine_records(bytes: &[u8]) {
    let Some((which, body)) = bytes.split_first() else { return };
    match which % 6 {
        0 => {
            if let Ok(found) = SegmentOpened::decode(body) {
                same(&found.encode(), body);
            }
        }
        1 => {
            if let Ok(found) = SegmentSealed::decode(body) {
                same(&found.encode(), body);
            }
        }
        2 => {
            if let Ok(found) = SegmentPlaced::decode(body) {
                same(&found.encode(), body);
            }
        }
        3 => {
            if let Ok(found) = Relocated::decode(body) {
                same(&found.encode(), body);
            }
        }
        4 => {
            if let Ok(found) = Closed::decode(body) {
                same(&found.encode(), body);
            }
        }
        _ => {
            if let Ok(found) = CheckpointBody::decode(body) {
                same(&found.encode(), body);
                assert!(CheckpointBody::decode(&found.encode()) == Ok(found));
            }
        }
    }
}

pub fn segment_header(bytes: &[u8]) {
    let unit = &bytes[..bytes.len().min(UNIT_BYTES)];
    both(unit, seal::seeded_at(unit, 8, &SEED, POSITION), |bytes| {
        let Ok(found) = SegmentHeader::decode(bytes, &SEED, POSITION) else { return };
        assert_eq!(found.seed, SEED, "the seed inside is the store's");
        same(&found.encode(POSITION), bytes);
    });
}

pub fn segment_footer(bytes: &[u8]) {
    let unit = &bytes[..bytes.len().min(UNIT_BYTES)];
    both(unit, seal::seeded_at(unit, 8, &SEED, POSITION), |bytes| {
        let Ok(found) = SegmentFooter::decode(bytes, &SEED, POSITION) else { return };
        same(&found.encode(&SEED, POSITION), bytes);
    });
}

pub fn table_part(bytes: &[u8]) {
    both(bytes, seal::table_part(bytes), |bytes| {
        let _ = TablePart::units_of(bytes);
        let Ok(found) = TablePart::decode(bytes) else { return };
        let again = found.encode();
        let used = TablePart::HEADER_BYTES + u32::from_le_bytes(again[20..24].try_into().unwrap()) as usize;
        same(&again[..used], &bytes[..used]);
        assert!(TablePart::decode(&again) == Ok(found));
    });
}

pub fn batch(bytes: &[u8]) {
    let Ok(found) = Batch::decode([bytes]) else { return };
    let again = found.encode(PART_BYTES_MAX);
    assert_eq!(again.len(), 1);
    same(&again[0], bytes);
    // Any split means the same.
    let parts = found.encode(600);
    assert!(Batch::decode(parts.iter().map(Vec::as_slice)) == Ok(found));
}

pub fn segment_page(bytes: &[u8]) {
    let Ok(found) = SegmentPage::decode(bytes) else { return };
    same(&found.encode(), bytes);
}

pub fn list_page(bytes: &[u8]) {
    let Ok((found, next)) = ListPage::decode(bytes) else { return };
    same(&found.encode(next), bytes);
}

pub fn roots(bytes: &[u8]) {
    let Ok(found) = RootsObject::decode(bytes) else { return };
    same(&found.encode(), bytes);
    let _ = ClientRoots::decode(&found.blob, &found.references);
}

pub fn node(bytes: &[u8]) {
    let found_edges = edges(bytes);
    let Ok(view) = NodeView::parse(bytes) else { return };
    let found_edges = found_edges.expect("a node that parses has edges");
    assert!(found_edges.windows(2).all(|pair| pair[0].oid < pair[1].oid));
    let header = view.header();
    assert_eq!(view.items().count(), usize::from(header.item_count));
    assert_eq!(view.references().count(), usize::from(header.reference_count));
    // Rows of the table may stand in another order than their first use: so items are compared, not bytes.
    let mut builder = NodeBuilder::new(header.tree, header.level, header.birth, header.owner);
    builder.set_flags(header.flags);
    builder.set_root_blob(view.root_blob()).expect("it fitted before");
    for item in view.items() {
        let references: Vec<Reference> =
            item.reference_indexes().map(|index| view.reference(index).expect("checked by parse")).collect();
        builder.push(item.key, item.value, &references).expect("it fitted before");
    }
    let again = builder.finish();
    let again = NodeView::parse(&again).expect("what was built parses");
    assert_eq!(again.root_blob(), view.root_blob());
    assert!(again.items().map(|item| (item.key, item.value)).eq(view.items().map(|item| (item.key, item.value))));
}

pub fn reference(bytes: &[u8]) {
    let Ok(found) = Reference::decode(bytes) else { return };
    same(&found.encode(), &bytes[..Reference::BYTES]);
}

/// References of an item in front (a byte says how many), then its value.
fn with_references(bytes: &[u8]) -> Option<(Vec<Reference>, &[u8])> {
    let (count, rest) = bytes.split_first()?;
    let (table, value) = rest.split_at_checked(usize::from(count % 8) * Reference::BYTES)?;
    let references =
        table.chunks_exact(Reference::BYTES).map(|row| Reference::decode(row).ok()).collect::<Option<_>>()?;
    Some((references, value))
}

/// And totals, which are as long as they are.
pub fn directory_attributes(bytes: &[u8]) {
    if let Ok(found) = Totals::decode(bytes) {
        same(&found.encode(), bytes);
    }
    let Ok(found) = DirectoryAttributes::decode(bytes) else { return };
    same(&found.encode().expect("what was decoded fits"), bytes);
}

pub fn entry(bytes: &[u8]) {
    let Some((references, value)) = with_references(bytes) else { return };
    let summary = Entry::summarize(value, &references);
    let Ok(found) = Entry::decode(value, &references) else { return };
    same_item(found.encode().expect("what was decoded fits"), value, &references);
    assert_eq!(summary, Ok(found.summary()));
}

pub fn inode(bytes: &[u8]) {
    let Some((references, value)) = with_references(bytes) else { return };
    let _ = Inode::allocated_of(value);
    let Ok(found) = Inode::decode(value, &references) else { return };
    assert_eq!(Inode::allocated_of(value), Ok(found.body.allocated()));
    same_item(found.encode().expect("what was decoded fits"), value, &references);
}

pub fn slice(bytes: &[u8]) {
    let _ = Slice::stored_bytes_of(bytes);
    let Ok(found) = Slice::decode(bytes) else { return };
    same(&found.encode().expect("what was decoded fits"), bytes);
    assert_eq!(u64::from(found.units().end - found.units().start) * 512, found.stored_bytes());
}

/// A realm record, and an item of a snapshot list.
pub fn realm(bytes: &[u8]) {
    if let Ok(found) = RealmRecord::decode(bytes) {
        same(&found.encode().expect("what was decoded fits"), bytes);
    }
    let Some((references, value)) = with_references(bytes) else { return };
    let Ok(found) = SnapshotItem::decode(value, &references) else { return };
    same_item(found.encode().expect("what was decoded fits"), value, &references);
}

pub fn territory(bytes: &[u8]) {
    let Some((references, value)) = with_references(bytes) else { return };
    let Ok(found) = TerritoryRecord::decode(value, &references) else { return };
    same_item(found.encode().expect("what was decoded fits"), value, &references);
}

pub fn client_roots(bytes: &[u8]) {
    let Some((references, value)) = with_references(bytes) else { return };
    let Ok(found) = ClientRoots::decode(value, &references) else { return };
    same_item(found.encode(), value, &references);
}

/// The kind, two bytes, in front.
pub fn operation(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first_chunk() else { return };
    let kind = u16::from_le_bytes(*kind);
    let Ok(found) = Operation::decode(kind, body) else { return };
    let (again_kind, again) = found.encode().expect("what was decoded fits");
    assert_eq!(again_kind, kind);
    same(&again, body);
}

pub fn key(bytes: &[u8]) {
    if let Ok(found) = DirectoryKey::decode(bytes) {
        same(&found.encode(), bytes);
    }
    if let Ok(found) = LinkKey::decode(bytes) {
        same(&found.encode(), bytes);
    }
    if let Ok(found) = RealmKey::decode(bytes) {
        same(&found.encode(), bytes);
    }
    if let Ok(found) = key::decode_extent(bytes) {
        assert_eq!(key::extent(found), bytes);
    }
    if let Ok(found) = key::decode_territory(bytes) {
        assert_eq!(key::territory(found), bytes);
    }
}
