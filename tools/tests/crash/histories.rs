//! Random histories over many mounts: each ends by a power cut, a dead process or a clean end, sometimes again in the recovery.

use crate::common::Random;
use crate::operations::{Below, is_fatal, random_change};
use crate::stack::{Stack, Tree, clock, difference, fresh, open, tree};
use envoyfs_engine::StoreError;
use envoyfs_engine::device::{DeviceError, SimulatedDevice};
use envoyfs_engine::hlc::ManualClock;
use envoyfs_layout::Lsn;
use envoyfs_namespace::api::*;
use std::sync::Arc;
use std::time::Duration;

struct History {
    what: String,
    random: Random,
    clock: Arc<ManualClock>,
    /// What there is after each change of this mount, and where it stands in the log.
    after: Vec<(Lsn, Tree)>,
    acknowledged: Lsn,
    /// A small store with a small log, and large writes: space and log are reused as soon as they are free.
    is_tight: bool,
}

impl History {
    /// Changes until the device stops or there were enough.
    fn run(&mut self, stack: &Stack, device: &SimulatedDevice, changes: usize) -> Result<()> {
        for _ in 0..changes {
            self.clock.advance(Duration::from_millis(1 + self.random.below(40) as u64));
            let before = &self.after[self.after.len() - 1].1;
            let below = Below { ns: &stack.ns, root: InodeId::ROOT };
            let changed = if self.is_tight && self.random.below(2) == 0 {
                large_change(below, &mut self.random, before)
            } else {
                random_change(below, &mut self.random, before)
            };
            match changed {
                // On a full store; it was refused and changed nothing.
                Err(Error::Store(StoreError::WouldWait { .. })) => stack.checkpoint()?,
                other => other?,
            }
            // What a change writes behind it may stop the machine too; nothing can be looked at then.
            if device.is_crashed() {
                return Err(Error::Store(StoreError::Device(DeviceError::Crashed)));
            }
            self.after.push((stack.ns.sync_point(), tree(&stack.ns, InodeId::ROOT)));
            match self.random.below(24) {
                0..=4 => {
                    stack.ns.sync()?;
                    self.acknowledged = stack.ns.sync_point();
                }
                5 => {
                    let end = stack.ns.sync_point();
                    stack.checkpoint()?;
                    self.acknowledged = end;
                }
                6 => self.clock.advance(Duration::from_millis(1500)),
                _ => {}
            }
            stack.tend()?;
        }
        Ok(())
    }

    fn mount(&mut self, device: &SimulatedDevice, crash: usize) -> Stack {
        let what = format!("{} crash {crash}", self.what);
        let stack =
            open(Arc::new(device.clone()), self.clock.clone(), false).unwrap_or_else(|error| panic!("{what}: {error}"));
        let (end, acknowledged) = (stack.end, self.acknowledged);
        assert!(end >= acknowledged, "{what}: {end:?} is left, {acknowledged:?} was acknowledged");
        let found = tree(&stack.ns, InodeId::ROOT);
        if let Some((_, expected)) = self.after.iter().rev().find(|(after, _)| *after <= end) {
            let difference = difference(&found, expected);
            assert!(difference.is_empty(), "{what}: up to {end:?}:\n{difference}");
        }
        self.after = vec![(stack.ns.sync_point(), found)];
        self.acknowledged = end;
        stack
    }
}

/// Writes much to one of a few files.
fn large_change(below: Below<'_>, random: &mut Random, tree: &Tree) -> Result<()> {
    let path = format!("/large {}", random.below(8));
    let length = [70_000, 150_000, 250_000][random.below(3)];
    let bytes = random.bytes(length);
    let offset = [0, 4096, 20_000][random.below(3)];
    let result =
        if tree.contains_key(&path) { below.write(&path, offset, &bytes) } else { below.make(&path, &Make::File) };
    match result {
        Err(error) if is_fatal(&error) => Err(error),
        _ => Ok(()),
    }
}

fn one_history(seed: u64) {
    let block_bytes = if seed.is_multiple_of(3) { 512 } else { 4096 };
    let mut history = History {
        what: format!("CRASH_SEED={seed}"),
        random: Random(seed),
        clock: clock(),
        after: Vec::new(),
        acknowledged: Lsn(0),
        is_tight: seed % 5 < 3,
    };
    let is_tight = history.is_tight;
    let image = if is_tight { fresh(8, 512, block_bytes) } else { fresh(16, 1024, block_bytes) };
    let mut device = SimulatedDevice::from_image(image, block_bytes, seed).slow(seed.is_multiple_of(2));
    let mut stack = history.mount(&device, 0);
    for crash in 1..6 {
        device.crash_after(history.random.below(260) as u64);
        if let Err(error) = history.run(&stack, &device, 90) {
            assert!(is_fatal(&error) && device.is_crashed(), "{} crash {crash}: {error}", history.what);
        }
        drop(stack);
        let dead_process = history.random.below(4) == 0;
        let cut = history.random.next();
        device = if dead_process { device.process_crash() } else { device.crash(cut) };
        while history.random.below(3) == 0 {
            device.crash_after(history.random.below(25) as u64);
            drop(open(Arc::new(device.clone()), history.clock.clone(), false));
            device = device.crash(history.random.next());
        }
        stack = history.mount(&device, crash);
        if history.random.below(2) == 0 {
            stack.close_and_check(&device, &format!("{} crash {crash}", history.what));
            stack = history.mount(&device, crash);
        }
    }
    stack.close_and_check(&device, &history.what);
}

#[test]
fn after_any_crashes_the_tree_is_a_prefix_with_everything_acknowledged() {
    for seed in crate::seeds(12, 1) {
        println!("CRASH_SEED={seed} CRASH_SEEDS=1");
        one_history(seed);
    }
}
