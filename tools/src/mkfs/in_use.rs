//! Who uses a device or image file now: mounts, swap, loop devices, RAID and device mapper, partitions of it.
//!
//! Owns the reading of `/proc` and `/sys`, so that a refusal can name the mount point or the holder. It is not the guard: that is the exclusive open (`O_EXCL`,
//! `flock`) of the engine's device, which follows.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// What identifies a block device or a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Identity {
    /// Device number.
    Device(u64),
    /// File system and inode.
    File(u64, u64),
}

fn identity(path: &Path) -> Option<Identity> {
    let metadata = fs::metadata(path).ok()?;
    Some(if metadata.file_type().is_block_device() {
        Identity::Device(metadata.rdev())
    } else {
        Identity::File(metadata.dev(), metadata.ino())
    })
}

/// Why the path must not be written to, with what to do about it; `None` when nobody uses it.
#[must_use]
pub fn user_of(path: &Path) -> Option<String> {
    let own = identity(path)?;
    let mut members = vec![own];
    if let Identity::Device(rdev) = own {
        members.extend(partitions(rdev).into_iter().map(Identity::Device));
        members.extend(
            fs::read(sysfs(rdev).join("loop/backing_file")).ok().and_then(|text| identity(&backing_file(text))),
        );
    }
    let shown = path.display();
    let mountinfo = fs::read("/proc/self/mountinfo").unwrap_or_default();
    if let Some((member, at)) = members.iter().find_map(|member| Some((member, mounted_at(&mountinfo, *member)?))) {
        let at = at.display();
        let what = match member {
            Identity::File(..) if *member != own => "lies in a file that is mounted",
            _ if *member != own => "has a partition that is mounted",
            _ => "is mounted",
        };
        return Some(format!("{shown} {what} at {at}; unmount it first: umount {at}"));
    }
    let swaps = fs::read("/proc/swaps").unwrap_or_default();
    if let Some(swap) = members.iter().find_map(|member| swap_on(&swaps, *member)) {
        return Some(format!("{shown} is in use as swap space; first: swapoff {}", swap.display()));
    }
    if let Some(holder) = members.iter().find_map(|member| holder(*member)) {
        return Some(format!("{shown} is in use by {holder}; stop that first (lsblk shows what it is)"));
    }
    loop_device_on(own).map(|device| format!("{shown} is the backing file of {device}; first: losetup -d {device}"))
}

/// Where something is mounted, if it is.
#[must_use]
pub fn mount_point_of(path: &Path) -> Option<PathBuf> {
    mounted_at(&fs::read("/proc/self/mountinfo").ok()?, identity(path)?)
}

/// `36 35 98:0 /root /mount/point options tags - type source superoptions`
fn mounted_at(mountinfo: &[u8], wanted: Identity) -> Option<PathBuf> {
    mountinfo.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let device = fields.nth(2)?;
        let point = fields.nth(1)?;
        let source = fields.skip_while(|field| *field != b"-").nth(2)?;
        let by_number = match wanted {
            Identity::Device(rdev) => device == format!("{}:{}", major(rdev), minor(rdev)).as_bytes(),
            Identity::File(..) => false,
        };
        // By number is not enough: btrfs and FUSE mounts have device numbers of their own.
        let by_source = source.starts_with(b"/") && identity(&unescaped(source)) == Some(wanted);
        (by_number || by_source).then(|| unescaped(point))
    })
}

/// `/dev/sda2  partition  size  used  priority`, after a line of headings.
fn swap_on(swaps: &[u8], wanted: Identity) -> Option<PathBuf> {
    swaps.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
        let path = unescaped(line.split(|byte| *byte == b' ').next()?);
        (identity(&path) == Some(wanted)).then_some(path)
    })
}

fn sysfs(rdev: u64) -> PathBuf {
    PathBuf::from(format!("/sys/dev/block/{}:{}", major(rdev), minor(rdev)))
}

fn partitions(rdev: u64) -> Vec<u64> {
    let Ok(children) = fs::read_dir(sysfs(rdev)) else { return Vec::new() };
    let number = |path: PathBuf| {
        path.join("partition").exists().then_some(())?;
        let text = fs::read_to_string(path.join("dev")).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
    };
    children.flatten().filter_map(|child| number(child.path())).collect()
}

/// Device mapper, md and bcache devices on top.
fn holder(member: Identity) -> Option<String> {
    let Identity::Device(rdev) = member else { return None };
    let first = fs::read_dir(sysfs(rdev).join("holders")).ok()?.flatten().next()?;
    Some(format!("/dev/{}", first.file_name().to_string_lossy()))
}

/// What `/sys` says ends with a newline.
fn backing_file(mut text: Vec<u8>) -> PathBuf {
    text.pop_if(|last| *last == b'\n');
    PathBuf::from(OsString::from_vec(text))
}

fn loop_device_on(wanted: Identity) -> Option<String> {
    fs::read_dir("/sys/block").ok()?.flatten().find_map(|device| {
        let backing = fs::read(device.path().join("loop/backing_file")).ok()?;
        (identity(&backing_file(backing)) == Some(wanted))
            .then(|| format!("/dev/{}", device.file_name().to_string_lossy()))
    })
}

/// The kernel writes space, tab, newline and backslash in these files as `\040` and so on.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        if let [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] = rest {
            out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = after;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

fn major(rdev: u64) -> u32 {
    rustix::fs::major(rdev)
}

fn minor(rdev: u64) -> u32 {
    rustix::fs::minor(rdev)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_device_number_and_by_source() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("an image");
        fs::write(&image, b"x").unwrap();
        let escaped = image.to_str().unwrap().replace(' ', "\\040");
        let text = format!(
            "22 1 8:3 / / rw shared:1 - ext4 /dev/sda3 rw\n40 22 0:55 / /mnt/my\\040dir rw - fuse.envoyfs {escaped} rw\n"
        );
        assert_eq!(mounted_at(text.as_bytes(), Identity::Device(rustix::fs::makedev(8, 3))), Some("/".into()));
        assert_eq!(mounted_at(text.as_bytes(), Identity::Device(rustix::fs::makedev(8, 4))), None);
        assert_eq!(mounted_at(text.as_bytes(), identity(&image).unwrap()), Some("/mnt/my dir".into()));
    }

    #[test]
    fn the_root_file_systems_device_is_in_use() {
        let text = fs::read("/proc/self/mountinfo").unwrap();
        let line = text.split(|b| *b == b'\n').find(|line| line.split(|b| *b == b' ').nth(4) == Some(b"/")).unwrap();
        let number = String::from_utf8(line.split(|b| *b == b' ').nth(2).unwrap().to_vec()).unwrap();
        let (major, minor) = number.split_once(':').unwrap();
        let device = rustix::fs::makedev(major.parse().unwrap(), minor.parse().unwrap());
        assert_eq!(mounted_at(&text, Identity::Device(device)).unwrap(), PathBuf::from("/"));
    }

    #[test]
    fn a_plain_file_is_not_in_use() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(user_of(file.path()), None);
    }

    #[test]
    fn swap_files_are_found() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = format!("Filename Type Size Used Priority\n{} file 1 0 -2\n", file.path().display());
        assert!(swap_on(text.as_bytes(), identity(file.path()).unwrap()).is_some());
    }
}
