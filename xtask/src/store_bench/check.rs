//! How fast a store is checked: every node and every block of data, beside fio reading as many bytes of the same device one after the other.

use super::Sizes;
use super::against_fio::{in_turns, number};
use super::stage::{FIO_PEER, Medium, Stage};
use super::table::{Bar, Row};
use anyhow::Context;
use serde_json::Value;

/// MiB of the device, and of what is in the tree.
const fn mib(sizes: &Sizes) -> (u64, u64) {
    if sizes.quick { (1280, 768) } else { (4608, 3584) }
}

fn live_bytes(report: &Value) -> anyhow::Result<f64> {
    let statistics = report.get("statistics").and_then(|statistics| statistics.get("live_bytes"));
    statistics.and_then(Value::as_f64).context("no live bytes in the report")
}

pub fn check(stage: &Stage, sizes: &Sizes) -> anyhow::Result<Vec<Row>> {
    let (device_mib, tree_mib) = mib(sizes);
    let mut rows = Vec::new();
    for medium in Medium::BOTH {
        let device = stage.loop_device(medium, device_mib)?;
        stage.probe(&["fill", &device.device, "--mib", &tree_mib.to_string()])?;
        // Both have read once what they will read.
        let live = live_bytes(&stage.check(&device)?.0)?;
        // Whole requests; behind the ring, where the data lies.
        let (file, size) = (format!("--filename={}", device.device), format!("--size={}m", tree_mib));
        let job = ["--name=r", "--rw=read", "--bs=2m", "--iodepth=8", "--offset=128m", "--readonly", &file, &size];
        let peer = || Ok(number(&stage.fio(&[&job[..], &FIO_PEER].concat())?, "read", "bw_bytes")? / 1e6);
        peer()?;
        let own = || {
            let (report, seconds) = stage.check(&device)?;
            Ok(live_bytes(&report)? / 1e6 / seconds)
        };
        let sides = in_turns(sizes, own, peer)?;
        let conditions = format!(
            "{}, fsck.envoyfs -fn of {:.2} GB, cold, beside fio io_uring reading 2 MiB, depth 8",
            medium.name(),
            live / 1e9
        );
        rows.push(sides.row("check", conditions, Bar::None, "MB/s"));
    }
    Ok(rows)
}
