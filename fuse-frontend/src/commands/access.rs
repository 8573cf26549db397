//! Permission bits, as the kernel would judge them for a caller without capabilities.

use crate::front::Caller;
use envoyfs_namespace::api::Attributes;

/// Wanted rights, as in one octal digit of a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access(u16);

impl Access {
    /// To add and remove names of a directory.
    pub const WRITE_AND_SEARCH: Self = Self(0o3);
}

/// Whether the permission bits give the caller these rights. Root may everything.
pub fn may(caller: Caller, attributes: &Attributes, wanted: Access) -> bool {
    if caller.uid == 0 {
        return true;
    }
    let shift = if caller.uid == attributes.uid {
        6
    } else if caller.gid == attributes.gid || supplementary_groups(caller.pid).contains(&attributes.gid) {
        3
    } else {
        0
    };
    (attributes.permissions >> shift) & wanted.0 == wanted.0
}

/// Supplementary groups of a thread; none when it is not visible here (another pid namespace).
fn supplementary_groups(pid: u32) -> Vec<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    parse_groups(&status)
}

fn parse_groups(status: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    line.split_whitespace().filter_map(|group| group.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use envoyfs_namespace::api::{FileType, InodeId, Time};

    fn directory(permissions: u16) -> Attributes {
        Attributes {
            id: InodeId(2),
            generation: 0,
            file_type: FileType::Directory,
            permissions,
            nlink: 2,
            uid: 10,
            gid: 20,
            rdev: 0,
            size: 0,
            allocated: 0,
            atime: Time::default(),
            mtime: Time::default(),
            ctime: Time::default(),
            btime: Time::default(),
        }
    }

    #[test]
    fn the_first_class_that_applies_decides() {
        let may =
            |uid, gid, permissions| may(Caller { uid, gid, pid: 0 }, &directory(permissions), Access::WRITE_AND_SEARCH);
        assert!(may(0, 0, 0o000));
        assert!(may(10, 99, 0o300));
        assert!(!may(10, 20, 0o077), "the owner is judged as the owner");
        assert!(may(11, 20, 0o030));
        assert!(!may(11, 20, 0o303), "a member of the group is judged as such");
        assert!(may(11, 21, 0o003));
        assert!(!may(11, 21, 0o001));
        assert!(!may(11, 21, 0o002));
    }

    #[test]
    fn supplementary_groups_are_read_from_the_status_file() {
        assert_eq!(parse_groups("Name:\tx\nGroups:\t4 24 1000 \nVmPeak:\t1"), [4, 24, 1000]);
        assert_eq!(parse_groups("Name:\tx\nGroups:\t \n"), [0_u32; 0]);
        assert_eq!(parse_groups(""), [0_u32; 0]);
    }
}
