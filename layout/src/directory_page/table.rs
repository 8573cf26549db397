//! A whole segment table.

use super::{ContainerRow, ROW_BYTES, field};
use crate::{LayoutError, checksum};

const NAME: &str = "segment table";

/// What a page says of the whole table that it amends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TableBase {
    /// Slot that it lies in.
    pub slot: u8,
    /// Sequence of the superblock that it was written for.
    pub sequence: u64,
    /// Rows in it.
    pub rows: u32,
    /// Its checksum.
    pub crc: u32,
}

impl TableBase {
    /// Bytes of its rows.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.rows as u64 * ROW_BYTES as u64
    }

    fn checksum(&self, seed: &[u8; 16], bytes: &[u8]) -> u32 {
        checksum::crc32c_pieces(&[seed, &u64::from(self.slot).to_le_bytes(), &self.sequence.to_le_bytes(), bytes])
    }
}

/// The bytes of a whole table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentTable {
    /// What pages name it by.
    pub base: TableBase,
    /// Its rows.
    pub bytes: Vec<u8>,
}

impl SegmentTable {
    /// For a slot and the superblock of this sequence. Containers that are free behind the last that is not have no row.
    #[must_use]
    pub fn encode(rows: &[ContainerRow], seed: &[u8; 16], slot: u8, sequence: u64) -> Self {
        let used = rows.iter().rposition(|row| *row != ContainerRow::FREE).map_or(0, |last| last.saturating_add(1));
        let mut bytes = Vec::with_capacity(used.saturating_mul(ROW_BYTES));
        for (container, row) in (0_u32..).zip(rows.iter().take(used)) {
            bytes.extend_from_slice(&row.encode(container));
        }
        let mut base = TableBase { slot, sequence, rows: u32::try_from(used).unwrap_or(u32::MAX), crc: 0 };
        base.crc = base.checksum(seed, &bytes);
        Self { base, bytes }
    }

    /// Its rows, from bytes that may be longer than the table.
    ///
    /// # Errors
    /// Not the table that `base` names, or damaged.
    pub fn decode(bytes: &[u8], seed: &[u8; 16], base: &TableBase) -> Result<Vec<ContainerRow>, LayoutError> {
        let expected = usize::try_from(base.bytes()).unwrap_or(usize::MAX);
        let short = LayoutError::Short { structure: NAME, expected, found: bytes.len() };
        let bytes = bytes.get(..expected).ok_or(short)?;
        let found = base.checksum(seed, bytes);
        if found != base.crc {
            return Err(LayoutError::Checksum { structure: NAME, expected: base.crc, found });
        }
        let mut rows = Vec::with_capacity(expected / ROW_BYTES);
        for (expected, row) in (0_u32..).zip(bytes.chunks_exact(ROW_BYTES)) {
            let (container, row) = ContainerRow::decode(row)?;
            if container != expected {
                return field(NAME, "container", container.into());
            }
            rows.push(row);
        }
        Ok(rows)
    }
}
