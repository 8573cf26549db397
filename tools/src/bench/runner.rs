//! Runs the groups of jobs: which engine in which round, a thread a clone, and adds up what they did.

use super::check::{self, end_of, region};
use super::device_queue::DeviceQueue;
use super::ground::{Ground, Wish};
use super::job::{Amount, Ioengine, Job};
use super::queue::{Queue, now};
use super::report::DiskUse;
use super::statistics::{Entry, Statistics};
use super::watch::{STOPPED, Watch};
use super::worker::{JobThread, Worker};
use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sys::resource::{Usage, UsageWho, getrusage};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How the jobs are run.
pub struct Runner {
    /// For scratch images.
    pub directory: PathBuf,
    /// Overwrite what devices hold.
    pub force: bool,
    /// Turns of store and device, where a job goes through both.
    pub rounds: u32,
    /// Who waits, and may end all jobs.
    pub watch: Watch,
}

/// What was measured.
pub struct Outcome {
    /// Entries of the report.
    pub entries: Vec<Entry>,
    /// Devices below.
    pub disks: Vec<DiskUse>,
}

/// One job through one engine in a pass.
struct Turn {
    job: Job,
    engine: Ioengine,
    ground: Arc<Ground>,
    threads: Vec<JobThread>,
    total: Vec<Statistics>,
}

impl Runner {
    /// Runs all of them.
    ///
    /// # Errors
    /// What is wrong with a job, a device or the store. Errors of single IOs are in the entries.
    pub fn run(&self, jobs: &[Job]) -> Result<Outcome> {
        check::check(jobs)?;
        let grounds = self.grounds(jobs)?;
        let before: Vec<_> = grounds.values().map(|ground| disk_use(ground.device_number)).collect();
        let result = self.groups(jobs, &grounds);
        let disks = grounds
            .values()
            .zip(before)
            .filter_map(|(ground, before)| used(disk_use(ground.device_number)?, before?))
            .collect();
        // The store is closed also after a failure, which counts more.
        let closed = grounds.values().try_for_each(|ground| ground.close());
        let entries = result?;
        closed?;
        Ok(Outcome { entries, disks })
    }

    fn grounds(&self, jobs: &[Job]) -> Result<BTreeMap<Option<PathBuf>, Arc<Ground>>> {
        let mut wishes: BTreeMap<Option<PathBuf>, Wish> = BTreeMap::new();
        for job in jobs {
            let wish = wishes.entry(job.filename.clone()).or_insert_with(|| Wish {
                path: job.filename.clone(),
                directory: self.directory.clone(),
                store: false,
                floor: false,
                floor_writes: false,
                bytes: 0,
                block_most: 0,
                force: self.force,
                watch: self.watch.clone(),
            });
            let engines = engines_of(job);
            wish.store |= engines.contains(&Ioengine::Envoyfs);
            if engines.contains(&Ioengine::Device) {
                wish.floor = true;
                wish.floor_writes |= job.rw.writes;
            }
            wish.block_most = wish.block_most.max(job.block_most());
            if let (Some(Amount::Bytes(_)), Some(end)) = (job.size, end_of(job)) {
                wish.bytes = wish.bytes.max(end);
            }
        }
        wishes.into_iter().map(|(path, wish)| Ok((path, Arc::new(Ground::open(&wish)?)))).collect()
    }

    fn groups(&self, jobs: &[Job], grounds: &BTreeMap<Option<PathBuf>, Arc<Ground>>) -> Result<Vec<Entry>> {
        let mut groups: Vec<Vec<&Job>> = Vec::new();
        for job in jobs {
            match groups.last_mut() {
                Some(group) if !job.stonewall => group.push(job),
                _ => groups.push(vec![job]),
            }
        }
        let mut entries = Vec::new();
        let mut number = 0;
        let mut logs = 1;
        for group in groups {
            let mut passes: Vec<Vec<Turn>> = Vec::new();
            // Jobs without an engine go through both, one after the other; the others run with their engine's pass, or all at once if no job needs two.
            let both = group.iter().any(|job| job.ioengine.is_none());
            let engines: &[&[Ioengine]] = if both {
                &[&[Ioengine::Envoyfs], &[Ioengine::Device]]
            } else {
                &[&[Ioengine::Envoyfs, Ioengine::Device]]
            };
            for engines in engines {
                let mut pass = Vec::new();
                for job in &group {
                    for engine in engines_of(job).into_iter().filter(|engine| engines.contains(engine)) {
                        let ground = grounds.get(&job.filename).context("a file that no job named")?;
                        pass.push(Turn::new(job, engine, ground)?);
                    }
                }
                if !pass.is_empty() {
                    passes.push(pass);
                }
            }
            self.passes(&mut passes)?;
            for pass in passes {
                collect(pass, number, &mut logs, &mut entries)?;
                number += 1;
            }
        }
        if self.watch.is_stopped() {
            entries.retain(|entry| !entry.statistics.runtime.is_zero());
            ensure!(!entries.is_empty(), STOPPED);
        }
        pair_up(&mut entries);
        Ok(entries)
    }

    fn passes(&self, passes: &mut [Vec<Turn>]) -> Result<()> {
        let rounds = if passes.len() > 1 { self.rounds.max(1) } else { 1 };
        for round in 0..rounds {
            // Who is first changes: what one leaves behind in a cache or a queue must not always meet the other.
            let forward = round % 2 == 0;
            for index in 0..passes.len() {
                let index = if forward { index } else { passes.len() - 1 - index };
                if let Some(pass) = passes.get_mut(index).filter(|_| !self.watch.is_stopped()) {
                    self.pass(pass, round, rounds)?;
                }
            }
        }
        Ok(())
    }

    fn pass(&self, turns: &mut [Turn], round: u32, rounds: u32) -> Result<()> {
        let ready = turns.iter_mut().try_for_each(|turn| turn.prepare(&self.watch));
        if self.watch.is_stopped() {
            return Ok(());
        }
        ready?;
        let of: Vec<String> = turns.iter().map(|turn| format!("{} ({})", turn.job.name, turn.engine.name())).collect();
        self.watch.says(format_args!("{}: round {} of {rounds}", of.join(", "), round + 1));
        let before = usage()?;
        let stop = &*self.watch.stop;
        let clones: usize = turns.iter().map(|turn| turn.threads.len()).sum();
        let results = std::thread::scope(|scope| -> Result<Vec<Vec<Result<Statistics>>>> {
            let mut running = Vec::new();
            for turn in turns.iter_mut() {
                let Turn { job, engine, ground, threads, total } = turn;
                let (job, ground, engine) = (&*job, &*ground, *engine);
                let mut handles = Vec::new();
                for (thread, total) in threads.iter_mut().zip(total.iter()) {
                    let elapsed = total.runtime;
                    let work = move || {
                        let mut queue = open_queue(ground, engine, job)?;
                        let time = job.runtime.map(|time| time / rounds);
                        let ramp = if round == 0 { job.ramp_time } else { Duration::ZERO };
                        Worker { job, time, ramp, stop, elapsed }.run(thread, &mut *queue)
                    };
                    let name = format!("bench-{}", job.name);
                    handles.push(std::thread::Builder::new().name(name).spawn_scoped(scope, work)?);
                }
                running.push(handles);
            }
            let join = |handle: std::thread::ScopedJoinHandle<'_, Result<Statistics>>| {
                handle.join().unwrap_or_else(|_| Err(anyhow!("a thread of the benchmark panicked")))
            };
            Ok(running.into_iter().map(|handles| handles.into_iter().map(join).collect()).collect())
        })?;
        let after = usage()?;
        for (turn, results) in turns.iter_mut().zip(results) {
            for (total, result) in turn.total.iter_mut().zip(results) {
                let mut statistics = result.with_context(|| format!("job {}", turn.job.name))?;
                share_usage(&mut statistics, &before, &after, clones);
                total.add_behind(&statistics);
            }
        }
        Ok(())
    }
}

/// What a job goes through, in this order.
pub fn engines_of(job: &Job) -> Vec<Ioengine> {
    job.ioengine.map_or_else(|| vec![Ioengine::Envoyfs, Ioengine::Device], |engine| vec![engine])
}

fn open_queue(ground: &Ground, engine: Ioengine, job: &Job) -> Result<Box<dyn Queue>> {
    match engine {
        Ioengine::Envoyfs => {
            Ok(Box::new(ground.disk().context("no store was opened")?.queue(job.iodepth + job.unverified_max())?))
        }
        Ioengine::Device => {
            Ok(Box::new(DeviceQueue::new(ground.floor().context("no device was opened")?, job.iodepth)?))
        }
    }
}

impl Turn {
    fn new(job: &Job, engine: Ioengine, ground: &Arc<Ground>) -> Result<Self> {
        let bytes = ground.bytes(engine)?;
        let mut threads = Vec::new();
        for index in 0..job.numjobs {
            let (start, region) = region(job, bytes, index)?;
            threads.push(JobThread::new(job, start, region, index.into()));
        }
        let total = vec![Statistics::default(); threads.len()];
        Ok(Self { job: job.clone(), engine, ground: Arc::clone(ground), threads, total })
    }

    /// Before a round, not measured.
    fn prepare(&mut self, watch: &Watch) -> Result<()> {
        let bytes = self.ground.bytes(self.engine)?;
        for (index, thread) in (0..).zip(&mut self.threads) {
            if !self.job.time_based {
                thread.sequence.restart();
            }
            if let (Ioengine::Envoyfs, true, Some(disk)) = (self.engine, self.job.rw.reads, self.ground.disk()) {
                // A block that was never written would be read without the device.
                let (start, region) = region(&self.job, bytes, index)?;
                watch.steps(&format!("filling the disk of {}", self.job.name), start, region, |at, length| {
                    disk.fill(at, length)
                })?;
            }
        }
        Ok(())
    }
}

fn usage() -> Result<Usage> {
    getrusage(UsageWho::RUSAGE_SELF).context("getrusage")
}

/// The process's use, in equal parts: the store's own threads work for all clones.
fn share_usage(statistics: &mut Statistics, before: &Usage, after: &Usage, clones: usize) {
    let clones = u32::try_from(clones.max(1)).unwrap_or(u32::MAX);
    let time = |of: fn(&Usage) -> nix::sys::time::TimeVal| {
        let micros = |usage: &Usage| {
            let time = of(usage);
            u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap_or(0)
        };
        Duration::from_micros(micros(after).saturating_sub(micros(before))) / clones
    };
    let count = |of: fn(&Usage) -> i64| u64::try_from(of(after) - of(before)).unwrap_or(0) / u64::from(clones);
    statistics.user = time(Usage::user_time);
    statistics.system = time(Usage::system_time);
    statistics.switches = count(|usage| usage.voluntary_context_switches() + usage.involuntary_context_switches());
    statistics.major_faults = count(Usage::major_page_faults);
    statistics.minor_faults = count(Usage::minor_page_faults);
}

/// Entries of a pass, and its logs.
fn collect(pass: Vec<Turn>, group: u32, logs: &mut usize, entries: &mut Vec<Entry>) -> Result<()> {
    let first = entries.len();
    for turn in pass {
        for (thread, statistics) in turn.threads.into_iter().zip(turn.total) {
            if turn.job.logs.any() {
                thread.recorder.write(&turn.job.logs, *logs).context("writing a log")?;
            }
            *logs += 1;
            let engine = turn.engine.name();
            let together = entries
                .iter_mut()
                .skip(first)
                .find(|entry| turn.job.group_reporting && entry.job.group_reporting && entry.engine == engine);
            match together {
                Some(entry) => {
                    entry.statistics.add_beside(&statistics);
                    entry.clones += 1;
                }
                None => entries.push(Entry { job: turn.job.clone(), engine, group, clones: 1, statistics }),
            }
        }
    }
    Ok(())
}

/// Puts each entry of the device right behind that of the store for the same job.
fn pair_up(entries: &mut Vec<Entry>) {
    let mut rest = std::mem::take(entries);
    while !rest.is_empty() {
        let entry = rest.remove(0);
        let pair = rest.iter().position(|other| {
            entry.job.ioengine.is_none()
                && other.job.name == entry.job.name
                && other.engine != entry.engine
                && other.job.ioengine.is_none()
        });
        entries.push(entry);
        if let Some(pair) = pair {
            entries.push(rest.remove(pair));
        }
    }
}

fn disk_use(device: u64) -> Option<DiskUse> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let directory = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let name = directory.file_name()?.to_str()?.to_owned();
    let text = std::fs::read_to_string(directory.join("stat")).ok()?;
    let mut fields = text.split_ascii_whitespace().map_while(|field| field.parse().ok());
    let mut counters = [0; 11];
    for counter in &mut counters {
        *counter = fields.next()?;
    }
    Some(DiskUse { name, counters })
}

fn used(after: DiskUse, before: DiskUse) -> Option<DiskUse> {
    let mut counters = after.counters;
    for (after, before) in counters.iter_mut().zip(before.counters) {
        *after = after.saturating_sub(before);
    }
    Some(DiskUse { name: after.name, counters })
}

/// Runs and times the whole.
///
/// # Errors
/// As of [`Runner::run`].
pub fn timed(runner: &Runner, jobs: &[Job]) -> Result<(Outcome, Duration)> {
    let start = now();
    let outcome = runner.run(jobs)?;
    Ok((outcome, start.elapsed()))
}
