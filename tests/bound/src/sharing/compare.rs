//! Compares what the namespace shows with the value that the model says.

use crate::sharing::driver::{CX, Check, Driver, snapshot_name, wrong};
use crate::sharing::ground::Ground;
use crate::sharing::step::BLOCK;
use envoyfs_layout::Totals;
use envoyfs_model::history::is_directory;
use envoyfs_model::operation::name_text;
use envoyfs_model::{FILE_BLOCKS, OracleDirectory, OracleEntry, OracleFile, OracleRealm};
use envoyfs_namespace::api::{Attributes, DirectoryEntry, Error, FileType, InodeId};
use std::collections::{BTreeMap, HashMap};

/// One comparison.
struct Comparison {
    /// Contents of all files and snapshots, not of some.
    everything: bool,
    /// Which file or directory each identity is.
    identities: HashMap<InodeId, String>,
}

impl<G: Ground> Driver<G> {
    /// The whole tree: names, kinds, link counts, identities, snapshots listed, contents.
    pub fn compare(&mut self, everything: bool) -> Check<()> {
        let mut comparison = Comparison { everything, identities: HashMap::new() };
        let volume = self.volume.clone();
        self.directory(&mut comparison, InodeId::ROOT, &mut vec![], &volume.top.root, &volume.top, "", false)?;
        for (orphan, contents) in &volume.orphans {
            let Some(id) = self.open.get(orphan).copied() else { continue };
            let attributes = self.ns.getattr(&CX, id);
            let attributes = self.judge("getattr of an open file", attributes)?;
            if attributes.nlink != 0 {
                return wrong(format!("open file {orphan} has no name and {} links", attributes.nlink));
            }
            self.contents_of(&attributes, contents, &format!("open file {orphan}"))?;
        }
        self.give_back();
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the place in two trees at once")]
    fn directory(
        &mut self,
        comparison: &mut Comparison,
        id: InodeId,
        path: &mut Vec<u32>,
        want: &OracleDirectory,
        realm: &OracleRealm,
        realm_at: &str,
        in_snapshot: bool,
    ) -> Check<()> {
        let at = format!("{realm_at}:{path:?}");
        let listed = self.listed(id, &at)?;
        let mut got: Vec<(String, bool)> = listed
            .iter()
            .map(|entry| (String::from_utf8_lossy(&entry.name).into(), entry.file_type == FileType::Directory))
            .collect();
        got.sort();
        let mut expected: Vec<(String, bool)> =
            want.iter().map(|(name, entry)| (name_text(*name), is_directory(entry))).collect();
        expected.sort();
        if got != expected {
            return wrong(format!("names in {at}: {got:?}, should be {expected:?}"));
        }
        for (name, entry) in want {
            let text = name_text(*name);
            let attributes = self.ns.lookup(&CX, id, text.as_bytes());
            let attributes = self.judge(&format!("lookup of {text} in {at}"), attributes)?;
            let shown = listed.iter().find(|entry| entry.name == text.as_bytes()).map(|entry| entry.id);
            if shown != Some(attributes.id) {
                return wrong(format!("{text} in {at} is listed as {shown:?} and found as {:?}", attributes.id));
            }
            path.push(*name);
            let result = self.entry(comparison, &attributes, path, entry, realm, realm_at, in_snapshot);
            path.pop();
            self.ns.forget(attributes.id, 1);
            result?;
        }
        if in_snapshot {
            return match self.ns.lookup(&CX, id, b".snap") {
                Err(Error::NotFound) => Ok(()),
                other => wrong(format!("a snapshot has snapshots at {at}: {other:?}")),
            };
        }
        self.snapshots(comparison, id, path, &at)
    }

    fn listed(&mut self, id: InodeId, at: &str) -> Check<Vec<DirectoryEntry>> {
        let mut listed = Vec::new();
        let result = self.ns.readdir(&CX, id, 2, &mut |entry| {
            listed.push(entry);
            true
        });
        self.judge(&format!("readdir of {at}"), result)?;
        Ok(listed)
    }

    #[expect(clippy::too_many_arguments, reason = "the place in two trees at once")]
    fn entry(
        &mut self,
        comparison: &mut Comparison,
        attributes: &Attributes,
        path: &mut Vec<u32>,
        want: &OracleEntry,
        realm: &OracleRealm,
        realm_at: &str,
        in_snapshot: bool,
    ) -> Check<()> {
        let here = format!("{realm_at}:{path:?}");
        // INV-30, INV-51: one identity, one file.
        let identity = match want {
            OracleEntry::Link(number) => format!("{realm_at} link {number}"),
            _ => here.clone(),
        };
        if let Some(other) = comparison.identities.insert(attributes.id, identity.clone())
            && other != identity
        {
            return wrong(format!("INV-30: {here} and {other} are both {:?}", attributes.id));
        }
        let (names, contents) = match want {
            OracleEntry::Directory(below) => {
                return self.directory(comparison, attributes.id, path, below, realm, realm_at, in_snapshot);
            }
            OracleEntry::Realm(inner) => {
                return self.directory(comparison, attributes.id, path, &inner.root, inner, &here, in_snapshot);
            }
            OracleEntry::File(contents) => (1, contents),
            OracleEntry::Link(number) => {
                let (names, contents) = &realm.links[number];
                (*names, contents)
            }
        };
        if attributes.nlink != names {
            return wrong(format!("INV-49: {here} has {} links and {names} names", attributes.nlink));
        }
        if comparison.everything || self.random.percent(20) {
            self.contents_of(attributes, contents, &here)?;
        }
        Ok(())
    }

    /// The blocks of a file; a hole reads as zeros.
    fn contents_of(&mut self, attributes: &Attributes, want: &OracleFile, at: &str) -> Check<()> {
        let mut bytes = vec![0; BLOCK * FILE_BLOCKS as usize];
        let read = self.ns.read(&CX, attributes.id, 0, &mut bytes);
        let read = self.judge(&format!("read of {at}"), read)?;
        if read as u64 != attributes.size.min(bytes.len() as u64) {
            return wrong(format!("{at}: {read} bytes read of {}", attributes.size));
        }
        bytes[read..].fill(0);
        for (block, got) in (0..FILE_BLOCKS).zip(bytes.chunks(BLOCK)) {
            let token = want.get(&block).copied().unwrap_or(0);
            if got != self.contents.of(token) {
                return wrong(format!("block {block} of {at} is not {token}"));
            }
        }
        Ok(())
    }

    /// The snapshots of one directory of the tree, and what is in them.
    fn snapshots(&mut self, comparison: &mut Comparison, id: InodeId, path: &[u32], at: &str) -> Check<()> {
        let volume = self.volume.clone();
        let want: BTreeMap<String, OracleRealm> = volume
            .snapshots
            .iter()
            .filter(|(_, (of, _))| of.as_slice() == path)
            .map(|(id, (_, value))| (snapshot_name(*id), (**value).clone()))
            .collect();
        let list = self.ns.lookup(&CX, id, b".snap");
        let list = self.judge(&format!(".snap of {at}"), list)?.id;
        let listed = self.listed(list, &format!("{at}/.snap"))?;
        let mut got: Vec<String> = listed.iter().map(|entry| String::from_utf8_lossy(&entry.name).into()).collect();
        got.sort();
        if !got.iter().eq(want.keys()) {
            return wrong(format!("snapshots of {at}: {got:?}, should be {:?}", want.keys()));
        }
        for (name, value) in &want {
            if !comparison.everything && !self.random.percent(20) {
                continue;
            }
            let root = self.ns.lookup(&CX, list, name.as_bytes());
            let root = self.judge(&format!("{at}/.snap/{name}"), root)?.id;
            let realm_at = format!("{at}/.snap/{name}");
            self.directory(comparison, root, &mut vec![], &value.root, value, &realm_at, true)?;
            self.ns.forget(root, 1);
        }
        self.ns.forget(list, 1);
        Ok(())
    }

    /// Right after a checkpoint: totals of every directory (INV-27), and what the store says.
    pub fn check_sums(&mut self, quiescent: bool) -> Check<()> {
        let volume = self.volume.clone();
        self.sums_of(InodeId::ROOT, &volume.top.root, &mut vec![])?;
        let recount = self.ground.check(quiescent).map_err(super::driver::Failure::Wrong)?;
        let Some(recount) = recount else { return Ok(()) };
        let mut want = realm_totals(&volume.top);
        want.directories += 1;
        if recount.view != want {
            return wrong(format!("INV-27: the view says {:?}, should be {want:?}", recount.view));
        }
        Ok(())
    }

    fn sums_of(&mut self, id: InodeId, want: &OracleDirectory, path: &mut Vec<u32>) -> Check<()> {
        let totals = self.ns.totals(&CX, id);
        let totals = self.judge("totals", totals)?;
        // Whether a file with one name is in the link table is the implementation's: its name counts as a file or as a link.
        let (files, directories) = names_below(want);
        if (totals.files + totals.links, totals.directories) != (files, directories) {
            return wrong(format!("INV-27: {path:?}: {totals:?}, should be {files} names, {directories} directories"));
        }
        for (name, entry) in want {
            let below = match entry {
                OracleEntry::Directory(below) => below,
                OracleEntry::Realm(realm) => &realm.root,
                _ => continue,
            };
            let attributes = self.ns.lookup(&CX, id, name_text(*name).as_bytes());
            let attributes = self.judge("lookup", attributes)?;
            path.push(*name);
            self.sums_of(attributes.id, below, path)?;
            path.pop();
            self.ns.forget(attributes.id, 1);
        }
        Ok(())
    }
}

/// Names of files, with the files of each realm inside counted once, and directories.
fn names_below(directory: &OracleDirectory) -> (u64, u64) {
    directory.values().fold((0, 0), |(files, directories), entry| match entry {
        OracleEntry::File(_) | OracleEntry::Link(_) => (files + 1, directories),
        OracleEntry::Directory(below) => {
            let below = names_below(below);
            (files + below.0, directories + below.1 + 1)
        }
        OracleEntry::Realm(realm) => {
            let below = realm_totals(realm);
            (files + below.files, directories + below.directories + 1)
        }
    })
}

/// What is in a realm, each file once.
fn realm_totals(realm: &OracleRealm) -> Totals {
    fn below(directory: &OracleDirectory) -> Totals {
        directory.values().fold(Totals::ZERO, |sum, entry| match entry {
            OracleEntry::File(contents) => sum.add(file_totals(contents)),
            OracleEntry::Link(_) => sum,
            OracleEntry::Directory(inner) => sum.add(below(inner)).add(Totals { directories: 1, ..Totals::ZERO }),
            OracleEntry::Realm(inner) => sum.add(realm_totals(inner)).add(Totals { directories: 1, ..Totals::ZERO }),
        })
    }
    let linked = realm.links.values().fold(Totals::ZERO, |sum, (_, contents)| sum.add(file_totals(contents)));
    below(&realm.root).add(linked)
}

fn file_totals(contents: &OracleFile) -> Totals {
    Totals { bytes: (contents.len() * BLOCK) as u64, files: 1, ..Totals::ZERO }
}
