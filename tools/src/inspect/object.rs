//! `inspect object` and `inspect reference`: one object, from its id alone.

use super::describe::{self, item, item_name, kind_name, tree_name};
use super::graph;
use super::log::LogReader;
use super::segment::parts;
use super::store::Store;
use super::tree::{Fields, Tree, error};
use anyhow::{Context as _, Result, anyhow, ensure};
use envoyfs_layout::batch::{self, Batch};
use envoyfs_layout::node::{NODE_MAGIC, NodeHeader, NodeView};
use envoyfs_layout::roots::{self, RootsObject};
use envoyfs_layout::segment::TableRow;
use envoyfs_layout::{ClientRoots, Hlc, Oid, Reference, ReferenceKind, UNIT, checksum};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Bytes of file data that are dumped without `--raw`.
const DUMP_BYTES: usize = 256;
/// No object is longer, whatever a damaged table says.
const SEGMENT_BYTES_MAX: u32 = 16 << 20;
/// Longest object of file data.
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
    /// The reference to it, or what the log or a table says in its place; then without length, birth or checksum where these are not known.
    stored_bytes: Option<u32>,
    kind: Option<ReferenceKind>,
    birth: Option<Hlc>,
    /// Of the whole.
    crc: Option<u32>,
    owner: Option<u64>,
    source: &'static str,
}

impl Known {
    const fn of(kind: Option<ReferenceKind>, stored_bytes: Option<u32>, source: &'static str) -> Self {
        Self { stored_bytes, kind, birth: None, crc: None, owner: None, source }
    }
}

/// Nodes, batches and roots by the table of their segment. File data, of which a row is what was written at once and an object may be several, by what refers to it, else by the records of the log.
fn known(store: &Store, oid: Oid) -> Result<Known> {
    let row = table_rows(store, oid, 1).into_iter().find(|row| row.oid == oid);
    if let Some(row) = row.filter(|row| row.kind != ReferenceKind::Extent) {
        return Ok(Known {
            birth: Some(row.birth),
            crc: Some(row.crc),
            owner: Some(row.owner),
            ..Known::of(Some(row.kind), Some(row.stored_bytes), "segment table")
        });
    }
    let owner = row.map(|row| row.owner);
    if let Some(found) = graph::find(store, |reference| covers(reference.oid, reference.stored_bytes, oid))? {
        whole(found.oid, found.stored_bytes, oid)?;
        let birth = Some(found.birth);
        let crc = Some(found.crc).filter(|_| found.kind != ReferenceKind::Extent);
        return Ok(Known { birth, crc, owner, ..Known::of(Some(found.kind), Some(found.stored_bytes), "reference") });
    }
    if let Some((object, bytes)) = in_log(store, oid) {
        whole(object, bytes, oid)?;
        return Ok(Known { owner, ..Known::of(Some(ReferenceKind::Extent), Some(bytes), "log") });
    }
    if let Some(row) = row {
        let source = "segment table: what was written at once; nothing refers to it";
        let birth = Some(row.birth);
        return Ok(Known { birth, owner, ..Known::of(Some(row.kind), Some(row.stored_bytes), source) });
    }
    let unit = store.object(oid, UNIT).unwrap_or_default();
    let by_header = NodeHeader::decode(&with_room(&unit)).ok().map(|header| header.total_bytes.next_multiple_of(UNIT));
    if by_header.is_some() {
        return Ok(Known::of(Some(ReferenceKind::Node), by_header, "its own header"));
    }
    let run = live_run(store, oid);
    Ok(Known::of(None, run, if run.is_some() { "live units from there on" } else { "nothing" }))
}

/// Does the unit lie in an object?
fn covers(object: Oid, stored_bytes: u32, unit: Oid) -> bool {
    let slots = u32::from(object.slot())..u32::from(object.slot()).saturating_add(stored_bytes / UNIT);
    (object.volume(), object.segment()) == (unit.volume(), unit.segment()) && slots.contains(&unit.slot().into())
}

/// The id is that of the object, and not of a place in it.
fn whole(object: Oid, stored_bytes: u32, oid: Oid) -> Result<()> {
    let at = (u32::from(oid.slot()) - u32::from(object.slot())) * UNIT;
    ensure!(object == oid, "{oid} is no object: it lies in {object}, at byte {at} of {stored_bytes}");
    Ok(())
}

/// A node's header is checked against the bytes there are; here only its first unit has been read.
fn with_room(unit: &[u8]) -> Vec<u8> {
    let mut bytes = unit.to_vec();
    bytes.resize(envoyfs_layout::node::NODE_BYTES_MAX, 0);
    bytes
}

/// Rows of the tables where so many units from there on lie.
fn table_rows(store: &Store, oid: Oid, units: u32) -> Vec<TableRow> {
    let start = u32::from(oid.slot());
    let places = store.locate(oid.segment(), start..start.saturating_add(units)).unwrap_or_default();
    let containers: BTreeSet<u32> = places.into_iter().map(|(container, ..)| container).collect();
    let last = |container: u32| Some((container, store.row(container)?.last_part));
    containers.into_iter().filter_map(last).flat_map(|(container, last)| parts(store, container, last, None)).collect()
}

/// The object in the log that a unit lies in, and its bytes: with all that continued it.
fn in_log(store: &Store, oid: Oid) -> Option<(Oid, u32)> {
    let mut reader = LogReader::new(store).ok()?;
    let (mut roots, mut bytes) = (BTreeMap::new(), BTreeMap::new());
    while let Some(found) = reader.next_block(store) {
        let records = found.shared.iter().filter_map(|shared| shared.record.as_ref().ok());
        for object in records.flat_map(|record| &record.data) {
            let before = object.extends.unwrap_or(object.oid);
            let root = roots.get(&before).copied().unwrap_or(before);
            roots.insert(object.oid, root);
            *bytes.entry(root).or_insert(0) += object.stored_bytes;
        }
    }
    bytes.into_iter().find(|(object, bytes)| covers(*object, *bytes, oid))
}

/// Units from there on that live together.
fn live_run(store: &Store, oid: Oid) -> Option<u32> {
    let page = store.segments().get(&oid.segment())?.page.as_ref()?;
    let start = u32::from(oid.slot());
    let run = page.live.iter().map(|(slot, units)| u32::from(*slot)..u32::from(*slot) + u32::from(*units));
    let run = run.into_iter().find(|run| run.contains(&start))?;
    Some(((run.end - start) * UNIT).min(OBJECT_BYTES_MAX))
}

fn check_volume(store: &Store, oid: Oid) -> Result<()> {
    let own = store.directory()?.entry.volume;
    ensure!(oid.volume() == own, "{oid} is of volume {:x}; this store holds volume {own:x}", oid.volume());
    Ok(())
}

/// What an object is and where it lies; its contents are not read.
///
/// # Errors
/// There is nothing to look it up in, or no object begins there.
pub fn reference(store: &Store, oid: Oid) -> Result<Tree> {
    check_volume(store, oid)?;
    Ok(Tree::Map(reference_fields(store, oid, &known(store, oid)?)))
}

fn reference_fields(store: &Store, oid: Oid, known: &Known) -> Fields {
    let mut fields = vec![
        ("oid", Tree::from(oid)),
        ("volume", Tree::Id(oid.volume().into())),
        ("segment", Tree::Id(oid.segment().into())),
        ("slot", Tree::Id(oid.slot().into())),
        ("kind", known.kind.map_or(Tree::None, |kind| kind_name(kind).into())),
        ("stored_bytes", known.stored_bytes.map_or(Tree::None, |bytes| Tree::Bytes(bytes.into()))),
        ("known_from", known.source.into()),
        ("count", store.count(oid).map_or("not live in the published checkpoint".into(), Into::into)),
    ];
    fields.extend(known.birth.map(|birth| ("birth", birth.into())));
    fields.extend(known.crc.map(|crc| ("crc", Tree::Hex(crc.into()))));
    fields.extend(known.owner.map(|owner| ("owner", owner.into())));
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

/// The bytes of an object. Of one that was published and has lost parts since, those parts are zeros: their space may hold something else by now.
fn contents(store: &Store, oid: Oid, stored_bytes: u32) -> Result<Vec<u8>> {
    let read = |oid: Oid, bytes: u32| store.object(oid, bytes).map_err(|why| anyhow!("object {oid}: {why}"));
    let page = store.segments().get(&oid.segment()).and_then(|segment| segment.page.as_ref());
    let (start, end) = (u32::from(oid.slot()), u32::from(oid.slot()).saturating_add(stored_bytes / UNIT));
    let runs = page
        .into_iter()
        .flat_map(|page| &page.live)
        .map(|(slot, units)| u32::from(*slot).max(start)..(u32::from(*slot) + u32::from(*units)).min(end));
    let runs: Vec<_> = runs.filter(|run| !run.is_empty()).collect();
    let live: u32 = runs.iter().map(|run| run.end - run.start).sum();
    if live == 0 || live == end - start {
        return read(oid, stored_bytes);
    }
    store.problem(format!("object {oid}: {} of its bytes are dead, and shown as zeros", (end - start - live) * UNIT));
    let mut out = vec![0; stored_bytes as usize];
    for run in runs {
        let part =
            read(Oid::new(oid.volume(), oid.segment(), u16::try_from(run.start)?), (run.end - run.start) * UNIT)?;
        let at = ((run.start - start) * UNIT) as usize;
        if let Some(into) = out.get_mut(at..at + part.len()) {
            into.copy_from_slice(&part);
        }
    }
    Ok(out)
}

/// What the checksums say that are at hand: that of the whole, or those of the table for what was written at once and is live.
fn verified(store: &Store, oid: Oid, known: &Known, bytes: &[u8]) -> String {
    let units = u32::try_from(bytes.len()).unwrap_or(0) / UNIT;
    let start = u32::from(oid.slot());
    let mut parts: Vec<(u32, u32, u32)> = known.crc.map(|crc| (0, units, crc)).into_iter().collect();
    if parts.is_empty() {
        let inside = |row: &TableRow| row.oid.segment() == oid.segment() && u32::from(row.oid.slot()) >= start;
        let rows = table_rows(store, oid, units).into_iter().filter(inside);
        parts.extend(rows.map(|row| (u32::from(row.oid.slot()) - start, row.units(), row.crc)));
        parts.retain(|(at, length, _)| at + length <= units);
    }
    let mut verified = 0;
    for (at, length, crc) in parts {
        let part = bytes.get((at * UNIT) as usize..((at + length) * UNIT) as usize).unwrap_or_default();
        let found = checksum::crc32c(part);
        if found == crc {
            verified += part.len();
        } else {
            store.problem(format!(
                "object {oid}: checksum {found:#010x} of {} bytes at {}, expected {crc:#010x}",
                part.len(),
                at * UNIT
            ));
        }
    }
    format!("{verified} of {} bytes verify", bytes.len())
}

/// The object, all of its bytes.
///
/// # Errors
/// It cannot be found or read.
pub fn raw(store: &Store, oid: Oid) -> Result<Vec<u8>> {
    check_volume(store, oid)?;
    bytes_of(store, oid, &known(store, oid)?)
}

fn bytes_of(store: &Store, oid: Oid, known: &Known) -> Result<Vec<u8>> {
    let stored_bytes = known.stored_bytes.filter(|bytes| (1..=SEGMENT_BYTES_MAX).contains(bytes));
    let stored_bytes =
        stored_bytes.with_context(|| format!("nothing says how long object {oid} is; is the id right?"))?;
    contents(store, oid, stored_bytes)
}

/// The object itself, decoded.
///
/// # Errors
/// It cannot be found or read.
pub fn object(store: &Store, oid: Oid) -> Result<Tree> {
    check_volume(store, oid)?;
    let known = known(store, oid)?;
    let bytes = bytes_of(store, oid, &known)?;
    let mut fields = reference_fields(store, oid, &known);
    fields.push(("checksum", verified(store, oid, &known, &bytes).into()));
    fields.push(decoded(&bytes));
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
        let _ = writeln!(out, "({} more bytes; --raw writes all)", bytes.len() - most);
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
            "00000000  61 61 61 61 61 61 61 61 61 61 61 61 61 61 61 61  |aaaaaaaaaaaaaaaa|\n(24 more bytes; --raw writes all)\n"
        );
        assert_eq!(dump(&[1, 2], 2).lines().count(), 1);
    }
}
