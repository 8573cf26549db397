//! What segments say of themselves: headers, footers, table parts. Read without any index.

use super::disk::Disk;
use super::interrupt;
use envoyfs_layout::segment::{SegmentFooter, SegmentHeader, TablePart, TableRow};
use envoyfs_layout::superblock::Superblock;
use envoyfs_layout::{Hlc, ReferenceKind, UNIT, checksum};
use std::collections::BTreeMap;

/// Headers lie at multiples of this, at least: segments are powers of two and not smaller.
const STEP: u64 = 64 << 10;
const UNIT_LEN: usize = UNIT as usize;

/// A header and where it was found.
#[derive(Clone, Copy, Debug)]
pub struct FoundHeader {
    /// Byte offset on the device.
    pub offset: u64,
    /// The header.
    pub header: SegmentHeader,
}

/// Every segment header on the device, unless the user stops it. Costs one small read every 64 KiB.
pub fn headers(disk: &Disk) -> Vec<FoundHeader> {
    headers_below(disk, u64::MAX).collect()
}

/// Where a check looks for headers when no superblock is left: where the first of them lie, since a log has more than a GiB only if that was asked for.
pub const LOOK_BYTES: u64 = 4 << 30;

/// Is there any in the first [`LOOK_BYTES`]? All of a large disk takes minutes.
pub fn any_header(disk: &Disk) -> bool {
    headers_below(disk, LOOK_BYTES).next().is_some()
}

fn headers_below(disk: &Disk, end: u64) -> impl Iterator<Item = FoundHeader> {
    let mut unit = vec![0; UNIT_LEN];
    let end = end.min(disk.size_bytes().saturating_sub(UNIT.into()) + 1);
    let steps = (0..end.div_ceil(STEP)).take_while(|_| !interrupt::requested());
    steps.map(|step| step * STEP).filter_map(move |offset| {
        disk.read_at(offset, &mut unit).ok()?;
        let seed: [u8; 16] = unit.get(16..32)?.try_into().ok()?;
        let header = SegmentHeader::decode(&unit, &seed, offset).ok().filter(|header| header.seed == seed)?;
        Some(FoundHeader { offset, header })
    })
}

/// A container as it describes itself.
#[derive(Clone, Debug)]
pub struct Scanned {
    /// Segment number; 0 for survivors and system pages.
    pub segment: u32,
    /// Stream code.
    pub stream: u8,
    /// 1 survivors, 2 system pages.
    pub flags: u8,
    /// Which opening.
    pub opening: u64,
    /// It was ended.
    pub sealed: bool,
    /// Unit of the last table part; 0 = none.
    pub last_part: u32,
    /// First unit that nothing is known to use.
    pub used_units: u32,
    /// What lies in it; from [`container`] only what was born in another segment, and roots objects.
    pub rows: Vec<TableRow>,
    /// Smallest and largest birth of what lies in it.
    pub births: Option<(Hlc, Hlc)>,
    /// Largest segment that something in it was born in.
    pub segment_max: u32,
}

/// Parts that lie in what another part lists, as it was written: a file or name that holds what looks like a part. (That one may list the other in turn, but what its checksum will
/// be nobody knows before it is written.)
fn planted(parts: &BTreeMap<u32, (TablePart, u32)>, as_written: impl Fn(&TableRow) -> bool) -> Vec<u32> {
    let mut out = Vec::new();
    for (own, (part, _)) in parts {
        for row in &part.rows {
            let inside = row.offset_units..row.offset_units.saturating_add(row.units());
            let mut others = parts.range(inside).map(|(unit, _)| *unit).filter(|unit| unit != own).peekable();
            if others.peek().is_some() && as_written(row) {
                out.extend(others);
            }
        }
    }
    out
}

/// Reads a container's header, footer and table. None if neither header nor footer verify.
pub fn container(disk: &Disk, superblock: &Superblock, container: u32) -> Option<Scanned> {
    let mut out = with_all_rows(disk, superblock, container)?;
    // In its home an object is found by its id.
    let segment = out.segment;
    out.rows.retain(|row| row.oid.segment() != segment || row.kind == ReferenceKind::Roots);
    out.rows.shrink_to_fit();
    Some(out)
}

/// As [`container`], with the rows of all that lies in it.
pub fn with_all_rows(disk: &Disk, superblock: &Superblock, container: u32) -> Option<Scanned> {
    let units = superblock.segment_bytes / UNIT;
    let at = |unit: u32| {
        superblock.segments_offset
            + u64::from(container) * u64::from(superblock.segment_bytes)
            + u64::from(unit) * u64::from(UNIT)
    };
    let read = |unit: u32, count: u32| {
        let mut bytes = vec![0; count as usize * UNIT_LEN];
        disk.read_at(at(unit), &mut bytes).ok().map(|()| bytes)
    };
    let header = read(0, 1).and_then(|bytes| SegmentHeader::decode(&bytes, &superblock.seed, at(0)).ok());
    let last = units.checked_sub(1)?;
    let footer = read(last, 1).and_then(|bytes| SegmentFooter::decode(&bytes, &superblock.seed, at(last)).ok());
    let (segment, opening) = match (&header, &footer) {
        (Some(header), _) => (header.segment, header.opening),
        (None, Some(footer)) => (footer.segment, footer.opening),
        (None, None) => return None,
    };
    let footer = footer.filter(|footer| footer.opening == opening);
    let mut out = Scanned {
        segment,
        stream: header.map_or(0, |header| header.stream),
        flags: header.map_or(u8::from(segment == 0), |header| header.flags),
        opening,
        sealed: footer.is_some(),
        last_part: footer.map_or(0, |footer| footer.last_part),
        used_units: footer.map_or(8, |footer| footer.used_units),
        rows: Vec::new(),
        births: None,
        segment_max: segment,
    };
    if out.flags & 2 != 0 {
        return Some(out);
    }
    let part = |unit: u32| {
        let length = u32::try_from(TablePart::units_of(&read(unit, 1)?).ok()?).ok()?;
        let bytes = read(unit, length.min(units.checked_sub(unit)?))?;
        let found = TablePart::decode(&bytes).ok()?;
        // A store that was here before counted openings and segments from the same numbers on.
        let is_own = |row: &TableRow| header.is_none_or(|header| row.oid.volume() == header.volume);
        let same = found.opening == opening && found.segment == segment && found.rows.iter().all(is_own);
        same.then_some((found, length))
    };
    // Parts chain backwards from the footer.
    let (mut unit, mut whole) = (out.last_part, out.sealed);
    while unit != 0 {
        let Some((found, _)) = part(unit) else {
            whole = false;
            break;
        };
        out.rows.extend(&found.rows);
        unit = if found.previous < unit { found.previous } else { 0 };
    }
    if !whole {
        // It was open, or a part is damaged: every unit may begin one.
        out.rows.clear();
        let mut parts: BTreeMap<u32, (TablePart, u32)> = BTreeMap::new();
        let mut unit = 8;
        while unit < units {
            match part(unit) {
                Some(found) => {
                    let length = found.1.max(1);
                    parts.insert(unit, found);
                    unit += length;
                }
                None => unit += 1,
            }
        }
        let as_written = |row: &TableRow| {
            let fits = row.offset_units.checked_add(row.units()).is_some_and(|end| end <= units);
            fits && read(row.offset_units, row.units()).is_some_and(|bytes| checksum::crc32c(&bytes) == row.crc)
        };
        for unit in planted(&parts, as_written) {
            parts.remove(&unit);
        }
        for (unit, (found, length)) in parts {
            out.used_units = out.used_units.max((unit + length).next_multiple_of(8));
            out.last_part = out.last_part.max(unit);
            out.rows.extend(&found.rows);
        }
    }
    out.rows.retain(|row| row.offset_units.checked_add(row.units()).is_some_and(|end| end <= units));
    for row in &out.rows {
        out.segment_max = out.segment_max.max(row.oid.segment());
        if row.birth != Hlc::ZERO {
            let (low, high) = out.births.unwrap_or((row.birth, row.birth));
            out.births = Some((low.min(row.birth), high.max(row.birth)));
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use envoyfs_layout::Oid;

    /// A part that lists `units` from `offset` on.
    fn part(offset_units: u32, units: u32) -> (TablePart, u32) {
        let row = TableRow {
            oid: Oid::new(1, 5, 8),
            birth: Hlc(1),
            stored_bytes: units * UNIT,
            crc: offset_units,
            offset_units,
            kind: ReferenceKind::Extent,
            owner: 0,
        };
        (TablePart { segment: 5, previous: 0, opening: 7, rows: vec![row] }, 1)
    }

    #[test]
    fn a_part_within_what_another_part_lists_counts_only_if_that_is_not_as_it_was_written() {
        // Units 8 to 24, in which there is one at 16, are listed at 24; that at 16 says the same of 20 to 40.
        let parts = BTreeMap::from([(16, part(20, 20)), (24, part(8, 16)), (48, part(25, 23))]);
        let written = |offsets: &'static [u32]| move |row: &TableRow| offsets.contains(&row.offset_units);
        assert_eq!(planted(&parts, written(&[8, 25])), [16]);
        assert_eq!(planted(&parts, written(&[20])), [24]);
        assert!(planted(&parts, written(&[])).is_empty());
    }
}
