//! Single sectors that go wrong: flipped, zeroed, stale, written to the wrong place, unreadable.
//!
//! Shows, for every sector and kind of fault that is tried: no panic; the store mounts, if need be read-only; what is read is right, and for whatever is not there or is not right
//! there was an error on the way to it that names the object or the block; who goes on writing, over a checkpoint, gets an error that names something or all that was acknowledged to him; then, of the
//! store as it was damaged and of the one that was written to, `fsck -y` (or, where the
//! top of all trees is hit, `--rebuild`) repairs, a second run is clean, the store mounts, and every file, in forks and snapshots too, is as it was: but for those whose path, or
//! that of a directory above them, the report names, which may have lost parts or be gone, and never hold other bytes.
//!
//! The one exception: bytes of the log's last group, before a watermark covers it, that are others cannot be told from a write that a crash did not let happen, and that group is cut
//! without a word. Stores that were closed show that it is the only one: there it must not occur (one with blocks of 4096 bytes, one whose last checkpoint stands in the log only, one that
//! was cleaned, retains checkpoints and is deleting a tree among them); and one that is left as a crash leaves it, where it may for the sectors that
//! the last sync wrote, and no other; and not where the device gives an error, which no crash leaves. A budgeted sample runs by default; all: `cargo xtask sweep`. A case is replayed with `SWEEP_STORE=name SWEEP_SECTOR=n SWEEP_FAULT=f`.
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
use envoyfs_engine::HistoryPolicy;
use envoyfs_engine::device::{Device, DeviceImage, Fault, SimulatedDevice};
use envoyfs_layout::directory_page::Place;
use envoyfs_layout::superblock::Superblock;
use envoyfs_layout::system_page::{ListPage, SegmentPage};
use envoyfs_namespace::Namespace;
use envoyfs_namespace::api::*;
use envoyfs_tools::fsck::disk::Disk;
use envoyfs_tools::fsck::findings::By;
use envoyfs_tools::fsck::rebuild::rebuild_disk;
use envoyfs_tools::fsck::repair::repair_disk;
use fsck_bench::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const FAULTS: [&str; 5] = ["flip", "zero", "stale", "misdirected", "EIO"];

/// Contents by path; none where reading gave an error.
type Contents = BTreeMap<String, Option<Vec<u8>>>;

/// What a mount shows.
#[derive(Default)]
struct Shown {
    files: Contents,
    /// What failed, by the path at which it did.
    errors: BTreeMap<String, String>,
}

impl Shown {
    fn try_at<T>(&mut self, path: &str, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.errors.insert(path.to_owned(), error.to_string())).ok()
    }

    /// The error that somebody meets who looks for this path.
    fn on_the_way(&self, path: &str) -> Option<&str> {
        let is_above = |above: &str| path == above || path.starts_with(&format!("{above}/"));
        self.errors.iter().find_map(|(above, error)| is_above(above).then_some(error.as_str()))
    }
}

/// Everything that can be read. Directories that cannot be listed are missing with what is in them.
fn contents(ns: &Namespace) -> Shown {
    let mut out = Shown::default();
    below(ns, InodeId::ROOT, "", true, &mut out);
    out
}

fn below(ns: &Namespace, directory: InodeId, path: &str, snapshots: bool, out: &mut Shown) {
    if snapshots {
        let inside = format!("{path}/.snap");
        if let Some(list) = out.try_at(&inside, ns.lookup(&CX, directory, b".snap")) {
            below(ns, list.id, &inside, false, out);
            ns.forget(list.id, 1);
        }
    }
    let mut entries = Vec::new();
    let listed = ns.readdir(&CX, directory, 0, &mut |entry| {
        if entry.name != b"." && entry.name != b".." {
            entries.push(entry);
        }
        true
    });
    out.try_at(path, listed);
    for entry in entries {
        let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
        let Some(found) = out.try_at(&path, ns.lookup(&CX, directory, &entry.name)) else {
            out.files.insert(path, None);
            continue;
        };
        match found.file_type {
            FileType::Directory => {
                out.files.insert(path.clone(), Some(Vec::new()));
                below(ns, found.id, &path, snapshots, out);
            }
            FileType::Regular => {
                let mut bytes = vec![0; found.size as usize];
                let read = out.try_at(&path, ns.read(&CX, found.id, 0, &mut bytes));
                out.files.insert(path, read.map(|_| bytes));
            }
            FileType::Symlink => {
                let target = out.try_at(&path, ns.readlink(&CX, found.id));
                out.files.insert(path, target);
            }
            _ => {}
        }
        ns.forget(found.id, 1);
    }
}

struct Ground {
    /// As `SWEEP_STORE` names it.
    name: &'static str,
    block: u32,
    image: DeviceImage,
    /// As it was a checkpoint ago: what a lost write leaves.
    before: DeviceImage,
    expected: Contents,
    sectors: u64,
    /// What the last sync wrote, where no watermark covers it.
    last_group: BTreeSet<u64>,
    /// First sectors of pages that only an old store has: always tried.
    pages: BTreeSet<u64>,
}

/// Of each name. All but "left" are closed.
const STORES: [&str; 5] = ["closed", "left", "blocks", "adopts", "cleaned"];

/// What "cleaned" must have.
const OLD_PAGES: [&str; 6] = [
    "drop queue",
    "slot maps",
    "segments without a home",
    "index of segments without a home",
    "retained checkpoints",
    "what only retained checkpoints need",
];
/// Directories in the one whose deletion takes several publications.
const DOOMED: usize = 1000;

fn device_of(name: &str) -> SimulatedDevice {
    match name {
        // Blocks of 4096 bytes.
        "blocks" => {
            let device = empty_with_blocks(8, 512, 4096);
            let mounted = mount(&device);
            populate(&mounted);
            mounted.close();
            device
        }
        "cleaned" => cleaned(),
        _ => populated(8),
    }
}

/// A few checkpoints that are retained, with what dies between them.
fn retain(mounted: &Mounted, random: &mut Random) {
    mounted.engine.retain(HistoryPolicy { checkpoints_max: 2, part_max: 2, ..HistoryPolicy::default() });
    for round in 0..3 {
        let name = format!("dies {round}");
        mounted.file(InodeId::ROOT, &name, &random.bytes(9000));
        mounted.ns.checkpoint().unwrap();
        mounted.act(|| mounted.ns.unlink(&CX, InodeId::ROOT, name.as_bytes()));
    }
    mounted.ns.checkpoint().unwrap();
    assert!(!mounted.engine.history().unwrap().is_empty(), "nothing is retained");
}

/// A directory of so many others that no publication deletes it at once.
fn doomed(mounted: &Mounted, random: &mut Random) {
    let directory = mounted.directory(InodeId::ROOT, "doomed");
    for number in 0..DOOMED {
        let inner = mounted.directory(directory, &format!("{number}"));
        mounted.file(inner, "one", &random.bytes(1000));
        mounted.ns.forget(inner, 1);
    }
    mounted.ns.checkpoint().unwrap();
}

/// Places of the pages that only an old store has, by what they are.
fn old_pages(device: &SimulatedDevice) -> BTreeMap<&'static str, Vec<u64>> {
    let surgeon = Surgeon::new(device);
    let offset = |place: &Place| surgeon.offset(place.container, place.units);
    let read = |place: &Place| {
        let mut bytes = vec![0; place.stored_bytes as usize];
        surgeon.image.read(offset(place), &mut bytes);
        bytes
    };
    let mut found: BTreeMap<&'static str, Vec<u64>> = BTreeMap::new();
    let entry = &surgeon.directory.entry;
    let (mut lists, mut segments) = (vec![entry.drop_queue, entry.orphaned_segments, entry.history], Vec::new());
    while let Some(place) = lists.pop() {
        if place.is_none() {
            continue;
        }
        let (list, next) = ListPage::decode(&read(&place)).unwrap();
        lists.push(next);
        let what = match &list {
            ListPage::DropQueue(_) => "drop queue",
            ListPage::OrphanIndex(parts) => {
                lists.extend(parts.iter().map(|part| part.page));
                "index of segments without a home"
            }
            ListPage::OrphanedSegments(rows) => {
                segments.extend(rows.iter().map(|row| row.page));
                "segments without a home"
            }
            ListPage::History(rows) => {
                lists.extend(rows.iter().map(|row| row.deferred));
                "retained checkpoints"
            }
            ListPage::Deferred(_) => "what only retained checkpoints need",
            ListPage::Unreadable(_) => "unreadable nodes",
        };
        found.entry(what).or_default().push(offset(&place));
    }
    segments.extend(surgeon.directory.table.iter().filter(|row| row.segment > 0).map(|row| row.metadata));
    for place in segments.iter().filter(|place| !place.is_none()) {
        if !SegmentPage::decode(&read(place)).unwrap().moved.is_empty() {
            found.entry("slot maps").or_default().push(offset(place));
        }
    }
    found
}

fn ground(name: &'static str) -> Ground {
    let is_closed = name != "left";
    let device = device_of(name);
    let block = device.geometry().logical_block_bytes;
    let before = device.image();
    let mounted = mount(&device);
    let mut random = Random(77);
    if name == "cleaned" {
        doomed(&mounted, &mut random);
        retain(&mounted, &mut random);
        mounted.act(|| mounted.ns.delete_tree(&CX, InodeId::ROOT, b"doomed"));
    }
    mounted.file(InodeId::ROOT, "stored", &random.bytes(9000));
    mounted.ns.checkpoint().unwrap();
    let published = device.image();
    let mut synced = device.image();
    for number in 0..3 {
        synced = device.image();
        mounted.file(InodeId::ROOT, &format!("logged {number}"), &random.bytes(5000));
        mounted.ns.sync().unwrap();
        if name == "adopts" && number == 0 {
            mounted.ns.checkpoint().unwrap();
        }
    }
    let Shown { files: expected, errors } = contents(&mounted.ns);
    assert_eq!(errors, BTreeMap::new());
    drop(mounted.ns);
    if is_closed {
        mounted.engine.close().unwrap();
    }
    drop(mounted.engine);
    let (mut image, sectors) = (device.image(), size(&device) / 512);
    let mut pages = BTreeSet::new();
    if name == "cleaned" {
        let old = old_pages(&device);
        for what in OLD_PAGES {
            let places = old.get(what).unwrap_or_else(|| panic!("no {what} in the store: {old:?}"));
            pages.extend(places.iter().take(3).map(|at| at / 512));
        }
    }
    if name == "adopts" {
        // Power failed between the CHECKPOINT record and the superblocks.
        let mut copy = [0; 4096];
        for at in Superblock::positions(size(&device)) {
            published.read(at, &mut copy);
            image.write(at, &copy);
        }
        let adopted =
            mount(&SimulatedDevice::from_image(image.clone(), block, 1)).engine.metrics().recovery.adopted.get();
        assert_eq!(adopted, 1, "there is no checkpoint to adopt");
    }
    let (mut now, mut then) = ([0; 512], [0; 512]);
    let is_new = |sector: &u64| {
        image.read(sector * 512, &mut now);
        synced.read(sector * 512, &mut then);
        now != then
    };
    let last_group = (0..sectors).filter(|_| !is_closed).filter(is_new).collect();
    Ground { name, block, image, before, expected, sectors, last_group, pages }
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
    /// Writing met an error.
    writes_ended: u64,
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
        self.writes_ended += other.writes_ended;
    }
}

fn run(ground: &Ground, sector: u64, fault: usize, counts: &mut Counts) {
    let store = ground.name;
    let what = format!("SWEEP_SECTOR={sector} SWEEP_FAULT={fault} SWEEP_STORE={store} ({})", FAULTS[fault]);
    // Bytes that a crash may leave. An error of the device it does not.
    let excused = fault < 4 && ground.last_group.contains(&sector);
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
        let device = SimulatedDevice::from_image(image, ground.block, sector);
        if fault == 4 {
            device.inject(Fault::ReadError { offset: sector * 512 });
        }
        device
    };
    let device = damaged();
    let is_cut;
    let mut refused = None;
    let mounted = try_mount(&device, false).or_else(|error| {
        counts.read_only += 1;
        refused = Some(error);
        try_mount(&damaged(), true)
    });
    match mounted {
        Ok(mounted) => {
            let shown = contents(&mounted.ns);
            let Shown { files: found, errors } = &shown;
            // A log that is cut leaves a prefix: what is missing is the last that was written. For writing it may only be the last group, before any watermark.
            let right = |path: &str| found.get(path).is_some_and(|bytes| ground.expected.get(path) == Some(bytes));
            let cut =
                |path: &str| !right(path) && found.get(path).is_none_or(|bytes| bytes.as_deref() == Some(&[][..]));
            let logged = ["/logged 0", "/logged 1", "/logged 2"];
            is_cut = logged.iter().any(|path| cut(path));
            if is_cut && mounted.engine.read_only().is_empty() {
                assert!(excused, "{what}: acknowledged operations are cut, and nobody says so");
                assert!(right(logged[0]) && right(logged[1]), "{what}: more than the last group is lost");
                counts.last_group += 1;
            }
            for (path, error) in errors {
                assert!(names_something(error), "{what}: {path}: the error names nothing: {error}");
            }
            // What is missing is missed by somebody: he must meet an error.
            for path in ground.expected.keys().filter(|path| !right(path)) {
                if logged.contains(&path.as_str()) && cut(path) {
                    let told = refused.as_deref().is_none_or(names_something);
                    assert!(told, "{what}: the log is cut, and nobody says where: {refused:?}");
                    continue;
                }
                let told = shown.on_the_way(path);
                assert!(told.is_some(), "{what}: {path} is not as it was, and no error says so");
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
    let cut = excused && is_cut;
    repaired(ground, &what, &damaged(), cut, &Contents::new(), counts);
    let device = damaged();
    if let Some(written) = written(&what, &device, sector, counts) {
        repaired(ground, &what, &device, cut, &written, counts);
    }
}

/// Somebody goes on writing; what was acknowledged. None if it does not mount for writing.
fn written(what: &str, device: &SimulatedDevice, seed: u64, counts: &mut Counts) -> Option<Contents> {
    let mounted = try_mount(device, false).ok()?;
    let ns = &mounted.ns;
    let mut random = Random(seed);
    let mut acknowledged = Contents::new();
    let mut write = |number: u32, acknowledged: &mut Contents| -> Result<()> {
        let (name, bytes) = (format!("written {number}"), random.bytes(7000));
        let made = ns.make(&CX, InodeId::ROOT, name.as_bytes(), &Make::File, 0o644)?;
        ns.write(&CX, made.id, 0, &bytes)?;
        ns.sync()?;
        acknowledged.insert(format!("/{name}"), Some(bytes));
        Ok(())
    };
    let result = write(0, &mut acknowledged).and_then(|()| ns.checkpoint()).and_then(|()| write(1, &mut acknowledged));
    if let Err(error) = result {
        counts.writes_ended += 1;
        let error = error.to_string();
        assert!(names_something(&error), "{what}: writing: the error names nothing: {error}");
    }
    let (seen, end) = (contents(ns), mounted.engine.close());
    for (path, bytes) in &acknowledged {
        assert_eq!(seen.files.get(path), Some(bytes), "{what}: {path} after it was written; {end:?}");
    }
    Some(acknowledged)
}

/// `fsck -y` repairs the device, and then everything is there that was, and what was `written`; but for what the report names.
fn repaired(ground: &Ground, what: &str, device: &SimulatedDevice, cut: bool, written: &Contents, counts: &mut Counts) {
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
    let log_lost = numbers.iter().any(|number| matches!(number, 201 | 203)) || cut;
    counts.log_given_up += u64::from(log_lost);
    let mounted =
        try_mount(device, false).unwrap_or_else(|error| panic!("{what}: after the repair: {error}\n{report}"));
    let Shown { files: found, errors } = contents(&mounted.ns);
    assert_eq!(errors, BTreeMap::new(), "{what}: after the repair");
    let lost: Vec<String> =
        report.repaired.iter().filter(|f| f.kind.by == By::Yes).map(|f| path_of(&f.place)).collect();
    let named = |path: &str| lost.iter().any(|place| path == place || path.starts_with(&format!("{place}/")));
    let mut end_of_log = false;
    for (path, right) in ground.expected.iter().chain(written) {
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
    for (path, bytes) in
        found.iter().filter(|(path, _)| !ground.expected.contains_key(*path) && !written.contains_key(*path))
    {
        // A file that lost all its names has another one, and is what it was.
        let renamed = path.contains("/lost+found #") && ground.expected.values().any(|expected| expected == bytes);
        assert!(renamed || is_kept(ground, path, bytes, &named), "{what}: {path} was never there:\n{report}");
    }
}

/// What a directory kept whose root is lost is in `/lost+found`: directories, and files with the name and the bytes that they had below what the report names.
fn is_kept(ground: &Ground, path: &str, bytes: &Option<Vec<u8>>, named: &dyn Fn(&str) -> bool) -> bool {
    let name = |path: &str| path.rsplit('/').next().map(str::to_owned);
    let is_file = |was: &str| named(was) && name(was) == name(path);
    let below = path.strip_prefix("/lost+found");
    below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        && (bytes.as_ref().is_some_and(Vec::is_empty)
            || ground.expected.iter().any(|(was, right)| is_file(was) && right == bytes))
}

/// An error that one can do something with: the object, the block of the log, the page of a segment, or another structure with its place.
fn names_something(error: &str) -> bool {
    ["object ", "log block ", "log record ", "page of segment ", "at device offset "].iter().any(|name| {
        error.split(name).nth(1).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == 'L'))
    })
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
    let wanted_store = std::env::var("SWEEP_STORE").ok();
    let stores = STORES.into_iter().filter(|name| wanted_store.as_deref().is_none_or(|wanted| wanted == *name));
    let grounds: Vec<Ground> = stores.map(ground).collect();
    assert!(!grounds.is_empty(), "SWEEP_STORE is one of {STORES:?}");
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let mut counts = Counts::default();
    if let (Some(sector), Some(fault)) = (number("SWEEP_SECTOR"), number("SWEEP_FAULT")) {
        run(&grounds[0], sector, fault as usize, &mut counts);
        println!("{counts:?}");
        return;
    }
    let all = number("SWEEP_ALL").is_some();
    let part = number("SWEEP_FROM").unwrap_or(0)..number("SWEEP_TO").unwrap_or(u64::MAX);
    let is_whole = part == (0..u64::MAX);
    let mut random = Random(number("SWEEP_SEED").unwrap_or(1));
    // Every fault of every sector, where the store was left of those that hold something; or so many of sectors that hold something, and where it was left all of the last group.
    let mut cases: Vec<(&Ground, u64, usize)> = Vec::new();
    let (mut used, mut exceptions) = (0, 0);
    for ground in &grounds {
        let mut held = [0; 512];
        let mut is_used = |sector: &u64| {
            ground.image.read(sector * 512, &mut held);
            held != [0; 512]
        };
        let sectors: Vec<u64> = part.clone().take_while(|sector| *sector < ground.sectors).collect();
        used += sectors.iter().filter(|sector| is_used(sector)).count();
        let every = |sector: u64| (0..FAULTS.len()).map(move |fault| (ground, sector, fault));
        let (last, others): (Vec<u64>, Vec<u64>) = sectors
            .into_iter()
            .filter(|sector| (all && ground.name == "closed") || is_used(sector))
            .partition(|sector| ground.last_group.contains(sector) || ground.pages.contains(sector));
        exceptions += ground.last_group.iter().filter(|sector| part.contains(sector)).count();
        let mut others: Vec<_> = others.into_iter().flat_map(every).collect();
        if !all {
            for index in 0..others.len() {
                let other = random.below(others.len());
                others.swap(index, other);
            }
            let wanted = number("SWEEP_CASES").unwrap_or(200) as usize;
            others.truncate(match ground.name {
                "closed" => wanted,
                "cleaned" => wanted / 6,
                _ => wanted / 3,
            });
        }
        cases.extend(last.into_iter().flat_map(every).chain(others));
    }
    let sectors: u64 = grounds.iter().map(|ground| ground.sectors).sum();
    println!("{} cases; {} stores of {sectors} sectors, {used} of which hold something", cases.len(), grounds.len());
    let threads = number("SWEEP_THREADS").unwrap_or(1).max(1) as usize;
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        let mut counts = Counts::default();
        while let Some((ground, sector, fault)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            // A panic is told where it happens; the other cases are tried all the same.
            let one = std::panic::AssertUnwindSafe(|| run(ground, *sector, *fault, &mut counts));
            if std::panic::catch_unwind(one).is_err() {
                println!("FAILED: SWEEP_SECTOR={sector} SWEEP_FAULT={fault} SWEEP_STORE={}", ground.name);
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
    println!("cut without a word: {} cases, all in the {exceptions} sectors of the last group", counts.last_group);
    assert!(counts.last_group > 0 || !is_whole || wanted_store.is_some(), "the exception was not exercised");
}
