//! Fills free containers with objects and system pages, without a log: nothing of it counts before [`super::publish_directory`].

use crate::StoreError;
use crate::device::{AlignedBuf, Device, Write};
use crate::space::HEADER_UNITS;
use envoyfs_layout::checksum::crc32c;
use envoyfs_layout::directory_page::{ContainerRow, ContainerState, Place};
use envoyfs_layout::segment::{SegmentFooter, SegmentHeader, TablePart, TableRow};
use envoyfs_layout::superblock::Superblock;
use envoyfs_layout::{Encoding, Hlc, Oid, Reference, ReferenceKind, UNIT};
use std::collections::BTreeSet;

const UNIT_LEN: usize = UNIT as usize;
/// Buffered bytes that are worth a write.
const CHUNK: usize = 256 << 10;
/// Units at the end of a container that are kept for the footer.
const FOOTER_UNITS: u32 = 8;

/// A container that was filled.
#[derive(Clone, Copy, Debug)]
pub struct Filled {
    /// Which.
    pub container: u32,
    /// Its row, without liveness and page.
    pub row: ContainerRow,
}

struct Open {
    container: u32,
    /// 0: system pages.
    segment: u32,
    opening: u64,
    /// First unit of `buffer`, a multiple of 8.
    start: u32,
    buffer: Vec<u8>,
    rows: Vec<TableRow>,
}

impl Open {
    fn next(&self) -> u32 {
        self.start + u32::try_from(self.buffer.len() / UNIT_LEN).unwrap_or(u32::MAX)
    }
    fn fits(&self, units: u32, container_units: u32) -> bool {
        let part = u32::try_from(TablePart::units_max(self.rows.len() + 1)).unwrap_or(u32::MAX);
        let end = self.next().saturating_add(units).next_multiple_of(8).saturating_add(part).next_multiple_of(8);
        end.saturating_add(FOOTER_UNITS) <= container_units
    }
}

/// See the module.
pub struct OfflineWriter<'a> {
    device: &'a dyn Device,
    superblock: &'a Superblock,
    volume: u16,
    free: BTreeSet<u32>,
    next_segment: u32,
    opening: u64,
    objects: Option<Open>,
    pages: Option<Open>,
    filled: Vec<Filled>,
    homes: Vec<(u32, u32)>,
}

impl<'a> OfflineWriter<'a> {
    /// Writes to the containers `free`, which nothing may need: neither the published table nor the log. Segment numbers start at `next_segment`.
    #[must_use]
    pub fn new(
        device: &'a dyn Device,
        superblock: &'a Superblock,
        volume: u16,
        free: BTreeSet<u32>,
        next_segment: u32,
    ) -> Self {
        // As at a mount: openings rise with the publication.
        let opening = superblock.sequence.saturating_add(1) << 20;
        Self {
            device,
            superblock,
            volume,
            free,
            next_segment: next_segment.max(1),
            opening,
            objects: None,
            pages: None,
            filled: Vec::new(),
            homes: Vec::new(),
        }
    }

    fn offset(&self, container: u32, unit: u32) -> u64 {
        let sb = self.superblock;
        sb.segments_offset + u64::from(container) * u64::from(sb.segment_bytes) + u64::from(unit) * u64::from(UNIT)
    }

    fn open(&mut self, system: bool) -> Result<Open, StoreError> {
        let needed = u64::from(self.superblock.segment_bytes);
        let container = self.free.pop_first().ok_or(StoreError::NoSpace { available: 0, needed })?;
        let segment = if system { 0 } else { self.next_segment };
        self.opening += 1;
        let header = SegmentHeader {
            seed: self.superblock.seed,
            volume: self.volume,
            segment,
            container,
            stream: 0,
            flags: if system { 2 } else { 0 },
            birth_low: Hlc::ZERO,
            opening: self.opening,
        };
        let mut buffer = header.encode(self.offset(container, 0)).to_vec();
        buffer.resize(HEADER_UNITS as usize * UNIT_LEN, 0);
        if !system {
            self.next_segment = self.next_segment.saturating_add(1);
            self.homes.push((segment, container));
        }
        Ok(Open { container, segment, opening: self.opening, start: 0, buffer, rows: Vec::new() })
    }

    /// Puts bytes into the stream of objects, or of pages. Returns {segment, container, unit}.
    fn put(&mut self, system: bool, bytes: &[u8]) -> Result<(u32, u32, u32), StoreError> {
        let units = u32::try_from(bytes.len() / UNIT_LEN).unwrap_or(u32::MAX);
        let container_units = self.superblock.segment_bytes / UNIT;
        let slot = if system { &mut self.pages } else { &mut self.objects };
        if let Some(open) = slot.take_if(|open| !open.fits(units, container_units)) {
            self.seal(open)?;
        }
        let slot = if system { &mut self.pages } else { &mut self.objects };
        let mut open = match slot.take() {
            Some(open) => open,
            None => self.open(system)?,
        };
        if !open.fits(units, container_units) {
            let limit = u64::from(self.superblock.segment_bytes);
            return Err(StoreError::TooLarge { what: "object", bytes: bytes.len() as u64, limit });
        }
        let at = (open.segment, open.container, open.next());
        open.buffer.extend_from_slice(bytes);
        if open.buffer.len() >= CHUNK {
            let whole = open.buffer.len() / 4096 * 4096;
            self.write(&mut open, whole)?;
        }
        *(if system { &mut self.pages } else { &mut self.objects }) = Some(open);
        Ok(at)
    }

    fn write(&self, open: &mut Open, bytes: usize) -> Result<(), StoreError> {
        let Some(head) = open.buffer.get(..bytes).filter(|head| !head.is_empty()) else { return Ok(()) };
        let mut buffer = AlignedBuf::zeroed(bytes);
        buffer.as_mut_slice().copy_from_slice(head);
        self.device.submit(Write::whole(self.offset(open.container, open.start), buffer)).wait()?;
        open.start += u32::try_from(bytes / UNIT_LEN).unwrap_or(u32::MAX);
        open.buffer.drain(..bytes);
        Ok(())
    }

    /// Appends an object; `bytes` are a multiple of a unit. Readable after [`OfflineWriter::settle`].
    ///
    /// # Errors
    /// No free container is left, or whatever the device says.
    pub fn append(
        &mut self,
        kind: ReferenceKind,
        flags: u8,
        birth: Hlc,
        owner: u64,
        bytes: &[u8],
    ) -> Result<Reference, StoreError> {
        let (segment, _, unit) = self.put(false, bytes)?;
        let stored_bytes = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let crc = crc32c(bytes);
        let oid = Oid::new(self.volume, segment, u16::try_from(unit).unwrap_or(u16::MAX));
        if let Some(open) = &mut self.objects {
            open.rows.push(TableRow { oid, birth, stored_bytes, crc, offset_units: unit, kind, owner });
        }
        Ok(Reference {
            oid,
            birth,
            stored_bytes,
            logical_bytes: stored_bytes,
            crc,
            kind,
            flags,
            encoding: Encoding::Plain,
        })
    }

    /// Writes a system page.
    ///
    /// # Errors
    /// As [`OfflineWriter::append`].
    pub fn page(&mut self, bytes: &[u8]) -> Result<Place, StoreError> {
        let (_, container, units) = self.put(true, bytes)?;
        let stored_bytes = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        Ok(Place { container, units, stored_bytes, crc: crc32c(bytes) })
    }

    /// Everything appended is on its way to the device and can be read.
    ///
    /// # Errors
    /// Whatever the device says.
    pub fn settle(&mut self) -> Result<(), StoreError> {
        for system in [false, true] {
            let slot = if system { &mut self.pages } else { &mut self.objects };
            let Some(mut open) = slot.take() else { continue };
            open.buffer.resize(open.buffer.len().next_multiple_of(4096), 0);
            let all = open.buffer.len();
            self.write(&mut open, all)?;
            *(if system { &mut self.pages } else { &mut self.objects }) = Some(open);
        }
        Ok(())
    }

    fn seal(&mut self, mut open: Open) -> Result<(), StoreError> {
        open.buffer.resize(open.buffer.len().next_multiple_of(4096), 0);
        let rows = std::mem::take(&mut open.rows);
        let births = || rows.iter().map(|row| row.birth);
        let (birth_low, birth_high) = (births().min().unwrap_or(Hlc::ZERO), births().max().unwrap_or(Hlc::ZERO));
        let digest = rows.iter().fold(0_u64, |sum, row| sum.wrapping_add(row.digest()));
        let objects = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        let mut last_part = 0;
        if objects > 0 {
            last_part = open.next();
            let part = TablePart { segment: open.segment, previous: 0, opening: open.opening, rows };
            open.buffer.extend_from_slice(&part.encode());
            open.buffer.resize(open.buffer.len().next_multiple_of(4096), 0);
        }
        let all = open.buffer.len();
        self.write(&mut open, all)?;
        let units = self.superblock.segment_bytes / UNIT;
        let footer = SegmentFooter {
            segment: open.segment,
            last_part,
            objects,
            used_units: open.start,
            digest,
            birth_low,
            birth_high,
            opening: open.opening,
        };
        let position = self.offset(open.container, units - 1);
        let mut buffer = AlignedBuf::zeroed(4096);
        if let Some(target) = buffer.as_mut_slice().last_chunk_mut() {
            *target = footer.encode(&self.superblock.seed, position);
        }
        let offset = self.offset(open.container, units - FOOTER_UNITS);
        self.device.submit(Write::whole(offset, buffer)).wait()?;
        let state = if open.segment == 0 { ContainerState::System } else { ContainerState::Sealed };
        let row = ContainerRow {
            state,
            volume: self.volume,
            segment: open.segment,
            used_units: open.start,
            last_part,
            birth_low,
            birth_high,
            ..ContainerRow::FREE
        };
        self.filled.push(Filled { container: open.container, row });
        Ok(())
    }

    /// Segments begun so far, each with its container.
    #[must_use]
    pub fn homes(&self) -> &[(u32, u32)] {
        &self.homes
    }

    /// The next segment number.
    #[must_use]
    pub const fn next_segment(&self) -> u32 {
        self.next_segment
    }

    /// Ends what is open. Returns every container that was filled. The caller flushes, or lets [`super::publish_directory`] do it.
    ///
    /// # Errors
    /// Whatever the device says.
    pub fn finish(mut self) -> Result<Vec<Filled>, StoreError> {
        for open in [self.objects.take(), self.pages.take()].into_iter().flatten() {
            self.seal(open)?;
        }
        Ok(self.filled)
    }
}
