//! One written history with every kind of change, cut at every IO.

use crate::common::{CX, Random};
use crate::operations::Below;
use crate::stack::{Stack, Tree, at, check, clock, difference, fresh, open, tree};
use envoyfs_engine::StoreError;
use envoyfs_engine::device::{DeviceError, DeviceImage, SimulatedDevice};
use envoyfs_engine::hlc::ManualClock;
use envoyfs_layout::Lsn;
use envoyfs_namespace::api::*;
use envoyfs_tools::fsck::findings::Severity;
use std::sync::Arc;
use std::time::Duration;

type Change = Box<dyn Fn(Below<'_>) -> Result<()>>;

enum Step {
    Change(Change),
    Sync,
    Checkpoint,
}

/// Bytes that are different for every seed and never zero.
fn bytes(seed: u64, length: usize) -> Vec<u8> {
    Random(seed).bytes(length).into_iter().map(|byte| byte | 1).collect()
}

fn script() -> Vec<Step> {
    let mut steps = Vec::new();
    let mut seed = 0;
    macro_rules! change {
        ($act:expr) => {
            steps.push(Step::Change(Box::new($act)))
        };
    }
    macro_rules! write {
        ($path:literal, $offset:literal, $length:literal) => {{
            seed += 1;
            let data = bytes(seed, $length);
            change!(move |b| b.write($path, $offset, &data));
        }};
    }
    change!(|b| b.make("a", &Make::Directory));
    change!(|b| b.make("a/small", &Make::File));
    write!("a/small", 0, 100);
    steps.push(Step::Sync);
    change!(|b| b.make("a/b", &Make::Directory));
    change!(|b| b.make("a/large", &Make::File));
    write!("a/large", 0, 100_000);
    write!("a/small", 100, 200);
    steps.push(Step::Sync);
    change!(|b| b.make("a/.small.new", &Make::File));
    write!("a/.small.new", 0, 5000);
    steps.push(Step::Sync);
    change!(|b| b.rename("a/.small.new", "a/small", RenameMode::Replace));
    change!(|b| b.link("a/large", "a/b/linked"));
    change!(|b| b.make("symbolic", &Make::Symlink(b"a/large")));
    steps.push(Step::Sync);
    steps.push(Step::Checkpoint);
    write!("a/b/linked", 4096, 8192);
    write!("a/large", 70_001, 3000);
    change!(|b| b.xattr("a/small", "user.note", Some(b"kept")));
    steps.push(Step::Sync);
    change!(|b| b.fork("a", "f"));
    write!("f/small", 10, 50);
    write!("a/small", 4000, 2000);
    change!(|b| b.truncate("f/large", 50_000));
    steps.push(Step::Sync);
    change!(|b| b.snapshot("f", "one"));
    change!(|b| b.unlink("f/small"));
    write!("f/large", 20_000, 30_000);
    steps.push(Step::Checkpoint);
    change!(|b| b.rename("a/b", "a/c", RenameMode::Replace));
    change!(|b| b.unlink("a/large"));
    steps.push(Step::Sync);
    change!(|b| b.set("a/c", SetAttributes { permissions: Some(0o700), uid: Some(5), ..SetAttributes::default() }));
    change!(|b| b.rename("a/c/linked", "a/small", RenameMode::Exchange));
    change!(|b| b.fork("f/.snap/one", "g"));
    change!(|b| b.fork("a/small", "one file"));
    steps.push(Step::Sync);
    // Open without a name: the inode goes at the next mount, or at its close.
    change!(|b| b.make("unnamed", &Make::File));
    change!(|b| at(b.ns, b.root, "unnamed", |id| b.ns.open_file(&CX, id, true).and_then(|()| b.unlink("unnamed"))));
    steps.push(Step::Checkpoint);
    for number in 0..12_u64 {
        change!(move |b| b.make(&format!("a/file {number}"), &Make::File));
        let data = bytes(1000 + number, 3000 + 700 * number as usize);
        change!(move |b| b.write(&format!("a/file {number}"), 0, &data));
    }
    steps.push(Step::Sync);
    change!(|b| b.delete_tree("f"));
    change!(|b| b.unlink("one file"));
    write!("g/large", 0, 60_000);
    steps.push(Step::Checkpoint);
    change!(|b| b.truncate("g/large", 0));
    change!(|b| b.xattr("a/c/linked", "user.note", None));
    write!("g/large", 8192, 40_000);
    steps.push(Step::Sync);
    steps.push(Step::Checkpoint);
    for number in 0..6_u64 {
        change!(move |b| b.unlink(&format!("a/file {number}")));
    }
    write!("g/large", 0, 20_000);
    steps.push(Step::Sync);
    steps.push(Step::Checkpoint);
    steps.push(Step::Checkpoint);
    write!("g/large", 30_000, 40_000);
    change!(|b| b.make("last, never synced", &Make::File));
    steps
}

/// How a run went, until it ended or the device stopped.
struct Run {
    /// Position of the log after each step that was done.
    after: Vec<Lsn>,
    /// Steps before this were acknowledged.
    acknowledged: usize,
}

fn run(stack: &Stack, clock: &ManualClock, steps: &[Step], mut each: impl FnMut(&Stack)) -> Run {
    let mut run = Run { after: Vec::new(), acknowledged: 0 };
    let below = Below { ns: &stack.ns, root: InodeId::ROOT };
    for (number, step) in steps.iter().enumerate() {
        clock.advance(Duration::from_millis(3));
        let result = match step {
            Step::Change(change) => change(below),
            Step::Sync => stack.ns.sync(),
            Step::Checkpoint => stack.ns.checkpoint(),
        };
        if let Err(error) = result {
            let is_crash = |error: &StoreError| {
                matches!(error, StoreError::Device(DeviceError::Crashed) | StoreError::Poisoned { .. })
            };
            assert!(matches!(&error, Error::Store(error) if is_crash(error)), "step {number}: {error:?}");
            return run;
        }
        run.after.push(stack.ns.sync_point());
        if !matches!(step, Step::Change(_)) {
            run.acknowledged = number + 1;
        }
        each(stack);
        if stack.tend().is_err() {
            return run;
        }
    }
    run
}

/// A run without a crash: what there is after each step.
struct Oracle {
    image: DeviceImage,
    block_bytes: u32,
    slow: bool,
    after: Vec<Lsn>,
    trees: Vec<Tree>,
    ios: u64,
}

impl Oracle {
    fn new(block_bytes: u32, slow: bool) -> (Self, Vec<Step>) {
        let steps = script();
        let mut oracle = Oracle {
            image: fresh(16, 1024, block_bytes),
            block_bytes,
            slow,
            after: Vec::new(),
            trees: Vec::new(),
            ios: 0,
        };
        let device = oracle.device();
        let clock = clock();
        let stack = open(Arc::new(device.clone()), clock.clone(), false).unwrap();
        let before = ios(&device);
        let mut trees = vec![tree(&stack.ns, InodeId::ROOT)];
        let run = run(&stack, &clock, &steps, |stack| trees.push(tree(&stack.ns, InodeId::ROOT)));
        assert_eq!(run.after.len(), steps.len(), "the history ends without a crash");
        oracle.after = run.after;
        oracle.trees = trees;
        oracle.ios = ios(&device) - before;
        stack.close_and_check(&device, "without a crash");
        (oracle, steps)
    }

    fn device(&self) -> SimulatedDevice {
        SimulatedDevice::from_image(self.image.clone(), self.block_bytes, 5).slow(self.slow)
    }

    /// The device as it stops after so many IOs, its clock, and how many steps were acknowledged.
    fn until(&self, steps: &[Step], ios: u64) -> (SimulatedDevice, Arc<ManualClock>, usize) {
        let (device, clock) = (self.device(), clock());
        let stack = open(Arc::new(device.clone()), clock.clone(), false).unwrap();
        device.crash_after(ios);
        let run = run(&stack, &clock, steps, |_| {});
        assert!(self.after.starts_with(&run.after), "a run is the same every time, until it is cut");
        (device, clock, run.acknowledged)
    }

    /// Steps that a recovered log holds.
    fn steps_before(&self, end: Lsn) -> usize {
        self.after.partition_point(|after| *after <= end)
    }

    /// The tree is that after some step, none that was acknowledged is missing. Returns the end of the log.
    fn judge(&self, stack: &Stack, acknowledged: usize, what: &str) -> Lsn {
        let steps = self.steps_before(stack.end);
        assert!(steps >= acknowledged, "{what}: {steps} steps are left, {acknowledged} were acknowledged");
        self.judge_again(stack, stack.end, what)
    }

    /// The tree is what a mount before found, whose log ended there. What that mount itself appended may stand behind it.
    fn judge_again(&self, stack: &Stack, before: Lsn, what: &str) -> Lsn {
        assert!(stack.end >= before, "{what}: shown and then lost");
        let steps = self.steps_before(before);
        let difference = difference(&tree(&stack.ns, InodeId::ROOT), &self.trees[steps]);
        assert!(difference.is_empty(), "{what}: after {steps} steps:\n{difference}");
        stack.end
    }
}

fn ios(device: &SimulatedDevice) -> u64 {
    let counters = device.counters();
    counters.writes + counters.flushes + counters.discards
}

fn mount(device: &SimulatedDevice, clock: &Arc<ManualClock>, what: &str) -> Stack {
    open(Arc::new(device.clone()), clock.clone(), false).unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// Every `stride`-th IO of the script.
fn cut_everywhere(block_bytes: u32, slow: bool, stride: usize, seeds: std::ops::Range<u64>) {
    let (oracle, steps) = Oracle::new(block_bytes, slow);
    println!("{} steps, {} IOs", steps.len(), oracle.ios);
    for cut in (0..=oracle.ios).step_by(stride) {
        for seed in seeds.clone() {
            let what = format!("blocks of {block_bytes}, slow {slow}, cut after {cut} IOs, seed {seed}");
            let (device, clock, acknowledged) = oracle.until(&steps, cut);
            let device = device.crash(seed);
            if (cut + seed).is_multiple_of(4) {
                // Only what a cut can damage: copies of which there are others.
                check(&device.image(), Severity::Warning, &what);
            }
            let stack = mount(&device, &clock, &what);
            oracle.judge(&stack, acknowledged, &what);
            stack.close_and_check(&device, &what);
        }
    }
}

#[test]
fn a_power_cut_at_any_io_keeps_everything_acknowledged_and_the_store_is_clean() {
    cut_everywhere(4096, false, 1, crate::seeds(2, 100));
}

#[test]
fn a_power_cut_at_any_io_of_a_device_that_completes_writes_late_does_too() {
    cut_everywhere(512, true, 3, crate::seeds(2, 100));
}

#[test]
fn a_crash_in_a_recovery_changes_nothing_of_what_the_next_one_finds() {
    let (oracle, steps) = Oracle::new(4096, false);
    for cut in (3..=oracle.ios).step_by(11) {
        let (device, clock, acknowledged) = oracle.until(&steps, cut);
        let device = device.crash(cut);
        // What the first recovery would find is what every later one must.
        let stack = mount(&SimulatedDevice::from_image(device.image(), 4096, 1), &clock, "first");
        let first = oracle.judge(&stack, acknowledged, "first");
        drop(stack);
        let mut ios = 0;
        loop {
            let what = format!("cut after {cut} IOs and in the recovery after {ios}");
            let device = SimulatedDevice::from_image(device.image(), 4096, cut).slow(ios % 2 == 1);
            device.crash_after(ios);
            let opened = open(Arc::new(device.clone()), clock.clone(), false);
            let is_open = opened.is_ok();
            drop(opened);
            let device = device.crash(ios);
            let stack = mount(&device, &clock, &what);
            oracle.judge_again(&stack, first, &what);
            if ios % 5 == 0 || is_open {
                stack.close_and_check(&device, &what);
            }
            if is_open {
                break;
            }
            ios += 2;
        }
    }
}

#[test]
fn what_a_mount_after_a_dead_process_shows_survives_a_power_cut_right_after() {
    let (oracle, steps) = Oracle::new(4096, true);
    for cut in (1..=oracle.ios).step_by(7) {
        let what = format!("process dies after {cut} IOs");
        let (device, clock, acknowledged) = oracle.until(&steps, cut);
        let device = device.process_crash();
        let stack = mount(&device, &clock, &what);
        let shown = oracle.judge(&stack, acknowledged, &what);
        drop(stack);
        let device = device.crash(cut);
        let stack = mount(&device, &clock, &what);
        oracle.judge_again(&stack, shown, &what);
        stack.close_and_check(&device, &what);
    }
}

#[test]
fn a_power_cut_in_the_recovery_after_a_dead_process_keeps_everything_acknowledged() {
    let (oracle, steps) = Oracle::new(4096, true);
    for cut in (1..=oracle.ios).step_by(3) {
        for ios in [cut % 9, 9 + cut % 13] {
            let what = format!("process dies after {cut} IOs, power fails in the recovery after {ios}");
            let (device, clock, acknowledged) = oracle.until(&steps, cut);
            let device = device.process_crash();
            let whole = mount(&SimulatedDevice::from_image(device.image(), 4096, 1), &clock, &what).end;
            device.crash_after(ios);
            drop(open(Arc::new(device.clone()), clock.clone(), false));
            let device = device.crash(cut);
            let stack = mount(&device, &clock, &what);
            let left = stack.end.min(whole);
            assert!(oracle.steps_before(left) >= acknowledged, "{what}: {acknowledged} steps were acknowledged");
            oracle.judge_again(&stack, left, &what);
            stack.close_and_check(&device, &what);
        }
    }
}
