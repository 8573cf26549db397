//! Checkpoints of the disk: the nodes of what the frozen epoch changed, while writers go on in the next.

use super::leaf::{encode, extents};
use super::{FANOUT, Shared};
use anyhow::{Context as _, Result, anyhow};
use envoyfs_engine::store::{Batch, Changes, Gone, Roots, Store as _};
use envoyfs_layout::node::{NodeBuilder, Owner, TreeKind};
use envoyfs_layout::{Hlc, Reference, ReferenceKind};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// "EVBENCH1".
pub const MAGIC: [u8; 8] = *b"EVBENCH1";

/// A node above the leaves.
#[derive(Clone, Debug, Default)]
pub struct Interior {
    /// In the store; none while nothing below it was ever written.
    pub stored: Option<Reference>,
    /// Children as stored, by index.
    pub children: Vec<Option<Reference>>,
}

impl Interior {
    fn edges(&self) -> Vec<Reference> {
        let mut edges: Vec<Reference> = self.children.iter().flatten().copied().collect();
        edges.sort_by_key(|edge| edge.oid);
        edges
    }
}

/// The thread that makes checkpoints when the engine wants one.
pub struct Checkpointer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Checkpointer {
    pub fn start(shared: &Arc<Shared>) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (flag, shared) = (Arc::clone(&stop), Arc::clone(shared));
        let run = move || -> Result<()> {
            while !flag.load(Ordering::SeqCst) {
                if shared.engine.wait_checkpoint(100).is_some() {
                    shared.checkpoint()?;
                }
                if let Some(why) = shared.engine.poisoned() {
                    return Err(anyhow!("the store takes no more writes: {why}"));
                }
            }
            Ok(())
        };
        let thread = std::thread::Builder::new().name("bench-checkpoint".into()).spawn(run)?;
        Ok(Self { stop, thread })
    }

    /// Waits for a checkpoint under way.
    pub fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap_or_else(|_| Err(anyhow!("the checkpointer panicked")))
    }
}

impl Shared {
    /// Makes one.
    pub fn checkpoint(&self) -> Result<()> {
        self.checkpoint_amid(|| (), || ())
    }

    /// Makes one; `amid` runs when the version is frozen and nothing of it is written yet, `between` while a leaf is written.
    pub(super) fn checkpoint_amid(&self, amid: impl FnOnce(), between: impl Fn()) -> Result<()> {
        // One at a time.
        let mut levels = self.levels.lock();
        let (frozen, epoch, dirty) = {
            let mut gate = self.gate.write();
            let frozen = self.engine.freeze()?;
            let epoch = gate.epoch;
            gate.epoch += 1;
            (frozen, epoch, std::mem::take(&mut *self.dirty.lock()))
        };
        amid();
        let mut changes = Changes { gone: Vec::new(), freed: dirty.freed };
        let mut changed: Vec<(usize, Reference)> = Vec::new();
        let leaves: BTreeSet<usize> = dirty.leaves.into_iter().collect();
        for index in leaves {
            changed.push((index, self.write_leaf(index, epoch, &mut changes, &between)?));
        }
        for (level, nodes) in (1_u8..).zip(levels.iter_mut()) {
            changed = self.write_level(level, nodes, &changed, &mut changes)?;
        }
        let root = levels.last().and_then(|nodes| nodes.first()).and_then(|root| root.stored);
        let mut blob = MAGIC.to_vec();
        blob.extend(self.blocks.to_le_bytes());
        blob.extend((self.span as u64).to_le_bytes());
        self.engine.publish(frozen, Roots { references: root.into_iter().collect(), blob }, changes)?;
        Ok(())
    }

    fn write_leaf(&self, index: usize, epoch: u64, changes: &mut Changes, between: &impl Fn()) -> Result<Reference> {
        let leaf = self.leaves.get(index).context("a dirty leaf behind the end")?;
        let (entries, birth) = {
            let mut leaf = leaf.lock();
            match leaf.frozen.take() {
                Some(frozen) => frozen,
                None => (Arc::clone(&leaf.entries), leaf.birth),
            }
        };
        let bytes = encode(&entries, birth)?;
        let reference = self.engine.append_node(Batch::Frozen, ReferenceKind::Node, 0, birth, &bytes)?;
        between();
        let mut leaf = leaf.lock();
        // Who changed the leaf meanwhile has kept the version that is written now; the next checkpoint must not take it for its own.
        leaf.frozen = None;
        // Nothing is shared here: every stored node is exclusive.
        if let Some((node, old)) = leaf.stored.replace((reference, entries)) {
            changes.gone.push(Gone { node, edges: extents(&old) });
        }
        // A change since makes it dirty in the epoch of the change; else it is stored as it is.
        if leaf.dirty <= epoch {
            leaf.dirty = 0;
        }
        Ok(reference)
    }

    fn write_level(
        &self,
        level: u8,
        nodes: &mut [Interior],
        changed: &[(usize, Reference)],
        changes: &mut Changes,
    ) -> Result<Vec<(usize, Reference)>> {
        let mut above = Vec::new();
        for group in changed.chunk_by(|(a, _), (b, _)| a / FANOUT == b / FANOUT) {
            let Some((index, _)) = group.first() else { continue };
            let node = nodes.get_mut(index / FANOUT).context("a node behind the end of its level")?;
            if let Some(stored) = node.stored {
                changes.gone.push(Gone { node: stored, edges: node.edges() });
            }
            for (child, reference) in group {
                *node.children.get_mut(child % FANOUT).context("a child behind the end of its node")? =
                    Some(*reference);
            }
            let birth = node.children.iter().flatten().map(|child| child.birth).max().unwrap_or(Hlc(1));
            let mut builder = NodeBuilder::new(TreeKind::Extents, level, birth, Owner::default());
            for (index, child) in (0_u16..).zip(&node.children) {
                if let Some(child) = child {
                    builder.push(&index.to_be_bytes(), b"", &[*child])?;
                }
            }
            let reference = self.engine.append_node(Batch::Frozen, ReferenceKind::Node, 0, birth, &builder.finish())?;
            node.stored = Some(reference);
            above.push((index / FANOUT, reference));
        }
        Ok(above)
    }
}
