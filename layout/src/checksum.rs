//! CRC32C, plain and seeded, and XXH3-64.
//!
//! What is shipped between stores (references, tables, records) is never seeded; what is true of one store at one position (superblocks, log blocks, segment
//! headers, system pages) is seeded with the store's seed uuid and that position, so that a block of another store or another place does not verify.

use twox_hash::XxHash3_64;

/// CRC32C of bytes.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// CRC32C of several pieces as if they were one.
#[must_use]
pub fn crc32c_pieces(pieces: &[&[u8]]) -> u32 {
    pieces.iter().fold(0, |crc, piece| crc32c::crc32c_append(crc, piece))
}

/// CRC32C of bytes that belong to one store and one position on it.
#[must_use]
pub fn seeded(seed: &[u8; 16], position: u64, bytes: &[u8]) -> u32 {
    crc32c_pieces(&[seed, &position.to_le_bytes(), bytes])
}

/// XXH3-64 with seed 0.
#[must_use]
pub fn hash64(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// Checksums of stored bytes, one per 4 KiB (the last may be shorter).
#[must_use]
pub fn blocks(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks(4096).map(crc32c).collect()
}
