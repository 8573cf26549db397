//! Random histories: appends, commits, barriers, checkpoints, in a ring that wraps, with power cuts after any IO, also of recovery.

use super::harness::{Mounted, NOW, Oracle, Random, look, make, mount_with};
use crate::device::SimulatedDevice;
use crate::store::Result;
use envoyfs_layout::Lsn;
use envoyfs_layout::wal::{SegmentPlaced, kind};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

fn client_op(mounted: &mut Mounted, oracle: &mut Oracle, random: &mut Random, acks: &Arc<Mutex<Lsn>>) -> Result<()> {
    match random.below(16) {
        0..=7 => {
            let bytes = match random.below(4) {
                0 => 8,
                1 => random.below(100),
                2 => random.below(500),
                _ => random.below(1500),
            };
            let records = 1 + random.below(2);
            let Some(mut room) = mounted.wal.try_reserve(records, records * (bytes.max(8) + 32)) else {
                return mounted.checkpoint(oracle, &mut |_, _| ());
            };
            for _ in 0..records {
                let bytes = usize::try_from(bytes).unwrap();
                mounted.put(oracle, &mut room, bytes, random.below(2) == 0)?;
            }
        }
        8 => mounted.commit(oracle, mounted.wal.end())?,
        9 => {
            let any = random.below(oracle.history.len() as u64 + 1);
            if let Some(entry) = oracle.history.get(usize::try_from(any).unwrap()) {
                mounted.commit(oracle, entry.end)?;
            }
        }
        10 => {
            let (acks, lsn) = (Arc::clone(acks), mounted.wal.end());
            let done = move |result: Result<()>| {
                if result.is_ok() {
                    let mut acked = acks.lock();
                    *acked = (*acked).max(lsn);
                }
            };
            mounted.wal.on_durable(lsn, Box::new(done));
        }
        11 => {
            mounted.clock.advance(Duration::from_millis(1 + random.below(1200)));
            mounted.wal.pump()?;
        }
        12 => {
            mounted.device.poll(usize::try_from(random.below(4)).unwrap());
        }
        13 => mounted.wal.frame()?,
        14 => {
            // From the reserve of a checkpoint, so only while there is room for more.
            if mounted.wal.room().free_blocks() > 1 {
                let number = u32::try_from(oracle.next_id).unwrap();
                let body = SegmentPlaced { number: number + 1, container: number };
                mounted.wal.append_local(kind::SEGMENT_PLACED, &body.encode())?;
            }
        }
        _ => {
            let fill = random.below(2) == 0;
            let bytes = random.below(400);
            mounted.checkpoint(oracle, &mut |mounted, oracle| {
                // Operations go on after the freeze, as far as admission lets them, each in a block of its own.
                while let Some(mut room) = mounted.wal.try_reserve(1, bytes.max(8)).filter(|_| fill) {
                    if mounted.put(oracle, &mut room, usize::try_from(bytes).unwrap(), false).is_err()
                        || mounted.wal.frame().is_err()
                    {
                        break;
                    }
                }
            })?;
        }
    }
    Ok(())
}

fn run(seed: u64) {
    let mut random = Random(seed);
    let ring_blocks = [16, 24, 64][usize::try_from(random.below(3)).unwrap()];
    let mut device = make(ring_blocks, seed);
    let mut oracle = Oracle::default();
    let durable_writes = random.below(2) == 0;
    for round in 0..12 {
        device = device.slow(random.below(2) == 0);
        let ios = if random.below(3) == 0 { 12 } else { 150 };
        device.crash_after(random.below(ios));
        let handle = device.clone();
        let acks = Arc::new(Mutex::new(Lsn(0)));
        if let Ok(mut mounted) = mount_with(device.clone(), NOW + round * 60_000_000_000, durable_writes) {
            oracle.check(&mounted.found);
            let served = serve(&mut mounted, &mut oracle, &mut random, &acks);
            let why = served.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(!why.contains("ring") && !why.contains("no space"), "seed {seed} round {round}: {why}");
        }
        oracle.acknowledge(*acks.lock());
        device = if random.below(5) == 0 { process_crash(&handle) } else { handle.crash(random.next()) };
        let (_, directory, found) = look(&device).unwrap();
        // An interrupted recovery is a pure look: the same again, whatever happens in between (INV-21).
        let (_, again, second) = look(&device).unwrap();
        assert_eq!((directory, &found), (again, &second));
        assert!(found.corrupt.is_none(), "seed {seed} round {round}: {}", found.corrupt.unwrap());
        oracle.check(&found);
        oracle.check_data(&device);
        oracle.acknowledged = found.cut.lsn.min(oracle.acknowledged);
    }
}

fn process_crash(device: &SimulatedDevice) -> SimulatedDevice {
    // A device that has stopped by `crash_after` has lost power: only a live one can lose its process alone.
    if device.is_crashed() { device.crash(7) } else { device.process_crash() }
}

fn serve(mounted: &mut Mounted, oracle: &mut Oracle, random: &mut Random, acks: &Arc<Mutex<Lsn>>) -> Result<()> {
    if mounted.must_checkpoint {
        mounted.checkpoint(oracle, &mut |_, _| ())?;
    } else if random.below(2) == 0 && oracle.has_open_segment() {
        mounted.seal(oracle)?;
    }
    for _ in 0..random.below(120) {
        client_op(mounted, oracle, random, acks)?;
    }
    Ok(())
}

#[test]
fn every_crash_recovers_a_prefix_with_everything_acknowledged() {
    if let Ok(seed) = std::env::var("WAL_SEED") {
        return run(seed.parse().unwrap());
    }
    let seeds: u64 = std::env::var("WAL_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(150);
    for seed in 0..seeds {
        let result = std::panic::catch_unwind(|| run(seed));
        if let Err(panic) = result {
            eprintln!("WAL_SEED={seed} cargo test -p envoyfs-engine --lib wal::tests::crashes");
            std::panic::resume_unwind(panic);
        }
    }
}
