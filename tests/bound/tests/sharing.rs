//! The sharing model's histories on the real namespace. `BOUND_SEED=n` runs that seed alone, `BOUND_SEEDS=n` so many,
//! `BOUND_OPERATIONS=n` makes them longer, `TRACE=1` prints every step.

use envoyfs_bound_tests::sharing::{Ground, Memory, Simulated, history};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn histories<G: Ground>(seeds: u64, operations: u64, ground: impl Fn(u64) -> G, test: &str) {
    let operations = number("BOUND_OPERATIONS").unwrap_or(operations) as usize;
    let seeds = match number("BOUND_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("BOUND_SEEDS").unwrap_or(seeds),
    };
    for seed in seeds {
        println!(
            "BOUND_SEED={seed} BOUND_OPERATIONS={operations} cargo test -p envoyfs-bound-tests --test sharing {test}"
        );
        if let Err(what) = history(ground(seed), seed, operations) {
            panic!("{what}");
        }
    }
}

#[test]
fn histories_over_the_engine_show_what_the_model_says() {
    histories(25, 300, Simulated::new, "histories_over_the_engine_show_what_the_model_says");
}

#[test]
fn histories_over_the_oracle_of_counts_show_what_the_model_says() {
    histories(40, 300, |_| Memory::new(), "histories_over_the_oracle_of_counts_show_what_the_model_says");
}
