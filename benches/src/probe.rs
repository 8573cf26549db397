//! What fio cannot measure: forks, drops, recovery, mounts, log bytes a record, memory. Each probe makes its own scratch store and gives one JSON value.

use crate::tree::{CX, Tree};
use crate::{now, scratch};
use anyhow::{Context as _, Result, bail, ensure};
use envoyfs_engine::device::Device;
use envoyfs_engine::store::{Draft, Need, Store as _, Tier};
use envoyfs_engine::{metrics, superblock};
use envoyfs_layout::ClientTag;
use envoyfs_layout::directory_page::{ContainerRow, ContainerState};
use envoyfs_namespace::api::{InodeId, SetAttributes};
use envoyfs_tools::bench::disk::{self, Disk};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Blocks of a leaf of the disks made here.
const SPAN: usize = 64;

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn quantiles(mut times: Vec<Duration>) -> Value {
    times.sort_unstable();
    let at = |share: usize| {
        times.get((times.len() * share / 1000).min(times.len().saturating_sub(1))).copied().unwrap_or_default()
    };
    let sum: Duration = times.iter().sum();
    let count = u32::try_from(times.len()).unwrap_or(u32::MAX).max(1);
    json!({
        "samples": times.len(), "mean_us": micros(sum / count), "p50_us": micros(at(500)), "p99_us": micros(at(990)),
        "p999_us": micros(at(999)), "max_us": micros(times.last().copied().unwrap_or_default()),
    })
}

/// Microseconds of a fork of a stored directory of ten files, with so many forks of it alive. Not durable: a sync is a sync.
///
/// # Errors
/// What the store reports.
pub fn clone(path: &Path, existing: &[u32], samples: u32) -> Result<Value> {
    let tree = Tree::open(&scratch::on(path)?, true)?;
    let source = tree.source()?;
    let forks = tree.directory(InodeId::ROOT, "forks")?;
    let mut made = 0;
    let mut rows = Vec::new();
    for count in existing {
        while made < *count {
            tree.fork(source, forks, &format!("fork-{made}"))?;
            made += 1;
        }
        tree.namespace.checkpoint()?;
        let mut times = Vec::new();
        for _ in 0..samples {
            let name = format!("fork-{made}");
            let start = now();
            tree.fork(source, forks, &name)?;
            times.push(start.elapsed());
            made += 1;
        }
        rows.push(json!({ "existing": count, "fork": quantiles(times) }));
    }
    tree.namespace.close()?;
    tree.engine.close()?;
    Ok(json!({ "clone": rows }))
}

/// Small trees a second that the drop queue works off: each a directory node and an extent of 4 KiB, all in one directory that is deleted.
///
/// # Errors
/// What the store reports.
pub fn drop_queue(path: &Path, trees: u32) -> Result<Value> {
    let tree = Tree::open(&scratch::on(path)?, true)?;
    let all = tree.directory(InodeId::ROOT, "all")?;
    for index in 0..trees {
        let small = tree.directory(all, &format!("tree-{index}"))?;
        tree.file(small, "file", 4096)?;
        tree.namespace.forget(small, 1);
    }
    tree.namespace.checkpoint()?;
    let live_before = tree.engine.usage().live;
    let start = now();
    tree.namespace.delete_tree(&CX, InodeId::ROOT, b"all")?;
    let delete = start.elapsed();
    let mut checkpoints = 0;
    loop {
        tree.namespace.checkpoint()?;
        checkpoints += 1;
        if tree.engine.usage().drop_queue == 0 {
            break;
        }
        ensure!(checkpoints < 100_000, "the drop queue does not get empty");
    }
    let took = start.elapsed();
    let freed = live_before - tree.engine.usage().live;
    ensure!(freed >= u64::from(trees) * 4096, "only {freed} bytes of {trees} trees were freed");
    tree.namespace.close()?;
    tree.engine.close()?;
    Ok(json!({
        "trees": trees, "delete_us": micros(delete), "seconds": took.as_secs_f64(), "checkpoints": checkpoints,
        "trees_per_second": f64::from(trees) / took.as_secs_f64(), "freed_bytes": freed,
    }))
}

/// Seconds to open a tree whose log is as long as it gets before a checkpoint is due: changes of attributes, replayed by the namespace. (What may be dirty in memory is reached before
/// the ring is a quarter full; see [`recovery_of_engine`] for that.)
///
/// # Errors
/// What the store reports.
pub fn recovery(path: &Path) -> Result<Value> {
    const FILES: u32 = 1000;
    let device = scratch::on(path)?;
    let (ring, log_bytes, records);
    {
        let tree = Tree::open(&device, false)?;
        let directory = tree.directory(InodeId::ROOT, "directory")?;
        let mut files = Vec::new();
        for index in 0..FILES {
            tree.file(directory, &format!("file-{index}"), 200)?;
            files.push(tree.namespace.lookup(&CX, directory, format!("file-{index}").as_bytes())?.id);
        }
        tree.namespace.checkpoint()?;
        let mut made = 0_u64;
        'full: loop {
            for (index, file) in (0_u16..).zip(&files) {
                if index % 64 == 0 && tree.engine.wait_checkpoint(0).is_some() {
                    break 'full;
                }
                let set = SetAttributes { permissions: Some(index % 512), ..SetAttributes::default() };
                tree.namespace.setattr(&CX, *file, &set)?;
                made += 1;
            }
        }
        tree.namespace.sync()?;
        let usage = tree.engine.usage();
        (ring, log_bytes, records) = (usage.ring_bytes, usage.log_bytes, made);
        // Without closing: as after a power cut, but for what the device would lose.
    }
    let start = now();
    let engine = scratch::engine(&device)?;
    let opened = start.elapsed();
    let tree = Tree::on(Arc::clone(&engine), false)?;
    let replayed = start.elapsed();
    ensure!(tree.namespace.lookup(&CX, InodeId::ROOT, b"directory").is_ok(), "the replay lost what was synced");
    drop(tree);
    drop(engine);
    Ok(json!({
        "ring_bytes": ring, "log_bytes": log_bytes, "records": records,
        "engine_seconds": opened.as_secs_f64(), "seconds": replayed.as_secs_f64(),
    }))
}

/// The same with records of 200 bytes of no client: until the ring itself makes a checkpoint due. A tenth of them names 4 KiB of data.
///
/// # Errors
/// What the store reports.
pub fn recovery_of_engine(path: &Path) -> Result<Value> {
    let device = scratch::on(path)?;
    let (ring, log_bytes, mut records);
    {
        let engine = scratch::engine(&device)?;
        records = 0_u64;
        let mut end = engine.end();
        while !records.is_multiple_of(256) || engine.wait_checkpoint(0).is_none() {
            let data_bytes = if records.is_multiple_of(10) { 4096 } else { 0 };
            let need = Need { log_bytes: 200, node_bytes: 0, payload_bytes: 0, data_bytes, tier: Tier::Writer };
            let mut permit = engine.reserve(need)?;
            let data =
                if data_bytes > 0 { vec![engine.append_data(&mut permit, None, &[7; 4096])?] } else { Vec::new() };
            let draft = Draft { kind: 3001, territory: 1, origin: None, data: &data, body: &[1; 200] };
            end = engine.append(&mut permit, draft)?.end;
            records += 1;
        }
        engine.commit(end)?;
        let usage = engine.usage();
        (ring, log_bytes) = (usage.ring_bytes, usage.log_bytes);
    }
    let start = now();
    let engine = scratch::engine(&device)?;
    let replayed = engine.take_replay().len() as u64;
    let took = start.elapsed();
    ensure!(replayed == records, "{replayed} of {records} records came back");
    drop(engine);
    Ok(json!({ "ring_bytes": ring, "log_bytes": log_bytes, "records": records, "seconds": took.as_secs_f64() }))
}

/// Seconds to open a cleanly closed store with so many extents of 4 KiB, and nanoseconds of the stages of the last time. `full`: the segment table says that nearly every container holds
/// a segment, as on a full device; nothing reads them.
///
/// # Errors
/// What the store reports.
pub fn mount(path: &Path, objects: u64, rounds: u32, full: bool) -> Result<Value> {
    let device = scratch::on(path)?;
    let size = device.geometry().size_bytes;
    let bytes = (objects * 4096).next_multiple_of(SPAN as u64 * 4096);
    let disk = Disk::format(&device, bytes, SPAN)?;
    disk.fill_with(0, bytes, 1)?;
    disk.close()?;
    drop(disk);
    if full {
        fill_table(&*device)?;
    }
    let (mut times, mut stages) = (Vec::new(), BTreeMap::new());
    for _ in 0..rounds {
        let start = now();
        let engine = scratch::engine_of(disk::CLIENT, &device)?;
        times.push(start.elapsed());
        engine.close()?;
        for sample in engine.metrics().snapshot().iter().filter(|sample| sample.group == "recovery") {
            if let metrics::Value::Latency { sum_ns, .. } = sample.value {
                stages.insert(sample.name, sum_ns);
            }
        }
    }
    Ok(json!({ "device_bytes": size, "objects": objects, "open": quantiles(times), "stages_ns": stages }))
}

/// Gives every container that is free a segment, all but the last hundred.
fn fill_table(device: &dyn Device) -> Result<()> {
    let before = superblock::open(device)?.superblock;
    let mut directory = superblock::read_directory(device, &before)?;
    let (_, mut table) = superblock::read_published(device, &before)?;
    let known = directory.table.iter().find(|row| !row.metadata.is_none()).copied();
    let like = known.context("the store holds nothing yet")?;
    let rows = directory.table.len().saturating_sub(100);
    let mut segment = u32::try_from(directory.entry.bounds.segment)?;
    for row in directory.table.iter_mut().take(rows).filter(|row| row.state == ContainerState::Free) {
        *row = ContainerRow { state: ContainerState::Sealed, segment, ..like };
        segment += 1;
    }
    directory.entry.bounds.segment = segment.into();
    let mut next = before.next();
    superblock::write_directory(device, &mut next, &mut directory, &mut table)?;
    device.flush()?;
    Ok(superblock::publish(device, &next)?)
}

/// Bytes written to the block device for a small record and its sync, and for 4 KiB of data with theirs.
///
/// # Errors
/// The device is no block device, or what the store reports.
pub fn written(path: &Path, operations: u32) -> Result<Value> {
    let device = scratch::on(path)?;
    let block_bytes = device.geometry().logical_block_bytes;
    let engine = scratch::engine(&device)?;
    let run = |data: bool| -> Result<Value> {
        let need = Need {
            log_bytes: 128,
            node_bytes: 0,
            payload_bytes: 0,
            data_bytes: if data { 4096 } else { 0 },
            tier: Tier::Writer,
        };
        let mut each = Vec::new();
        for _ in 0..operations {
            let before = sectors_written(path)?;
            let mut permit = engine.reserve(need)?;
            let objects = if data { vec![engine.append_data(&mut permit, None, &[7; 4096])?] } else { Vec::new() };
            let draft = Draft { kind: 3001, territory: 1, origin: None, data: &objects, body: &[1; 100] };
            let appended = engine.append(&mut permit, draft)?;
            drop(permit);
            engine.commit(appended.end)?;
            each.push((sectors_written(path)? - before) * 512);
        }
        let sum: u64 = each.iter().sum();
        each.sort_unstable();
        let median = each.get(each.len() / 2).copied().unwrap_or(0);
        // The mean has the headers of segments in it that are opened on the way.
        Ok(json!({ "median": median, "mean_thousandths": sum * 1000 / u64::from(operations.max(1)) }))
    };
    let record = run(false)?;
    let data = run(true)?;
    engine.close()?;
    Ok(json!({ "block_bytes": block_bytes, "record": record, "data_4k": data, "operations": operations }))
}

/// Sectors written to a block device since it was made.
fn sectors_written(path: &Path) -> Result<u64> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.file_type().is_block_device() {
        bail!("{}: bytes are counted on block devices", path.display());
    }
    let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    let text = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat"))?;
    text.split_ascii_whitespace().nth(6).and_then(|field| field.parse().ok()).context("the device's statistics")
}

/// A tree of so many MiB: seven eighths in files of 16 MiB, the others of 1 to 12 KiB, and a fork of all of it.
///
/// # Errors
/// What the store reports.
pub fn fill(path: &Path, mib: usize) -> Result<Value> {
    const LARGE: usize = 16 << 20;
    let device = scratch::on(path)?;
    let tree = Tree::on(scratch::engine_of(ClientTag::FILES, &device)?, true)?;
    let all = tree.directory(InodeId::ROOT, "all")?;
    let large = (mib << 20) / 8 * 7 / LARGE;
    for index in 0..large {
        tree.file(all, &format!("large-{index}"), LARGE)?;
    }
    let (mut left, mut files, mut directory) = ((mib << 20) / 8, 0_usize, all);
    while left > 0 {
        if files.is_multiple_of(500) {
            directory = tree.directory(all, &format!("directory-{files}"))?;
        }
        let bytes = (1 << 10) * (1 + files % 12);
        tree.file(directory, &format!("small-{files}"), bytes)?;
        (left, files) = (left.saturating_sub(bytes), files + 1);
    }
    tree.fork(all, InodeId::ROOT, "fork")?;
    tree.namespace.close()?;
    let live = tree.engine.usage().live;
    tree.engine.close()?;
    Ok(json!({ "large": large, "small": files, "live_bytes": live }))
}

/// Resident bytes of this process.
fn resident() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: u64 = line.split_ascii_whitespace().next().and_then(|field| field.parse().ok()).context("VmRSS")?;
    Ok(kib << 10)
}

/// Resident memory while forks and files are made and changed for a while, beside what was there before the store was opened.
///
/// # Errors
/// What the store reports.
pub fn memory(path: &Path, seconds: u64) -> Result<Value> {
    let device = scratch::on(path)?;
    let size = device.geometry().size_bytes;
    let before = resident()?;
    let tree = Tree::open(&device, true)?;
    let opened = resident()?;
    let (stop, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (flag, most) = (Arc::clone(&stop), Arc::clone(&peak));
    let watch = move || {
        while !flag.load(Ordering::Relaxed) {
            most.fetch_max(resident().unwrap_or(0), Ordering::Relaxed);
            std::thread::park_timeout(Duration::from_millis(20));
        }
    };
    let watcher = std::thread::Builder::new().name("resident".into()).spawn(watch)?;
    let result = load(&tree, Duration::from_secs(seconds));
    stop.store(true, Ordering::Relaxed);
    let _ = watcher.join();
    let files = result?;
    let usage = tree.engine.usage();
    tree.namespace.close()?;
    tree.engine.close()?;
    Ok(json!({
        "device_bytes": size, "before_bytes": before, "opened_bytes": opened, "peak_bytes": peak.load(Ordering::Relaxed),
        "files": files, "live_bytes": usage.live, "ring_bytes": usage.ring_bytes,
    }))
}

fn load(tree: &Tree, time: Duration) -> Result<u64> {
    let start = now();
    let mut made = 0;
    while start.elapsed() < time {
        let directory = tree.directory(InodeId::ROOT, &format!("directory-{made}"))?;
        for index in 0..200 {
            tree.file(directory, &format!("file-{index}"), if index % 10 == 0 { 65536 } else { 4096 })?;
        }
        tree.fork(directory, InodeId::ROOT, &format!("fork-{made}"))?;
        if made > 2000 {
            let old = made - 2200;
            tree.namespace.delete_tree(&CX, InodeId::ROOT, format!("directory-{old}").as_bytes())?;
        }
        tree.namespace.forget(directory, 1);
        made += 200;
    }
    Ok(made)
}
