//! After a loss that was accepted, the log goes on like any other: what is acknowledged then survives, and nothing is reported that happened before.

use super::harness::{BLOCK, Mounted, NOW, Oracle, look, make, mount, mount_accepting};
use crate::device::{Fault, SimulatedDevice};
use crate::wal::RingGeometry;
use envoyfs_layout::Lsn;
use envoyfs_layout::wal::{SegmentPlaced, kind};

fn put(mounted: &Mounted, oracle: &mut Oracle, bytes: usize) -> Lsn {
    let mut room = mounted.wal.try_reserve(1, 1000).unwrap();
    mounted.put(oracle, &mut room, bytes, false).unwrap().0.end
}

/// Three records, a checkpoint whose freeze is in the middle of a block with local records, three records that fill blocks between it and the CHECKPOINT record, and one behind it.
fn with_a_checkpoint() -> (Mounted, Oracle) {
    let (mut mounted, mut oracle) = (mount(make(64, 5)).unwrap(), Oracle::default());
    for _ in 0..3 {
        let end = put(&mounted, &mut oracle, 40);
        mounted.commit(&mut oracle, end).unwrap();
    }
    let placed = SegmentPlaced { number: 2, container: 1 };
    mounted.wal.append_local(kind::SEGMENT_PLACED, &placed.encode()).unwrap();
    put(&mounted, &mut oracle, 40);
    mounted
        .checkpoint(&mut oracle, &mut |mounted, oracle| {
            put(mounted, oracle, 400);
            put(mounted, oracle, 400);
        })
        .unwrap();
    let end = put(&mounted, &mut oracle, 40);
    mounted.commit(&mut oracle, end).unwrap();
    (mounted, oracle)
}

/// Damages the block with this sequence; the damage is reported, and accepted.
fn lose(mounted: &Mounted, oracle: &mut Oracle, sequence: u64) -> Mounted {
    let device = SimulatedDevice::from_image(mounted.device.durable_image(), BLOCK, 1);
    let ring = RingGeometry::of(&mounted.superblock, &mounted.directory.entry);
    device.inject(Fault::FlipBits { offset: ring.position(sequence) + 100, mask: 4 });
    let found = look(&device).unwrap().2;
    assert!(found.corrupt.is_some(), "block {sequence} was durable");
    let after = mount_accepting(device, NOW + 1_000_000_000).unwrap();
    oracle.acknowledged = after.found.cut.lsn;
    oracle.check(&after.found);
    after
}

/// Records after the loss, two of them acknowledged, a power cut, and that twice: no report, nothing lost.
fn goes_on(mut mounted: Mounted, mut oracle: Oracle) {
    for round in 0..2 {
        for _ in 0..2 {
            let end = put(&mounted, &mut oracle, 60);
            mounted.commit(&mut oracle, end).unwrap();
        }
        let device = mounted.device.crash(round);
        let found = look(&device).unwrap().2;
        assert_eq!(found.corrupt, None, "round {round}");
        oracle.check(&found);
        mounted = mount(device).unwrap();
    }
    mounted.checkpoint(&mut oracle, &mut |_, _| ()).unwrap();
    let end = put(&mounted, &mut oracle, 60);
    mounted.commit(&mut oracle, end).unwrap();
    oracle.check(&look(&mounted.device.crash(9)).unwrap().2);
}

#[test]
fn after_the_loss_of_the_first_block_what_is_acknowledged_since_survives() {
    let (mounted, mut oracle) = with_a_checkpoint();
    let start = mounted.directory.entry.start;
    assert!(start.offset > 80, "the freeze LSN is not where a block's records begin");
    let after = lose(&mounted, &mut oracle, start.sequence);
    assert!(after.found.chain.is_empty());
    goes_on(after, oracle);
}

#[test]
fn after_a_loss_before_the_checkpoint_record_nothing_counts_as_durable_beyond_the_loss() {
    let (mounted, mut oracle) = with_a_checkpoint();
    let entry = &mounted.directory.entry;
    let record = mounted.wal.start_of(entry.checkpoint.record).unwrap().sequence;
    assert!(record > entry.start.sequence + 1, "a block lies between freeze and record");
    for sequence in entry.start.sequence + 1..=record {
        let (mounted, mut oracle) = with_a_checkpoint();
        let after = lose(&mounted, &mut oracle, sequence);
        assert!(after.found.cut.lsn <= mounted.directory.entry.checkpoint.record);
        goes_on(after, oracle);
    }
    let after = lose(&mounted, &mut oracle, record);
    // Above the loss, a record counts only with its data.
    let lost = super::harness::DATA_AT + u64::from(oracle.next_slot + 1) * 512;
    let mut room = after.wal.try_reserve(1, 100).unwrap();
    after.device.inject(Fault::LoseWrite { offset: lost });
    after.put(&mut oracle, &mut room, 40, true).unwrap();
    after.wal.frame().unwrap();
    let found = look(&after.device.process_crash()).unwrap().2;
    assert_eq!((found.corrupt, found.cut.lsn), (None, after.found.cut.lsn));
}

#[test]
fn a_block_that_becomes_readable_again_after_its_loss_was_accepted_does_not_count() {
    let (mounted, mut oracle) = with_a_checkpoint();
    let whole = mounted.device.durable_image();
    let ring = RingGeometry::of(&mounted.superblock, &mounted.directory.entry);
    let start = mounted.directory.entry.start.sequence;
    for sequence in start..start + 2 {
        let after = lose(&mounted, &mut oracle, sequence);
        let at = ring.position(sequence);
        let mut old = vec![0; BLOCK as usize];
        whole.read(at, &mut old);
        let mut image = after.device.durable_image();
        image.write(at, &old);
        let device = SimulatedDevice::from_image(image, BLOCK, 3);
        let found = look(&device).unwrap().2;
        assert_eq!((found.corrupt, found.cut.lsn), (None, after.found.cut.lsn));
    }
}
