//! The oracle: the expected value of a volume as persistent maps. It knows no counts, share times, ids or flags, and knows a
//! snapshot by the path of its directory (kept up to date by renames).

use crate::operation::{Name, ORPHAN_BASE, Path, SNAPSHOT_BASE, split};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Block number to token; absent blocks are holes.
pub type OracleFile = BTreeMap<u32, u64>;
pub type OracleDirectory = BTreeMap<Name, OracleEntry>;

#[derive(Clone, Debug)]
pub struct OracleRealm {
    pub root: Rc<OracleDirectory>,
    /// Files with several names by number: how many names they have in this realm, and their contents.
    pub links: Rc<BTreeMap<u32, (u32, Rc<OracleFile>)>>,
    pub read_only: bool,
}

#[derive(Clone, Debug)]
pub enum OracleEntry {
    File(Rc<OracleFile>),
    Directory(Rc<OracleDirectory>),
    Realm(Rc<OracleRealm>),
    /// A name of file `links[number]` of the realm around.
    Link(u32),
}

/// The whole volume.
#[derive(Clone)]
pub struct OracleVolume {
    pub top: OracleRealm,
    /// By id: the path of the directory now, and its value then.
    pub snapshots: BTreeMap<u32, (Rc<Path>, Rc<OracleRealm>)>,
    /// Open files without a name.
    pub orphans: BTreeMap<u32, Rc<OracleFile>>,
}

impl Default for OracleVolume {
    fn default() -> OracleVolume {
        let top = OracleRealm { root: Rc::new(BTreeMap::new()), links: Rc::new(BTreeMap::new()), read_only: false };
        OracleVolume { top, snapshots: BTreeMap::new(), orphans: BTreeMap::new() }
    }
}

impl OracleEntry {
    /// A file, with one name or several.
    pub fn is_file(&self) -> bool {
        matches!(self, OracleEntry::File(_) | OracleEntry::Link(_))
    }
    /// What a path goes through: a directory, or a realm's root.
    pub(crate) fn directory(&self) -> &Rc<OracleDirectory> {
        match self {
            OracleEntry::Directory(d) => d,
            OracleEntry::Realm(r) => &r.root,
            _ => panic!("not a directory"),
        }
    }
}

impl OracleVolume {
    /// Where a path starts: the top, or a snapshot. How many names that takes.
    fn start<'a>(&'a self, path: &[Name]) -> (&'a OracleRealm, usize) {
        match path.first() {
            Some(head) if *head >= SNAPSHOT_BASE => (&self.snapshots[&(head - SNAPSHOT_BASE)].1, 1),
            _ => (&self.top, 0),
        }
    }

    /// The directory or realm's root at `path`, which must exist.
    pub fn directory(&self, path: &[Name]) -> &Rc<OracleDirectory> {
        let (realm, taken) = self.start(path);
        path[taken..].iter().fold(&realm.root, |d, name| d.get(name).expect("path").directory())
    }

    /// Length of the longest prefix that is a realm, and whether any realm on the way is read-only.
    pub fn realm_prefix(&self, path: &[Name]) -> (usize, bool) {
        let (realm, taken) = self.start(path);
        let mut longest = taken;
        let mut read_only = realm.read_only;
        let mut d = &realm.root;
        for (i, name) in path.iter().enumerate().skip(taken) {
            let e = d.get(name).expect("path");
            if let OracleEntry::Realm(r) = e {
                longest = i + 1;
                read_only |= r.read_only;
            }
            d = e.directory();
        }
        (longest, read_only)
    }

    /// The entry at `path`, an orphan or a snapshot among them.
    pub fn entry(&self, path: &[Name]) -> Option<OracleEntry> {
        match path {
            [head] if *head >= ORPHAN_BASE => {
                self.orphans.get(&(head - ORPHAN_BASE)).map(|f| OracleEntry::File(f.clone()))
            }
            [head] if *head >= SNAPSHOT_BASE => {
                Some(OracleEntry::Realm(self.snapshots[&(head - SNAPSHOT_BASE)].1.clone()))
            }
            _ => {
                let (directory, name) = split(path);
                self.directory(directory).get(&name).cloned()
            }
        }
    }

    /// The realm whose root is at `path`.
    pub fn realm(&self, path: &[Name]) -> OracleRealm {
        match path {
            [] => self.top.clone(),
            _ => match self.entry(path) {
                Some(OracleEntry::Realm(r)) => (*r).clone(),
                _ => panic!("not a realm: {path:?}"),
            },
        }
    }

    /// The realm around the file or directory at `path`: its path and value.
    pub fn realm_around<'p>(&self, path: &'p [Name]) -> (&'p [Name], OracleRealm) {
        let around = &path[..self.realm_prefix(path).0];
        (around, self.realm(around))
    }

    /// The contents of the file at `path`, an orphan among them.
    pub fn file(&self, path: &[Name]) -> Rc<OracleFile> {
        match self.entry(path).expect("path") {
            OracleEntry::File(f) => f,
            OracleEntry::Link(number) => self.realm_around(split(path).0).1.links[&number].1.clone(),
            _ => panic!("not a file: {path:?}"),
        }
    }

    /// How many names a file has in its realm.
    pub fn names_of(&self, path: &[Name]) -> u32 {
        match self.entry(path) {
            Some(OracleEntry::Link(number)) => self.realm_around(split(path).0).1.links[&number].0,
            _ => 1,
        }
    }

    pub(crate) fn edit_directory(&mut self, path: &[Name], edit: &mut dyn FnMut(&mut OracleDirectory)) {
        fn go(d: &mut Rc<OracleDirectory>, path: &[Name], edit: &mut dyn FnMut(&mut OracleDirectory)) {
            let d = Rc::make_mut(d);
            let Some((name, rest)) = path.split_first() else { return edit(d) };
            match d.get_mut(name).expect("path") {
                OracleEntry::Directory(x) => go(x, rest, edit),
                OracleEntry::Realm(r) => go(&mut Rc::make_mut(r).root, rest, edit),
                _ => panic!("not a directory"),
            }
        }
        go(&mut self.top.root, path, edit);
    }

    pub(crate) fn put(&mut self, directory: &[Name], name: Name, entry: OracleEntry) {
        self.edit_directory(directory, &mut |d| {
            d.insert(name, entry.clone());
        });
    }

    pub(crate) fn take(&mut self, path: &[Name]) {
        let (directory, name) = split(path);
        self.edit_directory(directory, &mut |d| {
            d.remove(&name);
        });
    }

    pub(crate) fn edit_realm(&mut self, path: &[Name], edit: &mut dyn FnMut(&mut OracleRealm)) {
        if path.is_empty() {
            return edit(&mut self.top);
        }
        let (directory, name) = split(path);
        self.edit_directory(directory, &mut |d| match d.get_mut(&name).expect("path") {
            OracleEntry::Realm(r) => edit(Rc::make_mut(r)),
            _ => panic!("not a realm"),
        });
    }

    pub(crate) fn edit_file(&mut self, path: &[Name], edit: &mut dyn FnMut(&mut OracleFile)) {
        if path[0] >= ORPHAN_BASE {
            return edit(Rc::make_mut(self.orphans.get_mut(&(path[0] - ORPHAN_BASE)).expect("orphan")));
        }
        let (directory, name) = split(path);
        match self.entry(path).expect("path") {
            OracleEntry::File(_) => self.edit_directory(directory, &mut |d| {
                if let OracleEntry::File(f) = d.get_mut(&name).expect("path") {
                    edit(Rc::make_mut(f));
                }
            }),
            OracleEntry::Link(number) => {
                let (around, _) = self.realm_prefix(directory);
                self.edit_realm(&path[..around], &mut |r| {
                    edit(Rc::make_mut(&mut Rc::make_mut(&mut r.links).get_mut(&number).expect("link").1));
                });
            }
            _ => panic!("not a file: {path:?}"),
        }
    }
}

/// Links below, not in realms inside.
pub(crate) fn has_links(d: &OracleDirectory) -> bool {
    d.values().any(|e| match e {
        OracleEntry::Link(_) => true,
        OracleEntry::Directory(x) => has_links(x),
        _ => false,
    })
}

/// Realms below, not in realms inside.
pub(crate) fn has_realms(d: &OracleDirectory) -> bool {
    d.values().any(|e| match e {
        OracleEntry::Realm(_) => true,
        OracleEntry::Directory(x) => has_realms(x),
        _ => false,
    })
}

/// Names of link files below `d`, not in realms inside.
pub(crate) fn link_names(d: &OracleDirectory, path: &mut Path, out: &mut Vec<(u32, Path)>) {
    for (name, e) in d {
        path.push(*name);
        match e {
            OracleEntry::Link(number) => out.push((*number, path.clone())),
            OracleEntry::Directory(x) => link_names(x, path, out),
            _ => {}
        }
        path.pop();
    }
}
