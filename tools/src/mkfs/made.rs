//! What was made, for people and for programs.

use super::size::Size;
use super::{Kind, Plan};
use envoyfs_layout::superblock::Superblock;
use serde::Serialize;
use std::fmt;

/// A finished (or, in a dry run, a planned) store. The names of the fields are those of `--json` and do not change.
#[derive(Clone, Debug, Serialize)]
pub struct Made {
    /// Device or image.
    pub path: String,
    /// What stood there: `missing`, `file`, `block device`.
    pub kind: &'static str,
    /// Names of what was overwritten.
    pub overwritten: String,
    /// True if nothing was written.
    pub dry_run: bool,
    /// Identity of the store; empty in a dry run that names none.
    pub uuid: String,
    /// Label.
    pub label: String,
    /// Bytes in all.
    pub bytes: u64,
    /// Bytes of a block of the log; in a dry run that would create the image, not known yet.
    pub logical_block_bytes: Option<u32>,
    /// Where the superblock's copies are.
    pub superblocks: [u64; 4],
    /// Where the ring of the log is, and its bytes.
    pub ring: (u64, u64),
    /// Where the two system areas are.
    pub system_areas: (u64, u64),
    /// Bytes of a system area (two slots).
    pub system_area_bytes: u64,
    /// Where the segments start.
    pub segments_offset: u64,
    /// How many there are.
    pub segments: u32,
    /// Bytes of a segment.
    pub segment_bytes: u32,
    /// Bytes of the segments that writers leave to checkpoints and deletions.
    pub reserve_bytes: u64,
    /// Bytes that were discarded on the device.
    pub discarded_bytes: u64,
}

impl Made {
    pub(super) fn new(
        plan: &Plan,
        uuid: String,
        block_bytes: Option<u32>,
        discarded_bytes: u64,
        dry_run: bool,
    ) -> Self {
        let regions = &plan.regions;
        Self {
            path: plan.request.path.display().to_string(),
            kind: match plan.kind {
                Kind::Missing => "missing",
                Kind::File => "file",
                Kind::BlockDevice => "block device",
            },
            overwritten: plan.overwrites(),
            dry_run,
            uuid,
            label: plan.request.label.clone(),
            bytes: regions.size,
            logical_block_bytes: block_bytes,
            superblocks: Superblock::positions(regions.size),
            ring: (regions.ring_offset, regions.ring_bytes),
            system_areas: (regions.area_a, regions.area_b),
            system_area_bytes: regions.area_slot_bytes * 2,
            segments_offset: regions.segments_offset,
            segments: regions.containers,
            segment_bytes: regions.segment_bytes,
            reserve_bytes: regions.reserve_bytes,
            discarded_bytes,
        }
    }
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match (self.dry_run, self.kind) {
            (true, _) => "would be made (dry run: nothing was written)",
            (false, "missing") => "image file created",
            (false, _) => "formatted",
        };
        writeln!(f, "{}: {verb}, {}", self.path, Size(self.bytes))?;
        let mut row = |name: &str, text: String| writeln!(f, "  {name:<14}{text}");
        if !self.overwritten.is_empty() {
            row(if self.dry_run { "overwrites" } else { "overwritten" }, self.overwritten.clone())?;
        }
        if self.discarded_bytes > 0 {
            row("discarded", Size(self.discarded_bytes).to_string())?;
        }
        if !self.label.is_empty() {
            row("label", self.label.clone())?;
        }
        if !self.uuid.is_empty() {
            row("uuid", self.uuid.clone())?;
        }
        let [a, b, c, d] = self.superblocks;
        let blocks = match self.logical_block_bytes {
            Some(512) => "512 bytes; cannot be mounted on a device that takes only larger ones".into(),
            Some(bytes) => format!("{bytes} bytes"),
            None => "those of the file system that the image is made on".into(),
        };
        row("blocks", blocks)?;
        row("superblock", format!("4 copies, at bytes {a}, {b}, {c}, {d}"))?;
        row("log", format!("{} at byte {}", Size(self.ring.1), self.ring.0))?;
        let (first, second) = self.system_areas;
        row("system areas", format!("2 of {}, at bytes {first} and {second}", Size(self.system_area_bytes)))?;
        let segments = u64::from(self.segments) * u64::from(self.segment_bytes);
        row(
            "segments",
            format!(
                "{} of {}, from byte {} on: {}",
                self.segments,
                Size(self.segment_bytes.into()),
                self.segments_offset,
                Size(segments)
            ),
        )?;
        row("reserve", format!("{} of that, for checkpoints and deletions", Size(self.reserve_bytes)))?;
        let room = segments.saturating_sub(self.reserve_bytes);
        // A thousandth is exact enough for a person.
        let permille = u128::from(room) * 1000 / u128::from(self.bytes.max(1));
        write!(f, "  {:<14}{} ({}.{} %)", "for files", Size(room), permille / 10, permille % 10)
    }
}
