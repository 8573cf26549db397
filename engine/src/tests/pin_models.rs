//! Pins under random schedules: readers that pin and read while a checkpointer publishes, moves what they read, and reuses containers at once. The engine is a store's, whole.

use super::client::*;
use super::slot_maps;
use crate::device::{DeviceImage, SimulatedDevice};
use crate::hlc::ManualClock;
use crate::shuttled::check;
use crate::store::Store as _;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, thread};
use crate::{Engine, HistoryPolicy, Options, Settings, StoreError};
use envoyfs_layout::Reference;
use std::sync::{Arc, OnceLock};

/// Objects that survived in containers of other segments, and of how many bytes each is.
const SURVIVORS: u32 = 6;
const OBJECT_BYTES: u32 = 8192;
/// How many are written.
const WRITTEN: u32 = 40;
const ROUNDS: u32 = 2;

/// What a client knows at a moment.
type Known = (Trees, Option<Reference>);

struct World {
    engine: Arc<Engine>,
    /// The client's memory after its last record, and as it was frozen for the publication that was shown last.
    memory: Mutex<Known>,
    shown: Mutex<Known>,
    /// A pin may be broken here.
    may_break: bool,
}

fn settings(pinned_bytes: u64) -> Settings {
    Settings { history: HistoryPolicy::NONE, pinned_bytes, segment_cache_bytes: 1024, slot_map_bytes: 0, ..tight() }
}

fn mount(image: DeviceImage, pinned_bytes: u64) -> (SimulatedDevice, Client) {
    let device = SimulatedDevice::from_image(image, 512, 1);
    let clock = clock();
    let options = Options {
        read_only: false,
        threads: false,
        accept_loss: false,
        clock: Arc::<ManualClock>::clone(&clock),
        settings: settings(pinned_bytes),
    };
    let engine = Engine::open(Arc::new(device.clone()), options).unwrap();
    (device, Client::start(engine, clock))
}

/// A store in which the cleaner has moved every object. Making it is not part of the model.
fn image() -> DeviceImage {
    static MADE: OnceLock<DeviceImage> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let device = SimulatedDevice::new(8 << 20, 512, 1);
        small_format(&device);
        let (device, mut client) = mount(device.durable_image(), 1 << 20);
        // More than one container takes: the first one is closed.
        for key in 0..WRITTEN {
            client.run(&Op::Write { tree: 0, key, seed: key.into(), len: OBJECT_BYTES }).unwrap();
        }
        client.checkpoint().unwrap();
        for key in (0..WRITTEN).filter(|key| key % 4 != 0 || *key >= 4 * SURVIVORS) {
            client.run(&Op::Delete { tree: 0, key }).unwrap();
        }
        client.checkpoint().unwrap();
        while client.engine.clean_anyway().unwrap() {}
        client.quiesce();
        client.quiesce();
        for key in (0..SURVIVORS).map(|index| 4 * index) {
            let (oid, _) = client.extent_of(0, key);
            assert!(client.engine.reader.is_moved(oid.segment(), oid.slot().into()), "key {key}");
            assert_eq!(client.engine.reader.home(oid.segment()), None, "key {key}");
        }
        client.engine.close().unwrap();
        device.durable_image()
    });
    made.clone()
}

impl World {
    fn remember(&self, client: &Client) {
        *self.memory.lock() = client.parts();
    }

    /// As a client makes it: while it is published, what is shown are the roots of before.
    fn checkpoint(&self, client: &mut Client) {
        let building = client.build().unwrap();
        self.remember(client);
        let frozen = client.parts();
        let mut show = || {
            // A client may take its time.
            (0..3).for_each(|_| thread::yield_now());
            *self.shown.lock() = frozen.clone();
        };
        client.finish_and_show(building, &mut show).unwrap();
    }

    /// What is pinned dies, is moved, and written over as soon as it may be.
    fn publish(&self, client: &mut Client) {
        for round in 0..ROUNDS {
            for key in (0..SURVIVORS).filter(|index| index % ROUNDS == round).map(|index| 4 * index) {
                client.run(&Op::Delete { tree: 0, key }).unwrap();
                self.remember(client);
            }
            self.checkpoint(client);
            for key in 0..3 {
                let seed = (100 + 10 * round + key).into();
                client.run(&Op::Write { tree: 1, key, seed, len: 60_000 }).unwrap();
            }
            self.remember(client);
            self.checkpoint(client);
        }
    }

    fn read(&self, is_shown: bool) {
        for _ in 0..2 {
            let pin = self.engine.pin();
            let (trees, top) = if is_shown { self.shown.lock().clone() } else { self.memory.lock().clone() };
            let seen = Seen::of(pin, trees, top);
            for _ in 0..2 {
                thread::yield_now();
                match seen.look(&self.engine) {
                    Ok(()) => {}
                    Err(StoreError::PinBroken) if self.may_break && seen.pin.is_broken() => {}
                    Err(error) => panic!("{error}; broken: {}", seen.pin.is_broken()),
                }
            }
        }
    }
}

fn readers_and_publications(pinned_bytes: u64) {
    let (_, mut client) = mount(image(), pinned_bytes);
    let world = Arc::new(World {
        engine: Arc::clone(&client.engine),
        memory: Mutex::new(client.parts()),
        shown: Mutex::new(client.parts()),
        may_break: pinned_bytes == 0,
    });
    let readers = [false, true].map(|is_shown| {
        let world = Arc::clone(&world);
        thread::spawn(move || world.read(is_shown))
    });
    let publisher = {
        let world = Arc::clone(&world);
        thread::spawn(move || {
            world.publish(&mut client);
            client
        })
    };
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    let mut client = publisher.join().unwrap();
    client.verify();
    client.quiesce();
    client.quiesce_and_check();
    let pins = &client.engine.metrics().pins;
    assert_eq!((pins.held.get(), pins.containers.get(), pins.places.get()), (0, 0, 0));
}

#[test]
fn what_is_pinned_is_read_whatever_is_published_and_reused_meanwhile() {
    check(60, || readers_and_publications(1 << 20));
}

/// Without the rest of the engine: one object that was moved, dies, and is read under a pin at whatever moment.
#[test]
fn what_was_moved_and_dies_is_found_at_any_moment_by_who_pinned_it() {
    check(400, || {
        let world = slot_maps::world();
        world.place(0);
        let is_shown = Arc::new(AtomicBool::new(true));
        let readers = [1, 2].map(|reads| {
            let (world, is_shown) = (Arc::clone(&world), Arc::clone(&is_shown));
            thread::spawn(move || {
                let pin = world.reader.pins.pin();
                if is_shown.load(Ordering::SeqCst) {
                    (0..reads).for_each(|_| world.read());
                }
                drop(pin);
            })
        });
        world.bury(|| is_shown.store(false, Ordering::SeqCst));
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}

#[test]
fn a_read_that_fails_because_its_pin_was_broken_says_so() {
    check(60, || readers_and_publications(0));
}
