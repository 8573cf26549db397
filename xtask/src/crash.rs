//! `cargo xtask crash`: power cuts under the engine alone and under the whole stack, more of them than the tests try.

use crate::command::{run_cargo, run_cargo_with};
use clap::Args;

#[derive(Args)]
pub struct Arguments {
    /// Random histories; the other crash tests get a share of that.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// First seed.
    #[arg(long, default_value_t = 0)]
    base: u64,
    /// Also the engine alone, with a cut at every IO of every history, and of three recoveries one after the other: hours at 1000 seeds.
    #[arg(long)]
    long: bool,
}

/// Ends at the first state that no crash explains.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let (seeds, base) = (arguments.seeds.to_string(), arguments.base.to_string());
    let proof = ["run", "--release", "--package", "envoyfs-store-tests", "--", "crash", &seeds, &base];
    // Steps, cut recoveries, random fates.
    run_cargo(&[&proof[..], &["40", "0", "4"]].concat())?;
    if arguments.long {
        run_cargo(&[&proof[..], &["24", "3", "6"]].concat())?;
    }
    let variables = [("CRASH_SEEDS", arguments.seeds.to_string()), ("CRASH_SEED", arguments.base.to_string())];
    let test = ["test", "--release", "--package", "envoyfs-tools", "--test", "crash", "--", "--nocapture"];
    run_cargo_with(&variables, &test)
}
