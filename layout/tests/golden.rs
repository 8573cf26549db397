//! One golden vector for every structure of fixed layout, in `golden.txt`: an encoder that puts a field elsewhere, or in another order of bytes, gives other bytes. A structure that is added
//! without one fails here; so does a field that none of the examples sets, since it could move unseen. `GOLDEN=1` prints what the encoders give now.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use envoyfs_layout::batch::{Batch, BatchObject, BatchRange, Delta, Drop, HistoryStep, Repair, RepairAction};
use envoyfs_layout::directory_page::{
    Bounds, ContainerRow, ContainerState, Cut, DirectoryPage, Place, PublishedCheckpoint, Role, StartPosition,
    TableBase, Totals as StoreTotals, VolumeEntry,
};
use envoyfs_layout::fields::{self, Structure};
use envoyfs_layout::node::{NodeBuilder, Owner, TreeKind};
use envoyfs_layout::roots::RootsObject;
use envoyfs_layout::segment::{SegmentFooter, SegmentHeader, TablePart, TableRow};
use envoyfs_layout::superblock::{Barrier, Superblock};
use envoyfs_layout::system_page::{
    DeferredRange, HistoryRow, HistoryState, ListPage, Moved, OrphanedSegment, SegmentPage,
};
use envoyfs_layout::wal::{
    BlockHeader, CheckpointBody, Closed, NamedObject, OperationResult, Origin, RecordParts, Relocated, SegmentOpened,
    SegmentPlaced, SegmentSealed,
};
use envoyfs_layout::{Encoding, Hlc, Lsn, Oid, Reference, ReferenceKind};
use std::collections::BTreeMap;

const VECTORS: &str = include_str!("golden.txt");
const SEED: [u8; 16] = [0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf, 0xb0];

/// Fields that are always zero, beside those that are called reserved: what is there to come, and an encoding of which there is one.
const ZERO: [(&str, &str); 3] = [("superblock", "tail"), ("log block header", "flags"), ("reference", "encoding")];

fn reference(kind: ReferenceKind) -> Reference {
    Reference {
        oid: Oid::new(0x0102, 0x0304_0506, 0x0708),
        birth: Hlc(0x1112_1314_1516_1718),
        stored_bytes: 0x2122_2400,
        logical_bytes: 0x2122_2324,
        crc: 0x3132_3334,
        kind,
        flags: 1,
        encoding: Encoding::Plain,
    }
}

fn place(n: u32) -> Place {
    Place { container: 0x4142_4300 + n, units: 0x5152_5354, stored_bytes: 0x6162_6364, crc: 0x7172_7374 }
}

fn superblock() -> Vec<u8> {
    let mut superblock = Superblock {
        sequence: 0x0101_0203_0405_0607,
        predecessor: 0x1122_3344_5566_7788,
        identity: [1; 16],
        seed: SEED,
        cluster: [3; 16],
        host: 0x2122_2324_2526_2728,
        store: [4; 16],
        compatible: 0x31,
        read_only_compatible: 0x32,
        incompatible: 0x33,
        size: 256 << 20,
        logical_block: 4096,
        segment_bytes: 1 << 20,
        ring_offset: 65_536,
        ring_bytes: 8 << 20,
        area_a: 9 << 20,
        area_b: 200 << 20,
        area_slot_bytes: 64 << 10,
        segments_offset: 10 << 20,
        containers: 190,
        directory_crc: 0xdead_beef,
        directory_bytes: 28_416,
        system_slot: 1,
        barrier: Barrier::ForcedUnitAccess,
        device_cache: 3,
        errors: true,
        hlc_bound: Hlc(0x1234_5678_0000),
        format_ns: 1_700_000_000_000_000_000,
        label: [0; _],
    };
    superblock.set_label("forks");
    superblock.encode(0x7172_7000).to_vec()
}

fn row() -> ContainerRow {
    ContainerRow {
        state: ContainerState::Survivors,
        stream: 2,
        flags: 0x0102,
        volume: 0x0304,
        segment: 0x1112_1314,
        used_units: 0x2122,
        live_units: 0x3132,
        last_part: 0x4142,
        birth_low: Hlc(0x51),
        birth_high: Hlc(0x6162_6364_6566_6768),
        metadata: place(1),
    }
}

/// The page of a directory: header, entry, and at the end one row.
fn directory() -> Vec<u8> {
    let cut = |n: u32| Cut {
        generation: 5 + n,
        epoch: 0x11 + n,
        lsn: Lsn(0x2122 + u64::from(n)),
        sequence: 0x3132 + u64::from(n),
        offset: 0x41,
    };
    let directory = DirectoryPage {
        sequence: 0x0102_0304_0506_0708,
        entry: VolumeEntry {
            volume: 0x0102,
            role: Role::Writer,
            uuid: [5; 16],
            promised_epoch: 0x0506_0708,
            writer_epoch: 0x1112_1314,
            config_version: 0x2122_2324_2526_2728,
            ring: [(65_536, 8 << 20), (1, 2), (3, 4), (5, 6)],
            ring_generation: 6,
            checkpoint: PublishedCheckpoint {
                record: Lsn(0x3132),
                epoch: 0x4142,
                freeze: Lsn(0x3031),
                stream_hash: 0x5152_5354_5556_5758,
                number: 0x61,
            },
            start: StartPosition { generation: 4, sequence: 0x3131, offset: 0x71, ring_block: 0x81 },
            cuts: vec![cut(0), cut(1)],
            client: envoyfs_layout::ClientTag::FILES,
            roots: Some(reference(ReferenceKind::Roots)),
            roots_twin: Some(reference(ReferenceKind::Roots)),
            drop_queue: place(2),
            orphaned_segments: place(3),
            history: place(4),
            unreadable: place(5),
            bounds: Bounds { segment: 1, inode: 2, realm: 3, territory: 4, pin: 5 },
            merged_through: 0x61,
            checkpoint_hlc: Hlc(0x9192_9394_9596_9798),
            totals: StoreTotals {
                live_units: 1,
                live_objects: 2,
                shared_objects: 3,
                drop_queue_objects: 4,
                nodes: 5,
                segments: 6,
                deferred_units: 7,
            },
        },
        containers: 0x0102_0304,
        base: TableBase { slot: 1, sequence: 0x0102_0304_0506, rows: 0x0102_0303, crc: 0x8182_8384 },
        changed: vec![(0x0001_0203, row())],
    };
    directory.encode(&SEED).0
}

/// The parts of a batch with one kind of rows: header, then the row.
fn batch(batch: Batch) -> Vec<u8> {
    Batch { checkpoint: 0x0102_0304_0506_0708, ..batch }.encode(1 << 20).remove(0)
}

fn list(page: &ListPage) -> Vec<u8> {
    page.encode(place(6))
}

/// An example of each, from its own encoder. Longer than the structure where something follows it; `skip`: where something stands before it.
fn examples() -> BTreeMap<&'static str, Vec<u8>> {
    let mut out = BTreeMap::new();
    let mut add = |name: &'static str, skip: usize, bytes: &[u8]| {
        let before = out.insert(name, bytes[skip..].to_vec());
        assert!(before.is_none(), "{name} twice");
    };
    add("reference", 0, &reference(ReferenceKind::Node).encode());
    add("superblock", 0, &superblock());
    let directory = directory();
    add("volume directory header", 0, &directory);
    add("volume entry", 64, &directory);
    add("recovery cut", 64 + 168, &directory);
    add("segment table row", directory.len() - 64, &directory);
    add("place", 64 + 488, &directory);

    let header = SegmentHeader {
        seed: SEED,
        volume: 0x0102,
        segment: 0x1112_1314,
        container: 0x2122_2324,
        stream: 2,
        flags: 1,
        birth_low: Hlc(0x3132_3334_3536_3738),
        opening: 0x4142_4344_4546_4748,
    };
    add("segment header", 0, &header.encode(0x5152_5000));
    let footer = SegmentFooter {
        segment: 0x1112_1314,
        last_part: 0x2122,
        objects: 0x3132_3334,
        used_units: 0x4142,
        digest: 0x5152_5354_5556_5758,
        birth_low: Hlc(0x6162_6364_6566_6768),
        birth_high: Hlc(0x7172_7374_7576_7778),
        opening: 0x4142_4344_4546_4748,
    };
    add("segment footer", 0, &footer.encode(&SEED, 0x5152_5200));
    let table_row = TableRow {
        oid: Oid::new(0x0102, 0x0304, 0x0708),
        birth: Hlc(0x1112_1314),
        stored_bytes: 4096,
        crc: 0x2122_2324,
        offset_units: 0x0910,
        kind: ReferenceKind::Extent,
        owner: 0x31,
    };
    let part =
        TablePart { segment: 0x1112_1314, previous: 0x2122, opening: 0x4142_4344_4546_4748, rows: vec![table_row; 2] };
    add("table part header", 0, &part.encode());

    let mut block = vec![0; 4096];
    let header = BlockHeader {
        used_bytes: 0x0504,
        local_bytes: 0x0102,
        volume: 0x1112,
        sequence: 0x2122_2324_2526_2728,
        first_lsn: Lsn(0x3132_3334_3536_3738),
        writer_epoch: 0x4142_4344,
        generation: 0x5152_5354,
        durable: Lsn(0x3030_3030_3030_3030),
        committed: Lsn(0x3030_3030_3030_3020),
        stream_hash: 0x6162_6364_6566_6768,
        first_record: 0x0160,
    };
    header.seal(&mut block, &SEED, 0x7172_7000);
    add("log block header", 0, &block);
    let crcs = [0x0102_0304_u32, 0x1112_1314];
    let data = [NamedObject {
        oid: Oid::new(0x0102, 0x0304_0506, 0x0708),
        extends: Some(Oid::new(0x1112, 0x1314_1516, 0x1718)),
        stored_bytes: 8192,
        crcs: &crcs[..],
    }];
    let mut record = Vec::new();
    let parts = RecordParts {
        kind: 0x0102,
        local: true,
        ignorable: true,
        hlc: Hlc(0x1112_1314_1516_1718),
        territory: 0x2122_2324_2526_2728,
        origin: Some(Origin { client: 0x31, sequence: 0x4142_4344_4546_4748, floor: 0x51 }),
        result: Some(OperationResult {
            status: 0x0102_0304,
            flags: 0x1112_1314,
            inode: 0x21,
            version: 0x3132_3334_3536_3738,
        }),
        data: &data,
        body: b"body",
    };
    parts.encode(&mut record).unwrap();
    for (name, skip) in [
        ("record header", 0),
        ("record origin", 32),
        ("record result", 56),
        ("record data table", 80),
        ("record data object", 88),
    ] {
        add(name, skip, &record);
    }
    add("SEGMENT_OPENED body", 0, &SegmentOpened { number: 0x0102_0304, stream: 2 }.encode());
    add(
        "SEGMENT_SEALED body",
        0,
        &SegmentSealed { number: 0x0102_0304, length: 0x1112_1314, digest: 0x2122_2324_2526_2728 }.encode(),
    );
    add("SEGMENT_PLACED body", 0, &SegmentPlaced { number: 0x0102_0304, container: 0x1112_1314 }.encode());
    let relocated =
        Relocated { number: 0x0102_0304, slot: 0x0506, units: 0x1112, container: 0x2122_2324, offset_units: 0x3132 };
    add("RELOCATED body", 0, &relocated.encode());
    let next = Bounds { segment: 1, inode: 2, realm: 3, territory: 4, pin: 5 };
    let closed = Closed { hlc: Hlc(0x0102_0304_0506_0708), superblock: 0x1112_1314_1516_1718, next };
    add("CLOSED body", 0, &closed.encode());
    let checkpoint = CheckpointBody {
        number: 0x0102_0304_0506_0708,
        freeze: Lsn(0x1112_1314_1516_1718),
        stream_hash: 0x2122_2324_2526_2728,
        merged_through: 0x0102_0304_0506_0707,
        bounds: Bounds { segment: 1, inode: 2, realm: 3, territory: 4, pin: 5 },
        history_floor: 0x31,
        drop_position: 0x41,
        hlc: Hlc(0x5152_5354_5556_5758),
        roots: reference(ReferenceKind::Roots),
        roots_twin: reference(ReferenceKind::Roots),
        batch: vec![reference(ReferenceKind::Batch)],
    };
    add("CHECKPOINT body", 0, &checkpoint.encode());

    let owner = Owner { realm: 0x0102_0304_0506_0708, inode: 0x11_1213_1415 };
    let mut node = NodeBuilder::new(TreeKind::Extents, 3, Hlc(0x1112_1314_1516_1718), owner);
    node.set_root_blob(b"blob").unwrap();
    node.push(b"key", b"value", &[reference(ReferenceKind::Node)]).unwrap();
    node.set_flags(5);
    add("node header", 0, &node.finish());
    let roots = RootsObject {
        checkpoint: 0x0102_0304_0506_0708,
        freeze: Lsn(0x1112_1314_1516_1718),
        hlc: Hlc(0x2122_2324_2526_2728),
        client: envoyfs_layout::ClientTag::FILES,
        references: vec![reference(ReferenceKind::Node); 3],
        blob: vec![7; 5],
        copies: vec![(reference(ReferenceKind::Node), vec![5; 512])],
    };
    add("roots header", 0, &roots.encode());

    let object = BatchObject::from(&reference(ReferenceKind::Roots));
    // The second part of two: the first has the number 0.
    let parts = Batch { checkpoint: 0x0102_0304_0506_0708, new: vec![object; 100], ..Batch::default() }.encode(1024);
    add("batch part header", 0, &parts[1]);
    add("batch object row", 64, &batch(Batch { new: vec![object], ..Batch::default() }));
    let range = BatchRange { oid: object.oid, first: 0x0102_0304, units: 0x1112_1314 };
    add("batch range row", 64, &batch(Batch { ranges: vec![range], ..Batch::default() }));
    let delta = Delta { reference: reference(ReferenceKind::Node), delta: -0x0102_0304 };
    add("batch delta row", 64, &batch(Batch { deltas: vec![delta], ..Batch::default() }));
    let step =
        HistoryStep::Retain { checkpoint: 0x0102_0304_0506_0708, segment_bound: 0x1112_1314, wall_ns: -0x2122_2324 };
    add("batch history step", 64, &batch(Batch { history: vec![step], ..Batch::default() }));
    let repair = Repair {
        action: RepairAction::Live,
        reference: reference(ReferenceKind::Node),
        first: 0x0102_0304,
        units: 0x1112_1314,
        delta: -0x2122_2324,
    };
    add("batch repair row", 64, &batch(Batch { repairs: vec![repair], ..Batch::default() }));

    let history = HistoryRow {
        checkpoint: 0x0102_0304_0506_0708,
        hlc: Hlc(0x1112_1314_1516_1718),
        wall_ns: -0x2122_2324,
        segment_bound: 0x3132_3334,
        state: HistoryState::Releasing,
        roots: reference(ReferenceKind::Roots),
        roots_twin: reference(ReferenceKind::Roots),
        deferred: place(7),
        rows: 0x4142_4344_4546_4748,
        units: 0x5152_5354_5556_5758,
    };
    let page = list(&ListPage::History(vec![history]));
    add("system page header", 0, &page);
    add("history row", 48, &page);
    let deferred = DeferredRange { segment: 0x0102_0304, slot: 0x0506, units: 0x0708 };
    add("deferred range", 48, &list(&ListPage::Deferred(vec![deferred])));
    out
}

/// What has no fixed layout: whole.
fn whole() -> BTreeMap<&'static str, Vec<u8>> {
    let row = |slot: u16, owner| TableRow {
        oid: Oid::new(1, 77, slot),
        birth: Hlc(5),
        stored_bytes: 512,
        crc: 0x0102_0304,
        offset_units: slot.into(),
        kind: ReferenceKind::Extent,
        owner,
    };
    let moved =
        TableRow { oid: Oid::new(2, 70, 9), birth: Hlc(0x400), stored_bytes: 4096, offset_units: 40, ..row(0, 7) };
    let part = TablePart { segment: 77, previous: 3, opening: 11, rows: vec![row(8, 8), row(9, 8), row(11, 3), moved] };
    let mut node = NodeBuilder::new(TreeKind::Extents, 0, Hlc(6), Owner { realm: 3, inode: 4 });
    node.set_root_blob(b"blob").unwrap();
    node.push(b"kex", b"1", &[reference(ReferenceKind::Node)]).unwrap();
    node.push(b"key", b"23", &[reference(ReferenceKind::Extent), reference(ReferenceKind::Node)]).unwrap();
    let page = SegmentPage {
        segment: 9,
        live: vec![(8, 16), (32, 1), (40, 65_000)],
        extra: vec![(8, 3), (32, -1)],
        moved: vec![Moved { slot: 8, units: 8, container: 7, offset_units: 24 }],
        deferred: vec![(10, 4), (41, 1)],
    };
    let orphan = OrphanedSegment { segment: 0x0102_0304, page: place(8) };
    let edge = reference(ReferenceKind::Node);
    let drop = |unreadable| Drop {
        object: edge.oid,
        stored_bytes: 512,
        edges: if unreadable { Vec::new() } else { vec![edge] },
        unreadable,
    };
    let roots = RootsObject {
        checkpoint: 4,
        freeze: Lsn(80),
        hlc: Hlc(6),
        client: envoyfs_layout::ClientTag::FILES,
        references: vec![edge],
        blob: vec![7; 5],
        copies: Vec::new(),
    };
    BTreeMap::from([
        ("table part", part.encode()),
        ("node", node.finish()),
        ("segment page", page.encode()),
        ("drop queue", list(&ListPage::DropQueue(vec![edge]))),
        ("unreadable nodes", list(&ListPage::Unreadable(vec![edge]))),
        ("orphaned segments", list(&ListPage::OrphanedSegments(vec![orphan]))),
        ("index of orphans", list(&ListPage::OrphanIndex(vec![orphan]))),
        ("batch of drops", batch(Batch { drops: vec![drop(false), drop(true)], ..Batch::default() })),
        ("roots object", roots.encode()),
    ])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Trailing zeros are left out.
fn vector(bytes: &[u8]) -> String {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    hex(&bytes[..end])
}

#[test]
fn every_structure_has_a_golden_vector() {
    let mut examples = examples();
    let mut vectors: BTreeMap<&str, String> = BTreeMap::new();
    for line in VECTORS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, hex) = line.split_once(": ").unwrap();
        vectors.insert(name, hex.to_string());
    }
    let print = std::env::var_os("GOLDEN").is_some();
    let (mut wrong, mut unseen) = (Vec::new(), Vec::new());
    for Structure { name, bytes, fields } in fields::all() {
        let example = examples.remove(name).unwrap_or_else(|| panic!("{name} has no example: add one, and its vector"));
        let example = &example[..bytes];
        for field in fields {
            let set = example[field.offset..field.offset + field.bytes].iter().any(|byte| *byte != 0);
            let is_zero = field.name.starts_with("reserved") || ZERO.contains(&(name, field.name));
            if set == is_zero {
                unseen.push(format!("{name}.{}", field.name));
            }
        }
        if print {
            println!("{name}: {}", vector(example));
        }
        if vectors.remove(name).as_deref() != Some(&vector(example)) {
            wrong.push(name);
        }
    }
    for (name, bytes) in whole() {
        if print {
            println!("{name}: {}", vector(&bytes));
        }
        if vectors.remove(name).as_deref() != Some(&vector(&bytes)) {
            wrong.push(name);
        }
    }
    assert_eq!(unseen, Vec::<String>::new(), "fields that the examples do not set");
    assert!(examples.is_empty(), "examples of nothing: {:?}", examples.keys());
    assert!(vectors.is_empty(), "vectors of nothing: {:?}", vectors.keys());
    assert_eq!(wrong, Vec::<&str>::new(), "the format changed: that needs a new version, or this was never released");
}

/// Structures that are read from bytes as they lie, by the names of their types and the file they are in.
fn raw_structures() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let derived = text.split("#[derive(").skip(1).filter_map(|rest| rest.split_once(")]"));
            for (_, behind) in derived.filter(|(traits, _)| traits.contains("IntoBytes")) {
                let name = behind.split_once("struct ").unwrap().1;
                let name = name.split(|letter: char| !letter.is_alphanumeric()).next().unwrap();
                found.push((name.to_string(), text.clone()));
            }
        }
    }
    found
}

/// The macro checks offsets when it is compiled; the size stands beside the structure.
#[test]
fn every_structure_that_is_read_as_it_lies_is_registered_and_its_size_is_asserted() {
    let found = raw_structures();
    assert_eq!(found.len(), fields::all().len());
    for (name, text) in found {
        let squeezed: String = text.split_whitespace().collect();
        assert!(squeezed.contains(&format!("\",{name}{{")), "{name} is not in a structure!()");
        assert!(squeezed.contains(&format!("size_of::<{name}>()==")), "the size of {name} is not asserted");
    }
}
