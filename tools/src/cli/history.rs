//! `envoyfs history`: the checkpoints that the store still holds.

use super::control::{explain, open_directory};
use crate::mkfs::size::Size;
use crate::output;
use anyhow::Result;
use clap::Args;
use envoyfs_fuse::control::{client, text_kind};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

/// Arguments.
#[derive(Args, Debug)]
pub struct Arguments {
    /// A directory of the mount.
    directory: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// As the daemon tells it.
#[derive(Debug, Deserialize)]
struct Told {
    checkpoints: Vec<ToldRow>,
    kept_bytes: u64,
}

#[derive(Debug, Deserialize)]
struct ToldRow {
    checkpoint: u64,
    time_ns: i64,
    hlc: u64,
}

/// As printed. Field names are those of the JSON and do not change.
#[derive(Debug, Serialize)]
struct Report {
    /// Oldest first.
    checkpoints: Vec<Row>,
    /// What only they need.
    kept_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Row {
    checkpoint: u64,
    /// As RFC 3339 writes it: what `mount -o at=` takes.
    time: String,
    hlc: u64,
}

impl Arguments {
    /// Prints them.
    pub fn run(self) -> Result<()> {
        let directory = open_directory(&self.directory)?;
        let text = client::text(&directory.descriptor, text_kind::HISTORY)
            .map_err(|error| explain(format!("history of {}", self.directory.display()), error))?;
        let report = Report::from(serde_json::from_slice::<Told>(&text)?);
        if self.json {
            output::line(serde_json::to_string_pretty(&report)?)?;
        } else {
            output::line(report.text().trim_end())?;
        }
        Ok(())
    }
}

impl From<Told> for Report {
    fn from(told: Told) -> Self {
        let row = |row: ToldRow| {
            let since = Duration::from_nanos(u64::try_from(row.time_ns).unwrap_or(0));
            let time = humantime::format_rfc3339_nanos(UNIX_EPOCH + since).to_string();
            Row { checkpoint: row.checkpoint, time, hlc: row.hlc }
        };
        Self { checkpoints: told.checkpoints.into_iter().map(row).collect(), kept_bytes: told.kept_bytes }
    }
}

impl Report {
    fn text(&self) -> String {
        if self.checkpoints.is_empty() {
            return "no checkpoint is kept (mount with -o history=N to keep some)\n".into();
        }
        let rows: String =
            self.checkpoints.iter().map(|row| format!("{:>10}  {}\n", row.checkpoint, row.time)).collect();
        format!("checkpoint  made at\n{rows}{} are kept for them\n", Size(self.kept_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_are_shown_with_the_time_that_a_mount_takes() {
        let told = r#"{"checkpoints":[{"checkpoint":7,"time_ns":1767225600250000000,"hlc":9}],"kept_bytes":8192}"#;
        let report = Report::from(serde_json::from_str::<Told>(told).unwrap());
        let text = report.text();
        assert!(text.contains("         7  2026-01-01T00:00:00.250000000Z\n8 KiB are kept for them\n"), "{text}");
        let none = Report { checkpoints: Vec::new(), kept_bytes: 0 };
        assert!(none.text().contains("-o history=N"));
    }
}
