//! The walk: every node that the published roots lead to, once, whoever shares it.
//!
//! Owns the stack of what is still to be visited, the count of edges found (INV-06) and the memory of nodes seen. A parent *claims* what is below it: totals, flags, birth,
//! level and range of keys; the claim is checked when the child is read, or against the memory when it was read before. So no sum has to be carried up, and a tree
//! shared by a thousand forks costs one visit and a thousand comparisons.
//!
//! What items mean is in [`super::items`]; file data is verified afterwards, in [`super::data`]; by which paths damage is reached, [`super::blame`] finds out.
//! Realms inside a realm wait until it is done, so that the numbers of its inodes can be compared (INV-30).
//! Memory: a bit a unit of the segments of nodes, [`SEEN_MAX`] nodes in short, 8 KiB a chunk of inode numbers of one realm, 600 bytes a realm that waits; and what is set for
//! marks and checksums: when those need more, the pass becomes shorter, and what it leaves out belongs to the next one.

use super::blame::{Broken, BrokenNodes};
use super::data::Expectations;
use super::disk::Disk;
use super::findings::{self, Kind};
use super::items::{self, Leaf};
use super::numbers::Used;
use super::report::Report;
use super::space::{ReadError, Space};
use super::units::Units;
use envoyfs_layout::node::{NODE_BYTES_MAX, NodeHeader, NodeView, TreeKind};
use envoyfs_layout::{Hlc, LayoutError, Oid, RealmEntry, Reference, ReferenceKind, Totals, checksum, flags};
use indicatif::ProgressBar;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::rc::Rc;

/// Nodes of which it is remembered what they amount to; one that was forgotten is read again when another parent refers to it.
const SEEN_MAX: usize = 1 << 16;
/// Broken nodes of which every path is looked for.
const BROKEN_MAX: usize = 1 << 16;
/// Inode numbers of a chunk, a bit each.
const CHUNK: u64 = 1 << 16;

/// Where something is, for messages: a path through the tree.
#[derive(Debug)]
pub enum At {
    /// A root: `territory table`, or nothing for the view.
    Root(Cow<'static, str>),
    /// A name below: see [`At::below`]. The parent is there until it is dropped.
    Name(Option<Rc<At>>, Vec<u8>),
}

impl At {
    /// A name below.
    #[must_use]
    pub fn below(above: &Rc<Self>, name: impl Into<Vec<u8>>) -> Rc<Self> {
        Rc::new(Self::Name(Some(Rc::clone(above)), name.into()))
    }

    const fn above(&mut self) -> Option<Rc<Self>> {
        match self {
            Self::Name(above, _) => above.take(),
            Self::Root(_) => None,
        }
    }
}

impl Drop for At {
    /// Takes the chain above apart one by one: left to itself it would recurse as deep as the tree is.
    fn drop(&mut self) {
        let mut above = self.above();
        while let Some(at) = above {
            above = Rc::into_inner(at).and_then(|mut at| at.above());
        }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = Vec::new();
        let mut at = self;
        while let Self::Name(Some(parent), name) = at {
            names.push(String::from_utf8_lossy(name));
            at = parent;
        }
        let Self::Root(root) = at else { return Ok(()) };
        f.write_str(root)?;
        if names.is_empty() && root.is_empty() {
            f.write_str("/")?;
        }
        names.iter().rev().try_for_each(|name| write!(f, "/{name}"))
    }
}

/// What a parent says of a child.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Totals below, where the parent names them.
    pub totals: Option<Totals>,
    /// Items below, where the parent names them.
    pub items: Option<u64>,
    /// Birth of the parent; the child's is not later (INV-02).
    pub birth: Option<Hlc>,
    /// Level, if the parent is an interior node.
    pub level: Option<u8>,
}

/// Something to visit.
#[derive(Clone, Debug)]
pub struct Visit {
    /// The node.
    pub reference: Reference,
    /// Tree that it must belong to; none for what waits in the drop queue.
    pub tree: Option<TreeKind>,
    /// What the parent says.
    pub claim: Claim,
    /// Keys that may be below: from, to before.
    pub keys: (Option<Vec<u8>>, Option<Vec<u8>>),
    /// Key of the hash of names.
    pub hash_key: Option<[u8; 16]>,
    /// Where.
    pub at: Rc<At>,
}

impl Visit {
    /// Root of a tree.
    #[must_use]
    pub fn root(reference: Reference, tree: TreeKind, totals: Option<Totals>, birth: Option<Hlc>, at: &Rc<At>) -> Self {
        let claim = Claim { totals, items: None, birth, level: None };
        Self { reference, tree: Some(tree), claim, keys: (None, None), hash_key: None, at: Rc::clone(at) }
    }
}

/// What is remembered of a node.
#[derive(Clone, Copy, Debug)]
struct Seen {
    birth: Hlc,
    totals: Totals,
    items: u64,
    flags: u8,
    level: u8,
    tree: TreeKind,
}

/// A realm's lists.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealmItems {
    /// What its record says: snapshots, orphans.
    pub said: Option<(u64, u64)>,
    /// Snapshots met.
    pub snapshots: u64,
    /// Orphans met.
    pub orphans: u64,
}

/// What a node amounts to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// Totals of its items.
    pub totals: Totals,
    /// Items in the leaves below.
    pub items: u64,
    /// OR of the flags.
    pub flags: u8,
}

/// What a walk is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The published checkpoint: its edges count.
    Check,
    /// What waits to be freed: its edges count too, and its nodes live; what they refer to may be dead. (What an operation freed in a file that was deleted in the same batch is
    /// dead at once, and perhaps written over.)
    Waiting,
    /// A retained checkpoint, which counts nothing: what it needs must be kept. Nodes that the walk met before are as good as they were.
    Retained,
    /// A checkpoint that the log holds and no superblock names yet. Its nodes are only read.
    Unpublished,
}

/// See the module.
pub struct Walk<'a> {
    /// The store.
    pub disk: &'a Disk,
    /// Places and liveness.
    pub space: &'a mut Space,
    /// Findings.
    pub report: &'a mut Report,
    /// What file data must be; none when it is not checked.
    pub data: Option<Expectations>,
    /// What it is for.
    pub purpose: Purpose,
    /// Where the view is.
    pub base: Rc<At>,
    /// Nodes that cannot be read or do not decode; not reported yet. Beyond [`BROKEN_MAX`] they are.
    pub broken: BrokenNodes,
    /// Realms with files that have several names: root, link table, where. Those with the same two references once.
    pub realms: Vec<(RealmEntry, Rc<At>)>,
    /// What is still to be visited.
    pub stack: Vec<Visit>,
    /// What waits to be freed: visited when nothing else is left, so that what the roots lead to as well is met there.
    pub waiting: Vec<Visit>,
    /// Memory for marks and checksums: beyond it the pass becomes shorter.
    pub memory_bytes: u64,
    /// Shown while it runs.
    pub progress: ProgressBar,
    /// Items whose inode number another one of the realm has: node and key.
    pub twice: HashSet<(Oid, Vec<u8>)>,
    /// By realm: what its record says, and how many snapshots and orphans were met.
    pub realm_items: BTreeMap<u64, RealmItems>,
    /// Largest numbers met.
    pub used: Used,
    /// The root territory was met, with its view.
    pub view_met: bool,
    later: VecDeque<Vec<Visit>>,
    numbers: HashMap<u64, Units>,
    realms_seen: HashSet<(Oid, Option<Oid>)>,
    visited: BTreeMap<u32, Units>,
    seen: HashMap<Oid, Seen>,
    /// Nodes that cannot be read.
    dead: HashSet<Oid>,
    unreadable: u64,
}

impl<'a> Walk<'a> {
    /// Nothing visited yet.
    pub fn new(disk: &'a Disk, space: &'a mut Space, report: &'a mut Report, progress: ProgressBar) -> Self {
        Self {
            disk,
            space,
            report,
            data: None,
            purpose: Purpose::Check,
            base: Rc::new(At::Root("".into())),
            broken: BrokenNodes::new(),
            dead: HashSet::new(),
            realms: Vec::new(),
            stack: Vec::new(),
            waiting: Vec::new(),
            memory_bytes: u64::MAX,
            progress,
            twice: HashSet::new(),
            realm_items: BTreeMap::new(),
            used: Used::default(),
            view_met: false,
            later: VecDeque::new(),
            numbers: HashMap::new(),
            realms_seen: HashSet::new(),
            visited: BTreeMap::new(),
            seen: HashMap::new(),
            unreadable: 0,
        }
    }

    /// Visits until nothing is left, or somebody wants to stop: then it is not complete.
    pub fn run(&mut self) {
        loop {
            while let Some(visit) = self.stack.pop() {
                if super::interrupt::requested() {
                    self.unreadable += 1;
                    return;
                }
                self.visit(&visit);
            }
            self.numbers.clear();
            if let Some(realm) = self.later.pop_front() {
                self.stack = realm;
            } else if !self.waiting.is_empty() {
                self.stack = std::mem::take(&mut self.waiting);
                self.purpose = Purpose::Waiting;
            } else {
                if self.purpose == Purpose::Waiting {
                    self.purpose = Purpose::Check;
                }
                return;
            }
        }
    }

    /// Visits what another checkpoint leads to besides: completeness, findings and realms of this walk stay as they are. Returns what was found.
    pub fn beside(&mut self, purpose: Purpose, base: Rc<At>, visits: Vec<Visit>) -> Report {
        let main = std::mem::replace(self.report, Report::new(String::new()));
        let (broken, unreadable) = (std::mem::take(&mut self.broken), self.unreadable);
        let before = (self.purpose, std::mem::replace(&mut self.base, base));
        self.purpose = purpose;
        self.stack = visits;
        self.run();
        (self.purpose, self.base) = before;
        let found = std::mem::replace(&mut self.broken, broken);
        let mut side = std::mem::replace(self.report, main);
        if !super::interrupt::requested() {
            self.unreadable = unreadable;
        }
        for (oid, broken) in found {
            for Broken { kind, at, detail, .. } in broken {
                side.add(kind, format_args!("{at} (node {oid})"), detail);
            }
        }
        side
    }

    /// Compares the records of realms with their lists. Returns what those that differ must say: snapshots, orphans.
    pub fn realm_records(&mut self) -> BTreeMap<u64, (u64, u64)> {
        let mut out = BTreeMap::new();
        for (realm, items) in std::mem::take(&mut self.realm_items) {
            let found = (items.snapshots, items.orphans);
            if let Some(said) = items.said.filter(|said| *said != found) {
                let detail = format!("snapshots, unlinked files: stored {said:?}, found {found:?}");
                self.report.add(findings::REALM_RECORD, format_args!("realm {realm}"), detail);
                out.insert(realm, found);
            }
        }
        out
    }

    /// Every node was read.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.unreadable == 0
    }

    /// An edge: a node, or the roots, refers to an object.
    pub fn edge(&mut self, reference: &Reference) {
        match self.purpose {
            Purpose::Check => self.space.edge(reference),
            Purpose::Waiting => self.space.waiting_edge(reference),
            Purpose::Retained | Purpose::Unpublished => {}
        }
    }

    /// Something to visit later; it is on its way from the device meanwhile.
    pub fn push(&mut self, visit: Visit) {
        if !self.visited(visit.reference.oid) {
            self.space.expect(self.disk, &visit.reference);
        }
        self.stack.push(visit);
    }

    fn visited(&self, oid: Oid) -> bool {
        self.visited.get(&oid.segment()).is_some_and(|units| units.contains(oid.slot().into()))
    }

    /// What is beyond the memory that there is, is left for the next pass.
    fn bound(&mut self) {
        let taken = |walk: &Self| walk.space.marked_bytes() + walk.data.as_ref().map_or(0, Expectations::bytes);
        while taken(self) > self.memory_bytes && self.space.shorten_pass() {
            let end = self.space.pass().end;
            self.data.iter_mut().for_each(|data| data.forget_from(end));
        }
    }

    /// The inode number of an item of the realm that is being visited. False if another item has it.
    pub fn number(&mut self, number: u64) -> bool {
        self.used.inode(number);
        if self.purpose != Purpose::Check {
            return true;
        }
        let unit = u32::try_from(number % CHUNK).unwrap_or(0);
        self.numbers.entry(number / CHUNK).or_default().insert_one(unit)
    }

    /// A realm's entry: its root and its link table. `birth` is that of the node which holds the entry.
    pub fn realm(&mut self, realm: &RealmEntry, birth: Hlc, at: &Rc<At>) {
        self.report.statistics.realms += 1;
        self.used.realm(realm.realm_id.max(realm.home));
        self.used.inode(realm.number);
        let mut visits = vec![Visit::root(realm.root, TreeKind::Directory, Some(realm.totals), Some(birth), at)];
        if let Some(links) = realm.links {
            let at = At::below(at, "(link table)");
            visits.push(Visit::root(links, TreeKind::Links, Some(realm.links_totals), Some(birth), &at));
        }
        // 10^5 forks that nobody changed need not wait.
        visits.retain(|visit| match self.seen.get(&visit.reference.oid).copied() {
            Some(seen) if self.visited(visit.reference.oid) => {
                self.check_claim(visit, &seen);
                false
            }
            _ => true,
        });
        if !visits.is_empty() {
            visits.shrink_to_fit();
            self.later.push_back(visits);
        }
        let linked = realm.links.is_some() || realm.root.flags & flags::LINKS != 0;
        if linked
            && self.purpose == Purpose::Check
            && self.realms_seen.insert((realm.root.oid, realm.links.map(|links| links.oid)))
        {
            self.realms.push((*realm, Rc::clone(at)));
        }
    }

    /// Units from the object's start are in use.
    pub fn reached(&mut self, oid: Oid, units: std::ops::Range<u32>) {
        match self.purpose {
            Purpose::Check | Purpose::Waiting => self.space.mark_reached(oid, units),
            Purpose::Retained => self.space.mark_kept(oid, units),
            Purpose::Unpublished => {}
        }
    }

    /// A node's bytes, verified; else which finding it is.
    ///
    /// # Errors
    /// The finding, with what is expected and found.
    pub fn read_node(&self, reference: &Reference) -> Result<Vec<u8>, (&'static Kind, String)> {
        if reference.kind != ReferenceKind::Node || reference.stored_bytes as usize > NODE_BYTES_MAX {
            let detail = format!("a reference to {:?}, {} bytes", reference.kind, reference.stored_bytes);
            return Err((findings::NODE_FORMAT, detail));
        }
        let mut bytes = vec![0; reference.stored_bytes as usize];
        let offset = match self.space.read(self.disk, reference.oid, 0, &mut bytes) {
            Ok(offset) => offset,
            Err(ReadError::Unresolved(why)) => return Err((findings::UNRESOLVED, why)),
            Err(ReadError::Device(error)) => return Err((findings::NODE_CHECKSUM, error.to_string())),
        };
        let found = checksum::crc32c(&bytes);
        if found != reference.crc {
            let expected = reference.crc;
            let detail = format!("{found:#010x}, expected {expected:#010x}, at device offset {offset}");
            return Err((findings::NODE_CHECKSUM, detail));
        }
        Ok(bytes)
    }

    /// What is below a node, or an item of it, is not known.
    fn broken(&mut self, oid: Oid, kind: &'static Kind, at: &Rc<At>, item: Option<usize>, detail: String) {
        self.unreadable += 1;
        if matches!(&**at, At::Root(root) if root == "territory table") && self.purpose == Purpose::Check {
            let newer = kind == findings::FEATURES;
            self.report.add(if newer { kind } else { findings::NO_TOP }, at, &detail);
        }
        if self.broken.len() < BROKEN_MAX || self.broken.contains_key(&oid) {
            let broken = Broken { kind, at: Rc::clone(at), item, detail };
            self.broken.entry(oid).or_default().push(broken);
        } else {
            self.report.add(kind, format_args!("{at} (node {oid})"), detail);
        }
        if item.is_none() {
            self.dead.insert(oid);
        }
    }

    fn visit(&mut self, visit: &Visit) {
        let oid = visit.reference.oid;
        let visited = self.visited(oid);
        if self.dead.contains(&oid) {
            return;
        }
        if visited && let Some(seen) = self.seen.get(&oid).copied() {
            self.check_claim(visit, &seen);
            return;
        }
        let copy = self.space.copy(oid).map(<[u8]>::to_vec);
        let bytes = match (self.read_node(&visit.reference), copy) {
            (Ok(bytes), _) => Ok(bytes),
            (Err((kind, why)), Some(copy)) => {
                let detail = format!("F{:03}: {}; {why}", kind.number, kind.what);
                self.report.add(findings::ROOT_NODE, format_args!("{} (node {oid})", visit.at), detail);
                Ok(copy)
            }
            (Err(error), None) => Err(error),
        };
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err((kind, detail)) => {
                return self.broken(oid, kind, &visit.at, None, with_loss(detail, &visit.claim));
            }
        };
        let view = match NodeView::parse(&bytes) {
            Ok(view) => view,
            Err(error) => {
                let detail = with_loss(error.to_string(), &visit.claim);
                return self.broken(oid, findings::NODE_FORMAT, &visit.at, None, detail);
            }
        };
        if visited {
            if let Some(sum) = summary(&view) {
                let seen = self.remember(oid, view.header(), &sum);
                self.check_claim(visit, &seen);
            }
            return;
        }
        self.visited.entry(oid.segment()).or_default().insert_one(oid.slot().into());
        self.report.statistics.nodes += 1;
        self.progress.inc(bytes.len() as u64);
        self.reached(oid, 0..visit.reference.units());
        let mut references: Vec<Reference> = view.references().collect();
        references.sort_by_key(|reference| reference.oid);
        references.dedup_by_key(|reference| reference.oid);
        for reference in &references {
            self.edge(reference);
            if reference.birth > view.header().birth {
                self.birth_order(&visit.at, reference, view.header().birth);
            }
        }
        let sum = self.items(visit, &view);
        let seen = self.remember(oid, view.header(), &sum);
        self.check_claim(visit, &seen);
        self.bound();
    }

    fn remember(&mut self, oid: Oid, header: &NodeHeader, sum: &Sum) -> Seen {
        let NodeHeader { level, tree, birth, .. } = *header;
        let seen = Seen { birth, totals: sum.totals, items: sum.items, flags: sum.flags, level, tree };
        if self.seen.len() >= SEEN_MAX {
            self.seen.clear();
        }
        self.seen.insert(oid, seen);
        seen
    }

    /// Looks at every item, pushes what they lead to, and sums them up.
    fn items(&mut self, visit: &Visit, view: &NodeView<'_>) -> Sum {
        let mut sum = Sum::default();
        let hash_key = visit.hash_key.or_else(|| items::hash_key(view));
        let header = *view.header();
        let keys: Vec<&[u8]> = view.items().map(|item| item.key).collect();
        self.check_order(visit, &keys);
        for (index, item) in view.items().enumerate() {
            let references: Vec<Reference> =
                item.reference_indexes().filter_map(|index| view.reference(index)).collect();
            let to = keys.get(index + 1).map(|key| key.to_vec()).or_else(|| visit.keys.1.clone());
            let result = if header.level > 0 {
                // The first child may hold keys below its own.
                let from = if index == 0 { visit.keys.0.clone() } else { Some(item.key.to_vec()) };
                interior(item.value, &references).map(|(child, totals, count)| {
                    let claim =
                        Claim { totals: Some(totals), items: Some(count), birth: None, level: Some(header.level - 1) };
                    let (reference, tree, at) = (child, Some(header.tree), Rc::clone(&visit.at));
                    self.push(Visit { reference, tree, claim, keys: (from, to), hash_key, at });
                    Sum { totals, items: count, flags: child.flags }
                })
            } else {
                let node = visit.reference.oid;
                let leaf = Leaf { header: &header, node, hash_key, at: &visit.at, next_key: to.as_deref() };
                items::leaf(self, &leaf, item.key, item.value, &references)
            };
            match result {
                Ok(part) => {
                    sum.totals = sum.totals.add(part.totals);
                    sum.items = sum.items.wrapping_add(part.items);
                    sum.flags |= part.flags;
                }
                Err(error) => {
                    // What the item leads to is not known: nothing can be called unreachable any more.
                    let kind = match error {
                        LayoutError::Checksum { .. } => findings::INLINE_CHECKSUM,
                        LayoutError::Unknown { .. } if header.tree == TreeKind::TerritoryTable => findings::FEATURES,
                        _ => findings::ITEM,
                    };
                    self.broken(visit.reference.oid, kind, &visit.at, Some(index), error.to_string());
                }
            }
        }
        sum
    }

    fn check_order(&mut self, visit: &Visit, keys: &[&[u8]]) {
        let ascending = keys.windows(2).all(|pair| matches!(pair, [a, b] if a < b));
        let (from, to) = &visit.keys;
        let above = from.as_ref().is_none_or(|from| keys.first().is_none_or(|key| from.as_slice() <= *key));
        let below = to.as_ref().is_none_or(|to| keys.last().is_none_or(|key| *key < to.as_slice()));
        if !(ascending && above && below) {
            let detail = if ascending { "a key outside the range that the parent gives" } else { "keys do not ascend" };
            self.report.add(findings::TREE_ORDER, format_args!("{} (node {})", visit.at, visit.reference.oid), detail);
        }
    }

    fn check_claim(&mut self, visit: &Visit, seen: &Seen) {
        let Visit { reference, claim, at, .. } = visit;
        if seen.birth != reference.birth {
            let detail = format!("its header says {:?}, the reference to it {:?}", seen.birth, reference.birth);
            self.report.add(findings::NODE_FORMAT, format_args!("{at} (node {})", reference.oid), detail);
        }
        if let Some(tree) = visit.tree.filter(|tree| *tree != seen.tree) {
            let detail = format!("a {:?} node where a {tree:?} node belongs", seen.tree);
            self.report.add(findings::NODE_FORMAT, format_args!("{at} (node {})", reference.oid), detail);
            return;
        }
        if let Some(level) = claim.level.filter(|level| *level != seen.level) {
            let detail = format!("level {} below level {}", seen.level, level + 1);
            self.report.add(findings::TREE_ORDER, format_args!("{at} (node {})", reference.oid), detail);
        }
        if let Some(birth) = claim.birth.filter(|birth| reference.birth > *birth) {
            self.birth_order(at, reference, birth);
        }
        if let Some(totals) = claim.totals.filter(|totals| *totals != seen.totals) {
            let detail = format!("stored: {}; found: {}", shown(&totals), shown(&seen.totals));
            self.report.add(findings::TOTALS, at, detail);
        }
        if let Some(items) = claim.items.filter(|items| *items != seen.items) {
            self.report.add(findings::TOTALS, at, format_args!("stored: {items} items; found: {}", seen.items));
        }
        if visit.tree.is_some() && reference.flags != seen.flags {
            let detail =
                format!("stored: {:#04x}; found: {:#04x} (node {})", reference.flags, seen.flags, reference.oid);
            self.report.add(findings::FLAGS, at, detail);
        }
    }

    fn birth_order(&mut self, at: &At, child: &Reference, parent: Hlc) {
        let detail = format!("object {} of {:?}, referred to from {parent:?}", child.oid, child.birth);
        self.report.add(findings::BIRTH_ORDER, at, detail);
    }
}

/// What a node amounts to, from its items alone.
pub fn summary(view: &NodeView<'_>) -> Option<Sum> {
    let mut sum = Sum::default();
    for item in view.items() {
        let references: Vec<Reference> = item.reference_indexes().filter_map(|index| view.reference(index)).collect();
        let (totals, items, flags) = if view.header().level > 0 {
            interior(item.value, &references).map(|(child, totals, items)| (totals, items, child.flags)).ok()?
        } else {
            let (totals, flags) = items::summary(view.header().tree, item.value, &references).ok()?;
            (totals, 1, flags)
        };
        sum = Sum { totals: sum.totals.add(totals), items: sum.items.wrapping_add(items), flags: sum.flags | flags };
    }
    Some(sum)
}

/// What an item of an interior node says: the child, totals and number of items below it.
pub fn interior(value: &[u8], references: &[Reference]) -> Result<(Reference, Totals, u64), LayoutError> {
    let structure = "interior item";
    let short = || LayoutError::Short { structure, expected: Totals::BYTES + 8, found: value.len() };
    let (totals, items) = value.split_at_checked(Totals::BYTES).ok_or_else(short)?;
    let items = u64::from_le_bytes(items.try_into().map_err(|_| short())?);
    let [child] = references else {
        return Err(LayoutError::Field { structure, field: "references", found: references.len() as u64 });
    };
    Ok((*child, Totals::decode(totals)?, items))
}

/// How much is below a node that cannot be read, as its parent says.
fn with_loss(detail: String, claim: &Claim) -> String {
    match &claim.totals {
        Some(Totals { bytes, files, directories, links }) if *bytes > 0 || files + directories + links > 0 => format!(
            "{detail}; below it: {files} files and {links} names of files with several, {directories} directories, {bytes} bytes"
        ),
        _ => detail,
    }
}

fn shown(totals: &Totals) -> String {
    let Totals { bytes, files, directories, links } = totals;
    format!("{bytes} bytes, {files} files, {directories} directories, {links} links")
}
