//! Random histories on the namespace, over the exact oracle of sharing, against a plain tree in memory; with checkpoints, crashes and replay at any point.
//!
//! Shows: contents, names, links, forks and snapshots are what the same steps on a plain tree give (INV-14, 21, 49); the oracle store recounts every edge at every checkpoint
//! (INV-02, 06..12). A seed is replayed with `HISTORY_SEED=n cargo test -p envoyfs-namespace --test history`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

use envoyfs_engine::memory::{MemoryOptions, MemoryStore};
use envoyfs_layout::Lsn;
use envoyfs_namespace::api::*;
use envoyfs_namespace::{Namespace, Options};
use envoyfs_random::Random;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

type Data = Rc<RefCell<Vec<u8>>>;

#[derive(Clone, Default)]
struct Dir {
    entries: BTreeMap<String, Node>,
    snapshots: BTreeMap<String, Dir>,
}

#[derive(Clone)]
enum Node {
    File(Data),
    Dir(Dir),
    Fork(Dir),
}

impl Dir {
    /// A copy that shares no file with the original, with the same files linked to each other.
    fn deep(&self, seen: &mut HashMap<*const RefCell<Vec<u8>>, Data>) -> Dir {
        let copy = |node: &Node, seen: &mut HashMap<_, _>| match node {
            Node::File(data) => Node::File(
                seen.entry(Rc::as_ptr(data)).or_insert_with(|| Rc::new(RefCell::new(data.borrow().clone()))).clone(),
            ),
            Node::Dir(dir) => Node::Dir(dir.deep(seen)),
            Node::Fork(dir) => Node::Fork(dir.deep(seen)),
        };
        Dir {
            entries: self.entries.iter().map(|(k, v)| (k.clone(), copy(v, seen))).collect(),
            snapshots: BTreeMap::new(),
        }
    }
    fn full(&self) -> Dir {
        fn with_snapshots(dir: &Dir, seen: &mut HashMap<*const RefCell<Vec<u8>>, Data>) -> Dir {
            let mut out = dir.deep(seen);
            for (name, node) in &dir.entries {
                match node {
                    Node::Dir(d) => drop(out.entries.insert(name.clone(), Node::Dir(with_snapshots(d, seen)))),
                    Node::Fork(d) => drop(out.entries.insert(name.clone(), Node::Fork(with_snapshots(d, seen)))),
                    Node::File(_) => {}
                }
            }
            out.snapshots = dir.snapshots.iter().map(|(k, v)| (k.clone(), v.deep(&mut HashMap::new()))).collect();
            out
        }
        with_snapshots(self, &mut HashMap::new())
    }
    fn has_forks(&self) -> bool {
        self.entries.values().any(|n| match n {
            Node::Fork(_) => true,
            Node::Dir(d) => d.has_forks(),
            Node::File(_) => false,
        })
    }
    fn dir(&mut self, path: &[String]) -> &mut Dir {
        path.iter().fold(self, |dir, name| match dir.entries.get_mut(name) {
            Some(Node::Dir(d) | Node::Fork(d)) => d,
            _ => panic!("no directory {name}"),
        })
    }
    /// Paths of all directories, with the number of the realm each is in.
    fn directories(&self, path: &mut Vec<String>, realm: usize, next: &mut usize, out: &mut Vec<(Vec<String>, usize)>) {
        out.push((path.clone(), realm));
        for (name, node) in &self.entries {
            let (dir, realm) = match node {
                Node::Dir(d) => (d, realm),
                Node::Fork(d) => {
                    *next += 1;
                    (d, *next)
                }
                Node::File(_) => continue,
            };
            path.push(name.clone());
            dir.directories(path, realm, next, out);
            path.pop();
        }
    }
}

const CX: Context = Context::local(0, 0);

fn open(store: &Arc<MemoryStore>) -> Arc<Namespace> {
    let options = Options { node_cache_bytes: 1 << 20, threads: false, read_only: false, seed: [7; 16] };
    Namespace::open(store.clone(), options).expect("open")
}

/// The inode of a path; the lookup counts are given back at once.
fn resolve(ns: &Namespace, path: &[String]) -> InodeId {
    if std::env::var_os("HISTORY_TRACE").is_some() {
        println!("    at /{}", path.join("/"));
    }
    let mut id = InodeId::ROOT;
    for name in path {
        let next = ns.lookup(&CX, id, name.as_bytes()).unwrap_or_else(|e| panic!("lookup {name} in {path:?}: {e}")).id;
        if id != InodeId::ROOT {
            ns.forget(id, 1);
        }
        id = next;
    }
    id
}

fn release(ns: &Namespace, id: InodeId) {
    if id != InodeId::ROOT {
        ns.forget(id, 1);
    }
}

fn compare(ns: &Namespace, id: InodeId, want: &Dir, path: &str) {
    let mut names = Vec::new();
    ns.readdir(&CX, id, 0, &mut |entry| {
        names.push(entry);
        true
    })
    .expect("readdir");
    let mut got: Vec<String> =
        names.iter().map(|e| String::from_utf8(e.name.clone()).unwrap()).filter(|n| n != "." && n != "..").collect();
    got.sort();
    let expected: Vec<String> = want.entries.keys().cloned().collect();
    assert_eq!(got, expected, "names in {path}");
    for (name, node) in &want.entries {
        let attributes = ns.lookup(&CX, id, name.as_bytes()).unwrap();
        match node {
            Node::File(data) => {
                let data = data.borrow();
                assert_eq!(attributes.size, data.len() as u64, "size of {path}/{name}");
                let mut bytes = vec![0xee; data.len() + 100];
                let n =
                    ns.read(&CX, attributes.id, 0, &mut bytes).unwrap_or_else(|e| panic!("read {path}/{name}: {e}"));
                assert_eq!(n, data.len());
                assert!(bytes[..n] == data[..], "contents of {path}/{name}");
            }
            Node::Dir(dir) | Node::Fork(dir) => compare(ns, attributes.id, dir, &format!("{path}/{name}")),
        }
        ns.forget(attributes.id, 1);
    }
    if path.contains(".snap") {
        return;
    }
    let list = ns.lookup(&CX, id, b".snap").unwrap().id;
    let mut listed = Vec::new();
    ns.readdir(&CX, list, 2, &mut |e| {
        listed.push(String::from_utf8(e.name).unwrap());
        true
    })
    .unwrap();
    listed.sort();
    assert_eq!(listed, want.snapshots.keys().cloned().collect::<Vec<_>>(), "snapshots of {path}");
    for (name, dir) in &want.snapshots {
        let root = ns.lookup(&CX, list, name.as_bytes()).unwrap().id;
        compare(ns, root, dir, &format!("{path}/.snap/{name}"));
        ns.forget(root, 1);
    }
    ns.forget(list, 1);
}

/// How many names each file has, per realm: link counts must agree.
fn check_links(ns: &Namespace, id: InodeId, want: &Dir) {
    let mut counts: HashMap<*const RefCell<Vec<u8>>, u32> = HashMap::new();
    fn count(dir: &Dir, counts: &mut HashMap<*const RefCell<Vec<u8>>, u32>) {
        for node in dir.entries.values() {
            match node {
                Node::File(d) => *counts.entry(Rc::as_ptr(d)).or_default() += 1,
                Node::Dir(d) | Node::Fork(d) => count(d, counts),
            }
        }
    }
    count(want, &mut counts);
    fn check(ns: &Namespace, id: InodeId, dir: &Dir, counts: &HashMap<*const RefCell<Vec<u8>>, u32>) {
        for (name, node) in &dir.entries {
            let a = ns.lookup(&CX, id, name.as_bytes()).unwrap();
            match node {
                Node::File(d) => assert_eq!(a.nlink, counts[&Rc::as_ptr(d)], "nlink of {name}"),
                Node::Dir(d) | Node::Fork(d) => check(ns, a.id, d, counts),
            }
            ns.forget(a.id, 1);
        }
    }
    check(ns, id, want, &counts);
}

struct History {
    random: Random,
    store: Arc<MemoryStore>,
    ns: Arc<Namespace>,
    tree: Dir,
    /// State after each record that may be the last one kept.
    after: Vec<(Lsn, Dir)>,
    names: usize,
}

impl History {
    fn new(seed: u64) -> Self {
        let store = Arc::new(MemoryStore::new(MemoryOptions { drops_per_checkpoint: 7, ..MemoryOptions::default() }));
        let ns = open(&store);
        Self { random: Random::new(seed), store, ns, tree: Dir::default(), after: Vec::new(), names: 0 }
    }

    fn some_dir(&mut self) -> (Vec<String>, usize) {
        let mut all = Vec::new();
        self.tree.directories(&mut Vec::new(), 0, &mut 0, &mut all);
        let n = self.random.index(all.len());
        all.swap_remove(n)
    }

    fn some_entry(&mut self, want: impl Fn(&Node) -> bool) -> Option<(Vec<String>, usize, String)> {
        for _ in 0..6 {
            let (path, realm) = self.some_dir();
            let names: Vec<String> =
                self.tree.dir(&path).entries.iter().filter(|(_, n)| want(n)).map(|(k, _)| k.clone()).collect();
            if !names.is_empty() {
                let n = self.random.index(names.len());
                return Some((path, realm, names[n].clone()));
            }
        }
        None
    }

    fn fresh(&mut self) -> String {
        self.names += 1;
        format!("n{}", self.names)
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let start = self.random.number();
        (0..len).map(|i| (start.wrapping_add(i as u64).wrapping_mul(0x9E37_79B9) >> 11) as u8).collect()
    }

    fn step(&mut self) {
        let what = self.random.index(100);
        if std::env::var_os("HISTORY_TRACE").is_some() {
            println!("  step {what}, next name n{}", self.names + 1);
        }
        let ns = self.ns.clone();
        match what {
            0..=11 => {
                let (path, _) = self.some_dir();
                let name = self.fresh();
                let id = resolve(&ns, &path);
                let made = ns.make(&CX, id, name.as_bytes(), &Make::File, 0o644).unwrap();
                ns.forget(made.id, 1);
                release(&ns, id);
                self.tree.dir(&path).entries.insert(name, Node::File(Data::default()));
            }
            12..=19 => {
                let (path, _) = self.some_dir();
                if path.len() > 4 {
                    return;
                }
                let name = self.fresh();
                let id = resolve(&ns, &path);
                let made = ns.make(&CX, id, name.as_bytes(), &Make::Directory, 0o755).unwrap();
                ns.forget(made.id, 1);
                release(&ns, id);
                self.tree.dir(&path).entries.insert(name, Node::Dir(Dir::default()));
            }
            20..=45 => {
                let Some((path, _, name)) = self.some_entry(|n| matches!(n, Node::File(_))) else { return };
                let Some(Node::File(data)) = self.tree.dir(&path).entries.get(&name).cloned() else { return };
                let len = [1, 50, 300, 4096, 5000, 12_288, 40_000][self.random.index(7)];
                let offset = [0, 1, 4096, 8192, 10_000, data.borrow().len()][self.random.index(6)];
                let bytes = self.bytes(len);
                let mut full = path.clone();
                full.push(name);
                let id = resolve(&ns, &full);
                assert_eq!(ns.write(&CX, id, offset as u64, &bytes).unwrap(), len);
                release(&ns, id);
                let mut data = data.borrow_mut();
                if data.len() < offset + len {
                    data.resize(offset + len, 0);
                }
                data[offset..offset + len].copy_from_slice(&bytes);
            }
            46..=50 => {
                let Some((path, _, name)) = self.some_entry(|n| matches!(n, Node::File(_))) else { return };
                let Some(Node::File(data)) = self.tree.dir(&path).entries.get(&name).cloned() else { return };
                let size = [0, 1, 100, 4096, 9000, 30_000][self.random.index(6)];
                let mut full = path.clone();
                full.push(name);
                let id = resolve(&ns, &full);
                ns.setattr(&CX, id, &SetAttributes { size: Some(size as u64), ..SetAttributes::default() }).unwrap();
                release(&ns, id);
                data.borrow_mut().resize(size, 0);
            }
            51..=57 => {
                let Some((path, _, name)) = self.some_entry(|n| matches!(n, Node::File(_))) else { return };
                let id = resolve(&ns, &path);
                ns.unlink(&CX, id, name.as_bytes()).unwrap();
                release(&ns, id);
                self.tree.dir(&path).entries.remove(&name);
            }
            58..=68 => self.rename(),
            69..=74 => {
                let Some((path, realm, name)) = self.some_entry(|n| matches!(n, Node::File(_))) else { return };
                let Some(node) = self.tree.dir(&path).entries.get(&name).cloned() else { return };
                let (to, to_realm) = self.some_dir();
                let new = self.fresh();
                let mut full = path.clone();
                full.push(name);
                let (id, to_id) = (resolve(&ns, &full), resolve(&ns, &to));
                match ns.link(&CX, id, to_id, new.as_bytes()) {
                    Ok(a) => {
                        assert_eq!(realm, to_realm);
                        ns.forget(a.id, 1);
                        self.tree.dir(&to).entries.insert(new, node);
                    }
                    Err(Error::CrossRealm(_)) => assert_ne!(realm, to_realm),
                    Err(e) => panic!("link: {e}"),
                }
                release(&ns, id);
                release(&ns, to_id);
            }
            75..=81 => self.fork(),
            82..=86 => {
                let (path, _) = self.some_dir();
                let name = self.fresh();
                let id = resolve(&ns, &path);
                let dir = self.tree.dir(&path);
                match ns.snapshot(&CX, id, name.as_bytes()) {
                    Ok(a) => {
                        assert!(!dir.has_forks());
                        ns.forget(a.id, 1);
                        let copy = dir.deep(&mut HashMap::new());
                        dir.snapshots.insert(name, copy);
                    }
                    Err(Error::CrossRealm(_)) => assert!(dir.has_forks()),
                    Err(e) => panic!("snapshot: {e}"),
                }
                release(&ns, id);
            }
            87..=89 => {
                let (path, _) = self.some_dir();
                let dir = self.tree.dir(&path);
                let Some(name) = dir.snapshots.keys().next().cloned() else { return };
                dir.snapshots.remove(&name);
                let id = resolve(&ns, &path);
                let list = ns.lookup(&CX, id, b".snap").unwrap().id;
                ns.rmdir(&CX, list, name.as_bytes()).unwrap();
                ns.forget(list, 1);
                release(&ns, id);
            }
            90..=92 => {
                let Some((path, _, name)) = self.some_entry(|n| !matches!(n, Node::File(_))) else { return };
                let id = resolve(&ns, &path);
                let (empty, snapshots) = match self.tree.dir(&path).entries.get(&name) {
                    Some(Node::Dir(d) | Node::Fork(d)) => (d.entries.is_empty(), !d.snapshots.is_empty()),
                    _ => return,
                };
                match ns.rmdir(&CX, id, name.as_bytes()) {
                    Ok(()) => {
                        assert!(empty && !snapshots);
                        self.tree.dir(&path).entries.remove(&name);
                    }
                    Err(Error::NotEmpty(_)) => assert!(!empty || snapshots),
                    Err(e) => panic!("rmdir: {e}"),
                }
                release(&ns, id);
            }
            _ => {
                let Some((path, _, name)) = self.some_entry(|n| !matches!(n, Node::File(_))) else { return };
                let id = resolve(&ns, &path);
                ns.delete_tree(&CX, id, name.as_bytes()).unwrap();
                release(&ns, id);
                self.tree.dir(&path).entries.remove(&name);
            }
        }
    }

    fn rename(&mut self) {
        let ns = self.ns.clone();
        let Some((path, realm, name)) = self.some_entry(|_| true) else { return };
        let (to, to_realm) = self.some_dir();
        let over = self.random.index(3) == 0;
        let exchange = self.random.index(6) == 0;
        let existing = self.tree.dir(&to).entries.keys().next().cloned();
        let new = match existing {
            Some(existing) if over || exchange => existing,
            _ => self.fresh(),
        };
        let mode = if exchange { RenameMode::Exchange } else { RenameMode::Replace };
        let (id, to_id) = (resolve(&ns, &path), resolve(&ns, &to));
        let result = ns.rename(&CX, id, name.as_bytes(), to_id, new.as_bytes(), mode);
        release(&ns, id);
        release(&ns, to_id);
        let mut source = path.clone();
        source.push(name.clone());
        match result {
            Err(Error::CrossRealm(_)) => assert_ne!(realm, to_realm),
            Err(Error::Invalid(_)) => {
                let mut target = to.clone();
                target.push(new.clone());
                assert!(to.starts_with(&source) || exchange && path.starts_with(&target));
            }
            Err(Error::NotFound) => assert!(exchange && !self.tree.dir(&to).entries.contains_key(&new)),
            Err(Error::NotDirectory | Error::IsDirectory | Error::NotEmpty(_)) => {
                assert!(self.tree.dir(&to).entries.contains_key(&new))
            }
            Err(e) => panic!("rename: {e}"),
            Ok(()) => {
                let moved = self.tree.dir(&path).entries.get(&name).cloned().unwrap();
                let target = self.tree.dir(&to).entries.get(&new).cloned();
                if let (Node::File(a), Some(Node::File(b))) = (&moved, &target)
                    && Rc::ptr_eq(a, b)
                {
                    return; // two names of one file
                }
                self.tree.dir(&path).entries.remove(&name);
                if exchange && (path != to || name != new) {
                    self.tree.dir(&path).entries.insert(name, target.unwrap());
                }
                self.tree.dir(&to).entries.insert(new, moved);
            }
        }
    }

    fn fork(&mut self) {
        let ns = self.ns.clone();
        let (to, _) = self.some_dir();
        if to.len() > 4 {
            return;
        }
        let to_id = resolve(&ns, &to);
        let new = self.fresh();
        let from_snapshot = self.random.index(4) == 0;
        if from_snapshot {
            let (path, _) = self.some_dir();
            let Some((name, dir)) = self.tree.dir(&path).snapshots.iter().next().map(|(k, v)| (k.clone(), v.clone()))
            else {
                release(&ns, to_id);
                return;
            };
            let mut full = path.clone();
            full.extend([".snap".to_owned(), name]);
            let id = resolve(&ns, &full);
            let made = ns.fork(&CX, id, to_id, new.as_bytes()).unwrap();
            ns.forget(made.id, 1);
            ns.forget(id, 1);
            self.tree.dir(&to).entries.insert(new, Node::Fork(dir.deep(&mut HashMap::new())));
        } else if self.random.index(4) == 0 {
            if let Some((path, _, name)) = self.some_entry(|n| matches!(n, Node::File(_))) {
                let Some(Node::File(data)) = self.tree.dir(&path).entries.get(&name).cloned() else { return };
                let mut full = path.clone();
                full.push(name);
                let id = resolve(&ns, &full);
                let made = ns.fork(&CX, id, to_id, new.as_bytes()).unwrap();
                ns.forget(made.id, 1);
                ns.forget(id, 1);
                let copy = Rc::new(RefCell::new(data.borrow().clone()));
                self.tree.dir(&to).entries.insert(new, Node::File(copy));
            }
        } else {
            let (path, _) = self.some_dir();
            let id = resolve(&ns, &path);
            let copy = self.tree.dir(&path).clone();
            match ns.fork(&CX, id, to_id, new.as_bytes()) {
                Ok(a) => {
                    assert!(!copy.has_forks(), "a fork of a directory with forks in it");
                    ns.forget(a.id, 1);
                    self.tree.dir(&to).entries.insert(new, Node::Fork(copy.deep(&mut HashMap::new())));
                }
                Err(Error::CrossRealm(_)) => assert!(copy.has_forks()),
                Err(e) => panic!("fork: {e}"),
            }
            release(&ns, id);
        }
        release(&ns, to_id);
    }

    fn check(&self) {
        compare(&self.ns, InodeId::ROOT, &self.tree, "");
        check_links(&self.ns, InodeId::ROOT, &self.tree);
    }

    /// Power failure: some prefix of the log that contains everything durable.
    fn crash(&mut self) {
        if std::env::var_os("HISTORY_TRACE").is_some() {
            println!("  crash");
        }
        let durable = self.store.durable();
        let candidates: Vec<usize> = (0..self.after.len()).filter(|i| self.after[*i].0 >= durable).collect();
        let Some(chosen) = candidates.get(self.random.index(candidates.len())) else { return };
        let (lsn, tree) = (self.after[*chosen].0, self.after[*chosen].1.full());
        self.store = Arc::new(self.store.crash(lsn));
        self.ns = open(&self.store);
        self.tree = tree;
        self.after.clear();
    }

    fn run(&mut self, steps: usize) {
        for i in 0..steps {
            self.step();
            self.after.push((self.store_end(), self.tree.full()));
            match self.random.index(40) {
                0 => self.ns.checkpoint().unwrap(),
                1 => self.ns.sync().unwrap(),
                2 => self.check(),
                3 if i % 3 == 0 => {
                    self.crash();
                    self.check();
                }
                _ => {}
            }
        }
        self.check();
        // Delete everything: nothing may be left but the empty roots.
        let ns = self.ns.clone();
        for (name, node) in self.tree.entries.clone() {
            match node {
                Node::File(_) => ns.unlink(&CX, InodeId::ROOT, name.as_bytes()).unwrap(),
                _ => ns.delete_tree(&CX, InodeId::ROOT, name.as_bytes()).unwrap(),
            }
            self.tree.entries.remove(&name);
        }
        let list = ns.lookup(&CX, InodeId::ROOT, b".snap").unwrap().id;
        for name in std::mem::take(&mut self.tree.snapshots).into_keys() {
            ns.rmdir(&CX, list, name.as_bytes()).unwrap();
        }
        ns.forget(list, 1);
        self.check();
        for _ in 0..200 {
            ns.checkpoint().unwrap();
        }
        self.store.assert_quiescent();
        let (objects, _) = self.store.stored_objects();
        assert!(objects <= 5, "{objects} objects are left of an empty tree");
    }

    fn store_end(&self) -> Lsn {
        self.ns.sync_point()
    }
}

#[test]
fn random_histories_with_crashes_agree_with_a_plain_tree() {
    let one = std::env::var("HISTORY_SEED").ok().and_then(|s| s.parse().ok());
    let count = std::env::var("HISTORY_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(60);
    let seeds = one.map_or(0..count, |seed: u64| seed..seed + 1);
    for seed in seeds {
        println!("HISTORY_SEED={seed}");
        History::new(seed).run(400);
    }
}
