//! What is one to a caller and two objects in the store, since a container ended amid it: read into one buffer, each verified and named by itself.

use super::*;
use crate::space::Bytes;

const BYTES: u32 = 64 << 10;

/// Writes until something lies in two objects; they, and the seed of their bytes.
fn split(engine: &Engine) -> (u64, Vec<DataObject>) {
    for seed in 0..20 {
        let need = Need {
            log_bytes: 64,
            node_bytes: 0,
            payload_bytes: 0,
            data_bytes: 2 * u64::from(BYTES),
            tier: Tier::Writer,
        };
        let mut permit = engine.reserve(need).unwrap();
        let mut buffer = engine.buffer(BYTES);
        buffer.as_mut_slice().copy_from_slice(&content(seed, 0, BYTES));
        let objects = engine.append_buffer(&mut permit, buffer, BYTES).unwrap();
        if objects.len() > 1 {
            engine.writer().unwrap().space.wait_writes().unwrap();
            return (seed, objects);
        }
    }
    panic!("no container ended");
}

fn submit(queue: &mut ReadQueue, objects: &[DataObject]) -> Result<()> {
    let portion = |object: &DataObject| Portion { oid: object.oid, first: 0, bytes: object.stored_bytes };
    let portions: Vec<Portion> = objects.iter().map(portion).collect();
    let crcs: Vec<u32> = objects.iter().flat_map(|object| object.crcs.iter().copied()).collect();
    let into = queue.engine().buffer(portions.iter().map(|portion| portion.bytes).sum());
    queue.submit_portions(7, &portions, &crcs, into)
}

fn read(queue: &mut ReadQueue, objects: &[DataObject]) -> (AlignedBuf, Result<()>) {
    submit(queue, objects).unwrap();
    assert_eq!(queue.bytes_at_device(), u64::from(BYTES), "one buffer, and no other");
    take_one(queue)
}

fn on_a_file(dir: &std::path::Path) -> (Arc<dyn Device>, Arc<Engine>) {
    let path = dir.join("image");
    DeviceImage::new(24 << 20).to_file(&path).unwrap();
    let device: Arc<dyn Device> = Arc::new(UringDevice::open(&path, OpenMode::ReadWrite, true).unwrap());
    let engine = engine_on(Arc::clone(&device));
    (device, engine)
}

/// On every device: the bytes; with one of two blocks spoiled, the object that it is of, and the other one alone still.
fn each_is_verified_and_named(device: &dyn Device, engine: &Arc<Engine>) {
    let (seed, objects) = split(engine);
    let mut queue = engine.read_queue(4).unwrap();
    let (buffer, outcome) = read(&mut queue, &objects);
    outcome.unwrap();
    assert!(buffer.as_slice() == content(seed, 0, BYTES));
    for (index, object) in objects.iter().enumerate() {
        let place = place_of(engine, object.oid);
        let block = place + u64::from(object.stored_bytes - BLOCK);
        let mut good = device.buffers().take(BLOCK as usize);
        device.read(block, &mut good).unwrap();
        let mut bad = device.buffers().take(BLOCK as usize);
        bad.as_mut_slice().copy_from_slice(good.as_slice());
        bad.as_mut_slice()[17] ^= 1;
        device.submit(Write::whole(block, bad)).wait().unwrap();
        match read(&mut queue, &objects).1 {
            Err(StoreError::Damaged { oid, offset, .. }) => assert_eq!((oid, offset), (object.oid, place)),
            other => panic!("{other:?}"),
        }
        let other = &objects[1 - index];
        read_one(&mut queue, other).1.unwrap();
        device.submit(Write::whole(block, good)).wait().unwrap();
    }
    read(&mut queue, &objects).1.unwrap();
}

#[test]
fn two_objects_fill_one_buffer_and_a_damaged_one_is_named() {
    for block in [512, 4096] {
        let (device, engine) = simulated(block, false);
        each_is_verified_and_named(&device, &engine);
    }
    let dir = tempfile::tempdir().unwrap();
    let (device, engine) = on_a_file(dir.path());
    each_is_verified_and_named(&*device, &engine);
}

#[test]
fn an_unreadable_sector_of_one_of_two_fails_both_once_and_the_other_not_alone() {
    let (device, engine) = simulated(512, false);
    let (seed, objects) = split(&engine);
    let mut queue = engine.read_queue(4).unwrap();
    let bad = place_of(&engine, objects[1].oid) + 4096;
    device.inject(Fault::ReadError { offset: bad });
    match read(&mut queue, &objects).1 {
        Err(StoreError::Device(DeviceError::Io { offset, .. })) => assert!(bad >= offset),
        other => panic!("{other:?}"),
    }
    let (buffer, outcome) = read_one(&mut queue, &objects[0]);
    outcome.unwrap();
    assert!(buffer.as_slice() == &content(seed, 0, BYTES)[..objects[0].stored_bytes as usize]);
    // What is between them (table, footer, header) is none of the reader's business.
    let (device, engine) = simulated(512, false);
    let (_, objects) = split(&engine);
    let between = place_of(&engine, objects[0].oid) + u64::from(objects[0].stored_bytes);
    assert!(between < place_of(&engine, objects[1].oid));
    device.inject(Fault::ReadError { offset: between });
    read(&mut engine.read_queue(4).unwrap(), &objects).1.unwrap();
}

#[test]
fn two_objects_are_read_again_together_if_their_space_may_have_been_reused() {
    for index in 0..2 {
        let (device, engine) = simulated(512, false);
        let (seed, objects) = split(&engine);
        let mut queue = engine.read_queue(4).unwrap();
        submit(&mut queue, &objects).unwrap();
        let old = place_of(&engine, objects[index].oid);
        move_away(&device, &engine, &objects[index]);
        engine.reader.readers.wait_for_earlier();
        device.submit(Write::whole(old, AlignedBuf::zeroed(4096))).wait().unwrap();
        let (buffer, outcome) = take_one(&mut queue);
        outcome.unwrap();
        assert!(buffer.as_slice() == content(seed, 0, BYTES), "{index}");
    }
}

#[test]
fn one_of_two_may_still_be_on_its_way_to_the_device() {
    let (device, engine) = simulated(512, false);
    let (seed, objects) = split(&engine);
    let slot = u32::from(objects[1].oid.slot());
    device.inject(Fault::ReadError { offset: place_of(&engine, objects[1].oid) });
    // As if the second one had just been written: the device's bytes are not looked at.
    let mut buffer = AlignedBuf::zeroed(objects[1].stored_bytes as usize);
    let want = content(seed, 0, BYTES);
    buffer.as_mut_slice().copy_from_slice(&want[objects[0].stored_bytes as usize..]);
    let bytes = Bytes::Buffer(Arc::new(buffer), 0);
    engine.reader.in_flight.insert(objects[1].oid.segment(), slot, objects[1].stored_bytes / UNIT, bytes);
    let reads = device.counters().bytes_read;
    let (buffer, outcome) = read(&mut engine.read_queue(4).unwrap(), &objects);
    outcome.unwrap();
    assert!(buffer.as_slice() == want);
    assert_eq!(device.counters().bytes_read - reads, u64::from(objects[0].stored_bytes));
}

#[test]
fn portions_that_do_not_fill_the_buffer_or_end_amid_a_block_are_refused() {
    let (_device, engine) = simulated(512, false);
    let (_, objects) = split(&engine);
    let mut queue = engine.read_queue(4).unwrap();
    let crcs: Vec<u32> = objects.iter().flat_map(|object| object.crcs.iter().copied()).collect();
    let portion = |index: usize, first, bytes| Portion { oid: objects[index].oid, first, bytes };
    let mut refused = |portions: &[Portion], crcs: &[u32], bytes| {
        let outcome = queue.submit_portions(1, portions, crcs, engine.buffer(bytes));
        matches!(outcome, Err(StoreError::BadReference { .. })) && queue.under_way() == 0
    };
    assert!(refused(&[], &[], 512));
    assert!(refused(&[portion(0, 0, 4096)], &crcs[..1], 8192), "too short");
    assert!(refused(&[portion(0, 0, 4096), portion(1, 0, 4096)], &crcs[..1], 4096), "too long");
    assert!(refused(&[portion(0, 0, 512), portion(1, 0, 4096)], &crcs[..2], 4608), "the second amid a block");
    assert!(refused(&[portion(0, 512, 4096)], &crcs[..1], 4096), "from amid a block");
    assert!(refused(&[portion(0, 0, 4096), portion(1, 0, 0)], &crcs[..1], 4096), "nothing of the second");
    assert!(refused(&[portion(0, 0, 4096), portion(1, 0, 4096)], &crcs[..1], 8192), "a checksum is missing");
}
