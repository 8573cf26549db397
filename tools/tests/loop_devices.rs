//! One store by two paths, an image and a loop device over it: whoever may write to it by one path keeps everybody away from the other. (As root; skipped elsewhere.)
//!
//! Neither the lock of an image nor the exclusive open of a device sees the other path: two writers, or a repair of what is mounted, would lose the store.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step of a test stops it")]

#[allow(dead_code, reason = "what other test files use of it")]
mod common;

use common::mounted::{Bench, envoyfs, limited, text};
use common::{Answer, Images, fsck, mkfs, run, unchanged};
use envoyfs_engine::device::{AlignedBuf, Device, Write};
use envoyfs_tools::fsck::source::Source;
use std::fs;
use std::path::{Path, PathBuf};

/// A loop device over an image; gone with the test.
struct Loop(String);

impl Loop {
    /// `None`, with a message, where there are none.
    fn over(image: &str, options: &[&str]) -> Option<Self> {
        let made = run("losetup", &[&["--find", "--show"], options, &[image]].concat());
        if made.code != 0 {
            common::skip(format!("loop devices: {}", made.stderr));
            return None;
        }
        Some(Self(made.stdout.trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        drop(run("losetup", &["--detach", &self.0]));
    }
}

const REPAIRS: [&[&str]; 3] = [&["-f", "-p"], &["-f", "-y"], &["--rebuild"]];

fn refused(answer: &Answer, why: &str, what: &str) {
    assert!(answer.code == 8 && answer.stderr.contains(why), "{what}: {why} expected: {answer:?}");
}

#[test]
fn a_mounted_store_is_neither_checked_nor_repaired_by_another_path() {
    let Some(bench) = Bench::new("loop devices") else { return };
    let Some(device) = Loop::over(&bench.store, &[]) else { return };
    let Some(second) = Loop::over(&bench.store, &[]) else { return };
    fs::write(bench.path("file"), b"written").unwrap();
    // The image is mounted.
    for options in [&["-n"][..]].iter().chain(&REPAIRS) {
        refused(&fsck(&[options, &[device.0.as_str()][..]].concat()), text(&bench.at), "the image is mounted");
    }
    bench.umount();
    // A loop device is.
    let mounted = limited(env!("CARGO_BIN_EXE_mount-envoyfs"), &[&device.0, text(&bench.at)]);
    assert_eq!(mounted.code, 0, "{mounted:?}");
    for options in [&["-n"][..]].iter().chain(&REPAIRS) {
        for path in [bench.store.as_str(), &second.0] {
            refused(&fsck(&[options, &[path][..]].concat()), text(&bench.at), path);
        }
    }
    for path in [bench.store.as_str(), &second.0] {
        let answer = envoyfs(&["identity", "--new", path]);
        assert!(answer.code == 4 && answer.stderr.contains(text(&bench.at)), "{answer:?}");
    }
    fs::write(bench.path("other"), b"too").unwrap();
    bench.umount();
    drop((device, second));
    let report = fsck(&["-fn", &bench.store]);
    assert_eq!(report.code, 0, "{report:?}");
}

#[test]
fn what_is_being_repaired_by_one_path_is_not_mounted_nor_repaired_by_the_other() {
    let Some(bench) = Bench::new("loop devices") else { return };
    bench.umount();
    let Some(device) = Loop::over(&bench.store, &[]) else { return };
    let at = PathBuf::from(bench.images.path("other"));
    fs::create_dir(&at).unwrap();
    {
        let held = Source::open(Path::new(&device.0), true).unwrap();
        unchanged(&bench.store, || {
            let mounted = limited(env!("CARGO_BIN_EXE_mount-envoyfs"), &[&bench.store, text(&at)]);
            assert!(mounted.code == 32 && mounted.stderr.contains("being repaired"), "{mounted:?}");
            for options in REPAIRS {
                let answer = fsck(&[options, &[bench.store.as_str()][..]].concat());
                assert_eq!(answer.code, 8, "{answer:?}");
            }
        });
        drop(held);
    }
    // A loop device that nobody uses is in the way of a repair of its image, and of no check.
    assert_eq!(fsck(&["-f", "-n", &bench.store]).code, 0);
    refused(&fsck(&["-f", "-y", &bench.store]), "losetup -d", "a loop device is attached");
    assert_eq!(fsck(&["-f", "-y", &device.0]).code, 0);
    drop(device);
    // A check keeps mounts away too.
    let held = Source::open(Path::new(&bench.store), false).unwrap();
    let copy = bench.images.path("copy.img");
    fs::copy(&bench.store, &copy).unwrap();
    let mounted = limited(env!("CARGO_BIN_EXE_mount-envoyfs"), &[&copy, text(&at)]);
    assert!(mounted.code == 32 && mounted.stderr.contains("being repaired"), "{mounted:?}");
    drop(held);
    // The copy of a mounted store may be checked, and is repaired when it has an identity of its own.
    bench.mount(&[]);
    assert_eq!(fsck(&["-fn", &copy]).code, 0);
    refused(&fsck(&["-fy", &copy]), "envoyfs identity --new", "a copy");
    assert_eq!(envoyfs(&["identity", "--new", &copy]).code, 0);
    assert_eq!(fsck(&["-fy", &copy]).code, 0);
    bench.end();
}

/// Parts of one file that do not overlap are stores of their own.
#[test]
fn stores_in_different_parts_of_one_file_do_not_disturb_each_other() {
    const PART: u64 = 128 << 20;
    let images = Images::new();
    let file = images.file("both.img", 2 * PART, 0, b"");
    let (limit, offset) = (PART.to_string(), PART.to_string());
    let Some(first) = Loop::over(&file, &["--sizelimit", &limit]) else { return };
    let Some(second) = Loop::over(&file, &["--offset", &offset]) else { return };
    assert_eq!(mkfs(&[&first.0]).code, 0);
    let at = PathBuf::from(images.path("mnt"));
    fs::create_dir(&at).unwrap();
    let mounted = limited(env!("CARGO_BIN_EXE_mount-envoyfs"), &[&first.0, text(&at)]);
    assert_eq!(mounted.code, 0, "{mounted:?}");
    let (made, checked) = (mkfs(&[&second.0]), fsck(&["-fy", &second.0]));
    let whole = mkfs(&["--force", &file]);
    assert_eq!(envoyfs(&["umount", text(&at)]).code, 0);
    assert_eq!((made.code, checked.code), (0, 0), "{made:?}, {checked:?}");
    assert!(whole.code == 1 && whole.stderr.contains(text(&at)), "{whole:?}");
}

/// What a device is asked to make durable before it completes, is: the log relies on it where the device can do so.
#[test]
fn a_durable_write_reaches_the_device_before_it_completes() {
    let images = Images::new();
    let Some(device) = Loop::over(&images.file("disk.img", 1 << 20, 0, b""), &[]) else { return };
    let name = device.0.rsplit('/').next().unwrap();
    let flushes = || {
        let text = fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap();
        text.split_whitespace().nth(15).and_then(|count| count.parse::<u64>().ok()).unwrap()
    };
    let source = Source::open(Path::new(&device.0), true).unwrap();
    let write = || Write::whole(4096, AlignedBuf::zeroed(4096));
    let before = flushes();
    source.submit(write()).wait().unwrap();
    assert_eq!(flushes(), before);
    source.submit(write().durable()).wait().unwrap();
    assert!(flushes() > before);
}
