//! Ending what was being filled when the last mount ended: a table and a footer of what is named there, or nothing at all.

use super::Start;
use super::adopt::MovedObject;
use crate::engine::Engine;
use crate::sabotage::{self, Rule};
use crate::space::{Container, HEADER_UNITS, Open, Space, StreamKind, seal, write_header};
use crate::store::Result;
use crate::wal::recovery::Found;
use envoyfs_layout::checksum::{self, crc32c};
use envoyfs_layout::directory_page::ContainerState;
use envoyfs_layout::segment::{SegmentHeader, TableRow};
use envoyfs_layout::{Hlc, Oid, ReferenceKind, UNIT};
use std::collections::{BTreeMap, BTreeSet};

/// What is named in each segment.
fn by_segment<T>(named: impl IntoIterator<Item = T>, oid: impl Fn(&T) -> Oid) -> BTreeMap<u32, Vec<T>> {
    let mut segments: BTreeMap<u32, Vec<T>> = BTreeMap::new();
    for object in named {
        segments.entry(oid(&object).segment()).or_default().push(object);
    }
    segments
}

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
        relocated: &[MovedObject],
        keeps_all: bool,
    ) -> Result<()> {
        let placed_elsewhere: BTreeSet<u32> = found.relocated.iter().map(|moved| moved.container).collect();
        let objects =
            found.records.iter().flat_map(|record| record.data.iter().map(move |object| (record.hlc, object)));
        let data = by_segment(objects, |(_, object)| object.oid);
        let parts = by_segment(start.adopted.iter().flat_map(|adopted| &adopted.body.batch), |part| part.oid);
        let nodes = by_segment(&start.batch.new, |object| object.oid);
        // A mount that passed over the checkpoint that this one adopts did not know what it ended.
        let is_behind = |oid: Oid, row: &Container| u32::from(oid.slot()) >= row.used_units;
        let was_passed_over = |row: &Container| {
            let nodes = nodes.get(&row.segment).is_some_and(|nodes| nodes.iter().any(|node| is_behind(node.oid, row)));
            nodes || parts.get(&row.segment).is_some_and(|parts| parts.iter().any(|part| is_behind(part.oid, row)))
        };
        let open: Vec<(u32, Container)> = space.with_containers(|containers| {
            let ends = |row: &Container| match row.state {
                ContainerState::Open => true,
                ContainerState::Sealed => was_passed_over(row),
                _ => false,
            };
            containers.used().filter(|(_, row)| ends(row)).map(|(number, row)| (number, *row)).collect()
        });
        for (container, row) in open {
            let data = data.get(&row.segment).map_or(&[][..], Vec::as_slice);
            let parts = parts.get(&row.segment).map_or(&[][..], Vec::as_slice);
            let nodes = nodes.get(&row.segment).map_or(&[][..], Vec::as_slice);
            let said = published.get(&container).is_some_and(|units| *units > HEADER_UNITS);
            let used = said || !data.is_empty() || !parts.is_empty() || !nodes.is_empty();
            if !used && !keeps_all && !placed_elsewhere.contains(&container) {
                self.reader.forget(row.segment);
                space.release(container);
                continue;
            }
            let covered = published.get(&container).copied().unwrap_or(row.used_units).max(HEADER_UNITS);
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
            let is_new = |oid: Oid| u32::from(oid.slot()) >= covered;
            for (hlc, object) in data.iter().filter(|(_, object)| is_new(object.oid)) {
                let crc = checksum::join(&object.crcs, object.stored_bytes as usize);
                add(object.oid, hlc.birth(), object.stored_bytes, crc, ReferenceKind::Extent);
            }
            for part in parts.iter().filter(|part| is_new(part.oid)) {
                add(part.oid, part.birth, part.stored_bytes, part.crc, ReferenceKind::Batch);
            }
            let new_nodes = || nodes.iter().filter(|it| is_new(it.oid) && fits(it.oid, it.stored_bytes));
            for object in new_nodes() {
                let mut bytes = vec![0; object.stored_bytes as usize];
                // What cannot be read now is left out of the table, which is not written over it: its readers will say what is wrong with it, or find it.
                if self.reader.read_device(container, object.oid.slot().into(), &mut bytes).is_ok() {
                    add(object.oid, Hlc::ZERO, object.stored_bytes, crc32c(&bytes), object.kind);
                }
            }
            // What other segments' failed writes put here must not be overwritten by the table.
            let moved_here = relocated
                .iter()
                .filter(|moved| moved.relocation.to.container == container && !sabotage::on(Rule::SealOverMoved));
            for moved in moved_here.filter(|moved| moved.relocation.to.offset_units >= covered) {
                rows.insert(moved.row.offset_units, moved.row);
            }
            let ends_of_rows = rows.values().map(|row| row.offset_units + row.units());
            let ends_of_nodes = new_nodes().map(|it| u32::from(it.oid.slot()) + it.stored_bytes.div_ceil(UNIT));
            let used = ends_of_rows.chain(ends_of_nodes).fold(covered, u32::max);
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
