//! What items of leaves become: slices, names, inodes, realms, territories.

use super::{Down, LOST, Rewriter, no_top};
use crate::fsck::items::name_hash;
use crate::fsck::links::Disagreement;
use crate::fsck::tree::Item;
use anyhow::Result;
use envoyfs_layout::key::{self, DirectoryKey, LinkKey, RealmItemKind, RealmKey};
use envoyfs_layout::node::{NodeHeader, Owner, TreeKind};
use envoyfs_layout::{
    BLOCK, Body, Entry, Hlc, Inode, Oid, RealmEntry, Reference, ReferenceKind, Slice, SnapshotItem, TerritoryRecord,
    Totals,
};

impl<'a> Rewriter<'a, '_> {
    /// The parts of a slice that can be kept.
    pub(super) fn slices(&mut self, old: &Item) -> Result<Vec<Item>> {
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
    pub(super) fn item(&mut self, node: Oid, header: &NodeHeader, old: &Item, down: Down<'_>) -> Result<Option<Item>> {
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
                let record = TerritoryRecord::decode(&old.value, &old.references).ok();
                let Some(mut record) = record.filter(|record| number == Ok(record.territory)) else {
                    return Err(no_top());
                };
                if let Some(view) = record.view {
                    record.view = Some(self.realm_with(&view, true)?);
                }
                let (value, references) = record.encode()?;
                Item::leaf(header.tree, old.key.clone(), value, references).map(Some)
            }
        }
    }

    pub(super) fn disagreement(&self, context: u32) -> Option<&'a Disagreement> {
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
                if down.context == LOST
                    || self.disagreement(down.context).is_some_and(|found| found.missing.contains(&key))
                {
                    return Ok(None);
                }
            }
        }
        let (value, references) = entry.encode()?;
        Item::leaf(TreeKind::Directory, old.key.clone(), value, references).map(Some)
    }

    pub(super) fn inode_number(&mut self) -> u64 {
        let number = self.next_inode.max(1);
        self.next_inode = number + 1;
        number
    }

    fn realm(&mut self, old: &RealmEntry) -> Result<RealmEntry> {
        self.realm_with(old, false)
    }

    /// A view also gets what hung below lost nodes.
    fn realm_with(&mut self, old: &RealmEntry, is_view: bool) -> Result<RealmEntry> {
        let roots = (old.root.oid, old.links.map(|links| links.oid));
        let context = self.contexts.get(&roots).copied().unwrap_or(0);
        let mut realm = *old;
        let mut built = self.directory(&old.root, old.number, context)?;
        let found = if is_view { self.name_lost_directories()? } else { None };
        if let Some(named) = self.name_lost_files(old, context, &built, found)? {
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
