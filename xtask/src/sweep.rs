//! `cargo xtask sweep`: every sector of a small store, with every kind of fault.

use crate::command::run_cargo_with;
use clap::Args;

#[derive(Args)]
pub struct Arguments {
    /// Only so many faults of sectors that hold something, instead of every fault of every sector.
    #[arg(long)]
    cases: Option<u64>,
    /// Which these are.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only sectors from this one on.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Only sectors before this one.
    #[arg(long)]
    to: Option<u64>,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: u64,
}

/// Tells every case that is not explained, with the command that repeats it.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut variables = match arguments.cases {
        Some(cases) => vec![("SWEEP_CASES", cases.to_string()), ("SWEEP_SEED", arguments.seed.to_string())],
        None => vec![("SWEEP_ALL", "1".to_owned())],
    };
    variables.push(("SWEEP_FROM", arguments.from.to_string()));
    variables.extend(arguments.to.map(|to| ("SWEEP_TO", to.to_string())));
    variables.push(("SWEEP_THREADS", arguments.threads.to_string()));
    let test = ["test", "--release", "--package", "envoyfs-tools", "--test", "sector_sweep", "--", "--nocapture"];
    run_cargo_with(&variables, &test)
}
