//! `cargo xtask clean`: write amplification and latency of cleaning, on the real engine over a device in virtual time (decision 0009).

use crate::command::run_cargo;
use anyhow::ensure;
use clap::{Args, ValueEnum};

#[derive(Clone, Copy, ValueEnum)]
enum Skew {
    Uniform,
    Zipf,
}

#[derive(Args)]
pub struct Arguments {
    /// Live data in percent of the segment area.
    #[arg(long, default_value_t = 80)]
    fill: u32,
    /// Which blocks are overwritten; Zipf's law with exponent 0.8.
    #[arg(long, value_enum, default_value = "uniform")]
    skew: Skew,
    /// Size of the store, in MiB or GiB.
    #[arg(long, default_value = "10GiB")]
    size: String,
    /// How often the segment area is written over.
    #[arg(long, default_value_t = 10.0)]
    fulls: f64,
    /// Clones alive meanwhile.
    #[arg(long, default_value_t = 0)]
    clones: usize,
    /// Size of a segment in KiB instead of what mkfs chooses.
    #[arg(long)]
    segment_kib: Option<u32>,
    /// Seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Count the client's nodes as live data.
    #[arg(long)]
    with_nodes: bool,
    /// Instead of a run: the table of policies of decision 0009, simulated without an engine.
    #[arg(long)]
    policies: bool,
}

/// Prints what the run measures, part by part.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { fill, fulls, clones, seed, .. } = arguments;
    let digits = arguments.size.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = arguments.size.get(digits.len()..).unwrap_or_default();
    let mib = digits.parse::<u64>()? * if unit == "GiB" { 1024 } else { 1 };
    ensure!(matches!(unit, "GiB" | "MiB"), "a size such as 10GiB or 512MiB, not {}", arguments.size);
    let skew = match arguments.skew {
        Skew::Uniform => "uniform",
        Skew::Zipf => "zipf",
    };
    let mut words: Vec<String> = ["run", "--release", "--package", "envoyfs-cleaning-tests", "--", "--skew", skew]
        .iter()
        .map(ToString::to_string)
        .collect();
    let options = [
        ("--size-mib", mib.to_string()),
        ("--fill", fill.to_string()),
        ("--fulls", fulls.to_string()),
        ("--clones", clones.to_string()),
        ("--seed", seed.to_string()),
    ];
    for (name, value) in options.into_iter().chain(arguments.segment_kib.map(|kib| ("--segment-kib", kib.to_string())))
    {
        words.extend([name.to_string(), value]);
    }
    let flags = [("--with-nodes", arguments.with_nodes), ("--policies", arguments.policies)];
    words.extend(flags.into_iter().filter(|(_, set)| *set).map(|(name, _)| name.to_string()));
    run_cargo(&words.iter().map(String::as_str).collect::<Vec<_>>())
}
