//! `cargo xtask models`: the executable models with larger budgets than the tests have.

use crate::command::{root, run_cargo, run_program};
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Arguments {
    /// Budgets of some tens of minutes instead of about one: also hunts every seeded bug of the sharing model.
    #[arg(long)]
    long: bool,
    /// First seed of the random histories.
    #[arg(long, default_value_t = 0)]
    base: u64,
}

/// Ends at the first violation, and when a seeded bug is not caught.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    run_cargo(&["build", "--profile", "models", "--package", "envoyfs-model", "--package", "envoyfs-wal-model"])?;
    let base = arguments.base.to_string();
    let model = binary("model");
    let wal = binary("wal-model");
    run_program(&model, &["0", "0", "script"])?;
    run_program(&wal, &["superblock"])?;
    if arguments.long {
        run_program(&model, &["6000", "600", "run", &base])?;
        run_program(&model, &["600", "600", "bugs", &base])?;
        run_program(&wal, &["exhaustive", "20000000", "120"])?;
        run_program(&wal, &["random", "20000", "1", "60"])?;
        run_program(&wal, &["bugs", "20"])
    } else {
        run_program(&model, &["400", "600", "run", &base])?;
        run_program(&wal, &["exhaustive", "500000", "20"])?;
        run_program(&wal, &["random", "3000", "1", "10"])?;
        run_program(&wal, &["bugs", "2"])
    }
}

fn binary(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join("models").join(name)
}
