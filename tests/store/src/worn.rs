//! A store that is nearly full and in the middle of everything: trees that share, a drop queue, retained checkpoints, containers that a publication has to clean, pages that are
//! spilled since there is memory for a few only.

use crate::bench::{Bench, Region};
use crate::client::{Client, Logical, Op, Rng, clock, tick, uses};
use crate::device::{Device, DeviceImage, SimulatedDevice};
use crate::history::{formatted, mount};
use crate::hlc::{Clock as _, ManualClock};
use crate::scripted::{Answer, Call, ScriptedDevice};
use crate::store::Result;
use crate::{HistoryPolicy, MarkOptions, StoreError};
use envoyfs_layout::Lsn;
use std::sync::Arc;
use std::time::Duration;

const TREES: u64 = 4;
const KEYS: u64 = 48;

/// A store that somebody left, and when.
pub struct Worn {
    /// What is on the device.
    pub image: DeviceImage,
    /// The time.
    pub now_ns: i64,
}

/// What a client was told of a history.
pub struct Told {
    /// Contents after each record.
    pub history: Vec<(Lsn, Logical)>,
    /// What was acknowledged last.
    pub acknowledged: Lsn,
}

/// What a mount without faults found, for those who look at another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Where the log ends.
    pub end: Lsn,
    /// Contents.
    pub logical: Logical,
}

fn policy() -> HistoryPolicy {
    HistoryPolicy { checkpoints_max: 2, interval_ms: 0, part_max: 4, ..HistoryPolicy::default() }
}

/// Does it unless there is no space for it.
fn attempt(client: &mut Client, op: &Op) -> Result<()> {
    match client.run(op) {
        Err(StoreError::NoSpace { .. }) => Ok(()),
        other => other,
    }
}

impl Worn {
    /// A store of 8 MiB, filled until a writer was refused and thinned out; its process died.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let (clock, device) = (clock(), formatted(8, 512, seed));
        let mut client = Client::start(mount(Arc::new(device.clone()), &clock).expect("fresh"), clock.clone());
        client.engine.retain(policy());
        let mut rng = Rng(seed);
        // Two of many small leaves.
        for key in 0..1600 {
            client.run(&Op::Small { tree: 6, key, seed: rng.next(), len: 40 }).expect("there is room");
        }
        client.run(&Op::Fork { from: 6, to: 7 }).expect("there is room");
        for key in (0..1600).step_by(8) {
            client.run(&Op::Small { tree: 7, key, seed: rng.next(), len: 40 }).expect("there is room");
        }
        for key in 0.. {
            tick(&clock);
            let (tree, len) = (key % 3, 6000 + rng.below(30_000) as u32);
            match client.run(&Op::Write { tree, key: key / 3, seed: rng.next(), len }) {
                Ok(()) => {}
                Err(StoreError::NoSpace { .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
        for key in (0..KEYS as u32).filter(|key| key % 5 < 2) {
            for tree in 0..3 {
                client.run(&Op::Delete { tree, key }).expect("a deletion");
            }
        }
        client.checkpoint().expect("no faults");
        client.commit().expect("no faults");
        drop(client);
        Self::after(&device, &clock)
    }

    /// What the process that used a device left on it.
    fn after(device: &SimulatedDevice, clock: &ManualClock) -> Self {
        let device = device.process_crash();
        device.flush().expect("no faults");
        Self { image: device.durable_image(), now_ns: clock.wall_ns() }
    }

    /// Another that was used further; power failed between the CHECKPOINT record of a publication and its superblock, behind records that the checkpoint does not hold.
    ///
    /// # Panics
    /// If that does not come about.
    #[must_use]
    pub fn interrupted(&self, seed: u64) -> Self {
        let simulated = SimulatedDevice::from_image(self.image.clone(), 512, 1);
        let device = ScriptedDevice::new(Arc::new(simulated.clone()));
        let mut client = self.client(Arc::<ScriptedDevice>::clone(&device));
        history(&mut client, seed, 1).expect("no faults");
        for tree in [6, 7] {
            client.run(&Op::Drop { tree }).expect("no faults");
        }
        let building = client.build().expect("no faults");
        let mut rng = Rng(seed);
        for _ in 0..12 {
            tick(&client.clock);
            let op = client.random_op(&mut rng, TREES, KEYS);
            attempt(&mut client, &op).expect("no faults");
        }
        client.commit().expect("no faults");
        let regions = Bench::on(self.image.clone(), false).regions();
        let mut is_dead = false;
        device.script(move |call, _| {
            is_dead |= matches!(call, Call::Write(offset, _) if regions(offset) == Region::Superblock);
            if is_dead { Answer::Dead } else { Answer::Do }
        });
        client.finish(building).expect_err("it died before the superblock");
        Self { image: simulated.durable_image(), now_ns: client.clock.wall_ns() }
    }

    /// A client on a device that holds this.
    ///
    /// # Panics
    /// If it does not mount for writing, or anything in it cannot be read.
    #[must_use]
    pub fn client(&self, device: Arc<dyn Device>) -> Client {
        let clock = Arc::new(ManualClock::new(self.now_ns));
        let engine = mount(device, &clock).unwrap_or_else(|error| panic!("it does not mount: {error}"));
        assert_eq!(engine.read_only(), "");
        let client = Client::start(engine, clock);
        client.engine.retain(policy());
        client
    }

    /// Mounts an image of it on a device without faults: everything can be read. Then the drop queue is worked off, a mark takes up what could not be read before, and every count and every
    /// live unit must be exact.
    ///
    /// # Panics
    /// If not.
    #[must_use]
    pub fn recovers(&self, image: DeviceImage) -> Recovered {
        let device = SimulatedDevice::from_image(image, 512, 2);
        let mut client =
            Self { image: self.image.clone(), now_ns: self.now_ns + 60_000_000_000 }.client(Arc::new(device));
        let found = Recovered { end: client.engine.recovered_end(), logical: client.logical() };
        client.engine.retain(HistoryPolicy::NONE);
        client.quiesce();
        if client.engine.unreadable().is_empty() {
            client.quiesce_and_check();
        } else {
            mark(&mut client);
            client.quiesce_and_check_after_a_mark();
        }
        client.verify();
        assert_eq!(client.logical(), found.logical);
        found
    }
}

fn mark(client: &mut Client) {
    client.engine.ask_mark().expect("no mark is under way");
    client.checkpoint().expect("no faults");
    client.engine.mark(MarkOptions::default(), Some(&uses)).expect("a mark");
    for _ in 0..4 {
        client.checkpoint().expect("no faults");
    }
    assert_eq!(client.engine.unreadable(), Vec::new());
}

/// A tree is forked, its copy changed, and the original, which only the retained checkpoints need then, dropped.
fn deletes_a_tree_that_shares(client: &mut Client) -> Result<()> {
    attempt(client, &Op::Fork { from: 1, to: 8 })?;
    for key in 0..3 {
        attempt(client, &Op::Small { tree: 8, key: 8 * key, seed: key.into(), len: 700 })?;
    }
    attempt(client, &Op::Drop { tree: 1 })?;
    attempt(client, &Op::Fork { from: 8, to: 1 })?;
    attempt(client, &Op::Drop { tree: 8 })
}

/// So many rounds of a history. It ends at the first error that is not a lack of space.
///
/// # Errors
/// What a call met.
pub fn history(client: &mut Client, seed: u64, rounds: u64) -> Result<()> {
    let mut rng = Rng(seed);
    for _ in 0..rounds {
        for _ in 0..8 {
            tick(&client.clock);
            let op = client.random_op(&mut rng, TREES, KEYS);
            attempt(client, &op)?;
            if rng.below(4) == 0 {
                client.commit()?;
            }
        }
        deletes_a_tree_that_shares(client)?;
        client.checkpoint()?;
        let building = client.build()?;
        for _ in 0..3 {
            let op = client.random_op(&mut rng, TREES, KEYS);
            attempt(client, &op)?;
        }
        client.commit()?;
        client.finish(building)?;
        client.clock.advance(Duration::from_millis(1200));
        client.engine.pump()?;
        client.clock.advance(Duration::from_millis(200));
        client.engine.pump()?;
    }
    Ok(())
}
