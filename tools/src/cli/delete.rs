//! `envoyfs delete`: a whole tree in one operation.

use super::control::{explain, open_directory, open_reference, split, unreachable_path};
use super::failure::Failure;
use super::mounts;
use crate::mkfs::size::Size;
use anyhow::{Context as _, Result, bail};
use clap::Args;
use envoyfs_fuse::control::{Status, client};
use rustix::fs::{AtFlags, FileType, statat};
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

/// Arguments.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Fork, snapshot (DIR/.snap/NAME) or any directory.
    path: PathBuf,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

impl Arguments {
    /// Asks, then deletes.
    pub fn run(self) -> Result<()> {
        let (parent, name) = split(&self.path)?;
        let directory = open_directory(&parent)?;
        let found = statat(rustix::fs::CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW);
        let found = found.map_err(|errno| unreachable_path(&self.path, errno))?;
        if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
            bail!("{} is not a directory: remove it with rm", self.path.display());
        }
        let is_snapshot = parent.file_name().is_some_and(|name| name == ".snap");
        self.refuse_mounts_below()?;
        self.confirm(is_snapshot)?;
        let what = || format!("deleting {}", self.path.display());
        if is_snapshot {
            return std::fs::remove_dir(&self.path).map_err(|error| explain(what(), error));
        }
        client::delete(&directory.descriptor, name).map_err(|error| explain(what(), error))
    }

    fn refuse_mounts_below(&self) -> Result<()> {
        let path = self.path.canonicalize().with_context(|| self.path.display().to_string())?;
        let mounts = mounts::all().context("reading /proc/self/mountinfo")?;
        let mount = mounts::at(&mounts, &path).or_else(|| mounts::below(&mounts, &path));
        match mount {
            Some(mount) => {
                let why = format!("{} is a mount point; unmount it first", mount.at.display());
                Err(Failure::Busy { path: self.path.clone(), why }.into())
            }
            None => Ok(()),
        }
    }

    fn confirm(&self, is_snapshot: bool) -> Result<()> {
        if self.yes {
            return Ok(());
        }
        let shown = self.path.display();
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Err(Failure::NotConfirmed(format!("nobody to ask; to delete {shown} add --yes")).into());
        }
        let what = if is_snapshot { String::from("the snapshot") } else { describe(&self.path) };
        write!(std::io::stderr(), "Delete {what} {shown}? [y/N] ").context("cannot ask")?;
        let mut answer = String::new();
        stdin.lock().read_line(&mut answer)?;
        if matches!(answer.trim(), "y" | "Y" | "yes") {
            return Ok(());
        }
        Err(Failure::NotConfirmed(format!("{shown} was not deleted")).into())
    }
}

/// With its size where that may be read.
fn describe(path: &Path) -> String {
    let totals = |status: Status| {
        let (files, bytes) = (status.tree_files.get(), Size(status.tree_bytes.get()));
        format!("the directory with {files} files and {bytes}")
    };
    // Held only to tell a missing directory from one that may not be read.
    let exists = open_reference(path).is_ok();
    let status = open_directory(path).ok().filter(|_| exists);
    status.map_or_else(|| String::from("the directory"), |directory| totals(directory.status))
}
