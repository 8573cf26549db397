//! `cargo xtask models`: the models of threads, the executable models, and the product bound to them, with larger budgets than the tests have.

use crate::command::{root, run_cargo, run_program};
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Arguments {
    /// Budgets of some tens of minutes instead of about one: also hunts every seeded bug of the sharing model.
    #[arg(long)]
    long: bool,
    /// Only the models of threads, and every mistake in them.
    #[arg(long)]
    threads: bool,
    /// First seed of the random histories.
    #[arg(long, default_value_t = 0)]
    base: u64,
}

/// Ends at the first violation, and when a seeded bug is not caught.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    threads()?;
    if arguments.threads {
        return Ok(());
    }
    let packages = ["--package", "envoyfs-model", "--package", "envoyfs-wal-model", "--package", "envoyfs-bound-tests"];
    run_cargo(&[&["build", "--profile", "models"], &packages[..]].concat())?;
    let base = arguments.base.to_string();
    let model = binary("model");
    let wal = binary("wal-model");
    let bound = binary("bound");
    run_program(&model, &["0", "0", "script"])?;
    run_program(&wal, &["superblock"])?;
    if arguments.long {
        run_program(&model, &["6000", "600", "run", &base])?;
        run_program(&model, &["600", "600", "bugs", &base])?;
        run_program(&wal, &["exhaustive", "20000000", "120"])?;
        run_program(&wal, &["random", "20000", "1", "60"])?;
        run_program(&bound, &["sharing", "2000", &base])?;
        run_program(&bound, &["log", "5000", &base])?;
        run_program(&wal, &["bugs", "20"])
    } else {
        run_program(&model, &["400", "600", "run", &base])?;
        run_program(&wal, &["exhaustive", "500000", "20"])?;
        run_program(&wal, &["random", "3000", "1", "10"])?;
        run_program(&bound, &["sharing", "60", &base])?;
        run_program(&bound, &["log", "300", &base])?;
        run_program(&wal, &["bugs", "2"])
    }
}

/// The engine's hand-written synchronisation under model checkers, as it is and with each mistake of `engine/src/mutant.rs`.
fn threads() -> anyhow::Result<()> {
    let engine = ["test", "--package", "envoyfs-engine", "--lib", "--features", "models", "--"];
    run_cargo(&[&engine[..], &["models::", "loomed::"]].concat())?;
    run_cargo(
        &[&engine[..], &["--exact", "mutant::tests::every_mistake_is_noticed", "--ignored", "--nocapture"]].concat(),
    )
}

fn binary(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join("models").join(name)
}
