//! The log of the published checkpoint, to its cut: what a mount would replay, and whether anything durable is damaged.

use super::disk::Disk;
use super::findings;
use super::report::Report;
use super::space::{ReadError, Space};
use envoyfs_engine::StoreError;
use envoyfs_engine::device::DeviceError;
use envoyfs_engine::store::DataObject;
use envoyfs_engine::wal::RingGeometry;
use envoyfs_engine::wal::recovery::{Found, FoundRecord, Judge, Verdict, scan};
use envoyfs_layout::directory_page::VolumeDirectory;
use envoyfs_layout::operation::Operation;
use envoyfs_layout::superblock::Superblock;
use envoyfs_layout::wal::{Relocated, SegmentPlaced, kind};
use envoyfs_layout::{LayoutError, UNIT, checksum};
use std::collections::HashMap;

/// Verifies the data that records name, as recovery does.
struct Verifier<'a> {
    disk: &'a Disk,
    space: &'a Space,
    placed: HashMap<u32, u32>,
    /// By segment and slot: what was written elsewhere after its write had failed.
    relocated: HashMap<(u32, u32), Relocated>,
}

impl Judge for Verifier<'_> {
    fn placed(&mut self, placed: SegmentPlaced) {
        self.placed.insert(placed.number, placed.container);
    }
    fn relocated(&mut self, relocated: Relocated) {
        self.relocated.insert((relocated.number, relocated.slot), relocated);
    }
    fn record(&mut self, _record: &FoundRecord) {}
    fn verify(&mut self, object: &DataObject) -> Verdict {
        let (segment, slot) = (object.oid.segment(), u32::from(object.oid.slot()));
        if !self.space.has_room(object.oid, object.stored_bytes) {
            return Verdict::Wrong;
        }
        let mut bytes = vec![0; object.stored_bytes as usize];
        let elsewhere = self.relocated.get(&(segment, slot)).map(|place| (place.container, place.offset_units));
        let read = match elsewhere.or_else(|| self.placed.get(&segment).map(|container| (*container, slot))) {
            Some((container, unit)) => match self.space.position(container, unit) {
                Some(position) => self.disk.read_at(position, &mut bytes).map_err(ReadError::Device),
                None => return Verdict::Wrong,
            },
            None => self.space.read(self.disk, object.oid, 0, &mut bytes).map(drop),
        };
        match read {
            Ok(()) => Verdict::of(object.stored_bytes.is_multiple_of(UNIT) && checksum::blocks(&bytes) == object.crcs),
            Err(ReadError::Device(DeviceError::Io { .. })) => Verdict::Unreadable,
            Err(_) => Verdict::Wrong,
        }
    }
}

/// Scans the log. `None`: it cannot be read at all.
pub fn check(
    disk: &Disk,
    superblock: &Superblock,
    directory: &VolumeDirectory,
    space: &Space,
    report: &mut Report,
) -> Option<Found> {
    let entry = &directory.entry;
    let ring = RingGeometry::of(superblock, entry);
    let mut judge = Verifier { disk, space, placed: HashMap::new(), relocated: HashMap::new() };
    let found = match scan(disk.device(), &ring, entry, &mut judge) {
        Ok(found) => found,
        Err(error) => {
            report.add(if is_newer(&error) { findings::FEATURES } else { findings::LOG_CORRUPT }, "log", error);
            return None;
        }
    };
    if super::roots::is_of_files(entry)
        && let Some(error) = found.records.iter().find_map(not_known)
    {
        report.add(findings::FEATURES, "log", error);
    }
    if let Some(corrupt) = &found.corrupt {
        report.add(findings::LOG_CORRUPT, "log", corrupt);
    }
    if let Some(adopted) = &found.adopted {
        report.add(findings::LOG_UNPUBLISHED, "log", format_args!("checkpoint {}", adopted.body.number));
    }
    let records = client_records(&found);
    if records > 0 {
        let bytes = found.cut.lsn.0.saturating_sub(entry.checkpoint.freeze.0);
        report.add(findings::LOG_DIRTY, "log", format_args!("{records} records, {bytes} bytes"));
    }
    Some(found)
}

/// The log is whole, and has records of kinds that this version does not know.
const fn is_newer(error: &StoreError) -> bool {
    matches!(error, StoreError::Refused(_) | StoreError::Structure { source: LayoutError::Unknown { .. }, .. })
}

/// The same of an operation of the tree.
fn not_known(record: &FoundRecord) -> Option<LayoutError> {
    let is_client = record.kind >= kind::CLIENT_FIRST;
    let error = Operation::decode(record.kind, &record.body).err().filter(|_| is_client)?;
    matches!(error, LayoutError::Unknown { .. }).then_some(error)
}

/// Verifies the data that records name: it is part of no tree yet, and a mount replays them all the same where they were acknowledged.
pub fn verify_data(disk: &Disk, space: &Space, found: &Found, report: &mut Report) {
    let mut judge = Verifier { disk, space, placed: HashMap::new(), relocated: HashMap::new() };
    found.placed.iter().for_each(|placed| judge.placed(*placed));
    found.relocated.iter().for_each(|relocated| judge.relocated(*relocated));
    for object in found.records.iter().flat_map(|record| &record.data) {
        if judge.verify(object) != Verdict::Right {
            let detail = format!("{} bytes", object.stored_bytes);
            report.add(findings::LOG_DATA, format_args!("object {}", object.oid), detail);
        }
    }
}

/// Records that a mount would replay.
pub fn client_records(found: &Found) -> usize {
    found.records.iter().filter(|record| record.kind >= kind::CLIENT_FIRST).count()
}
