//! What is on the simulated disk. Blocks are symbolic: a block whose checksum would fail is `Garbage`. A logical block has
//! two sectors, so a torn write is a mixture of old and new that every whole-block checksum rejects: it *is* `Garbage`.
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::rc::Rc;

pub type Lsn = u32; // in units; a record has 1..=3 units, a WAL block holds `cap` of them. Half-open: "durable = L" means all < L
pub type Seq = u32;

pub fn hash64<T: Hash>(x: &T) -> u64 {
    let mut h = DefaultHasher::new();
    x.hash(&mut h);
    h.finish()
}

#[derive(Clone, Hash, PartialEq, Eq, Debug)]
pub enum Block {
    Empty,
    Garbage,
    Wal(Rc<WalBlock>),
    Data { content: u8, oid: u16 }, // oid is a ghost: the checksum covers the content only (unless cfg.identity)
    Node(Rc<Node>),
    Roots(Roots),
    VolumeDirectory(Rc<VolumeDirectory>),
    Superblock(Superblock),
}

#[derive(Clone, Hash, PartialEq, Eq, Debug)]
pub struct WalBlock {
    pub bseq: Seq,
    pub first_lsn: Lsn,
    pub generation: u32,
    pub predecessor: u64,
    pub durable_lsn: Lsn, // watermark: records below it, and their data, were durable when this block was framed
    pub durable_bseq: Seq, // watermark: blocks up to it were durable
    pub fragments: Vec<(Record, u8)>,
}

#[derive(Clone, Copy, Hash, PartialEq, Eq, Debug)]
pub struct Record {
    pub id: u16, // ghost: tells lineages apart, never looked at by recovery (the record CRC stands for it when fragments are joined)
    pub units: u8,
    pub kind: Kind,
}

#[derive(Clone, Copy, Hash, PartialEq, Eq, Debug)]
pub enum Kind {
    Put { slot: u8, object: Object },
    Meta,
    Seal,
    Checkpoint { number: u16, freeze: Lsn, place: u8, crc: u64 },
}

#[derive(Clone, Copy, Hash, PartialEq, Eq, Debug)]
pub struct Object {
    pub oid: u16,
    pub place: u8,
    pub crc: u32,
}

/// The top of a checkpoint: what a rebuild finds of it. It may be there though what it leads to is not, or not any more.
#[derive(Clone, Copy, Hash, PartialEq, Eq, Debug)]
pub struct Roots {
    pub number: u16, // given again when the checkpoint did not take place
    pub opening: u32,
    pub freeze: Lsn,
    pub place: u8,
    pub crc: u64,
}

/// What the top of a checkpoint leads to.
#[derive(Clone, Hash, PartialEq, Eq, Debug)]
pub struct Node {
    pub number: u16,
    pub opening: u32, // rises with every node written: of equal numbers the larger one counts
    pub freeze: Lsn,
    pub state: State,
}

/// The client state: a few file slots, whether a segment is open, and a digest of every record applied.
#[derive(Clone, Hash, PartialEq, Eq, Debug)]
pub struct State {
    pub slots: Vec<Option<Object>>,
    pub open: bool,
    pub digest: u64,
}

impl State {
    /// Applies a record; returns the object that died.
    pub fn apply(&mut self, r: &Record) -> Option<Object> {
        let mut dead = None;
        match r.kind {
            Kind::Put { slot, object } => {
                dead = self.slots[slot as usize].replace(object);
                self.open = true;
            }
            Kind::Meta => {}
            Kind::Seal => self.open = false,
            Kind::Checkpoint { .. } => return None,
        }
        self.digest = hash64(&(self.digest, r.id));
        dead
    }
}

#[derive(Clone, Hash, PartialEq, Eq, Debug)]
pub struct VolumeDirectory {
    pub generation: u32, // of this mount; blocks after the cut carry it
    pub cuts: Vec<Cut>,  // every recovery cut since the checkpoint's start, ascending; the last is this mount's
    pub checkpoint: Checkpoint,
    pub oid_bound: u16,
}

#[derive(Clone, Hash, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    pub number: u16,
    pub freeze: Lsn,
    pub place: u8,
    pub crc: u64,
    pub start_bseq: Seq, // the block that holds LSN `freeze`, not the block of the CHECKPOINT record
    pub start_predecessor: u64,
    pub start_generation: u32,
}

/// Blocks after `bseq` carry `generation`, the first of them starts at `lsn`; `hash` is that of the block at `bseq`.
#[derive(Clone, Copy, Hash, PartialEq, Eq, Debug)]
pub struct Cut {
    pub generation: u32,
    pub lsn: Lsn,
    pub bseq: Seq,
    pub hash: u64, // without it a lost write of the last block before the cut would go unseen
}

impl VolumeDirectory {
    pub fn cut(&self) -> Cut {
        *self.cuts.last().expect("every mount publishes a cut")
    }
    /// The generation that the block with this sequence must have.
    pub fn generation_at(&self, bseq: Seq) -> u32 {
        self.cuts.iter().rev().find(|c| c.bseq < bseq).map_or(self.checkpoint.start_generation, |c| c.generation)
    }
}

#[derive(Clone, Copy, Hash, PartialEq, Eq, Debug)]
pub struct Superblock {
    pub seq: u32,
    pub predecessor: u64,
    pub slot: u8,
    pub directory_crc: u64,
}
