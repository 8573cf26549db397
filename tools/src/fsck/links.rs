//! Files with several names: the names that lead to an inode, against its link count (INV-49).
//!
//! Runs after the walk, for each realm: follows only references with the flag LINKS (which the walk has checked), so a realm without hard links costs nothing.

use super::walk::{At, Walk, interior};
use super::{findings, interrupt};
use envoyfs_layout::key::LinkKey;
use envoyfs_layout::node::{NodeView, TreeKind};
use envoyfs_layout::{Entry, Inode, LinkEntry, Oid, RealmEntry, Reference, flags};
use std::collections::{HashMap, HashSet};

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
        let bytes = match (walk.read_node(reference), walk.space.copy(reference.oid)) {
            (Ok(bytes), _) => Some(bytes),
            (Err(_), Some(copy)) => Some(copy.to_vec()),
            (Err((kind, detail)), None) => {
                walk.report.add(kind, format_args!("{at} (node {})", reference.oid), detail);
                None
            }
        };
        self.0.insert(reference.oid, bytes.clone());
        bytes
    }
}

/// How a realm's names and link table disagree.
#[derive(Debug, Default)]
pub struct Disagreement {
    /// Names found, of link entries that say otherwise; 0: the entry has no name.
    pub counts: HashMap<LinkKey, u32>,
    /// Link entries that names lead to and that do not exist.
    pub missing: HashSet<LinkKey>,
}

/// What tells a realm apart here: its root and its link table.
pub type RealmRoots = (Oid, Option<Oid>);

/// Checks every realm that the walk met. Only of use when the walk read every node. Returns the realms that disagree.
pub fn check(walk: &mut Walk<'_>) -> HashMap<RealmRoots, Disagreement> {
    let mut cache = Cache::default();
    let mut found = HashMap::new();
    for (realm, at) in std::mem::take(&mut walk.realms) {
        let has_names = realm.root.flags & flags::LINKS != 0;
        if !has_names && realm.links.is_none() {
            continue;
        }
        let mut names = HashMap::new();
        if has_names {
            count_names(walk, &mut cache, &realm, &at, &mut names);
        }
        // With a part of the names anything disagrees.
        if interrupt::requested() {
            break;
        }
        let disagreement = compare(walk, &mut cache, &realm, &at, names);
        if !(disagreement.counts.is_empty() && disagreement.missing.is_empty()) {
            found.insert((realm.root.oid, realm.links.map(|links| links.oid)), disagreement);
        }
    }
    found
}

fn count_names(walk: &mut Walk<'_>, cache: &mut Cache, realm: &RealmEntry, at: &At, names: &mut HashMap<LinkKey, u32>) {
    let mut stack = vec![realm.root];
    // A realm leads to a node once; where it is damaged, or made to be, each is still looked at once.
    let mut seen = HashSet::new();
    while let Some(reference) = stack.pop() {
        if interrupt::requested() || !seen.insert(reference.oid) {
            continue;
        }
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
                Ok(Entry::Link(LinkEntry { shard, inode, .. })) => {
                    *names.entry(LinkKey { shard, inode }).or_default() += 1
                }
                Ok(Entry::Directory(directory)) if directory.root.flags & flags::LINKS != 0 => {
                    stack.push(directory.root)
                }
                _ => {}
            }
        }
    }
}

fn compare(
    walk: &mut Walk<'_>,
    cache: &mut Cache,
    realm: &RealmEntry,
    at: &At,
    mut names: HashMap<LinkKey, u32>,
) -> Disagreement {
    let mut found = Disagreement::default();
    let mut stack: Vec<Reference> = realm.links.into_iter().collect();
    while let Some(reference) = stack.pop() {
        if interrupt::requested() {
            return Disagreement::default();
        }
        let Some(bytes) = cache.read(walk, &reference, at) else { return Disagreement::default() };
        let Ok(view) = NodeView::parse(&bytes) else { return Disagreement::default() };
        if view.header().tree != TreeKind::Links {
            return Disagreement::default();
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
            let count = names.remove(&key).unwrap_or(0);
            if count != inode.nlink || count == 0 {
                let place = format!("{at} (inode {} with several names)", key.inode);
                walk.report.add(findings::LINK_COUNT, place, format_args!("link count {}, {count} names", inode.nlink));
                found.counts.insert(key, count);
            }
        }
    }
    for (key, count) in names {
        let place = format!("{at} (inode {} in shard {})", key.inode, key.shard);
        walk.report.add(findings::DANGLING_LINK, place, format_args!("{count} names"));
        found.missing.insert(key);
    }
    found
}
