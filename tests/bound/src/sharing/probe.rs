//! Calls that must be refused, for the right reason, and change nothing.

use crate::sharing::driver::{CX, Check, Driver, wrong};
use crate::sharing::ground::Ground;
use envoyfs_engine::StoreError;
use envoyfs_model::operation::name_text;
use envoyfs_model::{OracleDirectory, OracleEntry, Path};
use envoyfs_namespace::api::{Error, InodeId, Make, RenameMode};

/// A name that no history uses.
const FREE: &[u8] = b"probe";

/// What must be refused.
enum Refused {
    /// EXDEV.
    Border,
    NotEmpty,
    ReadOnly,
    Exists,
}

/// Directories of the tree, each with the path of the realm that it is in.
fn directories(of: &OracleDirectory, path: &mut Path, realm: &Path, out: &mut Vec<(Path, Path)>) {
    out.push((path.clone(), realm.clone()));
    for (name, entry) in of {
        path.push(*name);
        match entry {
            OracleEntry::Directory(below) => directories(below, path, realm, out),
            OracleEntry::Realm(inner) => directories(&inner.root, path, &path.clone(), out),
            _ => {}
        }
        path.pop();
    }
}

fn holds_realms(directory: &OracleDirectory) -> bool {
    directory.values().any(|entry| match entry {
        OracleEntry::Realm(_) => true,
        OracleEntry::Directory(below) => holds_realms(below),
        _ => false,
    })
}

impl<G: Ground> Driver<G> {
    /// One call that must be refused, if the tree has a place for it.
    pub fn probe(&mut self) -> Check<()> {
        let volume = self.volume.clone();
        let mut all = vec![];
        directories(&volume.top.root, &mut vec![], &vec![], &mut all);
        let (path, realm) = all[self.random.index(all.len())].clone();
        let (other, other_realm) = all[self.random.index(all.len())].clone();
        let here = volume.directory(&path);
        let what = self.random.index(6);
        let first = here.iter().next().map(|(name, entry)| (name_text(*name).into_bytes(), entry.clone()));
        let Ok((id, to)) = self.resolve(&path).and_then(|id| Ok((id, self.resolve(&other)?))) else {
            self.give_back();
            return Ok(()); // the power has failed: the next operation says so
        };
        let probed = match (what, first) {
            (0, _) if holds_realms(here) => Some((Refused::Border, self.ns.fork(&CX, id, to, FREE).map(drop))),
            (1, _) if holds_realms(here) => Some((Refused::Border, self.ns.snapshot(&CX, id, FREE).map(drop))),
            (2, Some((name, _))) if realm != other_realm => {
                Some((Refused::Border, self.ns.rename(&CX, id, &name, to, FREE, RenameMode::Replace)))
            }
            (3, Some((name, entry))) if realm != other_realm && entry.is_file() => {
                let linked = self.lookup(id, &name).and_then(|file| self.ns.link(&CX, file, to, FREE)).map(drop);
                Some((Refused::Border, linked))
            }
            (4, Some((name, _))) => Some((Refused::Exists, self.ns.make(&CX, id, &name, &Make::File, 0o600).map(drop))),
            (5, _) => self.probe_snapshot(&path, id, here),
            _ => None,
        };
        self.give_back();
        let Some((wanted, got)) = probed else { return Ok(()) };
        let right = match (&got, wanted) {
            (Err(Error::CrossRealm(_)), Refused::Border)
            | (Err(Error::NotEmpty(_)), Refused::NotEmpty)
            | (Err(Error::ReadOnly(_)), Refused::ReadOnly)
            | (Err(Error::Exists), Refused::Exists)
            | (Err(Error::NoSpace | Error::Store(StoreError::WouldWait { .. })), _) => true,
            (Err(_), _) => self.ground.is_dead(),
            (Ok(()), _) => false,
        };
        if right { Ok(()) } else { wrong(format!("probe {what} at {path:?} to {other:?}: {got:?}")) }
    }

    /// A directory with snapshots is not removed; a snapshot is not changed.
    fn probe_snapshot(
        &mut self,
        path: &Path,
        id: InodeId,
        here: &OracleDirectory,
    ) -> Option<(Refused, Result<(), Error>)> {
        let volume = self.volume.clone();
        let snapshot = volume.snapshots.iter().find(|(_, (of, _))| **of == *path).map(|(id, _)| *id);
        match snapshot {
            Some(snapshot) if self.random.percent(50) => {
                let name = super::driver::snapshot_name(snapshot);
                let root = self.lookup(id, b".snap").and_then(|list| self.lookup(list, name.as_bytes()));
                let made = root.and_then(|root| self.ns.make(&CX, root, FREE, &Make::File, 0o600)).map(drop);
                Some((Refused::ReadOnly, made))
            }
            _ if snapshot.is_some() || !here.is_empty() => {
                let (name, above) = path.split_last()?;
                let parent = self.resolve(above).ok()?;
                Some((Refused::NotEmpty, self.ns.rmdir(&CX, parent, name_text(*name).as_bytes())))
            }
            _ => None,
        }
    }
}
