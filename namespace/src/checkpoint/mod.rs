//! Checkpoints: freeze a version in O(1), build it beside running operations, publish it.
//!
//! Promise: the published roots are exactly the state at the freeze LSN (INV-21). A crash before the publication leaves the previous checkpoint and a log that leads to the
//! same state; nodes written by then are dead space.

mod builder;

pub(crate) use builder::{Builder, realm_entry};

use crate::api::{Error, Result};
use crate::namespace::Namespace;
use envoyfs_engine::store::{Batch, Changes, Reason, Roots};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How long the checkpointer waits before it looks whether it should end.
const WAIT_MS: u64 = 200;

impl Namespace {
    /// Freezes, builds and publishes now. Operations go on meanwhile.
    ///
    /// # Errors
    /// A failed read or write. The namespace takes no changes after it; what was durable stays in the log.
    pub fn checkpoint(&self) -> Result<()> {
        let _one = self.checkpointing.lock();
        if let Some(why) = self.failure() {
            return Err(Error::ReadOnly(why));
        }
        let building = self.builder.lock();
        let (frozen, epoch, mut changes) = {
            let _alone = self.alone();
            let frozen = self.store.freeze()?;
            (frozen, self.advance_epoch(), std::mem::take(&mut *self.pending.lock()))
        };
        let mut builder = Builder::new(self, Batch::Frozen, epoch);
        let built = builder.everything();
        let Builder { gone, built: inodes, .. } = builder;
        drop(building);
        let roots: Roots = match built {
            Ok(roots) => roots,
            Err(error) => {
                self.fail(format!("a checkpoint could not be built: {error}"));
                return Err(error);
            }
        };
        changes.gone.extend(gone);
        let published = self.store.publish(frozen, roots, changes);
        drop(inodes);
        self.inodes.sweep();
        if let Err(error) = published {
            self.fail(format!("a checkpoint could not be published: {error}")); // its changes are in no later one
            return Err(error.into());
        }
        Ok(())
    }

    /// Runs checkpoints when the store says that one is due, until the namespace closes.
    pub(crate) fn start_checkpointer(self: &Arc<Self>) -> Result<()> {
        let namespace = Arc::downgrade(self);
        let store = self.store.clone();
        let run = move || {
            loop {
                let due: Option<Reason> = store.wait_checkpoint(WAIT_MS);
                let Some(namespace) = namespace.upgrade() else { return };
                if namespace.closing.load(Ordering::Acquire) || namespace.failure().is_some() {
                    return;
                }
                if store.is_mark_wanted() {
                    namespace.start_mark();
                }
                if due.is_some()
                    && let Err(error) = namespace.checkpoint()
                {
                    tracing::error!(%error, "checkpoint failed");
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("checkpointer".into()).spawn(run);
        let thread = thread.map_err(|_| Error::Invalid("no thread for the checkpointer"))?;
        *self.checkpointer.lock() = Some(thread);
        Ok(())
    }

    /// Changes that a build in the current batch leads to.
    pub(crate) fn add_changes(&self, mut changes: Changes) {
        let mut pending = self.pending.lock();
        pending.gone.append(&mut changes.gone);
        pending.freed.append(&mut changes.freed);
    }
}
