//! One measurement: fill, overwrite, report.

use crate::analytic;
use crate::client::{Client, LEAF};
use crate::device::TimedDevice;
use crate::random::{Random, Skew};
use envoyfs_engine::format::{FormatOptions, format};
use envoyfs_engine::hlc::ManualClock;
use envoyfs_engine::store::Store;
use envoyfs_engine::{Closed, Engine, Occupancy, Options, Settings, StoreError, Use};
use std::sync::Arc;
use std::time::Duration;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Bytes of the store.
    pub size: u64,
    /// Bytes of a segment; by size if `None`.
    pub segment: Option<u32>,
    /// Live data in percent of the segment area.
    pub fill: u32,
    /// Live data includes the client's nodes.
    pub with_nodes: bool,
    /// 0: uniform; else the exponent of Zipf's law.
    pub zipf: f64,
    /// How often the segment area is written over.
    pub fulls: f64,
    /// Clones alive.
    pub clones: usize,
    /// Overwrites made durable, and reads, for the latencies; per million overwrites.
    pub samples: u32,
    /// Virtual time between overwrites.
    pub gap_ns: u64,
    pub seed: u64,
    /// Bytes of memory for segments' pages, and for slot maps.
    pub cache: u64,
    /// Print what happens.
    pub verbose: bool,
}

/// What came out. Amplifications are of the second half.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub data: f64,
    pub nodes: f64,
    pub pages: f64,
    pub tables_and_log: f64,
    pub victims_live: f64,
    /// p50, p99, p99.9 of durable overwrites and of reads, in virtual microseconds: fresh, then in steady cleaning.
    pub fresh_us: [f64; 6],
    pub steady_us: [f64; 6],
    pub stalls: u64,
    pub checkpoints: u64,
    /// How far classes of heat differ, in thousandths; see the engine's metric.
    pub heat_spread: u64,
    pub fifo: f64,
    pub separated: f64,
}

#[derive(Default)]
struct Counts {
    data: u64,
    moved: u64,
    moved_nodes: u64,
    nodes: u64,
    pages: u64,
    device: u64,
    victims: u64,
}

struct Run {
    device: TimedDevice,
    clock: Arc<ManualClock>,
    client: Client,
    clock_at: u64,
    stalls: u64,
    writes: Vec<u64>,
    reads: Vec<u64>,
    was_busy: bool,
    /// Sums over checkpoints: percent free, percent coming.
    before_checkpoints: [f64; 2],
}

impl Run {
    /// Brings the engine's clock to the device's time.
    fn tick(&mut self) {
        let now = self.device.now();
        self.clock.advance(Duration::from_nanos(now - self.clock_at));
        self.clock_at = now;
    }

    fn in_background<T>(&mut self, act: impl FnOnce(&mut Client) -> T) -> T {
        self.device.set_background(true);
        let out = act(&mut self.client);
        self.device.set_background(false);
        out
    }

    /// What the checkpointer's thread would do by now.
    fn background(&mut self) {
        self.was_busy = self.device.background_is_busy();
        if self.was_busy {
            return;
        }
        let due = self.in_background(|client| client.engine.wait_checkpoint(0));
        if due.is_some() {
            let it = self.client.engine.occupancy();
            self.before_checkpoints[0] += it.free as f64 * 100.0 / it.capacity as f64;
            self.before_checkpoints[1] += it.coming as f64 * 100.0 / it.capacity as f64;
            self.in_background(Client::checkpoint).unwrap();
        }
    }

    fn write(&mut self, block: usize, durable: bool) {
        let start = self.device.now();
        let mut tries = 0;
        let end = loop {
            match self.client.write(block) {
                Ok(Some(end)) => break end,
                Ok(None) => {}
                Err(error @ StoreError::NoSpace { .. }) if tries > 3 => {
                    panic!("{error}: {:?}", self.client.engine.usage())
                }
                Err(StoreError::NoSpace { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            // A writer who waits: for the background under way, and for the checkpoint that frees what it needs.
            tries += 1;
            self.stalls += 1;
            while self.device.background_is_busy() {
                self.device.pass(10_000);
            }
            self.in_background(Client::checkpoint).unwrap();
            while self.device.background_is_busy() {
                self.device.pass(10_000);
            }
        };
        if durable {
            self.client.engine.commit(end).unwrap();
            self.writes.push(self.device.now() - start);
        }
    }

    fn read(&mut self, block: usize) {
        let start = self.device.now();
        self.client.read(block).unwrap();
        self.reads.push(self.device.now() - start);
    }

    fn overwrite(&mut self, plan: &Plan, skew: &Skew, random: &mut Random, count: u64) {
        let every = 1_000_000 / u64::from(plan.samples.max(1));
        for n in 0..count {
            let sampled = n % every == 0;
            self.write(skew.draw(random), sampled);
            if n % every == every / 2 {
                self.read(random.below(self.client.len()));
            }
            self.device.pass(plan.gap_ns);
            self.tick();
            if n % 16 == 0 {
                self.background();
            }
            if n % 4096 == 0 {
                self.client.engine.pump().unwrap();
            }
        }
    }

    fn counts(&self) -> Counts {
        let metrics = self.client.engine.metrics();
        Counts {
            data: metrics.streams.data_bytes.get(),
            moved: metrics.cleaner.moved_data_bytes.get(),
            moved_nodes: metrics.cleaner.moved_bytes.get() - metrics.cleaner.moved_data_bytes.get(),
            nodes: metrics.streams.node_bytes.get() + metrics.streams.own_bytes.get(),
            pages: metrics.streams.page_bytes.get(),
            device: self.device.counters().0,
            victims: metrics.cleaner.victims.get(),
        }
    }

    fn latencies(&mut self) -> [f64; 6] {
        let of = |values: &mut Vec<u64>| {
            values.sort_unstable();
            let at = |share: f64| {
                values
                    .get(((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1)))
                    .map_or(0.0, |ns| *ns as f64 / 1000.0)
            };
            let out = [at(0.5), at(0.99), at(0.999)];
            values.clear();
            out
        };
        let [a, b, c] = of(&mut self.writes);
        let [d, e, f] = of(&mut self.reads);
        [a, b, c, d, e, f]
    }
}

/// Measures.
pub fn run(plan: &Plan) -> Report {
    let device = TimedDevice::new(plan.size);
    let now_ns = 1_700_000_000_000_000_000;
    let options = FormatOptions {
        label: "cleaning".into(),
        uuid: [7; 16],
        seed: [9; 16],
        now_ns,
        wal_bytes: None,
        segment_bytes: plan.segment,
        force: false,
        small: true,
    };
    let made = format(&device, &options).unwrap();
    let clock = Arc::new(ManualClock::new(now_ns));
    let as_clock: Arc<dyn envoyfs_engine::hlc::Clock> = Arc::<ManualClock>::clone(&clock);
    let options = Options {
        read_only: false,
        threads: false,
        accept_loss: false,
        clock: as_clock,
        settings: Settings { segment_cache_bytes: plan.cache, slot_map_bytes: plan.cache, ..Settings::default() },
    };
    let engine = Engine::open(Arc::new(device.clone()), options).unwrap();
    let per_block = if plan.with_nodes { 4096 + 4096 / LEAF as u64 } else { 4096 };
    let blocks = (made.capacity / 100 * u64::from(plan.fill) / per_block) as usize;
    let mut random = Random(plan.seed);
    let skew = Skew::new(blocks, plan.zipf, &mut random);
    let clock_at = device.now();
    #[expect(
        clippy::disallowed_methods,
        reason = "how long a run takes, for whoever waits for it; nothing depends on it"
    )]
    let began = std::time::Instant::now();
    let mut run = Run {
        client: Client::new(engine, blocks),
        device,
        clock,
        clock_at,
        stalls: 0,
        writes: Vec::new(),
        reads: Vec::new(),
        was_busy: false,
        before_checkpoints: [0.0; 2],
    };
    if plan.verbose {
        println!("{plan:?}\n{made:?}\n{blocks} blocks");
    }
    if plan.clones > 0 {
        run.client.make_clones(plan.clones).unwrap();
    }
    let every = (1_000_000 / u64::from(plan.samples.max(1))) as usize;
    // Fresh: written in an order that is as scattered as what follows.
    let step = (blocks / 2 * 2 + 1) / 3 * 2 + 1;
    for n in 0..blocks {
        let block = (n * step) % blocks;
        run.write(if gcd(step, blocks) == 1 { block } else { n }, n % every == 0);
        if n % every == every / 2 {
            run.read(n / 2);
        }
        run.device.pass(plan.gap_ns);
        run.tick();
        if n % 16 == 0 {
            run.background();
        }
        if n % 4096 == 0 {
            run.client.engine.pump().unwrap();
        }
    }
    run.client.checkpoint().unwrap();
    let mut report = Report { fresh_us: run.latencies(), ..Report::default() };
    if plan.verbose {
        println!("filled: {:?} us; {}", report.fresh_us, percents(&run.client.engine.occupancy()));
    }
    let total = (plan.fulls * made.capacity as f64 / 4096.0) as u64;
    run.stalls = 0;
    let mut half = run.counts();
    let parts = ((plan.fulls * 2.0) as u64).max(4);
    for part in 0..parts {
        let (before, checkpoints) = (run.counts(), run.client.checkpoints);
        if part == parts / 2 {
            half = run.counts();
            run.latencies();
        }
        run.overwrite(plan, &skew, &mut random, total / parts);
        if plan.verbose {
            let after = run.counts();
            let share = |a: u64, b: u64| (a - b) as f64 / (after.data - before.data) as f64;
            println!(
                "{:5.2} fulls: data {:.3} nodes {:.3} pages {:.3} device {:.3}; {} checkpoints, {} stalls, {} victims, virtual {:.1} s, wall {:.0} s",
                (part + 1) as f64 * plan.fulls / parts as f64,
                1.0 + share(after.moved, before.moved),
                share(after.nodes + after.moved_nodes, before.nodes + before.moved_nodes),
                share(after.pages, before.pages),
                share(after.device, before.device),
                run.client.checkpoints,
                run.stalls,
                after.victims - before.victims,
                run.device.now() as f64 / 1e9,
                began.elapsed().as_secs_f64(),
            );
            let due = &run.client.engine.metrics().checkpoint;
            println!(
                "             {}; spread of heat {}; checkpoints so far for space {}, log {}; before this part's: free {:.2}, coming {:.2}",
                percents(&run.client.engine.occupancy()),
                run.client.engine.metrics().cleaner.heat_spread.get(),
                due.due_for_space.get(),
                due.due_for_log.get(),
                run.before_checkpoints[0] / (run.client.checkpoints - checkpoints) as f64,
                run.before_checkpoints[1] / (run.client.checkpoints - checkpoints) as f64,
            );
            run.before_checkpoints = [0.0; 2];
            println!("             {}", ages(&run.client.engine.closed_containers(), made.segment_bytes / 512));
        }
    }
    let after = run.counts();
    let data = (after.data - half.data) as f64;
    report.data = 1.0 + (after.moved - half.moved) as f64 / data;
    report.nodes = (after.nodes + after.moved_nodes - half.nodes - half.moved_nodes) as f64 / data;
    report.pages = (after.pages - half.pages) as f64 / data;
    report.tables_and_log = (after.device - half.device) as f64 / data - report.data - report.nodes - report.pages;
    let victims = (after.victims - half.victims).max(1) as f64;
    let moved = after.moved + after.moved_nodes - half.moved - half.moved_nodes;
    report.victims_live = moved as f64 / victims / f64::from(made.segment_bytes);
    report.steady_us = run.latencies();
    report.stalls = run.stalls;
    report.checkpoints = run.client.checkpoints;
    report.heat_spread = run.client.engine.metrics().cleaner.heat_spread.get();
    report.fifo = analytic::fifo(f64::from(plan.fill) / 100.0);
    report.separated = analytic::separated(blocks, plan.zipf, f64::from(plan.fill) / 100.0, 16);
    for block in (0..blocks).step_by(97) {
        run.client.read(block).unwrap();
    }
    assert_eq!(run.client.engine.check_space(), Vec::<String>::new());
    report
}

fn percents(use_of: &Occupancy) -> String {
    let of = |bytes: u64| bytes as f64 * 100.0 / use_of.capacity as f64;
    let both = |part: &Use| format!("{:.2} ({:.2} live)", of(part.bytes), of(part.live));
    format!(
        "of the area: free {:.2}, coming {:.2}, open {}, pages {}, nodes {}, data {}",
        of(use_of.free),
        of(use_of.coming),
        both(&use_of.open),
        both(&use_of.pages),
        both(&use_of.nodes),
        both(&use_of.data),
    )
}

/// Closed containers of data, the oldest first, in ten parts: age, share used, share live, share that are survivors.
fn ages(closed: &[Closed], units: u32) -> String {
    let mut data: Vec<&Closed> = closed.iter().filter(|it| it.stream != 0).collect();
    data.sort_by_key(|it| std::cmp::Reverse(it.age));
    let part = |part: &[&Closed]| {
        let mean = |of: &dyn Fn(&Closed) -> f64| part.iter().map(|it| of(it)).sum::<f64>() / part.len() as f64;
        let share = |value: u32| f64::from(value) * 100.0 / f64::from(units);
        format!(
            "{:.0}: {:.1} {:.0} ({:.0})",
            mean(&|it| it.age as f64),
            mean(&|it| share(it.used_units)),
            mean(&|it| share(it.live_units)),
            mean(&|it| f64::from(u8::from(it.survivors)) * 100.0)
        )
    };
    let young = |survivors: bool| {
        let found: Vec<&Closed> = data.iter().rev().filter(|it| it.survivors == survivors).take(40).copied().collect();
        part(&found)
    };
    let (writes, survivors) = (young(false), young(true));
    let parts: Vec<String> = data.chunks(data.len().div_ceil(10).max(1)).map(part).collect();
    format!(
        "age: % used, live (survivors) by tenths: {}; youngest 40 of writes {writes}, of survivors {survivors}",
        parts.join(", ")
    )
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
