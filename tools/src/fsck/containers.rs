//! What containers say of themselves: header, footer, table parts. Nothing is found by them while the indexes are there; the cleaner verifies by them, and a rebuild has
//! nothing else. Damage is no error: what lives there is whole. [`mend`] writes headers and footers again from the row and from each other; a part of a table stays as it is,
//! until the container is used again.

use super::disk::Disk;
use super::findings;
use super::report::Report;
use anyhow::Result as Done;
use envoyfs_engine::device::{AlignedBuf, Write};
use envoyfs_layout::Hlc;
use envoyfs_layout::UNIT;
use envoyfs_layout::directory_page::{ContainerRow, ContainerState, VolumeDirectory};
use envoyfs_layout::segment::{SegmentFooter, SegmentHeader, TablePart, TableRow};
use envoyfs_layout::superblock::Superblock;

const UNIT_LEN: usize = UNIT as usize;
/// Containers of which the system is told ahead.
const AHEAD: usize = 64;
/// What a part of a table usually takes.
const PART_BYTES: u64 = 8 << 10;

struct Container<'a> {
    disk: &'a Disk,
    superblock: &'a Superblock,
    number: u32,
}

/// What the table of a container amounts to.
#[derive(Default)]
struct Chain {
    objects: u32,
    digest: u64,
    /// Which does not, and why.
    broken: Option<(u32, String)>,
}

impl Container<'_> {
    fn position(&self, unit: u32) -> u64 {
        let sb = self.superblock;
        sb.segments_offset + u64::from(self.number) * u64::from(sb.segment_bytes) + u64::from(unit) * u64::from(UNIT)
    }
    /// What will be read of it is on its way from the device.
    fn expect(&self, row: &ContainerRow) {
        if row.state == ContainerState::Free || !self.disk.expects() {
            return;
        }
        self.disk.expect(self.position(0), u64::from(UNIT));
        if row.state != ContainerState::System {
            self.disk.expect(self.position(self.units().saturating_sub(1)), u64::from(UNIT));
            if row.last_part != 0 {
                self.disk.expect(self.position(row.last_part), PART_BYTES);
            }
        }
    }
    fn units(&self) -> u32 {
        self.superblock.segment_bytes / UNIT
    }
    fn read(&self, unit: u32, count: u32) -> Result<Vec<u8>, String> {
        if unit.checked_add(count).is_none_or(|end| end > self.units()) {
            return Err(format!("units {unit} to {} lie outside", u64::from(unit) + u64::from(count)));
        }
        let mut bytes = vec![0; count as usize * UNIT_LEN];
        self.disk.read_at(self.position(unit), &mut bytes).map_err(|error| error.to_string())?;
        Ok(bytes)
    }
    fn header(&self, row: &ContainerRow) -> Result<SegmentHeader, String> {
        let bytes = self.read(0, 1)?;
        let header =
            SegmentHeader::decode(&bytes, &self.superblock.seed, self.position(0)).map_err(|e| e.to_string())?;
        let flags = flags(row);
        let expected = (row.segment, self.number, row.volume, flags);
        let found = (header.segment, header.container, header.volume, header.flags);
        if found == expected {
            Ok(header)
        } else {
            Err(format!("segment, container, volume, flags {found:?}, expected {expected:?}"))
        }
    }
    fn footer(&self, row: &ContainerRow, opening: Option<u64>) -> Result<SegmentFooter, String> {
        let last = self.units().saturating_sub(1);
        let bytes = self.read(last, 1)?;
        let position = self.position(last);
        let footer = SegmentFooter::decode(&bytes, &self.superblock.seed, position).map_err(|e| e.to_string())?;
        let expected = (row.segment, row.last_part, opening.unwrap_or(footer.opening));
        let found = (footer.segment, footer.last_part, footer.opening);
        if found == expected {
            Ok(footer)
        } else {
            Err(format!("segment, last part, opening {found:?}, expected {expected:?}"))
        }
    }
    /// The table, from its last part back to the first.
    fn chain(&self, row: &ContainerRow, opening: Option<u64>) -> Chain {
        let mut out = Chain::default();
        let mut unit = row.last_part;
        while unit != 0 {
            let part = self.part(unit).and_then(|part| {
                let expected = (row.segment, opening.unwrap_or(part.opening));
                if (part.segment, part.opening) == expected {
                    Ok(part)
                } else {
                    Err(format!("segment, opening {:?}, expected {expected:?}", (part.segment, part.opening)))
                }
            });
            match part {
                Ok(part) => {
                    out.objects = out.objects.saturating_add(u32::try_from(part.rows.len()).unwrap_or(u32::MAX));
                    out.digest = part.rows.iter().map(TableRow::digest).fold(out.digest, u64::wrapping_add);
                    // Parts chain backwards; anything else would not end.
                    unit = if part.previous < unit { part.previous } else { 0 };
                }
                Err(why) => {
                    out.broken = Some((unit, why));
                    return out;
                }
            }
        }
        out
    }
    /// The header that must be there, written. Which opening it was, the footer tells, or the table.
    fn new_header(&self, row: &ContainerRow) -> Done<SegmentHeader> {
        let of_footer = self.footer(row, None).ok().filter(|_| row.state == ContainerState::Sealed);
        let of_table = || if row.last_part == 0 { None } else { self.part(row.last_part).ok() };
        let opening = of_footer.map(|footer| footer.opening).or_else(|| of_table().map(|part| part.opening));
        let header = SegmentHeader {
            seed: self.superblock.seed,
            volume: row.volume,
            segment: row.segment,
            container: self.number,
            stream: row.stream,
            flags: flags(row),
            birth_low: Hlc::ZERO,
            // As of a container that is opened now: newer than all there were.
            opening: opening.unwrap_or_else(|| self.superblock.sequence.saturating_add(1) << 20),
        };
        self.write(0, &header.encode(self.position(0)))?;
        Ok(header)
    }
    /// Writes one unit. What else is in its block of the device stays; if it cannot be read, there is nothing: header and footer have 4096 bytes for themselves.
    fn write(&self, unit: u32, bytes: &[u8]) -> Done<()> {
        let device = self.disk.device();
        let block = u64::from(device.geometry().logical_block_bytes.max(UNIT));
        let position = self.position(unit);
        let start = position / block * block;
        let mut buffer = AlignedBuf::zeroed(usize::try_from(block)?);
        if block > u64::from(UNIT) && device.read(start, &mut buffer).is_err() {
            buffer.as_mut_slice().fill(0);
        }
        let inside = usize::try_from(position - start)?;
        if let Some(target) = buffer.as_mut_slice().get_mut(inside..inside.saturating_add(bytes.len())) {
            target.copy_from_slice(bytes);
        }
        device.submit(Write::whole(start, buffer)).wait()?;
        Ok(())
    }
    fn part(&self, unit: u32) -> Result<TablePart, String> {
        let head = self.read(unit, 1)?;
        let length = TablePart::units_of(&head).map_err(|error| error.to_string())?;
        let bytes = self.read(unit, u32::try_from(length).unwrap_or(u32::MAX))?;
        TablePart::decode(&bytes).map_err(|error| error.to_string())
    }
}

/// Of a header.
const fn flags(row: &ContainerRow) -> u8 {
    match row.state {
        ContainerState::Survivors => 1,
        ContainerState::System => 2,
        _ => 0,
    }
}

/// Writes headers and footers that are damaged again, in place. Nothing is found by them, so whatever a power cut makes of such a write, the store is what it was.
///
/// # Errors
/// Whatever the device says.
pub fn mend(disk: &Disk, superblock: &Superblock, directory: &VolumeDirectory) -> Done<()> {
    for (number, row) in (0_u32..).zip(&directory.table) {
        if row.state == ContainerState::Free {
            continue;
        }
        let container = Container { disk, superblock, number };
        let header = match container.header(row) {
            Ok(header) => header,
            Err(_) => container.new_header(row)?,
        };
        let found = container.footer(row, Some(header.opening));
        // A container of survivors that is still filled has no footer.
        let filled = match row.state {
            ContainerState::Sealed => false,
            ContainerState::Survivors => found.is_err(),
            _ => true,
        };
        let chain = container.chain(row, Some(header.opening));
        let same = |footer: &SegmentFooter| {
            chain.broken.is_some() || (footer.objects, footer.digest) == (chain.objects, chain.digest)
        };
        if filled || found.as_ref().is_ok_and(same) {
            continue;
        }
        let footer = SegmentFooter {
            segment: row.segment,
            last_part: row.last_part,
            objects: chain.objects,
            used_units: row.used_units,
            digest: chain.digest,
            birth_low: row.birth_low,
            birth_high: row.birth_high,
            opening: header.opening,
        };
        let last = container.units().saturating_sub(1);
        container.write(last, &footer.encode(&superblock.seed, container.position(last)))?;
    }
    disk.device().flush()?;
    Ok(())
}

/// Looks at every container that holds something.
pub fn check(disk: &Disk, superblock: &Superblock, directory: &VolumeDirectory, report: &mut Report) {
    let mut ahead = (0_u32..).zip(&directory.table);
    ahead.by_ref().take(AHEAD).for_each(|(number, row)| Container { disk, superblock, number }.expect(row));
    for (number, row) in (0_u32..).zip(&directory.table) {
        if let Some((number, row)) = ahead.next() {
            Container { disk, superblock, number }.expect(row);
        }
        if super::interrupt::requested() {
            return;
        }
        if row.state != ContainerState::Free {
            one(&Container { disk, superblock, number }, row, report);
        }
    }
}

/// It was taken when the checkpoint looked, and nothing had been written to it yet, not even its header.
const fn is_begun(row: &ContainerRow) -> bool {
    let filled = matches!(row.state, ContainerState::Open | ContainerState::Survivors);
    filled && row.used_units == 0 && row.live_units == 0 && row.last_part == 0
}

fn one(container: &Container<'_>, row: &ContainerRow, report: &mut Report) {
    let place = format!("container {}", container.number);
    let opening = match container.header(row) {
        Ok(header) => Some(header.opening),
        Err(_) if is_begun(row) => return,
        Err(why) => {
            report.add(findings::CONTAINER_HEADER, &place, why);
            None
        }
    };
    if row.state == ContainerState::System {
        return;
    }
    let mut footer = None;
    if row.state != ContainerState::Open {
        match container.footer(row, opening) {
            Ok(found) => footer = Some(found),
            // A container of survivors that is still filled has none.
            Err(_) if row.state == ContainerState::Survivors => {}
            Err(why) => report.add(findings::CONTAINER_FOOTER, &place, why),
        }
    }
    let chain = container.chain(row, opening);
    if let Some((unit, why)) = chain.broken {
        report.add(findings::TABLE_PART, format_args!("{place}, unit {unit}"), why);
        return;
    }
    let Chain { objects, digest, .. } = chain;
    if let Some(footer) = footer.filter(|footer| (footer.objects, footer.digest) != (objects, digest)) {
        let SegmentFooter { objects: said, digest: sum, .. } = footer;
        let detail = format!("it says {said} objects, digest {sum:#x}; in the parts are {objects}, {digest:#x}");
        report.add(findings::CONTAINER_FOOTER, &place, detail);
    }
}
