//! Everything that can be counted again from the bytes of the published trees: edges, births, totals, flags, link counts.
//!
//! Reads every node that the roots reach, with the decoders of `envoyfs-layout` and nothing of the namespace.

use envoyfs_engine::store::Store;
use envoyfs_layout::key::{LinkKey, RealmItemKind, RealmKey};
use envoyfs_layout::node::{NodeItem, NodeView, TreeKind, edges};
use envoyfs_layout::{
    Body, Entry, Hlc, Inode, Oid, RealmEntry, Reference, ReferenceKind, Slice, SnapshotItem, TerritoryRecord, Totals,
    flags,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// What was found.
#[derive(Default)]
pub struct Recount {
    /// Every object that the roots reach.
    pub objects: BTreeMap<Oid, Reference>,
    /// Edges into each of them, from the roots and from each other.
    pub edges: BTreeMap<Oid, i64>,
    /// Units that nodes take, and that slices refer to.
    pub referenced: Vec<(Oid, Range<u32>)>,
    /// Extents on a path whose share times are all below their birth: so nobody else refers to them, and each unit lives that a
    /// slice refers to, and no other (INV-05, INV-11).
    pub exclusive: BTreeMap<Oid, (Reference, BTreeSet<u32>)>,
    /// What the view's entry says of everything in it, link files included.
    pub view: Totals,
}

struct Walk<'a> {
    store: &'a dyn Store,
    found: Recount,
    /// Totals, flags and items of trees that were summed up already.
    sums: BTreeMap<Oid, (Totals, u8)>,
    names: BTreeMap<Oid, BTreeMap<u64, u32>>,
    realms: BTreeSet<(Oid, Option<Oid>)>,
}

type Check<T> = Result<T, String>;

/// Counts again, and compares totals (INV-27), flags (INV-50), link counts (INV-49) and births (INV-02) on the way.
pub fn recount(store: &dyn Store, roots: &[Reference]) -> Check<Recount> {
    let mut walk = Walk {
        store,
        found: Recount::default(),
        sums: BTreeMap::new(),
        names: BTreeMap::new(),
        realms: BTreeSet::new(),
    };
    walk.count(roots)?;
    for root in roots {
        walk.table(root)?;
    }
    Ok(walk.found)
}

fn references(view: &NodeView<'_>, item: &NodeItem<'_>) -> Vec<Reference> {
    item.reference_indexes().map(|index| view.reference(index).expect("an index that was checked")).collect()
}

impl Walk<'_> {
    fn read(&self, reference: &Reference) -> Check<std::sync::Arc<[u8]>> {
        self.store.read_node(reference).map_err(|error| format!("INV-09: {}: {error}", reference.oid))
    }

    fn count(&mut self, roots: &[Reference]) -> Check<()> {
        let mut next = roots.to_vec();
        roots.iter().for_each(|root| *self.found.edges.entry(root.oid).or_default() += 1);
        while let Some(reference) = next.pop() {
            if self.found.objects.contains_key(&reference.oid) {
                continue;
            }
            self.found.objects.insert(reference.oid, reference);
            if reference.kind != ReferenceKind::Node {
                continue;
            }
            self.found.referenced.push((reference.oid, 0..reference.units()));
            for edge in edges(&self.read(&reference)?).map_err(|error| error.to_string())? {
                if edge.birth > reference.birth {
                    return Err(format!("INV-02: {} is younger than {}, which refers to it", edge.oid, reference.oid));
                }
                *self.found.edges.entry(edge.oid).or_default() += 1;
                next.push(edge);
            }
        }
        Ok(())
    }

    /// The territory table or the realm table.
    fn table(&mut self, reference: &Reference) -> Check<()> {
        let bytes = self.read(reference)?;
        let view = NodeView::parse(&bytes).map_err(|error| error.to_string())?;
        for item in view.items() {
            let refs = references(&view, &item);
            if view.header().level > 0 {
                self.table(&refs[0])?;
                continue;
            }
            let bad = |error: envoyfs_layout::LayoutError| format!("{}: {error}", reference.oid);
            match view.header().tree {
                TreeKind::TerritoryTable => {
                    let record = TerritoryRecord::decode(item.value, &refs).map_err(bad)?;
                    let entry = record.view.ok_or("the territory has no view")?;
                    self.realm(&entry)?;
                    self.found.view = entry.summary().0;
                    self.exclusive_in_realm(&entry, Hlc::ZERO)?;
                }
                TreeKind::RealmTable => match RealmKey::decode(item.key).map_err(bad)?.kind {
                    RealmItemKind::Record => {}
                    RealmItemKind::Snapshot => {
                        self.realm(&SnapshotItem::decode(item.value, &refs).map_err(bad)?.realm)?
                    }
                    RealmItemKind::Orphan => {
                        let inode = Inode::decode(item.value, &refs).map_err(bad)?;
                        self.body(&inode)?;
                        self.exclusive_in_file(&inode, Hlc::ZERO)?;
                    }
                },
                other => return Err(format!("a root is a tree of {other:?}")),
            }
        }
        Ok(())
    }

    fn realm(&mut self, realm: &RealmEntry) -> Check<()> {
        if !self.realms.insert((realm.root.oid, realm.links.map(|links| links.oid))) {
            return Ok(());
        }
        self.expect("a realm's root", &realm.root, realm.totals)?;
        let mut kept = BTreeMap::new();
        if let Some(links) = &realm.links {
            self.expect("a link table", links, realm.links_totals)?;
            self.link_counts(links, &mut kept)?;
        }
        let names = self.link_names(&realm.root)?;
        if kept != names {
            return Err(format!("INV-49: realm {}: link counts {kept:?}, names {names:?}", realm.realm_id));
        }
        Ok(())
    }

    /// The sums of a tree must be these.
    fn expect(&mut self, what: &str, root: &Reference, totals: Totals) -> Check<()> {
        let (found, flags) = self.sum(root)?;
        if found != totals {
            return Err(format!("INV-27: {what} {}: {totals:?} kept, {found:?} summed again", root.oid));
        }
        if flags != root.flags {
            return Err(format!("INV-50: {what} {}: flags {:#x} kept, {flags:#x} found", root.oid, root.flags));
        }
        Ok(())
    }

    /// Totals and flags of everything below a node, every stored sum below it compared.
    fn sum(&mut self, reference: &Reference) -> Check<(Totals, u8)> {
        if let Some(sum) = self.sums.get(&reference.oid) {
            return Ok(*sum);
        }
        let bytes = self.read(reference)?;
        let view = NodeView::parse(&bytes).map_err(|error| error.to_string())?;
        let (mut totals, mut bits) = (Totals::ZERO, 0);
        for item in view.items() {
            let refs = references(&view, &item);
            let (more, flags) = if view.header().level > 0 {
                let kept = Totals::decode(&item.value[..Totals::BYTES]).map_err(|error| error.to_string())?;
                self.expect("an interior item", &refs[0], kept)?;
                (kept, refs[0].flags)
            } else {
                self.leaf(view.header().tree, &item, &refs).map_err(|why| format!("{}: {why}", reference.oid))?
            };
            totals = totals.add(more);
            bits |= flags;
        }
        self.sums.insert(reference.oid, (totals, bits));
        Ok((totals, bits))
    }

    fn leaf(&mut self, tree: TreeKind, item: &NodeItem<'_>, refs: &[Reference]) -> Check<(Totals, u8)> {
        let bad = |error: envoyfs_layout::LayoutError| error.to_string();
        match tree {
            TreeKind::Directory => {
                let entry = Entry::decode(item.value, refs).map_err(bad)?;
                match &entry {
                    Entry::File(inode) | Entry::Symlink(inode) | Entry::Special(inode) => self.body(inode)?,
                    Entry::Directory(directory) => self.expect("a directory", &directory.root, directory.totals)?,
                    Entry::Realm(realm) => self.realm(realm)?,
                    Entry::Link(_) => {}
                }
                let (totals, flags) = entry.summary();
                Ok((totals, flags & (flags::LINKS | flags::REALMS | flags::SNAPSHOTS)))
            }
            TreeKind::Links => {
                let inode = Inode::decode(item.value, refs).map_err(bad)?;
                self.body(&inode)?;
                Ok((Totals { bytes: inode.body.allocated(), files: 1, directories: 0, links: 0 }, 0))
            }
            TreeKind::Extents => {
                let slice = Slice::decode(item.value).map_err(bad)?;
                self.found.referenced.push((refs[0].oid, slice.units()));
                Ok((Totals { bytes: slice.stored_bytes(), ..Totals::ZERO }, 0))
            }
            other => Err(format!("a tree of {other:?} in a directory")),
        }
    }

    fn body(&mut self, inode: &Inode) -> Check<()> {
        match &inode.body {
            Body::None | Body::Inline { .. } => Ok(()),
            Body::Slices(slices) => {
                self.found.referenced.extend(slices.iter().map(|(slice, extent)| (extent.oid, slice.units())));
                Ok(())
            }
            Body::Tree { root, bytes } => {
                self.expect("an extents tree", root, Totals { bytes: *bytes, ..Totals::ZERO })
            }
        }
    }

    // ---- what is exclusive ---------------------------------------------------------------------------------------------------

    fn exclusive_in_realm(&mut self, realm: &RealmEntry, above: Hlc) -> Check<()> {
        let share = above.max(realm.share);
        self.exclusive_below(&realm.root, share)?;
        realm.links.map_or(Ok(()), |links| self.exclusive_below(&links, share.max(realm.links_share)))
    }

    /// Nothing below a node is younger than the node: below a shared one everything is shared.
    fn exclusive_below(&mut self, node: &Reference, share: Hlc) -> Check<()> {
        if !node.birth.exclusive(share) {
            return Ok(());
        }
        let bytes = self.read(node)?;
        let view = NodeView::parse(&bytes).map_err(|error| error.to_string())?;
        let bad = |error: envoyfs_layout::LayoutError| error.to_string();
        for item in view.items() {
            let refs = references(&view, &item);
            if view.header().level > 0 {
                self.exclusive_below(&refs[0], share)?;
                continue;
            }
            match view.header().tree {
                TreeKind::Directory => match Entry::decode(item.value, &refs).map_err(bad)? {
                    Entry::File(inode) => self.exclusive_in_file(&inode, share)?,
                    Entry::Directory(inner) => self.exclusive_below(&inner.root, share.max(inner.share))?,
                    Entry::Realm(realm) => self.exclusive_in_realm(&realm, share)?,
                    Entry::Link(_) | Entry::Symlink(_) | Entry::Special(_) => {}
                },
                TreeKind::Links => self.exclusive_in_file(&Inode::decode(item.value, &refs).map_err(bad)?, share)?,
                TreeKind::Extents => self.exclusive_slice(&Slice::decode(item.value).map_err(bad)?, &refs[0], share)?,
                TreeKind::RealmTable | TreeKind::TerritoryTable => {}
            }
        }
        Ok(())
    }

    fn exclusive_in_file(&mut self, inode: &Inode, above: Hlc) -> Check<()> {
        let share = above.max(inode.share);
        match &inode.body {
            Body::Slices(slices) => {
                slices.iter().try_for_each(|(slice, extent)| self.exclusive_slice(slice, extent, share))
            }
            Body::Tree { root, .. } => self.exclusive_below(root, share),
            Body::None | Body::Inline { .. } => Ok(()),
        }
    }

    fn exclusive_slice(&mut self, slice: &Slice, extent: &Reference, share: Hlc) -> Check<()> {
        if !extent.birth.exclusive(share) {
            return Ok(());
        }
        let (_, units) = self.found.exclusive.entry(extent.oid).or_insert_with(|| (*extent, BTreeSet::new()));
        match slice.units().find(|unit| !units.insert(*unit)) {
            Some(unit) => Err(format!("INV-05: two slices refer to unit {unit} of the exclusive {}", extent.oid)),
            None => Ok(()),
        }
    }

    /// How many names each file in a link table should have.
    fn link_counts(&self, root: &Reference, out: &mut BTreeMap<u64, u32>) -> Check<()> {
        let bytes = self.read(root)?;
        let view = NodeView::parse(&bytes).map_err(|error| error.to_string())?;
        for item in view.items() {
            let refs = references(&view, &item);
            if view.header().level > 0 {
                self.link_counts(&refs[0], out)?;
                continue;
            }
            let key = LinkKey::decode(item.key).map_err(|error| error.to_string())?;
            out.insert(key.inode, Inode::decode(item.value, &refs).map_err(|error| error.to_string())?.nlink);
        }
        Ok(())
    }

    /// How many names each has below a directory, not in realms inside.
    fn link_names(&mut self, root: &Reference) -> Check<BTreeMap<u64, u32>> {
        if let Some(names) = self.names.get(&root.oid) {
            return Ok(names.clone());
        }
        let bytes = self.read(root)?;
        let view = NodeView::parse(&bytes).map_err(|error| error.to_string())?;
        let mut names = BTreeMap::new();
        for item in view.items() {
            let refs = references(&view, &item);
            let below = if view.header().level > 0 {
                self.link_names(&refs[0])?
            } else {
                match Entry::decode(item.value, &refs).map_err(|error| error.to_string())? {
                    Entry::Link(link) => BTreeMap::from([(link.inode, 1)]),
                    Entry::Directory(directory) => self.link_names(&directory.root)?,
                    _ => continue,
                }
            };
            for (inode, count) in below {
                *names.entry(inode).or_default() += count;
            }
        }
        self.names.insert(root.oid, names.clone());
        Ok(names)
    }
}
