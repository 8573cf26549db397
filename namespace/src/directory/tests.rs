//! Names with one hash: cookies, listings in pages, removal in the middle, the limit, and replay.

use crate::api::{Context, Error, InodeId, Make, RenameMode};
use crate::{Namespace, Options};
use envoyfs_engine::memory::{MemoryOptions, MemoryStore};
use envoyfs_engine::store::Store;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Names that start so have the same hash in tests.
pub(super) const SAME_HASH: &[u8] = b"same hash ";
pub(super) const THE_HASH: u64 = 0x4242_4242_4200;

const CX: Context = Context::local(0, 0);
const ROOT: InodeId = InodeId::ROOT;

fn open(store: &Arc<MemoryStore>) -> Arc<Namespace> {
    let options = Options { node_cache_bytes: 1 << 20, threads: false, read_only: false, seed: [7; 16] };
    Namespace::open(store.clone(), options).unwrap()
}

fn name(i: usize) -> Vec<u8> {
    [SAME_HASH, i.to_string().as_bytes()].concat()
}

fn listed(ns: &Namespace) -> BTreeSet<(u64, Vec<u8>)> {
    let (mut all, mut cookie) = (BTreeSet::new(), 2);
    loop {
        let before = all.len();
        let mut left = 7;
        ns.readdir(&CX, ROOT, cookie, &mut |entry| {
            assert!(entry.cookie > cookie);
            cookie = entry.cookie;
            all.insert((entry.cookie, entry.name));
            left -= 1;
            left > 0
        })
        .unwrap();
        if all.len() == before {
            return all;
        }
    }
}

#[test]
fn names_with_one_hash_are_told_apart_up_to_a_limit() {
    let store = Arc::new(MemoryStore::new(MemoryOptions::default()));
    let ns = open(&store);
    let make = |i| ns.make(&CX, ROOT, &name(i), &Make::File, 0o644).map(|made| ns.forget(made.id, 1));
    for i in 0..256 {
        make(i).unwrap();
        if i == 100 {
            ns.checkpoint().unwrap();
        }
    }
    ns.make(&CX, ROOT, b"another", &Make::File, 0o644).map(|made| ns.forget(made.id, 1)).unwrap();
    assert!(matches!(make(256), Err(Error::NoSpace)));
    assert!(matches!(make(77), Err(Error::Exists)));
    assert_eq!(listed(&ns).len(), 257);
    for i in (0..256).step_by(3) {
        ns.unlink(&CX, ROOT, &name(i)).unwrap();
    }
    ns.rename(&CX, ROOT, &name(1), ROOT, &name(1000), RenameMode::Replace).unwrap();
    ns.rename(&CX, ROOT, &name(2), ROOT, &name(4), RenameMode::Exchange).unwrap();
    for i in 300..330 {
        make(i).unwrap();
    }
    let before = listed(&ns);
    let crashed = Arc::new(store.crash(store.end()));
    let again = open(&crashed);
    assert_eq!(listed(&again), before, "replay gives each name the cookie that it had");
    again.checkpoint().unwrap();
    assert_eq!(listed(&again), before);
    for (_, name) in &before {
        assert!(again.lookup(&CX, ROOT, name).is_ok());
    }
}
