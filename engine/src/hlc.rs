//! Time: the clock as a parameter, and the hybrid logical clock that records are stamped with (INV-01, INV-40).
//!
//! The HLC follows wall time while that goes forward, and counts on logically while it does not. No stamp is drawn above the *bound*, which is durable in the superblock
//! before. Over crashes: nobody knows what a lost tail was stamped, nor whether the clock was set back meanwhile, so the HLC restarts at the bound, unless the log
//! says that it was closed: then nothing was lost, and it restarts above the last stamp. The bound is [`BOUND_AHEAD`] ahead of the wall clock, so that is how far a
//! crash puts the HLC ahead of it at most; a checkpoint is due when less than half of that is left ([`is_bound_near`]).

use envoyfs_layout::Hlc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How far a publication sets the durable bound ahead: as long as a mount may go without one while its HLC follows the wall clock.
pub const BOUND_AHEAD: Duration = Duration::from_secs(600);

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

/// The record HLC after `last`: even, above it, and that of the wall clock if that is later.
#[must_use]
pub fn next(last: Hlc, wall: Hlc, bound: Hlc) -> Hlc {
    let next = Hlc(last.0 | 1).next_record();
    // A wall clock beyond the bound is not followed: what a crash may lose stays below the bound. Counting on logically takes 2^15 records a millisecond
    // and a minute of them to reach it.
    if wall > next && wall <= bound { wall } else { next }
}

/// Whether a publication should raise the bound soon.
#[must_use]
pub fn is_bound_near(wall_ns: i64, bound: Hlc) -> bool {
    let half = u64::try_from(BOUND_AHEAD.as_millis() / 2).unwrap_or(u64::MAX);
    wall_hlc(wall_ns).milliseconds().saturating_add(half) > bound.milliseconds()
}

/// Where record HLCs start; the log draws them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HlcSource {
    /// The largest that may have been drawn.
    pub last: Hlc,
    /// None above this is drawn because of the wall clock.
    pub bound: Hlc,
}

impl HlcSource {
    /// After recovery: `seen` is the largest stamp in the recovered log and checkpoint, `bound` the superblock's before this mount published; `closed`: the last
    /// mount said that it appended nothing any more. Returns also whether the wall clock is behind what the store has seen, which deserves a warning.
    #[must_use]
    pub fn after_recovery(wall_ns: i64, seen: Hlc, bound: Hlc, closed: bool) -> (Self, bool) {
        // Stamps that a mount after a crash began with are as far ahead, and the bound a little more.
        let ahead = u64::try_from((BOUND_AHEAD + BOUND_AHEAD_OF_LAST).as_millis()).unwrap_or(u64::MAX);
        let expected = wall_hlc(wall_ns).milliseconds().saturating_add(ahead).saturating_add(STEP_MS);
        let behind = expected < seen.max(bound).milliseconds();
        let last = if closed { seen } else { seen.max(bound) };
        (Self { last: Hlc(last.0 | 1), bound: next_bound(wall_ns, last) }, behind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000_000_000;
    const MINUTE: i64 = 60 * 1_000_000_000;

    fn draw(source: &mut HlcSource, wall_ns: i64) -> Hlc {
        source.last = next(source.last, wall_hlc(wall_ns), source.bound);
        source.last
    }

    #[test]
    fn hlcs_are_even_rise_strictly_and_follow_the_wall() {
        let (mut source, behind) = HlcSource::after_recovery(NOW, Hlc(77), Hlc::ZERO, false);
        assert!(!behind);
        let mut last = Hlc(77);
        for step in 0..1000 {
            let drawn = draw(&mut source, NOW + step / 10 * 1_000_000);
            assert!(drawn > last && drawn.0.is_multiple_of(2));
            last = drawn;
        }
        assert_eq!(last.milliseconds(), 1_700_000_000_099);
    }

    #[test]
    fn a_clock_that_jumps_back_or_far_ahead_is_not_followed() {
        let (mut source, _) = HlcSource::after_recovery(NOW, Hlc::ZERO, Hlc::ZERO, false);
        let a = draw(&mut source, NOW);
        let b = draw(&mut source, NOW - MINUTE);
        let c = draw(&mut source, NOW + 1000 * MINUTE);
        assert_eq!((b, c), (a.next_record(), b.next_record()));
    }

    /// INV-01: wherever the clock stands after the crash, also between the last publication and the crash.
    #[test]
    fn after_a_crash_lost_stamps_are_not_drawn_again_however_the_clock_was_set() {
        for lost_after in [0, 1, 300, 599] {
            let bound = next_bound(NOW, Hlc::ZERO);
            let (mut before, _) = HlcSource::after_recovery(NOW, Hlc::ZERO, Hlc::ZERO, false);
            let lost = draw(&mut before, NOW + lost_after * 1_000_000_000);
            for back in (-20..20).map(|half| half * MINUTE / 2) {
                let (mut after, _) = HlcSource::after_recovery(NOW + back, wall_hlc(NOW), bound, false);
                assert!(draw(&mut after, NOW + back) > lost, "lost {lost_after} s after, set to {back} ns");
            }
        }
    }

    #[test]
    fn a_log_that_was_closed_goes_on_with_the_wall_clock_and_a_crash_puts_it_ahead_by_little() {
        let bound = next_bound(NOW, Hlc::ZERO);
        let (mut closed, behind) = HlcSource::after_recovery(NOW + MINUTE, wall_hlc(NOW), bound, true);
        assert!(!behind);
        assert_eq!(draw(&mut closed, NOW + MINUTE), wall_hlc(NOW + MINUTE));
        let (mut crashed, behind) = HlcSource::after_recovery(NOW + MINUTE, wall_hlc(NOW), bound, false);
        assert!(!behind);
        let logical = draw(&mut crashed, NOW + MINUTE);
        assert!(logical.milliseconds() - wall_hlc(NOW + MINUTE).milliseconds() <= 600_000);
        // Logical time does not run away: the bound follows it by a minute a mount.
        assert!(next_bound(NOW, logical).milliseconds() - logical.milliseconds() <= 60_000);
    }

    #[test]
    fn a_clock_behind_what_the_store_has_seen_is_told() {
        let bound = next_bound(NOW, Hlc::ZERO);
        assert!(HlcSource::after_recovery(NOW - 2 * MINUTE, wall_hlc(NOW), bound, false).1);
        assert!(!HlcSource::after_recovery(NOW - 500_000_000, wall_hlc(NOW), bound, false).1);
    }

    #[test]
    fn the_bound_is_raised_long_before_it_is_reached() {
        let bound = next_bound(NOW, Hlc::ZERO);
        assert!(!is_bound_near(NOW + 4 * MINUTE, bound) && is_bound_near(NOW + 6 * MINUTE, bound));
    }
}
