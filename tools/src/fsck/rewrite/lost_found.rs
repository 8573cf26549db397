//! Names for what lost its own: files of a link table without a name, and what hung below a node that is lost.

use super::{Down, LOST, Rewriter, context_of, file_again};
use crate::fsck::items::{self, name_hash};
use crate::fsck::lost::Lost;
use crate::fsck::tree::{Built, Item};
use anyhow::Result;
use envoyfs_layout::inode::NAME_BYTES_MAX;
use envoyfs_layout::key::{DirectoryKey, LinkKey};
use envoyfs_layout::node::{NodeView, Owner, TreeKind};
use envoyfs_layout::{DirectoryAttributes, DirectoryEntry, Entry, Hlc, LinkEntry, RealmEntry, Reference};
use std::collections::{BTreeMap, HashSet};

/// The directory that what was found is put into.
const NAME: &str = "lost+found";

/// A name with a number behind it, no longer than names may be.
fn numbered(name: &[u8], copy: u32) -> Vec<u8> {
    let number = format!(" {copy}");
    let room = NAME_BYTES_MAX - number.len();
    // Not amid a character.
    let is_border = |end: &usize| name.get(*end).is_none_or(|byte| byte & 0xc0 != 0x80);
    let end = (room - 3..=room).rev().find(is_border).unwrap_or(room);
    [name.get(..end).unwrap_or(name), number.as_bytes()].concat()
}

impl Rewriter<'_, '_> {
    /// A directory's tree; an empty one in its place if its root is lost.
    pub(super) fn directory(&mut self, root: &Reference, number: u64, context: u32) -> Result<Built> {
        if let Some(built) = self.tree(root, TreeKind::Directory, context)? {
            return Ok(built);
        }
        let attributes = self.attributes(number);
        let owner = Owner { realm: 0, inode: number };
        let built = self.packer.empty(TreeKind::Directory, owner, root.birth, &attributes.encode()?)?;
        let context = context_of(root, TreeKind::Directory, context);
        self.trees.insert((root.oid, TreeKind::Directory, context), Some(built));
        Ok(built)
    }

    /// Of a directory that is made.
    fn attributes(&self, number: u64) -> DirectoryAttributes {
        let mut hash_key = self.seed;
        for (byte, number) in hash_key.iter_mut().zip(number.to_le_bytes()) {
            *byte ^= number;
        }
        DirectoryAttributes { mode: 0o040_700, hash_key, ..DirectoryAttributes::default() }
    }

    /// What is new in the top directory of a realm: files in its link table that no name leads to any more, since a directory was lost, as e2fsck does it; and `found`.
    pub(super) fn name_lost_files(
        &mut self,
        old: &RealmEntry,
        context: u32,
        top: &Built,
        found: Option<DirectoryEntry>,
    ) -> Result<Option<Built>> {
        let bytes = self.read(&old.root);
        let readable = bytes.as_deref().and_then(|bytes| {
            let view = NodeView::parse(bytes).ok()?;
            Some((*view.header(), view.root_blob().to_vec(), items::hash_key(&view)?))
        });
        let counts = self.disagreement(context).into_iter().flat_map(|found| &found.counts);
        // A top that is lost has an empty one in its place, with another link table's names: the next check finds these files again.
        let lost: Vec<LinkKey> =
            counts.filter(|(_, names)| **names == 0 && readable.is_some()).map(|(key, _)| *key).collect();
        if lost.is_empty() && found.is_none() {
            return Ok(None);
        }
        let memo = (top.reference.oid, TreeKind::Directory, context);
        if let Some(known) = self.named.get(&memo).filter(|_| found.is_none()) {
            return Ok(Some(*known));
        }
        let (owner, birth, blob, hash_key, mut all) = match readable {
            Some((header, blob, hash_key)) => {
                let (kind, hash_key) = (TreeKind::Directory, Some(hash_key));
                let down = Down { kind, context, hash_key, level: None, from: None, to: None };
                let mut all = Vec::new();
                self.gather(&old.root, down, &mut all)?;
                (header.owner, header.birth, blob, hash_key.unwrap_or_default(), all)
            }
            None => {
                let attributes = self.attributes(old.number);
                let owner = Owner { realm: 0, inode: old.number };
                (owner, top.reference.birth, attributes.encode()?, attributes.hash_key, Vec::new())
            }
        };
        let mut add = |name: Vec<u8>, entry: Entry| {
            let key = DirectoryKey { hash: name_hash(&hash_key, &name), collision: 0, name };
            let (value, references) = entry.encode()?;
            all.push(Item::leaf(TreeKind::Directory, key.encode(), value, references)?);
            Ok::<_, anyhow::Error>(())
        };
        for LinkKey { shard, inode } in lost {
            let link = LinkEntry { shard, inode, mode: 0o100_600 };
            add(format!("{NAME} #{inode}").into_bytes(), Entry::Link(link))?;
        }
        let is_new = found.is_some();
        if let Some(found) = found {
            add(NAME.into(), Entry::Directory(found))?;
        }
        let built = self.filled(owner, birth, &blob, &hash_key, all)?;
        if !is_new {
            self.named.insert(memo, built);
        }
        Ok(Some(built))
    }

    /// The directory of what hung below lost nodes, each by its number; none if nothing did.
    pub(super) fn name_lost_directories(&mut self) -> Result<Option<DirectoryEntry>> {
        let mut found: Vec<(u64, Built)> = Vec::new();
        let mut parts: BTreeMap<u64, (Hlc, Vec<Item>)> = BTreeMap::new();
        for Lost { reference, inode, whole } in std::mem::take(&mut self.lost) {
            if whole {
                found.extend(self.tree(&reference, TreeKind::Directory, LOST)?.map(|built| (inode, built)));
                continue;
            }
            let (birth, items) = parts.entry(inode).or_default();
            *birth = (*birth).max(reference.birth);
            let kind = TreeKind::Directory;
            self.gather(
                &reference,
                Down { kind, context: LOST, hash_key: None, level: None, from: None, to: None },
                items,
            )?;
        }
        for (inode, (birth, items)) in parts.into_iter().filter(|(_, (_, items))| !items.is_empty()) {
            found.push((inode, self.named_directory(inode, birth, items)?));
        }
        if found.is_empty() {
            return Ok(None);
        }
        let mut all = Vec::new();
        for (inode, built) in found {
            let entry = Entry::Directory(self.entry_of(&built));
            let (value, references) = entry.encode()?;
            let key = DirectoryKey { hash: 0, collision: 0, name: format!("#{inode}").into_bytes() };
            all.push(Item::leaf(TreeKind::Directory, key.encode(), value, references)?);
        }
        let number = self.inode_number();
        let built = self.named_directory(number, Hlc::ZERO, all)?;
        Ok(Some(DirectoryEntry { number, ..self.entry_of(&built) }))
    }

    /// An entry with a number of its own. Everything below may be shared with others, as far as anybody knows: it is freed by its count.
    fn entry_of(&mut self, built: &Built) -> DirectoryEntry {
        let (share, number, root) = (self.share, self.inode_number(), built.reference);
        DirectoryEntry { share, number, generation: 0, totals: built.totals, snapshots: false, root }
    }

    /// A new directory with these names, whatever they were filed under.
    fn named_directory(&mut self, number: u64, birth: Hlc, items: Vec<Item>) -> Result<Built> {
        let attributes = self.attributes(number);
        let owner = Owner { realm: 0, inode: number };
        self.filled(owner, birth, &attributes.encode()?, &attributes.hash_key, items)
    }

    /// A directory's tree with these names; of those that are alike the later get another one.
    fn filled(
        &mut self,
        owner: Owner,
        birth: Hlc,
        blob: &[u8],
        hash_key: &[u8; 16],
        items: Vec<Item>,
    ) -> Result<Built> {
        let mut all = items;
        let mut names = HashSet::new();
        for item in &mut all {
            let Ok(mut key) = DirectoryKey::decode(&item.key) else { continue };
            let name = key.name.clone();
            for copy in 2_u32.. {
                if names.insert(key.name.clone()) {
                    break;
                }
                key.name = numbered(&name, copy);
            }
            if key.name != name {
                item.key = key.encode();
            }
        }
        file_again(hash_key, &mut all);
        all.sort_by(|a, b| a.key.cmp(&b.key));
        let birth = all.iter().flat_map(|item| &item.references).map(|r| r.birth).fold(birth, Hlc::max);
        self.packer.tree(TreeKind::Directory, owner, birth, blob, all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numbered_name_is_no_longer_than_names_may_be_and_ends_with_a_whole_character() {
        assert_eq!(numbered(b"short", 2), b"short 2");
        let long = "x".repeat(NAME_BYTES_MAX);
        assert_eq!(numbered(long.as_bytes(), 10), format!("{} 10", "x".repeat(NAME_BYTES_MAX - 3)).into_bytes());
        for before in 0..4 {
            let wide = format!("{}{}", "x".repeat(before), "\u{1f333}".repeat(70));
            let name = numbered(&wide.as_bytes()[..before + 4 * 63], 2);
            assert!(name.len() <= NAME_BYTES_MAX && String::from_utf8(name).unwrap().ends_with("\u{1f333} 2"));
        }
        let bytes = numbered(&[0x80; NAME_BYTES_MAX], 2);
        assert_eq!(bytes.len(), NAME_BYTES_MAX);
    }
}
