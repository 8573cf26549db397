//! The volume directory of a publication: its page, and when so much changed that it is worth it, the whole segment table.
//!
//! ```text
//! page N   -> slot N mod 2, both areas: what differs from a whole table that lies in one of the two slots
//! table    -> the slot that the page before does not name, both areas; when much changed, when it is old, when a copy of the one before is damaged
//! ```
//! Neither the page nor the table of the open superblock is ever written (INV-20), so a power cut before the next superblock leaves the version before whole. A table that was
//! written for a publication that did not come about is named by nobody.

use super::{OpenError, buffer, read};
use crate::device::{AlignedBuf, Device, DeviceError, Operation, Write};
use crate::sabotage::{self, Rule};
use envoyfs_layout::LayoutError;
use envoyfs_layout::directory_page::{
    ContainerRow, DirectoryPage, SegmentTable, TableBase, VolumeDirectory, VolumeEntry,
};
use envoyfs_layout::superblock::Superblock;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Bytes of a request.
const REQUEST_BYTES: usize = 1 << 20;

/// Publications after which a whole table is written again, whatever changed: a copy that went bad unseen is not the only one for longer.
const TABLE_AGE_MAX: u64 = 64;

/// The segment table of the version that rules, and how it lies on the device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishedTable {
    rows: Vec<ContainerRow>,
    /// The whole table; none if nothing was published, or a copy of it is damaged.
    base: Option<TableBase>,
    /// Slot that a whole table in use lies in.
    slot: Option<u8>,
    /// Containers whose rows the page has.
    changed: BTreeSet<u32>,
}

impl PublishedTable {
    /// One row a container; those behind the last row are free.
    #[must_use]
    pub fn rows(&self) -> &[ContainerRow] {
        &self.rows
    }

    /// The next publication writes a whole table.
    pub fn renew(&mut self) {
        self.base = None;
    }

    /// The table becomes `rows`: the whole one that a page for this sequence can go on amending. None if one has to be written.
    fn advance(&mut self, rows: &[ContainerRow], containers: u32, sequence: u64) -> Option<TableBase> {
        let used = rows.iter().rposition(|row| *row != ContainerRow::FREE).map_or(0, |last| last + 1);
        let rows = rows.get(..used).unwrap_or(rows);
        let free = std::iter::repeat(&ContainerRow::FREE);
        let length = used.max(self.rows.len());
        let pairs = self.rows.iter().chain(free.clone()).zip(rows.iter().chain(free)).take(length);
        self.changed.extend((0_u32..).zip(pairs).filter(|(_, (old, new))| old != new).map(|(container, _)| container));
        self.rows.clear();
        self.rows.extend_from_slice(rows);
        let fits = self.changed.len() <= DirectoryPage::changed_max(containers) as usize;
        let worth = 2 * self.changed.len() <= used;
        let young = |base: &TableBase| sequence.saturating_sub(base.sequence) <= TABLE_AGE_MAX;
        self.base.filter(|base| fits && worth && young(base))
    }
}

/// The volume directory that a superblock names: from area A, else from B.
///
/// # Errors
/// Both copies are damaged.
pub fn read_directory(device: &dyn Device, superblock: &Superblock) -> Result<VolumeDirectory, OpenError> {
    let (entry, table) = read_published(device, superblock)?;
    let mut table = table.rows;
    table.resize(superblock.containers as usize, ContainerRow::FREE);
    Ok(VolumeDirectory { sequence: superblock.sequence, entry, table })
}

/// As [`read_directory`], with what the next [`write_directory`] needs.
///
/// # Errors
/// Both copies are damaged.
pub fn read_published(
    device: &dyn Device,
    superblock: &Superblock,
) -> Result<(VolumeEntry, PublishedTable), OpenError> {
    let page_bytes = superblock.directory_bytes.into();
    let (page, _) = first_good(device, superblock.slot_positions(), page_bytes, "volume directory", |bytes| {
        DirectoryPage::decode(bytes, &superblock.seed, superblock.directory_crc)
    })?;
    let (base, slot) = (page.base, Some(page.base.slot));
    if base.rows > superblock.containers {
        let source = LayoutError::Field { structure: "volume directory", field: "rows", found: base.rows.into() };
        let at = superblock.slot_positions();
        return Err(OpenError::Directory { device: device.label(), at, source });
    }
    let changed = page.changed.iter().map(|(container, _)| *container).collect();
    let at = superblock.table_positions(base.slot);
    let (rows, undamaged) = first_good(device, at, base.bytes(), "segment table", |bytes| {
        page.rows(bytes, &superblock.seed, superblock.containers)
    })?;
    let base = Some(base).filter(|_| undamaged);
    Ok((page.entry, PublishedTable { rows, base, slot, changed }))
}

/// Copies of the superblock, of the volume directory that it names, and of the segment table that do not verify, in words; and what the directory says. For a store that is open and at
/// rest: between two publications all of them are whole. Reads all copies; writes nothing.
pub fn damaged_copies(device: &dyn Device) -> (Vec<String>, Option<VolumeEntry>) {
    let opened = match super::open(device) {
        Ok(opened) => opened,
        Err(error) => return (vec![error.to_string()], None),
    };
    let superblock = &opened.superblock;
    let positions = Superblock::positions(superblock.size);
    let damaged = positions.iter().zip(&opened.copies).filter(|(_, copy)| copy.is_none());
    let mut wrong: Vec<String> = damaged.map(|(at, _)| format!("superblock at {at}: it does not verify")).collect();
    let page_bytes = superblock.directory_bytes.into();
    let decode = |bytes: &[u8]| DirectoryPage::decode(bytes, &superblock.seed, superblock.directory_crc);
    let page = both(device, superblock.slot_positions(), page_bytes, "volume directory", decode, &mut wrong);
    let Some(page) = page else { return (wrong, None) };
    let rows = |bytes: &[u8]| page.rows(bytes, &superblock.seed, superblock.containers);
    let at = superblock.table_positions(page.base.slot);
    both(device, at, page.base.bytes(), "segment table", rows, &mut wrong);
    (wrong, Some(page.entry))
}

/// One of two copies, and what is wrong with either.
fn both<T>(
    device: &dyn Device,
    at: [u64; 2],
    bytes: u64,
    structure: &'static str,
    decode: impl Fn(&[u8]) -> Result<T, LayoutError>,
    wrong: &mut Vec<String>,
) -> Option<T> {
    let length = usize::try_from(bytes).unwrap_or(usize::MAX);
    let mut good = None;
    for position in at.into_iter().filter(|_| length > 0) {
        match read(device, position, length) {
            Ok(Some(buf)) => match decode(buf.as_slice()) {
                Ok(decoded) => good = Some(decoded),
                Err(error) => wrong.push(format!("{structure} at {position}: {error}")),
            },
            Ok(None) => wrong.push(format!("{structure} at {position}: it cannot be read")),
            Err(error) => wrong.push(format!("{structure} at {position}: {error}")),
        }
    }
    good
}

/// What the first of two copies says that is not damaged, and whether it is the first.
fn first_good<T>(
    device: &dyn Device,
    at: [u64; 2],
    bytes: u64,
    structure: &'static str,
    decode: impl Fn(&[u8]) -> Result<T, LayoutError>,
) -> Result<(T, bool), OpenError> {
    let length = usize::try_from(bytes).unwrap_or(usize::MAX);
    let mut source = LayoutError::Short { structure, expected: length, found: 0 };
    for (position, first) in at.into_iter().zip([true, false]) {
        let held = if length == 0 { Some(AlignedBuf::zeroed(0)) } else { read(device, position, length)? };
        match held.map(|buf| decode(buf.as_slice())) {
            Some(Ok(decoded)) => return Ok((decoded, first)),
            Some(Err(error)) => source = error,
            None => {}
        }
    }
    Err(OpenError::Directory { device: device.label(), at, source })
}

/// Writes `directory` as the one that `next` will name: sets its sequence, and checksum and length in `next`; both areas; waits for the writes, does *not*
/// flush: the caller's barrier covers them, and must before [`super::publish`]. `next` comes from [`Superblock::next`], so its slot is not the one in use. `table` is that of the
/// version that rules, and becomes this one's: if this fails, or the publication after it, the store must not be written any more.
///
/// # Errors
/// The directory does not fit its slot, or whatever the device says.
pub fn write_directory(
    device: &dyn Device,
    next: &mut Superblock,
    directory: &mut VolumeDirectory,
    table: &mut PublishedTable,
) -> Result<(), DeviceError> {
    if sabotage::on(Rule::DirectorySlotInUse) {
        next.system_slot = 0;
    }
    directory.sequence = next.sequence;
    let mut tickets = Vec::new();
    let base = match table.advance(&directory.table, next.containers, next.sequence) {
        Some(base) => base,
        None => {
            let mut slot = table.slot.map_or(next.system_slot, |used| 1 - used);
            if sabotage::on(Rule::TableSlotInUse) {
                slot = 0;
            }
            let whole = SegmentTable::encode(&directory.table, &next.seed, slot, next.sequence);
            let at = next.table_positions(slot);
            let room = next.area_slot_bytes.saturating_sub(DirectoryPage::bytes_max(next.containers));
            tickets.extend(write(device, &whole.bytes, at, room)?);
            (table.base, table.slot) = (Some(whole.base), Some(slot));
            table.changed.clear();
            whole.base
        }
    };
    let row = |container: &u32| {
        let row = usize::try_from(*container).ok().and_then(|index| directory.table.get(index));
        (*container, row.copied().unwrap_or(ContainerRow::FREE))
    };
    let page = DirectoryPage {
        sequence: directory.sequence,
        entry: directory.entry.clone(),
        containers: next.containers,
        base,
        changed: table.changed.iter().map(row).collect(),
    };
    let (bytes, crc) = page.encode(&next.seed);
    next.directory_crc = crc;
    next.directory_bytes = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    tickets.extend(write(device, &bytes, next.slot_positions(), DirectoryPage::bytes_max(next.containers))?);
    tickets.iter().try_for_each(|ticket| ticket.wait())
}

/// Starts writing to both areas.
fn write(
    device: &dyn Device,
    bytes: &[u8],
    areas: [u64; 2],
    room: u64,
) -> Result<Vec<crate::device::Ticket>, DeviceError> {
    let (length, [offset, _]) = (bytes.len() as u64, areas);
    if length > room {
        return Err(DeviceError::ShortDevice { operation: Operation::Write, offset, length, size: room });
    }
    let mut tickets = Vec::new();
    for (index, piece) in bytes.chunks(REQUEST_BYTES).enumerate() {
        let mut buf = buffer(piece.len());
        let (filled, _) = buf.as_mut_slice().split_at_mut(piece.len());
        filled.copy_from_slice(piece);
        let buf = Arc::new(buf);
        let at = (index * REQUEST_BYTES) as u64;
        for area in areas {
            tickets.push(device.submit(Write::whole(area.saturating_add(at), Arc::clone(&buf))));
        }
    }
    Ok(tickets)
}

#[cfg(test)]
mod tests;
