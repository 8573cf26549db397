//! Changes by path: what scripts are written in, and random ones.

use crate::common::{CX, Random};
use crate::stack::{Tree, at, inside};
use envoyfs_namespace::Namespace;
use envoyfs_namespace::api::*;

/// A namespace and the directory that paths start from.
#[derive(Clone, Copy)]
pub struct Below<'a> {
    pub ns: &'a Namespace,
    pub root: InodeId,
}

impl Below<'_> {
    pub fn make(&self, path: &str, what: &Make<'_>) -> Result<()> {
        inside(self.ns, self.root, path, |parent, name| {
            let made = self.ns.make(&CX, parent, name, what, 0o755)?;
            self.ns.forget(made.id, 1);
            Ok(())
        })
    }
    pub fn write(&self, path: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        at(self.ns, self.root, path, |id| self.ns.write(&CX, id, offset, bytes).map(drop))
    }
    pub fn set(&self, path: &str, set: SetAttributes) -> Result<()> {
        at(self.ns, self.root, path, |id| self.ns.setattr(&CX, id, &set).map(drop))
    }
    pub fn truncate(&self, path: &str, size: u64) -> Result<()> {
        self.set(path, SetAttributes { size: Some(size), ..SetAttributes::default() })
    }
    pub fn xattr(&self, path: &str, name: &str, value: Option<&[u8]>) -> Result<()> {
        at(self.ns, self.root, path, |id| match value {
            Some(value) => self.ns.setxattr(&CX, id, name.as_bytes(), value, XattrMode::Any),
            None => self.ns.removexattr(&CX, id, name.as_bytes()),
        })
    }
    pub fn rename(&self, from: &str, to: &str, mode: RenameMode) -> Result<()> {
        inside(self.ns, self.root, from, |parent, name| {
            inside(self.ns, self.root, to, |to, new| self.ns.rename(&CX, parent, name, to, new, mode))
        })
    }
    pub fn link(&self, from: &str, to: &str) -> Result<()> {
        at(self.ns, self.root, from, |id| {
            inside(self.ns, self.root, to, |parent, name| {
                let linked = self.ns.link(&CX, id, parent, name)?;
                self.ns.forget(linked.id, 1);
                Ok(())
            })
        })
    }
    pub fn fork(&self, from: &str, to: &str) -> Result<()> {
        at(self.ns, self.root, from, |id| {
            inside(self.ns, self.root, to, |parent, name| {
                let made = self.ns.fork(&CX, id, parent, name)?;
                self.ns.forget(made.id, 1);
                Ok(())
            })
        })
    }
    pub fn snapshot(&self, path: &str, name: &str) -> Result<()> {
        at(self.ns, self.root, path, |id| {
            let made = self.ns.snapshot(&CX, id, name.as_bytes())?;
            self.ns.forget(made.id, 1);
            Ok(())
        })
    }
    pub fn delete_snapshot(&self, path: &str, name: &str) -> Result<()> {
        at(self.ns, self.root, path, |id| self.ns.delete_snapshot(&CX, id, name.as_bytes()))
    }
    pub fn unlink(&self, path: &str) -> Result<()> {
        inside(self.ns, self.root, path, |parent, name| self.ns.unlink(&CX, parent, name))
    }
    pub fn rmdir(&self, path: &str) -> Result<()> {
        inside(self.ns, self.root, path, |parent, name| self.ns.rmdir(&CX, parent, name))
    }
    pub fn delete_tree(&self, path: &str) -> Result<()> {
        inside(self.ns, self.root, path, |parent, name| self.ns.delete_tree(&CX, parent, name))
    }
}

/// Whether an error means that the store is gone, and not that an operation was refused.
pub fn is_fatal(error: &Error) -> bool {
    matches!(error, Error::Store(_) | Error::ReadOnly(_))
}

/// One random change, each of which is one record that shows. `tree` is what there is. What is refused (EXDEV, not empty, ...) is no matter.
pub fn random_change(below: Below<'_>, random: &mut Random, tree: &Tree) -> Result<()> {
    let own = |path: &&String| !path.contains("/.snap/");
    let of =
        |file_type: FileType| tree.iter().filter(move |(_, seen)| seen.file_type == file_type).map(|(path, _)| path);
    let files: Vec<&String> = of(FileType::Regular).filter(own).collect();
    let below_root: Vec<&String> = of(FileType::Directory).filter(own).collect();
    let snapshots: Vec<(&str, &str)> = of(FileType::Directory)
        .filter_map(|path| path.split_once("/.snap/"))
        .filter(|(_, name)| !name.contains('/'))
        .collect();
    let pick = |random: &mut Random, from: &[&String]| {
        from.get(random.below(from.len())).map_or_else(String::new, |path| (*path).clone())
    };
    let directory = |random: &mut Random| if random.below(3) == 0 { String::new() } else { pick(random, &below_root) };
    let name = |random: &mut Random| format!("{}/n{}", directory(random), random.below(24));
    let what = random.below(if files.len() > 60 { 34 } else { 26 });
    let result = match what {
        0..=2 => below.make(&name(random), &Make::File),
        3 => below.make(&name(random), &Make::Directory),
        4 => below.make(&name(random), &Make::Symlink(b"some/where")),
        5..=11 if !files.is_empty() => {
            let length = [1, 60, 300, 4096, 5000, 12_288, 40_000][random.below(7)];
            let offset = [0, 0, 1, 4096, 8192, 10_000][random.below(6)];
            below.write(&pick(random, &files), offset, &random.bytes(length))
        }
        12 if !files.is_empty() => {
            let size = [0, 1, 100, 4096, 9000, 30_000][random.below(6)];
            below.truncate(&pick(random, &files), size)
        }
        13 if !files.is_empty() => below.xattr(&pick(random, &files), "user.note", Some(&random.bytes(20))),
        14 => {
            let permissions = Some(0o700 + random.below(0o77) as u16);
            below.set(&directory(random), SetAttributes { permissions, ..SetAttributes::default() })
        }
        15..=17 => {
            let from = if random.below(2) == 0 { pick(random, &files) } else { pick(random, &below_root) };
            let to = if random.below(3) == 0 { pick(random, &files) } else { name(random) };
            let mode = if random.below(5) == 0 { RenameMode::Exchange } else { RenameMode::Replace };
            if from.is_empty() || to.is_empty() { Ok(()) } else { below.rename(&from, &to, mode) }
        }
        18 | 19 if !files.is_empty() => below.link(&pick(random, &files), &name(random)),
        20 if !files.is_empty() && random.below(2) == 0 => below.fork(&pick(random, &files), &name(random)),
        20 | 21 if !below_root.is_empty() && files.len() < 60 => below.fork(&pick(random, &below_root), &name(random)),
        22 if snapshots.len() < 4 => below.snapshot(&directory(random), &format!("s{}", random.below(6))),
        23 if !snapshots.is_empty() => {
            let (directory, name) = snapshots[random.below(snapshots.len())];
            if random.below(2) == 0 {
                below.delete_snapshot(directory, name)
            } else {
                below.fork(&format!("{directory}/.snap/{name}"), &self::name_of(random))
            }
        }
        24 | 26..=29 if !files.is_empty() => below.unlink(&pick(random, &files)),
        25 | 30..=33 if !below_root.is_empty() => {
            let path = pick(random, &below_root);
            if random.below(3) == 0 { below.rmdir(&path) } else { below.delete_tree(&path) }
        }
        _ => Ok(()),
    };
    match result {
        Err(error) if is_fatal(&error) => Err(error),
        _ => Ok(()),
    }
}

fn name_of(random: &mut Random) -> String {
    format!("/n{}", random.below(24))
}
