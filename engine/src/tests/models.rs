//! The whole engine under random schedules: writers that wait for checkpoints, a reader, a checkpointer, a committer, with caches so small that everything is read again.
//! Nobody's wait ends by a timer here, so whoever is not told waits for ever, which is a deadlock to the scheduler.

use super::client::{content, small_format};
use crate::device::{DeviceImage, SimulatedDevice};
use crate::hlc::ManualClock;
use crate::mutant::{self, Mutant};
use crate::shuttled::check;
use crate::store::*;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, RwLock, thread};
use crate::{Engine, Options, Settings};
use envoyfs_layout::node::{NodeBuilder, NodeView, Owner, TreeKind, edges};
use envoyfs_layout::{Lsn, Reference, ReferenceKind};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// Bytes of nodes that an operation reserves: the second one of a batch has to wait for a checkpoint.
const NODE_BYTES: u64 = 120 << 10;
const WRITERS: u64 = 2;
const STEPS: u64 = 3;

type Files = BTreeMap<u64, (Reference, Vec<u32>)>;

struct World {
    engine: Engine,
    device: SimulatedDevice,
    /// The client's: shared to append and change memory, exclusive to freeze.
    freeze: RwLock<()>,
    files: Mutex<Files>,
    /// Keys by the end of their record, and what was acknowledged.
    appended: Mutex<BTreeMap<Lsn, u64>>,
    acknowledged: Mutex<Lsn>,
    stop: AtomicBool,
}

fn options() -> Options {
    Options {
        read_only: false,
        threads: true,
        accept_loss: false,
        clock: Arc::new(ManualClock::new(1_700_000_000_000_000_000)),
        settings: Settings { segment_cache_bytes: 1024, slot_map_bytes: 1024, ..Settings::default() },
    }
}

fn world() -> Arc<World> {
    // Making it is not part of the model.
    static MADE: OnceLock<DeviceImage> = OnceLock::new();
    let image = MADE.get_or_init(|| {
        let device = SimulatedDevice::new(8 << 20, 512, 1);
        small_format(&device);
        device.durable_image()
    });
    let device = SimulatedDevice::from_image(image.clone(), 512, 1).slow(true);
    let engine = Engine::open(Arc::new(device.clone()), options()).unwrap();
    Arc::new(World {
        engine,
        device,
        freeze: RwLock::new(()),
        files: Mutex::default(),
        appended: Mutex::default(),
        acknowledged: Mutex::default(),
        stop: AtomicBool::new(false),
    })
}

impl World {
    fn write(&self, key: u64) {
        let length = 4096;
        let need = Need {
            log_bytes: 64,
            node_bytes: NODE_BYTES,
            payload_bytes: 0,
            data_bytes: length.into(),
            tier: Tier::Writer,
        };
        let mut permit = self.engine.reserve(need).unwrap();
        let object = self.engine.append_data(&mut permit, None, &content(key, 0, length)).unwrap();
        let end = {
            let _shared = self.freeze.read();
            let data = std::slice::from_ref(&object);
            let draft = Draft { kind: 300, territory: 1, origin: None, data, body: &key.to_le_bytes() };
            let appended = self.engine.append(&mut permit, draft).unwrap();
            let reference = Reference::extent(object.oid, appended.hlc.birth(), length);
            self.files.lock().insert(key, (reference, object.crcs));
            self.appended.lock().insert(appended.end, key);
            appended.end
        };
        drop(permit);
        if key.is_multiple_of(2) {
            self.engine.commit(end).unwrap();
            let mut acknowledged = self.acknowledged.lock();
            *acknowledged = end.max(*acknowledged);
        }
    }

    fn read(&self, key: u64) {
        let found = self.files.lock().get(&key).cloned();
        let Some((reference, crcs)) = found else { return };
        let mut bytes = vec![0; reference.stored_bytes as usize];
        self.engine.read_data(reference.oid, 0, &crcs, &mut bytes).unwrap();
        assert!(bytes == content(key, 0, reference.stored_bytes), "key {key}");
    }

    fn checkpoint(&self, top: &mut Vec<Reference>) {
        let (frozen, snapshot) = {
            let _exclusive = (!mutant::on(Mutant::FrozenAmidAppends)).then(|| self.freeze.write());
            (self.engine.freeze().unwrap(), self.files.lock().clone())
        };
        let mut changes = Changes::default();
        for node in top.drain(..) {
            let edges = edges(&self.engine.read_node(&node).unwrap()).unwrap();
            changes.gone.push(Gone { node, edges });
        }
        if !snapshot.is_empty() {
            let mut builder = NodeBuilder::new(TreeKind::Extents, 0, frozen.hlc, Owner::default());
            for (key, (reference, crcs)) in &snapshot {
                let value: Vec<u8> = crcs.iter().flat_map(|crc| crc.to_le_bytes()).collect();
                builder.push(&key.to_le_bytes(), &value, &[*reference]).unwrap();
            }
            let node = self.engine.append_node(Batch::Frozen, ReferenceKind::Node, 0, frozen.hlc, &builder.finish());
            top.push(node.unwrap());
        }
        let roots = Roots { references: top.clone(), blob: Vec::new() };
        self.engine.publish(frozen, roots, changes).unwrap();
    }

    /// Whoever sleeps until a checkpoint is due looks again.
    fn end(&self) {
        self.stop.store(true, Ordering::SeqCst);
        let admission = &self.engine.writer().unwrap().admission;
        drop(admission.ledger.lock());
        admission.changed.notify_all();
    }

    /// What a power cut leaves now is a prefix, with all that was acknowledged before.
    fn cut(&self) {
        let acknowledged = *self.acknowledged.lock();
        let left = SimulatedDevice::from_image(self.device.durable_image(), 512, 1);
        let engine = Engine::open(Arc::new(left), Options { threads: false, ..options() }).unwrap();
        assert_eq!(engine.read_only(), "");
        let mut keys = Vec::new();
        for node in engine.recovered_roots().references {
            let bytes = engine.read_node(&node).unwrap();
            let view = NodeView::parse(&bytes).unwrap();
            for item in view.items() {
                let key = u64::from_le_bytes(item.key.try_into().unwrap());
                let reference = view.reference(item.reference_indexes().next().unwrap()).unwrap();
                let crcs: Vec<u32> =
                    item.value.chunks(4).map(|crc| u32::from_le_bytes(crc.try_into().unwrap())).collect();
                let mut bytes = vec![0; reference.stored_bytes as usize];
                engine.read_data(reference.oid, 0, &crcs, &mut bytes).unwrap();
                assert!(bytes == content(key, 0, reference.stored_bytes), "key {key} after a cut");
                keys.push(key);
            }
        }
        let replayed = engine.take_replay();
        keys.extend(replayed.iter().map(|record| u64::from_le_bytes(record.body[..8].try_into().unwrap())));
        keys.sort_unstable();
        // Whoever had appended when the power went, and had not written it down here yet, has done so now.
        drop(self.freeze.write());
        let appended = self.appended.lock();
        let prefixes: Vec<Vec<u64>> = (0..=appended.len())
            .map(|count| {
                let mut keys: Vec<u64> = appended.values().take(count).copied().collect();
                keys.sort_unstable();
                keys
            })
            .collect();
        let least = appended.range(..=acknowledged).count();
        assert!(
            prefixes.iter().skip(least).any(|prefix| *prefix == keys),
            "{keys:?} after a cut; appended {appended:?}, acknowledged up to {acknowledged:?}"
        );
    }
}

fn writers_readers_and_a_checkpointer() {
    let world = world();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let world = Arc::clone(&world);
            thread::spawn(move || (0..STEPS).for_each(|step| world.write(step * WRITERS + writer)))
        })
        .collect();
    let reader = {
        let world = Arc::clone(&world);
        thread::spawn(move || (0..WRITERS * STEPS).for_each(|key| world.read(key)))
    };
    let checkpoints = {
        let world = Arc::clone(&world);
        thread::spawn(move || {
            let mut top = Vec::new();
            while !world.stop.load(Ordering::SeqCst) {
                if world.engine.wait_checkpoint(1).is_some() {
                    world.checkpoint(&mut top);
                    world.cut();
                }
                // One that is due again at once must not keep the others from ever running.
                thread::yield_now();
            }
            world.checkpoint(&mut top);
        })
    };
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    reader.join().unwrap();
    world.end();
    checkpoints.join().unwrap();
    world.cut();
    for key in 0..WRITERS * STEPS {
        world.read(key);
    }
    assert_eq!(world.engine.check_space(), Vec::<String>::new());
    let usage = world.engine.usage();
    assert_eq!((usage.appended, usage.durable), (world.engine.end(), world.engine.end()));
    world.engine.close().unwrap();
}

#[test]
fn writers_that_wait_for_a_checkpoint_get_one_and_no_cut_loses_anything() {
    check(60, writers_readers_and_a_checkpointer);
}
