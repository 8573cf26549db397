//! What goes wrong with writes that were joined to one request: part of it arrives, part of it fails, no memory may be locked.
//!
//! Limits are those of a process, so such a test runs itself again in a child: [`in_child`].

use super::super::super::super::{AlignedBuf, Ticket};
use super::super::super::{Device, OpenMode, UringDevice};
use super::*;
use std::path::{Path, PathBuf};
use std::process::Command;

const BLOCK: usize = 4096;

thread_local! {
    /// Enters of this thread that fail from now on, and whether the last of them hands over to the kernel what is in the ring: sooner, all of it could complete before.
    static BROKEN: std::cell::Cell<(u32, bool)> = const { std::cell::Cell::new((0, false)) };
}

pub(super) fn broken(ring: &mut Ring) -> std::io::Result<()> {
    let (left, hands_over) = BROKEN.get();
    if left == 0 {
        return Ok(());
    }
    BROKEN.set((left - 1, hands_over));
    if hands_over && left == 1 {
        ring.uring.submit().unwrap();
    }
    Err(std::io::Error::from_raw_os_error(libc::EBADF))
}
const LIMITED: &str = "ENVOYFS_TEST_LIMITED";

/// Runs the test `name` again, as a process that `limit` (shell commands) was done to; the parent returns `None`, the child the folder of an image of 4 MiB.
fn in_child(name: &str, limit: &str) -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os(LIMITED) {
        return Some(folder.into());
    }
    let folder = image(4 << 20);
    let test = std::env::current_exe().unwrap();
    let script = format!("{limit} exec \"$@\"");
    let name = format!("device::uring::held::own_ring::tests::{name}");
    let output = Command::new("sh")
        .args(["-c", &script, "sh"])
        .arg(test)
        .args(["--exact", &name, "--nocapture", "--test-threads=1"])
        .env(LIMITED, folder.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && told.contains("1 passed"),
        "{told}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    None
}

fn filled(mark: u8) -> AlignedBuf {
    let mut buffer = AlignedBuf::zeroed(BLOCK);
    buffer.as_mut_slice().fill(mark);
    buffer
}

fn image(bytes: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::File::create(dir.path().join("image")).unwrap().set_len(bytes).unwrap();
    dir
}

fn open(dir: &Path) -> UringDevice {
    UringDevice::open(dir.join("image"), OpenMode::ReadWrite, true).unwrap()
}

fn lazily(device: &UringDevice, block: u64, mark: u8) -> Ticket {
    device.submit(Write::whole(block * BLOCK as u64, filled(mark)).lazy())
}

fn marks(device: &UringDevice, blocks: std::ops::Range<u64>) -> Vec<u8> {
    let read = |block: u64| {
        let mut buffer = device.buffers().take(BLOCK);
        device.read(block * BLOCK as u64, &mut buffer).unwrap();
        buffer.as_slice()[0]
    };
    blocks.map(read).collect()
}

/// The file may grow to 64 KiB only: of a request across that, the kernel writes the first part, and answers the rest with EFBIG.
#[test]
fn the_error_of_a_joined_write_goes_to_each_of_its_parts_and_to_no_other() {
    let Some(folder) = in_child(
        "the_error_of_a_joined_write_goes_to_each_of_its_parts_and_to_no_other",
        "trap '' XFSZ; prlimit --pid $$ --fsize=65536:65536 || exit 1;",
    ) else {
        return;
    };
    let device = open(&folder);
    // Blocks 14 to 17 are one request, of which 16 and 17 are beyond the limit; block 2 is another.
    let tickets: Vec<Ticket> = (14..18).map(|block| lazily(&device, block, 7)).collect();
    let other = lazily(&device, 2, 9);
    for (block, ticket) in (14..).zip(&tickets) {
        let outcome = ticket.wait();
        assert!(
            matches!(outcome, Err(DeviceError::Io { errno: libc::EFBIG, .. })),
            "block {block} of a request that failed: {outcome:?}"
        );
    }
    other.wait().unwrap();
    // What was told as failed may be there, and the device goes on.
    assert_eq!(marks(&device, 2..3), [9]);
    assert_eq!(marks(&device, 14..16), [7, 7], "the first part of the request arrived");
    lazily(&device, 3, 5).wait().unwrap();
    assert_eq!(marks(&device, 3..4), [5]);
}

/// Each prefix that the kernel may have written of a joined request: the rest begins in the right piece, at the right byte.
#[test]
fn a_joined_write_goes_on_where_the_kernel_stopped() {
    let dir = image(1 << 20);
    let (opened, _claim) =
        super::super::super::open::open(&dir.path().join("image"), OpenMode::ReadWrite, true).unwrap();
    let ring = Ring::new(4, &Arc::new(opened), BufferPool::heap()).unwrap();
    let job = |block: u64| {
        let (_, completion) = Ticket::pair_driven_by(None);
        Job::new(Write::whole(block * BLOCK as u64, filled(u8::try_from(block).unwrap())), completion)
    };
    let jobs: Vec<Job> = (1..4).map(job).collect();
    let memory: Vec<*const u8> = jobs.iter().map(|job| job.write.bytes().unwrap().as_ptr()).collect();
    for done in (0..3 * BLOCK).step_by(512) {
        let mut run = Run::new(0..3, BLOCK as u64, 3 * BLOCK, false);
        if done > 0 {
            assert!(run.answered(i32::try_from(done).unwrap()), "it is not complete");
        }
        let _ = run.entry(&ring, &jobs);
        let first = done / BLOCK;
        assert_eq!(run.pieces.len(), 3 - first);
        assert_eq!(run.pieces.iter().map(|piece| piece.iov_len).sum::<usize>(), 3 * BLOCK - done);
        assert_eq!(run.pieces[0].iov_base.cast_const().cast::<u8>(), memory[first].wrapping_add(done % BLOCK));
        // The rest, then nothing more: success; or the end of the device, in the middle.
        let rest = i32::try_from(3 * BLOCK - done).unwrap();
        assert!(!run.answered(rest) && matches!(run.outcome, Some(Ok(()))));
    }
    let mut run = Run::new(0..3, BLOCK as u64, 3 * BLOCK, false);
    assert!(run.answered(512) && run.answered(-libc::EINTR) && run.answered(-libc::EAGAIN) && !run.answered(0));
    assert!(matches!(run.outcome, Some(Err(DeviceError::ShortDevice { size, .. })) if size == BLOCK as u64 + 512));
}

/// Root may lock what it likes, unless the capability is gone.
fn locked_at_most(bytes: u32) -> String {
    format!(
        "prlimit --pid $$ --memlock={bytes}:{bytes} || exit 1; \
         if [ \"$(id -u)\" = 0 ]; then set -- setpriv --bounding-set -ipc_lock \"$@\"; fi;"
    )
}

/// Where the kernel counts rings as locked memory, the error names the limit; elsewhere it works.
#[test]
fn a_ring_that_has_no_memory_is_told_with_the_limit_to_raise() {
    let name = "a_ring_that_has_no_memory_is_told_with_the_limit_to_raise";
    let Some(folder) = in_child(name, &locked_at_most(0)) else { return };
    match UringDevice::open(folder.join("image"), OpenMode::ReadWrite, true) {
        Ok(device) => lazily(&device, 1, 1).wait().unwrap(),
        Err(error) => {
            assert!(matches!(error, DeviceError::UringUnavailable { errno: libc::ENOMEM, .. }), "{error:?}");
            assert!(error.to_string().contains("ulimit -l"), "{error}");
        }
    }
}

/// Registering the arena is refused: everything works, from memory that is not registered.
#[test]
fn a_device_works_where_no_memory_may_be_locked() {
    let Some(folder) = in_child(
        "a_device_works_where_no_memory_may_be_locked",
        // The rings themselves need some on some kernels; the arena has 32 MiB.
        &locked_at_most(4 << 20),
    ) else {
        return;
    };
    let device = open(&folder);
    let arena = device.pool.arena().unwrap();
    let ring = Ring::new(4, &device.opened, &device.pool).unwrap();
    let from_pool = device.buffers().take(BLOCK);
    assert!(
        from_pool.is_in(arena) && !ring.has_registered(&from_pool),
        "it was registered after all: nothing is tested"
    );
    let mut buffer = device.buffers().take(BLOCK);
    buffer.as_mut_slice().fill(3);
    device.submit(Write::whole(0, buffer)).wait().unwrap();
    let tickets: Vec<Ticket> = (1..9).map(|block| lazily(&device, block, 4)).collect();
    tickets.iter().for_each(|ticket| ticket.wait().unwrap());
    device.submit(Write::whole(9 * BLOCK as u64, filled(5)).durable()).wait().unwrap();
    device.flush().unwrap();
    assert_eq!(marks(&device, 0..10), [3, 4, 4, 4, 4, 4, 4, 4, 4, 5]);
    let mut reads = device.own_reads(8).unwrap().unwrap();
    for tag in 0..10 {
        reads.submit(tag, tag * BLOCK as u64, device.buffers().take(BLOCK));
    }
    let mut done = Vec::new();
    reads.wait(10, &mut done);
    assert!(done.len() == 10 && done.iter().all(|read| read.outcome.is_ok() && read.buffer.as_slice()[0] >= 3));
}

fn own_ring(folder: &Path) -> (OwnRing, Arc<AtomicBool>) {
    let (opened, _claim) = super::super::super::open::open(&folder.join("image"), OpenMode::ReadWrite, false).unwrap();
    let flush_failed = Arc::new(AtomicBool::new(false));
    (OwnRing::new(Arc::new(opened), None, Arc::clone(&flush_failed)), flush_failed)
}

fn jobs_of(blocks: std::ops::Range<u64>, mark: u8) -> Vec<Job> {
    let job = |block: u64| {
        let (_, completion) = Ticket::pair_driven_by(None);
        Job::new(Write::whole(block * BLOCK as u64, filled(mark)), completion)
    };
    blocks.map(job).collect()
}

/// Whether the kernel has the writes or not: everybody is answered, the ring is gone and used no more, and what it may still write from is nobody else's.
#[test]
fn a_ring_that_cannot_be_entered_is_given_up_with_all_that_is_in_it() {
    for hands_over in [false, true] {
        let dir = image(1 << 20);
        let (own, flush_failed) = own_ring(dir.path());
        assert_eq!(own.write(jobs_of(0..3, 1)).ok().unwrap().len(), 3);
        assert!(!flush_failed.load(Ordering::Acquire));
        BROKEN.set((ATTEMPTS + 1, hands_over));
        // A request of two pieces, and one alone.
        let mut jobs = jobs_of(8..10, 7);
        jobs.extend(jobs_of(12..13, 7));
        let memory: Vec<std::sync::Weak<AlignedBuf>> = jobs.iter().map(|job| Arc::downgrade(&job.write.buf)).collect();
        let done = own.write(jobs).ok().unwrap();
        assert_eq!(BROKEN.get().0, 0);
        assert_eq!(done.len(), 3);
        let told = |outcome: &Result<(), DeviceError>| match outcome {
            Ok(()) => hands_over,
            Err(error) => error.errno() == Some(libc::EBADF),
        };
        for (completion, outcome) in done {
            assert!(told(&outcome), "{outcome:?}");
            // Only what was answered well is given back.
            completion.complete(outcome);
        }
        assert!(flush_failed.load(Ordering::Acquire) && own.rings.own().unwrap().lock().is_none());
        if !hands_over {
            assert!(memory.iter().all(|buffer| buffer.upgrade().is_some()), "the kernel may have it");
        }
        // Nothing is written by this thread any more, and no late completion is taken for that of another write.
        let refused = own.write(jobs_of(20..22, 9)).err().unwrap();
        assert_eq!(refused.len(), 2);
        drop((own, refused));
        let device = open(dir.path());
        device.flush().unwrap();
        let found = marks(&device, 0..24);
        for (block, mark) in found.into_iter().enumerate() {
            let fits = match block {
                0..3 => mark == 1,
                8..10 | 12 => mark == 0 || hands_over && mark == 7,
                _ => mark == 0,
            };
            assert!(fits, "block {block} holds {mark}");
        }
    }
}

#[test]
fn a_ring_that_can_be_entered_again_goes_on() {
    let dir = image(1 << 20);
    let (own, flush_failed) = own_ring(dir.path());
    BROKEN.set((ATTEMPTS, false));
    let done = own.write(jobs_of(0..3, 5)).ok().unwrap();
    assert!(done.iter().all(|(_, outcome)| outcome.is_ok()) && !flush_failed.load(Ordering::Acquire));
    assert_eq!(own.write(jobs_of(3..4, 6)).ok().unwrap().len(), 1);
    assert_eq!(marks(&open(dir.path()), 0..5), [5, 5, 5, 6, 0]);
}

/// The whole device: who waits is told, later writes and flushes are refused, reads go on.
#[test]
fn a_device_whose_ring_was_given_up_promises_nothing_more() {
    let dir = image(1 << 20);
    let device = open(dir.path());
    lazily(&device, 1, 1).wait().unwrap();
    BROKEN.set((ATTEMPTS + 1, false));
    let tickets: Vec<Ticket> = (2..5).map(|block| lazily(&device, block, 2)).collect();
    assert!(tickets.iter().all(|ticket| ticket.wait().is_err()));
    let later = lazily(&device, 6, 3).wait();
    assert!(matches!(later, Err(DeviceError::Poisoned { .. })), "{later:?}");
    assert!(matches!(device.flush(), Err(DeviceError::Poisoned { .. })));
    assert_eq!(marks(&device, 1..7), [1, 0, 0, 0, 0, 0]);
}
