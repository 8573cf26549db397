//! The writing half of making a store: everything here runs after all checks have passed.

use super::clear::{clear_old, clear_segments};
use super::discard::discard;
use super::made::Made;
use super::size::Size;
use super::{Kind, Plan};
use anyhow::{Context as _, Result, ensure};
use envoyfs_engine::device::{OpenMode, UringDevice};
use envoyfs_engine::format::format_calibrated;
use envoyfs_engine::hlc::SystemClock;
use envoyfs_engine::superblock;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::fs::{AtFlags, Mode, OFlags};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Where the bytes of the store are.
enum Target {
    /// What was there before.
    Existing(File),
    /// A new image without a name: if this process ends, so does the file.
    Nameless(File),
    /// A new image, where the file system has no files without a name.
    Named(File),
}

impl Target {
    const fn file(&self) -> &File {
        match self {
            Self::Existing(file) | Self::Nameless(file) | Self::Named(file) => file,
        }
    }
}

impl Plan {
    /// Makes the store.
    ///
    /// # Errors
    /// What creating, resizing or writing reports. A created image file is removed again.
    pub fn write(mut self) -> Result<Made> {
        let path = self.request.path.clone();
        let target = self.prepare()?;
        let made = self.fill(&target).and_then(|made| {
            if let Target::Nameless(file) = &target {
                give_name(file, &path)?;
            }
            Ok(made)
        });
        if made.is_err() && matches!(target, Target::Named(_)) {
            // The error that counts is the one above; the file is ours and holds nothing.
            let _ = std::fs::remove_file(&path);
        }
        made
    }

    /// What [`Plan::write`] would make. Writes nothing.
    #[must_use]
    pub fn describe(&self) -> Made {
        let uuid = self.request.uuid.map(|uuid| uuid.to_string()).unwrap_or_default();
        let block_bytes = (self.kind != Kind::Missing).then_some(self.regions.block_bytes);
        Made::new(self, uuid, block_bytes, 0, true)
    }

    /// Creates or resizes the image, or clears what is on the device.
    fn prepare(&mut self) -> Result<Target> {
        let path = &self.request.path;
        let shown = path.display();
        let target = match (self.kind, self.claim.take()) {
            (Kind::BlockDevice, Some(file)) => {
                clear_old(&file, self.old_bytes, &self.found, &self.old)
                    .with_context(|| format!("cannot clear the old contents of {shown}"))?;
                Target::Existing(file)
            }
            (_, Some(file)) => {
                allocate_before(&file, self.old_bytes, self.bytes).with_context(|| {
                    format!("cannot allocate {} for {shown}; nothing was changed", Size(self.bytes))
                })?;
                file.set_len(0).with_context(|| format!("cannot clear {shown}"))?;
                Target::Existing(file)
            }
            (_, None) => create(path)?,
        };
        if self.kind != Kind::BlockDevice {
            preallocate(target.file(), self.bytes)
                .with_context(|| format!("cannot allocate {} for {shown}", Size(self.bytes)))?;
        }
        target.file().sync_all().with_context(|| format!("cannot flush {shown}"))?;
        Ok(target)
    }

    /// Formats, and opens what was made: a store that does not open is told here.
    fn fill(&mut self, target: &Target) -> Result<Made> {
        // By descriptor: a new image has no name yet. The target keeps the claim all the while.
        let descriptor = format!("/proc/self/fd/{}", target.file().as_raw_fd());
        let device = UringDevice::open(descriptor, OpenMode::ReadWrite, false)?;
        let discarded = match self.kind {
            Kind::BlockDevice if self.request.discard => discard(&device, &self.bar("discarding"))?,
            _ => 0,
        };
        self.clear_segments(target.file(), discarded)?;
        let bar = self.bar("formatting");
        let clock = SystemClock::new();
        let made = format_calibrated(&device, &self.options, Some(&clock), &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        let made = made?;
        let opened = superblock::open(&device)?.superblock;
        ensure!(
            opened.size == self.regions.size && made.containers == self.regions.containers,
            "{} changed its size meanwhile; nothing else was checked, make the store again",
            self.request.path.display()
        );
        Ok(Made::new(
            self,
            uuid::Uuid::from_bytes(opened.identity).to_string(),
            Some(opened.logical_block),
            discarded,
            false,
        ))
    }

    /// Of older stores on a device, behind what was discarded.
    fn clear_segments(&self, file: &File, discarded: u64) -> Result<()> {
        if self.kind != Kind::BlockDevice || discarded >= self.old_bytes {
            return Ok(());
        }
        let clear = || {
            for old in &self.old {
                clear_segments(file, old, discarded, self.old_bytes, &self.bar("clearing"))?;
            }
            file.sync_data()
        };
        clear().with_context(|| format!("cannot clear the old contents of {}", self.request.path.display()))
    }

    fn bar(&self, what: &'static str) -> ProgressBar {
        if !self.request.progress {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::with_draw_target(Some(self.bytes), ProgressDrawTarget::stderr_with_hz(5));
        let style = ProgressStyle::with_template("{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {eta}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(what);
        bar
    }
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// A new image file, readable by its owner only.
fn create(path: &Path) -> Result<Target> {
    use rustix::io::Errno;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(parent(path), flags, Mode::RUSR | Mode::WUSR) {
        Ok(descriptor) => Ok(Target::Nameless(File::from(descriptor))),
        // Not offered by every file system, and not known to every kernel.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map(Target::Named)
            .with_context(|| format!("cannot create {}", path.display())),
        Err(error) => Err(error).with_context(|| format!("cannot create {}", path.display())),
    }
}

/// The last step: from here on others can see the image, and it is whole. Never replaces what somebody else made meanwhile.
fn give_name(file: &File, path: &Path) -> Result<()> {
    let shown = path.display();
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(rustix::fs::CWD, from, rustix::fs::CWD, path, AtFlags::SYMLINK_FOLLOW)
        .with_context(|| format!("cannot create {shown}"))?;
    let directory = File::open(parent(path)).with_context(|| format!("cannot open the directory of {shown}"))?;
    directory.sync_all().with_context(|| format!("cannot flush the directory of {shown}"))
}

/// All the blocks that the image will need, beside what it holds: if they cannot be had, it is as it was.
fn allocate_before(file: &File, old_bytes: u64, bytes: u64) -> std::io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(error) => {
            // Gives back what was allocated behind the old end.
            file.set_len(old_bytes)?;
            Err(error.into())
        }
    }
}

/// Gives the file its blocks now, so that a full host file system shows here and not at an fsync.
fn preallocate(file: &File, bytes: u64) -> std::io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Err(rustix::io::Errno::OPNOTSUPP) => super::clear::zeros(file, 0, bytes),
        other => Ok(other?),
    }
}
