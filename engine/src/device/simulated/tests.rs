//! What the simulation keeps, loses and tears.

mod timed;

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};

const BLOCK: u64 = 4096;

fn device() -> SimulatedDevice {
    SimulatedDevice::new(64 * BLOCK, 512, 1)
}

fn fill(length: usize, mark: u8) -> Arc<AlignedBuf> {
    let mut buffer = AlignedBuf::zeroed(length);
    buffer.as_mut_slice().fill(mark);
    Arc::new(buffer)
}

fn write(device: &SimulatedDevice, offset: u64, mark: u8) -> Result<(), DeviceError> {
    device.submit(Write::whole(offset, fill(4096, mark))).wait()
}

fn block(device: &SimulatedDevice, offset: u64) -> Result<Vec<u8>, DeviceError> {
    let mut buffer = AlignedBuf::zeroed(4096);
    device.read(offset, &mut buffer)?;
    Ok(buffer.as_slice().to_vec())
}

#[test]
fn flushed_writes_survive_every_power_loss() {
    for seed in 0..200 {
        let device = device();
        write(&device, 0, 1).unwrap();
        device.flush().unwrap();
        write(&device, BLOCK, 2).unwrap();
        let after = device.crash(seed);
        assert_eq!(block(&after, 0).unwrap(), [1; 4096], "seed {seed}");
        assert_eq!(block(&device, 0), Err(DeviceError::Crashed));
    }
}

#[test]
fn unflushed_writes_are_kept_dropped_or_torn_at_sectors() {
    let (mut kept, mut dropped, mut torn, mut reordered) = (0, 0, 0, 0);
    for seed in 0..500 {
        let device = device();
        write(&device, 0, 1).unwrap();
        write(&device, BLOCK, 2).unwrap();
        let after = device.crash(seed);
        let (first, second) = (block(&after, 0).unwrap(), block(&after, BLOCK).unwrap());
        for sector in first.as_chunks::<512>().0 {
            assert!(*sector == [0; 512] || *sector == [1; 512], "seed {seed}: torn inside a sector");
        }
        match first.iter().filter(|byte| **byte == 1).count() {
            0 => dropped += 1,
            4096 => kept += 1,
            _ => torn += 1,
        }
        reordered += i32::from(first == [0; 4096] && second == [2; 4096]);
    }
    assert!(kept > 50 && dropped > 50 && torn > 20 && reordered > 20, "{kept} {dropped} {torn} {reordered}");
}

#[test]
fn the_same_seed_gives_the_same_crash() {
    let run = |seed| {
        let device = device().slow(true);
        for index in 0..32 {
            drop(device.submit(Write::whole(index * BLOCK, fill(4096, 7))));
        }
        device.poll(10);
        device.crash(seed).image()
    };
    assert_eq!(run(5), run(5));
    assert_ne!((0..8).map(run).collect::<Vec<_>>(), (8..16).map(run).collect::<Vec<_>>());
}

#[test]
fn a_slow_write_is_invisible_until_polled_and_a_flush_does_not_cover_it() {
    let device = device().slow(true);
    let ticket = device.submit(Write::whole(0, fill(4096, 1)));
    assert!(!ticket.is_done());
    assert_eq!(block(&device, 0).unwrap(), [0; 4096]);
    device.flush().unwrap();
    assert!(ticket.is_done());
    assert_eq!(block(&device, 0).unwrap(), [1; 4096]);
    assert_eq!(device.durable_image(), DeviceImage::new(64 * BLOCK));
    device.flush().unwrap();
    assert_eq!(block(&device.crash(0), 0).unwrap(), [1; 4096]);
}

#[test]
fn waiting_for_a_slow_write_makes_progress() {
    let device = device().slow(true);
    let tickets: Vec<Ticket> = (0..8).map(|index| device.submit(Write::whole(index * BLOCK, fill(4096, 3)))).collect();
    let called = Arc::new(AtomicUsize::new(0));
    for ticket in &tickets {
        let called = Arc::clone(&called);
        ticket.on_done(Box::new(move |_| {
            called.fetch_add(1, Ordering::SeqCst);
        }));
    }
    assert_eq!(tickets[5].wait(), Ok(()));
    device.poll(usize::MAX);
    assert_eq!((called.load(Ordering::SeqCst), device.under_way()), (8, 0));
}

#[test]
fn after_the_last_allowed_io_everything_answers_crashed() {
    let device = device();
    device.crash_after(2);
    write(&device, 0, 1).unwrap();
    device.flush().unwrap();
    assert!(block(&device, 0).is_ok());
    assert_eq!(write(&device, 0, 2), Err(DeviceError::Crashed));
    assert_eq!(device.flush(), Err(DeviceError::Crashed));
    assert_eq!(block(&device, 0), Err(DeviceError::Crashed));
    assert!(device.is_crashed());
    assert_eq!(block(&device.crash(3), 0).unwrap(), [1; 4096]);
}

#[test]
fn power_loss_fails_the_tickets_under_way() {
    let device = device().slow(true);
    let ticket = device.submit(Write::whole(0, fill(4096, 1)));
    let _after = device.crash(0);
    assert_eq!(ticket.wait(), Err(DeviceError::Crashed));
}

#[test]
fn a_process_crash_keeps_the_cache_but_does_not_make_it_durable() {
    let device = device().slow(true);
    device.submit(Write::whole(0, fill(4096, 1))).wait().unwrap();
    drop(device.submit(Write::whole(BLOCK, fill(4096, 2))));
    let next = device.process_crash();
    assert_eq!(block(&device, 0), Err(DeviceError::Crashed));
    assert_eq!(block(&next, 0).unwrap(), [1; 4096]);
    assert_eq!(block(&next, BLOCK).unwrap(), [2; 4096]);
    assert_eq!(next.durable_image(), DeviceImage::new(64 * BLOCK));
    next.flush().unwrap();
    assert_eq!(block(&next.crash(9), BLOCK).unwrap(), [2; 4096]);
}

#[test]
fn a_failed_flush_is_never_made_good_by_the_next() {
    let mut lost = 0;
    for seed in 0..100 {
        let device = device();
        write(&device, 0, 1).unwrap();
        device.inject(Fault::FailFlush);
        assert!(matches!(device.flush(), Err(DeviceError::Io { operation: Operation::Flush, .. })));
        write(&device, BLOCK, 2).unwrap();
        device.flush().unwrap();
        assert_eq!(block(&device, 0).unwrap(), [1; 4096]);
        let after = device.crash(seed);
        lost += i32::from(block(&after, 0).unwrap() != [1; 4096]);
        assert_eq!(block(&after, BLOCK).unwrap(), [2; 4096]);
    }
    assert!(lost > 10);
}

#[test]
fn a_durable_write_is_not_replaced_by_an_older_abandoned_one() {
    for seed in 0..50 {
        let device = device();
        write(&device, 0, 1).unwrap();
        device.inject(Fault::FailFlush);
        device.flush().unwrap_err();
        write(&device, 0, 2).unwrap();
        device.flush().unwrap();
        assert_eq!(block(&device.crash(seed), 0).unwrap(), [2; 4096]);
    }
}

#[test]
fn read_errors_stay_until_the_sector_is_written() {
    let device = device();
    device.inject(Fault::ReadError { offset: 1000 });
    assert!(matches!(block(&device, 0), Err(DeviceError::Io { errno: libc::EIO, .. })));
    assert!(block(&device, BLOCK).is_ok());
    write(&device, 0, 1).unwrap();
    assert!(block(&device, 0).is_ok());
}

#[test]
fn flipped_bits_stay_through_flush_and_crash() {
    let device = device();
    write(&device, 0, 0).unwrap();
    device.inject(Fault::FlipBits { offset: 77, mask: 0x40 });
    assert_eq!(block(&device, 0).unwrap()[77], 0x40);
    device.flush().unwrap();
    assert_eq!(block(&device.crash(1), 0).unwrap()[77], 0x40);
}

#[test]
fn a_lost_write_leaves_one_sector_old_and_a_misdirected_one_lands_elsewhere() {
    let device = device();
    write(&device, 0, 1).unwrap();
    device.inject(Fault::LoseWrite { offset: 512 });
    write(&device, 0, 2).unwrap();
    let bytes = block(&device, 0).unwrap();
    assert_eq!((bytes[511], bytes[512], bytes[1023], bytes[1024]), (2, 1, 1, 2));
    device.inject(Fault::Misdirect { offset: 0, to: 8 * BLOCK });
    write(&device, 0, 3).unwrap();
    assert_eq!((block(&device, 0).unwrap()[0], block(&device, 8 * BLOCK).unwrap()[0]), (2, 3));
    write(&device, 0, 4).unwrap();
    assert_eq!(block(&device, 0).unwrap(), [4; 4096]);
}

#[test]
fn a_stale_sector_returns_what_it_held() {
    let device = device();
    write(&device, 0, 1).unwrap();
    device.inject(Fault::Stale { offset: 512 });
    write(&device, 0, 2).unwrap();
    let bytes = block(&device, 0).unwrap();
    assert_eq!((bytes[511], bytes[512], bytes[1024]), (2, 1, 2));
}

#[test]
fn a_write_error_reaches_the_ticket_and_leaves_sectors_to_chance() {
    let device = device().slow(true);
    device.inject(Fault::WriteError { offset: 512 });
    let outcome = write(&device, 0, 1);
    assert!(matches!(outcome, Err(DeviceError::Io { operation: Operation::Write, offset: 0, length: 4096, .. })));
    write(&device, 0, 2).unwrap();
    assert_eq!(block(&device, 0).unwrap(), [2; 4096]);
}

#[test]
fn requests_are_checked_and_counted() {
    let device = SimulatedDevice::new(64 * BLOCK + 512, 4096, 0);
    assert_eq!(device.geometry().size_bytes, 64 * BLOCK);
    let short = device.submit(Write::whole(0, fill(512, 1))).wait();
    assert!(matches!(short, Err(DeviceError::Unaligned { alignment: 4096, .. })));
    assert!(matches!(write(&device, 64 * BLOCK, 1), Err(DeviceError::ShortDevice { .. })));
    write(&device, 0, 1).unwrap();
    block(&device, 0).unwrap();
    device.discard(0, BLOCK).unwrap();
    device.flush().unwrap();
    assert_eq!(block(&device, 0).unwrap(), [0; 4096]);
    let expected = Counters {
        reads: 2,
        bytes_read: 8192,
        writes: 1,
        bytes_written: 4096,
        flushes: 1,
        discards: 1,
        durable_writes: 0,
    };
    assert_eq!(device.counters(), expected);
}

fn write_durably(device: &SimulatedDevice, offset: u64, mark: u8) -> Result<(), DeviceError> {
    device.submit(Write::whole(offset, fill(4096, mark)).durable()).wait()
}

#[test]
fn a_durable_write_survives_every_power_loss_and_saves_no_other() {
    let mut lost = 0;
    for seed in 0..200 {
        for slow in [false, true] {
            let device = device().slow(slow);
            write(&device, 0, 1).unwrap();
            write_durably(&device, BLOCK, 2).unwrap();
            let after = device.crash(seed);
            assert_eq!(block(&after, BLOCK).unwrap(), [2; 4096], "seed {seed}");
            lost += i32::from(block(&after, 0).unwrap() == [0; 4096]);
        }
    }
    assert!(lost > 50, "{lost}");
}

#[test]
fn an_older_write_in_the_cache_never_comes_after_a_durable_one() {
    let wide = |device: &SimulatedDevice, mark| device.submit(Write::whole(0, fill(3 * 4096, mark))).wait().unwrap();
    for seed in 0..100 {
        let device = device();
        wide(&device, 1);
        write_durably(&device, BLOCK, 2).unwrap();
        assert_eq!(block(&device.crash(seed), BLOCK).unwrap(), [2; 4096]);
        let device = self::device();
        wide(&device, 1);
        write_durably(&device, BLOCK, 2).unwrap();
        device.flush().unwrap();
        let after = device.crash(seed);
        let marks = [0, 1, 2].map(|at| block(&after, at * BLOCK).unwrap()[0]);
        assert_eq!(marks, [1, 2, 1]);
        // Nor does what a failed flush left behind.
        let device = self::device();
        wide(&device, 1);
        device.inject(Fault::FailFlush);
        device.flush().unwrap_err();
        write_durably(&device, BLOCK, 2).unwrap();
        assert_eq!(block(&device.crash(seed), BLOCK).unwrap(), [2; 4096]);
    }
}

#[test]
fn a_durable_write_that_the_device_loses_or_that_is_under_way_is_not_durable() {
    let device = device();
    write(&device, 0, 1).unwrap();
    device.inject(Fault::LoseWrite { offset: 512 });
    write_durably(&device, 0, 2).unwrap();
    let bytes = block(&device, 0).unwrap();
    assert_eq!((bytes[511], bytes[512], bytes[1024]), (2, 1, 2));
    // The lost sector is as volatile as it was.
    let mut medium = [9; 1536];
    device.durable_image().read(0, &mut medium);
    assert_eq!((medium[511], medium[512], medium[1024]), (2, 0, 2));
    let mut dropped = 0;
    for seed in 0..50 {
        let device = self::device().slow(true);
        drop(device.submit(Write::whole(0, fill(4096, 1)).durable()));
        dropped += i32::from(block(&device.crash(seed), 0).unwrap() == [0; 4096]);
    }
    assert!(dropped > 5);
}

#[test]
fn rules_strike_the_nth_operation_in_their_range_and_say_so() {
    let device = device();
    device.rule(Rule::new(On::Write, When::Nth(1), Effect::Fail(libc::EIO)).within(BLOCK..2 * BLOCK));
    device.rule(Rule::new(On::Read, When::From(2), Effect::Fail(libc::ENODATA)));
    write(&device, BLOCK, 1).unwrap();
    write(&device, 0, 1).unwrap();
    assert!(matches!(write(&device, BLOCK, 2), Err(DeviceError::Io { errno: libc::EIO, .. })));
    write(&device, BLOCK, 3).unwrap();
    block(&device, 0).unwrap();
    block(&device, 0).unwrap();
    for _ in 0..3 {
        assert!(matches!(block(&device, 0), Err(DeviceError::Io { errno: libc::ENODATA, .. })));
    }
    let fired = device.fired();
    assert_eq!(fired.len(), 4);
    assert_eq!((fired[0].rule, fired[0].on, fired[0].offset), (0, On::Write, BLOCK));
    device.clear_rules();
    assert_eq!(block(&device, BLOCK).unwrap(), [3; 4096]);
}

#[test]
fn a_chance_is_drawn_from_the_seed() {
    let run = |seed| {
        let device = SimulatedDevice::new(64 * BLOCK, 512, seed);
        device.rule(Rule::new(On::Write, When::Chance(6554), Effect::Lie));
        (0..400_u64).for_each(|index| write(&device, index % 64 * BLOCK, 1).unwrap());
        device.fired()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    assert!((15..80).contains(&run(3).len()), "{}", run(3).len());
}

#[test]
fn a_lying_flush_acknowledges_and_keeps_nothing() {
    let (mut lost, mut forced) = (0, 0);
    for seed in 0..100 {
        let device = device();
        device.rule(Rule::new(On::Flush, When::From(0), Effect::Lie));
        write(&device, 0, 1).unwrap();
        device.flush().unwrap();
        write_durably(&device, BLOCK, 2).unwrap();
        device.rule(Rule::new(On::Write, When::From(0), Effect::Volatile));
        write_durably(&device, 2 * BLOCK, 3).unwrap();
        device.flush().unwrap();
        let after = device.crash(seed);
        lost += i32::from(block(&after, 0).unwrap() == [0; 4096]);
        forced += i32::from(block(&after, 2 * BLOCK).unwrap() == [0; 4096]);
        assert_eq!(block(&after, BLOCK).unwrap(), [2; 4096]);
    }
    assert!(lost > 20 && forced > 20, "{lost} {forced}");
}

#[test]
fn lost_misdirected_torn_and_flipped_writes_are_acknowledged() {
    let struck = |effect| {
        let device = device();
        (0..64).for_each(|index| write(&device, index * BLOCK, 1).unwrap());
        device.rule(Rule::new(On::Write, When::Nth(0), effect));
        write(&device, 5 * BLOCK, 2).unwrap();
        let bytes = device.image().to_bytes();
        let there = bytes[5 * 4096..6 * 4096].to_vec();
        let changed = bytes.iter().filter(|byte| **byte != 1).count();
        (there, changed)
    };
    assert_eq!(struck(Effect::Lie).1, 0);
    let (there, changed) = struck(Effect::Misdirect);
    assert!(changed == 4096 && there != [2; 4096]);
    let (there, changed) = struck(Effect::Tear);
    assert!(changed % 512 == 0 && changed < 4096 && there[changed..].iter().all(|byte| *byte == 1));
    let (there, _) = struck(Effect::Flip);
    assert_eq!(there.iter().map(|byte| (byte ^ 2).count_ones()).sum::<u32>(), 1);
}

#[test]
fn reads_may_be_stale_flipped_or_not_done() {
    let device = device();
    write(&device, 0, 1).unwrap();
    device.flush().unwrap();
    write(&device, 0, 2).unwrap();
    for (nth, effect) in [(0, Effect::Stale), (1, Effect::Flip), (2, Effect::Lie)] {
        device.rule(Rule::new(On::Read, When::Nth(nth), effect));
    }
    assert_eq!(block(&device, 0).unwrap(), [1; 4096]);
    let flipped: u32 = block(&device, 0).unwrap().iter().map(|byte| (byte ^ 2).count_ones()).sum();
    assert_eq!(flipped, 1);
    assert_eq!(block(&device, 0).unwrap(), [0; 4096]);
    assert_eq!(block(&device, 0).unwrap(), [2; 4096]);
}

#[test]
fn bit_rot_is_stored_and_a_short_device_ends_early() {
    let device = device();
    let hit = device.rot(BLOCK..2 * BLOCK, 5, 9);
    assert!(hit.iter().all(|at| (BLOCK..2 * BLOCK).contains(at)));
    let bytes = block(&device.crash(1), BLOCK).unwrap();
    assert_eq!(bytes.iter().map(|byte| byte.count_ones()).sum::<u32>(), 5);
    let device = self::device();
    device.end_at(10 * BLOCK);
    assert!(write(&device, 9 * BLOCK, 1).is_ok());
    assert!(matches!(write(&device, 10 * BLOCK, 1), Err(DeviceError::ShortDevice { size: 40960, .. })));
    assert!(matches!(block(&device, 10 * BLOCK), Err(DeviceError::ShortDevice { .. })));
    assert_eq!(device.geometry().size_bytes, 64 * BLOCK);
}
