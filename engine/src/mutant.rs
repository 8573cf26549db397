//! Mistakes of synchronisation that can be made on purpose, one at a time, to see that the models of it notice (`docs/testing.md`). Nothing of it is compiled into a
//! product: without the feature `models`, `on` is `false` for the compiler too.
//!
//! The durability rules of [`crate::sabotage`] are about what is written when; these are about which thread sees what when. `cargo xtask models` runs every model as the code
//! is, and then with each mistake: the test that the table names must fail.

macro_rules! mutants {
    ($($(#[doc = $what:literal])* $mutant:ident: $test:literal,)*) => {
        /// A mistake.
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

/// Runs the models in processes of their own: `cargo xtask models` asks for it.
#[cfg(all(test, feature = "models"))]
mod tests {
    use super::TABLE;
    use std::process::{Command, Stdio};
    use std::sync::mpsc::channel;
    use std::time::Duration;

    /// Longest that a model may take, in steps of 20 ms.
    const STEPS_MAX: u32 = 3000;

    /// How the test ended, with a mistake or (empty) without; `None` if it did not.
    fn passes(test: &str, mistake: &str) -> Option<bool> {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([test, "--include-ignored"]).env("ENVOYFS_MUTANT", mistake).env("RUST_BACKTRACE", "0");
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let (_never, timer) = channel::<()>();
        for _ in 0..STEPS_MAX {
            if let Some(status) = child.try_wait().unwrap() {
                return Some(status.success());
            }
            let _ = timer.recv_timeout(Duration::from_millis(20));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        None
    }

    #[test]
    #[ignore = "takes as long as all models together, several times"]
    fn every_mistake_is_noticed() {
        let mut sound = std::collections::BTreeMap::new();
        let mut missed = 0;
        for (_, name, test, what) in TABLE {
            let sound = *sound.entry(test).or_insert_with(|| passes(test, "") == Some(true));
            let verdict = match passes(test, name) {
                _ if !sound => "FAILS without a mistake",
                Some(false) => "noticed",
                Some(true) => "NOT NOTICED",
                None => "HANGS with the mistake",
            };
            missed += u32::from(verdict != "noticed");
            println!("{verdict:<12} {name:<22} {}\n{:12} {test}", what.trim(), "");
        }
        println!("{} mistakes, {missed} not noticed", TABLE.len());
        assert_eq!(missed, 0);
    }
}
