//! What replicas compare: equal on stores that replayed the same records, wherever things lie (INV-39). And stamps from outside, and clocks that jump (INV-01).

use super::client::*;
use crate::StoreError;
use crate::store::{Store, Tier};
use envoyfs_layout::Hlc;
use std::collections::BTreeMap;
use std::time::Duration;

fn digests(client: &Client) -> BTreeMap<u32, (crate::LiveObjects, u64)> {
    let engine = &client.engine;
    let of = |segment: u32| (segment, (engine.live_objects(segment).unwrap(), engine.digest(segment).unwrap()));
    // A store that has cleaned a segment's home away may have forgotten one in which nothing lives.
    engine.segments().into_iter().map(of).filter(|(_, (objects, _))| !objects.live.is_empty()).collect()
}

/// Two mounts of one log, of which one cleans whenever it can: other containers, other slot maps, the same numbers, counts, liveness and bytes.
#[test]
fn stores_that_replayed_the_same_records_agree_wherever_things_lie() {
    for seed in seeds(0..6, "replica::stores_that_replayed") {
        let (device, mut client) = fresh(48, 512, seed);
        let mut rng = Rng(seed + 77);
        for step in 0..250 {
            let op = client.random_op(&mut rng, 3, 60);
            client.run(&op).unwrap();
            if step % 40 == 39 && step < 200 {
                client.checkpoint().unwrap();
            }
        }
        client.commit().unwrap();
        let image = device.crash(seed);
        let mount = |seed| {
            let device = image.crash(seed);
            let clock = clock();
            Client::start(open(&device, &clock).unwrap(), clock)
        };
        let (mut tidy, mut plain) = (mount(1), mount(1));
        let (mut elsewhere, mut compared) = (0, 0);
        for round in 0..8 {
            for _ in 0..40 {
                let op = plain.random_op(&mut rng, 3, 60);
                plain.run(&op).unwrap();
                tidy.run(&op).unwrap();
            }
            for _ in 0..4 {
                tidy.engine.clean_anyway().unwrap();
            }
            plain.checkpoint().unwrap();
            tidy.checkpoint().unwrap();
            assert_eq!(tidy.logical(), plain.logical());
            let (a, b) = (digests(&tidy), digests(&plain));
            assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "seed {seed} round {round}");
            for (segment, found) in &a {
                assert_eq!(found, &b[segment], "seed {seed} round {round} segment {segment}");
                compared += 1;
                elsewhere += u32::from(found.0.live.iter().any(|live| {
                    let place = |client: &Client| {
                        client.engine.load_segments(&[*segment].into()).unwrap();
                        client.engine.state.lock().locate(*segment, live)
                    };
                    place(&tidy) != place(&plain)
                }));
            }
        }
        assert!(elsewhere > 20, "seed {seed}: only {elsewhere} of {compared} segments lie elsewhere");
        tidy.quiesce_and_check();
        plain.quiesce_and_check();
    }
}

#[test]
fn a_digest_tells_one_flipped_bit_and_what_died() {
    let (device, mut client) = fresh(24, 512, 3);
    for key in 0..20 {
        client.run(&Op::Write { tree: 0, key, seed: u64::from(key), len: 20_000 }).unwrap();
    }
    client.checkpoint().unwrap();
    let segment = client.extent_of(0, 7).0.segment();
    let before = client.engine.digest(segment).unwrap();
    let want = content(7, 4096, 512);
    let image = device.image();
    let mut held = vec![0; 512];
    let at = (0..image.size_bytes()).step_by(512).find(|at| {
        image.read(*at, &mut held);
        held == want
    });
    let flip = crate::device::Fault::FlipBits { offset: at.unwrap() + 100, mask: 4 };
    device.inject(flip);
    assert_ne!(client.engine.digest(segment).unwrap(), before);
    device.inject(flip);
    assert_eq!(client.engine.digest(segment).unwrap(), before);
    client.engine.retain(crate::HistoryPolicy::NONE);
    client.quiesce();
    client.run(&Op::Delete { tree: 0, key: 7 }).unwrap();
    client.quiesce();
    assert_ne!(client.engine.digest(segment).unwrap(), before);
    assert_eq!(client.engine.digest(4_000_000).unwrap(), 0);
}

#[test]
fn free_space_and_reserve_are_what_admission_goes_by() {
    let (_, mut client) = fresh(24, 512, 3);
    let told = client.engine.free_and_reserve();
    assert_eq!((told.free, told.available), (client.engine.usage().free, client.engine.usage().available));
    assert_eq!(told.reserve, client.engine.writer().unwrap().admission.budget.floor(Tier::Writer));
    assert!(told.available + told.reserve <= told.free);
    client.run(&Op::Write { tree: 0, key: 1, seed: 1, len: 60_000 }).unwrap();
    assert!(client.engine.free_and_reserve().available < told.available);
}

fn stamp(client: &mut Client) -> Hlc {
    let need = crate::store::Need { log_bytes: 32, node_bytes: 0, payload_bytes: 0, data_bytes: 0, tier: Tier::Last };
    let mut permit = client.engine.reserve(need).unwrap();
    let draft = crate::store::Draft { kind: 300, territory: 1, origin: None, data: &[], body: &[4; 21] };
    let appended = client.engine.append(&mut permit, draft).unwrap();
    // "Delete key 0x04040404": nothing to it.
    client.history.push((appended.end, client.logical()));
    appended.hlc
}

#[test]
fn stamps_from_outside_are_passed_or_refused_and_stay_passed_after_a_crash() {
    let (device, mut client) = fresh(24, 512, 3);
    let ahead = |client: &Client, ms: u64| {
        Hlc::from_milliseconds(u64::try_from(client.engine.wall_ns() / 1_000_000).unwrap() + ms)
    };
    let first = stamp(&mut client);
    // After a mount that follows no crash, stamps are near the wall clock.
    let near = ahead(&client, 9_000).max(Hlc(first.0 + 1000));
    client.engine.observe(near).unwrap();
    let next = stamp(&mut client);
    assert!(next > near && next.0.is_multiple_of(2));
    let refused = client.engine.observe(ahead(&client, 11_000).max(Hlc(next.0 + 4)));
    assert!(matches!(refused, Err(StoreError::ClockAhead { ahead_ms: 10_001.., limit_ms: 10_000 })), "{refused:?}");
    assert!(stamp(&mut client) < ahead(&client, 11_000), "what is refused leaves no trace");
    // What is past is no news.
    client.engine.observe(first).unwrap();
    assert!(stamp(&mut client) > next);
    // Ten minutes without a checkpoint: what the bound does not cover waits for one.
    client.clock.advance(Duration::from_secs(595));
    let late = ahead(&client, 9_000);
    assert!(matches!(client.engine.observe(late), Err(StoreError::WouldWait { .. })));
    assert!(client.engine.wait_checkpoint(0).is_some(), "one is due");
    client.checkpoint().unwrap();
    client.engine.observe(late).unwrap();
    // Nothing was appended since, and power fails.
    let clock = client.clock.clone();
    let mut after = Client::start(open(&device.crash(5), &clock).unwrap(), clock);
    assert!(stamp(&mut after) > late);
}

#[test]
fn a_clock_that_jumps_ten_years_ahead_does_not_take_the_store_along() {
    let (device, mut client) = fresh(24, 512, 3);
    let start = client.engine.wall_ns();
    let first = stamp(&mut client);
    let wall = |seconds: i64| start + seconds * 1_000_000_000;
    const TEN_YEARS: i64 = 3650 * 24 * 3600;
    client.clock.set_wall_ns(wall(TEN_YEARS));
    for _ in 0..40 {
        stamp(&mut client);
        client.checkpoint().unwrap();
        client.clock.advance(Duration::from_secs(30));
    }
    // Twenty minutes have passed, by the clock that does not jump.
    let last = stamp(&mut client);
    let passed = last.milliseconds() - first.milliseconds();
    assert!((1_190_000..=1_810_000).contains(&passed), "{passed} ms");
    assert!(client.engine.wait_checkpoint(0).is_none(), "the bound is not chased");
    // A crash, and the clock is right again.
    client.clock.set_wall_ns(wall(1200));
    let clock = client.clock.clone();
    let mut after = Client::start(open(&device.crash(5), &clock).unwrap(), clock);
    let next = stamp(&mut after);
    assert!(next > last && next.milliseconds() - last.milliseconds() < 700_000);
}

#[test]
fn a_jump_of_a_day_is_followed_when_it_has_stood_for_a_minute() {
    let (_, mut client) = fresh(24, 512, 3);
    let first = stamp(&mut client);
    client.clock.set_wall_ns(client.engine.wall_ns() + 24 * 3600 * 1_000_000_000);
    client.checkpoint().unwrap();
    client.clock.advance(Duration::from_secs(20));
    assert!(stamp(&mut client).milliseconds() - first.milliseconds() < 700_000);
    client.checkpoint().unwrap();
    client.clock.advance(Duration::from_secs(50));
    client.checkpoint().unwrap();
    assert!(stamp(&mut client).milliseconds() - first.milliseconds() >= 24 * 3600 * 1000);
}

/// A store that was written with a clock years ahead: it mounts, time goes on from there, and the clock is followed when it has caught up.
#[test]
fn a_store_from_the_future_mounts_and_counts_on() {
    let device = crate::device::SimulatedDevice::new(24 << 20, 512, 3);
    small_format(&device);
    let clock = clock();
    let now = 1_700_000_000_000_000_000;
    clock.set_wall_ns(now + 10 * 365 * 24 * 3600 * 1_000_000_000);
    let mut client = Client::start(open(&device, &clock).unwrap(), clock.clone());
    let future = stamp(&mut client);
    client.commit().unwrap();
    client.checkpoint().unwrap();
    let crashed = device.crash(7);
    clock.set_wall_ns(now);
    let mut client = Client::start(open(&crashed, &clock).unwrap(), clock.clone());
    let mut last = stamp(&mut client);
    assert!(last > future);
    for _ in 0..5 {
        client.checkpoint().unwrap();
        clock.advance(Duration::from_secs(100));
        let next = stamp(&mut client);
        // Logical time does not run away from a clock that is behind.
        assert!(next > last && next.milliseconds() - last.milliseconds() < 1000);
        last = next;
    }
    assert!(client.engine.wait_checkpoint(0).is_none(), "the bound is not chased");
}
