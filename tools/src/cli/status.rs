//! `envoyfs status`: what the daemon tells about the store and a directory.

use super::control::open_directory;
use crate::mkfs::size::Size;
use crate::output;
use anyhow::{Context as _, Result};
use clap::Args;
use envoyfs_fuse::control::{Status, client, memory_parts, status_flags, text_kind};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Arguments.
#[derive(Args, Debug)]
pub struct Arguments {
    /// A directory of the mount.
    directory: PathBuf,
    /// Print JSON; sizes in bytes.
    #[arg(long)]
    json: bool,
    /// Print what the store counts and times instead, as OpenMetrics text.
    #[arg(long, conflicts_with = "json")]
    metrics: bool,
}

impl Arguments {
    /// Prints it.
    pub fn run(self) -> Result<()> {
        let directory = open_directory(&self.directory)?;
        if self.metrics {
            let text = client::text(&directory.descriptor, text_kind::METRICS)
                .with_context(|| format!("asking the daemon about {}", self.directory.display()))?;
            return Ok(output::line(String::from_utf8_lossy(&text).trim_end())?);
        }
        let report = Report::from(&directory.status);
        if self.json {
            output::line(serde_json::to_string_pretty(&report)?)?;
        } else {
            output::line(report.to_string().trim_end())?;
        }
        Ok(())
    }
}

/// As printed. Field names are those of the JSON and do not change.
#[derive(Debug, Serialize)]
struct Report {
    store: String,
    daemon_pid: u32,
    read_only: bool,
    failed: bool,
    failure: String,
    capacity_bytes: u64,
    live_bytes: u64,
    dead_bytes: u64,
    free_bytes: u64,
    available_bytes: u64,
    drop_queue_objects: u64,
    shared_objects: u64,
    log_bytes: u64,
    ring_bytes: u64,
    checkpoint: u64,
    appended_lsn: u64,
    durable_lsn: u64,
    files: u64,
    memory: Memory,
    directory: Tree,
}

/// Bounds of the daemon's memory, as its mount options and the store's size give them.
#[derive(Debug, Serialize)]
struct Memory {
    node_cache_bytes: u64,
    node_cache_bytes_max: u64,
    engine_bytes_max: u64,
    engine_mounting_bytes_max: u64,
    engine_resting_bytes_max: u64,
    engine_parts: BTreeMap<&'static str, u64>,
}

impl From<&Status> for Memory {
    fn from(status: &Status) -> Self {
        let bound = memory_parts(status);
        Self {
            node_cache_bytes: status.node_cache.get(),
            node_cache_bytes_max: status.node_cache_max.get(),
            engine_bytes_max: bound.serving(),
            engine_mounting_bytes_max: bound.mounting(),
            engine_resting_bytes_max: bound.resting(),
            engine_parts: bound.parts().into(),
        }
    }
}

/// Below the directory asked about.
#[derive(Debug, Serialize)]
struct Tree {
    bytes: u64,
    files: u64,
    directories: u64,
    links: u64,
}

impl From<&Status> for Report {
    fn from(status: &Status) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let flags = status.flags.get();
        Self {
            store: text(status.store()),
            daemon_pid: status.pid.get(),
            read_only: flags & status_flags::READ_ONLY != 0,
            failed: flags & status_flags::POISONED != 0,
            failure: text(status.trouble()),
            capacity_bytes: status.capacity.get(),
            live_bytes: status.live.get(),
            dead_bytes: status.dead.get(),
            free_bytes: status.free.get(),
            available_bytes: status.available.get(),
            drop_queue_objects: status.drop_queue.get(),
            shared_objects: status.shared_objects.get(),
            log_bytes: status.log_bytes.get(),
            ring_bytes: status.ring_bytes.get(),
            checkpoint: status.checkpoint.get(),
            appended_lsn: status.appended.get(),
            durable_lsn: status.durable.get(),
            files: status.files.get(),
            memory: Memory::from(status),
            directory: Tree {
                bytes: status.tree_bytes.get(),
                files: status.tree_files.get(),
                directories: status.tree_directories.get(),
                links: status.tree_links.get(),
            },
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = if self.read_only { "read-only" } else { "writable" };
        writeln!(f, "store        {} ({mode}, daemon {})", self.store, self.daemon_pid)?;
        if self.failed {
            writeln!(f, "FAILED       {}; unmount, run fsck.envoyfs -fp, and mount again", self.failure)?;
        }
        writeln!(f, "capacity     {}", Size(self.capacity_bytes))?;
        writeln!(f, "live         {}", Size(self.live_bytes))?;
        writeln!(f, "dead         {} (free after a checkpoint or cleaning)", Size(self.dead_bytes))?;
        writeln!(f, "free         {}", Size(self.free_bytes))?;
        writeln!(f, "available    {}", Size(self.available_bytes))?;
        let undurable = self.appended_lsn.saturating_sub(self.durable_lsn);
        writeln!(f, "log          {} of {}", Size(self.log_bytes), Size(self.ring_bytes))?;
        writeln!(f, "not durable  {} of log", Size(undurable))?;
        writeln!(f, "checkpoint   {}", self.checkpoint)?;
        writeln!(f, "shared       {} objects", self.shared_objects)?;
        writeln!(f, "to drop      {} objects", self.drop_queue_objects)?;
        let Memory { node_cache_bytes, node_cache_bytes_max, engine_bytes_max, engine_resting_bytes_max, .. } =
            self.memory;
        writeln!(
            f,
            "memory       nodes {} of {}; beside them at most {}, {} when idle",
            Size(node_cache_bytes),
            Size(node_cache_bytes_max),
            Size(engine_bytes_max),
            Size(engine_resting_bytes_max)
        )?;
        let Tree { bytes, files, directories, links } = self.directory;
        writeln!(
            f,
            "directory    {} in {files} files, {directories} directories, {links} names of linked files",
            Size(bytes)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use envoyfs_fuse::control::STATUS_MAGIC;

    #[test]
    fn a_failure_is_shown_with_its_reason_and_the_next_step() {
        let mut status: Status = zerocopy::FromZeros::new_zeroed();
        status.magic.set(STATUS_MAGIC);
        status.flags.set(status_flags::POISONED);
        status.trouble[..5].copy_from_slice(b"flush");
        status.trouble_bytes.set(5);
        status.capacity.set(1 << 30);
        status.node_cache_max.set(128 << 20);
        status.memory.iter_mut().for_each(|part| part.set(1 << 20));
        let report = Report::from(&status);
        let text = report.to_string();
        assert!(text.contains("FAILED       flush; unmount, run fsck.envoyfs -fp, and mount again"), "{text}");
        assert!(text.contains("capacity     1 GiB"), "{text}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["capacity_bytes"], 1_u64 << 30);
        assert_eq!(json["directory"]["files"], 0);
        // Twelve parts, of which a mount that serves does not have that of recovery.
        assert!(
            text.contains("memory       nodes 0 bytes of 128 MiB; beside them at most 11 MiB, 7 MiB when idle"),
            "{text}"
        );
        assert_eq!(json["memory"]["engine_bytes_max"], 11 << 20);
        assert_eq!(json["memory"]["engine_mounting_bytes_max"], 10 << 20);
        assert_eq!(json["memory"]["engine_parts"]["slot_maps"], 1 << 20);
    }
}
