//! Project tasks: `cargo xtask COMMAND`. One file a command.

mod ci;
mod clean;
mod command;
mod compare;
mod crash;
mod fuzz;
mod install;
mod kill;
mod long;
mod man;
mod miri;
mod models;
mod sabotage;
mod setup;
mod stage;
mod store_bench;
mod sweep;
mod test;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Project tasks.")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Runs the tests; with CI=true formatting and lints come first.
    Test(test::Arguments),
    /// Everything a change must pass: formatting, lints, licences, tests.
    Ci,
    /// Runs the executable models with larger budgets than the tests do.
    Models(models::Arguments),
    /// Write amplification and latency of cleaning, in virtual time.
    Clean(clean::Arguments),
    /// Power cuts under the whole stack, on simulated and recorded devices.
    Crash(crash::Arguments),
    /// Fuzzes every decoder of the on-disk format. Needs a nightly toolchain and cargo-fuzz.
    Fuzz(fuzz::Arguments),
    /// Runs under Miri what can. Needs a nightly toolchain with miri.
    Miri(miri::Arguments),
    /// Breaks each durability rule on purpose; a named test must fail for each.
    Sabotage,
    /// Builds the tools, and installs them under their real names with manual pages.
    Install(install::Arguments),
    /// Kills daemons of real mounts at any moment and looks what is left. Needs root.
    Kill(kill::Arguments),
    /// The long versions of tests, and the measurements that are written as tests.
    Long(long::Arguments),
    /// Measures envoyfs beside ext4, both on images in one directory, and prints a table. Needs root.
    Compare(compare::Arguments),
    /// Measures every bar of the object store beside fio and ext4, and prints a table. Needs root.
    BenchStore(store_bench::Arguments),
    /// Every sector of a small store with every kind of fault: mounted, read, repaired.
    Sweep(sweep::Arguments),
    /// Installs what this machine lacks (Debian, Ubuntu), or says what to install.
    Setup(setup::Arguments),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Test(arguments) => test::run(&arguments),
        Task::Ci => ci::run(),
        Task::Models(arguments) => models::run(&arguments),
        Task::Clean(arguments) => clean::run(&arguments),
        Task::Crash(arguments) => crash::run(&arguments),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::Miri(arguments) => miri::run(&arguments),
        Task::Sabotage => sabotage::run(),
        Task::Install(arguments) => install::run(&arguments),
        Task::Kill(arguments) => kill::run(&arguments),
        Task::Long(arguments) => long::run(&arguments),
        Task::Compare(arguments) => compare::run(&arguments),
        Task::BenchStore(arguments) => store_bench::run(&arguments),
        Task::Sweep(arguments) => sweep::run(&arguments),
        Task::Setup(arguments) => setup::run(&arguments),
    }
}
