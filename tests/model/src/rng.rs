//! The only source of randomness of a history.

use envoyfs_random::Random;

pub(crate) struct Rng(Random);

impl Rng {
    pub(crate) fn from_seed(seed: u64) -> Rng {
        Rng(Random::new(seed.wrapping_mul(0x0123_4567).wrapping_add(seed)))
    }
    /// 0..n, `n > 0`.
    pub(crate) fn below(&mut self, n: u32) -> u32 {
        self.0.below(u64::from(n)) as u32
    }
    /// True in `percent` of 100 draws.
    pub(crate) fn percent(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }
    /// An index into something of `len > 0` elements.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        self.below(len as u32) as usize
    }
}
