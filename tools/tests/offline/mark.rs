//! fsck's count and the online mark's are two programs over one definition: on the same store they agree (INV-34), on right ones and on ones whose counts are wrong.
//! A seed is replayed with `MARK_SEED=n cargo test -p envoyfs-tools --test offline`.
use crate::common::{CX, Random};
use crate::fsck_bench::*;
use envoyfs_engine::device::SimulatedDevice;
use envoyfs_engine::{HistoryPolicy, MarkOptions, MarkReport};
use envoyfs_layout::system_page::SegmentPage;
use envoyfs_namespace::api::*;
use envoyfs_tools::fsck::findings;
use std::ops::ControlFlow;

/// Files, directories, links, forks and snapshots come and go; whatever is refused is no matter.
fn history(seed: u64) -> SimulatedDevice {
    let device = empty(48, 512);
    let mounted = mount(&device);
    if seed % 2 == 1 {
        mounted.engine.retain(HistoryPolicy::default());
    }
    populate(&mounted);
    let mut random = Random(seed);
    let mut directories =
        vec![InodeId::ROOT, mounted.directory(InodeId::ROOT, "a"), mounted.directory(InodeId::ROOT, "b")];
    for step in 0..250 {
        let directory = directories[random.below(directories.len())];
        let name = format!("{}", random.below(12));
        match random.below(12) {
            0..=2 => {
                if let Ok(made) = mounted.ns.make(&CX, directory, name.as_bytes(), &Make::File, 0o644) {
                    let length = random.below(30_000);
                    let _full = mounted.ns.write(&CX, made.id, 0, &random.bytes(length));
                }
            }
            3 => {
                if let Ok(found) = mounted.ns.lookup(&CX, directory, name.as_bytes())
                    && found.file_type == FileType::Regular
                {
                    let offset = random.below(20_000) as u64;
                    let _full = mounted.ns.write(&CX, found.id, offset, &random.bytes(5000));
                }
            }
            4 => {
                if let Ok(made) = mounted.ns.make(&CX, directory, name.as_bytes(), &Make::Directory, 0o755) {
                    directories.push(made.id);
                }
            }
            5 => drop(mounted.ns.unlink(&CX, directory, name.as_bytes())),
            6 => {
                let source = directories[1 + random.below(directories.len() - 1)];
                drop(mounted.ns.fork(&CX, source, InodeId::ROOT, format!("fork {step}").as_bytes()));
            }
            7 => drop(mounted.ns.snapshot(&CX, directory, name.as_bytes())),
            8 => {
                if let Ok(found) = mounted.ns.lookup(&CX, directory, name.as_bytes()) {
                    let other = directories[random.below(directories.len())];
                    drop(mounted.ns.link(&CX, found.id, other, format!("link {step}").as_bytes()));
                }
            }
            9 => drop(mounted.ns.delete_snapshot(&CX, directory, name.as_bytes())),
            10 => drop(mounted.ns.delete_tree(&CX, directory, name.as_bytes())),
            _ => drop(mounted.ns.checkpoint()),
        }
    }
    mounted.close();
    device
}

/// The online mark of the store as a mount starts it, and the checkpoint with its corrections.
fn marked(device: &SimulatedDevice) -> MarkReport {
    let mounted = mount(device);
    mounted.engine.ask_mark().unwrap();
    // It looks at the checkpoint after it was asked for.
    mounted.ns.checkpoint().unwrap();
    let report = mounted.ns.mark(MarkOptions::default(), &mut |_| ControlFlow::Continue(())).unwrap();
    mounted.ns.checkpoint().unwrap();
    mounted.close();
    report
}

fn seeds() -> Vec<u64> {
    let one = std::env::var("MARK_SEED").ok().and_then(|seed| seed.parse().ok());
    one.map_or_else(|| (0..6).collect(), |seed| vec![seed])
}

#[test]
fn both_find_nothing_after_any_history() {
    for seed in seeds() {
        println!("MARK_SEED={seed}");
        let device = history(seed);
        let report = check(&device);
        assert!(report.is_clean(), "seed {seed}:\n{report}");
        assert!(report.statistics.shared_objects > 0);
        let mark = marked(&device);
        assert_eq!((mark.counts, mark.leaked_bytes, mark.lost_bytes), (0, 0, 0), "seed {seed}: {mark:?}");
        assert_eq!(mark.unused_bytes, report.statistics.reclaimable_bytes, "seed {seed}: {mark:?}\n{report}");
        let report = check(&device);
        assert!(report.is_clean(), "seed {seed}, after the mark:\n{report}");
    }
}

#[test]
fn both_find_the_same_wrong_counts_and_either_puts_them_right() {
    for seed in seeds() {
        println!("MARK_SEED={seed}");
        let device = history(seed);
        let mut surgeon = Surgeon::new(&device);
        let pages: Vec<u32> = surgeon.directory.table.iter().filter(|r| r.segment != 0).map(|r| r.segment).collect();
        for number in pages {
            let row = surgeon.directory.table.iter().find(|row| row.segment == number).unwrap();
            if !row.metadata.is_none() {
                surgeon.page(number, |page: &mut SegmentPage| {
                    page.extra.iter_mut().filter(|(_, extra)| *extra > 0).step_by(2).for_each(|(_, extra)| *extra += 1);
                });
            }
        }
        let damaged = surgeon.device();
        let report = check(&damaged);
        let wrong = report.count(findings::COUNT);
        assert!(wrong > 0, "seed {seed}:\n{report}");
        let other = SimulatedDevice::from_image(damaged.image(), 512, 1);
        let mark = marked(&damaged);
        assert_eq!(mark.counts, wrong, "seed {seed}: {mark:?}\n{report}");
        let report = check(&damaged);
        assert!(report.is_clean(), "seed {seed}, after the mark:\n{report}");
        assert_eq!(repair(&other, false).exit_code(), 1);
        assert!(check(&other).is_clean());
        assert_eq!(marked(&other).counts, 0, "seed {seed}, after fsck");
    }
}

/// In pages of data that was never moved: a run that ends a unit too early, or a unit too late. Returns how many pages were changed.
fn with_wrong_liveness(surgeon: &mut Surgeon) -> usize {
    let rows: Vec<(usize, u32)> =
        (0..).zip(&surgeon.directory.table).map(|(index, row)| (index, row.segment)).collect();
    let mut changed = 0;
    for (index, number) in rows {
        let row = surgeon.directory.table[index];
        if number == 0 || row.stream != 1 || row.metadata.is_none() {
            continue;
        }
        let mut units = 0_i64;
        surgeon.page(number, |page: &mut SegmentPage| {
            let next: Vec<u32> =
                page.live.iter().skip(1).map(|(slot, _)| u32::from(*slot)).chain([row.used_units]).collect();
            let gap = |((slot, units), next): (&(u16, u16), &u32)| u32::from(*slot) + u32::from(*units) + 1 < *next;
            let before_gap = page.live.iter().zip(&next).position(gap);
            match before_gap.filter(|_| page.moved.is_empty() && changed % 2 == 0) {
                Some(run) => (page.live[run].1, units) = (page.live[run].1 + 1, 1),
                None if page.moved.is_empty() && page.live.iter().any(|(_, units)| *units > 1) => {
                    let run = page.live.iter().position(|(_, units)| *units > 1).unwrap();
                    (page.live[run].1, units) = (page.live[run].1 - 1, -1);
                }
                None => {}
            }
        });
        let row = &mut surgeon.directory.table[index];
        row.live_units = u32::try_from(i64::from(row.live_units) + units).unwrap();
        let totals = &mut surgeon.directory.entry.totals;
        totals.live_units = totals.live_units.checked_add_signed(units).unwrap();
        changed += usize::from(units != 0);
    }
    surgeon.publish();
    changed
}

#[test]
fn both_find_the_same_wrong_liveness_and_either_puts_it_right() {
    let (mut leaked, mut lost) = (0, 0);
    // Without retained checkpoints, which keep what nothing else needs.
    for seed in seeds().into_iter().map(|seed| seed * 2) {
        println!("MARK_SEED={}", seed / 2);
        let device = history(seed);
        let mut surgeon = Surgeon::new(&device);
        let changed = with_wrong_liveness(&mut surgeon);
        assert!(changed > 0, "seed {seed}");
        let damaged = surgeon.device();
        let report = check(&damaged);
        // Each is a unit, apart from the others.
        let bytes = |kind| 512 * report.count(kind);
        leaked += report.count(findings::LEAKED);
        lost += report.count(findings::NOT_LIVE);
        let other = SimulatedDevice::from_image(damaged.image(), 512, 1);
        let mark = marked(&damaged);
        let found = (bytes(findings::LEAKED), bytes(findings::NOT_LIVE), report.statistics.reclaimable_bytes);
        assert_eq!((mark.leaked_bytes, mark.lost_bytes, mark.unused_bytes), found, "seed {seed}: {mark:?}\n{report}");
        let report = check(&damaged);
        assert!(report.is_clean(), "seed {seed}, after the mark:\n{report}");
        repair(&other, false);
        assert!(check(&other).is_clean(), "seed {seed}, after fsck:\n{}", check(&other));
        let mark = marked(&other);
        assert_eq!((mark.leaked_bytes, mark.lost_bytes), (0, 0), "seed {seed}, after fsck: {mark:?}");
    }
    assert!(leaked > 0 && lost > 0, "{leaked} leaked, {lost} lost");
}
