//! One copy-on-write B+tree for everything: byte-string keys, byte-string values, and the references that a value holds.
//!
//! Owns how nodes are looked up, cached, split, merged and replaced. Knows neither entries nor realms: a [`Tree`] is told how to sum an item up. Nothing here writes in
//! place: [`Tree::apply`] takes a stored root and a sorted batch of changes, appends new nodes for what they touch, and gives a new root. If power fails in it, the appended nodes
//! are dead space and the old root is as it was.
//!
//! The rules that sharing rests on (DESIGN 3 and 8; `tests/model` is the oracle):
//! - An untouched subtree keeps its reference.
//! - A replaced or dropped node goes to `gone` if its birth is later than the path's largest share time, else it gets nothing: whoever else holds it keeps its edges (INV-07).
//! - A new node's birth is the largest of the births of the changes that led to it, of the nodes it replaces or took items from, and of what it references (INV-02). Both halves
//!   of a split get it: a half without a change of its own is new all the same, and must not look as if a fork had seen it.
//! - A reference's flags are the OR over the items below, its totals their sum (INV-27, INV-50).

mod apply;
mod discard;
mod nodes;
mod pack;
mod read;

#[cfg(test)]
mod tests;

pub use apply::Applied;
pub use nodes::{Node, Nodes};

use crate::api::Error;
use envoyfs_engine::StoreError;
use envoyfs_layout::node::{Owner, TreeKind};
use envoyfs_layout::{Entry, Hlc, Inode, LayoutError, Oid, Reference, Slice, Totals};

/// Largest node of a tree of names or tables, padding included.
pub const NODE_BYTES_MAX: usize = envoyfs_layout::node::NODE_BYTES_MAX;
/// Largest node of an extents tree.
pub const EXTENTS_NODE_BYTES_MAX: usize = 4096;

/// What an item of a leaf holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Item {
    /// Value bytes.
    pub value: Vec<u8>,
    /// References of the value, in its order.
    pub references: Vec<Reference>,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Vec<u8>,
    /// What it holds now; none removes it. To remove what is not there does nothing.
    pub item: Option<Item>,
    /// Birth of the change: of the newest record that led to it.
    pub birth: Hlc,
}

/// What an item adds to totals and flags: from its value and references.
pub type Summarize = fn(&[u8], &[Reference]) -> std::result::Result<(Totals, u8), LayoutError>;

/// What kind of tree, and whose. Costs nothing to make; the root is given with each call.
#[derive(Clone, Copy, Debug)]
pub struct Tree {
    /// Kind in the nodes' headers.
    pub kind: TreeKind,
    /// Whose nodes they are: a hint for repair.
    pub owner: Owner,
    /// How an item of a leaf is summed up.
    pub summarize: Summarize,
    /// Largest node, padding included, a multiple of 512.
    pub node_bytes_max: usize,
}

impl Tree {
    /// Names of a directory. Always has a root; its blob holds the directory's attributes.
    #[must_use]
    pub const fn directory(owner: Owner) -> Self {
        Self { kind: TreeKind::Directory, owner, summarize: Entry::summarize, node_bytes_max: NODE_BYTES_MAX }
    }
    /// Link table of a realm.
    #[must_use]
    pub const fn links(owner: Owner) -> Self {
        Self { kind: TreeKind::Links, owner, summarize: summarize_inode, node_bytes_max: NODE_BYTES_MAX }
    }
    /// Slices of a file.
    #[must_use]
    pub const fn extents(owner: Owner) -> Self {
        Self { kind: TreeKind::Extents, owner, summarize: summarize_slice, node_bytes_max: EXTENTS_NODE_BYTES_MAX }
    }
    /// Realm table. Snapshots and orphans count in no totals.
    #[must_use]
    pub const fn realm_table() -> Self {
        let owner = Owner { realm: 0, inode: 0 };
        Self { kind: TreeKind::RealmTable, owner, summarize: summarize_nothing, node_bytes_max: NODE_BYTES_MAX }
    }
    /// Territory table.
    #[must_use]
    pub const fn territory_table() -> Self {
        let owner = Owner { realm: 0, inode: 0 };
        Self { kind: TreeKind::TerritoryTable, owner, summarize: summarize_nothing, node_bytes_max: NODE_BYTES_MAX }
    }
}

fn summarize_inode(value: &[u8], _: &[Reference]) -> std::result::Result<(Totals, u8), LayoutError> {
    Ok((Totals { bytes: Inode::allocated_of(value)?, files: 1, ..Totals::ZERO }, 0))
}

fn summarize_slice(value: &[u8], _: &[Reference]) -> std::result::Result<(Totals, u8), LayoutError> {
    Ok((Totals { bytes: Slice::stored_bytes_of(value)?, ..Totals::ZERO }, 0))
}

fn summarize_nothing(_: &[u8], _: &[Reference]) -> std::result::Result<(Totals, u8), LayoutError> {
    Ok((Totals::ZERO, 0))
}

/// Bytes of metadata that verified but cannot be understood, or values that cannot be encoded; the object is not known here.
#[must_use]
pub fn damaged(what: LayoutError) -> Error {
    damaged_in(Oid::NONE)(what)
}

/// The same with the object known. (The device offset is the engine's knowledge; its checksum did match.)
pub(crate) fn damaged_in(oid: Oid) -> impl Fn(LayoutError) -> Error {
    move |what| Error::Store(StoreError::Damaged { oid, offset: 0, what })
}
