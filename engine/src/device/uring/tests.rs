//! Against a real file system, and a loop device where the machine allows it.

use super::super::random::Random;
use super::*;
use crossbeam::channel::RecvTimeoutError;
use std::process::Command;
use std::sync::atomic::AtomicUsize;

const MIB: u64 = 1 << 20;

struct Image {
    dir: tempfile::TempDir,
}

impl Image {
    fn new(size: u64) -> Image {
        Self::in_dir(tempfile::tempdir().unwrap(), size)
    }

    fn in_dir(dir: tempfile::TempDir, size: u64) -> Image {
        std::fs::File::create(dir.path().join("image")).unwrap().set_len(size).unwrap();
        Image { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn open(&self) -> UringDevice {
        UringDevice::open(self.path(), OpenMode::ReadWrite, true).unwrap()
    }
}

/// A loop device on an image, detached when dropped.
pub(super) struct LoopDevice {
    pub(super) path: PathBuf,
    image: Option<Image>,
}

impl LoopDevice {
    /// `None`, with a note, where loop devices cannot be made.
    pub(super) fn new(size: u64, block: u32) -> Option<LoopDevice> {
        let image = Image::new(size);
        let mut device = Self::over(&image.path(), block)?;
        device.image = Some(image);
        Some(device)
    }

    pub(super) fn over(image: &Path, block: u32) -> Option<LoopDevice> {
        let output = Command::new("losetup")
            .args(["--find", "--show", "--direct-io=on", "--sector-size", &block.to_string()])
            .arg(image)
            .output()
            .ok()
            .filter(|output| output.status.success());
        let Some(output) = output else {
            eprintln!("no loop devices here: not tested on a block device");
            assert!(std::env::var_os("ENVOYFS_NO_SKIP").is_none(), "not run: no loop devices");
            return None;
        };
        let path = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
        Some(LoopDevice { path, image: None })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

fn filled(device: &dyn Device, length: usize, mark: u8) -> AlignedBuf {
    let mut buffer = device.buffers().take(length);
    buffer.as_mut_slice().fill(mark);
    buffer
}

fn round_trip(device: &UringDevice) {
    let block = device.geometry().logical_block_bytes as usize;
    let mut random = Random::new(42);
    // From the arena and from the heap, small and larger than every slot.
    for length in [block, 3 * block, 4096, 65536, 3 << 20] {
        for from_pool in [true, false] {
            let mut buffer = if from_pool { device.buffers().take(length) } else { AlignedBuf::zeroed(length) };
            buffer.as_mut_slice().iter_mut().for_each(|byte| *byte = (random.next() & 255) as u8);
            let written = Arc::new(buffer);
            device.submit(Write::whole(MIB, Arc::clone(&written))).wait().unwrap();
            let mut read = if from_pool { device.buffers().take(length) } else { AlignedBuf::zeroed(length) };
            device.read(MIB, &mut read).unwrap();
            assert!(read.as_slice() == written.as_slice());
        }
    }
    let mut buffer = AlignedBuf::zeroed(4096);
    buffer.as_mut_slice().fill(0xD5);
    device.submit(Write::whole(2 * MIB, buffer).durable()).wait().unwrap();
    let mut read = device.buffers().take(4096);
    device.read(2 * MIB, &mut read).unwrap();
    assert!(read.as_slice().iter().all(|byte| *byte == 0xD5));
    device.flush().unwrap();
}

#[test]
fn bytes_come_back_from_an_image_file() {
    let image = Image::new(8 * MIB + 100);
    let device = image.open();
    let geometry = device.geometry();
    assert_eq!((geometry.size_bytes, geometry.is_block_device), (8 * MIB, false));
    assert_eq!(super::geometry(&image.path()), Ok(geometry));
    assert!(device.is_direct());
    round_trip(&device);
    drop(device);
    let device = UringDevice::open(image.path(), OpenMode::ReadOnly, true).unwrap();
    let mut buffer = device.buffers().take(4096);
    device.read(MIB, &mut buffer).unwrap();
    assert!(buffer.as_slice().iter().any(|byte| *byte != 0));
}

#[test]
fn bytes_come_back_from_tmpfs() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else { return };
    let image = Image::in_dir(dir, 8 * MIB);
    let device = image.open();
    eprintln!("tmpfs: direct {}, {:?}", device.is_direct(), device.geometry());
    round_trip(&device);
}

#[test]
fn bytes_come_back_from_loop_devices_of_both_block_sizes() {
    for block in [512, 4096] {
        let Some(target) = LoopDevice::new(8 * MIB, block) else { return };
        let device = UringDevice::open(&target.path, OpenMode::ReadWrite, true).unwrap();
        let expected = Geometry { size_bytes: 8 * MIB, logical_block_bytes: block, is_block_device: true };
        assert_eq!(device.geometry(), expected);
        assert_eq!(super::geometry(&target.path), Ok(expected));
        round_trip(&device);
        if block == 4096 {
            let mut buffer = AlignedBuf::zeroed(512);
            assert!(matches!(device.read(0, &mut buffer), Err(DeviceError::Unaligned { alignment: 4096, .. })));
        }
        // The claim: refused while open, also though rings of this thread exist; free at once after the drop.
        let second = UringDevice::open(&target.path, OpenMode::ReadWrite, true);
        assert!(matches!(second, Err(DeviceError::InUse { .. })));
        drop(device);
        drop(UringDevice::open(&target.path, OpenMode::ReadWrite, true).unwrap());
    }
}

/// A file system without `RWF_DSYNC`: the kernel refuses the request itself.
#[test]
fn a_file_that_refuses_durable_writes_is_flushed() {
    let image = Image::new(8 * MIB);
    let device = image.open();
    device.opened.refuses_durable.store(true, Ordering::Relaxed);
    let clock = crate::hlc::SystemClock::new();
    let found = super::super::calibrate(&device, &clock, 0..MIB).unwrap();
    assert_eq!((found.barrier, found.rounds), (envoyfs_layout::superblock::Barrier::Flush, 0));
    // Neither who writes himself nor the write thread takes a refusal for a lost write.
    for lazy in [true, false] {
        let write = Write::whole(MIB, filled(&device, 4096, 1)).durable();
        let refused = device.submit(if lazy { write.lazy() } else { write }).wait();
        assert!(matches!(refused, Err(DeviceError::Io { errno: libc::EOPNOTSUPP, .. })), "{refused:?}");
        device.submit(Write::whole(MIB, filled(&device, 4096, 2))).wait().unwrap();
        device.flush().unwrap();
    }
    let mut read = device.buffers().take(4096);
    device.read(MIB, &mut read).unwrap();
    assert!(read.as_slice().iter().all(|byte| *byte == 2));
}

#[test]
fn discarded_ranges_read_as_zero_on_a_file_and_a_loop_device() {
    let image = Image::new(4 * MIB);
    let target = LoopDevice::new(4 * MIB, 512);
    for path in std::iter::once(image.path()).chain(target.as_ref().map(|target| target.path.clone())) {
        let device = UringDevice::open(path, OpenMode::ReadWrite, true).unwrap();
        device.submit(Write::whole(0, filled(&device, 1 << 20, 7))).wait().unwrap();
        match device.discard(0, MIB) {
            Ok(()) => {
                let mut buffer = device.buffers().take(1 << 20);
                device.read(0, &mut buffer).unwrap();
                assert!(buffer.as_slice().iter().all(|byte| *byte == 0));
            }
            Err(error) => assert!(error.is_unsupported(), "{error}"),
        }
    }
}

#[test]
fn unaligned_and_out_of_range_requests_are_refused() {
    let image = Image::new(MIB);
    let device = image.open();
    let mut buffer = AlignedBuf::zeroed(4096);
    assert!(matches!(device.read(100, &mut buffer), Err(DeviceError::Unaligned { offset: 100, .. })));
    assert!(matches!(device.read(MIB, &mut buffer), Err(DeviceError::ShortDevice { .. })));
    assert!(matches!(device.read(u64::MAX - 4095, &mut buffer), Err(DeviceError::ShortDevice { .. })));
    let shared = Arc::new(buffer);
    let write = |offset, range| device.submit(Write::part(offset, Arc::clone(&shared), range)).wait();
    assert!(matches!(write(1, 0..4096), Err(DeviceError::Unaligned { .. })));
    assert!(matches!(write(0, 0..0), Err(DeviceError::Unaligned { .. })));
    assert!(matches!(write(0, 0..100), Err(DeviceError::Unaligned { .. })));
    assert!(matches!(write(0, 0..8192), Err(DeviceError::OutsideBuffer { .. })));
    assert!(matches!(write(MIB - 512, 0..4096), Err(DeviceError::ShortDevice { .. } | DeviceError::Unaligned { .. })));
    assert_eq!(device.discard(0, 2 * MIB).unwrap_err().errno(), None);
}

#[test]
fn a_second_exclusive_open_is_refused_until_the_first_ends() {
    let image = Image::new(MIB);
    let device = image.open();
    let mut buffer = AlignedBuf::zeroed(4096);
    device.read(0, &mut buffer).unwrap();
    let again = || UringDevice::open(image.path(), OpenMode::ReadWrite, true);
    assert!(matches!(again(), Err(DeviceError::InUse { .. })));
    assert!(UringDevice::open(image.path(), OpenMode::ReadOnly, false).is_ok());
    drop(device);
    assert!(again().is_ok());
}

#[test]
fn a_read_only_device_refuses_changes() {
    let image = Image::new(MIB);
    let device = UringDevice::open(image.path(), OpenMode::ReadOnly, false).unwrap();
    let refused = DeviceError::ReadOnly { operation: Operation::Write };
    assert_eq!(device.submit(Write::whole(0, AlignedBuf::zeroed(4096))).wait(), Err(refused));
    assert_eq!(device.flush(), Err(DeviceError::ReadOnly { operation: Operation::Flush }));
    assert_eq!(device.discard(0, 4096), Err(DeviceError::ReadOnly { operation: Operation::Discard }));
}

#[test]
fn what_is_no_device_is_refused_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().to_path_buf(), dir.path().join("missing"), PathBuf::from("/dev/null")] {
        let error = UringDevice::open(&path, OpenMode::ReadWrite, true).unwrap_err();
        assert!(matches!(&error, DeviceError::Open { path: named, .. } if *named == path), "{error}");
    }
}

#[test]
fn many_writers_and_readers_at_once_see_their_own_bytes() {
    let image = Image::new(32 * MIB);
    let device = image.open();
    std::thread::scope(|scope| {
        for thread in 0..8_u8 {
            let device = &device;
            scope.spawn(move || {
                let base = u64::from(thread) * 4 * MIB;
                for round in 0..4_u8 {
                    let tickets: Vec<Ticket> = (0..100_u8)
                        .map(|index| {
                            let mark = thread.wrapping_mul(31).wrapping_add(round).wrapping_add(index);
                            let offset = base + u64::from(index) * 8192;
                            device.submit(Write::whole(offset, filled(device, 8192, mark)))
                        })
                        .collect();
                    tickets.iter().for_each(|ticket| ticket.wait().unwrap());
                    device.flush().unwrap();
                    let mut buffer = device.buffers().take(8192);
                    for index in 0..100_u8 {
                        device.read(base + u64::from(index) * 8192, &mut buffer).unwrap();
                        let mark = thread.wrapping_mul(31).wrapping_add(round).wrapping_add(index);
                        assert!(buffer.as_slice().iter().all(|byte| *byte == mark));
                    }
                }
            });
        }
    });
}

#[test]
fn dropping_the_device_completes_the_writes_under_way() {
    let image = Image::new(64 * MIB);
    let called = Arc::new(AtomicUsize::new(0));
    let device = image.open();
    let buffer = Arc::new(filled(&device, 65536, 9));
    let tickets: Vec<Ticket> =
        (0..1024).map(|index| device.submit(Write::whole(index * 65536, Arc::clone(&buffer)))).collect();
    for ticket in &tickets {
        let called = Arc::clone(&called);
        ticket.on_done(Box::new(move |result| {
            assert_eq!(result, Ok(()));
            called.fetch_add(1, Ordering::SeqCst);
        }));
    }
    drop(device);
    assert!(tickets.iter().all(Ticket::is_done));
    assert_eq!(called.load(Ordering::SeqCst), 1024);
    assert!(std::fs::read(image.path()).unwrap().iter().all(|byte| *byte == 9));
}

#[test]
fn the_last_reference_may_go_in_a_completion_function() {
    let image = Image::new(MIB);
    for _ in 0..50 {
        let device = Arc::new(image.open());
        let (done, is_done) = crossbeam::channel::bounded(1);
        let ticket = device.submit(Write::whole(0, filled(&*device, 4096, 1)));
        let held = Arc::clone(&device);
        drop(device);
        ticket.on_done(Box::new(move |result| {
            drop(held);
            let _ = done.send(result);
        }));
        assert_eq!(is_done.recv().unwrap(), Ok(()));
        // The thread ends by itself and gives up the claim soon.
        let mut tries = 0;
        while UringDevice::open(image.path(), OpenMode::ReadWrite, true).is_err() {
            tries += 1;
            assert!(tries < 1_000_000);
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_completion_function_may_submit_the_next_write() {
    let image = Image::new(MIB);
    let device = Arc::new(image.open());
    let (done, is_done) = crossbeam::channel::bounded(1);
    fn chain(device: Arc<UringDevice>, left: u64, done: crossbeam::channel::Sender<()>) {
        let buffer = filled(&*device, 4096, 5);
        device.submit(Write::whole(left * 4096, buffer)).on_done(Box::new(move |result| {
            result.unwrap();
            match left.checked_sub(1) {
                Some(left) => chain(device, left, done),
                None => done.send(()).unwrap(),
            }
        }));
    }
    chain(Arc::clone(&device), 255, done);
    is_done.recv().unwrap();
    drop(device);
    assert!(std::fs::read(image.path()).unwrap().iter().all(|byte| *byte == 5));
}

#[test]
fn a_file_that_shrank_is_a_short_device() {
    let image = Image::new(MIB);
    let device = image.open();
    std::fs::File::options().write(true).open(image.path()).unwrap().set_len(MIB / 2).unwrap();
    let mut buffer = AlignedBuf::zeroed(8192);
    assert!(
        matches!(device.read(MIB / 2 - 4096, &mut buffer), Err(DeviceError::ShortDevice { size, .. }) if size == MIB / 2)
    );
}

#[test]
fn threads_that_end_give_their_rings_back() {
    let image = Image::new(MIB);
    let device = Arc::new(image.open());
    for _ in 0..64 {
        let device = Arc::clone(&device);
        let read = move || device.read(0, &mut AlignedBuf::zeroed(4096));
        std::thread::Builder::new().spawn(read).unwrap().join().unwrap().unwrap();
    }
    assert!(device.reads.live() <= 2, "{} rings", device.reads.live());
}

#[test]
fn after_a_failed_flush_changes_are_refused_and_reads_go_on() {
    let image = Image::new(MIB);
    let device = image.open();
    // No file system here fails on demand; the latch is what is tested.
    device.flush_failed.store(true, Ordering::Release);
    let poisoned = |operation| Err(DeviceError::Poisoned { operation });
    assert_eq!(device.submit(Write::whole(0, AlignedBuf::zeroed(4096))).wait(), poisoned(Operation::Write));
    assert_eq!(device.flush(), poisoned(Operation::Flush));
    assert_eq!(device.discard(0, 4096), poisoned(Operation::Discard));
    assert_eq!(device.read(0, &mut AlignedBuf::zeroed(4096)), Ok(()));
}

/// The system reports a lost write back once. Whoever gets that report is stopped before he can say so.
#[test]
fn a_flush_does_not_succeed_when_another_has_taken_the_report_of_a_lost_write() {
    let image = Image::new(MIB);
    let device = &image.open();
    let (taken, is_taken) = crossbeam::channel::bounded(1);
    let (go, may_go) = crossbeam::channel::bounded(1);
    *device.opened.failing_sync.lock() = Some(Box::new(move || {
        taken.send(()).unwrap();
        may_go.recv().unwrap();
        libc::EIO
    }));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| device.flush());
        is_taken.recv().unwrap();
        let (done, is_done) = crossbeam::channel::bounded(1);
        let second = scope.spawn(move || {
            let outcome = device.flush();
            let _ = done.send(());
            outcome
        });
        // Time for a flush that does not wait for the other.
        let _ = is_done.recv_timeout(std::time::Duration::from_millis(200));
        go.send(()).unwrap();
        assert!(matches!(first.join().unwrap(), Err(DeviceError::Io { errno: libc::EIO, .. })));
        assert_eq!(second.join().unwrap(), Err(DeviceError::Poisoned { operation: Operation::Flush }));
    });
}

/// Forbids `io_uring_setup` to this thread and those that it starts.
fn forbid_io_uring() {
    let statement = |code: u32, jt, jf, k: u32| libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf, k };
    let number = u32::try_from(libc::SYS_io_uring_setup).unwrap();
    let eperm = libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EPERM).unwrap();
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, eperm),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: the kernel copies the filter during the call.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
    }
}

#[test]
fn a_forbidden_io_uring_is_told_with_the_setting_to_change() {
    let image = Image::new(MIB);
    let path = image.path();
    let open = move || {
        forbid_io_uring();
        UringDevice::open(path, OpenMode::ReadWrite, true).map(|_| ())
    };
    let error = std::thread::Builder::new().spawn(open).unwrap().join().unwrap().unwrap_err();
    assert!(matches!(error, DeviceError::UringUnavailable { errno: libc::EPERM, .. }));
    assert!(error.to_string().contains("kernel.io_uring_disabled"), "{error}");
}

/// Runs `work` on its own thread, which counts its steps. A lost wake-up shows as a failure and not as a hang: as a minute without a step, however slow the machine is.
fn without_a_hang(work: impl FnOnce(&AtomicUsize) + Send + 'static) {
    let (done, is_done) = crossbeam::channel::bounded(1);
    let steps = Arc::new(AtomicUsize::new(0));
    let run = {
        let steps = Arc::clone(&steps);
        move || {
            work(&steps);
            let _ = done.send(());
        }
    };
    let thread = std::thread::Builder::new().spawn(run).unwrap();
    let mut seen = None;
    while is_done.recv_timeout(std::time::Duration::from_secs(60)) == Err(RecvTimeoutError::Timeout) {
        let now = steps.load(Ordering::Relaxed);
        assert_ne!(seen.replace(now), Some(now), "no step in a minute: a wake-up was lost");
    }
    thread.join().unwrap();
}

/// Asks without sleeping, so that the next step meets the write thread on its way to sleep. On a machine that has more to do it would keep the write thread
/// from its processor by asking: then that one goes first.
fn spin(ticket: &Ticket, turns: u32) {
    let mut asked = 0;
    while !ticket.is_done() {
        std::hint::spin_loop();
        asked += 1;
        if asked % 4096 == 0 {
            std::thread::yield_now();
        }
    }
    (0..turns).for_each(|_| std::hint::spin_loop());
}

#[test]
fn a_write_submitted_while_the_thread_falls_asleep_is_not_forgotten() {
    let image = Image::new(MIB);
    let device = image.open();
    let buffer = Arc::new(filled(&device, 4096, 1));
    without_a_hang(move |steps| {
        for turn in 0..8_000 {
            spin(&device.submit(Write::whole(0, Arc::clone(&buffer))), turn % 64);
            steps.fetch_add(1, Ordering::Relaxed);
        }
    });
}

#[test]
fn writes_behind_a_busy_device_are_made_though_nobody_waits_and_small_ones_come_through() {
    let image = Image::new(64 * MIB);
    let device = image.open();
    let large = Arc::new(filled(&device, 1 << 20, 1));
    let small = Arc::new(filled(&device, 4096, 2));
    without_a_hang(move |steps| {
        let (done, is_done) = crossbeam::channel::unbounded();
        for turn in 0..200_u64 {
            for index in 0..turn % 16 {
                let done = done.clone();
                let ticket = device.submit(Write::whole(index * MIB, Arc::clone(&large)));
                ticket.on_done(Box::new(move |outcome| done.send(outcome).unwrap()));
            }
            device.submit(Write::whole(32 * MIB, Arc::clone(&small))).wait().unwrap();
            // Nobody drives these, and nothing else wakes the thread for the last ones.
            (0..turn % 16).for_each(|_| is_done.recv().unwrap().unwrap());
            steps.fetch_add(1, Ordering::Relaxed);
        }
        assert_eq!(byte_at(&device, 32 * MIB), 2);
    });
}

#[test]
fn a_drop_while_the_thread_falls_asleep_does_not_hang() {
    let image = Image::new(MIB);
    without_a_hang(move |steps| {
        let buffer = Arc::new(AlignedBuf::zeroed(4096));
        for turn in 0..200 {
            let pool = BufferPool::heap().clone();
            let mut device = UringDevice::open_with_pool(image.path(), OpenMode::ReadWrite, true, pool).unwrap();
            spin(&device.submit(Write::whole(0, Arc::clone(&buffer))), turn % 64);
            // Before the rest of the device, whose end would take longer than falling asleep.
            drop(device.writes.take());
            steps.fetch_add(1, Ordering::Relaxed);
        }
    });
}

fn block_of(index: u64) -> u8 {
    u8::try_from(index % 251).unwrap()
}

#[test]
fn a_queue_of_reads_returns_each_its_own_bytes_whatever_the_depth() {
    let image = Image::new(4 * MIB);
    let device = image.open();
    for index in 0..1024 {
        drop(device.submit(Write::whole(index * 4096, filled(&device, 4096, block_of(index)))));
    }
    device.submit(Write::whole(0, filled(&device, 4096, 0))).wait().unwrap();
    drop(device);
    let device = image.open();
    for depth in [1, 7, 64] {
        let mut reads = device.own_reads(depth).unwrap().unwrap();
        let mut random = Random::new(depth.into());
        for tag in 0..500 {
            let index = widen(random.below(1000));
            let length = 4096 * (1 + random.below(3));
            // Half of them from the heap: not registered.
            let buffer = if tag % 2 == 0 { device.buffers().take(length) } else { AlignedBuf::zeroed(length) };
            reads.submit(index, index * 4096, buffer);
        }
        assert_eq!(reads.under_way(), 500);
        let mut done = Vec::new();
        reads.wait(0, &mut done);
        while reads.under_way() > 0 {
            reads.wait(3, &mut done);
        }
        assert_eq!(done.len(), 500);
        for read in done {
            read.outcome.unwrap();
            for (number, block) in read.buffer.as_slice().chunks(4096).enumerate() {
                assert!(block.iter().all(|byte| *byte == block_of(read.tag + widen(number))));
            }
        }
    }
}

#[test]
fn a_queue_tells_errors_of_each_read_and_may_be_dropped_with_reads_under_way() {
    let image = Image::new(4 * MIB);
    let device = image.open();
    let mut reads = device.own_reads(8).unwrap().unwrap();
    reads.submit(1, 100, AlignedBuf::zeroed(4096));
    reads.submit(2, 4 * MIB, AlignedBuf::zeroed(4096));
    reads.submit(3, 0, AlignedBuf::zeroed(4096));
    // The file becomes shorter below the open device.
    std::fs::File::options().write(true).open(image.path()).unwrap().set_len(MIB).unwrap();
    reads.submit(4, 2 * MIB, AlignedBuf::zeroed(4096));
    let mut done = Vec::new();
    reads.wait(9, &mut done);
    done.sort_by_key(|read| read.tag);
    let outcomes: Vec<_> = done.iter().map(|read| &read.outcome).collect();
    assert!(matches!(
        outcomes.as_slice(),
        [
            Err(DeviceError::Unaligned { .. }),
            Err(DeviceError::ShortDevice { offset: 4_194_304, .. }),
            Ok(()),
            Err(DeviceError::ShortDevice { offset: 2_097_152, .. })
        ]
    ));
    for tag in 0..100 {
        reads.submit(tag, 0, device.buffers().take(1 << 20));
    }
    reads.wait(0, &mut done);
    drop(reads);
    // All slots of the arena are back.
    let all: Vec<AlignedBuf> = (0..20).map(|_| device.buffers().take(1 << 20)).collect();
    let arena = device.buffers().arena().unwrap();
    let in_arena = all.iter().filter(|buffer| buffer.is_in(arena)).count();
    assert_eq!(in_arena + done.iter().filter(|read| read.buffer.is_in(arena)).count(), 20);
}

/// Threads with queues of their own on one device, which lose some of them with reads under way, while others write: each buffer holds what was read into it
/// and nothing else, and all slots of the arena come back.
#[test]
fn many_queues_at_once_keep_their_buffers_apart_also_when_dropped_under_way() {
    let image = Image::new(8 * MIB);
    let device = image.open();
    for index in 0..2048 {
        drop(device.submit(Write::whole(index * 4096, filled(&device, 4096, block_of(index)))));
    }
    device.submit(Write::whole(0, filled(&device, 4096, 0))).wait().unwrap();
    device.flush().unwrap();
    drop(device);
    let device = image.open();
    std::thread::scope(|scope| {
        for thread in 0..6_u64 {
            let device = &device;
            scope.spawn(move || {
                let mut random = Random::new(thread);
                for _ in 0..12 {
                    let mut reads = device.own_reads(16).unwrap().unwrap();
                    for tag in 0..100 {
                        let index = widen(random.below(2048));
                        reads.submit(index, index * 4096, device.buffers().take(4096));
                        let mut done = Vec::new();
                        reads.wait(usize::from(tag % 7 == 0), &mut done);
                        for read in done {
                            read.outcome.unwrap();
                            assert!(read.buffer.as_slice().iter().all(|byte| *byte == block_of(read.tag)));
                        }
                    }
                    // Dropped with whatever is under way.
                }
            });
        }
        scope.spawn(|| {
            for index in 0..500 {
                let at = index % 2048;
                device.submit(Write::whole(at * 4096, filled(&device, 4096, block_of(at)))).wait().unwrap();
            }
        });
    });
    let all: Vec<AlignedBuf> = (0..1024).map(|_| device.buffers().take(4096)).collect();
    assert!(all.iter().all(|buffer| buffer.is_in(device.buffers().arena().unwrap())));
}

fn lazy(device: &UringDevice, offset: u64, mark: u8) -> Ticket {
    device.submit(Write::whole(offset, filled(device, 4096, mark)).lazy())
}

fn byte_at(device: &UringDevice, offset: u64) -> u8 {
    let mut read = device.buffers().take(4096);
    device.read(offset, &mut read).unwrap();
    read.as_slice()[0]
}

#[test]
fn whoever_waits_for_one_lazy_write_writes_all_that_are_held() {
    let image = Image::new(MIB);
    let device = image.open();
    // Neighbours in any order, and some that stand alone.
    let offsets = [8192, 0, 4096, 65536, 131_072, 69632];
    let tickets: Vec<Ticket> = offsets.iter().zip(1..).map(|(offset, mark)| lazy(&device, *offset, mark)).collect();
    // As long as a write takes that is not held.
    device.submit(Write::whole(MIB / 2, filled(&device, 4096, 9))).wait().unwrap();
    assert!(tickets.iter().all(|ticket| !ticket.is_done()), "nobody waits yet");
    tickets[2].wait().unwrap();
    assert!(tickets.iter().all(Ticket::is_done));
    for (offset, mark) in offsets.iter().zip(1..) {
        assert_eq!(byte_at(&device, *offset), mark, "{offset}");
    }
}

#[test]
fn too_many_lazy_writes_and_those_held_when_the_device_is_dropped_are_written() {
    let image = Image::new(4 * MIB);
    let device = image.open();
    let tickets: Vec<Ticket> = (0..300).map(|index| lazy(&device, index * 4096, block_of(index) + 1)).collect();
    without_a_hang({
        let first = tickets[0].clone();
        move |_| spin(&first, 0)
    });
    drop(device);
    assert!(tickets.iter().all(|ticket| ticket.outcome() == Some(Ok(()))));
    let device = image.open();
    (0..300).for_each(|index| assert_eq!(byte_at(&device, index * 4096), block_of(index) + 1));
}

#[test]
fn threads_that_submit_and_wait_for_lazy_writes_at_once_all_come_through() {
    let image = Image::new(4 * MIB);
    let device = Arc::new(image.open());
    without_a_hang(move |steps| {
        std::thread::scope(|scope| {
            for thread in 0..8_u64 {
                let device = &device;
                scope.spawn(move || {
                    for turn in 0..500_u64 {
                        let (place, mark) = (thread * 8 + turn % 8, block_of(thread + turn));
                        let ticket = lazy(device, place * 4096, mark);
                        let called = Arc::new(AtomicBool::new(false));
                        let flag = Arc::clone(&called);
                        ticket.on_done(Box::new(move |_| flag.store(true, Ordering::SeqCst)));
                        ticket.wait().unwrap();
                        assert_eq!(byte_at(device, place * 4096), mark);
                        steps.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        drop(device);
    });
}
