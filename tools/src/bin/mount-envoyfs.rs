//! `mount.envoyfs`: mounts a store; also what `mount -t envoyfs` calls. Installed under that name (a cargo target
//! cannot have a dot in its name).

use clap::Parser;
use envoyfs_tools::mount::{Arguments, EXIT_USAGE, start};
use envoyfs_tools::output;
use std::process::ExitCode;

/// Mount an envoyfs store.
///
/// Returns when the store is mounted; a daemon serves it until it is unmounted with umount(8) or `envoyfs umount`.
#[derive(Debug, Parser)]
#[command(
    name = "mount.envoyfs",
    bin_name = "mount.envoyfs",
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
        Err(error) => ExitCode::from(output::usage(&error, EXIT_USAGE)),
    }
}
