//! `envoyfs`: forks, snapshots, deletes, syncs, unmounts and reports.

use clap::{CommandFactory as _, Parser};
use envoyfs_tools::cli::{Command, EXIT_USAGE, exit_code};
use envoyfs_tools::output;
use std::process::ExitCode;

/// Work with mounted envoyfs stores.
#[derive(Debug, Parser)]
#[command(
    name = "envoyfs",
    version,
    after_help = "Exit status: 0 done, 1 failed, 2 wrong usage, 3 not on a mounted envoyfs store, 4 busy, 5 not permitted, 6 not confirmed, 7 damage found.\n'envoyfs mount' has those of mount(8)."
)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let line = match Line::try_parse() {
        Ok(line) => line,
        Err(error) => return ExitCode::from(output::usage(&error, EXIT_USAGE)),
    };
    match line.command.run(&mut Line::command()) {
        Ok(code) => code,
        Err(error) => {
            output::error(format_args!("envoyfs: {error:#}"));
            ExitCode::from(exit_code(&error))
        }
    }
}
