//! Encoders, decoders and checksums of what is on disk. `cargo bench -p envoyfs-benches --bench codecs`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark may panic; criterion's macros make undocumented items"
)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use envoyfs_benches::scratch;
use envoyfs_layout::batch::{Batch, BatchObject};
use envoyfs_layout::node::{NodeBuilder, NodeView, Owner, TreeKind, edges};
use envoyfs_layout::segment::{TablePart, TableRow};
use envoyfs_layout::superblock::Superblock;
use envoyfs_layout::system_page::SegmentPage;
use envoyfs_layout::wal::{NamedObject, Record, RecordParts};
use envoyfs_layout::{Hlc, Oid, Reference, ReferenceKind, checksum};
use std::hint::black_box;

fn reference(index: u32) -> Reference {
    let oid = Oid::new(1, index / 1000, u16::try_from(index % 1000).unwrap() * 8);
    Reference::extent(oid, Hlc(u64::from(index) + 1), 4096)
}

fn leaf(items: u32) -> Vec<u8> {
    let mut builder = NodeBuilder::new(TreeKind::Extents, 0, Hlc(1000), Owner::default());
    for index in 0..items {
        builder.push(&index.to_be_bytes(), &[7; 6], &[reference(index)]).unwrap();
    }
    builder.finish()
}

fn checksums(c: &mut Criterion) {
    let mut group = c.benchmark_group("crc32c");
    for (name, length) in [("4 KiB", 4096), ("1 MiB", 1 << 20)] {
        let bytes = vec![0x5A; length];
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(name, |b| b.iter(|| checksum::crc32c(black_box(&bytes))));
    }
    let bytes = vec![0x5A; 1 << 20];
    group.bench_function("1 MiB by blocks", |b| b.iter(|| checksum::blocks(black_box(&bytes))));
    group.finish();
}

fn nodes(c: &mut Criterion) {
    let mut group = c.benchmark_group("node");
    for items in [16, 64, 256] {
        let bytes = leaf(items);
        group.throughput(Throughput::Elements(items.into()));
        group.bench_function(format!("encode, {items} items"), |b| b.iter(|| leaf(black_box(items))));
        group.bench_function(format!("parse, {items} items"), |b| {
            b.iter(|| NodeView::parse(black_box(&bytes)).unwrap())
        });
        group.bench_function(format!("edges, {items} items"), |b| b.iter(|| edges(black_box(&bytes)).unwrap()));
    }
    group.finish();
}

fn records(c: &mut Criterion) {
    let crcs = [7];
    let data = [NamedObject { oid: Oid::new(1, 2, 8), extends: None, stored_bytes: 4096, crcs: &crcs[..] }];
    let parts = RecordParts {
        kind: 300,
        local: false,
        ignorable: false,
        hlc: Hlc(2000),
        territory: 1,
        origin: None,
        result: None,
        data: &data,
        body: &[1; 100],
    };
    let mut encoded = Vec::new();
    parts.encode(&mut encoded).unwrap();
    let mut group = c.benchmark_group("record");
    group.bench_function("encode, 100 bytes and an object", |b| {
        let mut out = Vec::with_capacity(512);
        b.iter(|| {
            out.clear();
            black_box(&parts).encode(&mut out).unwrap();
        });
    });
    group
        .bench_function("decode, 100 bytes and an object", |b| b.iter(|| Record::decode(black_box(&encoded)).unwrap()));
    group.finish();
}

fn tables(c: &mut Criterion) {
    let rows: Vec<TableRow> = (0..200)
        .map(|index| TableRow {
            oid: reference(index).oid,
            birth: Hlc(9),
            stored_bytes: 4096,
            crc: index,
            offset_units: 8 * index + 1,
            kind: ReferenceKind::Extent,
            owner: 0,
        })
        .collect();
    let part = TablePart { segment: 3, previous: 0, opening: 1, rows };
    let bytes = part.encode();
    let page = SegmentPage {
        segment: 3,
        live: (0..500).map(|index| (index * 16, 8)).collect(),
        extra: (0..100).map(|index| (index * 64, 1)).collect(),
        moved: Vec::new(),
        deferred: Vec::new(),
    };
    let page_bytes = page.encode();
    let mut group = c.benchmark_group("table");
    group.bench_function("segment table, encode 200 rows", |b| b.iter(|| black_box(&part).encode()));
    group
        .bench_function("segment table, decode 200 rows", |b| b.iter(|| TablePart::decode(black_box(&bytes)).unwrap()));
    group.bench_function("segment page, encode 600 rows", |b| b.iter(|| black_box(&page).encode()));
    group.bench_function("segment page, decode 600 rows", |b| {
        b.iter(|| SegmentPage::decode(black_box(&page_bytes)).unwrap())
    });
    group.finish();
}

fn batches(c: &mut Criterion) {
    let new: Vec<BatchObject> = (0..10_000).map(|index| BatchObject::from(&reference(index))).collect();
    let batch = Batch { checkpoint: 7, new, ..Batch::default() };
    let parts = batch.encode(1 << 20);
    let mut group = c.benchmark_group("batch");
    group.throughput(Throughput::Elements(10_000));
    group.bench_function("encode 10 000 objects", |b| b.iter(|| black_box(&batch).encode(1 << 20)));
    group.bench_function("decode 10 000 objects", |b| {
        b.iter(|| Batch::decode(black_box(&parts).iter().map(Vec::as_slice)).unwrap())
    });
    group.finish();
}

fn superblocks(c: &mut Criterion) {
    let device = scratch::in_memory(256 << 20).expect("a store in /dev/shm");
    let superblock = envoyfs_engine::superblock::open(&*device).unwrap().superblock;
    let bytes = superblock.encode(0);
    let mut group = c.benchmark_group("superblock");
    group.bench_function("encode", |b| b.iter(|| black_box(&superblock).encode(0)));
    group.bench_function("decode", |b| {
        b.iter_batched(|| bytes, |bytes| Superblock::decode(&bytes, 0).unwrap(), BatchSize::SmallInput)
    });
    group.finish();
}

criterion_group!(benches, checksums, nodes, records, tables, batches, superblocks);
criterion_main!(benches);
