//! Checking and repairing a store that is not mounted.
//!
//! ```text
//! superblocks -> volume directory -> segment table and pages -> log (to the cut) -> roots -> every node -> counts, liveness, hard links -> file data -> names of what is damaged
//! regions        regions              regions, space              log                roots    walk, items   space, units      links          data         blame
//! ```
//! What is checked is the *published checkpoint*, and beside it ([`beside`]) the retained ones and one in the log that a mount would start from. Records after it are
//! counted and the data that they name is verified: the mount replays them. A damaged part does not stop the check, but then nothing is
//! called unreachable any more, since what leads there may be in the damaged part. [`repair`] says how what was found is put right.

mod account;
mod beside;
mod blame;
mod containers;
pub mod data;
pub mod disk;
mod examine;
pub mod findings;
mod fragments;
pub mod interrupt;
mod items;
mod links;
mod log;
mod lost;
mod numbers;
mod progress;
pub mod rebuild;
mod regions;
pub mod repair;
pub mod report;
mod rewrite;
mod ring;
mod roots;
mod scan;
pub mod source;
mod space;
mod tree;
mod units;
mod walk;

use anyhow::Result;
use disk::Disk;
pub use progress::Progress;
use report::Report;
use source::Source;
use std::path::Path;
pub use walk::interior as interior_item;

/// What to check.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Read and verify file data, not only metadata.
    pub data: bool,
    /// Where progress is shown.
    pub progress: Progress,
    /// Bytes of memory for marks and checksums; with less, the trees are walked more often.
    pub memory_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { data: true, progress: Progress::None, memory_bytes: 256 << 20 }
    }
}

/// Checks the store at a path.
///
/// # Errors
/// It is not there, not a store, in use, or cannot be read: nothing could be checked.
pub fn check(path: &Path, options: Options) -> Result<Report> {
    let source = Source::open(path, false)?;
    check_disk(&Disk::of(source), options)
}

/// As [`check`], on a device that is open.
///
/// # Errors
/// It is not a store, or cannot be read.
pub fn check_disk(disk: &Disk, options: Options) -> Result<Report> {
    let mut report = Report::new(disk.device().label());
    let Some(superblock) = regions::superblocks(disk, &mut report)? else { return Ok(report) };
    report.name(&superblock);
    examine::examine(disk, &superblock, options, &mut report);
    if interrupt::requested() {
        report.interrupt();
    }
    Ok(report)
}

/// Was the store unmounted, as far as the superblocks, the volume directory and the log tell? Then it needs no check unless somebody asks for one. Costs a few reads.
///
/// # Errors
/// As [`check`].
pub fn looks_clean(path: &Path) -> Result<Option<Report>> {
    let disk = Disk::of(Source::open(path, false)?);
    let mut report = Report::new(disk.device().label());
    let Some(superblock) = regions::superblocks(&disk, &mut report)? else { return Ok(None) };
    report.name(&superblock);
    let Some(directory) = regions::directory(&disk, &superblock, &mut report) else { return Ok(None) };
    let log = log::check(&disk, &superblock, &directory, &space::Space::new(&superblock), &mut report);
    let clean = report.findings.is_empty() && log.is_some_and(|log| log.closed.is_some() || log.chain.is_empty());
    report.statistics.checkpoint = directory.entry.checkpoint.number;
    report.skipped = true;
    Ok(clean.then_some(report))
}
