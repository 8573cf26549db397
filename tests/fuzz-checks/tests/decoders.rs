//! A decoder that is added to `layout` without a fuzz target fails here. What there is, is read from the sources: every public function that makes something of bytes, or says why not.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use envoyfs_fuzz_checks::TARGETS;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Decoders that only others call, and the sources of these.
const INSIDE: [(&str, &str); 4] = [
    ("DirectoryPage::rows", "directory_page.rs"),
    ("ClientTag::decode", "roots.rs"),
    ("ContainerRow::decode", "directory_page/table.rs"),
    ("NodeHeader::decode", "node.rs"),
];

/// What looks like a decoder and reads nothing that is stored.
const NONE: [&str; 1] = ["check_extent"];

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// All sources of `layout`, tests left out, by path.
fn sources() -> Vec<(PathBuf, String)> {
    let (mut found, mut folders) = (Vec::new(), vec![root("layout/src")]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("tests.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found
}

fn word(text: &str) -> &str {
    text.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().unwrap()
}

/// `Type::function`, or `function`, and how it is called.
fn decoders() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (_, text) in sources() {
        let mut owner = String::new();
        let mut rest = text.as_str();
        while let Some((line, behind)) = rest.split_once('\n') {
            if let Some(of) = line.strip_prefix("impl") {
                // `impl<'a> Name<'a> {`, `impl Trait for Name {`.
                let of = of.strip_prefix('<').map_or(of, |of| of.split_once('>').unwrap().1).trim_start();
                owner = format!("{}::", word(of.split_once(" for ").map_or(of, |(_, name)| name)));
            } else if line == "}" {
                owner.clear();
            }
            let public = line.trim_start().strip_prefix("pub ").map(|rest| rest.strip_prefix("const ").unwrap_or(rest));
            if let Some(function) = public.and_then(|line| line.strip_prefix("fn ")) {
                let (signature, _) = rest.split_once('{').unwrap();
                if !signature.contains("&mut self") && signature.contains("[u8") && signature.contains("LayoutError>") {
                    let (name, is_method) = (word(function), signature.contains("self,"));
                    let call = if is_method { format!(".{name}(") } else { format!("{owner}{name}(") };
                    found.insert(format!("{owner}{name}"), call);
                }
            }
            rest = behind;
        }
    }
    found
}

#[test]
fn every_decoder_is_called_by_a_fuzz_target() {
    let decoders = decoders();
    assert!(decoders.len() > 35, "{decoders:?}");
    let checks = std::fs::read_to_string(root("tests/fuzz-checks/src/check.rs")).unwrap();
    let inside: BTreeMap<&str, &str> = INSIDE.into_iter().collect();
    // Not in the middle of another name.
    let is_called = |text: &str, call: &str| {
        let mut before = text.match_indices(call).map(|(at, _)| text.get(..at).unwrap_or_default());
        before.any(|before| call.starts_with('.') || !before.ends_with(|c: char| c.is_alphanumeric() || c == '_'))
    };
    for (name, call) in &decoders {
        if let Some(caller) = inside.get(name.as_str()) {
            let (_, text) = sources().into_iter().find(|(path, _)| path.ends_with(caller)).expect("its source");
            assert!(is_called(&text, call), "{name} is not called in {caller} any more");
        } else {
            assert!(is_called(&checks, call) || NONE.contains(&name.as_str()), "{name} has no fuzz target");
        }
    }
    let exceptions = inside.keys().chain(&NONE).filter(|name| !decoders.contains_key(**name));
    assert_eq!(exceptions.collect::<Vec<_>>(), Vec::<&&str>::new(), "no such decoders");
}

#[test]
fn every_target_is_built_by_cargo_fuzz_and_has_a_corpus() {
    let manifest = std::fs::read_to_string(root("fuzz/Cargo.toml")).unwrap();
    for target in TARGETS {
        let name = target.name;
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in fuzz/Cargo.toml");
        let source = std::fs::read_to_string(root(&format!("fuzz/fuzz_targets/{name}.rs"))).unwrap();
        assert!(source.contains(&format!("envoyfs_fuzz_checks::{name}")), "{name}: {source}");
        let corpus = std::fs::read_dir(root(&format!("fuzz/corpus/{name}"))).map_or(0, Iterator::count);
        assert!(corpus > 0, "{name} has no corpus");
    }
    let written = std::fs::read_dir(root("fuzz/fuzz_targets")).unwrap().count();
    assert_eq!(written, TARGETS.len());
}
