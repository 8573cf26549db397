//! A store opened through the page cache: works on files and block devices and needs no `io_uring`. Opened for reading it cannot write by construction.

use crate::mkfs::in_use;
use crate::mount::claim::Claim;
use anyhow::{Context as _, Result, bail};
use envoyfs_engine::device::{
    self, AlignedBuf, Device, DeviceError, Geometry, MappedFile, Operation, Ticket, Write, wait_for_writes_in_flight,
};
use envoyfs_engine::superblock;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use uuid::Uuid;

/// What reads past the page cache are aligned to: no device has larger blocks.
pub const DIRECT: u64 = 4096;

/// An image file or block device.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    file: File,
    /// The same past the page cache, where the system allows it.
    direct: Option<File>,
    geometry: Geometry,
    /// What a mount would write at least.
    block_bytes: u32,
    writable: bool,
    /// Keeps mounts away by whatever path: a loop device over an image takes no lock of it.
    claim: OnceLock<Claim>,
}

impl Source {
    /// Opens and claims it, so that no mount changes it meanwhile.
    ///
    /// # Errors
    /// It does not exist, is not a device or file, or is in use; or it is to be written, and a store with the same identity is mounted or being repaired. (Only checked
    /// may be the copy of a mounted store.)
    pub fn open(path: &Path, writable: bool) -> Result<Self> {
        let shown = path.display();
        let metadata = std::fs::metadata(path).with_context(|| format!("cannot look at {shown}"))?;
        let is_block_device = metadata.file_type().is_block_device();
        if !is_block_device && !metadata.is_file() {
            bail!("{shown} is neither a block device nor a regular file");
        }
        if let Some(user) = if writable { in_use::user_of(path) } else { in_use::mount_of(path) } {
            bail!("{user}");
        }
        let flags = if is_block_device { libc::O_EXCL } else { 0 };
        let file = match OpenOptions::new().read(true).write(writable).custom_flags(flags).open(path) {
            Ok(file) => file,
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => bail!("{shown} is in use; unmount it first"),
            Err(error) => return Err(error).with_context(|| format!("cannot open {shown}")),
        };
        let lock = if writable {
            rustix::fs::FlockOperation::NonBlockingLockExclusive
        } else {
            rustix::fs::FlockOperation::NonBlockingLockShared
        };
        if !is_block_device && rustix::fs::flock(&file, lock).is_err() {
            bail!("{shown} is in use by another envoyfs process (mounted?); unmount it first");
        }
        wait_for_writes_in_flight(path, &file)?;
        let size_bytes = crate::mkfs::size_of(&file).with_context(|| format!("cannot tell the size of {shown}"))?;
        // Through the page cache any offset can be read; the granule is the smallest that formats know.
        let geometry = Geometry { size_bytes: size_bytes & !511, logical_block_bytes: 512, is_block_device };
        // As a mount sees it; where that cannot be asked, nothing follows from it.
        let block_bytes =
            device::geometry(path).map_or(geometry.logical_block_bytes, |asked| asked.logical_block_bytes);
        // The page cache costs most of a fast device's bandwidth. (The claim is the first descriptor's.)
        let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).ok();
        let source =
            Self { path: path.to_path_buf(), file, direct, geometry, block_bytes, writable, claim: OnceLock::new() };
        if let Ok(opened) = superblock::open(&source) {
            match source.claim(opened.superblock.identity) {
                Err(error) if writable => return Err(error),
                // Free, or a copy of what is mounted.
                _ => {}
            }
        }
        Ok(source)
    }

    /// Claims an identity, unless one is claimed already: the first is that of the superblock.
    ///
    /// # Errors
    /// A store that has it is mounted, or being repaired.
    pub fn claim(&self, identity: [u8; 16]) -> Result<()> {
        if self.claim.get().is_none() {
            let claim = Claim::take(Uuid::from_bytes(identity), &self.path)?;
            self.claim.get_or_init(|| claim);
        }
        Ok(())
    }

    /// The descriptor, for what is no store.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// The smallest block that a mount could write here; here itself any can be written.
    #[must_use]
    pub const fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// Bytes of the device.
    #[must_use]
    pub const fn size_bytes(&self) -> u64 {
        self.geometry.size_bytes
    }

    /// The image file mapped, if it is one, is only read, and lies where nothing reads past the page cache.
    #[must_use]
    pub fn map(&self) -> Option<MappedFile> {
        let fixed = !self.writable && !self.geometry.is_block_device && self.direct.is_none();
        fixed.then(|| MappedFile::of(&self.file)).flatten()
    }

    /// Starts to read ahead.
    pub fn expect(&self, offset: u64, length: u64) {
        let _hint =
            rustix::fs::fadvise(&self.file, offset, std::num::NonZeroU64::new(length), rustix::fs::Advice::WillNeed);
    }

    /// Are large reads made past the page cache?
    #[must_use]
    pub const fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// Reads past the page cache; offset and length are multiples of [`DIRECT`], the buffer is aligned to it. False: another way has to be gone.
    #[must_use]
    pub fn read_direct(&self, offset: u64, into: &mut [u8]) -> bool {
        let end = offset.checked_add(into.len() as u64);
        end.is_some_and(|end| end <= self.geometry.size_bytes)
            && self.direct.as_ref().is_some_and(|file| file.read_exact_at(into, offset).is_ok())
    }

    /// Fills `into` from `offset`.
    ///
    /// # Errors
    /// Past the end, or what the system reports.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), DeviceError> {
        let length = into.len() as u64;
        let operation = Operation::Read;
        if offset.checked_add(length).is_none_or(|end| end > self.geometry.size_bytes) {
            return Err(DeviceError::ShortDevice { operation, offset, length, size: self.geometry.size_bytes });
        }
        self.file.read_exact_at(into, offset).map_err(|error| DeviceError::Io {
            operation,
            offset,
            length,
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        })
    }
}

impl Device for Source {
    fn geometry(&self) -> Geometry {
        self.geometry
    }
    fn read(&self, offset: u64, into: &mut AlignedBuf) -> Result<(), DeviceError> {
        self.read_at(offset, into.as_mut_slice())
    }
    /// Writes before it returns; durable after a flush, or at once if the write is to be.
    fn submit(&self, write: Write) -> Ticket {
        let operation = Operation::Write;
        if !self.writable {
            return Ticket::done(Err(DeviceError::ReadOnly { operation }));
        }
        let offset = write.offset;
        let Some(bytes) = write.bytes() else {
            let (start, end) = (write.range.start as u64, write.range.end as u64);
            let length = write.buf.len() as u64;
            return Ticket::done(Err(DeviceError::OutsideBuffer { operation, offset, start, end, length }));
        };
        let length = bytes.len() as u64;
        if offset.checked_add(length).is_none_or(|end| end > self.geometry.size_bytes) {
            let size = self.geometry.size_bytes;
            return Ticket::done(Err(DeviceError::ShortDevice { operation, offset, length, size }));
        }
        let mut written = self.file.write_all_at(bytes, offset);
        if write.durable && written.is_ok() {
            written = self.file.sync_data();
        }
        Ticket::done(written.map_err(|error| {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            DeviceError::Io { operation, offset, length, errno }
        }))
    }
    fn flush(&self) -> Result<(), DeviceError> {
        let operation = Operation::Flush;
        if !self.writable {
            return Err(DeviceError::ReadOnly { operation });
        }
        self.file.sync_data().map_err(|error| {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            DeviceError::Io { operation, offset: 0, length: 0, errno }
        })
    }
    fn discard(&self, _offset: u64, _len: u64) -> Result<(), DeviceError> {
        Err(DeviceError::ReadOnly { operation: Operation::Discard })
    }
    fn label(&self) -> String {
        self.path.display().to_string()
    }
}
