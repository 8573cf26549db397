//! `fsck.envoyfs`: checks a store that is not mounted. Installed under that name (a cargo target cannot have a dot in its name).

use clap::Parser;
use clap::error::ErrorKind;
use envoyfs_tools::fsck::report::{EXIT_CLEAN, EXIT_OPERATIONAL, EXIT_USAGE};
use envoyfs_tools::fsck::{Options, check};
use std::path::PathBuf;
use std::process::ExitCode;

/// Check an envoyfs store that is not mounted. Changes nothing.
///
/// Verifies superblocks, volume directory, log, every node and every block of file data that the published checkpoint leads to, and compares counts, free space, totals and
/// link counts with what it found. Repair is not offered by this version: -p and -y say so and do nothing.
#[derive(Debug, Parser)]
#[command(
    name = "fsck.envoyfs",
    bin_name = "fsck.envoyfs",
    version,
    after_help = "Exit status: 0 clean, 4 errors were found and left, 8 the check could not be made, 16 wrong usage."
)]
struct Arguments {
    /// Check only; the default.
    #[arg(short = 'n', long)]
    no_changes: bool,
    /// Repair what is safe without asking: not offered by this version.
    #[arg(short = 'p', short_alias = 'a', long, conflicts_with = "no_changes")]
    preen: bool,
    /// Repair everything without asking: not offered by this version.
    #[arg(short = 'y', long, conflicts_with = "no_changes")]
    yes: bool,
    /// Accepted for fsck(8); a check is always a full one.
    #[arg(short = 'f', long)]
    force: bool,
    /// Do not read file data, only metadata.
    #[arg(long)]
    no_data: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    /// Block device or image file.
    path: PathBuf,
}

fn run(arguments: &Arguments) -> u8 {
    if arguments.preen || arguments.yes {
        eprintln!(
            "fsck.envoyfs: repair is not offered by this version; nothing was changed. To check: fsck.envoyfs -n {}",
            arguments.path.display()
        );
        return EXIT_OPERATIONAL;
    }
    let options = Options { data: !arguments.no_data, progress: !arguments.json };
    let report = match check(&arguments.path, options) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("fsck.envoyfs: {error:#}");
            return EXIT_OPERATIONAL;
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
    report.exit_code()
}

fn main() -> ExitCode {
    let code = match Arguments::try_parse() {
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
