//! Keeps a pass over the store to a rate, so that it leaves the device to those who wait for it. Nothing here is durable.

use parking_lot::{Condvar, Mutex};
use std::ops::ControlFlow;
use std::time::Duration;

/// Most bytes between two pauses.
const STEP_BYTES: u64 = 1 << 20;
/// Least bytes between two pauses: a pass at the lowest rate still reads whole objects.
const LEAST_BYTES: u64 = 4 << 10;
/// A pause is interrupted so often to look whether the pass is to end.
const SLICE: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes_per_second: u64,
    owed: u64,
}

impl Pace {
    /// So many bytes a second; 0: no limit.
    pub(crate) const fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, owed: 0 }
    }

    /// So many bytes were read: pauses when it is time to. `look` is called during a pause, and may end the pass.
    pub(crate) fn after(&mut self, bytes: u64, look: impl FnMut() -> ControlFlow<()>) -> ControlFlow<()> {
        self.after_unless(|| false, bytes, look)
    }

    /// The same, without pauses while somebody waits for the pass.
    pub(crate) fn after_unless(
        &mut self,
        is_waited_for: impl Fn() -> bool,
        bytes: u64,
        mut look: impl FnMut() -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.owed = self.owed.saturating_add(bytes);
        // A tenth of a second's worth, so that a slow pass does not come in bursts.
        let step = (self.bytes_per_second / 10).clamp(LEAST_BYTES, STEP_BYTES);
        if self.bytes_per_second == 0 || self.owed < step {
            return ControlFlow::Continue(());
        }
        let nanos = u128::from(std::mem::take(&mut self.owed)) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let mut left = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        while !left.is_zero() && !is_waited_for() {
            let slice = left.min(SLICE);
            // Nobody notifies: a pause.
            Condvar::new().wait_for(&mut Mutex::new(()).lock(), slice);
            left -= slice;
            look()?;
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_that_somebody_waits_for_makes_no_pauses() {
        let mut pace = Pace::new(1);
        let looks = std::cell::Cell::new(0);
        let look = || {
            looks.set(looks.get() + 1);
            if looks.get() < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        // A pause of an hour ends when somebody comes, and there is none while he is there.
        assert!(pace.after_unless(|| looks.get() == 2, 4 << 10, look).is_continue());
        assert!(pace.after_unless(|| true, 4 << 10, look).is_continue());
        assert_eq!(looks.get(), 2);
        assert!(pace.after_unless(|| false, 4 << 10, look).is_break());
    }

    #[test]
    fn without_a_rate_nothing_pauses_and_a_pause_ends_when_the_pass_is_to_end() {
        let mut looks = 0;
        let mut look = |flow| {
            looks += 1;
            flow
        };
        assert!(Pace::new(0).after(u64::MAX, || look(ControlFlow::Break(()))).is_continue());
        assert!(Pace::new(1 << 30).after(1, || look(ControlFlow::Break(()))).is_continue());
        // Hours, at this rate.
        assert!(Pace::new(1).after(1 << 20, || look(ControlFlow::Break(()))).is_break());
        assert_eq!(looks, 1);
    }
}
