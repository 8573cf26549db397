//! Making the checksums of mutated structures right.

use envoyfs_layout::checksum::{crc32c, crc32c_pieces, seeded};

/// Puts a checksum at an offset, computed with that field zero.
fn put(bytes: &mut [u8], at: usize, crc: impl FnOnce(&[u8]) -> u32) {
    if let Some(field) = bytes.get_mut(at..at + 4) {
        field.fill(0);
    }
    let crc = crc(bytes);
    if let Some(field) = bytes.get_mut(at..at + 4) {
        field.copy_from_slice(&crc.to_le_bytes());
    }
}

/// The first bytes of a slice, as many as are wanted and there.
fn head(bytes: &[u8], length: usize) -> &[u8] {
    bytes.get(..length.min(bytes.len())).unwrap_or_default()
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    let field = bytes.get(at..at + 4).and_then(|field| field.first_chunk());
    field.map_or(0, |field| u32::from_le_bytes(*field) as usize)
}

/// A superblock is seeded with the seed inside it.
pub fn superblock(bytes: &[u8], position: u64) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let seed: [u8; 16] = bytes.get(56..72).and_then(|seed| seed.try_into().ok()).unwrap_or_default();
    put(&mut out, 8, |bytes| seeded(&seed, position, head(bytes, 4096)));
    out
}

/// Returns also the checksum that a superblock would name.
pub fn volume_directory(bytes: &[u8], seed: &[u8; 16]) -> (Vec<u8>, u32) {
    let mut out = bytes.to_vec();
    let whole = 2112_usize.saturating_add(u32_at(bytes, 28).saturating_mul(64));
    let slot = u64::from(bytes.get(16).copied().unwrap_or(0) % 2);
    put(&mut out, 8, |bytes| seeded(seed, slot, head(bytes, whole)));
    let crc = u32_at(&out, 8);
    (out, u32::try_from(crc).unwrap_or(0))
}

/// The checksum of a whole segment table, for the page that names it.
pub fn segment_table(bytes: &[u8], seed: &[u8; 16], slot: u64, sequence: u64) -> u32 {
    let before = [seed.as_slice(), &slot.to_le_bytes(), &sequence.to_le_bytes()].concat();
    crc32c(&[before.as_slice(), bytes].concat())
}

/// A block of the log, or a header or footer of a segment: the whole of it, seeded.
pub fn seeded_at(bytes: &[u8], at: usize, seed: &[u8; 16], position: u64) -> Vec<u8> {
    let mut out = bytes.to_vec();
    put(&mut out, at, |bytes| seeded(seed, position, bytes));
    out
}

/// A record of the log; its length is in front.
pub fn record(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let length = u32_at(bytes, 0);
    put(&mut out, 16, |bytes| crc32c(head(bytes, length)));
    out
}

/// Header and rows of a table part.
pub fn table_part(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let length = u32_at(bytes, 20).saturating_add(32);
    put(&mut out, 4, |bytes| crc32c_pieces(&[head(bytes, length)]));
    out
}
