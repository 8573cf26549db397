//! Command line of the WAL model: `exhaustive`, `random`, `bugs`, `bug NAME`.

use envoyfs_wal_model::config::{BUGS, Config, EXHAUSTIVE, RANDOM, SIMPLER};
use envoyfs_wal_model::explore::{self, Outcome};
use envoyfs_wal_model::quorum;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "wal-model exhaustive [STATES SECONDS [NAME-PART]] | random [RUNS SEED SECONDS] | bugs [SECONDS] | \
                     bug NAME [SECONDS] | superblock";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: u64| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let seconds = |i: usize, default: u64| Duration::from_secs(number(i, default));
    let every_bug = || BUGS.iter().chain(SIMPLER).copied();
    let mut ok = true;
    match args.first().map(String::as_str) {
        Some("exhaustive") => {
            for c in EXHAUSTIVE.iter().filter(|c| args.get(3).is_none_or(|part| c.name.contains(part.as_str()))) {
                ok &= report(c, explore::exhaustive(c, number(1, 20_000_000), seconds(2, 120)));
            }
        }
        Some("random") => {
            for c in RANDOM {
                ok &= report(c, explore::random(c, number(2, 1), number(1, 20_000), seconds(3, 60)));
            }
        }
        Some("bugs") => {
            for b in every_bug() {
                let caught = print_hunt(&explore::hunt(b, seconds(1, 20)), false);
                ok &= caught || SIMPLER.contains(&b);
            }
        }
        Some("bug") => match args.get(1).and_then(|name| every_bug().find(|b| format!("{b:?}") == *name)) {
            Some(b) => ok = print_hunt(&explore::hunt(b, seconds(2, 60)), number(2, 60) > 30),
            None => {
                println!("bugs: {BUGS:?} {SIMPLER:?}");
                ok = false;
            }
        },
        Some("superblock") => quorum::table().iter().for_each(|row| println!("{row}")),
        _ => {
            println!("{USAGE}");
            ok = false;
        }
    }
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints the outcome; true without violation.
fn report(c: &Config, o: Outcome) -> bool {
    let n = &o.counters;
    println!(
        "{:52} {:>9} states {:>9} crash images {:>8} faults {:>7} read-only {:>6} exceptions {:>6} damaged {}",
        c.name,
        o.states,
        n.crash_images,
        n.faults,
        n.read_only,
        n.exceptions,
        n.damaged,
        if o.complete { "complete" } else { "stopped" }
    );
    if let Some((why, trace)) = &o.violation {
        println!("  VIOLATION {why}\n  {trace}");
    }
    o.violation.is_none()
}

/// Prints what the hunt found; true when the bug was caught.
fn print_hunt(h: &explore::Hunt, with_trace: bool) -> bool {
    match &h.caught {
        Some(c) => {
            println!("{:28} CAUGHT {} [{}; {} states]", format!("{:?}", h.bug), c.sign, c.configuration, h.states);
            if with_trace {
                println!("  {}", c.trace);
            }
        }
        None => println!("{:28} not caught [{} states]", format!("{:?}", h.bug), h.states),
    }
    h.caught.is_some()
}
