//! What messages and manual pages send a user to exists: programs, subcommands, options, mount options. A message that names an option which is not there is worse than none.
#![allow(clippy::unwrap_used, reason = "a failed step of a test stops it")]

#[allow(dead_code, reason = "what other test files use of it")]
mod common;

use common::run;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Words that follow "envoyfs" in prose.
const PROSE: [&str; 6] = ["store", "stores", "process", "version", "is", "there"];
/// Crates whose messages users read; `bench` has an option parser of its own, with tests of its own.
const SOURCES: [&str; 5] = ["layout/src", "engine/src", "namespace/src", "fuse-frontend/src", "tools/src"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Options of every program and subcommand, as their help names them: `--long` and `-s`.
struct Programs(BTreeMap<String, BTreeSet<String>>);

impl Programs {
    fn ask() -> Self {
        let mut all = BTreeMap::new();
        for (name, path) in [
            ("mkfs.envoyfs", env!("CARGO_BIN_EXE_mkfs-envoyfs")),
            ("fsck.envoyfs", env!("CARGO_BIN_EXE_fsck-envoyfs")),
            ("mount.envoyfs", env!("CARGO_BIN_EXE_mount-envoyfs")),
        ] {
            all.insert(name.to_owned(), options(&run(path, &["--help"]).stdout));
        }
        let envoyfs = env!("CARGO_BIN_EXE_envoyfs");
        let help = run(envoyfs, &["--help"]).stdout;
        for name in commands(&help) {
            all.insert(format!("envoyfs {name}"), options(&run(envoyfs, &[&name, "--help"]).stdout));
        }
        let inspect = commands(&run(envoyfs, &["inspect", "--help"]).stdout);
        let views = inspect.iter().flat_map(|view| options(&run(envoyfs, &["inspect", "x", view, "--help"]).stdout));
        all.entry("envoyfs inspect".into()).or_default().extend(views);
        assert!(all.len() > 12, "{:?}", all.keys());
        Self(all)
    }

    fn of(&self, program: &str) -> Option<&BTreeSet<String>> {
        self.0.get(program)
    }
}

/// Subcommands that a help lists.
fn commands(help: &str) -> Vec<String> {
    let listed = help.split_once("Commands:").unwrap().1.split_once("\n\n").unwrap().0;
    let names = listed.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').find(|word| !word.is_empty()));
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c.is_whitespace() || "'\"`()[]{}|;,*".contains(c)).filter(|word| !word.is_empty())
}

/// `--long` of `--long=VALUE`, `-s` of `-s`; nothing of anything else.
fn option(word: &str) -> Option<&str> {
    let name = word.split('=').next()?.trim_end_matches(['.', ':', '?', '!']);
    let letters = name.strip_prefix("--").or_else(|| name.strip_prefix('-').filter(|rest| rest.len() == 1))?;
    let is_long = name.starts_with("--");
    let plain = letters.chars().all(|c| c.is_ascii_lowercase() || c == '-' || !is_long && c.is_ascii_uppercase());
    (plain && letters.starts_with(|c: char| c.is_ascii_alphabetic())).then_some(name)
}

fn options(help: &str) -> BTreeSet<String> {
    assert!(help.contains("--help"), "{help}");
    words(help).filter_map(option).map(str::to_owned).collect()
}

fn mount_option_exists(name: &str) -> bool {
    let name = name.split('=').next().unwrap().trim_end_matches(['.', ':']);
    let answer = run(env!("CARGO_BIN_EXE_mount-envoyfs"), &["/no/store", "/no/directory", "-f", "-o", name]);
    !answer.stderr.contains("unknown mount option")
}

/// What is wrong with a line of text for users.
fn wrong(line: &str, programs: &Programs) -> Vec<String> {
    let mut found = Vec::new();
    let mut program: Option<String> = None;
    let mut words = words(line).peekable();
    while let Some(word) = words.next() {
        let bare = word.trim_end_matches(['.', ':', '?']);
        if bare.ends_with(".envoyfs") && programs.of(bare).is_some() {
            program = Some(bare.to_owned());
        } else if word == "envoyfs"
            && let Some(next) = words.peek().map(|next| next.trim_end_matches(['.', ':', '?']))
            && next.chars().all(|c| c.is_ascii_lowercase() || c == '\'')
        {
            let name = format!("envoyfs {next}");
            if programs.of(&name).is_some() {
                program = Some(name);
            } else if !PROSE.contains(&next) {
                found.push(format!("there is no '{name}'"));
            }
        } else if bare == "-o" {
            let names = words.peek().copied().unwrap_or_default();
            if names.starts_with(|c: char| c.is_ascii_lowercase()) && !mount_option_exists(names) {
                found.push(format!("there is no mount option '{names}'"));
            }
        } else if let Some(option) = option(word) {
            let exists = |of: &BTreeSet<String>| of.contains(option);
            let known = match &program {
                Some(program) => programs.of(program).is_some_and(exists),
                // Of another program, if it is short.
                None => !option.starts_with("--") || programs.0.values().any(exists),
            };
            if !known {
                found.push(format!("there is no '{option}' of {}", program.as_deref().unwrap_or("any program")));
            }
        }
    }
    found
}

fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_name().unwrap().to_str().unwrap();
        if entry.is_dir() && !["tests", "bench"].contains(&name) {
            files(&entry, into);
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            into.push(entry);
        }
    }
}

#[test]
fn what_messages_tell_a_user_to_do_can_be_done() {
    let programs = Programs::ask();
    let mut sources = Vec::new();
    SOURCES.iter().for_each(|folder| files(&root().join(folder), &mut sources));
    let (mut bad, mut looked_at) = (Vec::new(), 0);
    for path in sources {
        let text = fs::read_to_string(&path).unwrap();
        let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for (number, line) in (1..).zip(product.lines()) {
            let line = line.trim_start();
            // What help shows begins with three slashes, everything else is for readers of the code.
            let for_users = line.contains('"') || line.starts_with("///");
            if !for_users || line.starts_with("//!") || line.contains("daemon-child") {
                continue;
            }
            looked_at += 1;
            bad.extend(
                wrong(line, &programs).into_iter().map(|what| format!("{}:{number}: {what}: {line}", path.display())),
            );
        }
    }
    assert!(looked_at > 500, "{looked_at}");
    assert_eq!(bad, Vec::<String>::new(), "{bad:#?}");
}

#[test]
fn a_message_that_names_what_is_not_there_is_noticed() {
    let programs = Programs::ask();
    for line in [
        "mount it with --accept-loss to go on",
        "run: fsck.envoyfs --reubild {device}",
        "see 'envoyfs statsu'",
        "mount it with -o acept_loss",
        "run: fsck.envoyfs -z",
        "use envoyfs status --size",
    ] {
        assert_eq!(wrong(line, &programs).len(), 1, "{line}: {:?}", wrong(line, &programs));
    }
    for line in [
        "mount it with -o accept_loss, or",
        "run: fsck.envoyfs --rebuild {device}",
        "(truncate -s {expected})",
        "is not an envoyfs store",
        "give it one: envoyfs identity --new {shown}",
        "mount with -o history=N to keep some",
    ] {
        assert_eq!(wrong(line, &programs), Vec::<String>::new(), "{line}");
    }
}

#[test]
fn manual_pages_have_every_option_and_no_other() {
    let programs = Programs::ask();
    let page = |name: &str| fs::read_to_string(root().join("docs/man").join(name)).unwrap();
    let of_envoyfs = page("envoyfs.1.md");
    let mut bad = Vec::new();
    for (program, options) in &programs.0 {
        let text = match program.as_str() {
            "mkfs.envoyfs" => page("mkfs.envoyfs.8.md"),
            "fsck.envoyfs" => page("fsck.envoyfs.8.md"),
            "mount.envoyfs" | "envoyfs mount" => page("mount.envoyfs.8.md"),
            "envoyfs inspect" => page("envoyfs-inspect.1.md"),
            "envoyfs bench" => page("envoyfs-bench.1.md"),
            _ => of_envoyfs.clone(),
        };
        let told: BTreeSet<String> = words(&text).filter_map(option).map(str::to_owned).collect();
        for option in options.iter().filter(|option| option.starts_with("--")) {
            if !told.contains(option) && !["--help", "--version"].contains(&option.as_str()) {
                bad.push(format!("{program}: {option} is in no manual page"));
            }
        }
        if let Some(name) = program.strip_prefix("envoyfs ")
            && !of_envoyfs.contains(&format!("### envoyfs {name}"))
        {
            bad.push(format!("envoyfs(1) does not describe {name}"));
        }
    }
    for (name, program) in [("mkfs.envoyfs.8.md", "mkfs.envoyfs"), ("fsck.envoyfs.8.md", "fsck.envoyfs")] {
        let known = programs.of(program).unwrap();
        let text = page(name);
        let all = words(&text).filter_map(option).filter(|option| option.starts_with("--"));
        bad.extend(
            all.filter(|option| !known.contains(*option)).map(|option| format!("{name}: {program} has no {option}")),
        );
    }
    // Mount options, from both sides: the page's definitions, and what the help lists.
    let text = page("mount.envoyfs.8.md");
    let section = text.split_once("## MOUNT OPTIONS").unwrap().1.split_once("\n## ").unwrap().0.to_owned();
    let defined: BTreeSet<&str> = section
        .lines()
        .filter(|line| line.starts_with('`'))
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .map(|name| name.trim_end_matches('='))
        .filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        .collect();
    assert!(defined.contains("accept_loss") && defined.contains("engine_cache"), "{defined:?}");
    bad.extend(defined.iter().filter(|name| !mount_option_exists(name)).map(|name| format!("no mount option {name}")));
    let help = run(env!("CARGO_BIN_EXE_mount-envoyfs"), &["--help"]).stdout.replace('\n', " ");
    let listed = help.split_once("separated by commas:").unwrap().1.split_once(" -f,").unwrap().0.to_owned();
    for name in listed.split(',').map(|name| name.trim().split('=').next().unwrap()) {
        if !defined.contains(name) {
            bad.push(format!("mount.envoyfs(8) does not define {name}"));
        }
    }
    assert_eq!(bad, Vec::<String>::new(), "{bad:#?}");
}
