//! Not a test of anything: prints rates for a report. Run by name:
//! `cargo test --release -p envoyfs-engine --lib device::uring::bench -- --ignored --nocapture --test-threads 1`.
//! `ENVOYFS_BENCH_DIR` chooses the file system (default: the temporary directory), `ENVOYFS_BENCH_SECONDS` the length.

#![expect(clippy::disallowed_methods, reason = "measures elapsed time")]

use super::super::random::Random;
use super::*;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::time::{Duration, Instant};

const SIZE: u64 = 1 << 30;
const BLOCK: usize = 4096;
/// Alternated, so that drift of the machine shows as spread.
const ROUNDS: usize = 5;

struct Setup {
    _dir: tempfile::TempDir,
    path: PathBuf,
    round: Duration,
}

fn setup() -> Setup {
    let parent = std::env::var_os("ENVOYFS_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let seconds = std::env::var("ENVOYFS_BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1.0);
    let dir = tempfile::tempdir_in(parent).unwrap();
    let path = dir.path().join("image");
    let file = std::fs::File::create(&path).unwrap();
    let chunk = vec![0x5A; 1 << 20];
    (0..SIZE >> 20).for_each(|index| file.write_all_at(&chunk, index << 20).unwrap());
    file.sync_all().unwrap();
    Setup { _dir: dir, path, round: Duration::from_secs_f64(seconds) }
}

fn offsets() -> impl FnMut() -> u64 {
    let mut random = Random::new(7);
    move || widen(random.below(usize::try_from(SIZE).unwrap() / BLOCK) * BLOCK)
}

/// Calls `once` for the length of a round; calls a second.
fn rate(round: Duration, mut once: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut calls = 0_u32;
    while start.elapsed() < round {
        (0..16).for_each(|_| once());
        calls += 16;
    }
    f64::from(calls) / start.elapsed().as_secs_f64()
}

fn report(name: &str, mut rates: Vec<f64>) {
    rates.sort_by(f64::total_cmp);
    let (lowest, median, highest) = (rates[0], rates[rates.len() / 2], rates[rates.len() - 1]);
    println!("{name:<44} {median:>9.0}/s  ({lowest:.0} to {highest:.0}; {:.1} us)", 1e6 / median);
}

#[test]
#[ignore = "a measurement"]
fn random_reads_of_4_kib_at_depth_1() {
    let setup = setup();
    let device = UringDevice::open(&setup.path, OpenMode::ReadOnly, false).unwrap();
    let direct = std::fs::File::options().read(true).custom_flags(libc::O_DIRECT).open(&setup.path).unwrap();
    let mut next = offsets();
    let mut slot = device.buffers().take(BLOCK);
    let mut heap = AlignedBuf::zeroed(BLOCK);
    let (mut registered, mut plain, mut pread) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        registered.push(rate(setup.round, || device.read(next(), &mut slot).unwrap()));
        plain.push(rate(setup.round, || device.read(next(), &mut heap).unwrap()));
        pread.push(rate(setup.round, || direct.read_exact_at(heap.as_mut_slice(), next()).unwrap()));
    }
    report("read 4 KiB qd1, uring, registered buffer", registered);
    report("read 4 KiB qd1, uring, heap buffer", plain);
    report("read 4 KiB qd1, pread O_DIRECT", pread);
}

#[test]
#[ignore = "a measurement"]
fn random_writes_of_4_kib_at_depths_1_and_32_and_with_a_flush() {
    let setup = setup();
    let device = UringDevice::open(&setup.path, OpenMode::ReadWrite, true).unwrap();
    let direct = std::fs::File::options().write(true).custom_flags(libc::O_DIRECT).open(&setup.path).unwrap();
    let mut next = offsets();
    let slot = Arc::new(device.buffers().take_zeroed(BLOCK));
    let mut submit = || device.submit(Write::whole(next(), Arc::clone(&slot)));
    let mut random = offsets();
    let (mut depth_1, mut pwrite, mut depth_32, mut synced, mut pwrite_synced) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        depth_1.push(rate(setup.round, || submit().wait().unwrap()));
        pwrite.push(rate(setup.round, || direct.write_all_at(slot.as_slice(), random()).unwrap()));
        depth_32.push(
            32.0 * rate(setup.round, || {
                let tickets: Vec<Ticket> = (0..32).map(|_| submit()).collect();
                tickets.iter().for_each(|ticket| ticket.wait().unwrap());
            }),
        );
        synced.push(rate(setup.round, || {
            submit().wait().unwrap();
            device.flush().unwrap();
        }));
        pwrite_synced.push(rate(setup.round, || {
            direct.write_all_at(slot.as_slice(), random()).unwrap();
            direct.sync_data().unwrap();
        }));
    }
    report("write 4 KiB qd1, uring", depth_1);
    report("write 4 KiB qd1, pwrite O_DIRECT", pwrite);
    report("write 4 KiB in groups of 32, uring", depth_32);
    report("write 4 KiB + flush, uring", synced);
    report("write 4 KiB + fdatasync, pwrite O_DIRECT", pwrite_synced);
}
