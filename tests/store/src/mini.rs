//! The smallest client: keys and extents, one level of nodes. For scenarios that must say exactly when each thing happens, on any device and from any thread.

use crate::client::content;
use crate::device::Device;
use crate::hlc::{Clock, ManualClock};
use crate::store::*;
use crate::{Engine, Options};
use envoyfs_layout::node::{NodeBuilder, NodeView, Owner, TreeKind, edges};
use envoyfs_layout::{Hlc, Lsn, Reference, ReferenceKind};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

const PUT: u16 = 300;
const DELETE: u16 = 301;
pub(crate) const NOTE: u16 = 302;

/// What a key holds.
#[derive(Clone, Debug)]
pub struct File {
    /// The extent.
    pub reference: Reference,
    /// Its checksums.
    pub crcs: Vec<u32>,
}

/// See the module.
pub struct Mini {
    /// The engine.
    pub engine: Arc<Engine>,
    /// Its clock.
    pub clock: Arc<ManualClock>,
    files: Mutex<BTreeMap<u64, File>>,
    top: Mutex<Vec<Reference>>,
}

/// Between freeze and publication.
pub struct Open {
    frozen: Frozen,
    files: BTreeMap<u64, File>,
}

/// How a store is opened.
#[must_use]
pub fn options(clock: &Arc<ManualClock>) -> Options {
    let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(clock);
    Options {
        read_only: false,
        threads: false,
        accept_loss: false,
        clock,
        settings: envoyfs_engine::Settings::default(),
    }
}

/// A node that nothing leads to, of so many KiB.
pub fn idle_node(engine: &Engine, batch: Batch, kib: u32) -> Result<()> {
    let mut builder = NodeBuilder::new(TreeKind::Extents, 0, Hlc(8), Owner::default());
    for item in 0..kib {
        builder.push(&item.to_le_bytes(), &[7; 1000], &[]).expect("it fits");
    }
    engine.append_node(batch, ReferenceKind::Node, 0, Hlc(8), &builder.finish())?;
    Ok(())
}

impl Mini {
    /// Mounts, loads and replays; verifies nothing yet.
    pub fn open(device: Arc<dyn Device>, clock: &Arc<ManualClock>) -> Result<Self> {
        Self::open_with(device, clock, options(clock))
    }

    /// The same with options.
    pub fn open_with(device: Arc<dyn Device>, clock: &Arc<ManualClock>, options: Options) -> Result<Self> {
        let engine = Arc::new(Engine::open(device, options)?);
        let mut files = BTreeMap::new();
        let roots = engine.recovered_roots();
        for node in &roots.references {
            let bytes = engine.read_node(node)?;
            let view = NodeView::parse(&bytes).expect("a node that verifies");
            for item in view.items() {
                let key = u64::from_le_bytes(item.key.try_into().expect("8 bytes"));
                let extent = view.reference(item.reference_indexes().next().expect("one")).expect("one");
                let crcs =
                    item.value.chunks(4).map(|crc| u32::from_le_bytes(crc.try_into().expect("4 bytes"))).collect();
                files.insert(key, File { reference: extent, crcs });
            }
        }
        for record in engine.take_replay() {
            if record.kind == NOTE {
                continue;
            }
            let key = u64::from_le_bytes(record.body[..8].try_into().expect("a key"));
            match record.data.first() {
                Some(object) => {
                    let extent = Reference::extent(object.oid, record.hlc.birth(), object.stored_bytes);
                    files.insert(key, File { reference: extent, crcs: object.crcs.clone() });
                }
                None => drop(files.remove(&key)),
            }
        }
        let (files, top) = (Mutex::new(files), Mutex::new(roots.references));
        Ok(Self { engine, clock: Arc::clone(clock), files, top })
    }

    /// Keys in the store.
    #[must_use]
    pub fn keys(&self) -> Vec<u64> {
        self.files.lock().unwrap().keys().copied().collect()
    }

    /// What a key holds.
    #[must_use]
    pub fn file(&self, key: u64) -> File {
        self.files.lock().unwrap()[&key].clone()
    }

    /// Writes the data of a key, and names it nowhere.
    pub fn write(&self, key: u64, bytes: u32) -> Result<(Permit, DataObject)> {
        let need =
            Need { log_bytes: 64, node_bytes: 4096, payload_bytes: 0, data_bytes: bytes.into(), tier: Tier::Writer };
        let mut permit = self.engine.reserve(need)?;
        let object = self.engine.append_data(&mut permit, None, &content(key, 0, bytes))?;
        Ok((permit, object))
    }

    /// Names it.
    pub fn name(&self, key: u64, (mut permit, object): (Permit, DataObject)) -> Result<Lsn> {
        let body = key.to_le_bytes();
        let data = std::slice::from_ref(&object);
        let mut files = self.files.lock().unwrap();
        let appended =
            self.engine.append(&mut permit, Draft { kind: PUT, territory: 1, origin: None, data, body: &body })?;
        let extent = Reference::extent(object.oid, appended.hlc.birth(), object.stored_bytes);
        files.insert(key, File { reference: extent, crcs: object.crcs });
        Ok(appended.end)
    }

    /// Both.
    pub fn put(&self, key: u64, bytes: u32) -> Result<Lsn> {
        let written = self.write(key, bytes)?;
        self.name(key, written)
    }

    /// Forgets a key.
    pub fn delete(&self, key: u64) -> Result<Lsn> {
        let need = Need { log_bytes: 64, node_bytes: 512, payload_bytes: 0, data_bytes: 0, tier: Tier::Shrinking };
        let mut permit = self.engine.reserve(need)?;
        let body = key.to_le_bytes();
        let mut files = self.files.lock().unwrap();
        let draft = Draft { kind: DELETE, territory: 1, origin: None, data: &[], body: &body };
        let appended = self.engine.append(&mut permit, draft)?;
        files.remove(&key);
        Ok(appended.end)
    }

    /// A record of so many bytes that changes nothing.
    pub fn note(&self, bytes: usize) -> Result<Lsn> {
        let log_bytes = bytes as u64 + 64;
        let need = Need { log_bytes, node_bytes: 0, payload_bytes: 0, data_bytes: 0, tier: Tier::Last };
        let mut permit = self.engine.reserve(need)?;
        let body = vec![1; bytes];
        let draft = Draft { kind: NOTE, territory: 1, origin: None, data: &[], body: &body };
        Ok(self.engine.append(&mut permit, draft)?.end)
    }

    /// Everything appended becomes durable.
    pub fn commit(&self) -> Result<()> {
        self.engine.commit(self.engine.end())
    }

    /// Freezes.
    pub fn freeze(&self) -> Result<Open> {
        let files = self.files.lock().unwrap();
        Ok(Open { frozen: self.engine.freeze()?, files: files.clone() })
    }

    /// Builds and publishes what was frozen.
    pub fn publish(&self, open: Open) -> Result<()> {
        self.publish_after(open, || ())
    }

    /// The same; `built` is called when the nodes are there.
    pub fn publish_after(&self, open: Open, built: impl FnOnce()) -> Result<()> {
        let mut top = self.top.lock().unwrap();
        let mut changes = Changes::default();
        for node in top.iter() {
            let edges = edges(&self.engine.read_node(node)?).expect("a node that verifies");
            changes.gone.push(Gone { node: *node, edges });
        }
        let (mut next, birth) = (Vec::new(), open.frozen.hlc);
        for rows in open.files.iter().collect::<Vec<_>>().chunks(20) {
            let mut builder = NodeBuilder::new(TreeKind::Extents, 0, birth, Owner::default());
            for (key, file) in rows {
                let value: Vec<u8> = file.crcs.iter().flat_map(|crc| crc.to_le_bytes()).collect();
                builder.push(&key.to_le_bytes(), &value, &[file.reference]).expect("it fits");
            }
            next.push(self.engine.append_node(Batch::Frozen, ReferenceKind::Node, 0, birth, &builder.finish())?);
        }
        built();
        self.engine.publish(open.frozen, Roots { references: next.clone(), blob: Vec::new() }, changes)?;
        *top = next;
        Ok(())
    }

    /// A node that nothing leads to, of 15 KiB.
    pub fn idle_node(&self) -> Result<()> {
        idle_node(&self.engine, Batch::Current, 15)
    }

    /// Fills the ring to its last block: notes, then openings of the segments of idle nodes, each in a block of its own. The next checkpoint has no record.
    pub fn fill_ring(&self) -> Result<()> {
        let log = &self.engine.metrics().log;
        while log.used_blocks.get() < log.ring_blocks.get() / 4 * 3 {
            self.note(8)?;
            self.commit()?;
        }
        while log.used_blocks.get() < log.ring_blocks.get() {
            self.idle_node()?;
            self.commit()?;
        }
        Ok(())
    }

    /// How many checkpoints had no record.
    #[must_use]
    pub fn unrecorded(&self) -> u64 {
        self.engine.metrics().checkpoint.unrecorded.get()
    }

    /// A checkpoint.
    pub fn checkpoint(&self) -> Result<()> {
        let open = self.freeze()?;
        self.publish(open)
    }

    /// Reads a file and compares it.
    pub fn read(&self, key: u64, file: &File) -> std::result::Result<(), String> {
        let bytes = file.reference.stored_bytes;
        let mut found = vec![0; bytes as usize];
        self.engine
            .read_data(file.reference.oid, 0, &file.crcs, &mut found)
            .map_err(|error| format!("key {key}: {error}"))?;
        if found == content(key, 0, bytes) { Ok(()) } else { Err(format!("key {key} holds other bytes")) }
    }

    /// Reads everything.
    ///
    /// # Panics
    /// When something is not what it was.
    pub fn verify(&self) {
        let files = self.files.lock().unwrap().clone();
        for (key, file) in &files {
            self.read(*key, file).unwrap();
        }
    }
}
