//! What containers say of themselves: header, footer, table parts. Nothing is found by them while the indexes are there; the cleaner verifies by them, and a rebuild has
//! nothing else. So damage is told, and is no error: what lives there is whole, and the container is written anew when it is used again.

use super::disk::Disk;
use super::findings;
use super::report::Report;
use envoyfs_layout::UNIT;
use envoyfs_layout::directory_page::{ContainerRow, ContainerState, VolumeDirectory};
use envoyfs_layout::segment::{SegmentFooter, SegmentHeader, TablePart, TableRow};
use envoyfs_layout::superblock::Superblock;

const UNIT_LEN: usize = UNIT as usize;

struct Container<'a> {
    disk: &'a Disk,
    superblock: &'a Superblock,
    number: u32,
}

impl Container<'_> {
    fn position(&self, unit: u32) -> u64 {
        let sb = self.superblock;
        sb.segments_offset + u64::from(self.number) * u64::from(sb.segment_bytes) + u64::from(unit) * u64::from(UNIT)
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
        let flags = match row.state {
            ContainerState::Survivors => 1,
            ContainerState::System => 2,
            _ => 0,
        };
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
    fn part(&self, unit: u32) -> Result<TablePart, String> {
        let head = self.read(unit, 1)?;
        let length = TablePart::units_of(&head).map_err(|error| error.to_string())?;
        let bytes = self.read(unit, u32::try_from(length).unwrap_or(u32::MAX))?;
        TablePart::decode(&bytes).map_err(|error| error.to_string())
    }
}

/// Looks at every container that holds something.
pub fn check(disk: &Disk, superblock: &Superblock, directory: &VolumeDirectory, report: &mut Report) {
    for (number, row) in (0_u32..).zip(&directory.table) {
        if super::interrupt::requested() {
            return;
        }
        if row.state != ContainerState::Free {
            one(&Container { disk, superblock, number }, row, report);
        }
    }
}

fn one(container: &Container<'_>, row: &ContainerRow, report: &mut Report) {
    let place = format!("container {}", container.number);
    let opening = match container.header(row) {
        Ok(header) => Some(header.opening),
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
    let (mut objects, mut digest, mut unit) = (0_u32, 0_u64, row.last_part);
    while unit != 0 {
        let part = container.part(unit).and_then(|part| {
            let expected = (row.segment, opening.unwrap_or(part.opening));
            if (part.segment, part.opening) == expected {
                Ok(part)
            } else {
                Err(format!("segment, opening {:?}, expected {expected:?}", (part.segment, part.opening)))
            }
        });
        match part {
            Ok(part) => {
                objects = objects.saturating_add(u32::try_from(part.rows.len()).unwrap_or(u32::MAX));
                digest = part.rows.iter().map(TableRow::digest).fold(digest, u64::wrapping_add);
                // Parts chain backwards; anything else would not end.
                unit = if part.previous < unit { part.previous } else { 0 };
            }
            Err(why) => {
                report.add(findings::TABLE_PART, format_args!("{place}, unit {unit}"), why);
                return;
            }
        }
    }
    if let Some(footer) = footer.filter(|footer| (footer.objects, footer.digest) != (objects, digest)) {
        let SegmentFooter { objects: said, digest: sum, .. } = footer;
        let detail = format!("it says {said} objects, digest {sum:#x}; in the parts are {objects}, {digest:#x}");
        report.add(findings::CONTAINER_FOOTER, &place, detail);
    }
}
