//! `mount.envoyfs`: mounts a store; also what `mount -t envoyfs` calls. Installed under that name (a cargo target
//! cannot have a dot in its name).

use clap::Parser;
use clap::error::ErrorKind;
use envoyfs_tools::mount::{Arguments, EXIT_USAGE, start};
use std::process::ExitCode;

/// Mount an envoyfs store.
///
/// Returns when the store is mounted; a daemon serves it until it is unmounted with umount(8) or `envoyfs umount`.
#[derive(Debug, Parser)]
#[command(
    name = "mount.envoyfs",
    version,
    after_help = "Exit status: 0 mounted, 1 wrong usage, 32 not mounted (says why).\n\nExample:\n  mount.envoyfs /var/tmp/forks.img /mnt -o noatime"
)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

fn main() -> ExitCode {
    match Line::try_parse() {
        Ok(line) => start("mount.envoyfs", &line.arguments),
        Err(error) => {
            // A closed terminal is no reason to fail.
            let _ = error.print();
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(EXIT_USAGE),
            }
        }
    }
}
