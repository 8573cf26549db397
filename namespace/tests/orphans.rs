//! Files without a name, attributes, special files, exchanges and listings under change: by case, with a checkpoint or a crash between any two steps.
//!
//! Each case runs several times: as it is, with a checkpoint after every step, and with a crash and replay (or a checkpoint and then a crash) at its end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod common;

use common::*;
use envoyfs_engine::memory::{MemoryOptions, MemoryStore};
use envoyfs_engine::store::Store;
use envoyfs_namespace::Namespace;
use envoyfs_namespace::api::*;
use std::collections::BTreeSet;
use std::sync::Arc;

const ROOT: InodeId = InodeId::ROOT;

struct Fixture {
    store: Arc<MemoryStore>,
    ns: Arc<Namespace>,
    /// Checkpoint after every step?
    checkpoints: bool,
}

impl Fixture {
    fn step(&self) {
        if self.checkpoints {
            self.ns.checkpoint().unwrap();
        }
    }
    fn make(&self, at: InodeId, name: &str, make: &Make<'_>) -> InodeId {
        let id = self.ns.make(&CX, at, name.as_bytes(), make, 0o644).unwrap().id;
        self.step();
        id
    }
    fn file(&self, name: &str, bytes: usize) -> InodeId {
        let id = self.make(ROOT, name, &Make::File);
        self.write(id, 0, &pattern(bytes));
        id
    }
    fn write(&self, id: InodeId, offset: u64, bytes: &[u8]) {
        assert_eq!(self.ns.write(&CX, id, offset, bytes).unwrap(), bytes.len());
        self.step();
    }
    fn contents(&self, id: InodeId) -> Vec<u8> {
        let size = usize::try_from(self.ns.getattr(&CX, id).unwrap().size).unwrap();
        let mut bytes = vec![0xee; size + 100];
        let n = self.ns.read(&CX, id, 0, &mut bytes).unwrap();
        bytes.truncate(n);
        bytes
    }
    fn unlink(&self, name: &str) {
        self.ns.unlink(&CX, ROOT, name.as_bytes()).unwrap();
        self.step();
    }
    fn open(&self, id: InodeId) {
        self.ns.open_file(&CX, id, true).unwrap();
    }
    fn close(&self, id: InodeId) {
        self.ns.close_file(&CX, id).unwrap();
        self.step();
    }
}

fn pattern(bytes: usize) -> Vec<u8> {
    Random(bytes as u64).bytes(bytes)
}

/// Runs a case in every way; what it left must survive a crash, and deleting that must leave nothing.
fn each_way(case: impl Fn(&Fixture)) {
    for checkpoints in [false, true] {
        for checkpoint_at_end in [false, true] {
            let store = Arc::new(MemoryStore::new(MemoryOptions::default()));
            let fixture = Fixture { ns: open(&store), store, checkpoints };
            case(&fixture);
            let before = dump(&fixture.ns);
            assert_links(&before);
            if checkpoint_at_end {
                fixture.ns.checkpoint().unwrap();
            }
            let crashed = Arc::new(fixture.store.crash(fixture.store.end()));
            let ns = open(&crashed);
            assert_eq!(dump(&ns), before, "after a crash");
            ns.checkpoint().unwrap();
            assert_totals(&ns, &before);
            assert_empties(&ns, &crashed);
        }
    }
}

#[test]
fn an_unlinked_open_file_is_written_and_read_until_its_last_close() {
    each_way(|f| {
        let id = f.file("a", 20_000);
        f.open(id);
        f.open(id);
        f.unlink("a");
        assert_eq!(f.ns.getattr(&CX, id).unwrap().nlink, 0);
        f.write(id, 5000, &[7; 9000]);
        let set = SetAttributes { size: Some(15_000), permissions: Some(0o600), ..SetAttributes::default() };
        f.ns.setattr(&CX, id, &set).unwrap();
        f.ns.setxattr(&CX, id, b"user.x", b"y", XattrMode::Any).unwrap();
        f.step();
        f.close(id);
        let mut want = pattern(20_000);
        want[5000..14_000].fill(7);
        want.truncate(15_000);
        assert!(f.contents(id) == want);
        assert!(matches!(f.ns.link(&CX, id, ROOT, b"back"), Err(Error::NotFound)));
        f.close(id);
        f.ns.forget(id, 1);
        assert!(matches!(f.ns.getattr(&CX, id), Err(Error::Stale)));
        for _ in 0..3 {
            f.ns.checkpoint().unwrap();
        }
        f.store.assert_quiescent();
        f.store.assert_ranges_exact();
        assert!(f.store.stored_objects().0 <= 5);
    });
}

#[test]
fn orphans_are_dropped_by_the_next_mount_and_their_space_returns() {
    for (checkpoint_before, checkpoint_after) in [(false, false), (true, false), (false, true), (true, true)] {
        let store = Arc::new(MemoryStore::new(MemoryOptions::default()));
        let f = Fixture { ns: open(&store), store, checkpoints: false };
        let (a, b, c) = (f.file("a", 50_000), f.file("b", 100), f.file("c", 9000));
        f.ns.link(&CX, c, ROOT, b"c2").unwrap();
        if checkpoint_before {
            f.ns.checkpoint().unwrap();
        }
        [a, b, c].into_iter().for_each(|id| f.open(id));
        f.unlink("a");
        f.ns.rename(&CX, ROOT, b"c", ROOT, b"b", RenameMode::Replace).unwrap();
        f.unlink("b");
        f.unlink("c2");
        f.write(a, 3000, &pattern(10_000));
        if checkpoint_after {
            f.ns.checkpoint().unwrap();
            f.write(a, 1000, &pattern(10_000));
            f.write(c, 1000, &pattern(100));
        }
        let store = Arc::new(f.store.crash(f.store.end()));
        let ns = open(&store);
        assert!(dump(&ns).is_empty());
        for _ in 0..3 {
            ns.checkpoint().unwrap();
        }
        store.assert_quiescent();
        store.assert_ranges_exact();
        assert!(store.stored_objects().0 <= 5, "{} objects", store.stored_objects().0);
        assert_eq!(ns.status().live_inodes, 1);
        // And the drops were logged: a second crash finds none.
        let again = Arc::new(store.crash(store.end()));
        assert!(dump(&open(&again)).is_empty());
    }
}

#[test]
fn a_file_that_is_renamed_over_lives_while_it_is_open() {
    each_way(|f| {
        let (old, new) = (f.file("old", 9000), f.file("new", 300));
        f.open(old);
        f.ns.rename(&CX, ROOT, b"new", ROOT, b"old", RenameMode::Replace).unwrap();
        f.step();
        assert!(f.contents(old) == pattern(9000));
        assert!(f.contents(new) == pattern(300));
        f.write(old, 0, b"still here");
        f.close(old);
        assert_eq!(f.ns.lookup(&CX, ROOT, b"old").unwrap().id, new);
        f.ns.forget(new, 2);
        f.ns.forget(old, 1);
    });
}

#[test]
fn an_orphan_shares_with_a_fork_of_it_until_both_are_gone() {
    each_way(|f| {
        let id = f.file("a", 30_000);
        let early = f.ns.fork(&CX, id, ROOT, b"early").unwrap().id;
        f.step();
        f.open(id);
        f.unlink("a");
        let late = f.ns.fork(&CX, id, ROOT, b"late").unwrap().id;
        f.step();
        f.write(id, 100, &[1; 5000]);
        f.write(late, 8000, &[2; 5000]);
        assert!(f.contents(early) == pattern(30_000));
        assert_eq!(f.ns.getattr(&CX, late).unwrap().nlink, 1);
        f.close(id);
        let mut want = pattern(30_000);
        want[8000..13_000].fill(2);
        assert!(f.contents(late) == want);
        [id, early, late].into_iter().for_each(|id| f.ns.forget(id, 1));
    });
}

#[test]
fn an_open_file_in_a_forked_directory_is_an_orphan_of_its_own_realm() {
    each_way(|f| {
        let dir = f.make(ROOT, "d", &Make::Directory);
        let id = f.make(dir, "a", &Make::File);
        f.write(id, 0, &pattern(9000));
        let fork = f.ns.fork(&CX, dir, ROOT, b"fork").unwrap().id;
        f.step();
        let copy = f.ns.lookup(&CX, fork, b"a").unwrap().id;
        f.open(id);
        f.open(copy);
        f.ns.unlink(&CX, dir, b"a").unwrap();
        f.step();
        f.ns.unlink(&CX, fork, b"a").unwrap();
        f.step();
        f.write(copy, 4096, &[9; 4096]);
        assert!(f.contents(id) == pattern(9000));
        f.ns.rmdir(&CX, ROOT, b"fork").unwrap();
        f.step();
        assert_eq!(f.contents(copy)[4096], 9);
        f.close(copy);
        f.close(id);
        [id, copy, fork, dir].into_iter().for_each(|id| f.ns.forget(id, 1));
    });
}

#[test]
fn attributes_and_special_files_survive() {
    each_way(|f| {
        let dir = f.make(ROOT, "d", &Make::Directory);
        f.make(dir, "link", &Make::Symlink(&[b't'; 4000]));
        f.make(dir, "fifo", &Make::Special(FileType::Fifo, 0));
        f.make(dir, "socket", &Make::Special(FileType::Socket, 0));
        let device = f.make(dir, "device", &Make::Special(FileType::BlockDevice, 0x1234_5678));
        f.make(dir, "char", &Make::Special(FileType::CharDevice, 5));
        let linked = f.ns.link(&CX, device, ROOT, b"other name").unwrap();
        assert_eq!((linked.nlink, linked.rdev), (2, 0x1234_5678));
        f.step();
        let file = f.file("file", 5000);
        for id in [dir, file, device] {
            let at = |seconds| Some(SetTime::At(Time { seconds, nanoseconds: 999_999_999 }));
            let set = SetAttributes {
                permissions: Some(0o4751),
                uid: Some(u32::MAX - 1),
                gid: Some(77),
                atime: at(-1),
                mtime: at(1 << 40),
                size: None,
            };
            let a = f.ns.setattr(&CX, id, &set).unwrap();
            assert_eq!((a.permissions, a.uid, a.gid), (0o4751, u32::MAX - 1, 77));
            assert_eq!((a.atime.seconds, a.mtime.seconds), (-1, 1 << 40));
            f.step();
            f.ns.setxattr(&CX, id, b"user.a", &[1; 400], XattrMode::Create).unwrap();
            f.ns.setxattr(&CX, id, b"user.b", b"", XattrMode::Any).unwrap();
            f.step();
            assert!(matches!(f.ns.setxattr(&CX, id, b"user.a", b"", XattrMode::Create), Err(Error::Exists)));
            assert!(matches!(f.ns.setxattr(&CX, id, b"user.c", b"", XattrMode::Replace), Err(Error::NoAttribute)));
            assert!(matches!(f.ns.setxattr(&CX, id, b"user.c", &[0; 70_000], XattrMode::Any), Err(Error::NoSpace)));
            assert!(matches!(f.ns.removexattr(&CX, id, b"user.c"), Err(Error::NoAttribute)));
            f.ns.removexattr(&CX, id, b"user.b").unwrap();
            assert_eq!(f.ns.listxattr(&CX, id).unwrap(), [b"user.a".to_vec()]);
            f.step();
        }
        assert!(matches!(f.ns.setattr(&CX, dir, &size(1)), Err(Error::IsDirectory)));
        assert!(matches!(f.ns.setattr(&CX, file, &size(u64::MAX)), Err(Error::FileTooLarge)));
        assert!(matches!(f.ns.write(&CX, file, u64::MAX - 2, b"beyond"), Err(Error::FileTooLarge)));
        assert_eq!(f.ns.read(&CX, file, u64::MAX - 2, &mut [0; 10]).unwrap(), 0);
        assert_eq!(f.ns.rmdir(&CX, ROOT, b"file").map_err(|e| e.to_string()), Err(Error::NotDirectory.to_string()));
    });
}

fn size(size: u64) -> SetAttributes {
    SetAttributes { size: Some(size), ..SetAttributes::default() }
}

#[test]
fn exchanges_swap_files_directories_and_links() {
    each_way(|f| {
        let (d, e) = (f.make(ROOT, "d", &Make::Directory), f.make(ROOT, "e", &Make::Directory));
        let inner = f.make(d, "inner", &Make::Directory);
        let x = f.make(inner, "x", &Make::File);
        f.write(x, 0, &pattern(6000));
        let y = f.file("y", 700);
        f.ns.link(&CX, y, e, b"y2").unwrap();
        f.step();
        let swap = |a, name: &str, b, other: &str| {
            f.ns.rename(&CX, a, name.as_bytes(), b, other.as_bytes(), RenameMode::Exchange).unwrap();
            f.step();
        };
        swap(d, "inner", e, "y2"); // a directory and a name of a linked file
        assert_eq!(f.ns.lookup(&CX, d, b"y2").err().map(|e| e.to_string()), Some(Error::NotFound.to_string()));
        assert_eq!(f.ns.lookup(&CX, d, b"inner").unwrap().id, y);
        assert_eq!(f.ns.lookup(&CX, e, b"y2").unwrap().id, inner);
        f.write(x, 100, b"in the moved directory");
        swap(ROOT, "d", ROOT, "e");
        swap(ROOT, "d", ROOT, "d"); // the same name: nothing happens
        let into_itself = f.ns.rename(&CX, ROOT, b"e", e, b"y2", RenameMode::Exchange);
        assert!(matches!(into_itself, Ok(()) | Err(Error::Invalid(_))));
        let missing = f.ns.rename(&CX, ROOT, b"e", ROOT, b"nothing", RenameMode::Exchange);
        assert!(matches!(missing, Err(Error::NotFound)));
        assert!(matches!(f.ns.rename(&CX, ROOT, b"y", ROOT, b"d", RenameMode::NoReplace), Err(Error::Exists)));
    });
}

#[test]
fn every_name_that_stays_is_listed_once_while_others_come_and_go() {
    for checkpoints in [false, true] {
        let store = Arc::new(MemoryStore::new(MemoryOptions::default()));
        let ns = open(&store);
        let mut random = Random(9);
        let make = |name: &str| ns.forget(ns.make(&CX, ROOT, name.as_bytes(), &Make::File, 0o644).unwrap().id, 1);
        (0..3000).for_each(|i| make(&format!("stays {i}")));
        (0..3000).for_each(|i| make(&format!("goes {i}")));
        ns.checkpoint().unwrap();
        let (mut cookie, mut seen, mut next) = (0, Vec::new(), 0);
        loop {
            let mut left = 1 + random.below(50);
            let mut got = 0;
            ns.readdir(&CX, ROOT, cookie, &mut |entry| {
                assert!(entry.cookie > cookie || cookie == 0, "cookies ascend");
                cookie = entry.cookie;
                seen.push(String::from_utf8(entry.name).unwrap());
                got += 1;
                left -= 1;
                left > 0
            })
            .unwrap();
            if got == 0 {
                break;
            }
            for _ in 0..10 {
                let _gone_already = ns.unlink(&CX, ROOT, format!("goes {}", random.below(3000)).as_bytes());
                make(&format!("new {next}"));
                next += 1;
            }
            if checkpoints && random.below(10) == 0 {
                ns.checkpoint().unwrap();
            }
        }
        let distinct: BTreeSet<_> = seen.iter().collect();
        assert_eq!(distinct.len(), seen.len(), "nothing twice");
        assert!((0..3000).all(|i| distinct.contains(&format!("stays {i}"))), "everything that stays");
    }
}

#[test]
fn dot_snap_is_a_name_that_nothing_else_can_have() {
    each_way(|f| {
        let ns = &f.ns;
        let d = f.make(ROOT, "d", &Make::Directory);
        let file = f.file("f", 10);
        let list = ns.lookup(&CX, d, b".snap").unwrap().id;
        assert!(ns.make(&CX, d, b".snap", &Make::File, 0o644).is_err());
        assert!(ns.make(&CX, list, b"x", &Make::File, 0o644).is_err());
        assert!(ns.link(&CX, file, d, b".snap").is_err());
        assert!(ns.link(&CX, file, list, b"x").is_err());
        assert!(ns.link(&CX, list, d, b"x").is_err());
        assert!(ns.unlink(&CX, d, b".snap").is_err());
        assert!(ns.rmdir(&CX, d, b".snap").is_err());
        assert!(ns.delete_tree(&CX, d, b".snap").is_err());
        assert!(ns.delete_tree(&CX, list, b"x").is_err());
        assert!(ns.fork(&CX, list, d, b"x").is_err());
        assert!(ns.fork(&CX, d, list, b"x").is_err());
        assert!(ns.fork(&CX, d, d, b".snap").is_err());
        assert!(ns.snapshot(&CX, list, b"x").is_err());
        assert!(ns.snapshot(&CX, d, b".snap").is_err());
        for mode in [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange] {
            assert!(ns.rename(&CX, ROOT, b"f", d, b".snap", mode).is_err());
            assert!(ns.rename(&CX, d, b".snap", d, b"x", mode).is_err());
            assert!(ns.rename(&CX, ROOT, b"f", list, b"x", mode).is_err());
            assert!(ns.rename(&CX, list, b"f", d, b"x", mode).is_err());
        }
        assert!(ns.setattr(&CX, list, &SetAttributes { uid: Some(1), ..SetAttributes::default() }).is_err());
        assert!(ns.setattr(&CX, list, &size(0)).is_err());
        assert!(ns.setxattr(&CX, list, b"user.x", b"", XattrMode::Any).is_err());
        assert!(ns.getxattr(&CX, list, b"user.x").is_err());
        assert!(ns.totals(&CX, list).is_err());
        assert!(ns.read(&CX, list, 0, &mut [0]).is_err());
        assert!(ns.write(&CX, list, 0, &[0]).is_err());
        for name in [&b""[..], b".", b"..", b"a/b", b"a\0b", &[b'n'; 256]] {
            assert!(ns.make(&CX, d, name, &Make::File, 0o644).is_err());
            assert!(ns.make(&CX, list, name, &Make::Directory, 0o755).is_err());
            assert!(ns.rename(&CX, ROOT, b"f", d, name, RenameMode::Replace).is_err());
            assert!(ns.unlink(&CX, d, name).is_err());
            assert!(ns.rmdir(&CX, d, name).is_err());
            assert!(ns.delete_tree(&CX, d, name).is_err());
        }
        // A snapshot is found, read, refused to change, and gone.
        f.make(d, &"n".repeat(255), &Make::File);
        let snapshot = ns.make(&CX, list, b"one", &Make::Directory, 0o755).unwrap().id;
        f.step();
        assert_eq!(names(ns, snapshot).len(), 1);
        assert!(matches!(ns.make(&CX, snapshot, b"x", &Make::File, 0o644), Err(Error::ReadOnly(_))));
        assert!(ns.lookup(&CX, snapshot, b".snap").is_err());
        assert!(matches!(ns.rmdir(&CX, ROOT, b"d"), Err(Error::NotEmpty(_))));
        ns.rmdir(&CX, list, b"one").unwrap();
        f.step();
        assert!(matches!(ns.getattr(&CX, snapshot), Err(Error::Stale)));
        [list, d, file].into_iter().for_each(|id| ns.forget(id, 1));
    });
}
