//! Appending: a record is encoded, paid for, drawn and copied into the memory from which groups make blocks (`staging.rs`). Nothing here waits (INV-24).

use super::room::{LogRoom, Payer};
use super::{BARRIER_DATA_BYTES, Wal};
use crate::StoreError;
use crate::device::Ticket;
use crate::hlc;
use crate::mutant::{self, Mutant};
use crate::store::{DataObject, Origin, Result};
use crate::sync::atomic::Ordering;
use envoyfs_layout::wal::{self as format, RECORD_BYTES_MAX, RecordParts, kind};
use envoyfs_layout::{Hlc, Lsn};
use std::cell::RefCell;

/// A thread keeps its memory for encoding records up to this size.
const SCRATCH_BYTES_MAX: usize = 64 << 10;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A record to append.
#[derive(Clone, Copy, Debug)]
pub struct NewRecord<'a> {
    /// Kind.
    pub kind: u16,
    /// Territory that it changes.
    pub territory: u64,
    /// A reader that does not know the kind may skip it.
    pub ignorable: bool,
    /// Identity of a forwarded request.
    pub origin: Option<Origin>,
    /// Data objects that it names.
    pub data: &'a [DataObject],
    /// The writes of that data, all submitted.
    pub writes: &'a [Ticket],
    /// Body.
    pub body: &'a [u8],
}

impl<'a> NewRecord<'a> {
    /// One of the engine's own records: kind and body.
    #[must_use]
    pub const fn engine(kind: u16, body: &'a [u8]) -> Self {
        Self { kind, territory: 0, ignorable: false, origin: None, data: &[], writes: &[], body }
    }
}

/// Where a record was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// LSN of its first byte.
    pub start: Lsn,
    /// LSN behind it: `commit(end)` makes it durable.
    pub end: Lsn,
    /// Its HLC.
    pub hlc: Hlc,
}

impl Wal {
    /// Appends a record that `room` pays for. Never waits.
    ///
    /// # Errors
    /// Poisoned, longer than a record may be, or larger than what was reserved while the ring has no room to spare.
    pub fn append(&self, room: &mut LogRoom, record: NewRecord<'_>) -> Result<Position> {
        self.put(Payer::Room(room), record)
    }

    /// Appends a record of the engine from the reserve: CHECKPOINT, and what its checkpoint or a mount opens and seals. Never waits.
    ///
    /// # Errors
    /// Poisoned, or the ring is full, which the reserve excludes.
    pub fn append_internal(&self, record: NewRecord<'_>) -> Result<Position> {
        self.put(Payer::Reserve, record)
    }

    /// As [`Wal::append_internal`], unless the ring is so full that it would take what was promised to operations: then nothing is appended. For what a checkpoint can do without
    /// ([`crate::space::Space::unlogged`]).
    ///
    /// # Errors
    /// Poisoned.
    pub fn append_spare(&self, record: NewRecord<'_>) -> Result<Option<Position>> {
        if_room(self.put(Payer::Spare, record))
    }

    fn put(&self, payer: Payer<'_>, record: NewRecord<'_>) -> Result<Position> {
        SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
            Ok(mut scratch) => {
                let result = self.put_with(&mut scratch, payer, record);
                if scratch.capacity() > SCRATCH_BYTES_MAX {
                    *scratch = Vec::new();
                }
                result
            }
            Err(_) => self.put_with(&mut Vec::new(), payer, record),
        })
    }

    /// Everything that takes time is before the record is drawn, or after it was published; between the two are the stamp, the copy, and nothing that could fail.
    fn put_with(&self, scratch: &mut Vec<u8>, payer: Payer<'_>, record: NewRecord<'_>) -> Result<Position> {
        self.check_open()?;
        scratch.clear();
        encode(&record, scratch)?;
        let bytes = scratch.len() as u64;
        let cost = self.pay(payer, bytes)?;
        let ahead = self.levels.clock_ahead_ns.load(Ordering::Acquire);
        let wall = hlc::wall_hlc(self.clock.wall_ns().saturating_sub_unsigned(ahead));
        let bound = Hlc(self.levels.hlc_bound.load(Ordering::Acquire));
        let drawn = self.staging.draw(bytes, |last| hlc::next(last, wall, bound));
        format::stamp(scratch, drawn.hlc);
        if !record.writes.is_empty() && !mutant::on(Mutant::NamedAfterPublished) {
            self.named.lock().insert(drawn.start, record.writes.to_vec());
        }
        self.staging.put(drawn.start, scratch);
        if mutant::on(Mutant::NamedAfterPublished) {
            crate::sync::thread::yield_now();
            self.named.lock().insert(drawn.start, record.writes.to_vec());
        }

        let position = Position { start: drawn.start, end: Lsn(drawn.start.0.saturating_add(bytes)), hlc: drawn.hlc };
        if record.kind >= kind::CLIENT_FIRST {
            self.levels.records.fetch_add(1, Ordering::Relaxed);
        }
        if record.kind == kind::CHECKPOINT {
            self.levels.checkpoint_pending.store(false, Ordering::Release);
        }
        let named: u64 = record.data.iter().map(|object| u64::from(object.stored_bytes)).sum();
        let before = if named > 0 { self.levels.named_bytes.fetch_add(named, Ordering::Relaxed) } else { 0 };
        self.note_append();
        let crosses = |from: u64, by: u64, step: u64| from / step != from.saturating_add(by) / step;
        let by_size = crosses(drawn.start.0, bytes, self.staging.capacity() / 8)
            || crosses(before, named, BARRIER_DATA_BYTES / 4);
        if self.staging.settle(cost) || by_size {
            // With the lock, so that a committer that is about to sleep is asleep.
            if !mutant::on(Mutant::WakesWithoutLock) {
                drop(self.inner.lock());
            }
            self.wake.notify_one();
        }
        Ok(position)
    }

    fn note_append(&self) {
        let now_ms = self.clock.monotonic_ms();
        if self.levels.waiting_since.load(Ordering::Relaxed) == 0 {
            self.levels.waiting_since.store(now_ms.saturating_add(1), Ordering::Relaxed);
        }
        if self.levels.last_append_ms.load(Ordering::Relaxed) != now_ms {
            self.levels.last_append_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    /// Appends a local record from the reserve. It has no LSN; it stands before everything appended after it. Never waits.
    ///
    /// # Errors
    /// Poisoned, too long for a block, or the ring is full, which the reserve excludes.
    pub fn append_local(&self, kind: u16, body: &[u8]) -> Result<()> {
        self.check_open()?;
        self.put_local(Payer::Reserve, kind, body)
    }

    /// As [`Wal::append_local`], unless it would take what was promised to operations: then nothing is appended, and it is false.
    ///
    /// # Errors
    /// Poisoned.
    pub fn append_local_spare(&self, kind: u16, body: &[u8]) -> Result<bool> {
        self.check_open()?;
        if_room(self.put_local(Payer::Spare, kind, body)).map(|put| put.is_some())
    }

    pub(super) fn put_local(&self, payer: Payer<'_>, kind: u16, body: &[u8]) -> Result<()> {
        let parts = RecordParts {
            kind,
            local: true,
            ignorable: false,
            hlc: Hlc::ZERO,
            territory: 0,
            origin: None,
            result: None,
            data: &[],
            body,
        };
        let bytes = format::padded(parts.length()) as u64;
        let limit = u64::from(self.config.ring.capacity());
        if bytes > limit {
            return Err(StoreError::TooLarge { what: "a local record", bytes, limit });
        }
        let mut record = Vec::new();
        parts.encode(&mut record).map_err(|source| StoreError::Structure {
            structure: "local WAL record",
            offset: 0,
            source,
        })?;
        let cost = self.pay(payer, bytes.saturating_mul(2))?;
        {
            let mut locals = self.locals.lock();
            self.levels.local_bytes.fetch_add(bytes, Ordering::AcqRel);
            locals.push(self.staging.end(), record);
        }
        self.metrics.log.local_records.increment();
        if self.levels.waiting_since.load(Ordering::Relaxed) == 0 {
            self.levels.waiting_since.store(self.clock.monotonic_ms().saturating_add(1), Ordering::Relaxed);
        }
        if self.staging.settle(cost) {
            drop(self.inner.lock());
            self.wake.notify_one();
        }
        Ok(())
    }
}

/// `None` where the ring is too full.
fn if_room<T>(put: Result<T>) -> Result<Option<T>> {
    match put {
        Ok(put) => Ok(Some(put)),
        Err(StoreError::NoSpace { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A record without HLC and checksum, padded.
pub(super) fn encode(record: &NewRecord<'_>, out: &mut Vec<u8>) -> Result<()> {
    let data: Vec<format::NamedObject<&[u32]>> = record
        .data
        .iter()
        .map(|object| format::NamedObject {
            oid: object.oid,
            extends: object.extends,
            stored_bytes: object.stored_bytes,
            crcs: object.crcs.as_slice(),
        })
        .collect();
    let parts = RecordParts {
        kind: record.kind,
        local: false,
        ignorable: record.ignorable,
        hlc: Hlc::ZERO,
        territory: record.territory,
        origin: record.origin.map(|o| format::Origin { client: o.client, sequence: o.sequence, floor: o.floor }),
        result: None,
        data: &data,
        body: record.body,
    };
    let bytes = format::padded(parts.length());
    if bytes > RECORD_BYTES_MAX {
        let (bytes, limit) = (bytes as u64, RECORD_BYTES_MAX as u64);
        return Err(StoreError::TooLarge { what: "a record", bytes, limit });
    }
    parts.encode_unstamped(out).map_err(|source| StoreError::Structure { structure: "WAL record", offset: 0, source })
}
