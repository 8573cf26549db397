//! A write that fails at one place: the data is written to another, readers and recovery find it there, and what cannot be helped poisons.

use super::client::*;
use super::set_barrier;
use crate::device::{AlignedBuf, Device, DeviceError, Geometry, Operation, SimulatedDevice, Ticket, Write};
use crate::store::*;
use crate::{Engine, Options};
use envoyfs_layout::superblock::Barrier;
use parking_lot::Mutex;
use std::sync::Arc;

/// Fails chosen writes with EIO, and leaves garbage where they were to go.
#[derive(Clone)]
struct Failing {
    device: SimulatedDevice,
    plan: Arc<Mutex<Plan>>,
}

#[derive(Default)]
struct Plan {
    /// Writes to segments seen so far.
    seen: u64,
    /// The first of them to fail.
    first: u64,
    /// How many fail from there on.
    count: u64,
    /// Where segments start.
    from: u64,
}

impl Device for Failing {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }
    fn read(&self, offset: u64, into: &mut AlignedBuf) -> std::result::Result<(), DeviceError> {
        self.device.read(offset, into)
    }
    fn submit(&self, write: Write) -> Ticket {
        let fails = {
            let mut plan = self.plan.lock();
            let counts = write.offset >= plan.from && plan.count > 0;
            plan.seen += u64::from(counts);
            counts && plan.seen >= plan.first && plan.seen < plan.first + plan.count
        };
        if !fails {
            return self.device.submit(write);
        }
        let length = write.range.len();
        let mut garbage = AlignedBuf::zeroed(length);
        garbage.as_mut_slice().fill(0xEE);
        let _ = self.device.submit(Write::whole(write.offset, garbage)).wait();
        let (operation, offset) = (Operation::Write, write.offset);
        Ticket::done(Err(DeviceError::Io { operation, offset, length: length as u64, errno: libc::EIO }))
    }
    fn flush(&self) -> std::result::Result<(), DeviceError> {
        self.device.flush()
    }
    fn discard(&self, offset: u64, len: u64) -> std::result::Result<(), DeviceError> {
        self.device.discard(offset, len)
    }
    fn label(&self) -> String {
        self.device.label()
    }
}

/// A fresh store whose n-th write to a segment fails, and the next `count - 1`.
fn failing(barrier: Barrier, first: u64, count: u64) -> (Failing, Client) {
    let device = SimulatedDevice::new(8 << 20, 512, first);
    small_format(&device);
    set_barrier(&device, barrier);
    let superblock = crate::superblock::open(&device).unwrap().superblock;
    let failing = Failing { device, plan: Arc::default() };
    let clock = clock();
    let engine = mount(&failing, &clock).unwrap();
    *failing.plan.lock() = Plan { seen: 0, first, count, from: superblock.segments_offset };
    (failing, Client::start(engine, clock))
}

fn mount(device: &Failing, clock: &Arc<crate::hlc::ManualClock>) -> Result<Engine> {
    let clock: Arc<dyn crate::hlc::Clock> = Arc::<crate::hlc::ManualClock>::clone(clock);
    Engine::open(
        Arc::new(device.clone()),
        Options { read_only: false, threads: false, accept_loss: false, clock, settings: tight() },
    )
}

/// Writes, reads, commits and checkpoints; reads everything after each step.
fn history(client: &mut Client, steps: u64, checkpoints: bool) -> Result<()> {
    let mut rng = Rng(7);
    for step in 0..steps {
        tick(&client.clock);
        let seed = rng.next();
        let len = 1000 + u32::try_from(rng.below(20_000)).unwrap();
        client.run(&Op::Write {
            tree: u32::try_from(step % 3).unwrap(),
            key: u32::try_from(step % 17).unwrap(),
            seed,
            len,
        })?;
        client.verify();
        match step % 8 {
            3 | 6 => client.commit()?,
            7 if checkpoints => client.checkpoint()?,
            _ => {}
        }
        client.verify();
    }
    client.commit()
}

fn relocated(client: &Client) -> u64 {
    client.engine.metrics().streams.relocated.get()
}

/// After a power cut: everything acknowledged is there, with the right bytes, also after the next checkpoints and one more cut.
fn recovers(device: &Failing, client: Client, seed: u64) {
    let (acknowledged, history, clock) = (client.acknowledged, client.history.clone(), client.clock.clone());
    drop(client);
    let next = device.device.crash(seed);
    // An interrupted recovery first: it may have sealed containers and written pages.
    next.crash_after(seed % 23);
    drop(open(&next, &clock));
    let next = next.crash(seed + 1);
    let mut client = Client::start(open(&next, &clock).unwrap(), clock.clone());
    assert_eq!(client.engine.read_only(), "");
    let end = client.engine.end();
    assert!(end >= acknowledged, "{end:?} recovered, {acknowledged:?} acknowledged");
    let (_, want) = history.iter().rev().find(|(lsn, _)| *lsn <= end).unwrap();
    assert_eq!(&client.logical(), want);
    client.quiesce_and_check();
    client.verify();
    drop(client);
    let client = Client::start(open(&next.crash(seed + 2), &clock).unwrap(), clock);
    assert_eq!(&client.logical(), want);
}

#[test]
fn any_segment_write_may_fail_once_and_nothing_acknowledged_is_lost() {
    for barrier in [Barrier::Flush, Barrier::ForcedUnitAccess] {
        let (mut moved, mut poisoned) = (0, 0);
        for nth in 1..70 {
            let (device, mut client) = failing(barrier, nth, 1);
            match history(&mut client, 40, nth % 2 == 0) {
                Ok(()) => {
                    let done = device.plan.lock().seen >= nth;
                    assert_eq!(relocated(&client), u64::from(done), "write {nth}");
                    moved += relocated(&client);
                }
                // Not data: a node, a table, a header.
                Err(error) => {
                    assert!(client.engine.poisoned().is_some(), "write {nth}: {error}");
                    client.verify();
                    poisoned += 1;
                }
            }
            recovers(&device, client, nth);
        }
        assert!(moved > 30 && poisoned > 0, "{moved} relocated, {poisoned} poisoned");
    }
}

#[test]
fn relocated_data_stays_readable_over_checkpoints_cleaning_and_mounts() {
    let (device, mut client) = failing(Barrier::Flush, 4, 1);
    history(&mut client, 30, true).unwrap();
    assert_eq!(relocated(&client), 1);
    for _ in 0..6 {
        history(&mut client, 60, true).unwrap();
        client.quiesce_and_check();
        let clock = client.clock.clone();
        client.engine.close().unwrap();
        drop(client);
        client = Client::start(mount(&device, &clock).unwrap(), clock);
    }
}

#[test]
fn data_that_fails_twice_poisons_and_is_never_acknowledged() {
    let (device, mut client) = failing(Barrier::Flush, 2, 2);
    let result = history(&mut client, 20, false);
    assert!(result.is_err());
    let why = client.engine.poisoned().unwrap();
    assert!(why.contains("failed twice"), "{why}");
    client.verify();
    recovers(&device, client, 5);
}

#[test]
fn a_freeze_given_up_lets_the_next_one_publish_everything() {
    let (device, mut client) = fresh(8, 512, 1);
    for key in 0..20 {
        client.run(&Op::Write { tree: key % 3, key, seed: key.into(), len: 5000 }).unwrap();
    }
    let building = client.build().unwrap();
    client.run(&Op::Write { tree: 0, key: 3, seed: 99, len: 3000 }).unwrap();
    assert!(client.engine.freeze().is_err(), "one at a time");
    client.abandon(building).unwrap();
    client.run(&Op::Delete { tree: 1, key: 4 }).unwrap();
    // Twice in a row, too.
    let building = client.build().unwrap();
    client.abandon(building).unwrap();
    client.quiesce_and_check();
    client.commit().unwrap();
    let (want, clock) = (client.logical(), client.clock.clone());
    let client = Client::start(open(&device.crash(3), &clock).unwrap(), clock);
    assert_eq!(client.logical(), want);
}
