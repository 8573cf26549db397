//! `envoyfs up`: one command to a mounted store; and what the offline tools say about it while it is mounted.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed step of a test stops it")]

#[allow(dead_code, reason = "what other test files use of it")]
mod common;

use common::{Answer, Images, fsck, mkfs, run, unchanged};

fn envoyfs(arguments: &[&str]) -> Answer {
    run(env!("CARGO_BIN_EXE_envoyfs"), arguments)
}

/// Unmounts, also when the test fails.
struct Mounted<'a>(&'a str);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if envoyfs(&["umount", self.0]).code != 0 {
            run("umount", &["-l", self.0]);
        }
    }
}

fn can_mount() -> bool {
    let can = rustix::process::geteuid().is_root() && std::fs::File::open("/dev/fuse").is_ok();
    if !can {
        common::skip("envoyfs up: needs root and /dev/fuse");
    }
    can
}

#[test]
fn one_command_makes_mounts_and_demonstrates() {
    if !can_mount() {
        return;
    }
    let images = Images::new();
    let (image, directory, tree) = (images.path("up.img"), images.path("mounted"), images.path("tree"));
    std::fs::create_dir_all(format!("{tree}/a/b")).unwrap();
    for number in 0..20 {
        std::fs::write(format!("{tree}/a/b/{number}"), vec![7; number * 1000]).unwrap();
    }
    let up = ["up", &image, &directory, "--size", "128MiB", "--demo", "--demo-source", &tree];
    let answer = envoyfs(&up);
    let mounted = Mounted(&directory);
    assert_eq!(answer.code, 0, "{answer:?}");
    for part in ["is mounted on", "forked it", "all 20 files are the same", "2 differ, as they should", "umount"] {
        assert!(answer.stdout.contains(part), "{part}: {answer:?}");
    }

    let again = envoyfs(&["up", &image, &directory]);
    assert!(again.code == 0 && again.stdout.contains("already"), "{again:?}");
    let refused = mkfs(&["--force", &image]);
    assert!(refused.code == 1 && refused.stderr.contains("is mounted at"), "{refused:?}");
    let refused = fsck(&["-fn", &image]);
    assert!(refused.code == 8 && refused.stderr.contains("unmount it first"), "{refused:?}");

    drop(mounted);
    let clean = unchanged(&image, || fsck(&["-fn", &image]));
    assert!(clean.code == 0 && clean.stdout.contains("(1 snapshot)"), "{clean:?}");
}

#[test]
fn an_image_that_is_no_store_is_refused_and_left_alone() {
    let images = Images::new();
    let image = images.file("xfs.img", 128 << 20, 0, b"XFSB");
    let directory = images.path("mounted");
    let answer = unchanged(&image, || envoyfs(&["up", &image, &directory]));
    assert_eq!(answer.code, 1, "{answer:?}");
    assert!(answer.stderr.contains("XFS"), "{answer:?}");
    assert!(!std::path::Path::new(&directory).exists());
}

#[test]
fn an_image_of_another_size_is_refused_and_kept() {
    let images = Images::new();
    let image = images.store("store.img");
    let directory = images.path("mounted");
    let answer = unchanged(&image, || envoyfs(&["up", "--size", "512MiB", &image, &directory]));
    assert!(answer.code == 1 && answer.stderr.contains("has 128 MiB"), "{answer:?}");
    assert!(!std::path::Path::new(&directory).exists());
    if can_mount() {
        let mounted = Mounted(&directory);
        assert_eq!(envoyfs(&["up", "--size", "128MiB", &image, &directory]).code, 0);
        let answer = envoyfs(&["up", "--size", "1GiB", &image, &directory]);
        assert!(answer.code == 1 && answer.stderr.contains("has 128 MiB"), "also while it is mounted: {answer:?}");
        drop(mounted);
    }
}

#[test]
fn a_mount_point_that_cannot_be_leaves_no_image() {
    let images = Images::new();
    let image = images.path("never.img");
    let answer = envoyfs(&["up", "--size", "128MiB", &image, "/etc/passwd"]);
    assert!(answer.code != 0 && answer.stderr.contains("/etc/passwd"), "{answer:?}");
    assert!(!std::path::Path::new(&image).exists());
}
