//! Well-formed inputs, one or a few of every structure: where the fuzzer starts, and what must be accepted.

use crate::check::{POSITION, SEED};
use envoyfs_layout::batch::{
    Batch, BatchObject, BatchRange, Delta, Drop, HistoryStep, PART_BYTES_MAX, Repair, RepairAction,
};
use envoyfs_layout::directory_page::{
    Bounds, ContainerRow, ContainerState, Cut, DirectoryPage, Place, PublishedCheckpoint, Role, SegmentTable,
    StartPosition, TableBase, Totals as VolumeTotals, VolumeEntry,
};
use envoyfs_layout::key::{self, DirectoryKey, LinkKey, RealmItemKind, RealmKey};
use envoyfs_layout::node::{NodeBuilder, Owner, TreeKind};
use envoyfs_layout::operation::{Attributes, BindTarget, Fate, Operation};
use envoyfs_layout::roots::RootsObject;
use envoyfs_layout::segment::{SegmentFooter, SegmentHeader, TablePart, TableRow};
use envoyfs_layout::superblock::{Barrier, Superblock};
use envoyfs_layout::system_page::{
    DeferredRange, HistoryRow, HistoryState, ListPage, Moved, OrphanedSegment, SegmentPage,
};
use envoyfs_layout::wal::{
    BLOCK_HEADER_BYTES, BlockHeader, CheckpointBody, Closed, NamedObject, OperationResult, Origin, RecordParts,
    Relocated, SegmentOpened, SegmentPlaced, SegmentSealed,
};
use envoyfs_layout::{
    Body, ClientRoots, DirectoryAttributes, DirectoryEntry, Encoding, Entry, Hlc, Inode, LinkEntry, Lsn, Oid,
    RealmEntry, RealmRecord, Reference, ReferenceKind, Retention, Slice, SnapshotItem, TerritoryRecord, Timestamp,
    Totals,
};

type Seeds = Vec<Vec<u8>>;

fn node_reference(slot: u16) -> Reference {
    Reference {
        oid: Oid::new(7, 9, slot),
        birth: Hlc(0x1234_5679),
        stored_bytes: 1024,
        logical_bytes: 1000,
        crc: 0xdead_beef,
        kind: ReferenceKind::Node,
        flags: 1,
        encoding: Encoding::Plain,
    }
}

fn extent_reference(slot: u16) -> Reference {
    Reference {
        kind: ReferenceKind::Extent,
        stored_bytes: 8192,
        logical_bytes: 8192,
        crc: 0,
        flags: 0,
        ..node_reference(slot)
    }
}

const TIME: Timestamp = Timestamp { seconds: -2, nanoseconds: 999_999_999 };
const TOTALS: Totals = Totals { bytes: 4096, files: 3, directories: 2, links: 1 };

fn volume_entry() -> VolumeEntry {
    VolumeEntry {
        volume: 7,
        role: Role::Writer,
        uuid: [3; 16],
        promised_epoch: 1,
        writer_epoch: 1,
        config_version: 0,
        ring: [(65536, 8 << 20), (0, 0), (0, 0), (0, 0)],
        ring_generation: 2,
        checkpoint: PublishedCheckpoint { record: Lsn(640), epoch: 1, freeze: Lsn(600), stream_hash: 0, number: 3 },
        start: StartPosition { generation: 1, sequence: 20, offset: 80, ring_block: 20 },
        cuts: vec![Cut { generation: 2, epoch: 1, lsn: Lsn(700), sequence: 22, offset: 0 }],
        client: envoyfs_layout::ClientTag::FILES,
        roots: Some(node_reference(8)),
        roots_twin: Some(node_reference(9)),
        drop_queue: Place { container: 1, units: 8, stored_bytes: 512, crc: 5 },
        orphaned_segments: Place::NONE,
        history: Place::NONE,
        unreadable: Place::NONE,
        bounds: Bounds { segment: 10, inode: 20, realm: 30, territory: 2, pin: 1 },
        merged_through: 3,
        checkpoint_hlc: Hlc(99),
        totals: VolumeTotals {
            live_units: 4,
            live_objects: 3,
            shared_objects: 2,
            drop_queue_objects: 1,
            nodes: 3,
            segments: 2,
            deferred_units: 1,
        },
    }
}

pub fn superblock() -> Seeds {
    let mut superblock = Superblock {
        sequence: 4,
        predecessor: 0x0102_0304,
        identity: [1; 16],
        seed: SEED,
        cluster: [0; 16],
        host: 0,
        store: [1; 16],
        compatible: 0,
        read_only_compatible: 0,
        incompatible: 0,
        size: 128 << 20,
        logical_block: 4096,
        segment_bytes: 1 << 20,
        ring_offset: 65536,
        ring_bytes: 8 << 20,
        area_a: 65536 + (8 << 20),
        area_b: (9 << 20) + (100 << 20),
        area_slot_bytes: 32768,
        segments_offset: 9 << 20,
        containers: 100,
        directory_crc: 77,
        directory_bytes: 4096 + 12800,
        system_slot: 0,
        barrier: Barrier::Flush,
        device_cache: 0,
        errors: false,
        hlc_bound: Hlc(1 << 40),
        format_ns: 1_700_000_000_000_000_000,
        label: [0; 64],
    };
    superblock.set_label("forks");
    vec![superblock.encode(POSITION).to_vec()]
}

pub fn volume_directory() -> Seeds {
    let row = ContainerRow {
        state: ContainerState::Sealed,
        stream: 1,
        volume: 7,
        segment: 5,
        used_units: 100,
        live_units: 50,
        last_part: 90,
        birth_low: Hlc(1),
        birth_high: Hlc(9),
        metadata: Place { container: 1, units: 9, stored_bytes: 512, crc: 6 },
        ..ContainerRow::FREE
    };
    let base = TableBase { slot: 1, sequence: 3, rows: 2, crc: 8 };
    let changed = vec![(1, row), (3, ContainerRow::FREE)];
    let page = DirectoryPage { sequence: 4, entry: volume_entry(), containers: 4, base, changed };
    let fresh = VolumeEntry { roots: None, roots_twin: None, cuts: Vec::new(), ..volume_entry() };
    let base = TableBase { sequence: 1, ..TableBase::default() };
    let fresh = DirectoryPage { sequence: 1, entry: fresh, containers: 4, base, changed: Vec::new() };
    let table = SegmentTable::encode(&[row, ContainerRow::FREE, row], &SEED, 1, 7).bytes;
    vec![page.encode(&SEED).0, fresh.encode(&SEED).0, table]
}

fn records() -> Seeds {
    let plain = RecordParts {
        kind: 256,
        local: false,
        ignorable: false,
        hlc: Hlc(1 << 20),
        territory: 1,
        origin: None,
        result: None,
        data: &[],
        body: &[1, 2, 3],
    };
    let object = NamedObject {
        oid: Oid::new(7, 1, 8),
        extends: Some(Oid::new(7, 1, 0)),
        stored_bytes: 8192,
        crcs: &[5_u32, 6][..],
    };
    let full = RecordParts {
        origin: Some(Origin { client: 1, sequence: 2, floor: 1 }),
        result: Some(OperationResult { status: 0, flags: 1, inode: 9, version: 3 }),
        data: &[object.clone(), NamedObject { stored_bytes: 512, crcs: &[7], extends: None, ..object }],
        ..plain
    };
    let local = RecordParts { kind: 64, local: true, hlc: Hlc::ZERO, body: &[5, 0, 0, 0, 6, 0, 0, 0], ..plain };
    [plain, full, local]
        .iter()
        .map(|parts| {
            let mut out = Vec::new();
            parts.encode(&mut out).expect("short records fit");
            out
        })
        .collect()
}

pub fn record() -> Seeds {
    records()
}

pub fn log_block() -> Seeds {
    let (local, shared) = (records().remove(2), records().concat());
    let used = BLOCK_HEADER_BYTES + local.len() + shared.len();
    let small = |value: usize| u32::try_from(value).expect("it fits a block");
    let header = BlockHeader {
        used_bytes: small(used),
        local_bytes: small(local.len()),
        volume: 7,
        sequence: 20,
        first_lsn: Lsn(640),
        writer_epoch: 1,
        generation: 2,
        durable: Lsn(600),
        committed: Lsn(600),
        stream_hash: 0,
        first_record: small(BLOCK_HEADER_BYTES + local.len()),
    };
    let mut block = vec![0; BLOCK_HEADER_BYTES];
    block.extend([local, shared].concat());
    block.resize(512, 0);
    header.seal(&mut block, &SEED, POSITION);
    vec![block]
}

pub fn engine_records() -> Seeds {
    let checkpoint = CheckpointBody {
        number: 3,
        freeze: Lsn(600),
        stream_hash: 0,
        merged_through: 2,
        bounds: volume_entry().bounds,
        history_floor: 0,
        drop_position: 0,
        hlc: Hlc(99),
        roots: node_reference(8),
        roots_twin: node_reference(9),
        batch: vec![Reference { kind: ReferenceKind::Batch, ..node_reference(10) }],
    };
    let bodies = [
        SegmentOpened { number: 5, stream: 1 }.encode().to_vec(),
        SegmentSealed { number: 5, length: 4096, digest: 6 }.encode().to_vec(),
        SegmentPlaced { number: 5, container: 6 }.encode().to_vec(),
        Relocated { number: 5, slot: 8, units: 8, container: 6, offset_units: 16 }.encode().to_vec(),
        Closed { hlc: Hlc(8), superblock: 9, next: Bounds { segment: 5, inode: 6, realm: 7, territory: 8, pin: 1 } }
            .encode()
            .to_vec(),
        checkpoint.encode(),
    ];
    (0_u8..).zip(bodies).map(|(which, body)| [vec![which], body].concat()).collect()
}

pub fn segment_header() -> Seeds {
    let header = SegmentHeader {
        seed: SEED,
        volume: 7,
        segment: 5,
        container: 6,
        stream: 1,
        flags: 0,
        birth_low: Hlc(1),
        opening: 9,
    };
    vec![header.encode(POSITION).to_vec()]
}

pub fn segment_footer() -> Seeds {
    let footer = SegmentFooter {
        segment: 5,
        last_part: 90,
        objects: 3,
        used_units: 100,
        digest: 6,
        birth_low: Hlc(1),
        birth_high: Hlc(9),
        opening: 9,
    };
    vec![footer.encode(&SEED, POSITION).to_vec()]
}

pub fn table_part() -> Seeds {
    let row = |slot: u16| TableRow {
        oid: Oid::new(7, 5, slot),
        birth: Hlc(5),
        stored_bytes: 512,
        crc: 1,
        offset_units: slot.into(),
        kind: ReferenceKind::Extent,
        owner: 8,
    };
    let part = |rows: Vec<TableRow>| TablePart { segment: 5, previous: 3, opening: 9, rows }.encode();
    vec![part(Vec::new()), part((8..12).map(row).collect())]
}

pub fn batch() -> Seeds {
    let object = BatchObject::from(&node_reference(8));
    let batch = Batch {
        history: vec![
            HistoryStep::Retain { checkpoint: 3, segment_bound: 9, wall_ns: -5 },
            HistoryStep::Drop { checkpoint: 1 },
            HistoryStep::Release { checkpoint: 1, rows: 4 },
        ],
        repairs: vec![Repair {
            action: RepairAction::Dead,
            reference: node_reference(8),
            first: 0,
            units: 2,
            delta: 0,
        }],
        checkpoint: 3,
        new: vec![object],
        freed: vec![object],
        ranges: vec![BatchRange { oid: object.oid, first: 8, units: 16 }],
        deltas: vec![Delta { reference: node_reference(8), delta: -1 }],
        drops: vec![
            Drop {
                object: object.oid,
                stored_bytes: 512,
                edges: vec![node_reference(11), extent_reference(13)],
                unreadable: false,
            },
            Drop { object: object.oid, stored_bytes: 512, edges: Vec::new(), unreadable: true },
        ],
    };
    [batch, Batch { checkpoint: 1, ..Batch::default() }].iter().flat_map(|batch| batch.encode(PART_BYTES_MAX)).collect()
}

pub fn segment_page() -> Seeds {
    let page = SegmentPage {
        segment: 5,
        live: vec![(8, 8), (20, 4)],
        extra: vec![(8, 1), (20, -1)],
        moved: vec![Moved { slot: 8, units: 8, container: 6, offset_units: 16 }],
        deferred: vec![(30, 2)],
    };
    vec![page.encode(), SegmentPage { segment: 5, ..SegmentPage::default() }.encode()]
}

pub fn list_page() -> Seeds {
    let place = Place { container: 1, units: 8, stored_bytes: 512, crc: 5 };
    vec![
        ListPage::DropQueue(vec![node_reference(8)]).encode(place),
        ListPage::OrphanedSegments(vec![OrphanedSegment { segment: 5, page: place }]).encode(Place::NONE),
        ListPage::OrphanIndex(vec![OrphanedSegment { segment: 5, page: place }]).encode(Place::NONE),
        ListPage::Deferred(vec![DeferredRange { segment: 5, slot: 8, units: 2 }]).encode(Place::NONE),
        ListPage::Unreadable(vec![node_reference(8)]).encode(Place::NONE),
        ListPage::History(vec![HistoryRow {
            checkpoint: 3,
            hlc: Hlc(99),
            wall_ns: -5,
            segment_bound: 9,
            state: HistoryState::Retained,
            roots: node_reference(8),
            roots_twin: node_reference(9),
            deferred: place,
            rows: 3,
            units: 6,
        }])
        .encode(Place::NONE),
    ]
}

pub fn roots() -> Seeds {
    let (blob, references) =
        ClientRoots { territory_table: node_reference(8), realm_table: node_reference(9) }.encode();
    vec![
        RootsObject {
            checkpoint: 3,
            freeze: Lsn(600),
            hlc: Hlc(99),
            client: envoyfs_layout::ClientTag::FILES,
            references,
            blob,
            copies: Vec::new(),
        }
        .encode(),
        RootsObject::default().encode(),
    ]
}

pub fn node() -> Seeds {
    let mut leaf = NodeBuilder::new(TreeKind::Directory, 0, Hlc(9), Owner { realm: 1, inode: 2 });
    leaf.set_root_blob(&attributes().encode().expect("attributes fit")).expect("a small blob fits");
    for (index, (value, references)) in entries().into_iter().enumerate() {
        let key = key::directory(index as u64 + 256, 0, b"name");
        leaf.push(&key, &value, &references).expect("a small item fits");
    }
    let mut interior = NodeBuilder::new(TreeKind::Extents, 1, Hlc(9), Owner::default());
    interior.push(&key::extent(0), &[0; 40], &[node_reference(8)]).expect("a small item fits");
    interior.push(&key::extent(9), &[0; 40], &[node_reference(10)]).expect("a small item fits");
    vec![leaf.finish(), interior.finish(), NodeBuilder::new(TreeKind::Links, 0, Hlc(1), Owner::default()).finish()]
}

pub fn reference() -> Seeds {
    vec![node_reference(8).encode().to_vec(), extent_reference(8).encode().to_vec()]
}

fn attributes() -> DirectoryAttributes {
    DirectoryAttributes {
        mode: 0o40_755,
        mtime: TIME,
        hash_key: [4; 16],
        parent_inode: 1,
        xattrs: vec![(b"user.a".to_vec(), b"1".to_vec())],
        ..DirectoryAttributes::default()
    }
}

pub fn directory_attributes() -> Seeds {
    vec![attributes().encode().expect("attributes fit")]
}

fn file_slice(file_block: u64) -> Slice {
    Slice { file_block, blocks: 2, extent_block: 0, last_block_bytes: 4096, crcs: vec![1, 2] }
}

fn inodes() -> Vec<Inode> {
    let inode = Inode { number: 7, mode: 0o100_644, nlink: 1, mtime: TIME, ..Inode::default() };
    let body = |body: Body| Inode { body, ..inode.clone() };
    vec![
        body(Body::None),
        body(Body::inline(b"hello".to_vec())),
        body(Body::Slices(vec![(file_slice(0), extent_reference(8)), (file_slice(5), extent_reference(24))])),
        body(Body::Tree { root: node_reference(8), bytes: 9 << 20 }),
        Inode {
            mode: 0o120_777,
            xattrs: vec![(b"user.a".to_vec(), vec![0; 9])],
            ..body(Body::inline(b"target".to_vec()))
        },
        Inode { mode: 0o10_600, ..inode.clone() },
    ]
}

fn directory() -> DirectoryEntry {
    DirectoryEntry { share: Hlc(4), number: 9, generation: 1, totals: TOTALS, snapshots: true, root: node_reference(8) }
}

fn realm_entry(links: bool) -> RealmEntry {
    RealmEntry {
        share: Hlc(4),
        number: 9,
        generation: 1,
        totals: TOTALS,
        snapshots: false,
        root: node_reference(8),
        realm_id: 5,
        home: 1,
        read_only: links,
        links: links.then(|| node_reference(10)),
        links_share: Hlc(2),
        links_totals: TOTALS,
    }
}

fn entries() -> Vec<(Vec<u8>, Vec<Reference>)> {
    let inodes = inodes().into_iter().filter_map(|inode| Entry::of_inode(inode).ok());
    let others = [
        Entry::Directory(directory()),
        Entry::Link(LinkEntry { shard: 1, inode: 7, mode: 0o100_644 }),
        Entry::Realm(realm_entry(false)),
        Entry::Realm(realm_entry(true)),
    ];
    inodes.chain(others).map(|entry| entry.encode().expect("small entries fit")).collect()
}

/// Value behind its references.
fn joined((value, references): (Vec<u8>, Vec<Reference>)) -> Vec<u8> {
    let count = u8::try_from(references.len()).expect("a few");
    [vec![count], references.iter().flat_map(Reference::encode).collect(), value].concat()
}

pub fn entry() -> Seeds {
    entries().into_iter().map(joined).collect()
}

pub fn inode() -> Seeds {
    inodes().iter().map(|inode| joined(inode.encode().expect("small inodes fit"))).collect()
}

pub fn slice() -> Seeds {
    vec![file_slice(7).encode().expect("a small slice fits")]
}

pub fn realm() -> Seeds {
    let record = RealmRecord {
        index: 1,
        created: Hlc(2),
        snapshots: 3,
        orphans: 4,
        retention: Retention { interval_seconds: 3600, keep: 24 },
    };
    let item = SnapshotItem { name: b"before".to_vec(), realm: realm_entry(true) };
    vec![record.encode().expect("a record fits"), joined(item.encode().expect("an item fits"))]
}

pub fn territory() -> Seeds {
    let record = TerritoryRecord {
        territory: 1,
        realm: 1,
        root_inode: 1,
        totals: TOTALS,
        view: Some(realm_entry(true)),
        ..TerritoryRecord::default()
    };
    let given =
        TerritoryRecord { root: Some(node_reference(8)), imports: Some(node_reference(10)), view: None, ..record };
    [record, given].iter().map(|record| joined(record.encode().expect("a record fits"))).collect()
}

pub fn client_roots() -> Seeds {
    vec![joined(ClientRoots { territory_table: node_reference(8), realm_table: node_reference(9) }.encode())]
}

pub fn operation() -> Seeds {
    let name = b"name".to_vec();
    let attributes = Attributes { mode: Some(0o644), uid: None, gid: Some(5), atime: Some(TIME), mtime: None };
    let key = RealmKey { realm: 3, kind: RealmItemKind::Snapshot, directory: 4, id: 5 };
    let inode = Box::new(Inode { number: 7, mode: 0o100_644, nlink: 1, ..Inode::default() });
    let operations = [
        Operation::Bind { handle: 1, target: BindTarget::View },
        Operation::Bind { handle: 2, target: BindTarget::Named { parent: 1, name: name.clone() } },
        Operation::Bind { handle: 3, target: BindTarget::Link { realm_root: 1, shard: 1, inode: 9 } },
        Operation::Bind { handle: 4, target: BindTarget::Orphan { realm: 0, inode: 10 } },
        Operation::Bind { handle: 5, target: BindTarget::Snapshot { directory: 1, realm: 11 } },
        Operation::Create { handle: 6, parent: 1, time: TIME, name: name.clone(), hash_key: [3; 16], inode },
        Operation::Link { handle: 6, parent: 1, time: TIME, name: name.clone() },
        Operation::Unlink { parent: 1, time: TIME, name: name.clone(), fate: Fate::Gone },
        Operation::Unlink {
            parent: 1,
            time: TIME,
            name: name.clone(),
            fate: Fate::Survivor { parent: 2, name: name.clone() },
        },
        Operation::Rename {
            parent: 1,
            name: name.clone(),
            new_parent: 2,
            new_name: name.clone(),
            time: TIME,
            exchange: true,
            orphan: false,
        },
        Operation::Write { handle: 6, size: 9, time: TIME, pieces: vec![(5, vec![1, 2, 3])], direct: vec![1, 2] },
        Operation::Truncate { handle: 6, size: 3, time: TIME },
        Operation::SetAttributes { handle: 6, attributes, time: TIME },
        Operation::SetXattr { handle: 6, time: TIME, name: name.clone(), value: vec![1, 2] },
        Operation::RemoveXattr { handle: 6, time: TIME, name: name.clone() },
        Operation::ForkDirectory { source: 1, parent: 2, time: TIME, name: name.clone(), realm: 8 },
        Operation::ForkFile { source: 1, parent: 2, time: TIME, name: name.clone(), handle: 7, number: 70 },
        Operation::Snapshot { directory: 1, time: TIME, name: name.clone(), realm: 8 },
        Operation::DeleteTree { parent: 1, time: TIME, name, dropped: vec![key] },
        Operation::DeleteSnapshot { directory: 1, time: TIME, realm: 8 },
        Operation::OrphanDrop { realm: 1, inode: 7 },
    ];
    let encoded = operations.iter().map(|operation| operation.encode().expect("small operations fit"));
    encoded.map(|(kind, body)| [kind.to_le_bytes().to_vec(), body].concat()).collect()
}

pub fn key() -> Seeds {
    vec![
        DirectoryKey { hash: 0x0102_0304_0506_0708, collision: 1, name: b"name".to_vec() }.encode(),
        LinkKey { shard: 1, inode: 2 }.encode(),
        RealmKey { realm: 3, kind: RealmItemKind::Orphan, directory: 0, id: 5 }.encode(),
        key::extent(256),
        key::territory(1),
    ]
}
