//! Writers and a slow checkpointer in virtual time: with the delays the ring is never met full, and they grow smoothly; without them writers stop dead.

use super::{Pressure, WAIT_NS_MAX, WAIT_NS_MIN};
use crate::wal::Room;

const MS: u64 = 1_000_000;

/// What writers met.
#[derive(Debug, Default)]
struct Met {
    /// Times that somebody found the ring full.
    full: u64,
    /// Most blocks in use.
    used_max: u64,
    /// Delays by tenths of the ring in use.
    delays: [(u64, u64); 10],
    records: u64,
}

/// `writers` that each want to append a record of a block every `gap_ns`; checkpoints that take `checkpoint_ns` each, begun at a quarter of the ring.
fn run(ring_blocks: u64, writers: u64, gap_ns: u64, checkpoint_ns: impl Fn(u64) -> u64, delays: bool) -> Met {
    run_from(Pressure::default(), ring_blocks, writers, gap_ns, checkpoint_ns, delays)
}

fn run_from(
    mut pressure: Pressure,
    ring_blocks: u64,
    writers: u64,
    gap_ns: u64,
    checkpoint_ns: impl Fn(u64) -> u64,
    delays: bool,
) -> Met {
    let mut met = Met::default();
    let mut ready: Vec<u64> = (0..writers).map(|writer| writer * gap_ns / writers).collect();
    let (mut used, mut records, mut frozen_used, mut ends, mut number) = (0_u64, 0_u64, 0_u64, None, 0);
    loop {
        let (writer, now) = ready.iter().copied().enumerate().min_by_key(|(_, at)| *at).unwrap();
        if now > 60_000 * MS {
            return met;
        }
        if let Some(end) = ends.filter(|end| *end <= now) {
            used -= frozen_used;
            records = used;
            pressure.published(end);
            ends = None;
            // Whoever was held back goes on.
            ready.iter_mut().for_each(|at| *at = (*at).min(end.max(now)));
            continue;
        }
        if ends.is_none() && used >= ring_blocks / 4 {
            pressure.frozen(now);
            frozen_used = used;
            ends = Some(now + checkpoint_ns(number));
            number += 1;
        }
        let room = Room {
            ring_blocks,
            used_blocks: used,
            waiting_blocks: 0,
            reserved_blocks: 0,
            reserve_blocks: ring_blocks / 64,
            block_bytes: 4096,
            records,
        };
        if room.free_blocks() == 0 {
            met.full += 1;
            ready[writer] = ends.unwrap();
            continue;
        }
        let slot = if delays { pressure.take(&room, 100, now) } else { now };
        let wait = if slot.saturating_sub(now) < WAIT_NS_MIN { 0 } else { slot - now };
        let tenth = &mut met.delays[usize::try_from(used * 10 / ring_blocks).unwrap().min(9)];
        *tenth = (tenth.0 + wait, tenth.1 + 1);
        used += 1;
        records += 1;
        met.records += 1;
        met.used_max = met.used_max.max(used);
        ready[writer] = now + wait + gap_ns;
    }
}

#[test]
fn with_slow_checkpoints_writers_never_meet_a_full_ring() {
    for (writers, gap) in [(1, 20_000), (8, 100_000), (64, 500_000)] {
        // A checkpoint in two seconds, in which writers at full speed would write the ring six times over.
        let slow = |_| 2000 * MS;
        let free = run(16 << 10, writers, gap, slow, false);
        assert!(free.full > 0, "{writers} writers: they never stop dead without delays: {free:?}");
        let paced = run(16 << 10, writers, gap, slow, true);
        assert_eq!(paced.full, 0, "{writers} writers: {paced:?}");
        assert!(
            paced.records * 10 > free.records * 6,
            "{writers} writers: {} records, {} without",
            paced.records,
            free.records
        );
    }
}

#[test]
fn a_checkpoint_that_takes_much_longer_than_the_last_is_noticed_while_it_runs() {
    let paced = run(16 << 10, 8, 100_000, |number| if number % 4 == 3 { 10_000 * MS } else { 200 * MS }, true);
    assert_eq!(paced.full, 0, "{paced:?}");
}

#[test]
fn delays_grow_with_what_is_in_use() {
    let met = run(64 << 10, 8, 100_000, |_| 4000 * MS, true);
    let means: Vec<u64> = met.delays.iter().filter(|(_, count)| *count > 100).map(|(sum, count)| sum / count).collect();
    assert!(met.delays.iter().take(5).all(|(sum, _)| *sum == 0), "{met:?}");
    assert!(means.windows(2).all(|pair| pair[0] <= pair[1]), "{means:?}");
    assert!(means.iter().filter(|mean| **mean > 0).count() >= 2, "{means:?}");
}

#[test]
fn small_delays_come_to_one_that_is_waited_for() {
    let mut pressure = Pressure::default();
    let room = Room {
        ring_blocks: 1024,
        used_blocks: 700,
        waiting_blocks: 0,
        reserved_blocks: 0,
        reserve_blocks: 24,
        block_bytes: 4096,
        records: 700,
    };
    let slots: Vec<u64> = (0..20).map(|_| pressure.take(&room, 64, 0)).collect();
    // A block of the 300 that are left, in 100 ms: a third of a millisecond each.
    assert_eq!(slots[2], 3 * (100 * MS / 300));
    assert_eq!(slots.iter().filter(|slot| **slot < WAIT_NS_MIN).count(), 3);
    pressure.published(5);
    assert_eq!(pressure.take(&Room { used_blocks: 512, ..room }, 64, 7), 7);
}

/// A checkpoint that hangs, a record as large as what is left, many writers: each alone would be held back for hours.
#[test]
fn nobody_is_held_back_for_longer_than_the_limit() {
    let room = Room {
        ring_blocks: 1024,
        used_blocks: 990,
        waiting_blocks: 0,
        reserved_blocks: 0,
        reserve_blocks: 24,
        block_bytes: 4096,
        records: 990,
    };
    let mut pressure = Pressure::default();
    pressure.frozen(0);
    let mut now = 3_600_000 * MS;
    for writer in 0..200_u64 {
        let slot = pressure.take(&room, 40_000, now);
        assert!(slot <= now + WAIT_NS_MAX, "writer {writer} waits for {} ms", (slot - now) / MS);
        assert_eq!(slot, now + WAIT_NS_MAX, "writer {writer}: a full ring is worth the longest delay");
        now += 3 * MS;
    }
}

/// As many writers as the limit lets in take what is left in the time that a checkpoint is expected to take, not sooner.
#[test]
fn at_the_limit_the_ring_lasts_as_long_as_the_checkpoint() {
    // 64 writers who come back at once, and a checkpoint of 10 s: at the limit from 640 blocks on.
    let known = Pressure { last_ns: 10_000 * MS, ..Pressure::default() };
    let paced = run_from(known, 4 << 10, 64, 64, |_| 10_000 * MS, true);
    assert_eq!(paced.full, 0, "{paced:?}");
    assert!(paced.used_max > 3 << 10, "the limit was not met: {paced:?}");
    // One that takes three times as long as it was expected to: the ring is met full, once by each.
    let late = run_from(known, 4 << 10, 64, 64, |number| if number == 1 { 30_000 * MS } else { 10_000 * MS }, true);
    assert!(late.full <= 64, "{late:?}");
}
