//! Mounts, from mountinfo: a mount is never touched to find out whether it is one, since its daemon may be gone.

use envoyfs_fuse::mount_point::MOUNT_TYPE;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub at: PathBuf,
    /// Of this type.
    pub kind: String,
    /// Of this device or file, if the type has one.
    pub source: PathBuf,
}

impl Mount {
    /// Whether it is a store.
    pub fn is_envoyfs(&self) -> bool {
        self.kind == MOUNT_TYPE
    }
}

/// All mounts that this process sees, in the order they were made.
pub fn all() -> std::io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The mount that is on top at exactly this path.
pub fn at<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts.iter().rev().find(|mount| mount.at == path)
}

/// The first mount strictly below a path.
pub fn below<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts.iter().find(|mount| mount.at != path && mount.at.starts_with(path))
}

fn parse(mountinfo: &[u8]) -> Vec<Mount> {
    mountinfo
        .split(|&byte| byte == b'\n')
        .filter_map(|line| {
            // id, parent, device, root, mount point, options, optional fields, "-", type, source, options
            let mut fields = line.split(|&byte| byte == b' ');
            let at = PathBuf::from(OsString::from_vec(unescape(fields.nth(4)?)));
            let mut behind = fields.skip_while(|field| *field != b"-").skip(1);
            let kind = String::from_utf8_lossy(behind.next()?).into_owned();
            let source = PathBuf::from(OsString::from_vec(unescape(behind.next().unwrap_or_default())));
            Some(Mount { at, kind, source })
        })
        .collect()
}

/// Spaces and the like are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) if byte == b'\\' => {
                out.push(escaped);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &[u8] = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        40 22 0:45 / /mnt/a\\040b rw,nosuid shared:9 master:2 - fuse.envoyfs /img rw,user_id=0\n\
        41 40 0:46 / /mnt/a\\040b/x rw - tmpfs tmpfs rw\n";

    #[test]
    fn mountinfo_lines_are_taken_apart_whatever_optional_fields_they_have() {
        let mounts = parse(SAMPLE);
        assert_eq!(mounts.len(), 3);
        let store = at(&mounts, Path::new("/mnt/a b")).unwrap();
        assert!(store.is_envoyfs());
        assert_eq!(store.source, Path::new("/img"));
        assert!(!at(&mounts, Path::new("/")).unwrap().is_envoyfs());
        assert_eq!(at(&mounts, Path::new("/mnt")), None);
    }

    #[test]
    fn mounts_below_a_path_are_found_by_whole_names() {
        let mounts = parse(SAMPLE);
        assert_eq!(below(&mounts, Path::new("/mnt/a b")).unwrap().at, Path::new("/mnt/a b/x"));
        assert_eq!(below(&mounts, Path::new("/mnt/a")), None);
    }
}
