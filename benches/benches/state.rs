//! What a checkpoint does in memory: the law of its batch, and the batch applied to counts and liveness. `cargo bench -p envoyfs-benches --bench state`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a benchmark may panic; criterion's macros make undocumented items"
)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use envoyfs_engine::state::State;
use envoyfs_engine::state::law::{Unstored, compute};
use envoyfs_engine::store::Changes;
use envoyfs_layout::batch::{Batch, BatchObject};
use envoyfs_layout::{Encoding, Hlc, Oid, Reference, ReferenceKind};
use std::collections::HashMap;
use std::hint::black_box;

const OBJECTS: u32 = 100_000;
/// Of a segment, each of 4 KiB.
const IN_SEGMENT: u32 = 4000;
/// Children of a node.
const FANOUT: usize = 64;

fn reference(index: u32, kind: ReferenceKind) -> Reference {
    Reference {
        oid: Oid::new(1, 1 + index / IN_SEGMENT, u16::try_from(index % IN_SEGMENT).unwrap() * 8 + 8),
        birth: Hlc(u64::from(index) + 1),
        stored_bytes: 4096,
        logical_bytes: 4096,
        crc: 0,
        kind,
        flags: 0,
        encoding: Encoding::Plain,
    }
}

fn batch() -> Batch {
    let new = (0..OBJECTS).map(|index| BatchObject::from(&reference(index, ReferenceKind::Extent))).collect();
    Batch { checkpoint: 1, new, ..Batch::default() }
}

fn empty() -> State {
    let segments = OBJECTS / IN_SEGMENT + 1;
    let mut state = State::new(segments + 1);
    (1..=segments).for_each(|number| state.open_segment(number, number));
    state
}

fn apply(c: &mut Criterion) {
    let batch = batch();
    let mut group = c.benchmark_group("state");
    group.sample_size(20).throughput(Throughput::Elements(OBJECTS.into()));
    group.bench_function("apply a batch of 100 000 new objects", |b| {
        b.iter_batched(
            empty,
            |mut state| {
                state.apply(black_box(&batch), None).unwrap();
                state
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

/// A tree: leaves of extents under nodes of nodes, all new.
fn unstored() -> (HashMap<Oid, Unstored>, Reference) {
    let mut all = HashMap::new();
    let mut add = |reference: Reference, edges: Vec<Reference>| {
        all.insert(reference.oid, Unstored { reference, edges, batch: 1, referred: true, pieces: 1 });
        reference
    };
    let mut next = 0;
    let mut level: Vec<Reference> = (0..OBJECTS)
        .map(|_| {
            next += 1;
            add(reference(next, ReferenceKind::Extent), Vec::new())
        })
        .collect();
    while level.len() > 1 {
        level = level
            .chunks(FANOUT)
            .map(|children| {
                next += 1;
                let mut edges = children.to_vec();
                edges.sort_by_key(|edge| edge.oid);
                add(reference(next, ReferenceKind::Node), edges)
            })
            .collect();
    }
    (all, level.first().copied().unwrap())
}

fn law(c: &mut Criterion) {
    let (unstored, root) = unstored();
    let mut group = c.benchmark_group("law");
    group.sample_size(20).throughput(Throughput::Elements(OBJECTS.into()));
    group.bench_function("compute for 100 000 new objects", |b| {
        b.iter(|| compute(1, black_box(&unstored), &[], &[root], &Changes::default()).unwrap());
    });
    group.finish();
}

criterion_group!(benches, apply, law);
criterion_main!(benches);
