//! Runs a model of the engine under shuttle's schedulers: random ones, and ones that change priorities a few times ("PCT"). The same seed gives the same schedules:
//! `ENVOYFS_MODEL_SEED=7 cargo test -p envoyfs-engine --lib --features models NAME`. A failure prints the schedule, too.

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

/// The deepest stack of a thread of the engine, with room.
const STACK_BYTES: usize = 1 << 20;
/// Changes of priority.
const CHANGES: usize = 3;

/// Tries so many schedules of each kind.
pub(crate) fn check(schedules: usize, model: fn()) {
    let seed = std::env::var("ENVOYFS_MODEL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("ENVOYFS_MODEL_SEED={seed}");
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    config.silence_warnings = true;
    let random = Runner::new(RandomScheduler::new_from_seed(seed, schedules), config.clone()).run(model);
    println!("{random} random schedules");
    Runner::new(PctScheduler::new_from_seed(seed, CHANGES, schedules), config).run(model);
}
