//! Repair: puts right what a check found, a step at a time, each published before the next begins.
//!
//! ```text
//! superblock copies                       invalid ones first, then stale ones (INV-23)
//! then, until a check finds nothing more that may be repaired:
//!   headers and footers                   of containers, in place: nothing is found by them
//!   the store's own books                 pages, counts, liveness, table, copies of the roots: from a walk; the log stays as it is
//!   copies of the directory               what is published, written once more
//!   the log                               mounted without a mount point, replayed, checkpointed; with -y up to where it is damaged
//!   the trees                             nodes above what is damaged are written anew without it; an empty log begins
//! ```
//! A step that is interrupted by a power cut leaves what was published before it; running the repair again finds the same or less. A second run finds nothing (INV-34).

use super::account::{NewState, free_containers, publish};
use super::disk::Disk;
use super::examine::{Examined, examine};
use super::findings::{self, By, Finding, Kind, Severity};
use super::report::Report;
use super::rewrite::Rewriter;
use super::source::Source;
use super::{Options, containers, interrupt, log, lost, regions, roots};
use anyhow::{Context as _, Result, bail};
use envoyfs_engine::device::{DeviceError, Operation};
use envoyfs_engine::hlc::{Clock, SystemClock};
use envoyfs_engine::repair::OfflineWriter;
use envoyfs_engine::{CANNOT_BE_WRITTEN, Engine, Options as EngineOptions, StoreError, superblock};
use envoyfs_layout::ClientTag;
use envoyfs_namespace::api::Error as NamespaceError;
use envoyfs_namespace::{Namespace, Options as NamespaceOptions};
use std::path::Path;
use std::sync::Arc;

/// Steps after which a repair that still finds something gives up.
const STEPS_MAX: usize = 12;

/// How far a repair may go.
#[derive(Clone)]
pub struct Settings {
    /// Also what gives up something that was stored (`-y`).
    pub all: bool,
    /// Also where something else has put its signature over a superblock (`--overwrite`).
    pub overwrite: bool,
    /// Which store a rebuild is for, by the seed of its segments, where several have left some (`--seed`).
    pub store: Option<[u8; 16]>,
    /// What to check.
    pub options: Options,
    /// For the replay of the log.
    pub clock: Arc<dyn Clock>,
    /// Random: keys of directories that are made.
    pub seed: [u8; 16],
}

impl Settings {
    /// With the system's clock and a random seed.
    #[must_use]
    pub fn new(all: bool, options: Options) -> Self {
        Self {
            all,
            overwrite: false,
            store: None,
            options,
            clock: Arc::new(SystemClock::new()),
            seed: uuid::Uuid::new_v4().into_bytes(),
        }
    }
}

/// Checks and repairs the store at a path.
///
/// # Errors
/// It is not there, not a store, in use, or cannot be read or written.
pub fn repair(path: &Path, settings: &Settings) -> Result<Report> {
    let source = Source::open(path, true)?;
    repair_disk(&Disk::of(source), settings)
}

/// As [`repair`], on a device that is open.
///
/// # Errors
/// It is not a store, or cannot be read or written.
pub fn repair_disk(disk: &Disk, settings: &Settings) -> Result<Report> {
    let mut course = Course::default();
    let mut report = match steps(disk, settings, &mut course) {
        Ok(report) => report,
        Err(error) => {
            // What ended the repair may end this too, and is what the user is told.
            if let Some(found) = course.before.as_mut().filter(|found| !found.is_clean()) {
                let _marked = note_errors(disk, settings, found);
            }
            return Err(if course.corrected { error.context(SomeRepaired) } else { error });
        }
    };
    if interrupt::requested() {
        report.interrupt();
    }
    note_errors(disk, settings, &mut report)?;
    Ok(report)
}

/// The superblock remembers whether errors are left. What cannot be read cannot say so, and is found by every look at it.
fn note_errors(disk: &Disk, settings: &Settings, report: &mut Report) -> Result<()> {
    let Ok(opened) = superblock::open(disk.device()) else { return Ok(()) };
    // Without a look at file data nobody knows whether what was left is gone.
    let errors = !report.is_clean() || (opened.superblock.errors && !settings.options.data);
    let foreign = !opened.foreign.is_empty() && !settings.overwrite || report.count(findings::FEATURES) > 0;
    let directory = superblock::read_directory(disk.device(), &opened.superblock);
    if opened.superblock.errors != errors && !foreign && opened.read_only.is_none() && directory.is_ok() {
        superblock::set_errors(disk.device(), errors)?;
    }
    if !errors {
        report.retain(|kind| kind != findings::ERRORS_LEFT);
    }
    Ok(())
}

/// Told with the error of a repair that failed after it had published something.
#[derive(Clone, Copy, Debug)]
pub struct SomeRepaired;

impl std::fmt::Display for SomeRepaired {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("what was repaired before stays so")
    }
}

/// What a repair has done so far.
#[derive(Default)]
struct Course {
    /// What was found.
    before: Option<Report>,
    /// What the repair itself had to give up.
    lost: Vec<Finding>,
    /// Retained checkpoints, at first and now.
    retained: Option<(u64, u64)>,
    /// Something was put right.
    corrected: bool,
}

impl Course {
    fn end(&mut self, mut report: Report) -> Report {
        report.after(self.before.take().unwrap_or_default(), std::mem::take(&mut self.lost));
        let (before, left) = self.retained.unwrap_or_default();
        report.history(before, left);
        report
    }
}

fn steps(disk: &Disk, settings: &Settings, course: &mut Course) -> Result<Report> {
    // The newest copies may still be in a cache (INV-20).
    disk.device().flush().context("the device does not flush")?;
    let mut plan = Plan::Replay;
    let mut failures = 0;
    let mut step = 0;
    loop {
        let mut report = Report::new(disk.device().label());
        let opened = regions::open(disk, &mut report)?;
        let examined = opened.as_ref().and_then(|opened| {
            report.name(&opened.superblock);
            examine(disk, &opened.superblock, settings.options, &mut report)
        });
        // What a step brings to light, a path for instance, is told too.
        course.before.get_or_insert_with(|| report.clone()).remember(&report);
        if let Some(examined) = &examined {
            course.retained.get_or_insert((examined.retained, 0)).1 = examined.retained;
        }
        // With more damage than is remembered a step leaves the rest to the next one.
        step += usize::from(examined.as_ref().is_none_or(|examined| examined.bad.more() == 0));
        let done = !report.repairable(settings.all) || report.is_fatal() || step > STEPS_MAX || interrupt::requested();
        let kept = opened
            .as_ref()
            .is_some_and(|opened| !opened.foreign.is_empty() && !settings.overwrite || opened.read_only.is_some());
        let (Some(opened), Some(mut examined), false) = (opened, examined, done || kept) else {
            return Ok(course.end(report));
        };
        superblock::repair(disk.device(), &opened)?;
        course.corrected |= report.count(findings::SUPERBLOCK_COPY) > 0;
        match next(&report, &examined, settings.all, plan) {
            Step::Superblocks => {}
            Step::Nothing => return Ok(course.end(report)),
            Step::Directory => drop(superblock::renew_directory(disk.device())?),
            Step::Containers => containers::mend(disk, &examined.superblock, &examined.directory)?,
            Step::Books => {
                books(disk, &mut examined, settings)?;
                // The books that were written are those of the published checkpoint, without history: the batch of a newer one in the log may not fit them. On damaged trees the
                // next step replays it.
                if examined.log.as_ref().is_some_and(|log| log.adopted.is_some()) {
                    let _later = replay_from(disk, settings, true, false);
                }
            }
            Step::Replay => {
                let damaged = report.count(findings::LOG_CHECKPOINT) > 0;
                let adopts = examined.log.as_ref().is_some_and(|log| log.adopted.is_some());
                if let Err(error) = replay(disk, settings, damaged, adopts) {
                    let why = match error {
                        Failure::Log(why) => why,
                        Failure::Else(why) => bail!("the log cannot be replayed: {why}; nothing of it was given up"),
                    };
                    if !settings.all {
                        report.add(findings::LOG_DROPPED, "log", why);
                        return Ok(course.end(report));
                    }
                    failures += 1;
                    let broken = report.findings.iter().any(|finding| of_trees(finding.kind));
                    if failures == 1 && adopts {
                        // It may be published by now; what is wrong below it is seen in the next step.
                    } else if failures <= 2 && !adopts && broken {
                        // On trees without the damage most records fit.
                        plan = Plan::TreesFirst;
                        failures = 2;
                    } else {
                        let records = examined.log.as_ref().map_or(0, log::client_records);
                        let detail = format!("{records} records; {why}");
                        course.lost.push(Finding { kind: findings::LOG_DROPPED, place: "log".into(), detail });
                        plan = Plan::Drop;
                    }
                }
            }
            Step::Trees => {
                let loses = report.findings.iter().any(lost::loses);
                let lost = if loses { lost::find(disk, &mut examined, settings.options) } else { Vec::new() };
                trees(disk, &mut examined, settings, plan == Plan::TreesFirst, lost)?;
                plan = Plan::Replay;
                failures += 1;
            }
        }
        course.corrected = true;
    }
}

/// What becomes of the log.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// Replayed before trees are changed.
    Replay,
    /// It cannot be: replayed when what is damaged has been cut out of the published trees.
    TreesFirst,
    /// It cannot be at all.
    Drop,
}

enum Step {
    Nothing,
    Superblocks,
    Directory,
    Containers,
    Books,
    Replay,
    Trees,
}

/// Kinds that only new nodes put right.
fn of_trees(kind: &Kind) -> bool {
    matches!(kind.number, 400..=405 | 410 | 500..=599 | 606 | 700..=799)
}

fn next(report: &Report, examined: &Examined, all: bool, plan: Plan) -> Step {
    let worth = |kind: &Kind| kind.severity > Severity::Note;
    let foreign = !roots::is_of_files(&examined.directory.entry);
    let any = |of: &dyn Fn(&Kind) -> bool| report.findings.iter().any(|f| worth(f.kind) && of(f.kind));
    let books = |kind: &Kind| matches!(kind.number, 102..=104 | 109 | 300..=399 | 406 | 409 | 600..=605 | 607);
    // Records behind the damage may name what counts as free: as long as they are not given up, nothing may be written there.
    let is_whole = examined.log.as_ref().is_some_and(|log| log.corrupt.is_none());
    let writes = !foreign && (is_whole || all);
    // What only lost nodes lead to is known by its page alone: where both are lost, it would become free.
    let is_blind = !examined.walked && examined.space.segments().values().any(|segment| segment.unknown);
    if any(&books) && writes && (all || !is_blind) {
        return Step::Books;
    }
    // What is published is written once more, elsewhere: so it costs no retained checkpoint, and whatever the log holds.
    if any(&|kind| kind == findings::DIRECTORY_COPY) && !foreign {
        return Step::Directory;
    }
    if any(&|kind| kind == findings::CONTAINER_HEADER || kind == findings::CONTAINER_FOOTER) {
        return Step::Containers;
    }
    if !writes {
        return if any(&|kind| kind == findings::SUPERBLOCK_COPY) { Step::Superblocks } else { Step::Nothing };
    }
    let log = examined.log.as_ref();
    let replayable =
        log.is_none_or(|log| log::client_records(log) > 0 || log.adopted.is_some() || log.corrupt.is_some());
    let corrupt = any(&|kind| kind == findings::LOG_CORRUPT || kind == findings::LOG_DATA);
    // To write new trees means to leave out what cannot be read.
    let gives_up = any(&|kind| of_trees(kind) && kind.by == By::Yes);
    let trees = any(&of_trees) && (all || !gives_up);
    let unpublished = any(&|kind| kind == findings::LOG_CHECKPOINT);
    if (corrupt && all || trees || unpublished) && replayable && plan == Plan::Replay {
        return Step::Replay;
    }
    if trees || (corrupt && all) {
        return Step::Trees;
    }
    if any(&|kind| kind == findings::SUPERBLOCK_COPY) { Step::Superblocks } else { Step::Nothing }
}

/// Pages, counts, liveness, table, and copies of what lies in two places. The log stays.
fn books(disk: &Disk, examined: &mut Examined, settings: &Settings) -> Result<()> {
    let superblock = examined.superblock.clone();
    let entry = &examined.directory.entry;
    let next_segment = u32::try_from(entry.bounds.segment).unwrap_or(u32::MAX);
    let mut bounds = examined.used.below(entry.bounds);
    let writer = OfflineWriter::new(disk.device(), &superblock, entry.volume, free_containers(examined), next_segment);
    // A bad copy of the roots object: both are written again, as they are.
    let roots = examined.roots.take_if(|roots| roots.damaged);
    let blob = roots.as_ref().map(|roots| roots.blob.clone()).unwrap_or_default();
    if roots.is_some() {
        bounds.segment += 1;
    }
    let queue = std::mem::take(&mut examined.queue);
    let unreadable = std::mem::take(&mut examined.unreadable);
    let state = NewState { roots, blob, bounds, keep_log: true, queue, unreadable };
    publish(disk, examined, writer, state, settings.options)
}

/// Why the log was not replayed.
enum Failure {
    /// What it says, or what it is to be replayed on, is damaged.
    Log(String),
    /// Anything else: a device that does not take writes, no room. The log is as good as it was.
    Else(String),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let why = error.to_string();
        match error {
            StoreError::Device(DeviceError::Io { operation: Operation::Read, .. }) => Self::Log(why),
            StoreError::Damaged { .. }
            | StoreError::Unreadable { .. }
            | StoreError::BadReference { .. }
            | StoreError::Structure { .. }
            | StoreError::SegmentPage { .. }
            | StoreError::Refused(_) => Self::Log(why),
            _ => Self::Else(why),
        }
    }
}

impl From<NamespaceError> for Failure {
    fn from(error: NamespaceError) -> Self {
        let why = error.to_string();
        match error {
            NamespaceError::Store(error) => error.into(),
            NamespaceError::NoSpace | NamespaceError::ReadOnly(_) => Self::Else(why),
            _ => Self::Log(why),
        }
    }
}

/// Mounts without a mount point: recovery, replay, a checkpoint. If the checkpoint in the log is damaged, from the published one; that failing, and if things may be
/// given up, from the damaged one all the same: what is below the damage is cut afterwards. (The other order would publish the damaged one.)
fn replay(disk: &Disk, settings: &Settings, damaged: bool, adopts: bool) -> std::result::Result<(), Failure> {
    if damaged {
        match replay_from(disk, settings, true, false) {
            Err(Failure::Log(_)) if settings.all => {}
            result => return result,
        }
    }
    replay_from(disk, settings, false, adopts)
}

fn replay_from(disk: &Disk, settings: &Settings, published: bool, adopts: bool) -> std::result::Result<(), Failure> {
    let options = EngineOptions {
        read_only: false,
        threads: false,
        accept_loss: settings.all,
        clock: Arc::clone(&settings.clock),
        settings: envoyfs_engine::settings::Settings::default(),
    };
    let open = if published { Engine::open_published } else { Engine::open_for };
    let engine = open(ClientTag::FILES, disk.shared(), options)?;
    let why = engine.read_only();
    if !why.is_empty() {
        // A damaged checkpoint of the log makes a mount read-only too.
        let is_log = adopts && !why.starts_with(CANNOT_BE_WRITTEN);
        return Err(if is_log { Failure::Log(why.into()) } else { Failure::Else(why.into()) });
    }
    let engine = Arc::new(engine);
    let options =
        NamespaceOptions { node_cache_bytes: 16 << 20, threads: false, read_only: false, seed: settings.seed };
    let namespace = Namespace::open(engine.clone(), options)?;
    let replayed = namespace.checkpoint().map_err(Failure::from);
    let closed = namespace.close().map_err(Failure::from);
    drop(namespace);
    let stopped = engine.close().map_err(Failure::from);
    replayed.and(closed).and(stopped)
}

/// Writes the trees anew where they are damaged, without what is damaged. With `keep_log` the log stays and is replayed on them later; else it is over.
fn trees(
    disk: &Disk,
    examined: &mut Examined,
    settings: &Settings,
    keep_log: bool,
    lost: Vec<lost::Lost>,
) -> Result<()> {
    let superblock = examined.superblock.clone();
    let entry = &examined.directory.entry;
    let (volume, mut bounds) = (entry.volume, entry.bounds);
    let next_segment = u32::try_from(bounds.segment).unwrap_or(u32::MAX);
    let free = free_containers(examined);
    let writer = OfflineWriter::new(disk.device(), &superblock, volume, free, next_segment);
    let Some(roots) = examined.roots.take() else { return Ok(()) };
    let mut rewriter = Rewriter::new(disk, examined, writer, settings).with_lost(lost);
    let new = rewriter.roots(&roots)?;
    let (writer, inode) = rewriter.done();
    bounds.segment = bounds.segment.max(u64::from(writer.next_segment()) + 1);
    bounds.inode = bounds.inode.max(inode);
    let blob = new.blob.clone();
    let state = NewState { roots: Some(new), blob, bounds, keep_log, queue: Vec::new(), unreadable: Vec::new() };
    publish(disk, examined, writer, state, settings.options)
}
