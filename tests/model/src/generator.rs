//! Draws random operations that are possible on the oracle's value of the volume: it knows nothing of how the tree is stored.
//!
//! A seed sets the mix too: one in five writes much and clones little, a third stresses renames, links and orphans, another
//! third reflinks and small trees.

use crate::bugs::Bug;
use crate::history::Profile;
use crate::model::HistoryRoot;
use crate::objects::{EXTENT_BLOCKS_MAX, FILE_BLOCKS, TOP_REALM};
use crate::operation::{Name, ORPHAN_BASE, Operation, Path, SNAPSHOT_BASE, split};
use crate::oracle::{OracleDirectory, OracleEntry, OracleVolume, has_links, link_names};
use crate::rng::Rng;
use std::rc::Rc;

/// Names a path may have, at most.
const DEPTH_MAX: usize = 7;
/// Entries above which a directory gets no more.
const ENTRIES_MAX: usize = 14;
/// Blocks on the device above which the generator prefers deletion.
const CROWDED: usize = 700;

pub(crate) struct Generator {
    pub(crate) rng: Rng,
    pub(crate) profile: Profile,
    seed: u64,
    bug: Bug,
    pub(crate) last_number: u32,
    last_realm: u32,
    next_token: u64,
}

/// What the generator is told beside the oracle.
pub(crate) struct Surroundings<'a> {
    /// About how much is stored.
    pub(crate) live: usize,
    /// Only for the bugs that clone out of it.
    pub(crate) history: &'a [HistoryRoot],
}

impl Generator {
    pub(crate) fn new(seed: u64, bug: Bug) -> Generator {
        Generator {
            rng: Rng::from_seed(seed),
            profile: Profile::everything(),
            seed,
            bug,
            last_number: 0,
            last_realm: TOP_REALM,
            next_token: 1,
        }
    }

    /// A number never drawn before: of an inode, a link file, an orphan or a snapshot.
    pub(crate) fn number(&mut self) -> u32 {
        self.last_number += 1;
        self.last_number
    }

    /// A realm id never drawn before.
    pub(crate) fn realm_id(&mut self) -> u32 {
        self.last_realm += 1;
        self.last_realm
    }

    /// A random operation that is possible now; none when the draw came to nothing.
    pub(crate) fn operation(&mut self, o: &OracleVolume, s: &Surroundings) -> Option<Operation> {
        let crowded = s.live > CROWDED;
        let operation = match self.kind() {
            0..=7 => self.create(o),
            8..=12 => self.make_directory(o),
            13..=44 => self.write(o),
            45..=48 => self.punch(o),
            49..=52 => self.unlink(o),
            53 => Some(Operation::TemporaryFile { orphan: self.number() }),
            54..=55 => self.orphan(o),
            56..=66 => self.rename(o),
            67..=69 => self.snapshot(o, crowded),
            70..=75 => self.clone_directory(o, crowded, s.history),
            76..=79 => self.clone_file(o),
            80..=84 => self.reflink(o),
            85..=88 => self.link(o),
            89..=91 => self.remove_directory(o),
            _ => self.remove_tree(o, crowded),
        }?;
        self.profile.allows(&operation, o).then_some(operation)
    }

    /// 0..100, by the seed's mix.
    fn kind(&mut self) -> u32 {
        let mut x = self.rng.below(100);
        if self.writes_much() {
            let clones = (67..=84).contains(&x) && self.rng.percent(85);
            if clones || x >= 92 && self.rng.percent(70) {
                x = 13 + self.rng.below(32);
            }
        }
        if self.seed % 3 == 1 && self.rng.percent(45) {
            x = [50, 51, 58, 60, 62, 68, 70, 86, 87, 88][self.rng.index(10)];
        }
        if self.seed % 3 == 2 && self.rng.percent(45) {
            x = [14, 20, 30, 40, 46, 69, 76, 81, 82, 83][self.rng.index(10)];
        }
        x
    }

    fn writes_much(&self) -> bool {
        self.seed % 5 == 4
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.rng.index(from.len())].clone()) }
    }

    /// A directory or realm; to be changed, or only read, then perhaps inside a snapshot.
    pub(crate) fn directory(&mut self, o: &OracleVolume, to_change: bool) -> Path {
        let mut path = vec![];
        let mut d = o.top.root.clone();
        if !to_change && !o.snapshots.is_empty() && self.rng.percent(12) {
            let i = self.rng.index(o.snapshots.len());
            let (id, (_, value)) = o.snapshots.iter().nth(i).expect("a snapshot");
            path.push(SNAPSHOT_BASE + id);
            d = value.root.clone();
        }
        loop {
            if path.len() >= DEPTH_MAX || self.rng.percent(if path.is_empty() { 12 } else { 40 }) {
                return path;
            }
            let inner = |(name, e): (&Name, &OracleEntry)| match e {
                OracleEntry::Directory(x) => Some((*name, x.clone())),
                OracleEntry::Realm(r) if !(to_change && r.read_only) => Some((*name, r.root.clone())),
                _ => None,
            };
            let below: Vec<(Name, Rc<OracleDirectory>)> = d.iter().filter_map(inner).collect();
            let Some((name, next)) = self.pick(&below) else { return path };
            path.push(name);
            d = next;
        }
    }

    /// An entry that `wanted` accepts.
    fn entry(&mut self, o: &OracleVolume, to_change: bool, wanted: &dyn Fn(&OracleEntry) -> bool) -> Option<Path> {
        for _ in 0..4 {
            let mut path = self.directory(o, to_change);
            let found: Vec<Name> = o.directory(&path).iter().filter(|x| wanted(x.1)).map(|x| *x.0).collect();
            if let Some(name) = self.pick(&found) {
                path.push(name);
                return Some(path);
            }
        }
        None
    }

    /// A file, an orphan among them.
    fn file(&mut self, o: &OracleVolume, to_change: bool) -> Option<Path> {
        if !o.orphans.is_empty() && self.rng.percent(10) {
            let i = self.rng.index(o.orphans.len());
            return o.orphans.keys().nth(i).map(|orphan| vec![ORPHAN_BASE + orphan]);
        }
        self.entry(o, to_change, &OracleEntry::is_file)
    }

    fn free_name(&mut self, o: &OracleVolume, path: &[Name]) -> Option<Name> {
        let d = o.directory(path);
        if d.len() > ENTRIES_MAX {
            return None;
        }
        for _ in 0..4 {
            let name = 1 + self.rng.below(40);
            if !d.contains_key(&name) {
                return Some(name);
            }
        }
        None
    }

    /// A directory to change, and a name that is free in it.
    fn free_place(&mut self, o: &OracleVolume) -> Option<(Path, Name)> {
        let directory = self.directory(o, true);
        let name = self.free_name(o, &directory)?;
        Some((directory, name))
    }

    /// The other name of a link file with two, when it is in memory.
    fn other_name(&mut self, o: &OracleVolume, path: &[Name]) -> Option<Path> {
        let Some(OracleEntry::Link(number)) = o.entry(path) else { return None };
        if o.names_of(path) != 2 || !self.rng.percent(60) {
            return None;
        }
        let (around, _) = o.realm_around(split(path).0);
        let mut names = vec![];
        link_names(o.directory(around), &mut around.to_vec(), &mut names);
        names.into_iter().find(|x| x.0 == number && x.1 != path).map(|x| x.1)
    }

    fn create(&mut self, o: &OracleVolume) -> Option<Operation> {
        let (directory, name) = self.free_place(o)?;
        Some(Operation::Create { directory, name })
    }

    fn make_directory(&mut self, o: &OracleVolume) -> Option<Operation> {
        let (directory, name) = self.free_place(o)?;
        Some(Operation::MakeDirectory { directory, name, inode: self.number() })
    }

    /// Where direct data goes is filled in by [`Model::resolve`](crate::model::Model::resolve).
    fn write(&mut self, o: &OracleVolume) -> Option<Operation> {
        let file = self.file(o, true)?;
        let small = self.rng.percent(if self.writes_much() { 75 } else { 50 });
        let blocks = 1 + self.rng.below(if small { 2 } else { EXTENT_BLOCKS_MAX });
        let block = self.rng.below(FILE_BLOCKS - blocks);
        let direct = self.rng.percent(60);
        let token = self.next_token;
        self.next_token += u64::from(blocks);
        Some(Operation::Write { file, block, blocks, token, direct, extent: 0, places: vec![] })
    }

    fn punch(&mut self, o: &OracleVolume) -> Option<Operation> {
        let file = self.file(o, true)?;
        let from = self.rng.below(FILE_BLOCKS - 1);
        let to = if self.rng.percent(30) { FILE_BLOCKS } else { (from + 1 + self.rng.below(12)).min(FILE_BLOCKS) };
        Some(Operation::Punch { file, from, to })
    }

    fn unlink(&mut self, o: &OracleVolume) -> Option<Operation> {
        let file = self.entry(o, true, &OracleEntry::is_file)?;
        let last = o.names_of(&file) == 1;
        if self.rng.percent(if self.seed % 3 == 1 { 60 } else { 20 }) && last {
            return Some(Operation::UnlinkOpen { file, orphan: self.number() });
        }
        let link = matches!(o.entry(&file), Some(OracleEntry::Link(_)));
        if link && last && self.rng.percent(50) {
            return Some(Operation::EmbedLink { file });
        }
        let other_name = self.other_name(o, &file);
        Some(Operation::Unlink { file, other_name })
    }

    /// linkat or close of an open file without a name.
    fn orphan(&mut self, o: &OracleVolume) -> Option<Operation> {
        let open: Vec<u32> = o.orphans.keys().copied().collect();
        let orphan = self.pick(&open)?;
        if self.rng.percent(40) {
            let (directory, name) = self.free_place(o)?;
            return Some(Operation::LinkOrphan { orphan, directory, name });
        }
        Some(Operation::CloseOrphan { orphan })
    }

    fn rename(&mut self, o: &OracleVolume) -> Option<Operation> {
        let from = self.entry(o, true, &|_| true)?;
        let moved = o.entry(&from)?;
        let directory = self.directory(o, true);
        if !moved.is_file() && directory.starts_with(&from) {
            return None;
        }
        let same_realm = o.realm_around(split(&from).0).0 == o.realm_around(&directory).0;
        if !same_realm && self.refuses_to_cross(o, &from, &moved) {
            return None;
        }
        if moved.is_file() && self.rng.percent(25) {
            return self.rename_over(o, from, &moved, directory, same_realm);
        }
        let name = self.free_name(o, &directory)?;
        Some(Operation::Rename { from, directory, name, realm: self.realm_id(), other_name: None, orphan: None })
    }

    /// EXDEV: hard links, or snapshots inside.
    fn refuses_to_cross(&self, o: &OracleVolume, from: &[Name], moved: &OracleEntry) -> bool {
        let snapshots_inside = || o.snapshots.values().any(|s| s.0.starts_with(from));
        match moved {
            OracleEntry::Link(_) => true,
            OracleEntry::Directory(d) => has_links(d) || self.bug != Bug::CrossWithSnaps && snapshots_inside(),
            _ => false,
        }
    }

    fn rename_over(
        &mut self,
        o: &OracleVolume,
        from: Path,
        moved: &OracleEntry,
        directory: Path,
        same_realm: bool,
    ) -> Option<Operation> {
        let entries = o.directory(&directory);
        let files: Vec<Name> = entries.iter().filter(|x| x.1.is_file()).map(|x| *x.0).collect();
        let name = self.pick(&files)?;
        let mut replaced = directory.clone();
        replaced.push(name);
        if replaced == from {
            return None;
        }
        if let (OracleEntry::Link(x), OracleEntry::Link(y)) = (moved, &entries[&name])
            && x == y
            && same_realm
        {
            return None;
        }
        let other_name = self.other_name(o, &replaced);
        let open = o.names_of(&replaced) == 1 && self.rng.percent(30);
        let orphan = open.then(|| self.number());
        Some(Operation::Rename { from, directory, name, realm: 0, other_name, orphan })
    }

    fn snapshot(&mut self, o: &OracleVolume, crowded: bool) -> Option<Operation> {
        let taken = o.snapshots.len();
        if taken > 0 && self.rng.percent(if taken > 8 || crowded { 80 } else { 30 }) {
            let i = self.rng.index(taken);
            let (id, (of, _)) = o.snapshots.iter().nth(i)?;
            let only = o.snapshots.values().filter(|s| s.0 == *of).count() == 1 || self.bug == Bug::FlagClearEarly;
            let clear_flag = only && self.rng.percent(60);
            return Some(Operation::DropSnapshot { snapshot: *id, directory: (**of).clone(), clear_flag });
        }
        if crowded && self.rng.percent(50) {
            return None;
        }
        let directory = self.directory(o, true);
        Some(Operation::TakeSnapshot { directory, snapshot: self.number() })
    }

    fn clone_directory(&mut self, o: &OracleVolume, crowded: bool, history: &[HistoryRoot]) -> Option<Operation> {
        if crowded && self.rng.percent(70) {
            return None;
        }
        let from_history = matches!(self.bug, Bug::HistClone | Bug::HistPromote);
        if from_history && !history.is_empty() && self.rng.percent(50) {
            let (directory, name) = self.free_place(o)?;
            let h = &history[self.rng.index(history.len())];
            let value = Rc::new(h.oracle.top.clone());
            return Some(Operation::CloneHistory {
                batch: h.batch,
                directory,
                name,
                realm: self.last_realm + 1000,
                value,
            });
        }
        let source = self.clone_source(o)?;
        let directory = if self.rng.percent(20) { self.inside(o, &source)? } else { self.directory(o, true) };
        if directory.len() > DEPTH_MAX {
            return None;
        }
        let name = self.free_name(o, &directory)?;
        let read_only = self.rng.percent(12);
        Some(Operation::Clone { source, directory, name, read_only, realm: self.realm_id() })
    }

    /// A snapshot, a directory or realm, or the root of the volume.
    fn clone_source(&mut self, o: &OracleVolume) -> Option<Path> {
        if !o.snapshots.is_empty() && self.rng.percent(12) {
            let i = self.rng.index(o.snapshots.len());
            return o.snapshots.keys().nth(i).map(|id| vec![SNAPSHOT_BASE + id]);
        }
        if self.rng.percent(85) {
            return self.entry(o, false, &|e| matches!(e, OracleEntry::Directory(_) | OracleEntry::Realm(_)));
        }
        Some(vec![])
    }

    /// The source itself or a descendant: a clone into what it clones.
    fn inside(&mut self, o: &OracleVolume, source: &[Name]) -> Option<Path> {
        let mut path = source.to_vec();
        if o.realm_prefix(&path).1 {
            return None;
        }
        let mut d = o.directory(&path).clone();
        while self.rng.percent(60) {
            let inner = |(name, e): (&Name, &OracleEntry)| match e {
                OracleEntry::Directory(x) => Some((*name, x.clone())),
                _ => None,
            };
            let below: Vec<(Name, Rc<OracleDirectory>)> = d.iter().filter_map(inner).collect();
            let Some((name, next)) = self.pick(&below) else { break };
            path.push(name);
            d = next;
        }
        Some(path)
    }

    fn clone_file(&mut self, o: &OracleVolume) -> Option<Operation> {
        let source = self.file(o, false)?;
        let (directory, name) = self.free_place(o)?;
        Some(Operation::CloneFile { source, directory, name })
    }

    fn reflink(&mut self, o: &OracleVolume) -> Option<Operation> {
        let source = self.file(o, false)?;
        let target = if self.rng.percent(20) { source.clone() } else { self.file(o, true)? };
        if o.realm_prefix(split(&target).0).1 {
            return None;
        }
        let blocks = 1 + self.rng.below(14);
        let source_block = self.rng.below(FILE_BLOCKS - blocks);
        let target_block = self.rng.below(FILE_BLOCKS - blocks);
        let overlap = source_block < target_block + blocks && target_block < source_block + blocks;
        if overlap && same_file(o, &source, &target) {
            return None;
        }
        Some(Operation::Reflink { source, source_block, target, target_block, blocks })
    }

    fn link(&mut self, o: &OracleVolume) -> Option<Operation> {
        let file = self.entry(o, true, &OracleEntry::is_file)?;
        let directory = self.directory(o, true);
        if o.realm_around(split(&file).0).0 != o.realm_around(&directory).0 {
            return None;
        }
        let name = self.free_name(o, &directory)?;
        let number = match o.entry(&file) {
            Some(OracleEntry::Link(number)) => number,
            _ => self.number(),
        };
        Some(Operation::Link { file, directory, name, number })
    }

    fn remove_directory(&mut self, o: &OracleVolume) -> Option<Operation> {
        let path = self.entry(o, true, &|e| matches!(e, OracleEntry::Directory(d) if d.is_empty()))?;
        // a directory that has snapshots: ENOTEMPTY
        let has_snapshots = o.snapshots.values().any(|s| *s.0 == path);
        (!has_snapshots).then_some(Operation::RemoveDirectory { path })
    }

    fn remove_tree(&mut self, o: &OracleVolume, crowded: bool) -> Option<Operation> {
        if !crowded && self.rng.percent(45) {
            return None;
        }
        if self.rng.percent(75) {
            let path = self.entry(o, true, &|e| matches!(e, OracleEntry::Realm(_)))?;
            return Some(Operation::RemoveTree { path });
        }
        let path = self.entry(o, true, &|e| matches!(e, OracleEntry::Directory(_)))?;
        let links_inside = matches!(o.entry(&path), Some(OracleEntry::Directory(d)) if has_links(&d));
        (!links_inside).then_some(Operation::RemoveTree { path })
    }
}

/// One path, or two names of one link file.
fn same_file(o: &OracleVolume, a: &[Name], b: &[Name]) -> bool {
    let same_link = || match (o.entry(a), o.entry(b)) {
        (Some(OracleEntry::Link(x)), Some(OracleEntry::Link(y))) => x == y,
        _ => false,
    };
    a == b || o.realm_around(split(a).0).0 == o.realm_around(split(b).0).0 && same_link()
}
