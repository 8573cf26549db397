//! Reads through a queue on the simulated device: the right bytes, or an error that names the object.

use super::*;
use crate::Options;
use crate::device::{Device, DeviceImage, Fault, OpenMode, SimulatedDevice, UringDevice, Write};
use crate::format::{FormatOptions, format};
use crate::hlc::SystemClock;
use crate::state::Fragment;
use crate::store::{DataObject, Need, Store as _, Tier};
use crate::tests::client::content;
use envoyfs_layout::LayoutError;
use std::collections::BTreeMap;

mod portions;

fn engine_on(device: Arc<dyn Device>) -> Arc<Engine> {
    let options = FormatOptions {
        label: "queue".into(),
        uuid: [7; 16],
        seed: [9; 16],
        now_ns: 1_700_000_000_000_000_000,
        wal_bytes: Some(1 << 20),
        segment_bytes: Some(256 << 10),
        force: false,
        small: true,
    };
    format(&device, &options).unwrap();
    let options = Options {
        read_only: false,
        threads: true,
        accept_loss: false,
        clock: Arc::new(SystemClock::new()),
        settings: crate::Settings::default(),
    };
    Arc::new(Engine::open(device, options).unwrap())
}

fn simulated(block: u32, slow: bool) -> (SimulatedDevice, Arc<Engine>) {
    let device = SimulatedDevice::new(24 << 20, block, 1).slow(slow);
    let engine = engine_on(Arc::new(device.clone()));
    (device, engine)
}

fn write(engine: &Engine, seed: u64, bytes: u32) -> DataObject {
    let need = Need { log_bytes: 64, node_bytes: 0, payload_bytes: 0, data_bytes: bytes.into(), tier: Tier::Writer };
    let mut permit = engine.reserve(need).unwrap();
    let mut buffer = engine.buffer(bytes);
    buffer.as_mut_slice()[..bytes as usize].copy_from_slice(&content(seed, 0, bytes));
    let mut objects = engine.append_buffer(&mut permit, buffer, bytes).unwrap();
    assert_eq!(objects.len(), 1);
    objects.remove(0)
}

fn stored(seed: u64, object: &DataObject, bytes: u32) -> Vec<u8> {
    let mut want = content(seed, 0, bytes);
    want.resize(object.stored_bytes as usize, 0);
    want
}

fn read_one(queue: &mut ReadQueue, object: &DataObject) -> (AlignedBuf, Result<()>) {
    let buffer = queue.engine().buffer(object.stored_bytes);
    queue.submit(1, object.oid, 0, &object.crcs, buffer).unwrap();
    take_one(queue)
}

fn take_one(queue: &mut ReadQueue) -> (AlignedBuf, Result<()>) {
    let mut out = None;
    let count = queue.wait(1, |_, buffer, outcome| out = Some((buffer, outcome))).unwrap();
    assert_eq!(count, 1);
    out.unwrap()
}

/// Every length and start, from memory and from the device, in one batch.
fn round_trip(engine: &Arc<Engine>) {
    let lengths = [1, 512, 700, 4096, 5000, 8192, 20_000, 65_536];
    let objects: Vec<(u64, u32, DataObject)> = (0..64_u64)
        .zip(lengths.into_iter().cycle())
        .map(|(seed, bytes)| (seed, bytes, write(engine, seed, bytes)))
        .collect();
    let mut queue = engine.read_queue(8).unwrap();
    for round in 0..2 {
        if round == 1 {
            engine.writer().unwrap().space.wait_writes().unwrap();
        }
        let mut expected = BTreeMap::new();
        for (seed, bytes, object) in &objects {
            let want = stored(*seed, object, *bytes);
            for first in (0..object.stored_bytes).step_by(4096) {
                for length in [512, 4096, object.stored_bytes - first] {
                    let length = length.min(object.stored_bytes - first);
                    // Whole blocks are read: up to a block's end, or to the object's.
                    if !length.is_multiple_of(4096) && first + length != object.stored_bytes {
                        continue;
                    }
                    let tag = expected.len() as u64;
                    let range = first as usize..(first + length) as usize;
                    expected.insert(tag, want[range.clone()].to_vec());
                    let crcs = &object.crcs[range.start / 4096..range.end.div_ceil(4096)];
                    queue.submit(tag, object.oid, first, crcs, engine.buffer(length)).unwrap();
                }
            }
        }
        let all = expected.len();
        assert_eq!(queue.under_way(), all);
        let mut delivered = queue.wait(0, |tag, buffer, outcome| check(&mut expected, tag, &buffer, outcome)).unwrap();
        while delivered < all {
            delivered += queue.wait(3, |tag, buffer, outcome| check(&mut expected, tag, &buffer, outcome)).unwrap();
        }
        assert!(expected.is_empty() && queue.under_way() == 0);
        assert_eq!(queue.wait(5, |_, _, _| ()).unwrap(), 0);
    }
}

fn check(expected: &mut BTreeMap<u64, Vec<u8>>, tag: u64, buffer: &AlignedBuf, outcome: Result<()>) {
    outcome.unwrap();
    assert!(expected.remove(&tag).unwrap() == buffer.as_slice(), "read {tag}");
}

#[test]
fn queued_reads_return_what_was_written() {
    for block in [512, 4096] {
        for slow in [false, true] {
            round_trip(&simulated(block, slow).1);
        }
    }
}

#[test]
fn queued_reads_return_what_was_written_through_io_uring() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    DeviceImage::new(24 << 20).to_file(&path).unwrap();
    let device = UringDevice::open(&path, OpenMode::ReadWrite, true).unwrap();
    round_trip(&engine_on(Arc::new(device)));
}

#[test]
fn a_block_that_does_not_verify_is_read_twice_and_then_named() {
    let (device, engine) = simulated(512, false);
    let object = write(&engine, 3, 8192);
    let mut queue = engine.read_queue(4).unwrap();
    assert!(read_one(&mut queue, &object).1.is_ok());
    let offset = place_of(&engine, object.oid);
    device.inject(Fault::FlipBits { offset: offset + 5000, mask: 4 });
    let before = device.counters().reads;
    match read_one(&mut queue, &object).1 {
        Err(StoreError::Damaged { oid, offset: at, what: LayoutError::Checksum { .. } }) => {
            assert_eq!((oid, at), (object.oid, offset));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(device.counters().reads - before, 2);
    device.inject(Fault::ReadError { offset });
    assert!(matches!(read_one(&mut queue, &object).1, Err(StoreError::Device(DeviceError::Io { .. }))));
}

fn place_of(engine: &Engine, oid: Oid) -> u64 {
    let (slot, mut runs) = (u32::from(oid.slot()), Vec::new());
    engine.reader.plan(oid, &(slot..slot + 1), &mut [0; 512], &mut runs).unwrap();
    runs[0].offset
}

/// Copies an object to the last container, half of it apart, as the cleaner would.
fn move_away(device: &SimulatedDevice, engine: &Engine, object: &DataObject) {
    let shape = engine.reader.shape();
    let slot = u32::from(object.oid.slot());
    let half = object.stored_bytes / 2;
    let home = u32::try_from((place_of(engine, object.oid) - shape.offset(0, slot)) / 262_144).unwrap();
    let mut moved = BTreeMap::new();
    for (index, unit) in [(0, 16), (1, 24 + half / UNIT)] {
        let mut buffer = AlignedBuf::zeroed(half as usize);
        device.read(shape.offset(home, slot) + u64::from(index * half), &mut buffer).unwrap();
        let to = Fragment { units: half / 512, container: shape.containers - 1, offset_units: unit };
        device.submit(Write::whole(shape.offset(to.container, unit), buffer)).wait().unwrap();
        moved.insert(slot + index * half / 512, to);
    }
    engine.reader.set_moved(object.oid.segment(), moved);
}

/// The queue holds no pin, so the release goes through at once; what the read saw is not trusted although it verifies.
#[test]
fn a_read_across_the_reuse_of_its_space_is_repeated() {
    let (device, engine) = simulated(512, false);
    let object = write(&engine, 3, 8192);
    let mut queue = engine.read_queue(4).unwrap();
    queue.submit(1, object.oid, 0, &object.crcs, engine.buffer(8192)).unwrap();
    let before = device.counters().reads;
    engine.reader.readers.wait_for_earlier();
    let (buffer, outcome) = take_one(&mut queue);
    outcome.unwrap();
    assert!(buffer.as_slice() == stored(3, &object, 8192));
    assert_eq!(device.counters().reads - before, 2);
}

#[test]
fn a_read_finds_an_object_that_was_moved_and_its_place_overwritten_meanwhile() {
    for announced in [true, false] {
        let (device, engine) = simulated(512, false);
        let object = write(&engine, 3, 8192);
        let old = place_of(&engine, object.oid);
        let mut queue = engine.read_queue(4).unwrap();
        queue.submit(1, object.oid, 0, &object.crcs, engine.buffer(8192)).unwrap();
        move_away(&device, &engine, &object);
        if announced {
            engine.reader.readers.wait_for_earlier();
        }
        device.submit(Write::whole(old, AlignedBuf::zeroed(8192))).wait().unwrap();
        let (buffer, outcome) = take_one(&mut queue);
        outcome.unwrap();
        assert!(buffer.as_slice() == stored(3, &object, 8192));
        // And from two places by itself.
        assert!(read_one(&mut queue, &object).0.as_slice() == stored(3, &object, 8192));
    }
}

#[test]
fn misaligned_reads_and_buffers_without_room_are_refused() {
    let (_device, engine) = simulated(4096, false);
    let object = write(&engine, 3, 8192);
    let mut queue = engine.read_queue(4).unwrap();
    let refused = queue.submit(1, object.oid, 512, &object.crcs, engine.buffer(512));
    assert!(matches!(refused, Err(StoreError::BadReference { .. })));
    assert_eq!(queue.under_way(), 0);
    let unknown = Oid::new(object.oid.volume(), 4_000_000, 8);
    queue.submit(2, unknown, 0, &object.crcs, engine.buffer(8192)).unwrap();
    assert!(matches!(take_one(&mut queue).1, Err(StoreError::BadReference { .. })));
    let need = Need { log_bytes: 64, node_bytes: 0, payload_bytes: 0, data_bytes: 4096, tier: Tier::Writer };
    let mut permit = engine.reserve(need).unwrap();
    let small = engine.append_buffer(&mut permit, AlignedBuf::zeroed(512), 512);
    assert!(matches!(small, Err(StoreError::Misuse(_))));
}

#[test]
fn reads_that_have_arrived_are_verified_later_and_the_device_has_the_next_ones_meanwhile() {
    let (device, engine) = simulated(4096, false);
    let objects: Vec<DataObject> = (0..6).map(|seed| write(&engine, seed, 16_384)).collect();
    engine.writer().unwrap().space.wait_writes().unwrap();
    let mut queue = engine.read_queue(4).unwrap();
    assert_eq!(queue.bytes_at_device(), 0);
    let submit = |queue: &mut ReadQueue, index: usize| {
        let buffer = queue.engine().buffer(16_384);
        queue.submit(index as u64, objects[index].oid, 0, &objects[index].crcs, buffer).unwrap();
    };
    // What arrives damaged is told when it is verified, whatever was queued before that.
    let place = place_of(&engine, objects[1].oid);
    (0..4).for_each(|index| submit(&mut queue, index));
    device.inject(Fault::FlipBits { offset: place + 100, mask: 4 });
    assert_eq!(queue.bytes_at_device(), 4 * 16_384);
    queue.arrive();
    let left = queue.bytes_at_device();
    assert!(left < 4 * 16_384 && queue.under_way() == 4, "{left}");
    (4..6).for_each(|index| submit(&mut queue, index));
    assert_eq!(queue.bytes_at_device(), left + 2 * 16_384);
    let mut seen = BTreeMap::new();
    while queue.under_way() > 0 {
        queue.arrive();
        queue.wait(1, |tag, buffer, outcome| assert!(seen.insert(tag, (buffer, outcome)).is_none())).unwrap();
    }
    assert_eq!((seen.len(), queue.bytes_at_device()), (6, 0));
    for (tag, (buffer, outcome)) in seen {
        if tag == 1 {
            assert!(matches!(outcome, Err(StoreError::Damaged { oid, .. }) if oid == objects[1].oid));
        } else {
            outcome.unwrap();
            assert_eq!(buffer.as_slice(), stored(tag, &objects[usize::try_from(tag).unwrap()], 16_384));
        }
    }
}
