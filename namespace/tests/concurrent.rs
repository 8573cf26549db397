//! Many threads on the same few directories, with checkpoints all the time: nothing hangs, no acknowledged change is lost, and what a crash and a replay make of the log is
//! what the threads saw.
//!
//! Shows INV-21, INV-22, INV-24 and the lock order of decision 0004. A seed is replayed with `CONCURRENT_SEED=n cargo test -p envoyfs-namespace --test concurrent`; the
//! interleaving is the machine's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]
#![allow(clippy::disallowed_methods, reason = "the test's own threads")]

mod common;

use common::*;
use envoyfs_engine::memory::{MemoryOptions, MemoryStore};
use envoyfs_engine::store::Store;
use envoyfs_namespace::Namespace;
use envoyfs_namespace::api::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Directories that nobody removes: what is in them is known.
const KEPT: [&str; 3] = ["", "k0", "k1"];
/// Names that all threads fight for.
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// What may go wrong when others change the same names.
fn expected(error: &Error) -> bool {
    use Error::*;
    matches!(
        error,
        NotFound
            | Exists
            | NotDirectory
            | IsDirectory
            | NotEmpty(_)
            | Invalid(_)
            | CrossRealm(_)
            | Stale
            | NotPermitted(_)
    )
}

fn tolerate<T>(what: &str, result: Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            assert!(expected(&error), "{what}: {error:?}");
            None
        }
    }
}

/// It worked, or somebody else was first.
fn done<T>(_: Option<T>) {}

/// A file that only one thread knows, and what is in it.
struct Own {
    directory: usize,
    name: String,
    contents: Vec<u8>,
}

struct Worker {
    ns: Arc<Namespace>,
    random: Random,
    number: usize,
    own: Vec<Own>,
    made: usize,
}

impl Worker {
    /// A directory that others may remove at any time; known to the front end until it is released.
    fn directory(&mut self) -> Option<Vec<InodeId>> {
        let mut path = vec![InodeId::ROOT];
        if self.random.below(4) > 0 {
            let kept = self.random.below(3);
            if kept > 0 {
                path.push(self.ns.lookup(&CX, InodeId::ROOT, KEPT[kept].as_bytes()).unwrap().id);
            }
        }
        for _ in 0..self.random.below(3) {
            let name = NAMES[self.random.below(NAMES.len())];
            match self.ns.lookup(&CX, *path.last().unwrap(), name.as_bytes()) {
                Ok(a) => {
                    path.push(a.id);
                    if a.file_type != FileType::Directory {
                        self.release(path);
                        return None;
                    }
                }
                Err(error) => {
                    assert!(expected(&error), "lookup: {error:?}");
                    break;
                }
            }
        }
        Some(path)
    }

    fn release(&self, path: Vec<InodeId>) {
        for id in path.into_iter().rev().filter(|id| *id != InodeId::ROOT) {
            self.ns.forget(id, 1);
        }
    }

    fn kept(&self, which: usize) -> InodeId {
        match which {
            0 => InodeId::ROOT,
            _ => self.ns.lookup(&CX, InodeId::ROOT, KEPT[which].as_bytes()).unwrap().id,
        }
    }

    fn name(&mut self) -> &'static [u8] {
        NAMES[self.random.below(NAMES.len())].as_bytes()
    }

    fn step(&mut self) {
        if self.random.below(4) == 0 {
            return self.own_step();
        }
        let Some(path) = self.directory() else { return };
        let Some(other) = self.directory() else { return self.release(path) };
        let (at, to) = (*path.last().unwrap(), *other.last().unwrap());
        let (name, new) = (self.name(), self.name());
        let ns = self.ns.clone();
        let forget = |made: Option<Attributes>| made.into_iter().for_each(|a| ns.forget(a.id, 1));
        match self.random.below(100) {
            0..=19 => forget(tolerate("create", ns.make(&CX, at, name, &Make::File, 0o644))),
            20..=29 => forget(tolerate("mkdir", ns.make(&CX, at, name, &Make::Directory, 0o755))),
            30..=31 => forget(tolerate("symlink", ns.make(&CX, at, name, &Make::Symlink(b"target"), 0o777))),
            32..=45 => {
                if let Some(a) = tolerate("lookup", ns.lookup(&CX, at, name)) {
                    if a.file_type == FileType::Regular {
                        let len = [1, 300, 4096, 9000][self.random.below(4)];
                        let offset = [0, 100, 4096][self.random.below(3)];
                        let bytes = self.random.bytes(len);
                        tolerate("write", ns.write(&CX, a.id, offset, &bytes));
                        let mut into = vec![0; 5000];
                        match ns.read(&CX, a.id, 0, &mut into) {
                            // Space of what was deleted may be gone already: an error, never other bytes.
                            Err(Error::Store(_)) => assert!(ns.getattr(&CX, a.id).is_err() || gone(&ns, a.id)),
                            other => done(tolerate("read", other)),
                        }
                    }
                    ns.forget(a.id, 1);
                }
            }
            46..=59 => {
                let mode = match self.random.below(6) {
                    0 => RenameMode::Exchange,
                    1 => RenameMode::NoReplace,
                    _ => RenameMode::Replace,
                };
                done(tolerate("rename", ns.rename(&CX, at, name, to, new, mode)));
            }
            60..=66 => {
                if let Some(a) = tolerate("lookup", ns.lookup(&CX, at, name)) {
                    forget(tolerate("link", ns.link(&CX, a.id, to, new)));
                    ns.forget(a.id, 1);
                }
            }
            67..=76 => done(tolerate("unlink", ns.unlink(&CX, at, name))),
            77..=80 => done(tolerate("rmdir", ns.rmdir(&CX, at, name))),
            81..=83 => {
                let mut count = 0;
                let listed = ns.readdir(&CX, at, 0, &mut |_| {
                    count += 1;
                    true
                });
                done(tolerate("readdir", listed));
            }
            84..=87 => {
                if let Some(a) = tolerate("lookup", ns.lookup(&CX, at, name)) {
                    forget(tolerate("fork", ns.fork(&CX, a.id, to, new)));
                    ns.forget(a.id, 1);
                }
            }
            88..=89 => {
                let label = format!("s{}", self.random.below(3));
                forget(tolerate("snapshot", ns.snapshot(&CX, at, label.as_bytes())));
            }
            90..=91 => {
                let label = format!("s{}", self.random.below(3));
                done(tolerate("drop snapshot", ns.delete_snapshot(&CX, at, label.as_bytes())));
            }
            92..=93 => done(tolerate("delete_tree", ns.delete_tree(&CX, at, name))),
            94..=96 => {
                if let Some(a) = tolerate("lookup", ns.lookup(&CX, at, name)) {
                    let set = SetAttributes {
                        permissions: Some(0o600 + self.random.below(8) as u16),
                        size: (a.file_type == FileType::Regular && self.random.below(2) == 0)
                            .then(|| self.random.below(9000) as u64),
                        ..SetAttributes::default()
                    };
                    done(tolerate("setattr", ns.setattr(&CX, a.id, &set)));
                    done(tolerate("setxattr", ns.setxattr(&CX, a.id, b"user.x", name, XattrMode::Any)));
                    ns.forget(a.id, 1);
                }
            }
            _ => self.open_and_remove(at, name),
        }
        self.release(path);
        self.release(other);
    }

    /// A shared file, open while somebody (or we) may remove it.
    fn open_and_remove(&mut self, at: InodeId, name: &[u8]) {
        let ns = self.ns.clone();
        let Some(a) = tolerate("lookup", ns.lookup(&CX, at, name)) else { return };
        if a.file_type == FileType::Regular && tolerate("open", ns.open_file(&CX, a.id, true)).is_some() {
            done(tolerate("unlink", ns.unlink(&CX, at, name)));
            done(tolerate("write", ns.write(&CX, a.id, 50, b"into what may be an orphan")));
            ns.close_file(&CX, a.id).unwrap();
        }
        ns.forget(a.id, 1);
    }

    fn own_step(&mut self) {
        let ns = self.ns.clone();
        if self.own.len() < 3 {
            self.made += 1;
            let (directory, name) = (self.random.below(3), format!("own-{}-{}", self.number, self.made));
            let at = self.kept(directory);
            let made = ns.make(&CX, at, name.as_bytes(), &Make::File, 0o600).unwrap();
            ns.forget(made.id, 1);
            self.release(vec![at]);
            self.own.push(Own { directory, name, contents: Vec::new() });
            return;
        }
        let which = self.random.below(self.own.len());
        let (directory, name) = (self.own[which].directory, self.own[which].name.clone());
        let at = self.kept(directory);
        let id = ns.lookup(&CX, at, name.as_bytes()).unwrap().id;
        match self.random.below(10) {
            0..=3 => {
                let len = [10, 300, 4096, 20_000][self.random.below(4)];
                let offset = [0, 77, 4096, 8192][self.random.below(4)];
                let bytes = self.random.bytes(len);
                assert_eq!(ns.write(&CX, id, offset as u64, &bytes).unwrap(), len);
                let contents = &mut self.own[which].contents;
                contents.resize(contents.len().max(offset + len), 0);
                contents[offset..offset + len].copy_from_slice(&bytes);
            }
            4..=5 => {
                let (to, new) = (self.random.below(3), format!("{name}+"));
                let to_id = self.kept(to);
                ns.rename(&CX, at, name.as_bytes(), to_id, new.as_bytes(), RenameMode::Replace).unwrap();
                self.release(vec![to_id]);
                (self.own[which].directory, self.own[which].name) = (to, new);
            }
            6 => {
                // Another name, through which it is moved.
                let (to, new) = (self.random.below(3), format!("{name}="));
                let to_id = self.kept(to);
                let linked = ns.link(&CX, id, to_id, new.as_bytes()).unwrap();
                assert_eq!((linked.id, linked.nlink), (id, 2));
                ns.unlink(&CX, at, name.as_bytes()).unwrap();
                assert_eq!(ns.getattr(&CX, id).unwrap().nlink, 1);
                ns.forget(id, 1);
                self.release(vec![to_id]);
                (self.own[which].directory, self.own[which].name) = (to, new);
            }
            7 => {
                // Open, removed, written, read, closed.
                ns.open_file(&CX, id, true).unwrap();
                ns.unlink(&CX, at, name.as_bytes()).unwrap();
                ns.write(&CX, id, 0, b"orphan").unwrap();
                let own = self.own.swap_remove(which);
                let mut want = own.contents;
                want.resize(want.len().max(6), 0);
                want[..6].copy_from_slice(b"orphan");
                assert_eq!(contents(&ns, id), want);
                ns.close_file(&CX, id).unwrap();
            }
            _ => assert!(contents(&ns, id) == self.own[which].contents, "contents of {name}"),
        }
        ns.forget(id, 1);
        self.release(vec![at]);
    }
}

/// Was it deleted with a tree around it? Changes of it are refused then.
fn gone(ns: &Namespace, id: InodeId) -> bool {
    ns.setattr(&CX, id, &SetAttributes { permissions: Some(0o600), ..SetAttributes::default() }).is_err()
}

fn contents(ns: &Namespace, id: InodeId) -> Vec<u8> {
    let size = ns.getattr(&CX, id).unwrap().size as usize;
    let mut bytes = vec![0xee; size + 10];
    let n = ns.read(&CX, id, 0, &mut bytes).unwrap();
    bytes.truncate(n);
    bytes
}

fn check_own(ns: &Namespace, own: &[Own]) {
    for own in own {
        let at = match own.directory {
            0 => InodeId::ROOT,
            which => ns.lookup(&CX, InodeId::ROOT, KEPT[which].as_bytes()).unwrap().id,
        };
        let id = ns.lookup(&CX, at, own.name.as_bytes()).unwrap().id;
        assert!(contents(ns, id) == own.contents, "contents of {}", own.name);
        ns.forget(id, 1);
        if at != InodeId::ROOT {
            ns.forget(at, 1);
        }
    }
}

/// Ends the process if it takes too long: a test that hangs says nothing.
fn watchdog(seed: u64) -> mpsc::Sender<()> {
    let (done, wait) = mpsc::channel();
    std::thread::spawn(move || {
        if wait.recv_timeout(Duration::from_secs(300)) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("CONCURRENT_SEED={seed} hangs: deadlock");
            std::process::abort();
        }
    });
    done
}

fn run(seed: u64, threads: usize, steps: usize) {
    let _watched = watchdog(seed);
    let store = Arc::new(MemoryStore::new(MemoryOptions { drops_per_checkpoint: 50, ..MemoryOptions::default() }));
    let ns = open(&store);
    for name in &KEPT[1..] {
        let made = ns.make(&CX, InodeId::ROOT, name.as_bytes(), &Make::Directory, 0o755).unwrap();
        ns.forget(made.id, 1);
    }
    let stop = AtomicBool::new(false);
    let own = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let checkpointer = scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                ns.checkpoint().unwrap();
            }
        });
        let workers: Vec<_> = (0..threads)
            .map(|number| {
                let random = Random(seed.wrapping_mul(1000) + number as u64);
                let mut worker = Worker { ns: ns.clone(), random, number, own: Vec::new(), made: 0 };
                let own = &own;
                scope.spawn(move || {
                    for _ in 0..steps {
                        worker.step();
                    }
                    own.lock().unwrap().append(&mut worker.own);
                })
            })
            .collect();
        let failed = workers.into_iter().map(|worker| worker.join()).filter(|joined| joined.is_err()).count();
        stop.store(true, Ordering::Release);
        let checkpointed = checkpointer.join();
        assert!(failed == 0 && checkpointed.is_ok(), "a thread panicked: CONCURRENT_SEED={seed}");
    });
    assert_eq!(ns.status().failure, None);
    let own = own.into_inner().unwrap();
    let before = dump(&ns);
    assert_links(&before);
    check_own(&ns, &own);

    // Everything acknowledged, without a checkpoint.
    let crashed = Arc::new(store.crash(store.end()));
    let after_crash = open(&crashed);
    assert_same(&dump(&after_crash), &before);
    check_own(&after_crash, &own);
    after_crash.checkpoint().unwrap();
    let replayed = dump(&after_crash);
    assert_same(&replayed, &before);
    assert_totals(&after_crash, &replayed);
    assert_empties(&after_crash, &crashed);

    // The same after a checkpoint.
    ns.checkpoint().unwrap();
    let stored = dump(&ns);
    assert_same(&stored, &before);
    assert_totals(&ns, &stored);
    let reopened_store = Arc::new(store.crash(store.end()));
    let reopened = open(&reopened_store);
    assert_same(&dump(&reopened), &before);
    assert_empties(&reopened, &reopened_store);
    assert_empties(&ns, &store);
}

fn assert_same(got: &std::collections::BTreeMap<String, Seen>, want: &std::collections::BTreeMap<String, Seen>) {
    for (path, seen) in want {
        assert_eq!(got.get(path), Some(seen), "{path}");
    }
    for path in got.keys() {
        assert!(want.contains_key(path), "{path} should not be there");
    }
}

#[test]
fn threads_on_the_same_directories_lose_nothing() {
    let one = std::env::var("CONCURRENT_SEED").ok().and_then(|s| s.parse().ok());
    let count = std::env::var("CONCURRENT_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(12);
    let seeds = one.map_or(0..count, |seed: u64| seed..seed + 1);
    for seed in seeds {
        println!("CONCURRENT_SEED={seed}");
        run(seed, 2 + seed as usize % 4, 800);
    }
}
