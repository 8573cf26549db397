//! `mkfs.envoyfs`: makes a store on a block device or in an image file. Installed under that name (a cargo target cannot have a dot in its name).

use clap::Parser;
use envoyfs_tools::cli::{EXIT_FAILED, EXIT_USAGE};
use envoyfs_tools::mkfs::size::Size;
use envoyfs_tools::mkfs::{Plan, Request};
use envoyfs_tools::output;
use std::path::PathBuf;
use std::process::ExitCode;

/// Make an envoyfs store on a block device or in an image file.
///
/// Nothing is written before all checks have passed. A device that is mounted or otherwise in use is always refused; one that holds another file system,
/// partition table or store only with --force.
#[derive(Debug, Parser)]
#[command(
    name = "mkfs.envoyfs",
    bin_name = "mkfs.envoyfs",
    version,
    args_override_self = true,
    after_help = "Exit status: 0 made, 1 refused or failed (says why), 2 wrong usage.\n\nExample:\n  mkfs.envoyfs --size 2GiB /var/tmp/forks.img"
)]
struct Arguments {
    /// Size of the image file, for example 512MiB or 2GiB; creates it if needed. At least 128MiB. Not for block devices.
    #[arg(short, long, value_name = "SIZE", allow_hyphen_values = true)]
    size: Option<Size>,
    /// Label, at most 64 bytes.
    #[arg(short = 'L', long, value_name = "TEXT", default_value = "")]
    label: String,
    /// Identity of the store instead of a random one.
    #[arg(short = 'U', long, value_name = "UUID")]
    uuid: Option<uuid::Uuid>,
    /// Size of the log, for example 256MiB, instead of what follows from the size of the store.
    #[arg(long, value_name = "SIZE")]
    wal_size: Option<Size>,
    /// Size of a segment: 1MiB, 2MiB, 4MiB, 8MiB or 16MiB, instead of what follows from the size of the store.
    #[arg(long, value_name = "SIZE")]
    segment_size: Option<Size>,
    /// Do not discard a block device that supports it. Image files are never discarded.
    #[arg(short = 'K', long)]
    no_discard: bool,
    /// Print nothing but errors.
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
    /// Overwrite what is there: another file system, an old store, a file that is not empty.
    #[arg(short, long)]
    force: bool,
    /// Check everything and print the geometry, but write nothing.
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    /// Block device or image file.
    path: PathBuf,
}

fn run(arguments: Arguments) -> ExitCode {
    let Arguments { size, label, uuid, wal_size, segment_size, no_discard, quiet, force, dry_run, json, path } =
        arguments;
    let shown = path.display().to_string();
    let (discard, progress) = (!no_discard, !quiet && !json);
    let request = Request { path, size, label, uuid, wal_size, segment_size, discard, progress, force };
    let failed = |error: anyhow::Error, code: u8| {
        output::error(format_args!("mkfs.envoyfs: {error:#}"));
        ExitCode::from(if json { output::json_error(&error, code) } else { code })
    };
    if let Err(error) = request.check() {
        return failed(error, EXIT_USAGE);
    }
    let made = Plan::check(request).and_then(|plan| if dry_run { Ok(plan.describe()) } else { plan.write() });
    let made = match made {
        Ok(made) => made,
        Err(error) => return failed(error, EXIT_FAILED),
    };
    let text = match serde_json::to_string_pretty(&made) {
        _ if quiet => return ExitCode::SUCCESS,
        Ok(text) if json => text,
        _ if dry_run => made.to_string(),
        _ => format!("{made}\nMount it with: envoyfs mount {shown} DIRECTORY"),
    };
    if let Err(error) = output::line(text) {
        let done = if dry_run { "nothing was made" } else { "the store was made" };
        output::error(format_args!("mkfs.envoyfs: {done}, but it cannot be printed: {error}"));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn main() -> ExitCode {
    match Arguments::try_parse() {
        Ok(arguments) => run(arguments),
        Err(error) => ExitCode::from(output::usage(&error, EXIT_USAGE)),
    }
}
