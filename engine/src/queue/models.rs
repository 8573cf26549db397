//! Reads through a queue under random schedules, while a checkpointer moves what they read and uses the old place for something else, as it publishes: what is new is known first, then
//! the epoch rises, then the place is written. What is written there has the same checksums, so that nothing but the epoch tells the bytes apart; or others, which must not be taken
//! for damage.

use super::*;
use crate::device::{Device, DeviceImage, SimulatedDevice, Write};
use crate::hlc::ManualClock;
use crate::shuttled::check;
use crate::state::Fragment;
use crate::store::{DataObject, Need, Store as _, Tier};
use crate::sync::thread;
use crate::tests::client::{content, small_format};
use crate::{Options, Settings};
use envoyfs_layout::checksum::crc32c;
use std::collections::BTreeMap;
use std::sync::OnceLock;

const BYTES: u32 = 8192;
const ROUNDS: u32 = 5;
const READS: u64 = 4;

struct World {
    engine: Arc<Engine>,
    device: SimulatedDevice,
    object: DataObject,
    bytes: Vec<u8>,
    /// What is written over its places.
    others: Vec<u8>,
}

/// Other bytes with the same checksum in each block: a CRC is linear, so the four bytes behind a changed one make good for it.
fn look_alike(bytes: &[u8]) -> Vec<u8> {
    let mut others = bytes.to_vec();
    for (block, original) in others.chunks_mut(BLOCK as usize).zip(bytes.chunks(BLOCK as usize)) {
        block[0] ^= 0xFF;
        let difference = crc32c(&block[..1]) ^ crc32c(&original[..1]);
        block[1..5].iter_mut().zip(difference.to_le_bytes()).for_each(|(byte, change)| *byte ^= change);
        assert!(*block != *original && crc32c(block) == crc32c(original));
    }
    others
}

fn world(with_same_checksums: bool) -> Arc<World> {
    // Making it is not part of the model.
    static MADE: OnceLock<DeviceImage> = OnceLock::new();
    let image = MADE.get_or_init(|| {
        let device = SimulatedDevice::new(8 << 20, 512, 1);
        small_format(&device);
        device.durable_image()
    });
    let device = SimulatedDevice::from_image(image.clone(), 512, 1);
    let options = Options {
        read_only: false,
        threads: false,
        accept_loss: false,
        clock: Arc::new(ManualClock::new(1_700_000_000_000_000_000)),
        settings: Settings::default(),
    };
    let engine = Arc::new(Engine::open(Arc::new(device.clone()), options).unwrap());
    let need = Need { log_bytes: 64, node_bytes: 0, payload_bytes: 0, data_bytes: BYTES.into(), tier: Tier::Writer };
    let mut permit = engine.reserve(need).unwrap();
    let bytes = content(3, 0, BYTES);
    let object = engine.append_data(&mut permit, None, &bytes).unwrap();
    drop(permit);
    engine.writer().unwrap().space.wait_writes().unwrap();
    let others = if with_same_checksums { look_alike(&bytes) } else { vec![0xEE; BYTES as usize] };
    Arc::new(World { engine, device, object, bytes, others })
}

impl World {
    fn write(&self, container: u32, bytes: &[u8]) {
        let mut buffer = AlignedBuf::zeroed(bytes.len());
        buffer.as_mut_slice().copy_from_slice(bytes);
        let offset = self.engine.reader.shape().offset(container, u32::from(self.object.oid.slot()));
        self.device.submit(Write::whole(offset, buffer)).wait().unwrap();
    }

    /// Moves the object to one of the last three containers, and uses its place there of the round before.
    fn round(&self, round: u32) {
        let reader = &self.engine.reader;
        let place = |round: u32| reader.shape().containers - 1 - round % 3;
        let slot = u32::from(self.object.oid.slot());
        self.write(place(round), &self.bytes);
        let to = Fragment { units: BYTES / UNIT, container: place(round), offset_units: slot };
        reader.set_moved(self.object.oid.segment(), BTreeMap::from([(slot, to)]));
        reader.readers.wait_for_earlier();
        if let Some(before) = round.checked_sub(1) {
            self.write(place(before), &self.others);
        }
    }

    fn read(&self) {
        let mut queue = self.engine.read_queue(2).unwrap();
        for tag in 0..READS {
            queue.submit(tag, self.object.oid, 0, &self.object.crcs, self.engine.buffer(BYTES)).unwrap();
            thread::yield_now();
            let each = |_, buffer: AlignedBuf, outcome: Result<()>| {
                outcome.unwrap();
                assert!(buffer.as_slice() == self.bytes, "the bytes of something else");
            };
            assert_eq!(queue.wait(1, each).unwrap(), 1);
        }
    }
}

fn reads_while_what_they_read_moves(with_same_checksums: bool) {
    let world = world(with_same_checksums);
    world.round(0);
    let moves = {
        let world = Arc::clone(&world);
        thread::spawn(move || (1..=ROUNDS).for_each(|round| world.round(round)))
    };
    let reads = {
        let world = Arc::clone(&world);
        thread::spawn(move || world.read())
    };
    moves.join().unwrap();
    reads.join().unwrap();
    world.read();
}

#[test]
fn a_queue_gives_the_bytes_of_no_other_object_and_no_error_while_places_are_reused() {
    check(120, || reads_while_what_they_read_moves(true));
    check(120, || reads_while_what_they_read_moves(false));
}
