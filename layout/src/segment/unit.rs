//! Header and footer as a unit: fields, zeros, and a checksum seeded with the store and the position.

use crate::checksum::seeded;
use crate::{LayoutError, UNIT};
use zerocopy::little_endian::U32;

/// Fields of a header or footer, in front of zeros.
const FIELDS_BYTES: usize = 64;
/// Bytes of header and footer.
pub const UNIT_BYTES: usize = UNIT as usize;

pub(super) fn short(structure: &'static str, expected: usize, found: usize) -> LayoutError {
    LayoutError::Short { structure, expected, found }
}

/// The reserved field, and all of the unit behind the fields.
pub(super) fn check_reserved(structure: &'static str, reserved: U32, unit: &[u8]) -> Result<(), LayoutError> {
    let behind = unit.get(FIELDS_BYTES..UNIT_BYTES).unwrap_or_default();
    if reserved.get() != 0 || behind.iter().any(|byte| *byte != 0) {
        return Err(LayoutError::Field { structure, field: "reserved", found: 1 });
    }
    Ok(())
}

/// Puts `fields` into a unit and its seeded checksum at `crc_at`.
pub(super) fn seal_unit(fields: &[u8], crc_at: usize, seed: &[u8; 16], position: u64) -> [u8; UNIT_BYTES] {
    let mut out = [0; UNIT_BYTES];
    for (to, from) in out.iter_mut().zip(fields) {
        *to = *from;
    }
    let crc = seeded(seed, position, &out);
    if let Some(field) = out.get_mut(crc_at..crc_at + 4) {
        field.copy_from_slice(&crc.to_le_bytes());
    }
    out
}

pub(super) fn check_unit(
    bytes: &[u8],
    structure: &'static str,
    magic: u64,
    crc_at: usize,
    seed: &[u8; 16],
    position: u64,
) -> Result<(), LayoutError> {
    let mut unit = [0; UNIT_BYTES];
    unit.copy_from_slice(bytes.get(..UNIT_BYTES).ok_or_else(|| short(structure, UNIT_BYTES, bytes.len()))?);
    let found = unit.first_chunk().map_or(0, |first| u64::from_le_bytes(*first));
    if found != magic {
        return Err(LayoutError::Magic { structure, expected: magic, found });
    }
    let mut expected = [0; 4];
    if let Some(field) = unit.get_mut(crc_at..crc_at + 4) {
        expected.copy_from_slice(field);
        field.fill(0);
    }
    let (expected, found) = (u32::from_le_bytes(expected), seeded(seed, position, &unit));
    if expected != found {
        return Err(LayoutError::Checksum { structure, expected, found });
    }
    Ok(())
}
