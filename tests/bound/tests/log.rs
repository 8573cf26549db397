//! The WAL model's histories on the real engine. `BOUND_SEED=n` runs that seed alone, in every configuration; `BOUND_SEEDS=n` so many.

use envoyfs_bound_tests::log::{Counters, history};
use envoyfs_wal_model::config::RANDOM;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn histories_of_the_wal_model_recover_what_the_engine_promised() {
    let seeds = match number("BOUND_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("BOUND_SEEDS").unwrap_or(50),
    };
    for config in RANDOM {
        let mut counters = Counters::default();
        for seed in seeds.clone() {
            println!("BOUND_SEED={seed} cargo test -p envoyfs-bound-tests --test log  # {}", config.name);
            if let Err(what) = history(config, seed, &mut counters) {
                panic!("{}: seed {seed}: {what}", config.name);
            }
        }
        println!("{}: {counters:?}", config.name);
        let must = config.unrecorded && config.ring < 9 && seeds.end - seeds.start >= 50;
        assert!(!must || counters.unrecorded > 0, "{}: every checkpoint had a record", config.name);
    }
}
