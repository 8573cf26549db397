//! Making files, directories, symbolic links and special files.

use crate::api::{Attributes, Context, Error, FileType, InodeId, Make, Result};
use crate::apply::Locked;
use crate::charge::NEW_TREE_BYTES;
use crate::directory::{Found, check_name};
use crate::inode::{State, type_bits};
use crate::namespace::Namespace;
use crate::operation::RECORD_BYTES;
use envoyfs_engine::store::{Counter, Tier};
use envoyfs_layout::inode::{Body, Inode as StoredInode, SYMLINK_BYTES_MAX};
use envoyfs_layout::operation::Operation;
use std::sync::atomic::Ordering;

/// The bit by which a directory gives its group to what is made in it.
const SETGID: u32 = 0o2000;

impl Namespace {
    /// Makes a file, directory, symbolic link or special file and raises its lookup count. In `.snap` a directory is a snapshot of the directory that `.snap` is in.
    ///
    /// # Errors
    /// `Exists`, `NoSpace`, `NameTooLong`, `ReadOnly`, `Stale`, or a failed read.
    pub fn make(
        &self,
        cx: &Context,
        parent: InodeId,
        name: &[u8],
        make: &Make<'_>,
        permissions: u16,
    ) -> Result<Attributes> {
        self.check(cx)?;
        let parent = self.live(parent)?;
        if matches!(*parent.read(), State::SnapshotList) {
            return match make {
                Make::Directory => self.snapshot(cx, self.above(&parent)?.id, name),
                _ => Err(Error::NotPermitted("only snapshots can be made in .snap: mkdir .snap/NAME")),
            };
        }
        check_name(name)?;
        let file_type = match make {
            Make::File => FileType::Regular,
            Make::Directory => FileType::Directory,
            Make::Symlink(_) => FileType::Symlink,
            Make::Special(FileType::Regular | FileType::Directory | FileType::Symlink, _) => {
                return Err(Error::Invalid("not a special file"));
            }
            Make::Special(file_type, _) => *file_type,
        };
        let body = match make {
            Make::Symlink(target) if target.is_empty() || target.len() > SYMLINK_BYTES_MAX => {
                return Err(Error::NameTooLong);
            }
            Make::Symlink(target) => Body::inline(target.to_vec()),
            _ => Body::None,
        };
        let size = if let Make::Symlink(target) = make { target.len() } else { 0 };
        let number = self.store.number(Counter::Inode)?;
        let time = self.timestamp();
        let mut stored = StoredInode {
            number,
            mode: type_bits(file_type) | u32::from(permissions),
            uid: cx.credentials.uid,
            gid: cx.credentials.gid,
            nlink: 1,
            rdev: if let Make::Special(_, rdev) = make { *rdev } else { 0 },
            size: u64::try_from(size).unwrap_or(0),
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
            body,
            ..StoredInode::default()
        };
        let hash_key = self.hash_key(number);
        let more = if file_type == FileType::Directory { NEW_TREE_BYTES } else { 0 };
        let mut permit = self.reserve_more(more, &[&parent], RECORD_BYTES + name.len() + size, 0, 0, Tier::Writer)?;

        let _change = self.change();
        let mut locked = Locked::new([&parent]);
        parent.check_writable()?;
        let directory = locked.directory(&parent)?;
        let of = &directory.own.attributes;
        if of.mode & SETGID != 0 {
            stored.gid = of.gid;
            if file_type == FileType::Directory {
                stored.mode |= SETGID;
            }
        }
        let Found::Absent(key) = directory.find(&self.nodes, &self.trees.directory, name)? else {
            return Err(Error::Exists);
        };
        let handle = parent.realm.inode_id(number).0;
        let operation = Operation::Create {
            handle,
            parent: self.bind(&mut permit, &parent)?,
            time,
            name: name.to_vec(),
            hash_key,
            inode: Box::new(stored.clone()),
        };
        let stamp = self.stamp(self.append(&mut permit, &operation, &[])?);
        let inode = self.applied(self.apply_create(stamp, &mut locked, &parent, key, time, &stored, hash_key))?;
        inode.bound_epoch.store(stamp.epoch, Ordering::Release);
        drop(locked);
        Ok(self.known(&inode))
    }

    /// Key of a directory's name hashes: secret, so that nobody can make names that collide; resolved in the record, so that replay needs no secret.
    fn hash_key(&self, number: u64) -> [u8; 16] {
        use siphasher::sip128::{Hasher128, SipHasher13};
        use std::hash::Hasher;
        let mut hasher = SipHasher13::new_with_key(&self.options.seed);
        hasher.write_u64(number);
        hasher.finish128().as_bytes()
    }
}
