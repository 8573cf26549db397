//! Waiting awake for a completion before sleeping for it.
//!
//! To be woken costs a thread some 5 us, and 20 to 50 us when its processor has halted in a virtual machine: as much as a fast device needs for the request. So a thread that
//! waits looks for its completion for about as long first, and gives its processor to whoever wants it meanwhile. Where that does not pay (a slow device, many readers), it is
//! tried ever more rarely: at most once in 64 waits, so that it costs a slow device under 1 us a request.

use std::time::{Duration, Instant};

/// As long as being woken takes at worst, so that a wait costs at most about twice what the better choice would have cost.
const AWAKE_MAX: Duration = Duration::from_micros(50);
/// Waits that are slept through after a watch that found nothing, at most.
const SKIP_MAX: u32 = 64;

/// Whether it pays to stay awake.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Waits to be slept through before the next try.
    skip: u32,
    /// How many after the next failure.
    penalty: u32,
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
    pub(super) fn watch(&mut self, mut arrived: impl FnMut() -> std::io::Result<bool>) -> std::io::Result<bool> {
        let began = now();
        loop {
            for _ in 0..8 {
                if arrived()? {
                    self.penalty = 0;
                    return Ok(true);
                }
                (0..8).for_each(|_| std::hint::spin_loop());
            }
            if began.elapsed() >= AWAKE_MAX {
                self.penalty = (self.penalty * 2).clamp(1, SKIP_MAX);
                self.skip = self.penalty;
                return Ok(false);
            }
            // What the completion waits for may want this processor.
            std::thread::yield_now();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "how long a real device takes; nothing that is stored depends on it")]
fn now() -> Instant {
    Instant::now()
}
