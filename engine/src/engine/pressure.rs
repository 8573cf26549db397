//! Pressure of the log: from half full on, writers are delayed, so that they do not meet a full ring and stop dead (DESIGN 6, decision 0016). Pure arithmetic; waiting is
//! admission's.
//!
//! ```text
//! delay of b bytes = b * (how long a checkpoint takes) / (ring left), a part of it in the first eighth of the ring above the half
//! ```
//! All writers share one *slot*, which each moves on by his delay: so together they take no more than the ring has left in the time that a checkpoint takes, whatever their
//! number. What is left falls as exp(-t/T), and never to nothing, as long as nobody would wait for more than [`WAIT_NS_MAX`]. Delays below [`WAIT_NS_MIN`] are not waited for, but the slot moves on: several of them come to one that is.

use crate::wal::Room;

/// Nobody sets a timer for less; the slot is ahead of the clock meanwhile.
pub(super) const WAIT_NS_MIN: u64 = 1_000_000;
/// Nobody is held back for longer, whatever is estimated.
///
/// One delay is b T / L; with W writers in line the last of them waits W b T / L, so this is met when L = W b T / (1 s): 2.6 MiB of ring for 64 writers of 4 KiB and a checkpoint of
/// 10 s. From there on W records a second are let in, which take just those 2.6 MiB in T: the ring lasts as long as the checkpoint was expected to take. If it takes longer, the ring
/// is met full, and that wait ends with the publication. So a larger limit would gain nothing but longer waits; half a second would meet the full ring twice as early.
const WAIT_NS_MAX: u64 = 1_000_000_000;
/// How long a checkpoint takes, before the first one of a mount.
const CHECKPOINT_NS: u64 = 100_000_000;

/// When the next record may be admitted, and what that is computed from.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pressure {
    slot_ns: u64,
    /// Time from the last freeze that was published to the end of its publication; zero before the first.
    last_ns: u64,
    /// When the checkpoint under way was frozen.
    frozen_ns: Option<u64>,
}

impl Pressure {
    /// A checkpoint begins.
    pub(crate) const fn frozen(&mut self, now_ns: u64) {
        self.frozen_ns = Some(now_ns);
    }

    /// There will be none of that freeze.
    pub(crate) const fn abandoned(&mut self) {
        self.frozen_ns = None;
    }

    /// It has ended, and may have given ring back: nobody is held back by what was before.
    pub(crate) const fn published(&mut self, now_ns: u64) {
        if let Some(since) = self.frozen_ns.take() {
            self.last_ns = now_ns.saturating_sub(since);
        }
        self.slot_ns = 0;
    }

    /// How long a checkpoint takes, as far as one can see: one under way that takes longer than the last says so.
    fn checkpoint_ns(&self, now_ns: u64) -> u64 {
        let last = if self.last_ns == 0 { CHECKPOINT_NS } else { self.last_ns };
        last.max(self.frozen_ns.map_or(0, |since| now_ns.saturating_sub(since)))
    }

    #[cfg(test)]
    pub(crate) const fn is_slot_taken(&self) -> bool {
        self.slot_ns > 0
    }

    /// Takes the next slot for a record of so many bytes, and says when it is; no later than now if there is nothing to wait for.
    pub(super) fn take(&mut self, room: &Room, bytes: u64, now_ns: u64) -> u64 {
        let (over, left) = (room.over_half_blocks(), room.left_blocks().max(1));
        if over == 0 {
            return now_ns;
        }
        // A record takes at least its share of the blocks that records took so far.
        let bytes = u128::from(bytes.max(room.log_bytes() / room.records.max(1)));
        let full =
            bytes * u128::from(self.checkpoint_ns(now_ns)) / (u128::from(left) * u128::from(room.block_bytes.max(1)));
        let ramp = u128::from(room.ring_blocks / 8).max(1);
        let delay = full * u128::from(over).min(ramp) / ramp;
        let slot = self.slot_ns.max(now_ns).saturating_add(u64::try_from(delay).unwrap_or(u64::MAX));
        self.slot_ns = slot.min(now_ns.saturating_add(WAIT_NS_MAX));
        self.slot_ns
    }
}

#[cfg(test)]
mod tests;
