//! `envoyfs`: what is done to a mounted store beyond POSIX, one file a subcommand.

mod control;
mod delete;
mod demo;
mod failure;
mod fork;
mod history;
mod identity;
pub(crate) mod mounts;
mod passes;
mod snapshot;
mod status;
mod sync;
mod umount;
mod up;

use crate::output;
use crate::{bench, mount};
use anyhow::Result;
use clap::Subcommand;
use clap_complete::Shell;
pub use failure::{EXIT_FAILED, EXIT_USAGE, Failure, exit_code};
use std::process::ExitCode;

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make an image if there is none, mount it, and say what to try.
    Up(up::Arguments),
    /// Mount a store; the same as mount.envoyfs.
    Mount(mount::Arguments),
    /// Unmount, and wait until the store is closed.
    Umount(umount::Arguments),
    /// Make a writable copy of a directory or file at once, whatever its size.
    Fork(fork::Arguments),
    /// Take a read-only snapshot of a directory.
    Snapshot(snapshot::Arguments),
    /// Delete a fork, a snapshot or any directory with all that is in it, at once.
    Delete(delete::Arguments),
    /// Make everything that was done before durable.
    Sync(sync::Arguments),
    /// Look into a store, mounted or not: superblock, log, segments, objects, references. Changes nothing.
    Inspect(crate::inspect::Arguments),
    /// Show the space and activity of the store, and the size of a directory.
    Status(status::Arguments),
    /// Read and verify everything that a mounted store holds, while it is in use.
    Scrub(passes::Scrub),
    /// Count every reference of a mounted store anew, while it is in use, and set right what differs. (fsck.envoyfs checks one that is not mounted.)
    Check(passes::Check),
    /// List the earlier states that a mounted store still holds; mount.envoyfs -o ro,at=TIME shows one.
    History(history::Arguments),
    /// Show what a store goes by; give a copy an identity of its own, so that both can be mounted.
    Identity(identity::Arguments),
    /// Print a shell's completions of this command.
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Measure the object store with fio's jobs, beside the bare device; 'envoyfs bench --help' explains.
    Bench(bench::Arguments),
}

impl Command {
    /// Does it; `line` is the whole command line as it is defined.
    ///
    /// # Errors
    /// What went wrong and what to do; [`exit_code`] gives the exit status.
    pub fn run(self, line: &mut clap::Command) -> Result<ExitCode> {
        match self {
            Self::Completions { shell } => {
                // Written to a pipe that is closed, or a full file, it would panic.
                let mut script = Vec::new();
                clap_complete::generate(shell, line, "envoyfs", &mut script);
                output::line(String::from_utf8_lossy(&script).trim_end())?;
            }
            Self::Bench(arguments) => return arguments.run(),
            // Has exit statuses of its own, those of mount(8).
            Self::Mount(arguments) => return Ok(mount::start("envoyfs mount", &arguments)),
            Self::Up(arguments) => arguments.run()?,
            Self::Umount(arguments) => arguments.run()?,
            Self::Fork(arguments) => arguments.run()?,
            Self::Snapshot(arguments) => arguments.run()?,
            Self::Delete(arguments) => arguments.run()?,
            Self::Sync(arguments) => arguments.run()?,
            Self::Inspect(arguments) => arguments.run()?,
            Self::Status(arguments) => arguments.run()?,
            Self::Scrub(arguments) => arguments.run()?,
            Self::Check(arguments) => arguments.run()?,
            Self::History(arguments) => arguments.run()?,
            Self::Identity(arguments) => arguments.run()?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
