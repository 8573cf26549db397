//! `inspect segment` and `inspect container`: headers, tables, what is live.

use super::describe::{kind_name, stream_name};
use super::store::Store;
use super::tree::{Fields, Tree, error};
use anyhow::{Context as _, Result};
use envoyfs_layout::directory_page::ContainerState;
use envoyfs_layout::segment::{SegmentFooter, SegmentHeader, TablePart, TableRow};
use envoyfs_layout::system_page::SegmentPage;
use envoyfs_layout::{Oid, UNIT};

/// Units of a table part that is read at once, before its length is known.
const PART_UNITS_MAX: u64 = 1 << 16;
/// Characters of the liveness map in one line.
const MAP_COLUMNS: u32 = 64;

/// A logical segment, wherever its objects lie.
///
/// # Errors
/// There is no such segment, or nothing to look it up in.
pub fn segment(store: &Store, number: u32) -> Result<Tree> {
    store.directory()?;
    let segment = store.segments().get(&number).with_context(|| {
        format!("segment {number} is not in the segment table (segments that the log opened later: inspect IMAGE log)")
    })?;
    let mut fields =
        vec![("segment", Tree::Id(number.into())), ("home_container", segment.home.map_or(Tree::None, Into::into))];
    if let Some(page) = &segment.page {
        fields.extend(page_fields(store, number, page));
    }
    if let Some(container) = segment.home {
        fields.push(("container", self::container(store, container)?));
    }
    Ok(Tree::Map(fields))
}

fn page_fields(store: &Store, number: u32, page: &SegmentPage) -> Fields {
    let volume = store.directory().map_or(0, |directory| directory.entry.volume);
    let live: u32 = page.live.iter().map(|(_, units)| u32::from(*units)).sum();
    let counts = page.extra.iter().map(|(slot, extra)| {
        Tree::Map(vec![("oid", Oid::new(volume, number, *slot).into()), ("count", (1 + i64::from(*extra)).into())])
    });
    let moved = page.moved.iter().map(|moved| {
        Tree::Map(vec![
            ("unit", u64::from(moved.slot).into()),
            ("units", u64::from(moved.units).into()),
            ("container", moved.container.into()),
            ("container_unit", moved.offset_units.into()),
        ])
    });
    let runs =
        page.live.iter().map(|(slot, units)| Tree::List(vec![u64::from(*slot).into(), u64::from(*units).into()]));
    let units = store.superblock.as_ref().map_or(0, |superblock| superblock.segment_bytes / UNIT);
    vec![
        ("live_bytes", Tree::Bytes(u64::from(live) * u64::from(UNIT))),
        ("live_units", live.into()),
        ("units", units.into()),
        ("live_runs", Tree::Number(page.live.len() as u64)),
        ("liveness", Tree::Lines(map(page, units))),
        ("live", Tree::Lines(runs.map(|run| run.line().replace(", ", "+")).collect::<Vec<_>>().join(" "))),
        ("counts", Tree::List(counts.collect())),
        ("moved", Tree::List(moved.collect())),
    ]
}

/// One character for some units: all live, some, none. A scale on the left says which unit a line starts at.
fn map(page: &SegmentPage, units: u32) -> String {
    let mut live = vec![false; usize::try_from(units.max(1)).unwrap_or(1)];
    for (slot, count) in &page.live {
        for unit in live.iter_mut().skip(usize::from(*slot)).take(usize::from(*count)) {
            *unit = true;
        }
    }
    let step = usize::try_from((units / (MAP_COLUMNS * 16)).max(1)).unwrap_or(1);
    let cells: Vec<char> = live
        .chunks(step)
        .map(|chunk| match chunk.iter().filter(|unit| **unit).count() {
            0 => '.',
            all if all == chunk.len() => '#',
            _ => '+',
        })
        .collect();
    let columns = usize::try_from(MAP_COLUMNS).unwrap_or(64);
    let lines = cells.chunks(columns).enumerate();
    let lines = lines.map(|(line, cells)| format!("{:>6} {}", line * columns * step, cells.iter().collect::<String>()));
    let head = format!("one character for {step} unit{}: # live, + partly, . dead", if step == 1 { "" } else { "s" });
    std::iter::once(head).chain(lines).collect::<Vec<_>>().join("\n")
}

const fn state_name(state: ContainerState) -> &'static str {
    match state {
        ContainerState::Free => "free",
        ContainerState::Open => "open",
        ContainerState::Sealed => "sealed",
        ContainerState::System => "system pages",
        ContainerState::Survivors => "survivors",
    }
}

/// A container: the place, whatever lies in it.
///
/// # Errors
/// There is no such container, or nothing to look it up in.
pub fn container(store: &Store, number: u32) -> Result<Tree> {
    let superblock = store.superblock()?;
    let count = superblock.containers;
    let position =
        store.position(number, 0).with_context(|| format!("there is no container {number}: the store has {count}"))?;
    let mut fields = vec![("container", Tree::from(number)), ("device_offset", position.into())];
    let row = store.row(number).copied();
    if let Some(row) = &row {
        let guests = store.guests(number);
        let mut guests: Vec<u32> = guests.into_iter().collect();
        guests.sort_unstable();
        fields.extend([
            ("state", state_name(row.state).into()),
            ("stream", stream_name(row.stream).into()),
            ("segment", if row.segment == 0 { Tree::None } else { Tree::Id(row.segment.into()) }),
            ("used_bytes", Tree::Bytes(u64::from(row.used_units) * u64::from(UNIT))),
            ("live_bytes", Tree::Bytes(u64::from(row.live_units) * u64::from(UNIT))),
            ("birth_low", row.birth_low.into()),
            ("birth_high", row.birth_high.into()),
            ("last_part_unit", row.last_part.into()),
            ("units_of_segments", Tree::List(guests.into_iter().map(Into::into).collect())),
        ]);
    }
    let unit = u64::from(UNIT);
    let header = store
        .source
        .read(position, unit)
        .and_then(|bytes| SegmentHeader::decode(&bytes, &superblock.seed, position).map_err(|error| error.to_string()));
    let footer_at = position + u64::from(superblock.segment_bytes) - unit;
    let footer = store.source.read(footer_at, unit).and_then(|bytes| {
        SegmentFooter::decode(&bytes, &superblock.seed, footer_at).map_err(|error| error.to_string())
    });
    let in_use = row.is_some_and(|row| row.state != ContainerState::Free);
    let sealed = row.is_some_and(|row| matches!(row.state, ContainerState::Sealed | ContainerState::Survivors));
    for (what, at, needed, found) in
        [("header", position, in_use, header.as_ref().err()), ("footer", footer_at, sealed, footer.as_ref().err())]
    {
        if let Some(why) = found.filter(|_| needed) {
            store.problem(format!("{what} of container {number} at {at}: {why}"));
        }
    }
    let opening = header.as_ref().ok().map(|header| header.opening);
    // Where none is due, what is there is no damage.
    let absent = |needed: bool, why: &String| if needed { error(why) } else { Tree::None };
    let shown = header.as_ref().map_or_else(|why| absent(in_use, why), |header| Tree::Map(header_fields(header)));
    fields.push(("header", shown));
    let shown = footer.as_ref().map_or_else(|why| absent(sealed, why), |footer| Tree::Map(footer_fields(footer)));
    fields.push(("footer", shown));
    // A footer of an earlier life of the container does not count.
    let footer_part = footer.ok().filter(|footer| Some(footer.opening) == opening).map(|footer| footer.last_part);
    let last = row.map(|row| row.last_part).filter(|part| *part != 0).or(footer_part).unwrap_or(0);
    let rows = parts(store, number, last, opening);
    fields.push(("objects", Tree::List(rows.iter().map(|row| row_fields(store, row)).collect())));
    Ok(Tree::Map(fields))
}

fn header_fields(header: &SegmentHeader) -> Fields {
    vec![
        ("volume", Tree::Id(header.volume.into())),
        ("segment", Tree::Id(header.segment.into())),
        ("container", header.container.into()),
        ("stream", stream_name(header.stream).into()),
        ("flags", u64::from(header.flags).into()),
        ("birth_low", header.birth_low.into()),
        ("opening", header.opening.into()),
    ]
}

fn footer_fields(footer: &SegmentFooter) -> Fields {
    vec![
        ("segment", Tree::Id(footer.segment.into())),
        ("objects", footer.objects.into()),
        ("used_bytes", Tree::Bytes(u64::from(footer.used_units) * u64::from(UNIT))),
        ("last_part_unit", footer.last_part.into()),
        ("digest", Tree::Hex(footer.digest)),
        ("birth_low", footer.birth_low.into()),
        ("birth_high", footer.birth_high.into()),
        ("opening", footer.opening.into()),
    ]
}

fn row_fields(store: &Store, row: &TableRow) -> Tree {
    Tree::Map(vec![
        ("oid", row.oid.into()),
        ("kind", kind_name(row.kind).into()),
        ("unit", row.offset_units.into()),
        ("stored_bytes", Tree::Bytes(row.stored_bytes.into())),
        ("birth", row.birth.into()),
        ("crc", Tree::Hex(row.crc.into())),
        ("owner", row.owner.into()),
        ("count", store.count(row.oid).map_or(Tree::None, Into::into)),
    ])
}

/// Rows of a container's chain of table parts, in order of their offset.
pub fn parts(store: &Store, container: u32, last: u32, opening: Option<u64>) -> Vec<TableRow> {
    let mut rows = Vec::new();
    let mut next = last;
    while next != 0 {
        let read = || {
            let position = store.position(container, next).ok_or("outside the container")?;
            let unit = u64::from(UNIT);
            let first = store.source.read(position, unit)?;
            let units = TablePart::units_of(&first).map_err(|error| error.to_string())? as u64;
            let bytes = store.source.read(position, units.min(PART_UNITS_MAX) * unit)?;
            TablePart::decode(&bytes).map_err(|error| error.to_string())
        };
        match read() {
            Ok(part) if opening.is_some_and(|opening| opening != part.opening) => {
                store
                    .problem(format!("table part at unit {next} of container {container} is of an earlier life of it"));
                break;
            }
            Ok(part) => {
                rows.extend(part.rows);
                // Parts chain backwards: anything else would be a circle.
                if part.previous >= next {
                    store.problem(format!(
                        "table part at unit {next} of container {container} names {} as the one before",
                        part.previous
                    ));
                    break;
                }
                next = part.previous;
            }
            Err(why) => {
                store.problem(format!("table part at unit {next} of container {container}: {why}"));
                break;
            }
        }
    }
    rows.sort_by_key(|row| row.offset_units);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_shows_live_partly_live_and_dead_units() {
        let page = SegmentPage { segment: 1, live: vec![(0, 16), (24, 4)], ..SegmentPage::default() };
        let text = map(&page, 8192);
        let line = text.lines().nth(1).unwrap();
        assert!(line.starts_with("     0 ##.+...."), "{line}");
        assert_eq!(text.lines().count(), 1 + 16);
        // What a damaged page says beyond the segment is not drawn.
        let beyond = SegmentPage { segment: 1, live: vec![(60_000, 5000)], ..SegmentPage::default() };
        assert!(!map(&beyond, 512).lines().skip(1).any(|line| line.contains('#')));
    }
}
