//! The probes of `cargo xtask bench-store`, each in a process of its own. Prints one JSON value.

use clap::{Parser, Subcommand};
use envoyfs_benches::probe;
use std::path::PathBuf;

/// Measures what fio cannot, on a scratch store.
#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    probe: Probe,
}

#[derive(Subcommand)]
enum Probe {
    /// Time of a fork with so many alive.
    Clone {
        device: PathBuf,
        #[arg(long, value_delimiter = ',', default_value = "10,1000,100000")]
        existing: Vec<u32>,
        #[arg(long, default_value_t = 1000)]
        samples: u32,
    },
    /// Small trees that are dropped a second.
    Drop {
        device: PathBuf,
        #[arg(long, default_value_t = 50_000)]
        trees: u32,
    },
    /// Time of a recovery with the log at its trigger.
    Recovery {
        device: PathBuf,
        /// Records of no client, until the ring itself is due.
        #[arg(long)]
        engine: bool,
    },
    /// Time to open a store that was closed.
    Mount {
        device: PathBuf,
        #[arg(long)]
        objects: u64,
        #[arg(long, default_value_t = 5)]
        rounds: u32,
        /// Nearly every container is in use: their rows say so.
        #[arg(long)]
        full: bool,
    },
    /// Bytes written a synced record and a synced 4 KiB.
    Written {
        device: PathBuf,
        #[arg(long, default_value_t = 2000)]
        operations: u32,
    },
    /// Makes a tree of so many MiB, for others to read.
    Fill {
        device: PathBuf,
        #[arg(long)]
        mib: usize,
    },
    /// Resident memory under load.
    Memory {
        device: PathBuf,
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
}

fn main() -> anyhow::Result<()> {
    let value = match Line::parse().probe {
        Probe::Clone { device, existing, samples } => probe::clone(&device, &existing, samples)?,
        Probe::Drop { device, trees } => probe::drop_queue(&device, trees)?,
        Probe::Recovery { device, engine: true } => probe::recovery_of_engine(&device)?,
        Probe::Recovery { device, engine: false } => probe::recovery(&device)?,
        Probe::Mount { device, objects, rounds, full } => probe::mount(&device, objects, rounds, full)?,
        Probe::Written { device, operations } => probe::written(&device, operations)?,
        Probe::Fill { device, mib } => probe::fill(&device, mib)?,
        Probe::Memory { device, seconds } => probe::memory(&device, seconds)?,
    };
    println!("{value}");
    Ok(())
}
