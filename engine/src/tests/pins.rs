//! Pins: what could be reached when one was taken is read until it is dropped, whatever is published, cleaned and deleted meanwhile; and a full store takes it back.

use super::cleaning::fragment;
use super::client::*;
use super::space::fill;
use crate::StoreError;
use crate::store::{Result, Store};
use std::cell::RefCell;

/// Random histories with several pins of different age; each is looked at again and again, and at its end.
#[test]
fn what_was_reachable_when_a_pin_was_taken_stays_readable_until_it_is_dropped() {
    for seed in 0..12 {
        let (_, mut client) = fresh(24, 512, seed);
        let mut rng = Rng(seed * 7919 + 1);
        let mut seen: Vec<Seen> = Vec::new();
        let mut looks = 0;
        for step in 0..600 {
            let op = client.random_op(&mut rng, 3, 40);
            match client.run(&op) {
                Ok(()) | Err(StoreError::NoSpace { .. }) => {}
                Err(error) => panic!("seed {seed} step {step}: {error}"),
            }
            match rng.below(40) {
                0..=2 if seen.len() < 4 => seen.push(client.see()),
                3 if !seen.is_empty() => {
                    let gone = seen.swap_remove(rng.below(seen.len() as u64) as usize);
                    look(&client, &gone, seed, step);
                    looks += 1;
                }
                4..=7 => client.checkpoint().unwrap(),
                8 => drop(client.engine.clean_anyway().unwrap()),
                9..=10 => {
                    // In the middle of a checkpoint.
                    let building = client.build().unwrap();
                    seen.push(client.see());
                    client.finish(building).unwrap();
                }
                11 => seen.iter().for_each(|seen| look(&client, seen, seed, step)),
                _ => {}
            }
            tick(&client.clock);
        }
        assert!(looks > 3, "seed {seed}: {looks} looks");
        seen.iter().for_each(|seen| look(&client, seen, seed, 600));
        drop(seen);
        client.verify();
        client.quiesce_and_check();
        client.checkpoint().unwrap();
        client.checkpoint().unwrap();
        let pins = &client.engine.metrics().pins;
        assert_eq!((pins.containers.get(), pins.places.get(), pins.held.get()), (0, 0, 0), "seed {seed}");
    }
}

fn look(client: &Client, seen: &Seen, seed: u64, step: u64) {
    if let Err(error) = client.look(seen) {
        let broken = matches!(error, StoreError::PinBroken) && seen.pin.is_broken();
        assert!(broken, "seed {seed} step {step}: {error}, broken: {}", seen.pin.is_broken());
    }
}

#[test]
fn a_pin_holds_dead_containers_back_and_gives_them_to_the_next_publication_when_it_is_dropped() {
    let (_, mut client) = fresh(24, 512, 3);
    for key in 0..60 {
        client.run(&Op::Write { tree: 0, key, seed: u64::from(key), len: 40_000 }).unwrap();
    }
    client.quiesce();
    client.engine.retain(crate::HistoryPolicy::NONE);
    client.quiesce();
    let seen = client.see();
    for key in 0..60 {
        client.run(&Op::Delete { tree: 0, key }).unwrap();
    }
    for _ in 0..6 {
        tick(&client.clock);
        client.quiesce();
        client.look(&seen).unwrap();
    }
    let metrics = &client.engine.metrics().pins;
    let (held, free) = (metrics.containers.get(), client.engine.usage().free);
    assert!(held >= 8, "{held} containers are held back");
    assert!(metrics.oldest_ms.get() >= 35 && metrics.held.get() == 1 && metrics.broken.get() == 0);
    drop(seen);
    client.quiesce();
    let now = client.engine.usage().free;
    assert!(now >= free + (held - 2) * (256 << 10), "{now} bytes free, {free} before, {held} containers were held");
    client.quiesce_and_check();
}

/// Readers that come and go: each pins what it reads for a moment, and at each publication somebody is inside.
#[test]
fn pins_that_overlap_for_ever_do_not_hold_back_what_none_of_them_saw() {
    let (_, mut client) = fresh(24, 512, 3);
    let mut seen = client.see();
    for round in 0..200 {
        for key in 0..12 {
            client.run(&Op::Write { tree: 0, key, seed: round * 100 + u64::from(key), len: 40_000 }).unwrap();
        }
        client.checkpoint().unwrap();
        client.look(&seen).unwrap();
        // The next one is taken before this one is dropped.
        seen = client.see();
        tick(&client.clock);
    }
    assert_eq!(client.engine.metrics().pins.broken.get(), 0);
    drop(seen);
    client.quiesce_and_check();
}

#[test]
fn a_full_store_takes_back_what_pins_hold_before_it_refuses_anybody() {
    let (_, mut client) = fresh(16, 512, 3);
    let keys = fill(&mut client, 0);
    let seen = client.see();
    for round in 0..4 {
        // Deletions never fail, however long the pin is held.
        for key in 0..keys {
            client.run(&Op::Delete { tree: 0, key }).unwrap_or_else(|error| panic!("round {round} key {key}: {error}"));
        }
        let again = fill(&mut client, 0);
        assert!(again + 8 >= keys, "round {round}: {again} objects fit, {keys} before");
    }
    assert!(seen.pin.is_broken());
    assert_eq!(client.engine.metrics().pins.broken.get(), 1);
    assert!(matches!(client.look(&seen), Err(StoreError::PinBroken)));
    // One taken now holds what is there now.
    let now = client.see();
    client.look(&now).unwrap();
    drop((seen, now));
    client.verify();
    client.quiesce_and_check();
}

/// Forks and their deletion go as deep as the last container: a pin must not keep publications from what they need.
#[test]
fn publications_never_run_out_of_containers_because_of_a_pin() {
    let (_, mut client) = fresh(16, 512, 3);
    let keys = fill(&mut client, 0);
    let mut broken = 0;
    for round in 0..60 {
        let seen = client.see();
        client.run(&Op::Fork { from: 0, to: 1 }).unwrap();
        client.run(&Op::Delete { tree: 1, key: round % keys }).unwrap();
        client.checkpoint().unwrap_or_else(|error| panic!("round {round}: {error}"));
        client.run(&Op::Drop { tree: 1 }).unwrap();
        client.checkpoint().unwrap_or_else(|error| panic!("round {round}: {error}"));
        broken += u32::from(seen.pin.is_broken());
        look(&client, &seen, 3, round.into());
        // Never dropped: as if a reader had gone astray.
        std::mem::forget(seen);
    }
    assert!(broken > 0);
    client.verify();
    client.quiesce_and_check();
}

/// A reader that pins while the publication ends: it sees the old roots until `show`, and the new ones from then on.
#[test]
fn whoever_pins_before_the_new_roots_are_shown_reads_the_old_ones() {
    let (_, mut client) = fresh(24, 512, 3);
    client.engine.retain(crate::HistoryPolicy::NONE);
    for round in 0..8 {
        for key in 0..40 {
            client.run(&Op::Write { tree: 0, key, seed: round * 100 + u64::from(key), len: 40_000 }).unwrap();
        }
        client.checkpoint().unwrap();
        let (trees, top) = client.parts();
        for key in 0..40 {
            client.run(&Op::Delete { tree: 0, key }).unwrap();
        }
        let building = client.build().unwrap();
        let late = RefCell::new(None);
        let pins = std::sync::Arc::clone(&client.engine.reader.pins);
        client.finish_and_show(building, &mut || *late.borrow_mut() = Some(pins.pin())).unwrap();
        let late = late.into_inner().unwrap();
        let seen = Seen::of(late, trees, top);
        for _ in 0..3 {
            client.look(&seen).unwrap_or_else(|error| panic!("round {round}: {error}"));
            client.checkpoint().unwrap();
        }
    }
    client.quiesce_and_check();
}

/// Objects that the cleaner moved, and that die then: their page forgets where they are, a pin does not.
#[test]
fn what_was_moved_before_it_died_is_found_where_it_was_moved_to() -> Result<()> {
    let (_, mut client) = fresh(24, 512, 3);
    client.engine.retain(crate::HistoryPolicy::NONE);
    for key in 0..120 {
        client.run(&Op::Write { tree: 0, key, seed: u64::from(key), len: 20_000 })?;
    }
    client.checkpoint()?;
    for key in (0..120).filter(|key| key % 4 != 0) {
        client.run(&Op::Delete { tree: 0, key })?;
    }
    client.checkpoint()?;
    while client.engine.clean_anyway()? {}
    client.checkpoint()?;
    client.checkpoint()?;
    assert!(client.engine.metrics().cleaner.moved.get() >= 20);
    let seen = client.see();
    for key in (0..120).step_by(4) {
        client.run(&Op::Delete { tree: 0, key })?;
    }
    for round in 0..5 {
        client.checkpoint()?;
        client.look(&seen)?;
        if round == 1 {
            assert!(client.engine.metrics().pins.places.get() >= 20);
        }
    }
    drop(seen);
    client.checkpoint()?;
    assert_eq!(client.engine.metrics().pins.places.get(), 0);
    client.quiesce_and_check();
    Ok(())
}

/// With no memory for such places a pin is broken at once, and says so.
#[test]
fn a_pin_is_broken_rather_than_more_memory_taken() {
    let device = crate::device::SimulatedDevice::new(24 << 20, 512, 3);
    small_format(&device);
    let clock = clock();
    let settings = crate::Settings { pinned_bytes: 0, history: crate::HistoryPolicy::NONE, ..tight() };
    let options = crate::Options {
        read_only: false,
        threads: false,
        accept_loss: false,
        clock: std::sync::Arc::<crate::hlc::ManualClock>::clone(&clock),
        settings,
    };
    let engine = crate::Engine::open(std::sync::Arc::new(device), options).unwrap();
    let mut client = Client::start(engine, clock);
    fragment(&mut client);
    while client.engine.clean_anyway().unwrap() {}
    client.checkpoint().unwrap();
    let seen = client.see();
    client.run(&Op::Delete { tree: 0, key: 4 }).unwrap();
    client.checkpoint().unwrap();
    assert!(seen.pin.is_broken());
    assert_eq!(client.engine.metrics().pins.broken.get(), 1);
    drop(seen);
    client.quiesce_and_check();
}
