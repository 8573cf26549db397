//! `mount -t envoyfs` finds and understands the helper. In a mount namespace of its own, with a folder laid over /usr/sbin: nothing of the machine changes. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

#[allow(dead_code, reason = "what other test files use of it")]
mod common;

use common::{Images, fsck, run};
use std::path::Path;

/// mount(8) looks for helpers in /sbin alone.
const SCRIPT: &str = r#"
set -e
mount --make-rprivate /
mkdir upper work mnt
mount -t overlay overlay -o lowerdir=/usr/sbin,upperdir=upper,workdir=work /usr/sbin 2>/dev/null || { echo SKIPPED; exit 0; }
ln -s "$HELPER" /sbin/mount.envoyfs
mount -t envoyfs -o noatime,nofail,log=daemon.log "$STORE" mnt
echo hello > mnt/file
findmnt -n -o SOURCE,FSTYPE mnt
"$ENVOYFS" umount mnt
mount -t envoyfs -r "$STORE" mnt
cat mnt/file
! touch mnt/other 2>/dev/null
"$ENVOYFS" umount mnt
"#;

#[test]
fn mount_t_envoyfs_mounts_through_the_helper() {
    let is_root = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0;
    if !is_root || !Path::new("/dev/fuse").exists() || !Path::new("/sbin").exists() {
        common::skip("mount helper: needs root and /dev/fuse");
        return;
    }
    let images = Images::new();
    let store = images.store("store.img");
    let folder = images.path("");
    let variables = format!(
        "cd '{folder}'; export STORE='{store}' HELPER='{}' ENVOYFS='{}'",
        env!("CARGO_BIN_EXE_mount-envoyfs"),
        env!("CARGO_BIN_EXE_envoyfs")
    );
    let script = format!("{variables}\n{SCRIPT}");
    let answer = run("timeout", &["-k", "5", "60", "unshare", "--mount", "sh", "-c", &script]);
    if answer.stdout.contains("SKIPPED") {
        common::cannot("mount helper: no overlay mounts here");
        return;
    }
    assert_eq!(answer.code, 0, "{answer:?}");
    assert!(answer.stdout.contains("fuse.envoyfs") && answer.stdout.ends_with("hello\n"), "{answer:?}");
    let checked = fsck(&["-fn", &store]);
    assert_eq!(checked.code, 0, "{checked:?}");
}
