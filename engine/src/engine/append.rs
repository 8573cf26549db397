//! Appending: data objects, records, nodes, payloads.

use super::admission::permit_of;
use super::{Engine, Writer};
use crate::StoreError;
use crate::device::{AlignedBuf, Ticket};
use crate::sabotage::{self, Rule};
use crate::space::admission::data_charge;
use crate::space::{BACKGROUND_DEPTH, RowOf, StreamKind, Wish, WrittenData};
use crate::state::Unstored;
use crate::store::{Appended, Batch, DataHint, DataObject, Draft, Permit, Result, Store, Tier};
use crate::sync::atomic::Ordering;
use crate::wal::NewRecord;
use envoyfs_layout::checksum;
use envoyfs_layout::node::edges;
use envoyfs_layout::{BLOCK, Encoding, Hlc, Oid, Reference, ReferenceKind, UNIT};
use std::sync::Arc;

/// Bytes, padded to a unit.
fn padded(bytes: &[u8]) -> Arc<[u8]> {
    let mut out = Vec::with_capacity(bytes.len().next_multiple_of(UNIT as usize));
    out.extend_from_slice(bytes);
    out.resize(bytes.len().next_multiple_of(UNIT as usize), 0);
    out.into()
}

/// `bytes` as a length, if they are at most `limit`.
pub(super) fn length(what: &'static str, bytes: usize, limit: u32) -> Result<u32> {
    let too_large = StoreError::TooLarge { what, bytes: bytes as u64, limit: limit.into() };
    u32::try_from(bytes).ok().filter(|length| *length <= limit).ok_or(too_large)
}

/// Bytes on their way to the device.
struct Filled {
    buffer: Arc<AlignedBuf>,
    /// Of it, from its start.
    stored_bytes: u32,
    /// One for each 4 KiB.
    crcs: Vec<u32>,
}

impl Engine {
    /// A buffer for an object of `bytes`: with room for what the device writes around it, from registered memory while there is any. Its contents are old.
    #[must_use]
    pub fn buffer(&self, bytes: u32) -> AlignedBuf {
        let length = (bytes as usize).next_multiple_of(self.shape.block_bytes as usize);
        let mut buffer = self.device.buffers().take(length);
        buffer.set_len((bytes as usize).next_multiple_of(UNIT as usize));
        buffer
    }

    /// `data` in a buffer that the device can write from, and its length.
    pub(super) fn filled(&self, data: &[u8]) -> Result<(AlignedBuf, u32)> {
        let bytes = length("data object", data.len(), self.limits().extent_bytes_max)?;
        let mut buffer = self.buffer(bytes);
        if let Some(head) = buffer.as_mut_slice().get_mut(..data.len()) {
            head.copy_from_slice(data);
        }
        Ok((buffer, bytes))
    }

    /// As [`Store::append_data`], of the first `bytes` of a buffer from [`Engine::buffer`], without a copy: the device writes from it. What is behind the end of a container is an
    /// object of its own; mostly there is one, and all of them together are the bytes in their order. A record has to name them all.
    ///
    /// # Errors
    /// As [`Store::append_data`]; [`StoreError::Misuse`] if the buffer has no room for whole logical blocks.
    pub fn append_buffer(&self, permit: &mut Permit, buffer: AlignedBuf, bytes: u32) -> Result<Vec<DataObject>> {
        let filled = self.sum_up(buffer, bytes)?;
        let (hint, mut objects, mut at) = (DataHint::default(), Vec::with_capacity(1), 0);
        while at < filled.stored_bytes {
            match self.write_piece(permit, &filled, at, &hint, true) {
                Ok(object) => {
                    at += object.stored_bytes;
                    objects.push(object);
                }
                Err(error) => {
                    objects.iter().for_each(|object| self.abandon_data(object));
                    return Err(error);
                }
            }
        }
        Ok(objects)
    }

    /// Starts writing an object; no record names it yet.
    pub(super) fn write_object(
        &self,
        permit: &mut Permit,
        buffer: AlignedBuf,
        bytes: u32,
        hint: &DataHint,
        may_split: bool,
    ) -> Result<DataObject> {
        let filled = self.sum_up(buffer, bytes)?;
        self.write_piece(permit, &filled, 0, hint, may_split)
    }

    /// Pads a buffer, and takes its checksums.
    fn sum_up(&self, mut buffer: AlignedBuf, bytes: u32) -> Result<Filled> {
        length("data object", bytes as usize, self.limits().extent_bytes_max)?;
        if bytes == 0 {
            return Err(StoreError::Misuse("an empty data object".into()));
        }
        if let Some(why) = self.writer()?.wal.poisoned() {
            return Err(StoreError::Poisoned { why });
        }
        let stored_bytes = bytes.next_multiple_of(UNIT);
        let written = (stored_bytes as usize).next_multiple_of(self.shape.block_bytes as usize);
        buffer.set_len(written);
        if buffer.len() != written {
            return Err(StoreError::Misuse(format!(
                "a buffer of {} bytes for an object of {bytes}",
                buffer.capacity()
            )));
        }
        if let Some(tail) = buffer.as_mut_slice().get_mut(bytes as usize..) {
            tail.fill(0);
        }
        let crcs = checksum::blocks(buffer.as_slice().get(..stored_bytes as usize).unwrap_or_default());
        Ok(Filled { buffer: Arc::new(buffer), stored_bytes, crcs })
    }

    /// Starts writing what is in the buffer from `at` on, a multiple of 4 KiB; all of it, unless it may be split.
    fn write_piece(
        &self,
        permit: &mut Permit,
        filled: &Filled,
        at: u32,
        hint: &DataHint,
        may_split: bool,
    ) -> Result<DataObject> {
        let writer = self.writer()?;
        let permit = permit_of(permit)?;
        let crcs = filled.crcs.get((at / BLOCK) as usize..).unwrap_or_default();
        let row = |stored_bytes| RowOf {
            kind: ReferenceKind::Extent,
            birth: Hlc::ZERO,
            crc: checksum::join(crcs, stored_bytes as usize),
            owner: hint.owner,
        };
        let charge = data_charge((filled.stored_bytes - at).into());
        let floor = match permit.tier {
            // There is a container for what was promised: a publication that has taken some of R since does not change that.
            _ if charge <= permit.data => 0,
            Tier::Writer => writer.admission.budget.floor_containers(Tier::Shrinking).saturating_sub(1),
            _ => 2,
        };
        let wish = Wish { after: hint.after, replaces: hint.replaces, may_split };
        let bytes = (&filled.buffer, at as usize);
        let written = writer.space.write_data(bytes, filled.stored_bytes - at, row, &wish, floor)?;
        let WrittenData { segment, slot, stored_bytes, ticket } = written;
        let crcs = crcs.iter().take(stored_bytes.div_ceil(BLOCK) as usize).copied().collect();
        let oid = Oid::new(self.shape.volume, segment, u16::try_from(slot).unwrap_or(u16::MAX));
        writer.batches.lock().written.insert(oid, ticket);
        let used = data_charge(stored_bytes.into()).min(permit.data);
        permit.data -= used;
        let mut ledger = writer.admission.ledger.lock();
        ledger.data = ledger.data.saturating_sub(used);
        Ok(DataObject { oid, extends: None, stored_bytes, crcs })
    }

    /// See [`Store::append`](crate::store::Store::append).
    pub(super) fn append_record(&self, permit: &mut Permit, draft: Draft<'_>) -> Result<Appended> {
        let writer = self.writer()?;
        let permit = permit_of(permit)?;
        let mut batches = writer.batches.lock();
        batches.check_names(draft.data)?;
        let writes: Vec<Ticket> =
            draft.data.iter().filter_map(|object| batches.written.get(&object.oid).cloned()).collect();
        let record = NewRecord {
            kind: draft.kind,
            territory: draft.territory,
            ignorable: false,
            origin: draft.origin,
            data: draft.data,
            writes: &writes,
            body: draft.body,
        };
        let position = writer.wal.append(&mut permit.room, record)?;
        for object in draft.data {
            batches.written.remove(&object.oid);
            batches.name(object, position.hlc.birth());
            writer.space.name_row(object.oid, position.hlc.birth());
        }
        // Before the lock is left: their checkpoint takes it off again.
        writer.unpublished.fetch_add(draft.data.len() as u64, Ordering::Relaxed);
        drop(batches);
        let mut ledger = writer.admission.ledger.lock();
        ledger.pending = ledger.pending.saturating_sub(permit.dirty);
        ledger.current += std::mem::take(&mut permit.dirty);
        ledger.records += 1;
        Ok(Appended { end: position.end, hlc: position.hlc })
    }

    /// See [`Store::append_node`](crate::store::Store::append_node).
    pub(super) fn append_tree_node(
        &self,
        batch: Batch,
        kind: ReferenceKind,
        flags: u8,
        birth: Hlc,
        bytes: &[u8],
    ) -> Result<Reference> {
        if kind != ReferenceKind::Node {
            return Err(StoreError::Misuse(format!("append_node of a {kind:?}")));
        }
        let logical_bytes = length("node", bytes.len(), self.limits().node_bytes_max)?;
        let edges = edges(bytes).map_err(|what| StoreError::Misuse(format!("append_node: {what}")))?;
        let younger = edges.iter().find(|edge| edge.birth > birth && !sabotage::on(Rule::BirthUnchecked));
        if let Some(edge) = younger {
            let Reference { oid, birth: of_edge, .. } = edge;
            return Err(StoreError::Misuse(format!(
                "append_node: born at {birth:?}, it refers to {oid}, born at {of_edge:?}"
            )));
        }
        let bytes = padded(bytes);
        let crc = checksum::crc32c(&bytes);
        let row = RowOf { kind, birth, crc, owner: 0 };
        let stored_bytes = logical_bytes.next_multiple_of(UNIT);
        let Some(writer) = &self.writer else {
            let oid = self.keep(bytes)?;
            return Ok(Reference {
                oid,
                birth,
                stored_bytes,
                logical_bytes,
                crc,
                kind,
                flags,
                encoding: Encoding::Plain,
            });
        };
        let (segment, slot) = self.append_buffered(writer, StreamKind::Nodes, bytes, 1, row)?;
        self.metrics.streams.nodes.increment();
        self.metrics.streams.node_bytes.add(stored_bytes.into());
        let oid = Oid::new(self.shape.volume, segment, slot);
        let reference =
            Reference { oid, birth, stored_bytes, logical_bytes, crc, kind, flags, encoding: Encoding::Plain };
        let mut batches = writer.batches.lock();
        for edge in edges.iter().filter(|edge| edge.kind == ReferenceKind::Extent) {
            if let Some(object) = batches.current.unstored.get_mut(&edge.oid) {
                object.referred = !sabotage::on(Rule::GrowsWhenReferred);
            }
        }
        let objects = batches.of(batch)?;
        let number = objects.number;
        objects.unstored.insert(oid, Unstored { reference, edges, batch: number, referred: true, pieces: 1 });
        Ok(reference)
    }

    /// See [`Store::append_payload`](crate::store::Store::append_payload).
    pub(super) fn append_frozen_payload(&self, batch: Batch, birth: Hlc, data: &[u8]) -> Result<DataObject> {
        let bytes = length("data object", data.len(), self.limits().extent_bytes_max)?;
        if bytes == 0 {
            return Err(StoreError::Misuse("an empty data object".into()));
        }
        let stored_bytes = bytes.next_multiple_of(UNIT);
        let stored = padded(data);
        let crcs = checksum::blocks(&stored);
        let Some(writer) = &self.writer else {
            return Ok(DataObject { oid: self.keep(stored)?, extends: None, stored_bytes, crcs });
        };
        let align = if stored_bytes >= BLOCK { BLOCK / UNIT } else { 1 };
        let row =
            RowOf { kind: ReferenceKind::Extent, birth, crc: checksum::join(&crcs, stored_bytes as usize), owner: 0 };
        let (segment, slot) = self.append_buffered(writer, StreamKind::Payload, stored, align, row)?;
        self.metrics.streams.payloads.increment();
        self.metrics.streams.payload_bytes.add(stored_bytes.into());
        let oid = Oid::new(self.shape.volume, segment, slot);
        let mut batches = writer.batches.lock();
        let objects = batches.of(batch)?;
        writer.unpublished.fetch_add(1, Ordering::Relaxed);
        let number = objects.number;
        let reference = Reference::extent(oid, birth, stored_bytes);
        objects
            .unstored
            .insert(oid, Unstored { reference, edges: Vec::new(), batch: number, referred: true, pieces: 1 });
        Ok(DataObject { oid, extends: None, stored_bytes, crcs })
    }

    /// Buffers an object; it is pinned and readable at once.
    pub(crate) fn append_buffered(
        &self,
        writer: &Writer,
        kind: StreamKind,
        bytes: Arc<[u8]>,
        align: u32,
        row: RowOf,
    ) -> Result<(u32, u16)> {
        if let Some(why) = writer.wal.poisoned() {
            return Err(StoreError::Poisoned { why });
        }
        let mut stream = writer.space.stream(kind);
        let (segment, _, slot) = stream.append(&writer.space, bytes, align, row, 0)?;
        writer.space.pin(segment);
        drop(stream);
        writer.space.make_way(BACKGROUND_DEPTH);
        Ok((segment, u16::try_from(slot).unwrap_or(u16::MAX)))
    }
}
