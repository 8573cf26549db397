//! One rule of durability a test.

use super::harness::{BLOCK, DATA_AT, Mounted, NOW, Oracle, look, make, mount, mount_at};
use crate::device::{Device, Fault, SimulatedDevice};
use crate::store::Result;
use crate::wal::recovery::Cause;
use crate::wal::{Committer, NewRecord, RingGeometry};
use envoyfs_layout::Lsn;
use envoyfs_layout::wal::{Block, SegmentPlaced, kind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

fn store(ring_blocks: u64) -> (Mounted, Oracle) {
    (mount(make(ring_blocks, 5)).unwrap(), Oracle::default())
}

fn put(mounted: &Mounted, oracle: &mut Oracle, data: bool) -> Lsn {
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
    let mounted = Mounted { device: mounted.device.clone().slow(true), ..mounted };
    let first = put(&mounted, &mut oracle, false);
    put(&mounted, &mut oracle, true);
    // Blocks are waited for, data nobody asked for is not.
    mounted.clock.advance(Duration::from_millis(1001));
    let written = mounted.device.under_way();
    assert_eq!(written, 1);
    mounted.wal.pump().unwrap();
    assert!(mounted.wal.durable() >= first);
    let crashed = mounted.device.crash(3);
    let (_, _, found) = look(&crashed).unwrap();
    oracle.acknowledge(mounted.wal.durable());
    oracle.check(&found);
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
        assert_eq!(corrupt.cause, Cause::Block { sequence: bad, offset: ring(&mounted).position(bad) });
        assert_eq!(corrupt.threshold, oracle.history[2].end);
        assert_eq!(found.records.len() as u64, bad - 1);
        assert!(corrupt.to_string().contains("acknowledged operations"), "{corrupt}");
    }
}

#[test]
fn a_bad_block_in_front_of_a_published_checkpoint_record_is_reported_without_any_watermark() {
    let (mut mounted, mut oracle) = store(64);
    put(&mounted, &mut oracle, false);
    mounted
        .checkpoint(&mut oracle, &mut |mounted, oracle| {
            put(mounted, oracle, false);
            mounted.wal.frame().unwrap();
        })
        .unwrap();
    let device = SimulatedDevice::from_image(mounted.device.durable_image(), BLOCK, 1);
    device.inject(Fault::FlipBits {
        offset: ring(&mounted).position(mounted.directory.entry.start.sequence) + 100,
        mask: 4,
    });
    assert!(look(&device).unwrap().2.corrupt.is_some());
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
fn local_records_come_back_and_stand_before_what_was_appended_after_them() {
    let (mounted, mut oracle) = store(64);
    for number in 0..20 {
        mounted
            .wal
            .append_local(kind::SEGMENT_PLACED, &SegmentPlaced { number: number + 1, container: number }.encode())
            .unwrap();
        put(&mounted, &mut oracle, false);
    }
    mounted.wal.commit(mounted.wal.end()).unwrap();
    let found = look(&mounted.device.crash(1)).unwrap().2;
    assert_eq!(found.placed.iter().map(|placed| placed.container).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    assert_eq!(found.records.len(), 20);
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
    assert_eq!(calls.load(Ordering::SeqCst), 800);
    drop(committer);
    assert_eq!(look(&mounted.device.crash(1)).unwrap().2.records.len(), 800);
}
