//! Time: the clock as a parameter, and the hybrid logical clock that records are stamped with (INV-01, INV-40).
//!
//! The HLC follows wall time while that goes forward, and counts on logically while it does not. No stamp is drawn above the *bound*, which is durable in the superblock
//! before. Over crashes: nobody knows what a lost tail was stamped, nor whether the clock was set back meanwhile, so the HLC restarts at the bound, unless the log
//! says that it was closed: then nothing was lost, and it restarts above the last stamp. The bound is [`BOUND_AHEAD`] ahead of the wall clock, so that is how far a
//! crash puts the HLC ahead of it at most; a checkpoint is due when less than half of that is left ([`is_bound_near`]).

use crate::sabotage::{self, Rule};
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

/// A stamp from outside that is further ahead of this host's clock is refused (INV-01).
pub const AHEAD_MAX: Duration = Duration::from_secs(10);
/// A wall clock that went ahead of the monotonic one by more than this since it was last looked at has jumped.
const JUMP: Duration = Duration::from_secs(10);
/// A jump is believed when it has stood for so long.
const DOUBTED: Duration = Duration::from_secs(60);
/// A jump further ahead than this is not believed while the store is mounted.
const JUMP_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// A clock may be put back by this without being found wrong, in ms: time servers do.
const STEP_MS: u64 = 1000;
/// How far the bound stays ahead of the last stamp when that is ahead of the wall clock: 2^31 stamps fit in it.
const BOUND_AHEAD_OF_LAST: Duration = Duration::from_secs(60);

/// How far below the bound a stamp from outside has to be: a thousand million records count on from there until it is reached.
pub const COUNTING_ROOM: Duration = Duration::from_secs(30);

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
    let is_later = wall > next || sabotage::on(Rule::HlcFollowsWall);
    if is_later && wall <= bound { wall } else { next }
}

/// Whether a publication should raise the bound soon.
#[must_use]
pub fn is_bound_near(wall_ns: i64, bound: Hlc) -> bool {
    let half = u64::try_from(BOUND_AHEAD.as_millis() / 2).unwrap_or(u64::MAX);
    wall_hlc(wall_ns).milliseconds().saturating_add(half) > bound.milliseconds()
}

/// Which wall clock a mount believes. A clock that jumps ahead would take the HLC along, durably and for good, since that never falls: so a jump is followed only up to the
/// durable bound ([`BOUND_AHEAD`]) at once, as a whole when it has stood for a minute, and not at all beyond a year. What is not believed is taken off ([`Belief::ahead_ns`]), so
/// that the HLC goes on with the monotonic clock meanwhile.
///
/// ```text
/// believed -- jumps ahead --> doubted -- a minute --> believed
///                  \-- more than a year --> refused -- the clock is put back, or the next mount --> believed
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Belief {
    wall_ns: i64,
    monotonic_ms: u64,
    /// Since when, by the monotonic clock, the wall clock is ahead of what is believed.
    doubted: Option<u64>,
    refused: bool,
    /// The mount found the clock behind what the store has seen: going ahead is what it has to do.
    was_behind: bool,
    ahead_ns: i64,
}

/// What is told of a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jump {
    /// It went ahead, and is not believed yet.
    Doubted,
    /// It went ahead, has stood, and is believed now.
    Believed,
    /// It went ahead too far.
    Refused,
}

impl Belief {
    /// A mount believes the clock that it finds, if it has no reason not to; `was_behind` says that it has.
    #[must_use]
    pub const fn new(wall_ns: i64, monotonic_ms: u64, was_behind: bool) -> Self {
        Self { wall_ns, monotonic_ms, doubted: None, refused: false, was_behind, ahead_ns: 0 }
    }

    /// By how much the wall clock is ahead of what is believed.
    #[must_use]
    pub const fn ahead_ns(&self) -> i64 {
        self.ahead_ns
    }

    /// Looks at the clocks; says what is new, and by how much the clock went ahead. `seen`: the newest stamp of the store.
    pub fn look(&mut self, wall_ns: i64, monotonic_ms: u64, seen: Hlc) -> Option<(Jump, Duration)> {
        let passed = i64::try_from(monotonic_ms.saturating_sub(self.monotonic_ms)).unwrap_or(i64::MAX);
        let expected = self.wall_ns.saturating_add(passed.saturating_mul(1_000_000));
        let ahead = Duration::from_nanos(u64::try_from(wall_ns.saturating_sub(expected)).unwrap_or(0));
        if ahead <= JUMP {
            *self = Self::new(wall_ns, monotonic_ms, self.was_behind);
            return None;
        }
        let stored = i64::try_from(seen.milliseconds()).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        let from = if self.was_behind { expected.max(stored) } else { expected };
        let is_new = self.doubted.is_none();
        let since = *self.doubted.get_or_insert(monotonic_ms);
        if wall_ns.saturating_sub(from) > i64::try_from(JUMP_MAX.as_nanos()).unwrap_or(i64::MAX) {
            self.ahead_ns = wall_ns.saturating_sub(expected);
            return (!std::mem::replace(&mut self.refused, true)).then_some((Jump::Refused, ahead));
        }
        let stood = monotonic_ms.saturating_sub(since) >= u64::try_from(DOUBTED.as_millis()).unwrap_or(u64::MAX);
        if stood || self.was_behind {
            *self = Self::new(wall_ns, monotonic_ms, false);
            return Some((Jump::Believed, ahead));
        }
        self.ahead_ns = wall_ns.saturating_sub(expected);
        is_new.then_some((Jump::Doubted, ahead))
    }
}

/// Whether a wall clock is behind stamps that a store has seen, by more than a crash accounts for.
#[must_use]
pub fn is_behind(wall_ns: i64, seen: Hlc) -> bool {
    // Stamps that a mount after a crash began with are as far ahead, and the bound a little more.
    let ahead = u64::try_from((BOUND_AHEAD + BOUND_AHEAD_OF_LAST).as_millis()).unwrap_or(u64::MAX);
    wall_hlc(wall_ns).milliseconds().saturating_add(ahead).saturating_add(STEP_MS) < seen.milliseconds()
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
    /// mount said that it appended nothing any more. Returns also whether the wall clock is behind what the store has seen, which deserves a warning: time
    /// goes on logically from there, however far ahead that is, since no stamp may be drawn twice.
    #[must_use]
    pub fn after_recovery(wall_ns: i64, seen: Hlc, bound: Hlc, closed: bool) -> (Self, bool) {
        let behind = is_behind(wall_ns, seen.max(bound));
        let last = if closed || sabotage::on(Rule::StampsFromSeen) { seen } else { seen.max(bound) };
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

    const SECOND: i64 = 1_000_000_000;
    const DAY: i64 = 24 * 60 * MINUTE;

    /// A look at a wall clock that is ahead by so much after so many seconds.
    fn look(belief: &mut Belief, seconds: u64, ahead: i64) -> (Option<Jump>, i64) {
        let wall = NOW + i64::try_from(seconds).unwrap() * SECOND + ahead;
        let told = belief.look(wall, seconds * 1000, wall_hlc(NOW));
        (told.map(|(jump, _)| jump), wall - belief.ahead_ns() - NOW)
    }

    #[test]
    fn a_jump_ahead_is_believed_when_it_has_stood_for_a_minute() {
        let mut belief = Belief::new(NOW, 0, false);
        assert_eq!(look(&mut belief, 10, 9 * SECOND), (None, 19 * SECOND));
        assert_eq!(look(&mut belief, 20, DAY), (Some(Jump::Doubted), 29 * SECOND));
        // Put back in time, it was never followed.
        assert_eq!(look(&mut belief, 50, DAY), (None, 59 * SECOND));
        assert_eq!(look(&mut belief, 60, 0), (None, 60 * SECOND));
        assert_eq!(look(&mut belief, 100, DAY), (Some(Jump::Doubted), 100 * SECOND));
        assert_eq!(look(&mut belief, 159, DAY), (None, 159 * SECOND));
        assert_eq!(look(&mut belief, 160, DAY), (Some(Jump::Believed), 160 * SECOND + DAY));
        assert_eq!(look(&mut belief, 170, DAY), (None, 170 * SECOND + DAY));
    }

    #[test]
    fn a_jump_of_ten_years_is_never_believed_and_told_once() {
        let mut belief = Belief::new(NOW, 0, false);
        assert_eq!(look(&mut belief, 10, 3650 * DAY), (Some(Jump::Refused), 10 * SECOND));
        for minutes in 1..1000 {
            let seconds = 10 + minutes * 60;
            assert_eq!(look(&mut belief, seconds, 3650 * DAY), (None, i64::try_from(seconds).unwrap() * SECOND));
        }
        assert_eq!(look(&mut belief, 70_000, 0), (None, 70_000 * SECOND));
    }

    #[test]
    fn a_clock_that_was_behind_the_store_may_catch_up_at_once_but_no_further_than_a_year() {
        // Started in 1970, as without a battery; then a time server is heard.
        let mut belief = Belief::new(0, 0, true);
        assert_eq!(belief.look(NOW + 30 * DAY, 5000, wall_hlc(NOW)).unwrap().0, Jump::Believed);
        assert_eq!(belief.ahead_ns(), 0);
        let mut belief = Belief::new(0, 0, true);
        assert_eq!(belief.look(NOW + 3650 * DAY, 5000, wall_hlc(NOW)).unwrap().0, Jump::Refused);
        assert_eq!(belief.ahead_ns(), NOW + 3650 * DAY - 5 * SECOND);
    }

    #[test]
    fn the_bound_is_raised_long_before_it_is_reached() {
        let bound = next_bound(NOW, Hlc::ZERO);
        assert!(!is_bound_near(NOW + 4 * MINUTE, bound) && is_bound_near(NOW + 6 * MINUTE, bound));
    }
}
