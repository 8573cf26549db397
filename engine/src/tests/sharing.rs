use super::client::*;
use crate::store::*;

#[test]
fn counts_and_liveness_equal_what_is_reachable() {
    for seed in seeds(0..12, "sharing::counts_and_liveness") {
        let (_, mut client) = fresh(16, if seed % 2 == 0 { 512 } else { 4096 }, seed);
        let mut rng = Rng(seed);
        for step in 0..400 {
            tick(&client.clock);
            let op = client.random_op(&mut rng, 6, 40);
            client.run(&op).unwrap();
            match rng.below(40) {
                0 => client.checkpoint().unwrap(),
                1 => client.commit().unwrap(),
                2 => {
                    let building = client.build().unwrap();
                    for _ in 0..rng.below(8) {
                        let op = client.random_op(&mut rng, 6, 40);
                        client.run(&op).unwrap();
                    }
                    client.finish(building).unwrap();
                }
                _ => {}
            }
            if step % 100 == 99 {
                client.verify();
                client.quiesce_and_check();
            }
        }
    }
}

#[test]
fn all_space_returns_when_everything_is_deleted() {
    let (_, mut client) = fresh(16, 512, 3);
    client.quiesce_and_check();
    let before = client.engine.usage();
    let mut rng = Rng(5);
    for _ in 0..300 {
        let op = client.random_op(&mut rng, 4, 64);
        client.run(&op).unwrap();
    }
    for tree in 0..4 {
        client.run(&Op::Drop { tree }).unwrap();
    }
    client.quiesce_and_check();
    client.quiesce_and_check();
    let after = client.engine.usage();
    assert_eq!((after.live, after.shared_objects, after.drop_queue), (before.live, 0, 0));
    // What is open, and the system pages, may take some containers; nothing else.
    assert!(after.free + (6 << 18) >= before.free, "{before:?} {after:?}");
}

#[test]
fn a_remounted_store_is_as_it_was() {
    let (device, mut client) = fresh(16, 4096, 1);
    let mut rng = Rng(8);
    let (mut client_device, clock) = (device, client.clock.clone());
    for _ in 0..6 {
        for _ in 0..60 {
            let op = client.random_op(&mut rng, 5, 40);
            client.run(&op).unwrap();
        }
        if rng.below(2) == 0 {
            client.checkpoint().unwrap();
        }
        client.commit().unwrap();
        let want = client.logical();
        client.engine.close().unwrap();
        client_device = client_device.process_crash();
        client = Client::start(open(&client_device, &clock).unwrap(), clock.clone());
        assert_eq!(client.logical(), want);
        client.quiesce_and_check();
    }
}
