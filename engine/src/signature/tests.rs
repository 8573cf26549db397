//! Every row is found where it says; zeros, small devices and weak magic numbers are nothing.

use super::*;
use crate::device::{DeviceImage, SimulatedDevice};

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
        let size = if matches!(signature.at, At::Start(at) if at > SIZE) { 300 << 30 } else { SIZE };
        let at = signature.at.offset(size).unwrap();
        let file = image(size, at, signature.magic);
        match signature.name {
            "HFS+ file system" if signature.magic == b"BD" => file.write_all_at(&[0, 0, 2, 0], 1044).unwrap(),
            "minix file system" => file.write_all_at(&[32, 1], 1024).unwrap(),
            "Apple partition map" => file.write_all_at(b"ER", 0).unwrap(),
            "HFS+ file system" => file.write_all_at(&[0, 4], 1026).unwrap(),
            "NILFS2 file system" => file.write_all_at(&[2, 0, 0, 0], 1024).unwrap(),
            _ => {}
        }
        let found = probe(&file, size).unwrap();
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
    assert_eq!((names(&found).as_str(), found[0].offset), (table::ZFS, at));
}

#[test]
fn a_device_is_probed_like_a_file() {
    for block_bytes in [512, 4096] {
        let mut image = DeviceImage::new(SIZE);
        image.write(SIZE - 512, b"EFI PART");
        image.write(510, &[0x55, 0xaa]);
        let device = SimulatedDevice::from_image(image, block_bytes, 1);
        let found = probe_device(&device).unwrap();
        assert_eq!(names(&found), "MBR partition table or boot sector, GPT partition table");
    }
}
