//! Sizes, budgets and the seeded bugs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    NoPredecessorHash,
    GenerationNotRaised,
    CutNotPublished,
    RingReusedAfterFirstPair,
    RingReusedBeforeSuperblock,
    DataReusedBeforeCheckpoint,
    WatermarkOfUnflushed,
    CheckpointIgnored,
    AdoptedNotPublished,
    AdoptedNodesReused,
    TailBlockRewritten,
    AckBeforeData,
    AckOfLaterBlocks,
    PairsWithoutFlush,
    SlotsReusedAfterCut,
    NoFlushAtOpen,
    NoFlushBeforePublish,
    NoCheckpointReserve,
    SmallReserveInFlight,
    WatermarkEatsReserve,
    NoFlushBeforeRecord,
    NoFlushBeforeSuperblock,
    DirectoryInPlace,
    FreezeIgnoresInFlightData,
    WatermarkOnlyBeforeBad,
    WatermarkOfAnyGeneration,
    FlushRetried,
    OnlyLastCutPublished,
    MonotoneGenerationOnly,
    DeadDataCancelled,
    RecoveryAppendsAlways,
    StartAtCheckpointRecord,
    CutLsnNotPublished,
    CutHashNotPublished,
    RepairAllCopies,
    ReusedUntold,
    MountReusesUntold,
    RebuildTakesNewest,
    RebuildOfPartOfTheLog,
    NodeBeforeItsLog,
    AnyBlockBeginsAGeneration,
    // simplifications: expected to be harmless
    LsnOnlyWatermark,
    IdentityInChecksum,
    VerifyDataBelowThreshold,
    NoSuspectPredecessor,
    NoHashes,
    SecondPairNotFlushed,
    SlotsReusedBytesOnly,
    RebuildIgnoresRecord, // it adopts what the record says all the same
    AllSimpler,
}
use Bug::*;

/// Every one must be caught.
pub const BUGS: &[Bug] = &[
    GenerationNotRaised,
    CutNotPublished,
    RingReusedBeforeSuperblock,
    DataReusedBeforeCheckpoint,
    WatermarkOfUnflushed,
    CheckpointIgnored,
    AdoptedNotPublished,
    AdoptedNodesReused,
    TailBlockRewritten,
    AckBeforeData,
    AckOfLaterBlocks,
    PairsWithoutFlush,
    SlotsReusedAfterCut,
    NoFlushAtOpen,
    NoFlushBeforePublish,
    NoCheckpointReserve,
    SmallReserveInFlight,
    WatermarkEatsReserve,
    NoFlushBeforeRecord,
    NoFlushBeforeSuperblock,
    DirectoryInPlace,
    FreezeIgnoresInFlightData,
    WatermarkOnlyBeforeBad,
    WatermarkOfAnyGeneration,
    FlushRetried,
    OnlyLastCutPublished,
    MonotoneGenerationOnly,
    DeadDataCancelled,
    RecoveryAppendsAlways,
    StartAtCheckpointRecord,
    CutLsnNotPublished,
    RepairAllCopies,
    ReusedUntold,
    MountReusesUntold,
    RebuildTakesNewest,
    RebuildOfPartOfTheLog,
    NodeBeforeItsLog,
    AnyBlockBeginsAGeneration,
];
/// Seen only where checkpoints are published without a record, and what a rebuild makes of nodes, data and log is compared.
pub const WITHOUT_A_RECORD: &[Bug] = &[
    ReusedUntold,
    MountReusesUntold,
    RebuildTakesNewest,
    RebuildOfPartOfTheLog,
    NodeBeforeItsLog,
    AnyBlockBeginsAGeneration,
];
/// Expected to survive: the design keeps some of these as a second line of defence.
pub const SIMPLER: &[Bug] = &[
    LsnOnlyWatermark,
    IdentityInChecksum,
    VerifyDataBelowThreshold,
    NoPredecessorHash,
    CutHashNotPublished,
    NoSuspectPredecessor,
    NoHashes,
    RingReusedAfterFirstPair,
    SecondPairNotFlushed,
    SlotsReusedBytesOnly,
    RebuildIgnoresRecord,
    AllSimpler,
];

/// Tops of so many checkpoints are not written over.
pub const ROOTS: usize = 3;

#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub name: &'static str,
    pub ring: u32,
    pub places: usize,
    pub slots: u8,
    pub contents: u8, // distinct data contents: small, so that identical content happens
    pub cap: usize,   // units per WAL block
    pub meta: u8,     // largest metadata record, in units
    pub ops: u8,
    pub checkpoints: u8,
    pub crashes: u8,
    pub process_crashes: u8,
    pub faults: u8,
    pub flush_failures: u8,
    pub quiet: u8,
    pub slow_data: bool,   // data completes in its own step
    pub split_flush: bool, // flush has a begin and an end
    pub unrecorded: bool, // a checkpoint may be published without a record, and after every crash everything but nodes, data and log may be lost
    pub bug: Option<Bug>,
}
impl Config {
    pub fn has(&self, b: Bug) -> bool {
        let together = matches!(
            b,
            LsnOnlyWatermark | NoHashes | NoSuspectPredecessor | RingReusedAfterFirstPair | SecondPairNotFlushed
        );
        self.bug == Some(b) || self.bug == Some(AllSimpler) && together
    }
    pub fn ring_at(&self, bseq: u32) -> usize {
        8 + (bseq % self.ring) as usize
    }
    pub fn place_at(&self, place: u8) -> usize {
        8 + self.ring as usize + place as usize
    }
    /// Tops of the last checkpoints, where they are looked at.
    pub fn roots_at(&self, number: u16) -> usize {
        8 + self.ring as usize + self.places + number as usize % ROOTS
    }
    pub fn blocks(&self) -> usize {
        8 + self.ring as usize + self.places + if self.unrecorded { ROOTS } else { 0 }
    }
}
const SMALL: Config = Config {
    name: "",
    ring: 5,
    places: 4,
    slots: 1,
    contents: 2,
    cap: 2,
    meta: 1,
    ops: 3,
    checkpoints: 1,
    crashes: 2,
    process_crashes: 0,
    faults: 0,
    flush_failures: 0,
    quiet: 0,
    slow_data: false,
    split_flush: false,
    unrecorded: false,
    bug: None,
};
/// Explored exhaustively.
pub const EXHAUSTIVE: &[Config] = &[
    Config { name: "log: 3 ops, 2 crashes", checkpoints: 0, ..SMALL },
    Config { name: "log: 2 ops, 3 crashes", ops: 2, contents: 1, checkpoints: 0, crashes: 3, ..SMALL },
    Config {
        name: "async: 3 ops, slow data, split flush, 2 crashes",
        slow_data: true,
        split_flush: true,
        checkpoints: 0,
        contents: 1,
        meta: 2,
        ..SMALL
    },
    Config { name: "checkpoint: 3 ops, 1 checkpoint, 2 crashes", contents: 1, ..SMALL },
    Config { name: "nested: 2 ops, 1 checkpoint, 3 crashes", ops: 2, contents: 1, crashes: 3, places: 3, ..SMALL },
    Config {
        name: "process crash: 1 op, 2 crashes + 2 process crashes",
        ops: 1,
        contents: 1,
        process_crashes: 2,
        checkpoints: 0,
        ..SMALL
    },
    Config {
        name: "fault in the log: 2 ops, 2 crashes, 1 fault",
        ops: 2,
        checkpoints: 0,
        contents: 1,
        faults: 1,
        ..SMALL
    },
    Config { name: "fault in a checkpoint: 1 op, 2 crashes, 1 fault", ops: 1, contents: 1, faults: 1, ..SMALL },
    Config {
        name: "wrap: ring 4, 4 ops, 2 checkpoints, 1 crash",
        ring: 4,
        ops: 4,
        checkpoints: 2,
        contents: 1,
        crashes: 1,
        ..SMALL
    },
    Config { name: "poison: 3 ops, 1 failed flush, 1 crash", contents: 1, crashes: 1, flush_failures: 1, ..SMALL },
    Config {
        name: "without a record: 3 ops, 2 checkpoints, 1 crash",
        contents: 1,
        checkpoints: 2,
        crashes: 1,
        unrecorded: true,
        ..SMALL
    },
    Config {
        name: "without a record: 2 ops, 1 checkpoint, 2 crashes",
        ops: 2,
        contents: 1,
        places: 3,
        unrecorded: true,
        ..SMALL
    },
];
const LARGE: Config = Config {
    name: "",
    ring: 9,
    places: 8,
    slots: 3,
    contents: 3,
    cap: 3,
    meta: 4,
    ops: 60,
    checkpoints: 30,
    crashes: 12,
    process_crashes: 4,
    faults: 0,
    flush_failures: 1,
    quiet: 6,
    slow_data: true,
    split_flush: true,
    unrecorded: false,
    bug: None,
};
/// Explored at random.
pub const RANDOM: &[Config] = &[
    Config { name: "random, no fault", ..LARGE },
    Config { name: "random, one fault", faults: 1, ..LARGE },
    Config { name: "random, small ring", ring: 5, cap: 2, meta: 2, ..LARGE },
    Config { name: "random, small ring, one fault", ring: 5, cap: 2, meta: 2, faults: 1, ..LARGE },
    Config { name: "random, without records", places: 6, flush_failures: 0, unrecorded: true, ..LARGE },
    Config {
        name: "random, small ring, without records",
        ring: 5,
        cap: 2,
        meta: 2,
        places: 5,
        unrecorded: true,
        ..LARGE
    },
];
