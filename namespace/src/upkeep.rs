//! What a mounted store does for itself and shows to an administrator: retained checkpoints, scrub, mark. The namespace only says which units its slices use.

use crate::api::Result;
use crate::{Namespace, extent_uses};
use envoyfs_engine::store::Usage;
use envoyfs_engine::{HistoryRoot, MarkOptions, MarkProgress, MarkReport, ScrubOptions, ScrubReport};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Namespace {
    /// Retained checkpoints, oldest first, and the space that they share in.
    ///
    /// # Errors
    /// The roots of one cannot be read.
    pub fn history(&self) -> Result<(Vec<HistoryRoot>, Usage)> {
        Ok((self.store.history()?, self.store.usage()))
    }

    /// Verifies everything that lives, while it is in use; see [`envoyfs_engine::Engine::scrub`].
    ///
    /// # Errors
    /// What makes going on pointless; damage is a finding, not an error.
    pub fn scrub(
        &self,
        options: ScrubOptions,
        progress: &mut dyn FnMut(&ScrubReport) -> ControlFlow<()>,
    ) -> Result<ScrubReport> {
        Ok(self.store.scrub(options, progress)?)
    }

    /// Compares counts and liveness with the trees, exactly, and sets right what differs; see [`envoyfs_engine::Engine::mark`]. Waits for a checkpoint to look at, which the
    /// checkpointer makes.
    ///
    /// # Errors
    /// The store is read-only, too short of space for it, or `progress` ended it.
    pub fn mark(
        &self,
        options: MarkOptions,
        progress: &mut dyn FnMut(&MarkProgress) -> ControlFlow<()>,
    ) -> Result<MarkReport> {
        Ok(self.store.mark(options, &extent_uses, progress)?)
    }

    /// Starts a mark that the store wants before it refuses a write, on a thread of its own since the checkpointer must go on; does nothing while one runs.
    pub(crate) fn start_mark(self: &Arc<Self>) {
        let mut marker = self.marker.lock();
        if marker.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        let namespace = Arc::clone(self);
        let run = move || {
            let closing = || namespace.closing.load(Ordering::Acquire);
            let mut progress =
                |_: &MarkProgress| if closing() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            match namespace.mark(MarkOptions::default(), &mut progress) {
                Ok(report) => tracing::info!(bytes = report.unused_bytes, "dead ranges of shared extents were found"),
                Err(error) => tracing::warn!(%error, "dead ranges of shared extents were not looked for"),
            }
        };
        match std::thread::Builder::new().name("mark".into()).spawn(run) {
            Ok(thread) => *marker = Some(thread),
            // The store does not wait for ever.
            Err(error) => tracing::warn!(%error, "no thread for a mark"),
        }
    }
}
