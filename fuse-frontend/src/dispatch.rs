//! The kernel's operations in terms of the namespace.
//!
//! Runs on the transport's threads. Whatever waits for the device's flush is parked; control commands run on a thread
//! of their own ([`crate::commands`]). The kernel has checked permissions already (`default_permissions`).
//!
//! If power fails here: the namespace's promise holds; an answer that was not sent is an operation that may or may not
//! have happened.

use crate::commands::{Commands, Identity};
use crate::errno::Errno;
use crate::front::{Caching, Caller, CopyRange, Found, Front, OpenMode, Statfs, WriteMode};
use crate::notifier::Notifier;
use crate::token::{
    AttributesToken, CreateToken, DataToken, DirectoryPlusToken, DirectoryToken, EmptyToken, EntryToken, IoctlToken,
    OpenToken, SeekToken, StatfsToken, WriteToken, XattrToken,
};
use envoyfs_namespace::Namespace;
use envoyfs_namespace::api::{
    Attributes, Context, DirectoryEntry, Error, FileType, InodeId, Make, RenameMode, SetAttributes, XattrMode,
};
use std::io;
use std::sync::Arc;

/// Most bytes that one copy request moves: a longer one is answered short, and the caller goes on.
const COPY_BYTES_MAX: u64 = 16 << 20;
/// Bytes moved at a time.
const COPY_STEP_BYTES: usize = 1 << 20;
/// Names fetched at a time for a listing with attributes; about what a 128 KiB answer holds.
const PLUS_NAMES_MAX: usize = 512;

const SET_USER_ID: u16 = 0o4000;
const SET_GROUP_ID: u16 = 0o2000;
const GROUP_EXECUTE: u16 = 0o010;
const PERMISSION_BITS: u32 = 0o7777;

/// Serves a namespace.
pub struct Dispatcher {
    namespace: Arc<Namespace>,
    commands: Commands,
}

impl Dispatcher {
    /// Starts the thread of the control commands.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn new(namespace: Arc<Namespace>, notifier: Notifier, identity: Identity) -> io::Result<Self> {
        let commands = Commands::start(Arc::clone(&namespace), notifier, identity)?;
        Ok(Self { namespace, commands })
    }

    fn made(&self, caller: Caller, parent: InodeId, name: &[u8], make: Make<'_>, mode: u32) -> Result<Found, Errno> {
        let made = self.namespace.make(&context(caller), parent, name, &make, permissions(mode));
        Ok(Found::Inode(made?))
    }

    fn open_file(&self, caller: Caller, inode: InodeId, mode: OpenMode) -> Result<Caching, Errno> {
        let cx = context(caller);
        self.namespace.open_file(&cx, inode, mode.write || mode.truncate)?;
        if mode.truncate
            && let Err(error) = self.truncate(&cx, caller, inode)
        {
            self.close(&cx, inode);
            return Err(error);
        }
        Ok(mode.caching())
    }

    /// Set-id bits go with a new owner, and when somebody other than root truncates. (The kernel has already taken
    /// set-group-id from the mode of a chmod by a stranger to the group.) Root without `CAP_FSETID` is taken for root
    /// here; the write that must follow to gain anything carries the kernel's own signal.
    fn also_clear_set_id(&self, caller: Caller, inode: InodeId, changes: &mut SetAttributes) -> Result<(), Error> {
        let is_given_away = changes.uid.is_some() || changes.gid.is_some();
        let is_truncated = changes.size.is_some() && caller.uid != 0;
        if changes.permissions.is_none() && (is_given_away || is_truncated) {
            let before = self.namespace.getattr(&context(caller), inode)?;
            changes.permissions = without_set_id(&before, is_given_away);
        }
        Ok(())
    }

    /// Nobody is told of a failure: what is left of an unlinked file is dropped at the next mount.
    fn close(&self, cx: &Context, inode: InodeId) {
        if let Err(error) = self.namespace.close_file(cx, inode) {
            tracing::warn!(inode = inode.0, %error, "closing a file");
        }
    }

    /// Truncation inside an open: the kernel sends no separate request that would clear the set-id bits.
    fn truncate(&self, cx: &Context, caller: Caller, inode: InodeId) -> Result<(), Errno> {
        let mut changes = SetAttributes { size: Some(0), ..SetAttributes::default() };
        self.also_clear_set_id(caller, inode, &mut changes)?;
        self.namespace.setattr(cx, inode, &changes)?;
        Ok(())
    }

    fn create_file(
        &self,
        caller: Caller,
        parent: InodeId,
        name: &[u8],
        mode_bits: u32,
        mode: OpenMode,
    ) -> Result<(Attributes, Caching), Errno> {
        let cx = context(caller);
        let made = match self.namespace.make(&cx, parent, name, &Make::File, permissions(mode_bits)) {
            // The kernel believed that there is no such name. It must look again, and check permissions of what is there.
            Err(Error::Exists) if !mode.exclusive => return Err(Errno::ESTALE),
            made => made?,
        };
        if let Err(error) = self.namespace.open_file(&cx, made.id, mode.write) {
            self.namespace.forget(made.id, 1);
            return Err(error.into());
        }
        Ok((made, mode.caching()))
    }

    fn write_data(
        &self,
        caller: Caller,
        inode: InodeId,
        offset: u64,
        data: &[u8],
        mode: WriteMode,
    ) -> Result<u32, Errno> {
        let cx = context(caller);
        if mode.kill_suid
            && let Some(kept) = without_set_id(&self.namespace.getattr(&cx, inode)?, false)
        {
            let changes = SetAttributes { permissions: Some(kept), ..SetAttributes::default() };
            self.namespace.setattr(&cx, inode, &changes)?;
        }
        let written = self.namespace.write(&cx, inode, offset, data)?;
        Ok(u32::try_from(written).unwrap_or(u32::MAX))
    }

    /// Answers when everything so far is durable.
    fn when_durable(&self, then: impl FnOnce(Result<(), Errno>) + Send + 'static) {
        let end = self.namespace.sync_point();
        self.namespace.on_durable(end, Box::new(move |result| then(result.map_err(|error| Error::from(error).into()))));
    }

    fn copy(&self, caller: Caller, range: CopyRange) -> Result<u32, Errno> {
        if range.flags != 0 {
            return Err(Errno::EINVAL);
        }
        let cx = context(caller);
        let length = range.length.min(COPY_BYTES_MAX);
        let mut buffer = vec![0; COPY_STEP_BYTES.min(usize::try_from(length).unwrap_or(usize::MAX))];
        let mut copied = 0_u64;
        while copied < length {
            let step = usize::try_from(length - copied).unwrap_or(usize::MAX).min(buffer.len());
            let part = buffer.get_mut(..step).unwrap_or_default();
            let moved = self
                .namespace
                .read(&cx, range.source, range.source_offset.saturating_add(copied), part)
                .and_then(|count| {
                    let part = part.get(..count).unwrap_or_default();
                    self.namespace.write(&cx, range.target, range.target_offset.saturating_add(copied), part)
                });
            match moved {
                Ok(0) => break,
                Ok(count) => copied += u64::try_from(count).unwrap_or(u64::MAX),
                // What was copied before is told first; the next call meets the error again.
                Err(_) if copied > 0 => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(u32::try_from(copied).unwrap_or(u32::MAX))
    }

    fn list_plus(
        &self,
        caller: Caller,
        inode: InodeId,
        mut cookie: u64,
        token: &mut DirectoryPlusToken,
    ) -> Result<(), Errno> {
        let cx = context(caller);
        loop {
            let mut entries: Vec<DirectoryEntry> = Vec::new();
            let mut is_more = false;
            self.namespace.readdir(&cx, inode, cookie, &mut |entry| {
                is_more = entries.len() >= PLUS_NAMES_MAX;
                if !is_more {
                    entries.push(entry);
                }
                !is_more
            })?;
            for entry in &entries {
                cookie = entry.cookie;
                let is_dots = entry.name == b"." || entry.name == b"..";
                let attributes = if is_dots {
                    // The kernel takes no reference to these, so nothing is looked up.
                    names_only(entry)
                } else {
                    match self.namespace.lookup(&cx, inode, &entry.name) {
                        Ok(attributes) => attributes,
                        // Removed since it was listed.
                        Err(Error::NotFound) => continue,
                        Err(error) => return Err(error.into()),
                    }
                };
                if !token.add(entry, &attributes) {
                    if !is_dots {
                        self.namespace.forget(attributes.id, 1);
                    }
                    return Ok(());
                }
            }
            if !is_more {
                return Ok(());
            }
        }
    }
}

impl Front for Dispatcher {
    fn lookup(&self, caller: Caller, parent: InodeId, name: &[u8], token: EntryToken) {
        token.answer(match self.namespace.lookup(&context(caller), parent, name) {
            Ok(attributes) => Ok(Found::Inode(attributes)),
            Err(Error::NotFound) => Ok(Found::Nothing),
            Err(error) => Err(error.into()),
        });
    }

    fn forget(&self, list: &mut dyn Iterator<Item = (InodeId, u64)>) {
        for (inode, count) in list {
            self.namespace.forget(inode, count);
        }
    }

    fn getattr(&self, caller: Caller, inode: InodeId, token: AttributesToken) {
        token.answer(self.namespace.getattr(&context(caller), inode).map_err(Errno::from));
    }

    fn setattr(&self, caller: Caller, inode: InodeId, mut changes: SetAttributes, token: AttributesToken) {
        let result = self.also_clear_set_id(caller, inode, &mut changes);
        let result = result.and_then(|()| self.namespace.setattr(&context(caller), inode, &changes));
        token.answer(result.map_err(Errno::from));
    }

    fn readlink(&self, caller: Caller, inode: InodeId, token: DataToken) {
        match self.namespace.readlink(&context(caller), inode) {
            Ok(target) => token.answer_bytes(Ok(&target)),
            Err(error) => token.answer_bytes(Err(error.into())),
        }
    }

    fn mknod(&self, caller: Caller, parent: InodeId, name: &[u8], mode: u32, device: u32, token: EntryToken) {
        token.answer(match special(mode, device) {
            Some(make) => self.made(caller, parent, name, make, mode),
            None => Err(Errno::EINVAL),
        });
    }

    fn mkdir(&self, caller: Caller, parent: InodeId, name: &[u8], mode: u32, token: EntryToken) {
        token.answer(self.made(caller, parent, name, Make::Directory, mode));
    }

    fn symlink(&self, caller: Caller, parent: InodeId, name: &[u8], target: &[u8], token: EntryToken) {
        token.answer(self.made(caller, parent, name, Make::Symlink(target), 0o777));
    }

    fn link(&self, caller: Caller, inode: InodeId, parent: InodeId, name: &[u8], token: EntryToken) {
        let linked = self.namespace.link(&context(caller), inode, parent, name);
        token.answer(linked.map(Found::Inode).map_err(Errno::from));
    }

    fn unlink(&self, caller: Caller, parent: InodeId, name: &[u8], token: EmptyToken) {
        token.answer(self.namespace.unlink(&context(caller), parent, name).map_err(Errno::from));
    }

    fn rmdir(&self, caller: Caller, parent: InodeId, name: &[u8], token: EmptyToken) {
        token.answer(self.namespace.rmdir(&context(caller), parent, name).map_err(Errno::from));
    }

    fn rename(&self, caller: Caller, from: (InodeId, &[u8]), to: (InodeId, &[u8]), flags: u32, token: EmptyToken) {
        token.answer(match rename_mode(flags) {
            Some(mode) => {
                self.namespace.rename(&context(caller), from.0, from.1, to.0, to.1, mode).map_err(Errno::from)
            }
            None => Err(Errno::EINVAL),
        });
    }

    fn open(&self, caller: Caller, inode: InodeId, mode: OpenMode, token: OpenToken) {
        token.answer(self.open_file(caller, inode, mode));
    }

    fn create(
        &self,
        caller: Caller,
        parent: InodeId,
        name: &[u8],
        permissions: u32,
        mode: OpenMode,
        token: CreateToken,
    ) {
        token.answer(self.create_file(caller, parent, name, permissions, mode));
    }

    fn read(&self, caller: Caller, inode: InodeId, offset: u64, mut token: DataToken) {
        let count = self.namespace.read(&context(caller), inode, offset, token.buffer());
        token.answer(count.map_err(Errno::from));
    }

    fn write(&self, caller: Caller, inode: InodeId, offset: u64, data: &[u8], mode: WriteMode, token: WriteToken) {
        match self.write_data(caller, inode, offset, data, mode) {
            Ok(count) if mode.durable => self.when_durable(move |result| token.answer(result.map(|()| count))),
            result => token.answer(result),
        }
    }

    fn release(&self, caller: Caller, inode: InodeId, token: EmptyToken) {
        self.close(&context(caller), inode);
        token.answer(Ok(()));
    }

    fn fsync(&self, _caller: Caller, _inode: InodeId, token: EmptyToken) {
        // One log with a prefix promise: a sync of anything makes everything before it durable.
        self.when_durable(move |result| token.answer(result));
    }

    fn readdir(&self, caller: Caller, inode: InodeId, cookie: u64, mut token: DirectoryToken) {
        let listed = self.namespace.readdir(&context(caller), inode, cookie, &mut |entry| token.add(&entry));
        token.answer(listed.map_err(Errno::from));
    }

    fn readdir_plus(&self, caller: Caller, inode: InodeId, cookie: u64, mut token: DirectoryPlusToken) {
        let listed = self.list_plus(caller, inode, cookie, &mut token);
        token.answer(listed);
    }

    fn statfs(&self, _caller: Caller, token: StatfsToken) {
        let space = self.namespace.space();
        let blocks = |bytes: u64| bytes / u64::from(envoyfs_layout::BLOCK);
        // Inodes have no table of their own: as many may still be made as fit into the space, at 512 bytes each.
        let files_free = space.available / u64::from(envoyfs_layout::UNIT);
        token.answer(Ok(Statfs {
            blocks: blocks(space.capacity),
            free: blocks(space.free),
            available: blocks(space.available),
            files: space.files.saturating_add(files_free),
            files_free,
        }));
    }

    fn getxattr(&self, caller: Caller, inode: InodeId, name: &[u8], room: u32, token: XattrToken) {
        if !is_offered(name) {
            return token.answer(room, Err(Errno::EOPNOTSUPP));
        }
        match self.namespace.getxattr(&context(caller), inode, name) {
            Ok(value) => token.answer(room, Ok(&value)),
            Err(error) => token.answer(room, Err(error.into())),
        }
    }

    fn listxattr(&self, caller: Caller, inode: InodeId, room: u32, token: XattrToken) {
        let names = match self.namespace.listxattr(&context(caller), inode) {
            Ok(names) => names,
            Err(error) => return token.answer(room, Err(error.into())),
        };
        let mut list = Vec::new();
        for name in names {
            // As local file systems do: who may not read a trusted attribute does not see its name either.
            if caller.uid == 0 || !name.starts_with(b"trusted.") {
                list.extend_from_slice(&name);
                list.push(0);
            }
        }
        token.answer(room, Ok(&list));
    }

    fn setxattr(&self, caller: Caller, inode: InodeId, name: &[u8], value: &[u8], flags: i32, token: EmptyToken) {
        let mode = match flags {
            0 => XattrMode::Any,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => return token.answer(Err(Errno::EINVAL)),
        };
        if !is_offered(name) {
            return token.answer(Err(Errno::EOPNOTSUPP));
        }
        token.answer(self.namespace.setxattr(&context(caller), inode, name, value, mode).map_err(Errno::from));
    }

    fn removexattr(&self, caller: Caller, inode: InodeId, name: &[u8], token: EmptyToken) {
        if !is_offered(name) {
            return token.answer(Err(Errno::EOPNOTSUPP));
        }
        token.answer(self.namespace.removexattr(&context(caller), inode, name).map_err(Errno::from));
    }

    fn seek(&self, caller: Caller, inode: InodeId, offset: i64, whence: i32, token: SeekToken) {
        let Ok(offset) = u64::try_from(offset) else { return token.answer(Err(Error::BeyondEnd.into())) };
        let found = match whence {
            libc::SEEK_DATA => self.namespace.seek_data(&context(caller), inode, offset),
            libc::SEEK_HOLE => self.namespace.seek_hole(&context(caller), inode, offset),
            _ => Err(Error::Invalid("whence")),
        };
        token.answer(found.map(|offset| i64::try_from(offset).unwrap_or(i64::MAX)).map_err(Errno::from));
    }

    fn copy_range(&self, caller: Caller, range: CopyRange, token: WriteToken) {
        token.answer(self.copy(caller, range));
    }

    fn fallocate(&self, _caller: Caller, _inode: InodeId, token: EmptyToken) {
        token.answer(Err(Errno::EOPNOTSUPP));
    }

    fn control(&self, caller: Caller, inode: InodeId, command: u32, input: &[u8], token: IoctlToken) {
        self.commands.run(caller, inode, command, input, token);
    }
}

pub(crate) const fn context(caller: Caller) -> Context {
    Context::local(caller.uid, caller.gid)
}

fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & PERMISSION_BITS).unwrap_or(0)
}

/// The permissions without set-user-id, and without set-group-id where it means execution; `None` if that is no change.
/// Directories keep both; what is neither directory nor regular file loses them only to a new owner.
fn without_set_id(attributes: &Attributes, is_given_away: bool) -> Option<u16> {
    let concerned = match attributes.file_type {
        FileType::Regular => true,
        FileType::Directory | FileType::Symlink => false,
        _ => is_given_away,
    };
    let mut kept = attributes.permissions & !SET_USER_ID;
    if kept & GROUP_EXECUTE != 0 {
        kept &= !SET_GROUP_ID;
    }
    (concerned && kept != attributes.permissions).then_some(kept)
}

/// Type bits of mknod(2) to what the namespace makes.
fn special(mode: u32, device: u32) -> Option<Make<'static>> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Some(Make::File),
        libc::S_IFIFO => Some(Make::Special(FileType::Fifo, 0)),
        libc::S_IFSOCK => Some(Make::Special(FileType::Socket, 0)),
        libc::S_IFCHR => Some(Make::Special(FileType::CharDevice, device)),
        libc::S_IFBLK => Some(Make::Special(FileType::BlockDevice, device)),
        _ => None,
    }
}

/// Flags of renameat2(2); whiteouts are not offered.
const fn rename_mode(flags: u32) -> Option<RenameMode> {
    match flags {
        0 => Some(RenameMode::Replace),
        libc::RENAME_NOREPLACE => Some(RenameMode::NoReplace),
        libc::RENAME_EXCHANGE => Some(RenameMode::Exchange),
        _ => None,
    }
}

/// Extended attributes of these classes are stored; access control lists (`system.`) are not offered.
fn is_offered(name: &[u8]) -> bool {
    [&b"user."[..], b"trusted.", b"security."].iter().any(|class| name.starts_with(class))
}

/// Attributes that say no more than a listing does; the kernel uses nothing else of "." and "..".
fn names_only(entry: &DirectoryEntry) -> Attributes {
    let never = envoyfs_namespace::api::Time::default();
    Attributes {
        id: entry.id,
        generation: 0,
        file_type: entry.file_type,
        permissions: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        allocated: 0,
        atime: never,
        mtime: never,
        ctime: never,
        btime: never,
    }
}

#[cfg(test)]
mod tests;
