//! `cargo xtask long`: the long versions of tests, and the measurements that are written as tests. Optimised, and without the time limit that tests have under nextest.

use crate::command::run_cargo_with;
use clap::{Args, Subcommand, ValueEnum};

#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Clones made, changed and deleted: marks find every count as it is kept, and then no byte is left. 4 GiB in /dev/shm for 100000.
    Churn {
        /// How many.
        #[arg(long, default_value_t = 100_000)]
        clones: u64,
        /// Seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// File systems filled with files of four sizes, unmounted, emptied in three orders, filled again.
    Full {
        /// Sizes of the stores, in MiB.
        #[arg(long, value_delimiter = ',', default_values_t = [24, 40, 200])]
        sizes: Vec<u64>,
    },
    /// The engine's proofs, whole: failures at every call of a nearly full store and of a recovery, exhaustion, liars, misbehaving devices, and more histories of the log, of crashes and of a
    /// full ring.
    Failures {
        /// Seeds of the liars, of the log and of crashes.
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
    },
    /// Measurements: on images in /dev/shm and on simulated devices, so that only the product's own work counts.
    Measure {
        /// Which; all of them if not said.
        #[arg(long, value_enum)]
        only: Option<Group>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    /// Forks among many, recoveries with the namespace's records, mounts by size and objects, operations during checkpoints.
    Namespace,
    /// Drops of small trees, appends during a publication, mounts.
    Engine,
    /// Records appended a second, by threads.
    Log,
    /// What counting and timing costs.
    Metrics,
    /// Random reads and writes of the io_uring device.
    Device,
}

impl Group {
    /// Package, filter of its tests.
    const fn tests(self) -> (&'static str, &'static str) {
        match self {
            Self::Namespace => ("envoyfs-bound-tests", "measure_"),
            Self::Engine => ("envoyfs-engine", "tests::measure::"),
            Self::Log => ("envoyfs-engine", "wal::tests::speed::"),
            Self::Metrics => ("envoyfs-engine", "cost_of_recording"),
            Self::Device => ("envoyfs-engine", "device::uring::bench::"),
        }
    }
}

/// Ends with an error when a test fails.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match &arguments.what {
        What::Churn { clones, seed } => {
            let variables = [("CLONES", clones.to_string()), ("CHURN_SEED", seed.to_string())];
            test(&variables, "envoyfs-bound-tests", &["--test", "churn"], &[])?;
            test(&variables, "envoyfs-engine", &["--lib"], &["counts_are_exact"])
        }
        What::Full { sizes } => {
            let sizes: Vec<String> = sizes.iter().map(u64::to_string).collect();
            test(&[("FULL_MIB", sizes.join(","))], "envoyfs-bound-tests", &["--test", "full_store"], &[])
        }
        What::Failures { seeds } => failures(*seeds),
        What::Measure { only } => {
            let all = Group::value_variants().iter().filter(|group| only.is_none_or(|only| only == **group));
            all.copied().try_for_each(|group| {
                let (package, filter) = group.tests();
                test(&[], package, &["--tests"], &[filter, "--ignored", "--test-threads=1"])
            })
        }
    }
}

fn failures(seeds: u64) -> anyhow::Result<()> {
    let seeds = seeds.to_string();
    let whole = [("WORN_STEP", "1".to_owned()), ("LIARS_SEEDS", seeds.clone())];
    let targets = ["failures", "worn", "exhaustion", "liars", "misbehaving"].map(|name| ["--test", name]);
    test(&whole, "envoyfs-store-tests", &targets.concat(), &[])?;
    let whole = [("WAL_SEEDS", seeds.clone()), ("CRASH_ROUNDS", seeds), ("FULL_RING_STEP", "1".to_owned())];
    let filters = ["wal::tests::crashes", "tests::crash::", "tests::full_ring::"];
    test(&whole, "envoyfs-engine", &["--lib"], &filters)
}

fn test(variables: &[(&str, String)], package: &str, targets: &[&str], options: &[&str]) -> anyhow::Result<()> {
    let words = [&["test", "--release", "--package", package], targets, &["--", "--nocapture"], options].concat();
    run_cargo_with(variables, &words)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A filter that fits nothing runs nothing, and says that all is well.
    #[test]
    fn every_filter_names_ignored_tests_that_exist() {
        let sources = [
            (Group::Namespace, include_str!("../../tests/bound/tests/measure.rs"), "fn measure_"),
            (Group::Engine, include_str!("../../engine/src/tests/measure.rs"), "fn measure_"),
            (Group::Log, include_str!("../../engine/src/wal/tests/speed.rs"), "fn "),
            (Group::Metrics, include_str!("../../engine/src/metrics/tests.rs"), "fn cost_of_recording"),
            (Group::Device, include_str!("../../engine/src/device/uring/bench.rs"), "fn "),
        ];
        for (group, source, name) in sources {
            let found = source.split("#[ignore").skip(1).any(|test| test.contains(name));
            assert!(found, "{}", group.tests().1);
        }
        let engine = include_str!("../../engine/src/tests/mark.rs");
        assert!(engine.contains("counts_are_exact") && engine.contains("CLONES"));
    }

    /// A variable that nobody reads makes nothing longer.
    #[test]
    fn every_variable_of_the_long_failures_is_read_by_a_test() {
        let sources = [
            ("WORN_STEP", include_str!("../../tests/store/tests/worn.rs")),
            ("LIARS_SEEDS", include_str!("../../tests/store/tests/liars.rs")),
            ("WAL_SEEDS", include_str!("../../engine/src/wal/tests/crashes.rs")),
            ("CRASH_ROUNDS", include_str!("../../engine/src/tests/crash.rs")),
            ("FULL_RING_STEP", include_str!("../../engine/src/tests/full_ring.rs")),
        ];
        for (variable, source) in sources {
            assert!(source.contains(&format!("\"{variable}\"")), "{variable}");
        }
    }
}
