//! `envoyfs fork`: a writable copy in constant time.

use super::control::{explain, open_directory, open_reference, split};
use super::failure::Failure;
use anyhow::{Result, bail};
use clap::Args;
use envoyfs_fuse::control::client;
use rustix::fs::fstat;
use std::path::PathBuf;

/// Arguments.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Directory or file to copy; a snapshot (DIR/.snap/NAME) too.
    source: PathBuf,
    /// New name, on the same store. Must not exist.
    target: PathBuf,
}

impl Arguments {
    /// Forks.
    pub fn run(self) -> Result<()> {
        let (parent, name) = split(&self.target)?;
        let directory = open_directory(&parent)?;
        // Held until the end: the number then means this file.
        let source = open_reference(&self.source)?;
        let source_stat = fstat(&source)?;
        if source_stat.st_dev != fstat(&directory.descriptor)?.st_dev {
            if open_directory(split(&self.source)?.0.as_path()).is_err() {
                return Err(Failure::NotEnvoyfs(self.source).into());
            }
            bail!("{} and {} are on different mounts", self.source.display(), self.target.display());
        }
        let what = || format!("forking {} to {}", self.source.display(), self.target.display());
        client::fork(&directory.descriptor, source_stat.st_ino, name).map_err(|error| explain(what(), error))
    }
}
