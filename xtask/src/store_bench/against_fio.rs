//! Bars that are ratios to fio: verified reads, sequential throughput, durable appends.

use super::Sizes;
use super::stage::{FIO_PEER, Medium, Stage};
use super::table::{Bar, Row, median, short};
use anyhow::Context;
use serde_json::Value;

/// What fio reads in turns with the store: where the store's data lies (behind its ring, one container behind the other), not zeros that the image was made with, which a host may keep in
/// other ways.
const DATA: [&str; 2] = ["--offset=128m", "--size=896m"];
/// MiB of a device with a store in which 1 GiB is read and written, and of that region.
const STORE_MIB: u64 = 2304;
const REGION: &str = "--size=1g";

/// A number of the first job.
pub fn number(report: &Value, direction: &str, key: &str) -> anyhow::Result<f64> {
    let job = report.get("jobs").and_then(|jobs| jobs.get(0)).context("no job in the report")?;
    job.get(direction)
        .and_then(|flow| flow.get(key))
        .and_then(Value::as_f64)
        .with_context(|| format!("no {key} in the report"))
}

pub struct Sides {
    pub ours: Vec<f64>,
    pub theirs: Vec<f64>,
}

/// Runs both in turns.
pub fn in_turns(
    sizes: &Sizes,
    ours: impl Fn() -> anyhow::Result<f64>,
    theirs: impl Fn() -> anyhow::Result<f64>,
) -> anyhow::Result<Sides> {
    let mut sides = Sides { ours: Vec::new(), theirs: Vec::new() };
    for round in 0..sizes.rounds {
        if round % 2 == 0 {
            sides.ours.push(ours()?);
            sides.theirs.push(theirs()?);
        } else {
            sides.theirs.push(theirs()?);
            sides.ours.push(ours()?);
        }
    }
    Ok(sides)
}

impl Sides {
    pub fn row(&self, name: &str, conditions: String, bar: Bar, unit: &str) -> Row {
        let values: Vec<f64> = self.ours.iter().zip(&self.theirs).map(|(own, peer)| own / peer).collect();
        let median = |values: &[f64]| short(median(values).unwrap_or(f64::NAN));
        let detail = format!("{} {unit} beside {}", median(&self.ours), median(&self.theirs));
        Row { name: name.into(), conditions, unit: "of the peer's", values, bar, detail }
    }
}

pub fn random_read(stage: &Stage, sizes: &Sizes) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let time = format!("--runtime={}", sizes.seconds);
    for medium in Medium::BOTH {
        let device = stage.loop_device(medium, STORE_MIB)?;
        let file = format!("--filename={}", device.device);
        for depth in [1, 32] {
            let depth_option = format!("--iodepth={depth}");
            let job = ["--name=r", "--rw=randread", "--bs=4k", &file, &depth_option];
            // The first run makes the disk and writes it.
            stage.bench(&[&job[..], &[REGION, "--runtime=1", "--time_based"]].concat())?;
            let job = [&job[..], &[&time, "--time_based"]].concat();
            let sides = in_turns(
                sizes,
                || number(&stage.bench(&[&job[..], &[REGION]].concat())?, "read", "iops"),
                || number(&stage.fio(&[&job[..], &FIO_PEER, &DATA, &["--readonly"]].concat())?, "read", "iops"),
            )?;
            let conditions = format!("{}, 4 KiB, depth {depth}, verified, beside fio io_uring", medium.name());
            rows.push(sides.row("random read", conditions, Bar::AtLeast(0.85), "IO/s"));
        }
    }
    Ok(rows)
}

const fn sequential_bar(medium: Medium) -> f64 {
    match medium {
        Medium::Memory => 0.85,
        Medium::Disk => 0.95,
    }
}

pub fn sequential_read(stage: &Stage, sizes: &Sizes) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let time = format!("--runtime={}", sizes.seconds);
    for medium in Medium::BOTH {
        let device = stage.loop_device(medium, STORE_MIB)?;
        let file = format!("--filename={}", device.device);
        let job = ["--name=r", "--rw=read", "--bs=1m", &file, "--iodepth=8", "--time_based"];
        let own = |time: &str| stage.bench(&[&job[..], &[REGION, time]].concat());
        let peer = |time: &str| stage.fio(&[&job[..], &FIO_PEER, &DATA, &["--readonly", time]].concat());
        // The first run makes the disk and writes it; and both have read once what they will read.
        own("--runtime=1")?;
        peer("--runtime=1")?;
        let sides = in_turns(
            sizes,
            || Ok(number(&own(&time)?, "read", "bw_bytes")? / 1e6),
            || Ok(number(&peer(&time)?, "read", "bw_bytes")? / 1e6),
        )?;
        let conditions = format!("{}, 1 MiB, depth 8, verified, beside fio io_uring", medium.name());
        rows.push(sides.row("sequential read", conditions, Bar::AtLeast(sequential_bar(medium)), "MB/s"));
    }
    Ok(rows)
}

/// Two devices that are alike, which the sides exchange half way: where the pages of an image happen to lie is worth a tenth, with the same program.
pub fn sequential_write(stage: &Stage, sizes: &Sizes) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let time = format!("--runtime={}", sizes.seconds);
    for medium in Medium::BOTH {
        let devices = (stage.loop_device(medium, STORE_MIB)?, stage.loop_device(medium, STORE_MIB)?);
        let mut sides = Sides { ours: Vec::new(), theirs: Vec::new() };
        for (store, raw) in [(&devices.0, &devices.1), (&devices.1, &devices.0)] {
            let (own, peer) = (format!("--filename={}", store.device), format!("--filename={}", raw.device));
            let job = ["--name=w", "--rw=write", "--bs=1m", "--iodepth=8", REGION, "--time_based", &time];
            // Makes the disk in the store, and fills it; fio's region likewise has been written, with more than zeros.
            stage.fio(&[&job[..], &FIO_PEER, &[&peer]].concat())?;
            stage.bench(&[&job[..], &[&own]].concat())?;
            let half = in_turns(
                &Sizes { rounds: sizes.rounds.div_ceil(2), ..*sizes },
                || Ok(number(&stage.bench(&[&job[..], &[&own]].concat())?, "write", "bw_bytes")? / 1e6),
                || {
                    // The store's number has its last sync in it; fio's too.
                    let options = [&job[..], &FIO_PEER, &[&peer, "--end_fsync=1"]].concat();
                    Ok(number(&stage.fio(&options)?, "write", "bw_bytes")? / 1e6)
                },
            )?;
            sides.ours.extend(half.ours);
            sides.theirs.extend(half.theirs);
        }
        let conditions = format!("{}, 1 MiB, depth 8, beside fio io_uring on a raw device", medium.name());
        rows.push(sides.row("sequential write", conditions, Bar::AtLeast(sequential_bar(medium)), "MB/s"));
    }
    Ok(rows)
}

pub fn append(stage: &Stage, sizes: &Sizes) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let time = format!("--runtime={}", sizes.seconds);
    for medium in Medium::BOTH {
        let (store, raw) = (stage.loop_device(medium, STORE_MIB)?, stage.loop_device(medium, STORE_MIB)?);
        let (own, at) = (format!("--filename={}", store.device), stage.mount_ext4(&raw)?);
        let directory = format!("--directory={at}");
        // No figure is asked for 64: that they share barriers.
        for (clients, bar) in [(1, Bar::AtLeast(1.5)), (8, Bar::AtLeast(3.0)), (64, Bar::None)] {
            let jobs = format!("--numjobs={clients}");
            let job = [
                "--name=a",
                "--rw=write",
                "--bs=4k",
                "--fdatasync=1",
                &jobs,
                "--group_reporting",
                "--time_based",
                &time,
            ];
            let sides = in_turns(
                sizes,
                || {
                    let region = ["--size=16m", "--offset_increment=16m", &own];
                    number(&stage.bench(&[&job[..], &region].concat())?, "write", "iops")
                },
                || {
                    // A new file that grows: an append.
                    let file = ["--size=256m", "--fallocate=none", "--unlink=1", "--ioengine=psync", &directory];
                    number(&stage.fio(&[&job[..], &file].concat())?, "write", "iops")
                },
            );
            let sides = match sides {
                Ok(sides) => sides,
                Err(error) => {
                    stage.umount()?;
                    return Err(error);
                }
            };
            let conditions = format!("{}, 4 KiB + sync, {clients} clients, beside ext4", medium.name());
            rows.push(sides.row("durable append", conditions, bar, "IO/s"));
        }
        stage.umount()?;
    }
    Ok(rows)
}
