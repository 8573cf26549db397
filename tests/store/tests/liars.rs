//! Devices that say a flush or a write is done and lose it at the next power cut: what is shown is right or an error; where the log can tell, the mount says whose fault it is.

use envoyfs_store_tests::Options;
use envoyfs_store_tests::bench::{Bench, Region};
use envoyfs_store_tests::client::{Rng, clock};
use envoyfs_store_tests::device::{Device, DeviceImage, SectorFate, SimulatedDevice};
use envoyfs_store_tests::mini::{Mini, options};
use envoyfs_store_tests::scripted::{Answer, Call};
use envoyfs_store_tests::verdict::{LOST, never_silently_wrong};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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

#[test]
fn ignored_flushes_are_never_silently_wrong() {
    let mut counts = [0_u64; 4];
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().expect("a number"));
    let one = number("LIARS_SEED");
    let seeds = one.map_or(0..number("LIARS_SEEDS").unwrap_or(150), |seed| seed..seed + 1);
    for seed in seeds {
        let what = format!("LIARS_SEED={seed} cargo test -p envoyfs-store-tests --test liars ignored_flushes");
        println!("{what}");
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
        let claimed = bench.images().at_with(position, |_| SectorFate::Kept);
        let outcome = never_silently_wrong(&image, &claimed, known, &what);
        counts[outcome as usize] += 1;
    }
    let [whole, damaged, told, went_back] = counts;
    println!(
        "whole {whole}, with errors of objects {damaged}, told at the mount {told}, gone back to an older state with nothing left that tells of it {went_back}"
    );
    // A device that goes back in time as a whole cannot be told from an older one.
    assert!(one.is_some() || whole + damaged > 0 && told > 37 && went_back > 0, "{counts:?}");
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
