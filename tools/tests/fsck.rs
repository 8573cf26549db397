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
