//! Ending what was being filled when the last mount ended: a table and a footer of what is named there, or nothing at all.

use super::Start;
use crate::engine::Engine;
use crate::sabotage::{self, Rule};
use crate::space::{Container, HEADER_UNITS, Open, Relocation, Space, StreamKind, seal, write_header};
use crate::store::Result;
use crate::wal::recovery::Found;
use envoyfs_layout::checksum::{self, crc32c};
use envoyfs_layout::directory_page::ContainerState;
use envoyfs_layout::segment::{SegmentHeader, TableRow};
use envoyfs_layout::{Hlc, Oid, ReferenceKind, UNIT};
use std::collections::{BTreeMap, BTreeSet};

impl Engine {
    /// Ends the segments that were being filled: new appends go to new ones. Without a record of its own (a mount appends none). A container in which nothing lies that anybody could
    /// name is free again: that of nodes whose checkpoint has no record, say. Only publications release closed ones, and each of these writes its nodes anew: what died in several
    /// of them would leave the next one none.
    pub(super) fn seal_open(
        &self,
        space: &Space,
        published: &BTreeMap<u32, u32>,
        found: &Found,
        start: &Start,
        relocated: &[(Relocation, TableRow)],
        keeps_all: bool,
    ) -> Result<()> {
        let open: Vec<(u32, Container)> = space.with_containers(|containers| {
            containers
                .used()
                .filter(|(_, row)| row.state == ContainerState::Open)
                .map(|(number, row)| (number, *row))
                .collect()
        });
        let placed_elsewhere: BTreeSet<u32> = found.relocated.iter().map(|moved| moved.container).collect();
        for (container, row) in open {
            let is_named = |oid: Oid| oid.segment() == row.segment;
            let records = found.records.iter().flat_map(|record| &record.data).any(|object| is_named(object.oid));
            let parts = start.adopted.iter().flat_map(|adopted| &adopted.body.batch).any(|part| is_named(part.oid));
            let said = published.get(&container).is_some_and(|units| *units > HEADER_UNITS);
            let used = said || records || parts || start.batch.new.iter().any(|object| is_named(object.oid));
            if !used && !keeps_all && !placed_elsewhere.contains(&container) {
                self.reader.forget(row.segment);
                space.release(container);
                continue;
            }
            let covered = published.get(&container).copied().unwrap_or(0).max(HEADER_UNITS);
            let mut rows: BTreeMap<u32, TableRow> = BTreeMap::new();
            let units = self.shape.units();
            let fits = |oid: Oid, stored_bytes: u32| u32::from(oid.slot()) + stored_bytes.div_ceil(UNIT) <= units;
            let mut add = |oid: Oid, birth: Hlc, stored_bytes: u32, crc: u32, kind: ReferenceKind| {
                let offset_units = u32::from(oid.slot());
                if !fits(oid, stored_bytes) {
                    return;
                }
                rows.entry(offset_units).or_insert(TableRow {
                    oid,
                    birth,
                    stored_bytes,
                    crc,
                    offset_units,
                    kind,
                    owner: 0,
                });
            };
            let here = |oid: Oid| oid.segment() == row.segment && u32::from(oid.slot()) >= covered;
            for record in &found.records {
                for object in record.data.iter().filter(|object| here(object.oid)) {
                    let crc = checksum::join(&object.crcs, object.stored_bytes as usize);
                    add(object.oid, record.hlc.birth(), object.stored_bytes, crc, ReferenceKind::Extent);
                }
            }
            if let Some(adopted) = &start.adopted {
                for part in adopted.body.batch.iter().filter(|part| here(part.oid)) {
                    add(part.oid, part.birth, part.stored_bytes, part.crc, ReferenceKind::Batch);
                }
            }
            for object in start.batch.new.iter().filter(|it| here(it.oid) && fits(it.oid, it.stored_bytes)) {
                let mut bytes = vec![0; object.stored_bytes as usize];
                // What cannot be read now is left out of the table; its readers will say what is wrong with it.
                if self.reader.read_device(container, object.oid.slot().into(), &mut bytes).is_ok() {
                    add(object.oid, Hlc::ZERO, object.stored_bytes, crc32c(&bytes), object.kind);
                }
            }
            // What other segments' failed writes put here must not be overwritten by the table.
            let moved_here = relocated
                .iter()
                .filter(|(moved, _)| moved.to.container == container && !sabotage::on(Rule::SealOverMoved));
            for (_, row) in moved_here.filter(|(moved, _)| moved.to.offset_units >= covered) {
                rows.insert(row.offset_units, *row);
            }
            let used = rows.values().map(|row| row.offset_units + row.units()).max().unwrap_or(0).max(covered);
            let kind = StreamKind::of_code(row.stream);
            // The data of a synced record is durable by itself; the header, which was written before it, need not be.
            let opening = self.opening_of(container, row.segment).unwrap_or_else(|| {
                let part = self.table_part(container, row.last_part).filter(|_| row.last_part != 0);
                let opening = part.map_or_else(|| space.next_opening(), |part| part.opening);
                write_header(space, kind, row.segment, container, opening);
                opening
            });
            // The footer tells of all parts, also of those that were written before.
            let mut written = Vec::new();
            let mut unit = row.last_part;
            while let Some(part) = self.table_part(container, unit).filter(|_| unit != 0) {
                unit = if part.previous < unit { part.previous } else { 0 };
                written.extend(part.rows);
            }
            let rows = rows.into_values().collect();
            let open = Open::recovered(row.segment, container, opening, used, row.last_part, &written, rows);
            seal(space, kind, open)?;
        }
        Ok(())
    }

    /// What the header says, if it is of this life of the container.
    fn opening_of(&self, container: u32, segment: u32) -> Option<u64> {
        let mut unit = vec![0; UNIT as usize];
        self.reader.read_device(container, 0, &mut unit).ok()?;
        let offset = self.shape.offset(container, 0);
        let header = SegmentHeader::decode(&unit, &self.shape.seed, offset).ok()?;
        (header.segment == segment).then_some(header.opening)
    }
}
