//! For each durability rule the scenario that fails when the rule is broken (`envoyfs_engine::sabotage`). Run as tests they show that the engine keeps the rules;
//! `cargo xtask sabotage` shows that they would notice.

mod clock;
mod law;
mod log;
mod loss;
mod mounts;
mod publish;
mod room;
mod space;
mod unrecorded;
mod upkeep;

pub use clock::*;
pub use envoyfs_engine::sabotage::Rule;
pub use law::*;
pub use log::*;
pub use loss::*;
pub use mounts::*;
pub use publish::*;
pub use room::*;
pub use space::*;
pub use unrecorded::*;
pub use upkeep::*;

macro_rules! scenarios {
    ($($rule:ident: $name:ident,)*) => {
        /// Rule, name of its scenario, scenario.
        pub const SCENARIOS: &[(Rule, &str, fn())] = &[$((Rule::$rule, stringify!($name), $name),)*];
    };
}

scenarios! {
    AckWithoutFlush: acknowledged_records_survive_a_power_cut,
    PlainBlocksForgotten: what_a_checkpoint_frames_is_flushed_before_it_is_acknowledged,
    AckBeforeData: acknowledged_data_survives_a_power_cut,
    MovedNotFramed: data_that_was_moved_after_its_record_was_written_is_found_after_a_power_cut,
    SealOverMoved: a_recovery_writes_nothing_over_data_that_was_moved,
    PlacementBehindCutLost: data_that_was_moved_keeps_its_container_behind_a_cut,
    AckOfLaterRecords: what_is_appended_while_a_flush_runs_needs_a_flush_of_its_own,
    WatermarkAheadOfFlush: a_power_cut_is_not_taken_for_damage,
    PoisonForgotten: after_a_failed_flush_nothing_is_acknowledged,
    ReplayWithoutCut: a_record_whose_data_is_lost_is_cut,
    GenerationKept: blocks_behind_a_cut_never_come_back,
    CutNotPublished: what_is_committed_after_a_cut_stays,
    LossKeepsStart: what_is_acknowledged_after_an_accepted_loss_of_the_first_block_stays,
    LossKeepsRecord: an_accepted_loss_is_not_reported_again,
    ServesWithFullCuts: a_store_mounts_after_any_number_of_crashes_without_a_checkpoint,
    AcknowledgesAfterClose: after_the_end_of_a_mount_nothing_is_acknowledged,
    ClosedNumbersBelieved: a_closed_log_gives_no_number_twice_and_skips_none,
    WatermarkOnlyBeforeBad: damage_below_a_watermark_is_told,
    BoundNotRaised: a_number_is_never_handed_out_twice,
    NoFlushAtOpen: a_mount_after_a_killed_process_flushes_before_it_repairs,
    RepairAllAtOnce: a_repair_leaves_good_copies_alone,
    SuperblockPairsTogether: a_publication_never_has_all_copies_at_risk,
    DirectorySlotInUse: a_publication_leaves_the_directory_in_use_alone,
    TableSlotInUse: a_publication_leaves_the_segment_table_in_use_alone,
    NoFlushBeforeCheckpointRecord: a_checkpoint_record_is_durable_only_after_what_it_names,
    NamedBeforeArrival: a_publication_names_no_page_that_has_not_arrived,
    ClosedBeforeItsEnd: a_publication_calls_no_container_closed_whose_end_has_not_arrived,
    CommitInsteadOfBarrier: a_superblock_is_durable_only_after_its_directory,
    NoBarrierWithoutRecord: without_a_record_a_superblock_is_durable_only_after_its_directory,
    UnloggedAdopted: a_checkpoint_whose_segments_the_log_does_not_tell_of_is_not_adopted,
    ReusedUntold: what_a_publication_without_a_record_freed_is_reused_only_when_the_log_tells_of_it,
    UntoldNotDurable: what_a_publication_without_a_record_freed_is_reused_only_when_the_log_tells_of_it,
    MountUntold: a_mount_tells_of_a_publication_without_a_record_before_it_reuses_what_that_freed,
    RootsBeforeTheirLog: the_log_is_durable_to_its_freeze_before_a_checkpoint_writes_its_roots,
    StartAtCheckpointRecord: records_between_freeze_and_publication_are_replayed,
    RingReusedEarly: ring_space_is_not_reused_before_the_superblock_that_frees_it,
    ContainersReusedEarly: a_container_is_not_reused_before_the_superblock_that_frees_it,
    PinsIgnored: data_that_no_checkpoint_contains_keeps_its_container,
    ReaderPinsIgnored: a_reader_keeps_what_it_has_looked_up,
    PinnedReused: what_is_pinned_stays_readable,
    CleanedBeforeArrival: what_is_under_way_is_not_cleaned,
    StalePageTaken: a_page_that_is_replaced_while_it_is_read_is_read_again,
    MovesInstalledEarly: what_the_cleaner_moves_can_be_read_all_the_time,
    PlusOneDropped: a_fork_counts_what_it_shares,
    BatchAppliedTwice: an_adopted_checkpoint_counts_once,
    DeathsNotDeferred: what_a_retained_checkpoint_holds_stays_readable,
    RetainedLeftOut: a_mount_knows_every_retained_checkpoint,
    ReleasesNotInBatch: an_adopted_checkpoint_gives_back_what_the_dropped_ones_kept,
    HistoryKeptWhenShort: history_goes_before_a_write_is_refused,
    UnreadableForgotten: a_dropped_node_that_cannot_be_read_is_not_forgotten,
    MarkSkipsDropQueue: a_mark_of_a_store_that_drops_trees_finds_nothing_wrong,
    MarkReclaimsBelowDamage: a_mark_reclaims_nothing_while_a_node_cannot_be_read,
    MarkRootsDropped: a_mark_reads_the_nodes_of_its_checkpoint_whatever_the_policy_says,
    RepairsNotInBatch: an_adopted_checkpoint_holds_the_corrections_of_a_mark,
    MarkBeforePublication: a_mark_compares_counts_and_trees_of_one_checkpoint,
    StampsFromSeen: a_stamp_that_a_crash_lost_is_not_drawn_again,
    HlcFollowsWall: stamps_rise_along_a_log,
    BirthUnchecked: a_node_is_not_older_than_what_it_refers_to,
    MinusOneDropped: a_fork_counts_what_it_shares,
    GoneUnchecked: a_node_that_is_still_referred_to_is_not_gone,
    FreedAtOne: a_fork_counts_what_it_shares,
    FreedTooFar: what_is_freed_of_an_extent_is_what_the_client_says,
    RangesForgotten: what_is_freed_of_an_extent_is_what_the_client_says,
    GrowsWhenReferred: what_a_stored_node_refers_to_does_not_grow,
    GrowsAfterAbandon: what_a_node_of_a_freeze_given_up_refers_to_does_not_grow,
    DropsNotInBatch: an_adopted_checkpoint_has_worked_off_what_the_published_one_had,
    DigestByPlace: a_digest_does_not_tell_where_a_segment_lies,
    FreezeWaits: nobody_waits_for_the_device_at_a_freeze_or_beside_a_publication,
    NodesUncounted: nodes_that_were_admitted_have_room_when_they_are_written,
    LastTierAsWriter: a_fork_and_its_deletion_work_when_writers_are_refused,
    EndedNotClosed: every_container_is_free_or_filled_or_closed,
    PagesKept: pages_that_the_setting_has_no_room_for_are_forgotten,
    SlotMapsKept: slot_maps_that_the_setting_has_no_room_for_are_forgotten,
    PinKept: a_pin_that_is_dropped_is_given_back,
    ContainerPinKept: a_container_is_kept_only_for_what_no_checkpoint_contains,
    DeathNotCounted: every_container_is_free_or_filled_or_closed,
    NoFlushInRecovery: a_mounts_superblock_is_durable_only_after_what_it_names,
    MountNamesBeforeArrival: a_mount_calls_no_container_closed_whose_end_has_not_arrived,
    AdoptedNotPublished: an_adopted_checkpoint_is_published_before_anything_is_served,
    SegmentBoundIgnored: a_segment_number_is_never_handed_out_twice,
    UnreadableEndCut: an_end_of_the_log_that_cannot_be_read_is_told,
    NewestOpens: a_copy_of_the_superblock_that_no_other_attests_does_not_rule,
    PublishesPoisoned: after_a_failed_flush_nothing_is_acknowledged,
    PlacementNotLogged: acknowledged_data_survives_a_power_cut,
    ScrubIgnoresRow: a_scrub_tells_what_does_not_verify,
    ScrubIgnoresPage: a_scrub_tells_of_pages,
}
