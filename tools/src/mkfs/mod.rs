//! Making a store: the checks that come first, and the writing that comes last.
//!
//! Owns what `mkfs.envoyfs` and `envoyfs up` share. Promises: until every check has passed nothing is written, created or resized; a mounted or otherwise used device is
//! refused whatever the flags say; what is on the device already is only overwritten with `force`.
//!
//! If power fails here: before the first superblock is flushed the device holds no store (its old signatures are gone by then); after it, the store is whole.
//!
//! ```text
//! parse -> in use? -> claim (O_EXCL, flock) -> size -> signatures -> plan   | nothing changed so far
//! create or resize image -> wipe old signatures -> flush -> Engine::format  | writes
//! ```

pub mod in_use;
mod planning;
pub mod size;
mod write;

use crate::signature::{self, Found};
use anyhow::{Context as _, Result, bail, ensure};
use size::Size;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
pub use write::Made;

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
    /// Overwrite what is there.
    pub force: bool,
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
        ensure!(request.label.len() <= 64, "the label has {} bytes; at most 64 fit", request.label.len());
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
            Size(bytes),
            Size(STORE_BYTES_MIN)
        );
        if kind == Kind::Missing {
            check_room(path, bytes)?;
        }
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
        Ok(Self { request, kind, old_bytes, bytes, found, claim })
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
            ensure!(!path.starts_with("/dev"), "there is no device {shown}; lsblk lists them");
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

fn check_room(path: &Path, bytes: u64) -> Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let space = rustix::fs::statvfs(parent)
        .with_context(|| format!("cannot create {}: no directory {}", path.display(), parent.display()))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    ensure!(free >= bytes, "{} has only {} free, the image needs {}", parent.display(), Size(free), Size(bytes));
    Ok(())
}

/// Whether the first or the last mebibyte of a file holds anything but zeros.
fn has_data(file: &File, bytes: u64) -> Result<bool> {
    const WINDOW: u64 = 1 << 20;
    let mut buffer = vec![0; 1 << 20];
    for start in [0, bytes.saturating_sub(WINDOW)] {
        let mut done = 0;
        while done < bytes.min(WINDOW) {
            let count = file.read_at(&mut buffer, start + done)?;
            if count == 0 {
                break;
            }
            if buffer.iter().take(count).any(|byte| *byte != 0) {
                return Ok(true);
            }
            done += count as u64;
        }
    }
    Ok(false)
}
