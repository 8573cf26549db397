//! Random histories of one file against a map of blocks, with the accounting of what was freed; and the cases that have a story.

mod cases;
mod histories;
mod store;

use super::read::usize_of;
use super::view::{Kind, walk};
use super::{BLOCK_BYTES, Built, Content, Edit, split};
use crate::api::Result;
use crate::tree::Nodes;
use envoyfs_engine::store::{Batch, DataObject, FreedRange, Gone, Store};
use envoyfs_layout::node::{Owner, TreeKind};
use envoyfs_layout::{Body, Hlc, Oid, Reference};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use store::{TestStore, permit};

/// A record.
#[derive(Clone, Debug)]
enum Record {
    Write {
        pieces: Vec<(u64, Vec<u8>)>,
        direct: Vec<(u64, DataObject)>,
    },
    Truncate(u64),
    Punch(u64, u64),
    Fork,
    /// A move of the file below a place that was forked later: its path's share time rises.
    Move,
}

type Units = BTreeMap<Oid, BTreeSet<u32>>;

/// What the file should contain: blocks that are not zeros.
#[derive(Clone, Default)]
struct Oracle {
    blocks: BTreeMap<u64, Vec<u8>>,
    size: u64,
}

impl Oracle {
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        for (at, byte) in (offset..).zip(bytes) {
            let block = self.blocks.entry(at / BLOCK_BYTES).or_insert_with(|| vec![0; 4096]);
            block[usize_of(at % BLOCK_BYTES)] = *byte;
        }
        self.size = self.size.max(offset + bytes.len() as u64);
    }
    fn zero(&mut self, from: u64, to: u64) {
        for (block, bytes) in
            self.blocks.range_mut(from / BLOCK_BYTES..to.div_ceil(BLOCK_BYTES).max(from / BLOCK_BYTES))
        {
            let start = block * BLOCK_BYTES;
            let range = from.max(start)..to.min(start + BLOCK_BYTES);
            bytes[usize_of(range.start - start)..usize_of(range.end - start)].fill(0);
        }
        self.blocks.retain(|_, bytes| bytes.iter().any(|byte| *byte != 0));
    }
    fn truncate(&mut self, size: u64) {
        if size < self.size {
            self.zero(size, self.size);
        }
        self.size = size;
    }
    fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let end = (offset + len as u64).min(self.size);
        let byte = |at: u64| self.blocks.get(&(at / BLOCK_BYTES)).map_or(0, |block| block[usize_of(at % BLOCK_BYTES)]);
        (offset..end).map(byte).collect()
    }
}

/// One file, its store, and all that must stay true of them.
struct Machine {
    store: Arc<TestStore>,
    nodes: Nodes,
    content: Content,
    oracle: Oracle,
    es: Hlc,
    clock: Hlc,
    records: Vec<Record>,
    hlcs: Vec<Hlc>,
    /// Every unit freed, ever.
    freed: Units,
    /// Those freed since the last freeze.
    freed_since: Units,
    gone: BTreeSet<Oid>,
    freeze: Option<Freeze>,
    built: Option<Built>,
    published: (Body, u64, usize, Hlc),
    forked_since: bool,
}

/// A freeze that is not installed yet.
struct Freeze {
    size: u64,
    records: usize,
    es: Hlc,
    rolled: bool,
}

impl Machine {
    fn new(extent_bytes_max: u32) -> Self {
        let store = TestStore::new(extent_bytes_max);
        Self {
            nodes: Nodes::new(store.clone(), 1 << 20),
            store,
            content: Content::empty(),
            oracle: Oracle::default(),
            es: Hlc(2),
            clock: Hlc(2),
            records: Vec::new(),
            hlcs: Vec::new(),
            freed: Units::new(),
            freed_since: Units::new(),
            gone: BTreeSet::new(),
            freeze: None,
            built: None,
            published: (Body::None, 0, 0, Hlc(2)),
            forked_since: false,
        }
    }

    fn tick(&mut self) -> Hlc {
        self.clock = self.clock.next_record();
        self.clock
    }

    fn note_freed(&mut self, ranges: Vec<FreedRange>) {
        let objects = self.store.objects();
        for range in ranges {
            let object = &objects[&range.oid];
            assert!(object.birth.unwrap() > self.es, "only what is exclusive is freed");
            assert!(range.units.end as usize * 512 <= object.bytes.len(), "{range:?}");
            for unit in range.units {
                assert!(
                    self.freed.entry(range.oid).or_default().insert(unit),
                    "unit {unit} of {} freed twice",
                    range.oid
                );
                self.freed_since.entry(range.oid).or_default().insert(unit);
            }
        }
    }

    fn touch(&mut self) {
        if let Some(freeze) = &mut self.freeze
            && !freeze.rolled
        {
            freeze.rolled = true;
            self.content.roll();
        }
    }

    fn edit(&mut self, record: Record) -> Result<()> {
        let size = self.oracle.size;
        let prepared = with_edit(&record, |edit| self.content.prepare(&self.nodes, size, edit))?;
        self.touch();
        let hlc = self.tick();
        if let Record::Write { direct, .. } = &record {
            let objects: Vec<_> = direct.iter().map(|(_, object)| object.clone()).collect();
            self.store.name(&objects, hlc.birth());
        }
        let mut freed = Vec::new();
        self.content.apply(prepared, self.es, hlc.birth(), &mut freed);
        self.note_freed(freed);
        self.records.push(record);
        self.hlcs.push(hlc);
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let max = self.store.limits().extent_bytes_max;
        let split = split(offset, bytes.len());
        self.touch();
        let mut direct: Vec<(u64, DataObject)> = Vec::new();
        for range in split.objects(max) {
            let block = (offset + range.start as u64) / BLOCK_BYTES;
            let after = self.content.last_object(block);
            let mut object = self.store.append_data(&mut permit(), after, &bytes[range])?;
            object.extends = self.content.extends(self.es, block, &object, max);
            direct.push((block, object));
        }
        let pieces =
            split.pieces.iter().map(|range| (offset + range.start as u64, bytes[range.clone()].to_vec())).collect();
        self.edit(Record::Write { pieces, direct })?;
        self.oracle.write(offset, bytes);
        Ok(())
    }

    fn truncate(&mut self, size: u64) -> Result<()> {
        self.edit(Record::Truncate(size))?;
        self.oracle.truncate(size);
        Ok(())
    }

    fn punch(&mut self, offset: u64, len: u64) -> Result<()> {
        self.edit(Record::Punch(offset, len))?;
        self.oracle.zero(offset, (offset + len).min(self.oracle.size).max(offset));
        Ok(())
    }

    fn freeze(&mut self) {
        if self.freeze.is_none() {
            self.freeze =
                Some(Freeze { size: self.oracle.size, records: self.records.len(), es: self.es, rolled: false });
            self.forked_since = false;
            self.freed_since.clear();
        }
    }

    fn build(&mut self) -> Result<()> {
        self.touch();
        let Some(freeze) = self.freeze.as_ref().filter(|_| self.built.is_none()) else { return Ok(()) };
        let size = freeze.size;
        let built = self.build_in(Batch::Frozen, size)?;
        self.built = Some(built);
        Ok(())
    }

    fn build_in(&mut self, batch: Batch, size: u64) -> Result<Built> {
        let mut gone: Vec<Gone> = Vec::new();
        let built = self.content.build(&self.nodes, Owner::default(), batch, self.es, size, &mut gone)?;
        for gone in gone {
            assert!(gone.node.birth > self.es, "only exclusive nodes go");
            assert!(self.gone.insert(gone.node.oid), "a node goes once");
        }
        let slices = slices(&self.nodes, &built.body);
        assert_eq!(
            built.allocated,
            slices.iter().map(|(units, _)| u64::from(units.end - units.start) * 512).sum::<u64>()
        );
        assert!(slices.iter().all(|(_, extent)| extent.birth <= built.birth), "INV-02");
        Ok(built)
    }

    fn install(&mut self) {
        let Some(built) = self.built.take() else { return };
        let freeze = self.freeze.take().unwrap();
        self.published = (built.body.clone(), freeze.size, freeze.records, freeze.es);
        let mut freed = Vec::new();
        self.content.install(built, self.es, &mut freed);
        self.note_freed(freed);
    }

    fn checkpoint(&mut self) -> Result<()> {
        self.freeze();
        self.build()?;
        self.install();
        Ok(())
    }

    fn fork(&mut self) -> Result<()> {
        self.build()?;
        self.install();
        self.content.roll();
        let built = self.build_in(Batch::Current, self.oracle.size)?;
        let mut freed = Vec::new();
        self.content.install(built, self.es, &mut freed);
        assert!(freed.is_empty() && self.content.is_clean());
        self.es = self.tick();
        self.records.push(Record::Fork);
        self.hlcs.push(self.es);
        self.forked_since = true;
        Ok(())
    }

    fn raise_share(&mut self) {
        self.es = self.tick();
        self.records.push(Record::Move);
        self.hlcs.push(self.es);
        self.forked_since = true;
    }

    /// Everything that must be true between any two steps.
    fn check(&self) {
        let size = self.oracle.size;
        for start in self.oracle.blocks.keys().map(|block| block * BLOCK_BYTES).chain([0, size.saturating_sub(5000)]) {
            let mut bytes = vec![0xee; 4096];
            let count = self.content.read(&self.nodes, size, start, &mut bytes).unwrap();
            assert!(bytes[..count] == self.oracle.read(start, 4096)[..], "bytes at {start}");
        }
        let mut visible = Units::new();
        let mut allocated = 0;
        walk(&self.content, &self.nodes, 0..u64::MAX / 4096, &mut |part| {
            assert!(
                part.blocks.end <= size.div_ceil(BLOCK_BYTES) || matches!(part.kind, Kind::Hole),
                "mapped beyond the end"
            );
            allocated += part.bytes();
            if let Kind::Slice(stored) = part.kind {
                for unit in stored.units() {
                    assert!(visible.entry(stored.extent.oid).or_default().insert(unit), "a block is visible once");
                }
            }
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
        assert_eq!(self.content.allocated(), allocated);
        for (oid, units) in &self.freed {
            if let Some(seen) = visible.get(oid) {
                assert!(seen.is_disjoint(units), "INV-10: a visible unit of {oid} was freed");
            }
        }
        if self.built.is_none() {
            self.check_exact(&visible);
        }
        if self.content.is_clean() {
            self.check_nodes();
        }
    }

    /// INV-11: of an exclusive extent, freed is what is not referenced, exactly.
    fn check_exact(&self, visible: &Units) {
        for (oid, object) in self.store.objects() {
            if object.node || object.birth.is_none_or(|birth| birth <= self.es) {
                continue;
            }
            let units = u32::try_from(object.bytes.len() / 512).unwrap();
            let none = BTreeSet::new();
            let (seen, freed) = (visible.get(&oid).unwrap_or(&none), self.freed.get(&oid).unwrap_or(&none));
            let known: BTreeSet<u32> = seen.union(freed).copied().collect();
            assert_eq!(known, (0..units).collect(), "INV-11: {oid} visible {seen:?} freed {freed:?}");
        }
    }

    /// Exclusive nodes are reachable or gone.
    fn check_nodes(&self) {
        let mut reachable = BTreeSet::new();
        if let Body::Tree { root, .. } = self.content.base() {
            let mut rest = vec![*root];
            while let Some(reference) = rest.pop() {
                reachable.insert(reference.oid);
                let node = self.nodes.read(&reference, TreeKind::Extents).unwrap();
                if node.header().level > 0 {
                    rest.extend((0..node.len()).flat_map(|index| node.item_references(index)));
                }
            }
        }
        assert!(reachable.is_disjoint(&self.gone));
        for (oid, object) in self.store.objects() {
            if object.node && object.birth.unwrap() > self.es {
                assert!(reachable.contains(&oid) || self.gone.contains(&oid), "node {oid} is lost");
            }
        }
    }

    /// A crash: the published body and the records after it give the same bytes and free the same units.
    fn check_replay(&self) {
        let (body, mut size, first, mut es) = self.published.clone();
        let mut content = Content::from_body(&body);
        let mut freed = Vec::new();
        for (record, hlc) in self.records.iter().zip(&self.hlcs).skip(first) {
            if matches!(record, Record::Fork) {
                content.roll();
                let built =
                    content.build(&self.nodes, Owner::default(), Batch::Current, es, size, &mut Vec::new()).unwrap();
                content.install(built, es, &mut freed);
                es = *hlc;
                continue;
            }
            if matches!(record, Record::Move) {
                es = *hlc;
                continue;
            }
            let prepared = with_edit(record, |edit| content.prepare(&self.nodes, size, edit)).unwrap();
            content.apply(prepared, es, hlc.birth(), &mut freed);
            size = match record {
                Record::Write { pieces, direct } => {
                    let ends = pieces.iter().map(|(offset, bytes)| offset + bytes.len() as u64);
                    let ends =
                        ends.chain(direct.iter().map(|(block, object)| block * 4096 + u64::from(object.stored_bytes)));
                    size.max(ends.max().unwrap_or(0))
                }
                Record::Truncate(new) => *new,
                Record::Punch(..) | Record::Fork | Record::Move => size,
            };
        }
        assert_eq!(size, self.oracle.size);
        for start in self.oracle.blocks.keys().map(|block| block * BLOCK_BYTES) {
            let mut bytes = vec![0; 4096];
            let count = content.read(&self.nodes, size, start, &mut bytes).unwrap();
            assert!(bytes[..count] == self.oracle.read(start, 4096)[..], "replayed bytes at {start}");
        }
        let forked = self.forked_since
            || self.records.iter().skip(first).any(|record| matches!(record, Record::Fork | Record::Move));
        if !forked && self.freeze.is_none() {
            let mut units = Units::new();
            for range in freed {
                units.entry(range.oid).or_default().extend(range.units);
            }
            assert_eq!(units, self.freed_since, "replay frees the same");
        }
    }
}

fn with_edit<T>(record: &Record, f: impl FnOnce(&Edit<'_>) -> T) -> T {
    match record {
        Record::Write { pieces, direct } => {
            let pieces: Vec<(u64, &[u8])> = pieces.iter().map(|(offset, bytes)| (*offset, bytes.as_slice())).collect();
            let direct: Vec<(u64, &DataObject)> = direct.iter().map(|(block, object)| (*block, object)).collect();
            f(&Edit::Write { pieces: &pieces, direct: &direct })
        }
        Record::Truncate(new_size) => f(&Edit::Truncate { new_size: *new_size }),
        Record::Punch(offset, len) => f(&Edit::Punch { offset: *offset, len: *len }),
        Record::Fork | Record::Move => unreachable!("not an edit"),
    }
}

/// Units of extents that a body references.
fn slices(nodes: &Nodes, body: &Body) -> Vec<(std::ops::Range<u32>, Reference)> {
    let mut all = Vec::new();
    walk(&Content::from_body(body), nodes, 0..u64::MAX / 4096, &mut |part| {
        if let Kind::Slice(stored) = part.kind {
            all.push((stored.units(), stored.extent));
        }
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    all
}
