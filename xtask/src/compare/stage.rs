//! The two file systems, mounted side by side, and their end.

use super::System;
use crate::stage::{Cleaner, call, require};
use anyhow::Context;
use std::path::{Path, PathBuf};

/// `$1` directory of images and mount points, `$2` the envoyfs program.
const CLEANER: &str = r#"
umount "$1/ext4" 2> /dev/null || umount -l "$1/ext4" 2> /dev/null
"$2" umount "$1/envoyfs" 2> /dev/null || umount -l "$1/envoyfs" 2> /dev/null
for device in $(losetup -n -O NAME -j "$1/ext4.img" 2> /dev/null); do losetup -d "$device"; done
rm -f "$1/ext4.img" "$1/envoyfs.img"
rmdir "$1/ext4" "$1/envoyfs" "$1"
"#;

/// Both mounts. Dropping it unmounts and removes.
pub struct Stage {
    directory: PathBuf,
    envoyfs: PathBuf,
    cleaner: Cleaner,
}

impl Stage {
    /// Makes and mounts both, in a new directory.
    pub fn build(parent: &Path, binaries: &Path, image_mib: u64) -> anyhow::Result<Self> {
        require(&["mkfs.ext4", "losetup", "mount", "umount"], "e2fsprogs mount")?;
        let directory = parent.join(format!("envoyfs-compare-{}", std::process::id()));
        std::fs::create_dir(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let envoyfs = binaries.join("envoyfs");
        let cleaner = Cleaner::start(CLEANER, &[&directory, &envoyfs])?;
        let stage = Self { directory, envoyfs, cleaner };
        for name in ["ext4", "envoyfs"] {
            std::fs::create_dir(stage.directory.join(name))?;
        }
        stage.mount_ext4(image_mib)?;
        stage.mount_envoyfs(binaries, image_mib)?;
        Ok(stage)
    }

    fn mount_ext4(&self, image_mib: u64) -> anyhow::Result<()> {
        let image = self.path("ext4.img");
        call("fallocate", &["-l", &format!("{image_mib}MiB"), &image])?;
        let device = call("losetup", &["--find", "--show", "--direct-io=on", &image])?;
        let device = device.trim();
        // Written now, not by a thread of the kernel while the others measure.
        call("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", device])?;
        call("mount", &[device, &self.path("ext4")]).map(drop)
    }

    fn mount_envoyfs(&self, binaries: &Path, image_mib: u64) -> anyhow::Result<()> {
        let image = self.path("envoyfs.img");
        call(&binaries.join("mkfs-envoyfs").display().to_string(), &["--size", &format!("{image_mib}MiB"), &image])?;
        call(&self.envoyfs.display().to_string(), &["mount", &image, &self.path("envoyfs")]).map(drop)
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// Where it is mounted.
    pub fn mount_point(&self, system: System) -> PathBuf {
        self.directory.join(match system {
            System::Ext4 => "ext4",
            System::Envoyfs => "envoyfs",
        })
    }

    /// A copy of a tree, as each of them does it best.
    pub fn fork(&self, system: System, source: &Path, target: &Path) -> anyhow::Result<()> {
        let (source, target) = (source.display().to_string(), target.display().to_string());
        match system {
            System::Ext4 => call("cp", &["-a", "--reflink=auto", &source, &target]),
            System::Envoyfs => call(&self.envoyfs.display().to_string(), &["fork", &source, &target]),
        }
        .map(drop)
    }

    /// Takes away what a workload left, and waits until that is done.
    pub fn remove(&self, system: System, directory: &Path) -> anyhow::Result<()> {
        std::fs::remove_dir_all(directory).with_context(|| format!("removing {}", directory.display()))?;
        if system == System::Ext4 {
            return call("sync", &["-f", &self.path("ext4")]).map(drop);
        }
        call(&self.envoyfs.display().to_string(), &["sync", &self.path("envoyfs")]).map(drop)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.cleaner.finish() {
            eprintln!("xtask: look at {}: something of it could not be removed", self.directory.display());
        }
    }
}
