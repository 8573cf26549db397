//! Seeded bugs: each leaves one rule out or breaks it, and must be caught by the checks.

/// One wrong rule, or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// The rules as designed.
    None,
    /// Rename does not push the source path's share time down onto the moved entry.
    RenameNoPush,
    /// Node birth stamped when the checkpoint writes it.
    BirthAtPersistNode,
    /// Small WAL payload: birth stamped when moved into a segment.
    BirthAtPersistExt,
    /// Link copy of an inner clone does not raise the source's side (entries or table).
    LinkShareNotRaised,
    /// Embedded inode -> link table without pushing the directory path's share time down.
    LinkConvNoPush,
    /// Exclusivity computed inside the realm only, not on the path from the root.
    RealmLocalShare,
    /// -1 for every replaced node that may be shared.
    LiteralMinus,
    /// Exclusive extent freed whole when it leaves one leaf.
    LeafLocalFree,
    /// "exclusive hands over, no traffic" also when a split makes two nodes hold one extent.
    SplitNoDelta,
    /// Exclusive extents freed by comparing one old node with its successor.
    NodeDiffFree,
    /// Space freed is reusable before the freeing checkpoint is durable.
    ReuseEarly,
    /// Never-checkpointed extents reusable at once.
    ReuseUnckpt,
    /// Copy_file_range does not make the extents non-exclusive.
    ReflinkNoShare,
    /// Cleaner's source reusable before the slot maps are durable.
    CleanerEarly,
    /// Node mutated in place while a checkpoint is writing it.
    InPlaceFrozen,
    /// Clone raises only the new realm's share time.
    CloneNoSrcShare,
    /// Clone(file) does not raise the source file's share time.
    FileCloneNoShare,
    /// Birth >= share counts as exclusive, same stamp used for share and births of one op.
    GeqRule,
    /// Merge may stop inside a checkpoint's batch, -1 first.
    MergeMidBatch,
    /// A crash keeps merge position and counts of the unpublished state.
    RawIndexReplay,
    /// Retained history roots do not defer reuse.
    HistIgnored,
    /// Unlink-of-open moves inode to the realm's table without push-down.
    OrphanNoPush,
    /// Clone out of a snapshot: new realm's share time copied from the snapshot, not raised.
    SnapCloneRaiseNone,
    /// File moved keeps extents but loses its own share time (inode rewritten).
    MoveDropsShare,
    /// Re-exclusivity decided by per-node counts, blind to two slices of one block inside one node.
    LowerBySetCount,
    /// -1/free of an object already freed by the fast path is not idempotent (A-mode).
    DoubleDec,
    /// Clone of an inner directory shares the whole link table.
    InnerShareLinks,
    /// Link copy keeps the source's nlink instead of counting names inside.
    LinkCopyNlink,
    /// Conversion back to an embedded inode without the link table's share time.
    BackNoPush,
    /// Conversion back loses the link entry's own share time.
    BackDropsShare,
    /// Flags not recomputed in interior nodes of the directory on the path.
    FlagPathStale,
    /// Taking a snapshot does not set SNAPSHOTS in the directory's reference.
    FlagSnapUnset,
    /// SNAPSHOTS does not pass a realm entry.
    FlagStopsAtRealm,
    /// No ADOPT: a realm met below a clone keeps the original's id and record.
    AdoptSkipped,
    /// ADOPT rewrites the entry without its share time.
    AdoptDropsShare,
    /// A realm is taken for own when its home is the realm around it, whether or not that one is own.
    AdoptLocalTest,
    /// A realm that is not own is moved to another realm without ADOPT.
    AdoptNotOnMove,
    /// Clone out of a history root (deferral only).
    HistClone,
    /// A history root becomes a counted snapshot after its freeze.
    HistPromote,
    /// Recovery drops the orphans of the checkpoint before replay.
    OrphanDropEarly,
    /// Link out of the orphan table loses the entry's share time.
    OrphanOutNoShare,
    /// Dropping one of several snapshots clears the directory's flag.
    FlagClearEarly,
    /// A directory with snapshots inside moves to another realm (instead of EXDEV).
    CrossWithSnaps,
    /// Deleting a clone drops the snapshot lists of realms in it that are not own.
    DropForeign,
    /// Mark: an extent used by two files, no block twice, does not count as multiply referenced.
    MarkBlockOnly,
}

/// Every seeded bug.
pub const BUGS: &[Bug] = &[
    Bug::RenameNoPush,
    Bug::BirthAtPersistNode,
    Bug::BirthAtPersistExt,
    Bug::LinkShareNotRaised,
    Bug::LinkConvNoPush,
    Bug::RealmLocalShare,
    Bug::LiteralMinus,
    Bug::LeafLocalFree,
    Bug::SplitNoDelta,
    Bug::NodeDiffFree,
    Bug::ReuseEarly,
    Bug::ReuseUnckpt,
    Bug::ReflinkNoShare,
    Bug::CleanerEarly,
    Bug::InPlaceFrozen,
    Bug::CloneNoSrcShare,
    Bug::FileCloneNoShare,
    Bug::GeqRule,
    Bug::MergeMidBatch,
    Bug::RawIndexReplay,
    Bug::HistIgnored,
    Bug::OrphanNoPush,
    Bug::SnapCloneRaiseNone,
    Bug::MoveDropsShare,
    Bug::LowerBySetCount,
    Bug::DoubleDec,
    Bug::InnerShareLinks,
    Bug::LinkCopyNlink,
    Bug::BackNoPush,
    Bug::BackDropsShare,
    Bug::FlagPathStale,
    Bug::FlagSnapUnset,
    Bug::FlagStopsAtRealm,
    Bug::AdoptSkipped,
    Bug::AdoptDropsShare,
    Bug::AdoptLocalTest,
    Bug::AdoptNotOnMove,
    Bug::HistClone,
    Bug::HistPromote,
    Bug::OrphanDropEarly,
    Bug::OrphanOutNoShare,
    Bug::FlagClearEarly,
    Bug::CrossWithSnaps,
    Bug::DropForeign,
    Bug::MarkBlockOnly,
];

impl Bug {
    /// Of the reference flags: caught by what it causes, so flags are not asserted directly under it.
    pub(crate) fn is_of_flags(self) -> bool {
        matches!(self, Bug::FlagPathStale | Bug::FlagSnapUnset | Bug::FlagStopsAtRealm | Bug::FlagClearEarly)
    }

    pub fn by_name(name: &str) -> Option<Bug> {
        BUGS.iter().copied().find(|b| format!("{b:?}") == name)
    }
}
