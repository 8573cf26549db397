//! The `fuser` crate as a transport: its threads read `/dev/fuse`, this adapter turns its types into plain values.
//!
//! Known limits of it: no O_TMPFILE and no birth time (operations it does not know), and interrupts are not passed on.

pub(crate) mod reply;

use crate::errno::is_unmounted;
use crate::front::{Caller, CopyRange, Front, OpenMode, WriteMode};
use crate::notifier::KernelCaches;
use crate::pool::Pool;
use crate::token::{
    AttributesToken, CreateToken, DataToken, DirectoryPlusToken, DirectoryToken, EmptyToken, EntryToken, IoctlToken,
    OpenToken, SeekToken, StatfsToken, WriteToken, XattrToken,
};
use envoyfs_namespace::api::{InodeId, SetAttributes, SetTime, Time};
use fuser::{
    BsdFileFlags, Config, CopyFileRangeFlags, Errno, FileHandle, Filesystem, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, Request, SessionACL, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// Largest read or write request, bytes; the kernel's own limit.
pub const REQUEST_BYTES_MAX: u32 = 1 << 20;
/// Requests like readahead that the kernel sends ahead of need.
const BACKGROUND_REQUESTS_MAX: u16 = 64;

/// Asked for where the kernel offers it; why each: FUSE guide, section 4. Not asked for: what this transport cannot
/// honour (`SETXATTR_EXT` and others), the writeback cache, access control lists, and locks (the kernel's own are right
/// for one host).
///
/// `HANDLE_KILLPRIV_V2` leaves clearing set-id bits to us and saves a request before every write. `fuser` passes the
/// kernel's signal for writes only; for the others the dispatcher derives it from the operation and the caller.
const WANTED: InitFlags = InitFlags::FUSE_PARALLEL_DIROPS
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
    .union(InitFlags::FUSE_ASYNC_DIO)
    .union(InitFlags::FUSE_ATOMIC_O_TRUNC)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_EXPLICIT_INVAL_DATA)
    .union(InitFlags::FUSE_NO_OPENDIR_SUPPORT)
    .union(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP)
    .union(InitFlags::FUSE_HANDLE_KILLPRIV_V2)
    .union(InitFlags::FUSE_HAS_IOCTL_DIR)
    .union(InitFlags::FUSE_NO_EXPORT_SUPPORT)
    .union(InitFlags::FUSE_ABORT_ERROR);

/// A connection whose handshake is done.
pub struct Session {
    session: fuser::Session<Adapter>,
}

impl Session {
    /// Answers the kernel's first request on a mounted `/dev/fuse` descriptor. Waits for it.
    ///
    /// # Errors
    /// The mount was taken back, or the kernel speaks an unknown version.
    pub fn start(device: OwnedFd, front: Arc<dyn Front>, threads: usize) -> io::Result<Self> {
        let threads = threads.max(1);
        let mut config = Config::default();
        // The kernel keeps strangers out where the mount has no allow_other.
        config.acl = SessionACL::All;
        config.n_threads = Some(threads);
        // A clone is opened anew, which a user whose mount a helper made may not be allowed to.
        let may_clone = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok();
        config.clone_fd = threads > 1 && may_clone;
        let adapter = Adapter { front, pool: Pool::new(threads * 2) };
        Ok(Self { session: fuser::Session::from_fd(adapter, device, SessionACL::All, config)? })
    }

    /// For the notifier.
    #[must_use]
    pub fn caches(&self) -> impl KernelCaches + use<> {
        self.session.notifier()
    }

    /// Serves requests until the mount is gone.
    ///
    /// # Errors
    /// The device failed otherwise than by an unmount or abort.
    pub fn serve(self) -> io::Result<()> {
        match self.session.run() {
            Err(error) if !is_unmounted(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

impl KernelCaches for fuser::Notifier {
    fn forget_entry(&self, parent: InodeId, name: &[u8]) -> io::Result<()> {
        self.inval_entry(INodeNo(parent.0), OsStr::from_bytes(name))
    }

    fn forget_inode(&self, inode: InodeId) -> io::Result<()> {
        self.inval_inode(INodeNo(inode.0), 0, 0)
    }

    fn deleted(&self, parent: InodeId, child: InodeId, name: &[u8]) -> io::Result<()> {
        self.delete(INodeNo(parent.0), INodeNo(child.0), OsStr::from_bytes(name))
    }
}

struct Adapter {
    front: Arc<dyn Front>,
    pool: Pool,
}

fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}

fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(time_sent(time)),
    }
}

/// The time that the kernel sent. `fuser` 0.18 makes of (-s, ns) the moment s seconds *and* ns before 1970, where ns
/// counts forward; taken apart the same way, both come back.
fn time_sent(time: SystemTime) -> Time {
    let seconds = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => Time { seconds: seconds(after.as_secs()), nanoseconds: after.subsec_nanos() },
        Err(before) => {
            let before = before.duration();
            Time { seconds: -seconds(before.as_secs()), nanoseconds: before.subsec_nanos() }
        }
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let granted = WANTED & config.capabilities();
        let too_large = |limit| io::Error::other(format!("the kernel interface is limited to {limit}"));
        config.add_capabilities(granted).map_err(|bits| io::Error::other(format!("not offered: {bits:?}")))?;
        config.set_max_write(REQUEST_BYTES_MAX).map_err(too_large)?;
        config.set_max_background(BACKGROUND_REQUESTS_MAX).map_err(|limit| too_large(limit.into()))?;
        // Equal to the limit: the kernel skips readahead beyond the threshold.
        config.set_congestion_threshold(BACKGROUND_REQUESTS_MAX).map_err(|limit| too_large(limit.into()))?;
        tracing::debug!(?granted, missing = ?(WANTED & !granted), "the kernel's offer");
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: fuser::ReplyEntry) {
        self.front.lookup(caller(request), InodeId(parent.0), name.as_bytes(), EntryToken::Fuser(reply));
    }

    fn forget(&self, _request: &Request, inode: INodeNo, count: u64) {
        self.front.forget(&mut std::iter::once((InodeId(inode.0), count)));
    }

    fn getattr(&self, request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: fuser::ReplyAttr) {
        self.front.getattr(caller(request), InodeId(inode.0), AttributesToken::Fuser(reply));
    }

    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: fuser::ReplyAttr,
    ) {
        let permissions = mode.map(|mode| u16::try_from(mode & 0o7777).unwrap_or(0));
        let (atime, mtime) = (atime.map(set_time), mtime.map(set_time));
        let changes = SetAttributes { permissions, uid, gid, size, atime, mtime };
        self.front.setattr(caller(request), InodeId(inode.0), changes, AttributesToken::Fuser(reply));
    }

    fn readlink(&self, request: &Request, inode: INodeNo, reply: fuser::ReplyData) {
        self.front.readlink(caller(request), InodeId(inode.0), DataToken::Fuser(reply, self.pool.take(0)));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        device: u32,
        reply: fuser::ReplyEntry,
    ) {
        let token = EntryToken::Fuser(reply);
        self.front.mknod(caller(request), InodeId(parent.0), name.as_bytes(), mode, device, token);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: fuser::ReplyEntry,
    ) {
        self.front.mkdir(caller(request), InodeId(parent.0), name.as_bytes(), mode, EntryToken::Fuser(reply));
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: fuser::ReplyEmpty) {
        self.front.unlink(caller(request), InodeId(parent.0), name.as_bytes(), EmptyToken::Fuser(reply));
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: fuser::ReplyEmpty) {
        self.front.rmdir(caller(request), InodeId(parent.0), name.as_bytes(), EmptyToken::Fuser(reply));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: fuser::ReplyEntry) {
        let target = target.as_os_str().as_bytes();
        let token = EntryToken::Fuser(reply);
        self.front.symlink(caller(request), InodeId(parent.0), name.as_bytes(), target, token);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: fuser::ReplyEmpty,
    ) {
        let from = (InodeId(parent.0), name.as_bytes());
        let to = (InodeId(new_parent.0), new_name.as_bytes());
        self.front.rename(caller(request), from, to, flags.bits(), EmptyToken::Fuser(reply));
    }

    fn link(&self, request: &Request, inode: INodeNo, new_parent: INodeNo, new_name: &OsStr, reply: fuser::ReplyEntry) {
        let token = EntryToken::Fuser(reply);
        self.front.link(caller(request), InodeId(inode.0), InodeId(new_parent.0), new_name.as_bytes(), token);
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: fuser::ReplyOpen) {
        let mode = OpenMode::from_flags(flags.0);
        self.front.open(caller(request), InodeId(inode.0), mode, OpenToken::Fuser(reply));
    }

    fn read(
        &self,
        request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: fuser::ReplyData,
    ) {
        let buffer = self.pool.take(usize::try_from(size).unwrap_or(usize::MAX));
        self.front.read(caller(request), InodeId(inode.0), offset, DataToken::Fuser(reply, buffer));
    }

    fn write(
        &self,
        request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: fuser::ReplyWrite,
    ) {
        let mode = WriteMode::from_flags(flags.0, write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID));
        self.front.write(caller(request), InodeId(inode.0), offset, data, mode, WriteToken::Fuser(reply));
    }

    // flush and opendir answer ENOSYS: the kernel remembers, and manages both alone.
    fn flush(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _lock_owner: LockOwner,
        reply: fuser::ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: fuser::ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: fuser::ReplyEmpty,
    ) {
        self.front.release(caller(request), InodeId(inode.0), EmptyToken::Fuser(reply));
    }

    fn fsync(&self, request: &Request, inode: INodeNo, _handle: FileHandle, _datasync: bool, reply: fuser::ReplyEmpty) {
        self.front.fsync(caller(request), InodeId(inode.0), EmptyToken::Fuser(reply));
    }

    fn fsyncdir(
        &self,
        request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: fuser::ReplyEmpty,
    ) {
        self.front.fsync(caller(request), InodeId(inode.0), EmptyToken::Fuser(reply));
    }

    fn readdir(
        &self,
        request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        cookie: u64,
        reply: fuser::ReplyDirectory,
    ) {
        self.front.readdir(caller(request), InodeId(inode.0), cookie, DirectoryToken::Fuser(reply));
    }

    fn readdirplus(
        &self,
        request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        cookie: u64,
        reply: fuser::ReplyDirectoryPlus,
    ) {
        self.front.readdir_plus(caller(request), InodeId(inode.0), cookie, DirectoryPlusToken::Fuser(reply));
    }

    fn statfs(&self, request: &Request, _inode: INodeNo, reply: fuser::ReplyStatfs) {
        self.front.statfs(caller(request), StatfsToken::Fuser(reply));
    }

    fn setxattr(
        &self,
        request: &Request,
        inode: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: fuser::ReplyEmpty,
    ) {
        let token = EmptyToken::Fuser(reply);
        self.front.setxattr(caller(request), InodeId(inode.0), name.as_bytes(), value, flags, token);
    }

    fn getxattr(&self, request: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: fuser::ReplyXattr) {
        self.front.getxattr(caller(request), InodeId(inode.0), name.as_bytes(), size, XattrToken::Fuser(reply));
    }

    fn listxattr(&self, request: &Request, inode: INodeNo, size: u32, reply: fuser::ReplyXattr) {
        self.front.listxattr(caller(request), InodeId(inode.0), size, XattrToken::Fuser(reply));
    }

    fn removexattr(&self, request: &Request, inode: INodeNo, name: &OsStr, reply: fuser::ReplyEmpty) {
        self.front.removexattr(caller(request), InodeId(inode.0), name.as_bytes(), EmptyToken::Fuser(reply));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: fuser::ReplyCreate,
    ) {
        let (parent, open) = (InodeId(parent.0), OpenMode::from_flags(flags));
        self.front.create(caller(request), parent, name.as_bytes(), mode, open, CreateToken::Fuser(reply));
    }

    fn ioctl(
        &self,
        request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        flags: IoctlFlags,
        command: u32,
        input: &[u8],
        _room: u32,
        reply: fuser::ReplyIoctl,
    ) {
        if !flags.contains(IoctlFlags::FUSE_IOCTL_DIR) {
            return reply.error(Errno::ENOTTY);
        }
        self.front.control(caller(request), InodeId(inode.0), command, input, IoctlToken::Fuser(reply));
    }

    fn fallocate(
        &self,
        request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: fuser::ReplyEmpty,
    ) {
        self.front.fallocate(caller(request), InodeId(inode.0), EmptyToken::Fuser(reply));
    }

    fn lseek(
        &self,
        request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: fuser::ReplyLseek,
    ) {
        self.front.seek(caller(request), InodeId(inode.0), offset, whence, SeekToken::Fuser(reply));
    }

    fn copy_file_range(
        &self,
        request: &Request,
        source: INodeNo,
        _source_handle: FileHandle,
        source_offset: u64,
        target: INodeNo,
        _target_handle: FileHandle,
        target_offset: u64,
        length: u64,
        flags: CopyFileRangeFlags,
        reply: fuser::ReplyWrite,
    ) {
        let (source, target) = (InodeId(source.0), InodeId(target.0));
        let range = CopyRange { source, source_offset, target, target_offset, length, flags: flags.bits() };
        self.front.copy_range(caller(request), range, WriteToken::Fuser(reply));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_before_1970_come_back_as_the_kernel_sent_them() {
        // What fuser 0.18 makes of -1 s and 250 ms forward: one second and 250 ms before the epoch.
        let from_fuser = SystemTime::UNIX_EPOCH - Duration::new(1, 250_000_000);
        assert_eq!(time_sent(from_fuser), Time { seconds: -1, nanoseconds: 250_000_000 });
        let later = SystemTime::UNIX_EPOCH + Duration::new(5, 7);
        assert_eq!(time_sent(later), Time { seconds: 5, nanoseconds: 7 });
        assert_eq!(time_sent(SystemTime::UNIX_EPOCH), Time { seconds: 0, nanoseconds: 0 });
    }

    #[test]
    fn flags_that_this_transport_cannot_honour_are_not_asked_for() {
        let poison = InitFlags::FUSE_SETXATTR_EXT
            | InitFlags::FUSE_HANDLE_KILLPRIV
            | InitFlags::FUSE_ALLOW_IDMAP
            | InitFlags::FUSE_SECURITY_CTX
            | InitFlags::FUSE_CREATE_SUPP_GROUP
            | InitFlags::FUSE_HAS_RESEND
            | InitFlags::FUSE_REQUEST_TIMEOUT
            | InitFlags::FUSE_OVER_IO_URING
            | InitFlags::FUSE_WRITEBACK_CACHE
            | InitFlags::FUSE_POSIX_LOCKS
            | InitFlags::FUSE_FLOCK_LOCKS
            | InitFlags::FUSE_POSIX_ACL
            | InitFlags::FUSE_AUTO_INVAL_DATA;
        assert!((WANTED & poison).is_empty());
    }
}
