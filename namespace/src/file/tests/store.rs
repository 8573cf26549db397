//! A store in memory that holds objects and remembers how they were born. Nothing else of an engine is needed here.

use crate::file::changes::continues;
use crate::file::changes::reference;
use envoyfs_engine::StoreError;
use envoyfs_engine::store::{
    Appended, Batch, Changes, Counter, DataObject, Draft, Frozen, Limits, Need, OnDurable, Permit, PermitInner, Pin,
    Reason, Replayed, Result, Roots, Store, Usage,
};
use envoyfs_layout::checksum;
use envoyfs_layout::{Encoding, Hlc, Lsn, Oid, Reference, ReferenceKind};
use parking_lot::Mutex;
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// An object and, if it is data, the birth of its newest part; none while no record has named it.
#[derive(Clone)]
pub(super) struct Object {
    pub bytes: Vec<u8>,
    pub birth: Option<Hlc>,
    pub node: bool,
}

#[derive(Default)]
pub(super) struct TestStore {
    objects: Mutex<BTreeMap<Oid, Object>>,
    next: AtomicU64,
    extent_bytes_max: u32,
    /// Reads fail while set.
    pub broken: AtomicBool,
    /// Reads of data so far.
    pub reads: AtomicU64,
}

struct NoPermit;
impl PermitInner for NoPermit {
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

pub(super) fn permit() -> Permit {
    Permit::new(Box::new(NoPermit))
}

fn none<T>() -> Result<T> {
    Err(StoreError::Refused("not in this test".into()))
}

impl TestStore {
    pub fn new(extent_bytes_max: u32) -> Arc<Self> {
        Arc::new(Self { extent_bytes_max, next: AtomicU64::new(Oid::new(1, 1, 8).0), ..Self::default() })
    }

    fn add(&self, bytes: &[u8], birth: Option<Hlc>, node: bool) -> (Oid, Vec<u8>) {
        let mut bytes = bytes.to_vec();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        let units = bytes.len() as u64 / 512;
        let mut next = self.next.load(Ordering::SeqCst);
        if (next & 0xffff) + units > 0xffff {
            next = (next | 0xffff) + 9;
        }
        self.next.store(next + units, Ordering::SeqCst);
        self.objects.lock().insert(Oid(next), Object { bytes: bytes.clone(), birth, node });
        (Oid(next), bytes)
    }

    /// What the engine does when a record names objects.
    pub fn name(&self, data: &[DataObject], birth: Hlc) {
        let mut objects = self.objects.lock();
        for object in data {
            match object.extends {
                None => objects.get_mut(&object.oid).unwrap().birth = Some(birth),
                Some(head) => {
                    let tail = objects.remove(&object.oid).unwrap();
                    let head_object = objects.get_mut(&head).unwrap();
                    let extent = reference(head, u32::try_from(head_object.bytes.len()).unwrap(), 0, Hlc::ZERO);
                    assert!(continues(&extent, object));
                    head_object.bytes.extend_from_slice(&tail.bytes);
                    head_object.birth = head_object.birth.max(Some(birth));
                }
            }
        }
    }

    /// The next append does not continue the last one.
    pub fn leave_gap(&self) {
        self.next.fetch_add(8, Ordering::SeqCst);
    }

    pub fn objects(&self) -> BTreeMap<Oid, Object> {
        self.objects.lock().clone()
    }
}

impl Store for TestStore {
    fn limits(&self) -> Limits {
        Limits { extent_bytes_max: self.extent_bytes_max, node_bytes_max: 16384, record_bytes_max: 1 << 20 }
    }
    fn wall_ns(&self) -> i64 {
        0
    }
    fn number(&self, _: Counter) -> Result<u64> {
        none()
    }
    fn reserve(&self, _: Need) -> Result<Permit> {
        Ok(permit())
    }
    fn append_data(&self, _: &mut Permit, _: Option<(Oid, u32)>, data: &[u8]) -> Result<DataObject> {
        assert!(data.len() <= self.extent_bytes_max as usize);
        let (oid, bytes) = self.add(data, None, false);
        let stored_bytes = u32::try_from(bytes.len()).unwrap();
        Ok(DataObject { oid, extends: None, stored_bytes, crcs: checksum::blocks(&bytes) })
    }
    fn abandon_data(&self, _: &DataObject) {}
    fn append(&self, _: &mut Permit, _: Draft<'_>) -> Result<Appended> {
        none()
    }
    fn commit(&self, _: Lsn) -> Result<()> {
        Ok(())
    }
    fn on_durable(&self, _: Lsn, done: OnDurable) {
        done(Ok(()));
    }
    fn end(&self) -> Lsn {
        Lsn(0)
    }
    fn append_node(&self, _: Batch, kind: ReferenceKind, flags: u8, birth: Hlc, bytes: &[u8]) -> Result<Reference> {
        let (oid, stored) = self.add(bytes, Some(birth), true);
        let stored_bytes = u32::try_from(stored.len()).unwrap();
        let crc = checksum::crc32c(&stored);
        Ok(Reference {
            oid,
            birth,
            stored_bytes,
            logical_bytes: stored_bytes,
            crc,
            kind,
            flags,
            encoding: Encoding::Plain,
        })
    }
    fn append_payload(&self, _: Batch, birth: Hlc, data: &[u8]) -> Result<DataObject> {
        if self.broken.load(Ordering::SeqCst) {
            return none();
        }
        assert!(!data.is_empty() && data.len() <= self.extent_bytes_max as usize);
        let (oid, bytes) = self.add(data, Some(birth), false);
        let stored_bytes = u32::try_from(bytes.len()).unwrap();
        Ok(DataObject { oid, extends: None, stored_bytes, crcs: checksum::blocks(&bytes) })
    }
    fn read_node(&self, reference: &Reference) -> Result<Arc<[u8]>> {
        let objects = self.objects.lock();
        let object = objects.get(&reference.oid).filter(|o| o.node);
        object
            .map(|o| o.bytes.clone().into())
            .ok_or(StoreError::BadReference { oid: reference.oid, what: "no such node" })
    }
    fn read_data(&self, oid: Oid, first: u32, crcs: &[u32], into: &mut [u8]) -> Result<()> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        if self.broken.load(Ordering::SeqCst) {
            return none();
        }
        let bad = |what| StoreError::BadReference { oid, what };
        let objects = self.objects.lock();
        let object = objects.get(&oid).filter(|o| !o.node).ok_or(bad("no such extent"))?;
        let first = first as usize;
        assert!(
            first.is_multiple_of(4096) && into.len().is_multiple_of(512) && crcs.len() == into.len().div_ceil(4096)
        );
        let stored = object.bytes.get(first..first + into.len()).ok_or(bad("beyond the end"))?;
        assert!(
            into.len().is_multiple_of(4096) || first + into.len() == object.bytes.len(),
            "whole blocks are asked for"
        );
        if checksum::blocks(stored) != crcs {
            return Err(bad("wrong checksum"));
        }
        into.copy_from_slice(stored);
        Ok(())
    }
    fn wait_checkpoint(&self, _: u64) -> Option<Reason> {
        None
    }
    fn freeze(&self) -> Result<Frozen> {
        none()
    }
    fn pin(&self) -> Pin {
        Pin::of_nothing()
    }
    fn publish(&self, _: Frozen, _: Roots, _: Changes) -> Result<()> {
        none()
    }
    fn abandon(&self, _: Frozen) -> Result<()> {
        none()
    }
    fn recovered_roots(&self) -> Roots {
        Roots::default()
    }
    fn take_replay(&self) -> Vec<Replayed> {
        Vec::new()
    }
    fn usage(&self) -> Usage {
        Usage::default()
    }
    fn poisoned(&self) -> Option<String> {
        None
    }
}
