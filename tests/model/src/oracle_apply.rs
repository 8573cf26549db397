//! What each operation does to the oracle's value: the meaning of the operations, without any mechanism.

use crate::operation::{Name, Operation, Path, split};
use crate::oracle::{OracleDirectory, OracleEntry, OracleFile, OracleRealm, OracleVolume, link_names};
use std::collections::BTreeMap;
use std::rc::Rc;

impl OracleVolume {
    /// Applies one operation that the generator found possible.
    pub fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Create { directory, name } => self.put(directory, *name, OracleEntry::File(Rc::default())),
            Operation::MakeDirectory { directory, name, .. } => {
                self.put(directory, *name, OracleEntry::Directory(Rc::new(OracleDirectory::new())));
            }
            Operation::Write { file, block, blocks, token, .. } => self.edit_file(file, &mut |f| {
                for i in 0..*blocks {
                    f.insert(block + i, token + u64::from(i));
                }
            }),
            Operation::Punch { file, from, to } => self.edit_file(file, &mut |f| {
                for i in *from..*to {
                    f.remove(&i);
                }
            }),
            Operation::Unlink { file, other_name } => self.unlink(file, other_name),
            Operation::UnlinkOpen { file, orphan } => self.unlink_open(file, *orphan),
            Operation::CloseOrphan { orphan } => {
                self.orphans.remove(orphan);
            }
            Operation::TemporaryFile { orphan } => {
                self.orphans.insert(*orphan, Rc::default());
            }
            Operation::LinkOrphan { orphan, directory, name } => {
                let file = self.orphans.remove(orphan).expect("orphan");
                self.put(directory, *name, OracleEntry::File(file));
            }
            Operation::RemoveDirectory { path } => self.take(path),
            Operation::RemoveTree { path } => {
                self.take(path);
                self.snapshots.retain(|_, s| !s.0.starts_with(path));
            }
            Operation::Rename { from, directory, name, other_name, orphan, .. } => {
                self.rename(from, directory, *name, other_name, *orphan);
            }
            Operation::Clone { source, directory, name, read_only, .. } => {
                let value = self.fork(source, *read_only);
                self.put(directory, *name, OracleEntry::Realm(Rc::new(value)));
            }
            Operation::TakeSnapshot { directory, snapshot } => {
                let value = self.fork(directory, true);
                self.snapshots.insert(*snapshot, (Rc::new(directory.clone()), Rc::new(value)));
            }
            Operation::DropSnapshot { snapshot, .. } => {
                self.snapshots.remove(snapshot);
            }
            Operation::Adopt { .. } => {}
            Operation::EmbedLink { file } => {
                if let Some(OracleEntry::Link(number)) = self.entry(file) {
                    let around = self.realm_prefix(split(file).0).0;
                    self.drop_link_name(&file[..around], number, &Some(file.clone()));
                }
            }
            Operation::CloneHistory { directory, name, value, .. } => {
                self.put(directory, *name, OracleEntry::Realm(value.clone()));
            }
            Operation::CloneFile { source, directory, name } => {
                let file = self.file(source);
                self.put(directory, *name, OracleEntry::File(file));
            }
            Operation::Reflink { source, source_block, target, target_block, blocks } => {
                let from = self.file(source);
                self.edit_file(target, &mut |f| copy_range(&from, *source_block, f, *target_block, *blocks));
            }
            Operation::Link { file, directory, name, number } => self.link(file, directory, *name, *number),
        }
    }

    fn unlink(&mut self, path: &[Name], other_name: &Option<Path>) {
        let entry = self.entry(path).expect("path");
        let around = self.realm_prefix(split(path).0).0;
        self.take(path);
        if let OracleEntry::Link(number) = entry {
            self.drop_link_name(&path[..around], number, other_name);
        }
    }

    fn unlink_open(&mut self, path: &[Name], orphan: u32) {
        let file = self.file(path);
        self.unlink(path, &None);
        self.orphans.insert(orphan, file);
    }

    /// One name less of a link file; or its last name takes the inode back.
    fn drop_link_name(&mut self, realm: &[Name], number: u32, other_name: &Option<Path>) {
        if let Some(survivor) = other_name {
            let file = self.realm(realm).links[&number].1.clone();
            self.edit_realm(realm, &mut |r| {
                Rc::make_mut(&mut r.links).remove(&number);
            });
            let (directory, name) = split(survivor);
            return self.put(directory, name, OracleEntry::File(file));
        }
        self.edit_realm(realm, &mut |r| {
            let table = Rc::make_mut(&mut r.links);
            let names = &mut table.get_mut(&number).expect("link").0;
            if *names <= 1 {
                table.remove(&number);
            } else {
                *names -= 1;
            }
        });
    }

    fn rename(&mut self, from: &Path, directory: &Path, name: Name, other_name: &Option<Path>, orphan: Option<u32>) {
        let mut to = directory.clone();
        to.push(name);
        if let Some(orphan) = orphan {
            self.unlink_open(&to, orphan);
        }
        let mut entry = self.entry(from).expect("path");
        let replaced = self.directory(directory).get(&name).cloned();
        let target_realm = self.realm_prefix(directory).0;
        let source_realm = self.realm_prefix(split(from).0).0;
        if from[..source_realm] != directory[..target_realm]
            && let OracleEntry::Directory(d) = &entry
        {
            let realm = OracleRealm { root: d.clone(), links: Rc::default(), read_only: false };
            entry = OracleEntry::Realm(Rc::new(realm));
        }
        self.take(from);
        if let Some(OracleEntry::Link(number)) = replaced {
            self.drop_link_name(&directory[..target_realm], number, other_name);
        }
        self.put(directory, name, entry);
        for s in self.snapshots.values_mut() {
            if s.0.starts_with(from) {
                let moved = to.iter().chain(&s.0[from.len()..]).copied().collect();
                s.0 = Rc::new(moved);
            }
        }
    }

    /// The value of a clone or snapshot: an inner directory takes the link files that have a name inside, with as many names.
    fn fork(&self, source: &[Name], read_only: bool) -> OracleRealm {
        let root = self.directory(source).clone();
        let (around, realm) = self.realm_around(source);
        if around.len() == source.len() {
            return OracleRealm { root, links: realm.links, read_only };
        }
        let mut names = vec![];
        link_names(&root, &mut vec![], &mut names);
        let mut links: BTreeMap<u32, (u32, Rc<OracleFile>)> = BTreeMap::new();
        for (number, _) in names {
            links.entry(number).or_insert_with(|| (0, realm.links[&number].1.clone())).0 += 1;
        }
        OracleRealm { root, links: Rc::new(links), read_only }
    }

    fn link(&mut self, path: &[Name], directory: &[Name], name: Name, number: u32) {
        let (parent, old_name) = split(path);
        let around = path[..self.realm_prefix(parent).0].to_vec();
        match self.entry(path).expect("path") {
            OracleEntry::File(f) => {
                self.put(parent, old_name, OracleEntry::Link(number));
                self.edit_realm(&around, &mut |r| {
                    Rc::make_mut(&mut r.links).insert(number, (2, f.clone()));
                });
            }
            OracleEntry::Link(_) => self.edit_realm(&around, &mut |r| {
                Rc::make_mut(&mut r.links).get_mut(&number).expect("link").0 += 1;
            }),
            _ => panic!("not a file: {path:?}"),
        }
        self.put(directory, name, OracleEntry::Link(number));
    }
}

fn copy_range(from: &OracleFile, source: u32, to: &mut OracleFile, target: u32, blocks: u32) {
    for i in 0..blocks {
        match from.get(&(source + i)) {
            Some(token) => {
                to.insert(target + i, *token);
            }
            None => {
                to.remove(&(target + i));
            }
        }
    }
}
