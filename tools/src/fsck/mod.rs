//! Checking a store that is not mounted. Reads only; repair is not offered by this version.
//!
//! ```text
//! superblocks -> volume directory -> segment table and pages -> log (to the cut) -> roots -> every node and block -> counts, liveness -> hard links
//! regions        regions              regions, space              log                walk     walk, items            space           links
//! ```
//! What is checked is the *published checkpoint*. Records after it are only counted: the mount replays them. A damaged part does not stop the check, but then nothing is
//! called unreachable any more, since what leads there may be in the damaged part.

pub mod findings;
mod items;
mod links;
mod log;
mod regions;
pub mod report;
mod roots;
pub mod source;
mod space;
mod walk;

use anyhow::Result;
use envoyfs_layout::superblock::Superblock;
use envoyfs_layout::{Oid, Reference};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use report::Report;
use roots::Roots;
use source::Source;
use space::Space;
use std::collections::HashSet;
use std::path::Path;
use std::rc::Rc;
pub use walk::interior as interior_item;
use walk::{At, Claim, Visit, Walk};

/// What to check.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Read and verify file data, not only metadata.
    pub data: bool,
    /// Show progress, if standard error is a terminal.
    pub progress: bool,
}

/// Checks the store at a path.
///
/// # Errors
/// It is not there, not a store, in use, or cannot be read: nothing could be checked.
pub fn check(path: &Path, options: Options) -> Result<Report> {
    let source = Source::open(path)?;
    let mut report = Report::new(path.display().to_string());
    let Some(superblock) = regions::superblocks(&source, &mut report)? else { return Ok(report) };
    report.uuid = uuid::Uuid::from_bytes(superblock.identity).to_string();
    report.label = superblock.label();
    check_store(&source, &superblock, options, &mut report);
    Ok(report)
}

fn check_store(source: &Source, superblock: &Superblock, options: Options, report: &mut Report) {
    let Some(directory) = regions::directory(source, superblock, report) else { return };
    report.statistics.checkpoint = directory.entry.checkpoint.number;
    let mut space = Space::new(superblock);
    let pages_complete = regions::segments(source, &directory, &mut space, report);
    report.statistics.live_bytes = space.live_bytes();
    let queue = regions::drop_queue(source, &directory, &space, report);
    log::check(source, superblock, &directory, &space, report);

    let volume = directory.entry.volume;
    let progress = progress_bar(options, space.live_bytes());
    let roots = roots::read(source, &directory.entry, &mut space, report);
    let mut walk = Walk::new(source, &mut space, report, options.data, progress);
    if let Some(roots) = &roots {
        start(&mut walk, roots);
    }
    start_dropped(&mut walk, &queue);
    walk.run();
    walk.progress.finish_and_clear();
    let complete = walk.is_complete() && pages_complete && roots.is_some();
    if complete {
        let dropped: HashSet<Oid> = queue.iter().map(|reference| reference.oid).collect();
        walk.compare_counts(volume, &dropped);
        links::check(&mut walk);
    }
    space.compare(volume, complete, report);
}

/// Root edges, and the trees below.
fn start(walk: &mut Walk<'_>, roots: &Roots) {
    for reference in &roots.references {
        walk.edge(reference);
    }
    for (reference, tree, name) in &roots.trees {
        walk.stack.push(Visit::root(*reference, *tree, None, None, &Rc::new(At::Root(name))));
    }
}

/// What waits to be freed: no reference leads there, but its edges still count.
fn start_dropped(walk: &mut Walk<'_>, queue: &[Reference]) {
    let at = Rc::new(At::Root("(deleted)"));
    for reference in queue {
        walk.space.mark_used(reference);
        let (claim, keys) = (Claim::default(), (None, None));
        walk.stack.push(Visit { reference: *reference, tree: None, claim, keys, hash_key: None, at: Rc::clone(&at) });
    }
    if !queue.is_empty() {
        walk.report.add(findings::DROP_QUEUE, "store", format_args!("{} nodes", queue.len()));
    }
}

fn progress_bar(options: Options, bytes: u64) -> ProgressBar {
    if !options.progress {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr_with_hz(5));
    let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
