//! One golden vector for every kind of thing that has no structure of fixed layout of its own (those are in `golden.rs`): every variant of every enumeration that is stored, every record of
//! the namespace, every key, every type with an encoder. What there is, is read from the sources: a type, a variant or a kind of record that is added without a vector fails here.
//! `GOLDEN=1 cargo nextest run -p envoyfs-layout golden_kind --no-capture` prints what the encoders give now.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use envoyfs_layout::batch::{Batch, HistoryStep, Repair, RepairAction};
use envoyfs_layout::directory_page::{ContainerRow, ContainerState, Place, Role};
use envoyfs_layout::inode::mode;
use envoyfs_layout::key::{self, DirectoryKey, LinkKey, RealmItemKind, RealmKey};
use envoyfs_layout::node::{NodeBuilder, Owner, TreeKind};
use envoyfs_layout::operation::{Attributes, BindTarget, Fate, Operation};
use envoyfs_layout::superblock::{Barrier, Superblock};
use envoyfs_layout::system_page::{DeferredRange, HistoryRow, HistoryState, ListPage, OrphanedSegment};
use envoyfs_layout::territory::{InodeChunk, TerritoryKind, TerritoryPolicy};
use envoyfs_layout::wal::kind;
use envoyfs_layout::{
    Body, ClientRoots, ClientTag, DirectoryAttributes, Encoding, Entry, Hlc, Inode, LinkEntry, Oid, RealmEntry,
    RealmRecord, Reference, ReferenceKind, Retention, Slice, SnapshotItem, TerritoryRecord, Timestamp, Totals,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const VECTORS: &str = include_str!("golden_kinds.txt");
const FIXED: &str = include_str!("golden.txt");

/// Enumerations that are not stored.
const NOT_STORED: [&str; 1] = ["LayoutError"];

/// Types whose encoder has its vector in `golden.txt`, and which.
const IN_GOLDEN: [(&str, &str); 20] = [
    ("Batch", "batch part header"),
    ("BlockHeader", "log block header"),
    ("CheckpointBody", "CHECKPOINT body"),
    ("Closed", "CLOSED body"),
    ("ContainerRow", "segment table row"),
    ("DirectoryPage", "volume directory header"),
    ("ListPage", "drop queue"),
    ("NodeBuilder", "node"),
    ("PartRows", "table part"),
    ("RecordParts", "record header"),
    ("Relocated", "RELOCATED body"),
    ("RootsObject", "roots object"),
    ("SegmentFooter", "segment footer"),
    ("SegmentHeader", "segment header"),
    ("SegmentOpened", "SEGMENT_OPENED body"),
    ("SegmentPage", "segment page"),
    ("SegmentPlaced", "SEGMENT_PLACED body"),
    ("SegmentSealed", "SEGMENT_SEALED body"),
    ("SegmentTable", "segment table row"),
    ("TablePart", "table part"),
];

/// Known kinds of records without a body.
const WITHOUT_BODY: [&str; 1] = ["WATERMARK"];

fn time(n: i64) -> Timestamp {
    Timestamp { seconds: 0x0102_0304_0506 + n, nanoseconds: 0x1112_1314 }
}

fn reference(kind: ReferenceKind) -> Reference {
    Reference {
        oid: Oid::new(0x0102, 0x0304_0506, 0x0708),
        birth: Hlc(0x1112_1314_1516_1718),
        stored_bytes: 0x2122_2400,
        logical_bytes: 0x2122_2324,
        crc: 0x3132_3334,
        kind,
        flags: 3,
        encoding: Encoding::Plain,
    }
}

fn place() -> Place {
    Place { container: 0x4142_4344, units: 0x5152_5354, stored_bytes: 0x6162_6364, crc: 0x7172_7374 }
}

fn totals(n: u64) -> Totals {
    Totals { bytes: 0x0100 + n, files: 0x0200 + n, directories: 0x0300 + n, links: 0x0400 + n }
}

fn slice() -> Slice {
    Slice {
        file_block: 0x0102_0304,
        blocks: 2,
        extent_block: 1,
        last_block_bytes: 1024,
        crcs: vec![0x1112_1314, 0x2122_2324],
    }
}

fn inode(mode: u32, body: Body) -> Inode {
    Inode {
        number: 0x01_0203_0405,
        generation: 0x1112_1314,
        mode,
        uid: 0x2122_2324,
        gid: 0x3132_3334,
        nlink: 1,
        flags: 0x4142_4344,
        rdev: 0x5152_5354,
        size: 5,
        share: Hlc(0x6162_6364),
        atime: time(1),
        mtime: time(2),
        ctime: time(3),
        btime: time(4),
        xattrs: vec![(b"user.a".to_vec(), b"value".to_vec())],
        body,
    }
}

fn realm() -> RealmEntry {
    RealmEntry {
        share: Hlc(0x01),
        number: 0x0203,
        generation: 0x0405,
        totals: totals(1),
        snapshots: true,
        root: reference(ReferenceKind::Node),
        realm_id: 0x0607,
        home: 0x0809,
        read_only: true,
        links: Some(reference(ReferenceKind::Node)),
        links_share: Hlc(0x0a),
        links_totals: totals(2),
    }
}

fn territory(kind: TerritoryKind) -> TerritoryRecord {
    let node = Some(reference(ReferenceKind::Node));
    let chunk = |n: u64| InodeChunk { first: 0x0100 + n, count: 0x0200 + n };
    TerritoryRecord {
        territory: 0x0102_0304_0506_0708,
        parent: 0x11,
        parent_volume: 0x21,
        kind,
        closed: true,
        read_only: true,
        pinned: true,
        moves: 0x31,
        view_number: 0x41,
        realm: 0x51,
        root_inode: 0x61,
        inherited_share: Hlc(0x71),
        links_share: Hlc(0x81),
        chunks: [0, 1, 2, 3].map(chunk),
        totals: totals(3),
        last_hlc: Hlc(0x91),
        arrived_hlc: Hlc(0xa1),
        policy: TerritoryPolicy { pin_volume: 0xb1, no_split: true, no_move: true },
        root: node,
        orphans: node,
        link_shards: node,
        renamed: node,
        imports: node,
        view: Some(realm()),
    }
}

fn with((mut bytes, references): (Vec<u8>, Vec<Reference>)) -> Vec<u8> {
    references.iter().for_each(|reference| bytes.extend(reference.encode()));
    bytes
}

fn node(kind: TreeKind) -> Vec<u8> {
    let mut node = NodeBuilder::new(kind, 0, Hlc(6), Owner { realm: 3, inode: 4 });
    node.push(b"key", b"value", &[]).unwrap();
    node.finish()
}

fn batch(batch: Batch) -> Vec<u8> {
    Batch { checkpoint: 1, ..batch }.encode(usize::MAX).remove(0)
}

fn history(state: HistoryState) -> HistoryRow {
    HistoryRow {
        checkpoint: 0x01,
        hlc: Hlc(0x02),
        wall_ns: 0x03,
        segment_bound: 0x04,
        state,
        roots: reference(ReferenceKind::Roots),
        roots_twin: reference(ReferenceKind::Roots),
        deferred: place(),
        rows: 0x05,
        units: 0x06,
    }
}

fn operations() -> Vec<(&'static str, Operation)> {
    let (name, new_name) = (b"name".to_vec(), b"other".to_vec());
    let bind = |target| Operation::Bind { handle: 0x0102, target };
    let unlink = |fate| Operation::Unlink { parent: 0x0102, time: time(0), name: b"name".to_vec(), fate };
    let attributes =
        Attributes { mode: Some(0o600), uid: Some(0x11), gid: Some(0x21), atime: Some(time(1)), mtime: Some(time(2)) };
    let key = RealmKey { realm: 0x51, kind: RealmItemKind::Snapshot, directory: 0x61, id: 0x71 };
    vec![
        ("BindTarget::View", bind(BindTarget::View)),
        ("BindTarget::Named", bind(BindTarget::Named { parent: 0x11, name: name.clone() })),
        ("BindTarget::Link", bind(BindTarget::Link { realm_root: 0x11, shard: 0x21, inode: 0x31 })),
        ("BindTarget::Orphan", bind(BindTarget::Orphan { realm: 0x11, inode: 0x21 })),
        ("BindTarget::Snapshot", bind(BindTarget::Snapshot { directory: 0x11, realm: 0x21 })),
        ("Operation::Bind", Operation::Bind { handle: 0x0304, target: BindTarget::View }),
        (
            "Operation::Create",
            Operation::Create {
                handle: 0x01,
                parent: 0x11,
                time: time(0),
                name: name.clone(),
                hash_key: [0x21; 16],
                inode: Box::new(inode(mode::SYMLINK, Body::inline(b"there".to_vec()))),
            },
        ),
        ("Operation::Link", Operation::Link { handle: 0x01, parent: 0x11, time: time(0), name: name.clone() }),
        ("Fate::Gone", unlink(Fate::Gone)),
        ("Fate::Orphan", unlink(Fate::Orphan)),
        ("Fate::Survivor", unlink(Fate::Survivor { parent: 0x11, name: new_name.clone() })),
        ("Operation::Unlink", Operation::Unlink { parent: 1, time: time(1), name: name.clone(), fate: Fate::Gone }),
        (
            "Operation::Rename",
            Operation::Rename {
                parent: 0x01,
                name: name.clone(),
                new_parent: 0x11,
                new_name,
                time: time(0),
                exchange: true,
                orphan: false,
            },
        ),
        (
            "Operation::Write",
            Operation::Write {
                handle: 0x01,
                size: 0x1112_1314,
                time: time(0),
                pieces: vec![(0x21, vec![1, 2, 3])],
                direct: vec![0x31, 0x32],
            },
        ),
        ("Operation::Truncate", Operation::Truncate { handle: 0x01, size: 0x11, time: time(0) }),
        ("Operation::SetAttributes", Operation::SetAttributes { handle: 0x01, attributes, time: time(0) }),
        (
            "Operation::SetXattr",
            Operation::SetXattr { handle: 0x01, time: time(0), name: b"user.a".to_vec(), value: b"value".to_vec() },
        ),
        ("Operation::RemoveXattr", Operation::RemoveXattr { handle: 0x01, time: time(0), name: b"user.a".to_vec() }),
        (
            "Operation::ForkDirectory",
            Operation::ForkDirectory { source: 0x01, parent: 0x11, time: time(0), name: name.clone(), realm: 0x21 },
        ),
        (
            "Operation::ForkFile",
            Operation::ForkFile {
                source: 0x01,
                parent: 0x11,
                time: time(0),
                name: name.clone(),
                handle: 0x21,
                number: 0x31,
            },
        ),
        (
            "Operation::Snapshot",
            Operation::Snapshot { directory: 0x01, time: time(0), name: name.clone(), realm: 0x11 },
        ),
        ("Operation::DeleteTree", Operation::DeleteTree { parent: 0x01, time: time(0), name, dropped: vec![key] }),
        ("Operation::DeleteSnapshot", Operation::DeleteSnapshot { directory: 0x01, time: time(0), realm: 0x11 }),
        ("Operation::OrphanDrop", Operation::OrphanDrop { realm: 0x01, inode: 0x11 }),
    ]
}

/// By name: a type, or `Type::Variant`.
fn examples() -> BTreeMap<String, Vec<u8>> {
    let mut out = BTreeMap::new();
    let mut add = |name: &str, bytes: Vec<u8>| assert!(out.insert(name.to_string(), bytes).is_none(), "{name} twice");

    for (name, operation) in operations() {
        let (kind, body) = operation.encode().unwrap();
        assert_eq!(Operation::decode(kind, &body).unwrap(), operation);
        add(name, [&kind.to_le_bytes()[..], &body].concat());
    }
    add("Operation", operations()[0].1.encode().unwrap().1);

    let extent = reference(ReferenceKind::Extent);
    for (name, body) in [
        ("Body::None", Body::None),
        ("Body::Inline", Body::inline(b"bytes".to_vec())),
        ("Body::Slices", Body::Slices(vec![(slice(), extent)])),
        ("Body::Tree", Body::Tree { root: reference(ReferenceKind::Node), bytes: 0x0102_0304 }),
    ] {
        let bytes = inode(mode::REGULAR, body).encode().unwrap();
        Inode::decode(&bytes.0, &bytes.1).unwrap();
        add(name, with(bytes));
    }
    add("Inode", with(inode(mode::REGULAR | 0o600, Body::None).encode().unwrap()));
    let link = LinkEntry { shard: 0x0102, inode: 0x1112, mode: mode::REGULAR };
    for (name, entry) in [
        ("Entry::File", Entry::File(inode(mode::REGULAR, Body::None))),
        ("Entry::Directory", Entry::Directory(realm().directory())),
        ("Entry::Symlink", Entry::Symlink(inode(mode::SYMLINK, Body::inline(b"there".to_vec())))),
        ("Entry::Special", Entry::Special(inode(mode::FIFO, Body::None))),
        ("Entry::Link", Entry::Link(link)),
        ("Entry::Realm", Entry::Realm(realm())),
    ] {
        let bytes = entry.encode().unwrap();
        assert_eq!(Entry::decode(&bytes.0, &bytes.1).unwrap(), entry);
        add(name, with(bytes));
    }
    add("Entry", with(Entry::Link(link).encode().unwrap()));
    for (name, kind) in
        [("TerritoryKind::Directory", TerritoryKind::Directory), ("TerritoryKind::File", TerritoryKind::File)]
    {
        add(name, with(territory(kind).encode().unwrap()));
    }
    add("TerritoryRecord", with(TerritoryRecord { view: None, ..territory(TerritoryKind::File) }.encode().unwrap()));
    let roots = ClientRoots { territory_table: extent, realm_table: reference(ReferenceKind::Node) };
    add("ClientRoots", with(roots.encode()));
    let retention = Retention { interval_seconds: 0x41, keep: 0x51 };
    let record = RealmRecord { index: 0x01, created: Hlc(0x11), snapshots: 0x21, orphans: 0x31, retention };
    add("RealmRecord", record.encode().unwrap());
    let snapshot = SnapshotItem { name: b"name".to_vec(), realm: realm() };
    add("SnapshotItem", with(snapshot.encode().unwrap()));
    let attributes = DirectoryAttributes {
        mode: 0o040_755,
        uid: 0x01,
        gid: 0x11,
        flags: 0x21,
        atime: time(1),
        mtime: time(2),
        ctime: time(3),
        btime: time(4),
        hash_key: [0x31; 16],
        parent_realm: 0x41,
        parent_inode: 0x51,
        quota_bytes: 0x61,
        quota_files: 0x71,
        xattrs: vec![(b"user.a".to_vec(), b"value".to_vec())],
    };
    add("DirectoryAttributes", attributes.encode().unwrap());
    add("Totals", totals(0).encode().to_vec());
    add("Slice", slice().encode().unwrap());
    add("ClientTag", ClientTag::FILES.encode().to_vec());

    add("DirectoryKey", DirectoryKey { hash: 0x0102_0304, collision: 0x1112, name: b"name".to_vec() }.encode());
    add("LinkKey", LinkKey { shard: 0x0102, inode: 0x1112 }.encode());
    add("extent key", key::extent(0x0102_0304));
    add("territory key", key::territory(0x0102_0304));
    for (name, kind) in [
        ("RealmItemKind::Record", RealmItemKind::Record),
        ("RealmItemKind::Snapshot", RealmItemKind::Snapshot),
        ("RealmItemKind::Orphan", RealmItemKind::Orphan),
    ] {
        add(name, RealmKey { realm: 0x0102, kind, directory: 0x1112, id: 0x2122 }.encode());
    }
    add("RealmKey", RealmKey { realm: 1, kind: RealmItemKind::Record, directory: 2, id: 3 }.encode());

    for (name, kind) in [
        ("ReferenceKind::Node", ReferenceKind::Node),
        ("ReferenceKind::Extent", ReferenceKind::Extent),
        ("ReferenceKind::Batch", ReferenceKind::Batch),
        ("ReferenceKind::Roots", ReferenceKind::Roots),
    ] {
        add(name, reference(kind).encode().to_vec());
    }
    add("Reference", reference(ReferenceKind::Node).encode().to_vec());
    add("Encoding::Plain", Reference { encoding: Encoding::Plain, flags: 0, ..extent }.encode().to_vec());
    for (name, kind) in [
        ("TreeKind::Directory", TreeKind::Directory),
        ("TreeKind::Links", TreeKind::Links),
        ("TreeKind::Extents", TreeKind::Extents),
        ("TreeKind::RealmTable", TreeKind::RealmTable),
        ("TreeKind::TerritoryTable", TreeKind::TerritoryTable),
    ] {
        add(name, node(kind));
    }
    for (name, state) in [
        ("ContainerState::Free", ContainerState::Free),
        ("ContainerState::Open", ContainerState::Open),
        ("ContainerState::Sealed", ContainerState::Sealed),
        ("ContainerState::System", ContainerState::System),
        ("ContainerState::Survivors", ContainerState::Survivors),
    ] {
        add(name, ContainerRow { state, ..ContainerRow::FREE }.encode(1).to_vec());
    }
    add("Role::Writer", vec![Role::Writer as u8]);
    for (name, barrier) in [
        ("Barrier::Flush", Barrier::Flush),
        ("Barrier::ForcedUnitAccess", Barrier::ForcedUnitAccess),
        ("Barrier::WriteThrough", Barrier::WriteThrough),
    ] {
        add(name, vec![barrier as u8]);
    }
    let retain = HistoryStep::Retain { checkpoint: 0x01, segment_bound: 0x11, wall_ns: 0x21 };
    for (name, step) in [
        ("HistoryStep::Retain", retain),
        ("HistoryStep::Drop", HistoryStep::Drop { checkpoint: 0x01 }),
        ("HistoryStep::Release", HistoryStep::Release { checkpoint: 0x01, rows: 0x11 }),
    ] {
        add(name, batch(Batch { history: vec![step], ..Batch::default() }));
    }
    for (name, action) in [
        ("RepairAction::Count", RepairAction::Count),
        ("RepairAction::Dead", RepairAction::Dead),
        ("RepairAction::Live", RepairAction::Live),
        ("RepairAction::Forget", RepairAction::Forget),
        ("RepairAction::Readable", RepairAction::Readable),
    ] {
        let reference = reference(ReferenceKind::Node);
        let repair = Repair { action, reference, first: 0x01, units: 0x11, delta: 0x21 };
        add(name, batch(Batch { repairs: vec![repair], ..Batch::default() }));
    }
    for (name, state) in
        [("HistoryState::Retained", HistoryState::Retained), ("HistoryState::Releasing", HistoryState::Releasing)]
    {
        add(name, ListPage::History(vec![history(state)]).encode(place()));
    }
    let orphan = OrphanedSegment { segment: 0x0102_0304, page: place() };
    let deferred = DeferredRange { segment: 0x01, slot: 0x11, units: 0x21 };
    for (name, page) in [
        ("ListPage::DropQueue", ListPage::DropQueue(vec![extent])),
        ("ListPage::OrphanedSegments", ListPage::OrphanedSegments(vec![orphan])),
        ("ListPage::OrphanIndex", ListPage::OrphanIndex(vec![orphan])),
        ("ListPage::History", ListPage::History(vec![history(HistoryState::Retained); 2])),
        ("ListPage::Deferred", ListPage::Deferred(vec![deferred])),
        ("ListPage::Unreadable", ListPage::Unreadable(vec![extent])),
    ] {
        add(name, page.encode(place()));
    }
    out
}

/// All sources, tests left out, by path.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("tests.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found
}

fn word(text: &str) -> &str {
    text.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().unwrap()
}

/// `Type::Variant` of every public enumeration.
fn variants() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, text) in sources() {
        for behind in text.split("\npub enum ").skip(1) {
            let name = word(behind);
            if NOT_STORED.contains(&name) {
                continue;
            }
            let (body, _) = behind.split_once("\n}").unwrap();
            for line in body.lines().skip(1) {
                let indented = line.strip_prefix("    ").filter(|rest| rest.starts_with(char::is_uppercase));
                found.extend(indented.map(|rest| format!("{name}::{}", word(rest))));
            }
        }
    }
    found
}

/// Every type with an encoder.
fn encoders() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, text) in sources() {
        let mut owner = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("impl") {
                // `impl<'a> Name<'a> {`, `impl Trait for Name {`.
                let rest = rest.strip_prefix('<').map_or(rest, |rest| rest.split_once('>').unwrap().1).trim_start();
                owner = word(rest.split_once(" for ").map_or(rest, |(_, name)| name));
            }
            let line = line.strip_prefix("    pub ").unwrap_or_default();
            let line = line.strip_prefix("const ").unwrap_or(line);
            if ["encode", "seal", "finish"]
                .iter()
                .any(|name| line.strip_prefix("fn ").is_some_and(|f| word(f) == *name))
            {
                found.insert(owner.to_string());
            }
        }
    }
    found
}

fn names(vectors: &str) -> BTreeMap<&str, &str> {
    let lines = vectors.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once(": ").unwrap()).collect()
}

fn vector(bytes: &[u8]) -> String {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    format!("{} {}", bytes.len(), bytes[..end].iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

#[test]
fn every_kind_has_a_golden_kind_of_bytes() {
    let (examples, mut vectors) = (examples(), names(VECTORS));
    let mut wrong = Vec::new();
    for (name, bytes) in &examples {
        if std::env::var_os("GOLDEN").is_some() {
            println!("{name}: {}", vector(bytes));
        }
        if vectors.remove(name.as_str()) != Some(&vector(bytes)) {
            wrong.push(name);
        }
    }
    assert!(vectors.is_empty(), "vectors of nothing: {:?}", vectors.keys());
    assert_eq!(
        wrong,
        Vec::<&String>::new(),
        "the format changed: that needs a new version, or this was never released"
    );
}

#[test]
fn every_variant_of_what_is_stored_and_every_encoder_has_an_example() {
    let examples = examples();
    let variants = variants();
    assert!(variants.len() > 60, "{variants:?}");
    let missing: Vec<_> = variants.iter().filter(|name| !examples.contains_key(*name)).collect();
    assert!(missing.is_empty(), "variants without an example: {missing:?}");
    let others: Vec<_> = examples.keys().filter(|name| name.contains("::") && !variants.contains(*name)).collect();
    assert!(others.is_empty(), "examples of nothing: {others:?}");
    // Variants of one type differ: a code that two share would be seen here, too.
    for name in &variants {
        let of = |name: &str| name.split_once("::").unwrap().0.to_string();
        let same = variants.iter().filter(|other| of(other) == of(name) && examples[*other] == examples[name]).count();
        assert_eq!(same, 1, "{name}");
    }

    let (fixed, encoders) = (names(FIXED), encoders());
    assert!(encoders.len() > 30, "{encoders:?}");
    let elsewhere: BTreeMap<&str, &str> = IN_GOLDEN.into_iter().collect();
    for name in &encoders {
        let there = elsewhere.get(name.as_str()).or(Some(&"superblock").filter(|_| name == "Superblock"));
        let is_there = there.is_some_and(|vector| fixed.contains_key(vector));
        assert!(is_there || examples.contains_key(name), "{name} has an encoder and no golden vector");
    }
    let gone: Vec<_> = elsewhere.keys().filter(|name| !encoders.contains(**name)).collect();
    assert!(gone.is_empty(), "no encoders: {gone:?}");
}

#[test]
fn every_known_kind_of_record_of_the_engine_has_a_golden_vector_of_its_body() {
    let (_, text) = sources().into_iter().find(|(path, _)| path.ends_with("src/wal.rs")).unwrap();
    let (_, rest) = text.split_once("pub mod kind {").unwrap();
    let (body, _) = rest.split_once("\n}").unwrap();
    let fixed = names(FIXED);
    let mut known = 0;
    for line in body.lines().filter_map(|line| line.strip_prefix("    pub const ")) {
        let Some((name, code)) = line.split_once(": u16 = ") else { continue };
        let code: u16 = code.trim_end_matches(';').parse().unwrap();
        if code >= kind::CLIENT_FIRST || !kind::is_known(code) || WITHOUT_BODY.contains(&name) {
            continue;
        }
        known += 1;
        assert!(fixed.contains_key(format!("{name} body").as_str()), "{name} has no golden vector");
    }
    assert!(known >= 6, "{known}");
}

/// The identity of a store is in `golden.rs` with one barrier; the others differ in its byte alone.
#[test]
fn the_byte_of_a_barrier_is_its_code() {
    let of = |barrier| {
        let mut superblock = Superblock::decode(&superblock(), 0x7172_7000).unwrap();
        superblock.barrier = barrier;
        superblock.encode(0x7172_7000).to_vec()
    };
    let plain = of(Barrier::Flush);
    for barrier in [Barrier::ForcedUnitAccess, Barrier::WriteThrough] {
        let other = of(barrier);
        // Beside the checksum.
        let differ: Vec<usize> = (16..plain.len()).filter(|at| plain[*at] != other[*at]).collect();
        assert_eq!(differ.iter().map(|at| (plain[*at], other[*at])).collect::<Vec<_>>(), [(0, barrier as u8)]);
    }
}

/// As it is in the list of vectors.
fn superblock() -> Vec<u8> {
    let hex = names(FIXED)["superblock"];
    let mut bytes: Vec<u8> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    bytes.resize(envoyfs_layout::superblock::BYTES, 0);
    bytes
}
