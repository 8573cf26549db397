//! What the tests of the namespace share: random numbers, opening, and a dump of everything a front end can see.
#![allow(dead_code, reason = "each test uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use envoyfs_engine::memory::MemoryStore;
use envoyfs_namespace::api::*;
use envoyfs_namespace::{Namespace, Options};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

pub const CX: Context = Context::local(0, 0);

pub struct Random(pub u64);
impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let start = self.next();
        (0..len).map(|i| (start.wrapping_add(i as u64).wrapping_mul(0x9E37_79B9) >> 11) as u8).collect()
    }
}

pub fn open(store: &Arc<MemoryStore>) -> Arc<Namespace> {
    let options = Options { node_cache_bytes: 1 << 20, threads: false, read_only: false, seed: [7; 16] };
    Namespace::open(store.clone(), options).expect("open")
}

/// What a front end sees of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub file_type: FileType,
    pub permissions: u16,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub size: u64,
    pub times: [Time; 3],
    pub id: InodeId,
    pub contents: Vec<u8>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

fn seen(ns: &Namespace, a: &Attributes) -> Seen {
    let contents = match a.file_type {
        FileType::Regular => {
            let mut bytes = vec![0xee; a.size as usize + 10];
            let n = ns.read(&CX, a.id, 0, &mut bytes).expect("read");
            assert_eq!(n as u64, a.size);
            bytes.truncate(n);
            bytes
        }
        FileType::Symlink => ns.readlink(&CX, a.id).unwrap(),
        _ => Vec::new(),
    };
    let mut xattrs: Vec<_> = ns
        .listxattr(&CX, a.id)
        .unwrap()
        .into_iter()
        .map(|name| (name.clone(), ns.getxattr(&CX, a.id, &name).unwrap()))
        .collect();
    xattrs.sort();
    Seen {
        file_type: a.file_type,
        permissions: a.permissions,
        nlink: a.nlink,
        uid: a.uid,
        gid: a.gid,
        rdev: a.rdev,
        size: a.size,
        times: [a.mtime, a.ctime, a.btime],
        id: a.id,
        contents,
        xattrs,
    }
}

pub fn names(ns: &Namespace, id: InodeId) -> Vec<DirectoryEntry> {
    let mut names = Vec::new();
    ns.readdir(&CX, id, 2, &mut |entry| {
        names.push(entry);
        true
    })
    .expect("readdir");
    names
}

/// Everything, by path, snapshots included.
pub fn dump(ns: &Namespace) -> BTreeMap<String, Seen> {
    dump_below(ns, InodeId::ROOT)
}

/// Everything below a directory, by path from there, snapshots included.
pub fn dump_below(ns: &Namespace, root: InodeId) -> BTreeMap<String, Seen> {
    let mut out = BTreeMap::new();
    let mut next = vec![(String::new(), root, true)];
    let mut held = Vec::new();
    while let Some((path, id, snaps)) = next.pop() {
        for entry in names(ns, id) {
            let name = String::from_utf8(entry.name.clone()).unwrap();
            let a = ns.lookup(&CX, id, &entry.name).unwrap_or_else(|e| panic!("{path}/{name} is listed: {e}"));
            held.push(a.id);
            assert_eq!((a.id, a.file_type), (entry.id, entry.file_type), "listing and look-up of {path}/{name}");
            let full = format!("{path}/{name}");
            if a.file_type == FileType::Directory {
                next.push((full.clone(), a.id, snaps));
            }
            assert!(out.insert(full.clone(), seen(ns, &a)).is_none(), "{full} is listed twice");
        }
        if snaps {
            let list = ns.lookup(&CX, id, b".snap").unwrap().id;
            held.push(list);
            for entry in names(ns, list) {
                let name = String::from_utf8(entry.name.clone()).unwrap();
                let a = ns.lookup(&CX, list, &entry.name).unwrap();
                held.push(a.id);
                let full = format!("{path}/.snap/{name}");
                out.insert(full.clone(), seen(ns, &a));
                next.push((full, a.id, false));
            }
        }
    }
    for id in held.into_iter().rev() {
        ns.forget(id, 1);
    }
    out
}

/// Each file has as many names as its link count says, in its realm.
pub fn assert_links(dump: &BTreeMap<String, Seen>) {
    let mut counts: HashMap<InodeId, u32> = HashMap::new();
    for seen in dump.values() {
        *counts.entry(seen.id).or_default() += 1;
    }
    for (path, seen) in dump {
        if seen.file_type == FileType::Directory {
            assert_eq!(counts[&seen.id], 1, "directory {path} has one name");
        } else {
            assert_eq!(seen.nlink, counts[&seen.id], "nlink of {path}");
        }
    }
}

/// After a checkpoint: totals of every directory are what a walk finds. A file with several names counts at each of them as a link in its realm, and as one file outside it.
pub fn assert_totals(ns: &Namespace, dump: &BTreeMap<String, Seen>) {
    let realm = |id: InodeId| id.0 >> 40;
    let mut of: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    of.insert(String::new(), (0, 0));
    let mut counted: BTreeSet<(String, InodeId)> = BTreeSet::new();
    for (path, seen) in dump.iter().filter(|(path, _)| !path.contains("/.snap/")) {
        let is_dir = seen.file_type == FileType::Directory;
        if is_dir {
            of.entry(path.clone()).or_default();
        }
        let mut at = path.as_str();
        while let Some(slash) = at.rfind('/') {
            at = &at[..slash];
            let of_realm = dump.get(at).map_or(0, |above| realm(above.id));
            let sum = of.entry(at.to_owned()).or_default();
            if is_dir {
                sum.1 += 1;
            } else if realm(seen.id) == of_realm || counted.insert((at.to_owned(), seen.id)) {
                sum.0 += 1;
            }
        }
    }
    for (path, (files, directories)) in of {
        let mut id = InodeId::ROOT;
        let mut held = Vec::new();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            id = ns.lookup(&CX, id, name.as_bytes()).unwrap().id;
            held.push(id);
        }
        let totals = ns.totals(&CX, id).unwrap();
        assert_eq!(
            (totals.files + totals.links, totals.directories),
            (files, directories),
            "totals of {path:?}: {totals:?}"
        );
        for id in held.into_iter().rev() {
            ns.forget(id, 1);
        }
    }
}

/// Deletes everything; nothing may be left but the empty roots.
pub fn assert_empties(ns: &Namespace, store: &MemoryStore) {
    let list = ns.lookup(&CX, InodeId::ROOT, b".snap").unwrap().id;
    for entry in names(ns, list) {
        ns.rmdir(&CX, list, &entry.name).unwrap();
    }
    ns.forget(list, 1);
    for entry in names(ns, InodeId::ROOT) {
        if entry.file_type == FileType::Directory {
            ns.delete_tree(&CX, InodeId::ROOT, &entry.name).unwrap();
        } else {
            ns.unlink(&CX, InodeId::ROOT, &entry.name).unwrap();
        }
    }
    for _ in 0..4 {
        ns.checkpoint().unwrap();
    }
    store.assert_quiescent();
    let (objects, _) = store.stored_objects();
    assert!(objects <= 5, "{objects} objects are left of an empty tree");
    assert!(ns.status().live_inodes <= 2, "{} inodes are in memory, and nobody knows them", ns.status().live_inodes);
}
