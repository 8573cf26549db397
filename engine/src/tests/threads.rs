//! Writers, readers, a checkpointer and a scrub at once, with the committer's thread: nothing hangs, nothing is lost, nothing healthy is reported.

use super::client::{Rng, content, small_format};
use crate::device::{Device, OpenMode, SimulatedDevice, UringDevice};
use crate::hlc::SystemClock;
use crate::store::*;
use crate::{Engine, Options, ScrubOptions, Settings};
use envoyfs_layout::node::{NodeBuilder, NodeView, Owner, TreeKind, edges};
use envoyfs_layout::segment::SegmentHeader;
use envoyfs_layout::{Hlc, Reference, ReferenceKind};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

type Files = BTreeMap<u64, (Reference, Vec<u32>)>;

fn options() -> Options {
    Options {
        read_only: false,
        threads: true,
        accept_loss: false,
        clock: Arc::new(SystemClock::new()),
        settings: Settings::default(),
    }
}

fn checkpoint(
    engine: &Engine,
    freeze: &RwLock<()>,
    files: &Mutex<Files>,
    top: &mut Vec<Reference>,
    gone: &mut Vec<Gone>,
) {
    let (frozen, snapshot) = {
        let _exclusive = freeze.write();
        (engine.freeze().unwrap(), files.lock().clone())
    };
    for node in top.drain(..) {
        let edges = edges(&engine.read_node(&node).unwrap()).unwrap();
        gone.push(Gone { node, edges });
    }
    let rows: Vec<_> = snapshot.iter().collect();
    for rows in rows.chunks(20) {
        let mut builder = NodeBuilder::new(TreeKind::Extents, 0, frozen.hlc, Owner::default());
        for (key, (reference, crcs)) in rows {
            let value: Vec<u8> = crcs.iter().flat_map(|crc| crc.to_le_bytes()).collect();
            builder.push(&key.to_le_bytes(), &value, &[*reference]).unwrap();
        }
        let birth = frozen.hlc;
        top.push(engine.append_node(Batch::Frozen, ReferenceKind::Node, 0, birth, &builder.finish()).unwrap());
    }
    let roots = Roots { references: top.clone(), blob: Vec::new() };
    engine.publish(frozen, roots, Changes { gone: std::mem::take(gone), freed: Vec::new() }).unwrap();
}

fn read(engine: &Engine, key: u64, reference: &Reference, crcs: &[u32]) {
    let mut bytes = vec![0; reference.stored_bytes as usize];
    engine.read_data(reference.oid, 0, crcs, &mut bytes).unwrap();
    assert!(bytes == content(key, 0, reference.stored_bytes), "key {key}");
}

#[test]
fn writers_readers_and_checkpoints_work_at_once() {
    for slow in [false, true] {
        let device = SimulatedDevice::new(24 << 20, 512, 1).slow(slow);
        small_format(&device);
        let engine = Engine::open(Arc::new(device.clone()), options()).unwrap();
        let (freeze, files, stop, writes) =
            (RwLock::new(()), Mutex::new(Files::new()), AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..3_u64)
                .map(|writer| {
                    let (engine, freeze, files, writes) = (&engine, &freeze, &files, &writes);
                    scope.spawn(move || {
                        let mut rng = Rng(writer);
                        for step in 0..400_u64 {
                            let key = step << 8 | writer;
                            let len = 4096 * (1 + rng.below(6) as u32);
                            let need = Need {
                                log_bytes: 64,
                                node_bytes: 4096,
                                payload_bytes: 0,
                                data_bytes: len.into(),
                                tier: Tier::Writer,
                            };
                            let mut permit = engine.reserve(need).unwrap();
                            let object = engine.append_data(&mut permit, None, &content(key, 0, len)).unwrap();
                            let end = {
                                let _shared = freeze.read();
                                let draft = Draft {
                                    kind: 300,
                                    territory: 1,
                                    origin: None,
                                    data: std::slice::from_ref(&object),
                                    body: &key.to_le_bytes(),
                                };
                                let appended = engine.append(&mut permit, draft).unwrap();
                                let reference = Reference::extent(object.oid, appended.hlc.birth(), len);
                                let mut files = files.lock();
                                files.insert(key, (reference, object.crcs));
                                // Few live at a time: the store is written over several times, and cleaned.
                                files.remove(&((step.wrapping_sub(40)) << 8 | writer));
                                appended.end
                            };
                            drop(permit);
                            if step % 8 == 0 {
                                engine.commit(end).unwrap();
                            }
                            writes.fetch_add(1, Ordering::Relaxed);
                        }
                    })
                })
                .collect();
            scope.spawn(|| {
                let mut rng = Rng(99);
                while !stop.load(Ordering::Relaxed) {
                    let _shared = freeze.read();
                    let one = {
                        let files = files.lock();
                        files.iter().nth(rng.below(files.len() as u64) as usize).map(|(key, file)| (*key, file.clone()))
                    };
                    if let Some((key, (reference, crcs))) = one {
                        read(&engine, key, &reference, &crcs);
                    }
                }
            });
            scope.spawn(|| {
                let (mut passes, mut options) = (0, ScrubOptions { from: 0, bytes_per_second: 64 << 20 });
                while !stop.load(Ordering::Relaxed) {
                    let report = engine.scrub(options, |_| ControlFlow::Continue(())).unwrap();
                    assert_eq!(report.findings, [], "pass {passes}");
                    passes += 1;
                    options.bytes_per_second ^= 64 << 20;
                }
            });
            let checkpoints = scope.spawn(|| {
                let (mut top, mut gone, mut count) = (Vec::new(), Vec::new(), 0);
                while !stop.load(Ordering::Relaxed) {
                    if engine.wait_checkpoint(20).is_some() || count < 3 {
                        checkpoint(&engine, &freeze, &files, &mut top, &mut gone);
                        count += 1;
                    }
                }
                checkpoint(&engine, &freeze, &files, &mut top, &mut gone);
                count
            });
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            stop.store(true, Ordering::Relaxed);
            println!(
                "slow {slow}: {} writes, {} checkpoints",
                writes.load(Ordering::Relaxed),
                checkpoints.join().unwrap()
            );
        });
        assert_eq!(engine.check_space(), Vec::<String>::new());
        let files = files.into_inner();
        assert_eq!(engine.count(files.values().next().unwrap().0.oid), 1);
        engine.close().unwrap();
        drop(engine);
        let engine = Engine::open(Arc::new(device.process_crash()), options()).unwrap();
        let mut found = 0;
        for node in engine.recovered_roots().references {
            let bytes = engine.read_node(&node).unwrap();
            let view = NodeView::parse(&bytes).unwrap();
            for item in view.items() {
                let key = u64::from_le_bytes(item.key.try_into().unwrap());
                let reference = view.reference(item.reference_indexes().next().unwrap()).unwrap();
                let crcs: Vec<u32> =
                    item.value.chunks(4).map(|crc| u32::from_le_bytes(crc.try_into().unwrap())).collect();
                assert!(files.contains_key(&key) && reference.birth > Hlc::ZERO);
                read(&engine, key, &reference, &crcs);
                found += 1;
            }
        }
        assert_eq!(found, files.len());
    }
}

/// A header announces the data behind it and is written with it; small data goes its own way, so nobody may be left who asks for the header.
#[test]
fn a_closed_store_has_written_the_headers_of_its_containers() {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(16 << 20).unwrap();
    let device = Arc::new(UringDevice::open(image.path(), OpenMode::ReadWrite, true).unwrap());
    small_format(&*device);
    let engine = Engine::open(Arc::clone(&device) as Arc<dyn Device>, options()).unwrap();
    let need = Need { log_bytes: 100, node_bytes: 1, payload_bytes: 0, data_bytes: 4096, tier: Tier::Writer };
    let mut permit = engine.reserve(need).unwrap();
    let object = engine.append_data(&mut permit, None, &[1; 4096]).unwrap();
    let draft = Draft { kind: 300, territory: 1, origin: None, data: std::slice::from_ref(&object), body: &[7; 21] };
    let appended = engine.append(&mut permit, draft).unwrap();
    engine.commit(appended.end).unwrap();
    drop(permit);
    engine.close().unwrap();
    let mut unit = vec![0; 512];
    let container = engine.reader.container_of(object.oid).unwrap();
    engine.reader.read_device(container, 0, &mut unit).unwrap();
    let header = SegmentHeader::decode(&unit, &engine.shape.seed, engine.shape.offset(container, 0)).unwrap();
    assert_eq!(header.segment, object.oid.segment());
}
