//! What is measured.

use super::System;
use super::stage::Stage;
use anyhow::Context;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
const BLOCK: usize = 4096;
/// Threads of the random workloads.
const THREADS: u64 = 4;

/// How much of everything.
pub struct Sizes {
    pub image_mib: u64,
    /// MiB of the large file.
    file_mib: u64,
    /// How long the random workloads run.
    random: Duration,
    /// Files made, looked at and removed.
    files: usize,
    /// Appends that are synced one by one.
    syncs: u32,
    /// Files in the largest tree that is forked.
    largest_tree: usize,
}

impl Sizes {
    pub const SMALL: Self = Self {
        image_mib: 1536,
        file_mib: 256,
        random: Duration::from_secs(2),
        files: 5_000,
        syncs: 200,
        largest_tree: 10_000,
    };
    pub const FULL: Self = Self {
        image_mib: 4096,
        file_mib: 1024,
        random: Duration::from_secs(8),
        files: 50_000,
        syncs: 1_000,
        largest_tree: 100_000,
    };
}

type Run = fn(&Stage, System, &Path, &Sizes) -> anyhow::Result<f64>;

/// A workload: runs in an empty directory of the mount.
pub struct Workload {
    pub name: &'static str,
    pub unit: &'static str,
    pub run: Run,
}

pub const WORKLOADS: &[Workload] = &[
    Workload { name: "sequential write, 1 MiB, with fsync", unit: "MiB/s", run: sequential_write },
    Workload { name: "sequential read, 1 MiB, cold", unit: "MiB/s", run: sequential_read },
    Workload { name: "random read, 4 KiB, direct, 4 threads", unit: "IO/s", run: random_read },
    Workload { name: "random write, 4 KiB, direct, 4 threads", unit: "IO/s", run: random_write },
    Workload { name: "append 4 KiB + fdatasync", unit: "op/s", run: append_and_sync },
    Workload { name: "create files of 1 KiB, with a last sync", unit: "files/s", run: create_files },
    Workload { name: "stat files, cold", unit: "files/s", run: stat_files },
    Workload { name: "unlink files", unit: "files/s", run: unlink_files },
    Workload { name: "fork a tree of 100 files (ext4: cp -a)", unit: "ms", run: fork_100 },
    Workload { name: "fork a tree of 10 000 files (ext4: cp -a)", unit: "ms", run: fork_10_000 },
    Workload {
        name: "fork the largest tree, 100 000 files; 10 000 with --small (ext4: cp -a)",
        unit: "ms",
        run: fork_largest,
    },
];

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn now() -> Instant {
    Instant::now()
}

fn per_second(count: f64, took: Duration) -> f64 {
    count / took.as_secs_f64().max(1e-9)
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
const fn float(count: u64) -> f64 {
    count as f64
}

fn drop_caches() -> anyhow::Result<()> {
    sync_all();
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("dropping caches")
}

/// sync(2), so that dirty pages can be dropped.
fn sync_all() {
    // A failure shows in the numbers at most.
    let _ = std::process::Command::new("sync").status();
}

fn pattern(length: usize) -> Vec<u8> {
    let mut random = Random(1);
    (0..length / 8).flat_map(|_| random.next().to_le_bytes()).collect()
}

struct Random(u64);
impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

fn large_file(directory: &Path, sizes: &Sizes) -> anyhow::Result<(PathBuf, Duration)> {
    let path = directory.join("large");
    let bytes = pattern(MIB);
    let start = now();
    let file = File::create(&path)?;
    for index in 0..sizes.file_mib {
        file.write_all_at(&bytes, index * MIB as u64)?;
    }
    file.sync_all()?;
    Ok((path, start.elapsed()))
}

fn sequential_write(_: &Stage, _: System, directory: &Path, sizes: &Sizes) -> anyhow::Result<f64> {
    let (_, took) = large_file(directory, sizes)?;
    Ok(per_second(float(sizes.file_mib), took))
}

fn sequential_read(_: &Stage, _: System, directory: &Path, sizes: &Sizes) -> anyhow::Result<f64> {
    let (path, _) = large_file(directory, sizes)?;
    drop_caches()?;
    let mut bytes = vec![0; MIB];
    let start = now();
    let file = File::open(&path)?;
    for index in 0..sizes.file_mib {
        file.read_exact_at(&mut bytes, index * MIB as u64)?;
    }
    Ok(per_second(float(sizes.file_mib), start.elapsed()))
}

/// 4 KiB at random places of a large file, from several threads, for a while.
fn random_io(directory: &Path, sizes: &Sizes, write: bool) -> anyhow::Result<f64> {
    let (path, _) = large_file(directory, sizes)?;
    drop_caches()?;
    let blocks = sizes.file_mib * (MIB / BLOCK) as u64;
    let open = || OpenOptions::new().read(true).write(write).custom_flags(libc::O_DIRECT).open(&path);
    let start = now();
    let worker = |seed: u64| -> anyhow::Result<u64> {
        let file = open()?;
        // Direct IO wants memory at a multiple of the block.
        let mut memory = vec![7; 2 * BLOCK];
        let skip = memory.as_ptr().align_offset(BLOCK);
        let buffer = memory.get_mut(skip..skip + BLOCK).context("alignment")?;
        let mut random = Random(seed);
        let mut done = 0;
        while start.elapsed() < sizes.random {
            let offset = random.next() % blocks * BLOCK as u64;
            if write {
                file.write_all_at(buffer, offset)?;
            } else {
                file.read_exact_at(buffer, offset)?;
            }
            done += 1;
        }
        Ok(done)
    };
    let done = std::thread::scope(|scope| -> anyhow::Result<u64> {
        let workers: Vec<_> = (1..=THREADS).map(|seed| scope.spawn(move || worker(seed))).collect();
        workers.into_iter().map(|worker| worker.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?).sum()
    })?;
    Ok(per_second(float(done), start.elapsed()))
}

fn random_read(_: &Stage, _: System, directory: &Path, sizes: &Sizes) -> anyhow::Result<f64> {
    random_io(directory, sizes, false)
}

fn random_write(_: &Stage, _: System, directory: &Path, sizes: &Sizes) -> anyhow::Result<f64> {
    random_io(directory, sizes, true)
}

fn append_and_sync(_: &Stage, _: System, directory: &Path, sizes: &Sizes) -> anyhow::Result<f64> {
    let file = File::create(directory.join("log"))?;
    let bytes = pattern(BLOCK);
    let start = now();
    for index in 0..sizes.syncs {
        file.write_all_at(&bytes, u64::from(index) * BLOCK as u64)?;
        file.sync_data()?;
    }
    Ok(per_second(sizes.syncs.into(), start.elapsed()))
}

/// Files of 1 KiB, a thousand a directory.
fn tree(directory: &Path, files: usize) -> anyhow::Result<Vec<PathBuf>> {
    let bytes = pattern(1024);
    let mut paths = Vec::with_capacity(files);
    for index in 0..files {
        let parent = directory.join(format!("d{}", index / 1000));
        if index % 1000 == 0 {
            std::fs::create_dir(&parent)?;
        }
        let path = parent.join(format!("file-{index}"));
        std::fs::write(&path, &bytes)?;
        paths.push(path);
    }
    File::open(directory)?.sync_all()?;
    Ok(paths)
}

fn create_files(_: &Stage, _: System, directory: &Path, sizes: &Sizes) -> anyhow::Result<f64> {
    let start = now();
    tree(directory, sizes.files)?;
    // ext4 has the data of the files still in memory after the sync of the directory.
    sync_all();
    Ok(per_second(float(sizes.files as u64), start.elapsed()))
}

fn stat_files(_: &Stage, _: System, directory: &Path, sizes: &Sizes) -> anyhow::Result<f64> {
    let paths = tree(directory, sizes.files)?;
    drop_caches()?;
    let start = now();
    for path in &paths {
        std::fs::symlink_metadata(path)?;
    }
    Ok(per_second(float(sizes.files as u64), start.elapsed()))
}

fn unlink_files(_: &Stage, _: System, directory: &Path, sizes: &Sizes) -> anyhow::Result<f64> {
    let paths = tree(directory, sizes.files)?;
    let start = now();
    for path in &paths {
        std::fs::remove_file(path)?;
    }
    File::open(directory)?.sync_all()?;
    Ok(per_second(float(sizes.files as u64), start.elapsed()))
}

fn fork(stage: &Stage, system: System, directory: &Path, files: usize) -> anyhow::Result<f64> {
    let source = directory.join("source");
    std::fs::create_dir(&source)?;
    tree(&source, files)?;
    sync_all();
    let start = now();
    stage.fork(system, &source, &directory.join("copy"))?;
    // Both are durable at the end.
    File::open(directory)?.sync_all()?;
    Ok(start.elapsed().as_secs_f64() * 1000.0)
}

fn fork_100(stage: &Stage, system: System, directory: &Path, _: &Sizes) -> anyhow::Result<f64> {
    fork(stage, system, directory, 100)
}

fn fork_10_000(stage: &Stage, system: System, directory: &Path, _: &Sizes) -> anyhow::Result<f64> {
    fork(stage, system, directory, 10_000)
}

fn fork_largest(stage: &Stage, system: System, directory: &Path, sizes: &Sizes) -> anyhow::Result<f64> {
    fork(stage, system, directory, sizes.largest_tree)
}
