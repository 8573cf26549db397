//! What the client does, drawn from a seed, and how its records say it.

use std::collections::BTreeMap;

#[derive(Clone)]
pub struct Rng(pub u64);
impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

/// Bytes of a value from its seed: every 512 bytes differ.
pub fn content(seed: u64, from: u32, len: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(len as usize);
    for at in (from..from + len).step_by(8) {
        out.extend_from_slice(&Rng(seed ^ u64::from(at) << 20).next().to_le_bytes());
    }
    out.truncate(len as usize);
    out
}

/// What a key holds: pieces of content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Seed and length of what was written at once; growth adds pieces.
    pub pieces: Vec<(u64, u32)>,
    /// First half: 0 there, 1 punched and freed, 2 punched and kept by others.
    pub punched: u8,
}

pub type Logical = BTreeMap<u32, BTreeMap<u32, Value>>;

#[derive(Clone, Debug)]
pub enum Op {
    Write {
        tree: u32,
        key: u32,
        seed: u64,
        len: u32,
    },
    Small {
        tree: u32,
        key: u32,
        seed: u64,
        len: u32,
    },
    Grow {
        tree: u32,
        key: u32,
        seed: u64,
        len: u32,
    },
    Punch {
        tree: u32,
        key: u32,
    },
    Delete {
        tree: u32,
        key: u32,
    },
    /// As [`Op::Delete`], and the operation itself frees the extent, if it is exclusive: a file that is cut to nothing.
    Cut {
        tree: u32,
        key: u32,
    },
    Fork {
        from: u32,
        to: u32,
    },
    Drop {
        tree: u32,
    },
}

/// The body of its record.
pub fn encode(op: &Op) -> Vec<u8> {
    let (code, a, b, seed, len) = match *op {
        Op::Write { tree, key, seed, len } => (0, tree, key, seed, len),
        Op::Small { tree, key, seed, len } => (1, tree, key, seed, len),
        Op::Grow { tree, key, seed, len } => (2, tree, key, seed, len),
        Op::Punch { tree, key } => (3, tree, key, 0, 0),
        Op::Delete { tree, key } => (4, tree, key, 0, 0),
        Op::Fork { from, to } => (5, from, to, 0, 0),
        Op::Drop { tree } => (6, tree, 0, 0, 0),
        Op::Cut { tree, key } => (7, tree, key, 0, 0),
    };
    let mut out: Vec<u8> = vec![code];
    out.extend(a.to_le_bytes());
    out.extend(b.to_le_bytes());
    out.extend(seed.to_le_bytes());
    out.extend(len.to_le_bytes());
    if code == 1 {
        out.extend(content(seed, 0, len));
    }
    out
}

/// What a record said.
pub fn decode(bytes: &[u8]) -> Op {
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let (tree, key, len) = (u32_at(1), u32_at(5), u32_at(17));
    let seed = u64::from_le_bytes(bytes[9..17].try_into().unwrap());
    match bytes[0] {
        0 => Op::Write { tree, key, seed, len },
        1 => Op::Small { tree, key, seed, len },
        2 => Op::Grow { tree, key, seed, len },
        3 => Op::Punch { tree, key },
        4 => Op::Delete { tree, key },
        5 => Op::Fork { from: tree, to: key },
        6 => Op::Drop { tree },
        _ => Op::Cut { tree, key },
    }
}
