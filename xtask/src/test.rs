//! `cargo xtask test`: the whole test suite, under cargo-nextest when it is installed.

use crate::ci;
use crate::command::{has_cargo_command, run_cargo_with};
use clap::Args;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[derive(Args)]
pub struct Arguments {
    /// Only tests whose name contains this.
    filter: Option<String>,
}

/// Runs formatting and lints too when CI=true.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if std::env::var("CI").is_ok_and(|v| v == "true") {
        ci::check_style()?;
    }
    tests(arguments.filter.as_deref())
}

/// Unit, integration and documentation tests of the workspace; then what of them did not run for lack of something on this machine.
pub fn tests(filter: Option<&str>) -> anyhow::Result<()> {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/skipped-tests");
    drop(fs::remove_file(&list));
    let done = all(filter, &list);
    if let Ok(skipped) = fs::read_to_string(&list) {
        let skipped: BTreeSet<&str> = skipped.lines().collect();
        eprintln!("xtask: not run, for lack of something on this machine (ENVOYFS_NO_SKIP=1 makes that a failure):");
        skipped.iter().for_each(|what| eprintln!("  {what}"));
    }
    done
}

fn all(filter: Option<&str>, list: &Path) -> anyhow::Result<()> {
    let variables = [("ENVOYFS_SKIPPED", list.display().to_string())];
    let cargo = |arguments: &[&str]| run_cargo_with(&variables, &[arguments, filter.as_slice()].concat());
    if !has_cargo_command("nextest") {
        return cargo(&["test", "--workspace"]);
    }
    cargo(&["nextest", "run", "--workspace"])?;
    cargo(&["test", "--workspace", "--doc"])
}
