//! `store-proof crash SEEDS BASE STEPS NESTED FATES`: longer searches than the tests make, for `cargo xtask crash`.
//! `store-proof sabotage`: every rule broken, and its scenario run, for `cargo xtask sabotage`. Needs the feature of that name.

use envoyfs_store_tests::explore::{Found, Reach, history};
use envoyfs_store_tests::rules::SCENARIOS;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Option<Vec<u64>> = arguments.iter().skip(1).map(|text| text.parse().ok()).collect();
    match (arguments.first().map(String::as_str), numbers.as_deref()) {
        (Some("crash"), Some(&[seeds, base, steps, nested, fates])) => {
            let nested = u32::try_from(nested).unwrap_or(3).min(3);
            let mut sum = Found::default();
            for seed in base..base + seeds {
                let found = history(seed, steps, Reach { nested, fates, recoveries_max: u64::MAX });
                sum.add(&found);
                println!("{found}");
            }
            println!("{seeds} histories: {sum}");
            ExitCode::SUCCESS
        }
        (Some("sabotage"), Some(&[])) if cfg!(feature = "sabotage") => sabotage(),
        (Some("scenario"), _) => {
            let found = SCENARIOS.iter().find(|(_, name, _)| arguments.get(1).is_some_and(|wanted| wanted == name));
            let Some((.., run)) = found else { return ExitCode::from(2) };
            run();
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!(
                "usage: store-proof crash SEEDS BASE STEPS NESTED FATES | sabotage (built with --features sabotage)"
            );
            ExitCode::FAILURE
        }
    }
}

/// How a scenario ended in a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Passed,
    Failed,
    /// Neither within the time; ended.
    Hung,
}

fn sabotage() -> ExitCode {
    let mut missed = 0;
    for (rule, name, _) in SCENARIOS {
        let (whole, broken) = (run(name, ""), run(name, rule.name()));
        let verdict = match (whole, broken) {
            (End::Passed, End::Failed) => "caught",
            (End::Passed, End::Passed) => "NOT CAUGHT",
            (End::Passed, End::Hung) => "HANGS when broken",
            _ => "FAILS when nothing is broken",
        };
        missed += u32::from(verdict != "caught");
        println!("{:<30} {name:<75} {verdict}", rule.name());
    }
    println!("{} rules, {missed} not caught", SCENARIOS.len());
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(scenario: &str, rule: &str) -> End {
    let own = std::env::current_exe().expect("a path");
    let mut command = Command::new(own);
    command.args(["scenario", scenario]).env("ENVOYFS_SABOTAGE", rule).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("a process");
    let ended = wait(&mut child);
    if ended == End::Hung {
        let _ = child.kill();
        let _ = child.wait();
    }
    ended
}

/// At most two minutes: a scenario takes seconds.
fn wait(child: &mut Child) -> End {
    let (_never, timer) = channel::<()>();
    for _ in 0..6000 {
        match child.try_wait().expect("a child") {
            Some(status) if status.success() => return End::Passed,
            Some(_) => return End::Failed,
            None => drop(timer.recv_timeout(Duration::from_millis(20))),
        }
    }
    End::Hung
}
