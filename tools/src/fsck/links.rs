//! Files with several names: the names that lead to an inode, against its link count (INV-49).
//!
//! Runs after the walk, for each realm: follows only references with the flag LINKS (which the walk has checked), so a realm without hard links costs nothing.

use super::findings;
use super::walk::{At, Walk, interior};
use envoyfs_layout::key::LinkKey;
use envoyfs_layout::node::{NodeView, TreeKind};
use envoyfs_layout::{Entry, Inode, LinkEntry, RealmEntry, Reference, flags};
use std::collections::HashMap;

/// Nodes kept, since forks share most of theirs.
const CACHED_NODES_MAX: usize = 4096;

#[derive(Default)]
struct Cache(HashMap<envoyfs_layout::Oid, Option<Vec<u8>>>);

impl Cache {
    fn read(&mut self, walk: &mut Walk<'_>, reference: &Reference, at: &At) -> Option<Vec<u8>> {
        if let Some(bytes) = self.0.get(&reference.oid) {
            return bytes.clone();
        }
        if self.0.len() >= CACHED_NODES_MAX {
            self.0.clear();
        }
        let bytes = walk.read_node(reference, at);
        self.0.insert(reference.oid, bytes.clone());
        bytes
    }
}

/// Checks every realm that the walk met. Only of use when the walk read every node.
pub fn check(walk: &mut Walk<'_>) {
    let mut cache = Cache::default();
    for (realm, at) in std::mem::take(&mut walk.realms) {
        let has_names = realm.root.flags & flags::LINKS != 0;
        if !has_names && realm.links.is_none() {
            continue;
        }
        let mut names = HashMap::new();
        if has_names {
            count_names(walk, &mut cache, &realm, &at, &mut names);
        }
        compare(walk, &mut cache, &realm, &at, names);
    }
}

fn count_names(
    walk: &mut Walk<'_>,
    cache: &mut Cache,
    realm: &RealmEntry,
    at: &At,
    names: &mut HashMap<(u64, u64), u32>,
) {
    let mut stack = vec![realm.root];
    while let Some(reference) = stack.pop() {
        let Some(bytes) = cache.read(walk, &reference, at) else { continue };
        let Ok(view) = NodeView::parse(&bytes) else { continue };
        for item in view.items() {
            let references: Vec<Reference> =
                item.reference_indexes().filter_map(|index| view.reference(index)).collect();
            if view.header().level > 0 {
                stack.extend(references.iter().filter(|child| child.flags & flags::LINKS != 0));
                continue;
            }
            match Entry::decode(item.value, &references) {
                Ok(Entry::Link(LinkEntry { shard, inode, .. })) => *names.entry((shard, inode)).or_default() += 1,
                Ok(Entry::Directory(directory)) if directory.root.flags & flags::LINKS != 0 => {
                    stack.push(directory.root)
                }
                _ => {}
            }
        }
    }
}

fn compare(walk: &mut Walk<'_>, cache: &mut Cache, realm: &RealmEntry, at: &At, mut names: HashMap<(u64, u64), u32>) {
    let mut stack: Vec<Reference> = realm.links.into_iter().collect();
    while let Some(reference) = stack.pop() {
        let Some(bytes) = cache.read(walk, &reference, at) else { return };
        let Ok(view) = NodeView::parse(&bytes) else { return };
        if view.header().tree != TreeKind::Links {
            return;
        }
        for item in view.items() {
            let references: Vec<Reference> =
                item.reference_indexes().filter_map(|index| view.reference(index)).collect();
            if view.header().level > 0 {
                stack.extend(interior(item.value, &references).map(|(child, ..)| child));
                continue;
            }
            let (Ok(key), Ok(inode)) = (LinkKey::decode(item.key), Inode::decode(item.value, &references)) else {
                continue;
            };
            let found = names.remove(&(key.shard, key.inode)).unwrap_or(0);
            if found != inode.nlink {
                let place = format!("{at} (inode {} with several names)", key.inode);
                walk.report.add(findings::LINK_COUNT, place, format_args!("link count {}, {found} names", inode.nlink));
            }
        }
    }
    for ((shard, inode), found) in names {
        let place = format!("{at} (inode {inode} in shard {shard})");
        walk.report.add(findings::DANGLING_LINK, place, format_args!("{found} names"));
    }
}
