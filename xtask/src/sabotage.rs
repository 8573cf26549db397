//! `cargo xtask sabotage`: breaks each durability rule of the engine on purpose and looks whether its scenario fails.

use crate::command::run_cargo;

/// Prints rule, scenario and verdict; an error when a rule is not caught.
pub fn run() -> anyhow::Result<()> {
    run_cargo(&["run", "--package", "envoyfs-store-tests", "--features", "sabotage", "--", "sabotage"])
}
