//! `fsck.envoyfs`: checks and repairs a store that is not mounted. Installed under that name (a cargo target cannot have a dot in its name).

use anyhow::Result;
use clap::Parser;
use clap::error::ErrorKind;
use envoyfs_tools::fsck::rebuild::rebuild;
use envoyfs_tools::fsck::repair::{Settings, repair};
use envoyfs_tools::fsck::report::{EXIT_CANCELED, EXIT_CLEAN, EXIT_OPERATIONAL, EXIT_USAGE, Report};
use envoyfs_tools::fsck::{Options, check, interrupt, looks_clean};
use envoyfs_tools::mkfs::size::Size;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// Check an envoyfs store that is not mounted, and repair it.
///
/// Verifies superblocks, volume directory, log, every node and every block of file data that the published checkpoint leads to, and compares counts, free space, totals and
/// link counts with what it found. Without -p or -y nothing is changed.
#[derive(Debug, Parser)]
#[command(
    name = "fsck.envoyfs",
    bin_name = "fsck.envoyfs",
    version,
    after_help = "Exit status, a sum: 0 clean, 1 errors were corrected, 4 errors were left, 8 the check could not be made, 16 wrong usage, 32 stopped by the user."
)]
struct Arguments {
    /// Check only; the default.
    #[arg(short = 'n', long)]
    no_changes: bool,
    /// Repair what is safe without asking: nothing that was stored is given up.
    #[arg(short = 'p', short_alias = 'a', long, conflicts_with = "no_changes")]
    preen: bool,
    /// Repair everything without asking; what cannot be read is given up.
    #[arg(short = 'y', long, conflicts_with_all = ["no_changes", "preen"])]
    yes: bool,
    /// Check also a store that was unmounted and looks clean.
    #[arg(short = 'f', long)]
    force: bool,
    /// Make all indexes again from what the segments say of themselves; then as -y. For a store that does not open any more.
    #[arg(long, conflicts_with_all = ["no_changes", "preen"])]
    rebuild: bool,
    /// Repair also where something else has put its signature over a superblock, or over all of them (with --rebuild): what it holds is lost.
    #[arg(long, conflicts_with = "no_changes")]
    overwrite: bool,
    /// Show progress, also if standard error is no terminal. A descriptor behind it, as fsck(8) gives one, is accepted and not used.
    #[arg(short = 'C')]
    progress: bool,
    /// Do not read file data, only metadata.
    #[arg(long)]
    no_data: bool,
    /// Memory for marks and checksums; with less, the trees are walked more often.
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    memory: Size,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    /// Block device or image file.
    path: PathBuf,
}

fn examine(arguments: &Arguments) -> Result<Report> {
    let progress = !arguments.json && (arguments.progress || std::io::stderr().is_terminal());
    let options = Options { data: !arguments.no_data, progress, memory_bytes: arguments.memory.0 };
    let settings = |all| Settings { overwrite: arguments.overwrite, ..Settings::new(all, options) };
    if arguments.rebuild {
        return rebuild(&arguments.path, &settings(true));
    }
    if !arguments.force
        && let Some(report) = looks_clean(&arguments.path)?
    {
        return Ok(report);
    }
    if arguments.preen || arguments.yes {
        return repair(&arguments.path, &settings(arguments.yes));
    }
    check(&arguments.path, options)
}

fn run(arguments: &Arguments) -> u8 {
    if let Err(error) = interrupt::watch() {
        eprintln!("fsck.envoyfs: signals cannot be watched: {error}");
        return EXIT_OPERATIONAL;
    }
    let report = match examine(arguments) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("fsck.envoyfs: {error:#}");
            return if interrupt::requested() { EXIT_CANCELED } else { EXIT_OPERATIONAL };
        }
    };
    if arguments.json {
        match serde_json::to_string_pretty(&report) {
            Ok(text) => println!("{text}"),
            Err(error) => eprintln!("fsck.envoyfs: {error}"),
        }
    } else {
        println!("{report}");
    }
    if interrupt::requested() {
        eprintln!("fsck.envoyfs: stopped by the user; the check is not complete");
        return report.exit_code() | EXIT_CANCELED;
    }
    report.exit_code()
}

/// fsck(8) says `-C4`; clap would take the 4 for an option.
fn without_descriptor(argument: std::ffi::OsString) -> std::ffi::OsString {
    let is_descriptor = |text: &str| text.strip_prefix("-C").is_some_and(|fd| fd.parse::<i32>().is_ok());
    if argument.to_str().is_some_and(is_descriptor) { "-C".into() } else { argument }
}

fn main() -> ExitCode {
    let code = match Arguments::try_parse_from(std::env::args_os().map(without_descriptor)) {
        Ok(arguments) => run(&arguments),
        Err(error) => {
            // A closed terminal is no reason to fail.
            let _ = error.print();
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => EXIT_CLEAN,
                _ => EXIT_USAGE,
            }
        }
    };
    ExitCode::from(code)
}
