//! Waiting awake for a completion before sleeping for it.
//!
//! To be woken costs a thread some 5 us, and 20 to 50 us when its processor has halted in a virtual machine: as much as a fast device needs for the request. So a thread that waits looks
//! for its completion for about as long first, and gives its processor to whoever wants it meanwhile. Where most waits take longer it sleeps at once: to stay awake would gain little, and
//! costs the kernel's threads the processor, or the half of one that it is, which they need for the request (a disk below a loop device: a fifth of the reads), and a virtual
//! machine the habit of keeping processors ready that will soon be wanted. It is tried ever more rarely then.

use std::time::{Duration, Instant};

/// Longest watch. As long as being woken takes at worst, so that a wait costs at most about twice what the better choice would have cost.
const AWAKE_MAX: Duration = Duration::from_micros(50);
/// A watch that took no longer was worth it. What is there later would be no later by much if the thread slept.
const SOON: Duration = Duration::from_micros(20);
/// Watches that are judged together.
const TRIAL: u32 = 8;
/// Waits that are slept through after a trial in which less than half of the watches were worth it, or after one that gave the processor away for long: after the first, and most.
const SKIPS: (u32, u32) = (64, 4096);

/// Whether it pays to stay awake.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Waits to be slept through before the next trial.
    skip: u32,
    /// How many there were before this trial; 0: none, the trial before went well.
    skipped: u32,
    watches: u32,
    worth_it: u32,
}

impl Patience {
    /// Whether this wait should begin awake.
    pub(super) fn is_worth_it(&mut self) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        true
    }

    /// Asks `arrived` until it says yes, or the time is over.
    pub(super) fn watch(&mut self, arrived: impl FnMut() -> std::io::Result<bool>) -> std::io::Result<bool> {
        let began = now();
        self.watch_by(arrived, || began.elapsed(), std::thread::yield_now)
    }

    fn watch_by(
        &mut self,
        mut arrived: impl FnMut() -> std::io::Result<bool>,
        elapsed: impl Fn() -> Duration,
        give_way: impl Fn(),
    ) -> std::io::Result<bool> {
        loop {
            for _ in 0..8 {
                if arrived()? {
                    self.learn(elapsed() <= SOON);
                    return Ok(true);
                }
                (0..8).for_each(|_| std::hint::spin_loop());
            }
            let watched = elapsed();
            if watched >= AWAKE_MAX {
                self.learn(false);
                return Ok(false);
            }
            // What the completion waits for may want this processor.
            give_way();
            if elapsed() - watched > SOON {
                // Somebody else does, and gave it back late. Who sleeps gets it when the completion is there.
                self.rest();
                return arrived();
            }
        }
    }

    fn learn(&mut self, was_worth_it: bool) {
        self.watches += 1;
        self.worth_it += u32::from(was_worth_it);
        if self.watches < TRIAL {
            return;
        }
        if self.worth_it * 2 < TRIAL {
            self.rest();
        } else {
            (self.skipped, self.watches, self.worth_it) = (0, 0, 0);
        }
    }

    fn rest(&mut self) {
        let (least, most) = SKIPS;
        self.skip = (self.skipped * 2).clamp(least, most);
        (self.skipped, self.watches, self.worth_it) = (self.skip, 0, 0);
    }
}

#[expect(clippy::disallowed_methods, reason = "how long a real device takes; nothing that is stored depends on it")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// How many of so many waits are awake, if one in `rare` does not end as most do.
    fn awake(patience: &mut Patience, waits: u32, is_fast: bool, rare: u32) -> u32 {
        let wait = |turn: u32| {
            let is_awake = patience.is_worth_it();
            if is_awake {
                patience.learn(is_fast != turn.is_multiple_of(rare));
            }
            u32::from(is_awake)
        };
        (0..waits).map(wait).sum()
    }

    #[test]
    fn fast_devices_are_watched_and_slow_ones_slept_for() {
        let mut patience = Patience::default();
        assert_eq!(awake(&mut patience, 20_000, true, 5), 20_000);
        assert!(awake(&mut patience, 20_000, false, 5) < 120);
        assert!(awake(&mut patience, 100_000, false, 5) < 250);
    }

    #[test]
    fn a_device_that_became_fast_is_noticed() {
        let mut patience = Patience::default();
        awake(&mut patience, 100_000, false, 5);
        assert!(awake(&mut patience, 20_000, true, 5) > 15_000);
        // Once more, it is tried as often as at first.
        assert!(awake(&mut patience, 64 + 2 * TRIAL, false, 64) >= 2 * TRIAL - 1);
    }

    /// A watch of what is there at the look of this number; each look takes a microsecond, and giving way so long.
    fn watch(patience: &mut Patience, look: u64, away: Duration) -> bool {
        let (looks, time) = (Cell::new(0), Cell::new(Duration::ZERO));
        let arrived = || {
            looks.set(looks.get() + 1);
            time.set(time.get() + Duration::from_micros(1));
            Ok(looks.get() >= look)
        };
        patience.watch_by(arrived, || time.get(), || time.set(time.get() + away)).unwrap()
    }

    #[test]
    fn a_watch_ends_when_it_arrives_and_when_it_takes_too_long() {
        let mut patience = Patience::default();
        assert!(watch(&mut patience, 3, Duration::ZERO));
        assert_eq!((patience.watches, patience.worth_it), (1, 1));
        assert!(watch(&mut patience, 40, Duration::ZERO));
        assert!(!watch(&mut patience, 100, Duration::ZERO));
        assert_eq!((patience.watches, patience.worth_it), (3, 1));
    }

    /// Where others want the processor, to yield costs a slice of their time: the wait is over long before.
    #[test]
    fn a_watch_that_gave_the_processor_away_for_long_is_the_last_one_for_a_while() {
        let mut patience = Patience::default();
        assert!(watch(&mut patience, 9, Duration::from_micros(5)));
        assert!(patience.is_worth_it());
        assert!(watch(&mut patience, 9, Duration::from_millis(3)));
        let (least, _) = SKIPS;
        assert!((0..least).all(|_| !patience.is_worth_it()));
        assert!(patience.is_worth_it());
        assert!(!watch(&mut patience, 20, Duration::from_millis(3)));
        assert_eq!(patience.skip, 2 * least);
    }
}
