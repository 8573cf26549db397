//! What `fsck.envoyfs` can find: a register of numbered kinds. A number is never used for anything else again, also when its kind is retired.
//!
//! Scripts key on the number; the manual page lists the same table (checked by a test in `tools/tests/fsck.rs`).

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

/// A kind of finding.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Kind {
    /// Never reused.
    pub number: u16,
    /// How bad.
    pub severity: Severity,
    /// What was found, in one sentence.
    pub what: &'static str,
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
        write!(f, "{severity} F{number:03}: {}: {what}", self.place)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, " ({})", self.detail) }
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal $severity:ident $what:literal, $repair:literal;)*) => {
        $($(#[$doc])* pub const $name: &Kind = &Kind { number: $number, severity: Severity::$severity, what: $what, repair: $repair };)*
        /// Every kind, ascending.
        pub const ALL: &[&Kind] = &[$($name),*];
    };
}

kinds! {
    // 1-99: superblocks.
    /// No copy opens.
    NO_SUPERBLOCK = 1 Fatal "no superblock copy opens the store", "none; restore from a backup";
    /// A copy does not verify.
    SUPERBLOCK_COPY = 2 Warning "a superblock copy is damaged", "the next mount writes it again";
    /// A copy is older.
    SUPERBLOCK_STALE = 3 Note "a superblock copy is one publication behind", "the next mount writes it again";
    /// The device is smaller than the store.
    TRUNCATED = 4 Fatal "the device is smaller than the store", "none; bring back the missing end";
    /// The device is larger than the store.
    LARGER_DEVICE = 5 Note "the device is larger than the store", "none needed; growing is not offered yet";
    /// Unknown features.
    FEATURES = 6 Fatal "the store uses features that this version does not know", "none; use a newer envoyfs";
    // 100-199: volume directory and segment table.
    /// Neither copy verifies.
    NO_DIRECTORY = 100 Fatal "no copy of the volume directory verifies", "rebuild from the segments' own tables";
    /// One copy does not verify.
    DIRECTORY_COPY = 101 Warning "a copy of the volume directory is damaged", "the next checkpoint writes both copies";
    /// A row contradicts the store's geometry.
    TABLE_ROW = 102 Error "a row of the segment table makes no sense", "rebuild the row from the segment's header and tables";
    /// Two containers claim one segment.
    SEGMENT_TWICE = 103 Error "two containers claim the same segment", "keep the one whose header verifies";
    /// Live units differ.
    TABLE_LIVE = 104 Error "live units of a container differ from its segment's page", "count again from the page";
    // 200-299: log.
    /// Records wait for replay.
    LOG_DIRTY = 200 Note "the log holds records since the checkpoint", "none needed; a mount replays them";
    /// A record that must be there is bad.
    LOG_CORRUPT = 201 Error "the log is damaged below what had been acknowledged", "mount read-only, or writable with --accept-loss";
    /// A checkpoint is in the log but not published.
    LOG_UNPUBLISHED = 202 Note "the log holds a checkpoint that was not yet published", "none needed; a mount adopts it";
    // 300-399: system pages.
    /// A page does not verify.
    SYSTEM_PAGE = 300 Error "a system page is damaged", "rebuild from the segments' own tables and a walk of the trees";
    /// Pages overlap or lie in a container that is not for system pages.
    SYSTEM_PLACE = 301 Error "a system page lies outside a system container", "rebuild from a walk of the trees";
    // 400-499: objects and nodes.
    /// An object's place cannot be found.
    UNRESOLVED = 400 Error "an object lies in no segment of the store", "drop what refers to it";
    /// A node's bytes do not verify.
    NODE_CHECKSUM = 401 Error "the checksum of a node does not match", "drop what is below it";
    /// A node does not parse.
    NODE_FORMAT = 402 Error "a node does not follow the format", "drop what is below it";
    /// INV-02.
    BIRTH_ORDER = 403 Error "an object is younger than the node that refers to it (INV-02)", "raise the birth of the parent";
    /// A tree is not a search tree.
    TREE_ORDER = 404 Error "the keys of a tree are out of order or in the wrong node", "rebuild the tree from its leaves";
    /// An item does not decode.
    ITEM = 405 Error "an entry, slice or record does not decode", "drop it";
    /// The roots object does not verify.
    ROOTS = 406 Error "a copy of the roots object does not verify", "the next checkpoint writes both copies";
    /// Both copies are bad.
    NO_ROOTS = 407 Fatal "no copy of the roots object verifies", "find an older one by a scan of the segments";
    // 500-599: file data.
    /// A block does not verify.
    DATA_CHECKSUM = 500 Error "the checksum of a block of file data does not match", "none; restore the file from a backup";
    /// Device error.
    DATA_UNREADABLE = 501 Error "file data cannot be read", "none; restore the file from a backup";
    /// Slices overlap or are out of order.
    SLICES = 502 Error "slices of a file overlap or reach outside their extent", "drop the later slice";
    /// Inline data.
    INLINE_CHECKSUM = 503 Error "the checksum of inline file data does not match", "none; restore the file from a backup";
    // 600-699: counts and liveness.
    /// INV-06.
    COUNT = 600 Error "an object's count differs from the references to it (INV-06)", "set it to the number found";
    /// Referenced but not live.
    NOT_LIVE = 601 Error "referenced space is not marked live and may be overwritten (INV-10)", "mark it live";
    /// Live but unreachable: whole object.
    LEAKED = 602 Error "space is marked live but no reference leads there (INV-12)", "free it";
    /// Live, object is referenced, range is not.
    RECLAIMABLE = 603 Note "ranges of shared extents are live but no file uses them", "the online mark frees them";
    /// Drop queue.
    DROP_QUEUE = 604 Note "deleted trees wait to be freed", "none needed; the store frees them while it is mounted";
    /// Counted but not referenced.
    COUNT_ORPHAN = 605 Error "a count is kept for an object that nothing refers to", "remove it";
    // 700-799: names.
    /// INV-27.
    TOTALS = 700 Error "the totals of a directory differ from what is in it (INV-27)", "set them to what was found";
    /// INV-50.
    FLAGS = 701 Error "the flags of a reference differ from what is below it (INV-50)", "set them to what was found";
    /// INV-49.
    LINK_COUNT = 702 Error "a file's link count differs from its names (INV-49)", "set it to the number of names";
    /// Link entry is missing.
    DANGLING_LINK = 703 Error "a name leads to a link entry that does not exist", "remove the name";
    /// Orphans.
    ORPHAN = 704 Note "an unlinked file was still open", "none needed; a mount drops it";
    /// The name's hash is not its key.
    NAME_HASH = 706 Error "a name is filed under the wrong hash: lookups do not find it", "insert it again";
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
