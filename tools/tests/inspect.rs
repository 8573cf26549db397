//! `envoyfs inspect` shows what is there, also of a damaged or mounted store, and never writes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

#[allow(dead_code, reason = "what other test files use of it")]
mod common;

use common::mounted::{Bench, envoyfs};
use common::{Answer, Images, noise, unchanged};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};

fn inspect(path: &str, what: &[&str]) -> Answer {
    envoyfs(&[&["inspect", path], what].concat())
}

fn json(path: &str, what: &[&str]) -> Value {
    let answer = inspect(path, &[what, &["--json"]].concat());
    assert_eq!(answer.code, 0, "{what:?}: {answer:?}");
    serde_json::from_str(&answer.stdout).unwrap_or_else(|error| panic!("{what:?}: {error}: {answer:?}"))
}

fn text(path: &str, what: &[&str]) -> String {
    let answer = inspect(path, what);
    assert_eq!(answer.code, 0, "{what:?}: {answer:?}");
    answer.stdout
}

/// Names of the fields, in order.
fn fields(value: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

/// A mounted store with a directory, its fork (changed since, so that both have a node that refers to the large file) and a snapshot.
fn populated(test: &str) -> Option<Bench> {
    let bench = Bench::new(test)?;
    std::fs::create_dir(bench.path("a")).unwrap();
    std::fs::write(bench.path("a/large"), noise(3, 3 << 20)).unwrap();
    std::fs::write(bench.path("a/small"), "hello").unwrap();
    std::fs::hard_link(bench.path("a/small"), bench.path("another")).unwrap();
    let at = |name: &str| bench.path(name).to_str().unwrap().to_string();
    assert_eq!(envoyfs(&["fork", &at("a"), &at("b")]).code, 0);
    std::fs::write(bench.path("b/new"), noise(4, 10_000)).unwrap();
    assert_eq!(envoyfs(&["snapshot", &at("a"), "before"]).code, 0);
    bench.remount();
    Some(bench)
}

fn oid_of<'a>(graph: &'a Value, name: &str) -> &'a str {
    let edges = graph["edges"].as_array().unwrap();
    let edge = edges.iter().find(|edge| edge["names"].as_array().unwrap().iter().any(|found| found == name));
    edge.unwrap_or_else(|| panic!("{name}: {graph}"))["to"].as_str().unwrap()
}

#[test]
fn every_view_of_a_fresh_store_works_and_changes_nothing() {
    let images = Images::new();
    let path = images.store("fresh.img");
    unchanged(&path, || {
        assert!(text(&path, &[]).contains("sequence 1 is the highest that two copies hold (4 do)"));
        for what in [&["superblock"][..], &["log"], &["log", "--blocks"], &["roots"], &["graph"], &["container", "0"]] {
            text(&path, what);
        }
        for what in [&["segment", "7"][..], &["container", "4000000"], &["object", "1:1:8"]] {
            let answer = inspect(&path, what);
            assert!(answer.code == 1 && answer.stderr.starts_with("envoyfs: "), "{what:?}: {answer:?}");
        }
        assert_eq!(inspect(&path, &["object", "nonsense"]).code, 2);
    });
    let answer = inspect(&images.file("empty", 0, 0, b""), &[]);
    assert!(answer.code == 1 && answer.stderr.contains("is not an envoyfs store (it has 0 bytes)"), "{answer:?}");
    let answer = inspect(&images.file("xfs", 1 << 20, 0, b"XFSB"), &[]);
    assert!(answer.code == 1 && answer.stderr.contains("it holds: XFS file system"), "{answer:?}");
}

#[test]
fn names_of_json_fields_do_not_change() {
    let images = Images::new();
    let path = images.store("fresh.img");
    let superblock = json(&path, &["superblock"]);
    let expected = [
        "area_a_offset",
        "area_b_offset",
        "area_slot_bytes",
        "barrier",
        "compatible_features",
        "containers",
        "copies",
        "device_bytes",
        "directory_copies",
        "directory_slot",
        "formatted",
        "hlc_bound",
        "identity",
        "incompatible_features",
        "label",
        "logical_block_bytes",
        "read_only_features",
        "ring_bytes",
        "ring_offset",
        "rule",
        "seed",
        "segment_bytes",
        "segments_offset",
        "size_bytes",
        "table_copies",
        "volume",
        "write_cache_at_format",
    ];
    assert_eq!(fields(&superblock), expected);
    let barrier = superblock["barrier"].as_str().unwrap();
    assert!(["flush", "durable writes", "write-through"].contains(&barrier), "{barrier}");
    assert_eq!(superblock["write_cache_at_format"], Value::Null, "the system says nothing of image files");
    assert!(text(&path, &[]).lines().any(|line| line.contains("barrier") && line.ends_with(barrier)));
    assert_eq!(superblock["size_bytes"], 128 << 20);
    assert_eq!(fields(&superblock["copies"][0]), ["copy", "offset", "sequence", "state"]);
    let container = json(&path, &["container", "0"]);
    assert_eq!((&container["state"], &container["segment"]), (&"free".into(), &Value::Null));
    assert_eq!((&container["header"], &container["footer"]), (&Value::Null, &Value::Null), "never used, not damaged");
}

/// A snapshot's root is nearer to the roots than the directory that it was made of, and is met later.
fn every_node_is_followed_as_deep_as_it_is_told(store: &str) {
    let edges = |depth: usize| {
        let graph = json(store, &["graph", "--depth", &depth.to_string()]);
        let objects = graph["objects"].as_array().unwrap();
        let oids: BTreeSet<&str> = objects.iter().map(|object| object["oid"].as_str().unwrap()).collect();
        assert_eq!(oids.len(), objects.len(), "an object is listed once");
        let edges = graph["edges"].as_array().unwrap().iter();
        let edges =
            edges.map(|edge| (edge["from"].as_str().map(String::from), edge["to"].as_str().unwrap().to_string()));
        edges.collect::<BTreeSet<(Option<String>, String)>>()
    };
    let all = edges(20);
    let mut near: BTreeMap<String, usize> = BTreeMap::new();
    for depth in 0..20 {
        let from_near =
            |from: &Option<String>| from.as_ref().map_or(depth == 0, |from| near.get(from) == Some(&(depth - 1)));
        let new: Vec<String> = all
            .iter()
            .filter(|(from, _)| (depth > 0 || from.is_none()) && from_near(from))
            .map(|(_, to)| to.clone())
            .collect();
        for to in new {
            near.entry(to).or_insert(depth);
        }
    }
    for depth in 1..8 {
        let shown = edges(depth);
        let wanted = all.iter().filter(|(from, _)| from.as_ref().is_none_or(|from| near[from] < depth));
        wanted.for_each(|edge| assert!(shown.contains(edge), "depth {depth}: {edge:?}"));
    }
}

#[test]
fn a_mounted_store_is_shown_from_roots_to_data_and_back() {
    let Some(bench) = populated("a_mounted_store_is_shown") else { return };
    let store = bench.store.as_str();
    let graph = json(store, &["graph", "--depth", "9"]);
    let large = oid_of(&graph, "large");
    let node = json(store, &["object", large]);
    assert_eq!((&node["kind"], &node["node"]["tree"]), (&"node".into(), &"extents".into()));
    let mut extent = node["node"]["references"][0].clone();
    while extent["kind"] == "node" {
        let below = json(store, &["object", extent["oid"].as_str().unwrap()]);
        extent = below["node"]["references"][0].clone();
    }
    let extent = extent["oid"].as_str().unwrap();
    let data = text(store, &["object", extent]);
    let first: Vec<String> = noise(3, 16).iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(data.contains(&format!("00000000  {}", first.join(" "))), "{}", &data[..600]);

    // Two nodes refer to the shared file's tree: those of a (with its snapshot) and of b.
    let referrers = json(store, &["graph", large, "--referrers"]);
    assert_eq!(referrers["count"], 2, "{referrers}");
    assert_eq!(referrers["referrers"].as_array().unwrap().len(), 2);
    assert_eq!(referrers["referrers"][0]["names"][0], "large");

    let where_is = json(store, &["reference", extent]);
    let container = where_is["places"][0]["container"].to_string();
    let objects = json(store, &["container", &container]);
    for number in 0..12 {
        let shown = text(store, &["container", &number.to_string()]);
        assert!(!shown.contains("BAD"), "of a whole store: {shown}");
    }
    assert!(objects["objects"].as_array().unwrap().iter().any(|row| row["oid"] == extent), "{objects}");
    let segment = json(store, &["segment", &where_is["segment"].to_string()]);
    assert_eq!(segment["home_container"].to_string(), container);
    assert!(segment["liveness"].as_str().unwrap().contains('#'));

    every_node_is_followed_as_deep_as_it_is_told(store);
    let dot = text(store, &["graph", "--dot", "--depth", "3"]);
    assert!(dot.starts_with("digraph envoyfs {") && dot.ends_with("}\n") && dot.contains("[label=\"a\"]"));
    let shown = text(store, &["graph", "--depth", "9"]);
    assert!(shown.contains("(shown above)") && shown.contains("2 references"), "{shown}");
    let roots = json(store, &["roots"]);
    assert_eq!(roots["copies"].as_array().unwrap().len(), 2);
    bench.end();
}

/// What was written at once, piece by piece, is one object to whoever refers to it; and what was written at once may be several.
#[test]
fn file_data_is_shown_as_it_is_referred_to() {
    let Some(bench) = populated("file_data_is_shown") else { return };
    let store = bench.store.as_str();
    let graph = json(store, &["graph", "--depth", "9"]);
    let mut contents = noise(3, 3 << 20);
    let below = |oid: &str| json(store, &["object", oid])["node"]["references"].as_array().unwrap().clone();
    let mut references = below(oid_of(&graph, "large"));
    let mut found = 0;
    while let Some(reference) = references.pop() {
        if reference["kind"] == "node" {
            references.extend(below(reference["oid"].as_str().unwrap()));
            continue;
        }
        assert_eq!((&reference["kind"], &reference["crc"]), (&"extent".into(), &Value::Null));
        let (oid, bytes) = (reference["oid"].as_str().unwrap(), reference["stored_bytes"].as_u64().unwrap());
        let shown = json(store, &["object", oid]);
        assert_eq!((&shown["stored_bytes"], &shown["birth"]), (&bytes.into(), &reference["birth"]), "{oid}");
        assert_eq!(shown["checksum"], format!("{bytes} of {bytes} bytes verify"), "{oid}");
        let raw = Command::new(env!("CARGO_BIN_EXE_envoyfs")).args(["inspect", store, "object", oid, "--raw"]).output();
        let raw = raw.unwrap().stdout;
        assert_eq!(raw.len() as u64, bytes);
        let at = contents.windows(raw.len()).position(|part| part == raw);
        let at = at.unwrap_or_else(|| panic!("{oid} holds no part of the file"));
        contents[at..at + raw.len()].fill(0);
        found += raw.len();
        // A place in it is no object of its own.
        let inside =
            oid.rsplit_once(':').map(|(head, slot)| format!("{head}:{:x}", u16::from_str_radix(slot, 16).unwrap() + 1));
        for view in ["object", "reference"] {
            let answer = inspect(store, &[view, inside.as_deref().unwrap()]);
            assert!(answer.code == 1 && answer.stderr.contains(&format!("lies in {oid}, at byte 512")), "{answer:?}");
        }
    }
    assert_eq!(found, 3 << 20);

    // In the log only, and by another writer of the same file: an object that the checkpoint does not know.
    std::fs::write(bench.path("logged"), noise(5, 300_000)).unwrap();
    std::fs::File::open(bench.path("logged")).unwrap().sync_all().unwrap();
    let log = text(store, &["log", "--json"]);
    let records = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let data: Vec<Value> = records.filter_map(|record| record["data"].as_array().cloned()).flatten().collect();
    let first = data.iter().find(|object| object["extends"].is_null()).unwrap()["oid"].as_str().unwrap();
    let whole = json(store, &["object", first]);
    assert_eq!(whole["known_from"], "log");
    let named: u64 = data.iter().map(|object| object["stored_bytes"].as_u64().unwrap()).sum();
    let length = whole["stored_bytes"].as_u64().unwrap();
    assert!(length <= named && (length == named || data.iter().filter(|o| o["extends"].is_null()).count() > 1));

    let (head, tail) = first.split_once(':').unwrap();
    let other = format!("{:x}:{tail}", u16::from_str_radix(head, 16).unwrap() ^ 1);
    for view in ["object", "reference"] {
        let answer = inspect(store, &[view, &other]);
        assert!(answer.code == 1 && answer.stderr.contains(&format!("this store holds volume {head}")), "{answer:?}");
    }
    let segment = whole["segment"].as_u64().unwrap();
    bench.remount();
    let (decimal, hex) = (segment.to_string(), format!("0x{segment:x}"));
    assert_eq!(json(store, &["segment", &decimal]), json(store, &["segment", &hex]));
    bench.end();
}

#[test]
fn records_are_decoded_and_followed_while_they_are_written() {
    let Some(bench) = populated("records_are_decoded_and_followed") else { return };
    let mut child = Command::new(env!("CARGO_BIN_EXE_envoyfs"))
        .args(["inspect", &bench.store, "log", "--follow", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let head: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(head["type"], "log");
    // Also over a checkpoint: what is followed goes on in the ring.
    for name in ["first file", "second"] {
        std::fs::write(bench.path(name), "x").unwrap();
        std::fs::File::open(bench.path(name)).unwrap().sync_all().unwrap();
        let found = lines.by_ref().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        let created = found.take(10_000).find(|line| line["name"] == "CREATE" && line["body"]["name"] == name);
        let created = created.unwrap_or_else(|| panic!("{name} is not followed"));
        assert!(created["lsn"].as_u64().unwrap() < created["end_lsn"].as_u64().unwrap());
        bench.remount();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    bench.end();
}

#[test]
fn damage_is_told_and_the_rest_is_shown() {
    let images = Images::new();
    let path = images.store("damaged.img");
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let size = file.metadata().unwrap().len();
    file.write_all_at(&[0xff], 100).unwrap();
    let answer = inspect(&path, &["superblock"]);
    assert!(answer.code == 0 && answer.stderr.contains("superblock at 0: superblock: checksum"), "{answer:?}");
    assert!(answer.stdout.contains("(3 do)"), "{answer:?}");

    let superblock = json(&path, &["superblock"]);
    let directory = superblock["directory_copies"][0]["offset"].as_u64().unwrap();
    file.write_all_at(&[1], directory + 1000).unwrap();
    let answer = inspect(&path, &["log"]);
    assert!(answer.code == 0 && answer.stderr.contains(&format!("volume directory at {directory}")), "{answer:?}");
    let second = superblock["directory_copies"][1]["offset"].as_u64().unwrap();
    file.write_all_at(&[1], second + 1000).unwrap();
    assert_eq!(inspect(&path, &["superblock"]).code, 0);
    let answer = inspect(&path, &["roots"]);
    assert!(answer.code == 1 && answer.stderr.contains("no copy of the volume directory is whole"), "{answer:?}");

    for position in [4096, size - 8192, size - 4096] {
        file.write_all_at(&[0xff], position + 100).unwrap();
    }
    let answer = inspect(&path, &["superblock"]);
    assert!(answer.code == 0 && answer.stdout.contains("no copy is whole"), "{answer:?}");
    assert_eq!(inspect(&path, &["graph"]).code, 1);
}

#[test]
fn a_damaged_node_is_told_by_every_view_that_meets_it() {
    let Some(bench) = populated("a_damaged_node_is_told") else { return };
    bench.umount();
    let store = bench.store.as_str();
    let graph = json(store, &["graph", "--depth", "9"]);
    let large = oid_of(&graph, "large").to_string();
    let at = json(store, &["reference", &large])["places"][0]["device_offset"].as_u64().unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(store).unwrap();
    file.write_all_at(&[0xff; 4], at + 70).unwrap();
    let answer = inspect(store, &["object", &large]);
    assert!(answer.code == 0 && answer.stderr.contains("checksum") && answer.stderr.contains("expected"), "{answer:?}");
    let answer = inspect(store, &["graph", "--depth", "9"]);
    assert!(answer.code == 0 && answer.stderr.contains(&format!("node {large}: checksum")), "{answer:?}");
    assert!(answer.stdout.contains("  new\n"), "the rest is not shown: {answer:?}");
}

#[test]
fn noise_anywhere_never_panics() {
    let Some(bench) = populated("noise_anywhere_never_panics") else { return };
    let graph = json(&bench.store, &["graph", "--depth", "9"]);
    let large = oid_of(&graph, "large").to_string();
    bench.umount();
    let file = std::fs::OpenOptions::new().write(true).open(&bench.store).unwrap();
    let views: [&[&str]; 8] = [
        &["superblock"],
        &["log", "--blocks"],
        &["roots"],
        &["graph", "--depth", "20"],
        &["segment", "1"],
        &["container", "1"],
        &["object", &large],
        &["graph", &large, "--referrers"],
    ];
    let mut seed = 11_u64;
    for round in 0..12_usize {
        seed = noise(seed, 8).iter().fold(0, |all, byte| all << 8 | u64::from(*byte)) | 1;
        // Mostly where metadata is: the start of the device, and the first containers.
        let position = seed % (16 << 20);
        file.write_all_at(&noise(seed, 600), position).unwrap();
        let answer = inspect(&bench.store, views[round % views.len()]);
        assert!([0, 1].contains(&answer.code), "round {round} at {position}: {answer:?}");
        assert!(!answer.stderr.contains("panicked"), "round {round} at {position}: {answer:?}");
    }
}

#[test]
fn formats_that_exclude_each_other_are_refused() {
    let images = Images::new();
    let path = images.store("store.img");
    for view in [&["graph", "--dot"][..], &["object", "1:1:8", "--raw"]] {
        let arguments = [&["inspect", &path, "--json"][..], view].concat();
        let answer = common::run(env!("CARGO_BIN_EXE_envoyfs"), &arguments);
        assert!(answer.code == 1 && answer.stderr.contains("choose one"), "{answer:?}");
    }
}
