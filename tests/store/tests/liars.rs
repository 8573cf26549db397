//! Devices that say a flush or a write is done and lose it at the next power cut: what is shown is right or an error; where the log can tell, the mount says whose fault it is.

use envoyfs_engine::store::Store;
use envoyfs_engine::superblock;
use envoyfs_engine::wal::RingGeometry;
use envoyfs_layout::Lsn;
use envoyfs_layout::wal::Block;
use envoyfs_store_tests::bench::{Bench, Region};
use envoyfs_store_tests::client::{Rng, clock};
use envoyfs_store_tests::device::{Device, DeviceImage, SectorFate, SimulatedDevice};
use envoyfs_store_tests::mini::{Mini, options};
use envoyfs_store_tests::scripted::{Answer, Call};
use envoyfs_store_tests::{Options, StoreError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const LOST: &str = "the device lost what a completed flush covered";

fn device(image: &DeviceImage) -> Arc<dyn Device> {
    Arc::new(SimulatedDevice::from_image(image.clone(), 512, 2))
}

/// Commits with a watermark behind them; what `acknowledged` says after each.
fn history(mini: &Mini, mut acknowledged: impl FnMut()) {
    for key in 0..6 {
        mini.put(key, 9216).unwrap();
        mini.commit().unwrap();
        acknowledged();
        if key == 3 {
            mini.checkpoint().unwrap();
        }
    }
    mini.clock.advance(Duration::from_millis(1200));
    mini.engine.pump().unwrap();
}

/// How far the log says of itself that it was durable: the largest watermark in any block of the generation that is published, read here once more with the layout's own decoder.
/// Nothing if no version of the store can be opened.
fn witnessed(image: &DeviceImage) -> Lsn {
    let device = device(image);
    let Ok(opened) = superblock::open(&*device) else { return Lsn(0) };
    let Ok(directory) = superblock::read_directory(&*device, &opened.superblock) else { return Lsn(0) };
    let (entry, ring) = (&directory.entry, RingGeometry::of(&opened.superblock, &directory.entry));
    let mut bytes = vec![0; ring.block_bytes as usize];
    let mut witnessed = entry.cuts.last().map_or(Lsn(0), |cut| cut.lsn).max(entry.checkpoint.freeze);
    for sequence in entry.start.sequence..entry.start.sequence + ring.blocks {
        image.read(ring.position(sequence), &mut bytes);
        let Ok(block) = Block::decode(&bytes, &ring.seed, ring.position(sequence)) else { continue };
        let header = block.header;
        if (header.volume, header.sequence, header.generation) == (ring.volume, sequence, entry.ring_generation) {
            witnessed = witnessed.max(header.durable);
        }
    }
    witnessed
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Everything acknowledged is there, or an error of its object.
    Whole,
    /// The mount says what is wrong, and takes no writes.
    Told,
    /// Acknowledged operations are gone, and nothing that is left tells of them.
    WentBack,
}

/// What became of it, with so many operations acknowledged.
fn never_silently_wrong(image: &DeviceImage, acknowledged: usize, what: &str) -> Outcome {
    let witnessed = witnessed(image);
    let mini = match Mini::open(device(image), &clock()) {
        Ok(mini) => mini,
        // A superblock that outlived what it names.
        Err(StoreError::Refused(why)) => {
            assert!(!why.is_empty());
            return Outcome::Told;
        }
        Err(StoreError::Structure { .. } | StoreError::Damaged { .. }) => return Outcome::Told,
        Err(error) => panic!("{what}: {error}"),
    };
    let keys = mini.keys();
    assert!(keys.iter().copied().eq(0..keys.len() as u64), "{what}: {keys:?} is no prefix");
    for key in keys.iter().copied() {
        if let Err(why) = mini.read(key, &mini.file(key)) {
            assert!(why.contains("object") && !why.contains("other bytes"), "{what}: {why}");
        }
    }
    let why = mini.engine.read_only();
    if !why.is_empty() {
        let attributed = why.contains(LOST) || why.contains("device offset") || why.contains("object ");
        assert!(attributed, "{what}: nobody is blamed: {why}");
        return Outcome::Told;
    }
    let end = mini.engine.end();
    assert!(
        end >= witnessed,
        "{what}: cut at {end:?} without a word, though the log says that it was durable to {witnessed:?}"
    );
    if keys.len() < acknowledged { Outcome::WentBack } else { Outcome::Whole }
}

#[test]
fn ignored_flushes_are_never_silently_wrong() {
    let mut counts = [0_u64; 3];
    for seed in 0..150_u64 {
        let mut rng = Rng(seed);
        let bench = Bench::of(8, seed % 2 == 1);
        let mini = bench.mount();
        let ignored = rng.below(3);
        let mut dice = rng.clone();
        bench.device.script(move |call, _| match call {
            // All of them, or some.
            Call::Flush if ignored == 0 || dice.below(2) == 0 => Answer::Pretend,
            _ => Answer::Do,
        });
        let mut acknowledged = Vec::new();
        history(&mini, || acknowledged.push(bench.now()));
        let position = (bench.now() * 3 / 4) + rng.below(bench.now() as u64 / 4 + 1) as usize;
        let keep = 64 + rng.below(192);
        let image = bench
            .images()
            .at_with(position, |_| if rng.below(256) < keep { SectorFate::Kept } else { SectorFate::Gone });
        let known = acknowledged.iter().filter(|at| **at <= position).count();
        let outcome = never_silently_wrong(&image, known, &format!("seed {seed}"));
        counts[outcome as usize] += 1;
    }
    let [whole, told, went_back] = counts;
    println!(
        "whole {whole}, told at the mount {told}, gone back to an older state with nothing left that tells of it {went_back}"
    );
    // A device that goes back in time as a whole cannot be told from an older one.
    assert!(whole > 0 && told > 37 && went_back > 0, "{counts:?}");
}

#[test]
fn a_lost_log_block_below_the_watermark_is_told_and_attributed_and_can_be_given_up() {
    let bench = Bench::new();
    let mini = bench.mount();
    mini.put(0, 4096).unwrap();
    mini.commit().unwrap();
    let lost = Arc::new(AtomicU64::new(0));
    let (seen, ring) = (Arc::clone(&lost), Bench::on(bench.cut(), false));
    // The next write to the log is acknowledged and never done.
    bench.device.script(move |call, _| match call {
        Call::Write(offset, _) if ring.region(offset) == Region::Ring && seen.load(Ordering::SeqCst) == 0 => {
            seen.store(offset, Ordering::SeqCst);
            Answer::Pretend
        }
        _ => Answer::Do,
    });
    history_of_three(&mini);
    assert!(lost.load(Ordering::SeqCst) > 0);
    let image = bench.cut();
    let mini = Mini::open(device(&image), &clock()).unwrap();
    let why = mini.engine.read_only();
    assert!(why.contains(LOST) && why.contains("-o accept_loss"), "{why}");
    assert!(why.contains(&lost.load(Ordering::SeqCst).to_string()), "{why}");
    assert_eq!(mini.keys(), [0]);
    mini.verify();
    let accepted = Options { accept_loss: true, ..options(&clock()) };
    let mini = Mini::open_with(device(&image), &clock(), accepted).unwrap();
    assert_eq!(mini.engine.read_only(), "");
    mini.put(50, 4096).unwrap();
    mini.checkpoint().unwrap();
    assert_eq!(mini.keys(), [0, 50]);
}

fn history_of_three(mini: &Mini) {
    for key in 1..4 {
        mini.put(key, 4096).unwrap();
        mini.commit().unwrap();
    }
}

#[test]
fn a_damaged_block_is_not_blamed_on_a_flush() {
    let bench = Bench::new();
    let mini = bench.mount();
    history_of_three(&mini);
    mini.engine.close().unwrap();
    let mut image = bench.cut();
    let ring = (0..image.size_bytes()).step_by(512).find(|at| bench.region(*at) == Region::Ring).unwrap();
    let mut bytes = [0; 512];
    let block = (ring..).step_by(512).find(|at| {
        image.read(*at, &mut bytes);
        bytes.iter().any(|byte| *byte != 0)
    });
    image.write(block.unwrap() + 200, &[0xEE]);
    let mini = Mini::open(device(&image), &clock()).unwrap();
    let why = mini.engine.read_only();
    assert!(why.contains("damaged") && !why.contains(LOST), "{why}");
}

#[test]
fn lost_data_below_the_watermark_is_an_error_of_its_object() {
    let bench = Bench::new();
    let mini = bench.mount();
    let ring = Bench::on(bench.cut(), false);
    let mut count = 0;
    bench.device.script(move |call, _| match call {
        Call::Write(offset, length) if ring.region(offset) == Region::Segments && length == 8192 => {
            count += 1;
            if count == 2 { Answer::Pretend } else { Answer::Do }
        }
        _ => Answer::Do,
    });
    for key in 0..3 {
        mini.put(key, 8192).unwrap();
        mini.commit().unwrap();
    }
    mini.engine.close().unwrap();
    let mini = Mini::open(device(&bench.cut()), &clock()).unwrap();
    assert_eq!(mini.keys(), [0, 1, 2]);
    assert!(mini.read(1, &mini.file(1)).unwrap_err().contains(&mini.file(1).reference.oid.to_string()));
    mini.read(0, &mini.file(0)).unwrap();
    mini.read(2, &mini.file(2)).unwrap();
}
