//! A file whose bytes look like what a store says of itself: a rebuild, which has nothing else, does not believe it.
use crate::common::Random;
use crate::fsck_bench::*;
use crate::rebuild::wiped;
use envoyfs_engine::device::SimulatedDevice;
use envoyfs_layout::roots::RootsObject;
use envoyfs_layout::segment::{PartRows, SegmentHeader, TableRow};
use envoyfs_layout::{Hlc, Lsn, Oid, ReferenceKind, checksum};
use envoyfs_namespace::api::*;

/// The container that file data is written to: number and header.
fn container_of_data(device: &SimulatedDevice) -> (u32, SegmentHeader) {
    let surgeon = Surgeon::new(device);
    let mut headers = (0..surgeon.superblock.containers).filter_map(|number| {
        let at = surgeon.offset(number, 0);
        let mut unit = [0; 512];
        surgeon.image.read(at, &mut unit);
        let header = SegmentHeader::decode(&unit, &surgeon.superblock.seed, at).ok()?;
        (header.stream == 1).then_some((number, header))
    });
    headers.next_back().unwrap()
}

#[test]
fn what_a_file_holds_is_not_taken_for_the_table_of_its_container() {
    let device = empty(16, 512);
    let mounted = mount(&device);
    mounted.file(InodeId::ROOT, "first", &Random(1).bytes(20_000));
    mounted.ns.checkpoint().unwrap();
    let (number, header) = container_of_data(&device);
    let surgeon = Surgeon::new(&device);
    // Roots that would be the newest, and behind which no log could be.
    let mut roots = RootsObject::decode(&surgeon.read(&surgeon.directory.entry.roots.unwrap())).unwrap();
    (roots.checkpoint, roots.freeze) = (roots.checkpoint + 1000, Lsn(1 << 40));
    let roots = roots.encode();
    mounted.file(InodeId::ROOT, "roots", &[roots.as_slice(), &[0; 8192]].concat());
    mounted.ns.sync().unwrap();
    let at = Surgeon::new(&device).find(&roots);
    assert_eq!(at.len(), 1);
    let unit = u32::try_from((at[0] - surgeon.offset(number, 0)) / 512).unwrap();
    let mut rows = PartRows::new(header.segment);
    rows.push(&TableRow {
        oid: Oid::new(header.volume, header.segment, u16::try_from(unit).unwrap()),
        birth: Hlc(1),
        stored_bytes: u32::try_from(roots.len()).unwrap(),
        crc: checksum::crc32c(&roots),
        offset_units: unit,
        kind: ReferenceKind::Roots,
        owner: 0,
    });
    let part = rows.finish(0, header.opening);
    mounted.file(InodeId::ROOT, "part", &[part.as_slice(), &[0; 8192]].concat());
    mounted.file(InodeId::ROOT, "last", &Random(2).bytes(20_000));
    mounted.ns.checkpoint().unwrap();
    assert_eq!(Surgeon::new(&device).find(&part).len(), 1);
    let expected = mounted.tree();
    // Nobody ends the container.
    drop(mounted);
    let device = wiped(&device, false);
    let report = rebuild(&device);
    assert!(report.statistics.checkpoint < 1000, "{report}");
    let mounted = mount(&device);
    assert_eq!(mounted.tree().keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    assert_eq!(mounted.tree(), expected);
    mounted.close();
}
