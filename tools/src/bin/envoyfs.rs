//! `envoyfs`: forks, snapshots, deletes, syncs, unmounts and reports.

use clap::{CommandFactory as _, Parser};
use envoyfs_tools::cli::{Command, exit_code};
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
    // Wrong usage ends here with status 2.
    let line = Line::parse();
    match line.command.run(&mut Line::command()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("envoyfs: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}
