//! Power cuts at *every* IO of a history, at every IO of the recovery from each, and at every IO of the recovery from that.
//!
//! ```text
//! history --cut--> image --recovery 1--cut--> image --recovery 2--cut--> image --recovery 3 --> compared
//! ```
//!
//! At each depth the recovered contents are compared with the history: a prefix that holds everything acknowledged before the first cut; and a recovery that was interrupted
//! leads to the same end as the one that was not (INV-18, INV-20, INV-21). An image that was seen before, at the same depth or a lower one, with the same duty, is not tried again: most cuts
//! leave what another one left.

use crate::client::Client;
use crate::device::{CrashImages, DeviceImage, RecordingDevice, SimulatedDevice};
use crate::history::{Recorded, mount};
use crate::hlc::ManualClock;
use crate::store::Store as _;
use envoyfs_layout::Lsn;
use std::collections::HashMap;
use std::sync::Arc;

/// How far a search goes.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    /// Recoveries that may be cut: 0 cuts the history only.
    pub nested: u32,
    /// Random fates of what is at risk at every cut, beside "all of it is gone".
    pub fates: u64,
    /// Recoveries after which the search ends, complete or not.
    pub recoveries_max: u64,
}

/// What a search did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// Cuts of the history.
    pub cuts: u64,
    /// Recoveries that were run and compared, by the number of cut recoveries before them.
    pub recoveries: [u64; 4],
    /// Images not tried again.
    pub known: u64,
    /// Objects that recoveries found elsewhere, since their write had failed.
    pub moved: u64,
    /// Containers that recoveries kept for such an object alone.
    pub placed_behind: u64,
    /// The search ended before everything was tried.
    pub cut_short: bool,
}

impl Found {
    /// All recoveries.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.recoveries.iter().sum()
    }
    /// Adds another search.
    pub fn add(&mut self, other: &Self) {
        self.cuts += other.cuts;
        self.recoveries.iter_mut().zip(other.recoveries).for_each(|(sum, more)| *sum += more);
        self.known += other.known;
        self.moved += other.moved;
        self.placed_behind += other.placed_behind;
        self.cut_short |= other.cut_short;
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [first, second, third, fourth] = self.recoveries;
        write!(
            f,
            "{} cuts; recoveries after 1, 2, 3, 4 cuts: {first} {second} {third} {fourth}; {} images known before",
            self.cuts, self.known
        )?;
        if self.moved > 0 {
            write!(f, "; {} objects found elsewhere, {} containers kept for them", self.moved, self.placed_behind)?;
        }
        if self.cut_short { write!(f, "; NOT COMPLETE") } else { Ok(()) }
    }
}

/// A duty: what the recovery of an image must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Duty {
    /// At least this.
    AtLeast(Lsn),
    /// The changes up to this: another recovery found them already.
    Exactly(Lsn),
}

struct Search<'a> {
    recorded: &'a Recorded,
    reach: Reach,
    /// Image and duty: the least number of cut recoveries before it.
    seen: HashMap<(u64, Duty), u32>,
    found: Found,
}

/// Searches the cuts `part` of `parts` of a history; the parts together are all of it.
///
/// # Panics
/// When a recovery finds what it must not; the message says how to come back there.
#[must_use]
pub fn explore(recorded: &Recorded, reach: Reach, part: usize, parts: usize) -> Found {
    let mut images = recorded.images();
    let mut search = Search { recorded, reach, seen: HashMap::new(), found: Found::default() };
    // Neighbouring cuts leave the same images: each part takes a run of them.
    let positions = images.positions() + 1;
    for position in positions * part / parts..positions * (part + 1) / parts {
        search.found.cuts += 1;
        let duty = Duty::AtLeast(recorded.acknowledged(position));
        search.all_fates(&mut images, position, duty, 0, &mut Vec::new());
    }
    search.found
}

impl Search<'_> {
    fn all_fates(&mut self, images: &mut CrashImages, position: usize, duty: Duty, depth: u32, path: &mut Vec<String>) {
        let fates = match images.at_risk(position) {
            0 => 0,
            _ => self.reach.fates,
        };
        for fate in 0..=fates {
            if self.found.total() >= self.reach.recoveries_max {
                self.found.cut_short = true;
                return;
            }
            let image = if fate == 0 {
                images.durable_at(position)
            } else {
                images.at(position, fate * 7919 + position as u64)
            };
            path.push(format!("cut {position} fate {fate}"));
            self.recover(image, duty, depth, path);
            path.pop();
        }
    }

    fn recover(&mut self, image: DeviceImage, duty: Duty, depth: u32, path: &mut Vec<String>) {
        let key = (image.fingerprint(), duty);
        match self.seen.get_mut(&key) {
            Some(before) if *before <= depth => {
                self.found.known += 1;
                return;
            }
            Some(before) => *before = depth,
            None => drop(self.seen.insert(key, depth)),
        }
        self.found.recoveries[depth as usize] += 1;
        let shape = &self.recorded.shape;
        let device = RecordingDevice::new(SimulatedDevice::from_image(image.clone(), shape.block, 1).slow(shape.slow));
        let recording = device.recording();
        // Every recovery at the same time: what it writes follows from the image alone.
        let clock = Arc::new(ManualClock::new(self.recorded.now_ns));
        let engine = mount(Arc::new(device), &clock).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        assert_eq!(engine.read_only(), "", "{path:?}");
        let recovery_metrics = &engine.metrics().recovery;
        self.found.moved += recovery_metrics.moved.get();
        self.found.placed_behind += recovery_metrics.placed_behind.get();
        let client = Client::start(engine, clock);
        let end = client.engine.recovered_end();
        let end = match duty {
            Duty::AtLeast(least) => {
                assert!(end >= least, "{path:?}: {end:?} recovered, {least:?} acknowledged (INV-18)");
                end
            }
            Duty::Exactly(exactly) => {
                // Behind it may stand what the interrupted mount said of a checkpoint that had no record, and nothing else.
                assert!(end >= exactly, "{path:?}: {end:?}, an interrupted recovery found {exactly:?} (INV-21)");
                exactly
            }
        };
        let want = self.recorded.at(end).unwrap_or_else(|| panic!("{path:?}: recovered {end:?}, before the history"));
        assert_eq!(&client.logical(), want, "{path:?}: recovered {end:?}");
        self.check_retained(&client, path);
        let recovery = recording.len();
        self.serve(client, key.0, path);
        if depth < self.reach.nested {
            let mut images = CrashImages::new(image, &recording).expect("a recording in memory");
            for position in 0..=recovery {
                self.all_fates(&mut images, position, Duty::Exactly(end), depth + 1, path);
            }
        }
    }

    /// The checkpoints that were retained with the recovered one are there, with what was in them (INV-31).
    fn check_retained(&self, client: &Client, path: &[String]) {
        let last = client.engine.usage().checkpoint;
        let roots = client.engine.history().unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let list: Vec<u64> = roots.iter().map(|root| root.checkpoint).collect();
        if let Some(want) = self.recorded.lists.get(&last) {
            assert_eq!(&list, want, "{path:?}: retained with checkpoint {last} (INV-31)");
        }
        for root in &roots {
            let (Some(want), Some(top)) = (self.recorded.retained.get(&root.checkpoint), root.roots.references.first())
            else {
                continue;
            };
            let number = root.checkpoint;
            assert_eq!(&client.read_root(*top), want, "{path:?}: retained checkpoint {number} (INV-31)");
        }
    }

    /// Now and then the store must also serve: operations, checkpoints, and exact counts at the end.
    fn serve(&self, mut client: Client, fingerprint: u64, path: &[String]) {
        if !fingerprint.is_multiple_of(self.recorded.serves) {
            return;
        }
        let mut rng = crate::client::Rng(fingerprint);
        for _ in 0..4 {
            crate::history::step(&mut client, &mut rng, &self.recorded.shape)
                .unwrap_or_else(|error| panic!("{path:?}: after the recovery: {error}"));
        }
        client.quiesce_and_check();
        client.verify();
    }
}

/// A history in all its cuts, on two threads.
#[must_use]
pub fn history(seed: u64, steps: u64, reach: Reach) -> Found {
    history_of(seed, crate::history::Shape::of(seed, steps), reach)
}

/// The same of a shape.
#[must_use]
pub fn history_of(seed: u64, shape: crate::history::Shape, reach: Reach) -> Found {
    let (fates, steps) = (reach.fates, shape.steps);
    println!(
        "STORE_SEED={seed} STORE_STEPS={steps} STORE_FATES={fates} cargo test -p envoyfs-store-tests --test crash"
    );
    whole(&crate::history::record(seed, shape), reach)
}

/// All cuts of what was recorded, on two threads.
#[must_use]
pub fn whole(recorded: &Recorded, reach: Reach) -> Found {
    let reach = Reach { recoveries_max: reach.recoveries_max / 2, ..reach };
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..2).map(|part| scope.spawn(move || explore(recorded, reach, part, 2))).collect();
        let mut sum = Found::default();
        for part in parts {
            match part.join() {
                Ok(found) => sum.add(&found),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        sum
    })
}
