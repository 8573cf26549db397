//! What else may lie on a device: the signatures of other file systems, volume managers, partition tables and of envoyfs itself.
//!
//! Owns: [`SIGNATURES`] (data, one row a place where a magic number stands) and [`probe`]. Promises: reads only, and names everything it finds, not just the first.
//! `mkfs.envoyfs` refuses to overwrite what is found here; `fsck.envoyfs` and `mount` use it to say what a store that does not open is instead.
//!
//! Offsets are those of the formats' own documents and of util-linux's libblkid. Magic numbers of two bytes prove nothing by themselves: such rows have a `confirm`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Name under which an envoyfs store is reported.
pub const ENVOYFS: &str = "envoyfs store";

/// Where a magic number stands, in bytes.
#[derive(Clone, Copy, Debug)]
pub enum At {
    /// From the start of the device.
    Start(u64),
    /// Before the end of the device.
    End(u64),
    /// By the format's own rule from the device's size.
    Rule(fn(u64) -> Option<u64>),
}

impl At {
    /// Bytes from the start of a device of this size; `None` if the device is too small.
    #[must_use]
    pub fn offset(self, size_bytes: u64) -> Option<u64> {
        match self {
            Self::Start(offset) => Some(offset),
            Self::End(before) => size_bytes.checked_sub(before),
            Self::Rule(rule) => rule(size_bytes),
        }
    }
}

/// A magic number that means "something is here".
#[derive(Debug)]
pub struct Signature {
    /// What to call it in a message.
    pub name: &'static str,
    /// Where the magic number stands.
    pub at: At,
    /// The magic number.
    pub magic: &'static [u8],
    /// For magic numbers too short to mean anything alone: looks at the rest.
    pub confirm: Option<fn(&Probe<'_>) -> bool>,
}

/// Something found on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// What.
    pub name: &'static str,
    /// Bytes from the start of the device to its magic number.
    pub offset: u64,
    /// Length of the magic number.
    pub magic_bytes: u64,
}

/// Reads a device for signatures.
#[derive(Debug)]
pub struct Probe<'a> {
    file: &'a File,
    size_bytes: u64,
}

impl Probe<'_> {
    /// Bytes from `offset`; `None` past the end.
    fn bytes<const N: usize>(&self, offset: u64) -> io::Result<Option<[u8; N]>> {
        let mut out = [0; N];
        Ok(self.fill(offset, &mut out)?.then_some(out))
    }
    fn fill(&self, offset: u64, out: &mut [u8]) -> io::Result<bool> {
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > self.size_bytes) {
            return Ok(false);
        }
        match self.file.read_exact_at(out, offset) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
    fn u32_at(&self, offset: u64) -> Option<u32> {
        self.bytes::<4>(offset).ok().flatten().map(u32::from_le_bytes)
    }
}

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
const GPT: &str = "GPT partition table";
const MBR: &str = "MBR partition table or boot sector";
const ZFS: &str = "ZFS pool member";
const HFS: &str = "HFS+ file system";
const OCFS2: &str = "OCFS2 file system";
const MD_MAGIC: &[u8] = &[0xfc, 0x4e, 0x2b, 0xa9];

/// Every place that is looked at (ZFS, whose labels are arrays, is looked for by [`probe`] itself).
pub const SIGNATURES: &[Signature] = &[
    row(ENVOYFS, At::Start(0), b"EVFSSUPR"),
    row(ENVOYFS, At::Start(4096), b"EVFSSUPR"),
    row(ENVOYFS, At::Rule(|size| (size & !4095).checked_sub(8192)), b"EVFSSUPR"),
    row(ENVOYFS, At::Rule(|size| (size & !4095).checked_sub(4096)), b"EVFSSUPR"),
    // File systems.
    weak(EXT, At::Start(1024 + 56), &[0x53, 0xef], ext_is_plausible),
    row("XFS file system", At::Start(0), b"XFSB"),
    row("Btrfs file system", At::Start(0x1_0040), b"_BHRfS_M"),
    row(
        "bcachefs file system",
        At::Start(4096 + 24),
        b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef",
    ),
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
    row("zonefs file system", At::Start(0), b"SFOZ"),
    row("Ceph BlueStore device", At::Start(0), b"bluestore block device"),
    // Swap: the magic ends the first page, whatever the page size of the machine that made it.
    row(SWAP, At::Start(4096 - 10), b"SWAPSPACE2"),
    row(SWAP, At::Start(4096 - 10), b"SWAP-SPACE"),
    row(SWAP, At::Start(16_384 - 10), b"SWAPSPACE2"),
    row(SWAP, At::Start(65_536 - 10), b"SWAPSPACE2"),
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
    row(MBR, At::Start(510), &[0x55, 0xaa]),
];

/// Everything known that is on the device, in the order of its offsets.
///
/// # Errors
/// What reading reports.
pub fn probe(file: &File, size_bytes: u64) -> io::Result<Vec<Found>> {
    let probe = Probe { file, size_bytes };
    let mut found = zfs(&probe)?;
    for signature in SIGNATURES {
        let Some(offset) = signature.at.offset(size_bytes) else { continue };
        let mut bytes = vec![0; signature.magic.len()];
        if probe.fill(offset, &mut bytes)?
            && bytes == signature.magic
            && signature.confirm.is_none_or(|confirm| confirm(&probe))
        {
            found.push(Found { name: signature.name, offset, magic_bytes: signature.magic.len() as u64 });
        }
    }
    found.sort_by_key(|found| found.offset);
    found.dedup();
    Ok(found)
}

/// Names of what was found, each once, for a message.
#[must_use]
pub fn names(found: &[Found]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for found in found {
        if !names.contains(&found.name) {
            names.push(found.name);
        }
    }
    names.join(", ")
}

/// The magic of ext is two bytes: the block size and the first data block must make sense too.
fn ext_is_plausible(probe: &Probe<'_>) -> bool {
    probe.u32_at(1024 + 24).is_some_and(|log_block| log_block <= 6)
        && probe.u32_at(1024 + 20).is_some_and(|first| first <= 1)
}

fn hfs_is_plausible(probe: &Probe<'_>) -> bool {
    matches!(probe.bytes::<4>(1024), Ok(Some([_, _, 0, 4 | 5])))
}

/// Version 0.90: the last 64 KiB-aligned 64 KiB block.
fn md_0_90(size_bytes: u64) -> Option<u64> {
    (size_bytes & !0xffff).checked_sub(0x1_0000)
}

/// Version 1.0: between 8 and 12 KiB before the end, 4 KiB-aligned.
fn md_1_0(size_bytes: u64) -> Option<u64> {
    Some(((size_bytes / 512).checked_sub(16)? & !7) * 512)
}

/// Two labels of 256 KiB at either end; the uberblocks fill the second half of each.
fn zfs(probe: &Probe<'_>) -> io::Result<Vec<Found>> {
    const LABEL: u64 = 256 * 1024;
    let end = probe.size_bytes & !(LABEL - 1);
    let labels = [Some(0), Some(LABEL), end.checked_sub(2 * LABEL), end.checked_sub(LABEL)];
    for label in labels.into_iter().flatten() {
        let mut ring = vec![0; 128 * 1024];
        if !probe.fill(label + 128 * 1024, &mut ring)? {
            continue;
        }
        for (index, uberblock) in ring.chunks(1024).enumerate() {
            if matches!(uberblock, [0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0, 0xba, 0xb1, 0x0c, ..]) {
                let offset = label + 128 * 1024 + 1024 * index as u64;
                return Ok(vec![Found { name: ZFS, offset, magic_bytes: 8 }]);
            }
        }
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(size: u64, at: u64, bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        file.write_all_at(bytes, at).unwrap();
        file
    }

    const SIZE: u64 = 128 << 20;

    #[test]
    fn every_row_is_found_where_it_says() {
        for signature in SIGNATURES {
            let at = signature.at.offset(SIZE).unwrap();
            let file = image(SIZE, at, signature.magic);
            match signature.name {
                HFS => file.write_all_at(&[0, 4], 1026).unwrap(),
                "NILFS2 file system" => file.write_all_at(&[2, 0, 0, 0], 1024).unwrap(),
                _ => {}
            }
            let found = probe(&file, SIZE).unwrap();
            assert!(found.iter().any(|f| f.name == signature.name && f.offset == at), "{signature:?}: {found:?}");
        }
    }

    #[test]
    fn zeros_are_nothing_and_small_devices_do_not_fail() {
        assert_eq!(probe(&image(SIZE, 0, &[]), SIZE).unwrap(), []);
        for size in [0, 1, 511, 512, 4096, 70_000] {
            assert_eq!(probe(&image(size, 0, &[]), size).unwrap(), [], "{size}");
        }
    }

    #[test]
    fn two_byte_magics_need_more() {
        let file = image(SIZE, 1024 + 56, &[0x53, 0xef]);
        file.write_all_at(&77_u32.to_le_bytes(), 1024 + 24).unwrap();
        assert_eq!(probe(&file, SIZE).unwrap(), []);
    }

    #[test]
    fn a_zfs_label_at_the_end_is_found() {
        let at = SIZE - (256 << 10) + (128 << 10) + 5 * 1024;
        let found = probe(&image(SIZE, at, &0x00ba_b10c_u64.to_le_bytes()), SIZE).unwrap();
        assert_eq!((names(&found).as_str(), found[0].offset), (ZFS, at));
    }
}
