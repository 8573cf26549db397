//! Runs every model in a process of its own, as the code is and with each mistake: `cargo xtask models` asks for it.

use super::TABLE;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

/// Longest that a model may take, in steps of 20 ms.
const STEPS_MAX: u32 = 9000;

/// Seeds with which a mistake is looked for: some show in three of four runs of random schedules.
const SEEDS: u32 = 6;

/// How the test ended, with a mistake or (empty) without; `None` if it did not.
fn passes(test: &str, mistake: &str, seed: u32) -> Option<bool> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--include-ignored"]).env("ENVOYFS_MUTANT", mistake).env("RUST_BACKTRACE", "0");
    command.env("ENVOYFS_MODEL_SEED", seed.to_string());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (_never, timer) = channel::<()>();
    for _ in 0..STEPS_MAX {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status.success());
        }
        let _ = timer.recv_timeout(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

#[test]
#[ignore = "takes as long as all models together, several times"]
fn every_mistake_is_noticed() {
    let mut sound = std::collections::BTreeMap::new();
    let mut missed = 0;
    for (_, name, test, what) in TABLE {
        let sound = *sound.entry(test).or_insert_with(|| passes(test, "", 1) == Some(true));
        let found = (1..=SEEDS).map(|seed| passes(test, name, seed)).find(|passed| *passed != Some(true));
        let verdict = match found.unwrap_or(Some(true)) {
            _ if !sound => "FAILS without a mistake",
            Some(false) => "noticed",
            Some(true) => "NOT NOTICED",
            None => "HANGS with the mistake",
        };
        missed += u32::from(verdict != "noticed");
        println!("{verdict:<12} {name:<22} {}\n{:12} {test}", what.trim(), "");
    }
    println!("{} mistakes, {missed} not noticed", TABLE.len());
    assert_eq!(missed, 0);
}
