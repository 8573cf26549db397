//! Operations with their results resolved: what a WAL record holds, and what a random history consists of.

use crate::objects::{ObjectId, Stamp};
use crate::oracle::{OracleRealm, OracleVolume};
use std::rc::Rc;

/// A name in a directory. [`name_text`] spells it.
pub type Name = u32;

/// Names from the root of the volume. The first one may lie outside the tree: `SNAPSHOT_BASE` + snapshot id (inside that
/// snapshot) or `ORPHAN_BASE` + orphan number (an open file without a name). [`Place::of`] takes it apart.
pub type Path = Vec<Name>;

/// Path heads at or above it, and keys of the realm table, name a snapshot.
pub(crate) const SNAPSHOT_BASE: u32 = 1 << 24;
/// Path heads at or above it name an orphan.
pub(crate) const ORPHAN_BASE: u32 = 1 << 28;

/// The name as text, for a real directory.
pub fn name_text(name: Name) -> String {
    format!("n{name}")
}

/// A path, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Names from the root of the volume.
    Tree(Vec<String>),
    /// Names from the root of a snapshot; [`OracleVolume::snapshots`] knows which directory it is of.
    InSnapshot { snapshot: u32, names: Vec<String> },
    /// An open file without a name.
    Open(u32),
}

impl Place {
    pub fn of(path: &[Name]) -> Place {
        let text = |names: &[Name]| names.iter().map(|n| name_text(*n)).collect();
        match path.first() {
            Some(head) if *head >= ORPHAN_BASE => Place::Open(head - ORPHAN_BASE),
            Some(head) if *head >= SNAPSHOT_BASE => {
                Place::InSnapshot { snapshot: head - SNAPSHOT_BASE, names: text(&path[1..]) }
            }
            _ => Place::Tree(text(path)),
        }
    }
}

/// Splits a path that is not empty into the directory and the last name.
pub(crate) fn split(path: &[Name]) -> (&[Name], Name) {
    let (last, directory) = path.split_last().expect("a path with a name");
    (directory, *last)
}

/// Numbers (`inode`, `realm`, `number`, `snapshot`, `orphan`) are the model's own: drawn once, never reused. An
/// implementation driven by a history maps them to its own.
#[derive(Clone, Debug)]
pub enum Operation {
    Create {
        directory: Path,
        name: Name,
    },
    MakeDirectory {
        directory: Path,
        name: Name,
        inode: u32,
    },
    /// Blocks `block..block + blocks` get the contents `token..`. `extent` and `places` are the model's.
    Write {
        file: Path,
        block: u32,
        blocks: u32,
        token: u64,
        direct: bool,
        extent: ObjectId,
        places: Vec<u32>,
    },
    /// Blocks `from..to` become holes.
    Punch {
        file: Path,
        from: u32,
        to: u32,
    },
    /// `other_name`: the last remaining name, when it is in memory and takes the inode back.
    Unlink {
        file: Path,
        other_name: Option<Path>,
    },
    /// The last name of an open file goes.
    UnlinkOpen {
        file: Path,
        orphan: u32,
    },
    /// The last close of an orphan.
    CloseOrphan {
        orphan: u32,
    },
    /// O_TMPFILE.
    TemporaryFile {
        orphan: u32,
    },
    /// An open file without a name gets one.
    LinkOrphan {
        orphan: u32,
        directory: Path,
        name: Name,
    },
    /// Of an empty directory without snapshots.
    RemoveDirectory {
        path: Path,
    },
    /// `rm -r`, or the deletion of a clone. Without links below, unless a realm's.
    RemoveTree {
        path: Path,
    },
    /// `realm`: the id that a directory gets which crosses realms. `orphan`: the replaced file is open.
    Rename {
        from: Path,
        directory: Path,
        name: Name,
        realm: u32,
        other_name: Option<Path>,
        orphan: Option<u32>,
    },
    Clone {
        source: Path,
        directory: Path,
        name: Name,
        read_only: bool,
        realm: u32,
    },
    TakeSnapshot {
        directory: Path,
        snapshot: u32,
    },
    /// `clear_flag`: the directory has no other snapshot, and its SNAPSHOTS flag is cleared.
    DropSnapshot {
        snapshot: u32,
        directory: Path,
        clear_flag: bool,
    },
    /// The realm at `path` becomes own: before the first change below it. Changes nothing that a reader sees.
    Adopt {
        path: Path,
        realm: u32,
    },
    /// A link file with one name takes its inode back. Changes nothing that a reader sees.
    EmbedLink {
        file: Path,
    },
    /// A clone out of a history root: only a seeded bug does that.
    CloneHistory {
        batch: u32,
        directory: Path,
        name: Name,
        realm: u32,
        value: Rc<OracleRealm>,
    },
    CloneFile {
        source: Path,
        directory: Path,
        name: Name,
    },
    /// Holes of the source become holes of the target.
    Reflink {
        source: Path,
        source_block: u32,
        target: Path,
        target_block: u32,
        blocks: u32,
    },
    /// `number`: of the link file, drawn when it has one name.
    Link {
        file: Path,
        directory: Path,
        name: Name,
        number: u32,
    },
}

/// A WAL record, and what the oracle says of the volume after it.
pub(crate) struct Record {
    pub(crate) operation: Operation,
    pub(crate) stamp: Stamp,
    pub(crate) after: OracleVolume,
}
