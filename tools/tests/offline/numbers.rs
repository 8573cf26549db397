//! No inode number and no realm id is handed out twice (INV-16): whatever is made again, the next ones lie beyond all that trees and log have.
use crate::common::CX;
use crate::fsck_bench::*;
use crate::rebuild::wiped;
use envoyfs_engine::device::SimulatedDevice;
use envoyfs_namespace::api::*;
use envoyfs_tools::fsck::findings;

/// As many as a rebuild would not reach from numbers near 1.
const FAR: u64 = 5_000_000;

/// A store whose next mount hands out numbers from [`FAR`] on, as after many files that have gone again.
fn old() -> SimulatedDevice {
    let device = empty(12, 512);
    let mounted = mount(&device);
    populate(&mounted);
    drop(mounted);
    let mut surgeon = Surgeon::new(&device);
    (surgeon.directory.entry.bounds.inode, surgeon.directory.entry.bounds.realm) = (FAR, FAR);
    surgeon.publish();
    surgeon.device()
}

fn rebuilt_bounds(device: &SimulatedDevice, log: bool) -> (u64, u64) {
    let device = wiped(device, log);
    assert!(rebuild(&device).is_clean());
    let bounds = Surgeon::new(&device).directory.entry.bounds;
    // Two live files of one number would be one file.
    mount(&device).close();
    assert!(check(&device).is_clean());
    (bounds.inode, bounds.realm)
}

#[test]
fn numbers_that_only_the_log_gave_are_not_handed_out_again_after_a_rebuild() {
    let device = old();
    let mounted = mount(&device);
    mounted.file(InodeId::ROOT, "logged", &[1; 5000]);
    let top = mounted.ns.lookup(&CX, InodeId::ROOT, b"top").unwrap().id;
    mounted.act(|| mounted.ns.fork(&CX, top, InodeId::ROOT, b"logged fork"));
    mounted.ns.sync().unwrap();
    drop(mounted);
    let (inode, realm) = rebuilt_bounds(&device, false);
    assert!(inode > FAR && realm > FAR, "inodes from {inode}, realms from {realm}");
}

#[test]
fn the_number_of_a_file_with_several_names_is_not_handed_out_again_after_a_rebuild() {
    let device = old();
    let mounted = mount(&device);
    let file = mounted.file(InodeId::ROOT, "one", &[1; 5000]);
    mounted.act(|| mounted.ns.link(&CX, file, InodeId::ROOT, b"two"));
    mounted.ns.checkpoint().unwrap();
    drop(mounted);
    let (inode, _) = rebuilt_bounds(&device, true);
    assert!(inode > FAR, "inodes from {inode}");
}

#[test]
fn numbers_of_what_has_gone_again_are_not_handed_out_again_where_a_checkpoint_of_the_log_tells_of_them() {
    let device = old();
    let mounted = mount(&device);
    mounted.file(InodeId::ROOT, "gone", &[1; 5000]);
    mounted.ns.unlink(&CX, InodeId::ROOT, b"gone").unwrap();
    mounted.ns.checkpoint().unwrap();
    drop(mounted);
    let (inode, realm) = rebuilt_bounds(&device, false);
    assert!(inode > FAR && realm > FAR, "inodes from {inode}, realms from {realm}");
}

#[test]
fn a_bound_that_numbers_in_use_have_passed_is_found_and_raised() {
    let device = populated(12);
    for change in [|inode: &mut u64, _: &mut u64| *inode = 20, |_: &mut u64, realm: &mut u64| *realm = 2] {
        let mut surgeon = Surgeon::new(&device);
        let bounds = &mut surgeon.directory.entry.bounds;
        change(&mut bounds.inode, &mut bounds.realm);
        surgeon.publish();
        let left = is_mended(&surgeon.device(), findings::NUMBER_BOUND);
        assert!(left.contains_key("/top/file 4"));
    }
}
