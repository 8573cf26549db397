//! A tree that leaves the namespace as a whole, with everything that was in it moved or removed before.

use super::{Nodes, Tree};
use crate::api::Result;
use envoyfs_engine::store::Gone;
use envoyfs_layout::{Hlc, Reference};

impl Tree {
    /// Puts all exclusive nodes of a tree into `gone`, as if each had been replaced. For a directory that is removed: what was in it may have been moved and changed since, so
    /// that the old nodes must lose their edges in the same batch (INV-08). Reads the exclusive nodes.
    pub fn discard(&self, nodes: &Nodes, share: Hlc, root: &Reference, gone: &mut Vec<Gone>) -> Result<()> {
        let mut next = vec![*root];
        while let Some(reference) = next.pop() {
            if !reference.birth.exclusive(share) {
                continue;
            }
            let node = nodes.read(&reference, self.kind)?;
            if node.header().level > 0 {
                next.extend((0..node.len()).flat_map(|index| node.item_references(index)));
            }
            gone.push(Gone { node: reference, edges: node.edges() });
        }
        Ok(())
    }
}
