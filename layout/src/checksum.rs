//! CRC32C, plain and seeded, and XXH3-64.
//!
//! What is shipped between stores (references, tables, records) is never seeded; what is true of one store at one position (superblocks, log blocks, segment
//! headers, system pages) is seeded with the store's seed uuid and that position, so that a block of another store or another place does not verify.

use crc_fast::{CrcAlgorithm, Digest, checksum_combine};
use twox_hash::XxHash3_64;

/// As RFC 3720 (iSCSI) has it.
const CRC32C: CrcAlgorithm = CrcAlgorithm::Crc32Iscsi;

/// The crate's checksums of 32 bits come in 64.
fn narrow(crc: u64) -> u32 {
    u32::try_from(crc & u64::from(u32::MAX)).unwrap_or(0)
}

/// CRC32C of bytes.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// CRC32C of several pieces as if they were one.
#[must_use]
pub fn crc32c_pieces(pieces: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(CRC32C);
    pieces.iter().for_each(|piece| digest.update(piece));
    narrow(digest.finalize())
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

/// The checksum of a whole from those of its blocks ([`blocks`]): `stored_bytes` in all, a few table look-ups a block. Of more blocks than that, the first ones count.
#[must_use]
pub fn join(crcs: &[u32], stored_bytes: usize) -> u32 {
    let (mut whole, mut left) = (0, stored_bytes);
    for crc in crcs.iter().take(stored_bytes.div_ceil(4096)) {
        let bytes = left.min(4096);
        whole = crc ^ append_zeros(whole, bytes);
        left -= bytes;
    }
    whole
}

/// What becomes of a checksum when zeros follow, but for the constant that the checksum of the zeros itself adds.
fn append_zeros(crc: u32, bytes: usize) -> u32 {
    if bytes == 4096 {
        return SHIFT_4096.apply(crc);
    }
    let sectors = (0..bytes / 512).fold(crc, |crc, _| SHIFT_512.apply(crc));
    if bytes.is_multiple_of(512) {
        return sectors;
    }
    narrow(checksum_combine(CRC32C, sectors.into(), 0, (bytes % 512) as u64))
}

/// Multiplication by a power of x modulo the polynomial, by tables of one for each byte of the factor.
struct Shift([[u32; 256]; 4]);

static SHIFT_512: Shift = Shift::by_zero_bits(12);
static SHIFT_4096: Shift = Shift::by_zero_bits(15);

impl Shift {
    /// By 2^`log` zero bits. The matrix of one bit is squared so many times.
    #[expect(clippy::indexing_slicing, reason = "evaluated when compiled: an index outside its array does not compile")]
    const fn by_zero_bits(log: u32) -> Shift {
        // CRC32C, reflected: bit 31 is the coefficient of x^0.
        let mut columns = [0x82F6_3B78_u32; 32];
        let mut bit = 1;
        while bit < 32 {
            columns[bit] = 1 << (bit - 1);
            bit += 1;
        }
        let mut squared = 0;
        while squared < log {
            let before = columns;
            bit = 0;
            while bit < 32 {
                columns[bit] = times(&before, before[bit]);
                bit += 1;
            }
            squared += 1;
        }
        let mut tables = [[0; 256]; 4];
        let mut byte = 0;
        while byte < 4 {
            let mut value = 0_u32;
            while value < 256 {
                tables[byte][value as usize] = times(&columns, value << (8 * byte));
                value += 1;
            }
            byte += 1;
        }
        Shift(tables)
    }

    fn apply(&self, crc: u32) -> u32 {
        let bytes = self.0.iter().zip(crc.to_le_bytes());
        bytes.fold(0, |sum, (table, byte)| sum ^ table.get(usize::from(byte)).copied().unwrap_or(0))
    }
}

#[expect(clippy::indexing_slicing, reason = "evaluated when compiled: an index outside its array does not compile")]
const fn times(columns: &[u32; 32], factor: u32) -> u32 {
    let (mut sum, mut bit) = (0, 0);
    while bit < 32 {
        if factor >> bit & 1 == 1 {
            sum ^= columns[bit];
        }
        bit += 1;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_rfc_3720_also_in_pieces_of_any_length() {
        assert_eq!(crc32c(b""), 0);
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
        // Bit by bit, as the definition says.
        let slowly = |bytes: &[u8]| {
            !bytes.iter().fold(u32::MAX, |crc, byte| {
                (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82F6_3B78 * (crc & 1)))
            })
        };
        let bytes: Vec<u8> = (0..4200_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect();
        // Miri takes a millisecond for some bytes.
        let lengths = (0..if cfg!(miri) { 40 } else { 300 }).chain([511, 512, 513, 1023, 4095, 4096, 4097, 4200]);
        for length in lengths.filter(|length| !cfg!(miri) || *length < 1024) {
            let part = &bytes[..length];
            assert_eq!(crc32c(part), slowly(part), "{length}");
            let (head, tail) = part.split_at(length / 3);
            assert_eq!(crc32c_pieces(&[head, tail]), slowly(part), "{length}");
        }
    }

    #[test]
    fn checksums_of_blocks_join_to_that_of_the_whole() {
        let bytes: Vec<u8> =
            (0..40_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect();
        let lengths = [0, 1, 511, 512, 513, 3584, 4095, 4096, 4097, 8192, 8704, 20_480, 39_999, 40_000];
        for length in lengths.into_iter().filter(|length| !cfg!(miri) || *length < 1024 || *length == 4097) {
            let part = &bytes[..length];
            assert_eq!(join(&blocks(part), length), crc32c(part), "{length}");
            if length % 4096 == 0 {
                assert_eq!(join(&blocks(&bytes), length), crc32c(part), "the first {length} bytes of more");
            }
        }
    }
}
