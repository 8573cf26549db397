//! `cargo xtask sweep`: every sector of a small store, with every kind of fault.

use crate::command::run_cargo_with;
use clap::Args;

#[derive(Args)]
pub struct Arguments {
    /// Only so many sectors that hold something, with one kind of fault each, instead of all with all.
    #[arg(long)]
    cases: Option<u64>,
    /// Which sectors these are.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Ends at the first sector that is not explained.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let variables = match arguments.cases {
        Some(cases) => vec![("SWEEP_CASES", cases.to_string()), ("SWEEP_SEED", arguments.seed.to_string())],
        None => vec![("SWEEP_ALL", "1".to_owned())],
    };
    let test = ["test", "--release", "--package", "envoyfs-tools", "--test", "sector_sweep", "--", "--nocapture"];
    run_cargo_with(&variables, &test)
}
