//! How long the exclusive lock lasts.

use super::super::{AlignedBuf, BufferPool, Device as _, Write};
use super::open::{self, try_claim};
use super::ring::Ring;
use super::{OpenMode, UringDevice};
use std::cell::RefCell;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

thread_local! {
    /// Runs when this thread is refused a claim.
    static REFUSED: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

pub(super) fn refused() {
    if let Some(run) = REFUSED.take() {
        run();
    }
}

fn image(name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
    (folder, path)
}

fn is_free(path: &Path, is_block_device: bool) -> bool {
    let options = |flags: i32| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(flags | libc::O_CLOEXEC);
        options
    };
    try_claim(path, is_block_device, &options).unwrap().is_some()
}

#[test]
fn who_opens_a_device_that_another_is_about_to_leave_gets_it() {
    let (_folder, path) = image("image");
    let first = UringDevice::open(&path, OpenMode::ReadWrite, true).unwrap();
    REFUSED.set(Some(Box::new(move || drop(first))));
    drop(UringDevice::open(&path, OpenMode::ReadWrite, true).unwrap());
    assert!(REFUSED.take().is_none(), "the second was refused at first");
}

/// What stands for the kernel that still has a write: a ring, when the process has no descriptor of the claim any more.
fn lasts_as_long_as_a_ring(path: &Path, is_block_device: bool) {
    let ring = || {
        let (opened, claim) = open::open(path, OpenMode::ReadWrite, true).unwrap();
        Ring::with_claim(2, &Arc::new(opened), BufferPool::heap(), claim.as_ref()).unwrap()
    };
    let mut orderly = ring();
    assert!(!is_free(path, is_block_device));
    orderly.release_claim();
    assert!(is_free(path, is_block_device), "it has ended with its own ring");
    let mut other = ring();
    // Another thread cannot take it out of a ring, which then ends in the background.
    let thread = std::thread::Builder::new().spawn(move || other.release_claim()).unwrap();
    thread.join().unwrap();
    drop(ring());
}

#[test]
fn the_claim_lasts_as_long_as_a_ring_that_writes_and_not_a_moment_longer_at_an_orderly_end() {
    let (_folder, path) = image("image");
    lasts_as_long_as_a_ring(&path, false);
    let Some(target) = super::tests::LoopDevice::new(1 << 20, 512) else { return };
    lasts_as_long_as_a_ring(&target.path, true);
}

/// How often each ring of this process names a file of this name.
fn registered(name: &str) -> Vec<usize> {
    let is_ring = |number: &str| {
        std::fs::read_link(format!("/proc/self/fd/{number}")).is_ok_and(|to| to.to_string_lossy().contains("io_uring"))
    };
    let rings =
        std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let told = rings.filter(|number| is_ring(number));
    let told = told.filter_map(|number| std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok());
    told.map(|told| told.lines().filter(|line| line.ends_with(name)).count()).collect()
}

#[test]
fn every_ring_that_writes_has_the_claim() {
    let (_folder, path) = image("claimed-by-rings");
    let device = UringDevice::open(&path, OpenMode::ReadWrite, true).unwrap();
    device.submit(Write::whole(0, AlignedBuf::zeroed(4096))).wait().unwrap();
    device.submit(Write::whole(0, AlignedBuf::zeroed(4096)).lazy()).wait().unwrap();
    device.read(0, &mut AlignedBuf::zeroed(4096)).unwrap();
    let (mut most, mut tries) = ((0, 0), 0);
    // A ring that is just entered says nothing.
    while most != (2, 1) && tries < 1000 {
        let found = registered("claimed-by-rings");
        let with = |count: usize| found.iter().filter(|named| **named == count).count();
        most = most.max((with(2), with(1)));
        tries += 1;
        std::thread::yield_now();
    }
    assert_eq!(most, (2, 1), "the write thread's and this thread's; this thread's for reads");
}
