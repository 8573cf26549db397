//! Rebuild: superblocks and directories are gone; what is left are the tops of checkpoints, nodes, data, and the log, whose blocks say generation, sequence and LSN themselves.
use crate::config::{Bug, Config, ROOTS};
use crate::device::Device;
use crate::format::*;
use crate::recovery::{Found, Mount, recover_from};
use std::collections::BTreeMap;
use std::rc::Rc;

/// From the newest checkpoint that took place. One that power cut short left a top too: if the log can be read from the one before on, whole, and tells of none as new, it did not take place.
pub fn rebuild(cfg: &Config, d: &Device) -> Option<Found> {
    let mut tops: Vec<Roots> = (0..ROOTS as u16)
        .filter_map(|i| match d.read(cfg.roots_at(i)) {
            Block::Roots(roots) => Some(*roots),
            _ => None,
        })
        .collect();
    tops.sort_by_key(|roots| std::cmp::Reverse((roots.number, roots.opening)));
    let mut newest: Option<(Roots, Option<Found>)> = None;
    for roots in tops {
        let found = log_behind(cfg, d, &roots);
        match &newest {
            None => newest = Some((roots, found)),
            Some(_) if cfg.has(Bug::RebuildTakesNewest) => break,
            Some((newer, _)) => {
                // The log was durable to the newer one's freeze before that wrote its top: what ends before is what a lap of the ring left.
                let reaches = |found: &Found| found.cut_lsn >= newer.freeze || cfg.has(Bug::RebuildOfPartOfTheLog);
                let Some(whole) = found.filter(|found| !found.corrupt && reaches(found)) else { break };
                // What it adopted is the last that the log tells of.
                if whole.checkpoint.number >= newer.number && !cfg.has(Bug::RebuildIgnoresRecord) {
                    break;
                }
                newest = Some((roots, Some(whole)));
            }
        }
    }
    let (roots, found) = newest?;
    found.or_else(|| match recover_from(cfg, d, NOTHING, &directory(&roots)) {
        Mount::Found(found) => Some(*found),
        Mount::Damaged(_) => None,
    })
}

const NOTHING: Superblock = Superblock { seq: 0, predecessor: 0, slot: 0, directory_crc: 0 };

/// Of a checkpoint that starts where there is no log.
fn directory(roots: &Roots) -> VolumeDirectory {
    let start_bseq = Seq::MAX / 2;
    let checkpoint = Checkpoint {
        number: roots.number,
        freeze: roots.freeze,
        place: roots.place,
        crc: roots.crc,
        start_bseq,
        start_predecessor: 0,
        start_generation: 0,
    };
    let cut = Cut { generation: 0, lsn: roots.freeze, bseq: start_bseq - 1, hash: 0 };
    VolumeDirectory { generation: 0, cuts: vec![cut], checkpoint, oid_bound: 0 }
}

/// What the log holds from a checkpoint's freeze on; none if its blocks are not there any more.
fn log_behind(cfg: &Config, d: &Device, roots: &Roots) -> Option<Found> {
    let blocks: BTreeMap<Seq, Rc<WalBlock>> = (0..cfg.ring)
        .filter_map(|i| match d.read(cfg.ring_at(i)) {
            Block::Wal(b) => Some((b.bseq, b.clone())),
            _ => None,
        })
        .collect();
    let end = |b: &WalBlock| b.first_lsn + b.fragments.len() as Lsn;
    let holds: Vec<&Rc<WalBlock>> =
        blocks.values().filter(|b| (b.first_lsn..=end(b)).contains(&roots.freeze)).collect();
    let generation = holds.iter().map(|b| b.generation).max()?;
    let last = holds.iter().filter(|b| b.generation == generation).map(|b| b.bseq).max()?;
    // Blocks without records have the LSN too: the earliest of those that follow each other begins the chain.
    let is_one = |bseq: &Seq| holds.iter().any(|b| b.bseq == *bseq && b.generation == generation);
    let first = (0..=last).rev().take_while(is_one).last().and_then(|bseq| blocks.get(&bseq))?;
    let mut directory = directory(roots);
    directory.checkpoint.start_bseq = first.bseq;
    directory.checkpoint.start_predecessor = first.predecessor;
    directory.checkpoint.start_generation = first.generation;
    let cut = Cut { generation: first.generation, lsn: roots.freeze, bseq: first.bseq - 1, hash: 0 };
    directory.cuts = vec![cut];
    let mut before = first;
    while let Some(next) = blocks.get(&(before.bseq + 1)) {
        let follows = next.generation >= before.generation && next.first_lsn <= end(before);
        // A mount begins with what is durable. Where its first blocks were lost, a later one may seem to follow what the mount before left behind the cut.
        let begins = next.first_lsn == next.durable_lsn || cfg.has(Bug::AnyBlockBeginsAGeneration);
        let gap = next.generation == before.generation && next.first_lsn != end(before);
        if !follows || gap || next.generation != before.generation && !begins {
            break;
        }
        if next.generation != before.generation {
            let hash = hash64(&**before);
            directory.cuts.push(Cut { generation: next.generation, lsn: next.first_lsn, bseq: before.bseq, hash });
        }
        before = next;
    }
    directory.generation = before.generation;
    match recover_from(cfg, d, NOTHING, &directory) {
        Mount::Found(found) => Some(*found),
        Mount::Damaged(_) => None,
    }
}
