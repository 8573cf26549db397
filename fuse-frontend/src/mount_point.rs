//! The mount itself: attached by mount(2) as type `fuse.envoyfs`, or by `fusermount3` for users who may not; detached
//! the same way.
//!
//! Nothing here opens or lists the mounted tree: the daemon must be able to come here while nobody serves it.

use crate::errno::is_not_permitted;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::ffi::{CString, OsString};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use thiserror::Error;

const DEVICE: &str = "/dev/fuse";
const HELPER: &str = "fusermount3";
/// Type of the mount in mountinfo.
pub const MOUNT_TYPE: &str = "fuse.envoyfs";

/// How to mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// Shown as the source: path of the device or image.
    pub source: PathBuf,
    /// Refuse changes.
    pub read_only: bool,
    /// Refuse device files.
    pub no_dev: bool,
    /// Ignore set-id bits.
    pub no_suid: bool,
    /// Refuse to execute.
    pub no_exec: bool,
    /// Do not record reads. Reads are never recorded; this is only shown.
    pub no_atime: bool,
    /// File data is durable when a write returns.
    pub sync: bool,
    /// Other users than the one who mounts may enter.
    pub allow_other: bool,
    /// Threads that serve requests.
    pub threads: usize,
}

/// Why mounting or unmounting failed.
#[derive(Debug, Error)]
pub enum MountError {
    /// `/dev/fuse` cannot be opened.
    #[error("cannot open {DEVICE}: {0} (load the module with 'modprobe fuse'; in a container, pass the device in)")]
    Device(io::Error),
    /// The mount point is no directory, or cannot be reached.
    #[error("mount point {}: {cause}", path.display())]
    MountPoint {
        /// The mount point.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// mount(2) refused.
    #[error("cannot mount on {}: {cause}", path.display())]
    Refused {
        /// The mount point.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The mount needs root, and the helper for other users did not do it.
    #[error("cannot mount as this user: {0}")]
    Helper(String),
    /// The kernel and the daemon did not agree on the protocol.
    #[error("the kernel's FUSE handshake failed: {0}")]
    Handshake(io::Error),
    /// Unmounting failed.
    #[error("cannot unmount {}: {cause}", path.display())]
    Unmount {
        /// The mount point.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Threads could not be started.
    #[error("cannot start threads: {0}")]
    Threads(io::Error),
}

/// How hard to unmount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// Fails when files are open.
    IfIdle,
    /// Ends the connection: whoever has files open gets errors.
    Abort,
}

/// A place where the file system is mounted.
#[derive(Clone, Debug)]
pub struct MountPoint {
    path: PathBuf,
    by_helper: bool,
}

/// Mounts, and returns the descriptor that requests come from. Nobody serves it yet.
///
/// # Errors
/// See [`MountError`].
pub fn attach(path: &Path, options: &MountOptions) -> Result<(MountPoint, OwnedFd), MountError> {
    let at = |cause| MountError::MountPoint { path: path.to_path_buf(), cause };
    let path = path.canonicalize().map_err(at)?;
    if !path.metadata().map_err(at)?.is_dir() {
        return Err(at(io::ErrorKind::NotADirectory.into()));
    }
    match attach_directly(&path, options) {
        Ok(device) => Ok((MountPoint { path, by_helper: false }, device)),
        Err(MountError::Refused { cause, .. } | MountError::Device(cause)) if is_not_permitted(&cause) => {
            let device = attach_by_helper(&path, options)?;
            Ok((MountPoint { path, by_helper: true }, device))
        }
        Err(error) => Err(error),
    }
}

fn attach_directly(path: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let device = std::fs::OpenOptions::new().read(true).write(true).open(DEVICE).map_err(MountError::Device)?;
    let refused = |cause: io::Error| MountError::Refused { path: path.to_path_buf(), cause };
    let data = kernel_data(device.as_raw_fd(), options);
    let data = CString::new(data).map_err(|_| refused(io::ErrorKind::InvalidInput.into()))?;
    let flags = mount_flags(options);
    mount(&options.source, path, MOUNT_TYPE, flags, Some(data.as_c_str())).map_err(|errno| refused(errno.into()))?;
    Ok(device.into())
}

fn kernel_data(device: i32, options: &MountOptions) -> String {
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let allow_other = if options.allow_other { ",allow_other" } else { "" };
    format!("fd={device},rootmode=40000,user_id={user},group_id={group},default_permissions{allow_other}")
}

fn mount_flags(options: &MountOptions) -> MountFlags {
    [
        (options.read_only, MountFlags::RDONLY),
        (options.no_dev, MountFlags::NODEV),
        (options.no_suid, MountFlags::NOSUID),
        (options.no_exec, MountFlags::NOEXEC),
        (options.no_atime, MountFlags::NOATIME),
        (options.sync, MountFlags::SYNCHRONOUS),
    ]
    .into_iter()
    .filter_map(|(is_set, flag)| is_set.then_some(flag))
    .collect()
}

fn helper_options(options: &MountOptions) -> OsString {
    let mut list = b"subtype=envoyfs,default_permissions,fsname=".to_vec();
    for &byte in options.source.as_os_str().as_bytes() {
        // The helper splits at commas, and takes a backslash before one.
        if byte == b',' || byte == b'\\' {
            list.push(b'\\');
        }
        list.push(byte);
    }
    for (is_set, name) in [
        (options.read_only, &b",ro"[..]),
        (options.no_exec, b",noexec"),
        (options.no_atime, b",noatime"),
        (options.sync, b",sync"),
        (options.allow_other, b",allow_other"),
    ] {
        if is_set {
            list.extend_from_slice(name);
        }
    }
    OsString::from_vec(list)
}

/// The helper is set-user-id root; it mounts and sends the descriptor back over a socket.
fn attach_by_helper(path: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let failed = |what: String| MountError::Helper(what);
    let (ours, theirs) = UnixStream::pair().map_err(MountError::Threads)?;
    fcntl_setfd(&theirs, FdFlags::empty()).map_err(|errno| failed(format!("passing a socket: {errno}")))?;
    let mut command = Command::new(HELPER);
    command.arg("-o").arg(helper_options(options)).arg("--").arg(path);
    command.env("_FUSE_COMMFD", theirs.as_raw_fd().to_string()).stdin(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|error| {
        failed(format!("{HELPER} cannot be started: {error} (mount as root, or install the package 'fuse3')"))
    })?;
    drop(theirs);
    let device = receive_descriptor(&ours);
    let output = child.wait_with_output().map_err(|error| failed(format!("{HELPER}: {error}")))?;
    match device {
        Some(device) if output.status.success() => Ok(device),
        _ => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

fn receive_descriptor(socket: &UnixStream) -> Option<OwnedFd> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut iov = [IoSliceMut::new(&mut byte)];
    recvmsg(socket, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
    control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    })
}

impl MountPoint {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts. Requests are served meanwhile.
    ///
    /// # Errors
    /// [`MountError::Unmount`], for [`Force::IfIdle`] also when it is busy.
    pub fn detach(&self, force: Force) -> Result<(), MountError> {
        if self.by_helper {
            return detach_by_helper(&self.path, force);
        }
        match force {
            Force::IfIdle => detach_directly(&self.path, UnmountFlags::empty()),
            Force::Abort => {
                // Aborts the connection, even when it then says that the mount is busy.
                drop(detach_directly(&self.path, UnmountFlags::FORCE));
                detach_directly(&self.path, UnmountFlags::DETACH)
            }
        }
    }
}

/// Unmounts a path, as root or else by the helper.
///
/// # Errors
/// [`MountError::Unmount`], also when it is busy.
pub fn detach(path: &Path) -> Result<(), MountError> {
    match detach_directly(path, UnmountFlags::empty()) {
        Err(MountError::Unmount { cause, .. }) if is_not_permitted(&cause) => detach_by_helper(path, Force::IfIdle),
        result => result,
    }
}

fn detach_directly(path: &Path, flags: UnmountFlags) -> Result<(), MountError> {
    unmount(path, flags | UnmountFlags::NOFOLLOW)
        .map_err(|errno| MountError::Unmount { path: path.to_path_buf(), cause: errno.into() })
}

fn detach_by_helper(path: &Path, force: Force) -> Result<(), MountError> {
    let failed = |cause| MountError::Unmount { path: path.to_path_buf(), cause };
    let mut command = Command::new(HELPER);
    command.arg("-u").stdin(Stdio::null());
    if force == Force::Abort {
        command.arg("-z");
    }
    let output = command.arg("--").arg(path).output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let kind = if said.contains("busy") { io::ErrorKind::ResourceBusy } else { io::ErrorKind::Other };
    Err(failed(io::Error::new(kind, said)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> MountOptions {
        MountOptions {
            source: PathBuf::from("/a,b\\c"),
            read_only: true,
            no_dev: true,
            no_suid: false,
            no_exec: false,
            no_atime: false,
            sync: false,
            allow_other: true,
            threads: 2,
        }
    }

    #[test]
    fn the_kernel_checks_permissions_whatever_the_options_are() {
        let data = kernel_data(7, &options());
        assert!(data.starts_with("fd=7,rootmode=40000,user_id="), "{data}");
        assert!(data.ends_with(",default_permissions,allow_other"), "{data}");
        let data = kernel_data(7, &MountOptions { allow_other: false, ..options() });
        assert!(data.ends_with(",default_permissions"), "{data}");
    }

    #[test]
    fn flags_follow_the_options() {
        assert_eq!(mount_flags(&options()), MountFlags::RDONLY | MountFlags::NODEV);
    }

    #[test]
    fn commas_in_the_source_do_not_end_an_option_of_the_helper() {
        let list = helper_options(&options());
        assert_eq!(list.as_bytes(), br"subtype=envoyfs,default_permissions,fsname=/a\,b\\c,ro,allow_other");
    }

    #[test]
    fn a_mount_point_must_be_a_directory() {
        let error = attach(Path::new("/dev/null"), &options()).unwrap_err();
        assert!(matches!(error, MountError::MountPoint { .. }), "{error}");
        let error = attach(Path::new("/nowhere/at/all"), &options()).unwrap_err();
        assert!(matches!(error, MountError::MountPoint { .. }), "{error}");
    }
}
