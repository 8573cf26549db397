//! Buffers for answers to reads, kept between requests so that a read neither allocates nor clears memory.

use parking_lot::Mutex;
use std::sync::Arc;

/// Kept buffers. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Pool {
    kept: Arc<Mutex<Vec<Vec<u8>>>>,
    count_max: usize,
}

impl Pool {
    /// Keeps at most `count_max` buffers; each is as large as the largest request that it has served.
    #[must_use]
    pub fn new(count_max: usize) -> Self {
        Self { kept: Arc::default(), count_max }
    }

    /// A buffer of `length` bytes with any contents.
    #[must_use]
    pub fn take(&self, length: usize) -> PooledBuffer {
        let mut bytes = self.kept.lock().pop().unwrap_or_default();
        if bytes.len() < length {
            bytes.resize(length, 0);
        }
        PooledBuffer { bytes, length, pool: self.clone() }
    }
}

/// A buffer that goes back to its pool when dropped.
#[derive(Debug)]
pub struct PooledBuffer {
    bytes: Vec<u8>,
    length: usize,
    pool: Pool,
}

impl PooledBuffer {
    /// The bytes asked for.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.length).unwrap_or_default()
    }

    /// The first `count` bytes, at most the length asked for.
    #[must_use]
    pub fn first(&self, count: usize) -> &[u8] {
        self.bytes.get(..count.min(self.length)).unwrap_or_default()
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        let mut kept = self.pool.kept.lock();
        if kept.len() < self.pool.count_max {
            kept.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_only_as_many_as_allowed_are_kept() {
        let pool = Pool::new(1);
        let (mut first, second) = (pool.take(8), pool.take(4));
        first.bytes_mut().fill(7);
        assert_eq!(first.first(3), [7, 7, 7]);
        assert_eq!(first.first(100).len(), 8);
        drop(first);
        drop(second);
        assert_eq!(pool.kept.lock().len(), 1);
        assert_eq!(pool.take(2).bytes_mut().len(), 2);
    }
}
