//! `cargo xtask test`: the whole test suite, under cargo-nextest when it is installed.

use crate::ci;
use crate::command::{has_cargo_command, run_cargo};
use clap::Args;

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

/// Unit, integration and documentation tests of the workspace.
pub fn tests(filter: Option<&str>) -> anyhow::Result<()> {
    let cargo = |arguments: &[&str]| run_cargo(&[arguments, filter.as_slice()].concat());
    if !has_cargo_command("nextest") {
        return cargo(&["test", "--workspace"]);
    }
    cargo(&["nextest", "run", "--workspace"])?;
    cargo(&["test", "--workspace", "--doc"])
}
