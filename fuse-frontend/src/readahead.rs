//! How far the kernel reads ahead on our mount. INIT can only lower it below the kernel's 128 KiB; the block-device-information entry of the mount can raise it.

use std::fs;
use std::path::Path;

/// Bytes read ahead, in KiB: several requests in flight, each small enough that the first answers soon (FUSE.md 4: 1 MiB was slower than 128 KiB with a server that copies).
pub const READ_AHEAD_KIB: u32 = 512;

/// Raises the readahead of the mount at this path. Looks only into mountinfo and sysfs: the mount itself is never touched by its daemon. Says whether it could; who is not root
/// cannot.
pub fn raise(mount_point: &Path) -> bool {
    let Ok(mountinfo) = fs::read_to_string("/proc/self/mountinfo") else { return false };
    let Some(device) = device_of(&mountinfo, mount_point) else { return false };
    fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), READ_AHEAD_KIB.to_string()).is_ok()
}

/// `major:minor` of the last mount at a path. Names with spaces are escaped in mountinfo and not found here; they keep the kernel's readahead.
fn device_of<'a>(mountinfo: &'a str, mount_point: &Path) -> Option<&'a str> {
    let at = |line: &'a str| {
        let mut fields = line.split(' ');
        let device = fields.nth(2)?;
        (fields.nth(1)? == mount_point.to_str()?).then_some(device)
    };
    mountinfo.lines().rev().find_map(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_of_the_topmost_mount_is_found() {
        let mountinfo = "36 35 98:0 / /mnt rw - ext4 /dev/a rw\n40 35 0:51 / /mnt rw shared:1 - fuse.envoyfs img rw\n41 35 0:52 / /mnt/b rw - tmpfs x rw\n";
        assert_eq!(device_of(mountinfo, Path::new("/mnt")), Some("0:51"));
        assert_eq!(device_of(mountinfo, Path::new("/mn")), None);
    }
}
