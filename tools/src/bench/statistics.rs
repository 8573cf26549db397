//! What is counted while a job runs, and how parts are added up: clones, rounds, directions.

use super::job::{Direction, Job};
use hdrhistogram::Histogram;
use std::time::Duration;

/// Width of the samples of bandwidth and IOPS, as in fio.
pub const SAMPLE: Duration = Duration::from_millis(500);
/// Longest latency told apart: 1000 s.
const LATENCY_NS_MAX: u64 = 1_000_000_000_000;
/// What a histogram takes.
pub const HISTOGRAM_BYTES: u64 = 256 << 10;

/// Nanoseconds: count, extremes, moments, and a histogram with three digits.
#[derive(Clone, Debug)]
pub struct Latencies {
    /// Made when there is something to count: it is large, and a clone has many.
    histogram: Option<Histogram<u64>>,
    has_percentiles: bool,
    /// How many.
    pub count: u64,
    least: u64,
    most: u64,
    sum: u128,
    squares: u128,
}

impl Latencies {
    /// Without a histogram: no percentiles.
    pub const fn moments() -> Self {
        Self { histogram: None, has_percentiles: false, count: 0, least: u64::MAX, most: 0, sum: 0, squares: 0 }
    }

    /// With a histogram.
    pub fn with_histogram() -> Self {
        Self { has_percentiles: true, ..Self::moments() }
    }

    fn histogram(&mut self) -> Option<&mut Histogram<u64>> {
        if self.has_percentiles && self.histogram.is_none() {
            self.histogram = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).ok();
        }
        self.histogram.as_mut()
    }

    /// Counts one.
    pub fn record(&mut self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.count += 1;
        self.least = self.least.min(ns);
        self.most = self.most.max(ns);
        self.sum += u128::from(ns);
        self.squares += u128::from(ns) * u128::from(ns);
        if let Some(histogram) = self.histogram() {
            histogram.saturating_record(ns);
        }
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.least = self.least.min(other.least);
        self.most = self.most.max(other.most);
        self.sum += other.sum;
        self.squares += other.squares;
        if let Some(other) = &other.histogram
            && let Some(own) = self.histogram()
        {
            // Both have the same bounds.
            let _ = own.add(other);
        }
    }

    /// Smallest; 0 if there is none.
    pub const fn least(&self) -> u64 {
        if self.count == 0 { 0 } else { self.least }
    }
    /// Largest.
    pub const fn most(&self) -> u64 {
        self.most
    }
    /// Average; 0 if there is none.
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { wide(self.sum) / float(self.count) }
    }
    /// Of a sample.
    pub fn deviation(&self) -> f64 {
        if self.count < 2 {
            return 0.0;
        }
        let (n, sum) = (float(self.count), wide(self.sum));
        ((wide(self.squares) - sum * sum / n) / (n - 1.0)).max(0.0).sqrt()
    }
    /// At a percentile; `None` without a histogram or a value.
    pub fn at(&self, percentile: f64) -> Option<u64> {
        let histogram = self.histogram.as_ref().filter(|_| self.count > 0)?;
        Some(histogram.value_at_percentile(percentile).min(self.most))
    }
    /// Nanoseconds, told apart to a thousandth, and how many there were of each that there was; in order.
    pub fn counts(&self) -> impl Iterator<Item = (u64, u64)> {
        let recorded = self.histogram.iter().flat_map(Histogram::iter_recorded);
        recorded.map(|bin| (bin.value_iterated_to(), bin.count_at_value()))
    }
    /// How many were at most `ns`.
    pub fn up_to(&self, ns: u64) -> u64 {
        self.histogram.as_ref().map_or(0, |histogram| histogram.count_between(0, ns))
    }
}

/// Largest integers that occur are far below 2^52.
#[expect(clippy::cast_precision_loss, reason = "see above")]
pub fn float(count: u64) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "sums of nanoseconds: the lost digits are those of a picosecond")]
fn wide(sum: u128) -> f64 {
    sum as f64
}

/// Bytes and IOs of a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Bytes.
    pub bytes: u64,
    /// IOs.
    pub ios: u64,
    /// What there is of it, where a round ended before a whole one.
    part: Option<Duration>,
}

impl Window {
    /// Its width.
    pub fn seconds(&self) -> f64 {
        self.part.unwrap_or(SAMPLE).as_secs_f64()
    }

    fn add_beside(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.ios += other.ios;
        self.part = self.part.zip(other.part).map(|(own, other)| own.max(other));
    }
}

/// Reads, or writes.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Bytes moved.
    pub bytes: u64,
    /// IOs.
    pub ios: u64,
    /// From the call to its return.
    pub submission: Latencies,
    /// From there to the completion.
    pub completion: Latencies,
    /// Both.
    pub total: Latencies,
    /// By [`SAMPLE`] since the start.
    pub windows: Vec<Window>,
}

impl Flow {
    fn new() -> Self {
        Self {
            bytes: 0,
            ios: 0,
            submission: Latencies::moments(),
            completion: Latencies::with_histogram(),
            total: Latencies::with_histogram(),
            windows: Vec::new(),
        }
    }

    fn record(&mut self, since_start: Duration, bytes: u32, submission: Duration, completion: Duration) {
        self.bytes += u64::from(bytes);
        self.ios += 1;
        self.submission.record(submission);
        self.completion.record(completion);
        self.total.record(submission + completion);
        let index = usize::try_from(since_start.as_nanos() / SAMPLE.as_nanos()).unwrap_or(usize::MAX);
        if index >= self.windows.len() && index < 1 << 20 {
            self.windows.resize(index + 1, Window::default());
        }
        if let Some(window) = self.windows.get_mut(index) {
            window.bytes += u64::from(bytes);
            window.ios += 1;
        }
    }

    fn add(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.ios += other.ios;
        self.submission.add(&other.submission);
        self.completion.add(&other.completion);
        self.total.add(&other.total);
    }

    /// Clones at the same time: windows are added one by one.
    fn add_beside(&mut self, other: &Self) {
        self.add(other);
        if self.windows.len() < other.windows.len() {
            self.windows.resize(other.windows.len(), Window::default());
        }
        self.windows.iter_mut().zip(&other.windows).for_each(|(own, other)| own.add_beside(other));
    }

    /// Another round: its windows come behind. The last of each round is not a whole one.
    fn add_behind(&mut self, other: &Self) {
        self.add(other);
        self.windows.extend(&other.windows);
    }

    /// Forgets the last window, which is not a whole one, unless it is the only one: that is as long as the round.
    fn end_round(&mut self, runtime: Duration) {
        match &mut self.windows[..] {
            [] => {}
            [only] => only.part = Some(runtime).filter(|runtime| !runtime.is_zero() && *runtime < SAMPLE),
            _ => drop(self.windows.pop()),
        }
    }
}

/// Upper bounds of the classes of depth, submit and complete in fio's report.
pub const BATCHES: usize = 7;

/// All that one clone, or several together, did.
#[derive(Clone, Debug)]
pub struct Statistics {
    /// Reads.
    pub read: Flow,
    /// Writes.
    pub write: Flow,
    /// Syncs.
    pub sync: Latencies,
    /// IOs by the depth at which they were submitted: 1, 2, 4, 8, 16, 32, more.
    pub depths: [u64; BATCHES],
    /// Calls by the number of IOs submitted: 0, 4, 8, 16, 32, 64, more.
    pub submits: [u64; BATCHES],
    /// Calls by the number of IOs completed.
    pub completes: [u64; BATCHES],
    /// Elapsed.
    pub runtime: Duration,
    /// Processor time in user mode of the process while this ran, by number of clones running.
    pub user: Duration,
    /// In the kernel.
    pub system: Duration,
    /// Context switches.
    pub switches: u64,
    /// Major faults.
    pub major_faults: u64,
    /// Minor faults.
    pub minor_faults: u64,
    /// Blocks that were not what had been written.
    pub wrong: u64,
    /// Of these, blocks that carry no header at all.
    pub headerless: u64,
    /// Why it ended early.
    pub error: Option<String>,
}

impl Default for Statistics {
    fn default() -> Self {
        Self {
            read: Flow::new(),
            write: Flow::new(),
            sync: Latencies::with_histogram(),
            depths: [0; BATCHES],
            submits: [0; BATCHES],
            completes: [0; BATCHES],
            runtime: Duration::ZERO,
            user: Duration::ZERO,
            system: Duration::ZERO,
            switches: 0,
            major_faults: 0,
            minor_faults: 0,
            wrong: 0,
            headerless: 0,
            error: None,
        }
    }
}

impl Statistics {
    /// Reads or writes.
    pub const fn flow(&self, direction: Direction) -> &Flow {
        match direction {
            Direction::Read => &self.read,
            Direction::Write => &self.write,
        }
    }

    /// Why the job failed, if it did.
    pub fn failure(&self) -> Option<String> {
        let wrong = (self.wrong > 0).then(|| {
            let none = if self.headerless == self.wrong {
                "; none has a header of verify: it was written without, or elsewhere (a job without ioengine has a half of the file for each)"
            } else {
                ""
            };
            format!("{} blocks were not what was written{none}", self.wrong)
        });
        self.error.clone().or(wrong)
    }

    /// Counts an IO that is done.
    pub fn record(
        &mut self,
        direction: Direction,
        since_start: Duration,
        bytes: u32,
        submission: Duration,
        completion: Duration,
    ) {
        let flow = match direction {
            Direction::Read => &mut self.read,
            Direction::Write => &mut self.write,
        };
        flow.record(since_start, bytes, submission, completion);
    }

    /// Counts a call that submitted so many IOs, and how many are under way after it.
    pub fn submitted(&mut self, count: usize, depth: usize) {
        let class = (usize::BITS - 1 - depth.max(1).leading_zeros()) as usize;
        if let Some(ios) = self.depths.get_mut(class.min(BATCHES - 1)) {
            *ios += count as u64;
        }
        bump(&mut self.submits, count);
    }

    /// Counts a call that completed so many.
    pub fn completed(&mut self, count: usize) {
        bump(&mut self.completes, count);
    }

    /// Forgets all IOs so far, but not what was wrong with them.
    pub fn end_ramp(&mut self) {
        let (wrong, headerless, error) = (self.wrong, self.headerless, self.error.take());
        *self = Self { wrong, headerless, error, ..Self::default() };
    }

    /// Ends a round, whose runtime is known.
    pub fn end_round(&mut self) {
        self.read.end_round(self.runtime);
        self.write.end_round(self.runtime);
    }

    /// Adds a clone that ran at the same time.
    pub fn add_beside(&mut self, other: &Self) {
        self.read.add_beside(&other.read);
        self.write.add_beside(&other.write);
        self.runtime = self.runtime.max(other.runtime);
        self.add(other);
    }

    /// Adds a round that ran afterwards.
    pub fn add_behind(&mut self, other: &Self) {
        self.read.add_behind(&other.read);
        self.write.add_behind(&other.write);
        self.runtime += other.runtime;
        self.add(other);
    }

    fn add(&mut self, other: &Self) {
        self.sync.add(&other.sync);
        for (own, other) in [
            (&mut self.depths, &other.depths),
            (&mut self.submits, &other.submits),
            (&mut self.completes, &other.completes),
        ] {
            own.iter_mut().zip(other).for_each(|(own, other)| *own += other);
        }
        self.user += other.user;
        self.system += other.system;
        self.switches += other.switches;
        self.major_faults += other.major_faults;
        self.minor_faults += other.minor_faults;
        self.wrong += other.wrong;
        self.headerless += other.headerless;
        if self.error.is_none() {
            self.error.clone_from(&other.error);
        }
    }
}

fn bump(classes: &mut [u64; BATCHES], count: usize) {
    let class = match count {
        0 => 0,
        1..=4 => 1,
        5..=8 => 2,
        9..=16 => 3,
        17..=32 => 4,
        33..=64 => 5,
        _ => 6,
    };
    if let Some(class) = classes.get_mut(class) {
        *class += 1;
    }
}

/// A line of the report: a job, or the jobs of a group with `group_reporting`, through one engine.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The (first) job.
    pub job: Job,
    /// Name of the engine it went through.
    pub engine: &'static str,
    /// Jobs that ran at the same time have the same.
    pub group: u32,
    /// Clones in it.
    pub clones: u32,
    /// What they did.
    pub statistics: Statistics,
}

impl Entry {
    /// IOs a second.
    pub fn iops(&self, direction: Direction) -> f64 {
        let seconds = self.statistics.runtime.as_secs_f64();
        if seconds > 0.0 { float(self.statistics.flow(direction).ios) / seconds } else { 0.0 }
    }
    /// Bytes a second.
    pub fn bandwidth(&self, direction: Direction) -> f64 {
        let seconds = self.statistics.runtime.as_secs_f64();
        if seconds > 0.0 { float(self.statistics.flow(direction).bytes) / seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_percentiles_of_parts_add_up_to_those_of_the_whole() {
        let (mut whole, mut left, mut right) =
            (Latencies::with_histogram(), Latencies::with_histogram(), Latencies::with_histogram());
        for ns in 1..=1000_u64 {
            let took = Duration::from_nanos(ns * 1000);
            whole.record(took);
            if ns % 3 == 0 { left.record(took) } else { right.record(took) }
        }
        left.add(&right);
        for of in [&whole, &left] {
            assert_eq!((of.count, of.least(), of.most()), (1000, 1000, 1_000_000));
            assert!((of.mean() - 500_500.0).abs() < 1e-6, "{}", of.mean());
            assert!((of.deviation() - 288_819.4).abs() < 0.1, "{}", of.deviation());
            let at = of.at(99.0).unwrap();
            assert!((989_000..=991_000).contains(&at), "{at}");
            assert!(of.up_to(500_000).abs_diff(500) <= 1);
        }
        assert_eq!(Latencies::with_histogram().at(50.0), None);
        assert_eq!(Latencies::moments().least(), 0);
    }

    #[test]
    fn clones_add_in_the_same_window_and_rounds_behind() {
        let mut one = Statistics::default();
        let ms = Duration::from_millis;
        for at in [100, 600, 1100] {
            one.record(Direction::Read, ms(at), 4096, ms(0), ms(1));
        }
        one.runtime = ms(1200);
        let mut clones = one.clone();
        clones.add_beside(&one);
        assert_eq!((clones.read.windows.len(), clones.read.windows[0].ios, clones.runtime), (3, 2, ms(1200)));
        let mut rounds = one.clone();
        rounds.end_round();
        rounds.add_behind(&one);
        assert_eq!((rounds.read.windows.len(), rounds.read.windows[0].ios, rounds.runtime), (5, 1, ms(2400)));
        assert_eq!((clones.read.ios, rounds.read.ios), (6, 6));
    }

    #[test]
    fn the_only_window_of_a_short_round_is_as_long_as_the_round() {
        let ms = Duration::from_millis;
        let mut short = Statistics { runtime: ms(125), ..Statistics::default() };
        short.record(Direction::Read, ms(100), 4096, ms(0), ms(1));
        short.end_round();
        let rate = |of: &Statistics| float(of.read.windows[0].ios) / of.read.windows[0].seconds();
        assert!((rate(&short) - 8.0).abs() < 1e-9, "{}", rate(&short));
        let mut clones = short.clone();
        clones.add_beside(&short);
        assert!((rate(&clones) - 16.0).abs() < 1e-9, "{}", rate(&clones));
        let mut whole = Statistics { runtime: ms(700), ..Statistics::default() };
        whole.record(Direction::Read, ms(100), 4096, ms(0), ms(1));
        whole.end_round();
        assert!((rate(&whole) - 2.0).abs() < 1e-9, "{}", rate(&whole));
    }

    #[test]
    fn depths_fall_into_the_classes_of_the_report() {
        let mut statistics = Statistics::default();
        for (count, depth) in [(1, 1), (2, 2), (1, 3), (4, 4), (5, 31), (64, 64), (65, 500)] {
            statistics.submitted(count, depth);
        }
        assert_eq!(statistics.depths, [1, 3, 4, 0, 5, 0, 129]);
        assert_eq!(statistics.submits, [0, 4, 1, 0, 0, 1, 1]);
    }
}
