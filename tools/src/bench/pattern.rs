//! Which IO comes next: direction, offset, length, from a job and a seed.
//!
//! Random offsets without repetition are a permutation of the blocks, computed and not stored, so that a region of any size costs no memory. A skewed distribution draws a rank; the
//! same permutation says which block has it, so that the popular ones are not neighbours.

use super::job::{BlockSizes, Direction, Distribution, Job};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rand_distr::{Distribution as _, Zipf};

/// One read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Io {
    /// Which way.
    pub direction: Direction,
    /// Bytes from the start of the disk.
    pub offset: u64,
    /// How many.
    pub bytes: u32,
}

/// The IOs of one clone of a job.
pub struct Sequence {
    rng: SmallRng,
    start: u64,
    region: u64,
    random: bool,
    map: bool,
    read_percent: u32,
    sizes: [BlockSizes; 2],
    skew: Skew,
    /// Bytes from the start of the region, by direction.
    cursor: [u64; 2],
    /// Random blocks drawn in this round of the permutation, by direction.
    drawn: [u64; 2],
    permutations: [Permutation; 2],
    /// Bytes still to be done before the size is.
    left: u64,
    endless: bool,
}

enum Skew {
    None,
    Zipf(Option<Zipf<f64>>),
    /// Exponent.
    Pareto(f64),
}

const fn index(direction: Direction) -> usize {
    match direction {
        Direction::Read => 0,
        Direction::Write => 1,
    }
}

impl Sequence {
    /// For a region of the disk. The seed differs by clone.
    pub fn new(job: &Job, start: u64, region: u64, seed: u64) -> Self {
        let fixed = |sizes: &BlockSizes| matches!(sizes, BlockSizes::Fixed(_));
        let uniform = job.random_distribution == Distribution::Uniform;
        let blocks = region / u64::from(job.block_least().max(1));
        let skew = match job.random_distribution {
            Distribution::Uniform => Skew::None,
            Distribution::Zipf(theta) => Skew::Zipf(Zipf::new(float(blocks.max(1)), theta).ok()),
            Distribution::Pareto(share) => Skew::Pareto(share.ln() / (1.0 - share).ln()),
        };
        let keys = |salt: u64| Permutation::new(blocks.max(1), seed_of(job.randseed, salt));
        Self {
            rng: SmallRng::seed_from_u64(seed_of(job.randseed, seed)),
            start,
            region,
            random: job.rw.random,
            map: uniform && !job.norandommap && fixed(&job.read_sizes) && fixed(&job.write_sizes),
            read_percent: match (job.rw.reads, job.rw.writes) {
                (true, true) => job.rwmixread,
                (true, false) => 100,
                _ => 0,
            },
            sizes: [job.read_sizes.clone(), job.write_sizes.clone()],
            skew,
            cursor: [0; 2],
            drawn: [0; 2],
            permutations: if uniform { [keys(seed), keys(!seed)] } else { [keys(0), keys(0)] },
            left: region,
            endless: job.time_based,
        }
    }

    /// Begins again, with other random numbers.
    pub fn restart(&mut self) {
        self.left = self.region;
        self.cursor = [0; 2];
    }

    /// The next; `None` when the size is done.
    pub fn next(&mut self) -> Option<Io> {
        let direction = match self.read_percent {
            100 => Direction::Read,
            0 => Direction::Write,
            percent if self.rng.random_range(0..100) < percent => Direction::Read,
            _ => Direction::Write,
        };
        let bytes = self.length(direction);
        if u64::from(bytes) > self.left {
            if !self.endless {
                return None;
            }
            self.restart();
        }
        self.left = self.left.saturating_sub(bytes.into());
        let offset =
            if self.random { self.random_offset(direction, bytes) } else { self.next_offset(direction, bytes) };
        Some(Io { direction, offset: self.start + offset, bytes })
    }

    fn length(&mut self, direction: Direction) -> u32 {
        let [read, write] = &self.sizes;
        match if direction == Direction::Read { read } else { write } {
            BlockSizes::Fixed(bytes) => *bytes,
            BlockSizes::Range(low, high) => low * self.rng.random_range(1..=high / low),
            BlockSizes::Split(parts) => {
                let mut drawn = self.rng.random_range(0..100);
                for (bytes, share) in parts {
                    if drawn < *share {
                        return *bytes;
                    }
                    drawn -= share;
                }
                parts.last().map_or(4096, |(bytes, _)| *bytes)
            }
        }
    }

    fn next_offset(&mut self, direction: Direction, bytes: u32) -> u64 {
        let Some(cursor) = self.cursor.get_mut(index(direction)) else { return 0 };
        let mut at = *cursor;
        if at + u64::from(bytes) > self.region {
            at = 0;
        }
        *cursor = at + u64::from(bytes);
        at
    }

    fn random_offset(&mut self, direction: Direction, bytes: u32) -> u64 {
        let [read, write] = &self.sizes;
        let align = u64::from(if direction == Direction::Read { read.least() } else { write.least() });
        let places = (self.region.saturating_sub(bytes.into()) / align + 1).max(1);
        let rng = &mut self.rng;
        let Some(permutation) = self.permutations.get_mut(index(direction)) else { return 0 };
        let block = match &self.skew {
            Skew::None if self.map => {
                let Some(drawn) = self.drawn.get_mut(index(direction)) else { return 0 };
                if *drawn == permutation.blocks {
                    *drawn = 0;
                    *permutation = Permutation::new(permutation.blocks, rng.random());
                }
                *drawn += 1;
                permutation.of(*drawn - 1)
            }
            Skew::None => rng.random_range(0..places),
            Skew::Zipf(zipf) => {
                permutation.of(zipf.as_ref().map_or(0, |zipf| whole(zipf.sample(rng)).saturating_sub(1)))
            }
            Skew::Pareto(exponent) => {
                let share: f64 = rng.random();
                permutation.of(whole(float(permutation.blocks) * share.powf(*exponent)))
            }
        };
        block.min(places - 1) * align
    }
}

fn seed_of(seed: u64, salt: u64) -> u64 {
    mix(seed ^ mix(salt.wrapping_add(0x9E37_79B9_7F4A_7C15)))
}

const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[expect(clippy::cast_precision_loss, reason = "block counts are far below 2^52")]
fn float(count: u64) -> f64 {
    count as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative; a float saturates")]
fn whole(value: f64) -> u64 {
    value as u64
}

/// A permutation of `0..blocks`: a Feistel network over the next power of four, walked until it lands inside.
#[derive(Clone, Copy)]
struct Permutation {
    blocks: u64,
    half_bits: u32,
    key: u64,
}

impl Permutation {
    fn new(blocks: u64, key: u64) -> Self {
        let bits = 64 - blocks.saturating_sub(1).leading_zeros();
        Self { blocks, half_bits: bits.div_ceil(2).max(1), key }
    }

    fn of(&self, index: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let mut value = index.min(self.blocks - 1);
        loop {
            let (mut left, mut right) = (value >> self.half_bits, value & mask);
            for round in 0..4 {
                (left, right) = (right, left ^ (mix(right ^ self.key.rotate_left(16 * round)) & mask));
            }
            value = left << self.half_bits | right;
            if value < self.blocks {
                return value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::job::Pattern;
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn job(rw: &str) -> Job {
        Job { rw: Pattern::parse(rw).unwrap(), ..Job::default() }
    }

    fn offsets(sequence: &mut Sequence) -> Vec<u64> {
        std::iter::from_fn(|| sequence.next()).map(|io| io.offset / 4096).collect()
    }

    #[test]
    fn a_random_job_meets_every_block_of_its_region_once() {
        for blocks in [1, 2, 3, 100, 1000, 4096] {
            let met = offsets(&mut Sequence::new(&job("randread"), 8192, blocks * 4096, 1));
            assert_eq!(met.len() as u64, blocks);
            assert_eq!(met.iter().copied().collect::<BTreeSet<_>>(), (2..2 + blocks).collect());
        }
        let met = offsets(&mut Sequence::new(&job("randread"), 0, 1000 * 4096, 1));
        let neighbours = met.windows(2).filter(|pair| pair[1] == pair[0] + 1).count();
        assert!(neighbours < 20, "{neighbours} of 999 are sequential");
        assert_ne!(met, offsets(&mut Sequence::new(&job("randread"), 0, 1000 * 4096, 2)), "clones differ");
    }

    #[test]
    fn a_time_based_job_goes_on_and_stays_inside_its_region() {
        for rw in ["read", "randread", "randrw", "rw"] {
            let job = Job { time_based: true, write_sizes: BlockSizes::Range(4096, 65536), ..job(rw) };
            let mut sequence = Sequence::new(&job, 4096, 1 << 20, 3);
            for _ in 0..5000 {
                let io = sequence.next().unwrap();
                assert!(io.offset >= 4096 && io.offset + u64::from(io.bytes) <= 4096 + (1 << 20), "{rw} {io:?}");
                assert!(io.offset.is_multiple_of(4096));
            }
        }
    }

    #[test]
    fn a_sequential_job_is_sequential() {
        assert_eq!(offsets(&mut Sequence::new(&job("write"), 4096, 8 * 4096, 9)), (1..9).collect::<Vec<_>>());
    }

    #[test]
    fn the_mix_and_the_split_are_what_was_asked_for() {
        let sizes = BlockSizes::Split(vec![(4096, 70), (65536, 30)]);
        let job =
            Job { rwmixread: 20, time_based: true, read_sizes: sizes.clone(), write_sizes: sizes, ..job("randrw") };
        let mut sequence = Sequence::new(&job, 0, 64 << 20, 5);
        let all: Vec<Io> = (0..20_000).filter_map(|_| sequence.next()).collect();
        let share = |count: usize| count * 100 / all.len();
        assert!((18..=22).contains(&share(all.iter().filter(|io| io.direction == Direction::Read).count())));
        assert!((67..=73).contains(&share(all.iter().filter(|io| io.bytes == 4096).count())));
    }

    fn hottest(distribution: Distribution) -> (usize, usize) {
        let job = Job { random_distribution: distribution, time_based: true, ..job("randread") };
        let mut sequence = Sequence::new(&job, 0, 1000 * 4096, 5);
        let mut hits: BTreeMap<u64, usize> = BTreeMap::new();
        (0..50_000).filter_map(|_| sequence.next()).for_each(|io| *hits.entry(io.offset).or_default() += 1);
        let mut counts: Vec<usize> = hits.into_values().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        (counts.iter().take(200).sum::<usize>() * 100 / 50_000, counts.len())
    }

    #[test]
    fn skewed_distributions_favour_a_few_blocks() {
        let (uniform, _) = hottest(Distribution::Uniform);
        assert!(uniform < 30, "{uniform}");
        // The sum of k^-0.8 to 200 over that to 1000 is 0.59.
        let (zipf, met) = hottest(Distribution::Zipf(0.8));
        assert!((56..=64).contains(&zipf) && met > 900, "{zipf} {met}");
        // By definition: 0.2 of the blocks get 0.8.
        let (pareto, _) = hottest(Distribution::Pareto(0.2));
        assert!((77..=83).contains(&pareto), "{pareto}");
    }
}
