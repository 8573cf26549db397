use super::client::*;
use super::set_barrier;
use crate::store::*;
use envoyfs_layout::superblock::Barrier;
use std::time::Duration;

/// Runs a history until the device stops; returns the history and what was acknowledged.
fn run_until_crash(client: &mut Client, rng: &mut Rng, steps: u64) -> Result<()> {
    for _ in 0..steps {
        tick(&client.clock);
        let op = client.random_op(rng, 5, 32);
        client.run(&op)?;
        match rng.below(30) {
            0 | 1 => client.checkpoint()?,
            2..=6 => client.commit()?,
            7 => {
                let building = client.build()?;
                for _ in 0..rng.below(5) {
                    let op = client.random_op(rng, 5, 32);
                    client.run(&op)?;
                }
                if rng.below(4) == 0 {
                    client.abandon(building)?;
                } else {
                    client.finish(building)?;
                }
            }
            8 => {
                client.clock.advance(Duration::from_millis(1500));
                client.engine.pump()?;
            }
            9 | 10 => {
                client.engine.clean_anyway()?;
            }
            _ => {}
        }
    }
    Ok(())
}

#[test]
fn after_a_crash_at_any_io_the_state_is_a_prefix_with_everything_acknowledged() {
    let rounds: u64 = std::env::var("CRASH_ROUNDS").ok().and_then(|s| s.parse().ok()).unwrap_or(60);
    let first: u64 = std::env::var("CRASH_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    for seed in first..first + rounds {
        println!("CRASH_SEED={seed} CRASH_ROUNDS=1");
        one_crash_history(seed);
    }
}

fn one_crash_history(seed: u64) {
    let mut rng = Rng(seed);
    let (mut device, mut client) = fresh(8, if seed.is_multiple_of(3) { 4096 } else { 512 }, seed);
    let clock = client.clock.clone();
    if seed % 2 == 1 {
        // Forced unit access: block and small data are durable writes, other data makes a group flush.
        drop(client);
        device = device.process_crash();
        set_barrier(&device, Barrier::ForcedUnitAccess);
        client = Client::start(open(&device, &clock).unwrap(), clock.clone());
    }
    for crash in 0..6 {
        device.crash_after(rng.below(120));
        if let Err(error) = run_until_crash(&mut client, &mut rng, 200) {
            assert!(device.is_crashed(), "seed {seed} crash {crash}: {error}");
        }
        let acknowledged = client.acknowledged;
        let history = std::mem::take(&mut client.history);
        device = device.crash(rng.next());
        // Crash in recovery too, sometimes.
        for _ in 0..rng.below(3) {
            device.crash_after(rng.below(25));
            let opened = open(&device, &clock);
            drop(opened);
            device = device.crash(rng.next());
        }
        let engine = open(&device, &clock).unwrap_or_else(|e| panic!("seed {seed} crash {crash}: {e}"));
        assert_eq!(engine.read_only(), "");
        client = Client::start(engine, clock.clone());
        let end = client.engine.recovered_end();
        assert!(end >= acknowledged, "seed {seed} crash {crash}: {end:?} recovered, {acknowledged:?} acknowledged");
        // Engine records may stand behind the last client record.
        let (_, want) = history.iter().rev().find(|(lsn, _)| *lsn <= end).unwrap_or_else(|| {
            panic!("seed {seed} crash {crash}: recovered {end:?}, history starts at {:?}", history[0].0)
        });
        assert_eq!(&client.logical(), want, "seed {seed} crash {crash}: recovered {end:?}");
        client.acknowledged = end;
        if rng.below(2) == 0 {
            client.quiesce_and_check();
        }
    }
    client.quiesce_and_check();
}
