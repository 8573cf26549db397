//! Setting attributes, size and extended attributes.

use crate::api::{Attributes, Context, Error, InodeId, Result, SetAttributes, SetTime, XattrMode};
use crate::apply::Locked;
use crate::directory::NAME_BYTES_MAX;
use crate::file::{Edit, FILE_BYTES_MAX};
use crate::inode::{Inode, State, attributes, timestamp};
use crate::namespace::Namespace;
use crate::operation::RECORD_BYTES;
use envoyfs_engine::store::Tier;
use envoyfs_layout::inode::{XATTR_BYTES_MAX, Xattrs, xattr_bytes};
use envoyfs_layout::operation::{Attributes as New, Operation};
use std::sync::Arc;

impl Namespace {
    /// Sets attributes; a new size truncates or extends a file.
    ///
    /// # Errors
    /// `IsDirectory` and `Invalid` for the size of what is no file, `FileTooLarge`, `ReadOnly`, `NoSpace`, `Stale`, or a failed read.
    pub fn setattr(&self, cx: &Context, id: InodeId, set: &SetAttributes) -> Result<Attributes> {
        self.check(cx)?;
        let inode = self.live(id)?;
        if let Some(size) = set.size {
            self.truncate(&inode, size)?;
        }
        let now = self.timestamp();
        let at = |time: SetTime| match time {
            SetTime::Now => now,
            SetTime::At(time) => timestamp(time),
        };
        let new = New {
            mode: set.permissions.map(u32::from),
            uid: set.uid,
            gid: set.gid,
            atime: set.atime.map(at),
            mtime: set.mtime.map(at),
        };
        if new != New::default() {
            let mut permit = self.reserve(&[&inode], RECORD_BYTES, 0, 0, Tier::Shrinking)?;
            let _change = self.change();
            let mut locked = Locked::new([&inode]);
            inode.check_writable()?;
            if matches!(locked.state(&inode)?, State::SnapshotList) {
                return Err(Error::NotPermitted("attributes of .snap"));
            }
            let handle = self.bind(&mut permit, &inode)?;
            let operation = Operation::SetAttributes { handle, attributes: new, time: now };
            let stamp = self.stamp(self.append(&mut permit, &operation, &[])?);
            self.applied(self.apply_set_attributes(stamp, &mut locked, &inode, &new, now))?;
        }
        let state = inode.read();
        Ok(attributes(&inode, &state))
    }

    fn truncate(&self, inode: &Arc<Inode>, size: u64) -> Result<()> {
        if size > FILE_BYTES_MAX {
            return Err(Error::FileTooLarge);
        }
        inode.read().file()?;
        let time = self.timestamp();
        let mut permit = self.reserve(&[inode], RECORD_BYTES, 4096, 0, Tier::Shrinking)?;
        let _change = self.change();
        let mut locked = Locked::new([inode]);
        inode.check_writable()?;
        let prepared = self.prepare(self.epoch(), &mut locked, inode, &Edit::Truncate { new_size: size })?;
        let handle = self.bind(&mut permit, inode)?;
        let stamp = self.stamp(self.append(&mut permit, &Operation::Truncate { handle, size, time }, &[])?);
        self.applied(self.apply_write(stamp, &mut locked, inode, prepared, size, time))
    }

    /// Value of an extended attribute.
    ///
    /// # Errors
    /// `NoAttribute`, `Stale`.
    pub fn getxattr(&self, _cx: &Context, id: InodeId, name: &[u8]) -> Result<Vec<u8>> {
        let inode = self.live(id)?;
        let state = inode.read();
        let found = xattrs(&state).and_then(|all| all.iter().find(|(n, _)| n == name));
        found.map(|(_, value)| value.clone()).ok_or(Error::NoAttribute)
    }

    /// Names of all extended attributes.
    ///
    /// # Errors
    /// `Stale`.
    pub fn listxattr(&self, _cx: &Context, id: InodeId) -> Result<Vec<Vec<u8>>> {
        let inode = self.live(id)?;
        let state = inode.read();
        Ok(xattrs(&state).map_or_else(Vec::new, |all| all.iter().map(|(name, _)| name.clone()).collect()))
    }

    /// Sets an extended attribute. All of an inode take at most 1 KiB together in this version.
    ///
    /// # Errors
    /// `Exists`, `NoAttribute`, `NoSpace` beyond the limit, `AttributeTooLarge`, `ReadOnly`, `Stale`.
    pub fn setxattr(&self, cx: &Context, id: InodeId, name: &[u8], value: &[u8], how: XattrMode) -> Result<()> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(Error::AttributeTooLarge);
        }
        self.change_xattr(cx, id, name, Some(value), how)
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// `NoAttribute`, `ReadOnly`, `NoSpace`, `Stale`.
    pub fn removexattr(&self, cx: &Context, id: InodeId, name: &[u8]) -> Result<()> {
        self.change_xattr(cx, id, name, None, XattrMode::Replace)
    }

    fn change_xattr(&self, cx: &Context, id: InodeId, name: &[u8], value: Option<&[u8]>, how: XattrMode) -> Result<()> {
        self.check(cx)?;
        let inode = self.live(id)?;
        let time = self.timestamp();
        let tier = if value.is_some() { Tier::Writer } else { Tier::Shrinking };
        let bytes = RECORD_BYTES + name.len() + value.map_or(0, <[u8]>::len).min(XATTR_BYTES_MAX);
        let mut permit = self.reserve(&[&inode], bytes, 0, 0, tier)?;
        let _change = self.change();
        let mut locked = Locked::new([&inode]);
        inode.check_writable()?;
        let mut all = xattrs(locked.state(&inode)?).cloned().ok_or(Error::NotSupported("attributes of .snap"))?;
        match (all.iter().any(|(n, _)| n == name), how) {
            (true, XattrMode::Create) => return Err(Error::Exists),
            (false, XattrMode::Replace) => return Err(Error::NoAttribute),
            _ => {}
        }
        if let Some(value) = value {
            all.retain(|(n, _)| n != name);
            all.push((name.to_vec(), value.to_vec()));
            if xattr_bytes(&all) > XATTR_BYTES_MAX {
                return Err(Error::NoSpace);
            }
        }
        let handle = self.bind(&mut permit, &inode)?;
        let name = name.to_vec();
        let operation = match value {
            Some(value) => Operation::SetXattr { handle, time, name: name.clone(), value: value.to_vec() },
            None => Operation::RemoveXattr { handle, time, name: name.clone() },
        };
        let stamp = self.stamp(self.append(&mut permit, &operation, &[])?);
        self.applied(self.apply_xattr(stamp, &mut locked, &inode, &name, value, time))
    }
}

fn xattrs(state: &State) -> Option<&Xattrs> {
    match state {
        State::Directory(directory) => Some(&directory.own.attributes.xattrs),
        _ => state.inode().map(|stored| &stored.xattrs),
    }
}
