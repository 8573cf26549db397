//! Pass 1 of recovery: the longest prefix of the log that can be trusted, as a pure function of what the device shows.
//!
//! ```text
//! lineage    blocks from the published start on, each with exactly the generation that the directory lists for its sequence, bytes without a gap,
//!            each generation truncated at its cut
//! threshold  max(published cut, published CHECKPOINT record, largest watermark of the published generation, also beyond a bad block)
//! cut        first record that is not whole, or, at or above the threshold, whose data does not verify
//! corrupt    the cut is below the threshold: something that was durable is gone. Reported, never cut silently (INV-19); so is a cut where the device
//!            gives an error instead of bytes, which no power cut leaves: nobody knows whether what stood there was acknowledged (decision 0018)
//! ```
//! Nothing is written here. Run it twice, or after a crash of the recovery itself, and it finds the same (INV-21): it looks only at what the published
//! directory names, and [`super::publish_cut`] makes the cut final before anything is appended.

use super::{ChainBlock, Resume, RingGeometry, start_in};
use crate::StoreError;
use crate::device::{AlignedBuf, Device, DeviceError};
use crate::hlc::HlcSource;
use crate::sabotage::{self, Rule};
use crate::store::{DataObject, Origin, Result};
use envoyfs_layout::directory_page::{CUTS_MAX, Cut, StartPosition, VolumeEntry};
use envoyfs_layout::wal::{Block, CheckpointBody, Closed, Record, Relocated, SegmentPlaced, kind};
use envoyfs_layout::{Hlc, LayoutError, Lsn, Oid};

/// Bytes of the ring behind the end of the chain that are searched for blocks of this mount. More than can be un-flushed at any time.
pub(super) const SEARCH_BYTES: u64 = 4 * super::UNFLUSHED_BYTES_MAX;
/// Bytes of one read.
const READ_BYTES: usize = 1 << 20;

/// Who knows whether data is on the device as a record says.
pub trait Judge {
    /// A segment's container; all of them come before the first [`Judge::verify`].
    fn placed(&mut self, placed: SegmentPlaced);
    /// Units that lie elsewhere; also before.
    fn relocated(&mut self, relocated: Relocated);
    /// A record in the prefix so far; all before it verify or are durable. Engine records come here too: SEGMENT_OPENED says that the number is in use.
    fn record(&mut self, record: &FoundRecord);
    /// Do the object's bytes have these checksums?
    fn verify(&mut self, object: &DataObject) -> Verdict;
}

/// What is known of the bytes of an object that a record names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They are what was written.
    Right,
    /// They are others, or nowhere: what a power cut leaves of a write that no flush covered.
    Wrong,
    /// The device gives an error instead.
    Unreadable,
}

impl Verdict {
    /// Right, or wrong.
    #[must_use]
    pub fn of(is_right: bool) -> Self {
        if is_right { Self::Right } else { Self::Wrong }
    }
}

/// A record of the prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundRecord {
    /// LSN of its first byte.
    pub start: Lsn,
    /// LSN behind it.
    pub end: Lsn,
    /// HLC.
    pub hlc: Hlc,
    /// Kind.
    pub kind: u16,
    /// Territory.
    pub territory: u64,
    /// Identity of a forwarded request.
    pub origin: Option<Origin>,
    /// Data objects.
    pub data: Vec<DataObject>,
    /// Body.
    pub body: Vec<u8>,
}

/// A checkpoint whose record is in the prefix, newer than the published one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// Where its record starts.
    pub record: Lsn,
    /// The record.
    pub body: CheckpointBody,
    /// Where its freeze LSN stands.
    pub start: StartPosition,
}

/// What was durable and cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corruption {
    /// The log is whole before this.
    pub cut: Lsn,
    /// It was durable up to here.
    pub threshold: Lsn,
    /// What is wrong at the cut.
    pub cause: Cause,
}

/// What ended the prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A block is missing, damaged or older than it should be.
    Block {
        /// Its sequence.
        sequence: u64,
        /// Its byte offset on the device.
        offset: u64,
    },
    /// What is there is older, or was never written: a write that a completed flush covered is gone.
    Lost {
        /// Its sequence.
        sequence: u64,
        /// Its byte offset on the device.
        offset: u64,
    },
    /// A record does not verify though its blocks do.
    Record(LayoutError),
    /// The device gives an error instead of a block. What a crash leaves can be read: so nobody knows whether records that were acknowledged stood there.
    UnreadableBlock {
        /// Its sequence, if it was written.
        sequence: u64,
        /// Its byte offset on the device.
        offset: u64,
    },
    /// The same, of data that the record at the cut names.
    UnreadableData {
        /// The object.
        oid: Oid,
    },
}

impl std::fmt::Display for Corruption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.cause {
            Cause::Block { sequence, offset } => {
                write!(f, "log block {sequence} at device offset {offset} is damaged")?
            }
            Cause::Lost { sequence, offset } => write!(
                f,
                "log block {sequence} at device offset {offset} was never written: the device lost what a completed flush covered"
            )?,
            Cause::Record(error) => write!(f, "log record at {:?}: {error}", self.cut)?,
            Cause::UnreadableBlock { sequence, offset } => {
                write!(f, "log block {sequence} at device offset {offset} cannot be read")?
            }
            Cause::UnreadableData { oid } => {
                write!(f, "object {oid}, which the log record at {:?} names, cannot be read", self.cut)?
            }
        }
        if self.cut >= self.threshold {
            return write!(
                f,
                "; operations behind {:?} are lost, and nobody knows whether they had been acknowledged",
                self.cut
            );
        }
        let lost = self.threshold.0.saturating_sub(self.cut.0);
        write!(f, "; at least {lost} bytes of acknowledged operations behind {:?} are lost", self.cut)
    }
}

/// What pass 1 found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The records from the *published* freeze LSN up to the cut, engine records too.
    pub records: Vec<FoundRecord>,
    /// Placements in the blocks kept, and behind the cut those of containers that hold relocated data of a record kept.
    pub placed: Vec<SegmentPlaced>,
    /// How many of them are behind the cut.
    pub placed_behind: u64,
    /// Every relocation that the log tells of, also behind the cut: a record before the cut may rest on one.
    pub relocated: Vec<Relocated>,
    /// The last mount ended in order: nothing was appended that is not here. What it said then.
    pub closed: Option<Closed>,
    /// Where the log ends: LSN, last block kept, byte in it. Generation and epoch are set by [`super::publish_cut`].
    pub cut: Cut,
    /// Records before this were durable.
    pub threshold: Lsn,
    /// Set: mount read-only at the cut and say so; writable only when the user accepts the loss. Its cut may be at the threshold or above: then the device
    /// gives an error where the log ends.
    pub corrupt: Option<Corruption>,
    /// The last CHECKPOINT in the prefix that is newer than the published one.
    pub adopted: Option<Adopted>,
    /// Largest HLC of a record.
    pub max_hlc: Hlc,
    /// Kept blocks from the published start on.
    pub chain: Vec<ChainBlock>,
}

impl Found {
    /// What the log opens with. `entry` is what [`super::publish_cut`] made and is published by now; `hlc` from [`HlcSource::after_recovery`].
    #[must_use]
    pub fn resume(&self, entry: &VolumeEntry, hlc: HlcSource) -> Resume {
        let start = entry.start.sequence;
        let freeze = entry.checkpoint.freeze;
        Resume {
            generation: entry.ring_generation,
            next_lsn: self.cut.lsn,
            next_sequence: self.cut.sequence.saturating_add(1),
            start_sequence: start,
            chain: self.chain.iter().copied().filter(|block| block.sequence >= start).collect(),
            records: self.client_records(freeze),
            hlc,
        }
    }
}

impl Found {
    fn client_records(&self, from: Lsn) -> u64 {
        let counts = |record: &&FoundRecord| record.start >= from && record.kind >= kind::CLIENT_FIRST;
        self.records.iter().filter(counts).count() as u64
    }
}

/// Reads blocks in the order of their sequence, many at a time; a block that cannot be read is `None`.
struct Reader<'a> {
    device: &'a dyn Device,
    ring: &'a RingGeometry,
    buf: AlignedBuf,
    first: u64,
    count: u64,
    /// Blocks that are still wanted one by one, after a read of many failed.
    single: u64,
}

impl Reader<'_> {
    fn block(&mut self, sequence: u64) -> Result<Option<&[u8]>> {
        if !(self.first..self.first.saturating_add(self.count)).contains(&sequence) && !self.fill(sequence)? {
            return Ok(None);
        }
        let within = usize::try_from(sequence.saturating_sub(self.first)).unwrap_or(usize::MAX);
        Ok(self.buf.as_slice().chunks_exact(self.ring.block_len()).nth(within))
    }

    fn fill(&mut self, sequence: u64) -> Result<bool> {
        let many = (READ_BYTES / self.ring.block_len().max(1)) as u64;
        let to_end = self.ring.blocks.saturating_sub(self.ring.ring_block(sequence));
        let want = if self.single > 0 { 1 } else { many.min(to_end).max(1) };
        self.count = 0;
        self.single = self.single.saturating_sub(1);
        match self.read(sequence, want)? {
            true => Ok(true),
            false if want > 1 => {
                self.single = want - 1;
                self.read(sequence, 1)
            }
            false => Ok(false),
        }
    }

    fn read(&mut self, sequence: u64, count: u64) -> Result<bool> {
        self.buf.set_len(usize::try_from(self.ring.bytes(count)).unwrap_or(READ_BYTES));
        match self.device.read(self.ring.position(sequence), &mut self.buf) {
            Ok(()) => {
                (self.first, self.count) = (sequence, count);
                Ok(true)
            }
            Err(DeviceError::Io { .. }) => Ok(false),
            Err(other) => Err(other.into()),
        }
    }
}

/// The lineage and what it carries.
struct Lineage {
    chain: Vec<ChainBlock>,
    /// LSN of the first byte of `stream`.
    base: Lsn,
    stream: Vec<u8>,
    /// LSN behind the last shared byte of the last block, generations not truncated.
    end: Lsn,
    /// Sequence of the first block that is not in the chain.
    broken_at: u64,
    /// At `broken_at` is an older block, or nothing was ever written.
    is_older: bool,
    /// At `broken_at` the device gives an error.
    is_unreadable: bool,
    watermark: Lsn,
    local: Vec<(u64, Record)>,
}

/// Finds the prefix. The device has been flushed (INV-20); `entry` is the published one.
///
/// # Errors
/// The device fails other than by single blocks, or the log holds records of a newer version.
pub fn scan(device: &dyn Device, ring: &RingGeometry, entry: &VolumeEntry, judge: &mut dyn Judge) -> Result<Found> {
    let mut lineage = lineage(device, ring, entry)?;
    let published = entry.cuts.last().map_or(Lsn(0), |cut| cut.lsn);
    let (freeze, record) = (entry.checkpoint.freeze, entry.checkpoint.record);
    let threshold = published.max(freeze).max(record).max(lineage.watermark);

    let (mut placed, mut relocated, mut closed_at) = (Vec::new(), Vec::new(), None);
    for (sequence, record) in &lineage.local {
        let wrong = |structure| move |source| damaged(structure, ring, *sequence, source);
        match record.kind {
            kind::SEGMENT_PLACED => {
                let body = SegmentPlaced::decode(&record.body).map_err(wrong("SEGMENT_PLACED"))?;
                judge.placed(body);
                placed.push((*sequence, body));
            }
            kind::RELOCATED => {
                let body = Relocated::decode(&record.body).map_err(wrong("RELOCATED"))?;
                judge.relocated(body);
                relocated.push(body);
            }
            kind::CLOSED => {
                let body = Closed::decode(&record.body).map_err(wrong("CLOSED"))?;
                closed_at = Some((*sequence, body));
            }
            other if !kind::is_known(other) && !record.ignorable => return Err(unknown_kind(other)),
            _ => {}
        }
    }

    let mut records = Vec::new();
    let mut cut = freeze;
    let mut cause = None;
    // Whether the log ends because the device does not say how it goes on.
    let mut unreadable = lineage.is_unreadable;
    loop {
        let at = usize::try_from(cut.0.saturating_sub(lineage.base.0)).unwrap_or(usize::MAX);
        let Some(rest) = lineage.stream.get(at..).filter(|rest| !rest.is_empty()) else { break };
        let (record, bytes) = match Record::decode(rest) {
            Ok(found) => found,
            // It goes on in a block that is not there.
            Err(LayoutError::Short { .. }) => break,
            Err(error @ LayoutError::Unknown { .. }) => {
                return Err(StoreError::Structure { structure: "WAL record", offset: cut.0, source: error });
            }
            Err(error) => {
                cause = Some(Cause::Record(error));
                unreadable = false;
                break;
            }
        };
        let record = found_record(record, cut, bytes)?;
        let cuts = cut >= threshold && !sabotage::on(Rule::ReplayWithoutCut);
        let bad = |object: &DataObject| Some((object.oid, judge.verify(object))).filter(|bad| bad.1 != Verdict::Right);
        if let Some((oid, verdict)) = record.data.iter().filter(|_| cuts).find_map(bad) {
            unreadable = verdict == Verdict::Unreadable;
            cause = unreadable.then_some(Cause::UnreadableData { oid });
            break;
        }
        judge.record(&record);
        cut = record.end;
        records.push(record);
    }

    if cut < lineage.end.max(freeze) {
        lineage.chain.retain(|block| block.first_lsn < cut);
    }
    let mut found = Found {
        adopted: adopted(ring, entry, &records, &lineage.chain)?,
        max_hlc: Hlc::ZERO,
        placed: Vec::new(),
        placed_behind: 0,
        relocated,
        closed: None,
        cut: Cut::default(),
        threshold,
        corrupt: (cut < threshold || unreadable && !sabotage::on(Rule::UnreadableEndCut)).then(|| Corruption {
            cut,
            threshold,
            cause: cause.unwrap_or_else(|| lineage.cause(ring)),
        }),
        records,
        chain: lineage.chain,
    };
    found.end_at(entry, cut);
    found.drop_unserved_generation(entry);
    let last = found.cut.sequence;
    // Behind the cut, what was opened is as if it had never been, but for containers that hold what a record before the cut names.
    let rests = |container: u32| found.rests_on(container) && !sabotage::on(Rule::PlacementBehindCutLost);
    let is_kept = |sequence: u64, container: u32| sequence <= last || rests(container);
    placed.retain(|(sequence, placed)| is_kept(*sequence, placed.container));
    found.placed_behind = placed.iter().filter(|(sequence, _)| *sequence > last).count() as u64;
    found.placed = placed.into_iter().map(|(_, placed)| placed).collect();
    let own = found.chain.last().is_some_and(|block| block.generation == entry.ring_generation);
    let is_end = |sequence: u64| own && sequence == last && cut == lineage.end && found.corrupt.is_none();
    let closed = closed_at.filter(|(sequence, _)| is_end(*sequence) || sabotage::on(Rule::ClosedNumbersBelieved));
    found.closed = closed.map(|(_, closed)| closed);
    found.max_hlc = found.records.iter().map(|record| record.hlc).max().unwrap_or(Hlc::ZERO);
    found.max_hlc = closed.map_or(found.max_hlc, |(_, closed)| found.max_hlc.max(closed.hlc));
    Ok(found)
}

fn damaged(structure: &'static str, ring: &RingGeometry, sequence: u64, source: LayoutError) -> StoreError {
    StoreError::Structure { structure, offset: ring.position(sequence), source }
}

fn unknown_kind(kind: u16) -> StoreError {
    StoreError::Refused(format!(
        "the log holds records of kind {kind}, which this version does not know; mount it with a newer envoyfs"
    ))
}

/// Reads the ring from the published start on.
fn lineage(device: &dyn Device, ring: &RingGeometry, entry: &VolumeEntry) -> Result<Lineage> {
    let start = entry.start.sequence;
    let freeze = entry.checkpoint.freeze;
    let mut reader = Reader { device, ring, buf: AlignedBuf::zeroed(READ_BYTES), first: 0, count: 0, single: 0 };
    let mut found = Lineage {
        chain: Vec::new(),
        base: freeze,
        stream: Vec::new(),
        end: freeze,
        broken_at: start,
        is_older: false,
        is_unreadable: false,
        watermark: Lsn(0),
        local: Vec::new(),
    };
    let search = SEARCH_BYTES / u64::from(ring.block_bytes.max(1));
    let mut open = true;
    let mut last_seen = start;
    for sequence in start..start.saturating_add(ring.blocks) {
        if !open && sequence.saturating_sub(last_seen) > search {
            break;
        }
        let bytes = reader.block(sequence)?;
        let is_unreadable = bytes.is_none();
        let is_blank = bytes.is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0));
        let block = bytes.and_then(|bytes| Block::decode(bytes, &ring.seed, ring.position(sequence)).ok());
        let block = block.filter(|block| block.header.volume == ring.volume);
        // Of an earlier lap of this mount the ring may be full. Such a block promises nothing behind the freeze: its place was given out again only when a checkpoint had passed it.
        if let Some(block) = &block
            && block.header.sequence == sequence
            && block.header.generation == entry.ring_generation
            && (open || !sabotage::on(Rule::WatermarkOnlyBeforeBad))
        {
            found.watermark = found.watermark.max(block.header.durable);
            last_seen = sequence;
        }
        if open {
            found.is_older = is_blank || block.is_some();
            found.is_unreadable = is_unreadable;
            open = block.is_some_and(|block| found.accept(entry, sequence, &block));
            if open {
                last_seen = sequence;
            } else if found.ends_closed(entry) {
                // Its mount appended nothing behind this: no watermark to look for, and nothing to be lost.
                found.is_unreadable = false;
                break;
            }
        }
    }
    Ok(found)
}

impl Lineage {
    /// Why the chain ends where it does, if it must not.
    fn cause(&self, ring: &RingGeometry) -> Cause {
        let (sequence, offset) = (self.broken_at, ring.position(self.broken_at));
        if self.is_unreadable {
            return Cause::UnreadableBlock { sequence, offset };
        }
        if self.is_older { Cause::Lost { sequence, offset } } else { Cause::Block { sequence, offset } }
    }

    /// The last block is the one that the published generation was ended in order with.
    fn ends_closed(&self, entry: &VolumeEntry) -> bool {
        let is_own = |block: &ChainBlock| block.generation == entry.ring_generation;
        let closed = |block: &ChainBlock| {
            self.local.last().is_some_and(|(at, record)| *at == block.sequence && record.kind == kind::CLOSED)
        };
        self.chain.last().is_some_and(|block| is_own(block) && closed(block))
    }

    /// Adds the next block if it is the one that belongs here.
    fn accept(&mut self, entry: &VolumeEntry, sequence: u64, block: &Block<'_>) -> bool {
        let header = &block.header;
        if header.sequence != sequence || header.generation != entry.generation_at(sequence) {
            return false;
        }
        let shared_offset = header.used_bytes.saturating_sub(u32::try_from(block.shared.len()).unwrap_or(u32::MAX));
        if self.chain.is_empty() {
            let freeze = entry.checkpoint.freeze;
            let offset = u64::from(shared_offset).saturating_add(freeze.0.saturating_sub(header.first_lsn.0));
            let holds_freeze = (header.first_lsn..=block.end_lsn()).contains(&freeze);
            // There was no block yet, or none any more, that could say where the first LSN stands.
            if !holds_freeze || (entry.start.offset != 0 && offset != u64::from(entry.start.offset)) {
                return false;
            }
            self.base = header.first_lsn;
        } else if header.first_lsn.0 != self.base.0.saturating_add(self.stream.len() as u64) {
            return false;
        }
        let mut rest = block.local;
        while let Ok((record, bytes)) = Record::decode(rest) {
            self.local.push((sequence, record));
            rest = rest.get(bytes..).unwrap_or_default();
        }
        self.stream.extend_from_slice(block.shared);
        self.end = block.end_lsn();
        self.chain.push(ChainBlock {
            sequence,
            generation: header.generation,
            first_lsn: header.first_lsn,
            shared_offset,
        });
        self.broken_at = sequence.saturating_add(1);
        if let Some(cut) = entry.cuts.iter().find(|cut| cut.sequence == sequence) {
            let kept = cut.lsn.0.saturating_sub(self.base.0);
            self.stream.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
        }
        true
    }
}

fn found_record(record: Record, start: Lsn, bytes: usize) -> Result<FoundRecord> {
    if record.local || (!kind::is_known(record.kind) && !record.ignorable) {
        return Err(unknown_kind(record.kind));
    }
    let data = record.data.into_iter().map(|object| DataObject {
        oid: object.oid,
        extends: object.extends,
        stored_bytes: object.stored_bytes,
        crcs: object.crcs,
    });
    Ok(FoundRecord {
        start,
        end: Lsn(start.0.saturating_add(bytes as u64)),
        hlc: record.hlc,
        kind: record.kind,
        territory: record.territory,
        origin: record.origin.map(|o| Origin { client: o.client, sequence: o.sequence, floor: o.floor }),
        data: data.collect(),
        body: record.body,
    })
}

fn adopted(
    ring: &RingGeometry,
    entry: &VolumeEntry,
    records: &[FoundRecord],
    chain: &[ChainBlock],
) -> Result<Option<Adopted>> {
    let Some(record) = records.iter().rev().find(|record| record.kind == kind::CHECKPOINT) else { return Ok(None) };
    let structure = |source| StoreError::Structure { structure: "CHECKPOINT record", offset: record.start.0, source };
    let body = CheckpointBody::decode(&record.body).map_err(structure)?;
    if body.number <= entry.checkpoint.number {
        return Ok(None);
    }
    let field = LayoutError::Field { structure: "CHECKPOINT", field: "freeze LSN", found: body.freeze.0 };
    let inside = (entry.checkpoint.freeze..=record.start).contains(&body.freeze);
    let start = start_in(ring, chain.iter(), body.freeze).filter(|_| inside).ok_or_else(|| structure(field))?;
    Ok(Some(Adopted { record: record.start, body, start }))
}

impl Found {
    /// Sets the cut: the last block of the chain, or the one before the start if there is none.
    fn end_at(&mut self, entry: &VolumeEntry, lsn: Lsn) {
        let last = self.chain.last();
        let offset = last.map_or(0, |block| {
            let within = u32::try_from(lsn.0.saturating_sub(block.first_lsn.0)).unwrap_or(u32::MAX);
            block.shared_offset.saturating_add(within)
        });
        let sequence = last.map_or(entry.start.sequence.saturating_sub(1), |block| block.sequence);
        self.cut = Cut { lsn, sequence, offset, ..Cut::default() };
    }

    /// A CHECKPOINT record of this number or a later one is in the prefix.
    ///
    /// # Errors
    /// A record does not decode.
    pub fn tells_of(&self, number: u64) -> Result<bool> {
        for record in self.records.iter().filter(|record| record.kind == kind::CHECKPOINT) {
            let structure =
                |source| StoreError::Structure { structure: "CHECKPOINT record", offset: record.start.0, source };
            if CheckpointBody::decode(&record.body).map_err(structure)?.number >= number {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The record that names what was written elsewhere, and the object.
    #[must_use]
    pub fn naming(&self, moved: &Relocated) -> Option<(&FoundRecord, &DataObject)> {
        let is_it = |oid: Oid| oid.segment() == moved.number && u32::from(oid.slot()) == moved.slot;
        self.records.iter().find_map(|record| Some((record, record.data.iter().find(|object| is_it(object.oid))?)))
    }

    /// A record kept names data that was written elsewhere, into this container.
    fn rests_on(&self, container: u32) -> bool {
        self.relocated.iter().any(|moved| moved.container == container && self.naming(moved).is_some())
    }

    /// With a full list of cuts, the last mount had to publish a checkpoint before it served anybody ([`super::Next`]). If it did not get that far, its records are
    /// the engine's own (seals, openings): dropped, so that its cut can be replaced by the new one.
    fn drop_unserved_generation(&mut self, entry: &VolumeEntry) {
        let Some(last) = entry.cuts.last().filter(|_| entry.cuts.len() >= CUTS_MAX) else { return };
        let start = self.adopted.as_ref().map_or(entry.start.sequence, |adopted| adopted.start.sequence);
        let kept = entry.cuts.iter().filter(|cut| cut.sequence < self.cut.sequence);
        let full = kept.filter(|cut| cut.sequence.saturating_add(1) >= start).count() >= CUTS_MAX;
        let served = self.records.iter().any(|record| record.start >= last.lsn && record.kind >= kind::CLIENT_FIRST);
        if !full || served || self.cut.lsn < last.lsn {
            return;
        }
        self.records.retain(|record| record.start < last.lsn);
        self.chain.retain(|block| block.sequence <= last.sequence);
        self.end_at(entry, last.lsn);
        self.adopted = self.adopted.take().filter(|adopted| adopted.record < last.lsn);
        self.corrupt = None;
    }
}
