//! What else may lie on a device: only to say it in an error message before somebody formats over it.

/// Name of what the first bytes of a device look like. `head` should be the first 128 KiB.
#[must_use]
pub fn foreign_signature(head: &[u8]) -> Option<&'static str> {
    const SIGNATURES: &[(usize, &[u8], &str)] = &[
        (1080, &[0x53, 0xef], "an ext2, ext3 or ext4 file system"),
        (0, b"XFSB", "an XFS file system"),
        (65600, b"_BHRfS_M", "a btrfs file system"),
        (4086, b"SWAPSPACE2", "swap space"),
        (4086, b"SWAP-SPACE", "swap space"),
        (65526, b"SWAPSPACE2", "swap space"),
        (0, b"LUKS\xba\xbe", "a LUKS encrypted volume"),
        (0, b"hsqs", "a squashfs image"),
        (32769, b"CD001", "an ISO 9660 image"),
        (536, b"LABELONE", "an LVM physical volume"),
        (0, b"QFI\xfb", "a qcow2 disk image"),
        (1024, &[0xe2, 0xe1, 0xf5, 0xe0], "an EROFS image"),
        (1024, &[0x10, 0x20, 0xf5, 0xf2], "an F2FS file system"),
        (3, b"NTFS    ", "an NTFS file system"),
        (3, b"EXFAT   ", "an exFAT file system"),
        (82, b"FAT32   ", "a FAT file system"),
        (54, b"FAT16   ", "a FAT file system"),
        (4096, &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca], "a bcachefs file system"),
        (512, b"EFI PART", "a GPT partition table"),
        (4096, b"EFI PART", "a GPT partition table"),
        (4096, &[0xfc, 0x4e, 0x2b, 0xa9], "a member of a Linux RAID array"),
        (510, &[0x55, 0xaa], "a partition table or boot sector"),
    ];
    SIGNATURES
        .iter()
        .find(|(at, bytes, _)| head.get(*at..).is_some_and(|rest| rest.starts_with(bytes)))
        .map(|(_, _, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_contents_are_named_and_zeros_are_not() {
        let mut head = vec![0; 128 << 10];
        assert_eq!(foreign_signature(&head), None);
        head[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(foreign_signature(&head), Some("a partition table or boot sector"));
        head[512..520].copy_from_slice(b"EFI PART");
        assert_eq!(foreign_signature(&head), Some("a GPT partition table"));
        head[1080..1082].copy_from_slice(&[0x53, 0xef]);
        assert_eq!(foreign_signature(&head), Some("an ext2, ext3 or ext4 file system"));
        assert_eq!(foreign_signature(b"LUKS\xba\xbe"), Some("a LUKS encrypted volume"));
    }
}
