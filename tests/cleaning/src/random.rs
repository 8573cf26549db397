//! Random numbers and which block is written next.

/// splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.draw()) * bound as u128) >> 64) as usize
    }
    fn unit(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Blocks drawn uniformly, or by Zipf's law with ranks scattered over all of them.
pub enum Skew {
    Uniform(usize),
    Zipf { sums: Vec<f64>, block_of_rank: Vec<u32> },
}

impl Skew {
    pub fn new(blocks: usize, exponent: f64, random: &mut Random) -> Self {
        if exponent == 0.0 {
            return Self::Uniform(blocks);
        }
        let mut sum = 0.0;
        let sums = (1..=blocks).map(|rank| {
            sum += (rank as f64).powf(-exponent);
            sum
        });
        let sums = sums.collect();
        let mut block_of_rank: Vec<u32> = (0..blocks as u32).collect();
        for at in (1..blocks).rev() {
            block_of_rank.swap(at, random.below(at + 1));
        }
        Self::Zipf { sums, block_of_rank }
    }
    pub fn draw(&self, random: &mut Random) -> usize {
        match self {
            Self::Uniform(blocks) => random.below(*blocks),
            Self::Zipf { sums, block_of_rank } => {
                let at = random.unit() * sums[sums.len() - 1];
                block_of_rank[sums.partition_point(|sum| *sum < at).min(sums.len() - 1)] as usize
            }
        }
    }
}
