//! Runs other programs from the root of the workspace, printing what it runs.

use anyhow::{Context, bail};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The root of the workspace.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// The cargo that runs this.
fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// `cargo ARGUMENTS`; an error when it fails.
pub fn run_cargo(arguments: &[&str]) -> anyhow::Result<()> {
    run("cargo", Command::new(cargo()).args(arguments), arguments)
}

/// The same with variables in the environment.
pub fn run_cargo_with(variables: &[(&str, String)], arguments: &[&str]) -> anyhow::Result<()> {
    let variables = variables.iter().map(|(name, value)| (name, value));
    run("cargo", Command::new(cargo()).args(arguments).envs(variables), arguments)
}

/// `PROGRAM ARGUMENTS`; an error when it fails.
pub fn run_program(program: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    run(&program.display().to_string(), Command::new(program).args(arguments), arguments)
}

fn run(name: &str, command: &mut Command, arguments: &[&str]) -> anyhow::Result<()> {
    eprintln!("xtask: {name} {}", arguments.join(" "));
    let status = command
        .current_dir(root())
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("{name} could not be started"))?;
    if !status.success() {
        bail!("{name} {} failed: {status}", arguments.join(" "));
    }
    Ok(())
}

/// Does `cargo NAME` exist?
pub fn has_cargo_command(name: &str) -> bool {
    let status = Command::new(cargo())
        .args([name, "--version"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|s| s.success())
}
