//! Whoever was admitted gets his containers: admission beside streams that are filled by chance, publications that take as much as they may, and deletions that go as deep as they may.

use super::*;

const MIB: u64 = 1 << 20;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound.max(1)
    }
    fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap()
    }
}

/// A stream's bytes that are left in its container.
#[derive(Clone, Copy, Default)]
struct Room(u64);

impl Room {
    /// Puts an object there that is in one piece. False: it needs a container, and none is free.
    fn put(&mut self, bytes: u64, free: &mut u32, container: u64) -> bool {
        if self.0 < bytes {
            let Some(left) = free.checked_sub(1) else { return false };
            (*free, self.0) = (left, container);
        }
        self.0 -= bytes;
        true
    }
}

struct Store {
    budget: Budget,
    ledger: Ledger,
    free: u32,
    data: Vec<Room>,
    /// Data and nodes admitted, of permits not used yet.
    permits: Vec<(u64, u64)>,
    random: Random,
}

const OBJECT: u64 = 4096;
const NODE: u64 = 512;

impl Store {
    fn admit(&mut self, most: u64) -> bool {
        let tier = [Tier::Writer, Tier::Shrinking, Tier::Last][self.random.index(3)];
        let data = if tier == Tier::Last { 0 } else { self.random.below(most / OBJECT) * OBJECT };
        let dirty = (1 + self.random.below(most / NODE)) * NODE;
        let free = Free { now: self.free, coming: 0 };
        let admitted = self.ledger.admit(&self.budget, free, tier, data, dirty).is_ok();
        if admitted {
            self.permits.push((data, dirty));
        }
        admitted
    }

    /// Some of a permit's data, in any streams.
    fn write(&mut self) {
        let at = self.random.index(self.permits.len());
        let Some((data, _)) = self.permits.get_mut(at) else { return };
        while *data > 0 && self.random.below(20) > 0 {
            let promised = self.ledger.data;
            // Mostly where it takes a container.
            let full = self.data.iter().position(|room| room.0 < OBJECT && self.random.below(8) > 0);
            let stream = full.unwrap_or(self.random.index(self.data.len()));
            let found = self.data[stream].put(OBJECT, &mut self.free, self.budget.container_bytes);
            assert!(found, "no container for {promised} bytes of data that were promised");
            *data -= OBJECT;
            self.ledger.data -= OBJECT;
        }
    }

    /// The records of those whose data is written.
    fn append(&mut self) {
        let ledger = &mut self.ledger;
        self.permits.retain(|(data, dirty)| {
            if *data == 0 {
                ledger.pending -= dirty;
                ledger.current += dirty;
                ledger.records += 1;
            }
            *data > 0
        });
    }

    /// Takes all that a publication may: each of its streams ends with a container that it has just begun. With the last tier so deep in it that its pages have no room, it changes hardly
    /// any: that is its choice.
    fn publish(&mut self) {
        let container = self.budget.container_bytes;
        let deep = u64::from(self.free) * container < self.ledger.needed(&self.budget, 0) + self.ledger.data;
        // Two at once, as if the one before had written nothing yet.
        let before = self.ledger.frozen;
        self.ledger.freeze();
        let nodes = before + self.ledger.frozen;
        let (pages, streams) = if deep { (0, 2) } else { (2 * self.ledger.pages + nodes / 4, u64::from(STREAMS)) };
        for _ in 0..(nodes + pages).div_ceil(container) + streams - 1 {
            let promised = self.ledger.data;
            assert!(self.free > 0, "no container for what a publication writes, {promised} bytes of data are promised");
            self.free -= 1;
            if self.random.below(2) == 0 {
                self.write();
            }
        }
        self.ledger.published(self.free, false);
    }
}

/// INV-25 for data: with one, three and six streams.
#[test]
fn what_was_promised_finds_its_containers_whatever_heat_it_has() {
    for (mib, segment, streams) in [(64, 1 << 20, 1), (80, 256 << 10, 3), (512, 512 << 10, 6)] {
        let budget = Budget::new(mib * MIB, segment).with_streams(streams);
        let (mut promised, mut amid) = (0, 0);
        for seed in 0..400 {
            let mut random = Random(seed);
            let (current, pages) = (random.below(budget.dirty_max), random.below(12 * budget.container_bytes));
            let frozen = random.below(2) * random.below(budget.dirty_max);
            let ledger = Ledger { pages, current, frozen, ..Ledger::default() };
            let free = ledger.needed(&budget, 0).div_ceil(budget.container_bytes) + random.below(6);
            let (free, most) = (u32::try_from(free).unwrap(), (8 << 10) << random.below(6));
            let data = vec![Room::default(); streams as usize];
            let mut store = Store { budget, ledger, free, data, permits: Vec::new(), random };
            while store.admit(most) || store.random.below(10) > 0 {
                if store.random.below(3) == 0 {
                    store.write();
                    store.append();
                }
            }
            promised += u32::from(store.ledger.data > 0);
            store.publish();
            amid += u32::from(store.ledger.data > 0);
            while store.ledger.data > 0 {
                store.write();
            }
        }
        assert!(promised > 50 && amid > 20, "{promised} {amid}");
    }
}

/// The last tier goes deeper than others, but not into what they were promised.
#[test]
fn the_last_tier_leaves_promised_data_alone() {
    let budget = Budget::new(256 * MIB, 1 << 20).with_streams(3);
    let container = budget.container_bytes;
    let admit = |data, free| {
        let mut ledger = Ledger { data, ..Ledger::default() };
        ledger.admit(&budget, Free { now: free, coming: 0 }, Tier::Last, 0, 3 * container)
    };
    assert_eq!(admit(0, 5), Ok(()));
    // Eight of data, and two that it may begin beside.
    assert_eq!(admit(8 * container, 5 + 9), Err(Short::Space(0)));
    assert_eq!(admit(8 * container, 5 + 10), Ok(()));
}
