//! Opening: the claim, the IO descriptor, the geometry; and the calls on the descriptor that are not reads or writes.

use super::super::{DeviceError, Geometry, Operation, WriteCache};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// How a device is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Reads only.
    ReadOnly,
    /// Everything.
    ReadWrite,
}

/// An open device.
pub(super) struct Opened {
    /// For IO; rings register it.
    pub(super) io: File,
    pub(super) geometry: Geometry,
    pub(super) memory_alignment: usize,
    pub(super) direct: bool,
    /// A ring was given up with writes in the kernel.
    pub(super) gave_up: AtomicBool,
    /// As on a file system without durable writes.
    #[cfg(test)]
    pub(super) refuses_durable: AtomicBool,
    /// Takes the place of the next `fdatasync`, which fails with the error number that this returns.
    #[cfg(test)]
    pub(super) failing_sync: parking_lot::Mutex<Option<Box<dyn FnOnce() -> i32 + Send>>>,
}

// The two requests that the libc crate does not have for every target.
const BLKGETSIZE64: libc::Ioctl = 0x8008_1272;
const BLKDISCARD: libc::Ioctl = 0x1277;

pub(super) fn last_errno() -> i32 {
    errno_of(&std::io::Error::last_os_error())
}

pub(super) fn errno_of(error: &std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// What a block device or image file says of itself, also where `io_uring` is forbidden. Three system calls.
///
/// # Errors
/// [`DeviceError::Open`].
pub fn geometry(path: &Path) -> Result<Geometry, DeviceError> {
    Ok(open(path, OpenMode::ReadOnly, false)?.0.geometry)
}

/// Opens for IO; the second descriptor holds the exclusive lock and is used for nothing else.
pub(super) fn open(path: &Path, mode: OpenMode, exclusive: bool) -> Result<(Opened, Option<File>), DeviceError> {
    let failed = |what: &'static str, errno: i32| DeviceError::Open { path: path.to_path_buf(), what, errno };
    let system = |what| move |error: std::io::Error| failed(what, errno_of(&error));
    let kind = std::fs::metadata(path).map_err(system("stat"))?.file_type();
    let is_block_device = kind.is_block_device();
    if !is_block_device && !kind.is_file() {
        return Err(failed("neither a block device nor a regular file", libc::ENOTBLK));
    }
    let options = |flags: i32| {
        let mut options = OpenOptions::new();
        options.read(true).write(mode == OpenMode::ReadWrite).custom_flags(flags | libc::O_CLOEXEC);
        options
    };
    let claim = if exclusive { Some(claim(path, is_block_device, &options)?) } else { None };
    let (io, direct) = match options(libc::O_DIRECT).open(path) {
        Ok(file) => (file, true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            tracing::warn!(path = %path.display(), "no direct IO here: going through the page cache");
            (options(0).open(path).map_err(system("open"))?, false)
        }
        Err(error) => return Err(failed("open", errno_of(&error))),
    };
    let (logical_block_bytes, memory_alignment) =
        if is_block_device { block_device_alignment(&io) } else { file_alignment(&io) }
            .map_err(|errno| failed("asking for the logical block size", errno))?;
    let size = if is_block_device {
        block_device_size(&io).map_err(|errno| failed("asking for the size", errno))?
    } else {
        io.metadata().map_err(system("asking for the size"))?.len()
    };
    let size_bytes = size - size % u64::from(logical_block_bytes);
    let geometry = Geometry { size_bytes, logical_block_bytes, is_block_device };
    let opened = Opened {
        io,
        geometry,
        memory_alignment,
        direct,
        gave_up: AtomicBool::new(false),
        #[cfg(test)]
        refuses_durable: AtomicBool::new(false),
        #[cfg(test)]
        failing_sync: parking_lot::Mutex::new(None),
    };
    Ok((opened, claim))
}

/// Takes the exclusive lock, on a descriptor of its own.
fn claim(path: &Path, is_block_device: bool, options: &dyn Fn(i32) -> OpenOptions) -> Result<File, DeviceError> {
    let in_use = || DeviceError::InUse { path: path.to_path_buf() };
    let failed = |what, errno| DeviceError::Open { path: path.to_path_buf(), what, errno };
    let file = match options(if is_block_device { libc::O_EXCL } else { 0 }).open(path) {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Err(in_use()),
        Err(error) => return Err(failed("open", errno_of(&error))),
    };
    if !is_block_device {
        // SAFETY: no memory is passed; the descriptor is open.
        while unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            match last_errno() {
                libc::EINTR => {}
                libc::EWOULDBLOCK => return Err(in_use()),
                errno => return Err(failed("flock", errno)),
            }
        }
    }
    Ok(file)
}

/// Logical block and alignment in memory.
fn block_device_alignment(file: &File) -> Result<(u32, usize), i32> {
    let mut block: libc::c_int = 0;
    // SAFETY: BLKSSZGET writes one int to the pointer, which is valid for the call.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::BLKSSZGET, &raw mut block) } != 0 {
        return Err(last_errno());
    }
    let memory = match direct_io_alignment(file) {
        Some((memory, _)) => memory,
        None => 4096,
    };
    Ok((supported_block(u32::try_from(block).unwrap_or(0))?, memory))
}

/// What the file system below asks for; 4096 where it does not say.
fn file_alignment(file: &File) -> Result<(u32, usize), i32> {
    let (memory, offset) = direct_io_alignment(file).unwrap_or((4096, 4096));
    Ok((supported_block(offset)?, memory))
}

/// Formats know blocks of 512 and 4096; a device with something between is used in units of 4096.
fn supported_block(asked: u32) -> Result<u32, i32> {
    match asked {
        1..=512 => Ok(512),
        513..=4096 => Ok(4096),
        _ => Err(libc::EOPNOTSUPP),
    }
}

/// `STATX_DIOALIGN`: (alignment of memory, alignment of offsets), if known.
fn direct_io_alignment(file: &File) -> Option<(usize, u32)> {
    let mut answer = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is a NUL-terminated empty string, the answer has room for one statx.
    let code = unsafe {
        libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, answer.as_mut_ptr())
    };
    if code != 0 {
        return None;
    }
    // SAFETY: zeroed above, which is a valid statx, and then filled by the kernel.
    let answer = unsafe { answer.assume_init() };
    let known = answer.stx_mask & libc::STATX_DIOALIGN != 0 && answer.stx_dio_offset_align != 0;
    known.then(|| (usize::try_from(answer.stx_dio_mem_align).unwrap_or(4096).max(1), answer.stx_dio_offset_align))
}

fn block_device_size(file: &File) -> Result<u64, i32> {
    let mut size = 0_u64;
    // SAFETY: BLKGETSIZE64 writes one u64 to the pointer, which is valid for the call.
    if unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64, &raw mut size) } != 0 {
        return Err(last_errno());
    }
    Ok(size)
}

/// What `/sys` says about a block device; a partition has its disk's queue.
pub(super) fn write_cache(opened: &Opened) -> Option<WriteCache> {
    if !opened.geometry.is_block_device {
        return None;
    }
    let number = opened.io.metadata().ok()?.rdev();
    let device = format!("/sys/dev/block/{}:{}", libc::major(number), libc::minor(number));
    let device = std::fs::canonicalize(device).ok()?;
    let queue = [device.join("queue"), device.join("../queue")].into_iter().find(|queue| queue.is_dir())?;
    let says = |file: &str| std::fs::read_to_string(queue.join(file)).map(|text| text.trim().to_owned()).ok();
    Some(WriteCache { volatile: says("write_cache")? != "write through", forced_unit_access: says("fua")? == "1" })
}

/// `fdatasync`; the error is its number.
pub(super) fn sync(opened: &Opened) -> Result<(), i32> {
    #[cfg(test)]
    if let Some(fails) = { opened.failing_sync.lock().take() } {
        return Err(fails());
    }
    // SAFETY: no memory is passed; the descriptor is open as long as `opened`.
    if unsafe { libc::fdatasync(opened.io.as_raw_fd()) } == 0 { Ok(()) } else { Err(last_errno()) }
}

pub(super) fn discard(opened: &Opened, offset: u64, length: u64) -> Result<(), DeviceError> {
    let operation = Operation::Discard;
    let code = if opened.geometry.is_block_device {
        let range = [offset, length];
        // SAFETY: BLKDISCARD reads two u64 from the pointer, which is valid for the call.
        unsafe { libc::ioctl(opened.io.as_raw_fd(), BLKDISCARD, range.as_ptr()) }
    } else {
        let signed = |value| i64::try_from(value).unwrap_or(i64::MAX);
        let how = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: no memory is passed; the descriptor is open.
        unsafe { libc::fallocate(opened.io.as_raw_fd(), how, signed(offset), signed(length)) }
    };
    match code {
        0 => Ok(()),
        _ => match last_errno() {
            libc::EOPNOTSUPP | libc::ENOTTY | libc::ENOSYS => Err(DeviceError::Unsupported { operation }),
            errno => Err(DeviceError::Io { operation, offset, length, errno }),
        },
    }
}
