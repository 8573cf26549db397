//! New trees from damaged ones: every node above something that is wrong is written anew without it, everything else stays and is shared as before.
//!
//! A pure function of the old trees, from the leaves up: an item that cannot be kept is left out, what follows from others (totals, flags, births, link counts) is computed
//! again, and a node whose items are all as before keeps its object. So nobody has to say which nodes are affected. A node that several trees share is written once.
//! A new node keeps the birth of the old one, so that nothing below it looks younger, or more exclusive, than it is (INV-02, INV-05).
//!
//! What items become is in `items`, names for what lost its own in `lost_found`. Nothing of it counts before [`super::account::publish`]. Memory: a bit a unit of the segments of nodes, 150 bytes a node that is written anew or lost, and the items of the largest
//! directory that must be sorted again. (A node that stays is remembered by a bit. Met again below another parent, it is read again and not followed: what it amounts to stands in it.)

mod items;
mod lost_found;

use super::data::BadBlocks;
use super::disk::Disk;
use super::examine::Examined;
use super::items::{hash_key, name_hash};
use super::links::{Disagreement, RealmRoots};
use super::lost::Lost;
use super::repair::Settings;
use super::roots::Roots;
use super::space::Space;
use super::units::Units;
use super::walk::{interior, summary};
use super::{interrupt, tree};
use anyhow::{Context as _, Result, anyhow, bail};
use envoyfs_engine::repair::OfflineWriter;
use envoyfs_layout::key::DirectoryKey;
use envoyfs_layout::node::{NODE_BYTES_MAX, NodeView, Owner, TreeKind};
use envoyfs_layout::{ClientRoots, Hlc, Oid, Reference, ReferenceKind, Slice, checksum, flags};
use std::collections::{BTreeMap, HashMap, HashSet};
use tree::{Built, Item, Packer};

/// Nodes below each other that one stack is for; then the next one is begun, since directories may lie in each other as deep as the store has room for. A node takes 5 KiB of stack.
const NODES_PER_STACK: usize = 4096;
/// Reserved for a stack; memory is taken as it is used.
const STACK_BYTES: usize = 64 << 20;

/// See the module.
pub struct Rewriter<'a, 'w> {
    disk: &'a Disk,
    space: &'a Space,
    bad: &'a BadBlocks,
    links: &'a HashMap<RealmRoots, Disagreement>,
    twice: &'a HashSet<(Oid, Vec<u8>)>,
    realm_items: &'a BTreeMap<u64, (u64, u64)>,
    packer: Packer<'w>,
    seed: [u8; 16],
    next_inode: u64,
    /// Contexts of realms whose names and link table disagree; 0 is none.
    contexts: HashMap<RealmRoots, u32>,
    /// Nodes and trees written anew, or lost.
    nodes: HashMap<Memo, Option<Built>>,
    trees: HashMap<Memo, Option<Built>>,
    /// Top directories that got names for lost files, by what they would be without.
    named: HashMap<Memo, Built>,
    /// What gets a name in the top directory of the view, and the share time of these names: later than any birth below.
    lost: Vec<Lost>,
    share: Hlc,
    /// Nodes that stay as they are, whatever the realm.
    same: BTreeMap<u32, Units>,
    /// Nodes above the one that is being written.
    depth: usize,
    /// The same: one that contains itself, which only somebody who wants to makes, is lost.
    above: HashSet<Oid>,
    /// The tree being written must be sorted again.
    disorder: bool,
    /// End of the last slice of the extents tree being written; none while items are gathered in any order.
    slices_end: Option<u64>,
}

/// The context of what hung below a lost node: which realm it belongs to is not known, so links lead nowhere.
const LOST: u32 = u32::MAX;

/// A node, taken for one of this kind, in a realm with this context.
type Memo = (Oid, TreeKind, u32);

/// What is handed down a tree.
#[derive(Clone, Copy)]
struct Down<'k> {
    kind: TreeKind,
    context: u32,
    hash_key: Option<[u8; 16]>,
    level: Option<u8>,
    from: Option<&'k [u8]>,
    to: Option<&'k [u8]>,
}

impl<'a, 'w> Rewriter<'a, 'w> {
    /// For a store that was examined; new nodes go to `writer`.
    #[must_use]
    pub fn new(disk: &'a Disk, examined: &'a Examined, writer: OfflineWriter<'w>, settings: &Settings) -> Self {
        let contexts = examined.links.keys().copied().zip(1..).collect();
        Self {
            disk,
            space: &examined.space,
            bad: &examined.bad,
            links: &examined.links,
            twice: &examined.twice,
            realm_items: &examined.realm_items,
            packer: Packer::new(writer),
            seed: settings.seed,
            next_inode: examined.directory.entry.bounds.inode,
            contexts,
            nodes: HashMap::new(),
            trees: HashMap::new(),
            named: HashMap::new(),
            lost: Vec::new(),
            share: examined.directory.entry.checkpoint_hlc,
            same: BTreeMap::new(),
            depth: 0,
            above: HashSet::new(),
            disorder: false,
            slices_end: Some(0),
        }
    }

    /// Gives what hung below lost nodes a name.
    #[must_use]
    pub fn with_lost(self, lost: Vec<Lost>) -> Self {
        Self { lost, ..self }
    }

    /// The writer, and the next inode number.
    #[must_use]
    pub fn done(self) -> (OfflineWriter<'w>, u64) {
        (self.packer.writer, self.next_inode)
    }

    /// The roots over new trees.
    ///
    /// # Errors
    /// There is no room, the device fails, the table of territories is lost, or the user stopped it.
    pub fn roots(&mut self, old: &Roots) -> Result<Roots> {
        self.on_new_stack(|this| this.roots_here(old))
    }

    /// What goes deeper: recursion, on as many stacks as it needs.
    fn deeper<T: Send>(&mut self, step: impl FnOnce(&mut Self) -> Result<T> + Send) -> Result<T> {
        self.depth += 1;
        let result = if self.depth.is_multiple_of(NODES_PER_STACK) { self.on_new_stack(step) } else { step(self) };
        self.depth -= 1;
        result
    }

    fn on_new_stack<T: Send>(&mut self, step: impl FnOnce(&mut Self) -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let builder = std::thread::Builder::new().name("fsck-rewrite".into()).stack_size(STACK_BYTES);
            let thread = builder.spawn_scoped(scope, || step(self)).context("a stack for trees as deep as these")?;
            thread.join().map_err(|_| anyhow!("the repair failed; nothing was changed"))?
        })
    }

    fn roots_here(&mut self, old: &Roots) -> Result<Roots> {
        let client = ClientRoots::decode(&old.blob, &old.references)?;
        let territories = self.tree(&client.territory_table, TreeKind::TerritoryTable, 0)?.ok_or_else(no_top)?;
        let realms = match self.tree(&client.realm_table, TreeKind::RealmTable, 0)? {
            Some(realms) => realms.reference,
            None => self.packer.empty(TreeKind::RealmTable, Owner::default(), client.realm_table.birth, &[])?.reference,
        };
        let client = ClientRoots { territory_table: territories.reference, realm_table: realms };
        let (blob, references) = client.encode();
        let trees = vec![
            (client.territory_table, TreeKind::TerritoryTable, "territory table"),
            (client.realm_table, TreeKind::RealmTable, "realm table"),
        ];
        Ok(Roots { references, trees, blob, damaged: false, copies: Vec::new() })
    }

    /// A whole tree; none if its root cannot be read.
    fn tree(&mut self, root: &Reference, kind: TreeKind, context: u32) -> Result<Option<Built>> {
        let context = context_of(root, kind, context);
        if let Some(known) = self.trees.get(&(root.oid, kind, context)) {
            return Ok(*known);
        }
        let outside = (std::mem::take(&mut self.disorder), self.slices_end.replace(0));
        let down = Down { kind, context, hash_key: None, level: None, from: None, to: None };
        let mut built = self.node(root, down)?;
        if self.disorder {
            built = self.sort_again(root, down)?;
        }
        (self.disorder, self.slices_end) = outside;
        if built.is_none_or(|built| built.reference.oid != root.oid) {
            self.trees.insert((root.oid, kind, context), built);
        }
        Ok(built)
    }

    fn read(&self, reference: &Reference) -> Option<Vec<u8>> {
        self.read_or_copy(reference).map(|(bytes, _)| bytes)
    }

    /// A node's bytes, and whether they are a copy in place of what is damaged.
    fn read_or_copy(&self, reference: &Reference) -> Option<(Vec<u8>, bool)> {
        if reference.kind != ReferenceKind::Node || reference.stored_bytes as usize > NODE_BYTES_MAX {
            return None;
        }
        let mut bytes = vec![0; reference.stored_bytes as usize];
        let read = self.space.read(self.disk, reference.oid, 0, &mut bytes);
        if read.is_ok() && checksum::crc32c(&bytes) == reference.crc {
            return Some((bytes, false));
        }
        self.space.copy(reference.oid).map(|copy| (copy.to_vec(), true))
    }

    fn node(&mut self, reference: &Reference, down: Down<'_>) -> Result<Option<Built>> {
        let down = Down { context: context_of(reference, down.kind, down.context), ..down };
        let memo = (reference.oid, down.kind, down.context);
        if let Some(known) = self.nodes.get(&memo) {
            return Ok(*known);
        }
        if interrupt::requested() {
            bail!("stopped before anything was changed");
        }
        let slot = u32::from(reference.oid.slot());
        let stays =
            down.context == 0 && self.same.get(&reference.oid.segment()).is_some_and(|units| units.contains(slot));
        let outside = std::mem::take(&mut self.disorder);
        let built = match self.read_or_copy(reference).filter(|_| !self.above.contains(&reference.oid)) {
            Some((bytes, is_copy)) => match NodeView::parse(&bytes) {
                Ok(view) if stays => self.known(reference, &view, down),
                Ok(view) => {
                    self.above.insert(reference.oid);
                    let built = self.deeper(|this| this.parsed(reference, &view, down, is_copy));
                    self.above.remove(&reference.oid);
                    built?
                }
                Err(_) => None,
            },
            None => None,
        };
        let disorder = std::mem::replace(&mut self.disorder, outside);
        self.disorder |= disorder;
        match &built {
            // Another tree that leads here has to be sorted again too.
            _ if disorder => {}
            Some(built) if built.reference.oid == reference.oid => {
                if down.context == 0 {
                    self.same.entry(reference.oid.segment()).or_default().insert_one(slot);
                }
            }
            _ => {
                self.nodes.insert(memo, built);
            }
        }
        Ok(built)
    }

    /// A node that was met before and stays.
    fn known(&mut self, reference: &Reference, view: &NodeView<'_>, down: Down<'_>) -> Option<Built> {
        let header = view.header();
        if header.tree != down.kind || down.level.is_some_and(|level| level != header.level) {
            return None;
        }
        if header.tree == TreeKind::Extents && header.level == 0 {
            let last = view.items().last().and_then(|item| Slice::decode(item.value).ok());
            let end = last.map_or(0, |slice| slice.end_block());
            self.slices_end.iter_mut().for_each(|at| *at = (*at).max(end));
        }
        let sum = summary(view)?;
        let reference = Reference { flags: sum.flags, ..*reference };
        Some(Built { reference, totals: sum.totals, items: sum.items })
    }

    /// `anew`: it is written although nothing in it changes.
    fn parsed(
        &mut self,
        reference: &Reference,
        view: &NodeView<'_>,
        down: Down<'_>,
        anew: bool,
    ) -> Result<Option<Built>> {
        let header = *view.header();
        if header.tree != down.kind || down.level.is_some_and(|level| level != header.level) {
            return Ok(None);
        }
        let mut changed = anew || header.birth != reference.birth;
        let mut items: Vec<Item> = Vec::with_capacity(header.item_count.into());
        let hash_key = down.hash_key.or_else(|| hash_key(view));
        let keys: Vec<&[u8]> = view.items().map(|item| item.key).collect();
        let ascending = keys.windows(2).all(|pair| matches!(pair, [a, b] if a < b));
        let above = down.from.is_none_or(|from| keys.first().is_none_or(|key| from <= *key));
        let below = down.to.is_none_or(|to| keys.last().is_none_or(|key| *key < to));
        self.disorder |= !(ascending && above && below);
        for (index, item) in view.items().enumerate() {
            let old = Item::of(view, &item);
            if header.tree == TreeKind::Extents && header.level == 0 {
                let new = self.slices(&old)?;
                changed |= !matches!(new.as_slice(), [one] if one.same(&old));
                items.extend(new);
                continue;
            }
            let new = if header.level > 0 {
                let from = if index == 0 { down.from } else { Some(item.key) };
                let to = keys.get(index + 1).copied().or(down.to);
                let down = Down { level: header.level.checked_sub(1), hash_key, from, to, ..down };
                match interior(&old.value, &old.references) {
                    Ok((child, ..)) => self.node(&child, down)?.map(|built| Item::interior(old.key.clone(), &built)),
                    Err(_) => None,
                }
            } else {
                self.item(reference.oid, &header, &old, Down { hash_key, ..down })?
            };
            match new {
                Some(new) => {
                    changed |= !new.same(&old);
                    items.push(new);
                }
                None => changed = true,
            }
        }
        changed |= items.iter().flat_map(|item| &item.references).any(|child| child.birth > header.birth);
        if header.level > 0 && items.is_empty() {
            if view.root_blob().is_empty() {
                return Ok(None);
            }
            return Ok(Some(self.packer.empty(header.tree, header.owner, header.birth, view.root_blob())?));
        }
        if !changed {
            return Ok(Some(Built::unchanged(reference, &items)));
        }
        match self.packer.node(&header, view.root_blob(), &items)? {
            Some(built) => Ok(Some(built)),
            None => {
                // It grew beyond what a node holds.
                self.disorder = true;
                Ok(Some(Built::unchanged(reference, &items)))
            }
        }
    }

    /// All items of a tree, sorted, in new nodes.
    fn sort_again(&mut self, root: &Reference, down: Down<'_>) -> Result<Option<Built>> {
        let Some(bytes) = self.read(root) else { return Ok(None) };
        let Ok(view) = NodeView::parse(&bytes) else { return Ok(None) };
        let (header, blob) = (*view.header(), view.root_blob().to_vec());
        let mut all = Vec::new();
        self.slices_end = None;
        self.gather(root, Down { hash_key: hash_key(&view), ..down }, &mut all)?;
        if down.kind == TreeKind::Directory
            && let Some(hash_key) = hash_key(&view)
        {
            file_again(&hash_key, &mut all);
        }
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all.dedup_by(|later, first| later.key == first.key);
        if down.kind == TreeKind::Extents {
            let mut end = 0;
            all.retain(|item| {
                let Ok(slice) = Slice::decode(&item.value) else { return false };
                let keep = slice.file_block >= end;
                end = end.max(slice.end_block());
                keep
            });
        }
        let birth = all.iter().flat_map(|item| &item.references).map(|r| r.birth).fold(header.birth, Hlc::max);
        Ok(Some(self.packer.tree(header.tree, header.owner, birth, &blob, all)?))
    }

    fn gather(&mut self, reference: &Reference, down: Down<'_>, out: &mut Vec<Item>) -> Result<()> {
        let Some(bytes) = self.read(reference) else { return Ok(()) };
        let Ok(view) = NodeView::parse(&bytes) else { return Ok(()) };
        let header = *view.header();
        if header.tree != down.kind || down.level.is_some_and(|level| level != header.level) {
            return Ok(());
        }
        for item in view.items() {
            let old = Item::of(&view, &item);
            if header.level == 0 && header.tree == TreeKind::Extents {
                out.extend(self.slices(&old)?);
            } else if header.level == 0 {
                out.extend(self.item(reference.oid, &header, &old, down)?);
            } else if let Ok((child, ..)) = interior(&old.value, &old.references) {
                let down = Down { level: header.level.checked_sub(1), ..down };
                self.deeper(|this| this.gather(&child, down, out))?;
            }
        }
        Ok(())
    }
}

/// Without it nothing is reachable: no trees are written that would end there.
fn no_top() -> anyhow::Error {
    anyhow!("the table of territories is lost; to look for an older one: fsck.envoyfs --rebuild")
}

/// Names and link tables of realms that disagree are read with these; directories without such names are alike in all realms.
const fn context_of(reference: &Reference, kind: TreeKind, context: u32) -> u32 {
    if matches!(kind, TreeKind::Directory) && reference.flags & flags::LINKS == 0 { 0 } else { context }
}

/// Files names under their right hashes; of those with equal hash and collision index the later get a free index.
fn file_again(hash_key: &[u8; 16], items: &mut [Item]) {
    let mut taken: HashSet<(u64, u16)> = HashSet::new();
    let mut wrong = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let Ok(name) = DirectoryKey::decode(&item.key) else { continue };
        if name_hash(hash_key, &name.name) != name.hash || !taken.insert((name.hash, name.collision)) {
            wrong.push((index, name));
        }
    }
    for (index, mut name) in wrong {
        name.hash = name_hash(hash_key, &name.name);
        while !taken.insert((name.hash, name.collision)) {
            name.collision = name.collision.wrapping_add(1);
        }
        if let Some(item) = items.get_mut(index) {
            item.key = name.encode();
        }
    }
}
