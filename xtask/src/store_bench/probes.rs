//! Bars that are absolute: what `store-probe` measures.

use super::Sizes;
use super::stage::{Medium, Stage};
use super::table::{Bar, Row, short};
use anyhow::Context;
use serde_json::Value;

fn number(value: &Value, path: &[&str]) -> anyhow::Result<f64> {
    let found = path.iter().try_fold(value, |value, key| value.get(key));
    found.and_then(Value::as_f64).with_context(|| format!("no {} in the answer", path.join(".")))
}

/// One device a round, each new.
fn rounds(sizes: &Sizes, mut one: impl FnMut() -> anyhow::Result<Value>) -> anyhow::Result<Vec<Value>> {
    (0..sizes.rounds.min(3)).map(|_| one()).collect()
}

fn values(answers: &[Value], path: &[&str]) -> anyhow::Result<Vec<f64>> {
    answers.iter().map(|answer| number(answer, path)).collect()
}

fn row(name: &str, conditions: String, unit: &'static str, values: Vec<f64>, bar: Bar) -> Row {
    Row { name: name.into(), conditions, unit, values, bar, detail: String::new() }
}

pub fn written(stage: &Stage, sizes: &Sizes) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for block_bytes in [512_u16, 4096] {
        let answers = rounds(sizes, || {
            let device = stage.sparse(Medium::Memory, 1024, block_bytes.into())?;
            stage.probe(&["written", &device.device])
        })?;
        let block = f64::from(block_bytes);
        for (what, key, bar) in [("record of 100 bytes + sync", "record", block), ("4 KiB + sync", "data_4k", 8192.0)] {
            let conditions =
                format!("{what}, block device with blocks of {block_bytes} bytes, median of the operations");
            let mut row =
                row("bytes written", conditions, "bytes", values(&answers, &[key, "median"])?, Bar::AtMost(bar));
            let means = values(&answers, &[key, "mean_thousandths"])?;
            row.detail =
                format!("mean {:.1}, headers of segments included", means.into_iter().fold(0.0, f64::max) / 1000.0);
            rows.push(row);
        }
    }
    Ok(rows)
}

pub fn clone(stage: &Stage, sizes: &Sizes) -> anyhow::Result<Vec<Row>> {
    let existing = if sizes.quick { "10,1000,20000" } else { "10,1000,100000" };
    let answers = rounds(sizes, || {
        let device = stage.loop_device(Medium::Memory, 2048)?;
        stage.probe(&["clone", &device.device, "--existing", existing])
    })?;
    let mut rows = Vec::new();
    for (index, count) in existing.split(',').enumerate() {
        let mut medians = Vec::new();
        let mut tails = Vec::new();
        for answer in &answers {
            let fork = answer.get("clone").and_then(|rows| rows.get(index)).and_then(|row| row.get("fork"));
            let fork = fork.context("no forks in the answer")?;
            medians.push(number(fork, &["p50_us"])?);
            tails.push(number(fork, &["p99_us"])?);
        }
        let conditions = format!("{count} forks alive, of a directory of 10 files, tmpfs, not synced, median of 1000");
        let tail = tails.iter().copied().fold(0.0, f64::max);
        let mut row = row("fork", conditions, "us", medians, Bar::AtMost(50.0));
        row.detail = format!("p99 {} us", short(tail));
        rows.push(row);
    }
    Ok(rows)
}

pub fn drop_queue(stage: &Stage, sizes: &Sizes) -> anyhow::Result<Vec<Row>> {
    let trees = if sizes.quick { "20000" } else { "100000" };
    let answers = rounds(sizes, || {
        let device = stage.loop_device(Medium::Memory, 3072)?;
        stage.probe(&["drop", &device.device, "--trees", trees])
    })?;
    let conditions = format!("{trees} directories with a file of 4 KiB, in one that is deleted, tmpfs");
    let rates = values(&answers, &["trees_per_second"])?;
    Ok(vec![row("drop queue", conditions, "trees/s", rates, Bar::AtLeast(10_000.0))])
}

pub fn recovery(stage: &Stage, sizes: &Sizes) -> anyhow::Result<Vec<Row>> {
    // 32 GiB: a ring of 1 GiB, trigger at its largest.
    let mib = if sizes.quick { 8192 } else { 32768 };
    let mut rows = Vec::new();
    for (what, option) in
        [("engine, ring at its trigger", Some("--engine")), ("engine and namespace, dirty bytes at theirs", None)]
    {
        let answers = rounds(sizes, || {
            let device = stage.sparse(Medium::Disk, mib, 512)?;
            let arguments: Vec<&str> = ["recovery", &device.device].into_iter().chain(option).collect();
            stage.probe(&arguments)
        })?;
        let log = values(&answers, &["log_bytes"])?.into_iter().fold(0.0, f64::max) / f64::from(1 << 20);
        let records = values(&answers, &["records"])?.into_iter().fold(0.0, f64::max);
        let conditions = format!("{what}, log of {} MiB, {} records, disk", short(log), short(records));
        rows.push(row("recovery", conditions, "s", values(&answers, &["seconds"])?, Bar::AtMost(3.0)));
    }
    Ok(rows)
}

pub fn mount(stage: &Stage, sizes: &Sizes) -> anyhow::Result<Vec<Row>> {
    let sizes_gib: &[u64] = if sizes.quick { &[1, 16, 256, 1024] } else { &[1, 4, 16, 64, 256, 1024] };
    let objects: &[u64] = if sizes.quick { &[1_000, 10_000, 100_000] } else { &[1_000, 10_000, 100_000, 1_000_000] };
    let points = sizes_gib.iter().map(|gib| (*gib, 1_000)).chain(objects.iter().skip(1).map(|count| (64, *count)));
    let mut rows = Vec::new();
    let mut all = Vec::new();
    for (gib, count) in points {
        let device = stage.sparse(Medium::Disk, gib * 1024, 512)?;
        let answer = stage.probe(&["mount", &device.device, "--objects", &count.to_string()])?;
        let ms = number(&answer, &["open", "p50_us"])? / 1000.0;
        all.push(ms);
        rows.push(row("mount", format!("{gib} GiB, {count} extents, clean, disk"), "ms", vec![ms], Bar::None));
    }
    for gib in sizes_gib {
        let device = stage.sparse(Medium::Disk, gib * 1024, 512)?;
        let answer = stage.probe(&["mount", &device.device, "--objects", "1000", "--full"])?;
        let ms = number(&answer, &["open", "p50_us"])? / 1000.0;
        rows.push(row("mount", format!("{gib} GiB, every container in use, clean, disk"), "ms", vec![ms], Bar::None));
    }
    let (low, high) = (all.iter().copied().fold(f64::INFINITY, f64::min), all.iter().copied().fold(0.0, f64::max));
    let mut spread = row(
        "mount",
        "slowest point of the curve beside the fastest".into(),
        "times",
        vec![high / low],
        Bar::AtMost(2.0),
    );
    spread.detail = "\"independent of objects and device size\" read as within a factor of two".into();
    rows.push(spread);
    Ok(rows)
}

pub fn memory(stage: &Stage, sizes: &Sizes) -> anyhow::Result<Vec<Row>> {
    let device = stage.loop_device(Medium::Memory, 4096)?;
    let seconds = if sizes.quick { "5" } else { "30" };
    let answer = stage.probe(&["memory", &device.device, "--seconds", seconds])?;
    let mib = |key: &str| Ok::<f64, anyhow::Error>(number(&answer, &[key])? / f64::from(1 << 20));
    let (before, opened, peak) = (mib("before_bytes")?, mib("opened_bytes")?, mib("peak_bytes")?);
    let files = number(&answer, &["files"])?;
    let conditions =
        format!("4 GiB, tmpfs, {} files made, forked and deleted in {seconds} s, node cache 256 MiB", short(files));
    let mut rows = vec![row("memory", conditions, "MiB at most", vec![peak - before], Bar::None)];
    if let Some(row) = rows.first_mut() {
        row.detail = format!("{} MiB after the open", short(opened - before));
    }
    Ok(rows)
}
