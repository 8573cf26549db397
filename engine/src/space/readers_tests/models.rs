//! Two publications, each of which moves an object and then reuses the place that it had, beside a reader.

use super::loomed::pins::Pins;
use super::loomed::readers::Readers;
use crate::loomed::atomic::{AtomicU64, Ordering};
use crate::loomed::model;
use crate::mutant::{self, Mutant};
use loom::sync::Arc;
use loom::thread;

/// What the object says, and what is written over it.
const RIGHT: u64 = 7;
const REUSED: u64 = 9;

/// Where the object is, and what is in each of the places that it has in turn.
struct Store {
    readers: Readers,
    place: AtomicU64,
    places: [AtomicU64; 3],
}

impl Store {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            readers: Readers::default(),
            place: AtomicU64::new(0),
            places: [RIGHT, 0, 0].map(AtomicU64::new),
        })
    }
    fn publish(&self) {
        for next in [1, 2] {
            self.places[next].store(RIGHT, Ordering::Release);
            self.place.store(next as u64, Ordering::Release);
            self.readers.wait_for_earlier();
            self.places[next - 1].store(REUSED, Ordering::Release);
        }
    }
    fn look(&self) -> u64 {
        let place = self.place.load(Ordering::Acquire);
        self.places[usize::try_from(place).unwrap()].load(Ordering::Acquire)
    }
}

#[test]
fn a_place_is_not_reused_while_a_reader_that_looked_it_up_is_inside() {
    model(5, || {
        let store = Store::new();
        let reader = {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                let _reading = store.readers.enter();
                assert_eq!(store.look(), RIGHT);
            })
        };
        store.publish();
        reader.join().unwrap();
    });
}

#[test]
fn bytes_that_came_while_the_epoch_stayed_are_of_the_place_that_was_looked_up() {
    model(5, || {
        let store = Store::new();
        let reader = {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                let epoch = store.readers.epoch();
                let seen = store.look();
                if store.readers.epoch() == epoch {
                    assert_eq!(seen, RIGHT);
                }
            })
        };
        store.publish();
        reader.join().unwrap();
    });
}

/// Two publications as the engine ends them, beside a client that pins, looks the newest root up, and reads it late.
struct Pinned {
    pins: std::sync::Arc<Pins>,
    root: AtomicU64,
    places: [AtomicU64; 3],
}

impl Pinned {
    fn publish(&self) {
        let mut held = Vec::new();
        for next in [1_usize, 2] {
            self.places[next].store(RIGHT, Ordering::Release);
            let early = mutant::on(Mutant::PinsAskedEarly).then(|| self.pins.oldest());
            self.root.store(next as u64, Ordering::Release);
            let version = self.pins.advance();
            held.push((next - 1, version));
            let oldest = early.unwrap_or_else(|| self.pins.oldest()).map(|oldest| oldest.version);
            held.retain(|(place, since)| {
                let is_held = oldest.is_some_and(|oldest| oldest < *since);
                if !is_held {
                    self.places[*place].store(REUSED, Ordering::Release);
                }
                is_held
            });
        }
    }

    fn read(&self) {
        let pin = self.pins.pin();
        let place = usize::try_from(self.root.load(Ordering::Acquire)).unwrap();
        // Another reader of the same version comes and goes.
        drop(self.pins.pin());
        assert_eq!(self.places[place].load(Ordering::Acquire), RIGHT);
        assert!(!pin.is_broken());
    }
}

#[test]
fn what_was_reachable_when_a_pin_was_taken_is_read_until_it_is_dropped() {
    model(3, || {
        let places = [RIGHT, 0, 0].map(AtomicU64::new);
        let store = Arc::new(Pinned { pins: std::sync::Arc::default(), root: AtomicU64::new(0), places });
        let reader = {
            let store = Arc::clone(&store);
            thread::spawn(move || store.read())
        };
        store.publish();
        reader.join().unwrap();
        assert_eq!(store.pins.count(), 0);
    });
}

#[test]
fn a_publication_that_waits_for_brief_pins_is_told_when_they_are_dropped() {
    model(3, || {
        let pins = std::sync::Arc::<Pins>::default();
        let pin = pins.pin();
        let reader = thread::spawn(move || drop(pin));
        let version = pins.advance();
        // Without a timer here: whoever is not told waits for ever.
        pins.wait_for_brief(version);
        reader.join().unwrap();
    });
}
