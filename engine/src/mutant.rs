//! Mistakes of synchronisation that can be made on purpose, one at a time, to see that the models of it notice (`docs/testing.md`). Nothing of it is compiled into a
//! product: without the feature `models`, `on` is `false` for the compiler too.
//!
//! The durability rules of [`crate::sabotage`] are about what is written when; these are about which thread sees what when. `cargo xtask models` runs every model as the code
//! is, and then with each mistake: the test that the table names must fail.

macro_rules! mutants {
    ($($(#[doc = $what:literal])* $mutant:ident: $test:literal,)*) => {
        /// A mistake.
        #[cfg_attr(not(feature = "models"), allow(dead_code, reason = "models make some of them"))]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Mutant { $($(#[doc = $what])* $mutant,)* }

        /// Name of the mistake, end of the name of the test that must fail, and what the mistake is.
        #[cfg(feature = "models")]
        const TABLE: &[(Mutant, &str, &str, &str)] = &[$((Mutant::$mutant, stringify!($mutant), $test, concat!($($what,)*)),)*];
    };
}

mutants! {
    /// A record's first word is stored last, but not released.
    PutNotReleased: "models::the_framer_takes_whole_records_in_the_order_of_lsn_and_hlc",
    /// A record's first word is stored before the others.
    PutFirstWordFirst: "models::the_framer_takes_whole_records_in_the_order_of_lsn_and_hlc",
    /// The framer reads a record's first word without acquiring it.
    FramerNotAcquired: "models::the_framer_takes_whole_records_in_the_order_of_lsn_and_hlc",
    /// Words may be used again before they were copied out.
    ConsumedBeforeTaken: "models::words_are_used_again_only_after_they_were_taken",
    /// That words may be used again is told without releasing their zeroes.
    ConsumeNotReleased: "models::words_are_used_again_only_after_they_were_taken",
    /// That words may be used again is read without acquiring their zeroes.
    FitsNotAcquired: "models::words_are_used_again_only_after_they_were_taken",
    /// Promises do not count against the staging ring.
    FitsIgnoresPromises: "models::words_are_used_again_only_after_they_were_taken",
    /// What the framer has copied stays in the ring.
    TakenWordsStay: "models::words_are_used_again_only_after_they_were_taken",
    /// The end of what waits is counted before the promises.
    EndCountedFirst: "models::a_count_of_promised_and_waiting_never_misses_a_record_under_way",
    /// An append does not look whether the committer sleeps.
    SleeperNotSeen: "models::an_append_wakes_a_committer_that_went_to_sleep",
    /// The leader of a group calls none of those that it did not cover.
    NextNotCalled: "line::models::whoever_commits_comes_back_and_what_he_waited_for_is_durable",
    /// All who wait are released, whatever the group covered.
    AllReleased: "line::models::whoever_commits_comes_back_and_what_he_waited_for_is_durable",
    /// Who waits for the end of a group is not called at it.
    NextGroupForgotten: "line::models::whoever_waits_for_the_end_of_a_group_is_called_at_it",
    /// A function that waits for durability is left with the log without waking the committer.
    CallbackSilently: "models::threads::whoever_waits_for_a_record_is_told_when_it_is_durable_and_not_before",
    /// The end of a group does not wake the committer, although functions wait.
    GroupEndsSilently: "models::threads::whoever_waits_for_a_record_is_told_when_it_is_durable_and_not_before",
    /// The end of the log tells nobody of those who still wait.
    ClosedSilently: "models::threads::whoever_waits_at_the_end_of_the_log_is_told",
    /// The committer sleeps without looking again after it said that it does.
    SleepsWithoutLook: "models::threads::a_record_that_nobody_waits_for_is_durable_in_time",
    /// An append that saw the committer asleep wakes it without the lock, perhaps before it sleeps.
    WakesWithoutLock: "models::threads::a_record_that_nobody_waits_for_is_durable_in_time",
    /// A record is published before the log knows what data it names.
    NamedAfterPublished: "models::threads::whoever_waits_for_a_record_is_told_when_it_is_durable_and_not_before",
    /// A writer that needs a checkpoint does not wake the checkpointer.
    WantedSilently: "tests::models::writers_that_wait_for_a_checkpoint_get_one_and_no_cut_loses_anything",
    /// The checkpointer sleeps without looking whether one is wanted by now.
    CheckpointerSleepsAnyway: "tests::models::writers_that_wait_for_a_checkpoint_get_one_and_no_cut_loses_anything",
    /// A publication does not wake the writers that wait for it.
    PublishedSilently: "tests::models::writers_that_wait_for_a_checkpoint_get_one_and_no_cut_loses_anything",
    /// A version is frozen while a record is between the log and the client's memory (rule 1 of decision 0002).
    FrozenAmidAppends: "tests::models::writers_that_wait_for_a_checkpoint_get_one_and_no_cut_loses_anything",
    /// Readers look on the device for data whose write has not completed.
    InFlightLeftEarly: "tests::models::writers_that_wait_for_a_checkpoint_get_one_and_no_cut_loses_anything",
    /// Places are reused although readers that entered before are still inside.
    ReadersNotWaitedFor: "models::a_place_is_not_reused_while_a_reader_that_looked_it_up_is_inside",
    /// A reader does not look whether the epoch is still the one that it counted itself into.
    ReaderLooksOnce: "models::a_place_is_not_reused_while_a_reader_that_looked_it_up_is_inside",
    /// The last reader of an epoch wakes who waits for it without the lock, perhaps before it waits.
    ReaderLeavesWithoutLock: "models::a_place_is_not_reused_while_a_reader_that_looked_it_up_is_inside",
    /// The epoch is raised after the readers were waited for.
    EpochRaisedLate: "models::a_place_is_not_reused_while_a_reader_that_looked_it_up_is_inside",
    /// Who drops a pin takes those of others with it.
    PinTakesOthers: "models::what_was_reachable_when_a_pin_was_taken_is_read_until_it_is_dropped",
    /// Who reuses containers asks for pins before the client shows what was published.
    PinsAskedEarly: "models::what_was_reachable_when_a_pin_was_taken_is_read_until_it_is_dropped",
    /// The version of pins rises before the client shows what was published.
    VersionRisesEarly: "pin_models::what_is_pinned_is_read_whatever_is_published_and_reused_meanwhile",
    /// Places of moved units that died are kept only after readers were sent to pages without them.
    KeptAfterPages: "pin_models::what_is_pinned_is_read_whatever_is_published_and_reused_meanwhile",
    /// A reader asks for places that are kept before it looks at pages, and not again.
    KeptAskedFirst: "pin_models::what_was_moved_and_dies_is_found_at_any_moment_by_who_pinned_it",
    /// Places that are kept are forgotten although a pin is older.
    KeptForgotten: "pin_models::what_is_pinned_is_read_whatever_is_published_and_reused_meanwhile",
    /// That pins are broken is said after what they held is gone.
    PinsBrokenLate: "pin_models::a_read_that_fails_because_its_pin_was_broken_says_so",
    /// A reader of a segment's page takes the place that it saw before it entered.
    PageLookedUpOnce: "slot_maps::units_that_move_are_found_wherever_they_were_looked_up",
    /// A slot map that was read is kept although the segment's page is another one by now.
    OldSlotMapHeld: "slot_maps::units_that_move_are_found_wherever_they_were_looked_up",
    /// A queue of reads notes the epoch after it has looked the place up.
    QueueEpochNotedLate: "queue::models::a_queue_gives_the_bytes_of_no_other_object_and_no_error_while_places_are_reused",
    /// A queue of reads takes bytes that verify, although the epoch has risen.
    QueueTrustsWhatVerifies: "queue::models::a_queue_gives_the_bytes_of_no_other_object_and_no_error_while_places_are_reused",
    /// A queue of reads does not look at the epoch of a read that it has repeated.
    QueueNotPinnedAtLast: "queue::models::a_queue_gives_the_bytes_of_no_other_object_and_no_error_while_places_are_reused",
    /// The write thread listens without acquiring what was brought before.
    ListensRelaxed: "models::a_write_thread_that_sleeps_is_woken_for_every_write",
    /// Who brings work asks whether the write thread listens without releasing what it brought.
    RingsRelaxed: "models::a_write_thread_that_sleeps_is_woken_for_every_write",
    /// Held writes are taken before the lock under which they are written.
    HeldTakenEarly: "held::models::whoever_waits_comes_back_and_nothing_is_written_here_after_the_end",
    /// The end of a device does not wait for those who write what was held.
    EndedAmidWrites: "held::models::whoever_waits_comes_back_and_nothing_is_written_here_after_the_end",
    /// What is held when the device ends is not given to the write thread.
    HeldForgottenAtEnd: "held::models::whoever_waits_comes_back_and_nothing_is_written_here_after_the_end",
    /// Tickets are completed under the lock that the device's end waits for.
    CompletedUnderLock: "held::models::a_function_of_a_held_write_may_end_the_device",
    /// The write thread listens to urgent writes alone, although nothing else wakes it.
    ListensToUrgentAlone: "models::a_write_thread_that_sleeps_is_woken_for_every_write",
    /// A write that is not urgent and wakes nobody takes the bell from an urgent one.
    OtherTakesUrgent: "models::a_write_thread_that_the_device_wakes_soon_is_woken_for_what_is_urgent_and_takes_the_rest_then",
    /// Who waits for a ticket is not told that it depends on another device's work now.
    FollowedSilently: "ticket_tests::models::in_every_interleaving_a_waiter_drives_what_its_ticket_came_to_depend_on",
}

/// Whether the mistake is made: the one that the variable `ENVOYFS_MUTANT` names, for the life of the process.
#[cfg(feature = "models")]
pub(crate) fn on(mutant: Mutant) -> bool {
    static MADE: std::sync::OnceLock<Option<Mutant>> = std::sync::OnceLock::new();
    let made = MADE.get_or_init(|| {
        let name = std::env::var("ENVOYFS_MUTANT").ok().filter(|name| !name.is_empty())?;
        let found = TABLE.iter().find(|(_, of, ..)| *of == name);
        assert!(found.is_some(), "no mistake is called {name}");
        found.map(|(mutant, ..)| *mutant)
    });
    *made == Some(mutant)
}

/// Never.
#[cfg(not(feature = "models"))]
pub(crate) const fn on(_mutant: Mutant) -> bool {
    false
}

#[cfg(test)]
#[cfg(feature = "models")]
mod tests;
