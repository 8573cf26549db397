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
    let members = members(own);
    let shown = path.display();
    if let Some(mount) = mount_among(path, &members) {
        return Some(mount);
    }
    let swaps = fs::read("/proc/swaps").unwrap_or_default();
    if let Some(swap) = members.iter().find_map(|(member, _)| swap_on(&swaps, *member)) {
        return Some(format!("{shown} is in use as swap space; first: swapoff {}", swap.display()));
    }
    if let Some(holder) = members.iter().find_map(|(member, _)| holder(*member)) {
        return Some(format!("{shown} is in use by {holder}; stop that first (lsblk shows what it is)"));
    }
    let device = loops_over(own).into_iter().next()?.path;
    Some(format!("{shown} is the backing file of {device}; first: losetup -d {device}"))
}

/// Where the path is mounted, itself or through a loop device over the same bytes, with what to do about it: it must not even be checked then.
#[must_use]
pub fn mount_of(path: &Path) -> Option<String> {
    mount_among(path, &members(identity(path)?))
}

/// What shares bytes with it, and what to say when that is mounted. Loop devices over loop devices are not followed.
fn members(own: Identity) -> Vec<(Identity, &'static str)> {
    const THROUGH: &str = "is, through a loop device, mounted";
    let mut members = vec![(own, "is mounted")];
    let partitions_of = |rdev: u64| {
        partitions(rdev).into_iter().map(|part| (Identity::Device(part), "has a partition that is mounted"))
    };
    match own {
        Identity::Device(rdev) => {
            members.extend(partitions_of(rdev));
            if let Some(own_loop) = LoopDevice::at(&sysfs(rdev))
                && let Some(file) = own_loop.file
            {
                members.push((file, "lies in a file that is mounted"));
                let others =
                    loops_over(file).into_iter().filter(|other| other.rdev != rdev && other.overlaps(&own_loop));
                members.extend(others.map(|other| (Identity::Device(other.rdev), THROUGH)));
            }
        }
        Identity::File(..) => {
            for over in loops_over(own) {
                members.push((Identity::Device(over.rdev), THROUGH));
                members.extend(partitions_of(over.rdev));
            }
        }
    }
    members
}

fn mount_among(path: &Path, members: &[(Identity, &'static str)]) -> Option<String> {
    let mountinfo = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let (at, what) = members.iter().find_map(|(member, what)| Some((mounted_at(&mountinfo, *member)?, what)))?;
    let (shown, at) = (path.display(), at.display());
    Some(format!("{shown} {what} at {at}; unmount it first: umount {at}"))
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
        device_number(&path)
    };
    children.flatten().filter_map(|child| number(child.path())).collect()
}

fn device_number(sysfs: &Path) -> Option<u64> {
    let text = fs::read_to_string(sysfs.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
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

/// A loop device, and the part of a file that it shows.
#[derive(Debug)]
struct LoopDevice {
    path: String,
    rdev: u64,
    file: Option<Identity>,
    offset: u64,
    end: u64,
}

impl LoopDevice {
    fn at(sysfs: &Path) -> Option<Self> {
        let backing = fs::read(sysfs.join("loop/backing_file")).ok()?;
        let number = |name: &str| fs::read_to_string(sysfs.join(name)).ok()?.trim().parse::<u64>().ok();
        let offset = number("loop/offset").unwrap_or(0);
        let limit = number("loop/sizelimit").filter(|limit| *limit > 0);
        let uevent = fs::read_to_string(sysfs.join("uevent")).ok()?;
        let name = uevent.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
        Some(Self {
            path: format!("/dev/{name}"),
            rdev: device_number(sysfs)?,
            file: identity(&backing_file(backing)),
            offset,
            end: limit.map_or(u64::MAX, |limit| offset.saturating_add(limit)),
        })
    }

    const fn overlaps(&self, other: &Self) -> bool {
        self.offset < other.end && other.offset < self.end
    }
}

fn loops_over(wanted: Identity) -> Vec<LoopDevice> {
    let Ok(devices) = fs::read_dir("/sys/block") else { return Vec::new() };
    let loops = devices.flatten().filter_map(|device| LoopDevice::at(&device.path()));
    loops.filter(|device| device.file == Some(wanted)).collect()
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
    fn parts_of_a_file_overlap_where_they_share_bytes() {
        let part = |offset, end| LoopDevice { path: String::new(), rdev: 0, file: None, offset, end };
        assert!(part(0, u64::MAX).overlaps(&part(4096, 8192)) && part(4096, 8192).overlaps(&part(0, u64::MAX)));
        assert!(!part(0, 4096).overlaps(&part(4096, 8192)) && !part(4096, 8192).overlaps(&part(0, 4096)));
    }

    #[test]
    fn swap_files_are_found() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = format!("Filename Type Size Used Priority\n{} file 1 0 -2\n", file.path().display());
        assert!(swap_on(text.as_bytes(), identity(file.path()).unwrap()).is_some());
    }
}
