//! The scenarios of every durability rule, on the engine as it is. `cargo xtask sabotage` breaks each rule and expects its scenario to fail.

use envoyfs_store_tests::rules::{self, Rule, SCENARIOS};

#[test]
fn every_rule_that_can_be_broken_has_a_scenario() {
    for rule in Rule::ALL {
        assert_eq!(SCENARIOS.iter().filter(|(of, ..)| of == rule).count(), 1, "{}", rule.name());
    }
}

macro_rules! tests {
    ($($name:ident)*) => {
        $(#[test] fn $name() { rules::$name(); })*
        /// A scenario that is only in the table would run only when its rule is broken.
        #[test]
        fn every_scenario_is_a_test() {
            let names = [$(stringify!($name)),*];
            assert!(SCENARIOS.iter().all(|(_, name, _)| names.contains(name)));
        }
    };
}

tests! {
    acknowledged_records_survive_a_power_cut
    what_a_checkpoint_frames_is_flushed_before_it_is_acknowledged
    acknowledged_data_survives_a_power_cut
    data_that_was_moved_after_its_record_was_written_is_found_after_a_power_cut
    a_recovery_writes_nothing_over_data_that_was_moved
    data_that_was_moved_keeps_its_container_behind_a_cut
    what_is_appended_while_a_flush_runs_needs_a_flush_of_its_own
    a_power_cut_is_not_taken_for_damage
    after_a_failed_flush_nothing_is_acknowledged
    a_record_whose_data_is_lost_is_cut
    blocks_behind_a_cut_never_come_back
    what_is_committed_after_a_cut_stays
    what_is_acknowledged_after_an_accepted_loss_of_the_first_block_stays
    an_accepted_loss_is_not_reported_again
    a_store_mounts_after_any_number_of_crashes_without_a_checkpoint
    damage_below_a_watermark_is_told
    after_the_end_of_a_mount_nothing_is_acknowledged
    a_closed_log_gives_no_number_twice_and_skips_none
    a_number_is_never_handed_out_twice
    a_mount_after_a_killed_process_flushes_before_it_repairs
    a_repair_leaves_good_copies_alone
    a_publication_never_has_all_copies_at_risk
    a_publication_leaves_the_directory_in_use_alone
    a_publication_leaves_the_segment_table_in_use_alone
    a_checkpoint_record_is_durable_only_after_what_it_names
    a_publication_names_no_page_that_has_not_arrived
    a_publication_calls_no_container_closed_whose_end_has_not_arrived
    a_superblock_is_durable_only_after_its_directory
    without_a_record_a_superblock_is_durable_only_after_its_directory
    a_checkpoint_whose_segments_the_log_does_not_tell_of_is_not_adopted
    what_a_publication_without_a_record_freed_is_reused_only_when_the_log_tells_of_it
    a_mount_tells_of_a_publication_without_a_record_before_it_reuses_what_that_freed
    the_log_is_durable_to_its_freeze_before_a_checkpoint_writes_its_roots
    records_between_freeze_and_publication_are_replayed
    ring_space_is_not_reused_before_the_superblock_that_frees_it
    a_container_is_not_reused_before_the_superblock_that_frees_it
    data_that_no_checkpoint_contains_keeps_its_container
    a_reader_keeps_what_it_has_looked_up
    what_is_under_way_is_not_cleaned
    a_page_that_is_replaced_while_it_is_read_is_read_again
    what_the_cleaner_moves_can_be_read_all_the_time
    a_fork_counts_what_it_shares
    an_adopted_checkpoint_counts_once
    what_a_retained_checkpoint_holds_stays_readable
    what_is_pinned_stays_readable
    a_mount_knows_every_retained_checkpoint
    an_adopted_checkpoint_gives_back_what_the_dropped_ones_kept
    history_goes_before_a_write_is_refused
    a_dropped_node_that_cannot_be_read_is_not_forgotten
    a_mark_of_a_store_that_drops_trees_finds_nothing_wrong
    a_mark_reclaims_nothing_while_a_node_cannot_be_read
    a_mark_reads_the_nodes_of_its_checkpoint_whatever_the_policy_says
    an_adopted_checkpoint_holds_the_corrections_of_a_mark
    a_mark_compares_counts_and_trees_of_one_checkpoint
    a_stamp_that_a_crash_lost_is_not_drawn_again
    stamps_rise_along_a_log
    a_node_is_not_older_than_what_it_refers_to
    a_node_that_is_still_referred_to_is_not_gone
    what_is_freed_of_an_extent_is_what_the_client_says
    what_a_stored_node_refers_to_does_not_grow
    what_a_node_of_a_freeze_given_up_refers_to_does_not_grow
    an_adopted_checkpoint_has_worked_off_what_the_published_one_had
    a_digest_does_not_tell_where_a_segment_lies
    nobody_waits_for_the_device_at_a_freeze_or_beside_a_publication
    nodes_that_were_admitted_have_room_when_they_are_written
    a_fork_and_its_deletion_work_when_writers_are_refused
    every_container_is_free_or_filled_or_closed
    pages_that_the_setting_has_no_room_for_are_forgotten
    slot_maps_that_the_setting_has_no_room_for_are_forgotten
    a_pin_that_is_dropped_is_given_back
    a_container_is_kept_only_for_what_no_checkpoint_contains
    a_mounts_superblock_is_durable_only_after_what_it_names
    a_mount_calls_no_container_closed_whose_end_has_not_arrived
    an_adopted_checkpoint_is_published_before_anything_is_served
    a_segment_number_is_never_handed_out_twice
    an_end_of_the_log_that_cannot_be_read_is_told
    a_copy_of_the_superblock_that_no_other_attests_does_not_rule
    a_scrub_tells_what_does_not_verify
    a_scrub_tells_of_pages
}
