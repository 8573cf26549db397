//! What is collected apart for the two epochs that can be open at once: the current one, and the frozen one that a builder works on.

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct ByEpoch<T> {
    even: T,
    odd: T,
}

impl<T> ByEpoch<T> {
    /// That of an epoch.
    pub fn of(&mut self, epoch: u64) -> &mut T {
        if epoch.is_multiple_of(2) { &mut self.even } else { &mut self.odd }
    }
}
