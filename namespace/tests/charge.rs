//! What operations reserve of nodes and payloads is at least what the next checkpoint writes (INV-24, INV-26), and not many times as much; and sizes at which anything
//! quadratic or recursive would show.
//!
//! `cargo test -p envoyfs-namespace --test charge -- --nocapture` prints the ratios.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "measures time")]

mod common;

use common::*;
use envoyfs_engine::memory::{MemoryOptions, MemoryStore};
use envoyfs_engine::store::*;
use envoyfs_layout::{Hlc, Lsn, Oid, Reference, ReferenceKind};
use envoyfs_namespace::api::{Error, InodeId, Make, RenameMode, SetAttributes, XattrMode};
use envoyfs_namespace::{Namespace, Options};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Bytes of objects are multiples of this.
const UNIT: u64 = 512;

/// A store that compares reservations with what is written.
struct Measured {
    inner: MemoryStore,
    reserved: AtomicU64,
    written: AtomicU64,
}

impl Store for Measured {
    fn reserve(&self, need: Need) -> Result<Permit> {
        let permit = self.inner.reserve(need)?;
        self.reserved.fetch_add(need.node_bytes + need.payload_bytes, Ordering::Relaxed);
        Ok(permit)
    }
    fn append_node(&self, batch: Batch, kind: ReferenceKind, flags: u8, birth: Hlc, bytes: &[u8]) -> Result<Reference> {
        self.written.fetch_add((bytes.len() as u64).next_multiple_of(UNIT), Ordering::Relaxed);
        self.inner.append_node(batch, kind, flags, birth, bytes)
    }
    fn append_payload(&self, batch: Batch, birth: Hlc, data: &[u8]) -> Result<DataObject> {
        self.written.fetch_add((data.len() as u64).next_multiple_of(UNIT), Ordering::Relaxed);
        self.inner.append_payload(batch, birth, data)
    }
    fn limits(&self) -> Limits {
        self.inner.limits()
    }
    fn wall_ns(&self) -> i64 {
        self.inner.wall_ns()
    }
    fn number(&self, counter: Counter) -> Result<u64> {
        self.inner.number(counter)
    }
    fn append_data(&self, permit: &mut Permit, after: Option<(Oid, u32)>, data: &[u8]) -> Result<DataObject> {
        self.inner.append_data(permit, after, data)
    }
    fn abandon_data(&self, object: &DataObject) {
        self.inner.abandon_data(object);
    }
    fn append(&self, permit: &mut Permit, draft: Draft<'_>) -> Result<Appended> {
        self.inner.append(permit, draft)
    }
    fn commit(&self, lsn: Lsn) -> Result<()> {
        self.inner.commit(lsn)
    }
    fn on_durable(&self, lsn: Lsn, done: OnDurable) {
        self.inner.on_durable(lsn, done);
    }
    fn end(&self) -> Lsn {
        self.inner.end()
    }
    fn read_node(&self, reference: &Reference) -> Result<Arc<[u8]>> {
        self.inner.read_node(reference)
    }
    fn read_data(&self, oid: Oid, first: u32, crcs: &[u32], into: &mut [u8]) -> Result<()> {
        self.inner.read_data(oid, first, crcs, into)
    }
    fn wait_checkpoint(&self, timeout_ms: u64) -> Option<Reason> {
        self.inner.wait_checkpoint(timeout_ms)
    }
    fn freeze(&self) -> Result<Frozen> {
        self.inner.freeze()
    }
    fn pin(&self) -> Pin {
        self.inner.pin()
    }
    fn publish(&self, frozen: Frozen, roots: Roots, changes: Changes) -> Result<()> {
        self.inner.publish(frozen, roots, changes)
    }
    fn abandon(&self, frozen: Frozen) -> Result<()> {
        self.inner.abandon(frozen)
    }
    fn recovered_roots(&self) -> Roots {
        self.inner.recovered_roots()
    }
    fn take_replay(&self) -> Vec<Replayed> {
        self.inner.take_replay()
    }
    fn usage(&self) -> Usage {
        self.inner.usage()
    }
    fn poisoned(&self) -> Option<String> {
        self.inner.poisoned()
    }
}

/// What every checkpoint may write beyond what operations reserved: the roots of the realm and territory tables and of the view.
const CHECKPOINT_BYTES: u64 = 4096;

struct Fixture {
    store: Arc<Measured>,
    ns: Arc<Namespace>,
}

impl Fixture {
    fn new() -> Self {
        let inner = MemoryStore::new(MemoryOptions::default());
        let store = Arc::new(Measured { inner, reserved: AtomicU64::new(0), written: AtomicU64::new(0) });
        let options = Options { node_cache_bytes: 64 << 20, threads: false, read_only: false, seed: [7; 16] };
        let ns = Namespace::open(store.clone(), options).unwrap();
        let fixture = Self { store, ns };
        fixture.store.written.store(0, Ordering::Relaxed);
        fixture
    }
    /// A checkpoint of all since the last one. The reservation is a bound, and with at least `least` bytes written no more than `most` times as much.
    fn checkpoint(&self, what: &str, most: u64) {
        self.ns.checkpoint().unwrap();
        let reserved = self.store.reserved.swap(0, Ordering::Relaxed);
        let written = self.store.written.swap(0, Ordering::Relaxed);
        let ratio = reserved as f64 / written as f64;
        println!("{what:50} reserved {:>9} KiB, written {:>9} KiB: {ratio:.2}", reserved / 1024, written / 1024);
        assert!(written <= reserved + CHECKPOINT_BYTES, "{what}: {written} bytes written, {reserved} reserved");
        assert!(
            reserved <= written.saturating_mul(most) + 64 * 1024,
            "{what}: {written} bytes written, {reserved} reserved"
        );
    }
    fn make(&self, at: InodeId, name: &str, make: &Make<'_>) -> InodeId {
        self.ns.make(&CX, at, name.as_bytes(), make, 0o755).unwrap().id
    }
    fn forget(&self, id: InodeId) {
        self.ns.forget(id, 1);
    }
    fn file(&self, at: InodeId, name: &str) {
        self.forget(self.make(at, name, &Make::File));
    }
}

const ROOT: InodeId = InodeId::ROOT;

#[test]
fn many_files_in_many_directories() {
    let f = Fixture::new();
    let dirs: Vec<_> = (0..300).map(|d| f.make(ROOT, &format!("directory {d}"), &Make::Directory)).collect();
    f.checkpoint("300 empty directories", 6);
    for (d, dir) in dirs.iter().enumerate() {
        (0..100).for_each(|i| f.file(*dir, &format!("a file with a name of usual length {d} {i}")));
    }
    f.checkpoint("100 files in each of 300 directories", 4);
    for dir in &dirs {
        f.file(*dir, "one more");
    }
    f.checkpoint("one more in each", 4);
    for dir in &dirs {
        let set = SetAttributes { uid: Some(1), ..SetAttributes::default() };
        f.ns.setattr(&CX, *dir, &set).unwrap();
    }
    f.checkpoint("chown of each directory", 40); // their roots are small
    for (d, dir) in dirs.iter().enumerate() {
        for i in 0..100 {
            let name = format!("a file with a name of usual length {d} {i}");
            let id = f.ns.lookup(&CX, *dir, name.as_bytes()).unwrap().id;
            f.ns.write(&CX, id, 0, &[1; 200]).unwrap();
            f.forget(id);
        }
    }
    f.checkpoint("200 bytes into each of 30000 files", 70); // 12 KiB are reserved for a payload that may end in the inode
    for (d, dir) in dirs.iter().enumerate() {
        for i in 0..100 {
            let name = format!("a file with a name of usual length {d} {i}");
            f.ns.unlink(&CX, *dir, name.as_bytes()).unwrap();
        }
    }
    f.checkpoint("unlink of 30000 files", u64::MAX >> 40); // what is left is small
}

#[test]
fn one_large_directory_takes_linear_time() {
    let f = Fixture::new();
    let dir = f.make(ROOT, "large", &Make::Directory);
    let each = |what: &str, run: &dyn Fn(usize)| {
        let mut parts = Vec::new();
        for part in 0..4 {
            let start = Instant::now();
            (part * 25_000..(part + 1) * 25_000).for_each(run);
            parts.push(start.elapsed().as_secs_f64());
        }
        println!("{what:50} 4 x 25000: {parts:.3?} s");
        assert!(parts[3] < parts[0] * 8.0 + 0.5, "{what}: {parts:?}");
    };
    let name = |i: usize| format!("file {i}");
    each("create", &|i| f.file(dir, &name(i)));
    f.checkpoint("100000 files in one directory", 4);
    each("lookup", &|i| f.forget(f.ns.lookup(&CX, dir, name(i).as_bytes()).unwrap().id));
    let start = Instant::now();
    assert_eq!(names(&f.ns, dir).len(), 100_000);
    println!("readdir of 100000: {:.3} s", start.elapsed().as_secs_f64());
    // Every leaf is touched, few items each; also in a directory that was just read from the store.
    let touch = |f: &Fixture, dir: InodeId, what: &str| {
        for i in (0..100_000).step_by(50) {
            let id = f.ns.lookup(&CX, dir, name(i).as_bytes()).unwrap().id;
            f.ns.setattr(&CX, id, &SetAttributes { uid: Some(5), ..SetAttributes::default() }).unwrap();
            f.forget(id);
        }
        f.checkpoint(what, 8);
    };
    touch(&f, dir, "chown of 2000 of 100000");
    f.forget(dir);
    let dir = f.ns.lookup(&CX, ROOT, b"large").unwrap().id;
    for i in (0..100_000).step_by(60) {
        f.ns.unlink(&CX, dir, name(i).as_bytes()).unwrap();
        f.file(dir, &name(i));
    }
    f.checkpoint("unlink and create of 1700 of 100000, just loaded", 6);
    each("unlink", &|i| f.ns.unlink(&CX, dir, name(i).as_bytes()).unwrap());
    f.checkpoint("unlink of 100000", u64::MAX >> 40);
    f.ns.rmdir(&CX, ROOT, b"large").unwrap();
}

#[test]
fn ten_thousand_levels_need_no_stack() {
    const LEVELS: usize = 10_000;
    let f = Fixture::new();
    let mut path = vec![ROOT];
    for _ in 0..LEVELS {
        path.push(f.make(*path.last().unwrap(), "d", &Make::Directory));
    }
    f.checkpoint("10000 levels", 8);
    let deepest = *path.last().unwrap();
    f.file(deepest, "file");
    f.checkpoint("a file 10000 levels down", 8);
    let into_itself = f.ns.rename(&CX, ROOT, b"d", deepest, b"x", RenameMode::Replace);
    assert!(matches!(into_itself, Err(Error::Invalid(_))));
    let fork = f.ns.fork(&CX, path[1], ROOT, b"fork").unwrap();
    f.forget(fork.id);
    f.ns.snapshot(&CX, ROOT, b"no").unwrap_err();
    path.iter().skip(1).rev().for_each(|id| f.forget(*id));
    assert!(f.ns.status().live_inodes < 10, "all were forgotten");
    f.checkpoint("a fork of 10000 levels", u64::MAX >> 40); // counts the refused rename
    // A second mount, and a drop of the whole chain at once.
    let store = Arc::new(f.store.inner.crash(f.store.end()));
    let ns = open(&store);
    let mut at = ROOT;
    for _ in 0..LEVELS {
        at = ns.lookup(&CX, at, b"d").unwrap().id;
    }
    drop(ns);
    f.ns.delete_tree(&CX, ROOT, b"d").unwrap();
    f.ns.delete_tree(&CX, ROOT, b"fork").unwrap();
    for _ in 0..3 {
        f.ns.checkpoint().unwrap();
    }
    f.store.inner.assert_quiescent();
}

#[test]
fn extreme_items() {
    let f = Fixture::new();
    let dir = f.make(ROOT, "xattrs", &Make::Directory);
    for i in 0..500 {
        let id = f.make(dir, &format!("{i:0250}"), &Make::File);
        f.ns.setxattr(&CX, id, b"user.large", &[1; 900], XattrMode::Any).unwrap();
        f.forget(id);
    }
    f.checkpoint("500 long names with large xattrs", 4);
    for i in 0..500 {
        let id = f.ns.lookup(&CX, dir, format!("{i:0250}").as_bytes()).unwrap().id;
        let set = SetAttributes { uid: Some(1), ..SetAttributes::default() };
        f.ns.setattr(&CX, id, &set).unwrap();
        f.forget(id);
    }
    f.checkpoint("chown of these", 12); // long names, few in a node
    let dir = f.make(ROOT, "symlinks", &Make::Directory);
    for i in 0..500 {
        f.forget(f.make(dir, &format!("{i}"), &Make::Symlink(&[b't'; 4000])));
    }
    f.checkpoint("500 symlinks of 4000 bytes", 4);
    let dir = f.make(ROOT, "links", &Make::Directory);
    for i in 0..500 {
        let id = f.make(dir, &format!("{i}"), &Make::File);
        f.forget(f.ns.link(&CX, id, ROOT, format!("link {i}").as_bytes()).unwrap().id);
        f.forget(id);
    }
    f.checkpoint("500 linked files", 20);
    for i in 0..500 {
        let id = f.ns.lookup(&CX, ROOT, format!("link {i}").as_bytes()).unwrap().id;
        let set = SetAttributes { uid: Some(1), ..SetAttributes::default() };
        f.ns.setattr(&CX, id, &set).unwrap();
        f.forget(id);
    }
    f.checkpoint("chown of these", 25);
    let file = f.make(ROOT, "sparse", &Make::File);
    for i in 0..3000 {
        f.ns.write(&CX, file, i * 10 * 4096, &[1; 4096]).unwrap();
    }
    f.checkpoint("3000 single blocks in one file", 12);
    let mut random = Random(4);
    for _ in 0..200 {
        f.ns.write(&CX, file, random.below(30_000) as u64 * 4096, &[3; 8192]).unwrap();
    }
    f.checkpoint("200 random overwrites in it", 12);
    for i in 0..3000 {
        f.ns.write(&CX, file, i * 10 * 4096 + 100, &[2; 10]).unwrap();
    }
    f.checkpoint("10 bytes in each of these", 5);
    f.forget(file);
    for i in 0..300 {
        f.ns.snapshot(&CX, ROOT, format!("{i:0200}").as_bytes()).map(|a| f.forget(a.id)).unwrap();
    }
    f.checkpoint("300 snapshots", 64);
    for i in 0..300 {
        f.ns.fork(&CX, dir, ROOT, format!("{i:0200}").as_bytes()).map(|a| f.forget(a.id)).unwrap();
    }
    f.checkpoint("300 forks", 40);
}

#[test]
fn reservations_bound_random_histories() {
    let (mut reserved_in_all, mut written_in_all) = (0, 0);
    for seed in 0..30 {
        let f = Fixture::new();
        let mut random = Random(seed);
        let mut dirs = vec![ROOT];
        for step in 0..1500 {
            let (a, b) = (dirs[random.below(dirs.len())], dirs[random.below(dirs.len())]);
            let (name, other) = (format!("{}", random.below(30)), format!("{}", random.below(30)));
            let (name, other) = (name.as_bytes(), other.as_bytes());
            let found = f.ns.lookup(&CX, a, name).map(|found| found.id);
            match (random.below(20), &found) {
                (0..=4, _) => {
                    let _exists = f.ns.make(&CX, a, name, &Make::File, 0o644).map(|made| f.forget(made.id));
                }
                (5, _) if dirs.len() < 12 => {
                    let _exists = f.ns.make(&CX, a, name, &Make::Directory, 0o755).map(|made| dirs.push(made.id));
                }
                (6, _) => {
                    let _exists =
                        f.ns.make(&CX, a, name, &Make::Symlink(&[b'x'; 2000]), 0o777).map(|made| f.forget(made.id));
                }
                (7..=9, Ok(id)) => {
                    let bytes = vec![7; [10, 300, 5000, 9000][random.below(4)]];
                    let _no_file = f.ns.write(&CX, *id, 4096 * random.below(40) as u64 + 7 * (step % 2), &bytes);
                }
                (10, Ok(id)) => {
                    let _snapshot = f.ns.setxattr(&CX, *id, b"user.x", &random.bytes(700), XattrMode::Any);
                }
                (11..=12, Ok(_)) => {
                    let mode = if step % 3 == 0 { RenameMode::Exchange } else { RenameMode::Replace };
                    let _refused = f.ns.rename(&CX, a, name, b, other, mode);
                }
                (13..=14, Ok(id)) => {
                    let _refused = f.ns.link(&CX, *id, b, other).map(|linked| f.forget(linked.id));
                }
                (15, Ok(id)) => {
                    let open = f.ns.open_file(&CX, *id, false).is_ok();
                    let _directory = f.ns.unlink(&CX, a, name);
                    if open && random.below(2) == 0 {
                        f.ns.close_file(&CX, *id).unwrap();
                    }
                }
                (16, Ok(_)) => {
                    let _directory = f.ns.unlink(&CX, a, name);
                }
                (17, Ok(id)) if random.below(4) == 0 => {
                    let _refused = f.ns.fork(&CX, *id, b, other).map(|fork| f.forget(fork.id));
                }
                (18, _) if random.below(4) == 0 => {
                    let _refused = f.ns.snapshot(&CX, a, name).map(|snapshot| f.forget(snapshot.id));
                }
                (19, Ok(_)) if random.below(6) == 0 => {
                    let _gone = f.ns.delete_tree(&CX, a, name);
                    dirs.retain(|id| f.ns.getattr(&CX, *id).is_ok());
                }
                _ => {}
            }
            let _none = found.map(|id| f.forget(id));
            if random.below(60) == 0 {
                f.ns.checkpoint().unwrap();
                let reserved = f.store.reserved.swap(0, Ordering::Relaxed);
                let written = f.store.written.swap(0, Ordering::Relaxed);
                assert!(
                    written <= reserved + CHECKPOINT_BYTES,
                    "seed {seed} step {step}: {written} bytes written, {reserved} reserved"
                );
                reserved_in_all += reserved;
                written_in_all += written;
            }
        }
    }
    println!("random histories: {:.2}", reserved_in_all as f64 / written_in_all as f64);
}
