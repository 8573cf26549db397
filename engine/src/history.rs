//! Retained checkpoints: recent roots kept without counts. They only defer reuse (INV-13, INV-31).

use envoyfs_layout::batch::HistoryStep;
use envoyfs_layout::directory_page::Place;
use envoyfs_layout::system_page::{HistoryRow, HistoryState};
use envoyfs_layout::{Hlc, Reference};

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
