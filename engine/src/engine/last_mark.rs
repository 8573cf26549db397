//! The mark before ENOSPC (DESIGN 8): ranges that were overwritten in shared extents are dead, and nobody knows it but a mark. So before a writer is refused, one is made if it may help.
//!
//! ```text
//! Idle --a writer would be refused, and it is worth it--> Wanted --a client's thread runs it, or somebody does already--> Running --ended, given up, failed--> Idle
//!                                                           \--nobody took it for 5 s------------------------------------------------/
//! ```
//! The writer waits meanwhile, and then for checkpoints as always: they apply what the mark found. It is worth it if something was shared in this mount, if the client runs marks at all, and if at least
//! 1/64 of the store was written since the last one: so a store that is always full spends on marks what it spends on writing, and no mark follows one that gave nothing.
//!
//! Such a mark is not given up when space is short, as others are, but when the reserve is: its checkpoint keeps space from being reused, and deletions must go on (INV-26). If power fails: nothing
//! is left of it but batches with repairs.

use super::{Engine, Writer};
use crate::StoreError;
use crate::store::Result;
use crate::sync::atomic::Ordering;
use std::time::Duration;

/// A mark is worth it when this part of the store was written since the last: 1/this.
const WORTH_PART: u64 = 64;
/// A mark that nobody takes on for so long is not waited for.
const UNTAKEN_MS_MAX: u64 = 5000;
/// Between two looks of a waiting writer.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Idle,
    /// Since when, on the monotonic clock.
    Wanted(u64),
    Running,
}

/// See the module. Part of the ledger, under its lock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LastMark {
    /// Somebody asks whether a mark is wanted, and so would run it.
    offered: bool,
    stage: Stage,
    /// Bytes admitted in this mount when the last one ended.
    ended_at: Option<u64>,
}

impl LastMark {
    fn is_worth(&self, is_shared: bool, admitted: u64, capacity: u64) -> bool {
        is_shared && self.ended_at.is_none_or(|at| admitted.saturating_sub(at) >= capacity / WORTH_PART)
    }

    /// Looked at by who waits, `now` on the monotonic clock; `runs`: somebody runs a mark. Whoever asked for that one, it is as good as another.
    fn look(&mut self, runs: bool, now: u64) {
        match self.stage {
            Stage::Wanted(_) if runs => self.stage = Stage::Running,
            // It ended just before it was waited for.
            Stage::Running if !runs => self.stage = Stage::Idle,
            Stage::Wanted(since) if now.saturating_sub(since) >= UNTAKEN_MS_MAX => {
                // Who would run it does not; it is asked again when it asks.
                self.offered = false;
                self.stage = Stage::Idle;
            }
            _ => {}
        }
    }

    /// A writer waits for it.
    pub(crate) fn is_pending(&self) -> bool {
        self.stage != Stage::Idle
    }

    /// One has ended; `counts`: it went over all of the store, or a writer waited for it. What was given up before anybody waited says nothing of what the next would find.
    fn end(&mut self, admitted: u64, counts: bool) {
        if counts || self.stage == Stage::Running {
            self.ended_at = Some(admitted);
        }
        self.stage = Stage::Idle;
    }
}

impl Engine {
    /// A writer would be told that there is no space. True: a mark has been made since, and space may be there; ask again.
    pub(super) fn wait_for_last_mark(&self, writer: &Writer) -> Result<bool> {
        let is_shared = writer.was_shared.load(Ordering::Relaxed) || self.state.lock().shared_objects() > 0;
        let capacity = u64::from(self.shape.containers) * u64::from(self.shape.segment_bytes);
        let mut runs = self.is_mark_run();
        let mut ledger = writer.admission.ledger.lock();
        if !ledger.mark.is_pending() {
            if !(ledger.mark.offered || runs) || !ledger.mark.is_worth(is_shared, ledger.total, capacity) {
                return Ok(false);
            }
            ledger.mark.stage = Stage::Wanted(self.options.clock.monotonic_ms());
            self.metrics.admission.marks_wanted.increment();
            tracing::info!("the store is full: looking for dead ranges of shared extents before a write is refused");
        }
        if !self.options.threads {
            return Err(StoreError::WouldWait { what: "a mark" });
        }
        loop {
            ledger.mark.look(runs, self.options.clock.monotonic_ms());
            if !ledger.mark.is_pending() || writer.wal.poisoned().is_some() {
                break;
            }
            writer.admission.changed.wait_for(&mut ledger, LOOK);
            drop(ledger);
            // Not under the ledger's lock.
            runs = self.is_mark_run();
            ledger = writer.admission.ledger.lock();
        }
        Ok(true)
    }

    /// See [`Store::is_mark_wanted`](crate::store::Store::is_mark_wanted).
    pub(super) fn is_last_mark_wanted(&self) -> bool {
        let Some(writer) = &self.writer else { return false };
        let mut ledger = writer.admission.ledger.lock();
        ledger.mark.offered = true;
        let wanted = matches!(ledger.mark.stage, Stage::Wanted(_));
        drop(ledger);
        wanted && !self.is_mark_under_way()
    }

    /// A mark begins to walk, whoever asked for it: who waits for one waits for this one.
    pub(crate) fn last_mark_runs(&self, writer: &Writer) {
        let mut ledger = writer.admission.ledger.lock();
        if ledger.mark.is_pending() {
            ledger.mark.stage = Stage::Running;
        }
    }

    /// A mark has ended, `complete` or not: the checkpoints that apply what it found count anew.
    pub(crate) fn last_mark_ended(&self, writer: &Writer, complete: bool) {
        let mut ledger = writer.admission.ledger.lock();
        let (runs, total) = (ledger.mark.stage == Stage::Running, ledger.total);
        // One that a writer asked for while another was being given up has still to run.
        if !complete && matches!(ledger.mark.stage, Stage::Wanted(_)) {
            return;
        }
        ledger.mark.end(total, complete);
        if runs || complete {
            ledger.barren = 0;
            writer.admission.changed.notify_all();
        }
    }

    /// Whether a mark may keep its checkpoint although space is short: a writer waits for it, and a quarter of the reserve is left to checkpoints and deletions.
    pub(crate) fn mark_goes_on(&self, writer: &Writer) -> bool {
        let pending = writer.admission.ledger.lock().mark.is_pending();
        pending && writer.space.free_containers() >= writer.admission.needed_containers() / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_worth_it_once_and_then_when_a_64th_of_the_store_was_written() {
        let mut mark = LastMark::default();
        assert!(mark.is_worth(true, 0, 6400) && !mark.is_worth(false, 0, 6400));
        mark.stage = Stage::Running;
        mark.end(50, false);
        assert!(!mark.is_pending());
        assert!(!mark.is_worth(true, 149, 6400) && mark.is_worth(true, 150, 6400));
    }

    #[test]
    fn who_waits_takes_the_mark_that_somebody_runs_and_does_not_wait_for_one_that_nobody_does() {
        let mut mark = LastMark { offered: true, stage: Stage::Wanted(10), ..LastMark::default() };
        mark.look(false, UNTAKEN_MS_MAX);
        assert_eq!(mark.stage, Stage::Wanted(10));
        mark.look(true, UNTAKEN_MS_MAX);
        assert_eq!(mark.stage, Stage::Running);
        mark.look(true, 100 * UNTAKEN_MS_MAX);
        assert_eq!(mark.stage, Stage::Running, "it has not ended");
        mark.look(false, 100 * UNTAKEN_MS_MAX);
        assert_eq!((mark.stage, mark.offered), (Stage::Idle, true));
        mark.stage = Stage::Wanted(10);
        mark.look(false, 10 + UNTAKEN_MS_MAX);
        assert_eq!((mark.stage, mark.offered), (Stage::Idle, false));
    }

    #[test]
    fn one_that_was_given_up_before_anybody_waited_leaves_the_next_its_turn() {
        let mut mark = LastMark::default();
        mark.end(50, false);
        assert!(mark.is_worth(true, 50, 6400));
        mark.end(50, true);
        assert!(!mark.is_worth(true, 50, 6400));
    }
}
