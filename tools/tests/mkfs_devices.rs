//! `mkfs.envoyfs` on block devices: loop devices with blocks of 512 and 4096 bytes, what other tools have put there, and devices in use. Needs root; skipped without.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

#[allow(dead_code, reason = "what other test files use of it")]
mod common;

use common::{Answer, Images, fsck, mkfs, noise, run};
use envoyfs_layout::Hlc;
use envoyfs_layout::segment::{SegmentFooter, SegmentHeader};
use envoyfs_layout::superblock::Superblock;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::Command;

const SIZE: u64 = 192 << 20;

/// A loop device on a file, detached with the value.
struct Loop {
    path: String,
    backing: String,
}

impl Loop {
    /// `None`, with a message, where there are no loop devices for us.
    fn new(images: &Images, name: &str, block_bytes: u32) -> Option<Self> {
        let backing = images.file(name, SIZE, 0, b"");
        Self::on(backing, block_bytes)
    }
    fn on(backing: String, block_bytes: u32) -> Option<Self> {
        let output = Command::new("losetup")
            .args(["--find", "--show", "--partscan", "--sector-size", &block_bytes.to_string(), &backing])
            .output()
            .ok()
            .filter(|output| output.status.success());
        let Some(output) = output else {
            common::skip("mkfs: no loop device here");
            return None;
        };
        Some(Self { path: String::from_utf8(output.stdout).unwrap().trim().to_string(), backing })
    }
    fn write(&self, at: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(&self.path).unwrap();
        file.write_all_at(bytes, at).unwrap();
        file.sync_all().unwrap();
    }
    fn read(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        File::open(&self.path).unwrap().read_exact_at(&mut bytes, at).unwrap();
        bytes
    }
    fn digest(&self) -> u64 {
        envoyfs_layout::checksum::hash64(&self.read(0, usize::try_from(SIZE).unwrap()))
    }
    /// What libblkid finds, wherever on the device.
    fn known_signatures(&self) -> String {
        run("wipefs", &["--no-act", &self.path]).stdout
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        drop(Command::new("losetup").args(["--detach", &self.path]).status());
    }
}

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        common::skip(format!("mkfs: {program} is not installed"));
    }
    found
}

fn json(answer: &Answer) -> serde_json::Value {
    serde_json::from_str(&answer.stdout).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

#[test]
fn a_device_is_taken_whole_with_its_own_blocks_and_discarded() {
    let images = Images::new();
    for block_bytes in [512, 4096] {
        let Some(device) = Loop::new(&images, &format!("whole-{block_bytes}"), block_bytes) else { return };
        // Blocks of the backing file that only a discard gives back.
        device.write(100 << 20, &noise(9, 8 << 20));
        let answer = mkfs(&["--json", "--label", "disk", &device.path]);
        assert_eq!(answer.code, 0, "{answer:?}");
        let made = json(&answer);
        assert_eq!(made["logical_block_bytes"], block_bytes);
        assert_eq!((&made["bytes"], &made["discarded_bytes"]), (&SIZE.into(), &SIZE.into()));
        assert!(device.read(100 << 20, 4096).iter().all(|byte| *byte == 0), "not discarded");
        let checked = fsck(&["-fn", &device.path]);
        assert_eq!(checked.code, 0, "{checked:?}");
        assert!(checked.stdout.ends_with("clean\n"));

        // Not at a border between containers, where an older store is cleared.
        let inside = (100 << 20) + (300 << 10);
        device.write(inside, &noise(9, 4096));
        let answer = mkfs(&["--json", "--force", "--no-discard", &device.path]);
        assert_eq!(json(&answer)["discarded_bytes"], 0);
        assert_eq!(device.read(inside, 4096), noise(9, 4096), "discarded all the same");
    }
}

#[test]
fn a_size_is_refused_for_a_device() {
    let images = Images::new();
    let Some(device) = Loop::new(&images, "sized", 512) else { return };
    let answer = mkfs(&["--size", "128MiB", &device.path]);
    assert!(answer.code == 1 && answer.stderr.contains("whole of a block device (192 MiB)"), "{answer:?}");
}

/// What stands on a device, made with the real tool or by hand where the tool is rare.
type Maker = (&'static str, fn(&Loop) -> bool);

fn by(program: &str, options: &[&str], device: &Loop) -> bool {
    has(program) && Command::new(program).args(options).arg(&device.path).output().unwrap().status.success()
}

fn makers() -> Vec<Maker> {
    vec![
        ("ext2, ext3 or ext4 file system", |d| by("mkfs.ext4", &["-q"], d)),
        ("XFS file system", |d| by("mkfs.xfs", &["-q", "-f", "--unsupported"], d) || by("mkfs.xfs", &["-q", "-f"], d)),
        ("Btrfs file system", |d| by("mkfs.btrfs", &["-q", "-f"], d)),
        ("swap space", |d| by("mkswap", &[], d)),
        ("GPT partition table", |d| {
            d.write(512, b"EFI PART");
            d.write(SIZE - 512, b"EFI PART");
            true
        }),
        ("MBR partition table or boot sector", |d| {
            d.write(510, &[0x55, 0xaa]);
            true
        }),
        ("LUKS encrypted volume", |d| {
            d.write(0, b"LUKS\xba\xbe\0\x02");
            d.write(0x4000, b"SKUL\xba\xbe\0\x02");
            true
        }),
        ("ZFS pool member", |d| {
            for label in [0, 256 << 10, SIZE - (512 << 10), SIZE - (256 << 10)] {
                for uberblock in 0..8 {
                    d.write(label + (128 << 10) + uberblock * 1024, &0x00ba_b10c_u64.to_le_bytes());
                }
            }
            true
        }),
        ("Linux software RAID member (md)", |d| {
            let magic = [0xfc, 0x4e, 0x2b, 0xa9];
            d.write((SIZE & !0xffff) - 0x1_0000, &magic);
            d.write(SIZE - 8192, &magic);
            true
        }),
    ]
}

#[test]
fn what_other_tools_put_there_is_refused_and_with_force_no_copy_of_it_stays() {
    let images = Images::new();
    for (index, (name, make)) in makers().into_iter().enumerate() {
        let Some(device) = Loop::new(&images, &format!("foreign-{index}"), 512) else { return };
        if !make(&device) {
            common::skip(format!("mkfs: {name} could not be made"));
            continue;
        }
        let before = device.digest();
        for options in [&[][..], &["--no-discard"], &["--dry-run"]] {
            let answer = mkfs(&[options, &[&device.path]].concat());
            assert!(answer.code == 1 && answer.stderr.contains(name), "{name}: {answer:?}");
            assert!(answer.stderr.contains("--force"), "{name}: {answer:?}");
        }
        assert_eq!(device.digest(), before, "{name}: something was written");
        let answer = mkfs(&["--force", "--no-discard", &device.path]);
        assert_eq!(answer.code, 0, "{name}: {answer:?}");
        assert!(answer.stdout.contains(name), "{answer:?}");
        assert_eq!(device.known_signatures(), "", "{name}: a copy stayed");
        assert_eq!(fsck(&["-fn", &device.path]).code, 0, "{name}");
    }
}

#[test]
fn every_copy_of_an_older_smaller_store_is_destroyed() {
    let images = Images::new();
    let backing = images.store("grown.img");
    OpenOptions::new().write(true).open(&backing).unwrap().set_len(SIZE).unwrap();
    let Some(device) = Loop::on(backing, 512) else { return };
    let old_end = 128 << 20;
    assert_eq!(device.read(old_end - 4096, 8), b"EVFSSUPR");
    let answer = mkfs(&[&device.path]);
    assert!(answer.code == 1 && answer.stderr.contains("envoyfs store"), "{answer:?}");
    assert_eq!(mkfs(&["--force", "--no-discard", &device.path]).code, 0);
    for position in [old_end - 8192, old_end - 4096] {
        assert!(device.read(position, 4096).iter().all(|byte| *byte == 0), "a copy stayed at {position}");
    }
}

/// Of segments that say which store they belong to a rebuild would take the older one's for it.
#[test]
fn no_segment_of_an_older_store_tells_of_it_on_a_device_that_discards_nothing() {
    let images = Images::new();
    let Some(device) = Loop::new(&images, "remade", 512) else { return };
    assert_eq!(mkfs(&["--label", "older", &device.path]).code, 0);
    let older = Superblock::decode(&device.read(0, 4096), 0).unwrap();
    let segment = u64::from(older.segment_bytes);
    let begins = |container: u32| older.segments_offset + u64::from(container) * segment;
    // As if it had been filled.
    for container in 0..older.containers {
        let (number, seed) = (container + 100, older.seed);
        let header = SegmentHeader {
            seed,
            volume: 1,
            container,
            segment: number,
            stream: 1,
            flags: 0,
            birth_low: Hlc::ZERO,
            opening: 1,
        };
        let footer = SegmentFooter {
            segment: number,
            last_part: 0,
            objects: 0,
            used_units: 8,
            digest: 0,
            birth_low: Hlc::ZERO,
            birth_high: Hlc::ZERO,
            opening: 1,
        };
        let end = begins(container) + segment - 512;
        device.write(begins(container), &header.encode(begins(container)));
        device.write(end, &footer.encode(&seed, end));
    }
    assert_eq!(mkfs(&["--force", "--no-discard", &device.path]).code, 0);
    let newer = Superblock::decode(&device.read(0, 4096), 0).unwrap();
    for container in 0..older.containers {
        let header = SegmentHeader::decode(&device.read(begins(container), 512), &older.seed, begins(container));
        let end = begins(container) + segment - 512;
        let footer = SegmentFooter::decode(&device.read(end, 512), &older.seed, end);
        assert!(header.is_err() && footer.is_err(), "container {container}: {header:?} {footer:?}");
    }
    for at in Superblock::positions(newer.size) {
        device.write(at, &[0; 4096]);
    }
    // Nothing was written to the new one yet.
    let answer = fsck(&["--rebuild", &device.path]);
    assert!(answer.code == 8 && answer.stderr.contains("holds no segments"), "{answer:?}");
}

#[test]
fn a_mounted_device_and_one_with_a_mounted_partition_are_refused_with_force_too() {
    let images = Images::new();
    let Some(device) = Loop::new(&images, "mounted", 512) else { return };
    if !by("mkfs.ext4", &["-q"], &device) {
        return;
    }
    let at = images.path("mnt");
    std::fs::create_dir(&at).unwrap();
    if run("mount", &[&device.path, &at]).code != 0 {
        common::skip("mkfs: mounting is not permitted");
        return;
    }
    let by_device = mkfs(&["--force", &device.path]);
    let by_image = mkfs(&["--force", &device.backing]);
    assert_eq!(run("umount", &[&at]).code, 0);
    assert!(by_device.code == 1 && by_device.stderr.contains(&format!("is mounted at {at}")), "{by_device:?}");
    assert!(by_image.code == 1 && by_image.stderr.contains("through a loop device, mounted at"), "{by_image:?}");

    // One partition from 1 MiB to the end.
    let (start, sectors) = (2048_u32, u32::try_from(SIZE / 512).unwrap() - 2048);
    let mut entry = [0; 16];
    entry[4] = 0x83;
    entry[8..12].copy_from_slice(&start.to_le_bytes());
    entry[12..].copy_from_slice(&sectors.to_le_bytes());
    device.write(0, &[0; 4096]);
    device.write(446, &entry);
    device.write(510, &[0x55, 0xaa]);
    drop(run("blockdev", &["--rereadpt", &device.path]));
    let partition = format!("{}p1", device.path);
    if !Path::new(&partition).exists() || run("mkfs.ext4", &["-q", "-F", &partition]).code != 0 {
        common::cannot("mkfs: no partitions on loop devices here");
        return;
    }
    assert_eq!(run("mount", &[&partition, &at]).code, 0);
    let answer = mkfs(&["--force", &device.path]);
    assert_eq!(run("umount", &[&at]).code, 0);
    assert!(answer.code == 1 && answer.stderr.contains("has a partition that is mounted"), "{answer:?}");
}

#[test]
fn a_device_that_something_else_holds_is_refused_with_force_too() {
    let images = Images::new();
    let Some(device) = Loop::new(&images, "held", 512) else { return };
    let before = device.digest();
    let held = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&device.path).unwrap();
    let answer = mkfs(&["--force", &device.path]);
    assert!(answer.code == 1 && answer.stderr.contains("in use"), "{answer:?}");
    drop(held);
    assert_eq!(device.digest(), before);
    assert_eq!(mkfs(&[&device.path]).code, 0);
}

#[test]
fn what_cannot_be_written_is_refused_by_a_dry_run_as_well() {
    let images = Images::new();
    let backing = images.file("read-only.img", SIZE, 0, b"");
    let made = run("losetup", &["--find", "--show", "--read-only", &backing]);
    if made.code != 0 {
        return common::skip("mkfs: no loop device here");
    }
    let device = Loop { path: made.stdout.trim().to_owned(), backing };
    let at = images.path("tmpfs");
    std::fs::create_dir(&at).unwrap();
    assert_eq!(run("mount", &["-t", "tmpfs", "-o", "ro,size=1g", "none", &at]).code, 0);
    let new = format!("{at}/new.img");
    let cases: [&[&str]; 3] = [&[&device.path], &["-f", &device.path], &["--size", "128MiB", &new]];
    let answers = cases.map(|arguments| [mkfs(&[&["-n"][..], arguments].concat()), mkfs(arguments)]);
    assert_eq!(run("umount", &[&at]).code, 0);
    for answer in answers.iter().flatten() {
        let said = answer.stderr.to_lowercase();
        assert!(answer.code == 1 && (said.contains("read-only")), "{answer:?}");
    }
}

#[test]
fn killed_at_any_moment_a_device_holds_no_store_or_a_whole_one() {
    let images = Images::new();
    let Some(device) = Loop::new(&images, "killed", 4096) else { return };
    for delay_ms in [0_u32, 4, 8, 12, 16, 24, 40] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mkfs-envoyfs"))
            .args(["--quiet", "--force", &device.path])
            .spawn()
            .unwrap();
        drop(run("sleep", &[&format!("0.{delay_ms:03}")]));
        child.kill().unwrap();
        child.wait().unwrap();
        let answer = fsck(&["-fn", &device.path]);
        let none = answer.code == 8 && answer.stderr.contains("is not an envoyfs store");
        assert!(none || answer.code == 0, "after {delay_ms} ms: {answer:?}");
    }
}
