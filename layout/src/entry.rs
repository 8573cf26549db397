//! What a name in a directory stands for: the value of an item in a directory's tree.
//!
//! ```text
//! | kind 1 | ...
//! 1 file, 3 symlink, 4 special: inode
//! 2 directory: place
//! 5 link:      | shard 8 | inode 8 | mode 4 |
//! 6 realm:     | realm fields | (see realm.rs)
//! 7 exit, 8 frozen exit: reserved for children of other territories, refused
//! place: | share 8 | number 8 | generation 4 | totals 32 | snapshots 1 |, one reference: the root of the directory's tree
//! ```
//! An unknown kind is refused, never skipped.

use crate::codec::{Reader, Writer};
use crate::inode::{References, mode};
use crate::{Hlc, Inode, LayoutError, RealmEntry, Reference, Totals, flags};

const STRUCTURE: &str = "entry";

/// Kind bytes; never reused.
mod kind {
    pub(super) const FILE: u8 = 1;
    pub(super) const DIRECTORY: u8 = 2;
    pub(super) const SYMLINK: u8 = 3;
    pub(super) const SPECIAL: u8 = 4;
    pub(super) const LINK: u8 = 5;
    pub(super) const REALM: u8 = 6;
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Regular file with this one name.
    File(Inode),
    /// Directory of the same realm.
    Directory(DirectoryEntry),
    /// Symbolic link; the target is the inode's inline body.
    Symlink(Inode),
    /// Fifo, socket or device.
    Special(Inode),
    /// One of several names of a file in the realm's link table.
    Link(LinkEntry),
    /// Root of a realm: a clone, or the view itself.
    Realm(RealmEntry),
}

/// A directory's entry in its parent. Everything else of it is in the root node of its tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// HLC of the newest fork of, or into, this place.
    pub share: Hlc,
    /// Inode number in its realm.
    pub number: u64,
    /// (number, generation) is unique over time.
    pub generation: u32,
    /// Sums over what is below, the directory itself not counted.
    pub totals: Totals,
    /// The directory itself has (or had) snapshots.
    pub snapshots: bool,
    /// Root of its tree; its flags are the OR over the tree's entries.
    pub root: Reference,
}

/// One of several names of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkEntry {
    /// Link table shard, 1 in a territory that was never split.
    pub shard: u64,
    /// Inode number.
    pub inode: u64,
    /// Type and permissions when the name was made; only the type is used.
    pub mode: u32,
}

impl Entry {
    /// Value bytes and the references of the item, in order.
    pub fn encode(&self) -> Result<(Vec<u8>, Vec<Reference>), LayoutError> {
        let mut out = Writer::new(STRUCTURE);
        let mut references = Vec::new();
        match self {
            Self::File(inode) => {
                out.u8(kind::FILE);
                inode.write(&mut out, &mut references);
            }
            Self::Symlink(inode) => {
                out.u8(kind::SYMLINK);
                inode.write(&mut out, &mut references);
            }
            Self::Special(inode) => {
                out.u8(kind::SPECIAL);
                inode.write(&mut out, &mut references);
            }
            Self::Directory(directory) => {
                out.u8(kind::DIRECTORY);
                directory.write(&mut out, &mut references);
            }
            Self::Link(link) => {
                out.u8(kind::LINK);
                out.u64(link.shard);
                out.u64(link.inode);
                out.u32(link.mode);
            }
            Self::Realm(realm) => {
                out.u8(kind::REALM);
                realm.write(&mut out, &mut references);
            }
        }
        Ok((out.finish()?, references))
    }
    /// From an item's value and references, all of which must be used.
    pub fn decode(value: &[u8], references: &[Reference]) -> Result<Self, LayoutError> {
        let mut from = Reader::new(STRUCTURE, value);
        let mut references = References::new(references);
        let kind = from.u8()?;
        let entry = match kind {
            kind::FILE | kind::SYMLINK | kind::SPECIAL => {
                let inode = Inode::read(&mut from, &mut references)?;
                let entry = Self::of_inode(inode)?;
                if entry.kind() != kind {
                    return Err(from.field("kind for this mode", kind.into()));
                }
                entry
            }
            kind::DIRECTORY => Self::Directory(DirectoryEntry::read(&mut from, &mut references)?),
            kind::LINK => Self::Link(LinkEntry { shard: from.u64()?, inode: from.u64()?, mode: from.u32()? }),
            kind::REALM => Self::Realm(RealmEntry::read(&mut from, &mut references)?),
            other => return Err(from.unknown("entry kind", other.into())),
        };
        from.end()?;
        references.end(STRUCTURE)?;
        Ok(entry)
    }
    /// The entry of a file, symbolic link or special file, by the type in its mode.
    pub fn of_inode(inode: Inode) -> Result<Self, LayoutError> {
        Ok(match inode.mode & mode::TYPE {
            mode::REGULAR => Self::File(inode),
            mode::SYMLINK => Self::Symlink(inode),
            mode::FIFO | mode::SOCKET | mode::CHAR_DEVICE | mode::BLOCK_DEVICE => Self::Special(inode),
            _ => {
                return Err(LayoutError::Field { structure: STRUCTURE, field: "mode", found: inode.mode.into() });
            }
        })
    }
    /// The embedded inode, if this kind has one.
    #[must_use]
    pub const fn inode(&self) -> Option<&Inode> {
        match self {
            Self::File(inode) | Self::Symlink(inode) | Self::Special(inode) => Some(inode),
            Self::Directory(_) | Self::Link(_) | Self::Realm(_) => None,
        }
    }
    /// Its own share time; a link has none, its inode in the link table has one.
    #[must_use]
    pub const fn share(&self) -> Hlc {
        match self {
            Self::File(inode) | Self::Symlink(inode) | Self::Special(inode) => inode.share,
            Self::Directory(directory) => directory.share,
            Self::Realm(realm) => realm.share,
            Self::Link(_) => Hlc::ZERO,
        }
    }
    /// What the entry adds to the totals and flags of the directories above (INV-27, INV-50).
    #[must_use]
    pub fn summary(&self) -> (Totals, u8) {
        match self {
            Self::File(inode) | Self::Symlink(inode) | Self::Special(inode) => (file(inode.body.allocated()), 0),
            Self::Directory(directory) => directory.summary(),
            Self::Link(_) => LINK,
            Self::Realm(realm) => realm.summary(),
        }
    }
    /// [`Entry::summary`] of an encoded entry, without building it.
    pub fn summarize(value: &[u8], references: &[Reference]) -> Result<(Totals, u8), LayoutError> {
        match value.split_first() {
            Some((&(kind::FILE | kind::SYMLINK | kind::SPECIAL), inode)) => Ok((file(Inode::allocated_of(inode)?), 0)),
            Some((&kind::LINK, _)) => Ok(LINK),
            _ => Ok(Self::decode(value, references)?.summary()),
        }
    }
    const fn kind(&self) -> u8 {
        match self {
            Self::File(_) => kind::FILE,
            Self::Directory(_) => kind::DIRECTORY,
            Self::Symlink(_) => kind::SYMLINK,
            Self::Special(_) => kind::SPECIAL,
            Self::Link(_) => kind::LINK,
            Self::Realm(_) => kind::REALM,
        }
    }
}

const LINK: (Totals, u8) = (Totals { bytes: 0, files: 0, directories: 0, links: 1 }, flags::LINKS);

const fn file(bytes: u64) -> Totals {
    Totals { bytes, files: 1, directories: 0, links: 0 }
}

impl DirectoryEntry {
    /// What it adds above: its totals and itself; its tree's flags and its own SNAPSHOTS bit.
    #[must_use]
    pub const fn summary(&self) -> (Totals, u8) {
        let itself = Totals { bytes: 0, files: 0, directories: 1, links: 0 };
        let own = if self.snapshots { flags::SNAPSHOTS } else { 0 };
        (self.totals.add(itself), self.root.flags | own)
    }
    pub(crate) fn write(&self, out: &mut Writer, references: &mut Vec<Reference>) {
        if self.number == 0 {
            out.fail::<()>("number", 0);
        }
        out.hlc(self.share);
        out.u64(self.number);
        out.u32(self.generation);
        out.totals(&self.totals);
        out.flag(self.snapshots);
        references.push(self.root);
    }
    pub(crate) fn read(from: &mut Reader<'_>, references: &mut References<'_>) -> Result<Self, LayoutError> {
        let (share, number, generation) = (from.hlc()?, from.u64()?, from.u32()?);
        if number == 0 {
            return Err(from.field("number", 0));
        }
        Ok(Self {
            share,
            number,
            generation,
            totals: from.totals()?,
            snapshots: from.flag("snapshots")?,
            root: references.take(STRUCTURE)?,
        })
    }
}

#[cfg(test)]
mod tests;
