//! What `fsck.envoyfs` can find: a register of numbered kinds. A number is never used for anything else again, also when its kind is retired.
//!
//! Scripts key on the number; the manual page lists the same table (checked by a test in `tools/tests/fsck.rs`).

use crate::output::Printable;
use serde::Serialize;
use std::fmt;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is wrong.
    Note,
    /// A second copy or a hint is damaged; nothing is lost.
    Warning,
    /// Something is damaged or inconsistent.
    Error,
    /// So damaged that the store does not open, or the check cannot go on.
    Fatal,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Fatal => "fatal",
        })
    }
}

/// What puts it right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// Nothing can, or nothing needs to.
    Nothing,
    /// The next mount does.
    Mount,
    /// `-p` and `-y`: nothing that anybody stored is given up.
    Preen,
    /// `-y`: something that somebody stored is given up, or was lost already.
    Yes,
    /// `--rebuild`.
    Rebuild,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "",
            Self::Mount => "mount",
            Self::Preen => "-p",
            Self::Yes => "-y",
            Self::Rebuild => "--rebuild",
        })
    }
}

/// A kind of finding.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Kind {
    /// Never reused.
    pub number: u16,
    /// How bad.
    pub severity: Severity,
    /// What was found, in one sentence.
    pub what: &'static str,
    /// What puts it right.
    pub by: By,
    /// What a repair does about it.
    pub repair: &'static str,
}

/// One thing found.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Which kind.
    #[serde(flatten)]
    pub kind: &'static Kind,
    /// Where: a path, an object, a device offset.
    pub place: String,
    /// Expected and found.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Kind { number, severity, what, .. } = self.kind;
        write!(f, "{severity} F{number:03}: {}: {what}", Printable(&self.place))?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, " ({})", Printable(&self.detail)) }
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal $severity:ident $by:ident $what:literal, $repair:literal;)*) => {
        $($(#[$doc])* pub const $name: &Kind =
            &Kind { number: $number, severity: Severity::$severity, by: By::$by, what: $what, repair: $repair };)*
        /// Every kind, ascending.
        pub const ALL: &[&Kind] = &[$($name),*];
    };
}

kinds! {
    // 1-99: superblocks.
    /// No copy opens.
    NO_SUPERBLOCK = 1 Fatal Rebuild "no superblock copy opens the store", "made again from what the segments say";
    /// A copy does not verify.
    SUPERBLOCK_COPY = 2 Warning Preen "a superblock copy is damaged", "written again";
    /// A copy is older.
    SUPERBLOCK_STALE = 3 Note Mount "a superblock copy is one publication behind", "written again";
    /// The device is smaller than the store.
    TRUNCATED = 4 Fatal Nothing "the device is smaller than the store", "none; bring back the missing end";
    /// The device is larger than the store.
    LARGER_DEVICE = 5 Note Nothing "the device is larger than the store", "none needed; growing is not offered yet";
    /// Unknown features.
    FEATURES = 6 Fatal Nothing "the store uses features that this version does not know", "none; use a newer envoyfs";
    /// Something else's signature.
    FOREIGN = 7 Error Nothing "where a superblock copy should be there is the signature of something else", "none without `--overwrite`: it may be newer than the store, and a repair would write over it";
    /// Blocks of the device are larger.
    LARGER_BLOCKS = 8 Note Nothing "the store was made for smaller blocks than the device writes, and cannot be mounted here", "none; put it on a device with such blocks";
    /// The last repair could not put everything right.
    ERRORS_LEFT = 9 Note Preen "an earlier repair had to leave errors", "forgotten when a repair leaves none";
    /// A rebuild.
    REBUILT = 10 Warning Rebuild "the indexes were made again from the segments, as told", "done";
    /// Features that allow to read.
    ONLY_READ = 11 Note Nothing "the store uses features that allow this version only to read", "none, nor of anything else; use a newer envoyfs";
    // 100-199: volume directory and segment table.
    /// Neither copy verifies.
    NO_DIRECTORY = 100 Fatal Rebuild "no copy of the volume directory verifies", "made again from what the segments say";
    /// One copy does not verify.
    DIRECTORY_COPY = 101 Warning Preen "a copy of the volume directory is damaged", "both copies are written anew, in the other slot";
    /// A row contradicts the store's geometry.
    TABLE_ROW = 102 Error Preen "a row of the segment table makes no sense", "set to what its segment holds";
    /// Two containers claim one segment.
    SEGMENT_TWICE = 103 Error Rebuild "two containers claim the same segment", "the newest opening is kept";
    /// Live units differ.
    TABLE_LIVE = 104 Error Preen "live units of a container differ from its segments' pages", "counted again";
    /// A header.
    CONTAINER_HEADER = 105 Warning Preen "the header of a container is damaged or tells of another one", "written again; only a rebuild needs it";
    /// A footer.
    CONTAINER_FOOTER = 106 Warning Preen "the footer of a container is damaged or differs from its table", "written again; only a rebuild needs it";
    /// A part of a table.
    TABLE_PART = 107 Note Nothing "a part of the table of a container is damaged", "none: nothing is found by it, and rows of what is dead are known to nobody; it goes when the container is used again, a rebuild before that may have to do without";
    /// No file trees.
    OTHER_CLIENT = 108 Note Nothing "the store belongs to another program: it holds no file tree, and nothing that its roots lead to was checked", "only superblocks, headers and footers; what its program cannot read, only that program can judge";
    /// INV-16.
    NUMBER_BOUND = 109 Error Preen "numbers in use are not below the bound from which the next are handed out (INV-16)", "the bound is raised";
    // 200-299: log.
    /// Records wait for replay.
    LOG_DIRTY = 200 Note Mount "the log holds records since the checkpoint", "replayed; by a repair too, before it changes anything";
    /// A record that must be there is bad.
    LOG_CORRUPT = 201 Error Yes "the log is damaged below what had been acknowledged, or cannot be read where it ends", "replayed up to there, the rest is given up";
    /// A checkpoint is in the log but not published.
    LOG_UNPUBLISHED = 202 Note Mount "the log holds a checkpoint that was not yet published", "adopted";
    /// The records do not fit the trees that are left.
    LOG_DROPPED = 203 Error Yes "records in the log cannot be replayed on what is left of the trees", "given up";
    /// Data named by a record does not verify.
    LOG_DATA = 204 Error Yes "file data that a record in the log names does not verify", "the log is replayed, then the blocks are cut: they read as zeros";
    /// The checkpoint that a mount would adopt is damaged.
    LOG_CHECKPOINT = 205 Error Preen "the checkpoint in the log, which a mount would start from, is damaged", "the log is replayed from the published checkpoint instead: nothing is lost";
    // 300-399: system pages.
    /// A page does not verify.
    SYSTEM_PAGE = 300 Error Preen "a system page is damaged", "made again from a walk of the trees";
    /// Pages overlap or lie in a container that is not for system pages.
    SYSTEM_PLACE = 301 Error Preen "a system page lies outside a system container", "written again elsewhere";
    /// Lists of deferred units.
    DEFERRED = 302 Error Preen "the list of what a retained checkpoint keeps differs from the segments' pages", "retained checkpoints are given up";
    // 400-499: objects and nodes.
    /// An object's place cannot be found.
    UNRESOLVED = 400 Error Yes "an object lies in no segment of the store", "what refers to it is cut";
    /// A node's bytes do not verify.
    NODE_CHECKSUM = 401 Error Yes "the checksum of a node does not match", "what is below it is cut; a directory becomes empty, a file keeps its other parts; directories below it are put into lost+found";
    /// A node does not parse.
    NODE_FORMAT = 402 Error Yes "a node does not follow the format", "what is below it is cut; a directory becomes empty, a file keeps its other parts; directories below it are put into lost+found";
    /// INV-02.
    BIRTH_ORDER = 403 Error Preen "an object is younger than the node that refers to it (INV-02)", "the parent's birth is raised";
    /// A tree is not a search tree.
    TREE_ORDER = 404 Error Yes "the keys of a tree are out of order or in the wrong node", "the tree is made again from its items";
    /// An item does not decode.
    ITEM = 405 Error Yes "an entry, slice or record does not decode", "removed";
    /// One copy of the roots object does not verify.
    ROOTS = 406 Error Preen "a copy of the roots object does not verify", "both copies are written anew";
    /// Both copies are bad.
    NO_ROOTS = 407 Fatal Rebuild "no copy of the roots object verifies", "an older one is looked for in the segments";
    /// The tables at the top cannot be read.
    NO_TOP = 408 Fatal Rebuild "the table at the top of all trees cannot be read", "an older one is looked for in the segments";
    /// History is damaged.
    HISTORY = 409 Error Preen "something that only a retained checkpoint needs is damaged", "retained checkpoints are given up; what is published stays";
    /// A node of which the roots object holds a copy.
    ROOT_NODE = 410 Warning Preen "a node at the top of the trees is damaged; its copy in the roots object is good", "written anew";
    // 500-599: file data.
    /// A block does not verify.
    DATA_CHECKSUM = 500 Error Yes "the checksum of a block of file data does not match", "the block is cut: it reads as zeros";
    /// Device error.
    DATA_UNREADABLE = 501 Error Yes "file data cannot be read", "the block is cut: it reads as zeros";
    /// Slices overlap or are out of order.
    SLICES = 502 Error Yes "slices of a file overlap or reach outside their extent", "the later slice is cut";
    /// Inline data.
    INLINE_CHECKSUM = 503 Error Yes "the checksum of inline file data does not match", "the file is removed";
    // 600-699: counts and liveness.
    /// INV-06.
    COUNT = 600 Error Preen "an object's count differs from the references to it (INV-06)", "set to the number found";
    /// Referenced but not live.
    NOT_LIVE = 601 Error Preen "referenced space is not marked live and may be overwritten (INV-10)", "marked live";
    /// Live but unreachable: whole object.
    LEAKED = 602 Error Preen "space is marked live but no reference leads there (INV-12)", "freed";
    /// Live, object is referenced, range is not.
    RECLAIMABLE = 603 Note Mount "ranges of shared extents are live but no file uses them", "freed, by a repair or the online mark";
    /// Drop queue.
    DROP_QUEUE = 604 Note Mount "deleted trees wait to be freed", "freed, while it is mounted or by a repair";
    /// Counted but not referenced.
    COUNT_ORPHAN = 605 Error Preen "a count is kept for an object that nothing refers to", "removed";
    /// List of unreadable nodes.
    UNREADABLE = 606 Error Yes "deleted trees cannot be freed, because their nodes cannot be read", "freed, with all that only they led to";
    /// INV-31.
    NOT_KEPT = 607 Error Preen "space that a retained checkpoint needs is not live and may be overwritten (INV-31)", "retained checkpoints are given up";
    // 700-799: names.
    /// INV-27.
    TOTALS = 700 Error Preen "the totals of a directory differ from what is in it (INV-27)", "set to what was found";
    /// INV-50.
    FLAGS = 701 Error Preen "the flags of a reference differ from what is below it (INV-50)", "set to what was found";
    /// INV-49.
    LINK_COUNT = 702 Error Preen "a file's link count differs from its names (INV-49)", "set to the number of names; a file without any gets one, lost+found #INODE in the top directory";
    /// Link entry is missing.
    DANGLING_LINK = 703 Error Yes "a name leads to a link entry that does not exist", "the name is removed";
    /// Orphans.
    ORPHAN = 704 Note Mount "an unlinked file was still open", "dropped";
    /// The name's hash is not its key.
    NAME_HASH = 706 Error Preen "a name is filed under the wrong hash: lookups do not find it", "the directory is made again from its names";
    /// INV-30.
    NUMBER_TWICE = 707 Error Preen "two names in a realm have the same inode number (INV-30)", "the later one gets a new number";
    /// Counts in a realm's record.
    REALM_RECORD = 708 Error Preen "the record of a realm has other numbers of snapshots or of unlinked open files than its lists", "set to what was found";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_ascending() {
        assert!(ALL.windows(2).all(|pair| pair[0].number < pair[1].number));
    }

    #[test]
    fn a_finding_reads_as_a_sentence() {
        let finding = Finding { kind: TOTALS, place: "/a/b".into(), detail: "files: 3 expected, 2 found".into() };
        assert_eq!(
            finding.to_string(),
            "error F700: /a/b: the totals of a directory differ from what is in it (INV-27) (files: 3 expected, 2 found)"
        );
    }
}
