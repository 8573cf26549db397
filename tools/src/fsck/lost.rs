//! What hung below a node that is lost: live, reached by nothing, and found in the tables of containers.
//!
//! A reference to it stood in the lost node, with its checksum; the table row that was written beside it has the same checksum. Only nodes of directories are looked for: they say
//! what they are. What another of them refers to belongs to that one; the rest are tops, which [`super::rewrite`] gives names.
//! Memory: 16 bytes a run of units that is not reached, 100 a node in them, [`NODES_MAX`] at most.

use super::disk::Disk;
use super::examine::{Examined, start};
use super::findings::{self, Finding};
use super::report::Report;
use super::walk::{Walk, summary};
use super::{Options, interrupt, scan};
use envoyfs_layout::directory_page::ContainerState;
use envoyfs_layout::node::{NODE_BYTES_MAX, NodeView, TreeKind};
use envoyfs_layout::segment::TableRow;
use envoyfs_layout::{Encoding, Oid, Reference, ReferenceKind, checksum};
use indicatif::ProgressBar;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

/// Nodes that are looked at; what more there are is given up.
const NODES_MAX: usize = 1 << 20;

/// The top of a tree, or of a part of one.
#[derive(Clone, Copy, Debug)]
pub struct Lost {
    /// As a parent would refer to it.
    pub reference: Reference,
    /// Inode number of the directory when the node was written: a hint, only good for a name.
    pub inode: u64,
    /// The root of a directory, with its attributes; else some of a directory's names.
    pub whole: bool,
}

/// A finding because of which something hangs below nothing. What is below deleted trees nobody wants.
pub fn loses(finding: &Finding) -> bool {
    let kinds = [findings::UNRESOLVED, findings::NODE_CHECKSUM, findings::NODE_FORMAT, findings::ITEM];
    kinds.contains(&finding.kind) && !finding.place.starts_with("(deleted)")
}

/// The tops of what is live and nothing leads to.
pub fn find(disk: &Disk, examined: &mut Examined, options: Options) -> Vec<Lost> {
    let unreached = unreached(disk, examined, options);
    let is_unreached = |oid: Oid| {
        let slot = u32::from(oid.slot());
        unreached.get(&oid.segment()).is_some_and(|runs| runs.iter().any(|run| run.contains(&slot)))
    };
    let mut rows: BTreeMap<Oid, TableRow> = BTreeMap::new();
    let used = |state| matches!(state, ContainerState::Survivors | ContainerState::Sealed | ContainerState::Open);
    for (number, row) in (0_u32..).zip(&examined.directory.table).filter(|(_, row)| used(row.state)) {
        if interrupt::requested() || rows.len() >= NODES_MAX {
            break;
        }
        let found = scan::with_all_rows(disk, &examined.superblock, number);
        let found = found.filter(|found| found.segment == row.segment).map(|found| found.rows).unwrap_or_default();
        let nodes = found.into_iter().filter(|row| row.kind == ReferenceKind::Node && is_unreached(row.oid));
        rows.extend(nodes.map(|row| (row.oid, row)));
    }
    let mut below = HashSet::new();
    let mut out: Vec<Lost> = rows.values().filter_map(|row| directory(disk, examined, row, &mut below)).collect();
    out.retain(|lost| !below.contains(&lost.reference.oid));
    out
}

/// Units that live, by the store's own books, and that neither the trees nor what waits to be freed nor a retained checkpoint needs.
fn unreached(disk: &Disk, examined: &mut Examined, options: Options) -> BTreeMap<u32, Vec<Range<u32>>> {
    let (waiting, mut out, mut from) = (examined.waiting(), BTreeMap::new(), 0);
    while from < u32::MAX && !interrupt::requested() {
        examined.space.begin_pass(from..u32::MAX);
        let mut scratch = Report::new(String::new());
        let mut walk = Walk::new(disk, &mut examined.space, &mut scratch, ProgressBar::hidden());
        walk.memory_bytes = options.memory_bytes;
        start(&mut walk, &examined.directory, examined.roots.as_ref(), &waiting);
        walk.run();
        out.extend(examined.space.unreached());
        from = examined.space.pass().end;
    }
    out
}

/// The node of a row, if it is one of a directory; adds what it refers to.
fn directory(disk: &Disk, examined: &Examined, row: &TableRow, below: &mut HashSet<Oid>) -> Option<Lost> {
    let mut bytes = vec![0; Some(row.stored_bytes as usize).filter(|bytes| *bytes <= NODE_BYTES_MAX)?];
    examined.space.read(disk, row.oid, 0, &mut bytes).ok()?;
    let view = NodeView::parse(&bytes).ok().filter(|_| checksum::crc32c(&bytes) == row.crc)?;
    let header = view.header();
    if header.tree != TreeKind::Directory {
        return None;
    }
    for item in view.items() {
        let references = item.reference_indexes().filter_map(|index| view.reference(index));
        below.extend(references.filter(|child| child.kind == ReferenceKind::Node).map(|child| child.oid));
    }
    let reference = Reference {
        oid: row.oid,
        birth: header.birth,
        stored_bytes: row.stored_bytes,
        logical_bytes: row.stored_bytes,
        crc: row.crc,
        kind: ReferenceKind::Node,
        flags: summary(&view).map_or(0, |sum| sum.flags),
        encoding: Encoding::Plain,
    };
    Some(Lost { reference, inode: header.owner.inode, whole: !view.root_blob().is_empty() })
}
