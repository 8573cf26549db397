//! The whole log with its committer's thread, under random schedules: appenders that commit, and appenders that leave a function and go. Nobody's wait ends by a timer here, so whoever
//! is not told waits for ever, which is a deadlock to the scheduler.

use crate::device::{AlignedBuf, Device as _, DeviceImage, SimulatedDevice, Ticket, Write};
use crate::shuttled::check;
use crate::store::{DataObject, Result};
use crate::sync::{Condvar, Mutex, TIMERS, thread};
use crate::wal::tests::harness::{DATA_AT, NOW, look, make, mount_with};
use crate::wal::{Committer, NewRecord};
use envoyfs_layout::directory_page::Bounds;
use envoyfs_layout::{Lsn, Oid, checksum};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// What would be left if power failed now, and nothing un-flushed survived, ends at or behind this LSN.
fn assert_durable(device: &SimulatedDevice, end: Lsn) {
    let left = SimulatedDevice::from_image(device.durable_image(), 512, 1);
    let (.., found) = look(&left).unwrap();
    assert_eq!(found.corrupt, None);
    assert!(found.cut.lsn >= end, "INV-18: {end:?} was acknowledged, the log ends at {:?}", found.cut.lsn);
}

/// A block of data, under way.
fn data(device: &SimulatedDevice, slot: u16) -> (DataObject, Ticket) {
    let mut buf = AlignedBuf::zeroed(512);
    buf.as_mut_slice()[..2].copy_from_slice(&slot.to_le_bytes());
    let crcs = vec![checksum::crc32c(buf.as_slice())];
    let ticket = device.submit(Write::whole(DATA_AT + u64::from(slot) * 512, buf));
    (DataObject { oid: Oid::new(1, 1, slot), extends: None, stored_bytes: 512, crcs }, ticket)
}

/// Two threads, one of which waits and one of which does not, each with and without data.
fn appenders(durable_writes: bool) {
    // Making it is not part of the model.
    static MADE: OnceLock<DeviceImage> = OnceLock::new();
    let image = MADE.get_or_init(|| make(64, 3).durable_image()).clone();
    let device = SimulatedDevice::from_image(image, 512, 1).slow(true);
    let mounted = mount_with(device.clone(), NOW, durable_writes).unwrap();
    let committer = Committer::start(&mounted.wal).unwrap();
    let told = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
    let threads: Vec<_> = [true, false]
        .into_iter()
        .map(|waits| {
            let (wal, device, told) = (Arc::clone(&mounted.wal), device.clone(), Arc::clone(&told));
            thread::spawn(move || {
                let mut ends = Vec::new();
                for round in 0..2_u16 {
                    let mut room = wal.try_reserve(1, 100).unwrap();
                    let (object, write) = data(&device, 1 + round * 2 + u16::from(waits));
                    let body = [7; 50];
                    let record = NewRecord { data: &[object], writes: &[write], ..NewRecord::engine(256, &body) };
                    let end = wal.append(&mut room, record).unwrap().end;
                    drop(room);
                    ends.push(end);
                    if waits {
                        wal.commit(end).unwrap();
                        assert_durable(&device, end);
                    } else {
                        let told = Arc::clone(&told);
                        wal.on_durable(
                            end,
                            Box::new(move |result| {
                                result.unwrap();
                                told.0.lock().push(end);
                                told.1.notify_all();
                            }),
                        );
                    }
                }
                ends
            })
        })
        .collect();
    let ends: Vec<Vec<Lsn>> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    // Nobody appends or commits any more: the committer alone answers.
    let mut heard = told.0.lock();
    while heard.len() < 2 {
        told.1.wait(&mut heard);
    }
    // In any order: a function that is left when its record is durable is called before those that a group's leader is about to call.
    heard.sort_unstable();
    assert_eq!(*heard, ends[1], "each once");
    drop(heard);
    assert_durable(&device, ends[1][1]);
    drop(committer);
    let room = mounted.wal.room();
    assert_eq!((room.waiting_blocks, room.reserved_blocks, room.records), (0, 0, 4));
}

#[test]
fn whoever_waits_for_a_record_is_told_when_it_is_durable_and_not_before() {
    check(300, || appenders(false));
}

#[test]
fn the_same_when_blocks_are_durable_by_themselves() {
    check(200, || appenders(true));
}

/// Nobody waits for the record, and nobody else uses the log: it is durable when the time of a barrier is over.
fn an_append_alone() {
    static MADE: OnceLock<DeviceImage> = OnceLock::new();
    let image = MADE.get_or_init(|| make(64, 3).durable_image()).clone();
    let device = SimulatedDevice::from_image(image, 512, 1);
    let mounted = mount_with(device, NOW, false).unwrap();
    let committer = Committer::start(&mounted.wal).unwrap();
    for _ in 0..2 {
        let mut room = mounted.wal.try_reserve(1, 100).unwrap();
        let end = mounted.wal.append(&mut room, NewRecord::engine(256, &[7; 50])).unwrap().end;
        drop(room);
        while mounted.wal.durable() < end {
            mounted.clock.advance(Duration::from_millis(500));
            thread::yield_now();
        }
    }
    drop(committer);
}

#[test]
fn a_record_that_nobody_waits_for_is_durable_in_time() {
    TIMERS.store(true, Ordering::Relaxed);
    check(300, an_append_alone);
}

/// The log is closed while three append: whoever waits comes back, with what is true, and whoever left a function is called once.
fn closed_amid_appends() {
    static MADE: OnceLock<DeviceImage> = OnceLock::new();
    let image = MADE.get_or_init(|| make(64, 3).durable_image()).clone();
    let device = SimulatedDevice::from_image(image, 512, 1).slow(true);
    let mounted = mount_with(device.clone(), NOW, false).unwrap();
    let committer = Committer::start(&mounted.wal).unwrap();
    let told = Arc::new((Mutex::new(0), Condvar::new()));
    let threads: Vec<_> = [true, true, false]
        .into_iter()
        .map(|waits| {
            let (wal, device, told) = (Arc::clone(&mounted.wal), device.clone(), Arc::clone(&told));
            thread::spawn(move || {
                let mut room = wal.try_reserve(1, 100).unwrap();
                let appended = wal.append(&mut room, NewRecord::engine(256, &[7; 50]));
                drop(room);
                let Ok(end) = appended.map(|position| position.end) else { return 0 };
                if waits {
                    if wal.commit(end).is_ok() {
                        assert_durable(&device, end);
                    }
                    return 0;
                }
                let then = Box::new(move |result: Result<()>| {
                    if result.is_ok() {
                        assert_durable(&device, end);
                    }
                    *told.0.lock() += 1;
                    told.1.notify_all();
                });
                wal.on_durable(end, then);
                1
            })
        })
        .collect();
    // As the end of a mount does it.
    mounted.wal.commit(mounted.wal.end()).unwrap();
    drop(committer);
    mounted.wal.close(|| (1, Bounds::default())).unwrap();
    let left: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    let mut heard = told.0.lock();
    while *heard < left {
        told.1.wait(&mut heard);
    }
    assert_eq!(*heard, left, "each once");
}

#[test]
fn whoever_waits_at_the_end_of_the_log_is_told() {
    check(400, closed_amid_appends);
}
