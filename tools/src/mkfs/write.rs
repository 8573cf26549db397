//! The writing half of making a store: everything here runs after all checks have passed.

use super::planning::Planning;
use super::size::Size;
use super::{Kind, Plan};
use anyhow::{Context as _, Result};
use envoyfs_engine::device::{Device, OpenMode, UringDevice};
use envoyfs_engine::format::{FormatOptions, format};
use envoyfs_engine::hlc::{Clock as _, SystemClock};
use envoyfs_engine::superblock;
use envoyfs_layout::superblock::Superblock;
use serde::Serialize;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

/// What both ends of a device are cleared of, so that no other tool finds an old signature there.
const WIPED_BYTES: u64 = 1 << 20;

/// A finished (or, in a dry run, a planned) store.
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
}

impl Plan {
    /// Makes the store.
    ///
    /// # Errors
    /// What creating, resizing or writing reports. A created image file is removed again.
    pub fn write(mut self) -> Result<Made> {
        let created = self.kind == Kind::Missing;
        let result = self.prepare().and_then(|()| {
            // The engine takes the same exclusive lock.
            self.claim = None;
            self.format()
        });
        if result.is_err() && created {
            // The error that counts is the one above; the file is ours and holds nothing.
            let _ = std::fs::remove_file(&self.request.path);
        }
        result
    }

    /// What [`Plan::write`] would make. Writes nothing: the same code formats a device that forgets.
    ///
    /// # Errors
    /// The geometry is refused.
    pub fn describe(mut self) -> Result<Made> {
        let created = self.kind == Kind::Missing;
        self.claim = None;
        let block_bytes = match self.kind {
            Kind::Missing => 4096,
            _ => UringDevice::open(&self.request.path, OpenMode::ReadOnly, false)?.geometry().logical_block_bytes,
        };
        let device = Planning::new(self.bytes, block_bytes, self.kind == Kind::BlockDevice);
        let made = format(&device, &self.options())?;
        let superblock = device.superblock().context("the geometry could not be computed")?;
        let mut made = self.made(&superblock, made.reserve, true);
        if created {
            made.logical_block_bytes = None;
        }
        if self.request.uuid.is_none() {
            made.uuid.clear();
        }
        Ok(made)
    }

    fn options(&self) -> FormatOptions {
        FormatOptions {
            label: self.request.label.clone(),
            uuid: self.request.uuid.unwrap_or_else(uuid::Uuid::new_v4).into_bytes(),
            seed: uuid::Uuid::new_v4().into_bytes(),
            now_ns: SystemClock::new().wall_ns(),
            wal_bytes: None,
            segment_bytes: None,
            // What was there has been checked, and cleared.
            force: true,
            small: false,
        }
    }

    /// Formats, and opens what was made: a store that does not open is told here.
    fn format(&self) -> Result<Made> {
        let device = UringDevice::open(&self.request.path, OpenMode::ReadWrite, true)?;
        let made = format(&device, &self.options())?;
        let opened = superblock::open(&device)?;
        Ok(self.made(&opened.superblock, made.reserve, false))
    }

    fn made(&self, superblock: &Superblock, reserve_bytes: u64, dry_run: bool) -> Made {
        Made {
            path: self.request.path.display().to_string(),
            kind: match self.kind {
                Kind::Missing => "missing",
                Kind::File => "file",
                Kind::BlockDevice => "block device",
            },
            overwritten: self.overwrites(),
            dry_run,
            uuid: uuid::Uuid::from_bytes(superblock.identity).to_string(),
            label: superblock.label(),
            bytes: superblock.size,
            logical_block_bytes: Some(superblock.logical_block),
            superblocks: Superblock::positions(superblock.size),
            ring: (superblock.ring_offset, superblock.ring_bytes),
            system_areas: (superblock.area_a, superblock.area_b),
            system_area_bytes: superblock.area_slot_bytes * 2,
            segments_offset: superblock.segments_offset,
            segments: superblock.containers,
            segment_bytes: superblock.segment_bytes,
            reserve_bytes,
        }
    }

    /// Creates or resizes the image, or clears both ends of the device.
    fn prepare(&mut self) -> Result<()> {
        let path = &self.request.path;
        let shown = path.display();
        let file = match (self.kind, self.claim.take()) {
            (Kind::BlockDevice, Some(file)) => {
                clear(&file, 0, WIPED_BYTES)
                    .and_then(|()| clear(&file, self.old_bytes.saturating_sub(WIPED_BYTES), WIPED_BYTES))
                    .with_context(|| format!("cannot clear the old contents of {shown}"))?;
                file
            }
            (_, Some(file)) => {
                file.set_len(0).with_context(|| format!("cannot clear {shown}"))?;
                preallocate(&file, self.bytes)
                    .with_context(|| format!("cannot allocate {} for {shown}", Size(self.bytes)))?;
                file
            }
            (_, None) => {
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(path)
                    .with_context(|| format!("cannot create {shown}"))?;
                preallocate(&file, self.bytes)
                    .with_context(|| format!("cannot allocate {} for {shown}", Size(self.bytes)))?;
                file
            }
        };
        file.sync_all().with_context(|| format!("cannot flush {shown}"))?;
        self.claim = Some(file);
        Ok(())
    }
}

fn clear(file: &File, offset: u64, bytes: u64) -> std::io::Result<()> {
    let zeros = vec![0; 1 << 16];
    let mut at = offset;
    while at < offset + bytes {
        file.write_all_at(&zeros, at)?;
        at += zeros.len() as u64;
    }
    Ok(())
}

/// Gives the file its blocks now, so that a full host file system shows here and not at an fsync.
fn preallocate(file: &File, bytes: u64) -> std::io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Err(rustix::io::Errno::OPNOTSUPP) => clear(file, 0, bytes),
        other => Ok(other?),
    }
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |bytes: u64| Size(bytes).to_string();
        let verb = match (self.dry_run, self.kind) {
            (true, _) => "would be made (dry run: nothing was written)",
            (false, "missing") => "image file created",
            (false, _) => "formatted",
        };
        writeln!(f, "{}: {verb}, {}", self.path, size(self.bytes))?;
        if !self.overwritten.is_empty() {
            writeln!(f, "  overwritten     {}", self.overwritten)?;
        }
        if !self.label.is_empty() {
            writeln!(f, "  label           {}", self.label)?;
        }
        if !self.uuid.is_empty() {
            writeln!(f, "  uuid            {}", self.uuid)?;
        }
        let [a, b, c, d] = self.superblocks;
        writeln!(f, "  superblocks     4 copies, at {a}, {b}, {c}, {d}")?;
        let blocks = self.logical_block_bytes.map(|bytes| format!(", blocks of {bytes} bytes")).unwrap_or_default();
        writeln!(f, "  log             {} at {}{blocks}", size(self.ring.1), self.ring.0)?;
        let (first, second) = self.system_areas;
        writeln!(f, "  system areas    2 of {}, at {first} and {second}", size(self.system_area_bytes))?;
        write!(
            f,
            "  segments        {} of {} from {} on: {}, of which {} are kept for checkpoints and deletions",
            self.segments,
            size(self.segment_bytes.into()),
            self.segments_offset,
            size(u64::from(self.segments) * u64::from(self.segment_bytes)),
            size(self.reserve_bytes)
        )
    }
}
