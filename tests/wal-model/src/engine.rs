//! The serving engine: appends, group commit, background barrier, checkpoint, space reuse.
use crate::config::{Bug, Config};
use crate::device::Device;
use crate::format::*;
use crate::recovery::{Found, data_crc, next_superblock, published};
use std::rc::Rc;

pub const OID_STEP: u16 = 16;

#[derive(Clone, Copy, Hash, PartialEq, Eq, Debug)]
pub enum Space {
    Free,
    Used,
    Dead(Lsn), // by the record at this LSN
}

#[derive(Clone, Copy, Hash, PartialEq, Eq, Debug)]
pub enum Phase {
    Idle,
    Frozen,
    NodeWritten,
    NodeDurable,
    RecordWritten,
    Committed,
    FirstPair,
    FirstPairDurable,
    SecondPair,
}

#[derive(Clone, Hash, PartialEq, Eq, Debug)]
pub struct Engine {
    pub directory: VolumeDirectory,
    pub superblock: Superblock,
    pub generation: u32,
    pub state: State,
    pub next_lsn: Lsn,
    pub next_bseq: Seq,
    pub head_hash: u64,
    pub waiting: Vec<(Lsn, Record)>, // appended, in no block yet
    pub chain: Vec<(Seq, Lsn, u64)>, // blocks since the published checkpoint's start
    pub tail: Option<Rc<WalBlock>>,  // only for TailBlockRewritten
    pub submitted: (Lsn, Seq),
    pub durable: (Lsn, Seq),
    pub in_flush: Option<(Lsn, Seq)>, // what it makes durable
    pub in_flight: Vec<(Lsn, usize)>, // data not yet completed: LSN of the record, place on the device
    pub space: Vec<Space>,
    pub next_oid: u16,
    pub phase: Phase,
    pub frozen: Option<(Rc<Node>, u8)>,
    pub next_directory: Option<VolumeDirectory>,
    pub last_appended: Option<(Lsn, Record)>,
    pub written: u32,        // nodes, by this mount
    pub unrecorded: bool,    // the checkpoint under way has no record
    pub held: Vec<u8>,       // nodes of checkpoints before the published one, not given back yet
    pub untold: Option<Lsn>, // the record that tells of the published checkpoint: nothing is reused before it is durable
}

impl Engine {
    pub fn serve(cfg: &Config, f: &Found, id: &mut u16) -> Engine {
        let mut directory = published(cfg, f);
        let mut superblock = next_superblock(cfg, &f.superblock, &directory);
        let generation = f.directory.generation + !cfg.has(Bug::GenerationNotRaised) as u32;
        if cfg.has(Bug::CutNotPublished) {
            directory = f.directory.clone();
            superblock = f.superblock;
        }
        let mut space = vec![Space::Free; cfg.places];
        if !cfg.has(Bug::AdoptedNodesReused) || f.checkpoint == f.directory.checkpoint {
            space[f.checkpoint.place as usize] = Space::Used;
        }
        if cfg.has(Bug::AdoptedNotPublished) || cfg.has(Bug::CutNotPublished) {
            space[f.directory.checkpoint.place as usize] = Space::Used;
        }
        for o in f.state.slots.iter().flatten() {
            space[o.place as usize] = Space::Used;
        }
        for (lsn, place) in &f.dead {
            space[*place as usize] = Space::Dead(*lsn);
        }
        let mut e = Engine {
            generation,
            superblock,
            state: f.state.clone(),
            next_lsn: f.cut_lsn,
            next_bseq: f.cut_bseq + 1,
            head_hash: f.head_hash,
            waiting: vec![],
            chain: f.chain.clone(),
            tail: None,
            submitted: (f.cut_lsn, f.cut_bseq),
            durable: (f.cut_lsn, f.cut_bseq),
            in_flush: None,
            in_flight: vec![],
            space,
            next_oid: f.directory.oid_bound,
            phase: Phase::Idle,
            frozen: None,
            next_directory: None,
            directory,
            last_appended: None,
            written: 0,
            unrecorded: false,
            held: vec![],
            untold: None,
        };
        if cfg.has(Bug::SlotsReusedAfterCut) || cfg.has(Bug::SlotsReusedBytesOnly) {
            e.next_oid = f.state.slots.iter().flatten().map(|o| o.oid + 1).max().unwrap_or(0);
        } else if e.state.open || cfg.has(Bug::RecoveryAppendsAlways) {
            e.append(Kind::Seal, 1, id); // from the reserve
        }
        // Published without a record, and the mount died before it had told of that: this one does, before it reuses what is free by it.
        if !f.told {
            let lsn = e.tell(id);
            e.untold = Some(lsn).filter(|_| !cfg.has(Bug::MountReusesUntold));
        }
        e
    }

    fn blocks_waiting(&self, cfg: &Config) -> u32 {
        self.waiting.iter().map(|(_, r)| (r.units as u32).div_ceil(cfg.cap as u32)).sum()
    }
    fn used(&self) -> u32 {
        self.next_bseq - self.directory.checkpoint.start_bseq
    }
    /// Ring blocks that admission leaves alone: a CHECKPOINT record and a seal; a second CHECKPOINT record while one checkpoint is between freeze and append.
    fn reserve(&self, cfg: &Config) -> u32 {
        let pending = matches!(self.phase, Phase::Frozen | Phase::NodeWritten | Phase::NodeDurable);
        if cfg.has(Bug::NoCheckpointReserve) { 0 } else { 2 + (pending && !cfg.has(Bug::SmallReserveInFlight)) as u32 }
    }
    pub fn admits(&self, cfg: &Config, units: u8) -> bool {
        self.used() + self.blocks_waiting(cfg) + (units as u32).div_ceil(cfg.cap as u32) + self.reserve(cfg) <= cfg.ring
    }
    pub fn admits_data(&self) -> bool {
        self.untold.is_none()
            && self.next_oid < self.directory.oid_bound
            && self.space.iter().filter(|s| **s == Space::Free).count() >= 2 // one is kept for a node
    }
    /// A watermark block after quiet: only if nobody's reserve pays for it.
    pub fn admits_watermark(&self, cfg: &Config) -> bool {
        let reserve = if cfg.has(Bug::WatermarkEatsReserve) { 0 } else { self.reserve(cfg) };
        self.waiting.is_empty() && self.used() + 1 + reserve <= cfg.ring
    }
    pub fn take_place(&mut self) -> Option<u8> {
        let i = self.space.iter().position(|s| *s == Space::Free)?;
        self.space[i] = Space::Used;
        Some(i as u8)
    }

    pub fn append(&mut self, kind: Kind, units: u8, id: &mut u16) -> (Lsn, Record) {
        let r = Record { id: *id, units, kind };
        *id += 1;
        let lsn = self.next_lsn;
        self.waiting.push((lsn, r));
        self.last_appended = Some((lsn, r));
        self.next_lsn += units as Lsn;
        if let Some(o) = self.state.apply(&r) {
            self.space[o.place as usize] = Space::Dead(lsn);
        }
        (lsn, r)
    }

    /// Data goes straight to its place, concurrently with the record that names it.
    pub fn put(&mut self, cfg: &Config, d: &mut Device, slot: u8, content: u8, id: &mut u16) -> Option<(Lsn, Record)> {
        let place = self.take_place()?;
        let oid = self.next_oid;
        self.next_oid += 1;
        let old = self.state.slots[slot as usize];
        let out =
            self.append(Kind::Put { slot, object: Object { oid, place, crc: data_crc(cfg, content, oid) } }, 1, id);
        d.write(cfg.place_at(place), Block::Data { content, oid }, !cfg.slow_data);
        if cfg.slow_data {
            self.in_flight.push((out.0, cfg.place_at(place)));
        }
        if let (true, Some(o)) = (cfg.has(Bug::DeadDataCancelled), old) {
            let at = cfg.place_at(o.place);
            if let Some(i) = self.in_flight.iter().position(|f| f.1 == at) {
                self.in_flight.remove(i);
                d.cache.retain(|w| w.at != at || w.done);
            }
        }
        if let (true, Some(o)) = (cfg.has(Bug::DataReusedBeforeCheckpoint), old) {
            self.space[o.place as usize] = Space::Free;
        }
        Some(out)
    }

    /// Frames everything waiting into new blocks and submits them. False: the ring is full (the deadlock of property e).
    pub fn submit(&mut self, cfg: &Config, d: &mut Device) -> bool {
        let fragments: Vec<(Lsn, Record, u8)> = std::mem::take(&mut self.waiting)
            .into_iter()
            .flat_map(|(lsn, r)| (0..r.units).map(move |k| (lsn + k as Lsn, r, k)))
            .collect();
        let mut rest = &fragments[..];
        if let (true, Some(t)) = (cfg.has(Bug::TailBlockRewritten), self.tail.take()) {
            let n = rest.len().min(cfg.cap - t.fragments.len());
            let mut b = (*t).clone();
            b.fragments.extend(rest[..n].iter().map(|f| (f.1, f.2)));
            rest = &rest[n..];
            self.emit(cfg, d, b);
        }
        for chunk in rest.chunks(cfg.cap) {
            if self.used() >= cfg.ring {
                return false;
            }
            self.frame(cfg, d, chunk[0].0, chunk.iter().map(|f| (f.1, f.2)).collect());
        }
        self.submitted.0 = self.next_lsn;
        true
    }
    pub fn frame(&mut self, cfg: &Config, d: &mut Device, first_lsn: Lsn, fragments: Vec<(Record, u8)>) {
        let mark = if cfg.has(Bug::WatermarkOfUnflushed) { self.submitted } else { self.durable };
        let b = WalBlock {
            bseq: self.next_bseq,
            first_lsn,
            generation: self.generation,
            predecessor: self.head_hash,
            durable_lsn: mark.0,
            durable_bseq: mark.1,
            fragments,
        };
        self.chain.push((b.bseq, b.first_lsn, b.predecessor));
        self.submitted.1 = b.bseq;
        self.next_bseq += 1;
        self.emit(cfg, d, b);
    }
    fn emit(&mut self, cfg: &Config, d: &mut Device, b: WalBlock) {
        self.head_hash = hash64(&b);
        let b = Rc::new(b);
        d.write(cfg.ring_at(b.bseq), Block::Wal(b.clone()), true);
        self.tail =
            (cfg.has(Bug::TailBlockRewritten) && !b.fragments.is_empty() && b.fragments.len() < cfg.cap).then_some(b);
    }

    /// What a flush that begins now makes durable: submitted blocks, and records before the first with data still in flight.
    fn flushable(&self, cfg: &Config) -> (Lsn, Seq) {
        let first_incomplete = self.in_flight.iter().map(|f| f.0).min().unwrap_or(Lsn::MAX);
        if cfg.has(Bug::AckBeforeData) {
            self.submitted
        } else {
            (self.submitted.0.min(first_incomplete), self.submitted.1)
        }
    }
    pub fn flush_begin(&mut self, cfg: &Config, d: &mut Device) {
        self.in_flush = Some(self.flushable(cfg));
        d.cache.iter_mut().for_each(|w| w.covered = w.done);
    }
    fn advance(&mut self, to: (Lsn, Seq)) {
        self.durable = (self.durable.0.max(to.0), self.durable.1.max(to.1));
        if self.untold.is_some_and(|lsn| lsn < self.durable.0) {
            self.untold = None;
            self.release_space();
        }
    }
    pub fn flush_end(&mut self, cfg: &Config, d: &mut Device) {
        if let Some(to) = self.in_flush.take() {
            d.flush(|w| w.covered);
            self.advance(if cfg.has(Bug::AckOfLaterBlocks) { self.submitted } else { to });
        }
    }
    pub fn flush(&mut self, cfg: &Config, d: &mut Device) {
        let to = self.flushable(cfg);
        d.flush(|_| true);
        self.advance(to);
    }

    pub fn can_step_checkpoint(&self, cfg: &Config, allowed: bool) -> bool {
        match self.phase {
            Phase::Idle => {
                let free = self.untold.is_none() && self.space.contains(&Space::Free);
                allowed && self.next_lsn > self.directory.checkpoint.freeze && free
            }
            Phase::Frozen => {
                let freeze = self.frozen.as_ref().map_or(0, |f| f.0.freeze);
                cfg.has(Bug::FreezeIgnoresInFlightData) || self.in_flight.iter().all(|f| f.0 >= freeze)
            }
            _ => true,
        }
    }
    /// One step of the checkpoint; with `unrecorded`, it is published without a record. False: no room for the CHECKPOINT record.
    pub fn step_checkpoint(&mut self, cfg: &Config, d: &mut Device, id: &mut u16, unrecorded: bool) -> bool {
        use Phase::*;
        self.phase = match self.phase {
            Idle => {
                let Some(place) = self.take_place() else { return false };
                let number = self.directory.checkpoint.number + 1;
                self.written += 1;
                let opening = (self.superblock.seq << 8) + self.written;
                let node = Node { number, opening, freeze: self.next_lsn, state: self.state.clone() };
                self.frozen = Some((Rc::new(node), place));
                Frozen
            }
            Frozen => {
                let (node, place) = self.frozen.clone().expect("frozen");
                // A node says that everything before its freeze is durable.
                if !cfg.has(Bug::NodeBeforeItsLog) {
                    if !self.submit(cfg, d) {
                        return false;
                    }
                    self.flush(cfg, d);
                }
                if cfg.unrecorded {
                    let Node { number, opening, freeze, .. } = *node;
                    let roots = Roots { number, opening, freeze, place, crc: hash64(&*node) };
                    d.write(cfg.roots_at(number), Block::Roots(roots), true);
                }
                d.write(cfg.place_at(place), Block::Node(node), true);
                NodeWritten
            }
            NodeWritten => {
                if !cfg.has(Bug::NoFlushBeforeRecord) {
                    self.flush(cfg, d);
                }
                NodeDurable
            }
            NodeDurable => {
                let (node, place) = self.frozen.clone().expect("frozen");
                let (number, freeze, crc) = (node.number, node.freeze, hash64(&*node));
                let full = self.used() + self.blocks_waiting(cfg) + 1 > cfg.ring;
                self.unrecorded = unrecorded || cfg.unrecorded && full;
                let record = match self.unrecorded {
                    true => freeze,
                    false => self.append(Kind::Checkpoint { number, freeze, place, crc }, 1, id).0,
                };
                if !self.submit(cfg, d) {
                    return false;
                }
                let named = if cfg.has(Bug::StartAtCheckpointRecord) { record } else { freeze };
                let start = *self.chain.iter().rev().find(|c| c.1 <= named).expect("a block holds the freeze LSN");
                let mut dir = self.directory.clone();
                dir.checkpoint = Checkpoint {
                    number,
                    freeze,
                    place,
                    crc,
                    start_bseq: start.0,
                    start_predecessor: start.2,
                    start_generation: dir.generation_at(start.0),
                };
                let last = dir.cut().generation;
                dir.cuts.retain(|c| c.bseq + 1 >= start.0 || c.generation == last);
                dir.oid_bound = dir.oid_bound.max(self.next_oid + OID_STEP);
                let slot = next_superblock(cfg, &self.superblock, &dir).slot as usize;
                for c in 0..2 {
                    d.write(4 + 2 * slot + c, Block::VolumeDirectory(Rc::new(dir.clone())), true);
                }
                self.next_directory = Some(dir);
                RecordWritten
            }
            RecordWritten => {
                if !cfg.has(Bug::NoFlushBeforeSuperblock) {
                    self.flush(cfg, d);
                }
                if cfg.has(Bug::RingReusedBeforeSuperblock) {
                    self.release();
                }
                Committed
            }
            Committed => {
                let sb =
                    next_superblock(cfg, &self.superblock, self.next_directory.as_ref().unwrap_or(&self.directory));
                for i in 0..2 {
                    d.write(i, Block::Superblock(sb), true);
                }
                FirstPair
            }
            FirstPair => {
                if !cfg.has(Bug::PairsWithoutFlush) {
                    self.flush(cfg, d);
                }
                if cfg.has(Bug::RingReusedAfterFirstPair) || cfg.has(Bug::SecondPairNotFlushed) {
                    self.release();
                }
                FirstPairDurable
            }
            FirstPairDurable => {
                let dir = self.next_directory.clone().expect("directory");
                let sb = next_superblock(cfg, &self.superblock, &dir);
                for i in 2..4 {
                    d.write(i, Block::Superblock(sb), true);
                }
                SecondPair
            }
            SecondPair => {
                if !cfg.has(Bug::SecondPairNotFlushed) {
                    self.flush(cfg, d);
                }
                let dir = self.next_directory.clone().expect("directory");
                self.superblock = next_superblock(cfg, &self.superblock, &dir);
                self.release_ring();
                if !self.unrecorded || cfg.has(Bug::ReusedUntold) {
                    self.release_space();
                }
                // It is told of now that the ring has room; else what it frees waits for the next one.
                if self.unrecorded && self.used() + self.blocks_waiting(cfg) < cfg.ring {
                    self.untold = Some(self.tell(id)).filter(|_| !cfg.has(Bug::ReusedUntold));
                    if !self.submit(cfg, d) {
                        return false;
                    }
                }
                self.next_directory = None;
                self.frozen = None;
                Idle
            }
        };
        true
    }
    /// The record of the published checkpoint, for a rebuild; a mount passes it over.
    fn tell(&mut self, id: &mut u16) -> Lsn {
        let Checkpoint { number, freeze, place, crc, .. } = self.directory.checkpoint;
        self.append(Kind::Checkpoint { number, freeze, place, crc }, 1, id).0
    }
    fn release(&mut self) {
        self.release_ring();
        self.release_space();
    }
    /// The new checkpoint rules: ring space before its start is free.
    fn release_ring(&mut self) {
        let Some(dir) = self.next_directory.clone().filter(|dir| dir.checkpoint != self.directory.checkpoint) else {
            return;
        };
        self.held.push(self.directory.checkpoint.place);
        self.chain.retain(|c| c.0 >= dir.checkpoint.start_bseq);
        self.directory = dir;
    }
    /// Its predecessors' nodes and space dead before its freeze are free.
    fn release_space(&mut self) {
        for place in self.held.drain(..) {
            self.space[place as usize] = Space::Free;
        }
        let freeze = self.directory.checkpoint.freeze;
        for s in self.space.iter_mut() {
            if matches!(s, Space::Dead(lsn) if *lsn < freeze) {
                *s = Space::Free;
            }
        }
    }
}

impl Engine {
    /// The CHECKPOINT record that `step_checkpoint` appended and submitted in one step.
    pub fn just_appended(&self, lsn: Lsn) -> Vec<(Lsn, Record)> {
        self.last_appended.iter().filter(|a| a.0 >= lsn).copied().collect()
    }
}
