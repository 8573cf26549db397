//! How many records a second a log takes, by threads: `cargo nextest run --release -p envoyfs-engine wal::tests::speed --run-ignored only --no-capture`.

use crate::device::{AlignedBuf, Device, DeviceError, Geometry, Ticket, Write};
use crate::hlc::{HlcSource, SystemClock};
use crate::metrics::Metrics;
use crate::wal::{Committer, Config, NewRecord, Resume, RingGeometry, Wal};
use envoyfs_layout::{Hlc, Lsn};
use std::sync::Arc;
use std::time::Instant;

/// Takes everything at once and keeps nothing.
struct Null;

impl Device for Null {
    fn geometry(&self) -> Geometry {
        Geometry { size_bytes: 1 << 40, logical_block_bytes: 4096, is_block_device: true }
    }
    fn read(&self, _: u64, _: &mut AlignedBuf) -> Result<(), DeviceError> {
        Ok(())
    }
    fn submit(&self, _: Write) -> Ticket {
        Ticket::done(Ok(()))
    }
    fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }
    fn discard(&self, _: u64, _: u64) -> Result<(), DeviceError> {
        Ok(())
    }
    fn label(&self) -> String {
        "null".into()
    }
}

fn open() -> Arc<Wal> {
    let ring = RingGeometry { offset: 65536, blocks: 4 << 20, block_bytes: 4096, seed: [1; 16], volume: 1 };
    let resume = Resume {
        generation: 1,
        next_lsn: Lsn(0),
        next_sequence: 1,
        start_sequence: 1,
        chain: vec![],
        records: 0,
        hlc: HlcSource::after_recovery(1_700_000_000_000_000_000, Hlc::ZERO, Hlc::ZERO, false).0,
    };
    let config = Config { ring, writer_epoch: 1, checkpoint_blocks: 100, seal_blocks: 0, durable_writes: false };
    let clock = Arc::new(SystemClock::new());
    Wal::new(Arc::new(Null), clock.clone(), config, resume, Metrics::new(clock))
}

#[expect(clippy::disallowed_methods, reason = "a measurement")]
fn rate(threads: u64, body: usize, reserve: bool) -> f64 {
    let wal = open();
    let committer = Committer::start(&wal).unwrap();
    let each = 1_600_000 / threads;
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let body = vec![7_u8; body];
                let take = || wal.try_reserve(if reserve { 1 } else { 64 }, if reserve { 200 } else { 64 * 200 });
                let mut room = take().unwrap();
                for round in 0..each {
                    if reserve || round % 64 == 0 {
                        room = take().unwrap();
                    }
                    wal.append(&mut room, NewRecord::engine(256, &body)).unwrap();
                }
            });
        }
    });
    let took = start.elapsed();
    drop(committer);
    (each * threads) as f64 / took.as_secs_f64() / 1e6
}

#[test]
#[ignore = "a measurement"]
fn appends_a_second() {
    for reserve in [true, false] {
        for threads in [1, 2, 8, 64] {
            let runs: Vec<f64> = (0..5).map(|_| rate(threads, 100, reserve)).collect();
            let mut sorted = runs.clone();
            sorted.sort_by(f64::total_cmp);
            println!(
                "reserve each {reserve:5}, {threads:2} threads: {:6.2} M records/s (of {:.2} to {:.2})",
                sorted[2], sorted[0], sorted[4]
            );
        }
    }
}
