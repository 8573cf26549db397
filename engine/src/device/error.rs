//! What can go wrong between the engine and a device: what was tried, where, and what the system said.

use std::path::PathBuf;

/// The request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Opening, locking or asking for the geometry.
    Open,
    /// A read.
    Read,
    /// A write.
    Write,
    /// A barrier.
    Flush,
    /// A discard.
    Discard,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Operation::Open => "open",
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Flush => "flush",
            Operation::Discard => "discard",
        })
    }
}

/// A failure of a device. Offsets and lengths are bytes. Cheap to clone, since every holder of a
/// [`Ticket`](super::Ticket) receives it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The path cannot be opened, or is neither a block device nor a regular file.
    #[error("cannot open {}: {what}: {}", path.display(), reason(*errno))]
    Open {
        /// What was opened.
        path: PathBuf,
        /// Which step failed.
        what: &'static str,
        /// The system's error number.
        errno: i32,
    },
    /// Somebody else holds the device or image exclusively (another mount, a file system, swap).
    #[error("{} is in use by another process or mount", path.display())]
    InUse {
        /// What was opened.
        path: PathBuf,
    },
    /// A process that was killed left writes that the device has not answered for a minute.
    #[error(
        "{} still has writes of a process that was killed, and does not answer them: see dmesg, and try again when it does",
        path.display()
    )]
    StillWriting {
        /// What was opened.
        path: PathBuf,
    },
    /// `io_uring` cannot be used here.
    #[error("io_uring is not available ({}); {hint}", reason(*errno))]
    UringUnavailable {
        /// The system's error number.
        errno: i32,
        /// What the administrator can change.
        hint: &'static str,
    },
    /// A write, flush or discard on a device that was opened read-only.
    #[error("{operation} refused: the device is open read-only")]
    ReadOnly {
        /// The request.
        operation: Operation,
    },
    /// Offset, length or position in the buffer is not a multiple of the block.
    #[error("{operation} at {offset} of {length} bytes is not aligned to {alignment}")]
    Unaligned {
        /// The request.
        operation: Operation,
        /// Offset on the device.
        offset: u64,
        /// Length.
        length: u64,
        /// What it must be a multiple of.
        alignment: u64,
    },
    /// The range passes the end of its buffer: a fault of the caller.
    #[error("{operation} at {offset}: range {start}..{end} is not inside its buffer of {length} bytes")]
    OutsideBuffer {
        /// The request.
        operation: Operation,
        /// Offset on the device.
        offset: u64,
        /// Start of the range in the buffer.
        start: u64,
        /// End of the range in the buffer.
        end: u64,
        /// Length of the buffer.
        length: u64,
    },
    /// The range passes the end of the device, or the device ended early.
    #[error("{operation} at {offset} of {length} bytes passes the end of the device ({size} bytes)")]
    ShortDevice {
        /// The request.
        operation: Operation,
        /// Offset on the device.
        offset: u64,
        /// Length.
        length: u64,
        /// Bytes that the device holds (or delivered up to).
        size: u64,
    },
    /// The system reported an error.
    #[error("{operation} at {offset} of {length} bytes failed: {}", reason(*errno))]
    Io {
        /// The request.
        operation: Operation,
        /// Offset on the device.
        offset: u64,
        /// Length.
        length: u64,
        /// The system's error number.
        errno: i32,
    },
    /// The device or file system below does not offer this request.
    #[error("{operation} is not supported by the device")]
    Unsupported {
        /// The request.
        operation: Operation,
    },
    /// An earlier flush failed: nothing may be written or acknowledged any more (INV-33).
    #[error("{operation} refused: an earlier flush failed, what it covered may be lost")]
    Poisoned {
        /// The request.
        operation: Operation,
    },
    /// The simulated machine has lost power.
    #[error("the simulated machine has crashed")]
    Crashed,
    /// The device was closed before the request was done.
    #[error("the device was closed")]
    Closed,
}

impl DeviceError {
    /// Whether a caller that only gives a hint (discard) may ignore this.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(self, DeviceError::Unsupported { .. })
    }

    /// The system does not know what was asked for, and has not tried: nothing was written, and no report of a lost write was used up.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self.errno(), Some(libc::EOPNOTSUPP | libc::EINVAL)) || self.is_unsupported()
    }

    /// The system's error number, where there is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            DeviceError::Open { errno, .. }
            | DeviceError::UringUnavailable { errno, .. }
            | DeviceError::Io { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

fn reason(errno: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno)
}
