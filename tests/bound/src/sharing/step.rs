//! What is done at once: a model's operation, or a part of one that is one record of the log. So after a crash the log holds a
//! number of whole steps, and the value after each is known.

use envoyfs_model::history::token_bytes;
use envoyfs_model::{FILE_BLOCKS, Operation, OracleVolume, Path};

/// Bytes of a block of the model.
pub const BLOCK: usize = 4096;
/// Where a block that is written in two parts is cut.
const CUT: usize = 1000;
/// Tokens from here on stand for a block of which only the first part is written yet.
const HALF_WRITTEN: u64 = 1 << 40;

/// See the module.
#[derive(Clone, Debug)]
pub enum Step {
    /// As the model has it.
    Model(Operation),
    /// Whole blocks, written at once.
    Blocks { file: Path, block: u32, tokens: Vec<u64> },
    /// One part of a block: the first or the second. Then the block has the contents `token`.
    Part { file: Path, block: u32, token: u64, second: bool },
    /// The file gets this size.
    Size { file: Path, blocks: u32 },
}

impl Step {
    /// What it does to the value.
    pub fn apply(&self, volume: &mut OracleVolume) {
        match self {
            Step::Model(operation) => volume.apply(operation),
            Step::Blocks { file, block, tokens } => {
                for (i, token) in tokens.iter().enumerate() {
                    volume.apply(&set_block(file, block + i as u32, *token));
                }
            }
            Step::Part { file, block, token, .. } => volume.apply(&set_block(file, *block, *token)),
            Step::Size { file, blocks } => {
                volume.apply(&Operation::Punch { file: file.clone(), from: *blocks, to: FILE_BLOCKS });
            }
        }
    }
}

fn set_block(file: &Path, block: u32, token: u64) -> Operation {
    Operation::Write { file: file.clone(), block, blocks: 1, token, direct: true, extent: 0, places: vec![] }
}

/// The bytes of blocks.
#[derive(Default)]
pub struct Contents {
    /// First part, second part; 0 is a hole.
    half_written: Vec<(u64, u64)>,
}

impl Contents {
    /// The contents of a block.
    pub fn of(&self, token: u64) -> Vec<u8> {
        if token == 0 {
            return vec![0; BLOCK];
        }
        match token.checked_sub(HALF_WRITTEN) {
            None => token_bytes(token, BLOCK),
            Some(index) => {
                let (first, second) = self.half_written[index as usize];
                let mut bytes = self.of(second);
                bytes[..CUT].copy_from_slice(&self.of(first)[..CUT]);
                bytes
            }
        }
    }

    /// The part that a [`Step::Part`] writes: where in the block, and the bytes.
    pub fn part(&self, token: u64, second: bool) -> (usize, Vec<u8>) {
        let bytes = self.of(token);
        if second { (CUT, bytes[CUT..].to_vec()) } else { (0, bytes[..CUT].to_vec()) }
    }

    /// A block that holds `old` becomes `new` in two steps.
    pub fn in_parts(&mut self, file: &Path, block: u32, old: u64, new: u64) -> [Step; 2] {
        let between = HALF_WRITTEN + self.half_written.len() as u64;
        self.half_written.push((new, old));
        [(between, false), (new, true)].map(|(token, second)| Step::Part { file: file.clone(), block, token, second })
    }
}
