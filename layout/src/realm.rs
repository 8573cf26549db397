//! Realms: the entry that stands for a realm's root, the record outside every frozen tree, and the items of its snapshot list.
//!
//! ```text
//! realm fields:   | place (as in a directory entry) | realm id 8 | home 8 | read-only 1 | links 1 | links share 8 | links totals 32 |
//!                 references: root; then the link table's root if "links" is 1
//! realm record:   | version 1 | reserved 3 | index 4 | created 8 | snapshots 8 | orphans 8 | retention {interval seconds 4, keep 4} | reserved 24 |
//! snapshot item:  | name length 1 | name | realm fields |
//! ```

use crate::codec::{Reader, Writer};
use crate::entry::DirectoryEntry;
use crate::inode::{NAME_BYTES_MAX, References};
use crate::{Hlc, LayoutError, Reference, Totals, flags};

/// Root of a realm: a view, a snapshot, or a clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RealmEntry {
    /// HLC of the newest fork of, or into, this place.
    pub share: Hlc,
    /// Inode number of the root directory.
    pub number: u64,
    /// (number, generation) is unique over time.
    pub generation: u32,
    /// Sums over the root's tree, the root itself and the link table not counted.
    pub totals: Totals,
    /// The root directory itself has (or had) snapshots.
    pub snapshots: bool,
    /// Root of the directory tree.
    pub root: Reference,
    /// Realm id, never reused.
    pub realm_id: u64,
    /// Realm that it was made in, moved to or adopted in (DESIGN 7, own realms).
    pub home: u64,
    /// A snapshot, or a read-only clone.
    pub read_only: bool,
    /// Root of the link table, when there is one.
    pub links: Option<Reference>,
    /// Share time of the link table beyond `share`.
    pub links_share: Hlc,
    /// Sums over the link table.
    pub links_totals: Totals,
}

impl RealmEntry {
    /// What it adds above: its tree, its link table's files and itself. LINKS and REALMS end here, SNAPSHOTS passes.
    #[must_use]
    pub const fn summary(&self) -> (Totals, u8) {
        let mut totals = self.totals.add(self.links_totals);
        totals.links = 0;
        totals.directories = totals.directories.wrapping_add(1);
        let own = if self.snapshots { flags::SNAPSHOTS } else { 0 };
        (totals, flags::REALMS | own | (self.root.flags & flags::SNAPSHOTS))
    }
    /// The fields that it shares with a directory's entry.
    #[must_use]
    pub const fn directory(&self) -> DirectoryEntry {
        DirectoryEntry {
            share: self.share,
            number: self.number,
            generation: self.generation,
            totals: self.totals,
            snapshots: self.snapshots,
            root: self.root,
        }
    }
    pub(crate) fn write(&self, out: &mut Writer, references: &mut Vec<Reference>) {
        self.directory().write(out, references);
        out.u64(self.realm_id);
        out.u64(self.home);
        out.flag(self.read_only);
        out.flag(self.links.is_some());
        out.hlc(self.links_share);
        out.totals(&self.links_totals);
        references.extend(self.links);
    }
    pub(crate) fn read(from: &mut Reader<'_>, references: &mut References<'_>) -> Result<Self, LayoutError> {
        let place = DirectoryEntry::read(from, references)?;
        let (realm_id, home, read_only) = (from.u64()?, from.u64()?, from.flag("read-only")?);
        let links = if from.flag("links")? { Some(references.take("realm entry")?) } else { None };
        Ok(Self {
            share: place.share,
            number: place.number,
            generation: place.generation,
            totals: place.totals,
            snapshots: place.snapshots,
            root: place.root,
            realm_id,
            home,
            read_only,
            links,
            links_share: from.hlc()?,
            links_totals: from.totals()?,
        })
    }
}

/// How often snapshots are taken by themselves, and how many are kept. Zero: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Seconds between two.
    pub interval_seconds: u32,
    /// How many are kept.
    pub keep: u32,
}

/// What belongs to a realm but lies outside its frozen trees. Exists only while it holds something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RealmRecord {
    /// Realm index in inode numbers while it is mounted; a hint.
    pub index: u32,
    /// HLC of its creation.
    pub created: Hlc,
    /// Items of its snapshot list.
    pub snapshots: u64,
    /// Items of its orphan table.
    pub orphans: u64,
    /// Snapshots taken by themselves.
    pub retention: Retention,
}

impl RealmRecord {
    /// Bytes on disk.
    pub const BYTES: usize = 64;
    const STRUCTURE: &'static str = "realm record";

    /// Value of its item.
    pub fn encode(&self) -> Result<Vec<u8>, LayoutError> {
        let mut out = Writer::new(Self::STRUCTURE);
        out.u8(1);
        out.zeros(3);
        out.u32(self.index);
        out.hlc(self.created);
        out.u64(self.snapshots);
        out.u64(self.orphans);
        out.u32(self.retention.interval_seconds);
        out.u32(self.retention.keep);
        out.zeros(24);
        out.finish()
    }
    /// From the value of its item.
    pub fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let mut from = Reader::new(Self::STRUCTURE, bytes);
        let version = from.u8()?;
        if version != 1 {
            return Err(from.unknown("version", version.into()));
        }
        from.zeros(3)?;
        let record = Self {
            index: from.u32()?,
            created: from.hlc()?,
            snapshots: from.u64()?,
            orphans: from.u64()?,
            retention: Retention { interval_seconds: from.u32()?, keep: from.u32()? },
        };
        from.zeros(24)?;
        from.end()?;
        Ok(record)
    }
}

/// A snapshot in the realm table: its name and the frozen realm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotItem {
    /// Name in `.snap/`.
    pub name: Vec<u8>,
    /// The frozen realm; read-only.
    pub realm: RealmEntry,
}

impl SnapshotItem {
    const STRUCTURE: &'static str = "snapshot item";

    /// Value and references of its item.
    pub fn encode(&self) -> Result<(Vec<u8>, Vec<Reference>), LayoutError> {
        let mut out = Writer::new(Self::STRUCTURE);
        let mut references = Vec::new();
        out.len8("name", self.name.len(), NAME_BYTES_MAX);
        out.raw(&self.name);
        self.realm.write(&mut out, &mut references);
        Ok((out.finish()?, references))
    }
    /// From the value and references of its item.
    pub fn decode(bytes: &[u8], references: &[Reference]) -> Result<Self, LayoutError> {
        let mut from = Reader::new(Self::STRUCTURE, bytes);
        let mut references = References::new(references);
        let len = from.len8("name", NAME_BYTES_MAX)?;
        let name = from.take(len)?.to_vec();
        let realm = RealmEntry::read(&mut from, &mut references)?;
        from.end()?;
        references.end(Self::STRUCTURE)?;
        Ok(Self { name, realm })
    }
}
