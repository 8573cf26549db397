//! What the items of leaves mean: names, files, slices, snapshots, territories; and the file data that they lead to.

use super::findings;
use super::walk::{At, Purpose, Sum, Visit, Walk};
use envoyfs_layout::key::{self, DirectoryKey, RealmItemKind, RealmKey};
use envoyfs_layout::node::{NodeHeader, NodeView, TreeKind};
use envoyfs_layout::territory::TERRITORY_ROOT;
use envoyfs_layout::{
    Body, DirectoryAttributes, Entry, Hlc, Inode, LayoutError, Oid, RealmRecord, Reference, ReferenceKind, Slice,
    SnapshotItem, TerritoryRecord, Totals,
};
use siphasher::sip::SipHasher13;
use std::hash::Hasher as _;
use std::rc::Rc;

/// Key of the hash of names, from a directory's root; none in other nodes.
#[must_use]
pub fn hash_key(view: &NodeView<'_>) -> Option<[u8; 16]> {
    if view.header().tree != TreeKind::Directory || view.root_blob().is_empty() {
        return None;
    }
    DirectoryAttributes::decode(view.root_blob()).ok().map(|attributes| attributes.hash_key)
}

/// What an item needs to know of the leaf that it is in.
#[derive(Clone, Copy, Debug)]
pub struct Leaf<'a> {
    /// Header of the node.
    pub header: &'a NodeHeader,
    /// The leaf.
    pub node: Oid,
    /// Key of the hash of names.
    pub hash_key: Option<[u8; 16]>,
    /// Where.
    pub at: &'a Rc<At>,
    /// Key of the item that follows, also in the next leaf.
    pub next_key: Option<&'a [u8]>,
}

/// One item of a leaf: checks it, pushes what it leads to, says what it adds to the sums above.
///
/// # Errors
/// It does not decode.
pub fn leaf(
    walk: &mut Walk<'_>,
    leaf: &Leaf<'_>,
    key: &[u8],
    value: &[u8],
    references: &[Reference],
) -> Result<Sum, LayoutError> {
    let Leaf { header, node, hash_key, at: here, next_key } = *leaf;
    let birth = header.birth;
    let sum = |totals, flags| Sum { totals, items: 1, flags };
    match header.tree {
        TreeKind::Directory => {
            let name = DirectoryKey::decode(key)?;
            let entry = Entry::decode(value, references)?;
            let at = At::below(here, name.name.as_slice());
            walk.report.statistics.names += 1;
            if hash_key.is_some_and(|hash_key| name_hash(&hash_key, &name.name) != name.hash) {
                walk.report.add(findings::NAME_HASH, &at, "");
            }
            let number = entry.inode().map(|inode| inode.number).or(match &entry {
                Entry::Directory(directory) => Some(directory.number),
                _ => None,
            });
            if let Some(number) = number.filter(|number| !walk.number(*number)) {
                walk.report.add(findings::NUMBER_TWICE, &at, format_args!("inode {number}"));
                walk.twice.insert((node, key.to_vec()));
            }
            name_leads_to(walk, &entry, birth, &at);
            let (totals, flags) = entry.summary();
            Ok(sum(totals, flags))
        }
        TreeKind::Links => {
            let number = key::LinkKey::decode(key)?.inode;
            let inode = Inode::decode(value, references)?;
            if inode.number != number {
                return Err(LayoutError::Field { structure: "link table item", field: "inode", found: inode.number });
            }
            walk.used.inode(number);
            let at = At::below(here, format!("inode {number}"));
            let totals = Totals { bytes: inode.body.allocated(), files: 1, ..Totals::ZERO };
            body(walk, &inode, birth, &at);
            Ok(sum(totals, 0))
        }
        TreeKind::Extents => {
            let slice = Slice::decode(value)?;
            key::check_extent(key, &slice)?;
            let [extent] = references else {
                let found = references.len() as u64;
                return Err(LayoutError::Field { structure: "slice", field: "references", found });
            };
            let next = next_key.and_then(|key| key::decode_extent(key).ok());
            if let Some(next) = next.filter(|next| *next < slice.end_block()) {
                let detail = format!("blocks {} to {} and the slice from {next}", slice.file_block, slice.end_block());
                walk.report.add(findings::SLICES, here, detail);
            }
            data(walk, &slice, extent, here);
            Ok(sum(Totals { bytes: slice.stored_bytes(), ..Totals::ZERO }, 0))
        }
        TreeKind::RealmTable => {
            realm_item(walk, key, value, references, birth)?;
            Ok(sum(Totals::ZERO, 0))
        }
        TreeKind::TerritoryTable => {
            let number = key::decode_territory(key)?;
            let record = TerritoryRecord::decode(value, references)?;
            if record.territory != number {
                return Err(LayoutError::Field {
                    structure: "territory record",
                    field: "territory",
                    found: record.territory,
                });
            }
            if let Some(view) = &record.view {
                walk.view_met |= number == TERRITORY_ROOT && walk.purpose == Purpose::Check;
                let base = Rc::clone(&walk.base);
                walk.realm(view, birth, &base);
            }
            Ok(sum(Totals::ZERO, 0))
        }
    }
}

fn name_leads_to(walk: &mut Walk<'_>, entry: &Entry, birth: Hlc, at: &Rc<At>) {
    match entry {
        Entry::File(inode) | Entry::Symlink(inode) | Entry::Special(inode) => {
            if inode.nlink != 1 {
                walk.report.add(findings::LINK_COUNT, at, format_args!("link count {}, one name", inode.nlink));
            }
            body(walk, inode, birth, at);
        }
        Entry::Directory(directory) => {
            let visit = Visit::root(directory.root, TreeKind::Directory, Some(directory.totals), Some(birth), at);
            walk.push(visit);
        }
        Entry::Realm(realm) => walk.realm(realm, birth, at),
        // Counted against the link table of the realm, which is another walk.
        Entry::Link(_) => {}
    }
}

fn realm_item(
    walk: &mut Walk<'_>,
    key: &[u8],
    value: &[u8],
    references: &[Reference],
    birth: Hlc,
) -> Result<(), LayoutError> {
    let key = RealmKey::decode(key)?;
    walk.used.realm(key.realm);
    if walk.purpose == Purpose::Check {
        let items = walk.realm_items.entry(key.realm).or_default();
        match key.kind {
            RealmItemKind::Record => {}
            RealmItemKind::Snapshot => items.snapshots += 1,
            RealmItemKind::Orphan => items.orphans += 1,
        }
    }
    match key.kind {
        RealmItemKind::Record => {
            let record = RealmRecord::decode(value)?;
            if let Some(items) = walk.realm_items.get_mut(&key.realm).filter(|_| walk.purpose == Purpose::Check) {
                items.said = Some((record.snapshots, record.orphans));
            }
        }
        RealmItemKind::Snapshot => {
            let item = SnapshotItem::decode(value, references)?;
            let directory = format!("(directory {} of realm {})/.snap", key.directory, key.realm);
            let parent = At::below(&walk.base, directory);
            walk.report.statistics.snapshots += 1;
            walk.realm(&item.realm, birth, &At::below(&parent, item.name));
        }
        RealmItemKind::Orphan => {
            let inode = Inode::decode(value, references)?;
            walk.used.inode(inode.number);
            let at = At::below(&walk.base, format!("(unlinked inode {} of realm {})", key.id, key.realm));
            walk.report.add(findings::ORPHAN, &at, format_args!("{} bytes", inode.body.allocated()));
            body(walk, &inode, birth, &at);
        }
    }
    Ok(())
}

/// What a file holds. (The checksum of inline bytes was verified when the inode was decoded.)
fn body(walk: &mut Walk<'_>, inode: &Inode, birth: Hlc, at: &Rc<At>) {
    match &inode.body {
        Body::None | Body::Inline { .. } => {}
        Body::Slices(slices) => {
            for (slice, extent) in slices {
                data(walk, slice, extent, at);
            }
        }
        Body::Tree { root, bytes } => {
            let totals = Totals { bytes: *bytes, ..Totals::ZERO };
            walk.push(Visit::root(*root, TreeKind::Extents, Some(totals), Some(birth), at));
        }
    }
}

/// One slice: marks its blocks, and notes what they must be.
fn data(walk: &mut Walk<'_>, slice: &Slice, extent: &Reference, at: &At) {
    let units = slice.units();
    if extent.kind != ReferenceKind::Extent || units.end > extent.units() {
        let detail = format!("units {units:?} of object {} of {} units", extent.oid, extent.units());
        walk.report.add(findings::SLICES, at, detail);
        if walk.purpose != Purpose::Waiting {
            // Whether it is given up is not for the books to decide.
            walk.reached(extent.oid, 0..extent.units());
        }
        return;
    }
    if walk.purpose == Purpose::Waiting {
        return;
    }
    walk.reached(extent.oid, units);
    if let Some(expectations) = &mut walk.data
        && walk.space.in_pass(extent.oid.segment())
    {
        expectations.add(slice, extent);
    }
}

/// What an item of a leaf adds to the sums above, without following it.
///
/// # Errors
/// It does not decode.
pub fn summary(tree: TreeKind, value: &[u8], references: &[Reference]) -> Result<(Totals, u8), LayoutError> {
    let bytes = |bytes| Totals { bytes, ..Totals::ZERO };
    Ok(match tree {
        TreeKind::Directory => Entry::summarize(value, references)?,
        TreeKind::Links => (Totals { files: 1, ..bytes(Inode::allocated_of(value)?) }, 0),
        TreeKind::Extents => (bytes(Slice::stored_bytes_of(value)?), 0),
        TreeKind::RealmTable | TreeKind::TerritoryTable => (Totals::ZERO, 0),
    })
}

/// As the namespace files names: 55 bits of SipHash-1-3 above a byte for collisions, never below 256.
pub fn name_hash(hash_key: &[u8; 16], name: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_key(hash_key);
    hasher.write(name);
    ((hasher.finish() >> 1) & !0xff).max(0x100)
}
