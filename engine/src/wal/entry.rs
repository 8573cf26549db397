//! What a mount and a checkpoint change in the volume's directory entry: generation, cuts, start.

use super::recovery::{Adopted, Found};
use crate::StoreError;
use crate::sabotage::{self, Rule};
use crate::store::Result;
use envoyfs_layout::directory_page::{CUTS_MAX, Cut, PublishedCheckpoint, StartPosition, VolumeEntry};

/// What a mount must do after publishing its cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// The list of cuts is full: publish a checkpoint before any client record is appended, or the next crash finds no room for its cut.
    pub checkpoint_before_serving: bool,
}

/// A checkpoint moves the start: cuts that end before it say nothing any more, except this mount's own, which the threshold needs.
pub fn advance_start(entry: &mut VolumeEntry, start: StartPosition) {
    entry.start = start;
    let own = entry.ring_generation;
    entry.cuts.retain(|cut| cut.sequence.saturating_add(1) >= start.sequence || cut.generation == own);
}

/// What recovery publishes (INV-20): the checkpoint that it starts from, a generation of its own, and where the ones before end. Blocks that lie behind the cut
/// never count again, whatever is in them.
///
/// # Errors
/// The list of cuts is full of mounts that served without a checkpoint, which [`Next`] forbids.
pub fn publish_cut(entry: &mut VolumeEntry, found: &Found, adopted: Option<&Adopted>) -> Result<Next> {
    if let Some(adopted) = adopted {
        entry.checkpoint = PublishedCheckpoint {
            record: adopted.record,
            epoch: entry.writer_epoch,
            freeze: adopted.body.freeze,
            stream_hash: adopted.body.stream_hash,
            number: adopted.body.number,
        };
        entry.start = adopted.start;
    }
    let (start, last) = (entry.start.sequence, found.cut.sequence);
    // Only a loss that was accepted ends below it. Its LSNs are given to other records now, which are not durable before somebody says so.
    if !sabotage::on(Rule::LossKeepsRecord) {
        entry.checkpoint.record = entry.checkpoint.record.min(found.cut.lsn);
    }
    entry.cuts.retain(|cut| cut.sequence < last && cut.sequence.saturating_add(1) >= start);
    if entry.cuts.len() >= CUTS_MAX {
        let why = format!(
            "the log has {CUTS_MAX} recovery cuts since its checkpoint and holds operations behind them; mount it read-only"
        );
        return Err(StoreError::Refused(why));
    }
    if !sabotage::on(Rule::GenerationKept) {
        entry.ring_generation = entry.ring_generation.saturating_add(1);
    }
    if last < start && !sabotage::on(Rule::LossKeepsStart) {
        // No block is left: the first is written anew, and its local records decide at which byte the freeze LSN stands then.
        entry.start = StartPosition { generation: entry.ring_generation, offset: 0, ..entry.start };
    }
    if sabotage::on(Rule::CutNotPublished) {
        return Ok(Next { checkpoint_before_serving: false });
    }
    entry.cuts.push(Cut { generation: entry.ring_generation, epoch: entry.writer_epoch, ..found.cut });
    Ok(Next { checkpoint_before_serving: entry.cuts.len() >= CUTS_MAX })
}
