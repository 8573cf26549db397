//! `cargo xtask bench-store`: every bar of the object store beside its peer, in one run on the same kind of device, with the spread of the rounds.
//!
//! Throughput, also that of a check, against fio on a loop device over shared memory (the processor is the limit) and over a file on disk (the device is); durable appends against ext4; forks, drops, recovery,
//! mounts, bytes written and memory from `store-probe`. Rounds alternate between the two sides, and who is first changes. Write amplification and tail latency while cleaning are measured in virtual
//! time by `cargo xtask clean`.

mod against_fio;
mod check;
mod probes;
mod stage;
mod table;

use crate::command::{root, run_cargo};
use anyhow::{Context, ensure};
use clap::Args;
use stage::Stage;
use std::path::PathBuf;
use table::Row;

#[derive(Args)]
pub struct Arguments {
    /// Less of everything: a few minutes.
    #[arg(long)]
    quick: bool,
    /// Only the bars whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Directory on the disk to be measured; needs 12 GiB.
    #[arg(long, default_value = "/var/tmp")]
    directory: PathBuf,
    /// Rounds of each.
    #[arg(long)]
    rounds: Option<usize>,
    /// Where the rows are written as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Directory with `envoyfs` and `store-probe`, instead of building them.
    #[arg(long)]
    binaries: Option<PathBuf>,
}

/// How much of everything.
pub struct Sizes {
    pub quick: bool,
    pub rounds: usize,
    /// Seconds of a round of fio.
    pub seconds: u32,
}

type Measure = fn(&Stage, &Sizes) -> anyhow::Result<Vec<Row>>;

const BARS: &[(&str, Measure)] = &[
    ("random-read", against_fio::random_read),
    ("sequential-read", against_fio::sequential_read),
    ("sequential-write", against_fio::sequential_write),
    ("append", against_fio::append),
    ("written", probes::written),
    ("clone", probes::clone),
    ("drop", probes::drop_queue),
    ("recovery", probes::recovery),
    ("mount", probes::mount),
    ("memory", probes::memory),
    ("check", check::check),
];

/// Measures, and prints a table.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    ensure!(is_root, "cargo xtask bench-store makes loop devices: run it as root");
    let chosen: Vec<_> = BARS
        .iter()
        .filter(|(name, _)| arguments.only.as_ref().is_none_or(|only| name.contains(only.as_str())))
        .collect();
    let names: Vec<&str> = BARS.iter().map(|(name, _)| *name).collect();
    ensure!(!chosen.is_empty(), "no bar has that in its name; there are {}", names.join(", "));
    let binaries = match &arguments.binaries {
        Some(binaries) => binaries.clone(),
        None => {
            run_cargo(&["build", "--release", "--package", "envoyfs-tools", "--package", "envoyfs-benches", "--bins"])?;
            let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
            target.join("release")
        }
    };
    let sizes = Sizes {
        quick: arguments.quick,
        rounds: arguments.rounds.unwrap_or(if arguments.quick { 3 } else { 7 }),
        seconds: if arguments.quick { 2 } else { 5 },
    };
    let stage = Stage::build(&arguments.directory, &binaries)?;
    let mut rows = Vec::new();
    for (name, measure) in chosen {
        eprintln!("xtask: {name}");
        match measure(&stage, &sizes) {
            Ok(more) => rows.extend(more),
            // The others are worth having.
            Err(error) => rows.push(Row::failed(name, &error)),
        }
    }
    let text = table::text(&rows, &sizes);
    println!("{text}");
    let json = arguments.json.clone().unwrap_or_else(|| root().join("target/bench-store.json"));
    std::fs::write(&json, table::json(&rows).to_string()).with_context(|| format!("writing {}", json.display()))?;
    eprintln!("xtask: the rows are in {}", json.display());
    Ok(())
}
