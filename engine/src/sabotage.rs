//! Durability rules that can be broken on purpose, one at a time, to see that a test notices (decision 0013). Nothing of it is compiled into a product: without the feature
//! `sabotage`, `on` is `false` for the compiler too.
//!
//! A hook is one line where the rule is kept: `if !sabotage::on(Rule::AckWithoutFlush) { flush }`. `tests/store` has the test that each must fail; `cargo xtask sabotage` runs them.

macro_rules! rules {
    ($($(#[doc = $what:literal])* $rule:ident,)*) => {
        /// A rule that is left out or broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Rule { $($(#[doc = $what])* $rule,)* }

        impl Rule {
            /// All of them.
            pub const ALL: &[Rule] = &[$(Rule::$rule,)*];

            /// As in the code.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Rule::$rule => stringify!($rule),)* }
            }

            /// In words.
            #[must_use]
            pub const fn what(self) -> &'static str {
                match self { $(Rule::$rule => concat!($($what,)*),)* }
            }
        }
    };
}

rules! {
    /// After a crash, stamps go on from the newest that was found, not from the bound (INV-01).
    StampsFromSeen,
    /// A record gets the wall clock's stamp also when the last one was no earlier (INV-40).
    HlcFollowsWall,
    /// A node may be older than what it refers to (INV-02).
    BirthUnchecked,
    /// A group commit ends without its flush (INV-18).
    AckWithoutFlush,
    /// Blocks of the log that were not written durably, because a flush was to follow, are forgotten when it does not (INV-18).
    PlainBlocksForgotten,
    /// A group commit does not wait for the data that its records name (INV-18).
    AckBeforeData,
    /// Where data was written elsewhere is not framed before the flush that it rests on (INV-18).
    MovedNotFramed,
    /// Recovery ends a container that was being filled as if nothing of other segments were in it (INV-18).
    SealOverMoved,
    /// Recovery forgets the container that took data of a record it keeps, since it was opened behind where the log is cut (INV-18).
    PlacementBehindCutLost,
    /// A flush is taken to cover what was appended while it ran (INV-18).
    AckOfLaterRecords,
    /// A log that ends where the device gives an error counts as one that power cut off (INV-19).
    UnreadableEndCut,
    /// A block's watermark names what is framed, not what a completed flush covered (INV-19).
    WatermarkAheadOfFlush,
    /// A checkpoint is frozen and published although the store is poisoned (INV-33).
    PublishesPoisoned,
    /// After a failed write or flush, acknowledgement goes on (INV-33).
    PoisonForgotten,
    /// Recovery reads and repairs before it flushes (INV-20).
    NoFlushAtOpen,
    /// The newest copy of the superblock rules, whatever the others say (INV-23).
    NewestOpens,
    /// Invalid and stale copies of the superblock are repaired together (INV-23).
    RepairAllAtOnce,
    /// Both pairs of superblocks are written without a flush in between (INV-23).
    SuperblockPairsTogether,
    /// The directory is written to the slot that the ruling superblock names (INV-20).
    DirectorySlotInUse,
    /// A whole segment table is written to the slot of the one in use (INV-20).
    TableSlotInUse,
    /// A freeze waits for data that is under way (INV-24).
    FreezeWaits,
    /// A mount writes its superblock before what it names is flushed (INV-17).
    NoFlushInRecovery,
    /// A mount publishes that containers are closed whose ends are still under way (INV-17).
    MountNamesBeforeArrival,
    /// A mount that adopts a checkpoint from the log does not publish it (INV-20).
    AdoptedNotPublished,
    /// A CHECKPOINT record is appended before its nodes, batch and pages are flushed (INV-17).
    NoFlushBeforeCheckpointRecord,
    /// A publication does not wait for the pages that it names (INV-17).
    NamedBeforeArrival,
    /// A publication does not wait for the last parts of containers that its table calls closed (INV-17).
    ClosedBeforeItsEnd,
    /// Before the superblock, the record is committed, but no barrier covers the directory (INV-17).
    CommitInsteadOfBarrier,
    /// A publication without a record does not wait for its directory before the superblock (INV-17).
    NoBarrierWithoutRecord,
    /// Where a segment of data lies does not stand in the log (INV-22).
    PlacementNotLogged,
    /// A checkpoint gets a record although the log does not tell where the segments lie that it leads to (INV-22).
    UnloggedAdopted,
    /// What a publication without a record freed is reused although the log does not tell of it (INV-13).
    ReusedUntold,
    /// The record that tells of a publication is not waited for before space is reused (INV-13).
    UntoldNotDurable,
    /// A mount does not tell of a publication whose mount died before it could (INV-13).
    MountUntold,
    /// A roots object is written before the log up to its freeze is durable (INV-21).
    RootsBeforeTheirLog,
    /// Containers are reused before the superblock that frees them is durable (INV-13).
    ContainersReusedEarly,
    /// Ring space is reused before the superblock that frees it is durable (INV-37).
    RingReusedEarly,
    /// The log starts at the CHECKPOINT record, not at the freeze (INV-21).
    StartAtCheckpointRecord,
    /// The container of an object that no checkpoint contains is reused (INV-13).
    PinsIgnored,
    /// Containers are reused while a reader that looked them up before is still reading (INV-13).
    ReaderPinsIgnored,
    /// Containers are reused while a client holds a pin that is older than what died in them (INV-13).
    PinnedReused,
    /// Containers are cleaned while what was written to them is under way (INV-14).
    CleanedBeforeArrival,
    /// A segment's page that was read while a newer one was written is taken for the newest (INV-07).
    StalePageTaken,
    /// What the cleaner moved is found at its new place before it is there (INV-14).
    MovesInstalledEarly,
    /// An edge to an object that is stored already does not count (INV-07).
    PlusOneDropped,
    /// An edge that goes does not count (INV-06).
    MinusOneDropped,
    /// A node that is still referred to may be called gone (INV-08).
    GoneUnchecked,
    /// An object is freed while one reference is left (INV-09).
    FreedAtOne,
    /// More units of an extent are freed than the client said (INV-10).
    FreedTooFar,
    /// Ranges that the client frees stay (INV-11).
    RangesForgotten,
    /// An object may grow although a stored node refers to it (INV-14).
    GrowsWhenReferred,
    /// An object may grow although a node of a freeze that was given up refers to it (INV-14).
    GrowsAfterAbandon,
    /// What was worked off of the drop queue does not stand in the batch (INV-39).
    DropsNotInBatch,
    /// A digest depends on where a segment lies (INV-39).
    DigestByPlace,
    /// An adopted batch counts its deltas twice (INV-07).
    BatchAppliedTwice,
    /// Above the threshold, records count although their data does not verify (INV-18).
    ReplayWithoutCut,
    /// A mount goes on with the generation of the one before (INV-21).
    GenerationKept,
    /// Numbers are handed out that no durable bound covers (INV-16).
    BoundNotRaised,
    /// Watermarks behind a bad block are ignored (INV-19).
    WatermarkOnlyBeforeBad,
    /// The cut that a recovery found is not published (INV-20).
    CutNotPublished,
    /// After an accepted loss of its first block, the log's start still tells of that block (INV-18).
    LossKeepsStart,
    /// After an accepted loss, the log counts as durable up to a CHECKPOINT record that was lost (INV-19).
    LossKeepsRecord,
    /// Clients are served although the list of cuts is full (INV-38).
    ServesWithFullCuts,
    /// After the end of a mount, records are still acknowledged (INV-19).
    AcknowledgesAfterClose,
    /// A mount after a crash hands out segment numbers below the durable bound (INV-16).
    SegmentBoundIgnored,
    /// The numbers that a log was closed with are believed although others were handed out since (INV-16).
    ClosedNumbersBelieved,
    /// What dies under a retained checkpoint is free at once (INV-31).
    DeathsNotDeferred,
    /// The newest retained checkpoint is left out of the page that lists them (INV-31).
    RetainedLeftOut,
    /// What dropped checkpoints gave back does not stand in the batch (INV-17).
    ReleasesNotInBatch,
    /// Nodes are promised that no free container has room for (INV-25).
    NodesUncounted,
    /// The last tier is admitted like a writer (INV-26).
    LastTierAsWriter,
    /// A container that was filled is not closed, so that nobody gives it back (INV-32).
    EndedNotClosed,
    /// Pages stay in memory whatever the setting says (INV-35).
    PagesKept,
    /// Slot maps stay in memory whatever the setting says (INV-35).
    SlotMapsKept,
    /// Who drops a pin does not give it back (INV-13).
    PinKept,
    /// The containers of objects stay pinned when they are published (INV-32).
    ContainerPinKept,
    /// What dies does not count as dead (INV-32).
    DeathNotCounted,
    /// Retained checkpoints stay although the store is short of space (INV-26).
    HistoryKeptWhenShort,
    /// A node of the drop queue that cannot be read is forgotten (INV-12).
    UnreadableForgotten,
    /// The mark does not visit what waits in the drop queue (INV-06).
    MarkSkipsDropQueue,
    /// The mark reclaims although a node cannot be read (INV-10).
    MarkReclaimsBelowDamage,
    /// The checkpoint that a mark looks at is dropped while it runs (INV-31).
    MarkRootsDropped,
    /// A mark's corrections are applied, but do not stand in the batch (INV-17).
    RepairsNotInBatch,
    /// A mark looks at a checkpoint between its freeze and its publication (INV-06).
    MarkBeforePublication,
    /// The scrub passes over a row that does not verify (INV-14).
    ScrubIgnoresRow,
    /// A scrub does not tell of a segment's page that does not verify (INV-33).
    ScrubIgnoresPage,
}

/// Whether the rule is broken: the one that the variable `ENVOYFS_SABOTAGE` names, for the life of the process.
#[cfg(feature = "sabotage")]
pub(crate) fn on(rule: Rule) -> bool {
    static BROKEN: std::sync::OnceLock<Option<Rule>> = std::sync::OnceLock::new();
    let broken = BROKEN.get_or_init(|| {
        let name = std::env::var("ENVOYFS_SABOTAGE").ok()?;
        Rule::ALL.iter().copied().find(|rule| rule.name() == name)
    });
    *broken == Some(rule)
}

/// Never.
#[cfg(not(feature = "sabotage"))]
pub(crate) const fn on(_rule: Rule) -> bool {
    false
}
