//! The calling side of the control commands, for the command line tools.

use super::{
    DELETE, Delete, FORK, Fork, PASS, Pass, STATUS, STATUS_MAGIC, SYNC, Status, TEXT, TextPage, UNMOUNT_PREPARE,
};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use zerocopy::{FromZeros as _, IntoBytes as _};

/// Clones the file or directory with inode number `source`, which the caller holds open, to `name` in `directory`.
///
/// # Errors
/// What the ioctl says; `InvalidInput` for a name that is empty or too long.
pub fn fork(directory: impl AsFd, source: u64, name: &[u8]) -> io::Result<()> {
    let mut request = Fork::new(source, name).ok_or(io::ErrorKind::InvalidInput)?;
    issue(directory, FORK, request.as_mut_bytes())
}

/// Deletes the directory `name` in `directory` with everything in it.
///
/// # Errors
/// What the ioctl says; `InvalidInput` for a name that is empty or too long.
pub fn delete(directory: impl AsFd, name: &[u8]) -> io::Result<()> {
    let mut request = Delete::new(name).ok_or(io::ErrorKind::InvalidInput)?;
    issue(directory, DELETE, request.as_mut_bytes())
}

/// Waits until everything done before is durable.
///
/// # Errors
/// What the ioctl says.
pub fn sync(directory: impl AsFd) -> io::Result<()> {
    issue(directory, SYNC, &mut [])
}

/// Sync and checkpoint.
///
/// # Errors
/// What the ioctl says.
pub fn unmount_prepare(directory: impl AsFd) -> io::Result<()> {
    issue(directory, UNMOUNT_PREPARE, &mut [])
}

/// About the mount and the directory. `None` when the directory is on some other file system.
///
/// # Errors
/// What the ioctl says.
pub fn status(directory: impl AsFd) -> io::Result<Option<Status>> {
    let mut status = Status::new_zeroed();
    match issue(directory, STATUS, status.as_mut_bytes()) {
        Ok(()) if status.magic == STATUS_MAGIC => Ok(Some(status)),
        Ok(()) => Ok(None),
        Err(error) if crate::errno::is_unknown_command(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Starts or stops a pass over the whole store, or asks how it is.
///
/// # Errors
/// What the ioctl says: EBUSY if one of its kind runs already.
pub fn pass(directory: impl AsFd, mut request: Pass) -> io::Result<Pass> {
    issue(directory, PASS, request.as_mut_bytes())?;
    Ok(request)
}

/// A text about the store; see [`super::text_kind`].
///
/// # Errors
/// What the ioctl says; `Interrupted` when others ask all the time.
pub fn text(directory: impl AsFd, kind: u16) -> io::Result<Vec<u8>> {
    'text: for _ in 0..100 {
        let mut text: Vec<u8> = Vec::new();
        let mut page = TextPage::new_zeroed();
        page.kind.set(kind);
        loop {
            match issue(&directory, TEXT, page.as_mut_bytes()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue 'text,
                result => result?,
            }
            let part = page.part.get(..usize::from(page.part_bytes.get())).unwrap_or_default();
            text.extend_from_slice(part);
            let total = usize::try_from(page.total_bytes.get()).unwrap_or(usize::MAX);
            if text.len() >= total || part.is_empty() {
                return Ok(text);
            }
            page.offset.set(u32::try_from(text.len()).unwrap_or(u32::MAX));
        }
    }
    Err(io::ErrorKind::Interrupted.into())
}

/// `argument` is at least as long as the size that the command number encodes.
fn issue(directory: impl AsFd, command: u32, argument: &mut [u8]) -> io::Result<()> {
    assert!(argument.len() >= (command as usize >> 16) & 0x3FFF, "the kernel copies as much as the number says");
    // SAFETY: the descriptor is borrowed for the call. The kernel reads and writes at most the size encoded in the
    // command number, which the assertion above holds against the slice. Other file systems refuse numbers of this
    // group.
    let code = unsafe { libc::ioctl(directory.as_fd().as_raw_fd(), command.into(), argument.as_mut_ptr()) };
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
