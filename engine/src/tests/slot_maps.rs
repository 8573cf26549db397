//! The cache of slot maps under random schedules: readers, with and without an epoch, while a checkpointer moves what they read, writes its page anew, and uses the old places for
//! something else once the readers of before have left.

use crate::device::{AlignedBuf, Device, SimulatedDevice, Write};
use crate::hlc::ManualClock;
use crate::metrics::Metrics;
use crate::shuttled::check;
use crate::space::{Reader, Run, Shape};
use crate::state::{Fragment, SlotMap};
use crate::sync::thread;
use envoyfs_layout::checksum::crc32c;
use envoyfs_layout::directory_page::Place;
use envoyfs_layout::system_page::{Moved, SegmentPage};
use envoyfs_layout::{LayoutError, Oid};
use std::sync::Arc;

const SEGMENT: u32 = 1;
const SLOT: u32 = 8;
const UNITS: u32 = 8;
const ROUNDS: u32 = 3;
/// The object's bytes; whatever is written over its old places is something else.
const MARK: u8 = 7;

pub(super) struct World {
    device: SimulatedDevice,
    pub(super) reader: Reader,
}

pub(super) fn world() -> Arc<World> {
    let device = SimulatedDevice::new(4 << 20, 512, 1);
    let shape = Shape {
        seed: [1; 16],
        volume: 1,
        segment_bytes: 256 << 10,
        containers: 8,
        segments_offset: 0,
        block_bytes: 512,
    };
    let metrics = Metrics::new(Arc::new(ManualClock::new(0)));
    // No room for a slot map: each is read and forgotten.
    let reader = Reader::new(Arc::new(device.clone()), shape, metrics, 0);
    Arc::new(World { device, reader })
}

impl World {
    fn write(&self, container: u32, unit: u32, bytes: &[u8]) {
        let mut buffer = AlignedBuf::zeroed(bytes.len());
        buffer.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
        self.device.submit(Write::whole(self.reader.shape().offset(container, unit), buffer)).wait().unwrap();
    }

    /// Copies the object to a container, and says so by a page.
    pub(super) fn place(&self, round: u32) {
        let (container, page_unit) = (1 + round % 3, 64 * (round % 3));
        self.write(container, SLOT, &[MARK; 512 * UNITS as usize]);
        let to = Fragment { units: UNITS, container, offset_units: SLOT };
        self.reader.set_moved(SEGMENT, SlotMap::from([(SLOT, to)]));
        let moved = Moved { slot: SLOT as u16, units: UNITS as u16, container, offset_units: SLOT };
        let bytes = SegmentPage {
            segment: SEGMENT,
            live: vec![(SLOT as u16, UNITS as u16)],
            moved: vec![moved],
            ..SegmentPage::default()
        }
        .encode();
        self.write(
            7,
            page_unit,
            &bytes.iter().copied().chain([0; 512]).take(bytes.len().next_multiple_of(512)).collect::<Vec<_>>(),
        );
        let page = Place { container: 7, units: page_unit, stored_bytes: bytes.len() as u32, crc: crc32c(&bytes) };
        self.reader.set_page(SEGMENT, page, true);
        self.reader.readers.wait_for_earlier();
        if let Some(before) = round.checked_sub(1) {
            self.write(1 + before % 3, SLOT, &[0xEE; 512 * UNITS as usize]);
            self.write(7, 64 * (before % 3), &[0xEE; 512]);
        }
    }

    /// The object dies where the first round placed it, and is published as dead: its page is gone. Once `show` was called and pins are gone that saw it, its place is used again.
    pub(super) fn bury(&self, show: impl Fn()) {
        let (reader, pins) = (&self.reader, &self.reader.pins);
        let from = Fragment { units: UNITS, container: 1, offset_units: SLOT };
        assert!(reader.kept.add(&[(SEGMENT, SLOT, from)], pins.version() + 1, 1));
        reader.set_page(SEGMENT, Place::NONE, false);
        show();
        let version = pins.advance();
        while pins.oldest().is_some_and(|oldest| oldest.version < version) {
            thread::yield_now();
        }
        reader.kept.prune(None);
        reader.forget(SEGMENT);
        reader.readers.wait_for_earlier();
        self.write(1, SLOT, &[0xEE; 512 * UNITS as usize]);
    }

    pub(super) fn read(&self) {
        let oid = Oid::new(1, SEGMENT, SLOT as u16);
        let mut bytes = vec![0; 512 * UNITS as usize];
        let is_it = |bytes: &[u8]| match bytes.iter().all(|byte| *byte == MARK) {
            true => Ok(()),
            false => Err(LayoutError::Checksum { structure: "object", expected: 7, found: bytes[0].into() }),
        };
        self.reader.read(oid, &(SLOT..SLOT + UNITS), &mut bytes, is_it).unwrap();
    }

    /// As a queue of reads does: what is planned holds if the epoch is the same when the bytes have arrived.
    fn read_by_epoch(&self) {
        let oid = Oid::new(1, SEGMENT, SLOT as u16);
        let epoch = self.reader.readers.epoch();
        let (mut bytes, mut runs) = (vec![0; 512 * UNITS as usize], Vec::<Run>::new());
        // The page has a place at any moment.
        self.reader.plan(oid, &(SLOT..SLOT + UNITS), &mut bytes, &mut runs).unwrap();
        let mut buffer = AlignedBuf::zeroed(bytes.len());
        self.device.read(runs[0].offset, &mut buffer).unwrap();
        if self.reader.readers.epoch() == epoch {
            assert!(buffer.as_slice().iter().all(|byte| *byte == MARK), "the epoch is the same, the bytes are not");
        }
    }
}

#[test]
fn units_that_move_are_found_wherever_they_were_looked_up() {
    check(400, || {
        let world = world();
        world.place(0);
        let spawn = |act: fn(&World)| {
            let world = Arc::clone(&world);
            thread::spawn(move || act(&world))
        };
        let threads = [
            spawn(|world| (0..2).for_each(|_| world.read())),
            spawn(|world| (0..2).for_each(|_| world.read_by_epoch())),
            spawn(|world| (1..=ROUNDS).for_each(|round| world.place(round))),
        ];
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        world.read();
        world.read_by_epoch();
    });
}
