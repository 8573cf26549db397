//! What front ends see: identities, attributes, requests and errors. No FUSE, no devices; errno lives in the front ends.

use envoyfs_engine::StoreError;
use envoyfs_engine::store::Origin;
use thiserror::Error;

/// Identity of a live inode in a mount: realm index 24 bits, number 40 bits; what `st_ino` shows. The view's root is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeId(pub u64);

impl InodeId {
    /// Root directory of the view.
    pub const ROOT: Self = Self(1);
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What every operation is told besides its arguments.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// Territory that the caller believes responsible; 1 on one host.
    pub territory: u64,
    /// Set when the request was forwarded by another host and must take effect exactly once.
    pub origin: Option<Origin>,
    /// Caller.
    pub credentials: Credentials,
    /// Largest HLC the caller has seen (0 for local callers); the clock is moved past it.
    pub observed_hlc: u64,
}

impl Context {
    /// A local caller.
    #[must_use]
    pub const fn local(uid: u32, gid: u32) -> Self {
        Self { territory: 1, origin: None, credentials: Credentials { uid, gid }, observed_hlc: 0 }
    }
}

/// Seconds and nanoseconds since 1970; seconds may be negative, nanoseconds are 0..1e9 and always count forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Time {
    /// Seconds.
    pub seconds: i64,
    /// Nanoseconds.
    pub nanoseconds: u32,
}

/// Type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileType {
    /// Regular file.
    Regular,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

/// Attributes, as `stat` shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Identity.
    pub id: InodeId,
    /// (id, generation) is unique over time.
    pub generation: u32,
    /// Type.
    pub file_type: FileType,
    /// Permission bits, 0..=0o7777.
    pub permissions: u16,
    /// Names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device.
    pub rdev: u32,
    /// Bytes.
    pub size: u64,
    /// Allocated bytes.
    pub allocated: u64,
    /// Access time.
    pub atime: Time,
    /// Time of the last change of contents.
    pub mtime: Time,
    /// Time of the last change of attributes.
    pub ctime: Time,
    /// Time of creation.
    pub btime: Time,
}

/// New attributes; `None` keeps the old value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttributes {
    /// Permission bits.
    pub permissions: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes: truncates or extends.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Time of the last change of contents.
    pub mtime: Option<SetTime>,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The store's clock.
    Now,
    /// A given time.
    At(Time),
}

/// What to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Make<'a> {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link to this target.
    Symlink(&'a [u8]),
    /// Fifo, socket or device.
    Special(FileType, u32),
}

/// One name of a directory listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Name.
    pub name: Vec<u8>,
    /// Identity.
    pub id: InodeId,
    /// Type.
    pub file_type: FileType,
    /// Where the next listing starts; unique in the directory, stable under insert and delete. "." is 1, ".." is 2, names are >= 16.
    pub cookie: u64,
}

/// How a rename treats an existing target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// Replaces it.
    Replace,
    /// Fails with `Exists`.
    NoReplace,
    /// Swaps the two.
    Exchange,
}

/// How setxattr treats an existing attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    /// Creates or replaces.
    Any,
    /// Fails with `Exists`.
    Create,
    /// Fails with `NoAttribute`.
    Replace,
}

/// Space, as `statfs` shows it. Bytes and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes in all.
    pub capacity: u64,
    /// Free bytes.
    pub free: u64,
    /// Bytes that a writer may still use.
    pub available: u64,
    /// Files and directories there are.
    pub files: u64,
}

/// Totals of a subtree (INV-27): what `du` would find, in O(1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Allocated bytes.
    pub bytes: u64,
    /// Files.
    pub files: u64,
    /// Directories below.
    pub directories: u64,
    /// Names of files with several names.
    pub links: u64,
}

/// Why an operation failed. Front ends map this to their own codes.
#[derive(Clone, Debug, Error)]
pub enum Error {
    /// ENOENT.
    #[error("no such file or directory")]
    NotFound,
    /// EEXIST.
    #[error("already exists")]
    Exists,
    /// ENOTDIR.
    #[error("not a directory")]
    NotDirectory,
    /// EISDIR.
    #[error("is a directory")]
    IsDirectory,
    /// ENOTEMPTY: has entries, or snapshots.
    #[error("directory is not empty: {0}")]
    NotEmpty(&'static str),
    /// EINVAL.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// ENAMETOOLONG.
    #[error("name is longer than 255 bytes")]
    NameTooLong,
    /// EFBIG.
    #[error("file is too large")]
    FileTooLarge,
    /// EMLINK.
    #[error("too many links")]
    TooManyLinks,
    /// EPERM.
    #[error("not permitted: {0}")]
    NotPermitted(&'static str),
    /// EROFS.
    #[error("read-only: {0}")]
    ReadOnly(String),
    /// EXDEV: would cross a border that this version does not cross.
    #[error("crosses a border: {0}")]
    CrossRealm(&'static str),
    /// EOPNOTSUPP.
    #[error("not supported: {0}")]
    NotSupported(&'static str),
    /// ENODATA.
    #[error("no such attribute")]
    NoAttribute,
    /// ERANGE / E2BIG.
    #[error("attribute is too large")]
    AttributeTooLarge,
    /// ESTALE: the inode is not known any more.
    #[error("stale inode")]
    Stale,
    /// ENOSPC.
    #[error("no space left on the store")]
    NoSpace,
    /// ENXIO: no data or hole there.
    #[error("offset is beyond the end")]
    BeyondEnd,
    /// EIO, with what the store said.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoSpace { .. } | StoreError::UsedUp { .. } => Self::NoSpace,
            StoreError::ReadOnly { why } => Self::ReadOnly(why),
            other => Self::Store(other),
        }
    }
}

/// Result of a namespace operation.
pub type Result<T> = std::result::Result<T, Error>;
