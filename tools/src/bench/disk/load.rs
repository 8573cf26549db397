//! The disk at its start: empty, or as the store holds it, with the records since the checkpoint replayed.

use super::checkpoint::{Interior, MAGIC};
use super::leaf::{Entry, decode};
use super::{Dirty, FANOUT, Gate, Leaf, Shared, WRITE, check_span};
use anyhow::{Context as _, Result, bail, ensure};
use envoyfs_engine::Engine;
use envoyfs_engine::store::Store as _;
use envoyfs_layout::node::NodeView;
use envoyfs_layout::{BLOCK, Hlc, Reference};
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// A disk of which nothing was ever written.
pub fn empty(engine: Arc<Engine>, blocks: u64, span: usize) -> Result<Shared> {
    check_span(span, blocks)?;
    let leaves = usize::try_from(blocks)? / span;
    let none: Arc<[Entry]> = vec![Entry::EMPTY; span].into();
    let leaf = || Leaf { entries: Arc::clone(&none), stored: None, dirty: 0, birth: Hlc::ZERO, frozen: None };
    let mut levels = Vec::new();
    let mut below = leaves;
    while below > 1 || levels.is_empty() {
        let nodes = below.div_ceil(FANOUT);
        let children = |index: usize| vec![None; FANOUT.min(below - index * FANOUT)];
        levels.push((0..nodes).map(|index| Interior { stored: None, children: children(index) }).collect::<Vec<_>>());
        below = nodes;
    }
    let extent_blocks = (engine.limits().extent_bytes_max / BLOCK) as usize;
    Ok(Shared {
        blocks,
        span,
        extent_blocks: extent_blocks.min(span),
        // 0 means clean.
        gate: RwLock::new(Gate { epoch: 1 }),
        leaves: (0..leaves).map(|_| Mutex::new(leaf())).collect(),
        dirty: Mutex::new(Dirty::default()),
        charged: levels.iter().map(|level| level.iter().map(|_| AtomicU64::new(0)).collect()).collect(),
        levels: Mutex::new(levels),
        engine,
    })
}

/// The disk that the store holds.
pub fn load(engine: Arc<Engine>, span: usize) -> Result<Shared> {
    let roots = engine.recovered_roots();
    let number = |from: usize| {
        let bytes = roots.blob.get(from..).and_then(|rest| rest.first_chunk::<8>());
        bytes.map(|bytes| u64::from_le_bytes(*bytes)).context("the store holds no disk of envoyfs bench")
    };
    ensure!(roots.blob.starts_with(&MAGIC), "the store holds no disk of envoyfs bench");
    let (blocks, stored_span) = (number(8)?, number(16)?);
    ensure!(stored_span == span as u64, "the disk has leaves of {stored_span} blocks, not {span}");
    let shared = empty(engine, blocks, span)?;
    let mut children: Vec<(usize, Reference)> = roots.references.first().map(|root| (0, *root)).into_iter().collect();
    {
        let mut levels = shared.levels.lock();
        for level in levels.iter_mut().rev() {
            let mut below = Vec::new();
            for (index, reference) in children {
                let node = level.get_mut(index).context("a node behind the end of its level")?;
                node.stored = Some(reference);
                let bytes = shared.engine.read_node(&reference)?;
                let view = NodeView::parse(&bytes)?;
                for item in view.items() {
                    let child = item.reference_indexes().next().and_then(|row| view.reference(row));
                    let child = child.context("an item of a node without a reference")?;
                    let at = usize::from(u16::from_be_bytes(item.key.try_into().context("the key of a child")?));
                    *node.children.get_mut(at).context("a child behind the end of its node")? = Some(child);
                    below.push((index * FANOUT + at, child));
                }
            }
            children = below;
        }
    }
    for (index, reference) in children {
        let bytes = shared.engine.read_node(&reference)?;
        let entries: Arc<[Entry]> = decode(&bytes, span)?.into();
        let mut leaf = shared.leaf(index)?.lock();
        leaf.entries = Arc::clone(&entries);
        leaf.birth = reference.birth;
        leaf.stored = Some((reference, entries));
    }
    replay(&shared)?;
    Ok(shared)
}

fn replay(shared: &Shared) -> Result<()> {
    for record in shared.engine.take_replay() {
        let (WRITE, Some(body)) = (record.kind, record.body.first_chunk::<8>()) else {
            bail!("a record of kind {} that is no write of this disk", record.kind);
        };
        let first = u64::from_le_bytes(*body);
        let (index, at) = (usize::try_from(first)? / shared.span, usize::try_from(first)? % shared.span);
        let mut leaf = shared.leaf(index)?.lock();
        let epoch = shared.gate.read().epoch;
        shared.apply(index, &mut leaf, epoch, at, &record.data, record.hlc.birth());
    }
    Ok(())
}
