//! The memory of fsck stays within what its manual page states, whatever the store holds: measured by an allocator that counts, on a store of which everything that grows with
//! nodes, objects or blocks would take several times the bound.
//!
//! One test, since memory is measured for the whole process.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may panic"
)]

#[path = "../../namespace/tests/common/mod.rs"]
mod common;
mod fsck_bench;

use common::{CX, Random};
use envoyfs_engine::device::{Fault, SimulatedDevice};
use envoyfs_layout::system_page::SegmentPage;
use envoyfs_namespace::api::*;
use envoyfs_tools::fsck::disk::Disk;
use envoyfs_tools::fsck::report::Report;
use envoyfs_tools::fsck::source::Source;
use envoyfs_tools::fsck::{Options, check_disk, repair::repair_disk};
use fsck_bench::*;
use peak_alloc::PeakAlloc;
use std::path::Path;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Besides `--memory`: what does not depend on the store.
const FIXED: usize = 128 << 10;
/// What the log is read in, before anything is marked.
const LOG: usize = 1 << 20;
const DIRECTORIES: usize = 110;

/// Many small files in many directories, a fork of which everything is written to once more, so that most nodes are not shared and most extents are.
fn crowded() -> SimulatedDevice {
    let device = empty(192, 4096);
    let mounted = mount(&device);
    let top = mounted.directory(InodeId::ROOT, "top");
    let mut random = Random(11);
    for directory in 0..DIRECTORIES {
        let directory = mounted.directory(top, &format!("{directory}"));
        for number in 0..700 {
            mounted.file(directory, &format!("{number}"), &random.bytes(400));
        }
        mounted.ns.checkpoint().unwrap();
    }
    mounted.act(|| mounted.ns.fork(&CX, top, InodeId::ROOT, b"fork"));
    mounted.ns.checkpoint().unwrap();
    let fork = mounted.ns.lookup(&CX, InodeId::ROOT, b"fork").unwrap().id;
    for directory in 0..DIRECTORIES {
        let directory = mounted.ns.lookup(&CX, fork, format!("{directory}").as_bytes()).unwrap().id;
        for number in (0..700).step_by(20) {
            let id = mounted.ns.lookup(&CX, directory, format!("{number}").as_bytes()).unwrap().id;
            mounted.write(id, 0, b"changed");
            mounted.ns.forget(id, 1);
        }
        mounted.ns.checkpoint().unwrap();
    }
    mounted.close();
    device
}

/// Most bytes that were allocated at once while this ran, beyond those before.
fn peak<T>(act: impl FnOnce() -> T) -> (usize, T) {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    let out = act();
    (ALLOCATOR.peak_usage().saturating_sub(before), out)
}

/// The pages of segments as they are held, and a bit a unit of the segments of nodes: they are not part of `--memory`.
fn pages(device: &SimulatedDevice) -> usize {
    let surgeon = Surgeon::new(device);
    let mut bytes = 0;
    for row in surgeon.directory.table.iter().filter(|row| row.segment != 0) {
        bytes += 512 + surgeon.superblock.segment_bytes as usize / 512 / 8;
        if !row.metadata.is_none() {
            let mut page = vec![0; row.metadata.stored_bytes as usize];
            surgeon.image.read(surgeon.offset(row.metadata.container, row.metadata.units), &mut page);
            let page = SegmentPage::decode(&page).unwrap();
            bytes += 4 * page.live.capacity() + 8 * page.extra.capacity() + 16 * page.moved.capacity();
        }
    }
    // Encoded and decoded at once; the table of containers.
    bytes + surgeon.directory.table.len() * 160
}

fn checked(path: &Path, memory_bytes: u64) -> (usize, Report) {
    let options = Options { memory_bytes, ..Options::default() };
    peak(|| check_disk(&Disk::of(Source::open(path, false).unwrap()), options).unwrap())
}

#[test]
fn a_check_and_a_repair_take_no_more_than_is_stated() {
    let device = crowded();
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("image");
    device.image().to_file(&path).unwrap();
    let (all, report) = checked(&path, 1 << 30);
    assert!(report.is_clean(), "{report}");
    // What nodes amount to is remembered of 65536 of them. Windows lie in a mapping, of which the allocator knows nothing: none may come from the heap.
    let fixed = FIXED + pages(&device) + report.statistics.nodes as usize * 200;
    let memory = 256 << 10;
    let (some, bounded) = checked(&path, memory as u64);
    println!("check: {all} bytes without a bound, {some} with {memory}, fixed {fixed}; {report}");
    assert_eq!((report.statistics, true), (bounded.statistics, bounded.is_clean()), "passes change what is found");
    let stated = memory.max(LOG) + fixed;
    assert!(some <= stated, "{some} bytes, stated {stated}");
    // The store is one that would break the bound.
    assert!(all > stated, "{all} bytes would fit: {stated}");
    drop((report, bounded));

    // A repair of one file: of the nodes that stay it remembers a bit.
    let surgeon = Surgeon::new(&device);
    let damaged = surgeon.device();
    damaged.inject(Fault::FlipBits { offset: surgeon.position(first_extent(&device)) + 9, mask: 1 });
    let mut settings = settings(true);
    settings.options.memory_bytes = memory as u64;
    damaged.image().to_file(&path).unwrap();
    drop((surgeon, damaged));
    let (taken, report) = peak(|| repair_disk(&Disk::of(Source::open(&path, true).unwrap()), &settings).unwrap());
    println!("repair: {taken} bytes; {report}");
    assert!(report.is_clean() && report.exit_code() == 1, "{report}");
    // Besides, a container's worth of what is written, and the bits once more.
    let stated = stated + (1 << 20) + pages(&device);
    assert!(taken <= stated, "{taken} bytes, stated {stated}");
}

/// Some file's data.
fn first_extent(device: &SimulatedDevice) -> envoyfs_layout::Oid {
    let mut found = None;
    Surgeon::new(device).nodes(&mut |header, items| {
        if header.tree == envoyfs_layout::node::TreeKind::Directory && header.level == 0 {
            let extents = items.iter().flat_map(|item| &item.references);
            let first = extents.into_iter().find(|one| one.kind == envoyfs_layout::ReferenceKind::Extent);
            found = found.or(first.map(|one| one.oid));
        }
    });
    found.unwrap()
}
