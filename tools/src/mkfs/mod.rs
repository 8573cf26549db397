//! Making a store: the checks that come first, and the writing that comes last.
//!
//! Owns what `mkfs.envoyfs` and `envoyfs up` share. Promises: until every check has passed nothing is written, created or resized; a mounted or otherwise used device is
//! refused whatever the flags say; what is on the device already is only overwritten with `force`.
//!
//! If power fails or the process is killed here: a new image has no name until it is whole; a device, or an image that was there before, holds no store before the first
//! superblock is flushed (its old signatures are gone by then), and after it a whole one.
//!
//! ```text
//! parse -> in use? -> claim (O_EXCL, flock) -> size -> signatures -> regions                       | nothing changed so far
//! clear old signatures, or create the image without a name -> flush -> discard, or clear old segments -> format -> name   | writes
//! ```

mod clear;
mod discard;
pub mod in_use;
mod made;
pub mod size;
mod write;

use anyhow::{Context as _, Result, bail, ensure};
use envoyfs_engine::device::{Device as _, OpenMode, UringDevice, wait_for_writes_in_flight};
use envoyfs_engine::format::{FormatOptions, Regions};
use envoyfs_engine::hlc::{Clock as _, SystemClock};
use envoyfs_engine::signature::{self, Found};
use envoyfs_layout::superblock::Superblock;
pub use made::Made;
use size::Size;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Smallest store (DESIGN 6).
pub const STORE_BYTES_MIN: u64 = envoyfs_engine::format::SIZE_MIN;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Block device or image file.
    pub path: PathBuf,
    /// Bytes of the image file; `None`: as it is.
    pub size: Option<Size>,
    /// Label, at most 64 bytes.
    pub label: String,
    /// Identity; `None`: a random one.
    pub uuid: Option<uuid::Uuid>,
    /// Bytes of the log; `None`: what follows from the size.
    pub wal_size: Option<Size>,
    /// Bytes of a segment; `None`: what follows from the size.
    pub segment_size: Option<Size>,
    /// Discard a block device that supports it.
    pub discard: bool,
    /// Show progress on standard error, if that is a terminal.
    pub progress: bool,
    /// Overwrite what is there.
    pub force: bool,
}

impl Request {
    /// An image file as `envoyfs up` makes it; everything else as it follows from the size.
    #[must_use]
    pub fn new(path: PathBuf, size: Option<Size>) -> Self {
        Self {
            path,
            size,
            label: String::new(),
            uuid: None,
            wal_size: None,
            segment_size: None,
            discard: true,
            progress: false,
            force: false,
        }
    }

    /// What is wrong with the request itself, whatever stands at the path.
    ///
    /// # Errors
    /// Says which option, and what it can be.
    pub fn check(&self) -> Result<()> {
        ensure!(self.label.len() <= 64, "the label has {} bytes; at most 64 fit", self.label.len());
        ensure!(!self.label.chars().any(char::is_control), "the label contains control characters");
        for (option, size) in [("--wal-size", self.wal_size), ("--segment-size", self.segment_size)] {
            if let Some(size) = size {
                ensure!(size.0.is_multiple_of(4096), "{option}: {size} is not a multiple of 4 KiB");
            }
        }
        let segment = self.segment_size.map_or(1 << 20, |size| size.0);
        ensure!(
            segment.is_power_of_two() && (1 << 20..=16 << 20).contains(&segment),
            "--segment-size: a segment has 1, 2, 4, 8 or 16 MiB"
        );
        ensure!(self.uuid.is_none_or(|uuid| !uuid.is_nil()), "--uuid: all zero is no identity");
        Ok(())
    }
}

/// What stands at the path now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: an image file will be created.
    Missing,
    /// An image file.
    File,
    /// A block device.
    BlockDevice,
}

/// A request all of whose checks have passed. Holds the claim on the device.
#[derive(Debug)]
pub struct Plan {
    request: Request,
    kind: Kind,
    old_bytes: u64,
    bytes: u64,
    found: Vec<Found>,
    /// Stores that are overwritten.
    old: Vec<Superblock>,
    options: FormatOptions,
    regions: Regions,
    /// Keeps other programs away while the checks run.
    claim: Option<File>,
}

impl Plan {
    /// Runs every check. Writes nothing.
    ///
    /// # Errors
    /// Says what is wrong and what to do about it.
    pub fn check(request: Request) -> Result<Self> {
        let path = &request.path;
        let shown = path.display();
        request.check()?;
        let kind = kind_of(path)?;
        if let Some(user) = in_use::user_of(path) {
            bail!("{user}");
        }
        let claim = claim(path, kind)?;
        let old_bytes = match &claim {
            Some(file) => size_of(file).with_context(|| format!("cannot tell the size of {shown}"))?,
            None => 0,
        };
        let bytes = match (kind, request.size) {
            (Kind::Missing, _) if path.is_symlink() => {
                bail!("{shown} is a symbolic link to a file that does not exist")
            }
            (Kind::Missing, None) => {
                bail!("{shown} does not exist; to create an image file give its size: --size 2GiB")
            }
            (Kind::BlockDevice, Some(_)) => {
                bail!(
                    "--size is for image files; a store always takes the whole of a block device ({})",
                    Size(old_bytes)
                )
            }
            (Kind::File, None) if old_bytes == 0 => bail!("{shown} is empty; give the size of the image: --size 2GiB"),
            (_, Some(size)) => size.0,
            (_, None) => old_bytes,
        } & !4095;
        ensure!(
            bytes >= STORE_BYTES_MIN,
            "{} is too small for a store: the minimum is {}",
            request.size.unwrap_or(Size(bytes)),
            Size(STORE_BYTES_MIN)
        );
        let block_bytes = match kind {
            // Known when the file exists: its file system says it. Nothing but the log's blocks follows from it.
            Kind::Missing => 4096,
            _ => UringDevice::open(path, OpenMode::ReadOnly, false)?.geometry().logical_block_bytes,
        };
        let options = options(&request);
        match &claim {
            Some(file) if kind == Kind::File => check_room(path, bytes, file.metadata()?.blocks().saturating_mul(512))?,
            Some(file) => check_writable(path, file)?,
            None => check_room(path, bytes, 0)?,
        }
        let regions = Regions::plan(bytes, block_bytes, &options)?;
        let found = match &claim {
            Some(file) => signature::probe(file, old_bytes).with_context(|| format!("cannot read {shown}"))?,
            None => Vec::new(),
        };
        if !request.force {
            if !found.is_empty() {
                let names = signature::names(&found);
                bail!(
                    "{shown} contains: {names}; nothing was changed; to overwrite it and lose what it holds, add --force"
                );
            }
            if bytes < old_bytes && kind == Kind::File {
                bail!("{shown} has {}; it is only cut to {} with --force", Size(old_bytes), Size(bytes));
            }
            if let (Kind::File, Some(file)) = (kind, &claim)
                && has_data(file, old_bytes)?
            {
                bail!(
                    "{shown} is not empty (data of no known format); to overwrite it and lose what it holds, add --force"
                );
            }
        }
        let old = claim.as_ref().map(|file| clear::stores(file, &found)).unwrap_or_default();
        Ok(Self { request, kind, old_bytes, bytes, found, old, options, regions, claim })
    }

    /// Bytes of the store to be.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
    /// What stands at the path now.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }
    /// Names of what will be overwritten; empty if nothing known is there.
    #[must_use]
    pub fn overwrites(&self) -> String {
        signature::names(&self.found)
    }
}

fn options(request: &Request) -> FormatOptions {
    FormatOptions {
        label: request.label.clone(),
        uuid: request.uuid.unwrap_or_else(uuid::Uuid::new_v4).into_bytes(),
        seed: uuid::Uuid::new_v4().into_bytes(),
        now_ns: SystemClock::new().wall_ns(),
        wal_bytes: request.wal_size.map(|size| size.0),
        segment_bytes: request.segment_size.and_then(|size| u32::try_from(size.0).ok()),
        // What was there has been checked, and cleared.
        force: true,
        small: false,
    }
}

fn kind_of(path: &Path) -> Result<Kind> {
    let shown = path.display();
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.file_type().is_block_device() => Ok(Kind::BlockDevice),
        Ok(metadata) if metadata.is_file() => Ok(Kind::File),
        Ok(metadata) if metadata.is_dir() => {
            bail!("{shown} is a directory; name an image file in it, or a block device")
        }
        Ok(_) => bail!("{shown} is neither a block device nor a regular file"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // A file made there by mistake hides the device that comes later. /dev/shm is for files.
            let parent = path.parent().and_then(|parent| parent.canonicalize().ok());
            let of_devices = parent.is_some_and(|it| it.starts_with("/dev") && !it.starts_with("/dev/shm"));
            ensure!(!of_devices, "there is no device {shown}; lsblk lists them");
            Ok(Kind::Missing)
        }
        Err(error) => Err(error).with_context(|| format!("cannot look at {shown}")),
    }
}

/// Opens for reading and writing, exclusively; writes nothing.
fn claim(path: &Path, kind: Kind) -> Result<Option<File>> {
    let shown = path.display();
    if kind == Kind::Missing {
        return Ok(None);
    }
    let flags = if kind == Kind::BlockDevice { libc::O_EXCL } else { 0 };
    let file = match OpenOptions::new().read(true).write(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            bail!("{shown} is in use by the kernel or another program (lsblk and fuser -v {shown} show by whom)")
        }
        Err(error) => return Err(error).with_context(|| format!("cannot open {shown} for writing")),
    };
    if kind == Kind::File && rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!("{shown} is in use by another envoyfs process; unmount it first");
    }
    wait_for_writes_in_flight(path, &file)?;
    Ok(Some(file))
}

/// Works for files and block devices alike.
///
/// # Errors
/// What seeking reports.
pub fn size_of(file: &File) -> std::io::Result<u64> {
    use std::io::Seek as _;
    let mut file = file;
    file.seek(std::io::SeekFrom::End(0))
}

/// The device refuses writes, by what the system says of it. It would say so otherwise when something has been cleared already.
fn check_writable(path: &Path, device: &File) -> Result<()> {
    let number = device.metadata()?.rdev();
    let says = format!("/sys/dev/block/{}:{}/ro", libc::major(number), libc::minor(number));
    let is_read_only = std::fs::read_to_string(says).is_ok_and(|text| text.trim() == "1");
    ensure!(!is_read_only, "{} is read-only", path.display());
    Ok(())
}

/// Room for an image that has so many bytes allocated already, in a directory that takes files.
///
/// # Errors
/// Says what is missing, and where.
pub fn check_room(path: &Path, bytes: u64, allocated: u64) -> Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let space = rustix::fs::statvfs(parent)
        .with_context(|| format!("cannot create {}: no directory {}", path.display(), parent.display()))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let needed = bytes.saturating_sub(allocated);
    let place = if parent == Path::new(".") { "the current directory".into() } else { parent.display().to_string() };
    ensure!(free >= needed, "{place} has only {} free, the image needs {}", Size(free), Size(needed));
    if !path.exists() {
        let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        rustix::fs::access(parent, access).with_context(|| format!("cannot create files in {place}"))?;
    }
    Ok(())
}

/// Whether a file holds anything but zeros. Holes are not read.
///
/// # Errors
/// What reading reports.
pub fn has_data(file: &File, bytes: u64) -> Result<bool> {
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < bytes {
        at = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole is left.
            Err(rustix::io::Errno::NXIO) => return Ok(false),
            Err(rustix::io::Errno::INVAL) => at,
            Err(error) => return Err(error.into()),
        };
        let count = file.read_at(&mut buffer, at)?;
        if count == 0 {
            break;
        }
        if buffer.iter().take(count).any(|byte| *byte != 0) {
            return Ok(true);
        }
        at += count as u64;
    }
    Ok(false)
}
