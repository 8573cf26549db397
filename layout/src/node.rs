//! Nodes: the metadata objects of every tree, with a generic reference table that the engine reads without knowing what the items mean.
//!
//! ```text
//! | header 64 | root blob | items ... | reference table, 32 each | zeros to 512 |
//! item: | key length 2 | value length 2 | reference indexes 1 | reserved 1 | index 2 each | key | value |
//! ```
//!
//! A decoder here takes hostile bytes: [`NodeView::parse`] checks every bound once, after which walking a view cannot fail. [`edges`] looks at the header and the
//! reference table only.

use crate::fields::{Structure, structure};
use crate::{Hlc, IdMap, LayoutError, Oid, Reference, UNIT};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const STRUCTURE: &str = "node";

/// Largest node, padding included.
pub const NODE_BYTES_MAX: usize = 16 * 1024;
/// "EVND".
pub const NODE_MAGIC: u32 = u32::from_le_bytes(*b"EVND");
/// Version of the layout of a node.
pub const NODE_FORMAT: u8 = 1;
/// Bytes in front of an item's indexes, key and value.
pub const ITEM_HEADER_BYTES: usize = 6;

/// Which tree a node belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum TreeKind {
    /// Names of a directory.
    Directory = 1,
    /// Files with several names.
    Links = 2,
    /// Extents of a file.
    Extents = 3,
    /// Realm records.
    RealmTable = 4,
    /// Territory records.
    TerritoryTable = 5,
}

impl TreeKind {
    fn decode(value: u8) -> Result<Self, LayoutError> {
        Ok(match value {
            1 => Self::Directory,
            2 => Self::Links,
            3 => Self::Extents,
            4 => Self::RealmTable,
            5 => Self::TerritoryTable,
            other => {
                return Err(LayoutError::Unknown { structure: STRUCTURE, what: "tree kind", found: other.into() });
            }
        })
    }
}

/// Whose node it is: a hint for repair, never needed for correctness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Realm id.
    pub realm: u64,
    /// Inode number.
    pub inode: u64,
}

/// A [`NodeHeader`] as it lies on disk.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: U32,
    format: u8,
    tree: u8,
    level: u8,
    flags: u8,
    total_bytes: U32,
    reference_count: U16,
    item_count: U16,
    table_offset: U32,
    body_offset: U32,
    blob_bytes: U32,
    birth: U64,
    realm: U64,
    inode: U64,
    reserved: [u8; 12],
}

const _: () = assert!(size_of::<RawHeader>() == NodeHeader::BYTES);
const _: () = assert!(std::mem::offset_of!(RawHeader, total_bytes) == 8);
const _: () = assert!(std::mem::offset_of!(RawHeader, table_offset) == 16);
const _: () = assert!(std::mem::offset_of!(RawHeader, birth) == 28);

/// What every node starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeHeader {
    /// Which tree.
    pub tree: TreeKind,
    /// 0 in a leaf.
    pub level: u8,
    /// Reserved for the client, opaque here.
    pub flags: u8,
    /// Bytes from the header to the end of the reference table; zeros follow up to a multiple of 512.
    pub total_bytes: u32,
    /// Rows of the reference table.
    pub reference_count: u16,
    /// Items.
    pub item_count: u16,
    /// Bytes from the node's start to the reference table.
    pub table_offset: u32,
    /// Bytes from the node's start to the first item.
    pub body_offset: u32,
    /// Bytes of the root blob, which follows the header.
    pub blob_bytes: u32,
    /// HLC of the newest change in the node or below it.
    pub birth: Hlc,
    /// Hint for repair.
    pub owner: Owner,
}

impl NodeHeader {
    /// Bytes on disk.
    pub const BYTES: usize = 64;

    /// From the first 64 bytes; checks that the regions follow each other inside `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, LayoutError> {
        let (raw, _) = RawHeader::read_from_prefix(bytes).map_err(|_| LayoutError::Short {
            structure: STRUCTURE,
            expected: Self::BYTES,
            found: bytes.len(),
        })?;
        if raw.magic.get() != NODE_MAGIC {
            return Err(LayoutError::Magic {
                structure: STRUCTURE,
                expected: NODE_MAGIC.into(),
                found: raw.magic.get().into(),
            });
        }
        if raw.format != NODE_FORMAT {
            return Err(LayoutError::Unknown { structure: STRUCTURE, what: "format", found: raw.format.into() });
        }
        let header = Self {
            tree: TreeKind::decode(raw.tree)?,
            level: raw.level,
            flags: raw.flags,
            total_bytes: raw.total_bytes.get(),
            reference_count: raw.reference_count.get(),
            item_count: raw.item_count.get(),
            table_offset: raw.table_offset.get(),
            body_offset: raw.body_offset.get(),
            blob_bytes: raw.blob_bytes.get(),
            birth: Hlc(raw.birth.get()),
            owner: Owner { realm: raw.realm.get(), inode: raw.inode.get() },
        };
        if raw.reserved != [0; 12] {
            return Err(field("reserved", raw.reserved.iter().map(|b| u64::from(*b)).sum()));
        }
        let total = to_usize(header.total_bytes);
        if total > bytes.len() {
            return Err(LayoutError::Short { structure: STRUCTURE, expected: total, found: bytes.len() });
        }
        if total > NODE_BYTES_MAX {
            return Err(field("total bytes", header.total_bytes.into()));
        }
        if u64::from(header.body_offset) != Self::BYTES as u64 + u64::from(header.blob_bytes) {
            return Err(field("body offset", header.body_offset.into()));
        }
        let table_bytes = u64::from(header.reference_count) * Reference::BYTES as u64;
        if header.table_offset < header.body_offset
            || u64::from(header.table_offset) + table_bytes != u64::from(header.total_bytes)
        {
            return Err(field("reference table offset", header.table_offset.into()));
        }
        Ok(header)
    }

    fn encode(&self) -> [u8; Self::BYTES] {
        let raw = RawHeader {
            magic: NODE_MAGIC.into(),
            format: NODE_FORMAT,
            tree: self.tree as u8,
            level: self.level,
            flags: self.flags,
            total_bytes: self.total_bytes.into(),
            reference_count: self.reference_count.into(),
            item_count: self.item_count.into(),
            table_offset: self.table_offset.into(),
            body_offset: self.body_offset.into(),
            blob_bytes: self.blob_bytes.into(),
            birth: self.birth.0.into(),
            realm: self.owner.realm.into(),
            inode: self.owner.inode.into(),
            reserved: [0; 12],
        };
        zerocopy::transmute!(raw)
    }
}

/// One item of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeItem<'a> {
    /// Key bytes; items are in the order in which they were pushed.
    pub key: &'a [u8],
    /// Value bytes, opaque here.
    pub value: &'a [u8],
    indexes: &'a [u8],
}

impl<'a> NodeItem<'a> {
    /// Rows of the node's reference table that the item uses, in the item's order.
    pub fn reference_indexes(&self) -> impl ExactSizeIterator<Item = u16> + use<'a> {
        self.indexes.chunks_exact(2).map(|pair| match pair {
            [low, high] => u16::from_le_bytes([*low, *high]),
            _ => 0,
        })
    }
}

/// A node whose bounds have all been checked. Does not own the bytes.
#[derive(Clone, Copy, Debug)]
pub struct NodeView<'a> {
    header: NodeHeader,
    blob: &'a [u8],
    body: &'a [u8],
    table: &'a [u8],
}

impl<'a> NodeView<'a> {
    /// Checks every bound, kind and reserved byte of a node (with or without its padding).
    pub fn parse(bytes: &'a [u8]) -> Result<Self, LayoutError> {
        let header = NodeHeader::decode(bytes)?;
        let short =
            || LayoutError::Short { structure: STRUCTURE, expected: to_usize(header.total_bytes), found: bytes.len() };
        let range = |from: usize, to: u32| bytes.get(from..to_usize(to)).ok_or_else(short);
        let blob = range(NodeHeader::BYTES, header.body_offset)?;
        let body = range(to_usize(header.body_offset), header.table_offset)?;
        let table = range(to_usize(header.table_offset), header.total_bytes)?;
        let padding = bytes.get(to_usize(header.total_bytes)..).ok_or_else(short)?;
        if padding.len() >= to_usize(UNIT) || padding.iter().any(|b| *b != 0) {
            return Err(field("padding", padding.len() as u64));
        }
        for row in table.chunks_exact(Reference::BYTES) {
            Reference::decode(row)?;
        }
        let mut rest = body;
        for _ in 0..header.item_count {
            let (item, after) = split_item(rest)?;
            if let Some(index) = item.reference_indexes().find(|index| *index >= header.reference_count) {
                return Err(field("reference index", index.into()));
            }
            rest = after;
        }
        if !rest.is_empty() {
            return Err(field("bytes after the last item", rest.len() as u64));
        }
        Ok(Self { header, blob, body, table })
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &NodeHeader {
        &self.header
    }
    /// Bytes that only a tree's root has (a directory's attributes).
    #[must_use]
    pub const fn root_blob(&self) -> &'a [u8] {
        self.blob
    }
    /// Items in order.
    pub fn items(&self) -> impl Iterator<Item = NodeItem<'a>> + use<'a> {
        let mut rest = self.body;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let (item, after) = split_item(rest).ok()?;
            rest = after;
            Some(item)
        })
    }
    /// Rows of the reference table in order.
    pub fn references(&self) -> impl Iterator<Item = Reference> + use<'a> {
        self.table.chunks_exact(Reference::BYTES).filter_map(|row| Reference::decode(row).ok())
    }
    /// One row of the reference table.
    #[must_use]
    pub fn reference(&self, index: u16) -> Option<Reference> {
        let row = self.table.chunks_exact(Reference::BYTES).nth(index.into())?;
        Reference::decode(row).ok()
    }
}

/// The node's edges: the distinct objects of its reference table (INV-07). Reads nothing else, so it serves for every kind of tree.
pub fn edges(bytes: &[u8]) -> Result<Vec<Reference>, LayoutError> {
    let header = NodeHeader::decode(bytes)?;
    let table = bytes.get(to_usize(header.table_offset)..to_usize(header.total_bytes)).ok_or(LayoutError::Short {
        structure: STRUCTURE,
        expected: to_usize(header.total_bytes),
        found: bytes.len(),
    })?;
    let mut out = table.chunks_exact(Reference::BYTES).map(Reference::decode).collect::<Result<Vec<_>, _>>()?;
    out.sort_by_key(|reference| reference.oid);
    out.dedup_by_key(|reference| reference.oid);
    Ok(out)
}

fn split_item(bytes: &[u8]) -> Result<(NodeItem<'_>, &[u8]), LayoutError> {
    let structure = "node item";
    let short = |expected| LayoutError::Short { structure, expected, found: bytes.len() };
    let [k0, k1, v0, v1, indexes, reserved, rest @ ..] = bytes else {
        return Err(short(ITEM_HEADER_BYTES));
    };
    if *reserved != 0 {
        return Err(LayoutError::Field { structure, field: "reserved", found: (*reserved).into() });
    }
    let (key, value) = (u16::from_le_bytes([*k0, *k1]), u16::from_le_bytes([*v0, *v1]));
    let index_bytes = usize::from(*indexes) * 2;
    let needed = ITEM_HEADER_BYTES + index_bytes + usize::from(key) + usize::from(value);
    let (indexes, rest) = rest.split_at_checked(index_bytes).ok_or_else(|| short(needed))?;
    let (key, rest) = rest.split_at_checked(key.into()).ok_or_else(|| short(needed))?;
    let (value, rest) = rest.split_at_checked(value.into()).ok_or_else(|| short(needed))?;
    Ok((NodeItem { key, value, indexes }, rest))
}

fn field(field: &'static str, found: u64) -> LayoutError {
    LayoutError::Field { structure: STRUCTURE, field, found }
}

/// `u32` always fits: the workspace targets 64-bit machines.
const fn to_usize(value: u32) -> usize {
    value as usize
}

/// Puts a node together. Items keep the order in which they are pushed; references are stored once each.
#[derive(Clone, Debug)]
pub struct NodeBuilder {
    tree: TreeKind,
    level: u8,
    flags: u8,
    birth: Hlc,
    owner: Owner,
    blob: Vec<u8>,
    body: Vec<u8>,
    item_count: u16,
    references: Vec<Reference>,
    rows: IdMap<Reference, u16>,
}

/// Most nodes take a block, half of it for references.
const BODY_BYTES_USUAL: usize = 2048;

impl NodeBuilder {
    /// An empty node.
    #[must_use]
    pub fn new(tree: TreeKind, level: u8, birth: Hlc, owner: Owner) -> Self {
        Self {
            tree,
            level,
            flags: 0,
            birth,
            owner,
            blob: Vec::new(),
            body: Vec::with_capacity(BODY_BYTES_USUAL),
            item_count: 0,
            references: Vec::new(),
            rows: IdMap::default(),
        }
    }
    /// Sets the bytes that only a root has. Fails when the node would get too large.
    pub fn set_root_blob(&mut self, blob: &[u8]) -> Result<(), LayoutError> {
        self.blob.clear();
        self.blob.extend_from_slice(blob);
        check_len(self.encoded_len())
    }
    /// Sets the client's flag byte of the header.
    pub const fn set_flags(&mut self, flags: u8) {
        self.flags = flags;
    }
    /// Raises the birth, never lowers it (INV-02).
    pub fn raise_birth(&mut self, birth: Hlc) {
        self.birth = self.birth.max(birth);
    }
    /// Bytes that one more item takes at most (less if its references are there already).
    #[must_use]
    pub fn item_len(key: &[u8], value: &[u8], refs: &[Reference]) -> usize {
        ITEM_HEADER_BYTES + key.len() + value.len() + refs.len() * (2 + Reference::BYTES)
    }
    /// Appends an item. Fails, and changes nothing, when the node would get larger than [`NODE_BYTES_MAX`] or a length does not fit its field.
    pub fn push(&mut self, key: &[u8], value: &[u8], refs: &[Reference]) -> Result<(), LayoutError> {
        let new = match refs {
            [] => 0,
            [only] => usize::from(!self.rows.contains_key(only)),
            _ => {
                let mut new: Vec<&Reference> = refs.iter().filter(|r| !self.rows.contains_key(*r)).collect();
                new.sort();
                new.dedup();
                new.len()
            }
        };
        let item = ITEM_HEADER_BYTES + key.len() + value.len() + refs.len() * 2;
        check_len(self.encoded_len() + item + new * Reference::BYTES)?;
        let key_len = u16::try_from(key.len()).map_err(|_| field("key length", key.len() as u64))?;
        let value_len = u16::try_from(value.len()).map_err(|_| field("value length", value.len() as u64))?;
        let index_count = u8::try_from(refs.len()).map_err(|_| field("reference indexes", refs.len() as u64))?;
        self.item_count = self.item_count.checked_add(1).ok_or_else(|| field("item count", u64::from(u16::MAX) + 1))?;
        self.body.extend_from_slice(&key_len.to_le_bytes());
        self.body.extend_from_slice(&value_len.to_le_bytes());
        self.body.extend_from_slice(&[index_count, 0]);
        for reference in refs {
            let index = self.row_of(reference)?;
            self.body.extend_from_slice(&index.to_le_bytes());
        }
        self.body.extend_from_slice(key);
        self.body.extend_from_slice(value);
        Ok(())
    }
    fn row_of(&mut self, reference: &Reference) -> Result<u16, LayoutError> {
        if let Some(row) = self.rows.get(reference) {
            return Ok(*row);
        }
        let row =
            u16::try_from(self.references.len()).map_err(|_| field("reference count", self.references.len() as u64))?;
        self.references.push(*reference);
        self.rows.insert(*reference, row);
        Ok(row)
    }
    /// Items so far.
    #[must_use]
    pub const fn item_count(&self) -> u16 {
        self.item_count
    }
    /// Distinct references so far, in the order of their rows.
    #[must_use]
    pub fn references(&self) -> &[Reference] {
        &self.references
    }
    /// Bytes without the padding.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        NodeHeader::BYTES + self.blob.len() + self.body.len() + self.references.len() * Reference::BYTES
    }
    /// The node, padded with zeros to a multiple of 512.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        let total = self.encoded_len();
        let small = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let header = NodeHeader {
            tree: self.tree,
            level: self.level,
            flags: self.flags,
            total_bytes: small(total),
            reference_count: u16::try_from(self.references.len()).unwrap_or(u16::MAX),
            item_count: self.item_count,
            table_offset: small(NodeHeader::BYTES + self.blob.len() + self.body.len()),
            body_offset: small(NodeHeader::BYTES + self.blob.len()),
            blob_bytes: small(self.blob.len()),
            birth: self.birth,
            owner: self.owner,
        };
        let mut out = Vec::with_capacity(total.next_multiple_of(to_usize(UNIT)));
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(&self.blob);
        out.extend_from_slice(&self.body);
        for reference in &self.references {
            out.extend_from_slice(&reference.encode());
        }
        out.resize(total.next_multiple_of(to_usize(UNIT)), 0);
        out
    }
}

/// Distinct objects among references, in OID order: how edges are counted (INV-07).
#[must_use]
pub fn distinct(references: &[Reference]) -> Vec<Oid> {
    let mut oids: Vec<Oid> = references.iter().map(|reference| reference.oid).collect();
    oids.sort_unstable();
    oids.dedup();
    oids
}

fn check_len(total: usize) -> Result<(), LayoutError> {
    if total > NODE_BYTES_MAX {
        return Err(field("total bytes", total as u64));
    }
    Ok(())
}

/// For the documentation; see [`crate::fields`].
pub(crate) const LAYOUTS: &[Structure] = &[structure!(
    "node header",
    RawHeader {
        magic,
        format,
        tree,
        level,
        flags,
        total_bytes,
        reference_count,
        item_count,
        table_offset,
        body_offset,
        blob_bytes,
        birth,
        realm,
        inode,
        reserved
    }
)];

#[cfg(test)]
mod tests;
