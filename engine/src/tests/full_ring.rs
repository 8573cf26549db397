//! A ring that is full to its last block: the checkpoint that empties it needs none of it (decision 0008).

use super::client::*;
use crate::StoreError;
use crate::device::{Fault, SimulatedDevice};
use crate::format::{FormatOptions, format};
use crate::store::{Batch, Draft, Need, Store, Tier};
use envoyfs_layout::node::{NodeBuilder, Owner, TreeKind};
use envoyfs_layout::{Hlc, ReferenceKind};

/// 256 blocks of ring, of which a publication may use an eighth.
const RING_BYTES: u64 = 128 << 10;

fn short_ring(seed: u64) -> (SimulatedDevice, Client) {
    let device = SimulatedDevice::new(64 << 20, 512, seed);
    let options = FormatOptions {
        wal_bytes: Some(RING_BYTES),
        segment_bytes: Some(256 << 10),
        small: true,
        ..FormatOptions::new("test", [7; 16], [9; 16], 1_700_000_000_000_000_000)
    };
    format(&device, &options).unwrap();
    let clock = clock();
    let client = Client::start(open(&device, &clock).unwrap(), clock);
    (device, client)
}

/// Small values until the log has no room for another; all acknowledged.
fn fill_ring(client: &mut Client) {
    for key in 0..100_000 {
        let op = Op::Small { tree: 0, key: key % 64, seed: u64::from(key) + 1, len: 700 };
        match client.try_run(&op) {
            Ok(()) => {}
            Err(StoreError::WouldWait { what: "log space" }) => {
                client.commit().unwrap();
                let room = client.engine.writer().unwrap().wal.room();
                assert!(room.free_blocks() < 8, "{room:?}");
                return;
            }
            Err(error) => panic!("key {key}: {error}"),
        }
    }
    panic!("the log does not get full");
}

/// Nodes that nothing leads to: a checkpoint that takes many segments, each of whose records others frame alone.
fn crowd(client: &Client, nodes: u32) -> crate::store::Result<()> {
    for number in 0..nodes {
        let mut builder = NodeBuilder::new(TreeKind::Extents, 0, Hlc(8), Owner::default());
        for item in 0..15_u32 {
            builder.push(&item.to_le_bytes(), &[number as u8; 1000], &[]).unwrap();
        }
        client.engine.append_node(Batch::Frozen, ReferenceKind::Node, 0, Hlc(8), &builder.finish())?;
        client.engine.writer()?.wal.frame()?;
    }
    Ok(())
}

fn crowded_checkpoint(client: &mut Client, nodes: u32) -> crate::store::Result<()> {
    let building = client.build()?;
    crowd(client, nodes)?;
    client.finish(building)
}

#[test]
fn a_checkpoint_that_the_ring_has_no_room_for_is_published_without_a_record() {
    let (device, mut client) = short_ring(1);
    for round in 0..3 {
        fill_ring(&mut client);
        let building = client.build().unwrap();
        crowd(&client, 600).unwrap();
        let end = client.engine.end();
        client.finish(building).unwrap();
        // Published, and told of afterwards, durably.
        assert!(client.engine.end().0 - end.0 > 200, "there is no record of it now");
        assert_eq!(client.engine.writer().unwrap().wal.durable(), client.engine.end());
        let checkpoint = &client.engine.metrics().checkpoint;
        assert_eq!((checkpoint.published.get(), checkpoint.unrecorded.get()), (round + 1, round + 1));
        let room = client.engine.writer().unwrap().wal.room();
        assert!(room.used_blocks < 64 && room.free_blocks() > 128, "it gave the ring back: {room:?}");
    }
    let want = client.logical();
    client = Client::start(open(&device.process_crash(), &client.clock).unwrap(), client.clock.clone());
    assert_eq!(client.logical(), want);
    // The next one has a record again, and what it adopts is resolved.
    client.run(&Op::Write { tree: 3, key: 1, seed: 5, len: 9000 }).unwrap();
    client.checkpoint().unwrap();
    assert_eq!(client.engine.metrics().checkpoint.unrecorded.get(), 0);
    client.quiesce_and_check();
}

/// The mount after it has to tell of it, and the log takes no write.
#[test]
fn a_mount_that_cannot_tell_of_a_checkpoint_can_be_read() {
    let mut untold = 0;
    for ios in 1..400 {
        let (device, mut client) = short_ring(1);
        fill_ring(&mut client);
        let building = client.build().unwrap();
        crowd(&client, 600).unwrap();
        let (want, clock) = (client.logical(), client.clock.clone());
        device.crash_after(ios);
        let is_told = client.finish(building).is_ok();
        drop(client);
        let device = device.process_crash();
        let superblock = crate::superblock::open(&device).unwrap().superblock;
        let copy = SimulatedDevice::from_image(device.image(), 512, 1);
        let engine = open(&copy, &clock).unwrap();
        if engine.checkpoint == 1 && engine.end() > engine.end {
            untold += 1;
            let log = superblock.ring_offset..superblock.ring_offset + superblock.ring_bytes;
            log.step_by(512).for_each(|offset| device.inject(Fault::WriteError { offset }));
            let client = Client::start(open(&device, &clock).unwrap(), clock);
            assert!(client.engine.read_only().contains("cannot be written"), "{}", client.engine.read_only());
            assert_eq!(client.logical(), want);
        }
        if is_told {
            break;
        }
    }
    assert!(untold > 0);
}

/// A ring that is not full, with a segment that the log does not tell of: the CHECKPOINT record that leads into it is left out.
#[test]
fn a_checkpoint_with_a_segment_that_the_log_does_not_tell_of_has_no_record() {
    let (device, mut client) = short_ring(2);
    fill_ring(&mut client);
    let building = client.build().unwrap();
    crowd(&client, 600).unwrap();
    client.finish(building).unwrap();
    // The ring has room again, and nodes go on into a segment that only the table tells of; now one that nothing tells of.
    let space = &client.engine.writer().unwrap().space;
    let before = space.unlogged();
    assert!(before.is_empty(), "the table tells of all: {before:?}");
    client.run(&Op::Small { tree: 1, key: 1, seed: 1, len: 100 }).unwrap();
    client.commit().unwrap();
    let frozen = client.build().unwrap();
    let space = &client.engine.writer().unwrap().space;
    let open = space.with_containers(|rows| rows.used().map(|(_, row)| row.segment).max().unwrap());
    space.forget_logged(open);
    device.crash_after(1_000_000);
    client.finish(frozen).unwrap();
    assert_eq!(client.engine.metrics().checkpoint.unrecorded.get(), 2);
    client.quiesce_and_check();
}

/// Power fails at each IO of the publication, and of the mount after it; then many times over, always before the checkpoint is there.
#[test]
fn a_full_ring_is_left_behind_however_often_power_fails_before_its_checkpoint() {
    let step: u64 = std::env::var("FULL_RING_STEP").ok().and_then(|s| s.parse().ok()).unwrap_or(7);
    let mut at = 0;
    loop {
        let (device, mut client) = short_ring(at);
        client.run(&Op::Write { tree: 2, key: 1, seed: 77, len: 30_000 }).unwrap();
        fill_ring(&mut client);
        let want = client.logical();
        device.crash_after(at);
        let done = crowded_checkpoint(&mut client, 600).is_ok();
        let clock = client.clock.clone();
        drop(client);
        let mut device = device.crash(at);
        for again in 0..12 {
            device.crash_after(again * 5 + at % 5);
            if let Ok(engine) = open(&device, &clock) {
                assert_eq!(engine.read_only(), "", "io {at}, mount {again}");
                let mut client = Client::start(engine, clock.clone());
                assert_eq!(client.logical(), want, "io {at}, mount {again}");
                let _ = crowded_checkpoint(&mut client, 30);
            }
            device = device.crash(at ^ again);
        }
        let engine = open(&device, &clock).unwrap();
        assert_eq!(engine.read_only(), "", "io {at}");
        let mut client = Client::start(engine, clock);
        assert_eq!(client.logical(), want, "io {at}");
        crowded_checkpoint(&mut client, 100).unwrap_or_else(|error| panic!("io {at}: {error}"));
        client.run(&Op::Write { tree: 4, key: 1, seed: 78, len: 30_000 }).unwrap();
        client.quiesce_and_check();
        if done {
            break;
        }
        at += step;
    }
    assert!(at > 20, "the publication has more IOs than {at}");
}

/// What others were promised is not taken for a checkpoint's records.
#[test]
fn what_operations_were_promised_stays_theirs_in_a_full_ring() {
    let (_, mut client) = short_ring(4);
    let need = Need { log_bytes: 9000, node_bytes: 4096, payload_bytes: 0, data_bytes: 0, tier: Tier::Writer };
    let mut permits: Vec<_> = (0..3).map(|_| client.engine.reserve(need).unwrap()).collect();
    fill_ring(&mut client);
    let building = client.build().unwrap();
    crowd(&client, 600).unwrap();
    for permit in &mut permits {
        let draft = Draft { kind: 300, territory: 1, origin: None, data: &[], body: &[6; 8800] };
        let end = client.engine.append(permit, draft).unwrap().end;
        client.engine.commit(end).unwrap();
    }
    client.finish(building).unwrap();
    assert_eq!(client.engine.metrics().checkpoint.unrecorded.get(), 1);
}

/// Random histories with forks amid publications, on rings that are full most of the time; power fails at any IO, also in mounts.
#[test]
fn on_a_ring_that_is_nearly_always_full_every_crash_leaves_a_prefix() {
    let rounds: u64 = std::env::var("FULL_RING_ROUNDS").ok().and_then(|s| s.parse().ok()).unwrap_or(10);
    let first: u64 = std::env::var("FULL_RING_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    let mut unrecorded = 0;
    for seed in first..first + rounds {
        println!("FULL_RING_SEED={seed} FULL_RING_ROUNDS=1");
        unrecorded += one_history(seed);
    }
    assert!(rounds < 10 || unrecorded > rounds / 2, "only {unrecorded} checkpoints without a record");
}

/// Small values, each in two blocks of its own, until there is no room.
fn crowd_ring(client: &mut Client, rng: &mut Rng) -> crate::store::Result<()> {
    loop {
        let op = Op::Small { tree: rng.below(5) as u32, key: rng.below(32) as u32, seed: rng.next(), len: 600 };
        match client.try_run(&op) {
            Err(StoreError::WouldWait { .. }) => return Ok(()),
            done => done?,
        }
        client.engine.writer()?.wal.frame()?;
    }
}

fn crowded_history(client: &mut Client, rng: &mut Rng, steps: u64) -> crate::store::Result<()> {
    for _ in 0..steps {
        tick(&client.clock);
        let op = client.random_op(rng, 5, 32);
        client.run(&op)?;
        match rng.below(12) {
            0 => client.commit()?,
            // Each record in a block of its own.
            1..=7 => client.engine.writer()?.wal.frame()?,
            8 => {
                client.engine.clean_anyway()?;
            }
            9 => {
                if rng.below(3) > 0 {
                    crowd_ring(client, rng)?;
                }
                let building = client.build()?;
                crowd(client, rng.below(1200) as u32)?;
                for _ in 0..rng.below(8) {
                    let op = if rng.below(3) == 0 {
                        Op::Fork { from: rng.below(5) as u32, to: rng.below(5) as u32 }
                    } else {
                        client.random_op(rng, 5, 32)
                    };
                    client.run(&op)?;
                    client.engine.writer()?.wal.frame()?;
                }
                if rng.below(5) == 0 {
                    client.abandon(building)?;
                } else {
                    client.finish(building)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// How many checkpoints had no record.
fn one_history(seed: u64) -> u64 {
    let mut rng = Rng(seed);
    let (mut device, mut client) = short_ring(seed);
    let clock = client.clock.clone();
    let mut unrecorded = 0;
    for crash in 0..5 {
        device.crash_after(rng.below(3000));
        if let Err(error) = crowded_history(&mut client, &mut rng, 100) {
            assert!(device.is_crashed(), "seed {seed} crash {crash}: {error}");
        }
        unrecorded += client.engine.metrics().checkpoint.unrecorded.get();
        let acknowledged = client.acknowledged;
        let history = std::mem::take(&mut client.history);
        device = device.crash(rng.next());
        for _ in 0..rng.below(3) {
            device.crash_after(rng.below(25));
            drop(open(&device, &clock));
            device = device.crash(rng.next());
        }
        let engine = open(&device, &clock).unwrap_or_else(|e| panic!("seed {seed} crash {crash}: {e}"));
        assert_eq!(engine.read_only(), "", "seed {seed} crash {crash}");
        // What the mount appends, and forks that are replayed, stands behind this.
        let end = engine.recovered_end();
        client = Client::start(engine, clock.clone());
        assert!(end >= acknowledged, "seed {seed} crash {crash}: {end:?} recovered, {acknowledged:?} acknowledged");
        let (_, want) = history.iter().rev().find(|(lsn, _)| *lsn <= end).unwrap();
        let found = client.logical();
        if &found != want {
            let alike: Vec<_> = history.iter().filter(|(_, state)| *state == found).map(|(lsn, _)| lsn.0).collect();
            panic!("seed {seed} crash {crash}: recovered to {end:?}, but the state is that of {alike:?}");
        }
        client.acknowledged = end;
        if rng.below(2) == 0 {
            client.quiesce_and_check();
        }
    }
    client.quiesce_and_check();
    unrecorded
}
