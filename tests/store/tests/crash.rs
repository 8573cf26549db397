//! Power cuts at every IO of small histories, and of the recoveries after them.

use envoyfs_store_tests::explore::{Found, Reach, history_of, whole};
use envoyfs_store_tests::failing;
use envoyfs_store_tests::history::Shape;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn search(seeds: std::ops::Range<u64>, nested: u32) -> Found {
    search_of(seeds, nested, 8, Shape::of)
}

/// A seed that is asked for is repeated for what it does, not for how much there is of it.
fn is_one() -> bool {
    number("STORE_SEED").is_some()
}

fn search_of(seeds: std::ops::Range<u64>, nested: u32, steps: u64, shape: impl Fn(u64, u64) -> Shape) -> Found {
    let (steps, fates) = (number("STORE_STEPS").unwrap_or(steps), number("STORE_FATES").unwrap_or(2));
    let seeds = match number("STORE_SEED") {
        Some(first) => first..first + number("STORE_SEEDS").unwrap_or(1),
        None => seeds,
    };
    let mut sum = Found::default();
    for seed in seeds {
        let found = history_of(seed, shape(seed, steps), Reach { nested, fates, recoveries_max: u64::MAX });
        println!("{found}");
        sum.add(&found);
    }
    assert!(!sum.cut_short);
    sum
}

#[test]
fn a_cut_at_every_io_leaves_a_prefix_with_everything_acknowledged() {
    let found = search(10..22, 0);
    assert!(is_one() || found.cuts > 500 && found.recoveries[0] > 300, "{found}");
}

#[test]
fn a_cut_at_every_io_of_a_recovery_and_of_the_next_one_changes_nothing() {
    let found = search(1..2, 2);
    assert!(found.recoveries[2] > 300, "{found}");
}

#[test]
fn three_recoveries_cut_at_every_io_one_after_the_other_change_nothing() {
    let found = search(2..3, 3);
    assert!(found.recoveries[3] > 100, "{found}");
}

/// Every checkpoint drops one that was retained, gives back what it kept, and is retained itself.
#[test]
fn a_cut_at_every_io_leaves_the_retained_checkpoints_with_what_was_in_them() {
    let found = search_of(30..36, 0, 20, Shape::retaining);
    assert!(is_one() || found.cuts > 500 && found.recoveries[0] > 300, "{found}");
}

#[test]
fn a_cut_at_every_io_of_the_recovery_leaves_the_retained_checkpoints() {
    let found = search_of(40..41, 2, 6, Shape::retaining);
    assert!(found.recoveries[2] > 100, "{found}");
}

/// Data whose write failed is found elsewhere (RELOCATED), also if that, and the container opened for it (PLACED), is said behind where the log is cut; what recovery keeps for it is used for
/// nothing else until the data is published, in every second recovered store that goes on.
#[test]
fn a_cut_at_every_io_leaves_data_that_was_written_elsewhere_in_its_container() {
    let seeds = match number("STORE_SEED") {
        Some(first) => first..first + number("STORE_SEEDS").unwrap_or(1),
        None => 100..120,
    };
    let one = seeds.end - seeds.start == 1;
    let (rounds, fates) = (number("STORE_STEPS").unwrap_or(3), number("STORE_FATES").unwrap_or(1));
    let mut sum = Found::default();
    for seed in seeds {
        println!("STORE_SEED={seed} cargo test -p envoyfs-store-tests --test crash written_elsewhere");
        let recorded = failing::record(seed, failing::shape(seed, rounds));
        // The recoveries of one in ten are cut, too.
        let found = whole(&recorded, Reach { nested: u32::from(seed % 10 == 0), fates, recoveries_max: u64::MAX });
        println!("{found}");
        sum.add(&found);
    }
    println!("{sum}");
    assert!(one || sum.moved > 100 && sum.placed_behind > 10, "{sum}");
}
