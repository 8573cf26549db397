//! Answers in the types of the `fuser` crate. Cache times are long: nobody else changes the tree, and when the daemon
//! does so itself, it tells the kernel.

use crate::errno::Errno;
use crate::front::{Caching, Found, Statfs};
use envoyfs_layout::{BLOCK, UNIT};
use envoyfs_namespace::api::{Attributes, DirectoryEntry, FileType, Time};
use fuser::{FileAttr, FileHandle, FopenFlags, Generation, INodeNo};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, SystemTime};

/// How long the kernel may believe names (also that there are none) and attributes.
const CACHE: Duration = Duration::from_secs(3600);
/// Handles carry no state.
const HANDLE: FileHandle = FileHandle(0);

fn number(error: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(error.code())
}

fn kind(file_type: FileType) -> fuser::FileType {
    match file_type {
        FileType::Regular => fuser::FileType::RegularFile,
        FileType::Directory => fuser::FileType::Directory,
        FileType::Symlink => fuser::FileType::Symlink,
        FileType::Fifo => fuser::FileType::NamedPipe,
        FileType::Socket => fuser::FileType::Socket,
        FileType::CharDevice => fuser::FileType::CharDevice,
        FileType::BlockDevice => fuser::FileType::BlockDevice,
    }
}

fn system_time(time: Time) -> SystemTime {
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let second = if time.seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    };
    let exact = second.and_then(|second| second.checked_add(Duration::from_nanos(time.nanoseconds.into())));
    exact.unwrap_or(SystemTime::UNIX_EPOCH)
}

fn file_attr(attributes: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(attributes.id.0),
        size: attributes.size,
        blocks: attributes.allocated.div_ceil(u64::from(UNIT)),
        atime: system_time(attributes.atime),
        mtime: system_time(attributes.mtime),
        ctime: system_time(attributes.ctime),
        crtime: system_time(attributes.btime),
        kind: kind(attributes.file_type),
        perm: attributes.permissions,
        nlink: attributes.nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: attributes.rdev,
        blksize: BLOCK,
        flags: 0,
    }
}

/// Inode number 0 with a cache time is a name that leads nowhere.
fn nothing() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: fuser::FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

fn caching_flags(caching: Caching) -> FopenFlags {
    match caching {
        Caching::KeepCache => FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH,
        Caching::Direct => {
            FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES | FopenFlags::FOPEN_NOFLUSH
        }
    }
}

pub(crate) fn entry(token: fuser::ReplyEntry, result: Result<Found, Errno>) {
    match result {
        Ok(Found::Inode(attributes)) => {
            token.entry(&CACHE, &file_attr(&attributes), Generation(attributes.generation.into()));
        }
        Ok(Found::Nothing) => token.entry(&CACHE, &nothing(), Generation(0)),
        Err(error) => token.error(number(error)),
    }
}

pub(crate) fn attributes(token: fuser::ReplyAttr, result: Result<Attributes, Errno>) {
    match result {
        Ok(attributes) => token.attr(&CACHE, &file_attr(&attributes)),
        Err(error) => token.error(number(error)),
    }
}

pub(crate) fn empty(token: fuser::ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => token.ok(),
        Err(error) => token.error(number(error)),
    }
}

pub(crate) fn data(token: fuser::ReplyData, result: Result<&[u8], Errno>) {
    match result {
        Ok(bytes) => token.data(bytes),
        Err(error) => token.error(number(error)),
    }
}

pub(crate) fn opened(token: fuser::ReplyOpen, result: Result<Caching, Errno>) {
    match result {
        Ok(caching) => token.opened(HANDLE, caching_flags(caching)),
        Err(error) => token.error(number(error)),
    }
}

pub(crate) fn created(token: fuser::ReplyCreate, result: Result<(Attributes, Caching), Errno>) {
    match result {
        Ok((attributes, caching)) => {
            let generation = Generation(attributes.generation.into());
            token.created(&CACHE, &file_attr(&attributes), generation, HANDLE, caching_flags(caching));
        }
        Err(error) => token.error(number(error)),
    }
}

pub(crate) fn written(token: fuser::ReplyWrite, result: Result<u32, Errno>) {
    match result {
        Ok(count) => token.written(count),
        Err(error) => token.error(number(error)),
    }
}

pub(crate) fn statfs(token: fuser::ReplyStatfs, result: Result<Statfs, Errno>) {
    match result {
        Ok(Statfs { blocks, free, available, files, files_free }) => {
            token.statfs(blocks, free, available, files, files_free, BLOCK, 255, BLOCK);
        }
        Err(error) => token.error(number(error)),
    }
}

pub(crate) fn xattr(token: fuser::ReplyXattr, room: u32, result: Result<&[u8], Errno>) {
    let bytes = match result {
        Ok(bytes) => bytes,
        Err(error) => return token.error(number(error)),
    };
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    if room == 0 {
        token.size(length);
    } else if length > room {
        token.error(number(Errno::ERANGE));
    } else {
        token.data(bytes);
    }
}

pub(crate) fn sought(token: fuser::ReplyLseek, result: Result<i64, Errno>) {
    match result {
        Ok(offset) => token.offset(offset),
        Err(error) => token.error(number(error)),
    }
}

pub(crate) fn ioctl(token: fuser::ReplyIoctl, result: Result<&[u8], Errno>) {
    match result {
        Ok(output) => token.ioctl(0, output),
        Err(error) => token.error(number(error)),
    }
}

pub(crate) fn add_name(token: &mut fuser::ReplyDirectory, entry: &DirectoryEntry) -> bool {
    let is_full = token.add(INodeNo(entry.id.0), entry.cookie, kind(entry.file_type), OsStr::from_bytes(&entry.name));
    !is_full
}

pub(crate) fn names(token: fuser::ReplyDirectory, result: Result<(), Errno>) {
    match result {
        Ok(()) => token.ok(),
        Err(error) => token.error(number(error)),
    }
}

pub(crate) fn add_name_plus(
    token: &mut fuser::ReplyDirectoryPlus,
    entry: &DirectoryEntry,
    attributes: &Attributes,
) -> bool {
    let is_full = token.add(
        INodeNo(attributes.id.0),
        entry.cookie,
        OsStr::from_bytes(&entry.name),
        &CACHE,
        &file_attr(attributes),
        Generation(attributes.generation.into()),
    );
    !is_full
}

pub(crate) fn names_plus(token: fuser::ReplyDirectoryPlus, result: Result<(), Errno>) {
    match result {
        Ok(()) => token.ok(),
        Err(error) => token.error(number(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_count_forward_from_their_second() {
        let half_past_minus_two = system_time(Time { seconds: -2, nanoseconds: 500_000_000 });
        assert_eq!(SystemTime::UNIX_EPOCH.duration_since(half_past_minus_two).unwrap(), Duration::from_millis(1500));
        assert_eq!(system_time(Time { seconds: 3, nanoseconds: 4 }), SystemTime::UNIX_EPOCH + Duration::new(3, 4));
        // Out of range is no reason to fail.
        let _ = system_time(Time { seconds: i64::MIN, nanoseconds: 999_999_999 });
        let _ = system_time(Time { seconds: i64::MAX, nanoseconds: 999_999_999 });
    }

    #[test]
    fn direct_opens_bypass_the_cache_and_allow_parallel_writers() {
        assert!(caching_flags(Caching::Direct).contains(FopenFlags::FOPEN_DIRECT_IO));
        assert!(caching_flags(Caching::KeepCache).contains(FopenFlags::FOPEN_KEEP_CACHE));
        assert!(!caching_flags(Caching::KeepCache).contains(FopenFlags::FOPEN_DIRECT_IO));
    }
}
