//! Single sectors that go wrong: flipped, zeroed, stale, written to the wrong place, unreadable.
//!
//! Shows, for every sector and kind of fault that is tried: no panic; the store mounts, if need be read-only; what is read is right or an error; then `fsck -y` (or, where the
//! top of all trees is hit, `--rebuild`) repairs, a second run is clean, and every file that is not named in its report is as it was. Exceptions are counted and asserted to be the
//! known ones. A budgeted sample runs by default; all: `cargo xtask sweep`. A case is replayed with `SWEEP_SECTOR=n SWEEP_FAULT=f`.
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

use common::{CX, Random, names};
use envoyfs_engine::device::{DeviceImage, Fault, SimulatedDevice};
use envoyfs_namespace::Namespace;
use envoyfs_namespace::api::*;
use envoyfs_tools::fsck::disk::Disk;
use envoyfs_tools::fsck::rebuild::rebuild_disk;
use envoyfs_tools::fsck::repair::repair_disk;
use fsck_bench::*;
use std::collections::BTreeMap;
use std::sync::Arc;

const FAULTS: [&str; 5] = ["flip", "zero", "stale", "misdirected", "EIO"];

/// Contents by path; none where reading gave an error.
type Contents = BTreeMap<String, Option<Vec<u8>>>;

/// Everything that can be read. Directories that cannot be listed are missing with what is in them.
fn contents(ns: &Namespace) -> Contents {
    let mut out = Contents::new();
    below(ns, InodeId::ROOT, "", &mut out);
    out
}

fn below(ns: &Namespace, directory: InodeId, path: &str, out: &mut Contents) {
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
                below(ns, found.id, &path, out);
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
    not_mounted: u64,
    errors_read: u64,
    repaired: u64,
    rebuilt: u64,
    log_given_up: u64,
    last_group: u64,
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
    let mut is_cut = false;
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
        Err(_) => {
            counts.read_only -= 1;
            counts.not_mounted += 1;
        }
    }
    let device = damaged();
    let disk = Disk::new(Arc::new(device.clone()));
    let report = repair_disk(&disk, &settings(true)).unwrap_or_else(|error| panic!("{what}: {error:#}"));
    let rebuilt = !report.is_clean();
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
    let log_lost =
        in_log || is_cut || report.repaired.iter().any(|finding| matches!(finding.kind.number, 201 | 203 | 204));
    counts.log_given_up += u64::from(log_lost && !in_log);
    let mounted = try_mount(&device, false).unwrap_or_else(|error| panic!("{what}: after the repair: {error}"));
    let found = contents(&mounted.ns);
    // A node that forks share is named by one of its paths: what has the same name elsewhere may be the same file.
    let name_of = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let of_tree = |number: u16| matches!(number, 400..=405);
    let named = |path: &str| {
        report.repaired.iter().any(|finding| {
            let place = finding.place.split(" at byte ").next().unwrap_or_default();
            let linked = place.contains("(link table)") && matches!(&*name_of(path), "one" | "two" | "three");
            of_tree(finding.kind.number) || name_of(place) == name_of(path) || linked
        })
    };
    for (path, right) in &ground.expected {
        let logged = path.starts_with("/logged");
        match found.get(path) {
            Some(bytes) if bytes == right => {}
            _ if (logged && log_lost) || named(path) || rebuilt => {}
            other => panic!("{what}: {path} is not as it was ({}):\n{report}", other.is_some()),
        }
    }
    assert!(names(&mounted.ns, InodeId::ROOT).len() <= ground.expected.len());
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
    let mut used: Vec<u64> = (0..ground.sectors)
        .filter(|sector| {
            ground.image.read(sector * 512, &mut held);
            all || held != [0; 512]
        })
        .collect();
    let cases = number("SWEEP_CASES").unwrap_or(250) as usize;
    let mut random = Random(number("SWEEP_SEED").unwrap_or(1));
    if !all {
        // One fault each, of every kind in turn, of sectors that hold something.
        for index in 0..used.len() {
            let other = random.below(used.len());
            used.swap(index, other);
        }
        used.truncate(cases);
    }
    println!("{} of {} sectors", used.len(), ground.sectors);
    for (index, sector) in used.iter().enumerate() {
        let faults = if all { 0..FAULTS.len() } else { index % FAULTS.len()..index % FAULTS.len() + 1 };
        faults.for_each(|fault| run(&ground, *sector, fault, &mut counts));
    }
    println!("{counts:?}");
    // A fault in the only copy of the table of territories: a mount has nothing to start from, a rebuild takes the checkpoint before.
    assert!(counts.not_mounted <= counts.rebuilt, "{counts:?}");
}
