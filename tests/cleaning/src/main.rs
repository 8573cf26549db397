//! `cargo xtask clean`: see `docs/testing.md`.

use clap::{Parser, ValueEnum};
use envoyfs_cleaning_tests::policies;
use envoyfs_cleaning_tests::run::{Plan, run};

#[derive(Clone, Copy, ValueEnum)]
enum SkewName {
    Uniform,
    Zipf,
}

#[derive(Parser)]
#[command(
    name = "cleaning",
    about = "Write amplification and latency of cleaning, on a simulated device in virtual time."
)]
struct Arguments {
    /// Size of the store in MiB.
    #[arg(long, default_value_t = 1024)]
    size_mib: u64,
    /// Size of a segment in KiB instead of what mkfs chooses.
    #[arg(long)]
    segment_kib: Option<u32>,
    /// Live data in percent of the segment area.
    #[arg(long, default_value_t = 80)]
    fill: u32,
    /// Count the client's nodes as live data.
    #[arg(long)]
    with_nodes: bool,
    /// Which blocks are overwritten.
    #[arg(long, value_enum, default_value = "uniform")]
    skew: SkewName,
    /// Exponent of Zipf's law.
    #[arg(long, default_value_t = 0.8)]
    theta: f64,
    /// How often the segment area is written over.
    #[arg(long, default_value_t = 10.0)]
    fulls: f64,
    /// Clones alive meanwhile.
    #[arg(long, default_value_t = 0)]
    clones: usize,
    /// Durable overwrites, and reads, whose latency is taken, per million overwrites.
    #[arg(long, default_value_t = 10_000)]
    samples: u32,
    /// Virtual nanoseconds between overwrites.
    #[arg(long, default_value_t = 60_000)]
    gap_ns: u64,
    /// Instead of a run: compare policies in a simulation without an engine.
    #[arg(long)]
    policies: bool,
    /// MiB of memory for segments' pages, and for slot maps.
    #[arg(long, default_value_t = 256)]
    cache_mib: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() {
    let a = Arguments::parse();
    if a.policies {
        // 4 of 640 containers are kept free, as in decision 0009.
        return policies::table(640, 512);
    }
    let plan = Plan {
        size: a.size_mib << 20,
        segment: a.segment_kib.map(|kib| kib << 10),
        fill: a.fill,
        with_nodes: a.with_nodes,
        zipf: match a.skew {
            SkewName::Uniform => 0.0,
            SkewName::Zipf => a.theta,
        },
        fulls: a.fulls,
        clones: a.clones,
        samples: a.samples,
        gap_ns: a.gap_ns,
        seed: a.seed,
        cache: a.cache_mib << 20,
        verbose: true,
    };
    let report = run(&plan);
    println!("{report:#?}");
    let ratio = |at: usize| report.steady_us[at] / report.fresh_us[at];
    println!("p99.9 against fresh: overwrite {:.2}, read {:.2}", ratio(2), ratio(5));
}
