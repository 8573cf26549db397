//! Opening what control commands are issued on, and saying in words what they answer.

use super::failure::Failure;
use anyhow::{Context as _, Error, Result, anyhow};
use envoyfs_fuse::control::{Status, client};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// A directory of a mounted store.
pub struct Directory {
    /// For control commands.
    pub descriptor: OwnedFd,
    /// What the daemon says about itself and the directory.
    pub status: Status,
}

/// Opens a directory and makes sure that it is on an envoyfs mount.
pub fn open_directory(path: &Path) -> Result<Directory> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let descriptor = open(path, flags, Mode::empty()).map_err(|errno| unreachable_path(path, errno))?;
    let status = client::status(&descriptor).with_context(|| format!("asking the daemon about {}", path.display()))?;
    let status = status.ok_or_else(|| Failure::NotEnvoyfs(path.to_path_buf()))?;
    Ok(Directory { descriptor, status })
}

/// Opens a file or directory only to hold on to it; needs no permission on itself.
pub fn open_reference(path: &Path) -> Result<OwnedFd> {
    open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| unreachable_path(path, errno))
}

/// Why a path could not be opened.
pub fn unreachable_path(path: &Path, errno: Errno) -> Error {
    let shown = path.display();
    match errno {
        Errno::NOTCONN | Errno::CONNABORTED => {
            anyhow!("{shown}: the daemon of this mount is gone; unmount it with 'envoyfs umount' and mount it again")
        }
        Errno::ACCESS | Errno::PERM => Failure::Denied(format!("{shown}: permission denied")).into(),
        _ => anyhow!(io::Error::from(errno)).context(shown.to_string()),
    }
}

/// The directory that a new or existing name is in, and the name.
pub fn split(path: &Path) -> Result<(PathBuf, &[u8])> {
    use std::os::unix::ffi::OsStrExt as _;
    let name = path.file_name().with_context(|| format!("{} does not end in a name", path.display()))?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    Ok((parent, name.as_bytes()))
}

/// What an answer to a control command means, for errors that every command can give.
pub fn explain(what: String, error: io::Error) -> Error {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let why = match errno {
        Some(Errno::PERM) => return Failure::Denied(format!("{what}: only its owner and root may do this")).into(),
        Some(Errno::ACCESS) => {
            return Failure::Denied(format!("{what}: no permission to change the directory it is in")).into();
        }
        Some(Errno::EXIST) => "the name is taken",
        Some(Errno::XDEV) => "it holds forks, or hard links that leave it, which this version cannot carry along",
        Some(Errno::ROFS) => "the store or the place is read-only",
        Some(Errno::NOSPC) => "the store is full; delete something (envoyfs status shows the space)",
        Some(Errno::IO) => "the store failed; the daemon's log says why, envoyfs status whether it still takes writes",
        _ => return anyhow!(error).context(what),
    };
    anyhow!("{what}: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_into_directory_and_name() {
        assert_eq!(split(Path::new("a")).unwrap(), (PathBuf::from("."), &b"a"[..]));
        assert_eq!(split(Path::new("/m/b/")).unwrap(), (PathBuf::from("/m"), &b"b"[..]));
        assert!(split(Path::new("/")).is_err());
        assert!(split(Path::new("a/..")).is_err());
    }

    #[test]
    fn refusals_have_their_own_exit_status() {
        let error = explain("x".into(), Errno::PERM.into());
        assert_eq!(super::super::exit_code(&error), 5);
        assert_eq!(super::super::exit_code(&explain("x".into(), Errno::NOSPC.into())), 1);
    }
}
