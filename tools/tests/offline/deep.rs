//! Directories in each other, deeper than any stack would let a recursion go: they are checked and repaired like others. (Any user of a mount can make them.)
use crate::common::CX;
use crate::fsck_bench::*;
use envoyfs_engine::device::SimulatedDevice;
use envoyfs_layout::key::DirectoryKey;
use envoyfs_layout::node::TreeKind;
use envoyfs_layout::{Entry, Reference};
use envoyfs_namespace::api::*;
use envoyfs_tools::fsck::findings;

/// Several stacks of the repair's, and 6 bytes a level of [`STACK_BYTES`].
const DEPTH: usize = 20_000;
/// Of a thread that checks and repairs: far less than a program has.
const STACK_BYTES: usize = 128 << 10;

fn on_a_small_stack<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, run);
        thread.unwrap().join().unwrap()
    })
}

/// So many directories in each other, with a file beside the last. Made from the last one up: an operation on a name is charged for the directories above it.
fn chain() -> SimulatedDevice {
    let device = empty(256, 16 << 10);
    let mounted = mount(&device);
    let last = mounted.directory(InodeId::ROOT, "d");
    mounted.ns.forget(last, 1);
    for level in 1..DEPTH {
        let above = mounted.directory(InodeId::ROOT, "x");
        if level == 1 {
            let file = mounted.file(above, "file", &[7; 9000]);
            mounted.ns.forget(file, 1);
        }
        mounted.act(|| mounted.ns.rename(&CX, InodeId::ROOT, b"d", above, b"d", RenameMode::Replace));
        mounted.act(|| mounted.ns.rename(&CX, InodeId::ROOT, b"x", InodeId::ROOT, b"d", RenameMode::Replace));
        mounted.ns.forget(above, 1);
    }
    mounted.close();
    device
}

fn depth(mounted: &Mounted) -> usize {
    let (mut at, mut depth) = (InodeId::ROOT, 0);
    while let Ok(found) = mounted.ns.lookup(&CX, at, b"d") {
        (at, depth) = (found.id, depth + 1);
    }
    depth
}

#[test]
fn directories_are_checked_and_repaired_however_deep_they_lie() {
    let device = chain();
    let report = on_a_small_stack(|| check(&device));
    assert!(report.is_clean() && report.statistics.names as usize > DEPTH, "{report}");
    let mut surgeon = Surgeon::new(&device);
    // The root of the last directory: nobody else has a file beside a directory.
    let mut deepest: Option<Reference> = None;
    surgeon.every_node(&mut |header, items| {
        let names = |item: &Item| DirectoryKey::decode(&item.key).map(|key| key.name).unwrap_or_default();
        if header.tree == TreeKind::Directory && items.len() == 2 && items.iter().any(|item| names(item) == b"file") {
            let entries = items.iter().map(|item| Entry::decode(&item.value, &item.references).unwrap());
            deepest =
                entries.filter_map(|entry| if let Entry::Directory(d) = entry { Some(d.root) } else { None }).next();
        }
    });
    let at = surgeon.position(deepest.unwrap().oid);
    surgeon.flip(at + 100);
    let device = surgeon.device();
    on_a_small_stack(|| is_found(&device, findings::NODE_CHECKSUM));
    let report = on_a_small_stack(|| repair(&device, true));
    assert_eq!(report.exit_code(), 1, "{report}");
    assert!(check(&device).is_clean());
    let mounted = mount(&device);
    assert_eq!(depth(&mounted), DEPTH, "all of them are there, the last one empty");
    mounted.close();
}
