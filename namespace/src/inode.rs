//! A live inode: what memory knows of a file or directory beyond its stored entry.
//!
//! Owns identity, place in the tree, share time, dirty marks and the state behind the lock. It promises that whoever holds the freeze lock (shared) and an inode's state
//! lock sees a consistent inode, and that a dirty inode stays in memory until a checkpoint contains it. If power fails, all of this is rebuilt from roots and log.
//!
//! Lock order: state (directories before files, each by id) -> place -> dirty sets. Places of *directories* change only under the freeze lock held exclusively, so that whoever holds it shared
//! may climb without locks of the ancestors.

use crate::api::{Attributes, Error, FileType, InodeId, Result, Time};
use crate::by_epoch::ByEpoch;
use crate::charge::Charge;
use crate::directory::Directory;
use crate::file::Content;
use crate::realm::Realm;
use envoyfs_layout::Hlc;
use envoyfs_layout::inode::{Inode as StoredInode, Timestamp};
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Key of an entry in its directory's tree (hash, collision index, name), as stored.
pub(crate) type EntryKey = Vec<u8>;

/// Where an inode's entry is.
#[derive(Clone)]
pub(crate) enum Place {
    /// The root of the view: its entry is in the territory record.
    View,
    /// An entry in a directory.
    Named {
        /// The directory.
        parent: Arc<Inode>,
        /// Key in it.
        key: EntryKey,
    },
    /// The link table of its realm, whose root this is: it has several names.
    Linked(Arc<Inode>),
    /// The orphan list: it has no name and is open.
    Orphan,
    /// The root of a snapshot of this directory, or the virtual directory that lists its snapshots.
    Snapshot(Arc<Inode>),
    /// Nowhere: removed, or in a tree that was deleted.
    Gone,
}

/// Children that changed, by entry key, for the two epochs that can be open at once.
pub(crate) type DirtySets = ByEpoch<BTreeMap<EntryKey, Arc<Inode>>>;

/// State behind an inode's lock.
pub(crate) enum State {
    /// A directory.
    Directory(Box<Directory>),
    /// A regular file.
    File(Box<File>),
    /// Symbolic link or special file: the inode is all there is.
    Other(Box<Plain>),
    /// `.snap`: lists the snapshots of a directory.
    SnapshotList,
}

/// Attributes of what is not a directory, as they are and as they were at the last freeze.
pub(crate) struct Attributed {
    /// As they are.
    pub inode: StoredInode,
    /// Birth of the newest change of attributes or contents.
    pub changed: Hlc,
    /// Epoch of the newest change.
    pub epoch: u64,
    /// As they were at the end of an epoch, kept by the first change in a later one. Of use to the builder of just that epoch.
    pub frozen: Option<FrozenInode>,
}

/// Attributes as they were at the end of an epoch.
#[derive(Clone)]
pub(crate) struct FrozenInode {
    /// The epoch.
    pub epoch: u64,
    /// Attributes.
    pub inode: StoredInode,
    /// Birth of their newest change.
    pub changed: Hlc,
}

/// A regular file.
pub(crate) struct File {
    /// Attributes; the body in here is not used.
    pub attributed: Attributed,
    /// What it contains.
    pub content: Content,
}

/// A symbolic link or special file.
pub(crate) struct Plain {
    /// Attributes and target.
    pub attributed: Attributed,
}

impl Attributed {
    /// As stored.
    pub fn new(inode: StoredInode, changed: Hlc, epoch: u64) -> Self {
        Self { inode, changed, epoch, frozen: None }
    }

    /// Before a change in this epoch: keeps what the builder of the last one may still need. True if the contents have to be rolled as well.
    fn roll(&mut self, epoch: u64) -> bool {
        let older = self.epoch < epoch;
        if older {
            self.frozen =
                Some(FrozenInode { epoch: epoch.saturating_sub(1), inode: self.inode.clone(), changed: self.changed });
            self.epoch = epoch;
        }
        older
    }

    /// The attributes at the end of `epoch`. Nothing has changed since, unless `frozen` says what was before.
    pub fn at_end_of(&self, epoch: u64) -> FrozenInode {
        match &self.frozen {
            Some(frozen) if frozen.epoch == epoch && self.epoch > epoch => frozen.clone(),
            _ => FrozenInode { epoch, inode: self.inode.clone(), changed: self.changed },
        }
    }
}

impl File {
    /// Before any change: keeps the state of an older epoch for the builder.
    pub fn touch(&mut self, epoch: u64, birth: Hlc) {
        if self.attributed.roll(epoch) {
            self.content.roll();
        }
        self.attributed.changed = self.attributed.changed.max(birth);
    }
}

impl Plain {
    /// See [`File::touch`].
    pub fn touch(&mut self, epoch: u64, birth: Hlc) {
        self.attributed.roll(epoch);
        self.attributed.changed = self.attributed.changed.max(birth);
    }
}

/// A live inode.
pub(crate) struct Inode {
    /// Identity in this mount.
    pub id: InodeId,
    /// Number within its realm.
    pub number: u64,
    /// With the identity, unique over time.
    pub generation: u32,
    /// Type; never changes.
    pub file_type: FileType,
    /// The realm it belongs to. The root of a realm belongs to that realm.
    pub realm: Arc<Realm>,
    /// Its own entry's share time: HLC of the newest fork of, or into, it (DESIGN 3).
    share: AtomicU64,
    /// Epoch in which the log last bound its handle.
    pub bound_epoch: AtomicU64,
    /// Epoch in which it was last marked dirty.
    pub dirty_epoch: AtomicU64,
    /// Reserved in this epoch for the tree that it has: a directory's entries, a file's extents.
    pub charge: Mutex<Charge>,
    /// How often the front end has been given it.
    pub lookups: AtomicU64,
    /// How often it is open.
    pub opens: AtomicU32,
    /// Names of a linked file that are known in memory, for turning it back into an embedded inode.
    pub names: Mutex<Vec<(Arc<Inode>, EntryKey)>>,
    /// Where its entry is.
    pub place: Mutex<Place>,
    /// Its changed children.
    pub dirty: Mutex<DirtySets>,
    /// Everything else.
    state: RwLock<State>,
}

impl Inode {
    /// A live inode as its stored entry describes it.
    pub fn new(
        realm: Arc<Realm>,
        number: u64,
        generation: u32,
        file_type: FileType,
        share: Hlc,
        place: Place,
        state: State,
    ) -> Self {
        Self {
            id: realm.inode_id(number),
            number,
            generation,
            file_type,
            realm,
            share: AtomicU64::new(share.0),
            bound_epoch: AtomicU64::new(0),
            dirty_epoch: AtomicU64::new(0),
            charge: Mutex::default(),
            lookups: AtomicU64::new(0),
            opens: AtomicU32::new(0),
            names: Mutex::new(Vec::new()),
            place: Mutex::new(place),
            dirty: Mutex::new(DirtySets::default()),
            state: RwLock::new(state),
        }
    }

    /// Its own share time.
    pub fn share(&self) -> Hlc {
        Hlc(self.share.load(Ordering::Acquire))
    }

    /// Raises its share time, never lowers it (INV-04).
    pub fn raise_share(&self, to: Hlc) {
        self.share.fetch_max(to.0, Ordering::AcqRel);
    }

    /// Where its entry is now.
    pub fn place(&self) -> Place {
        self.place.lock().clone()
    }

    /// State for reading.
    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    /// State for changing.
    pub fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write()
    }

    /// Largest share time on the path from the root, its own included. Caller holds the freeze lock, so that no directory moves.
    pub fn path_share(&self) -> Hlc {
        let mut share = self.share();
        let mut place = self.place();
        loop {
            let up = match place {
                Place::Named { parent, .. } => parent,
                Place::Linked(root) => {
                    share = share.max(root.realm.links_share());
                    root
                }
                Place::View | Place::Orphan | Place::Snapshot(_) | Place::Gone => return share,
            };
            share = share.max(up.share());
            place = up.place();
        }
    }

    /// Is it in the tree, or at least an orphan?
    pub fn is_alive(&self) -> bool {
        !matches!(*self.place.lock(), Place::Gone)
    }

    /// Refuses changes of what is frozen or removed.
    pub fn check_writable(&self) -> Result<()> {
        if self.realm.read_only {
            return Err(Error::ReadOnly("a snapshot never changes; fork it to get a writable copy".into()));
        }
        if self.is_alive() { Ok(()) } else { Err(Error::Stale) }
    }
}

impl Inode {
    /// Lets go of the directories above.
    fn take_above(&mut self) -> Vec<Arc<Self>> {
        let names = std::mem::take(self.names.get_mut());
        let mut above: Vec<_> = names.into_iter().map(|(parent, _)| parent).collect();
        match std::mem::replace(self.place.get_mut(), Place::Gone) {
            Place::Named { parent, .. } | Place::Linked(parent) | Place::Snapshot(parent) => above.push(parent),
            Place::View | Place::Orphan | Place::Gone => {}
        }
        above
    }
}

impl Drop for Inode {
    /// Takes the chain of directories above apart one by one: left to itself it would recurse as deep as the tree is.
    fn drop(&mut self) {
        let mut above = self.take_above();
        while let Some(next) = above.pop() {
            if let Some(mut next) = Arc::into_inner(next) {
                above.append(&mut next.take_above());
            }
        }
    }
}

impl State {
    /// The directory, or `NotDirectory`.
    pub fn directory(&self) -> Result<&Directory> {
        match self {
            Self::Directory(directory) => Ok(directory),
            _ => Err(Error::NotDirectory),
        }
    }

    /// The directory, or `NotDirectory`.
    pub fn directory_mut(&mut self) -> Result<&mut Directory> {
        match self {
            Self::Directory(directory) => Ok(directory),
            Self::SnapshotList => Err(Error::NotPermitted("only snapshots can be made here")),
            _ => Err(Error::NotDirectory),
        }
    }

    /// The regular file, or an error.
    pub fn file(&self) -> Result<&File> {
        match self {
            Self::File(file) => Ok(file),
            Self::Directory(_) | Self::SnapshotList => Err(Error::IsDirectory),
            Self::Other(_) => Err(Error::Invalid("not a regular file")),
        }
    }

    /// The regular file, or an error.
    pub fn file_mut(&mut self) -> Result<&mut File> {
        match self {
            Self::File(file) => Ok(file),
            Self::Directory(_) | Self::SnapshotList => Err(Error::IsDirectory),
            Self::Other(_) => Err(Error::Invalid("not a regular file")),
        }
    }

    /// The embedded inode of what is not a directory.
    pub fn inode(&self) -> Option<&StoredInode> {
        match self {
            Self::File(file) => Some(&file.attributed.inode),
            Self::Other(plain) => Some(&plain.attributed.inode),
            Self::Directory(_) | Self::SnapshotList => None,
        }
    }

    /// The embedded inode of what is not a directory, to be changed in this epoch with this birth.
    pub fn inode_mut(&mut self, epoch: u64, birth: Hlc) -> Option<&mut StoredInode> {
        match self {
            Self::File(file) => {
                file.touch(epoch, birth);
                Some(&mut file.attributed.inode)
            }
            Self::Other(plain) => {
                plain.touch(epoch, birth);
                Some(&mut plain.attributed.inode)
            }
            Self::Directory(_) | Self::SnapshotList => None,
        }
    }
}

/// Attributes of a live inode. Caller holds its state.
pub(crate) fn attributes(inode: &Inode, state: &State) -> Attributes {
    let base = |mode: u32, nlink, uid, gid, rdev, size, allocated, times: [Timestamp; 4]| {
        let [atime, mtime, ctime, btime] = times.map(time);
        Attributes {
            id: inode.id,
            generation: inode.generation,
            file_type: inode.file_type,
            permissions: permissions(mode),
            nlink,
            uid,
            gid,
            rdev,
            size,
            allocated,
            atime,
            mtime,
            ctime,
            btime,
        }
    };
    match state {
        State::Directory(d) => {
            let a = &d.own.attributes;
            base(a.mode, 1, a.uid, a.gid, 0, 4096, 4096, [a.atime, a.mtime, a.ctime, a.btime])
        }
        State::File(f) => {
            let i = &f.attributed.inode;
            base(
                i.mode,
                i.nlink,
                i.uid,
                i.gid,
                i.rdev,
                i.size,
                f.content.allocated(),
                [i.atime, i.mtime, i.ctime, i.btime],
            )
        }
        State::Other(p) => {
            let i = &p.attributed.inode;
            base(i.mode, i.nlink, i.uid, i.gid, i.rdev, i.size, 0, [i.atime, i.mtime, i.ctime, i.btime])
        }
        State::SnapshotList => base(0o040_555, 1, 0, 0, 0, 4096, 0, [Timestamp::default(); 4]),
    }
}

/// Permission bits of a mode.
pub(crate) fn permissions(mode: u32) -> u16 {
    let [low, high, ..] = (mode & 0o7777).to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// A stored time as front ends see it.
pub(crate) fn time(t: Timestamp) -> Time {
    Time { seconds: t.seconds, nanoseconds: t.nanoseconds }
}

/// A time as it is stored.
pub(crate) fn timestamp(t: Time) -> Timestamp {
    Timestamp { seconds: t.seconds, nanoseconds: t.nanoseconds.min(999_999_999) }
}

/// Type of a stored mode, if it is one this version knows.
pub(crate) fn file_type(mode: u32) -> Option<FileType> {
    Some(match mode & 0o170_000 {
        0o100_000 => FileType::Regular,
        0o040_000 => FileType::Directory,
        0o120_000 => FileType::Symlink,
        0o010_000 => FileType::Fifo,
        0o140_000 => FileType::Socket,
        0o020_000 => FileType::CharDevice,
        0o060_000 => FileType::BlockDevice,
        _ => return None,
    })
}

/// Type bits of a mode.
pub(crate) const fn type_bits(file_type: FileType) -> u32 {
    match file_type {
        FileType::Regular => 0o100_000,
        FileType::Directory => 0o040_000,
        FileType::Symlink => 0o120_000,
        FileType::Fifo => 0o010_000,
        FileType::Socket => 0o140_000,
        FileType::CharDevice => 0o020_000,
        FileType::BlockDevice => 0o060_000,
    }
}
