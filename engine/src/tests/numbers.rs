//! Segment numbers: how many a crash skips, and what happens when those that are reserved run short (INV-16).

use super::client::*;
use crate::StoreError;
use crate::space::Numbers;
use crate::store::{Reason, Store};
use std::sync::atomic::Ordering;

#[test]
fn a_crash_skips_no_more_numbers_of_a_large_store_than_of_a_small_one() {
    // 10 TiB in segments of 16 MiB, and 16 TiB in segments of 1 MiB.
    for containers in [655_360, 16 << 20] {
        assert_eq!(Numbers::chunk(containers), 1 << 14);
        let numbers = Numbers::new(1, 0, containers);
        assert_eq!(numbers.reserve(), 1 + (1 << 14));
        assert!(Numbers::chunks_left(1, containers) >= 262_000, "crashes until numbers end");
    }
    assert_eq!(Numbers::chunk(100), 216);
}

#[test]
fn writers_wait_for_a_publication_before_the_reserved_numbers_run_out() {
    let (device, mut client) = fresh(64, 512, 5);
    let of = |client: &Client, look: fn(&Numbers) -> u64| look(&client.engine.writer().unwrap().space.numbers);
    let next = |client: &Client| of(client, |numbers| numbers.segment.load(Ordering::SeqCst).into());
    client.engine.writer().unwrap().space.numbers.chunk.store(32, Ordering::SeqCst);
    // What the mount reserved is still there.
    let mounted = of(&client, |numbers| numbers.segment_bound.load(Ordering::SeqCst));
    client.engine.writer().unwrap().space.numbers.segment_bound.store(next(&client) + 10, Ordering::SeqCst);
    client.checkpoint().unwrap();
    let (first, bound) = (next(&client), of(&client, |numbers| numbers.segment_bound.load(Ordering::SeqCst)));
    assert!(bound <= first + 32 && mounted > bound, "{first} {bound} {mounted}");
    let mut due_at = None;
    let waits = (0..1000).find_map(|key| {
        if due_at.is_none() && client.engine.wait_checkpoint(0) == Some(Reason::Log) {
            due_at = Some(next(&client));
        }
        client.try_run(&Op::Write { tree: 0, key, seed: u64::from(key) + 1, len: 48 << 10 }).err()
    });
    assert!(matches!(waits, Some(StoreError::WouldWait { what }) if what.starts_with("segment numbers")), "{waits:?}");
    let (asked, left) = (due_at.unwrap(), bound - next(&client));
    assert!(asked < next(&client) && (8..=16).contains(&left), "due at {asked}, {left} left of {bound}");
    client.checkpoint().unwrap();
    client.run(&Op::Write { tree: 0, key: 2000, seed: 1, len: 48 << 10 }).unwrap();
    client.commit().unwrap();
    let before = next(&client);
    let bound = of(&client, |numbers| numbers.segment_bound.load(Ordering::SeqCst));
    let want = client.logical();
    client = Client::start(open(&device.process_crash(), &client.clock).unwrap(), client.clock.clone());
    assert_eq!(client.logical(), want);
    assert!(next(&client) >= bound && next(&client) <= before + 32 + 8, "{before} {bound} {}", next(&client));
    client.quiesce_and_check();
}
