//! `fsck.envoyfs`: checks and repairs a store that is not mounted. Installed under that name (a cargo target cannot have a dot in its name).

use anyhow::Result;
use clap::Parser;
use envoyfs_tools::fsck::rebuild::rebuild;
use envoyfs_tools::fsck::repair::{Settings, SomeRepaired, repair};
use envoyfs_tools::fsck::report::{EXIT_CANCELED, EXIT_CORRECTED, EXIT_OPERATIONAL, EXIT_USAGE, Report};
use envoyfs_tools::fsck::{Options, Progress, check, interrupt, looks_clean};
use envoyfs_tools::mkfs::size::Size;
use envoyfs_tools::output;
use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use uuid::Uuid;

/// Check an envoyfs store that is not mounted, and repair it.
///
/// Verifies superblocks, volume directory, log, every node and every block of file data that the published checkpoint leads to, and compares counts, free space, totals and
/// link counts with what it found. Without -p or -y nothing is changed.
#[derive(Debug, Parser)]
#[command(
    name = "fsck.envoyfs",
    bin_name = "fsck.envoyfs",
    version,
    args_override_self = true,
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
    /// The store to rebuild, if the device holds segments of several: one of those that --rebuild then lists.
    #[arg(long, value_name = "UUID", requires = "rebuild")]
    seed: Option<Uuid>,
    /// Show progress also if standard error is no terminal: lines `1 BYTES TOTAL`, on this descriptor if one is given (0: standard error), as fsck(8) does.
    #[arg(short = 'C', value_name = "FD", num_args = 0..=1, require_equals = true, default_missing_value = "0")]
    progress: Option<i32>,
    /// Accepted, since fsck(8) hands it over; there is nothing more to say.
    #[arg(short = 'v', hide = true)]
    verbose: bool,
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
    let progress = match arguments.progress {
        Some(descriptor @ 1..) => Progress::Lines(descriptor),
        Some(0) if !std::io::stderr().is_terminal() => Progress::Lines(2),
        // fsck(8) says so when another check has the terminal.
        Some(i32::MIN..0) => Progress::None,
        None if arguments.json || !std::io::stderr().is_terminal() => Progress::None,
        _ => Progress::Bar,
    };
    let options = Options { data: !arguments.no_data, progress, memory_bytes: arguments.memory.0 };
    let store = arguments.seed.map(Uuid::into_bytes);
    let settings = |all| Settings { overwrite: arguments.overwrite, store, ..Settings::new(all, options) };
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
        output::error(format_args!("fsck.envoyfs: signals cannot be watched: {error}"));
        return if arguments.json { output::json_error(&error.into(), EXIT_OPERATIONAL) } else { EXIT_OPERATIONAL };
    }
    let report = match examine(arguments) {
        Ok(report) => report,
        Err(error) => {
            output::error(format_args!("fsck.envoyfs: {error:#}"));
            let code = if interrupt::requested() { EXIT_CANCELED } else { EXIT_OPERATIONAL };
            let code = code | if error.is::<SomeRepaired>() { EXIT_CORRECTED } else { 0 };
            return if arguments.json { output::json_error(&error, code) } else { code };
        }
    };
    let shown = match serde_json::to_string_pretty(&report) {
        Ok(text) if arguments.json => output::line(text),
        _ => output::line(&report),
    };
    if report.interrupted {
        output::error("fsck.envoyfs: stopped by the user; the check is not complete");
    }
    match shown {
        Ok(()) => report.exit_code(),
        Err(error) => {
            output::error(format_args!("fsck.envoyfs: what was found cannot be printed: {error}"));
            report.exit_code() | EXIT_OPERATIONAL
        }
    }
}

/// A descriptor for progress, as e2fsck and fsck(8) write it: `-C4`, `-C 4`, `-fC4`. Clap would take the 4 for another option, or for the path.
fn with_descriptor(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut out: Vec<OsString> = Vec::new();
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        let is_number = |text: &str| text.parse::<i32>().is_ok();
        let cluster = argument.to_str().filter(|text| text.starts_with('-') && !text.starts_with("--"));
        match cluster.and_then(|text| text.split_once('C')) {
            Some((before, number)) if is_number(number) => {
                out.extend(Some(before).filter(|before| before.len() > 1).map(OsString::from));
                out.push(format!("-C={number}").into());
            }
            Some((_, "")) if arguments.peek().and_then(|next| next.to_str()).is_some_and(is_number) => {
                let number = arguments.next().unwrap_or_default();
                out.push(format!("{}={}", argument.display(), number.display()).into());
            }
            _ => out.push(argument),
        }
    }
    out
}

fn main() -> ExitCode {
    let code = match Arguments::try_parse_from(with_descriptor(std::env::args_os())) {
        Ok(arguments) => run(&arguments),
        Err(error) => output::usage(&error, EXIT_USAGE),
    };
    ExitCode::from(code)
}
