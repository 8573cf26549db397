//! Hash maps whose iteration order depends on nothing but what was inserted: a seed replays the same history everywhere.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

#[derive(Default, Clone)]
pub(crate) struct FixedHasher(u64);

impl FixedHasher {
    fn mix(&mut self, x: u64) {
        self.0 = (self.0.rotate_left(5) ^ x).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

impl Hasher for FixedHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &x in bytes {
            self.mix(u64::from(x));
        }
    }
    fn write_u32(&mut self, x: u32) {
        self.mix(u64::from(x));
    }
    fn write_u64(&mut self, x: u64) {
        self.mix(x);
    }
    fn write_usize(&mut self, x: usize) {
        self.mix(x as u64);
    }
}

pub(crate) type Map<K, V> = HashMap<K, V, BuildHasherDefault<FixedHasher>>;
pub(crate) type Set<K> = HashSet<K, BuildHasherDefault<FixedHasher>>;
