//! Moving and swapping entries.

use crate::api::{Context, Error, FileType, InodeId, RenameMode, Result};
use crate::apply::Locked;
use crate::directory::{Found, check_name};
use crate::inode::{Inode, Place};
use crate::namespace::Namespace;
use crate::operation::RECORD_BYTES;
use envoyfs_engine::store::Tier;
use envoyfs_layout::operation::Operation;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Namespace {
    /// Moves an entry, over a file or an empty directory if the mode allows, or swaps two. Atomic: one record.
    ///
    /// # Errors
    /// `NotFound`, `Exists`, `NotDirectory`, `IsDirectory`, `NotEmpty`, `Invalid` (into itself), `CrossRealm`, `ReadOnly`, `NoSpace`, `Stale`, or a failed read.
    pub fn rename(
        &self,
        cx: &Context,
        parent: InodeId,
        name: &[u8],
        new_parent: InodeId,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        self.check(cx)?;
        check_name(name)?;
        check_name(new_name)?;
        let (parent, new_parent) = (self.live(parent)?, self.live(new_parent)?);
        if parent.realm.id != new_parent.realm.id {
            return Err(Error::CrossRealm("a rename from one fork into another; fork or copy instead"));
        }
        loop {
            let inode = self.find(&parent, name)?;
            let target = match self.find(&new_parent, new_name) {
                Ok(target) => Some(target),
                Err(Error::NotFound) => None,
                Err(error) => return Err(error),
            };
            let mut reserved = vec![&parent, &new_parent, &inode];
            reserved.extend(&target);
            let bytes = RECORD_BYTES + name.len() + new_name.len();
            let mut permit = self.reserve(&reserved, bytes, 0, 0, Tier::Shrinking)?;
            // Directories move only while nobody else changes anything: whoever holds the freeze lock may climb.
            let is_directory = |inode: &Arc<Inode>| inode.file_type == FileType::Directory;
            let alone = is_directory(&inode) || target.as_ref().is_some_and(is_directory);
            let into_shared = || {
                let swaps = target.as_ref().filter(|_| mode == RenameMode::Exchange);
                rises(&inode, &new_parent) || swaps.is_some_and(|target| rises(target, &parent))
            };
            let settles = into_shared();
            let _building = settles.then(|| self.builder.lock());
            let _alone = (alone || settles).then(|| self.alone());
            let _change = (!alone && !settles).then(|| self.change());
            match (into_shared(), settles) {
                (true, false) => continue, // a fork came between
                (true, true) => {
                    self.settle(&inode, &new_parent)?;
                    if let (Some(target), RenameMode::Exchange) = (&target, mode) {
                        self.settle(target, &parent)?;
                    }
                }
                _ => {}
            }

            let mut to_lock = vec![&parent, &new_parent, &inode];
            to_lock.extend(&target);
            let mut locked = Locked::new(to_lock);
            parent.check_writable()?;
            new_parent.check_writable()?;
            let key = match self.still(&mut locked, &parent, name, &inode) {
                Err(Error::NotFound) => continue, // it stands for something else now, or is gone
                key => key?,
            };
            let found = locked.directory(&new_parent)?.find(&self.nodes, &self.trees.directory, new_name)?;
            let new_key = match (&target, found) {
                (Some(target), Found::Present(key, entry)) if self.stands_for(&new_parent, &entry, target)? => key,
                (None, Found::Absent(key)) => key,
                _ => continue, // somebody else changed the target meanwhile
            };
            if is_directory(&inode) && is_inside(&new_parent, &inode) {
                return Err(Error::Invalid("a directory cannot be moved into itself"));
            }
            let time = self.timestamp();
            let record = |exchange, orphan, parent, new_parent| Operation::Rename {
                parent,
                name: name.to_vec(),
                new_parent,
                new_name: new_name.to_vec(),
                time,
                exchange,
                orphan,
            };
            if mode == RenameMode::Exchange {
                let Some(target) = &target else { return Err(Error::NotFound) };
                if target.id == inode.id {
                    return Ok(());
                }
                if is_directory(target) && is_inside(&parent, target) {
                    return Err(Error::Invalid("a directory cannot be moved into itself"));
                }
                let (from, to) = (self.bind(&mut permit, &parent)?, self.bind(&mut permit, &new_parent)?);
                let stamp = self.stamp(self.append(&mut permit, &record(true, false, from, to), &[])?);
                let swapped = self.apply_exchange(
                    stamp,
                    &mut locked,
                    (&parent, key, &inode),
                    (&new_parent, new_key, target),
                    time,
                );
                return self.applied(swapped);
            }
            if let Some(target) = &target {
                if mode == RenameMode::NoReplace {
                    return Err(Error::Exists);
                }
                if target.id == inode.id {
                    return Ok(()); // two names of one file: nothing to do, says POSIX
                }
                match (is_directory(&inode), is_directory(target)) {
                    (true, false) => return Err(Error::NotDirectory),
                    (false, true) => return Err(Error::IsDirectory),
                    (true, true) => self.check_empty(&mut locked, target)?,
                    (false, false) => {}
                }
            }
            let orphan = match &target {
                Some(target) => {
                    let last = locked.state(target)?.inode().is_some_and(|stored| stored.nlink <= 1);
                    last && target.opens.load(Ordering::Acquire) > 0
                }
                None => false,
            };
            let (from, to) = (self.bind(&mut permit, &parent)?, self.bind(&mut permit, &new_parent)?);
            let stamp = self.stamp(self.append(&mut permit, &record(false, orphan, from, to), &[])?);
            let replaced = target.as_ref().map(|target| (target, orphan));
            let renamed =
                self.apply_rename(stamp, &mut locked, (&parent, key), &inode, (&new_parent, new_key), replaced, time);
            self.applied(renamed)?;
            drop(locked);
            if let Some(target) = target {
                self.inodes.evict(target);
            }
            return Ok(());
        }
    }
}

impl Namespace {
    /// Before a move to a place with a larger share time: stores what changed at and below, so that what this replaces is judged by the path on which it was exclusive.
    /// Judged later, by the new path, an old node would count as shared: never freed, though what it refers to may be already (INV-08, INV-12).
    /// Caller holds the builder lock and the freeze lock exclusively.
    pub(crate) fn settle(&self, inode: &Arc<Inode>, new_parent: &Inode) -> Result<()> {
        if !rises(inode, new_parent) {
            return Ok(());
        }
        match inode.file_type {
            FileType::Directory => self.build_now(inode).map(|_| ()),
            FileType::Regular => self.applied(self.build_contents_now(inode)),
            _ => Ok(()),
        }
    }
}

/// Would a move to this directory raise the share time of the inode's path?
pub(crate) fn rises(inode: &Inode, new_parent: &Inode) -> bool {
    matches!(inode.place(), Place::Named { .. }) && new_parent.path_share() > inode.path_share()
}

/// Is `inner` the directory itself or below it? Caller holds the freeze lock.
pub(crate) fn is_inside(inner: &Arc<Inode>, directory: &Inode) -> bool {
    let mut next = Some(inner.clone());
    while let Some(inode) = next {
        if inode.id == directory.id {
            return true;
        }
        next = match inode.place() {
            Place::Named { parent, .. } => Some(parent),
            _ => None,
        };
    }
    false
}
