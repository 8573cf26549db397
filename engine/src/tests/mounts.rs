//! What a mount after a crash leaves of containers and of the cleaner's knowledge.

use super::client::*;
use super::space::fill;
use crate::device::SimulatedDevice;
use crate::hlc::ManualClock;
use crate::store::{Batch, Result, Store};
use crate::{Engine, Options};
use envoyfs_layout::directory_page::ContainerState;
use envoyfs_layout::node::{NodeBuilder, Owner, TreeKind};
use envoyfs_layout::{ClientTag, Hlc, ReferenceKind};
use std::sync::Arc;

fn free(client: &Client) -> u32 {
    client.engine.writer().unwrap().space.free_containers()
}

fn open_published(device: &SimulatedDevice, clock: &Arc<ManualClock>) -> Result<Engine> {
    let clock: Arc<dyn crate::hlc::Clock> = Arc::<ManualClock>::clone(clock);
    let options = Options { read_only: false, threads: false, accept_loss: false, clock, settings: tight() };
    Engine::open_published(ClientTag::UNNAMED, Arc::new(device.clone()), options)
}

/// Nodes of 15 KiB that nothing refers to, for the frozen batch.
fn crowd(client: &Client, nodes: u8) -> Result<()> {
    for number in 0..nodes {
        let mut builder = NodeBuilder::new(TreeKind::Extents, 0, Hlc(8), Owner::default());
        for item in 0..15_u32 {
            builder.push(&item.to_le_bytes(), &[number; 1000], &[]).unwrap();
        }
        client.engine.append_node(Batch::Frozen, ReferenceKind::Node, 0, Hlc(8), &builder.finish())?;
    }
    Ok(())
}

/// The process ends in each checkpoint, when its nodes' segments stand in the log and its record does not.
#[test]
fn checkpoints_that_are_killed_take_no_container_from_the_next_one() {
    let (mut device, mut client) = fresh(64, 512, 3);
    let keys = fill(&mut client, 0);
    client.checkpoint().unwrap();
    for key in 0..keys / 8 {
        client.run(&Op::Delete { tree: 0, key }).unwrap();
    }
    client.commit().unwrap();
    let want = client.logical();
    let mut least = u32::MAX;
    for round in 0..12 {
        let before = free(&client);
        let building = client.build().unwrap();
        crowd(&client, 60).unwrap();
        client.commit().unwrap();
        assert!(free(&client) + 3 <= before, "round {round}: the nodes take containers");
        drop(building);
        device = device.process_crash();
        client = Client::start(open(&device, &client.clock).unwrap(), client.clock.clone());
        least = least.min(free(&client));
        assert!(free(&client) + 1 >= least.max(before), "round {round}: {before} free, then {}", free(&client));
        assert_eq!(client.logical(), want, "round {round}");
    }
    let building = client.build().unwrap();
    crowd(&client, 60).unwrap();
    client.finish(building).unwrap();
    client.verify();
    client.quiesce_and_check();
    assert_eq!(client.engine.check_space(), Vec::<String>::new());
}

/// What was given back by one mount is given to another segment, and lost with that: the log tells of both.
#[test]
fn a_container_that_the_log_gives_to_two_segments_belongs_to_the_later_one() {
    let (mut device, mut client) = fresh(16, 512, 3);
    client.run(&Op::Write { tree: 0, key: 0, seed: 1, len: 48 << 10 }).unwrap();
    client.checkpoint().unwrap();
    for round in 0..20 {
        let building = client.build().unwrap();
        crowd(&client, 40).unwrap();
        client.commit().unwrap();
        drop(building);
        device = device.process_crash();
        client = Client::start(open(&device, &client.clock).unwrap(), client.clock.clone());
        // Data goes where nodes of the checkpoint that was killed lie.
        client.run(&Op::Write { tree: 0, key: round, seed: u64::from(round), len: 48 << 10 }).unwrap();
        client.commit().unwrap();
        let want = client.logical();
        device = device.process_crash();
        client = Client::start(open(&device, &client.clock).unwrap(), client.clock.clone());
        assert_eq!(client.logical(), want, "round {round}");
        client.verify();
        if round % 5 == 4 {
            client.checkpoint().unwrap();
        }
    }
    client.quiesce_and_check();
    assert_eq!(client.engine.check_space(), Vec::<String>::new());
}

/// A mount that starts from the published checkpoint, although the log holds a newer one, is killed when it has written: the next one adopts that one, and all that it leads to is there.
#[test]
fn what_a_checkpoint_that_was_not_adopted_leads_to_stays_until_another_is_published() {
    let mut tried = 0;
    for ios in 1.. {
        let (device, mut client) = fresh(16, 512, 3);
        for key in 0..60 {
            client.run(&Op::Write { tree: 0, key, seed: key.into(), len: 20 << 10 }).unwrap();
        }
        client.checkpoint().unwrap();
        for tree in 0..80 {
            client.run(&Op::Small { tree, key: 7, seed: 7, len: 3000 }).unwrap();
        }
        client.commit().unwrap();
        let clock = client.clock.clone();
        device.crash_after(ios);
        let is_published = client.checkpoint().is_ok();
        drop(client);
        let device = device.process_crash();
        let copy = SimulatedDevice::from_image(device.image(), 512, 1);
        let adopts = open(&copy, &clock).unwrap().metrics().recovery.adopted.get() == 1;
        assert!(adopts || !is_published || tried > 0);
        if adopts {
            tried += 1;
            let engine = open_published(&device, &clock).unwrap();
            assert_eq!(engine.metrics().recovery.adopted.get(), 0);
            let mut client = Client::start(engine, clock.clone());
            let write = |key: u32| Op::Write { tree: 100, key, seed: key.into(), len: 40 << 10 };
            // Until it would take a checkpoint.
            let written = (0..40).take_while(|key| client.try_run(&write(*key)).is_ok()).count();
            assert!(written > 0);
            client.commit().unwrap();
            let want = client.logical();
            drop(client);
            let engine = open(&device.process_crash(), &clock).unwrap();
            assert_eq!(engine.metrics().recovery.adopted.get(), 1, "cut after {ios}");
            let mut client = Client::start(engine, clock);
            assert_eq!(client.logical(), want, "cut after {ios}");
            // The tables name what the adopted checkpoint wrote: the cleaner can move it, a rebuild finds it.
            let space = &client.engine.writer().unwrap().space;
            for (container, row) in
                space.with_containers(|all| all.used().map(|(n, row)| (n, *row)).collect::<Vec<_>>())
            {
                if row.state == ContainerState::Sealed {
                    let (table, pieces, _) = client.engine.pieces_of(container, &row).unwrap();
                    let is_named =
                        |unit| table.range(..=unit).next_back().is_some_and(|(at, row)| unit < at + row.units());
                    assert!(pieces.iter().all(|piece| is_named(piece.unit)), "cut after {ios}: container {container}");
                }
            }
            client.verify();
            client.quiesce_and_check();
        }
        if is_published {
            break;
        }
    }
    assert!(tried > 0, "no cut leaves a checkpoint in the log that is not published");
}

/// The ages by which the cleaner chooses: in their order, and of the size of those that follow.
#[test]
fn what_is_from_before_a_mount_is_no_older_than_the_containers_since() {
    let (mut device, mut client) = fresh(16, 512, 3);
    for key in 0..150 {
        client.run(&Op::Write { tree: 0, key, seed: 1, len: 48 << 10 }).unwrap();
    }
    client.checkpoint().unwrap();
    client.commit().unwrap();
    device = device.process_crash();
    client = Client::start(open(&device, &client.clock).unwrap(), client.clock.clone());
    let closed = client.engine.closed_containers();
    assert!(closed.iter().all(|container| container.age <= u64::from(client.engine.shape.containers)), "{closed:?}");
    // They were filled from the front; the one that was open was closed by the mount.
    let before: Vec<u64> = closed.iter().map(|container| container.age).filter(|age| *age > 0).collect();
    assert!(before.len() > 20 && before.windows(2).all(|two| two[0] > two[1]), "{before:?}");
}

/// System containers and the units of pages in each.
fn pages(client: &Client) -> Vec<(u32, u32)> {
    let state = client.engine.state.lock();
    client.engine.writer().unwrap().space.with_containers(|all| {
        let system = all.used().filter(|(_, row)| row.state == ContainerState::System);
        system.map(|(number, _)| (number, state.pages.of(number))).collect()
    })
}

/// Nobody writes anything; the process is killed before its first checkpoint each time.
#[test]
fn mounts_that_are_killed_take_no_container_from_the_next_one() {
    let (mut device, mut client) = fresh(16, 512, 3);
    client.engine.retain(crate::HistoryPolicy::NONE);
    for key in 0..150 {
        client.run(&Op::Write { tree: 0, key, seed: 1, len: 48 << 10 }).unwrap();
        client.history.truncate(1);
    }
    client.checkpoint().unwrap();
    // Few pages in many containers: some change all the time, some never.
    let mut victim = 0;
    while pages(&client).len() < 3 {
        let count = pages(&client).len();
        for round in 0_u32.. {
            client.run(&Op::Small { tree: 1, key: round % 5, seed: round.into(), len: 300 }).unwrap();
            client.history.truncate(1);
            client.checkpoint().unwrap();
            if pages(&client).len() > count {
                break;
            }
        }
        for _ in 0..3 {
            client.run(&Op::Delete { tree: 0, key: victim }).unwrap();
            victim += 11;
        }
        client.checkpoint().unwrap();
    }
    assert!(
        client.engine.state.lock().pages.units() < u64::from(client.engine.shape.units()) / 4,
        "{:?}",
        pages(&client)
    );
    client.commit().unwrap();
    let before = free(&client);
    for mount in 0..before + 2 {
        device = device.process_crash();
        client = Client::start(open(&device, &client.clock).unwrap(), client.clock.clone());
        assert!(free(&client) + 1 >= before, "mount {mount}: {before} free, then {}", free(&client));
    }
    client.quiesce_and_check();
    assert_eq!(client.engine.check_space(), Vec::<String>::new());
}

/// Each mount ends in order and appends nothing but that it did.
#[test]
fn mounts_that_only_open_and_close_leave_room_for_the_cuts_of_later_ones() {
    let (mut device, client) = fresh(16, 512, 3);
    let clock = client.clock.clone();
    client.engine.close().unwrap();
    drop(client);
    for _ in 0..3 {
        for _ in 0..8 {
            open(&device, &clock).unwrap().close().unwrap();
        }
        let mut client = Client::start(open(&device, &clock).unwrap(), clock.clone());
        client.checkpoint().unwrap();
        client.run(&Op::Write { tree: 0, key: 0, seed: 1, len: 48 << 10 }).unwrap();
        client.commit().unwrap();
        drop(client);
        device = device.process_crash();
        let engine = open(&device, &clock).unwrap();
        assert_eq!(engine.read_only(), "");
    }
}
