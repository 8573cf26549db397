//! Writes that a process left behind in the kernel when it was killed.
//!
//! The claim of a device ends with the process, its direct writes go on until the device has answered. Whoever writes has a lock on the descriptor
//! that the kernel writes through, and that it keeps for as long: an open file description lock on one byte, which no other program locks.
//! Whoever has the claim and meets the lock waits. An orderly end takes the lock away itself, since the kernel takes rings down in the background.
//!
//! What it does not cover: requests that left this kernel and that it gave up, another host, another node of the same block device, an image that was written through a loop device.

use super::super::DeviceError;
use super::open::{Opened, last_errno};
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Far behind every image's end.
const LOCKED_BYTE: i64 = 0x656e_766f_7966_7300;

/// A minute: twice what Linux gives a disk to answer, so that an error comes back in time too.
const ATTEMPTS: u32 = 6000;
const PAUSE: Duration = Duration::from_millis(10);
/// The kernel takes the rings of a process that has just ended down in less than a second.
const ATTEMPTS_UNTOLD: u32 = 100;

/// The lock, as long as its device is open.
pub(super) struct InFlightLock {
    opened: Arc<Opened>,
}

impl InFlightLock {
    /// Waits until nobody else has it.
    ///
    /// # Errors
    /// [`DeviceError::StillWriting`] after a minute.
    pub(super) fn take(path: &Path, opened: &Arc<Opened>) -> Result<InFlightLock, DeviceError> {
        wait_until_free(path, || lock(&opened.io, libc::F_OFD_SETLK, libc::F_WRLCK))?;
        Ok(InFlightLock { opened: Arc::clone(opened) })
    }
}

impl Drop for InFlightLock {
    fn drop(&mut self) {
        // A ring that was given up has writes in the kernel: they end when they end.
        if !self.opened.gave_up.load(Ordering::Acquire) {
            let _ = lock(&self.opened.io, libc::F_OFD_SETLK, libc::F_UNLCK);
        }
    }
}

/// Waits for the writes that a process left under way on this device or image when it was killed, 60 s at most. For who has opened it exclusively by other means than
/// [`UringDevice`](super::UringDevice), which waits by itself. At once where the file system knows no locks.
///
/// # Errors
/// [`DeviceError::StillWriting`].
pub fn wait_for_writes_in_flight(path: &Path, file: &File) -> Result<(), DeviceError> {
    wait_until_free(path, || lock(file, libc::F_OFD_GETLK, libc::F_RDLCK))
}

fn wait_until_free(path: &Path, is_free: impl Fn() -> bool) -> Result<(), DeviceError> {
    for attempt in 0..ATTEMPTS {
        if is_free() {
            return Ok(());
        }
        #[cfg(test)]
        super::in_flight_tests::refused();
        if attempt == ATTEMPTS_UNTOLD {
            tracing::warn!(path = %path.display(), "waiting for writes of a process that was killed: the device has not answered yet");
        }
        #[expect(clippy::disallowed_methods, reason = "nothing tells when a lock ends that is only asked for")]
        std::thread::sleep(PAUSE);
    }
    Err(DeviceError::StillWriting { path: path.to_path_buf() })
}

/// Whether the lock is free, or was got, or cannot be had here.
fn lock(file: &File, command: i32, kind: i32) -> bool {
    loop {
        let mut asked = libc::flock {
            l_type: i16::try_from(kind).unwrap_or_default(),
            l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
            l_start: LOCKED_BYTE,
            l_len: 1,
            l_pid: 0,
        };
        // SAFETY: the descriptor is open; the kernel reads and writes one flock.
        let code = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut asked) };
        if code == 0 {
            return command != libc::F_OFD_GETLK || i32::from(asked.l_type) == libc::F_UNLCK;
        }
        match last_errno() {
            libc::EINTR => {}
            libc::EAGAIN | libc::EACCES => return false,
            errno => {
                tracing::debug!(errno, "no locks here: writes of a killed process would go unnoticed");
                return true;
            }
        }
    }
}
