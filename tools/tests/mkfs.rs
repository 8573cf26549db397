//! `mkfs.envoyfs` refuses what would lose data, says what to do, and changes nothing until every check has passed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

#[allow(dead_code, reason = "what other test files use of it")]
mod common;

use common::{Images, mkfs, noise, run, unchanged};

const SIZE: u64 = 128 << 20;

#[test]
fn a_new_image_is_created_preallocated_and_described() {
    use std::os::unix::fs::MetadataExt as _;
    let images = Images::new();
    let path = images.path("new.img");
    let answer =
        mkfs(&["--size", "128MiB", "--label", "forks", "--uuid", "11111111-2222-4333-8444-555555555555", &path]);
    assert_eq!(answer.code, 0, "{answer:?}");
    for part in ["image file created, 128 MiB", "forks", "11111111-2222-4333-8444-555555555555", "segments"] {
        assert!(answer.stdout.contains(part), "{part}: {answer:?}");
    }
    let metadata = std::fs::metadata(&path).unwrap();
    assert_eq!(metadata.len(), SIZE);
    assert!(metadata.blocks() * 512 >= SIZE, "only {} blocks are allocated", metadata.blocks());
}

#[test]
fn a_dry_run_shows_the_same_geometry_and_writes_nothing() {
    let images = Images::new();
    let path = images.path("planned.img");
    let planned = mkfs(&["--dry-run", "--json", "--size", "128MiB", &path]);
    assert_eq!(planned.code, 0, "{planned:?}");
    assert!(!std::path::Path::new(&path).exists());
    let made = mkfs(&["--json", "--size", "128MiB", &path]);
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let (planned, made) = (parse(&planned.stdout), parse(&made.stdout));
    for field in ["bytes", "ring", "system_areas", "segments", "segment_bytes", "segments_offset", "reserve_bytes"] {
        assert_eq!(planned[field], made[field], "{field}");
    }
    let again = unchanged(&path, || mkfs(&["--dry-run", "--force", &path]));
    assert_eq!(again.code, 0, "{again:?}");
}

#[test]
fn an_existing_store_needs_force() {
    let images = Images::new();
    let path = images.store("store.img");
    let answer = unchanged(&path, || mkfs(&[&path]));
    assert_eq!(answer.code, 1);
    assert!(answer.stderr.contains("envoyfs store") && answer.stderr.contains("--force"), "{answer:?}");
    assert_eq!(mkfs(&["--force", &path]).code, 0);
}

#[test]
fn every_other_file_system_needs_force() {
    let images = Images::new();
    let cases: [(&str, u64, &[u8]); 6] = [
        ("XFS", 0, b"XFSB"),
        ("Btrfs", 0x1_0040, b"_BHRfS_M"),
        ("swap", 4086, b"SWAPSPACE2"),
        ("LUKS", 0, b"LUKS\xba\xbe"),
        ("GPT", 512, b"EFI PART"),
        ("LVM", 512, b"LABELONE"),
    ];
    for (name, at, magic) in cases {
        let path = images.file(name, SIZE, at, magic);
        let answer = unchanged(&path, || mkfs(&[&path]));
        assert_eq!(answer.code, 1, "{name}: {answer:?}");
        assert!(answer.stderr.contains(name) && answer.stderr.contains("--force"), "{name}: {answer:?}");
    }
}

#[test]
fn a_real_ext4_image_is_refused_and_leaves_no_trace_when_forced() {
    let images = Images::new();
    let path = images.file("ext4.img", SIZE, 0, b"");
    if std::process::Command::new("mkfs.ext4").args(["-q", &path]).status().is_err() {
        return common::skip("mkfs: mkfs.ext4 is not installed");
    }
    let answer = unchanged(&path, || mkfs(&[&path]));
    assert_eq!(answer.code, 1);
    assert!(answer.stderr.contains("ext4"), "{answer:?}");
    let forced = mkfs(&["--force", &path]);
    assert!(forced.code == 0 && forced.stdout.contains("overwritten   ext2, ext3 or ext4"), "{forced:?}");
    let probed = run("blkid", &["-p", &path]);
    assert!(!probed.stdout.contains("ext4"), "{probed:?}");
}

#[test]
fn a_file_with_data_of_no_known_format_needs_force() {
    let images = Images::new();
    let path = images.file("letters.txt", SIZE, 1000, &noise(7, 5000));
    let answer = unchanged(&path, || mkfs(&[&path]));
    assert_eq!(answer.code, 1);
    assert!(answer.stderr.contains("not empty"), "{answer:?}");
}

#[test]
fn data_amid_a_file_whose_ends_are_empty_needs_force_too() {
    let images = Images::new();
    let path = images.file("wiped.img", SIZE, SIZE / 2 + 777, &noise(9, 5000));
    let answer = unchanged(&path, || mkfs(&["--size", "128MiB", &path]));
    assert!(answer.code == 1 && answer.stderr.contains("not empty"), "{answer:?}");
    // Zeros that were written are no data.
    std::fs::write(&path, vec![0; usize::try_from(SIZE).unwrap()]).unwrap();
    assert_eq!(mkfs(&[&path]).code, 0);
}

#[test]
fn an_image_is_not_cut_without_force() {
    let images = Images::new();
    let path = images.file("large.img", 2 * SIZE, 0, b"");
    let answer = unchanged(&path, || mkfs(&["--size", "128MiB", &path]));
    assert_eq!(answer.code, 1);
    assert!(answer.stderr.contains("256 MiB") && answer.stderr.contains("--force"), "{answer:?}");
}

#[test]
fn too_small_says_the_minimum_and_creates_nothing() {
    let images = Images::new();
    let path = images.path("small.img");
    let answer = mkfs(&["--size", "127MiB", &path]);
    assert_eq!(answer.code, 1);
    assert!(answer.stderr.contains("minimum is 128 MiB"), "{answer:?}");
    assert!(!std::path::Path::new(&path).exists());
}

#[test]
fn a_missing_path_asks_for_the_size() {
    let images = Images::new();
    let answer = mkfs(&[&images.path("none.img")]);
    assert!(answer.code == 1 && answer.stderr.contains("--size 2GiB"), "{answer:?}");
    let answer = mkfs(&["/dev/no-such-device"]);
    assert!(answer.code == 1 && answer.stderr.contains("lsblk"), "{answer:?}");
}

#[test]
fn wrong_options_are_usage_errors_and_change_nothing() {
    let images = Images::new();
    let path = images.store("store.img");
    for arguments in [&["--forse", &path][..], &["--size", "many", &path], &["--uuid", "7", &path], &[]] {
        let answer = unchanged(&path, || mkfs(arguments));
        assert_eq!(answer.code, 2, "{arguments:?}: {answer:?}");
    }
    let label = "x".repeat(65);
    let answer = unchanged(&path, || mkfs(&["--force", "--label", &label, &path]));
    assert!(answer.code == 2 && answer.stderr.contains("64"), "{answer:?}");
}

#[test]
fn a_link_to_nothing_is_told_before_anything_is_made() {
    let images = Images::new();
    let path = images.path("link.img");
    std::os::unix::fs::symlink(images.path("nothing"), &path).unwrap();
    let answer = mkfs(&["--size", "128MiB", &path]);
    assert!(answer.code == 1 && answer.stderr.contains("symbolic link to a file that does not exist"), "{answer:?}");
    assert!(std::fs::metadata(&path).is_err());
}

#[test]
fn the_device_of_the_root_file_system_is_refused_with_force_too() {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let source = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/"));
    let source = source.and_then(|line| line.split(" - ").nth(1)?.split(' ').nth(1)).unwrap_or("none").to_string();
    if !source.starts_with("/dev/") || !std::path::Path::new(&source).exists() {
        return common::cannot(format!("mkfs: the root file system is on {source}"));
    }
    // The dry run, in case the check should fail one day.
    let answer = mkfs(&["--force", "--dry-run", &source]);
    assert!(answer.code == 1 && answer.stderr.contains("is mounted at /"), "{answer:?}");
}

#[test]
fn an_image_in_use_by_another_process_is_refused() {
    let images = Images::new();
    let path = images.store("held.img");
    let held = std::fs::File::open(&path).unwrap();
    held.lock().unwrap();
    let answer = unchanged(&path, || mkfs(&["--force", &path]));
    assert!(answer.code == 1 && answer.stderr.contains("in use"), "{answer:?}");
}

#[test]
fn log_and_segment_sizes_are_taken_or_refused_before_anything_is_made() {
    let images = Images::new();
    let path = images.path("sized.img");
    let refused = [
        (&["--wal-size", "1MiB"][..], 1, "4 to 64 MiB"),
        (&["--wal-size", "100MiB"], 1, "4 to 64 MiB"),
        (&["--wal-size", "5000001"], 2, "multiple of 4 KiB"),
        (&["--segment-size", "3MiB"], 2, "1, 2, 4, 8 or 16 MiB"),
        (&["--segment-size", "512KiB"], 2, "1, 2, 4, 8 or 16 MiB"),
        (&["--segment-size", "16MiB", "--wal-size", "64MiB"], 1, "no room for files"),
        (&["--uuid", "00000000-0000-0000-0000-000000000000"], 2, "identity"),
    ];
    for (options, code, says) in refused {
        let answer = mkfs(&[options, &["--size", "128MiB", &path]].concat());
        assert!(answer.code == code && answer.stderr.contains(says), "{options:?}: {answer:?}");
        assert!(!std::path::Path::new(&path).exists(), "{options:?}");
    }
    let made = mkfs(&["--json", "--wal-size", "4MiB", "--segment-size", "2MiB", "--size", "128MiB", &path]);
    assert_eq!(made.code, 0, "{made:?}");
    let made: serde_json::Value = serde_json::from_str(&made.stdout).unwrap();
    assert_eq!((&made["ring"][1], &made["segment_bytes"]), (&(4 << 20).into(), &(2 << 20).into()));
    let answer = common::fsck(&["-fn", &path]);
    assert_eq!(answer.code, 0, "{answer:?}");
}

#[test]
fn an_image_of_another_directory_that_is_missing_or_full_is_not_made() {
    let images = Images::new();
    let answer = mkfs(&["--size", "128MiB", &images.path("no/such/directory.img")]);
    assert!(answer.code == 1 && answer.stderr.contains("no directory"), "{answer:?}");
    let answer = mkfs(&["--size", "900TiB", &images.path("huge.img")]);
    assert!(answer.code == 1 && answer.stderr.contains("free"), "{answer:?}");
}

#[test]
fn killed_at_any_moment_it_leaves_no_image_or_a_whole_one() {
    let images = Images::new();
    for delay_ms in [0_u32, 5, 10, 20, 40, 80, 160] {
        let path = images.path(&format!("killed-{delay_ms}.img"));
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_mkfs-envoyfs"))
            .args(["--quiet", "--size", "512MiB", "--wal-size", "128MiB", &path])
            .spawn()
            .unwrap();
        drop(common::run("sleep", &[&format!("0.{delay_ms:03}")]));
        child.kill().unwrap();
        child.wait().unwrap();
        if std::path::Path::new(&path).exists() {
            let answer = common::fsck(&["-fn", &path]);
            assert_eq!(answer.code, 0, "after {delay_ms} ms: {answer:?}");
        }
    }
}

#[test]
fn an_image_that_cannot_become_so_large_stays_as_it_is() {
    let images = Images::new();
    let store = images.store("store.img");
    let empty = images.file("zeros.img", SIZE, 0, b"");
    for (path, arguments) in [(&store, &["-f", "--size", "200TiB"][..]), (&empty, &["--size", "200TiB"])] {
        for dry in [&[][..], &["-n"]] {
            let arguments: Vec<&str> = dry.iter().chain(arguments).copied().chain([path.as_str()]).collect();
            let answer = unchanged(path, || mkfs(&arguments));
            assert!(answer.code == 1 && answer.stderr.contains("free, the image needs"), "{answer:?}");
        }
    }
}

/// As above, where what is free is told wrong: a limit of the process stands for a quota.
#[test]
fn what_cannot_be_allocated_does_not_cost_what_is_there() {
    let images = Images::new();
    let path = images.store("store.img");
    let program = env!("CARGO_BIN_EXE_mkfs-envoyfs");
    // In blocks of 512 or 1024 bytes, as the shell has it: more than what is there, less than what is asked for.
    let script = format!("trap '' XFSZ; ulimit -f 300000; exec {program} -f --size 512MiB {path}");
    let answer = unchanged(&path, || run("sh", &["-c", &script]));
    assert!(answer.code == 1 && answer.stderr.contains("nothing was changed"), "{answer:?}");
}

#[test]
fn an_image_on_the_systems_own_tmpfs_can_be_named_by_its_path() {
    let answer = mkfs(&["-n", "--size", "128MiB", &format!("/dev/shm/envoyfs-{}.img", std::process::id())]);
    assert_eq!(answer.code, 0, "{answer:?}");
    let answer = mkfs(&["-n", "--size", "128MiB", "/dev/no-such-disk"]);
    assert!(answer.code == 1 && answer.stderr.contains("there is no device"), "{answer:?}");
}

#[test]
fn requests_that_cannot_be_met_anywhere_are_usage_errors() {
    let images = Images::new();
    let path = images.path("none.img");
    let nil = "00000000-0000-0000-0000-000000000000";
    let cases = [
        ["--segment-size", "3MiB"],
        ["--wal-size", "1"],
        ["--label", "a\nb"],
        ["--label", "\u{1b}[31mred"],
        ["--uuid", nil],
        ["--uuid", "garbage"],
        ["--size", "-1"],
    ];
    for [option, value] in cases {
        let answer = mkfs(&["--size", "128MiB", option, value, &path]);
        assert_eq!(answer.code, 2, "{option} {value:?}: {answer:?}");
    }
    let answer = mkfs(&["--size", "1", &path]);
    assert!(answer.code == 1 && answer.stderr.contains("1 bytes is too small"), "{answer:?}");
}
