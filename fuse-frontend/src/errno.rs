//! The only place that knows error numbers: what the namespace says becomes what the kernel understands.
//!
//! Also where damage and device failures are logged, because callers see no more than `EIO`.

use envoyfs_namespace::api::Error;

/// A positive error number of Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(i32);

impl Errno {
    /// Operation not permitted.
    pub const EPERM: Self = Self(libc::EPERM);
    /// No such file or directory.
    pub const ENOENT: Self = Self(libc::ENOENT);
    /// Input or output error.
    pub const EIO: Self = Self(libc::EIO);
    /// Permission denied.
    pub const EACCES: Self = Self(libc::EACCES);
    /// Already exists.
    pub const EEXIST: Self = Self(libc::EEXIST);
    /// Not a directory.
    pub const ENOTDIR: Self = Self(libc::ENOTDIR);
    /// Invalid argument.
    pub const EINVAL: Self = Self(libc::EINVAL);
    /// Result does not fit into the caller's buffer.
    pub const ERANGE: Self = Self(libc::ERANGE);
    /// No such control command.
    pub const ENOTTY: Self = Self(libc::ENOTTY);
    /// The name means something else by now: the kernel looks it up again.
    pub const ESTALE: Self = Self(libc::ESTALE);
    /// Somebody else is at it.
    pub const EBUSY: Self = Self(libc::EBUSY);
    /// Out of memory or threads.
    pub const ENOMEM: Self = Self(libc::ENOMEM);
    /// What was asked for is not there any more: ask anew.
    pub const EAGAIN: Self = Self(libc::EAGAIN);
    /// Not supported for this file.
    pub const EOPNOTSUPP: Self = Self(libc::EOPNOTSUPP);
    /// Not implemented. The kernel remembers this for the life of the mount and never asks again.
    pub const ENOSYS: Self = Self(libc::ENOSYS);

    /// The number.
    #[must_use]
    pub const fn code(self) -> i32 {
        self.0
    }
}

impl From<Error> for Errno {
    fn from(error: Error) -> Self {
        Self(match error {
            Error::NotFound => libc::ENOENT,
            Error::Exists => libc::EEXIST,
            Error::NotDirectory => libc::ENOTDIR,
            Error::IsDirectory => libc::EISDIR,
            Error::NotEmpty(_) => libc::ENOTEMPTY,
            Error::Invalid(_) => libc::EINVAL,
            Error::NameTooLong => libc::ENAMETOOLONG,
            Error::FileTooLarge => libc::EFBIG,
            Error::TooManyLinks => libc::EMLINK,
            Error::NotPermitted(_) => libc::EPERM,
            Error::ReadOnly(_) => libc::EROFS,
            Error::CrossRealm(_) => libc::EXDEV,
            Error::NotSupported(_) => libc::EOPNOTSUPP,
            Error::NoAttribute => libc::ENODATA,
            Error::AttributeTooLarge => libc::E2BIG,
            Error::Stale => libc::ESTALE,
            Error::NoSpace => libc::ENOSPC,
            Error::BeyondEnd => libc::ENXIO,
            Error::Store(error) => {
                tracing::error!(%error, "the store failed a request; the caller got EIO");
                libc::EIO
            }
        })
    }
}

/// Whether an error of the FUSE device means that the mount is gone: unmounted or aborted.
#[must_use]
pub fn is_unmounted(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ECONNABORTED | libc::ENOTCONN))
}

/// Whether a system call was refused for want of rights, so that a privileged helper may be asked.
#[must_use]
pub fn is_not_permitted(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES))
}

/// Whether a control command was refused because the file is not on an envoyfs mount.
#[must_use]
pub fn is_unknown_command(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP))
}

#[cfg(test)]
mod tests {
    use super::*;
    use envoyfs_engine::StoreError;

    #[test]
    fn namespace_errors_have_their_posix_numbers() {
        let table: Vec<(Error, i32)> = vec![
            (Error::NotFound, libc::ENOENT),
            (Error::Exists, libc::EEXIST),
            (Error::NotDirectory, libc::ENOTDIR),
            (Error::IsDirectory, libc::EISDIR),
            (Error::NotEmpty("x"), libc::ENOTEMPTY),
            (Error::Invalid("x"), libc::EINVAL),
            (Error::NameTooLong, libc::ENAMETOOLONG),
            (Error::FileTooLarge, libc::EFBIG),
            (Error::TooManyLinks, libc::EMLINK),
            (Error::NotPermitted("x"), libc::EPERM),
            (Error::ReadOnly("x".into()), libc::EROFS),
            (Error::CrossRealm("x"), libc::EXDEV),
            (Error::NotSupported("x"), libc::EOPNOTSUPP),
            (Error::NoAttribute, libc::ENODATA),
            (Error::AttributeTooLarge, libc::E2BIG),
            (Error::Stale, libc::ESTALE),
            (Error::NoSpace, libc::ENOSPC),
            (Error::BeyondEnd, libc::ENXIO),
        ];
        for (error, number) in table {
            assert_eq!(Errno::from(error.clone()).code(), number, "{error}");
        }
    }

    #[test]
    fn failures_of_the_store_are_told_apart_from_a_full_and_a_read_only_one() {
        let full = StoreError::NoSpace { available: 0, needed: 1 };
        assert_eq!(Errno::from(Error::from(full)).code(), libc::ENOSPC);
        assert_eq!(Errno::from(Error::from(StoreError::ReadOnly { why: "asked".into() })).code(), libc::EROFS);
        assert_eq!(Errno::from(Error::from(StoreError::Poisoned { why: "flush".into() })).code(), libc::EIO);
    }
}
