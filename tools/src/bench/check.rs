//! What makes no sense in jobs, whatever they run on: told before anything is opened, also by `--parse-only`.

use super::job::{Amount, Ioengine, Job};
use super::runner::engines_of;
use super::statistics::HISTOGRAM_BYTES;
use crate::mkfs::size::Size;
use anyhow::{Result, bail, ensure};
use envoyfs_layout::BLOCK;

/// Clones of all jobs together: fio's own bound.
const CLONES_MAX: u32 = 4096;
/// No disk is so large, and no sum of these overflows.
const DISK_BYTES_MAX: u64 = 1 << 60;
/// What a clone takes beside its buffers and histograms: a thread, a ring.
const CLONE_BYTES: u64 = 256 << 10;
/// Of the map of the disk in the store, with leaves that were changed.
const MAP_BYTES_A_BLOCK: u64 = 48;

/// Checks all jobs of a run.
///
/// # Errors
/// Says which job, which option, and what to write.
pub fn check(jobs: &[Job]) -> Result<()> {
    jobs.iter().try_for_each(one)?;
    let clones: u32 = jobs.iter().fold(0, |sum, job| sum.saturating_add(job.numjobs));
    ensure!(clones <= CLONES_MAX, "numjobs: {clones} clones in all; at most {CLONES_MAX} are run");
    let (needed, free) = (memory_bytes(jobs), available_bytes());
    ensure!(
        free.is_none_or(|free| needed <= free),
        "the jobs need about {} of memory, {} are free; use a smaller numjobs, iodepth, bs or size",
        Size(needed),
        Size(free.unwrap_or(0))
    );
    Ok(())
}

fn one(job: &Job) -> Result<()> {
    let name = &job.name;
    let blocks = [(job.rw.reads, &job.read_sizes), (job.rw.writes, &job.write_sizes)];
    let through_store = engines_of(job).contains(&Ioengine::Envoyfs);
    for (_, sizes) in blocks.iter().filter(|(used, _)| *used) {
        let (least, most) = (sizes.least(), sizes.most());
        if through_store && (!least.is_multiple_of(BLOCK) || !most.is_multiple_of(BLOCK)) {
            bail!("[{name}] bs: the disk in the store has blocks of 4k; write ioengine=device, or a multiple of 4k");
        }
    }
    if job.verify {
        ensure!(job.block_least() == job.block_most(), "[{name}] verify: needs one block size");
        let apart = matches!(job.size, Some(Amount::Bytes(bytes)) if job.offset_increment >= bytes);
        ensure!(
            job.numjobs == 1 || apart,
            "[{name}] verify: clones that write to the same place cannot tell whose write is the last; give offset_increment, at least the size"
        );
    }
    ensure!(!job.time_based || job.runtime.is_some(), "[{name}] time_based: needs a runtime");
    let end = end_of(job).filter(|end| *end <= DISK_BYTES_MAX);
    let Some(end) = end else { bail!("[{name}] size: with its offset it is more than {}", Size(DISK_BYTES_MAX)) };
    // On a disk as large as the job asks for; how large the real one is turns out later.
    let disk = if matches!(job.size, Some(Amount::Bytes(_))) { end } else { DISK_BYTES_MAX };
    (0..job.numjobs.min(CLONES_MAX)).try_for_each(|index| region(job, disk, index).map(drop))
}

/// Furthest byte that a job names; of one without a size in bytes, where its last clone begins.
pub fn end_of(job: &Job) -> Option<u64> {
    let bytes = if let Some(Amount::Bytes(bytes)) = job.size { bytes } else { 0 };
    let last = job.offset_increment.checked_mul(u64::from(job.numjobs.saturating_sub(1)))?;
    job.offset.checked_add(last)?.checked_add(bytes)
}

/// Where a clone works on a disk of so many bytes: start and length.
///
/// # Errors
/// Nothing can be done there.
pub fn region(job: &Job, bytes: u64, index: u32) -> Result<(u64, u64)> {
    let start = job.offset + job.offset_increment * u64::from(index);
    let rest = bytes.saturating_sub(start);
    let region = match job.size {
        None => rest,
        Some(Amount::Percent(share)) => (bytes / 100 * u64::from(share)).min(rest),
        Some(Amount::Bytes(size)) if size <= rest => size,
        Some(Amount::Bytes(size)) => {
            bail!("[{}] size: {start} + {size} is beyond the end; there are {bytes} bytes", job.name)
        }
    };
    let region = region / u64::from(job.block_least()) * u64::from(job.block_least());
    ensure!(region >= u64::from(job.block_most()), "[{}] size: no block fits into {region} bytes", job.name);
    let aligned = start.is_multiple_of(u64::from(job.block_least().min(BLOCK)));
    ensure!(aligned, "[{}] offset: {start} is not aligned", job.name);
    Ok((start, region))
}

/// What a run of the jobs takes at most, beside the engine: buffers of the largest group, and of all what is counted and mapped.
fn memory_bytes(jobs: &[Job]) -> u64 {
    let (mut counted, mut mapped, mut largest, mut group) = (0_u64, 0_u64, 0_u64, 0_u64);
    for job in jobs {
        if job.stonewall {
            group = 0;
        }
        let (clones, engines) = (u64::from(job.numjobs), engines_of(job));
        let depth = u64::from(job.iodepth + job.unverified_max());
        // The two engines take turns.
        let buffers = depth.saturating_mul(job.block_most().into()).saturating_mul(clones);
        group = group.saturating_add(buffers);
        largest = largest.max(group);
        counted = counted.saturating_add(clones * engines.len() as u64 * clone_bytes(job));
        let bytes = if let Some(Amount::Bytes(bytes)) = job.size { bytes } else { 0 };
        if job.verify {
            counted = counted.saturating_add(bytes / u64::from(job.block_least()) * 4 * clones * engines.len() as u64);
        }
        if engines.contains(&Ioengine::Envoyfs) && bytes > 0 {
            mapped = mapped.max(end_of(job).unwrap_or(u64::MAX) / u64::from(BLOCK) * MAP_BYTES_A_BLOCK);
        }
    }
    counted.saturating_add(mapped).saturating_add(largest)
}

/// Of a clone, beside its buffers: it has histograms of the round and of all rounds, two a direction and one of syncs.
fn clone_bytes(job: &Job) -> u64 {
    let histograms = 2 * (u64::from(job.rw.reads) + u64::from(job.rw.writes)) + u64::from(job.fsync > 0);
    CLONE_BYTES + 2 * histograms * HISTOGRAM_BYTES
}

/// `None` where the system does not say.
fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::super::job_file::Jobs;
    use super::*;

    fn checked(options: &[(&str, &str)]) -> Result<(), String> {
        let options: Vec<_> =
            [("name", "a")].iter().chain(options).map(|(o, v)| ((*o).to_owned(), Some((*v).to_owned()))).collect();
        let jobs = Jobs::from_options(&options).map_err(|error| error.to_string())?;
        check(&jobs.jobs).map_err(|error| error.to_string())
    }

    #[test]
    fn what_makes_no_sense_on_any_disk_is_named() {
        for (options, why) in [
            (&[("bs", "1k")][..], "blocks of 4k"),
            (&[("bs", "3k"), ("ioengine", "device"), ("size", "2k")], "no block fits"),
            (&[("size", "1")], "no block fits"),
            (&[("offset", "100"), ("size", "1m")], "not aligned"),
            (&[("offset_increment", "100"), ("numjobs", "2"), ("size", "1m")], "not aligned"),
            (&[("size", "16000p")], "more than"),
            (&[("offset_increment", "8000p"), ("numjobs", "4"), ("size", "1m")], "more than"),
            (&[("numjobs", "100000"), ("size", "1m")], "at most 4096"),
            (&[("iodepth", "4096"), ("bs", "16m"), ("numjobs", "4000"), ("size", "1g")], "of memory"),
            (&[("size", "100000t")], "of memory"),
        ] {
            let refused = checked(options).unwrap_err();
            assert!(refused.contains(why), "{options:?}: {refused}");
        }
        for options in
            [&[("size", "1m"), ("numjobs", "64")][..], &[("size", "10%")], &[("bs", "512"), ("ioengine", "device")]]
        {
            assert_eq!(checked(options), Ok(()), "{options:?}");
        }
    }

    #[test]
    fn jobs_that_run_one_after_the_other_share_their_buffers() {
        let job = |stonewall| Job { iodepth: 8, stonewall, ioengine: Some(Ioengine::Device), ..Job::default() };
        let clone = clone_bytes(&job(false));
        let own = memory_bytes(&[job(false)]) - clone;
        assert_eq!(own, (8 + 4) * 4096);
        assert_eq!(memory_bytes(&[job(false), job(false)]), 2 * clone + 2 * own);
        assert_eq!(memory_bytes(&[job(false), job(true)]), 2 * clone + own);
    }
}
