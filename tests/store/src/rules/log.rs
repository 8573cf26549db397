//! The log: what is acknowledged is durable, and recovery cuts where it must and nowhere else.

use crate::StoreError;
use crate::bench::{Bench, Region, recover};
use crate::device::{DeviceImage, SECTOR_BYTES, SectorFate};
use crate::explore::{Reach, explore};
use crate::failing;
use crate::scripted::{Answer, Call};
use crate::store::{Counter, Store as _};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

const EIO: i32 = 5;

/// INV-18.
pub fn acknowledged_records_survive_a_power_cut() {
    let bench = Bench::new();
    let mini = bench.mount();
    mini.put(1, 4096).unwrap();
    mini.commit().unwrap();
    assert_eq!(recover(&bench.cut()).keys(), [1]);
}

/// INV-18: the writes of the data may complete later than those of the log.
pub fn acknowledged_data_survives_a_power_cut() {
    let bench = Bench::of(8, true);
    let mini = bench.mount();
    for key in 0..12 {
        mini.put(key, 8192).unwrap();
    }
    mini.commit().unwrap();
    assert_eq!(recover(&bench.cut()).keys(), (0..12).collect::<Vec<_>>());
}

/// INV-18: data whose write fails when its record stands in the log already. Where it was written then is said by a record of its own, which is framed before the flush.
pub fn data_that_was_moved_after_its_record_was_written_is_found_after_a_power_cut() {
    let bench = Bench::new();
    let mini = bench.mount();
    mini.put(1, 8192).unwrap();
    mini.commit().unwrap();
    let regions = Bench::on(bench.simulated.image(), false);
    let copy = Bench::on(bench.simulated.image(), false);
    bench.device.hold_writes(move |offset| regions.region(offset) == Region::Segments);
    mini.put(2, 8192).unwrap();
    assert_eq!(bench.device.held_writes(), 1, "only the data");
    let (framed, record) = channel();
    let framed = Mutex::new(framed);
    bench.device.look(move |call| {
        if matches!(call, Call::Write(offset, _) if copy.region(offset) == Region::Ring) {
            let _ = framed.lock().unwrap().send(());
        }
    });
    std::thread::scope(|scope| {
        let commit = scope.spawn(|| mini.commit());
        record.recv().unwrap();
        bench.device.look_away();
        bench.device.release_failed(EIO);
        commit.join().unwrap().unwrap();
    });
    assert_eq!(mini.engine.metrics().streams.relocated.get(), 1, "it was not written elsewhere");
    mini.verify();
    assert_eq!(recover(&bench.cut()).keys(), [1, 2]);
}

/// INV-18: the container that took the data was open when power failed; recovery writes its last table part and footer behind all that is in it.
pub fn a_recovery_writes_nothing_over_data_that_was_moved() {
    let bench = Bench::new();
    let mini = bench.mount();
    mini.put(1, 8192).unwrap();
    mini.commit().unwrap();
    let regions = Bench::on(bench.simulated.image(), false);
    let mut failed = false;
    bench.device.script(move |call, _| match call {
        Call::Write(offset, _) if !failed && regions.region(offset) == Region::Segments => {
            failed = true;
            Answer::Fail(EIO)
        }
        _ => Answer::Do,
    });
    mini.put(2, 8192).unwrap();
    mini.commit().unwrap();
    assert_eq!(mini.engine.metrics().streams.relocated.get(), 1, "it was not written elsewhere");
    assert_eq!(recover(&bench.cut()).keys(), [1, 2]);
}

/// INV-18: the container was opened for the data, and the log says so behind where it is cut. In every cut of such histories.
pub fn data_that_was_moved_keeps_its_container_behind_a_cut() {
    let mut kept = 0;
    for seed in 100..104 {
        let recorded = failing::record(seed, failing::shape(seed, 2));
        kept += explore(&recorded, Reach { nested: 0, fates: 0, recoveries_max: u64::MAX }, 0, 1).placed_behind;
    }
    assert!(kept > 0, "no container was kept for such data");
}

/// INV-18: what a checkpoint gives its block while the log is written durably is so by the checkpoint's flush, or by that of whoever acknowledges it before.
pub fn what_a_checkpoint_frames_is_flushed_before_it_is_acknowledged() {
    let bench = Bench::durable();
    let mini = bench.mount();
    let (other, once) = (Arc::downgrade(&mini), AtomicBool::new(false));
    let (recording, acknowledged) = (bench.recording(), Arc::new(AtomicUsize::new(0)));
    let at = Arc::clone(&acknowledged);
    let region = bench.regions();
    let open = mini.freeze().unwrap();
    mini.put(2, 4096).unwrap();
    bench.device.look(move |call| {
        // After the CHECKPOINT record, and before its barrier.
        if matches!(call, Call::Write(offset, _) if region(offset) == Region::Directory)
            && !once.swap(true, Ordering::SeqCst)
        {
            other.upgrade().unwrap().commit().unwrap();
            at.store(recording.len(), Ordering::SeqCst);
        }
    });
    mini.publish(open).unwrap();
    bench.device.look_away();
    let position = acknowledged.load(Ordering::SeqCst);
    assert!(position > 0, "committed amid the publication");
    assert_eq!(recover(&bench.cut_at(position, |_| SectorFate::Gone)).keys(), [2]);
}

/// INV-18: a flush covers what had completed when it began.
pub fn what_is_appended_while_a_flush_runs_needs_a_flush_of_its_own() {
    let bench = Bench::new();
    let mini = bench.mount();
    mini.put(1, 4096).unwrap();
    let (other, once) = (Arc::downgrade(&mini), AtomicBool::new(false));
    bench.device.look(move |call| {
        if call == Call::Flush && !once.swap(true, Ordering::SeqCst) {
            other.upgrade().unwrap().put(2, 4096).unwrap();
        }
    });
    mini.commit().unwrap();
    mini.commit().unwrap();
    assert_eq!(recover(&bench.cut()).keys(), [1, 2]);
}

/// Runs a commit and says where its flush began.
fn commit_up_to_its_flush(bench: &Bench, mini: &crate::mini::Mini) -> usize {
    let (recording, at) = (bench.recording(), Arc::new(AtomicUsize::new(usize::MAX)));
    let seen = Arc::clone(&at);
    bench.device.look(move |call| {
        if call == Call::Flush {
            seen.fetch_min(recording.len(), Ordering::SeqCst);
        }
    });
    mini.commit().unwrap();
    bench.device.look_away();
    at.load(Ordering::SeqCst)
}

/// Sectors of the ring at risk, lowest first.
fn ring_at_risk(bench: &Bench, position: usize) -> Vec<u64> {
    bench.at_risk(position).into_iter().filter(|at| bench.region(*at) == Region::Ring).collect()
}

/// INV-19: a watermark names only what a completed flush covers.
pub fn a_power_cut_is_not_taken_for_damage() {
    let bench = Bench::new();
    let mini = bench.mount();
    mini.put(1, 4096).unwrap();
    mini.commit().unwrap();
    mini.note(2000).unwrap();
    mini.put(2, 4096).unwrap();
    let position = commit_up_to_its_flush(&bench, &mini);
    let ring = ring_at_risk(&bench, position);
    let last = *ring.last().unwrap();
    assert!(ring.len() > 2, "several blocks");
    let image = bench.images().at_with(position, |at| if at == last { SectorFate::Kept } else { SectorFate::Gone });
    assert_eq!(recover(&image).keys(), [1]);
}

/// INV-33.
pub fn after_a_failed_flush_nothing_is_acknowledged() {
    let bench = Bench::new();
    let mini = bench.mount();
    mini.put(1, 4096).unwrap();
    bench.device.script(|call, number| match call {
        Call::Flush if number == 0 => Answer::Fail(5),
        _ => Answer::Do,
    });
    assert!(mini.commit().is_err());
    assert!(matches!(mini.commit(), Err(StoreError::Poisoned { .. })));
    assert!(matches!(mini.freeze().map(|_| ()), Err(StoreError::Poisoned { .. })));
    assert!(mini.put(2, 4096).is_err());
    mini.verify();
}

/// INV-18: a record above every watermark counts only with its data.
pub fn a_record_whose_data_is_lost_is_cut() {
    let bench = Bench::new();
    let mini = bench.mount();
    mini.put(1, 4096).unwrap();
    mini.commit().unwrap();
    mini.put(2, 8192).unwrap();
    mini.put(3, 8192).unwrap();
    let position = commit_up_to_its_flush(&bench, &mini);
    let image = bench.cut_at(position, |region| match region {
        Region::Ring => SectorFate::Kept,
        _ => SectorFate::Gone,
    });
    assert_eq!(recover(&image).keys(), [1]);
}

/// Two keys are durable; then a note that fills its block and the deletion of a key in the next; the power cut keeps the second block only.
fn second_block_survives_alone() -> DeviceImage {
    let bench = Bench::new();
    let mini = bench.mount();
    mini.put(1, 4096).unwrap();
    mini.put(2, 4096).unwrap();
    mini.commit().unwrap();
    let before = mini.engine.end();
    let end = mini.note(note_of_a_block()).unwrap();
    assert_eq!(end.0 - before.0, BLOCK_CAPACITY, "the note fills its block");
    mini.delete(2).unwrap();
    let position = commit_up_to_its_flush(&bench, &mini);
    let ring = ring_at_risk(&bench, position);
    assert_eq!(ring.len(), 2, "{ring:?}");
    bench.images().at_with(position, |at| if at == ring[1] { SectorFate::Kept } else { SectorFate::Gone })
}

const BLOCK_CAPACITY: u64 = SECTOR_BYTES as u64 - envoyfs_layout::wal::BLOCK_HEADER_BYTES as u64;

/// Bytes of a note whose record fills a block: the record's head takes 32.
const fn note_of_a_block() -> usize {
    BLOCK_CAPACITY as usize - 32
}

/// INV-21: what a recovery has cut is cut for ever.
pub fn blocks_behind_a_cut_never_come_back() {
    let bench = Bench::on(second_block_survives_alone(), false);
    let mini = bench.mount();
    assert_eq!(mini.keys(), [1, 2]);
    // The same bytes at the same place: what stands behind them would fit.
    mini.note(note_of_a_block()).unwrap();
    mini.commit().unwrap();
    assert_eq!(recover(&bench.cut()).keys(), [1, 2]);
}

/// INV-20.
pub fn what_is_committed_after_a_cut_stays() {
    let bench = Bench::on(second_block_survives_alone(), false);
    let mini = bench.mount();
    mini.put(3, 4096).unwrap();
    mini.commit().unwrap();
    assert_eq!(recover(&bench.cut()).keys(), [1, 2, 3]);
}

/// INV-19: also when the watermark stands behind the damage.
pub fn damage_below_a_watermark_is_told() {
    let bench = Bench::new();
    let mini = bench.mount();
    mini.put(1, 4096).unwrap();
    mini.commit().unwrap();
    let first = mini.put(2, 4096).map(|_| bench.now()).unwrap();
    mini.commit().unwrap();
    mini.put(3, 4096).unwrap();
    mini.commit().unwrap();
    mini.engine.close().unwrap();
    let block = (first..bench.now()).find_map(|position| ring_at_risk(&bench, position).first().copied()).unwrap();
    let mut image = bench.cut();
    image.write(block + 200, &[0xEE]);
    let device = Arc::new(crate::device::SimulatedDevice::from_image(image, 512, 2));
    let mini = crate::mini::Mini::open(device, &bench.clock).unwrap();
    assert!(mini.engine.read_only().contains("accept_loss"), "{:?}", mini.engine.read_only());
    assert_eq!(mini.keys(), [1]);
}

/// INV-19: behind CLOSED no recovery looks for what was durable.
pub fn after_the_end_of_a_mount_nothing_is_acknowledged() {
    let bench = Bench::new();
    let mini = bench.mount();
    mini.put(1, 4096).unwrap();
    let before = mini.write(2, 4096).unwrap();
    mini.engine.close().unwrap();
    assert!(mini.name(2, before).and_then(|_| mini.commit()).is_err());
    assert!(mini.engine.close().is_err() && mini.checkpoint().is_err());
    assert_eq!(recover(&bench.cut()).keys(), [1]);
}

/// INV-16: the numbers in CLOSED are those of the last mount, or none.
pub fn a_closed_log_gives_no_number_twice_and_skips_none() {
    let number = |mini: &crate::mini::Mini| mini.engine.number(Counter::Inode).unwrap();
    let mut bench = Bench::new();
    let first = number(&bench.mount());
    bench = Bench::on(bench.cut(), false);
    for round in 0..4 {
        let mini = bench.mount();
        let drawn = number(&mini);
        assert!(
            round == 0 || drawn == first + (1 << 22) + round,
            "{drawn} after {first}, {round} orderly mounts later"
        );
        mini.put(round, 4096).unwrap();
        let segment = mini.file(round).reference.oid.segment();
        assert!(u64::from(segment) < 2 * 40 + round * 4, "segment {segment} in mount {round}");
        mini.engine.close().unwrap();
        bench = Bench::on(bench.cut(), false);
    }
    // A mount draws, and power fails.
    let mini = bench.mount();
    let lost = (number(&mini), mini.put(70, 4096).map(|_| mini.file(70).reference.oid.segment()).unwrap());
    let next = recover(&bench.cut());
    next.put(71, 4096).unwrap();
    let drawn = (number(&next), next.file(71).reference.oid.segment());
    assert!(drawn.0 > lost.0 && drawn.1 > lost.1, "{drawn:?} after {lost:?}");
}

/// INV-16.
pub fn a_number_is_never_handed_out_twice() {
    let bench = Bench::new();
    let first = bench.mount().engine.number(Counter::Inode).unwrap();
    let second = recover(&bench.cut()).engine.number(Counter::Inode).unwrap();
    assert!(second > first, "{second} after {first}");
}
