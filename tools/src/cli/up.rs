//! `envoyfs up`: from nothing to a mounted store in one command.

use super::control::open_directory;
use super::demo;
use super::mounts;
use crate::mkfs::size::Size;
use crate::mkfs::{Plan, Request, size_of};
use crate::output;
use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use envoyfs_engine::device::{OpenMode, UringDevice};
use envoyfs_engine::superblock;
use std::path::{Path, PathBuf};
use std::process::Command;

const SIZE_DEFAULT: Size = Size(2 << 30);

/// Arguments.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Image file; created and formatted if it does not exist. Or a block device with a store.
    image: PathBuf,
    /// Directory to mount it on; created if it does not exist.
    directory: PathBuf,
    /// Size of an image that is created; 2GiB unless given.
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    size: Option<Size>,
    /// Then copy a source tree, fork it, change one side, and show time and space.
    #[arg(long)]
    demo: bool,
    /// Tree that the demonstration copies; the current directory otherwise.
    #[arg(long, value_name = "DIR", requires = "demo")]
    demo_source: Option<PathBuf>,
}

impl Arguments {
    /// Creates what is missing, mounts, and says what to try.
    pub fn run(self) -> Result<()> {
        let Self { image, directory, size, demo, demo_source } = self;
        refuse_another_size(&image, size)?;
        if mounted_here(&image, &directory)? {
            output::line(format_args!("{} is mounted on {} already", image.display(), directory.display()))?;
        } else {
            // First what leaves nothing behind when it fails: an image is large.
            let is_new = !directory.exists();
            std::fs::create_dir_all(&directory)
                .with_context(|| format!("cannot create the mount point {}", directory.display()))?;
            if let Err(error) = make(&image, size.unwrap_or(SIZE_DEFAULT)).and_then(|()| mount(&image, &directory)) {
                if is_new {
                    // Only if nothing is mounted there, and nobody has put anything into it.
                    let _ = std::fs::remove_dir(&directory);
                }
                return Err(error);
            }
            output::line(format_args!("{} is mounted on {}", image.display(), directory.display()))?;
        }
        if demo {
            demo::run(&directory, demo_source.as_deref())?;
        }
        let program = std::env::args().next().unwrap_or_else(|| "envoyfs".into());
        let at = directory.display();
        output::line("\nTry:")?;
        for (command, what) in [
            (format!("fork {at}/DIR {at}/COPY"), "a writable copy of any directory, at once"),
            (format!("snapshot {at}/DIR NAME"), "then: ls DIR/.snap/NAME"),
            (format!("delete {at}/COPY"), "a fork or directory with all that is in it, at once"),
            (format!("status {at}"), "space and activity"),
            (format!("umount {at}"), "makes everything durable and ends the daemon"),
        ] {
            output::line(format_args!("  {program} {command:40} # {what}"))?;
        }
        Ok(())
    }
}

/// What is there keeps its size.
fn refuse_another_size(image: &Path, size: Option<Size>) -> Result<()> {
    let (Some(size), Ok(file)) = (size, std::fs::File::open(image)) else { return Ok(()) };
    let own = Size(size_of(&file).with_context(|| format!("cannot tell the size of {}", image.display()))?);
    let same = own.0 & !4095 == size.0 & !4095;
    ensure!(
        same,
        "{} exists and has {own}; --size {size} is for an image that is made (mkfs.envoyfs -f makes it anew)",
        image.display()
    );
    Ok(())
}

fn mounted_here(image: &Path, directory: &Path) -> Result<bool> {
    let Ok(directory) = directory.canonicalize() else { return Ok(false) };
    let all = mounts::all().context("reading /proc/self/mountinfo")?;
    let Some(mount) = mounts::at(&all, &directory) else { return Ok(false) };
    let at = directory.display();
    ensure!(mount.is_envoyfs(), "something else is mounted on {at}; choose another directory");
    open_directory(&directory)?;
    let mounted = crate::mkfs::in_use::mount_point_of(image);
    ensure!(mounted.as_deref() == Some(&*directory), "another store is mounted on {at}; choose another directory");
    Ok(true)
}

/// Formats the image unless there is a store in it. What is anything else is refused, as by mkfs.envoyfs.
fn make(image: &Path, size: Size) -> Result<()> {
    if image.exists() {
        if let Some(user) = crate::mkfs::in_use::user_of(image) {
            bail!("{user}");
        }
        let device = UringDevice::open(image, OpenMode::ReadOnly, false)?;
        superblock::open(&device)?;
        return Ok(());
    }
    let made = Plan::check(Request::new(image.to_path_buf(), Some(size)))?.write()?;
    output::line(made).context("the image was made, but that cannot be printed")
}

/// In a process of its own, which becomes the daemon.
fn mount(image: &Path, directory: &Path) -> Result<()> {
    let status = Command::new("/proc/self/exe")
        .arg("mount")
        .arg(image)
        .arg(directory)
        .status()
        .context("cannot start the daemon from /proc/self/exe (is /proc mounted?)")?;
    ensure!(status.success(), "mounting {} failed", image.display());
    Ok(())
}
