//! Single sectors that go wrong: flipped, zeroed, stale, written to the wrong place, unreadable.
//!
//! Shows, for every sector and kind of fault that is tried: no panic; the store mounts, if need be read-only; what is read is right or an error; then `fsck -y` (or, where the
//! top of all trees is hit, `--rebuild`) repairs, a second run is clean, the store mounts, and every file, in forks and snapshots too, is as it was: but for those whose path, or
//! that of a directory above them, the report names, which may have lost parts or be gone, and never hold other bytes. Of the log's last group, whose fault cannot be told from a
//! crash, the end may be missing. A budgeted sample runs by default; all: `cargo xtask sweep`. A case is replayed with `SWEEP_SECTOR=n SWEEP_FAULT=f`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]

#[path = "../../namespace/tests/common/mod.rs"]
mod common;
mod fsck_bench;

use common::{CX, Random};
use envoyfs_engine::device::{DeviceImage, Fault, SimulatedDevice};
use envoyfs_namespace::Namespace;
use envoyfs_namespace::api::*;
use envoyfs_tools::fsck::disk::Disk;
use envoyfs_tools::fsck::findings::By;
use envoyfs_tools::fsck::rebuild::rebuild_disk;
use envoyfs_tools::fsck::repair::repair_disk;
use fsck_bench::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const FAULTS: [&str; 5] = ["flip", "zero", "stale", "misdirected", "EIO"];

/// Contents by path; none where reading gave an error.
type Contents = BTreeMap<String, Option<Vec<u8>>>;

/// Everything that can be read. Directories that cannot be listed are missing with what is in them.
fn contents(ns: &Namespace) -> Contents {
    let mut out = Contents::new();
    below(ns, InodeId::ROOT, "", true, &mut out);
    out
}

fn below(ns: &Namespace, directory: InodeId, path: &str, snapshots: bool, out: &mut Contents) {
    if let Some(list) = ns.lookup(&CX, directory, b".snap").ok().filter(|_| snapshots) {
        below(ns, list.id, &format!("{path}/.snap"), false, out);
        ns.forget(list.id, 1);
    }
    let mut entries = Vec::new();
    let listed = ns.readdir(&CX, directory, 0, &mut |entry| {
        if entry.name != b"." && entry.name != b".." {
            entries.push(entry);
        }
        true
    });
    if listed.is_err() {
        return;
    }
    for entry in entries {
        let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
        let Ok(found) = ns.lookup(&CX, directory, &entry.name) else {
            out.insert(path, None);
            continue;
        };
        match found.file_type {
            FileType::Directory => {
                out.insert(path.clone(), Some(Vec::new()));
                below(ns, found.id, &path, snapshots, out);
            }
            FileType::Regular => {
                let mut bytes = vec![0; found.size as usize];
                let read = ns.read(&CX, found.id, 0, &mut bytes);
                out.insert(path, read.ok().map(|_| bytes));
            }
            FileType::Symlink => {
                out.insert(path, ns.readlink(&CX, found.id).ok());
            }
            _ => {}
        }
        ns.forget(found.id, 1);
    }
}

struct Ground {
    image: DeviceImage,
    /// As it was a checkpoint ago: what a lost write leaves.
    before: DeviceImage,
    expected: Contents,
    ring: std::ops::Range<u64>,
    sectors: u64,
}

fn ground() -> Ground {
    let device = populated(8);
    let before = device.image();
    let mounted = mount(&device);
    let mut random = Random(77);
    mounted.file(InodeId::ROOT, "stored", &random.bytes(9000));
    mounted.ns.checkpoint().unwrap();
    for number in 0..3 {
        mounted.file(InodeId::ROOT, &format!("logged {number}"), &random.bytes(5000));
        mounted.ns.sync().unwrap();
    }
    let expected = contents(&mounted.ns);
    drop(mounted.ns);
    mounted.engine.close().unwrap();
    let superblock = Surgeon::new(&device).superblock;
    let ring = superblock.ring_offset..superblock.ring_offset + superblock.ring_bytes;
    Ground { image: device.image(), before, expected, ring, sectors: size(&device) / 512 }
}

#[derive(Debug, Default)]
struct Counts {
    cases: u64,
    without_effect: u64,
    read_only: u64,
    errors_read: u64,
    repaired: u64,
    rebuilt: u64,
    log_given_up: u64,
    /// Files that the report names and that are not as they were.
    lost: u64,
    last_group: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.cases += other.cases;
        self.without_effect += other.without_effect;
        self.read_only += other.read_only;
        self.errors_read += other.errors_read;
        self.repaired += other.repaired;
        self.rebuilt += other.rebuilt;
        self.log_given_up += other.log_given_up;
        self.lost += other.lost;
        self.last_group += other.last_group;
    }
}

fn run(ground: &Ground, sector: u64, fault: usize, counts: &mut Counts) {
    let what = format!("SWEEP_SECTOR={sector} SWEEP_FAULT={fault} ({})", FAULTS[fault]);
    let mut held = [0; 512];
    ground.image.read(sector * 512, &mut held);
    let mut random = Random(sector * 7 + fault as u64);
    let mut bad = held;
    match fault {
        0 => bad[random.below(512)] ^= 1 << random.below(8),
        1 => bad = [0; 512],
        2 => ground.before.read(sector * 512, &mut bad),
        3 => ground.image.read(random.below(ground.sectors as usize) as u64 * 512, &mut bad),
        _ => {}
    }
    counts.cases += 1;
    if fault < 4 && bad == held {
        counts.without_effect += 1;
        return;
    }
    let damaged = || {
        let mut image = ground.image.clone();
        image.write(sector * 512, &bad);
        let device = SimulatedDevice::from_image(image, 512, sector);
        if fault == 4 {
            device.inject(Fault::ReadError { offset: sector * 512 });
        }
        device
    };
    let in_log = ground.ring.contains(&(sector * 512));
    let device = damaged();
    let is_cut;
    let mounted = try_mount(&device, false).or_else(|_| {
        counts.read_only += 1;
        try_mount(&damaged(), true)
    });
    match mounted {
        Ok(mounted) => {
            let found = contents(&mounted.ns);
            // A log that is cut leaves a prefix: what is missing is the last that was written. For writing it may only be the last group, before any watermark.
            let right = |path: &str| found.get(path).is_some_and(|bytes| ground.expected.get(path) == Some(bytes));
            let cut =
                |path: &str| !right(path) && found.get(path).is_none_or(|bytes| bytes.as_deref() == Some(&[][..]));
            let logged = ["/logged 0", "/logged 1", "/logged 2"];
            is_cut = logged.iter().any(|path| cut(path));
            if is_cut && mounted.engine.read_only().is_empty() {
                assert!(right(logged[0]) && right(logged[1]), "{what}: more than the last group is lost");
                counts.last_group += 1;
            }
            for (path, bytes) in found.iter().filter(|(path, _)| !cut(path)) {
                match (bytes, ground.expected.get(path)) {
                    (None, _) => counts.errors_read += 1,
                    (Some(bytes), Some(Some(right))) => assert!(bytes == right, "{what}: {path} reads wrong bytes"),
                    (Some(_), _) => panic!("{what}: {path} must not be there"),
                }
            }
            drop(mounted.ns);
            let _closed = mounted.engine.close();
        }
        Err(error) => panic!("{what}: it does not mount, not even read-only: {error}"),
    }
    let device = damaged();
    let disk = Disk::new(Arc::new(device.clone()));
    let report = repair_disk(&disk, &settings(true)).unwrap_or_else(|error| panic!("{what}: {error:#}"));
    let report = if report.is_clean() {
        report
    } else {
        counts.rebuilt += 1;
        rebuild_disk(&disk, &settings(true)).unwrap_or_else(|error| panic!("{what}: {error:#}\n{report}"))
    };
    assert!(report.is_clean(), "{what}:\n{report}");
    counts.repaired += u64::from(!report.repaired.is_empty());
    let again = repair_disk(&disk, &settings(true)).unwrap();
    assert_eq!(again.exit_code(), 0, "{what}: a second run:\n{again}");
    let numbers: Vec<u16> = report.repaired.iter().map(|finding| finding.kind.number).collect();
    // What is missing of the log is its end: with a finding, or where a crash could have done it.
    let log_lost = numbers.iter().any(|number| matches!(number, 201 | 203)) || (in_log && is_cut);
    counts.log_given_up += u64::from(log_lost);
    let mounted =
        try_mount(&device, false).unwrap_or_else(|error| panic!("{what}: after the repair: {error}\n{report}"));
    let found = contents(&mounted.ns);
    let lost: Vec<String> =
        report.repaired.iter().filter(|f| f.kind.by == By::Yes).map(|f| path_of(&f.place)).collect();
    let named = |path: &str| lost.iter().any(|place| path == place || path.starts_with(&format!("{place}/")));
    let mut end_of_log = false;
    for (path, right) in &ground.expected {
        let is = found.get(path);
        if is == Some(right) {
            assert!(
                !(end_of_log && path.starts_with("/logged")),
                "{what}: {path} is there, an older one is not:\n{report}"
            );
            continue;
        }
        let wrong = || format!("{what}: {path} is not as it was (there: {}):\n{report}", is.is_some());
        if path.starts_with("/logged") && log_lost {
            end_of_log = true;
            continue;
        }
        assert!(named(path), "{}", wrong());
        counts.lost += 1;
        let (Some(Some(is)), Some(right)) = (is, right) else {
            assert!(is.is_none(), "{} and cannot be read", wrong());
            continue;
        };
        let parts = is.iter().zip(right).all(|(is, right)| is == right || *is == 0);
        assert!(is.len() == right.len() && parts, "{}: other bytes", wrong());
    }
    for (path, bytes) in found.iter().filter(|(path, _)| !ground.expected.contains_key(*path)) {
        // A file that lost all its names has another one, and is what it was.
        let right = path.contains("/lost+found #") && ground.expected.values().any(|expected| expected == bytes);
        assert!(right, "{what}: {path} was never there:\n{report}");
    }
}

/// The path in a finding's place, as [`contents`] has it.
fn path_of(place: &str) -> String {
    let path =
        [" (node ", " at byte ", " (inode "].iter().fold(place, |path, mark| path.split(mark).next().unwrap_or(path));
    if path == "realm table" {
        return "/top/.snap".into();
    }
    // A list of snapshots knows the number of its directory only; there is one list.
    match path.strip_prefix("/(directory ").and_then(|rest| rest.split_once("/.snap")) {
        Some((_, inside)) => format!("/top/.snap{inside}"),
        None => path.trim_end_matches('/').to_owned(),
    }
}

#[test]
fn any_single_sector() {
    let ground = ground();
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let mut counts = Counts::default();
    if let (Some(sector), Some(fault)) = (number("SWEEP_SECTOR"), number("SWEEP_FAULT")) {
        run(&ground, sector, fault as usize, &mut counts);
        println!("{counts:?}");
        return;
    }
    let all = number("SWEEP_ALL").is_some();
    let mut held = [0; 512];
    let part = number("SWEEP_FROM").unwrap_or(0)..number("SWEEP_TO").unwrap_or(u64::MAX).min(ground.sectors);
    let used: Vec<u64> = part
        .filter(|sector| {
            ground.image.read(sector * 512, &mut held);
            all || held != [0; 512]
        })
        .collect();
    let mut random = Random(number("SWEEP_SEED").unwrap_or(1));
    // Every fault of every sector, or so many of those of sectors that hold something.
    let mut cases: Vec<(u64, usize)> =
        used.iter().flat_map(|sector| (0..FAULTS.len()).map(|fault| (*sector, fault))).collect();
    if !all {
        for index in 0..cases.len() {
            let other = random.below(cases.len());
            cases.swap(index, other);
        }
        cases.truncate(number("SWEEP_CASES").unwrap_or(250) as usize);
    }
    println!("{} cases, {} of {} sectors", cases.len(), used.len(), ground.sectors);
    let threads = number("SWEEP_THREADS").unwrap_or(1).max(1) as usize;
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        let mut counts = Counts::default();
        while let Some((sector, fault)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            // A panic is told where it happens; the other cases are tried all the same.
            let one = std::panic::AssertUnwindSafe(|| run(&ground, *sector, *fault, &mut counts));
            if std::panic::catch_unwind(one).is_err() {
                println!("FAILED: SWEEP_SECTOR={sector} SWEEP_FAULT={fault}");
                failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        counts
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        counts.add(&work());
        others.into_iter().for_each(|other| counts.add(&other.join().unwrap()));
    });
    println!("{counts:?}");
    let failed = failed.into_inner();
    assert_eq!(failed, 0, "{failed} of {} cases failed", cases.len());
    // Whatever a single sector holds, there is no need to look for an older checkpoint.
    assert_eq!(counts.rebuilt, 0, "{counts:?}");
}
