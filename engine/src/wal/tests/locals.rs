//! Local records: where segments and what was written elsewhere lie.

use super::devices::HoldsLazyWrites;
use super::harness::look;
use super::rules::{log_on, put, store};
use crate::device::{Completion, Drive, Ticket};
use crate::hlc::Clock;
use crate::wal::{NewRecord, Wal};
use envoyfs_layout::Hlc;
use envoyfs_layout::wal::{Relocated, SegmentPlaced, kind};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// Data that is whole only once a local record says where it lies; somebody else frames that record while the leader still waits for the data.
struct Elsewhere(Arc<Wal>, Mutex<Option<Completion>>);

impl Drive for Elsewhere {
    fn drive(&self) -> bool {
        let Some(completion) = self.1.lock().take() else { return false };
        self.0.append_local(kind::SEGMENT_PLACED, &SegmentPlaced { number: 8, container: 7 }.encode()).unwrap();
        self.0.frame().unwrap();
        completion.complete(Ok(()));
        true
    }
}

#[test]
fn a_local_record_that_another_framed_is_durable_before_what_rests_on_it() {
    let (mounted, _) = store(64);
    let device = Arc::new(HoldsLazyWrites(mounted.device.clone()));
    let wal = log_on(device, &mounted);
    let driver = Arc::new(Elsewhere(Arc::clone(&wal), Mutex::default()));
    let (write, completion) = Ticket::pair_driven_by(Some(Arc::<Elsewhere>::clone(&driver)));
    *driver.1.lock() = Some(completion);
    let mut room = wal.try_reserve(1, 100).unwrap();
    let record = NewRecord { writes: &[write], ..NewRecord::engine(256, &[7; 40]) };
    let end = wal.append(&mut room, record).unwrap().end;
    wal.commit(end).unwrap();
    let found = look(&mounted.device.crash(1)).unwrap().2;
    assert_eq!((found.records.len(), found.cut.lsn), (1, end));
    assert_eq!(found.placed, [SegmentPlaced { number: 8, container: 7 }]);
}

/// An appender is interrupted while it copies its record, others append more than a block holds, and a segment is opened: there is nothing to frame before he goes on.
#[test]
fn a_local_record_behind_one_that_is_still_being_copied_waits_for_it() {
    let (mounted, _) = store(64);
    let wal = log_on(Arc::new(mounted.device.clone()), &mounted);
    let mut room = wal.try_reserve(13, 1300).unwrap();
    let first = wal.append(&mut room, NewRecord::engine(256, &[6; 40])).unwrap().end;
    let mut slow = Vec::new();
    crate::wal::append::encode(&NewRecord::engine(256, &[7; 40]), &mut slow).unwrap();
    let wall = crate::hlc::wall_hlc(mounted.clock.wall_ns());
    let drawn = wal.staging.draw(slow.len() as u64, |last| crate::hlc::next(last, wall, Hlc(u64::MAX)));
    envoyfs_layout::wal::stamp(&mut slow, drawn.hlc);
    for _ in 0..12 {
        wal.append(&mut room, NewRecord::engine(256, &[8; 40])).unwrap();
    }
    wal.append_local(kind::SEGMENT_PLACED, &SegmentPlaced { number: 8, container: 7 }.encode()).unwrap();
    std::thread::scope(|scope| {
        let leader = scope.spawn(|| wal.commit(first));
        // Nobody notifies: time for the leader to frame what it should not.
        parking_lot::Condvar::new().wait_for(&mut Mutex::new(()).lock(), Duration::from_millis(20));
        assert!(wal.poisoned().is_none(), "{:?}", wal.poisoned());
        wal.staging.put(drawn.start, &slow);
        leader.join().unwrap().unwrap();
    });
    wal.commit(wal.end()).unwrap();
    assert!(wal.room().used_blocks < 8, "{:?}", wal.room());
    let found = look(&mounted.device.crash(1)).unwrap().2;
    assert_eq!((found.records.len(), found.cut.lsn), (14, wal.end()));
    assert_eq!(found.placed, [SegmentPlaced { number: 8, container: 7 }]);
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

/// More of them than a block holds: their blocks begin at the freeze LSN, like the one of the CHECKPOINT record behind them.
#[test]
fn what_was_written_elsewhere_since_a_freeze_is_found_from_its_checkpoint_on() {
    let (mut mounted, mut oracle) = store(64);
    put(&mounted, &mut oracle, false);
    let moved = std::cell::Cell::new(0);
    let tell = |mounted: &super::harness::Mounted| {
        for _ in 0..8 {
            moved.set(moved.get() + 1);
            let body = Relocated { number: 5, slot: moved.get(), units: 1, container: 7, offset_units: moved.get() };
            mounted.wal.append_local(kind::RELOCATED, &body.encode()).unwrap();
        }
    };
    mounted.checkpoint(&mut oracle, &mut |mounted, _| tell(mounted)).unwrap();
    put(&mounted, &mut oracle, true);
    let found = look(&mounted.device.crash(1)).unwrap().2;
    let slots: Vec<u32> = found.relocated.iter().map(|body| body.slot).collect();
    assert_eq!(slots, (1..=moved.get()).collect::<Vec<_>>());
}
