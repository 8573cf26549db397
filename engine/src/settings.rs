//! What memory and work a mounted store may take. Every bound is stated here, once (INV-35); [`crate::bound`] adds them up.

use crate::history::HistoryPolicy;
use crate::space::kept::FRAGMENT_BYTES;

/// Bytes of `dirty_bytes` for each of `unpublished_objects`: about what one of these takes.
const BYTES_A_DIRTY_OBJECT: u64 = 384;

/// Least memory for the pages that one part of a batch touches.
const PART_BYTES_MIN: u64 = 64 << 10;

/// Bounds of a mount; the default suits a store of up to a few TiB. What it all comes to: [`Engine::memory_bound`](crate::Engine::memory_bound).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of memory for pages of segments (live units, counts, moved units); as much again while a batch is applied.
    pub segment_cache_bytes: u64,
    /// Bytes of memory for slot maps that readers need of segments that were cleaned.
    pub slot_map_bytes: u64,
    /// Data objects that no published checkpoint has: about 200 bytes each. A checkpoint is due at half of it, and who wants to write more waits for it.
    pub unpublished_objects: u64,
    /// Bytes of nodes and small data admitted for one checkpoint, if that is less than what the store's size allows (decision 0009). What the checkpoint takes grows with it.
    pub dirty_bytes: u64,
    /// Bytes of data with writes under way: who writes more waits until a third of it is done.
    pub in_flight_bytes: u64,
    /// Bytes of memory for places of moved units that died while a pin is held (INV-13): pins are broken when it does not suffice.
    pub pinned_bytes: u64,
    /// Which checkpoints stay readable. None unless asked for; [`HistoryPolicy::default`] is the policy meant for mounts.
    pub history: HistoryPolicy,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            segment_cache_bytes: 32 << 20,
            slot_map_bytes: 16 << 20,
            unpublished_objects: 1 << 20,
            dirty_bytes: 384 << 20,
            in_flight_bytes: 12 << 20,
            pinned_bytes: 16 << 20,
            history: HistoryPolicy::NONE,
        }
    }
}

impl Settings {
    /// With so many bytes for what is remembered of segments: two thirds for their pages, one for slot maps.
    #[must_use]
    pub const fn with_cache(self, bytes: u64) -> Self {
        let slot_map_bytes = bytes / 3;
        Self { slot_map_bytes, segment_cache_bytes: bytes - slot_map_bytes, ..self }
    }

    /// With so many bytes of changes between two checkpoints, and as many data objects as go with that.
    #[must_use]
    pub const fn with_dirty(self, bytes: u64) -> Self {
        Self { dirty_bytes: bytes, unpublished_objects: bytes / BYTES_A_DIRTY_OBJECT, ..self }
    }

    /// Places that fit into [`Settings::pinned_bytes`].
    pub(crate) fn pinned_places(&self) -> usize {
        usize::try_from(self.pinned_bytes / FRAGMENT_BYTES).unwrap_or(usize::MAX)
    }

    /// Pieces that the cleaner copies between two publications; never fewer than a container of so many units has.
    pub(crate) const fn moves_max(&self, units: u32) -> u64 {
        let quarter = self.unpublished_objects / 4;
        if quarter > units as u64 { quarter } else { units as u64 }
    }

    /// Memory for the pages that one part of a batch touches, beside those that are kept.
    #[must_use]
    pub(crate) const fn page_part_bytes(&self) -> u64 {
        let half = self.segment_cache_bytes / 2;
        if half > PART_BYTES_MIN { half } else { PART_BYTES_MIN }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_what_the_two_sizes_of_a_mount_give() {
        let default = Settings::default();
        let cache = default.segment_cache_bytes + default.slot_map_bytes;
        let sized = Settings {
            segment_cache_bytes: 1,
            slot_map_bytes: 1,
            dirty_bytes: 1,
            unpublished_objects: 1,
            ..Settings::default()
        };
        assert_eq!(sized.with_cache(cache).with_dirty(default.dirty_bytes), default);
    }
}
