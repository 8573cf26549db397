//! Who opens a device waits for what a killed process left in the kernel, and for nothing else.

use super::super::{AlignedBuf, Device as _, Write};
use super::in_flight::{InFlightLock, wait_for_writes_in_flight};
use super::open;
use super::tests::LoopDevice;
use super::{OpenMode, UringDevice};
use io_uring::IoUring;
use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;

thread_local! {
    /// Runs when this thread meets the lock of another.
    static REFUSED: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

pub(super) fn refused() {
    if let Some(run) = REFUSED.take() {
        run();
    }
}

fn image() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
    (folder, path)
}

/// What the kernel keeps of a process that was killed amid a write: a ring, and what the ring refers to.
fn left_behind(path: &Path) -> IoUring {
    let (opened, _claim) = open::open(path, OpenMode::ReadWrite, true).unwrap();
    let opened = Arc::new(opened);
    let _lock = InFlightLock::take(path, &opened).unwrap();
    let ring = IoUring::new(2).unwrap();
    ring.submitter().register_files(&[opened.io.as_raw_fd()]).unwrap();
    opened.gave_up.store(true, Ordering::Release);
    ring
}

fn waits_for_the_ring(path: &Path, enter: impl Fn(&Path)) {
    let ring = left_behind(path);
    REFUSED.set(Some(Box::new(move || drop(ring))));
    enter(path);
    assert!(REFUSED.take().is_none(), "it did not wait");
}

fn everybody_waits(path: &Path) {
    for mode in [OpenMode::ReadWrite, OpenMode::ReadOnly] {
        waits_for_the_ring(path, |path| drop(UringDevice::open(path, mode, true).unwrap()));
    }
    // As mkfs writes, who has opened it exclusively by other means.
    waits_for_the_ring(path, |path| drop(UringDevice::open(path, OpenMode::ReadWrite, false).unwrap()));
    waits_for_the_ring(path, |path| wait_for_writes_in_flight(path, &std::fs::File::open(path).unwrap()).unwrap());
}

#[test]
fn who_opens_a_device_waits_for_what_a_killed_process_left_in_the_kernel() {
    let (_folder, path) = image();
    everybody_waits(&path);
    let Some(target) = LoopDevice::new(1 << 20, 512) else { return };
    everybody_waits(&target.path);
}

#[test]
fn nobody_waits_after_an_orderly_end() {
    let (_folder, path) = image();
    for _ in 0..20 {
        let device = UringDevice::open(&path, OpenMode::ReadWrite, true).unwrap();
        let write = |offset| Write::whole(offset, AlignedBuf::zeroed(4096));
        let (written, all_wrote) = crossbeam::channel::bounded(2);
        let (end, ends) = crossbeam::channel::bounded::<()>(0);
        std::thread::scope(|scope| {
            for offset in [4096, 8192] {
                let (device, written, ends) = (&device, written.clone(), ends.clone());
                std::thread::Builder::new()
                    .spawn_scoped(scope, move || {
                        device.submit(write(offset).lazy()).wait().unwrap();
                        device.read(offset, &mut AlignedBuf::zeroed(4096)).unwrap();
                        written.send(()).unwrap();
                        let _ = ends.recv();
                    })
                    .unwrap();
            }
            device.submit(write(0)).wait().unwrap();
            all_wrote.iter().take(2).for_each(drop);
            drop(end);
        });
        drop(device);
        REFUSED.set(Some(Box::new(|| panic!("it waits for a device that was closed"))));
    }
    REFUSED.take();
}

/// A file system that can be frozen, so that writes to what lies on it stay in the kernel.
struct Freezer {
    folder: tempfile::TempDir,
    _below: LoopDevice,
}

impl Freezer {
    fn new() -> Option<Freezer> {
        let below = LoopDevice::new(32 << 20, 512)?;
        let folder = tempfile::tempdir().unwrap();
        assert!(run("mkfs.ext4", &["-q", "-F", text(&below.path)]), "mkfs.ext4 (e2fsprogs)");
        assert!(run("mount", &[text(&below.path), text(folder.path())]));
        Some(Freezer { folder, _below: below })
    }

    fn image(&self) -> PathBuf {
        let path = self.folder.path().join("image");
        std::fs::write(&path, vec![1; 1 << 20]).unwrap();
        std::fs::File::open(&path).unwrap().sync_all().unwrap();
        path
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        thaw(self.folder.path());
        // Lazily: the kernel takes the last ring on what lies there down in the background.
        let _ = run("umount", &["--lazy", text(self.folder.path())]);
    }
}

fn thaw(folder: &Path) -> bool {
    run("fsfreeze", &["--unfreeze", text(folder)])
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

const KILLED: &str = "ENVOYFS_TEST_KILLED_AMID_A_WRITE";

/// The child: writes when it is told to, and is killed.
fn write_and_stay(path: &Path) -> ! {
    let device = UringDevice::open(path, OpenMode::ReadWrite, true).unwrap();
    println!("open");
    std::io::stdin().lock().read_line(&mut String::new()).unwrap();
    let mut mark = AlignedBuf::zeroed(4096);
    mark.as_mut_slice().fill(2);
    let written = device.submit(Write::whole(4096, mark)).wait();
    panic!("not killed: {written:?}");
}

fn writes_in_flight(device: &Path) -> u64 {
    let told = std::fs::read_to_string(format!("/sys/block/{}/inflight", device.file_name().unwrap().display()));
    told.unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_write_of_a_killed_process_lands_before_anybody_else_has_the_device() {
    if let Some(path) = std::env::var_os(KILLED) {
        write_and_stay(Path::new(&path));
    }
    let Some(freezer) = Freezer::new() else { return };
    let Some(target) = LoopDevice::over(&freezer.image(), 512) else { return };
    let name = "device::uring::in_flight_tests::a_write_of_a_killed_process_lands_before_anybody_else_has_the_device";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(KILLED, &target.path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let told = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(told.map(Result::unwrap).any(|line| line.ends_with("open")));
    assert!(run("fsfreeze", &["--freeze", text(freezer.folder.path())]));
    child.stdin.take().unwrap().write_all(b"write\n").unwrap();
    while writes_in_flight(&target.path) == 0 {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_ne!(writes_in_flight(&target.path), 0, "the kernel has it still");

    drop(open::open(&target.path, OpenMode::ReadWrite, true).unwrap());
    let folder = freezer.folder.path().to_path_buf();
    REFUSED.set(Some(Box::new(move || assert!(thaw(&folder)))));
    let device = UringDevice::open(&target.path, OpenMode::ReadWrite, true).unwrap();
    assert!(REFUSED.take().is_none(), "it did not wait");
    let mut read = AlignedBuf::zeroed(4096);
    device.read(4096, &mut read).unwrap();
    assert!(read.as_slice().iter().all(|byte| *byte == 2));
}
