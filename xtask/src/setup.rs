//! `cargo xtask setup`: runs `scripts/setup`, which works without cargo too.

use crate::command::{root, run_program};
use clap::Args;

#[derive(Args)]
pub struct Arguments {
    /// Says what is missing and installs nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Installs what is missing.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let flags: &[&str] = if arguments.dry_run { &["--dry-run"] } else { &[] };
    run_program(&root().join("scripts/setup"), flags)
}
