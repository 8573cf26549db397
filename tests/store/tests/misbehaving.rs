//! Devices that misbehave while the store runs: one write lands elsewhere, is torn, flipped or lost; a sector keeps its old bytes; one read comes back wrong; the device ends before it
//! says. Whatever is read is right, or an error with a place; a mount afterwards shows everything, or says what it blames, and that is to blame.
//!
//! Every write and read of a written history is tried (`MISBEHAVING_CALL=n` repeats one).

use envoyfs_store_tests::StoreError;
use envoyfs_store_tests::bench::{Bench, Region};
use envoyfs_store_tests::device::{Device, DeviceImage, Fault, SectorFate, SimulatedDevice};
use envoyfs_store_tests::device::{Effect, On, Rule, When};
use envoyfs_store_tests::mini::Mini;
use envoyfs_store_tests::scripted::{Answer, Call};
use envoyfs_store_tests::store::{Result, Store as _};
use envoyfs_store_tests::verdict::{Outcome, never_silently_wrong};
use std::cell::Cell;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Commits, checkpoints, reads, watermarks; counts what is acknowledged. Keys are put in order, none deleted.
fn history(mini: &Mini, acknowledged: &mut usize) -> Result<()> {
    for key in 0..8 {
        mini.put(key, [9216, 61_440, 512][key as usize % 3])?;
        mini.commit()?;
        *acknowledged += 1;
        if key % 3 == 2 {
            mini.checkpoint()?;
        }
        for key in mini.keys() {
            look(mini, key);
        }
        mini.clock.advance(Duration::from_millis(1200));
        mini.engine.pump()?;
        mini.clock.advance(Duration::from_millis(200));
        mini.engine.pump()?;
    }
    mini.engine.close()
}

/// What is read is right, or an error that names the object.
fn look(mini: &Mini, key: u64) {
    if let Err(why) = mini.read(key, &mini.file(key)) {
        assert!(why.contains("object ") && !why.contains("other bytes"), "{why}");
    }
}

fn names_a_place(error: &StoreError) -> bool {
    let text = error.to_string();
    ["object ", "page of segment ", " at device offset ", "read at ", "write at "]
        .iter()
        .any(|name| text.contains(name))
}

#[derive(Debug, Default)]
struct Counts {
    whole: u64,
    damaged: u64,
    told: u64,
    errors: u64,
}

impl Counts {
    fn add(&mut self, outcome: Outcome, what: &str) {
        match outcome {
            Outcome::Whole => self.whole += 1,
            Outcome::Damaged => self.damaged += 1,
            Outcome::Told => self.told += 1,
            Outcome::WentBack => panic!("{what}: what was acknowledged is gone, and nobody says so"),
        }
    }
}

/// Each n until there is none, or the one that is asked for.
fn every_call(test: &str, mut case: impl FnMut(u64, &str, &mut Counts) -> bool) -> Counts {
    let mut counts = Counts::default();
    let one: Option<u64> = std::env::var("MISBEHAVING_CALL").ok().map(|text| text.parse().expect("a number"));
    for n in one.map_or(0..u64::MAX, |n| n..n + 1) {
        let what = format!("MISBEHAVING_CALL={n} cargo test -p envoyfs-store-tests --test misbehaving {test}");
        println!("{what}");
        if !case(n, &what, &mut counts) {
            break;
        }
    }
    println!("{counts:?}");
    counts
}

fn is_whole() -> bool {
    std::env::var_os("MISBEHAVING_CALL").is_none()
}

/// What the device was told to hold.
fn claimed(bench: &Bench) -> DeviceImage {
    bench.images().at_with(usize::MAX, |_| SectorFate::Kept)
}

/// The history on a device that was prepared, and what a mount finds then on what the device holds.
fn lives_with(bench: &Bench, what: &str, counts: &mut Counts) {
    let mut acknowledged = 0;
    let mini = match Mini::open(Arc::clone(&bench.device) as Arc<dyn Device>, &bench.clock) {
        Ok(mini) => mini,
        Err(error) => panic!("{what}: {error}"),
    };
    if let Err(error) = history(&mini, &mut acknowledged) {
        counts.errors += 1;
        assert!(names_a_place(&error), "{what}: {error}");
    }
    drop(mini);
    bench.simulated.clear_rules();
    let outcome = never_silently_wrong(&bench.simulated.image(), &claimed(bench), acknowledged, what);
    counts.add(outcome, what);
}

fn any_write_meets(test: &str, effect: Effect) -> Counts {
    every_call(test, |n, what, counts| {
        let bench = Bench::of(8, false);
        bench.simulated.rule(Rule::new(On::Write, When::Nth(n), effect));
        lives_with(&bench, what, counts);
        !bench.simulated.fired().is_empty()
    })
}

#[test]
fn any_write_may_land_elsewhere() {
    let counts = any_write_meets("land_elsewhere", Effect::Misdirect);
    assert!(!is_whole() || counts.told > 5 && counts.damaged > 2 && counts.whole > 5, "{counts:?}");
}

#[test]
fn any_write_may_be_torn() {
    let counts = any_write_meets("be_torn", Effect::Tear);
    assert!(!is_whole() || counts.told > 5 && counts.damaged > 2 && counts.whole > 5, "{counts:?}");
}

#[test]
fn any_write_may_be_flipped() {
    let counts = any_write_meets("write_may_be_flipped", Effect::Flip);
    assert!(!is_whole() || counts.told > 2 && counts.damaged > 2 && counts.whole > 5, "{counts:?}");
}

#[test]
fn any_write_may_be_lost() {
    let counts = any_write_meets("be_lost", Effect::Lie);
    assert!(!is_whole() || counts.told > 5 && counts.damaged > 2 && counts.whole > 5, "{counts:?}");
}

/// Where the writes of the history go, in order.
fn offsets() -> Vec<u64> {
    let bench = Bench::of(8, false);
    let offsets = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&offsets);
    bench.device.script(move |call, _| {
        if let Call::Write(offset, _) = call {
            noted.lock().unwrap().push(offset);
        }
        Answer::Do
    });
    history(&bench.mount(), &mut 0).unwrap();
    std::mem::take(&mut offsets.lock().unwrap())
}

/// It lands where another lies that the store needs: data, a log block, a node.
#[test]
fn any_write_may_land_on_another() {
    let offsets = offsets();
    let counts = every_call("land_on_another", |n, what, counts| {
        let Some(offset) = offsets.get(n as usize) else { return false };
        let bench = Bench::of(8, false);
        let to = offsets[(n as usize * 7 + 3) % offsets.len()];
        bench.simulated.inject(Fault::Misdirect { offset: *offset, to });
        lives_with(&bench, what, counts);
        true
    });
    assert!(!is_whole() || counts.told > 5 && counts.damaged > 2, "{counts:?}");
}

/// As long as the device has power, a sector shows what it held before; then what was written.
#[test]
fn any_sector_may_keep_its_old_bytes_while_the_store_runs() {
    let offsets = offsets();
    let counts = every_call("keep_its_old_bytes", |n, what, counts| {
        let Some(offset) = offsets.get(n as usize) else { return false };
        let bench = Bench::of(8, false);
        bench.simulated.inject(Fault::Stale { offset: *offset });
        lives_with(&bench, what, counts);
        true
    });
    assert!(!is_whole() || counts.whole > 5, "{counts:?}");
    assert_eq!((counts.told, counts.damaged), (0, 0), "what was written is there: {counts:?}");
}

/// A read that comes back wrong once is made again.
#[test]
fn any_read_may_come_back_wrong_once() {
    for effect in [Effect::Flip, Effect::Stale] {
        let counts = every_call("wrong_once", |n, what, counts| {
            let bench = Bench::of(8, false);
            bench.simulated.rule(Rule::new(On::Read, When::Nth(n), effect));
            lives_with(&bench, what, counts);
            !bench.simulated.fired().is_empty()
        });
        assert_eq!((counts.told, counts.damaged), (0, 0), "nothing was written wrong: {counts:?}");
    }
}

/// A closed store of which a mount reads something wrong: everything is there, or it says that the log is damaged, and the next mount shows it.
fn mounts_with(
    simulated: &SimulatedDevice,
    bench: &Bench,
    wrong: impl Fn(),
    right: impl Fn(),
    counts: &mut Counts,
    what: &str,
) {
    wrong();
    match Mini::open(Arc::new(simulated.clone()), &bench.clock) {
        Ok(mini) if mini.engine.read_only().is_empty() => {
            assert_eq!(mini.keys().len(), 8, "{what}");
            mini.verify();
        }
        Ok(mini) => {
            counts.told += 1;
            assert!(mini.engine.read_only().contains("device offset"), "{what}: {}", mini.engine.read_only());
        }
        Err(error) => {
            counts.errors += 1;
            assert!(names_a_place(&error), "{what}: {error}");
        }
    }
    right();
    let mini = Mini::open(Arc::new(simulated.clone()), &bench.clock).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!((mini.keys().len(), mini.engine.read_only().is_empty()), (8, true), "{what}: after it");
    mini.verify();
    counts.whole += 1;
}

#[test]
fn any_read_of_a_mount_may_come_back_wrong_once() {
    let bench = Bench::of(8, false);
    history(&bench.mount(), &mut 0).unwrap();
    let image = bench.simulated.durable_image();
    let counts = every_call("read_of_a_mount", |n, what, counts| {
        let simulated = SimulatedDevice::from_image(image.clone(), 512, n);
        let wrong = || simulated.rule(Rule::new(On::Read, When::Nth(n), Effect::Flip));
        let fired = Cell::new(false);
        let right = || {
            fired.set(!simulated.fired().is_empty());
            simulated.clear_rules();
        };
        mounts_with(&simulated, &bench, wrong, right, counts, what);
        fired.get()
    });
    assert!(!is_whole() || counts.whole > 20, "{counts:?}");
}

/// The log is read in large pieces: each of its blocks, while a mount reads it.
#[test]
fn any_block_of_the_log_may_be_read_wrong_by_one_mount() {
    let bench = Bench::of(8, false);
    history(&bench.mount(), &mut 0).unwrap();
    let image = bench.simulated.durable_image();
    let is_used = |at: &u64| {
        let mut held = [0; 512];
        image.read(*at, &mut held);
        bench.region(*at) == Region::Ring && held != [0; 512]
    };
    let mut counts = Counts::default();
    for offset in (0..image.size_bytes()).step_by(512).filter(is_used) {
        let simulated = SimulatedDevice::from_image(image.clone(), 512, offset);
        let flip = || simulated.inject(Fault::FlipBits { offset: offset + 77, mask: 4 });
        mounts_with(&simulated, &bench, flip, flip, &mut counts, &format!("log block at {offset}"));
    }
    assert!(counts.told > 1 && counts.whole > 10, "{counts:?}");
}

/// Where the history writes: each block of the log, and every 4 KiB elsewhere.
fn written_places() -> Vec<u64> {
    let bench = Bench::of(8, false);
    let before = bench.simulated.durable_image();
    history(&bench.mount(), &mut 0).unwrap();
    let after = bench.simulated.durable_image();
    let is_written = |at: &u64| {
        let (mut old, mut new) = ([0; 512], [0; 512]);
        before.read(*at, &mut old);
        after.read(*at, &mut new);
        old != new && (bench.region(*at) == Region::Ring || at.is_multiple_of(4096))
    };
    (0..after.size_bytes()).step_by(512).filter(is_written).collect()
}

/// It takes no writes and gives no bytes behind there, whatever it said of its size: nothing acknowledged is lost, and once it gives them again everything is there.
#[test]
fn a_device_that_ends_before_it_says_loses_nothing_that_was_acknowledged() {
    let size = Bench::of(8, false).simulated.geometry().size_bytes;
    let mut errors = 0;
    for end in (0..size).step_by(128 << 10).chain([size - 512]).chain(written_places()) {
        let what = format!("a device of {size} bytes that ends at {end}");
        let bench = Bench::of(8, false);
        let mini = bench.mount();
        bench.simulated.end_at(end);
        let mut acknowledged = 0;
        let result = history(&mini, &mut acknowledged);
        if let Err(error) = &result {
            errors += 1;
            assert!(names_a_place(error) || error.to_string().contains("passes the end"), "{what}: {error}");
            assert!(mini.engine.poisoned().is_some(), "{what}: {error}");
        }
        drop(mini);
        // What is behind the end cannot be read: an error, or an older copy serves.
        match Mini::open(Arc::new(bench.simulated.clone()), &bench.clock) {
            Ok(mini) => {
                assert!(
                    mini.keys().len() >= acknowledged || !mini.engine.read_only().is_empty(),
                    "{what}: {:?}",
                    mini.keys()
                );
                for key in mini.keys() {
                    look(&mini, key);
                }
            }
            // Without any superblock nobody knows that there is a store.
            Err(error) => {
                let is_unknown = end < 4096 && error.to_string().contains("is not an envoyfs store");
                let has_place = names_a_place(&error) || error.to_string().contains("(at ");
                assert!(has_place || is_unknown, "{what}: {error}");
            }
        }
        let image = bench.simulated.durable_image();
        let mini = Mini::open(Arc::new(SimulatedDevice::from_image(image, 512, 1)), &bench.clock)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(mini.engine.read_only(), "", "{what}");
        assert!(mini.keys().len() >= acknowledged, "{what}: {:?} of {acknowledged}", mini.keys());
        mini.verify();
    }
    assert!(errors > 10, "{errors} ends were met");
}

#[test]
fn a_device_that_is_shorter_than_its_superblock_says_is_refused() {
    let bench = Bench::of(8, false);
    history(&bench.mount(), &mut 0).unwrap();
    let whole = bench.simulated.durable_image();
    for short in (0..whole.size_bytes()).step_by(256 << 10).chain([whole.size_bytes() - 512]) {
        let mut bytes = whole.to_bytes();
        bytes.truncate(short as usize);
        let mut image = DeviceImage::new(short);
        image.write(0, &bytes);
        let device = SimulatedDevice::from_image(image, 512, 1);
        let refused = Mini::open(Arc::new(device.clone()), &bench.clock).err();
        let refused = refused.unwrap_or_else(|| panic!("{short} bytes were mounted")).to_string();
        let named = refused.contains("truncated") && refused.contains(&whole.size_bytes().to_string());
        assert!(named || short < 8192, "{short} bytes: {refused}");
        assert_eq!(device.counters().writes, 0);
    }
}
