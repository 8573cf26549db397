//! Names what damage belongs to: every path, in every fork and snapshot, that leads to a node or a block of file data that was found bad.
//!
//! The walk meets a node that forks share once, along one of its paths. So what it found bad is only noted there; afterwards, if there is anything, a second walk marks the
//! nodes that *lead* to it (each once, whoever shares it), and a third follows these alone, along every path. A file with several names is told by each of them.
//! Memory: a bit a unit of the segments of nodes, 8 bytes a node that leads to damage, the nodes of one path.

use super::data::BadBlocks;
use super::disk::Disk;
use super::findings::{self, Kind};
use super::interrupt;
use super::report::Report;
use super::space::Space;
use super::units::Units;
use super::walk::{At, interior};
use envoyfs_layout::key::{DirectoryKey, LinkKey, RealmItemKind, RealmKey};
use envoyfs_layout::node::{NODE_BYTES_MAX, NodeItem, NodeView, TreeKind};
use envoyfs_layout::{
    BLOCK, Body, Entry, Inode, Oid, RealmEntry, Reference, ReferenceKind, Slice, SnapshotItem, TerritoryRecord,
    checksum, flags,
};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;

/// Findings after which paths are not told any more: a bad block may be in 10^5 forks.
const NAMED_MAX: u64 = 10_000;

/// What is wrong with a node.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Which finding.
    pub kind: &'static Kind,
    /// The path by which the walk met it.
    pub at: Rc<At>,
    /// Which item of it; none for the node.
    pub item: Option<usize>,
    /// Expected and found.
    pub detail: String,
}

/// Nodes that are not what they must be.
pub type BrokenNodes = BTreeMap<Oid, Vec<Broken>>;

/// See the module.
pub struct Blame<'a> {
    disk: &'a Disk,
    space: &'a Space,
    nodes: &'a BrokenNodes,
    blocks: &'a BadBlocks,
    visited: HashMap<u32, Units>,
    leads: HashSet<Oid>,
    named_nodes: BTreeSet<Oid>,
    named_blocks: BTreeSet<(Oid, u32)>,
    left: u64,
}

/// A node being looked through for what leads to damage.
struct Frame {
    oid: Oid,
    children: Vec<Reference>,
    leads: bool,
}

/// Something to name.
struct Step {
    reference: Reference,
    at: Rc<At>,
    realm: Option<Rc<RealmEntry>>,
    realm_at: Rc<At>,
    /// It is a node of the realm's link table.
    links: bool,
}

impl<'a> Blame<'a> {
    /// For what was found bad.
    #[must_use]
    pub fn new(disk: &'a Disk, space: &'a Space, nodes: &'a BrokenNodes, blocks: &'a BadBlocks) -> Self {
        Self {
            disk,
            space,
            nodes,
            blocks,
            visited: HashMap::new(),
            leads: HashSet::new(),
            named_nodes: BTreeSet::new(),
            named_blocks: BTreeSet::new(),
            left: NAMED_MAX,
        }
    }

    /// Names everything that these roots lead to.
    pub fn name(&mut self, roots: &[(Reference, Rc<At>)], report: &mut Report) {
        for (root, _) in roots {
            self.mark(root);
        }
        let mut stack: Vec<Step> = Vec::new();
        for (root, at) in roots.iter().filter(|(root, _)| self.leads.contains(&root.oid)) {
            let base = Rc::new(At::Root("".into()));
            stack.push(Step { reference: *root, at: Rc::clone(at), realm: None, realm_at: base, links: false });
        }
        while let Some(step) = stack.pop() {
            if self.left == 0 || super::interrupt::requested() {
                report.add(findings::NODE_CHECKSUM, "more files", "not all paths to what is damaged are told");
                return;
            }
            self.step(&step, &mut stack, report);
        }
    }

    /// What no path was found to, as the walk met it; blocks without a path are returned.
    pub fn rest(self, report: &mut Report) -> Vec<(Oid, u32)> {
        for (oid, broken) in self.nodes.iter().filter(|(oid, _)| !self.named_nodes.contains(oid)) {
            broken.iter().for_each(|broken| add(report, *oid, broken, &broken.at));
        }
        self.blocks.keys().filter(|key| !self.named_blocks.contains(key)).collect()
    }

    fn read(&self, reference: &Reference) -> Option<Vec<u8>> {
        if reference.kind != ReferenceKind::Node || reference.stored_bytes as usize > NODE_BYTES_MAX {
            return None;
        }
        let mut bytes = vec![0; reference.stored_bytes as usize];
        let read = self.space.read(self.disk, reference.oid, 0, &mut bytes);
        let good = read.is_ok() && checksum::crc32c(&bytes) == reference.crc;
        if good { Some(bytes) } else { self.space.copy(reference.oid).map(<[u8]>::to_vec) }
    }

    /// Marks the nodes below (and at) a root that lead to damage.
    fn mark(&mut self, root: &Reference) {
        let mut frames = Vec::new();
        self.enter(root, &mut frames);
        while let Some(frame) = frames.last_mut() {
            if super::interrupt::requested() {
                return;
            }
            if let Some(child) = frame.children.pop() {
                if !self.enter(&child, &mut frames) && self.leads.contains(&child.oid) {
                    frames.last_mut().into_iter().for_each(|frame| frame.leads = true);
                }
                continue;
            }
            let (oid, leads) = (frame.oid, frame.leads);
            frames.pop();
            if leads {
                self.leads.insert(oid);
                frames.last_mut().into_iter().for_each(|parent| parent.leads = true);
            }
        }
    }

    /// False: it was entered before.
    fn enter(&mut self, reference: &Reference, frames: &mut Vec<Frame>) -> bool {
        let oid = reference.oid;
        if !self.visited.entry(oid.segment()).or_default().insert_one(oid.slot().into()) {
            return false;
        }
        let mut frame = Frame { oid, children: Vec::new(), leads: self.nodes.contains_key(&oid) };
        if let Some(bytes) = self.read(reference)
            && let Ok(view) = NodeView::parse(&bytes)
        {
            for child in view.references() {
                match child.kind {
                    ReferenceKind::Node => frame.children.push(child),
                    ReferenceKind::Extent => frame.leads |= self.blocks.any_in(&child),
                    _ => {}
                }
            }
        }
        frames.push(frame);
        true
    }

    fn step(&mut self, step: &Step, stack: &mut Vec<Step>, report: &mut Report) {
        let oid = step.reference.oid;
        if let Some(broken) = self.nodes.get(&oid) {
            self.named_nodes.insert(oid);
            for broken in broken {
                self.left = self.left.saturating_sub(1);
                add(report, oid, broken, &step.at);
                // Which files were in it cannot be told: those of the realm with several names.
                for at in if step.links { self.names_of(step, None) } else { Vec::new() } {
                    self.left = self.left.saturating_sub(1);
                    add(report, oid, broken, &at);
                }
            }
        }
        let Some(bytes) = self.read(&step.reference) else { return };
        let Ok(view) = NodeView::parse(&bytes) else { return };
        for item in view.items() {
            let references: Vec<Reference> =
                item.reference_indexes().filter_map(|index| view.reference(index)).collect();
            if view.header().level > 0 {
                if let Ok((child, ..)) = interior(item.value, &references) {
                    self.push(stack, step, &child, &step.at, step.links);
                }
            } else {
                self.item(view.header().tree, step, &item, &references, stack, report);
            }
        }
    }

    fn push(&self, stack: &mut Vec<Step>, from: &Step, reference: &Reference, at: &Rc<At>, links: bool) {
        if self.leads.contains(&reference.oid) {
            let (realm, realm_at) = (from.realm.clone(), Rc::clone(&from.realm_at));
            stack.push(Step { reference: *reference, at: Rc::clone(at), realm, realm_at, links });
        }
    }

    fn realm(&self, stack: &mut Vec<Step>, realm: &RealmEntry, at: &Rc<At>) {
        let whole = Rc::new(*realm);
        for (reference, links) in [(Some(realm.root), false), (realm.links, true)] {
            let Some(reference) = reference.filter(|reference| self.leads.contains(&reference.oid)) else { continue };
            let table = || At::below(at, "(link table)");
            let inside = if links { table() } else { Rc::clone(at) };
            let (realm, realm_at) = (Some(Rc::clone(&whole)), Rc::clone(at));
            stack.push(Step { reference, at: inside, realm, realm_at, links });
        }
    }

    fn item(
        &mut self,
        tree: TreeKind,
        step: &Step,
        item: &NodeItem<'_>,
        references: &[Reference],
        stack: &mut Vec<Step>,
        report: &mut Report,
    ) {
        match tree {
            TreeKind::Directory => {
                let (Ok(key), Ok(entry)) = (DirectoryKey::decode(item.key), Entry::decode(item.value, references))
                else {
                    return;
                };
                let at = At::below(&step.at, key.name);
                match &entry {
                    Entry::File(inode) | Entry::Symlink(inode) | Entry::Special(inode) => {
                        self.body(inode, step, &at, stack, report)
                    }
                    Entry::Directory(directory) => self.push(stack, step, &directory.root, &at, false),
                    Entry::Realm(realm) => self.realm(stack, realm, &at),
                    Entry::Link(_) => {}
                }
            }
            TreeKind::Links => {
                let (Ok(key), Ok(inode)) = (LinkKey::decode(item.key), Inode::decode(item.value, references)) else {
                    return;
                };
                if !references.iter().any(|reference| self.is_bad(reference)) {
                    return;
                }
                let mut names = self.names_of(step, Some(&key));
                if names.is_empty() {
                    names.push(At::below(&step.at, format!("inode {}", key.inode)));
                }
                for at in names {
                    self.body(&inode, step, &at, stack, report);
                }
            }
            TreeKind::Extents => {
                if let (Ok(slice), [extent]) = (Slice::decode(item.value), references) {
                    self.slice(&slice, extent, &step.at, report);
                }
            }
            TreeKind::RealmTable => {
                let Ok(key) = RealmKey::decode(item.key) else { return };
                match key.kind {
                    RealmItemKind::Record => {}
                    RealmItemKind::Snapshot => {
                        let Ok(snapshot) = SnapshotItem::decode(item.value, references) else { return };
                        let directory = format!("(directory {} of realm {})/.snap", key.directory, key.realm);
                        let parent = At::below(&step.realm_at, directory);
                        self.realm(stack, &snapshot.realm, &At::below(&parent, snapshot.name));
                    }
                    RealmItemKind::Orphan => {
                        let Ok(inode) = Inode::decode(item.value, references) else { return };
                        let name = format!("(unlinked inode {} of realm {})", key.id, key.realm);
                        self.body(&inode, step, &At::below(&step.realm_at, name), stack, report);
                    }
                }
            }
            TreeKind::TerritoryTable => {
                if let Ok(TerritoryRecord { view: Some(view), .. }) = TerritoryRecord::decode(item.value, references) {
                    self.realm(stack, &view, &step.realm_at);
                }
            }
        }
    }

    fn is_bad(&self, reference: &Reference) -> bool {
        self.leads.contains(&reference.oid) || self.blocks.any_in(reference)
    }

    fn body(&mut self, inode: &Inode, step: &Step, at: &Rc<At>, stack: &mut Vec<Step>, report: &mut Report) {
        match &inode.body {
            Body::None | Body::Inline { .. } => {}
            Body::Slices(slices) => slices.iter().for_each(|(slice, extent)| self.slice(slice, extent, at, report)),
            Body::Tree { root, .. } => self.push(stack, step, root, at, false),
        }
    }

    fn slice(&mut self, slice: &Slice, extent: &Reference, at: &At, report: &mut Report) {
        for (index, block) in (0..slice.crcs.len()).zip(slice.file_block..) {
            let Some((key, bad)) = self.blocks.find(slice, extent, index) else { continue };
            self.named_blocks.insert(key);
            self.left = self.left.saturating_sub(1);
            let place = format!("{at} at byte {}", block * u64::from(BLOCK));
            match &bad.found {
                Ok(crc) => {
                    let (oid, expected, offset) = (extent.oid, key.1, bad.offset);
                    let detail =
                        format!("{crc:#010x}, expected {expected:#010x}; object {oid}, device offset {offset}");
                    report.add(findings::DATA_CHECKSUM, place, detail);
                }
                Err(why) => report.add(findings::DATA_UNREADABLE, place, why),
            }
        }
    }

    /// The names of a file in the link table of the realm that is being named; of all of them, if none is given.
    fn names_of(&self, step: &Step, wanted: Option<&LinkKey>) -> Vec<Rc<At>> {
        let mut out = Vec::new();
        let Some(realm) = step.realm.as_ref().filter(|realm| realm.root.flags & flags::LINKS != 0) else { return out };
        let mut stack = vec![(realm.root, Rc::clone(&step.realm_at))];
        let mut seen = HashSet::new();
        while let Some((reference, at)) = stack.pop() {
            if interrupt::requested() || !seen.insert(reference.oid) {
                continue;
            }
            let Some(bytes) = self.read(&reference) else { continue };
            let Ok(view) = NodeView::parse(&bytes) else { continue };
            for item in view.items() {
                let references: Vec<Reference> =
                    item.reference_indexes().filter_map(|index| view.reference(index)).collect();
                let linked = |child: &Reference| child.flags & flags::LINKS != 0;
                if view.header().level > 0 {
                    stack.extend(references.iter().filter(|child| linked(child)).map(|child| (*child, Rc::clone(&at))));
                    continue;
                }
                let (Ok(name), Ok(entry)) = (DirectoryKey::decode(item.key), Entry::decode(item.value, &references))
                else {
                    continue;
                };
                let here = At::below(&at, name.name);
                match entry {
                    Entry::Link(link)
                        if wanted.is_none_or(|wanted| (link.shard, link.inode) == (wanted.shard, wanted.inode)) =>
                    {
                        out.push(here)
                    }
                    Entry::Directory(directory) if linked(&directory.root) => stack.push((directory.root, here)),
                    _ => {}
                }
            }
        }
        out
    }
}

fn add(report: &mut Report, oid: Oid, broken: &Broken, at: &At) {
    match broken.item {
        Some(item) => report.add(broken.kind, format_args!("{at} (node {oid}, item {item})"), &broken.detail),
        None => report.add(broken.kind, format_args!("{at} (node {oid})"), &broken.detail),
    }
}
