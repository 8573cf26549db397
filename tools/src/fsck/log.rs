//! The log of the published checkpoint, to its cut: what a mount would replay, and whether anything durable is damaged.

use super::findings;
use super::report::Report;
use super::source::Source;
use super::space::Space;
use envoyfs_engine::store::DataObject;
use envoyfs_engine::wal::RingGeometry;
use envoyfs_engine::wal::recovery::{FoundRecord, Judge, scan};
use envoyfs_layout::directory_page::VolumeDirectory;
use envoyfs_layout::superblock::Superblock;
use envoyfs_layout::wal::{SegmentPlaced, kind};
use envoyfs_layout::{UNIT, checksum};
use std::collections::HashMap;

/// Verifies the data that records name, as recovery does.
struct Verifier<'a> {
    source: &'a Source,
    space: &'a Space,
    placed: HashMap<u32, u32>,
}

impl Judge for Verifier<'_> {
    fn placed(&mut self, placed: SegmentPlaced) {
        self.placed.insert(placed.number, placed.container);
    }
    fn record(&mut self, _record: &FoundRecord) {}
    fn verify(&mut self, object: &DataObject) -> bool {
        let mut bytes = vec![0; object.stored_bytes as usize];
        let read = match self.placed.get(&object.oid.segment()) {
            Some(container) => self
                .space
                .position(*container, object.oid.slot().into())
                .is_some_and(|position| self.source.read_at(position, &mut bytes).is_ok()),
            None => self.space.read(self.source, object.oid, 0, &mut bytes).is_ok(),
        };
        read && object.stored_bytes.is_multiple_of(UNIT) && checksum::blocks(&bytes) == object.crcs
    }
}

/// Scans the log.
pub fn check(
    source: &Source,
    superblock: &Superblock,
    directory: &VolumeDirectory,
    space: &Space,
    report: &mut Report,
) {
    let entry = &directory.entry;
    let ring = RingGeometry::of(superblock, entry);
    let mut judge = Verifier { source, space, placed: HashMap::new() };
    let found = match scan(source, &ring, entry, &mut judge) {
        Ok(found) => found,
        Err(error) => {
            report.add(findings::LOG_CORRUPT, "log", error);
            return;
        }
    };
    if let Some(corrupt) = &found.corrupt {
        report.add(findings::LOG_CORRUPT, "log", corrupt);
    }
    if let Some(adopted) = &found.adopted {
        report.add(findings::LOG_UNPUBLISHED, "log", format_args!("checkpoint {}", adopted.body.number));
    }
    let records = found.records.iter().filter(|record| record.kind >= kind::CLIENT_FIRST).count();
    if records > 0 {
        let bytes = found.cut.lsn.0.saturating_sub(entry.checkpoint.freeze.0);
        report.add(findings::LOG_DIRTY, "log", format_args!("{records} records, {bytes} bytes"));
    }
}
