//! `cargo xtask kill`: daemons of real mounts killed at any moment, more often than the tests do.

use crate::command::run_cargo_with;
use anyhow::ensure;
use clap::Args;

#[derive(Args)]
pub struct Arguments {
    /// How many daemons are killed.
    #[arg(long, default_value_t = 50)]
    rounds: u64,
    /// Seed of what is done and when it ends.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Fails when anything acknowledged is missing, anything is there that was never done, or fsck finds something. Needs root and /dev/fuse.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    ensure!(is_root, "cargo xtask kill mounts file systems: run it as root");
    ensure!(std::path::Path::new("/dev/fuse").exists(), "cargo xtask kill mounts file systems: there is no /dev/fuse");
    let variables = [("KILL_ROUNDS", arguments.rounds.to_string()), ("KILL_SEED", arguments.seed.to_string())];
    let test = ["test", "--release", "--package", "envoyfs-tools", "--test", "kill", "--", "--nocapture"];
    run_cargo_with(&variables, &test)
}
