//! Time: the clock as a parameter, and the hybrid logical clock that records are stamped with (INV-01, INV-40).
//!
//! The HLC follows wall time while that goes forward, and counts on logically while it does not. Over crashes: it restarts above every stamp in the recovered
//! log, and above the durable bound if the wall clock has fallen behind the last publication; stamps of a lost tail were at most the bound.

use envoyfs_layout::Hlc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How far a publication sets the durable bound ahead: as long as a mount may go without one while its HLC follows the wall clock.
pub const BOUND_AHEAD: Duration = Duration::from_secs(24 * 3600);

/// Wall clock and a clock that never goes back.
pub trait Clock: Send + Sync + 'static {
    /// Nanoseconds since 1970.
    fn wall_ns(&self) -> i64;
    /// Milliseconds since some moment; never falls.
    fn monotonic_ms(&self) -> u64;
    /// The same in nanoseconds, for measuring.
    fn monotonic_ns(&self) -> u64 {
        self.monotonic_ms().saturating_mul(1_000_000)
    }
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Starts counting.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the home of the clock")]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the home of the clock")]
    fn wall_ns(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
        }
    }
    fn monotonic_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
    fn monotonic_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Clocks that only a test or a simulation moves.
#[derive(Debug, Default)]
pub struct ManualClock {
    wall_ns: AtomicI64,
    monotonic_ms: AtomicU64,
}

impl ManualClock {
    /// Both start at this wall time (the monotonic clock at zero).
    #[must_use]
    pub fn new(wall_ns: i64) -> Self {
        Self { wall_ns: AtomicI64::new(wall_ns), monotonic_ms: AtomicU64::new(0) }
    }
    /// Lets time pass on both clocks.
    pub fn advance(&self, by: Duration) {
        let ns = i64::try_from(by.as_nanos()).unwrap_or(i64::MAX);
        self.wall_ns.fetch_add(ns, Ordering::SeqCst);
        self.monotonic_ms.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
    /// Sets the wall clock, also backwards.
    pub fn set_wall_ns(&self, ns: i64) {
        self.wall_ns.store(ns, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn wall_ns(&self) -> i64 {
        self.wall_ns.load(Ordering::SeqCst)
    }
    fn monotonic_ms(&self) -> u64 {
        self.monotonic_ms.load(Ordering::SeqCst)
    }
}

/// The earliest record HLC of a wall time.
#[must_use]
pub fn wall_hlc(wall_ns: i64) -> Hlc {
    Hlc::from_milliseconds(u64::try_from(wall_ns / 1_000_000).unwrap_or(0).min((1 << 47) - 1))
}

/// A clock may be put back by this without being found wrong, in ms: time servers do.
const STEP_MS: u64 = 1000;
/// How far the bound stays ahead of the last stamp when that is ahead of the wall clock: 2^31 stamps fit in it.
const BOUND_AHEAD_OF_LAST: Duration = Duration::from_secs(60);

/// The bound to put into a superblock that is published now; never below `last`.
#[must_use]
pub fn next_bound(wall_ns: i64, last: Hlc) -> Hlc {
    let after =
        |from: Hlc, by: Duration| from.milliseconds().saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX));
    // Ahead of a clock that runs logically, the bound follows closely: a day at every mount would never be caught up with.
    Hlc::from_milliseconds(after(wall_hlc(wall_ns), BOUND_AHEAD).max(after(last, BOUND_AHEAD_OF_LAST)))
}

/// Draws record HLCs. Not synchronised: it lives under the lock that also draws LSNs.
#[derive(Debug)]
pub struct HlcSource {
    last: Hlc,
    bound: Hlc,
}

impl HlcSource {
    /// After recovery: `seen` is the largest stamp in the recovered log and checkpoint, `bound` the superblock's before this mount published.
    /// Returns also whether the wall clock is behind what the store has seen, which deserves a warning.
    #[must_use]
    pub fn after_recovery(wall_ns: i64, seen: Hlc, bound: Hlc) -> (Self, bool) {
        let wall = wall_hlc(wall_ns);
        let ahead = u64::try_from(BOUND_AHEAD.as_millis()).unwrap_or(u64::MAX);
        let published = Hlc::from_milliseconds(bound.milliseconds().saturating_sub(ahead));
        let later = |stamp: Hlc| Hlc::from_milliseconds(stamp.milliseconds().saturating_add(STEP_MS));
        let behind = later(wall) < published || later(wall) < seen;
        let last = match (wall < published, later(wall) < published) {
            (false, _) => seen,
            (true, false) => seen.max(later(published)), // the clock was put right: lost stamps are no further ahead than that
            (true, true) => seen.max(bound),
        };
        (Self { last: Hlc(last.0 | 1), bound: next_bound(wall_ns, last) }, behind)
    }

    /// The next record HLC: even, above every one before.
    pub fn draw(&mut self, wall_ns: i64) -> Hlc {
        let next = Hlc(self.last.0 | 1).next_record();
        let wall = wall_hlc(wall_ns);
        // A wall clock beyond the bound is not followed: what a crash may lose stays below the bound. Counting on logically takes 2^15 records a millisecond
        // and 24 hours of them to reach it.
        let drawn = if wall > next && wall <= self.bound { wall } else { next };
        self.last = drawn;
        drawn
    }

    /// The largest drawn.
    #[must_use]
    pub const fn last(&self) -> Hlc {
        self.last
    }

    /// A superblock with this bound is durable.
    pub fn raise_bound(&mut self, bound: Hlc) {
        self.bound = self.bound.max(bound);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000_000_000;
    const DAY: i64 = 24 * 3600 * 1_000_000_000;

    #[test]
    fn hlcs_are_even_rise_strictly_and_follow_the_wall() {
        let (mut source, behind) = HlcSource::after_recovery(NOW, Hlc(77), Hlc::ZERO);
        assert!(!behind);
        let mut last = Hlc(77);
        for step in 0..1000 {
            let drawn = source.draw(NOW + step / 10 * 1_000_000);
            assert!(drawn > last && drawn.0 % 2 == 0);
            last = drawn;
        }
        assert_eq!(last.milliseconds(), 1_700_000_000_099);
    }

    #[test]
    fn a_clock_that_jumps_back_or_far_ahead_is_not_followed() {
        let (mut source, _) = HlcSource::after_recovery(NOW, Hlc::ZERO, Hlc::ZERO);
        let a = source.draw(NOW);
        let b = source.draw(NOW - DAY);
        let c = source.draw(NOW + 1000 * DAY);
        assert_eq!((b, c), (a.next_record(), b.next_record()));
    }

    #[test]
    fn after_a_crash_with_the_clock_set_back_lost_stamps_are_not_drawn_again() {
        let bound = next_bound(NOW, Hlc::ZERO);
        let (mut before, _) = HlcSource::after_recovery(NOW, Hlc::ZERO, Hlc::ZERO);
        let lost = before.draw(NOW + DAY / 2);
        let (mut after, behind) = HlcSource::after_recovery(NOW - DAY, wall_hlc(NOW), bound);
        assert!(behind);
        assert!(after.draw(NOW - DAY) > lost);
        // Logical time does not run away: the bound follows it by a minute a mount, not by a day.
        let logical = after.draw(NOW - DAY);
        assert!(next_bound(NOW - DAY, logical).milliseconds() - logical.milliseconds() <= 60_000);
        let (mut stepped, behind) = HlcSource::after_recovery(NOW - 500_000_000, wall_hlc(NOW), bound);
        assert!(!behind && stepped.draw(NOW).milliseconds() < bound.milliseconds());
        let (mut sane, behind) = HlcSource::after_recovery(NOW + DAY, wall_hlc(NOW), bound);
        assert!(!behind && sane.draw(NOW + DAY) > lost);
    }
}
