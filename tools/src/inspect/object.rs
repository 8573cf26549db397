//! `inspect object` and `inspect reference`: one object, from its id alone.

use super::describe::{self, item, item_name, kind_name, tree_name};
use super::log::LogReader;
use super::segment::parts;
use super::store::Store;
use super::tree::{Fields, Tree, error};
use anyhow::{Result, anyhow, ensure};
use envoyfs_layout::batch::{self, Batch};
use envoyfs_layout::node::{NODE_MAGIC, NodeHeader, NodeView};
use envoyfs_layout::roots::{self, RootsObject};
use envoyfs_layout::segment::TableRow;
use envoyfs_layout::{ClientRoots, Oid, Reference, ReferenceKind, UNIT, checksum};
use std::fmt::Write as _;

/// Bytes of file data that are dumped without `--raw`.
const DUMP_BYTES: usize = 256;
/// Longest object.
const OBJECT_BYTES_MAX: u32 = 1 << 20;

/// An object id as it is shown: volume, segment and slot, hexadecimal.
pub fn parse_oid(text: &str) -> Result<Oid, String> {
    let bad =
        || format!("'{text}' is not an object id; write volume:segment:slot as they are shown, for example 1a2b:3:80");
    let mut parts = text.split(':').map(|part| u32::from_str_radix(part, 16).map_err(|_| bad()));
    let mut next = || parts.next().ok_or_else(bad)?;
    let (volume, segment, slot) = (next()?, next()?, next()?);
    let small = |value: u32| u16::try_from(value).map_err(|_| bad());
    let oid = Oid::new(small(volume)?, segment, small(slot)?);
    if parts.next().is_some() || oid.is_none() { Err(bad()) } else { Ok(oid) }
}

/// What is known of an object without reading it.
#[derive(Debug)]
struct Known {
    row: Option<TableRow>,
    stored_bytes: Option<u32>,
    kind: Option<ReferenceKind>,
    source: &'static str,
}

/// By the table of its segment, else by the records of the log, else by its own header.
fn known(store: &Store, oid: Oid) -> Known {
    if let Some(row) = table_row(store, oid) {
        return Known {
            stored_bytes: Some(row.stored_bytes),
            kind: Some(row.kind),
            row: Some(row),
            source: "segment table",
        };
    }
    if let Some(bytes) = in_log(store, oid) {
        return Known { row: None, stored_bytes: Some(bytes), kind: Some(ReferenceKind::Extent), source: "log" };
    }
    let unit = store.object(oid, UNIT).unwrap_or_default();
    let by_header = NodeHeader::decode(&with_room(&unit)).ok().map(|header| header.total_bytes.next_multiple_of(UNIT));
    if let Some(bytes) = by_header {
        return Known {
            row: None,
            stored_bytes: Some(bytes),
            kind: Some(ReferenceKind::Node),
            source: "its own header",
        };
    }
    Known { row: None, stored_bytes: live_run(store, oid), kind: None, source: "live units from there on" }
}

/// A node's header is checked against the bytes there are; here only its first unit has been read.
fn with_room(unit: &[u8]) -> Vec<u8> {
    let mut bytes = unit.to_vec();
    bytes.resize(envoyfs_layout::node::NODE_BYTES_MAX, 0);
    bytes
}

fn table_row(store: &Store, oid: Oid) -> Option<TableRow> {
    let places = store.locate(oid.segment(), u32::from(oid.slot())..u32::from(oid.slot()) + 1).ok()?;
    let (container, ..) = *places.first()?;
    let last = store.row(container)?.last_part;
    parts(store, container, last, None).into_iter().find(|row| row.oid == oid)
}

fn in_log(store: &Store, oid: Oid) -> Option<u32> {
    let mut reader = LogReader::new(store).ok()?;
    while let Some(found) = reader.next_block(store) {
        let records = found.shared.iter().filter_map(|shared| shared.record.as_ref().ok());
        if let Some(object) = records.flat_map(|record| &record.data).find(|object| object.oid == oid) {
            return Some(object.stored_bytes);
        }
    }
    None
}

fn live_run(store: &Store, oid: Oid) -> Option<u32> {
    let page = store.segments().get(&oid.segment())?.page.as_ref()?;
    let start = u32::from(oid.slot());
    let (slot, units) = page
        .live
        .iter()
        .find(|(slot, units)| (u32::from(*slot)..u32::from(*slot) + u32::from(*units)).contains(&start))?;
    Some(((u32::from(*slot) + u32::from(*units) - start) * UNIT).min(OBJECT_BYTES_MAX))
}

/// What an object is and where it lies; its contents are not read.
///
/// # Errors
/// There is nothing to look it up in.
pub fn reference(store: &Store, oid: Oid) -> Result<Tree> {
    store.directory()?;
    Ok(Tree::Map(reference_fields(store, oid, &known(store, oid))))
}

fn reference_fields(store: &Store, oid: Oid, known: &Known) -> Fields {
    let mut fields = vec![
        ("oid", Tree::from(oid)),
        ("volume", u64::from(oid.volume()).into()),
        ("segment", oid.segment().into()),
        ("slot", u64::from(oid.slot()).into()),
        ("kind", known.kind.map_or(Tree::None, |kind| kind_name(kind).into())),
        ("stored_bytes", known.stored_bytes.map_or(Tree::None, |bytes| Tree::Bytes(bytes.into()))),
        ("known_from", known.source.into()),
        ("count", store.count(oid).map_or("not live in the published checkpoint".into(), Into::into)),
    ];
    if let Some(row) = &known.row {
        fields.extend([("birth", row.birth.into()), ("crc", Tree::Hex(row.crc.into())), ("owner", row.owner.into())]);
    }
    let start = u32::from(oid.slot());
    let units = known.stored_bytes.unwrap_or(UNIT) / UNIT;
    let places = match store.locate(oid.segment(), start..start + units) {
        Ok(places) => Tree::List(
            places
                .into_iter()
                .map(|(container, unit, units)| {
                    Tree::Map(vec![
                        ("container", container.into()),
                        ("unit", unit.into()),
                        ("units", units.into()),
                        ("device_offset", store.position(container, unit).map_or(Tree::None, Into::into)),
                    ])
                })
                .collect(),
        ),
        Err(why) => error(why),
    };
    fields.push(("places", places));
    fields
}

/// The object itself, decoded.
///
/// # Errors
/// It cannot be found or read.
pub fn object(store: &Store, oid: Oid, raw: bool) -> Result<Tree> {
    store.directory()?;
    let known = known(store, oid);
    let mut fields = reference_fields(store, oid, &known);
    let stored_bytes =
        known.stored_bytes.ok_or_else(|| anyhow!("nothing says how long object {oid} is; is the id right?"))?;
    let bytes = store.object(oid, stored_bytes).map_err(|why| anyhow!("object {oid}: {why}"))?;
    ensure!(!bytes.is_empty(), "object {oid} is empty");
    let crc = checksum::crc32c(&bytes);
    let checked = match &known.row {
        Some(row) if row.crc == crc => "as in the segment table".to_string(),
        Some(row) if row.kind == ReferenceKind::Extent && row.stored_bytes != stored_bytes => {
            "not known for the whole".into()
        }
        Some(row) => {
            store.problem(format!("object {oid}: checksum {crc:#010x}, the segment table says {:#010x}", row.crc));
            format!("{crc:#010x}, the segment table says {:#010x}", row.crc)
        }
        None => format!("{crc:#010x} (nothing here to compare it with)"),
    };
    fields.push(("checksum", checked.into()));
    if raw {
        fields.push(("bytes", Tree::Lines(dump(&bytes, bytes.len()))));
    } else {
        fields.push(decoded(&bytes));
    }
    Ok(Tree::Map(fields))
}

fn decoded(bytes: &[u8]) -> (&'static str, Tree) {
    let magic = bytes.first_chunk().map_or(0, |first| u32::from_le_bytes(*first));
    match magic {
        NODE_MAGIC => ("node", NodeView::parse(bytes).map_or_else(error, |view| node(&view))),
        roots::MAGIC => ("roots", RootsObject::decode(bytes).map_or_else(error, |object| roots_object(&object))),
        batch::MAGIC => ("batch", batch_part(bytes)),
        _ => ("data", Tree::Lines(dump(bytes, DUMP_BYTES))),
    }
}

fn node(view: &NodeView<'_>) -> Tree {
    let header = view.header();
    let references: Vec<Reference> = view.references().collect();
    let items = view.items().map(|found| {
        let references: Vec<Reference> = found.reference_indexes().filter_map(|index| view.reference(index)).collect();
        let value = if header.level == 0 {
            item(header.tree, found.key, found.value, &references)
        } else {
            interior(found.value, &references)
        };
        Tree::Map(vec![
            ("name", item_name(header.tree, found.key).into()),
            ("references", Tree::List(references.iter().map(|reference| reference.oid.into()).collect())),
            ("value", value),
        ])
    });
    let mut fields = vec![
        ("tree", tree_name(header.tree).into()),
        ("level", u64::from(header.level).into()),
        ("birth", header.birth.into()),
        ("total_bytes", Tree::Bytes(header.total_bytes.into())),
        ("owner_realm", header.owner.realm.into()),
        ("owner_inode", header.owner.inode.into()),
    ];
    if !view.root_blob().is_empty() {
        fields.push(("attributes", describe::directory_attributes(view.root_blob())));
    }
    fields.push(("references", Tree::List(references.iter().map(describe::reference).collect())));
    fields.push(("items", Tree::List(items.collect())));
    Tree::Map(fields)
}

fn interior(value: &[u8], references: &[Reference]) -> Tree {
    let decoded = crate::fsck::interior_item(value, references).map(|(child, totals, items)| {
        Tree::Map(vec![("child", child.oid.into()), ("items", items.into()), ("totals", describe::totals(&totals))])
    });
    decoded.unwrap_or_else(error)
}

fn roots_object(object: &RootsObject) -> Tree {
    let client = ClientRoots::decode(&object.blob, &object.references).map(|client| {
        Tree::Map(vec![
            ("territory_table", client.territory_table.oid.into()),
            ("realm_table", client.realm_table.oid.into()),
        ])
    });
    Tree::Map(vec![
        ("checkpoint", object.checkpoint.into()),
        ("freeze_lsn", object.freeze.into()),
        ("hlc", object.hlc.into()),
        ("references", Tree::List(object.references.iter().map(describe::reference).collect())),
        ("trees", client.unwrap_or_else(error)),
    ])
}

/// One part; a batch of several parts is only decoded whole, so of these the first bytes are shown.
fn batch_part(bytes: &[u8]) -> Tree {
    match Batch::decode([bytes]) {
        Ok(batch) => Tree::Map(vec![
            ("checkpoint", batch.checkpoint.into()),
            ("new", Tree::List(batch.new.iter().map(|object| object.oid.into()).collect())),
            ("freed", Tree::List(batch.freed.iter().map(|object| object.oid.into()).collect())),
            ("ranges", batch.ranges.len().into()),
            (
                "deltas",
                Tree::List(
                    batch
                        .deltas
                        .iter()
                        .map(|delta| {
                            Tree::Map(vec![
                                ("oid", delta.reference.oid.into()),
                                ("delta", i64::from(delta.delta).into()),
                            ])
                        })
                        .collect(),
                ),
            ),
            ("drops", batch.drops.len().into()),
        ]),
        Err(why) => Tree::Map(vec![
            ("not_decoded", why.to_string().into()),
            ("first_bytes", Tree::Lines(dump(bytes, DUMP_BYTES))),
        ]),
    }
}

/// Offset, sixteen bytes, text.
#[must_use]
pub fn dump(bytes: &[u8], most: usize) -> String {
    let mut out = String::new();
    for (line, chunk) in bytes.chunks(16).take(most.div_ceil(16)).enumerate() {
        let hex: Vec<String> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
        let shown: String =
            chunk.iter().map(|byte| if (32..127).contains(byte) { char::from(*byte) } else { '.' }).collect();
        let _ = writeln!(out, "{:08x}  {:<47}  |{shown}|", line * 16, hex.join(" "));
    }
    if bytes.len() > most {
        let _ = writeln!(out, "({} more bytes; --raw shows them)", bytes.len() - most);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_ids_are_read_as_they_are_shown() {
        let oid = Oid::new(0xfffe, 0x8000_0001, 0x7f);
        assert_eq!(parse_oid(&oid.to_string()), Ok(oid));
        for bad in ["", "1:2", "1:2:3:4", "x:1:2", "1:2:10000", "0:0:0", "10000:1:1"] {
            assert!(parse_oid(bad).unwrap_err().contains("volume:segment:slot"), "{bad}");
        }
    }

    #[test]
    fn a_dump_says_how_much_it_left_out() {
        let text = dump(&[b'a'; 40], 16);
        assert_eq!(
            text,
            "00000000  61 61 61 61 61 61 61 61 61 61 61 61 61 61 61 61  |aaaaaaaaaaaaaaaa|\n(24 more bytes; --raw shows them)\n"
        );
        assert_eq!(dump(&[1, 2], 2).lines().count(), 1);
    }
}
