//! The stated bound holds in every call of long histories, and means something: what rests in memory is a good part of it.

use envoyfs_engine::state::{Fragment, Segment, map_memory};
use envoyfs_engine::{HistoryPolicy, Settings};
use envoyfs_memory_tests::counted::{Counting, aside, engine, live};
use envoyfs_memory_tests::history::{FIXED_BYTES, Plan, Seen, run};
use std::sync::{Mutex, PoisonError};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What is counted is everybody's: one history at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn small() -> Plan {
    let seed = std::env::var("MEMORY_SEED").map_or(1, |seed| seed.parse().unwrap());
    let settings = Settings {
        segment_cache_bytes: 64 << 10,
        slot_map_bytes: 4 << 10,
        unpublished_objects: 400,
        dirty_bytes: 512 << 10,
        in_flight_bytes: 256 << 10,
        pinned_bytes: 16 << 10,
        history: HistoryPolicy { checkpoints_max: 3, interval_ms: 50, ..HistoryPolicy::default() },
    };
    Plan {
        mib: 96,
        wal_bytes: 1 << 20,
        segment_bytes: 256 << 10,
        settings,
        steps: 30_000,
        trees: 12,
        keys: 1200,
        blocks_max: 4,
        notes: 0,
        mount_every: 4000,
        seed,
    }
}

fn check(plan: &Plan) -> Seen {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    println!("MEMORY_SEED={} cargo test -p envoyfs-memory-tests --test bound", plan.seed);
    let seen = run(plan);
    println!("{plan:#?}\n{seen:#?}");
    seen
}

#[test]
fn a_long_history_stays_within_the_stated_memory() {
    let seen = check(&small());
    assert!(seen.emptied > 30 && seen.spills > 50 && seen.replayed > 100, "the history does not try what it should");
    // A bound that is never neared shows nothing.
    let (live, bound) = seen.resting;
    assert!(live * 10 > (bound - FIXED_BYTES) * 4, "at rest {live} of {bound}");
}

#[test]
fn a_mount_that_replays_many_small_records_stays_within_the_stated_memory() {
    let settings = Settings { unpublished_objects: 2000, dirty_bytes: 4 << 20, ..small().settings };
    let plan = Plan { settings, wal_bytes: 4 << 20, steps: 60_000, notes: 990, mount_every: 19_000, ..small() };
    let seen = check(&plan);
    assert!(seen.replayed > 20_000, "only {} records were replayed", seen.replayed);
}

/// What the caches count with is never less than what the allocator gave, and of many, not three times as much.
#[test]
fn pages_and_slot_maps_are_counted_with_what_they_take() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    aside(|| {
        for rows in [1_u16, 2, 5, 11, 12, 60, 500, 2000] {
            for step in [1, 7, 11] {
                let before = live();
                let slots = (0..rows).map(|at| u32::from(at) * step % 32_749);
                let segment = engine(|| {
                    let mut segment = Segment::default();
                    for slot in slots.clone() {
                        segment.live.insert(2 * slot..2 * slot + 1);
                        segment.extra.insert(u16::try_from(slot).unwrap(), 1);
                        segment.moved.insert(slot, Fragment { units: 1, container: 1, offset_units: slot });
                    }
                    segment
                });
                let (took, counted) = (live() - before + size_of::<Segment>() as u64, segment.memory());
                assert!(
                    took <= counted && (counted <= 3 * took || rows < 60),
                    "{rows} rows: {took} bytes, {counted} counted"
                );
                let before = live();
                let map = engine(|| segment.moved.clone());
                let (took, counted) = (live() - before, map_memory(map.len()));
                assert!(
                    took <= counted && (counted <= 3 * took || rows < 60),
                    "{rows} entries: {took} bytes, {counted} counted"
                );
                engine(|| drop((segment, map)));
            }
        }
    });
}
