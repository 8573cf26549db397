//! `cargo xtask crash`: power cuts under the whole stack, more of them than the tests try.

use crate::command::run_cargo_with;
use clap::Args;

#[derive(Args)]
pub struct Arguments {
    /// Random histories; the other crash tests get a share of that.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// First seed.
    #[arg(long, default_value_t = 0)]
    base: u64,
}

/// Ends at the first state that no crash explains.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let variables = [("CRASH_SEEDS", arguments.seeds.to_string()), ("CRASH_SEED", arguments.base.to_string())];
    let test = ["test", "--release", "--package", "envoyfs-tools", "--test", "crash", "--", "--nocapture"];
    run_cargo_with(&variables, &test)
}
