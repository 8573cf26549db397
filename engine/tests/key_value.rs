//! The example `key_value` as a program: what was synced survives being killed at any moment, forks are independent, and deleted trees give their space back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Built with the other targets of the package; built here when only this test was asked for.
fn program() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let profile = here.parent().unwrap().parent().unwrap();
    let program = profile.join("examples/key_value");
    if !program.exists() {
        let release = profile.ends_with("release").then_some("--release");
        let arguments = ["build", "--quiet", "--package", "envoyfs-engine", "--example", "key_value"];
        let built = Command::new(env!("CARGO")).args(arguments).args(release).status().unwrap();
        assert!(built.success(), "the example does not build");
    }
    program
}

/// A running store.
struct Running {
    child: Child,
    to: ChildStdin,
    from: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(image: &str) -> Self {
        let mut child =
            Command::new(program()).arg(image).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
        Self { child, to, from }
    }
    fn send(&mut self, line: &str) {
        writeln!(self.to, "{line}").unwrap();
    }
    fn answer(&mut self) -> String {
        self.from.next().expect("the program has ended").unwrap()
    }
    fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.answer()
    }
    fn scan(&mut self) -> BTreeMap<String, String> {
        self.send("scan");
        let mut found = BTreeMap::new();
        loop {
            let line = self.answer();
            let Some((key, value)) = line.split_once(" = ") else {
                assert_eq!(line, "end");
                return found;
            };
            found.insert(key.to_string(), value.to_string());
        }
    }
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
    fn quit(mut self) {
        self.send("quit");
        assert!(self.child.wait().unwrap().success());
    }
}

fn image(directory: &tempfile::TempDir) -> String {
    let path = directory.path().join("store.img").to_str().unwrap().to_string();
    let made = Command::new(program()).args([&path, "create", "128"]).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    path
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Values in the log, in leaves, and with an extent of their own.
fn value(step: u64) -> String {
    let length = [5, 300, 700, 5000, 40_000][usize::try_from(step % 5).unwrap()];
    format!("{step}-{}", "x".repeat(length))
}

#[test]
fn what_was_synced_survives_being_killed_and_what_survives_is_a_prefix() {
    let directory = directory();
    let image = image(&directory);
    // What the store held after each change since the last sync before the kill; at first: nothing.
    let mut possible: Vec<BTreeMap<String, String>> = vec![BTreeMap::new()];
    let mut step = 0;
    for round in 0..6_u64 {
        let mut store = Running::start(&image);
        let found = store.scan();
        assert!(possible.contains(&found), "round {round}: {} pairs are no state since the last sync", found.len());
        possible = vec![found];
        for change in 0..120 + 40 * round {
            step += 1;
            let key = format!("key{}", step * 7919 % 61);
            let mut state = possible.last().unwrap().clone();
            if step % 6 == 0 {
                assert!(store.ask(&format!("del {key}")).starts_with("ok"));
                state.remove(&key);
            } else {
                assert!(store.ask(&format!("put {key} {}", value(step))).starts_with("ok"));
                state.insert(key, value(step));
            }
            possible.push(state);
            if change % 50 == 25 {
                assert_eq!(store.ask("sync"), "synced");
                possible.drain(..possible.len() - 1);
            }
            if change % 70 == 60 {
                assert!(store.ask("checkpoint").starts_with("checkpoint "));
                possible.drain(..possible.len() - 1);
            }
        }
        store.kill();
    }
}

#[test]
fn forks_are_independent_and_dropped_trees_give_back_their_space() {
    let directory = directory();
    let image = image(&directory);
    let mut store = Running::start(&image);
    for key in 0..400_u64 {
        assert!(store.ask(&format!("put k{key:04} {}", value(key))).starts_with("ok"));
    }
    store.ask("checkpoint");
    assert!(store.ask("fork try").starts_with("ok"));
    assert_eq!(store.ask("use try"), "ok");
    store.ask("del k0007");
    store.ask(&format!("put k0008 {}", value(100_003)));
    assert_eq!(store.ask("get k0007"), "none");
    assert_eq!(store.ask("sync"), "synced");
    store.kill();

    let mut store = Running::start(&image);
    assert_eq!(store.ask("list"), "main try");
    let main = store.scan();
    assert_eq!((main.len(), &main["k0007"], &main["k0008"]), (400, &value(7), &value(8)));
    store.ask("use try");
    let fork = store.scan();
    assert_eq!((fork.len(), &fork["k0008"]), (399, &value(100_003)));
    assert!(store.ask("fork main").starts_with("error"), "a name twice");
    store.ask("use main");
    let live = |store: &mut Running| -> u64 { store.ask("usage").split(' ').next().unwrap().parse().unwrap() };
    store.ask("checkpoint");
    let before = live(&mut store);
    assert!(before > 3_000_000, "{before}");
    store.ask("drop try");
    for key in 0..400_u64 {
        store.ask(&format!("del k{key:04}"));
    }
    for _ in 0..50 {
        store.ask("checkpoint");
        if live(&mut store) < 100_000 {
            break;
        }
    }
    let after = live(&mut store);
    assert!(after < 100_000, "{after} bytes are still live of {before}");
    assert!(store.scan().is_empty());
    store.quit();
}
