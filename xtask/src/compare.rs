//! `cargo xtask compare`: envoyfs beside ext4, both on image files in the same directory.
//!
//! Rounds alternate between the two, so that a slow moment of the machine hits both; each number is the median of the rounds, with the spread beside it. ext4 lies on a loop
//! device with direct IO. Caches are dropped before everything that reads. Mounts, loop devices and images are taken away when this ends, however it ends.

mod stage;
mod workload;

use crate::command::{root, run_cargo};
use anyhow::{Context, ensure};
use clap::Args;
use stage::Stage;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use workload::{Sizes, WORKLOADS, Workload};

#[derive(Args)]
pub struct Arguments {
    /// Less of everything: about three minutes instead of twenty.
    #[arg(long)]
    small: bool,
    /// Directory for the images; needs 3 GiB, 9 GiB without --small.
    #[arg(long, default_value = "/var/tmp")]
    directory: PathBuf,
    /// Rounds of each.
    #[arg(long)]
    rounds: Option<usize>,
    /// Only the workloads whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Directory with the programs, instead of building them.
    #[arg(long)]
    binaries: Option<PathBuf>,
}

/// The two that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// ext4 on a loop device.
    Ext4,
    /// envoyfs on an image file.
    Envoyfs,
}

/// Measures, and prints a table.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    ensure!(is_root, "cargo xtask compare mounts file systems: run it as root");
    let binaries = match &arguments.binaries {
        Some(binaries) => binaries.clone(),
        None => {
            run_cargo(&["build", "--release", "--package", "envoyfs-tools"])?;
            built()
        }
    };
    let sizes = if arguments.small { Sizes::SMALL } else { Sizes::FULL };
    let rounds = arguments.rounds.unwrap_or(if arguments.small { 3 } else { 5 });
    let stage = Stage::build(&arguments.directory, &binaries, sizes.image_mib)?;
    let chosen: Vec<&Workload> = WORKLOADS
        .iter()
        .filter(|w| arguments.only.as_ref().is_none_or(|only| w.name.contains(only.as_str())))
        .collect();
    ensure!(!chosen.is_empty(), "no workload has that in its name");

    let mut results: BTreeMap<(usize, bool), Vec<f64>> = BTreeMap::new();
    for round in 0..rounds {
        let mut systems = [System::Ext4, System::Envoyfs];
        if round % 2 == 1 {
            systems.reverse();
        }
        for system in systems {
            for (index, workload) in chosen.iter().enumerate() {
                eprintln!("xtask: round {} of {rounds}: {system:?}: {}", round + 1, workload.name);
                let directory = stage.mount_point(system).join(format!("round-{round}-{index}"));
                std::fs::create_dir(&directory)?;
                let value = (workload.run)(&stage, system, &directory, &sizes)
                    .with_context(|| format!("{} on {system:?}", workload.name))?;
                results.entry((index, system == System::Envoyfs)).or_default().push(value);
                stage.remove(system, &directory)?;
            }
        }
    }
    print(&chosen, &results, rounds, &sizes);
    Ok(())
}

fn built() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from).join("release")
}

fn print(chosen: &[&Workload], results: &BTreeMap<(usize, bool), Vec<f64>>, rounds: usize, sizes: &Sizes) {
    println!("\n{}; {rounds} rounds, medians (lowest to highest); images of {} MiB.\n", machine(), sizes.image_mib);
    println!("| workload | unit | ext4 | envoyfs | envoyfs / ext4 |");
    println!("|---|---|---|---|---|");
    for (index, workload) in chosen.iter().enumerate() {
        let shown = |is_envoyfs| {
            let mut values = results.get(&(index, is_envoyfs)).cloned().unwrap_or_default();
            values.sort_by(f64::total_cmp);
            let median = values.get(values.len() / 2).copied().unwrap_or(f64::NAN);
            let (low, high) = (values.first().copied().unwrap_or(f64::NAN), values.last().copied().unwrap_or(f64::NAN));
            (median, format!("{} ({} to {})", round(median), round(low), round(high)))
        };
        let ((ext4, ext4_shown), (envoyfs, envoyfs_shown)) = (shown(false), shown(true));
        let unit = workload.unit;
        println!("| {} | {unit} | {ext4_shown} | {envoyfs_shown} | {} |", workload.name, ratio(envoyfs / ext4));
    }
    println!("\nLarger is better, but for times (ms).");
}

fn ratio(value: f64) -> String {
    if value < 0.1 { format!("{value:.3}") } else { format!("{value:.2}") }
}

/// Three digits that mean something.
fn round(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    format!("Linux {}, {processors} x {}", kernel.trim(), model.unwrap_or("unknown processor"))
}
