//! No container at the n-th call, for every n, whatever it is wanted for: data, nodes, payloads, survivors, pages.

use super::client::*;
use crate::StoreError;
use crate::device::SimulatedDevice;
use crate::store::{Result, Store as _};
use std::sync::atomic::Ordering;

/// Where a refusal was met, of the calls that were tried.
#[derive(Debug, Default)]
struct Met {
    /// A writer was told, and everything went on.
    told: u64,
    /// The cleaner went on without.
    passed: u64,
    /// A checkpoint failed, and with it the store.
    poisoned: u64,
    /// A client's nodes had no place.
    nodes: u64,
}

/// Sets `writes` while nothing but data is written.
fn step(client: &mut Client, rng: &mut Rng, writes: &mut bool) -> Result<()> {
    tick(&client.clock);
    let op = client.random_op(rng, 4, 24);
    *writes = matches!(op, Op::Write { .. } | Op::Grow { .. });
    client.run(&op)?;
    *writes = false;
    match rng.below(12) {
        0 => client.checkpoint(),
        1 | 2 => client.commit(),
        3 | 4 => client.engine.clean_anyway().map(drop),
        _ => Ok(()),
    }
}

/// Another process on the same device: a prefix of the history, with everything acknowledged.
fn again(device: &SimulatedDevice, client: &mut Client, n: u64) -> SimulatedDevice {
    let (clock, acknowledged) = (client.clock.clone(), client.acknowledged);
    let history = std::mem::take(&mut client.history);
    let device = device.process_crash();
    *client = Client::start(open(&device, &clock).unwrap(), clock);
    let end = client.engine.end();
    assert!(end >= acknowledged, "call {n}: {end:?} recovered, {acknowledged:?} acknowledged");
    let (_, want) = history.iter().rev().find(|(lsn, _)| *lsn <= end).unwrap();
    assert_eq!(&client.logical(), want, "call {n}");
    device
}

#[test]
fn a_container_may_be_refused_at_any_call() {
    let mut met = Met::default();
    for n in 0..10_000 {
        let mut rng = Rng(11);
        let (mut device, mut client) = fresh(8, 512, 1);
        let refuse_in = |client: &Client| client.engine.writer().unwrap().space.refuse_in.load(Ordering::SeqCst);
        client.engine.writer().unwrap().space.refuse_in.store(n, Ordering::SeqCst);
        let mut refused = false;
        for _ in 0..400 {
            let mut writes = false;
            let outcome = step(&mut client, &mut rng, &mut writes);
            let now = !refused && refuse_in(&client) > n;
            refused |= now;
            let Err(error) = outcome else {
                met.passed += u64::from(now);
                continue;
            };
            assert!(now, "call {n}: {error}, and nothing was refused");
            match client.engine.poisoned() {
                Some(why) => {
                    met.poisoned += 1;
                    assert!(why.contains("space") || why.contains("checkpoint"), "call {n}: {why}");
                    let refused = client.run(&Op::Write { tree: 0, key: 0, seed: 1, len: 512 });
                    assert!(matches!(refused, Err(StoreError::Poisoned { .. })), "call {n}: {refused:?}");
                }
                None => {
                    assert!(matches!(error, StoreError::NoSpace { .. }), "call {n}: {error}");
                    // A writer's data had no place: nothing happened. Else a node of the client's had none, and the client is in the middle of something.
                    if writes {
                        met.told += 1;
                        continue;
                    }
                    met.nodes += 1;
                }
            }
            device = again(&device, &mut client, n);
            refused = true;
        }
        client.verify();
        client.quiesce_and_check();
        client.commit().unwrap();
        again(&device, &mut client, n);
        if !refused {
            println!("{n} containers are taken: {met:?}");
            assert!(
                n > 15 && met.told > 2 && met.passed > 2 && met.poisoned > 0 && met.nodes > 0,
                "{n} containers are taken: {met:?}"
            );
            return;
        }
    }
    panic!("more containers than there can be");
}
