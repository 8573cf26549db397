//! Recovery as a pure function of what the device shows, plus the writes that publish its result.
use crate::config::{Bug, Config};
use crate::device::Device;
use crate::format::*;
use std::rc::Rc;

/// What passes 1 and 2 found.
#[derive(Clone, Hash, PartialEq, Eq, Debug)]
pub struct Found {
    pub superblock: Superblock,
    pub directory: VolumeDirectory,  // as published
    pub checkpoint: Checkpoint,      // adopted: the last one in the accepted prefix
    pub told: bool,                  // the log tells of it, or it is mkfs's
    pub chain: Vec<(Seq, Lsn, u64)>, // kept blocks: sequence, first LSN, predecessor hash
    pub head_hash: u64,
    pub cut_lsn: Lsn,
    pub cut_bseq: Seq,
    pub threshold_lsn: Lsn,
    pub corrupt: bool, // mount read-only at cut_lsn
    pub state: State,
    pub whole: bool,          // the checkpoint can be read
    pub dead: Vec<(Lsn, u8)>, // places whose object died after the adopted freeze
}

#[derive(Clone, Hash, PartialEq, Eq, Debug)]
pub enum Mount {
    Found(Box<Found>),
    Damaged(&'static str), // cannot even be read at a prefix; says what is damaged
}

#[derive(Clone, Hash, PartialEq, Eq, Debug)]
pub enum Io {
    Write(usize, Block),
    Flush,
    Serve,
}

/// DESIGN 5: the highest sequence held by two copies, or by one whose predecessor another copy attests; else the newest valid.
pub fn open_superblock(d: &Device) -> Option<Superblock> {
    let valid: Vec<Superblock> =
        (0..4).filter_map(|i| if let Block::Superblock(s) = d.read(i) { Some(*s) } else { None }).collect();
    let attested = |s: &&Superblock| {
        valid.iter().filter(|t| t == s).count() >= 2 || valid.iter().any(|t| hash64(t) == s.predecessor)
    };
    valid.iter().filter(attested).max_by_key(|s| s.seq).or(valid.iter().max_by_key(|s| s.seq)).copied()
}

pub fn verifies(cfg: &Config, d: &Device, o: &Object) -> bool {
    matches!(d.read(cfg.place_at(o.place)), Block::Data { content, oid } if data_crc(cfg, *content, *oid) == o.crc)
}
pub fn data_crc(cfg: &Config, content: u8, oid: u16) -> u32 {
    content as u32 + if cfg.has(Bug::IdentityInChecksum) { (oid as u32) << 8 } else { 0 }
}
fn read_directory(d: &Device, s: &Superblock) -> Option<Rc<VolumeDirectory>> {
    (0..2).find_map(|copy| match d.read(4 + 2 * s.slot as usize + copy) {
        Block::VolumeDirectory(v) if hash64(&**v) == s.directory_crc => Some(v.clone()),
        _ => None,
    })
}

pub fn recover(cfg: &Config, d: &Device) -> Mount {
    let Some(superblock) = open_superblock(d) else { return Mount::Damaged("superblock") };
    let Some(directory) = read_directory(d, &superblock) else { return Mount::Damaged("volume directory") };
    match recover_from(cfg, d, superblock, &directory) {
        Mount::Found(found) if !found.whole => Mount::Damaged("root node"),
        mount => mount,
    }
}

/// What the log holds behind a checkpoint, and the state at its cut.
pub fn recover_from(cfg: &Config, d: &Device, superblock: Superblock, dir: &VolumeDirectory) -> Mount {
    let base = &dir.checkpoint;

    // Threshold: the published cut, the published checkpoint, and every watermark of this generation, also beyond a bad block.
    let mut threshold_lsn = dir.cut().lsn.max(base.freeze);
    let mut threshold_bseq = dir.cut().bseq.max(base.start_bseq.wrapping_sub(1));
    let in_ring = |bseq: Seq| match d.read(cfg.ring_at(bseq)) {
        Block::Wal(b) if b.bseq == bseq => Some(b.clone()),
        _ => None,
    };
    if !cfg.has(Bug::WatermarkOnlyBeforeBad) {
        for i in 0..cfg.ring {
            if let Block::Wal(b) = d.read(cfg.ring_at(i))
                && (b.generation == dir.generation || cfg.has(Bug::WatermarkOfAnyGeneration))
            {
                threshold_lsn = threshold_lsn.max(b.durable_lsn);
                threshold_bseq = threshold_bseq.max(b.durable_bseq);
            }
        }
    }

    // Pass 1a, lineage: the chain of blocks, and the stream of units they carry, each generation truncated at its cut.
    let mut chain: Vec<Rc<WalBlock>> = vec![];
    let mut units: Vec<(Lsn, Record, u8)> = vec![];
    let mut expected = base.start_predecessor;
    let mut suspect = false; // the last accepted block may be a lost write
    for bseq in base.start_bseq..base.start_bseq + cfg.ring {
        let Some(b) = in_ring(bseq) else { break };
        let last_generation = chain.last().map_or(0, |c| c.generation);
        let lineage = if cfg.has(Bug::MonotoneGenerationOnly) {
            b.generation >= last_generation
        } else if cfg.has(Bug::OnlyLastCutPublished) {
            b.generation >= last_generation
                && b.generation <= dir.generation
                && (bseq <= dir.cut().bseq || b.generation == dir.generation)
        } else {
            b.generation == dir.generation_at(bseq)
        };
        if !lineage {
            break;
        }
        if b.predecessor != expected && !cfg.has(Bug::NoPredecessorHash) && !cfg.has(Bug::NoHashes) {
            suspect = true;
            break;
        }
        if cfg.has(Bug::OnlyLastCutPublished) || cfg.has(Bug::MonotoneGenerationOnly) {
            units.retain(|u| u.0 < b.first_lsn); // inferred: a younger generation that starts lower cuts the older one
        }
        if units.last().is_some_and(|u| u.0 + 1 != b.first_lsn) {
            break;
        }
        units.extend(b.fragments.iter().enumerate().map(|(i, (r, part))| (b.first_lsn + i as Lsn, *r, *part)));
        if cfg.has(Bug::WatermarkOnlyBeforeBad) && b.generation == dir.generation {
            threshold_lsn = threshold_lsn.max(b.durable_lsn);
            threshold_bseq = threshold_bseq.max(b.durable_bseq);
        }
        expected = hash64(&*b);
        chain.push(b);
        if let Some(cut) = dir.cuts.iter().find(|c| c.bseq == bseq) {
            if expected != cut.hash && !cfg.has(Bug::CutHashNotPublished) && !cfg.has(Bug::NoHashes) {
                suspect = true;
                break;
            }
            if !cfg.has(Bug::CutLsnNotPublished) {
                units.retain(|u| u.0 < cut.lsn);
            }
        }
    }
    let mut broken_at = base.start_bseq + chain.len() as Seq;
    if suspect
        && !cfg.has(Bug::NoSuspectPredecessor)
        && broken_at - 1 <= threshold_bseq
        && let Some(b) = chain.pop()
    {
        units.retain(|u| u.0 < b.first_lsn);
        broken_at = b.bseq;
    }

    // Pass 1b, cut: above the threshold a record counts only if the data it names verifies.
    let (records, mut cut_lsn) = parse(&units, base.freeze);
    let mut accepted = vec![];
    for (lsn, r) in records {
        let judge = lsn >= threshold_lsn || cfg.has(Bug::VerifyDataBelowThreshold);
        if let Kind::Put { object, .. } = &r.kind
            && judge
            && !verifies(cfg, d, object)
        {
            cut_lsn = lsn;
            break;
        }
        accepted.push((lsn, r));
    }
    let stream_end = chain.last().map_or(base.freeze, |b| b.first_lsn + b.fragments.len() as Lsn).max(base.freeze);
    if cut_lsn < stream_end {
        chain.retain(|b| b.first_lsn < cut_lsn);
    }
    let corrupt = cut_lsn < threshold_lsn || (broken_at <= threshold_bseq && !cfg.has(Bug::LsnOnlyWatermark));

    // Pass 2: the last checkpoint in the accepted prefix, and what follows it.
    let mut checkpoint = base.clone();
    if !cfg.has(Bug::CheckpointIgnored) {
        for (_, r) in &accepted {
            if let Kind::Checkpoint { number, freeze, place, crc } = r.kind
                && number > base.number
            {
                let Some(b) = chain.iter().rev().find(|b| b.first_lsn <= freeze) else {
                    return Mount::Damaged("position of the checkpoint");
                };
                checkpoint = Checkpoint {
                    number,
                    freeze,
                    place,
                    crc,
                    start_bseq: b.bseq,
                    start_predecessor: b.predecessor,
                    start_generation: b.generation,
                };
            }
        }
    }
    let (mut state, whole) = match d.read(cfg.place_at(checkpoint.place)) {
        Block::Node(s) if hash64(&**s) == checkpoint.crc => (s.state.clone(), true),
        _ => (State { slots: vec![None; cfg.slots as usize], open: false, digest: 0 }, false),
    };
    let numbers = accepted
        .iter()
        .filter_map(|(_, r)| if let Kind::Checkpoint { number, .. } = r.kind { Some(number) } else { None });
    let told = checkpoint.number == 0 || numbers.max().is_some_and(|number| number >= checkpoint.number);
    let mut dead = vec![];
    for (lsn, r) in accepted.iter().filter(|(lsn, _)| *lsn >= checkpoint.freeze) {
        if let Some(o) = state.apply(r) {
            dead.push((*lsn, o.place));
        }
    }
    let head_hash = chain.last().map_or(base.start_predecessor, |b| hash64(&**b));
    let cut_bseq = chain.last().map_or(base.start_bseq - 1, |b| b.bseq);
    let chain = chain
        .iter()
        .filter(|b| b.bseq >= checkpoint.start_bseq)
        .map(|b| (b.bseq, b.first_lsn, b.predecessor))
        .collect();
    Mount::Found(Box::new(Found {
        superblock,
        directory: dir.clone(),
        checkpoint,
        told,
        chain,
        head_hash,
        cut_lsn,
        cut_bseq,
        threshold_lsn,
        corrupt,
        state,
        whole,
        dead,
    }))
}

/// Whole records from `from` on, and where they end.
fn parse(units: &[(Lsn, Record, u8)], from: Lsn) -> (Vec<(Lsn, Record)>, Lsn) {
    let mut out = vec![];
    let mut lsn = from;
    let mut i = units.partition_point(|u| u.0 < from);
    while i < units.len() && units[i].0 == lsn {
        let r = units[i].1;
        let n = r.units as usize;
        let whole = i + n <= units.len() && (0..n).all(|k| units[i + k] == (lsn + k as Lsn, r, k as u8));
        if !whole {
            break;
        }
        out.push((lsn, r));
        i += n;
        lsn += n as Lsn;
    }
    (out, lsn)
}

/// The directory that recovery publishes.
pub fn published(cfg: &Config, f: &Found) -> VolumeDirectory {
    let generation = f.directory.generation + !cfg.has(Bug::GenerationNotRaised) as u32;
    let checkpoint =
        if cfg.has(Bug::AdoptedNotPublished) { f.directory.checkpoint.clone() } else { f.checkpoint.clone() };
    let mut cuts = f.directory.cuts.clone();
    cuts.retain(|c| c.bseq < f.cut_bseq && c.bseq + 1 >= checkpoint.start_bseq && !cfg.has(Bug::OnlyLastCutPublished));
    cuts.push(Cut { generation, lsn: f.cut_lsn, bseq: f.cut_bseq, hash: f.head_hash });
    VolumeDirectory { generation, cuts, checkpoint, oid_bound: f.directory.oid_bound + crate::engine::OID_STEP }
}

pub fn next_superblock(cfg: &Config, old: &Superblock, dir: &VolumeDirectory) -> Superblock {
    let slot = if cfg.has(Bug::DirectoryInPlace) { 0 } else { 1 - old.slot };
    Superblock { seq: old.seq + 1, predecessor: hash64(old), slot, directory_crc: hash64(dir) }
}

/// FLUSH; repair invalid superblock copies, then stale ones, never a good one; publish; serve.
pub fn plan(cfg: &Config, d: &Device, f: &Found) -> Vec<Io> {
    let copy = |i: usize| if let Block::Superblock(s) = d.read(i) { Some(*s) } else { None };
    let mut io = vec![];
    if !cfg.has(Bug::NoFlushAtOpen) && !cfg.has(Bug::NoFlushBeforePublish) {
        io.push(Io::Flush); // what recovery reads may sit in the device's cache: make it durable before anything is decided on it
    }
    let mut group = |members: Vec<usize>| {
        if !members.is_empty() {
            io.extend(members.iter().map(|i| Io::Write(*i, Block::Superblock(f.superblock))));
            io.push(Io::Flush);
        }
    };
    if cfg.has(Bug::RepairAllCopies) {
        if (0..4).any(|i| copy(i) != Some(f.superblock)) {
            group(vec![0, 1]);
            group(vec![2, 3]);
        }
    } else {
        group((0..4).filter(|i| copy(*i).is_none()).collect());
        for pair in [[0, 1], [2, 3]] {
            group(pair.into_iter().filter(|i| copy(*i).is_some_and(|s| s != f.superblock)).collect());
        }
    }
    if !cfg.has(Bug::CutNotPublished) {
        let dir = published(cfg, f);
        let sb = next_superblock(cfg, &f.superblock, &dir);
        if cfg.has(Bug::NoFlushAtOpen) {
            io.push(Io::Flush); // where DESIGN 6 has it
        }
        for c in 0..2 {
            io.push(Io::Write(4 + 2 * sb.slot as usize + c, Block::VolumeDirectory(Rc::new(dir.clone()))));
        }
        if !cfg.has(Bug::NoFlushBeforePublish) {
            io.push(Io::Flush);
        }
        for pair in [[0, 1], [2, 3]] {
            io.extend(pair.map(|i| Io::Write(i, Block::Superblock(sb))));
            let skip = if pair[0] == 0 { Bug::PairsWithoutFlush } else { Bug::SecondPairNotFlushed };
            if !cfg.has(skip) {
                io.push(Io::Flush);
            }
        }
    }
    io.push(Io::Serve);
    io
}
