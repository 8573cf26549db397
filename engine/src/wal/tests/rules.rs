//! One rule of durability a test.

use super::harness::{
    BLOCK, DATA_AT, Mounted, NOW, Oracle, checkpoint_body, look, make, make_of, mount, mount_at, mount_with,
};
use crate::StoreError;
use crate::device::{AlignedBuf, Device, DeviceError, Fault, Geometry, SimulatedDevice, Ticket, Write};
use crate::hlc::HlcSource;
use crate::store::Result;
use crate::wal::recovery::{Cause, SEARCH_BYTES};
use crate::wal::{Committer, Config, NewRecord, RingGeometry, Wal};
use envoyfs_layout::directory_page::Bounds;
use envoyfs_layout::wal::{Block, BlockHeader, Closed, RecordParts, kind};
use envoyfs_layout::{Hlc, Lsn};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub(super) fn store(ring_blocks: u64) -> (Mounted, Oracle) {
    (mount(make(ring_blocks, 5)).unwrap(), Oracle::default())
}

pub(super) fn put(mounted: &Mounted, oracle: &mut Oracle, data: bool) -> Lsn {
    let mut room = mounted.wal.try_reserve(1, 100).unwrap();
    mounted.put(oracle, &mut room, 40, data).unwrap().0.end
}

fn ring(mounted: &Mounted) -> RingGeometry {
    RingGeometry::of(&mounted.superblock, &mounted.directory.entry)
}

fn watermark_at(mounted: &Mounted, sequence: u64) -> Lsn {
    let (ring, mut buf) = (ring(mounted), crate::device::AlignedBuf::zeroed(512));
    mounted.device.read(ring.position(sequence), &mut buf).unwrap();
    Block::decode(buf.as_slice(), &ring.seed, ring.position(sequence)).unwrap().header.durable
}

#[test]
fn a_commit_writes_one_block_and_one_flush() {
    let (mounted, mut oracle) = store(64);
    let before = mounted.device.counters();
    let end = put(&mounted, &mut oracle, false);
    mounted.wal.commit(end).unwrap();
    let after = mounted.device.counters();
    assert_eq!((after.writes - before.writes, after.flushes - before.flushes), (1, 1));
    assert_eq!(after.bytes_written - before.bytes_written, u64::from(BLOCK));
    mounted.wal.commit(end).unwrap();
    assert_eq!(mounted.device.counters().flushes, after.flushes, "already durable");
}

#[test]
fn durable_writes_make_a_record_durable_without_a_flush() {
    let mounted = mount_with(make(64, 5), NOW, true).unwrap();
    let mut oracle = Oracle::default();
    let before = mounted.device.counters();
    for _ in 0..3 {
        let end = put(&mounted, &mut oracle, false);
        mounted.commit(&mut oracle, end).unwrap();
    }
    let after = mounted.device.counters();
    assert_eq!((after.writes - before.writes, after.flushes - before.flushes), (3, 0));
    assert_eq!(after.durable_writes - before.durable_writes, 3);
    assert_eq!(watermark_at(&mounted, 3), oracle.history[1].end);
    oracle.check(&look(&mounted.device.crash(1)).unwrap().2);
}

#[test]
fn a_group_with_data_that_was_not_written_durably_is_flushed_once_and_a_barrier_always() {
    let mounted = mount_with(make(64, 5), NOW, true).unwrap();
    let mut oracle = Oracle::default();
    let flushes = || mounted.device.counters().flushes;
    let mut seen = Vec::new();
    for _ in 0..6 {
        let before = flushes();
        let end = put(&mounted, &mut oracle, true);
        mounted.commit(&mut oracle, end).unwrap();
        seen.push(flushes() - before);
    }
    assert_eq!(seen, [0, 0, 1, 0, 0, 1], "every third object is bulk");
    let durable = mounted.device.counters().durable_writes;
    assert_eq!(
        durable, 8,
        "of four groups block and data each: where a flush follows, the block is not written durably too"
    );
    let before = flushes();
    mounted.wal.barrier().unwrap();
    assert_eq!(flushes() - before, 1);
    let device = mounted.device.crash(1);
    oracle.check(&look(&device).unwrap().2);
    oracle.check_data(&device);
}

#[test]
fn a_closed_log_says_so_and_a_mount_that_appended_anything_after_it_does_not() {
    let (mounted, mut oracle) = store(64);
    let end = put(&mounted, &mut oracle, false);
    mounted.wal.commit(end).unwrap();
    assert!(look(&mounted.device).unwrap().2.closed.is_none());
    let next = Bounds { segment: 4, ..Bounds::default() };
    mounted.wal.close(|| (3, next)).unwrap();
    let last = mounted.wal.last_hlc();
    let device = mounted.device.crash(1);
    let found = look(&device).unwrap().2;
    assert!(found.closed == Some(Closed { hlc: last, superblock: 3, next }) && found.max_hlc == last);
    // The next mount appends a record that is lost: what was said is not true of that mount.
    let second = mount_at(device, NOW + 1_000_000).unwrap();
    let lost = put(&second, &mut oracle, false);
    let device = second.device.crash(2);
    let found = look(&device).unwrap().2;
    assert!(found.closed.is_none() && found.cut.lsn < lost);
    // INV-01: with the clock where it was, the next stamps are above the lost one.
    let stamp = second.wal.last_hlc();
    let third = mount_at(device, NOW).unwrap();
    oracle.history.truncate(1);
    put(&third, &mut oracle, false);
    assert!(third.wal.last_hlc() > stamp);
}

/// An append that comes while the mount ends: whoever left a function with the log hears that it will not be told any more.
#[test]
fn a_function_that_waits_when_the_log_is_closed_is_called() {
    let (mounted, mut oracle) = store(64);
    let durable = put(&mounted, &mut oracle, false);
    mounted.wal.commit(durable).unwrap();
    // With a watermark that says so: the end writes no block, so no group takes the late record along.
    mounted.clock.advance(Duration::from_millis(200));
    mounted.wal.pump().unwrap();
    let late = put(&mounted, &mut oracle, false);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&heard);
    mounted.wal.on_durable(late, Box::new(move |result| told.lock().push(result)));
    assert!(heard.lock().is_empty());
    mounted.wal.close(|| (1, Bounds::default())).unwrap();
    let heard = std::mem::take(&mut *heard.lock());
    assert!(matches!(heard.as_slice(), [Err(StoreError::ReadOnly { .. })]), "{heard:?}");
    assert!(mounted.wal.commit(late).is_err());
}

#[test]
fn behind_a_closed_log_nothing_is_searched_and_behind_another_everything_that_a_mount_could_have_written() {
    let (mounted, mut oracle) = store(7000);
    let end = put(&mounted, &mut oracle, false);
    mounted.wal.commit(end).unwrap();
    let bytes_read = |device: &SimulatedDevice| {
        let before = device.counters().bytes_read;
        look(device).unwrap();
        device.counters().bytes_read - before
    };
    assert!(bytes_read(&mounted.device) > 6990 * u64::from(BLOCK));
    mounted.wal.close(|| (1, Bounds::default())).unwrap();
    assert!(bytes_read(&mounted.device) < 3000 * u64::from(BLOCK));
    let device = mounted.device.crash(1);
    // Of the mount before only: this one may have appended anything.
    let second = mount_at(device, NOW + 1_000_000).unwrap();
    put(&second, &mut oracle, false);
    assert!(bytes_read(&second.device.crash(2)) > 6990 * u64::from(BLOCK));
}

/// A mount that has gone round the ring leaves blocks of its generation everywhere. After a crash only what follows the freeze is read, and what is searched behind its end: not all of the ring.
#[test]
fn after_a_crash_on_a_ring_written_several_times_what_follows_the_checkpoint_is_read() {
    const RING_BYTES: u64 = 112 << 20;
    let device = make_of(256 << 20, RING_BYTES / u64::from(BLOCK), 5);
    let (mut mounted, mut oracle) = (mount(device).unwrap(), Oracle::default());
    let body = vec![7; 60_000];
    let some = |mounted: &Mounted, bytes: u64| {
        for _ in 0..bytes / 60_000 {
            let mut room = mounted.wal.try_reserve(1, 60_100).unwrap();
            mounted.wal.append(&mut room, NewRecord::engine(kind::CLIENT_FIRST, &body)).unwrap();
            drop(room);
            mounted.wal.pump().unwrap();
        }
        mounted.wal.commit(mounted.wal.end()).unwrap();
        mounted.wal.end()
    };
    for _ in 0..3 * RING_BYTES / (20 << 20) {
        some(&mounted, 20 << 20);
        mounted.checkpoint(&mut oracle, &mut |_, _| {}).unwrap();
    }
    let end = some(&mounted, 10 << 20);
    let device = mounted.device.crash(1);
    let before = device.counters().bytes_read;
    let found = look(&device).unwrap().2;
    let read = device.counters().bytes_read - before;
    println!("{} MiB of {} read", read >> 20, RING_BYTES >> 20);
    assert!(found.corrupt.is_none() && found.cut.lsn >= end);
    assert!(read > 10 << 20 && read < (16 << 20) + SEARCH_BYTES, "{} MiB read", read >> 20);
}

/// Real threads: the loom models know the orderings, this knows the machine.
#[test]
fn sixty_four_appenders_lose_and_tear_nothing() {
    let (mounted, _) = store(7000);
    let wal = &mounted.wal;
    let committer = Committer::start(wal).unwrap();
    let mut positions: Vec<(Lsn, Hlc, u8, usize)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..64_u8)
            .map(|thread| {
                scope.spawn(move || {
                    let mut positions = Vec::new();
                    let mut last = None;
                    for round in 0..200_usize {
                        let body = vec![thread; 8 + (round * 37 + usize::from(thread)) % 200];
                        let mut room = wal.try_reserve(1, 300).unwrap();
                        let at = wal.append(&mut room, NewRecord::engine(256, &body)).unwrap();
                        assert!(last.is_none_or(|last| last < (at.start, at.hlc)), "INV-40");
                        last = Some((at.start, at.hlc));
                        positions.push((at.start, at.hlc, thread, body.len()));
                        if round % 32 == usize::from(thread % 32) {
                            wal.commit(at.end).unwrap();
                            assert!(wal.durable() >= at.end);
                        }
                    }
                    positions
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    wal.barrier().unwrap();
    drop(committer);
    positions.sort_unstable();
    assert!(positions.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1), "INV-01, INV-40");
    let room = wal.room();
    assert_eq!((room.waiting_blocks, room.reserved_blocks, room.records), (0, 0, 64 * 200));
    let found = look(&mounted.device.crash(1)).unwrap().2;
    let read: Vec<(Lsn, Hlc, u8, usize)> =
        found.records.iter().map(|r| (r.start, r.hlc, r.body[0], r.body.len())).collect();
    assert_eq!(read, positions);
    assert!(found.records.iter().all(|r| r.body.iter().all(|byte| *byte == r.body[0])));
}

#[test]
fn a_watermark_names_only_what_a_completed_flush_covered() {
    let (mounted, mut oracle) = store(64);
    let first = put(&mounted, &mut oracle, false);
    mounted.wal.frame().unwrap();
    put(&mounted, &mut oracle, false);
    mounted.wal.frame().unwrap();
    assert_eq!((watermark_at(&mounted, 1), watermark_at(&mounted, 2)), (Lsn(0), Lsn(0)));
    mounted.wal.commit(first).unwrap();
    put(&mounted, &mut oracle, false);
    mounted.wal.frame().unwrap();
    assert_eq!(watermark_at(&mounted, 3), oracle.history[1].end);
}

#[test]
fn a_barrier_does_not_pass_a_record_whose_data_is_still_being_written() {
    let (mounted, mut oracle) = store(64);
    let first = put(&mounted, &mut oracle, false);
    let (write, completion) = Ticket::pair();
    let record = |writes: &[Ticket]| {
        let mut room = mounted.wal.try_reserve(1, 100).unwrap();
        mounted.wal.append(&mut room, NewRecord { writes, ..NewRecord::engine(256, &[7; 40]) }).unwrap().end
    };
    let second = record(&[write]);
    let third = record(&[]);
    mounted.clock.advance(Duration::from_millis(1000));
    mounted.wal.pump().unwrap();
    assert_eq!(mounted.wal.durable(), first, "what nobody waits for is not waited for");
    completion.complete(Ok(()));
    assert_eq!(mounted.wal.durable(), first, "no flush began after the data had completed");
    mounted.wal.commit(second).unwrap();
    assert_eq!(mounted.wal.durable(), third);
}

/// A log of its own on the ring of a store that was just mounted.
pub(super) fn log_on(device: Arc<dyn Device>, mounted: &Mounted) -> Arc<Wal> {
    let hlc = HlcSource::after_recovery(NOW, Hlc::ZERO, Hlc::ZERO, false).0;
    let config =
        Config { ring: ring(mounted), writer_epoch: 1, checkpoint_blocks: 1, seal_blocks: 1, durable_writes: false };
    let resume = mounted.found.resume(&mounted.directory.entry, hlc);
    Wal::new(device, mounted.clock.clone(), config, resume, crate::metrics::Metrics::new(mounted.clock.clone()))
}

#[test]
fn what_is_appended_while_a_flush_runs_is_not_covered_by_it() {
    /// Appends a record in the middle of every flush.
    struct AppendsInFlush(SimulatedDevice, Mutex<Option<Arc<Wal>>>);
    impl Device for AppendsInFlush {
        fn geometry(&self) -> Geometry {
            self.0.geometry()
        }
        fn read(&self, offset: u64, into: &mut AlignedBuf) -> std::result::Result<(), DeviceError> {
            self.0.read(offset, into)
        }
        fn submit(&self, write: Write) -> Ticket {
            self.0.submit(write)
        }
        fn flush(&self) -> std::result::Result<(), DeviceError> {
            self.0.flush()?;
            let wal = self.1.lock().clone();
            if let Some(wal) = wal {
                let mut room = wal.try_reserve(1, 100).unwrap();
                wal.append(&mut room, NewRecord::engine(256, &[8; 40])).unwrap();
                wal.frame().unwrap();
            }
            Ok(())
        }
        fn discard(&self, offset: u64, len: u64) -> std::result::Result<(), DeviceError> {
            self.0.discard(offset, len)
        }
        fn label(&self) -> String {
            self.0.label()
        }
    }
    let (mounted, _) = store(64);
    let device = Arc::new(AppendsInFlush(mounted.device.clone(), Mutex::new(None)));
    let wal = log_on(device.clone(), &mounted);
    *device.1.lock() = Some(Arc::clone(&wal));
    let mut room = wal.try_reserve(1, 100).unwrap();
    let end = wal.append(&mut room, NewRecord::engine(256, &[8; 40])).unwrap().end;
    wal.commit(end).unwrap();
    assert!(wal.end() > end);
    assert_eq!(wal.durable(), end);
    *device.1.lock() = None;
}

#[test]
fn after_quiet_a_watermark_is_written_and_a_bad_block_below_it_is_reported() {
    let (mounted, mut oracle) = store(64);
    for _ in 0..3 {
        let end = put(&mounted, &mut oracle, false);
        mounted.wal.commit(end).unwrap();
    }
    mounted.clock.advance(Duration::from_millis(99));
    mounted.wal.pump().unwrap();
    let before = mounted.device.counters().writes;
    mounted.clock.advance(Duration::from_millis(1));
    mounted.wal.pump().unwrap();
    assert_eq!(mounted.device.counters().writes, before + 1);
    assert_eq!(watermark_at(&mounted, 4), oracle.history[2].end);
    mounted.clock.advance(Duration::from_secs(10));
    mounted.wal.pump().unwrap();
    assert_eq!(mounted.device.counters().writes, before + 1, "once");

    for bad in 1..4 {
        let device = SimulatedDevice::from_image(mounted.device.durable_image(), BLOCK, 1);
        device.inject(Fault::ReadError { offset: ring(&mounted).position(bad) });
        let (_, _, found) = look(&device).unwrap();
        let corrupt = found.corrupt.expect("something acknowledged is gone");
        assert_eq!(corrupt.cause, Cause::UnreadableBlock { sequence: bad, offset: ring(&mounted).position(bad) });
        assert_eq!(corrupt.threshold, oracle.history[2].end);
        assert_eq!(found.records.len() as u64, bad - 1);
        assert!(corrupt.to_string().contains("acknowledged operations"), "{corrupt}");
    }
}

#[test]
fn operations_in_the_bad_block_of_a_published_checkpoint_record_are_reported_without_any_watermark() {
    let (mut mounted, mut oracle) = store(64);
    mounted
        .checkpoint(&mut oracle, &mut |mounted, oracle| {
            put(mounted, oracle, false);
        })
        .unwrap();
    let block = mounted.wal.start_of(mounted.directory.entry.checkpoint.record).unwrap().sequence;
    let device = SimulatedDevice::from_image(mounted.device.durable_image(), BLOCK, 1);
    device.inject(Fault::FlipBits { offset: ring(&mounted).position(block) + 100, mask: 4 });
    let corrupt = look(&device).unwrap().2.corrupt.expect("an operation committed with the checkpoint is gone");
    assert_eq!(corrupt.threshold, mounted.directory.entry.checkpoint.record);
}

/// Writes a block as a mount of another generation would have.
fn forge(mounted: &Mounted, sequence: u64, generation: u32, first_lsn: Lsn, durable: Lsn) {
    let mut record = Vec::new();
    let parts = RecordParts {
        kind: 256,
        local: false,
        ignorable: false,
        hlc: Hlc(1 << 62),
        territory: 0,
        origin: None,
        result: None,
        data: &[],
        body: b"of another mount",
    };
    parts.encode(&mut record).unwrap();
    let header = BlockHeader {
        used_bytes: 80 + u32::try_from(record.len()).unwrap(),
        local_bytes: 0,
        volume: 1,
        sequence,
        first_lsn,
        writer_epoch: 1,
        generation,
        durable,
        committed: durable,
        stream_hash: 0,
        first_record: 80,
    };
    let (ring, mut buf) = (ring(mounted), AlignedBuf::zeroed(512));
    buf.as_mut_slice()[80..80 + record.len()].copy_from_slice(&record);
    header.seal(buf.as_mut_slice(), &ring.seed, ring.position(sequence));
    mounted.device.submit(Write::whole(ring.position(sequence), buf)).wait().unwrap();
}

#[test]
fn a_block_behind_a_cut_counts_only_with_exactly_the_generation_published_for_it() {
    let (mounted, mut oracle) = store(64);
    let end = put(&mounted, &mut oracle, false);
    mounted.wal.commit(end).unwrap();
    let second = mount(mounted.device.crash(1)).unwrap();
    let generation = second.directory.entry.ring_generation;
    for (forged, counts) in [(generation - 1, 1), (generation + 1, 1), (generation, 2)] {
        forge(&second, 2, forged, end, Lsn(0));
        assert_eq!(look(&second.device).unwrap().2.records.len(), counts, "generation {forged} of {generation}");
    }
}

#[test]
fn a_watermark_of_another_mount_is_no_promise_of_this_one() {
    let (mounted, mut oracle) = store(64);
    let end = put(&mounted, &mut oracle, false);
    mounted.wal.commit(end).unwrap();
    let second = mount(mounted.device.crash(1)).unwrap();
    let generation = second.directory.entry.ring_generation;
    forge(&second, 9, generation - 1, Lsn(4096), Lsn(2048));
    assert_eq!(look(&second.device).unwrap().2.corrupt, None);
    forge(&second, 9, generation, Lsn(4096), Lsn(2048));
    assert_eq!(look(&second.device).unwrap().2.corrupt.unwrap().threshold, Lsn(2048));
}

#[test]
fn a_failed_flush_poisons_for_ever() {
    let (mounted, mut oracle) = store(64);
    let first = put(&mounted, &mut oracle, false);
    mounted.wal.commit(first).unwrap();
    let end = put(&mounted, &mut oracle, false);
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let done = move |result: Result<()>| {
        assert!(result.unwrap_err().to_string().contains("a flush failed"));
        counted.fetch_add(1, Ordering::SeqCst);
    };
    mounted.wal.on_durable(end, Box::new(done));
    mounted.device.inject(Fault::FailFlush);
    let error = mounted.wal.commit(end).unwrap_err().to_string();
    assert!(error.contains("takes no more writes: a flush failed"), "{error}");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    let io = mounted.device.counters();
    assert!(mounted.wal.commit(end).is_err() && mounted.wal.barrier().is_err() && mounted.wal.frame().is_err());
    assert!(mounted.wal.pump().is_err() && mounted.wal.append_local(kind::SEGMENT_PLACED, &[0; 8]).is_err());
    assert_eq!(mounted.device.counters(), io, "nothing is tried again");
    assert!(mounted.wal.poisoned().is_some());
    oracle.acknowledge(first);
    oracle.check(&look(&mounted.device.crash(9)).unwrap().2);
}

#[test]
fn a_failed_write_of_a_block_or_of_named_data_poisons() {
    let (mounted, mut oracle) = store(64);
    mounted.device.inject(Fault::WriteError { offset: ring(&mounted).position(1) });
    let end = put(&mounted, &mut oracle, false);
    assert!(mounted.wal.commit(end).unwrap_err().to_string().contains("a write to the log failed"));

    let (mounted, mut oracle) = store(64);
    mounted.device.inject(Fault::WriteError { offset: DATA_AT + 512 });
    put(&mounted, &mut oracle, true);
    mounted.clock.advance(Duration::from_secs(2));
    assert!(mounted.wal.pump().is_ok() || mounted.wal.poisoned().is_some());
    assert!(mounted.wal.poisoned().unwrap().contains("a data write named by the log failed"));
}

#[test]
fn recovery_cuts_at_the_first_record_whose_data_is_not_there_and_never_goes_back() {
    let (mounted, mut oracle) = store(64);
    put(&mounted, &mut oracle, false);
    let lost = DATA_AT + 512;
    mounted.device.inject(Fault::LoseWrite { offset: lost });
    put(&mounted, &mut oracle, true);
    put(&mounted, &mut oracle, false);
    mounted.wal.frame().unwrap();
    let device = mounted.device.process_crash();
    let second = mount_at(device, NOW + 1_000_000).unwrap();
    assert_eq!(second.found.records.len(), 1);
    oracle.check(&second.found);
    let end = put(&second, &mut oracle, false);
    second.wal.commit(end).unwrap();
    oracle.acknowledge(end);
    oracle.check(&look(&second.device.crash(1)).unwrap().2);
}

#[test]
fn the_ring_wraps_many_times_and_a_checkpoint_never_lacks_room() {
    let (mut mounted, mut oracle) = store(16);
    for _ in 0..200 {
        while let Some(mut room) = mounted.wal.try_reserve(1, 300) {
            let end = mounted.put(&mut oracle, &mut room, 300, false).unwrap().0.end;
            mounted.commit(&mut oracle, end).unwrap();
        }
        assert!(mounted.wal.room().is_under_pressure() && mounted.wal.room().is_checkpoint_due());
        mounted
            .checkpoint(&mut oracle, &mut |mounted, oracle| {
                while let Some(mut room) = mounted.wal.try_reserve(1, 300) {
                    let end = mounted.put(oracle, &mut room, 300, false).unwrap().0.end;
                    mounted.wal.commit(end).unwrap();
                }
            })
            .unwrap();
    }
    oracle.check(&look(&mounted.device.crash(4)).unwrap().2);
}

/// Durable records until admission refuses one more.
fn fill(mounted: &Mounted, oracle: &mut Oracle) {
    while let Some(mut room) = mounted.wal.try_reserve(1, 300) {
        let end = mounted.put(oracle, &mut room, 300, false).unwrap().0.end;
        mounted.commit(oracle, end).unwrap();
    }
}

#[test]
fn a_checkpoint_adopted_after_a_crash_leaves_room_for_a_seal_and_the_next_checkpoint() {
    // The worst case: the ring was filled while the checkpoint was in flight, and power failed between its record and its publication.
    let (mounted, mut oracle) = store(16);
    let freeze = mounted.wal.freeze();
    fill(&mounted, &mut oracle);
    mounted.internal(&mut oracle, kind::CHECKPOINT, &checkpoint_body(1, &freeze).encode()).unwrap();
    mounted.wal.barrier().unwrap();
    let mut second = mount_at(mounted.device.crash(1), NOW + 1_000_000_000).unwrap();
    oracle.check(&second.found);
    assert_eq!(second.found.adopted.as_ref().map(|adopted| adopted.body.number), Some(1));
    second.seal(&mut oracle).unwrap();
    second.wal.frame().unwrap();
    second.checkpoint(&mut oracle, &mut |mounted, oracle| fill(mounted, oracle)).unwrap();
}

#[test]
fn a_watermark_is_never_paid_from_the_reserve() {
    let (mounted, mut oracle) = store(16);
    fill(&mounted, &mut oracle);
    assert!(mounted.wal.room().free_blocks() == 0 && mounted.wal.room().used_blocks < 16);
    let before = mounted.device.counters().writes;
    mounted.clock.advance(Duration::from_secs(5));
    mounted.wal.pump().unwrap();
    assert_eq!(mounted.device.counters().writes, before);
}

#[test]
fn crashes_without_a_checkpoint_fill_the_list_of_cuts_and_then_one_is_demanded() {
    let mut device = make(64, 1);
    let mut oracle = Oracle::default();
    let mut demanded = 0;
    for round in 0..30 {
        let mut mounted = mount(device).unwrap();
        oracle.check(&mounted.found);
        if mounted.must_checkpoint {
            demanded += 1;
            mounted.seal(&mut oracle).unwrap();
            mounted.wal.barrier().unwrap();
            // The first mounts of a full list crash before their checkpoint is there.
            if round % 3 == 0 {
                mounted.checkpoint(&mut oracle, &mut |_, _| ()).unwrap();
            } else {
                device = mounted.device.crash(round);
                continue;
            }
        }
        let end = put(&mounted, &mut oracle, false);
        mounted.commit(&mut oracle, end).unwrap();
        device = mounted.device.crash(round);
    }
    assert!(demanded > 2);
}

#[test]
fn room_is_given_back_and_an_overdraft_is_refused_before_it_hurts() {
    let (mounted, mut oracle) = store(16);
    let free = mounted.wal.room().free_blocks();
    drop(mounted.wal.try_reserve(3, 100).unwrap());
    assert_eq!(mounted.wal.room().free_blocks(), free);
    assert!(mounted.wal.try_reserve(1, 1 << 20).is_none());
    let mut room = mounted.wal.try_reserve(1, 8).unwrap();
    let rooms: Vec<_> = std::iter::from_fn(|| mounted.wal.try_reserve(1, 8)).collect();
    assert!(mounted.put(&mut oracle, &mut room, 3000, false).is_err());
    oracle.history.clear();
    mounted.put(&mut oracle, &mut room, 8, false).unwrap();
    assert_eq!(room.blocks(), 0);
    drop((room, rooms));
}

/// The memory for records is promised to others, none of whom has appended yet: there is nothing to write that would make room.
#[test]
fn who_waits_for_the_promises_of_others_runs_no_empty_groups() {
    let (mounted, _) = store(40_000);
    let half = 4 << 20;
    let others = mounted.wal.try_reserve(1, half).unwrap();
    let groups = || mounted.wal.metrics.log.groups.get();
    let before = groups();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| mounted.wal.try_reserve(1, half).is_some());
        parking_lot::Condvar::new().wait_for(&mut Mutex::new(()).lock(), Duration::from_millis(60));
        assert!(!waiting.is_finished());
        assert_eq!(groups(), before);
        drop(others);
        assert!(waiting.join().unwrap());
    });
}

#[test]
fn threads_commit_together_and_callbacks_come_without_anybody_waiting() {
    let (mounted, _) = store(4096);
    let wal = &mounted.wal;
    let committer = Committer::start(wal).unwrap();
    let calls = Arc::new(AtomicU32::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let calls = Arc::clone(&calls);
            scope.spawn(move || {
                for _ in 0..200 {
                    let mut room = wal.try_reserve(1, 100).unwrap();
                    let body = [thread; 50];
                    let record = NewRecord::engine(256, &body);
                    let end = wal.append(&mut room, record).unwrap().end;
                    let calls = Arc::clone(&calls);
                    wal.on_durable(
                        end,
                        Box::new(move |result| {
                            result.unwrap();
                            calls.fetch_add(1, Ordering::SeqCst);
                        }),
                    );
                    if thread % 2 == 0 {
                        wal.commit(end).unwrap();
                        assert!(wal.durable() >= end);
                    }
                }
            });
        }
    });
    wal.barrier().unwrap();
    // Joins the thread: the leader of a group wakes waiters first and calls the functions then.
    drop(committer);
    assert_eq!(calls.load(Ordering::SeqCst), 800);
    let found = look(&mounted.device.crash(1)).unwrap().2;
    assert_eq!((found.records.len(), found.cut.lsn, found.corrupt), (800, wal.end(), None));
}
