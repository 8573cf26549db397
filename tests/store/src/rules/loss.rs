//! The log after a loss that was accepted, and after many crashes: it goes on like any other.

use crate::StoreError;
use crate::bench::{Bench, recover};
use crate::device::SimulatedDevice;
use crate::mini::{Mini, options};
use crate::scripted::{Answer, Call};
use crate::store::Store as _;
use envoyfs_engine::superblock;
use envoyfs_engine::wal::RingGeometry;
use envoyfs_layout::directory_page::VolumeEntry;

/// Key 1 is in a checkpoint whose record stands some blocks behind its freeze; key 2 is durable behind it. Then the block is damaged that `which` chooses, and the loss of key 2
/// is accepted.
fn after_a_loss(which: fn(&VolumeEntry) -> u64) -> Bench {
    let bench = Bench::new();
    let mini = bench.mount();
    mini.put(1, 4096).unwrap();
    // The freeze LSN stands behind other records of its block.
    mini.commit().unwrap();
    mini.note(50).unwrap();
    let open = mini.freeze().unwrap();
    mini.note(3000).unwrap();
    mini.publish(open).unwrap();
    mini.put(2, 4096).unwrap();
    mini.commit().unwrap();
    mini.put(3, 4096).unwrap();
    mini.commit().unwrap();

    let mut image = bench.cut();
    let device = SimulatedDevice::from_image(image.clone(), 512, 2);
    let ruling = superblock::open(&device).unwrap().superblock;
    let entry = superblock::read_directory(&device, &ruling).unwrap().entry;
    let at = RingGeometry::of(&ruling, &entry).position(which(&entry)) + 100;
    let mut byte = [0];
    image.read(at, &mut byte);
    image.write(at, &[byte[0] ^ 1]);

    let bench = Bench::on(image, false);
    assert!(bench.mount().engine.read_only().contains("acknowledged operations"));
    let accepting = envoyfs_engine::Options { accept_loss: true, ..options(&bench.clock) };
    let mini = Mini::open_with(bench.device.clone(), &bench.clock, accepting).unwrap();
    assert_eq!((mini.engine.read_only(), mini.keys()), ("", vec![1]));
    mini.put(4, 4096).unwrap();
    mini.commit().unwrap();
    bench
}

/// INV-18: also if nothing is left of the block in which the log starts.
pub fn what_is_acknowledged_after_an_accepted_loss_of_the_first_block_stays() {
    let bench = after_a_loss(|entry| entry.start.sequence);
    assert_eq!(recover(&bench.cut()).keys(), [1, 4]);
}

/// INV-19: also if the record of the published checkpoint is among what is lost.
pub fn an_accepted_loss_is_not_reported_again() {
    let bench = after_a_loss(|entry| entry.start.sequence + 1);
    assert_eq!(recover(&bench.cut()).keys(), [1, 4]);
}

/// INV-38: each mount that dies without a checkpoint takes an entry in the list of cuts; who finds it full has to make one first, however often that is cut short.
pub fn a_store_mounts_after_any_number_of_crashes_without_a_checkpoint() {
    let (mut bench, mut keys, mut refused) = (Bench::new(), Vec::new(), 0);
    for round in 0..30 {
        let mini = bench.mount();
        assert_eq!((mini.engine.read_only(), mini.keys()), ("", keys.clone()), "round {round}");
        if let Err(error) = mini.put(round, 4096) {
            assert!(matches!(error, StoreError::WouldWait { .. }), "round {round}: {error}");
            refused += 1;
            let open = mini.freeze().unwrap();
            assert!(mini.put(round, 4096).is_err(), "before it is published");
            if refused % 3 == 0 {
                mini.publish(open).unwrap();
                mini.put(round, 4096).unwrap();
            } else if refused % 3 == 1 {
                // Power fails with the record of the checkpoint in the log.
                let copies = bench.copies();
                bench.device.script(move |call, _| match call {
                    Call::Write(offset, _) if copies.contains(&offset) => Answer::Dead,
                    _ => Answer::Do,
                });
                assert!(mini.publish(open).is_err());
            }
        }
        if mini.engine.poisoned().is_none() && mini.commit().is_ok() {
            keys = mini.keys();
        }
        bench = Bench::on(bench.cut(), false);
    }
    assert!(refused > 3, "{refused}");
}
