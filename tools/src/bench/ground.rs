//! What the jobs run on: a scratch image that is gone at the end, an image or device that was named, its halves, and the check that nothing of value is overwritten.
//!
//! ```text
//! | the store: formatted here, its flat disk inside | the floor: raw |     both engines
//! | one of them                                                      |     one engine
//! ```

use super::disk::{self, Disk};
use super::job::Ioengine;
use super::slice::Slice;
use super::watch::Watch;
use crate::mkfs::size::Size;
use crate::mkfs::{check_room, has_data, in_use, size_of};
use anyhow::{Context as _, Result, bail, ensure};
use envoyfs_engine::device::{AlignedBuf, Device, OpenMode, UringDevice, Write};
use envoyfs_engine::signature;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MIB: u64 = 1 << 20;
/// The region of a job that says nothing about its size, on an image made here.
const DISK_BYTES_DEFAULT: u64 = 1 << 30;

/// What the jobs on one file need.
#[derive(Clone)]
pub struct Wish {
    /// `filename=`; `None`: a scratch image in `directory`.
    pub path: Option<PathBuf>,
    /// For scratch images.
    pub directory: PathBuf,
    /// A job goes through the store.
    pub store: bool,
    /// A job goes to the bare device.
    pub floor: bool,
    /// A job writes to the bare device.
    pub floor_writes: bool,
    /// Furthest byte that a job names; 0: none does.
    pub bytes: u64,
    /// Largest block of a job.
    pub block_most: u32,
    /// Overwrite what is there.
    pub force: bool,
    /// Who waits for it.
    pub watch: Watch,
}

/// See the module.
pub struct Ground {
    floor: Option<Arc<dyn Device>>,
    disk: Option<Arc<Disk>>,
    /// Of the block device, or of the file system's below an image.
    pub device_number: u64,
}

impl Ground {
    /// Opens, and where needed makes and formats.
    ///
    /// # Errors
    /// What is in the way, and what to do.
    pub fn open(wish: &Wish) -> Result<Self> {
        let exists = wish.path.as_ref().is_some_and(|path| path.exists());
        let path = match &wish.path {
            Some(path) => path.clone(),
            None => wish.directory.join(format!("envoyfs-bench-{}.img", std::process::id())),
        };
        let mut guard = None;
        if exists {
            check(&path, wish)?;
        } else {
            guard = Some(Unlink(path.clone()));
            create(&path, total_bytes(wish))?;
        }
        let writes = wish.store || wish.floor_writes || !exists;
        let mode = if writes { OpenMode::ReadWrite } else { OpenMode::ReadOnly };
        let device = UringDevice::open(&path, mode, writes).with_context(|| format!("opening {}", path.display()))?;
        ensure!(device.is_direct(), "{}: its file system has no direct IO; choose another place", path.display());
        let metadata = std::fs::metadata(&path)?;
        let device_number = if metadata.file_type().is_block_device() { metadata.rdev() } else { metadata.dev() };
        let device: Arc<dyn Device> = Arc::new(device);
        if wish.path.is_some() {
            // An image that was asked for by name stays.
            if let Some(guard) = guard.take() {
                std::mem::forget(guard);
            }
        }
        // A scratch image has no name from here on: it is gone however this process ends.
        drop(guard);
        let size = device.geometry().size_bytes;
        let (store, floor) = match (wish.store, wish.floor) {
            (true, true) => {
                let first = if exists { size / 2 } else { store_bytes(wish) } / MIB * MIB;
                let rest = (size - first) / MIB * MIB;
                (Some(Slice::new(Arc::clone(&device), 0, first)), Some(Slice::new(Arc::clone(&device), first, rest)))
            }
            (true, false) => (Some(Slice::new(Arc::clone(&device), 0, size)), None),
            _ => (None, Some(Slice::new(Arc::clone(&device), 0, size))),
        };
        if !exists {
            // Blocks that the file system below has only promised would be read for nothing and cost extra when written.
            let write = |at, length| lay_out(&*device, at, length);
            wish.watch.steps(&format!("laying out {}", path.display()), 0, size, write)?;
        }
        let disk = match store {
            Some(store) => Some(Arc::new(disk::open_or_format(Arc::new(store), wish.bytes, wish.block_most)?)),
            None => None,
        };
        Ok(Self { floor: floor.map(|floor| Arc::new(floor) as Arc<dyn Device>), disk, device_number })
    }

    /// Bytes that jobs may use.
    ///
    /// # Errors
    /// The engine was not asked for.
    pub fn bytes(&self, engine: Ioengine) -> Result<u64> {
        let floor = self.floor.as_ref().map(|floor| floor.geometry().size_bytes);
        let disk = self.disk.as_ref().map(|disk| disk.bytes());
        let bytes = match engine {
            Ioengine::Envoyfs => disk,
            // As large as the disk in the store, so that both face the same.
            Ioengine::Device => floor.map(|floor| disk.map_or(floor, |disk| disk.min(floor))),
        };
        bytes.context("an engine that no job asked for")
    }

    /// The bare device.
    pub const fn floor(&self) -> Option<&Arc<dyn Device>> {
        self.floor.as_ref()
    }

    /// The disk in the store.
    pub const fn disk(&self) -> Option<&Arc<Disk>> {
        self.disk.as_ref()
    }

    /// Closes the store.
    ///
    /// # Errors
    /// What the last checkpoint meets.
    pub fn close(&self) -> Result<()> {
        self.disk.as_ref().map_or(Ok(()), |disk| disk.close())
    }
}

struct Unlink(PathBuf);

impl Drop for Unlink {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn disk_bytes(wish: &Wish) -> u64 {
    if wish.bytes == 0 { DISK_BYTES_DEFAULT } else { wish.bytes }.next_multiple_of(MIB)
}

/// Half as much again, and what a small store needs beside its data: so the cleaner is not what is measured.
fn store_bytes(wish: &Wish) -> u64 {
    (disk_bytes(wish) / 2 * 3 + 256 * MIB).next_multiple_of(MIB)
}

fn total_bytes(wish: &Wish) -> u64 {
    let store = if wish.store { store_bytes(wish) } else { 0 };
    store + if wish.floor { disk_bytes(wish) } else { 0 }
}

fn create(path: &Path, bytes: u64) -> Result<()> {
    let shown = path.display();
    check_room(path, bytes, 0)?;
    let made = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
    let file = made.with_context(|| format!("cannot create {shown}"))?;
    match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(bytes)?,
        other => other.with_context(|| format!("cannot allocate {} for {shown}", Size(bytes)))?,
    }
    Ok(())
}

/// Refuses what is in use, and what holds something and would be overwritten.
fn check(path: &Path, wish: &Wish) -> Result<()> {
    let shown = path.display();
    if !wish.store && !wish.floor_writes {
        return Ok(());
    }
    if let Some(user) = in_use::user_of(path) {
        bail!("{user}");
    }
    let file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
    let size = size_of(&file)?;
    let found = signature::probe(&file, size).with_context(|| format!("cannot read {shown}"))?;
    if found.is_empty() && !wish.force && file.metadata()?.is_file() && has_data(&file, size)? {
        bail!(
            "{shown} is not empty (data of no known format); this job would overwrite it; to lose what it holds, add --force"
        );
    }
    drop(file);
    let own = found.iter().all(|found| found.name == signature::ENVOYFS) && disk::is_scratch(path);
    if !found.is_empty() && !own && !wish.force {
        bail!(
            "{shown} contains: {}; this job would overwrite it; to lose what it holds, add --force",
            signature::names(&found)
        );
    }
    Ok(())
}

/// Writes every byte once.
fn lay_out(device: &dyn Device, start: u64, bytes: u64) -> Result<()> {
    let buffer = Arc::new(AlignedBuf::zeroed(1 << 20));
    let mut tickets = std::collections::VecDeque::new();
    let mut at = start;
    while at < start + bytes {
        let length = MIB.min(start + bytes - at);
        let range = 0..usize::try_from(length).unwrap_or(0);
        tickets.push_back(device.submit(Write::part(at, Arc::clone(&buffer), range)));
        at += length;
        if tickets.len() >= 16
            && let Some(oldest) = tickets.pop_front()
        {
            oldest.wait()?;
        }
    }
    tickets.iter().try_for_each(|ticket| ticket.wait())?;
    Ok(device.flush()?)
}
