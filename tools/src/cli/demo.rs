//! The demonstration of `envoyfs up --demo`: copies a real tree, forks it, changes one side, compares. Every number is measured as it is printed.

use super::control::{Directory, explain, open_directory, open_reference};
use crate::mkfs::size::Size;
use crate::output;
use anyhow::{Context as _, Result, ensure};
use envoyfs_engine::hlc::{Clock as _, SystemClock};
use envoyfs_fuse::control::client;
use rustix::fs::fstat;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Directories of a source tree that are results, not source.
const SKIPPED: [&str; 3] = ["target", ".git", "node_modules"];

#[derive(Default)]
struct Tree {
    directories: Vec<PathBuf>,
    files: Vec<PathBuf>,
    bytes: u64,
}

/// Runs it in a new directory of the mount, and leaves the result there to be looked at.
pub fn run(mount_point: &Path, source: Option<&Path>) -> Result<()> {
    let clock = SystemClock::new();
    let source = match source {
        Some(source) => source.to_path_buf(),
        None => std::env::current_dir().context("the current directory is gone")?,
    };
    ensure!(!source.starts_with(mount_point), "the demonstration copies a tree from outside of the mount");
    let place = new_directory(mount_point)?;
    let directory = open_directory(&place)?;
    let tree = scan(&source)?;
    ensure!(!tree.files.is_empty(), "{} holds no files; name a tree with --demo-source", source.display());

    let original = place.join("source");
    let took = timed(&clock, || copy(&source, &tree, &original))?;
    sync(&directory)?;
    say(&format!("copied {} ({} files, {})", source.display(), tree.files.len(), Size(tree.bytes)), took)?;

    let before = live(&place)?;
    let fork = place.join("fork");
    let held = open_reference(&original)?;
    let inode = fstat(&held)?.st_ino;
    let what = || format!("forking {} to {}", original.display(), fork.display());
    let took =
        timed(&clock, || client::fork(&directory.descriptor, inode, b"fork").map_err(|error| explain(what(), error)))?;
    say("forked it: a writable copy of every file", took)?;
    let took = timed(&clock, || Ok(fs::create_dir(original.join(".snap").join("before"))?))?;
    say("took a snapshot of it: source/.snap/before", took)?;

    let victim = tree.files.first().context("no file")?;
    let mut file = fs::OpenOptions::new().append(true).open(fork.join(victim))?;
    file.write_all(b"changed in the fork only\n")?;
    let removed = tree.files.last().filter(|last| *last != victim);
    if let Some(removed) = removed {
        fs::remove_file(fork.join(removed))?;
    }
    file.sync_all()?;
    drop(file);
    output::line(format_args!(
        "  changed the fork: appended to {}{}",
        victim.display(),
        removed.map(|path| format!(", removed {}", path.display())).unwrap_or_default()
    ))?;

    for (name, path) in [("source", original.clone()), ("source/.snap/before", original.join(".snap").join("before"))] {
        let mut differing = 0;
        let took = timed(&clock, || {
            differing = count_differing(&source, &tree, &path);
            Ok(())
        })?;
        ensure!(differing == 0, "{differing} of {} files in {name} differ from what was copied", tree.files.len());
        say(&format!("compared {name} with what was copied: all {} files are the same", tree.files.len()), took)?;
    }
    let differing = count_differing(&source, &tree, &fork);
    output::line(format_args!("  compared the fork: {differing} differ, as they should"))?;
    sync(&directory)?;
    let after = live(&place)?;
    output::line(format_args!(
        "  space: {} with one tree; its snapshot and its changed fork add {}",
        Size(before),
        Size(after.saturating_sub(before))
    ))?;
    output::line(format_args!("  look at it in {}", place.display()))?;
    Ok(())
}

fn say(what: &str, took: Duration) -> std::io::Result<()> {
    let micros = took.as_micros();
    if micros < 100_000 {
        output::line(format_args!("  {what}: {}.{:02} ms", micros / 1000, micros % 1000 / 10))
    } else {
        output::line(format_args!("  {what}: {}.{:02} s", micros / 1_000_000, micros % 1_000_000 / 10_000))
    }
}

fn timed(clock: &SystemClock, act: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = clock.wall_ns();
    act()?;
    Ok(Duration::from_nanos(u64::try_from(clock.wall_ns() - start).unwrap_or(0)))
}

/// Everything durable and in a checkpoint, so that the space shown is that of stored trees.
fn sync(directory: &Directory) -> Result<()> {
    client::unmount_prepare(&directory.descriptor).map_err(|error| explain("syncing".into(), error))
}

fn live(place: &Path) -> Result<u64> {
    Ok(open_directory(place)?.status.live.get())
}

fn new_directory(mount_point: &Path) -> Result<PathBuf> {
    for number in 1..1000 {
        let path = mount_point.join(format!("demo-{number}"));
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot create {}", path.display())),
        }
    }
    anyhow::bail!("{} holds a thousand demonstrations; delete some: envoyfs delete {0}/demo-1", mount_point.display())
}

/// Regular files and directories below, by paths relative to it.
fn scan(source: &Path) -> Result<Tree> {
    let mut tree = Tree::default();
    let mut stack = vec![PathBuf::new()];
    while let Some(directory) = stack.pop() {
        let path = source.join(&directory);
        let mut entries: Vec<_> = fs::read_dir(&path)
            .with_context(|| format!("cannot list {}", path.display()))?
            .collect::<Result<_, _>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let (name, kind) = (entry.file_name(), entry.file_type()?);
            let path = directory.join(&name);
            if kind.is_dir() && !SKIPPED.iter().any(|skipped| name == *skipped) {
                stack.push(path);
            } else if kind.is_file() {
                tree.bytes += entry.metadata()?.len();
                tree.files.push(path);
            }
        }
        tree.directories.push(directory);
    }
    Ok(tree)
}

fn copy(source: &Path, tree: &Tree, target: &Path) -> Result<()> {
    for directory in &tree.directories {
        fs::create_dir(target.join(directory))?;
    }
    for file in &tree.files {
        fs::copy(source.join(file), target.join(file)).with_context(|| format!("copying {}", file.display()))?;
    }
    Ok(())
}

fn count_differing(source: &Path, tree: &Tree, target: &Path) -> usize {
    let same = |file: &PathBuf| match (fs::read(source.join(file)), fs::read(target.join(file))) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    };
    tree.files.iter().filter(|file| !same(file)).count()
}
