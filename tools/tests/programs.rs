//! Real programs on a real mount: tar, git, cargo, sqlite, rsync, on the sources of this project's own dependencies. What they leave must be what the host's own file system
//! gives for the same steps.
//!
//! Then forks of that tree: writes on either side never show on the other, the space of a fork is what differs, and after all is deleted - the origin first - the space is
//! what it was.
#![allow(clippy::unwrap_used, reason = "a failed step of a test stops it")]

#[allow(dead_code, reason = "what other test files use of it")]
mod common;

use common::mounted::{Bench, envoyfs, text};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Crates larger than this are left out unless `PROGRAMS_FULL` is set, so that the test ends in a minute.
const CRATE_BYTES_MAX: u64 = 300 << 10;

/// The sources of the dependencies. `None`, with a message, where cargo cannot make them.
fn vendored(into: &Path) -> Option<PathBuf> {
    let all = into.join("vendor");
    let made = Command::new("cargo")
        .args(["vendor", "--locked", "--quiet"])
        .arg(&all)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    if !made.status.success() {
        common::cannot(format!("programs: cargo vendor: {}", String::from_utf8_lossy(&made.stderr)));
        return None;
    }
    if std::env::var_os("PROGRAMS_FULL").is_none() {
        for entry in fs::read_dir(&all).unwrap().map(Result::unwrap) {
            let bytes: u64 = sh("du -sb . | cut -f1", &entry.path()).trim().parse().unwrap();
            if bytes > CRATE_BYTES_MAX {
                fs::remove_dir_all(entry.path()).unwrap();
            }
        }
    }
    Some(all)
}

fn missing_program() -> Option<&'static str> {
    let there = |program: &str| Command::new("which").arg(program).output().unwrap().status.success();
    ["git", "rsync", "sqlite3", "tar", "setfattr", "cargo"].into_iter().find(|program| !there(program))
}

fn run_programs(vendor: &Path, directory: &Path) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs.sh");
    let output = Command::new("timeout").arg("900").arg(script).args([vendor, directory]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "on {}:\n{text}\n{}",
        directory.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

fn sh(script: &str, directory: &Path) -> String {
    let output = Command::new("bash").args(["-euo", "pipefail", "-c", script]).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn fork_of(source: &Path, fork: &Path) {
    let answer = envoyfs(&["fork", text(source), text(fork)]);
    assert_eq!(answer.code, 0, "{answer:?}");
}

fn delete(path: &Path) {
    let answer = envoyfs(&["delete", "-y", text(path)]);
    assert_eq!(answer.code, 0, "{answer:?}");
}

#[test]
fn real_programs_leave_what_they_leave_on_the_hosts_file_system() {
    if let Some(program) = missing_program() {
        common::skip(format!("programs: {program} is not installed"));
        return;
    }
    let Some(bench) = Bench::with_store("programs", "2GiB") else { return };
    let host = tempfile::tempdir().unwrap();
    let Some(vendor) = vendored(host.path()) else { return };
    let (there, here) = (host.path().join("host"), bench.path("programs"));
    fs::create_dir(&there).unwrap();
    fs::create_dir(&here).unwrap();
    let expected = run_programs(&vendor, &there);
    let found = run_programs(&vendor, &here);
    assert_eq!(found, expected);

    // The same after a remount, from the device.
    let digest = "cd sources && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum";
    let before = sh(digest, &here);
    bench.remount();
    assert_eq!(sh(digest, &here), before);

    // Forks of a tree with loose objects, packs and hard links.
    bench.remount();
    let live = bench.live_bytes();
    fork_of(&here, &bench.path("fork"));
    bench.remount();
    let shared = bench.live_bytes();
    assert!(shared < live + (256 << 10), "a fork took {} bytes", shared - live);
    let fork = bench.path("fork");
    assert_eq!(sh(digest, &fork), before);
    sh("git -C sources fsck --full --no-progress && git -C sources status --porcelain", &fork);
    sh("echo changed >sources/only-in-the-fork && rm -rf clone && git -C sources checkout -q -f HEAD~1", &fork);
    assert_eq!(sh(digest, &here), before);
    assert!(!here.join("sources/only-in-the-fork").exists() && here.join("clone").exists());
    let forked = sh(digest, &fork);
    sh("echo changed >sources/only-in-the-origin", &here);
    assert_eq!(sh(digest, &fork), forked);

    // The origin first, then the fork: the space comes back.
    delete(&here);
    assert_eq!(sh(digest, &fork), forked);
    bench.remount();
    assert_eq!(sh(digest, &bench.path("fork")), forked);
    delete(&bench.path("fork"));
    bench.wait_for_reclaim(64 << 10);
    bench.end();
}
