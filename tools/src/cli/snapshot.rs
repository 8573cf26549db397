//! `envoyfs snapshot`: mkdir DIR/.snap/NAME.

use super::control::{explain, open_directory};
use crate::output;
use anyhow::{Context as _, Result, ensure};
use clap::Args;
use std::path::PathBuf;

/// Arguments.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Directory.
    directory: PathBuf,
    /// Name of the snapshot.
    name: String,
}

impl Arguments {
    /// Takes the snapshot and prints its path.
    pub fn run(self) -> Result<()> {
        let is_plain = !self.name.is_empty() && !self.name.contains('/') && self.name != "." && self.name != "..";
        ensure!(is_plain, "'{}' is not a name for a snapshot", self.name);
        open_directory(&self.directory)?;
        let path = self.directory.join(".snap").join(&self.name);
        std::fs::create_dir(&path).map_err(|error| explain(format!("making {}", path.display()), error))?;
        output::line(path.display()).context("the snapshot was taken, but its path cannot be printed")
    }
}
