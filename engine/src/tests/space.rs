use super::client::*;
use crate::StoreError;
use crate::store::{Need, Store, Tier};

fn fill(client: &mut Client, tree: u32) -> u32 {
    for key in 0.. {
        match client.run(&Op::Write { tree, key, seed: u64::from(key) + 1, len: 48 << 10 }) {
            Ok(()) => {}
            Err(StoreError::NoSpace { .. }) => return key,
            Err(error) => panic!("{error}"),
        }
    }
    0
}

#[test]
fn a_full_store_can_still_delete_and_then_write_again() {
    let (_, mut client) = fresh(16, 512, 3);
    let mut last = 0;
    for round in 0..4 {
        let keys = fill(&mut client, 0);
        assert!(keys > 50, "round {round}: only {keys} objects fit");
        if round > 0 {
            assert!(keys + 8 >= last, "round {round}: {keys} objects fit, {last} before");
        }
        last = keys;
        client.verify();
        if round % 2 == 0 {
            for key in 0..keys {
                client.run(&Op::Delete { tree: 0, key }).unwrap();
            }
        } else {
            client.run(&Op::Drop { tree: 0 }).unwrap();
        }
        client.quiesce_and_check();
    }
}

#[test]
fn forks_and_their_deletion_work_at_zero_user_space() {
    let (_, mut client) = fresh(16, 512, 3);
    let keys = fill(&mut client, 0);
    for round in 0..30 {
        // Last tier: a fork, and its deletion; in between what only shrinks (INV-26).
        client.run(&Op::Fork { from: 0, to: 1 }).unwrap();
        client.run(&Op::Delete { tree: 1, key: round % keys }).unwrap();
        client.checkpoint().unwrap();
        client.run(&Op::Drop { tree: 1 }).unwrap();
        assert!(matches!(
            client.run(&Op::Write { tree: 2, key: 0, seed: 1, len: 48 << 10 }),
            Ok(()) | Err(StoreError::NoSpace { .. })
        ));
        client.checkpoint().unwrap();
        assert_eq!(client.engine.check_space(), Vec::<String>::new(), "round {round}");
    }
    client.verify();
    client.quiesce_and_check();
}

#[test]
fn fragmented_segments_are_cleaned_and_the_survivors_read() {
    for block in [512, 4096] {
        let (device, mut client) = fresh(16, block, 3);
        let keys = fill(&mut client, 0);
        // Every segment keeps a little.
        for key in (0..keys).filter(|key| key % 4 != 0) {
            client.run(&Op::Delete { tree: 0, key }).unwrap();
        }
        client.checkpoint().unwrap();
        let more = fill(&mut client, 1);
        assert!(more * 10 > keys * 5, "{more} objects fit after three quarters of {keys} were deleted");
        client.verify();
        client.quiesce_and_check();
        client.commit().unwrap();
        let want = client.logical();
        client = Client::start(open(&device.process_crash(), &client.clock).unwrap(), client.clock.clone());
        assert_eq!(client.logical(), want);
        client.run(&Op::Drop { tree: 0 }).unwrap();
        client.run(&Op::Drop { tree: 1 }).unwrap();
        client.quiesce_and_check();
        client.quiesce_and_check();
        assert!(fill(&mut client, 2) + 8 >= keys);
        client.verify();
    }
}

#[test]
fn what_was_admitted_and_has_no_record_yet_makes_no_checkpoint_due() {
    let (_, client) = fresh(16, 512, 3);
    let dirty = client.engine.writer().unwrap().admission.budget.dirty_max;
    assert!(client.engine.wait_checkpoint(0).is_none());
    let need = Need { log_bytes: 100, node_bytes: dirty, payload_bytes: 0, data_bytes: 0, tier: Tier::Writer };
    let permit = client.engine.reserve(need).unwrap();
    assert!(client.engine.wait_checkpoint(0).is_none(), "it could not take anything");
    drop(permit);
}

#[test]
fn who_makes_way_does_not_wait_for_the_containers_of_a_writers_data() {
    let (device, client) = fresh(16, 512, 3);
    let (device, engine) = (device.slow(true), &client.engine);
    let space = &engine.writer().unwrap().space;
    space.wait_writes().unwrap();
    let (before, opened) = (device.counters().writes, space.openings());
    while space.openings() < opened + 3 {
        let need = Need { log_bytes: 64, node_bytes: 0, payload_bytes: 0, data_bytes: 65_536, tier: Tier::Writer };
        let mut permit = engine.reserve(need).unwrap();
        let object = engine.append_data(&mut permit, None, &[7; 65_536]).unwrap();
        engine.abandon_data(&object);
    }
    let submitted = device.counters().writes - before;
    space.make_way(0);
    let under_way = device.poll(usize::MAX) as u64;
    assert!(under_way >= 4 && under_way == submitted, "{under_way} of {submitted} are under way");
}
