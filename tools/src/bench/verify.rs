//! `verify=crc32c`: every block that is written says where it belongs, which of the writes to that place it is, and what it holds; so a read tells damage, a block of another place,
//! and one that is older than the last write.

use envoyfs_layout::checksum::crc32c;

/// "EVBENCHV".
const MAGIC: [u8; 8] = *b"EVBENCHV";
/// Magic, offset, sequence, checksum of all else.
const HEADER_BYTES: usize = 8 + 8 + 4 + 4;
const CRC_AT: usize = 20;

/// What is wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Not a block that was written with a header.
    NoHeader,
    /// The checksum differs.
    Damaged,
    /// Of another place, in bytes.
    Misplaced(u64),
    /// Of another write to this place: expected, found.
    Stale(u32, u32),
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoHeader => write!(f, "it holds no header"),
            Self::Damaged => write!(f, "its checksum does not match"),
            Self::Misplaced(offset) => write!(f, "it belongs to offset {offset}"),
            Self::Stale(expected, found) => write!(f, "it is write {found} to this place; the last was {expected}"),
        }
    }
}

/// Writes the header of a block.
pub fn seal(block: &mut [u8], offset: u64, sequence: u32) {
    if let Some(header) = block.first_chunk_mut::<HEADER_BYTES>() {
        let mut bytes = [0; HEADER_BYTES];
        let parts = [&MAGIC[..], &offset.to_le_bytes(), &sequence.to_le_bytes()].concat();
        bytes.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
        *header = bytes;
    }
    let crc = crc32c(block);
    if let Some(field) = block.get_mut(CRC_AT..HEADER_BYTES) {
        field.copy_from_slice(&crc.to_le_bytes());
    }
}

/// Checks a block; with a sequence, also that it is that write. Changes the checksum's field.
pub fn check(block: &mut [u8], offset: u64, sequence: Option<u32>) -> Result<(), Wrong> {
    let field =
        |at: usize| block.get(at..).and_then(|rest| rest.first_chunk::<8>()).map(|bytes| u64::from_le_bytes(*bytes));
    if block.first_chunk() != Some(&MAGIC) {
        return Err(Wrong::NoHeader);
    }
    let found = field(8).ok_or(Wrong::NoHeader)?;
    let [a, b, c, d, e, f, g, h] = field(16).ok_or(Wrong::NoHeader)?.to_le_bytes();
    if let Some(crc) = block.get_mut(CRC_AT..HEADER_BYTES) {
        crc.fill(0);
    }
    if crc32c(block) != u32::from_le_bytes([e, f, g, h]) {
        return Err(Wrong::Damaged);
    }
    if found != offset {
        return Err(Wrong::Misplaced(found));
    }
    let found = u32::from_le_bytes([a, b, c, d]);
    match sequence {
        Some(expected) if expected != found => Err(Wrong::Stale(expected, found)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_be_wrong_is_told_apart() {
        let mut block = vec![7; 4096];
        seal(&mut block, 8192, 3);
        let check = |change: &dyn Fn(&mut Vec<u8>), offset, sequence| {
            let mut copy = block.clone();
            change(&mut copy);
            check(&mut copy, offset, sequence)
        };
        assert_eq!(check(&|_| (), 8192, Some(3)), Ok(()));
        assert_eq!(check(&|_| (), 8192, None), Ok(()));
        assert_eq!(check(&|_| (), 4096, None), Err(Wrong::Misplaced(8192)));
        assert_eq!(check(&|_| (), 8192, Some(4)), Err(Wrong::Stale(4, 3)));
        assert_eq!(check(&|block| block[0] ^= 1, 8192, None), Err(Wrong::NoHeader));
        for at in [8, 16, 20, 23, 24, 4095] {
            assert_eq!(check(&|block| block[at] ^= 1, 8192, None), Err(Wrong::Damaged), "{at}");
        }
    }
}
