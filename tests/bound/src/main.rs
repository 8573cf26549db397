//! `bound sharing|log HISTORIES BASE`: many histories, for `cargo xtask models`. The tests run a few.

use envoyfs_bound_tests::{log, sharing};
use envoyfs_wal_model::config::RANDOM;
use std::process::ExitCode;

/// Operations of a history of the sharing model.
const OPERATIONS: usize = 800;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u64>().ok());
    let result = match (arguments.first().map(String::as_str), number(1), number(2)) {
        (Some("sharing"), Some(count), Some(base)) => sharing_histories(base..base + count),
        (Some("log"), Some(count), Some(base)) => log_histories(base..base + count),
        _ => Err("usage: bound sharing|log HISTORIES BASE".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("{what}");
            ExitCode::FAILURE
        }
    }
}

/// A panic, which a check inside the product or the oracle store may end in, stands behind the seed printed last.
fn announce(what: &str, test: &str, seed: u64, more: &str) {
    println!("{what} {seed}: BOUND_SEED={seed} {more}cargo test -p envoyfs-bound-tests --test {test}");
}

fn sharing_histories(seeds: std::ops::Range<u64>) -> Result<(), String> {
    let operations = format!("BOUND_OPERATIONS={OPERATIONS} ");
    for seed in seeds {
        announce("sharing history", "sharing", seed, &operations);
        sharing::history(sharing::Simulated::new(seed), seed, OPERATIONS).map_err(|what| format!("engine: {what}"))?;
        sharing::history(sharing::Memory::new(), seed, OPERATIONS)
            .map_err(|what| format!("oracle of counts: {what}"))?;
    }
    Ok(())
}

fn log_histories(seeds: std::ops::Range<u64>) -> Result<(), String> {
    for config in RANDOM {
        let mut counters = log::Counters::default();
        for seed in seeds.clone() {
            announce("log history", "log", seed, "");
            log::history(config, seed, &mut counters)
                .map_err(|what| format!("{}: seed {seed}: {what}", config.name))?;
        }
        println!("{}: {counters:?}", config.name);
    }
    Ok(())
}
