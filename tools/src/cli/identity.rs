//! `envoyfs identity`: what a store goes by, and a new one for a copy.

use super::Failure;
use crate::inspect;
use crate::mkfs::in_use;
use crate::mount::claim::Claim;
use crate::output;
use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use envoyfs_engine::device::{DeviceError, OpenMode, UringDevice};
use envoyfs_engine::superblock;
use serde::Serialize;
use std::path::PathBuf;
use uuid::Uuid;

/// Arguments.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Block device or image file. May be mounted, unless it gets a new identity.
    store: PathBuf,
    /// Give it a new identity, drawn at random: for a copy, so that it can be mounted beside the store that it was copied from.
    #[arg(long)]
    new: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// As printed. Field names are those of the JSON and do not change.
#[derive(Debug, Serialize)]
struct Report {
    identity: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<String>,
}

impl Arguments {
    /// Prints it.
    pub fn run(self) -> Result<()> {
        let before = inspect::identity_of(&self.store)?;
        let report = if self.new {
            let identity = self.renew(before)?;
            Report { identity: identity.to_string(), before: Some(before.to_string()) }
        } else {
            Report { identity: before.to_string(), before: None }
        };
        if self.json {
            output::line(serde_json::to_string_pretty(&report)?)?;
        } else {
            output::line(&report.identity)?;
        }
        Ok(())
    }

    fn renew(&self, before: Uuid) -> Result<Uuid> {
        let busy = |why: String| Failure::Busy { path: self.store.clone(), why };
        // The exclusive open does not see a mount through a loop device.
        if let Some(why) = in_use::user_of(&self.store) {
            return Err(busy(why).into());
        }
        let device = UringDevice::open(&self.store, OpenMode::ReadWrite, true).map_err(|error| match error {
            DeviceError::InUse { .. } => {
                busy("it is mounted, or another program holds it; unmount it first".into()).into()
            }
            other => anyhow!(other),
        })?;
        let identity = Uuid::new_v4();
        // So that nobody mounts it by another path meanwhile. The old one is not free where this is a copy of what is mounted.
        let _claims = (Claim::take(before, &self.store).ok(), Claim::take(identity, &self.store)?);
        let identity = superblock::set_identity(&device, identity.into_bytes())
            .with_context(|| format!("the identity of {} was not changed, or only in part of its superblocks; look with: envoyfs identity {0}", self.store.display()))?;
        Ok(Uuid::from_bytes(identity.superblock.identity))
    }
}
