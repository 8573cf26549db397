//! What a transport calls: one method an operation of the kernel, plain values in, a token for the answer.
//!
//! No transport's types and no wire structs here. A token may be answered later and from any thread; one that is
//! dropped unanswered answers `EIO`. [`crate::dispatch::Dispatcher`] is the implementation, a transport is the caller.
//!
//! Names and data are borrowed from the transport's buffer: whoever parks a request copies what it needs.

use crate::token::{
    AttributesToken, CreateToken, DataToken, DirectoryPlusToken, DirectoryToken, EmptyToken, EntryToken, IoctlToken,
    OpenToken, SeekToken, StatfsToken, WriteToken, XattrToken,
};
use envoyfs_namespace::api::{Attributes, InodeId, SetAttributes};

/// Who sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// File system user.
    pub uid: u32,
    /// File system group.
    pub gid: u32,
    /// Thread, in the daemon's pid namespace; 0 when it is not visible there.
    pub pid: u32,
}

/// What a name leads to; the kernel caches it until it is told otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// This inode, whose lookup count the answer raises.
    Inode(Attributes),
    /// Nothing.
    Nothing,
}

/// How the kernel treats an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// Through the page cache, which survives the open.
    KeepCache,
    /// The caller asked for `O_DIRECT`: past the page cache, writers in parallel.
    Direct,
}

/// An open request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenMode {
    /// The file will be written through this handle.
    pub write: bool,
    /// Its old contents go.
    pub truncate: bool,
    /// It must not exist yet.
    pub exclusive: bool,
    /// The caller asked for direct IO.
    pub direct: bool,
}

impl OpenMode {
    /// From the flags of open(2).
    #[must_use]
    pub const fn from_flags(flags: i32) -> Self {
        Self {
            write: flags & libc::O_ACCMODE != libc::O_RDONLY,
            truncate: flags & libc::O_TRUNC != 0,
            exclusive: flags & libc::O_EXCL != 0,
            direct: flags & libc::O_DIRECT != 0,
        }
    }

    /// What the kernel is told.
    #[must_use]
    pub const fn caching(self) -> Caching {
        if self.direct { Caching::Direct } else { Caching::KeepCache }
    }
}

/// What a write asks for besides its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteMode {
    /// The caller lost the right to keep set-user-id and set-group-id bits.
    pub kill_suid: bool,
    /// The answer must wait until the data is durable, because the kernel sends no fsync after this write.
    pub durable: bool,
}

impl WriteMode {
    /// From the flags of the open file. After a buffered synchronous write the kernel sends an fsync by itself; after a
    /// direct one it leaves that to us.
    #[must_use]
    pub const fn from_flags(flags: i32, kill_suid: bool) -> Self {
        Self { kill_suid, durable: flags & libc::O_DIRECT != 0 && flags & libc::O_DSYNC != 0 }
    }
}

/// Sizes that `statfs` shows. Blocks are of 4096 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statfs {
    /// Blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Blocks that a writer may still use.
    pub available: u64,
    /// Inodes in use and possible.
    pub files: u64,
    /// Inodes that may still be made.
    pub files_free: u64,
}

/// A copy inside the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyRange {
    /// Read from here,
    pub source: InodeId,
    /// at this offset.
    pub source_offset: u64,
    /// Written to there,
    pub target: InodeId,
    /// at this offset.
    pub target_offset: u64,
    /// Bytes.
    pub length: u64,
    /// Of copy_file_range(2): none are defined.
    pub flags: u64,
}

/// Operations of the kernel. Permissions have been checked by it (`default_permissions`), except for control commands.
pub trait Front: Send + Sync + 'static {
    /// Name to inode.
    fn lookup(&self, caller: Caller, parent: InodeId, name: &[u8], token: EntryToken);
    /// Lowers lookup counts. Never blocks.
    fn forget(&self, list: &mut dyn Iterator<Item = (InodeId, u64)>);
    /// Attributes.
    fn getattr(&self, caller: Caller, inode: InodeId, token: AttributesToken);
    /// Changes attributes.
    fn setattr(&self, caller: Caller, inode: InodeId, changes: SetAttributes, token: AttributesToken);
    /// Target of a symbolic link.
    fn readlink(&self, caller: Caller, inode: InodeId, token: DataToken);
    /// Makes a regular file, fifo, socket or device; `mode` has its type.
    fn mknod(&self, caller: Caller, parent: InodeId, name: &[u8], mode: u32, device: u32, token: EntryToken);
    /// Makes a directory; in `.snap` a snapshot.
    fn mkdir(&self, caller: Caller, parent: InodeId, name: &[u8], mode: u32, token: EntryToken);
    /// Makes a symbolic link.
    fn symlink(&self, caller: Caller, parent: InodeId, name: &[u8], target: &[u8], token: EntryToken);
    /// Gives a file one more name.
    fn link(&self, caller: Caller, inode: InodeId, parent: InodeId, name: &[u8], token: EntryToken);
    /// Removes a name of a file.
    fn unlink(&self, caller: Caller, parent: InodeId, name: &[u8], token: EmptyToken);
    /// Removes an empty directory, or a snapshot.
    fn rmdir(&self, caller: Caller, parent: InodeId, name: &[u8], token: EmptyToken);
    /// Moves or exchanges; `flags` of renameat2(2).
    fn rename(&self, caller: Caller, from: (InodeId, &[u8]), to: (InodeId, &[u8]), flags: u32, token: EmptyToken);
    /// Opens a file.
    fn open(&self, caller: Caller, inode: InodeId, mode: OpenMode, token: OpenToken);
    /// Makes a file and opens it.
    fn create(
        &self,
        caller: Caller,
        parent: InodeId,
        name: &[u8],
        permissions: u32,
        mode: OpenMode,
        token: CreateToken,
    );
    /// Fills the token's buffer from `offset`.
    fn read(&self, caller: Caller, inode: InodeId, offset: u64, token: DataToken);
    /// Writes all of `data`.
    fn write(&self, caller: Caller, inode: InodeId, offset: u64, data: &[u8], mode: WriteMode, token: WriteToken);
    /// The last descriptor of an open is gone.
    fn release(&self, caller: Caller, inode: InodeId, token: EmptyToken);
    /// Makes everything so far durable; the answer is parked until it is.
    fn fsync(&self, caller: Caller, inode: InodeId, token: EmptyToken);
    /// Names after `cookie`.
    fn readdir(&self, caller: Caller, inode: InodeId, cookie: u64, token: DirectoryToken);
    /// Names after `cookie` with their attributes; raises the lookup count of each that is sent but "." and "..".
    fn readdir_plus(&self, caller: Caller, inode: InodeId, cookie: u64, token: DirectoryPlusToken);
    /// Space.
    fn statfs(&self, caller: Caller, token: StatfsToken);
    /// Value of an extended attribute; `room` 0 asks for its length.
    fn getxattr(&self, caller: Caller, inode: InodeId, name: &[u8], room: u32, token: XattrToken);
    /// Names of the extended attributes; `room` 0 asks for their length.
    fn listxattr(&self, caller: Caller, inode: InodeId, room: u32, token: XattrToken);
    /// Sets an extended attribute; `flags` of setxattr(2).
    fn setxattr(&self, caller: Caller, inode: InodeId, name: &[u8], value: &[u8], flags: i32, token: EmptyToken);
    /// Removes an extended attribute.
    fn removexattr(&self, caller: Caller, inode: InodeId, name: &[u8], token: EmptyToken);
    /// Next data or hole; `whence` of lseek(2).
    fn seek(&self, caller: Caller, inode: InodeId, offset: i64, whence: i32, token: SeekToken);
    /// Copies inside the mount.
    fn copy_range(&self, caller: Caller, range: CopyRange, token: WriteToken);
    /// Reserves space: not offered.
    fn fallocate(&self, caller: Caller, inode: InodeId, token: EmptyToken);
    /// A control command on a directory, see [`crate::control`].
    fn control(&self, caller: Caller, inode: InodeId, command: u32, input: &[u8], token: IoctlToken);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn direct_synchronous_writes_wait_and_buffered_ones_leave_it_to_the_kernels_fsync() {
        assert!(WriteMode::from_flags(libc::O_DIRECT | libc::O_DSYNC, false).durable);
        assert!(WriteMode::from_flags(libc::O_DIRECT | libc::O_SYNC, false).durable);
        assert!(!WriteMode::from_flags(libc::O_SYNC, false).durable);
        assert!(!WriteMode::from_flags(libc::O_DIRECT, true).durable);
    }

    #[test]
    fn open_flags_are_understood() {
        let mode = OpenMode::from_flags(libc::O_RDWR | libc::O_TRUNC | libc::O_DIRECT);
        assert_eq!(mode, OpenMode { write: true, truncate: true, exclusive: false, direct: true });
        assert_eq!(mode.caching(), Caching::Direct);
        assert!(!OpenMode::from_flags(libc::O_RDONLY).write);
        assert_eq!(OpenMode::from_flags(libc::O_WRONLY | libc::O_EXCL).caching(), Caching::KeepCache);
    }
}
