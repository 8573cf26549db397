//! The places that are looked at.

use super::{At, Probe, Signature};

/// Name under which an envoyfs store is reported.
pub const ENVOYFS: &str = "envoyfs store";
/// Name under which Btrfs is reported; its copies lie far inside the device.
pub const BTRFS: &str = "Btrfs file system";

const fn row(name: &'static str, at: At, magic: &'static [u8]) -> Signature {
    Signature { name, at, magic, confirm: None }
}

const fn weak(name: &'static str, at: At, magic: &'static [u8], confirm: fn(&Probe<'_>) -> bool) -> Signature {
    Signature { name, at, magic, confirm: Some(confirm) }
}

const EXT: &str = "ext2, ext3 or ext4 file system";
const VFAT: &str = "FAT file system";
const MD: &str = "Linux software RAID member (md)";
const LVM: &str = "LVM physical volume";
const SWAP: &str = "swap space";
const LUKS: &str = "LUKS encrypted volume";
const DRBD: &str = "DRBD device";
const GPT: &str = "GPT partition table";
const MBR: &str = "MBR partition table or boot sector";
pub const ZFS: &str = "ZFS pool member";
const HFS: &str = "HFS+ file system";
const OCFS2: &str = "OCFS2 file system";
const BCACHEFS_MAGIC: &[u8] = b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef";
const MD_MAGIC: &[u8] = &[0xfc, 0x4e, 0x2b, 0xa9];

/// Every place that is looked at (ZFS, whose labels are arrays, is looked for by [`super::probe`] itself).
pub const SIGNATURES: &[Signature] = &[
    row(ENVOYFS, At::Start(0), b"EVFSSUPR"),
    row(ENVOYFS, At::Start(4096), b"EVFSSUPR"),
    row(ENVOYFS, At::Rule(|size| (size & !4095).checked_sub(8192)), b"EVFSSUPR"),
    row(ENVOYFS, At::Rule(|size| (size & !4095).checked_sub(4096)), b"EVFSSUPR"),
    // File systems.
    weak(EXT, At::Start(1024 + 56), &[0x53, 0xef], ext_is_plausible),
    row("XFS file system", At::Start(0), b"XFSB"),
    row(BTRFS, At::Start(0x1_0040), b"_BHRfS_M"),
    row(BTRFS, At::Start((64 << 20) + 0x40), b"_BHRfS_M"),
    row(BTRFS, At::Start((256 << 30) + 0x40), b"_BHRfS_M"),
    row("bcachefs file system", At::Start(4096 + 24), BCACHEFS_MAGIC),
    row("bcache device", At::Start(4096 + 24), b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),
    row("F2FS file system", At::Start(1024), &[0x10, 0x20, 0xf5, 0xf2]),
    row("F2FS file system", At::Start(1024 + 4096), &[0x10, 0x20, 0xf5, 0xf2]),
    row("NTFS file system", At::Start(3), b"NTFS    "),
    row("exFAT file system", At::Start(3), b"EXFAT   "),
    row(VFAT, At::Start(54), b"FAT12   "),
    row(VFAT, At::Start(54), b"FAT16   "),
    row(VFAT, At::Start(82), b"FAT32   "),
    row("BitLocker volume", At::Start(3), b"-FVE-FS-"),
    row("EROFS file system", At::Start(1024), &[0xe2, 0xe1, 0xf5, 0xe0]),
    row("SquashFS file system", At::Start(0), b"hsqs"),
    row("SquashFS file system", At::Start(0), b"sqsh"),
    row("cramfs file system", At::Start(0), &[0x45, 0x3d, 0xcd, 0x28]),
    row("ISO 9660 file system", At::Start(32_769), b"CD001"),
    row("UDF file system", At::Start(32_769), b"BEA01"),
    row("ReiserFS file system", At::Start(0x1_0034), b"ReIsEr"),
    row("JFS file system", At::Start(0x8000), b"JFS1"),
    weak("NILFS2 file system", At::Start(1024 + 6), &[0x34, 0x34], |probe| probe.u32_at(1024) == Some(2)),
    row("GFS2 file system", At::Start(0x1_0000), &[0x01, 0x16, 0x19, 0x70]),
    row(OCFS2, At::Start(1024), b"OCFSV2"),
    row(OCFS2, At::Start(2048), b"OCFSV2"),
    row(OCFS2, At::Start(4096), b"OCFSV2"),
    row(OCFS2, At::Start(8192), b"OCFSV2"),
    weak(HFS, At::Start(1024), b"H+", hfs_is_plausible),
    weak(HFS, At::Start(1024), b"HX", hfs_is_plausible),
    row("APFS container", At::Start(32), b"NXSB"),
    row("UFS file system", At::Start(8192 + 1372), &[0x54, 0x19, 0x01, 0x00]),
    row("UFS2 file system", At::Start(65_536 + 1372), &[0x19, 0x01, 0x54, 0x19]),
    row("ReiserFS file system", At::Start(0x2034), b"ReIsErFs"),
    row("Reiser4 file system", At::Start(0x1_0000), b"ReIsEr4"),
    row("HPFS file system", At::Start(0x2000), &[0x49, 0xe8, 0x95, 0xf9]),
    row("VxFS file system", At::Start(1024), &[0xf5, 0xfc, 0x01, 0xa5]),
    row("VxFS file system", At::Start(8192), &[0xa5, 0x01, 0xfc, 0xf5]),
    row("UFS file system", At::Start(65_536 + 1372), &[0x54, 0x19, 0x01, 0x00]),
    row("UFS2 file system", At::Start(8192 + 1372), &[0x19, 0x01, 0x54, 0x19]),
    row("EXFS file system", At::Start(0), b"EXFS"),
    row("ReFS file system", At::Start(0), b"\0\0\0ReFS\0"),
    row("BeFS file system", At::Start(32), b"BFS1"),
    row("BeFS file system", At::Start(512 + 32), b"BFS1"),
    row("SCO BFS file system", At::Start(0), &[0xce, 0xfa, 0xad, 0x1b]),
    row("romfs image", At::Start(0), b"-rom1fs-"),
    row("UBI device", At::Start(0), b"UBI#"),
    row("UBIFS file system", At::Start(0), &[0x31, 0x18, 0x10, 0x06]),
    row("NSS file system", At::Start(4096), b"SPB5"),
    row("scoutfs device", At::Start(0x1_0004), &[0x8b, 0x42, 0x3c, 0x10]),
    row("VMFS file system", At::Start(2 << 20), &[0x5e, 0xf1, 0xab, 0x2f]),
    row("VMFS volume", At::Start(1 << 20), &[0x0d, 0xd0, 0x01, 0xc0]),
    row("UDF file system", At::Start(32_769), b"NSR02"),
    row("UDF file system", At::Start(32_769), b"NSR03"),
    row("bcachefs file system", At::Start((2 << 20) + 24), BCACHEFS_MAGIC),
    row("bcachefs file system", At::Rule(|size| (size & !511).checked_sub(1 << 20)?.checked_add(24)), BCACHEFS_MAGIC),
    weak("minix file system", At::Start(1024 + 16), &[0x7f, 0x13], minix_is_plausible),
    weak("minix file system", At::Start(1024 + 16), &[0x8f, 0x13], minix_is_plausible),
    weak("minix file system", At::Start(1024 + 16), &[0x68, 0x24], minix_is_plausible),
    weak("minix file system", At::Start(1024 + 16), &[0x78, 0x24], minix_is_plausible),
    weak(HFS, At::Start(1024), b"BD", |probe| {
        probe.u32_at(1024 + 20).is_some_and(|size| size != 0 && size.swap_bytes() % 512 == 0)
    }),
    row("Oracle ASM disk", At::Start(32), b"ORCLDISK"),
    row("zonefs file system", At::Start(0), b"SFOZ"),
    row("Ceph BlueStore device", At::Start(0), b"bluestore block device"),
    // Swap: the magic ends the first page, whatever the page size of the machine that made it.
    row(SWAP, At::Start(4096 - 10), b"SWAPSPACE2"),
    row(SWAP, At::Start(4096 - 10), b"SWAP-SPACE"),
    row(SWAP, At::Start(16_384 - 10), b"SWAPSPACE2"),
    row(SWAP, At::Start(65_536 - 10), b"SWAPSPACE2"),
    row(SWAP, At::Start(8192 - 10), b"SWAPSPACE2"),
    row(SWAP, At::Start(32_768 - 10), b"SWAPSPACE2"),
    row("hibernation image", At::Start(4096 - 10), b"LINHIB0001"),
    row("hibernation image", At::Start(4096 - 10), b"S2SUSPEND"),
    row("hibernation image", At::Start(4096 - 10), b"S1SUSPEND"),
    row("hibernation image", At::Start(4096 - 10), b"ULSUSPEND"),
    // Below file systems.
    row(LUKS, At::Start(0), b"LUKS\xba\xbe"),
    row(LUKS, At::Start(0x4000), b"SKUL\xba\xbe"),
    row(LVM, At::Start(0), b"LABELONE"),
    row(LVM, At::Start(512), b"LABELONE"),
    row(LVM, At::Start(1024), b"LABELONE"),
    row(LVM, At::Start(1536), b"LABELONE"),
    row(MD, At::Start(0), MD_MAGIC),
    row(MD, At::Start(4096), MD_MAGIC),
    row(MD, At::Rule(md_0_90), MD_MAGIC),
    row(MD, At::Rule(md_1_0), MD_MAGIC),
    row(DRBD, At::Rule(drbd), &[0x83, 0x74, 0x02, 0x6b]),
    row(DRBD, At::Rule(drbd), &[0x83, 0x74, 0x02, 0x6c]),
    row(DRBD, At::Rule(drbd), &[0x83, 0x74, 0x02, 0x6d]),
    row("DDF RAID member", At::Rule(|size| (size & !511).checked_sub(512)), &[0xde, 0x11, 0xde, 0x11]),
    row("Intel RAID member", At::Rule(|size| (size & !511).checked_sub(1024)), b"Intel Raid ISM Cfg Sig. "),
    row("LSI RAID member", At::Rule(|size| (size & !511).checked_sub(512)), b"$XIDE$"),
    row("NVIDIA RAID member", At::Rule(|size| (size & !511).checked_sub(1024)), b"NVIDIA  "),
    row("LVM snapshot store", At::Start(0), b"SnAp"),
    row("dm-verity hash device", At::Start(0), b"verity\0\0"),
    row("dm-integrity device", At::Start(0), b"integrt\0"),
    row("mpool device", At::Start(0), b"mpoolDev"),
    row("Stratis device", At::Start(9 * 512 + 4), b"!Stra0tis"),
    row("VDO device", At::Start(0), b"dmvdo001"),
    row("Stratis device", At::Start(516), b"!Stra0tis"),
    row("QEMU disk image (qcow2)", At::Start(0), b"QFI\xfb"),
    row("VMware disk image (VMDK)", At::Start(0), b"KDMV"),
    row("Hyper-V disk image (VHDX)", At::Start(0), b"vhdxfile"),
    // Partition tables.
    row(GPT, At::Start(512), b"EFI PART"),
    row(GPT, At::Start(4096), b"EFI PART"),
    row(GPT, At::End(512), b"EFI PART"),
    row(GPT, At::End(4096), b"EFI PART"),
    row("SGI partition table", At::Start(0), &[0x0b, 0xe5, 0xa9, 0x41]),
    row("AIX partition table", At::Start(0), &[0xc9, 0xc2, 0xd4, 0xc1]),
    row("BSD disk label", At::Start(512), &[0x57, 0x45, 0x56, 0x82]),
    row("BSD disk label", At::Start(64), &[0x57, 0x45, 0x56, 0x82]),
    weak("Apple partition map", At::Start(512), b"PM", |probe| probe.bytes::<2>(0) == Some(*b"ER")),
    row(MBR, At::Start(510), &[0x55, 0xaa]),
];

/// The magic of ext is two bytes: the block size and the first data block must make sense too.
fn ext_is_plausible(probe: &Probe<'_>) -> bool {
    probe.u32_at(1024 + 24).is_some_and(|log_block| log_block <= 6)
        && probe.u32_at(1024 + 20).is_some_and(|first| first <= 1)
}

fn hfs_is_plausible(probe: &Probe<'_>) -> bool {
    matches!(probe.bytes::<4>(1024), Some([_, _, 0, 4 | 5]))
}

/// Version 0.90: the last 64 KiB-aligned 64 KiB block.
fn md_0_90(size_bytes: u64) -> Option<u64> {
    (size_bytes & !0xffff).checked_sub(0x1_0000)
}

/// Version 1.0: between 8 and 12 KiB before the end, 4 KiB-aligned.
fn md_1_0(size_bytes: u64) -> Option<u64> {
    Some(((size_bytes / 512).checked_sub(16)? & !7) * 512)
}

/// Its metadata begin 4 KiB before the end; the magic number is their sixteenth word.
fn drbd(size_bytes: u64) -> Option<u64> {
    Some((size_bytes & !1023).checked_sub(4096)? + 60)
}

/// Magic numbers of two bytes: the size of a zone is 0, and there are inodes.
fn minix_is_plausible(probe: &Probe<'_>) -> bool {
    matches!(probe.bytes::<12>(1024), Some([a, b, .., 0, 0]) if a | b != 0)
        && probe.bytes::<2>(1024 + 56) != Some([0x53, 0xef])
}
