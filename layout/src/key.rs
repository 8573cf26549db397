//! Keys of the trees: big-endian, so that byte order is the order of the numbers.

use crate::codec::Reader;
use crate::inode::NAME_BYTES_MAX;
use crate::{LayoutError, Slice};

/// Key of a name in a directory: hash 8 (63 bits), collision index 2, name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectoryKey {
    /// Keyed hash of the name, 63 bits.
    pub hash: u64,
    /// Distinguishes names of equal hash; kept for the life of the name.
    pub collision: u16,
    /// The name, 1..=255 bytes, no '/' and no zero byte.
    pub name: Vec<u8>,
}

impl DirectoryKey {
    /// Bytes in front of the name.
    pub const PREFIX_BYTES: usize = 10;

    /// Key bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        directory(self.hash, self.collision, &self.name)
    }
    /// From key bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let mut from = Reader::new("directory key", bytes);
        let hash = u64::from_be_bytes(from.array()?);
        let collision = u16::from_be_bytes(from.array()?);
        let len = from.remaining();
        let name = from.take(len)?.to_vec();
        if hash >> 63 != 0 {
            return Err(from.field("hash", hash));
        }
        if !valid_name(&name) {
            return Err(from.field("name", len as u64));
        }
        Ok(Self { hash, collision, name })
    }
}

/// May this be a name? 1..=255 bytes without '/' and zero, not "." or "..".
#[must_use]
pub fn valid_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name != b"."
        && name != b".."
        && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}

/// Key of a name in a directory.
#[must_use]
pub fn directory(hash: u64, collision: u16, name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(DirectoryKey::PREFIX_BYTES + name.len());
    out.extend_from_slice(&hash.to_be_bytes());
    out.extend_from_slice(&collision.to_be_bytes());
    out.extend_from_slice(name);
    out
}

/// Key of a file in a link table: shard 8, inode 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkKey {
    /// Shard.
    pub shard: u64,
    /// Inode number.
    pub inode: u64,
}

impl LinkKey {
    /// Key bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        [self.shard.to_be_bytes(), self.inode.to_be_bytes()].concat()
    }
    /// From key bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let mut from = Reader::new("link key", bytes);
        let key = Self { shard: u64::from_be_bytes(from.array()?), inode: u64::from_be_bytes(from.array()?) };
        from.end()?;
        Ok(key)
    }
}

/// Key of a slice in an extents tree: its first block of the file.
#[must_use]
pub fn extent(file_block: u64) -> Vec<u8> {
    file_block.to_be_bytes().to_vec()
}

/// First block of the file, from a key of an extents tree.
pub fn decode_extent(bytes: &[u8]) -> Result<u64, LayoutError> {
    number("extent key", bytes)
}

/// Checks that the key of an item of an extents tree is that of its slice.
pub fn check_extent(key: &[u8], slice: &Slice) -> Result<(), LayoutError> {
    let block = decode_extent(key)?;
    if block != slice.file_block {
        return Err(LayoutError::Field { structure: "extent key", field: "file block", found: block });
    }
    Ok(())
}

/// What an item of the realm table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RealmItemKind {
    /// [`RealmRecord`](crate::RealmRecord); directory and id are 0.
    Record = 1,
    /// [`SnapshotItem`](crate::SnapshotItem); id is the snapshot's.
    Snapshot = 2,
    /// [`Inode`](crate::Inode) without a name; directory is 0, id the inode number.
    Orphan = 3,
}

/// Key in the realm table: realm 8, kind 1, directory 8, id 8. All of a realm, and all snapshots of a directory, lie together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RealmKey {
    /// Realm id.
    pub realm: u64,
    /// What it is.
    pub kind: RealmItemKind,
    /// Inode number of the directory.
    pub directory: u64,
    /// Snapshot id or inode number.
    pub id: u64,
}

impl RealmKey {
    /// Bytes on disk.
    pub const BYTES: usize = 25;

    /// Key bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::BYTES);
        out.extend_from_slice(&self.realm.to_be_bytes());
        out.push(self.kind as u8);
        out.extend_from_slice(&self.directory.to_be_bytes());
        out.extend_from_slice(&self.id.to_be_bytes());
        out
    }
    /// From key bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let mut from = Reader::new("realm table key", bytes);
        let realm = u64::from_be_bytes(from.array()?);
        let kind = match from.u8()? {
            1 => RealmItemKind::Record,
            2 => RealmItemKind::Snapshot,
            3 => RealmItemKind::Orphan,
            other => return Err(from.unknown("kind", other.into())),
        };
        let key =
            Self { realm, kind, directory: u64::from_be_bytes(from.array()?), id: u64::from_be_bytes(from.array()?) };
        from.end()?;
        Ok(key)
    }
}

/// Key in the territory table.
#[must_use]
pub fn territory(territory: u64) -> Vec<u8> {
    territory.to_be_bytes().to_vec()
}

/// Territory number, from a key of the territory table.
pub fn decode_territory(bytes: &[u8]) -> Result<u64, LayoutError> {
    number("territory key", bytes)
}

fn number(structure: &'static str, bytes: &[u8]) -> Result<u64, LayoutError> {
    let mut from = Reader::new(structure, bytes);
    let value = u64::from_be_bytes(from.array()?);
    from.end()?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_keys() {
        assert_eq!(directory(0x0102_0304_0506_0708, 0x090a, b"ab"), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, b'a', b'b']);
        assert_eq!(LinkKey { shard: 1, inode: 2 }.encode(), [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(extent(0x0100), [0, 0, 0, 0, 0, 0, 1, 0]);
        let realm = RealmKey { realm: 3, kind: RealmItemKind::Snapshot, directory: 4, id: 5 };
        assert_eq!(
            realm.encode(),
            [&[0, 0, 0, 0, 0, 0, 0, 3, 2][..], &[0, 0, 0, 0, 0, 0, 0, 4], &[0, 0, 0, 0, 0, 0, 0, 5]].concat()
        );
        assert_eq!(RealmKey::decode(&realm.encode()), Ok(realm));
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        for name in [&b""[..], b".", b"..", b"a/b", b"a\0", &[b'x'; 256]] {
            assert!(DirectoryKey::decode(&directory(1, 0, name)).is_err());
        }
        assert!(DirectoryKey::decode(&directory(1 << 63, 0, b"a")).is_err());
    }

    proptest! {
        #[test]
        fn byte_order_is_key_order(a in any::<(u64, u16, Vec<u8>)>(), b in any::<(u64, u16, Vec<u8>)>()) {
            let (x, y) = (directory(a.0, a.1, &a.2), directory(b.0, b.1, &b.2));
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
        }
        #[test]
        fn hostile_keys_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = DirectoryKey::decode(&bytes);
            let _ = LinkKey::decode(&bytes);
            let _ = RealmKey::decode(&bytes);
            let _ = decode_extent(&bytes);
            let _ = decode_territory(&bytes);
        }
    }
}
