//! `cargo xtask ci`: everything a change must pass.

use crate::command::{has_cargo_command, run_cargo};
use crate::test::tests;

/// Formatting, lints, licences (when cargo-deny is installed), tests, and that the tests notice broken rules.
pub fn run() -> anyhow::Result<()> {
    check_style()?;
    if has_cargo_command("deny") {
        // Advisories are fetched from the network: that they cannot be had is no fault of the change.
        run_cargo(&["deny", "check", "licenses", "bans", "sources"])?;
    } else {
        eprintln!("xtask: cargo-deny is not installed, licences are not checked (cargo install cargo-deny --locked)");
    }
    tests(None)?;
    crate::sabotage::run()
}

/// Formatting and lints of the workspace.
pub fn check_style() -> anyhow::Result<()> {
    run_cargo(&["fmt", "--all", "--check"])?;
    run_cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])
}
