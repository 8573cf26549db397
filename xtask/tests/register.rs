//! `docs/invariants.md` names tests, seeded bugs and files: each is there. And whatever cites an invariant cites one that is registered.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const REGISTER: &str = include_str!("../../docs/invariants.md");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Every source below a folder: path from the root, text.
fn sources(folder: &Path, into: &mut BTreeMap<PathBuf, String>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        let name = entry.file_name();
        if kind.is_dir() {
            if !matches!(name.to_str(), Some("target" | ".git" | "corpus" | "artifacts")) {
                sources(&path, into);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            into.insert(path.strip_prefix(root()).unwrap().to_path_buf(), text);
        }
    }
}

fn all() -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    sources(&root(), &mut all);
    all
}

/// Rows of the register: id, where it is enforced, test.
fn rows() -> Vec<(String, String, String)> {
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_string()).collect::<Vec<_>>();
    let rows = REGISTER.lines().filter(|line| line.starts_with("| INV-")).map(cells);
    rows.map(|cells| {
        let [_, id, _, enforced, test, _] = cells.as_slice() else {
            panic!("a row of {} cells: {cells:?}", cells.len())
        };
        (id.clone(), enforced.clone(), test.clone())
    })
    .collect()
}

fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn words(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').collect()
}

#[test]
fn every_test_that_the_register_names_is_there() {
    let all = all();
    let functions: BTreeSet<&str> = all
        .values()
        .flat_map(|text| text.split("fn ").skip(1))
        .filter_map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next())
        .collect();
    let mut named = 0;
    for (id, _, test) in rows() {
        // Tests are sentences: three words and more.
        for name in quoted(&test).filter(|name| name.matches('_').count() > 1 && !name.contains(['/', ':'])) {
            assert!(functions.contains(name), "{id} names the test {name}, which is nowhere");
            named += 1;
        }
    }
    assert!(named > 20, "only {named} tests were found in the register: is it read?");
}

#[test]
fn every_seeded_bug_that_the_register_names_is_there() {
    let all = all();
    let models: String =
        all.iter().filter(|(path, _)| path.starts_with("tests")).map(|(_, text)| text.as_str()).collect();
    let known = words(&models);
    let mut named = 0;
    for (id, _, test) in rows() {
        let before_code = test.split("code:").next().unwrap();
        let is_bug =
            |word: &&str| word.starts_with(char::is_uppercase) && word.contains(char::is_lowercase) && word.len() > 6;
        let plain: String = before_code.split('`').step_by(2).collect();
        for bug in words(&plain).iter().filter(|word| is_bug(word)) {
            assert!(known.contains(bug), "{id} names the seeded bug {bug}, which no model has");
            named += 1;
        }
    }
    assert!(named > 40, "only {named} seeded bugs were found in the register: is it read?");
}

#[test]
fn every_module_and_file_that_the_register_names_is_there() {
    let all = all();
    for (id, enforced, test) in rows() {
        let text = format!("{enforced} {test}");
        for name in quoted(&text) {
            let found = if name.contains('/') {
                let is_there = |at: &str| root().join(at).exists();
                is_there(name) || is_there(&format!("engine/src/{name}")) || is_there(&format!("{name}.rs"))
            } else if let Some((_, path)) = name.rsplit_once("tests::") {
                let at = format!("tests/{}", path.replace("::", "/"));
                all.keys().any(|file| file.with_extension("").ends_with(&at))
            } else {
                true
            };
            assert!(found, "{id} names {name}, which is not there");
        }
    }
}

#[test]
fn the_register_is_complete() {
    let ids: Vec<String> = rows().into_iter().map(|(id, ..)| id).collect();
    let expected: Vec<String> = (1..=ids.len()).map(|number| format!("INV-{number:02}")).collect();
    assert_eq!(ids, expected, "numbers go up by one and are never reused");
    for (path, text) in all() {
        for cited in text.split("INV-").skip(1) {
            let number: String = cited.chars().take_while(char::is_ascii_digit).collect();
            let id = format!("INV-{number}");
            assert!(number.is_empty() || ids.contains(&id), "{} cites {id}, which is not registered", path.display());
        }
    }
}
