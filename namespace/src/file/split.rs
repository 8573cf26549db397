//! How a write splits into small pieces, which go into the log, and whole blocks, which go straight to a segment.

use super::BLOCK_BYTES;
use std::ops::Range;

/// Ranges of a caller's buffer; together all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Parts of blocks at the start and the end; one range if there is no whole block between.
    pub pieces: Vec<Range<usize>>,
    /// Whole blocks of the file, one after the other; may be empty.
    pub direct: Range<usize>,
}

impl Split {
    /// The whole blocks in parts of at most `extent_bytes_max` (a multiple of 4096).
    pub fn objects(&self, extent_bytes_max: u32) -> impl Iterator<Item = Range<usize>> + use<> {
        let step = usize::try_from(extent_bytes_max).unwrap_or(usize::MAX).max(1);
        let end = self.direct.end;
        self.direct.clone().step_by(step).map(move |start| start..end.min(start.saturating_add(step)))
    }
}

/// How a write of `len` bytes at `offset` splits. Pure.
pub fn split(offset: u64, len: usize) -> Split {
    let block = usize::try_from(BLOCK_BYTES).unwrap_or(usize::MAX);
    let in_block = usize::try_from(offset % BLOCK_BYTES).unwrap_or(0);
    let head = if in_block == 0 { 0 } else { block - in_block };
    let whole = len.saturating_sub(head) / block * block;
    if whole == 0 {
        return Split { pieces: nonempty([0..len, 0..0]), direct: 0..0 };
    }
    let tail = head + whole;
    Split { pieces: nonempty([0..head, tail..len]), direct: head..tail }
}

fn nonempty(ranges: [Range<usize>; 2]) -> Vec<Range<usize>> {
    ranges.into_iter().filter(|range| !range.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_covers_the_buffer_and_its_direct_part_is_whole_blocks() {
        for offset in [0_u64, 1, 4095, 4096, 5000, 1 << 40] {
            for len in [0_usize, 1, 100, 4095, 4096, 4097, 8191, 8192, 12_288, 20_000] {
                let split = split(offset, len);
                let mut covered: Vec<_> =
                    split.pieces.iter().chain([&split.direct]).filter(|r| !r.is_empty()).cloned().collect();
                covered.sort_by_key(|r| r.start);
                let mut at = 0;
                for range in covered {
                    assert_eq!(range.start, at, "{offset} {len}");
                    at = range.end;
                }
                assert_eq!(at, len, "{offset} {len}");
                if !split.direct.is_empty() {
                    assert_eq!((offset + split.direct.start as u64) % 4096, 0);
                    assert_eq!(split.direct.len() % 4096, 0);
                    assert!(split.pieces.iter().all(|piece| piece.len() < 4096));
                }
                assert!(split.pieces.iter().map(Range::len).sum::<usize>() < 2 * 4096);
            }
        }
    }

    #[test]
    fn objects_are_at_most_as_large_as_an_extent() {
        let parts: Vec<_> = split(4096, 10 * 4096).objects(4 * 4096).collect();
        assert_eq!(parts, [0..16_384, 16_384..32_768, 32_768..40_960]);
        assert_eq!(split(1, 10).objects(1 << 20).count(), 0);
    }
}
