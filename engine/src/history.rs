//! Retained checkpoints: recent roots kept without counts. They only defer reuse (INV-13, INV-31).
//!
//! ```text
//! retained --drop, oldest first--> releasing --all of its units freed--> forgotten
//! ```
//! A unit that dies while R is the newest retained checkpoint is in R if its segment was opened before R's batch was complete (its number is below R's bound); then it is
//! *deferred*: it stays live, in R's list. It is in no newer retained one, and older ones go before R; so when R goes, its whole list is free. Units of segments from
//! the bound on are in no retained checkpoint and die at once.
//!
//! Decisions stand in the batch, so they take effect exactly once: live, and when recovery applies the batch (the lists are those of the published directory). What is
//! deferred is a function of the batches. If power fails, the published directory's lists count.
//!
//! Cost: 8 bytes a range that dies, written once and read once; the space of what dies while a checkpoint is kept, bounded by the policy.

use crate::engine::{Engine, Writer};
use crate::sabotage::{self, Rule};
use crate::state::Retained;
use crate::store::{Result, Roots};
use crate::{StoreError, recovery};
use envoyfs_layout::batch::{Batch, HistoryStep};
use envoyfs_layout::directory_page::Place;
use envoyfs_layout::roots::RootsObject;
use envoyfs_layout::system_page::{HistoryRow, HistoryState};
use envoyfs_layout::{Hlc, Reference};

/// Rows released by one checkpoint: at leisure, and when space is short.
const RELEASE_ROWS: (u64, u64) = (1 << 14, 1 << 20);
/// Rows between two looks at the memory that changed pages take.
const LOOK_ROWS: u64 = 512;

/// Which checkpoints stay readable. All are dropped, oldest first, before anybody is told that there is no space, and while the store is short of free segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryPolicy {
    /// Most retained checkpoints; 0 retains none. At most 256.
    pub checkpoints_max: u32,
    /// Retained no longer than this.
    pub age_ms_max: u64,
    /// A checkpoint is retained if the newest retained one is this old, and not the same: publications that only work off the drop queue retain nothing, and drop nothing for it.
    pub interval_ms: u64,
    /// Bytes that retained checkpoints may keep from reuse, as a part of the segments: 1/this.
    pub part_max: u64,
}

impl HistoryPolicy {
    /// Retains nothing.
    pub const NONE: Self = Self { checkpoints_max: 0, age_ms_max: 0, interval_ms: 0, part_max: 32 };
}

impl Default for HistoryPolicy {
    /// Eight checkpoints of the last ten minutes, in at most 1/32 of the segments.
    fn default() -> Self {
        Self { checkpoints_max: 8, age_ms_max: 10 * 60_000, interval_ms: 0, part_max: 32 }
    }
}

/// A retained checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRoot {
    /// Its number.
    pub checkpoint: u64,
    /// Every birth in it is at most this.
    pub hlc: Hlc,
    /// Wall clock at its publication, nanoseconds since 1970.
    pub wall_ns: i64,
    /// The client's roots in it. What they lead to is readable until the checkpoint is dropped; after that, reads fail ([`StoreError::Damaged`] or
    /// [`StoreError::BadReference`]), they never give other bytes.
    pub roots: Roots,
}

/// The row of the checkpoint that a step retains.
pub(crate) fn history_row(step: &HistoryStep, hlc: Hlc, roots: Reference, roots_twin: Reference) -> Option<HistoryRow> {
    let HistoryStep::Retain { checkpoint, segment_bound, wall_ns } = *step else { return None };
    Some(HistoryRow {
        checkpoint,
        hlc,
        wall_ns,
        segment_bound,
        state: HistoryState::Retained,
        roots,
        roots_twin,
        deferred: Place::NONE,
        rows: 0,
        units: 0,
    })
}

impl Engine {
    /// Changes what is retained, from the next checkpoint on.
    pub fn retain(&self, policy: HistoryPolicy) {
        *self.history_policy.lock() = policy;
    }

    /// Retained checkpoints, oldest first. Reads one object each.
    ///
    /// # Errors
    /// Both copies of a roots object are damaged.
    pub fn history(&self) -> Result<Vec<HistoryRoot>> {
        let rows: Vec<HistoryRow> = {
            let state = self.state.lock();
            let retained = state.history().iter().filter(|retained| retained.row.state == HistoryState::Retained);
            retained.map(|retained| retained.row).collect()
        };
        let root = |row: HistoryRow| {
            let found = recovery::read_roots(&self.reader, [Some(row.roots), Some(row.roots_twin)])?;
            let roots = Roots { references: found.references, blob: found.blob };
            Ok(HistoryRoot { checkpoint: row.checkpoint, hlc: row.hlc, wall_ns: row.wall_ns, roots })
        };
        rows.into_iter().map(root).collect()
    }

    /// Shows the newest checkpoint retained at or before a moment, instead of the newest state: its roots are what the client recovers, and the log is not replayed. Only of a
    /// store that was opened read-only and that no client has opened yet. Says which checkpoint it is.
    ///
    /// # Errors
    /// The store is writable; no retained checkpoint is that old, or its roots are damaged.
    pub fn travel_to(&mut self, wall_ns: i64) -> Result<HistoryRoot> {
        if self.writer.is_some() {
            return Err(StoreError::Misuse(
                "only a store that was opened read-only can show an older checkpoint".into(),
            ));
        }
        let all = self.history()?;
        let oldest = all.first().map(|root| root.wall_ns);
        let Some(root) = all.into_iter().rfind(|root| root.wall_ns <= wall_ns) else {
            return Err(StoreError::Refused(match oldest {
                Some(oldest) => {
                    format!("the oldest checkpoint retained was made {} s later", (oldest - wall_ns) / 1_000_000_000)
                }
                None => "no checkpoint is retained".into(),
            }));
        };
        self.recovered = root.roots.clone();
        self.replay.lock().clear();
        self.checkpoint = root.checkpoint;
        Ok(root)
    }

    /// Whether the policy has room for a checkpoint with these roots, and wants it.
    fn wants_retained(&self, writer: &Writer, policy: &HistoryPolicy, roots: &[Reference]) -> bool {
        let newest = self.state.lock().newest_retained().map(|retained| retained.row);
        let Some(newest) = newest else { return policy.checkpoints_max > 0 };
        let interval = i64::try_from(policy.interval_ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
        if policy.checkpoints_max == 0 || self.options.clock.wall_ns().saturating_sub(newest.wall_ns) < interval {
            return false;
        }
        let has_records = writer.admission.ledger.lock().frozen_records > 0;
        let same = |found: RootsObject| found.references == roots;
        has_records
            || !recovery::read_roots(&self.reader, [Some(newest.roots), Some(newest.roots_twin)]).is_ok_and(same)
    }

    /// Decides which retained checkpoints go now, and whether the policy wants this one, with these roots. Before anything of the batch is applied.
    pub(crate) fn drop_history(&self, writer: &Writer, batch: &mut Batch, roots: &[Reference]) -> Result<bool> {
        let policy = *self.history_policy.lock();
        let now = self.options.clock.wall_ns();
        let short = self.is_short(writer);
        let wanted = !short && self.wants_retained(writer, &policy, roots);
        let gives_up = short && !self.mark_goes_on(writer);
        if gives_up && self.is_mark_under_way() {
            self.last_mark_ended(writer, false);
        }
        let mut state = self.state.lock();
        let all = u64::from(self.shape.containers) * u64::from(self.shape.units());
        let retained: Vec<(HistoryRow, u64)> = state
            .history()
            .iter()
            .filter(|retained| retained.row.state == HistoryState::Retained)
            .map(|retained| (retained.row, retained.units))
            .collect();
        let mut deferred: u64 = retained.iter().map(|(_, units)| units).sum();
        let most = (policy.checkpoints_max as usize).min(256);
        // With this checkpoint they are one more.
        let keep = most.saturating_sub(usize::from(wanted || self.mark_wants()));
        let surplus = retained.len().saturating_sub(keep);
        let half = if short && !sabotage::on(Rule::HistoryKeptWhenShort) { retained.len().div_ceil(2) } else { 0 };
        for (index, (row, units)) in retained.iter().enumerate() {
            let age_ms = u64::try_from(now.saturating_sub(row.wall_ns) / 1_000_000).unwrap_or(0);
            let goes = index < surplus.max(half)
                || age_ms > policy.age_ms_max
                || deferred > all / policy.part_max.max(1)
                || policy.checkpoints_max == 0;
            if !goes || self.pinned_history(row.checkpoint, gives_up) {
                break;
            }
            deferred -= units;
            self.metrics.state.dropped.increment();
            batch.history.push(HistoryStep::Drop { checkpoint: row.checkpoint });
        }
        state.drop_history(&batch.history).map_err(|error| StoreError::Misuse(error.to_string()))?;
        // A mark keeps its checkpoint, and with it those behind: the next are not retained beside them.
        Ok(wanted && retained.len() - batch.history.len() < most)
    }

    /// Whether dropping what is retained would free something, or is freeing it. What a mark keeps, and all behind that, stays until it has ended.
    pub(crate) fn has_history_to_free(&self) -> bool {
        let marked = self.marked_checkpoint();
        let state = self.state.lock();
        let before = |retained: &&Retained| Some(retained.row.checkpoint) != marked;
        let mut free = state.history().iter().take_while(before);
        free.any(|retained| retained.row.state == HistoryState::Releasing || retained.units > 0)
    }

    /// Frees what dropped checkpoints kept. After the drops of the batch.
    pub(crate) fn release_deferred(&self, writer: &Writer, batch: &mut Batch, hurry: bool) -> Result<()> {
        let mut left = if hurry { RELEASE_ROWS.1 } else { RELEASE_ROWS.0 };
        // Each may dirty the page of another segment.
        let mut pages = self.pace_of_drops(writer, hurry);
        let releasing: Vec<u64> = {
            let state = self.state.lock();
            let releasing = state.history().iter().filter(|retained| retained.row.state == HistoryState::Releasing);
            releasing.map(|retained| retained.row.checkpoint).collect()
        };
        let _timing = (!releasing.is_empty()).then(|| self.metrics.time(&self.metrics.state.release));
        for checkpoint in releasing {
            let mut rows = 0;
            while left > 0 && (pages > 0 || rows == 0) {
                if let Err(error) = self.pager().load_release(checkpoint) {
                    tracing::error!(checkpoint, %error, "what a dropped checkpoint kept cannot be found; it stays allocated until fsck.envoyfs -y repairs it");
                    self.stalled.store(true, crate::sync::atomic::Ordering::SeqCst);
                    break;
                }
                let mut state = self.state.lock();
                if state.next_release(checkpoint).is_none() {
                    break;
                }
                state.release_row(checkpoint).map_err(|error| StoreError::Misuse(error.to_string()))?;
                drop(state);
                rows += 1;
                left -= 1;
                if left.is_multiple_of(LOOK_ROWS) {
                    pages = pages.saturating_sub(self.spill(&writer.space)?);
                    if !self.has_room_for_pages(writer, 0) {
                        left = 0;
                    }
                }
            }
            self.metrics.state.released.add(rows);
            if rows > 0 && !sabotage::on(Rule::ReleasesNotInBatch) {
                batch.history.push(HistoryStep::Release { checkpoint, rows });
            }
        }
        Ok(())
    }

    /// Retains this checkpoint if the policy `wants` it and there is still room, or a mark wants it. After everything that belongs to it was appended.
    pub(crate) fn retain_this(
        &self,
        writer: &Writer,
        batch: &mut Batch,
        hlc: Hlc,
        copies: &[Reference; 2],
        wanted: bool,
    ) {
        if !(wanted && !self.is_short(writer) || self.mark_wants()) {
            return;
        }
        let segment_bound = writer.space.numbers.segment.load(crate::sync::atomic::Ordering::SeqCst);
        let wall_ns = self.options.clock.wall_ns();
        let step = HistoryStep::Retain { checkpoint: batch.checkpoint, segment_bound, wall_ns };
        batch.history.push(step);
        let [roots, twin] = *copies;
        if let Some(row) = history_row(&step, hlc, roots, twin) {
            self.state.lock().retain(row);
        }
    }
}
