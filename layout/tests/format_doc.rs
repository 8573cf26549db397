//! `docs/on-disk-format.md` and the code say the same: every structure, field, offset and size, in both directions.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use envoyfs_layout::fields::{self, Structure};
use envoyfs_layout::realm::RealmRecord;
use envoyfs_layout::{
    DirectoryAttributes, DirectoryEntry, Encoding, Entry, Hlc, Inode, LinkEntry, Oid, RealmEntry, Reference,
    ReferenceKind, Slice, TerritoryRecord, Totals,
};
use std::collections::BTreeMap;

const DOCUMENT: &str = include_str!("../../docs/on-disk-format.md");

/// Offset, bytes, name.
type Row = (usize, usize, String);

/// Size and rows of each structure.
fn documented() -> BTreeMap<String, (usize, Vec<Row>)> {
    let mut out = BTreeMap::new();
    let mut current: Option<String> = None;
    for line in DOCUMENT.lines() {
        if let Some((name, bytes)) = line.strip_prefix("**").and_then(|rest| rest.split_once("**, ")) {
            if let Some(bytes) = bytes.strip_suffix(" bytes") {
                let before = out.insert(name.to_string(), (bytes.parse().unwrap(), Vec::new()));
                assert!(before.is_none(), "{name} is documented twice");
                current = Some(name.to_string());
            }
            continue;
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, offset, bytes, field, _, _] = cells.as_slice() else {
            current = current.filter(|_| line.is_empty());
            continue;
        };
        let (Some(name), Ok(offset), Ok(bytes)) = (&current, offset.parse(), bytes.parse()) else { continue };
        out.get_mut(name).unwrap().1.push((offset, bytes, field.trim_matches('`').to_string()));
    }
    out
}

#[test]
fn every_field_stands_where_the_document_says() {
    let mut documented = documented();
    for Structure { name, bytes, fields } in fields::all() {
        let (size, rows) = documented.remove(name).unwrap_or_else(|| panic!("{name} is not in the document"));
        assert_eq!(size, bytes, "size of {name}");
        let code: Vec<_> = fields.iter().map(|f| (f.offset, f.bytes, f.name.to_string())).collect();
        assert_eq!(rows, code, "fields of {name}");
    }
    assert!(documented.is_empty(), "documented, but not in the code: {:?}", documented.keys());
}

#[test]
fn fields_leave_no_gap() {
    for Structure { name, bytes, fields } in fields::all() {
        let end = fields.iter().fold(0, |at, field| {
            assert_eq!(field.offset, at, "{name}.{}", field.name);
            at + field.bytes
        });
        assert_eq!(end, bytes, "{name}");
    }
}

#[test]
fn fixed_parts_have_the_documented_length() {
    let root = Reference {
        oid: Oid::new(1, 1, 8),
        birth: Hlc(1),
        stored_bytes: 512,
        logical_bytes: 512,
        crc: 0,
        kind: ReferenceKind::Node,
        flags: 0,
        encoding: Encoding::Plain,
    };
    let place =
        DirectoryEntry { share: Hlc(0), number: 1, generation: 0, totals: Totals::ZERO, snapshots: false, root };
    let realm = RealmEntry {
        share: Hlc(0),
        number: 1,
        generation: 0,
        totals: Totals::ZERO,
        snapshots: false,
        root,
        realm_id: 1,
        home: 0,
        read_only: false,
        links: None,
        links_share: Hlc(0),
        links_totals: Totals::ZERO,
    };
    let slice = Slice { file_block: 0, blocks: 1, extent_block: 0, last_block_bytes: 512, crcs: vec![7] };
    let len = |entry: Entry| entry.encode().unwrap().0.len();
    let found = [
        ("inode", Inode { number: 1, ..Inode::default() }.encode().unwrap().0.len()),
        ("slice", slice.encode().unwrap().len() - 4),
        ("directory entry", len(Entry::Directory(place))),
        ("link entry", len(Entry::Link(LinkEntry { shard: 1, inode: 1, mode: 0 }))),
        ("realm entry", len(Entry::Realm(realm))),
        ("directory attributes", DirectoryAttributes::default().encode().unwrap().len()),
        ("realm record", RealmRecord::default().encode().unwrap().len()),
        ("territory record", TerritoryRecord { territory: 1, ..TerritoryRecord::default() }.encode().unwrap().0.len()),
        ("totals", Totals::ZERO.encode().len()),
    ];
    for (name, bytes) in found {
        let row = format!("| {name} | {bytes} |");
        assert!(DOCUMENT.contains(&row), "the document has no row that starts: {row}");
    }
}
