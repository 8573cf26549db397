//! What the mark asks of the namespace: which units of which extents a node uses. Pure: the node's bytes say it all.

use envoyfs_layout::key::{RealmItemKind, RealmKey};
use envoyfs_layout::node::{NodeView, TreeKind};
use envoyfs_layout::{Body, Entry, Inode, LayoutError, Oid, Reference, Slice};
use std::ops::Range;

/// Calls `add` for every slice in a node: of a tree of extents, and of the files embedded in directories, link and orphan tables.
///
/// # Errors
/// The node does not decode.
pub fn extent_uses(_node: &Reference, bytes: &[u8], add: &mut dyn FnMut(Oid, Range<u32>)) -> Result<(), LayoutError> {
    let view = NodeView::parse(bytes)?;
    let header = view.header();
    if header.level > 0 {
        return Ok(());
    }
    for item in view.items() {
        let references: Vec<Reference> = item.reference_indexes().filter_map(|index| view.reference(index)).collect();
        let mut file = |inode: &Inode| {
            if let Body::Slices(slices) = &inode.body {
                slices.iter().for_each(|(slice, extent)| add(extent.oid, slice.units()));
            }
        };
        match header.tree {
            TreeKind::Extents => {
                let slice = Slice::decode(item.value)?;
                if let [extent] = references.as_slice() {
                    add(extent.oid, slice.units());
                }
            }
            TreeKind::Directory => {
                if let Entry::File(inode) | Entry::Symlink(inode) | Entry::Special(inode) =
                    Entry::decode(item.value, &references)?
                {
                    file(&inode);
                }
            }
            TreeKind::Links => file(&Inode::decode(item.value, &references)?),
            TreeKind::RealmTable => {
                if RealmKey::decode(item.key)?.kind == RealmItemKind::Orphan {
                    file(&Inode::decode(item.value, &references)?);
                }
            }
            TreeKind::TerritoryTable => {}
        }
    }
    Ok(())
}
