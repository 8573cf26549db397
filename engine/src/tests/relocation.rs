//! A write that fails at one place: the data is written to another, readers and recovery find it there, and what cannot be helped poisons.

use super::client::*;
use super::set_barrier;
use crate::device::{
    AlignedBuf, Completion, Device, DeviceError, Drive, Fault, Geometry, Operation, SimulatedDevice, Ticket, Write,
};
use crate::store::*;
use crate::{Engine, HistoryPolicy, Options};
use envoyfs_layout::directory_page::ContainerState;
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
    /// They fail when somebody waits for them, not at once: then the record that names them stands in the log already.
    late: bool,
    /// Writes to segments that are on their way for ever.
    held: Option<Vec<Completion>>,
}

/// A failure that is told to who waits. If more are to fail, it is the next write that does: the same data, elsewhere.
struct Late {
    plan: Arc<Mutex<Plan>>,
    told: Mutex<Option<(Completion, DeviceError)>>,
}

impl Drive for Late {
    fn drive(&self) -> bool {
        let Some((completion, error)) = self.told.lock().take() else { return false };
        {
            let mut plan = self.plan.lock();
            if plan.count > 1 {
                plan.count -= 1;
                plan.first = plan.seen + 1;
            }
        }
        completion.complete(Err(error));
        true
    }
}

impl Device for Failing {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }
    fn read(&self, offset: u64, into: &mut AlignedBuf) -> std::result::Result<(), DeviceError> {
        self.device.read(offset, into)
    }
    fn submit(&self, write: Write) -> Ticket {
        let (fails, late) = {
            let mut plan = self.plan.lock();
            let from = plan.from;
            if let Some(held) = plan.held.as_mut().filter(|_| write.offset >= from) {
                let (ticket, completion) = Ticket::pair();
                held.push(completion);
                return ticket;
            }
            let counts = write.offset >= plan.from && plan.count > 0;
            plan.seen += u64::from(counts);
            let count = if plan.late { 1 } else { plan.count };
            (counts && plan.seen >= plan.first && plan.seen < plan.first + count, plan.late)
        };
        if !fails {
            return self.device.submit(write);
        }
        let length = write.range.len();
        let mut garbage = AlignedBuf::zeroed(length);
        garbage.as_mut_slice().fill(0xEE);
        let _ = self.device.submit(Write::whole(write.offset, garbage)).wait();
        let (operation, offset) = (Operation::Write, write.offset);
        let error = DeviceError::Io { operation, offset, length: length as u64, errno: libc::EIO };
        if !late {
            return Ticket::done(Err(error));
        }
        let late = Arc::new(Late { plan: Arc::clone(&self.plan), told: Mutex::default() });
        let (ticket, completion) = Ticket::pair_driven_by(Some(Arc::<Late>::clone(&late)));
        *late.told.lock() = Some((completion, error));
        ticket
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
fn failing(barrier: Barrier, first: u64, count: u64, late: bool) -> (Failing, Client) {
    let device = SimulatedDevice::new(8 << 20, 512, first);
    small_format(&device);
    set_barrier(&device, barrier);
    let superblock = crate::superblock::open(&device).unwrap().superblock;
    let failing = Failing { device, plan: Arc::default() };
    let clock = clock();
    let engine = mount(&failing, &clock).unwrap();
    *failing.plan.lock() = Plan { seen: 0, first, count, from: superblock.segments_offset, late, held: None };
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
    let barriers = [Barrier::Flush, Barrier::ForcedUnitAccess];
    for (barrier, late) in barriers.into_iter().flat_map(|barrier| [(barrier, false), (barrier, true)]) {
        let (mut moved, mut poisoned) = (0, 0);
        for nth in (1..70).step_by(if late { 3 } else { 1 }) {
            let (device, mut client) = failing(barrier, nth, 1, late);
            match history(&mut client, 40, nth % 2 == 0) {
                Ok(()) => {
                    let done = device.plan.lock().seen >= nth;
                    // Nobody may have waited yet for one that was not data.
                    assert!(relocated(&client) == u64::from(done) || late && relocated(&client) == 0, "write {nth}");
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
        assert!(moved > if late { 5 } else { 30 } && poisoned > 0, "{moved} relocated, {poisoned} poisoned");
    }
}

#[test]
fn relocated_data_stays_readable_over_checkpoints_cleaning_and_mounts() {
    let (device, mut client) = failing(Barrier::Flush, 4, 1, false);
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
    for late in [false, true] {
        let (device, mut client) = failing(Barrier::Flush, 2, 2, late);
        let result = history(&mut client, 20, false);
        assert!(result.is_err());
        let why = client.engine.poisoned().unwrap();
        assert!(why.contains("failed twice"), "{why}");
        client.verify();
        recovers(&device, client, 5);
    }
}

/// Objects that nobody will name.
fn fill(client: &Client, objects: u32, bytes: u32) {
    let need = Need { log_bytes: 64, node_bytes: 0, payload_bytes: 0, data_bytes: bytes.into(), tier: Tier::Writer };
    for _ in 0..objects {
        let mut permit = client.engine.reserve(need).unwrap();
        let object = client.engine.append_data(&mut permit, None, &vec![3; bytes as usize]).unwrap();
        client.engine.abandon_data(&object);
    }
}

#[test]
fn data_that_was_given_up_before_its_write_failed_keeps_no_container() {
    let (device, mut client) = failing(Barrier::Flush, u64::MAX, 1, true);
    history(&mut client, 12, true).unwrap();
    fill(&client, 1, 9000);
    {
        let mut plan = device.plan.lock();
        (plan.seen, plan.first) = (0, 1);
    }
    // The write is on its way when its object is given up, and fails when the checkpoint waits for it.
    fill(&client, 1, 9000);
    let space = &client.engine.writer().unwrap().space;
    assert_eq!((relocated(&client), space.has_relocations()), (0, false));
    client.checkpoint().unwrap();
    assert_eq!(relocated(&client), 1);
    client.checkpoint().unwrap();
    let space = &client.engine.writer().unwrap().space;
    assert!(!space.has_relocations() && space.pinned().is_empty(), "{:?}", space.pinned());
    assert_eq!(client.engine.reader.relocated_segments(), 0, "readers would look there for ever");
    client.quiesce_and_check();
    recovers(&device, client, 7);
}

/// A checkpoint that was frozen before the object existed finds nothing alive in the container that took it: only the pin keeps that from being used for something else.
#[test]
fn the_container_of_relocated_data_is_kept_until_the_data_is_published() {
    let mut elsewhere = 0;
    // Once the object is the last one of its container, so that it is moved to another.
    for before in 0..32 {
        let (device, mut client) = failing(Barrier::Flush, u64::MAX, 1, false);
        history(&mut client, 12, true).unwrap();
        let building = client.build().unwrap();
        fill(&client, before, 9000);
        {
            let mut plan = device.plan.lock();
            (plan.seen, plan.first) = (0, 1);
        }
        if client.run(&Op::Write { tree: 0, key: 99, seed: 5, len: 9000 }).is_err() || relocated(&client) != 1 {
            // A header was first.
            continue;
        }
        let space = &client.engine.writer().unwrap().space;
        let relocation = space.relocations()[0];
        let container = relocation.to.container;
        if client.engine.reader.home(relocation.segment) == Some(container) {
            continue;
        }
        elsewhere += 1;
        // Closed, and dead for that checkpoint.
        fill(&client, 20, 32 << 10);
        assert!(!space.open_containers().contains(&container), "it is full");
        client.finish(building).unwrap();
        let state = |client: &Client| {
            let space = &client.engine.writer().unwrap().space;
            space.with_containers(|containers| containers.get(container).unwrap().state)
        };
        assert_ne!(state(&client), ContainerState::Free);
        client.verify();
        client.checkpoint().unwrap();
        assert!(!client.engine.writer().unwrap().space.has_relocations());
        assert_ne!(state(&client), ContainerState::Free, "it lives there");
        client.verify();
        recovers(&device, client, 9);
    }
    assert!(elsewhere > 0);
}

/// The container was opened for it, behind where the log is cut; nothing but the log says so.
#[test]
fn the_container_of_relocated_data_is_kept_if_the_log_is_cut_before_it_was_opened() {
    let mut elsewhere = 0;
    for before in 0..32 {
        let (device, mut client) = failing(Barrier::Flush, u64::MAX, 1, true);
        history(&mut client, 12, true).unwrap();
        fill(&client, before, 9000);
        {
            let mut plan = device.plan.lock();
            (plan.seen, plan.first) = (0, 1);
        }
        client.run(&Op::Write { tree: 0, key: 99, seed: 5, len: 9000 }).unwrap();
        let end = client.engine.end();
        let placed = client.extent_of(0, 99).0.segment();
        device.plan.lock().held = Some(Vec::new());
        // Small enough to come before whatever opens a container.
        client.run(&Op::Write { tree: 0, key: 98, seed: 6, len: 512 }).unwrap();
        let held = device.plan.lock().held.take().unwrap();
        let wal = &client.engine.writer().unwrap().wal;
        if held.len() != 1 || wal.commit(end).is_err() || relocated(&client) != 1 {
            held.into_iter().for_each(|write| write.complete(Ok(())));
            continue;
        }
        let space = &client.engine.writer().unwrap().space;
        let container = space.relocations()[0].to.container;
        let is_home = client.engine.reader.home(placed) == Some(container);
        let clock = client.clock.clone();
        let image = device.device.durable_image();
        held.into_iter().for_each(|write| write.complete(Ok(())));
        drop(client);
        if is_home {
            continue;
        }
        elsewhere += 1;
        // Mounts that die before their first checkpoint, then one that lives.
        let mut left = SimulatedDevice::from_image(image, 512, before.into());
        for mount in 0..3 {
            let mut client = Client::start(open(&left, &clock).unwrap(), clock.clone());
            assert_eq!(client.engine.read_only(), "");
            let (recovery, tree) = (&client.engine.metrics().recovery, &client.logical()[&0]);
            assert!(tree.contains_key(&99) && !tree.contains_key(&98), "after {before}, mount {mount}");
            // Pinned by the mount that found it in the log, until a publication: the cleaner does not take it for empty.
            let space = &client.engine.writer().unwrap().space;
            assert_eq!(space.has_relocations(), mount == 0, "after {before}, mount {mount}");
            let candidates = client.engine.candidates(space);
            let is_candidate = candidates.iter().any(|(closed, _)| *closed == container);
            assert!(!is_candidate || mount > 0, "after {before}");
            let (moved, behind) = (recovery.moved.get(), recovery.placed_behind.get());
            assert_eq!((moved, behind), if mount == 0 { (1, 1) } else { (0, 0) }, "after {before}, mount {mount}");
            for _ in 0..40 {
                client.engine.clean_anyway().unwrap();
            }
            if before % 2 == 0 && mount == 2 {
                client.checkpoint().unwrap();
            }
            fill(&client, 60, 9000);
            client.verify();
            if mount == 2 {
                history(&mut client, 60, true).unwrap();
                client.quiesce_and_check();
            }
            drop(client);
            left = SimulatedDevice::from_image(left.durable_image(), 512, mount);
        }
    }
    assert!(elsewhere > 0);
}

/// It is in no segment that has its home there.
#[test]
fn a_container_that_took_relocated_data_can_be_emptied() {
    let mut emptied = 0;
    for before in 0..32 {
        let (device, mut client) = failing(Barrier::Flush, u64::MAX, 1, false);
        client.engine.retain(HistoryPolicy::NONE);
        fill(&client, before, 9000);
        {
            let mut plan = device.plan.lock();
            (plan.seen, plan.first) = (0, 1);
        }
        if client.run(&Op::Write { tree: 0, key: 0, seed: 5, len: 9000 }).is_err() || relocated(&client) != 1 {
            continue;
        }
        let relocation = client.engine.writer().unwrap().space.relocations()[0];
        let container = relocation.to.container;
        if client.engine.reader.home(relocation.segment) == Some(container) {
            continue;
        }
        // Beside something of its own; and it is full.
        client.run(&Op::Write { tree: 0, key: 1, seed: 6, len: 9000 }).unwrap();
        fill(&client, 20, 32 << 10);
        client.checkpoint().unwrap();
        client.checkpoint().unwrap();
        let writer = client.engine.writer().unwrap();
        assert!(!writer.space.open_containers().contains(&container));
        let lives = client.engine.state.lock().live_in(container);
        assert!(lives == 18 || lives == 36, "{lives} units live there");
        while client.engine.clean_anyway().unwrap() {}
        client.checkpoint().unwrap();
        let writer = client.engine.writer().unwrap();
        let state = writer.space.with_containers(|all| all.get(container).map(|row| row.state));
        assert_eq!((state, client.engine.state.lock().live_in(container)), (Some(ContainerState::Free), 0));
        client.verify();
        client.quiesce_and_check();
        emptied += u32::from(lives == 36);
    }
    assert!(emptied > 0);
}

/// A store with one object that was written elsewhere, in a segment that has a page.
fn one_elsewhere() -> (Failing, Client) {
    let (device, mut client) = failing(Barrier::Flush, u64::MAX, 1, false);
    client.run(&Op::Write { tree: 0, key: 0, seed: 5, len: 9000 }).unwrap();
    client.checkpoint().unwrap();
    {
        let mut plan = device.plan.lock();
        (plan.seen, plan.first) = (0, 1);
    }
    client.run(&Op::Write { tree: 0, key: 1, seed: 6, len: 9000 }).unwrap();
    client.commit().unwrap();
    assert_eq!(relocated(&client), 1);
    (device, client)
}

#[test]
fn relocated_data_is_read_though_the_page_of_its_segment_is_not() {
    let (device, client) = one_elsewhere();
    let segment = client.engine.writer().unwrap().space.relocations()[0].segment;
    let page = client.engine.state.lock().table()[&segment].page;
    let (object, crcs) = client.extent_of(0, 1);
    let clock = client.clock.clone();
    let offset = client.engine.shape.offset(page.container, page.units);
    drop(client);
    let device = device.device.crash(5);
    device.inject(Fault::ReadError { offset });
    let engine = open(&device, &clock).unwrap();
    assert!(engine.read_only().contains("segment"), "{}", engine.read_only());
    let mut bytes = vec![0; 9216];
    engine.read_data(object, 0, &crcs, &mut bytes).unwrap();
    assert_eq!(bytes[..9000], content(6, 0, 9000));
}

/// The checkpoint that a mount adopts contains the object: its container is like any other.
#[test]
fn what_an_adopted_checkpoint_contains_of_relocated_data_is_not_pinned() {
    let mut adopted = 0;
    for ios in 1.. {
        let (device, mut client) = one_elsewhere();
        let clock = client.clock.clone();
        device.device.crash_after(ios);
        let is_published = client.checkpoint().is_ok();
        drop(client);
        let engine = open(&device.device.process_crash(), &clock).unwrap();
        if engine.metrics().recovery.adopted.get() == 1 {
            adopted += 1;
            assert_eq!(engine.metrics().recovery.moved.get(), 1);
            assert!(!engine.writer().unwrap().space.has_relocations(), "cut after {ios}");
            let mut client = Client::start(engine, clock);
            client.verify();
            client.quiesce_and_check();
        }
        if is_published {
            break;
        }
    }
    assert!(adopted > 0);
}

/// A node of the freeze that was given up has the object with the length that it had then.
#[test]
fn what_a_node_of_a_freeze_given_up_refers_to_does_not_grow() {
    let (_, mut client) = fresh(8, 512, 1);
    client.engine.retain(HistoryPolicy::NONE);
    client.run(&Op::Write { tree: 0, key: 0, seed: 1, len: 8192 }).unwrap();
    let building = client.build().unwrap();
    client.abandon(building).unwrap();
    // The fork keeps that node, and the other side goes on.
    client.run(&Op::Fork { from: 0, to: 1 }).unwrap();
    client.run(&Op::Grow { tree: 0, key: 0, seed: 2, len: 4096 }).unwrap();
    assert_eq!(client.logical()[&0][&0].pieces.len(), 1, "it was refused");
    client.run(&Op::Drop { tree: 0 }).unwrap();
    client.quiesce_and_check();
    client.run(&Op::Drop { tree: 1 }).unwrap();
    client.quiesce_and_check();
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
