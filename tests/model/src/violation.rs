//! How a check ends a history: with a panic that names the seed and the operation, so that it can be replayed.

macro_rules! fail {
    ($m:expr, $($message:tt)*) => {
        panic!("seed {} op {}: {}", $m.seed, $m.stats.ops, format!($($message)*))
    };
}
