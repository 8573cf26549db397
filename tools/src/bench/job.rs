//! A job: what one section of a job file asks for, with fio's defaults where they make sense here.

use std::path::PathBuf;
use std::time::Duration;

/// What is read and written through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ioengine {
    /// The object store: a flat disk of extents, verified reads, durable syncs.
    Envoyfs,
    /// The bare device below it: the floor.
    Device,
}

impl Ioengine {
    /// As in a job file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Envoyfs => "envoyfs",
            Self::Device => "device",
        }
    }
}

/// Which way an IO goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From the disk.
    Read,
    /// To the disk.
    Write,
}

/// `rw=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Reads are made.
    pub reads: bool,
    /// Writes are made.
    pub writes: bool,
    /// At random places.
    pub random: bool,
}

impl Pattern {
    /// fio's names.
    pub fn parse(text: &str) -> Option<Self> {
        let (reads, writes, random) = match text {
            "read" => (true, false, false),
            "write" => (false, true, false),
            "rw" | "readwrite" => (true, true, false),
            "randread" => (true, false, true),
            "randwrite" => (false, true, true),
            "randrw" => (true, true, true),
            _ => return None,
        };
        Some(Self { reads, writes, random })
    }
}

/// Sizes of IOs in one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockSizes {
    /// `bs=`.
    Fixed(u32),
    /// `bsrange=`: any multiple of the smallest, each as likely.
    Range(u32, u32),
    /// `bssplit=`: size and percent.
    Split(Vec<(u32, u32)>),
}

impl BlockSizes {
    /// The smallest: what offsets are multiples of.
    pub fn least(&self) -> u32 {
        match self {
            Self::Fixed(bytes) | Self::Range(bytes, _) => *bytes,
            Self::Split(parts) => parts.iter().map(|(bytes, _)| *bytes).min().unwrap_or(4096),
        }
    }
    /// The largest.
    pub fn most(&self) -> u32 {
        match self {
            Self::Fixed(bytes) | Self::Range(_, bytes) => *bytes,
            Self::Split(parts) => parts.iter().map(|(bytes, _)| *bytes).max().unwrap_or(4096),
        }
    }
}

/// Where random IOs go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Everywhere alike; each block once before any twice, unless `norandommap`.
    Uniform,
    /// `zipf:x`.
    Zipf(f64),
    /// `pareto:x`.
    Pareto(f64),
}

/// `size=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Bytes.
    Bytes(u64),
    /// Of the disk.
    Percent(u32),
}

/// Logs for fio's plotting tools: prefixes of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logs {
    /// `write_bw_log=`.
    pub bandwidth: Option<String>,
    /// `write_lat_log=`.
    pub latency: Option<String>,
    /// `write_iops_log=`.
    pub iops: Option<String>,
    /// `log_avg_msec=`: one line for so long; `None`: one an IO.
    pub average: Option<Duration>,
}

impl Logs {
    /// Whether any is wanted.
    pub const fn any(&self) -> bool {
        self.bandwidth.is_some() || self.latency.is_some() || self.iops.is_some()
    }
}

/// See the module. Fields are named after fio's options.
#[derive(Clone, Debug)]
pub struct Job {
    /// Section, or `--name`.
    pub name: String,
    /// What is done.
    pub rw: Pattern,
    /// Sizes of reads.
    pub read_sizes: BlockSizes,
    /// Sizes of writes.
    pub write_sizes: BlockSizes,
    /// How much, and of how large a region; `None`: the whole disk.
    pub size: Option<Amount>,
    /// Where the region starts.
    pub offset: u64,
    /// How much further it starts for each clone of the job.
    pub offset_increment: u64,
    /// Device or image; `None`: an image of its own that is removed at the end.
    pub filename: Option<PathBuf>,
    /// `None`: both, in turns.
    pub ioengine: Option<Ioengine>,
    /// IOs under way.
    pub iodepth: u32,
    /// Clones.
    pub numjobs: u32,
    /// Longest run.
    pub runtime: Option<Duration>,
    /// Goes on from the start until the time is over.
    pub time_based: bool,
    /// Not counted at the beginning.
    pub ramp_time: Duration,
    /// Percent of reads in a mixed job.
    pub rwmixread: u32,
    /// Writes between two syncs; 0: never.
    pub fsync: u32,
    /// Where random IOs go.
    pub random_distribution: Distribution,
    /// Seed of all that is random.
    pub randseed: u64,
    /// A block may be met again before all have been.
    pub norandommap: bool,
    /// Writes carry a header and a checksum; reads check them.
    pub verify: bool,
    /// The first wrong block ends the job.
    pub verify_fatal: bool,
    /// Pause after each IO.
    pub thinktime: Duration,
    /// Most IOs a second of a clone, by direction; `None`: no limit.
    pub rate_iops: [Option<u32>; 2],
    /// Clones and jobs of one group are reported as one.
    pub group_reporting: bool,
    /// Starts when all before it have ended.
    pub stonewall: bool,
    /// Logs.
    pub logs: Logs,
    /// What the section says, for the report.
    pub given: Vec<(String, String)>,
}

impl Default for Job {
    fn default() -> Self {
        Self {
            name: String::new(),
            rw: Pattern { reads: true, writes: false, random: false },
            read_sizes: BlockSizes::Fixed(4096),
            write_sizes: BlockSizes::Fixed(4096),
            size: None,
            offset: 0,
            offset_increment: 0,
            filename: None,
            ioengine: None,
            iodepth: 1,
            numjobs: 1,
            runtime: None,
            time_based: false,
            ramp_time: Duration::ZERO,
            rwmixread: 50,
            fsync: 0,
            random_distribution: Distribution::Uniform,
            randseed: 0x89,
            norandommap: false,
            verify: false,
            verify_fatal: false,
            thinktime: Duration::ZERO,
            rate_iops: [None; 2],
            group_reporting: false,
            stonewall: false,
            logs: Logs::default(),
            given: Vec::new(),
        }
    }
}

impl Job {
    /// Reads that may have arrived and wait to be verified, beside the `iodepth` of them that the device has: who reads one block after the other knows what comes next before he has seen the last
    /// one. Who reads at random, or one at a time, may not.
    pub fn unverified_max(&self) -> u32 {
        if self.rw.writes || self.rw.random { 0 } else { self.iodepth / 2 }
    }

    /// Largest IO.
    pub fn block_most(&self) -> u32 {
        let of = |used: bool, sizes: &BlockSizes| if used { sizes.most() } else { 0 };
        of(self.rw.reads, &self.read_sizes).max(of(self.rw.writes, &self.write_sizes))
    }

    /// What offsets and lengths of this job are multiples of.
    pub fn block_least(&self) -> u32 {
        let of = |used: bool, sizes: &BlockSizes| if used { sizes.least() } else { u32::MAX };
        of(self.rw.reads, &self.read_sizes).min(of(self.rw.writes, &self.write_sizes))
    }

    /// Sizes of one direction.
    pub const fn sizes(&self, direction: Direction) -> &BlockSizes {
        match direction {
            Direction::Read => &self.read_sizes,
            Direction::Write => &self.write_sizes,
        }
    }
}
