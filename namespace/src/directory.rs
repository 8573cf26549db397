//! A directory in memory: its attributes and its entries.
//!
//! Owns names and their keys. Entries are a [`Layered`] tree; the attributes live in the root node of that tree and follow the same rule: what they were at the end of an
//! epoch is kept until the builder has stored it.

use crate::api::{Error, Result};
use crate::inode::EntryKey;
use crate::layered::{Layered, Value};
use crate::tree::{Item, Nodes, Tree};
use envoyfs_layout::key::{self, DirectoryKey};
use envoyfs_layout::totals::Totals;
use envoyfs_layout::{DirectoryAttributes, Entry};
use envoyfs_layout::{Hlc, Reference};
use siphasher::sip::SipHasher13;
use std::hash::Hasher;
use std::ops::{Bound, ControlFlow};

#[cfg(test)]
mod tests;

/// Longest name, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 255;
/// The name under which every directory lists its snapshots.
pub(crate) const SNAPSHOTS_NAME: &[u8] = b".snap";
/// Names with one hash that a directory takes: the collision index is the low byte of the cookie.
const COLLISIONS_MAX: u16 = 255;

/// What a directory's entry and root node say of the directory itself.
#[derive(Clone)]
pub(crate) struct Own {
    /// Mode, owner, times, extended attributes.
    pub attributes: DirectoryAttributes,
    /// Birth of the newest change of the attributes, the share time or the entry.
    pub changed: Hlc,
    /// Has it (or had it) snapshots?
    pub snapshots: bool,
}

/// A directory's state, behind its inode's lock.
pub(crate) struct Directory {
    /// Attributes as they are.
    pub own: Own,
    /// Entries.
    pub entries: Layered<Entry>,
    epoch: u64,
    frozen: Option<(u64, Own)>,
}

/// What is known of a name.
pub(crate) enum Found {
    /// It is there.
    Present(EntryKey, Entry),
    /// It is not; this would be its key.
    Absent(EntryKey),
}

impl Value for Entry {
    fn decode(_: &[u8], item: &Item) -> Result<Self> {
        Self::decode(&item.value, &item.references).map_err(crate::tree::damaged)
    }
    fn encode(&self) -> Result<Item> {
        let (value, references) = Self::encode(self).map_err(crate::tree::damaged)?;
        Ok(Item { value, references })
    }
}

impl Directory {
    /// A directory that was never stored.
    pub fn new(attributes: DirectoryAttributes, changed: Hlc, epoch: u64) -> Self {
        let own = Own { attributes, changed, snapshots: false };
        Self { own, entries: Layered::new(None, Totals::default()), epoch, frozen: None }
    }

    /// A stored directory. `attributes` are those in the root of its tree.
    pub fn stored(base: Reference, attributes: DirectoryAttributes, totals: Totals, snapshots: bool) -> Self {
        let own = Own { attributes, changed: base.birth, snapshots };
        Self { own, entries: Layered::new(Some(base), totals), epoch: 0, frozen: None }
    }

    /// Before any change in this epoch: keeps what the builder of the last one may still need.
    pub fn touch(&mut self, epoch: u64, birth: Hlc) {
        if self.epoch < epoch {
            self.frozen = Some((epoch.saturating_sub(1), self.own.clone()));
            self.epoch = epoch;
        }
        self.entries.touch(epoch);
        self.own.changed = self.own.changed.max(birth);
    }

    /// Changes an entry.
    pub fn put(&mut self, epoch: u64, key: EntryKey, entry: Option<Entry>, birth: Hlc) {
        self.touch(epoch, birth);
        self.entries.put(epoch, key, entry, birth);
    }

    /// For the builder: attributes as they were at the end of `epoch`.
    pub fn own_at_end_of(&self, epoch: u64) -> Own {
        match &self.frozen {
            Some((of, own)) if *of == epoch && self.epoch > epoch => own.clone(),
            _ => self.own.clone(),
        }
    }

    /// Looks a name up. Reads nodes when they are not cached.
    pub fn find(&self, nodes: &Nodes, tree: &Tree, name: &[u8]) -> Result<Found> {
        if name.len() > NAME_BYTES_MAX {
            return Err(Error::NameTooLong);
        }
        let hash = name_hash(&self.own.attributes.hash_key, name);
        let mut taken = Vec::new();
        let mut found = None;
        self.entries.scan(nodes, tree, Bound::Included(&hash.to_be_bytes()), &mut |key, entry| {
            let Ok(parts) = DirectoryKey::decode(key) else { return ControlFlow::Continue(()) };
            if parts.hash != hash {
                return ControlFlow::Break(());
            }
            if parts.name == name {
                found = Some(Found::Present(key.to_vec(), entry.clone()));
                return ControlFlow::Break(());
            }
            taken.push(parts.collision);
            ControlFlow::Continue(())
        })?;
        if let Some(found) = found {
            return Ok(found);
        }
        let collision = (0..=COLLISIONS_MAX).find(|c| !taken.contains(c)).ok_or(Error::NoSpace)?;
        Ok(Found::Absent(key::directory(hash, collision, name)))
    }
}

/// Name in an entry key.
pub(crate) fn name_of(key: &[u8]) -> &[u8] {
    key.get(DirectoryKey::PREFIX_BYTES..).unwrap_or_default()
}

/// 55 bits of SipHash-1-3 above a byte for the collision index; never below 256, so that the cookies of "." and ".." stay free.
pub(crate) fn name_hash(hash_key: &[u8; 16], name: &[u8]) -> u64 {
    #[cfg(test)]
    if name.starts_with(tests::SAME_HASH) {
        return tests::THE_HASH;
    }
    let mut hasher = SipHasher13::new_with_key(hash_key);
    hasher.write(name);
    ((hasher.finish() >> 1) & !0xff).max(0x100)
}

/// Refuses what can be no name.
pub(crate) fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Error::NameTooLong);
    }
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
        return Err(Error::Invalid("not a file name"));
    }
    if name == SNAPSHOTS_NAME {
        return Err(Error::NotPermitted("the name .snap is where a directory lists its snapshots"));
    }
    Ok(())
}
