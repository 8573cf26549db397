use super::client::*;
use crate::device::Fault;
use crate::store::*;
use crate::{Engine, Options, Settings, StoreError};
use envoyfs_layout::superblock::Superblock;
use std::sync::Arc;

fn filled() -> (crate::device::SimulatedDevice, Client) {
    let (device, mut client) = fresh(16, 512, 3);
    for key in 0..40 {
        client.run(&Op::Write { tree: 0, key, seed: u64::from(key), len: 20_000 }).unwrap();
    }
    (device, client)
}

#[test]
fn a_failed_flush_poisons_and_nothing_is_acknowledged_any_more() {
    let (device, mut client) = filled();
    device.inject(Fault::FailFlush);
    assert!(client.commit().is_err());
    assert!(client.engine.poisoned().is_some());
    assert!(matches!(client.commit(), Err(StoreError::Poisoned { .. })));
    assert!(matches!(client.build().map(|_| ()), Err(StoreError::Poisoned { .. })));
    assert!(client.run(&Op::Delete { tree: 0, key: 1 }).is_err());
    assert!(client.engine.metrics().poison.refused.get() > 0);
    // Reads go on.
    client.verify();
}

#[test]
fn damaged_data_is_told_and_the_rest_still_reads() {
    let (device, mut client) = filled();
    client.checkpoint().unwrap();
    let object = client.extent_of(0, 7);
    let offset = client.engine.reader.shape().offset(0, 0);
    assert!(offset > 0);
    let image = device.image();
    let mut stored = vec![0; 4096];
    // Find the block on the device by its content.
    let want = content(7, 0, 4096);
    let at = (0..image.size_bytes()).step_by(512).find(|at| {
        image.read(*at, &mut stored);
        stored == want
    });
    device.inject(Fault::FlipBits { offset: at.unwrap() + 100, mask: 4 });
    let mut into = vec![0; 4096];
    let result = client.engine.read_data(object.0, 0, &object.1[..1], &mut into);
    let reads = &client.engine.metrics().reads;
    assert_eq!((reads.retried.get(), reads.damaged.get()), (1, 1));
    match result {
        Err(StoreError::Damaged { oid, offset, .. }) => {
            assert_eq!(oid, object.0);
            assert_eq!(offset, at.unwrap());
        }
        other => panic!("{other:?}"),
    }
    client.engine.read_data(object.0, 4096, &object.1[1..2], &mut into).unwrap();
    assert_eq!(into, content(7, 4096, 4096));
}

#[test]
fn a_read_only_mount_writes_nothing_and_shows_what_was_committed() {
    let (device, mut client) = filled();
    client.checkpoint().unwrap();
    client.run(&Op::Delete { tree: 0, key: 3 }).unwrap();
    client.commit().unwrap();
    let want = client.logical();
    let device = device.process_crash();
    let before = device.counters();
    let clock: Arc<dyn crate::hlc::Clock> = Arc::<crate::hlc::ManualClock>::clone(&client.clock);
    let engine = Engine::open(
        Arc::new(device.clone()),
        Options { read_only: true, threads: true, accept_loss: false, clock, settings: Settings::default() },
    )
    .unwrap();
    assert!(!engine.read_only().is_empty());
    let client = Client::start(engine, client.clock.clone());
    assert_eq!(client.logical(), want);
    assert!(matches!(client.engine.freeze(), Err(StoreError::ReadOnly { .. })));
    let need = Need { log_bytes: 1, node_bytes: 1, payload_bytes: 0, data_bytes: 0, tier: Tier::Last };
    assert!(matches!(client.engine.reserve(need), Err(StoreError::ReadOnly { .. })));
    assert_eq!(device.counters().writes, before.writes);
}

#[test]
fn a_damaged_log_below_the_watermark_mounts_read_only_and_says_so() {
    let (device, mut client) = filled();
    client.commit().unwrap();
    client.engine.close().unwrap();
    drop(client);
    let device = device.process_crash();
    // The first block of the ring that holds a record of the history: sequence 1.
    device.inject(Fault::FlipBits { offset: (64 << 10) + 512 + 200, mask: 1 });
    let clock = clock();
    let engine = open(&device, &clock).unwrap();
    assert!(engine.read_only().contains("-o accept_loss"), "{:?}", engine.read_only());
    let accepted =
        Options { read_only: false, threads: false, accept_loss: true, clock, settings: Settings::default() };
    assert_eq!(engine.metrics().recovery.lost.get(), 1);
    let engine = Engine::open(Arc::new(device), accepted).unwrap();
    assert_eq!(engine.read_only(), "");
}

/// A device that has become shorter answers neither with bytes nor with an error of its medium.
#[test]
fn a_log_whose_next_record_names_data_behind_the_end_of_the_device_is_not_cut_without_a_word() {
    let (device, mut client) = fresh(16, 512, 3);
    client.run(&Op::Write { tree: 0, key: 0, seed: 1, len: 20_000 }).unwrap();
    client.commit().unwrap();
    let (oid, _) = client.extent_of(0, 0);
    let container = client.engine.reader.home(oid.segment()).unwrap();
    let at = client.engine.reader.shape().offset(container, oid.slot().into());
    drop(client);
    let device = device.process_crash();
    device.end_at(at);
    let clock = clock();
    let options = Options { read_only: true, threads: false, accept_loss: false, clock, settings: tight() };
    let engine = Engine::open(Arc::new(device), options).unwrap();
    assert!(engine.read_only().contains(&format!("object {oid}")), "{:?}", engine.read_only());
}

/// With one superblock left and the head of its log damaged, what the checkpoint holds is shown, and what is lost is said: no older superblock is looked for (decision 0001).
#[test]
fn one_superblock_left_whose_log_head_is_damaged_mounts_read_only_at_its_checkpoint() {
    for alive in 0..4 {
        let (device, mut client) = filled();
        client.checkpoint().unwrap();
        let checkpointed = client.logical();
        client.run(&Op::Delete { tree: 0, key: 3 }).unwrap();
        client.commit().unwrap();
        client.engine.close().unwrap();
        let (start, superblock) = {
            let published = client.engine.writer().unwrap().published.lock();
            (published.entry.start, published.superblock.clone())
        };
        let clock = client.clock.clone();
        drop(client);
        let device = device.process_crash();
        device.inject(Fault::FlipBits { offset: superblock.ring_offset + start.ring_block * 512 + 100, mask: 1 });
        for (index, position) in Superblock::positions(superblock.size).into_iter().enumerate() {
            if index != alive {
                device.inject(Fault::FlipBits { offset: position + 300, mask: 1 });
            }
        }
        let engine = open(&device, &clock).unwrap();
        assert!(engine.read_only().contains("-o accept_loss"), "{alive}: {:?}", engine.read_only());
        assert_eq!(Client::start(engine, clock).logical(), checkpointed, "{alive}");
    }
}

/// A device gives and fails whole blocks, whatever the store's own are.
#[test]
fn the_copies_of_the_roots_share_no_block() {
    for block in [512, 4096] {
        let (_, mut client) = fresh(16, block, 3);
        for round in 0..12 {
            client.run(&Op::Small { tree: round, key: round, seed: 1, len: 100 + 90 * round }).unwrap();
            client.checkpoint().unwrap();
            let published = client.engine.writer().unwrap().published.lock();
            let copies = [published.entry.roots.unwrap(), published.entry.roots_twin.unwrap()];
            let blocks = copies.map(|copy| {
                let first = u32::from(copy.oid.slot());
                (copy.oid.segment(), first / 8..(first + copy.units()).div_ceil(8))
            });
            let [(segment, first), (other, twin)] = blocks;
            assert!(segment != other || first.end <= twin.start || twin.end <= first.start, "{first:?} {twin:?}");
        }
    }
}

#[test]
fn what_breaks_the_rules_is_refused() {
    let (_, mut client) = filled();
    let building = client.build().unwrap();
    assert!(matches!(client.engine.freeze(), Err(StoreError::Misuse(_))));
    client.finish(building).unwrap();
    let need = Need { log_bytes: 100, node_bytes: 1, payload_bytes: 0, data_bytes: 8192, tier: Tier::Writer };
    let mut permit = client.engine.reserve(need).unwrap();
    let object = client.engine.append_data(&mut permit, None, &[1; 4096]).unwrap();
    let unnamed = DataObject { extends: Some(client.extent_of(0, 5).0), ..object.clone() };
    let draft = |data| Draft { kind: 300, territory: 1, origin: None, data, body: b"x" };
    // What it extends belongs to a published checkpoint.
    let result = client.engine.append(&mut permit, draft(std::slice::from_ref(&unnamed)));
    assert!(matches!(result, Err(StoreError::BadReference { .. })));
    client.engine.append(&mut permit, draft(std::slice::from_ref(&object))).unwrap();
    let twice = client.engine.append(&mut permit, draft(std::slice::from_ref(&object)));
    assert!(matches!(twice, Err(StoreError::BadReference { .. })));
    assert!(client.engine.append_data(&mut permit, None, &vec![0; 1 << 20]).is_err());
    assert!(client.engine.append_data(&mut permit, None, &[]).is_err());
}
