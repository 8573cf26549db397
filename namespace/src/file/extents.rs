//! The extents tree of a file: slices by their first block.

use crate::api::{Error, Result};
use crate::tree::{Change, Item, Nodes, Tree, damaged};
use envoyfs_engine::store::Gone;
use envoyfs_layout::node::{Owner, TreeKind};
use envoyfs_layout::{Hlc, LayoutError, Reference, ReferenceKind, Slice, key};
use std::ops::{Bound, ControlFlow};

/// Visits the slices that start at a block or behind it, ascending, until the visitor breaks or fails.
pub(super) fn visit(
    nodes: &Nodes,
    root: &Reference,
    first: u64,
    visitor: &mut dyn FnMut(&Slice, &Reference) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let mut failed: Option<Error> = None;
    let from = key::extent(first);
    // The owner matters only to nodes that are written.
    Tree::extents(Owner::default()).range(
        nodes,
        root,
        Bound::Included(&from),
        &mut |key, item| match decode(key, item).map_err(damaged).and_then(|(slice, extent)| visitor(&slice, &extent)) {
            Ok(flow) => flow,
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        },
    )?;
    failed.map_or(Ok(()), Err)
}

fn decode(key: &[u8], item: &Item) -> std::result::Result<(Slice, Reference), LayoutError> {
    let slice = Slice::decode(&item.value)?;
    key::check_extent(key, &slice)?;
    match item.references.as_slice() {
        [extent] if extent.kind == ReferenceKind::Extent => Ok((slice, *extent)),
        other => Err(LayoutError::Field { structure: "slice", field: "extents", found: other.len() as u64 }),
    }
}

/// A tree that is not needed any more: its exclusive nodes go to `gone` (INV-07). A node that is not exclusive has none below it (INV-02).
pub(super) fn retire(nodes: &Nodes, root: &Reference, es: Hlc, gone: &mut Vec<Gone>) -> Result<()> {
    let mut rest = vec![(*root, None)];
    while let Some((reference, level)) = rest.pop() {
        if !reference.birth.exclusive(es) {
            continue;
        }
        let node = nodes.read(&reference, TreeKind::Extents)?;
        let found = node.header().level;
        if level.is_some_and(|level| level != found) {
            return Err(damaged(LayoutError::Field { structure: "node", field: "level", found: found.into() }));
        }
        if let Some(below) = found.checked_sub(1) {
            rest.extend(
                (0..node.len()).flat_map(|index| node.item_references(index)).map(|child| (child, Some(below))),
            );
        }
        gone.push(Gone { node: reference, edges: node.edges() });
    }
    Ok(())
}

/// The change that puts a slice.
pub(super) fn put(slice: &Slice, extent: &Reference, birth: Hlc) -> Result<Change> {
    let value = slice.encode().map_err(damaged)?;
    Ok(Change { key: key::extent(slice.file_block), item: Some(Item { value, references: vec![*extent] }), birth })
}

/// The change that removes the slice at a block.
pub(super) fn remove(block: u64, birth: Hlc) -> Change {
    Change { key: key::extent(block), item: None, birth }
}
