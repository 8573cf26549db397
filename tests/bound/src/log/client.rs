//! The smallest client of the engine: a few slots that each hold one object, and a digest of every record.

use envoyfs_engine::store::{Batch, Changes, Draft, Frozen, Gone, Need, Roots, Store, Tier};
use envoyfs_engine::{Engine, StoreError};
use envoyfs_layout::node::{NodeBuilder, NodeView, Owner, TreeKind, edges};
use envoyfs_layout::{Hlc, Lsn, Oid, Reference, ReferenceKind};
use envoyfs_model::history::token_bytes;

/// Kind of the client's records.
const KIND: u16 = 300;
/// Bytes that a unit of the model's metadata stands for.
const UNIT_BYTES: usize = 5000;

/// An object in a slot.
#[derive(Clone, Debug)]
pub struct Slot {
    pub content: u64,
    pub reference: Reference,
    pub crcs: Vec<u32>,
}

/// What the client's state means: the object in each slot, and a digest of all records before.
pub type Logical = (Vec<Option<(Oid, u64)>>, u64);

pub struct Client {
    pub engine: Engine,
    pub slots: Vec<Option<Slot>>,
    digest: u64,
    node: Option<Reference>,
    changed: Hlc,
}

/// A checkpoint between its freeze and its publication.
pub struct Building {
    frozen: Frozen,
    roots: Roots,
    changes: Changes,
}

/// The bytes of an object.
pub fn bytes_of(content: u64) -> Vec<u8> {
    token_bytes(content, 512 * (1 + (content % 21) as usize))
}

fn mix(digest: u64, id: u64) -> u64 {
    (digest ^ id).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23)
}

impl Client {
    /// What the engine recovered.
    pub fn start(engine: Engine, slots: usize) -> Result<Client, StoreError> {
        let mut client = Client { engine, slots: vec![None; slots], digest: 0, node: None, changed: Hlc::ZERO };
        if let Some(node) = client.engine.recovered_roots().references.first() {
            client.node = Some(*node);
            client.load(*node)?;
        }
        for record in client.engine.take_replay() {
            client.apply(&record.body, record.hlc, record.data.first().map(|data| (data.oid, data.crcs.clone())));
        }
        Ok(client)
    }

    fn load(&mut self, node: Reference) -> Result<(), StoreError> {
        self.changed = node.birth;
        let bytes = self.engine.read_node(&node)?;
        let view = NodeView::parse(&bytes).expect("a node that was verified");
        for item in view.items() {
            let number = |at: usize| u64::from_le_bytes(item.value[at..at + 8].try_into().expect("8 bytes"));
            match (item.key, item.reference_indexes().next()) {
                ([slot], Some(index)) => {
                    let reference = view.reference(index).expect("an index that was checked");
                    let crcs =
                        item.value[8..].chunks(4).map(|crc| u32::from_le_bytes(crc.try_into().expect("4 bytes")));
                    let slot = usize::from(*slot);
                    self.slots[slot] = Some(Slot { content: number(0), reference, crcs: crcs.collect() });
                }
                _ => self.digest = number(0),
            }
        }
        Ok(())
    }

    pub fn logical(&self) -> Logical {
        let slots = self.slots.iter().map(|slot| slot.as_ref().map(|slot| (slot.reference.oid, slot.content)));
        (slots.collect(), self.digest)
    }

    /// A record, and with `put` an object that it names: slot and content. Returns the record's end.
    pub fn append(&mut self, id: u64, put: Option<(usize, u64)>, units: usize) -> Result<Appended, StoreError> {
        let mut body = id.to_le_bytes().to_vec();
        let data = put.map(|(slot, content)| {
            body.push(slot as u8);
            body.extend(content.to_le_bytes());
            bytes_of(content)
        });
        if data.is_none() {
            body.push(u8::MAX);
            body.resize(body.len() + units * UNIT_BYTES - 400 * (id % 10) as usize, id as u8);
        }
        let need = Need {
            log_bytes: body.len() as u64,
            node_bytes: 4096,
            payload_bytes: 0,
            data_bytes: data.as_ref().map_or(0, |data| data.len() as u64),
            tier: Tier::Writer,
        };
        let mut permit = self.engine.reserve(need)?;
        let object = data.map(|data| self.engine.append_data(&mut permit, None, &data)).transpose()?;
        let draft = Draft { kind: KIND, territory: 1, origin: None, data: object.as_slice(), body: &body };
        let appended = match self.engine.append(&mut permit, draft) {
            Err(error) => return Ok(Appended::Refused(error)),
            Ok(appended) => appended,
        };
        let oid = object.as_ref().map(|object| object.oid);
        self.apply(&body, appended.hlc, object.map(|object| (object.oid, object.crcs)));
        Ok(Appended::At(appended.end, oid))
    }

    fn apply(&mut self, body: &[u8], hlc: Hlc, data: Option<(Oid, Vec<u32>)>) {
        let id = u64::from_le_bytes(body[..8].try_into().expect("8 bytes"));
        self.digest = mix(self.digest, id);
        self.changed = hlc.birth();
        let Some((oid, crcs)) = data else { return };
        let content = u64::from_le_bytes(body[9..17].try_into().expect("8 bytes"));
        let stored_bytes = bytes_of(content).len() as u32;
        let reference = Reference::extent(oid, hlc.birth(), stored_bytes);
        self.slots[usize::from(body[8])] = Some(Slot { content, reference, crcs });
    }

    /// A node that nothing leads to, of 15 KiB.
    pub fn idle_node(&self) -> Result<(), StoreError> {
        let mut builder = NodeBuilder::new(TreeKind::Extents, 0, Hlc(8), Owner::default());
        for item in 0..15_u32 {
            builder.push(&item.to_le_bytes(), &[7; 1000], &[]).expect("a small item");
        }
        self.engine.append_node(Batch::Current, ReferenceKind::Node, 0, Hlc(8), &builder.finish()).map(|_| ())
    }

    /// Reads an object; its bytes.
    pub fn read(&self, slot: &Slot) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![0; slot.reference.stored_bytes as usize];
        self.engine.read_data(slot.reference.oid, 0, &slot.crcs, &mut bytes)?;
        Ok(bytes)
    }

    /// Freezes the state and writes its node.
    pub fn build(&mut self) -> Result<Building, StoreError> {
        let frozen = self.engine.freeze()?;
        let birth = self.changed.max(Hlc(1));
        let mut builder = NodeBuilder::new(TreeKind::RealmTable, 0, birth, Owner::default());
        for (index, slot) in self.slots.iter().enumerate() {
            let Some(slot) = slot else { continue };
            let mut value = slot.content.to_le_bytes().to_vec();
            slot.crcs.iter().for_each(|crc| value.extend(crc.to_le_bytes()));
            builder.push(&[index as u8], &value, &[slot.reference]).expect("a small item");
        }
        builder.push(b"digest", &self.digest.to_le_bytes(), &[]).expect("a small item");
        let bytes = builder.finish();
        let node = self.engine.append_node(Batch::Frozen, ReferenceKind::Node, 0, birth, &bytes)?;
        let mut changes = Changes::default();
        if let Some(old) = self.node.replace(node) {
            let bytes = self.engine.read_node(&old)?;
            changes.gone.push(Gone { node: old, edges: edges(&bytes).expect("a node that was verified") });
        }
        Ok(Building { frozen, roots: Roots { references: vec![node], blob: b"x".to_vec() }, changes })
    }

    pub fn publish(&self, building: Building) -> Result<(), StoreError> {
        self.engine.publish(building.frozen, building.roots, building.changes)
    }

    /// After a checkpoint of everything: what lives is what the state refers to, once.
    pub fn check_space(&self) -> Result<(), String> {
        let found = self.engine.check_space();
        if !found.is_empty() {
            return Err(format!("INV-32: {found:?}"));
        }
        let mut objects: Vec<Reference> = self.slots.iter().flatten().map(|slot| slot.reference).collect();
        objects.extend(self.node);
        if let Some(object) = objects.iter().find(|object| self.engine.count(object.oid) != 1) {
            return Err(format!("INV-06: {} references to {}", self.engine.count(object.oid), object.oid));
        }
        objects.extend(self.engine.roots_objects());
        let want: u64 = objects.iter().map(|object| u64::from(object.units())).sum();
        let runs = self.engine.liveness();
        let live: u64 = runs.values().flatten().map(|run| u64::from(run.end - run.start)).sum();
        if live != want {
            return Err(format!("INV-12: {live} units live, {want} are reachable"));
        }
        Ok(())
    }
}

/// What became of an admitted record.
pub enum Appended {
    /// LSN behind it, and the object that it names.
    At(Lsn, Option<Oid>),
    /// Not appended, though it was admitted.
    Refused(StoreError),
}
