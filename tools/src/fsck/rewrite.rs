//! New trees from damaged ones: every node above something that is wrong is written anew without it, everything else stays and is shared as before.
//!
//! A pure function of the old trees, from the leaves up: an item that cannot be kept is left out, what follows from others (totals, flags, births, link counts) is computed
//! again, and a node whose items are all as before keeps its object. So nobody has to say which nodes are affected. A node that several trees share is written once.
//! A new node keeps the birth of the old one, so that nothing below it looks younger, or more exclusive, than it is (INV-02, INV-05).
//!
//! Nothing of it counts before [`super::account::publish`]. Memory: a bit a unit of the segments of nodes, 150 bytes a node that is written anew or lost, and the items of the largest
//! directory that must be sorted again. (A node that stays is remembered by a bit. Met again below another parent, it is read again and not followed: what it amounts to stands in it.)

use super::data::BadBlocks;
use super::disk::Disk;
use super::examine::Examined;
use super::items::{self, name_hash};
use super::links::{Disagreement, RealmRoots};
use super::repair::Settings;
use super::roots::Roots;
use super::space::Space;
use super::units::Units;
use super::walk::{interior, summary};
use super::{interrupt, tree};
use anyhow::{Result, anyhow, bail};
use envoyfs_engine::repair::OfflineWriter;
use envoyfs_layout::key::{self, DirectoryKey, LinkKey, RealmItemKind, RealmKey};
use envoyfs_layout::node::{NODE_BYTES_MAX, NodeHeader, NodeView, Owner, TreeKind};
use envoyfs_layout::{
    BLOCK, Body, ClientRoots, DirectoryAttributes, Entry, Hlc, Inode, LinkEntry, Oid, RealmEntry, Reference,
    ReferenceKind, Slice, SnapshotItem, TerritoryRecord, Totals, checksum, flags,
};
use std::collections::{BTreeMap, HashMap, HashSet};
use tree::{Built, Item, Packer};

/// Directories may lie in each other as deep as the store has room for.
const STACK_BYTES: usize = 1 << 30;

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
    /// Nodes that stay as they are, whatever the realm.
    same: BTreeMap<u32, Units>,
    /// The tree being written must be sorted again.
    disorder: bool,
    /// End of the last slice of the extents tree being written; none while items are gathered in any order.
    slices_end: Option<u64>,
}

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
            same: BTreeMap::new(),
            disorder: false,
            slices_end: Some(0),
        }
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
        let this = &mut *self;
        let result = std::thread::scope(|scope| {
            let builder = std::thread::Builder::new().name("fsck-rewrite".into()).stack_size(STACK_BYTES);
            let thread = builder.spawn_scoped(scope, || this.roots_here(old))?;
            thread.join().map_err(|_| anyhow!("the repair failed; nothing was changed"))?
        })?;
        Ok(result)
    }

    fn roots_here(&mut self, old: &Roots) -> Result<Roots> {
        let client = ClientRoots::decode(&old.blob, &old.references)?;
        let lost = || anyhow!("the table of territories is lost; to look for an older one: fsck.envoyfs --rebuild");
        let territories = self.tree(&client.territory_table, TreeKind::TerritoryTable, 0)?.ok_or_else(lost)?;
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
        let built = match self.read_or_copy(reference) {
            Some((bytes, is_copy)) => match NodeView::parse(&bytes) {
                Ok(view) if stays => self.known(reference, &view, down),
                Ok(view) => self.parsed(reference, &view, down, is_copy)?,
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
        let hash_key = down.hash_key.or_else(|| items::hash_key(view));
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
        self.gather(root, Down { hash_key: items::hash_key(&view), ..down }, &mut all)?;
        if down.kind == TreeKind::Directory
            && let Some(hash_key) = items::hash_key(&view)
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
                self.gather(&child, Down { level: header.level.checked_sub(1), ..down }, out)?;
            }
        }
        Ok(())
    }

    /// The parts of a slice that can be kept.
    fn slices(&mut self, old: &Item) -> Result<Vec<Item>> {
        let Ok(slice) = Slice::decode(&old.value) else { return Ok(Vec::new()) };
        let ([extent], Ok(())) = (old.references.as_slice(), key::check_extent(&old.key, &slice)) else {
            return Ok(Vec::new());
        };
        if let Some(end) = &mut self.slices_end {
            if slice.file_block < *end {
                return Ok(Vec::new());
            }
            *end = slice.end_block();
        }
        let pieces = self.pieces(&slice, extent).into_iter();
        let item =
            |piece: Slice| Item::leaf(TreeKind::Extents, key::extent(piece.file_block), piece.encode()?, vec![*extent]);
        pieces.map(item).collect()
    }

    /// An item of a leaf as it must be; none if it cannot be kept. Slices are [`Rewriter::slices`].
    fn item(&mut self, node: Oid, header: &NodeHeader, old: &Item, down: Down<'_>) -> Result<Option<Item>> {
        match header.tree {
            TreeKind::Directory => self.name(node, old, down),
            TreeKind::Links => {
                let (Ok(key), Ok(mut inode)) = (LinkKey::decode(&old.key), Inode::decode(&old.value, &old.references))
                else {
                    return Ok(None);
                };
                let counts = self.disagreement(down.context).map(|found| &found.counts);
                if let Some(names) = counts.and_then(|counts| counts.get(&key)) {
                    // Without any it gets one in the top directory.
                    inode.nlink = (*names).max(1);
                }
                if inode.number != key.inode {
                    return Ok(None);
                }
                self.body(&mut inode, header.owner)?;
                let (value, references) = inode.encode()?;
                Item::leaf(header.tree, old.key.clone(), value, references).map(Some)
            }
            TreeKind::Extents => Ok(None),
            TreeKind::RealmTable => self.realm_item(header.owner, old),
            TreeKind::TerritoryTable => {
                let number = key::decode_territory(&old.key);
                let Ok(mut record) = TerritoryRecord::decode(&old.value, &old.references) else { return Ok(None) };
                if number != Ok(record.territory) {
                    return Ok(None);
                }
                if let Some(view) = record.view {
                    record.view = Some(self.realm(&view)?);
                }
                let (value, references) = record.encode()?;
                Item::leaf(header.tree, old.key.clone(), value, references).map(Some)
            }
        }
    }

    fn disagreement(&self, context: u32) -> Option<&'a Disagreement> {
        let (roots, _) = self.contexts.iter().find(|(_, number)| **number == context)?;
        self.links.get(roots)
    }

    fn name(&mut self, node: Oid, old: &Item, down: Down<'_>) -> Result<Option<Item>> {
        let Ok(name) = DirectoryKey::decode(&old.key) else { return Ok(None) };
        let Ok(mut entry) = Entry::decode(&old.value, &old.references) else { return Ok(None) };
        let filed_wrong = down.hash_key.is_some_and(|hash_key| name_hash(&hash_key, &name.name) != name.hash);
        self.disorder |= filed_wrong;
        let renumber = self.twice.contains(&(node, old.key.clone()));
        match &mut entry {
            Entry::File(inode) | Entry::Symlink(inode) | Entry::Special(inode) => {
                inode.nlink = 1;
                if renumber {
                    inode.number = self.inode_number();
                }
                let owner = Owner { realm: 0, inode: inode.number };
                self.body(inode, owner)?;
            }
            Entry::Directory(directory) => {
                if renumber {
                    directory.number = self.inode_number();
                }
                let built = self.directory(&directory.root, directory.number, down.context)?;
                (directory.root, directory.totals) = (built.reference, built.totals);
            }
            Entry::Realm(realm) => *realm = self.realm(realm)?,
            Entry::Link(link) => {
                let key = LinkKey { shard: link.shard, inode: link.inode };
                if self.disagreement(down.context).is_some_and(|found| found.missing.contains(&key)) {
                    return Ok(None);
                }
            }
        }
        let (value, references) = entry.encode()?;
        Item::leaf(TreeKind::Directory, old.key.clone(), value, references).map(Some)
    }

    fn inode_number(&mut self) -> u64 {
        let number = self.next_inode.max(1);
        self.next_inode = number + 1;
        number
    }

    /// A directory's tree; an empty one in its place if its root is lost.
    fn directory(&mut self, root: &Reference, number: u64, context: u32) -> Result<Built> {
        if let Some(built) = self.tree(root, TreeKind::Directory, context)? {
            return Ok(built);
        }
        let mut hash_key = self.seed;
        for (byte, number) in hash_key.iter_mut().zip(number.to_le_bytes()) {
            *byte ^= number;
        }
        let attributes = DirectoryAttributes { mode: 0o040_700, hash_key, ..DirectoryAttributes::default() };
        let owner = Owner { realm: 0, inode: number };
        let built = self.packer.empty(TreeKind::Directory, owner, root.birth, &attributes.encode()?)?;
        let context = context_of(root, TreeKind::Directory, context);
        self.trees.insert((root.oid, TreeKind::Directory, context), Some(built));
        Ok(built)
    }

    fn realm(&mut self, old: &RealmEntry) -> Result<RealmEntry> {
        let roots = (old.root.oid, old.links.map(|links| links.oid));
        let context = self.contexts.get(&roots).copied().unwrap_or(0);
        let mut realm = *old;
        let mut built = self.directory(&old.root, old.number, context)?;
        if let Some(named) = self.name_lost_files(old, context, &built)? {
            built = named;
        }
        (realm.root, realm.totals) = (built.reference, built.totals);
        if let Some(links) = &old.links {
            let built = self.tree(links, TreeKind::Links, context)?.filter(|built| built.items > 0);
            realm.links = built.map(|built| built.reference);
            realm.links_totals = built.map_or(Totals::ZERO, |built| built.totals);
        }
        Ok(realm)
    }

    /// Files in a link table that no name leads to any more, since a directory was lost: each gets one in the top directory of the realm, as e2fsck does it.
    fn name_lost_files(&mut self, old: &RealmEntry, context: u32, top: &Built) -> Result<Option<Built>> {
        let counts = self.disagreement(context).into_iter().flat_map(|found| &found.counts);
        let lost: Vec<LinkKey> = counts.filter(|(_, names)| **names == 0).map(|(key, _)| *key).collect();
        // An empty directory was made for a top that is lost; that has another place. The next check finds these files again.
        if lost.is_empty() || self.read(&old.root).is_none() {
            return Ok(None);
        }
        let memo = (top.reference.oid, TreeKind::Directory, context);
        if let Some(known) = self.named.get(&memo) {
            return Ok(Some(*known));
        }
        let Some(bytes) = self.read(&old.root) else { return Ok(None) };
        let Ok(view) = NodeView::parse(&bytes) else { return Ok(None) };
        let Some(hash_key) = items::hash_key(&view) else { return Ok(None) };
        let (header, blob) = (*view.header(), view.root_blob().to_vec());
        let down =
            Down { kind: TreeKind::Directory, context, hash_key: Some(hash_key), level: None, from: None, to: None };
        let mut all = Vec::new();
        self.gather(&old.root, down, &mut all)?;
        for LinkKey { shard, inode } in lost {
            let name = format!("lost+found #{inode}").into_bytes();
            let key = DirectoryKey { hash: name_hash(&hash_key, &name), collision: 0, name };
            let entry = Entry::Link(LinkEntry { shard, inode, mode: 0o100_600 });
            let (value, references) = entry.encode()?;
            all.push(Item::leaf(TreeKind::Directory, key.encode(), value, references)?);
        }
        file_again(&hash_key, &mut all);
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all.dedup_by(|later, first| later.key == first.key);
        let birth = all.iter().flat_map(|item| &item.references).map(|r| r.birth).fold(header.birth, Hlc::max);
        let built = self.packer.tree(TreeKind::Directory, header.owner, birth, &blob, all)?;
        self.named.insert(memo, built);
        Ok(Some(built))
    }

    fn realm_item(&mut self, owner: Owner, old: &Item) -> Result<Option<Item>> {
        let Ok(key) = RealmKey::decode(&old.key) else { return Ok(None) };
        let (value, references) = match key.kind {
            RealmItemKind::Record => match envoyfs_layout::RealmRecord::decode(&old.value) {
                Ok(mut record) => {
                    if let Some((snapshots, orphans)) = self.realm_items.get(&key.realm) {
                        (record.snapshots, record.orphans) = (*snapshots, *orphans);
                    }
                    (record.encode()?, Vec::new())
                }
                Err(_) => return Ok(None),
            },
            RealmItemKind::Snapshot => {
                let Ok(mut item) = SnapshotItem::decode(&old.value, &old.references) else { return Ok(None) };
                item.realm = self.realm(&item.realm)?;
                item.encode()?
            }
            RealmItemKind::Orphan => {
                let Ok(mut inode) = Inode::decode(&old.value, &old.references) else { return Ok(None) };
                self.body(&mut inode, owner)?;
                inode.encode()?
            }
        };
        Item::leaf(TreeKind::RealmTable, old.key.clone(), value, references).map(Some)
    }

    /// A file keeps what can be read of it.
    fn body(&mut self, inode: &mut Inode, owner: Owner) -> Result<()> {
        match &inode.body {
            Body::None | Body::Inline { .. } => {}
            Body::Slices(slices) => {
                let mut end = 0;
                let mut kept = Vec::new();
                for (slice, extent) in slices {
                    if slice.file_block < end {
                        continue;
                    }
                    end = slice.end_block();
                    kept.extend(self.pieces(slice, extent).into_iter().map(|piece| (piece, *extent)));
                }
                inode.body = self.body_of(kept, owner)?;
            }
            Body::Tree { root, .. } => {
                let root = *root;
                let built = self.tree(&root, TreeKind::Extents, 0)?;
                inode.body = match built.filter(|built| built.items > 0) {
                    Some(built) => Body::Tree { root: built.reference, bytes: built.totals.bytes },
                    None => Body::None,
                };
            }
        }
        Ok(())
    }

    fn body_of(&mut self, slices: Vec<(Slice, Reference)>, owner: Owner) -> Result<Body> {
        if slices.is_empty() {
            return Ok(Body::None);
        }
        if slices.len() <= envoyfs_layout::inode::INLINE_SLICES_MAX {
            return Ok(Body::Slices(slices));
        }
        let birth = slices.iter().map(|(_, extent)| extent.birth).max().unwrap_or(Hlc::ZERO);
        let items = slices.into_iter().map(|(slice, extent)| {
            Item::leaf(TreeKind::Extents, key::extent(slice.file_block), slice.encode()?, vec![extent])
        });
        let built = self.packer.tree(TreeKind::Extents, owner, birth, &[], items.collect::<Result<_>>()?)?;
        Ok(Body::Tree { root: built.reference, bytes: built.totals.bytes })
    }

    /// The parts of a slice that can be read.
    fn pieces(&self, slice: &Slice, extent: &Reference) -> Vec<Slice> {
        if extent.kind != ReferenceKind::Extent || slice.units().end > extent.units() {
            return Vec::new();
        }
        let mut out: Vec<Slice> = Vec::new();
        let mut open = false;
        for (index, crc) in slice.crcs.iter().enumerate() {
            if self.bad.of(slice, extent, index).is_some() {
                open = false;
                continue;
            }
            let at = u32::try_from(index).unwrap_or(u32::MAX);
            let bytes = if index + 1 == slice.crcs.len() { slice.last_block_bytes } else { BLOCK };
            match out.last_mut().filter(|_| open) {
                Some(piece) => {
                    piece.blocks += 1;
                    piece.last_block_bytes = bytes;
                    piece.crcs.push(*crc);
                }
                None => out.push(Slice {
                    file_block: slice.file_block + u64::from(at),
                    blocks: 1,
                    extent_block: slice.extent_block + at,
                    last_block_bytes: bytes,
                    crcs: vec![*crc],
                }),
            }
            open = true;
        }
        out
    }
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
