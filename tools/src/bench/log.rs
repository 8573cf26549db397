//! `write_bw_log`, `write_lat_log`, `write_iops_log`: files that fio's plotting tools read.
//!
//! A line is `milliseconds, value, direction, block size, priority` as fio 3.33 writes it; direction 0 reads, 1 writes, priority 0. Bandwidth in KiB/s, latencies in nanoseconds. With `log_avg_msec` a line is the average of
//! so long, and the block size is 0.

use super::job::{Direction, Logs};
use super::pattern::Io;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// Lines of one log kept in memory; what is more is dropped, and said.
const LINES_MAX: usize = 4 << 20;

#[derive(Clone, Copy, Default)]
struct Sums {
    ios: u64,
    bytes: u64,
    submission: u64,
    completion: u64,
}

/// Collects one clone's log.
#[derive(Default)]
pub struct Recorder {
    wanted: bool,
    average: Option<Duration>,
    /// The window that is being summed up, by direction.
    sums: [Sums; 2],
    window: u64,
    lines: Vec<Line>,
    dropped: u64,
}

#[derive(Clone, Copy)]
struct Line {
    ms: u64,
    direction: u8,
    block: u32,
    kib_per_second: u64,
    iops: u64,
    submission: u64,
    completion: u64,
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Recorder {
    /// Collects if any log is wanted.
    pub fn new(logs: &Logs) -> Self {
        Self { wanted: logs.any(), average: logs.average, ..Self::default() }
    }

    /// An IO that is done, so long after the start of the job.
    pub fn record(&mut self, at: Duration, io: &Io, submission: Duration, completion: Duration) {
        if !self.wanted {
            return;
        }
        let (submission, completion) = (nanoseconds(submission), nanoseconds(completion));
        let direction = u8::from(io.direction == Direction::Write);
        let Some(average) = self.average else {
            let spent = (submission + completion).max(1);
            let line = Line {
                ms: milliseconds(at),
                direction,
                block: io.bytes,
                kib_per_second: u64::from(io.bytes).saturating_mul(1_000_000_000) / spent / 1024,
                iops: 1,
                submission,
                completion,
            };
            return self.push(line);
        };
        let window = u64::try_from(at.as_nanos() / average.as_nanos().max(1)).unwrap_or(u64::MAX);
        if window > self.window {
            self.close(average);
            self.window = window;
        }
        if let Some(sums) = self.sums.get_mut(usize::from(direction)) {
            sums.ios += 1;
            sums.bytes += u64::from(io.bytes);
            sums.submission += submission;
            sums.completion += completion;
        }
    }

    fn close(&mut self, average: Duration) {
        let width = milliseconds(average).max(1);
        for (direction, sums) in (0..).zip(std::mem::take(&mut self.sums)) {
            if sums.ios > 0 {
                self.push(Line {
                    ms: (self.window + 1) * width,
                    direction,
                    block: 0,
                    kib_per_second: sums.bytes * 1000 / width / 1024,
                    iops: sums.ios * 1000 / width,
                    submission: sums.submission / sums.ios,
                    completion: sums.completion / sums.ios,
                });
            }
        }
    }

    fn push(&mut self, line: Line) {
        if self.lines.len() < LINES_MAX {
            self.lines.push(line);
        } else {
            self.dropped += 1;
        }
    }

    /// Writes the logs of clone `number` (from 1). Returns the files' names.
    ///
    /// # Errors
    /// What writing a file reports.
    pub fn write(mut self, logs: &Logs, number: usize) -> std::io::Result<Vec<PathBuf>> {
        if let Some(average) = self.average {
            self.close(average);
        }
        if self.dropped > 0 {
            crate::output::error(format_args!(
                "envoyfs bench: {} log lines more than memory is given to were dropped; use log_avg_msec",
                self.dropped
            ));
        }
        type Value = fn(&Line) -> u64;
        let latency = |name| logs.latency.as_ref().map(|prefix| (prefix, name));
        let files: [(Option<(&String, &str)>, Value); 5] = [
            (logs.bandwidth.as_ref().map(|prefix| (prefix, "bw")), |line| line.kib_per_second),
            (logs.iops.as_ref().map(|prefix| (prefix, "iops")), |line| line.iops),
            (latency("slat"), |line| line.submission),
            (latency("clat"), |line| line.completion),
            (latency("lat"), |line| line.submission + line.completion),
        ];
        let mut paths = Vec::new();
        for (file, value) in files {
            let Some((prefix, name)) = file else { continue };
            let mut text = String::new();
            for line in &self.lines {
                let Line { ms, direction, block, .. } = line;
                // A string does not refuse.
                let _ = writeln!(text, "{ms}, {}, {direction}, {block}, 0", value(line));
            }
            let path = PathBuf::from(format!("{prefix}_{name}.{number}.log"));
            std::fs::write(&path, text)?;
            paths.push(path);
        }
        Ok(paths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io(direction: Direction) -> Io {
        Io { direction, offset: 8192, bytes: 4096 }
    }

    #[test]
    fn averages_are_those_of_their_window_and_the_last_one_is_not_lost() {
        let directory = tempfile::tempdir().unwrap();
        let prefix = directory.path().join("x").display().to_string();
        let logs = Logs {
            bandwidth: Some(prefix.clone()),
            latency: Some(prefix.clone()),
            iops: None,
            average: Some(Duration::from_millis(100)),
        };
        let mut recorder = Recorder::new(&logs);
        for (ms, completion) in [(10, 100), (20, 300), (110, 500)] {
            let (at, took) = (Duration::from_millis(ms), Duration::from_nanos(completion));
            recorder.record(at, &io(Direction::Read), Duration::ZERO, took);
        }
        let files = recorder.write(&logs, 1).unwrap();
        let read = |name: &str| std::fs::read_to_string(format!("{prefix}_{name}.1.log")).unwrap();
        assert_eq!(read("clat"), "100, 200, 0, 0, 0\n200, 500, 0, 0, 0\n");
        assert_eq!(read("bw"), "100, 80, 0, 0, 0\n200, 40, 0, 0, 0\n");
        assert_eq!(files.len(), 4);
    }

    #[test]
    fn without_an_average_every_io_has_its_line() {
        let directory = tempfile::tempdir().unwrap();
        let prefix = directory.path().join("y").display().to_string();
        let logs = Logs { latency: Some(prefix.clone()), ..Logs::default() };
        let mut recorder = Recorder::new(&logs);
        recorder.record(
            Duration::from_millis(7),
            &io(Direction::Write),
            Duration::from_nanos(5),
            Duration::from_nanos(20),
        );
        recorder.write(&logs, 3).unwrap();
        assert_eq!(std::fs::read_to_string(format!("{prefix}_lat.3.log")).unwrap(), "7, 25, 1, 4096, 0\n");
    }
}
