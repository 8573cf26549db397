//! What memory and work a mounted store may take. Every bound is stated here, once (INV-35).

use crate::history::HistoryPolicy;

/// Bounds of a mount; the default suits a store of up to a few TiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of memory for pages of segments (live units, counts, moved units). Beside them stand 24 bytes a segment that holds something, and what one part of a batch (256
    /// segments) touches.
    pub segment_cache_bytes: u64,
    /// Bytes of memory for slot maps that readers need of segments that were cleaned.
    pub slot_map_bytes: u64,
    /// Which checkpoints stay readable. None unless asked for; [`HistoryPolicy::default`] is the policy meant for mounts.
    pub history: HistoryPolicy,
}

impl Default for Settings {
    fn default() -> Self {
        Self { segment_cache_bytes: 32 << 20, slot_map_bytes: 16 << 20, history: HistoryPolicy::NONE }
    }
}
