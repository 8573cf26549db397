//! What an administrator does with a mounted store: scrub, online check, history, on real mounts.
//!
//! Needs /dev/fuse; without it every test says that it was skipped.
#![allow(clippy::unwrap_used, reason = "a failed step of a test stops it")]
#![allow(clippy::indexing_slicing, reason = "tests compare parts of what they wrote themselves")]

#[allow(dead_code, reason = "what other test files use of it")]
mod common;

use common::mounted::{Bench, envoyfs, text};
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

fn json(arguments: &[&str], code: i32) -> Value {
    let answer = envoyfs(arguments);
    assert_eq!(answer.code, code, "{arguments:?}: {answer:?}");
    serde_json::from_str(&answer.stdout).unwrap()
}

/// Bytes that occur nowhere else.
fn pattern(length: u64) -> Vec<u8> {
    (0..length / 8).flat_map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5CB).to_le_bytes()).collect()
}

#[test]
fn a_scrub_verifies_a_store_in_use_and_names_what_is_damaged() {
    let Some(bench) = Bench::new("scrub") else { return };
    let at = text(&bench.at);
    let never = envoyfs(&["scrub", "--status", at]);
    assert_eq!((never.code, never.stdout.as_str()), (0, "no scrub since the mount\n"));
    fs::write(bench.path("file"), pattern(300_000)).unwrap();
    // An online check makes a checkpoint, so that tables name what was written.
    json(&["check", "--json", at], 0);
    let report = json(&["scrub", "--json", at], 0);
    assert_eq!((&report["state"], &report["findings"]), (&"done".into(), &Value::Array(Vec::new())), "{report}");
    assert!(report["bytes"].as_u64().unwrap() >= 299_008, "{report}");
    assert_eq!(json(&["scrub", "--json", "--status", at], 0), report);

    let image = fs::read(&bench.store).unwrap();
    let block = &pattern(300_000)[8192..12288];
    let place = (0..image.len() - 4096).step_by(4096).find(|from| &image[*from..from + 4096] == block).unwrap();
    drop(image);
    let store = OpenOptions::new().write(true).open(&bench.store).unwrap();
    store.write_all_at(b"rot", place as u64 + 77).unwrap();
    store.sync_all().unwrap();
    let report = json(&["scrub", "--json", at], 7);
    let findings = report["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 1, "{report}");
    assert!(
        findings[0]["object"].is_string() && findings[0]["what"].as_str().unwrap().contains("checksum"),
        "{report}"
    );
    let answer = envoyfs(&["scrub", at]);
    assert_eq!(answer.code, 7, "{answer:?}");
    assert!(answer.stdout.contains("damaged      1") && answer.stdout.contains("object "), "{answer:?}");
    assert!(
        fs::read(bench.path("file")).is_err() || fs::read(bench.path("file")).unwrap() == pattern(300_000),
        "never other bytes"
    );
    bench.umount();
}

#[test]
fn a_slow_scrub_goes_on_in_the_background_until_it_is_stopped() {
    let Some(bench) = Bench::new("slow scrub") else { return };
    let at = text(&bench.at);
    fs::write(bench.path("file"), pattern(4 << 20)).unwrap();
    json(&["check", "--json", at], 0);
    let report = json(&["scrub", "--json", "--background", "--rate", "16KiB", at], 0);
    assert_eq!(report["state"], "running");
    let answer = envoyfs(&["scrub", at]);
    assert_eq!(answer.code, 4, "{answer:?}");
    assert!(answer.stderr.contains("--stop"), "{answer:?}");
    assert_eq!(json(&["scrub", "--json", "--status", at], 0)["state"], "running");
    // The other pass is another.
    assert_eq!(json(&["check", "--json", at], 0)["state"], "done");
    let report = json(&["scrub", "--json", "--stop", at], 0);
    assert_eq!(report["state"], "stopped", "{report}");
    let from = report["next_container"].to_string();
    let report = json(&["scrub", "--json", "--from", &from, at], 0);
    assert_eq!((&report["state"], report["findings"].as_array().unwrap().len()), (&"done".into(), 0));
    // One that runs does not keep the store from being closed.
    json(&["scrub", "--json", "--background", "--rate", "4KiB", at], 0);
    bench.end();
}

#[test]
fn an_online_check_finds_nothing_wrong_while_forks_come_and_go() {
    let Some(bench) = Bench::new("check") else { return };
    let at = text(&bench.at);
    fs::create_dir(bench.path("source")).unwrap();
    for file in 0..20 {
        fs::write(bench.path(&format!("source/{file}")), pattern(40_000)).unwrap();
    }
    let fork = |number: u32| {
        let (from, to) = (bench.path("source"), bench.path(&format!("fork-{number}")));
        let answer = envoyfs(&["fork", text(&from), text(&to)]);
        assert_eq!(answer.code, 0, "{answer:?}");
        fs::write(to.join("3"), b"changed").unwrap();
    };
    (0..10).for_each(fork);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 10..20 {
                fork(number);
                let old = bench.path(&format!("fork-{}", number - 10));
                let answer = envoyfs(&["delete", "-y", text(&old)]);
                assert_eq!(answer.code, 0, "{answer:?}");
            }
        });
        for _ in 0..5 {
            let report = json(&["check", "--json", at], 0);
            let wrong = ["wrong_counts", "leaked_bytes", "lost_bytes", "wrongly_deferred_bytes"];
            assert!(wrong.iter().all(|field| report[field] == 0), "{report}");
            assert!(report["nodes"].as_u64().unwrap() > 3, "{report}");
        }
    });
    let answer = envoyfs(&["check", at]);
    assert_eq!(answer.code, 0, "{answer:?}");
    assert!(answer.stdout.contains("wrong counts 0\n"), "{answer:?}");
    bench.end();
}

#[test]
fn strangers_may_look_at_the_history_and_start_nothing() {
    let Some(bench) = Bench::new("strangers") else { return };
    if rustix::process::geteuid().as_raw() != 0 {
        common::skip("strangers: needs root");
        return bench.end();
    }
    let stranger = |command: &str| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_envoyfs"));
        program.args([command, text(&bench.at)]).uid(65534).gid(65534).output()
    };
    match stranger("history") {
        Ok(output) if output.status.code() == Some(0) => {
            for command in ["scrub", "check"] {
                let output = stranger(command).unwrap();
                assert_eq!(output.status.code(), Some(5), "{command}: {output:?}");
            }
        }
        // The program, or the way to the mount, is not open to strangers here.
        other => common::cannot(format!("strangers: {other:?}")),
    }
    bench.end();
}

#[test]
fn earlier_states_are_listed_and_shown_by_a_read_only_mount() {
    let Some(bench) = Bench::new("history") else { return };
    let at = text(&bench.at);
    let none = envoyfs(&["history", at]);
    assert_eq!(none.code, 0);
    assert!(none.stdout.contains("no checkpoint is kept"), "{none:?}");
    bench.umount();
    bench.mount(&["-o", "history=8"]);
    let mut times = Vec::new();
    for version in 0..3_u8 {
        fs::write(bench.path("file"), vec![version; 50_000]).unwrap();
        fs::write(bench.path(&format!("only-{version}")), b"x").unwrap();
        if version > 0 {
            fs::remove_file(bench.path(&format!("only-{}", version - 1))).unwrap();
        }
        // Makes a checkpoint.
        json(&["check", "--json", at], 0);
        let rows = json(&["history", "--json", at], 0);
        times.push(rows["checkpoints"].as_array().unwrap().last().unwrap()["time"].as_str().unwrap().to_owned());
    }
    let list = envoyfs(&["history", at]);
    assert!(list.stdout.contains(&times[0]) && list.stdout.contains(&times[2]), "{list:?}");
    bench.umount();
    for (version, time) in (0_u8..).zip(&times) {
        bench.mount(&["-o", &format!("at={time}")]);
        assert_eq!(fs::read(bench.path("file")).unwrap(), vec![version; 50_000], "at {time}");
        assert!(bench.path(&format!("only-{version}")).exists());
        assert!((0..3).filter(|other| *other != version).all(|other| !bench.path(&format!("only-{other}")).exists()));
        assert!(fs::write(bench.path("new"), b"x").is_err(), "an earlier state is read-only");
        bench.umount();
    }
    let early = bench.try_mount(&["-o", "at=2001-01-01T00:00:00Z"]);
    assert_ne!(early.code, 0);
    assert!(early.stderr.contains("oldest checkpoint"), "{early:?}");
    // Nothing of it changed what the store holds now.
    bench.mount(&[]);
    assert_eq!(fs::read(bench.path("file")).unwrap(), vec![2; 50_000]);
    bench.end();
}

#[test]
fn completions_are_made_for_the_shells_that_people_use() {
    for shell in ["bash", "zsh", "fish"] {
        let answer = envoyfs(&["completions", shell]);
        assert_eq!(answer.code, 0, "{answer:?}");
        for word in ["scrub", "history", "--background", "snapshot"] {
            assert!(answer.stdout.contains(word.trim_start_matches("--")), "{word} is not completed in {shell}");
        }
    }
    assert_eq!(envoyfs(&["completions", "cmd"]).code, 2);
}
