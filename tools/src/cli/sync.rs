//! `envoyfs sync`: the barrier that sync(2) is not on a FUSE mount.

use super::control::{explain, open_directory};
use anyhow::Result;
use clap::Args;
use envoyfs_fuse::control::client;
use std::path::PathBuf;

/// Arguments.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Any directory of the mount.
    directory: PathBuf,
}

impl Arguments {
    /// Waits until everything done before is durable.
    pub fn run(self) -> Result<()> {
        let directory = open_directory(&self.directory)?;
        client::sync(&directory.descriptor)
            .map_err(|error| explain(format!("syncing {}", self.directory.display()), error))
    }
}
