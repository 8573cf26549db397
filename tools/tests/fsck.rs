//! `fsck.envoyfs` on what is no store, on damaged stores, and on good ones; without -p and -y it never changes a byte, and it never panics.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

#[allow(dead_code, reason = "what other test files use of it")]
mod common;

use common::{Images, fsck, noise, unchanged};
use envoyfs_tools::fsck::findings;
use std::os::unix::fs::FileExt as _;

#[test]
fn a_fresh_store_is_clean() {
    let images = Images::new();
    let path = images.store("fresh.img");
    let answer = unchanged(&path, || fsck(&["-nf", &path]));
    assert_eq!(answer.code, 0, "{answer:?}");
    assert!(answer.stdout.ends_with("clean\n"), "{answer:?}");
}

#[test]
fn a_truncated_image_says_how_long_it_must_be() {
    let images = Images::new();
    let path = images.store("short.img");
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100 << 20).unwrap();
    let answer = unchanged(&path, || fsck(&["-nf", &path]));
    assert_eq!(answer.code, 8);
    assert!(answer.stdout.contains("F004") && answer.stdout.contains("134217728"), "{answer:?}");
}

#[test]
fn what_is_no_store_is_named() {
    let images = Images::new();
    let cases = [
        (images.file("random", 1 << 20, 0, &noise(3, 1 << 20)), "is not an envoyfs store"),
        (images.file("empty", 0, 0, b""), "is not an envoyfs store"),
        (images.file("xfs", 1 << 20, 0, b"XFSB"), "XFS"),
        (images.file("tiny", 511, 0, &noise(5, 511)), "is not an envoyfs store"),
    ];
    for (path, says) in cases {
        let answer = unchanged(&path, || fsck(&["-nf", &path]));
        assert_eq!(answer.code, 8, "{path}: {answer:?}");
        assert!(answer.stderr.contains(says), "{path}: {answer:?}");
    }
    let answer = fsck(&["-nf", &images.path("missing")]);
    assert!(answer.code == 8 && answer.stderr.contains("missing"), "{answer:?}");
    let answer = fsck(&["-nf", "/"]);
    assert!(answer.code == 8 && answer.stderr.contains("neither"), "{answer:?}");
}

#[test]
fn an_unmounted_store_is_not_checked_unless_forced() {
    let images = Images::new();
    let path = images.store("store.img");
    for flag in ["-n", "-p", "-a", "-y"] {
        let answer = unchanged(&path, || fsck(&[flag, "-C4", &path]));
        assert_eq!(answer.code, 0, "{flag}: {answer:?}");
        assert!(answer.stdout.contains("clean, unmounted") && answer.stdout.contains("fsck.envoyfs -f"), "{answer:?}");
    }
    for flag in ["-nf", "-pf", "-af", "-yf"] {
        let answer = unchanged(&path, || fsck(&[flag, &path]));
        assert_eq!(answer.code, 0, "{flag}: {answer:?}");
        assert!(answer.stdout.ends_with("clean\n"), "{answer:?}");
    }
}

#[test]
fn wrong_options_are_usage_errors() {
    let images = Images::new();
    let path = images.store("store.img");
    for arguments in [&["--fix", &path][..], &["-n", "-y", &path], &[]] {
        assert_eq!(unchanged(&path, || fsck(arguments)).code, 16, "{arguments:?}");
    }
    assert_eq!(fsck(&["--help"]).code, 0);
}

#[test]
fn a_store_in_use_is_refused() {
    let images = Images::new();
    let path = images.store("held.img");
    let held = std::fs::File::open(&path).unwrap();
    held.lock().unwrap();
    let answer = fsck(&["-nf", &path]);
    assert!(answer.code == 8 && answer.stderr.contains("unmount it first"), "{answer:?}");
}

#[test]
fn one_bad_superblock_is_a_warning_and_four_are_fatal() {
    let images = Images::new();
    let path = images.store("store.img");
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let size = file.metadata().unwrap().len();
    file.write_all_at(&[0xff; 16], 100).unwrap();
    let answer = unchanged(&path, || fsck(&["-nf", &path]));
    assert_eq!(answer.code, 4, "{answer:?}");
    assert!(answer.stdout.contains("F002: superblock 0 at 0"), "{answer:?}");
    for position in [4096, size - 8192, size - 4096] {
        file.write_all_at(&[0xff; 16], position + 100).unwrap();
    }
    let answer = unchanged(&path, || fsck(&["-nf", &path]));
    assert_eq!(answer.code, 8, "{answer:?}");
    assert!(answer.stdout.contains("F001"), "{answer:?}");
}

#[test]
fn damaged_volume_directories_are_found() {
    let images = Images::new();
    let path = images.store("store.img");
    let report = fsck(&["-f", "--json", &path]);
    assert_eq!(report.code, 0, "{report:?}");
    let mut bytes = vec![0; 4096];
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    file.read_exact_at(&mut bytes, 0).unwrap();
    let superblock = envoyfs_layout::superblock::Superblock::decode(&bytes, 0).unwrap();
    let [first, second] = superblock.slot_positions();
    file.write_all_at(&[0xA5], first + 100).unwrap();
    let answer = unchanged(&path, || fsck(&["-nf", &path]));
    assert_eq!(answer.code, 4, "{answer:?}");
    assert!(answer.stdout.contains("F101"), "{answer:?}");
    file.write_all_at(&[0xA5], second + 100).unwrap();
    let answer = unchanged(&path, || fsck(&["-nf", &path]));
    assert_eq!(answer.code, 8, "{answer:?}");
    assert!(answer.stdout.contains("F100"), "{answer:?}");
}

#[test]
fn noise_anywhere_in_the_metadata_never_panics() {
    let images = Images::new();
    let path = images.store("store.img");
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    for round in 0..24_u64 {
        let position = noise(round + 1, 4).iter().fold(0, |at, byte| (at << 8 | u64::from(*byte)) % (120 << 20));
        file.write_all_at(&noise(round + 100, 3000), position).unwrap();
        let answer = fsck(&["-nf", &path]);
        assert!([0, 4, 8].contains(&answer.code), "round {round} at {position}: {answer:?}");
        let answer = fsck(&["-y", &path]);
        assert!([0, 1, 4, 5, 8].contains(&answer.code), "round {round} at {position}: {answer:?}");
    }
}

#[test]
fn the_manual_page_lists_every_finding() {
    let manual = include_str!("../../docs/man/fsck.envoyfs.8.md");
    for kind in findings::ALL {
        let severity = kind.severity;
        let row = format!("| F{:03} | {severity} | {} | {} | {} |", kind.number, kind.what, kind.by, kind.repair);
        assert!(manual.contains(&row), "docs/man/fsck.envoyfs.8.md has no row:\n{row}");
    }
    let rows = manual.lines().filter(|line| line.starts_with("| F")).count();
    assert_eq!(rows, findings::ALL.len(), "the manual page has rows that the register has not");
}

/// Zeroes all superblocks.
fn without_superblocks(path: &str) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let size = file.metadata().unwrap().len();
    for position in [0, 4096, size - 8192, size - 4096] {
        file.write_all_at(&[0; 4096], position).unwrap();
    }
}

/// A store with a segment in it: made, and repaired from something, which writes pages.
fn used(images: &Images, name: &str) -> String {
    let path = images.store(name);
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut bytes = vec![0; 4096];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let superblock = envoyfs_layout::superblock::Superblock::decode(&bytes, 0).unwrap();
    let header = envoyfs_layout::segment::SegmentHeader {
        seed: superblock.seed,
        volume: 1,
        segment: 1,
        container: 0,
        stream: 0,
        flags: 0,
        birth_low: envoyfs_layout::Hlc::ZERO,
        opening: 1,
    };
    file.write_all_at(&header.encode(superblock.segments_offset), superblock.segments_offset).unwrap();
    path
}

#[test]
fn a_store_without_superblocks_is_sent_to_a_rebuild_and_nothing_else_to_mkfs() {
    let images = Images::new();
    let path = used(&images, "lost.img");
    without_superblocks(&path);
    for flag in ["-nf", "-p", "-y"] {
        let answer = unchanged(&path, || fsck(&[flag, &path]));
        assert_eq!(answer.code, 8, "{answer:?}");
        assert!(answer.stdout.contains("F001") && answer.stdout.contains("--rebuild"), "{answer:?}");
    }
    let answer = fsck(&["-n", &images.file("random", 1 << 20, 0, &noise(3, 1 << 20))]);
    assert!(answer.code == 8 && !answer.stderr.contains("mkfs"), "{answer:?}");
}

#[test]
fn a_rebuild_of_a_truncated_image_is_refused_as_a_check_is() {
    let images = Images::new();
    let path = images.store("short.img");
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100 << 20).unwrap();
    let answer = unchanged(&path, || fsck(&["--rebuild", &path]));
    assert!(answer.code == 8 && answer.stderr.contains("is truncated"), "{answer:?}");
    let answer = fsck(&["-n", "--json", &path]);
    let report: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap();
    assert!(answer.code == 8 && report["uuid"].as_str().unwrap().len() == 36, "whose it is can be read: {answer:?}");
}

#[test]
fn progress_goes_to_whom_it_was_asked_for() {
    let images = Images::new();
    let path = images.store("store.img");
    for arguments in
        [&["-fnC", &path][..], &["-fn", "-C", "0", &path], &["-fnC2", &path], &["-v", "-f", "-f", "-C2", &path]]
    {
        let answer = fsck(arguments);
        assert_eq!(answer.code, 0, "{arguments:?}: {answer:?}");
        let lines: Vec<&str> = answer.stderr.lines().collect();
        let is_progress = |line: &&str| line.split(' ').filter(|word| word.parse::<u64>().is_ok()).count() == 3;
        assert!(!lines.is_empty() && lines.iter().all(is_progress), "{arguments:?}: {answer:?}");
    }
    let answer = fsck(&["-fn", &path]);
    assert!(answer.code == 0 && answer.stderr.is_empty(), "{answer:?}");
}

#[test]
fn what_cannot_be_printed_is_an_error_and_no_panic() {
    let images = Images::new();
    let path = images.store("store.img");
    let program = env!("CARGO_BIN_EXE_fsck-envoyfs");
    let shell = |script: String| common::run("sh", &["-c", &script]);
    let answer = shell(format!("{program} -fn {path} > /dev/full"));
    assert!(answer.code == 8 && answer.stderr.contains("cannot be printed"), "{answer:?}");
    let answer = shell(format!("{{ {program} -fn {path}; echo $? >&2; }} | true"));
    assert_eq!(answer.stderr, "0\n", "{answer:?}");
    let mkfs = env!("CARGO_BIN_EXE_mkfs-envoyfs");
    let answer = shell(format!("{mkfs} -n -f {path} > /dev/full"));
    assert!(answer.code == 1 && answer.stderr.contains("nothing was made"), "{answer:?}");
}

/// A check that waits for somebody to read its progress.
fn stuck(path: &str, options: &[&str]) -> (std::process::Child, std::io::PipeReader) {
    use std::io::Write as _;
    let (reader, writer) = std::io::pipe().unwrap();
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).unwrap();
    while (&writer).write(&[b'\n'; 4096]).is_ok() {}
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::empty()).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fsck-envoyfs"));
    command.args(options).args(["-fnC", path]);
    (command.stdout(std::process::Stdio::piped()).stderr(writer).spawn().unwrap(), reader)
}

/// Until it has so many threads of this name.
fn wait_for(child: &std::process::Child, name: &str, count: usize) {
    for _ in 0..1000 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap().flatten();
        let is_it = |comm: String| comm.trim_end() == name;
        let found = tasks.filter(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(is_it)).count();
        if found == count {
            return;
        }
        drop(common::run("sleep", &["0.01"]));
    }
    panic!("the signal was not taken");
}

#[test]
fn a_second_signal_ends_a_check_that_does_not_stop_at_the_first() {
    let images = Images::new();
    let path = images.store("store.img");
    let (mut child, _reader) = stuck(&path, &[]);
    for thread in ["fsck-signals", "fsck-signal-two"] {
        wait_for(&child, thread, 1);
        assert!(child.try_wait().unwrap().is_none(), "it is stuck");
        assert_eq!(common::run("kill", &["-INT", &child.id().to_string()]).code, 0);
    }
    for _ in 0..1000 {
        if let Some(status) = child.try_wait().unwrap() {
            return assert_eq!(status.code(), Some(32));
        }
        drop(common::run("sleep", &["0.01"]));
    }
    child.kill().unwrap();
    panic!("it goes on");
}

/// The check waits for a reader of its progress, whose pipe is full, until the signal is taken: it comes in the middle, however fast the machine is.
#[test]
fn an_interrupted_check_never_says_clean() {
    use std::io::Read as _;
    let images = Images::new();
    let path = images.store("store.img");
    for json in [&[][..], &["--json"]] {
        let (child, mut reader) = stuck(&path, json);
        // The thread that waits for signals is there, takes one, and has gone when the wish to stop is known.
        wait_for(&child, "fsck-signals", 1);
        assert_eq!(common::run("kill", &["-INT", &child.id().to_string()]).code, 0);
        wait_for(&child, "fsck-signals", 0);
        let drain = move || {
            let mut said = String::new();
            reader.read_to_string(&mut said).unwrap();
            said
        };
        let drained = std::thread::Builder::new().spawn(drain).unwrap();
        let output = child.wait_with_output().unwrap();
        let (said, found) = (drained.join().unwrap(), String::from_utf8(output.stdout).unwrap());
        assert_eq!(output.status.code(), Some(32), "{found} {said:?}");
        assert!(said.contains("the check is not complete"), "{said:?}");
        if json.is_empty() {
            assert!(!found.contains("clean") && found.contains("not complete"), "{found}");
        } else {
            let report: serde_json::Value = serde_json::from_str(&found).unwrap();
            assert_eq!((&report["clean"], &report["interrupted"]), (&false.into(), &true.into()), "{found}");
            assert_eq!(report["exit_status"], 32, "{found}");
        }
    }
}

#[test]
fn errors_are_json_too_if_that_was_asked_for() {
    let images = Images::new();
    let answer = fsck(&["-n", "--json", &images.path("missing")]);
    let json: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap();
    assert!(answer.code == 8 && json["exit_status"] == 8 && json["error"].as_str().unwrap().contains("missing"));
    let (mkfs, envoyfs) = (env!("CARGO_BIN_EXE_mkfs-envoyfs"), env!("CARGO_BIN_EXE_envoyfs"));
    let missing = images.path("missing");
    for (program, arguments, code) in [
        (mkfs, &["--json", &missing][..], 1),
        (mkfs, &["--json", "--label", "a\nb", &missing], 2),
        (mkfs, &["--json", "--forse", &missing], 2),
        (env!("CARGO_BIN_EXE_fsck-envoyfs"), &["--json", "-n", "-y", &missing], 16),
        (envoyfs, &["inspect", "--json", &missing], 1),
        (envoyfs, &["inspect", &images.store("store.img"), "object", "1:1:8", "--json"], 1),
        (envoyfs, &["inspect", &missing, "object", "nonsense", "--json"], 2),
    ] {
        let answer = common::run(program, arguments);
        let json: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap_or_else(|_| panic!("{answer:?}"));
        assert!(answer.code == code && json["exit_status"] == code, "{arguments:?}: {answer:?}");
        let error = json["error"].as_str().unwrap();
        assert!(!error.is_empty() && answer.stderr.contains(error), "{arguments:?}: {answer:?}");
    }
}

#[test]
fn a_rebuild_makes_the_blocks_that_the_device_takes_or_that_the_log_has() {
    // The system's own tmpfs takes blocks of 4096.
    let path = format!("/dev/shm/envoyfs-rebuild-{}.img", std::process::id());
    let made = common::mkfs(&["--size", "128MiB", &path]);
    assert_eq!(made.code, 0, "{made:?}");
    let device = envoyfs_engine::device::UringDevice::open(&path, envoyfs_engine::device::OpenMode::ReadWrite, true);
    let block = envoyfs_engine::device::Device::geometry(device.as_ref().unwrap()).logical_block_bytes;
    let clock = std::sync::Arc::new(envoyfs_engine::hlc::SystemClock::new());
    let options = envoyfs_engine::Options { clock, ..Default::default() };
    let engine = std::sync::Arc::new(
        envoyfs_engine::Engine::open_for(
            envoyfs_layout::ClientTag::FILES,
            std::sync::Arc::new(device.unwrap()),
            options,
        )
        .unwrap(),
    );
    let options =
        envoyfs_namespace::Options { node_cache_bytes: 8 << 20, threads: false, read_only: false, seed: [7; 16] };
    let namespace = envoyfs_namespace::Namespace::open(engine.clone(), options).unwrap();
    namespace.checkpoint().unwrap();
    namespace.close().unwrap();
    drop(namespace);
    engine.close().unwrap();
    drop(engine);
    without_superblocks(&path);
    let answer = fsck(&["--rebuild", &path]);
    let mut bytes = vec![0; 4096];
    std::fs::File::open(&path).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    let superblock = envoyfs_layout::superblock::Superblock::decode(&bytes, 0).unwrap();
    let second = fsck(&["-fn", &path]);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(superblock.logical_block, block);
    // What was done is told.
    assert_eq!(answer.code, 1, "{answer:?}");
    for part in ["repaired fatal F001", "repaired warning F010", "label and identity"] {
        assert!(answer.stdout.contains(part), "{part}: {answer:?}");
    }
    assert!(second.code == 0 && !second.stdout.contains("F0"), "{second:?}");
}
