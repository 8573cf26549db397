//! Retained checkpoints: readable as they were until they are dropped (INV-31), and never the reason for a full store.

use super::client::*;
use crate::HistoryPolicy;
use crate::StoreError;
use crate::store::*;
use std::collections::BTreeMap;

fn keep(checkpoints_max: u32) -> HistoryPolicy {
    HistoryPolicy { checkpoints_max, interval_ms: 0, part_max: 2, ..HistoryPolicy::default() }
}

#[test]
fn retained_checkpoints_read_as_they_were_whatever_is_overwritten_deleted_and_cleaned() {
    for seed in seeds(0..6, "history::retained_checkpoints_read") {
        let (device, mut client) = fresh(16, if seed % 2 == 0 { 512 } else { 4096 }, seed);
        client.engine.retain(keep(5));
        let mut rng = Rng(seed);
        let mut known: BTreeMap<u64, Logical> = BTreeMap::new();
        let mut different = 0;
        for _ in 0..60 {
            let records = client.history.len();
            for _ in 0..rng.below(30) {
                tick(&client.clock);
                let op = client.random_op(&mut rng, 5, 30);
                client.run(&op).unwrap();
            }
            client.checkpoint().unwrap();
            // One that is as the one before is not retained.
            different += usize::from(client.history.len() > records);
            known.insert(client.engine.usage().checkpoint, client.logical());
            let history = client.engine.history().unwrap();
            assert!(history.len() <= 5 && history.len() >= 4.min(different), "{} retained", history.len());
            for root in &history {
                assert_eq!(root.roots.blob, root.checkpoint.to_le_bytes());
                if let Some(top) = root.roots.references.first() {
                    assert_eq!(client.read_root(*top), known[&root.checkpoint], "checkpoint {}", root.checkpoint);
                }
            }
            assert_eq!(client.engine.check_space(), Vec::<String>::new());
        }
        assert!(client.engine.usage().deferred > 0);
        let roots = client.engine.history().unwrap();
        client.commit().unwrap();
        let again = open(&device.process_crash(), &client.clock).unwrap();
        assert_eq!(again.history().unwrap(), roots, "a mount knows them");
        client = Client::start(again, client.clock.clone());
        // Dropped, they give everything back.
        client.engine.retain(HistoryPolicy::NONE);
        while client.engine.usage().deferred > 0 {
            client.checkpoint().unwrap();
        }
        assert_eq!(client.engine.history().unwrap(), Vec::new());
        client.quiesce_and_check();
    }
}

/// They follow each other until the drop queue is empty, within a second: what was retained before the deletion is what people want to come back to.
#[test]
fn publications_that_only_work_off_a_deletion_keep_what_is_retained_and_retain_nothing() {
    let (device, mut client) = fresh(16, 512, 3);
    client.engine.retain(keep(3));
    for key in 0..300 {
        client.run(&Op::Small { tree: 1, key, seed: key.into(), len: 3000 }).unwrap();
    }
    client.checkpoint().unwrap();
    let (before, want) = (client.engine.usage().checkpoint, client.logical());
    client.run(&Op::Drop { tree: 1 }).unwrap();
    client.checkpoint().unwrap();
    // Those of other mounts, too.
    for _ in 0..3 {
        client.commit().unwrap();
        client = Client::start(open(&device, &client.clock).unwrap(), client.clock.clone());
        client.engine.retain(keep(3));
        (0..2).for_each(|_| client.checkpoint().unwrap());
    }
    let history = client.engine.history().unwrap();
    let oldest = history.iter().find(|root| root.checkpoint == before);
    let oldest = oldest.unwrap_or_else(|| panic!("{before} is gone: {history:?}"));
    assert_eq!(client.read_root(oldest.roots.references[0]), want);
    assert_eq!(history.iter().filter(|root| root.checkpoint > before).count(), 1, "{history:?}");
    client.quiesce_and_check();
}

#[test]
fn history_goes_before_anybody_is_told_that_the_store_is_full() {
    let mut fits = Vec::new();
    for policy in [HistoryPolicy::NONE, HistoryPolicy { part_max: 1, ..keep(200) }] {
        let (_, mut client) = fresh(16, 512, 3);
        client.engine.retain(policy);
        // Everything is overwritten again and again, so that what is kept is many times the store.
        let mut keys = 0;
        for round in 0..6 {
            for key in 0..400 {
                match client.run(&Op::Write { tree: 0, key, seed: u64::from(key) + round, len: 24 << 10 }) {
                    Ok(()) => keys = keys.max(key),
                    Err(StoreError::NoSpace { .. }) => break,
                    Err(error) => panic!("{error}"),
                }
            }
            client.quiesce_and_check();
        }
        client.verify();
        fits.push(keys);
    }
    assert!(fits[1] + 8 >= fits[0], "{fits:?} keys fit without and with history");
}
