//! `kill -9` of the daemon of a real mount while processes work on it: the next mount has everything that was acknowledged, and nothing that was never done.
//!
//! ```text
//! processes change their own directories and sync; what they begin and what is acknowledged goes to a file outside of the mount
//!   -> kill -9 at some moment (now and then again in the recovery) -> mount -> each directory is what it was after some step, none acknowledged is missing
//!   -> umount -> fsck finds nothing
//! ```
//! Three rounds here; `cargo xtask kill --rounds 50` runs more. Needs root and /dev/fuse.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may panic, and computes with small numbers"
)]

#[allow(dead_code, reason = "what other test files use of it")]
#[path = "../common/mod.rs"]
mod common;
mod load;

use common::mounted::{Bench, text};
use load::{Log, Model, View, Worker};
use rustix::process::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const WORKERS: u64 = 3;

/// A process of the load; started by the test below, with what it is to do in the environment.
#[test]
#[ignore = "the load, which the test starts as processes of its own"]
fn load_process() {
    if let Some(worker) = Worker::from_environment() {
        worker.run();
    }
}

#[test]
fn what_was_acknowledged_survives_daemons_killed_at_any_moment() {
    if !rustix::process::geteuid().is_root() {
        common::skip("kill: mounting needs root");
        return;
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let rounds = number("KILL_ROUNDS").unwrap_or(3);
    let seed = number("KILL_SEED").unwrap_or(1);
    let Some(bench) = Bench::with_store("kill", "256MiB") else { return };
    let mut test = Test { bench, before: Vec::new(), checked: 0, steps: 0, failures: Vec::new() };
    for round in 0..rounds {
        test.round(seed, round);
    }
    let Test { checked, steps, failures, .. } = &test;
    println!(
        "KILL_SEED={seed}: {rounds} rounds, {checked} acknowledged syncs checked, {steps} steps kept, {} failures",
        failures.len()
    );
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(*checked > 0, "nothing was acknowledged in any round");
}

struct Test {
    bench: Bench,
    /// What the last round left, to be there after the next crash too.
    before: Vec<(PathBuf, View)>,
    checked: usize,
    steps: usize,
    failures: Vec<String>,
}

fn pause(milliseconds: u64) {
    // Nobody unparks this thread; waking early would do no harm.
    std::thread::park_timeout(Duration::from_millis(milliseconds));
}

/// Ends with the test, whatever it does.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Process {
    fn ends(&mut self, within_ms: u64) -> bool {
        (0..within_ms / 20).any(|_| {
            let ended = !matches!(self.0.try_wait(), Ok(None));
            if !ended {
                pause(20);
            }
            ended
        })
    }
}

impl Test {
    fn round(&mut self, seed: u64, round: u64) {
        let mut random = load::Random(seed << 32 ^ round);
        let workers: Vec<Worker> = (0..WORKERS)
            .map(|number| Worker {
                seed: random.next() >> 1,
                directory: self.bench.path(&format!("round {round} worker {number}")),
                log: PathBuf::from(self.bench.images.path(&format!("log {round} {number}"))),
            })
            .collect();
        workers.iter().for_each(|worker| fs::create_dir(&worker.directory).unwrap());
        load::sync(&self.bench.at).unwrap();
        let mut processes: Vec<Process> = workers.iter().map(|worker| Process(worker.start())).collect();
        pause(60 + random.below(1500));
        // On a slow machine nothing may be acknowledged yet.
        let is_acknowledged = |worker: &Worker| fs::read_to_string(&worker.log).is_ok_and(|log| log.contains("\nA "));
        for _ in 0..600 {
            if workers.iter().any(is_acknowledged) {
                break;
            }
            pause(100);
        }
        self.bench.end_daemon(Signal::KILL);
        for process in &mut processes {
            if !process.ends(60_000) {
                self.failures.push(format!("round {round}: a process hangs although the daemon is dead"));
            }
        }
        drop(processes);
        self.detach();
        while random.below(3) == 0 {
            self.kill_in_recovery(random.below(80));
        }
        self.bench.mount(&[]);
        let mut found = Vec::new();
        for worker in &workers {
            match self.judge(worker) {
                Ok(view) => found.push((worker.directory.clone(), view)),
                Err(why) => self.failures.push(format!("KILL_SEED={seed} round {round}: {why}")),
            }
        }
        for (directory, expected) in std::mem::replace(&mut self.before, found) {
            let difference = load::difference(&load::view(&directory), &expected);
            if !difference.is_empty() {
                self.failures.push(format!("KILL_SEED={seed} round {round}: what the last round left:\n{difference}"));
            }
            load::delete(&self.bench.at, directory.file_name().unwrap()).unwrap();
        }
        self.bench.umount();
        let answer = common::fsck(&["-fn", &self.bench.store]);
        if answer.code != 0 {
            self.failures.push(format!("KILL_SEED={seed} round {round}: {answer:?}"));
        }
        self.bench.mount(&[]);
    }

    /// Takes the mount of a dead daemon away.
    fn detach(&self) {
        while self.bench.is_mounted() {
            drop(Command::new("umount").args(["-l", text(&self.bench.at)]).stderr(Stdio::null()).status());
        }
    }

    /// Mounts, and kills that so soon that it may not be done with its recovery.
    fn kill_in_recovery(&self, after_ms: u64) {
        let mount = Command::new(env!("CARGO_BIN_EXE_mount-envoyfs"))
            .args([&self.bench.store, text(&self.bench.at), "-f"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mount = Process(mount.unwrap());
        pause(after_ms);
        drop(mount);
        self.detach();
    }

    /// The directory of a worker is what it was after a step that it had begun, and not before the last that was acknowledged.
    fn judge(&mut self, worker: &Worker) -> Result<View, String> {
        let log = Log::read(&worker.log);
        log.check_error()?;
        let found = load::view(&worker.directory);
        let mut random = load::Random(worker.seed);
        let mut model = Model::default();
        let mut nearest = None;
        for step in 0..=log.begun {
            let parts = match step {
                0 => Vec::new(),
                _ if step <= log.acknowledged => vec![model.next(&mut random)],
                _ => model.next(&mut random).parts(),
            };
            let count = parts.len();
            for (number, part) in parts.into_iter().enumerate() {
                model.apply(&part);
                let is_whole = number + 1 == count;
                if !is_whole && load::difference(&found, &model.view()).is_empty() {
                    return Ok(self.kept(&log, step, found));
                }
            }
            if step < log.acknowledged {
                continue;
            }
            let difference = load::difference(&found, &model.view());
            if difference.is_empty() {
                return Ok(self.kept(&log, step, found));
            }
            nearest.get_or_insert(difference);
        }
        Err(format!(
            "{}: not what it was after {} to {} steps:\n{}",
            shown(&worker.directory),
            log.acknowledged,
            log.begun,
            nearest.unwrap_or_default()
        ))
    }

    fn kept(&mut self, log: &Log, steps: usize, found: View) -> View {
        self.checked += log.acknowledgements;
        self.steps += steps;
        found
    }
}

fn shown(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}
