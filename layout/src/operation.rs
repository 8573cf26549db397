//! Client records of the log: what each namespace operation does, with every result resolved, so that replay is deterministic.
//!
//! A record names inodes by *handle* (8 bytes, any number), which a BIND record since the last freeze has tied to a place in the tree; a CREATE binds the handle of what it
//! makes. Names are {length 1, bytes}, times {seconds 8, nanoseconds 4}. Kinds are never reused; an unknown kind is refused.
//!
//! ```text
//! 256 BIND            handle 8 · target 1 (0 view; 1 parent 8, name; 2 realm root 8, shard 8, inode 8; 3 realm 8, inode 8; 4 directory 8, realm 8)
//! 257 CREATE          handle 8 · parent 8 · time · name · hash key 16 · inode
//! 258 LINK            handle 8 · parent 8 · time · name
//! 259 UNLINK          parent 8 · time · name · fate 1 (0 gone, 1 orphan, 2 survivor {parent 8, name})
//! 260 RENAME          parent 8 · name · new parent 8 · new name · time · exchange 1 · replaced 1 (0 gone or nothing, 1 orphan)
//! 261 WRITE           handle 8 · size 8 · time · pieces 4 {offset 8, length 4, bytes} · objects 4 {file block 8}
//! 262 TRUNCATE        handle 8 · size 8 · time
//! 263 SETATTR         handle 8 · mask 1 (1 mode, 2 owner, 4 group, 8 access time, 16 change of contents) · mode 4 · uid 4 · gid 4 · atime · mtime · time
//! 264 SETXATTR        handle 8 · time · name · length 2 · value
//! 265 REMOVEXATTR     handle 8 · time · name
//! 266 FORK_DIRECTORY  source 8 · parent 8 · time · name · realm 8
//! 267 FORK_FILE       source 8 · parent 8 · time · name · handle 8 · number 8
//! 268 SNAPSHOT        directory 8 · time · name · realm 8
//! 269 DELETE_TREE     parent 8 · time · name · count 4 {realm table key 25}
//! 270 DELETE_SNAPSHOT directory 8 · time · realm 8
//! 271 ORPHAN_DROP     realm 8 · inode 8
//! ```

use crate::codec::{Reader, Writer};
use crate::inode::{NAME_BYTES_MAX, References, XATTR_BYTES_MAX};
use crate::key::RealmKey;
use crate::{Inode, LayoutError, Timestamp};

const STRUCTURE: &str = "namespace record";

/// Kinds; never reused. 272 RESERVE and, for several hosts, 273.. SPLIT, ABSORB, GIVE, TAKE, LEAVE, INSTALL, VERDICT, CUT, PART_DROP, RELEASE, REHOMED, INODE_CHUNK, SEND, RECEIVED, 287 ADOPT are reserved.
mod kind {
    pub(super) const BIND: u16 = 256;
    pub(super) const CREATE: u16 = 257;
    pub(super) const LINK: u16 = 258;
    pub(super) const UNLINK: u16 = 259;
    pub(super) const RENAME: u16 = 260;
    pub(super) const WRITE: u16 = 261;
    pub(super) const TRUNCATE: u16 = 262;
    pub(super) const SETATTR: u16 = 263;
    pub(super) const SETXATTR: u16 = 264;
    pub(super) const REMOVEXATTR: u16 = 265;
    pub(super) const FORK_DIRECTORY: u16 = 266;
    pub(super) const FORK_FILE: u16 = 267;
    pub(super) const SNAPSHOT: u16 = 268;
    pub(super) const DELETE_TREE: u16 = 269;
    pub(super) const DELETE_SNAPSHOT: u16 = 270;
    pub(super) const ORPHAN_DROP: u16 = 271;
}

/// The place that a handle stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindTarget {
    /// Root of the view.
    View,
    /// A name in a directory.
    Named {
        /// Handle of the directory.
        parent: u64,
        /// Name.
        name: Vec<u8>,
    },
    /// A file with several names.
    Link {
        /// Handle of the realm's root.
        realm_root: u64,
        /// Shard of the link table.
        shard: u64,
        /// Inode number.
        inode: u64,
    },
    /// An open file without a name.
    Orphan {
        /// Realm id.
        realm: u64,
        /// Inode number.
        inode: u64,
    },
    /// The root of a snapshot.
    Snapshot {
        /// Handle of the directory.
        directory: u64,
        /// Realm id of the snapshot.
        realm: u64,
    },
}

/// What becomes of an inode whose name is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing, or one name less.
    Gone,
    /// It was the last name, and the file is open: it goes to the orphan list.
    Orphan,
    /// One name is left, and takes the inode back from the link table.
    Survivor {
        /// Handle of its directory.
        parent: u64,
        /// Name.
        name: Vec<u8>,
    },
}

/// New attributes; `None` keeps the old value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Access time.
    pub atime: Option<Timestamp>,
    /// Time of the last change of contents.
    pub mtime: Option<Timestamp>,
}

/// An operation of the namespace. `time` is the time it puts into attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Ties a handle to a place.
    Bind {
        /// The handle.
        handle: u64,
        /// The place.
        target: BindTarget,
    },
    /// Makes a file, directory, symbolic link or special file.
    Create {
        /// Handle of what is made.
        handle: u64,
        /// Handle of the directory.
        parent: u64,
        /// Time.
        time: Timestamp,
        /// Name.
        name: Vec<u8>,
        /// Key of a directory's name hashes; zero for others.
        hash_key: [u8; 16],
        /// The whole inode; a directory uses mode, owner, times and number.
        inode: Box<Inode>,
    },
    /// Gives a file another name.
    Link {
        /// Handle of the file.
        handle: u64,
        /// Handle of the directory.
        parent: u64,
        /// Time.
        time: Timestamp,
        /// New name.
        name: Vec<u8>,
    },
    /// Removes a name; of an empty directory too.
    Unlink {
        /// Handle of the directory.
        parent: u64,
        /// Time.
        time: Timestamp,
        /// Name.
        name: Vec<u8>,
        /// What becomes of the inode.
        fate: Fate,
    },
    /// Moves an entry.
    Rename {
        /// Handle of the directory it is in.
        parent: u64,
        /// Its name.
        name: Vec<u8>,
        /// Handle of the directory it goes to.
        new_parent: u64,
        /// Its new name.
        new_name: Vec<u8>,
        /// Time.
        time: Timestamp,
        /// Swap the two.
        exchange: bool,
        /// The replaced file goes to the orphan list.
        orphan: bool,
    },
    /// Writes bytes.
    Write {
        /// Handle of the file.
        handle: u64,
        /// Size afterwards.
        size: u64,
        /// Time.
        time: Timestamp,
        /// Bytes that go into blocks in memory, by offset.
        pieces: Vec<(u64, Vec<u8>)>,
        /// Where the data objects of the record go, in order: first block in the file.
        direct: Vec<u64>,
    },
    /// Sets a file's size.
    Truncate {
        /// Handle of the file.
        handle: u64,
        /// Size.
        size: u64,
        /// Time.
        time: Timestamp,
    },
    /// Sets attributes.
    SetAttributes {
        /// Handle.
        handle: u64,
        /// The new values.
        attributes: Attributes,
        /// Time.
        time: Timestamp,
    },
    /// Sets an extended attribute.
    SetXattr {
        /// Handle.
        handle: u64,
        /// Time.
        time: Timestamp,
        /// Name.
        name: Vec<u8>,
        /// Value.
        value: Vec<u8>,
    },
    /// Removes an extended attribute.
    RemoveXattr {
        /// Handle.
        handle: u64,
        /// Time.
        time: Timestamp,
        /// Name.
        name: Vec<u8>,
    },
    /// Forks a directory. The record's HLC is the share time of both sides.
    ForkDirectory {
        /// Handle of the source.
        source: u64,
        /// Handle of the directory that the fork goes to.
        parent: u64,
        /// Time.
        time: Timestamp,
        /// Name of the fork.
        name: Vec<u8>,
        /// Realm id of the fork.
        realm: u64,
    },
    /// Forks a file.
    ForkFile {
        /// Handle of the source.
        source: u64,
        /// Handle of the directory that the fork goes to.
        parent: u64,
        /// Time.
        time: Timestamp,
        /// Name of the fork.
        name: Vec<u8>,
        /// Handle of the fork.
        handle: u64,
        /// Inode number of the fork.
        number: u64,
    },
    /// Takes a snapshot of a directory.
    Snapshot {
        /// Handle of the directory.
        directory: u64,
        /// Time.
        time: Timestamp,
        /// Name of the snapshot.
        name: Vec<u8>,
        /// Realm id of the snapshot.
        realm: u64,
    },
    /// Removes a directory with all that is in it.
    DeleteTree {
        /// Handle of the directory it is in.
        parent: u64,
        /// Time.
        time: Timestamp,
        /// Its name.
        name: Vec<u8>,
        /// Items of the realm table that go with it.
        dropped: Vec<RealmKey>,
    },
    /// Removes a snapshot.
    DeleteSnapshot {
        /// Handle of the directory.
        directory: u64,
        /// Time.
        time: Timestamp,
        /// Realm id of the snapshot.
        realm: u64,
    },
    /// Drops a file that has no name.
    OrphanDrop {
        /// Realm id.
        realm: u64,
        /// Inode number.
        inode: u64,
    },
}

fn put_name(out: &mut Writer, name: &[u8]) {
    out.len8("name", name.len(), NAME_BYTES_MAX);
    out.raw(name);
}

fn name(from: &mut Reader<'_>) -> Result<Vec<u8>, LayoutError> {
    let len = from.len8("name", NAME_BYTES_MAX)?;
    Ok(from.take(len)?.to_vec())
}

impl Operation {
    /// Kind and body of the record.
    pub fn encode(&self) -> Result<(u16, Vec<u8>), LayoutError> {
        let mut out = Writer::new(STRUCTURE);
        let kind = self.write(&mut out);
        Ok((kind, out.finish()?))
    }

    fn write(&self, out: &mut Writer) -> u16 {
        match self {
            Self::Bind { handle, target } => {
                out.u64(*handle);
                target.write(out);
                kind::BIND
            }
            Self::Create { handle, parent, time, name, hash_key, inode } => {
                out.u64(*handle);
                out.u64(*parent);
                time.write(out);
                put_name(out, name);
                out.raw(hash_key);
                let mut references = Vec::new();
                inode.write(out, &mut references);
                if !references.is_empty() {
                    out.fail::<()>("references of a new inode", references.len());
                }
                kind::CREATE
            }
            Self::Link { handle, parent, time, name } => {
                out.u64(*handle);
                out.u64(*parent);
                time.write(out);
                put_name(out, name);
                kind::LINK
            }
            Self::Unlink { parent, time, name, fate } => {
                out.u64(*parent);
                time.write(out);
                put_name(out, name);
                match fate {
                    Fate::Gone => out.u8(0),
                    Fate::Orphan => out.u8(1),
                    Fate::Survivor { parent, name } => {
                        out.u8(2);
                        out.u64(*parent);
                        put_name(out, name);
                    }
                }
                kind::UNLINK
            }
            Self::Rename { parent, name, new_parent, new_name, time, exchange, orphan } => {
                out.u64(*parent);
                put_name(out, name);
                out.u64(*new_parent);
                put_name(out, new_name);
                time.write(out);
                out.flag(*exchange);
                out.flag(*orphan);
                kind::RENAME
            }
            Self::Write { handle, size, time, pieces, direct } => {
                out.u64(*handle);
                out.u64(*size);
                time.write(out);
                out.len32("pieces", pieces.len(), usize::MAX);
                for (offset, bytes) in pieces {
                    out.u64(*offset);
                    out.len32("piece", bytes.len(), usize::MAX);
                    out.raw(bytes);
                }
                out.len32("objects", direct.len(), usize::MAX);
                for block in direct {
                    out.u64(*block);
                }
                kind::WRITE
            }
            Self::Truncate { handle, size, time } => {
                out.u64(*handle);
                out.u64(*size);
                time.write(out);
                kind::TRUNCATE
            }
            Self::SetAttributes { handle, attributes, time } => {
                out.u64(*handle);
                attributes.write(out);
                time.write(out);
                kind::SETATTR
            }
            Self::SetXattr { handle, time, name, value } => {
                out.u64(*handle);
                time.write(out);
                put_name(out, name);
                out.len16("value", value.len(), XATTR_BYTES_MAX);
                out.raw(value);
                kind::SETXATTR
            }
            Self::RemoveXattr { handle, time, name } => {
                out.u64(*handle);
                time.write(out);
                put_name(out, name);
                kind::REMOVEXATTR
            }
            Self::ForkDirectory { source, parent, time, name, realm } => {
                out.u64(*source);
                out.u64(*parent);
                time.write(out);
                put_name(out, name);
                out.u64(*realm);
                kind::FORK_DIRECTORY
            }
            Self::ForkFile { source, parent, time, name, handle, number } => {
                out.u64(*source);
                out.u64(*parent);
                time.write(out);
                put_name(out, name);
                out.u64(*handle);
                out.u64(*number);
                kind::FORK_FILE
            }
            Self::Snapshot { directory, time, name, realm } => {
                out.u64(*directory);
                time.write(out);
                put_name(out, name);
                out.u64(*realm);
                kind::SNAPSHOT
            }
            Self::DeleteTree { parent, time, name, dropped } => {
                out.u64(*parent);
                time.write(out);
                put_name(out, name);
                out.len32("dropped", dropped.len(), usize::MAX);
                for key in dropped {
                    out.raw(&key.encode());
                }
                kind::DELETE_TREE
            }
            Self::DeleteSnapshot { directory, time, realm } => {
                out.u64(*directory);
                time.write(out);
                out.u64(*realm);
                kind::DELETE_SNAPSHOT
            }
            Self::OrphanDrop { realm, inode } => {
                out.u64(*realm);
                out.u64(*inode);
                kind::ORPHAN_DROP
            }
        }
    }

    /// From the kind and body of a record.
    pub fn decode(kind: u16, body: &[u8]) -> Result<Self, LayoutError> {
        let mut from = Reader::new(STRUCTURE, body);
        let operation = Self::read(kind, &mut from)?;
        from.end()?;
        Ok(operation)
    }

    fn read(kind: u16, from: &mut Reader<'_>) -> Result<Self, LayoutError> {
        Ok(match kind {
            kind::BIND => Self::Bind { handle: from.u64()?, target: BindTarget::read(from)? },
            kind::CREATE => Self::Create {
                handle: from.u64()?,
                parent: from.u64()?,
                time: Timestamp::read(from)?,
                name: name(from)?,
                hash_key: from.array()?,
                inode: Box::new(Inode::read(from, &mut References::new(&[]))?),
            },
            kind::LINK => {
                Self::Link { handle: from.u64()?, parent: from.u64()?, time: Timestamp::read(from)?, name: name(from)? }
            }
            kind::UNLINK => Self::Unlink {
                parent: from.u64()?,
                time: Timestamp::read(from)?,
                name: name(from)?,
                fate: match from.u8()? {
                    0 => Fate::Gone,
                    1 => Fate::Orphan,
                    2 => Fate::Survivor { parent: from.u64()?, name: name(from)? },
                    other => return Err(from.unknown("fate", other.into())),
                },
            },
            kind::RENAME => Self::Rename {
                parent: from.u64()?,
                name: name(from)?,
                new_parent: from.u64()?,
                new_name: name(from)?,
                time: Timestamp::read(from)?,
                exchange: from.flag("exchange")?,
                orphan: from.flag("orphan")?,
            },
            kind::WRITE => {
                let (handle, size, time) = (from.u64()?, from.u64()?, Timestamp::read(from)?);
                let count = from.len32("pieces", from.remaining())?;
                let mut pieces = Vec::new();
                for _ in 0..count {
                    let offset = from.u64()?;
                    let len = from.len32("piece", from.remaining())?;
                    pieces.push((offset, from.take(len)?.to_vec()));
                }
                let count = from.len32("objects", from.remaining())?;
                let direct = (0..count).map(|_| from.u64()).collect::<Result<_, _>>()?;
                Self::Write { handle, size, time, pieces, direct }
            }
            kind::TRUNCATE => Self::Truncate { handle: from.u64()?, size: from.u64()?, time: Timestamp::read(from)? },
            kind::SETATTR => Self::SetAttributes {
                handle: from.u64()?,
                attributes: Attributes::read(from)?,
                time: Timestamp::read(from)?,
            },
            kind::SETXATTR => {
                let (handle, time, name) = (from.u64()?, Timestamp::read(from)?, name(from)?);
                let len = from.len16("value", XATTR_BYTES_MAX)?;
                Self::SetXattr { handle, time, name, value: from.take(len)?.to_vec() }
            }
            kind::REMOVEXATTR => {
                Self::RemoveXattr { handle: from.u64()?, time: Timestamp::read(from)?, name: name(from)? }
            }
            kind::FORK_DIRECTORY => Self::ForkDirectory {
                source: from.u64()?,
                parent: from.u64()?,
                time: Timestamp::read(from)?,
                name: name(from)?,
                realm: from.u64()?,
            },
            kind::FORK_FILE => Self::ForkFile {
                source: from.u64()?,
                parent: from.u64()?,
                time: Timestamp::read(from)?,
                name: name(from)?,
                handle: from.u64()?,
                number: from.u64()?,
            },
            kind::SNAPSHOT => Self::Snapshot {
                directory: from.u64()?,
                time: Timestamp::read(from)?,
                name: name(from)?,
                realm: from.u64()?,
            },
            kind::DELETE_TREE => {
                let (parent, time, name) = (from.u64()?, Timestamp::read(from)?, name(from)?);
                let count = from.len32("dropped", from.remaining())?;
                let dropped =
                    (0..count).map(|_| RealmKey::decode(from.take(RealmKey::BYTES)?)).collect::<Result<_, _>>()?;
                Self::DeleteTree { parent, time, name, dropped }
            }
            kind::DELETE_SNAPSHOT => {
                Self::DeleteSnapshot { directory: from.u64()?, time: Timestamp::read(from)?, realm: from.u64()? }
            }
            kind::ORPHAN_DROP => Self::OrphanDrop { realm: from.u64()?, inode: from.u64()? },
            other => return Err(from.unknown("kind", other.into())),
        })
    }
}

impl BindTarget {
    fn write(&self, out: &mut Writer) {
        match self {
            Self::View => out.u8(0),
            Self::Named { parent, name } => {
                out.u8(1);
                out.u64(*parent);
                put_name(out, name);
            }
            Self::Link { realm_root, shard, inode } => {
                out.u8(2);
                out.u64(*realm_root);
                out.u64(*shard);
                out.u64(*inode);
            }
            Self::Orphan { realm, inode } => {
                out.u8(3);
                out.u64(*realm);
                out.u64(*inode);
            }
            Self::Snapshot { directory, realm } => {
                out.u8(4);
                out.u64(*directory);
                out.u64(*realm);
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, LayoutError> {
        Ok(match from.u8()? {
            0 => Self::View,
            1 => Self::Named { parent: from.u64()?, name: name(from)? },
            2 => Self::Link { realm_root: from.u64()?, shard: from.u64()?, inode: from.u64()? },
            3 => Self::Orphan { realm: from.u64()?, inode: from.u64()? },
            4 => Self::Snapshot { directory: from.u64()?, realm: from.u64()? },
            other => return Err(from.unknown("bind target", other.into())),
        })
    }
}

impl Attributes {
    fn write(&self, out: &mut Writer) {
        let bits =
            [self.mode.is_some(), self.uid.is_some(), self.gid.is_some(), self.atime.is_some(), self.mtime.is_some()];
        out.u8(bits.iter().rev().fold(0, |mask, bit| mask << 1 | u8::from(*bit)));
        out.u32(self.mode.unwrap_or(0));
        out.u32(self.uid.unwrap_or(0));
        out.u32(self.gid.unwrap_or(0));
        self.atime.unwrap_or_default().write(out);
        self.mtime.unwrap_or_default().write(out);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, LayoutError> {
        let mask = from.u8()?;
        if mask & !31 != 0 {
            return Err(from.unknown("attribute mask", mask.into()));
        }
        let (mode, uid, gid) = (from.u32()?, from.u32()?, from.u32()?);
        let (atime, mtime) = (Timestamp::read(from)?, Timestamp::read(from)?);
        let has = |bit: u8| mask & bit != 0;
        let zero = Timestamp::default();
        let unset = (has(1) || mode == 0)
            && (has(2) || uid == 0)
            && (has(4) || gid == 0)
            && (has(8) || atime == zero)
            && (has(16) || mtime == zero);
        if !unset {
            return Err(from.field("attribute that the mask leaves out", mask.into()));
        }
        Ok(Self {
            mode: has(1).then_some(mode),
            uid: has(2).then_some(uid),
            gid: has(4).then_some(gid),
            atime: has(8).then_some(atime),
            mtime: has(16).then_some(mtime),
        })
    }
}

#[cfg(test)]
mod tests;
