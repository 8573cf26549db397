//! `cargo xtask miri`: what can run under Miri, which finds undefined behaviour: memory used after its end or beyond it, unaligned or uninitialised, and data races.

use crate::command::run_program;
use anyhow::{Context as _, ensure};
use clap::Args;
use std::path::Path;

/// A run: what it is called, arguments of `cargo miri test`, filters of the test harness.
type Run = (&'static str, &'static [&'static str], &'static [&'static str]);

const RUNS: [Run; 2] = [
    // No `unsafe` of its own, but structures that zerocopy reads from bytes.
    ("layout", &["--package", "envoyfs-layout", "--lib"], &[]),
    // The arena and its slots, owned by one buffer at a time, over threads; tickets; what is copied from buffers in flight.
    (
        "buffers",
        &["--package", "envoyfs-engine", "--lib"],
        &["device::buffer", "device::ticket", "space::in_flight", "--skip", "models", "--skip", "loomed"],
    ),
];

/// What has `unsafe` and cannot run there, and why.
const NOT: [(&str, &str); 4] = [
    (
        "engine/src/device/uring",
        "io_uring_setup(2), io_uring_enter(2) and the rings that they map: Miri has no such system call",
    ),
    ("engine/src/device/mapped.rs", "a file that is mapped: Miri maps anonymous memory only"),
    ("engine/src/device/uring/open.rs", "ioctl(2), statx(2) and flock(2) of a real device"),
    ("madvise(2) of the arena", "left out under Miri; a refusal changes nothing"),
];

#[derive(Args)]
pub struct Arguments {
    /// Only the run of this name.
    #[arg(long)]
    only: Option<String>,
    /// Cases of each random property; generating them is slow there.
    #[arg(long, default_value_t = 1)]
    cases: u32,
}

/// Ends at the first undefined behaviour.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let chosen: Vec<&Run> =
        RUNS.iter().filter(|(name, ..)| arguments.only.as_deref().is_none_or(|only| only == *name)).collect();
    ensure!(!chosen.is_empty(), "there are {}", RUNS.map(|(name, ..)| name).join(" and "));
    for (what, why) in NOT {
        eprintln!("xtask: not under Miri: {what}: {why}");
    }
    let cases = format!("PROPTEST_CASES={}", arguments.cases);
    for (_, package, filters) in chosen {
        // Tests ask for the time, the environment and temporary files.
        let front =
            ["-u", "RUSTUP_TOOLCHAIN", "-u", "CARGO", "-u", "RUSTC", "MIRIFLAGS=-Zmiri-disable-isolation", &cases];
        let run = [&front[..], &["cargo", "+nightly", "miri", "test"], package, &["--"], filters].concat();
        run_program(Path::new("env"), &run).context("see above (rustup toolchain install nightly --component miri)")?;
    }
    Ok(())
}
