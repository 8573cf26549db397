//! `cargo xtask fuzz`: every decoder under libFuzzer, and what it finds kept small.

use crate::command::{has_cargo_command, root, run_cargo, run_program};
use anyhow::{Context as _, bail, ensure};
use clap::Args;
use std::path::{Path, PathBuf};

/// Longest input: some decoders take a node of 16 KiB, and no property needs more.
const INPUT_BYTES_MAX: u32 = 16 << 10;
/// Largest file that is kept in the corpus.
const KEPT_BYTES_MAX: u32 = 6 << 10;
/// A decoder that takes more for one input is wrong.
const MALLOC_MIB_MAX: u32 = 16;

#[derive(Args)]
pub struct Arguments {
    /// Seconds in all, shared by the targets.
    #[arg(long, default_value_t = 240)]
    seconds: u64,
    /// Only the targets whose name contains this.
    #[arg(long)]
    target: Option<String>,
    /// Make the kept corpus in fuzz/corpus of what is there and what was found: as few inputs as cover as much.
    #[arg(long)]
    keep: bool,
}

/// Ends at the first input that breaks a property, and says where it is kept.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    ensure!(has_cargo_command("fuzz"), "cargo-fuzz is not installed: cargo install cargo-fuzz --locked");
    let targets = targets()?;
    let chosen: Vec<&String> =
        targets.iter().filter(|name| arguments.target.as_ref().is_none_or(|part| name.contains(part))).collect();
    ensure!(!chosen.is_empty(), "no target has that in its name; there are: {}", targets.join(", "));
    cargo_fuzz(&["build".to_string()])?;
    let seeds = text(&root().join("fuzz/target/corpus"))?;
    run_cargo(&["run", "--quiet", "--package", "envoyfs-fuzz-checks", "--bin", "fuzz-seeds", "--", &seeds])?;
    let seconds = (arguments.seconds / chosen.len() as u64).max(1);
    for target in chosen {
        let kept = root().join("fuzz/corpus").join(target);
        let work = root().join("fuzz/target/corpus").join(target);
        std::fs::create_dir_all(&kept).with_context(|| kept.display().to_string())?;
        std::fs::create_dir_all(&work).with_context(|| work.display().to_string())?;
        let (kept, work) = (text(&kept)?, text(&work)?);
        let limits = [
            format!("-max_len={INPUT_BYTES_MAX}"),
            format!("-malloc_limit_mb={MALLOC_MIB_MAX}"),
            "-rss_limit_mb=1024".into(),
            "-verbosity=0".into(),
            "-print_final_stats=1".into(),
        ];
        let run = |options: &[String], folders: &[&String]| {
            let front = ["run".to_string(), target.clone()];
            let folders: Vec<String> = folders.iter().map(|folder| (*folder).clone()).collect();
            cargo_fuzz(&[&front[..], &folders, &["--".to_string()], options].concat())
        };
        run(&[&limits[..], &[format!("-max_total_time={seconds}")]].concat(), &[&work, &kept])?;
        if arguments.keep {
            // As few inputs as cover every edge that any of them covers: what none needs goes, also what an older format had made.
            let new = root().join("fuzz/target/kept").join(target);
            if new.exists() {
                std::fs::remove_dir_all(&new).with_context(|| new.display().to_string())?;
            }
            std::fs::create_dir_all(&new).with_context(|| new.display().to_string())?;
            let merge = ["-set_cover_merge=1", "-use_counters=0", "-verbosity=0"].map(str::to_string);
            run(&[&merge[..], &[format!("-max_len={KEPT_BYTES_MAX}")]].concat(), &[&text(&new)?, &kept, &work])?;
            std::fs::remove_dir_all(&kept).with_context(|| kept.clone())?;
            std::fs::rename(&new, &kept).with_context(|| kept.clone())?;
        }
    }
    Ok(())
}

fn text(path: &Path) -> anyhow::Result<String> {
    path.to_str().map(str::to_string).context("the path of the project is not UTF-8")
}

/// Names of the targets: those of their files.
fn targets() -> anyhow::Result<Vec<String>> {
    let folder = root().join("fuzz/fuzz_targets");
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .with_context(|| folder.display().to_string())?
        .flatten()
        .filter_map(|file| PathBuf::from(file.file_name()).file_stem().map(|name| name.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    Ok(names)
}

/// Under the nightly toolchain, whatever runs this.
fn cargo_fuzz(arguments: &[String]) -> anyhow::Result<()> {
    let front = ["-u", "RUSTUP_TOOLCHAIN", "-u", "CARGO", "-u", "RUSTC", "cargo", "+nightly", "fuzz"];
    let arguments: Vec<&str> = front.into_iter().chain(arguments.iter().map(String::as_str)).collect();
    if run_program(Path::new("env"), &arguments).is_err() {
        bail!(
            "see above; an input that breaks a property is in fuzz/artifacts (nightly toolchain: rustup toolchain install nightly)"
        );
    }
    Ok(())
}
