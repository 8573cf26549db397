//! The seam between the engine and its client (the namespace): objects, records, roots. See `docs/decisions/0002-engine-interface.md`.
//!
//! Owns no logic. [`Store`] is implemented by [`crate::Engine`] over a device and by the oracle `MemoryStore` in tests.

use crate::StoreError;
use crate::bound::MemoryBound;
use crate::history::{HistoryPolicy, HistoryRoot};
use crate::mark::{MarkOptions, MarkProgress, MarkReport, Uses};
use crate::metrics::Metrics;
use crate::scrub::{ScrubOptions, ScrubReport};
pub use crate::space::pins::Pin;
use envoyfs_layout::{Hlc, Lsn, Oid, Reference, ReferenceKind};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

/// Result of every engine call.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Limits that follow from the store's geometry, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest extent object.
    pub extent_bytes_max: u32,
    /// Largest node.
    pub node_bytes_max: u32,
    /// Largest record body (data table and client body together).
    pub record_bytes_max: u32,
}

/// Which objects lie together in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Nodes, batches, roots.
    Nodes,
    /// File data as it is written.
    HotData,
    /// Survivors of cleaning.
    ColdData,
}

/// Who may use how much of the free space (INV-26).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Writes that add data or names: stop first.
    Writer,
    /// Operations that free space or keep it equal: unlink, truncate, rename, setattr.
    Shrinking,
    /// Delete of forks and snapshots, checkpoint, unmount: always work.
    Last,
}

/// The worst case that an operation may need, in bytes. Reserved before the operation starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Bytes of record bodies (headers and block framing are added by the engine).
    pub log_bytes: u64,
    /// Bytes of nodes that the next checkpoint may have to write because of this operation.
    pub node_bytes: u64,
    /// Bytes of small data kept in the log and memory until the next checkpoint writes them.
    pub payload_bytes: u64,
    /// Bytes of data objects appended by the operation itself.
    pub data_bytes: u64,
    /// How deep into the reserve the operation may reach.
    pub tier: Tier,
}

/// Proof of a reservation. Dropping it gives back what no `append` or `append_data` used, and keeps the rest charged until the checkpoint that contains it has published.
pub struct Permit {
    pub(crate) inner: Box<dyn PermitInner>,
}

/// What a store keeps behind a [`Permit`].
pub trait PermitInner: Send + Sync + std::any::Any {
    /// For the store that made it.
    fn as_any_mut(&mut self) -> &mut dyn std::any::Any;
}

impl Permit {
    /// Wraps a store's own permit.
    pub fn new(inner: Box<dyn PermitInner>) -> Self {
        Self { inner }
    }
    /// The store's own permit.
    pub fn inner_mut(&mut self) -> &mut dyn PermitInner {
        &mut *self.inner
    }
}

/// A data object as a record names it: checksums are those of its stored bytes, one per 4 KiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataObject {
    /// Where it was written. Adjacent appends of one caller get adjacent slots when the stream allows it.
    pub oid: Oid,
    /// Set by the client when the object continues the one that ends where it starts: then it is no object of its own but the growth of that one. Only allowed when the other
    /// was named in the same batch.
    pub extends: Option<Oid>,
    /// Stored bytes, a multiple of 512.
    pub stored_bytes: u32,
    /// CRC32C of every 4 KiB (the last may be shorter, padded to 512).
    pub crcs: Vec<u32>,
}

/// What a client knows about data that it appends: for locality and repair, never for correctness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DataHint {
    /// Place it right behind the end of this object (id and stored bytes) if the stream still ends there.
    pub after: Option<(Oid, u32)>,
    /// Whose data it is (an inode number, say): repair finds it by that, and the cleaner keeps together what has one owner.
    pub owner: u64,
    /// An object that it overwrites, whole or in part: how long that one lived tells how long this one will.
    pub replaces: Option<Oid>,
}

/// Exactly-once identity of a request from another host; absent for local callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Host 16 bits, boot generation 48 bits.
    pub client: u64,
    /// Sequence of the request.
    pub sequence: u64,
    /// Lowest unanswered sequence of that client.
    pub floor: u64,
}

/// A record to append. The engine adds LSN, HLC and checksum.
#[derive(Clone, Debug)]
pub struct Draft<'a> {
    /// Client kind, from 256.
    pub kind: u16,
    /// Territory that the record changes.
    pub territory: u64,
    /// Identity of a forwarded request.
    pub origin: Option<Origin>,
    /// Data objects that the record names.
    pub data: &'a [DataObject],
    /// Client body, opaque to the engine.
    pub body: &'a [u8],
}

/// Where a record was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// LSN *after* the record: `commit(end)` makes it durable.
    pub end: Lsn,
    /// HLC of the record (even). Births it causes are `hlc.birth()`; the share time of a fork is `hlc` itself.
    pub hlc: Hlc,
}

/// A record read back at recovery.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// LSN after the record.
    pub end: Lsn,
    /// HLC of the record.
    pub hlc: Hlc,
    /// Client kind.
    pub kind: u16,
    /// Territory.
    pub territory: u64,
    /// Identity of a forwarded request.
    pub origin: Option<Origin>,
    /// Data objects named; the engine has already put them in the current batch.
    pub data: Vec<DataObject>,
    /// Client body.
    pub body: Vec<u8>,
}

/// Which batch a node belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batch {
    /// The batch that operations go to now.
    Current,
    /// The batch closed by the last `freeze`, not yet published.
    Frozen,
}

/// The client's state that a checkpoint publishes: counted references, and bytes opaque to the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// Every reference here is one root edge.
    pub references: Vec<Reference>,
    /// Client bytes, at most 8 KiB.
    pub blob: Vec<u8>,
}

/// A stored, exclusive node that left its tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    /// The node.
    pub node: Reference,
    /// Its distinct edges.
    pub edges: Vec<Reference>,
}

/// Units of an exclusive extent that an operation freed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreedRange {
    /// The extent.
    pub oid: Oid,
    /// 512-byte units from the extent's start.
    pub units: Range<u32>,
}

/// What the client hands over with a checkpoint.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Stored exclusive nodes that left their tree (INV-07, INV-08).
    pub gone: Vec<Gone>,
    /// Ranges freed by operations of this batch (INV-10, INV-11).
    pub freed: Vec<FreedRange>,
}

/// A closed batch: what `freeze` returned, consumed by `publish`.
#[derive(Debug)]
pub struct Frozen {
    /// Number of the checkpoint.
    pub number: u64,
    /// First LSN that it does not contain.
    pub freeze: Lsn,
    /// Every birth in it is at most this.
    pub hlc: Hlc,
}

/// Why a checkpoint is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The ring, the dirty bytes or the record count reached a trigger.
    Log,
    /// Dead space waits, or the drop queue has work.
    Reclaim,
    /// Nothing happened for a while and the log is not empty.
    Idle,
}

/// Numbers that are never reused, handed out in chunks below a durable bound (INV-16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Inode numbers.
    Inode,
    /// Realm ids.
    Realm,
    /// Territory numbers.
    Territory,
}

/// Space and activity, for `statfs` and `envoyfs status`. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in segments.
    pub capacity: u64,
    /// Live bytes.
    pub live: u64,
    /// Bytes that only retained checkpoints need.
    pub deferred: u64,
    /// Dead bytes that are not free yet (in half-used segments).
    pub dead: u64,
    /// Bytes in free containers.
    pub free: u64,
    /// Bytes that a writer may still use.
    pub available: u64,
    /// Objects waiting in the drop queue.
    pub drop_queue: u64,
    /// Objects with more than one reference.
    pub shared_objects: u64,
    /// Bytes of the log since the published checkpoint.
    pub log_bytes: u64,
    /// Bytes of the ring.
    pub ring_bytes: u64,
    /// Number of the published checkpoint.
    pub checkpoint: u64,
    /// LSN appended.
    pub appended: Lsn,
    /// LSN durable.
    pub durable: Lsn,
}

/// Called once when an LSN is durable, or the store is poisoned or closed. Runs on whatever thread finds that out: the committer's, one that is inside a `commit` of its own, or at once
/// the one that asked. So it must not block, nor take a lock that somebody holds who calls `commit` or `on_durable`.
pub type OnDurable = Box<dyn FnOnce(Result<()>) + Send>;

/// Objects, records and roots. All calls are thread-safe.
pub trait Store: Send + Sync + 'static {
    /// Limits of this store. Free of cost.
    fn limits(&self) -> Limits;
    /// Wall clock in nanoseconds since 1970, from the store's clock (virtual in simulation).
    fn wall_ns(&self) -> i64;
    /// A fresh number of the given kind; durable bounds make reuse after a crash impossible (INV-16). Never waits: [`StoreError::WouldWait`], with threads too, when the numbers
    /// reserved by the last checkpoint are used up; a checkpoint is due then, and the next one reserves more.
    ///
    /// # Errors
    /// [`StoreError::WouldWait`]; [`StoreError::UsedUp`]: all of this kind were handed out; [`StoreError::ReadOnly`]. Costs an atomic addition.
    fn number(&self, counter: Counter) -> Result<u64>;

    /// Reserves the worst case; blocks while a checkpoint can free space or ring, or others have been promised all memory for records, else `NoSpace`. Never called under the freeze lock (INV-24), nor by
    /// who holds another permit: many of those would wait for each other for ever.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] for this tier; [`StoreError::TooLarge`]: no log of this size has room for it; [`StoreError::WouldWait`] without threads; [`StoreError::UsedUp`], [`StoreError::ReadOnly`],
    /// [`StoreError::Poisoned`]. Costs a lock for a few instructions if nobody waits; a writer may be delayed while the log is more than half full.
    fn reserve(&self, need: Need) -> Result<Permit>;
    /// Starts writing a data object and returns at once (waits only while too much is in flight, by default 12 MiB). `data` is at most `extent_bytes_max`; the tail is padded to 512.
    /// `after`: place it right behind that object's end if the stream still ends there.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Misuse`] (empty, or a permit of another store), [`StoreError::NoSpace`] beyond what was reserved, [`StoreError::ReadOnly`], [`StoreError::Poisoned`]. That the write failed is told by
    /// [`Store::commit`] of the record that names it. Costs a copy of the data and its checksums.
    fn append_data(&self, permit: &mut Permit, after: Option<(Oid, u32)>, data: &[u8]) -> Result<DataObject>;
    /// As `append_data`, with what the client knows beside. It may take only the first blocks of the data (whole blocks of 4 KiB, as `stored_bytes` says), where a
    /// container ends: the caller appends the rest as an object of its own.
    ///
    /// # Errors
    /// As [`Store::append_data`].
    fn append_part(&self, permit: &mut Permit, hint: &DataHint, data: &[u8]) -> Result<DataObject> {
        self.append_data(permit, hint.after, data)
    }
    /// Gives up a data object that no record will name.
    fn abandon_data(&self, object: &DataObject);
    /// Appends a record. Under the freeze lock (shared). Never blocks. Data objects become part of the current batch, with birth `hlc.birth()`.
    ///
    /// # Errors
    /// [`StoreError::BadReference`]: an object that was not written, is named already, or extends one that may not grow; [`StoreError::TooLarge`]: longer than a record may be; [`StoreError::Misuse`]: a permit of another store; [`StoreError::ReadOnly`],
    /// [`StoreError::Poisoned`]. Nothing was appended then. Costs under a microsecond and no IO.
    fn append(&self, permit: &mut Permit, draft: Draft<'_>) -> Result<Appended>;
    /// Waits until everything before `lsn` is durable (INV-18).
    ///
    /// # Errors
    /// [`StoreError::Poisoned`]: a write or flush failed, or the mount was closed before; whether the records survive is known to the next mount only. Costs a flush, or durable writes, which those who wait together
    /// share; nothing if it is durable already.
    fn commit(&self, lsn: Lsn) -> Result<()>;
    /// The same without waiting.
    fn on_durable(&self, lsn: Lsn, done: OnDurable);
    /// LSN after the last record appended.
    fn end(&self) -> Lsn;

    /// Appends a node (padded to 512 by the engine). `bytes` carries its generic reference table, from which the engine takes the edges. Buffered; readable at once.
    ///
    /// # Errors
    /// [`StoreError::Misuse`]: no node, older than what it refers to (INV-02), or nothing is frozen; [`StoreError::TooLarge`], [`StoreError::NoSpace`] beyond what was reserved, [`StoreError::Poisoned`]. Costs a copy, a checksum,
    /// and now and then the submission of a buffer.
    fn append_node(&self, batch: Batch, kind: ReferenceKind, flags: u8, birth: Hlc, bytes: &[u8]) -> Result<Reference>;
    /// Appends data for the builder: a payload that becomes an extent at the checkpoint. Buffered like nodes, 4 KiB-aligned when it is 4 KiB or more. In the given batch without a record.
    ///
    /// # Errors
    /// As [`Store::append_node`].
    fn append_payload(&self, batch: Batch, birth: Hlc, data: &[u8]) -> Result<DataObject>;
    /// Whole node, verified against the reference's checksum (INV-14). The engine does not cache decoded nodes. Fails for what a checkpoint that is being published no longer
    /// reaches, from the call of [`Store::publish`] on, unless a pin that was taken before, or a retained checkpoint, holds it: start again from the newest roots. It never gives other bytes.
    ///
    /// # Errors
    /// [`StoreError::Damaged`]: it does not verify, also when read again; [`StoreError::Unreadable`]: the device gives an error; [`StoreError::BadReference`]: it has no place; [`StoreError::SegmentPage`]: the page that says where it
    /// lies cannot be read. Costs a read, and another of a page if its segment was cleaned and that slot map is not in memory; nothing while it is in flight.
    fn read_node(&self, reference: &Reference) -> Result<Arc<[u8]>>;
    /// Bytes [first, first + into.len()) of an extent's stored bytes, both multiples of 512 and `first` of 4096; `crcs` are the checksums of the blocks touched (whole blocks are read). Fails like [`Store::read_node`].
    ///
    /// # Errors
    /// As [`Store::read_node`]; [`StoreError::BadReference`] also for a range outside of it. Costs as that.
    fn read_data(&self, oid: Oid, first: u32, crcs: &[u32], into: &mut [u8]) -> Result<()>;

    /// Takes a pin: everything that can be reached at this moment, from the roots that were shown last and through what was appended since, stays readable until the pin is dropped,
    /// whatever is published meanwhile. Costs a moment's lock; holds up nothing but the reuse of space. Take it first, then look up what to read.
    ///
    /// Publications show their roots when [`Store::publish_and_show`] says so; with [`Store::publish`] they do before the client can have taken them over, and a reader that pins in
    /// between may find that what the old roots lead to is gone. What a pin holds back is dead space: it is told by the metrics `pins`. A pin is *broken* when a publication, a
    /// deletion or a writer would otherwise be refused for lack of that space ([`Pin::is_broken`]): reads of what it pinned may fail then, they never give other bytes.
    fn pin(&self) -> Pin;
    /// [`Store::read_node`] of something that is pinned: [`StoreError::PinBroken`] if it fails and the pin is broken.
    ///
    /// # Errors
    /// As [`Store::read_node`]; [`StoreError::PinBroken`].
    fn read_pinned_node(&self, pin: &Pin, reference: &Reference) -> Result<Arc<[u8]>> {
        self.read_node(reference).map_err(|error| pin.explain(error))
    }
    /// [`Store::read_data`] of something that is pinned: [`StoreError::PinBroken`] if it fails and the pin is broken.
    ///
    /// # Errors
    /// As [`Store::read_data`]; [`StoreError::PinBroken`].
    fn read_pinned_data(&self, pin: &Pin, oid: Oid, first: u32, crcs: &[u32], into: &mut [u8]) -> Result<()> {
        self.read_data(oid, first, crcs, into).map_err(|error| pin.explain(error))
    }

    /// Waits until a checkpoint is due, at most `timeout_ms`.
    fn wait_checkpoint(&self, timeout_ms: u64) -> Option<Reason>;
    /// Closes the current batch. Caller holds the freeze lock exclusively. One in flight at a time.
    ///
    /// # Errors
    /// [`StoreError::Misuse`]: one is in flight; [`StoreError::ReadOnly`], [`StoreError::Poisoned`]. Costs a lock for some microseconds, no IO.
    fn freeze(&self) -> Result<Frozen>;
    /// Makes the frozen version the published checkpoint (INV-17): writes, flushes, CHECKPOINT record, directory, superblock, then reuse of space. Blocks for the IO.
    ///
    /// # Errors
    /// [`StoreError::Misuse`]: it is not the frozen one, or what it says contradicts the batch law; what a write or flush meets. [`StoreError::TooLarge`]. After any error the store is poisoned: the previous checkpoint
    /// rules, or this one (INV-33). Costs what is new and what pages change, and four flushes.
    fn publish(&self, frozen: Frozen, roots: Roots, changes: Changes) -> Result<()>;
    /// As [`Store::publish`]; calls `show` once the new roots rule, before anything that only the old ones reach is reused. There the client takes the new roots over, so that
    /// whoever takes a pin afterwards looks at them. `show` must not wait for another thread's checkpoint, and is not called if the publication fails.
    ///
    /// # Errors
    /// As [`Store::publish`].
    fn publish_and_show(&self, frozen: Frozen, roots: Roots, changes: Changes, show: &mut dyn FnMut()) -> Result<()> {
        self.publish(frozen, roots, changes)?;
        show();
        Ok(())
    }
    /// Gives a freeze up: there will be no checkpoint of it, and the next may be frozen. What the frozen batch holds belongs to the current one again, nodes that were
    /// appended to it too; the client keeps its changes for the next `publish`. Waits for nothing.
    ///
    /// # Errors
    /// [`StoreError::Misuse`]: it is not the frozen one; [`StoreError::ReadOnly`].
    fn abandon(&self, frozen: Frozen) -> Result<()>;
    /// Roots of the checkpoint that recovery started from.
    fn recovered_roots(&self) -> Roots;
    /// The records after that checkpoint, in order; once, before anything is appended.
    fn take_replay(&self) -> Vec<Replayed>;

    /// Space and activity.
    fn usage(&self) -> Usage;
    /// What this mount counts and times, if it does.
    fn metrics(&self) -> Option<&Metrics> {
        None
    }
    /// How much memory the store takes at most, if it knows; see [`crate::Engine::memory_bound`].
    fn memory_bound(&self) -> Option<MemoryBound> {
        None
    }
    /// Why the store takes no more writes, if it does not (INV-33).
    fn poisoned(&self) -> Option<String>;

    /// Changes which checkpoints stay readable, from the next checkpoint on. A store that retains none ignores it.
    fn retain(&self, _policy: HistoryPolicy) {}
    /// Retained checkpoints, oldest first.
    ///
    /// # Errors
    /// What a read of their roots objects meets: as [`Store::read_node`].
    fn history(&self) -> Result<Vec<HistoryRoot>> {
        Ok(Vec::new())
    }
    /// Verifies everything that lives; see [`crate::Engine::scrub`].
    ///
    /// # Errors
    /// [`StoreError::Poisoned`]; [`StoreError::Refused`]: the store has nothing of the kind. Damage is in the report. Costs a read of all that lives.
    fn scrub(
        &self,
        _options: ScrubOptions,
        _progress: &mut dyn FnMut(&ScrubReport) -> ControlFlow<()>,
    ) -> Result<ScrubReport> {
        Err(StoreError::Refused("this store has nothing to scrub".into()))
    }
    /// Whether the store is full and a mark may free something, so that a writer waits for it instead of being refused: then call [`Store::mark`] soon, from a thread that makes no
    /// checkpoints. Who never asks is never waited for.
    fn is_mark_wanted(&self) -> bool {
        false
    }
    /// Compares counts and liveness with what the nodes say, and sets them right; see [`crate::Engine::mark`].
    ///
    /// # Errors
    /// [`StoreError::Refused`]: the store has nothing of the kind; what [`crate::Engine::mark`] says.
    fn mark(
        &self,
        _options: MarkOptions,
        _uses: &Uses<'_>,
        _progress: &mut dyn FnMut(&MarkProgress) -> ControlFlow<()>,
    ) -> Result<MarkReport> {
        Err(StoreError::Refused("this store has nothing to mark".into()))
    }
}
