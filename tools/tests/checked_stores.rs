//! Stores with files, forks, snapshots and links in them: `fsck.envoyfs` finds them clean, and finds what is then damaged.
//!
//! Shows: what namespace and engine publish keeps INV-02, 05, 06, 10 to 12, 27, 49 and 50 on a real device, judged by code that shares only the layout with them.
//! A seed is replayed with `STORE_SEED=n cargo test -p envoyfs-tools --test checked_stores`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

#[allow(dead_code, reason = "what other test files use of it")]
mod common;

use common::{Images, fsck, unchanged};
use envoyfs_engine::device::{OpenMode, UringDevice};
use envoyfs_engine::hlc::SystemClock;
use envoyfs_engine::{Engine, Options as EngineOptions, Settings};
use envoyfs_layout::ClientTag;
use envoyfs_layout::directory_page::DirectoryPage;
use envoyfs_layout::superblock::Superblock;
use envoyfs_namespace::api::*;
use envoyfs_namespace::{Namespace, Options};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

const CX: Context = Context::local(0, 0);

struct Random(u64);
impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()].clone()
    }
}

struct Mounted {
    namespace: Arc<Namespace>,
    engine: Arc<Engine>,
}

fn mount(path: &str) -> Mounted {
    let device = UringDevice::open(path, OpenMode::ReadWrite, true).unwrap();
    let options = EngineOptions {
        read_only: false,
        threads: true,
        accept_loss: false,
        clock: Arc::new(SystemClock::new()),
        settings: Settings::default(),
    };
    let engine = Arc::new(Engine::open_for(ClientTag::FILES, Arc::new(device), options).unwrap());
    let options = Options { node_cache_bytes: 8 << 20, threads: false, read_only: false, seed: [7; 16] };
    let namespace = Namespace::open(engine.clone(), options).unwrap();
    Mounted { namespace, engine }
}

impl Mounted {
    fn make(&self, parent: InodeId, name: &str, what: Make<'_>) -> Result<Attributes> {
        self.namespace.make(&CX, parent, name.as_bytes(), &what, 0o755)
    }
    fn file(&self, parent: InodeId, name: &str, bytes: &[u8]) -> InodeId {
        let id = self.make(parent, name, Make::File).unwrap().id;
        assert_eq!(self.namespace.write(&CX, id, 0, bytes).unwrap(), bytes.len());
        id
    }
    /// Closes; the last checkpoint holds everything.
    fn unmount(self) {
        self.namespace.close().unwrap();
        drop(self.namespace);
        self.engine.close().unwrap();
        drop(Arc::into_inner(self.engine).expect("nobody else holds the engine"));
    }
    /// Stops without a last checkpoint.
    fn abandon(self) {
        self.namespace.sync().unwrap();
        drop(self.namespace);
        self.engine.close().unwrap();
        drop(Arc::into_inner(self.engine).expect("nobody else holds the engine"));
    }
}

/// Directories from the view's root on, found by listing.
fn directories(mounted: &Mounted) -> Vec<(InodeId, InodeId, Vec<u8>)> {
    let mut found = vec![(InodeId::ROOT, InodeId::ROOT, Vec::new())];
    let mut next = 0;
    while next < found.len() && found.len() < 40 {
        let id = found[next].0;
        next += 1;
        for entry in list(mounted, id) {
            if entry.file_type == FileType::Directory {
                let attributes = mounted.namespace.lookup(&CX, id, &entry.name).unwrap();
                found.push((attributes.id, id, entry.name));
            }
        }
    }
    found
}

fn list(mounted: &Mounted, id: InodeId) -> Vec<DirectoryEntry> {
    let mut entries = Vec::new();
    mounted
        .namespace
        .readdir(&CX, id, 0, &mut |entry| {
            if entry.name != b"." && entry.name != b".." {
                entries.push(entry);
            }
            true
        })
        .unwrap();
    entries
}

/// One random operation. What the namespace refuses (EXDEV, not empty, ...) is no matter; damage is.
fn step(mounted: &Mounted, random: &mut Random) {
    let namespace = &mounted.namespace;
    let directories = directories(mounted);
    let (directory, parent, own_name) = random.pick(&directories);
    let (other, ..) = random.pick(&directories);
    let entries = list(mounted, directory);
    let files: Vec<DirectoryEntry> = entries.iter().filter(|e| e.file_type == FileType::Regular).cloned().collect();
    let name = format!("n{}", random.below(40));
    let bytes = vec![
        u8::try_from(random.below(256)).unwrap();
        usize::try_from(random.pick(&[10, 300, 4096, 5000, 70_000, 1_500_000])).unwrap()
    ];
    let offset = random.pick(&[0, 0, 4096, 100, 40_960, 1 << 20]);
    let result = match random.below(20) {
        0..=2 => mounted.make(directory, &name, Make::Directory).map(drop),
        3..=5 => mounted
            .make(directory, &name, Make::File)
            .and_then(|file| namespace.write(&CX, file.id, 0, &bytes))
            .map(drop),
        6 => mounted.make(directory, &name, Make::Symlink(b"somewhere/else")).map(drop),
        7..=9 if !files.is_empty() => {
            let file = random.pick(&files);
            namespace
                .lookup(&CX, directory, &file.name)
                .and_then(|a| namespace.write(&CX, a.id, offset, &bytes))
                .map(drop)
        }
        10 if !files.is_empty() => {
            let file = random.pick(&files);
            let set = SetAttributes { size: Some(random.pick(&[0, 77, 5000, 100_000])), ..SetAttributes::default() };
            namespace.lookup(&CX, directory, &file.name).and_then(|a| namespace.setattr(&CX, a.id, &set)).map(drop)
        }
        11 if !files.is_empty() => {
            let file = random.pick(&files);
            namespace
                .lookup(&CX, directory, &file.name)
                .and_then(|a| namespace.link(&CX, a.id, other, name.as_bytes()))
                .map(drop)
        }
        12 if !entries.is_empty() => namespace.unlink(&CX, directory, &random.pick(&entries).name),
        13 if !entries.is_empty() => {
            let entry = random.pick(&entries);
            namespace.rename(&CX, directory, &entry.name, other, name.as_bytes(), RenameMode::Replace)
        }
        14 | 15 if !own_name.is_empty() => namespace.fork(&CX, directory, InodeId::ROOT, name.as_bytes()).map(drop),
        16 => namespace.snapshot(&CX, directory, name.as_bytes()).map(drop),
        17 => namespace.delete_snapshot(&CX, directory, name.as_bytes()),
        18 if !own_name.is_empty() && random.below(3) == 0 => namespace.delete_tree(&CX, parent, &own_name),
        19 => namespace.checkpoint(),
        _ => Ok(()),
    };
    if let Err(Error::Store(error)) = result {
        panic!("{error}");
    }
}

fn seeds(default: std::ops::Range<u64>) -> std::ops::Range<u64> {
    match std::env::var("STORE_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => default,
    }
}

#[test]
fn whatever_was_done_the_published_checkpoint_is_clean() {
    for seed in seeds(0..6) {
        let images = Images::new();
        let path = images.store("history.img");
        let mut random = Random(seed);
        for mount_number in 0..3 {
            let mounted = mount(&path);
            for _ in 0..80 {
                step(&mounted, &mut random);
            }
            if random.below(2) == 0 {
                mounted.abandon();
            } else {
                mounted.unmount();
            }
            let answer = unchanged(&path, || fsck(&["-nf", &path]));
            assert_eq!(
                answer.code, 0,
                "STORE_SEED={seed}, mount {mount_number}:\n{}\n{}",
                answer.stdout, answer.stderr
            );
        }
    }
}

/// A store with a bit of everything, closed.
fn sample(images: &Images) -> String {
    let path = images.store("sample.img");
    let mounted = mount(&path);
    let top = mounted.make(InodeId::ROOT, "top", Make::Directory).unwrap().id;
    for number in 0..50_u8 {
        mounted.file(top, &format!("small {number}"), &[number; 100]);
        mounted.file(top, &format!("file {number}"), &[number; 20_000]);
    }
    let large: Vec<u8> = (0..3_000_000_u32).map(|i| i.to_le_bytes()[0]).collect();
    let id = mounted.file(top, "large", &large);
    for block in 0..30 {
        mounted.namespace.write(&CX, id, block * 65_536, &[9; 4096]).unwrap();
    }
    mounted.namespace.link(&CX, id, InodeId::ROOT, b"large again").unwrap();
    mounted.namespace.checkpoint().unwrap();
    mounted.namespace.fork(&CX, top, InodeId::ROOT, b"fork").unwrap();
    mounted.namespace.snapshot(&CX, top, b"before").unwrap();
    mounted.file(top, "after", b"later");
    mounted.unmount();
    path
}

#[test]
fn a_store_with_forks_and_snapshots_is_clean_and_counted() {
    let images = Images::new();
    let path = sample(&images);
    let answer = fsck(&["-f", "--json", &path]);
    assert_eq!(answer.code, 0, "{}", answer.stdout);
    let report: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap();
    let statistics = &report["statistics"];
    assert_eq!((&statistics["realms"], &statistics["snapshots"]), (&3.into(), &1.into()), "{statistics}");
    // Every block once, whoever shares it; of the file of zeros the last block is short.
    assert!(statistics["data_bytes"].as_u64().unwrap() >= 3_000_000 + 49 * 20_480, "{statistics}");
    assert!(statistics["shared_objects"].as_u64().unwrap() > 0, "{statistics}");
}

/// Flips a byte in every unit that starts with `needle`; how many there were.
fn damage(path: &str, needle: &[u8]) -> usize {
    let bytes = std::fs::read(path).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let mut hits = 0;
    let roots = roots_ranges(path);
    for unit in (0..bytes.len()).step_by(512) {
        // The copies of nodes in the roots objects stay.
        let copy = roots.iter().any(|roots| roots.contains(&(unit as u64)));
        if bytes[unit..].starts_with(needle) && !copy {
            file.write_all_at(&[bytes[unit + 45] ^ 1], (unit + 45) as u64).unwrap();
            hits += 1;
        }
    }
    hits
}

#[test]
fn damaged_file_data_is_named_by_path_and_offset() {
    let images = Images::new();
    let path = sample(&images);
    // The blocks of "file 7" are all sevens.
    assert!(damage(&path, &[7; 4096]) >= 4);
    let answer = unchanged(&path, || fsck(&["-nf", &path]));
    assert_eq!(answer.code, 4, "{answer:?}");
    assert!(answer.stdout.contains("F500: /top/file 7 at byte 4096"), "{}", answer.stdout);
    let answer = fsck(&["-nf", "--no-data", &path]);
    assert_eq!(answer.code, 0, "{answer:?}");
}

#[test]
fn a_damaged_node_is_named_and_nothing_is_called_leaked() {
    let images = Images::new();
    let path = sample(&images);
    assert!(damage(&path, b"EVND\x01\x01") > 0);
    let answer = unchanged(&path, || fsck(&["-nf", &path]));
    assert_eq!(answer.code, 4, "{answer:?}");
    assert!(answer.stdout.contains("F401"), "{}", answer.stdout);
    assert!(!answer.stdout.contains("F602") && !answer.stdout.contains("F600"), "{}", answer.stdout);
}

/// Byte offsets of the published roots object and its twin.
fn roots_positions(path: &str) -> [u64; 2] {
    roots_ranges(path).map(|range| range.start)
}

fn roots_ranges(path: &str) -> [std::ops::Range<u64>; 2] {
    let bytes = std::fs::read(path).unwrap();
    let superblock = Superblock::decode(&bytes, 0).unwrap();
    let at = usize::try_from(superblock.slot_positions()[0]).unwrap();
    let page = DirectoryPage::decode(&bytes[at..], &superblock.seed, superblock.directory_crc).unwrap();
    let table = usize::try_from(superblock.table_positions(page.base.slot)[0]).unwrap();
    let directory = page.over(&bytes[table..], &superblock.seed, superblock.containers).unwrap();
    [directory.entry.roots, directory.entry.roots_twin].map(|reference| {
        let (oid, length) = (reference.unwrap().oid, u64::from(reference.unwrap().stored_bytes));
        let home = directory.table.iter().position(|row| row.segment == oid.segment()).unwrap();
        let at = superblock.segments_offset
            + home as u64 * u64::from(superblock.segment_bytes)
            + u64::from(oid.slot()) * 512;
        at..at + length
    })
}

#[test]
fn one_damaged_roots_object_leaves_the_other() {
    let images = Images::new();
    let path = sample(&images);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let [first, twin] = roots_positions(&path);
    file.write_all_at(&[0xff], first + 60).unwrap();
    let answer = unchanged(&path, || fsck(&["-nf", &path]));
    assert_eq!(answer.code, 4, "{answer:?}");
    assert!(answer.stdout.contains("F406") && answer.stdout.contains("3 trees (1 snapshot)"), "{}", answer.stdout);
    file.write_all_at(&[0xff], twin + 60).unwrap();
    let answer = unchanged(&path, || fsck(&["-nf", &path]));
    assert_eq!(answer.code, 8, "{answer:?}");
    assert!(answer.stdout.contains("F407"), "{}", answer.stdout);
}

#[test]
fn a_log_with_records_is_a_note() {
    let images = Images::new();
    let path = images.store("dirty.img");
    let mounted = mount(&path);
    mounted.namespace.checkpoint().unwrap();
    mounted.file(InodeId::ROOT, "unstored", &[1; 9000]);
    mounted.abandon();
    let answer = unchanged(&path, || fsck(&["-nf", &path]));
    assert_eq!(answer.code, 0, "{answer:?}");
    assert!(answer.stdout.contains("F200"), "{}", answer.stdout);
}
