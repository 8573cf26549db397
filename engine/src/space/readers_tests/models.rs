//! Two publications, each of which moves an object and then reuses the place that it had, beside a reader.

use super::loomed::readers::Readers;
use crate::loomed::atomic::{AtomicU64, Ordering};
use crate::loomed::model;
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
